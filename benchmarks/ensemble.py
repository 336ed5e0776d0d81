"""How much memory an ensemble needs

Claim: `ensemble_preds` from 5 exported learners peaks at most 1.3 times as high as from one, and gives the mean of the members' predictions.
Run: python benchmarks/ensemble.py (about 3 minutes). Each measurement is a process of its own; the peak is the kernel's high-water mark of
resident memory (VmHWM), reset after the imports; 'above' is what was needed on top of the process as it then was."""
from fastai.vision.all import *
from statistics import median
import argparse, gc, json, subprocess, sys, tempfile, timm

from fastai_ext.core import environment
from fastai_ext.ensemble import ensemble_preds

def image(i): return TensorImage(torch.rand(3,64,64, generator=torch.Generator().manual_seed(i)))
def target(i): return i%10

def learner(seed):
    set_seed(seed)
    block = DataBlock((TransformBlock, CategoryBlock), get_x=image, get_y=target, splitter=IndexSplitter(range(20, 148)))
    dls = block.dataloaders(list(range(148)), bs=32, num_workers=0)
    return Learner(dls, timm.create_model('resnet50', num_classes=10)).remove_cb(ProgressCallback)

def rss(field): return int(re.search(rf'{field}:\s+(\d+) kB', Path('/proc/self/status').read_text())[1])/1024

def measure(how, paths, out):
    "MiB: high-water mark, and how far above the start"
    dl = learner(0).dls.valid
    gc.collect()
    Path('/proc/self/clear_refs').write_text('5')
    start = rss('VmRSS')
    if how == 'ensemble_preds': preds = ensemble_preds(paths, dl=dl)[0]
    else:
        learns = [load_learner(o) for o in paths]
        for o in learns: o.remove_cb(ProgressCallback)
        preds = torch.stack([o.get_preds(dl=dl)[0] for o in learns]).double().mean(0).float()
    peak = rss('VmHWM')
    torch.save(preds, out)
    print(json.dumps(dict(peak=peak, above=peak-start)))

def run(how, paths, out):
    cmd = [sys.executable, '-W', 'ignore', __file__, '--how', how, '--out', out, *paths]
    return json.loads(subprocess.run(cmd, check=True, capture_output=True, text=True).stdout.splitlines()[-1])

def main(n, rounds):
    with tempfile.TemporaryDirectory() as tmp:
        paths = [str(Path(tmp)/f'{i}.pkl') for i in range(n)]
        for i,p in enumerate(paths): learner(i).export(p)
        cases = {'one member': ('ensemble_preds', 1), f'ensemble_preds, {n} members': ('ensemble_preds', n), f'all {n} loaded': ('all', n)}
        res = {k: [run(how, paths[:m], f'{tmp}/{how}{m}.pt') for _ in range(rounds)] for k,(how,m) in cases.items()}
        assert torch.equal(torch.load(f'{tmp}/ensemble_preds{n}.pt'), torch.load(f'{tmp}/all{n}.pt'))
    mid = {k: {o: median(r[o] for r in v) for o in ('peak','above')} for k,v in res.items()}
    print('| | peak, MiB | ratio | above the start, MiB | ratio |\n|---|---|---|---|---|')
    one = mid['one member']
    for k,v in mid.items(): print(f"| {k} | {v['peak']:.0f} | {v['peak']/one['peak']:.2f} | {v['above']:.0f} | {v['above']/one['above']:.2f} |")
    out = dict(model='resnet50, 23.5 million parameters', items='128 of 3x64x64', runs=res, medians=mid, **environment())
    (Path(__file__).parent/'results'/'ensemble.json').write_text(json.dumps(out, indent=1))

if __name__ == '__main__':
    ap = argparse.ArgumentParser()
    ap.add_argument('paths', nargs='*')
    for k,v in dict(how='', out='', n=5, rounds=3).items(): ap.add_argument(f'--{k}', default=v, type=type(v))
    args = ap.parse_args()
    if args.how: measure(args.how, args.paths, args.out)
    else: main(args.n, args.rounds)
