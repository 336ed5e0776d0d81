"Sizes of a fit beside the formula, pixels beside PIL, what moves along, and where it stays out"
from fastai.test_utils import synth_learner
from fastai.vision.all import *
import PIL.Image, pytest, timm
from fastai_ext.callbacks import BatchTransform
from fastai_ext.resize import *
from fastai_ext.summary import summarize

class Seen(Callback):
    "The shapes of inputs and targets that the model is given in training and out of it, and the first batch"
    order = CastToTensor.order-.5
    def __init__(self): self.shapes,self.valid,self.batch = [],[],None
    def before_batch(self):
        b = *self.xb,*self.yb
        (self.shapes if self.training else self.valid).append([tuple(o.shape) for o in b if o is not None])
        if self.training and self.batch is None: self.batch = b

class Net(Module):
    "Takes images of any size, one or several"
    def __init__(self, c=3): self.conv,self.head = nn.Conv2d(c, 4, 3, padding=1),nn.Linear(4,2)
    def forward(self, *xs): return self.head(sum(self.conv(o).mean((2,3)) for o in xs))

def data(*parts, n=24, bs=4, n_inp=None, **kwargs):
    "Loaders of PyTorch's kind of data: functions from an item's number to a part of it"
    items = [tuple(f(i) for f in parts) for i in range(n)]
    dls = DataLoaders(*[DataLoader(items, bs=bs, num_workers=0, **kwargs) for _ in range(2)], device='cpu')
    if n_inp: dls.n_inp = n_inp
    return dls

def image(size, c=3): return lambda i: TensorImage(torch.rand(c, *size, generator=torch.Generator().manual_seed(i)))
def half(i): return tensor(i%2)

def learner(*parts, cbs=None, model=None, loss=None, size=(16,24), **kwargs):
    dls = data(*(parts or (image(size), half)), **kwargs)
    return Learner(dls, model or Net(), loss_func=loss or CrossEntropyLossFlat(), cbs=cbs)

def run(learn, n=2, *cbs, **kwargs):
    "The shapes that a fit of `n` epochs gives the model"
    seen = Seen()
    with learn.no_bar(), learn.no_logging(): learn.fit(n, 1e-3, cbs=[*cbs, seen], **kwargs)
    return seen

def sides(seen): return [o[0][-2:] for o in seen.shapes]

# Sizes

def test_sizes_of_a_fit():
    "By hand: 20 batches; half of 16×24 grows from .25 to .75 of the fit, in multiples of 2"
    seen = run(learner(bs=6), 5, ProgressiveResize(.5, begin=.25, finish=.75, step=2))
    want = []
    for i in range(20):
        part = .5 + .5*min(max((i/20-.25)/.5, 0), 1)
        want.append((round(16*part/2)*2, round(24*part/2)*2))
    assert sides(seen) == want and want[0] == (8,12) and want[15] == (16,24) and len(set(want)) > 5
    assert {o[0][-2:] for o in seen.valid} == {(16,24)}

@pytest.mark.parametrize('kwargs,pct,want', [
    (dict(), 0, (32,52)), (dict(), .5, (32,52)), (dict(), .65, (48,76)), (dict(), .8, (63,101)), (dict(), 1, (63,101)),
    (dict(initial=(20,60), begin=0, finish=1, step=1), .5, (42,80)), (dict(initial=21, step=1), .1, (21,21)),
    (dict(initial=.5, begin=.4, finish=.4), .39, (32,52)), (dict(begin=.4, finish=.4), .4, (63,101)),
    (dict(initial=.01), 0, (4,4)), (dict(initial=62, step=32), 0, (63,64)), (dict(initial=.98), .79, (63,100))])
def test_size_at(kwargs, pct, want): assert ProgressiveResize(**kwargs).size_at(pct, (63,101)) == want

def test_sizes_never_fall_and_end_at_the_images_own():
    for size in ((28,28), (30,47), (5,9), (224,160)):
        for kwargs in (dict(), dict(initial=.3, begin=0, step=1), dict(initial=4, finish=.6, step=4)):
            cb = ProgressiveResize(**kwargs)
            res = list(cb.sizes(size))
            assert res == sorted(res) and len(set(res)) == len(res)
            assert res[-1] == size and res[0] == cb.size_at(0, size)
            assert all(n%cb.step == 0 or n == m for o in res for n,m in zip(o, size))
            test_close(sum(cb.sizes(size).values()), 1, eps=1e-9)

