"""How much memory an ensemble needs

Claim: `ensemble_preds` from 5 exported learners peaks at most 1.3 times as high as from one, and gives the mean of
the members' predictions.
Run: python benchmarks/ensemble.py (about 3 minutes). Each measurement is a process of its own; the peak is the
kernel's high-water mark of resident memory (VmHWM), reset after the imports; 'above' is what was needed on top of
the process as it then was."""
from fastai.vision.all import *
import gc, tempfile, timm

from fastai_ext.ensemble import ensemble_preds
from common import figure, in_new_process, in_turn, write

def image(i): return TensorImage(torch.rand(3,64,64, generator=torch.Generator().manual_seed(i)))
def target(i): return i%10

def learner(seed):
    set_seed(seed)
    splitter = IndexSplitter(range(20, 148))
    block = DataBlock((TransformBlock, CategoryBlock), get_x=image, get_y=target, splitter=splitter)
    dls = block.dataloaders(list(range(148)), bs=32, num_workers=0)
    return Learner(dls, timm.create_model('resnet50', num_classes=10)).remove_cb(ProgressCallback)

def rss(field): return int(re.search(rf'{field}:\s+(\d+) kB', Path('/proc/self/status').read_text())[1])/1024

def measure(how, paths):
    "MiB: high-water mark, and how far above the start; and the predictions"
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
    return peak,peak-start,preds.tolist()

@call_parse
def main(n:int=5, rounds:int=3):
    with tempfile.TemporaryDirectory() as tmp:
        paths = [str(Path(tmp)/f'{i}.pkl') for i in range(n)]
        for i,p in enumerate(paths): learner(i).export(p)
        cases = {'one member': ('ensemble_preds', paths[:1]), f'ensemble_preds, {n} members': ('ensemble_preds', paths),
            f'all {n} loaded': ('all', paths)}
        res = {k: list(zip(*v)) for k,v in in_turn(cases, rounds, 0, lambda o: in_new_process(measure, *o)).items()}
    _,ours,loaded = [v[2] for v in res.values()]
    assert ours == loaded
    rows = [dict(case=k, peak=figure(peak), above=figure(above)) for k,(peak,above,_) in res.items()]
    print('| | peak, MiB | ratio | above the start, MiB | ratio |\n|---|---|---|---|---|')
    for r in rows:
        cells = [f"{r[k]['median']:.0f} | {r[k]['median']/rows[0][k]['median']:.2f}" for k in ('peak','above')]
        print(f"| {r['case']} | {' | '.join(cells)} |")
    write('ensemble', dict(model='resnet50, 23.5 million parameters', items='128 of 3x64x64', n=n, rounds=rounds), rows)
