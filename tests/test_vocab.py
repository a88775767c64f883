from helpers import * # all of the package, and what the tests share
import functools,math,operator,os,pickle,random,subprocess

import numpy as np,pandas as pd,pytest,torch
from collections import OrderedDict,defaultdict
from fastai.data.transforms import CategoryMap
from fastcore.foundation import L
from functools import partial
from hypothesis import example,given,strategies as st
from pathlib import Path
from helpers import in_child,same

text = st.text(st.characters(exclude_categories=()), max_size=6) # surrogates too
label = st.one_of(st.integers(), st.floats(), text, st.binary(max_size=6), st.booleans(), st.none())
def key(o): return type(o),'nan' if o!=o else o
vocabs = st.lists(label, max_size=12, unique_by=key)

def naive_rows(old, new):
    "What `match_rows` has to find, the slow way"
    return [next((i for i,o in enumerate(old) if key(o)==key(n)), -1) for n in new]

def entry_of(tmp, obj, protocol=4):
    file = tmp/'v.pkl'
    file.write_bytes(obj if isinstance(obj, bytes) else pickle.dumps(obj, protocol))
    return read_vocab(file)

def alike(a, b): return list(map(key, a))==list(map(key, b))

# Matching
@given(vocabs)
def test_match_itself(v): assert match_rows(v, v).tolist()==list(range(len(v)))

@given(vocabs, vocabs, st.randoms(use_true_random=False))
def test_match_like_naive(old, new, rnd):
    new = new+[o for o in old if key(o) not in map(key, new)][::2]
    rnd.shuffle(new)
    assert match_rows(old, new).tolist()==naive_rows(old, new)

@pytest.mark.parametrize('a,b',
    [(1,'1'),(1,1.0),(1,True),(0,False),('',None),(b'a','a'),(math.nan,None),('nan',math.nan),('1','1.0'),('é','e\u0301')])
def test_types_stay_apart(a, b):
    assert match_rows([a], [b]).tolist()==[-1]
    assert match_rows([a,b], [b,a]).tolist()==[1,0]

def test_equal_zeros(): assert match_rows([0.0], [-0.0]).tolist()==[0]

@given(vocabs.filter(len), st.data())
def test_duplicates_are_refused(v, data):
    old = v+[data.draw(st.sampled_from(v))]
    with pytest.raises(ValueError, match='more than once'): match_rows(old, v)

@pytest.mark.parametrize('make', [tuple, np.array, pd.Series, pd.Index, L, lambda o: CategoryMap(o, sort=False), pd.Categorical])
def test_any_kind_of_list(make): assert match_rows(make(['b','a']), make(['a','b','c'])).tolist()==[1,0,-1]

@pytest.mark.parametrize('dtype', ['int8','int64','uint16','float32','float64','bool','str'])
def test_numpy_labels_are_plain(dtype):
    v = np.array([0,1]).astype(dtype)
    assert as_labels(list(v))==v.tolist() and match_rows(v, v.tolist()).tolist()==[0,1]

@pytest.mark.parametrize('bad', [(1,2), {1}, pd.Timestamp('2020'), 1j, [1]])
def test_other_labels_are_refused(bad):
    with pytest.raises(ValueError, match=type(bad).__name__): as_labels([bad])

def test_one_string_is_no_vocabulary():
    with pytest.raises(ValueError, match='list of labels'): as_labels('abc')

# Catalogues that name things differently
@given(vocabs, st.randoms(use_true_random=False))
def test_id_map_is_composition(old, rnd):
    back = {f'new{i}':o for i,o in enumerate(old) if o!=NA}
    new = rnd.sample(list(back), len(back))
    if not back: return
    want = match_rows(old, [back[o] for o in new]).tolist()
    assert match_rows(old, new, back).tolist()==want
    assert match_rows(old, new, pd.Series(back, dtype=object)).tolist()==want
    assert match_rows(old, new, back.get).tolist()==want

