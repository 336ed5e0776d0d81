"Record, CapturePreds and LayerStats: what they keep, beside what a plain loop or fastai's own keep"
import pytest, warnings
from fastai.callback.fp16 import *
from fastai.callback.hook import *
from fastai.vision.all import *
from fastai_ext.record import *

class Net(nn.Module):
    "Two groups, a ReLU without parameters, dropout and a dead unit"
    def __init__(self):
        super().__init__()
        self.a,self.relu,self.drop,self.flat = nn.Conv2d(1,4,3),nn.ReLU(),nn.Dropout(0.),nn.Flatten()
        self.b,self.unused = nn.Linear(16,2),nn.Linear(3,3)
        self.a.weight.data[1],self.a.bias.data[1] = 0.,-1.
    def forward(self, x): return self.b(self.flat(self.drop(self.relu(self.a(x)))))

class Items(list):
    "Pairs of tensors, with what fastai asks of a data set for `export` and `tta`"
    def new_empty(self): return Items()
    @contextmanager
    def set_split_idx(self, i): yield self

def learner(n=24, groups=1, **kwargs):
    g = torch.Generator().manual_seed(0)
    x,y = torch.randn(n,1,4,4,generator=g),torch.randint(0,2,(n,),generator=g)
    data = Items(zip(x, y))
    dls = DataLoaders.from_dsets(data, Items(data[:9]), bs=4, num_workers=0)
    def splitter(m): return [list(m.a.parameters()), list(m.b.parameters())] if groups==2 else list(m.parameters())
    return Learner(dls, Net(), loss_func=CrossEntropyLossFlat(), splitter=splitter, **kwargs)

def drawn(plot, *args, **kwargs):
    "The axes of what `plot` draws; a notebook shows nothing else"
    plt.close('all')
    assert plot(*args, **kwargs) is None and len(plt.get_fignums()) == 1
    return plt.gcf().axes

def quiet(learn, n=2, *cbs, lr=1e-2, one_cycle=False, **kwargs):
    fit = learn.fit_one_cycle if one_cycle else learn.fit
    with learn.no_bar(), learn.no_logging(): fit(n, lr, cbs=L(cbs), **kwargs)
    return learn

# Record

def test_ready_made():
    "lr and mom of each group, beside the recorder's and ParamScheduler's"
    rec = Record('lr','mom')
    learn = quiet(learner(groups=2), 2, rec, lr=slice(1e-4,1e-2), one_cycle=True)
    assert rec['lr'].shape == rec['mom'].shape == (12,2)
    test_eq(rec['lr'][:,1].tolist(), learn.recorder.lrs)
    test_close(rec['lr'][:,0]*100, rec['lr'][:,1])
    test_eq(rec['mom'][:,1].tolist(), learn.recorder.hps['mom'])
    one = Record()
    quiet(learner(), 1, one)
    assert one['lr'].shape == (6,) and set(one.fs) == {'lr','mom'}

def test_quantities_in_training_and_validation():
    losses,rec = [],Record(loss=lambda l: l.loss, twice=lambda l: [l.loss, 2*l.loss], n=lambda l: len(l.x), ds_idx=None)
    def keep(self): losses.append((self.training, self.loss.item(), len(self.x)))
    quiet(learner(), 2, rec, Callback(after_batch=keep))
    df = rec.to_df()
    assert list(df.columns) == ['split','epoch','iter','loss','twice_0','twice_1','n']
    assert len(df) == len(losses) == 2*(6+3)
    train,valid = df[df.split=='train'],df[df.split=='valid']
    np.testing.assert_allclose(train.loss, [o for t,o,_ in losses if t], rtol=1e-6)
    np.testing.assert_allclose(valid.loss, [o for t,o,_ in losses if not t], rtol=1e-6)
    np.testing.assert_allclose(df.twice_1, 2*df.loss, rtol=1e-6)
    assert train.iter.tolist() == list(range(12)) and train.epoch.tolist() == [0]*6+[1]*6
    assert valid.iter.tolist() == [5]*3+[11]*3
    assert valid.n.tolist() == [4,4,1]*2
    assert 'valid' not in set(quiet(learner(), 1, r := Record(loss=lambda l: l.loss)) and r.to_df().split)

