"""A campaign on files: damage, hostile content, bombs, kills, readers beside writers

Small by default; `FULL=1 pytest -s tests/test_hostile.py` tries 20,000 flips and cuts, 1,500 hostile contents, every bomb, 400 kills and
20,000 reads beside two writers."""
from helpers import * # all of the package, and what the tests share
import io,itertools,json,os,pickle,random,shutil,signal,struct,time,warnings,zipfile
import numpy as np,pandas as pd,pytest,torch
from collections import Counter,OrderedDict
from copy import deepcopy
from pathlib import Path
from safetensors.numpy import save as to_safetensors
from collab_ext import bundle,files
from collab_ext.bundle import Bundle,write_bundle
from collab_ext.export import *
from helpers import fit,learner,loaders,same,weights

pytest.importorskip('pyarrow')

def size(small, large): return large if full else small

def said(what, n, outcome): print(f'\n{n} {what}: {dict(outcome)}') # what `-s` shows

# ---- Pairs and bundles with a number, whose parts all say it ----

def save(stem, i):
    state = {'u_weight.weight':torch.full((4,3), float(i)), 'i_weight.weight':torch.full((5,3), float(i)), 'mean':torch.tensor(float(i))}
    vocab = dict(user=[NA]+[f'u{i}.{j}' for j in range(3)], item=[NA]+[f'i{i}.{j}' for j in range(4)])
    info = dict(n=i, counts=dict(user=[0,2,2,2], item=[0,2,2,1,1]), y_range=[1.,5.], scale=[3.,1.])
    return save_pair(stem, state, vocab, dict(state=[dict(sqr_avg=torch.full((4,3), float(i)), step=i)], hypers=[dict(lr=float(i))]), info)

def pair_number(stem):
    "The number of the pair `stem`; fails if its parts disagree"
    p = read_pair(stem)
    said = {float(x) for w in p.wgts.values() for x in w.flatten()} | {float(o[1:].split('.')[0]) for v in p.vocab.values() for o in v[1:]}
    said |= {float(p.info['n']), float(p.opt['hypers'][0]['lr']), float(p.opt['state'][0]['step'])} | set(p.opt['state'][0]['sqr_avg'].flatten().tolist())
    assert len(said)==1, p
    return int(said.pop())

def tables_of(i, n_u=6, n_i=8):
    full_of = lambda *shape: np.full(shape, i, np.float32)
    return dict(u_weight=full_of(n_u,3), i_weight=full_of(n_i,3), u_bias=full_of(n_u), i_bias=full_of(n_i), u_any=full_of(4),
        seen=np.array([0,1]), seen_start=np.array([0,2]+[2]*(n_u-1)))

def export(folder, i):
    users,items = pd.DataFrame(dict(user=[f'u{i}.{j}' for j in range(6)])),pd.DataFrame(dict(item=[f'i{i}.{j}' for j in range(8)]))
    return write_bundle(folder, tables_of(i), users, items, dict(mean=float(i), y_range=None))

def bundle_number(folder):
    "The number of the bundle in `folder`; fails if its parts disagree"
    b = Bundle(folder)
    said = {int(x) for k,v in b.tables.items() if 'seen' not in k for x in np.unique(v)} | {int(b.info['mean'])}
    said |= {int(o[1:].split('.')[0]) for df in (b.users,b.items) for o in df.iloc[:,0]}
    assert len(said)==1 and len(b.recommend(b.users.iloc[0,0], 3))==3, said
    return said.pop()

kinds = dict(pair=(save, pair_number, lambda d: d/'m'), bundle=(export, bundle_number, lambda d: d/'b'))

def said_why(e, folder):
    "Is `e` the one kind of error that a damaged file is to raise, with the name of what is damaged?"
    return type(e) in (ValueError,FileNotFoundError) and str(folder) in str(e)

# ---- Flipped and cut bytes ----