@given(vocabs)
def test_id_map_identity(v): assert alike([v[i] for i in match_rows(v, v, lambda o: o).tolist()], v)

def test_id_map_leaves_others_unmatched():
    assert match_rows([None,'a'], ['x','y'], dict(x='a')).tolist()==[1,-1] # not the row of None
    assert match_rows([NA,'a'], [NA,'x'], dict(x='a')).tolist()==[0,1]

def test_id_map_wrong_way_round():
    with pytest.raises(ValueError, match='its keys are the new labels'): match_rows(['a'], ['x'], dict(a='x'))

def test_type_mismatches():
    old,new = [NA,'1','2',3.0],[NA,1,2,3,9]
    assert type_mismatches(old, new, match_rows(old, new))==[(1,'1'),(2,'2'),(3,3.0)]
    assert match_rows(old, new, lambda o: str(o)).tolist()==[0,1,2,-1,-1]

# Coverage
@given(vocabs, vocabs, st.data())
def test_coverage_bounds(old, new, data):
    w = data.draw(st.lists(st.floats(0, 1e6), min_size=len(new), max_size=len(new)))
    assert 0<=coverage(old, new)<=1 and 0<=coverage(old, new, w)<=1+1e-6

@given(vocabs.filter(lambda v: any(o!=NA for o in v)))
def test_coverage_ends(v): assert coverage(v, v)==1 and coverage([], v)==0

def test_coverage_known():
    assert coverage([NA,'a','b'], [NA,'a','c'])==.5 # `#na#` does not count
    assert coverage(['a'], ['a','c'], [9,1])==pytest.approx(.9)
    assert coverage(['a'], [])==0

# Fingerprints
@given(vocabs, vocabs)
def test_fingerprint_tells_apart(a, b): assert (fingerprint(a)==fingerprint(b))==(list(map(repr,a))==list(map(repr,b)))

@given(vocabs.filter(lambda v: len(v)>1))
def test_fingerprint_order(v): assert fingerprint(v)!=fingerprint(v[::-1])

@pytest.mark.parametrize('a,b',
    [([1],['1']), ([1],[1.0]), ([1],[True]), ([b'a'],['a']), (["a'\n'b"],['a','b']), (['a','b'],['ab']), ([''],[])])
def test_fingerprint_types(a, b): assert fingerprint(a)!=fingerprint(b)

def test_fingerprint_sides(): assert len({fingerprint(*o) for o in ([['a'],['b']], [['a','b'],[]], [['a','b']], [['b'],['a']])})==4

def test_fingerprint_of_arrays(): assert fingerprint(np.array([1,2]))==fingerprint(pd.Series([1,2]))==fingerprint([1,2])

# Files
@given(vocabs, vocabs, st.integers(3,5))
@example([math.nan, None, 'nan', '\ud800', 'é', b'\xff', True, 1, 1.0, 2**80, -0.0], [NA], 0)
def test_vocab_round_trip(tmp_path_factory, users, items, protocol):
    res = entry_of(tmp_path_factory.getbasetemp(), vocab_entry(dict(u=users, i=items)), protocol)['vocab']
    assert alike(res['u'], users) and alike(res['i'], items)
    assert match_rows(res['u'], users).tolist()==list(range(len(users)))

@given(vocabs, vocabs)
def test_pair_round_trip(tmp_path_factory, users, items):
    stem = tmp_path_factory.getbasetemp()/'round'
    wgts = dict(zip(('u_weight.weight','i_weight.weight'), (torch.randn(len(o),2) for o in (users,items))))
    save_pair(stem, wgts, dict(u=users, i=items))
    res = read_pair(stem)
    assert alike(res.vocab['u'], users) and alike(res.vocab['i'], items)
    for o,v in zip(res.vocab.values(), (users,items)): assert match_rows(o, v).tolist()==list(range(len(v)))
    assert same({**res.wgts}, wgts)

