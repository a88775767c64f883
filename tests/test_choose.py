"Choosing, moods and logs: against brute force, in any order, in any steps, and killed at any time"
import os,resource,signal,sqlite3,threading,time,warnings
import numpy as np, pandas as pd, pytest
from hypothesis import given, settings, strategies as st
from collab_ext.choose import *
from collab_ext.choose import policies, propensities
from collab_ext.data import CollabDataLoaders
from collab_ext.learner import collab_learner
from collab_ext.mood import Mood, mood_ranges
from collab_ext.simulate import simulate_ratings
from collab_ext.slates import SlateLog, app_id
from collab_ext.user_posterior import UserPosterior, row_posterior
from collab_ext.model import Link

hows = st.sampled_from(list(policies))
quick = settings(max_examples=40, deadline=None)

def candidates(rng, n): return rng.normal(size=n)*10.**rng.integers(-3, 4), rng.exponential(size=n)*10.**rng.integers(-3, 4)*(rng.random(n)<.8)

# ---- Propensities ---------------------------------------------------------------------------------------------------

@quick
@given(seed=st.integers(0, 10_000), n=st.integers(1, 12), how=hows)
def test_propensities_sum_to_one_and_follow_the_candidates(seed, n, how):
    rng = np.random.default_rng(seed)
    scores,sd = candidates(rng, n)
    allowed = rng.random(n)<.7
    allowed[rng.integers(n)] = True
    p = propensities(scores, sd, how, allowed=allowed)
    assert abs(p.sum()-1)<1e-9 and p.min()>=0 and not p[~allowed].any()
    order = rng.permutation(n)
    assert np.allclose(propensities(scores[order], sd[order], how, allowed=allowed[order]), p[order], atol=1e-7)

@quick
@given(seed=st.integers(0, 10_000), n=st.integers(2, 8), shift=st.floats(-1e4, 1e4), scale=st.floats(1e-3, 1e3))
def test_thompson_depends_on_no_unit(seed, n, shift, scale):
    rng = np.random.default_rng(seed)
    s,sd = rng.normal(size=n),rng.exponential(size=n)
    assert np.allclose(propensities(s, sd, 'thompson'), propensities(shift+scale*s, scale*sd, 'thompson'), atol=1e-6)

@pytest.mark.parametrize('seed', range(6))
def test_thompson_is_how_often_each_is_the_best(seed):
    rng = np.random.default_rng(seed)
    n = rng.integers(2, 9)
    s,sd = rng.normal(size=n),rng.exponential(size=n)*(rng.random(n)<.8)
    draws = rng.normal(s, sd, (100_000,n))
    top = draws==draws.max(1, keepdims=True)
    often = (top/top.sum(1, keepdims=True)).mean(0)
    assert abs(often-propensities(s, sd, 'thompson')).max()<.006

@pytest.mark.parametrize('how', ['softmax','epsilon','thompson'])
def test_choices_come_as_often_as_their_propensities(how):
    rng = np.random.default_rng(3)
    scores,sd = np.array([1.,1.,.4,-1]),np.array([.3,.3,1.,.1])
    picked = [choose(scores, sd, how, epsilon=.4, rng=rng) for _ in range(800)]
    often = np.bincount([o.index for o in picked], minlength=4)/800
    assert abs(often-picked[0].propensities).max()<.06

def test_equal_candidates_have_equal_chances():
    for how in policies: assert np.allclose(propensities(np.zeros(5), np.ones(5), how), .2)

def test_a_thousand_candidates_of_all_kinds():
    rng = np.random.default_rng(0)
    p = propensities(rng.normal(size=1000), np.full(1000, .5), 'thompson')
    assert abs(p.sum()-1)<1e-9 and p.argmax()==p.argmax()
    for s,sd in (([1e300,-1e300], [1.,1.]), ([0.,1e-300], [1e-300,0.]), ([5.,5.], [1e-12,1e6]), ([0.]*3, [0.]*3)):
        for how in policies: assert abs(propensities(s, sd, how).sum()-1)<1e-9

# ---- Conditions -----------------------------------------------------------------------------------------------------

