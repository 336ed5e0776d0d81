"Loaders in memory against the ordinary ones, batch by batch"
from fastai.callback.data import WeightedDL
from fastai.distributed import DistributedDL
from fastai.tabular.all import TabularDataLoaders
from fastai.text.all import LMDataLoader, TextBlock
from fastai.vision.all import *
from fastai_ext.all import *
from copy import deepcopy
from multiprocessing import active_children
from threading import Timer
import pickle, pytest, signal, subprocess, sys
from helpers import *
from fastcore.test import test_eq as eq

@pytest.fixture(scope='module')
def files(tmp_path_factory):
    "25 colour images of 20×24 pixels in two folders, each with a mask beside it"
    path,rng = tmp_path_factory.mktemp('images'),np.random.default_rng(0)
    for i in range(25):
        f = path/'ab'[i%2]/f'{i:02}.png'
        f.parent.mkdir(exist_ok=True)
        PILImage.create(rng.integers(0, 256, (20,24,3), dtype=np.uint8)).save(f)
        (path/'masks').mkdir(exist_ok=True)
        PILMask.create(rng.integers(0, 3, (20,24), dtype=np.uint8)).save(path/'masks'/f.name)
    return path

def images(path): return [o for o in get_image_files(path) if o.parent.name != 'masks']
def mask_of(f): return f.parents[1]/'masks'/f.name
def labels_of(f): return [f.parent.name, f'n{int(f.stem)%3}']
def points_of(f): return tensor([[float(int(f.stem)%20), 3.], [10., 12.]])
def boxes_of(f): return [[1, 2, 3+i, 9] for i in range(int(f.stem)%3+1)]
def names_of(f): return ['box' for i in range(int(f.stem)%3+1)]
def number_of(f): return float(f.stem)

def kind(*blocks, **kwargs): return dict(blocks=(ImageBlock, *blocks), **kwargs)

three = kind(ImageBlock(PILImageBW), CategoryBlock, n_inp=2, getters=[noop, noop, parent_label])
boxes = kind(BBoxBlock, BBoxLblBlock, n_inp=1, getters=[noop, boxes_of, names_of])
masks,multi = kind(MaskBlock(['x','y','z']), get_y=mask_of),kind(MultiCategoryBlock, get_y=labels_of)
points,number = kind(PointBlock, get_y=points_of),kind(RegressionBlock, get_y=number_of)
classes = kind(CategoryBlock, get_y=parent_label)
kinds = dict(classes=classes, masks=masks, multi=multi, points=points, number=number, two_inputs=three, boxes=boxes)

def seeded(dl):
    "The batches of an epoch, all draws from the same seed"
    set_seed(0)
    return list(dl)

def over(items, **kwargs):
    "Loaders over a list, without a DataBlock"
    return DataLoaders.from_dsets(items, items, bs=4, num_workers=0, device='cpu', **kwargs)

normed = Normalize.from_stats([.5]*3, [.2]*3)

def loaders(path, kind='classes', batch_tfms=normed, item_tfms=None, bs=4, num_workers=0, **kwargs):
    block = DataBlock(get_items=images, splitter=IndexSplitter(range(7)), item_tfms=item_tfms, batch_tfms=batch_tfms,
        **kinds[kind])
    return block.dataloaders(path, bs=bs, num_workers=num_workers, **kwargs)

def ordinary(dl, **kwargs):
    "A loader of fastai's over what `dl` is over"
    return TfmdDL(dl.dataset, bs=dl.bs, num_workers=0, drop_last=dl.drop_last, after_item=dl.after_item,
        after_batch=dl.after_batch, do_setup=False, **kwargs)

def same(a, b):
    "Values, types and what the tensors know, of all batches"
    a,b = list(a),list(b)
    assert len(a) == len(b) > 0
    for p,q in zip(a, b):
        assert type(p) is type(q) and len(p) == len(q)
        for x,y in zip(p, q):
            assert type(x) is type(y) and x.dtype == y.dtype and vars(x) == vars(y)
            assert torch.equal(plain_tensor(x), plain_tensor(y))

@pytest.mark.parametrize('kind,workers', [*[(o, 0) for o in kinds], ('masks', 2), ('boxes', 2)])
def test_batch_by_batch(files, kind, workers):
    dls = loaders(files, kind, shuffle=False)
    fast = dls.in_memory(num_workers=workers)
    assert type(fast) is type(dls)
    for a,b in zip(dls.loaders, fast.loaders): same(a, b)

