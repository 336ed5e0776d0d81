"Averages beside those by hand, of the weights that a plain loop has; what the model holds when; what may go wrong"
from fastai.callback.channelslast import ChannelsLast
from fastai.distributed import *
from fastai.vision.all import *
from fastai_ext.all import *
from torch.utils._python_dispatch import TorchDispatchMode
import contextlib, io, pytest, subprocess, sys, warnings
from helpers import *

n,bs,n_iter = 22,3,7 # the last item is dropped

class Net(nn.Module):
    "Batch norm, shared weights, a counter, a mask, and a buffer that is put anew"
    def __init__(self):
        super().__init__()
        self.a,self.bn,self.head = nn.Linear(6, 6),nn.BatchNorm1d(6),nn.Linear(6, 3)
        self.tied = self.a
        self.register_buffer('calls', torch.tensor(0))
        self.register_buffer('mask', torch.tensor([0.,0.,-torch.inf]))
        self.register_buffer('seen', torch.zeros(6))
    def forward(self, x):
        x = x.flatten(1)
        if self.training:
            self.calls += 1
            self.seen = self.seen*.5 + x.detach().mean(0)
        return self.head(F.relu(self.tied(self.bn(self.a(x)))))

def data():
    rng = np.random.default_rng(0)
    return rng.normal(size=(n,1,2,3)).astype(np.float32),np.arange(n)%3

def learner(model=None, shuffle=False, **kwargs):
    set_seed(0)
    x,y = data()
    dls = DataLoaders.from_arrays(x, y, x[:9], y[:9], bs=bs)
    dls.train.shuffle = shuffle
    kwargs = {**dict(loss_func=CrossEntropyLossFlat(), opt_func=SGD, metrics=accuracy), **kwargs}
    return Learner(dls, model or Net(), **kwargs).remove_cb(ProgressCallback)

def fit(learn, n_epoch=3, lr=.1, **kwargs):
    with learn.no_logging(): learn.fit(n_epoch, lr, **kwargs)
    return learn

def state(model):
    "Values of floating point, apart from the mask and the second names of shared ones"
    left_out = 'mask','tied'
    now = {k: v for k,v in model.state_dict().items() if not k.startswith(left_out)}
    return {k: v.detach().clone() for k,v in now.items() if v.is_floating_point()}

def plain_loop(n_epoch=3, lr=.1, acc=1, skip=()):
    "The state after each step, the optimizer's steps only, by torch alone; at which batch each was"
    set_seed(0)
    model,res = Net(),[]
    x,y = (torch.tensor(o)[:n_iter*bs].split(bs) for o in data())
    opt = torch.optim.SGD(model.parameters(), lr=lr)
    for i,(xb,yb) in enumerate(zip(x*n_epoch, y*n_epoch)):
        (F.cross_entropy(model(xb), yb)/acc).backward()
        if (i+1)%acc: continue
        if i not in skip:
            opt.step()
            res.append((i+1, state(model)))
        opt.zero_grad()
    return res

def mean_of(states, weights=None):
    "The weighted sum, or the mean if there are no weights"
    weights = ifnone(weights, [1/len(states)]*len(states))
    return {k: sum(s[k].double()*w for s,w in zip(states, weights)).float() for k in states[0]}

def shares(decays):
    "How much of each is in the end in an average that kept `decays` of itself"
    return [(1-d)*np.prod(decays[i+1:]) for i,d in enumerate(decays)]

def warm(i, k=1): return 0 if not i else ((1+i*k)/(10+i*k))**k

def close(a, b, eps=1e-6):
    assert a.keys() == b.keys()
    for k in a: assert torch.allclose(a[k], b[k], rtol=1e-5, atol=eps), (k, a[k]-b[k])

def same(a, b): return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
def averaged(cb): return {k: v for k,v in cb.averaged.items()}

# Averages

@pytest.mark.parametrize('kwargs,decay', [
    (dict(), lambda i: min(.999, warm(i))), (dict(decay=.5), lambda i: min(.5, warm(i))),
    (dict(half_life=.5), lambda i: min(.5**(1/3.5), warm(i))), (dict(equal=True), lambda i: i/(i+1))])
@pytest.mark.parametrize('start,counted', [(0, 0), (.29, 6), (2/3, 14), (.99, 20)])
def test_as_by_hand(kwargs, decay, start, counted):
    "All states of a plain loop from `start` on, each with its share; batch-norm statistics and other buffers too"
    states = [s for i,s in plain_loop()][counted:]
    cb = WeightAverage(**kwargs, start=start)
    learn = fit(learner(cbs=cb))
    want = mean_of(states, shares([decay(i) for i in range(len(states))]))
    close(averaged(cb), want)
    close(state(learn.model), want)
    cb.use_raw()
    close(state(learn.model), states[-1])

