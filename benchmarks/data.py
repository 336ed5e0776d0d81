"""What it saves to read each item once

Claim: `dls.in_memory()` gives the batches of the ordinary loader, bit by bit, and small items many times faster: the
time of an epoch of training batches, batch transforms included, against the ordinary loader without and with two
workers, and against bare indexing of tensors with the same batch transforms.
Run: python benchmarks/data.py (about 3 minutes). Interleaved in one process; medians of the rounds. The images of
224×224 pixels are made of noise and clothes, as JPEGs in a folder that goes again."""
from fastai.vision.all import *

from fastai_ext.all import fashion_items, fashion_mnist, plain_tensor
from common import figure, in_turn, median, write

def mask_of(o): return PILMask.create((o.image > 127).astype(np.uint8))
def labels_of(o): return [o.category, 'training']
def points_of(o): return tensor([[float(o.image[0].argmax()), 3.], [10., 20.]])

def of_clothes(block, get_y):
    "Loaders of the 5,000 embedded images with other targets"
    kwargs = dict(get_items=lambda o: o, get_x=AttrGetter('image'), get_y=get_y, splitter=RandomSplitter(seed=42))
    block = DataBlock((ImageBlock(PILImageBW), block), batch_tfms=Normalize.from_stats([.286], [.353]), **kwargs)
    return block.dataloaders(fashion_items('embedded')[:5000], bs=64, num_workers=0, shuffle=False)

def write_jpegs(folder, n):
    "`n` images of 224×224 pixels, a folder for each class"
    d,rng = fashion_mnist('embedded'),np.random.default_rng(0)
    for i in range(n):
        parent = folder/f'class {d.train_y[i]}'
        parent.mkdir(exist_ok=True, parents=True)
        big = np.kron(d.train_x[i], np.ones((8,8)))[...,None] + rng.integers(0, 60, (224,224,3))
        PILImage.create(big.clip(0, 255).astype(np.uint8)).save(parent/f'{i}.jpg', quality=90)

def bare_epoch(held, dl):
    "Indexing and the batch transforms alone"
    n = len(held[0])
    for i in range(0, n - n%dl.bs, dl.bs):
        idxs = torch.arange(i, i+dl.bs)
        dl.after_batch(tuple(type(x)(plain_tensor(x).index_select(0, idxs)) for x in held))

def epoch(dl):
    for _ in dl: pass

def measure(name, dls, rounds):
    start = time.perf_counter()
    fast = dls.in_memory(num_workers=2)
    fill = time.perf_counter()-start
    for a,b in zip(dls.loaders, fast.loaders):
        for p,q in zip(a.new(shuffle=False), b.new(shuffle=False)):
            assert all(torch.equal(plain_tensor(x), plain_tensor(y)) for x,y in zip(p, q))
    ordinary,with_workers,train = dls.train,dls.train.new(num_workers=2),fast.train
    cases = dict(ordinary=partial(epoch, ordinary), workers=partial(epoch, with_workers))
    ts = in_turn(cases, rounds, warm=0) | in_turn(dict(memory=partial(epoch, train),
        bare=partial(bare_epoch, train.held, train)), 5*rounds)
    best,memory = min(median(ts['ordinary']), median(ts['workers'])),median(ts['memory'])
    over_bare = median(a/b for a,b in zip(ts['memory'], ts['bare']))
    return dict(data=name, n=len(train.dataset), fill=fill, **{k: figure(v) for k,v in ts.items()}, faster=best/memory,
        over_bare=over_bare, pays_from=fill/(best-memory))

@call_parse
def main(
    rounds:int=3, # of the ordinary loaders
    n:int=1000 # JPEGs
):
    classes,masks = (CategoryBlock, AttrGetter('category')),(MaskBlock(['no','yes']), mask_of)
    kinds = dict(classes=classes, masks=masks, labels=(MultiCategoryBlock, labels_of), points=(PointBlock, points_of))
    rows = [measure(k, of_clothes(*o), rounds) for k,o in kinds.items()]
    with tempfile.TemporaryDirectory() as tmp:
        write_jpegs(Path(tmp), n)
        rows.append(measure('JPEGs, 224×224', ImageDataLoaders.from_folder(tmp, valid_pct=.1, seed=42, num_workers=0,
            batch_tfms=Normalize.from_stats(*imagenet_stats)), rounds))
    print('| data | items | ordinary, s | 2 workers, s | in memory, s | faster | over bare | reading, s | pays from |')
    print('|---|--:|--:|--:|--:|--:|--:|--:|--:|')
    for r in rows:
        ts = ' | '.join(f"{r[k]['median']:.3g}" for k in ('ordinary','workers','memory'))
        print(f"| {r['data']} | {r['n']} | {ts} | {r['faster']:.1f} times | {r['over_bare']:.2f} | {r['fill']:.1f} | "
            f"epoch {math.ceil(r['pays_from'])} |")
    write('data', dict(rounds=rounds, bs=64), rows)
