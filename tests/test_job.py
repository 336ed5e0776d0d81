"The job on images of one's own, and prediction: what it finds, what it leaves, and what it says to wrong input"
from fastai.vision.all import *
import pickle, pytest, subprocess, timm

from fastai_ext.cli import run_cli
from fastai_ext.data import fashion_mnist
from fastai_ext.folder import *
from fastai_ext.images import *
from fastai_ext.job import *
from fastai_ext.predict import *
from fastai_ext.report import *


quick = dict(model='mini_convnet', size=32, epochs=2, bs=8, seeds=[1,2], workers=0)
items = fashion_mnist('embedded')

def draw(path, i, mode='RGB'):
    "An image of about 40×50 that shows the training item `i`"
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(items.train_x[i]).resize((40+i%7, 50-i%5)).convert(mode).save(path)

def photos(folder, n=12, classes=('cat','dog'), start=0):
    "A folder for each class, with `n` images each"
    for k,c in enumerate(classes):
        for i in range(n): draw(folder/c/f'{i:02}.jpg', start + n*k + i)
    return folder

@pytest.fixture(scope='module')
def folder(tmp_path_factory): return photos(tmp_path_factory.mktemp('photos'))

@pytest.fixture(scope='module')
def run(folder, tmp_path_factory):
    "A finished run and what the job returned"
    out = tmp_path_factory.mktemp('run')/'a b'
    return out,train_job(folder, out, export=True, **quick)

@pytest.fixture
def undrawn(monkeypatch):
    "Pictures are empty files where no test looks at them: to draw them takes most of a small job"
    monkeypatch.setattr(plt, 'savefig', lambda path, **_: Path(path).touch())

def check_error(capsys, args, *texts):
    "The command ends with 2 and one message, without a traceback"
    with pytest.raises(SystemExit) as e: run_cli(args)
    err = capsys.readouterr().err
    assert e.value.code == 2 and 'Traceback' not in err and all(t in err for t in texts), err

# Reading images

