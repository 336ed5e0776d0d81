"`kept_rng` and `undisturbed` put everything back"
from fastai.basics import *
from fastai.callback.progress import *
from fastai.test_utils import synth_learner
import contextlib, pytest

from fastai_ext.core import kept_rng, undisturbed

def _draws(): return torch.rand(2).tolist(), np.random.rand(), random.random()

def test_kept_rng_after_an_error():
    set_seed(3)
    want = _draws()
    set_seed(3)
    with pytest.raises(ValueError), kept_rng():
        _draws()
        raise ValueError
    assert _draws() == want

@pytest.fixture
def learn():
    res = synth_learner()
    with res.no_bar(), res.no_logging(): res.fit(1)
    return res

class Counting(Transform):
    "Remembers in place what it has seen"
    def __init__(self): self.n,self.last = torch.zeros(1),None
    def encodes(self, x:Tensor):
        self.n += 1
        self.last = x
        return x

def test_undisturbed_puts_back_what_transforms_remember(learn):
    t = Counting()
    learn.dls.train.after_batch = Pipeline([t])
    learn.dls.train.one_batch()
    n,last = t.n.item(),t.last
    with contextlib.suppress(ValueError), undisturbed(learn):
        learn.dls.train.one_batch()
        learn.dls.train.bs = 1
        raise ValueError
    assert n > 0 and t.n.item() == n and t.last is last and learn.dls.train.bs != 1

def test_undisturbed_loaders_go_on_working(learn):
    "The loader itself stays, with the attributes of a twin that refer to it"
    dl = learn.dls.train
    n,before = len(list(dl)),vars(dl).copy()
    with undisturbed(learn):
        assert dl.fake_l.d is dl and dl.fake_l is not before['fake_l'] and len(list(dl)) == len(list(dl)) == n
        dl.get_idxs = lambda: [0]*dl.bs
        assert len(list(dl)) == 1
    assert vars(dl) == before and len(list(dl)) == n

collected = []
class Collect(Callback):
    "Keeps what is predicted, in a variable of the module"
    def after_pred(self): collected.append(len(self.pred))

def test_undisturbed_leaves_what_is_collected(learn):
    collected.clear()
    with undisturbed(learn), learn.no_bar(): learn.get_preds(cbs=Collect())
    assert sum(collected) == len(learn.dls.valid_ds)

def test_undisturbed_keeps_the_recorder_in_the_middle_of_a_fit():
    class Look(Callback):
        order = 100
        def after_batch(self):
            if self.on and self.training:
                with undisturbed(self.learn): self.learn.get_preds()
    res = []
    for on in (False,True):
        set_seed(1)
        learn = synth_learner(cbs=Look())
        learn.cbs[-1].on = on
        with learn.no_bar(), learn.no_logging(): learn.fit(2)
        res.append([list(o) for o in learn.recorder.values])
    assert res[0] == res[1]

def test_undisturbed_with_loaders_that_are_lists(learn):
    learn.dls = DataLoaders([learn.dls.one_batch()], [learn.dls.one_batch()])
    with undisturbed(learn): learn.validate()

@pytest.mark.parametrize('err', [None, ValueError, KeyboardInterrupt])
def test_undisturbed_puts_back_recorder_modes_loaders_and_callbacks(learn, err):
    learn.model.train()
    rec, cbs, rng = learn.recorder, list(learn.cbs), learn.dls.train.rng
    before = {k: list(getattr(rec, k)) for k in ('losses', 'lrs', 'iters', 'values')}
    state = rng.getstate()
    with contextlib.suppress(ValueError, KeyboardInterrupt):
        with undisturbed(learn), learn.no_bar():
            learn.get_preds(ds_idx=0)
            learn.dls.train.one_batch()
            learn.add_cb(Callback())
            learn.model.eval()
            if err is not None: raise err
    assert {k: list(getattr(rec, k)) for k in before} == before and len(before['losses']) > 0
    assert learn.dls.train.rng is rng and rng.getstate() == state
    assert learn.model.training and list(learn.cbs) == cbs and not hasattr(learn, 'callback')

def test_undisturbed_copies_no_data():
    "A loader that holds its data in a tensor, which would be too much to copy"
    class Loader:
        def __init__(self): self.x,self.device = torch.zeros(1000,100),torch.device('cpu')
        def __len__(self): return 1
        def __iter__(self): yield self.x[:2],torch.zeros(2).long()
    learn,made = Learner(DataLoaders(Loader(), Loader()), nn.Linear(100,2), loss_func=F.cross_entropy),[]
    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, Tensor): made.append(out.numel())
            return out
    with Watch(), undisturbed(learn): pass
    assert max(made, default=0) < 100_000
