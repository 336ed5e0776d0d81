"Fits that are interrupted anywhere end as those that weren't; what can't go on is refused, with the file as it was"
from fastai.callback.tracker import *
from fastai.callback.training import *
from fastai.distributed import *
from fastai.vision.all import *
from torch.optim import lr_scheduler as torch_sched
import contextlib, pickle, pytest, signal, socket, subprocess, zipfile

from fastai_ext.anneal import GradAnneal
from fastai_ext.callbacks import AlternateFlip, FitCallback, SkipValid
from fastai_ext.checkpoint import *
from fastai_ext.loaders import *
from fastai_ext.mix import RandCutMix, RandMixUp
from fastai_ext.precision import AutoPrecision
from fastai_ext.record import Record
from fastai_ext.resize import ProgressiveResize
from fastai_ext.schedule import *
from fastai_ext.speed import SpeedReport
from fastai_ext.weights import WeightAverage

# what resumes is in the quick tests of the ensemble and of the main job too
pytestmark = pytest.mark.slow

class Noise(RandTransform):
    "An item transform that draws from three generators of the process and from one of its own"
    split_idx = 0
    def __init__(self):
        super().__init__()
        self.rng = np.random.default_rng(3)
    def encodes(self, x:TensorImage):
        shared = torch.rand(1) + np.random.rand() + random.random()
        return x + .1*(shared + float(self.rng.random()))

class Shift(Transform):
    "A batch transform that draws from torch's generator"
    split_idx,order = 0,20
    def encodes(self, x:TensorImage): return x + .1*torch.randn(len(x), 1, 1, 1)

class Noisy(Module):
    "A part that draws from a generator of its module"
    def forward(self, x): return x + .01*float(module_rng.random()) if self.training else x

module_rng = random.Random(5)

def image(i): return TensorImage(torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(i)))
def third(i): return i%3

def net(head=None):
    layers = nn.Conv2d(3, 4, 3, padding=1),nn.BatchNorm2d(4),nn.ReLU(),Noisy(),nn.AdaptiveAvgPool2d(2),nn.Flatten()
    return nn.Sequential(nn.Sequential(*layers), head or nn.Sequential(nn.Dropout(.5), nn.Linear(16, 3)))

def split(m): return [params(m[0]), params(m[1])]

def loaders(num_workers=0, memory=False, bs=4, batch_tfms=Shift):
    block = DataBlock((TransformBlock,CategoryBlock(vocab=[0,1,2])), get_x=image, get_y=third, batch_tfms=batch_tfms,
        splitter=IndexSplitter(range(22, 30)), item_tfms=[] if memory else Noise)
    dls = block.dataloaders(list(range(30)), bs=bs, num_workers=num_workers, device='cpu')
    return dls.in_memory() if memory else dls

def learner(dls=None, model=None, cbs=None, n=0, **kwargs):
    "Always made in the same way, whatever `n` the process has counted"
    set_seed(7+n)
    module_rng.seed(5)
    dls = dls() if callable(dls) else loaders()
    res = Learner(dls, (model or net)(), cbs=L(cbs), **{**dict(metrics=accuracy, splitter=split), **kwargs})
    return res.remove_cb(ProgressCallback)

class Bomb(Callback):
    "Interrupts when `event` comes for the `at`th time"
    event,at,order = None,0,0
    def __call__(self, name):
        if name == Bomb.event:
            Bomb.at -= 1
            if Bomb.at == 0: raise KeyboardInterrupt

class Late(Bomb): order = 2000

@pytest.fixture(autouse=True)
def defused():
    yield
    Bomb.event = None

def fit(learn, path, every=None, n=2, how=Learner.fit_one_cycle, cbs=(), lr=slice(1e-3,1e-1), bomb=Bomb, **kwargs):
    with learn.no_logging(): how(learn, n, lr, cbs=[*(f() for f in cbs), Checkpoint(path, every), bomb()], **kwargs)
    return learn

def interrupted(make, path, event, at, **kwargs):
    "A learner whose fit was interrupted and went on in another learner"
    Bomb.event,Bomb.at = event,at
    try:
        with pytest.raises(KeyboardInterrupt): fit(make(), path, **kwargs)
    finally: Bomb.event = None
    # as made anew where nothing could be kept, and otherwise with other weights and random states
    return fit(make(n=int(path.exists())), path, **kwargs)

