"The numbers of tools/house.py, on small checkouts whose numbers are known"
import importlib.util,json,subprocess,sys
from pathlib import Path

import pytest

script = Path(__file__).parents[1]/'tools'/'house.py'
spec = importlib.util.spec_from_file_location('house', script)
house = importlib.util.module_from_spec(spec)
spec.loader.exec_module(house)

def notebook(*cells):
    cells = [c if isinstance(c, tuple) else ('code',c) for c in cells]
    cells = [dict(cell_type=k, id=f'c{i}', source=src, metadata={}) for i,(k,src) in enumerate(cells)]
    for c in cells:
        if c['cell_type']=='code': c.update(outputs=[], execution_count=None)
    return json.dumps(dict(cells=cells, metadata={}, nbformat=4, nbformat_minor=5))

@pytest.fixture
def checkout(tmp_path):
    "Make a checkout of modules and notebooks, given by name; measure it by one function"
    def make(measure, nbs=None, readme='', init='', **modules):
        package,pages = tmp_path/'collab_ext',tmp_path/'nbs'
        for o in (package,pages): o.mkdir(exist_ok=True)
        for k,v in dict(modules, __init__=init).items(): (package/f'{k}.py').write_text(v)
        for k,v in (nbs or {}).items(): (pages/f'{k}.ipynb').write_text(v)
        (tmp_path/'README.md').write_text(readme)
        return {r.label:r for r in measure(house.Checkout(tmp_path))}
    return make

def only(rows): return list(rows.values())[0]
def whats(row): return [o.partition(': ')[2] for o in row.places]

# --- lines

@pytest.mark.parametrize('src,n', [('a+b+c', 2), ('f(x)[0]', 2), ('-a if a<b and c else d', 3), ('x.y.z', 0), ('[f(o) for o in x]', 1)])
def test_operations(checkout, src, n):
    "A statement with nine more operations than `src` is long exactly if `src` has one or more"
    for k,long in ((10-n,True),(9-n,False)):
        row = only(checkout(house.long_statements, a=f"x = [{src}, {'-'*k}q]\n"))
        assert (row.value=='100.0 % (1 of 1)')==long, (src,k)

def test_statements_are_counted_alone(checkout):
    "What is inside a statement is another statement; definitions, imports and docstrings are none"
    many = '-'*6
    src = f'"doc"\nimport os\nclass A:\n    "doc"\n    def f(self):\n        if {many}q:\n            return {many}q\n'
    assert only(checkout(house.long_statements, a=src)).value=='0.0 % (0 of 2)'
    row = only(checkout(house.long_statements, a=src.replace('return -', 'return ----------')))
    assert row.value=='50.0 % (1 of 2)' and row.places[0].startswith('a.py:7 A.f: ')

def test_tuple_assignments(checkout):
    src = 'a,b = 1,2\na,b = f(1),2\na,b = f(1),g(2)\na,b = f(g(1)),h(2)\na,b = f(1)\nc = f(1),g(2)\n\n# a comment\n'
    src += 'x = 1\n'*4
    rows = checkout(house.tuple_assignments, a=src)
    assert [r.value for r in rows.values()]==['40.00 (4)', '20.00 (2)', '10.00 (1)']

# --- owners

learner = """class CollabLearner(Learner):
    def __init__(self): self.report,self.solver = None,None
    @property
    def vocab(self): return 1
    def _inside(self): pass
"""

def test_private_methods(checkout):
    other = """@patch
def solve(self:CollabLearner): pass
@patch
def _fit(self:CollabLearner, x): pass
@patch(as_prop=True)
def _rows(self:CollabLearner|Other): pass
@patch_to(CollabLearner)
def _also(self): pass
@patch
def _else(self:Bundle): pass
def _plain(self): pass
"""
    patched,inside = checkout(house.private_methods, a=learner, b=other).values()
    assert (patched.value,inside.value)==('3 of 4', '1 of 2')
    assert patched.places==['b.py:4 _fit', 'b.py:6 _rows', 'b.py:8 _also']

@pytest.mark.parametrize('line', ['self.x = 1', 'self.x += 1', 'self.x,y = 1,2', 'for self.x in y: pass', 'del self.x', 'self.x: int = 1',
    'with f() as self.x: pass', "setattr(self, 'x', 1)"])
