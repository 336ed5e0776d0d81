"""What schedulers, `Record`, `GradAnneal` and `LayerStats` cost; `GradAnneal` beside 1cycle and a constant rate

    python benchmarks/schedule.py overhead [--bs 256] [--steps 200] [--runs 4]
    python benchmarks/schedule.py anneal [--epochs 10] [--seeds 3] [--lrs 5e-3 1e-2 2e-2]

overhead: the cost of a callback is the time that a step of a tiny model takes with it less the time without it (fits
interleaved, medians of runs), set beside a step of `mini_resnet_fast` (28×28 images, channels_last, which is
fastest). `GradAnneal` and `LayerStats` work on the model's own tensors, so they are measured on that one: batches
with and without them take turns in one fit. fastai's `ActivationStats` is measured in the same way, as it is by
default (layers with parameters, no histograms) and asked for as much (all layers, histograms). All times are those
that the processor spent, on one thread, so that other work on the machine disturbs them little.

anneal: `mini_convnet` on the 5,000 training images that are embedded in the package, accuracy on the 1,000 test
images at the end, mean and standard deviation over the seeds, for each peak rate. Data in memory, no augmentation,
batches of 64, Adam, one thread (a model as small as this loses time with more)."""
from typing import Annotated
import warnings
warnings.filterwarnings('ignore')

from fastai.callback.hook import *
from fastai.vision.all import *
from fastai_ext.anneal import GradAnneal
from fastai_ext.data import fashion_mnist
from fastai_ext.record import *
from fastai_ext.schedule import *
from torch.optim import lr_scheduler as S
from fastai_ext.models import mini_convnet, mini_resnet_fast
from common import Runs, figure, image_dls, in_turn, mean_sd, median, summed, tensors, write

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
    dls = DataLoaders.from_arrays(x, x, x, x, bs=2)
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
    def _cost(opt, groups, cb):
        learn,clock,both = tiny_learner(steps, opt, groups),Clock(),[]
        for cbs in [[], [cb()]]:
            quiet(learn, 1, cbs=[clock, *cbs, Stop()])
            both.append(median(clock.times[5:]))
        return both[1]-both[0]
    return in_turn(cases, runs, measure=lambda o: _cost(*o))

class Turns(Callback):
    "Let `cb` take part in every second training batch only"
    order = -900
    def __init__(self, cb): self.cb = cb
    def before_batch(self): self.cb.run = self.iter%2==0

def heavy_costs(bs, batches, runs):
    "Seconds of a step of `mini_resnet_fast`, and what the callbacks that look at its tensors add to it"
    x,y = torch.randn(bs*batches, 1, 28, 28).to(memory_format=torch.channels_last),torch.randint(0, 10, (bs*batches,))
    dls = image_dls((x,y), (x,y), bs, bs)
    net = mini_resnet_fast(in_chans=1, num_classes=10).to(memory_format=torch.channels_last)
    learn = Learner(dls, net, loss_func=CrossEntropyLossFlat())
    cases = {}
    cases['GradAnneal'] = lambda: Turns(GradAnneal())
    cases['LayerStats, a batch looked at'] = lambda: LayerStats(every=2)
    cases['LayerStats, no histograms'] = lambda: LayerStats(every=2, with_hist=False)
    cases["fastai's ActivationStats as it is by default"] = lambda: ActivationStats(every=2)
    all_stats = partial(ActivationStats, every=2, with_hist=True, include_paramless=True)
    cases["fastai's ActivationStats, all layers, histograms"] = all_stats
    def _halves(make):
        clock,cb = Clock(),make()
        quiet(learn, 1, 1e-3, cbs=[clock, cb, *([cb.cb] if isinstance(cb, Turns) else []), Stop()])
        on,off = [median(clock.times[o::2]) for o in (2,1)]
        return on,off
    halves = in_turn(cases, runs, 0, _halves)
    return [off for v in halves.values() for _,off in v],{k: [on-off for on,off in v] for k,v in halves.items()}

def overhead(bs, steps, batches, runs):
    light = light_costs(steps, runs)
    print({k:f'{1e3*median(v):.3f} ms' for k,v in light.items()}, flush=True)
    whole,heavy = heavy_costs(bs, batches, runs)
    times = {'mini_resnet_fast': whole, **light, **heavy}
    rows = [dict(name=k, ms=figure([1e3*o for o in v])) for k,v in times.items()]
    step = rows[0]['ms']['median']
    print(f'\nA step of mini_resnet_fast at batch size {bs}: {step:.0f} ms (median)\n')
    print('| callback | adds to a step, ms (median; sd) | share of that step |\n|---|---|---|')
    for r in rows[1:]:
        ms,r['share'] = r['ms'],r['ms']['median']/step
        print(f"| {r['name']} | {ms['median']:.3f}; {ms['sd'] or 0:.3f} | {r['share']:.3%} |")
    write('schedule_overhead', dict(bs=bs, steps=steps, batches=batches, runs=runs), rows)

# GradAnneal

def one_fit(how, lr, seed, epochs, data):
    "Test accuracy, final rate, epochs in which the rate fell"
    set_seed(seed)
    dls = image_dls(data[:2], data[2:], 64, 500)
    net = mini_convnet(in_chans=1, num_classes=10).to(memory_format=torch.channels_last)
    learn = Learner(dls, net, loss_func=CrossEntropyLossFlat(), metrics=accuracy)
    cb = GradAnneal() if how=='GradAnneal' else None
    quiet(learn, epochs, lr, cb, one_cycle=how=='1cycle')
    lrs = learn.recorder.lrs[::len(dls.train)]
    drops = [i for i,(a,b) in enumerate(zip(lrs, lrs[1:]), 1) if how=='GradAnneal' and b<a]
    return dict(accuracy=learn.recorder.values[-1][2], drops=drops, sqr_grads=cb.sqr_grads if cb else None)

def anneal(epochs, seeds, lrs):
    d,hows = fashion_mnist('embedded'),('constant rate','1cycle','GradAnneal')
    data = *tensors(d.train_x, d.train_y),*tensors(d.test_x, d.test_y)
    summary = partial(summed, by=['lr','how'], figures=['accuracy'])
    runs = Runs('schedule_anneal', ('lr','how','seed'), dict(epochs=epochs), summary)
    for key in runs.todo(itertools.product(lrs, hows, range(seeds))):
        runs.make(lambda lr, how, seed: one_fit(how, lr, seed, epochs, data), *key)
    print(f'\n{epochs} epochs, {seeds} seeds\n\n| rate | {" | ".join(hows)} |\n|---|---|---|---|')
    accs = {k: [o['accuracy'] for o in rs] for k,rs in groupby(runs.rows, itemgetter('lr','how')).items()}
    for lr in lrs: print(f'| {lr:g} | ' + ' | '.join(mean_sd(accs[lr,how], 3) for how in hows) + ' |')

@call_parse
def main(part:Annotated[str, dict(choices=['overhead', 'anneal'])], bs:int=256, steps:int=200, batches:int=6,
    runs:int=4, epochs:int=10, seeds:int=3, lrs:Annotated[float, dict(nargs='+')]=(5e-3, 1e-2, 2e-2)):
    torch.set_num_threads(1)
    if part=='overhead': overhead(bs, steps, batches, runs)
    else: anneal(epochs, seeds, lrs)
