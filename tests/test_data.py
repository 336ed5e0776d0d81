"IDX files right and wrong, where the data is looked for, the embedded subset, the DataLoaders"
from fastai.vision.all import *
import contextlib, gzip, pytest, struct, subprocess

from fastai_ext import data as mod
from fastai_ext.data import *

rng = np.random.RandomState(0)
def idx_bytes(a, code=8): return bytes([0,0,code,a.ndim]) + struct.pack(f'>{a.ndim}I', *a.shape) + a.tobytes()

def write_folder(folder, n=20, m=10, **change):
    "A folder of four small files in the form of Fashion-MNIST; `change` replaces the bytes of a file"
    folder.mkdir(exist_ok=True, parents=True)
    arrays = dict(train_x=rng.randint(0, 255, (n,28,28)), train_y=np.arange(n)%10,
        test_x=rng.randint(0, 255, (m,28,28)), test_y=np.arange(m)%10)
    arrays = {k: v.astype(np.uint8) for k,v in arrays.items()}
    files = {k: idx_bytes(v) for k,v in arrays.items()} | change
    for k,name in mod._fashion_files.items(): (folder/f'{name}.gz').write_bytes(gzip.compress(files[k]))
    return arrays

@pytest.fixture
def no_data(tmp_path, monkeypatch):
    "No environment variable, an empty fastai home, no file of Debian's, no network"
    monkeypatch.delenv('FASTAI_EXT_DATA', raising=False)
    monkeypatch.setenv('FASTAI_HOME', str(tmp_path/'home'))
    monkeypatch.setattr(mod, '_debian', tmp_path/'debian')
    monkeypatch.setattr(mod, '_fashion_url', (tmp_path/'server').as_uri() + '/')
    # fastai reads its configuration once
    fastai_cfg.cache_clear()
    yield tmp_path
    fastai_cfg.cache_clear()

@pytest.mark.parametrize('code,dtype', [(8,'u1'), (9,'i1'), (11,'>i2'), (12,'>i4'), (13,'>f4'), (14,'>f8')])
@pytest.mark.parametrize('shape', [(5,), (2,3), (2,3,4), (0,3), ()])
@pytest.mark.parametrize('zipped', [True, False])
def test_read_idx(tmp_path, code, dtype, shape, zipped):
    a = np.array(rng.randint(0, 100, shape)).astype(dtype)
    f = tmp_path/('a.gz' if zipped else 'a')
    f.write_bytes(gzip.compress(idx_bytes(a, code)) if zipped else idx_bytes(a, code))
    got = read_idx(f)
    assert got.shape == shape and got.dtype == np.dtype(dtype).newbyteorder('=') and np.array_equal(got, a)
    if shape: got[...] = 0

good = idx_bytes(np.arange(6, dtype=np.uint8).reshape(2,3))
@pytest.mark.parametrize('b,msg', [(b'', 'nothing'), (b'GIF89a', '47 49 46 38'), (good[:-1], 'cut short'),
    (good[:9], 'cut short'), (good[:4], 'cut short'), (good+b'x', 'too long'),
    (bytes([0,0,7,1])+good[4:], 'no IDX file'), (bytes([0,1])+good[2:], 'no IDX file')])
def test_read_idx_wrong_content(tmp_path, b, msg):
    for name,content in (('a', b), ('a.gz', gzip.compress(b))):
        (tmp_path/name).write_bytes(content)
        with pytest.raises(ValueError, match=msg) as e: read_idx(tmp_path/name)
        assert str(tmp_path/name) in str(e.value)

@pytest.mark.parametrize('b', [gzip.compress(good)[:-9], b'not gzip at all', b''], ids=['cut short','no gzip','empty'])
def test_read_idx_wrong_gzip(tmp_path, b):
    (tmp_path/'a.gz').write_bytes(b)
    with pytest.raises(ValueError, match='a.gz'): read_idx(tmp_path/'a.gz')

def test_read_idx_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match='nothing.gz'): read_idx(tmp_path/'nothing.gz')

