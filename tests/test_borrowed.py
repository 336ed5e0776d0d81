"Names of other libraries that are not public and that the package or the site uses: a version without one shows here"
from fastai.basics import *
from torch.optim.lr_scheduler import ConstantLR, SequentialLR
import ast, pkgutil, pytest

root = Path(__file__).parents[1]
files = sorted(o for d in ('fastai_ext', '.ci') for o in (root/d).glob('*.py') if o.stem != '_modidx')
modules = dict(os='os', torch='torch', nn='torch.nn', sys='sys', timm='timm', nbdev='nbdev')

# What has them, made when it is asked for
owners = {
    lambda: torch.UntypedStorage: '_cdata', lambda: torch.zeros(1): '_base _is_view',
    lambda: torch.ops.aten.add.Tensor: '_overloadpacket _schema',
    lambda: nn.Module(): '_parameters _buffers _modules _compiled_call_impl _{kind}_hooks _{kind}_hooks_with_kwargs',
    lambda: torch.compile(nn.Module()): '_orig_mod',
    lambda: SequentialLR(o := torch.optim.SGD([torch.zeros(1)]), [ConstantLR(o)]*2, [1]): '_schedulers _milestones',
    lambda: torch.ops.aten: '''_int_mm _trilinear _cudnn_rnn _unsafe_view _reshape_alias _fused_rms_norm
        _native_batch_norm_legit _native_batch_norm_legit_no_training''',
    lambda: __import__('fastai_ext.distributed').distributed.DistributedTrainer: '_orig_before_fit _orig_after_fit',
    lambda: Learner: '_split _set_device _do_epoch_validate _with_events',
    lambda: Datasets([1,2]).dataloaders(bs=1).train: '_n_inp _types'}
owner_of = {name: o for o,names in owners.items() for name in names.split()}

# Strings that look like a name: folders, the ends of keys, the beginning or a part of names
no_names = set('_proc _site_src _docs _scaled_dot_product _tta _x _y _seed _hook _hooks _hooks_with_kwargs'.split())

def is_private(s): return s[:1] == '_' and s[1:2] not in ('', '_')

def own_members(trees):
    "Methods that we write, patched ones too, and what classes of ours have or set on themselves"
    res = set()
    for o in (o for t in trees for o in ast.walk(t)):
        if isinstance(o, ast.FunctionDef) and [a.arg for a in o.args.args[:1]] in (['self'], ['cls']): res.add(o.name)
        if isinstance(o, ast.ClassDef): res |= {ast.unparse(n) for a in o.body for n in getattr(a, 'targets', [])}
        if isinstance(o, ast.Attribute) and type(o.ctx) is ast.Store and ast.unparse(o.value) == 'self': res.add(o.attr)
    return res

def asked_for(o):
    "Names that the node `o` takes from elsewhere: with the module where it is written, else the last alone"
    if isinstance(o, ast.ImportFrom) and not o.level: return [f'{o.module}.{n.name}' for n in o.names if n.name != '*']
    if isinstance(o, ast.Attribute):
        base,_,rest = ast.unparse(o).partition('.')
        return [f'{modules[base]}.{rest}' if base in modules and re.fullmatch(r'[\w.]+', rest) else o.attr]
    if isinstance(o, ast.Call) and ast.unparse(o.func) == 'getattr' and isinstance(o.args[1], ast.JoinedStr):
        return [ast.unparse(o.args[1])[2:-1]]
    return [o.value] if isinstance(o, ast.Constant) and isinstance(o.value, str) and o.value.isidentifier() else []

trees = {f: ast.parse(f.read_text()) for f in files}
own = own_members(trees.values())
borrowed = defaultdict(set)
for f,t in trees.items():
    for name in (n for o in ast.walk(t) for n in asked_for(o)):
        if name.startswith('nbdev.') or any(map(is_private, name.split('.'))): borrowed[name].add(f.name)
for k in no_names | own: borrowed.pop(k, None)

def test_the_table_names_what_is_used(): assert {o for o in borrowed if '.' not in o} == set(owner_of)

@pytest.mark.parametrize('name', sorted(borrowed))
def test_it_is_there(name):
    where = f'{name}, which {", ".join(sorted(borrowed[name]))} uses'
    if '.' in name:
        try: pkgutil.resolve_name(name)
        except (ImportError, AttributeError) as e: pytest.fail(f'{where}: {e}')
    elif name in owner_of:
        for kind in ('forward', 'forward_pre'): assert hasattr(owner_of[name](), name.format(kind=kind)), where