def test_tensors_are_copied_and_detached():
    "What is recorded does not change with the weights"
    rec,want = Record(w=lambda l: l.model.b.bias),[]
    def keep(self):
        if self.training: want.append(self.model.b.bias.tolist())
    quiet(learner(), 1, rec, Callback(after_batch=keep))
    np.testing.assert_allclose(rec['w'], want, rtol=1e-6)
    assert len(np.unique(rec['w'][:,0])) == 6

def test_gradients_after_step():
    "after_step sees the gradients of the batches that make a step"
    rec,want = Record(event='after_step', g=lambda l: l.model.b.weight.grad.norm()),[]
    quiet(learner(), 1, rec, Callback(before_step=lambda self: want.append(self.model.b.weight.grad.norm().item())))
    np.testing.assert_allclose(rec['g'], want, rtol=1e-6)
    assert min(want) > 0
    acc = Record(event='after_step', g=lambda l: l.model.b.weight.grad.norm())
    quiet(learner(), 1, acc, GradientAccumulation(8))
    assert len(acc['g']) == 3 and acc.to_df().iter.tolist() == [1,3,5]

def test_only_fits_are_recorded():
    "validate, get_preds and lr_find neither add nor delete; a new fit begins anew; other learners too"
    rec = Record(loss=lambda l: l.loss, ds_idx=None)
    learn = quiet(learner(cbs=rec), 1)
    df = rec.to_df()
    learn.validate()
    learn.get_preds()
    with learn.no_bar(): learn.lr_find(num_it=12, stop_div=False, show_plot=False)
    pd.testing.assert_frame_equal(df, rec.to_df())
    quiet(learn, 2)
    assert len(rec.to_df()) == 2*(6+3)

class Within(Callback):
    "Validates and predicts again in the middle of a fit, by `call`, after each epoch"
    def __init__(self, call, order): self.call,self.order = call,order
    def after_epoch(self):
        if self.learn.lock.locked() or getattr(self, 'busy', False): return
        self.busy = True
        self.call(self.learn)
        self.busy = False

within = dict(validate=lambda l: l.validate(), get_preds=lambda l: l.get_preds(ds_idx=0),
    inner=lambda l: l.get_preds(inner=True), tta=lambda l: l.tta(n=1))

@pytest.mark.parametrize('order', [-50,100])
@pytest.mark.parametrize('call', within.values(), ids=within.keys())
def test_a_validation_within_the_fit_is_not_heard(call, order):
    "All three keep the same with it and without, in two fits"
    res = []
    for cbs in ((), [Within(call, order)]):
        set_seed(3)
        rec,stats = Record('lr', loss=lambda l: l.loss, ds_idx=None),LayerStats(every=4)
        preds,train = CapturePreds(),CapturePreds(0)
        learn = learner(cbs=[rec,preds,train,stats], opt_func=SGD)
        for n in (1,3): quiet(learn, n, *cbs)
        res.append((rec.to_df(), preds.preds, preds.targs, train.targs.sort()[0], stats.iters, stats.layer_stats(0)))
    (a,*preds_a,iters_a,stats_a),(b,*preds_b,iters_b,stats_b) = res
    pd.testing.assert_frame_equal(a[['split','epoch','iter']], b[['split','epoch','iter']])
    assert len(a) == 3*(6+3) and iters_a == iters_b == [0,4,8,12,16] and len(stats_b[0]) == 5
    for p,q in zip(preds_a, preds_b): assert p.shape == q.shape
    assert torch.equal(preds_a[1], preds_b[1]) and torch.equal(preds_a[2], preds_b[2])

