"The ladder: its figures, and what timm and fastai expect of a model"
from fastai.vision.all import *
import pytest, timm, torch
from timm.models import group_parameters
from torch.utils.flop_counter import FlopCounterMode

from fastai_ext.data import fashion_mnist_dls
from fastai_ext.models import *
from fastai_ext.layers import *

def board():
    "A block at full size, three with the stride in the first convolution, 10 outputs of mean and maximum"
    weights,size = 9*32+9*32*32+32,28
    params,macs = weights+2*3*32+32,size*size*weights
    for ni,nf in ((32,64), (64,128), (128,256)):
        size = (size+1)//2
        params += 9*ni*nf+9*nf*nf+ni*nf + 3*3*nf
        macs += size*size*(9*ni*nf+9*nf*nf+ni*nf)
    return params+2*256*10+20,macs+2*256*10

# parameters and multiply-accumulates for a 1×28×28 image and 10 classes, from the lesson's definitions by hand
ladder = dict(mini_resnet=(1_228_908, 8_406_784), mini_resnet_wide=(4_907_588, 36_908_544),
    mini_resnet_gap=(4_907_588, 44_379_648), mini_resnet_slim=(1_231_428, 29_697_024),
    mini_resnet_fast=(1_224_948, 24_666_880), mini_resnet_drop=(4_907_588, 36_908_544))
ladder['mini_resnet_board'] = board()
names = sorted([*ladder, 'mini_convnet', 'mini_convnet_deep'])

def n_params(m): return sum(p.numel() for p in m.parameters())
def macs(m, *size):
    with FlopCounterMode(display=False) as c, torch.no_grad(): m.eval()(torch.randn(1, *size))
    return c.get_total_flops()//2

def by_hand(name):
    "Parameters and MACs of the plain convolution nets, from the formula"
    nfs = dict(mini_convnet=[1,8,16,32,64,10], mini_convnet_deep=[1,8,16,32,64,128,10])[name]
    n,params,total = 28,0,0
    for i,(ni,nf) in enumerate(zip(nfs, nfs[1:])):
        if i or name == 'mini_convnet': n = (n+1)//2
        params += ni*nf*9 + nf + (2*nf if nf != 10 else 0)
        total += ni*nf*9*n*n
    return params,total

def test_all_rungs_are_registered():
    found = timm.list_models('mini_resnet*') + timm.list_models('mini_convnet*')
    assert sorted(found) == sorted(names) and len(names) == 9

@pytest.mark.parametrize('name', names)
def test_params_and_macs(name):
    m = timm.create_model(name, in_chans=1, num_classes=10)
    assert (n_params(m), macs(m, 1, 28, 28)) == (ladder[name] if name in ladder else by_hand(name))

@pytest.mark.parametrize('name', names)
@pytest.mark.parametrize('size', [(1,28,28), (3,64,48), (5,33,17), (4,7,7)])
def test_any_size_channels_and_classes(name, size):
    m = timm.create_model(name, in_chans=size[0], num_classes=3).train()
    x = torch.randn(2, *size)
    out = m(x)
    assert out.shape == (2,3)
    out.sum().backward()
    assert m.forward_features(x).shape[:2] == (2, m.num_features)
    assert m.forward_head(m.forward_features(x), pre_logits=True).shape[:2] == (2, m.head_hidden_size)
    assert m.get_classifier() is m.fc

@pytest.mark.parametrize('name', names)
def test_reset_classifier(name):
    m = timm.create_model(name)
    x = torch.randn(2, 1, 28, 28)
    m.reset_classifier(4)
    assert m(x).shape == (2,4) and m.num_classes == 4
    m.reset_classifier(0)
    assert m(x).shape == (2, m.head_hidden_size)
    m.reset_classifier(0, '')
    assert m(x).ndim == 4
    with pytest.raises(ValueError, match="global_pool='max'"): m.reset_classifier(4, 'max')
    with pytest.raises(ValueError, match='num_classes=0'): m.reset_classifier(4, '')
    if m.conv_head:
        with pytest.raises(ValueError, match='conv_head'): m.reset_classifier(4, 'catavgmax')
        return
    m.reset_classifier(3, 'catavgmax')
    maps = m.eval().forward_features(x)
    both = torch.cat([maps.mean((2,3)), maps.amax((2,3))], 1)
    torch.testing.assert_close(m.forward_head(maps, pre_logits=True), both)
    assert m(x).shape == (2,3)

