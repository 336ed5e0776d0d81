"""What flip TTA costs

Claims: on a folder of photographs read with PIL, where reading takes longer than the model, `learn.tta_flip()` is at least 1.8 times as fast
as `learn.tta(n=1)` and 4 times as fast as `learn.tta()`. Where the model takes longer, the gain is
smaller, as the second folder shows. On batches that are in memory it takes at most 1.1 times the time of the two forward passes alone.
Run: python benchmarks/tta.py (about 1 minute). Everything runs interleaved in one process; medians of the rounds."""
from fastai.vision.all import *
from PIL import Image
from statistics import mean, median, stdev
import argparse, json, tempfile, timm, time

from fastai_ext.models import *
from fastai_ext.core import environment
from fastai_ext.tta import *

def pictures(folder, n, size):
    "JPEG pictures as smooth as photographs"
    rng = np.random.RandomState(0)
    for i in range(n):
        small = Image.fromarray(rng.randint(0, 256, (16,20,3), dtype=np.uint8))
        small.resize(size, Image.BICUBIC).save(folder/f'{i%2}_{i}.jpg', quality=90)

def is_one(p): return p.name[0]

def learner(folder, px):
    dls = ImageDataLoaders.from_path_func(folder, get_image_files(folder), is_one, valid_pct=.8, bs=32, num_workers=0,
        item_tfms=Resize(px), batch_tfms=[*aug_transforms(), Normalize.from_stats(*imagenet_stats)])
    set_seed(0)
    learn = Learner(dls, timm.create_model('mini_resnet', in_chans=3, num_classes=2), loss_func=CrossEntropyLossFlat(), metrics=accuracy)
    learn.remove_cb(ProgressCallback)
    return learn

def seconds(f):
    start = time.perf_counter()
    f()
    return time.perf_counter()-start

def rounds(n, **fs):
    "Seconds of each function in each of `n` rounds, in turn"
    for f in fs.values(): f()
    res = {k: [] for k in fs}
    for i in range(n):
        for k,f in list(fs.items())[::1 if i%2 else -1]: res[k].append(seconds(f))
    return res

def two_passes(model, batches):
    model.eval()
    with torch.no_grad(): return torch.cat([(model(x).softmax(-1) + model(x.flip(-1)).softmax(-1))/2 for x,_ in batches])

def in_folder(n, size, px, n_rounds):
    with tempfile.TemporaryDirectory() as tmp:
        pictures(Path(tmp), n, size)
        learn = learner(Path(tmp), px)
        return rounds(n_rounds, tta_flip=learn.tta_flip, tta_1=lambda: learn.tta(n=1), tta=learn.tta, get_preds=learn.get_preds)

def in_memory(n_rounds):
    with tempfile.TemporaryDirectory() as tmp:
        pictures(Path(tmp), 4, (64,64))
        learn = learner(Path(tmp), 64)
    batches = [(torch.randn(32,3,64,64), torch.zeros(32, dtype=torch.long)) for _ in range(4)]
    assert torch.allclose(learn.tta_flip(dl=batches)[0], two_passes(learn.model, batches), atol=1e-6)
    return rounds(n_rounds, tta_flip=lambda: learn.tta_flip(dl=batches), two_passes=lambda: two_passes(learn.model, batches))

def table(res):
    "A Markdown table, and the ratios to tta_flip, each the median of the rounds' own"
    ratios = {where: {k: median(a/b for a,b in zip(v, r['tta_flip'])) for k,v in r.items()} for where,r in res.items()}
    print('| where | what | seconds, median | mean ± sd | times tta_flip |\n|---|---|---|---|---|')
    for where,r in res.items():
        for k,v in r.items(): print(f'| {where} | {k} | {median(v):.3f} | {mean(v):.3f} ± {stdev(v):.3f} | {ratios[where][k]:.2f} |')
    return ratios

if __name__ == '__main__':
    ap = argparse.ArgumentParser()
    ap.add_argument('--n', type=int, default=60, help='pictures')
    ap.add_argument('--rounds', type=int, default=5)
    args = ap.parse_args()
    res = {'1024x768 JPEG to 32x32': in_folder(args.n, (1024,768), 32, args.rounds),
        '640x480 JPEG to 64x64': in_folder(args.n, (640,480), 64, args.rounds), 'batches in memory': in_memory(2*args.rounds)}
    out = dict(pictures=args.n, model='mini_resnet', seconds=res, ratios=table(res), **environment())
    (Path(__file__).parent/'results'/'tta.json').write_text(json.dumps(out, indent=1))
