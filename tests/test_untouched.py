"Forty learners: a summary and a preview leave every bit of them, their loaders and their transforms' memory as it was"
from fastai.text.all import *
from fastai.vision.all import *
from fastai.collab import *
from fastai.tabular.all import *
from fastai.callback.hook import hook_output
from collections import deque
from torch.utils.data import BatchSampler, RandomSampler, TensorDataset, WeightedRandomSampler
import pytest, warnings

from fastai_ext.augment import *
from fastai_ext.erase import *
from fastai_ext.callbacks import BatchTransform
from fastai_ext.record import LayerStats, Record
from fastai_ext.models import mini_convnet, mini_resnet_fast
from fastai_ext.schedule import BatchScheduler
from fastai_ext.speed import SpeedReport
from fastai_ext.summary import ModelSummary
from helpers import differences, fingerprint, process_state

TorchDL = torch.utils.data.DataLoader

def fit(learn):
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    return learn

def images(i): return PILImage.create(np.random.default_rng(i).integers(0, 255, (36,32,3), dtype=np.uint8))
def image_dls(y=CategoryBlock, get_y=lambda i: i%2, item_tfms=None, batch_tfms=None):
    block = DataBlock((ImageBlock, y), get_items=lambda _: list(range(10)), get_x=images, get_y=get_y,
        splitter=IndexSplitter([0,1]), item_tfms=item_tfms or Resize(32), batch_tfms=batch_tfms)
    return block.dataloaders(None, bs=4, num_workers=0, device='cpu')

def vision(arch=resnet18, tfms=None, **kwargs):
    return vision_learner(image_dls(batch_tfms=aug_transforms() if tfms is None else tfms, **kwargs), arch,
        pretrained=False, metrics=accuracy)

def unet():
    def mask(i): return PILMask.create(np.zeros((36,32), dtype=np.uint8))
    return unet_learner(image_dls(MaskBlock(['a','b']), mask), resnet18, pretrained=False)

def tabular():
    df = pd.DataFrame(dict(a=['x','y']*8, b=np.arange(16.), y=np.arange(16.)))
    dls = TabularDataLoaders.from_df(df, procs=[Categorify, FillMissing, Normalize], cat_names=['a'], cont_names=['b'],
        y_names='y', valid_idx=[0,1], bs=4)
    return tabular_learner(dls, layers=[8], y_range=(0,16))

def collab(use_nn):
    df = pd.DataFrame(dict(user=[1,2,3,4]*4, item=[1,1,2,2,3,3,4,4]*2, rating=[1.,2.,3.,4.]*4))
    dls = CollabDataLoaders.from_df(df, bs=4, valid_pct=.2, seed=0)
    return collab_learner(dls, n_factors=5, y_range=(0,5), use_nn=use_nn)

small = {**awd_lstm_lm_config, 'n_hid': 20, 'emb_sz': 10}
def language():
    dsets = Datasets([torch.randint(1, 9, (30,)) for _ in range(6)], tfms=[[lambda o: TensorText(o)]],
        splits=[range(4), range(4,6)])
    dls = dsets.dataloaders(bs=3, seq_len=5, dl_type=LMDataLoader, num_workers=0, device='cpu')
    model = get_language_model(AWD_LSTM, 50, config=small)
    return Learner(dls, model, loss_func=CrossEntropyLossFlat(), cbs=rnn_cbs(2, 1))

def texts():
    xs = [torch.arange(3+i) % 9 + 1 for i in range(12)]
    dsets = Datasets(list(range(12)), tfms=[[lambda i: TensorText(xs[i])], [lambda i: TensorCategory(i%2)]],
        splits=[range(8), range(8,12)])
    return dsets.dataloaders(bs=4, dl_type=SortedDL, before_batch=pad_input, num_workers=0, device='cpu')
def text_classifier():
    config = {**awd_lstm_clas_config, 'n_hid': 20, 'emb_sz': 10}
    return Learner(texts(), get_text_classifier(AWD_LSTM, 50, 2, seq_len=4, config=config),
        loss_func=CrossEntropyLossFlat(), cbs=rnn_cbs())