@pytest.mark.parametrize('between', [noop, lambda l: l.validate(), lambda l: l.tta(n=1)])
def test_a_fit_after_an_interrupted_one_begins_anew(between):
    class Stop(Callback):
        def after_loss(self):
            if self.training and self.epoch==1: raise KeyboardInterrupt
    rec,preds,stats = cbs = Record('lr'),CapturePreds(),LayerStats(every=1)
    learn = learner(cbs=cbs)
    with pytest.raises(KeyboardInterrupt): quiet(learn, 2, Stop())
    old = preds.preds
    between(learn)
    assert len(rec['lr']) == 6 and len(stats.stats) == 7 and torch.equal(preds.preds, old)
    quiet(learn, 1)
    assert rec.to_df().iter.tolist() == stats.iters == list(range(6))
    assert not any(m._forward_hooks for m in learn.model.modules())

class Cancel(Callback):
    "Raises `exc` in `event` of every other batch"
    def __init__(self, exc, event, order=0):
        self.exc,self.order = exc,order
        setattr(self, event, self._raise)
    def _raise(self):
        if self.iter%2: raise self.exc

@pytest.mark.parametrize('order', [-30,0,100])
@pytest.mark.parametrize('what', ['backward','step'])
def test_what_was_skipped_is_not_recorded(what, order):
    exc = dict(backward=CancelBackwardException, step=CancelStepException)[what]
    rec,all_batches = Record(event=f'after_{what}', n=lambda l: l.iter),Record(n=lambda l: l.iter)
    quiet(learner(), 1, rec, all_batches, Cancel(exc, f'before_{what}', order))
    assert rec['n'].tolist() == rec['iter'].tolist() == [0,2,4] and all_batches['n'].tolist() == list(range(6))

@pytest.mark.parametrize('order', [-30,0,100])
@pytest.mark.parametrize('event', ['before_batch','after_pred'])
def test_cancelled_batches_have_no_row(event, order):
    "Nor predictions, in training and in validation; what has been kept belongs together"
    rec = Record(n=lambda l: l.iter, loss=lambda l: l.loss, ds_idx=None)
    train,valid,stats = CapturePreds(0, with_input=True),CapturePreds(with_input=True),LayerStats(every=1)
    learn = quiet(learner(opt_func=SGD), 1, rec, train, valid, stats, Cancel(CancelBatchException, event, order), lr=0.)
    df = rec.to_df()
    assert df.n.tolist() == [0,2,4,0,2] and df.iter.tolist() == [0,2,4,5,5] and df.loss.is_unique
    for cb,n in ((train,12), (valid,5)):
        assert len(cb.preds) == len(cb.targs) == n
        test_close(cb.preds, learn.model(cb.inps))
    test_close(F.cross_entropy(train.preds, train.targs), df.loss[:3].mean(), eps=1e-5)
    computed = event == 'after_pred' and order > LayerStats.order
    assert stats.iters == (list(range(6)) if computed else [0,2,4]) and not np.isnan(list(stats.layer_stats(0))).any()

def test_accumulated_batches_have_a_row():
    "Their step is cancelled with the batch, not their loss"
    rec,want = Record(loss=lambda l: l.loss),[]
    quiet(learner(), 1, rec, GradientAccumulation(8), Callback(after_loss=lambda self: want.append(self.loss.item())))
    np.testing.assert_allclose(rec['loss'], want[:6], rtol=1e-6)

@pytest.mark.parametrize('names,quantities', [('', 'epoch'), ('', 'iter'), ('', 'split'), ('', 'x x_0'), ('', 'x_10 x'),
    ('lr', 'lr'), ('lr', 'lr_1')])
def test_names_of_other_columns_are_refused(names, quantities):
    with pytest.raises(ValueError, match='another column.*give the quantity another name'):
        Record(*names.split(), **{o: len for o in quantities.split()})

def test_names_that_only_look_alike():
    rec = Record(x=lambda l: [1.,2.], x_a=lambda l: 3., y_0=lambda l: 4., valid=lambda l: 5.)
    quiet(learner(), 1, rec)
    assert list(rec.to_df()) == ['split','epoch','iter','x_0','x_1','x_a','y_0','valid']

numbers = dict(int=(lambda i: i, 'i'), large=(lambda i: 2**60+i, 'i'), long=(lambda i: tensor(2**60+i), 'i'),
    ints=(lambda i: [i, 2**60], 'i'), tensors=(lambda i: [tensor(i), tensor(2**60)], 'i'), bool=(lambda i: i>2, 'b'),
    float=(lambda i: i/3, 'f'), complex=(lambda i: i+2j, 'c'), complexes=(lambda i: torch.tensor([i+2j, 1j]), 'c'),
    array=(lambda i: np.array([i,2]), 'i'), mixed=(lambda i: [i, .5], 'f'))

