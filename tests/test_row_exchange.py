"Several processes that exchange rows of gradients: the steps of one process with all their ratings, whoever has how many"
import itertools,os,signal

import pytest
pytest.importorskip('duckdb')
from helpers import *
from fastai.callback.tracker import SaveModelCallback
from fastai.callback.training import GradientAccumulation
from collab_ext.shards import *
from collab_ext.shard_writer import *
from collab_ext.shard_loaders import *
from collab_ext.ring import *
from collab_ext.row_exchange import *
from test_distributed import in_processes

@pytest.fixture(scope='module')
def folder():
    "Shards whose blocks have unequal numbers of batches of 70"
    res = Path(tempfile.mkdtemp())
    simulate_ratings(200, 60, 6000, seed=0).ratings.to_parquet(res/'ratings.parquet')
    prepare_shards(res/'ratings.parquet', res/'shards', blocks=3, bucket_rows=200)
    return res

def trained(dls, n_epoch=2, cbs=None, with_cb=True, **kwargs):
    "Weights, metrics, and bytes sent"
    set_seed(1)
    cbs = [*([RowExchange()] if with_cb else []), *L(cbs)]
    learn = collab_learner(dls, 4, y_range=(1,5), metrics=[rmse,R2Score()], cbs=cbs, **kwargs)
    with learn.no_bar(),learn.no_logging(): learn.fit_one_cycle(n_epoch, .02)
    return weights(learn),list(learn.final_record[1:]),learn.row_exchange.bytes_sent if with_cb else 0

def in_memory(n=3000, **kwargs):
    set_seed(1) # a loader draws the seed of its order when it is made
    df = simulate_ratings(200, 60, n, seed=0).ratings
    return loaders(df.assign(weight=1+np.arange(len(df))%3), **merge(dict(bs=256), kwargs))

def close(a, b): return all(torch.allclose(a[k].float(), b[k].float(), atol=1e-5) for k in b)

def check_equal(found, alone, metrics):
    "All processes have the same bits, and the parameters and metrics of one process"
    for w,m,sent in found:
        assert same(w, found[0][0])
        assert close(w, alone)
        assert np.allclose(m, metrics, atol=1e-5)
        assert sent>0

nets = dict(nn=dict(use_nn=True, emb_szs=[4,4]), no_bn=dict(use_nn=True, emb_szs=[4,4], config=dict(use_bn=False)), dot={}, unknown=dict(unknown_pct=.2))

@pytest.mark.parametrize('name', nets)
@pytest.mark.parametrize('sparse', [False,True])
def test_shares_of_batches(tmp_path, name, sparse):
    "Processes that take their share of each batch take the steps of one that takes all"
    cbs = SparseRows if sparse else None
    alone,metrics,_ = trained(in_memory(), cbs=cbs, **nets[name])
    check_equal(in_processes(2, lambda rank: trained(in_memory(), cbs=cbs, **nets[name]), tmp_path), alone, metrics)

def test_weighted(tmp_path):
    "Three processes, whose shares have other weights; the last batch has fewer ratings than there are processes"
    def dls(): return in_memory(weight_name='weight', bs=218)
    alone,metrics,_ = trained(dls())
    assert len(dls().train_ds)%218==2
    check_equal(in_processes(3, lambda rank: trained(dls()), tmp_path), alone, metrics)

class Joined(ShardDL):
    "The batches of two processes, put together"
    def __iter__(self):
        split,shards = self.dataset.split,self.dataset.shards
        both = []
        for rank in range(2):
            parts = parts_of(split, workers_of(shards.n_blocks[0], rank, 2))
            if self.shuffle: random.Random(f'{self.seed} {self.epoch} {rank}').shuffle(parts)
            both.append([b for o in parts for b in self.part_batches(o, self.seed)])
        if self.shuffle: self.lengths = [len(o) for o in both]
        for a,b in itertools.zip_longest(*both): yield tuple(map(torch.cat, zip(*filter(None, (a,b)))))
        self.epoch += 1
    def __len__(self):
        split,shards = self.dataset.split,self.dataset.shards
        return max(sum(math.ceil(o.rows/self.bs) for o in parts_of(split, workers_of(shards.n_blocks[0], r, 2))) for r in range(2))

