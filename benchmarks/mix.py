"""CutMix and MixUp with a draw for each image: ours beside those of fastai, timm and torchvision

    python benchmarks/mix.py [--device cuda] [--runs 15] [--threads 1]

Measured is what makes the mixed inputs and what the loss needs of the targets: partners, shares, boxes. Ours and
fastai's are callbacks, whose `before_batch` is called in a learner that is given the same batch each time. timm's
`Mixup(mode='elem')` and torchvision's v2 return the targets as class probabilities. timm's and fastai's CutMix write
into the batch that they are given, which saves a copy; two rows give them one. Runs are interleaved, each figure is a
median. The last rows are the cross entropy of ten classes without mixing, with ours (the losses of the items for both
targets, and their comparison with the learner's loss) and with fastai's."""
import warnings
warnings.filterwarnings('ignore')

from fastai.callback.mixup import CutMix, MixUp
from fastai.vision.all import *
from fastai_ext.mix import *
from timm.data.mixup import Mixup
from torchvision.transforms import v2
from common import timed_calls, versions, write

def callback(cb, x, y, clone=False):
    "A function that gives `cb` the batch `x`, `y`"
    learn = Learner(DataLoaders([], [], device=x.device), nn.Identity(), loss_func=CrossEntropyLossFlat(), cbs=cb)
    learn.training,learn.iter,learn.n_iter = True,1,9
    cb('before_train')
    def _call():
        learn.xb,learn.yb = (x.clone() if clone else x,),(y,)
        cb('before_batch')
        return learn.xb
    return _call

def loss(cb, x, y):
    "A function that computes the loss of a batch that `cb` has mixed"
    callback(cb, x, y)()
    learn,pred = cb.learn,torch.randn(len(x), 10, device=x.device)
    def _call():
        learn.pred = pred.clone().requires_grad_()
        learn.loss_grad = learn.loss_func(learn.pred, *learn.yb)
        if isinstance(cb, RandMix): cb('after_loss')
        return learn.loss_grad
    return _call

def no_mixing(x, y):
    "The loss of a batch alone"
    f,pred = CrossEntropyLossFlat(),torch.randn(len(x), 10, device=x.device)
    return lambda: f(pred.clone().requires_grad_(), y)

def cases(x, y):
    "Name: (draws, function)"
    x0,k = x.as_subclass(Tensor),dict(num_classes=10)
    timm_mix = {o: Mixup(mixup_alpha=.4*(o=='up'), cutmix_alpha=1.*(o=='cut'), mode='elem', **k) for o in ('cut','up')}
    def _gather(): return x0[torch.randperm(len(x), device=x.device)]
    res = {'floor: x.clone()': ('', x0.clone), 'floor: x[partner]': ('', _gather)}
    res['ours: RandCutMix'] = 'image',callback(RandCutMix(), x, y)
    res['fastai: CutMix (in place)'] = 'batch',callback(CutMix(), x, y)
    res['timm: elem, CutMix (in place)'] = 'image',lambda: timm_mix['cut'](x0, y)
    res['torchvision: v2.CutMix'] = 'batch',partial(v2.CutMix(**k), x0, y)
    res['ours: RandMixUp'] = 'image',callback(RandMixUp(), x, y)
    res['fastai: MixUp'] = 'image',callback(MixUp(), x, y)
    res['timm: elem, Mixup (in place)'] = 'image',lambda: timm_mix['up'](x0, y)
    res['torchvision: v2.MixUp'] = 'batch',partial(v2.MixUp(alpha=.4, **k), x0, y)
    res['ours: RandCutMix + RandMixUp'] = 'image',both(x, y)
    res['fastai: CutMix, clone before'] = 'batch',callback(CutMix(), x, y, True)
    res['timm: elem, CutMix, clone before'] = 'image',lambda: timm_mix['cut'](x0.clone(), y)
    res['loss without mixing'] = '',no_mixing(x, y)
    res['ours: loss, with after_loss'] = 'image',loss(RandCutMix(), x, y)
    res['fastai: loss'] = 'batch',loss(CutMix(), x, y)
    return res

def both(x, y):
    "`RandCutMix` and `RandMixUp` in one learner"
    cbs = [RandCutMix(), RandMixUp()]
    first = callback(cbs[0], x, y)
    cbs[0].learn.add_cb(cbs[1])
    return first

def measure(shape, dev, runs):
    "A row for each call, and a table"
    set_seed(0)
    x,y = TensorImage(torch.randn(shape, device=dev)),TensorCategory(torch.randint(10, shape[:1], device=dev))
    return timed_calls(x, cases(x, y), runs, warm=2)

@call_parse
def main(
    device:str='cpu', # `cpu` or `cuda`
    runs:int=15, # Calls of each
    threads:int=None # of torch; 1 is steadier on a machine that does other work too
):
    if threads: torch.set_num_threads(threads)
    rows = [r for o in ((256,1,28,28),(64,3,224,224)) for r in measure(o, device, runs)]
    write(f'mix{"_cuda" if device=="cuda" else ""}', dict(device=device, runs=runs), rows, **versions('torchvision'))
