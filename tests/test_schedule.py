"Torch schedulers on fastai optimizers, beside plain torch loops; what they leave, and how they go on"
import inspect, pytest, sys, types, warnings
from numbers import Number
from fastai.callback.fp16 import *
from fastai.vision.all import *
from fastai_ext.core import undisturbed
from fastai_ext.schedule import *
from torch.optim import lr_scheduler as S
from torch.optim.swa_utils import SWALR

n_batches,n_epochs = 6,3
n_steps = n_batches*n_epochs
cycle,slower,halved = partial(S.OneCycleLR, max_lr=.1),*[partial(S.ExponentialLR, gamma=o) for o in (.9,.5)]

def classes():
    "Every scheduler class of torch.optim.lr_scheduler"
    bases = S.LRScheduler, S._LRScheduler
    found = {o for o in vars(S).values() if inspect.isclass(o) and issubclass(o, (S.LRScheduler, S.ReduceLROnPlateau))}
    return sorted(found-{*bases}, key=lambda o: o.__name__)

def tenth(i): return 1/(1+i/10)

def makers(n, groups):
    "A function of an optimizer for each class, for `n` steps"
    tops = [1e-3,5e-3,1e-2][-groups:]
    return dict(LambdaLR=partial(S.LambdaLR, lr_lambda=[tenth]*groups),
        MultiplicativeLR=partial(S.MultiplicativeLR, lr_lambda=tenth), StepLR=partial(S.StepLR, step_size=2),
        MultiStepLR=partial(S.MultiStepLR, milestones=[1,4], gamma=.3), ConstantLR=partial(S.ConstantLR, total_iters=2),
        LinearLR=partial(S.LinearLR, total_iters=4), ExponentialLR=partial(S.ExponentialLR, gamma=.8),
        PolynomialLR=partial(S.PolynomialLR, power=2.),
        SequentialLR=lambda o: S.SequentialLR(o, [S.LinearLR(o, .1, total_iters=2), S.CosineAnnealingLR(o, n-2)], [2]),
        ChainedScheduler=lambda o: S.ChainedScheduler([S.ConstantLR(o, .5, 3), S.ExponentialLR(o, .9)]),
        CosineAnnealingLR=partial(S.CosineAnnealingLR, T_max=n, eta_min=1e-5),
        ReduceLROnPlateau=partial(S.ReduceLROnPlateau, patience=0, threshold=.9),
        CyclicLR=partial(S.CyclicLR, base_lr=[o/9 for o in tops], max_lr=tops, step_size_up=3, mode='exp_range',
            gamma=.9),
        CosineAnnealingWarmRestarts=partial(S.CosineAnnealingWarmRestarts, T_0=2),
        OneCycleLR=partial(S.OneCycleLR, max_lr=tops, total_steps=n))

opts = dict(Adam=Adam, SGD=partial(SGD, mom=.9), AdamW=partial(OptimWrapper, opt=torch.optim.AdamW))
torch_opts = dict(Adam=torch.optim.AdamW, SGD=partial(torch.optim.SGD, momentum=.9), AdamW=torch.optim.AdamW)
lrs3 = [1e-4,1e-3,1e-2]

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.ls = nn.ModuleList([nn.Linear(1,4), nn.Linear(4,4), nn.Linear(4,1)])
    def forward(self, x):
        for l in self.ls: x = l(x)
        return x

def net_groups(m, n): return [list(l.parameters()) for l in m.ls] if n == 3 else [list(m.parameters())]

def learner(groups=1, opt='Adam', net=None, **kwargs):
    data = L((torch.full((1,),i/48), torch.full((1,),i/48)) for i in range(48))
    dls = DataLoaders.from_dsets(data, data, bs=8, num_workers=0, shuffle=False)
    splitter = partial(net_groups, n=groups)
    return Learner(dls, net or Net(), loss_func=MSELossFlat(), opt_func=opts.get(opt, opt), splitter=splitter, **kwargs)

class Rates(Callback):
    "Keeps the hyper-parameters that each training batch was stepped with"
    order,run_valid = 1000,False
    def before_fit(self): self.got = []
    def after_step(self): self.got.append([(h['lr'],h.get('mom')) for h in self.opt.hypers])
    def lrs(self): return np.array([[float(h[0]) for h in o] for o in self.got])
    def moms(self): return np.array([[h[1] for h in o] for o in self.got])

def quiet(learn, n=n_epochs, *cbs, **kwargs):
    with learn.no_bar(), learn.no_logging(): learn.fit(n, cbs=L(cbs), **kwargs)
    return learn

def rates(learn, n=n_epochs, *cbs, **kwargs):
    r = Rates()
    quiet(learn, n, *cbs, r, **kwargs)
    return r

def loop(opt, groups, make, lrs, n=n_epochs, per_batch=True, metrics=None):
    "The rates and momentums of a plain torch loop"
    ps = [nn.Parameter(torch.ones(1)) for _ in range(groups)]
    o = torch_opts[opt]([dict(params=[p], lr=lr) for p,lr in zip(ps, lrs)], lr=1.)
    s,res,moms = make(o),[],[]
    for e in range(n):
        for _ in range(n_batches):
            for p in ps: p.grad = torch.ones(1)
            res.append([g['lr'] for g in o.param_groups])
            moms.append([g['betas'][0] if 'betas' in g else g['momentum'] for g in o.param_groups])
            o.step()
            if per_batch: s.step()
        if not per_batch: s.step(*([metrics[e]] if metrics else []))
    return np.array(res),np.array(moms)

def close(a, b): np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)

# Equal to a plain torch loop

@pytest.mark.parametrize('groups', [1,3])
@pytest.mark.parametrize('opt', opts)
@pytest.mark.parametrize('name', [o.__name__ for o in classes()])
def test_equals_torch_loop(name, opt, groups):
    "Rates and momentums batch by batch, stepped by batch and by epoch"
    lrs = lrs3 if groups==3 else [1e-2]
    for per_batch,n in ((True,n_steps),(False,n_epochs)):
        make,metrics = makers(n, groups)[name],None
        if name == 'ReduceLROnPlateau':
            if per_batch: continue
        cb = (BatchScheduler if per_batch else EpochScheduler)(make)
        learn = learner(groups, opt)
        r = rates(learn, n_epochs, cb, lr=np.array(lrs) if groups==3 else lrs[0])
        if name == 'ReduceLROnPlateau': metrics = [float(o[1]) for o in learn.recorder.values]
        want,moms = loop(opt, groups, make, lrs, per_batch=per_batch, metrics=metrics)
        close(r.lrs(), want)
        if name in ('OneCycleLR','CyclicLR'): close(r.moms(), moms)
        assert len(np.unique(want)) > groups

def test_every_class_has_a_case(): assert {o.__name__ for o in classes()} == set(makers(5, 1)) and len(classes()) >= 15

def test_swalr():
    "A scheduler from elsewhere in torch"
    make = partial(SWALR, swa_lr=.05, anneal_epochs=4)
    close(rates(learner(), n_epochs, BatchScheduler(make), lr=1e-2).lrs(), loop('Adam', 1, make, [1e-2])[0])

