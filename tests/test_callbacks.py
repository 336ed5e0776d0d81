"BatchTransform, and what show_train_batch shows and leaves"
import pytest
from fastai.callback.fp16 import *
from fastai.test_utils import synth_learner
from fastai.vision.all import *
from fastai_ext.augment import *
from fastai_ext.erase import *
from fastai_ext.callbacks import *
from torchvision.transforms import v2

class Grab(Callback):
    "Keeps what the model is given in the first batch of each phase, and cancels the fit if asked"
    order = 1000
    def __init__(self, cancel=False): self.cancel,self.got = cancel,{}
    def before_batch(self):
        self.got.setdefault(self.training, (*self.xb, *self.yb))
        if self.cancel: raise CancelFitException

def mask_dls(**kwargs):
    imgs = np.random.RandomState(0).randint(0, 256, (24,16,16)).astype('uint8')
    block = DataBlock((ImageBlock(PILImageBW), MaskBlock()), get_items=lambda _: range(24), get_x=lambda i: imgs[i], get_y=lambda i: imgs[i],
        splitter=IndexSplitter(range(8)))
    return block.dataloaders(None, bs=8, num_workers=0, **kwargs)

def image_learner(cbs=None, batch_tfms=None, n=40, workers=0, **kwargs):
    "A learner for two classes of random pictures"
    imgs = np.random.RandomState(0).randint(0, 256, (n,12,12,3)).astype('uint8')
    block = DataBlock((ImageBlock, CategoryBlock(vocab=[0,1])), get_items=lambda _: range(n), get_x=lambda i: imgs[i], get_y=lambda i: i%2,
        splitter=IndexSplitter(range(8)), batch_tfms=[*L(batch_tfms),Normalize.from_stats([.5]*3, [.3]*3, cuda=False)])
    dls = block.dataloaders(None, bs=8, num_workers=workers)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(400, 2))
    return Learner(dls, net, loss_func=CrossEntropyLossFlat(), cbs=cbs, **kwargs)

def fit(learn, *cbs):
    with learn.no_bar(), learn.no_logging(): learn.fit(1, cbs=cbs)

def plain(o): return o.as_subclass(Tensor)

# BatchTransform

@pytest.mark.parametrize('train', [True,False])
@pytest.mark.parametrize('valid', [True,False])
def test_phases(train, valid):
    "It runs in the phases asked for, and the next fit without it has none of it"
    learn,g = synth_learner(),Grab()
    if not (train or valid): return
    fit(learn, BatchTransform(lambda x: x*0+7, train=train, valid=valid), g)
    assert (g.got[True][0]==7).all()==train and (g.got[False][0]==7).all()==valid
    after = Grab()
    fit(learn, after)
    assert not (after.got[True][0]==7).any() and not any(isinstance(o, BatchTransform) for o in learn.cbs)

def test_x_y_and_both():
    "Inputs, targets or both, in that order"
    cases = [(dict(), lambda x: x*0+1, (1,None)), (dict(on_x=False, on_y=True), lambda y: y*0+2, (None,2)),
        (dict(on_y=True), lambda x,y: (x*0+3, y*0+4), (3,4))]
    for k,f,want in cases:
        learn,g = synth_learner(),Grab()
        fit(learn, BatchTransform(f, **k), g)
        for o,w in zip(g.got[True], want): assert w is None and len(o.unique())>1 or (o==w).all()

def test_validate_and_get_preds():
    "With valid=True `validate` and `get_preds` use it, otherwise not"
    learn = synth_learner()
    a = learn.get_preds()[0]
    learn.add_cb(BatchTransform(lambda x: x*0))
    test_eq(learn.get_preds()[0], a)
    learn.remove_cb(BatchTransform).add_cb(BatchTransform(lambda x: x*0, valid=True))
    assert len(learn.get_preds()[0].unique())==1

def test_types_come_back():
    "A function sees fastai's types, a module plain tensors, and callbacks after them fastai's types again"
    seen = []
    def f(x):
        seen.append(type(x))
        return plain(x)*2
    class M(nn.Module):
        def forward(self, x):
            seen.append(type(x))
            return x*2
    class Types(Callback):
        order = -4
        def before_batch(self): seen.append(type(self.x))
    for t in (f, M()):
        learn = image_learner()
        fit(learn, BatchTransform(t), Types(), Grab(True))
    assert seen==[TensorImage,TensorImage,Tensor,TensorImage]

def test_v2_masks_follow_images():
    "A torchvision flip mirrors image and mask together, and gives both their fastai types back"
    learn,g = Learner(mask_dls(), nn.Conv2d(1, 2, 1), loss_func=CrossEntropyLossFlat(axis=1)),Grab(True)
    fit(learn, BatchTransform(v2.RandomHorizontalFlip(p=1.), on_y=True), g)
    x,y = g.got[True]
    test_close(plain(x[:,0])*255, plain(y).float(), 1e-3)
    assert y.dtype==torch.int64