@quick
@given(seed=st.integers(0, 10_000), n=st.integers(1, 10), how=hows, least=st.floats(-2, 2), d=st.floats(0, 1.5), m=st.integers(0, 3))
def test_conditions_hold_or_are_said_to_have_given_way(seed, n, how, least, d, m):
    rng = np.random.default_rng(seed)
    scores,vecs,shown,suits = rng.normal(size=n),rng.normal(size=(n,3)),rng.normal(size=(m,3)),rng.random(n)<.4
    choice = choose(scores, rng.exponential(size=n), how, min_score=least, allowed=suits, vecs=vecs, diversity=d, shown=shown, rng=rng)
    if choice.index is None:
        assert (scores<least).all() and not choice.propensities.any()
        return
    i,ok = choice.index,choice.allowed
    assert ok[i] and choice.propensities[i]>0 and not choice.propensities[~ok].any() and (scores[ok]>=least).all()
    if 'allowed' in choice.relaxed: assert not (suits&(scores>=least)).any()
    else: assert suits[ok].all()
    unit = vecs/np.linalg.norm(vecs, axis=1, keepdims=True)
    if 'diversity' not in choice.relaxed:
        far = 1-unit[ok]@unit[ok].T+2*np.eye(ok.sum())
        assert far.min()>=d-1e-9
        if m: assert (1-unit[ok]@(shown/np.linalg.norm(shown, axis=1, keepdims=True)).T).min()>=d-1e-9

def test_diversity_drops_only_what_is_near_to_something_better():
    rng = np.random.default_rng(0)
    scores,vecs = rng.normal(size=30),rng.normal(size=(30,2))
    kept = far_apart(scores, vecs, .3)
    unit = vecs/np.linalg.norm(vecs, axis=1, keepdims=True)
    for i in np.flatnonzero(~kept): assert (1-unit[kept&(scores>scores[i])]@unit[i]).min()<.3

def test_what_is_retained_is_scored_again():
    kept = Retained(0., most=2)
    kept.update(list('abcd'), [3.,2.,1.,-1], picked=1)
    assert kept.candidates==['a','c'] and kept.join(['a','x'])==['a','x','c']
    kept.update(['a','c'], [-1.,5.])
    assert kept.candidates==['c']

class Lengths:
    def score_candidates(self, texts, user=None): return np.array([len(o) for o in texts], float),None

odd_texts = ['', 'x'*100_000, 'Ünïcode 日本語 العربية', '🦆👩‍👩‍👧', 'a\x00b\x1b[0m\x07', 'half \ud83d', '<b>*_`[link](x)', "'); DROP TABLE slates;--"]

def test_odd_texts_come_back_as_they_were(tmp_path):
    log = SlateLog(tmp_path/'s.db')
    picked = select_from(Lengths(), odd_texts, user=odd_texts[5], context=odd_texts[1], log=log)
    log.outcome(picked.slate, 1)
    row = log.frame().iloc[0]
    assert picked.candidate==odd_texts[1]==row.candidate==row.context and row.candidates==odd_texts and row.user==odd_texts[5] and row.outcome==1

@pytest.mark.parametrize('bad', [[1.,float('nan')], ['a','b'], [1.], [[1.],[2.]], None])
def test_a_model_that_scores_badly_is_named(bad, tmp_path):
    class Bad:
        def score_candidates(self, texts, user=None): return bad,None
    log = SlateLog(tmp_path/'s.db')
    with pytest.raises(ValueError, match='score_candidates'): select_from(Bad(), ['a','b'], log=log)
    assert len(log)==0

# ---- Moods ----------------------------------------------------------------------------------------------------------

@quick
@given(seed=st.integers(0, 10_000), parts=st.integers(2, 40), tau=st.floats(.1, 100), push=st.floats(.1, 100))
def test_steps_of_any_size_lead_to_the_same_mood(seed, parts, tau, push):
    rng = np.random.default_rng(seed)
    one,many = Mood(tau, push),Mood(tau, push)
    for o in rng.random(4):
        hours = rng.exponential()*10
        one.hear(o).step(hours)
        many.hear(o)
        for part in rng.dirichlet(np.ones(parts)): many.step(hours*part)
    assert np.allclose(one.x, many.x, atol=1e-9)