def test_a_start_that_floats_cannot_hit():
    assert 8/49*49 < 8
    cb = WeightAverage(start=8/49)
    fit(learner(cbs=cb), 7)
    assert cb.n_seen == 41

@pytest.mark.parametrize('kwargs,decay', [
    (dict(decay=.9), lambda i: min(.9**4, warm(i, 4))), (dict(half_life=1), lambda i: min(.5**(4/7), warm(i, 4))),
    (dict(half_life=1/7), lambda i: i and min(.5**4, warm(i, 4))), (dict(equal=True), lambda i: i/(i+1))])
def test_every(kwargs, decay):
    "Of 21 steps, from the 6th on, the 9th, 13th, 17th and 21st; and the 7th, 14th and 21st end an epoch"
    loop = [s for _,s in plain_loop()]
    cb = WeightAverage(**kwargs, start=5/21, every=4)
    fit(learner(cbs=cb))
    close(averaged(cb), mean_of(loop[8::4], shares([decay(i) for i in range(4)])))
    if 'equal' in kwargs:
        cb = WeightAverage(equal=True, every=n_iter)
        fit(learner(cbs=cb))
        close(averaged(cb), mean_of(loop[6::7]))

@pytest.mark.slow
def test_many_steps():
    "No error grows, and the decay that was asked for is reached"
    cb,seen = WeightAverage(decay=.98),[]
    learn = learner(cbs=cb)
    fit(learn, 70, cbs=Callback(after_batch=lambda self: self.training and seen.append(state(learn.model))))
    close(averaged(cb), mean_of(seen, shares([min(.98, warm(i)) for i in range(490)])))
    assert cb.decay_at(len(seen)) == .98

def test_half_life_is_of_epochs_with_accumulated_gradients_too():
    "A step of three batches moves the average as far as three steps"
    loop = plain_loop(6, acc=3)
    cb = WeightAverage(half_life=.4)
    fit(learner(cbs=[cb, GradientAccumulation(3*bs)]), 6)
    assert cb.n_seen == len(loop) == 14
    close(averaged(cb), mean_of([s for _,s in loop], shares([min(.5**(3/7/.4), warm(i)) for i in range(14)])))

def test_training_is_as_without():
    "To the bit, drawing included"
    net = nn.Sequential(nn.Flatten(), nn.Linear(6,9), nn.Dropout(), nn.BatchNorm1d(9), nn.Linear(9,3))
    res = []
    for kwargs in (None, dict(), dict(equal=True, valid=False), dict(bn='end'), dict(bn='epoch')):
        cb = None if kwargs is None else WeightAverage(**kwargs)
        learn = learner(deepcopy(net), shuffle=True, cbs=cb)
        set_seed(1)
        learn.dls.train.rng = random.Random(1)
        fit(learn)
        if cb: cb.use_raw()
        count = learn.model[3].num_batches_tracked
        res.append((state(learn.model), tensor(learn.recorder.losses), torch.rand(3), count))
    for s,losses,drawn,count in res[1:]:
        assert same(s, res[0][0]) and torch.equal(losses, res[0][1]) and torch.equal(drawn, res[0][2])
        assert count == res[0][3] == 3*n_iter

def test_only_steps_count():
    "Not those that a scaler skips, also if another callback cancels them"
    class Broken(Callback):
        order = MixedPrecision.order-1
        def before_step(self):
            if self.train_iter in (2,5,6): self.model.head.weight.grad[0,0] = torch.inf
    class Cancels(Callback):
        order = MixedPrecision.order+20
        def before_step(self):
            if self.train_iter in (0,4): raise CancelStepException
    cb = WeightAverage(equal=True)
    learn = learner(cbs=[cb, Broken()]).to_amp(torch.float16, init_scale=8.)
    fit(learn)
    assert cb.n_seen == 3*n_iter-3
    cb = WeightAverage(equal=True)
    fit(learner(cbs=[cb, Cancels()]))
    close(averaged(cb), mean_of([s for _,s in plain_loop(skip=(0,4))]))

def test_a_last_batch_whose_end_is_not_reached():
    class Short(Callback):
        order = -5
        def after_batch(self):
            if self.training and self.iter==4: raise CancelTrainException
    cb = WeightAverage(equal=True)
    fit(learner(cbs=[cb, Short()]), 1)
    assert cb.n_seen == 5
    close(averaged(cb), mean_of([s for _,s in plain_loop(1)][:5]))