def from_shards(folder, cls=None, **kwargs):
    dls = CollabDataLoaders.from_shards(folder/'shards', bs=70, seed=1, path=folder)
    if cls: dls.loaders = [o.new(cls=cls) for o in dls.loaders]
    return dls

@pytest.mark.parametrize('name', ['nn','dot'])
def test_own_users(folder, name):
    "Processes that read blocks of users take the steps of one that reads the same ratings, though one of them has fewer batches"
    joined = from_shards(folder, Joined)
    alone,metrics,_ = trained(joined, cbs=SparseRows, with_cb=False, unknown_pct=0, **nets[name])
    few,many = sorted(joined.train.lengths)
    assert few<many
    check_equal(in_processes(2, lambda rank: trained(from_shards(folder), cbs=SparseRows, unknown_pct=0, **nets[name]), folder), alone, metrics)

def test_a_process_that_waits_trains_on(folder):
    "Batches without ratings pass through what changes ids"
    found = in_processes(2, lambda rank: trained(from_shards(folder), unknown_pct=.1, cbs=SparseRows, **nets['nn']), folder)
    assert same(*[o[0] for o in found])

def test_bytes(tmp_path):
    "Rows travel, and not tables"
    def dls(): return loaders(simulate_ratings(5000, 2000, 4000, seed=0).ratings, bs=256)
    (_,_,sent),_ = in_processes(2, lambda rank: trained(dls(), 1, SparseRows, **nets['nn']), tmp_path)
    dense = len(dls().train)*4*4*sum(dls().vocab.sizes)
    assert sent<dense/10

class Dies(Callback):
    order = 90
    def before_batch(self):
        if self.train_iter==5 and os.environ['RANK']=='0': os.kill(os.getpid(), signal.SIGKILL)

def test_killed_process(tmp_path):
    dead,other = in_processes(2, lambda rank: trained(in_memory(), cbs=Dies), tmp_path)
    assert dead==-signal.SIGKILL
    assert 'Process 1 could not' in other and 'another process has ended' in other

def resumed(path, start):
    "Train three epochs, each saved, beginning with the one numbered `start`"
    set_seed(1)
    cbs = [SparseRows(),RowExchange(),SaveModelCallback(every_epoch=True, with_opt=True)]
    learn = collab_learner(in_memory(path=path), 4, use_nn=True, emb_szs=[4,4], path=path, cbs=cbs)
    if start: learn.load(f'model_{start-1}', with_opt=True)
    with learn.no_bar(),learn.no_logging(): learn.fit_one_cycle(3, .02, start_epoch=start)
    preds = learn.get_preds()[0]
    return weights(learn),len(preds)

def test_saved_by_one_and_resumed(tmp_path):
    "One process saves each epoch; training goes on from there in several, and predictions after it are of all ratings"
    found = in_processes(2, lambda rank: resumed(tmp_path, 0), tmp_path)
    names = {o.name for o in (tmp_path/'models').iterdir()}
    assert {f'model_{i}.pth' for i in range(3)}<=names
    later = in_processes(2, lambda rank: resumed(tmp_path, 2), tmp_path)
    assert [o[1] for o in [*found,*later]]==[len(in_memory().valid_ds)]*4
    assert same(later[0][0], later[1][0])

def test_other_data(tmp_path):
    def dls(rank): return loaders(simulate_ratings(200, 60+rank, 3000).ratings, bs=256)
    found = in_processes(2, lambda rank: trained(dls(rank)), tmp_path)
    assert all("Processes disagree on data: '" in o for o in found)

def test_bad_settings(folder):
    for cb,name in ((GradientAccumulation(512),'gradient_accumulation'),(Fused(),'fused')):
        with pytest.raises(ValueError, match=f"'{name}' goes without them"): trained(in_memory(), cbs=cb)
    prepare_shards(folder/'ratings.parquet', folder/'one', blocks=1)
    found = in_processes(2, lambda rank: trained(CollabDataLoaders.from_shards(folder/'one', seed=1)), folder)
    assert all('There are 2 processes and 1 blocks of users' in o and 'blocks=2' in o for o in found)
