"""What `from fastai_ext.all import *` costs over `from fastai.vision.all import *`

Claim: at most 0.3 s. Each run is a fresh process that imports fastai first and then ours, so the difference is timed
within one process.
Run: python benchmarks/import_time.py [RUNS]"""
from fastai.vision.all import *
import subprocess, sys

from common import figure, mean_sd, write

code = '''
import time
start = time.perf_counter()
import fastai.vision.all
middle = time.perf_counter()
import fastai_ext.all
print(middle-start, time.perf_counter()-middle)'''

def once():
    "Seconds of both imports"
    out = subprocess.check_output([sys.executable, '-W', 'ignore', '-c', code], text=True)
    return map(float, out.split()[-2:])

@call_parse(pos=['runs'])
def main(runs:int=10):
    names,times = ('fastai.vision.all', 'fastai_ext.all on top'),zip(*(once() for _ in range(runs)))
    rows = [dict(name=k, seconds=figure(v)) for k,v in zip(names, times)]
    print('| import | mean ± sd, s | median, s |\n|---|---|---|')
    for r in rows: print(f"| {r['name']} | {mean_sd(r['seconds']['runs'], 3)} | {r['seconds']['median']:.3f} |")
    write('import_time', dict(runs=runs), rows)
