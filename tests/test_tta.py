"Flip TTA is the hand-made mean over views, everywhere fastai predicts, and leaves no trace"
from fastai.callback.channelslast import *
from fastai.callback.fp16 import MixedPrecision
from fastai.vision.all import *
import contextlib, hashlib, itertools, pickle, pytest, sklearn.metrics

from fastai_ext.tta import DihedralView, FlipTTA, ShiftView, View, tta_views

SETS = ['h', 'v', 'hv', 'd4', 'shift']

def image(i, c=3, h=8, w=8): return torch.rand(c, h, w, generator=torch.Generator().manual_seed(i))

def conv_net(no=3, ni=3, sz=8): return nn.Sequential(nn.Conv2d(ni, 6, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(6*sz*sz, no))

def quiet(learn):
    learn.remove_cb(ProgressCallback)
    return learn

def label(i): return i%3

@pytest.fixture
def learn():
    block = DataBlock((TransformBlock, CategoryBlock), get_x=lambda i: TensorImage(image(i)), get_y=label,
        splitter=IndexSplitter(range(13, 30)))
    set_seed(2)
    return quiet(Learner(block.dataloaders(list(range(30)), bs=4), conv_net(), metrics=[accuracy, F1Score(average='macro')]))

@pytest.fixture
def xs(): return torch.stack([image(i) for i in range(13, 30)])

def copies(x, views):
    "Moved copies of `x` and their weights, written out by hand"
    m = x.flip(3)
    if views == 'h': return [(x,1),(m,1)]
    if views == 'v': return [(x,1),(x.flip(2),1)]
    if views == 'hv': return [(x,1),(m,1),(x.flip(2),1),(x.flip(2,3),1)]
    if views == 'd4': return [(y.rot90(k, (2,3)),1) for y in (x,m) for k in range(4)]
    pad = F.pad(x, (1,1,1,1), mode='reflect')
    ul,dr = pad[:,:,2:,2:],pad[:,:,:-2,:-2]
    return [(x,.25),(m,.25)] + [(y,.125) for y in (ul,dr,ul.flip(3),dr.flip(3))]

def hand_mean(model, x, views, act):
    model.eval()
    with torch.no_grad(): outs = [(act(model(y)),w) for y,w in copies(x, views)]
    return sum(o*w for o,w in outs)/sum(w for _,w in outs)

@pytest.mark.parametrize('views', SETS)
def test_equals_the_hand_made_mean(learn, xs, views):
    preds,targs = learn.tta_flip(views=views)
    assert torch.allclose(preds, hand_mean(learn.model, xs, views, lambda o: o.softmax(-1)), rtol=0, atol=1e-6)
    assert targs.tolist() == [i%3 for i in range(13, 30)]
    raw = learn.tta_flip(views=views, avg='logits', act=noop)[0]
    assert torch.allclose(raw, hand_mean(learn.model, xs, views, noop), rtol=0, atol=1e-6)

def test_metrics_and_loss_are_those_of_the_average(learn, xs):
    preds,targs = learn.tta_flip()
    loss,acc,f1 = learn.validate(cbs=FlipTTA())
    assert loss == pytest.approx(F.nll_loss(preds.log(), targs).item(), abs=1e-5)
    assert acc == pytest.approx((preds.argmax(-1) == targs).float().mean().item())
    assert f1 == pytest.approx(sklearn.metrics.f1_score(targs, preds.argmax(-1), average='macro'))
    losses = learn.tta_flip(with_loss=True)[2]
    assert torch.allclose(losses, F.nll_loss(preds.log(), targs, reduction='none'), atol=1e-5)

def test_returns_what_get_preds_returns(learn, xs):
    x,preds,targs,dec,losses = learn.tta_flip(with_input=True, with_decoded=True, with_loss=True)
    assert torch.equal(x, xs) and torch.equal(dec, preds.argmax(-1)) and len(losses) == len(targs) == 17
    assert learn.tta_flip(dl=learn.dls.test_dl(list(range(13, 30))))[1] is None
    assert torch.equal(learn.tta_flip(dl=learn.dls.test_dl(list(range(13, 30))))[0], preds)

def test_works_in_predict_show_results_and_interpretation(learn):
    want = learn.tta_flip()[0]
    plain = learn.get_preds()[0]
    with learn.added_cbs(FlipTTA()):
        assert torch.allclose(learn.predict(13)[2], want[0], atol=1e-6) and not torch.allclose(want[0], plain[0], atol=1e-4)
        learn.show_results(max_n=2)
        interp = Interpretation.from_learner(learn)
    assert torch.allclose(interp.losses, learn.tta_flip(with_loss=True)[2])
    assert torch.equal(learn.get_preds()[0], plain)