def test_moods_add_up_and_pass():
    a,b,both = [Mood(tau_habit=1e12) for _ in range(3)]
    for m,said in ((a,[.9,.5]), (b,[.5,.2]), (both,[.9,.2])):
        for p in said: m.hear(p).step(1.)
    assert abs(a.value+b.value-both.value)<1e-9
    assert abs(both.step(500.).value)<1e-9

def test_a_remark_moves_the_mood_by_its_gain_altogether():
    "The area under a single remark is gain × logit × tau"
    mood,h = Mood(tau=3., tau_push=.5).hear(.9),.05
    area = sum(mood.step(h).value for _ in range(1000))*h
    assert abs(area-.0915*np.log(9)*3)<1e-3

@quick
@given(seed=st.integers(0, 10_000), n=st.integers(1, 9))
def test_a_mood_never_empties_a_slate(seed, n):
    rng = np.random.default_rng(seed)
    mood = Mood()
    for o in rng.random(30)*rng.choice([.1,1]): mood.hear(o).step(.1)
    p = rng.random(n)
    low,high = mood.range()
    ok = mood.allows(p)
    inside = (p>=low)&(p<=high)
    assert 0<=low<=high<=1 and ok.any() and (np.array_equal(ok, inside) if inside.any() else ok.all())

def test_ranges_rise_with_the_mood(): assert mood_ranges.low.is_monotonic_increasing and mood_ranges.high.is_monotonic_increasing

# ---- The log --------------------------------------------------------------------------------------------------------

def add_for_ever(path, say):
    "Write slates and outcomes, and say each one that is confirmed"
    log = SlateLog(path)
    while True:
        slate = log.add(['a','b','c'], [.2,.3,.5], 2, scores=[1,2,3], user='u', mood=.1)
        os.write(say, b'%d\n' % slate)
        log.outcome(slate, 1)
        os.write(say, b'%d+\n' % slate)

def forked(f):
    pid = os.fork()
    if pid: return pid
    try: f()
    finally: os._exit(1)

def test_what_was_confirmed_survives_any_kill(tmp_path):
    path,rng,confirmed,voted = tmp_path/'s.db',np.random.default_rng(0),set(),set()
    for _ in range(12):
        r,w = os.pipe()
        pids = [forked(lambda: add_for_ever(path, w)) for _ in range(2)]
        os.close(w)
        time.sleep(.03+.05*rng.random())
        for o in pids: os.kill(o, signal.SIGKILL)
        for o in pids: os.waitpid(o, 0)
        with open(r) as f: said = [o for o in f.read().split('\n')[:-1] if o]
        voted |= {int(o[:-1]) for o in said if o.endswith('+')}
        confirmed |= {int(o) for o in said if not o.endswith('+')}
    df = SlateLog(path).frame().set_index('slate')
    assert len(confirmed)>20 and confirmed<=set(df.index) and df.outcome[sorted(voted)].eq(1).all()
    assert df.candidates.map(len).eq(3).all() and df.propensities.map(sum).sub(1).abs().max()<1e-9

@pytest.mark.parametrize('_', range(6))
def test_threads_and_processes_share_a_new_log(tmp_path, _):
    path = tmp_path/'s.db'
    def write(written): written += [SlateLog(path).add(['a','b'], [.5,.5], o%2) for o in range(8)]
    def child():
        written = []
        threads = [threading.Thread(target=write, args=(written,)) for _ in range(3)]
        for o in threads: o.start()
        for o in threads: o.join()
        os._exit(24-len(written))
    pids = [forked(child) for _ in range(3)]
    assert [os.waitpid(o, 0)[1] for o in pids]==[0,0,0]
    assert len(SlateLog(path))==72

@pytest.mark.parametrize('lock', ['IMMEDIATE','EXCLUSIVE'])
def test_a_new_log_waits_for_who_else_makes_it(tmp_path, lock):
    path = tmp_path/'s.db'
    other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    other.execute(f'BEGIN {lock}')
    release = threading.Timer(.3, lambda: other.execute('COMMIT'))
    release.start()
    assert SlateLog(path).add(['a'], [1], 0)==1
    release.join()
    other.execute(f'BEGIN {lock}')
    with pytest.raises(OSError, match='locked'): SlateLog(path, timeout=.1).add(['a'], [1], 0)