def lion_step(p, lr, mom, sqr_mom, grad_avg=None, **kwargs):
    g = torch.zeros_like(p) if grad_avg is None else grad_avg
    p.data.add_((g*mom + p.grad*(1-mom)).sign(), alpha=-lr)
    return {'grad_avg': g*sqr_mom + p.grad*(1-sqr_mom)}

def Lion(params, lr, mom=.9, sqr_mom=.99):
    cbs = [weight_decay, lion_step]
    return Optimizer(params, cbs, lr=lr, mom=mom, sqr_mom=sqr_mom)
def look(params, lr): return Lookahead(SGD(params, lr, mom=.9), k=2)

@pytest.mark.parametrize('opt', [RMSProp, RAdam, QHAdam, Larc, Lamb, Lion, look, ranger,
    *[partial(OptimWrapper, opt=o) for o in (torch.optim.RAdam, torch.optim.RMSprop)],
    partial(OptimWrapper, opt=torch.optim.SGD, momentum=.9)])
def test_other_optimizers(opt):
    make = partial(S.OneCycleLR, max_lr=1e-2, total_steps=n_steps)
    r = rates(learner(opt=opt), n_epochs, BatchScheduler(make), lr=1e-2)
    want,moms = loop('Adam', 1, make, [1e-2])
    close(r.lrs(), want)
    close(r.moms(), moms)

@pytest.mark.parametrize('opt', ['Adam','AdamW'])
def test_losses_equal_torch_loop(opt):
    "The same mathematics in fastai and in torch: the same losses within 1e-6"
    make,net = partial(S.OneCycleLR, max_lr=.05, total_steps=n_steps),Net()
    mine,seen = deepcopy(net),[]
    kw = dict(betas=(.9,.99), eps=1e-5, weight_decay=.01)
    if opt == 'AdamW': opt = partial(OptimWrapper, opt=torch.optim.AdamW, **kw)
    learn = learner(1, opt, net=mine, wd_bn_bias=True)
    def keep(self):
        if self.training: seen.append(self.loss.item())
    quiet(learn, n_epochs, BatchScheduler(make), Callback(after_batch=keep))
    o = torch.optim.AdamW(net.parameters(), lr=1e-3, **kw)
    s,want = make(o),[]
    for _ in range(n_epochs):
        for x,y in learn.dls.train:
            loss = F.mse_loss(net(x), y)
            want.append(loss.item())
            loss.backward()
            o.step()
            o.zero_grad()
            s.step()
    np.testing.assert_allclose(seen, want, rtol=1e-5, atol=1e-7)
    assert len(set(want)) == n_steps

def test_recorder_and_plot():
    "The recorder's rates, and plot_sched, as after fastai's own schedules; also with training metrics"
    learn = learner(metrics=mae)
    learn.recorder.train_metrics = True
    r = rates(learn, n_epochs, BatchScheduler(partial(S.OneCycleLR, max_lr=.05)))
    close(learn.recorder.lrs, r.lrs()[:,0])
    close(learn.recorder.hps['lr'], r.lrs()[:,0])
    close(learn.recorder.hps['mom'], r.moms()[:,0])
    learn.recorder.plot_sched()
    plot_lines = [o.get_ydata() for o in plt.gcf().axes[0].lines]
    close(plot_lines[0], r.lrs()[:,0])
    plt.close('all')
    test_eq(list(learn.recorder.metric_names), ['epoch','train_loss','train_mae','valid_loss','valid_mae','time'])
    ax = learn.recorder.plot_loss(skip_start=0)
    valid = first(o for o in ax.lines if o.get_label()=='valid')
    close(valid.get_ydata(), [o[2] for o in learn.recorder.values])
    close(valid.get_xdata(), [n_batches*(i+1) for i in range(n_epochs)])
    plt.close('all')

def test_constant_momentum_is_not_plotted():
    learn = quiet(learner(), 1, BatchScheduler(partial(S.StepLR, step_size=2)))
    assert list(learn.recorder.hps) == ['lr']

# What is filled in

def test_lengths_are_filled_in():
    "total_steps, T_max, steps_per_epoch and epochs, in the units of the callback"
    seen = {}
    def make(opt, total_steps, T_max, steps_per_epoch, epochs, mine=7):
        seen.update(locals())
        return S.ConstantLR(opt)
    quiet(learner(), 3, BatchScheduler(make))
    assert [seen[o] for o in ('total_steps','T_max','steps_per_epoch','epochs','mine')] == [18,18,6,3,7]
    quiet(learner(), 3, EpochScheduler(make))
    assert [seen[o] for o in ('total_steps','T_max','steps_per_epoch','epochs','mine')] == [3,3,1,3,7]

@pytest.mark.parametrize('kw',
    [{}, dict(epochs=3), dict(steps_per_epoch=6), dict(epochs=3, steps_per_epoch=6), dict(total_steps=18)])
def test_onecycle_lengths(kw):
    want = loop('Adam', 1, partial(S.OneCycleLR, max_lr=.1, total_steps=18), [1e-2])[0]
    close(rates(learner(), 3, BatchScheduler(partial(S.OneCycleLR, max_lr=.1, **kw))).lrs(), want)

def test_given_lengths_are_kept():
    close(rates(learner(), 3, BatchScheduler(partial(S.CosineAnnealingLR, T_max=5)), lr=.1).lrs(),
        loop('Adam', 1, partial(S.CosineAnnealingLR, T_max=5), [.1])[0])
    close(rates(learner(), 3, BatchScheduler(partial(cycle, total_steps=30))).lrs(),
        loop('Adam', 1, partial(S.OneCycleLR, max_lr=.1, total_steps=30), [.1])[0])

def test_class_without_missing_arguments():
    want = loop('Adam', 1, partial(S.CosineAnnealingLR, T_max=18), [.1])[0]
    close(rates(learner(), 3, BatchScheduler(S.CosineAnnealingLR), lr=.1).lrs(), want)

def test_slices_are_spread():
    r = rates(learner(3), 3, BatchScheduler(partial(S.OneCycleLR, max_lr=slice(1e-4,1e-2))))
    close(r.lrs(), loop('Adam', 3, partial(S.OneCycleLR, max_lr=lrs3, total_steps=18), [1.]*3)[0])
    r = rates(learner(3), 3, BatchScheduler(partial(S.OneCycleLR, max_lr=slice(1e-2))))
    close(r.lrs(), loop('Adam', 3, partial(S.OneCycleLR, max_lr=[1e-3,1e-3,1e-2], total_steps=18), [1.]*3)[0])

def test_slice_of_fit_and_frozen_groups():
    "The rates of the fit are where each group starts, also those of frozen groups; frozen weights stay"
    learn = learner(3)
    learn.freeze_to(1)
    old = [p.detach().clone() for p in learn.model.parameters()]
    r = rates(learn, 3, BatchScheduler(slower), lr=slice(1e-4,1e-2))
    close(r.lrs(), loop('Adam', 3, slower, lrs3)[0])
    new = list(learn.model.parameters())
    assert all(torch.equal(a, b) for a,b in zip(old[:2], new[:2])) and not torch.equal(old[-1], new[-1])