def draws(): return torch.rand(2).tolist(), np.random.rand(), random.random(), module_rng.random()

def everything(learn):
    "What a fit leaves, to the bit"
    opt,rec = learn.opt,learn.recorder
    states = opt.state_dict()['state']
    states = [s[k] for s in (states.values() if isinstance(states, dict) else states) for k in sorted(s)]
    hypers = [{k: float(v) for k,v in h.items() if isinstance(v, (float,int))} for h in opt.hypers]
    res = dict(opt=states, hypers=hypers, losses=list(rec.losses), values=[list(o) for o in rec.values])
    res.update(model=list(learn.model.state_dict().values()), grads=[p.grad for p in learn.model.parameters()])
    res.update(lrs=[float(o) for o in rec.lrs], iters=list(rec.iters), log=list(rec.log)[:-1])
    own = [dl.rng.getstate() for dl in learn.dls.loaders if hasattr(dl, 'rng')]
    return dict(res, names=list(rec.metric_names), hps=getattr(rec, 'hps', None), own=own, draws=draws())

def check_same(got, want):
    for k in want:
        pairs = zip(got[k], want[k], strict=True) if isinstance(want[k], list) else [(got[k], want[k])]
        for u,v in pairs: assert torch.equal(u, v) if isinstance(u, Tensor) else u == v, k

def some(names, quick):
    "All of `names`, those that aren't `quick` in slow runs only"
    return [o if o in quick else pytest.param(o, marks=pytest.mark.slow) for o in names]

def refused(match): return pytest.raises(ValueError, match=match)

# Exactly as without an interruption

events = '''before_fit before_epoch before_train before_batch after_pred after_loss before_backward after_backward
    before_step after_step after_batch after_train before_validate after_validate after_epoch after_fit'''.split()

@pytest.fixture(scope='module')
def whole(tmp_path_factory): return fit(learner(), tmp_path_factory.mktemp('whole')/'a.pth')

@pytest.fixture(scope='module')
def end(whole): return everything(whole)

quick_events = 'before_epoch after_step after_fit'.split()

@pytest.mark.parametrize('bomb', [Bomb, pytest.param(Late, marks=pytest.mark.slow)])
@pytest.mark.parametrize('event', some(events, quick_events))
def test_interrupted_at_any_event(tmp_path, end, event, bomb):
    "The second call of an epoch's event, or the 9th of a batch's, which are in the second of two epochs"
    at = 1 if event[-4:]=='_fit' else 2 if event.endswith(('epoch','train','validate')) else 9
    got = interrupted(learner, tmp_path/'a.pth', event, at, every=4, bomb=bomb)
    check_same(everything(got), end)
    assert [o.name for o in tmp_path.iterdir()] == ['a.pth']

@pytest.mark.parametrize('every,ats', [(None, [4,4]), (1, [1,2,1,4,3]), (1, [9,1,3,1]), (2, [8,8,3]), (5, [12,3])])
def test_interrupted_again_and_again(tmp_path, end, every, ats):
    "Also at the start of an epoch and then in its middle"
    for at in ats:
        Bomb.event,Bomb.at = 'before_batch',at
        learn = learner(n=int((tmp_path/'a.pth').exists()))
        with contextlib.suppress(KeyboardInterrupt): fit(learn, tmp_path/'a.pth', every=every)
    Bomb.event = None
    got = fit(learner(n=3), tmp_path/'a.pth', every=every)
    check_same(everything(got), end)

def check_kind(tmp_path, make, at=12, every=3, **kwargs):
    "Interrupted in the second epoch, kept at its start or in the middle"
    want = fit(make(), tmp_path/'whole.pth', **kwargs)
    want_end = everything(want)
    for i,n in enumerate((None, every)):
        got = interrupted(make, tmp_path/f'{i}.pth', 'after_pred', at, every=n, **kwargs)
        check_same(everything(got), want_end)
    return want,got

class TorchData:
    "Of torch's kind"
    def __init__(self): self.rng = random.Random(1)
    def __len__(self): return 30
    def __getitem__(self, i): return image(i)+.1*torch.rand(1)+.1*self.rng.random(),i%3

