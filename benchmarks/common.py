"""What the scripts of this folder share: rounds in turn, files of results, figures with their spread, data in memory

Each file of results/ holds `environment` (hardware, versions, threads), `settings` (what was asked for), `rows` and,
in some, `summary`: what the rows come to. A row is what was measured and then its figures; one that was measured
several times is a dict of `median`, `mean`, `sd` and `runs`. The files were brought into this form from earlier
ones, so some lack what the earlier form had not kept."""
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from importlib.metadata import version, PackageNotFoundError
from multiprocessing import get_context
from statistics import mean, median, stdev
import json, math, time

from filelock import FileLock, Timeout
from fastai.vision.all import *
from fastai_ext.core import environment, whole_file
from fastai_ext.data import balanced_subset, fashion_mnist, fashion_stats

folder = Path(__file__).resolve().parent/'results'

# Figures

def spread(vals):
    "Mean and standard deviation"
    return dict(mean=mean(vals), sd=stdev(vals) if len(vals) > 1 else None)

def figure(vals):
    "What a row holds of a figure that was measured several times"
    return dict(median=median(vals), **spread(vals), runs=list(vals))

def mean_sd(vals, digits=4):
    "Mean and, of more than one value, standard deviation, to be read"
    return f'{mean(vals):.{digits}f}' + (f' ± {stdev(vals):.{digits}f}' if len(vals) > 1 else '')

def summed(rows, by, figures):
    "For each group of rows that have `by` in common: their number, mean and standard deviation of their `figures`"
    groups = groupby(rows, lambda o: tuple(o[k] for k in by))
    return [dict(zip(by, k), n=len(g), **{f: spread([o[f] for o in g]) for f in figures}) for k,g in groups.items()]

# Measuring

def seconds(f):
    "How long `f()` takes, with what it begins on a GPU"
    def _now():
        if torch.cuda.is_initialized(): torch.cuda.synchronize()
        return time.perf_counter()
    start = _now()
    f()
    return _now()-start

def in_turn(cases, n, warm=1, measure=seconds):
    "What `measure` returns for each of the `cases` in each of `n` rounds; those of `warm` rounds before don't count"
    res = {k: [] for k in cases}
    for i in range(-warm, n):
        for k,case in cases.items():
            val = measure(case)
            if i >= 0: res[k].append(val)
    return res

def in_new_process(f, *args):
    "What `f(*args)` returns in a process of its own"
    with ProcessPoolExecutor(1, mp_context=get_context('spawn')) as pool: return pool.submit(f, *args).result()

def timed_calls(x, fs, runs, warm=1):
    "A row for each of the calls `fs`, name: (draws, function), on the batch `x`, and a table; the first is the measure"
    name = 'x'.join(map(str, x.shape))
    rows = [dict(shape=name, call=k, draws=fs[k][0], ms=figure([1e3*o for o in ts]))
        for k,ts in in_turn({k: f for k,(_,f) in fs.items()}, runs, warm).items()]
    print(f"\n{name.replace('x', '×')} {x.dtype} on {x.device}\n")
    print('| call | draws for each | median ms | sd | × clone |\n|---|---|---:|---:|---:|')
    for r in rows:
        ms,r['times_clone'] = r['ms'],r['ms']['median']/rows[0]['ms']['median']
        print(f"| {r['call']} | {r['draws']} | {ms['median']:.2f} | {ms['sd'] or 0:.2f} | {r['times_clone']:.2f} |")
    return rows

# Results

def versions(*names):
    "Version of each package, None where it is not installed"
    def _version(name):
        try: return version(name)
        except PackageNotFoundError: return None
    return {o: _version(o) for o in names}

def as_lines(results):
    "JSON with a line for each row"
    def _value(o): return '[\n' + ',\n'.join(map(json.dumps, o)) + '\n]' if isinstance(o, list) else json.dumps(o)
    return '{\n' + ',\n'.join(f'"{k}": {_value(v)}' for k,v in results.items()) + '\n}\n'

def write(name, settings, rows, summary=None, **about):
    "Write a file of results, whole; `about` is added to its environment"
    res = dict(environment=dict(environment(), threads=torch.get_num_threads(), **about), settings=settings, rows=rows)
    if summary is not None: res['summary'] = summary
    folder.mkdir(exist_ok=True)
    with whole_file(folder/f'{name}.json') as p: p.write_text(as_lines(res))

class Runs:
    "The rows of a file of results that have the same settings, and new ones; several processes may share the work"
    def __init__(self, name, keys, settings, summary=lambda rows: None, minutes=math.inf):
        store_attr()
        self.stop,self.rows = time.time() + 60*minutes,self.read()
    def __contains__(self, key): return tuple(key) in (tuple(o[k] for k in self.keys) for o in self.rows)
    def read(self):
        path = folder/f'{self.name}.json'
        old = json.loads(path.read_text()) if path.exists() else {}
        return old['rows'] if old.get('settings') == self.settings else []
    def lock(self, *key, **kwargs): return FileLock(folder/f'.{" ".join(map(str, (self.name, *key)))}.lock', **kwargs)
    def todo(self, keys):
        "Those that have no row yet and that no other process is at, as long as there is time"
        for o in keys:
            if time.time() > self.stop: return
            with suppress(Timeout), self.lock(*o, timeout=0):
                self.rows = self.read()
                if o not in self: yield o
    def make(self, f, *key):
        "Add the row of `key`: what `f` returns for it, and how long it took"
        start = time.time()
        row = dict(zip(self.keys, key), **f(*key), seconds=time.time()-start)
        def _short(o): return o[-1:] if isinstance(o, list) else round(o, 4) if isinstance(o, float) else o
        print({k: _short(v) for k,v in row.items()}, flush=True)
        with self.lock():
            self.rows = [*self.read(), row]
            write(self.name, self.settings, self.rows, self.summary(self.rows))

# Data in memory, and a net

def image_dls(train, valid, bs, valid_bs, tfms=()):
    "Of images and labels"
    return DataLoaders.from_arrays(*train, *valid, bs=bs, val_bs=valid_bs, batch_tfms=list(tfms))

def tensors(x, y):
    "Images of Fashion-MNIST, normalised, and their labels"
    return (tensor(x)[:,None].float()/255-fashion_stats[0][0])/fashion_stats[1][0], tensor(y).long()

def fashion_parts():
    "`train` and `valid`, 5,000 images of the training set each, as many of each class"
    d = fashion_mnist('full')
    idxs = np.random.RandomState(42).permutation(balanced_subset(d.train_y, 10_000))
    first = balanced_subset(d.train_y[idxs], 5_000)
    parts = dict(train=idxs[first], valid=np.delete(idxs, first))
    return {k: tensors(d.train_x[i], d.train_y[i]) for k,i in parts.items()}

def small_net(bn=True):
    "Four stride-2 convolutions, with batch norm or without, and a linear layer"
    nfs = 1,16,32,64,128
    convs = [ConvLayer(a, b, stride=2, norm_type=NormType.Batch if bn else None) for a,b in zip(nfs, nfs[1:])]
    return nn.Sequential(*convs, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(128, 10))
