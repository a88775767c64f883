"Which pairs are shown next: against brute force, on random learners"
import numpy as np, pytest
from hypothesis import given, settings, strategies as st
from collab_ext.comparisons import ComparisonDataLoaders
from collab_ext.comparison_learner import comparison_learner
from collab_ext.next_pair import *
from collab_ext.root_laws import UniformLaw, WinsLaw
from collab_ext.scores import small_system
from collab_ext.simulate_comparisons import simulate_comparisons

pytestmark = pytest.mark.filterwarnings('ignore:.*not connected')

def trained(criteria=1, n_contributors=6, n_items=20, n_comparisons=150, n_epoch=3, seed=0, **kwargs):
    sim = simulate_comparisons(n_contributors, n_items, n_comparisons, criteria=criteria, seed=seed)
    learn = comparison_learner(ComparisonDataLoaders.from_df(sim.comparisons, 10, valid_pct=.1, seed=seed), **kwargs)
    with learn.no_bar(), learn.no_logging(): learn.solve(n_epoch)
    return learn,sim

@pytest.fixture(scope='module')
def learned(): return trained(criteria=2)

def covariance(known): return known.factor@known.factor.T + np.diag(known.own)

def random_errors(rng, m, r): return ItemErrors(rng.normal(size=m), rng.normal(size=(m,r)), rng.exponential(size=m)*(rng.random(m)<.5))

@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10_000), m=st.integers(2, 9), r=st.integers(1, 12), n=st.integers(1, 8))
def test_greedy_choice_is_that_of_the_covariance_updated_in_full(seed, m, r, n):
    rng = np.random.default_rng(seed)
    known = random_errors(rng, m, r)
    a,b = np.triu_indices(m, 1)
    c = rng.exponential(size=len(a))
    picked,gains = choose_pairs(known, c, a, b, n)
    cov,found = covariance(known),[]
    for best,gain in zip(picked, gains):
        x = np.zeros((len(a),m))
        x[np.arange(len(a)),a],x[np.arange(len(a)),b] = -1,1
        v = np.einsum('pi,ij,pj->p', x, cov, x)
        each = .5*np.log1p(c*v)
        each[found] = -1
        assert gain==pytest.approx(each[best], abs=1e-7) and each[best]>=each.max()-1e-7
        found.append(best)
        cx = cov@x[best]
        cov = cov - c[best]/(1+c[best]*v[best])*np.outer(cx, cx)
    assert len(set(picked))==len(picked)==min(n, len(a))

def test_variance_of_pairs_in_chunks():
    known = random_errors(np.random.default_rng(0), 30, 4)
    a,b = np.triu_indices(30, 1)
    cov = covariance(known)
    expected = cov[a,a]+cov[b,b]-2*cov[a,b]
    for chunk in (1, 7, 10_000): np.testing.assert_allclose(pair_variance(known, a, b, chunk), expected, atol=1e-9)
    assert pair_variance(known, a[:0], b[:0]).shape==(0,)

def test_errors_are_those_of_the_solver(learned):
    learn,sim = learned
    solver,errors = solved_errors(learn)
    df = sim.comparisons.head(20)
    ds = learn.dls.train_ds.encode(df)
    mean,sd = solver.difference(ds)
    for i,(u,a,b,k) in enumerate(ds.ids.tolist()):
        known = item_errors(solver, errors, u, k, np.array([a,b]))
        assert known.mean[1]-known.mean[0]==pytest.approx(mean[i], abs=1e-9)
        if not known.own.any(): assert pair_variance(known, np.array([0]), np.array([1]))[0]==pytest.approx(sd[i]**2, rel=1e-5)

def test_draws_give_about_what_the_covariance_gives(learned):
    learn,_ = learned
    solver,errors = solved_errors(learn)
    big = solver.system.n_unknown
    assert big<=small_system and errors.draws is None
    cov = errors.cov
    draws = np.linalg.cholesky(cov+1e-12*np.eye(big))@np.random.default_rng(0).normal(size=(big,64))
    a,b = np.triu_indices(20, 1)
    exact,drawn = [pair_variance(item_errors(solver, o, 1, 0, np.arange(1, 21)), a, b) for o in (errors,errors._replace(cov=None, draws=draws))]
    assert .75<np.mean(drawn/exact)<1.25