def torch_loaders(num_workers=0):
    dls = [torch.utils.data.DataLoader(TorchData(), 4, shuffle=i==0, num_workers=num_workers) for i in (0,1)]
    return DataLoaders(*dls, device='cpu')

slow_kinds = [pytest.param(partial(o, num_workers=2), marks=pytest.mark.slow) for o in (loaders, torch_loaders)]
@pytest.mark.parametrize('dls', [partial(loaders, memory=True), torch_loaders, *slow_kinds],
    ids=['memory','torch','workers','torch_workers'])
def test_loaders(tmp_path, dls): check_kind(tmp_path, partial(learner, dls, loss_func=CrossEntropyLossFlat()))

class Unstated:
    "A scheduler that says nothing of its state"
    def __init__(self, opt): self.optimizer = opt
    def step(self):
        for g in self.optimizer.param_groups: g['lr'] *= .9

on_plateau = partial(torch_sched.ReduceLROnPlateau, patience=0, threshold=.9)
_per_batch,_per_epoch = partial(torch_sched.OneCycleLR, max_lr=.1),partial(torch_sched.StepLR, step_size=1)
schedules = dict(batch=lambda: BatchScheduler(_per_batch), epoch=lambda: EpochScheduler(_per_epoch))
schedules['multi'] = lambda: EpochScheduler(partial(torch_sched.MultiStepLR, milestones=[1,2]))
schedules['metric'] = lambda: EpochScheduler(on_plateau, monitor='train_loss')
schedules['anneal'] = lambda: GradAnneal(ratio=.999)
schedules['unstated'] = lambda: EpochScheduler(Unstated)
schedules['plateau'] = lambda: ReduceLROnPlateau(patience=1, min_delta=9., monitor='train_loss')

@pytest.mark.parametrize('opt', ['fastai', pytest.param('torch', marks=pytest.mark.slow)])
@pytest.mark.parametrize('name', some(schedules, ['metric','unstated']))
def test_schedules(tmp_path, name, opt):
    func = Adam if opt == 'fastai' else partial(OptimWrapper, opt=torch.optim.SGD, momentum=.9)
    kwargs = dict(how=Learner.fit, cbs=[schedules[name]], lr=.05, n=3)
    want,got = check_kind(tmp_path, partial(learner, opt_func=func), **kwargs)
    if (name,opt) != ('plateau','torch'): assert len(set(want.recorder.lrs)) > 1

def test_schedule_without_a_state_within_an_epoch(tmp_path):
    with refused('leave `every` of Checkpoint out'):
        fit(learner(), tmp_path/'a', every=2, how=Learner.fit, cbs=[lambda: BatchScheduler(Unstated)])
    check_kind(tmp_path, learner, every=None, how=Learner.fit, cbs=[lambda: BatchScheduler(Unstated)])

class Average(Callback):
    "Holds a net of its own, a count and a generator"
    def before_fit(self): self.net,self.count,self.rng = deepcopy(self.model),0,torch.Generator().manual_seed(2)
    def after_batch(self):
        if not self.training: return
        self.count += 1
        w = .5*torch.rand(1, generator=self.rng)
        for a,b in zip(self.net.parameters(), self.model.parameters()): a.data.lerp_(b.data, w.item())
    def after_fit(self): self.learn.model.load_state_dict(self.net.state_dict())

class Own(Callback):
    "Tells of its state itself"
    def before_fit(self): self.kept = SimpleNamespace(n=0)
    def before_batch(self):
        self.kept.n += 1
        self.learn.xb = (self.x + .01*self.kept.n,)
    def state_dict(self): return vars(self.kept)
    def load_state_dict(self, d): vars(self.kept).update(d)

callbacks = dict(mixup=MixUp, cutmix=CutMix, clip=GradientClip, flip=AlternateFlip, record=Record, bn=BnFreeze)
callbacks.update(average=Average, own=Own, accumulation=lambda: GradientAccumulation(10))
callbacks['resize'] = lambda: ProgressiveResize(initial=4, begin=.2, finish=.9, step=1)
callbacks['skip'] = lambda: SkipValid(except_every=2)
callbacks['weights'] = lambda: WeightAverage(half_life=.5)
callbacks['weights_bn'] = lambda: WeightAverage(equal=True, start=.3, every=2, bn='epoch')
callbacks.update(cut=RandCutMix, blend=RandMixUp)
callbacks['fp16'] = lambda: AutoPrecision(torch.float16, init_scale=2.**30, growth_interval=4)

