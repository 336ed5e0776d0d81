"Batch transforms drawn for each image: geometry, statistics, targets, types, errors"
import subprocess, sys

import pytest, torch.nn.functional as F
from fastai.vision.all import *
from fastai_ext.augment import *
from fastai_ext.erase import *

geometric = [RandCopy(), RandCopy((.1,1.), aspect=(.3,3.)), RandPadCrop(2), RandPadCrop((1,3), PadMode.Zeros),
    RandPadCrop(3, PadMode.Border), RandFlip(), RandFlip(vertical=True), RandFlip(horizontal=False, vertical=True)]
erasing = [RandErase(), RandErase((.1,1.), aspect=(.3,3.)), RandErase(p=.5), RandErase(fill=2., batch=True),
    *[RandErase(fill=o) for o in ('mean', 'pixel', 3.)], *[RandErase(fill=o, stats='image') for o in ('noise', 'mean')]]
every = geometric + erasing

def plain(x): return x.as_subclass(Tensor)

def named(f):
    "A test's name that is the same in every process"
    return f'{f.func.__name__}, {f.keywords}' if isinstance(f, partial) else f.__name__

def coords(bs, h, w): return torch.arange(h*w).view(1,1,h,w).expand(bs,1,h,w).float()

def chi2_ok(counts, tail=6):
    "Are `counts` those of equally likely cases? (chi-square within `tail` standard deviations of its mean)"
    c = torch.as_tensor(counts).double()
    stat,df = ((c-c.mean())**2/c.mean()).sum(), len(c)-1
    return stat < df + tail*(2*df)**.5

# Draws

def test_number_of_patches_is_uniform():
    "Patches of one pixel, so few that they hardly meet: 0 to 4 of them, equally often"
    set_seed(1)
    n = rand_erase(torch.zeros(20_000,1,64,64), pct=1/64, fill=1.).sum((1,2,3)).long()
    counts = torch.bincount(n, minlength=5)
    assert len(counts)==5 and ((counts/20_000-.2).abs() < .015).all()

def test_fraction_erased():
    "That of up to 4 patches of 4 by 4 in 20 by 20, each at any of 17 by 17 places, whichever the others have"
    set_seed(2)
    one,got = (rand_erase(torch.zeros(20_000,1,20,20), max_num=n, fill=1.) for n in (1,4))
    assert abs(one.mean()-.5*.04) < 5e-4
    assert set(one.sum((1,2,3)).tolist()) == {0.,16.}
    i = torch.arange(20)
    over = torch.stack([i+1, 20-i]).amin(0).clamp(max=4)/17 # how likely a patch lies over a row or a column
    want = 1-torch.stack([(1-over[:,None]*over)**n for n in range(5)]).mean(0)
    assert abs(got.mean()-want.mean()) < 1.5e-3 and torch.allclose(got.mean((0,1)), want, atol=.01)

@pytest.mark.parametrize('f', [rand_erase, rand_copy])
def test_p(f):
    "With `p`=.3 and one patch at most, .15 of the images are touched"
    set_seed(3)
    x = torch.rand(20_000,1,8,8)
    y = f(x, pct=1., max_num=1, p=.3, fill=7.) if f is rand_erase else f(x, pct=.5, max_num=1, p=.3)
    touched = (y!=x).flatten(1).any(1).float().mean()
    assert abs(touched - (.15 if f is rand_erase else .15*24/25)) < .012

def test_places_are_uniform():
    "3 by 3 patches have 6 by 6 places in an 8 by 8 image"
    set_seed(4)
    y = rand_erase(torch.zeros(80_000,1,8,8), pct=.4, max_num=1, fill=1.)
    first_px = y.flatten(1).argmax(1)[y.flatten(1).any(1)]
    counts = torch.bincount(first_px, minlength=64).view(8,8)
    assert counts[6:].sum()==0 and counts[:,6:].sum()==0
    assert chi2_ok(counts[:6,:6].flatten())

def test_copy_sources_are_uniform():
    "The source of a copied pixel patch is any place of the image, also its own"
    set_seed(5)
    x = coords(60_000, 4, 4)
    y = rand_copy(x, pct=.25, max_num=1)
    assert chi2_ok(torch.bincount(y[y!=x].long(), minlength=16))

def test_sizes_and_aspects():
    "Sizes are uniform over the range; aspects are log-uniform, heights and widths equally likely the greater"
    set_seed(6)
    y = rand_erase(torch.zeros(20_000,1,32,32), pct=(.25,.75), max_num=1, fill=1.)[:,0]
    h = y.any(2).sum(1)[y.flatten(1).any(1)]
    assert h.min()==8 and h.max()==23 and chi2_ok(torch.bincount(h)[8:])
    y = rand_erase(torch.zeros(20_000,1,64,64), pct=.25, aspect=(.25,4.), max_num=1, fill=1.)[:,0]
    y = y[y.flatten(1).any(1)]
    h,w = y.any(2).sum(1),y.any(1).sum(1)
    assert h.min()==8 and h.max() in (31,32) and w.min()==8 and w.max() in (31,32)
    assert (h.float().log()-w.float().log()).mean().abs() < .03
    assert ((h*w).float()/256 < 1.01).all() and ((h*w).float()/256 > .8).all()
    ratio = (h/w).log2()
    assert abs(ratio.abs().mean()-1) < .03

@pytest.mark.parametrize('sz', [(1,1), (1,5), (2,3), (5,1)])
@pytest.mark.parametrize('t', every, ids=str)
def test_tiny_images(t, sz):
    "Images smaller than any patch or padding work"
    x = TensorImage(torch.rand(16,5,*sz))
    assert t(x, split_idx=0).shape==x.shape

@pytest.mark.parametrize('t', every, ids=str)
def test_empty_batch(t): assert t(TensorImage(torch.rand(0,3,8,8)), split_idx=0).shape==(0,3,8,8)

@pytest.mark.parametrize('t', every, ids=str)
def test_seed_and_independence(t):
    "A seed gives the same batch; two copies of an image get different draws unless `batch=True`; the input stays"
    x = torch.rand(1,3,24,24).expand(32,-1,-1,-1).contiguous()
    old = x.clone()
    set_seed(7)
    a = t(TensorImage(x), split_idx=0)
    set_seed(7)
    assert torch.equal(a, t(TensorImage(x), split_idx=0))
    assert torch.equal(x, old) and (t.batch or not torch.equal(plain(a), x))
    moved = (a!=x).flatten(1)
    assert (moved==moved[:1]).all() == t.batch

