"""Measure how a checkout of this repository is built, or two side by side: a markdown table, and the places behind each number

Nothing of a checkout is imported: modules are read as syntax trees and notebooks as JSON, so that old versions can be measured too.
Each measure says in its docstring what it counts; a comment above it says what version 0.0.1 had."""
import ast, math, re
from collections import defaultdict, namedtuple
from pathlib import Path

from fastcore.nbio import read_nb
from fastcore.script import call_parse

Row = namedtuple('Row', 'label value places')
Write = namedtuple('Write', 'module scope target line')
Patch = namedtuple('Patch', 'module node classes')

_functions = (ast.FunctionDef,ast.AsyncFunctionDef)
_scopes = (*_functions,ast.ClassDef)
_operations = (ast.BinOp,ast.BoolOp,ast.Compare,ast.UnaryOp,ast.Call,ast.Subscript)
_properties = {'property','cached_property','lazyproperty','patch_property'}
_exports = {'export','exports','exporti'}
_learner = 'CollabLearner'
# Methods that a `CollabLearner` has without us, and names of modules that fastai's `import *` brings
_of_fastai = set('load save export fit fit_one_cycle predict get_preds validate show_results lr_find create_opt'.split())
_foreign_modules = set('torch nn F np pd plt math random'.split())

# Reading a checkout

def scoped(node, scope=()):
    "Each node below `node`, with the classes and functions around it, outermost first"
    for o in ast.iter_child_nodes(node):
        yield o,scope
        yield from scoped(o, (*scope,o) if isinstance(o, _scopes) else scope)

class Module:
    "One module of the package: its lines, its syntax tree, and the notebook that it was written from"
    def __init__(self, path, notebook):
        self.name,self.notebook = path.stem,notebook
        self.lines = path.read_text(encoding='utf-8').splitlines()
        self.tree = ast.parse('\n'.join(self.lines))
        self.nodes = list(scoped(self.tree))
        self.classes = {o.name for o,_ in self.nodes if isinstance(o, ast.ClassDef)}

    def of(self, *types): return [(o,scope) for o,scope in self.nodes if isinstance(o, types)]
    def place(self, line, scope, what=''):
        name = '.'.join(o.name for o in scope) or '(module)'
        return f'{self.name}.py:{line} {name}' + (f': {what}' if what else '')

class Page:
    "One notebook: its cells, and the module that it exports"
    def __init__(self, path):
        self.name,self.cells = path.stem,read_nb(path).cells
        found = [re.search(r'(?m)^#\|\s*default_exp\s+(\w+)', c.source) for c in self.code]
        self.module = next((m[1] for m in found if m), None)

    @property
    def code(self): return [c for c in self.cells if c.cell_type=='code']

class Checkout:
    "The modules, the notebooks and the README of the checkout at `path`; nothing of it is imported"
    def __init__(self, path):
        path = Path(path)
        package = path/'collab_ext'
        if not package.is_dir(): raise FileNotFoundError(f"There is no folder collab_ext in {path}: give the root of a checkout")
        self.pages = [Page(o) for o in sorted((path/'nbs').glob('*.ipynb'))]
        notebook_of = {p.module:p.name for p in self.pages}
        files = [o for o in sorted(package.glob('*.py')) if o.stem not in ('__init__','_modidx')]
        self.modules = {o.stem:Module(o, notebook_of.get(o.stem)) for o in files}
        self.init = Module(package/'__init__.py', None)
        readme = path/'README.md'
        self.readme = readme.read_text(encoding='utf-8') if readme.exists() else ''

    @property
    def files(self): return [self.init, *self.modules.values()]

def is_code(line):
    "Is there more in `line` than blanks and a comment?"
    return bool(line.strip()) and not line.lstrip().startswith('#')

def share(n, total): return f'{100*n/total:.1f} %' if total else '–'
def per_100(n, total): return f'{100*n/total:.2f}' if total else '–'
def literal_text(expr): return expr.value if isinstance(expr, ast.Constant) and isinstance(expr.value, str) else None
def is_docstring(node): return isinstance(node, ast.Expr) and literal_text(node.value) is not None
def is_private(name): return name.startswith('_') and not name.endswith('__')