@pytest.mark.parametrize('f,kind', numbers.values(), ids=numbers.keys())
def test_numbers_keep_their_type(f, kind):
    rec = Record(v=lambda l: f(l.epoch*6+l.iter))
    quiet(learner(), 2, rec)
    def plain(v):
        "`v` without tensors"
        if is_listy(v): return [plain(o) for o in v]
        return v.tolist() if isinstance(v, Tensor) else v
    want = np.array([plain(f(i)) for i in range(12)])
    assert rec['v'].dtype.kind == kind and np.array_equal(rec['v'], want)
    df = rec.to_df()
    assert {o.kind for o in df.drop(columns='split').dtypes} == {'i',kind}
    assert df.iloc[:,3:].to_numpy().tolist() == want.reshape(12, -1).tolist()

def test_half_precision_and_double():
    rec = Record(b=lambda l: l.loss.bfloat16(), h=lambda l: l.loss.half(), d=lambda l: l.loss.double())
    quiet(learner(), 1, rec)
    assert [rec[o].dtype for o in 'bhd'] == [np.float32,np.float32,np.float64]

def test_plot_refuses_what_was_not_recorded():
    rec = Record('lr')
    quiet(learner(), 1, rec)
    with pytest.raises(ValueError, match="'loss' was not recorded, only lr"): rec.plot('loss')

def test_interrupted_fit_keeps_what_was_recorded():
    class Stop(Callback):
        def after_batch(self):
            if self.training and self.train_iter==8: raise KeyboardInterrupt
    rec = Record('lr')
    with pytest.raises(KeyboardInterrupt): quiet(learner(), 2, Stop(), rec)
    assert len(rec['lr']) == 7

def test_plot():
    rec = Record('lr', loss=lambda l: l.loss, acc=lambda l: (l.pred.argmax(1)==l.y).float().mean(), ds_idx=None)
    quiet(learner(groups=2), 2, rec)
    axs = drawn(rec.plot)
    assert [o.get_title() for o in axs] == ['lr','loss','acc']
    train,valid = axs[1].lines
    np.testing.assert_allclose(train.get_ydata(), rec['loss'])
    df = rec.to_df()
    np.testing.assert_allclose(valid.get_ydata(), df[df.split=='valid'].groupby('epoch').loss.mean(), rtol=1e-6)
    assert valid.get_xdata().tolist() == [5,11]
    assert [o.get_label() for o in axs[0].lines] == ['group 0','group 1']
    ax, = drawn(rec.plot, 'loss')
    assert ax.get_title() == 'loss'
    only = Record(loss=lambda l: l.loss, ds_idx=1)
    quiet(learner(), 2, only)
    (ax,),df = drawn(only.plot),only.to_df()
    np.testing.assert_allclose(ax.lines[0].get_ydata(), df.groupby('epoch').loss.mean(), rtol=1e-6)

def test_record_refuses():
    with pytest.raises(ValueError, match="'loss' is not ready-made.*lr, mom.*loss=..."): Record('loss')
    with pytest.raises(TypeError, match='gn is a function of the learner, got 3'): Record(gn=3)
    with pytest.raises(ValueError, match="event is one of.*'after_fit'"): Record(event='after_fit')
    for o in (1, None):
        with pytest.raises(ValueError, match='step does not come in validation'): Record(event='after_step', ds_idx=o)
    with pytest.raises(ValueError, match='ds_idx is 0 for training, 1 .* or None for both, got 2'): Record(ds_idx=2)
    with pytest.raises(TypeError, match='valid is a function.*got True.*ds_idx'): Record(valid=True)
    with pytest.raises(ValueError, match='Nothing has been recorded'): Record().plot()
    with pytest.raises(ValueError, match="'x' must give numbers"): quiet(learner(), 1, Record(x=lambda l: 'a'))
    more = Record(x=lambda l: [1.]*(1+l.iter))
    with pytest.raises(ValueError, match="'x' must give numbers, and as many"): quiet(learner(), 1, more)
    def nomom(ps, lr): return OptimWrapper(ps, opt=torch.optim.Adagrad, lr=lr)
    learn = learner(opt_func=nomom)
    with pytest.raises(ValueError, match="no momentum.*leave 'mom' out"): quiet(learn, 1, Record('lr','mom'))

