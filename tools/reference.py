"The reference part of the site's pages: what nbdev leaves out of it, its links, its order, and its signatures"
import ast, re
from functools import cache
from pathlib import Path

from fastai.callback.core import event
from fastcore.basics import merge
from fastcore.nbio import mk_cell, read_nb, write_nb
from nbdev.config import get_config
from nbdev.doclinks import NbdevLookup
from nbdev.process import Processor
from nbdev.processors import FilterDefaults, add_show_docs

_events = {o for o in vars(event) if not o.startswith('_')}

def is_shown(m):
    "Does the method `m` of a class get an entry? Public ones that say what they do, except those that fastai calls in training"
    return isinstance(m, ast.FunctionDef) and m.name[0]!='_' and m.name not in _events and ast.get_docstring(m)

class ShowMethods(Processor):
    "Give the methods that stand in the body of an exported class entries too; nbdev leaves them out"
    def begin(self):
        for c in reversed([c for c in self.nb.cells if c.cell_type=='code' and 'export' in c.directives_]):
            classes = [o for o in c.parsed_() if isinstance(o, ast.ClassDef) and o.name[0]!='_']
            shows = [f'show_doc({o.name}.{m.name}, title_level=4)' for o in classes for m in filter(is_shown, o.body)]
            i = self.nb.cells.index(c)
            self.nb.cells[i+1:i+1] = map(mk_cell, shows)

class NameMethods(Processor):
    "Head the entry of a decorated method by its class too: nbdev looks through the decorator, at a function of no class"
    def begin(self):
        for c in self.nb.cells:
            if c.cell_type=='code': c.source = re.sub(r'^show_doc\((\w+\.\w+)\)', r"show_doc(\1, name='\1')", c.source, flags=re.M)

class Docs(FilterDefaults):
    "nbdev's processing of a notebook, with entries for methods, and with links from the names that users call methods by"
    def base_procs(self):
        res = super().base_procs()
        i = res.index(add_show_docs)
        return [*res[:i],ShowMethods,add_show_docs,NameMethods,*res[i+1:]]

    def __call__(self, nb):
        NbdevLookup().syms.update(merge(first_links(), method_links(), own_links(nb)))
        return super().__call__(nb)

def our_names():
    "Module → names in it → where they lead"
    syms = NbdevLookup().entries['collab_ext']['syms']
    return {mod:{k.removeprefix(f'{mod}.'):v for k,v in names.items()} for mod,names in syms.items()}

@cache
def lines_of(file):
    "Name of what has an entry, such as `CollabLearner.solve`, → its line in the module `file`"
    res = {}
    for o in ast.parse(Path(file).read_text(encoding='utf-8')).body:
        if isinstance(o, ast.ClassDef): res |= {o.name:o.lineno, **{f'{o.name}.{m.name}':m.lineno for m in filter(is_shown, o.body)}}
        if not is_shown(o): continue
        is_patch = any(ast.unparse(d).startswith('patch') for d in o.decorator_list)
        owners = re.findall(r'\w+', ast.unparse(o.args.args[0].annotation)) if is_patch else []
        res |= {f'{c}.{o.name}':o.lineno for c in owners} or {o.name:o.lineno}
    return res

def first_links():
    "Where each of our names leads; of two that are alike, to the one that nbdev finds first"
    return merge(*reversed(our_names().values()))

def own_links(nb):
    "Where the names of the module that the notebook `nb` exports lead: to its own page and source, though another module may have them too"
    found = (re.search(r'^#\|\s*default_exp (\S+)', c.source, flags=re.M) for c in nb.cells)
    own = next((m[1] for m in found if m), None)
    names = our_names().get(f'collab_ext.{own}', {})
    shown = lines_of(get_config().lib_path/f"{own.replace('.', '/')}.py") if own else ()
    methods = {k.partition('.')[2]:v for k,v in reversed(names.items()) if '.' in k and k in shown}
    elsewhere = method_links()
    called = {f'{o}{m}':v for m,v in methods.items() for o in ('','learn.') if f'{o}{m}' in elsewhere} # `solve` is here this module's own
    return {**called, **names}

