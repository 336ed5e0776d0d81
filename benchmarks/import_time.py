"""What `from fastai_ext.all import *` costs over `from fastai.vision.all import *`

Claim: at most 0.3 s. Each run is a fresh process that imports fastai first and then ours, so the difference is timed within one process.
Run: python benchmarks/import_time.py [RUNS]"""
from pathlib import Path
from statistics import mean, median, stdev
import json, subprocess, sys

from fastai_ext.core import environment

code = '''
import time
start = time.perf_counter()
import fastai.vision.all
middle = time.perf_counter()
import fastai_ext.all
print(middle-start, time.perf_counter()-middle)'''

def once(): return [float(o) for o in subprocess.check_output([sys.executable, '-W', 'ignore', '-c', code], text=True).split()[-2:]]

runs = [once() for _ in range(int(sys.argv[1]) if len(sys.argv) > 1 else 10)]
res = {k: dict(mean=mean(v), sd=stdev(v), median=median(v)) for k,v in zip(('fastai_s', 'extra_s'), zip(*runs))}
print('| import | mean ± sd, s | median, s |\n|---|---|---|')
for name,k in (('fastai.vision.all', 'fastai_s'), ('fastai_ext.all on top', 'extra_s')):
    print(f'| {name} | {res[k]["mean"]:.3f} ± {res[k]["sd"]:.3f} | {res[k]["median"]:.3f} |')
out = Path(__file__).parent/'results'/'import_time.json'
out.write_text(json.dumps(dict(runs=len(runs), **res, environment=environment()), indent=1) + '\n')
