from helpers import * # all of the package, and what the tests share
import builtins,errno,itertools,math,os,pickle,random,resource,shutil,signal,sys,tempfile,time

import pandas as pd,pytest,torch
from collections import OrderedDict
from fastai.learner import Learner,save_model
from fastai.data.transforms import CategoryMap
from fastcore.all import merge,partial
from fastcore.xtras import save_pickle
from pathlib import Path
from collab_ext import files
from collab_ext.files import read_prior
from helpers import code,fit,frame,in_child,learner,name_rows,same,weights,wrong_rows
from test_vocab import Call,bombs,touch

# A pair with a number: its weights, labels, optimizer and info all say it
def save(stem, i, **kwargs):
    state = {'u_weight.weight':torch.full((4,3), float(i)), 'i_weight.weight':torch.full((5,3), float(i))}
    vocab = dict(user=[NA]+[f'u{i}.{j}' for j in range(3)], item=[NA]+[f'i{i}.{j}' for j in range(4)])
    return save_pair(stem, state, vocab, **merge(dict(opt=dict(state=[], hypers=[dict(lr=i)]), info=dict(n=i)), kwargs))

def number(stem):
    "The number of the pair `stem`; fails if its parts disagree"
    p = read_pair(stem)
    said = {w.flatten()[0].item() for w in p.wgts.values()} | {float(o[1:].split('.')[0]) for v in p.vocab.values() for o in v[1:]}
    assert all((w==w.flatten()[0]).all() for w in p.wgts.values())
    assert len(said | {float(p.info['n']), float(p.opt['hypers'][0]['lr'])})==1, p
    return int(said.pop())

def leftovers(folder): return sorted(o.name for o in folder.iterdir() if o.suffix not in ('.pth','.pkl','.lock') or '.tmp' in o.name)

# What a process that is killed leaves: whatever was on disk at that moment
events = {'open','os.rename','os.remove','os.mkdir','os.link','os.truncate','os.chmod','os.listdir','os.scandir','fcntl.flock'}

class Steps:
    "Calls `f` before each call to the system, before, amid and after each write, and before each line of `collab_ext.files`"
    def __init__(self, f): self.f,self.on = f,False
    def __call__(self):
        if not self.on: return
        self.on = False
        self.f()
        self.on = True

    def run(self, act):
        sys.addaudithook(lambda ev,args: self() if ev in events else None)
        open_ = builtins.open
        builtins.open = lambda f,mode='r',*args,**kw: Torn(open_(f,mode,*args,**kw), self) if set('wx')&set(mode) else open_(f,mode,*args,**kw)
        self.on = True
        sys.settrace(self.trace)
        act()
        sys.settrace(None)
        self.on,builtins.open = False,open_

    def trace(self, frame, event, arg):
        if not frame.f_code.co_filename.endswith('collab_ext/files.py'): return
        if event=='line': self()
        return self.trace

