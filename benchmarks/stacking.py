"""When one batched call beats running the members of an ensemble one after another

Claim: none in general: `ensemble(stack=True)` pays where an operation is too small to fill the processor. The table says where, on the device at hand.
Run: python benchmarks/stacking.py [--device cuda] [--n 5] (about 1 minute). Interleaved in one process; medians of the rounds."""
from argparse import ArgumentParser
from pathlib import Path
from statistics import median
import json, time

import timm, torch
from fastai_ext.all import EnsembleModel, environment, set_seed

def sync(device):
    if device == 'cuda': torch.cuda.synchronize()

def rounds(fs, device, n=9):
    "Seconds of each function in each of `n` rounds, in turn"
    res = {k: [] for k in fs}
    for i in range(n+2):
        for k,f in fs.items():
            sync(device)
            start = time.perf_counter()
            f()
            sync(device)
            if i > 1: res[k].append(time.perf_counter()-start)
    return res

@torch.no_grad()
def measure(name, bs, n, device):
    set_seed(0)
    models = [timm.create_model(name, in_chans=1, num_classes=10).to(device) for _ in range(n)]
    seq,stacked = (EnsembleModel(models, stack=o).eval() for o in (False,True))
    x = torch.randn(bs, 1, 28, 28, device=device)
    assert torch.allclose(seq(x), stacked(x), atol=1e-3)
    ts = rounds(dict(seq=lambda: seq(x), stacked=lambda: stacked(x)), device)
    return dict(model=name, bs=bs, **{k: median(v) for k,v in ts.items()}, ratio=median(a/b for a,b in zip(ts['seq'], ts['stacked'])))

if __name__ == '__main__':
    p = ArgumentParser()
    p.add_argument('--device', default='cpu')
    p.add_argument('--n', type=int, default=5, help='members')
    args = p.parse_args()
    rows = [measure(name, bs, args.n, args.device) for name in ('mini_convnet', 'mini_resnet_fast') for bs in (1,16,64,256)]
    print('| model | batch | one after another, ms | stacked, ms | stacked is faster |\n|---|--:|--:|--:|--:|')
    for r in rows: print(f"| {r['model']} | {r['bs']} | {1e3*r['seq']:.1f} | {1e3*r['stacked']:.1f} | {r['ratio']:.2f} times |")
    out = Path(__file__).parent/'results'/f'stacking{"_cuda" if args.device == "cuda" else ""}.json'
    out.write_text(json.dumps(dict(members=args.n, device=args.device, rows=rows, environment=environment()), indent=1) + '\n')
