"""The documentation site, from the notebooks alone, without Quarto and without the network

python .ci/site.py            build it into _docs/
python -m http.server -d _docs    look at it: search needs a server

nbdev processes the notebooks, smalldocs renders them by nbs/_quarto.yml; what neither does is done here: reference
entries with a parameter table, an overview of the names of a page and an index of all, private code folded below its
text, links by source name, a search that finds subtitles and keywords, pictures as files, maths as MathML, no font or
script of another host. A warning, a link or an anchor that leads nowhere, a picture without a text in its place or a
missing tool ends the build, and the site of before stays."""
from base64 import b64decode
from dataclasses import MISSING, fields, is_dataclass
from functools import reduce
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Union, get_args, get_origin
from urllib.parse import unquote, urlsplit
import ast, html, inspect, json, os, posixpath, pprint, re, shutil, struct, sys, textwrap, warnings

root = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(root))   # the checkout is documented, whatever is installed

from fastai.callback.core import event
from fastcore.docments import docments, docstring
from fastcore.nbio import mk_cell, read_nb, write_nb
import nbdev.config, nbdev.processors, nbdev.quarto, nbdev.serve, nbdev.showdoc
import latex2mathml.converter, smalldocs.site, torch, yaml
import fastai_ext

src, proc, made, docs = (root/o for o in ('nbs', '_proc', '_site_src', '_docs'))
new = made/'built'   # takes the place of `docs` when all went well
# Files of the checkout that become pages; links to other files lead to the forge
extra_pages = {'CONTRIBUTING.md': 'contributing.md', 'CHANGELOG.md': 'changelog.md'}

empty = inspect.Parameter.empty

def short(anno):
    "An annotation as it is written: without modules, alternatives with bars"
    if get_origin(anno) is Union: return ' | '.join(map(short, get_args(anno)))
    text = anno if isinstance(anno, str) else inspect.formatannotation(anno)
    return re.sub(r'\b(?:\w+\.)+(?=\w)', '', text).replace('NoneType', 'None')

def shown(v): return getattr(v, '__name__', None) or re.sub(r' at 0x\w+', '', repr(v))

def code(s): return f'`{s}`' if s else ''

def literals(s):
    "Python's strings in prose, such as 'auto', as code: else they would get curly quotes"
    return '`'.join(o if i%2 else re.sub(r"(?<!\w)'[\w./-]*'(?!\w)", r'`\g<0>`', o) for i,o in enumerate(s.split('`')))

def row(*cells): return '| ' + ' | '.join(str(o).replace('|', r'\|').replace('\n', ' ') for o in cells) + ' |'

def heading(nm, level):
    "A heading whose underscores stay and whose anchor is the one that nbdev links to"
    return f"{'#'*level} {nm.replace('_', chr(92)+'_')} {{#{nm.lower()}}}"

def ours(cls):
    "Is what makes a `cls` written in this package? Else its parameters are the other package's to explain"
    return next(o for o in cls.__mro__ if '__init__' in vars(o)).__module__.startswith('fastai_ext')

def parameters(sym):
    "Parameters that a caller passes; a field's factory is shown by what it makes"
    if inspect.isclass(sym) and not ours(sym): return []
    own = fields(sym) if is_dataclass(sym) else ()
    made_by = {o.name: o.default_factory() for o in own if o.default_factory is not MISSING}
    params = [p.replace(default=made_by.get(k, p.default)) for k,p in inspect.signature(sym).parameters.items()]
    return params[1:] if params and params[0].name == 'self' else params

def starred(p): return {p.VAR_POSITIONAL: '*', p.VAR_KEYWORD: '**'}.get(p.kind, '') + p.name

def signature(sym, nm):
    "A call as it is written: names and defaults, no types"
    ps, star = [], False
    for p in parameters(sym):
        if p.kind is p.KEYWORD_ONLY and not star: ps.append('*')
        star = star or p.kind in (p.KEYWORD_ONLY, p.VAR_POSITIONAL)
        ps.append(starred(p) + ('' if p.default is empty else f'={shown(p.default)}'))
    start = f"{'class ' if inspect.isclass(sym) else ''}{nm}("
    text = ', '.join(ps) + ')'
    if len(start+text) < 89: return start + text
    return start + '\n' + textwrap.fill(text, 84, initial_indent=' '*4, subsequent_indent=' '*4)

