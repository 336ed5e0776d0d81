"Ensembles are the exact mean of their members, stay learners, and refuse what does not belong together"
from fastai.vision.all import *
from copy import deepcopy
import contextlib, pytest, resource, signal, subprocess, sys, warnings, weakref

from safetensors.torch import save_model as save_safetensors
from fastai_ext.core import undisturbed
from fastai_ext.ensemble import EnsembleModel, ensemble, ensemble_preds, ensemble_report, fit_ensemble, fit_snapshots
from fastai_ext.ensemble import model_soup
from fastai_ext.augment import RandFlip
from fastai_ext.checkpoint import Checkpoint
from fastai_ext.erase import RandErase
from fastai_ext.precision import AutoPrecision
from fastai_ext.members import member_preds
from fastai_ext.tta import FlipTTA

def image(i): return torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(i))
def get_x(i): return TensorImage(image(i))
def get_y(i): return i%3

def net(nf, no=3):
    conv = nn.Conv2d(3, nf, 3, padding=1)
    return nn.Sequential(conv, nn.BatchNorm2d(nf), nn.ReLU(), nn.Flatten(), nn.Linear(nf*64, no))

held_out = IndexSplitter(range(13, 30))
def classes(splitter=held_out, get_x=get_x, get_y=get_y, **kwargs):
    return DataBlock((TransformBlock, CategoryBlock), get_x=get_x, get_y=get_y, splitter=splitter, **kwargs)

def refused(match): return pytest.raises(ValueError, match=match)

def make_dls(get_y=get_y, n=30):
    block = classes(IndexSplitter(range(13, n)), get_y=get_y)
    return block.dataloaders(list(range(n)), bs=4, num_workers=0)

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

@pytest.mark.slow
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

def alike(n, dls, path):
    res = [Learner(dls, net(4), metrics=accuracy, path=path) for _ in range(n)]
    for o in res: o.remove_cb(ProgressCallback)
    return res

def test_all_that_a_learner_does(learns, tmp_path):
    ens = ensemble(learns).remove_cb(ProgressCallback)
    preds = ens.get_preds()[0]
    assert torch.allclose(ens.predict(13)[2], preds[0], atol=1e-6)
    assert torch.allclose(Interpretation.from_learner(ens).losses, ens.get_preds(with_loss=True)[2])
    want = torch.stack([o.tta_flip()[0] for o in learns]).mean(0)
    assert torch.allclose(ens.tta_flip()[0], want, atol=1e-6)
    assert torch.allclose(ensemble_preds(learns, cbs=FlipTTA('h'))[0], want, atol=1e-6)
    for f in (ensemble_preds, member_preds, ensemble_report):
        with pytest.raises(TypeError, match="'h', which is no callback, as FlipTTA"): f(learns, cbs=[FlipTTA,'h'])
    one,two = (ensemble_report(learns, cbs=o).to_df() for o in (FlipTTA, [FlipTTA('h'), Callback()]))
    assert one.equals(two) and not one.equals(ensemble_report(learns).to_df())
    with ens.no_logging(): ens.fit(1)
    assert isinstance(ens.model, EnsembleModel) and ens.model.members[0] is learns[0].model

def test_paths_give_what_learners_give(learns, tmp_path):
    dl = learns[0].dls.valid
    want = ensemble_preds(learns, weights=[1,2,3])
    exported = []
    for i,o in enumerate(learns):
        o.export(f'{i}.pkl')
        exported.append(tmp_path/f'{i}.pkl')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        preds,targs = ensemble_preds([exported[0], learns[1], str(exported[2])], dl=dl, weights=[1,2,3])
    assert torch.equal(preds, want[0]) and torch.equal(targs, want[1])

@pytest.mark.parametrize('with_opt', [True, False])
def test_weights_are_put_back(learns, tmp_path, with_opt):
    same = alike(3, learns[0].dls, tmp_path)
    for o in same[:1]:
        with o.no_logging(): o.fit(1)
    files = [o.save(f'w{i}', with_opt=with_opt) for i,o in enumerate(same)]
    ref = alike(1, learns[0].dls, tmp_path)[0]
    before,ids = {k: v.clone() for k,v in ref.model.state_dict().items()},[id(p) for p in ref.model.parameters()]
    assert torch.equal(ensemble_preds(files, learn=ref)[0], ensemble_preds(same)[0])
    with contextlib.suppress(KeyboardInterrupt): ensemble_preds(files, learn=ref, cbs=Interrupt())
    assert all(torch.equal(v, before[k]) for k,v in ref.model.state_dict().items())
    assert [id(p) for p in ref.model.parameters()] == ids
    assert not L(ref.cbs).filter(risinstance(Interrupt))

