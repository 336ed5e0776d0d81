"CutMix and MixUp: losses beside loops item by item, boxes and shares beside pixels, draws beside the distribution"
from fastai.callback.mixup import MixUp
from fastai.callback.fp16 import *
from fastai.vision.all import *
from scipy import stats
import contextlib, pytest
from fastai_ext.callbacks import BatchTransform
from fastai_ext.core import is_channels_last
from fastai_ext.erase import RandErase
from fastai_ext.mix import *
from fastai_ext.precision import AutoPrecision
from helpers import differences, fingerprint, process_state

both = pytest.mark.parametrize('cls', [RandCutMix, RandMixUp])
# both at once goes through all that each goes through
alone = [pytest.param([o], marks=pytest.mark.slow, id=o.__name__) for o in (RandMixUp, RandCutMix)]
mixing = pytest.mark.parametrize('mixers', [*alone, pytest.param([RandCutMix, RandMixUp], id='both')])

def rand(*shape, seed=0): return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
def ints(n, *shape): return torch.randint(n, shape, generator=torch.Generator().manual_seed(1))
def plain(x): return x.as_subclass(Tensor)

class Keep(Callback):
    "The batch, prediction, loss, shares and partners of each training step"
    run_valid = False
    def __init__(self): self.steps = []
    def before_backward(self):
        m = first(o for o in self.learn.cbs if isinstance(o, RandMix))
        self.steps.append((self.learn.xb, self.learn.yb, self.pred, self.loss_grad, m.others, m.shares))
        self.shown = self.learn.loss.item()

def learner(x, y, model, loss, *cbs, bs=None, **kwargs):
    "Trained on the batches of `x` and `y`, tuples of tensors or a tensor each, in order"
    xs,ys = (o if isinstance(o, tuple) else (o,) for o in (x,y))
    items = [tuple(o[i] for o in (*xs,*ys)) for i in range(len(xs[0]))]
    def _batch(its): return tuple(retain_type(torch.stack([plain(o) for o in p]), p[0]) for p in zip(*its))
    dls = DataLoaders(*[DataLoader(items, bs=bs or len(items), num_workers=0, create_batch=_batch) for _ in range(2)],
        device='cpu')
    dls.n_inp = len(xs)
    res = Learner(dls, model, loss_func=loss, cbs=cbs, **kwargs)
    res.remove_cb(ProgressCallback)
    return res

def fit(learn, n=1, **kwargs):
    with learn.no_logging(): learn.fit(n, 1e-2, **kwargs)
    return learn

def steps(*args, n=1, **kwargs):
    keep = Keep()
    fit(learner(*args, keep, **kwargs), n)
    return keep.steps

def net(c, no):
    body = nn.Conv2d(c, 4, 3, padding=1),nn.ReLU(),nn.AdaptiveAvgPool2d(1),nn.Flatten()
    return nn.Sequential(*body, nn.Linear(4, no))

# Losses

def own_ce(pred, targ, reduction='mean'): return F.cross_entropy(pred, targ, reduction=reduction)
class SquareRoot(Module):
    "A loss of one's own, with a parameter that is trained"
    def __init__(self): self.reduction,self.scale = 'mean',nn.Parameter(tensor(2.))
    def forward(self, pred, targ):
        res = (self.scale*(pred[:,0]-targ).abs()+1).sqrt()
        return res if self.reduction=='none' else res.mean()

w5,multi = tensor([.2,1.,3.,.5,2.]),ints(2, 12, 5).float()
seg = TensorMask(ints(3, 12, 8, 8))
some_ignored = TensorMask(torch.where(rand(12, 8, 8)>.3, seg.as_subclass(Tensor), 255))
one,pixels = (net(3, 5), ints(5, 12)),(nn.Conv2d(3, 3, 1), seg)
ce,ce_seg = CrossEntropyLossFlat,partial(CrossEntropyLossFlat, axis=1)
real = net(3, 1),rand(12)
# name: the loss, model, targets, and what a mean divides by for an item's targets if not their number
w,smooth = partial(ce, weight=w5),LabelSmoothingCrossEntropy(reduction='sum')
losses = dict(ce=(ce(), *one), ce_sum=(ce(reduction='sum'), *one), weighted=(w(), *one, lambda y: w5[y]))
losses |= dict(focal=(FocalLossFlat(), *one), focal_weighted=(FocalLossFlat(weight=w5), *one))
losses |= dict(smooth=(LabelSmoothingCrossEntropyFlat(), *one), smooth_sum=(smooth, *one))
losses['torch_smooth'] = nn.CrossEntropyLoss(weight=w5, label_smoothing=.1),*one,lambda y: w5[y]
losses |= dict(function=(F.cross_entropy, *one), own_function=(own_ce, *one))
losses['partial'] = partial(F.cross_entropy, weight=w5),*one,lambda y: w5[y]
losses |= dict(bce=(BCEWithLogitsLossFlat(), one[0], multi), torch_bce=(nn.BCEWithLogitsLoss(), one[0], multi))
losses['pos_weight'] = BCEWithLogitsLossFlat(pos_weight=w5),one[0],multi
losses['soft'] = nn.CrossEntropyLoss(weight=w5),one[0],rand(12, 5).softmax(1)
losses |= dict(mse=(MSELossFlat(), *real), l1=(L1LossFlat(), *real), l1_sum=(L1LossFlat(reduction='sum'), *real))
losses |= dict(own_module=(SquareRoot(), *real), segmentation=(ce_seg(), *pixels), dice_sum=(DiceLoss(), *pixels))
losses |= {f'dice_{o}': (DiceLoss(reduction='mean', square_in_union=o), *pixels) for o in (False,True)}
losses['seg_weighted'] = ce_seg(weight=w5[:3]),*pixels,lambda y: w5[y]
def w_ignored(y): return w5[y.clamp(max=2)]*(y!=255)
losses['seg_ignored'] = ce_seg(weight=w5[:3], ignore_index=255),pixels[0],some_ignored,w_ignored