class Syncs(torch.utils._python_dispatch.TorchDispatchMode):
    "Counts the operators that make a device wait for the CPU"
    names = '_local_scalar_dense','is_nonzero','equal'
    def __init__(self):
        super().__init__()
        self.n = 0
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        moves = func._opname == '_to_copy' and (kwargs or {}).get('device') is not None
        self.n += func._opname in self.names or moves
        return func(*args, **(kwargs or {}))

def syncs(*cbs, n=1):
    "How many there are in the training batches of a fit, with and without `cbs`"
    class Count(Callback):
        order = -1000
        def before_train(self):
            self.mode = Syncs()
            self.mode.__enter__()
        def after_train(self): self.mode.__exit__(None, None, None)
    res = []
    for o in ((), cbs):
        c = Count()
        quiet(learner(), n, c, *o)
        res.append(c.mode.n)
    return res

def test_no_synchronisation_per_batch():
    "Neither Record nor LayerStats asks the device for a number within the batches; ActivationStats does, so they count"
    a,b = syncs(Record('lr', loss=lambda l: l.loss))
    assert a == b
    a,b = syncs(LayerStats(every=1))
    assert a == b
    a,b = syncs(ActivationStats(every=1))
    assert b >= a+6*3*2

# CapturePreds

def test_captures_validation():
    cb = CapturePreds(with_input=True)
    learn = quiet(learner(), 2, cb)
    inps,preds,targs = learn.get_preds(with_input=True, act=noop)
    test_close(cb.preds, preds)
    test_eq(cb.targs, targs)
    test_close(cb.inps, inps)
    assert cb.preds.device.type == 'cpu' and not cb.preds.requires_grad
    old = cb.preds
    learn.add_cb(cb)
    learn.validate()
    learn.get_preds(ds_idx=0)
    test_eq(cb.preds, old)

def test_captures_training():
    "The loss of what was captured is the recorded loss"
    cb,rec = CapturePreds(0),Record(loss=lambda l: l.loss)
    quiet(learner(), 2, cb, rec)
    assert cb.preds.shape == (24,2)
    test_close(F.cross_entropy(cb.preds, cb.targs), rec['loss'][6:].mean(), eps=1e-5)

@pytest.mark.parametrize('call', [lambda l, cb: l.validate(cbs=cb), lambda l, cb: l.validate(ds_idx=0, cbs=cb),
    lambda l, cb: l.get_preds(cbs=cb), lambda l, cb: l.get_preds(ds_idx=0, cbs=[cb])])
def test_given_to_one_call(call):
    "It keeps what that call computes, also after a fit and asked again; one in `learn.cbs` keeps the fit's"
    cb,stays = CapturePreds(with_input=True),CapturePreds()
    learn = quiet(learner(cbs=stays), 1, cb)
    fit = stays.preds
    for _ in range(2):
        for p in learn.model.parameters(): p.data.mul_(1.5)
        call(learn, cb)
        assert len(cb.preds) in (9,24)
        test_close(cb.preds, learn.model(cb.inps))
        assert torch.equal(stays.preds, fit)
    with pytest.raises(ValueError, match='Nothing has been kept'):
        learn.validate(cbs=(train := CapturePreds(0)))
        train.preds

def test_given_within_a_fit():
    "A callback that captures in the middle of a fit disturbs nobody"
    class Look(Callback):
        def after_epoch(self):
            if self.learn.lock.locked(): return
            self.cb = CapturePreds()
            self.learn.validate(ds_idx=0, cbs=self.cb)
    stays,look = CapturePreds(),Look()
    quiet(learner(cbs=stays), 2, look)
    assert len(stays.preds) == 9 and len(look.cb.preds) >= 20

