"""The job on a folder of photos, and prediction of many files

Claims: 300 JPEGs in three classes, of sides from 300 to 800, from the folder to the report in at most 5 minutes on two
cores, by the defaults. 20,000 files in at most 1.2 times the memory of 2,000, and 20 times as many a second as
`learn.predict` in a loop. The images are made up: items of Fashion-MNIST in any colour, size and turn, before a
background; the many files are the items themselves, as JPEG. Memory is the most that a process had: the one that
predicts, and the largest of its workers. The loop is over the same files with the same learner, without bars. `most` is
how many times as fast as the loop it could be if all processors did nothing but read the files by Pillow.
Run: python benchmarks/job.py [--FILES 20000] [--MODEL mini_convnet]"""
import multiprocessing, subprocess, sys, tempfile

from fastai.vision.all import *
from fastai_ext.data import fashion_mnist, fashion_vocab
from fastai_ext.fashion import fashion_job
from fastai_ext.predict import ImagePredictor, find_images
from common import in_new_process, seconds, write

def photo(x, rng, size):
    "An item in some colour, size and turn, before a background"
    (w,h),tint = size,rng.integers(60, 200)
    back = Image.fromarray(np.clip(tint + rng.integers(-40, 41, (4,4,3)), 0, 255).astype(np.uint8))
    back = np.asarray(back.resize(size, Image.Resampling.BICUBIC)) + rng.integers(-15, 16, (h,w,1))
    back = Image.fromarray(np.clip(back, 0, 255).astype(np.uint8))
    side = int(min(size)*rng.uniform(.45, .9))
    item = Image.fromarray(x).resize((side,side), Image.Resampling.BICUBIC).rotate(rng.uniform(-20, 20))
    shade = np.asarray(item)[...,None]/255*.6 + .4
    colour = Image.fromarray((rng.integers(0, 256, 3)*shade).astype(np.uint8))
    place = int(rng.integers(0, w-side+1)),int(rng.integers(0, h-side+1))
    back.paste(colour, place, item.point(lambda o: min(255, o*6)))
    return back

def make_photos(folder, n, lo, hi, classes=(2,3,8), start=0):
    "`n` photos of each class in a folder of its name"
    d,rng = fashion_mnist(),np.random.default_rng(start)
    for c in classes:
        (folder/fashion_vocab[c]).mkdir(parents=True)
        for i,x in enumerate(d.train_x[d.train_y == c][start:start+n]):
            photo(x, rng, rng.integers(lo, hi+1, 2).tolist()).save(folder/fashion_vocab[c]/f'{i}.jpg', quality=90)

def make_items(folder, n):
    "`n` small files"
    d = fashion_mnist()
    for i in range(n):
        f = folder/f'{i//1000}'/f'{i}.jpg'
        f.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(d.train_x[i%len(d.train_x)]).save(f)

def predicted(run, folder, n, out):
    "Images a second and the most memory (MB), of `n` files of a folder"
    import resource
    multiprocessing.set_start_method('fork', force=True) # as the command has it on Linux
    predictor,files = ImagePredictor(run),find_images([folder])[:n]
    s = seconds(lambda: predictor.write(files, out))
    mb = [resource.getrusage(o).ru_maxrss/1e3 for o in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return dict(n=n, images_s=n/s, mb=mb[0], worker_mb=mb[1])

def decoded(folder, n):
    "Images a second that one process only reads"
    def _read(f):
        with Image.open(f) as img: return np.asarray(img)
    files = find_images([folder])[:n]
    return dict(n=n, images_s=n/seconds(lambda: [_read(f) for f in files]))

def looped(run, folder, n):
    "Images a second of `learn.predict`"
    learn = load_learner(f'{run}/learner.pkl')
    files = [PILImageBW.create(f) for f in find_images([folder])[:n]]
    with learn.no_bar():
        learn.predict(files[0])
        s = seconds(lambda: [learn.predict(o) for o in files])
    return dict(n=n, images_s=n/s)

@call_parse
def main(
    files:int=20_000, # Files to predict
    model:str='mini_convnet', # That predicts them
    n_loop:int=200 # Files that `learn.predict` is given
):
    with tempfile.TemporaryDirectory() as d:
        d = Path(d)
        make_photos(d/'photos', 100, 300, 800)
        cmd = [sys.executable, '-W', 'ignore', '-m', 'fastai_ext', 'train', d/'photos', '--out', d/'train']
        load = os.getloadavg()[0]
        job_s = seconds(lambda: subprocess.run(list(map(str, cmd)), check=True, stdout=subprocess.DEVNULL))
        used = os.times()
        res = json.loads((d/'train'/'results.json').read_text())
        rows = [dict(what='job', seconds=job_s, cpu_s=used.children_user+used.children_system, load=load,
            training_s=res['seconds'], settings={k: res['settings'][k] for k in ('model','size','epochs','bs','lr')},
            members=res['members'], ensemble=res['ensemble'])]
        print(f'The job: {job_s:.0f} s, {rows[0]["cpu_s"]:.0f} s of the processors; {res["ensemble"]}')
        make_items(d/'items', files)
        fashion_job(d/'run', model=model, epochs=1, seeds=42, export=True)
        for n in (files//10, files):
            rows.append(dict(what='predict', **in_new_process(predicted, d/'run', d/'items', n, d/'p.csv')))
            print(rows[-1])
        rows.append(dict(what='reading alone', **in_new_process(decoded, d/'items', files//10)))
        rows.append(dict(what='learn.predict', **in_new_process(looped, d/'run', d/'items', n_loop)))
        print(rows[-2:])
    few,many,read,loop = rows[1:]
    summary = dict(job_s=job_s, memory=(many['mb']+many['worker_mb'])/(few['mb']+few['worker_mb']),
        speed=many['images_s']/loop['images_s'], most=os.cpu_count()*read['images_s']/loop['images_s'])
    print(summary)
    write('job', dict(files=files, model=model, n_loop=n_loop), rows, summary)
