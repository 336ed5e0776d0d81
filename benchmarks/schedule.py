"""Shows what the schedulers, `Record`, `GradAnneal` and `LayerStats` cost, and how `GradAnneal` does beside 1cycle and a constant rate.

    python benchmarks/schedule.py overhead [--bs 256] [--steps 200] [--runs 4]
    python benchmarks/schedule.py anneal [--epochs 10] [--seeds 3] [--lrs 5e-3 1e-2 2e-2]

overhead: the cost of a callback is the time that a step of a tiny model takes with it less the time without it (fits interleaved, medians of runs),
set beside a step of `mini_resnet_fast` (28×28 images, channels_last, which is fastest). `GradAnneal` and `LayerStats` work on the model's own tensors, so they are measured on
that one: batches with and without them take turns in one fit. fastai's `ActivationStats` is measured in the same way, as it is by default (layers
with parameters, no histograms) and asked for as much (all layers, histograms). All times are those that the processor spent, on one thread, so that
other work on the machine disturbs them little.

anneal: `mini_convnet` on the 5,000 training images that are embedded in the package, accuracy on the 1,000 test images at the end, mean and standard
deviation over the seeds, for each peak rate. Data in memory, no augmentation, batches of 64, Adam, one thread
(a model as small as this loses time with more)."""
from argparse import ArgumentParser
from pathlib import Path
from statistics import mean, median, stdev
import json, time, warnings
warnings.filterwarnings('ignore')

from fastai.callback.hook import *
from fastai.vision.all import *
from fastai_ext.core import environment
from fastai_ext.data import fashion_mnist
from fastai_ext.record import *
from fastai_ext.anneal import GradAnneal
from fastai_ext.schedule import *
from torch.optim import lr_scheduler as S
from fastai_ext.models import mini_convnet, mini_resnet_fast

class TensorDL(DataLoader):
    "Batches of tensors by index"
    def __init__(self, x, y, bs=64, shuffle=False, **kwargs):
        super().__init__(list(range(len(x))), bs=bs, shuffle=shuffle, drop_last=shuffle, num_workers=0)
        self.x,self.y = x,y
    def create_batches(self, samps): return ((self.x[list(o)], self.y[list(o)]) for o in chunked(samps, self.bs, drop_last=self.drop_last))

def quiet(learn, n, lr=1e-2, cbs=None, one_cycle=False):
    fit = learn.fit_one_cycle if one_cycle else learn.fit
    with learn.no_bar(), learn.no_logging(): fit(n, lr, cbs=cbs)
    return learn

# Overhead

class Clock(Callback):
    "The time of each training step, without the loading of the batch"
    order = -1000
    def before_fit(self): self.times = []
    def before_batch(self): self.start = time.process_time()
    def before_validate(self): raise CancelValidException

class Stop(Callback):
    order = 1000
    def after_batch(self): self.clock.times.append(time.process_time()-self.clock.start)

def tiny_learner(steps, opt_func, groups=1):
    x = torch.zeros(steps*2, 1)
    dls = DataLoaders(TensorDL(x, x, bs=2, shuffle=True), TensorDL(x, x, bs=2))
    net = nn.Sequential(nn.Linear(1,1), nn.Linear(1,1), nn.Linear(1,1))
    splitter = (lambda m: [list(o.parameters()) for o in m]) if groups==3 else trainable_params
    return Learner(dls, net, loss_func=MSELossFlat(), opt_func=opt_func, splitter=splitter)

def light_costs(steps, runs):
    "Name: seconds a step that each callback adds to the tiny model, one for each run"
    adam,wrap = Adam,partial(OptimWrapper, opt=torch.optim.AdamW)
    one = partial(S.OneCycleLR, max_lr=1e-2)
    fastai_one = dict(lr=combined_cos(.25, .1, 1, .1), mom=combined_cos(.25, .9, .8, .9))
    cases = {}
    cases['BatchScheduler(OneCycleLR), Adam'] = adam,1,lambda: BatchScheduler(one)
    cases['the same, three groups'] = adam,3,lambda: BatchScheduler(one)
    cases['the same, OptimWrapper(AdamW)'] = wrap,1,lambda: BatchScheduler(one)
    cases['EpochScheduler(StepLR), Adam'] = adam,1,lambda: EpochScheduler(partial(S.StepLR, step_size=1))
    cases["fastai's ParamScheduler (fit_one_cycle)"] = adam,1,lambda: ParamScheduler(fastai_one)
    cases["Record('lr', 'mom')"] = adam,1,Record
    cases['CapturePreds(ds_idx=0)'] = adam,1,lambda: CapturePreds(0)
    res = {k:[] for k in cases}
    for i in range(runs+1):
        for k,(opt,groups,cb) in cases.items():
            learn,both = tiny_learner(steps, opt, groups),[]
            for cbs in [[], [cb()]]:
                clock = Clock()
                quiet(learn, 1, cbs=[clock, *cbs, Stop()])
                both.append(median(clock.times[5:]))
            if i: res[k].append(both[1]-both[0]) # the first round warms up
    return res

class Turns(Callback):
    "Let `cb` take part in every second training batch only"
    order = -900
    def __init__(self, cb): self.cb = cb
    def before_batch(self): self.cb.run = self.iter%2==0

