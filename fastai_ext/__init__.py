import warnings

__version__ = "0.0.1"

# fastai's and timm's import makes torch say so, and it says nothing to whoever imports this package
warnings.filterwarnings('ignore', message='`torch.jit.script` is deprecated', category=FutureWarning)