# 1, 2: lines

def own_nodes(stmt):
    "The nodes of `stmt` without those of the statements inside it"
    for o in ast.iter_child_nodes(stmt):
        if isinstance(o, (ast.stmt,ast.excepthandler)): continue
        yield o
        yield from own_nodes(o)

# 0.0.1: 2.6 %. Of the definitions tried, this one gives that number, and none of the shorter lists of operations does
def long_statements(co):
    "Statements (no `def`, `class`, import or docstring) with ten or more operations: binary, boolean, unary, comparison, call, subscript"
    total,places = 0,[]
    for m in co.files:
        for o,scope in m.of(ast.stmt):
            if isinstance(o, (*_scopes,ast.Import,ast.ImportFrom)) or is_docstring(o): continue
            total += 1
            n = sum(isinstance(x, _operations) for x in own_nodes(o))
            if n>=10: places.append(m.place(o.lineno, scope, f'{n} operations'))
    return [Row('statements with ten or more operations', f'{share(len(places), total)} ({len(places)} of {total})', places)]

# 0.0.1: 5.0, and 1.17 with three or more calls
def tuple_assignments(co):
    "`a,b = x,y`, a tuple on both sides, per 100 lines that hold code; and those with so many calls on the right, counted at any depth"
    lines = sum(is_code(line) for m in co.files for line in m.lines)
    found = []
    for m in co.files:
        for o,scope in m.of(ast.Assign):
            if not (isinstance(o.targets[0], ast.Tuple) and isinstance(o.value, ast.Tuple)): continue
            n = sum(isinstance(x, ast.Call) for x in ast.walk(o.value))
            found.append((n, m.place(o.lineno, scope, f'{n} calls')))
    def row(label, least):
        places = [place for n,place in found if n>=least]
        return Row(label, f'{per_100(len(places), lines)} ({len(places)})', places)
    return [row('tuple assignments per 100 lines', 0), row('… with two or more calls on the right', 2),
        row('… with three or more calls on the right', 3)]

# 3, 4: who owns what

def decorator_names(node):
    "The name of each decorator of `node`, with its call if it is one: `{'patch': Call}`"
    res = {}
    for o in node.decorator_list:
        f = o.func if isinstance(o, ast.Call) else o
        res[ast.unparse(f).rpartition('.')[2]] = o
    return res

def first_arg(node):
    args = [*node.args.posonlyargs,*node.args.args]
    return args[0] if args else None

def arg_names(node): return {o.arg for o in ast.walk(node.args) if isinstance(o, ast.arg)}

def class_names(expr):
    "The names in an annotation: `A`, `A|B` or `(A,B)`, also with the module's name before them"
    quoted = {o.value for o in ast.walk(expr) if literal_text(o)}
    return quoted | {ast.unparse(o).rpartition('.')[2] for o in ast.walk(expr) if isinstance(o, (ast.Name,ast.Attribute))}

def patched_classes(node):
    "The classes that the function `node` is patched onto; none if it isn't"
    decs = decorator_names(node)
    arg = first_arg(node)
    if 'patch_to' in decs: return class_names(decs['patch_to'].args[0])
    if not decs.keys() & {'patch','patch_property'} or arg is None or arg.annotation is None: return set()
    return class_names(arg.annotation)

def is_property(node):
    decs = decorator_names(node)
    if decs.keys() & _properties: return True
    calls = [o for o in decs.values() if isinstance(o, ast.Call)]
    return any(k.arg=='as_prop' and getattr(k.value,'value',False) for o in calls for k in o.keywords)

def patches(co): return [Patch(m, o, cs) for m in co.modules.values() for o,_ in m.of(*_functions) if (cs:=patched_classes(o))]

def methods_in(co, cls):
    "Methods in the body of the class `cls`"
    return [(m,o) for m in co.modules.values() for o,scope in m.of(*_functions)
        if scope and isinstance(scope[-1], ast.ClassDef) and scope[-1].name==cls]