def test_a_fork_leaves_the_connection_of_its_parent_alone(tmp_path):
    log = SlateLog(tmp_path/'s.db')
    log.add(['a'], [1], 0)
    parents = log.connection()
    def child():
        log.add(['b'], [1], 0)
        os._exit(0 if log.connection() is not parents else 1)
    assert os.waitpid(forked(child), 0)[1]==0
    log.add(['c'], [1], 0)
    assert log.frame().candidate.tolist()==['a','b','c']

def test_other_files_are_refused_and_stay_as_they_are(tmp_path):
    theirs = tmp_path/'theirs.db'
    with sqlite3.connect(theirs) as con: con.execute('CREATE TABLE slates (x)')
    con.close()
    text = tmp_path/'text.db'
    text.write_bytes(b'no database at all '*100)
    newer = tmp_path/'newer.db'
    with sqlite3.connect(newer) as con:
        con.execute(f'PRAGMA application_id={app_id}')
        con.execute('CREATE TABLE t (x)')
        con.execute('PRAGMA user_version=99')
    con.close()
    for path,words in ((theirs,'another program'), (text,'no log of slates'), (newer,'newer version'), (tmp_path,'a folder')):
        before = path.read_bytes() if path.is_file() else None
        with pytest.raises(ValueError, match=words): SlateLog(path)
        if before is not None: assert path.read_bytes()==before

def test_damage_is_an_error_that_names_the_file(tmp_path):
    rng,path = np.random.default_rng(0),tmp_path/'s.db'
    log = SlateLog(path)
    for o in range(60): log.add(['a'*200,'b'], [.5,.5], 0)
    log.connection().execute('PRAGMA wal_checkpoint(TRUNCATE)')
    log.close()
    whole,refused = path.read_bytes(),0
    for k in range(40):
        bad = bytearray(whole)
        if k%2: bad = bad[:rng.integers(1, len(whole))]
        else: bad[(at := rng.integers(0, len(whole)-200)):at+200] = rng.bytes(200)
        broken = tmp_path/f'{k}.db'
        broken.write_bytes(bad)
        try: SlateLog(broken).frame()
        except (ValueError,OSError) as e:
            refused += 1
            assert str(broken) in str(e)
    assert refused>10

def test_a_full_disk_loses_nothing(tmp_path):
    path = tmp_path/'s.db'
    first = SlateLog(path).add(['a','b'], [.5,.5], 0)
    def child():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        log = SlateLog(path)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000,resource.RLIM_INFINITY))
        try:
            for _ in range(100): log.add(['x'*50_000,'y'], [.5,.5], 0)
        except OSError as e:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,resource.RLIM_INFINITY))
            log.add(['after','y'], [.5,.5], 0)
            os._exit(0 if 'nothing of this call was kept' in str(e) else 2)
        os._exit(3)
    assert os.waitpid(forked(child), 0)[1]==0
    df = SlateLog(path).frame()
    assert df.slate[0]==first and df.candidate.iloc[-1]=='after' and df.candidates.map(len).eq(2).all()

# ---- What is known of a user ----------------------------------------------------------------------------------------

@quick
@given(seed=st.integers(0, 10_000), n=st.integers(1, 30))
def test_a_posterior_is_that_of_ratings_one_by_one(seed, n):
    rng = np.random.default_rng(seed)
    x,offset,y,mean = rng.normal(size=(n,3)),rng.normal(size=n),rng.normal(size=n),rng.normal(size=3)
    P = np.eye(3)*rng.exponential()
    theta,cov = row_posterior(x, offset, y, mean, P, .7, Link())
    m,C = mean,np.linalg.inv(P)
    for o in range(n): m,C = row_posterior(x[o:o+1], offset[o:o+1], y[o:o+1], m, np.linalg.inv(C), .7, Link())
    assert np.allclose(m, theta, atol=1e-6) and np.allclose(C, cov, atol=1e-6)