def test_reset_classifier_keeps_the_mode_and_the_initialisation():
    m = timm.create_model('mini_convnet', num_classes=500).eval()
    before = m.fc.conv.weight.std()
    m.reset_classifier(500)
    assert not any(o.training for o in m.modules())
    assert m.fc.conv.weight.std().item() == pytest.approx(before.item(), rel=.05)

def test_reset_classifier_keeps_dtype():
    m = timm.create_model('mini_resnet').double()
    m.reset_classifier(4)
    assert m(torch.randn(2, 1, 28, 28).double()).dtype == torch.float64

@pytest.mark.parametrize('name', names)
def test_features_only(name):
    m = timm.create_model(name, features_only=True, in_chans=3)
    full = timm.create_model(name, in_chans=3)
    x = torch.randn(2, 3, 64, 64)
    feats = m(x)
    assert [f.shape[1] for f in feats] == m.feature_info.channels() == [o['num_chs'] for o in full.feature_info]
    assert [64//f.shape[-1] for f in feats] == m.feature_info.reduction()
    body = {k: v for k,v in full.state_dict().items() if not k.startswith('fc.')}
    m.load_state_dict({k.replace('stages.', 'stages_'): v for k,v in body.items()})
    torch.testing.assert_close(m.eval()(x)[-1], full.eval().forward_features(x))

@pytest.mark.slow
@pytest.mark.parametrize('name', names)
def test_compiles_whole(name):
    m = timm.create_model(name).eval()
    x = torch.randn(2, 1, 28, 28)
    torch._dynamo.reset()
    torch.testing.assert_close(torch.compile(m, backend='aot_eager', fullgraph=True)(x), m(x))

@pytest.mark.slow
@pytest.mark.parametrize('name', ['mini_convnet', 'mini_resnet_drop'])
def test_onnx(name, tmp_path):
    import onnxruntime
    m = timm.create_model(name).eval()
    x = torch.randn(2, 1, 28, 28)
    torch.onnx.export(m, (x,), tmp_path/'m.onnx', dynamo=True, verbose=False)
    session = onnxruntime.InferenceSession(tmp_path/'m.onnx')
    got = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(got), m(x).detach(), atol=1e-4, rtol=1e-4)

@pytest.mark.parametrize('name', names)
def test_pretrained_weights_that_do_not_exist(name):
    make = partial(timm.create_model, name, pretrained=True)
    with pytest.raises(RuntimeError, match=f'No pretrained weights exist for {name}'): make()

# What timm's loader, wrappers and training script ask of a model

def moved(before, after): return {k for k,v in after.state_dict().items() if v.shape != before.state_dict()[k].shape}
def one_or_more(o): return {o} if isinstance(o, str) else set(o)

@pytest.mark.parametrize('name', names)
def test_default_cfg_is_true(name):
    "What depends on the classes and on the channels is found by changing them"
    cfg = timm.get_pretrained_cfg(name).to_dict()
    m = timm.create_model(name)
    assert cfg == {k: m.default_cfg[k] for k in cfg} and cfg['input_size'] == (m.in_chans, 28, 28)
    assert cfg['num_classes'] == m.num_classes
    assert {f'{o}.weight' for o in one_or_more(cfg['first_conv'])} == moved(m, timm.create_model(name, in_chans=5))
    assert f"{cfg['classifier']}.weight" in moved(m, timm.create_model(name, num_classes=5))
    assert m.get_submodule(cfg['classifier']).weight.ndim > 1
    assert m.eval().forward_features(torch.randn(1, *cfg['input_size'])).shape == (1, m.num_features, *cfg['pool_size'])