# 0.0.1: 38 of 61, those that are patched
def private_methods(co):
    "Methods called `_name` of `CollabLearner`: patched onto it from a module, or in the body of the class (there without `__name__`)"
    patched = [(p.module,p.node) for p in patches(co) if _learner in p.classes]
    inside = [(m,o) for m,o in methods_in(co, _learner) if not o.name.endswith('__')]
    def row(label, methods):
        places = [m.place(o.lineno, (o,)) for m,o in methods if is_private(o.name)]
        return Row(label, f'{len(places)} of {len(methods)}', places)
    return [row('private methods patched onto the learner', patched), row('… in the body of its class', inside)]

def targets(m):
    "Each attribute that the module `m` writes or deletes: `x.attr = …` in any statement, `setattr(x, …)`"
    for o,scope in m.of(ast.Attribute, ast.Call):
        if isinstance(o, ast.Attribute) and not isinstance(o.ctx, ast.Load): yield Write(m, scope, o, o.lineno)
        if not isinstance(o, ast.Call) or not o.args: continue
        if ast.unparse(o.func) in ('setattr','delattr','object.__setattr__'):
            name = o.args[1].value if len(o.args)>1 and isinstance(o.args[1], ast.Constant) else '?'
            yield Write(m, scope, ast.Attribute(o.args[0], str(name), ast.Store()), o.lineno)

def method_of(node, above):
    "The classes that the function `node`, defined in `above`, is a method of; none for a static one"
    if not isinstance(node, _functions) or 'staticmethod' in decorator_names(node): return set()
    return {above.name} if isinstance(above, ast.ClassDef) else patched_classes(node)

def writes_to(w):
    "The classes whose `self` the write `w` is to; none if it is to another object"
    name = getattr(w.target.value, 'id', None)
    around = zip(w.scope, (None,*w.scope))
    binders = [(o,above) for o,above in around if isinstance(o, _functions) and name in arg_names(o)]
    if not binders: return set()
    node,above = binders[-1]
    first = first_arg(node)
    return method_of(node, above) if first is not None and first.arg==name else set()

def is_own(w): return bool(writes_to(w) & w.module.classes)

def callbacks(co):
    "Names of the classes that descend from one called `…Callback`"
    bases = {o.name:set().union(*map(class_names, o.bases)) for m in co.modules.values() for o,_ in m.of(ast.ClassDef)}
    def descends(c, seen=()): return c.endswith('Callback') or any(descends(b, (*seen,c)) for b in bases.get(c,()) if b not in seen)
    return {c for c in bases if descends(c)}

def is_callback_write(w, cbs):
    "Is `w` a callback's write to its learner: `self.learn.x = …`?"
    around = set().union(*(method_of(o, above) for o,above in zip(w.scope, (None,*w.scope))))
    return bool(around & cbs) and ast.unparse(w.target).startswith('self.learn.')

def write_place(w): return w.module.place(w.line, w.scope, ast.unparse(w.target))

# 0.0.1: 57 and 8
def foreign_writes(co):
    "`x.attr = …` (also `+=`, in a tuple, `del`, `setattr`) where `x` is not the `self` of a class of the same module"
    cbs = callbacks(co)
    writes = [w for m in co.modules.values() for w in targets(m) if not is_own(w)]
    to_learner = [write_place(w) for w in writes if is_callback_write(w, cbs)]
    others = [write_place(w) for w in writes if not is_callback_write(w, cbs)]
    return [Row('attributes written outside their owner', str(len(others)), others),
        Row('… by a callback, to its learner', str(len(to_learner)), to_learner)]

# 0.0.1: none; the getters that wrote, `info()` and `_known_prior()`, were methods, and are found above
def writing_getters(co):
    "Properties (`@property`, `as_prop=True`) that write an attribute of any object"
    getters = [o for m in co.modules.values() for o,_ in m.of(*_functions) if is_property(o)]
    places = [write_place(w) for m in co.modules.values() for w in targets(m) if any(o in getters for o in w.scope)]
    return [Row('properties that write', f'{len(places)} of {len(getters)}', places)]

