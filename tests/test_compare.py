"Comparisons against scipy.stats, and by definition"
from helpers import * # all of the package, and what the tests share
import numpy as np,pandas as pd,pytest,scipy.stats
from hypothesis import given,strategies as st
from collab_ext.compare import *
from collab_ext.compare import intervals,paired_methods
from helpers import learner,loaders

def pairs(seed, n=40, shift=.3):
    rng = np.random.default_rng(seed)
    a = rng.normal(size=n)
    return a+shift+.8*rng.normal(size=n),a

@given(st.integers(0,10_000), st.integers(2,60), st.sampled_from([.5,.9,.95,.99]))
def test_t_as_in_scipy(seed, n, level):
    a,b = pairs(seed, n)
    got,want = paired(a, b, level=level),scipy.stats.ttest_rel(a, b)
    ci = want.confidence_interval(level)
    assert (got['difference'],got['low'],got['high'],got['p'])==pytest.approx(((a-b).mean(),ci.low,ci.high,want.pvalue))
    assert (got['better'],got['worse'])==pytest.approx(((a>b).mean(),(a<b).mean()))

@given(st.integers(0,10_000))
def test_other_methods_as_in_scipy(seed):
    a,b = pairs(seed)
    got = paired(a, b, interval='bootstrap', method='wilcoxon', n_resamples=500, seed=seed)
    want = scipy.stats.bootstrap((a-b,), np.mean, n_resamples=500, method='percentile', rng=np.random.default_rng(seed)).confidence_interval
    assert (got['low'],got['high'])==pytest.approx(tuple(want))
    assert got['p']==pytest.approx(scipy.stats.wilcoxon(a, b).pvalue)

def test_permutations_of_few_users_are_exact():
    a,b = pairs(3, 8)
    d = a-b
    signs = np.array(list(itertools.product([1,-1], repeat=8)))
    means = (signs*d).mean(1)
    want = (np.abs(means)>=abs(d.mean())-1e-12).mean()
    assert paired(a, b, method='permutation')['p']==pytest.approx(want, abs=1/256)

def test_intervals_hold_what_they_say():
    "Of 400 intervals for a difference that is .3, about 90 % hold it"
    for interval in intervals:
        res = [paired(*pairs(s), interval=interval, level=.9, n_resamples=300) for s in range(400)]
        assert .85<np.mean([o['low']<.3<o['high'] for o in res])<.95, interval

def test_false_alarms_are_as_rare_as_they_say():
    for method in paired_methods:
        p = np.array([paired(*pairs(s, shift=0), method=method, n_resamples=200)['p'] for s in range(300)])
        assert .02<(p<.05).mean()<.09, method

@given(st.lists(st.floats(0,1), min_size=1, max_size=12))
def test_holm_by_definition(p):
    got,m = holm(p),len(p)
    rank = np.argsort(np.argsort(p, kind='stable'))
    for i in range(m):
        want = max(min(1, (m-rank[j])*p[j]) for j in range(m) if rank[j]<=rank[i])
        assert got[i]==pytest.approx(want)

def test_no_difference():
    a = np.arange(5.)
    for interval,method in itertools.product(intervals, paired_methods):
        same = paired(a, a, interval, method)
        assert (same['difference'],same['low'],same['high'],same['p'])==(0,0,0,1)
        always = paired(a+1, a, interval, method)
        assert (always['low'],always['high'],always['p'],always['better'])==(1,1,0,1)

@pytest.mark.parametrize('kw,match', [(dict(interval='T'),'`interval` is one of'), (dict(method='ttest'),'`method` is one of'),
    (dict(level=95),'`level` is between 0 and 1'), (dict(n_resamples=0),'`n_resamples` is how many')])
def test_bad_settings(kw, match):
    with pytest.raises(ValueError, match=match): paired(*pairs(0), **kw)

