"A look works on a twin: whatever models, hooks and loaders do, the originals are as before and the diagnosis is right"
from fastai.text.all import *
from fastai.vision.all import *
from collections import deque
from dataclasses import dataclass
from fastai.callback.hook import hook_output
from torch.utils.data import BatchSampler, RandomSampler, TensorDataset
import functools, gc, pytest, time, weakref

from fastai_ext.record import LayerStats, Record
from fastai_ext.schedule import BatchScheduler
from fastai_ext.summary import summarize
from fastai_ext.twin import AbsentError, TwinError, Twins, as_meta, data_of

TorchDL = torch.utils.data.DataLoader
z = torch.zeros

class F1(nn.Module):
    "A module of one function"
    def __init__(self, f, **attrs):
        super().__init__()
        self.f = f
        for k,v in attrs.items(): setattr(self, k, v)
    def forward(self, *args, **kwargs): return self.f(self, *args, **kwargs)

def same(model, x, **kwargs):
    "The summary, after which the outputs of two more calls are those of a copy that nobody looked at"
    ref = deepcopy(model)
    s = summarize(model, x, **kwargs)
    for _ in range(2): assert torch.equal(model(x), ref(x))
    return s

# --- TorchScript ---
@pytest.mark.parametrize('make',
    [torch.jit.script, lambda m: torch.jit.trace(m, z(2,4)), lambda m: torch.jit.freeze(torch.jit.script(m.eval()))])
def test_scripted(make):
    m = make(nn.Sequential(nn.Linear(4,5), nn.ReLU(), nn.Linear(5,6)))
    before = {k: v.clone() for k,v in m.state_dict().items()}
    s = same(m, torch.randn(2,4))
    assert (s.total_macs, s.error) == (50, '') and all(p.device.type == 'cpu' for p in m.parameters())
    assert all(torch.equal(v, before[k]) for k,v in m.state_dict().items())
    s = same(nn.Sequential(m, nn.Linear(6,7)), torch.randn(2,4))
    assert (s.total_macs, s.error, s.rows[1].macs) == (92, '', 50) and 'TorchScript' in s.rows[1].cls

# --- state inside the model ---
class Helper:
    def __init__(self): self.kept = None

def _cached(self, x):
    if self.h.kept is None: self.h.kept = x*2
    return self.h.kept + x
def _queue(self, x):
    self.q.append(x.mean())
    return x + sum(self.q)
def _bump(self, x):
    self.t += 1
    return x*self.t
def _array(self, x):
    self.a[0] += 1
    return x*float(self.a[0])
def _draw(self, x): return x*float(self.rng.random())
def _tdraw(self, x): return x*torch.rand(1, generator=self.g).item()
def _double(self, x): return self.double().lin(x.double())

@pytest.mark.parametrize('f,attrs', [
    (_cached, lambda: dict(h=Helper())), (_cached, lambda: dict(h=SimpleNamespace(kept=None))),
    (_queue, lambda: dict(q=deque(maxlen=3))), (_bump, lambda: dict(t=z(1))), (_array, lambda: dict(a=np.zeros(1))),
    (_draw, lambda: dict(rng=np.random.default_rng(0))), (_draw, lambda: dict(rng=random.Random(0))),
    (_tdraw, lambda: dict(g=torch.Generator().manual_seed(0))), (_double, lambda: dict(lin=nn.Linear(3,3)))])
def test_state_in_helpers_generators_and_attributes(f, attrs):
    s = same(F1(f, **attrs()), torch.randn(2,3))
    assert s.error == ''

def test_closures_and_bound_methods_run_on_the_twin():
    lin,calls = nn.Linear(3,4),[]
    def forward(x):
        calls.append(1)
        return lin(x)
    m = F1(noop, lin=lin)
    m.forward = forward
    assert summarize(m, z(2,3)).total_macs == 12 and calls == []
    n = F1(noop, n=0)
    def count(self, x):
        self.n += 1
        return x
    n.forward = types.MethodType(count, n)
    assert not summarize(n, z(2,3)).error and n.n == 0

def test_lstm_with_replaced_weights():
    "`nn.LSTM.__getstate__` brings its list of weights up to date in the original"
    m = nn.LSTM(3, 4, batch_first=True)
    m.weight_ih_l0 = nn.Parameter(torch.randn(16,3))
    before = list(map(id, m._flat_weights))
    assert summarize(m, z(2,5,3)).total_macs == 5*4*4*7 and list(map(id, m._flat_weights)) == before

