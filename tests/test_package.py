"What `from fastai_ext.all import *` brings, and that the wheel works without the checkout"
from collections import defaultdict
from pathlib import Path
import ast, json, os, pytest, re, subprocess, sys

root = Path(__file__).parents[1]

def run_py(code, **kwargs):
    res = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True, **kwargs)
    assert res.returncode == 0, res.stderr
    return res.stdout

@pytest.fixture(scope='module')
def imported():
    "What a new process finds that imports fastai's vision, then ours, then fastai's other applications"
    code = '''
commands = 'all settings recipes distributed cluster images folder report job fashion predict cli'
import importlib, json, pkgutil, sys
from fastai.vision import all as vision
from fastai.learner import Learner
modules,methods = set(sys.modules),dict(vars(Learner))
from fastai_ext import all as ours
new = {o.split('.')[0] for o in set(sys.modules)-modules} - set(sys.stdlib_module_names)
added = sorted(vars(Learner).keys() - methods)
original = Learner._orig_summary is methods['summary']
patched = [k for k,v in vars(Learner).items() if k in methods and methods[k] is not v]
from fastai.text import all as text
from fastai.tabular import all as tabular
from fastai import collab
def public(m): return {k: v for k,v in vars(m).items() if not k.startswith('_')}
changed = [k for k,v in public(vision).items() if getattr(ours, k, None) is not v]
clashes = [k for m in (text, tabular, collab) for k,v in public(ours).items() if v is not getattr(m, k, v)]
names = [o.name for o in pkgutil.iter_modules(sys.modules['fastai_ext'].__path__) if o.name[0] != '_']
mods = [importlib.import_module(f'fastai_ext.{o}') for o in set(names) - set(commands.split())]
lacking = [f'{m.__name__}.{n}' for m in mods for n in m.__all__ if getattr(ours, n, None) is not getattr(m, n)]
res = dict(new=sorted(new), patched=patched, changed=changed, clashes=clashes, n=len(mods), lacking=lacking,
    added=added, original=original)
print(json.dumps(res))'''
    return json.loads(run_py(code).splitlines()[-1])

@pytest.mark.slow
def test_no_name_of_fastai_gets_another_meaning(imported):
    "Vision's names are all there; those of the other applications are free of ours too, since people import both"
    assert (imported['changed'], imported['clashes'], imported['patched']) == ([], [], ['summary'])
    assert imported['original']
    names = ['_orig_summary', 'show_train_batch', 'speed_report', 'to_amp', 'tta_flip', 'tta_report']
    assert imported['added'] == names

@pytest.mark.slow
def test_all_brings_every_public_name(imported): assert imported['n'] >= 8 and imported['lacking'] == []

@pytest.mark.slow
def test_import_is_light(imported):
    "Nothing that fastai has not imported already but standard library and our own modules"
    assert imported['new'] == ['fastai_ext']

# Which modules a module may import; each only those above it, so there is no circle
uses = dict(rng='', twin='rng', core='rng twin', averaging='core', loaders='core rng', data='core loaders',
    layers='core', models='core layers', operators='', macs='twin core operators', receptive='operators macs',
    summary='twin core operators macs receptive', augment='core', erase='augment', mix='twin core augment')
uses |= dict(callbacks='twin core augment', record='callbacks', precision='', resize='core summary callbacks')
uses |= dict(sched='', schedule='callbacks sched', anneal='schedule', muon='precision', weights='core callbacks')
uses |= dict(checkpoint='rng twin core callbacks', speed='twin core loaders callbacks precision')
uses |= dict(tta='averaging core', members='averaging core', processes='', distributed='rng')
uses |= dict(ensemble='averaging core members callbacks schedule weights checkpoint processes')
uses |= dict(all=None, settings='models', recipes='all settings', images='loaders', folder='images loaders')
uses |= dict(report='core tta')
uses |= dict(job='all settings recipes images folder report', fashion='all settings recipes images job')
uses |= dict(predict='all settings images folder job', cluster='all images predict')
uses |= dict(cli='settings report job fashion predict', __main__='cli')

def test_modules_import_what_the_table_allows():
    for i,(name,allowed) in enumerate(uses.items()):
        if allowed is None: continue
        lines = [o.strip() for o in (root/f'fastai_ext/{name}.py').read_text().splitlines()]
        froms = [o.split()[1] for o in lines if o.startswith(('from .', 'from fastai_ext'))]
        used = {o.replace('fastai_ext', '').strip('.') for o in froms} - {''}
        assert used <= set(allowed.split()) and used <= set(list(uses)[:i]), name
    assert set(uses) == {f.stem for f in (root/'fastai_ext').glob('*.py')} - {'__init__', '_modidx'}

@pytest.mark.slow
def test_wheel_runs_the_main_job_without_the_checkout(tmp_path):
    "Built from the sdist, so that a file missing there shows"
    run = lambda *args, **kw: subprocess.run([sys.executable, *map(str, args)], check=True, capture_output=True,
        text=True, **kw)
    run('-m', 'build', '--no-isolation', '--outdir', tmp_path, root)
    wheel, = tmp_path.glob('*.whl')
    assert wheel.stat().st_size < 4e6
    run('-m', 'pip', 'install', '--no-deps', '--target', tmp_path/'site', wheel)
    said, = (tmp_path/'site').glob('fastai_ext-*/METADATA')
    assert re.findall(r'\]\((?!https?:|#)[^)\s]+\)', said.read_text()) == [], 'a link that is dead on PyPI'
    env = {**os.environ, 'PYTHONPATH': str(tmp_path/'site')}
    where = run('-c', 'import fastai_ext; print(fastai_ext.__file__)', cwd=tmp_path, env=env).stdout.strip()
    assert Path(where).is_relative_to(tmp_path/'site')
    out = run('-W', 'ignore', '-m', 'fastai_ext', 'fashion', '--model', 'mini_convnet', '--epochs', '1', '--seeds', '1',
        cwd=tmp_path, env=env).stdout
    assert 'Test accuracy' in out and (tmp_path/'runs'/'fashion'/'results.json').is_file()
    help_text = subprocess.run([tmp_path/'site'/'bin'/'fastai-ext', 'fashion', '--help'], env=env, capture_output=True,
        text=True, check=True).stdout
    assert '--resume' in help_text

def _definitions(path):
    "Names of the functions and classes at the top of a module, without the methods that are patched into a class"
    tops = [o for o in ast.parse(path.read_text()).body if isinstance(o, (ast.FunctionDef,ast.ClassDef))]
    return [o.name for o in tops if not any(ast.unparse(d).startswith('patch') for d in o.decorator_list)]

def test_private_names_have_one_meaning():
    "Read in one module, a name says the same as in another"
    where = defaultdict(list)
    for f in (root/'fastai_ext').glob('[!_]*.py'):
        for o in _definitions(f):
            if o[0]=='_' and o[1]!='_': where[o].append(f.stem)
    assert len(where) > 100 and {k: v for k,v in where.items() if len(v) > 1} == {}

def test_modules_can_be_held_in_the_head():
    "Not longer than 420 lines; at most two private definitions for a public one in the whole"
    sizes = {f.stem: len(f.read_text().splitlines()) for f in (root/'fastai_ext').glob('[!_]*.py')}
    assert len(sizes) > 20 and {k: v for k,v in sizes.items() if v > 420} == {}
    private = [o[0]=='_' for f in (root/'fastai_ext').glob('[!_]*.py') for o in _definitions(f) if o[:2]!='__']
    assert sum(private) <= 2*(len(private)-sum(private))