def net(): return nn.Sequential(nn.Linear(3,8), nn.ReLU(), nn.Linear(8,2))
def items(n=16): return TensorDataset(torch.randn(n,3), torch.randint(0,2,(n,)))
def tensors(model=None, cbs=None, dl=None, seq=False):
    ds = items()
    if seq: ds = [(x.expand(5,3), y) for x,y in ds]
    dls = dl(ds) if dl else DataLoaders.from_dsets(ds, ds, bs=4, num_workers=0, shuffle=True, device='cpu')
    return Learner(dls, model if model is not None else net(), loss_func=CrossEntropyLossFlat(), cbs=cbs)

def by_torch(**kwargs):
    def _loader(ds): return TorchDL(ds, **{k: v(ds) if callable(v) else v for k,v in kwargs.items()})
    return lambda ds: DataLoaders(_loader(ds), _loader(ds), device='cpu')

class Lstm(nn.Module):
    def __init__(self, cls):
        super().__init__()
        self.rnn,self.head = cls(3, 6, batch_first=True),nn.Linear(6,2)
    def forward(self, x): return self.head(self.rnn(x)[0][:,-1])

class KVCache(nn.Module):
    "Attention over all that has been seen, kept in a helper"
    def __init__(self):
        super().__init__()
        self.qkv,self.head,self.cache = nn.Linear(3,12),nn.Linear(4,2),SimpleNamespace(k=[], n=torch.zeros(1))
        self.register_buffer('last', torch.zeros(1,4))
    def forward(self, x):
        q,k,v = self.qkv(x)[:,None].chunk(3, -1)
        self.cache.k.append(k.detach().mean((0,1)))
        self.cache.n += 1
        self.last = v.detach()[:1,0]
        return self.head(F.scaled_dot_product_attention(q, k, v)[:,0])

class Memory(nn.Module):
    "Draws from generators of its own and remembers in all kinds of places"
    def __init__(self):
        super().__init__()
        self.lin,self.q,self.a,self.t = nn.Linear(3,2),deque(maxlen=3),np.zeros(2),torch.zeros(1)
        self.rng,self.py,self.gen,self.seen = np.random.default_rng(0),random.Random(0),torch.Generator(),{'n': [0]}
    def forward(self, x):
        self.q.append(x.mean())
        self.a[0] += self.rng.normal() + self.py.random()
        self.t += 1
        self.seen['n'][0] += 1
        return self.lin(x) + torch.randn(1, generator=self.gen).item()

class Noise(ItemTransform):
    "Draws from a generator of its own and counts"
    def __init__(self): self.h = SimpleNamespace(rng=np.random.default_rng(0), seen=[], t=torch.zeros(1))
    def encodes(self, o):
        self.h.seen.append(self.h.rng.normal())
        self.h.t += 1
        return o[0]+self.h.seen[-1],o[1]

def noisy(ds):
    kwargs = dict(bs=4, shuffle=True, num_workers=0, do_setup=False)
    return DataLoaders(*[TfmdDL(list(ds), after_item=[Noise()], after_batch=[Noise()], **kwargs) for _ in range(2)])

def quiet(f, *args):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return f(*args)

def hooked():
    learn = fit(tensors())
    learn.held = hook_output(learn.model[0])
    learn.model(torch.zeros(2,3))
    return learn

def albumentations():
    A = pytest.importorskip('albumentations')
    class Aug(ItemTransform):
        split_idx = 0
        def __init__(self): self.aug = A.Compose([A.RandomBrightnessContrast(p=1), A.HorizontalFlip(p=.5)], seed=0)
        def encodes(self, o): return PILImage.create(self.aug(image=np.array(o[0]))['image']),*o[1:]
    return vision(item_tfms=[Resize(32), Aug()])

