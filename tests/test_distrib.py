"Two processes predict what one does, in the same order, none lost or doubled"
from pathlib import Path
import os, pytest, socket, subprocess, sys

import torch

pytest.importorskip('accelerate', reason="fastai's distributed training needs accelerate")
worker = Path(__file__).parent/'distrib_worker.py'

def start(out, env):
    return subprocess.Popen([sys.executable, '-W', 'ignore', str(worker), str(out)], env={**os.environ, **env},
        stderr=subprocess.PIPE, text=True)

def finish(p):
    err = p.communicate(timeout=240)[1]
    assert p.returncode == 0, err

@pytest.mark.slow
def test_two_processes_predict_what_one_does(tmp_path):
    finish(start(tmp_path/'one', {}))
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    env = dict(WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port), ACCELERATE_USE_CPU='true')
    for p in [start(tmp_path/'two', {**env, 'RANK': str(r), 'LOCAL_RANK': str(r)}) for r in (0,1)]: finish(p)
    want = torch.load(tmp_path/'one_0')
    for rank in (0,1):
        for a,b in zip(want, torch.load(tmp_path/f'two_{rank}')):
            assert a[0].shape == b[0].shape and torch.allclose(a[0], b[0], atol=1e-6) and torch.equal(a[1], b[1])
    # and show each item's other side in the next epoch, whichever of them has it
    side = {}
    for f in ('two_sides_0', 'two_sides_1'):
        for e,i,on in torch.load(tmp_path/f).tolist(): assert side.setdefault((e,i), on) == on
    assert len(side) >= 12 and all(side[0,i] != side[1,i] for e,i in side if (0,i) in side and (1,i) in side)
    one = {(e,i): on for e,i,on in torch.load(tmp_path/'one_sides_0').tolist()}
    assert all(one[k] == side[k] for k in one.keys() & side.keys()) and len(one.keys() & side.keys()) >= 8
    check_averages(tmp_path)

def check_averages(path):
    "All processes have one model: the mean of what each step left, of buffers also of the processes"
    ranks = [torch.load(path/f'two_average_{r}') for r in (0,1)]
    for (seen,held,avg),(others,*_) in zip(*ranks): assert len(seen) == len(others) > 3
    for i in (0,1):
        (seen,held,avg),(others,held1,avg1) = (o[i] for o in ranks)
        for k,v in held.items():
            assert torch.equal(v, held1[k])
            if not v.is_floating_point() or (i==1 and 'running' in k): continue
            want = torch.stack([o[k] for o in [*seen, *others]]).mean(0)
            assert torch.allclose(v, want, atol=1e-6) and torch.equal(avg['averaged'][k], v), k
    stats = [o[1][1]['1.running_var'] for o in ranks]
    assert not torch.allclose(stats[0], ranks[0][0][1]['1.running_var'], atol=1e-4)
