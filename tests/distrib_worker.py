"Run by test_distrib: predictions of two processes, as one process makes them; writes them to the file that is its argument"
from fastai.distributed import *
from fastai.vision.all import *
import sys

from fastai_ext.ensemble import ensemble_preds
from fastai_ext.tta import *

def image(i): return TensorImage(torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(i)))
def target(i): return i%3
def net(nf): return nn.Sequential(nn.Conv2d(3, nf, 3), nn.BatchNorm2d(nf), nn.ReLU(), nn.Flatten(), nn.Linear(nf*36, 3))

def broadcast(self, t, rank):
    "fastai's own moves the indices to a GPU first"
    t = torch.tensor(list(t))
    torch.distributed.broadcast(t, rank)
    return t.tolist()

def preds(learns):
    return learns[0].tta_flip(), learns[0].tta_flip(views='d4', ds_idx=0), ensemble_preds(learns), ensemble_preds(learns, tta=FlipTTA('h'))

def main(out):
    set_seed(7)
    block = DataBlock((TransformBlock, CategoryBlock), get_x=image, get_y=target, splitter=IndexSplitter(range(13, 30)))
    dls = block.dataloaders(list(range(30)), bs=4, num_workers=0, device='cpu')
    learns = [Learner(dls, net(nf)).remove_cb(ProgressCallback) for nf in (4,6)]
    if num_distrib():
        DistributedDL._broadcast = broadcast
        with learns[0].distrib_ctx(sync_bn=False, cpu=True), learns[1].distrib_ctx(sync_bn=False, cpu=True): res = preds(learns)
    else: res = preds(learns)
    torch.save([tuple(map(torch.Tensor, o)) for o in res], f'{out}_{rank_distrib()}')

if __name__ == '__main__': main(sys.argv[1])