# 0.0.1: five, written by 13 functions
def learner_state(co):
    "Attributes that `CollabLearner.__init__` gives `self`, and the functions that write one: of `self`, `learn` or `self.learn`"
    writes = [w for m in co.modules.values() for w in targets(m)]
    def on_learner(w): return _learner in writes_to(w) or ast.unparse(w.target.value) in ('learn','self.learn')
    def in_init(w): return [o.name for o in w.scope[:2]]==[_learner,'__init__']
    state = {w.target.attr for w in writes if in_init(w) and on_learner(w)}
    writers = defaultdict(list)
    for w in writes:
        if on_learner(w) and w.target.attr in state: writers[(w.module.name,*(o.name for o in w.scope))].append(w)
    places = [write_place(w) for ws in writers.values() for w in ws]
    return [Row('attributes of the learner; functions that write them', f'{len(state)}; {len(writers)}', places)]

# 5: names

def literal_names(expr):
    "The strings of a list, of a sum of lists, or of `'a b'.split()`; None for anything else"
    try: return list(ast.literal_eval(expr))
    except (ValueError,TypeError): pass
    if isinstance(expr, ast.BinOp) and isinstance(expr.op, ast.Add):
        left = literal_names(expr.left)
        right = literal_names(expr.right)
        return None if left is None or right is None else left+right
    is_split = isinstance(expr, ast.Call) and isinstance(expr.func, ast.Attribute) and expr.func.attr=='split' and not expr.args
    text = literal_text(expr.func.value) if is_split else None
    return None if text is None else text.split()

def listed(m):
    "`__all__` of the module `m`, if it is written out"
    values = [o.value for o,_ in m.of(ast.Assign) if ast.unparse(o.targets[0])=='__all__']
    return literal_names(values[-1]) if values else None

def public_names(co):
    "What `from collab_ext import *` brings: the list in `__init__.py`, or what it imports from the modules"
    names = listed(co.init)
    if names is not None: return set(names)
    ours = [(o.module,a) for o,_ in co.init.of(ast.ImportFrom) if o.level for a in o.names]
    single = {a.asname or a.name for _,a in ours if a.name!='*'}
    return single.union(*(listed(co.modules[m]) or () for m,a in ours if a.name=='*' and m in co.modules))

def code_names(src):
    "The names in a piece of code; none if it isn't Python"
    try: tree = ast.parse(re.sub(r'(?m)^\s*[%!].*$', '', src))
    except SyntaxError: return set()
    imported = {a.name for o in ast.walk(tree) if isinstance(o, ast.ImportFrom) for a in o.names}
    return imported | {o.id for o in ast.walk(tree) if isinstance(o, ast.Name)}

def prose_names(text):
    "The names in the code of a markdown text: in its blocks, and between backticks"
    blocks = re.findall(r'(?s)```python\n(.*?)```', text)
    spans = re.findall(r'`([^`\n]+)`', re.sub(r'(?s)```.*?```', '', text))
    return set().union(*map(code_names, [*blocks,*spans]))

def page_names(page):
    names = [code_names(c.source) if c.cell_type=='code' else prose_names(c.source) for c in page.cells]
    return set().union(*names)

# 0.0.1: 151, of which 22 by a search for words, which takes `ndcg` in a string for the function; by names it is 19
def star_import(co):
    "Names in `import *`, and how many of them stand in code or between backticks in README.md, the notebooks 2x and that of the demo"
    names = public_names(co)
    pages = [p for p in co.pages if p.name.startswith('2') or p.module=='demo']
    used = names & prose_names(co.readme).union(*map(page_names, pages))
    places = [f"used: {', '.join(sorted(used))}", f"not used: {', '.join(sorted(names-used))}"]
    return [Row('names in `import *`; of these used in README, tutorials, demo', f'{len(names)}; {len(used)}', places)]

# 6: lessons

def directives(cell): return {re.split(r'[\s:]', o)[0] for o in re.findall(r'(?m)^#\|\s*(\S.*)$', cell.source)}

def cell_lines(cell): return sum(bool(o.strip()) and not o.startswith('#|') for o in cell.source.splitlines())