class Interrupt(Callback):
    def after_pred(self):
        if self.iter == 1: raise KeyboardInterrupt

def test_interrupted_predictions_leave_the_members(learns):
    with learns[0].no_logging(): learns[0].fit(1)
    learns[0].model.train()
    losses,cbs = list(learns[0].recorder.losses),list(learns[0].cbs)
    rng = torch.get_rng_state()
    with pytest.raises(KeyboardInterrupt): ensemble_preds(learns, cbs=Interrupt())
    assert learns[0].model.training and learns[0].recorder.losses == losses and list(learns[0].cbs) == cbs
    assert torch.equal(torch.get_rng_state(), rng)

seen = SimpleNamespace(items=[])
class Reads:
    "Counts what is read, outside of the loaders, which have the attributes of twins meanwhile"
    def __call__(self, i):
        seen.items.append(i)
        return get_x(i)

def test_data_is_decoded_once(tmp_path):
    reads = Reads()
    block = DataBlock((TransformBlock, CategoryBlock), get_x=reads, get_y=get_y, splitter=IndexSplitter(range(13, 30)))
    learns = alike(4, block.dataloaders(list(range(30)), bs=4, num_workers=0), tmp_path)
    seen.items.clear()
    ensemble_preds(learns)
    assert sorted(seen.items) == list(range(13, 30))

class Scale(Transform):
    def __init__(self, by): self.by = by
    def encodes(self, x:TensorImage): return x*self.by

def test_members_with_their_own_transforms(tmp_path):
    set_seed(2)
    dlss = [classes(batch_tfms=Scale(by)).dataloaders(list(range(30)), bs=4, num_workers=0) for by in (1., 3., 1.)]
    learns = [alike(1, o, tmp_path)[0] for o in dlss]
    want = torch.stack(members(learns)).double().mean(0).float()
    assert torch.equal(ensemble_preds(learns)[0], want)
    assert torch.equal(ensemble_preds(learns, dl=dlss[0].valid)[0], want)
    with pytest.raises(ValueError, match='member 1 prepares its inputs by other transforms'): ensemble(learns)
    ensemble([learns[0], learns[2]])

def test_mismatches_say_which_member_and_what(learns, tmp_path):
    other = Learner(make_dls(lambda i: i%4), net(4, 4), path=tmp_path)
    for f in (ensemble, ensemble_preds):
        with refused(r'member 1 has another vocab.*: \[0, 1, 2, 3\], not \[0, 1, 2\]'): f([learns[0], other])
        with pytest.raises(ValueError, match='learns is empty'): f([])
        with pytest.raises(ValueError, match='2 weights for 3 members'): f(learns, weights=[1,2])
        with pytest.raises(ValueError, match='at least 0 and not all 0'): f(learns, weights=[1,2,-1])
        with pytest.raises(ValueError, match="avg='median' is neither"): f(learns, avg='median')
        with pytest.raises(TypeError, match='member 1 is a int'): f([learns[0], 3])
    bce = Learner(learns[0].dls, net(4), loss_func=BCEWithLogitsLossFlat())
    with pytest.raises(ValueError, match='member 1 has another activation'): ensemble([learns[0], bce])
    with refused('there is no file nowhere.pth'): ensemble_preds(['nowhere.pth'], learn=learns[0])

def test_other_items_are_refused(learns, tmp_path):
    fewer = alike(1, make_dls(n=28), tmp_path)[0]
    with refused('member 1 has 15 items to predict and member 0 has 17'): ensemble_preds([learns[0], fewer])
    block = classes(IndexSplitter([*range(13, 20), *reversed(range(20, 30))]))
    moved = alike(1, block.dataloaders(list(range(30)), bs=4, num_workers=0), tmp_path)[0]
    with refused('member 1 has another item at place 7 than member 0, 29, not 20'): ensemble_preds([learns[0], moved])

def test_shuffled_loader_comes_back_in_order(learns):
    dl = learns[0].dls.train.new(drop_last=False)
    assert torch.allclose(ensemble_preds(learns, dl=dl)[0], torch.stack(members(learns, ds_idx=0)).mean(0), atol=1e-6)

def small_fit(learn):
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-2)

calls = SimpleNamespace(n=0, stop=None)
def counted_fit(learn):
    calls.n += 1
    if calls.n == calls.stop: raise KeyboardInterrupt
    small_fit(learn)

