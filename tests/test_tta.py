"Flip TTA is the hand-made mean over views, everywhere fastai predicts, and leaves no trace"
from fastai.callback.channelslast import *
from fastai.callback.fp16 import MixedPrecision
from fastai.vision.all import *
import contextlib, hashlib, pickle, pytest, sklearn.metrics

from fastai_ext.callbacks import BatchTransform
from fastai_ext.tta import DihedralView, FlipTTA, TTAView, tta_views

SETS = ['h', 'v', 'hv', 'd4', 'shift']

def image(i, c=3, h=8, w=8): return torch.rand(c, h, w, generator=torch.Generator().manual_seed(i))

def conv_net(no=3, ni=3, sz=8):
    conv = nn.Conv2d(ni, 6, 3, padding=1)
    return nn.Sequential(conv, nn.ReLU(), nn.Flatten(), nn.Linear(6*sz*sz, no))

def quiet(learn):
    learn.remove_cb(ProgressCallback)
    return learn

def label(i): return i%3

@pytest.fixture
def learn():
    block = DataBlock((TransformBlock, CategoryBlock), get_x=lambda i: TensorImage(image(i)), get_y=label,
        splitter=IndexSplitter(range(13, 30)))
    set_seed(2)
    dls = block.dataloaders(list(range(30)), bs=4, num_workers=0)
    return quiet(Learner(dls, conv_net(), metrics=[accuracy, F1Score(average='macro')]))

@pytest.fixture
def xs(): return torch.stack([image(i) for i in range(13, 30)])

def copies(x, views):
    "Moved copies of `x` and their weights, written out by hand"
    m = x.flip(3)
    if views == 'h': return [(x,1),(m,1)]
    if views == 'v': return [(x,1),(x.flip(2),1)]
    if views == 'hv': return [(x,1),(m,1),(x.flip(2),1),(x.flip(2,3),1)]
    if views == 'd4': return [(y.rot90(k, (2,3)),1) for y in (x,m) for k in range(4)]
    pad = F.pad(x, (1,1,1,1), mode='reflect')
    ul,dr = pad[:,:,2:,2:],pad[:,:,:-2,:-2]
    return [(x,.25),(m,.25)] + [(y,.125) for y in (ul,dr,ul.flip(3),dr.flip(3))]

def hand_mean(model, x, views, act):
    model.eval()
    with torch.no_grad(): outs = [(act(model(y)),w) for y,w in copies(x, views)]
    return sum(o*w for o,w in outs)/sum(w for _,w in outs)

@pytest.mark.parametrize('views', SETS)
def test_equals_the_hand_made_mean(learn, xs, views):
    preds,targs = learn.tta_flip(views=views)
    assert torch.allclose(preds, hand_mean(learn.model, xs, views, lambda o: o.softmax(-1)), rtol=0, atol=1e-6)
    assert targs.tolist() == [i%3 for i in range(13, 30)]
    raw = learn.tta_flip(views=views, avg='logits', act=noop)[0]
    assert torch.allclose(raw, hand_mean(learn.model, xs, views, noop), rtol=0, atol=1e-6)

def test_a_learner_with_flip_tta_is_not_averaged_twice(learn):
    want,plain = learn.tta_flip()[0],learn.validate()
    learn.add_cb(FlipTTA())
    cbs = list(learn.cbs)
    assert torch.equal(learn.tta_flip()[0], want)
    assert learn.tta_report().to_df()['loss'][0] == pytest.approx(plain[0])
    assert list(learn.cbs) == cbs
    with pytest.raises(ValueError, match='FlipTTA already'): learn.validate(cbs=FlipTTA('v'))

def test_metrics_and_loss_are_those_of_the_average(learn, xs):
    preds,targs = learn.tta_flip()
    loss,acc,f1 = learn.validate(cbs=FlipTTA())
    assert loss == pytest.approx(F.nll_loss(preds.log(), targs).item(), abs=1e-5)
    assert acc == pytest.approx((preds.argmax(-1) == targs).float().mean().item())
    assert f1 == pytest.approx(sklearn.metrics.f1_score(targs, preds.argmax(-1), average='macro'))
    losses = learn.tta_flip(with_loss=True)[2]
    assert torch.allclose(losses, F.nll_loss(preds.log(), targs, reduction='none'), atol=1e-5)