def by_hand(loss, pred, yb, others, shares, weights):
    "Item by item, target by target, summed in double precision"
    how,top,below = loss_reduction(loss),0.,0.
    for i,s in enumerate(shares.tolist()):
        for y,share in ((yb[0],s), (others[0],1-s)):
            y = plain(y[i:i+1])
            with NoneReduce(loss) as f: each = plain(f(pred[i:i+1], y)).double()
            top += share*each.sum().item()
            below += share*(weights(y).double().sum().item() if weights else each.numel())
    return top if how=='sum' else top/below

@pytest.mark.parametrize('name', losses)
@mixing
def test_loss_is_that_of_the_items(name, mixers):
    "Masks are pasted by CutMix: there its loss has nothing to mix"
    loss,model,y,*weights = losses[name]
    set_seed(1)
    before = fingerprint(loss)
    cbs = [o(alpha=1., p=.8) for o in mixers]
    (_,yb,pred,got,others,shares),*_ = steps(rand(12, 3, 8, 8), y, deepcopy(model), loss, *cbs)
    if others is None:
        assert isinstance(y, TensorMask) and mixers==[RandCutMix] and torch.equal(got, loss(pred, *yb))
        return
    want = by_hand(loss, pred.detach(), yb, others, shares, *(weights or [None]))
    assert 0 < (shares<1).sum() < 12 and abs(got.item()-want) < 1e-6*max(1, abs(want))
    assert {k.split('.')[-1] for k,*_ in differences(before, fingerprint(loss))} <= {'grad'}

@pytest.mark.parametrize('name', losses)
def test_without_mixing_it_is_the_loss_itself(name):
    loss,model,y,*_ = losses[name]
    (_,yb,pred,got,*_),*_ = steps(rand(12, 3, 8, 8), y, deepcopy(model), loss, RandMixUp(p=0))
    torch.testing.assert_close(plain(got), plain(loss(pred, *yb)), rtol=1e-6, atol=1e-7)

def test_gradients_are_those_of_the_mixed_loss():
    "Of the model and of a loss that has parameters"
    loss,model = SquareRoot(),net(3, 1)
    (_,yb,pred,got,others,shares),*_ = steps(rand(9, 3, 8, 8), rand(9), model, loss, RandMixUp(alpha=1.))
    loss.zero_grad()
    pred = pred.detach().requires_grad_()
    def _of(y): return ((loss.scale*(pred[:,0]-y).abs()+1).sqrt())
    want = torch.autograd.grad((shares*_of(yb[0])+(1-shares)*_of(others[0])).mean(), [pred, loss.scale])
    a,b = item_losses(loss, pred, *yb),item_losses(loss, pred, *others)
    have = torch.autograd.grad(torch.lerp(b[0], a[0], shares).mean(), [pred, loss.scale])
    for p,q in zip(have, want): torch.testing.assert_close(p, q)

def test_the_step_is_that_of_the_mixed_loss():
    "A step of SGD by hand from the batch that the model got"
    set_seed(0)
    model = net(3, 5)
    hand = deepcopy(model)
    x,y = rand(8, 3, 8, 8),ints(5, 8)
    (xb,yb,_,_,others,shares),*_ = steps(x, y, model, ce(), RandCutMix(), opt_func=SGD, wd=0.)
    pred = hand(plain(xb[0]))
    loss = (shares*F.cross_entropy(pred, yb[0], reduction='none')
        + (1-shares)*F.cross_entropy(pred, others[0], reduction='none')).mean()
    for p,q,g in zip(hand.parameters(), model.parameters(), torch.autograd.grad(loss, list(hand.parameters()))):
        torch.testing.assert_close(p-1e-2*g, q)