def test_what_is_a_write(checkout, line):
    "Each way to write counts, unless the method is its class's own: in the body, or patched in the same module"
    cls = 'class A:\n    def f(self): pass\n'
    inside = cls.replace('pass', f'\n        {line}')
    patched = f'@patch\ndef g(self:A):\n    {line}\n'
    def n(**modules): return only(checkout(house.foreign_writes, **modules)).value
    assert n(a=inside, b='')=='0'
    assert n(a=cls+patched, b='')=='0'
    assert n(a=cls, b=patched)=='1'
    assert n(a=cls, b=patched.replace('@patch\n', ''))=='1'
    assert n(a=inside.replace('self.', 'self.other.').replace('(self,', '(self.other,'), b='')=='1'

def test_reads_are_no_writes(checkout):
    rows = checkout(house.foreign_writes, a="def f(x, y):\n    x.a.b[0] = y.c\n    x.f(1)\n    res = x.a\n    return res==y.c\n")
    assert only(rows).value=='0'

def test_whose_self_it_is(checkout):
    "A function within a method knows its `self`; one with a `self` of its own hides it; a static method has none"
    src = """class A:
    def f(self):
        def g(): self.x = 1
        def h(x, self): self.y = 1
        class B:
            def k(self): self.own = 1
    @staticmethod
    def s(self): self.z = 1
    @classmethod
    def c(cls): cls.n = 1
    def m(self, other, *, key): other.x,key.x = 1,2
def n(*, key): key.y = 1
"""
    assert whats(only(checkout(house.foreign_writes, a=src)))==['self.y', 'self.z', 'other.x', 'key.x', 'key.y']

def test_callbacks_write_to_their_learner(checkout):
    src = """class Mine(Callback):
    def before_batch(self):
        self.n = 1
        self.learn.xb = 2
        self.model.x = 3
class Yours(Mine):
    def after_batch(self): self.learn.recorder.y = 4
class Else:
    def f(self): self.learn.z = 5
"""
    others,to_learner = checkout(house.foreign_writes, a=src).values()
    assert (whats(others),whats(to_learner))==(['self.model.x', 'self.learn.z'], ['self.learn.xb', 'self.learn.recorder.y'])

def test_getters(checkout):
    src = """class A:
    @property
    def a(self):
        self.n = 1
        return 1
    @cached_property
    def b(self): return self.n
    def c(self): self.n = 2
@patch(as_prop=True)
def d(self:A): self.n = 3
@patch(as_prop=False)
def e(self:A): self.n = 4
"""
    row = only(checkout(house.writing_getters, a=src))
    assert row.value=='2 of 3' and [o.split(':')[1] for o in row.places]==['4 A.a', '10 d']

def test_learner_state(checkout):
    "Two attributes; written by the constructor, by a patch, by a function and by a callback; others' attributes of that name don't count"
    other = """@patch
def solve(self:CollabLearner):
    self.solver = 1
    self.solver = 2
    self.else_ = 3
def reset(learn): learn.report = 1
class C(Callback):
    def f(self):
        self.solver = 1
        self.learn.solver = 2
def g(x): x.report = 1
"""
    row = only(checkout(house.learner_state, a=learner, b=other))
    assert row.value=='2; 4' and len(row.places)==6

# --- names

mods = dict(a="__all__ = ['f', 'g']\n", b="__all__ = ['g', 'h', 'k']\n", c="__all__ = ['unused']\n")

@pytest.mark.parametrize('init,n', [('from .a import *\nfrom .b import *\n__all__ = [o for m in parts for o in m.__all__]\n', 4),
    ('from .a import *\nfrom .b import k\nfrom .b import h as i\nfrom os import path\n', 4), ("from .a import *\n__all__ = ['f']\n", 1),
    ("__all__ = ['f'] + 'g h'.split()\n", 3), ('', 0)])
def test_star_import(checkout, init, n): assert only(checkout(house.star_import, init=init, **mods)).value==f'{n}; 0'

def test_names_used(checkout):
    "In code and between backticks, in README, tutorials and demo; not as an attribute, a string or a word of prose, nor in other pages"
    init = "__all__ = 'f g h k m n'.split()\n"
    tutorial = notebook("%matplotlib inline\nf(1)\nx.g, 'h'", ('markdown', 'k and `m(3)`'))
    nbs = {'20_x': tutorial, '17_d': notebook('#| default_exp demo', 'n'), '01_x': notebook('k')}
    row = only(checkout(house.star_import, nbs, init=init, **mods))
    assert row.value=='6; 3' and row.places==['used: f, m, n', 'not used: g, h, k']
    readme = 'g, `h.x`\n```python\nfrom collab_ext import k\n```\n```sh\ng\n```\n'
    assert only(checkout(house.star_import, nbs, readme, init, **mods)).places[0]=='used: f, h, k, m, n'

