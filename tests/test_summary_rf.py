"Receptive fields against the pixels that change an output: nets of positive weights, one row of the input raised at a time"
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
    (nn.Sequential(C(1,2,3), nn.ReLU(), C(2,2,3)), (5,5)), (C(1,1,5,dilation=3), (13,13)), (C(1,1,(3,5),padding=1), (3,5)),
    (nn.Sequential(C(1,2,3,2,1), C(2,2,3,2,1), C(2,2,3,2,1)), (15,15)),
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
    (nn.Sequential(C(1,1,3,2,1), Sum(C(1,1,3,padding=1), nn.Sequential(C(1,1,3,2,1), nn.Upsample(scale_factor=2)))), None),
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
