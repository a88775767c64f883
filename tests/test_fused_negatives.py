"Losses with negatives in the compiled loop, against autograd"
from helpers import * # all of the package, and what the tests share
import numpy as np,pytest,torch
from importlib.util import find_spec

if not find_spec('numba'): pytest.skip('numba is not installed', allow_module_level=True)
from collab_ext.fused_negatives import *
from collab_ext.fused_negatives import _beyond,_draw,_mixed,_n_together,_share,_two_users

all_losses = [BPRLoss(), SoftmaxLoss(), SoftmaxLoss(temp=.3), CCLLoss(margin=.1, weight=5.)]
n_users,n_items,k = 40,300,6

def clicks_of(n=200, seed=0):
    set_seed(seed)
    return torch.stack([torch.randint(1,n_users,(n,)), torch.randint(1,n_items,(n,))], 1)

def tabs_of(unit, lr=.05, wd=.02):
    set_seed(1)
    res = [RowTable(torch.randn(o)*.5, lr, wd) for o in ((n_users,k),(n_items,k),(n_users,1),(n_items,1))]
    if unit:
        for t in res[:2]: t.w /= t.w.norm(dim=1, keepdim=True)
        for t in res[2:]: t.w.zero_()
    return res

def prob_of(power=0.):
    p = torch.arange(n_items).double()**power
    p[0] = 0
    return p/p.sum()

def step_for(loss, x, n_neg=8, power=0., **kw): return NegativesStep(loss.fused_form(), UserItems(x, (n_users,n_items)), prob_of(power), n_neg, **kw)
def per_user(x): return torch.bincount(x[:,0], minlength=n_users).numpy()

