"Mixed precision on the device at hand; what this CPU computes slowly it computes as well"
from fastai.vision.all import *
from fastai_ext.all import *
import pytest, subprocess, sys
from helpers import *

class Seen(nn.Module):
    "Notes the type that its layer computes in"
    def __init__(self):
        super().__init__()
        self.layer,self.types,self.fails = nn.Linear(6, 3),[],None
    def forward(self, x):
        res = self.layer(x.flatten(1))
        self.types.append(res.dtype)
        if self.fails: raise self.fails
        return res

class LossType(nn.Module):
    def __init__(self):
        super().__init__()
        self.types,self.reduction = [],'mean'
    def forward(self, pred, y):
        self.types.append((pred.dtype, (pred.detach()@pred.detach().T).dtype))
        return F.cross_entropy(pred, y, reduction=self.reduction)

def learner(model=None, **kwargs):
    set_seed(0)
    x,y = torch.randn(20, 1, 2, 3).numpy(),np.arange(20)%3
    dls = DataLoaders.from_arrays(x, y, x[:7], y[:7], bs=5)
    learn = Learner(dls, ifnone(model, Seen()), **{**dict(loss_func=LossType(), metrics=accuracy, cbs=[]), **kwargs})
    return learn.remove_cb(ProgressCallback)

def is_off():
    x = torch.ones(2, 2)
    return not torch.is_autocast_enabled('cpu') and (x@x).dtype is torch.float32

@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_all_computes_in_it(dtype):
    learn = learner().to_amp(dtype)
    item = torch.randn(1, 2, 3).numpy()
    others = lambda: learn.fit(1), lambda: learn.predict(item), lambda: ensemble_preds([learn, learn])
    for f in (learn.validate, learn.get_preds, partial(learn.get_preds, with_loss=True), learn.tta_flip, *others):
        learn.model.types.clear()
        res = f()
        assert set(learn.model.types) == {dtype}
        assert is_off() and 'forward' not in vars(learn.model)
        if res is not None and isinstance(res[0], Tensor): assert res[0].dtype is torch.float32
    assert set(learn.loss_func.types) == {(torch.float32, torch.float32)}

def test_trains_as_a_plain_loop_does():
    "Weights after two epochs against torch alone, and not those of float32"
    res = []
    for how in ('ours', 'torch', 'float32'):
        learn = learner(loss_func=CrossEntropyLossFlat(), opt_func=partial(OptimWrapper, opt=torch.optim.SGD))
        learn.dls.train.shuffle = False
        if how == 'torch':
            opt = torch.optim.SGD(learn.model.parameters(), lr=.1)
            for _ in range(2):
                for x,y in map(lambda b: map(plain_tensor, b), learn.dls.train):
                    with torch.autocast('cpu', dtype=torch.bfloat16): pred = learn.model(x)
                    F.cross_entropy(pred.float(), y).backward()
                    opt.step()
                    opt.zero_grad()
        else: (learn.to_amp(torch.bfloat16) if how == 'ours' else learn).fit(2, .1)
        res.append(learn.model.layer.weight.detach())
    assert torch.equal(res[0], res[1]) and not torch.equal(res[0], res[2]) and torch.allclose(res[0], res[2], atol=.01)

@pytest.mark.parametrize('error', [RuntimeError('x'), KeyboardInterrupt(), CancelFitException()])
def test_interrupted_in_the_model(error):
    learn = learner().to_amp(torch.bfloat16)
    learn.model.fails = error
    try: learn.fit(1)
    except (RuntimeError, KeyboardInterrupt): pass
    assert is_off()
    learn.model.fails = None
    learn.fit(1)
    assert set(learn.model.types) == {torch.bfloat16} and 'forward' not in vars(learn.model)
    learn.to_fp32().model.types.clear()
    learn.fit(1)
    assert set(learn.model.types) == {torch.float32}

def test_predictions_within_a_fit():
    class Look(FitCallback):
        def after_batch(self):
            if self.training: self.learn.get_preds()
        def after_epoch(self): self.learn.validate()
    learn = learner(cbs=Look()).to_amp(torch.float16)
    with learn.no_logging(): learn.fit(2)
    assert set(learn.model.types) == {torch.float16}

