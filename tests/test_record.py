"Record, CapturePreds and LayerStats: what they keep, beside what a plain loop or fastai's own keep"
import pytest, warnings
from fastai.callback.fp16 import *
from fastai.callback.hook import *
from fastai.vision.all import *
from fastai_ext.callbacks import *

class Net(nn.Module):
    "Two groups, a ReLU without parameters, dropout and a dead unit"
    def __init__(self):
        super().__init__()
        self.a,self.relu,self.drop,self.flat,self.b = nn.Conv2d(1,4,3),nn.ReLU(),nn.Dropout(0.),nn.Flatten(),nn.Linear(16,2)
        self.unused = nn.Linear(3,3)
        self.a.weight.data[1],self.a.bias.data[1] = 0.,-1.
    def forward(self, x): return self.b(self.flat(self.drop(self.relu(self.a(x)))))

def learner(n=24, groups=1, **kwargs):
    g = torch.Generator().manual_seed(0)
    x,y = torch.randn(n,1,4,4,generator=g),torch.randint(0,2,(n,),generator=g)
    data = L(zip(x, y))
    dls = DataLoaders.from_dsets(data, data[:9], bs=4, num_workers=0)
    def splitter(m): return [list(m.a.parameters()), list(m.b.parameters())] if groups==2 else list(m.parameters())
    return Learner(dls, Net(), loss_func=CrossEntropyLossFlat(), splitter=splitter, **kwargs)

def quiet(learn, n=2, *cbs, lr=1e-2, one_cycle=False, **kwargs):
    with learn.no_bar(), learn.no_logging(): (learn.fit_one_cycle if one_cycle else learn.fit)(n, lr, cbs=L(cbs), **kwargs)
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
    losses,rec = [],Record(loss=lambda l: l.loss, twice=lambda l: [l.loss, 2*l.loss], n=lambda l: len(l.x), valid=True)
    learn = quiet(learner(), 2, rec, Callback(after_batch=lambda self: losses.append((self.training, self.loss.item(), len(self.x)))))
    df = rec.to_df()
    assert list(df.columns) == ['split','epoch','iter','loss','twice_0','twice_1','n'] and len(df) == len(losses) == 2*(6+3)
    train,valid = df[df.split=='train'],df[df.split=='valid']
    np.testing.assert_allclose(train.loss, [o for t,o,_ in losses if t], rtol=1e-6)
    np.testing.assert_allclose(valid.loss, [o for t,o,_ in losses if not t], rtol=1e-6)
    np.testing.assert_allclose(df.twice_1, 2*df.loss, rtol=1e-6)
    assert train.iter.tolist() == list(range(12)) and valid.iter.tolist() == [5]*3+[11]*3 and train.epoch.tolist() == [0]*6+[1]*6
    assert valid.n.tolist() == [4,4,1]*2
    assert 'valid' not in set(quiet(learner(), 1, r := Record(loss=lambda l: l.loss)) and r.to_df().split)

def test_tensors_are_copied_and_detached():
    "What is recorded does not change with the weights"
    rec,want = Record(w=lambda l: l.model.b.bias),[]
    quiet(learner(), 1, rec, Callback(after_batch=lambda self: want.append(self.model.b.bias.tolist()) if self.training else None))
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
    rec = Record(loss=lambda l: l.loss, valid=True)
    learn = quiet(learner(cbs=rec), 1)
    df = rec.to_df()
    learn.validate()
    learn.get_preds()
    with learn.no_bar(): learn.lr_find(num_it=12, stop_div=False, show_plot=False)
    pd.testing.assert_frame_equal(df, rec.to_df())
    quiet(learn, 2)
    assert len(rec.to_df()) == 2*(6+3)

def test_interrupted_fit_keeps_what_was_recorded():
    class Stop(Callback):
        def after_batch(self):
            if self.training and self.train_iter==8: raise KeyboardInterrupt
    rec = Record('lr')
    with pytest.raises(KeyboardInterrupt): quiet(learner(), 2, Stop(), rec)
    assert len(rec['lr']) == 7