def test_images_of_every_kind_become_the_same(tmp_path):
    "Grey, palette, colours with and without transparency, 16 bits, several frames, turned by EXIF"
    x = Image.fromarray(np.arange(64*64, dtype=np.uint32).reshape(64,64).astype(np.uint8)//4*4)
    ways = dict(grey=x, palette=x.convert('P'), rgb=x.convert('RGB'), rgba=x.convert('RGBA'), la=x.convert('LA'))
    for k,o in ways.items(): o.save(tmp_path/f'{k}.png')
    Image.fromarray(np.asarray(x).astype(np.uint16)*257).save(tmp_path/'deep.png')
    x.save(tmp_path/'moving.gif', save_all=True, append_images=[x.rotate(90)])
    exif = Image.Exif()
    exif[0x112] = 6 # to be turned a quarter to the right
    x.transpose(Image.Transpose.ROTATE_90).save(tmp_path/'turned.png', exif=exif)
    want = np.asarray(x.convert('RGB'))
    for f in tmp_path.iterdir(): assert (np.asarray(ImageInputs(3, 64).read(f)) == want).all(), f.name

def test_what_is_transparent_lies_on_the_ground(tmp_path):
    Image.new('RGBA', (9,9), (255,0,0,0)).save(tmp_path/'a.png')
    for ground,want in (('white', 255), ('black', 0)):
        assert (np.asarray(ImageInputs(3, 8, ground=ground).read(tmp_path/'a.png')) == want).all()

@pytest.mark.parametrize('content', [b'', b'junk', pickle.dumps(1)])
def test_what_is_no_image(tmp_path, content):
    (tmp_path/'a.jpg').write_bytes(content)
    with pytest.raises(ValueError, match='a.jpg is no image'): open_image(tmp_path/'a.jpg')

def test_pixels_of_32_bits_are_refused(tmp_path):
    Image.fromarray(np.ones((4,4), dtype=np.float32)).save(tmp_path/'a.tif')
    with pytest.raises(ValueError, match='32 bits'): open_image(tmp_path/'a.tif')

@pytest.mark.parametrize('workers', [0, 2])
def test_workers_keep_the_order(workers):
    state = torch.get_rng_state()
    assert list(in_workers(list, list(range(10)), 3, workers)) == [[0,1,2], [3,4,5], [6,7,8], [9]]
    assert torch.equal(state, torch.get_rng_state())

# Finding images

def test_a_folder_for_each_class(folder):
    data = check_images(read_folder(folder), workers=0)
    assert data.vocab == ['cat','dog'] and data.parts == ['train','valid']
    assert data.counts().loc['all images'].tolist() == [20,4] and data.counts().loc['cat'].tolist() == [10,2]
    again = check_images(read_folder(folder), workers=0)
    assert again.table.equals(data.table) and again.found == data.found

def test_folders_for_the_parts(tmp_path):
    for i,part in enumerate(('train','val','test')): photos(tmp_path/part, 3, start=10*i)
    draw(tmp_path/'train'/'cat'/'deeper'/'x.png', 99)
    (tmp_path/'train'/'notes.txt').write_text('')
    data = check_images(read_folder(tmp_path), workers=0)
    assert data.counts().values.tolist() == [[4,3,3], [3,3,3], [7,6,6]] and '.txt 1' in data.notices[0]

def test_a_class_that_is_called_train(tmp_path):
    photos(tmp_path, 3, ('train','car'))
    assert read_folder(tmp_path).vocab == ['car','train']

def test_a_table_of_labels(folder, tmp_path):
    t = pd.DataFrame(dict(file=['cat/00.jpg','dog/00.jpg','cat/01.jpg'], label=['a; b', '', 'a'], more=[1,2,3]))
    t.to_csv(tmp_path/'t.csv', index=False)
    images = read_folder(folder, tmp_path/'t.csv')
    assert images.multi and images.vocab == ['a','b'] and images.table['labels'].tolist() == [['a','b'], [], ['a']]
    t.assign(label=['NA','x','x']).to_csv(tmp_path/'t.csv', index=False)
    assert read_folder(folder, tmp_path/'t.csv').vocab == ['NA','x']

def test_equal_files_are_held_out_together(tmp_path):
    photos(tmp_path, 10)
    for c in ('cat','dog'):
        for i in range(10): shutil.copy(tmp_path/c/f'{i:02}.jpg', tmp_path/c/f'again{i}.jpg')
    data = check_images(read_folder(tmp_path), workers=0)
    assert (data.table.groupby('content')['part'].nunique() == 1).all()
    assert any('more than once' in o for o in data.notices) and data.counts().loc['all images','valid'] == 8

def test_equal_files_in_training_and_validation_are_told(tmp_path):
    for part in ('train','valid'): photos(tmp_path/part, 3, start=50 if part == 'train' else 80)
    shutil.copy(tmp_path/'train'/'cat'/'00.jpg', tmp_path/'valid'/'dog'/'00.jpg')
    notices = ' '.join(check_images(read_folder(tmp_path), workers=0).notices)
    assert '1 valid image also in training' in notices and 'different labels' in notices

def test_what_cant_be_read_is_left_out_and_named(tmp_path):
    photos(tmp_path, 5)
    (tmp_path/'cat'/'03.jpg').write_bytes((tmp_path/'cat'/'03.jpg').read_bytes()[:200])
    data = check_images(read_folder(tmp_path), workers=0)
    assert len(data.table) == 9 and any('1 file left out' in o and '03.jpg' in o for o in data.notices)

def wrong_folder(tmp_path, what):
    "A folder of images with something wrong, and further options"
    p = tmp_path/'photos'
    if what != 'no folder': photos(p, 3)
    if what == 'empty class': (p/'cow').mkdir()
    if what == 'one class': shutil.rmtree(p/'dog')
    if what == 'no classes': [shutil.rmtree(p/o) for o in ('cat','dog')]
    if what == 'case': (p/'dog').rename(p/'Cat')
    if what == 'space': (p/'dog').rename(p/'c at')
    if what == 'nothing readable': [f.write_text('junk') for f in p.rglob('*.jpg')]
    if what == 'single image': [f.unlink() for f in list((p/'dog').iterdir())[1:]]
    if what == 'valid only': photos(p/'valid', 2, ('cat','cow')) and photos(p/'train', 2)
    tables = {'no file': dict(file=['cat/00.jpg','cat/99.jpg'], label=['a','b']), 'no column': dict(name=['x']),
        'twice': dict(file=['cat/00.jpg']*2, label=['a','b']), 'no label': dict(file=['cat/00.jpg'], label=[''])}
    if what in tables: pd.DataFrame(tables[what]).to_csv(p/'t.csv', index=False)
    if what == 'no csv': (p/'t.csv').write_bytes(b'')
    return [str(p), *(['--labels', str(p/'t.csv')] if what in [*tables, 'no csv', 'no table'] else [])]

@pytest.mark.parametrize('what,texts', [('no folder', ['no folder', 'photos']), ('empty class', ['cow has no images']),
    ('one class', ['one class only', 'cat']), ('no classes', ['no folders of images', '--labels']),
    ('case', ["'Cat'", "'cat'", 'differ only by case or space']), ('space', ["'c at'"]),
    ('nothing readable', ['None of the 6 images', '.jpg is no image']), ('single image', ["'dog' has too few images"]),
    ('valid only', ["'cow' has no training images"]), ('no file', ['names 1 files', 'cat/99.jpg']),
    ('no column', ["no column 'file'", "'name'"]), ('twice', ['two rows', 'cat/00.jpg']),
    ('no label', ['no label for', 'cat/00.jpg']), ('no csv', ['no table that can be read']),
    ('no table', ['no file of labels'])])
def test_wrong_folders(capsys, tmp_path, what, texts):
    args = wrong_folder(tmp_path, what)
    check_error(capsys, ['train', *args, '--out', str(tmp_path/'out'), '--workers', '0'], *texts)
    assert not (tmp_path/'out').exists()

@pytest.mark.parametrize('args,texts', [(['--model', 'mini_resnet_fats'], ['mini_resnet_fast']),
    (['--size', '4', '--model', 'inception_v3'], ['inception_v3 does not work on 4×4', 'another size']),
    (['--model', 'vit_tiny_patch16_224'], ['vit_tiny_patch16_224 does not work on 96×96']),
    (['--size', '2'], ['size=2']),
    (['--bs', '500'], ['bs=500', '20']), (['--weights', 'none.pth'], ['none.pth', 'mini_resnet']),
    (['--pretrained', '--weights', 'a'], ['not both']), (['--resume'], ['to resume'])])
def test_wrong_options(capsys, tmp_path, folder, args, texts):
    check_error(capsys, ['train', str(folder), '--out', str(tmp_path/'out'), '--workers', '0', *args], *texts)
    assert not (tmp_path/'out').exists()

def test_a_folder_has_to_be_named(capsys): check_error(capsys, ['train', '--out', 'none'], 'name the folder')

# The job

def same_json(out, res): return json.loads((out/'results.json').read_text()) == json.loads(json.dumps(res))

def test_job_leaves_everything_whole(run):
    out,res = run
    files = {'results.json', 'report.md', 'report.html', 'run.json', 'model.safetensors', 'learner.pkl', 'batch.png',
        'losses.png', 'schedule.png', 'confusion_matrix.png', 'top_losses.png', 'data.png', 'members'}
    assert {o.name for o in out.iterdir()} == files and same_json(out, res)
    assert res['judged'] == 'valid' and res['n_test'] == 0 and res['vocab'] == ['cat','dog']
    assert res['headline'] == res['ensemble']['valid_tta' if res['tta'] else 'valid']

def test_the_report_in_one_file(run):
    "Nothing is loaded from elsewhere, every picture says what it shows, and no figure has more than four digits"
    html,md = ((run[0]/f'report.{o}').read_text() for o in ('html','md'))
    pictures = re.findall(r'<img src="(.{22}).*?" alt="(.*?)"', html)
    assert len(pictures) == 6 and all(a == 'data:image/png;base64,' and len(b) > 20 for a,b in pictures)
    assert not re.search(r'(src|href)="(?!data:)', html) and '<table>' in html
    text = re.sub(r'\*Measured.*|```.*', '', md, flags=re.S)
    assert not re.search(r'\d\.\d{5,}', text) and 'There are no test images' in md and '1 epochs' not in md
    for m in run[1]['members'].values(): assert all(f'{v:.4f}' in md for v in m['accuracy'].values())

def test_figures_are_those_of_the_exported_learner(run, folder):
    "The ensemble's accuracy, and what TTA fixed and broke, computed from files by fastai alone"
    out,res = run
    learn = load_learner(out/'learner.pkl')
    t = check_images(read_folder(folder), workers=0).table
    t = t[t['part'] == 'valid']
    targs = tensor([learn.dls.vocab.o2i[o[0]] for o in t['labels']])
    dl = learn.dls.test_dl(t['file'].tolist(), num_workers=0)
    with learn.no_bar(): plain,tta = (f(dl=dl)[0] for f in (learn.get_preds, learn.tta_flip))
    right = [o.argmax(1) == targs for o in (plain, tta)]
    assert right[0].float().mean().item() == pytest.approx(res['ensemble']['valid'])
    assert res['changes'][0]['fixed'] == (right[1] & ~right[0]).sum()
    assert res['changes'][0]['broke'] == (right[0] & ~right[1]).sum()

def test_resuming_with_other_images(capsys, tmp_path, run, folder):
    "A finished run trains nothing more, and another folder, or another content of it, is refused"
    out = shutil.copytree(run[0], tmp_path/'out')
    assert train_job(out=out, resume=True, workers=0)['ensemble'] == run[1]['ensemble']
    other = shutil.copytree(folder, tmp_path/'other')
    check_error(capsys, ['train', str(other), '--out', str(out), '--resume'], 'begun with folder=')
    told = json.loads((out/'run.json').read_text())
    (out/'run.json').write_text(json.dumps({**told, 'folder': str(other)}))
    draw(other/'cat'/'00.jpg', 500)
    args = ['train', '--out', str(out), '--resume', '--workers', '0']
    check_error(capsys, args, 'begun with 24 images', 'fingerprint')
    check_error(capsys, ['fashion', '--out', str(out), '--resume'], 'no run of `fastai-ext fashion`')

@pytest.mark.slow
@pytest.mark.parametrize('tuned', [False, True])
def test_resumed_run_ends_with_the_same_weights(tmp_path, folder, undrawn, monkeypatch, run, tuned):
    "Interrupted in the second epoch; with weights of a file, after a frozen one, in the second fit"
    given = {**quick, 'seeds': [5], **(dict(weights=run[0]/'members'/'member_seed1.pth') if tuned else {})}
    train_job(folder, tmp_path/'whole', **given)
    keep = Recorder.after_batch
    def _stop(self):
        if self.training and self.n_epoch == 2 and self.epoch == 1: raise KeyboardInterrupt
        keep(self)
    with monkeypatch.context() as m:
        m.setattr(Recorder, 'after_batch', _stop)
        with pytest.raises(KeyboardInterrupt): train_job(folder, tmp_path/'cut', **given)
    train_job(out=tmp_path/'cut', resume=True, workers=0)
    a,b = (torch.load(tmp_path/o/'members'/'member_seed5.pth', weights_only=True) for o in ('whole','cut'))
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)

