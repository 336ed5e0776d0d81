"""The lesson's climb from convnet to ensemble on 5,000 images of Fashion-MNIST: what each rung gains and costs.

    python benchmarks/climb.py [--seeds 3] [--minutes 1000]

Four parts, each run of which is written to results/climb.json as soon as it is finished, and is not made again:
- ladder: each rung trained for 5 epochs on 4,000 of the embedded training images, batch 64, 1cycle, fastai's Adam
  with decoupled weight decay.
- longer: `mini_convnet_deep` for 15 epochs, without and with crop, flip, erasing and copying; members of an arm with
  different seeds ensembled.
- full: rungs trained on the 60,000 images with the lesson's batch of 1024 and learning rate, judged on the 10,000
  test images as the lesson's were.
- full_longer: the same for 20 epochs with crop and flip, as the lesson's step to .943.
The other 1,000 embedded training images choose the learning rate (`sweep`, with a seed of its own) and nothing else.
Accuracies of the first two parts are on 5,000 more images of the full training set, which no training has seen; the
test images are not touched there. With --minutes no run is started later than that. Predictions of the members are
kept in runs/climb, which git ignores."""
import itertools, warnings
warnings.filterwarnings('ignore')

from fastai.vision.all import *
from fastai_ext.augment import *
from fastai_ext.erase import *
from fastai_ext.data import balanced_subset, fashion_mnist
from fastai_ext.models import *
from fastai_ext.summary import summarize
from common import Runs, image_dls, mean_sd, summed, tensors
import timm

rungs = ('mini_convnet mini_convnet_deep mini_resnet resnet18d mini_resnet_wide mini_resnet_gap mini_resnet_slim '
    'mini_resnet_fast mini_resnet_drop').split()
lrs = {o: 1e-2 for o in rungs}
sweep_rungs,sweep_lrs,sweep_seed = ('mini_convnet', 'mini_convnet_deep', 'mini_resnet'),(3e-3, 1e-2, 3e-2),100
move = [RandFlip(), RandPadCrop(1)]
erase,copying = [*move, RandErase()],[*move, RandCopy()]
arms = {'none': [], 'crop + flip': move, 'crop + flip + erase': erase, 'crop + flip + copy': copying}
longer_rung = 'mini_convnet_deep'
full_lrs = dict(mini_convnet=6e-2, mini_convnet_deep=6e-2, mini_resnet=2e-2, mini_resnet_fast=1e-2)

kept = Path(__file__).resolve().parents[1]/'runs'/'climb'

@functools.cache
def full(): return fashion_mnist('full')

@functools.cache
def parts():
    "Images and labels, normalised: 4,000 for training, 1,000 to choose by, 5,000 to judge by"
    d = fashion_mnist('embedded')
    valid,mine = balanced_subset(d.train_y, 1000),balanced_subset(full().train_y, 5000)
    rest = np.delete(np.arange(60_000), mine)
    judge = rest[balanced_subset(full().train_y[rest], 5000)]
    assert np.array_equal(full().train_x[mine], d.train_x), 'the embedded images are another draw'
    train = np.delete(np.arange(5000), valid)
    return dict(train=tensors(d.train_x[train], d.train_y[train]), valid=tensors(d.train_x[valid], d.train_y[valid]),
        judge=tensors(full().train_x[judge], full().train_y[judge]))

def probs(model, x, bs=250):
    "Class probabilities for the images `x`"
    model.eval()
    batches = [o.contiguous(memory_format=torch.channels_last) for o in x.split(bs)]
    with torch.no_grad(): return torch.cat([model(o).softmax(1) for o in batches])

def acc(p, y): return (p.argmax(1) == y).float().mean().item()

def fit(rung, seed, epochs, lr, train, valid, tfms=(), bs=64):
    "A trained learner and, by epoch, training loss, validation loss and accuracy"
    set_seed(seed)
    learn = Learner(image_dls(train, valid, bs, 250, tfms), timm.create_model(rung, in_chans=1, num_classes=10),
        loss_func=CrossEntropyLossFlat(), metrics=accuracy, cbs=ChannelsLast())
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(epochs, lr)
    return learn.model,[list(map(float, o)) for o in learn.recorder.values]

def sweep_run(name, seed):
    rung,lr = name.split(' at ')
    p = parts()
    return dict(lr=float(lr), epochs=fit(rung, seed, 5, float(lr), p['train'], p['valid'])[1])