# --- lessons

def test_lessons(checkout):
    f = '#| export\ndef f():\n\n    pass'
    cells = f, ('markdown', 'why'), 'f()', f, '#| hide\nf()', f, f, '#| hide\nf()', 'f()'
    page = notebook('#| default_exp a', '#| export\nimport os', *cells)
    taught,lines = checkout(house.lessons, {'00_a': page}).values()
    assert taught.value=='50.0 % (2 of 4)' and [o.split()[2].strip(':') for o in taught.places]==['c5', 'c7']
    assert lines.value=='1.8' # four of two lines, one of one

def test_pages_that_export_nothing(checkout):
    taught,lines = checkout(house.lessons, {'20_a': notebook('#| export\ndef f(): pass')}).values()
    assert (taught.value,lines.value)==('– (0 of 0)', '–')

# --- arrows

nbs = {f'{n}_{k}':notebook(f'#| default_exp {k}') for n,k in (('00','a'), ('00a','b'), ('01','c'))}

@pytest.mark.parametrize('line', ['from .c import *', 'from collab_ext.c import x', 'import collab_ext.c', 'from . import c',
    'from collab_ext import c', 'def f():\n    from .c import x'])
def test_upward_imports(checkout, line):
    up = only(checkout(house.arrows_between, nbs, a='', b=line, c='from .a import *\nfrom .b import *\nimport os.path\nfrom c import c\n'))
    assert up.value=='1' and whats(up)==['imports c (01_c)']

def test_calls_that_no_import_shows(checkout):
    patches = """@patch
def solve(self:L): pass
@patch
def _can(self:L): pass
@patch(as_prop=True)
def shape(self:L): pass
@patch
def twice(self:L): pass
@patch
def items(self:L): pass
@patch
def load(self:L): pass
@patch
def known(self:L): pass
"""
    calls = """class K:
    def known(self): pass
def f(x):
    x.solve(1)
    map(x._can, [])
    x.shape
    x.solve
    x.twice(), x.items(), x.load(), x.known()
    torch.solve()
"""
    other = 'from .a import *\n@patch\ndef twice(self:M): pass\n'
    def hidden(b): return checkout(house.arrows_between, a=patches, b=b, c=other)['calls of what no import shows']
    assert whats(hidden(calls))==[f'`x.{o}` is patched in a' for o in ('solve','_can','shape')]
    for line in ('from .a import *', 'from .c import *', 'def g():\n    import collab_ext.a'): assert hidden(f'{line}\n{calls}').value=='0'

# --- sizes

def test_sizes(checkout):
    bodies = [1]*5+[2]*3+[3,8]
    src = ''.join(f'def f{i}(x):\n    "Doc"\n    # why\n\n' + '    x = 1\n'*n for i,n in enumerate(bodies))
    src = f'"{200*"d"}"\n{src}{"x":<138} + 1\n{"x":<135} + 1\ndef stub(): "Only this"\n'
    functions,widest = checkout(house.sizes, a=src).values()
    assert functions.value=='1 / 3 / 8' and functions.places[0]=='a.py:52 f9: 8 lines'
    assert widest.value=='142; 1' and len(widest.places)==1

# --- the script

def run(*args): return subprocess.run([sys.executable, script, *map(str, args)], capture_output=True, text=True, check=True).stdout

def test_table(checkout, tmp_path):
    checkout(house.sizes, a='a,b = f(1),g(2)\n')
    assert '| … with two or more calls on the right | 100.00 (1) |' in run('--path', tmp_path)
    both = run('--before', tmp_path, '--details')
    assert both.startswith('|  | before | after |') and '- a.py:1 (module): 2 calls' in both
    assert all(f.__doc__ in both for f in house.measures)

def test_no_checkout(tmp_path):
    with pytest.raises(FileNotFoundError, match='root of a checkout'): house.measure(tmp_path)

def test_this_checkout():
    "Every measure finds something to measure in the library itself"
    rows = {r.label:r.value for rows in house.measure(script.parents[1]).values() for r in rows}
    assert not any('–' in v or 'of 0' in v for v in rows.values()), rows