@pytest.mark.parametrize('tfm', [None, RandErase, RandFlip])
def test_resumed_members_are_those_of_an_uninterrupted_run(tmp_path, tfm):
    "Also with loaders that the members share, and their transforms"
    dls = make_dls()
    if tfm: dls.train.after_batch.add(tfm())
    def make(): return alike(1, dls, tmp_path)[0]
    rng,calls.n,calls.stop = torch.get_rng_state(),0,None
    whole = fit_ensemble(make, 3, counted_fit, path=tmp_path/'a')
    assert torch.equal(torch.get_rng_state(), rng)
    calls.n,calls.stop = 0,3
    with pytest.raises(KeyboardInterrupt): fit_ensemble(make, 3, counted_fit, path=tmp_path/'b')
    names = [f'member_seed{i}.{o}' for i in (0,1) for o in ('json','pth')]
    assert sorted(o.name for o in (tmp_path/'b').iterdir()) == names
    resumed = fit_ensemble(make, 3, counted_fit, path=tmp_path/'b')
    assert calls.n == 4
    for o in zip(whole, resumed):
        a,b = (m.model.state_dict().values() for m in o)
        assert all(map(torch.equal, a, b))
    assert not torch.equal(whole[0].model[0].weight, whole[1].model[0].weight)
    with pytest.raises(ValueError, match='n=0'): fit_ensemble(make, 0, small_fit)

class Halt(Callback):
    "Interrupts in the batch `at` of all that are trained"
    at,n = None,0
    def before_batch(self):
        Halt.n += self.training
        if Halt.n == Halt.at: raise KeyboardInterrupt

def tune(learn, lr=1e-2):
    with learn.no_bar(), learn.no_logging(): learn.fine_tune(2, lr)

def groups(m): return [params(m[0]), params(m[1:])]

@pytest.mark.parametrize('at', [1, 5, 9])
def test_a_member_goes_on_in_the_middle(tmp_path, monkeypatch, at):
    "In any of its fits, which have one epoch and two of three batches each; the files of that go when it is trained"
    dls = make_dls()
    def make(): return Learner(dls, net(4), path=tmp_path, splitter=groups, cbs=Halt).remove_cb(ProgressCallback)
    monkeypatch.setattr(Halt, 'n', 0)
    whole = fit_ensemble(make, 2, tune, path=tmp_path/'a')
    assert Halt.n == 18
    monkeypatch.setattr(Halt, 'at', 27+at)
    with pytest.raises(KeyboardInterrupt): fit_ensemble(make, 2, tune, path=tmp_path/'b')
    assert (tmp_path/'b'/'member_seed1.ckpt').is_file() and not (tmp_path/'b'/'member_seed1.pth').exists()
    other = shutil.copytree(tmp_path/'b', tmp_path/'c')
    (other/'member_seed0.json').unlink() # what is told of a trained member would differ too
    run = partial(fit_ensemble, make, 2, partial(tune, lr=.1), path=other)
    with refused('member_seed1.ckpt is of a fit of another kind: .*lr'): run()
    monkeypatch.setattr(Halt, 'n', 0)
    resumed = fit_ensemble(make, 2, tune, path=tmp_path/'b')
    assert Halt.n == 9 - (at-1)//3*3
    for o in zip(whole, resumed):
        a,b = (m.model.state_dict().values() for m in o)
        assert all(map(torch.equal, a, b))
    names = [f'member_seed{i}.{o}' for i in (0,1) for o in ('json','pth')]
    assert sorted(o.name for o in (tmp_path/'b').iterdir()) == names

def test_seeds_of_ones_own(tmp_path):
    "The members are those of consecutive seeds that have the same"
    dls = make_dls()
    def make(): return alike(1, dls, tmp_path)[0]
    all3 = fit_ensemble(make, 3, small_fit, path=tmp_path/'a', seed=4)
    two = fit_ensemble(make, 2, small_fit, path=tmp_path/'b', seed=[6, 4])
    for a,b in zip((all3[2], all3[0]), two): assert torch.equal(a.model[0].weight, b.model[0].weight)
    for o in ([1], [1, 1], [1, 2, 3]):
        with refused('expected 2 different ones'): fit_ensemble(make, 2, small_fit, path=tmp_path/'c', seed=o)

def test_members_that_were_loaded_and_trained_go_together(tmp_path):
    dls = make_dls()
    def make(): return alike(1, dls, tmp_path)[0].add_cb(AutoPrecision(torch.bfloat16))
    fit_ensemble(make, 1, small_fit, path=tmp_path/'a')
    learns = fit_ensemble(make, 2, small_fit, path=tmp_path/'a')
    assert len(ensemble(learns).model.members) == 2

