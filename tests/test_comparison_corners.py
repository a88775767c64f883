"Comparisons as users bring them: columns in any order, repeated pairs, times, first ties, extreme judges, errors that go together"
from test_comparisons import frame,learner,loaders,quietly,simulated,solved
import numpy as np,pandas as pd,pytest,torch
from hypothesis import given,settings,strategies as st
from collab_ext import *
from collab_ext.aggregate import aggregate_scores,qr_quantile,quantile_shares
from collab_ext.comparisons import answer_step,comparison_columns
from collab_ext.comparison_solver import most_scale,normed_scales,source_slope

@pytest.fixture(autouse=True)
def in_tmp(tmp_path, monkeypatch): monkeypatch.chdir(tmp_path)

# --- columns

@settings(max_examples=60)
@given(order=st.permutations(['contributor','item_a','item_b','comparison','time','weight']), n=st.integers(4, 6))
def test_names_win_over_places(order, n):
    cols = [o for o in order if o in ('contributor','item_a','item_b','comparison') or n==6 or o=='time' and n==5]
    assert comparison_columns(pd.DataFrame(columns=cols))==('contributor','item_a','item_b','comparison',None)

@pytest.mark.parametrize('cols,found', [
    (['who','a','b','answer'], ('who','a','b','answer',None)),
    (['score','video_b','video_a','criteria','public_username'], ('public_username','video_a','video_b','score','criteria')),
    (['who','x','y','how_much'], ('who','x','y','how_much',None)),
    (['when','time','x','y','score'], ('when','x','y','score',None))])
def test_columns_without_standard_names(cols, found): assert comparison_columns(pd.DataFrame(columns=cols))==found

def test_an_index_is_no_contributor():
    df = frame()
    df.to_csv('with_index.csv')
    assert loaders('with_index.csv').vocab.sizes==loaders(df).vocab.sizes
    unnamed = pd.read_csv('with_index.csv').rename(columns=dict(contributor='who'))
    with pytest.raises(ValueError, match="'Unnamed: 0', which is an index"): loaders(unnamed)

def test_large_numbers_stay_apart():
    big = 2**53
    df = pd.DataFrame(dict(contributor=0, item_a=np.array([big,big+1,big+2,5], np.int64), item_b=np.array([5,6,7,8], np.uint64), comparison=[1.,2,3,4]))
    assert set(loaders(df).vocab.labels[1][1:])=={5,6,7,8,big,big+1,big+2}
    assert len(comparison_graph(df))==7

# --- repeated pairs

old = pd.DataFrame([('ann','x','y',2.), ('ann','y','z',1.), ('bob','x','y',3.)], columns=['contributor','item_a','item_b','comparison'])
again = pd.DataFrame([('ann','y','x',4.), ('cid','x','z',1.)], columns=old.columns)

@pytest.mark.parametrize('policy,answers', [('keep',[2,1,3,4,1]), ('last',[1,3,4,1]), ('mean',[1,3,1,1])])
def test_growing_keeps_the_policy(policy, answers):
    learn = learner(old, dls_args=dict(duplicates=policy))
    quietly(learn, lambda: learn.grow(again))
    ds = learn.dls.train_ds
    assert np.allclose(np.sort((ds.targ*ds.scale).tolist()), np.sort(answers))
    whole = loaders(pd.concat([old,again], ignore_index=True), duplicates=policy).train_ds
    assert np.allclose(whole.targ, ds.targ) and torch.equal(whole.ids, ds.ids)

def test_growing_refuses_repeated_pairs():
    learn = learner(old, dls_args=dict(duplicates='error'))
    with pytest.raises(ValueError, match="has compared these two items before.*'ann'"): learn.grow(again)
    assert len(learn.dls.train_ds)==3

def test_last_is_by_time():
    df = pd.concat([old,again[:1]], ignore_index=True)
    def kept(times, **kw): return loaders(df.assign(**{kw.get('time_name', 'time'):times}), duplicates='last', **kw).train_ds
    assert (kept([3,1,1,2]).targ*10).tolist()==[2,1,3] and (kept([1,1,1,2]).targ*10).tolist()==[1,3,4]
    assert (kept(pd.to_datetime(['2024-02-01','2024-01-01','2024-01-01','2024-01-02'])).targ*10).tolist()==[2,1,3]
    assert (kept([3,1,1,2], time_name='when').targ*10).tolist()==[2,1,3]
    with pytest.raises(ValueError, match='no time in row 3'): kept([1,1,1,None])
    with pytest.raises(ValueError, match="can't be sorted"): kept(np.array([1,'a',2,3], dtype=object))