def test_embedded_is_balanced_small_and_checked(monkeypatch):
    d = fashion_mnist('embedded')
    assert (d.train_x.shape, d.test_x.shape, d.train_x.dtype) == ((5000,28,28), (1000,28,28), np.uint8)
    assert np.bincount(d.train_y).tolist() == [500]*10 and np.bincount(d.test_y).tolist() == [100]*10
    folder = Path(mod.__file__).parent/'assets'
    assert (folder/'fashion_mnist_subset.npz').stat().st_size <= 3e6
    assert 'MIT' in (folder/'fashion_mnist_LICENSE.txt').read_text()
    monkeypatch.setattr(mod, '_subset_sha256', '0'*64)
    with pytest.raises(ValueError, match='checksum'): fashion_mnist('embedded')

full = Path('/usr/share/datasets/fashion-mnist')
@pytest.mark.skipif(not full.is_dir(), reason='the full Fashion-MNIST is not installed')
def test_embedded_is_what_the_recipe_draws(tmp_path):
    mod._write_subset(fashion_mnist(full), tmp_path/'a.npz')
    d = fashion_mnist('embedded')
    with np.load(tmp_path/'a.npz') as z: arrays = dict(z)
    assert len(arrays)==4 and all(np.array_equal(v, getattr(d, k)) for k,v in arrays.items())

@pytest.mark.skipif(not full.is_dir(), reason='the full Fashion-MNIST is not installed')
def test_full_data_has_the_known_checksums_and_statistics():
    import hashlib
    for k,name in mod._fashion_files.items():
        assert hashlib.sha256(gzip.decompress((full/f'{name}.gz').read_bytes())).hexdigest() == mod._fashion_sha256[k]
    x = fashion_mnist(full).train_x/255
    assert (round(x.mean(), 3), round(x.std(), 3)) == (fashion_stats[0][0], fashion_stats[1][0])

def test_order_of_places(no_data, monkeypatch):
    home = Path(no_data/'home'/'data'/'fashion_mnist')
    want = {}
    for name,folder in dict(debian=no_data/'debian', home=home, env=no_data/'env', given=no_data/'given').items():
        want[name] = write_folder(folder, n=20)['train_x']
        if name == 'env': monkeypatch.setenv('FASTAI_EXT_DATA', str(folder))
        for how in ('auto', 'full'):
            if name != 'given': assert np.array_equal(fashion_mnist(how).train_x, want[name])
    assert np.array_equal(fashion_mnist(no_data/'given').train_x, want['given'])
    assert np.array_equal(fashion_mnist(str(no_data/'given')).train_x, want['given'])

def test_auto_falls_back_to_embedded_and_says_so(no_data):
    with pytest.warns(UserWarning, match='subset of 5,000'): d = fashion_mnist('auto')
    assert len(d.train_y) == 5000 and 'comes with' in d.where
    with pytest.raises(FileNotFoundError, match='FASTAI_EXT_DATA'): fashion_mnist('full')
    assert not (no_data/'home'/'data'/'fashion_mnist').exists()

def test_download(no_data, monkeypatch, capsys):
    import hashlib
    arrays = write_folder(no_data/'server')
    home = no_data/'home'/'data'/'fashion_mnist'
    with pytest.raises(FileNotFoundError, match='wrong checksum'): fashion_mnist('full')
    with pytest.warns(UserWarning, match='wrong checksum'): assert 'comes with' in fashion_mnist('auto').where
    assert not home.exists() and not list(home.parent.iterdir())
    monkeypatch.setattr(mod, '_fashion_sha256', {k: hashlib.sha256(idx_bytes(v)).hexdigest() for k,v in arrays.items()})
    assert np.array_equal(fashion_mnist('full').test_x, arrays['test_x'])
    assert sorted(o.name for o in home.iterdir()) == sorted(f'{o}.gz' for o in mod._fashion_files.values())

def test_env_that_does_not_hold_the_data_is_an_error(no_data, monkeypatch):
    monkeypatch.setenv('FASTAI_EXT_DATA', str(no_data/'nowhere'))
    with pytest.raises(FileNotFoundError, match='nowhere'): fashion_mnist('auto')

