"The pages as a reader uses them: complete, without what is for tests, and true to the package's names"
from pathlib import Path
import ast, builtins, importlib, inspect, json, os, pytest, re, subprocess, sys, symtable

root = Path(__file__).parents[1]
pages = sorted((root/'nbs').rglob('[!_.]*.ipynb'))
no_code = ('hide','export','exporti','default_exp','code-fold:','echo:')

def cells(page, kind):
    found = json.loads(page.read_text())['cells']
    return [''.join(c['source']) for c in found if c['cell_type']==kind]

def shown(page):
    "The code that a reader sees unfolded"
    def _hidden(s): return any(o in no_code for o in re.findall(r'^#\| *(\S+)', s, re.M))
    return [o for o in cells(page, 'code') if not _hidden(o)]

def names(source):
    "What a cell takes from before, and what it leaves"
    used,left,todo = set(),set(),[symtable.symtable(source, 'cell', 'exec')]
    while todo:
        table = todo.pop()
        todo += table.get_children()
        for o in table.get_symbols():
            top = table.get_type()=='module'
            if o.is_referenced() and (top or o.is_global()): used.add(o.get_name())
            if top and (o.is_assigned() or o.is_imported()): left.add(o.get_name())
    return used,left

def starred(source):
    "What `from ... import *` brings"
    mods = [importlib.import_module(o.module) for o in ast.walk(ast.parse(source))
        if isinstance(o, ast.ImportFrom) and o.names[0].name=='*']
    return {k for m in mods for k in getattr(m, '__all__', [o for o in vars(m) if o[0]!='_'])}

def undefined(sources):
    "Names that a cell uses and that it, those before it and Python don't have"
    known,res = {*dir(builtins), 'show_doc'},set()
    for o in sources:
        used,left = names(o)
        known |= starred(o)
        res |= used-left-known
        known |= left
    return res

def test_undefined():
    sources = 'from math import *\nx = pi','def f(a): return a+x+y','y = f(sin(b))'
    assert undefined(sources) == {'y','b'}

@pytest.mark.parametrize('page', pages, ids=lambda o: o.stem)
def test_code_on_a_page_is_complete(page):
    "What is shown unfolded can be pasted from the top: every name comes from above"
    assert undefined(shown(page)) == set()

def for_tests(source):
    "Names in the code that are for the tests of a page, or private to a module"
    tree = ast.parse(source)
    found = {o.id for o in ast.walk(tree) if isinstance(o, ast.Name)}
    own = {o.name for o in ast.walk(tree) if isinstance(o, (ast.FunctionDef,ast.ClassDef))} | names(source)[1]
    res = {o for o in found-own if o in ('quick','synth_learner') or re.match('test_|_[a-z]', o)}
    return res | {'assert' for o in ast.walk(tree) if isinstance(o, ast.Assert)}

def test_for_tests():
    source = 'assert 1\ntest_eq(_f(quick), 1)\ndef _g(): pass\n_g()'
    assert for_tests(source) == {'assert','test_eq','_f','quick'}

@pytest.mark.parametrize('page', pages, ids=lambda o: o.stem)
def test_tests_are_folded_or_hidden(page): assert {o: f for o in shown(page) if (f := for_tests(o))} == {}

def run_script(path, **env):
    "What the script prints"
    res = subprocess.run([sys.executable, '-W', 'ignore', path.name], cwd=path.parent, capture_output=True, text=True,
        env={**os.environ, 'PYTHONPATH': str(root), **env})
    assert res.returncode == 0, res.stderr[-2000:]
    return res.stdout

whole = 'getting_started tutorials/kaggle tutorials/segmentation tutorials/when_tta_hurts'.split()

@pytest.mark.slow
@pytest.mark.parametrize('page', whole)
def test_code_runs_as_pasted(page, tmp_path):
    "In a new process, in an empty folder, without a notebook"
    code = '\n'.join(["import matplotlib; matplotlib.use('agg')", *shown(root/f'nbs/{page}.ipynb')])
    (tmp_path/'page.py').write_text(code)
    run_script(tmp_path/'page.py', TMPDIR=str(tmp_path))