def table(sym):
    "Parameters, types, defaults and meanings, from docments"
    docs, ret = docments(sym, full=True, args_kwargs=True), inspect.signature(sym).return_annotation
    def _code(o, f): return '' if o is empty else code(f(o))
    def _meaning(k): return literals((docs.get(k) or {}).get('docment') or '')
    def _row(p): return code(starred(p)),_code(p.annotation, short),_code(p.default, shown),_meaning(p.name)
    rows = [_row(p) for p in parameters(sym)]
    returns = '**Returns**',_code(ret, short),'',_meaning('return')
    if returns[-1] or not (inspect.isclass(sym) or ret in (empty, None)): rows.append(returns)
    cols = [c for c in zip(('Name', 'Type', 'Default', 'Meaning'), ('---',)*4, *rows) if any(c[2:])]
    return '\n'.join(row(*o) for o in zip(*cols)) if len(cols) > 1 else ''

def methods(cls):
    "Public methods and properties of the class that say what they do, but for those that a base or fastai's loop calls"
    lines, first = inspect.getsourcelines(cls)
    bases = [inspect.getsource(b) for b in cls.__mro__[1:] if b.__module__.startswith('fastai_ext')]
    called = {k for o in bases for k in re.findall(r'\bself\.(\w+)\(', o)}
    for k,o in vars(cls).items():
        f = o.fget if isinstance(o, property) else getattr(o, '__func__', o)
        if k[0] == '_' or not inspect.isfunction(f) or f.__name__ != k or not f.__doc__: continue
        if hasattr(event, k) or k in called or any(k in vars(b) for b in cls.__mro__[1:]): continue
        inside = first <= f.__code__.co_firstlineno < first+len(lines)
        if inside and inspect.getsourcefile(f) == inspect.getsourcefile(cls): yield f'{cls.__name__}.{k}'

def exported(nm):
    "What the package's module has under the name, and the link to its source"
    lookup = nbdev.doclinks.NbdevLookup()
    _,py,_ = lookup.syms[nm]
    return reduce(getattr, nm.split('.'), import_module(py.removesuffix('.py').replace('/', '.'))), lookup.code(nm)

class Reference(nbdev.showdoc.BasicMarkdownRenderer):
    "What `show_doc` shows: heading, source link, signature, docstring, parameter table; for a class, its methods too"
    def __init__(self, sym, name=None, title_level=3):
        super().__init__(sym, name=name, title_level=title_level)
        # made here, since an exception in the display would be swallowed
        self.text = f'::: {{.reference}}\n\n{self.entry(self.nm, title_level)}\n\n:::'

    def _repr_markdown_(self): return self.text

    def entry(self, nm, level):
        sym,url = exported(nm)
        f = sym.fget if isinstance(sym, property) else sym
        is_prop = f is not sym
        call = nm if is_prop else signature(f, nm)
        out = [heading(nm, level), f'[source]({url}){{.source-link}}', f'```python\n{call}\n```']
        out += [literals(inspect.cleandoc(docstring(f))), '' if is_prop else table(f)]
        if inspect.isclass(f): out += [self.entry(o, level+1) for o in methods(f)]
        return '\n\n'.join(filter(None, out))

defined, remove_export = nbdev.processors._def_names, nbdev.processors.rm_export

def entries(cell, shown=()):
    "Public names of a cell, which get an entry, special methods if they say what they do; last first, as nbdev does it"
    # the methods of a private class look public to nbdev
    names = [o for o in reversed(defined(cell, shown)) if o[0] != '_']
    return [o for o in names if not o.endswith('__') or exported(o)[0].__doc__]

def fold_private(cell):
    "Exported code that has no entry stays below the text about it, folded; other exported and hidden cells go"
    found = cell.cell_type == 'code' and {'export', 'exporti'} & cell.directives_.keys() and not entries(cell)
    private = [o.name for o in cell.parsed_() if isinstance(o, (ast.FunctionDef, ast.ClassDef))] if found else []
    head = f'#| code-fold: true\n#| code-summary: "Source of {", ".join(private)}"'
    if private: cell.source = f'{head}\n{cell.source.strip()}'
    else: remove_export(cell)

