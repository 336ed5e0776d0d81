"`Learner.summary` in every kind of learner: what it shows, what it reads, and that everything stays as it was"
from fastai.text.all import *
from fastai.vision.all import *
from fastai.collab import *
from fastai.tabular.all import *
import pytest

from fastai_ext import summary as module
from fastai_ext.summary import summarize
from test_summary import _state, _torch_macs, _z, _F, _Forced

def _unwrapped(m): return getattr(m, '_orig_mod', getattr(m, 'module', m))

def _same(learn, *args, **kwargs):
    "The summary, after which everything is as before"
    before = _state(learn.model, learn)
    s = learn.summary(*args, **kwargs)
    after = _state(learn.model, learn)
    for k in before: assert after[k] == before[k], k
    assert not s.error and len(s.rows) == len(list(_unwrapped(learn.model).modules())) and repr(s)
    assert s._repr_markdown_()
    return s

def _whole(dl, n_inp=1): return [tuple(o.shape) for o in dl.one_batch()[:n_inp]]

@pytest.fixture(scope='module')
def images(tmp_path_factory):
    path = tmp_path_factory.mktemp('images')
    for i in range(10):
        (path/f'c{i%2}').mkdir(exist_ok=True)
        PILImage.create(np.random.default_rng(i).integers(0, 255, (48,40,3),
            dtype=np.uint8)).save(path/f'c{i%2}'/f'{i}.png')
    return path

@pytest.fixture(scope='module')
def image_dls(images):
    return ImageDataLoaders.from_folder(images, valid_pct=.2, seed=0, item_tfms=Resize(40),
        batch_tfms=aug_transforms(size=32), bs=4, num_workers=0)

def test_vision_learner(image_dls):
    learn = vision_learner(image_dls, resnet18, pretrained=False, metrics=accuracy)
    s = _same(learn)
    assert (s.bs, s.in_shape, s.fallback) == (4, (4,3,32,32), '')
    assert s.total_macs == _torch_macs(learn.model, _z(1,3,32,32))
    learn.freeze()
    assert 'frozen up to parameter group 2' in repr(_same(learn)) and s.trainable_params > _same(learn).trainable_params

def test_unet_learner(images):
    files = get_image_files(images)
    def _mask(o): return PILMask.create(np.zeros((48,40), dtype=np.uint8))
    dls = SegmentationDataLoaders.from_label_func(images, files, _mask, codes=['a', 'b'],
        item_tfms=Resize(32), bs=2, num_workers=0)
    learn = unet_learner(dls, resnet18, pretrained=False)
    s = _same(learn, receptive_field=True)
    assert s.in_shape == (2,3,32,32) and s.total_macs == _torch_macs(learn.model, _z(1,3,32,32)) and not s.fallback

def test_tabular_learner():
    df = pd.DataFrame(dict(a=['x', 'y']*8, b=np.arange(16.), y=np.arange(16.)))
    dls = TabularDataLoaders.from_df(df, procs=[Categorify, Normalize], cat_names=['a'], cont_names=['b'], y_names='y',
        valid_idx=[0,1], bs=4)
    learn = tabular_learner(dls, layers=[8], y_range=(0,16))
    s = _same(learn)
    (n,sz), = learn.model.embeds[0].weight[None].shape[1:],
    assert s.in_shape == [(4,1), (4,1)] and s.total_macs == (sz+1)*8 + 8 and not s.fallback

@pytest.mark.parametrize('use_nn', [False, True])
def test_collab_learner(use_nn):
    df = pd.DataFrame(dict(user=[1,2,3,4]*4, item=[1,1,2,2,3,3,4,4]*2, rating=[1.,2.,3.,4.]*4))
    dls = CollabDataLoaders.from_df(df, bs=4, valid_pct=.2, seed=0)
    learn = collab_learner(dls, n_factors=5, y_range=(0,5), use_nn=use_nn)
    s = _same(learn)
    assert s.in_shape in ((4,2), [(4,2), (4,0)]) and s.total_params == sum(p.numel() for p in learn.model.parameters())

small = dict(emb_sz=40, n_hid=60)

