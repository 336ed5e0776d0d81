"Recipes: what a learner of theirs is made of, on any images"
from fastai_ext.all import *
from fastai_ext.recipes import *
from dataclasses import replace
from helpers import *
import pytest

def some_dls(n_in=1, n=24, bs=8, **kwargs):
    x = torch.randn(n, n_in, 28, 28, generator=torch.Generator().manual_seed(0))
    return DataLoaders.from_arrays(x, np.arange(n)%3, x[:6], np.arange(6)%3, bs=bs, **kwargs)

@pytest.mark.parametrize('epochs', recipes)
def test_learner_and_fit(epochs, tmp_path):
    "What the recipe says reaches the optimizer and the model, and all of it can be exported"
    r = recipes[epochs]
    assert r.epochs == epochs
    set_seed(0)
    learn = replace(r, epochs=2).learner(some_dls(), path=tmp_path)
    with learn.no_bar(), learn.no_logging(): replace(r, epochs=2).fit(learn)
    hps = learn.recorder.hps
    assert len(hps['lr']) == 6 and max(hps['lr']) <= r.lr and set(hps['mom']) == {r.mom}
    assert learn.opt.hypers[0]['wd'] == r.wd and len(learn.opt.hypers) == 3
    assert learn.model(torch.randn(2, 1, 28, 28)).shape == (2,3)
    preds = learn.tta_flip(views=r.views)[0]
    learn.export()
    again = load_learner(tmp_path/'export.pkl')
    torch.testing.assert_close(again.tta_flip(dl=learn.dls.valid, views=r.views)[0], preds)

def test_images_are_transformed_in_training_alone():
    seen = []
    def keep(x):
        seen.append(x.clone())
        return x
    learn = Recipe(1, model='mini_convnet', tfms=(keep, torch.zeros_like)).learner(some_dls())
    class Look(Callback):
        order,got = 10,[]
        def before_batch(self): self.got.append((self.training, self.x.abs().sum().item()))
    with learn.no_bar(), learn.no_logging(): learn.fit(1, cbs=Look())
    assert len(seen) == 3 and all((total == 0) == training for training,total in Look.got) and len(Look.got) == 4

def test_loss_is_smoothed_and_what_is_given_wins():
    learn = Recipe(1, model='mini_convnet', smooth=.2).learner(some_dls())
    x,y = torch.randn(8, 3),torch.arange(8)%3
    torch.testing.assert_close(learn.loss_func(x, y), F.cross_entropy(x, y, label_smoothing=.2))
    other = Recipe(1, model='mini_convnet').learner(some_dls(n_in=3), n_in=3, loss_func=CrossEntropyLossFlat(), wd=.3)
    torch.testing.assert_close(other.loss_func(x, y), F.cross_entropy(x, y))
    assert other.wd == .3 and other.model.stem.conv.in_channels == 3

def test_each_learner_has_callbacks_of_its_own():
    r = Recipe(1, model='mini_convnet', cbs=(AlternateFlip(),))
    a,b = (first(r.learner(some_dls()).cbs.filter(risinstance(AlternateFlip))) for _ in range(2))
    assert a is not b and a is not r.cbs[0] and r.cbs[0].idxs is None

def test_another_net_without_parts():
    learn = Recipe(1, model='resnet10t', bs=8).learner(some_dls(n_in=3), n_in=3)
    assert learn.splitter is trainable_params
    with learn.no_bar(), learn.no_logging(): Recipe(1).fit(learn, lr_max=1e-3)
    assert max(learn.recorder.hps['lr']) <= 1e-3

@pytest.mark.parametrize('kw,words', [(dict(epochs=0), 'epochs=0'), (dict(lr=-1.), 'lr=-1'), (dict(bs=1), 'bs=1'),
    (dict(model='mini_resnet_bord'), 'mini_resnet_board'), (dict(smooth=1.5), 'smooth=1.5'),
    (dict(views='w'), 'views')])
def test_bad_fields(kw, words):
    with pytest.raises(ValueError, match=words): Recipe(**{**dict(epochs=1), **kw})
