"""Tests a claim on real data: with batch norm, weight decay does not regularise, it only changes the effective learning rate.

    python benchmarks/weight_decay.py [--seeds 3] [--epochs 12] [--minutes 600]

Fashion-MNIST, 5,000 training images; accuracy on 5,000 others of the training set (`valid`), on which settings may be chosen, and on 10,000
further ones (`check`), on which nothing is chosen. The test images are not touched. The net is four 3×3 convolutions of stride 2 (16 to 128
channels) and a linear layer; fastai's Adam with its defaults, 1cycle, batch 128. Convolutions have batch norm after them, but in the arms without.

Arms, with the same seeds (in the arms with batch norm: same initial weights, without augmentation also the same batches):
- bn, bn aug, plain, plain aug: decay as fastai does it, on the weights of the convolutions and of the linear layer; with (bn) and without
  (plain) batch norm, with and without augmentation (RandFlip, RandPadCrop(1)).
- convs, head: decay on the convolutions only; on the last linear layer only.
- lr alone: no decay. Each convolution's weight is put back to its initial norm after every step, and its learning rate is chosen such that
  its effective rate lr/norm is, step by step, that of the run `convs` with the same lr, decay and seed.
- lr and memory: as lr alone, and the gradients are divided by what the norm had grown by in that run, so that Adam's running means are its too.
- fixed norm: no decay, norms put back, the learning rate as it is.

Runs that the results file holds already are not made again; no run is begun after `--minutes`. The runs stand in the order of their weight for the
claim, so what a stopped run leaves out (the last arms, the last seed of some) is what matters least."""
from argparse import ArgumentParser
from pathlib import Path
import json, time, warnings
warnings.filterwarnings('ignore')

from fastai.vision.all import *
from fastai_ext.augment import *
from fastai_ext.erase import *
from fastai_ext.core import environment
from fastai_ext.data import *
from augment_training import MemoryDL, data, mean_sd

tfms = [RandFlip(), RandPadCrop(1)]

def grid(seeds):
    "Arm, learning rate, decay and seed of each run: the settings that the claim hangs on first"
    main = [('bn', .01, (0,1,3,10)), ('lr alone', .01, (1,3)), ('lr and memory', .01, [3]), ('bn aug', .01, (0,.3,1))]
    rates = [('bn', .03, (0,1,3)), ('fixed norm', .03, [0]), ('bn', .1, [0]), ('fixed norm', .1, [0]), ('fixed norm', .01, [0])]
    contrast = [('plain', .01, (0,.3,1))]
    rest = [('bn', .01, (.01,.1,.3)), ('bn aug', .01, (.1,3)), ('lr alone', .01, [.3]), ('lr and memory', .01, (.3,1)), ('head', .01, (1,3)),
        ('bn aug', .03, (0,.3)), ('plain aug', .01, (0,.3))]
    return [(arm,lr,wd,seed) for part in (main,rates,contrast,rest) for seed in range(seeds) for arm,lr,ws in part for wd in ws]

def check_data(n=10_000):
    "Further images of the training set, normalised like the others, and their labels"
    d = fashion_mnist('full')
    rest = np.setdiff1d(np.arange(len(d.train_y)), balanced_subset(d.train_y, 10_000))
    idxs = np.random.RandomState(42).permutation(rest)[:n]
    return ((tensor(d.train_x[idxs])[:,None].float()/255)-.286)/.353, tensor(d.train_y[idxs]).long()

def net(bn=True):
    "Four stride-2 convolutions, with batch norm or without, and a linear layer"
    nfs = 1,16,32,64,128
    convs = [ConvLayer(a, b, stride=2, norm_type=NormType.Batch if bn else None) for a,b in zip(nfs, nfs[1:])]
    res = nn.Sequential(*convs, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))
    return res.to(memory_format=torch.channels_last)

def convs(model): return [o.weight for o in model.modules() if isinstance(o, nn.Conv2d)]

def groups(model):
    "Each convolution's weight alone, then everything else"
    ws = convs(model)
    return [*([o] for o in ws), [p for p in model.parameters() if not any(p is o for o in ws)]]

class Scales(Callback):
    "Skip validation; before each step, keep by how much each convolution's norm has grown, and the part that decay will leave of it"
    def before_fit(self):
        self.ws,self.scales = convs(self.model),[]
        self.norms = [o.norm().item() for o in self.ws]
    def before_validate(self): raise CancelValidException
    def before_step(self):
        self.scales.append([(o.norm().item()/n,1-h['lr']*h['wd']) for o,n,h in zip(self.ws, self.norms, self.opt.hypers)])