def damaged(data, rnd):
    "`data` with a few bits flipped, a piece missing, or the end"
    res = bytearray(data)
    way = rnd.random()
    if way<.6:
        for _ in range(rnd.choice([1,1,1,2,8])): res[rnd.randrange(len(res))] ^= 1<<rnd.randrange(8)
    elif way<.8: del res[rnd.randrange(len(res)):]
    else:
        a = rnd.randrange(len(res))
        del res[a:a+rnd.randrange(1, 64)]
    return bytes(res)

@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('kind', kinds)
def test_flipped_and_cut_bytes(tmp_path, kind):
    "Whatever is read is what was written, and everything else is one kind of error"
    write,number,place = kinds[kind]
    write(place(tmp_path), 7)
    paths = [o for o in sorted(tmp_path.rglob('*')) if o.is_file() and '.lock' not in o.name]
    rnd,outcome = random.Random(0),Counter()
    for n in range(size(300, 10_000)):
        f = paths[n%len(paths)]
        data = f.read_bytes()
        f.write_bytes(damaged(data, rnd))
        try: outcome['read' if number(place(tmp_path))==7 else 'other']+=1
        except Exception as e:
            if isinstance(e, AssertionError) or not said_why(e, tmp_path): raise AssertionError(f'{f.name}, damage {n}') from e
            outcome['refused'] += 1
        f.write_bytes(data)
    assert not outcome['other'] and outcome['refused']>outcome['read']
    said(f'flipped or cut bytes, {kind}', sum(outcome.values()), outcome)

# ---- Hostile content under right checksums ----

odd = [None, True, -1, 0, 2**70, -2**31, 1.5, math.nan, math.inf, -1e300, '', 'x', 'é\0', b'x', [], {}, (), [[]], [1,'a'], {'a':1}, ['x']*3, [[1.,2.],[3.]],
    [math.nan]*2, [1,5,9], [5,1], ['1','5'], list(range(100)), {'user':[1]}, {1:2}, [None], [True,1], (1,1)]

def spots(o, path=()):
    "Paths to all values in nested dicts and lists"
    yield path
    items = o.items() if isinstance(o, dict) else enumerate(o) if isinstance(o, list) else ()
    for k,v in items: yield from spots(v, (*path,k))

def put(o, path, value):
    "`o` with `value` at `path`"
    if not path: return value
    res = copy(o)
    res[path[0]] = put(o[path[0]], path[1:], value)
    return res

def dropped(o, path):
    "`o` without what is at `path`"
    if not path: return None
    res = copy(o)
    if len(path)>1: res[path[0]] = dropped(o[path[0]], path[1:])
    else: del res[path[0]]
    return res

def resum(e):
    "An entry with the checksums that belong to it"
    e = dict(e)
    try: e['fingerprint'] = files.fingerprint(*e['vocab'].values())
    except Exception: pass
    e['check'] = files._checksum(e)
    return e

def spoiled(o, rnd):
    "`o` with something else at one or two places"
    for _ in range(rnd.choice([1,1,2])):
        path = rnd.choice(list(spots(o)))
        if path: o = dropped(o, path) if rnd.random()<.15 else put(o, path, rnd.choice(odd))
    return o

odd_tensors = [torch.zeros(0), torch.tensor(1.), torch.zeros(4,3,1), torch.zeros(5,7), torch.full((4,3), math.nan), torch.zeros(4,3,dtype=torch.int64),
    torch.zeros(4,3,dtype=torch.bool), torch.zeros(4,3).half(), torch.zeros(1,3).expand(4,3), torch.zeros(9,3), torch.full((4,3), 1e38), torch.zeros(4,0)]