def test_text_classifier_sees_the_padded_batch():
    xs = [torch.arange(3+i) % 9 + 1 for i in range(12)]
    dsets = Datasets(list(range(12)), tfms=[[lambda i: TensorText(xs[i])], [lambda i: TensorCategory(i%2)]],
        splits=[range(8), range(8,12)])
    dls = dsets.dataloaders(bs=4, dl_type=SortedDL, before_batch=pad_input, num_workers=0)
    assert not module._is_ordinary(dls.train)
    model = get_text_classifier(AWD_LSTM, 50, 2, seq_len=4, config={**awd_lstm_clas_config, **small})
    learn = Learner(dls, model, loss_func=CrossEntropyLossFlat(), cbs=ModelResetter())
    s = _same(learn)
    assert s.fallback and (s.bs, s.in_shape) == (1, (1,10))

def test_language_model_learner():
    dsets = Datasets([torch.randint(1, 9, (30,)) for _ in range(6)], tfms=[[lambda o: TensorText(o)]],
        splits=[range(4), range(4,6)])
    dls = dsets.dataloaders(bs=3, seq_len=5, dl_type=LMDataLoader, num_workers=0)
    assert not module._is_ordinary(dls.train)
    model = get_language_model(AWD_LSTM, 50, config={**awd_lstm_lm_config, **small})
    learn = Learner(dls, model, loss_func=CrossEntropyLossFlat(), cbs=rnn_cbs(2, 1))
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    s = _same(learn)
    assert s.in_shape == (3,5)
    assert s.total_params == sum(p.numel() for p in {id(p): p for p in learn.model.parameters()}.values())