def test_v2_colours_leave_masks():
    "A torchvision transform of colours changes the image only"
    g = Grab(True)
    fit(Learner(mask_dls(), nn.Conv2d(1, 2, 1), loss_func=CrossEntropyLossFlat(axis=1)), BatchTransform(v2.RandomInvert(p=1.), on_y=True), g)
    x,y = g.got[True]
    test_close(255-plain(x[:,0])*255, plain(y).float(), 1e-3)

def test_v2_mixup_makes_soft_labels():
    "torchvision's MixUp works on both, with classes as numbers"
    learn,g = image_learner(BatchTransform(v2.MixUp(num_classes=2), on_y=True)),Grab(True)
    fit(learn, g)
    y = g.got[True][1]
    assert y.shape==(8,2) and torch.allclose(plain(y).sum(1), torch.ones(8))

def test_no_gradient():
    "A module with parameters leaves no graph behind"
    g = Grab(True)
    fit(image_learner(), BatchTransform(nn.Conv2d(3, 3, 1)), g)
    assert not g.got[True][0].requires_grad

class Interrupt(Callback):
    order,run_valid = 1001,False
    def __init__(self, exc): self.exc = exc
    def before_batch(self): raise self.exc

@pytest.mark.parametrize('exc', [CancelFitException, CancelEpochException, CancelTrainException, CancelBatchException, KeyboardInterrupt, RuntimeError('x')])
def test_nothing_left_after_a_cancelled_fit(exc):
    "Cancelled, interrupted or failed: the module and the learner are as before"
    m,learn = nn.Conv2d(3, 3, 1),image_learner()
    state,training,cbs = deepcopy(m.state_dict()),m.training,[type(o) for o in learn.cbs]
    try: fit(learn, BatchTransform(m), Interrupt(exc))
    except (KeyboardInterrupt, RuntimeError): pass
    assert m.training==training and [type(o) for o in learn.cbs]==cbs and all(torch.equal(v, state[k]) for k,v in m.state_dict().items())
    g = Grab(True)
    fit(learn, g)
    assert g.got[True][0].shape==(8,3,12,12)

