"The main job: what it leaves, how it goes on after an interruption, and what it says to wrong input"
from fastai.vision.all import *
import pickle, pytest, signal, subprocess

from fastai_ext import fashion as mod
from fastai_ext.data import *
from fastai_ext.cli import run_cli
from fastai_ext.fashion import *
from fastai_ext.predict import predict_images
from fastai_ext.recipes import recipes


files = {'results.json', 'report.md', 'report.html', 'run.json', 'model.safetensors', 'batch.png', 'losses.png',
    'schedule.png', 'confusion_matrix.png', 'top_losses.png'}
quick = dict(model='mini_convnet', epochs=2, bs=50, seeds=[1,2])

@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "A folder of IDX files with 200 training and 60 test images"
    d,folder = fashion_mnist('embedded'),tmp_path_factory.mktemp('data')
    for k,name in mod_files().items():
        a = getattr(d, k)[:200 if k.startswith('train') else 60]
        (folder/name).write_bytes(bytes([0,0,8,a.ndim]) + b''.join(n.to_bytes(4, 'big') for n in a.shape) + a.tobytes())
    return str(folder)

def mod_files():
    from fastai_ext.data import _fashion_files
    return _fashion_files

@pytest.fixture(scope='module')
def run(folder, tmp_path_factory):
    "A finished run and what the job returned"
    out = tmp_path_factory.mktemp('run')/'a b'
    return out,fashion_job(out, data=folder, **quick)

@pytest.fixture
def undrawn(monkeypatch):
    "Pictures are empty files where no test looks at them: to draw them takes most of a small job"
    monkeypatch.setattr(plt, 'savefig', lambda path, **_: Path(path).touch())

@pytest.fixture
def copied(run, undrawn, tmp_path):
    "A copy of the finished run, which others may look at, and what the job returned"
    return shutil.copytree(run[0], tmp_path/'copy'),run[1]

def weights(out): return [torch.load(o, weights_only=True) for o in sorted((out/'members').glob('*.pth'))]
def same(a, b): return len(a) == len(b) > 0 and all(torch.equal(x[k], y[k]) for x,y in zip(a, b) for k in x)

def test_job_leaves_everything_whole(run):
    out,res = run
    assert {o.name for o in out.iterdir()} == files|{'members'}
    assert json.loads((out/'results.json').read_text()) == json.loads(json.dumps(res))
    kinds = 'history_{}.json','member_seed{}.json','member_seed{}.pth'
    members = {k.format(i) for k in kinds for i in (1,2)}
    assert {o.name for o in (out/'members').iterdir()} - {'.lock'} == members
    for o in out.glob('*.png'): Image.open(o).verify()
    report = (out/'report.md').read_text()
    for m in res['members'].values():
        for v in m['accuracy'].values(): assert f'{v:.4f}' in report
    names = re.findall(r'!\[.+?\]\((.+?)\)', report)
    assert 'Conv2d' in report and names and all((out/o).is_file() for o in names)

def test_results_are_those_of_the_exported_learner(copied, folder):
    "Which a finished run can be asked for too"
    out,res = copied
    fashion_job(out, resume=True, export=True)
    learn = load_learner(out/'learner.pkl')
    d = fashion_mnist(folder)
    dl = learn.dls.test_dl([PILImageBW.create(o) for o in d.test_x], num_workers=0)
    with learn.no_bar(): probs,_ = learn.get_preds(dl=dl)
    assert (probs.argmax(1).numpy() == d.test_y).mean() == pytest.approx(res['ensemble']['test'], abs=1e-6)

def test_predictions_from_files_are_those_of_the_job(run, folder, tmp_path):
    d = fashion_mnist(folder)
    names = [tmp_path/f'{i}.png' for i in range(len(d.test_x))]
    for x,f in zip(d.test_x, names): Image.fromarray(x).save(f)
    for tta in (False,True):
        got = [fashion_vocab.index(first(o)) for o in predict_images(run[0], names, tta=tta)]
        want = run[1]['ensemble']['test_tta' if tta else 'test']
        assert np.mean(got == d.test_y) == pytest.approx(want, abs=1e-6)