norm = nn.utils.parametrizations
learners = dict(
    # of pictures
    vision=vision, vision_frozen=lambda: vision(), vision_trained=lambda: fit(vision(xresnet18)),
    vision_fp16=lambda: quiet(lambda: vision().to_fp16()), vision_channels_last=lambda: vision().add_cb(ChannelsLast()),
    vision_mixup=lambda: vision().add_cb(MixUp()), vision_erase=lambda: vision(tfms=[RandErase(), RandFlip()]),
    vision_crop=lambda: vision(item_tfms=RandomResizedCrop(24)),
    convnet=lambda: Learner(image_dls(), mini_convnet(in_chans=3, num_classes=2)),
    resnet=lambda: Learner(image_dls(), mini_resnet_fast(in_chans=3, num_classes=2)), unet=unet,
    unet_trained=lambda: fit(unet()), albumentations=albumentations,
    # of tables and texts
    tabular=tabular, tabular_trained=lambda: fit(tabular()),
    collab=lambda: collab(False), collab_nn=lambda: collab(True), language=language,
    language_trained=lambda: fit(language()), text_classifier=text_classifier,
    text_trained=lambda: fit(text_classifier()),
    # with PyTorch's loaders
    torch_shuffled=lambda: tensors(dl=by_torch(batch_size=4, shuffle=True, generator=lambda _: torch.Generator())),
    torch_single=lambda: tensors(dl=by_torch(batch_size=None)),
    torch_batch_sampler=lambda: tensors(dl=by_torch(
        batch_sampler=lambda ds: BatchSampler(RandomSampler(ds, generator=torch.Generator()), 4, False))),
    torch_workers=lambda: fit(tensors(dl=by_torch(batch_size=4, num_workers=1, persistent_workers=True))),
    torch_weighted=lambda: tensors(dl=by_torch(batch_size=4,
        sampler=lambda ds: WeightedRandomSampler([1.]*16, 16, generator=torch.Generator()))),
    # scripted, compiled, wrapped
    scripted=lambda: tensors(quiet(torch.jit.script, net())),
    traced=lambda: tensors(quiet(torch.jit.trace, net(), torch.zeros(2,3))),
    scripted_body=lambda: fit(tensors(nn.Sequential(quiet(torch.jit.script, nn.Linear(3,4)), nn.Linear(4,2)))),
    compiled=lambda: tensors(torch.compile(net())),
    compiled_body=lambda: tensors(nn.Sequential(torch.compile(nn.Linear(3,4)), nn.Linear(4,2))),
    data_parallel=lambda: tensors(nn.DataParallel(net())),
    # that keep something
    lstm=lambda: fit(tensors(Lstm(nn.LSTM), seq=True)),
    gru=lambda: tensors(Lstm(nn.GRU), seq=True), kv_cache=lambda: fit(tensors(KVCache())),
    memory=lambda: fit(tensors(Memory())),
    spectral_norm=lambda: fit(tensors(nn.Sequential(nn.utils.spectral_norm(nn.Linear(3,2))))),
    new_spectral_norm=lambda: fit(tensors(nn.Sequential(norm.spectral_norm(nn.Linear(3,2))))),
    noisy_transforms=lambda: fit(tensors(dl=noisy)), hooked=hooked,
    callbacks=lambda: tensors(cbs=[BatchTransform(lambda x: x+1), Record('lr', 'mom'), LayerStats(every=1),
        BatchScheduler(partial(torch.optim.lr_scheduler.OneCycleLR, max_lr=.1))]))

long = 'compiled_body','unet_trained','traced','scripted_body'

def test_there_are_forty(): assert len(learners) >= 40

@pytest.mark.parametrize('name', [pytest.param(o, marks=[pytest.mark.slow]*(o in long)) for o in learners])
def test_untouched(name):
    learn = learners[name]()
    if name == 'vision_frozen': learn.freeze()
    roots = learn,learn.model,learn.dls,learn.opt
    before,process = fingerprint(*roots),process_state()
    s = learn.summary(training=True)
    assert isinstance(s, ModelSummary) and s.error == '' and differences(before, fingerprint(*roots)) == []
    assert process_state() == process
    if name != 'torch_single':
        learn.show_train_batch(show=False)
        assert isinstance(learn.speed_report(.2), SpeedReport)
    assert differences(before, fingerprint(*roots)) == [] and process_state() == process

def test_a_fingerprint_sees_what_changes():
    learn = fit(tensors(Memory(), dl=noisy))
    def _hook(*_): pass
    m,dl = learn.model,learn.dls.train
    changes = [lambda: m.q.append(1), lambda: m.rng.random(), lambda: m.t.add_(1), lambda: m.lin.weight.data.mul_(2),
        lambda: m.lin.register_forward_hook(_hook), lambda: dl.one_batch(), lambda: m.train(), lambda: m.py.random(),
        lambda: dl.after_item.fs[0].h.rng.random(), lambda: learn.opt.set_hypers(lr=7), lambda: m.gen.manual_seed(9),
        lambda: learn.recorder.losses.append(0)]
    for i,change in enumerate(changes):
        before = fingerprint(learn)
        assert differences(before, fingerprint(learn)) == []
        change()
        assert differences(before, fingerprint(learn)), i