def process():
    "Let nbdev process the notebooks into `_proc`, with our entries in the order of the source, private code folded"
    nbdev.showdoc.BasicMarkdownRenderer = Reference
    nbdev.processors._def_names = entries
    nbdev.processors.rm_export = fold_private
    names = EntryPoint('fastai_ext', 'fastai_ext._modidx:d', 'nbdev')
    others = [o for o in entry_points(group='nbdev') if o.name != names.name]
    nbdev.doclinks.entry_points = lambda group: [names, *others]
    # of fastai's names, those that are ordinary words or that torch has too may mean something else
    torchs = {k for o in (torch, torch.nn, torch.optim, torch.optim.lr_scheduler) for k in dir(o)}
    syms = nbdev.doclinks.NbdevLookup().syms
    unclear = [k for k,v in syms.items() if 'docs.fast.ai' in str(v) and (k in torchs or k.isalpha() and k.islower())]
    for k in unclear: del syms[k]
    with warnings.catch_warnings(record=True) as caught:
        warnings.filterwarnings('ignore', '`torch.jit.script` is deprecated')
        # the cells of models are executed beside the module that they are exported to
        warnings.filterwarnings('ignore', r'Overwriting mini_\w+ in registry')
        nbdev.serve.proc_nbs(n_workers=0, force=True)
    return [f'{o.category.__name__}: {o.message}' for o in caught]

def page_name(p):
    "`04a_operators.ipynb` is the page `operators`, as nbdev has it"
    return nbdev.config.nbpath2html(p).with_suffix(posixpath.splitext(p)[1]).as_posix()

def relink(text, page, anchors, broken, folder='nbs'):
    """Links by source name or to the published site lead to this site's pages, to files of the checkout to the forge

    The page was made of a file in `folder`, to which its links are relative."""
    here, names = posixpath.dirname(page), {o.lower() for o in nbdev.doclinks.NbdevLookup().syms}
    def to_page(target, frag): return posixpath.relpath(target, here or '.') + frag
    def one(m):
        url, frag = (re.match(r'([^#]*)(#.*)?$', m[1])[i] or '' for i in (1, 2))
        if url.startswith(cfg['site-url']):
            target = url[len(cfg['site-url']):].strip('/').removesuffix('.html') + '.ipynb'
            # a private name or a method without an entry is explained where its class is
            while frag and frag[1:] not in anchors.get(target, ()) and '.' in frag: frag = frag.rpartition('.')[0]
            if frag[1:] in names and frag[1:] not in anchors.get(target, ()): frag = ''
            if target not in anchors: broken.append(f'{page}: {m[1]}')
            return f'({to_page(target, frag)})'
        if not url or re.match(r'\w+:', url): return m[0]
        path = posixpath.normpath(posixpath.join(folder, here, url))
        inside = path.removeprefix('nbs/')
        if path.endswith('.png'): return f'({posixpath.relpath(inside, here or ".")})'
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

def add_constants(nbs):
    "Entries for the public names that are neither function nor class, on the pages of their modules"
    for k,nb in nbs.items():
        if not (root/'fastai_ext'/Path(k).with_suffix('.py')).exists(): continue
        mod = import_module(f'fastai_ext.{Path(k).stem}')
        found = [o for o in mod.__all__ if not callable(getattr(mod, o))]
        def _value(o):
            text = pprint.pformat(getattr(mod, o), width=100, compact=True, sort_dicts=False)
            return re.sub(r'<function (\w+) at 0x\w+>', r'\1', text)
        entries = [f'{heading(o, 3)}\n\n```python\n{o} = {_value(o)}\n```' for o in found]
        if found: nb.cells.append(mk_cell('\n\n'.join(['## Constants', *entries]), 'markdown'))

def joined(s): return s if isinstance(s, str) else ''.join(s)

def md(cell): return '\n'.join(joined(o.get('data', {}).get('text/markdown', '')) for o in cell.get('outputs', []))

