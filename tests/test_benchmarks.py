"The scripts of benchmarks/: what they share, and the form of their results"
from pathlib import Path
import ast, builtins, dis, importlib, json, pytest, shutil, subprocess, sys

root = Path(__file__).parents[1]/'benchmarks'
scripts,results = sorted(root.glob('*.py')),sorted((root/'results').glob('*.json'))

@pytest.fixture
def common(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(root)
    res = importlib.import_module('common')
    monkeypatch.setattr(res, 'folder', tmp_path)
    return res

def imported(path):
    "Module and name of each `from module import name`"
    froms = [o for o in ast.walk(ast.parse(path.read_text())) if isinstance(o, ast.ImportFrom)]
    return [(o.module, n.name) for o in froms for n in o.names]

@pytest.mark.parametrize('path', scripts, ids=lambda o: o.stem)
def test_a_script_imports_public_names_and_no_other_script(path):
    names = imported(path)
    assert {m for m,_ in names} & {o.stem for o in scripts} <= {'common'}
    ours = [(m, n) for m,n in names if m.startswith('fastai_ext.') and n != '*' and m != 'fastai_ext.all']
    for m,n in ours: assert n in importlib.import_module(m).__all__, (m, n)

def global_names(code):
    "Names that the code looks up in its module, and those of the functions in it"
    inner = [o for o in code.co_consts if hasattr(o, 'co_consts')]
    here = {o.argval for o in dis.get_instructions(code) if o.opname in ('LOAD_GLOBAL', 'LOAD_NAME')}
    return here.union(*map(global_names, inner))

@pytest.mark.parametrize('path', scripts, ids=lambda o: o.stem)
def test_a_script_has_all_names_that_it_uses(path, common):
    try: names = vars(importlib.import_module(path.stem))
    except ModuleNotFoundError as e:
        if e.name.startswith('fastai_ext'): raise
        pytest.skip(f'{e.name} is not installed')
    # the bodies of classes have names of their own
    known = {*names, *dir(builtins), '__name__', '__module__', '__qualname__'}
    used = global_names(compile(path.read_text(), path.name, 'exec'))
    assert used - known == set()

@pytest.mark.parametrize('path', results, ids=lambda o: o.stem)
def test_results_have_one_form(path, common):
    r = json.loads(path.read_text())
    assert list(r) in (['environment', 'settings', 'rows'], ['environment', 'settings', 'rows', 'summary'])
    assert {'cpu', 'cores', 'gpu', 'python', 'fastai_ext', 'fastai', 'torch', 'timm'} <= r['environment'].keys()
    assert r['rows'] and all(isinstance(o, dict) for o in r['rows']) and path.read_text() == common.as_lines(r)

def test_each_script_has_results():
    names = {n for m in scripts for n in (m.stem, f'{m.stem}_cuda', f'{m.stem}_overhead', f'{m.stem}_anneal')}
    assert {o.stem for o in results} <= names and len(results) >= len(scripts)-1

def test_runs_are_written_as_they_finish_and_not_made_again(common):
    made = []
    def _f(arm, seed):
        if (arm, seed) == ('b', 1): raise KeyboardInterrupt
        made.append((arm, seed))
        return dict(loss=seed+.5)
    keys = [(arm, seed) for seed in range(2) for arm in 'ab']
    def _summary(rows): return common.summed(rows, ['arm'], ['loss'])
    def _runs(**settings): return common.Runs('x', ('arm', 'seed'), settings, _summary)
    runs = _runs(lr=1)
    with pytest.raises(KeyboardInterrupt):
        for k in runs.todo(keys): runs.make(_f, *k)
    r = json.loads((common.folder/'x.json').read_text())
    assert [(o['arm'], o['seed'], o['loss']) for o in r['rows']] == [('a', 0, .5), ('b', 0, .5), ('a', 1, 1.5)]
    assert r['summary'][0] == dict(arm='a', n=2, loss=dict(mean=1., sd=.5**.5))
    assert r['summary'][1] == dict(arm='b', n=1, loss=dict(mean=.5, sd=None))
    assert list(_runs(lr=1).todo(keys)) == [('b', 1)] and list(_runs(lr=2).todo(keys)) == keys

def test_processes_share_the_runs(common):
    keys = [('a',), ('b',), ('c',)]
    one,two = (common.Runs('x', ['arm'], {}) for _ in range(2))
    todo,other = one.todo(keys),two.todo(keys)
    assert (next(todo), next(other)) == (('a',), ('b',))
    for runs,k in ((one, 'a'), (two, 'b')): runs.make(lambda arm: dict(loss=1.), k)
    assert next(other) == ('c',) and list(todo) == []
    assert [o['arm'] for o in json.loads((common.folder/'x.json').read_text())['rows']] == ['a', 'b']

def test_no_run_is_begun_when_the_time_is_up(common):
    runs = common.Runs('x', ['k'], {}, minutes=0)
    assert list(runs.todo([('a',)])) == []

def test_cases_take_turns_after_a_round_to_warm_up(common):
    calls = []
    res = common.in_turn(dict(a=1, b=2), 2, measure=lambda o: calls.append(o) or len(calls))
    assert calls == [1, 2]*3 and res == dict(a=[3, 5], b=[4, 6])

def test_a_process_of_its_own_returns_a_value(common): assert common.in_new_process(divmod, 7, 2) == (3, 1)

@pytest.mark.slow
def test_a_script_runs_and_writes_beside_itself(tmp_path):
    for o in scripts: shutil.copy(o, tmp_path)
    cmd = [sys.executable, '-W', 'ignore', 'import_time.py', '2']
    out = subprocess.run(cmd, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    r = json.loads((tmp_path/'results'/'import_time.json').read_text())
    assert len(r['rows'][0]['seconds']['runs']) == r['settings']['runs'] == 2
    assert f"| {r['rows'][1]['name']} | {r['rows'][1]['seconds']['mean']:.3f} ±" in out
