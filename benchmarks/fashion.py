"""The main job's accuracy on the embedded data: the defaults of `fastai-ext fashion`, a member for each of three seeds

Claim: at least 87% plain, mean of three seeds. The default job itself trains two members; its time is what `job_s` says of a run of its own.
Run: python benchmarks/fashion.py [SEEDS]"""
from pathlib import Path
from statistics import mean, stdev
import json, subprocess, sys, tempfile, time

from fastai_ext.fashion import fashion_job
from fastai_ext.settings import fashion_defaults

n = int(sys.argv[1]) if len(sys.argv) > 1 else 3
with tempfile.TemporaryDirectory() as d:
    res = fashion_job(Path(d)/'seeds', seeds=list(range(n)))
    start = time.time()
    subprocess.run([sys.executable, '-m', 'fastai_ext', 'fashion', '--out', f'{d}/job'], check=True, stdout=subprocess.DEVNULL)
    job_s = time.time()-start
    job = json.loads((Path(d)/'job'/'results.json').read_text())

accs = {k: [m['accuracy'][k] for m in res['members'].values()] for k in ('test', 'test_tta')}
figures = {k: dict(mean=mean(v), sd=stdev(v), runs=v) for k,v in accs.items()}
print('| test accuracy | plain | flip TTA |\n|---|---|---|')
print(f'| one member, mean ± sd of {n} | ' + ' | '.join(f'{figures[k]["mean"]:.4f} ± {figures[k]["sd"]:.4f}' for k in accs) + ' |')
print(f'| {n} members ensembled | ' + ' | '.join(f'{res["ensemble"][k]:.4f}' for k in accs) + ' |')
print(f'\nThe default job ({len(fashion_defaults["seeds"])} members): {job_s:.0f} s in all, of which {job["seconds"]:.0f} s of training')
out = Path(__file__).parent/'results'/'fashion.json'
out.write_text(json.dumps(dict(seeds=n, **figures, ensemble=res['ensemble'], job_s=job_s, job_training_s=job['seconds'],
    settings=res['settings'], params=res['params'], macs=res['macs'], n_test=res['n_test'], environment=res['environment']), indent=1) + '\n')
