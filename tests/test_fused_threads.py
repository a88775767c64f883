"Fused training in several threads: the same bits for a seed, every rating once"
from helpers import * # all of the package, and what the tests share
import pytest,torch
from importlib.util import find_spec
from fastai.metrics import rmse
from fastai.torch_core import set_seed
from torch import tensor

if not find_spec('numba'): pytest.skip('numba is not installed', allow_module_level=True)
from collab_ext.fused_numba import step
from collab_ext.fused_threads import *

n_users,n_items,k = 300,200,7

def case(own={}, weighted=False, n=20_000):
    "A batch and tables, alike for each call"
    set_seed(3)
    shapes = (n_users,k),(n_items,k),(n_users,1),(n_items,1)
    tabs = [torch.randn(o)*.3 for o in shapes]
    tabs = [RowTable(o, .05*(1+s), .02*s, **{a:f(o) for a,f in own.items()}) for s,o in enumerate(tabs)]
    u = (torch.rand(n)**2*n_users).long() # some have many more ratings than others
    x = torch.stack([u, torch.randint(n_items, (n,))], 1)
    return x,torch.rand(n)*4+1,torch.rand(n) if weighted else None,tabs

def counts(x): return [torch.bincount(x[:,s], minlength=n).numpy() for s,n in enumerate((n_users,n_items))]
def threaded(x, threads): return ThreadedStep(threads, counts(x), min_bs=0)

def outcome(threads, *args, y_range=None, rounds=1, **kw):
    x,y,w,tabs = case(*args, **kw)
    f = threaded(x, threads)
    for _ in range(rounds): pred = f(x, y, w, tabs, .3, y_range)
    return [pred, *[t.w for t in tabs]]

held = dict(rate=lambda p: torch.rand(len(p)).round(), pull=lambda p: torch.rand(len(p)), anchor=torch.randn_like)

@pytest.mark.parametrize('threads', [2,3,7])
@pytest.mark.parametrize('weighted', [False,True])
@pytest.mark.parametrize('own', [{},held])
@pytest.mark.parametrize('y_range', [None,(0,6)])
def test_threads_are_one_thread_in_the_order_of_the_schedule(threads, weighted, own, y_range):
    "Rows of blocks that are trained at once are apart, so one thread that trains on block after block gets the same numbers"
    got = outcome(threads, own, weighted, y_range=y_range)
    x,y,w,tabs = case(own, weighted)
    f = threaded(x, threads)
    blocks = f.blocks(x, tabs)
    order = np.concatenate([blocks[p*threads+(p+r)%threads] for r in range(threads) for p in range(threads)])
    assert sorted(order.tolist())==list(range(len(x))) # every rating once
    o = torch.from_numpy(order).long()
    pred = step(x[o], y[o], None if w is None else w[o], tabs, .3, y_range)
    for a,b in zip(got, [pred[o.argsort()], *[t.w for t in tabs]]): torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)

@pytest.mark.parametrize('threads', [2,3])
def test_same_bits(threads):
    first = outcome(threads, rounds=4)
    for _ in range(5): assert same(first, outcome(threads, rounds=4))

def test_blocks_share_no_rows_and_keep_their_order():
    x,y,w,tabs = case()
    blocks = threaded(x, 3).blocks(x, tabs)
    for b in blocks: assert (np.diff(b)>0).all()
    for r in range(3):
        parts = [x[blocks[p*3+(p+r)%3]] for p in range(3)]
        for s in (0,1):
            rows = [set(o[:,s].tolist()) for o in parts]
            assert sum(map(len, rows))==len(set.union(*rows))
    sizes = [len(o) for o in blocks]
    assert max(sizes)<1.3*min(sizes)

def test_one_thread_is_the_plain_loop():
    x,y,w,tabs = case()
    a = [step(x, y, w, tabs, .3), *[t.w for t in tabs]]
    x,y,w,tabs = case()
    small = ThreadedStep(2, counts(x), min_bs=10**6) # too few for two
    assert same(a, [small(x, y, w, tabs, .3), *[t.w for t in tabs]])

@pytest.mark.parametrize('bad', [(-1,0),(n_users,0),(0,-2),(0,n_items)])
@pytest.mark.parametrize('where', [0,9_000,19_999])
def test_ids_beyond_the_tables_are_an_error(bad, where):
    x,y,w,tabs = case()
    f = threaded(x, 2)
    x[where] = tensor(bad)
    before = [t.w.clone() for t in tabs]
    with pytest.raises(IndexError, match=f'{bad[0]}, {bad[1]}. are beyond'): f(x, y, w, tabs)
    assert same(before, [t.w for t in tabs]) # nothing was trained

def test_tables_smaller_than_the_threads():
    x,y,w,tabs = case()
    x = x%3
    tabs = [RowTable(t.w[:3], .1) for t in tabs]
    pred = ThreadedStep(4, [np.ones(3)]*2, min_bs=0)(x, y, None, tabs)
    assert torch.isfinite(pred).all()

def test_a_crew_waits_for_all_and_tells_of_errors():
    done = []
    def work(j):
        if not j: raise KeyError('mine')
        time.sleep(.05)
        done.append(j)
    crew = Crew(3)
    with pytest.raises(KeyError, match='mine'): crew.each(work)
    assert sorted(done)==[1,2]
    def other(j):
        if j==1: raise KeyError('theirs')
    with pytest.raises(KeyError, match='theirs'): crew.each(other)
    assert crew.each(lambda j: -j)==[0,-1,-2]