class FixedNorm(Callback):
    "Put the convolutions back to their initial norms after each step; divide their learning rates, and gradients, by `scales`"
    order = 65
    def __init__(self, scales=None, grads=False): self.scales,self.grads = scales,grads
    def before_fit(self): self.ws,self.norms = convs(self.model),[o.norm().item() for o in convs(self.model)]
    def before_batch(self):
        if self.training and self.scales:
            for h,(growth,kept) in zip(self.opt.hypers, self.scales[self.train_iter]): h['lr'] /= growth*kept
    def before_step(self):
        if self.grads:
            for o,(growth,_) in zip(self.ws, self.scales[self.train_iter]): o.grad /= growth
    def after_step(self):
        with torch.no_grad():
            for o,n in zip(self.ws, self.norms): o.mul_(n/o.norm())

@torch.no_grad()
def figures(model, nm, x, y):
    "Loss and accuracy of `model`, as it predicts, on all of `x`"
    preds = torch.cat([model.eval()(o) for o in x.split(500)])
    return {f'{nm}_loss': F.cross_entropy(preds, y).item(), f'{nm}_accuracy': accuracy(preds, y).item()}

def train(parts, arm, lr, wd, seed, epochs, scales=None):
    "Figures of one training, and how the norms of its convolutions grew"
    set_seed(seed)
    dls = DataLoaders(*[MemoryDL(*parts[o], tfms if 'aug' in arm else [], i) for i,o in enumerate(('train','valid'))])
    learn = Learner(dls, net('plain' not in arm), loss_func=CrossEntropyLossFlat(), splitter=groups)
    rec,fixed = Scales(),arm in ('lr alone','lr and memory','fixed norm')
    by_group = [0 if fixed or arm=='head' else wd]*4 + [0 if fixed or arm=='convs' else wd]
    cbs = [rec] + ([FixedNorm(scales, arm=='lr and memory')] if fixed else [])
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(epochs, lr, wd=by_group, cbs=cbs)
    res = merge(*[figures(learn.model, nm, *xy) for nm,xy in parts.items()])
    return dict(arm=arm, lr=lr, wd=wd, seed=seed, **res, norm_growth=[float(o) for o,_ in rec.scales[-1]]), rec.scales

out = Path(__file__).parent/'results'/'weight_decay.json'
fields = [f'{o}_{k}' for o in ('train','valid','check') for k in ('loss','accuracy')]

def known_runs(epochs):
    "The runs that the results file has with as many epochs"
    old = json.loads(out.read_text()) if out.exists() else {}
    return old['runs'] if old.get('epochs')==epochs else []

def summary(runs):
    "Mean and standard deviation over the seeds, for each arm, learning rate and decay"
    df = pd.DataFrame(runs).groupby(['arm','lr','wd'])[fields].agg(['mean','std','count'])
    return [dict(arm=a, lr=lr, wd=wd, n=int(r[fields[0],'count']),
        **{o: dict(mean=r[o,'mean'], sd=r[o,'std'] if r[o,'count']>1 else None) for o in fields}) for (a,lr,wd),r in df.iterrows()]

def write(runs, epochs): out.write_text(json.dumps(dict(epochs=epochs, runs=runs, summary=summary(runs), environment=environment()), indent=1))

def key(o): return o['arm'],o['lr'],o['wd'],o['seed']

def main(seeds, epochs, minutes):
    parts,runs = dict(zip(('train','valid','check'), [*data(), check_data()])),known_runs(epochs)
    stop,scales = time.time() + minutes*60,{}
    def _run(arm, lr, wd, seed):
        start = time.time()
        res,new = train(parts, arm, lr, wd, seed, epochs, scales.get((lr,wd,seed)))
        if arm=='convs': scales[lr,wd,seed] = new
        if key(res) not in map(key, runs): runs.append({**res, 'seconds': time.time()-start})
        print({k: round(v, 4) if isinstance(v, float) else v for k,v in res.items()}, flush=True)
    for arm,lr,wd,seed in grid(seeds):
        if (arm,lr,wd,seed) in map(key, runs): continue
        if time.time() > stop: break
        if arm.startswith('lr ') and (lr,wd,seed) not in scales: _run('convs', lr, wd, seed)
        _run(arm, lr, wd, seed)
        write(runs, epochs)
    print('\n| arm | lr | wd | runs | '+' | '.join(o.replace('_', ' ') for o in fields)+' |\n'+'|---'*(4+len(fields))+'|')
    for (arm,lr,wd),d in pd.DataFrame(runs).groupby(['arm','lr','wd'], sort=False):
        print(f"| {arm} | {lr:g} | {wd:g} | {len(d)} | " + ' | '.join(mean_sd(d[o]) if len(d)>1 else f'{d[o].iloc[0]:.4f}' for o in fields) + ' |')

if __name__ == '__main__':
    p = ArgumentParser()
    p.add_argument('--seeds', type=int, default=3)
    p.add_argument('--epochs', type=int, default=12)
    p.add_argument('--minutes', type=float, default=600, help='begin no run after so many minutes')
    main(**vars(p.parse_args()))