@pytest.mark.parametrize('name', ['model.safetensors', 'results.json'])
def test_predict_runs_nothing_of_the_folder(copied, tmp_path, name):
    out,mark = copied[0],tmp_path/'mark'
    class Evil:
        def __reduce__(self): return Path.touch,(mark,)
    content = pickle.dumps(Evil())
    (out/name).write_bytes(content)
    (out/'learner.pkl').write_bytes(content)
    Image.fromarray(fashion_mnist('embedded').test_x[0]).save(tmp_path/'a.png')
    with pytest.raises(ValueError, match=f'{name} is damaged'): predict_images(out, [tmp_path/'a.png'])
    assert not mark.exists()

@pytest.mark.parametrize('settings', [dict(model='hf_hub:timm/resnet18'), dict(seeds=[]), dict(model=None), dict(x=1)])
def test_predict_with_edited_results(copied, tmp_path, settings):
    f = copied[0]/'results.json'
    res = json.loads(f.read_text())
    res['settings'].update(settings)
    f.write_text(json.dumps(res))
    with pytest.raises(ValueError, match='results.json is damaged'): predict_images(copied[0], [])

def test_history_has_every_batch(run):
    out,_ = run
    h = json.loads((out/'members'/'history_1.json').read_text())
    assert [len(h[k]) for k in ('loss', 'lr', 'mom', 'epochs')] == [6, 6, 6, 2]
    assert max(h['lr']) <= 1e-2 < 2*max(h['lr']) and h['seconds'] > 0

@pytest.mark.parametrize('at', [pytest.param(1, marks=pytest.mark.slow), 4])
def test_resumed_run_ends_with_the_same_weights(run, folder, tmp_path, monkeypatch, undrawn, at):
    "Interrupted in the first epoch and in the second of a member, as by Ctrl-C"
    keep = Recorder.after_batch
    def _stop(self):
        if self.training and len(self.losses) == at: raise KeyboardInterrupt
        keep(self)
    with monkeypatch.context() as m:
        m.setattr(Recorder, 'after_batch', _stop)
        with pytest.raises(KeyboardInterrupt): fashion_job(tmp_path, data=folder, **quick)
    assert not (tmp_path/'results.json').exists() and not list(tmp_path.rglob('part-*'))
    res = fashion_job(tmp_path, resume=True)
    assert same(weights(tmp_path), weights(run[0])) and res['ensemble'] == run[1]['ensemble']
    a,b = (json.loads((o/'members'/'history_1.json').read_text()) for o in (tmp_path, run[0]))
    assert len(a['loss']) == 6 and a['seconds'] > 0 and {**a, 'seconds': 0} == {**b, 'seconds': 0}

def test_one_seed_exports_that_member(folder, undrawn, tmp_path):
    res = fashion_job(tmp_path, data=folder, **{**quick, 'seeds': [1], 'epochs': 1})
    assert res['ensemble'] == res['members']['1']['accuracy'] and not (tmp_path/'learner.pkl').exists()

def test_resuming_a_finished_run_trains_nothing(copied, capsys):
    out,res = copied
    before = weights(out)
    again = fashion_job(out, resume=True)
    assert again['ensemble'] == res['ensemble'] and same(weights(out), before)
    assert 'Member with' not in capsys.readouterr().out

def check_error(capsys, args, *texts):
    "The command ends with 2 and one message, without a traceback"
    with pytest.raises(SystemExit) as e: run_cli(args)
    err = capsys.readouterr().err
    assert e.value.code == 2 and 'Traceback' not in err and all(t in err for t in texts), err

@pytest.mark.parametrize('args,texts', [
    (['--model', 'mini_resnet_fats'], ['mini_resnet_fats', 'mini_resnet_fast']), (['--model', 'xyzzyqq'], ['xyzzyqq']),
    (['--epochs', '0'], ['epochs=0']), (['--bs', '1'], ['bs=1']), (['--bs', '5000'], ['bs=5000', '4500']),
    (['--lr', '0'], ['lr=0']), (['--lr', 'nan'], ['lr=nan']), (['--lr', 'inf'], ['lr=inf']),
    (['--seeds', '99999999999999'], ['99999999999999', 'range']), (['--model', 'resnet18.nope'], ['resnet18.nope']),
    (['--seeds', '1', '1'], ['seeds=[1, 1]']), (['--data', 'no/such'], ['no/such']), (['--data', __file__], [__file__]),
    (['--resume'], ['to resume']), (['--epochs', 'x'], ['invalid int'])])
