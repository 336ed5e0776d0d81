"Ensembles are the exact mean of their members, stay learners, and refuse what does not belong together"
from fastai.vision.all import *
import pytest, subprocess, sys

from fastai_ext.ensemble import EnsembleModel, ensemble, ensemble_preds

def image(i): return torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(i))
def get_x(i): return TensorImage(image(i))
def get_y(i): return i%3

def net(nf, no=3): return nn.Sequential(nn.Conv2d(3, nf, 3, padding=1), nn.BatchNorm2d(nf), nn.ReLU(), nn.Flatten(), nn.Linear(nf*64, no))

def make_dls(get_y=get_y, n=30):
    block = DataBlock((TransformBlock, CategoryBlock), get_x=get_x, get_y=get_y, splitter=IndexSplitter(range(13, n)))
    return block.dataloaders(list(range(n)), bs=4)

@pytest.fixture
def learns(tmp_path):
    set_seed(3)
    dls = make_dls()
    res = [Learner(dls, net(nf), metrics=accuracy, path=tmp_path) for nf in (4,6,5)]
    for o in res: o.remove_cb(ProgressCallback)
    return res

def members(learns, **kwargs): return [o.get_preds(**kwargs)[0] for o in learns]

def test_the_ensemble_is_the_mean_of_its_members(learns):
    ens = ensemble(learns)
    with ens.no_bar(): preds,targs = ens.get_preds()
    assert torch.allclose(preds, torch.stack(members(learns)).mean(0), rtol=0, atol=1e-6)
    with ens.no_bar(): loss,acc = ens.validate()
    assert loss == pytest.approx(F.nll_loss(preds.log(), targs).item(), abs=1e-5)
    assert acc == pytest.approx((preds.argmax(-1) == targs).float().mean().item())

def test_preds_are_exactly_the_mean(learns):
    preds,targs = ensemble_preds(learns)
    assert torch.equal(preds, torch.stack(members(learns)).double().mean(0).float())
    assert targs.tolist() == [i%3 for i in range(13, 30)]
    raw = ensemble_preds(learns, weights=[1,0,3], avg='logits')[0]
    a,_,c = members(learns, act=noop)
    assert torch.allclose(raw, ((a+3*c)/4).softmax(-1), rtol=0, atol=1e-6)

def test_exported_and_loaded_in_a_fresh_process(learns, tmp_path):
    ens = ensemble(learns, weights=[1,2,3])
    with ens.no_bar(): want = ens.get_preds()[0]
    ens.export('ens.pkl')
    code = f"""if True:
        import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})
        from test_ensemble import *
        import warnings; warnings.simplefilter('ignore')
        learn = load_learner({str(tmp_path/'ens.pkl')!r})
        with learn.no_bar(): preds = learn.get_preds(dl=learn.dls.test_dl(list(range(13, 30))))[0]
        print(preds.tolist())"""
    res = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True)
    assert res.returncode == 0, res.stderr
    assert torch.allclose(tensor(eval(res.stdout)), want, atol=1e-6)
