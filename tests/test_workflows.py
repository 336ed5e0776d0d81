"What runs at GitHub: nothing is published that was not tested, and no password is needed"
from pathlib import Path
import pytest, re

yaml = pytest.importorskip('yaml')

folder = Path(__file__).parents[1]/'.github'/'workflows'
# `on` is a truth value in YAML 1.1
def load(path): return yaml.safe_load(path.read_text(encoding='utf-8').replace('\non:', '\n"on":'))

workflows = {o.stem: load(o) for o in folder.glob('*.yml')}
jobs = [(w, k, j) for w,o in workflows.items() for k,j in o['jobs'].items()]
# The major versions that run on Node 24, or, for those that are not on it, the newest
actions = {'checkout': 6, 'setup-python': 6, 'upload-artifact': 6, 'download-artifact': 6, 'upload-pages-artifact': 4,
    'deploy-pages': 4}

def steps(job): return job.get('steps', [])

def before(workflow, job):
    "All jobs that have to succeed first"
    needs = workflows[workflow]['jobs'][job].get('needs', [])
    needs = [needs] if isinstance(needs, str) else needs
    return {*needs, *(o for n in needs for o in before(workflow, n))}

def test_versions_of_actions():
    used = {o['uses'] for _,_,j in jobs for o in steps(j) if 'uses' in o}
    assert used == {f'actions/{k}@v{n}' for k,n in actions.items()} | {'pypa/gh-action-pypi-publish@release/v1'}

def test_publishing_waits_for_the_tests():
    def _publishes(job): return any(re.search('deploy-pages|pypi-publish', o.get('uses', '')) for o in steps(job))
    publishing = [(w, k) for w,k,j in jobs if _publishes(j)]
    assert sorted(publishing) == [('docs', 'publish'), ('release', 'publish')]
    for w,k in publishing:
        tests = [o for o in before(w, k) if workflows[w]['jobs'][o].get('uses') == './.github/workflows/test.yml']
        assert tests == ['test'], w
        assert 'pull_request' not in workflows[w]['on']
    assert 'workflow_call' in workflows['test']['on']

def test_rights_and_passwords():
    for w,k,j in jobs:
        assert workflows[w]['permissions'] == {'contents': 'read'}
        assert ('id-token' in j.get('permissions', {})) == (k == 'publish'), (w, k)
    assert workflows['release']['jobs']['publish']['environment']['name'] == 'pypi'
    assert not [o.name for o in folder.glob('*.yml') if re.search(r'secrets\.|password:', o.read_text())]

def test_torch_comes_without_a_gpu():
    for w,k,j in jobs:
        runs = [o.get('run', '') for o in steps(j)]
        own = [i for i,o in enumerate(runs) if 'install -e' in o]
        cpu = 'torch torchvision --index-url https://download.pytorch.org/whl/cpu'
        assert all(cpu in runs[i-1] for i in own), (w, k)
