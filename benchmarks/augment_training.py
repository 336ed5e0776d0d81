"""Shows what erasing and copying do to a small training: Fashion-MNIST, 5,000 training images, accuracy on 5,000 others of the training set.

    python benchmarks/augment_training.py [--seeds 4] [--epochs 30] [--lr 1e-2]

The test images are not touched. Each arm is trained with the same seeds: same initial weights, same images, same order. The net is four 3×3
convolutions of stride 2 with batch norm (16 to 128 channels) and a linear layer; AdamW, 1cycle, batch 128, normalised. Both sets are drawn
once, with the same number of images of each class. Printed and written: mean and standard deviation over the seeds of the last
epoch's accuracy and loss on the held-out images, the training loss of the last epoch, and the difference to the arm without, run by run.
Runs with the same settings that the results file holds already are not made again."""
from argparse import ArgumentParser
from pathlib import Path
import itertools, json, time, warnings
warnings.filterwarnings('ignore')

from fastai.vision.all import *
from fastai_ext.augment import *
from fastai_ext.erase import *
from fastai_ext.core import environment
from fastai_ext.data import *

arms = {'none': [], 'RandErase': [RandErase()], 'RandCopy': [RandCopy()], 'RandPadCrop(1) + RandFlip': [RandFlip(), RandPadCrop(1)],
    'RandPadCrop(1) + RandFlip + RandErase': [RandFlip(), RandPadCrop(1), RandErase()],
    'RandPadCrop(1) + RandFlip + RandCopy': [RandFlip(), RandPadCrop(1), RandCopy()]}

class MemoryDL:
    "Batches of tensors that lie in memory, through batch transforms"
    def __init__(self, x, y, tfms, split_idx, bs=128):
        store_attr()
        self.device = x.device
    def __len__(self): return len(self.x)//self.bs if self.split_idx==0 else -(-len(self.x)//self.bs)
    def __iter__(self):
        idxs = torch.randperm(len(self.x)) if self.split_idx==0 else torch.arange(len(self.x))
        for i in range(len(self)):
            j = idxs[i*self.bs:(i+1)*self.bs]
            b = TensorImageBW(self.x[j]),TensorCategory(self.y[j])
            for t in self.tfms: b = t(b, split_idx=self.split_idx)
            yield b

def data():
    "Training and held-out images and labels, both from the training set, normalised"
    d = fashion_mnist('full')
    idxs = np.random.RandomState(42).permutation(balanced_subset(d.train_y, 10_000))
    first = balanced_subset(d.train_y[idxs], 5_000)
    parts = idxs[first],np.delete(idxs, first)
    return [(((tensor(d.train_x[i])[:,None].float()/255)-.286)/.353, tensor(d.train_y[i]).long()) for i in parts]

def net():
    "Four stride-2 convolutions and a linear layer"
    nfs = 1,16,32,64,128
    return nn.Sequential(*[ConvLayer(a, b, stride=2) for a,b in zip(nfs, nfs[1:])], nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))

def train(parts, tfms, seed, epochs, lr):
    "Accuracy and loss on the held-out images, loss on the training images, of one training"
    set_seed(seed)
    dls = DataLoaders(MemoryDL(*parts[0], tfms, 0), MemoryDL(*parts[1], tfms, 1))
    learn = Learner(dls, net(), loss_func=CrossEntropyLossFlat(), metrics=accuracy, opt_func=partial(OptimWrapper, opt=torch.optim.AdamW))
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(epochs, lr)
    train_loss,valid_loss,acc = learn.recorder.values[-1]
    return dict(seed=seed, accuracy=acc, valid_loss=valid_loss, train_loss=train_loss)

def mean_sd(v): return f'{np.mean(v):.4f} ± {np.std(v, ddof=1):.4f}'

out = Path(__file__).parent/'results'/'augment_training.json'

def known_runs(epochs, lr):
    "The runs that the results file has with these settings"
    old = json.loads(out.read_text()) if out.exists() else {}
    return old['runs'] if (old.get('epochs'),old.get('lr'))==(epochs,lr) else {k:[] for k in arms}

def main(seeds, epochs, lr):
    parts,runs = data(),known_runs(epochs, lr)
    for seed,(k,tfms) in itertools.product(range(seeds), arms.items()):
        if seed in [o['seed'] for o in runs[k]]: continue
        start = time.time()
        runs[k].append({**train(parts, tfms, seed, epochs, lr), 'seconds': time.time()-start})
        print(runs[k][-1], k, flush=True)
    print('\n| batch transforms | accuracy | difference to none | held-out loss | training loss |\n|---|---|---|---|---|')
    cols = {k:{o:np.array([r[o] for r in v]) for o in ('accuracy','valid_loss','train_loss')} for k,v in runs.items()}
    for k,c in cols.items():
        diff = mean_sd(c['accuracy']-cols['none']['accuracy']) if k!='none' else ''
        print(f"| {k} | {mean_sd(c['accuracy'])} | {diff} | {mean_sd(c['valid_loss'])} | {mean_sd(c['train_loss'])} |")
    res = dict(epochs=epochs, lr=lr, runs=runs, environment=environment(),
        summary={k:{o:dict(mean=float(a.mean()), sd=float(a.std(ddof=1)) if len(a)>1 else None) for o,a in c.items()} for k,c in cols.items()})
    out.write_text(json.dumps(res, indent=1))

if __name__ == '__main__':
    p = ArgumentParser()
    p.add_argument('--seeds', type=int, default=4)
    p.add_argument('--epochs', type=int, default=30)
    p.add_argument('--lr', type=float, default=1e-2)
    main(**vars(p.parse_args()))
