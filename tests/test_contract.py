"What every callback and every transform of the package has to do, whatever it is for"
from fastai.callback.fp16 import *
from fastai.vision.all import *
import pytest, warnings
from torch.optim import lr_scheduler as S

from fastai_ext.anneal import GradAnneal
from fastai_ext.augment import *
from fastai_ext.callbacks import *
from fastai_ext.checkpoint import Checkpoint
from fastai_ext.erase import *
from fastai_ext.mix import *
from fastai_ext.record import *
from fastai_ext.precision import AutoPrecision
from fastai_ext.resize import ProgressiveResize
from fastai_ext.schedule import *
from fastai_ext.tta import FlipTTA
from fastai_ext.weights import WeightAverage

def image(i): return TensorImage(torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(i)))
def label(i): return i%3
def doubled(x): return x*2

made_of = {BatchTransform: doubled, BatchScheduler: partial(S.OneCycleLR, max_lr=1e-2),
    EpochScheduler: partial(S.StepLR, step_size=1)}
plain = AlternateFlip, SkipValid, Record, CapturePreds, LayerStats, GradAnneal, FlipTTA
plain += ProgressiveResize, AutoPrecision, WeightAverage, RandCutMix, RandMixUp
callbacks = {o.__name__: o for o in plain} | {o.__name__: partial(o, arg) for o,arg in made_of.items()}
callbacks['Checkpoint'] = lambda: Checkpoint(Path(tempfile.mkdtemp())/'fit.pth')
transforms = dict(RandErase=RandErase, RandCopy=RandCopy, RandPadCrop=partial(RandPadCrop, 1), RandFlip=RandFlip)
every = {**callbacks, **transforms}

def test_all_are_here():
    "So that a new one is put to the same test"
    import fastai_ext.all as ours
    types = {k: v for k,v in vars(ours).items() if isinstance(v, type) and v.__module__.startswith('fastai_ext')}
    mine = {k for k,v in types.items() if issubclass(v, (Callback,Transform))}
    bases = {'FitCallback', 'ImageTransform', 'RandMix', 'ToFashion'}
    assert {o for o in mine if o[0]!='_'} - bases == set(every)

def learner(name, **kwargs):
    set_seed(1)
    tfms,cbs = ([f()] if name in o else [] for o in (transforms,callbacks) for f in [every[name]])
    splitter = IndexSplitter(range(12))
    block = DataBlock((TransformBlock,CategoryBlock), get_x=image, get_y=label, splitter=splitter, batch_tfms=tfms)
    dls = block.dataloaders(list(range(40)), bs=4, num_workers=0, device='cpu')
    # 6×6 is what is there at full size
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(6), nn.Flatten(),
        nn.Linear(144, 3))
    learn = Learner(dls, model, metrics=accuracy, cbs=cbs, **kwargs)
    learn.remove_cb(ProgressCallback)
    return learn

def fit(learn, n=2, **kwargs):
    with learn.no_logging(): learn.fit(n, 1e-3, **kwargs)
    return torch.cat([p.detach().flatten() for p in learn.model.parameters()])

@pytest.mark.parametrize('name', every)
def test_fits_twice_and_repeats(name):
    "Two epochs change the weights, again with the same seed to the same ones, and a second fit goes on"
    a,b = learner(name),learner(name)
    start = torch.cat([p.detach().flatten() for p in a.model.parameters()])
    set_seed(2)
    x = fit(a)
    set_seed(2)
    assert torch.equal(x, fit(b)) and x.isfinite().all() and not torch.equal(x, start)
    assert not torch.equal(fit(a), x)

@pytest.mark.parametrize('name', every)
def test_bars_and_tables(name):
    "With fastai's own progress bar and table, and without"
    learn = learner(name)
    learn.add_cb(ProgressCallback())
    learn.fit(1)
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    assert len(learn.recorder.values)==1

@pytest.mark.parametrize('name', every)
def test_lr_find_leaves_no_trace(name):
    "The fit afterwards is the one without it"
    a,b = learner(name),learner(name)
    with a.no_logging(): a.lr_find(num_it=12, show_plot=False)
    got = []
    for o in (a,b):
        set_seed(3)
        o.dls.train.rng = random.Random(3)
        got.append(fit(o))
    assert torch.equal(*got)

class Stop(Callback):
    def __init__(self, at): self.at = at
    def after_step(self):
        if self.training and self.train_iter==self.at: raise KeyboardInterrupt

# a Checkpoint goes on with the same callbacks only: tests/test_checkpoint.py
@pytest.mark.parametrize('name', [o for o in every if o != 'Checkpoint'])
def test_interrupted(name):
    "In an epoch: what is recorded can be had, and the next fit runs with the hyper-parameters that it is given"
    learn = learner(name)
    for at in (2, 9):
        with pytest.raises(KeyboardInterrupt): fit(learn, cbs=Stop(at))
    learn.remove_cbs(Stop)
    assert fit(learn).isfinite().all() and 'remove_cbs' not in vars(learn) and 'get_idxs' not in vars(learn.dls.train)
    assert len(learn.recorder.values)==2

@pytest.mark.parametrize('name', every)
def test_predictions_are_the_models(name):
    "Validation sees nothing of what is for training; `FlipTTA` alone is for it"
    learn = learner(name)
    fit(learn, 1)
    x,y = learn.dls.valid.one_batch()
    learn.model.eval()
    with torch.no_grad(): want = learn.model(x).softmax(1)
    got = learn.get_preds()[0][:len(x)]
    assert torch.allclose(got, want, atol=1e-6) == (name!='FlipTTA') and len(learn.validate())==2
    assert torch.allclose(learn.predict(0)[2], learn.get_preds()[0][0], atol=1e-6)

@pytest.mark.parametrize('name', every)
def test_export_and_load(name, tmp_path):
    learn = learner(name, path=tmp_path)
    fit(learn, 1)
    want = learn.get_preds()[0]
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        learn.export()
        again = load_learner(tmp_path/'export.pkl')
    assert torch.equal(again.get_preds(dl=learn.dls.valid)[0], want)
    copied = pickle.loads(pickle.dumps(every[name]()))
    assert type(copied) is type(every[name]())

@pytest.mark.parametrize('name', every)
def test_mixed_precision(name):
    "On a CPU fastai's does nothing; on a GPU it is the real thing"
    learn = learner(name)
    if torch.cuda.is_available():
        learn.dls.cuda()
        learn.model.cuda()
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        learn.to_fp16()
        assert fit(learn, 2).isfinite().all()