def no_reduction(pred, targ): return F.cross_entropy(pred, targ)
def of_pairs(pred, targ, reduction='mean'):
    "An item's loss depends on the batch"
    res = F.cross_entropy(pred-pred.mean(0), targ, reduction='none')
    return res if reduction=='none' else res.mean()
def hidden_weight(pred, targ, reduction='mean'): return F.cross_entropy(pred, targ, weight=w5, reduction=reduction)
def one_number(pred, targ, reduction='mean'): return F.cross_entropy(pred, targ)
def reordered(pred, targ, reduction='mean'):
    res = F.mse_loss(pred, targ, reduction='none')
    return res.T.flatten() if reduction=='none' else res.mean()
refused = dict(no_reduction=no_reduction, of_pairs=of_pairs, hidden_weight=hidden_weight, one_number=one_number,
    smoothed_weighted=LabelSmoothingCrossEntropyFlat(weight=w5), batchmean=nn.KLDivLoss(reduction='batchmean'),
    none=ce(reduction='none'), reordered=reordered)

@both
@pytest.mark.parametrize('name', refused)
def test_losses_that_can_not_be_had_exactly_are_refused_before_a_step(cls, name):
    soft = name in ('batchmean', 'reordered')
    model = net(3, 5)
    before = deepcopy(model.state_dict())
    learn = learner(rand(6, 3, 8, 8), rand(6, 5).softmax(1) if soft else ints(5, 6), model, refused[name], cls())
    with pytest.raises(ValueError, match='reduction|loss'): fit(learn)
    assert all(torch.equal(a, b) for a,b in zip(before.values(), model.state_dict().values()))

def test_what_shows_late_is_refused_at_the_end_of_the_epoch():
    "A target that the loss leaves out comes in the second of three batches"
    def _loss(pred, targ, reduction='mean'): return F.cross_entropy(pred, targ, ignore_index=4, reduction=reduction)
    y = tensor([0,1,2,3, 0,4,4,1, 0,1,2,3])
    learn = learner(rand(12, 3, 8, 8), y, net(3, 5), _loss, RandMixUp(), bs=4)
    with pytest.raises(ValueError, match='exactly'): fit(learn)
    assert learn.train_iter == 2
    fit(learner(rand(12, 3, 8, 8), y, net(3, 5), ce(ignore_index=4), RandMixUp(), bs=4))

def test_a_callback_that_changed_the_loss_before_is_not_overruled():
    class Add(Callback):
        order,run_valid = -4,False
        def after_loss(self): self.learn.loss_grad = self.loss_grad+1
    def _args(): return rand(6,3,8,8),ints(5,6),net(3,5),ce(),RandMixUp(),Add()
    with pytest.raises(ValueError, match='order'): fit(learner(*_args()))
    Add.order = 0
    assert steps(*_args())[0][3] > 2

# Pixels

def squares(n, c=2, h=9, w=13):
    "Images of one value each, i+1"
    return (torch.arange(n)+1.).view(-1,1,1,1).expand(n,c,h,w).contiguous()

def mixed(x, *cbs, y=None, loss=None, model=None):
    "Inputs, targets, others and shares of one batch"
    y = torch.arange(len(x)) if y is None else y
    model = model or nn.Sequential(nn.Flatten(), nn.Linear(x[0].numel(), len(x)))
    xb,yb,_,_,others,shares = steps(x, y, model, loss or ce(), *cbs)[0]
    return xb[0],yb[0],others and others[0],shares

def test_boxes_and_shares_by_the_pixels():
    "Each image has a box of its own, of one other, and its share is what is counted"
    set_seed(2)
    x = squares(60)
    got,y,other,shares = mixed(x, RandCutMix())
    boxes = set()
    for i,img in enumerate(plain(got)):
        assert torch.equal(img[0], img[1]) and y[i] == i
        rows,cols = (o.unique() for o in (img[0] != i+1).nonzero().T)
        n = len(rows)*len(cols)
        assert (img[0] == other[i]+1).sum() == (n if other[i] != i else 9*13)
        assert (img[0] == i+1).sum() == 9*13-(n if other[i] != i else 0)
        if not n: continue
        assert rows[-1]-rows[0]+1 == len(rows) and cols[-1]-cols[0]+1 == len(cols)
        assert abs(shares[i] - (1-n/(9*13))) < 1e-7
        boxes.add((*rows[[0,-1]].tolist(), *cols[[0,-1]].tolist()))
    assert len(boxes) > 40 and sorted(plain(other).tolist()) == list(range(60))