def hostile_pair(stem, pair, rnd):
    "A pair with odd content, under right checksums"
    entry = read_vocab(pair_paths(stem)[1])
    state,opt = OrderedDict(pair.wgts),deepcopy(pair.opt)
    which = rnd.choice(['entry','entry','info','state','opt','metadata'])
    if which=='state':
        k = rnd.choice(list(state))
        if rnd.random()<.2: state.pop(k)
        else: state[rnd.choice([k,k,'new.weight'])] = rnd.choice(odd_tensors)
    if which=='opt':
        if rnd.random()<.5: opt = spoiled(opt, rnd)
        else: opt['state'][0] = {rnd.choice(['sqr_avg','grad_avg','x']):rnd.choice(odd_tensors)}
    if which=='info': entry = dict(entry, info=spoiled(entry['info'], rnd))
    mark = weights_fingerprint(state)
    entry['weights'] = mark
    if which=='entry': entry = spoiled(entry, rnd)
    if isinstance(entry, dict): entry = resum(entry)
    stamp = dict(vocab=entry['fingerprint'], weights=mark) if isinstance(entry, dict) and 'fingerprint' in entry else {}
    try: stamp['opt'] = files._opt_fingerprint(opt)
    except Exception: pass
    if which=='metadata': stamp = spoiled(dict(collab_ext=stamp), rnd)
    state._metadata = stamp if which=='metadata' else OrderedDict(collab_ext=stamp)
    torch.save(dict(model=state, opt=opt), pair_paths(stem)[0])
    pair_paths(stem)[1].write_bytes(pickle.dumps(entry))
    return which

def opt_state(learn): return list(learn.opt.state_dict()['state']) if learn.opt else []

@pytest.mark.filterwarnings('ignore')
def test_hostile_pairs(tmp_path):
    "A file is refused in one kind of error that names it, or loaded into a learner that goes on working; refused, it changes nothing"
    df = simulate_ratings(6, 5, 14).ratings
    learn = learner(loaders(df), tmp_path)
    with learn.no_bar(),learn.no_logging(): learn.solve(1)
    fit(learn)
    learn.save('m')
    stem = tmp_path/'models/m'
    pair,good = read_pair(stem),[o.read_bytes() for o in pair_paths(stem)]
    rnd,outcome = random.Random(1),Counter()
    ways = dict(load=lambda: learn.load('m'), transfer_from=lambda: learn.transfer_from('m', fill='mean'), load_vocab=lambda: learn.load_vocab('m.pth','m_vocab.pkl'))
    for n in range(size(80, 1000)):
        which = hostile_pair(stem, pair, rnd)
        before = weights(learn),deepcopy(opt_state(learn)),learn.transfer,learn.solver
        way = rnd.choice(list(ways))
        try:
            ways[way]()
            outcome[way,'loaded'] += 1
        except Exception as e:
            named = type(e) in (ValueError,FileNotFoundError,KeyError) and len(str(e))>20
            if not named: raise AssertionError(f'{way}, {which}, {n}') from e
            after = weights(learn),opt_state(learn),learn.transfer,learn.solver
            assert same(before[0], after[0]) and same(before[1], after[1]) and before[2:]==after[2:], (way,which,n)
            outcome[way,'refused'] += 1
        for f,data in zip(pair_paths(stem), good): f.write_bytes(data)
        if not n%20:
            learn.load('m')
            learn.recommend(learn.vocab['user'][1], 3)
    assert sum(v for (_,o),v in outcome.items() if o=='refused')>.3*sum(outcome.values())
    said('hostile pairs', sum(outcome.values()), outcome)

odd_arrays = [np.zeros(0,np.float32), np.zeros((6,3,1),np.float32), np.zeros((5,3),np.float32), np.full((6,3),np.nan,np.float32), np.zeros((6,3),np.int64),
    np.array([0,9]), np.array([0,-1]), np.array([3,2,1,0,0,0,0]), np.zeros((6,3),bool), np.float32(1).reshape(()),
    np.array([2**62]*7), np.zeros((6,0),np.float32)]
