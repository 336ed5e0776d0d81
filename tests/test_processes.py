"Work that several processes share out: members that are trained side by side are those of one process"
from fastai.basics import *
from PIL import Image
import pytest, signal, socket, subprocess, sys

from fastai_ext.core import whole_file
from fastai_ext.data import fashion_mnist
from fastai_ext.ensemble import fit_ensemble
from fastai_ext.processes import SideBySide, alone, n_processes
from helpers import process_state
import members_worker

worker = Path(__file__).parent/'members_worker.py'

@pytest.fixture
def launch(monkeypatch):
    "What a launcher tells the first of two processes"
    env = dict(WORLD_SIZE='2', RANK='0', MASTER_PORT='29500', ACCELERATE_USE_CPU='true')
    for k,v in env.items(): monkeypatch.setenv(k, v)

def test_alone_within_a_launch(launch):
    assert (n_processes(), num_distrib()) == (2, 2)
    with pytest.raises(KeyError), alone():
        assert (n_processes(), num_distrib(), rank_distrib()) == (1, 0, 0)
        {}['x']
    assert (n_processes(), os.environ['RANK'], os.environ['MASTER_PORT']) == (2, '0', '29500')

@pytest.mark.parametrize('name', ['PMI_SIZE','OMPI_COMM_WORLD_SIZE','MV2_COMM_WORLD_SIZE'])
def test_launched_by_mpi(monkeypatch, name):
    monkeypatch.setenv(name, '4')
    assert n_processes() == 4
    with alone(): assert n_processes() == 1

def test_accelerate_on_cpus_starts_one_process(launch, monkeypatch):
    "Whatever number it is given; `torchrun` starts them all"
    monkeypatch.delenv('WORLD_SIZE')
    assert n_processes() == 1
    monkeypatch.delenv('RANK')
    with pytest.raises(ValueError, match='torchrun --nproc_per_node'): fit_ensemble(None, 2, None, 'x')

def test_processes_of_a_launch_that_write_one_file_do_not_meet(tmp_path):
    "The last one's is there, whole; nothing else is left. A process has its number from the start, within `alone` too"
    code = 'from fastai_ext.core import whole_file\nwith whole_file("x") as p: print(p.name)'
    env = {**os.environ, 'RANK': '1'}
    other = subprocess.run([sys.executable, '-W', 'ignore', '-c', code + '; p.touch()'], cwd=tmp_path, env=env,
        capture_output=True, text=True, check=True).stdout.strip()
    with whole_file(tmp_path/'x') as p: p.write_text('mine')
    assert other != p.name and [o.name for o in tmp_path.iterdir()] == ['x'] and (tmp_path/'x').read_text() == 'mine'

@pytest.fixture
def here():
    res = object.__new__(SideBySide)
    res.rank,res.n = 1,3
    return res

def test_share(here): assert [here.share(range(o)) for o in (8, 4, 1)] == [[1, 4, 7], [1], []]

def test_what_it_was_at_is_said(here, capsys):
    state = process_state()
    with pytest.raises(ZeroDivisionError), here.working('seed 7', lambda: 'Go on'): 1/0
    said = capsys.readouterr().err.strip()
    assert said == 'Process 1 of 3, at seed 7: ZeroDivisionError: division by zero. Go on'
    with here.working('seed 8'): pass
    assert capsys.readouterr().err == '' and process_state() == state

def test_a_signal_ends_it_in_order(here, capsys, tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as e, here.working('seed 7'), whole_file(tmp_path/'a') as p:
        p.write_text('half')
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
    assert e.value.code == 143 and 'at seed 7: ended from outside' in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [] and signal.getsignal(signal.SIGTERM) == before

def test_see_looks_again(here):
    n = iter([False, False, True])
    assert here.see(lambda: next(n)) and not here.see(lambda: False, .01)

def launched(path, *cmd, **env):
    "What two processes of the worker, or of a command, print, and their exit codes"
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    env = dict(os.environ, WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port), OMP_NUM_THREADS='1', **env)
    cmd = [sys.executable, '-W', 'ignore', *map(str, cmd or (worker, path))]
    ps = [subprocess.Popen(cmd, env={**env, 'RANK': str(r), 'LOCAL_RANK': str(r)}, cwd=path.parent, text=True,
        stderr=subprocess.PIPE, stdout=subprocess.PIPE) for r in (0, 1)]
    return [(*p.communicate(timeout=240), p.returncode) for p in ps]

