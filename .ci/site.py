"""The documentation site, from the notebooks alone, without Quarto and without the network

python .ci/site.py            build it into _docs/
python -m http.server -d _docs    look at it: search needs a server

nbdev processes the notebooks, smalldocs renders them by nbs/_quarto.yml; what neither does is done here: reference entries with a parameter
table, links by source name, maths as MathML, no font or script of another host. A warning, a broken link or a missing tool ends the build."""
from pathlib import Path
import html, inspect, os, posixpath, re, shutil, sys, textwrap, warnings

from fastcore.docments import docments, docstring
from fastcore.nbio import read_nb, write_nb
import nbdev.quarto, nbdev.serve, nbdev.showdoc
import latex2mathml.converter, smalldocs.site, yaml

root = Path(__file__).resolve().parents[1]
src, proc, made, docs = (root/o for o in ('nbs', '_proc', '_site_src', '_docs'))
# Files of the checkout that become pages; links to other files lead to the forge
extra_pages = {'CONTRIBUTING.md': 'contributing.md', 'CHANGELOG.md': 'changelog.md'}

def short(anno):
    "An annotation as it is written: without modules"
    if anno is inspect.Parameter.empty: return ''
    return re.sub(r'\b(?:\w+\.)+(?=\w)', '', anno if isinstance(anno, str) else inspect.formatannotation(anno))

def shown(v): return getattr(v, '__name__', None) or re.sub(r' at 0x\w+', '', repr(v))

def code(s): return f'`{s}`' if s else ''

def row(*cells): return '| ' + ' | '.join(str(o).replace('|', r'\|').replace('\n', ' ') for o in cells) + ' |'

def anchor(nm): return re.sub(r'[^\w.-]', '', nm).lower()

def heading(nm, level):
    "A heading whose underscores stay and whose anchor is the one that nbdev links to"
    return f"{'#'*level} {nm.replace('_', chr(92)+'_')} {{#{anchor(nm)}}}"

def signature(sym, nm):
    "A call as it is written: names and defaults, no types"
    sig, pre = inspect.signature(sym), 'class ' if inspect.isclass(sym) else ''
    ps, star = [], False
    for i,p in enumerate(sig.parameters.values()):
        if i == 0 and p.name in ('self', 'cls') and '.' in nm: continue
        if p.kind is p.KEYWORD_ONLY and not star: ps.append('*')
        star = star or p.kind in (p.KEYWORD_ONLY, p.VAR_POSITIONAL)
        stars = {p.VAR_POSITIONAL: '*', p.VAR_KEYWORD: '**'}.get(p.kind, '')
        ps.append(f'{stars}{p.name}' + ('' if p.default is p.empty else f'={shown(p.default)}'))
    text = f"{pre}{nm}({', '.join(ps)})"
    if len(text) <= 88: return text
    return f'{pre}{nm}(\n' + textwrap.fill(', '.join(ps) + ')', 84, initial_indent='    ', subsequent_indent='    ', break_long_words=False)

def table(sym):
    "Parameters, types, defaults and meanings, from docments"
    dm, params = docments(sym, full=True), inspect.signature(sym).parameters
    rows = [row(code(k), code(short(v.anno)), code(shown(v.default)) if v.default is not inspect.Parameter.empty else '', v.docment or '')
        for k,v in dm.items() if k not in ('self', 'cls', 'return') and k in params and (v.docment or v.anno is not inspect.Parameter.empty)]
    ret = dm.get('return') or {}
    anno = ret.get('anno', inspect.Parameter.empty)
    if ret.get('docment') or anno not in (inspect.Parameter.empty, None): rows.append(row('**Returns**', code(short(anno)), '', ret.get('docment') or ''))
    return '\n'.join([row('Name', 'Type', 'Default', 'Meaning'), row(*['---']*4), *rows]) if rows else ''

def methods(cls):
    "The public methods and properties of a class's own that say what they do"
    for k,o in vars(cls).items():
        f = o.fget if isinstance(o, property) else getattr(o, '__func__', o)
        if k[0] != '_' and inspect.isfunction(f) and f.__doc__: yield f'{cls.__name__}.{k}', f, isinstance(o, property)