@pytest.mark.parametrize('protocol', range(6))
@pytest.mark.parametrize('obj', [dict(u=[1,2], i=['a']), [[1,2],['a']], (['x'],L('a','b')), OrderedDict(u=[1], i=[None]),
    dict(u=np.array([1,2]).tolist(), i=[np.int64(3),np.float32(.5),np.str_('s')])])
def test_plain_vocabularies_read(tmp_path, obj, protocol):
    if protocol<2 and isinstance(obj, tuple): pytest.skip('L needs protocol 2')
    want = obj.values() if isinstance(obj, dict) else obj
    assert list(entry_of(tmp_path, obj, protocol)['vocab'].values())==[as_labels(o) for o in want]

def test_category_maps_read(tmp_path):
    obj = dict(userId=CategoryMap([3,1,2], add_na=True), title=CategoryMap(['b','a'], sort=False))
    assert entry_of(tmp_path, obj)['vocab']==dict(userId=[NA,1,2,3], title=['b','a'])

other_content = [None, 5, 'ab', [], [[1]], [1,2], dict(a=[1]), dict(a=1,b=2), dict(a='x',b='y'), [[1],[2],[3]], dict(u=[[1]],i=[2]),
    dict(u=[(1,)],i=[2]), b'', b'.', b'garbage', b'\x80\x04', b'\x80\x7f.', b'Px\n.', b'\x82\x01.', b']'*5000+b'a'*4999+b'.']

@pytest.mark.parametrize('obj', other_content, ids=lambda o: repr(o)[:20])
def test_other_files_are_refused(tmp_path, obj):
    with pytest.raises(ValueError, match='v.pkl'): entry_of(tmp_path, obj)

damages = [dict(version=2), dict(version=None), dict(vocab=None), dict(vocab=dict(u=[1])), dict(vocab=dict(u=[1],i=3)),
    dict(vocab=dict(u=[9],i=[2])), dict(vocab=dict(u=['1'],i=[2])), dict(vocab=dict(u=[[1]],i=[2])), dict(info=3), dict(fingerprint='x'),
    dict(previous=3), dict(previous=dict(vocab=3)), dict(weights=[1])]

@pytest.mark.parametrize('change', damages, ids=str)
def test_damaged_entries_are_refused(tmp_path, change):
    with pytest.raises(ValueError, match='v.pkl'): entry_of(tmp_path, {**vocab_entry(dict(u=[1], i=[2])), **change})

@pytest.mark.parametrize('field', ['version','vocab','fingerprint','info','weights','previous'])
def test_incomplete_entries_are_refused(tmp_path, field):
    e = vocab_entry(dict(u=[1], i=[2]))
    del e[field]
    with pytest.raises(ValueError, match='v.pkl'): entry_of(tmp_path, e)

# Files that would like to run code
class Call:
    "Pickles as a call of `f` with `args`"
    def __init__(self, f, *args, state=None): self.f,self.args,self.state = f,args,state
    def __reduce__(self): return (self.f, self.args) if self.state is None else (self.f, self.args, self.state)

def touch(f): return f'open({str(f)!r},"w")'

def bombs(f):
    "Objects that would make the file `f` when they are unpickled"
    sh = f'touch {f}'
    scalar = np.float64(0).__reduce__()[0]
    return dict( # name → object
        system=Call(os.system, sh), eval=Call(eval, touch(f)), exec=Call(exec, touch(f)),
        popen=Call(subprocess.Popen, ['touch',str(f)]), partial=Call(functools.partial(os.system, sh)), path=Call(Path.touch, f),
        open=Call(open, str(f), 'w'), getattr=Call(getattr, os, 'system'), attr=Call(operator.attrgetter('system'), os),
        methodcaller=Call(operator.methodcaller('touch'), f), load=Call(pickle.loads, pickle.dumps(Call(os.system, sh))),
        torch=Call(torch.load, str(f)), imp=Call(__import__, 'antigravity'), factory=defaultdict(functools.partial(os.system, sh)),
        state=Call(OrderedDict, state=Call(os.system, sh)), key={Call(os.system, sh):1}, item=L([Call(os.system, sh)]),
        scalar=Call(scalar, np.dtype('f8'), Call(os.system, sh)), dtype=Call(np.dtype, Call(eval, touch(f))),
        objects=Call(scalar, np.dtype('O'), Call(os.system, sh)), array=np.array([Call(os.system, sh)], dtype=object),
        runstring=Call(np.testing.runstring, touch(f), {}), struct=Call(scalar, np.dtype([('a','O')]), b'A'*8),
        code=CategoryMap([Call(os.system, sh)], sort=False))