quick_callbacks = 'record average own fp16 weights'.split()
@pytest.mark.parametrize('name', some(callbacks, quick_callbacks))
def test_callbacks(tmp_path, name):
    made = []
    def _new():
        made.append(callbacks[name]())
        return made[-1]
    check_kind(tmp_path, learner, cbs=[_new])
    if name == 'record': assert made[0].to_df().equals(made[-1].to_df()) and len(made[0].to_df()) == 10
    if name == 'average': assert made[0].count == made[-1].count == 10

def test_looking_at_a_learner_that_keeps_its_fits_writes_nothing(tmp_path):
    learn = learner(cbs=[Checkpoint(tmp_path/'a.pth', every=1)])
    learn.show_train_batch(show=False)
    assert isinstance(learn.speed_report(.3), SpeedReport) and list(tmp_path.iterdir()) == []

optimizers = dict(lookahead=dict(opt_func=ranger), adamw=dict(opt_func=partial(OptimWrapper, opt=torch.optim.AdamW)))
optimizers.update(sgd=dict(opt_func=partial(SGD, mom=.9)), wd=dict(wd=.1, train_bn=False))
@pytest.mark.parametrize('name', some(optimizers, ['adamw']))
def test_optimizers(tmp_path, name): check_kind(tmp_path, partial(learner, **optimizers[name]))

class Carry(Module):
    "Carries something from batch to batch, a buffer that is in no state_dict too, and has a part that is used at times"
    def __init__(self):
        self.lin,self.extra,self.hidden = nn.Linear(16, 3),nn.Linear(16, 3),[torch.zeros(3)]
        self.register_buffer('seen', torch.zeros(1), persistent=False)
    def forward(self, x):
        res = self.lin(x) + .1*self.hidden[0] + .01*self.seen
        if self.training:
            self.seen += 1
            self.hidden = [res.mean(0).detach()]
            if 6 < self.seen < 9: res = res + self.extra(x)
        return res

def test_what_a_net_carries_along(tmp_path): check_kind(tmp_path, partial(learner, model=lambda: net(Carry())), at=10)

def test_metrics_of_training(tmp_path):
    def _make(n=0):
        learn = learner(n=n, metrics=[accuracy, Perplexity()])
        learn.recorder.train_metrics = True
        return learn
    check_kind(tmp_path, _make)

def test_trackers(tmp_path):
    "Best values and files, and a fit that ends early"
    def _make(n=0): return learner(n=n, path=tmp_path)
    trackers = partial(SaveModelCallback, 'accuracy'),partial(EarlyStoppingCallback, 'accuracy', patience=2)
    want,got = check_kind(tmp_path, _make, n=9, cbs=trackers)
    assert 2 < len(got.recorder.values) < 9

def test_rows_of_the_table(tmp_path, capsys):
    "Those from before are in the log with the times that they had"
    def _rows(learn, rows):
        learn.logger = lambda o: rows.append([*o])
        learn.fit(3, cbs=[Checkpoint(tmp_path/'a'), Bomb()])
        return rows
    first = []
    Bomb.event,Bomb.at = 'before_validate',3
    with pytest.raises(KeyboardInterrupt): _rows(learner(), first)
    Bomb.event = None
    then = _rows(learner(), [])
    assert then[:2] == first and len(first) == 2 and [o[0] for o in then] == [0,1,2] and {len(o) for o in then} == {5}
    assert 'a: going on in epoch 2 after 0 batches' in capsys.readouterr().out
    assert _rows(learner(), []) == then

@pytest.mark.parametrize('bar', [True, False])
def test_bars_and_files_of_rows(tmp_path, bar, capsys):
    def _fit(make=learner):
        learn = make(path=tmp_path)
        if bar: learn.add_cb(ProgressCallback())
        learn.fit(3, cbs=[Checkpoint(tmp_path/'a'), CSVLogger(), Bomb()])
        return pd.read_csv(tmp_path/'history.csv')
    Bomb.event,Bomb.at = 'after_step',14
    with pytest.raises(KeyboardInterrupt): _fit()
    Bomb.event = None
    assert _fit()['epoch'].tolist() == _fit()['epoch'].tolist() == [0,1,2]
    assert capsys.readouterr().out.count('had ended') == 1

