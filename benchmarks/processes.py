"""Members of an ensemble one after another, and side by side in two processes

Claim: on two cores, two processes with one thread each train two members in less time than one process with two
threads, and the members are those of one process with one thread, to the byte.
Run: python benchmarks/processes.py [--runs N] [--epochs N] (about 8 minutes on two free cores). Each way is launched as
a user would, in turn: `seconds` is the time of `fit_ensemble`, `whole` that of the launch, with Python and the imports,
`cpu` the processor time of the busiest process. `load` is the number of processes that wanted a core as the way began:
if these are more than the cores, `seconds` say who got them, and what a single-threaded process needs is its `cpu`."""
from fastai.vision.all import *
import hashlib, os, subprocess, sys, tempfile

from fastai_ext.augment import RandFlip
from fastai_ext.cluster import BatchPredictor
from fastai_ext.data import fashion_mnist, fashion_mnist_dls
from fastai_ext.ensemble import fit_ensemble
from fastai_ext.models import mini_resnet
from fastai_ext.precision import AutoPrecision
from common import figure, in_new_process, in_turn, seconds, write

n,lr = 2,1e-2
ways = {'one process, 2 threads': (1, 2), 'one process, 1 thread': (1, 1), 'two processes, 1 thread each': (2, 1)}

def make():
    dls = fashion_mnist_dls('embedded', batch_tfms=RandFlip())
    return Learner(dls, mini_resnet(), metrics=accuracy, cbs=[ChannelsLast(), AutoPrecision()])
def fit(learn, epochs):
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(epochs, lr)

def member(folder, epochs):
    "Run in each process of a launch"
    start,cpu = time.perf_counter(),time.process_time()
    fit_ensemble(make, n, partial(fit, epochs=epochs), folder)
    took = [time.perf_counter()-start, time.process_time()-cpu]
    (Path(folder)/f'took{os.environ.get("RANK", 0)}').write_text(json.dumps(took))

def launch(n_procs, threads, epochs):
    "A launch of some processes with some threads: times, and digests of the members' files"
    env = dict(os.environ, OMP_NUM_THREADS=str(threads), PYTHONWARNINGS='ignore')
    cmd = [sys.executable, *(['-m','torch.distributed.run','--nproc_per_node',str(n_procs)] if n_procs > 1 else [])]
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as d:
        start = time.perf_counter()
        args = [*cmd, __file__, '--folder', d, '--epochs', str(epochs)]
        subprocess.run(args, env=env, check=True, stdout=subprocess.DEVNULL)
        whole = time.perf_counter()-start
        files = [hashlib.sha256((Path(d)/f'member_seed{i}.pth').read_bytes()).hexdigest()[:16] for i in range(n)]
        secs,cpu = map(max, zip(*[json.loads((Path(d)/f'took{i}').read_text()) for i in range(n_procs)]))
    said = f'{secs:.1f} s, {whole:.1f} s in all, {cpu:.1f} s of cpu, load {load:.1f}'
    print(f'{n_procs} × {threads}: {said}', flush=True)
    return dict(seconds=secs, whole=whole, cpu=cpu, load=load, files=files)

def rate():
    "Images a second that one thread predicts with flip TTA, read from arrays"
    torch.set_num_threads(1)
    learn,x = make(),np.concatenate([fashion_mnist('embedded').test_x]*2)
    predict = BatchPredictor(learn, tta=True)
    return [len(x)/seconds(lambda: [predict(dict(image=o)) for o in np.split(x, 8)]) for _ in range(5)]

def row(way, ms):
    times = {f: figure([o[f] for o in ms]) for f in ('seconds','whole','cpu','load')}
    files = [o['files'] for o in ms]
    about = dict(way=way, processes=ways[way][0], threads=ways[way][1])
    return dict(about, **times, files=files[0], repeats=len(set(map(tuple, files))) == 1)

@call_parse
def main(
    runs:int=2, # Rounds
    epochs:int=6, # Of each member
    folder:str='' # For itself: a process of a launch
):
    if folder: return member(folder, epochs)
    rows = [row(*o) for o in in_turn(ways, runs, warm=0, measure=lambda o: launch(*o, epochs)).items()]
    for r in rows: r['ratio'] = r['seconds']['median']/rows[0]['seconds']['median']
    same = [r['files'] == rows[1]['files'] for r in rows]
    write('processes', dict(model='mini_resnet', data='embedded', members=n, epochs=epochs, lr=lr, runs=runs), rows,
        dict(same_members=same[2], same_with_2_threads=same[0], images_per_s=figure(in_new_process(rate))))
    print('| way | seconds | with the start | cpu | ratio |\n|---|--:|--:|--:|--:|')
    for r in rows:
        shown = [f"{r[k]['mean']:.1f}" for k in ('seconds','whole','cpu')]
        print(f"| {r['way']} | {' | '.join(shown)} | {r['ratio']:.2f} |")