names = list(bombs(Path('x')))

@pytest.mark.parametrize('protocol', range(6))
@pytest.mark.parametrize('name', names)
def test_bombs_stay_inert(tmp_path, name, protocol):
    f = tmp_path/'canary'
    bomb = bombs(f)[name]
    try: plain = pickle.dumps(bomb, protocol)
    except (pickle.PicklingError,TypeError): return
    as_label = pickle.dumps(dict(user=[NA,bomb], item=[1]), protocol)
    as_info = pickle.dumps({**vocab_entry(dict(u=[1],i=[2])), 'info':dict(a=bomb)}, protocol)
    for obj in (plain, as_label, as_info):
        with pytest.raises(ValueError, match='v.pkl'): entry_of(tmp_path, obj)
        assert not f.exists()

def short(s): return b'\x8c'+bytes([len(s)])+s
sh = b"S'touch CANARY'\n"
opcodes = dict( # name → a pickle written by hand
    reduce=b'cos\nsystem\n('+sh+b'tR.', inst=b'('+sh+b'ios\nsystem\n.', obj=b'(cos\nsystem\n'+sh+b'o.',
    newobj=b'\x80\x02cos\nsystem\n'+sh+b'\x85\x81.', newobj_ex=b'\x80\x04cos\nsystem\n'+sh+b'\x85}\x92.',
    stack_global=b'\x80\x04'+short(b'os')+short(b'system')+b'\x93'+sh+b'\x85R.',
    dotted=b'\x80\x04'+short(b'builtins')+short(b'int.__class__')+b'\x93.',
    deep=b'\x80\x04'+short(b'fastcore.foundation')+short(b'L.map')+b'\x93.',
    globals=b'\x80\x04'+short(b'_codecs')+short(b'encode.__globals__')+b'\x93.', posix=b'cposix\nsystem\n('+sh+b'tR.',
    nt=b'cnt\nsystem\n('+sh+b'tR.', py2=b'c__builtin__\neval\n('+sh+b'tR.',
    build=b'cfastcore.foundation\nL\n)\x81}S"items"\ncos\nsystem\n('+sh+b'tRsb.', after_stop=b'].cos\nsystem\n('+sh+b'tR.',
    memo=b'cos\nsystem\np0\n0g0\n('+sh+b'tR.', dup=b'cos\nsystem\n2('+sh+b'tR.')

@pytest.mark.parametrize('name', opcodes)
def test_opcodes_stay_inert(tmp_path, name):
    f = tmp_path/'canary'
    with pytest.raises(ValueError, match='v.pkl'): entry_of(tmp_path, opcodes[name].replace(b'CANARY', str(f).encode()))
    assert not f.exists()

def test_canary_works(tmp_path): # so that the tests above mean something
    f = tmp_path/'canary'
    pickle.loads(opcodes['reduce'].replace(b'CANARY', str(f).encode()))
    assert f.exists()

