"Run by test_processes in two processes: an ensemble's members side by side, in the folder that is its argument"
from fastai.vision.all import *
import sys

from fastai_ext.ensemble import fit_ensemble
from fastai_ext.erase import RandErase
from fastai_ext.processes import SideBySide
from fastai_ext.weights import WeightAverage

n = 3

def image(i): return TensorImage(torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(i)))
def target(i): return i%3

def make():
    "Random from the first weights to the order of the items, what is erased, and dropout"
    block = DataBlock((TransformBlock, CategoryBlock), get_x=image, get_y=target, splitter=IndexSplitter(range(23, 30)),
        batch_tfms=RandErase(.4))
    layers = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout(.2), nn.Flatten(), nn.Linear(144, 3)
    dls = block.dataloaders(list(range(30)), bs=4, num_workers=0, device='cpu')
    return Learner(dls, nn.Sequential(*layers), metrics=accuracy).remove_cb(ProgressCallback)

class Killed(Callback):
    "End the process that has the second member, in its second epoch"
    def before_batch(self):
        if os.environ.get('KILL') and self.epoch == 1 and torch.initial_seed() == 1: os.kill(os.getpid(), 9)

def fit(learn):
    cbs = [WeightAverage(), SaveModelCallback('accuracy'), Killed()]
    with learn.no_logging(): learn.fit_one_cycle(3, 1e-2, cbs=cbs)

def refused(f):
    "What the ValueError says that `f()` raises"
    try: f()
    except ValueError as e: return str(e)

def errors(path):
    "What each process is told when they aren't given the same"
    rank = int(os.environ['RANK'])
    def _longer(learn, epochs=3+rank): fit(learn)
    see = SideBySide.see
    SideBySide.see = lambda self, there, seconds: see(self, there, .5)
    calls = [(fit, path, rank), (_longer, path, 0), (fit, path/str(rank), 0)]
    res = [refused(lambda: fit_ensemble(make, n, f, p, seed=seed)) for f,p,seed in calls]
    SideBySide.see = see
    return res

if __name__ == '__main__':
    path = Path(sys.argv[1])
    told = [] if os.environ.get('KILL') else errors(path.with_name('refused'))
    learns = fit_ensemble(make, n, fit, path)
    states = [o.model.state_dict() for o in learns]
    torch.save((told, states, torch.rand(1)), path.with_name(f'rank{os.environ["RANK"]}'))