def test_scaler_skips_what_overflows():
    "Gradients of float16 that aren't finite make no step, and the scale is halved"
    class Broken(Callback):
        order = MixedPrecision.order-1
        def before_step(self): self.model.layer.weight.grad[0,0] = torch.inf
    learn = learner(cbs=Broken()).to_amp(torch.float16, init_scale=8.)
    before = learn.model.layer.weight.detach().clone()
    learn.fit(1)
    assert torch.equal(before, learn.model.layer.weight)

def test_one_at_a_time_and_off():
    learn = learner().to_fp16().to_amp(torch.bfloat16).to_amp(torch.float16)
    assert len(learn.cbs.filter(lambda o: isinstance(o, MixedPrecision))) == 1
    learn.to_fp32()
    learn.fit(1)
    assert set(learn.model.types) == {torch.float32}

def test_the_model_keeps_a_forward_of_its_own():
    learn = learner().to_amp(torch.bfloat16)
    own = learn.model.forward = partial(Seen.forward, learn.model)
    learn.fit(1)
    assert learn.model.forward is own and set(learn.model.types) == {torch.bfloat16}

@pytest.mark.parametrize('flags,want', [(dict(avx512_bf16=True), torch.bfloat16), (dict(amx_bf16=True), torch.bfloat16),
    (dict(bf16=True), torch.bfloat16), (dict(avx2=True, avx512_f=True), None), ({}, None)])
def test_what_the_processor_says(monkeypatch, capsys, flags, want):
    monkeypatch.setattr(torch.cpu, 'get_capabilities', lambda: flags)
    assert amp_dtype('cpu') is want
    learn = learner()
    n = len(learn.cbs)
    assert learn.to_amp() is learn and len(learn.cbs) == n+(want is not None)
    assert ('nothing is changed' in capsys.readouterr().out) == (want is None)

def test_graphics_processors(monkeypatch):
    for bf16,want in ((True, torch.bfloat16), (False, torch.float16)):
        monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda including_emulation=True: bf16)
        monkeypatch.setattr(torch.backends.mps, 'is_macos_or_newer', lambda *v: bf16)
        assert amp_dtype('cuda') is amp_dtype('mps') is want
    with pytest.raises(ValueError, match='cuda does not compute in bfloat16'): amp_dtype('cuda', torch.bfloat16)
    assert amp_dtype('cuda', torch.float16) is torch.float16

def test_other_devices_are_not_asked_for_the_processor(monkeypatch):
    monkeypatch.setattr(torch.cpu, 'get_capabilities', lambda: dict(avx512_bf16=True))
    assert amp_dtype('xpu') is None and amp_dtype('xpu', torch.bfloat16) is torch.bfloat16

def test_wrong_type():
    for o in (torch.float32, 'bf16', 16):
        with pytest.raises(ValueError, match='dtype is torch.bfloat16'): learner().to_amp(o)
        with pytest.raises(ValueError, match='dtype is torch.bfloat16'): AutoPrecision(o)

@pytest.mark.slow
def test_exported_and_loaded_in_a_fresh_process(tmp_path):
    "The type that was asked for is kept"
    model = nn.Sequential(nn.Flatten(), nn.Linear(6, 3))
    learn = learner(model, loss_func=CrossEntropyLossFlat(), path=tmp_path).to_amp(torch.bfloat16)
    x = np.ones((1, 2, 3), dtype=np.float32)
    want = learn.predict(x)[2]
    learn.export()
    code = f"""
import numpy as np, warnings; warnings.simplefilter('ignore')
from fastai.learner import load_learner
l = load_learner({str(tmp_path/'export.pkl')!r})
with l.no_bar(): print(l.predict(np.ones((1, 2, 3), dtype=np.float32))[2].tolist())"""
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout
    assert torch.equal(tensor(json.loads(out.splitlines()[-1])), want)
    assert not torch.equal(learn.to_fp32().predict(x)[2], want)