@pytest.mark.parametrize('wrap', [nn.utils.spectral_norm, nn.utils.parametrizations.spectral_norm, nn.utils.weight_norm,
    nn.utils.parametrizations.weight_norm])
def test_norms_of_weights(wrap):
    import warnings
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        m = wrap(nn.Linear(3,4))
    before = {k: v.clone() for k,v in m.state_dict().items()}
    s = summarize(m.train(), z(2,3))
    assert s.total_macs >= 12 and not s.error and not s.hooks
    assert all(torch.equal(v, before[k]) for k,v in m.state_dict().items())

# --- hooks held outside ---
def test_hook_held_outside():
    m,x = nn.Sequential(nn.Linear(3,4), nn.ReLU()),torch.randn(2,3)
    with hook_output(m[0]) as h:
        m(x)
        stored = h.stored
        s = summarize(m, x)
        assert h.stored is stored and s.hooks and 'Hook.hook_fn of 0' in repr(s)

means,notes = [],SimpleNamespace(sizes=[]) # in an object, since lists of a module are put back
def note_size(self, x):
    if not x.is_meta and type(x) is Tensor: notes.sizes.append(len(x))
    return x

def append_mean(i, m, inp, out): means.append(out.mean().item())

def test_hook_of_a_function_with_a_global_list():
    m = nn.Sequential(nn.Linear(3,4), nn.ReLU())
    m[0].register_forward_hook(partial(append_mean, 0))
    assert summarize(m, z(2,3)).total_macs == 12 and means == []

def test_own_hooks_run():
    "One that a class of the model defines, and that doubles the width; another person's does nothing"
    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.a,self.b = nn.Linear(3,4),nn.Linear(8,2)
            def widen(m, inp, out): return torch.cat([out, out], -1)
            self.a.register_forward_hook(widen)
        def forward(self, x): return self.b(self.a(x))
    m = Wide()
    s = summarize(m, z(2,3))
    assert (s.error, s.total_macs, s.hooks) == ('', 12+16, [])

def _learn(model=None, n=16, cbs=None, **kwargs):
    xs,ys = torch.randn(n,3),torch.randint(0,2,(n,))
    ds = list(zip(xs, ys))
    dls = DataLoaders.from_dsets(ds, ds, bs=4, num_workers=0, shuffle=True, device='cpu')
    return Learner(dls, model or nn.Sequential(nn.Linear(3,8), nn.ReLU(), nn.Linear(8,2)),
        loss_func=CrossEntropyLossFlat(), cbs=cbs, **kwargs)

def _fit(learn, n=1):
    with learn.no_bar(), learn.no_logging(): learn.fit(n)

class Look(Callback):
    def __init__(self, at, on=True):
        self.on,self.n = on,0
        setattr(self, at, self.see)
    def see(self):
        if not self.on: return
        self.n += 1
        assert not self.learn.summary().error

@pytest.mark.parametrize('stats', [lambda: ActivationStats(every=1), lambda: LayerStats(every=1)])
def test_activation_statistics_are_those_of_the_fit(stats):
    res = []
    for on in (False,True):
        set_seed(1)
        learn = _learn(cbs=[stats(), Look('after_pred', on)])
        _fit(learn)
        cb = learn.cbs.filter(risinstance(ActivationStats))[0]
        res.append([[o['mean'] for o in row] for row in cb.stats] if isinstance(cb, ActivationStats)
            and not isinstance(cb, LayerStats) else cb.layer_stats(0)[0])
    assert res[0] == res[1] and len(res[0]) == 4

_events = '''before_fit before_epoch before_train before_batch after_pred after_loss before_backward after_backward
    before_step after_step after_batch after_train before_validate after_validate after_epoch after_fit'''.split()
@pytest.mark.parametrize('at', _events)
def test_a_fit_with_looks_gives_the_same_bits(at):
    res = []
    for on in (False,True):
        set_seed(2)
        learn = _learn(cbs=Look(at, on))
        _fit(learn)
        res.append([p.tolist() for p in learn.model.parameters()] + [o.item() for o in learn.recorder.losses])
    assert res[0] == res[1] and learn.look.n > 0