def test_the_order_of_ratings_does_not_matter():
    sim = simulate_ratings(60, 60, 1800, seed=1) # enough for the closed form to try nothing out
    learn = collab_learner(CollabDataLoaders.from_df(sim.ratings, valid_pct=0, seed=0), n_factors=3)
    with learn.no_bar(),learn.no_logging(): learn.solve(2)
    a,b = UserPosterior(learn),UserPosterior(learn)
    for o in range(6): a.rate('new', f'i{o}', o-2.)
    for o in reversed(range(6)): b.rate('new', f'i{o}', 9.).rate('new', f'i{o}', o-2.)
    for x,y in zip(a.score_candidates(['i9','i11'], 'new'), b.score_candidates(['i9','i11'], 'new')): assert np.allclose(x, y)

def test_what_gave_way_is_named():
    class Lengths:
        def score_candidates(self, texts, user=None): return [len(o) for o in texts],None
    def pick(**kwargs): return select_from(Lengths(), ['a','bb'], **kwargs)
    assert pick(mood=Mood(), sentiment=[1.,1.]).relaxed==('mood',) and pick(mood=Mood(), sentiment=[.5,1.]).relaxed==()
    for bad,words in ((dict(mood=3, sentiment=[1.,1.]), '`mood` is'), (dict(log='s.db'), 'SlateLog'), (dict(min_score=float('nan')), '`min_score`')):
        with pytest.raises(ValueError, match=words): pick(**bad)
    for bad in (dict(gain=float('nan')), dict(habit='x')):
        with pytest.raises(ValueError, match=next(iter(bad))): Mood(**bad)

def test_half_a_character_is_kept(tmp_path):
    log = SlateLog(tmp_path/'slates.db')
    log.add(['\ud83d','b'], [.5,.5], 0)
    assert log.frame('candidate').candidate.tolist()==['\ud83d','b']
    with pytest.raises(ValueError, match='names a file'): SlateLog(None)

def test_what_narrowed_a_choice_is_logged_and_judged_with_it(tmp_path):
    from collab_ext.off_policy import off_policy, policy_lists
    class Fixed:
        def score_candidates(self, texts, user=None): return np.array([3.,2.,1.,-1.]),None
    with SlateLog(tmp_path/'s.db') as log:
        mood = Mood()
        for seed in range(40):
            found = select_from(Fixed(), list('abcd'), user=seed, how='softmax', min_score=0., mood=mood, sentiment=[.99,.5,.5,.5], log=log, rng=seed)
            log.outcome(found.slate, 1.*(found.candidate=='b'), user=seed)
        df = log.frame()
    policy = df.policy[0]
    assert policy['allowed']==[False,True,True,False] and policy['min_score']==0
    assert [list(o) for o in policy_lists('best', df)]==[[0,1,0,0]]*40
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert off_policy(df, 'best').value==1

def test_a_selector_of_lines_is_a_sentiment():
    class Lines:
        def probabilities(self, texts, user=None): return np.array([.99 if 'joy' in o else .5 for o in texts])
    class Long:
        def score_candidates(self, texts, user=None): return np.array([float(len(o)) for o in texts]),None
    assert select_from(Long(), ['so much joy','nothing'], mood=Mood(), sentiment=Lines()).candidate=='nothing'

@pytest.mark.parametrize('kwargs,said', [(dict(user=[1,2]), 'choose for each'), (dict(user=dict(a=1)), 'choose for each'), (dict(retained=[]), '`retained`'), (dict(rng='x'), '`rng`')])
def test_what_cannot_be_meant_is_named(kwargs, said):
    class Long:
        def score_candidates(self, texts, user=None): return np.array([float(len(o)) for o in texts]),None
    with pytest.raises(ValueError, match=said): select_from(Long(), ['a','bc'], **kwargs)
    with pytest.raises(ValueError, match='not a frame'): select_from(Long(), pd.DataFrame(dict(text=['a','bc'])))

def test_names_of_elsewhere_are_known():
    with pytest.raises(TypeError, match='did you mean `temp`'): select_from(None, ['a','b'], temperature=.5)