@pytest.mark.parametrize('change,msg', [(dict(train_x=good), 'expected train images'),
    (dict(train_y=idx_bytes(np.zeros(3, np.uint8))), '20 train images'),
    (dict(test_y=idx_bytes(np.full(10, 10, np.uint8))), 'labels go up to 10')])
def test_folder_with_wrong_content(tmp_path, change, msg):
    write_folder(tmp_path, **change)
    with pytest.raises(ValueError, match=msg): fashion_mnist(tmp_path)

def test_folder_with_a_file_missing(tmp_path):
    write_folder(tmp_path)
    (tmp_path/'train-labels-idx1-ubyte.gz').unlink()
    with pytest.raises(FileNotFoundError, match='train-labels'): fashion_mnist(tmp_path)
    with pytest.raises(FileNotFoundError, match='no/such'): fashion_mnist('no/such')

def test_balanced_subset():
    y = rng.randint(0, 3, 100)
    idxs = balanced_subset(y, 31)
    assert len(set(idxs)) == 31 and np.array_equal(np.sort(idxs), idxs)
    assert sorted(np.bincount(y[idxs])) == [10,10,11]
    assert not np.array_equal(idxs, balanced_subset(y, 31, seed=1)) and len(balanced_subset(y, 0)) == 0
    for n in (-1, 101):
        with pytest.raises(ValueError, match=f'n={n}'): balanced_subset(y, n)
    with pytest.raises(ValueError, match='class 0 has too few'): balanced_subset([0,1,1,1,1], 4)

@pytest.fixture(scope='module')
def small():
    d = fashion_mnist('embedded')
    return FashionMNIST(d.train_x[:200], d.train_y[:200], d.test_x[:50], d.test_y[:50], 'a part of it')

def test_dls_parts_do_not_overlap(small):
    a,b = fashion_mnist_dls(small, bs=16),fashion_mnist_dls(small, bs=16)
    ids = [{id(o) for o in dl.items} for dl in a.loaders]
    assert len(ids[2]) == 50 and 15 <= len(ids[1]) <= 25 and sum(map(len, ids)) == len(set.union(*ids)) == 250
    assert [o.image.sum() for o in a.valid.items] == [o.image.sum() for o in b.valid.items]
    b = fashion_mnist_dls(small, seed=1)
    assert [o.image.sum() for o in a.valid.items] != [o.image.sum() for o in b.valid.items]
    assert not any(o.is_test for dl in a.loaders[:2] for o in dl.items) and all(o.is_test for o in a[2].items)

def test_dls_batch_is_the_normalised_image_with_its_label(small):
    dls = fashion_mnist_dls(small, bs=50, device='cpu')
    x,y = dls[2].one_batch()
    want = (tensor(small.test_x).float()/255 - 0.286)/0.353
    torch.testing.assert_close(x.as_subclass(Tensor)[:,0], want.as_subclass(Tensor), atol=1e-5, rtol=1e-5)
    assert y.tolist() == small.test_y.tolist() and type(x) is TensorImageBW
    assert dls.vocab[y[0]] == fashion_vocab[small.test_y[0]]

def test_lesson_way_validates_on_the_test_images(small):
    dls = fashion_mnist_dls(small, valid_pct=0)
    assert len(dls.loaders) == 2 and all(o.is_test for o in dls.valid.items) and len(dls.train_ds) == 200
    with pytest.raises(ValueError, match='valid_pct=1'): fashion_mnist_dls(small, valid_pct=1)

def test_workers_give_the_same(small):
    a,b = [fashion_mnist_dls(small, bs=16, num_workers=n, device='cpu') for n in (0,2)]
    assert torch.equal(torch.cat([x for x,_ in a.valid]), torch.cat([x for x,_ in b.valid]))