def test_wrong_options(capsys, tmp_path, args, texts):
    check_error(capsys, ['fashion', '--out', str(tmp_path/'out'), *args], *texts)
    assert not (tmp_path/'out').exists()

def test_wrong_data_files(capsys, tmp_path, folder):
    bad = tmp_path/'bad'
    shutil.copytree(folder, bad)
    f = bad/'train-images-idx3-ubyte'
    f.write_bytes(f.read_bytes()[:-1])
    check_error(capsys, ['fashion', '--out', str(tmp_path/'out'), '--data', str(bad)], 'cut short', str(f))
    assert not (tmp_path/'out').exists()

def test_out_that_cannot_be_written(capsys, tmp_path):
    (tmp_path/'file').write_text('')
    check_error(capsys, ['fashion', '--out', str(tmp_path/'file'/'out')], 'file')

def test_out_that_holds_a_run(capsys, run):
    out,_ = run
    check_error(capsys, ['fashion', '--out', str(out)], '--resume')
    check_error(capsys, ['fashion', '--out', str(out), '--resume', '--epochs', '5'], 'epochs=2', '5')

def test_model_that_cannot_take_small_images(capsys, tmp_path):
    check_error(capsys, ['fashion', '--out', str(tmp_path/'out'), '--model', 'vit_tiny_patch16_224'],
        'vit_tiny_patch16_224')
    assert not (tmp_path/'out').exists()

def test_predict(capsys, copied, tmp_path):
    out,_ = copied
    d = fashion_mnist('embedded')
    for i,(size,mode) in enumerate([((28,28), 'L'), ((100,60), 'RGB')]):
        Image.fromarray(d.test_x[i]).resize(size).convert(mode).save(tmp_path/f'{i}.png')
    Image.fromarray(255-d.test_x[0]).save(tmp_path/'2.png')
    names = [str(tmp_path/f'{i}.png') for i in range(3)]
    run_cli(['predict', *names, '--learner', str(out)])
    lines = capsys.readouterr().out.splitlines()
    assert [o.split(':')[0] for o in lines[-3:]] == names and all('%' in o for o in lines[-3:])
    fashion_job(out, resume=True, export=True)
    learn = load_learner(out/'learner.pkl')
    with learn.no_bar(): name,_,probs = learn.predict(d.test_x[0])
    got = predict_images(out/'learner.pkl', names[:1], tta=False)[0]
    assert predict_images(out, names[:1], tta=False)[0] == pytest.approx(got, abs=1e-5)
    assert first(got) == name and [got[o] for o in learn.dls.vocab] == pytest.approx(probs.tolist(), abs=1e-5)
    assert predict_images(out, names[2:], invert=True, tta=False)[0] == pytest.approx(got, abs=1e-5)

@pytest.mark.slow
def test_training_that_diverges_is_an_error_whose_advice_can_be_followed(capsys, tmp_path, folder, undrawn):
    out = tmp_path/'out'
    args = ['fashion', '--out', str(out), '--data', folder, '--model', 'mini_convnet', '--epochs', '1', '--seeds', '1',
        '--bs', '20', '--lr']
    check_error(capsys, [*args, '1e30'], 'fastai-ext: The loss became', 'lower learning rate')
    assert not [o for o in out.rglob('*') if o.is_file() and o.name != '.lock']
    run_cli([*args, '1e-2'])
    assert (out/'results.json').is_file()
    told = capsys.readouterr().out
    assert 'with flip TTA' in told and 'ensembled' not in told, 'there is but one member'

def test_advice_where_a_member_is_finished(capsys, tmp_path, folder, monkeypatch):
    "What is there stays, and the next try goes elsewhere"
    make = mod.fashion_learner
    def _diverging(*args, **kwargs):
        learn = make(*args, **kwargs)
        if (tmp_path/'members'/'member_seed1.pth').exists(): learn.model.stem.conv.weight.data.fill_(math.nan)
        return learn
    monkeypatch.setattr(mod, 'fashion_learner', _diverging)
    with pytest.raises(ValueError, match='seed 2: begin again with a lower learning rate, in another folder'):
        fashion_job(tmp_path, data=folder, **quick)
    assert (tmp_path/'run.json').is_file() and (tmp_path/'members'/'member_seed1.pth').is_file()