def test_shares_are_those_of_a_fit():
    cb = ProgressiveResize(begin=.2, step=2)
    got = Counter(sides(run(learner(bs=6), 5, cb)))
    assert {k: v/20 for k,v in got.items()} == cb.sizes((16,24), n=20)

def test_resumed_and_interrupted():
    "`start_epoch` goes on with the sizes of the whole; after an interrupt a fit begins anew"
    whole = sides(run(learner(), 4, ProgressiveResize()))
    assert sides(run(learner(), 4, ProgressiveResize(), start_epoch=2)) == whole[12:]
    cb,seen = ProgressiveResize(),Seen()
    learn = learner(cbs=cb)
    class Stop(Callback):
        def after_batch(self):
            if self.training and self.train_iter == 20: raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt), learn.no_bar(), learn.no_logging(): learn.fit(4, cbs=[seen, Stop()])
    assert sides(seen) == whole[:20] and sides(run(learn, 4)) == whole and sides(run(learn, 4)) == whole

# Pixels

@pytest.mark.parametrize('size', [(8,12), (7,23), (15,5)])
def test_as_pil(size):
    "Antialiased as PIL does it, which has another way to the same numbers"
    x = torch.rand(2,3,16,24)
    want = [[np.array(PIL.Image.fromarray(c.numpy()).resize(size[::-1], PIL.Image.BILINEAR)) for c in o] for o in x]
    assert np.allclose(resize_tensor(x, size), np.array(want), atol=1e-5)
    # which is not what is had without
    assert not np.allclose(F.interpolate(x, size, mode='bilinear'), np.array(want), atol=1e-2)

@pytest.mark.parametrize('size', [(8,12), (7,23), (15,5)])
def test_masks_as_torch(size):
    for shape in ((2,16,24), (2,1,16,24), (2,3,16,24)):
        x = torch.randint(0, 9, shape)
        nchw = x.view(2, -1, 16, 24)
        want = F.interpolate(nchw.double(), size, mode='nearest-exact').long().view(*shape[:-2], *size)
        for o in (x, x.byte(), x.int(), x.float()):
            got = resize_tensor(TensorMask(o), size)
            assert type(got) is TensorMask and got.dtype == o.dtype
            assert torch.equal(got.long().as_subclass(Tensor), want)
        assert torch.equal(resize_tensor(x > 4, size), resize_tensor(x, size) > 4)
    last = torch.zeros(2,3,16,24).byte().contiguous(memory_format=torch.channels_last)
    assert resize_tensor(last, size).is_contiguous(memory_format=torch.channels_last)

@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_type_and_layout_are_kept(dtype):
    for c,layout in itertools.product((1,3), (torch.contiguous_format, torch.channels_last)):
        x = torch.rand(2,c,8,8).to(dtype).contiguous(memory_format=layout)
        y = resize_tensor(x, (4,6))
        assert type(y) is Tensor and y.dtype == dtype and y.shape == (2,c,4,6)
        assert y.is_contiguous(memory_format=layout)
        test_close(y.double(), resize_tensor(x.double(), (4,6)), eps=1e-2)
        # fastai makes float32 of a typed float64 itself
        if dtype == torch.float64: continue
        z = resize_tensor(TensorImage(x, img_size=(8,8)), (4,6))
        assert type(z) is TensorImage and z.img_size == (8,8) and torch.equal(z.as_subclass(Tensor), y)
        assert z.dtype == dtype and z.is_contiguous(memory_format=layout)
    x = torch.rand(2,8,8)
    assert torch.equal(resize_tensor(x, (4,4)), resize_tensor(x[:,None], (4,4))[:,0])

def test_gradients_pass():
    x = torch.rand(2,3,8,8, requires_grad=True)
    resize_tensor(x, (4,4)).sum().backward()
    test_close(x.grad.sum(), tensor(2*3*16.), eps=1e-3)

