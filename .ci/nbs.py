"""The notebook chores that nbdev leaves to Quarto or to Jupyter

python .ci/nbs.py run [NOTEBOOK ...]    run notebooks (all of them by default) and save their outputs
python .ci/nbs.py readme                write README.md from nbs/index.ipynb"""
from pathlib import Path
import hashlib, os, posixpath, re, sys, time

import nbformat
from nbclient import NotebookClient

root = Path(__file__).resolve().parents[1]
# Warnings of imported packages that are not for the pages
os.environ['PYTHONWARNINGS'] = 'ignore:`torch.jit.script` is deprecated,ignore:IProgress not found'

def notebooks(names): return [Path(o).resolve() for o in names] or sorted((root/'nbs').rglob('[!_.]*.ipynb'))

def code_of(nb):
    "A digest of the code of a notebook, whatever its comments and lines"
    code = '\n'.join(c.source for c in nb.cells if c.cell_type == 'code')
    return hashlib.sha256(re.sub(r'#.*|\s', '', code).encode()).hexdigest()[:16]

def run(names):
    for p in notebooks(names):
        start = time.time()
        nb = nbformat.read(p, as_version=4)
        resources = dict(metadata=dict(path=str(root/'nbs')))
        NotebookClient(nb, timeout=900, kernel_name='python3', resources=resources).execute()
        nb.metadata['outputs_of'] = code_of(nb)
        nbformat.write(nb, p)
        print(f'{p.relative_to(root)}: ran in {time.time()-start:.0f} s', flush=True)

def output_md(o):
    "One cell output as Markdown"
    if o.output_type == 'stream': return f'```\n{o.text.rstrip()}\n```'
    data = o.get('data', {})
    if 'text/html' in data: return '\n\n'.join(re.findall('<table.*?</table>', data['text/html'], re.S))
    if 'text/markdown' in data: return data['text/markdown'].strip()
    return f'```\n{data["text/plain"].rstrip()}\n```' if 'text/plain' in data else ''

def from_root(md):
    "Links that are relative to nbs/, relative to the checkout"
    return re.sub(r'(?<=\])\((?!\w+:|#)([^)\s]+)\)', lambda m: f'({posixpath.normpath("nbs/" + m[1])})', md)

def readme():
    nb, out = nbformat.read(root/'nbs/index.ipynb', as_version=4), []
    for c in nb.cells:
        if c.source.startswith('#| hide'): continue
        # the keywords below the title are for the search of the site
        if c.cell_type == 'markdown': out.append(from_root(re.sub(r'(?m)^- keywords: .*', '', c.source).strip()))
        else:
            if not c.source.startswith('#| echo: false'): out.append(f'```python\n{c.source.strip()}\n```')
            out += map(output_md, c.outputs)
    note = '<!-- Written from nbs/index.ipynb: edit that. -->'
    (root/'README.md').write_text('\n\n'.join([note, *filter(None, out)]) + '\n', encoding='utf-8')

if __name__ == '__main__':
    todo, *names = sys.argv[1:] or ['']
    if todo == 'run': run(names)
    elif todo == 'readme': readme()
    else: sys.exit(__doc__)
