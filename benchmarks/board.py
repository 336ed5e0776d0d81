"""The Fashion-MNIST board: accuracy after 5, 20 and 50 epochs, by the rules of its page

Claim: the figures of the page "The board", and what each part of a recipe is worth.
- Choices are made by 6,000 images held out of the training set, after training on the other 54,000 (`choice`). An arm
  differs from the recipe in the one thing that it names, and has the same seeds.
- The test set is used once for each seed of a recipe that is settled, after training on all 60,000 (`final`).
Run: python benchmarks/board.py [--part choice|final] [--epochs 5] [--seeds 3] [--minutes 100] [--recipe mine.py]
With `--only TEXT` just those whose names have the text. `mine.py` defines `recipe`, a `Recipe`; the name of the file is
its name on the board. A run goes into results/board.json when it is finished; one that was interrupted goes on within
its epochs, from runs/board/. Started several times (with OMP_NUM_THREADS=1 once for each core), the processes share the
runs."""
from dataclasses import fields, replace
import runpy

from fastai.vision.all import *
from fastai_ext.all import *
from fastai_ext.recipes import *
from timm.models import register_model
from common import Runs, mean_sd, summed, tensors

kept = Path(__file__).resolve().parents[1]/'runs'/'board'
hows = dict(plain=[noop], flip='h', shift='shift')

def net(name, **changes):
    "Name of the recipes' net with something else in it"
    def _net(pretrained=False, **kwargs): return mini_resnet_board(pretrained, **{**changes, **kwargs})
    _net.__name__ = f'mini_resnet_board_{name}'
    return register_model(_net).__name__

def arms(r):
    "The recipe, and what differs from it in one thing"
    flip,move = r.tfms[0],r.tfms[1:]
    yield 'the recipe',r
    yield 'batches of 128',replace(r, bs=128)
    yield 'GELU',replace(r, model=net('gelu', act_cls=nn.GELU))
    yield 'Adam at .01',replace(r, opt_func=Adam, lr=.01)
    yield 'flips in turn',replace(r, tfms=move, cbs=(*r.cbs, AlternateFlip()))
    yield 'no label smoothing',replace(r, smooth=0.)
    yield 'pooled by the mean alone',replace(r, model=net('mean', global_pool='avg'))
    yield 'no moves',replace(r, tfms=(flip,))
    yield 'twice the rate',replace(r, lr=2*r.lr)
    yield 'one convolution as stem',replace(r, model=net('conv', stem_cls=ConvBlock))
    yield 'moves of 2 pixels',replace(r, tfms=(flip, partial(rand_pad_crop, pad=2)))
    yield 'label smoothing of .2',replace(r, smooth=.2)
    yield 'erased patches',replace(r, tfms=(*r.tfms, partial(rand_erase, p=.5)))
    yield 'CutMix',replace(r, cbs=(*r.cbs, RandCutMix(p=.5)))
    yield 'mini_resnet_fast',replace(r, model='mini_resnet_fast')

def told(o):
    "What an entry of a recipe is, in words"
    if isinstance(o, partial): return f'{told(o.func)}({", ".join(f"{k}={told(v)}" for k,v in o.keywords.items())})'
    if isinstance(o, (tuple,list)): return ' '.join(map(told, o))
    return str(getattr(o, '__name__', o))

def made_of(r):
    "What it was trained by; every run is judged by the same views"
    return {f.name: told(getattr(r, f.name)) for f in fields(r) if f.name != 'views'}

@functools.cache
def data(part):
    "Images and labels to train with, and to judge by"
    d = fashion_mnist('full')
    if part == 'final': return tensors(d.train_x, d.train_y),tensors(d.test_x, d.test_y)
    held = balanced_subset(d.train_y, 6000, seed=0)
    return [tensors(d.train_x[o], d.train_y[o]) for o in (np.delete(np.arange(len(d.train_y)), held), held)]

class Clock(Callback):
    "Processor time of the epochs, in seconds; a `Checkpoint` keeps it"
    order,seconds = Checkpoint.order+1,0.
    def before_train(self): self.start = time.process_time()
    def after_epoch(self): self.seconds += time.process_time() - self.start

def preds_file(part, name, seed): return kept/f'{part} {name} {seed}.npy'

def acc(p, y): return (tensor(p).argmax(1) == y).float().mean().item()

def train(part, name, r, seed):
    "Train with one seed and judge: each image alone, with its mirror, and moved as well"
    (x,y),(vx,vy) = data(part)
    dls = DataLoaders.from_arrays(x, y, vx, vy, bs=r.bs, val_bs=500)
    set_seed(seed)
    learn,clock,file = r.learner(dls),Clock(),preds_file(part, name, seed)
    checkpoint = file.with_suffix('.ckpt')
    with learn.no_bar(), learn.no_logging():
        r.fit(learn, cbs=[SkipValid(), Checkpoint(checkpoint), clock])
        ps = {k: learn.tta_flip(views=v)[0] for k,v in hows.items()}
    np.save(file, torch.stack([*ps.values()]).numpy())
    checkpoint.unlink()
    return dict(**{k: acc(p, vy) for k,p in ps.items()}, cpu_s=clock.seconds, **costs(learn), made_of=made_of(r))

def costs(learn):
    s = learn.summary()
    return dict(params=s.total_params, macs=s.total_macs)

def together(part, name, seeds):
    "Accuracy of the members' mean"
    ps = sum(np.load(preds_file(part, name, o)) for o in seeds)
    return {k: acc(p, data(part)[1][1]) for k,p in zip(hows, ps)}

def summary(rows):
    "Of each arm's seeds"
    return summed([o for o in rows if o['seed'] is not None], ['part','name'], [*hows, 'cpu_s'])

@call_parse
def main(part:str='choice', epochs:int=5, seeds:int=3, minutes:float=1000, recipe:str=None, only:str=None):
    r = runpy.run_path(recipe)['recipe'] if recipe else recipes[epochs]
    base = Path(recipe).stem if recipe else f'{epochs} epochs'
    todo = {f'{base}: {k}': o for k,o in arms(r)} if part == 'choice' and not recipe else {base: r}
    todo = {k: o for k,o in todo.items() if not only or only in k}
    kept.mkdir(parents=True, exist_ok=True)
    runs = Runs('board', ('part','name','seed'), {}, summary, minutes)
    stale = [o for o in runs.rows if o['name'] in todo and o['made_of'] != made_of(todo[o['name']])]
    if stale: raise SystemExit(f'{stale[0]["name"]} was something else when it was measured: {stale[0]["made_of"]}')
    for _,name,seed in runs.todo((part,k,i) for i in range(seeds) for k in todo):
        runs.make(lambda *_: train(part, name, todo[name], seed), part, name, seed)
    # another process may still be at one of them
    if part == 'final' and all((part, base, o) in runs and preds_file(part, base, o).exists() for o in range(seeds)):
        for key in runs.todo([(part, f'{base}: ensemble of {seeds}', None)]):
            runs.make(lambda *_: dict(together(part, base, range(seeds)), made_of=made_of(r)), *key)
    print(f'\n| {part} | plain | flip TTA | flip and shift TTA | minutes of a core | runs |\n|---|---|---|---|---|---|')
    for name,rs in groupby([o for o in runs.rows if o['part']==part], itemgetter('name')).items():
        figures = [mean_sd([o[k] for o in rs]) for k in hows]
        minutes = mean_sd([o['cpu_s']/60 for o in rs], 1) if 'cpu_s' in rs[0] else ''
        print(f'| {name} | {" | ".join(figures)} | {minutes} | {len(rs)} |')