odd_frames = [pd.DataFrame(), pd.DataFrame(dict(a=[1])), pd.DataFrame(dict(user=['a']*6)), pd.DataFrame(dict(user=[[1]]*6)), pd.DataFrame(dict(user=[None]*6)),
    pd.DataFrame(dict(a=range(6),b=pd.Categorical(list('xyzxyz')))), pd.DataFrame(dict(a=pd.date_range('2020',periods=6))), pd.DataFrame(dict(a=[{'x':1}]*6))]

def hostile_bundle(folder, rnd):
    "A bundle with odd content, under right checksums"
    tables = tables_of(7)
    frames = dict(users=pd.DataFrame(dict(user=range(6))), items=pd.DataFrame(dict(item=range(8))))
    info = dict(mean=3., y_range=[1.,5.])
    which = rnd.choice(['table','frame','info','info','names'])
    if which=='table':
        k = rnd.choice(list(tables))
        if rnd.random()<.2: tables.pop(k)
        else: tables[rnd.choice([k,k,'new'])] = rnd.choice(odd_arrays)
    if which=='frame': frames[rnd.choice(list(frames))] = rnd.choice(odd_frames)
    if which=='info': info = spoiled(dict(info, kind='x') if rnd.random()<.3 else info, rnd)
    contents = bundle._contents(tables, frames['users'], frames['items'])
    if not isinstance(info, dict): info = {}
    info = dict(info, version=rnd.choice([1,2,2,2]), sha256={k:bundle._sha256(v) for k,v in contents.items()})
    if which=='names': info['sha256'] = spoiled(info['sha256'], rnd)
    if rnd.random()<.1: info = spoiled(info, rnd)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for k,v in contents.items(): (folder/k).write_bytes(v)
    text = lambda o: json.dumps(o, indent=1, default=repr)
    try: info = dict(info, check=bundle._check_of(json.loads(text(info))))
    except (TypeError,ValueError): pass
    (folder/'bundle.json').write_text(text(info))
    return which

@pytest.mark.filterwarnings('ignore')
def test_hostile_bundles(tmp_path):
    rnd,outcome,folder = random.Random(2),Counter(),tmp_path/'b'
    n_tried = size(80, 500)
    for n in itertools.count():
        if sum(outcome.values())==n_tried: break
        try: which = hostile_bundle(folder, rnd)
        except Exception: continue # what can't be written down is not tried
        try:
            b = Bundle(folder)
            for u in (b.users.iloc[0,0],'nobody'): b.recommend([u], 3)
            b.similar_items(b.items.iloc[0,0], 3)
            outcome['read'] += 1
        except Exception as e:
            if not (type(e) in (ValueError,FileNotFoundError) and len(str(e))>20): raise AssertionError(f'{which}, {n}') from e
            outcome['refused'] += 1
    assert outcome['refused']>.3*n_tried
    said('hostile bundles', n_tried, outcome)

# ---- Bombs: small files that would cost gigabytes, or for ever ----

def frame_of(op, n): return op+struct.pack('<Q', n)

def references(width=60, depth=10, leaf=b'K\x01'):
    "A list of references to lists of references"
    res = b'\x80\x04]\x94('+leaf*width+b'e'
    for i in range(depth): res += b'0]\x94('+b'h'+bytes([i])+(b'h'+bytes([i]))*(width-1)+b'e'
    return res+b'.'

def void_scalar(n): return (b'\x80\x02cnumpy._core.multiarray\nscalar\ncnumpy\ndtype\nX'+struct.pack('<I', len(n))+n+b'\x89\x88\x87R\x85R.')