# Several fits

class Tuned:
    "`fine_tune`, and a look between its fits"
    def __init__(self): self.seen = []
    def __call__(self, learn, path, same=True, epochs=2):
        ck = Checkpoint(path, 3)
        with learn.no_logging():
            learn.fine_tune(epochs, 1e-2, cbs=[ck, Bomb()])
            self.seen.append(learn.model[1][1].weight.detach().clone())
            learn.lr_find(num_it=8, show_plot=False, suggest_funcs=None)
            learn.fit(2, 1e-3, cbs=[ck, Bomb()])
        return learn

@pytest.mark.parametrize('at', some([2, 5, 7, 12, 17, 20, 24], [7, 24]))
def test_several_fits(tmp_path, at):
    run = Tuned()
    want = everything(run(learner(), tmp_path/'whole.pth'))
    Bomb.event,Bomb.at = 'before_backward',at
    with pytest.raises(KeyboardInterrupt): run(learner(), tmp_path/'a.pth')
    Bomb.event = None
    got = everything(run(learner(n=2), tmp_path/'a.pth'))
    assert all(map(torch.equal, got['model'], want['model'])) and got['draws'] == want['draws']
    assert all(torch.equal(o, run.seen[0]) for o in run.seen)
    assert sorted(o.name for o in tmp_path.glob('a*')) == ['a-2.pth', 'a-3.pth', 'a.pth']

def test_a_fit_that_has_ended(tmp_path, whole, end, capsys):
    fit(learner(), tmp_path/'a.pth')
    was = (tmp_path/'a.pth').read_bytes()
    class Never(Callback):
        def before_epoch(self): raise AssertionError
    learn = learner(n=3)
    with learn.no_logging(): learn.fit_one_cycle(2, slice(1e-3,1e-1), cbs=[Checkpoint(tmp_path/'a.pth'), Bomb()])
    assert 'a.pth: this fit had ended' in capsys.readouterr().out and (tmp_path/'a.pth').read_bytes() == was
    got = everything(learn)
    assert got['draws'] == end['draws'] and all(map(torch.equal, got['model'], end['model']))
    assert all(got[k] == end[k] for k in ('values','hps','iters'))
    assert all(map(torch.equal, got['losses'], end['losses']))
    learn.recorder.plot_loss()
    plt.close()

def test_a_second_checkpoint_of_a_path_that_has_ended(tmp_path):
    learn = fit(learner(), tmp_path/'a.pth')
    with refused('come to the end of .*a.pth already.*one Checkpoint'): fit(learn, tmp_path/'a.pth')
    fit(learn, tmp_path/'b.pth')

def test_the_same_learner_goes_on_after_an_interrupt(tmp_path, end):
    "As in a notebook, where the cell is run again"
    learn = learner()
    Bomb.event,Bomb.at = 'after_step',10
    with pytest.raises(KeyboardInterrupt): fit(learn, tmp_path/'a.pth', every=4)
    Bomb.event,Bomb.at = 'before_batch',2 # within the batches that are passed by, then again
    with pytest.raises(KeyboardInterrupt): fit(learn, tmp_path/'a.pth', every=4)
    Bomb.event = None
    check_same(everything(fit(learn, tmp_path/'a.pth', every=4)), end)
    assert not {'one_batch','_with_events'} & vars(learn).keys()

@pytest.mark.parametrize('for_good', [True, False])
def test_no_trace_of_an_interrupt_in_what_is_passed_by(begun, tmp_path, for_good):
    "The learner validates and trains as if nothing had been, also if it has the Checkpoint for good"
    path = shutil.copy(begun, tmp_path/'a.pth')
    learn = learner(cbs=[GradientClip(), Checkpoint(path)] if for_good else [GradientClip()])
    cbs,many,dl = [] if for_good else [Checkpoint(path)],learn.dls.train.create_batches,learn.dls.train
    def _stop(samps):
        yield next(many(samps))
        raise KeyboardInterrupt
    dl.create_batches = _stop
    run = partial(learn.fit_one_cycle, 2, slice(1e-3,1e-1), cbs=[*cbs, Bomb()])
    with learn.no_logging(), pytest.raises(KeyboardInterrupt): run()
    dl.create_batches = many
    assert 'one_batch' in vars(learn) and len(learn.validate()) == 2 and learn.validate()[0] > 0
    for o in (learn, new := learner()): o.lr_find(num_it=4, show_plot=False, suggest_funcs=None)
    assert len(learn.recorder.losses) == len(new.recorder.losses) and 'one_batch' not in vars(learn)