def drawn(step, x, tabs, seed, place):
    "The negatives that the loop draws for the click at `place`; `tabs` as they are where its block begins"
    kind,margin,_ = step.loss
    u = int(x[place,0])
    n_neg = step.n_neg
    ids,scores = np.empty(n_neg, np.int64),np.empty(n_neg, np.float32)
    if kind!=2: return ids[:_draw(random_bits(seed+place), u, n_neg, step.draws(), ids)].tolist()
    U,I = [t.w.numpy() for t in tabs[:2]]
    shared,pool,found = np.empty(n_neg, np.int64),np.zeros((8,16), np.float32),np.empty((2,16), np.float32)
    together = _n_together(n_neg)
    _share(random_bits(seed+place//together*together), n_neg, step.draws(), I, shared, pool)
    _two_users(U, u, u, pool, np.zeros((2,8), np.float32), found)
    return ids[:_beyond(u, margin, step.draws(), (U,I), shared, found[0], ids, scores)].tolist()

def random_bits(z): return np.uint64(_mixed(np.uint64(z)))

@pytest.mark.parametrize('loss', all_losses)
@pytest.mark.parametrize('power', [0.,.7])
def test_the_loop_is_autograd(loss, power):
    "Click by click, on the same negatives"
    x = clicks_of()
    step = step_for(loss, x, power=power)
    a,b = tabs_of(loss.unit_rows),tabs_of(loss.unit_rows)
    _,each = step(x, None, a, seed=7)
    slow = []
    by_autograd = partial(_padded, loss) if loss.unit_rows else loss.each
    size = _n_together(8) if loss.unit_rows else 1 # clicks whose negatives are found together
    for j in range(0, len(x), size):
        part = range(j, min(j+size, len(x)))
        negatives = [drawn(step, x, b, 7, o) for o in part]
        slow.append(slow_step(x[j:j+size], negatives, by_autograd, prob_of(power), b, 8, unit=loss.unit_rows, turns=step.turns))
    torch.testing.assert_close(each, torch.cat(slow), rtol=1e-4, atol=1e-5)
    for s,t in zip(a, b): torch.testing.assert_close(s.w, t.w, rtol=1e-3, atol=1e-5)

def _padded(loss, pos, neg, minus_prob):
    "The loop leaves out negatives below the margin; to the mean they are zeros"
    return loss.each(pos, torch.cat([neg, torch.full((8-len(neg),1), -1.)]), minus_prob)

@pytest.mark.parametrize('loss', all_losses)
def test_a_negative_is_never_seen(loss):
    x = clicks_of(3000)
    x[:,1] = 1+x[:,1]%30 # most users have most of 30 items
    step = step_for(loss, x)
    tabs = tabs_of(loss.unit_rows)
    have = set(map(tuple, x.tolist()))
    for j in range(300):
        for i in drawn(step, x, tabs, 3, j): assert (int(x[j,0]),i) not in have and i>0

def test_negatives_follow_their_probability():
    x = tensor([[1,5]])
    step = step_for(BPRLoss(), x, n_neg=10, power=1.)
    got = np.bincount([o for s in range(4000) for o in drawn(step, x, tabs_of(False), s*1000, 0)], minlength=n_items)
    assert got[5]==got[0]==0
    want = prob_of(1.).numpy()*got.sum()
    for o in np.array_split(np.arange(6,n_items), 10): assert got[o].sum()==pytest.approx(want[o].sum(), rel=.1)

@pytest.mark.parametrize('loss', all_losses)
def test_a_user_who_has_everything_is_passed_over(loss):
    x = torch.stack([torch.ones(n_items-1).long(), torch.arange(1,n_items)], 1)
    tabs = tabs_of(loss.unit_rows)
    before = [t.w.clone() for t in tabs]
    pred,each = step_for(loss, x)(x, None, tabs)
    if not loss.unit_rows: assert same(before, [t.w for t in tabs]) and not each.any()
    assert torch.isfinite(pred).all()

@pytest.mark.parametrize('loss', all_losses)
@pytest.mark.parametrize('threads', [1,2,3])
def test_same_bits(loss, threads):
    x = clicks_of(4000)
    def run():
        tabs = tabs_of(loss.unit_rows)
        step = step_for(loss, x, threads=threads, counts=per_user(x), min_work=0)
        res = [step(x, None, tabs, seed=s) for s in range(4)]
        return [*[t.w for t in tabs],*[o for r in res for o in r]]
    first = run()
    for _ in range(3): assert same(first, run())
    assert all(torch.isfinite(o).all() for o in first)
    if loss.unit_rows: torch.testing.assert_close(first[1].norm(dim=1), torch.ones(n_items))

@pytest.mark.parametrize('bad', [(-1,1),(n_users,1),(1,-1),(1,n_items)])
@pytest.mark.parametrize('threads', [1,2])
def test_ids_beyond_the_tables(bad, threads):
    x = clicks_of()
    step = step_for(BPRLoss(), x, threads=threads, counts=per_user(x), min_work=0)
    x[30] = tensor(bad)
    with pytest.raises(IndexError, match='are beyond'): step(x, None, tabs_of(False))

@pytest.mark.parametrize('loss', all_losses)
def test_weights_and_rows_that_hold_still(loss):
    x = clicks_of()
    tabs = tabs_of(loss.unit_rows)
    before = [t.w.clone() for t in tabs]
    step_for(loss, x)(x, torch.zeros(len(x)), tabs)
    for t,b in zip(tabs, before): torch.testing.assert_close(t.w, b, rtol=0, atol=1e-6)
    held = [RowTable(t.w.clone(), .05, .02, rate=(torch.arange(len(t.w))>=20).float()) for t in tabs]
    step_for(loss, x)(x, None, held)
    same_rows = [(t.w==b.w).all(1) for t,b in zip(held[:2], tabs[:2])]
    assert all(o[:20].all() and not o[20:].all() for o in same_rows)

# ---- In the loop ---------------------------------------------------------------------------------------------------

@pytest.fixture(scope='module')
def dls(): return CollabDataLoaders.from_interactions(simulate_clicks(), n_neg=3, seed=42, unknown='mean', device='cpu')

def trained(dls, loss, n=8, lr=.05, cbs=(), threads=2, **kw):
    set_seed(1, reproducible=True)
    learn = implicit_learner(dls, 8, loss_func=loss, cbs=[Fused(threads=threads),*L(cbs)])
    with learn.no_bar(),learn.no_logging(): learn.fit_one_cycle(n, lr, **kw)
    return learn

@pytest.mark.parametrize('loss', ['bpr','softmax','ccl'])
def test_a_learner_of_clicks(dls, loss):
    lr = 3e-4 if loss=='ccl' else .05 # a start that is good already is spoilt by a large one
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        learn = trained(dls, loss, 25, lr)
    assert learn.fused.active and learn.fused.step is None
    losses = [o[0] for o in learn.recorder.values]
    assert losses[-1]<losses[0]
    res = learn.evaluate()
    assert res.ndcg['model']>res.ndcg['popular']
    again = trained(dls, loss, 25, lr)
    assert same(weights(learn), weights(again))
    assert dls.train.n_neg==3 # the loader stays what it was
    if loss=='ccl': torch.testing.assert_close(learn.model.i_weight.weight.norm(dim=1), torch.ones(dls.vocab.sizes[1]))

def test_what_sends_losses_with_negatives_back(dls):
    def reason(loss, cbs=None, **kw):
        learn = implicit_learner(dls, 4, loss_func=loss, cbs=cbs, **kw)
        return fused_blocker(learn) or negatives_blocker(learn)
    assert reason('bpr') is None and reason('ccl') is None and reason('softmax') is None
    assert 'the loss is not' in reason('warp')
    class Mine(BPRLoss):
        def each(self, pos, neg, minus_prob): return -pos
    assert 'the loss is not' in reason(Mine())
    assert reason('bpr', cbs=UnitRows())=='unit_rows works on predictions or gradients'
    assert reason('bpr', y_range=(0,1))=='the model has a sigmoid'
    learn = implicit_learner(dls, 4, loss_func='bpr')
    assert 'on a CPU' in negatives_blocker(learn, 'torch')

def test_frozen_rows_of_clicks(dls):
    learn = trained(dls, 'softmax', 1)
    held = dict(i_weight=torch.arange(dls.vocab.sizes[1])<50)
    before = learn.model.i_weight.weight.detach().clone()
    with learn.no_bar(),learn.no_logging(): learn.fit(1, cbs=FreezeRows(held))
    after = learn.model.i_weight.weight
    assert torch.equal(before[:50], after[:50]) and not torch.equal(before[50:], after[50:])

def test_lr_find_on_clicks(dls):
    learn = implicit_learner(dls, 4, loss_func='bpr', cbs=Fused())
    with learn.no_bar(): learn.lr_find(num_it=20, show_plot=False)
    assert len(learn.recorder.lrs)<=20