pickle_bombs = dict(bytearray8=b'\x80\x05'+frame_of(b'\x96', 2**33)+b'.', bytes8=b'\x80\x04'+frame_of(b'\x8e', 2**33)+b'.',
    unicode8=b'\x80\x04'+frame_of(b'\x8d', 2**33)+b'.', frame=b'\x80\x04'+frame_of(b'\x95', 2**33)+b'.', long4=b'\x80\x02\x8b'+struct.pack('<i', 2**31-1)+b'.',
    longbinput=b'\x80\x02K\x01r\xff\xff\xff\xff.', void=void_scalar(b'V4000000000'), text_scalar=void_scalar(b'U999999999'),
    references=references(), deep=b'\x80\x04'+b']'*3_000_000+b'a'*2_999_999+b'.', lists=b'\x80\x04('+b']'*2_000_000+b'l.', dicts=b'\x80\x04('+b'}'*2_000_000+b'l.',
    marks=b'\x80\x04'+b'('*2_000_000+b'.', tuples=b'\x80\x04)'+b'\x85'*2_000_000+b'.', dups=b'\x80\x04]'+b'2'*2_000_000+b'.',
    long_text=b'\x80\x04]\x94(X'+struct.pack('<I', 10**6)+b'a'*10**6+b'\x94'+b'h\x01'*100_000+b'e.',
    big_number=b'I'+b'9'*4000+b'\n.', many_numbers=b'\x80\x04]('+b'\x8a\xff'+b'\x7f'*255+b'e.', encode=b'\x80\x02c_codecs\nencode\nq\0X'+struct.pack('<I', 10**6)+b'a'*10**6+
    b'q\1X\6\0\0\0latin1q\2'+b'0]('+b'h\0h\1h\2\x86R'*3000+b'e.', set_bomb=b'\x80\x04\x8f('+b'K\x01'*100+b'\x90.',
    numbers=b'\x80\x04]('+b''.join(b'M'+struct.pack('<H', 256+n%60_000) for n in range(3_000_000))+b'e.')

def torch_zip(content, storages={}, method=zipfile.ZIP_STORED, twice=0):
    "A file as torch writes it, around the pickle `content`"
    f = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(f, 'w', method) as z:
        warnings.simplefilter('ignore')
        for k,v in {'data.pkl':content, 'byteorder':b'little', 'version':b'3\n', **{f'data/{k}':v for k,v in storages.items()}}.items(): z.writestr(f'a/{k}', v)
        for n in range(twice): z.writestr(f'a/x{n}', b'')
    return f.getvalue()

def tensor_pickle(n, size, stride, times=1, offset=0, key='0'):
    "The pickle of a state dict with tensors over a storage of `n` numbers"
    def number(o): return b'\x8a'+bytes([9])+o.to_bytes(9,'little',signed=True)
    def group(o): return b'('+b''.join(map(number, o))+b't'
    text = lambda o: b'X'+struct.pack('<I', len(o))+o
    storage = b'('+text(b'storage')+b'ctorch\nFloatStorage\n'+text(key.encode())+text(b'cpu')+number(n)+b'tQ'
    tensor = b'ctorch._utils\n_rebuild_tensor_v2\n('+storage+number(offset)+group(size)+group(stride)+b'\x89ccollections\nOrderedDict\n)RtR'
    items = b''.join(text(f'{"u_weight.weight" if not i else f"w{i}"}'.encode())+tensor for i in range(times))
    return b'\x80\x02}('+items+b'u.'