def test_what_was_trained_before_is_said_or_trained_anew(tmp_path, capsys):
    dls = make_dls()
    def make(): return alike(1, dls, tmp_path)[0]
    calls.n,calls.stop = 0,None
    first = fit_ensemble(make, 2, counted_fit, path=tmp_path/'a')
    assert 'trained before' not in capsys.readouterr().out
    again = fit_ensemble(make, 2, counted_fit, path=tmp_path/'a')
    assert capsys.readouterr().out.count('was trained before and is loaded') == 2 and calls.n == 2
    assert torch.equal(again[1].model[0].weight, first[1].model[0].weight)
    fit_ensemble(make, 2, counted_fit, path=tmp_path/'a', retrain=True)
    assert calls.n == 4
    other = Learner(dls, net(7), path=tmp_path)
    with refused('of another net.*retrain=True'): fit_ensemble(lambda: other, 1, counted_fit, path=tmp_path/'a')
    (tmp_path/'a'/'member_seed0.pth').write_bytes(b'half')
    with pytest.raises(ValueError, match='damaged'): fit_ensemble(make, 1, counted_fit, path=tmp_path/'a')

@pytest.mark.parametrize('suffix', ['.json','.pth'])
def test_interrupted_while_a_member_is_replaced(tmp_path, monkeypatch, suffix):
    "Old weights are never taken for what was trained in the new way, nor new ones for the old"
    dls,move = make_dls(),Path.replace
    def make(): return alike(1, dls, tmp_path)[0]
    old,new = lambda learn: [small_fit(learn), 1],lambda learn: [small_fit(learn), small_fit(learn), 2]
    fit_ensemble(make, 1, old, path=tmp_path/'a')
    def interrupted(part, target):
        if Path(target).suffix == suffix: raise KeyboardInterrupt
        return move(part, target)
    with monkeypatch.context() as m:
        m.setattr(Path, 'replace', interrupted)
        with pytest.raises(KeyboardInterrupt): fit_ensemble(make, 1, new, path=tmp_path/'a', retrain=True)
    want = fit_ensemble(make, 1, new, path=tmp_path/'b')[0].model[0].weight
    assert torch.equal(fit_ensemble(make, 1, new, path=tmp_path/'a')[0].model[0].weight, want)

def fit_for(learn, epochs=1): small_fit(learn)
n_epochs = 1

def test_members_trained_in_another_way_are_refused(tmp_path):
    "Numbers in the functions, in partials, defaults, closures and of the notebook; what can't be told is trusted"
    dls,lr = make_dls(),.01
    def make(): return alike(1, dls, tmp_path)[0]
    def fits(k):
        rate = lr*k
        by_default,from_outside = lambda learn, rate=rate: small_fit(learn),lambda learn: [small_fit(learn), rate]
        return [partial(fit_for, epochs=k), by_default, from_outside]
    for i,(same,also,other) in enumerate(zip(fits(1), fits(1), fits(2))):
        fit_ensemble(make, 1, same, path=tmp_path/str(i))
        fit_ensemble(make, 1, also, path=tmp_path/str(i))
        with refused('another way: (epochs|default 0|rate) of fit'): fit_ensemble(make, 1, other, path=tmp_path/str(i))
    fit_ensemble(make, 1, lambda learn: [small_fit(learn), n_epochs], path=tmp_path/'g')
    try:
        globals()['n_epochs'] = 2
        with refused('n_epochs of fit was 1, and is 2 now'):
            fit_ensemble(make, 1, lambda learn: [small_fit(learn), n_epochs], path=tmp_path/'g')
    finally: globals()['n_epochs'] = 1
    (tmp_path/'g'/'member_seed0.json').unlink()
    fit_ensemble(make, 1, lambda learn: 1/0, path=tmp_path/'g')

def test_report_is_what_validate_says(learns):
    rep = ensemble_report(learns)
    ens = ensemble(learns).remove_cb(ProgressCallback)
    for i,o in enumerate([*learns, ens]):
        assert rep.to_df().loc[i, ['loss','accuracy']].tolist() == pytest.approx(list(o.validate()), abs=1e-5)
    said = re.findall(r'(\d+)(?: ×(\d+))?', rep.to_df()['members'][4].removeprefix('chosen: '))
    assert [int(i) for i,k in said for _ in range(int(k or 1))] == sorted(rep.chosen)
    chosen = ensemble(learns, weights=rep.weights).remove_cb(ProgressCallback)
    loss = rep.to_df()['loss']
    assert loss[4] == pytest.approx(chosen.validate()[0], abs=1e-5) and loss[4] <= loss[:3].min()+1e-6
    decoded = [o.argmax(1) for o in members(learns)]
    apart = [(decoded[0] != o).float().mean().item() for o in decoded]
    assert rep.disagreement[0].tolist() == pytest.approx(apart) and max(apart) > 0 == apart[0]