def test_blends_are_as_the_shares():
    set_seed(2)
    x = rand(60, 2, 5, 7)
    got,_,other,shares = mixed(x, RandMixUp())
    for i,s in enumerate(shares.tolist()): torch.testing.assert_close(plain(got)[i], s*x[i]+(1-s)*x[other[i]])
    assert shares.unique().numel() > 55 and shares.min() >= .5

def test_both_leave_each_image_to_one():
    "Pasted in, or blended, from the images as they were"
    set_seed(2)
    x = squares(80, 1)
    got,_,other,shares = mixed(x, RandCutMix(), RandMixUp(1.))
    n_cut = n_blend = 0
    for i,(img,s) in enumerate(zip(plain(got), shares.tolist())):
        own,its = i+1.,other[i].item()+1.
        vals = img.unique()
        if len(vals)==2:
            assert set(vals.tolist()) == {own, its}
            n_cut += 1
        elif vals[0] not in (own, its):
            torch.testing.assert_close(vals[0], tensor(s*own+(1-s)*its))
            n_blend += 1
        torch.testing.assert_close(img.mean(), tensor(s*own+(1-s)*its), rtol=1e-5, atol=1e-5)
    assert n_cut > 25 and n_blend > 25

@both
def test_p_is_the_part_of_the_images(cls):
    set_seed(3)
    x = rand(1000, 1, 6, 6)
    got,_,other,shares = mixed(x, cls(alpha=50., p=.3), model=net(1, 1000))
    changed = (plain(got) != x).flatten(1).any(1)
    assert torch.equal(changed, shares<1) and abs(changed.float().mean()-.3) < .05
    assert torch.equal(plain(got)[~changed], x[~changed])

@pytest.mark.parametrize('alpha', [.4, .6, 1., 3.])
def test_shares_have_their_distribution(alpha):
    "MixUp: the larger part of a Beta draw. CutMix: the height of boxes that are whole is drawn so"
    set_seed(4)
    x = torch.zeros(20_000, 1)
    lam = RandMixUp(alpha).draw(x, torch.ones(len(x), dtype=torch.bool))[0].double()
    dist = stats.beta(alpha, alpha)
    assert stats.kstest(lam, lambda q: dist.cdf(q)-dist.cdf(1-q)).pvalue > 1e-3
    x = torch.zeros(4000, 1, 100, 100)
    own,blend = RandCutMix(alpha).draw(x, torch.ones(len(x), dtype=torch.bool))
    box = blend(x, torch.ones_like(x))[:,0]
    test_close(own, 1-box.mean((1,2)), eps=1e-6)
    # the part of the paper's boxes that is left at the edges, drawn with NumPy
    rng = np.random.default_rng(0)
    side = (1-rng.beta(alpha, alpha, 50_000))**.5
    def _left():
        mid = rng.random(len(side))
        return np.minimum(mid+side/2, 1)-np.maximum(mid-side/2, 0)
    areas = _left()*_left()
    test_close(own.mean().item(), 1-areas.mean(), eps=.015)
    test_close(own.std().item(), areas.std(), eps=.015)

def test_the_middle_of_a_box_is_anywhere():
    set_seed(5)
    x = torch.zeros(4000, 1, 10, 10)
    hits = RandCutMix().draw(x, torch.ones(len(x), dtype=torch.bool))[1](x, torch.ones_like(x)).mean((0,1))
    assert hits.min() > .1 and (hits.flip(0)-hits).abs().max() < .05 and (hits.T-hits).abs().max() < .05

# Masks, several inputs and targets

def test_masks_are_pasted_along():
    set_seed(6)
    x = rand(30, 1, 8, 8)
    y = TensorMask((x[:,0]>0).long())
    before = y.clone()
    for loss in (ce_seg(), no_reduction):
        xb,yb,_,got,others,shares = steps(x, y, nn.Conv2d(1, 2, 1), loss, RandCutMix())[0]
        assert torch.equal((plain(xb[0])[:,0]>0).long(), plain(yb[0])) and not torch.equal(plain(yb[0]), plain(y))
        assert others is shares is None
    assert torch.equal(y, before)

