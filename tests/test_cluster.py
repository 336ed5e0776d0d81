"Batches predicted one by one, in plain Python and by workers of Ray, are what the learner itself predicts"
from fastai.vision.all import *
import pickle, pytest

from fastai_ext.cluster import BatchPredictor
from fastai_ext.data import fashion_mnist, fashion_mnist_dls, fashion_vocab
from fastai_ext.fashion import fashion_job
from fastai_ext.models import mini_convnet
from fastai_ext.predict import predict_images

def arrays(n): return fashion_mnist('embedded').test_x[:n]

@pytest.fixture(scope='module')
def learn():
    set_seed(1)
    res = Learner(fashion_mnist_dls('embedded'), mini_convnet(), metrics=accuracy).remove_cb(ProgressCallback)
    with res.no_logging(): res.fit_one_cycle(1, 1e-2)
    return res

@pytest.fixture(scope='module')
def exported(learn, tmp_path_factory):
    path = tmp_path_factory.mktemp('exported')/'learner.pkl'
    learn.export(path)
    return path

@pytest.mark.parametrize('tta', [False, True])
def test_a_batch_gets_what_the_learner_says(learn, exported, tta):
    x = arrays(7)
    want = (learn.tta_flip if tta else learn.get_preds)(dl=learn.dls.test_dl(list(x)))[0].numpy()
    for source in (learn, exported, str(exported)):
        got = BatchPredictor(source, tta=tta)(dict(id=np.arange(7), image=x))
        assert list(got) == ['id','image','label','probability','probs'] and got['image'] is x
        assert np.abs(got['probs']-want).max() < 1e-6 and got['id'].tolist() == [*range(7)]
        assert got['label'].tolist() == [fashion_vocab[i] for i in want.argmax(1)]
        assert got['probability'] == pytest.approx(want.max(1))

def test_it_does_what_the_learner_was_found_to_be_better_with(learn):
    plain,tta = (BatchPredictor(learn, tta=o)(dict(image=arrays(5)))['probs'] for o in (False, True))
    assert np.array_equal(BatchPredictor(learn)(dict(image=arrays(5)))['probs'], plain)
    assert not np.array_equal(plain, tta)
    learn.predict_with_tta = True
    try: assert np.array_equal(BatchPredictor(learn)(dict(image=arrays(5)))['probs'], tta)
    finally: del learn.predict_with_tta

def test_files_and_their_bytes(learn, tmp_path):
    x = arrays(3)
    for i,o in enumerate(x): PILImageBW.create(o).save(tmp_path/f'{i}.png')
    files = [*map(str, sorted(tmp_path.iterdir()))]
    want = BatchPredictor(learn)(dict(image=x))['probs']
    for col in (np.array(files), np.array([Path(o).read_bytes() for o in files], dtype=object)):
        assert np.array_equal(BatchPredictor(learn, 'file')(dict(file=col))['probs'], want)

def test_a_run_of_the_command(tmp_path):
    "Files, their bytes and pixels of any size give what `fastai-ext predict` says; floats would become black"
    fashion_job(tmp_path/'run', model='mini_convnet', epochs=1, bs=256, seeds=[1,2])
    imgs = [Image.fromarray(o).resize((40,60)) for o in arrays(3)]
    for i,o in enumerate(imgs): o.save(tmp_path/f'{i}.png')
    files = [*map(str, sorted(tmp_path.glob('*.png')))]
    want = [*predict_images(tmp_path/'run', files)]
    cols = files,[Path(o).read_bytes() for o in files],np.stack([*map(np.asarray, imgs)])
    for col in (*cols, cols[2][...,None], np.stack([np.asarray(o.convert('RGB')) for o in imgs])):
        got = BatchPredictor(tmp_path/'run')(dict(image=col))
        assert got['label'].tolist() == [max(o, key=o.get) for o in want]
        for p,o in zip(got['probs'], want): assert p == pytest.approx([o[k] for k in fashion_vocab], abs=1e-6)
    floats = dict(image=cols[2].astype(np.float32))
    with pytest.raises(ValueError, match='float32: expected uint8'): BatchPredictor(tmp_path/'run')(floats)
    cut = [cols[1][0], cols[1][1][:50]]
    with pytest.raises(ValueError, match='Item 1 of the batch: content of 50 bytes is no image'):
        BatchPredictor(tmp_path/'run')(dict(image=cut))
    with pytest.raises(FileNotFoundError, match='Item 0 of the batch: .* no image file none.png'):
        BatchPredictor(tmp_path/'run')(dict(image=['none.png']))