@pytest.mark.parametrize('given,match', [(dict(epochs=1.5), 'epochs=1.5'), (dict(seeds=[1.5]), '1.5 is no whole'),
    (dict(model=None), 'model=None')])
def test_settings_of_the_wrong_type(tmp_path, given, match):
    with pytest.raises(TypeError, match=match): fashion_job(tmp_path/'out', **given)
    assert not (tmp_path/'out').exists()

def test_settings_as_python_has_them(copied, folder):
    out,res = copied
    assert fashion_job(out, resume=True, seeds=(1,2), data=Path(folder))['ensemble'] == res['ensemble']

def test_other_data_than_the_run_was_begun_with(capsys, run):
    out,_ = run
    was = (out/'run.json').read_text()
    (out/'run.json').write_text(was.replace('200 training', '300 training'))
    check_error(capsys, ['fashion', '--out', str(out), '--resume'], 'begun with', '300 training', '200 training')
    (out/'run.json').write_text('[]')
    check_error(capsys, ['fashion', '--out', str(out), '--resume'], 'run.json', 'damaged')
    (out/'run.json').write_text(was)

def test_damaged_weights(capsys, run):
    f = run[0]/'members'/'member_seed1.pth'
    was = f.read_bytes()
    f.write_bytes(was[:1000])
    check_error(capsys, ['fashion', '--out', str(run[0]), '--resume'], 'member_seed1.pth', 'damaged', 'Remove it')
    f.write_bytes(was)

def test_folder_with_other_files(capsys, tmp_path):
    (tmp_path/'report.md').write_text('mine')
    check_error(capsys, ['fashion', '--out', str(tmp_path)], 'no empty folder')
    assert (tmp_path/'report.md').read_text() == 'mine'

def test_interrupted_before_anything_is_there(capsys, tmp_path, monkeypatch):
    def stop(*args): raise KeyboardInterrupt
    monkeypatch.setattr(mod, 'fashion_mnist', stop)
    with pytest.raises(SystemExit) as e: run_cli(['fashion', '--out', str(tmp_path/'out')])
    assert e.value.code == 130 and 'interrupted' in capsys.readouterr().err and not (tmp_path/'out').exists()

def test_figures_of_others_stay_open(folder, tmp_path):
    fig = plt.figure()
    before = plt.get_fignums()
    fashion_job(tmp_path/'out', data=folder, **{**quick, 'epochs': 1, 'seeds': [1]})
    assert fig.number in before == plt.get_fignums()
    plt.close(fig)

def test_predict_transparent_and_deep_images(capsys, run, tmp_path):
    d = fashion_mnist('embedded')
    x = Image.fromarray(d.test_x[0])
    clear = Image.new('LA', x.size, (255,0))
    clear.paste(Image.merge('LA', [x, x.point(lambda o: 255 if o else 0)]))
    clear.save(tmp_path/'clear.png')
    x.save(tmp_path/'plain.png')
    a,b = predict_images(run[0], [tmp_path/'clear.png', tmp_path/'plain.png'])
    assert a == pytest.approx(b, abs=1e-6)
    Image.fromarray(d.test_x[0].astype(np.uint16)*257).save(tmp_path/'deep.png')
    assert predict_images(run[0], [tmp_path/'deep.png'])[0] == pytest.approx(b, abs=1e-6)
    Image.fromarray(d.test_x[0].astype(np.float32)).save(tmp_path/'float.tif')
    args = ['predict', str(tmp_path/'float.tif'), '--learner', str(run[0]), '--strict']
    check_error(capsys, args, 'float.tif has pixels of 32 bits')

@pytest.mark.parametrize('content', [b'', b'junk', pickle.dumps({'a': 1})], ids=['empty', 'junk', 'dict'])
def test_predict_with_what_is_no_learner(capsys, tmp_path, content):
    (tmp_path/'x.pkl').write_bytes(content)
    Image.fromarray(fashion_mnist('embedded').test_x[0]).save(tmp_path/'good.png')
    check_error(capsys, ['predict', str(tmp_path/'good.png'), '--learner', str(tmp_path/'x.pkl')], 'x.pkl')