@pytest.mark.slow
def test_full_disk(tmp_path, folder, run):
    "A limit on the size of files stands for it; nothing is left half"
    code = f'''if True:
        import resource, signal
        from fastai_ext.cli import run_cli
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
        run_cli(['predict', {str(folder)!r}, '--learner', {str(run[0])!r}, '--out', {str(tmp_path/'p.csv')!r},
            '--workers', '0'])'''
    res = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True)
    assert res.returncode == 2 and re.fullmatch('fastai-ext: .*\n', res.stderr), res.stderr
    assert not list(tmp_path.iterdir())

def test_several_labels(tmp_path, folder, undrawn):
    t = pd.DataFrame(dict(file=[f'{c}/{i:02}.jpg' for c in ('cat','dog') for i in range(12)]))
    t['label'] = [';'.join(o for k,o in enumerate('abc') if i%(k+2) == 0) for i in range(24)]
    t.to_csv(tmp_path/'t.csv', index=False)
    res = train_job(folder, tmp_path/'out', labels=tmp_path/'t.csv', **{**quick, 'seeds': [1]})
    md = (tmp_path/'out'/'report.md').read_text()
    assert res['multi'] and [o['class'] for o in res['scores']] == ['a','b','c'] and '0.5' in md
    assert 'confusion_matrix' not in md and not (tmp_path/'out'/'confusion_matrix.png').exists()
    predictor = ImagePredictor(tmp_path/'out')
    predictor.write([folder/'cat'/'00.jpg'], tmp_path/'p.csv', workers=0)
    row = pd.read_csv(tmp_path/'p.csv', keep_default_na=False).iloc[0]
    assert row['label'] == ';'.join(o for o in 'abc' if row[f'p_{o}'] > .5)