class Reference(nbdev.showdoc.BasicMarkdownRenderer):
    "What `show_doc` shows: heading, source link, signature, docstring, parameter table; for a class, its methods too"
    def _repr_markdown_(self):
        return self.entry(self.sym, self.nm, self.title_level)

    def entry(self, sym, nm, level, prop=False):
        url = nbdev.doclinks.NbdevLookup().code(f'{self.fn.split(".")[0]}.{nm}') or nbdev.doclinks.NbdevLookup().code(nm)
        out = [heading(nm, level), f'[source]({url}){{.source-link}}' if url else '']
        out += [f'```python\n{nm if prop else signature(sym, nm)}\n```', inspect.cleandoc(docstring(sym)), '' if prop else table(sym)]
        if inspect.isclass(sym): out += [self.entry(f, n, level+1, p) for n,f,p in methods(sym)]
        return '\n\n'.join(filter(None, out))

def process():
    "Let nbdev process the notebooks into `_proc`, with our reference entries"
    nbdev.showdoc.BasicMarkdownRenderer = Reference
    if not nbdev.doclinks.NbdevLookup().entries.get('fastai_ext'):
        sys.exit('The package is not installed, so that names cannot be linked: pip install -e ".[test]"')
    with warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings('ignore', '`torch.jit.script` is deprecated')
        # the cells of models are executed beside the module that they are exported to
        warnings.filterwarnings('ignore', r'Overwriting mini_\w+ in registry')
        nbdev.serve.proc_nbs(n_workers=0, force=True)
    return [f'{o.category.__name__}: {o.message}' for o in caught]

def page_name(p):
    "`04_summary.ipynb` is the page `summary`, as nbdev has it"
    return posixpath.join(posixpath.dirname(p), re.sub(r'^\d+[a-z]?_', '', posixpath.basename(p)))

def relink(text, page, anchors, broken):
    "Links by source name or to the published site lead to this site's pages, those to files of the checkout to the forge"
    here = posixpath.dirname(page)
    def to_page(target, frag): return posixpath.relpath(target, here or '.') + frag
    def one(m):
        url, frag = (re.match(r'([^#]*)(#.*)?$', m[1])[i] or '' for i in (1, 2))
        if url.startswith(cfg['site-url']):
            target = url[len(cfg['site-url']):].strip('/').removesuffix('.html') + '.ipynb'
            # a private name or a method without an entry is explained where its class is
            while frag and frag[1:] not in anchors.get(target, ()) and '.' in frag: frag = frag.rpartition('.')[0]
            if frag and frag[1:] not in anchors.get(target, ()): frag = ''
            if target not in anchors: broken.append(f'{page}: {m[1]}')
            return f'({to_page(target, frag)})'
        if not url or re.match(r'\w+:', url): return m[0]
        path = posixpath.normpath(posixpath.join('nbs', here, url))
        inside = path.removeprefix('nbs/')
        if path in extra_pages: return f'({to_page(extra_pages[path], frag)})'
        if path.startswith('nbs/') and page_name(inside) in anchors: return f'({to_page(page_name(inside), frag)})'
        if not (root/path).exists(): broken.append(f'{page}: {m[1]}')
        return f"({cfg['repo-url']}/{'tree' if (root/path).is_dir() else 'blob'}/{cfg['repo-branch']}/{path}{frag})"
    return re.sub(r'(?<=\])\(([^)\s]+)\)', one, text)

def markdown_of(nb):
    "The places of a notebook that hold Markdown: (container, key)"
    for c in nb.cells:
        if c.cell_type == 'markdown': yield c, 'source'
        for o in c.get('outputs', []):
            if 'text/markdown' in o.get('data', {}): yield o['data'], 'text/markdown'

def joined(s): return s if isinstance(s, str) else ''.join(s)