# What moves along

def marked(i):
    "A bright block of 4×4 pixels in an image of 16×24: its row and column"
    return i%4*4,i%6*4
def marked_image(i):
    x,(r,c) = torch.zeros(3,16,24),marked(i)
    x[:,r:r+4,c:c+4] = 1
    return TensorImage(x)
def marked_mask(i): return TensorMask(marked_image(i)[0].long().as_subclass(Tensor))
def marked_box(i):
    r,c = marked(i)
    return TensorBBox(tensor([[c/24, r/16, (c+4)/24, (r+4)/16]])*2-1)
def marked_point(i): return TensorPoint(tensor([[(marked(i)[1]+2)/24, (marked(i)[0]+2)/16]])*2-1)

def test_masks_points_and_boxes_stay_where_the_image_is():
    "At half the size the block is of 2×2 pixels, and the place that each names is there"
    parts = marked_image,marked_mask,lambda i: marked_mask(i)[::2,::2],marked_box,marked_point,lambda i: tensor(i/2)
    loss = lambda p,*ys: p.mean()+sum(o.float().mean()*0 for o in ys)
    learn = learner(*parts, loss=loss, n_inp=1)
    # masks of half the images' size as well, and a number that has no place
    x,mask,small,box,point,number = run(learn, 1, ProgressiveResize(step=2)).batch
    assert x.shape == (4,3,8,12) and mask.shape == (4,8,12) and small.shape == (4,4,6)
    assert (type(mask),type(box),type(point)) == (TensorMask,TensorBBox,TensorPoint) and number.tolist() == [0,.5,1,1.5]
    for i in range(4):
        r,c = (o//2 for o in marked(i))
        want = torch.zeros(8,12)
        want[r:r+2,c:c+2] = 1
        assert torch.equal(mask[i].float().as_subclass(Tensor), want)
        assert torch.equal(small[i].float().as_subclass(Tensor), want[::2,::2])
        assert torch.equal((x[i,0] > .5).float().as_subclass(Tensor), want)
        left,top,right,bottom = ((box[i,0]+1)/2*tensor([12,8,12,8])).tolist()
        assert (left,top,right,bottom) == pytest.approx((c,r,c+2,r+2), abs=1e-4)
        assert ((point[i,0]+1)/2*tensor([12,8])).tolist() == pytest.approx([c+1,r+1], abs=1e-4)

def test_points_are_shown_on_small_images(monkeypatch):
    "fastai's own block: what `show_train_batch` draws is in the pixels of the image that it draws"
    imgs = np.zeros((8,32,32,3), dtype=np.uint8)
    block = DataBlock((ImageBlock,PointBlock), get_items=lambda _: range(8), get_x=lambda i: imgs[i],
        get_y=lambda i: tensor([[8.,24.]]), splitter=IndexSplitter([0]))
    dls = block.dataloaders(None, bs=4, num_workers=0, device='cpu')
    learn = Learner(dls, Net(), loss_func=noop, cbs=ProgressiveResize())
    drawn = []
    monkeypatch.setattr(TensorPoint, 'show', lambda self, **kw: drawn.append(self.tolist()))
    learn.show_train_batch(max_n=2)
    plt.close('all')
    assert drawn and all(o == pytest.approx([4.,12.], abs=1e-4) for d in drawn for o in d)

def test_several_inputs_and_images_as_targets():
    "Each goes along, those of another size in proportion; plain tensors of the images' size too, and numbers don't"
    parts = image((16,24)),image((32,48)),lambda i: torch.rand(5),image((16,24)),lambda i: torch.ones(16,24)
    class Two(Net):
        def forward(self, a, b, c): return super().forward(a, b)
    learn = learner(*parts, n_inp=3, model=Two(), loss=lambda p, a, b: p.mean()+a.mean()+b.mean())
    seen = run(learn, 1, ProgressiveResize())
    assert seen.shapes[0] == [(4,3,8,12), (4,3,16,24), (4,5), (4,3,8,12), (4,8,12)]
    assert seen.shapes[-1] == [(4,3,16,24), (4,3,32,48), (4,5), (4,3,16,24), (4,16,24)]

def test_plain_tensors():
    "Of PyTorch's data sets, whose tensors have no type"
    learn = learner(lambda i: torch.rand(3,16,24), half)
    seen = run(learn, 1, ProgressiveResize())
    assert sides(seen)[0] == (8,12) and type(seen.batch[0]) is Tensor

def test_full_size_is_left_alone():
    "The very tensors of the batch, also where the last size is reached"
    given = []
    class Keep(Callback):
        order = -100
        def before_batch(self): given.append((self.training, self.x))
    class Same(Callback):
        order = CastToTensor.order-.5
        def before_batch(self):
            training,x = given.pop()
            assert (self.x is x) == (not training or self.pct_train >= .5-1e-6)
    run(learner(), 2, ProgressiveResize(begin=.5, finish=.5), Keep(), Same())

def test_channels_last_is_kept():
    last = BatchTransform(lambda x: x.contiguous(memory_format=torch.channels_last))
    seen = run(learner(cbs=last), 1, ProgressiveResize())
    assert seen.batch[0].shape[-1] == 12 and seen.batch[0].is_contiguous(memory_format=torch.channels_last)

# Where it stays out

def test_fits_only():
    "Not in validation, predictions, test-time augmentation or `lr_find`, called by themselves or within the fit"
    learn = learner(cbs=ProgressiveResize())
    class Within(Callback):
        def after_epoch(self):
            if not self.learn.lock.locked(): self.learn.get_preds(ds_idx=0, cbs=seen)
    seen = Seen()
    assert (8,12) in sides(run(learn, 1, Within()))
    learn.add_cb(seen)
    with learn.no_bar(), learn.no_logging():
        learn.validate()
        learn.get_preds(ds_idx=0)
        learn.lr_find(num_it=4, show_plot=False)
    got = {o[0][-2:] for o in seen.shapes+seen.valid}
    assert got == {(16,24)} and seen.shapes and seen.valid

def test_predictions_are_those_without(tmp_path):
    learn = learner(cbs=ProgressiveResize())
    learn.path = tmp_path
    run(learn, 1)
    want = learn.get_preds()[0]
    with learn.removed_cbs(learn.progressive_resize): assert torch.equal(learn.get_preds()[0], want)
    copied = pickle.loads(pickle.dumps(ProgressiveResize((8,12), .1, .2, 2)))
    assert copied.size_at(0, (16,24)) == (8,12) and (copied.begin,copied.finish,copied.step) == (.1,.2,2)

# What can't be

def fixed(): return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Flatten(), nn.Linear(4*16*24, 2))
def vit(): return timm.models.VisionTransformer((16,24), 4, embed_dim=8, depth=1, num_heads=1, num_classes=2)
class Strided(Net):
    "Takes sides that 8 divides"
    def forward(self, x): return super().forward(x.unflatten(-1, (-1,8)).flatten(-2))