def test_predict_errors(capsys, run, tmp_path):
    out,_ = run
    (tmp_path/'no.png').write_text('not an image')
    good = tmp_path/'good.png'
    Image.fromarray(fashion_mnist('embedded').test_x[0]).save(good)
    with pytest.raises(SystemExit) as e: run_cli(['predict', str(good), str(tmp_path/'no.png'), '--learner', str(out)])
    said = capsys.readouterr()
    assert e.value.code == 1 and 'no.png' in said.err and str(good) in said.out
    check_error(capsys, ['predict', str(good), str(tmp_path/'no.png'), '--learner', str(out), '--strict'], 'no.png')
    check_error(capsys, ['predict', str(tmp_path/'none.png'), '--learner', str(out)], 'none.png')
    check_error(capsys, ['predict', str(good), '--learner', str(tmp_path/'nowhere')], 'nowhere', 'fastai-ext fashion')

@pytest.mark.slow
def test_the_command_says_no_more_than_what_is_wrong(tmp_path):
    res = subprocess.run([sys.executable, '-m', 'fastai_ext', 'predict', 'none.png', '--learner', 'none.pkl'],
        cwd=tmp_path, capture_output=True, text=True)
    assert res.returncode == 2 and res.stdout == '' and re.fullmatch('fastai-ext: .*none.pkl.*\n', res.stderr)

@pytest.mark.slow
def test_ctrl_c_leaves_what_is_finished_and_says_how_to_resume(tmp_path, folder):
    out = tmp_path/'a b'
    cmd = [sys.executable, '-W', 'ignore', '-u', '-m', 'fastai_ext', 'fashion', '--out', str(out)]
    options = ['--data', folder, '--model', 'mini_convnet', '--bs', '20', '--epochs', '200', '--seeds', '1']
    # background jobs of a shell ignore SIGINT, and so would what they start
    p = subprocess.Popen([*cmd, *options], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL))
    try:
        start = time.time()
        while p.poll() is None and time.time()-start < 120 and not list(out.glob('members/*.ckpt')): time.sleep(0.2)
        p.send_signal(signal.SIGINT)
        err = p.communicate(timeout=60)[1]
    finally: p.kill()
    assert p.returncode == 130 and 'Traceback' not in err and f"fastai-ext fashion --resume --out '{out}'" in err
    assert (out/'run.json').is_file() and not (out/'results.json').exists()

@pytest.mark.parametrize('text', ['{"epochs": "x"}', '{"epochs": 2, "nonsense": 1}', '{"seeds": [1.5]}',
    '{"lr": null}'])
def test_edited_settings(capsys, tmp_path, text):
    (tmp_path/'run.json').write_text(text)
    check_error(capsys, ['fashion', '--out', str(tmp_path), '--resume'], 'run.json is damaged')

@pytest.mark.parametrize('change', [dict(epochs=None), dict(loss='x'), dict(seconds='x')])
def test_edited_history(capsys, run, change):
    f = run[0]/'members'/'history_1.json'
    was = f.read_text()
    f.write_text(json.dumps({**json.loads(was), **change}))
    try: check_error(capsys, ['fashion', '--out', str(run[0]), '--resume'], 'history_1.json is damaged', first(change))
    finally: f.write_text(was)

