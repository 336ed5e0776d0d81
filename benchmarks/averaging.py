"""What averages of the weights are worth, epoch by epoch: accuracy of the raw weights and of three averages of them

    python benchmarks/averaging.py [--seeds 5] [--minutes 600]

Fashion-MNIST, 5,000 training images, accuracy and loss on 5,000 others of the training set; the test images are not
touched. `mini_convnet`, RandFlip and RandPadCrop(1), fastai's Adam, batch 64; 5 and 20 epochs under 1cycle with
lr .01, and at one rate, lr .003. An average does not change the training, so each one takes all of them, and the
figures of a row are those of the same steps: paired. The averages are `WeightAverage`'s:

- decay: the default, an exponential one of decay .999, which is warming up in all of these trainings;
- half_life: of a quarter of an epoch;
- equal: from three quarters of the training on, with averaged batch-norm statistics.

Printed are, for some epochs, the raw weights' accuracy and the averages' difference to it, mean and standard
deviation over the seeds. First, what averaging costs is measured: a step of `mini_resnet_fast` and 64 images of 28×28
pixels, with and without, in turn. Runs that the results file holds already are not made again; no run is
begun after `--minutes`."""
import warnings
warnings.filterwarnings('ignore')

from fastai.vision.all import *
from fastai_ext.augment import *
from fastai_ext.models import mini_convnet, mini_resnet_fast
from fastai_ext.weights import WeightAverage
from common import Runs, fashion_parts, figure, image_dls, in_turn, mean_sd, write

averages = dict(decay=dict(), half_life=dict(half_life=.25), equal=dict(equal=True, start=.75))
fits = {'1cycle': partial(Learner.fit_one_cycle, lr_max=.01), 'one rate': partial(Learner.fit, lr=.003)}
tfms = [RandFlip(), RandPadCrop(1)]

@torch.no_grad()
def scores(model, x, y):
    "Loss and accuracy of `model`, as it predicts, on all of `x`"
    preds = torch.cat([model.eval()(o) for o in x.split(500)])
    return F.cross_entropy(preds, y).item(),accuracy(preds, y).item()

class Several(Callback):
    "Keeps several averages at once, and scores each after every epoch"
    order = WeightAverage.order
    def __init__(self, valid, **kwargs):
        self.data,self.kept = valid,{k: WeightAverage(valid=False, **v) for k,v in kwargs.items()}
        self.rows = {k: [] for k in ('raw', *kwargs)}
    def __call__(self, event):
        "Tell the averages of the event, but not of the end, when they would come into the model one after another"
        for o in self.kept.values():
            o.learn = self.learn
            if event!='after_fit': o(event)
        super().__call__(event)
    def before_validate(self): raise CancelValidException
    def after_epoch(self):
        for k,rows in self.rows.items():
            cb = self.kept.get(k)
            if cb is not None and not cb.averaged: continue # it hasn't begun
            if cb is not None: cb.use_averaged()
            rows.append(scores(self.model, *self.data))
            if cb is not None: cb.use_raw()

def train(parts, schedule, epochs, seed):
    "Losses and accuracies of the raw weights and of each average, by epoch"
    set_seed(seed)
    learn = Learner(image_dls(*parts.values(), 64, 500, tfms), mini_convnet(), loss_func=CrossEntropyLossFlat())
    several = Several(parts['valid'], **averages)
    with learn.no_bar(), learn.no_logging(): fits[schedule](learn, epochs, cbs=several)
    return {f'{k}_{nm}': list(o) for k,v in several.rows.items() for nm,o in zip(('loss','accuracy'), zip(*v))}

def overhead(n):
    "Write and print the seconds of a step, without an average and with each"
    x,y = torch.randn(64, 1, 28, 28),torch.arange(64)%10
    set_seed(0)
    def _learner(kwargs):
        dls = DataLoaders([(x,y)]*8, [(x,y)])
        cbs = [] if kwargs is None else [WeightAverage(valid=False, **kwargs)]
        return Learner(dls, mini_resnet_fast(), loss_func=CrossEntropyLossFlat(), cbs=cbs)
    cases = {k: _learner(v) for k,v in dict(without=None, **averages).items()}
    def _fit(learn):
        # the steps alone: neither the beginning of the fit nor its end
        took = []
        def _time(cb): took.append(time.perf_counter())
        ends = Callback(before_batch=_time)
        ends.run_valid = False
        with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-3, cbs=ends)
        return (took[-1]-took[0])/(len(took)-1)
    res = in_turn(cases, n, 2, _fit)
    rows = [dict(average=k, seconds=figure(v)) for k,v in res.items()]
    write('averaging_overhead', dict(rounds=n, steps=7, bs=64, size=28), rows)
    for k,v in res.items():
        diff = np.array(v)/np.array(res['without'])-1
        print(f'{k}: {1e3*np.median(v):.1f} ms a step, {100*np.median(diff):+.1f}%')

@call_parse
def main(
    seeds:int=5,
    minutes:float=600, # begin no run after so many minutes
    rounds:int=20 # of measuring what a step takes
):
    overhead(rounds)
    settings = dict(model='mini_convnet', averages=averages)
    runs = Runs('averaging', ('schedule','epochs','seed'), settings, minutes=minutes)
    parts = fashion_parts()
    keys = ((s,n,seed) for seed in range(seeds) for s in fits for n in (5,20))
    for key in runs.todo(keys): runs.make(partial(train, parts), *key)
    print(f"\n| schedule | epochs | runs | after | raw | {' | '.join(averages)} |\n{'|---'*(5+len(averages))}|")
    for (s,n),rs in groupby(runs.rows, itemgetter('schedule','epochs')).items():
        for e in range(1, n+1) if n==5 else (1,2,5,10,15,16,18,20):
            raw = np.array([r['raw_accuracy'][e-1] for r in rs])
            cells = [mean_sd(raw)]
            for k in averages:
                # those that begin later have fewer epochs, the last ones
                accs = [r[f'{k}_accuracy'][e-1-n] for r in rs if len(r[f'{k}_accuracy']) > n-e]
                cells.append(mean_sd(np.array(accs)-raw) if accs else '')
            print(f"| {s} | {n} | {len(rs)} | {e} | {' | '.join(cells)} |")
