"Comparisons: what must not change a score, what must be refused, and what must survive files, growth and interruption"
import warnings

import numpy as np,pandas as pd,pytest,torch
from fastai.callback.all import EarlyStoppingCallback,SaveModelCallback
from fastai.callback.core import Callback
from fastai.learner import load_learner
from hypothesis import given,settings,strategies as st
from collab_ext import *
from collab_ext.comparison_learner import comparison_solvers
from collab_ext.comparison_solver import LicchaviSolver
from collab_ext.comparisons import answer_step,comparison_columns
from collab_ext.files import read_pair,save_pair
from collab_ext.root_laws import GradedLaw,UniformLaw,WinsLaw

@pytest.fixture(autouse=True)
def in_tmp(tmp_path, monkeypatch): monkeypatch.chdir(tmp_path)

def simulated(n=500, criteria=1, seed=0, n_contributors=6, n_items=20, **kw):
    most = n_contributors*(n_items*(n_items-1)//4)*criteria
    return simulate_comparisons(n_contributors, n_items, min(n, most), criteria=criteria, seed=seed, **kw)

def frame(n=500, criteria=1, seed=0, **kw): return simulated(n, criteria, seed, **kw).comparisons

def loaders(df, comparison_max=10, valid_pct=0, **kw):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore') # of components
        return ComparisonDataLoaders.from_df(df, comparison_max, valid_pct, **dict(dict(seed=0, step=0), **kw))

def learner(df, comparison_max=10, valid_pct=0, dls_args=(), **kw): return comparison_learner(loaders(df, comparison_max, valid_pct, **dict(dls_args)), **kw)

def quietly(learn, f, *args, **kw):
    with learn.no_bar(), learn.no_logging(): f(*args, **kw)
    return learn

def solved(df, *args, n_epoch=None, **kw):
    learn = learner(df, *args, **kw)
    return quietly(learn, learn.solve, n_epoch)

def keys_of(scores): return [o for o in ('contributor','criterion','item') if o in scores]

def by_label(scores): return scores.sort_values(keys_of(scores)).reset_index(drop=True)

def assert_same(a, b, atol=1e-8): pd.testing.assert_frame_equal(by_label(a), by_label(b), atol=atol, rtol=0)

def exchanged(df): return df.assign(item_a=df.item_b, item_b=df.item_a, comparison=-df.comparison)

def state(learn): return {k:v.clone() for k,v in learn.model.state_dict().items()}

def assert_unchanged(learn, before, prior):
    after = learn.model.state_dict()
    assert list(after)==list(before) and all(torch.equal(after[k], v) for k,v in before.items()) and learn.model.prior==prior

# --- invariances

cases = [dict(), dict(criteria=2), dict(criteria=2, n_contributors=1)]

@pytest.mark.parametrize('kw', cases)
@pytest.mark.parametrize('loss', list(comparison_solvers))
def test_antisymmetry_and_order(kw, loss):
    "Exchanged items with negated answers, other orders of rows and of labels, give the same scores"
    df = frame(**kw)
    rng = np.random.default_rng(0)
    flip = rng.random(len(df))<.5
    some = pd.concat([exchanged(df[flip]),df[~flip]])
    def scores(df):
        learn = solved(df, loss=loss, n_epoch=6)
        return learn.scores() if loss=='posterior' else learn.item_scores()
    want = scores(df)
    for o in (exchanged(df), df.sample(frac=1, random_state=1), some.sample(frac=1, random_state=2)): assert_same(scores(o), want)

def test_large_systems_are_invariant(monkeypatch):
    "With drawn errors, too: the noise belongs to labels"
    monkeypatch.setattr('collab_ext.scores.small_system', 10)
    df = frame(criteria=2)
    want = solved(df, n_epoch=5).item_scores()
    assert_same(solved(exchanged(df).sample(frac=1, random_state=0), n_epoch=5).item_scores(), want, 1e-4)

def test_order_of_labels():
    "Other names in another order: the same scores"
    df = frame()
    names = {o:f'z{99-int(o[1:]):02}' for o in pd.unique(df[['item_a','item_b']].values.ravel())}
    other = df.assign(item_a=df.item_a.map(names), item_b=df.item_b.map(names), contributor=df.contributor.map(lambda o: f'c{9-o}'))
    a,b = solved(df).scores(),solved(other).scores()
    a = a.assign(item=a['item'].map(names), contributor=a.contributor.map(lambda o: f'c{9-o}'))
    assert_same(a, b, 1e-7)

@settings(max_examples=6)
@given(seed=st.integers(0, 99), times=st.integers(2, 4))
def test_repeated_is_weighted(seed, times):
    "A comparison that is there several times is one with that weight"
    df = frame(200, seed=seed, n_items=10)
    often = np.random.default_rng(seed).integers(1, times+1, len(df))
    many = df.loc[df.index.repeat(often)].reset_index(drop=True)
    weighted = df.assign(w=often)
    a = solved(many, tau=1., n_epoch=5)
    b = solved(weighted, dls_args=dict(weight_name='w'), tau=1., n_epoch=5)
    assert_same(a.scores(), b.scores(), 1e-7)

def test_weight_zero_is_absence():
    df = frame(300)
    df = df.assign(w=1.*(df.contributor!=0))
    a = solved(df, dls_args=dict(weight_name='w'), variance=1., scales=False).item_scores()
    b = solved(df[df.w>0], variance=1., scales=False).item_scores()
    both = a.merge(b, on='item')
    assert np.allclose(both.score_x, both.score_y, atol=3e-4)
    with pytest.raises(ValueError, match='not below 0'): loaders(df.assign(w=-1.), weight_name='w')

# --- resuming

@pytest.mark.parametrize('kw', [dict(), dict(criteria=2)])
@pytest.mark.parametrize('large', [False,True])
def test_resumed_is_from_scratch(kw, large, monkeypatch):
    "Save, load, grow, solve = all comparisons at once with the same variances"
    if large: monkeypatch.setattr('collab_ext.scores.small_system', 10)
    df = frame(**kw)
    old = df[~df.item_a.eq('i3') & ~df.item_b.eq('i3') & df.contributor.ne(5)].iloc[:-40]
    new = df.drop(old.index)
    first = solved(old)
    first.save('scores')
    again = learner(old).load('scores')
    quietly(again, again.grow(new).solve)
    whole = learner(df).record(again.model.prior)
    quietly(whole, whole.solve)
    assert_same(again.scores().drop(columns=['left','right']), whole.scores().drop(columns=['left','right']), 1e-5)
    assert {'i3'}<=set(again.scores()['item']) and 5 in set(again.scores().contributor)

def test_grow_criteria_and_bad_frames():
    df = frame(criteria=2)
    one = solved(df[df.criterion=='criterion0'])
    before,prior = state(one),one.model.prior
    with pytest.raises(ValueError, match='-?[0-9.]+ in row.*comparison_max'): one.grow(df.assign(comparison=20.))
    with pytest.raises(ValueError, match='with itself'): one.grow(df.assign(item_b=df.item_a))
    with pytest.raises(KeyError, match="'criterion'"): one.grow(df.drop(columns='criterion'))
    assert_unchanged(one, before, prior)
    quietly(one, one.grow(df[df.criterion=='criterion1']).solve)
    assert set(one.item_scores().criterion)=={'criterion0','criterion1'}
    plain = solved(frame())
    with pytest.raises(ValueError, match="criterion 'criterion'"): plain.grow(df)

def test_grow_keeps_what_was_given():
    "Levels, weights and a source"
    df = frame().assign(w=2.)
    learn = solved(df[:460], dls_args=dict(weight_name='w'), levels=('item',), pretrained={f'i{k}':k for k in range(20)})
    mean = learn.model.item_mean.sum()
    learn.grow(df[460:])
    assert learn.model.levels==('item',) and (learn.dls.train_ds.weight==2).all() and torch.allclose(learn.model.item_mean.sum(), mean)
    with pytest.raises(KeyError, match="'w'"): learn.grow(df[460:].drop(columns='w'))

def test_loaded_into_others():
    "By label: what both know moves, the rest begins at zero; a source's means are kept"
    df = frame()
    learn = solved(df, pretrained={f'i{k}':k for k in range(20)})
    learn.save('m')
    part = df[df.contributor.isin([1,2]) & df.item_a.ne('i4') & df.item_b.ne('i4')]
    other = learner(pd.concat([part, part[:5].assign(item_a='new')])).load('m')
    a,b = learn.item_scores().set_index('item').score,other.item_scores().set_index('item').score
    assert b['new']==0 and 'i4' not in b and np.allclose(b.drop('new'), a[b.drop('new').index])
    assert other.model.prior==learn.model.prior and other.model.item_known.sum()==len(b)-1
    a,b = by_label(learn.scores()),by_label(learner(df).load('m').scores())
    assert np.array_equal(a.score, b.score) and np.allclose(a[['left','right']], b[['left','right']], rtol=.01)

refused = {'comparison_max=10': (ValueError, lambda df: learner(df.assign(comparison=df.comparison/10), 1)),
    'law=': (ValueError, lambda df: learner(df, law=GradedLaw(21))), "loss='posterior'": (ValueError, lambda df: learner(df, loss='licchavi')),
    'criteria': (ValueError, lambda df: learner(df.assign(criterion='else'))), 'another kind|no file': (Exception, None)}

@pytest.mark.parametrize('match', list(refused))
def test_other_states_are_refused(match):
    df = frame()
    error,make = refused[match]
    if make is None:
        simple = collab_learner(CollabDataLoaders.from_df(simulate_ratings(10, 10, 50).ratings), y_range=(0,5))
        simple.save('m')
        other = solved(df, n_epoch=2)
    else:
        solved(df, n_epoch=2).save('m')
        other = make(df)
    before,prior = state(other),other.model.prior
    with pytest.raises(error, match='scale of|' + match): other.load('m')
    assert_unchanged(other, before, prior)

def test_laws_with_other_arguments_are_refused():
    df = frame()
    solved(df, law=GradedLaw(5), n_epoch=2).save('m')
    with pytest.raises(ValueError, match=r'law=GradedLaw\(levels=5\)'): learner(df, law=GradedLaw(21)).load('m')

damage = dict(sizes=3, levels=['item','entri'], criteria=[], law='poisson', law_args=dict(x=1), kind='else', scale=0., comparison_max='10',
    prior=dict(variance=dict(item=-1.), tau=1., scale_variance=.1, slope=0., scales=True))

@pytest.mark.parametrize('key', [*damage, *(f'no {o}' for o in damage if o!='prior')])
def test_damaged_info(key):
    "Whatever is wrong beside the scores, the error names the file, and nothing has changed"
    learn = solved(frame(), n_epoch=2)
    learn.save('m')
    pair = read_pair('models/m')
    info = dict(pair.info['comparisons'])
    if key.startswith('no '): del info[key[3:]]
    else: info[key] = damage[key]
    save_pair('models/m', pair.wgts, pair.vocab, info=dict(comparisons=info))
    before,prior = state(learn),learn.model.prior
    with pytest.raises(ValueError, match='m.pth is damaged'): learn.load('m')
    assert_unchanged(learn, before, prior)

tensor_damage = dict(item_score=lambda v: v[:-1], item_keys=lambda v: v.flip(0), contributor_scale=lambda v: -v, cells=lambda v: v-10**6,
    item_mean=lambda v: v[1:], entry_keys=None, contributor_score=lambda v: v*np.nan)

@pytest.mark.parametrize('key', list(tensor_damage))
def test_damaged_tensors(key):
    learn = solved(frame(criteria=2), n_epoch=2)
    learn.save('m')
    pair = read_pair('models/m')
    weights = dict(pair.wgts)
    if tensor_damage[key] is None: del weights[key]
    else: weights[key] = tensor_damage[key](weights[key])
    save_pair('models/m', weights, pair.vocab, info=pair.info)
    before,prior = state(learn),learn.model.prior
    with pytest.raises(ValueError): learn.load('m')
    assert_unchanged(learn, before, prior)

def test_missing_file():
    with pytest.raises(FileNotFoundError): learner(frame()).load('nothing')

class Interrupt(Callback):
    "Ctrl-C in some epoch"
    def __init__(self, at): self.at = at
    def after_train(self):
        if self.epoch==self.at: raise KeyboardInterrupt

@pytest.mark.parametrize('loss', list(comparison_solvers))
@pytest.mark.parametrize('relearn', [False,True])
def test_interrupted(loss, relearn):
    learn = solved(frame(), loss=loss, n_epoch=3)
    before,prior,solver = state(learn),learn.model.prior,learn.solver
    with pytest.raises(KeyboardInterrupt): quietly(learn, learn.solve, 4, relearn=relearn, cbs=Interrupt(2))
    assert_unchanged(learn, before, prior)
    assert learn.solver is solver

# --- bad input

def test_bad_frames():
    df = frame(criteria=2)
    for col in ('contributor','item_a','criterion'):
        bad = df.astype({col:object})
        bad.loc[3,col] = None
        with pytest.raises(ValueError, match=f"'{col}'.*row 3"): loaders(bad)
    for value in (np.nan,np.inf,10.5):
        bad = df.copy()
        bad.loc[3,'comparison'] = value
        with pytest.raises(ValueError, match="'comparison'.*row 3"): loaders(bad)
    with pytest.raises(ValueError, match='comparison_max='): ComparisonDataLoaders.from_df(df)
    with pytest.raises(ValueError, match='no comparisons'): loaders(df[:0])
    with pytest.raises(ValueError, match="'i7'.*with itself"): loaders(df.assign(item_a='i7', item_b='i7'))
    with pytest.raises(ValueError, match='comparison'): loaders(df.assign(comparison='much'))
    with pytest.raises(ValueError, match='too few'): comparison_columns(df[['contributor','item_a','item_b','criterion']])

def test_bad_arguments():
    df = frame()
    dls = loaders(df)
    for kw,match in ((dict(law='poisson'), 'law'), (dict(law=3), 'law'), (dict(loss='l2'), 'loss'), (dict(levels=['items']), 'levels'), (dict(levels=[]), 'levels'),
        (dict(tau=-1), 'tau'), (dict(variance=dict(item=0)), 'variance'), (dict(scales='yes'), 'scales'), (dict(loss='licchavi', tau=2.), 'tau'),
        (dict(loss='licchavi', variance=2.), 'variance'), (dict(loss='licchavi', averages=False), 'averages'), (dict(loss='licchavi', pretrained=dict(i1=1)), 'pretrained'),
        (dict(pretrained=3), 'pretrained'), (dict(pretrained={}), 'pretrained'), (dict(pretrained=dict(else_=1.)), 'no item')):
        with pytest.raises(ValueError, match=match): comparison_learner(dls, **kw)
    with pytest.raises(TypeError, match='variance'): comparison_learner(dls, varience=1.)
    with pytest.raises(ValueError, match='ComparisonDataLoaders'): comparison_learner(CollabDataLoaders.from_df(simulate_ratings(10, 10, 50).ratings))
    learn = comparison_learner(dls)
    for f in (learn.scores, learn.global_scores, lambda: learn.expected_answers(df)):
        with pytest.raises(ValueError, match='`solve` first'): f()
    quietly(learn, learn.solve, 2)
    for o in (0, 1, -1, 'x'):
        with pytest.raises(ValueError, match='level'): learn.scores(o)
    with pytest.raises(ValueError, match='rounds'): learn.solve(0)
    with pytest.raises(KeyError): learn.expected_answers(df[['contributor','item_a']])

def test_contributor_named_like_an_item():
    df = frame()
    other = df.assign(contributor='i'+df.contributor.astype(str))
    a = solved(df).scores()
    assert_same(a.assign(contributor='i'+a.contributor.astype(str)), solved(other).scores(), 1e-7)

def test_one_comparison_each():
    "Contributors who compared once have scores near what the others say, with wide intervals"
    df = frame()
    once = pd.DataFrame(dict(contributor=[f'new{k}' for k in range(5)], item_a='i1', item_b='i2', comparison=10.))
    scores = solved(pd.concat([df.assign(contributor=df.contributor.astype(str)), once])).scores()
    new = scores[scores.contributor.str.startswith('new')]
    old = scores[~scores.contributor.str.startswith('new')]
    assert len(new)==10 and np.isfinite(new[['score','left','right']]).all().all() and (new.comparisons==1).all()

@pytest.mark.parametrize('wins', [False,True])
def test_extreme_judges_are_finite(wins):
    "Who always gives the highest answer has finite scores, and an interval that is wider on the open side"
    rng = np.random.default_rng(0)
    rows = [('ann',f'i{a}',f'i{b}',1.) for a in range(8) for b in range(a+1, 8)]
    df = pd.DataFrame(rows, columns=['contributor','item_a','item_b','comparison'])
    learn = solved(df, 1, law='wins' if wins else 'uniform')
    scores = learn.scores().set_index('item')
    assert np.isfinite(scores.drop(columns='contributor')).all().all() and scores.score.is_monotonic_increasing
    assert scores.right['i7']>1.1*scores.left['i7'] and scores.left['i0']>1.1*scores.right['i0']

def test_components_warn():
    df = frame()
    apart = pd.concat([df, df[:30].assign(item_a='x'+df.item_a, item_b='x'+df.item_b)])
    with pytest.warns(UserWarning, match='without any chain of comparisons'): ComparisonDataLoaders.from_df(apart, 10, valid_pct=0)
    learn = solved(df)
    with pytest.warns(UserWarning, match="such as 'x'"): learn.grow(df[:1].assign(item_a='x', item_b='y'))

def test_empty_criterion():
    "A criterion that nobody was asked about: no rows, and no effect"
    df = frame(criteria=2)
    empty = learner(df, dls_args=dict(criteria=['never']))
    a,b = solved(df).scores(),quietly(empty, empty.solve).scores()
    assert 'never' not in set(b.criterion)
    assert_same(a, b, 1e-7)
    with pytest.raises(KeyError, match="'else'"): empty.expected_answers(df.assign(criterion='else'))

def test_unknown_labels_in_questions():
    "Whoever and whatever is new has the expected answer of what is known: 0 between new items"
    df = frame()
    learn = solved(df)
    asked = df[:3].assign(contributor=99)
    assert (np.abs(learn.expected_answers(asked))<10).all()
    assert np.allclose(learn.expected_answers(asked.assign(item_a='p', item_b='q')), 0)

def test_wins_and_ties():
    sim = simulated(wins=True, tie=.5)
    df = wins_frame(sim.comparisons, tie='tie', contributor='contributor')
    learn = solved(df, None)
    assert isinstance(learn.model.law, WinsLaw) and learn.dls.train_ds.scale==1
    both = learn.item_scores().merge(sim.truth, on='item')
    assert both[['score_x','score_y']].corr().iloc[0,1]>.7
    pd.testing.assert_frame_equal(wins_frame(sim.comparisons), wins_frame(sim.comparisons, tie='tie'))
    sim.comparisons.to_csv('wins.csv', index=False)
    assert wins_frame('wins.csv').comparison.tolist()==wins_frame(sim.comparisons).comparison.tolist()
    with pytest.raises(ValueError, match='wins_frame'): loaders(sim.comparisons, None)
    with pytest.raises(ValueError, match="insert\\(0, 'contributor'"): loaders(df.drop(columns='contributor'), None)
    with pytest.raises(ValueError, match='true and false'): wins_frame(sim.comparisons.assign(tie='no'), tie='tie')

@settings(max_examples=40)
@given(n=st.integers(1, 30), top=st.integers(1, 50), seed=st.integers(0, 99))
def test_step(n, top, seed):
    "A scale of whole numbers has a step of a whole number"
    step = answer_step(np.random.default_rng(seed).integers(-top, top+1, n))
    assert step==int(step)>=0

def test_report():
    df = frame(criteria=2)
    report = comparison_report(df, 10)
    assert report['comparisons']==len(df) and report['criteria']==2 and report['components']==2 and report['repeated pairs']==0
    twice = comparison_report(pd.concat([df, exchanged(df[:4])], ignore_index=True), 10)
    assert twice['repeated pairs']==twice['pairs in both orders']==4
    with pytest.raises(TypeError, match='comparison_name'): comparison_report(df, 10, comparison_nam='x')

# --- training

def test_licchavi_falls():
    learn = learner(frame(criteria=2), loss='licchavi')
    solver = LicchaviSolver(learn.model, learn.dls)
    losses = np.array([solver.train_epoch() for _ in range(40)])
    assert (np.diff(losses)<1e-6).all() and losses[-1]<losses[0]
    for f in (learn.scores, learn.global_scores):
        with pytest.raises(ValueError, match='not learned any scores'): f()

def test_scores_of_licchavi():
    "Its roles by label: scores of contributors around a score for all, and scales; no errors"
    df = frame(1500, criteria=2)
    learn = solved(df, loss='licchavi')
    own,shared,scales = learn.scores(),learn.global_scores(),learn.contributor_scales()
    assert list(own)==['contributor','criterion','item','score','comparisons'] and list(shared)==['criterion','item','score','contributors']
    solver = LicchaviSolver(learn.model, learn.dls).start()
    np.testing.assert_allclose(own.score, solver.local)
    assert own.comparisons.sum()==2*len(df) and scales.comparisons.sum()==len(df)
    both = own.merge(shared, on=['criterion','item'])
    assert both[['score_x','score_y']].corr().iloc[0,1]>.7
    assert shared.contributors.sum()==len(own)
    for o in (dict(trust={0:2.}), dict(q=.3), dict(lipschitz=1.)):
        with pytest.raises(ValueError, match=f"`{list(o)[0]}` has nothing to weigh"): learn.global_scores(**o)

def test_transfer():
    "A good source helps on held-out pairs, in any form; one whose labels were permuted does no harm"
    sim = simulated(1800, seed=3, n_items=40, n_contributors=8, spread=2.)
    df,truth = sim.comparisons[:250],sim.truth
    def held_out(**kw):
        learn = learner(df, valid_pct=.4, dls_args=dict(seed=1), **kw)
        quietly(learn, learn.solve)
        return learn.validate()[0]
    def permuted(k): return truth.assign(score=truth.score.sample(frac=1, random_state=k).to_numpy())
    source = solved(sim.comparisons[250:])
    source.save('source')
    alone = held_out()
    assert held_out(pretrained=truth.assign(score=5+3*truth.score))<alone-.02
    assert np.mean([held_out(pretrained=permuted(k)) for k in range(4)])<alone+.01
    by_learner,by_name = held_out(pretrained=source),held_out(pretrained='source')
    assert by_learner<alone-.02 and by_name==pytest.approx(by_learner, abs=1e-9)

@pytest.mark.parametrize('weighted', [False,True])
def test_gradients(weighted):
    "fastai's own training, weights and metrics"
    df = frame(criteria=2).assign(w=1.)
    learn = learner(df, valid_pct=.2, dls_args=dict(weight_name='w') if weighted else {})
    learn.recorder.train_metrics = True
    def losses():
        with learn.no_bar(): return np.array([learn.validate(o)[0] for o in (0,1)])
    before = losses()
    quietly(learn, learn.fit_one_cycle, 4, .1)
    assert (losses()<before-(.1,.01)).all() and learn.solver is None
    without = learn.scores()
    assert 'left' not in without and without.score.std()>.1 and list(learn.global_scores())==['criterion','item','score','contributors']
    quietly(learn, learn.solve, 3)
    found = learn.scores()
    assert {'left','right'}<=set(found) and learn.solver is not None
    assert found.merge(without, on=['contributor','criterion','item'])[['score_x','score_y']].corr().iloc[0,1]>.5
    quietly(learn, learn.fit_one_cycle, 1, .01)
    assert learn.solver is None and len(learn.scores())

def test_fastai_callbacks():
    learn = learner(frame(), valid_pct=.2)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        quietly(learn, learn.solve, 6, cbs=[SaveModelCallback(fname='best'), EarlyStoppingCallback(patience=2)])
        assert len(learn.scores()) and learn.model.prior is not None
        before,prior = state(learn),learn.model.prior
        quietly(learn, learn.lr_find, show_plot=False, num_it=40)
        assert len(learn.recorder.lrs)>=39 # it did not take a negative loss for divergence
    assert_unchanged(learn, before, prior)

def test_validate_and_answers():
    "`validate`, `get_preds` and `expected_answers` speak of the same pairs on their scales"
    learn = solved(frame(criteria=2), valid_pct=.2)
    with learn.no_bar():
        loss,mse = learn.validate()
        preds,targ = learn.get_preds()
    assert loss<0 and float(((preds-targ)**2).mean())==pytest.approx(mse, abs=1e-6)
    ds = learn.dls.valid_ds
    answers = learn.expected_answers(ds.decode(ds.ids))
    assert np.abs(answers).max()<=10 and np.corrcoef(answers, to_np(preds))[0,1]>.99

def to_np(t): return t.detach().cpu().numpy()

def test_export():
    "An exported learner keeps labels and scores, and says that it has no comparisons"
    learn = solved(frame())
    learn.export('l.pkl')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        back = load_learner('l.pkl')
    assert_same(back.item_scores(), learn.item_scores(), 0)
    assert back.vocab==learn.vocab
    for f in (back.scores, back.solve, lambda: back.grow(frame())):
        with pytest.raises(ValueError, match='was exported'): f()
    assert_same(learn.scores(), solved(frame()).scores(), 0)

def test_seeds_and_epochs():
    "Nothing random without a split: the same scores every time"
    df = frame(criteria=2)
    assert_same(solved(df).global_scores(), solved(df).global_scores(), 0)

def test_one_voice():
    "The bound holds from the first contributor on; scores that come from nobody in particular are taken as they are"
    df = frame(n_contributors=1, n=100)
    learn = solved(df)
    assert learn.scores().contributor.unique().tolist()==[0]
    assert learn.global_scores().score.abs().max()<=.1 and learn.global_scores(trust={0:3.}).score.abs().max()<=.3
    ranks = [o.set_index('item').score.rank() for o in (learn.global_scores(),learn.scores())]
    assert ranks[0].corr(ranks[1])>.95
    nobody = solved(df.assign(contributor='everybody'))
    assert_same(nobody.global_scores(), nobody.scores(), 0)
    assert 'contributor' not in nobody.scores()
    for o in ('trust','q','lipschitz'):
        with pytest.raises(ValueError, match=o): nobody.global_scores(**{o:{0:1.} if o=='trust' else .3})
    with pytest.raises(ValueError, match='nobody'): nobody.contributor_scales()

def test_global_scores_are_bounded():
    "One adversary in thirty-one moves the aggregated score of what they push by at most L at fixed scores of the others"
    own = solved(frame(2000, n_contributors=30)).scores()
    attack = pd.DataFrame(dict(contributor='bad', item=own['item'].unique(), score=1e9, left=0., right=0., comparisons=1.))
    a,b = [aggregate_scores(o, lipschitz=.1).set_index('item').score for o in (own, pd.concat([own,attack]))]
    assert (b-a).abs().max()<=.1+1e-6

# --- what is not known, and who pushes

def test_new_items_are_as_uncertain_as_a_contributor_is_strong():
    "The prior of a score that the model lacks is scaled as scores are"
    df = frame(400)
    learn = solved(df, variance=1., scales=True)
    solver = learn.solver
    who = df.contributor.iloc[0]
    pair = pd.DataFrame(dict(contributor=who, item_a=['new'], item_b=['newer'], comparison=[0.]))
    ds = learn.dls.train_ds.encode(pair)
    row = learn.vocab['contributor'].index(who)
    sds = []
    for scale in (1.,3.):
        solver.scale[row] = scale
        sds.append(solver.difference(ds)[1][0])
    assert sds[1]>1.5*sds[0]

def test_one_who_pushes_moves_others_less_than_with_normal_tails():
    "A contributor who lets one item win everything by as much as possible"
    df = frame(600)
    items = [o for o in sorted(set(df.item_a)|set(df.item_b)) if o!='i3']
    push = pd.DataFrame(dict(contributor='pusher', item_a=items, item_b='i3', comparison=df.comparison.abs().max()))
    def shift(**kw):
        tables = [solved(o, tau=1., scales=False, **kw).item_scores().set_index('item').score for o in (df,pd.concat([df,push]))]
        return abs(tables[1]['i3']-tables[0]['i3'])
    assert shift()<.75*shift(tails=np.inf)

# --- ties, factors, Licchavi's pulls

def test_odds_of_ties_are_learned_and_kept():
    sim = simulate_comparisons(12, 40, 3000, wins=True, tie=2., scale_sd=0., seed=1)
    df = wins_frame(sim.comparisons, tie='tie', contributor='contributor')
    learn = solved(df, None)
    tie = learn.model.prior['tie']
    assert 1.5<tie<2.8 and learn.model.law.tie==learn.loss_func.law.tie==tie
    learn.save('m')
    again = learner(df, None).load('m')
    assert again.model.law.tie==tie
    assert again.grow(df[:3]).model.law.tie==tie
    assert not isinstance(solved(df[df.comparison!=0], None, n_epoch=2).model.prior.get('tie'), float)
    assert solved(df, None, law=WinsLaw(1.), n_epoch=2).model.law.tie==1.

def with_taste(rank, seed=0, n_contributors=30, n_items=40, n=3500):
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=n_items) + rng.normal(size=(n_contributors,rank))@rng.normal(size=(rank,n_items))
    truth = truth + (.3 if rank else 1.)*rng.normal(size=truth.shape if rank else (n_contributors,n_items))
    who,a = rng.integers(n_contributors, size=n),rng.integers(n_items, size=n)
    b = (a+rng.integers(1, n_items, size=n))%n_items
    answers = UniformLaw().sample(torch.tensor(truth[who,b]-truth[who,a]), torch.Generator().manual_seed(seed)).numpy()
    return pd.DataFrame(dict(contributor=who, item_a=a, item_b=b, comparison=answers))