def test_two_processes_on_one_folder(capsys, copied):
    out,_ = copied
    lock = str(out/'members'/'.lock')
    code = f"from filelock import FileLock\nwith FileLock({lock!r}):\n print('held', flush=True)\n input()"
    p = subprocess.Popen([sys.executable, '-c', code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert p.stdout.readline() == 'held\n'
        check_error(capsys, ['fashion', '--out', str(out), '--resume'], 'Another process is at work')
    finally: p.communicate('\n')
    fashion_job(out, resume=True)

def test_predict_works_in_one_process(capsys, monkeypatch):
    monkeypatch.setenv('WORLD_SIZE', '2')
    check_error(capsys, ['predict', 'a.jpg'], 'torchrun', 'run it alone')

@pytest.mark.slow
def test_full_disk(tmp_path, folder):
    "A limit on the size of files stands for it; nothing is left half"
    code = f"""if True:
        import resource, signal
        from fastai_ext.cli import run_cli
        from fastai_ext.fashion import *
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))
        run_cli(['fashion', '--out', {str(tmp_path/'out')!r}, '--data', {folder!r}, '--model', 'mini_convnet',
            '--epochs', '1', '--seeds', '1', '--bs', '50'])"""
    res = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True)
    assert res.returncode == 2 and re.fullmatch('fastai-ext: .*\n', res.stderr), res.stderr
    assert not list((tmp_path/'out').rglob('part-*')) and not (tmp_path/'out'/'results.json').exists()

def test_help_needs_no_torch():
    code = """if True:
        import sys
        from fastai_ext.cli import run_cli
        try: run_cli(['fashion', '--help'])
        finally: assert 'torch' not in sys.modules"""
    res = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert res.returncode == 0 and '--seeds' in res.stdout, res.stderr
    res = subprocess.run([sys.executable, '-m', 'fastai_ext', '--version'], capture_output=True, text=True)
    assert re.fullmatch(r'fastai_ext \d+\.\d+\.\d+\n', res.stdout)

@pytest.mark.slow
def test_no_bars_in_a_file(capsys, tmp_path, folder):
    cbs = list(defaults.callbacks)
    run_cli(['fashion', '--out', str(tmp_path), '--data', folder, '--model', 'mini_convnet', '--epochs', '1', '--seeds',
        '1', '--bs', '50'])
    out = capsys.readouterr().out
    assert '█' not in out and '\r' not in out and 'Test accuracy' in out and defaults.callbacks == cbs

def test_pictures_show_what_the_model_sees(run):
    "Light on black: the corners of the items are the darkest"
    for name in ('batch.png', 'top_losses.png'):
        a = np.asarray(Image.open(run[0]/name).convert('L')).astype(float)
        inside = a < 250
        assert (a[inside] < 40).mean() > .3, name

def test_predict_hints_when_the_border_is_bright(capsys, run, tmp_path):
    x = Image.fromarray(255-fashion_mnist('embedded').test_x[0])
    x.save(tmp_path/'white.png')
    files = [tmp_path/'white.png']
    with pytest.warns(UserWarning, match='white.png look dark on bright.*invert=True'): predict_images(run[0], files)
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        predict_images(run[0], files, invert=True)
    run_cli(['predict', str(tmp_path/'white.png'), '--learner', str(run[0])])
    assert 'look dark on bright' in capsys.readouterr().err

def test_predicts_in_the_way_that_was_better(run, tmp_path):
    "By the validation images; the report and its pictures say which"
    out,res = run
    assert res['tta'] == (res['ensemble']['valid_tta'] > res['ensemble']['valid'])
    assert res['headline'] == res['ensemble']['test_tta' if res['tta'] else 'test']
    assert f'predicts {"with flip TTA" if res["tta"] else "plain"}, since' in (out/'report.md').read_text()
    Image.fromarray(fashion_mnist('embedded').test_x[0]).save(tmp_path/'a.png')
    plain,tta,default = (predict_images(out, [tmp_path/'a.png'], tta=o)[0] for o in (False,True,None))
    assert plain != pytest.approx(tta, abs=1e-6) and default == pytest.approx(tta if res['tta'] else plain, abs=1e-7)

def test_by_recipe(folder, undrawn, tmp_path):
    "The recipe's settings unless others are given, in the run and in the optimizer; it is kept for resuming"
    res = fashion_job(tmp_path/'run', data=folder, recipe=5, model='mini_convnet', epochs=1, seeds=[1], bs=50)
    s = res['settings']
    assert (s['recipe'], s['lr'], s['epochs'], s['model']) == (5, recipes[5].lr, 1, 'mini_convnet')
    history = json.loads((tmp_path/'run'/'members'/'history_1.json').read_text())
    assert set(history['mom']) == {recipes[5].mom} and max(history['lr']) <= recipes[5].lr
    PILImageBW.create(fashion_mnist(folder).test_x[0]).save(tmp_path/'a.png')
    assert len(predict_images(tmp_path/'run', [tmp_path/'a.png'])[0]) == 10
    again = fashion_job(tmp_path/'run', resume=True)
    assert again['members']['1']['accuracy'] == res['members']['1']['accuracy']
    with pytest.raises(ValueError, match='recipe=7: expected one of 5, 20, 50'): fashion_job(tmp_path/'b', recipe=7)
    with pytest.raises(ValueError, match="recipe='5': expected"): fashion_job(tmp_path/'b', recipe='5')