def test_weights_of_a_file(tmp_path, folder, undrawn, run):
    "Those of another run of that net; a frozen epoch comes first"
    file = run[0]/'members'/'member_seed1.pth'
    res = train_job(folder, tmp_path/'out', weights=file, **{**quick, 'seeds': [3], 'epochs': 1, 'lr': 1e-9})
    was,now = torch.load(file, weights_only=True),torch.load(tmp_path/'out'/'members'/'member_seed3.pth')
    assert torch.allclose(was['stem.conv.weight'], now['stem.conv.weight'], atol=1e-6)
    assert json.loads((tmp_path/'out'/'members'/'history_3.json').read_text())['epochs'] and res['params']

def test_weights_of_another_net(capsys, tmp_path, folder, run):
    args = ['train', str(folder), '--out', str(tmp_path/'out'), '--workers', '0', '--size', '32']
    file = run[0]/'model.safetensors'
    check_error(capsys, [*args, '--model', 'mini_resnet', '--weights', str(file)], 'model.safetensors', 'mini_resnet')

def test_weights_run_nothing(tmp_path):
    class Evil:
        def __reduce__(self): return Path.touch,(tmp_path/'mark',)
    (tmp_path/'x.pth').write_bytes(pickle.dumps(Evil()))
    torch.save(Evil(), tmp_path/'y.pth')
    for f in ('x.pth','y.pth'):
        with pytest.raises(ValueError, match=f): pretrained_net('resnet10t', tmp_path/f, num_classes=2)
    assert not (tmp_path/'mark').exists()

