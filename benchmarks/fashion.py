"""The main job's accuracy on the embedded data: the defaults of `fastai-ext fashion`, a member for each of three seeds

Claim: at least 87% plain, mean of three seeds. The default job itself trains two members; its time is what `job_s`
says of a run of its own.
Run: python benchmarks/fashion.py [SEEDS]"""
import subprocess, sys, tempfile

from fastai.vision.all import *
from fastai_ext.fashion import fashion_job
from fastai_ext.settings import fashion_defaults
from common import mean_sd, seconds, spread, write

hows = 'test','test_tta'

@call_parse(pos=['seeds'])
def main(seeds:int=3):
    with tempfile.TemporaryDirectory() as d:
        res = fashion_job(f'{d}/seeds', seeds=list(range(seeds)))
        cmd = [sys.executable, '-m', 'fastai_ext', 'fashion', '--out', f'{d}/job']
        job_s = seconds(lambda: subprocess.run(cmd, check=True, stdout=subprocess.DEVNULL))
        training_s = json.loads(Path(f'{d}/job/results.json').read_text())['seconds']
    rows = [dict(seed=seed, **{k: m['accuracy'][k] for k in hows}) for seed,m in enumerate(res['members'].values())]
    accs = {k: [o[k] for o in rows] for k in hows}
    print('| test accuracy | plain | flip TTA |\n|---|---|---|')
    print(f'| one member, mean ± sd of {seeds} | ' + ' | '.join(map(mean_sd, accs.values())) + ' |')
    print(f'| {seeds} members ensembled | ' + ' | '.join(f'{res["ensemble"][k]:.4f}' for k in hows) + ' |')
    n = len(fashion_defaults['seeds'])
    print(f'\nThe default job ({n} members): {job_s:.0f} s in all, of which {training_s:.0f} s of training')
    write('fashion', res['settings'], rows, dict({k: spread(v) for k,v in accs.items()}, job_s=job_s,
        job_training_s=training_s, **{k: res[k] for k in ('ensemble', 'params', 'macs', 'n_test')}))