def test_what_it_is_about_and_its_removal(tmp_path):
    learn,ck = learner(),Checkpoint(tmp_path/'a.pth', about=dict(data='May', n=[1], t=tensor([2., 3.])))
    with learn.no_logging():
        for n in (1,2): learn.fit(n, cbs=ck)
        with refused('about.data was .May. and is .June.'):
            learner().fit(1, cbs=Checkpoint(tmp_path/'a.pth', about=dict(data='June', n=[1], t=[2., 3.])))
        Checkpoint(tmp_path/'a.pth').remove()
        assert list(tmp_path.iterdir()) == []
        learn.fit(1, cbs=Checkpoint(tmp_path/'a.pth'))

def test_files_that_do_not_belong_together(tmp_path):
    run = Tuned()
    run(learner(), tmp_path/'a.pth')
    (tmp_path/'a.pth').unlink()
    with refused('a-2.pth belongs to another training'): run(learner(), tmp_path/'a.pth')

def test_what_is_no_fit_writes_nothing(tmp_path):
    path = tmp_path/'a.pth'
    learn = learner(cbs=Checkpoint(path, 1))
    with learn.no_logging():
        learn.lr_find(num_it=8, show_plot=False, suggest_funcs=None)
        learn.validate()
        learn.get_preds()
        assert not path.exists()
        learn.fit(1)
        was = path.read_bytes()
        learn.validate()
        learn.get_preds()
        learn.lr_find(num_it=8, show_plot=False, suggest_funcs=None)
        learn.show_results(max_n=1)
    assert path.read_bytes() == was and [o.name for o in tmp_path.iterdir()] == ['a.pth']

def test_validation_within_a_fit(tmp_path):
    class Looks(FitCallback):
        order,remove_on_fetch = 70,False
        def after_epoch(self): self.learn.validate()
    check_kind(tmp_path, learner, cbs=[Looks])

# What is refused

def other_net(): return net(nn.Sequential(nn.Dropout(.5), nn.Linear(16, 3), nn.Identity()))
def wider(): return net(nn.Linear(16, 4))
def frozen(n=0):
    learn = learner(n=n)
    learn.freeze()
    return learn

# what differs in the fit, or how else the learner is made
refusals = dict(epochs=(dict(n=4), 'n_epoch was 2 and is 4'), lr=(dict(lr=1e-2), 'schedule.lr'))
refusals.update(wd=(dict(wd=.5), 'wd.0 was'), how=(dict(how=Learner.fit_flat_cos), 'schedule'))
refusals.update(more=(dict(cbs=[GradientClip, MixUp]), r'callbacks\.'))
refusals.update(setting=(dict(cbs=[partial(GradientClip, 9.)]), 'max_norm was 1.0 and is 9.0'))
_made = dict(net=(dict(model=other_net), 'net'), shapes=(dict(model=wider), 'net.*out_features=4'))
_made.update(groups=(dict(splitter=params), 'lr.1 was'), opt=(dict(opt_func=partial(Adam, eps=1e-3)), 'optimizer'))
_made.update(loss=(dict(loss_func=LabelSmoothingCrossEntropyFlat(eps=.3)), 'loss'))
_made.update(metrics=(dict(metrics=[]), 'metrics'))
_made.update(bs=(dict(dls=partial(loaders, bs=5)), 'train.bs was 4 and is 5'))
_made.update(workers=(dict(dls=partial(loaders, 1)), 'train.workers was 0 and is 1'))
_made.update(tfms=(dict(dls=partial(loaders, batch_tfms=[])), 'train.tfms'))
refusals.update({k: (partial(learner, **o), match) for k,(o,match) in _made.items()})
refusals['frozen'] = frozen, 'groups.0.*to be trained'

