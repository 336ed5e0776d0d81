"For every kind of learner the ensemble is the mean of the members' own predictions, from memory, from files, mixed"
import pytest, warnings
from fastai.vision.all import *
from fastai_ext.ensemble import *
from fastai_ext.members import member_preds
from kinds import everything, kinds, make

def mean_of(learns): return torch.stack([o.get_preds()[0].double() for o in learns]).mean(0)

@pytest.mark.parametrize('kind', kinds)
def test_mean_of_the_members_own_predictions(kind):
    "17 items in batches of 4"
    learns = make(kind)
    preds,targs = ensemble_preds(learns)
    assert len(preds) == 17 and torch.allclose(preds.double(), mean_of(learns), rtol=0, atol=1e-6)
    assert all(torch.equal(a, b) for a,b in zip(L(targs), L(learns[0].get_preds()[1])))
    weighted = ensemble_preds(learns, weights=[1,0,3])[0].double()
    a,_,c = (o.get_preds()[0].double() for o in learns)
    assert torch.allclose(weighted, (a+3*c)/4, rtol=0, atol=1e-6)
    assert not torch.allclose(weighted, preds.double(), atol=1e-4)

@pytest.mark.slow
@pytest.mark.parametrize('kind', kinds)
def test_files_and_learners_mixed(kind, tmp_path):
    learns = make(kind)
    want,files = mean_of(learns),[]
    for i,o in enumerate(learns):
        o.path = tmp_path
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            o.export(f'{i}.pkl')
        files.append(tmp_path/f'{i}.pkl')
    dl = everything(kind, learns)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        for members in ([files[0], learns[1], str(files[2])], files, learns):
            assert torch.allclose(ensemble_preds(members, dl=dl)[0].double(), want, rtol=0, atol=1e-6)

@pytest.mark.parametrize('kind', [k for k in kinds if k not in ('normalised','callback','tabular')])
def test_one_learner_of_all(kind):
    "Where the members prepare and predict alike; else it is refused"
    learns = make(kind)
    ens = ensemble(learns).remove_cb(ProgressCallback)
    assert torch.allclose(ens.get_preds()[0].double(), mean_of(learns), rtol=0, atol=1e-6)

@pytest.mark.parametrize('kind', ['normalised','callback','tabular'])
def test_members_that_differ_are_no_learner(kind):
    with pytest.raises(ValueError, match='ensemble_preds'): ensemble(make(kind))

def test_a_member_without_weight_may_be_broken():
    learns = make('classes')
    with torch.no_grad(): learns[1].model[0].weight.fill_(math.nan)
    want = ensemble_preds([learns[0], learns[2]])[0]
    assert torch.equal(ensemble_preds(learns, weights=[1,0,1])[0], want) and want.isfinite().all()

@pytest.mark.parametrize('suffix', ['pkl','pth'])
@pytest.mark.parametrize('content', [b'', b'no file of ours', b'\x80\x04K\x01.'])
def test_damaged_files_are_named(tmp_path, suffix, content):
    learns = make('classes', 2)
    f = tmp_path/f'broken.{suffix}'
    f.write_bytes(content)
    with pytest.raises(ValueError, match=rf'member 1: .*broken.{suffix} is damaged'), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        ensemble_preds([learns[0], f], dl=learns[0].dls.valid, learn=learns[1])

def frames(k=1.): return [pd.DataFrame(dict(a=[i*k, 1.], b=i%3)) for i in range(12)]

def test_items_that_are_tables():
    def _make(items):
        def _x(o): return tensor(o['a'].values).float()
        block = DataBlock((TransformBlock,CategoryBlock), get_x=_x, get_y=lambda o: int(o['b'][0]),
            splitter=IndexSplitter(range(6, 12)), batch_tfms=[])
        return Learner(block.dataloaders(items, bs=4), nn.Linear(2, 3)).remove_cb(ProgressCallback)
    a,b,c = _make(frames()),_make(frames()),_make(frames(3.))
    assert torch.allclose(ensemble_preds([a, b])[0], (a.get_preds()[0]+b.get_preds()[0])/2, atol=1e-6)
    with pytest.raises(ValueError, match='another item at place 0'): ensemble_preds([a, c])

class Bytes(Transform):
    def encodes(self, x:TensorImage): return (x*255).byte()

def test_batches_are_kept_as_bytes(monkeypatch, capsys):
    "Before they become floats; and not at all where there is no room, which is said"
    from fastai.vision.all import IntToFloatTensor
    import shutil
    sizes = []
    def _save(b, f):
        sizes.append(b[0].dtype)
        return save(b, f)
    save = torch.save
    learns = make('classes', 3)
    for o in learns:
        o.dls.valid.after_item.add(Bytes())
        o.dls.valid.after_batch.add(IntToFloatTensor())
    dl = learns[0].dls.valid
    want = torch.stack([o.get_preds(dl=dl)[0].double() for o in learns]).mean(0)
    monkeypatch.setattr(torch, 'save', _save)
    assert torch.allclose(ensemble_preds(learns, dl=dl)[0].double(), want, atol=1e-6)
    assert sizes == [torch.uint8]*5 and 'anew' not in capsys.readouterr().out
    usage = shutil.disk_usage('.')
    monkeypatch.setattr(shutil, 'disk_usage', lambda _: usage._replace(free=10))
    assert torch.allclose(ensemble_preds(learns, dl=dl)[0].double(), want, atol=1e-6)
    assert sizes == [torch.uint8]*8 and 'decodes the items anew' in capsys.readouterr().out

def test_members_one_by_one():
    learns = make('multi')
    for (p,t),o in zip(member_preds(learns, act=noop), learns):
        want = o.get_preds(act=noop)
        assert torch.equal(p, want[0]) and torch.equal(t, want[1])