def test_masks_and_classes_together():
    "A class is mixed by the loss, with the pasted mask in both of its parts"
    class Two(Module):
        def __init__(self): self.seg,self.head = nn.Conv2d(1, 2, 1),net(1, 30)
        def forward(self, x): return torch.cat([self.seg(x).flatten(1), self.head(x)], 1)
    def _loss(pred, mask, targ, reduction='mean'):
        res = F.cross_entropy(pred[:,:128].view(-1,2,8,8), plain(mask), reduction='none').mean((1,2))
        res = res + F.cross_entropy(pred[:,128:], targ, reduction='none')
        return res if reduction=='none' else res.mean()
    set_seed(7)
    x = rand(30, 1, 8, 8)
    y = TensorMask((x[:,0]>0).long()),torch.arange(30)
    for mixers in ([RandCutMix()], [RandCutMix(), RandMixUp()]):
        xb,yb,pred,got,others,shares = steps(x, y, Two(), _loss, *mixers)[0]
        cut = ((xb[0]==x) | (xb[0]==x[others[1]])).all(-1).all(-1)[:,0]
        assert cut.sum() == 30 if len(mixers)==1 else 5 < cut.sum() < 25
        assert torch.equal((plain(xb[0])[cut,0]>0).long(), plain(yb[0])[cut])
        assert torch.equal(plain(others[0])[cut], plain(yb[0])[cut])
        assert torch.equal(plain(others[0])[~cut], plain(y[0])[others[1]][~cut])
        want = (shares*_loss(pred, *yb, reduction='none') + (1-shares)*_loss(pred, *others, reduction='none')).mean()
        torch.testing.assert_close(got, want)

def test_several_inputs_have_one_draw():
    class Sum(Module):
        def __init__(self): self.net = net(2, 20)
        def forward(self, a, b): return self.net(a)+self.net(b)
    set_seed(8)
    x = squares(20)
    for cls in (RandCutMix,RandMixUp):
        (a,b),*_ = steps((TensorImage(x), TensorImage(2*x)), torch.arange(20), Sum(), ce(), cls())[0]
        torch.testing.assert_close(plain(2*a), plain(b))

def test_mixup_takes_what_is_no_image():
    x = rand(16, 6)
    got,_,other,s = mixed(x, RandMixUp(), model=nn.Linear(6, 16))
    torch.testing.assert_close(got, s[:,None]*x+(1-s)[:,None]*x[other])

words = ints(9, 6, 4)
image,target = rand(6,3,8,8),ints(5, 6)
of_ups = (words, target, 'floating point'),(image.byte(), target, 'IntToFloat'),((image,words), target, 'int64')
of_cuts = (words, target, 'images'),(rand(6,4), target, 'images'),((image,rand(6,3,4,4)), target, '8×8')
of_cuts += ((image, rand(6,3)), target, r'\(6, 3\)'),(image, ints(2,6,8,8), 'TensorMask')
of_cuts += (image, TensorMask(ints(2,6,4,4)), '8×8'),
wrong = [(RandMixUp, *o) for o in (*of_ups, (image, (), 'no targets'))] + [(RandCutMix, *o) for o in of_cuts]

@pytest.mark.parametrize('cls,x,y,match', wrong)
def test_what_can_not_be_mixed_is_refused(cls, x, y, match):
    class Never(Module):
        def __init__(self): self.w = nn.Parameter(tensor(1.))
        def forward(self, *xb): raise AssertionError('the model was called')
    with pytest.raises(ValueError, match=match): fit(learner(x, y, Never(), ce(), cls()))

def test_what_is_no_tensor_is_refused():
    class Nested(Callback):
        order = -4
        def before_batch(self): self.learn.yb = [{'a': self.y}]
    with pytest.raises(ValueError, match='dict'): fit(learner(image, target, net(3,5), ce(), RandMixUp(), Nested()))

@pytest.mark.parametrize('name,val', [*(('alpha',o) for o in (0., -1, 'a', math.nan, True)), ('p',1.5), ('p',-.1)])
@both
def test_wrong_arguments(cls, name, val):
    with pytest.raises(ValueError, match=f'^{name} is .*got {val}|{val!r}'): cls(**{name: val})

def test_not_beside_fastais():
    with pytest.raises(ValueError, match='MixUp'): fit(learner(image, target, net(3,5), ce(), RandMixUp(), MixUp()))

# Kinds of batches

@both
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
def test_types_and_layouts_are_kept(cls, dtype):
    set_seed(9)
    x = TensorImage(rand(12, 3, 8, 8).to(dtype).to(memory_format=torch.channels_last))
    before = plain(x).clone()
    cb,on = cls(),torch.ones(12, dtype=torch.bool)
    learn = learner(rand(12,3,8,8), ints(5,12), net(3,5), ce(), cb)
    learn.training,learn.iter,learn.xb,learn.yb = True,0,(x,),(TensorCategory(ints(5, 12)),)
    cb('before_batch')
    got, = learn.xb
    assert type(got) is TensorImage and got.dtype==dtype and is_channels_last(plain(got))
    assert torch.equal(plain(x), before)
    assert type(cb.others[0]) is TensorCategory
    if cls is RandMixUp:
        i = first(i for i,s in enumerate(cb.shares) if s < .9)
        s = cb.shares[i].double()
        own,gap = before.double()[i],plain(got).double()[i]
        part = [(gap-s*own-(1-s)*o).abs().max() for o in before.double()]
        assert min(part) < (1e-6 if dtype==torch.float32 else 4e-2)

