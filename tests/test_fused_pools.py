"Ratings in pools: each once in an epoch, few users at a time, the same bits for a seed"
from helpers import * # all of the package, and what the tests share
import pytest,torch
from importlib.util import find_spec
from fastai.torch_core import set_seed

if not find_spec('numba'): pytest.skip('numba is not installed', allow_module_level=True)
import collab_ext.fused as fused, collab_ext.fused_threads as fused_threads
from collab_ext.fused_pools import *

def ratings(n=5000, users=300, items=200, weighted=False, seed=0):
    gen = torch.Generator().manual_seed(seed)
    ids = torch.stack([(torch.rand(n, generator=gen)**2*m).int() for m in (users,items)], 1)
    vocab = dict(user=['#na#', *range(1, users)], item=['#na#', *range(1, items)])
    return Ratings(vocab, ids, torch.randn(n, generator=gen), weight=torch.rand(n, generator=gen) if weighted else None)

def rows(batch): return sorted(zip(*batch[0].T.tolist(), *[o.tolist() for o in batch[1:]]))
def whole(batches): return tuple(map(torch.cat, zip(*batches)))

@pytest.mark.parametrize('weighted', [False,True])
@pytest.mark.parametrize('n,pool,run', [(1,64,16),(15,64,16),(16,64,16),(17,64,16),(64,64,16),(65,64,16),(5000,1024,64),(4999,512,512),(5000,2**18,256)])
def test_an_epoch_has_each_rating_once(n, pool, run, weighted):
    ds = ratings(n, weighted=weighted)
    before = ds.ids.clone()
    dl = PooledDL(PooledRatings(ds, pool, run), bs=3, shuffle=True)
    for _ in range(2): assert rows(whole(dl))==rows(ds.batch(torch.arange(n)))
    assert torch.equal(ds.ids, before)

@pytest.mark.parametrize('users,items,side', [(600,100,0),(100,600,1)])
def test_a_pool_has_few_rows_of_the_larger_side(users, items, side):
    pooled = PooledRatings(ratings(20_000, users, items), 1024, 64)
    batches = [x[:,side] for x,_ in PooledDL(pooled, bs=16, shuffle=True)]
    few = np.mean([len(o.unique()) for o in batches]) # a batch may have the end of a pool, and the beginning of another
    of_a_run = np.mean([len(o[:64].unique()) for o in batches])
    assert few<.2*600 and of_a_run>.3*few

def test_a_seed_has_its_order():
    def epochs(seed):
        set_seed(seed)
        dl = PooledDL(PooledRatings(ratings(), 512, 64), bs=4, shuffle=True)
        return [whole(dl)[1] for _ in range(2)]
    (a,b),(c,d),(e,_) = epochs(1),epochs(1),epochs(2)
    assert torch.equal(a, c) and torch.equal(b, d)
    assert not torch.equal(a, b) and not torch.equal(a, e)

def test_pools_share_the_ratings_out_evenly():
    count = torch.randint(50, (3000,))
    n = torch.bincount(pools_of(count, 1000), weights=count.double())
    assert (n[:-1]-1000).abs().max()<=100
    assert (pools_of(count, 1000).diff()>=0).all() # neighbours together

def learner(df, **kw):
    set_seed(0)
    return collab_learner(loaders(df, valid_pct=.2, bs=64), 4, cbs=Fused(bs=2**14, **kw))

@pytest.fixture
def made(monkeypatch):
    "How often ratings were put into pools; few are enough"
    import collab_ext.fused_pools as module
    monkeypatch.setattr(fused, '_pools_from', 2**14)
    found = []
    def counted(ratings, threads): return found.append(len(ratings)) or PooledRatings(ratings, pool=4096, threads=threads)
    monkeypatch.setattr(module, 'PooledRatings', counted)
    monkeypatch.setattr(fused_threads, 'ThreadedStep', partial(fused_threads.ThreadedStep, min_bs=0))
    return found

@pytest.fixture(scope='module')
def df():
    "Users in the order of their mean rating: those of a pool are alike"
    df = simulate_ratings(1500, 400, 60_000, seed=1).ratings
    means = df.groupby('user').rating.mean().sort_values()
    return df.assign(user=df.user.map(dict(zip(means.index, range(len(means))))))