# --- weights

def test_weights():
    df = pd.DataFrame([('ann','a','b',2.,1.), ('ann','b','c',1.,0.), ('ann','c','d',3.,1.)], columns=[*old.columns,'w'])
    with pytest.warns(UserWarning, match='without any chain'): ComparisonDataLoaders.from_df(df, 10, 0, weight_name='w')
    assert comparison_graph(df, weight_name='w').component.max()==1 and comparison_graph(df).component.max()==0
    with pytest.raises(ValueError, match='All weights'): loaders(df.assign(w=0.), weight_name='w')
    with pytest.raises(ValueError, match='1e\\+10.*divide'): loaders(df.assign(w=1e10), weight_name='w')

def test_results_keep_their_columns():
    df = pd.DataFrame(dict(winner=['a','b'], loser=['b','c'], contributor=['x','y'], w=[1.,2.], when=[1,2]))
    got = wins_frame(df)
    assert list(got)==['contributor','item_a','item_b','comparison','w','when'] and got.contributor.tolist()==['x','y']
    assert loaders(got, None, weight_name='w').train_ds.weight.tolist()==[1,2]
    with pytest.raises(ValueError, match="'winner'"): wins_frame(df.assign(winner=['a',None]))

# --- steps

@settings(max_examples=60)
@given(n=st.integers(10, 200), seed=st.integers(0, 999))
def test_continuous_answers_have_no_step(n, seed): assert answer_step(np.random.default_rng(seed).uniform(-10, 10, n))==0

@settings(max_examples=60)
@given(top=st.integers(1, 49), seed=st.integers(0, 99), unit=st.sampled_from([1.,.1,.25,2/3]))
def test_steps_are_found(top, seed, unit):
    y = unit*np.random.default_rng(seed).integers(-top, top+1, 400)
    assert np.isclose(answer_step(y), unit)

# --- ties

def test_the_first_ties_come_later():
    df = wins_frame(simulated(1500, wins=True, tie=.5).comparisons, tie='tie')
    without,ties = df[df.comparison!=0],df[df.comparison==0]
    learn = solved(without, None)
    assert learn.model.law.tie==0 and 'tie' not in learn.model.prior
    learn.save('m')
    quietly(learn, lambda: learn.grow(ties).solve())
    whole = solved(pd.concat([without,ties]), None)
    assert whole.model.law.tie>.2 and np.isclose(learn.model.law.tie, whole.model.law.tie, rtol=.02)
    a,b = [o.item_scores().set_index('item').score for o in (learn,whole)]
    assert (a-b).abs().max()<.03*b.std()
    back = learner(pd.concat([without,ties]), None).load('m')
    quietly(back, back.solve)
    assert np.isclose(back.model.law.tie, whole.model.law.tie, rtol=.02)

# --- scales

@settings(max_examples=100)
@given(scale=st.lists(st.floats(1e-3, 1e6), min_size=1, max_size=50))
def test_no_scale_rules(scale):
    got = normed_scales(np.array(scale))
    assert np.isclose(got.mean(), 1) and got.max()<=most_scale*(1+1e-3)
    assert (np.diff(got[np.argsort(scale)])>=-1e-9).all()

def test_an_extreme_judge_leaves_the_others_their_unit():
    df = frame(600, n_contributors=10, n_items=30, scale_sd=0., seed=1)
    extreme = df.assign(comparison=np.where(df.contributor==0, 10*np.sign(df.comparison), df.comparison))
    a,b = [solved(o).scores().query('contributor!=0') for o in (df,extreme)]
    assert b.score.std()<1.8*a.score.std() and (b.left+b.right).mean()<3*(a.left+a.right).mean()

# --- sources

def test_the_multiple_of_a_source():
    "The answer of generalised least squares, found in steps from any start"
    rng = np.random.default_rng(0)
    v,precision,says = .7,rng.uniform(.2, 5, 400),rng.normal(size=400)
    z = .6*says+np.sqrt(v+1/precision)*rng.normal(size=400)
    errors = 1/(1/v+precision)
    w = 1/(v+1/precision)
    exact = says@(w*z)/(says@(w*says)+1)
    for slope in (0.,5.,-3.):
        for _ in range(2): slope = source_slope(says, slope*says+errors*precision*(z-slope*says), errors, v, slope)
        assert np.isclose(slope, exact, atol=1e-6)