def test_no_nan_comes_in():
    class Nan(Callback):
        order = TerminateOnNaNCallback.order-1
        def after_pred(self):
            if self.training and self.train_iter==9: self.learn.pred = self.pred*torch.nan
    cb = WeightAverage(equal=True)
    learn = fit(learner(cbs=[cb, Nan(), TerminateOnNaNCallback()]))
    close({k: v for k,v in state(learn.model).items() if k!='seen'},
        {k: v for k,v in mean_of([s for _,s in plain_loop()][:9]).items() if k!='seen'})

# What else there is in a model

def test_counters_masks_and_shared_weights():
    net = Net()
    cb = WeightAverage()
    learn = fit(learner(net, cbs=cb))
    assert set(cb.averaged) == set(state(net)) and 'mask' not in cb.averaged
    assert net.tied is net.a and net.calls == net.bn.num_batches_tracked == 3*n_iter
    assert net.mask.tolist() == [0,0,-torch.inf] and all(v.isfinite().all() for v in state(net).values())
    cb.use_raw()
    assert net.calls == net.bn.num_batches_tracked == 3*n_iter and net.mask.tolist() == [0,0,-torch.inf]

def test_a_parameter_in_two_places():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.emb,self.out = nn.Linear(6,6,bias=False),nn.Linear(6,6,bias=False)
            self.out.weight = self.emb.weight
        def forward(self, x): return self.out(self.emb(x.flatten(1)))[:,:3]
    net,seen = Tied(),[]
    cb = WeightAverage(equal=True)
    fit(learner(net, cbs=[cb, Callback(after_step=lambda self: seen.append(net.emb.weight.detach().clone()))]))
    assert list(cb.averaged) == ['emb.weight'] and net.out.weight is net.emb.weight
    assert torch.allclose(net.emb.weight, torch.stack(seen).mean(0), atol=1e-6)

@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float64])
def test_other_types(dtype):
    "An average of 16 bits would not move at all; the raw weights come back to the bit"
    class Typed(nn.Module):
        def __init__(self):
            super().__init__()
            self.lin = nn.Linear(6,3).to(dtype)
        def forward(self, x): return self.lin(x.flatten(1).to(dtype)).float()
    net,seen = Typed(),[]
    cb = WeightAverage(decay=.99, equal=True)
    fit(learner(net, cbs=[cb, Callback(after_batch=lambda self: self.training and seen.append(state(net)))]), 20, 1e-3)
    want = torch.stack([s['lin.weight'].double() for s in seen]).mean(0)
    got = cb.averaged['lin.weight']
    assert got.dtype == (torch.float32 if dtype is torch.bfloat16 else dtype) and net.lin.weight.dtype is dtype
    assert torch.allclose(got.double(), want, atol=1e-6) and torch.equal(net.lin.weight, got.to(dtype))
    cb.use_raw()
    assert same(state(net), seen[-1])

def test_frozen_and_unfrozen():
    "What is frozen stays to the bit; each fit's average is its own"
    net = nn.Sequential(nn.Flatten(), nn.Linear(6,6), nn.Linear(6,3))
    learn = learner(net, cbs=WeightAverage(equal=True), splitter=lambda m: [params(m[1]), params(m[2])])
    body = state(net[1])
    learn.freeze()
    fit(learn)
    assert same(state(net[1]), body) and same({k: learn.weight_average.averaged[f'1.{k}'] for k in body}, body)
    head = state(net[2])
    learn.unfreeze()
    seen = []
    fit(learn, cbs=Callback(after_step=lambda self: seen.append(state(net))))
    close(state(net), mean_of(seen))
    assert not same(state(net[1]), body) and not same(state(net[2]), head)

def test_fine_tune():
    net = nn.Sequential(nn.Flatten(), nn.Linear(6,6), nn.Linear(6,3))
    learn = learner(net, cbs=WeightAverage(), splitter=lambda m: [params(m[1]), params(m[2])])
    with learn.no_logging(): learn.fine_tune(2)
    assert learn.weight_average.n_seen == 2*n_iter

def test_identity_is_kept():
    "Parameters are those that the optimizer has, and hooks are called"
    net,calls = Net(),[]
    net.head.register_forward_hook(lambda *o: calls.append(1))
    ids,modules = [id(p) for p in net.parameters()],[id(m) for m in net.modules()]
    learn = fit(learner(net, cbs=WeightAverage()))
    assert learn.model is net and [id(p) for p in net.parameters()] == ids and [id(m) for m in net.modules()] == modules
    assert [id(p) for p,*_ in learn.opt.all_params()] == ids and len(calls) == 3*(n_iter+3)
    assert all(p.is_leaf and p.requires_grad for p in net.parameters())