# --- loaders ---
class Noise(Transform):
    "Draws from a generator of its own, in a helper"
    def __init__(self): self.h = SimpleNamespace(rng=np.random.default_rng(0), py=random.Random(1), drawn=[])
    def encodes(self, x:Tensor):
        if not x.is_floating_point(): return x
        self.h.drawn.append(self.h.rng.normal() + self.h.py.random())
        return x+self.h.drawn[-1]

rng = np.random.default_rng(0)
def global_noise(x): return x + rng.normal() if x.is_floating_point() else x
def closure_noise():
    own = np.random.default_rng(0)
    def f(x): return x + own.normal() if x.is_floating_point() else x
    return f

def _items(): return TensorDataset(torch.randn(16,3), torch.randint(0,2,(16,)))
def _tfmd(**kwargs):
    ds = _items()
    return [TfmdDL(list(ds), bs=4, shuffle=i==0, num_workers=0, do_setup=False, **kwargs) for i in range(2)]

def _lm_dls():
    dsets = Datasets([torch.randint(1, 9, (30,)) for _ in range(6)], tfms=[[lambda o: TensorText(o)]],
        splits=[range(4), range(4,6)])
    return dsets.dataloaders(bs=3, seq_len=5, dl_type=LMDataLoader, num_workers=0, device='cpu')

def _torch_dls(**kwargs):
    ds = _items()
    return DataLoaders(*[TorchDL(ds, **kwargs) for _ in range(2)], device='cpu')

def _with_sampler(workers=0):
    ds,g = _items(),torch.Generator().manual_seed(0)
    def _sampler(): return BatchSampler(RandomSampler(ds, generator=g), 4, False)
    return DataLoaders(*[TorchDL(ds, num_workers=workers, batch_sampler=_sampler()) for _ in range(2)], device='cpu')

class Drawing(torch.utils.data.Dataset):
    "Draws in `__getitem__` and keeps what it has made"
    def __init__(self): self.rng,self.cache = np.random.default_rng(0),{}
    def __len__(self): return 16
    def __getitem__(self, i):
        if i not in self.cache: self.cache[i] = torch.tensor(self.rng.normal(size=3), dtype=torch.float)
        return self.cache[i],torch.tensor(i%2)

def _on_inputs(f): return lambda o: (f(o[0]), o[1])

def _with(f): return DataLoaders(*_tfmd(after_item=Pipeline([ItemTransform(f)])))

loaders = dict(noise=lambda: DataLoaders(*_tfmd(after_item=Noise())),
    batch_noise=lambda: DataLoaders(*_tfmd(after_batch=Noise())),
    # what is drawn from in a function that the transform finds by its name, or keeps
    global_noise=lambda: _with(lambda o: (global_noise(o[0]), o[1])),
    closure_noise=lambda: _with(_on_inputs(closure_noise())),
    batch_sampler=_with_sampler, workers=lambda: _with_sampler(2),
    torch=lambda: _torch_dls(batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(0)),
    data_set=lambda: DataLoaders(*[DataLoader(Drawing(), bs=4, shuffle=i==0, num_workers=0) for i in range(2)]))

def _losses(make, look):
    global rng
    rng = np.random.default_rng(0)
    set_seed(3)
    learn = Learner(make(), nn.Sequential(nn.Linear(3,8), nn.ReLU(), nn.Linear(8,2)), loss_func=CrossEntropyLossFlat())
    look(learn)
    _fit(learn)
    look(learn)
    _fit(learn)
    return [o.item() for o in learn.recorder.losses]

@pytest.mark.parametrize('name', loaders)
@pytest.mark.parametrize('look', ['summary', 'show_train_batch'])
def test_the_fit_after_a_look(name, look):
    def _look(learn):
        if look == 'summary': assert not learn.summary().error
        else: learn.show_train_batch(show=False)
    assert _losses(loaders[name], _look) == _losses(loaders[name], noop)

@pytest.mark.parametrize('look', [lambda o: o.summary(), lambda o: o.show_train_batch(show=False)])
def test_the_language_model_after_a_look(look):
    def _train(look):
        set_seed(4)
        model = get_language_model(AWD_LSTM, 50, config={**awd_lstm_lm_config, 'n_hid': 20, 'emb_sz': 10})
        learn = Learner(_lm_dls(), model, loss_func=CrossEntropyLossFlat(), cbs=rnn_cbs(2, 1))
        look(learn)
        _fit(learn)
        return [o.item() for o in learn.recorder.losses]
    assert _train(look) == _train(noop)