@pytest.fixture(scope='module')
def begun(tmp_path_factory):
    "The file of a fit that was interrupted"
    path = tmp_path_factory.mktemp('begun')/'a.pth'
    Bomb.event,Bomb.at = 'before_batch',11
    try:
        with pytest.raises(KeyboardInterrupt): fit(learner(), path, every=4, cbs=[GradientClip])
    finally: Bomb.event = None
    return path

@pytest.mark.parametrize('name', refusals)
def test_other_settings_are_refused(begun, name):
    change,match = refusals[name]
    was,kwargs = begun.read_bytes(),{**dict(cbs=[GradientClip]), **(change if isinstance(change, dict) else {})}
    learn = (learner if isinstance(change, dict) else change)()
    weights = [p.clone() for p in learn.model.parameters()]
    with refused(f'another kind: .*{match}[\\s\\S]*another path'): fit(learn, begun, every=4, **kwargs)
    assert begun.read_bytes() == was and all(map(torch.equal, weights, learn.model.parameters()))
    assert [o.name for o in begun.parent.iterdir()] == ['a.pth']

class Evil:
    def __init__(self, path): self.path = path
    def __reduce__(self): return os.mkdir, (str(self.path),)

def flipped(b):
    i = len(b)//2
    return b[:i] + bytes([b[i]^255]) + b[i+1:]