def test_shuffled_as_before(files):
    "From the same seed the same batches, also in the second epoch; the present loaders stay as they were"
    batches = []
    for in_memory in (False, True):
        set_seed(3)
        dls = loaders(files, batch_tfms=[RandErase(p=.5), Rotate(p=.5)])
        if in_memory: dls = dls.in_memory()
        set_seed(4)
        batches.append([*dls.train, *dls.train])
    same(*batches)

@pytest.mark.parametrize('bs,drop_last', [(4,True), (4,False), (7,True), (18,True), (100,False), (1,False)])
def test_uneven_batches(files, bs, drop_last):
    dls = loaders(files, bs=bs, shuffle=False, drop_last=drop_last)
    same(dls.train, dls.in_memory().train)

def test_other_sizes_are_a_list(files, tmp_path, capsys):
    "Read one by one, resized by a batch transform of the user"
    for i,f in enumerate(images(files)): PILImage.create(f).resize((20+i%3*4, 24)).save(tmp_path/f'a{i:02}.png')
    def _block(size):
        class Resized(ItemTransform):
            order = 100
            def encodes(self, o): return TensorImage(F.interpolate(o[0][None].float(), size=size)[0]),o[1]
        block = DataBlock((ImageBlock, RegressionBlock), get_items=get_image_files, get_y=lambda f: float(f.stem[1:]),
            splitter=IndexSplitter(range(7)))
        def _resized(o): return [Resized()(x) for x in o]
        return block.dataloaders(tmp_path, bs=4, num_workers=0, before_batch=_resized, shuffle=False)
    dls = _block((8,8))
    fast = dls.in_memory()
    assert capsys.readouterr().out.count('kept one by one') == 1
    for a,b in zip(dls.loaders, fast.loaders): same(a, b)

def test_first_items_alike_others_not():
    "The form of the first, the middle and the last item doesn't promise that of the rest"
    dls = over([(torch.ones(8+(i == 130)), i) for i in range(200)])
    same(dls.valid.new(bs=1), dls.in_memory().valid.new(bs=1))

@pytest.mark.parametrize('tfm', [RandomResizedCrop(8), FlipItem(), Resize(8)], ids=['crop', 'flip', 'resize'])
def test_random_item_transforms_are_named(files, tfm):
    why = f'loader 0 has random item transforms.*{type(tfm).__name__}'
    with pytest.raises(ValueError, match=why): loaders(files, item_tfms=tfm).in_memory()
    fast = loaders(files, item_tfms=[tfm, Resize(8, method='squish')]).in_memory(freeze_random=True)
    same(fast.train.new(shuffle=False), fast.train.new(shuffle=False))

