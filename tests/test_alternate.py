"`AlternateFlip` shows each item's other side in the next epoch, whoever loads it and whenever it goes on"
from fastai.vision.all import *
from fastai.callback.data import WeightedDL
from fastai.data.load import SkipItemException
import pytest, warnings

from fastai_ext.callbacks import AlternateFlip

def plain(x): return x.as_subclass(Tensor)

class Seen(Callback):
    "Keeps what the model is given: epoch, item, image"
    order = 20
    def __init__(self): self.got = []
    def after_pred(self):
        if self.training: self.got += [(self.epoch, int(i), o[0].clone()) for i,o in zip(self.yb[0], plain(self.xb[0]))]

xs = np.random.RandomState(0).randint(0, 256, (101,8,8)).astype('uint8')

def learner(n=101, bs=16, cbs=None, **kwargs):
    block = DataBlock((ImageBlock(PILImageBW), RegressionBlock), get_items=lambda _: range(n), get_x=lambda i: xs[i],
        get_y=noop, splitter=IndexSplitter([0]))
    dls = block.dataloaders(None, bs=bs, device='cpu', **kwargs)
    learn = Learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(64, 1)), loss_func=MSELossFlat(), cbs=cbs)
    learn.remove_cb(ProgressCallback)
    return learn

def fit(learn, n, **kwargs):
    with learn.no_logging(): learn.fit(n, 1e-4, cbs=(seen := Seen()), **kwargs)
    return seen.got

def sides(got, vertical=False):
    "Item to the side shown in each epoch: 0 as it is, 1 left and right, 2 up and down, 3 both"
    res = defaultdict(dict)
    for e,i,o in got:
        img = tensor(xs[i])/255.
        views = [img, img.flip(1)] + ([img.flip(0), img.flip((0,1))] if vertical else [])
        res[i][e] = [torch.allclose(o, v, atol=1e-6) for v in views].index(True)
    return res

@pytest.mark.slow
@pytest.mark.slow
@pytest.mark.parametrize('kwargs', [{}, dict(num_workers=2), dict(drop_last=False)], ids=str)
@pytest.mark.parametrize('vertical', [False,True])
def test_each_item_shows_all_of_its_sides(vertical, kwargs):
    "Shuffled, in batches that don't divide, with workers"
    set_seed(17)
    got = sides(fit(learner(cbs=AlternateFlip(vertical=vertical), **kwargs), 8), vertical)
    n = 4 if vertical else 2
    assert len(got)==100
    for shown in got.values():
        ks = [shown.get(e) for e in range(8)]
        known = [(e,k) for e,k in enumerate(ks) if k is not None] # drop_last leaves some out
        assert all((k==l) == ((e-f)%n==0) for e,k in known for f,l in known)
    firsts = [o[min(o)] for o in got.values()]
    assert 25 < sum(k==0 for k in firsts)*n/2 < 75

@pytest.mark.slow
@pytest.mark.slow
def test_sides_are_a_matter_of_index_epoch_and_seed():
    "Not of random states, shuffling, batch size; a training that goes on has those of one that was not interrupted"
    whole = sides(fit(learner(cbs=AlternateFlip(), drop_last=False), 4))
    set_seed(99)
    assert sides(fit(learner(bs=7, cbs=AlternateFlip(), drop_last=False), 4)) == whole
    learn = learner(cbs=AlternateFlip(), drop_last=False)
    first = sides(fit(learn, 2))
    rest = sides(fit(learn, 4, start_epoch=2))
    assert {i: {**first[i], **rest[i]} for i in first} == whole
    assert sides(fit(learner(cbs=AlternateFlip(seed=1), drop_last=False), 4)) != whole

def test_interrupted_in_the_middle():
    "The loader is as it was, and the next fit right"
    class Stop(Callback):
        def after_pred(self):
            if self.training and self.iter==2: raise KeyboardInterrupt
    learn = learner(cbs=AlternateFlip(), drop_last=False)
    with pytest.raises(KeyboardInterrupt), learn.no_logging(): learn.fit(1, 1e-4, cbs=Stop())
    assert 'get_idxs' not in vars(learn.dls.train)
    assert sides(fit(learn, 4)) == sides(fit(learner(cbs=AlternateFlip(), drop_last=False), 4))

def test_masks_go_along():
    def mask(i): return TensorMask(tensor(xs[i]).long())
    block = DataBlock((ImageBlock(PILImageBW), TransformBlock), get_items=lambda _: range(40), get_x=lambda i: xs[i],
        get_y=mask, splitter=IndexSplitter([0]))
    dls = block.dataloaders(None, bs=8, device='cpu')
    learn = Learner(dls, nn.Conv2d(1, 256, 1), loss_func=CrossEntropyLossFlat(axis=1),
        cbs=AlternateFlip()).remove_cb(ProgressCallback)
    class Same(Callback):
        order,n = 20,0
        def after_pred(self):
            if not self.training: return
            assert torch.allclose(plain(self.x)[:,0]*255, plain(self.y).float(), atol=1e-3)
            self.n += 1
    with learn.no_logging(): learn.fit(2, 1e-4, cbs=(same := Same()))
    assert same.n==8

def test_weighted_loader_finds_its_items():
    learn = learner(drop_last=False)
    learn.dls.loaders[0] = learn.dls.train.new(cls=WeightedDL, wgts=np.arange(1, 101.))
    learn.add_cb(AlternateFlip())
    got = fit(learn, 6)
    res = {}
    for e,i,o in got:
        k = [torch.allclose(o, v, atol=1e-6) for v in (tensor(xs[i])/255., tensor(xs[i]).flip(1)/255.)].index(True)
        assert res.setdefault((i, e%2), k)==k
    assert all(res[i,0]!=res[i,1] for i,e in res if (i,0) in res and (i,1) in res)

def test_looked_at_and_exported(tmp_path):
    learn = learner(cbs=AlternateFlip(), drop_last=False)
    a,b = learn.show_train_batch(show=False),learn.show_train_batch(show=False)
    assert torch.equal(plain(a[0]), plain(b[0])) and 'get_idxs' not in vars(learn.dls.train)
    learn.show_train_batch(show=False, unique=True)
    with learn.no_logging(): learn.lr_find(show_plot=False, num_it=10)
    fit(learn, 1)
    want = learn.get_preds()[0]
    learn.path = tmp_path
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        learn.export()
        again = load_learner(tmp_path/'export.pkl')
    assert torch.equal(again.get_preds(dl=learn.dls.valid)[0], want)

def test_loaders_without_indices_are_refused():
    data = [(torch.rand(1,8,8), torch.rand(1)) for _ in range(8)]
    dl = torch.utils.data.DataLoader(data, batch_size=4)
    learn = Learner(DataLoaders(dl, dl), nn.Sequential(nn.Flatten(), nn.Linear(64, 1)), loss_func=MSELossFlat(),
        cbs=AlternateFlip())
    learn.remove_cb(ProgressCallback)
    with pytest.raises(ValueError, match="needs a DataLoader of fastai's"), learn.no_logging(): learn.fit(1)

class Skip50(ItemTransform):
    def encodes(self, o):
        if int(o[1])==50: raise SkipItemException
        return o

def test_batches_of_unknown_items_are_refused():
    "An item that is left out moves all that follow; the last batch shows it"
    learn = learner(drop_last=False, cbs=AlternateFlip())
    learn.dls.train.after_item.add(Skip50())
    with pytest.raises(ValueError, match="can't tell which items"), learn.no_logging(): learn.fit(1, 1e-4)