def stage():
    "`_proc` under the names of the pages in `_site_src`, with the links and the configuration of this site"
    shutil.rmtree(made, ignore_errors=True)
    nbs = {page_name(p.relative_to(proc).as_posix()): read_nb(p) for p in sorted(proc.rglob('*.ipynb'))}
    anchors = {k: {a for d,key in markdown_of(nb) for a in re.findall(r'\{#([^} ]+)', joined(d[key]))} for k,nb in nbs.items()}
    broken = []
    for k,nb in nbs.items():
        if nb.cells[0].cell_type == 'raw': nb.cells[0].source = re.sub(r'^output-file:.*\n', '', nb.cells[0].source, flags=re.M)
        nb.cells = [c for c in nb.cells if 'WARNING: THIS FILE WAS AUTOGENERATED' not in c.source]
        for d,key in markdown_of(nb): d[key] = relink(joined(d[key]), k, anchors, broken)
        (made/k).parent.mkdir(parents=True, exist_ok=True)
        write_nb(nb, made/k)
    for a,b in extra_pages.items(): (made/b).write_text(relink((root/a).read_text(encoding='utf-8'), f'../{b}', anchors, broken), encoding='utf-8')
    for p in src.glob('*.css'): shutil.copy(p, made/p.name)
    return broken

def merged(*dicts):
    out = {}
    for d in dicts:
        for k,v in d.items(): out[k] = merged(out[k], v) if isinstance(v, dict) and isinstance(out.get(k), dict) else v
    return out

def config():
    "nbs/_quarto.yml with its metadata files, as Quarto merges them"
    main = yaml.safe_load((src/'_quarto.yml').read_text(encoding='utf-8'))
    return merged(main, *(yaml.safe_load((src/o).read_text(encoding='utf-8')) for o in main.get('metadata-files', [])))

def order(p):
    "Pages of a folder stand by `order` in their front matter, then by file name"
    front = read_nb(p).cells[0]
    found = re.search(r'^order: *(\d+)', front.source, re.M) if front.cell_type == 'raw' else None
    return int(found[1]) if found else 99, p.name

def expand(item):
    "A glob of the sidebar as the list of its pages, under their names here"
    if isinstance(item, dict): return {k: expand(v) for k,v in item.items()}
    if isinstance(item, list): return [expand(o) for o in item]
    if not isinstance(item, str): return item
    if '*' in item: return [page_name(p.relative_to(proc).as_posix()) for p in sorted(proc.glob(item), key=order)]
    return page_name(item) if item.endswith('.ipynb') else item

def configure(conf):
    "The configuration that smalldocs reads"
    conf = {k: v for k,v in conf.items() if k not in ('format-links', 'metadata-files')}
    conf['format'] = {'html': conf['format']['html']}
    conf['project'] = {'type': 'website', 'output-dir': os.path.relpath(docs, made)}
    side, nav = conf['website']['sidebar'], conf['website']['navbar']
    side['contents'] = [o for o in expand(side['contents']) if not isinstance(o, dict) or o['contents']]
    nav['left'] = expand(nav['left'])
    side['contents'].append({'section': 'Project', 'contents': list(extra_pages.values())})
    (made/'_quarto.yml').write_text(yaml.safe_dump(conf, sort_keys=False), encoding='utf-8')

def mathml(m):
    display = 'block' if 'display' in m[1] else 'inline'
    return f'<span class="math {display}">{latex2mathml.converter.convert(html.unescape(m[2]), display=display)}</span>'

def local(path):
    "Maths as MathML, and nothing of another host"
    text = path.read_text(encoding='utf-8')
    if path.suffix == '.html':
        text = re.sub(r'<span class="math (inline|display)">\\[(\[](.*?)\\[)\]]</span>', mathml, text, flags=re.S)
        text = re.sub(r'<(?:link|script)\b[^>]*(?:href|src)="https://cdn\.[^>]*>(?:</script>)?\n?', '', text)
    else: text = re.sub(r'@import url\(https?:[^)]*\);?', '', text)
    path.write_text(text, encoding='utf-8')

def build():
    problems = process() + stage()
    configure(config())
    site = smalldocs.site.build(made, quiet=True)
    problems += site.warnings
    for p in docs.rglob('*'):
        if p.suffix in ('.html', '.css'): local(p)
    (docs/'.nojekyll').touch()
    if problems: sys.exit('The site has problems:\n' + '\n'.join(problems))
    print(f'{len(site.pages)} pages in {docs.relative_to(root)}')

if __name__ == '__main__':
    cfg = config()['website']
    os.chdir(root)
    build()
