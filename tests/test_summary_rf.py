"Receptive fields against the pixels that change an output: nets of positive weights, a row of the input raised"
from fastai.vision.all import *
import pytest

from fastai_ext import models as zoo
from fastai_ext.summary import summarize

def _positive(m):
    for p in m.parameters(): p.data = torch.rand_like(p)*.1+.01
    return m.double().eval()

def _seen(m, c, n, dim, narrow=16):
    "Greatest extent along `dim` of the input that changes an output in the middle third, by trying"
    size = [narrow, narrow]
    size[dim] = n
    x = torch.rand(1, c, *size, dtype=torch.double)
    raised = x.repeat(n,1,1,1)
    for i in range(n): raised[i].select(dim+1, i).add_(100)
    with torch.no_grad(): base,outs = m(x),torch.cat([m(o) for o in raised.split(32)])
    changed = (outs != base).any(1)
    changed = changed.any(2-dim)  # rows of the input × rows of the output
    mid = changed.shape[1]
    return max((int(r.nonzero().max()-r.nonzero().min())+1 if r.any() else 0) for r in changed[:, mid//3:mid-mid//3].T)

def _check(m, c=1, n=96):
    m = _positive(m)
    want = tuple(_seen(m, c, n, dim) for dim in (0,1))
    got = summarize(m, torch.zeros(1,c,n,n,dtype=torch.double), receptive_field=True)
    assert not got.error and got.rows[0].receptive_field == want
    return want

class Sum(nn.Module):
    def __init__(self, *ms):
        super().__init__()
        self.ms = nn.ModuleList(ms)
    def forward(self, x): return sum(m(x) for m in self.ms)

class Cat(Sum):
    def forward(self, x): return torch.cat([m(x) for m in self.ms], 1)

def C(a, b, *args, **kw): return nn.Conv2d(a, b, *args, **kw)

@pytest.mark.parametrize('m,want', [
    (nn.Sequential(C(1,2,3), nn.ReLU(), C(2,2,3)), (5,5)), (C(1,1,5,dilation=3), (13,13)),
    (C(1,1,(3,5),padding=1), (3,5)), (nn.Sequential(C(1,2,3,2,1), C(2,2,3,2,1), C(2,2,3,2,1)), (15,15)),
    (nn.Sequential(C(1,4,3,groups=1), C(4,4,3,2,groups=4), nn.MaxPool2d(3,2,1), nn.AvgPool2d(2)), None),
    (Sum(C(1,1,3,padding=1), C(1,1,7,padding=3), nn.Identity()), (7,7)),
    (Sum(C(1,1,3), C(1,1,5,padding=1)), (5,5)),
    (Sum(nn.Sequential(nn.ZeroPad2d((2,0,2,0)), C(1,1,3)), C(1,1,3,padding=1)), (4,4)),
    (nn.Sequential(Cat(C(1,2,(1,3),padding=(0,1)), C(1,2,(5,1),padding=(2,0))), C(4,1,1)), (5,3)),
    (nn.Sequential(C(1,2,3,2,1), nn.Upsample(scale_factor=2), C(2,1,3,padding=1)), None),
    (nn.Sequential(C(1,2,3,2,1), nn.Upsample(scale_factor=3, mode='bilinear'), C(2,1,3,padding=1)), None),
    (nn.Sequential(C(1,2,3,4,1), nn.Upsample(scale_factor=4, mode='bicubic')), None),
    (nn.Sequential(C(1,2,3,2,1), nn.ConvTranspose2d(2,2,2,2), C(2,1,2)), None),
    (nn.Sequential(C(1,2,3,2,1), nn.ConvTranspose2d(2,2,4,2,1), C(2,1,3)), None),
    (nn.Sequential(nn.ConvTranspose2d(1,2,3,3,dilation=2), C(2,1,3,2)), None),
    (nn.Sequential(C(1,4,3,2,1), nn.PixelShuffle(2), nn.AvgPool2d(2,1)), None),
    (nn.Sequential(nn.PixelUnshuffle(2), C(4,2,3)), (6,6)),
    (nn.Sequential(C(1,1,3,2,1),
        Sum(C(1,1,3,padding=1), nn.Sequential(C(1,1,3,2,1), nn.Upsample(scale_factor=2)))), None),
    (nn.Sequential(nn.ReflectionPad2d(3), C(1,1,7)), (7,7))])
def test_small_nets(m, want):
    got = _check(m)
    assert want is None or got == want

# gradients and literature: ResNet-18 435, VGG-11 150 (Araujo et al. 2019 and the models' own geometry)
@pytest.mark.parametrize('name,want', [('resnet18', 435), ('vgg11', 150)])
def test_known_figures(name, want):
    m = getattr(models, name)()
    s = summarize(m, input_size=(3,224,224), receptive_field=True)
    last = [r for r in s.rows if r.cls == 'Sequential' and r.name in ('layer4', 'features')][0]
    assert last.receptive_field == (want, want)

@pytest.mark.parametrize('name', ['mini_resnet_fast', 'mini_resnet_slim'])
def test_ladder(name):
    m = getattr(zoo, name)(in_chans=1, num_classes=10)
    _check(nn.Sequential(m.stem, *list(m.stages)[:2]), n=72)

class _F(nn.Module):
    def __init__(self, f):
        super().__init__()
        self.f,self.conv = f,C(2,4,3,padding=1)
    def forward(self, x): return self.f(self.conv(x))

inf = math.inf
def _halves(x):
    a,b = x.chunk(2, 1)
    return a*b
def _write(x):
    y = torch.zeros_like(x)
    y[:,:2] = x[:,:2]
    return y
def _windows(x): return x.view(1,4,4,2,4,2).transpose(3, 4).softmax(-1)

# by hand: the 3×3 convolution sees 3; what reads all positions sees all; None where it can't be told
@pytest.mark.parametrize('f,want', [
    (lambda x: x.relu_().add_(1)*2, (3,3)), (lambda x: x[:,:,1:-1], (3,3)), (_halves, (3,3)),
    (lambda x: torch.stack([x, x]).sum(0), (3,3)),
    (lambda x: F.layer_norm(x.permute(0,2,3,1), (4,)).permute(0,3,1,2), (3,3)),
    (lambda x: F.group_norm(x, 2), (inf,inf)), (lambda x: F.instance_norm(x), (inf,inf)),
    (lambda x: x*x.mean((2,3), keepdim=True).sigmoid(), (inf,inf)), (lambda x: x.mean(3, keepdim=True) + x, (3,inf)),
    (lambda x: x.amax(2), (inf,3)), (lambda x: x.softmax(2), (inf,3)),
    (lambda x: x.flatten(1)@torch.ones(256,5), (inf,inf)), (lambda x: (x.permute(0,2,3,1)@torch.ones(4,5)), (3,3)),
    (lambda x: x@torch.ones(8,8), (3,inf)), (lambda x: x.flatten(2).transpose(1, 2)@torch.ones(4,4), (3,3)),
    (lambda x: torch.cat([torch.zeros(1,1,4), x.flatten(2).mT], 1) + 1, (3,3)),
    (lambda x: torch.cat([torch.zeros(1,1,4), x.flatten(2).mT], 1)[:,0], None),
    (lambda x: F.scaled_dot_product_attention(*[x.flatten(2).mT]*3), (inf,inf)),
    (lambda x: x.flatten(2).mT@x.flatten(2), (inf,inf)), (lambda x: x[:,:,3], (3,3)), (lambda x: x.roll(1, 1), (3,3)),
    (lambda x: x.roll(1, 2), None), (_windows, None), (_write, None), (lambda x: F.adaptive_avg_pool2d(x, 4), (4,4)),
    (lambda x: F.adaptive_avg_pool2d(x, 3), (6,6)), (lambda x: F.adaptive_max_pool2d(x, 1), (inf,inf)),
    (lambda x: F.max_pool2d(x, 2, dilation=2), (5,5)), (lambda x: torch.fft.fft2(x).real, None),
    (lambda x: torch.ones(3), None)])
def test_operators(f, want):
    s = summarize(_F(f), torch.zeros(1,2,8,8), receptive_field=True)
    assert not s.error and s.rows[0].receptive_field == want and s.rows[1].receptive_field == (3,3)

def test_other_ways_to_run_and_other_dimensions():
    for f in (lambda x: x+torch.ones(8,8), lambda x: x if x.sum() > 1e9 else x*1):
        assert summarize(_F(f), torch.zeros(1,2,8,8), receptive_field=True).rows[0].receptive_field == (3,3)
    assert summarize(nn.Conv1d(1,1,5,dilation=2), torch.zeros(1,1,30),
        receptive_field=True).rows[0].receptive_field == (9,)
    assert summarize(nn.Conv3d(1,1,(1,2,3)), torch.zeros(1,1,4,4,4),
        receptive_field=True).rows[0].receptive_field == (1,2,3)
    assert summarize(nn.Linear(3,4), torch.zeros(2,3), receptive_field=True).rows[0].receptive_field is None

def test_column():
    m = nn.Sequential(C(1,2,(3,5)), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    s = summarize(m, input_size=(1,9,9), receptive_field=True)
    cells = [o['Receptive field'] for o in s.table()]
    assert cells == ['3×5', 'all', 'all'] and 'Receptive field' in repr(s) and 'Receptive field' in s._repr_markdown_()
    assert s.to_df().receptive_field.tolist()[1] == (3,5)
    s = summarize(m, input_size=(1,9,9))
    assert 'Receptive field' not in repr(s) and not any(r.receptive_field for r in s.rows)
