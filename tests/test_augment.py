"Batch transforms drawn for each image: geometry, statistics, targets, dtypes"
import pytest
from fastai.vision.all import *
from fastai_ext.augment import *

def test_default_erase_keeps_range_and_input():
    "Some pixels change, none leaves the range, the given tensor stays"
    x = torch.randn(64, 1, 28, 28)
    old = x.clone()
    y = rand_erase(x)
    assert torch.equal(x, old) and not torch.equal(y, x)
    assert y.min()>=x.min() and y.max()<=x.max()

@pytest.mark.parametrize('t', [RandCopy(), RandPadCrop(2), RandPadCrop(2, PadMode.Zeros), RandFlip(vertical=True)])
def test_mask_follows_image(t):
    "An image that equals its mask still does"
    m = TensorMask(torch.randint(0, 9, (32,20,24)))
    x = TensorImage(m[:,None].float())
    a,b = t((x, m), split_idx=0)
    assert type(a) is TensorImage and type(b) is TensorMask
    assert torch.equal(a[:,0], TensorImage(b.float())) and not torch.equal(a, x)
    assert t((x, m), split_idx=1)[0] is x