def test_returns_what_get_preds_returns(learn, xs):
    x,preds,targs,dec,losses = learn.tta_flip(with_input=True, with_decoded=True, with_loss=True)
    assert torch.equal(x, xs) and torch.equal(dec, preds.argmax(-1)) and len(losses) == len(targs) == 17
    assert learn.tta_flip(dl=learn.dls.test_dl(list(range(13, 30))))[1] is None
    assert torch.equal(learn.tta_flip(dl=learn.dls.test_dl(list(range(13, 30))))[0], preds)

def test_works_in_predict_show_results_and_interpretation(learn):
    want = learn.tta_flip()[0]
    plain = learn.get_preds()[0]
    with learn.added_cbs(FlipTTA()):
        assert torch.allclose(learn.predict(13)[2], want[0], atol=1e-6)
        assert not torch.allclose(want[0], plain[0], atol=1e-4)
        learn.show_results(max_n=2)
        interp = Interpretation.from_learner(learn)
    assert torch.allclose(interp.losses, learn.tta_flip(with_loss=True)[2])
    assert torch.equal(learn.get_preds()[0], plain)

def seg_item(i): return TensorImage(image(i, h=16, w=16))
def seg_mask(i): return TensorMask((image(i, h=16, w=16).sum(0) > 1.5).long())

def seg_block(n_val=10):
    splitter = IndexSplitter(range(n_val, 20))
    return DataBlock((TransformBlock, TransformBlock), get_x=seg_item, get_y=seg_mask, splitter=splitter)

pixel_loss = CrossEntropyLossFlat(axis=1)

@pytest.fixture
def seg():
    set_seed(4)
    dls = seg_block().dataloaders(list(range(20)), bs=4, num_workers=0)
    return quiet(Learner(dls, nn.Conv2d(3, 2, 3, padding=1), loss_func=pixel_loss, metrics=DiceMulti()))

def back(y, k): return y.flip(dict(h=[3], v=[2], hv=[2,3]).get(k, []))

@pytest.mark.parametrize('views', ['h', 'v', 'hv'])
def test_maps_are_moved_back(seg, views):
    x = torch.stack([image(i, h=16, w=16) for i in range(10, 20)])
    seg.model.eval()
    which = ['', 'h', 'v', 'hv'] if views == 'hv' else ['', views]
    with torch.no_grad(): want = sum(back(seg.model(back(x, k)).softmax(1), k) for k in which)/len(which)
    assert torch.allclose(seg.tta_flip(views=views)[0], want, rtol=0, atol=1e-6)
    test_dl = seg.dls.test_dl(list(range(10, 20)))
    assert torch.allclose(seg.tta_flip(dl=test_dl, views=views)[0], want, rtol=0, atol=1e-6)
    assert seg.tta_report(sets=[views]).to_df()['dice_multi'][1] == pytest.approx(seg.validate(cbs=FlipTTA(views))[1])

class Equivariant(Module):
    "Commutes with every move of the square: what a pixel and its four neighbours add up to"
    def __init__(self): self.w = nn.Parameter(tensor([[0.,.3,0],[.3,1.,.3],[0,.3,0]]))
    def forward(self, x): return torch.cat([F.conv2d(x[:,i:i+1], self.w[None,None], padding=1) for i in (0,1)], 1)

@pytest.mark.parametrize('views', ['h', 'hv', 'd4'])
def test_an_equivariant_model_says_the_same_with_and_without(views):
    dls = seg_block().dataloaders(list(range(20)), bs=4, num_workers=0)
    learn = quiet(Learner(dls, Equivariant(), loss_func=pixel_loss))
    assert torch.allclose(learn.tta_flip(views=views)[0], learn.get_preds()[0], rtol=0, atol=1e-6)
    wrong = learn.tta_flip(views=views, output='label')[0]
    assert not torch.allclose(wrong, learn.get_preds()[0], atol=1e-2)

def test_unet_learner():
    set_seed(1)
    dls = seg_block().dataloaders(list(range(20)), bs=4, num_workers=0)
    learn = quiet(unet_learner(dls, resnet18, n_out=2, pretrained=False, normalize=False, loss_func=pixel_loss))
    learn.model.eval()
    x = torch.stack([image(i, h=16, w=16) for i in range(10, 20)])
    with torch.no_grad(): want = (learn.model(x).softmax(1) + learn.model(x.flip(3)).softmax(1).flip(3))/2
    got = learn.tta_flip()[0]
    assert torch.allclose(got, want, rtol=0, atol=1e-6) and not torch.allclose(got, learn.get_preds()[0], atol=1e-3)

