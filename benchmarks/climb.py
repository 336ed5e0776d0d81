"""The lesson's climb from convnet to ensemble on 5,000 images of Fashion-MNIST: what each rung gains and costs.

    python benchmarks/climb.py [--seeds 3] [--minutes 1000]

Four parts, each run of which is written to results/climb.json as soon as it is finished, and is not made again:
- ladder: each rung trained for 5 epochs on 4,000 of the embedded training images, batch 64, 1cycle, fastai's Adam with decoupled weight decay.
- longer: `mini_convnet_deep` for 15 epochs, without and with crop, flip, erasing and copying; members of an arm with different seeds ensembled.
- full: rungs trained on the 60,000 images with the lesson's batch of 1024 and learning rate, judged on the 10,000 test images as the lesson's were.
- full_longer: the same for 20 epochs with crop and flip, as the lesson's step to .943.
The other 1,000 embedded training images choose the learning rate (`sweep`, with a seed of its own) and nothing else. Accuracies of the first two
parts are on 5,000 more images of the full training set, which no training has seen; the test images are not touched there. With --minutes no
run is started later than that. Predictions of the members are kept in runs/climb, which git ignores."""
from argparse import ArgumentParser
from pathlib import Path
import itertools, json, time, warnings
warnings.filterwarnings('ignore')

from fastai.vision.all import *
from fastai_ext.augment import *
from fastai_ext.erase import *
from fastai_ext.core import environment
from fastai_ext.data import *
from fastai_ext.models import *
from fastai_ext.summary import summarize
from augment_training import MemoryDL
import timm

rungs = ('mini_convnet mini_convnet_deep mini_resnet resnet18d mini_resnet_wide mini_resnet_gap mini_resnet_slim mini_resnet_fast '
    'mini_resnet_drop').split()
lrs = {o: 1e-2 for o in rungs}
sweep_rungs,sweep_lrs,sweep_seed = ('mini_convnet', 'mini_convnet_deep', 'mini_resnet'),(3e-3, 1e-2, 3e-2),100
_move = [RandFlip(), RandPadCrop(1)]
arms = {'none': [], 'crop + flip': _move, 'crop + flip + erase': [*_move, RandErase()], 'crop + flip + copy': [*_move, RandCopy()]}
longer_rung = 'mini_convnet_deep'
full_lrs = dict(mini_convnet=6e-2, mini_convnet_deep=6e-2, mini_resnet=2e-2, mini_resnet_fast=1e-2)

root = Path(__file__).resolve().parent
out,kept = root/'results'/'climb.json',root.parent/'runs'/'climb'

def tensors(x, y): return (tensor(x)[:,None].float()/255 - fashion_stats[0][0])/fashion_stats[1][0], tensor(y).long()

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
    with torch.no_grad(): return torch.cat([model(o.contiguous(memory_format=torch.channels_last)).softmax(1) for o in x.split(bs)])

def acc(p, y): return (p.argmax(1) == y).float().mean().item()

def fit(rung, seed, epochs, lr, train, valid, tfms=(), bs=64):
    "A trained learner and, by epoch, training loss, validation loss and accuracy"
    set_seed(seed)
    dls = DataLoaders(MemoryDL(*train, tfms, 0, bs), MemoryDL(*valid, [], 1, 250))
    learn = Learner(dls, timm.create_model(rung, in_chans=1, num_classes=10), loss_func=CrossEntropyLossFlat(), metrics=accuracy, cbs=ChannelsLast())
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
    np.save(kept/f'{arm}-{seed}.npy', torch.stack([plain, flip]).numpy())
    return dict(lr=lrs[longer_rung], epochs=epochs, accuracy=acc(plain, y), tta=acc((plain+flip)/2, y),
        train_accuracy=acc(probs(model, p['train'][0]), p['train'][1]))

def full_run(rung, seed, epochs=5, arm='none'):
    d = full()
    train,(x,y) = tensors(d.train_x, d.train_y),tensors(d.test_x, d.test_y)
    model,values = fit(rung, seed, epochs, full_lrs[rung], train, (x, y), arms[arm], bs=1024)
    plain = probs(model, x)
    return dict(lr=full_lrs[rung], epochs=values, accuracy=acc(plain, y), tta=acc(plain+probs(model, x.flip(-1)), y))