def test_module_elsewhere_is_copied():
    "A module on another device is not moved: a copy is used"
    m = nn.Conv2d(3, 3, 1, device='meta')
    cb = BatchTransform(nn.Conv2d(3, 3, 1))
    with torch.no_grad(): out = cb._call_tfm((torch.rand(2,3,4,4),))
    assert cb.moved[1] is cb.tfm and out.shape==(2,3,4,4)
    assert BatchTransform(m)._call_tfm((torch.rand(2,3,4,4, device='meta'),)).device.type=='meta'
    class Shift(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer('b', torch.ones(1))
        def forward(self, x): return x+self.b
    cb = BatchTransform(Shift())
    assert (cb._call_tfm((torch.zeros(2),))==1).all()
    assert cb._call_tfm((torch.zeros(2, device='meta'),)).device.type=='meta'
    assert cb.tfm.b.device.type=='cpu' and cb.moved[1] is not cb.tfm
    assert (cb._call_tfm((torch.zeros(2),))==1).all()

@pytest.mark.parametrize('f,exc,word', [(lambda: BatchTransform(3), TypeError, '3'), (lambda: BatchTransform(noop, on_x=False), ValueError, 'on_x'),
    (lambda: BatchTransform(noop, train=False), ValueError, 'train')])
def test_bad_arguments(f, exc, word):
    "Refused at construction"
    with pytest.raises(exc, match=word): f()

def test_wrong_number_of_results():
    "A transform that drops the target is refused"
    with pytest.raises(ValueError, match='returned 1 tensors for the 2'): fit(synth_learner(), BatchTransform(lambda x,y: x, on_y=True))

# show_train_batch

callbacks = {'none': [], 'mixup': [MixUp()], 'cutmix': [CutMix()], 'batch transform': [BatchTransform(v2.RandomErasing(p=1.))],
    'batch transform, then mixup': [BatchTransform(lambda x,y: (x*2,y), on_y=True),MixUp()], 'fp16': [MixedPrecision()],
    'shortcut': [before_batch_cb(lambda self,xb,yb: ([xb[0]+1],yb))]}

@pytest.mark.parametrize('cbs', callbacks.values(), ids=callbacks.keys())
@pytest.mark.parametrize('workers', [0,2])
def test_shows_what_the_next_fit_is_given(cbs, workers):
    "Asked twice it gives the same batch, and a fit then gives the model just that one"
    learn = image_learner(deepcopy(cbs), [RandErase(),RandCopy(),RandPadCrop(1),RandFlip()], workers=workers)
    set_seed(1)
    for _ in range(2):
        a,b,g = learn.show_train_batch(show=False),learn.show_train_batch(show=False),Grab(True)
        fit(learn, g)
        for o in (b, g.got[True]):
            assert len(o)==len(a)==2
            for p,q in zip(a, o): assert torch.equal(plain(p), plain(q)) and type(p) is type(q)

def _state(learn):
    "All that could be changed"
    opt = learn.opt
    return dict(model={k:v.clone() for k,v in learn.model.state_dict().items()}, modes=[o.training for o in learn.model.modules()],
        grads=[o.grad for o in learn.model.parameters()], hooks=[len(o._forward_hooks) for o in learn.model.modules()],
        hypers=[dict(o) for o in opt.hypers] if opt else None, opt_state=str(opt.state_dict()) if opt else None, learn=dict(vars(learn)),
        rec={k:list(v) if isinstance(v, (list,L)) else v for k,v in vars(learn.recorder).items()}, rng=torch.get_rng_state().tolist(), py=random.getstate(),
        np=np.random.get_state()[1].tolist(), dl=learn.dls.train.rng.getstate(), dl_vars=dict(vars(learn.dls.train)),
        cbs=[(o, dict(vars(o))) for o in learn.cbs], autocast=torch.is_autocast_enabled('cuda'))

def _same(a, b):
    if isinstance(a, dict): return a.keys()==b.keys() and all(_same(a[k], b[k]) for k in a)
    if isinstance(a, (list,tuple)): return len(a)==len(b) and all(map(_same, a, b))
    if isinstance(a, Tensor): return torch.equal(a, b)
    return a is b or bool(np.all(a==b))

class Failing(Callback):
    order = 50
    def before_batch(self): raise KeyboardInterrupt

@pytest.mark.parametrize('how', ['fresh','trained','unique','fails'])
@pytest.mark.parametrize('cbs', callbacks.values(), ids=callbacks.keys())
def test_no_trace(how, cbs):
    "Learner, model, optimiser, recorder, callbacks, loader and random states are as before, also when a callback fails"
    learn = image_learner(deepcopy(cbs), [RandErase(),RandFlip()])
    learn.dls.train.one_batch()
    if how=='trained': fit(learn)
    if how=='fails': learn.add_cb(Failing())
    before,flip = _state(learn),first(learn.dls.train.after_batch.fs, lambda o: isinstance(o, RandFlip))
    drawn,on = flip.drawn,flip.drawn.on.clone()
    try: learn.show_train_batch(show=False, unique=how=='unique')
    except KeyboardInterrupt: assert how=='fails'
    assert flip.drawn is drawn and torch.equal(drawn.on, on)
    for k,v in before.items(): assert _same(v, _state(learn)[k]), k

def test_unique():
    "One item under many draws: the first one, with its label"
    learn = image_learner(batch_tfms=[RandPadCrop(3)])
    x,y = learn.show_train_batch(unique=True, show=False)
    assert (y==y[0]).all() and len({tuple(o.flatten().tolist()) for o in x}) > 4
    x,y = learn.show_train_batch(show=False)
    assert len(y.unique())==2

@pytest.mark.parametrize('k', [dict(), dict(unique=True), dict(max_n=4, nrows=1, ncols=4)])
def test_shows(k):
    "A picture comes out, of as many items as asked for"
    plt.close('all')
    image_learner(MixUp(), [RandErase()]).show_train_batch(**k)
    assert sum(len(ax.images) for ax in plt.gcf().axes)==(4 if k.get('max_n') else 8)

def test_given_batch():
    "A batch that is given goes through the callbacks only"
    learn = image_learner(BatchTransform(lambda x: x+1), [RandErase()])
    b = learn.dls.train.one_batch()
    x,y = learn.show_train_batch(b, show=False)
    assert torch.equal(plain(x), plain(b[0])+1) and torch.equal(plain(y), plain(b[1]))

def test_masks_and_points_show():
    "Not for classes only"
    plt.close('all')
    Learner(mask_dls(), nn.Conv2d(1, 2, 1), loss_func=CrossEntropyLossFlat(axis=1)).show_train_batch()
    assert plt.gcf().axes

def test_callbacks_may_clean_up():
    "What a callback opens outside of the learner it can close, as in a cancelled fit"
    opened = []
    class Opens(Callback):
        def before_fit(self): opened.append('open')
        def before_batch(self): test_eq(opened[-1], 'open')
        def after_cancel_fit(self): opened.append('cancelled')
        def after_fit(self): opened.append('closed')
    image_learner(Opens()).show_train_batch(show=False)
    assert opened==['open','cancelled','closed']

def test_autocast_is_not_entered():
    "Mixed precision would enter autocast in `before_batch` and leave it only after the loss"
    class Raises(MixedPrecision):
        def before_batch(self): raise RuntimeError('autocast')
    assert len(image_learner(Raises()).show_train_batch(show=False))==2