def test_points_are_mirrored_back():
    def target(i): return TensorPoint(image(i).flatten()[:4].view(2,2)*2-1)
    block = DataBlock((TransformBlock, TransformBlock), get_x=lambda i: TensorImage(image(i)), get_y=target,
        splitter=IndexSplitter(range(4, 9)))
    learn = quiet(Learner(block.dataloaders(list(range(9)), bs=3, num_workers=0), conv_net(4), loss_func=MSELossFlat()))
    x = torch.stack([image(i) for i in range(4, 9)])
    with torch.no_grad(): a,b = learn.model(x),learn.model(x.flip(3))
    assert torch.allclose(learn.tta_flip()[0], (a + b*tensor([-1.,1,-1,1]))/2, rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match='no way back'): learn.tta_flip(views='shift')

def typed(x, y, cls): return [(x, cls(y))]

@pytest.mark.parametrize('views,err,match',
    [('x', ValueError, "'h', 'v', 'hv', 'd4', 'shift'"), ([], ValueError, 'empty')])
def test_wrong_arguments(learn, views, err, match):
    with pytest.raises(err, match=match): learn.tta_flip(views=views)
    with pytest.raises(ValueError, match="avg='mean' is neither"): learn.tta_flip(avg='mean')
    with pytest.raises(ValueError, match="output='maps' is none of"): learn.tta_flip(output='maps')

class Counting(Module):
    def __init__(self, model): self.model,self.calls = model,0
    def forward(self, *x):
        self.calls += 1
        return self.model(*x)

def test_refusals_come_before_any_work():
    x = torch.randint(0, 5, (6,7))
    dl = DataLoader(list(zip(x, torch.arange(6)%2)), bs=3)
    model = Counting(nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), nn.Linear(28, 2)))
    learn = quiet(Learner(DataLoaders(dl, dl), model, loss_func=CrossEntropyLossFlat()))
    with pytest.raises(TypeError, match=r'needs an image to flip.*Tensor\[3, 7\]'): learn.tta_flip()
    box = DataBlock((TransformBlock, TransformBlock), get_x=seg_item, get_y=lambda i: TensorBBox(torch.rand(1,4)))
    dls = box.dataloaders(list(range(9)), bs=3, num_workers=0)
    learn = quiet(Learner(dls, Counting(conv_net(4, sz=16)), loss_func=MSELossFlat()))
    with pytest.raises(TypeError, match='bounding boxes'): learn.tta_flip()
    assert learn.model.calls == 0
    wide = DataBlock((TransformBlock, CategoryBlock), get_x=lambda i: TensorImage(image(i, h=8, w=6)), get_y=label)
    dls = wide.dataloaders(list(range(9)), bs=3, num_workers=0)
    learn = quiet(Learner(dls, Counting(nn.Conv2d(3, 3, 3)), loss_func=CrossEntropyLossFlat()))
    with pytest.raises(ValueError, match='square, and these are 8×6'): learn.tta_flip(views='d4')
    assert learn.model.calls == 0

def test_untyped_maps_ask_for_what_they_are():
    ds = torch.utils.data.TensorDataset(torch.rand(6,3,8,8), torch.randint(0, 2, (6,8,8)))
    dls = DataLoaders(*[torch.utils.data.DataLoader(ds, batch_size=3)]*2)
    learn = quiet(Learner(dls, nn.Conv2d(3, 2, 3, padding=1), loss_func=CrossEntropyLossFlat(axis=1)))
    with pytest.raises(ValueError, match="output='map'"): learn.validate(cbs=FlipTTA())
    x = ds.tensors[0]
    with torch.no_grad(): want = (learn.model(x).softmax(1) + learn.model(x.flip(3)).softmax(1).flip(3))/2
    assert torch.allclose(learn.tta_flip(dl=dls.valid, output='map', reorder=False)[0], want, atol=1e-6)

@pytest.mark.parametrize('loss',
    [BCEWithLogitsLossFlat(), MSELossFlat(), FocalLossFlat(), LabelSmoothingCrossEntropyFlat()])