def half(b): return b[:len(b)//2]
def cut(b): return b[:-9]
def text(b): return b'text'
def empty(b): return b''
@pytest.mark.parametrize('change', [empty, text, half, cut, flipped])
def test_damaged_files(begun, tmp_path, change):
    path = tmp_path/'a.pth'
    path.write_bytes(change(begun.read_bytes()))
    was = path.read_bytes()
    with refused('a.pth is no checkpoint, or damaged .*remove it'): fit(learner(), path, cbs=[GradientClip])
    assert path.read_bytes() == was

@pytest.mark.parametrize('legacy', [False, True])
def test_hostile_and_foreign_files_run_no_code(tmp_path, legacy):
    path = tmp_path/'a.pth'
    torch.save({'format': Evil(tmp_path/'harm')}, path, _use_new_zipfile_serialization=not legacy)
    with refused('no checkpoint'): fit(learner(), path)
    path.write_bytes(pickle.dumps(Evil(tmp_path/'harm')))
    with refused('no checkpoint'): fit(learner(), path)
    assert [o.name for o in tmp_path.iterdir()] == ['a.pth']
    for o in (learner().model.state_dict(), {'format': 1}, [1]):
        torch.save(o, path)
        with refused('no checkpoint of this version'): fit(learner(), path)

def test_wrong_arguments(tmp_path):
    for o in (0, -1, 1.5, '3'):
        with refused(f'every is a number of batches.*{o!r}'): Checkpoint(tmp_path/'a', o)
    with refused('is a folder'): Checkpoint(tmp_path)
    with refused('2 Checkpoints'): fit(learner(cbs=Checkpoint(tmp_path/'b')), tmp_path/'a')
    dl = torch.utils.data.DataLoader(TorchData(), 4, num_workers=1, persistent_workers=True)
    with refused('persistent_workers'):
        fit(learner(lambda: DataLoaders(dl, dl, device='cpu'), loss_func=CrossEntropyLossFlat()), tmp_path/'a')
    assert list(tmp_path.iterdir()) == []

class Unkept(Callback):
    def state_dict(self): return dict(f=print)
    def load_state_dict(self, d): pass

def test_a_state_that_cannot_be_kept(tmp_path):
    with refused("since a state holds a builtins.builtin_function"): fit(learner(), tmp_path/'a', cbs=[Unkept])

def test_other_generators_than_there_were(begun, tmp_path):
    path = shutil.copy(begun, tmp_path/'a.pth')
    def _less():
        dls = loaders()
        for dl in dls.loaders:
            for f in dl.after_item.fs: vars(f).pop('rng', None)
        return dls
    run = partial(fit, learner(_less), path, every=4, cbs=[GradientClip])
    with refused('states of the random generators.*Generator'): run()

def test_a_disk_that_is_full(tmp_path, monkeypatch):
    "The error is an OSError, and the file before stays"
    learn,path = learner(),tmp_path/'a.pth'
    sync = os.fsync
    calls = []
    def _fsync(f):
        calls.append(f)
        if len(calls) == 3: raise OSError(28, 'No space left on device')
        sync(f)
    monkeypatch.setattr(os, 'fsync', _fsync)
    with pytest.raises(OSError, match='No space'): fit(learn, path)
    assert [o.name for o in tmp_path.iterdir()] == ['a.pth'] and zipfile.ZipFile(path).testzip() is None

# Other processes

def train(out):
    learn = learner(n=random.randint(0, 99) if (out/'a.pth').exists() else 0)
    # so often kept that a kill hits the writing too
    fit(learn, out/'a.pth', every=1, n=10, cbs=[GradientClip])
    torch.save(list(learn.model.state_dict().values()), out/'weights')

def main(out):
    "Train in processes of their own, of which ten are killed, and in one that isn't; all begin as this one is"
    dice = random.Random(3)
    for folder,kills in ((out/'whole', 0), (out/'killed', 10)):
        folder.mkdir()
        for i in range(kills+1):
            pid = os.fork()
            if pid == 0:
                try: train(folder)
                finally: os._exit(0)
            if i < kills:
                time.sleep(dice.uniform(.02, .5))
                os.kill(pid, signal.SIGKILL)
            code = os.waitpid(pid, 0)[1]
            print(folder.name, code, (folder/'weights').exists(), [o.name for o in folder.iterdir()])

@pytest.mark.slow
def test_killed_at_any_moment(tmp_path):
    cmd = [sys.executable, '-W', 'ignore', __file__, str(tmp_path)]
    res = subprocess.run(cmd, capture_output=True, text=True, timeout=90)
    lines = res.stdout.splitlines()
    # how many kills come before the end is a matter of the machine's speed
    assert sum(' 9 False' in o for o in lines) > 1, res.stderr + res.stdout
    got,want = (torch.load(tmp_path/o/'weights') for o in ('killed','whole'))
    assert all(map(torch.equal, got, want))
    for o in ('killed','whole'): assert sorted(f.name for f in (tmp_path/o).iterdir()) == ['a.pth', 'weights']

def broadcast(self, t, rank):
    "fastai's own moves the indices to a GPU first"
    t = torch.tensor(list(t))
    torch.distributed.broadcast(t, rank)
    return t.tolist()

def main_distrib(out):
    "A whole fit, and one that is interrupted and goes on with other weights and random states in each process"
    DistributedDL._broadcast = broadcast
    rank,res = rank_distrib(),[]
    for path,stops in ((out/'whole.pth', []), (out/'a.pth', [9,2])):
        for n,at in enumerate([*stops, None]):
            learn = learner(n=100*rank+n)
            Bomb.event,Bomb.at = at and 'after_backward',at
            with learn.distrib_ctx(sync_bn=False, cpu=True):
                with contextlib.suppress(KeyboardInterrupt): fit(learn, path, every=2)
        res.append([*(o.as_subclass(Tensor) for o in learn.model.state_dict().values()), tensor(draws()[0])])
    torch.save(res, out/f'weights{rank}')

@pytest.mark.slow
def test_several_processes(tmp_path):
    "Each goes on with its own random states"
    pytest.importorskip('accelerate')
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    env = dict(WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port), ACCELERATE_USE_CPU='true')
    cmd,pipes = [sys.executable, '-W', 'ignore', __file__, str(tmp_path)],dict(stderr=subprocess.PIPE, text=True)
    envs = [{**os.environ, **env, 'RANK': r, 'LOCAL_RANK': r} for r in '01']
    for p in [subprocess.Popen(cmd, env=o, **pipes) for o in envs]:
        err = p.communicate(timeout=120)[1]
        assert p.returncode == 0, err
    (whole,got),(whole1,got1) = (torch.load(tmp_path/f'weights{r}') for r in '01')
    assert all(map(torch.equal, whole, got)) and all(map(torch.equal, whole1, got1))
    assert not torch.equal(got[-1], got1[-1])
    assert all(map(torch.equal, got[:4], got1[:4])) and [o.name for o in tmp_path.glob('a*')] == ['a.pth']

if __name__ == '__main__': (main_distrib if num_distrib() else main)(Path(sys.argv[1]))