def test_factors_are_found_where_there_are_any():
    df = with_taste(1)
    train,test = df[:2800],df[2800:]
    def error(learn): return ((learn.expected_answers(test)-test.comparison)**2).mean()
    plain,learn = solved(train, 1),solved(train, 1, factors=4)
    assert learn.model.item_factors.shape[1]==1 and error(learn)<.9*error(plain)
    learn.save('m')
    again = learner(train, 1).load('m')
    assert error(again)==pytest.approx(error(learn), rel=1e-5)
    grown = again.grow(test[:100].assign(item_a=99))
    assert grown.model.item_factors.shape==(learn.model.item_factors.shape[0]+1, 1)
    quietly(grown, grown.solve)
    assert error(grown)<.9*error(plain)
    assert solved(with_taste(0), 1, factors=4, n_epoch=2).model.item_factors.shape[1]==0
    with pytest.raises(ValueError, match='several contributors'): learner(train[train.contributor==0], 1, factors=2)
    with pytest.raises(ValueError, match='factors'): learner(train, 1, factors=-1)

def test_pulls_of_licchavi():
    "The stronger the pull of the global score, the nearer are local ones; the stronger that of zero, the smaller are global ones"
    df = frame(200, n_items=10)
    def spread(level, **kw): return solved(df, loss='licchavi', n_epoch=15, **kw).model.score(level).std().item()
    assert spread('entry', w=5.)<.7*spread('entry')
    assert spread('item', w0=50.)<.7*spread('item')
    with pytest.raises(ValueError, match="`w`.*loss='licchavi'"): learner(df, w=2.)
    with pytest.raises(ValueError, match='`w0`'): learner(df, loss='licchavi', w0=0.)