def test_channels_last():
    net = nn.Sequential(nn.Conv2d(1,3,2), nn.BatchNorm2d(3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    res = []
    for cbs in ([], [ChannelsLast()]):
        learn = fit(learner(deepcopy(net), cbs=[WeightAverage(), *cbs]))
        res.append(state(learn.model))
    close(*res)

def test_data_parallel():
    learn,other = learner(cbs=WeightAverage()).to_parallel(),learner(cbs=WeightAverage())
    for o in (learn, other): fit(o)
    assert type(learn.model) is Net and same(averaged(learn.weight_average), averaged(other.weight_average))
    assert same(state(learn.model), state(other.model))

# What the model holds

def losses(states):
    "Validation losses of a net that has these states"
    x,y = (torch.tensor(o)[:9] for o in data())
    res = []
    for s in states:
        net = Net().eval()
        net.load_state_dict(s, strict=False)
        with torch.no_grad(): res.append(F.cross_entropy(net(x), y).item())
    return res

@pytest.mark.parametrize('valid', [True, False])
@pytest.mark.parametrize('start', [0, .5])
def test_validations(valid, start):
    "The average's as soon as there is one, or always the raw weights'; the fit ends with the average"
    states = [s for _,s in plain_loop(4)]
    learn = fit(learner(cbs=WeightAverage(equal=True, start=start, valid=valid)), 4)
    begin = round(start*4*n_iter)
    means = {e: mean_of(o) for e in range(1, 5) if (o := states[begin:e*n_iter])}
    want = [means[e] if valid and e in means else states[e*n_iter-1] for e in range(1, 5)]
    assert [o[1] for o in learn.recorder.values] == pytest.approx(losses(want), abs=1e-5)
    assert learn.validate()[0] == pytest.approx(*losses([means[4]]), abs=1e-5)
    learn.weight_average.use_raw()
    assert learn.validate()[0] == pytest.approx(*losses([states[-1]]), abs=1e-5)
    learn.weight_average.use_averaged()
    learn.weight_average.use_averaged()
    assert learn.validate()[0] == pytest.approx(*losses([means[4]]), abs=1e-5)
    learn.weight_average.use_raw()
    close(state(learn.model), states[-1])

@pytest.mark.parametrize('valid', [True, False])
def test_trackers_save_what_was_validated(valid, tmp_path):
    "The best epoch's average is loaded at the end; the last raw weights and the last average can be had all the same"
    cb = WeightAverage(equal=True, valid=valid)
    learn = learner(cbs=[cb, SaveModelCallback(every_epoch=True, fname='e')], path=tmp_path)
    fit(learn)
    states = [s for _,s in plain_loop()]
    for e in range(1, 4):
        got = state(learn.load(f'e_{e-1}', with_opt=False).model)
        close(got, mean_of(states[:e*n_iter]) if valid else states[e*n_iter-1])
    class Worst(Callback):
        "Has the first epoch be the best one"
        order = Recorder.order+1
        def after_epoch(self): self.recorder.values[-1][1] = float(self.epoch)
    cb = WeightAverage(equal=True)
    learn = learner(cbs=[cb, SaveModelCallback(), Worst()], path=tmp_path)
    with contextlib.redirect_stdout(io.StringIO()): fit(learn)
    close(state(learn.model), mean_of(states[:n_iter]))
    cb.use_raw()
    close(state(learn.model), states[-1])
    cb.use_averaged()
    close(state(learn.model), mean_of(states))

def test_saved_and_loaded(tmp_path):
    learn = fit(learner(cbs=WeightAverage(), path=tmp_path))
    want = state(learn.model)
    learn.save('it')
    learn.weight_average.use_raw()
    raw = state(learn.model)
    assert not same(raw, want)
    assert same(state(learn.load('it').model), want)
    assert same(state(learner(path=tmp_path).load('it').model), want)

def test_fits_go_on_with_what_the_model_holds():
    a,b,c = (learner(cbs=WeightAverage(equal=True)) for _ in range(3))
    for o in (a,b,c): fit(o)
    b.weight_average.use_raw()
    c.weight_average.use_raw()
    c.weight_average.use_averaged()
    seen = {}
    for o in (a,b,c):
        seen[o] = []
        start = state(o.model)
        fit(o, cbs=Callback(after_step=lambda self: seen[o].append(state(o.model))))
        close(state(o.model), mean_of(seen[o]))
    assert same(state(a.model), state(c.model)) and not same(state(a.model), state(b.model))
    close(seen[b][-1], plain_loop(6)[-1][1])

def test_as_an_argument_of_fit():
    cb = WeightAverage(equal=True)
    learn = fit(learner(), cbs=cb)
    want = state(learn.model)
    cb.use_raw()
    close(state(learn.model), plain_loop()[-1][1])
    cb.use_averaged()
    assert same(state(learn.model), want) and cb.learn is None

def test_moved_after_the_fit():
    "Buffers are then other tensors"
    learn = fit(learner(cbs=WeightAverage()))
    want = state(learn.model)
    learn.model.double()
    learn.weight_average.use_raw()
    close({k: v.float() for k,v in state(learn.model).items()}, plain_loop()[-1][1])
    learn.weight_average.use_averaged()
    close({k: v.float() for k,v in state(learn.model).items()}, want)

# Who is no part of the fit

def test_no_trace_of_others():
    class Within(Callback):
        "Looks in the middle of the fit, and finds the average where the epoch has ended"
        run_valid = False
        def after_epoch(self):
            if self.learn.lock.locked(): return
            self.learn.get_preds()
            self.learn.get_preds(inner=True, ds_idx=0)
            self.learn.validate()
    res = []
    for cbs in ([], [FetchPredsCallback()], [Within()]):
        learn = learner(cbs=[WeightAverage(), *cbs])
        res.append(averaged(fit(learn).weight_average))
    assert same(*res[:2]) and same(*res[1:])
    cb = learn.weight_average
    learn.remove_cbs(Within)
    before = state(learn.model),{k: v.clone() for k,v in cb.raw.items()},(cb.n_seen,cb.last_taken)
    with learn.no_logging():
        learn.lr_find(num_it=10, show_plot=False)
        learn.validate()
        learn.get_preds()
        learn.predict(data()[0][0])
        learn.tta_flip()
    assert same(state(learn.model), before[0]) and same(cb.raw, before[1]) and same(cb.averaged, res[0])
    assert (cb.n_seen,cb.last_taken) == before[2]

def item(i): return TensorImage(torch.rand(1,2,3, generator=torch.Generator().manual_seed(i)))

def test_tta_within_a_fit_and_after():
    "fastai's calls `before_fit` and `after_fit` without the lock by which others are known"
    class Within(Callback):
        def after_epoch(self):
            if self.epoch==0 and not hasattr(self, 'done'):
                self.done = True
                self.preds = self.learn.tta(n=1)
    res = []
    for within in (False, True):
        set_seed(0)
        split = IndexSplitter(range(7))
        block = DataBlock((TransformBlock,CategoryBlock), get_x=item, get_y=lambda i: i%3, splitter=split)
        dls = block.dataloaders(list(range(28)), bs=3, num_workers=0, device='cpu', shuffle=False)
        learn = Learner(dls, Net(), opt_func=SGD, cbs=WeightAverage()).remove_cb(ProgressCallback)
        fit(learn, 2, cbs=Within() if within else None)
        res.append((averaged(learn.weight_average), state(learn.model)))
        held,raw = state(learn.model),learn.weight_average.raw
        learn.tta(n=1)
        assert same(state(learn.model), held) and learn.weight_average.raw is raw
        learn.weight_average.use_raw()
        held = state(learn.model)
        learn.tta(n=1)
        assert same(state(learn.model), held) and learn.weight_average.raw is None
    assert same(res[0][0], res[1][0]) and same(res[0][1], res[1][1])

def test_lr_find_before():
    res = []
    for first in (False, True):
        learn = learner(cbs=WeightAverage())
        if first:
            with learn.no_logging(): learn.lr_find(num_it=8, show_plot=False)
            assert not learn.weight_average.averaged
            learn.model.seen = torch.zeros(6) # which PyTorch's loading sets in place
            learn.create_opt()
        fit(learn)
        res.append(averaged(learn.weight_average))
    assert same(*res)

# Interruptions

class At(Callback):
    "Raises `error` at an event of the second epoch"
    order = 100
    def __init__(self, event, error, training):
        self.error,self.of = error,training
        setattr(self, event, self._raise)
    def _raise(self):
        if self.epoch==1 and self.training==self.of and self.iter >= 2: raise self.error

@pytest.mark.parametrize('error', [KeyboardInterrupt(), CancelFitException()])
@pytest.mark.parametrize('event,training', [('after_pred',True), ('after_step',True), ('after_batch',True),
    ('before_validate',False), ('after_pred',False), ('after_batch',False), ('after_epoch',False)])
def test_interrupted(error, event, training):
    "The model holds raw weights in training, the average in validation and where the fit ends; each can be had"
    cb = WeightAverage(equal=True)
    learn = learner(cbs=cb)
    try: fit(learn, cbs=At(event, error, training))
    except KeyboardInterrupt: pass
    held = state(learn.model)
    count = cb.n_seen
    assert count == (2*n_iter if not training else n_iter+(2 if event!='after_batch' else 3))
    states = [s for _,s in plain_loop()]
    want = mean_of(states[:count])
    ran = count + (event=='after_step') # the step was taken, and the batch hadn't ended
    params = [k for k in want if 'running' not in k and k!='seen']
    last = {k: states[ran-1][k] for k in params}
    def _params(): return {k: v for k,v in state(learn.model).items() if k in params}
    if training and not isinstance(error, CancelFitException): close(_params(), last)
    else: close(held, want)
    cb.use_averaged()
    close(state(learn.model), want)
    cb.use_raw()
    close(_params(), last)
    learn.remove_cbs(At)
    fit(learn)
    assert cb.n_seen == 3*n_iter

@pytest.mark.parametrize('when', ['before', 'after'])
@pytest.mark.parametrize('call', range(5))
def test_interrupted_in_the_swap(monkeypatch, when, call):
    "Before or after the values are copied, by which time the others are kept"
    real,calls = torch._foreach_copy_,[]
    def copy_(*args):
        calls.append(1)
        hit = len(calls)-1 == call
        if hit and when=='before': raise KeyboardInterrupt
        real(*args)
        if hit: raise KeyboardInterrupt
    monkeypatch.setattr(torch, '_foreach_copy_', copy_)
    cb = WeightAverage(equal=True)
    learn = learner(cbs=cb)
    try: fit(learn)
    except KeyboardInterrupt: pass
    monkeypatch.undo()
    assert len(calls) == call+1
    states = [s for _,s in plain_loop()][:cb.n_seen]
    want = mean_of(states)
    held = state(learn.model)
    if any(not torch.allclose(held[k], states[-1][k], atol=1e-6) for k in held): close(held, want)
    cb.use_averaged()
    close(state(learn.model), want)
    cb.use_raw()
    close(state(learn.model), states[-1])

# Resuming

class StopAfter(Callback):
    "Stops after an epoch, when everybody has seen it, and keeps what a checkpoint would"
    order = 90
    def __init__(self, epoch, file): self.at,self.file = epoch,file
    def after_epoch(self):
        if self.epoch!=self.at: return
        o = self.learn
        torch.save([o.model.state_dict(), o.weight_average.state_dict()], self.file)
        torch.save(o.opt.state_dict(), f'{self.file}_opt')
        raise KeyboardInterrupt

@pytest.mark.parametrize('at', [0, 2])
@pytest.mark.parametrize('kwargs', [dict(), dict(half_life=.3, every=3), dict(equal=True, start=.3), dict(valid=False),
    dict(start=.9), dict(bn='epoch')])
def test_resumed_to_the_bit(tmp_path, kwargs, at):
    whole = fit(learner(cbs=WeightAverage(**kwargs)), 4)
    with pytest.raises(KeyboardInterrupt): fit(learner(cbs=WeightAverage(**kwargs)), 4, cbs=StopAfter(at, tmp_path/'c'))
    model,avg = torch.load(tmp_path/'c', weights_only=True)
    opt = torch.load(tmp_path/'c_opt', weights_only=False)
    learn = learner(cbs=WeightAverage(**kwargs))
    learn.create_opt()
    learn.model.load_state_dict(model)
    learn.opt.load_state_dict(opt)
    learn.weight_average.load_state_dict(avg)
    fit(learn, 4, start_epoch=at+1)
    a,b = whole.weight_average,learn.weight_average
    assert same(averaged(a), averaged(b)) and same(a.raw, b.raw) and a.n_seen == b.n_seen
    assert same(state(whole.model), state(learn.model))
    assert [o[1] for o in whole.recorder.values[at+1:]] == [o[1] for o in learn.recorder.values[at+1:]]
    fit(learn, 1)
    assert learn.weight_average.n_seen <= n_iter # the fit after is not resumed

class Keeps(Callback):
    "Keeps what a checkpoint would, when all have begun the second epoch, or puts it back there"
    order,found = 1000,None
    def __init__(self, kept=None): self.kept = kept
    def parts(self): return self.model,self.opt,self.weight_average
    def before_train(self):
        if self.epoch!=1: return
        if self.kept is None: self.found = [deepcopy(o.state_dict()) for o in self.parts()]
        else:
            for o,state in zip(self.parts(), self.kept): o.load_state_dict(state)

@pytest.mark.parametrize('kwargs', [dict(), dict(bn='end', start=.1)])
def test_loaded_within_the_fit(kwargs):
    whole,keeps = learner(cbs=WeightAverage(**kwargs)),Keeps()
    fit(whole, 2, cbs=keeps)
    learn = learner(cbs=WeightAverage(**kwargs))
    fit(learn, 2, start_epoch=1, cbs=Keeps(keeps.found))
    assert same(state(whole.model), state(learn.model))
    assert same(averaged(whole.weight_average), averaged(learn.weight_average))
    fit(learn, 1)
    assert learn.weight_average.n_seen <= n_iter

def test_loaded_state_is_used_and_is_a_copy():
    learn = fit(learner(cbs=WeightAverage()))
    want,raw = state(learn.model),{k: v.clone() for k,v in learn.weight_average.raw.items()}
    other = learner(cbs=WeightAverage())
    other.weight_average.load_state_dict(learn.weight_average.state_dict())
    other.weight_average.use_averaged()
    assert same(state(other.model), want)
    other.weight_average.use_raw()
    close({k: v for k,v in state(other.model).items() if k in raw}, raw)
    fit(other)
    assert same(averaged(learn.weight_average), want)

def test_state_of_another_model():
    learn = fit(learner(cbs=WeightAverage()))
    other = learner(nn.Sequential(nn.Flatten(), nn.Linear(6,3)), cbs=WeightAverage())
    start = state(other.model)
    other.weight_average.load_state_dict(learn.weight_average.state_dict())
    words = "another model: 11 tensors differ in name or shape, the first is '1.weight'"
    with pytest.raises(ValueError, match=words): fit(other)
    assert same(state(other.model), start)
    alone = WeightAverage()
    alone.load_state_dict(learn.weight_average.state_dict())
    with pytest.raises(ValueError, match='has no learner'): alone.use_averaged()

# Batch norm

def by_torch(learn, s):
    "Batch-norm statistics that PyTorch computes for the state `s` on the training data"
    net = Net()
    net.load_state_dict(s, strict=False)
    torch.optim.swa_utils.update_bn([learn._set_device(b)[0] for b in learn.dls.train], net)
    return {k: v for k,v in state(net).items() if 'running' in k}

def stats(s): return {k: v for k,v in s.items() if 'running' in k}

@pytest.mark.parametrize('valid', [True, False])
@pytest.mark.parametrize('bn', ['end', 'epoch'])
def test_batch_norm_as_by_torch(bn, valid):
    cb = WeightAverage(equal=True, bn=bn, valid=valid)
    learn = fit(learner(cbs=cb))
    states = [s for _,s in plain_loop()]
    means = [mean_of(states[:e*n_iter]) for e in (1,2,3)]
    want = [{**m, **by_torch(learn, m)} for m in means]
    close(state(learn.model), {**want[-1], 'seen': means[-1]['seen']})
    close(stats(averaged(cb)), stats(want[-1]))
    during = [states[e*n_iter-1] for e in (1,2,3)] if not valid else want if bn=='epoch' else means
    assert [o[1] for o in learn.recorder.values] == pytest.approx(losses(during), abs=1e-5)
    assert learn.model.bn.num_batches_tracked == 3*n_iter and learn.model.bn.momentum == .1
    cb.use_raw()
    close(state(learn.model), states[-1])

def test_statistics_that_are_frozen_stay():
    net = Net()
    net.bn.requires_grad_(False)
    net.bn.running_mean.fill_(.3)
    learn = fit(learner(net, cbs=[WeightAverage(bn='end'), BnFreeze()]))
    assert net.bn.running_mean.unique().tolist() == pytest.approx([.3])

def test_cancelled_in_the_first_epoch():
    "The statistics are computed all the same"
    class Ends(Callback):
        def after_batch(self):
            if self.training and self.iter==4: raise CancelFitException
    learn = fit(learner(cbs=[WeightAverage(equal=True, bn='end'), Ends()]))
    assert learn.weight_average.n_seen == 4
    s = state(learn.model)
    close(stats(s), by_torch(learn, s))

def test_renew_bn_changes_statistics_alone():
    learn = fit(learner(shuffle=True, cbs=[MixUp(), Plus()]))
    learn.model.train()
    before,process = fingerprint(learn),process_state()
    renew_bn(learn)
    changed = {k for k,*_ in differences(before, fingerprint(learn))}
    # the count is reset and put back
    assert {re.search(r"(\w+)\W*$", k)[1] for k in changed} == {'running_mean','running_var','num_batches_tracked'}
    assert differences(process, process_state()) == []
    assert learn.model.calls == learn.model.bn.num_batches_tracked == 3*n_iter # no other layer is in training

class Plus(Callback):
    "Acts on predictions too"
    def before_batch(self): self.learn.xb = tuple(x+1 for x in self.xb)

def fail_at(count, error, *args):
    count[0] += 1
    if count[0]==3: raise error

def test_renewed_statistics_are_of_the_inputs_that_predictions_have():
    learn,plain = learner(cbs=Plus()),learner()
    for o in (learn, plain): renew_bn(o)
    x = torch.stack([learn._set_device(b)[0]+1 for b in learn.dls.train]).flatten(2)
    want = learn.model.a(x).mean((0,1))
    assert torch.allclose(learn.model.bn.running_mean, want, atol=1e-5)
    assert not torch.allclose(plain.model.bn.running_mean, want, atol=1e-2)

def test_interrupted_renewal_leaves_the_statistics():
    learn = fit(learner())
    before = state(learn.model)
    learn.model.head.register_forward_hook(partial(fail_at, [0], KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt): renew_bn(learn)
    assert same(state(learn.model), before) and learn.model.bn.momentum == .1
    assert learn.model.bn.num_batches_tracked == 3*n_iter

def test_renewing_without_data_or_layers():
    learn = learner()
    empty = learn.dls.new_empty()
    learn.dls = empty
    with pytest.raises(ValueError, match='pass `dl=`'): renew_bn(learn)
    learn.model = nn.Linear(2,2)
    renew_bn(learn)

# Refusals, cost, export

@pytest.mark.parametrize('kwargs,words', [
    (dict(decay=1), 'decay is between 0 and 1, such as .999, got 1'), (dict(decay=0), 'got 0'),
    (dict(half_life=0), 'half_life is a number of epochs.*got 0'), (dict(half_life=-1), 'got -1'),
    (dict(half_life=1, equal=True), 'leave it or equal out, got half_life=1'),
    (dict(start=1), 'start is a fraction .*got 1'), (dict(start=-.1), 'got -0.1'),
    (dict(every=0), 'every is steps.*got 0'), (dict(every=1.5), 'got 1.5'), (dict(bn='swa'), "'epoch', got 'swa'")])
def test_bad_arguments(kwargs, words):
    with pytest.raises(ValueError, match=words): WeightAverage(**kwargs)

@pytest.mark.parametrize('kwargs', [dict(every=22), dict(start=.5, every=12)])
def test_nothing_would_count(kwargs):
    steps = Callback(after_step=lambda self: pytest.fail('a step'))
    with pytest.raises(ValueError, match='No weights would be averaged: of 21 steps none counts'):
        fit(learner(cbs=WeightAverage(**kwargs)), cbs=steps)
    with pytest.raises(ValueError, match='no step of a fit has counted'): WeightAverage().use_averaged()

def test_two_of_them():
    learn = learner(cbs=WeightAverage())
    with pytest.raises(ValueError, match='2 WeightAverage callbacks'): fit(learn, cbs=WeightAverage())

class Ops(TorchDispatchMode):
    "Notes what is called"
    def __init__(self):
        super().__init__()
        self.names = []
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))

@pytest.mark.parametrize('kwargs', [dict(), dict(equal=True), dict(half_life=1)])
def test_a_step_asks_no_device_for_a_value(kwargs):
    "One call for all tensors"
    cb,ops = WeightAverage(**kwargs),Ops()
    class Watch(Callback):
        run_valid = False
        def after_batch(self): self.mode = ops.__enter__() if self.train_iter==9 else None
    class Unwatch(Callback):
        order,run_valid = WeightAverage.order+1,False
        def after_batch(self):
            if self.train_iter==9: ops.__exit__(None, None, None)
    fit(learner(cbs=[cb, Watch(), Unwatch()]), 2)
    names = [o for o in ops.names if 'detach' not in o]
    assert names == ['aten._foreach_lerp_.Scalar']

def test_a_copy_is_without_tensors():
    learn = fit(learner(cbs=WeightAverage(.9, every=2)))
    again = pickle.loads(pickle.dumps(learn.weight_average.__getstate__() | dict(learn=None)))
    assert again['decay'] == .9 and not {'averaged','raw','places'} & again.keys()

@pytest.mark.slow
def test_exported_and_loaded_in_a_fresh_process(tmp_path):
    "It predicts by the average, and isn't larger for it"
    model = nn.Sequential(nn.Flatten(), nn.Linear(6,2000), nn.BatchNorm1d(2000), nn.Linear(2000,3))
    learn = fit(learner(model, cbs=WeightAverage(equal=True), path=tmp_path))
    x = np.ones((1,2,3), dtype=np.float32)
    want = learn.predict(x)[2]
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        learn.export()
    assert (tmp_path/'export.pkl').stat().st_size < 1.5*sum(v.nbytes for v in model.state_dict().values()) + 2e4
    code = f"""
import json, numpy as np, warnings; warnings.simplefilter('ignore')
from fastai.learner import load_learner
l = load_learner({str(tmp_path/'export.pkl')!r})
x = np.ones((1,2,3), dtype=np.float32)
with l.no_bar(): print(json.dumps([l.predict(x)[2].tolist(), l.weight_average.averaged]))"""
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout
    got,left = json.loads(out.splitlines()[-1])
    assert torch.allclose(tensor(got), want, atol=1e-6) and left == {}
    learn.weight_average.use_raw()
    assert not torch.allclose(learn.predict(x)[2], want, atol=1e-6)
