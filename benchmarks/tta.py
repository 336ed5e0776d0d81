"""What flip TTA costs

Claims: on a folder of photographs read with PIL, where reading takes longer than the model, `learn.tta_flip()` is at
least 1.8 times as fast as `learn.tta(n=1)` and 4 times as fast as `learn.tta()`. Where the model takes longer, the
gain is smaller, as the second folder shows. On batches that are in memory it takes at most 1.1 times the time of the
two forward passes alone.
Run: python benchmarks/tta.py (about 1 minute). Everything runs interleaved in one process; medians of the rounds."""
from fastai.vision.all import *
from PIL import Image
import tempfile, timm

from fastai_ext.models import *
from fastai_ext.tta import *
from common import figure, in_turn, mean_sd, median, write

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
    model = timm.create_model('mini_resnet', in_chans=3, num_classes=2)
    learn = Learner(dls, model, loss_func=CrossEntropyLossFlat(), metrics=accuracy)
    learn.remove_cb(ProgressCallback)
    return learn

def two_passes(model, batches):
    model.eval()
    def _mean(x): return (model(x).softmax(-1) + model(x.flip(-1)).softmax(-1))/2
    with torch.no_grad(): return torch.cat([_mean(x) for x,_ in batches])

def in_folder(n, size, px, n_rounds):
    with tempfile.TemporaryDirectory() as tmp:
        pictures(Path(tmp), n, size)
        learn = learner(Path(tmp), px)
        cases = dict(tta_flip=learn.tta_flip, tta_1=lambda: learn.tta(n=1), tta=learn.tta, get_preds=learn.get_preds)
        return in_turn(cases, n_rounds)

def in_memory(n_rounds):
    with tempfile.TemporaryDirectory() as tmp:
        pictures(Path(tmp), 4, (64,64))
        learn = learner(Path(tmp), 64)
    batches = [(torch.randn(32,3,64,64), torch.zeros(32, dtype=torch.long)) for _ in range(4)]
    assert torch.allclose(learn.tta_flip(dl=batches)[0], two_passes(learn.model, batches), atol=1e-6)
    cases = dict(tta_flip=lambda: learn.tta_flip(dl=batches), two_passes=lambda: two_passes(learn.model, batches))
    return in_turn(cases, n_rounds)

@call_parse
def main(
    n:int=60, # pictures
    rounds:int=5
):
    res = {'1024x768 JPEG to 32x32': in_folder(n, (1024,768), 32, rounds),
        '640x480 JPEG to 64x64': in_folder(n, (640,480), 64, rounds), 'batches in memory': in_memory(2*rounds)}
    # a ratio is the median of the rounds' own
    rows = [dict(where=where, what=k, seconds=figure(v), ratio=median(a/b for a,b in zip(v, r['tta_flip'])))
        for where,r in res.items() for k,v in r.items()]
    print('| where | what | seconds, median | mean ± sd | times tta_flip |\n|---|---|---|---|---|')
    for r in rows:
        secs = r['seconds']
        print(f"| {r['where']} | {r['what']} | {secs['median']:.3f} | {mean_sd(secs['runs'], 3)} | {r['ratio']:.2f} |")
    write('tta', dict(pictures=n, model='mini_resnet'), rows)