@pytest.mark.parametrize('t', [RandErase(batch=True, max_num=1), RandCopy(batch=True, max_num=1),
    RandPadCrop(2, batch=True), RandFlip(batch=True)], ids=str)
def test_batch_draws_once(t):
    "One draw for all images, another one for the next batch"
    x = TensorImage(coords(8, 10, 10))
    outs = []
    for _ in range(20):
        y = t(x, split_idx=0)
        same = (y!=x) if isinstance(t, RandErase) else y
        assert (same==same[:1]).all()
        outs.append(tuple(same[0].flatten().tolist()))
    assert len(set(outs)) > 1

@pytest.mark.parametrize('f', [partial(rand_erase, p=0.), partial(rand_erase, max_num=0), partial(rand_copy, p=0.),
    partial(rand_copy, max_num=0), partial(rand_pad_crop, pad=0), partial(rand_pad_crop, pad=2, p=0.),
    partial(rand_flip, p=0.)], ids=named)
def test_identity(f):
    "No patches, no padding or no chance: the same images"
    x = torch.rand(16,3,9,7)
    assert torch.equal(f(x), x)

@pytest.mark.parametrize('t', every, ids=str)
def test_not_for_validation(t):
    "On the validation set the very tensors come back, and the random state does not move"
    x,state = TensorImage(torch.rand(4,3,8,8)),torch.get_rng_state()
    b = x,TensorCategory(torch.arange(4))
    assert t(b, split_idx=1)[0] is x and t(x) is x
    assert torch.equal(torch.get_rng_state(), state)

def test_split_idx_can_be_chosen():
    "As with other transforms of fastai"
    x = TensorImage(torch.rand(16,3,8,8))
    t = RandErase(split_idx=1, fill=2)
    assert t(x, split_idx=0) is x and (t(x, split_idx=1)==2).any()

# Erasing

def test_noise_keeps_statistics():
    "Mean and standard deviation of a normal batch move by less than .01 standard deviations, the range not at all"
    set_seed(8)
    x = torch.randn(256,3,32,32)*5+20
    y = rand_erase(x)
    erased = y!=x
    noise = y[erased]
    assert abs(y.mean()-x.mean()) < .05 and abs(y.std()-x.std()) < .05
    assert x.min() <= y.min() and y.max() <= x.max()
    assert abs(noise.mean()-20) < .05 and abs(noise.std()-5) < .05

def test_noise_of_bytes_is_rounded():
    "uint8 noise is rounded, not cut: its mean is the batch's"
    set_seed(20)
    x = (torch.randn(64,3,32,32)*10+100).round().byte()
    y = rand_erase(x)
    assert abs(y[y!=x].float().mean()-x.float().mean()) < .15

@pytest.mark.parametrize('shift', [0., 3., 1000., 30000.])
@pytest.mark.parametrize('stats', ['batch','image'])
def test_moments_far_from_zero(shift, stats):
    "Mean and deviation are those of double precision, wherever the values lie and in however many pieces"
    x = torch.randn(40,3,128,128)*torch.linspace(.5, 2, 40)[:,None,None,None] + shift
    from fastai_ext.erase import _noise_stats
    pieces = [slice(0,17),slice(17,30),slice(30,40)]
    m,s,lo,hi = (o[:1] if stats=='batch' else o for o in _noise_stats(x, stats=='image', pieces, True, torch.float32))
    dims = (0,1,2,3) if stats=='batch' else (1,2,3)
    want = x.double().std(dims, unbiased=False, keepdim=True),x.amin(dims, keepdim=True),x.amax(dims, keepdim=True)
    test_close(m, x.double().mean(dims, keepdim=True), 1e-5+shift*1e-6)
    assert ((s/want[0]-1).abs()<2e-3).all() and torch.equal(lo, want[1]) and torch.equal(hi, want[2])

def test_noise_is_clamped():
    "A batch of two values 0 and 1, mostly 0: noise stays within, and both ends are met"
    set_seed(9)
    x = (torch.rand(64,1,28,28) < .3).float()
    y = rand_erase(x)
    assert y.min()==0 and y.max()==1 and ((y>0) & (y<1)).any()

def test_stats_of_the_image():
    "With `stats='image'` each image is filled from its own range, and with 'batch' it is not"
    set_seed(10)
    x = torch.randn(64,3,16,16) + 100*torch.arange(64)[:,None,None,None]
    lo,hi = x.amin((1,2,3), keepdim=True),x.amax((1,2,3), keepdim=True)
    y = rand_erase(x, pct=.5, stats='image')
    assert ((lo<=y) & (y<=hi)).all() and (y!=x).any()
    z = rand_erase(x, pct=.5)
    assert not ((lo<=z) & (z<=hi)).all()
    err = (y-x.mean((1,2,3), keepdim=True))[y!=x]
    assert abs(err.mean()) < .05 and abs(err.std()-1) < .05

@pytest.mark.parametrize('stats', ['batch','image'])
def test_fill_mean_and_constants(stats):
    "The mean is each channel's; numbers are used as they are"
    set_seed(11)
    x = torch.rand(16,3,12,12)
    m = x.mean((0,2,3) if stats=='batch' else (2,3), keepdim=True).expand_as(x)
    y = rand_erase(x, fill='mean', stats=stats)
    test_close(y[y!=x], m[y!=x], 1e-6)
    y = rand_erase(x, fill=(5,6,7), stats=stats)
    want = tensor([5.,6.,7.])[None,:,None,None].expand_as(x)
    assert torch.equal(y[y!=x], want[y!=x]) and set(y[y!=x].tolist())=={5.,6.,7.}
    y = rand_erase(x, fill=-3)
    assert set(y[y!=x].tolist())=={-3.}

def test_plain_noise():
    "fill='pixel' is N(0,1), whatever the batch is"
    set_seed(12)
    x = torch.full((64,3,32,32), 50.)
    y = rand_erase(x, fill='pixel')
    assert abs(y[y!=50].mean()) < .02 and abs(y[y!=50].std()-1) < .02

def test_all_channels_are_erased():
    "A patch goes through all channels"
    x = torch.randn(64,4,16,16)
    gone = rand_erase(x)!=x
    assert gone.any() and (gone.all(1)==gone.any(1)).all()

# Copying

