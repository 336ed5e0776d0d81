"Each option of a block changes the part that it names, and nothing is dropped on the way"
from fastai.basics import *
import pytest

from fastai_ext.layers import *

def kinds(m): return [type(o).__name__ for o in m.modules()]
def out_size(n, ks, stride): return (n + 2*(ks//2) - ks)//stride + 1

@pytest.mark.parametrize('n', [1, 7, 28, 33])
@pytest.mark.parametrize('ks', [1, 3, 4, 5])
@pytest.mark.parametrize('stride', [1, 2, 3])
def test_conv_block_size(n, ks, stride):
    if n + 2*(ks//2) < ks: return
    shape = ConvBlock(2, 3, ks=ks, stride=stride)(torch.randn(2, 2, n, n+1)).shape
    assert shape == (2, 3, out_size(n, ks, stride), out_size(n+1, ks, stride))

def test_conv_block_is_conv_norm_act():
    m = ConvBlock(2, 3).eval()
    x = torch.randn(2, 2, 9, 9)
    want = GeneralReLU()(m.norm(F.conv2d(x, m.conv.weight, m.conv.bias, stride=2, padding=1)))
    torch.testing.assert_close(m(x), want)

def test_conv_block_options():
    assert kinds(ConvBlock(2, 4)) == ['ConvBlock', 'Conv2d', 'BatchNorm2d', 'GeneralReLU']
    assert kinds(ConvBlock(2, 4, norm_cls=None)) == ['ConvBlock', 'Conv2d', 'Identity', 'GeneralReLU']
    assert kinds(ConvBlock(2, 4, act_cls=None)) == ['ConvBlock', 'Conv2d', 'BatchNorm2d', 'Identity']
    m = ConvBlock(2, 4, ks=5, stride=3, groups=2, bias=False, act_cls=nn.SiLU, norm_cls=nn.InstanceNorm2d)
    assert kinds(m)[1:] == ['Conv2d', 'InstanceNorm2d', 'SiLU']
    assert (m.conv.kernel_size, m.conv.stride, m.conv.padding) == ((5,5), (3,3), (2,2))
    assert m.conv.groups == 2 and m.conv.bias is None
    with pytest.raises(ValueError, match='divisible by groups'): ConvBlock(3, 4, groups=2)

def test_res_block_by_hand():
    m = ResNetBlock(2, 4).eval()
    x = torch.randn(3, 2, 7, 9)
    def _conv(x, b, stride): return b.norm(F.conv2d(x, b.conv.weight, b.conv.bias, stride=stride, padding=1))
    act = GeneralReLU()
    path = _conv(act(_conv(x, m.conv1, 1)), m.conv2, 2)
    skip = F.conv2d(F.avg_pool2d(x, 2, ceil_mode=True), m.idconv.weight, m.idconv.bias)
    torch.testing.assert_close(m(x), act(path+skip))

@pytest.mark.parametrize('size', [(1,1), (7,9), (28,28)])
@pytest.mark.parametrize('stride', [1, 2, 3])
@pytest.mark.parametrize('ks', [1, 3, 5])
def test_res_block_size(size, stride, ks):
    want = [-(-n//stride) for n in size]
    assert list(ResNetBlock(1, 8, ks=ks, stride=stride)(torch.randn(2, 1, *size)).shape) == [2, 8, *want]

# an option, and what of the block it must change
# chkstyle: ignore-node
options = dict(ks=(5, lambda m: [m.conv1.conv.kernel_size, m.conv2.conv.kernel_size], [(5,5), (5,5)]),
    stride=(3, lambda m: [m.conv1.conv.stride, m.conv2.conv.stride, m.pool.kernel_size], [(1,1), (3,3), 3]),
    act_cls=(nn.SiLU, lambda m: [type(o) for o in (m.conv1.act, m.conv2.act, m.act)], [nn.SiLU, nn.Identity, nn.SiLU]),
    norm_cls=(nn.InstanceNorm2d, lambda m: [type(m.conv1.norm), type(m.conv2.norm)], [nn.InstanceNorm2d]*2),
    zero_norm=(True, lambda m: [m.conv1.norm.weight.sum().item(), m.conv2.norm.weight.sum().item()], [4., 0.]),
    drop=(0.3, lambda m: [type(m.drop), getattr(m.drop, 'p', None)], [nn.Dropout2d, 0.3]),
    groups=(2, lambda m: [m.conv1.conv.groups, m.conv2.conv.groups], [2, 2]),
    early=(True, lambda m: [m.conv1.conv.stride, m.conv2.conv.stride, m.pool.kernel_size], [(2,2), (1,1), 2]),
    id_norm=(True, lambda m: isinstance(getattr(m.idconv, 'norm', None), nn.BatchNorm2d), True))

@pytest.mark.parametrize('name', options)
def test_each_option_reaches_the_block(name):
    value,look,want = options[name]
    assert look(ResNetBlock(2, 4, **{name: value})) == want != look(ResNetBlock(2, 4))

def test_every_option_has_a_test(): assert set(inspect.signature(ResNetBlock).parameters) == {'ni', 'nf', *options}

def test_default_block_has_its_norms():
    norms = [m for m in ResNetBlock(1, 8).modules() if isinstance(m, nn.BatchNorm2d)]
    assert [o.num_features for o in norms] == [8, 8]

def test_identity_path_carries_weights_only_for_channels():
    assert isinstance(ResNetBlock(4, 4, stride=1).idconv, nn.Identity)
    assert isinstance(ResNetBlock(4, 4, stride=1).pool, nn.Identity)
    assert isinstance(ResNetBlock(4, 4).idconv, nn.Identity) and ResNetBlock(2, 4).idconv.bias is not None

@pytest.mark.parametrize('kwargs,msg', [(dict(ks=2), 'ks=2'), (dict(drop=1.), 'drop=1.0'),
    (dict(drop=-.1), 'drop=-0.1'), (dict(zero_norm=True, norm_cls=None), 'zero_norm'),
    (dict(zero_norm=True, norm_cls=nn.InstanceNorm2d), 'zero_norm')])
def test_res_block_errors(kwargs, msg):
    with pytest.raises(ValueError, match=msg): ResNetBlock(1, 8, **kwargs)

@pytest.mark.parametrize('conv', [nn.Conv1d, nn.Conv2d, nn.Conv3d])
def test_init_kaiming(conv):
    m = nn.Sequential(conv(32, 64, 3), nn.Linear(3, 3))
    before = m[1].weight.clone()
    set_seed(0)
    m.apply(partial(init_kaiming, leak=0.2))
    assert m[0].weight.std().item() == pytest.approx(math.sqrt(2/(1.04*m[0].weight[0].numel())), rel=0.05)
    assert torch.equal(m[1].weight, before)

def test_gradients_reach_every_parameter():
    m = ResNetBlock(2, 4)
    m(torch.randn(4, 2, 8, 8)).square().mean().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for n,p in m.named_parameters() if 'conv.bias' not in n)
