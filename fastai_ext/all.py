"""fastai's vision library and everything of this package

Written by hand: a module that nbdev exports has an `__all__`, here an empty one"""
from fastai.vision.all import *
from .core import *
from .averaging import *
from .rng import *
from .twin import *
from .loaders import *
from .data import *
from .layers import *
from .models import *
from .operators import *
from .macs import *
from .receptive import *
from .summary import *
from .augment import *
from .erase import *
from .mix import *
from .callbacks import *
from .precision import *
from .speed import *
from .record import *
from .resize import *
from .weights import *
from .checkpoint import *
from .sched import *
from .schedule import *
from .anneal import *
from .muon import *
from .tta import *
from .members import *
from .processes import *
from .ensemble import *
