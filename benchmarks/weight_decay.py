"""A claim: with batch norm, weight decay does not regularise, it only changes the effective learning rate

    python benchmarks/weight_decay.py [--seeds 3] [--epochs 12] [--minutes 600]

Fashion-MNIST, 5,000 training images; accuracy on 5,000 others of the training set (`valid`), on which settings may
be chosen, and on 10,000 further ones (`check`), on which nothing is chosen. The test images are not touched. The net
is four 3×3 convolutions of stride 2 (16 to 128 channels) and a linear layer; fastai's Adam with its defaults,
1cycle, batch 128. Convolutions have batch norm after them, but in the arms without.

Arms, with the same seeds (in the arms with batch norm: same initial weights, without augmentation also the same
batches):
- bn, bn aug, plain, plain aug: decay as fastai does it, on the weights of the convolutions and of the linear layer;
  with (bn) and without (plain) batch norm, with and without augmentation (RandFlip, RandPadCrop(1)).
- convs, head: decay on the convolutions only; on the last linear layer only.
- lr alone: no decay. Each convolution's weight is put back to its initial norm after every step, and its learning
  rate is chosen such that its effective rate lr/norm is, step by step, that of the run `convs` with the same lr,
  decay and seed.
- lr and memory: as lr alone, and the gradients are divided by what the norm had grown by in that run, so that Adam's
  running means are its too.
- fixed norm: no decay, norms put back, the learning rate as it is.

Runs that the results file holds already are not made again; no run is begun after `--minutes`. The runs stand in the
order of their weight for the claim, so what a stopped run leaves out (the last arms, the last seed of some) is what
matters least."""
import warnings
warnings.filterwarnings('ignore')

from fastai.vision.all import *
from fastai_ext.augment import *
from fastai_ext.erase import *
from fastai_ext.data import balanced_subset, fashion_mnist
from common import Runs, fashion_parts, image_dls, mean_sd, small_net, summed, tensors

tfms = [RandFlip(), RandPadCrop(1)]

def grid(seeds):
    "Arm, learning rate, decay and seed of each run: the settings that the claim hangs on first"
    main = [('bn', .01, (0,1,3,10)), ('lr alone', .01, (1,3)), ('lr and memory', .01, [3]), ('bn aug', .01, (0,.3,1))]
    rates = [('bn', .03, (0,1,3)), ('fixed norm', .03, [0]), ('bn', .1, [0])]
    rates += [('fixed norm', lr, [0]) for lr in (.1,.01)]
    contrast = [('plain', .01, (0,.3,1))]
    rest = [('bn', .01, (.01,.1,.3)), ('bn aug', .01, (.1,3)), ('lr alone', .01, [.3]), ('lr and memory', .01, (.3,1)),
        ('head', .01, (1,3)), ('bn aug', .03, (0,.3)), ('plain aug', .01, (0,.3))]
    parts = itertools.product((main,rates,contrast,rest), range(seeds))
    return [(arm,lr,wd,seed) for part,seed in parts for arm,lr,ws in part for wd in ws]

def check_data(n=10_000):
    "Further images of the training set, normalised like the others, and their labels"
    d = fashion_mnist('full')
    rest = np.setdiff1d(np.arange(len(d.train_y)), balanced_subset(d.train_y, 10_000))
    idxs = np.random.RandomState(42).permutation(rest)[:n]
    return tensors(d.train_x[idxs], d.train_y[idxs])

def convs(model): return [o.weight for o in model.modules() if isinstance(o, nn.Conv2d)]

def groups(model):
    "Each convolution's weight alone, then everything else"
    ws = convs(model)
    return [*([o] for o in ws), [p for p in model.parameters() if not any(p is o for o in ws)]]

class Scales(Callback):
    "Skip validation; before each step, keep how each convolution's norm has grown, and what decay will leave of it"
    def before_fit(self):
        self.ws,self.scales = convs(self.model),[]
        self.norms = [o.norm().item() for o in self.ws]
    def before_validate(self): raise CancelValidException
    def before_step(self):
        hypers = zip(self.ws, self.norms, self.opt.hypers)
        self.scales.append([(o.norm().item()/n,1-h['lr']*h['wd']) for o,n,h in hypers])

class FixedNorm(Callback):
    "Put the convolutions back to their initial norms after each step; divide their rates, and gradients, by `scales`"
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
    dls = image_dls(parts['train'], parts['valid'], 128, 128, tfms if 'aug' in arm else [])
    net = small_net('plain' not in arm).to(memory_format=torch.channels_last)
    learn = Learner(dls, net, loss_func=CrossEntropyLossFlat(), splitter=groups)
    rec,fixed = Scales(),arm in ('lr alone','lr and memory','fixed norm')
    by_group = [0 if fixed or arm=='head' else wd]*4 + [0 if fixed or arm=='convs' else wd]
    cbs = [rec] + ([FixedNorm(scales, arm=='lr and memory')] if fixed else [])
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(epochs, lr, wd=by_group, cbs=cbs)
    res = merge(*[figures(learn.model, nm, *xy) for nm,xy in parts.items()])
    return dict(**res, norm_growth=[float(o) for o,_ in rec.scales[-1]]), rec.scales

fields = [f'{o}_{k}' for o in ('train','valid','check') for k in ('loss','accuracy')]

@call_parse
def main(
    seeds:int=3,
    epochs:int=12,
    minutes:float=600 # begin no run after so many minutes
):
    by,scales = ('arm','lr','wd'),{}
    runs = Runs('weight_decay', (*by,'seed'), dict(epochs=epochs), partial(summed, by=by, figures=fields), minutes)
    parts = dict(fashion_parts(), check=check_data())
    def _figures(arm, lr, wd, seed):
        res,new = train(parts, arm, lr, wd, seed, epochs, scales.get((lr,wd,seed)))
        if arm=='convs': scales[lr,wd,seed] = new
        return res
    for key in runs.todo(grid(seeds)):
        leader = 'convs',*key[1:]
        if key[0].startswith('lr ') and key[1:] not in scales:
            if leader in runs: _figures(*leader)
            else: runs.make(_figures, *leader)
        runs.make(_figures, *key)
    head = ['arm', 'lr', 'wd', 'runs', *(o.replace('_', ' ') for o in fields)]
    print(f"\n| {' | '.join(head)} |\n{'|---'*len(head)}|")
    for (arm,lr,wd),rs in groupby(runs.rows, itemgetter(*by)).items():
        cells = f'{lr:g}',f'{wd:g}',str(len(rs)),*(mean_sd([o[f] for o in rs]) for f in fields)
        print(f"| {arm} | {' | '.join(cells)} |")