def test_soup_averages_weights_and_renews_the_statistics(tmp_path):
    set_seed(5)
    learns = alike(2, make_dls(), tmp_path)
    for o in learns: small_fit(o)
    state = [{k: v.clone() for k,v in o.model.state_dict().items()} for o in learns]
    losses,rng = list(learns[0].recorder.losses),learns[0].dls.train.rng.getstate()
    soup = model_soup(learns, weights=[1,3])
    assert torch.allclose(soup.model[0].weight, (state[0]['0.weight'] + 3*state[1]['0.weight'])/4, atol=1e-7)
    for o,s in zip(learns, state): assert all(torch.equal(v, s[k]) for k,v in o.model.state_dict().items())
    assert learns[0].recorder.losses == losses and learns[0].dls.train.rng.getstate() == rng
    ref = deepcopy(soup.model)
    with undisturbed(learns[0]): torch.optim.swa_utils.update_bn(learns[0].dls.train, ref)
    assert torch.allclose(ref[1].running_mean, soup.model[1].running_mean, atol=1e-6)
    assert torch.allclose(ref[1].running_var, soup.model[1].running_var, atol=1e-6) and soup.model[1].momentum == .1

def test_one_model_at_a_time(learns, tmp_path, monkeypatch):
    import fastai_ext.members as module
    for i in range(3): learns[i].export(f'{i}.pkl')
    alive,loaded = [],[]
    def load(*args, **kwargs):
        alive.append(sum(r() is not None for r in loaded))
        res = load_learner(*args, **kwargs)
        loaded.append(weakref.ref(res.model))
        return res
    monkeypatch.setattr(module, 'load_learner', load)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        ensemble_preds([tmp_path/f'{i}.pkl' for i in range(3)], dl=learns[0].dls.valid)
    assert len(alive) == 6 and not any(alive)

def test_stacked_members_give_the_same(tmp_path):
    same = alike(3, make_dls(), tmp_path)
    for o in same[:1]:
        with o.no_logging(): o.fit(1)
    seq,stacked = (ensemble(same, weights=[1,0,2], stack=o).remove_cb(ProgressCallback) for o in (False,True))
    assert torch.allclose(seq.get_preds()[0], stacked.get_preds()[0], rtol=0, atol=1e-6)
    assert list(stacked.validate()) == pytest.approx(list(seq.validate()), abs=1e-5)
    assert stacked.model.members[0] is same[0].model and all(p.requires_grad for p in stacked.model.parameters())
    with stacked.no_logging(): stacked.fit(1)

def test_stacking_runs_once_for_all_members(tmp_path):
    same,calls = alike(3, make_dls(), tmp_path),[]
    for o in same: o.model.register_forward_hook(lambda *_: calls.append(1))
    ens = ensemble(same, stack=True).remove_cb(ProgressCallback)
    ens.get_preds()
    assert len(calls) == len(ens.dls.valid)

def test_other_architectures_do_not_stack(learns):
    with pytest.raises(ValueError, match='member 1 has another architecture'): ensemble(learns, stack=True)

class Dark(Callback):
    "Changes what the model is given, in validation too"
    def __init__(self, by): self.by = by
    def before_batch(self): self.learn.xb = (self.xb[0]*self.by,)

def test_callbacks_that_change_predictions_go_along(learns):
    for o in learns: o.add_cb(Dark(.5))
    ens = ensemble(learns).remove_cb(ProgressCallback)
    assert torch.allclose(ens.get_preds()[0], torch.stack(members(learns)).mean(0), atol=1e-6)
    assert torch.allclose(ens.get_preds()[0], ensemble_preds(learns)[0], atol=1e-6)
    darks = [o.cbs.filter(risinstance(Dark))[0] for o in (ens, learns[0])]
    assert darks[0] is not darks[1] and learns[0].dark.learn is learns[0]

def test_members_with_other_callbacks_are_refused(learns):
    learns[0].add_cb(Dark(.5))
    learns[1].add_cb(Dark(.25))
    with pytest.raises(ValueError, match='member 1 predicts with other callbacks'): ensemble(learns[:2])
    with pytest.raises(ValueError, match='member 1 predicts with other callbacks'): ensemble([learns[0], learns[2]])

