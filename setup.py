"Reads the packaging metadata from settings.ini; the name, the description and Python's lowest version are in pyproject.toml"
from configparser import ConfigParser
from pathlib import Path
from setuptools import setup
import re

here = Path(__file__).parent
cfg = ConfigParser(delimiters='=')
cfg.read(here/'settings.ini', encoding='utf-8')
cfg = cfg['DEFAULT']
lib = cfg['lib_name']
version = re.search(r'^__version__ = "(.+)"$', (here/lib/'__init__.py').read_text(encoding='utf-8'), re.M)[1]
statuses = ['1 - Planning', '2 - Pre-Alpha', '3 - Alpha', '4 - Beta', '5 - Production/Stable']
extras = {k: cfg[f'{k}_requirements'].split() for k in ('test', 'docs', 'dev', 'bench', 'distrib', 'ray')}
extras['test'] += extras['docs'] + extras['distrib'] + extras['ray']

classifiers = [f'Development Status :: {statuses[int(cfg["status"])-1]}', 'Intended Audience :: Developers',
    'Intended Audience :: Science/Research', 'Programming Language :: Python :: 3', 'Operating System :: OS Independent']
readme = (here/'README.md').read_text(encoding='utf-8')
# on PyPI a link that is relative to the repository leads nowhere
url = re.search(r'^Repository = "(.+)"$', (here/'pyproject.toml').read_text(encoding='utf-8'), re.M)[1]
def absolute(m): return f"]({url}/{'raw' if m[1].endswith('.png') else 'blob'}/main/{m[1]})"
readme = re.sub(r'\]\((?!\w+:|#)([^)\s]+)\)', absolute, readme)

setup(version=version, author=cfg['author'], license=cfg['license'], keywords=cfg['keywords'].split(), classifiers=classifiers,
    long_description=readme, long_description_content_type='text/markdown', packages=[lib], package_data={lib: ['assets/*']},
    install_requires=cfg['requirements'].split(), extras_require={**extras, 'dev': extras['test']+extras['dev']},
    entry_points=dict(console_scripts=cfg['console_scripts'].split(), nbdev=[f'{lib}={lib}._modidx:d']))