def first_definition(cell):
    "The first line that begins a function or a class; None in a cell that has nothing to show"
    found = re.search(r'(?m)^(async def|def|class)\b.*', cell.source)
    return found and found[0]

def has_lesson(cells):
    "Do `cells`, those after an exported one, have a visible cell before the next exported one?"
    for c in cells:
        dirs = directives(c)
        if dirs & _exports: return False
        if not dirs & {'hide','default_exp'}: return True
    return False

# 0.0.1: 44 % and 16.9 lines; cells of imports have nothing to teach and are left out of the share, as they seem to have been there
def lessons(co):
    "Exported cells with a function or class that a visible code cell follows before the next export; lines (not blank) of exported cells"
    sizes,taught,places = [],0,[]
    for page in co.pages:
        if page.module is None: continue
        for i,c in enumerate(page.code):
            if not directives(c) & _exports: continue
            sizes.append(cell_lines(c))
            if first_definition(c) is None: continue
            if has_lesson(page.code[i+1:]): taught += 1
            else: places.append(f'{page.name}.ipynb, cell {c.id}: {first_definition(c):.80}')
    total = taught+len(places)
    mean = f'{sum(sizes)/len(sizes):.1f}' if sizes else '–'
    return [Row('exported cells with a lesson', f'{share(taught, total)} ({taught} of {total})', places),
        Row('lines of an exported cell, mean', mean, [])]

# 7: arrows

def imported(co, m):
    "{module of the package: line} that `m` imports, anywhere in it"
    res = {}
    for o,_ in m.of(ast.ImportFrom, ast.Import):
        if isinstance(o, ast.Import): paths = [a.name for a in o.names]
        else:
            base = '.'.join(filter(None, ['collab_ext' if o.level else '', o.module]))
            paths = [base, *(f'{base}.{a.name}' for a in o.names)]
        for p in paths:
            name = re.fullmatch(r'collab_ext\.(\w+)', p)
            if name and name[1] in co.modules: res.setdefault(name[1], o.lineno)
    return res

def reachable(name, arrows):
    "The modules that the module `name` imports, directly or through others"
    seen,todo = set(),[name]
    while todo:
        new = set(arrows[todo.pop()])-seen
        seen |= new
        todo += new
    return seen

def upward_imports(co, arrows):
    "A module imports one whose notebook comes later"
    for k,m in co.modules.items():
        for name,line in arrows[k].items():
            theirs = co.modules[name].notebook
            if m.notebook and theirs and theirs>m.notebook: yield m.place(line, (), f'imports {name} ({theirs})')

def homes(co):
    "{method: its patch}, where the name tells the module: one module patches it, and no class, type of Python or learner of fastai has it"
    by_name = defaultdict(list)
    for p in patches(co): by_name[p.node.name].append(p)
    in_class = {o.name for m in co.modules.values() for o,scope in m.of(*_functions) if scope and isinstance(scope[-1], ast.ClassDef)}
    builtin = {o for t in (str,bytes,int,float,list,tuple,dict,set,Path) for o in dir(t)}
    common = in_class|builtin|_of_fastai
    return {k:ps[0] for k,ps in by_name.items() if len({p.module.name for p in ps})==1 and k not in common}

def root(expr):
    "The name that an expression like `a.b(c).d` begins with"
    while isinstance(expr, (ast.Attribute,ast.Call,ast.Subscript)): expr = expr.func if isinstance(expr, ast.Call) else expr.value
    return getattr(expr, 'id', None)

_others_have = {'to','as_pair'} # tensors have `to`, and sources asks any object whether it has `as_pair`: neither needs an import

def undeclared_calls(co, arrows):
    "A module calls a method that is patched by one that it imports neither directly nor through others"
    home = homes(co)
    for k,m in co.modules.items():
        near = reachable(k, arrows) | {k}
        called = {id(o.func) for o,_ in m.of(ast.Call)}
        aliases = {a.asname or a.name for o,_ in m.of(ast.Import) for a in o.names} | _foreign_modules
        for o,scope in m.of(ast.Attribute):
            p = home.get(o.attr)
            if p is None or o.attr in _others_have or p.module.name in near or not isinstance(o.ctx, ast.Load) or root(o) in aliases: continue
            if id(o) in called or is_private(o.attr) or is_property(p.node):
                yield m.place(o.lineno, scope, f'`{ast.unparse(o)}` is patched in {p.module.name}')

