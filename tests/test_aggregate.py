"The bound of the aggregation, for hundreds of random groups and whatever an adversary enters; invariances; bad input"
import numpy as np,pandas as pd,pytest
from scipy.optimize import brentq
from hypothesis import given,settings,strategies as st
from collab_ext.aggregate import *

quantiles = (.2,.5,.8)

def random_entries(rng, n_groups=300):
    "Groups of 0 to 40 contributors: any size of scores, weights and uncertainties, 0 and infinity among them"
    groups = np.repeat(np.arange(n_groups), rng.integers(0, 41, size=n_groups))
    n = len(groups)
    values = rng.normal(size=n)*10.**rng.integers(-3, 5, size=n)
    values[rng.random(n)<.2] = np.round(values[rng.random(n)<.2].mean()) # ties
    weights = rng.random(n)*(rng.random(n)<.9)
    def spread(): return rng.choice([0., .1, 1, 100, np.inf], size=n)*rng.choice([1,.37], size=n)
    return dict(values=values, groups=groups, weights=weights, left=spread(), right=spread())

def adversaries(rng, n_groups):
    return dict(values=rng.choice([-np.inf,-1e6,-1,0,.05,1,1e6,np.inf], size=n_groups), groups=np.arange(n_groups),
        weights=rng.choice([.01,.5,1,7], size=n_groups), left=rng.choice([0,1e-9,.1,10,np.inf], size=n_groups),
        right=rng.choice([0,1e-9,.1,10,np.inf], size=n_groups))

def joined(a, b): return {k:np.concatenate([a[k],b[k]]) for k in a}

@pytest.mark.parametrize('q', quantiles)
@pytest.mark.parametrize('lipschitz', [.1,1.,5.])
@pytest.mark.parametrize('seed', range(4))
def test_bound(q, lipschitz, seed):
    "One more contributor of weight w moves a score by at most lipschitz·w, to 1e-6"
    rng = np.random.default_rng(seed)
    n = 300
    entries,new = random_entries(rng, n),adversaries(rng, n)
    how = dict(q=q, lipschitz=lipschitz, default=rng.normal(size=n), n_groups=n)
    before,after = qr_quantile(**entries, **how),qr_quantile(**joined(entries, new), **how)
    assert np.isfinite(after).all()
    assert (np.abs(after-before)<=lipschitz*new['weights']+1e-6).all()

@pytest.mark.parametrize('q', quantiles)
def test_bound_is_reached(q):
    "Where nobody else pulls, it is exact"
    for y,strength in ((np.inf,min(1,q/(1-q))), (-np.inf,min(1,(1-q)/q))):
        x = qr_quantile([y], [0], weights=[3.], q=q, lipschitz=.2)
        assert x[0]==pytest.approx(np.sign(y)*.6*strength, abs=1e-9)

def reference(values, weights, left, right, q, lipschitz, default):
    "By scipy, one group"
    def force(x):
        total = (x-default)/lipschitz
        for y,w,l,r in zip(values, weights, left, right):
            delta = l if x<y else r
            s = min(1,q/(1-q)) if x<y else min(1,(1-q)/q)
            if delta<np.inf and x!=y: total += w*s*(x-y)/np.hypot(delta, x-y)
        return total
    reach = lipschitz*sum(weights)+1
    return brentq(force, default-reach, default+reach, xtol=1e-11, rtol=1e-14, maxiter=1000)

@pytest.mark.parametrize('q', quantiles)
@pytest.mark.parametrize('lipschitz', [.1,3.])
def test_by_scipy(q, lipschitz):
    rng = np.random.default_rng(7)
    e = random_entries(rng, 60)
    default = rng.normal(size=60)
    x = qr_quantile(**e, q=q, lipschitz=lipschitz, default=default, n_groups=60)
    for i in range(60):
        mine = e['groups']==i
        one = [e[k][mine] for k in ('values','weights','left','right')]
        assert x[i]==pytest.approx(reference(*one, q, lipschitz, default[i]), abs=1e-7)

@given(seed=st.integers(0,10**6), q=st.sampled_from(quantiles), shift=st.floats(-50,50))
@settings(max_examples=30)
def test_invariances(seed, q, shift):
    "The order of entries does not matter; a shift of everything shifts; a mirror image has the other quantile and sides exchanged"
    rng = np.random.default_rng(seed)
    e = random_entries(rng, 10)
    e['values'] = e['values'].clip(-100,100)
    x = qr_quantile(**e, q=q, n_groups=10)
    order = rng.permutation(len(e['values']))
    assert np.allclose(qr_quantile(**{k:v[order] for k,v in e.items()}, q=q, n_groups=10), x, atol=1e-8)
    shifted = dict(e, values=e['values']+shift)
    assert np.allclose(qr_quantile(**shifted, q=q, default=shift, n_groups=10), x+shift, atol=1e-8)
    mirror = dict(e, values=-e['values'], left=e['right'], right=e['left'])
    assert np.allclose(qr_quantile(**mirror, q=1-q, n_groups=10), -x, atol=1e-8)