@pytest.mark.parametrize('name', names)
def test_built_without_classifier_and_pooling(name):
    x = torch.randn(2, 1, 28, 28)
    whole = timm.get_pretrained_cfg(name).pool_size
    for kw,shape in (dict(num_classes=0), ()), (dict(num_classes=0, global_pool=''), whole):
        m = timm.create_model(name, **kw).eval()
        assert m(x).shape == (2, m.head_hidden_size, *shape)
    assert m.num_classes == 0 and not list(m.get_classifier().parameters())

@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    "Makes a model, whose batch norms have seen data, and the file of its weights"
    path = tmp_path_factory.mktemp('weights')
    @functools.cache
    def make(name, in_chans):
        m = timm.create_model(name, in_chans=in_chans)
        with torch.no_grad(): m.train()(torch.randn(8, in_chans, 28, 28))
        torch.save(m.state_dict(), path/f'{name}{in_chans}.pth')
        return m.eval(), dict(file=str(path/f'{name}{in_chans}.pth'))
    return make

def parts(m, head): return {k: v for k,v in m.state_dict().items() if k.startswith('fc.') == head}
def assert_same(a, b): assert a.keys() == b.keys() and all(torch.equal(v, b[k]) for k,v in a.items())

@pytest.mark.parametrize('name', names)
def test_pretrained_weights_for_the_same_and_for_other_classes(name, trained):
    source,cfg = trained(name, 1)
    load = partial(timm.create_model, name, pretrained=True, pretrained_cfg_overlay=cfg)
    assert_same(load().state_dict(), source.state_dict())
    for n in 3,0: assert_same(parts(load(num_classes=n), False), parts(source, False))
    set_seed(1)
    m = load(num_classes=3)
    set_seed(1)
    assert_same(parts(m, True), parts(timm.create_model(name, num_classes=3), True))

@pytest.mark.parametrize('name', names)
@pytest.mark.parametrize('ni,no', [(1,3), (3,1)])
def test_pretrained_weights_for_other_channels(name, trained, ni, no):
    "A grey image and its copy in three channels are the same to both"
    source,cfg = trained(name, ni)
    x = torch.randn(2, 1, 28, 28)
    for n in 10,4:
        m = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=dict(cfg, input_size=(ni,28,28)),
            in_chans=no, num_classes=n).eval()
        torch.testing.assert_close(m.forward_features(x.expand(-1,no,-1,-1)),
            source.forward_features(x.expand(-1,ni,-1,-1)), atol=1e-4, rtol=1e-4)

@pytest.mark.parametrize('name', names)
def test_pretrained_weights_of_features_and_of_a_vision_learner(name, trained, dls):
    source,cfg = trained(name, 1)
    x = torch.randn(2, 1, 28, 28)
    kwargs = dict(pretrained=True, pretrained_cfg_overlay=cfg, num_classes=3)
    maps = timm.create_model(name, features_only=True, **kwargs).eval()(x)
    assert torch.equal(maps[-1], source.forward_features(x))
    kwargs = dict(pretrained_cfg_overlay=cfg, loss_func=CrossEntropyLossFlat(), normalize=False)
    learn = vision_learner(dls, name, n_out=4, **kwargs)
    assert_same(parts(learn.model[0].model.stages, False), parts(source.stages, False))

@pytest.mark.parametrize('kwargs', [dict(), dict(num_classes=3), dict(num_classes=0), dict(in_chans=3),
    dict(features_only=True)])
def test_pretrained_weights_are_strict_about_the_rest(kwargs, trained, tmp_path):
    source,cfg = trained('mini_resnet_fast', 1)
    load = partial(timm.create_model, 'mini_resnet_fast', pretrained=True,
        pretrained_cfg_overlay=dict(file=str(tmp_path/'m.pth')), **kwargs)
    key = 'stages.1.conv1.conv.weight'
    def lacking(d): d.pop(key)
    def more(d): d['stages.9.weight'] = torch.ones(1)
    def other(d): d[key] = d[key][:5]
    for change,what in (lacking,key), (more,'stages.9.weight'), (other,key):
        state = source.state_dict()
        change(state)
        torch.save(state, tmp_path/'m.pth')
        with pytest.raises(RuntimeError, match=re.escape(what)): load()
        if change is not other: load(pretrained_strict=False)