def ladder_run(rung, seed):
    p = parts()
    model,epochs = fit(rung, seed, 5, lrs[rung], p['train'], p['valid'])
    return dict(lr=lrs[rung], epochs=epochs, accuracy=acc(probs(model, p['judge'][0]), p['judge'][1]))

def longer_run(arm, seed):
    p = parts()
    model,epochs = fit(longer_rung, seed, 15, lrs[longer_rung], p['train'], p['valid'], arms[arm])
    x,y = p['judge']
    plain,flip = probs(model, x),probs(model, x.flip(-1))
    kept.mkdir(parents=True, exist_ok=True)
    np.save(member(arm, seed), torch.stack([plain, flip]).numpy())
    return dict(lr=lrs[longer_rung], epochs=epochs, accuracy=acc(plain, y), tta=acc((plain+flip)/2, y),
        train_accuracy=acc(probs(model, p['train'][0]), p['train'][1]))

def full_run(rung, seed, epochs=5, arm='none'):
    d = full()
    train,(x,y) = tensors(d.train_x, d.train_y),tensors(d.test_x, d.test_y)
    model,values = fit(rung, seed, epochs, full_lrs[rung], train, (x, y), arms[arm], bs=1024)
    plain = probs(model, x)
    return dict(lr=full_lrs[rung], epochs=values, accuracy=acc(plain, y), tta=acc(plain+probs(model, x.flip(-1)), y))

def full_longer_run(rung, seed): return full_run(rung, seed, 20, 'crop + flip')

def member(arm, seed): return kept/f'{arm}-{seed}.npy'

def ensemble_run(arm, seeds):
    "Accuracy of the ensemble of an arm's members, and of each two of them, plain and with flip TTA"
    y,ps = parts()['judge'][1],[tensor(np.load(member(arm, o))) for o in seeds]
    def _acc(ps): return acc(sum(p[0] for p in ps), y)
    def _tta(ps): return acc(sum(p.sum(0) for p in ps), y)
    pairs = list(itertools.combinations(ps, 2))
    return dict(members=len(ps), accuracy=_acc(ps), tta=_tta(ps),
        pairs=list(map(_acc, pairs)), pairs_tta=list(map(_tta, pairs)))

def cost_run(rung, _):
    s = summarize(timm.create_model(rung, in_chans=1, num_classes=10), input_size=(1,28,28))
    return dict(params=s.total_params, macs=s.total_macs)

makers = dict(sweep=sweep_run, ladder=ladder_run, longer=longer_run, full=full_run, full_longer=full_longer_run,
    ensemble=ensemble_run, cost=cost_run)
figures = dict(ladder='accuracy', longer='accuracy tta train_accuracy', full='accuracy', full_longer='accuracy tta')

def todo(seeds):
    "Part, name and seed (of an ensemble those of its members) of each run, those first that the page needs most"
    for rung in rungs: yield 'cost',rung,None
    for rung,lr in itertools.product(sweep_rungs, sweep_lrs): yield 'sweep',f'{rung} at {lr}',sweep_seed
    for rung in reversed(rungs): yield 'ladder',rung,0
    for seed,arm in itertools.product(range(seeds), arms): yield 'longer',arm,seed
    for arm in arms:
        if seeds > 1 and all(member(arm, o).exists() for o in range(seeds)): yield 'ensemble',arm,list(range(seeds))
    for rung,seed in itertools.product(rungs[:3], range(1, seeds)): yield 'ladder',rung,seed
    for rung in rungs[:2]: yield 'full',rung,0
    for seed,rung in itertools.product(range(1, seeds), [*rungs[:3:-1], 'resnet18d']): yield 'ladder',rung,seed
    yield 'full','mini_resnet',0
    yield 'full_longer','mini_resnet_fast',0

def of_part(rows, part): return [o for o in rows if o['part']==part]

def summary(rows):
    parts = [summed(of_part(rows, part), ['part','name'], fs.split()) for part,fs in figures.items()]
    return [o for part in parts for o in part]

@call_parse
def main(seeds:int=3, minutes:float=1000):
    runs = Runs('climb', ('part','name','seed'), {}, summary, minutes)
    for key in runs.todo(todo(seeds)): runs.make(lambda part, name, seed: makers[part](name, seed), *key)
    for part in figures:
        print(f'\n| {part} | accuracy | runs |\n|---|---|---|')
        for k,rs in groupby(of_part(runs.rows, part), itemgetter('name')).items():
            print(f"| {k} | {mean_sd([o['accuracy'] for o in rs])} | {len(rs)} |")