@given(seed=st.integers(0,10**6), q=st.sampled_from(quantiles))
@settings(max_examples=30)
def test_monotone(seed, q):
    "Who raises their score does not lower the result; groups do not touch each other"
    rng = np.random.default_rng(seed)
    e = random_entries(rng, 10)
    if not len(e['values']): return
    i = rng.integers(len(e['values']))
    if e['left'][i]!=e['right'][i]: e['left'][i] = e['right'][i]
    higher = dict(e, values=e['values'].copy())
    higher['values'][i] += rng.exponential()*10
    x,y = (qr_quantile(**o, q=q, n_groups=10) for o in (e,higher))
    own = e['groups'][i]
    assert y[own]>=x[own]-1e-8 and np.allclose(np.delete(x, own), np.delete(y, own), atol=1e-9)

@pytest.mark.parametrize('q', quantiles)
def test_uncertainties(q):
    "Not negative, bounded by what the forces allow, larger for fewer contributors; without any they are the default's"
    rng = np.random.default_rng(3)
    e = random_entries(rng, 100)
    x,left,right = qr_quantile_with_uncertainty(**e, q=q, n_groups=100)
    w2 = np.bincount(e['groups'], e['weights']**2, 100)
    for o in (left,right): assert (o>=0).all() and (o<=.1*np.sqrt(w2+100)+1e-6).all()
    empty = np.bincount(e['groups'], minlength=100)==0
    assert empty.any() and np.allclose(left[empty], 1) and np.allclose(right[empty], 1)
    n = 5
    once = qr_quantile_with_uncertainty([1.,2,3]*n, [0]*3*n, left=.5, right=.5, q=q)
    more = qr_quantile_with_uncertainty([1.,2,3]*n*8, [0]*24*n, left=.5, right=.5, q=q)
    assert more[1]<once[1] and more[2]<once[2]

def frame(seed=0, n=200, criteria=()):
    rng = np.random.default_rng(seed)
    df = pd.DataFrame(dict(contributor=rng.integers(20, size=n), item=rng.integers(15, size=n), score=rng.normal(size=n), left=.1, right=.2))
    if criteria: df['criterion'] = rng.choice(list(criteria), size=n)
    return df.drop_duplicates(['contributor','item',*(['criterion'] if criteria else [])]).reset_index(drop=True)

@pytest.mark.parametrize('criteria', [(),('a','b')])
def test_frame_is_the_arrays(criteria):
    df = frame(criteria=criteria)
    trust = {u:rng for u,rng in enumerate(np.random.default_rng(1).random(10))}
    res = aggregate_scores(df, trust, q=.2, lipschitz=.3, default=.5)
    keys = (['criterion'] if criteria else [])+['item']
    assert list(res)==[*keys,'score','left','right','contributors'] and not res.duplicated(keys).any()
    for row in res.itertuples():
        mine = df[np.all([df[k]==getattr(row, k) for k in keys], axis=0)]
        one = mine[['score']].assign(w=[trust.get(u, 1) for u in mine.contributor])
        want = reference(one.score, one.w, mine.left, mine.right, .2, .3, .5)
        assert row.score==pytest.approx(want, abs=1e-8) and row.contributors==len(mine)
    shuffled = df.sample(frac=1, random_state=0)
    pd.testing.assert_frame_equal(aggregate_scores(shuffled, pd.Series(trust), q=.2, lipschitz=.3, default=.5), res, atol=1e-8)

def test_frame_bound():
    "Whatever one contributor enters about any number of items"
    df = frame(5, 400)
    rng = np.random.default_rng(5)
    before = aggregate_scores(df).set_index('item').score
    for w in (.3,1,4):
        entered,right = rng.choice([-np.inf,np.inf,1e9,0], size=15),rng.choice([0,np.inf], size=15)
        bad = pd.DataFrame(dict(contributor=-1, item=range(15), score=entered, left=0., right=right))
        after = aggregate_scores(pd.concat([df,bad]), trust={-1:w}).set_index('item').score
        assert (after-before).abs().max()<=.1*w+1e-6

bad_frames = [(dict(score=np.nan), 'must be a number'), (dict(left=-1.), '`left`'), (dict(right=np.nan), '`right`'), (dict(item=None), 'has no item'),
    (dict(contributor=1, item=1), 'one voice')]