def test_pretrained_weights_of_other_classes_keep_their_classifier_where_the_overlay_says_so(tmp_path):
    source,cfg = timm.create_model('mini_resnet_fast', num_classes=5),dict(file=str(tmp_path/'m.pth'), num_classes=5)
    torch.save(source.state_dict(), cfg['file'])
    assert_same(timm.create_model('mini_resnet_fast', pretrained=True, pretrained_cfg_overlay=cfg).state_dict(),
        source.state_dict())
    m = timm.create_model('mini_resnet_fast', pretrained=True, pretrained_cfg_overlay=cfg, num_classes=10)
    assert m.num_classes == 10 and parts(m, False).keys() == parts(source, False).keys()

def test_pretrained_weights_of_an_identity_path_that_needs_none(trained):
    "With as many channels as the stem makes it has no convolution there, so those weights are of another net"
    with pytest.raises(RuntimeError, match='stem.idconv.weight'):
        timm.create_model('mini_resnet', pretrained=True, pretrained_cfg_overlay=trained('mini_resnet', 1)[1],
            in_chans=8)

@pytest.mark.parametrize('name', names)
@pytest.mark.parametrize('cls', ['list', 'dict', 'hook', 'getter', 'fx'])
def test_features_of_every_wrapper(name, cls, trained):
    source,cfg = trained(name, 1)
    x = torch.randn(2, 1, 28, 28)
    for kwargs in (dict(feature_cls=cls), dict(feature_cfg=dict(feature_cls=cls)),
        dict(feature_cls=cls, out_indices=(1,-1))):
        m = timm.create_model(name, features_only=True, pretrained=True, pretrained_cfg_overlay=cfg, **kwargs).eval()
        out = m(x)
        out = list(out.values()) if isinstance(out, dict) else out
        assert [o.shape[1] for o in out] == m.feature_info.channels()
        assert len(out) == (2 if 'out_indices' in kwargs else len(source.feature_info))
        assert [o.shape[-1] for o in out] == [math.ceil(28/r) for r in m.feature_info.reduction()]
        assert torch.equal(out[-1], source.forward_features(x))

@pytest.mark.parametrize('name', names)
def test_forward_intermediates(name):
    m,x = timm.create_model(name).eval(),torch.randn(2, 1, 28, 28)
    stages = [m.stem, *m.stages]
    want = list(itertools.accumulate(stages, lambda y,o: o(y), initial=x))[1:]
    last,maps = m.forward_intermediates(x)
    assert torch.equal(last, m.forward_features(x)) and len(maps) == len(want) == len(m.feature_info)
    assert all(map(torch.equal, maps, want))
    maps = m.forward_intermediates(x, indices=[-1,0], intermediates_only=True)
    assert len(maps) == 2 and torch.equal(maps[0], want[0]) and torch.equal(maps[1], want[-1])
    ran = []
    for o in stages: o.register_forward_hook(lambda *args: ran.append(1))
    last,maps = m.forward_intermediates(x, indices=[1], stop_early=True)
    assert torch.equal(last, want[1]) and torch.equal(maps[0], want[1]) and len(ran) == 2
    with pytest.raises(ValueError, match="output_fmt='NLC'"): m.forward_intermediates(x, output_fmt='NLC')

@pytest.mark.parametrize('indices', [None, 1, 3, 5, [0], [2,1], [-1], (0,-2), [4,4]])
@pytest.mark.parametrize('stop_early', [False, True])
def test_indices_mean_what_they_do_in_timm(indices, stop_early):
    "Five maps each, told apart by their size"
    def depths(name, size, first):
        m = timm.create_model(name, in_chans=1).eval()
        maps = m.forward_intermediates(torch.randn(1, 1, size, size), indices=indices, stop_early=stop_early,
            intermediates_only=True)
        depths = [int(math.log2(first/o.shape[-1])) for o in maps]
        return depths, timm.create_model(name).prune_intermediate_layers(indices)
    assert depths('mini_resnet_slim', 64, 64) == depths('resnet18', 128, 64)