numbers = np.arange(100, dtype=np.float32).tobytes()
huge = 2**33
one_storage = {'0':numbers}
legacy_start = b''.join(pickle.dumps(o, 2) for o in (0x1950a86a20f9469cfc6c, 1001, dict(little_endian=True)))
packed_pickle = b'\x80\x04]('+b'N'*10**8+b'e.'
many_references = b'\x80\x02}(X\5\0\0\0model}X\3\0\0\0opt}K\0'+references()[2:-1]+b'su.'
tensor_bombs = {}
tensor_bombs['stride0'] = torch_zip(tensor_pickle(100, (2**40,), (0,)), one_storage)
tensor_bombs['overlap'] = torch_zip(tensor_pickle(100, (50,50), (1,1)), one_storage)
tensor_bombs['outside'] = torch_zip(tensor_pickle(100, (200,), (1,)), one_storage)
tensor_bombs['beyond'] = torch_zip(tensor_pickle(huge, (huge,), (1,)), one_storage)
tensor_bombs['empty'] = torch_zip(tensor_pickle(100, (0,2**50), (1,1)), one_storage)
tensor_bombs['negative'] = torch_zip(tensor_pickle(100, (-1,), (1,)), one_storage)
tensor_bombs['views'] = torch_zip(tensor_pickle(250_000, (250_000,), (1,), 4000), {'0':bytes(10**6)})
tensor_bombs['entries'] = torch_zip(tensor_pickle(100, (100,), (1,)), one_storage, twice=20_000)
tensor_bombs['deflated'] = torch_zip(tensor_pickle(5*10**7, (5*10**7,), (1,)), {'0':bytes(2*10**8)}, zipfile.ZIP_DEFLATED)
tensor_bombs['deflated_pickle'] = torch_zip(packed_pickle, {}, zipfile.ZIP_DEFLATED)
tensor_bombs['pickle_in_zip'] = torch_zip(pickle_bombs['bytearray8'])
tensor_bombs['references_in_zip'] = torch_zip(many_references)
tensor_bombs['void_in_zip'] = torch_zip(void_scalar(b'V4000000000'))
tensor_bombs['legacy'] = legacy_start+tensor_pickle(huge, (huge,), (1,)).replace(b'tQ', b'NtQ')+pickle.dumps(['0'], 2)
weight_bombs = {**pickle_bombs, **tensor_bombs}

def parquet(df, **kwargs):
    f = io.BytesIO()
    df.to_parquet(f, index=False, **kwargs)
    return f.getvalue()

def header(o): return struct.pack('<Q', len(o))+o

def same_bytes(shape): return {k:dict(dtype='F32', shape=shape, data_offsets=[0,72]) for k in ('u_weight','i_weight')}

def repeated(n, length): return pd.DataFrame(dict(item=np.arange(n), title=['a'*length]*n))

bundle_bombs = dict( # what to change in the files of a bundle
    rows=lambda: dict(items=parquet(pd.DataFrame(dict(item=np.zeros(10_000_000, np.int64))))),
    zstd=lambda: dict(items=parquet(repeated(8, 10**6), compression='zstd')), gzip=lambda: dict(items=parquet(repeated(8, 10**6), compression='gzip')),
    columns=lambda: dict(items=parquet(pd.DataFrame({f'c{i}':np.zeros(8) for i in range(1000)}))),
    texts=lambda: dict(items=parquet(repeated(2000, 10**5)), tables=to_safetensors(tables_of(7, n_i=2000))),
    header=lambda: dict(tables=struct.pack('<Q', 2**60)+b'{}'), overlap=lambda: dict(tables=header(json.dumps(same_bytes([6,3])).encode())+bytes(72)),
    claim=lambda: dict(tables=header(json.dumps(dict(u_weight=dict(dtype='F32', shape=[2**40,3], data_offsets=[0,12*2**40]))).encode())),
    json=lambda: dict(info=b'['*10**6), large=lambda: dict(info=b' '*5_000_000+b'{}'), lists=lambda: dict(info=b'['+b'[],'*10**6+b'[]]'))

def write_bomb(folder, change):
    "A bundle with some files changed, under right checksums"
    parts = {o.split('-')[0]:v for o,v in bundle._contents(tables_of(7), pd.DataFrame(dict(user=range(6))), pd.DataFrame(dict(item=range(8)))).items()}
    parts.update({k:v for k,v in change.items() if k!='info'})
    names = {k:f"{k}-{bundle._sha256(v)[:32]}.{'safetensors' if k=='tables' else 'parquet'}" for k,v in parts.items()}
    folder.mkdir()
    for k,v in parts.items(): (folder/names[k]).write_bytes(v)
    info = dict(mean=3., y_range=None, version=2, sha256={names[k]:bundle._sha256(v) for k,v in parts.items()})
    text = json.dumps(dict(info, check=bundle._check_of(info))).encode()
    (folder/'bundle.json').write_bytes(change.get('info', text))