def test_other_losses(loss):
    multi = isinstance(loss.func, (nn.BCEWithLogitsLoss, nn.MSELoss))
    def target(i): return TensorMultiCategory([float(i%2), float(i%3 > 0), 1.]) if multi else TensorCategory(i%3)
    block = DataBlock((TransformBlock, TransformBlock), get_x=lambda i: TensorImage(image(i)), get_y=target,
        splitter=IndexSplitter(range(9)))
    set_seed(3)
    learn = quiet(Learner(block.dataloaders(list(range(12)), bs=3, num_workers=0), conv_net(), loss_func=loss))
    x = torch.stack([image(i) for i in range(9)])
    assert torch.allclose(learn.tta_flip()[0], hand_mean(learn.model, x, 'h', loss.activation), rtol=0, atol=1e-6)

def test_confident_models_keep_a_finite_loss(learn):
    with torch.no_grad(): learn.model[3].weight.mul_(1e4)
    assert math.isfinite(learn.validate(cbs=FlipTTA())[0])
    assert torch.isfinite(learn.tta_flip(with_loss=True)[2]).all()

def fingerprint(learn):
    "A hash of everything that a look at a learner must not change"
    h = hashlib.sha256()
    for k,v in learn.model.state_dict().items(): h.update(k.encode() + v.numpy().tobytes())
    rec = learn.recorder
    rngs = [dl.rng.getstate() for dl in learn.dls.loaders],random.getstate(),np.random.get_state()[1].tolist()
    modules = [(type(m), m.training, len(m._forward_hooks)) for m in learn.model.modules()]
    state = [modules, list(map(repr, learn.cbs)), rec.losses, rec.values, rec.lrs, rngs, torch.get_rng_state().tolist(),
        sorted(vars(learn)), learn.opt.state_dict()['hypers'], torch.is_autocast_enabled('cpu'), learn.lock.locked(),
        [p.grad is None or p.grad.sum().item() for p in learn.model.parameters()]]
    return h.hexdigest(), repr(state)

class Interrupt(Callback):
    def after_pred(self):
        if self.iter == 1: raise KeyboardInterrupt

@pytest.mark.parametrize('cbs', [None, Interrupt])
@pytest.mark.parametrize('do', ['tta_flip', 'tta_report'])
def test_leaves_no_trace(learn, do, cbs):
    with learn.no_logging(): learn.fit(1)
    learn.model.train()
    plain,before = learn.get_preds()[0],None
    with learn.no_logging(): learn.fit(1, 0.)
    plain,_ = learn.get_preds()[0],learn.model.train()
    before = fingerprint(learn)
    with contextlib.suppress(KeyboardInterrupt): getattr(learn, do)(ds_idx=0, cbs=cbs)
    assert fingerprint(learn) == before
    assert torch.equal(learn.get_preds()[0], plain)

class CPUMixedPrecision(MixedPrecision):
    "bfloat16 autocast where there is no GPU"
    def before_fit(self):
        super().before_fit()
        self.autocast = torch.autocast('cpu', dtype=torch.bfloat16)

class Dtypes(Callback):
    seen = None
    def before_validate(self): self.seen = []
    def before_batch(self): self.seen.append(torch.is_autocast_enabled('cpu'))

def test_every_view_runs_under_autocast(learn, xs):
    learn.add_cb(CPUMixedPrecision('bf16'))
    preds = learn.tta_flip()[0]
    learn.model.eval()
    with torch.no_grad(), torch.autocast('cpu', dtype=torch.bfloat16): outs = list(map(learn.model, (xs, xs.flip(3))))
    assert torch.allclose(preds, sum(o.float().softmax(1) for o in outs)/2, atol=1e-6) and preds.dtype == torch.float32
    assert not torch.is_autocast_enabled('cpu')

def test_interrupted_mixed_precision_leaves_autocast(learn):
    learn.add_cb(CPUMixedPrecision('bf16'))
    with pytest.raises(KeyboardInterrupt): learn.tta_flip(cbs=Interrupt)
    assert not torch.is_autocast_enabled('cpu') and not torch.is_autocast_enabled('cuda')

def test_channels_last(learn, xs):
    want = learn.tta_flip(views='d4')[0]
    learn.to_channelslast(use_amp=False)
    assert torch.allclose(learn.tta_flip(views='d4')[0], want, atol=1e-5)
    for v in tta_views('d4') + tta_views('shift'):
        assert v(xs.to(memory_format=torch.channels_last)).is_contiguous(memory_format=torch.channels_last)

seen = SimpleNamespace(read=[]) # outside of the loaders, which have the attributes of twins meanwhile
def read_image(i):
    seen.read.append(i)
    return TensorImage(image(i))