def test_a_crew_after_a_fork():
    crew = Crew(2)
    crew.each(lambda j: j)
    def child(): assert crew.each(lambda j: j+1)==[1,2]
    assert in_child(child)==0

@pytest.mark.parametrize('weighted', [False,True])
@pytest.mark.parametrize('n', [0,1,5,4000])
def test_batches_are_those_of_the_ratings(weighted, n):
    df = simulate_ratings(100, 80, 3000).ratings.assign(much=lambda o: np.arange(len(o))/100)
    ratings = CollabDataLoaders.from_df(df, seed=1, weight_name='much' if weighted else None).train_ds
    idxs = torch.randint(len(ratings), (n,), dtype=torch.int32)
    got,want = take_batch(Crew(3), ratings, idxs),ratings.batch(idxs)
    assert len(got)==len(want)==2+weighted
    for a,b in zip(got, want): assert a.dtype==b.dtype and torch.equal(a, b)

# ---- In the loop ---------------------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def many(): return simulate_ratings(600, 400, 60_000).ratings

def trained(df, path, threads, n=3, cbs=(), wd=None, weight_name=None, **kw):
    set_seed(1, reproducible=True)
    dls = CollabDataLoaders.from_df(df, seed=1, unknown='mean', device='cpu', weight_name=weight_name)
    learn = collab_learner(dls, 8, path=path, metrics=rmse, cbs=[Fused(threads=threads, bs=2**15), *L(cbs)], wd=wd)
    with learn.no_bar(),learn.no_logging(): learn.fit_one_cycle(n, .02, **kw)
    return learn

@pytest.mark.parametrize('threads', [2,3])
def test_a_seed_and_a_number_of_threads(many, tmp_path, threads):
    a,b = [trained(many, tmp_path, threads) for _ in range(2)]
    assert same(weights(a), weights(b))
    assert a.recorder.losses==b.recorder.losses

def test_small_batches_in_threads_too(many, tmp_path, monkeypatch):
    "The loader's batches are cut by the step, and torch has its threads again afterwards, also after an error"
    import collab_ext.fused_threads as module
    cut = []
    class Small(ThreadedStep):
        def __init__(self, *args): super().__init__(*args, min_bs=0)
        def batch(self, ratings, idxs):
            cut.append((len(idxs), torch.get_num_threads()))
            return super().batch(ratings, idxs)
    monkeypatch.setattr(module, 'ThreadedStep', Small)
    torch.set_num_threads(2)
    try:
        a,b = [trained(many, tmp_path, 2) for _ in range(2)]
        assert same(weights(a), weights(b))
        assert len(cut)==12 and {o for _,o in cut}=={1} and torch.get_num_threads()==2
        class Fails(Callback):
            order = 90
            def before_batch(self): raise KeyError('mine')
        with pytest.raises(KeyError): trained(many, tmp_path, 2, cbs=Fails())
        assert torch.get_num_threads()==2
    finally: torch.set_num_threads(1)

def test_as_good_as_one_thread(many, tmp_path):
    one,two,three = [trained(many, tmp_path, o, n=10).recorder.values[-1][2] for o in (1,2,3)]
    assert two==pytest.approx(one, abs=.005) and three==pytest.approx(one, abs=.005)

def test_frozen_tables_and_rows(many, tmp_path):
    learn = trained(many, tmp_path, 2, n=1)
    before = {t:p.detach().clone() for t,p in tables(learn.model).items()}
    held = dict(i_weight=torch.arange(len(before['i_weight']))<50, u_bias=torch.arange(len(before['u_bias']))<50)
    learn.freeze()
    with learn.no_bar(),learn.no_logging(): learn.fit(1, cbs=FreezeRows(held))
    after = tables(learn.model)
    assert torch.equal(before['u_weight'], after['u_weight']) and torch.equal(before['i_weight'], after['i_weight'])
    assert torch.equal(before['u_bias'][:50], after['u_bias'][:50]) and not torch.equal(before['u_bias'][50:], after['u_bias'][50:])
    learn.unfreeze()
    with learn.no_bar(),learn.no_logging(): learn.fit(1, cbs=FreezeRows(held))
    after = tables(learn.model)
    assert torch.equal(before['i_weight'][:50], after['i_weight'][:50]) and not torch.equal(before['i_weight'][50:], after['i_weight'][50:])

def test_rows_with_a_source(many, tmp_path):
    rows = dict(i_weight=torch.arange(401)<100)
    learn = trained(many, tmp_path, 2, n=1)
    before = learn.model.i_weight.weight.detach().clone()
    def moved(pull):
        learn.model.i_weight.weight.data.copy_(before)
        with learn.no_bar(),learn.no_logging(): learn.fit(2, cbs=L2SP(rows, pull=pull))
        return (learn.model.i_weight.weight[:100]-before[:100]).norm().item()
    assert moved(100.)<.3*moved(0.)

def test_weights(many, tmp_path):
    "Ratings without weight teach nothing"
    df = many.assign(weight=(many.user%2).astype(float))
    learn = trained(df, tmp_path, 2, n=1, weight_name='weight')
    again = trained(df, tmp_path, 2, n=0, weight_name='weight')
    even = tensor([o!='#na#' and o%2==0 for o in learn.vocab['user']])
    assert torch.equal(learn.model.u_weight.weight[even], again.model.u_weight.weight[even])
    assert not torch.equal(learn.model.u_weight.weight[~even], again.model.u_weight.weight[~even])

@pytest.mark.parametrize('threads', [0,-1,1.5,'2',True,65])
def test_bad_threads(threads):
    with pytest.raises(ValueError, match='`threads` is a number of threads'): Fused(threads=threads)