def test_copy_comes_from_the_untouched_image():
    "Each pixel's displacement is one of at most 4; a copy of a copy would make sums of them"
    set_seed(13)
    h,w = 30,24
    x = coords(300, h, w)
    y = rand_copy(x, pct=.5)
    d = (y-x)[:,0]
    for o in d: assert len(o.unique()) <= 5
    assert max(len(o.unique()) for o in d)==5
    src_r,src_c = (y//w)[:,0],(y%w)[:,0]
    rows,cols = torch.arange(h)[:,None],torch.arange(w)
    for dr,dc,di in zip(src_r-rows, src_c-cols, d):
        for v in di.unique(): assert len(dr[di==v].unique())==1 and len(dc[di==v].unique())==1

def test_copy_one_patch():
    "One patch: a rectangle of the right size, moved as a whole, all channels alike"
    set_seed(14)
    x = torch.cat([coords(500, 20, 30), 1000+coords(500, 20, 30)], 1)
    y = rand_copy(x, pct=.3, max_num=1)
    assert torch.equal(y[:,1]-y[:,0], x[:,1]-x[:,0])
    sizes = set()
    for o in (y!=x)[:,0]:
        if o.any():
            r,c = o.any(1).nonzero(),o.any(0).nonzero()
            sizes.add((int(r.max()-r.min())+1, int(c.max()-c.min())+1, int(o.sum())))
    assert sizes=={(6,9,54)}

@pytest.mark.parametrize('k', [dict(), dict(pct=(.1,1.), aspect=(.3,3.)), dict(pct=1.), dict(batch=True)])
def test_copy_brings_no_new_value(k):
    "Every value that an image has after copying, it had before"
    x = coords(64, 13, 17) + 1000*torch.arange(64)[:,None,None,None]
    y = rand_copy(x, **k)
    assert (y//1000==x//1000).all() and (y%1000 < 13*17).all()
    if not k.get('batch'): assert torch.equal(y, x) == (k.get('pct')==1.)

# Masks, points, boxes

@pytest.mark.parametrize('t', geometric, ids=str)
def test_mask_follows_image(t):
    "An image that equals its mask still does, and the types are kept"
    m = TensorMask(torch.randint(0, 9, (32,20,24)))
    x = TensorImageBW(m[:,None].float())
    a,b,c = t((x, m, TensorCategory(torch.arange(32))), split_idx=0)
    assert type(a) is TensorImageBW and type(b) is TensorMask and type(c) is TensorCategory and b.dtype==m.dtype
    assert torch.equal(plain(a[:,0]), plain(b).float()) and not torch.equal(plain(a), plain(x))
    assert torch.equal(plain(c), torch.arange(32))

def test_erase_mask():
    "The mask stays, or has `mask_fill` just where the image is erased"
    m,x = TensorMask(torch.zeros(32,20,24).long()),TensorImage(torch.zeros(32,3,20,24))
    assert torch.equal(RandErase(fill=1)((x,m), split_idx=0)[1], m)
    a,b = RandErase(fill=1, mask_fill=255)((x,m), split_idx=0)
    assert torch.equal(plain(a[:,0])*255, plain(b).float()) and b.any() and b.dtype==m.dtype

def test_nested_inputs_get_the_same_draw():
    "Two inputs and a smaller mask of a batch: same places, in proportion"
    x = TensorImage(coords(32,16,16))
    m = TensorMask(torch.arange(64).view(1,8,8).expand(32,8,8))
    for t in (RandErase(pct=.5, max_num=1, fill=-1, mask_fill=-1), RandFlip()):
        (a,b),c = t(((x,x), m), split_idx=0)
        assert torch.equal(plain(a), plain(b))
        if isinstance(t, RandErase): assert torch.equal(plain(a<0).flatten(1).any(1), plain(c<0).flatten(1).any(1))

@pytest.mark.parametrize('t', [RandFlip(vertical=True), RandFlip(), RandFlip(horizontal=False, vertical=True),
    RandPadCrop(3, PadMode.Zeros), RandPadCrop((0,2))], ids=str)
def test_points_and_boxes_follow_image(t):
    "A bright pixel is where its point says, and a bright rectangle where its box says"
    h,w = 16,24
    x,pts,boxes = torch.zeros(64,1,h,w),[],[]
    for i in range(64):
        r,c = 4+i%7,5+i%13
        x[i,0,r:r+2,c:c+4] = 1
        pts.append([[2*(c+.5)/w-1, 2*(r+.5)/h-1]])
        boxes.append([[2*c/w-1, 2*r/h-1, 2*(c+4)/w-1, 2*(r+2)/h-1]])
    y,p,b = t((TensorImage(x), TensorPoint(tensor(pts)), TensorBBox(tensor(boxes))), split_idx=0)
    assert type(p) is TensorPoint and type(b) is TensorBBox and not torch.equal(y, TensorImage(x))
    for o,pt,box in zip(y, p, b):
        r,c = o[0].any(1).nonzero(),o[0].any(0).nonzero()
        test_close(box[0], tensor([c.min()*2/w-1, r.min()*2/h-1, (c.max()+1)*2/w-1, (r.max()+1)*2/h-1]), 1e-5)
        col,row = (pt[0,0]+1)*w/2-.5,(pt[0,1]+1)*h/2-.5
        assert o[0,int(row.round()),int(col.round())]==1

@pytest.mark.parametrize('t', [RandErase(), RandCopy()], ids=str)
def test_patches_leave_points(t):
    "Erasing and copying leave points and boxes alone"
    p = TensorPoint(torch.rand(4,3,2))
    assert torch.equal(t((TensorImage(torch.rand(4,3,8,8)), p), split_idx=0)[1], p)

# Crop and flip

@pytest.mark.parametrize('mode,torch_mode',
    [(PadMode.Zeros,'constant'), (PadMode.Border,'replicate'), (PadMode.Reflection,'reflect')])
@pytest.mark.parametrize('pad', [2, (1,3)])
@pytest.mark.parametrize('fmt', [torch.contiguous_format, torch.channels_last])
def test_crop_is_a_crop_of_torchs_padding(mode, torch_mode, pad, fmt):
    "Every image is one of the crops of the image padded by torch, and all of them come up"
    set_seed(15)
    ph,pw = (pad,pad) if isinstance(pad, int) else pad
    img = torch.rand(1,2,9,11)
    padded = F.pad(img, (pw,pw,ph,ph), mode=torch_mode)[0]
    crops = torch.stack([padded[:,i:i+9,j:j+11] for i in range(2*ph+1) for j in range(2*pw+1)])
    y = rand_pad_crop(img.expand(2000,-1,-1,-1).contiguous(memory_format=fmt), pad, mode)
    found = (y[:,None]==crops[None]).flatten(2).all(2)
    assert (found.sum(1)==1).all() and chi2_ok(found.sum(0))

@pytest.mark.parametrize('fmt', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize('size', [1,20_000])
@pytest.mark.parametrize('t', every, ids=str)
def test_large_batches_in_pieces(t, fmt, size, monkeypatch):
    "More than a piece of memory, and an uneven last piece: the same as in one"
    x = torch.rand(11,3,20,20).contiguous(memory_format=fmt)
    def _run():
        set_seed(41)
        return t(TensorImage(x), split_idx=0)
    want = _run()
    monkeypatch.setattr(ImageDraw, 'cache_bytes', size)
    assert len(t.drawn.pieces(x))==-(-11//max(1, size//4800))
    y = _run()
    test_close(y, want, 1e-5)
    assert y.is_contiguous(memory_format=fmt)

@pytest.mark.parametrize('t,k,bad', [(RandErase(), 'pct', 2.), (RandCopy(), 'max_num', -1), (RandPadCrop(2), 'pad', -1),
    (RandFlip(p=1.), 'p', 2.)])
def test_arguments_changed_later(t, k, bad):
    "`p` and `inplace` set after construction are obeyed; a value without sense is named before anything is changed"
    set_seed(43)
    x = TensorImage(torch.rand(16,3,20,20))
    y = t(x, split_idx=0)
    assert not torch.equal(x, y) and y.data_ptr()!=x.data_ptr()
    t.p = 0.
    test_eq(t(x, split_idx=0), x)
    t.p,t.inplace,old = 1.,True,x.clone()
    assert t(x, split_idx=0).data_ptr()==x.data_ptr() and not torch.equal(x, old)
    setattr(t, k, bad)
    old = x.clone()
    with pytest.raises(ValueError, match=f'^{k} '): t(x, split_idx=0)
    test_eq(x, old)

@pytest.mark.parametrize('channels', [1,3])
def test_large_windows_in_groups(channels):
    "Patches of very different sizes, in windows so large that they go in groups: as by a plain loop over them"
    set_seed(42)
    x,t = torch.rand(40,channels,90,70),RandCopy((.05,.9), max_num=3, aspect=(.5,2.))
    y = plain(t(TensorImage(x), split_idx=0))
    num,u,((hs,ws),_) = t.drawn.num,t.drawn.u,t.drawn.sizes((90,70))
    want = x.clone()
    for i in range(40):
        for k in range(num[i]):
            h,w = hs[i,k].item(),ws[i,k].item()
            r,c,sr,sc = (min(int(o*(n-m+1)), n-m) for o,n,m in zip(u[i,2:,k], (90,70,90,70), (h,w,h,w)))
            want[i,:,r:r+h,c:c+w] = x[i,:,sr:sr+h,sc:sc+w]
    assert torch.equal(y, want) and num.max()==3

@pytest.mark.parametrize('t,n', [(RandFlip(), 2), (RandFlip(horizontal=False, vertical=True), 2),
    (RandFlip(vertical=True), 4)])
def test_flip_sides(t, n):
    "Each side comes up as often as the others"
    set_seed(16)
    img = torch.arange(6.).view(1,1,2,3)
    y = t(TensorImage(img.expand(4000,-1,-1,-1)), split_idx=0)
    sides = [tuple(o.flatten().tolist()) for o in y]
    want = {tuple(img.flip(d).flatten().tolist()) for d in ([], [3], [2], [2,3])}
    assert set(sides) <= want and len(set(sides))==n
    assert chi2_ok([sides.count(o) for o in set(sides)])

def _items_dls(n, bs, tfms, **kwargs):
    x = np.random.RandomState(0).randint(0, 256, (n,8,8)).astype('uint8')
    block = DataBlock((ImageBlock(PILImageBW), RegressionBlock), get_items=lambda _: range(n), get_x=lambda i: x[i],
        get_y=noop, splitter=IndexSplitter([0]), batch_tfms=tfms)
    return block.dataloaders(None, bs=bs, **kwargs),x

# Types, layouts, devices

@pytest.mark.parametrize('dtype', [torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize('channels', [1,3,7])
@pytest.mark.parametrize('fmt', [torch.contiguous_format, torch.channels_last])
def test_types_and_layouts(dtype, channels, fmt):
    "Shape, dtype, memory layout and tensor type are kept, the range with the default fill as well"
    x = (torch.rand(32,channels,14,10)*200).to(dtype).contiguous(memory_format=fmt)
    for t in every:
        if getattr(t, 'fill', None)=='pixel' and dtype==torch.uint8: continue
        for cls in (TensorImage, TensorImageBW, Tensor):
            y = t(x.as_subclass(cls), split_idx=0)
            assert type(y) is cls and y.dtype==dtype and y.shape==x.shape and y.is_contiguous(memory_format=fmt)
            assert t.batch or not torch.equal(plain(y), x)
        if getattr(t, 'fill', '')=='noise' or isinstance(t, RandCopy): assert x.min()<=y.min() and y.max()<=x.max()

@pytest.mark.parametrize('t', every, ids=str)
def test_strided_input(t):
    "A transposed or sliced batch is handled like its contiguous copy"
    x = torch.rand(40,12,14,3).permute(0,3,1,2)[::2,:,1:]
    set_seed(18)
    a = t(TensorImage(x), split_idx=0)
    set_seed(18)
    test_close(a, t(TensorImage(x.contiguous()), split_idx=0), 1e-5)

def _memory(x): return x.untyped_storage().data_ptr()

@pytest.mark.parametrize('fmt', [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize('t', every, ids=str)
def test_in_place(t, fmt):
    "Asked for, the batch itself is changed, to the same result; else it is not"
    x,m = torch.rand(12,3,20,16).contiguous(memory_format=fmt),torch.randint(0, 9, (12,20,16))
    def _run(t):
        b = TensorImage(x.clone()),TensorMask(m.clone())
        set_seed(43)
        return b,t(b, split_idx=0)
    other = deepcopy(t)
    other.inplace = True
    (b,(y,z)),(bi,(yi,zi)) = _run(t),_run(other)
    assert torch.equal(y, yi) and torch.equal(z, zi) and torch.equal(b[0], x) and torch.equal(b[1], m)
    assert _memory(yi)==_memory(bi[0]) and _memory(y)!=_memory(b[0]) and torch.equal(bi[0], yi)
    assert type(yi) is TensorImage

@pytest.mark.parametrize('f', [rand_erase, rand_copy, partial(rand_pad_crop, pad=2), rand_flip], ids=named)
def test_in_place_functions(f):
    x = TensorImage(torch.rand(3,12,10))
    for seed in range(9):
        set_seed(seed)
        x = TensorImage(torch.rand(3,12,10))
        was,y = x.clone(),f(x, inplace=True)
        assert torch.equal(x, y) and _memory(x)==_memory(y)
        if not torch.equal(x, was): return
    assert False, 'nothing changed in 9 draws'

@pytest.mark.parametrize('n,pct,aspect', [(4500,.53,None), (5000,.59,None), (9000,.39,None), (3300,.26,(9.,9.))])
def test_patches_of_fixed_size_on_large_images(n, pct, aspect):
    "Where single precision rounds the size down, a patch still has the size and the place that it may have"
    set_seed(45)
    x = torch.zeros(400,1,n,2, dtype=torch.uint8)
    for f in (partial(rand_erase, fill=1), rand_copy): y = f(x, pct=pct, max_num=6, aspect=aspect)
    sizes = rand_erase(x[:40], pct=pct, max_num=1, fill=1, aspect=aspect).amax((1,3)).sum(1).unique()
    assert sizes.tolist()==[0, min(n, int(pct*n*(aspect[0] if aspect else 1)**.5+1e-4))]

@pytest.mark.parametrize('t', [RandErase(inplace=True), RandErase(inplace=True, mask_fill=0), RandCopy(inplace=True),
    RandPadCrop(2, inplace=True), RandFlip(inplace=True)], ids=str)
def test_in_place_refuses_before_anything_is_changed(t):
    x = torch.rand(16,1,12,12)
    m,wide = TensorMask(torch.zeros(16,12,12).long()),TensorMask(torch.zeros(1,12,12).long().expand(16,-1,-1))
    i = TensorImage(x.clone())
    with pytest.raises(ValueError, match='tensors that share memory'): t((i,i), split_idx=0)
    for mask,word in ((wide,'elements share memory'), (TensorMask(plain(i)[:,0]),'tensors that share memory')):
        with pytest.raises(ValueError, match=word): t((i,mask), split_idx=0)
    assert torch.equal(i, x)
    t((i,m), split_idx=0)

@pytest.mark.parametrize('f', [rand_erase, rand_copy, partial(rand_pad_crop, pad=2), rand_flip], ids=named)
def test_nothing_to_do_with_gradients(f):
    for x in (torch.rand(0,3,8,8), torch.rand(2,0,8,8)):
        y = f(x.clone().requires_grad_())
        assert y.shape==f(x).shape==x.shape
    x = torch.rand(4,3,8,8).contiguous(memory_format=torch.channels_last).requires_grad_()
    assert f(x).is_contiguous(memory_format=torch.channels_last)

def test_no_crop_is_a_copy():
    x = torch.rand(2,3,8,8)
    y = rand_pad_crop(x, 0)
    assert torch.equal(x, y) and _memory(x)!=_memory(y) and rand_pad_crop(x, 0, inplace=True).data_ptr()==x.data_ptr()

@pytest.mark.parametrize('f', [rand_erase, rand_copy, partial(rand_pad_crop, pad=2), rand_flip], ids=named)
def test_in_place_needs_memory_of_its_own(f):
    shared,grad = torch.rand(1,1,8,8).expand(9,-1,-1,-1),torch.rand(9,1,8,8, requires_grad=True)
    with pytest.raises(ValueError, match='elements share memory'): f(shared, inplace=True)
    with pytest.raises(ValueError, match='requires a gradient'): f(grad, inplace=True)

@pytest.mark.parametrize('t', [RandErase, RandCopy, partial(RandPadCrop, 2), RandFlip], ids=str)
def test_in_place_argument(t):
    x = TensorImage(torch.rand(64,1,12,10))
    y = t(inplace=True)(x, split_idx=0)
    assert _memory(y)==_memory(x) and _memory(t()(x, split_idx=0))!=_memory(x)

def test_single_images():
    "CHW images, and a mask HW, work as well; other types in the tuple are left alone"
    m = TensorMask(torch.arange(80).view(8,10))
    for t in geometric:
        a,b = t((TensorImage(m[None].float()), m), split_idx=0)
        assert a.shape==(1,8,10) and b.shape==(8,10) and torch.equal(plain(a[0]), plain(b).float())
    assert rand_erase(torch.rand(3,8,8)).shape==(3,8,8) and rand_flip(torch.rand(3,8,8)).shape==(3,8,8)
    assert RandErase()(('a', 3), split_idx=0)==('a', 3)

def test_plain_tensors():
    "Plain tensors of four dimensions are images, unless the batch has a `TensorImage`; labels never are"
    x,y = torch.rand(8,3,6,6),torch.arange(8)
    a,b = RandErase(fill=2, max_num=9)((x,y), split_idx=0)
    assert (a==2).any() and b is y
    a,b = RandErase(fill=2, max_num=9)((TensorImage(x),x), split_idx=0)
    assert (a==2).any() and b is x

def test_strided_mask():
    "A mask that is a view of something else"
    m = TensorMask(torch.randint(0, 9, (8,20,24))).transpose(1,2)
    a,b = RandFlip()((TensorImage(plain(m)[:,None].float()), m), split_idx=0)
    assert torch.equal(plain(a)[:,0], plain(b).float())

@pytest.mark.parametrize('f', [partial(rand_erase, fill=0.), rand_copy, partial(rand_copy, pct=(.1,.5)),
    partial(rand_pad_crop, pad=2), partial(rand_pad_crop, pad=3, pad_mode=PadMode.Zeros),
    partial(rand_flip, vertical=True)], ids=named)
def test_gradients_pass(f):
    "Every pixel gets a gradient for each place where it is seen, and the same draw is made as without gradients"
    x = torch.arange(1, 16*3*12*10+1.).view(16,3,12,10).double().requires_grad_()
    set_seed(44)
    y = f(x)
    y.sum().backward()
    assert torch.equal(x.grad.flatten(),
        torch.bincount(y.detach().flatten().long(), minlength=x.numel()+1)[1:].double())
    set_seed(44)
    assert torch.equal(y, f(x.detach()))

def test_noise_has_no_gradient():
    x = torch.randn(16,3,8,8, requires_grad=True)
    y = rand_erase(x, pct=.5)
    y.sum().backward()
    assert torch.equal(x.grad, (y==x).float()) and 0 < x.grad.mean() < 1

@pytest.mark.parametrize('t', every, ids=str)
def test_nothing_waits_for_the_device(t):
    "The meta device has no values, so anything that had to read one on the host would fail"
    x,m = TensorImage(torch.rand(8,3,20,20, device='meta')),TensorMask(torch.zeros(8,20,20, device='meta'))
    y = t((x,m), split_idx=0)[0]
    assert y.shape==x.shape and y.device.type=='meta'

@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
@pytest.mark.parametrize('t', every, ids=str)
def test_cuda(t):
    "On a GPU: same device, reproducible, without a synchronisation"
    x = TensorImage(torch.rand(32,3,20,20)).cuda()
    t(x, split_idx=0)
    torch.cuda.set_sync_debug_mode('error')
    try: y = t(x, split_idx=0)
    finally: torch.cuda.set_sync_debug_mode('default')
    assert y.device==x.device and not torch.equal(x, y)
    set_seed(19)
    a = t(x, split_idx=0)
    set_seed(19)
    assert torch.equal(a, t(x, split_idx=0))

# In fastai

def _mask_dls(n=24, **kwargs):
    tfms = RandErase(fill=0, mask_fill=0),RandCopy(),RandFlip(),RandPadCrop(2),Normalize.from_stats([0.], [1.], False)
    imgs = np.random.RandomState(0).randint(0, 256, (n,16,16)).astype('uint8')
    block = DataBlock((ImageBlock(PILImageBW), MaskBlock()), get_items=lambda _: range(n), get_x=lambda i: imgs[i],
        get_y=lambda i: imgs[i], splitter=IndexSplitter(range(8)), batch_tfms=tfms)
    return block.dataloaders(None, bs=8, **kwargs)

@pytest.mark.parametrize('workers', [0,2])
def test_datablock(workers):
    "In a DataBlock: order, masks in step with images in training, validation untouched"
    dls = _mask_dls(num_workers=workers)
    names = [type(o).__name__ for o in dls.train.after_batch.fs]
    assert names==['IntToFloatTensor','RandFlip','RandPadCrop','Normalize','RandErase','RandCopy']
    for xb,yb in dls.train: test_close(plain(xb[:,0])*255, plain(yb).float(), 1e-3)
    a,b = first(dls.valid),first(dls.valid)
    assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])

def test_get_preds_is_untouched():
    "Predictions are those of the bare validation images"
    dls,net = _mask_dls(num_workers=0),nn.Conv2d(1, 2, 3, padding=1)
    learn = Learner(dls, net, loss_func=lambda pred,targ: pred.mean())
    with learn.no_bar(): preds = learn.get_preds(act=noop)[0]
    imgs = torch.stack([tensor(np.array(dls.valid_ds[i][0])) for i in range(8)])[:,None].float()/255
    test_close(preds, net(imgs).detach(), 1e-4)

def test_uint8_before_int_to_float():
    "With an early `order` the transforms see bytes"
    dls,_ = _items_dls(17, 8, [RandErase(order=5), RandPadCrop(1, order=5), RandFlip(order=5), RandCopy(order=5)])
    x = dls.train.one_batch()[0]*255
    test_close(x, x.round(), 1e-3)

@pytest.mark.slow
def test_export_in_a_fresh_process(tmp_path):
    "A learner with all four, exported, predicts the same in another process"
    script = """
from fastai.vision.all import *
from fastai_ext.augment import *
from fastai_ext.erase import *
def label(f): return Path(f).name[0]
if __name__=='__main__':
    path,step = Path(sys.argv[1]),sys.argv[2]
    files = L(path.glob('*.png')).sorted()
    if step=='train':
        set_seed(0)
        tfms = [RandErase(), RandPadCrop(1), RandFlip(), RandCopy()]
        block = DataBlock((ImageBlock, CategoryBlock), get_y=label, batch_tfms=tfms)
        dls = block.dataloaders(files, bs=4, num_workers=0)
        learn = Learner(dls, nn.Sequential(nn.Flatten(), nn.LazyLinear(2)), loss_func=CrossEntropyLossFlat())
        dls.train.one_batch()
        learn.model(tensor(dls.one_batch()[0]))
        with learn.no_bar(), learn.no_logging(): learn.fit(1)
        learn.export(path/'e.pkl')
    else: learn = load_learner(path/'e.pkl')
    assert (path/'e.pkl').stat().st_size < 2_000_000
    with learn.no_bar(): print([learn.predict(f)[2].tolist() for f in files[:3]])
"""
    for i in range(20):
        PILImage.create(np.random.RandomState(i).randint(0, 256,
            (12,12,3)).astype('uint8')).save(tmp_path/f'{i%2}_{i}.png')
    (tmp_path/'s.py').write_text(script)
    outs = [subprocess.run([sys.executable, '-W', 'ignore', tmp_path/'s.py', tmp_path, o], capture_output=True,
        text=True, env={**os.environ, 'PYTHONPATH': str(Path(__file__).parents[1])}) for o in ('train','load')]
    for o in outs: assert o.returncode==0, o.stderr
    assert outs[0].stdout==outs[1].stdout and outs[0].stdout.count('[')==4

@pytest.mark.parametrize('t', every, ids=str)
def test_copies_and_pickles(t):
    "A transform that has run can be pickled, and leaves its draws behind"
    x = TensorImage(torch.rand(4,3,8,8))
    t(x, split_idx=0)
    for o in (pickle.loads(pickle.dumps(t)), deepcopy(t)):
        assert str(o)==str(t) and not hasattr(o, 'drawn') and o(x, split_idx=0).shape==x.shape

# Bad input

@pytest.mark.parametrize('k,word', [(dict(pct=0), 'pct'), (dict(pct=1.1), 'pct'), (dict(pct=(.5,.2)), 'pct'),
    (dict(pct=()), 'pct'), (dict(pct=(.1,.2,.3)), 'pct'), (dict(pct=(0,.2)), 'pct'), (dict(pct=float('nan')), 'pct'),
    (dict(max_num=-1), 'max_num'), (dict(max_num=1.5), 'max_num'), (dict(p=-.1), 'p'), (dict(p=1.1), 'p'),
    (dict(aspect=(2.,1.)), 'aspect'), (dict(aspect=0), 'aspect'), (dict(aspect=(0,1.)), 'aspect'),
    (dict(aspect=(1.,math.inf)), 'aspect')])
def test_bad_patches(k, word):
    "Refused at construction and by the functions, with the argument's name and value"
    for f in (RandErase, RandCopy, partial(rand_erase, torch.rand(2,3,4,4)), partial(rand_copy, torch.rand(2,3,4,4))):
        with pytest.raises(ValueError, match=rf'\b{word}\b.*{re.escape(str(first(k.values())))}'): f(**k)

@pytest.mark.parametrize('f,word', [(lambda: RandErase(fill='white'), 'fill'), (lambda: RandErase(fill=('a',)), 'fill'),
    (lambda: RandErase(fill=None), 'fill'), (lambda: RandErase(fill=''), 'fill'), (lambda: RandErase(fill=[]), 'fill'),
    (lambda: RandErase(stats='all'), 'stats'), (lambda: RandPadCrop(-1), 'pad'), (lambda: RandPadCrop((1,2,3)), 'pad'),
    (lambda: RandPadCrop(1.5), 'pad'), (lambda: RandPadCrop(1, 'wrap'), 'pad_mode'), (lambda: RandPadCrop(1, p=2), 'p'),
    (lambda: RandFlip(p=-1), 'p'), (lambda: RandFlip(horizontal=False), 'horizontal'),
    (lambda: rand_erase(torch.rand(2,3,4,4), fill=(1,2)), 'fill'),
    (lambda: rand_erase(torch.zeros(2,3,4,4).byte(), fill='pixel'), 'fill'),
    (lambda: rand_flip(torch.rand(4,4)), 'NCHW'), (lambda: rand_copy(torch.rand(1,2,3,4,5)), 'NCHW'),
    (lambda: RandErase()(TensorImage(torch.rand(4,4)), split_idx=0), 'NCHW')])
def test_bad_arguments(f, word):
    "Refused with the argument's name"
    with pytest.raises(ValueError, match=rf'\b{word}\b'): f()

def test_not_a_tensor():
    "A PIL image or an array is refused with a hint"
    with pytest.raises(TypeError, match='ToTensor'): rand_flip(PILImage.create(np.zeros((4,4,3), 'uint8')))

@pytest.mark.parametrize('t', [RandErase(fill=.5, mask_fill=.5, pct=.4), RandCopy(), RandFlip(vertical=True),
    RandPadCrop(3)])
@pytest.mark.parametrize('c', [1,3])
def test_mask_of_channels_follows(t, c):
    "A mask (n,c,h,w) that equals the image still does"
    set_seed(0)
    x = torch.rand(6,c,12,12)
    for _ in range(3):
        a,b = t((TensorImage(x.clone()),TensorMask(x.clone())), split_idx=0)
        assert torch.equal(plain(a), plain(b)) and type(b) is TensorMask and not torch.equal(plain(a), x)

@pytest.mark.parametrize('k', [2,(1,3)])
def test_crop_of_a_larger_mask_is_exact(k):
    "A mask, or a target image, of a whole number of times the size moves by as many times the pixels"
    set_seed(1)
    ky,kx = k if isinstance(k, tuple) else (k,k)
    x = torch.rand(5,1,8,8)
    big = x.repeat_interleave(ky, 2).repeat_interleave(kx, 3)
    for cls in (TensorMask,TensorImage):
        a,b = RandPadCrop(2, pad_mode=PadMode.Zeros)((TensorImage(x),cls(big)), split_idx=0)
        assert torch.equal(plain(b), plain(a).repeat_interleave(ky, 2).repeat_interleave(kx, 3))

def test_sizes_that_cant_follow_are_refused():
    x,small,large = TensorImage(torch.rand(4,3,32,32)),TensorMask(torch.zeros(4,8,8)),TensorMask(torch.zeros(4,64,64))
    for t,m in ((RandPadCrop(4),small), (RandCopy(),small), (RandCopy(),large),
        (RandPadCrop(2),TensorMask(torch.zeros(4,48,48)))):
        with pytest.raises(ValueError, match="can't follow images of 32×32"): t((x,m), split_idx=0)
    for t in (RandFlip(), RandErase(mask_fill=1)): assert t((x,small), split_idx=0)[1].shape == (4,8,8)
    m = TensorMask(torch.zeros(3,32,32))
    with pytest.raises(ValueError, match='does not go with 4 images'): RandFlip()((x,m), split_idx=0)

def test_fill_has_to_fit_the_type():
    x = torch.zeros(2,3,8,8,dtype=torch.uint8)
    for fill in (300, -1., (0,0,256)):
        with pytest.raises(ValueError, match='does not fit into torch.uint8'): rand_erase(x, fill=fill)
    assert rand_erase(x, fill=255, pct=1., max_num=1, p=1.).max() in (0,255)

def test_masks_of_another_number_are_refused():
    "Also where the numbers divide, so that a view would fit"
    x = TensorImage(torch.rand(4,3,16,16))
    for m in (TensorMask(torch.zeros(8,16,16)), TensorMask(torch.zeros(2,2,16,16))):
        for t in (RandFlip(), RandErase(mask_fill=1), RandCopy(), RandPadCrop(2)):
            with pytest.raises(ValueError, match='does not go with 4 images'): t((x,m), split_idx=0)

# Numbers that sums can't take

@pytest.mark.parametrize('stats', ['batch','image'])
@pytest.mark.parametrize('bad', [-math.inf, math.inf, math.nan])
def test_one_pixel_that_is_not_finite_stays_alone(stats, bad):
    "The noise of the other images is that of their own pixels"
    set_seed(50)
    x = torch.randn(64,1,28,28)
    x[5,0,3,4] = bad
    t = RandErase(stats=stats)
    y = plain(t(TensorImage(x), split_idx=0))
    rest = torch.arange(64)!=5
    assert y[rest].isfinite().all() and (y[rest]!=x[rest]).any() and (~y[5].isfinite()).sum()<=1
    assert x[rest].min()<=y[rest].min() and y[rest].max()<=x[rest].max()
    test_close((y-x)[rest][(y!=x)[rest]].std(), 2**.5, .1)

@pytest.mark.parametrize('stats', ['batch','image'])
@pytest.mark.parametrize('x', [torch.full((8,1,16,16), 3e38), torch.full((8,1,16,16), -3e38),
    torch.randn(8,1,16,16).sign()*3e38], ids=['high','low','both'])
def test_noise_of_the_largest_numbers(stats, x):
    y = rand_erase(x, stats=stats)
    assert y.isfinite().all() and x.min()<=y.min() and y.max()<=x.max()

@pytest.mark.parametrize('dtype', [torch.int8, torch.int16, torch.int32, torch.int64, torch.bool])
@pytest.mark.parametrize('fill', ['noise','mean'])
def test_whole_numbers_keep_their_range(dtype, fill):
    "Also those that single precision rounds"
    set_seed(51)
    top = 1 if dtype is torch.bool else min(torch.iinfo(dtype).max, 2**53)
    x = torch.where(torch.rand(64,1,16,16)<.5, top, top-1).to(dtype)
    y = rand_erase(x, fill=fill)
    assert y.dtype==dtype and x.min()<=y.min() and y.max()<=x.max()

@pytest.mark.parametrize('f', [rand_erase, partial(rand_erase, fill=7), rand_copy])
def test_types_that_torch_lacks(f):
    x = torch.zeros(2,1,8,8).to(torch.uint16)
    with pytest.raises(TypeError, match='uint16, which torch hardly computes in'): f(x)

@pytest.mark.parametrize('cls', [RandErase, RandCopy, partial(RandPadCrop, 2), RandFlip])
def test_unknown_argument_is_named(cls):
    message = f"{getattr(cls, 'func', cls).__name__} has no argument 'max_count': it takes .*batch, inplace"
    with pytest.raises(TypeError, match=message): cls(max_count=3)

# The lesson's own idioms

@pytest.mark.slow
@pytest.mark.parametrize('f', [rand_erase, partial(rand_erase, pct=(.1,.5)), partial(rand_erase, stats='image'),
    partial(rand_erase, pct=(.1,.5), fill=(1,2,3)), rand_copy, partial(rand_pad_crop, pad=2),
    partial(rand_flip, vertical=True)], ids=named)
def test_functions_compile_whole(f):
    "One graph, and what the eager function draws; the noise itself is drawn for other windows"
    x = torch.rand(16,3,20,20)
    torch.compiler.reset()
    set_seed(52)
    y = torch.compile(f, fullgraph=True, backend='aot_eager')(x)
    assert y.shape==x.shape and not torch.equal(y, x)
    set_seed(52)
    want = f(x)
    noise = getattr(f, 'func', f) is rand_erase and 'fill' not in getattr(f, 'keywords', {})
    # noise that is clamped to the least value may be the pixel that was there
    assert ((y!=x) != (want!=x)).float().mean() < 1e-3 if noise else torch.equal(y, want)
    assert x.min()<=y.min() and (y.max()<=x.max() or f is not rand_erase)

@pytest.mark.slow
@pytest.mark.parametrize('f', [rand_erase, rand_copy, partial(rand_pad_crop, pad=2), rand_flip], ids=named)
def test_functions_compile_to_code(f):
    torch.compiler.reset()
    x = torch.rand(16,3,20,20)
    try: y = torch.compile(f, fullgraph=True)(x)
    except RuntimeError as e:
        if 'compiler' in str(e).lower(): pytest.skip('no C++ compiler')
        raise
    assert y.shape==x.shape and not torch.equal(y, x) and y.isfinite().all()

def test_layers_of_a_sequential(tmp_path):
    "With fastai's `Lambda` the functions are layers, which can be pickled; nothing else may be needed"
    fs = partial(rand_pad_crop, pad=1),rand_flip,partial(rand_erase, max_num=3)
    tfm = nn.Sequential(*map(Lambda, fs))
    x = torch.rand(8,1,28,28)
    set_seed(53)
    y = tfm(x)
    set_seed(53)
    assert torch.equal(y, rand_erase(rand_flip(rand_pad_crop(x, 1)), max_num=3)) and not torch.equal(x, y)
    assert pickle.loads(pickle.dumps(tfm))(x).shape==x.shape

def test_flips_as_given():
    "Probabilities of each image"
    x = torch.rand(4,1,5,6)
    y = rand_flip(x, p=tensor([[0.,0],[1,0],[0,1],[1,1]]), vertical=True)
    for o,want in zip(y, (x[0], x[1].flip(-1), x[2].flip(-2), x[3].flip((-1,-2)))): assert torch.equal(o, want)

# A mask that equals its image still does, or is refused

sevens = dict(fill=7, mask_fill=7)
followers = [RandErase(**sevens), RandErase((.1,.5), aspect=(.5,2.), batch=True, **sevens), *geometric]
mask_shapes = dict(nhw=(6,12,16), n1hw=(6,1,12,16), nchw=(6,3,12,16), hw=(12,16), chw=(3,12,16)) | {'1hw': (1,12,16)}

@pytest.mark.parametrize('inplace', [False,True])
@pytest.mark.parametrize('dtype', [torch.uint8, torch.int64, torch.float32])
@pytest.mark.parametrize('shape', mask_shapes.values(), ids=mask_shapes.keys())
@pytest.mark.parametrize('t', followers, ids=str)
def test_masks_of_all_shapes(t, shape, dtype, inplace):
    t = deepcopy(t)
    t.inplace = inplace
    batch,changed = len(shape)==4 or shape[0]==6,False
    set_seed(54)
    for _ in range(6):
        m = torch.randint(0, 7, shape).to(dtype)
        x = (m.unsqueeze(-3) if shape[-2:]==shape or shape[0]==6 and len(shape)==3 else m).float().clone()
        a,b = t((TensorImage(x),TensorMask(m.clone())), split_idx=0)
        assert b.shape==shape and b.dtype==dtype and type(b) is TensorMask and type(a) is TensorImage
        assert torch.equal(plain(a).reshape(shape), plain(b).float())
        changed |= not torch.equal(plain(b), m)
    assert changed

@pytest.mark.parametrize('k', [(2,2), (1,3), (.5,.5), (1.5,1.5), (.25,1)])
@pytest.mark.parametrize('t', followers, ids=str)
def test_masks_of_other_sizes_agree_or_are_refused(t, k):
    "A mask each of whose pixels shows a block of the image, or the other way round"
    x = torch.randint(0, 7, (6,1,8,8)).float()
    big = [1 if o>=1 else round(1/o) for o in k]
    x = x.repeat_interleave(big[0], 2).repeat_interleave(big[1], 3)
    h,w = (int(n*o) for n,o in zip(x.shape[-2:], k))
    m = F.interpolate(x, (h,w), mode='nearest')
    try: a,b = t((TensorImage(x),TensorMask(m[:,0].long())), split_idx=0)
    except ValueError as e: assert "can't follow images" in str(e)
    else:
        # patches follow in proportion, to the pixel that they are rounded to; of 1.5 pixels another one is the
        # nearest in the mirror
        if isinstance(t, RandErase) or isinstance(t, RandFlip) and k==(1.5,1.5): return
        assert torch.equal(F.interpolate(plain(a), (h,w), mode='nearest')[:,0], plain(b).float())