def arrows_between(co):
    "Imports of a module with a later notebook; calls of a method that only one module patches, which isn't imported, not even indirectly"
    arrows = {k:imported(co, m) for k,m in co.modules.items()}
    up = list(upward_imports(co, arrows))
    hidden = list(undeclared_calls(co, arrows))
    return [Row('imports that run upward', str(len(up)), up), Row('calls of what no import shows', str(len(hidden)), hidden)]

# 8: sizes

def body_lines(m, node):
    "Lines of code in the body of a function, its docstring left out"
    body = node.body[1:] if is_docstring(node.body[0]) else node.body
    return sum(map(is_code, m.lines[body[0].lineno-1:body[-1].end_lineno])) if body else 0

def code_widths(m):
    "(width, place) of each line of `m`; docstrings, which hold the prose of a page, are left out"
    prose = {i for o,_ in m.of(ast.Expr) if is_docstring(o) for i in range(o.lineno, o.end_lineno+1)}
    return [(len(line), f'{m.name}.py:{i}') for i,line in enumerate(m.lines, 1) if i not in prose]

def quantile(n, q): return str(n[math.ceil(q*len(n))-1]) if n else '–'

# 0.0.1: 3 / 10 / 31
def sizes(co):
    "Lines of code in the bodies of functions, nested ones too, without docstrings; the longest line that is no docstring"
    bodies = [(body_lines(m, o), m.place(o.lineno, (*scope,o))) for m in co.files for o,scope in m.of(*_functions)]
    widths = [o for m in co.files for o in code_widths(m)]
    bodies.sort()
    widths.sort()
    n = [k for k,_ in bodies]
    value = ' / '.join(quantile(n, q) for q in (.5,.9,1))
    longest = [f'{place}: {k} lines' for k,place in bodies[:-11:-1]]
    wide = [f'{place}: {k} columns' for k,place in widths[::-1] if k>140]
    widest = max((k for k,_ in widths), default=0)
    return [Row('lines of a function: median / p90 / longest', value, longest),
        Row('longest line; lines of more than 140 columns', f'{widest}; {len(wide)}', wide)]

measures = [long_statements,tuple_assignments,private_methods,learner_state,foreign_writes,writing_getters,star_import,lessons,
    arrows_between,sizes]

def measure(path):
    "All rows for the checkout at `path`, by measure"
    co = Checkout(path)
    return {f:f(co) for f in measures}

def table(columns):
    "A markdown table of `columns`, a dict of heading → rows by measure"
    values = {k:{r.label:r.value for rows in v.values() for r in rows} for k,v in columns.items()}
    labels = list(dict.fromkeys(o for v in values.values() for o in v))
    lines = [['', *columns], ['---']*(1+len(columns)), *([o, *(v.get(o,'–') for v in values.values())] for o in labels)]
    return '\n'.join(f"| {' | '.join(o)} |" for o in lines)

def places(columns):
    "The definition of each measure and the places behind its numbers, as markdown"
    res = []
    for f in measures:
        res += [f'\n## {f.__name__}', f'{f.__doc__}']
        for k,v in columns.items():
            for r in v[f]: res += [f'\n{r.label}, {k}: {r.value}', *(f'- {o}' for o in r.places)]
    return '\n'.join(res)

@call_parse
def main(
    path:str=None, # Root of the checkout to measure; this one by default
    before:str=None, # Root of another checkout, for a column before it
    details:bool=False, # Say what is measured, and list the places behind each number
):
    "Print a table of how the library is built"
    here = measure(path or Path(__file__).parents[1])
    columns = {'now':here} if before is None else {'before':measure(before), 'after':here}
    print(table(columns))
    if details: print(places(columns))