def test_epochs_that_are_not_validated():
    "The validation before is kept, but not that of another fit"
    class Skip(Callback):
        def before_validate(self):
            if self.epoch > 0 or self.n_epoch==1: raise CancelValidException
    cb = CapturePreds()
    learn = quiet(learner(), 3, cb, Skip())
    assert len(cb.preds) == 9
    quiet(learn, 1, cb, Skip())
    with pytest.raises(ValueError, match='Nothing has been kept'): cb.preds

def test_predictions_without_targets():
    cb,learn = CapturePreds(),learner()
    x = torch.randn(6,1,4,4)
    preds = learn.get_preds(dl=DataLoader(L((o,) for o in x), bs=4), act=noop, cbs=cb)[0]
    test_close(cb.preds, preds)
    assert cb.targs is None

def test_exported_callbacks_come_back(tmp_path):
    learn = quiet(learner(cbs=[Record(), CapturePreds(), LayerStats(every=1)], path=tmp_path), 1)
    learn.export()
    new = load_learner(tmp_path/'export.pkl')
    with pytest.raises(ValueError, match='Nothing has been kept'): new.capture_preds.preds
    new.dls = learn.dls
    quiet(new, 1)
    assert len(new.record['lr']) == 6 and len(new.capture_preds.preds) == 9 and len(new.layer_stats.stats) == 6

def test_capture_refuses():
    with pytest.raises(ValueError, match='ds_idx is 0 for training or 1 for validation, got 2'): CapturePreds(2)
    with pytest.raises(ValueError, match='Nothing has been kept'): CapturePreds().preds
    cb = CapturePreds()
    quiet(learner(), 1, cb)
    with pytest.raises(ValueError, match='with_input=True'): cb.inps

# LayerStats

def fit_both(every=1, n=2, **kwargs):
    "Our statistics and fastai's of one fit"
    learn = learner()
    mods = [learn.model.a, learn.model.relu, learn.model.b]
    mine,his = LayerStats(mods, every=every, **kwargs),ActivationStats(modules=mods, every=every, with_hist=True)
    quiet(learn, n, mine, his)
    return mine,his

@pytest.mark.parametrize('every', [1,4])
def test_equal_to_activation_stats(every):
    "Means, standard deviations, shares near zero and histograms are fastai's, as are the types"
    mine,his = fit_both(every, bins=40, hist_range=(0,10))
    assert isinstance(mine, ActivationStats) and len(mine.stats) == len(his.stats) == math.ceil(12/every)
    for i in range(3):
        a,b = (np.array(list(o.layer_stats(i)))[:3] for o in (mine,his))
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
        test_close(mine.hist(i), his.hist(i))
    assert all(isinstance(o, float) for o in mine.layer_stats(0)[0])
    mine.plot_layer_stats(0)
    mine.color_dim(0)
    plt.close('all')

@pytest.mark.parametrize('bins,lo,hi', [(60,-6,6), (40,0,6), (7,.1,.7), (33,-3.3,1.7), (300,0,6)])
def test_histograms_are_torchs(bins, lo, hi):
    "With what lies on the edges, beyond and between; a saturated ReLU6 lies on the upper one"
    class Edges(nn.Module):
        def forward(self, x):
            odd = x.new_tensor([math.nan,math.inf,-math.inf])
            return torch.cat([x.flatten()*3, x.new_full((7,), lo), x.new_full((5,), hi), odd])
    learn,want = learner(),[]
    learn.model.unused = nn.ModuleDict(dict(relu6=nn.ReLU6(), edges=Edges()))
    def forward(x):
        learn.model.unused.relu6(x.abs()*100+6)
        want.append(learn.model.unused.edges(x).histc(bins, lo, hi))
        return Net.forward(learn.model, x)
    learn.model.forward = forward
    cb = LayerStats(learn.model.unused.values(), every=1, bins=bins, hist_range=(lo,hi))
    quiet(learn, 1, cb)
    test_close(cb.hist(1), torch.stack(want[:6]).t().log1p())
    if hi == 6: assert (cb.hist(0)[-1].expm1().round() == 64).all() and (cb.hist(0)[:-1] == 0).all()