_words = {'vocab','serve'} # methods whose names are those of arguments and of a command, too

def method_links():
    "Where `solve`, `learn.solve` and `from_df` lead; fastai has another `solve`, about images"
    ours = merge(*NbdevLookup().entries['collab_ext']['syms'].values())
    names = {k.split('.', 2)[2]:v for k,v in ours.items()}
    res = {}
    for cls,called in dict(CollabDataLoaders='dls', CollabLearner='learn').items():
        for k,v in names.items():
            owner,_,m = k.partition('.')
            if owner!=cls or not m or m[0]=='_': continue
            res[f'{called}.{m}'] = v
            if m not in names and m not in _words: res[m] = v
    return res

def tidy(sig):
    "The markdown `sig` of a reference entry without module names of ours, types that say nothing, addresses, long defaults, and the events that each callback takes"
    sig = re.sub(r'\b(?:__main__|collab_ext(?:\.\w+)*)\.(?=\w)', '', sig)
    sig = re.sub(rf"\b(?:{'|'.join(_events)})(?::NoneType)?=None(?:,\s*)?", '', sig)
    sig = re.sub(r'\(\s*\*,\s*\)', '()', sig)
    sig = re.sub(r':NoneType(?==None)', '', sig)
    sig = re.sub(r'<function (\w+) at 0x[0-9a-f]+>', r'\1', sig)
    sig = re.sub(r'=\{.{80,}\}(?=,? #|,?$)', '={…}', sig, flags=re.M)
    return re.sub(r'(```python\n)def ([A-Z]\w*\(.*?\)):?(\n```)', r'\1\2\3', sig, flags=re.S)

def entry_of(cell):
    "The markdown of the reference entry in `cell`; None if there is none"
    if not re.search(r'^show_doc\(', cell.source, re.M): return
    return ''.join(''.join(o['data'].get('text/markdown', '')) for o in cell.get('outputs', []) if 'data' in o)

def line_of(cell):
    "Line of the module that the entry in `cell` is about; 0 if it names none"
    m = re.search(r'#L(\d+)\)', entry_of(cell))
    return int(m[1]) if m else 0

def with_source(md):
    "The entry `md` of a decorated method with a link to where it is; nbdev looks for a function of no class"
    name,first = re.search(r'^#+ (\S+)$', md, flags=re.M)[1],first_links()
    if '#LNone' not in md or name not in first: return md
    _,file,address = first[name]
    line = lines_of(get_config().config_path/file).get(name)
    return re.sub(r'https?://\S+#LNone', f'{address}#L{line}' if line else address, md)

def in_order(cells):
    "`cells` with neighbouring reference entries in the order of the module; nbdev reverses those of one cell"
    res,run = [],[]
    for c in [*cells,None]:
        if c is not None and c.cell_type=='code' and entry_of(c) is not None: run.append(c)
        else:
            res += sorted(run, key=line_of) if all(map(line_of, run)) else run
            run = []
            if c is not None: res.append(c)
    return res

def is_shown_output(o):
    "Does the output `o` show anything? What a progress bar leaves behind is empty, or its style alone"
    html = ''.join(o.get('data', {}).get('text/html', 'text'))
    return re.sub(r'<style>.*?</style>', '', html, flags=re.S).strip()!=''

def is_event_entry(c):
    "Is the cell `c` the entry of what a callback does at an event? nbdev lists patched ones"
    m = re.search(r'^#+ \w+\.(\w+)$', entry_of(c) or '', flags=re.M) if c.cell_type=='code' else None
    return m is not None and m[1] in _events

def mend(f):
    "Tidy the processed notebook `f`"
    nb = read_nb(f)
    nb.cells = [c for c in nb.cells if not is_event_entry(c)]
    for c in nb.cells:
        if c.get('outputs'): c.outputs = [o for o in c.outputs if is_shown_output(o)]
        if c.cell_type=='markdown': c.remove_directives()
        elif entry_of(c):
            for o in c.outputs: o['data']['text/markdown'] = with_source(tidy(''.join(o['data']['text/markdown'])))
    nb.cells = in_order(nb.cells)
    write_nb(nb, f)