def test_two_schedulers():
    "A warmup by batch and a decay by epoch share the groups as in torch"
    warm,decay = partial(S.LinearLR, start_factor=.1, total_iters=8),partial(S.StepLR, step_size=1, gamma=.5)
    learn = learner()
    r = rates(learn, 3, BatchScheduler(warm), EpochScheduler(decay), lr=.1)
    o = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=.1)
    a,b,want = warm(o),decay(o),[]
    for _ in range(3):
        for _ in range(n_batches):
            want.append([o.param_groups[0]['lr']])
            o.step()
            a.step()
        b.step()
    close(r.lrs(), want)
    assert learn.opt.hypers[0]['lr'] == .1

def test_weight_decay_and_tensor_rates():
    "A scheduler of one's own may move what it likes; rates may be tensors"
    class Wd(S.LRScheduler):
        def get_lr(self):
            for g in self.optimizer.param_groups: g['weight_decay'] = .1*(self.last_epoch+1)
            return [g['lr']*.5 for g in self.optimizer.param_groups]
    for opt in (Adam, partial(OptimWrapper, opt=torch.optim.AdamW)):
        wds,learn = [],learner(opt=opt)
        quiet(learn, 1, BatchScheduler(Wd), Callback(after_step=lambda self: wds.append(self.opt.hypers[0]['wd'])))
        np.testing.assert_allclose(wds, [.1*i for i in range(1, 7)])
        assert learn.opt.hypers[0]['wd'] == .01
    def tensor_opt(params, lr): return OptimWrapper(params, opt=torch.optim.AdamW, lr=tensor(lr))
    learn = learner(opt=tensor_opt)
    learn.create_opt()
    r = rates(learn, 3, BatchScheduler(slower), lr=[tensor(.1)])
    assert isinstance(learn.opt.hypers[0]['lr'], Tensor) and learn.opt.hypers[0]['lr'] == .1
    np.testing.assert_allclose(learn.recorder.hps['lr'], loop('Adam', 1, slower, [.1])[0][:,0], rtol=1e-5)

# Steps that are not made

@pytest.mark.parametrize('n_acc', [8,16,20,100])
def test_gradient_accumulation(n_acc):
    "The schedule moves with the optimizer, and its length is the number of the optimizer's steps"
    r = rates(learner(), 3, GradientAccumulation(n_acc), BatchScheduler(cycle))
    n = len(r.got)
    assert n == n_batches*3*8//(math.ceil(n_acc/8)*8)
    o = torch.optim.AdamW([nn.Parameter(torch.ones(1))])
    s,want = S.OneCycleLR(o, max_lr=.1, total_steps=n),[]
    for _ in range(n):
        want.append([o.param_groups[0]['lr']])
        o.step()
        s.step()
    close(r.lrs(), want)

def test_accumulation_counts_a_short_last_batch():
    data = L((torch.full((1,),i/20), torch.full((1,),i/20)) for i in range(20))
    dls = DataLoaders.from_dsets(data, data, bs=8, num_workers=0, shuffle=False, drop_last=False)
    learn = Learner(dls, Net(), loss_func=MSELossFlat())
    dls.train.drop_last,seen = False,[]
    def make(opt, total_steps):
        seen.append(total_steps)
        return S.ConstantLR(opt)
    r = rates(learn, 3, GradientAccumulation(12), BatchScheduler(make))
    assert seen == [len(r.got)] and len(dls.train)==3

class CpuScaler(MixedPrecision):
    "Mixed precision with a working loss scaler on the CPU; the gradients of the batches `at` overflow"
    def __init__(self, at):
        super().__init__()
        self.at = at
    def before_fit(self):
        self.autocast,self.scales = torch.autocast('cpu', enabled=False),L()
        self.learn.scaler = torch.amp.GradScaler('cpu')
    def after_backward(self):
        if self.train_iter in self.at: first(self.model.parameters()).grad.fill_(float('inf'))

@pytest.mark.parametrize('opt', ['Adam','AdamW'])
def test_skipped_fp16_steps(opt):
    "A batch that overflows makes no step of the schedule, the first batch included"
    learn = learner(opt=opt)
    quiet(learn, 3, CpuScaler([0,4,5,11]), BatchScheduler(slower), lr=.1)
    want,lr = [],.1
    for i in range(n_steps):
        want.append(lr)
        if i not in (0,4,5,11): lr *= .9
    np.testing.assert_allclose(learn.recorder.lrs, want, rtol=1e-12)

