"The ladder: its figures, and what timm and fastai expect of a model"
from fastai.vision.all import *
import pytest, timm, torch
from torch.utils.flop_counter import FlopCounterMode

from fastai_ext.data import fashion_mnist_dls
from fastai_ext.models import *
from fastai_ext.layers import *

# parameters and multiply-accumulates for a 1×28×28 image and 10 classes, from the lesson's definitions by hand
ladder = dict(mini_resnet=(1_228_908, 8_406_784), mini_resnet_wide=(4_907_588, 36_908_544), mini_resnet_gap=(4_907_588, 44_379_648),
    mini_resnet_slim=(1_231_428, 29_697_024), mini_resnet_fast=(1_224_948, 24_666_880), mini_resnet_drop=(1_224_948, 24_666_880))
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

def test_all_rungs_are_registered(): assert [o for o in timm.list_models('mini_*') if 'resnet' in o or 'convnet' in o] == names

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
    assert m.forward_head(m.forward_features(x), pre_logits=True).shape[:2] == (2, m.num_features)
    assert m.get_classifier() is m.fc

@pytest.mark.parametrize('name', names)
def test_reset_classifier(name):
    m = timm.create_model(name)
    x = torch.randn(2, 1, 28, 28)
    m.reset_classifier(4)
    assert m(x).shape == (2,4) and m.num_classes == 4
    m.reset_classifier(0)
    assert m(x).shape == (2, m.num_features)
    m.reset_classifier(0, '')
    assert m(x).ndim == 4
    with pytest.raises(ValueError, match="global_pool='max'"): m.reset_classifier(4, 'max')
    with pytest.raises(ValueError, match='num_classes=0'): m.reset_classifier(4, '')

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
    m.load_state_dict({k.replace('stages.', 'stages_'): v for k,v in full.state_dict().items() if not k.startswith('fc.')})
    torch.testing.assert_close(m.eval()(x)[-1], full.eval().forward_features(x))

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
    with pytest.raises(RuntimeError, match=f'No pretrained weights exist for {name}'): timm.create_model(name, pretrained=True)

def test_dropout_is_where_it_says():
    m = timm.create_model('mini_resnet_drop')
    assert (m.stem_drop.p, m.drop.p) == (0.1, 0.1) and isinstance(m.stem_drop, nn.Dropout2d) and isinstance(m.drop, nn.Dropout)
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
    torch.testing.assert_close(m.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last)), m(x), atol=1e-4, rtol=1e-4)

@pytest.fixture
def dls(): return DataLoaders.from_dsets(*[[(torch.randn(3, 28, 28), i%4) for i in range(16)]]*2, bs=8, c=4)

def test_learner_freezes_by_stem_stages_head(dls):
    learn = Learner(dls, timm.create_model('mini_resnet', in_chans=3, num_classes=4), loss_func=CrossEntropyLossFlat(), splitter=mini_split)
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
    assert not learn.model[0].model.stages[0].conv1.conv.weight.requires_grad and learn.model[1][-1].weight.requires_grad
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    assert len(learn.recorder.losses) == 2 and torch.isfinite(torch.stack(learn.recorder.losses)).all()
    with pytest.raises(RuntimeError, match='No pretrained weights'): vision_learner(dls, 'mini_resnet_fast', n_out=4)