@pytest.mark.parametrize('model,words', [
    (fixed, r'16×24 pixels, but not of 8×12.*\(Linear, input 4×384\).*one size only'),
    (vit, r'but not of 8×12.*Input height \(8\) doesn.t match model \(16\).*one size only'),
    (partial(Strided, 3), 'but not of 8×12.*unflatten.*a larger `step` helps')])
def test_a_model_that_cannot(model, words):
    "Before any step: the weights are as they were"
    model = model()
    before = deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=words): run(learner(model=model), 1, ProgressiveResize())
    assert all(torch.equal(a, b) for a,b in zip(before.values(), model.state_dict().values()))

def test_a_model_that_cannot_take_a_size_on_the_way():
    class Picky(Net):
        def forward(self, x):
            if x.shape[-1] == 20: raise RuntimeError('not twenty')
            return super().forward(x)
    seen = []
    with pytest.raises(ValueError, match='but not of 12×20, .*RuntimeError: not twenty'):
        run(learner(model=Picky()), 1, ProgressiveResize(), Callback(after_step=lambda self: seen.append(1)))
    assert not seen

def test_a_larger_step_helps(): assert sides(run(learner(model=Strided(3)), 1, ProgressiveResize(step=8)))[0] == (8,16)

def test_a_model_that_fails_anyhow_says_so_itself():
    class Broken(Net):
        def forward(self, x): raise RuntimeError('broken')
    with pytest.raises(RuntimeError, match='^broken$'): run(learner(model=Broken()), 1, ProgressiveResize())