def test_cancelled_batches_and_epochs():
    "A training loop that is cut short in `after_batch` loses no step"
    class Cut(Callback):
        def after_batch(self):
            if self.training and self.iter==1: raise CancelTrainException
    r = rates(learner(), 3, Cut(), BatchScheduler(slower), lr=.1)
    close(r.lrs()[:,0], [.1*.9**i for i in range(6)])
    r = rates(learner(), 3, Cut(), EpochScheduler(slower), lr=.1)
    close(r.lrs()[:,0], [.1*.9**(i//2) for i in range(6)])

def test_predictions_within_a_fit():
    "A callback that predicts after each epoch does not disturb the schedule"
    class Predict(Callback):
        order,busy = 75,False
        def after_epoch(self):
            if self.busy: return
            self.busy = True
            self.learn.get_preds()
            self.busy = False
    for cls in (BatchScheduler, EpochScheduler):
        r = rates(learner(), 4, cls(cycle))
        learn,got = learner(),[]
        quiet(learn, 4, cls(cycle), Predict(), Callback(before_step=lambda self: got.append(self.opt.hypers[0]['lr'])))
        close(got, r.lrs()[:,0])
        assert learn.opt.hypers[0]['lr'] == 1e-3 and learn.opt.hypers[0]['mom'] == .9

class Look(Callback):
    "Validates or predicts when an epoch ends"
    busy = False
    def __init__(self, how, order): self.how,self.order = how,order
    def after_epoch(self):
        if self.busy: return
        self.busy = True
        getattr(self.learn, self.how)()
        self.busy = False

def cut(self):
    if (self.epoch,self.iter) in ((0,1),(1,2)): raise CancelStepException

plateau = partial(S.ReduceLROnPlateau, patience=0, threshold=.3)

@pytest.mark.parametrize('order', [0,55,75])
@pytest.mark.parametrize('how', ['validate','get_preds'])
@pytest.mark.parametrize('cb', [partial(BatchScheduler, cycle), partial(EpochScheduler, halved),
    *[partial(EpochScheduler, plateau, monitor=o) for o in ('valid_loss','mae')]])
def test_validation_within_a_fit(cb, how, order):
    "Between epochs, before or after the scheduler's turn: rates as of a fit without it, also if steps are left out"
    net = Net()
    def fit(*cbs):
        learn,got = learner(net=deepcopy(net), metrics=mae),[]
        def keep(self): got.append((self.opt.hypers[0]['lr'],self.opt.hypers[0]['mom']))
        quiet(learn, 4, Callback(before_step=cut, after_step=keep), cb(), *cbs, lr=.05)
        assert len(got) == 4*n_batches
        return got,learn.recorder.hps['lr'],all_hypers(learn)
    for a,b in zip(fit(), fit(Look(how, order))): assert np.array_equal(a, b)

@pytest.mark.parametrize('order', [0,55,75])
def test_training_metric_with_a_validation_within_the_fit(order):
    "The recorder's own, which fastai smooths from anew after a validation"
    seen,want = [],[]
    class Plateau(S.ReduceLROnPlateau):
        def step(self, metrics, epoch=None): seen.append(metrics)
    class Logged(Callback):
        order = 52
        def after_train(self): want.append(self.recorder.log[1])
    quiet(learner(), 4, EpochScheduler(Plateau, monitor='train_loss'), Logged(), Look('validate', order))
    assert seen == want[:-1] and len(set(seen)) == 3

class Peek(Callback):
    "Does `f` after each training batch"
    order = 100
    def __init__(self, f): self.f = f
    def after_batch(self):
        if self.training: self.f(self.learn)

def test_undisturbed_within_a_fit():
    "What looks at the learner, and puts callbacks in and out, in the middle of a fit"
    make = slower
    def peek(learn):
        with undisturbed(learn), learn.added_cbs(Callback()): pass
        with learn.added_cbs(Callback()): pass
    want = rates(learner(), 3, BatchScheduler(make), EpochScheduler(make), lr=.1)
    learn = learner()
    close(rates(learn, 3, BatchScheduler(make), EpochScheduler(make), Peek(peek), lr=.1).lrs(), want.lrs())
    assert learn.opt.hypers[0]['lr'] == .1 and 'remove_cbs' not in vars(learn)

def test_fetched_predictions():
    make = cycle
    learn = learner()
    r = rates(learn, 3, BatchScheduler(make), FetchPredsCallback())
    close(r.lrs(), rates(learner(), 3, BatchScheduler(make)).lrs())

# What is left behind

def all_hypers(learn): return [dict(h) for h in learn.opt.hypers]
def has_place(opt_state): return "'schedule'" in str(opt_state)

class Fail(Callback):
    def __init__(self, exc, at=9): self.exc,self.at = exc,at
    def after_batch(self):
        if self.training and self.train_iter==self.at: raise self.exc

@pytest.mark.parametrize('opt', opts)
@pytest.mark.parametrize('exc', [None, CancelFitException(), KeyboardInterrupt(), RuntimeError('x')])
def test_hypers_are_restored(opt, exc):
    "After a fit that ends, is cancelled, interrupted or fails"
    learn = learner(3, opt)
    learn.create_opt()
    old = all_hypers(learn)
    cbs = [BatchScheduler(cycle), *([Fail(exc)] if exc else [])]
    if exc is None or isinstance(exc, CancelFitException): quiet(learn, 3, *cbs, lr=np.array(lrs3))
    else:
        with pytest.raises(type(exc)): quiet(learn, 3, *cbs, lr=np.array(lrs3))
    new = all_hypers(learn)
    assert has_place(learn.opt.state_dict()) == bool(exc)
    assert new == [{**h, 'lr':lr} for h,lr in zip(old, lrs3)]
    assert len(learn.recorder.hps['lr']) in (n_steps,8)
    quiet(learn, 1)
    assert learn.recorder.lrs == [1e-3]*n_batches

def test_interrupt_with_the_callback_attached():
    learn = learner()
    cb = BatchScheduler(cycle)
    learn.add_cb(cb)
    with pytest.raises(KeyboardInterrupt): quiet(learn, 3, Fail(KeyboardInterrupt()))
    r = rates(learn, 3)
    close(r.lrs(), loop('Adam', 1, partial(S.OneCycleLR, max_lr=.1, total_steps=18), [1])[0])
    h = learn.opt.hypers[0]
    assert h['mom'] == .9 and h['lr'] == 1e-3 and not has_place(learn.opt.state_dict())
    learn.remove_cb(cb)
    assert cb.learn is None

class Interrupt(Callback):
    "Presses Ctrl-C in epoch 1, in `event`"
    order = 70
    def __init__(self, event): self.event = event
    def __call__(self, event):
        if event != self.event or getattr(self, 'epoch', 0) != 1 or hasattr(self, 'gather_preds'): return
        raise KeyboardInterrupt

@pytest.mark.parametrize('event',
    'before_train before_batch after_pred after_step after_batch before_validate after_epoch'.split())
@pytest.mark.parametrize('opt', ['Adam','AdamW'])
def test_interrupt_gives_back_at_once(opt, event, tmp_path):
    "Wherever it comes, with callbacks that stay: in the learner, in what is saved, and in a checkpoint that is loaded"
    cbs = [BatchScheduler(cycle), EpochScheduler(halved)]
    learn = learner(3, opt, path=tmp_path, cbs=cbs)
    learn.create_opt()
    old = all_hypers(learn)
    with pytest.raises(KeyboardInterrupt): quiet(learn, 3, Interrupt(event), lr=np.array(lrs3))
    want = [{**h, 'lr':lr} for h,lr in zip(old, lrs3)]
    assert all_hypers(learn) == want and 'remove_cbs' not in vars(learn)
    learn.save('x')
    assert all_hypers(learner(3, opt, path=tmp_path).load('x')) == want
    learn.validate()
    assert all_hypers(learn) == want

@pytest.mark.parametrize('make', [partial(BatchScheduler, cycle), partial(EpochScheduler, halved)])
def test_a_fit_after_an_interrupted_lr_find(make):
    cb,want = make(),rates(learner(), 2, make(), lr=.1).lrs()
    learn = learner(cbs=cb)
    with pytest.raises(KeyboardInterrupt), learn.no_bar(), learn.added_cbs(Fail(KeyboardInterrupt())):
        learn.lr_find(num_it=20, stop_div=False, show_plot=False)
    close(rates(learn, 2, lr=.1).lrs(), want)

def test_a_failing_validation_within_a_fit():
    "Somebody catches the error, and the fit goes on"
    class Try(Callback):
        busy = False
        def before_validate(self):
            if self.busy: raise RuntimeError('x')
        def after_epoch(self):
            if self.busy: return
            self.busy = True
            with pytest.raises(RuntimeError): self.learn.validate(cbs=Callback())
            self.busy = False
    make = cycle
    res = [quiet(learner(), 3, BatchScheduler(make), *o).recorder.hps['lr'] for o in ([], [Try()])]
    assert res[0] == res[1] and len(res[0]) == n_steps

def test_stays_out_of_what_is_no_fit(tmp_path):
    "lr_find, validate, get_preds and predict give what they give without it, before and after a fit; it keeps nothing"
    res = []
    for cbs in ([], [BatchScheduler(cycle), EpochScheduler(partial(S.ReduceLROnPlateau, patience=0))]):
        set_seed(3)
        learn = learner(cbs=cbs, path=tmp_path)
        a = list(learn.validate()),learn.get_preds()[0]
        assert learn.opt is None
        learn.lr_find(num_it=20, stop_div=False, show_plot=False)
        rec = list(learn.recorder.lrs),list(learn.recorder.losses)
        res.append((*a, *rec, list(learn.validate()), all_hypers(learn)))
        for o in cbs: assert o.stand_in is None and o.scheduler is None
    for a,b in zip(*res):
        same = test_eq if isinstance(a[0], dict) else test_close
        same(a, b)
    quiet(learn, 1)
    learn.validate()
    assert 'hps' in vars(learn.recorder) and learn.opt.hypers[0]['lr'] == 1e-3

def test_scheduler_leaves_the_torch_optimizer_alone():
    "No notes of the scheduler in the wrapped optimizer, and its `step` is its own"
    learn = learner(opt='AdamW')
    quiet(learn, 2, BatchScheduler(cycle))
    assert not {'initial_lr','max_lr','min_lr'} & learn.opt.opt.param_groups[0].keys()
    assert not has_place(learn.opt.state_dict())
    assert 'step' not in vars(learn.opt.opt)

def test_export_and_pickle(tmp_path):
    "A learner that has the callback can be exported, also from within a fit"
    cb = BatchScheduler(cycle)
    def get_x(i): return tensor([i/32])
    block = DataBlock((TransformBlock,RegressionBlock), lambda _: range(32), get_x=get_x, get_y=lambda i: i/32)
    dls = block.dataloaders(None, bs=8, num_workers=0)
    learn = Learner(dls, nn.Linear(1,1), loss_func=MSELossFlat(), path=tmp_path, cbs=cb)
    quiet(learn, 1)
    learn.export('e.pkl')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        new = load_learner(tmp_path/'e.pkl')
    assert new.batch_scheduler.sched.keywords == dict(max_lr=.1) and new.batch_scheduler.stand_in is None
    during = []
    def state(self): return {k:v for k,v in self.learn.batch_scheduler.__getstate__().items() if k != 'learn'}
    def keep(self): during.append(pickle.loads(pickle.dumps(state(self))))
    quiet(learn, 1, Callback(after_epoch=state), Callback(after_batch=keep))
    assert len(during) == len(learn.dls.train)+len(learn.dls.valid) and 'stand_in' not in during[0]
    copies = []
    class Copy(Callback):
        order = 100
        def after_epoch(self):
            copies.append(deepcopy(self.learn))
            self.learn.export('f.pkl')
    quiet(learn, 2, Copy())
    preds = learn.get_preds()[0]
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        new = load_learner(tmp_path/'f.pkl')
    for o in (copies[1], new):
        o.remove_cb(Copy)
        with o.no_bar(): test_close(o.get_preds(dl=learn.dls.valid)[0], preds, 1e-6)
        assert 'remove_cbs' not in vars(o) and o.batch_scheduler.stand_in is None
    assert learn.opt.hypers[0]['lr'] == 1e-3

def leave_early(learn):
    if learn.epoch==2: learn.remove_cbs([])

class KeepFirst(SaveModelCallback):
    "Takes the first epoch for the best"
    def __init__(self): super().__init__(comp=lambda *_: self.epoch==0, with_opt=True)

@pytest.mark.parametrize('cbs', [[], [Peek(leave_early)]])
@pytest.mark.parametrize('opt', ['Adam','AdamW'])
def test_the_best_epoch_is_loaded_with_the_optimizer(opt, cbs, tmp_path):
    "`SaveModelCallback` loads it when the fit ends: the hyper-parameters are the fit's own, and no place is left"
    learn = learner(3, opt, path=tmp_path)
    learn.create_opt()
    old = all_hypers(learn)
    for sched in (BatchScheduler(cycle), EpochScheduler(halved)):
        quiet(learn, 3, sched, KeepFirst(), *cbs, lr=np.array(lrs3))
        assert has_place(torch.load(tmp_path/'models/model.pth', weights_only=False)['opt'])
        assert all_hypers(learn) == [{**h, 'lr':lr} for h,lr in zip(old, lrs3)]
        assert not has_place(learn.opt.state_dict()) and 'remove_cbs' not in vars(learn)

def test_a_fit_that_was_cancelled_goes_on_from_its_best_epoch(tmp_path):
    "Whose place comes back with its weights: one step was skipped until then"
    class Stop(Callback):
        order = 80
        def after_epoch(self):
            if self.epoch==3: raise CancelFitException
    def sched(): return BatchScheduler(cycle)
    learn = learner(path=tmp_path)
    quiet(learn, 5, CpuScaler([1]), sched(), KeepFirst(), Stop(), lr=.1)
    want = rates(learner(), 5, CpuScaler([1]), sched(), lr=.1).lrs()
    close(rates(learn, 5, CpuScaler([]), sched(), lr=.1, start_epoch=1).lrs(), want[n_batches:])

@pytest.mark.parametrize('opt', ['Adam','AdamW'])
def test_hypers_that_others_log(opt):
    "In a fit they are numbers, but for what torch has beside them: loggers go through all, in training and validation"
    learn = learner(3, opt)
    learn.create_opt()
    old,seen = [(set(h), {k for k,v in h.items() if isinstance(v, Number)}) for h in learn.opt.hypers],[]
    def log(self):
        for h,(ks,numbers) in zip(self.opt.hypers, old):
            seen.append(all(isinstance(h[k], Number) for k in h.keys()-(ks-numbers)))
    quiet(learn, 3, BatchScheduler(cycle), Callback(after_batch=log))
    assert len(seen) == 2*n_steps*3 and all(seen)

def test_tensorboard(monkeypatch, tmp_path):
    "fastai's callback writes every hyper-parameter as a number"
    class Writer:
        def __init__(self, **kwargs): self.got = {}
        def add_scalar(self, name, v, step): self.got.setdefault(name, []).append(float(v))
        def close(self): pass
    monkeypatch.setitem(sys.modules, 'tensorboard', types.ModuleType('tensorboard'))
    stub = types.ModuleType('torch.utils.tensorboard')
    stub.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, 'torch.utils.tensorboard', stub)
    monkeypatch.delitem(sys.modules, 'fastai.callback.tensorboard', raising=False)
    from fastai.callback.tensorboard import TensorBoardCallback
    learn,cb = learner(),TensorBoardCallback(trace_model=False, log_preds=False)
    quiet(learn, 3, BatchScheduler(cycle), cb)
    assert len(cb.writer.got['lr_0']) == 2*n_steps and len(set(cb.writer.got['lr_0'])) == n_steps

# Going on

@pytest.mark.parametrize('opt', ['Adam', *[pytest.param(o, marks=pytest.mark.slow) for o in ('SGD','AdamW')]])
@pytest.mark.parametrize('name', [o.__name__ for o in classes()])
def test_resumed_from_checkpoint(name, opt, tmp_path):
    "A new learner that loads a checkpoint of epoch 2 makes the rates of the fit that wasn't interrupted"
    lrs,n = np.array(lrs3),5
    for cls,steps in ((BatchScheduler,n*n_batches),(EpochScheduler,n)):
        make = makers(steps, 3)[name]
        if name == 'ReduceLROnPlateau':
            if cls is BatchScheduler: continue
            make = partial(make, threshold=.2)
        learn = learner(3, opt, path=tmp_path)
        whole = rates(learn, n, cls(make), SaveModelCallback(every_epoch=True, with_opt=True), lr=lrs)
        old = all_hypers(learn)
        new = learner(3, opt, path=tmp_path)
        new.load('model_2', with_opt=True)
        part = rates(new, n, cls(make), lr=lrs, start_epoch=3)
        close(part.lrs(), whole.lrs()[3*n_batches:])
        if name in ('OneCycleLR','CyclicLR'): close(part.moms(), whole.moms()[3*n_batches:])
        assert all_hypers(new) == old

def test_resumed_without_the_optimizer():
    "The skipped epochs are counted; a schedule that depends on a metric can't, and says so"
    make = cycle
    whole = rates(learner(), 4, BatchScheduler(make))
    close(rates(learner(), 4, BatchScheduler(make), start_epoch=2).lrs(), whole.lrs()[2*n_batches:])
    cb,seen = EpochScheduler(partial(S.ReduceLROnPlateau)),[]
    with pytest.raises(ValueError, match='start_epoch.*with_opt=True'):
        quiet(learner(), 4, cb, Callback(before_batch=lambda self: seen.append(1)), start_epoch=2)
    assert not seen

def test_resumed_after_a_cancelled_fit(tmp_path):
    "Saved by hand after the fit was cancelled at the end of epoch 1: skipped steps and metrics are remembered"
    class Stop(Callback):
        order = 80
        def after_epoch(self):
            if self.epoch==1: raise CancelFitException
    cases = [(BatchScheduler, slower, CpuScaler([1,7])),
        (EpochScheduler, partial(S.ReduceLROnPlateau, patience=0, threshold=.2), Callback())]
    for cls,make,cb in cases:
        net = Net()
        whole = quiet(learner(net=deepcopy(net)), 4, cls(make), cb, lr=.1)
        learn = quiet(learner(net=deepcopy(net), path=tmp_path), 4, cls(make), cb, Stop(), lr=.1)
        learn.save('x')
        new = learner(path=tmp_path)
        new.load('x')
        quiet(new, 4, cls(make), lr=.1, start_epoch=2)
        np.testing.assert_allclose(new.recorder.lrs, whole.recorder.lrs[2*n_batches:], rtol=1e-12)
        quiet(new, 1, cls(make), lr=.2)
        assert new.recorder.lrs[0] == .2 and not has_place(new.opt.state_dict())

def stopped(path, cbs, *others, n=4, at=1, **kwargs):
    "A new learner with the checkpoint of a fit of `n` epochs, cancelled after epoch `at`, and the rates still to come"
    class Stop(Callback):
        order = 80
        def after_epoch(self):
            if self.epoch==at: raise CancelFitException
    net = Net()
    whole = rates(learner(net=deepcopy(net)), n, *cbs(), *others, **kwargs).lrs()[(at+1)*n_batches:]
    learn = quiet(learner(net=deepcopy(net), path=path), n, *cbs(), *others, Stop(), **kwargs)
    learn.save('x')
    return learner(path=path).load('x'),whole

def test_two_schedulers_resumed(tmp_path):
    "Each on what the other has set, in the middle of both"
    warm,low = partial(S.LinearLR, start_factor=.1, total_iters=20),partial(S.ConstantLR, factor=.3, total_iters=3)
    def cbs(): return BatchScheduler(warm),EpochScheduler(low)
    new,want = stopped(tmp_path, cbs, lr=.1)
    close(rates(new, 4, *cbs(), lr=.1, start_epoch=2).lrs(), want)
    assert new.opt.hypers[0]['lr'] == .1 and not has_place(new.opt.state_dict())

def test_resumed_by_the_schedulers_own_state(tmp_path):
    "Not by making all steps again: only the one that was due is made before the first batch"
    class Counted(S.ExponentialLR):
        def step(self, *args):
            seen.append(self.last_epoch)
            super().step(*args)
    def cbs(): return [BatchScheduler(partial(Counted, gamma=.9))]
    seen = []
    new,want = stopped(tmp_path, cbs, lr=.1)
    seen.clear()
    close(rates(new, 4, *cbs(), lr=.1, start_epoch=2).lrs(), want)
    assert seen == [-1, *range(11, 23)]

class Bare:
    "A scheduler with neither `state_dict` nor a torch base; `f` is nothing that a checkpoint may hold"
    def __init__(self, optimizer): self.optimizer,self.f = optimizer,lambda x: x*.5
    def step(self, metrics):
        for g in self.optimizer.param_groups: g['lr'] = self.f(g['lr'])*(1+float(metrics))

class Opaque(S.ReduceLROnPlateau):
    def __init__(self, optimizer, mode='min'):
        super().__init__(optimizer, mode, patience=0, threshold=.5)
        self.f = lambda: None

@pytest.mark.parametrize('make', [Bare, Opaque])
def test_resumed_without_a_state(make, tmp_path):
    "What has no state, or one that can't be kept, gets the same metrics again; the checkpoint loads as fastai loads it"
    new,want = stopped(tmp_path, lambda: [EpochScheduler(make)], lr=.1)
    close(rates(new, 4, EpochScheduler(make), lr=.1, start_epoch=2).lrs(), want)

def test_resumed_with_other_settings(tmp_path):
    "A longer fit, another rate: the new schedule from the same step on"
    for make in (cycle, S.CosineAnnealingLR):
        new,_ = stopped(tmp_path, lambda: [BatchScheduler(make)], lr=.1)
        want = rates(learner(), 6, BatchScheduler(make), lr=.2).lrs()[2*n_batches:]
        close(rates(new, 6, BatchScheduler(make), lr=.2, start_epoch=2).lrs(), want)

@pytest.mark.parametrize('opt', ['Adam','AdamW'])
def test_a_stale_place_is_not_taken(opt):
    "The key that an interrupted fit leaves is for those schedulers alone"
    def interrupted():
        learn = learner(1, opt)
        cbs = CpuScaler([1,2,3]),BatchScheduler(cycle),Interrupt('after_pred')
        with pytest.raises(KeyboardInterrupt): quiet(learn, 4, *cbs)
        return learn
    def decay(): return BatchScheduler(slower)
    learn = interrupted()
    close(rates(learn, 4, decay(), lr=.1, start_epoch=1).lrs()[:,0], [.1*.9**i for i in range(6, 24)])
    learn = interrupted()
    def by_epoch(o): return rates(o, 4, EpochScheduler(cycle), start_epoch=1).lrs()
    close(by_epoch(learn), by_epoch(learner()))
    learn = interrupted()
    cb = EpochScheduler(S.ReduceLROnPlateau)
    with pytest.raises(ValueError, match='start_epoch'): quiet(learn, 4, cb, start_epoch=1)
    learn = interrupted()
    with pytest.raises(KeyboardInterrupt): quiet(learn, 4, decay(), Fail(KeyboardInterrupt(), at=2))
    assert not has_place(learn.opt.state_dict())

def test_resumed_with_tensor_rates(tmp_path):
    def opt(params, lr): return OptimWrapper(params, opt=torch.optim.AdamW, lr=tensor(lr))
    def sched(): return BatchScheduler(cycle)
    def got(learn, *cbs, **kwargs):
        quiet(learn, 3, sched(), *cbs, lr=[tensor(.1)], **kwargs)
        return np.array([float(o) for o in learn.recorder.hps['lr']])
    whole = got(learner(opt=opt, path=tmp_path), SaveModelCallback(every_epoch=True, with_opt=True))
    new = learner(opt=opt, path=tmp_path).load('model_0')
    np.testing.assert_allclose(got(new, start_epoch=1), whole[n_batches:], rtol=1e-6)
    assert isinstance(new.opt.hypers[0]['lr'], Tensor) and new.opt.hypers[0]['lr'] == tensor(.1)

@pytest.mark.parametrize('opt', ['Adam','AdamW'])
def test_a_checkpoint_of_the_middle_begins_another_fit(opt, tmp_path):
    "What was scheduled when it was made is not taken for the optimizer's own"
    class Snapshot(Callback):
        def after_step(self):
            if self.train_iter==3: self.learn.save('x')
    learn = learner(1, opt, path=tmp_path)
    quiet(learn, 1, BatchScheduler(cycle), Snapshot())
    new = learner(1, opt, path=tmp_path).load('x')
    assert new.opt.hypers[0]['mom'] != .9
    quiet(new, 1, BatchScheduler(cycle), lr=.2)
    assert all_hypers(new) == [{**h, 'lr':.2} for h in all_hypers(learn)]

def test_a_checkpoint_with_the_place_among_the_hypers():
    "As an earlier version had it: it is taken out, and the skipped epochs are counted"
    learn = learner(3)
    learn.create_opt()
    learn.opt.hypers[0]['schedule'] = dict(n_done=1)
    r = rates(learn, 3, BatchScheduler(slower), lr=.1, start_epoch=1)
    close(r.lrs()[:,0], [.1*.9**i for i in range(n_batches, n_steps)])
    assert not has_place(learn.opt.state_dict())

# The metric

@pytest.mark.parametrize('monitor,mode', [(o, 'min') for o in ('valid_loss','train_loss','mae','error_rate')] +
    [('accuracy','max')])
def test_direction_of_the_metric(monitor, mode):
    seen = []
    class Plateau(S.ReduceLROnPlateau):
        def step(self, metrics, epoch=None):
            seen.append((self.mode, metrics))
            super().step(metrics)
    def accuracy(x, y): return 1-(x-y).abs().mean()
    def error_rate(x, y): return (x-y).abs().mean()
    learn = learner(metrics=[mae,accuracy,error_rate])
    quiet(learn, 3, EpochScheduler(Plateau, monitor=monitor))
    i = list(learn.recorder.metric_names[1:]).index(monitor)
    assert seen == [(mode, float(o[i])) for o in learn.recorder.values[:-1]]

def test_direction_given():
    "`comp` and an explicit `mode` are obeyed"
    def mode(sched, **kwargs):
        seen = []
        learn = learner(metrics=mae)
        def keep(self): seen.append(self.epoch_scheduler.scheduler.mode)
        quiet(learn, 1, EpochScheduler(sched, monitor='mae', **kwargs), Callback(before_batch=keep))
        return seen[0]
    assert mode(S.ReduceLROnPlateau) == 'min'
    assert mode(S.ReduceLROnPlateau, comp=np.greater) == 'max'
    assert mode(partial(S.ReduceLROnPlateau, mode='max')) == 'max'
    assert mode(lambda o: S.ReduceLROnPlateau(o, mode='max'), comp=np.greater) == 'max'
    with pytest.raises(ValueError, match="mode.*'max'.*'mae'.*mode='min'.*comp"):
        mode(lambda o: S.ReduceLROnPlateau(o, mode='max'))

def test_metric_with_cancelled_phases():
    "An epoch without validation isn't counted; cut training doesn't shift the columns"
    class Cut(Callback):
        def after_batch(self):
            if self.training and self.iter==2: raise CancelTrainException
        def before_validate(self):
            if self.epoch==1: raise CancelValidException
    class Plateau(S.ReduceLROnPlateau):
        def step(self, metrics, epoch=None): seen.append(metrics)
    seen,learn = [],learner()
    quiet(learn, 4, Cut(), EpochScheduler(Plateau))
    assert seen == [float(learn.recorder.values[0][0]), float(learn.recorder.values[2][0])]

# Bad input

@pytest.mark.parametrize('bad,words', [
    (S.OneCycleLR, 'OneCycleLR needs max_lr.*partial'), (S.StepLR, 'StepLR needs step_size.*partial'),
    (partial(S.MultiStepLR, gamma=.1), 'needs milestones'),
    (partial(S.ExponentialLR, .9), 'first argument.*name the others'),
    (S.ChainedScheduler, 'takes schedulers first.*lambda'), (S.SequentialLR, 'needs schedulers, milestones'),
    ('cosine', "can't be called, got 'cosine'"),
    (partial(ReduceLROnPlateau, patience=2), "callback of fastai's.*torch.optim.lr_scheduler"),
    (S.ConstantLR(torch.optim.SGD([nn.Parameter(torch.ones(1))])), 'ConstantLR that belongs to another optimizer')])
@pytest.mark.parametrize('cls', [BatchScheduler,EpochScheduler])
def test_refused_when_made(cls, bad, words):
    with pytest.raises(TypeError, match=words): cls(bad)

class Timmish:
    def __init__(self, optimizer): self.optimizer = optimizer
    def step(self, epoch, metric=None): pass

def other(opt): return S.ConstantLR(torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=.1))
def late_short(o): return S.SequentialLR(o, [S.ConstantLR(o), S.OneCycleLR(o, .1, total_steps=9)], [8])
def early_short(o): return S.SequentialLR(o, [S.OneCycleLR(o, .1, total_steps=7), S.ConstantLR(o)], [8])
def chain_short(o): return S.ChainedScheduler([S.ConstantLR(o), S.OneCycleLR(o, .1, total_steps=9)])

@pytest.mark.parametrize('cb,exc,words', [
    (BatchScheduler(partial(cycle, total_steps=17)), ValueError, 'total_steps=17.*makes 18 steps.*at least 18'),
    (BatchScheduler(partial(cycle, epochs=2)), ValueError, 'total_steps=12.*makes 18'),
    (EpochScheduler(partial(cycle, total_steps=2)), ValueError, 'total_steps=2.*makes 3 epochs'),
    (BatchScheduler(late_short), ValueError, 'total_steps=9.*makes 10'),
    (BatchScheduler(early_short), ValueError, 'total_steps=7.*makes 8'),
    (BatchScheduler(chain_short), ValueError, 'total_steps=9.*makes 18'),
    (EpochScheduler(S.ReduceLROnPlateau, monitor='accuracy'), ValueError,
        "monitor='accuracy'.*train_loss, valid_loss, mae"),
    (EpochScheduler(partial(S.StepLR, step_size=1), monitor='mae'), ValueError, "StepLR looks at no metric.*'mae'"),
    (BatchScheduler(S.ReduceLROnPlateau), ValueError, 'after an epoch.*EpochScheduler.*monitor'),
    (BatchScheduler(lambda o: None), TypeError, 'returned None'),
    (BatchScheduler(Timmish), TypeError, 'Timmish is no torch.*asks for epoch'),
    (BatchScheduler(other), ValueError, 'another optimizer'),
    (BatchScheduler(partial(S.LambdaLR, lr_lambda=[tenth]*2)), ValueError, '1 lr_lambdas')])
def test_refused_before_the_first_batch(cb, exc, words):
    "No batch is trained and the hyper-parameters stay"
    learn,seen = learner(metrics=mae),[]
    learn.create_opt()
    old = all_hypers(learn)
    with pytest.raises(exc, match=words): quiet(learn, 3, cb, Callback(before_batch=lambda self: seen.append(1)))
    assert not seen and all_hypers(learn) == old
    close(rates(learn, 1, BatchScheduler(halved), lr=.1).lrs()[:,0], [.1*.5**i for i in range(6)])

def test_enough_steps_are_accepted():
    def late(o): return S.SequentialLR(o, [S.ConstantLR(o), S.OneCycleLR(o, .1, total_steps=10)], [8])
    def never(o): return S.SequentialLR(o, [S.OneCycleLR(o, .1, total_steps=n) for n in (20,2)], [20])
    for make in (partial(S.OneCycleLR, max_lr=.1, total_steps=18), late, never):
        assert len(rates(learner(), 3, BatchScheduler(make)).got) == 18

def test_refused_beside_fastais_own():
    learn = learner(cbs=BatchScheduler(cycle))
    for f in (learn.fit_one_cycle, learn.fit_flat_cos):
        with pytest.raises(ValueError, match='also sets lr.*learn.fit'), learn.no_bar(): f(1)

def test_other_hypers_may_be_scheduled_by_fastai():
    learn = learner()
    r = rates(learn, 3, BatchScheduler(slower), ParamScheduler(dict(wd=SchedLin(0,1))), lr=.1)
    close(r.lrs(), loop('Adam', 1, slower, [.1])[0])

@pytest.mark.parametrize('cls', [BatchScheduler,EpochScheduler])
def test_others_may_change_what_is_scheduled(cls):
    "Also before the schedule has changed anything, and the schedule goes on from there"
    wds,learn = [],learner()
    def change(self):
        if self.train_iter==8: self.opt.set_hyper('lr', .05)
        if self.train_iter==5: self.opt.set_hyper('wd', .5)
        wds.append(self.opt.hypers[0]['wd'])
    cb = cls(partial(S.StepLR, step_size=13 if cls is BatchScheduler else 2))
    r = rates(learn, 3, cb, Callback(before_step=change), lr=.1)
    n = 13 if cls is BatchScheduler else 12
    np.testing.assert_allclose(r.lrs()[:,0], [.1]*8 + [.05]*(n-8) + [.005]*(18-n))
    assert wds == [.01]*5 + [.5]*13
    assert learn.opt.hypers[0]['lr'] == .1 and learn.opt.hypers[0]['wd'] == .5

def test_comp_is_checked():
    with pytest.raises(ValueError, match="comp is np.less.*'min'"): EpochScheduler(S.ReduceLROnPlateau, comp='min')

def test_empty_validation_and_missing_recorder():
    learn = learner()
    learn.dls.loaders[1] = learn.dls[1].new(dataset=L())
    with pytest.raises(ValueError, match='dls.valid is empty'): quiet(learn, 1, EpochScheduler(S.ReduceLROnPlateau))
    learn = learner()
    learn.remove_cb(Recorder)
    learn.remove_cb(ProgressCallback)
    with pytest.raises(ValueError, match='recorder.*none'): quiet(learn, 1, EpochScheduler(S.ReduceLROnPlateau))
    quiet(learn, 1, BatchScheduler(slower))

def test_no_warnings():
    "torch's warnings about the order of steps don't come"
    with warnings.catch_warnings(record=True) as ws:
        warnings.simplefilter('always')
        quiet(learner(), 2, BatchScheduler(makers(2*n_batches, 1)['SequentialLR']))
        quiet(learner(), 2, CpuScaler([0]), BatchScheduler(slower))
    own = [str(o.message) for o in ws if 'step' in str(o.message) or 'shadow' in str(o.message)]
    assert [o for o in own if 'epoch parameter' not in o] == []

# sched_lrs and plot_sched

@pytest.mark.parametrize('name', [o.__name__ for o in classes()])
def test_sched_lrs_equals_torch(name):
    for groups in (1,3):
        lrs = lrs3 if groups==3 else [1e-2]
        metrics = [3.,3.,1.,1.,1.,2.] if name=='ReduceLROnPlateau' else None
        make = makers(6, groups)[name]
        got = sched_lrs(make, 6, lr=lrs if groups==3 else lrs[0], metrics=metrics)
        want = loop('Adam', groups, make, lrs, n=6, per_batch=False, metrics=metrics)[0][::n_batches]
        close(got.reshape(6, -1), want)
        assert got.shape == ((6,3) if groups==3 else (6,))

def test_sched_lrs_fills_in_and_knows_momentum():
    make = cycle
    r = rates(learner(), 3, BatchScheduler(make))
    close(sched_lrs(make, n_steps), r.lrs()[:,0])
    close(sched_lrs(make, n_steps, key='mom'), r.moms()[:,0])

@pytest.mark.parametrize('f', [SchedCos(.1,.01), combined_cos(.25, .1, 1., .01), SchedPoly(1., 0., 2),
    SchedExp(.1,.01), lambda pos: 1-pos, SchedCos(np.array([.1,.2]), 0)])
def test_sched_lrs_of_fastai(f):
    "As ParamScheduler applies them"
    learn,got = learner(3 if isinstance(f(0.), np.ndarray) else 1),[]
    want = np.array([f(i/n_steps) for i in range(n_steps)])
    np.testing.assert_allclose(sched_lrs(f, n_steps), want, rtol=1e-12)
    if want.ndim == 1:
        quiet(learn, 3, ParamScheduler(dict(lr=f)))
        np.testing.assert_allclose(learn.recorder.lrs, want, rtol=1e-6)

@pytest.mark.parametrize('f,exc,words', [(lambda: sched_lrs(S.OneCycleLR, 5), TypeError, 'needs max_lr'),
    (lambda: sched_lrs(partial(S.OneCycleLR, max_lr=1, total_steps=4), 5), ValueError, 'total_steps=4.*5'),
    (lambda: sched_lrs(S.ConstantLR, 0), ValueError, 'steps is a number.*0'),
    (lambda: sched_lrs(S.ConstantLR, 5, key='wd'), ValueError, "'lr' or 'mom'.*'wd'"),
    (lambda: sched_lrs(S.ConstantLR, 5, metrics=[1]*5), ValueError, 'no metric'),
    (lambda: sched_lrs(S.ReduceLROnPlateau, 5), ValueError, 'needs metrics'),
    (lambda: sched_lrs('cos', 5), TypeError, "can't be called")])
def test_sched_lrs_refuses(f, exc, words):
    with pytest.raises(exc, match=words): f()

def test_plot_sched():
    "A line each, named"
    make = partial(S.StepLR, step_size=2)
    assert plot_sched(make, 8) is None and len(plt.gca().lines) == 1
    ax = plt.subplots()[1]
    plot_sched([make, SchedCos(.1,0), SchedPoly(1,0,2), S.CosineAnnealingLR], 8, ax=ax)
    names = ['StepLR(step_size=2)','sched_cos(0.1, 0)','SchedPoly','CosineAnnealingLR']
    assert [o.get_text() for o in ax.get_legend().get_texts()] == names
    close(ax.lines[0].get_ydata(), sched_lrs(make, 8))
    ax = plt.subplots()[1]
    plot_sched(dict(a=make, b=S.ReduceLROnPlateau), 8, lr=[.1,.2], metrics=[1]*8, ax=ax)
    assert [o.get_label() for o in ax.lines] == ['a, group 0','a, group 1','b, group 0','b, group 1']
    plt.close('all')
