"""What CutMix and MixUp do to a small training: 2,500 images of Fashion-MNIST, accuracy on 2,500 others

    python benchmarks/mix_training.py [--seeds 3] [--epochs 30] [--lr 1e-2]

The images are training images of the subset that comes with the package, as many of each class; the test images are
not touched. Net and schedule are those of augment_training.py: four 3×3 convolutions of stride 2 with batch norm,
AdamW, 1cycle, batch 128. The images are moved by up to a pixel and mirrored. Each arm is trained with the same seeds.
Printed and written: mean and standard deviation over the seeds of the last epoch's accuracy and loss on the held-out
images, and the difference to the arm without, run by run. Runs with the same settings that the results file holds
already are not made again."""
import warnings
warnings.filterwarnings('ignore')

from fastai.callback.mixup import CutMix, MixUp
from fastai.vision.all import *
from fastai_ext.augment import *
from fastai_ext.mix import *
from fastai_ext.data import balanced_subset, fashion_mnist
from common import Runs, image_dls, mean_sd, small_net, summed, tensors

arms = {'none': [], 'RandCutMix': [RandCutMix], 'RandMixUp': [RandMixUp], 'both': [RandCutMix, RandMixUp],
    'fastai CutMix': [CutMix], 'fastai MixUp': [MixUp]}
figures = 'accuracy','valid_loss','train_loss'

def embedded_parts(n=2500):
    "`train` and `valid`, `n` images each"
    d = fashion_mnist('embedded')
    idxs = np.random.RandomState(42).permutation(balanced_subset(d.train_y, 2*n))
    first = balanced_subset(d.train_y[idxs], n)
    parts = dict(train=idxs[first], valid=np.delete(idxs, first))
    return {k: tensors(d.train_x[i], d.train_y[i]) for k,i in parts.items()}

def train(parts, cbs, seed, epochs, lr):
    "Accuracy and loss on the held-out images, loss on the training images, of one training"
    set_seed(seed)
    dls = image_dls(parts['train'], parts['valid'], 128, 128, [RandFlip(), RandPadCrop(1)])
    learn = Learner(dls, small_net(), loss_func=CrossEntropyLossFlat(), metrics=accuracy, cbs=[o() for o in cbs],
        opt_func=partial(OptimWrapper, opt=torch.optim.AdamW))
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(epochs, lr)
    return dict(zip(('train_loss','valid_loss','accuracy'), learn.recorder.values[-1]))

@call_parse
def main(
    seeds:int=3, # Trainings of each arm
    epochs:int=30, # of each training
    lr:float=1e-2, # Highest learning rate
    minutes:float=1e9 # None is begun after as many
):
    torch.set_num_threads(1)
    summary = partial(summed, by=['arm'], figures=figures)
    runs = Runs('mix_training', ('arm','seed'), dict(epochs=epochs, lr=lr), summary, minutes)
    parts = embedded_parts()
    for key in runs.todo((arm,seed) for seed in range(seeds) for arm in arms):
        runs.make(lambda arm, seed: train(parts, arms[arm], seed, epochs, lr), *key)
    print('\n| mixing | accuracy | difference to none | held-out loss |\n|---|---|---|---|')
    rows = groupby(runs.rows, itemgetter('arm'))
    none = [o['accuracy'] for o in rows['none']]
    for k,rs in rows.items():
        acc,valid,_ = ([o[f] for o in rs] for f in figures)
        diff = mean_sd([a-b for a,b in zip(acc, none)]) if k!='none' else ''
        print(f'| {k} | {mean_sd(acc)} | {diff} | {mean_sd(valid, 3)} |')