def test_plot():
    rec = Record('lr', loss=lambda l: l.loss, acc=lambda l: (l.pred.argmax(1)==l.y).float().mean(), valid=True)
    quiet(learner(groups=2), 2, rec)
    axs = rec.plot()
    assert [o.get_title() for o in axs] == ['lr','loss','acc'] and len(plt.gcf().axes) == 3
    train,valid = axs[1].lines
    np.testing.assert_allclose(train.get_ydata(), rec['loss'])
    df = rec.to_df()
    np.testing.assert_allclose(valid.get_ydata(), df[df.split=='valid'].groupby('epoch').loss.mean(), rtol=1e-6)
    assert valid.get_xdata().tolist() == [5,11]
    assert [o.get_label() for o in axs[0].lines] == ['group 0','group 1']
    axs = rec.plot('loss')
    assert len(axs) == 1 and axs[0].get_title() == 'loss'
    plt.close('all')

def test_record_refuses():
    with pytest.raises(ValueError, match="'loss' is not ready-made.*lr, mom.*loss=..."): Record('loss')
    with pytest.raises(TypeError, match='gn is a function of the learner, got 3'): Record(gn=3)
    with pytest.raises(ValueError, match="event is one of.*'after_fit'"): Record(event='after_fit')
    with pytest.raises(ValueError, match='after_step does not come in validation'): Record(event='after_step', valid=True)
    with pytest.raises(TypeError, match='valid is True or False'): Record(valid=lambda l: 1)
    with pytest.raises(ValueError, match='Nothing has been recorded'): Record().plot()
    with pytest.raises(ValueError, match="'x' must give numbers"): quiet(learner(), 1, Record(x=lambda l: 'a'))
    with pytest.raises(ValueError, match="'x' must give numbers, and as many"): quiet(learner(), 1, Record(x=lambda l: [1.]*(1+l.iter)))
    def nomom(ps, lr): return OptimWrapper(ps, opt=torch.optim.Adagrad, lr=lr)
    with pytest.raises(ValueError, match="no momentum.*leave 'mom' out"): quiet(learner(opt_func=nomom), 1, Record('lr','mom'))

class Syncs(torch.utils._python_dispatch.TorchDispatchMode):
    "Counts the operators that make a device wait for the CPU"
    names = '_local_scalar_dense','is_nonzero','equal'
    def __init__(self):
        super().__init__()
        self.n = 0
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.n += func._opname in self.names or (func._opname == '_to_copy' and (kwargs or {}).get('device') is not None)
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
    "Neither Record nor LayerStats asks the device for a number within the batches; ActivationStats does, which shows that the count works"
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
        np.testing.assert_allclose(np.array(list(mine.layer_stats(i)))[:3], np.array(list(his.layer_stats(i))), rtol=1e-4, atol=1e-6)
        test_close(mine.hist(i), his.hist(i))
    assert all(isinstance(o, float) for o in mine.layer_stats(0)[0])
    mine.plot_layer_stats(0)
    mine.color_dim(0)
    plt.close('all')

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
            fs = [lambda x: ((x*2, x), None), lambda x: x.half(), lambda x: x.sum(), lambda x: x.long(), lambda x: None, lambda x: dict(a=x)]
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
    axs = cb.plot_stats()
    assert len(axs) == 4 and all(len(ax.lines)==5 for ax in axs)
    np.testing.assert_allclose(axs[1].lines[0].get_ydata(), cb.layer_stats(0)[1])
    axs = cb.plot_hists(ncols=2)
    assert len(axs) == 5 and axs[0].images[0].get_array().shape == (60,12)
    plt.close('all')

def test_layer_stats_refuses():
    with pytest.raises(ValueError, match='every is a number of batches.*None'): LayerStats(every=None)
    with pytest.raises(ValueError, match='Nothing has been recorded'): LayerStats().plot_stats()
    cb = LayerStats(every=1, with_hist=False)
    quiet(learner(), 1, cb)
    with pytest.raises(ValueError, match='with_hist=True'): cb.hist(0)