@pytest.mark.parametrize('how', pair_choices)
def test_pairs_are_new_and_different_and_can_be_answered(learned, how):
    learn,sim = learned
    k = sim.comparisons.criterion.iloc[0]
    who = sim.comparisons.contributor.iloc[0]
    res = learn.next_pairs(who, 10_000, k, how=how, seed=0)
    mine = sim.comparisons.query('contributor==@who and criterion==@k')
    seen,shown = [{frozenset(o) for o in zip(d.item_a, d.item_b)} for d in (mine,res)]
    assert not seen&shown and len(shown)==len(res)
    assert {i for o in shown for i in o}<=set(learn.vocab.labels[1][1:])
    assert (res.information>=0).all() and res.expected.abs().max()<=10.5
    np.testing.assert_allclose(learn.expected_answers(res.head(30)), res.expected.head(30), atol=.3) # these leave scales of what is lacking out
    assert list(res)==['contributor','item_a','item_b','criterion','expected','information']

def test_answers_go_back_into_the_learner():
    learn,_ = trained()
    n = len(learn.dls.train_ds)
    asked = learn.next_pairs('newcomer', 5, candidates=[*learn.vocab.labels[1][1:6],'new item'], seed=0)
    learn.grow(asked.assign(comparison=asked.expected.clip(-10, 10)))
    with learn.no_bar(), learn.no_logging(): learn.solve()
    assert len(learn.dls.train_ds)==n+5 and 'newcomer' in learn.scores().contributor.tolist()
    again = learn.next_pairs('newcomer', 5, candidates=[*learn.vocab.labels[1][1:6],'new item'], seed=0)
    pairs = [{frozenset(o) for o in zip(d.item_a, d.item_b)} for d in (asked,again)]
    assert not pairs[0]&pairs[1]

def test_an_answered_question_says_less_elsewhere_too():
    "What ten answers say together is at most the sum of what each says alone, and at least the most of them"
    learn,_ = trained()
    together = learn.next_pairs(0, 10, seed=0).information
    first = learn.next_pairs(0, 1, seed=0).information
    assert together.iloc[0]==pytest.approx(first.iloc[0]) and (together.diff().dropna()<=1e-9).all()

def test_large_catalogues_have_bounded_candidates():
    rng = np.random.default_rng(0)
    a,b = candidate_pairs(rng.normal(size=50_000), rng, most=10_000)
    assert len(a)<=3*50_000+10_000 and (a<b).all() and len(np.unique(a*50_000+b))==len(a)
    assert len(np.unique(np.concatenate([a,b])))==50_000

def test_what_is_wrong_is_said(learned):
    learn,_ = learned
    k = learn.dls.criteria[0]
    bad = [(ValueError,'one criterion at a time',{}), (KeyError,'no criterion',dict(criterion='x')), (ValueError,'at least 1',dict(criterion=k, n=0))]
    bad += [(ValueError,"'random'",dict(criterion=k, how='best')), (TypeError,'candidates',dict(criterion=k, candidate=['i1']))]
    candidates = {'two items':[], 'list of items':'i1', 'no label':['i1',None,'i2']}
    bad += [(ValueError,text,dict(criterion=k, candidates=o)) for text,o in candidates.items()]
    for error,text,kwargs in bad:
        with pytest.raises(error, match=text): learn.next_pairs(0, **kwargs)
    other,_ = trained(loss='licchavi')
    with pytest.raises(ValueError, match='no posterior'): other.next_pairs(0)

@pytest.mark.parametrize('law', [UniformLaw(), WinsLaw()])
def test_simulation_repeats_itself_and_errors_fall(law):
    a,b = [ask_in_rounds('information', n_contributors=2, n_items=12, n_rounds=3, per_round=8, law=law) for _ in range(2)]
    assert a.equals(b) and a.rmse.iloc[-1]<a.rmse.iloc[0] and list(a.comparisons)==[12,28,44,60]

def test_comparisons_needed_are_read_off_the_curve():
    import pandas as pd
    asked = pd.DataFrame(dict(how=['fast']*3+['random']*3, seed=0, comparisons=[10,20,30]*2, rmse=[3.,1.,.5,3.,2.5,2.], pearson=0.))
    res = comparisons_needed(asked)
    assert res.needed['fast']==pytest.approx(15) and res.saved['fast']==pytest.approx(.5) and res.saved['random']==pytest.approx(0)
