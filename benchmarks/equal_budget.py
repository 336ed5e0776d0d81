"""What is a number of epochs best spent on: one long training, two halves, snapshots, or an average of the weights?

    python benchmarks/equal_budget.py [--epochs 12] [--seeds 3] [--minutes 600]

Every way trains for `--epochs` epochs in all. `mini_convnet`, RandFlip and RandPadCrop(1), fastai's Adam, batches of
64, 5,000 training images of Fashion-MNIST, accuracy on 5,000 others of the training set, plain and with flip TTA; the
test images are not touched. 1cycle's highest rate is .01, where nothing else is said.

- one long: 1cycle over all the epochs;
- two halves: two members of half the epochs each, from different seeds, ensembled;
- snapshots: `fit_snapshots`, 2 or 4 cycles from a rate of .01, ensembled;
- averaged, equal: the long training, with the mean of the weights of its last quarter;
- averaged, one rate: a rate of .003 throughout, with the exponential average of half an epoch's half-life."""
import warnings
warnings.filterwarnings('ignore')

from fastai.vision.all import *
from fastai_ext.all import *
from common import Runs, fashion_parts, image_dls, mean_sd

def learner(dls):
    res = Learner(dls, mini_convnet(), loss_func=CrossEntropyLossFlat(), metrics=accuracy)
    res.remove_cb(ProgressCallback)
    res.logger = noop
    return res

def one_cycle(dls, epochs, *cbs):
    learn = learner(dls)
    learn.fit_one_cycle(epochs, .01, cbs=[SkipValid(), *cbs])
    return learn

def at_one_rate(dls, epochs):
    learn = learner(dls)
    learn.fit(epochs, .003, cbs=WeightAverage(half_life=.5))
    return learn

def halves(dls, epochs): return ensemble([one_cycle(dls, epochs//2) for _ in range(2)])
def snapshots(dls, epochs, n): return ensemble(fit_snapshots(learner(dls), n, epochs//n, .01, cbs=SkipValid()))

def averaged(dls, epochs): return one_cycle(dls, epochs, WeightAverage(equal=True, start=.75))

names = 'one long','two halves','snapshots, 2','snapshots, 4','averaged, equal','averaged, one rate'
trainings = one_cycle,halves,partial(snapshots, n=2),partial(snapshots, n=4),averaged,at_one_rate
ways = dict(zip(names, trainings))

def train(parts, epochs, way, seed):
    set_seed(seed)
    dls = image_dls(parts['train'], parts['valid'], 64, 500, [RandFlip(), RandPadCrop(1)])
    learn = ways[way](dls, epochs)
    learn.remove_cb(ProgressCallback)
    return {k: accuracy(*f()).item() for k,f in dict(plain=learn.get_preds, tta=learn.tta_flip).items()}

@call_parse
def main(
    epochs:int=12, # of each way, a multiple of 4
    seeds:int=3,
    minutes:float=600 # begin no run after so many minutes
):
    runs,parts = Runs('equal_budget', ('way','seed'), dict(epochs=epochs), minutes=minutes),fashion_parts()
    for key in runs.todo((w, s) for s in range(seeds) for w in ways): runs.make(partial(train, parts, epochs), *key)
    print('\n| way | runs | plain | flip TTA | seconds |\n|---|--:|--:|--:|--:|')
    for way,rs in groupby(runs.rows, itemgetter('way')).items():
        plain,tta,secs = [[o[k] for o in rs] for k in ('plain','tta','seconds')]
        print(f'| {way} | {len(rs)} | {mean_sd(plain)} | {mean_sd(tta)} | {np.mean(secs):.0f} |')