def test_all_layers_and_their_names():
    "Layers without parameters too, Flatten left out, those not used are nan"
    cb = LayerStats(every=2)
    learn = quiet(learner(), 1, cb)
    assert cb.labels == ['a Conv2d','relu ReLU','drop Dropout','b Linear','unused Linear']
    assert np.isnan(np.array(list(cb.layer_stats(4)))).all()
    assert min(cb.layer_stats(1)[2]) > .25 and cb.iters == [0,2,4]
    assert not any(m._forward_hooks for m in learn.model.modules())

def test_dead_units():
    "One of four channels is dead in the ReLU, as made"
    cb = LayerStats(every=1)
    quiet(learner(), 1, cb, lr=0.)
    assert set(cb.layer_stats(1)[3]) == {.25} and set(cb.layer_stats(0)[3]) == {.25}

def test_stays_out_of_validation_and_prediction():
    cb = LayerStats(every=3)
    learn = quiet(learner(cbs=cb), 2)
    old = [list(o) for o in cb.layer_stats(0)]
    learn.validate()
    learn.get_preds()
    with learn.no_bar(): learn.lr_find(num_it=12, stop_div=False, show_plot=False)
    test_eq([list(o) for o in cb.layer_stats(0)], old)
    assert not any(m._forward_hooks for m in learn.model.modules())
    quiet(learn, 1)
    assert len(cb.stats) == 2
    learn.model = nn.Sequential(nn.Flatten(), nn.Linear(16,2))
    quiet(learn, 1, reset_opt=True)
    assert cb.labels == ['1 Linear']

def test_training_is_unchanged():
    "The weights after a fit are the same with all of them watching"
    res = []
    for cbs in ((), (LayerStats(every=1), Record(), CapturePreds())):
        set_seed(5)
        res.append(quiet(learner(), 1, *cbs).model.b.weight.detach().clone())
    assert torch.equal(*res)

def test_outputs_of_all_kinds():
    "Tuples (the first tensor), half precision, one element, integers, none"
    class Odd(nn.Module):
        def __init__(self, f):
            super().__init__()
            self.f = f
        def forward(self, x): return self.f(x)
    class All(nn.Module):
        def __init__(self):
            super().__init__()
            fs = [lambda x: ((x*2, x), None), lambda x: x.half(), lambda x: x.sum(), lambda x: x.long(), lambda x: None,
                lambda x: dict(a=x)]
            self.ls,self.out,self.flat,self.rnn = nn.ModuleList(map(Odd, fs)),nn.Linear(16,2),nn.Flatten(),nn.LSTM(16,3)
        def forward(self, x):
            for l in self.ls: l(x)
            self.rnn(self.flat(x)[None])
            return self.out(self.flat(x))
    cb,learn = LayerStats(every=1),learner()
    learn.model = All()
    learn.splitter = trainable_params
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        quiet(learn, 1, cb)
    means = np.array([cb.layer_stats(i)[0] for i in range(8)])
    np.testing.assert_allclose(means[0], 2*means[5], rtol=1e-5, atol=1e-7)
    assert np.isnan(means[4]).all() and not np.isnan(np.delete(means, 4, 0)).any()

def test_pictures():
    cb = LayerStats(every=1)
    quiet(learner(), 2, cb)
    axs = drawn(cb.plot_stats)
    assert len(axs) == 4 and all(len(ax.lines)==5 for ax in axs)
    np.testing.assert_allclose(axs[1].lines[0].get_ydata(), cb.layer_stats(0)[1])
    axs = drawn(cb.plot_hists, ncols=2)
    assert len(axs) == 5 and axs[0].images[0].get_array().shape == (60,12)

def test_layer_stats_refuses():
    with pytest.raises(ValueError, match='every is a number of batches.*None'): LayerStats(every=None)
    with pytest.raises(ValueError, match='Nothing has been recorded'): LayerStats().plot_stats()
    cb = LayerStats(every=1, with_hist=False)
    quiet(learner(), 1, cb)
    with pytest.raises(ValueError, match='with_hist=True'): cb.hist(0)