@both
@pytest.mark.parametrize('n', [1, 2, 3, 7])
def test_any_number_of_items(cls, n):
    "The last batch has fewer items; one alone is its own partner"
    all_steps = steps(rand(7, 3, 8, 8), ints(5, 7), net(3, 5), ce(), cls(), bs=n)
    assert [len(o[-1]) for o in all_steps] == [n]*(7//n) + [7%n]*(7%n > 0)
    for xb,yb,pred,loss,others,shares in all_steps:
        if len(pred) > 1: continue
        torch.testing.assert_close(plain(loss), plain(ce()(pred, *yb)))
        assert torch.equal(yb[0], others[0])

@both
def test_an_input_that_requires_gradients(cls):
    x = rand(8, 3, 6, 6).requires_grad_()
    on = torch.ones(8, dtype=torch.bool)
    own,blend = cls(1.).draw(x, on)
    perm = torch.arange(8).roll(1)
    blend(x, x[perm]).sum(0).mean().backward()
    torch.testing.assert_close(x.grad.sum(), tensor(8.))

@both
def test_draws_repeat_and_are_torchs(cls):
    res = []
    for other in (1, 2):
        set_seed(11)
        np.random.seed(other)
        random.seed(other)
        learn = learner(rand(8,3,8,8), ints(5,8), net(3,5), ce(), cls(), Keep())
        fit(learn, 2)
        res.append([o[3].item() for o in learn.keep.steps])
        assert not torch.equal(*(o[4][0] for o in learn.keep.steps))
        mixer = first(o for o in learn.cbs if isinstance(o, RandMix))
        assert mixer.others is mixer.shares is None
    assert res[0] == res[1] and res[0][0] != res[0][1] and learn.keep.shown == res[0][1]

# In a training

def clothes(*cbs, **kwargs):
    def _item(i): return TensorImage(rand(3, 8, 8, seed=i))
    block = DataBlock((TransformBlock,CategoryBlock), get_x=_item, get_y=lambda i: 'abc'[i%3],
        splitter=IndexSplitter(range(8)), batch_tfms=kwargs.pop('batch_tfms', None))
    dls = block.dataloaders(list(range(39)), bs=4, num_workers=0, device='cpu')
    res = Learner(dls, net(3, 3), cbs=cbs, **kwargs)
    res.remove_cb(ProgressCallback)
    return res

@both
def test_beside_other_callbacks(cls):
    "Mixed precision, accumulated gradients, transforms of the batch, clipping"
    set_seed(0)
    cbs = GradientAccumulation(8),GradientClip(),BatchTransform(lambda x: x*2),AutoPrecision(torch.bfloat16)
    learn = clothes(cls(), *cbs, ChannelsLast(), batch_tfms=[RandErase()], metrics=accuracy)
    learn.recorder.train_metrics = True
    f = learn.loss_func
    fit(learn, 2)
    assert len(learn.recorder.values[0])==4 and all(np.isfinite(learn.recorder.values[-1]))
    assert learn.loss_func is f and f.reduction=='mean'

def test_accumulated_gradients_are_those_of_one_batch():
    "The same mixed batch in two parts"
    res = []
    for bs in (8, 4):
        set_seed(1)
        cbs = RandMixUp(p=0.),GradientAccumulation(8)
        learn = learner(rand(8,3,8,8), ints(5,8), net(3,5), ce(), *cbs, bs=bs, opt_func=SGD)
        res.append([p.detach() for p in fit(learn).model.parameters()])
    for a,b in zip(*res): torch.testing.assert_close(a, b)

class Stop(Callback):
    "Raise `ex` at the event `at`"
    run_valid = False
    def __init__(self, at, ex, order): self.at,self.ex,self.order = at,ex,order
    def __call__(self, name):
        if name==self.at and self.training and self.train_iter==1: raise self.ex

stops = [(at, ex) for at in ('before_batch', 'after_pred', 'after_loss', 'before_step', 'after_batch')
    for ex in (KeyboardInterrupt, CancelBatchException, CancelFitException)]
@pytest.mark.parametrize('at,ex', [o for o in stops if o[0]!='after_batch' or o[1] is not CancelBatchException])
@pytest.mark.parametrize('order', [-6, 5])
def test_an_interruption_leaves_no_trace(at, ex, order):
    learn = clothes(RandCutMix(), RandMixUp())
    f = learn.loss_func
    before = fingerprint(f)
    with contextlib.suppress(KeyboardInterrupt): fit(learn, cbs=Stop(at, ex, order))
    learn.remove_cbs(Stop)
    assert learn.loss_func is f and not differences(before, fingerprint(f))
    x,y = learn.dls.valid.one_batch()
    learn.model.eval()
    torch.testing.assert_close(learn.validate()[0], first(fresh_validate(learn)))
    pickle.dumps(learn.rand_cut_mix.__getstate__().get('shares'))
    assert 'shares' not in learn.rand_cut_mix.__getstate__()
    fit(learn)

def fresh_validate(learn): return Learner(learn.dls, learn.model, loss_func=CrossEntropyLossFlat()).validate()

def test_an_interruption_within_the_loss():
    class Late(CrossEntropyLossFlat):
        n = 0
        def __call__(self, *args, **kwargs):
            Late.n += 1
            if Late.n==stop: raise KeyboardInterrupt
            return super().__call__(*args, **kwargs)
    for stop in range(1, 9):
        Late.n,f = 0,Late()
        learn = learner(rand(8,3,8,8), ints(5,8), net(3,5), f, RandMixUp(), bs=4)
        with pytest.raises(KeyboardInterrupt): fit(learn)
        assert learn.loss_func is f and f.reduction=='mean' and f.func.reduction=='mean'

def test_exported_within_a_fit(tmp_path):
    class Export(Callback):
        order = 90
        def __init__(self): self.n = 0
        def after_pred(self):
            if not self.training: return
            o = self.learn.rand_mix_up
            self.n += len(pickle.loads(pickle.dumps({k: v for k,v in o.__getstate__().items() if k!='learn'})))>0
            self.f = pickle.dumps(self.learn.loss_func)
    learn = clothes(RandMixUp(), path=tmp_path)
    seen = Export()
    fit(learn, cbs=seen)
    assert seen.n == 7 and pickle.loads(seen.f).reduction=='mean'
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        learn.export()
        again = load_learner(tmp_path/'export.pkl')
    assert torch.equal(again.get_preds(dl=learn.dls.valid)[0], learn.get_preds()[0]) and again.rand_mix_up.alpha==.4

@both
def test_lr_find_and_predictions(cls):
    learn = clothes(cls(), metrics=accuracy)
    f = learn.loss_func
    with learn.no_logging(): learn.lr_find(num_it=9, show_plot=False)
    assert learn.loss_func is f
    fit(learn)
    preds,_,each = learn.get_preds(with_loss=True)
    torch.testing.assert_close(plain(each).mean(), tensor(learn.validate()[0]))
    learn.model.eval()
    with torch.no_grad(): torch.testing.assert_close(preds[:4], learn.model(learn.dls.valid.one_batch()[0]).softmax(1))

def test_validation_within_a_fit():
    "By a callback, between the batches"
    class Look(Callback):
        order,run_valid = 70,False
        def __init__(self): self.losses = []
        def after_batch(self): self.losses.append(self.learn.validate()[0]) if self.iter==1 else None
    # its own Learner: fastai's `validate` in a fit puts the model out of training mode
    learn = clothes(RandMixUp())
    assert np.isfinite(fit(learn, cbs=Look()).recorder.values[0]).all()

# What is shown

def titles(learn, **kwargs):
    "Titles of the images that are shown"
    learn.show_train_batch(**kwargs)
    fig = plt.gcf()
    res = [o.get_title() for o in fig.axes if o.images]
    plt.close('all')
    return res

def parts(title): return {k: int(v) for k,v in re.findall(r'(\S+) (\d+)%', title)}

@pytest.mark.parametrize('mixers', [[RandCutMix], [RandMixUp], [RandCutMix, RandMixUp]], ids=['cut', 'up', 'both'])
def test_show_train_batch_shows_the_shares(mixers):
    learn = clothes(*[o(8.) for o in mixers])
    set_seed(1)
    learn.loss_func.mark = 1
    before,state = fingerprint(learn.loss_func, learn.cbs),process_state()
    got = [o for _ in range(6) for o in titles(learn, max_n=4)]
    assert not differences(before, fingerprint(learn.loss_func, learn.cbs))
    assert len(got)==24 and all(sum(parts(o).values())==100 for o in got)
    assert sum(len(parts(o))==2 for o in got) > 6
    assert all(list(parts(o).values())[0] >= 50 for o in got if mixers==[RandMixUp])

def test_the_shares_shown_are_those_of_the_batch():
    "The images of class a are 0, of b .5, of c 1: a blend's value says its shares"
    block = DataBlock((TransformBlock,CategoryBlock), get_x=lambda i: TensorImage(torch.full((3,8,8), i%3/2)),
        get_y=lambda i: 'abc'[i%3], splitter=IndexSplitter(range(8)))
    learn = Learner(block.dataloaders(list(range(39)), bs=8, num_workers=0, device='cpu'), net(3, 3), cbs=RandMixUp(4.))
    set_seed(3)
    learn.show_train_batch(max_n=8)
    shown = [(o.get_title(), np.array(o.images[0].get_array())) for o in plt.gcf().axes if o.images]
    plt.close('all')
    for title,img in shown:
        shares = parts(title) or {title: 100}
        assert abs(img.mean() - sum('abc'.index(k)*v/200 for k,v in shares.items())) < .006, title
    assert len(shown)==8

def test_other_targets_are_shown_too():
    x = TensorImage(rand(8, 3, 8, 8))
    block = DataBlock((TransformBlock,MultiCategoryBlock), get_x=lambda i: x[i%8], get_y=lambda i: list('ab'[:1+i%2]),
        splitter=IndexSplitter(range(8)))
    dls = block.dataloaders(list(range(39)), bs=8, num_workers=0, device='cpu')
    learn = Learner(dls, net(3, 2), cbs=RandMixUp(8.))
    assert any('a;b' in o and '%' in o for o in titles(learn, max_n=8))
    block = DataBlock((TransformBlock,RegressionBlock), get_x=lambda i: x[i%8], get_y=lambda i: i/2,
        splitter=IndexSplitter(range(8)))
    dls = block.dataloaders(list(range(39)), bs=8, num_workers=0, device='cpu')
    learn = Learner(dls, net(3, 1), loss_func=MSELossFlat(), cbs=RandMixUp(8.))
    assert any('%' in o for o in titles(learn, max_n=8))
    learn.rand_mix_up.run = False
    assert not any('%' in o for o in titles(learn, max_n=8))

def test_a_loss_that_squeezes():
    "As many write it for one output: it can't take a batch of one"
    def _loss(pred, targ, reduction='mean'): return F.cross_entropy(pred.squeeze(), targ, reduction=reduction)
    fit(learner(rand(8,3,8,8), ints(5,8), net(3,5), _loss, RandMixUp(), bs=4))

def test_masks_are_shown_as_they_are_pasted():
    x = TensorImage((rand(8, 3, 8, 8).clamp(0, 1)*255).round())
    block = DataBlock((TransformBlock,MaskBlock(['a','b'])), get_x=lambda i: x[i%8],
        get_y=lambda i: (x[i%8,0]>127).numpy().astype(np.uint8), splitter=IndexSplitter(range(8)))
    dls = block.dataloaders(list(range(39)), bs=8, num_workers=0, device='cpu')
    for mixer in (RandCutMix(), RandMixUp()):
        learn = Learner(dls, nn.Conv2d(3, 2, 1), loss_func=ce_seg(), cbs=mixer)
        learn.show_train_batch(max_n=4)
        imgs = [[np.array(i.get_array()) for i in o.images] for o in plt.gcf().axes if o.images]
        plt.close('all')
        same = [((img[...,0]>127) == m).all() for img,m in imgs]
        assert len(same)==4 and (all(same) if isinstance(mixer, RandCutMix) else not all(same))

@pytest.mark.parametrize('name', ['ce', 'bce', 'segmentation', 'dice_sum'])
@mixing
def test_no_value_is_asked_for_between_the_first_batch_and_the_last(mixers, name, monkeypatch):
    "Tensors without data would raise an error; a GPU would be waited for"
    loss,_,y,*_ = losses[name]
    # it can't be drawn without data
    monkeypatch.setattr(RandMix, 'beta', lambda self, x: torch.rand(len(x), device=x.device))
    learn = learner(rand(12,3,8,8), y, net(3, 5), loss, *[o() for o in mixers])
    learn.training,learn.iter,learn.n_iter = True,1,3
    learn.xb,learn.yb = (TensorImage(torch.empty(12,3,8,8, device='meta')),),(y.to('meta'),)
    learn('before_batch')
    learn.pred = torch.empty(*((12,3,8,8) if isinstance(y, TensorMask) else (12,5)), device='meta')
    learn.loss_grad = torch.zeros((), device='meta')
    learn('after_loss')
    assert learn.xb[0].is_meta and learn.loss_grad.is_meta
    with pytest.raises(Exception, match='meta'): bool(learn.loss_grad)

def test_mixup_is_fastais_where_the_draws_are_the_same(monkeypatch):
    "Weights after two epochs"
    perm,lam,res = torch.randperm(8, generator=torch.Generator().manual_seed(0)),torch.rand(8),[]
    monkeypatch.setattr(torch, 'randperm', lambda *args, **kwargs: perm)
    monkeypatch.setattr(torch.distributions.beta.Beta, 'sample', lambda self, *args: lam.clone())
    for cls in (MixUp, RandMixUp):
        set_seed(0)
        learn = fit(learner(rand(8,3,8,8), ints(5,8), net(3,5), ce(), cls(), bs=8), 2)
        res.append(torch.cat([p.detach().flatten() for p in learn.model.parameters()]))
    torch.testing.assert_close(*res)