def described(text):
    "The entries in Markdown: level, name, anchor, the first paragraph"
    entry = r'^(###+) (\S+) \{(#\S+)\}\n\n(?:\[source[^\n]*\n\n)?```python\n.*?\n```(?=\n*(.*?)(?:\n\n|\Z))'
    for level,nm,anchor,doc in re.findall(entry, text, re.S|re.M):
        yield len(level), nm.replace('\\', ''), anchor, '' if doc[:1] in '#|:' else doc

def overview(head, rows):
    return '\n'.join(['::: {.overview}', '', row(*head), row(*['---']*len(head)), *rows, '', ':::', '', ''])

def add_overviews(nbs):
    "Before the first section or entry of a reference page, a table of its names with what they do"
    for nb in nbs.values():
        found = [(c, [o for o in described(md(c)) if o[0] == 3]) for c in nb.cells]
        names = [o for _,os in found for o in os]
        if len(names) < 2: continue
        text = overview(('Name', 'What it is for'), [row(f'[`{nm}`]({a})', doc) for _,nm,a,doc in names])
        i = next(i for i,(c,os) in enumerate(found) if os or re.search('^## ', c.source, re.M))
        c = nb.cells[i]
        at = re.search(r'^## |\Z', c.source, re.M).start()
        if c.cell_type == 'code': nb.cells.insert(i, mk_cell(text, 'markdown'))
        else: c.source = c.source[:at] + text + c.source[at:]

def all_names(nbs):
    "The index: every name that has an entry, with its page"
    found = [(nm, k+a, k, doc) for k,nb in nbs.items() for d,key in markdown_of(nb)
        for _,nm,a,doc in described(joined(d[key]))]
    found = sorted(found, key=lambda o: (o[0].lower(), o[0]))
    return overview(('Name', 'Page', 'What it is for'),
        [row(f'[`{nm}`]({url})', f'[{Path(k).stem}]({k})', doc) for nm,url,k,doc in found])

def page_links(path):
    "Under the contents of a page: where the file is that it is made of, to be changed, read or run"
    file, repo = f"{cfg['repo-branch']}/{path}", cfg['repo-url']
    links = [('Edit this page', f'{repo}/edit/{file}', 'pencil'), ('View source', f'{repo}/blob/{file}', 'code'),
        ('Report an issue', f'{repo}/issues/new', 'chat-right')]
    if path.endswith('.ipynb'):
        colab = repo.replace('https://github.com', 'https://colab.research.google.com/github')
        links[2:2] = [('Download notebook', f"{cfg['site-url']}/notebooks/{path}", 'download'),
            ('Open in Colab', f'{colab}/blob/{file}', 'play')]
    return yaml.safe_dump({'code-links': [dict(zip(('text', 'href', 'icon'), o)) for o in links]})

def with_links(text, path):
    "Front matter, or Markdown that may begin with it, with the links of its page"
    return f'---\n{page_links(path)}---\n\n{text}' if text[:3] != '---' else f'---\n{page_links(path)}{text[4:]}'

def bare(o):
    "The HTML of an output without its wrapping; what has no HTML is taken as it is"
    return re.sub(r'<style>.*?</style>|</?div>', '', joined(o.get('data', {}).get('text/html', '-')), flags=re.S)