def peak():
    "The most memory this process ever held (bytes)"
    return int(next(o for o in Path('/proc/self/status').read_text().splitlines() if o.startswith('VmHWM')).split()[1])*1024

def costs(act, n_bytes):
    "Run `act` in a child; it costs at most ten times `n_bytes` and 50 MB, and in the campaign 5 s of computing"
    def run():
        resource.setrlimit(resource.RLIMIT_CPU, (120,120)) # what never ends is killed
        Path('/proc/self/clear_refs').write_text('5')
        before,start = peak(),time.process_time()
        act()
        seconds,memory = time.process_time()-start,peak()-before
        assert memory<=10*n_bytes+50_000_000, f'{memory/1e6:.0f} MB for {n_bytes/1e6:.1f} MB'
        assert not full or seconds<=5, f'{seconds:.1f} s'
    assert in_child(run)==0

def refused(act, folder):
    try: act()
    except Exception as e: assert said_why(e, folder), repr(e)

@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('name', pickle_bombs)
def test_vocabulary_bombs(tmp_path, name):
    f = tmp_path/'v.pkl'
    f.write_bytes(pickle_bombs[name])
    costs(lambda: refused(lambda: read_vocab(f), tmp_path), len(pickle_bombs[name]))

@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('name', weight_bombs if full else tensor_bombs)
def test_weight_bombs(tmp_path, name):
    f = tmp_path/'w.pth'
    f.write_bytes(weight_bombs[name])
    def act():
        state,_ = read_weights(f)
        weights_fingerprint(state)
    costs(lambda: refused(act, tmp_path), len(weight_bombs[name]))

@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('name', bundle_bombs)
def test_bundle_bombs(tmp_path, name):
    folder = tmp_path/'b'
    Bundle(export(tmp_path/'first', 1)) # what is imported on the way is not the bomb's
    write_bomb(folder, bundle_bombs[name]())
    costs(lambda: refused(lambda: Bundle(folder), tmp_path), sum(o.stat().st_size for o in folder.iterdir()))

# ---- Kills ----

@pytest.mark.parametrize('kind', kinds)
def test_killed_while_writing(tmp_path, kind):
    "What is there is the last that was written or the one after it, and the next write leaves nothing behind"
    write,number,place = kinds[kind]
    where,rnd,last = place(tmp_path),random.Random(0),1
    write(where, 1)
    for n in range(size(15, 200)):
        pid = os.fork()
        if not pid:
            try:
                for i in itertools.count(last+1): write(where, i)
            finally: os._exit(1)
        time.sleep(rnd.uniform(.002, .08))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        now = number(where)
        assert now>=last
        last = now
    write(where, last+1)
    write(where, last+1)
    assert number(where)==last+1
    names = sorted(o.name for o in tmp_path.rglob('*') if o.is_file())
    assert not [o for o in names if o.endswith('.tmp')] and len(names)==(3 if kind=='pair' else 5), names
    said(f'kills, {kind}', n+1, dict(written=last))

# ---- Readers beside two writers ----

@pytest.mark.parametrize('kind', kinds)
def test_reads_beside_two_writers(tmp_path, kind):
    "Every read gives a whole one, whichever"
    write,number,place = kinds[kind]
    where = place(tmp_path)
    write(where, 0)
    pids = []
    for w in range(2):
        pid = os.fork()
        if not pid:
            try:
                for i in itertools.count(): write(where, 2*(i%5000)+w)
            finally: os._exit(1)
        pids.append(pid)
    try: seen = Counter(number(where) for _ in range(size(150, 10_000)))
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    assert len(seen)>5 # a lock is not fair: one of the writers may have had little of it
    said(f'reads beside two writers, {kind}', sum(seen.values()), dict(different=len(seen)))