@pytest.mark.slow
def test_export_predicts_files_in_a_fresh_process(small, tmp_path):
    dls = fashion_mnist_dls(small, bs=16, device='cpu')
    learn = Learner(dls, nn.Sequential(nn.Flatten(), nn.Linear(784, 10)), path=tmp_path)
    learn.export()
    assert (tmp_path/'export.pkl').stat().st_size < 500_000
    files = []
    for name,size,mode in (('a.png', (28,28), 'L'), ('b.jpg', (60,40), 'RGB'), ('c.png', (9,30), 'RGBA')):
        Image.fromarray(small.test_x[0]).resize(size).convert(mode).save(tmp_path/name)
        files.append(str(tmp_path/name))
    code = ("import sys, json, warnings; warnings.simplefilter('ignore')\n"
        "from fastai.vision.all import *\nlearn = load_learner(sys.argv[1])\n"
        "with learn.no_bar(): print(json.dumps([learn.predict(o)[2].tolist() for o in sys.argv[2:]]))")
    out = subprocess.run([sys.executable, '-c', code, str(tmp_path/'export.pkl'), *files], capture_output=True,
        text=True, check=True).stdout
    got = json.loads(out.splitlines()[-1])
    with learn.no_bar(): want = learn.predict(small.test_x[0])[2].tolist()
    assert got[0] == pytest.approx(want, abs=1e-5) and [len(o) for o in got] == [10]*3

def test_split_of_classes_of_different_sizes(tmp_path):
    "A tenth of each class, whatever its size"
    counts = [100, 50, 20, 10, 10, 10, 10, 10, 10, 10]
    y = np.repeat(np.arange(10, dtype=np.uint8), counts)
    write_folder(tmp_path, train_x=idx_bytes(np.zeros((len(y),28,28), np.uint8)), train_y=idx_bytes(y))
    dls = fashion_mnist_dls(tmp_path, num_workers=0)
    held = np.bincount([int(o[1]) for o in dls.valid_ds], minlength=10)
    assert held.tolist() == [10, 5, 2, 1, 1, 1, 1, 1, 1, 1] and len(dls.train_ds) == sum(counts)-24
    with pytest.raises(ValueError, match='valid_pct=0.001'): fashion_mnist_dls(tmp_path, valid_pct=.001)

def test_header_of_too_many_dimensions(tmp_path):
    f = tmp_path/'x'
    f.write_bytes(bytes([0,0,8,255]) + bytes([0,0,0,1])*255 + b'a')
    with pytest.raises(ValueError, match='no IDX file'): read_idx(f)

def test_nothing_left_to_train_on():
    with pytest.raises(ValueError, match='none is left to train on'): fashion_mnist_dls('embedded', valid_pct=.9999)

def test_fastai_home_that_cannot_be_made(no_data, monkeypatch):
    (no_data/'file').write_text('')
    monkeypatch.setenv('FASTAI_HOME', str(no_data/'file'/'home'))
    with pytest.warns(UserWarning, match='subset of 5,000'): assert 'comes with' in fashion_mnist('auto').where
    with pytest.raises(FileNotFoundError, match='FASTAI_EXT_DATA'): fashion_mnist('full')
    write_folder(no_data/'debian')
    assert 'debian' in fashion_mnist('auto').where

def test_a_server_that_trickles_is_given_up(no_data):
    "Though every byte comes in time"
    from http.server import BaseHTTPRequestHandler, HTTPServer
    import threading
    class Slow(BaseHTTPRequestHandler):
        def log_message(self, *_): pass
        def do_GET(self):
            self.send_response(200)
            self.send_header('Content-Length', str(10**9))
            self.end_headers()
            with contextlib.suppress(OSError):
                for _ in range(600):
                    self.wfile.write(b'a'*8192)
                    time.sleep(.05)
    server = HTTPServer(('127.0.0.1', 0), Slow)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        mod._fashion_url,was = f'http://127.0.0.1:{server.server_port}/',mod._fashion_url
        start = time.time()
        with pytest.raises(TimeoutError, match='too long'): mod._download_fashion(no_data/'dest', minutes=.02)
        assert time.time()-start < 20 and not (no_data/'dest').exists()
    finally:
        mod._fashion_url = was
        server.shutdown()
