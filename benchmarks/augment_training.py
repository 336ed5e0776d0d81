"""What erasing and copying do to a small training: 5,000 images of Fashion-MNIST, accuracy on 5,000 others

    python benchmarks/augment_training.py [--seeds 4] [--epochs 30] [--lr 1e-2]

The test images are not touched. Each arm is trained with the same seeds: same initial weights, same images, same
order. The net is four 3×3 convolutions of stride 2 with batch norm (16 to 128 channels) and a linear layer; AdamW,
1cycle, batch 128, normalised. Both sets are drawn once, with the same number of images of each class. Printed and
written: mean and standard deviation over the seeds of the last epoch's accuracy and loss on the held-out images, the
training loss of the last epoch, and the difference to the arm without, run by run. Runs with the same settings that
the results file holds already are not made again."""
import warnings
warnings.filterwarnings('ignore')

from fastai.vision.all import *
from fastai_ext.augment import *
from fastai_ext.erase import *
from common import Runs, fashion_parts, image_dls, mean_sd, small_net, summed

both,tfms = 'RandPadCrop(1) + RandFlip',[RandFlip(), RandPadCrop(1)]
arms = {'none': [], 'RandErase': [RandErase()], 'RandCopy': [RandCopy()], both: tfms,
    f'{both} + RandErase': [*tfms, RandErase()], f'{both} + RandCopy': [*tfms, RandCopy()]}

figures = 'accuracy','valid_loss','train_loss'

def train(parts, tfms, seed, epochs, lr):
    "Accuracy and loss on the held-out images, loss on the training images, of one training"
    set_seed(seed)
    dls = image_dls(parts['train'], parts['valid'], 128, 128, tfms)
    learn = Learner(dls, small_net(), loss_func=CrossEntropyLossFlat(), metrics=accuracy,
        opt_func=partial(OptimWrapper, opt=torch.optim.AdamW))
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(epochs, lr)
    train_loss,valid_loss,acc = learn.recorder.values[-1]
    return dict(accuracy=acc, valid_loss=valid_loss, train_loss=train_loss)

@call_parse
def main(seeds:int=4, epochs:int=30, lr:float=1e-2):
    summary = partial(summed, by=['arm'], figures=figures)
    runs = Runs('augment_training', ('arm','seed'), dict(epochs=epochs, lr=lr), summary)
    parts = fashion_parts()
    for key in runs.todo((arm,seed) for seed in range(seeds) for arm in arms):
        runs.make(lambda arm, seed: train(parts, arms[arm], seed, epochs, lr), *key)
    print('\n| batch transforms | accuracy | difference to none | held-out loss | training loss |')
    print('|---|---|---|---|---|')
    for k,rs in groupby(runs.rows, itemgetter('arm')).items():
        acc,valid,trained = (np.array([r[f] for r in rs]) for f in figures)
        if k=='none': none = acc
        diff = mean_sd(acc-none) if k!='none' else ''
        print(f'| {k} | {mean_sd(acc)} | {diff} | {mean_sd(valid)} | {mean_sd(trained)} |')