@pytest.mark.parametrize('indices', [0, 7, [6], [-7]])
def test_indices_that_are_not_there(indices):
    for f in (MiniNet().prune_intermediate_layers, partial(MiniNet().forward_intermediates, torch.randn(1, 1, 28, 28))):
        with pytest.raises(AssertionError, match='out of range'): f(indices=indices)

@pytest.mark.parametrize('name', names)
def test_prune_intermediate_layers(name):
    m,x = timm.create_model(name).eval(),torch.randn(2, 1, 28, 28)
    maps = m.forward_intermediates(x, intermediates_only=True)
    assert m.prune_intermediate_layers([-1], prune_head=False) == [len(maps)-1] and m(x).shape == (2,10)
    for last in range(len(maps)-1, -1, -1):
        n = n_params(m)
        assert m.prune_intermediate_layers([last], prune_head=False) == [last]
        assert n_params(m) < n or last == len(maps)-1
        assert m.num_features == maps[last].shape[1] and not any(o.training for o in m.modules())
        assert all(map(torch.equal, m.forward_intermediates(x, intermediates_only=True), maps[:last+1]))
        assert m(x).shape == ((2,10) if last == len(maps)-1 else maps[last].shape)
    m.reset_classifier(3, 'avg')
    assert m(x).shape == (2,3)
    m = timm.create_model(name).eval()
    m.prune_intermediate_layers([-1])
    assert torch.equal(m(x), m.forward_features(x))

def saved(m, x):
    "How many numbers the forward pass keeps for the backward pass"
    n = 0
    def pack(o):
        nonlocal n
        n += o.numel()
        return o
    with torch.autograd.graph.saved_tensors_hooks(pack, noop): m(x)
    return n

@pytest.mark.parametrize('name', names)
def test_grad_checkpointing_changes_nothing_but_memory(name):
    a = timm.create_model(name, drop_rate=.2, stem_drop=.2)
    b = timm.create_model(name, drop_rate=.2, stem_drop=.2)
    b.load_state_dict(a.state_dict())
    b.set_grad_checkpointing()
    def train(m):
        "Twice through the graph of each of two batches"
        set_seed(2)
        for i in range(2):
            maps = m.forward_intermediates(torch.randn(4, 1, 28, 28), indices=2)
            loss = (m.forward_head(maps[0])*torch.randn(10)).sum() + maps[1][0].mean()
            for j in range(2): loss.backward(retain_graph=not j)
        return {**{k: p.grad for k,p in m.named_parameters()}, **dict(m.named_buffers()), 'loss': loss.detach()}
    assert_same(train(a), train(b))
    x = torch.randn(4, 1, 28, 28)
    assert torch.equal(a.eval()(x), b.eval()(x))
    assert saved(b.train(), x) < saved(a.train(), x)
    b.set_grad_checkpointing(False)
    assert saved(b, x) == saved(a, x)

@pytest.mark.parametrize('name', names)
def test_group_matcher(name):
    m = timm.create_model(name)
    for coarse in False,True:
        groups = group_parameters(m, m.group_matcher(coarse))
        want = [{'stem'}, *[{'stages'}]*len(m.stages), {'fc'}]
        assert [{o.split('.')[0] for o in g} for g in groups.values()] == want
        assert [o for g in groups.values() for o in g] == [k for k,_ in m.named_parameters()]

