"Run by test_distrib: predictions of two processes, as one makes them, written to the file that is its argument"
from fastai.vision.all import *
from torch.optim.lr_scheduler import StepLR
import contextlib, sys

import kinds
from fastai_ext.augment import RandFlip
from fastai_ext.callbacks import AlternateFlip
from fastai_ext.checkpoint import Checkpoint
from fastai_ext.distributed import *
from fastai_ext.ensemble import ensemble, ensemble_preds
from fastai_ext.erase import RandErase
from fastai_ext.schedule import BatchScheduler
from fastai_ext.tta import *
from fastai_ext.weights import WeightAverage

def image(i): return TensorImage(torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(i)))
def target(i): return i%3
def net(nf): return nn.Sequential(nn.Conv2d(3, nf, 3), nn.BatchNorm2d(nf), nn.ReLU(), nn.Flatten(), nn.Linear(nf*36, 3))

def preds(learns, files):
    dl = learns[0].dls.test_dl(list(range(13, 30)), with_labels=True)
    together = ensemble(learns).remove_cb(ProgressCallback)
    report = tensor(learns[0].tta_report(sets='h').to_df()[['fixed','broke']].fillna(0).astype(float).values)
    return (learns[0].tta_flip(), learns[0].tta_flip(views='d4', ds_idx=0), ensemble_preds(learns),
        ensemble_preds(learns, cbs=FlipTTA('h')), ensemble_preds(files, dl=dl),
        ensemble_preds([learns[0], files[1]], dl=dl), together.tta_flip(), (report, report))

def of_kinds(files):
    "The ensembles of each kind of learner, from memory and mixed with files"
    res = []
    for k in kinds.kinds:
        learns = kinds.make(k)
        if not num_distrib():
            for i,o in enumerate(learns): o.export(files/f'{k}{i}.pkl')
        with contextlib.ExitStack() as stack:
            if num_distrib():
                for o in learns: stack.enter_context(o.distrib_ctx(sync_bn=False, cpu=True))
            mixed = [learns[0], files/f'{k}1.pkl', learns[2]]
            res += [ensemble_preds(learns), ensemble_preds(mixed, dl=kinds.everything(k, learns))]
    return [(p, first(L(t))) for p,t in res]

class Sides(Callback):
    "Which side of each item the model is given: epoch, item, mirrored"
    order = 20
    def __init__(self): self.got = []
    def after_pred(self):
        if not self.training: return
        for o,i in zip(self.x, self.y):
            self.got.append([self.epoch, int(i), int(not torch.equal(torch.Tensor(o), torch.Tensor(image(int(i)))))])

def number(i): return i

def sides():
    "What two epochs with `AlternateFlip` show"
    split = IndexSplitter(range(13, 30))
    block = DataBlock((TransformBlock, RegressionBlock), get_x=image, get_y=number, splitter=split)
    dls = block.dataloaders(list(range(30)), bs=4, num_workers=0, device='cpu')
    learn = Learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(192, 1)), loss_func=MSELossFlat(),
        cbs=AlternateFlip()).remove_cb(ProgressCallback)
    together = learn.distrib_ctx(sync_bn=False, cpu=True) if num_distrib() else contextlib.nullcontext()
    with learn.no_logging(), together: learn.fit(2, 1e-5, cbs=(seen := Sides()))
    return tensor(seen.got)

def average():
    "The averages of a fit by each process, with those of each batch's weights and batch-norm statistics"
    split = IndexSplitter(range(13, 30))
    block = DataBlock((TransformBlock, CategoryBlock), get_x=image, get_y=target, splitter=split)
    res = []
    for bn in ('average', 'end'):
        set_seed(7)
        dls = block.dataloaders(list(range(30)), bs=4, num_workers=0, device='cpu')
        learn = Learner(dls, net(4), opt_func=SGD, cbs=WeightAverage(equal=True, bn=bn)).remove_cb(ProgressCallback)
        seen = []
        def _look(cb): cb.training and seen.append({k: v.clone() for k,v in get_model(cb.model).state_dict().items()})
        together = learn.distrib_ctx(sync_bn=False, cpu=True) if num_distrib() else contextlib.nullcontext()
        with learn.no_logging(), together: learn.fit(4, .1, cbs=Callback(after_batch=_look))
        res.append((seen, learn.model.state_dict(), learn.weight_average.state_dict()))
    return res

