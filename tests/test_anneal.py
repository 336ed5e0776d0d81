"`GradAnneal` beside its rule worked out by hand, and in the places where a scheduler has to work"
import pytest
from fastai.vision.all import *
from fastai_ext.anneal import *
from test_schedule import CpuScaler, Interrupt, Look, Net, close, learner, lrs3, n_batches, quiet, rates

class Scale(Callback):
    "Gradients whose squares are, in each epoch, as asked for"
    order = 5
    def __init__(self, sqrs): self.sqrs = sqrs
    def before_step(self):
        for p in self.model.parameters(): p.grad.fill_(self.sqrs[self.epoch]**.5)

@pytest.mark.parametrize('groups', [1,3])
def test_grad_anneal(groups):
    "The rule by hand: a quarter of the rate when the lowest epoch mean has halved since the last change, to the floor"
    sqrs = [8.,5.,3.9,9.,2.5,1.9,.5,.1,.01]
    want = [1,1,1,1/4,1/4,1/4,1/16,1/64,.01]
    lrs = np.array(lrs3) if groups==3 else np.array([.1])
    cb,learn = GradAnneal(floor=.01),learner(groups)
    r = rates(learn, len(sqrs), Scale(sqrs), cb, lr=lrs if groups==3 else .1)
    np.testing.assert_allclose(cb.sqr_grads, sqrs, rtol=1e-5)
    np.testing.assert_allclose(r.lrs(), np.repeat(want, n_batches)[:,None]*lrs, rtol=1e-6)
    np.testing.assert_allclose(learn.recorder.hps['lr'], r.lrs()[:,-1])
    assert [h['lr'] for h in learn.opt.hypers] == lrs.tolist()

def test_grad_anneal_factor_and_ratio():
    r = rates(learner(), 4, Scale([8.,5.,1.,1.]), GradAnneal(factor=10, ratio=.7), lr=.1)
    np.testing.assert_allclose(r.lrs()[::n_batches,0], [.1,.1,.01,.001], rtol=1e-6)

def test_grad_anneal_measures_all_elements():
    "The mean over elements and batches, beside a plain loop; the last batch's can be recorded"
    want,cb,seen = [],GradAnneal(),[]
    def hand(self): want.append(torch.cat([p.grad.flatten() for p in self.model.parameters()]).square().mean().item())
    def keep(self): seen.append(float(self.grad_anneal.sqr_grad))
    quiet(learner(), 1, Callback(before_step=hand), cb, Callback(after_step=keep))
    np.testing.assert_allclose(cb.sqr_grads, [np.mean(want)], rtol=1e-5)
    np.testing.assert_allclose(seen, want, rtol=1e-5)

def test_grad_anneal_with_fp16_accumulation_and_resumed(tmp_path):
    "Unscaled gradients of the steps that are made; a resumed fit goes on where it was"
    a,b = GradAnneal(),GradAnneal()
    net = Net()
    quiet(learner(net=deepcopy(net)), 1, a)
    quiet(learner(net=deepcopy(net)), 1, CpuScaler([]), b)
    np.testing.assert_allclose(a.sqr_grads, b.sqr_grads, rtol=1e-5)
    quiet(learner(), 1, GradientAccumulation(16), c := GradAnneal())
    assert c.n_steps == 3
    sqrs = [8.,5.,4.,2.5,1.9,.5,.1]
    save = SaveModelCallback(every_epoch=True, with_opt=True)
    whole = rates(learner(path=tmp_path), 7, Scale(sqrs), GradAnneal(), save)
    new = learner(path=tmp_path).load('model_4')
    close(rates(new, 7, Scale(sqrs), GradAnneal(), start_epoch=5).lrs(), whole.lrs()[5*n_batches:])

def test_grad_anneal_refuses():
    cases = dict(factor='more than 1, got 1', ratio='between 0 and 1, got 1', floor='a share of the rates.*got 2')
    for (k,words),v in zip(cases.items(), (1,1,2)):
        with pytest.raises(ValueError, match=f'{k} is {words}'): GradAnneal(**{k:v})

@pytest.mark.parametrize('order', [0,75])
@pytest.mark.parametrize('how', ['validate','get_preds'])
def test_grad_anneal_with_a_validation_within_the_fit(how, order):
    sqrs,res = [8.,5.,3.9,1.],[]
    for cbs in ([], [Look(how, order)]):
        cb,learn,got = GradAnneal(),learner(),[]
        def fill(self):
            for p in self.model.parameters(): p.grad.fill_(sqrs[len(got)//n_batches]**.5)
        scale = Callback(before_step=fill)
        scale.order = 5
        quiet(learn, 4, scale, cb, Callback(after_step=lambda self: got.append(self.opt.hypers[0]['lr'])), *cbs, lr=.1)
        res.append((got, cb.sqr_grads))
    assert res[0] == res[1] and got[-1] == .025

def test_grad_anneal_interrupted_with_lr_find_before_and_after():
    learn = learner(cbs=GradAnneal())
    with learn.no_bar(): learn.lr_find(num_it=20, stop_div=False, show_plot=False)
    with pytest.raises(KeyboardInterrupt): quiet(learn, 3, Interrupt('after_pred'), lr=.1)
    assert learn.opt.hypers[0]['lr'] == .1
    with learn.no_bar(): learn.lr_find(num_it=20, stop_div=False, show_plot=False)
    assert learn.opt.hypers[0]['lr'] == 1e-3

def test_grad_anneal_needs_no_validation():
    "Its metric is its own: neither validation data nor a recorder"
    for without in ('data','recorder'):
        learn = learner()
        if without=='data': learn.dls.loaders[1] = learn.dls.valid.new([])
        else: learn.remove_cbs(Recorder)
        cb = GradAnneal()
        with learn.no_bar(): learn.fit(2, cbs=cb)
        assert len(cb.sqr_grads)==2