def test_albumentations():
    A = pytest.importorskip('albumentations')
    class Aug(ItemTransform):
        split_idx = 0
        def __init__(self): self.aug = A.Compose([A.RandomBrightnessContrast(p=1), A.HorizontalFlip(p=.5)], seed=0)
        def encodes(self, o): return tensor(self.aug(image=to_np(o[0]).astype(np.float32))['image']).float(),o[1]
    ds = [(torch.rand(8,8,3), torch.tensor(i%2)) for i in range(16)]
    def _dl(shuffle): return TfmdDL(ds, bs=4, after_item=[Aug()], num_workers=0, shuffle=shuffle)
    def _make(): return DataLoaders(_dl(True), _dl(False))
    def _run(look):
        set_seed(5)
        learn = Learner(_make(), nn.Sequential(nn.Flatten(), nn.Linear(192,2)), loss_func=CrossEntropyLossFlat())
        look(learn)
        _fit(learn)
        return [o.item() for o in learn.recorder.losses]
    assert _run(noop) == _run(lambda o: o.summary()) == _run(lambda o: o.show_train_batch(show=False))

@pytest.mark.parametrize('cb', [lambda: BatchScheduler(partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=.1)),
    lambda: Record('lr', 'mom'), MixUp, ChannelsLast])
def test_train_batch_before_the_first_fit(cb):
    learn = _learn(cbs=cb())
    before = dict(vars(learn.cbs[-1])),[id(p) for p in learn.model.parameters()]
    assert len(learn.show_train_batch(show=False)) in (2,3) and learn.opt is None
    assert (dict(vars(learn.cbs[-1])),[id(p) for p in learn.model.parameters()]) == before

def test_a_callback_that_asks_the_model():
    "Distillation, say: it is given a copy with data"
    class Ask(Callback):
        def before_batch(self):
            with torch.no_grad(): self.learn.xb = self.model[0](self.x),
    learn = _learn(cbs=Ask())
    x,y = learn.show_train_batch(show=False)
    assert x.shape == (4,8) and not x.is_meta and (x != 0).any()

def test_a_loader_that_cant_be_copied_is_asked_for_nothing(tmp_path):
    class Open:
        def __init__(self):
            (tmp_path/'f').write_text('1\n'*99)
            self.f,self.read = open(tmp_path/'f'),[]
        def __len__(self): return 16
        def __getitem__(self, i): return tensor([float(self.f.readline())]),tensor(0.)
    ds = Open()
    learn = Learner(DataLoaders(*[DataLoader(ds, bs=4, num_workers=0) for _ in range(2)]), nn.Linear(1,1),
        loss_func=MSELossFlat())
    with pytest.raises(ValueError, match=r'learn.summary\(xb\)'): learn.summary()
    with pytest.raises(ValueError, match=r'show_train_batch\(b\)'): learn.show_train_batch(show=False)
    learn = Learner(_with_sampler(), nn.Linear(3,2), loss_func=noop)
    with pytest.raises(ValueError, match='show=False'): learn.show_train_batch()
    assert ds.f.tell() == 0 and learn.summary(z(4,1)).bs == 4

# --- diagnosis ---
@pytest.mark.parametrize('m,shape', [(nn.Linear(8,4), (2,8)), (nn.Conv2d(3,4,3), (2,3,8,8)),
    (nn.ConvTranspose2d(3,4,3), (2,3,8,8)),
    (nn.BatchNorm2d(3), (2,3,8,8)), (nn.LayerNorm(8), (2,8)), (nn.GroupNorm(1,3), (2,3,8,8)), (nn.LSTM(8,4), (5,2,8)),
    (nn.GRU(8,4), (5,2,8)), (nn.LSTMCell(8,4), (2,8)), (nn.Embedding(9,4), (2,3)),
    (nn.MultiheadAttention(8,2), (5,2,8)), (nn.TransformerEncoderLayer(8,2,16), (5,2,8)), (nn.PReLU(), (2,8)),
    (nn.GELU(), (2,8)), (nn.Softmax(1), (2,8)), (nn.AvgPool2d(2), (2,3,8,8)), (nn.AdaptiveAvgPool2d(2), (2,3,8,8)),
    (nn.Upsample(scale_factor=2, mode='bilinear'), (2,3,8,8)), (nn.MaxPool2d(2), (2,3,8,8)), (nn.ReLU(), (2,8)),
    (nn.Sigmoid(), (2,8)), (nn.Bilinear(8,8,2), (2,8))])
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64, torch.bfloat16, torch.uint8, torch.int64, torch.bool])
def test_types_are_refused_as_by_the_arithmetic(m, shape, dtype):
    m.eval()
    x = (z(shape, dtype=dtype),)*(3 if isinstance(m, nn.MultiheadAttention) else 2 if isinstance(m, nn.Bilinear) else 1)
    try:
        with torch.no_grad(): m(*x)
        want = False
    except Exception: want = True
    assert bool(summarize(m, *x).error) == want