@pytest.mark.slow
@pytest.mark.parametrize('name', names)
def test_scripted_and_traced(name):
    m,x = timm.create_model(name, num_classes=6, drop_rate=0., stem_drop=0.),torch.randn(2, 1, 28, 28)
    for mode in True,False:
        for o in (torch.jit.script(m.train(mode)), torch.fx.symbolic_trace(m)):
            o.load_state_dict(m.state_dict())
            assert torch.equal(o.train(mode)(x), m(x))
    out = torch.fx.symbolic_trace(m.train())(x)
    out.mean().backward()
    assert all(p.grad is not None for p in m.parameters())

@pytest.mark.parametrize('name', names)
def test_one_image(name):
    "A net that ends in a batch norm refuses it in training, as timm's of that kind do"
    m,x = timm.create_model(name),torch.randn(1, 1, 28, 28)
    assert m.eval()(x).shape == (1,10)
    if m.conv_head: m.train()(x).sum().backward()
    for o,size in ([] if m.conv_head else [(m, (1,1,64,64)), (timm.create_model('levit_128s'), (1,3,224,224))]):
        with pytest.raises(ValueError, match='Expected more than 1 value per channel'): o.train()(torch.randn(size))

def test_dropout_is_where_it_says():
    m = timm.create_model('mini_resnet_drop')
    assert (m.stem_drop.p, m.drop.p) == (0.1, 0.1) and isinstance(m.stem_drop, nn.Dropout2d)
    assert isinstance(m.drop, nn.Dropout)
    wide = timm.create_model('mini_resnet_wide')
    assert {k: v.shape for k,v in m.state_dict().items()} == {k: v.shape for k,v in wide.state_dict().items()}
    m = timm.create_model('mini_resnet_fast', drop_rate=0.5)
    assert (m.stem_drop.p, m.drop.p) == (0., 0.5)

def test_activation_is_an_option():
    m = MiniNet(act_cls=nn.ReLU)
    assert not any(isinstance(o, GeneralReLU) for o in m.modules())
    set_seed(0)
    w = MiniNet(nfs=(64,64), act_cls=nn.ReLU).stages[0].conv2.conv.weight
    assert w.std().item() == pytest.approx(math.sqrt(2/(64*9)), rel=0.02)

def test_channels_last_gives_the_same():
    m,x = timm.create_model('mini_resnet_fast').eval(),torch.randn(4, 1, 28, 28)
    torch.testing.assert_close(m.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last)), m(x),
        atol=1e-4, rtol=1e-4)

@pytest.fixture
def dls(): return DataLoaders.from_dsets(*[[(torch.randn(3, 28, 28), i%4) for i in range(16)]]*2, bs=8, c=4)

def test_learner_freezes_by_stem_stages_head(dls):
    learn = Learner(dls, timm.create_model('mini_resnet', in_chans=3, num_classes=4), loss_func=CrossEntropyLossFlat(),
        splitter=mini_split)
    learn.freeze()
    norms = {id(p) for m in learn.model.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters()}
    def _trained(m): return {p.requires_grad for p in m.parameters() if id(p) not in norms}
    assert [_trained(o) for o in (learn.model.stem, learn.model.stages, learn.model.fc)] == [{False}, {False}, {True}]
    learn.freeze_to(-2)
    assert [_trained(o) for o in (learn.model.stem, learn.model.stages)] == [{False}, {True}]

def test_vision_learner_on_grey_images():
    dls = fashion_mnist_dls('embedded')
    learn = vision_learner(dls, 'mini_resnet_fast', pretrained=False, n_in=1)
    assert learn.model.eval()(dls.one_batch()[0][:2].as_subclass(torch.Tensor)).shape == (2,10)

def test_vision_learner_by_name(dls):
    learn = vision_learner(dls, 'mini_resnet_fast', pretrained=False, n_out=4, loss_func=CrossEntropyLossFlat())
    learn.freeze()
    assert not learn.model[0].model.stages[0].conv1.conv.weight.requires_grad
    assert learn.model[1][-1].weight.requires_grad
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    assert len(learn.recorder.losses) == 2 and torch.isfinite(torch.stack(learn.recorder.losses)).all()
    with pytest.raises(RuntimeError, match='No pretrained weights'): vision_learner(dls, 'mini_resnet_fast', n_out=4)
