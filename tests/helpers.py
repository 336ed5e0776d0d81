"What several test files use"
from fastai.basics import *
from collections import deque
import hashlib, logging, types, weakref

_rngs = random.Random,np.random.Generator,np.random.RandomState,torch.Generator
_same_for_all = (type, types.ModuleType, types.BuiltinFunctionType, types.CodeType, weakref.ref, logging.Logger,
    torch.dtype, torch.device, property)

def _bits(b): return hashlib.sha256(b).hexdigest()[:16]

def _rng_state(o):
    if isinstance(o, np.random.Generator): return str(o.bit_generator.state)
    if isinstance(o, torch.Generator): return _bits(o.get_state().numpy().tobytes())
    return str(o.getstate() if isinstance(o, random.Random) else o.get_state())

def _tensor(t):
    if t.layout is not torch.strided: return str(t.layout),tuple(t.shape)
    d = t.detach().as_subclass(Tensor)
    data = d.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    return id(t),t._version,t.dtype,tuple(t.shape),t.stride(),t.requires_grad,t.device.type,_bits(data)

def _array(a): return _bits(a.tobytes()) if a.dtype != object else ''

def _parts(o):
    "What there is inside of `o`, by name"
    if isinstance(o, dict): return [(f'[{str(k)[:40]}]', v) for k,v in list(o.items())]
    if isinstance(o, (list,tuple,set,frozenset,deque)): return [(f'[{i}]', v) for i,v in enumerate(o)]
    if isinstance(o, types.MethodType): return [('.self', o.__self__), ('.func', o.__func__)]
    if isinstance(o, types.FunctionType):
        cells = [(f'.cell{i}', c.cell_contents) for i,c in enumerate(o.__closure__ or ()) if c != types.CellType()]
        return cells + [('.defaults', o.__defaults__)]
    if isinstance(o, partial): return [('.func', o.func), ('.args', o.args), ('.keywords', o.keywords)]
    return [(f'.{k}', v) for k,v in list(vars(o).items())] if hasattr(o, '__dict__') else []

def fingerprint(*roots):
    """Everything that can be reached from `roots`, by path

    Tensors, arrays and generators to the bit, other objects by identity and by what is in them"""
    res,met,todo = {},{},[(f'{i}', o) for i,o in enumerate(roots)]
    while todo:
        path,o = todo.pop()
        if isinstance(o, (str,int,float,bool,type(None),bytes,Path,Enum)): res[path] = o if o == o else 'nan'
        elif id(o) in met: res[path] = 'see ' + met[id(o)]
        elif isinstance(o, _same_for_all): res[path] = id(o)
        else:
            met[id(o)] = path
            if isinstance(o, Tensor):
                res[path] = _tensor(o)
                if o.is_leaf and o.grad is not None: todo.append((path+'.grad', o.grad))
            elif isinstance(o, np.ndarray): res[path] = id(o),o.shape,str(o.dtype),_array(o)
            elif isinstance(o, _rngs): res[path] = id(o),_rng_state(o)
            elif isinstance(o, (pd.DataFrame,pd.Series)): res[path] = id(o),int(pd.util.hash_pandas_object(o).sum())
            else:
                parts = _parts(o)
                res[path] = id(o),type(o).__name__,len(parts)
                todo += [(path+k, v) for k,v in parts]
    return res

def process_state():
    "Of the process: random states, switches of torch, global hooks"
    mod = nn.modules.module
    rngs = dict(torch=_bits(torch.get_rng_state().numpy().tobytes()), numpy=str(np.random.get_state()),
        python=str(random.getstate()))
    return dict(rngs=rngs, grad=torch.is_grad_enabled(), autocast=torch.is_autocast_enabled('cpu'),
        fast=torch.backends.mha.get_fastpath_enabled(), default=torch.get_default_dtype(),
        hooks={k: list(v) for k,v in vars(mod).items() if k.startswith('_global') and isinstance(v, dict)})

def differences(a, b):
    "Paths at which two fingerprints differ"
    return [(k, a.get(k), b.get(k)) for k in {*a, *b} if a.get(k) != b.get(k)]
