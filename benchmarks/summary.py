"""`learn.summary()` against fastai's own summary and torchinfo: time and peak memory

Claim: on ResNet-50 and ViT-B/16 with a batch of 64 x 3 x 224 x 224 on the CPU, ours takes at its peak at most 6% of
the memory of the others and is more than a hundred times faster than torchinfo, which runs the whole batch and is
handed it ready. fastai's summary loads a batch and runs the model on its first item; ours loads two items and runs a
twin of the model without data. With a loader that reads JPEG files of 500 x 375 pixels from a folder, resizes and
normalises them, which is what users have, ours is some 7 to 9 times faster than fastai's. Where the items are in
memory, so that the loader costs next to nothing, what is left of fastai's time is one image's arithmetic: ours is
2.6 times faster on ResNet-50, 5 times on ViT-B/16.
Run: `python benchmarks/summary.py [--runs 5]`; needs `torchinfo`. Times are of repeated calls in one process,
interleaved, after one call of each; of torchinfo, which takes long, two calls at the end. CPU seconds are those of
all threads. The results hold the load of the machine (tasks that want to run).
"First call" is one call in a new process, imports by the call included. Peak memory is the greatest resident size
above the one just before the call, each in its own process, after a summary of a small model. Results:
benchmarks/results/summary.json."""
from fastai.vision.all import *
import contextlib, tempfile, threading, warnings

warnings.filterwarnings('ignore')
fastai_summary = Learner.summary
import PIL, timm, torchinfo
from fastai_ext.summary import summarize
from common import figure, in_new_process, in_turn, median, seconds, versions, write

names,bs,loaders = ('resnet50', 'vit_base_patch16_224'),64,('jpeg', 'memory')

def jpeg_dls(path):
    "Two classes of 64 JPEG files"
    rng = np.random.default_rng(0)
    for i in range(128):
        d = path/f'class{i%2}'
        d.mkdir(exist_ok=True)
        noise = PIL.Image.fromarray(rng.integers(0, 256, (48,64,3), dtype=np.uint8))
        noise.resize((500,375), PIL.Image.Resampling.BICUBIC).save(d/f'{i}.jpg', quality=90)
    return ImageDataLoaders.from_folder(path, valid_pct=.2, seed=0, item_tfms=Resize(224), bs=bs, num_workers=0,
        batch_tfms=Normalize.from_stats(*imagenet_stats), device='cpu')

class Items:
    "Images of zeros"
    def __init__(self): self.xs,self.ys = torch.zeros(bs,3,224,224),torch.zeros(bs,dtype=torch.long)
    def __len__(self): return bs
    def __getitem__(self, i): return self.xs[i],self.ys[i]

def ways(name, loader, path):
    "Functions without arguments that make a summary"
    if loader == 'jpeg': dls = jpeg_dls(path)
    else: dls = DataLoaders.from_dsets(Items(), Items(), bs=bs, num_workers=0, drop_last=False, device='cpu')
    learn = Learner(dls, timm.create_model(name), loss_func=CrossEntropyLossFlat())
    res = dict(ours=learn.summary, fastai=lambda: fastai_summary(learn))
    def _torchinfo(): torchinfo.summary(learn.model, input_data=dls.train_ds.xs, verbose=0)
    return dict(res, torchinfo=_torchinfo) if loader == 'memory' else res

def wall_cpu(f):
    "Wall-clock and CPU seconds"
    start = time.process_time()
    with contextlib.redirect_stdout(None): return seconds(f),time.process_time()-start

def times(name, loader, runs):
    "Pairs of seconds of each way, `runs` times"
    with tempfile.TemporaryDirectory() as d:
        fs = ways(name, loader, Path(d))
        slow = {k: fs.pop(k) for k in list(fs) if k == 'torchinfo'}
        return {**in_turn(fs, runs, measure=wall_cpu), **in_turn(slow, 2, warm=0, measure=wall_cpu)}

def _rss(): return int(Path('/proc/self/statm').read_text().split()[1])*4096/2**20

def peak(f):
    "MiB above the resident size before the call, sampled each millisecond"
    done,top = threading.Event(),[]
    base = _rss()
    def _watch():
        while not done.wait(.001): top.append(_rss())
    t = threading.Thread(target=_watch)
    t.start()
    wall_cpu(f)
    done.set()
    t.join()
    return max(top, default=base)-base

def alone(what, name, loader, way):
    "The peak, or the seconds of the first call, in this process"
    with tempfile.TemporaryDirectory() as d:
        f = ways(name, loader, Path(d))[way]
        if what == 'first': return wall_cpu(f)[0]
        summarize(timm.create_model('resnet18'), input_size=(3,224,224))
        return peak(f)

@call_parse
def main(runs:int=5):
    rows = []
    print('| model | loader | way | median s | sd | ours is faster | CPU s | ratio | first call s | peak MiB '
        '| ours takes |\n|---|---|---|--:|--:|--:|--:|--:|--:|--:|--:|')
    for name,loader in itertools.product(names, loaders):
        for k,ts in times(name, loader, runs).items():
            wall,cpu = zip(*ts)
            first,top = (in_new_process(alone, o, name, loader, k) for o in ('first','peak'))
            r = dict(model=name, loader=loader, way=k, seconds=figure(wall), cpu=median(cpu), first=first, peak_mib=top)
            if k == 'ours': ours = r
            rows.append(r)
            mid,sd = r['seconds']['median'],r['seconds']['sd']
            print(f"| {name} | {loader} | {k} | {mid:.3f} | {sd or 0:.3f} | {mid/ours['seconds']['median']:.1f} times "
                f"| {r['cpu']:.3f} | {r['cpu']/ours['cpu']:.1f} | {first:.2f} | {top:.1f} "
                f"| {ours['peak_mib']/max(top, .1):.1%} |", flush=True)
    write('summary', dict(bs=bs, runs=runs), rows, load=os.getloadavg()[1], **versions('torchinfo'))
