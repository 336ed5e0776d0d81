"BatchTransform, what show_train_batch shows and leaves, callbacks of a fit, fits without validation"
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
    block = DataBlock((ImageBlock(PILImageBW), MaskBlock()), get_items=lambda _: range(24), get_x=lambda i: imgs[i],
        get_y=lambda i: imgs[i], splitter=IndexSplitter(range(8)))
    return block.dataloaders(None, bs=8, num_workers=0, **kwargs)

def image_learner(cbs=None, batch_tfms=None, n=40, workers=0, **kwargs):
    "A learner for two classes of random pictures"
    imgs = np.random.RandomState(0).randint(0, 256, (n,12,12,3)).astype('uint8')
    block = DataBlock((ImageBlock, CategoryBlock(vocab=[0,1])), get_items=lambda _: range(n), get_x=lambda i: imgs[i],
        get_y=lambda i: i%2, splitter=IndexSplitter(range(8)),
        batch_tfms=[*L(batch_tfms),Normalize.from_stats([.5]*3, [.3]*3, cuda=False)])
    dls = block.dataloaders(None, bs=8, num_workers=workers)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(400, 2))
    return Learner(dls, net, loss_func=CrossEntropyLossFlat(), cbs=cbs, **kwargs)

def fit(learn, *cbs):
    with learn.no_bar(), learn.no_logging(): learn.fit(1, cbs=cbs)

def plain(o): return o.as_subclass(Tensor)

# BatchTransform

@pytest.mark.parametrize('train,valid', [(True,False), (False,True), (True,True)])
def test_phases(train, valid):
    "It runs in the phases asked for, and the next fit without it has none of it"
    learn,g = synth_learner(),Grab()
    fit(learn, BatchTransform(lambda x: x*0+7, train=train, valid=valid), g)
    assert (g.got[True][0]==7).all()==train and (g.got[False][0]==7).all()==valid
    after = Grab()
    fit(learn, after)
    assert not any((after.got[o][0]==7).any() for o in (True,False))
    assert not any(isinstance(o, BatchTransform) for o in learn.cbs)

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
    learn,g = Learner(mask_dls(), nn.Conv2d(1, 2, 1), loss_func=CrossEntropyLossFlat(axis=1)),Grab(True)
    fit(learn, BatchTransform(v2.RandomInvert(p=1.), on_y=True), g)
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

@pytest.mark.parametrize('exc', [CancelFitException, CancelEpochException, CancelTrainException, CancelBatchException,
    KeyboardInterrupt, RuntimeError('x')])
def test_nothing_left_after_a_cancelled_fit(exc):
    "Cancelled, interrupted or failed: the module and the learner are as before"
    m,learn = nn.Conv2d(3, 3, 1),image_learner()
    state,training,cbs = deepcopy(m.state_dict()),m.training,[type(o) for o in learn.cbs]
    try: fit(learn, BatchTransform(m), Interrupt(exc))
    except (KeyboardInterrupt, RuntimeError): pass
    assert m.training==training and [type(o) for o in learn.cbs]==cbs
    assert all(torch.equal(v, state[k]) for k,v in m.state_dict().items())
    g = Grab(True)
    fit(learn, g)
    assert g.got[True][0].shape==(8,3,12,12)

class Shift(nn.Module):
    "Adds a buffer, and says where it is called"
    seen = []
    def __init__(self, device=None):
        super().__init__()
        self.register_buffer('b', torch.ones(1, device=device))
    def forward(self, x):
        self.seen.append((id(self), self.b.device.type))
        return x+self.b

def test_module_elsewhere_is_copied():
    "A module on the batch's device is used as it is; one on another is not moved: a copy is, made once in a fit"
    class ToMeta(Callback):
        order,run_valid = -6,False
        def before_batch(self): self.learn.xb = tuple(o.to('meta') for o in self.xb)
    class NoModel(Callback):
        order,run_valid = 100,False
        def before_batch(self): raise CancelBatchException
    here,there = Shift(),Shift('meta')
    for m,cbs,device in ((here, [], 'cpu'), (there, [ToMeta()], 'meta'), (here, [ToMeta()], 'meta')):
        Shift.seen.clear()
        fit(synth_learner(n_trn=3), BatchTransform(m), NoModel(), *cbs)
        (ident,where), = set(Shift.seen)
        assert len(Shift.seen) == 3 and where == device and (ident == id(m)) == (m.b.device.type == device)
    assert here.b.device.type == 'cpu' and there.b.is_meta