@pytest.mark.slow
def test_members_side_by_side_are_those_of_one_process(tmp_path, monkeypatch):
    "One process is killed in its member; started again they go on, and leave the same files, to the byte"
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        fit_ensemble(members_worker.make, 3, members_worker.fit, tmp_path/'one')
    finally: torch.set_num_threads(threads)
    rest,dead = launched(tmp_path/'two', KILL='1')
    assert dead[2] == -9 and rest[2] == 1
    assert 'Members not finished: 1 (process 1). Started again in the same way, they go on' in rest[1]
    whole = {f'member_seed{i}.{o}' for i in (0, 2) for o in ('json','pth')}
    assert {o.name for o in (tmp_path/'two').glob('*.*')} == whole | {'member_seed1.ckpt'}
    outs = launched(tmp_path/'two')
    assert [o[2] for o in outs] == [0, 0], outs
    assert 'member_seed1.ckpt: going on in epoch 1' in outs[1][0]
    one,two = ({o.name: o.read_bytes() for o in (tmp_path/d).iterdir() if o.is_file()} for d in ('one', 'two'))
    assert one == two and len(one) == 6
    want = [torch.load(tmp_path/'one'/f'member_seed{i}.pth') for i in range(3)]
    (told,a,draw),(told1,b,draw1) = (torch.load(tmp_path/f'rank{r}') for r in (0, 1))
    for states in (a, b):
        for s,w in zip(states, want, strict=True): assert all(torch.equal(s[k], v) for k,v in w.items())
    # what the fits themselves keep is not mixed up
    assert all((tmp_path/'two'/f'member_seed{i}'/'model.pth').is_file() for i in range(3))
    words = 'process 0 has [0, 1, 2]','Process 1 has default 0 of fit=4','is not the folder that'
    for o in zip(told, told1, words): assert o[2] in o[0] and o[2] in o[1]
    assert not list((tmp_path/'refused').rglob('*.*'))

@pytest.mark.slow
def test_the_command_in_two_processes(tmp_path):
    "One report, and the files that one process leaves; what is wrong ends both, before anything is there"
    d = fashion_mnist('embedded')
    for c in (1, 8):
        (tmp_path/'photos'/str(c)).mkdir(parents=True)
        imgs = d.train_x[d.train_y == c][:30]
        for i,x in enumerate(imgs): Image.fromarray(x).save(tmp_path/'photos'/str(c)/f'{i}.png')
    opts = '--model mini_convnet --size 32 --epochs 1 --workers 0 --seeds 5 -3 9'.split()
    cmd = ['-m', 'fastai_ext', 'train', tmp_path/'photos', *opts]
    env = dict(os.environ, OMP_NUM_THREADS='1')
    alone_cmd = [sys.executable, *map(str, cmd), '--out', str(tmp_path/'one')]
    subprocess.run(alone_cmd, env=env, check=True, capture_output=True)
    (out,err,rc),(out1,err1,rc1) = launched(tmp_path/'two', *cmd, '--out', tmp_path/'two')
    assert (rc, rc1) == (0, 0), (err, err1)
    assert 'accuracy' in out and 'report.html' in out and out1.split('\n')[:2] == [
        'Process 1 of 2: member with seed -3', 'Member with seed -3: 1 epoch'] and 'report' not in out1
    files = [f'members/member_seed{i}.{o}' for i in (5, -3, 9) for o in ('pth','json')] + ['model.safetensors']
    for o in files: assert (tmp_path/'one'/o).read_bytes() == (tmp_path/'two'/o).read_bytes()
    names = [{str(p.relative_to(tmp_path/o)) for p in (tmp_path/o).rglob('*') if p.is_file()} for o in ('one', 'two')]
    assert names[0] == names[1]
    for (_,err,rc) in launched(tmp_path/'bad', *cmd[:3], tmp_path/'none', '--out', tmp_path/'bad'):
        assert rc == 2 and 'There is no folder' in err
        assert err.strip().startswith('fastai-ext: ') and len(err.strip().splitlines()) == 1
    assert not (tmp_path/'bad').exists()