def stage():
    "`_proc` under the names of the pages in `_site_src`, with the links and the configuration of this site"
    shutil.rmtree(made, ignore_errors=True)
    paths = {page_name(p): p for p in (o.relative_to(proc).as_posix() for o in sorted(proc.rglob('*.ipynb')))}
    nbs = {k: read_nb(proc/p) for k,p in paths.items()}
    own = {p.relative_to(root).as_posix(): p.relative_to(src).as_posix() for p in src.rglob('*.md')}
    texts = {**extra_pages, **own}
    add_overviews(nbs)
    add_constants(nbs)
    def _anchors(nb): return {a for d,key in markdown_of(nb) for a in re.findall(r'\{#([^} ]+)', joined(d[key]))}
    anchors = {**{k: _anchors(nb) for k,nb in nbs.items()}, **{k: () for k in texts.values()}}
    broken = []
    for k,nb in nbs.items():
        front = nb.cells[0]
        front.source = with_links(re.sub(r'^output-file:.*\n', '', front.source, flags=re.M), f'nbs/{paths[k]}')
        nb.cells = [c for c in nb.cells if 'WARNING: THIS FILE WAS AUTOGENERATED' not in c.source]
        # a bar that is full says nothing any more, and a style sheet alone leaves a gap
        for c in nb.cells: c.outputs = [o for o in c.get('outputs', []) if not re.match(r'\s*(<progress|$)', bare(o))]
        for d,key in markdown_of(nb):
            # a parameter is not the function of fastai that has its name
            text = re.sub(r'^(\| )\[(`\w+`)\]\(https:[^)]+\)', r'\1\2', joined(d[key]), flags=re.M)
            d[key] = relink(text, k, anchors, broken)
        (made/k).parent.mkdir(parents=True, exist_ok=True)
        write_nb(nb, made/k)
    for a,b in texts.items():
        text = nbdev.doclinks.NbdevLookup().linkify((root/a).read_text(encoding='utf-8'))
        text = relink(text, b, anchors, broken, folder='nbs' if a.startswith('nbs/') else '')
        if b == 'names.md': text += all_names(nbs)
        (made/b).write_text(with_links(text, a), encoding='utf-8')
    for o in ('css', 'svg', 'png', 'html'): [shutil.copy(p, made) for p in src.glob(f'*.{o}')]
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
    conf['project'] = {'type': 'website', 'output-dir': new.name}
    side, nav = conf['website']['sidebar'], conf['website']['navbar']
    side['contents'] = [o for o in expand(side['contents']) if not isinstance(o, dict) or o['contents']]
    nav['left'] = expand(nav['left'])
    nav['right'] = [{'text': fastai_ext.__version__, 'href': extra_pages['CHANGELOG.md']}, *nav['right']]
    side['contents'].append({'section': 'Project', 'contents': list(extra_pages.values())})
    (made/'_quarto.yml').write_text(yaml.safe_dump(conf, sort_keys=False), encoding='utf-8')

def mathml(m):
    display = 'block' if 'display' in m[1] else 'inline'
    return f'<span class="math {display}">{latex2mathml.converter.convert(html.unescape(m[2]), display=display)}</span>'

def plain(text):
    "Markdown for machines: smalldocs leaves the links of outputs and the marks of our entries as they are"
    text = re.sub(r'(\]\([\w./-]+)\.ipynb(?=[#)])', r'\1.llms.md', text)
    text = re.sub(r'<div class="overview">\s*(.*?)\s*</div>', r'\1', text, flags=re.S)
    text = re.sub(r'^:::.*\n\n?|\{\.source-link\}$|(?<=\w) \{#[\w.]+\}$', '', text, flags=re.M)
    return re.sub(r'^#+ .*', lambda m: m[0].replace('\\_', '_'), text, flags=re.M)

def picture(m, page, files):
    "A picture is the file of the page's Markdown copy, and is loaded when it comes into sight"
    data = b64decode(m[1]) if m[1] else (page.parent/m[2]).read_bytes()
    w,h = struct.unpack('>II', data[16:24])
    strip = ' strip' if w > 2*h else ''
    url = files[data].relative_to(page.parent) if m[1] else m[2]
    return f'src="{url}" width="{w}" height="{h}" loading="lazy" class="img-fluid{strip}"'

# What smalldocs leaves unnamed for those who hear a page or have no mouse, and the title of the links beside it
labels = {'class="navbar ': 'Main', 'class="quarto-secondary-nav"': 'Menu', 'id="quarto-sidebar"': 'Pages',
    'id="TOC"': 'Contents', 'id="TOC-body"': 'Contents, folded', 'class="page-navigation"': 'Neighbours',
    'id="quarto-margin-sidebar"': 'Beside the text'}
fixes = [*((rf'<(?:nav|div) (?={k})', rf'\g<0>aria-label="{o}" ') for k,o in labels.items()),
    (' role="navigation"', ' role="button" href="#"'), (' role="img"', ' aria-hidden="true"'),
    ('id="quarto-margin-sidebar"', r'role="complementary" \g<0>'), ('<h2>Code Links</h2>', '<h2>This page</h2>'),
    (r'(<nav [^>]*id="TOC-body".*?)<h2>(.*?)</h2>(.*?)</nav>', r'\1<details><summary>\2</summary>\3</details></nav>')]