def plain_net(): return nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.ReLU(), nn.Linear(8, 1))

class Seen(Callback):
    "What the model is given in training and at which rate, and a stop"
    order,stop = 20,None # of the class, for what an instance has goes on with a Checkpoint
    def __init__(self): self.steps = []
    def before_step(self): self.steps.append((self.x.clone(), self.y.clone(), self.opt.hypers[0]['lr']))
    def after_batch(self):
        if self.training and self.learn.train_iter == self.stop: raise KeyboardInterrupt

def fit(file=None, stop=None):
    "A fit by each process from one seed: its steps, what it leaves, and the next draws"
    set_seed(3)
    block = DataBlock((TransformBlock, RegressionBlock), get_x=image, get_y=number, splitter=IndexSplitter([32, 33]),
        batch_tfms=[RandErase(.4), RandFlip()])
    dls = block.dataloaders(list(range(34)), bs=4, num_workers=0, device='cpu')
    learn = Learner(dls, plain_net(), loss_func=MSELossFlat(), opt_func=SGD).remove_cb(ProgressCallback)
    began = deepcopy(learn.model)
    sched = BatchScheduler(partial(StepLR, step_size=3, gamma=.5))
    cbs = [seen := Seen(), avg := WeightAverage(equal=True), sched, *([Checkpoint(file, every=1)] if file else [])]
    Seen.stop = stop
    with learn.no_logging(), contextlib.suppress(KeyboardInterrupt if stop else ()), learn.distrib_ctx(cpu=True):
        learn.fit(2, 1e-3, wd=0., cbs=cbs)
    return dict(steps=seen.steps, began=began.state_dict(), raw=avg.raw, held=learn.model.state_dict(),
        draws=[random.random(), np.random.rand(), torch.rand(1).item()])

def fits(out):
    "Twice; then stopped in the second epoch, and what goes on from there"
    res,file = [fit(), fit()],Path(out).with_name('fit.ckpt')
    fit(file, stop=6)
    res.append(fit(file))
    block = DataBlock((TransformBlock, CategoryBlock), get_x=image, get_y=target, splitter=IndexSplitter([0]))
    learn = Learner(block.dataloaders(list(range(9)), bs=4, num_workers=0, device='cpu'), net(4))
    with expected('sync_bn=False'), learn.distrib_ctx(cpu=True): learn.fit(1)
    return res

@contextlib.contextmanager
def expected(text):
    try: yield
    except ValueError as e:
        if text in str(e): return
        raise
    raise AssertionError(f'no error says {text}')

def main(out):
    set_seed(7)
    block = DataBlock((TransformBlock, CategoryBlock), get_x=image, get_y=target, splitter=IndexSplitter(range(13, 30)))
    dls = block.dataloaders(list(range(30)), bs=4, num_workers=0, device='cpu')
    learns = [Learner(dls, net(nf), metrics=accuracy).remove_cb(ProgressCallback) for nf in (4,6)]
    # of one process, which runs first
    files = [Path(out).with_name(f'member{i}.pkl') for i in range(2)]
    if not num_distrib():
        for o,f in zip(learns, files): o.export(f)
    if num_distrib():
        contexts = [o.distrib_ctx(sync_bn=False, cpu=True) for o in learns]
        with contexts[0],contexts[1]: res = preds(learns, files)
    else: res = preds(learns, files)
    res = [*res, *of_kinds(Path(out).parent)]
    torch.save([tuple(map(torch.Tensor, o)) for o in res], f'{out}_{rank_distrib()}')
    torch.save(sides(), f'{out}_sides_{rank_distrib()}')
    torch.save(average(), f'{out}_average_{rank_distrib()}')
    if num_distrib(): torch.save(fits(out), f'{out}_fits_{rank_distrib()}')

if __name__ == '__main__': main(sys.argv[1])
