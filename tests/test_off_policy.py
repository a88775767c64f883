"Off-policy estimates, calibration and comparisons of sources: against sums by hand, in any order, and where the truth is known"
import numpy as np, pandas as pd, pytest, warnings
from hypothesis import given, settings, strategies as st
from collab_ext.off_policy import *
from collab_ext.slates import SlateLog

quick = settings(max_examples=15, deadline=None)

def ragged_log(rng, n, users=5):
    "Slates of different lengths, chosen by chance"
    rows = []
    for i in range(n):
        p = rng.dirichlet(np.ones(rng.integers(1, 6)))+.02
        p /= p.sum()
        c = rng.choice(len(p), p=p)
        rows.append(dict(user=f'u{rng.integers(users)}', scores=rng.normal(size=len(p)).tolist(), propensities=p.tolist(), chosen=c, outcome=rng.normal()))
    return pd.DataFrame(rows)

def by_hand(log, lists, how, q=None):
    "The estimators as they are written in papers, slate by slate"
    w = [pi[c]/p[c] for pi,p,c in zip(lists, log.propensities, log.chosen)]
    if how=='ips': return sum(a*b for a,b in zip(w, log.outcome))/len(log)
    if how=='snips': return sum(a*b for a,b in zip(w, log.outcome))/sum(w)
    return sum(np.dot(pi, qs)+a*(r-qs[c]) for pi,qs,a,r,c in zip(lists, q, w, log.outcome, log.chosen))/len(log)

@quick
@given(seed=st.integers(0, 10_000), n=st.integers(2, 40))
def test_estimates_are_those_of_sums_by_hand(seed, n):
    rng = np.random.default_rng(seed)
    log = ragged_log(rng, n)
    lists = [rng.dirichlet(np.ones(len(p))) for p in log.propensities]
    q = [rng.normal(size=len(p)) for p in log.propensities]
    for how in estimators:
        found = off_policy(log, lists, how, predicted=q if how=='dr' else None)
        assert np.isclose(found.value, by_hand(log, lists, how, q)) and found.low<=found.value<=found.high
        order = rng.permutation(n)
        again = off_policy(log.iloc[order], [lists[i] for i in order], how, predicted=[q[i] for i in order] if how=='dr' else None)
        assert np.allclose(found, again)

def test_known_answers_of_coba():
    "What coba 8.1.0 and vowpalwabbit 9.11.9 (its direct method) say of the same log: the estimates agree to the last bits"
    log = pd.DataFrame(dict(propensities=[[.5,.25,.25],[.2,.8],[.1,.2,.7],[.6,.4]], chosen=[0,1,2,0], outcome=[1.,0.,1.,0.]))
    lists = [[1,0,0],[0,1],[0,0,1],[.5,.5]]
    assert np.isclose(off_policy(log, lists, 'ips').value, (1/.5+0+1/.7+0)/4)
    w = [2.,1.25,1/.7,.5/.6]
    assert np.isclose(off_policy(log, lists, 'snips').value, (w[0]+w[2])/sum(w))
    assert np.isclose(off_policy(log, lists, 'dr', predicted=[[.5]*len(o) for o in lists]).value, .5+(w[0]*.5-w[1]*.5+w[2]*.5-w[3]*.5)/4)

def test_the_policy_of_the_log_earned_what_it_earned():
    log = simulate_slates(300, seed=3)
    assert np.isclose(off_policy(log, list(log.propensities), 'snips').value, log.outcome.mean())
    assert np.isclose(off_policy(log, 'softmax', 'ips').value, log.outcome.mean())

def test_self_normalised_estimates_move_with_the_outcomes_and_ips_does_not():
    log = simulate_slates(200, seed=4)
    more = log.assign(outcome=log.outcome+10)
    for how,same in (('snips',True),('dr',True),('ips',False)):
        moved = off_policy(more, 'best', how).value-off_policy(log, 'best', how).value
        assert np.isclose(moved, 10, atol=1e-6)==same