class Exp(CrossEntropyLossFlat):
    def activation(self, x): return x.exp()

def test_an_own_activation_can_average_raw_outputs(tmp_path):
    dls = make_dls()
    own = [Learner(dls, net(4), loss_func=Exp(), path=tmp_path).remove_cb(ProgressCallback) for _ in range(2)]
    want = torch.stack(members(own, act=noop)).mean(0).exp()
    assert torch.allclose(ensemble(own, avg='logits').remove_cb(ProgressCallback).get_preds()[0], want, atol=1e-6)
    with pytest.raises(ValueError, match="avg='logits'"): ensemble(own)
    assert torch.allclose(ensemble_preds(own, avg='logits')[0], want, atol=1e-6)
    other = Learner(dls, net(4), path=tmp_path)
    with pytest.raises(ValueError, match='member 1 has another activation'): ensemble([own[0], other], avg='logits')

# Preprocessing: a decoded batch is shared only where the pipelines are provably the same

def scaled_learner(k, path, **kwargs):
    block = classes(get_x=lambda i: TensorImage(get_x(i)*k), **kwargs)
    return alike(1, block.dataloaders(list(range(30)), bs=4, num_workers=0), path)[0]

def test_constants_of_functions_count(tmp_path):
    "The functions have the same code and names; what the one around holds differs"
    learns = [scaled_learner(k, tmp_path) for k in (1, 9)]
    want = torch.stack(members(learns)).double().mean(0).float()
    assert torch.equal(ensemble_preds(learns)[0], want)
    for dl in (learns[0].dls.valid, learns[1].dls.valid, learns[0].dls.test_dl(list(range(13, 30)))):
        for order in (learns, learns[::-1]): assert torch.allclose(ensemble_preds(order, dl=dl)[0], want, atol=1e-6)
    with pytest.raises(ValueError, match='or by such as'): ensemble(learns)
    assert len(ensemble([scaled_learner(2, tmp_path) for _ in range(2)]).model.members) == 2

def test_labels_are_kept_in_any_order(tmp_path):
    learns = [scaled_learner(k, tmp_path) for k in (1, 9)]
    dl = learns[0].dls.test_dl(list(range(13, 30)), with_labels=True)
    for order in (learns, learns[::-1]):
        assert ensemble_preds(order, dl=dl)[1].tolist() == [get_y(i) for i in range(13, 30)]
        assert len(ensemble_report(order, dl=dl).to_df()) == 4

def test_tables_with_statistics_of_their_own(tmp_path):
    from fastai.tabular.all import TabularDataLoaders, Normalize, tabular_learner
    rng = np.random.default_rng(0)
    df = pd.DataFrame(dict(b=rng.normal(size=40)*5+3, c=rng.normal(size=40), y=np.arange(40)%2))
    def _learner(rows):
        part = pd.concat([df.iloc[rows], df.iloc[30:]], ignore_index=True)
        dls = TabularDataLoaders.from_df(part, procs=[Normalize], cont_names=['b','c'], y_names='y', bs=4,
            y_block=CategoryBlock(), valid_idx=range(15, 25))
        return tabular_learner(dls, layers=[8], path=tmp_path).remove_cb(ProgressCallback)
    learns = [_learner(range(15)), _learner(range(15, 30))]
    want = torch.stack(members(learns)).mean(0)
    assert torch.allclose(ensemble_preds(learns)[0], want, atol=1e-6)
    assert torch.allclose(ensemble_preds(learns, dl=df.iloc[30:])[0], want, atol=1e-6)
    prepared = learns[0].dls.test_dl(df.iloc[30:])
    with refused('of a table the DataFrame'): ensemble_preds(learns, dl=prepared)

def test_one_member_is_not_a_list_of_letters(learns, tmp_path):
    for f in (ensemble, ensemble_preds, ensemble_report, model_soup):
        for o in ('a.pkl', Path('a.pkl'), learns[0]):
            with pytest.raises(TypeError, match='put it in a list'): f(o)
    with pytest.raises(ValueError, match='rounds=0'): ensemble_report(learns, rounds=0)
    for w in ([1,math.nan,1], [1,math.inf,1], [1e308,1e308,1e308]):
        with pytest.raises(ValueError, match='at least 0'): ensemble(learns, weights=w)
    assert len(ensemble_report(o for o in learns).to_df()) == 5

