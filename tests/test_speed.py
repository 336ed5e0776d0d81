"What a speed report measures, what it says, and that it changes nothing, also when it is interrupted"
from fastai.vision.all import *
import pytest
from fastai_ext.callbacks import BatchTransform
from fastai_ext.loaders import InMemoryDL
from fastai_ext.precision import AutoPrecision
from fastai_ext.speed import SpeedReport
from helpers import differences, fingerprint, process_state

class Net(Module):
    "Waits `slow` seconds, and can't take more than `most` images"
    def __init__(self, slow=0., most=1000):
        store_attr()
        self.conv,self.head = nn.Conv2d(1, 4, 3, padding=1),nn.Linear(4,3)
    def forward(self, x):
        if self.slow: time.sleep(self.slow)
        if len(x) > self.most: raise MemoryError(f'{len(x)} images')
        return self.head(self.conv(x).mean((2,3)))

class Wait(Transform):
    def encodes(self, x:TensorImage):
        time.sleep(.05)
        return x

def learner(net=None, n=40, bs=8, batch_tfms=None, **kwargs):
    x = np.random.default_rng(0).integers(0, 255, (n,6,6), dtype=np.uint8)
    y = np.arange(n)%3
    dls = DataLoaders.from_arrays(x, y, x, y, bs=bs, batch_tfms=batch_tfms, device='cpu')
    return Learner(dls, net or Net(), loss_func=CrossEntropyLossFlat(), **kwargs)

def report(learn, seconds=1.5, **kwargs):
    with learn.no_bar(): return learn.speed_report(seconds, **kwargs)

def rows(r, **kwargs):
    "The rows of the table of `r` that have these values"
    t = r.to_df()
    for k,v in kwargs.items(): t = t[t[k] == v]
    return t

@pytest.fixture
def has_bf16(monkeypatch): monkeypatch.setattr(torch.cpu, 'get_capabilities', lambda: dict(avx512_bf16=True))

def test_every_sensible_setting_is_a_row():
    t = report(learner()).to_df()
    assert list(t['items/s']) == sorted(t['items/s'], reverse=True) and t['items/s'].min() > 0
    named = set(zip(t.setting, t.bs.astype(object).where(t.bs.notna(), None)))
    assert named == {('the loader alone',None), ('as it is',8), *((f'{f}, float32',k)
        for f in ('contiguous','channels last') for k in (4,8,16,32))}
    assert len(t) == 10 and (t.failed == '').all() and (t['memory, GB'].dropna() > .05).all()

def test_batches_are_no_larger_than_the_data_and_other_models_have_one_format():
    learn = Learner(learner(n=12).dls, nn.Sequential(nn.Flatten(), nn.Linear(36,3)), loss_func=CrossEntropyLossFlat())
    t = report(learn).to_df()
    assert set(t.setting) == {'the loader alone','as it is','contiguous, float32'} and set(t.bs.dropna()) == {8,4}

def test_the_best_is_the_fastest_and_its_code_makes_it(has_bf16):
    learn = learner()
    r = report(learn)
    t = r.to_df()
    steps = t[t.bs.notna() & (t.setting != 'as it is')]
    assert r.best['items/s'] == steps['items/s'].max()
    for last,amp in itertools.product((0,1), (0,1)):
        setting = f"{('contiguous','channels last')[last]}, {('float32','bfloat16')[amp]}"
        assert len(rows(r, setting=setting)) == 4
    if r.best['code']: exec(r.best['code'], dict(learn=learn, ChannelsLast=ChannelsLast))
    has = [any(isinstance(o, c) for o in learn.cbs) for c in (ChannelsLast,AutoPrecision)]
    assert has == ['channels last' in r.best['setting'], 'bfloat16' in r.best['setting']]

class Slow(Net):
    "Slow with the channels last or in 16 bits"
    def forward(self, x):
        last = self.conv.weight.is_contiguous(memory_format=torch.channels_last)
        time.sleep(.05*(last + torch.is_autocast_enabled('cpu')))
        return super().forward(x)

def slow_learner(**kwargs):
    # weights of one channel count as channels last in both formats
    net = nn.Sequential(nn.Conv2d(1, 3, 1), Slow())
    net[1].conv = nn.Conv2d(3, 4, 3)
    return learner(net, **kwargs)

@pytest.mark.slow
def test_the_code_takes_off_what_is_slower(has_bf16):
    learn = slow_learner(cbs=[ChannelsLast()]).to_amp()
    r = report(learn, 4.)
    assert r.best['setting'] == 'contiguous, float32' and r.best['code'] == 'learn.to_contiguous().to_fp32()'
    assert f"`{r.best['code']}`" in r.advice
    eval(r.best['code'], dict(learn=learn))
    assert not any(isinstance(o, (ChannelsLast,MixedPrecision)) for o in learn.cbs)

@pytest.mark.parametrize('last', [False, True])
def test_the_learner_as_it_is_keeps_its_format(last):
    "In every round, whatever came before: 8 images in 50 ms are 160 a second"
    learn = slow_learner()
    if last: learn.model.to(memory_format=torch.channels_last)
    rate = rows(report(learn, 1.5), setting='as it is')['items/s'].item()
    assert (rate < 160) == last

