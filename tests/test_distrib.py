"Two processes predict what one does, in the same order, none lost or doubled"
from pathlib import Path
import inspect, os, pytest, socket, subprocess, sys

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
    check_fits(tmp_path)

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

def check_fits(path):
    "The steps of two processes are those of one on both batches; each draws for itself, the same from the same seed"
    ranks = [torch.load(path/f'two_fits_{r}', weights_only=False) for r in (0,1)]
    (first,*others),mine = ranks[0],[o[0] for o in ranks]
    # by hand: batches of 8, the rate of a scheduler of torch's, the mean of the weights after each step
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
    net.load_state_dict(first['began'])
    opt = torch.optim.SGD(net.parameters(), 1e-3)
    sched,after = torch.optim.lr_scheduler.StepLR(opt, 3, .5),[]
    for steps in zip(*(o['steps'] for o in mine), strict=True):
        x,y = (torch.cat([torch.Tensor(o[i]) for o in steps]) for i in (0,1))
        assert len(x) == 8 and all(o[2] == pytest.approx(sched.get_last_lr()[0]) for o in steps)
        opt.zero_grad()
        torch.nn.functional.mse_loss(net(x).squeeze(1), y).backward()
        opt.step()
        sched.step()
        after.append({k: v.clone() for k,v in net.state_dict().items()})
    assert len(after) == 8
    for o in mine:
        for k,v in o['held'].items():
            assert torch.equal(v, first['held'][k]) and torch.equal(o['raw'][k], first['raw'][k])
            assert torch.allclose(o['raw'][k], after[-1][k], atol=1e-5)
            assert torch.allclose(v, torch.stack([a[k] for a in after]).mean(0), atol=1e-5)
    # where the images were erased
    def holes(o): return [torch.Tensor(x) != torch.stack([image(int(i)) for i in y]) for x,y,_ in o['steps']]
    changed = [torch.cat(holes(o)).any(1) for o in mine]
    assert len(changed[0]) == 32 and sum(map(torch.equal, *changed)) < 8 < min(o.any((1,2)).sum() for o in changed)
    for rank in ranks:
        for o in rank[1:]: assert all(torch.equal(o['held'][k], v) for k,v in first['held'].items())
        assert all(torch.equal(a[0], b[0]) for a,b in zip(rank[0]['steps'], rank[1]['steps'], strict=True))
        assert [o['draws'] for o in rank] == [first['draws']]*3

def image(i): return torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(i))

def test_fastai_still_needs_a_gpu_to_share_the_order():
    "If this fails, `_broadcast` in fastai_ext.distributed can go"
    from fastai_ext.distributed import DistributedDL
    assert '.cuda()' in inspect.getsource(DistributedDL._orig__broadcast)