def heavy_costs(bs, batches, runs):
    "A step of `mini_resnet_fast`, and what the callbacks that look at its tensors add to it, in seconds, one for each run"
    x,y = torch.randn(bs*batches, 1, 28, 28).to(memory_format=torch.channels_last),torch.randint(0, 10, (bs*batches,))
    dls = DataLoaders(TensorDL(x, y, bs=bs, shuffle=True), TensorDL(x, y, bs=bs))
    net = mini_resnet_fast(in_chans=1, num_classes=10).to(memory_format=torch.channels_last)
    learn = Learner(dls, net, loss_func=CrossEntropyLossFlat())
    cases = {}
    cases['GradAnneal'] = lambda: Turns(GradAnneal())
    cases['LayerStats, a batch looked at'] = lambda: LayerStats(every=2)
    cases['LayerStats, no histograms'] = lambda: LayerStats(every=2, with_hist=False)
    cases["fastai's ActivationStats as it is by default"] = lambda: ActivationStats(every=2)
    cases["fastai's ActivationStats, all layers, histograms"] = lambda: ActivationStats(every=2, with_hist=True, include_paramless=True)
    steps,res = [],{k:[] for k in cases}
    for i in range(runs):
        for k,make in cases.items():
            clock,cb = Clock(),make()
            cbs = [clock, cb, *([cb.cb] if isinstance(cb, Turns) else []), Stop()]
            quiet(learn, 1, 1e-3, cbs=cbs)
            on,off = [median(clock.times[o::2]) for o in (2,1)]
            res[k].append(on-off)
            steps.append(off)
            print(f'{k}: a step {off:.3f} s, with it {on:.3f} s', flush=True)
    return steps,res

def overhead(args):
    torch.set_num_threads(1)
    light = light_costs(args.steps, args.runs)
    print({k:f'{1e3*median(v):.3f} ms' for k,v in light.items()}, flush=True)
    steps,heavy = heavy_costs(args.bs, args.batches, args.runs)
    step,rows = median(steps),[]
    print(f'\nA step of mini_resnet_fast at batch size {args.bs}: {1e3*step:.0f} ms (median)\n')
    print('| callback | adds to a step, ms (median; sd) | share of that step |\n|---|---|---|')
    for k,v in {**light, **heavy}.items():
        rows.append(dict(name=k, ms=[1e3*o for o in v], median_ms=1e3*median(v), share=median(v)/step))
        print(f'| {k} | {1e3*median(v):.3f}; {1e3*stdev(v):.3f} | {median(v)/step:.3%} |')
    return dict(bs=args.bs, step_ms=1e3*step, runs=args.runs, rows=rows)

# GradAnneal

def one_fit(how, lr, seed, epochs, data):
    "Test accuracy, final rate, epochs in which the rate fell"
    set_seed(seed)
    x,y,tx,ty = data
    dls = DataLoaders(TensorDL(x, y, shuffle=True), TensorDL(tx, ty, bs=500))
    net = mini_convnet(in_chans=1, num_classes=10).to(memory_format=torch.channels_last)
    learn = Learner(dls, net, loss_func=CrossEntropyLossFlat(), metrics=accuracy)
    cb = GradAnneal() if how=='GradAnneal' else None
    quiet(learn, epochs, lr, cb, one_cycle=how=='1cycle')
    lrs = learn.recorder.lrs[::len(dls.train)]
    drops = [i for i,(a,b) in enumerate(zip(lrs, lrs[1:]), 1) if how=='GradAnneal' and b<a]
    return dict(accuracy=learn.recorder.values[-1][2], drops=drops, sqr_grads=cb.sqr_grads if cb else None)

def anneal(args):
    torch.set_num_threads(1)
    d = fashion_mnist('embedded')
    def norm(x): return ((torch.as_tensor(x).float()/255-.286)/.353).unsqueeze(1)
    data = norm(d.train_x),torch.as_tensor(d.train_y).long(),norm(d.test_x),torch.as_tensor(d.test_y).long()
    hows,rows = ('constant rate','1cycle','GradAnneal'),[]
    for lr in args.lrs:
        for how in hows:
            runs = [one_fit(how, lr, seed, args.epochs, data) for seed in range(args.seeds)]
            accs = [o['accuracy'] for o in runs]
            rows.append(dict(lr=lr, how=how, mean=mean(accs), sd=stdev(accs), runs=runs))
            print(rows[-1]['lr'], how, f"{mean(accs):.4f} ± {stdev(accs):.4f}", [o['drops'] for o in runs], flush=True)
    print(f'\n{args.epochs} epochs, {args.seeds} seeds\n\n| rate | {" | ".join(hows)} |\n|---|---|---|---|')
    for lr in args.lrs: print(f'| {lr:g} | ' + ' | '.join(f"{o['mean']:.3f} ± {o['sd']:.3f}" for o in rows if o['lr']==lr) + ' |')
    return dict(epochs=args.epochs, seeds=args.seeds, rows=rows)

if __name__ == '__main__':
    p = ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('part', choices=['overhead','anneal'])
    p.add_argument('--bs', type=int, default=256)
    p.add_argument('--steps', type=int, default=200)
    p.add_argument('--batches', type=int, default=6)
    p.add_argument('--runs', type=int, default=4)
    p.add_argument('--epochs', type=int, default=10)
    p.add_argument('--seeds', type=int, default=3)
    p.add_argument('--lrs', type=float, nargs='+', default=[5e-3,1e-2,2e-2])
    args = p.parse_args()
    res,dest = globals()[args.part](args),Path(__file__).parent/'results'/'schedule.json'
    old = json.loads(dest.read_text()) if dest.exists() else {}
    dest.write_text(json.dumps({**old, args.part:{**res, 'environment':environment()}}, indent=1)+'\n')
