"`Muon` against torch's and timm's own, and within a Learner"
from fastai.vision.all import *
from fastai_ext.muon import Muon
from helpers import *
import pytest, timm.optim

def nets(n=3):
    set_seed(0)
    m = nn.Sequential(nn.Conv2d(1, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 32, 3, stride=2), nn.ReLU(), nn.Conv2d(32, 16, 3, stride=2), nn.Flatten(), nn.Linear(16*4, 10))
    return [deepcopy(m) for _ in range(n)]

def steps(m, opt, n=4):
    "`n` steps on the same batches"
    g = torch.Generator().manual_seed(1)
    for _ in range(n):
        x,y = torch.randn(16, 1, 14, 14, generator=g),torch.randint(0, 10, (16,), generator=g)
        F.cross_entropy(m(x), y).backward()
        opt.step()
        opt.zero_grad()

def weights_of(m): return {k: v.detach().clone() for k,v in m.named_parameters()}

def test_as_timm_and_torch(monkeypatch):
    "timm's with its matrices told by hand, in the same type; and torch's for the matrices alone, flattened"
    import timm.optim.muon as tm
    exact = partial(tm.zeropower_via_newtonschulz, dtype=torch.float32)
    ours,theirs,_ = nets()
    inner = [theirs[3].weight, theirs[5].weight]
    rest = [p for p in theirs.parameters() if all(p is not o for o in inner)]
    steps(ours, Muon(ours.parameters(), lr=.05, wd=0., eps=1e-8, adam_scale=.06))
    monkeypatch.setattr(tm, 'zeropower_via_newtonschulz', lambda *args, **kw: exact(*args))
    muon = timm.optim.Muon(inner, lr=.05, nesterov=True, ns_coefficients='original', adjust_lr_fn='original')
    adam = torch.optim.Adam(rest, lr=.05*.06, betas=(.95,.99), eps=1e-8)
    def _zero(): theirs.zero_grad()
    both = SimpleNamespace(step=lambda: (muon.step(), adam.step()), zero_grad=_zero)
    steps(theirs, both)
    for a,b in zip(ours.parameters(), theirs.parameters()): torch.testing.assert_close(a, b, atol=2e-5, rtol=1e-4)
    assert not torch.equal(ours[3].weight, nets()[0][3].weight)

@pytest.mark.parametrize('shape', [(16,144), (64,16), (32,16,3,3), (16,16,3), (20,30,2,2,2)])
def test_steps_are_orthogonal(shape):
    set_seed(0)
    p = nn.Parameter(torch.randn(shape))
    p.grad,was = torch.randn(shape)*1e-3,p.detach().clone()
    Muon([p], lr=.1, wd=0.).step()
    s = torch.linalg.svdvals((was-p.detach()).flatten(1))/.1
    tall = max(1, shape[0]/math.prod(shape[1:]))**.5
    assert .5*tall < s.min() and s.max() < 1.3*tall

def test_what_is_no_matrix_is_adams():
    ours,theirs,_ = nets()
    kw = dict(wd=.1, mom=.9, sqr_mom=.98)
    steps(ours, Muon(ours.parameters(), lr=.02, adam_scale=.5, min_size=10**6, **kw))
    # the decay is a fraction of `lr` for all
    opt = torch.optim.AdamW(theirs.parameters(), lr=.01, betas=(.9,.98), eps=1e-8, weight_decay=.2)
    steps(theirs, opt)
    for a,b in zip(ours.parameters(), theirs.parameters()): torch.testing.assert_close(a, b)

def test_in_a_learner(tmp_path):
    "Schedules, groups, freezing, saving and going on; batch norm and biases without decay"
    def _learn():
        set_seed(3)
        x,y = torch.randn(64, 1, 14, 14),torch.arange(64)%10
        dls = DataLoaders.from_dsets(L(zip(x, y)), L(zip(x, y)), bs=16, shuffle=False, device='cpu')
        net = nets()[0]
        return Learner(dls, net, loss_func=CrossEntropyLossFlat(), opt_func=Muon, path=tmp_path,
            splitter=lambda m: L(m[:3], m[3:]).map(params))
    learn = _learn()
    with learn.no_bar(), learn.no_logging():
        learn.freeze()
        was = weights_of(learn.model)
        learn.fit_one_cycle(1, slice(.01,.05))
        moved = {k for k,v in weights_of(learn.model).items() if not torch.equal(v, was[k])}
        assert moved == {'1.weight', '1.bias', '3.weight', '3.bias', '5.weight', '5.bias', '7.weight', '7.bias'}
        learn.unfreeze()
        learn.fit(2, .05)
        learn.save('half')
        learn.fit(1, .05)
        other = _learn()
        other.load('half')
        other.fit(1, .05)
    for a,b in zip(learn.model.parameters(), other.model.parameters()): torch.testing.assert_close(a, b)
    assert [learn.opt.state[p].get('do_wd', True) for p in learn.model[1].parameters()] == [False,False]

def test_half_precision_weights_keep_their_type():
    p = nn.Parameter(torch.randn(16, 32, dtype=torch.bfloat16))
    p.grad = torch.randn_like(p)
    Muon([p], lr=.1).step()
    assert p.dtype is torch.bfloat16 and torch.isfinite(p).all()

@pytest.mark.parametrize('kw,words', [(dict(min_size=1), 'min_size=1'), (dict(ns_steps=0), 'ns_steps=0')])
def test_bad_arguments(kw, words):
    with pytest.raises(ValueError, match=words): Muon([nn.Parameter(torch.randn(2, 2))], lr=.1, **kw)