def test_reading_changes_nothing_for_the_next_file(tmp_path):
    "A file can't leave its marks on what the reader uses"
    text = b'c_codecs\nencode\n(V\xe9\nV%s\ntR.'
    file = tmp_path/'v.pkl'
    targets = [b'c_codecs\nencode\n', b'cfastcore.foundation\nL\n', b'ccollections\nOrderedDict\n', b'cnumpy\ndtype\n']
    for target in (*targets, b"cnumpy\ndtype\n(S'i2'\ntR"):
        for state in (b'(N}S"__defaults__"\n(S"latin1"\ntst', b'}S"items"\n]s', b'(N}S"items"\n]st', b"(I3\nS'>'\nNNNI-1\nI-1\nI0\nt"):
            file.write_bytes(target+state+b'b.')
            with pytest.raises(ValueError): read_plain(file)
    file.write_bytes(b'c_codecs\nencode\n(Vx\ntR.')
    with pytest.raises(ValueError): read_plain(file) # would take the encoding from the defaults
    assert np.dtype('i2').isnative
    assert entry_of(tmp_path, [L('a'),L('b')])['vocab']==dict(user=['a'], item=['b'])

def test_small_file_small_memory(tmp_path):
    "Twelve bytes must not ask for a quarter of a gigabyte"
    file = tmp_path/'v.pkl'
    file.write_bytes(b'\x80\x04]r\xff\xff\xff\x00.')
    peak = lambda: int(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])
    def read():
        Path('/proc/self/clear_refs').write_text('5') # peak = now
        before = peak()
        try: read_plain(file)
        except ValueError: pass
        assert peak()-before < 100_000 # kB
    in_child(read)

# Translations
links = pd.DataFrame(dict(movieId=[1,2,3,4], tmdb=[11,12,None,14])) # as people have them: a missing id makes floats of the others

@pytest.mark.parametrize('id_map', [links, links.set_index('movieId').tmdb, {1:11, 2:12, 4:14}, {1:11, 2:12, 4:14}.get,
    links.astype(dict(tmdb='Int64')), pd.concat([links]*2)])
def test_forms_of_a_translation(id_map):
    assert match_rows([NA,14,12,11], [NA,1,2,3,4], id_map).tolist()==[0,3,2,-1,1]
    m = match_embeds({'i_weight.weight':torch.arange(8.).view(4,2)}, dict(u=[NA], i=[NA,14,12,11]), dict(u=[NA], i=[NA,1,2,3,4]), id_map=dict(i=id_map))
    assert m.items_missing==1 and m['i_weight.weight'][1].tolist()==[6,7]

@pytest.mark.parametrize('id_map', [pd.DataFrame([[1,11],[1,12]]), pd.Series([11,12], index=[1,1]), pd.DataFrame([['1','a'],['1','b']])])
def test_one_label_has_one_translation(id_map):
    with pytest.raises(ValueError, match='translates the new label .* to .* and to .*: keep one'): match_rows([11,12], [1], id_map)

@pytest.mark.parametrize('id_map', [3, 'm', [1,2], links.assign(more=1), links[['tmdb']], np.zeros((2,2))])
def test_what_is_no_translation(id_map):
    with pytest.raises(ValueError, match='frame of two columns'): match_rows([11], [1], id_map)
    with pytest.raises(ValueError, match="`id_map` is a dict"): Matches(dict(u=[1],i=[11]), dict(u=[1],i=[1]), id_map if not isinstance(id_map, dict) else 3)

def test_a_frame_the_wrong_way_round():
    with pytest.raises(ValueError, match='its keys are the new labels, its values the old ones'): match_rows([11], [1], links[['tmdb','movieId']])

@pytest.mark.parametrize('own,asked,said', [([1,2],['2'],"'2' is of another type than the label 2"), (['1','2'],[2],"2 is of another type than the label '2'"),
    ([1.,2.],[2],"2 is of another type than the label 2.0"), ([1,2],[2.],"2.0 is of another type than the label 2"), ([1,2],['3'],''), (['a'],['b'],''),
    ([1,2],[True],''), ([1],[float('nan')],''), ([1],[float('inf')],''), ([1],[10**400],''), ([1],['9'*5000],''), ([1],[None],''), (['1'],[1.],"1.0 is of another type")])
