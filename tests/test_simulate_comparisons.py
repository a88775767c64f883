"Simulated comparisons: counts, pairs, truth, adversaries at any size; errors against scipy"
import numpy as np,pandas as pd,pytest,torch
from scipy import stats
from hypothesis import given,settings,strategies as st
from collab_ext.root_laws import *
from collab_ext.simulate_comparisons import *

sizes = dict(n_contributors=st.integers(1,12), n_items=st.integers(4,60), criteria=st.integers(1,3), activity=st.sampled_from([0.,1,3]),
    per_item=st.sampled_from([1.,3,20]), active=st.sampled_from([0.,.5,1]), seed=st.integers(0,1000))

def options(load, n_contributors, n_items, criteria, **kw):
    "Arguments for a platform of which the share `load` of what is possible is compared"
    most = n_contributors*(n_items*(n_items-1)//4)*criteria
    return dict(n_contributors=n_contributors, n_items=n_items, criteria=criteria, n_comparisons=max(1, int(load*most)), **kw)

def unordered(df):
    "Contributor, criterion and pair, whichever comes first"
    pair = np.sort(df[['item_a','item_b']].astype(str).values, axis=1)
    keys = df[[o for o in ('contributor','criterion') if o in df]]
    return keys.assign(a=pair[:,0], b=pair[:,1])

@settings(max_examples=25)
@given(load=st.sampled_from([.01,.3,1.]), **sizes)
def test_any_size(load, **kw):
    kw = options(load, **kw)
    sim = simulate_comparisons(**kw)
    df,n_items = sim.comparisons,kw['n_items']
    assert len(df)==kw['n_comparisons'] and df.notna().all().all()
    assert df.comparison.between(-10,10).all() and (df.item_a!=df.item_b).all() and df.time.is_monotonic_increasing
    assert not unordered(df).duplicated().any()
    assert len(sim.truth)==n_items*kw['criteria'] and len(sim.contributors)==kw['n_contributors']
    assert sim.contributors.comparisons.sum()==-(-len(df)//kw['criteria'])
    assert ('criterion' in df)==(kw['criteria']>1)==('criterion' in sim.truth)
    known = set(map(tuple, sim.individual[['contributor','item']].values))
    assert len(known)*kw['criteria']==len(sim.individual)
    compared = {(u,i) for o in ('item_a','item_b') for u,i in df[['contributor',o]].values}
    assert compared<=known and set(df.item_a)<=set(sim.truth['item'])

@pytest.mark.parametrize('kw', [dict(), dict(criteria=2), dict(wins=True, tie=1.), dict(law=GradedLaw(5), n_adversaries=3, attack='push')])
def test_seed(kw):
    a,b,c = simulate_comparisons(**kw),simulate_comparisons(**kw),simulate_comparisons(seed=1, **kw)
    for x,y in zip(a,b): pd.testing.assert_frame_equal(x, y)
    assert not a.comparisons.equals(c.comparisons)

def differences(sim, wins=False):
    "Differences of the contributors' own scores"
    a,b = ('loser','winner') if wins else ('item_a','item_b')
    own = sim.individual.set_index(['contributor','item']).score
    x,y = (own.reindex(pd.MultiIndex.from_arrays([sim.comparisons.contributor,sim.comparisons[o]])).values for o in (a,b))
    return torch.tensor(y-x)

@pytest.mark.parametrize('law', [UniformLaw(), GradedLaw(3), GradedLaw(21), WinsLaw(.5)], ids=repr)
def test_answers_follow_the_law(law):
    "Mean and variance given the difference, in five standard errors"
    sim = simulate_comparisons(n_comparisons=20_000, n_items=400, law=law, comparison_max=4, n_adversaries=5)
    d,r = differences(sim),torch.tensor(sim.comparisons.comparison.values/4)
    rest = (r-law.mean(d))/law.variance(d).sqrt()
    assert abs(rest.mean())<5/20_000**.5 and abs(rest.var()-1)<.05
    far = d>d.quantile(.8)
    assert abs(rest[far].mean())<5/far.sum()**.5

@pytest.mark.parametrize('tie', [0.,1.])
def test_wins(tie):
    "The same draw in other words"
    how = dict(n_comparisons=3000, seed=4)
    wins,plain = simulate_comparisons(wins=True, tie=tie, **how),simulate_comparisons(law=WinsLaw(tie), **how)
    df,games = plain.comparisons,wins.comparisons
    assert list(games)==['contributor','winner','loser','tie','time'] and games.tie.dtype==bool
    assert (games.tie.values==(df.comparison.values==0)).all() and games.tie.any()==(tie>0)
    b_wins = df.comparison.values>0
    assert (games.winner.values==np.where(b_wins, df.item_b, df.item_a)).all()
    assert (games.loser.values==np.where(b_wins, df.item_a, df.item_b)).all()
    with pytest.raises(ValueError, match='law'): simulate_comparisons(wins=True, law=UniformLaw())

def test_truth():
    "Spread, correlation, disagreement and scales are what was asked for"
    how = dict(spread=3, correlation=.8, disagreement=.7, scale_sd=.5)
    sim = simulate_comparisons(n_contributors=200, n_items=3000, n_comparisons=60_000, criteria=list('xy'), **how)
    truth = sim.truth.pivot(index='item', columns='criterion', values='score')
    assert truth.std().values==pytest.approx([3,3], rel=.1) and truth.corr().iloc[0,1]==pytest.approx(.8, abs=.05)
    assert np.log(sim.contributors['scale']).std()==pytest.approx(.5, rel=.15)
    both = sim.individual.merge(sim.truth, on=['item','criterion'], suffixes=('','_true')).merge(sim.contributors, on='contributor')
    off = both.score/both['scale']-both.score_true
    assert off.std()==pytest.approx(.7, rel=.03) and abs(off.mean())<.02

def test_zipf():
    equal,steep = (simulate_comparisons(n_comparisons=4000, activity=o).contributors.comparisons for o in (0,2))
    assert equal.max()<130 and steep[0]>2000 and equal.sum()==steep.sum()==4000

@pytest.mark.parametrize('attack', ['negate','push'])
def test_adversaries(attack):
    how = dict(n_contributors=40, n_items=150, n_comparisons=8000, activity=0, n_adversaries=10, attack=attack, n_targets=2, disagreement=.1)
    sim = simulate_comparisons(**how)
    assert sim.contributors.adversary.sum()==10
    trust = sim.contributors.groupby('adversary').trust.mean()
    assert trust[True]<.4<.6<trust[False] and sim.contributors.trust.between(0,1).all()
    error = score_error(sim.individual, sim.truth).merge(sim.contributors, on='contributor').groupby('adversary').pearson.mean()
    assert error[False]>.95
    if attack=='negate': assert error[True]<-.95
    else:
        both = sim.individual.merge(sim.truth, on='item', suffixes=('','_true')).merge(sim.contributors, on='contributor')
        high = both[both.score/both['scale']-both.score_true>3]
        assert high.adversary.all() and high['item'].nunique()==2 and 15<=len(high)<=20

bad = [dict(n_items=1), dict(n_contributors=0), dict(n_comparisons=0), dict(criteria=0), dict(active=2), dict(correlation=-1), dict(attack='x'), dict(seed=-1),
    dict(n_adversaries=51), dict(n_comparisons=10**6), dict(n_comparisons=2.5), dict(criteria=['a','a']), dict(tie=-1, wins=True), dict(disagreement=-1),
    dict(per_item=0), dict(spread=np.nan), dict(comparison_max=0), dict(n_targets=0)]

@pytest.mark.parametrize('kw', bad, ids=str)
def test_bad_arguments(kw):
    with pytest.raises(ValueError): simulate_comparisons(**kw)

@given(seed=st.integers(0,10**6), by=st.sampled_from([(),('criterion',),('contributor',),('criterion','contributor')]))
@settings(max_examples=30)
def test_error_by_scipy(seed, by):
    "Group by group, for scores that lack some items and know others"
    rng = np.random.default_rng(seed)
    n = 120
    df = pd.DataFrame(dict(item=rng.integers(12, size=n), criterion=rng.choice(['p','q'], size=n), contributor=rng.integers(3, size=n),
        score=rng.normal(size=n).round(1)))
    df = df.drop_duplicates(['item',*by])[['item','score',*by]]
    labels = [o for o in by if o=='criterion' or rng.random()<.5]
    truth = df.drop_duplicates(['item',*labels])[['item',*labels]].sample(frac=.9, random_state=seed)
    truth['score'] = rng.normal(size=len(truth)).round(1)
    res = score_error(df, truth)
    both = df.merge(truth, on=['item',*labels], suffixes=('','_t'))
    groups = both.groupby(list(by)) if by else [((),both)]
    assert len(res)==(both[list(by)].drop_duplicates().shape[0] if by else 1)
    for key,g in groups:
        row = res
        for k,v in zip(by, key): row = row[row[k]==v]
        assert len(row)==1 and row['items'].iloc[0]==len(g)
        x,y = g.score-g.score.mean(),g.score_t-g.score_t.mean()
        assert row.rmse.iloc[0]==pytest.approx(((x-y)**2).mean()**.5)
        if x.std()>1e-9 and y.std()>1e-9:
            assert row.pearson.iloc[0]==pytest.approx(stats.pearsonr(x, y)[0]) and row.spearman.iloc[0]==pytest.approx(stats.spearmanr(x, y)[0])
        else: assert np.isnan(row.pearson.iloc[0])

def test_error_of_bad_frames():
    truth = pd.DataFrame(dict(item=[1,2], score=[0.,1]))
    with pytest.raises(KeyError, match='score'): score_error(truth[['item']], truth)
    with pytest.raises(ValueError, match='No item'): score_error(truth.assign(item=[3,4]), truth)
    with pytest.raises(ValueError, match='twice'): score_error(truth, truth.assign(item=1))
    with pytest.raises(ValueError, match='frame'): score_error([1], truth)
    assert score_error(truth.assign(score=1.), truth).pearson.isna().all()