def test_float64_data_in_a_learner():
    ds = [(torch.randn(3).double(), torch.tensor(0)) for _ in range(8)]
    dls = DataLoaders.from_dsets(ds, ds, bs=4, num_workers=0)
    learn = Learner(dls, nn.Linear(3,2), loss_func=CrossEntropyLossFlat())
    with pytest.raises(RuntimeError): _fit(learn)
    s = learn.summary()
    assert 'float64' in s.error and s.fallback == ''

def test_inference_mode():
    def f(self, x):
        with torch.inference_mode(): x = self.body(x)
        return self.head(x)
    body = nn.Sequential(nn.Conv2d(3,8,3), nn.Conv2d(8,8,3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    s = summarize(F1(f, body=body, head=nn.Linear(8,5)), z(2,3,12,12))
    assert (s.total_macs, s.unknown, s.error) == (100*8*27 + 64*8*72 + 40, {}, '')
    q = z(2,2,7,8)
    def g(self, q):
        with torch.inference_mode(): return F.scaled_dot_product_attention(q, q, q)@q.mT
    assert summarize(F1(g), q).total_macs == 2*7*7*16 + 2*7*7*8

@pytest.mark.filterwarnings(r'ignore:flex_attention called without torch\.compile:UserWarning')
def test_flex_attention_and_cond():
    from torch.nn.attention.flex_attention import flex_attention
    q = torch.randn(2,2,16,8)
    s = summarize(F1(lambda self, q: flex_attention(q, q, q)), q)
    assert (s.error, s.unknown, s.total_macs) == ('', {}, 2*16*16*16)
    m = F1(lambda self, x: torch.cond(x.sum() > 0, lambda x: self.a(x), lambda x: self.b(x), (x,)), a=nn.Linear(3,4),
        b=nn.Linear(3,5))
    s = summarize(m, z(2,3))
    assert (s.error, s.total_macs) == ('', 15) and s.fallback

def test_a_broken_model_is_not_run():
    m = models.resnet50()
    m.fc,m.avgpool = nn.Linear(512,10),nn.Sequential(m.avgpool, F1(note_size))
    notes.sizes.clear()
    start = time.perf_counter()
    s = summarize(m, z(64,3,224,224))
    assert time.perf_counter()-start < 5 and 'in fc (Linear, input 64×2048)' in s.error and s.fallback == ''
    assert notes.sizes == []

def test_a_real_run_takes_one_item_of_a_copy():
    notes.sizes.clear()
    def f(self, x):
        note_size(self, x)
        return self.lin(x) if float(x.sum()) == 0 else x
    m = F1(f, lin=nn.Linear(3,4))
    s = summarize(m, z(8,3))
    assert notes.sizes == [1] and s.total_macs == 12 and 'one item' in repr(s) and (s.bs, s.in_shape) == (1, (1,3))
    def g(self, x): return x.view(4,-1,3) if float(x.sum()) == 0 else x
    s = summarize(F1(g), z(8,3))
    assert not s.error and s.bs == 8 and '8 items' in repr(s)

def test_a_batch_that_is_not_the_first_dimension():
    "Steps first: nothing is cut off, and the MACs are divided by the batch all the same"
    m = F1(lambda self, x: self.lin(x) if float(x.sum()) == 0 else x, lin=nn.Linear(3,4))
    s = summarize(m, z(5,2,3), bs=2)
    assert s.fallback and (s.bs, s.in_shape, s.total_macs) == (2, (5,2,3), 5*12)

@pytest.mark.parametrize('ask', [lambda x: x.device.type == 'cpu', lambda x: not x.is_cuda and not x.is_meta,
    lambda x: str(x.device) == 'cpu'])
def test_branches_by_device(ask):
    m = F1(lambda self, x: self.a(x) if ask(x) else self.b(x), a=nn.Linear(3,4), b=nn.Linear(3,50))
    assert summarize(m, z(2,3)).total_macs == 12

def test_wrapper_that_delegates_to_a_compiled_body():
    class Wrapper(nn.Module):
        def __init__(self, body):
            super().__init__()
            self.body,self.head = body,nn.Linear(4,5)
        def __getattr__(self, k):
            try: return super().__getattr__(k)
            except AttributeError: return getattr(super().__getattr__('body'), k)
        def forward(self, x): return self.head(self.body(x))
    s = summarize(Wrapper(torch.compile(nn.Linear(3,4))), z(2,3))
    assert (s.name, s.total_macs, s.total_params) == ('Wrapper', 32, 16+25)

@dataclass
class Batch:
    x: Tensor
    n: int = 0

Pair = namedtuple('Pair', 'x y')
class Out(OrderedDict): "Has its keys as attributes, as the outputs of transformers"

@pytest.mark.parametrize('inp,get', [(lambda: Batch(z(6,3)), lambda o: o.x),
    (lambda: Pair(z(6,3), None), lambda o: o.x), (lambda: Out(x=z(6,3)), lambda o: o['x']),
    (lambda: {'x': [z(6,3)]}, lambda o: o['x'][0])])
def test_inputs_of_any_kind(inp, get):
    s = summarize(F1(lambda self, o: self.lin(get(o)), lin=nn.Linear(3,4)), inp())
    assert (s.bs, s.total_macs, s.error, s.rows[1].in_shape, s.fallback) == (6, 12, '', (6,3), '')

def test_keyword_arguments_of_the_model():
    m = F1(lambda self, x, scale=None: self.lin(x)*scale, lin=nn.Linear(3,4))
    assert summarize(m, z(2,3), scale=z(4)).total_macs == 12 and summarize(m, x=z(2,3), scale=2.).total_macs == 12
    assert 'surprise' in summarize(m, z(2,3), surprise=1).error

@pytest.mark.filterwarnings('ignore:The PyTorch API of nested tensors is in prototype stage:UserWarning')
def test_sparse_and_nested():
    coo = partial(torch.sparse_coo_tensor, [[0,1],[1,0]], [1.,2.], check_invariants=True)
    i = coo((2,3))
    s = summarize(F1(lambda self, x: torch.sparse.mm(x, self.w), w=nn.Parameter(z(3,4))), i)
    assert s.error == ''
    m = F1(lambda self, x: torch.sparse.mm(self.adj, x))
    m.register_buffer('adj', coo((2,2)))
    assert summarize(m, z(2,3)).error == '' and m.adj.is_sparse
    n = torch.nested.nested_tensor([z(2,3), z(4,3)])
    assert summarize(F1(lambda self, x: self.lin(x), lin=nn.Linear(3,4)), n, bs=2).error == ''

def test_broken_without_data():
    "`torch.equal` has no answer without data; nothing is left half-way"
    m = F1(lambda self, x: self.lin(x) if torch.equal(x, x) else x, lin=nn.Linear(5,4))
    s = summarize(m, z(2,3))
    assert 'lin' in s.error and m.training and all(p.device.type == 'cpu' for p in m.parameters())

def test_lazy_buffers():
    with pytest.raises(ValueError, match='lazy'): summarize(nn.LazyBatchNorm1d(affine=False), z(2,3))

def test_training_column():
    from torch.utils.flop_counter import FlopCounterMode
    m = nn.Sequential(nn.Conv2d(3,4,3), nn.Conv2d(4,4,3), nn.Flatten(), nn.Linear(4*16,5))
    m[0].requires_grad_(False)
    with FlopCounterMode(display=False) as c: m(z(2,3,8,8)).sum().backward()
    s = summarize(m, z(2,3,8,8), training=True)
    assert s.train_macs == c.get_total_flops()/4 and s.rows[1].train_macs == s.rows[1].macs and 'Train MMACs' in repr(s)
    assert sum(r.own_train_macs for r in s.rows) == s.train_macs
    q = torch.randn(2,2,7,8, requires_grad=True)
    m = F1(lambda self, q: F.scaled_dot_product_attention(q*self.w, q*self.w, q*self.w), w=nn.Parameter(z(1)))
    assert summarize(m, q, training=True).train_macs == 3*2*7*7*16

def test_depth_says_what_it_leaves_out():
    s = summarize(models.resnet18(), (3,64,64))
    assert s.depth == 3 and f'… {len(s.rows)-1-len(s.shown())} modules more: depth=None' in repr(s)
    assert 'modules more' not in repr(summarize(nn.Linear(1,1), (1,)))

# --- what is outside of the model ---
class Positions(nn.Module):
    "Keeps its encodings in the class"
    cache = {}
    def forward(self, x):
        n = x.shape[1]
        if n not in self.cache: self.cache[n] = torch.ones(n, 8, device=x.device)
        return x + self.cache[n]

@functools.lru_cache
def encodings(n, device): return torch.ones(n, 8, device=device)

class Augment:
    def __init__(self): self.inner = [SimpleNamespace(rng=np.random.default_rng(0))]
    def __call__(self): return float(self.inner[0].rng.normal())
augment,config = Augment(),{'rng': random.Random(0)}
def noisy(x): return x + augment() + config['rng'].random()

def test_caches_of_classes_and_functions_keep_no_tensor_without_data():
    x = z(2,5,8)
    for m in (Positions(), F1(lambda self, x: x + encodings(x.shape[1], x.device))):
        assert not summarize(m, x).error
        assert type(m(x)) is Tensor and not m(x).is_meta and not summarize(m, x).error and m(x).sum() == 80

def test_generators_inside_of_variables_of_a_module():
    def state(): return str(augment.inner[0].rng.bit_generator.state),config['rng'].getstate()
    before = state()
    assert not summarize(F1(lambda self, x: noisy(x)), z(2,3)).error and state() == before
    ds = [(torch.randn(3), torch.tensor(0)) for _ in range(8)]
    dls = DataLoaders(*[TfmdDL(ds, bs=4, num_workers=0, do_setup=False,
        after_item=[ItemTransform(lambda o: (noisy(o[0]), o[1]))]) for _ in range(2)])
    learn = Learner(dls, nn.Linear(3,2), loss_func=CrossEntropyLossFlat())
    learn.summary()
    learn.show_train_batch(show=False)
    assert state() == before

collected = []
def collect(self, x):
    collected.append(x.shape)
    return x

def test_what_others_collect_is_not_taken_back():
    "Only tensors without data go from variables of a module"
    collected[:] = ['mine']
    assert not summarize(F1(collect), z(2,3)).error
    assert collected == ['mine', (2,3)]

class Cached(torch.utils.data.Dataset):
    def __init__(self):
        self.hist,self.rng = [],random.Random(0)
        self.log,self.draw,self.get = self.hist.append,self.rng.random,functools.lru_cache(self._get)
    def _get(self, i): return torch.ones(3)*self.draw(),torch.tensor(i%2)
    def __len__(self): return 8
    def __getitem__(self, i):
        self.log(i)
        return self.get(i)

def test_bound_builtins_and_caches_of_methods_are_the_twins():
    ds = Cached()
    learn = Learner(DataLoaders(*[DataLoader(ds, bs=4, num_workers=0) for _ in range(2)]), nn.Linear(3,2),
        loss_func=CrossEntropyLossFlat())
    state = ds.rng.getstate()
    learn.summary()
    learn.show_train_batch(show=False)
    assert ds.hist == [] and ds.get.cache_info().currsize == 0 and ds.rng.getstate() == state

class Wrapper:
    "Delegates to what it holds"
    def __init__(self, ds): self.ds = ds
    def __getattr__(self, k): return getattr(self.ds, k)
    def __len__(self): return len(self.ds)
    def __getitem__(self, i): return self.ds[i]

def test_loaders_of_all_kinds():
    ds = list(zip(torch.randn(8,3), torch.randint(0,2,(8,))))
    class Own(TorchDL):
        def __iter__(self): return iter([(z(6,3), z(6).long())])
    for dl in (DataLoader(Wrapper(ds), bs=4, num_workers=0), Own(ds, batch_size=4), [(z(6,3), z(6).long())]):
        s = Learner(DataLoaders(dl, dl), nn.Linear(3,2), loss_func=CrossEntropyLossFlat()).summary()
        assert s.error == '' and s.bs == (4 if isinstance(dl, DataLoader) else 6)

class Frees:
    def __init__(self, path): self.path = path
    def __del__(self): self.path.unlink()

def test_a_finalizer_does_not_run_twice(tmp_path):
    path = tmp_path/'f'
    path.write_text('x')
    m = F1(lambda self, x: x, res=Frees(path))
    summarize(m, z(2,3))
    gc.collect()
    assert path.exists()
    del m

# --- more that runs ---
missing = object()
@dataclass(slots=True)
class Slotted:
    x: Tensor

@pytest.mark.parametrize('f,attrs,macs', [
    (lambda self, x: self.lin(x) if self.u is missing else self.lin(self.lin(x)), lambda: dict(u=missing), 9),
    (lambda self, x: self.lin(x)*self.lin.weight.scale, dict, 9), (lambda self, x: Slotted(self.lin(x)), dict, 9)])
def test_identity_attributes_and_slots(f, attrs, macs):
    lin = nn.Linear(3,3)
    lin.weight.scale = 2.
    s = summarize(F1(f, lin=lin, **attrs()), z(2,3))
    assert (s.error, s.total_macs) == ('', macs)

def test_gradients_in_the_forward_pass():
    def f(self, x):
        x.requires_grad_()
        return torch.autograd.grad(self.lin(x).sum(), x)[0]
    s = summarize(F1(f, lin=nn.Linear(3,3)), z(2,3))
    assert s.error == '' and s.total_macs >= 9

def test_train_without_a_return_value():
    class M(nn.Linear):
        def train(self, mode=True): super().train(mode)
    assert summarize(M(3,4), z(2,3)).total_macs == 12

def test_autocast_in_the_model():
    def f(self, x):
        with torch.autocast('cpu', torch.bfloat16): y = self.a(x)
        return self.b(y)
    assert 'bfloat16' in summarize(F1(f, a=nn.Linear(3,3), b=nn.Linear(3,3)), z(2,3)).error.lower()

def test_modules_in_other_threads_are_named():
    from concurrent.futures import ThreadPoolExecutor
    def f(self, x):
        with ThreadPoolExecutor(1) as pool: return pool.submit(self.lin, x).result()
    assert summarize(F1(f, lin=nn.Linear(3,3)), z(2,3)).unknown

# --- threads ---
def test_threads():
    m,x = models.resnet18().eval(),torch.randn(2,3,64,64)
    choosy = F1(lambda self, x: self.lin(x) if float(x.sum()) == 0 else x, lin=nn.Linear(3,4))
    with torch.no_grad(): want = m(x)
    errors,done,out = [],threading.Event(),[]
    def _predict():
        with torch.no_grad():
            while not done.is_set(): out.append(torch.equal(m(x), want))
    def _look():
        try:
            for _ in range(3):
                got = summarize(m, x).total_macs,summarize(choosy, z(2,3)).total_macs
                out.append(got == (macs, 12))
        except Exception as e: errors.append(e)
    macs = summarize(m, x).total_macs
    ts = [threading.Thread(target=_look) for _ in range(10)]
    p = threading.Thread(target=_predict)
    p.start()
    for t in ts: t.start()
    for t in ts: t.join()
    done.set()
    p.join()
    assert not errors and all(out) and len(out) > 30

# --- what a twin is ---
def test_twins_keep_identity_and_free_memory():
    a = SimpleNamespace(x=[1])
    a.me,a.f = a,(lambda: a)
    twins = Twins()
    b = twins.of(a)
    assert b.me is b and b.f() is b and b.x is not a.x and twins.of([a])[0] is b
    m = nn.Linear(3,4)
    t = Twins(as_meta).of(m)
    ref = weakref.ref(t)
    del t
    gc.collect()
    assert ref() is None

def test_data_is_shared_and_state_is_not():
    small,many = z(3),list(range(2000))
    ds = torch.utils.data.ConcatDataset([torch.utils.data.Subset(TensorDataset(z(500,300)), [0,1])])
    a = SimpleNamespace(small=small, many=many, df=pd.DataFrame({'a': [1]}), ds=ds)
    b = Twins(same=data_of(SimpleNamespace(dataset=ds))).of(a)
    assert b.small is not small and b.many is not many and b.many == many and b.df is a.df and b.ds is not ds
    assert b.ds.datasets[0].dataset.tensors[0] is ds.datasets[0].dataset.tensors[0]

def test_absent_is_missed_only_when_used():
    b = Twins().of(SimpleNamespace(it=(i for i in range(3)), lock=threading.Lock(), n=1))
    with b.lock: assert b.n == 1
    with pytest.raises(AbsentError, match='generator'): next(b.it)
    class Bad:
        def __reduce__(self): return Bad._fail,()
        @staticmethod
        def _fail(): raise RuntimeError('no')
    with pytest.raises(TwinError, match='no'): Twins().of(Bad())