def test_type_hint(own, asked, said):
    res = type_hint(Vocab(dict(u=[NA,*own], i=[NA])), asked, 0)
    assert said in res if said else res==''

def test_nested_references_end(tmp_path):
    "Lists of twice the same list of twice the same list, 60 deep: 200 bytes that mean 2**60 items"
    level = lambda i: b']q'+bytes([i+1])+b'(h'+bytes([i])+b'h'+bytes([i])+b'e'
    file = tmp_path/'v.pkl'
    file.write_bytes(b'\x80\x04]q\x00'+b''.join(map(level, range(60)))+b'.')
    def read():
        import signal
        signal.alarm(5)
        with pytest.raises(ValueError): read_vocab(file)
    assert in_child(read)==0

# Damage
def damage(b, rnd):
    "`b` with a few random changes"
    b = bytearray(b)
    for _ in range(rnd.choice((1,1,1,2,5))):
        i,n = rnd.randrange(len(b)),rnd.randrange(1,9)
        how = rnd.randrange(6)
        if how==0: b[i] = rnd.randrange(256)
        elif how==1: b[i] ^= 1<<rnd.randrange(8)
        elif how==2: b = b[:max(i,1)]
        elif how==3: b[i:i+n] = rnd.randbytes(n)
        elif how==4: b[i:i+n] = b''
        else: b[i:i] = b[n:2*n]
        b = b or bytearray(b'.')
    return bytes(b)

def survive(good, read, file, n, errors=ValueError):
    "Each damaged version of `good` reads like the good one, or raises `errors`"
    file.write_bytes(good)
    want,rnd = read(),random.Random(42)
    def wrong(b):
        file.write_bytes(b)
        try: res = read()
        except errors: return
        except BaseException as e: return f'{type(e).__name__}: {e!s:.80} from {b!r}'
        return None if same(res, want) else f'{res} from {b!r}'
    def all_right():
        bad = [o for _ in range(n) if (o:=wrong(damage(good, rnd)))]
        assert not bad, f'{len(bad)} of {n}:\n' + '\n'.join(bad[:10])
    assert in_child(all_right, memory=2**28)==0

@pytest.mark.parametrize('protocol', [0,4])
def test_damaged_vocabulary(tmp_path, protocol):
    vocab = dict(user=[NA,1,2.5,'é',None,b'x',True], item=[NA,'a','b'])
    make = partial(vocab_entry, vocab, 'f'*32, dict(counts=dict(user=[0,3,2,1,1,1,1])))
    e = make(previous=make())
    file = tmp_path/'v.pkl'
    survive(pickle.dumps(e, protocol), lambda: read_vocab(file), file, 1500)

@pytest.mark.parametrize('legacy', [False,True], ids=['zip','legacy'])
def test_damaged_weights(tmp_path, legacy):
    pth,pkl = pair_paths(tmp_path/'w')
    state = {'u_weight.weight':torch.randn(4,2), 'i_weight.weight':torch.randn(3,2), 'u_bias.weight':torch.randn(4,1)}
    save_pair(tmp_path/'w', state, dict(u=list('abcd'), i=[1,2,3]), opt=dict(state=[dict(step=1)], hypers=[dict(lr=.1)]))
    if legacy: torch.save(torch.load(pth, weights_only=True), pth, _use_new_zipfile_serialization=False)
    def read():
        p = read_pair(tmp_path/'w')
        return dict(p.wgts),dict(p.vocab)
    survive(pth.read_bytes(), read, pth, 1000, (ValueError,MemoryError))

def test_padding_of_text_vocabularies():
    "fastai's text vocabularies end in several 'xxfake', which name nothing"
    tokens = ['xxunk','xxpad','good','bad','xxfake','xxfake','xxfake']
    assert match_rows(tokens, ['bad','good','new']).tolist()==[3,2,-1]
    with pytest.raises(ValueError, match="'good' is in the vocabulary more than once"): match_rows([*tokens,'good'], ['good'])
