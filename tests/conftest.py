"What every test file relies on"
import os, pytest

os.environ.setdefault('MPLBACKEND', 'Agg')
# of several processes each has a core: the threads of two would wait for one another
if 'PYTEST_XDIST_WORKER' in os.environ: os.environ.setdefault('OMP_NUM_THREADS', '1')

@pytest.hookimpl(hookwrapper=True)
def pytest_pycollect_makeitem(collector, name, obj):
    "fastai's star imports bring fastcore's `test_eq` and its like, which are not tests"
    outcome = yield
    if getattr(obj, '__module__', '').startswith(('fastcore', 'fastai.')): outcome.force_result(None)