class Torn:
    "A file that is written to in halves"
    def __init__(self, f, step): self.f,self.step = f,step
    def write(self, b):
        b,n = bytes(b),0
        for o in (b[:len(b)//2],b[len(b)//2:]):
            self.step()
            n += self.f.write(o)
            self.f.flush()
        self.step()
        return n
    def __getattr__(self, k): return getattr(self.f, k)
    def __enter__(self): return self
    def __exit__(self, *args): self.f.close()

def content(folder): return {o.relative_to(folder):o.read_bytes() for o in sorted(folder.rglob('*')) if o.is_file()}

def put(folder, files):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for o,b in files.items():
        (folder/o).parent.mkdir(parents=True, exist_ok=True)
        (folder/o).write_bytes(b)

def states(folder, act):
    "The different contents of `folder` at each step of `act`, one after the other; each is what a process killed there leaves"
    out = folder.parent/'states'
    def run():
        res = [content(folder)]
        Steps(lambda: res.append(content(folder))).run(act)
        out.write_bytes(pickle.dumps([o for o,_ in itertools.groupby(res+[content(folder)])]))
    assert in_child(run)==0
    res = pickle.loads(out.read_bytes())
    assert len(res)>8
    return res

def test_killed_anywhere(tmp_path):
    folder,stem,seen = tmp_path/'d',tmp_path/'d'/'m',[]
    save(stem, 0)
    for o in states(folder, lambda: save(stem, 1)):
        put(folder, o)
        seen.append(number(stem))
        save(stem, 2)
        assert number(stem)==2 and not leftovers(folder)
    assert seen==sorted(seen) and set(seen)=={0,1} # the old one until some step, the new one after it

def test_killed_twice(tmp_path):
    "At any step of a save that comes after one that was killed: before, between or after its two files"
    folder,stem,ends = tmp_path/'d',tmp_path/'d'/'m',{}
    save(stem, 0)
    for o in states(folder, lambda: save(stem, 1)): ends[tuple(b for k,b in o.items() if k.suffix!='.tmp')] = o
    assert len(ends)>2
    for o in ends.values():
        put(folder, o)
        old,seen = number(stem),[]
        for p in states(folder, lambda: save(stem, 2)):
            put(folder, p)
            seen.append(number(stem))
        assert seen==sorted(seen) and set(seen)=={old,2} and not leftovers(folder)

def test_first_save_killed_anywhere(tmp_path):
    folder,stem,seen = tmp_path/'d',tmp_path/'d'/'sub'/'m',[]
    folder.mkdir()
    for o in states(folder, lambda: save(stem, 1)):
        put(folder, o)
        try: seen.append(number(stem))
        except FileNotFoundError: seen.append(0)
        if not seen[-1]:
            with pytest.raises(FileNotFoundError): find_pair(stem.parent)
        save(stem, 2)
        assert number(stem)==2 and not leftovers(stem.parent)
    assert seen==sorted(seen) and set(seen)=={0,1}

def test_killed_over_plain_weights(tmp_path):
    "The weights of a plain fastai learner are there until the new pair is"
    folder,stem,plain = tmp_path/'d',tmp_path/'d'/'m',{'u_weight.weight':torch.zeros(4,3), 'i_weight.weight':torch.zeros(5,3)}
    folder.mkdir()
    torch.save(plain, f'{stem}.pth')
    for o in states(folder, lambda: save(stem, 1)):
        put(folder, o)
        p = read_pair(stem)
        if p.vocab is None: assert same(dict(p.wgts), plain)
        else: assert number(stem)==1

def test_killed_over_original_pair(tmp_path):
    "A pair of the original library, whose vocabulary knows nothing of fingerprints"
    state,vocab = {'u_weight.weight':torch.zeros(2,3), 'i_weight.weight':torch.zeros(2,3)},dict(user=[NA,'u'], item=[NA,'i'])
    folder,stem = tmp_path/'d',tmp_path/'d'/'m'
    folder.mkdir()
    torch.save(state, f'{stem}.pth')
    save_pickle(f'{stem}_vocab.pkl', vocab)
    for o in states(folder, lambda: save(stem, 1)):
        put(folder, o)
        p = read_pair(stem)
        if same(dict(p.wgts), state): assert p.vocab==vocab
        else: assert number(stem)==1

def test_killed_over_a_pair_in_the_old_format_of_torch(tmp_path):
    "Before 1.6 torch wrote no zip files, and these can't be read bit by bit"
    folder,stem = tmp_path/'d',tmp_path/'d'/'m'
    save(stem, 0)
    pth = pair_paths(stem)[0]
    content = torch.load(pth, weights_only=True)
    torch.save(content, pth, _use_new_zipfile_serialization=False)
    seen = []
    for o in states(folder, lambda: save(stem, 1)):
        put(folder, o)
        seen.append(number(stem))
    assert seen==sorted(seen) and set(seen)=={0,1}

def test_original_pair_vouches_for_itself_only(tmp_path):
    "What was saved over does not fit the next weights that come along"
    stem,state = tmp_path/'m',{'u_weight.weight':torch.zeros(2,3), 'i_weight.weight':torch.zeros(2,3)}
    torch.save(state, f'{stem}.pth')
    save_pickle(f'{stem}_vocab.pkl', dict(user=[NA,'u'], item=[NA,'i']))
    save(stem, 1)
    torch.save({k:v+1 for k,v in state.items()}, f'{stem}.pth')
    with pytest.raises(ValueError, match='do not belong together'): read_pair(stem)

def test_learner_killed_anywhere(tmp_path):
    "The same by way of `CollabLearner.save` and `load`, with another vocabulary"
    old,new,folder = [name_rows(learner(frame(us, 'xy'), tmp_path)) for us in ('ab','bc')] + [tmp_path/'models']
    reader,seen = learner(frame('abc','xy'), tmp_path),[]
    old.save('m')
    for o in states(folder, lambda: new.save('m')):
        put(folder, o)
        reader.load('m')
        seen.append('c' in read_pair(folder/'m').vocab['user'])
        assert not wrong_rows(reader, but='a' if seen[-1] else 'c')
    assert seen==sorted(seen) and set(seen)=={False,True}

def test_killed_at_random(tmp_path):
    stem,rnd,last = tmp_path/'m',random.Random(0),0
    save(stem, 0)
    def forever():
        for i in itertools.count(last+1): save(stem, i)
    for n in range(300):
        if n>=15 and last: break # a busy machine needs longer for its first save
        pid = os.fork()
        if not pid:
            try: forever()
            finally: os._exit(1)
        time.sleep(rnd.uniform(.01, .1))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        assert number(stem)>=last
        last = number(stem)
    assert last>0
    save(stem, 1)
    assert number(stem)==1 and not leftovers(tmp_path)

# Several at once
def test_many_writers(tmp_path):
    stem,pids = tmp_path/'m',[]
    for i in range(4):
        pids.append(os.fork())
        if pids[-1]: continue
        try:
            for j in range(15): save(stem, 100*i+j)
            os._exit(0)
        finally: os._exit(1)
    assert [os.waitpid(p, 0)[1] for p in pids]==[0]*4
    assert number(stem)%100==14 and not leftovers(tmp_path)

def test_reader_between_two_saves(tmp_path, monkeypatch):
    "Whoever reads the weights just before and the vocabulary just after other saves gets one of the pairs"
    stem,todo,read = tmp_path/'m',[1,2,3],files.read_vocab
    save(stem, 0)
    def slow(*args):
        ns,todo[:] = list(todo),[]
        for n in ns: save(stem, n)
        return read(*args)
    monkeypatch.setattr(files, 'read_vocab', slow)
    assert number(stem) in (0,3)

@pytest.mark.parametrize('other', ['m','m.v2','mm','m_vocab','[m]'])
def test_names_alike(tmp_path, monkeypatch, other):
    "The save of one pair leaves alone what a save of another is writing"
    fsync = os.fsync
    def busy(fd):
        monkeypatch.setattr(os, 'fsync', fsync)
        save(tmp_path/'m', 1)
        fsync(fd)
    if other!='m':
        monkeypatch.setattr(os, 'fsync', busy)
        save(tmp_path/other, 2)
        assert number(tmp_path/'m')==1 and number(tmp_path/other)==2

# Saves that can't
class Full(Torn):
    "A file that `left` more writes fit in"
    left = 0
    def write(self, b):
        Full.left -= 1
        if Full.left<0: raise OSError(errno.ENOSPC, 'No space left on device')
        return self.f.write(b)

@pytest.mark.parametrize('first', [False,True], ids=['again','first'])
def test_full_disk(tmp_path, monkeypatch, first):
    "The `k`th write finds no space"
    stem,open_ = tmp_path/'m',builtins.open
    def open_full(f, mode='r', *args, **kw):
        o = open_(f, mode, *args, **kw)
        return Full(o, None) if set('wx')&set(mode) else o

    if not first: save(stem, 0)
    for k in range(1000):
        Full.left = k
        monkeypatch.setattr(builtins, 'open', open_full)
        try: save(stem, 1)
        except (OSError,RuntimeError) as e: assert 'space' in str([e, e.__cause__, e.__context__])
        else: break
        finally: monkeypatch.undo()
        assert not leftovers(tmp_path)
        if first: assert not list(tmp_path.glob('*.p*'))
        else: assert number(stem)==0
    assert k>2 and number(stem)==1

def test_full_disk_for_real(tmp_path):
    "The system itself refuses to write more than so many bytes"
    stem = tmp_path/'m'
    save(stem, 0)
    size = sum(o.stat().st_size for o in tmp_path.iterdir())
    for limit in range(1, size, size//25):
        def run():
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit,limit))
            try: save(stem, 1)
            except (OSError,RuntimeError): os._exit(2)
        done = in_child(run)==0
        assert number(stem)==done and not leftovers(tmp_path)
        if done: break
    assert done

def test_no_permission():
    "A folder in which this user may not write"
    with tempfile.TemporaryDirectory() as d:
        d = Path(d)
        save(d/'m', 0)
        for o in (d,*d.iterdir()): o.chmod(0o755 if o==d else 0o644)
        if os.geteuid(): d.chmod(0o555)
        def run():
            if not os.geteuid(): os.setuid(65534)
            for o in ('m','new','sub/new'):
                with pytest.raises(PermissionError, match=str(d)): save(d/o, 1)
            assert number(d/'m')==0
        assert in_child(run)==0
        if os.geteuid(): d.chmod(0o755)
        assert number(d/'m')==0 and not leftovers(d)

def test_folder_is_a_file(tmp_path):
    (tmp_path/'models').write_text('')
    with pytest.raises(OSError, match='models'): save(tmp_path/'models'/'m', 1)

def test_unwritable_vocabulary_writes_nothing(tmp_path):
    state = {'u_weight.weight':torch.zeros(1,2), 'i_weight.weight':torch.zeros(1,2)}
    for vocab,info in ((dict(u=[1j],i=[1]),{}), (dict(u=[1]),{}), (dict(u=[1],i=[1]),dict(f=lambda: 0))):
        with pytest.raises((ValueError,AttributeError,pickle.PicklingError,TypeError)): save_pair(tmp_path/'m', state, vocab, info=info)
        assert not leftovers(tmp_path) and not list(tmp_path.glob('*.p*'))

def test_info_that_could_not_be_read_back(tmp_path):
    state = {'u_weight.weight':torch.zeros(1,2), 'i_weight.weight':torch.zeros(1,2)}
    with pytest.raises(ValueError):
        save_pair(tmp_path/'m', state, dict(u=[1],i=[1]), info=dict(when=pd.Timestamp('2020'))) # or it can never be read

def test_other_ranks_write_nothing(tmp_path, monkeypatch):
    learn = learner(frame('ab','xy'), tmp_path)
    monkeypatch.setenv('RANK', '1')
    assert learn.save('m')==tmp_path/'models'/'m.pth'
    assert not list(tmp_path.iterdir())
    monkeypatch.setenv('RANK', '0')
    learn.save('m')
    assert sorted(o.name for o in (tmp_path/'models').glob('m*'))==['m.pth','m_vocab.pkl']

# Files that are not what they seem
@pytest.fixture
def pairs(tmp_path):
    save(tmp_path/'a', 1)
    save(tmp_path/'b', 2)
    return tmp_path

@pytest.mark.parametrize('which', [0,1], ids=['pth','pkl'])
@pytest.mark.parametrize('text',
    [b'', b'hello', b'PK\x03\x04', b'\x00'*100, b'\x80\x04}.', pickle.dumps(3), pickle.dumps([[1],[2]]), b'\x80\x02\x8a\nl\xfc\x9cF'])
def test_other_content(pairs, which, text):
    pair_paths(pairs/'a')[which].write_bytes(text)
    with pytest.raises(ValueError, match=r'a(_vocab)?\.p'): read_pair(pairs/'a')

@pytest.mark.parametrize('which', [0,1], ids=['pth','pkl'])
def test_truncated(pairs, which):
    f = pair_paths(pairs/'a')[which]
    b = f.read_bytes()
    for n in range(0, len(b), max(1, len(b)//60)):
        f.write_bytes(b[:n])
        with pytest.raises(ValueError, match=r'a(_vocab)?\.p'): read_pair(pairs/'a')

@pytest.mark.parametrize('which', [0,1], ids=['pth','pkl'])
def test_partner_of_another(pairs, which):
    shutil.copy(pair_paths(pairs/'b')[which], pair_paths(pairs/'a')[which])
    with pytest.raises(ValueError, match='do not belong together'): read_pair(pairs/'a')

def test_swapped(pairs):
    pth,pkl = pair_paths(pairs/'a')
    with pytest.raises(ValueError): read_pair(pkl, pth)

@pytest.mark.parametrize('which', [0,1], ids=['pth','pkl'])
def test_missing(pairs, which):
    f = pair_paths(pairs/'a')[which]
    f.unlink()
    with pytest.raises(FileNotFoundError, match=f.name): read_pair(pairs/'a')

@pytest.mark.parametrize('which', [0,1], ids=['pth','pkl'])
def test_folder_in_its_place(pairs, which):
    f = pair_paths(pairs/'a')[which]
    f.unlink()
    f.mkdir()
    with pytest.raises((ValueError,FileNotFoundError), match=f.name): read_pair(pairs/'a')

def stamped(stamp):
    state = OrderedDict({'u_weight.weight':torch.zeros(2,2)})
    state._metadata = stamp
    return state

not_states = dict(list=[torch.zeros(2)], tensor=torch.zeros(2), none=None, empty={}, text={'a':'b'}, numbers={'u_weight.weight':1.},
    int_keys={0:torch.zeros(2,2)}, mixed_keys={'u_weight.weight':torch.zeros(2,2), 0:torch.zeros(2)})
not_with_opt = dict(opt=dict(model={'u_weight.weight':torch.zeros(2,2)}, opt=5), model=dict(model=3, opt=None))
not_users = dict(scalar=torch.tensor(1.), flat=torch.zeros(2), cube=torch.zeros(2,2,2), rows=torch.zeros(5,2), few=torch.zeros(1,2))
not_dense = dict(sparse=torch.zeros(2,2).to_sparse(), meta=torch.zeros(2,2,device='meta'), complex=torch.zeros(2,2,dtype=torch.complex64))
not_finite = dict(nan=torch.tensor([[1.,math.nan],[1,1]]), inf=torch.tensor([[1.,math.inf],[1,1]]))
bad_tables = {k:{'u_weight.weight':v} for k,v in {**not_users, **not_dense, **not_finite}.items()}
bad_biases = {'u_weight.weight':torch.zeros(2,2), 'u_bias.weight':torch.zeros(1,1)}
stamps = dict(stamp_text='x', stamp_number=3, stamp_half=dict(vocab=1), stamp_wrong=dict(vocab='x', weights='y'))
bad_stamps = {k:stamped(OrderedDict(collab_ext=v)) for k,v in stamps.items()}
bad_weights = {**not_states, **not_with_opt, **bad_tables, 'biases':bad_biases, **bad_stamps, 'metadata':stamped('x')}

@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('name', bad_weights)
def test_bad_weights(tmp_path, name):
    torch.save(bad_weights[name], tmp_path/'w.pth')
    save_pickle(tmp_path/'w_vocab.pkl', dict(user=[1,2], item=[1,2]))
    with pytest.raises(ValueError): read_pair(tmp_path/'w')

@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('name', bombs(Path('x')))
@pytest.mark.parametrize('way', ['pickle','zip','legacy','inside','opt'])
def test_weights_run_nothing(tmp_path, name, way):
    f,pth = tmp_path/'canary',tmp_path/'w.pth'
    bomb = bombs(f)[name]
    state = {'u_weight.weight':torch.zeros(2,2)}
    try:
        if way=='pickle': pth.write_bytes(pickle.dumps(bomb, 2))
        elif way in ('zip','legacy'): torch.save(bomb, pth, _use_new_zipfile_serialization=way=='zip')
        elif way=='inside': torch.save({**state, 'x':bomb}, pth)
        else: torch.save(dict(model=state, opt=dict(state=[bomb])), pth)
    except (pickle.PicklingError,TypeError): return
    save_pickle(tmp_path/'w_vocab.pkl', dict(user=[1,2], item=[1,2]))
    try: read_pair(tmp_path/'w') # harmless ones may be read
    except ValueError: pass
    assert not f.exists()

@pytest.mark.parametrize('which', [0,1], ids=['pth','pkl'])
def test_learner_runs_nothing(tmp_path, which):
    "Every way into a learner"
    f,learn = tmp_path/'canary',learner(frame('ab','xy'), tmp_path)
    learn.save('m')
    pair_paths(tmp_path/'models'/'m')[which].write_bytes(pickle.dumps(Call(eval, touch(f)), 2))
    ways = [lambda: learn.load('m'), lambda: learn.load_vocab('m.pth', 'm_vocab.pkl')]
    ways += [partial(collab_learner, learn.dls, path=tmp_path, pretrained=o) for o in (True, 'm', tmp_path/'models', tmp_path/'models'/'m')]
    for way in ways:
        with pytest.raises(ValueError): way()
        assert not f.exists()

# Pairs as version 0.0.1 wrote them: the structures in the files, with the fingerprints and checksums that it gave them
then = dict(user=[NA,7], film=[NA,'Alien','Brazil'])
users_then = dict(P=[[1.,.5],[.5,2.]], B=[[.1,.2]], G=[[1.]], M=[[3.,0.],[0.,1.]])
films_then = dict(P=[[4.,0.],[0.,5.]], B=[[.3,.4]], G=[[2.]], M=[[6.,0.],[0.,1.]])
prior_then = dict(mean=3.5, s2=.25, sides=[users_then,films_then])
users_now = dict(row_cov=[[1.,.5],[.5,2.]], coefs=[[.1,.2]], feature_moment=[[1.]], second_moment=[[3.,0.],[0.,1.]])
films_now = dict(row_cov=[[4.,0.],[0.,5.]], coefs=[[.3,.4]], feature_moment=[[2.]], second_moment=[[6.,0.],[0.,1.]])
prior_now = dict(mean=3.5, noise=.25, sides=[users_now,films_now])
info_then = dict(counts=dict(user=[0,2], film=[0,1,1]), y_range=None, scale=[3.5,1.])
marks = dict(vocab='0ebf194f47ba940e2a8bfa731dd5a137', first='86e6d8cfaecf447aa0ad7e3fee6c4486', second='8f3b73a01fcd5e09f5e890fe4a5b99c3')

def entry_then(weights, info, previous, check):
    labels = dict(format='collab_ext vocabulary', version=1, vocab=then, fingerprint=marks['vocab'])
    return dict(labels, weights=weights, info=info, previous=previous, check=check)

first_entry = entry_then(marks['first'], {}, None, '2f1cbe665d342a6b12043760752d981c')
second_entry = entry_then(marks['second'], dict(info_then, prior=prior_then), first_entry, 'af26bb7844d2fec96fed69cb7031246e')

def weights_then(mark, add):
    col = lambda *o: torch.tensor(o)[:,None]+add
    vecs = {'u_weight.weight':col(0.,1.), 'i_weight.weight':col(0.,2.,3.)}
    biases = {'u_bias.weight':col(0.,.5), 'i_bias.weight':col(0.,.25,-.25)}
    res = OrderedDict({**vecs, **biases, 'mean':torch.tensor(3.5)+add})
    res._metadata = OrderedDict(collab_ext=dict(vocab=marks['vocab'], weights=mark))
    return res

def write_then(stem, weights, entry, opt=None):
    pth,pkl = pair_paths(stem)
    torch.save(weights if opt is None else dict(model=weights, opt=opt), pth)
    pkl.write_bytes(pickle.dumps(entry))

@pytest.mark.parametrize('opt', [None,dict(state=[], hypers=[dict(lr=.1)])], ids=['weights','with_opt'])
def test_pair_of_version_0_0_1(tmp_path, opt):
    weights = weights_then(marks['second'], 0)
    write_then(tmp_path/'m', weights, second_entry, opt)
    p = read_pair(tmp_path/'m')
    assert type(p.vocab) is Vocab and p.vocab==then and p.opt==opt
    assert same(dict(p.wgts), dict(weights))
    assert p.info==dict(info_then, prior=prior_now)

def test_pair_of_version_0_0_1_killed_in_between(tmp_path):
    "The new vocabulary beside the weights that it was to replace"
    weights = weights_then(marks['first'], 1)
    write_then(tmp_path/'m', weights, second_entry)
    p = read_pair(tmp_path/'m')
    assert p.info=={} and p.vocab==then and same(dict(p.wgts), dict(weights))

def test_weights_alone_saved_over_by_version_0_0_1(tmp_path):
    "Killed after its vocabulary was written: the weights of another program are read without it"
    stem = tmp_path/'m'
    plain = {k:v+1 for k,v in weights_then('', 0).items()}
    write_then(stem, plain, entry_then(marks['second'], {}, dict(weights=marks['first'], vocab=None), '31e1b13e33b669cf55dc9695be5b3772'))
    p = read_pair(stem)
    assert p.vocab is None and p.info=={} and same(dict(p.wgts), plain)

def test_pair_of_version_0_0_1_saved_again(tmp_path):
    "It is still this version's format, with the names of today"
    write_then(tmp_path/'m', weights_then(marks['second'], 0), second_entry)
    p = read_pair(tmp_path/'m')
    save_pair(tmp_path/'m', p.wgts, p.vocab, p.opt, p.info)
    again = read_pair(tmp_path/'m')
    assert again.info==p.info and again.vocab==p.vocab and same(dict(again.wgts), dict(p.wgts))
    e = read_vocab(tmp_path/'m_vocab.pkl')
    assert e['info']['prior']==prior_now and e['previous']['info']['prior']==prior_then
    assert (e['version'],e['fingerprint'],e['weights'])==(1, marks['vocab'], marks['second'])

def test_prior_of_version_0_0_1_as_a_source(tmp_path):
    "Old names and new ones are the same prior"
    df = frame('abcd','wxyz')
    learn = learner(df, tmp_path)
    pairs = {}
    for name,prior in dict(then=prior_then, now=prior_now).items():
        stem = save_pair(tmp_path/name, weights_then('', 0), then, info=dict(info_then, prior=prior)).with_suffix('')
        named_alike = df.replace(dict(user=dict(a=7), item=dict(w='Alien')))
        new = learner(named_alike, tmp_path, n_factors=1, y_range=None, pretrained=stem, fill=None, solve=True)
        pairs[name] = weights(new)
    assert same(pairs['then'], pairs['now'])

def test_reading_a_prior_changes_nothing():
    info = dict(prior=prior_then)
    assert read_prior(info)==prior_now and read_prior(dict(prior=prior_now))==prior_now
    assert info==dict(prior=prior_then) and set(prior_then['sides'][0])==set('PBGM')
    assert read_prior({}) is None and read_prior(dict(prior=None)) is None

@pytest.mark.parametrize('bad', [3, 'x', {}, [prior_then], dict(sides=3), dict(sides=[1,2])], ids=lambda o: repr(o)[:12])
def test_what_is_no_prior_is_refused(tmp_path, bad):
    save(tmp_path/'m', 1, info=dict(prior=bad))
    with pytest.raises(ValueError, match="`info\\['prior'\\]` is a dict with"): read_pair(tmp_path/'m')

def test_vocabulary_of_a_pair(tmp_path):
    save(tmp_path/'m', 1)
    assert type(read_pair(tmp_path/'m').vocab) is Vocab
    torch.save({'u_weight.weight':torch.zeros(2,3)}, tmp_path/'plain.pth')
    assert read_pair(tmp_path/'plain').vocab is None

# Files of others
@pytest.fixture
def cold(tmp_path): return learner(frame('ab','xy'), tmp_path)

@pytest.fixture
def warm(tmp_path): return name_rows(fit(learner(frame('ab','xy'), tmp_path)))

@pytest.mark.parametrize('with_opt', [False,True])
def test_plain_fastai(warm, cold, with_opt):
    Learner.save(warm, 'm', with_opt=with_opt)
    with pytest.warns(UserWarning, match='no vocabulary beside it'): cold.load('m')
    assert not wrong_rows(cold) and same(weights(cold), weights(warm))
    assert all('sqr_avg' in cold.opt.state[p] for p in cold.model.parameters())==with_opt

def test_plain_fastai_model(warm, cold): # without the buffer of the mean, with the classes of fastai
    state = {k:v for k,v in warm.model.state_dict().items() if k!='mean'}
    torch.save(state, cold.path/'m.pth')
    with pytest.warns(UserWarning, match='no vocabulary beside it'): cold.load(cold.path/'m')
    assert not wrong_rows(cold) and cold.model.mean==0

@pytest.mark.parametrize('users', ['ab','bac','bxyz'])
@pytest.mark.parametrize('with_opt', [False,True])
def test_original_pair(warm, tmp_path, users, with_opt):
    "`save_model` and a pickled dict of `CategoryMap`: what the original wrote"
    (tmp_path/'models').mkdir()
    save_model(tmp_path/'models'/'m.pth', warm.model, warm.opt, with_opt=with_opt)
    save_pickle(tmp_path/'models'/'m_vocab.pkl', {k:CategoryMap(v[1:], sort=False, add_na=True) for k,v in warm.vocab.items()})
    for way in (lambda o: o.load('m'), lambda o: o.load_vocab('m.pth','m_vocab.pkl')):
        learn = learner(frame(users,'yx'), tmp_path)
        way(learn)
        assert not wrong_rows(learn, but=set(users)-set('ab'))

eras = dict(A=('1.attn.lbs_weight.weight','1.final_lin.bias'), B=('1.pay_attn.lbs_weight.weight','1.label_bias'),
    C=('1.pay_attn.lbs.weight','1.label_bias'))

@pytest.mark.parametrize('era', eras)
@pytest.mark.parametrize('wrap', ['','module.'])
def test_text_classifier(tmp_path, era, wrap):
    "Tokens are users, labels are items; the vocabulary is a list of two lists"
    tokens,labels,(i_weight,i_bias) = ['xxunk','a','b'],['y','x','z'],eras[era]
    vecs = lambda v: torch.tensor([[code(o)]*3 for o in v])
    state = {wrap+'0.module.encoder.weight':vecs(tokens), wrap+'0.module.encoder_dp.emb.weight':vecs(tokens), wrap+i_weight:vecs(labels),
        wrap+i_bias:vecs(labels)[:,0].clone(), wrap+'0.decoder.w':torch.zeros(7), wrap+'1.other.weight':torch.zeros(9,9)}
    torch.save(dict(model=state, opt=dict(state=[], hypers=[])), tmp_path/'clas.pth')
    save_pickle(tmp_path/'clas_vocab.pkl', [tokens,labels])
    df = frame('ab','xy')
    for way in ('vocab','pretrained'):
        if way=='vocab': learn = learner(df, tmp_path).load_vocab(tmp_path/'clas.pth', tmp_path/'clas_vocab.pkl', fill='fresh')
        else: learn = learner(df, tmp_path, n_factors=3, pretrained=(tmp_path/'clas.pth', tmp_path/'clas_vocab.pkl'), fill='fresh')
        wrong = wrong_rows(learn, but=(NA,))
        assert {t for t,_ in wrong}=={'u_bias'} # the only table that a classifier lacks
        assert list(learn.report.to_frame().index)==['u_weight','i_weight','i_bias']

# ---- What a file may cost, and whom a writer waits for ----

def test_torch_is_not_asked_to_read(tmp_path, monkeypatch):
    "Files are read on any torch: by no reader of torch's"
    save(tmp_path/'m', 1)
    def refuse(*args, **kwargs): raise AssertionError('torch.load was called')
    monkeypatch.setattr(torch, 'load', refuse)
    assert number(tmp_path/'m')==1

@pytest.mark.parametrize('legacy', [False,True], ids=['zip','legacy'])
def test_reads_what_torch_reads(tmp_path, legacy):
    "Every type of number, shared storages, parts and transposes, scalars and empty ones"
    base = torch.arange(24.).reshape(4,6)
    types = [torch.float64,torch.float32,torch.float16,torch.bfloat16,torch.int64,torch.int32,torch.int16,torch.int8,torch.uint8,torch.bool]
    state = OrderedDict({str(o):base.to(o) for o in types}, part=base[1:3,2:], turned=base.T, again=base, scalar=torch.tensor(2.), none=torch.zeros(0,3),
        parameter=torch.nn.Parameter(torch.ones(2)))
    opt = dict(state=[dict(step=3, avg=base[0])], hypers=[dict(lr=np.float64(.1), n=np.int32(4), betas=(.9,.99))])
    torch.save(dict(model=state, opt=opt), tmp_path/'w.pth', _use_new_zipfile_serialization=not legacy)
    for mapped in (False,True):
        got,got_opt = files.read_weights(tmp_path/'w.pth', mmap=mapped)
        assert same(OrderedDict(got), OrderedDict((k,v.data) for k,v in state.items()))
        assert same(got_opt, dict(state=[dict(step=3, avg=base[0])], hypers=[dict(lr=.1, n=4, betas=(.9,.99))]))

def test_shared_storages_stay_shared(tmp_path):
    w = torch.zeros(3,2)
    torch.save(dict(a=w, b=w), tmp_path/'w.pth')
    got,_ = files.read_weights(tmp_path/'w.pth')
    got['a'][0] = 1
    assert same(got['a'], got['b'])

def test_truncated_weights_of_every_length_name_the_file(tmp_path):
    torch.save({'u_weight.weight':torch.zeros(900,3)}, tmp_path/'w.pth') # more than 4 KiB
    data = (tmp_path/'w.pth').read_bytes()
    for n in range(0, len(data), 97):
        (tmp_path/'w.pth').write_bytes(data[:n])
        with pytest.raises(ValueError, match='w.pth'): files.read_weights(tmp_path/'w.pth')

@pytest.mark.parametrize('change', [lambda o: o['hypers'][0].update(lr=2.), lambda o: o['state'].append({}), lambda o: o.pop('hypers')])
def test_the_sum_covers_the_state_of_the_optimizer(tmp_path, change):
    save(tmp_path/'m', 1)
    content = torch.load(tmp_path/'m.pth', weights_only=True)
    change(content['opt'])
    torch.save(content, tmp_path/'m.pth')
    with pytest.raises(ValueError, match="m.pth is damaged: its optimizer's state"): read_pair(tmp_path/'m')
    torch.save(content['model'], tmp_path/'m.pth')
    with pytest.raises(ValueError, match="m.pth is damaged: its optimizer's state"): read_pair(tmp_path/'m')

@pytest.mark.parametrize('info,said', [(dict(y_range=[0,math.inf]), 'y_range'), (dict(y_range=5), 'y_range'), (dict(scale=[1,'a']), 'scale'),
    (dict(counts=dict(user=[1], item=[1])), "counts of 'user'"), (dict(counts=3), 'counts'),
    (dict(prior=dict(mean=1., noise=1., sides=[{}, {}])), 'prior is missing'), (dict(prior=dict(mean=math.nan, noise=1., sides=[{}, {}])), 'prior')])
def test_info_that_is_no_learners(tmp_path, info, said):
    save(tmp_path/'m', 1, info=info)
    with pytest.raises(ValueError, match=f'm_vocab.pkl is damaged: .*{said}'): read_pair(tmp_path/'m')

def test_labels_that_are_there_twice(tmp_path):
    save_pair(tmp_path/'m', {'u_weight.weight':torch.zeros(2,2)}, dict(user=['a','a'], item=[]))
    with pytest.raises(ValueError, match="label of 'user' is there more than once"): read_pair(tmp_path/'m')

def test_a_lock_has_a_time_limit(tmp_path):
    from filelock import FileLock
    save(tmp_path/'m', 1)
    with FileLock(tmp_path/'.m.lock'), pytest.raises(TimeoutError, match='m.pth for 0.05 s: wait until it is done'): save(tmp_path/'m', 2, wait=.05)
    assert number(tmp_path/'m')==1 and not leftovers(tmp_path)
    learn = learner(frame('ab','xy'), tmp_path)
    learn.save('n')
    with FileLock(tmp_path/'models/.n.lock'), pytest.raises(TimeoutError): learn.save('n', wait=.05)

@pytest.mark.parametrize('error', [OSError(errno.ENOLCK, 'x'), OSError(errno.ENOSYS, 'x'), NotImplementedError('x')], ids=repr)
def test_a_file_system_without_locks(tmp_path, monkeypatch, error):
    def acquire(self): raise error
    monkeypatch.setattr(files.FileLock, 'acquire', acquire)
    with pytest.raises(OSError, match="has no locks, so .*m.pth can't be written safely: save elsewhere"): save(tmp_path/'m', 1)
    assert not list(tmp_path.iterdir())

def test_a_link_is_replaced_not_followed(tmp_path):
    (tmp_path/'other').write_text('mine')
    for o in ('m.pth','m_vocab.pkl'): (tmp_path/o).symlink_to(tmp_path/'other')
    save(tmp_path/'m', 1)
    assert number(tmp_path/'m')==1 and (tmp_path/'other').read_text()=='mine'

@pytest.mark.parametrize('name', ['', '.', '..', 'a/..', '.pth', Path('')])
def test_a_pair_needs_a_name(tmp_path, name):
    learn = learner(frame('ab','xy'), tmp_path)
    for way in (learn.save,learn.load):
        with pytest.raises(ValueError, match='has no name'): way(name)
    assert not list(tmp_path.iterdir())

# ---- Linear models ----

def clicks(n_users=30, seed=0): return CollabDataLoaders.from_interactions(simulate_clicks(n_users, 20, 8, seed=seed), valid_pct=0, device='cpu', unknown='mean')

@pytest.mark.parametrize('kind', ['ease','graph'])
def test_a_linear_model_comes_back(tmp_path, kind):
    settings = dict(ease=dict(ridge=50.), graph=dict(rank=5, low_pass=.3))[kind]
    learn = linear_learner(clicks(), kind, path=tmp_path, **settings)
    learn.save('m')
    other = linear_learner(clicks(seed=1), kind, path=tmp_path) # other ratings, other settings
    users = learn.vocab['user'][1:]
    assert not same(other.recommend(users, 3, exclude_seen=False), learn.recommend(users, 3, exclude_seen=False))
    other.load('m')
    assert same(other.recommend(users, 3, exclude_seen=False), learn.recommend(users, 3, exclude_seen=False))
    assert other.model.settings==learn.model.settings and other.solver is None

def test_a_linear_model_is_refused_where_it_does_not_fit(tmp_path):
    learn = linear_learner(clicks(), path=tmp_path)
    learn.save('m')
    before = weights(learn)
    with pytest.raises(ValueError, match='m.pth holds a EASE, and this learner is a GraphFilter'): linear_learner(clicks(), 'graph', path=tmp_path).load('m')
    with pytest.raises(ValueError, match='is not matched by label: solve it from this data'): linear_learner(clicks(29), path=tmp_path).load('m')
    learner(frame('ab','xy'), tmp_path).save('t')
    with pytest.raises(ValueError, match='t.pth holds a model of tables'): learn.load('t')
    with pytest.raises(ValueError, match='m.pth holds a EASE, and this learner is a DotBias'): learner(frame('ab','xy'), tmp_path).load('m')
    assert same(weights(learn), before)

@pytest.mark.parametrize('bad', ['indptr','indices','B','average'])
def test_a_damaged_linear_model_changes_nothing(tmp_path, bad):
    learn = linear_learner(clicks(), path=tmp_path)
    p = read_pair(learn.save('m').with_suffix(''))
    state = {**p.wgts, bad:p.wgts[bad]+(1000 if bad[:3]=='ind' else math.inf)}
    save_pair(tmp_path/'models/m', state, p.vocab, info=p.info)
    before = weights(learn)
    with pytest.raises(ValueError, match='m.pth is'): learn.load('m')
    assert same(weights(learn), before)

@pytest.mark.filterwarnings('ignore')
def test_an_exported_learner_hides_what_was_seen(tmp_path):
    from fastai.learner import load_learner
    for learn in (fit(learner(loaders(simulate_ratings(20, 30, 200).ratings), tmp_path)), linear_learner(clicks(), path=tmp_path)):
        users = learn.vocab['user'][1:]
        want = learn.recommend(users, 5)
        learn.export('x.pkl')
        assert same(load_learner(tmp_path/'x.pkl').recommend(users, 5), want)
        assert same(learn.recommend(users, 5), want)