def local(path, files):
    "Maths as MathML, pictures as files, names for what has none, and nothing of another host"
    text = path.read_text(encoding='utf-8')
    if path.suffix == '.html':
        up = '../'*(len(path.relative_to(new).parts)-1)
        text = re.sub(r'<span class="math (inline|display)">\\[(\[](.*?)\\[)\]]</span>', mathml, text, flags=re.S)
        text = re.sub(r'<(?:link|script)\b[^>]*(?:href|src)="https://cdn\.[^>]*>(?:</script>)?\n?', '', text)
        png = r'src="(?:data:image/png;base64,([^"]+)|([\w./-]+\.png))" class="img-fluid[^"]*"'
        text = re.sub(png, lambda m: picture(m, path, files), text)
        text = text.replace(f"{cfg['site-url']}/notebooks/", f'{up}notebooks/')
        for a,b in fixes: text = re.sub(a, b, text, flags=re.S)
        # it is shown in the place of any page, so its links start from the site's root
        base = urlsplit(cfg['site-url']).path
        if path.name == '404.html': text = text.replace('<head>', f'<head><base href="{base}/">')
    elif path.suffix == '.css': text = re.sub(r'@import url\(https?:[^)]*\);?', '', text)
    else: text = plain(text)
    path.write_text(text, encoding='utf-8')

def index(site):
    "The search index: a page is found by its subtitle and keywords as well, and not by its folded code"
    cells = [c.source for p in made.rglob('*.ipynb') for c in read_nb(p).cells if '#| code-fold' in c.source]
    folded = [' '.join(re.sub(r'^#\|.*', '', o, flags=re.M).split()) for o in cells]
    found = json.loads((new/'search.json').read_text(encoding='utf-8'))
    for o in found: o['text'] = reduce(lambda text, code: text.replace(code, ''), folded, o['text'])
    for p in site.pages.values():
        about, words = p.front.get('description', '').replace('`', ''), ', '.join(p.front.get('keywords', []))
        entry = dict(objectID=f'{p.out}', href=f'{p.out}', title=p.title, section=about, text=words)
        if p.front.get('search', True): found.append(entry)
    (new/'search.json').write_text(json.dumps(found, ensure_ascii=False), encoding='utf-8')

def missing():
    "Links within the site that lead to no file or place, and pictures without a text"
    texts = {p: p.read_text(encoding='utf-8') for p in new.rglob('*.html')}
    ids = {p: set(re.findall(r'\sid="([^"]+)"', o)) for p,o in texts.items()}
    for p,text in texts.items():
        here = new/'404.html' if p.name == '404.html' else p
        for url in {html.unescape(o) for o in re.findall(r'\s(?:href|src)="([^"]+)"', text)}:
            path,_,frag = unquote(url).partition('#')
            if re.match(r'\w+:|/', url): continue
            target = Path(os.path.normpath(here.parent/path)) if path else p
            if target.is_dir(): target /= 'index.html'
            if not target.is_file() or frag and target in ids and frag not in ids[target]:
                yield f'{p.relative_to(new)}: {url} leads nowhere'
        for o in re.findall(r'<img(?![^>]*\salt="[^"])[^>]*?src="([^"]*)"', text):
            yield f'{p.relative_to(new)}: {o} has no text: give its cell `#| fig-alt: what there is to see`'

def build():
    problems = process() + stage()
    configure(config())
    site = smalldocs.site.build(made, quiet=True)
    files = {p.read_bytes(): p for p in new.rglob('*.png')}
    for p in new.rglob('*'):
        if p.suffix in ('.html', '.css', '.md'): local(p, files)
    others = lambda folder, names: [o for o in names if re.search(r'\.(?!ipynb$)', o)]
    shutil.copytree(src, new/'notebooks'/src.name, ignore=others)
    index(site)
    (new/'.nojekyll').touch()
    problems += [*site.warnings, *missing()]
    if problems: sys.exit('The site has problems:\n' + '\n'.join(problems))
    shutil.rmtree(docs, ignore_errors=True)
    new.rename(docs)
    print(f'{len(site.pages)} pages in {docs.relative_to(root)}')

if __name__ == '__main__':
    cfg = config()['website']
    os.chdir(root)
    build()
