"""When one batched call beats running the members of an ensemble one after another

Claim: none in general: `ensemble(stack=True)` pays where an operation is too small to fill the processor. The table
says where, on the device at hand.
Run: python benchmarks/stacking.py [--device cuda] [--n 5] (about 1 minute). Interleaved in one process; medians of
the rounds."""
from fastai.vision.all import *
import timm

from fastai_ext.all import EnsembleModel
from common import figure, in_turn, median, write

@torch.no_grad()
def measure(name, bs, n, device):
    set_seed(0)
    models = [timm.create_model(name, in_chans=1, num_classes=10).to(device) for _ in range(n)]
    seq,stacked = (EnsembleModel(models, stack=o).eval() for o in (False,True))
    x = torch.randn(bs, 1, 28, 28, device=device)
    assert torch.allclose(seq(x), stacked(x), atol=1e-3)
    ts = in_turn(dict(seq=lambda: seq(x), stacked=lambda: stacked(x)), 9, warm=2)
    ratio = median(a/b for a,b in zip(*ts.values()))
    return dict(model=name, bs=bs, **{k: figure(v) for k,v in ts.items()}, ratio=ratio)

@call_parse
def main(
    device:str='cpu',
    n:int=5 # members
):
    rows = [measure(name, bs, n, device) for name in ('mini_convnet', 'mini_resnet_fast') for bs in (1,16,64,256)]
    print('| model | batch | one after another, ms | stacked, ms | stacked is faster |\n|---|--:|--:|--:|--:|')
    for r in rows:
        seq,stacked = (1e3*r[k]['median'] for k in ('seq', 'stacked'))
        print(f"| {r['model']} | {r['bs']} | {seq:.1f} | {stacked:.1f} | {r['ratio']:.2f} times |")
    write(f'stacking{"_cuda" if device == "cuda" else ""}', dict(members=n, device=device), rows)