def trained(learn, epochs=3):
    with learn.no_bar(),learn.no_logging(): learn.fit_one_cycle(epochs)
    return learn

def error(learn): return learn.validate()[0]

@pytest.mark.parametrize('threads', [1,2])
def test_many_ratings_are_trained_from_pools_made_once_for_a_fit(df, made, threads):
    learn = trained(learner(df, threads=threads))
    assert made==[48_000] and learn.fused.pooled is None and type(learn.dls.train) is CollabDL
    again = trained(learner(df, threads=threads))
    for a,b in zip(learn.model.parameters(), again.model.parameters()): assert torch.equal(a, b)

def test_pools_learn_as_much(df, made, monkeypatch):
    pooled = error(trained(learner(df), 8))
    monkeypatch.setattr(fused, '_pools_from', 2**30)
    plain = error(trained(learner(df), 8))
    assert len(made)==1 and pooled<1.02*plain

def test_what_has_an_order_of_its_own_keeps_it(df, made):
    trained(learner(df), 1) # an epoch is not worth it
    in_order = learner(df)
    in_order.dls.train.shuffle = False
    trained(in_order)
    own = learner(df)
    own.dls.train.get_idxs = lambda: torch.arange(48_000)
    trained(own)
    cut = learner(df)
    cut.dls.train.create_batch = cut.dls.train.dataset.batch
    trained(cut)
    trained(learner(df, path='torch'))
    assert made==[]

@pytest.mark.parametrize('change', [
    lambda o: setattr(o.dls.train, 'before_batch', Pipeline(lambda b: b)), # would be shown the numbers of runs
    lambda o: setattr(o.recorder, 'train_metrics', True), # metrics of ranking look at the loader's dataset
])
def test_what_looks_at_numbers_or_the_dataset_is_shown_the_loaders_own(df, made, change):
    learn = learner(df)
    change(learn)
    trained(learn)
    assert made==[]

def test_ids_of_64_bits_are_the_same_ratings():
    ds = ratings(3000)
    wide = ds.replace(ids=ds.ids.long())
    a,b = [rows(PooledRatings(o, 512, 64).batch(torch.arange(47))) for o in (ds,wide)]
    assert a==b==rows(ds.batch(torch.arange(3000)))

@pytest.mark.parametrize('bad', [-1,300,2**31-1])
def test_an_id_without_a_row_is_refused(bad):
    ds = ratings(100)
    ds.ids[7,0] = bad
    with pytest.raises(IndexError, match=f'id {bad} is beyond'): PooledRatings(ds, 64, 16)

def test_ratings_that_change_between_epochs_are_arranged_anew(df, made):
    class Change(Callback):
        def after_epoch(self): self.dls.train_ds.targ[:10] += 1
    learn = learner(df)
    learn.add_cb(Change())
    trained(learn)
    assert len(made)==3

class Interrupt(Callback):
    def after_epoch(self): raise KeyboardInterrupt

def test_an_interrupted_fit_leaves_no_ratings_in_an_export(df, made):
    learn = learner(df)
    with pytest.raises(KeyboardInterrupt): trained_with(learn, Interrupt())
    assert made==[48_000] and learn.fused.pooled is not None
    state = learn.fused.__getstate__()
    assert not {'pooled','params','tabs','step'} & {o for o,v in state.items() if v is not None}
    trained(learn)
    assert made==[48_000]*2 and learn.fused.pooled is None

def trained_with(learn, cb):
    with learn.no_bar(),learn.no_logging(): learn.fit_one_cycle(3, cbs=cb)

def test_a_loader_may_drop_the_last_batch(df, made):
    learn = learner(df)
    learn.dls.train.drop_last = True
    trained(learn)
    assert made==[48_000]

def test_in_order_where_nothing_is_shuffled():
    dl = PooledDL(PooledRatings(ratings(1000), 512, 64), bs=2)
    a,b = [whole(dl)[1] for _ in range(2)]
    assert torch.equal(a, b)