def test_weights_that_cant_be_downloaded(monkeypatch):
    def _create(*args, **kwargs): raise OSError('Name or service not known\nmore')
    monkeypatch.setattr('timm.create_model', _create)
    with pytest.raises(ValueError, match=r'resnet18 can.t be had \(Name or service not known\).*--weights FILE'):
        pretrained_net('resnet18', num_classes=2)

def test_frozen_groups():
    m = timm.create_model('resnet10t', num_classes=3)
    body,head = head_split(m)
    assert len(head) == 2 and len(body)+2 == len(list(m.parameters()))

def test_class_scores_of_scikit():
    "By hand: of two that are b one is found, and the one that is predicted to be b is right"
    a,b = class_scores(tensor([[.9,.1],[.2,.8],[.7,.3]]), tensor([0,1,1]), ['a','b'])
    assert (a['found'], a['correct'], b['found'], b['correct'], b['images']) == (1, .5, .5, 1, 2)

def test_names_that_markdown_would_take_for_its_own(tmp_path):
    from markdown_it import MarkdownIt
    df = pd.DataFrame(dict(n=[1,2]), index=['a|b*c*_d_', '<b>$x$ `y`'])
    html = MarkdownIt('js-default').render(md_table(df))
    assert '<td>a|b*c*_d_</td>' in html and '<td>&lt;b&gt;$x$ `y`</td>' in html

# Prediction

def test_a_run_and_its_exported_learner_predict_the_same(run, folder):
    "From files of any size; fastai reads them by the learner's own transforms"
    files = image_files(folder)[:3]
    learn = load_learner(run[0]/'learner.pkl')
    with learn.no_bar(): want = [learn.predict(f)[2] for f in files]
    for o in (run[0], run[0]/'learner.pkl'):
        got = predict_images(o, files, tta=False)
        assert all([g[c] for c in learn.dls.vocab] == pytest.approx(w.tolist(), abs=1e-4) for g,w in zip(got, want))

def test_an_exported_learner_that_fastai_alone_made(tmp_path, folder):
    dls = ImageDataLoaders.from_folder(folder, valid_pct=.3, item_tfms=Resize(24), bs=4, num_workers=0)
    learn = Learner(dls, nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2)), path=tmp_path)
    learn.export()
    (tmp_path/'bad.jpg').write_text('junk')
    files = [*image_files(folder)[:3], tmp_path/'bad.jpg']
    with learn.no_bar(): want = [learn.predict(f)[2] for f in files[:3]]
    good,probs,bad = zip(*ImagePredictor(tmp_path/'export.pkl').stream(files, bs=2, workers=0))
    assert torch.allclose(torch.cat([*probs]), torch.stack(want), atol=1e-5)
    assert concat(*good) == files[:3] and bad[1][0][0] == files[3] and 'bad.jpg' in bad[1][0][1]