@pytest.mark.parametrize('f,exc,word', [(lambda: BatchTransform(3), TypeError, '3'),
    (lambda: BatchTransform(noop, on_x=False), ValueError, 'on_x'),
    (lambda: BatchTransform(noop, train=False), ValueError, 'train')])
def test_bad_arguments(f, exc, word):
    "Refused at construction"
    with pytest.raises(exc, match=word): f()

def test_wrong_number_of_results():
    "A transform that drops the target is refused"
    cb = BatchTransform(lambda x,y: x, on_y=True)
    with pytest.raises(ValueError, match='returned 1 tensors for the 2'): fit(synth_learner(), cb)

# show_train_batch

then_mixup = [BatchTransform(lambda x,y: (x*2,y), on_y=True),MixUp()]
callbacks = {'none': [], 'mixup': [MixUp()], 'cutmix': [CutMix()], 'batch transform, then mixup': then_mixup,
    'batch transform': [BatchTransform(v2.RandomErasing(p=1.))], 'fp16': [MixedPrecision()],
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
    m,opt,dl = learn.model,learn.opt,learn.dls.train
    res = dict(model={k:v.clone() for k,v in m.state_dict().items()}, modes=[o.training for o in m.modules()],
        grads=[o.grad for o in m.parameters()], hooks=[len(o._forward_hooks) for o in m.modules()])
    res['opt'] = ([dict(o) for o in opt.hypers], str(opt.state_dict())) if opt else None
    res['rec'] = {k:list(v) if isinstance(v, (list,L)) else v for k,v in vars(learn.recorder).items()}
    rngs = torch.get_rng_state().tolist(),random.getstate(),np.random.get_state()[1].tolist(),dl.rng.getstate()
    return dict(res, rngs=rngs, learn=dict(vars(learn)), dl=dict(vars(dl)), cbs=[(o, dict(vars(o))) for o in learn.cbs],
        autocast=torch.is_autocast_enabled('cuda'))

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

# FitCallback

class Heard(FitCallback):
    "Which events it hears; a name in brackets where a fit starts"
    def __init__(self): self.events = []
    def __call__(self, event_name):
        if self.takes_part(): self.events.append(event_name)
        return super().__call__(event_name)
    def start_fit(self): self.events.append('[start]')

outside = dict(validate=Learner.validate, get_preds=Learner.get_preds, inner=lambda l: l.get_preds(inner=True),
    lr_find=lambda l: l.lr_find(num_it=6, show_plot=False), predict=lambda l: l.predict(l.dls.valid_ds[0][0]),
    show_results=lambda l: l.show_results(show=False), interpretation=Interpretation.from_learner)

@pytest.mark.parametrize('call', outside.values(), ids=outside.keys())
def test_hears_fits_only(call):
    cb,learn = Heard(),image_learner()
    fit(learn)
    learn.add_cb(cb)
    with learn.no_bar(), learn.no_logging():
        call(learn)
        assert cb.events == []
        learn.fit(2)
        heard = list(cb.events)
        assert heard.count('[start]') == 1 and heard.count('before_batch') == 2*(4+1) and heard[-1] == 'after_fit'
        call(learn)
    assert cb.events == heard

class EveryEpoch(Callback):
    "Calls `f` at the end of each epoch"
    order = 200
    def __init__(self, f): self.f,self.busy = f,False
    def after_epoch(self):
        if self.busy or self.learn.lock.locked(): return
        self.busy = True
        self.f(self.learn)
        self.busy = False

@pytest.mark.parametrize('call', [outside[o] for o in ('validate','get_preds','inner','predict')])
def test_hears_nothing_of_what_is_called_within(call):
    res = []
    for cbs in ([], [EveryEpoch(call)]):
        cb = Heard()
        fit(image_learner(), cb)
        learn = image_learner()
        with learn.no_bar(), learn.no_logging(): learn.fit(3, cbs=[cb, *cbs])
        res.append(cb.events)
    assert res[0] == res[1] and res[0].count('[start]') == 2

def test_counts_on():
    "`train_iter` is the fit's, whoever validates in it, also after a fit that was interrupted"
    class Count(FitCallback):
        order = 70
        def start_fit(self): self.iters = []
        def after_batch(self): self.iters += [self.train_iter]*self.training
    cb,learn = Count(),synth_learner(n_trn=3)
    within = EveryEpoch(lambda l: l.validate()),EveryEpoch(lambda l: l.get_preds(ds_idx=0))
    for n,cbs in ((2, []), (3, within[:1]), (2, within[1:])):
        with learn.no_bar(), learn.no_logging():
            with pytest.raises(KeyboardInterrupt): learn.fit(1, cbs=[cb, Interrupt(KeyboardInterrupt())])
            learn.fit(n, cbs=[cb, *cbs])
        assert cb.iters == list(range(1, 3*n+1))

# SkipValid

class Seen(Callback):
    "The epochs that were validated"
    order = 1000
    def before_fit(self): self.epochs = []
    def before_batch(self):
        if not self.training and self.epoch not in self.epochs: self.epochs.append(self.epoch)

def skip_fit(n, skip, *cbs, learn=None, lr=1e-3, **kwargs):
    "A fit of `n` epochs, and the epochs that it validated"
    learn,seen = learn or synth_learner(n_trn=3, metrics=[mae,mse]),Seen()
    with learn.no_bar(), learn.no_logging(): learn.fit(n, lr, cbs=[skip, *cbs, seen], **kwargs)
    return learn,seen.epochs

@pytest.mark.parametrize('n,every,start,want', [(3,None,0,[]), (5,2,0,[1,3,4]), (6,3,0,[2,5]), (2,10,0,[1]),
    (3,1,0,[0,1,2]), (1,4,0,[0]), (6,4,2,[3,5])])
def test_which_epochs_are_validated(n, every, start, want):
    "Those that the number divides, counted from 1, and the last one"
    assert skip_fit(n, SkipValid(except_every=every), start_epoch=start)[1] == want

@pytest.mark.parametrize('recorder', [dict(), dict(train_metrics=True), dict(add_time=False),
    dict(train_metrics=True, valid_metrics=False)])
def test_the_recorder_has_whole_rows(recorder, tmp_path):
    "Each value under its name: those of an epoch without validation are None, the others as without the callback"
    lines,res = [],[]
    for skip in ([SkipValid(except_every=2)], []):
        set_seed(4)
        learn = synth_learner(n_trn=3, metrics=[mae,mse], path=tmp_path)
        learn.remove_cb(Recorder).add_cb(Recorder(**recorder))
        learn.logger = lines.append
        with learn.no_bar(): learn.fit(3, 1e-3, cbs=[*skip, CSVLogger()])
        res.append([dict(zip(learn.recorder.metric_names[1:], o)) for o in learn.recorder.values])
        assert all(len(o) == len(learn.recorder.metric_names) for o in lines)
        assert pd.read_csv(tmp_path/'history.csv').shape == (3, len(learn.recorder.metric_names))
    for i,(a,b) in enumerate(zip(*res)):
        lacks = () if recorder.get('train_metrics') else ('mae','mse')
        gone = set() if i else {o for o in b if o.startswith('valid') or o in lacks}
        assert {k for k,v in a.items() if v is None} == gone
        for k in set(a)-gone: test_close(a[k], b[k], eps=1e-6)
    if not recorder: learn.recorder.plot_loss()
    plt.close('all')

def test_the_table_and_the_bars_go_on():
    "With a bar, and the loss drawn with the gaps"
    learn = synth_learner(n_trn=3)
    learn.fit(3, cbs=SkipValid(except_every=2))
    learn.recorder.plot_loss(skip_start=0)
    drawn = plt.gca().lines[1].get_ydata().astype(float)
    np.testing.assert_allclose(drawn, [math.nan, *(o[1] for o in learn.recorder.values[1:])])
    plt.close('all')

def test_stays_out_of_the_rest():
    "In `learn.cbs` it changes neither validate nor predictions nor lr_find, called after a fit or within one"
    learn,found = synth_learner(n_trn=3, metrics=mae, cbs=SkipValid()),[]
    a = learn.validate()
    skip_fit(2, EveryEpoch(lambda l: found.append(l.validate())), learn=learn, lr=0.)
    assert learn.recorder.metric_names and len(learn.validate()) == 2
    test_close(learn.validate(), a)
    for o in found: test_close(o, a)
    assert len(found) == 2 and len(learn.get_preds()[0])
    with learn.no_bar(), learn.no_logging(): learn.lr_find(num_it=6, show_plot=False)

class Weights(Callback):
    "The model's weight after each epoch"
    def before_fit(self): self.res = []
    def after_epoch(self): self.res.append(self.model.a.item())

@pytest.mark.parametrize('exc', [KeyboardInterrupt(), CancelFitException()])
def test_after_an_interrupt_all_is_as_before(exc, tmp_path):
    "Ended in an epoch without validation: a cancelled fit gives the best model, and the next one is like the first"
    learn,w = synth_learner(n_trn=3, path=tmp_path, cbs=[SkipValid(except_every=2), SaveModelCallback()]),Weights()
    class Stop(Callback):
        order = 300
        def after_epoch(self):
            if self.epoch==2: raise exc
    try: skip_fit(6, Stop(), w, learn=learn)
    except KeyboardInterrupt: pass
    else: assert learn.model.a.item() == w.res[1] != w.res[2]
    (tmp_path/'models'/'model.pth').unlink()
    learn.save_model.best = -math.inf
    assert skip_fit(2, noop_cb(), learn=learn)[1] == [1] and (tmp_path/'models'/'model.pth').exists()

def noop_cb(): return Callback()

def test_export(tmp_path):
    learn = image_learner(SkipValid(except_every=2), path=tmp_path)
    skip_fit(1, noop_cb(), learn=learn)
    learn.export()
    new = load_learner(tmp_path/'export.pkl')
    assert new.skip_valid.except_every == 2
    new.dls = learn.dls
    assert skip_fit(3, noop_cb(), learn=new)[1] == [1,2]

class Scores(Callback):
    "Gives the validations the losses `vs`, one after the other"
    order = Recorder.order+2
    def __init__(self, *vs): self.vs = list(vs)
    def after_validate(self):
        if self.recorder.log[2] is not None: self.recorder.log[2] = self.vs.pop(0)

def test_the_best_validated_model_is_kept(tmp_path):
    "SaveModelCallback saves and loads the weights of the best of the epochs that have a value"
    learn,w = synth_learner(n_trn=3, path=tmp_path),Weights()
    skip_fit(6, SkipValid(except_every=2), Scores(3.,1.,2.), SaveModelCallback(), w, learn=learn)
    assert learn.model.a.item() == w.res[3] and len(set(w.res)) == 6

def test_patience_counts_validations(capsys):
    def run(*cbs, n=12): return skip_fit(n, SkipValid(except_every=3), Scores(1.,2.,2.,2.), *cbs)[0]
    assert len(run(EarlyStoppingCallback(patience=2)).recorder.values) == 9
    learn = run(ReduceLROnPlateau(patience=1, factor=10))
    test_close(learn.opt.hypers[-1]['lr'], 1e-6)
    assert len(run(EarlyStoppingCallback(monitor='train_loss', min_delta=1e6, patience=2)).recorder.values) == 3

def test_what_does_not_need_a_validation_goes_on(tmp_path):
    "Trackers of the training loss, and saving every epoch, with and without validations"
    for every in (None,2):
        learn = synth_learner(n_trn=3, path=tmp_path/str(every))
        cbs = SaveModelCallback(every_epoch=True),EarlyStoppingCallback(monitor='train_loss', patience=5)
        skip_fit(3, SkipValid(every), *cbs, learn=learn)
        assert len(list((tmp_path/str(every)/'models').iterdir())) == 3
    learn = synth_learner(n_trn=3, metrics=mae)
    learn.remove_cb(Recorder).add_cb(Recorder(train_metrics=True))
    stop = EarlyStoppingCallback('train_mae', comp=np.greater, min_delta=1e6, patience=2)
    skip_fit(3, SkipValid(), stop, learn=learn)
    assert len(learn.recorder.values) == 3
    cb = EarlyStoppingCallback('valid_mae')
    with pytest.raises(ValueError, match='looks at valid_mae'): skip_fit(3, SkipValid(), cb, learn=learn)

def test_skip_valid_refuses():
    for v in (0, -1, 2., 'all'):
        with pytest.raises(ValueError, match='except_every is a number of epochs, 1 or more, or None'): SkipValid(v)
    class Never(Callback):
        def before_batch(self): raise AssertionError('refused too late')
    for cb in (SaveModelCallback(), EarlyStoppingCallback('mae'), ReduceLROnPlateau()):
        with pytest.raises(ValueError, match=f"{cb} looks at {cb.monitor} after .* no validation.*train_loss"):
            skip_fit(2, SkipValid(), cb, Never())
    learn = synth_learner(n_trn=3)
    cbs = [SkipValid(2), ShowGraphCallback(), Never()]
    with pytest.raises(ValueError, match='ShowGraphCallback draws'): learn.fit(2, cbs=cbs)