def full_longer_run(rung, seed): return full_run(rung, seed, 20, 'crop + flip')

def ensembles():
    "Accuracy of the ensemble of all members of an arm, plain and with flip TTA"
    y,res = parts()['judge'][1],{}
    for arm in arms:
        ps = [tensor(np.load(o)) for o in sorted(kept.glob(f'{arm}-*.npy'))]
        if len(ps) > 1: res[arm] = dict(members=len(ps), accuracy=acc(sum(p[0] for p in ps), y), tta=acc(sum(p.sum(0) for p in ps), y),
            pairs=[acc(a[0]+b[0], y) for a,b in itertools.combinations(ps, 2)], pairs_tta=[acc((a+b).sum(0), y) for a,b in itertools.combinations(ps, 2)])
    return res

makers = dict(sweep=sweep_run, ladder=ladder_run, longer=longer_run, full=full_run, full_longer=full_longer_run)

def todo(seeds):
    "Part, name and seed of each run, those first that the page can least do without"
    for rung,lr in itertools.product(sweep_rungs, sweep_lrs): yield 'sweep',f'{rung} at {lr}',sweep_seed
    for rung in reversed(rungs): yield 'ladder',rung,0
    for seed,arm in itertools.product(range(seeds), arms): yield 'longer',arm,seed
    for rung,seed in itertools.product(rungs[:3], range(1, seeds)): yield 'ladder',rung,seed
    for rung in rungs[:2]: yield 'full',rung,0
    for seed,rung in itertools.product(range(1, seeds), [*rungs[:3:-1], 'resnet18d']): yield 'ladder',rung,seed
    yield 'full','mini_resnet',0
    yield 'full_longer','mini_resnet_fast',0

def stats(v): return dict(mean=float(np.mean(v)), sd=float(np.std(v, ddof=1)) if len(v) > 1 else None, n=len(v))

def write(res):
    "The results with their summary"
    costs = {o: summarize(timm.create_model(o, in_chans=1, num_classes=10), input_size=(1,28,28)) for o in rungs}
    cols = dict(ladder=('accuracy',), longer=('accuracy','tta','train_accuracy'), full=('accuracy',), full_longer=('accuracy','tta'))
    res['costs'] = {k: dict(params=s.total_params, macs=s.total_macs) for k,s in costs.items()}
    res['summary'] = {p: {k: {c: stats([r[c] for r in rs]) for c in cs} for k,rs in res['runs'].get(p, {}).items()} for p,cs in cols.items()}
    out.write_text(json.dumps(dict(res, environment=environment()), indent=1))

def main(seeds, minutes):
    start,res = time.time(),json.loads(out.read_text()) if out.exists() else dict(runs={}, ensembles={})
    for part,name,seed in todo(seeds):
        runs = res['runs'].setdefault(part, {}).setdefault(name, [])
        if seed in [o['seed'] for o in runs]: continue
        if time.time()-start > 60*minutes: break
        t = time.time()
        runs.append(dict(seed=seed, **makers[part](name, seed), seconds=time.time()-t))
        print(part, name, {k:v for k,v in runs[-1].items() if k!='epochs'}, runs[-1]['epochs'][-1], flush=True)
        if part=='longer': res['ensembles'].update(ensembles())
        write(res)
    for part,rows in res['summary'].items():
        print(f'\n| {part} | accuracy | runs |\n|---|---|---|')
        for k,v in rows.items():
            a = v['accuracy']
            print(f"| {k} | {a['mean']:.4f}" + (f" ± {a['sd']:.4f}" if a['n'] > 1 else '') + f" | {a['n']} |")

if __name__ == '__main__':
    p = ArgumentParser()
    p.add_argument('--seeds', type=int, default=3)
    p.add_argument('--minutes', type=float, default=1000)
    main(**vars(p.parse_args()))