def test_each_batch_is_read_once():
    block = DataBlock((TransformBlock, CategoryBlock), get_x=read_image, get_y=label, splitter=IndexSplitter(range(9)))
    learn = quiet(Learner(block.dataloaders(list(range(12)), bs=4, num_workers=0), conv_net(), metrics=accuracy))
    for do in (lambda: learn.tta_flip(views='d4'), lambda: learn.tta_report(sets=['h','d4','shift'])):
        seen.read.clear()
        do()
        assert sorted(seen.read) == list(range(9))

def test_shuffled_loaders_come_back_in_order(learn):
    want = learn.tta_flip(ds_idx=0)[0]
    dl = learn.dls.train
    assert dl.shuffle and torch.allclose(learn.tta_flip(dl=dl.new(drop_last=False))[0], want, atol=1e-6)

class Mirror:
    def __call__(self, x): return x.flip(-1)

def test_views_of_ones_own(learn, seg):
    assert torch.allclose(learn.tta_flip(views=[DihedralView(), Mirror()])[0], learn.tta_flip()[0], atol=1e-6)
    with pytest.raises(ValueError, match='no way back'): seg.tta_flip(views=[Mirror()])
    own = seg.tta_flip(views=[DihedralView(), TTAView(Mirror(), Mirror())])[0]
    assert torch.allclose(own, seg.tta_flip()[0], atol=1e-6)

def test_an_image_among_other_inputs():
    class Two(Module):
        def __init__(self): self.a,self.b = conv_net(),nn.Linear(2, 3)
        def forward(self, x, t): return self.a(x) + self.b(t)
    ds = torch.utils.data.TensorDataset(torch.rand(7,3,8,8), torch.rand(7,2), torch.arange(7)%3)
    dl = DataLoader(ds, bs=3)
    dls = DataLoaders(dl, dl)
    dls.n_inp = 2
    learn = quiet(Learner(dls, Two(), loss_func=CrossEntropyLossFlat()))
    x,t,_ = ds.tensors
    with torch.no_grad(): want = (learn.model(x, t).softmax(1) + learn.model(x.flip(3), t).softmax(1))/2
    assert torch.allclose(learn.tta_flip()[0], want, atol=1e-6)

def test_survives_pickling(learn, tmp_path):
    cb = pickle.loads(pickle.dumps(FlipTTA('shift')))
    want = tta_views('shift')
    assert repr(cb.views) == repr(want) and [v.weight for v in cb.views] == [v.weight for v in want]
    for v,w in zip(cb.views, want): assert torch.equal(v(image(1)[None]), w(image(1)[None]))

def test_report_counts_and_p_value(learn):
    from scipy.stats import binomtest
    report = learn.tta_report(sets=['h','d4','shift'])
    table = report.to_df()
    assert not re.search('nan|NA|None', report._repr_html_()+repr(report))
    plain,targs = learn.get_preds()
    for i,views in enumerate(['h','d4','shift'], 1):
        preds = learn.tta_flip(views=views)[0]
        was,now = plain.argmax(1) == targs,preds.argmax(1) == targs
        fixed,broke = int((now & ~was).sum()),int((~now & was).sum())
        assert table.loc[i, ['fixed','broke']].tolist() == [fixed, broke]
        assert table['p'][i] == pytest.approx(binomtest(fixed, fixed+broke).pvalue if fixed+broke else 1)
        assert table.loc[i, ['loss','accuracy']].tolist() == pytest.approx(learn.validate(cbs=FlipTTA(views))[:2])

class Same(Module):
    def __init__(self): self.lin = nn.Linear(192, 3)
    def forward(self, x): return self.lin(x.flatten(1))

@pytest.mark.parametrize('act', [torch.sigmoid, noop, None])
def test_activations_that_are_not_the_loss_functions(learn, act):
    "Views that are all the same give what `get_preds` gives"
    want = learn.get_preds(act=act)[0]
    assert torch.allclose(learn.tta_flip(views=[noop, noop], act=act)[0], want, atol=1e-6)
    with pytest.raises(ValueError, match="avg='logits'"): learn.tta_flip(act=torch.tanh)

def test_a_learner_without_data_says_so(learn, tmp_path):
    learn.path = tmp_path
    learn.export('a.pkl')
    bare = quiet(load_learner(tmp_path/'a.pkl'))
    for f in (bare.tta_flip, bare.tta_report):
        with pytest.raises(ValueError, match='pass `dl=`'): f()
    dl = bare.dls.test_dl(list(range(13, 30)))
    assert torch.allclose(bare.tta_flip(dl=dl)[0], learn.tta_flip()[0], atol=1e-6)