def test_other_random_things_are_refused(files):
    class Mine(RandTransform):
        "With random numbers of its own, for training"
        rng = random.Random(0)
        def encodes(self, o:PILImage): return o
    rng = np.random.default_rng(0)
    def noisy(o:PILImage): return PILImage.create((np.asarray(o)//2+rng.integers(0, 9)).astype(np.uint8))
    def drawing(o:PILImage): return o if torch.rand(()) < 2 else None
    for tfm in (Mine(), noisy, drawing):
        with pytest.raises(ValueError, match='random item transforms'): loaders(files, item_tfms=tfm).in_memory()
    loaders(files, item_tfms=Resize(8, method='squish')).in_memory()

def test_rare_draw_is_found(files):
    "Of an item that isn't among the first ones"
    first_px = [np.asarray(PILImage.create(o))[0,0,0] for o in loaders(files).train_ds.items]
    def rare(o:PILImage):
        if np.asarray(o)[0,0,0] == first_px[5]: random.random()
        return o
    dls = loaders(files, item_tfms=rare)
    assert first_px[5] not in (first_px[0], first_px[9], first_px[17])
    with pytest.raises(ValueError, match='random'): dls.in_memory()

@pytest.mark.parametrize('workers', [0, 2])
def test_bad_files(files, tmp_path, workers):
    shutil.copytree(files, tmp_path/'x')
    bad = [o for o in images(tmp_path/'x') if o.stem in ('11','13')]
    for o in bad: o.write_text('none')
    dls = loaders(tmp_path/'x', num_workers=workers)
    with pytest.raises(ValueError) as e: dls.in_memory()
    for o in bad: assert o.name in str(e.value)
    assert '2 items' in str(e.value) and 'UnidentifiedImageError' in str(e.value)
    with pytest.warns(UserWarning, match='2 items left out'): fast = dls.in_memory(skip_bad=True)
    assert sum(len(o.dataset) for o in fast.loaders) == 23 and len(dls.train_ds)+len(dls.valid_ds) == 25
    for a in fast.loaders: same(a.new(shuffle=False), ordinary(a))
    for o in images(tmp_path/'x'): o.write_text('none')
    why = 'none of the first items can be read.*UnidentifiedImageError'
    with pytest.raises(ValueError, match=why): dls.in_memory(skip_bad=True)

def test_skipped_items(files):
    "SkipItemException: fastai's loaders leave such items out as well"
    def skip(o:PILImage):
        if np.asarray(o)[0,0,0]%3 == 2: raise SkipItemException
        return o
    dls = loaders(files, item_tfms=skip, shuffle=False, drop_last=False)
    same(dls.train, dls.in_memory().train)

def test_refused_before_anything_is_read(files):
    dls = loaders(files)
    with pytest.raises(ValueError, match='GB.*max_gb'): dls.in_memory(max_gb=1e-6)
    with pytest.raises(ValueError, match='training loader is empty'): dls.new_empty().in_memory()
    with pytest.raises(ValueError, match='no_device can.t hold'): dls.in_memory(device='no_device')
    lm = LMDataLoader([tensor(range(100))], bs=2, seq_len=5)
    table = TabularDataLoaders.from_df(pd.DataFrame(dict(a=np.arange(8.), y=[0.,1]*4)), cont_names=['a'], y_names='y')
    for dl in (lm, table.train, torch.utils.data.DataLoader([1,2])):
        with pytest.raises(ValueError, match='can.t be put into memory'): DataLoaders(dl, dls.valid).in_memory()

def test_empty_validation_stays(files):
    dls = DataBlock((ImageBlock, CategoryBlock), get_items=images, get_y=parent_label,
        splitter=lambda o: (range_of(o), [])).dataloaders(files, bs=4, num_workers=0)
    assert len(dls.in_memory().valid) == 0

def test_own_loaders(files):
    "The class and what it knows stay, in copies too; so does a way of drawing that was put in the place of another"
    weighted = DataBlock(get_items=images, splitter=IndexSplitter(range(7)), **kinds['classes']).weighted_dataloaders
    dls = weighted(files, [1.]*24+[1000.], bs=4, num_workers=0)
    fast = dls.in_memory()
    assert isinstance(fast.train, WeightedDL)
    for o in (fast, pickle.loads(pickle.dumps(fast)), deepcopy(fast)): same(seeded(dls.train), seeded(o.train))
    dls.train.get_idxs = lambda: [5,1,1,9,2,3]
    same(dls.train, dls.in_memory().train)

def test_twice(files):
    "What is in memory stays there"
    fast = loaders(files).in_memory()
    again = fast.in_memory(device='cpu')
    same(fast.valid, again.valid)
    assert again.train.held[0].data_ptr() == fast.train.held[0].data_ptr()

@pytest.mark.parametrize('rank', [0, 1])
def test_each_process_has_its_half(files, rank, monkeypatch):
    monkeypatch.setattr(DistributedDL, '_broadcast', lambda self, t, rank: t)
    dls = loaders(files)
    fast = dls.in_memory()
    same(*[seeded(DistributedDL(o.train, rank, 2)) for o in (dls, fast)])

@pytest.mark.parametrize('workers', [0, 2])
def test_nothing_else_changes(files, workers):
    "No random state, transform or loader of before, whether it is done or refused"
    def _state(dls): return fingerprint(*dls.loaders),process_state()
    squish,crop = Resize(8, method='squish'),RandomResizedCrop(8)
    for tfm,freeze in ((squish, False), (crop, True), (crop, False)):
        dls = loaders(files, item_tfms=tfm, num_workers=workers)
        if tfm is crop: dls.one_batch() # by which functions find out their types
        before = _state(dls)
        try: fast = dls.in_memory(freeze_random=freeze)
        except ValueError: assert tfm is crop and not freeze
        else: fast.add_tfms([FlipItem()], 'after_batch')
        changed = [o for a,b in zip(before, _state(dls)) for o in differences(a, b)]
        assert [o for o in changed if 'codes' not in o[0] and 'setups' not in o[0]] == []

@pytest.mark.parametrize('workers', [0, 2])
def test_interruption(files, workers):
    "Leaves no process behind, though the traceback is kept"
    def slow(o:PILImage):
        time.sleep(.03)
        return o
    dls = loaders(files, item_tfms=slow, num_workers=workers)
    signal.signal(signal.SIGINT, signal.default_int_handler) # a shell has its jobs in the background ignore it
    Timer(.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
    with pytest.raises(KeyboardInterrupt) as kept: dls.in_memory()
    assert kept.tb and not active_children() and len(list(dls.valid)) == 2

@pytest.mark.parametrize('dtype', [torch.bool, torch.int16, torch.float64, torch.bfloat16])
@pytest.mark.parametrize('form', [lambda x: x, lambda x: (x,), lambda x: [x, 3], lambda x: dict(x=x, i=3)],
    ids=['bare', 'tuple', 'list', 'dict'])
def test_items_of_any_form(form, dtype):
    xs = (torch.arange(18).view(9,2)%3).to(dtype)
    dls = over([form(x) for x in xs])
    for a,b in zip(dls.valid, dls.in_memory().valid): assert str(a) == str(b)

def test_memory_of_dicts_and_views():
    "The tensors in dicts count, and of a view only what is seen"
    x = torch.zeros(9, 25_000)
    with pytest.raises(ValueError, match='max_gb'): over([dict(x=o.clone()) for o in x]).in_memory(max_gb=.001)
    for form in (dict, lambda x: (x,)): over([form(x=o) for o in x]).in_memory(max_gb=.002)

def test_before_batch_in_place():
    "Changes no item"
    items = [(torch.ones(2+i%3), i) for i in range(9)]
    def doubled(b): return [(F.pad(x.mul_(2), (0, 4-len(x))), y) for x,y in b]
    fast = over(items, before_batch=doubled).in_memory()
    same(fast.valid, fast.valid)
    assert items[0][0].max() == 1

def test_sorted_texts():
    texts = ['a b c d', 'a', 'b c', 'd e f', 'a b', 'c']*4
    block = DataBlock((TextBlock.from_df('x'), CategoryBlock), get_x=ColReader('text'), get_y=ColReader('y'),
        splitter=IndexSplitter(range(6)))
    dls = block.dataloaders(pd.DataFrame(dict(x=texts, y=list('ab')*12)), bs=4, num_workers=0)
    fast = dls.in_memory()
    same(seeded(dls.train), seeded(fast.train))
    same(dls.valid.new(bs=3), fast.valid.new(bs=3))

def test_all_that_people_do(files):
    dls = loaders(files, item_tfms=Resize(16, method='squish'))
    fast = dls.in_memory()
    assert fast.train.new(bs=3).one_batch()[0].shape == (3,3,16,16)
    assert type(fast.test_dl(images(files)[:3])) is TfmdDL
    set_seed(1)
    net = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    learns = [Learner(d, net, metrics=accuracy) for d in (dls, fast)]
    for f in (lambda o: o.get_preds(), lambda o: o.get_preds(ds_idx=0), lambda o: o.tta_flip(), lambda o: o.validate(),
        lambda o: o.predict(images(files)[0]), lambda o: o.get_preds(with_loss=True, with_input=True)):
        a,b = map(f, learns)
        for x,y in zip(a, b): assert str(x) == str(y)
    fast.show_batch()
    fast.show_batch(unique=True)
    learn = learns[1]
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, cbs=AlternateFlip())
        learn.lr_find(num_it=12, show_plot=False)
    learn.show_results()
    learn.show_train_batch()
    learn.summary()
    ClassificationInterpretation.from_learner(learn).plot_top_losses(2)
    fast.to('cpu')
    fast.new_empty()
    plt.close('all')

def test_reads_nothing_more(files, tmp_path):
    "After the first reading the files may go, and nothing else changes when they do"
    shutil.copytree(files, tmp_path/'x')
    fast = loaders(tmp_path/'x', num_workers=2).in_memory()
    shutil.rmtree(tmp_path/'x')
    assert [len(list(o)) for o in fast.loaders] == [4, 2]
    assert all(o.fake_l.num_workers == 0 for o in fast.loaders)

@pytest.mark.slow
def test_exported_without_the_items(files, tmp_path):
    dls = loaders(files).in_memory()
    net = nn.Sequential(nn.Flatten(), nn.Linear(3*20*24, 2))
    learn = Learner(dls, net, path=tmp_path, loss_func=CrossEntropyLossFlat())
    want = learn.predict(images(files)[0])[2]
    learn.export()
    code = f"""
from fastai.learner import load_learner
import warnings; warnings.simplefilter('ignore')
l = load_learner({str(tmp_path/'export.pkl')!r})
with l.no_bar(): print(l.predict({str(images(files)[0])!r})[2].tolist())"""
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout
    assert np.allclose(json.loads(out.splitlines()[-1]), want)
    size = (tmp_path/'export.pkl').stat().st_size
    learn.dls = loaders(files)
    learn.export()
    assert abs(size - (tmp_path/'export.pkl').stat().st_size) < 1000

def test_item_transforms_that_come_later_are_refused(files):
    "They would be left out silently; batch transforms may come"
    fast = loaders(files).in_memory()
    fast.add_tfms([Rotate()], 'after_batch')
    fast.train.one_batch()
    for event in ('after_item', 'before_batch'):
        dls = loaders(files).in_memory()
        dls.add_tfms([Transform(noop)], event, 'train')
        with pytest.raises(ValueError, match='before the item transforms were changed'): dls.train.one_batch()
        dls.valid.one_batch()

def test_changing_a_batch_changes_no_item(files):
    dls = loaders(files, batch_tfms=[], shuffle=False).in_memory()
    dl = dls.train.new(after_batch=lambda b: (b[0].zero_(), b[1]))
    first = [o[0].clone() for o in dls.train]
    list(dl)
    for a,b in zip(first, dls.train): assert torch.equal(a, b[0])

def test_fashion_is_as_its_items_are():
    dls = fashion_mnist_dls('embedded', bs=100, shuffle=False, batch_tfms=RandErase(p=0))
    assert [type(o) for o in dls.loaders] == [InMemoryDL]*3
    for dl in dls.loaders: same(dl, ordinary(dl))
    assert type(fashion_mnist_dls('embedded', item_tfms=[Resize(32)]).train) is TfmdDL

# Arrays

rng = np.random.default_rng(1)
pixels = dict(grey=rng.integers(0, 256, (12,6,5), dtype=np.uint8), columns=rng.random((12,4), dtype=np.float32),
    colour=rng.integers(0, 256, (12,6,5,3), dtype=np.uint8), floats=rng.random((12,2,6,5), dtype=np.float32))
ce,several,squares = CrossEntropyLossFlat,BCEWithLogitsLossFlat,MSELossFlat
vocab,whole,zeros_ones = ['p','q','r'],np.arange(12)%3,rng.integers(0, 2, (12,3))
masked = rng.integers(0, 3, (12,6,5), dtype=np.uint8)
targets = dict(places=(whole, vocab, ce), values=(whole+5, None, ce), labels=(zeros_ones, None, several))
targets |= dict(names=(array(list('abc')*4), None, ce), numbers=(rng.random(12), None, squares))
targets |= dict(vectors=(rng.random((12,2), dtype=np.float32), None, squares), masks=(masked, vocab, ce))

@pytest.mark.parametrize('y', targets)
@pytest.mark.parametrize('x', pixels)
def test_arrays_are_what_their_items_are(x, y):
    "The batches made of the arrays at once, and those made of the items by the block's transforms"
    (ys,vocab,loss),xs = targets[y],pixels[x]
    dls = DataLoaders.from_arrays(xs, ys, xs[:5], ys[:5], vocab=vocab, bs=5, shuffle=False)
    for dl in dls.loaders: same(dl, ordinary(dl))
    assert type(dls.train_ds.loss_func.func) is type(loss().func)
    if vocab and y != 'masks': eq(list(dls.vocab), vocab)

def test_arrays_predict():
    xs,ys = pixels['grey'],targets['names'][0]
    dls = DataLoaders.from_arrays(xs, ys, xs, ys, bs=4, batch_tfms=Normalize.from_stats([.5], [.2]))
    learn = Learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(30, 3)))
    with learn.no_bar(): preds = learn.get_preds()[0]
    with learn.no_bar(): eq([learn.predict(o)[0] for o in xs], [dls.vocab[i] for i in preds.argmax(1)])
    with learn.no_bar(): one = learn.get_preds(dl=dls.test_dl(list(xs)))[0]
    assert torch.allclose(one, preds)

def test_arrays_that_do_not_fit():
    xs,ys = pixels['grey'],np.arange(12)%3
    few,odd = xs[:0],ys[:,None,None,None]
    words = array(['a']*12)
    same_but = 'expected the same'
    sizes = [((xs, ys[:3], xs, ys), 'as many targets'), ((few, ys[:0], xs, ys), 'and some')]
    forms = [((xs, ys, xs[:,:3], ys), same_but), ((xs, ys, xs.astype(float), ys), same_but)]
    labels = [((xs, ys, xs, ys+9), 'label 9'), ((xs, odd, xs, odd), 'targets of shape')]
    for args,why in [*sizes, *forms, *labels, ((words, ys, words, ys), 'inputs of shape')]:
        with pytest.raises(ValueError, match=why): DataLoaders.from_arrays(*args)
    with pytest.raises(ValueError, match='label 2'): DataLoaders.from_arrays(xs, ys, xs, ys, vocab=['p','q'])
    with pytest.raises(ValueError, match='label -1'): DataLoaders.from_arrays(xs, ys-1, xs, ys, vocab=list('abc'))
