"What every test file relies on"
import os, pytest

os.environ.setdefault('MPLBACKEND', 'Agg')

@pytest.hookimpl(hookwrapper=True)
def pytest_pycollect_makeitem(collector, name, obj):
    "fastai's star imports bring fastcore's `test_eq` and its like, which are not tests"
    outcome = yield
    if getattr(obj, '__module__', '').startswith(('fastcore', 'fastai.')): outcome.force_result(None)