def test_four_balanced_games_leave_doubt():
    "Scores that differ less than their errors are no proof that players are equally strong"
    games = pd.DataFrame([('a','b'),('b','a')]*2, columns=['winner','loser'])
    learn = comparison_learner(ComparisonDataLoaders.from_df(wins_frame(games), valid_pct=0.), law='wins')
    with learn.no_bar(),learn.no_logging(): learn.solve()
    found = learn.scores()
    assert np.allclose(found.score, 0, atol=1e-6) and (found.left>.3).all() and (found.left<3).all()

def test_unknown_labels_are_named():
    df = pd.DataFrame(dict(contributor=list('uuuvvv'), item_a=list('abcabc'), item_b=list('bcabca'), comparison=[5,3,-4,4,2,-6]))
    learn = comparison_learner(ComparisonDataLoaders.from_df(df, valid_pct=0., comparison_max=10))
    with learn.no_bar(),learn.no_logging(): learn.solve()
    with pytest.warns(UserWarning, match=r"1 unknown item in column 'item_b' \('B'\): their scores are taken to be average"):
        learn.expected_answers(df.head(2).assign(item_b='B'))
    with pytest.warns(UserWarning, match="1 unknown contributor in column 'contributor' \\('w'\\)"): learn.expected_answers(df.head(2).assign(contributor='w'))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        learn.expected_answers(df)