def test_sources_that_say_nothing():
    learn = learner(frame())
    with pytest.raises(ValueError, match='All scores of `pretrained` are 0'): learner(frame(), pretrained=learn)
    solved(frame()).save('m')
    with pytest.warns(UserWarning, match='no item in common'): learner(frame().replace({o:dict(zip(frame()[o], 'new'+frame()[o])) for o in ('item_a','item_b')})).load('m')
    grown = solved(frame())
    with pytest.warns(UserWarning, match="contributors 0 and '0'"): grown.grow(frame(50, seed=1).astype(dict(contributor=str)))

# --- frames

def test_columns_do_not_depend_on_how_many_there_are():
    one = frame(200, n_contributors=1).assign(criterion='fun')
    learn = solved(one)
    assert list(learn.scores())==['contributor','criterion','item','score','left','right','comparisons']
    assert list(learn.global_scores())==['criterion','item','score','left','right','contributors']
    assert list(learn.item_scores())==['criterion','item','score']
    with pytest.warns(UserWarning, match="no comparisons on the criterion 'empty'"): ComparisonDataLoaders.from_df(one, 10, 0, criteria=['fun','empty'])

def test_scales_by_label():
    df = frame(3000, n_contributors=10, scale_sd=.6)
    got = solved(df, scales=True).contributor_scales()
    assert list(got)==['contributor','scale','comparisons'] and np.isclose(got.scale.mean(), 1) and got.comparisons.sum()==len(df)
    truth = simulated(3000, n_contributors=10, scale_sd=.6).contributors
    assert got.merge(truth, on='contributor')[['scale_x','scale_y']].corr().iloc[0,1]>.8

@pytest.mark.parametrize('levels', [['item'],['item','criterion']])
def test_scores_of_levels_that_all_share(levels):
    "By gradients, without a contributor in any level"
    learn = learner(frame(800, criteria=2), levels=levels)
    quietly(learn, learn.fit_one_cycle, 3, .1)
    got = learn.scores().merge(learn.item_scores(), on=[o for o in ('criterion','item') if o in learn.scores()])
    assert len(got) and 'contributor' not in got and np.allclose(got.score_x, got.score_y)

# --- intervals of quantiles

@settings(max_examples=60)
@given(n=st.integers(1, 30), seed=st.integers(0, 999), q=st.floats(.1, .9))
def test_slopes_of_quantiles(n, seed, q):
    rng = np.random.default_rng(seed)
    y,g = rng.normal(size=n),rng.integers(3, size=n)
    args = dict(weights=rng.uniform(0, 2, n), left=rng.uniform(.1, 1, n), right=rng.uniform(.1, 1, n), q=q, lipschitz=.3)
    x = qr_quantile(y, g, n_groups=3, **args)
    slopes,noise = quantile_shares(x, y, g, **args)
    assert (noise>=0).all()
    for i in range(n):
        step = 1e-5*(np.arange(n)==i)
        up,down = [qr_quantile(y+o, g, n_groups=3, **args) for o in (step,-step)]
        assert np.isclose((up-down)[g[i]]/2e-5, slopes[i], atol=2e-3)

@pytest.mark.parametrize('n', [5,15,60])
def test_intervals_of_global_scores(n):
    "They hold the same quantile of the contributors' true scores"
    held = []
    for seed in range(3):
        sim = simulate_comparisons(n_contributors=n, n_items=40, n_comparisons=100*n, seed=seed, scale_sd=0)
        learn = solved(sim.comparisons)
        got = learn.global_scores().merge(aggregate_scores(sim.individual.assign(left=0., right=0.)), on='item', suffixes=('','_true'))
        off = got.score_true-got.score
        off -= off.mean()
        held.append(((off<=got.right)&(off>=-got.left)).mean())
    assert .65<=np.mean(held)<=1

# --- plots and next pairs

@pytest.mark.parametrize('loss', ['posterior','licchavi'])
def test_plots(loss):
    import matplotlib.pyplot as plt
    learn = solved(frame(criteria=2), loss=loss)
    for f in (learn.plot_history, learn.plot_individual, learn.plot_top, learn.plot_scores, learn.plot_components): assert f().has_data()
    plt.close('all')

def test_next_pairs_of_strangers():
    learn = solved(frame())
    assert len(learn.next_pairs('newcomer', 3))==3
    with pytest.warns(UserWarning, match="'0' is a new contributor, and there is 0"): learn.next_pairs('0', 3)
    for o in (None,np.nan,pd.NaT):
        with pytest.raises(ValueError, match='whom to ask'): learn.next_pairs(o)