@pytest.mark.parametrize('workers', [0, 2])
@pytest.mark.parametrize('kind', ['csv','parquet'])
def test_tables_of_predictions(run, folder, tmp_path, kind, workers):
    "In the order of the files, the same numbers in any batch size"
    (tmp_path/'bad.jpg').write_text('junk')
    files = [*image_files(folder), str(tmp_path/'bad.jpg')]
    bad = ImagePredictor(run[0]).write(files, out := tmp_path/f'p.{kind}', bs=5, workers=workers)
    t = pd.read_parquet(out) if kind == 'parquet' else pd.read_csv(out)
    want = predict_images(run[0], files[:-1])
    assert [o for o,_ in bad] == files[-1:] and t['file'].tolist() == list(map(str, files[:-1]))
    assert t['label'].tolist() == [first(o) for o in want]
    for c in ('cat','dog'): assert t[f'p_{c}'].tolist() == pytest.approx([o[c] for o in want], abs=1e-5)
    assert t['probability'].tolist() == pytest.approx([max(o.values()) for o in want], abs=1e-5)

def test_files_folders_and_patterns(tmp_path):
    for o in ('a/1.jpg', 'a/deep/2.png', 'b[1].jpg'): draw(tmp_path/o, 1)
    (tmp_path/'a'/'notes.txt').write_text('')
    def _names(*args): return [Path(o).name for o in find_images([str(tmp_path/o) for o in args])]
    assert _names('a', 'b[1].jpg', '**/*.jpg') == ['1.jpg', '2.png', 'b[1].jpg', '1.jpg', 'b[1].jpg']
    for bad,match in (('c.jpg', 'no image file'), ('*.gif', 'no images in')):
        with pytest.raises(FileNotFoundError, match=match): _names(bad)

def test_predict_leaves_out_or_refuses_what_cant_be_read(capsys, run, folder, tmp_path):
    (tmp_path/'bad.jpg').write_text('junk')
    good,args = str(folder/'cat'/'00.jpg'),['--learner', str(run[0]), '--workers', '0']
    for out in ([], ['--out', str(tmp_path/'p.csv')]):
        with pytest.raises(SystemExit) as e: run_cli(['predict', str(tmp_path/'bad.jpg'), good, *args, *out])
        said = capsys.readouterr()
        assert e.value.code == 1 and re.search('left out: .*bad.jpg', said.err)
        assert ('1 image predicted' if out else f'{good}: ') in said.out
    assert len(pd.read_csv(tmp_path/'p.csv')) == 1
    strict = ['predict', good, str(tmp_path), *args, '--strict', '--bs', '1']
    check_error(capsys, [*strict, '--out', str(tmp_path/'s.csv')], 'bad.jpg', 'nothing is written')
    check_error(capsys, ['predict', str(tmp_path/'bad.jpg'), *args, '--out', str(tmp_path/'s.csv')], 'None of the 1')
    assert not list(tmp_path.glob('*s.csv'))

def test_predict_says_what_is_wrong_before_any_work(capsys, run, folder, tmp_path, monkeypatch):
    good,args = str(folder/'cat'/'00.jpg'),['--learner', str(run[0])]
    check_error(capsys, ['predict', good, *args, '--out', str(tmp_path/'p.txt')], '.csv or .parquet')
    check_error(capsys, ['predict', good, *args, '--invert'], 'light things on black')
    check_error(capsys, ['predict', good, *args, '--bs', '0'], 'bs=0')
    monkeypatch.setattr('fastai_ext.predict.find_spec', lambda name: None)
    check_error(capsys, ['predict', good, *args, '--out', str(tmp_path/'p.parquet')], 'pyarrow', '.csv')
    assert not list(tmp_path.iterdir())

def test_a_predictor_holds_no_more_than_a_few_batches(run, folder, monkeypatch):
    "What has been predicted is not kept: a batch is read when the one before is taken"
    predictor,read = ImagePredictor(run[0], tta=False),[]
    reader = type(predictor.read)
    keep = reader.__call__
    monkeypatch.setattr(reader, '__call__', lambda self, files: (read.append(len(files)), keep(self, files))[1])
    stream = predictor.stream(image_files(folder), bs=4, workers=0)
    for i in range(3):
        next(stream)
        assert read == [4]*(i+1)

def test_a_learner_that_predicts_no_classes(tmp_path, folder):
    block = DataBlock((ImageBlock, RegressionBlock), get_items=image_files, get_y=lambda f: 1., item_tfms=Resize(8))
    learn = Learner(block.dataloaders(folder, bs=4, num_workers=0), nn.Flatten(), loss_func=MSELossFlat())
    with pytest.raises(ValueError, match='no classifier'): ImagePredictor(learn)

def test_workers_that_are_started_anew_can_be_sent_what_they_need(run):
    "As on systems without fork"
    read = pickle.loads(pickle.dumps(ImagePredictor(run[0]).read))
    assert read.inputs.size == 32