def test_bad_numbers():
    with pytest.raises(ValueError, match='3 and 2 numbers'): paired([1,2,3], [1,2])
    with pytest.raises(ValueError, match='two or more'): paired([1], [2])
    with pytest.raises(ValueError, match='1 of 3 users have no number'): paired([1,2,np.nan], [1,2,3])
    df = pd.DataFrame(dict(a=[1.,2,4], b=[1.,3,2]))
    with pytest.raises(ValueError, match='two or more'): compare_columns(df[['a']])
    with pytest.raises(ValueError, match="`reference` is one of the models"): compare_columns(df, reference='c')
    with pytest.raises(ValueError, match="several columns 'a'"): compare_columns(df[['a','a']])
    with pytest.raises(TypeError, match='no argument .levl.: did you mean `level`'): compare_columns(df, levl=.9)

# ---- Learners

@pytest.fixture(scope='module')
def models(tmp_path_factory):
    df = simulate_ratings(60, 40, 1000).ratings
    dls = loaders(df)
    train = dls.train_ds.decode(dls.train_ds.ids, rating=dls.train_ds.targ)
    others = train[(train.user!=3)&(train['item']!='i1')].sample(frac=1, random_state=0) # another vocabulary, in another order
    res = dict(one=dls, two=loaders(others, valid_pct=0))
    res = {k:collab_learner(o, 3, path=tmp_path_factory.mktemp(k)) for k,o in res.items()}
    for o in res.values():
        with o.no_bar(),o.no_logging(): o.solve(4)
    return res

def test_each_mean_is_what_evaluate_says(models):
    test = models['one'].dls.valid_ds.decode(models['one'].dls.valid_ds.ids)
    test = test[test.user!=3]
    res = compare(models, test, k=5, metric='recall', baselines='popular')
    for o in models: assert res['mean'][o]==pytest.approx(models[o].evaluate(test, k=5, baselines=False).recall['model'])
    assert res['mean']['popular']==pytest.approx(models['one'].evaluate(test, k=5, baselines='popular').recall['popular'])
    each = [o.evaluate(test, k=5, per_user=True).recall for o in models.values()]
    assert res.difference['two']==pytest.approx((each[1]-each[0]).mean())
    assert res.p['two']==pytest.approx(scipy.stats.ttest_rel(each[1].loc[each[0].index], each[0]).pvalue)
    np.testing.assert_allclose(res.p_holm.dropna(), holm(res.p.dropna()))
    assert res.attrs['metric']=='recall@5' and res.attrs['users']==len(each[0]) and res.loc['one'].isna().sum()==7

def test_users_whom_one_does_not_know_are_left_out(models):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        res = compare(list(models.values()))
    assert list(res.index)==['model 1','model 2']
    valid = models['one'].dls.valid_ds
    n = len(valid.ids[valid.ids[:,0]>0,0].unique())
    assert res.attrs['users_without']==1 and res.attrs['users']==n-1

def test_learners_that_cannot_be_compared(models, tmp_path):
    for bad in ([], {}, [1], dict(a=models['one'],b=None)):
        with pytest.raises(ValueError, match='`learners` is'): compare(bad)
    other = learner(loaders(simulate_ratings(20, 20, 100).ratings.rename(columns=dict(user='who'))), tmp_path)
    with pytest.raises(ValueError, match='name users and items differently'): compare([models['one'],other])
    with pytest.raises(ValueError, match='`metric` is one of'): compare(models, metric='NDGC')
    with pytest.raises(ValueError, match='`k` is the length'): compare(models, k=0)
    with pytest.raises(ValueError, match='did you mean `popular`'): compare(models, baselines='popularity')
    with pytest.raises(ValueError, match='several `learners`'): compare([models['one']])
    with pytest.raises(ValueError, match='nothing held out to compare by: pass `test`'): compare([models['two'],models['one']])
    with pytest.raises(TypeError, match='`compare` has no argument'): compare(models, leel=.9)