@pytest.mark.slow
def test_code_of_the_readme_runs_as_pasted(tmp_path):
    code = re.findall(r'```python\n(.*?)```', (root/'README.md').read_text(), re.S)
    assert len(code) > 2 and undefined(code) == set()
    (tmp_path/'readme.py').write_text('\n'.join(code))
    assert 'validation accuracy' in run_script(tmp_path/'readme.py')

# Pages of tables: what they call exists, with those arguments

def ours(): return vars(importlib.import_module('fastai_ext.all'))

def spans(page):
    "Code in the text and in tables, without their first column, which has what others write"
    text = '\n'.join(cells(page, 'markdown'))
    return re.findall(r'(?<!`)`([^`\n]+)`(?!`)', re.sub(r'^\| .*? \| ', '| ', text, flags=re.M))

def calls(span):
    "Calls in a code span that are written out: (what is called, names of arguments, number of others)"
    for o in (span, f'f({span})'):
        try: tree = ast.parse(o)
        except SyntaxError: continue
        found = [o for o in ast.walk(tree) if isinstance(o, ast.Call)]
        return [(ast.unparse(o.func), [k.arg for k in o.keywords if k.arg], len(o.args)) for o in found]
    return []

holders = dict(learn='Learner', dls='DataLoaders')

def target(name):
    "What is called, if it is of this package or of fastai"
    have,(first,*rest) = ours(),name.split('.')
    if len(rest)==1 and first in holders: return getattr(have[holders[first]], rest[0], None)
    return have.get(name) if not rest else None

@pytest.mark.parametrize('page,least', [('cheat_sheet',25), ('migration',15), ('troubleshooting',3)])
def test_calls_in_tables_are_right(page, least):
    n = 0
    for span in spans(root/f'nbs/help/{page}.ipynb'):
        for name,kwargs,n_args in calls(span):
            f = target(name)
            if f is None or not getattr(f, '__module__', '').startswith('fastai_ext'): continue
            n += 1
            params = inspect.signature(f).parameters
            assert set(kwargs) <= set(params) or 'kwargs' in params, f'{span}: {name} has no such argument'
    assert n > least

def test_own_names_in_the_cheat_sheet_exist():
    "A call of an unknown name is of PyTorch, or made up on the page"
    known = {*ours(), 'f', 'ReduceLROnPlateau', 'OneCycleLR'}
    found = [o for s in spans(root/'nbs/help/cheat_sheet.ipynb') for o,_,_ in calls(s)]
    assert [o for o in found if '.' not in o and o not in known] == []

def text(o):
    "A string of the source, with `…` for values"
    if isinstance(o, ast.JoinedStr): return ''.join(map(text, o.values))
    return '…' if isinstance(o, ast.FormattedValue) else o.value

def messages():
    "All strings of the source, those of exceptions and warnings among them"
    nodes = [o for f in (root/'fastai_ext').glob('*.py') for o in ast.walk(ast.parse(f.read_text()))]
    return [text(o) for o in nodes if isinstance(getattr(o, 'value', None), str) or isinstance(o, ast.JoinedStr)]

def test_messages_on_the_page_are_in_the_source():
    page = '\n'.join(cells(root/'nbs/help/troubleshooting.ipynb', 'markdown'))
    tables = [t for t in page.split('\n\n') if t.startswith('| message |')]
    said = [re.sub('^`+ ?| ?`+$', '', o.split(' | ')[0].removeprefix('| ')) for t in tables for o in t.splitlines()[2:]
        if o.startswith('| `')]
    source = '\n'.join(messages())
    def _there(o): return re.search('[^\n]*'.join(map(re.escape, map(str.strip, o.split('…')))), source)
    assert len(said) > 35 and not any('`' in o for o in said) # the site can't show one within code
    assert [o for o in said if not _there(o)] == []
