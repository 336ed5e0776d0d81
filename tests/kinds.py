"Twelve kinds of learners whose ensembles must be right, each made in a moment; `kinds[name](k)` is member `k`"
from fastai.callback.channelslast import ChannelsLast
from fastai.callback.rnn import RNNCallback
from fastai.tabular.all import *
from fastai.vision.all import *

split = IndexSplitter(range(13, 30))

def image(i): return TensorImage(torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(i)))
def third(i): return i%3
def several(i): return [o for k,o in enumerate('abc') if i%(k+2) == 0]
def number(i): return i/30
def mask(i): return TensorMask((image(i)[0]*3).long().clamp(max=2))
def point(i): return TensorPoint(tensor([[i%8, i*3%8]]).float()/4-1)
def words(i): return torch.randint(0, 9, (6,), generator=torch.Generator().manual_seed(i))

def conv(no, nf=4):
    body = nn.Conv2d(3, nf, 3, padding=1),nn.BatchNorm2d(nf),nn.ReLU()
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(nf*64, no))

class Pair(Module):
    "Takes two images"
    def __init__(self): self.a,self.b = conv(3),conv(3)
    def forward(self, x, y): return self.a(x) + self.b(y)

class Recurrent(Module):
    "Returns more than its output, as fastai's text classifiers do"
    def __init__(self): self.emb,self.lin = nn.Embedding(9, 6),nn.Linear(6, 3)
    def forward(self, x):
        h = self.emb(x)
        return self.lin(h.mean(1)),h,h

class Halved(Callback):
    "Changes predictions"
    def after_pred(self): self.learn.pred = self.pred/2

def _learner(model, *blocks, x=image, y=third, block_args={}, **kwargs):
    block = DataBlock(blocks, get_x=x, get_y=y, splitter=split, **block_args)
    return Learner(block.dataloaders(list(range(30)), bs=4, num_workers=0, device='cpu'), model, **kwargs)

def _classes(k, **kwargs): return _learner(conv(3, 4+k), TransformBlock, CategoryBlock, **kwargs)

def _pair(k):
    blocks = TransformBlock,TransformBlock,CategoryBlock
    block = DataBlock(blocks, getters=[image,image,third], n_inp=2, splitter=split)
    return Learner(block.dataloaders(list(range(30)), bs=4, num_workers=0, device='cpu'), Pair())

def table():
    rng = np.random.default_rng(0)
    return pd.DataFrame(dict(a=rng.normal(size=30), b=rng.normal(size=30)*9, c=rng.choice(list('xyz'), 30),
        y=rng.choice(list('no'), 30)))

def _tabular(k):
    "Each with the statistics of other rows"
    splits = list(range(4*k, 13)),list(range(13, 30))
    to = TabularPandas(table(), [Categorify,FillMissing,Normalize], ['c'], ['a','b'], y_names='y',
        y_block=CategoryBlock(), splits=splits)
    return TabularLearner(to.dataloaders(bs=4, num_workers=0, device='cpu'), TabularModel([(4,3)], 2, 2, [5]),
        loss_func=CrossEntropyLossFlat())

kinds = dict(classes=_classes, two_inputs=_pair, tabular=_tabular)
def _normalised(k): return _classes(k, block_args=dict(batch_tfms=Normalize(tensor(.1*(k+1)), tensor(.2+k))))
kinds['normalised'] = _normalised
kinds['channels_last'] = lambda k: _classes(k, cbs=ChannelsLast())
kinds['callback'] = lambda k: _classes(k, cbs=[Halved()]*(k%2))
kinds['smoothed'] = lambda k: _classes(k, loss_func=LabelSmoothingCrossEntropyFlat())
multi = dict(y=several, loss_func=BCEWithLogitsLossFlat())
kinds['multi'] = lambda k: _learner(conv(3, 4+k), TransformBlock, MultiCategoryBlock, **multi)
kinds['regression'] = lambda k: _learner(conv(1), TransformBlock, RegressionBlock, y=number, loss_func=MSELossFlat())
kinds['segmentation'] = lambda k: _learner(nn.Conv2d(3, 3, 3, padding=1), TransformBlock, TransformBlock, y=mask,
    loss_func=CrossEntropyLossFlat(axis=1))
kinds['points'] = lambda k: _learner(conv(2), TransformBlock, TransformBlock, y=point, loss_func=MSELossFlat())
kinds['text'] = lambda k: _learner(Recurrent(), TransformBlock, CategoryBlock, x=words,
    loss_func=CrossEntropyLossFlat(), cbs=RNNCallback())

def make(name, n=3):
    "`n` members of the kind `name`, always the same"
    res = []
    for k in range(n):
        torch.manual_seed(k)
        res.append(kinds[name](k))
        res[-1].remove_cb(ProgressCallback)
    return res

def everything(name, learns):
    "A loader of the validation items for all members"
    return table().iloc[13:] if name == 'tabular' else learns[0].dls.test_dl(list(range(13, 30)), with_labels=True)