def test_every_fit_tries_its_model():
    learn = learner(cbs=ProgressiveResize())
    run(learn, 1)
    learn.model,learn.opt = fixed(),None
    with pytest.raises(ValueError, match='one size only'): run(learn, 1)

def test_sizes_are_looked_at_even_if_the_model_cannot_be_tried():
    class TrainsOnly(Net):
        def forward(self, x):
            if not self.training: raise RuntimeError('in training only')
            return super().forward(x)
    learn = learner(model=TrainsOnly(), cbs=ProgressiveResize(step=64))
    with pytest.raises(ValueError, match="sizes don't increase"): run(learn, 1)

def test_trying_draws_nothing():
    "Random states are those without: the dropout of the first batch, and the fit with it"
    res = []
    for cbs in ([], [ProgressiveResize(.9, begin=0, finish=1e-9)]):
        set_seed(3)
        learn = learner(model=nn.Sequential(nn.Dropout2d(.5), Net()))
        run(learn, 1, *cbs)
        res.append(torch.rand(3))
    assert torch.equal(*res)

@pytest.mark.parametrize('kwargs,words', [
    (dict(initial=1.), 'initial .*got 1.0'), (dict(initial=0), 'got 0'), (dict(initial=-.5), 'got -0.5'),
    (dict(initial=(8,)), r'got \(8,\)'), (dict(initial=(8,.5)), r'got \(8, 0.5\)'),
    (dict(initial='half'), "got 'half'"),
    (dict(begin=.9), 'begin=0.9 and finish=0.8'), (dict(begin=-1), 'begin=-1'), (dict(finish=1.5), 'finish=1.5'),
    (dict(begin=0, finish=0), 'finish more than 0'), (dict(step=0), 'step is .*got 0'), (dict(step=.5), 'got 0.5')])
def test_bad_arguments(kwargs, words):
    with pytest.raises(ValueError, match=words): ProgressiveResize(**kwargs)

@pytest.mark.parametrize('kwargs', [dict(initial=17), dict(initial=(8,25)), dict(initial=(16,24)), dict(step=64)])
def test_sizes_that_do_not_increase(kwargs):
    steps = []
    with pytest.raises(ValueError, match="sizes don't increase: images of 16×24 pixels can't begin with initial="):
        run(learner(), 1, ProgressiveResize(**kwargs), Callback(after_step=lambda self: steps.append(1)))
    assert not steps

def test_no_images():
    cb,words = ProgressiveResize(),"needs images among the inputs.*'Tensor', 16, 1"
    with pytest.raises(ValueError, match=words): run(synth_learner(), 1, cb)
    of_bytes = learner(lambda i: TensorImage(torch.zeros(3,16,24).byte()), half)
    with pytest.raises(ValueError, match='IntToFloatTensor'): run(of_bytes, 1, cb)

# What it costs

def test_costs_are_those_of_summarize():
    "A convolution's by hand: 3·3·3·4 products a pixel, and the head's 8"
    cb = ProgressiveResize(begin=0, finish=.5, step=2)
    df = cb.costs(Net(), torch.zeros(5,3,16,24))
    sizes = cb.sizes((16,24))
    assert list(zip(df.height, df.width)) == list(sizes) and df.share.tolist() == list(sizes.values())
    assert df.mmacs.tolist() == pytest.approx([(h*w*108+8)/1e6 for h,w in zip(df.height, df.width)])
    full = summarize(Net(), (3,16,24)).total_macs
    assert df.relative.tolist() == pytest.approx([summarize(Net(), (3,h,w)).total_macs/full
        for h,w in zip(df.height, df.width)])
    assert df.relative.iloc[-1] == 1

def test_costs_refuse():
    cb,x = ProgressiveResize(),torch.zeros(1,3,16,24)
    with pytest.raises(ValueError, match='Net can.t take these images'): cb.costs(Net(1), x)
    with pytest.raises(ValueError, match='one size only'): cb.costs(fixed(), x)