def _learner(model=None, n=20, **kwargs):
    xs,ys = torch.randn(n,1,8,8),torch.randint(0, 2, (n,))
    dls = DataLoaders.from_dsets(list(zip(xs, ys)), list(zip(xs, ys)), bs=4, num_workers=0, shuffle=True)
    model = model or nn.Sequential(nn.Conv2d(1,4,3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(.1), nn.Flatten(),
        nn.Linear(4*36,2))
    return Learner(dls, model, loss_func=CrossEntropyLossFlat(), **kwargs)

def _fit(learn):
    with learn.no_bar(), learn.no_logging(): learn.fit(1)

def test_before_fit_after_it_and_after_lr_find(tmp_path):
    learn = _learner(path=tmp_path)
    for step in (noop, _fit, lambda o: o.lr_find(num_it=30, show_plot=False), lambda o: o.freeze(),
        lambda o: o.to_fp16(), _fit, lambda o: o.unfreeze()):
        with learn.no_bar(), learn.no_logging(): step(learn)
        s = _same(learn)
        assert (s.bs, s.total_macs, s.fallback) == (4, 36*4*9 + 144*2, '')

def test_a_fit_goes_on_as_if_nothing_had_been(tmp_path):
    class Look(Callback):
        def __init__(self, on): self.on = on
        def before_batch(self):
            if self.on: self.learn.summary()
    res = []
    for look in (False,True):
        set_seed(3)
        learn = _learner(cbs=Look(look))
        _fit(learn)
        counts = [o.item() for o in learn.model[1].buffers() if o.ndim == 0]
        res.append([p.tolist() for p in learn.model.parameters()] + learn.recorder.losses + counts)
    assert res[0] == res[1]

@pytest.mark.parametrize('cb', [MixUp, CutMix, GradientAccumulation, lambda: SaveModelCallback(),
    lambda: EarlyStoppingCallback(), ChannelsLast, lambda: GradientClip(), lambda: HookCallback(modules=[]),
    lambda: ActivationStats()])
def test_callbacks_that_assume_a_fit(cb, tmp_path):
    learn = _learner(cbs=cb(), path=tmp_path)
    s = _same(learn)
    assert learn.cbs[-1].name in repr(s)

def test_several_inputs_and_nested_outputs():
    class M(nn.Module):
        def __init__(self):
            super().__init__()
            self.a,self.never = nn.Linear(3,4),nn.Linear(7,7)
        def forward(self, x, y): return {'a': self.a(x), 'b': (self.a(y), [x, {'c': y}])}
    xs = torch.randn(8,3)
    dls = DataLoaders.from_dsets(list(zip(xs, xs, xs[:,0])), list(zip(xs, xs, xs[:,0])), bs=4, num_workers=0)
    s = _same(Learner(dls, M(), loss_func=noop))
    assert s.in_shape == [(4,3), (4,3)] and s.total_macs == 2*12
    assert s.rows[0].out_shape == [(4,4), [(4,4), [(4,3), (4,3)]]]
    assert {r.name: r.calls for r in s.rows} == {'': 1, 'a': 2, 'never': 0} and 'not called' in repr(s)
    assert '(2 calls)' in repr(s)

@pytest.mark.parametrize('wrap', [torch.compile, nn.DataParallel])
def test_wrapped(wrap):
    learn = _learner()
    learn.model = wrap(learn.model)
    s = _same(learn)
    assert s.total_macs == 36*4*9 + 144*2 and [r.name for r in s.rows[1:3]] == ['0', '1']
    assert s.rows[0].cls == 'Sequential'

# a model that raises, also one that is interrupted, and a loader that does
@pytest.mark.parametrize('exc', [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize('where', ['model', 'loader'])
def test_nothing_changes_when_it_raises(exc, where):
    def _raise(*_): raise exc('stop')
    learn = _learner(nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(64,2)))
    _fit(learn)
    if where == 'model': learn.model.append(_F(_raise))
    else: learn.dls.train.dataset = type('Bad', (), dict(__len__=lambda s: 20, __getitem__=_raise))()
    before = _state(learn.model, learn)
    if where == 'model' and exc is RuntimeError: assert 'in 3 (_F' in learn.summary().error
    else:
        with pytest.raises(exc, match='stop'): learn.summary()
    assert _state(learn.model, learn) == before

class _Messy(nn.Module):
    "Changes all that it can in its forward, on data that it looks at"
    def __init__(self):
        super().__init__()
        self.lin,self.log,self.state,self.cache = nn.Linear(4,2),[],torch.zeros(2),{'n': [0]}
        self.register_buffer('count', torch.zeros(1))
    def forward(self, x):
        if x.sum() > 1e9: return x
        with torch.no_grad(): self.lin.weight.add_(1)
        self.count += 1
        self.state += 1
        self.log.append(x)
        self.cache['n'][0] += 1
        self.cache['m'],self.extra,self.lin.weight.requires_grad = x,1,False
        torch.rand(1),np.random.rand(),random.random()
        self.lin.register_forward_hook(noop)
        self.train()
        return self.lin(x)

def test_real_pass_puts_everything_back():
    m = _Messy()
    def _values(): return {k: v for k,v in _state(m).items() if k not in ('params', 'buffers', 'modules')}
    def _tensors():
        tensors = [o.tolist() for o in (m.lin.weight, m.count, m.state)]
        return tensors + [m.lin.weight.requires_grad, m.log, m.cache, sorted(vars(m))]
    m.lin.weight.grad = torch.ones(2,4)
    before = _values(),_tensors(),copy(m.cache['n'])
    s = summarize(m, torch.ones(3,4))
    assert s.fallback and s.total_macs == 8
    assert (_values(), _tensors(), copy(m.cache['n'])) == before and not m.lin._forward_hooks

# the shape of a batch from two of its items
seen = SimpleNamespace(read=[]) # outside of the data set, of which a twin is read
class _Counted:
    def __init__(self, n, shape=lambda i: (3,5)): self.n,self.shape = n,shape
    def __len__(self): return self.n
    def __getitem__(self, i):
        seen.read.append(i)
        return torch.zeros(self.shape(i)),torch.tensor(0.)

@pytest.mark.parametrize('n,bs,drop_last,want', [(20,8,True,8), (20,8,False,8), (5,8,False,5), (1,8,False,1),
    (8,8,True,8)])
def test_two_items_stand_for_a_batch(n, bs, drop_last, want):
    ds = _Counted(n)
    learn = Learner(DataLoaders.from_dsets(ds, ds, bs=bs, drop_last=drop_last, num_workers=0, shuffle=True),
        nn.Linear(5,2), loss_func=noop)
    seen.read.clear()
    s = _same(learn)
    assert seen.read == ([0, n-1] if n > 1 else [0]) and s.in_shape == (want,3,5) == _whole(learn.dls.train)[0]
    assert s.bs == want

def test_items_of_different_shapes_raise_as_in_fastai():
    ds = _Counted(8, lambda i: (3,5+i))
    dls = DataLoaders.from_dsets(ds, ds, bs=4, num_workers=0, do_setup=False)
    learn = Learner(dls, nn.Linear(5,2), loss_func=noop)
    with pytest.raises(RuntimeError, match='not the same size'): learn.summary()

@pytest.mark.parametrize('kwargs', [dict(before_batch=lambda b: b), dict(create_batch=lambda b: fa_collate(b)),
    dict(after_batch=lambda o: o[:1]), dict(after_batch=lambda o: torch.cat([o,o]))])
def test_other_loaders_give_a_whole_batch(kwargs):
    ds = _Counted(12)
    seen.read.clear()
    dls = DataLoaders(*[TfmdDL(ds, bs=4, num_workers=0, **kwargs) for _ in range(2)])
    s = _same(Learner(dls, nn.Linear(5,2), loss_func=noop))
    assert len(set(seen.read)) >= 4 and s.in_shape == _whole(dls.train)[0]

def test_loaders_of_a_part_and_with_weights():
    for f in (lambda o: o.partial_dataloaders(6, bs=4, num_workers=0),
        lambda o: o.weighted_dataloaders(wgts=[1]*8, bs=4, num_workers=0)):
        dsets = Datasets(list(range(10)), tfms=[[lambda i: torch.ones(5)*i], [lambda i: tensor(float(i))]],
            splits=[range(8), range(8,10)])
        dls = f(dsets)
        assert not module._is_ordinary(dls.train)
        assert _same(Learner(dls, nn.Linear(5,2), loss_func=noop)).in_shape == (4,5)

class _Stream(torch.utils.data.IterableDataset):
    def __iter__(self): return iter([(torch.zeros(3,5), torch.tensor(0.))]*8)

def test_loaders_of_pytorch():
    TorchDL = torch.utils.data.DataLoader
    for dl in (TorchDL(_Counted(9), batch_size=4, shuffle=True), TorchDL(_Stream(), batch_size=4),
        DataLoader(_Stream(), bs=4, num_workers=0)):
        learn = Learner(DataLoaders(dl, dl), nn.Linear(5,2), loss_func=noop)
        before = _state(learn.model)
        s = learn.summary()
        assert s.in_shape == (4,3,5) and _state(learn.model) == before

def test_layout_of_the_batch_is_kept():
    t = torch.zeros(2,3,5,7).to(memory_format=torch.channels_last)
    assert module._widen(t, 6).stride() == torch.zeros(6,3,5,7).to(memory_format=torch.channels_last).stride()
    assert module._widen(t.contiguous(), 6).stride() == torch.zeros(6,3,5,7).stride()

def test_a_model_that_needs_data_gets_a_real_batch():
    learn = _learner(_Forced(nn.Sequential(nn.Flatten(), nn.Linear(64,2))))
    s = _same(learn)
    assert s.fallback and (s.bs, s.in_shape) == (1, (1,1,8,8))

def test_text_learners_of_fastai():
    "Made as users make them; the MACs of an AWD-LSTM of 40, 60, 60, 40 units, whose decoder shares the embedding"
    df = pd.DataFrame(dict(text=['a good film', 'nothing to see here at all', 'a bad film', 'very very good']*20,
        label=[1,0,0,1]*20))
    dls = TextDataLoaders.from_df(df, text_col='text', is_lm=True, valid_pct=.2, bs=8, seq_len=10)
    config = {**awd_lstm_lm_config, **small}
    s = language_model_learner(dls, AWD_LSTM, pretrained=False, config=config).summary()
    lstm = sum(4*n*(i+n) for i,n in ((40,60), (60,60), (60,40)))
    assert (s.error, s.fallback, s.total_macs) == ('', '', 10*(lstm + 40*len(dls.vocab)))
    dls = TextDataLoaders.from_df(df, text_col='text', label_col='label', valid_pct=.2, bs=8)
    config = {**awd_lstm_clas_config, **small}
    s = text_classifier_learner(dls, AWD_LSTM, pretrained=False, config=config).summary()
    assert s.error == '' and s.fallback and s.unknown == {}
    assert s.total_macs == dls.one_batch()[0].shape[1]*lstm + 120*50 + 50*2