def test_loss_is_compared_at_the_same_weights(has_bf16):
    "By hand, under torch's autocast, in evaluation mode"
    learn = learner(nn.Sequential(Net(), nn.Dropout(.5)), bs=16)
    r = report(learn)
    # the report, and this, read the batch that comes next
    x,y = learn.show_train_batch(show=False)
    learn.model.eval()
    with torch.no_grad():
        exact = F.cross_entropy(learn.model(x), y).item()
        with torch.autocast('cpu', dtype=torch.bfloat16): pred = learn.model(x)
        want = F.cross_entropy(pred.float(), y).item()-exact
    got = rows(r, setting='contiguous, bfloat16', bs=16)['loss − float32'].item()
    assert want != 0 and got == pytest.approx(want, abs=1e-7)
    assert rows(r, setting='contiguous, float32', bs=16)['loss − float32'].item() == 0

@pytest.mark.slow
def test_it_says_what_holds_training_back():
    assert 'The model holds' in report(learner(Net(.02))).advice
    slow = learner(batch_tfms=Wait())
    said = report(slow).advice
    assert 'The loader holds' in said and 'in memory: it is the batch transforms' in said
    def _slowly(i):
        time.sleep(.01)
        return np.zeros((6,6), np.uint8)
    blocks = ImageBlock(PILImageBW),CategoryBlock
    block = DataBlock(blocks, get_items=lambda _: range(20), get_x=_slowly, get_y=lambda i: i%3)
    learn = Learner(block.dataloaders(None, bs=4, num_workers=0), Net(), loss_func=CrossEntropyLossFlat())
    said = report(learn, 2.).advice
    assert 'The loader holds' in said and '`learn.dls = learn.dls.in_memory()`' in said
    code = 'learn.dls = learn.dls.in_memory()'
    with learn.no_bar(): exec(code, dict(learn=learn))
    assert isinstance(learn.dls.train, InMemoryDL) and 'The model holds' in report(learn, 2.).advice

def test_the_loader_is_timed_alone():
    "40 items in 5 batches of 50 ms: not more than 160 a second"
    rate = rows(report(learner(batch_tfms=Wait())), setting='the loader alone')['items/s'].item()
    assert 40 < rate <= 160

def test_what_fails_is_a_row_with_the_reason():
    r = report(learner(Net(most=16)))
    bad = r.to_df()[r.to_df().failed != '']
    assert set(bad.bs) == {32} and set(bad.failed) == {'MemoryError: 32 images'} and bad['items/s'].isna().all()
    assert 'MemoryError: 32 images' in repr(r) and 'MemoryError: 32 images' in r._repr_html_()
    assert 'failed' not in repr(report(learner()))

def test_without_time_there_is_a_row_that_says_so():
    t = report(learner(Net(.1)), .6).to_df()
    assert 'no time: give more seconds' in set(t.failed)

@pytest.mark.parametrize('seconds', [0, -1, math.nan])
def test_bad_seconds(seconds):
    with pytest.raises(ValueError, match='expected some time, 60'): learner().speed_report(seconds)

def test_a_learner_that_cannot_train_says_why():
    with pytest.raises(MemoryError, match='8 images'): report(learner(Net(most=2)))
    learn = learner()
    learn.dls = DataLoaders(learn.dls.train.new(dataset=learn.dls.train_ds.new_empty()), learn.dls.valid)
    with pytest.raises(ValueError, match='no training data'): report(learn)

def test_callbacks_have_their_part_and_others_are_left_out(tmp_path):
    class Part(Callback):
        def before_batch(self): (tmp_path/'part').touch()
    class Log(Callback):
        def after_batch(self): (tmp_path/'log').touch()
        def before_fit(self): (tmp_path/'log').touch()
    report(learner(cbs=[Part(), Log()]), .5)
    assert [o.name for o in tmp_path.iterdir()] == ['part']

@pytest.mark.parametrize('at', [1, 12, 40])
def test_nothing_is_changed_when_interrupted(at, tmp_path):
    class Stop(Callback):
        n = -1000
        def before_batch(self):
            self.n += 1
            if self.n == at: raise KeyboardInterrupt
    learn = learner(cbs=[Stop(), ChannelsLast(), BatchTransform(lambda x: x+torch.rand(1))], opt_func=SGD)
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    learn.stop.n = 0
    before,process = fingerprint(learn, learn.model, learn.dls, learn.opt),process_state()
    with pytest.raises(KeyboardInterrupt): learn.speed_report(3.)
    assert differences(before, fingerprint(learn, learn.model, learn.dls, learn.opt)) == []
    assert process_state() == process

def test_pictures_and_tables():
    r = report(learner(Net(most=16)))
    assert isinstance(r, SpeedReport) and '<table' in r._repr_html_() and r.advice in repr(r)
    r.plot()
    ax = plt.gca()
    assert len(ax.patches) == 7 and len(ax.lines) > 0 # one, or two formats with 4, 8 and 16 images
    plt.close()

@pytest.mark.slow
def test_compiled():
    if not shutil.which(os.environ.get('CXX', 'g++')): pytest.skip('no C++ compiler')
    learn = learner()
    before = fingerprint(learn, learn.model)
    r = learn.speed_report(1., compile=True)
    row, = [o for _,o in r.to_df().iterrows() if 'compiled' in o.setting]
    assert row['items/s'] > 0 and row.failed == '' and abs(row['loss − float32']) < 1e-5
    assert differences(before, fingerprint(learn, learn.model)) == []
    if 'compiled' in r.best['setting']: assert r.best['code'].endswith('learn.model.compile()')