def test_views_and_weights_are_checked_before_work(learn):
    with pytest.raises(TypeError, match="'h' is none"): learn.tta_flip(views=['h'])
    for views in ([DihedralView(weight=0.)], [DihedralView(weight=math.nan)], [DihedralView(weight=-1.), noop]):
        with pytest.raises(ValueError, match='weights of views'): FlipTTA(views)

class Draws(Transform):
    "Draws from a generator of its own at validation"
    split_idx = 1
    def __init__(self): self.rng = np.random.default_rng(0)
    def encodes(self, x:TensorImage): return x + float(self.rng.normal())

def test_a_given_loader_is_left_as_it_was(learn):
    dl = learn.dls.test_dl(list(range(13, 30)), with_labels=True)
    dl.after_batch.add(Draws())
    t = dl.after_batch.fs[-1]
    before = str(t.rng.bit_generator.state)
    a,b = learn.tta_flip(dl=dl)[0],learn.tta_flip(dl=dl)[0]
    learn.tta_report(dl=dl)
    assert torch.equal(a, b) and str(t.rng.bit_generator.state) == before and dl.after_batch.fs[-1] is t

def test_a_loader_of_unknown_length_is_not_without_data(learn):
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self): return iter([(TensorImage(image(i)), TensorCategory(label(i))) for i in range(8)])
    dl = TfmdDL(Stream(), bs=4, num_workers=0, do_setup=False)
    learn.dls = DataLoaders(dl, dl)
    learn.add_cb(BatchTransform(noop))
    assert len(learn.show_train_batch(show=False)) == 2

class Temperature(Callback):
    "Changes predictions before the average is taken"
    order = 5
    def after_pred(self): self.learn.pred = self.pred.pow(3)*2

def test_what_callbacks_make_of_predictions_is_made_of_every_view(learn, xs):
    "Also of those that a report makes, and of the view that is none of the image's own"
    def _act(o): return (o.pow(3)*2).softmax(-1)
    got = learn.tta_flip(cbs=Temperature())[0]
    assert torch.allclose(got, hand_mean(learn.model, xs, 'h', _act), rtol=0, atol=1e-6)
    assert not torch.allclose(got, learn.tta_flip()[0], atol=1e-3)
    want = learn.validate(cbs=[Temperature(), FlipTTA()])[0]
    assert learn.tta_report(sets=['h'], cbs=Temperature()).to_df()['loss'][1] == pytest.approx(want)

class Scaled(DihedralView):
    def __init__(self, k):
        super().__init__()
        self.k,self.plain = k,False
    def __call__(self, x): return x*self.k

def test_views_of_a_class_of_ones_own_are_kept_apart(learn):
    "Though they show in the same way"
    a,b = Scaled(1.),Scaled(9.)
    assert repr(a) == repr(b)
    table = learn.tta_report(sets=dict(a=[a], b=[b])).to_df()
    for i,v in ((1,a), (2,b)): assert table['loss'][i] == pytest.approx(learn.validate(cbs=FlipTTA([v]))[0])
    assert table['loss'][1] != table['loss'][2]

def test_sets_of_a_report_are_checked_before_work(learn):
    learn.model = None
    with pytest.raises(ValueError, match="can't be called 'none'"): learn.tta_report(sets={'none': 'h'})
    with pytest.raises(TypeError, match='names of sets'): learn.tta_report(sets=[DihedralView()])

@pytest.mark.parametrize('shape', [(4,3,1,1), (4,3,1,8), (4,3,2,8,8)])
def test_shifts_that_reflection_cant_fill_are_refused(learn, shape):
    "Before the model is called"
    calls = []
    pool = nn.AdaptiveAvgPool2d(1) if len(shape)==4 else nn.AdaptiveAvgPool3d(1)
    learn.model = nn.Sequential(pool, nn.Flatten(), nn.Linear(3, 3))
    learn.model.register_forward_hook(lambda *_: calls.append(1))
    dl = TfmdDL([(TensorImage(torch.rand(shape[1:])), TensorCategory(0))]*4, bs=4, do_setup=False)
    with pytest.raises(ValueError, match='larger than the move'): learn.tta_flip(dl=dl, views='shift')
    assert not calls
