"Several processes: the same bits as one, and what happens when one of them dies or disagrees"
import itertools,os,random,resource,shutil,signal,socket,subprocess,sys,tempfile,time

import pytest
pytest.importorskip('duckdb')
from helpers import *
from collab_ext.shards import *
from collab_ext.shard_writer import *
from collab_ext.shard_loaders import *
from collab_ext.ring import *
from collab_ext.sharded_closed_form import *

def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]

def in_processes(n, f, folder, wait=60):
    "Run `f` of the rank in `n` processes; what each returned, an exception as text, or the signal that ended it"
    port = free_port()
    pids = []
    for rank in range(n):
        pid = os.fork()
        if not pid: _child(rank, n, port, f, folder)
        pids.append(pid)
    codes = []
    try:
        for pid in pids: codes.append(_end_of(pid, wait))
    finally: _kill(pids[len(codes)+1:])
    return [torch.load(folder/f'result-{port}-{r}', weights_only=False) if c==0 else c for r,c in enumerate(codes)]

def _child(rank, n, port, f, folder):
    os.environ.update(RANK=str(rank), WORLD_SIZE=str(n), MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    try: res = f(rank)
    except BaseException as e: res = f'{type(e).__name__}: {e}'
    try: torch.save(res, folder/f'result-{port}-{rank}')
    except BaseException: os._exit(1) # or it would go on as a second pytest
    os._exit(0)

def _kill(pids):
    "End those that are still there after one has failed the test"
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

def _end_of(pid, wait):
    "Exit code of a process; one that does not end is killed, and fails the test"
    end = time.monotonic()+wait
    while time.monotonic()<end:
        done,status = os.waitpid(pid, os.WNOHANG)
        if done: return os.waitstatus_to_exitcode(status)
        time.sleep(.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    raise AssertionError(f'process {pid} did not end within {wait} seconds')

@pytest.fixture(scope='module')
def folder():
    res = Path(tempfile.mkdtemp())
    simulate_ratings(200, 60, 6000, seed=0).ratings.to_parquet(res/'ratings.parquet')
    prepare_shards(res/'ratings.parquet', res/'shards', blocks=4, bucket_rows=200)
    return res

def ring_learner(folder, cbs=None, seed=1, n_factors=4, **kwargs):
    set_seed(1)
    dls = CollabDataLoaders.from_shards(folder/'shards', bs=100, seed=seed, path=folder)
    return collab_learner(dls, n_factors, y_range=(1,5), metrics=rmse, unknown_pct=.1, cbs=[Fused(),Ring(**kwargs),*L(cbs)])

def ring_weights(folder, n_epoch=2, cbs=None, **kwargs):
    learn = ring_learner(folder, cbs, **kwargs)
    with learn.no_bar(),learn.no_logging(): learn.fit_one_cycle(n_epoch, .02)
    return weights(learn),list(learn.final_record[1:]),learn.ring.bytes_sent

_script = """import sys
from fastai.basics import rmse
from collab_ext import CollabDataLoaders,Fused,collab_learner
from collab_ext.ring import Ring
dls = CollabDataLoaders.from_shards(sys.argv[1]+'/shards', bs=100, seed=1, path=sys.argv[1])
learn = collab_learner(dls, 4, y_range=(1,5), metrics=rmse, unknown_pct=.1, cbs=[Fused(),Ring()])
with learn.no_bar(),learn.no_logging(): learn.fit(2, .02)
"""

def test_scripts_end_by_themselves(folder):
    "An ordinary script ends with 0 (threads of the connection that outlive the interpreter abort it, half of the time with some millions of ratings)"
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    env = dict(os.environ, WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    started = [subprocess.Popen([sys.executable,'-W','ignore','-c',_script,str(folder)], env=dict(env, RANK=str(r)), stderr=subprocess.PIPE, text=True) for r in range(2)]
    errors = [o.communicate(timeout=120)[1] for o in started]
    assert [o.returncode for o in started]==[0,0], errors

# --- the ring

def test_memory_is_given_back(folder, monkeypatch):
    "Before the first part, and then each time after so many ratings"
    given = []
    monkeypatch.setattr('collab_ext.shard_loaders._rows_kept', 2000)
    monkeypatch.setattr('collab_ext.shard_loaders.give_back', lambda: given.append(seen))
    dls,seen = CollabDataLoaders.from_shards(folder/'shards', bs=100, path=folder),0
    for x,_ in dls.train: seen += len(x)
    assert given[0]==0 and len(given)==len(dls.train_ds)//2000+1, given
    assert all(abs(b-a-2000)<500 for a,b in itertools.pairwise(given)), given

def test_ring_gives_the_same_bits(folder):
    "1, 2 and 3 processes end with the same tables, and with the metrics of all ratings"
    alone,metrics,_ = ring_weights(folder)
    assert metrics[1]<1.1
    for n in (2,3):
        found = in_processes(n, lambda rank: ring_weights(folder), folder)
        for w,m,sent in found:
            assert same(w, alone), n
            assert np.allclose(m, metrics, atol=1e-5)
            assert sent>0

def test_ring_sends_little(folder):
    "Each epoch sends the items round once, and once to all; users travel once"
    n_users,n_items = Shards(folder/'shards').sizes
    row = 4*(4+1)
    found = in_processes(2, lambda rank: ring_weights(folder, 3)[2], folder)
    assert sum(found) <= 3*(2+1)*n_items*row + n_users*row

def test_ring_with_other_data_per_process(folder):
    other = folder/'other'
    other.mkdir(exist_ok=True)
    simulate_ratings(200, 60, 5000, seed=3).ratings.to_parquet(other/'ratings.parquet')
    prepare_shards(other/'ratings.parquet', other/'shards', blocks=4)
    found = in_processes(2, lambda rank: ring_weights((folder,other)[rank]), folder)
    assert all("Processes disagree on preparation: '" in o for o in found)

def test_all_join_before_one_leaves(folder):
    "A process that ends at once leaves no others waiting for its connection (without a barrier, each fifth such start of twelve hung)"
    for _ in range(1 if not full else 40): assert in_processes(12, lambda rank: tuple(processes(30)), folder)==[(r,12) for r in range(12)]

def test_ring_with_too_many_processes(folder):
    found = in_processes(5, lambda rank: ring_weights(folder), folder)
    assert all('There are 5 processes and 4 blocks' in o and 'blocks=5' in o for o in found)

class Dies(Callback):
    "Kill one process in a batch"
    order = 90
    def __init__(self, rank, batch): self.rank,self.batch,self.n = rank,batch,0
    def before_batch(self):
        self.n += 1
        if self.n==self.batch and int(os.environ['RANK'])==self.rank: os.kill(os.getpid(), signal.SIGKILL)

@pytest.mark.parametrize('batch', [10,45])
def test_killed_process(folder, tmp_path, batch):
    "The other one ends with a message; 1 → 2 → 1 processes go on from the checkpoint to the same bits, and no half-written file is left"
    alone,*_ = ring_weights(folder, 4)
    dead,other = in_processes(2, lambda rank: ring_weights(folder, 4, Dies(0, batch), checkpoint=tmp_path/'run'), tmp_path)
    assert dead==-signal.SIGKILL
    assert 'Process 1 could not' in other and 'another process has ended' in other
    after,*_ = ring_weights(folder, 4, checkpoint=tmp_path/'run')
    assert same(after, alone)
    assert [o.name for o in (tmp_path/'run').iterdir()]==['epoch-4']

@pytest.mark.parametrize('way,what', [('pass_items','pass on a block of items'), ('share_rows','share its rows'), ('all_values','compare notes')])
def test_killed_while_sharing(folder, tmp_path, way, what):
    "Whichever exchange the others wait in, they say which it was"
    def f(rank):
        processes()
        if not rank: setattr(sys.modules['collab_ext.ring'], way, lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGKILL))
        return ring_weights(folder)
    dead,other = in_processes(2, f, tmp_path)
    assert dead==-signal.SIGKILL
    assert f'Process 1 could not {what}: another process has ended' in other

# --- closed forms

def solved(folder, n=4, y_range=(1,5), cbs=None):
    set_seed(1)
    learn = collab_learner(CollabDataLoaders.from_shards(folder/'shards', path=folder), 6, y_range=y_range, metrics=rmse)
    with learn.no_bar(),learn.no_logging(): learn.solve(n, cbs)
    return weights(learn),list(learn.final_record[1:]),learn.model.prior

def test_closed_form_in_two_processes(folder):
    "Rows, metrics and prior are those of one process, but for rounding"
    alone,metrics,prior = solved(folder)
    for w,m,p in in_processes(2, lambda rank: solved(folder), folder):
        assert all(torch.allclose(w[k], alone[k], atol=1e-4) for k in alone)
        assert np.allclose(m, metrics, atol=1e-5)
        assert abs(p['noise']-prior['noise'])<1e-5

def test_closed_form_by_groups_of_items(folder, monkeypatch):
    "With room for the sums of 20 items, rows are those of one pass, in one process and in three"
    alone,_,prior = solved(folder)
    groups = []
    class Counted(ItemSums):
        def begin(self, rows):
            groups.append(rows.stop-rows.start)
            return super().begin(rows)
    monkeypatch.setattr('collab_ext.sharded_closed_form.ItemSums', Counted)
    monkeypatch.setattr('collab_ext.sharded_closed_form.most_sums', 20*sums_width(7, 8))
    for n in (1,3):
        for w,_,p in in_processes(n, lambda rank: solved(folder), folder):
            assert all(torch.allclose(w[k], alone[k], atol=1e-4) for k in alone)
            assert abs(p['noise']-prior['noise'])<1e-5
    solved(folder, 1)
    assert len(groups)>2 and max(groups)<=20 and sum(groups)==Shards(folder/'shards').sizes[1]

class DiesAfterSweep(Callback):
    "Kill the first process after its first sweep"
    def after_epoch(self):
        if os.environ['RANK']=='0': os.kill(os.getpid(), signal.SIGKILL)

def test_closed_form_with_a_dead_process(folder):
    dead,*others = in_processes(3, lambda rank: solved(folder, cbs=DiesAfterSweep()), folder)
    assert dead==-signal.SIGKILL
    for r,o in enumerate(others, 1): assert f'Process {r} could not' in o and 'another process has ended' in o

def test_closed_form_goes_on(folder, tmp_path):
    "In two processes after one, from the last finished sweep and to more of them; another training is refused"
    alone,metrics,prior = solved(folder, 5)
    solved(folder, 2, cbs=Ring(tmp_path/'run'))
    for w,m,p in in_processes(2, lambda rank: solved(folder, 5, cbs=Ring(tmp_path/'run')), tmp_path):
        assert all(torch.allclose(w[k], alone[k], atol=1e-5) for k in alone)
        assert np.allclose(m, metrics, atol=1e-5) and abs(p['noise']-prior['noise'])<1e-6
    assert [o.name for o in (tmp_path/'run').iterdir()]==['epoch-5']
    with pytest.raises(ValueError, match="y_range=\\[1.0, 5.0\\], and this one has None"): solved(folder, 5, y_range=None, cbs=Ring(tmp_path/'run'))
    with pytest.raises(ValueError, match="way='closed form', and this one has 'ring'"): ring_weights(folder, checkpoint=tmp_path/'run')

def test_miscounted_shards(folder):
    shards = Shards(folder/'shards')
    count = torch.from_numpy(read_counts(shards, 0))
    for change in (1,-1):
        other = count.clone()
        other[shards.block(0, 0).start+3] += change
        with pytest.raises(ValueError, match='users.parquet are not those of the ratings'): block_ratings(shards, 0, other)

# --- killed at random points

def dies_in_time(rank, rng, took):
    "Kill this process at a random time"
    signal.setitimer(signal.ITIMER_REAL, rng.uniform(.01, took/2)) # nothing handles the signal, so it ends the process as SIGKILL does

def dies_writing(rank, rng, took):
    "Kill this process in the middle of a random one of its files"
    import collab_ext.ring as ring
    save,count = ring.write_checked,itertools.count(1)
    n = rng.randint(1, 8)
    def half(o, path):
        save(o, path)
        if next(count)<n: return
        os.truncate(path, os.path.getsize(path)//2)
        os.kill(os.getpid(), signal.SIGKILL)
    ring.write_checked = half # of this process alone

def whole_checkpoints(folder, n_blocks=4):
    "Raise an error unless all that is called a checkpoint can be read"
    for o in folder.glob('epoch-*'):
        if o.suffix=='.tmp': continue
        for name in ['items']+[f'users-{b}' for b in range(n_blocks)]: read_checked(o/f'{name}.pt')

@pytest.mark.parametrize('way', ['ring','closed form'])
def test_random_kills(folder, tmp_path, way):
    "1 → 2 → 1 processes, the first two killed at random points: the result of an undisturbed run, and no half-written file"
    n_epoch = 8
    def train(at): return ring_weights(folder, n_epoch, checkpoint=at) if way=='ring' else solved(folder, n_epoch, cbs=Ring(at))
    started = time.monotonic()
    (alone,*_), = in_processes(1, lambda rank: train(tmp_path/'alone'), tmp_path)
    took,n_killed = time.monotonic()-started,0
    rng = random.Random(0)
    kills = itertools.cycle([dies_in_time,dies_writing,dies_writing,dies_in_time])
    while n_killed<(20 if full else 3):
        at = tmp_path/f'after-{n_killed}-kills'
        for n in (1,2):
            victim = rng.randrange(n)
            kill = next(kills)
            def f(rank):
                processes() # all have joined
                if rank==victim: kill(rank, rng, took)
                return train(at)
            found = in_processes(n, f, tmp_path)
            rng.random() # or the next would die at the same point
            dead = [o for o in found if isinstance(o, int)]
            n_killed += len(dead)
            whole_checkpoints(at)
            assert set(dead)<={-signal.SIGALRM,-signal.SIGKILL}
            for o in found: assert o in dead or isinstance(o, tuple) or 'another process has ended' in o, o
        (after,*_), = in_processes(1, lambda rank: train(at), tmp_path)
        assert same(after, alone) if way=='ring' else all(torch.allclose(after[k], alone[k], atol=1e-5) for k in alone)
        assert [o.name for o in at.iterdir()]==[f'epoch-{n_epoch}']
        shutil.rmtree(at)

def test_checkpoints_of_another_training_are_named(folder, tmp_path):
    ring_weights(folder, checkpoint=tmp_path/'ck')
    with pytest.warns(UserWarning, match='nothing is trained'): ring_weights(folder, checkpoint=tmp_path/'ck')
    with pytest.raises(ValueError, match='n_factors=4'): ring_weights(folder, checkpoint=tmp_path/'ck', n_factors=5)
    learn = ring_learner(folder, checkpoint=tmp_path/'ck')
    learn.model.y_range = (0,10)
    with learn.no_bar(),learn.no_logging(),pytest.raises(ValueError, match='y_range'): learn.fit(2, .02)

def test_checkpoints_of_another_schedule_are_refused(folder, tmp_path):
    ring_weights(folder, checkpoint=tmp_path/'ck')
    def fit(rate=None, **kwargs):
        learn = ring_learner(folder, checkpoint=tmp_path/'ck')
        learn.fused.rate = rate
        with learn.no_bar(),learn.no_logging(): learn.fit_one_cycle(2, **kwargs)
    for name,kwargs in dict(lr=dict(lr_max=.01), wd=dict(lr_max=.02, wd=.3), rate=dict(lr_max=.02, rate=3.)).items():
        with pytest.raises(ValueError, match=f'with {name}=.*begin as that one did'): fit(**kwargs)
    with pytest.raises(ValueError, match='with lr='): fit(lr_max=.02, pct_start=.5)
    learn = ring_learner(folder, checkpoint=tmp_path/'ck')
    with learn.no_bar(),learn.no_logging(),pytest.raises(ValueError, match='with lr='): learn.fit(2, .02)

def test_fewer_sweeps_than_are_done(folder, tmp_path):
    "The last sweep's rows, and a warning"
    ten,*_ = solved(folder, 4, cbs=Ring(tmp_path/'ck'))
    with pytest.warns(UserWarning, match='4 sweeps are done in .*, and 2 are asked for, so nothing is trained: the tables are those after 4'):
        learn = collab_learner(CollabDataLoaders.from_shards(folder/'shards', path=folder), 6, y_range=(1,5), metrics=rmse)
        with learn.no_bar(),learn.no_logging(): learn.solve(2, Ring(tmp_path/'ck'))
    assert same(weights(learn), ten)
    with pytest.warns(UserWarning, match='4 sweeps are done'): solved(folder, 4, cbs=Ring(tmp_path/'ck'))

def limit_files(n): resource.setrlimit(resource.RLIMIT_FSIZE, (n,resource.RLIM_INFINITY))

class FullDisk(Callback):
    "From the second epoch on, files of one process end after 1000 bytes, as those on a full disk do"
    order = 90
    def __init__(self, rank): self.rank = rank
    def before_validate(self):
        if self.epoch==1 and int(os.environ['RANK'])==self.rank: limit_files(1000)

@pytest.mark.parametrize('n,victim', [(1,0),(2,0),(2,1)])
def test_full_disk(folder, tmp_path, n, victim):
    "All processes name the folder and what to do, the checkpoint before is whole, and nothing of the next is left"
    alone,*_ = ring_weights(folder, 3)
    def f(rank):
        try: return ring_weights(folder, 3, FullDisk(victim), checkpoint=tmp_path/'ck')
        finally: limit_files(resource.RLIM_INFINITY)
    for o in in_processes(n, f, tmp_path):
        assert o.startswith('OSError') and f"The checkpoint epoch-2 can't be written to {tmp_path/'ck'}" in o and 'make room there' in o
    assert [o.name for o in (tmp_path/'ck').iterdir()]==['epoch-1']
    whole_checkpoints(tmp_path/'ck')
    after,*_ = ring_weights(folder, 3, checkpoint=tmp_path/'ck')
    assert same(after, alone)

def test_lr_find(folder, tmp_path):
    "In one process it works, and leaves checkpoints alone; in two, all say what to do"
    def find(rank):
        learn = ring_learner(folder, checkpoint=tmp_path/'ck')
        before = weights(learn)
        with learn.no_bar(): lr = learn.lr_find(num_it=100, show_plot=False).valley
        assert same(weights(learn), before)
        return lr
    assert 1e-7<find(0)<10
    assert not (tmp_path/'ck').exists()
    for o in in_processes(2, find, tmp_path): assert o.startswith('ValueError') and '`lr_find` ends where the loss rises, and 2 processes' in o and 'without `torchrun`' in o

def test_fused_alone_in_two_processes(folder):
    def alone(rank):
        dls = CollabDataLoaders.from_shards(folder/'shards', bs=100, seed=1, path=folder)
        learn = collab_learner(dls, 4, cbs=Fused())
        with learn.no_bar(),learn.no_logging(): learn.fit(1, .02)
    assert all('Ring()' in o for o in in_processes(2, alone, folder))

# --- validation, damage, and scripts that lack a callback

@pytest.mark.parametrize('way', ['ring','closed form'])
def test_validation_reads_and_writes_no_checkpoint(folder, tmp_path, way):
    "fastai tells callbacks of a fit when it validates, too: the tables stay, whatever was done to them after training"
    learn = ring_learner(folder, checkpoint=tmp_path/'c')
    with learn.no_bar(),learn.no_logging():
        if way=='ring': learn.fit_one_cycle(2, .02)
        else: learn.solve(2)
    trained = learn.final_record[-1]
    files = {o:o.stat().st_mtime_ns for o in (tmp_path/'c').rglob('*')}
    with torch.no_grad(): learn.model.u_weight.weight.mul_(.5)
    kept = learn.model.u_weight.weight.clone()
    with learn.no_bar():
        errors = learn.validate()
        learn.get_preds(dl=learn.test_dl(pd.DataFrame({'user':learn.vocab.labels[0][1:3], 'item':learn.vocab.labels[1][1:3]})))
    assert torch.equal(learn.model.u_weight.weight, kept) and errors[1]!=trained
    assert files=={o:o.stat().st_mtime_ns for o in (tmp_path/'c').rglob('*')}

def test_validation_in_two_processes(folder, tmp_path):
    def both(rank):
        learn = ring_learner(folder, checkpoint=tmp_path/'c')
        with learn.no_bar(),learn.no_logging():
            learn.fit_one_cycle(2, .02)
            return learn.final_record[2],learn.validate()[1]
    for a,b in in_processes(2, both, tmp_path): assert abs(a-b)<1e-5

@pytest.mark.parametrize('damage,said', [(lambda raw: raw[:1000], 'is damaged: delete'), (lambda raw: raw[:3], 'is damaged'),
    (lambda raw: raw[:2000]+bytes([raw[2000]^1])+raw[2001:], 'is damaged'), (None, "can't be read .*: delete")])
@pytest.mark.parametrize('file', ['items.pt','users-2.pt'])
def test_damaged_checkpoints(folder, tmp_path, file, damage, said):
    ring_weights(folder, checkpoint=tmp_path/'c')
    path, = (tmp_path/'c').rglob(file)
    if damage is None: path.unlink()
    else: path.write_bytes(damage(path.read_bytes()))
    with pytest.raises((ValueError,OSError), match=said): ring_weights(folder, checkpoint=tmp_path/'c')

def test_rates_that_differ(folder, tmp_path):
    def one(rank):
        learn = ring_learner(folder)
        with learn.no_bar(),learn.no_logging(): learn.fit(1, .02+.01*rank)
    for o in in_processes(2, one, tmp_path): assert "lr" in o and 'ValueError' in o

@pytest.mark.parametrize('use_nn', [False,True])
def test_no_callback_shares_the_work(folder, tmp_path, use_nn):
    def one(rank):
        learn = collab_learner(CollabDataLoaders.from_shards(folder/'shards', bs=500, path=folder), use_nn=use_nn, y_range=(1,5))
        with learn.no_bar(),learn.no_logging(): learn.fit(1, 1e-3)
    for o in in_processes(2, one, tmp_path): assert '2 processes were started, and each would train by itself' in o

@pytest.mark.parametrize('over', [0,1,2])
def test_no_rating_is_alone_in_a_batch(folder, over):
    shards = Shards(folder/'shards')
    bs = shards.train.parts[0].rows-over if over else 100
    dls = CollabDataLoaders.from_shards(shards, bs=bs, path=folder)
    sizes = [len(x) for x,_ in dls.train]
    assert sum(sizes)==shards.train.rows and len(sizes)==len(dls.train) and min(sizes)>1 and max(sizes)<=bs+1
    learn = collab_learner(dls, use_nn=True, y_range=(1,5))
    with learn.no_bar(),learn.no_logging(): learn.fit(1, 1e-3) # batch norm wants two ratings