def test_full_disk_is_an_error_of_the_system(tmp_path):
    "A limit on the size of files stands for it; the weights are there whole or not at all"
    dls,old = make_dls(),resource.getrlimit(resource.RLIMIT_FSIZE)
    def _fit(learn):
        small_fit(learn)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, old[1]))
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with pytest.raises(OSError): fit_ensemble(lambda: Learner(dls, net(60)), 1, _fit, path=tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
        signal.signal(signal.SIGXFSZ, ignored)
    assert not list(tmp_path.glob('*.pth')) and not list(tmp_path.glob('part-*'))

def test_soup_for_a_learner_with_other_classes(learns, tmp_path):
    other = Learner(make_dls(lambda i: 'abc'[i%3]), net(4), path=tmp_path)
    with refused('`learn` has another vocab than member 0'): model_soup(alike(2, learns[0].dls, tmp_path), learn=other)

def tied():
    "A net whose two layers share their weight"
    res = nn.Sequential(nn.Flatten(), nn.Linear(192, 192), nn.Linear(192, 192), nn.Linear(192, 3))
    res[2].weight = res[1].weight
    return res

@pytest.mark.parametrize('make', [lambda: net(4), tied])
def test_members_of_safetensors(tmp_path, make):
    "As `safetensors.torch.save_model` writes them, beside Learners and files of fastai's"
    set_seed(1)
    dls = make_dls()
    learns = [Learner(dls, make(), path=tmp_path, model_dir='.') for _ in range(3)]
    for o in learns: o.remove_cb(ProgressCallback)
    files = [tmp_path/f'{i}.safetensors' for i in range(2)]
    for o,f in zip(learns, files): save_safetensors(o.model, f)
    last = learns[2].save('2')
    ref = Learner(dls, make(), path=tmp_path)
    before = [p.clone() for p in ref.model.parameters()]
    want = torch.stack(members(learns)).double().mean(0).float()
    assert torch.equal(ensemble_preds([*files, last], learn=ref)[0], want)
    soup = model_soup([files[0], learns[1], last], learn=ref)
    params = zip(*[o.model.parameters() for o in learns])
    for p,ps in zip(soup.model.parameters(), params): assert torch.allclose(p, torch.stack(ps).mean(0), atol=1e-6)
    assert all(map(torch.equal, ref.model.parameters(), before))
    with refused('pass `learn=`'): model_soup(files)
    files[1].write_bytes(files[1].read_bytes()[:-9])
    for f in (ensemble_preds, model_soup):
        with refused(f'{files[1].name} is damaged'): f(files, learn=ref)
    save_safetensors(net(5), files[1])
    with refused('member 1 does not fit'): model_soup(files, learn=ref)

def test_soup_of_loaded_learners_needs_data(learns, tmp_path):
    for i in range(2): alike(1, learns[0].dls, tmp_path)[0].export(f'{i}.pkl')
    loaded = [load_learner(tmp_path/f'{i}.pkl') for i in range(2)]
    with pytest.raises(ValueError, match='pass `dl=`'): model_soup(loaded)
    soup = model_soup(loaded, dl=learns[0].dls.train)
    assert soup.model[1].running_mean.abs().sum() > 0 and (soup.model[1].running_var != 1).all()

def test_models_that_return_more_than_the_output(tmp_path):
    "As those for text do, whose callback takes the first"
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = net(4)
        def forward(self, x): return self.body(x),x.mean()
    class First(Callback):
        def after_pred(self): self.learn.pred = self.pred[0]
    dls = make_dls()
    learns = [Learner(dls, Two(), path=tmp_path, cbs=First()).remove_cb(ProgressCallback) for _ in range(2)]
    want = torch.stack(members(learns)).mean(0)
    assert torch.allclose(ensemble_preds(learns)[0], want, atol=1e-6)
    ens = ensemble(learns).remove_cb(ProgressCallback)
    assert torch.allclose(ens.get_preds()[0], want, atol=1e-6)

def test_an_ensemble_predicts_rows_of_a_table(tmp_path):
    from fastai.tabular.all import TabularDataLoaders, Normalize, tabular_learner
    df = pd.DataFrame(dict(b=np.arange(24.), y=np.arange(24)%2))
    dls = TabularDataLoaders.from_df(df, procs=[Normalize], cont_names=['b'], y_names='y', bs=4,
        y_block=CategoryBlock(), valid_idx=range(8))
    learns = [tabular_learner(dls, layers=[4], path=tmp_path).remove_cb(ProgressCallback) for _ in range(2)]
    ens = ensemble(learns).remove_cb(ProgressCallback)
    assert len(ens.predict(df.iloc[0])) == 3

def test_a_loader_over_other_data_with_other_transforms_is_refused(tmp_path):
    "What a plain list holds is prepared already, so a member that prepares in another way can't start afresh"
    def _learner(by):
        ds = [(get_x(i), tensor(get_y(i))) for i in range(30)]
        kwargs = dict(bs=4, num_workers=0, after_batch=[Scale(by)], do_setup=False)
        dls = DataLoaders(*[TfmdDL(o, **kwargs) for o in (ds[:13], ds[13:])])
        return Learner(dls, net(4), loss_func=CrossEntropyLossFlat(), path=tmp_path).remove_cb(ProgressCallback)
    learns,same = [_learner(1.), _learner(3.)],[_learner(1.), _learner(1.)]
    ds = [(get_x(i), tensor(get_y(i))) for i in range(13, 30)]
    dl = TfmdDL(ds, bs=4, num_workers=0, after_batch=[Scale(1.)], do_setup=False)
    with pytest.raises(ValueError, match='member 1 prepares its items in another way'): ensemble_preds(learns, dl=dl)
    want = torch.stack([o.get_preds(dl=dl)[0] for o in same]).mean(0)
    assert torch.allclose(ensemble_preds(same, dl=dl)[0], want, atol=1e-6)
    want = torch.stack(members(learns)).mean(0)
    assert torch.allclose(ensemble_preds(learns)[0], want, atol=1e-6)

# Snapshots

class Batches(Callback):
    "The training batches of a fit"
    def before_fit(self): self.seen = []
    def before_batch(self):
        if self.training: self.seen.append([o.as_subclass(Tensor) for o in (*self.xb, *self.yb)])

def test_snapshots_are_those_of_a_plain_loop(tmp_path):
    "Of PyTorch's own optimizer and scheduler, on the same batches"
    learn,seen = Learner(make_dls(), net(4), opt_func=partial(SGD, mom=0.), path=tmp_path),Batches()
    model,members = deepcopy(learn.model),[]
    with learn.no_bar(), learn.no_logging(): got = fit_snapshots(learn, 3, 2, .05, cbs=seen)
    opt = torch.optim.SGD(model.parameters(), lr=.05, weight_decay=0)
    sched = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(opt, T_0=len(seen.seen)//3)
    for i,(x,y) in enumerate(seen.seen, 1):
        F.cross_entropy(model(x), y).backward()
        opt.step()
        opt.zero_grad()
        sched.step()
        if i%(len(seen.seen)//3) == 0: members.append(deepcopy(model))
    assert len(got) == 3 and len(seen.seen) == 6*len(learn.dls.train)
    for a,b in zip(got, members):
        for p,q in zip(a.model.state_dict().values(), b.state_dict().values()): assert torch.allclose(p, q, atol=1e-6)
    assert torch.equal(got[2].model[0].weight, learn.model[0].weight) and got[2].model is not learn.model
    with got[0].no_bar(): preds = ensemble_preds(got)[0]
    hand = torch.stack([o.eval()(torch.stack([image(i) for i in range(13,30)])).softmax(1) for o in members]).mean(0)
    assert torch.allclose(preds, hand, atol=1e-5)

@pytest.mark.parametrize('args,match', [((1,1), 'n_cycles=1'), ((2,0), 'cycle_len=0'), ((2.,1), 'n_cycles=2.0')])
def test_snapshots_need_cycles(learns, args, match):
    with refused(match): fit_snapshots(learns[0], *args)

class Stop(Callback):
    def before_batch(self): raise CancelFitException

def test_a_training_that_stops_early_has_no_snapshots(learns):
    with refused('cancelled in cycle 1 of 2'): fit_snapshots(learns[0], 2, 1, cbs=Stop())

class PowerCut(Callback):
    "In the first batch of the second epoch, the first time"
    stop = True
    def before_batch(self):
        if self.epoch == 1 and PowerCut.stop: raise KeyboardInterrupt

def test_snapshots_of_a_training_that_was_resumed(tmp_path):
    def _snapshots(name):
        set_seed(4)
        learn = Learner(make_dls(), net(4), path=tmp_path)
        return fit_snapshots(learn.remove_cb(ProgressCallback), 2, 1, .05, cbs=[PowerCut(), Checkpoint(tmp_path/name)])
    PowerCut.stop = False
    want = _snapshots('a')
    PowerCut.stop = True
    with pytest.raises(KeyboardInterrupt): _snapshots('b')
    PowerCut.stop = False
    for a,b in zip(want, _snapshots('b'), strict=True):
        for p,q in zip(a.model.state_dict().values(), b.model.state_dict().values()): assert torch.equal(p, q)