@pytest.mark.parametrize('how', ['snips','dr'])
def test_intervals_hold_the_truth(how):
    many = simulate_slates(2000, readers=2000, seed=77)
    truth = np.mean([t[np.argmax(s)] for t,s in zip(many.truth, many.scores)])
    held = 0
    for seed in range(40):
        found = off_policy(simulate_slates(60, seed=seed), 'best', how)
        held += found.low<truth<found.high
    assert held>=35

def test_slates_of_a_user_are_alike():
    "Twice the same slates of the same users say no more than once"
    log = simulate_slates(150, readers=15, seed=5)
    twice = pd.concat([log,log], ignore_index=True)
    assert np.isclose(off_policy(log, 'best').se, off_policy(twice, 'best').se)
    assert off_policy(twice, 'best', by=None).se<off_policy(log, 'best', by=None).se*.75

def test_slates_without_outcome_or_choice_are_left_out(tmp_path):
    log = SlateLog(tmp_path/'s.db')
    for o in range(30):
        slate = log.add(['a','b'], [.5,.5], o%2, scores=[1.,0.], user=o//3)
        if o%3: log.outcome(slate, float(o%2==0))
    log.add(['a','b'], [0,0], None, scores=[-5,-5])
    found = off_policy(log.frame(), 'best', 'ips')
    assert found.slates==20 and found.without==11 and np.isclose(off_policy(log.frame(), 'best', 'snips').value, 1.)
    lists = [[1,0]]*31
    assert np.isclose(off_policy(log.frame(), lists, 'ips').value, found.value)

def test_what_a_log_cannot_see_is_said():
    log = pd.DataFrame(dict(propensities=[[1.,0.]]*5, chosen=[0]*5, outcome=[1.]*5))
    with pytest.warns(UserWarning, match='In 5 of 5 slates'): found = off_policy(log, [[.5,.5]]*5, 'ips')
    assert found.value==.5
    with warnings.catch_warnings(record=True): nothing = off_policy(log, [[0,1]]*5, 'snips')
    assert np.isnan(nothing.value) and nothing.high==np.inf

@pytest.mark.parametrize('change,error,words', [
    (dict(chosen=[1]), ValueError, 'has 0 for the candidate 1'), (dict(propensities=[[1.,float('nan')]]), ValueError, 'Row 0 .* holds nan'),
    (dict(chosen=[-1]), ValueError, 'Row 0 .* from 0 to 1'), (dict(chosen=[.5]), ValueError, 'position of a candidate'),
    (dict(propensities=[[5.,0.]]), ValueError, 'sum to 5'), (dict(outcome=[float('inf')]), ValueError, 'Row 0 .* outcome inf'),
    (dict(policy=3), ValueError, 'not 3'), (dict(policy=None), ValueError, 'not None'),
    (dict(policy=[[.5,.4]]), ValueError, 'sum to 1'), (dict(policy=[[1.]]), ValueError, '1 numbers for 2'), (dict(policy='greedy'), ValueError, '`how`'),
    (dict(policy=[[.5,.5]]*2), ValueError, '2 lists for 1'), (dict(outcome=[None]), ValueError, 'nothing to estimate'), (dict(level=95), ValueError, '`level`'),
    (dict(how='dm'), ValueError, "'snips'"), (dict(policy=dict(how='softmax', tmp=1)), TypeError, 'temp')])
def test_bad_input_is_named(change, error, words):
    df = pd.DataFrame(dict(propensities=[[1.,0.]], chosen=[0], outcome=[1.], scores=[[1.,0.]]))
    policy,how,level = change.pop('policy', [[1.,0.]]),change.pop('how', 'ips'),change.pop('level', .95)
    with pytest.raises(error, match=words): off_policy(df.assign(**change), policy, how, level=level)

def test_agreement_of_a_few_proves_little():
    "Where all outcomes are alike, intervals have a width that shrinks with their number"
    def log(n, worth=1.): return pd.DataFrame(dict(propensities=[[.5,.5]]*n, chosen=[0,1]*(n//2), outcome=[worth]*n))
    few,many = [off_policy(log(n), [[1.,0.]]*n) for n in (10,100)]
    assert few.low<.8<few.high and many.low<.98<many.high and many.se<few.se/5
    tenth = off_policy(log(14, .1), [[.7,.3]]*14) # a mean of tenths is a tenth but for rounding
    assert tenth.high-tenth.low>.1
    votes = pd.DataFrame(dict(user=range(40), source=['human','model']*20, value=[1,-1]*20))
    row = compare_sources(votes, 'human').loc['model']
    assert row.difference==-2 and -2.5<row.low<-2.1 and -1.9<row.high<-1.5
    assert votes_needed(votes.assign(user='a'), .5).needed.isna().all()
    assert compare_sources(votes.assign(value=0), 'human').difference.eq(0).all()

# ---- Calibration and order ------------------------------------------------------------------------------------------

@quick
@given(seed=st.integers(0, 10_000), temp=st.floats(.3, 5))
def test_a_temperature_is_found_again(seed, temp):
    rng = np.random.default_rng(seed)
    z = 3*rng.normal(size=20_000)
    y = rng.random(20_000)<1/(1+np.exp(-z))
    assert abs(fit_temperature(z*temp, y)/temp-1)<.1

def test_bins_hold_their_shares():
    rng = np.random.default_rng(0)
    p = rng.random(20_000)
    res = vote_reliability(p, rng.random(20_000)<p, bins=100)
    assert ((res.low<=res.pred)&(res.pred<=res.high)).sum()>=90 and res.votes.sum()==20_000 and ((res.low>=0)&(res.high<=1)).all()
    assert np.isclose(brier([1,0,.5], [1,1,0]), (0+1+.25)/3)

@quick
@given(seed=st.integers(0, 10_000), n=st.integers(2, 25), binary=st.booleans())
def test_accuracy_is_that_of_all_pairs(seed, n, binary):
    rng = np.random.default_rng(seed)
    s,y = rng.integers(0, 5, n)*1.,rng.integers(0, 2 if binary else 9, n)*1.
    right = [(s[a]>s[b])+.5*(s[a]==s[b]) for a in range(n) for b in range(n) if y[a]>y[b]]
    found = pair_accuracy(s, y, n_resamples=20)
    assert found['pairs']==len(right) and (not right or np.isclose(found['accuracy'], np.mean(right)))

# ---- Sources --------------------------------------------------------------------------------------------------------

def test_looking_again_and_again_does_not_make_a_difference():
    "With two sources that are alike, at most a few runs in a hundred ever find one better"
    missed = 0
    for seed in range(15):
        votes = simulate_votes(dict(human=0., model=0.), 400, n_users=30, n_items=40, seed=seed)
        found = [compare_sources(votes[:k], 'human').loc['model'] for k in range(60, len(votes), 60)]
        missed += any(not o.low<=0<=o.high for o in found)
    assert missed<=1

def test_one_person_who_votes_all_day_decides_nothing():
    rng = np.random.default_rng(0)
    one = pd.DataFrame(dict(user='a', source=['human','model']*300, item=np.arange(600), value=[-1,1]*300))
    others = pd.DataFrame(dict(user=[f'u{i}' for i in range(40)], source=['human','model']*20, item=np.arange(40), value=rng.choice([-1,1], 40)))
    res = compare_sources(pd.concat([one,others]), 'human').loc['model']
    assert res.difference>1 and res.low==-np.inf
    assert compare_sources(one, 'human').loc['model'].high==np.inf

def test_comparisons_are_of_the_values_and_not_of_the_order_or_the_sign():
    votes = simulate_votes(dict(a=.3, b=-.2, c=0.), 600, seed=2)
    res = compare_sources(votes, 'a')
    assert np.allclose(res, compare_sources(votes.sample(frac=1, random_state=0), 'a').loc[res.index], equal_nan=True)
    turned = compare_sources(votes.assign(value=-votes.value), 'a').loc[res.index]
    assert np.allclose(turned.difference, -res.difference) and np.allclose(turned.low, -res.high)
    assert np.allclose(res['mean'], votes.groupby('source').value.mean()[res.index])

def test_the_votes_that_are_needed_suffice():
    truth = dict(human=.12, model=-.12)
    votes = simulate_votes(truth, 600, n_users=600, n_items=600, seed=1)
    needed = votes_needed(votes, .24, reference='human').loc['model']
    assert needed.more>0
    n,told = int(needed.needed),0
    for seed in range(12):
        later = simulate_votes(truth, n, n_users=n, n_items=n, seed=100+seed)
        told += compare_sources(later, 'human').high['model']<0
    assert told>=6
    with pytest.raises(ValueError, match='other than 0'): votes_needed(votes, 0)
    with pytest.raises(ValueError, match='did you mean'): compare_sources(votes, 'humans')
    with pytest.raises(KeyError, match="no column 'value'"): compare_sources(votes.drop(columns='value'))
    with pytest.raises(ValueError, match='is empty'): compare_sources(votes[:0])

def test_columns_that_are_named_are_there():
    log = simulate_slates(60)
    with pytest.raises(KeyError, match="`by` names the column 'usr'"): off_policy(log, 'best', by='usr')
    votes = simulate_votes(dict(human=.2, model=.1))
    with pytest.raises(KeyError, match="`item` names the column 'itme'"): compare_sources(votes, item='itme')
    for bad in (-1,0,np.nan,'x'):
        with pytest.raises(ValueError, match='`scale` is a number above 0'): compare_sources(votes, scale=bad)

def test_items_and_users_may_be_missing():
    votes = simulate_votes(dict(human=.2, model=.1))
    votes.loc[votes.source=='human','item'] = None # jokes of people have no number
    row = compare_sources(votes, 'human').loc['model']
    assert np.isfinite(row.low) and row.low<row.difference<row.high
    votes.loc[0,'user'] = None
    assert compare_sources(votes).votes.sum()==len(votes)-1

def test_slates_without_scores_are_no_ground_for_a_named_policy():
    log = simulate_slates(20)
    log.at[3,'scores'] = None
    with pytest.raises(ValueError, match='1 of 20 slates were chosen without scores'): off_policy(log, 'best')

def test_a_changed_vote_counts_once():
    votes = pd.DataFrame([dict(source=s, user=u, item=s, value=v) for s in 'mh' for u in range(20) for v in ([1,-1] if s=='m' else [1])])
    res = compare_sources(votes, 'h')
    assert res.votes['m']==20 and res['mean']['m']==-1
    assert compare_sources(votes.drop(columns='item'), 'h').votes['m']==40

def test_lengths_that_differ_are_refused():
    for scores,y in (([1,2,3],[1,0]), ([1,2],[1,0,1])):
        with pytest.raises(ValueError, match='each row has one'): pair_accuracy(scores, y)
    with pytest.raises(ValueError, match='`group`'): pair_accuracy([1,2], [1,0], np.array([0]))

def test_pairs_that_all_agree_leave_some_doubt():
    found = pair_accuracy([1,2,3], [0,0,1])
    assert found['accuracy']==1 and found['low']<.6 and found['high']==1

def test_the_mean_of_groups_is_a_share():
    rng = np.random.default_rng(0)
    df = pd.DataFrame(dict(context=['a','b']*100, score=rng.normal(size=200)))
    res = ranked_by_group(df.assign(outcome=np.where(df.context=='a', df.score>0, df.score>-1)*1.))
    assert res.low['mean']>=0 and res.high['mean']<=1

def test_one_source_needs_no_votes():
    assert list(votes_needed(pd.DataFrame(dict(source='a', user=range(20), value=1))).columns)==['difference','now','needed','more']
