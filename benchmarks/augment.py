"""Augmentation drawn for each image costs about a copy of the batch: ours beside that of four other libraries

    python benchmarks/augment.py [--device cuda] [--runs 9] [--threads 1] [--small]

All erasing covers 8% of an image in the mean: ours 0 to 4 patches of 4%, timm 2 of 4%, the others one rectangle of
8%. The peers' calls are the nearest they have; the column "draws" says if each image has a draw of its own. The
floors: one `clone` of the batch, the normal noise for 8% of the pixels, a `clone` into memory that is there already
(a fresh block of 150 MB costs the operating system more than the copy), and what is left of our erasing if the draws
would not have to become places.
What changes its input does so to the same batch in all runs, which changes no time. Runs are interleaved, each
figure is a median. torchvision and kornia must be installed for their rows; kornia may be absent."""
import warnings
warnings.filterwarnings('ignore')

from fastai.vision.all import *
from fastai_ext.augment import *
from fastai_ext.erase import *
from timm.data.random_erasing import RandomErasing as TimmErasing
from torchvision.transforms import v2
from common import timed_calls, versions, write

def train(t): return lambda x: t(x, split_idx=0)

def both(*ts): return Pipeline(ts, split_idx=0)

def each(t): return lambda x: torch.stack([t(o) for o in x])

def fastai_erase(): return train(RandomErasing(1., sl=.08, sh=.0801, min_aspect=.999))

def erasers(x, dev):
    "Name: (draws, function) of what erases or copies"
    k = dict(p=1., scale=(.08,.08), ratio=(1.,1.))
    v2_erase = v2.RandomErasing(value='random', **k)
    res = {}
    res['ours: RandErase'] = 'image',train(RandErase())
    res['ours: RandErase, pct a range'] = 'image',train(RandErase((.1,.3)))
    res['ours: RandErase, constant'] = 'image',train(RandErase(fill=0.))
    res['ours: RandCopy'] = 'image',train(RandCopy())
    res['ours: RandErase, in place'] = 'image',train(RandErase(inplace=True))
    res['ours: RandErase, constant, in place'] = 'image',train(RandErase(fill=0., inplace=True))
    res['ours: RandCopy, in place'] = 'image',train(RandCopy(inplace=True))
    res['fastai: RandomErasing'] = 'batch',fastai_erase()
    res['fastai: RandomErasing, image by image'] = 'image',each(fastai_erase())
    timm_erase = TimmErasing(1., .08, .08, 1., mode='pixel', min_count=2, max_count=2, device=dev)
    res['timm: RandomErasing (always in place)'] = 'image',timm_erase
    res['timm: clone, then RandomErasing'] = 'image',lambda o: timm_erase(o.clone())
    res['torchvision: v2.RandomErasing'] = 'batch',v2_erase
    res['torchvision: v2.RandomErasing, image by image'] = 'image',each(v2_erase)
    if peers()['kornia']:
        from kornia.augmentation import RandomErasing as KorniaErasing
        res['kornia: RandomErasing (constant)'] = 'image',KorniaErasing(**k)
    return res

def movers(x):
    "Name: (draws, function) of what crops and flips"
    n = x.shape[-1]
    pad = max(1, n//28)
    v2_both = v2.Compose([v2.RandomCrop(n, padding=pad, padding_mode='reflect'), v2.RandomHorizontalFlip()])
    res = {}
    res['ours: RandPadCrop + RandFlip'] = 'image',both(RandPadCrop(pad), RandFlip())
    res['ours: RandFlip, then RandPadCrop in place'] = 'image',both(RandFlip(), RandPadCrop(pad, inplace=True))
    res['ours: RandPadCrop'] = 'image',train(RandPadCrop(pad))
    res['ours: RandFlip'] = 'image',train(RandFlip())
    res['ours: RandPadCrop + RandFlip, in place'] = 'image',both(RandPadCrop(pad, inplace=True), RandFlip(inplace=True))
    crop = RandomResizedCropGPU(n, min_scale=((n-2*pad)/n)**2, ratio=(1.,1.))
    res['fastai: RandomResizedCropGPU + Flip'] = 'batch, flip: image',both(crop, Flip())
    res['fastai: Flip'] = 'image',train(Flip())
    res['torchvision: v2.RandomCrop + v2.RandomHorizontalFlip'] = 'batch',v2_both
    res['torchvision: the same, image by image'] = 'image',each(v2_both)
    if peers()['kornia']:
        from kornia.augmentation import RandomCrop as KCrop, RandomHorizontalFlip as KFlip
        kcrop,kflip = KCrop((n,n), padding=pad, padding_mode='reflect', cropping_mode='slice'),KFlip()
        res['kornia: RandomCrop + RandomHorizontalFlip'] = 'image',lambda o: kflip(kcrop(o))
    return res

def floors(x):
    "Name: (none, function) of what bounds the others from below"
    buf,n = torch.empty_like(x),int(.08*x.numel())
    px = (rand_erase(torch.zeros_like(x), fill=1.)>0).flatten().nonzero()[:,0]
    def _known(o):
        out,_ = o.clone(),torch.rand(len(o), 26, device=o.device)
        return out.view(-1).index_fill_(0, px, 0.)
    res = {}
    res['floor: x.clone()'] = '',lambda o: o.clone()
    res['floor: copy into existing memory'] = '',buf.copy_
    res['floor: noise for 8% of the pixels'] = '',lambda o: torch.randn(n, device=o.device)
    res['floor: clone, draws, a constant at pixels known before'] = '',_known
    return res

def peers(): return versions('torchvision', 'kornia')

def measure(shape, dev, runs):
    "A row for each call, and a table"
    set_seed(0)
    x = TensorImage(torch.randn(shape, device=dev))
    x.clamp_(-2, 2)
    fs = {**floors(x), **erasers(x, dev), **movers(x)}
    return timed_calls(x, {k: (draws, partial(f, x)) for k,(draws,f) in fs.items()}, runs)

@call_parse
def main(
    device:str='cpu', # `cpu` or `cuda`
    runs:int=9, # Calls of each
    threads:int=None, # of torch; 1 is steadier on a machine that does other work too
    small:bool=False # the small shape only
):
    if threads: torch.set_num_threads(threads)
    shapes = [(1024,1,28,28)] if small else [(1024,1,28,28),(256,3,224,224)]
    rows = [r for o in shapes for r in measure(o, device, runs)]
    write(f'augment{"_cuda" if device=="cuda" else ""}', dict(device=device, runs=runs), rows, **peers())