def test_no_items(learn):
    got = BatchPredictor(learn)(dict(image=arrays(0)))
    assert got['probs'].shape == (0, 10) and len(got['label']) == len(got['probability']) == 0

def test_several_labels():
    items = [TensorImage(torch.rand(3, 8, 8)) for _ in range(6)]
    block = DataBlock((TransformBlock, MultiCategoryBlock(vocab=['a','b','c'])), get_x=lambda i: items[i],
        get_y=lambda i: ['a'] if i%2 else ['a','c'], splitter=IndexSplitter([0]))
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 3))
    with torch.no_grad():
        net[1].weight.zero_()
        net[1].bias.copy_(tensor([2., -1., 3.]))
    learn = Learner(block.dataloaders([*range(6)], bs=2, num_workers=0), net, path='.').remove_cb(ProgressCallback)
    got = BatchPredictor(learn, 'i')(dict(i=np.array([0,1], dtype=object)))
    assert got['label'].tolist() == ['a;c']*2 and got['probability'] == pytest.approx(np.full(2, 1/(1+np.exp(-3))))

def test_pickled_by_its_arguments(exported):
    "The loaded learner does not travel"
    p = BatchPredictor(exported)
    p(dict(image=arrays(1)))
    assert len(pickle.dumps(p)) < 1000
    assert pickle.loads(pickle.dumps(p))(dict(image=arrays(1)))['label'].shape == (1,)

def test_what_is_refused(learn, tmp_path):
    with pytest.raises(ValueError, match=f'no exported learner {tmp_path}/x.pkl'): BatchPredictor(tmp_path/'x.pkl')
    with pytest.raises(TypeError, match='learner is a MiniNet'): BatchPredictor(learn.model)
    with pytest.raises(ValueError, match=r"no column 'image' to predict, only \['file'\]"):
        BatchPredictor(learn)(dict(file=np.array(['a.png'])))

class Mortal(BatchPredictor):
    "Its worker dies once, in the batch with item 37"
    def __init__(self, *args, mark, **kwargs):
        super().__init__(*args, **kwargs)
        self.mark = Path(mark)
    def __call__(self, batch):
        if 37 in batch['id'] and not self.mark.exists():
            self.mark.touch()
            os._exit(1)
        res = {k: v for k,v in super().__call__(batch).items() if k != 'image'}
        return res | dict(pid=np.full(len(batch['id']), os.getpid()))

@pytest.mark.slow
def test_two_workers_of_ray_of_which_one_dies(learn, exported, tmp_path):
    "Nothing is lost or doubled, and the probabilities are those of one process"
    ray = pytest.importorskip('ray', reason='the extra `ray` is not installed')
    import ray.data
    n,x = 100,arrays(100)
    want = learn.tta_flip(dl=learn.dls.test_dl(list(x)))[0].numpy()
    root = Path(__file__).parents[1]
    env = dict(env_vars=dict(PYTHONPATH=os.pathsep.join(map(str, (root, root/'tests')))))
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False, logging_level='error', runtime_env=env)
    try:
        ds = ray.data.from_items([dict(id=i, image=o) for i,o in enumerate(x)], override_num_blocks=10)
        made_by = dict(tta=True, mark=tmp_path/'dead')
        ds = ds.map_batches(Mortal, fn_constructor_args=[exported], fn_constructor_kwargs=made_by,
            batch_size=10, concurrency=2)
        rows = sorted(ds.take_all(), key=itemgetter('id'))
    finally: ray.shutdown()
    assert (tmp_path/'dead').exists() and [o['id'] for o in rows] == [*range(n)]
    assert np.abs(np.stack([o['probs'] for o in rows])-want).max() < 1e-6
    assert [o['label'] for o in rows] == [fashion_vocab[i] for i in want.argmax(1)]
    assert len({o['pid'] for o in rows}) >= 2