@pytest.mark.parametrize('change,match', bad_frames)
def test_bad_frames(change, match):
    with pytest.raises(ValueError, match=match): aggregate_scores(frame().assign(**change))

@pytest.mark.parametrize('trust,match', [({0:-1.}, '`trust`'), ({0:np.nan}, '`trust`'), ({0:np.inf}, '`trust`'), ({'0':1.}, 'none of the contributors'),
    (pd.Series([1,1], index=[0,0]), 'twice')])
def test_bad_trust(trust, match):
    with pytest.raises(ValueError, match=match): aggregate_scores(frame(), trust)

@pytest.mark.parametrize('kw', [dict(q=0), dict(q=1), dict(q='.5'), dict(lipschitz=0), dict(lipschitz=np.inf), dict(default_dev=0), dict(default=np.nan)])
def test_bad_arguments(kw):
    with pytest.raises(ValueError, match=next(iter(kw))): aggregate_scores(frame(), **kw)

def test_empty():
    assert qr_quantile([], []).shape==(0,) and qr_quantile([], [], n_groups=3, default=2.).tolist()==[2,2,2]
    assert len(aggregate_scores(frame()[:0]))==0
    with pytest.raises(KeyError, match='score'): aggregate_scores(frame().drop(columns='score'))
    with pytest.raises(ValueError, match='frame'): aggregate_scores([1])
    with pytest.raises(ValueError, match='shape'): qr_quantile([1,2], [0,0], weights=[1,2,3])

def test_other_labels():
    "Categories, text and numbers in one column, and an index that is not 0, 1, …"
    df = frame().rename(index=lambda i: f'r{i}')
    want = aggregate_scores(df).score.values
    assert np.allclose(aggregate_scores(df.assign(item=df['item'].astype('category'))).score, want)
    mixed = df.assign(item=[str(o) if o<5 else o for o in df['item']])
    assert np.allclose(sorted(aggregate_scores(mixed).score), sorted(want))

def test_scales():
    "Scores of any unit and zero come out alike; each criterion on its own; uncertainties with them"
    rng = np.random.default_rng(0)
    a = pd.DataFrame(dict(criterion='a', item=range(2000), score=rng.normal(size=2000), left=.1, right=.2))
    b = a.assign(criterion='b', score=50-7*a.score)
    both = pd.concat([a,b])
    scales = fit_scales(both, lipschitz=100)
    res = apply_scales(both, scales)
    for o in 'ab':
        s = res[res.criterion==o].score
        assert (s>0).mean()==pytest.approx(.9, abs=.02) and ((s-s.median()).abs()<1).mean()==pytest.approx(.9, abs=.02)
    ratio = scales.set_index('criterion')['scale']
    assert np.allclose(res[res.criterion=='b'].right, .2*ratio['b'])
    with pytest.raises(ValueError, match="criterion 'c'"): apply_scales(a.assign(criterion='c'), scales)
    assert fit_scales(a.assign(score=3.))['scale'].iloc[0]==pytest.approx(1, abs=1e-6)

def test_scales_are_bounded():
    "One contributor, however many items they score, moves scale and offset by a bounded amount"
    df = frame(2, 400)
    bad = pd.DataFrame(dict(contributor=-1, item=range(100,5000), score=1e9, left=0., right=0.))
    before,after = fit_scales(df),fit_scales(pd.concat([df,bad]))
    deviations = 1/before['scale'][0],1/after['scale'][0]
    lows = [-o.offset[0]/o['scale'][0] for o in (before,after)]
    assert abs(np.subtract(*lows))<=.1+1e-6
    assert abs(np.subtract(*deviations))<=.2+1e-6 # of the median, and of the deviations from it

@given(st.floats(-1e6,1e6))
def test_squash(x):
    assert unsquash(squash(x))==pytest.approx(x, rel=1e-3, abs=1e-9) and abs(squash(x))<=100
    assert squash(-x)==-squash(x)

@pytest.mark.parametrize('seed', range(8))
def test_bound_of_scales(seed):
    "One more contributor of weight 1 moves the low quantile by at most L, and the deviation by at most 2L"
    rng,L = np.random.default_rng(seed),.2
    def scores(who, y): return pd.DataFrame(dict(contributor=who, item=range(len(y)), score=y))
    some = pd.concat([scores(f'u{i}', 3*rng.normal(size=20)) for i in range(6)])
    more = pd.concat([some, scores('new', rng.choice([-1e9,-3.,3.,1e9], size=20))])
    low,dev = [],[]
    for df in (some,more):
        scale,offset = fit_scales(df, lipschitz=L)[['scale','offset']].iloc[0]
        low.append(-offset/scale)
        dev.append(1/scale)
    assert abs(low[1]-low[0])<=L+1e-6 and abs(dev[1]-dev[0])<=2*L+1e-6
