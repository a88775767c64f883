"Strengths chosen on held-out clicks, and what other people's clicks add"
from helpers import * # all of the package, and what the tests share
import numpy as np,pandas as pd,pytest,scipy.sparse as sp,torch
from hypothesis import given,settings,strategies as st
from collab_ext.click_trials import *
from collab_ext.ials import *
from collab_ext.linear import *
from collab_ext.implicit import *

def loaders(df, **kw): return CollabDataLoaders.from_interactions(df, **{**dict(valid_pct=0, unknown='mean', device='cpu'), **kw})

@pytest.fixture(scope='module')
def clicks(): return simulate_clicks()

@pytest.fixture(scope='module')
def sources(clicks): return [linear_learner(loaders(clicks[clicks.user.between(*o)])) for o in ((0,59),(60,139))]

@pytest.fixture(scope='module')
def target(clicks): return loaders(clicks[clicks.user>=140], valid_pct=.5, seed=42)

def shuffled(df):
    items = df['item'].unique()
    return df.assign(item=df['item'].map(dict(zip(items, np.random.default_rng(0).permutation(items)))))

def quality(learn): return learn.evaluate(baselines=False).ndcg['model']

# ---- Closed forms ----

@settings(max_examples=20, deadline=None)
@given(st.integers(1,12), st.integers(1,12), st.floats(.1, 50), st.integers(0, 1000))
def test_both_ways_to_solve_agree(n_users, n_items, ridge, seed):
    A = sp.random(n_users, n_items, .5, format='csr', random_state=seed).astype(np.float32)
    ridges = np.linspace(ridge, 2*ridge, n_items)
    G = torch.from_numpy(A.toarray()).double()
    P = torch.linalg.inv(G.T@G+torch.diag(torch.from_numpy(ridges)))
    want = (P/-P.diagonal()).fill_diagonal_(0)
    assert torch.allclose(ease_matrix(A, ridges).double(), want, atol=1e-4)

@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=6))
def test_the_best_strength_lies_beside_the_best_trial(found):
    strengths = 10.**np.arange(len(found))
    j = int(np.argmax(found))
    assert strengths[max(j-1, 0)]<=best_strength(strengths, found)<=strengths[min(j+1, len(found)-1)]

def test_parts_hold_out_each_click_at_most_once():
    X = sp.random(50, 40, .3, format='csr', random_state=0)
    held = [o for _,o in click_parts(X)]
    assert (sum((o>0).astype(int) for o in held)).max()==1

def test_scores_of_a_trial_are_those_of_the_model(clicks):
    ds = loaders(clicks).train_ds
    model = EASE(ds.ids, ds.targ, ds.vocab.sizes, ridge=50.)
    from collab_ext.linear import _trial_scores_by_items,_trial_scores_by_users,_weighted_rows,_weights
    X = model.history
    w = _weights(X, .3, .1, None, 0.)
    A,x = _weighted_rows(X, w, None),X[1:20]
    want = model.of_history(x).numpy()
    free = x.toarray()==0 # a trial looks at no item that the user has
    for trial_scores in (_trial_scores_by_items,_trial_scores_by_users):
        got = next(iter(trial_scores(x, A, w[2], [50.], 3.)))
        assert np.allclose(got[free], want[free], atol=1e-4)

# ---- Strengths ----

@pytest.mark.parametrize('kind,names', [('ease',['ridge']), ('graph',['low_pass','item_pow'])])
def test_a_model_says_what_it_chose(target, kind, names):
    learn = linear_learner(target, kind)
    assert f"chosen on held-out clicks: {', '.join(names)}" in repr(learn.model)
    again = linear_learner(target, kind)
    assert learn.model.settings==again.model.settings
    fixed = linear_learner(target, kind, **{o:learn.model.settings[o] for o in names})
    assert fixed.model.trial is None and 'chosen' not in repr(fixed.model)

def test_ials_chooses_by_name_alone(target):
    chosen = implicit_learner(target, 4, loss_func='ials').loss_func
    assert chosen.reg!=IALSLoss().reg or chosen.alpha0!=IALSLoss().alpha0
    given = implicit_learner(target, 4, loss_func=IALSLoss(reg=.5)).loss_func
    assert given.reg==.5 and 'reg=0.5' in repr(given)

def test_a_few_clicks_are_enough():
    few = loaders(pd.DataFrame(dict(user=[1,1,2,3], item=list('abac'))))
    assert linear_learner(few).model.settings['ridge']==100
    assert len(implicit_learner(few, 3, loss_func='bpr').recommend(k=1))==3
    assert implicit_learner(few, 3, loss_func='ials').loss_func.reg==IALSLoss().reg

@pytest.mark.parametrize('loss', ['softmax','ccl'])
def test_a_linear_start_has_the_lists_of_the_linear_model(target, loss):
    set_seed(0)
    started,chance = [implicit_learner(target, 24, loss_func=loss, start=o) for o in ('linear','random')]
    assert quality(started)>.7*quality(linear_learner(target)) and quality(started)>quality(chance)
    if loss=='ccl': assert torch.allclose(started.model.i_weight.weight.norm(dim=1), torch.tensor(1.), atol=1e-4)

# ---- Transfer ----

@pytest.mark.parametrize('kind', ['ease','graph'])
def test_a_source_helps_and_two_help_more(target, sources, kind):
    alone = quality(linear_learner(target, kind))
    one = [quality(linear_learner(target, kind, pretrained=o)) for o in sources]
    both = linear_learner(target, kind, pretrained=sources)
    assert min(one)>alone and quality(both)>=max(one)
    assert 'source 2 is worth' in both.report.notes[0]

def test_a_shuffled_source_is_dropped(clicks, target, sources):
    noise = linear_learner(loaders(shuffled(clicks[clicks.user<100])))
    learn,alone = linear_learner(target, pretrained=noise),linear_learner(target)
    assert learn.model.source_weight==0 and torch.equal(learn.model.B, alone.model.B)
    assert learn.transfer.dropped and 'did harm, and was dropped' in repr(learn.report)
    with_noise = linear_learner(target, pretrained=[sources[1],noise])
    assert 'source 2' in repr(with_noise.report) and quality(with_noise)>.95*quality(linear_learner(target, pretrained=sources[1]))

def test_saved_vectors_are_a_source_too(clicks, target, tmp_path):
    src = implicit_learner(loaders(clicks[clicks.user<140]), 16, loss_func='ials', path=tmp_path)
    with src.no_bar(),src.no_logging(): src.solve()
    src.save('src')
    assert quality(linear_learner(target, pretrained='src', path=tmp_path))>quality(linear_learner(target))

@pytest.mark.parametrize('kind', ['ease','graph'])
def test_what_was_transferred_is_saved(target, sources, kind, tmp_path):
    learn = linear_learner(target, kind, pretrained=sources[0], path=tmp_path)
    learn.save('m')
    again = linear_learner(target, kind, path=tmp_path).load('m')
    assert again.recommend(k=5).equals(learn.recommend(k=5))

def test_solving_again_keeps_the_source(target, sources):
    learn = linear_learner(target, pretrained=sources[0])
    was = learn.model.B.clone()
    with learn.no_bar(),learn.no_logging(): learn.solve()
    assert torch.allclose(learn.model.B, was, atol=1e-5)

# ---- Bad input ----

def test_bad_sources(target, sources, clicks):
    with pytest.raises(ValueError, match='No label of the new data is in the source'):
        linear_learner(target, pretrained=linear_learner(loaders(clicks.assign(item='x'+clicks['item']))))
    with pytest.raises(ValueError, match="Source 2 of 3 can't be read"): linear_learner(target, pretrained=[sources[0],'nothing',sources[1]])
    with pytest.raises(ValueError, match='an empty list'): linear_learner(target, pretrained=[])
    with pytest.raises(TypeError, match='`id_map` is for `pretrained`'): linear_learner(target, id_map={})
    with pytest.raises(ValueError, match='`id_map` has 1 entries for 2'): linear_learner(target, pretrained=sources, id_map=[{}])
    with pytest.raises(ValueError, match='37 GiB'): EASE(torch.zeros(0,2), torch.zeros(0), (10,100_000))
    with pytest.raises(ValueError, match='`start`'): implicit_learner(target, start='chance')

def test_a_poor_start_is_trained_at_the_full_rate(target, monkeypatch):
    "Where the linear model is too large to solve, few directions of clicks are a start that ten epochs of small steps would leave as it is"
    import collab_ext.implicit as implicit
    assert implicit_learner(target, 8).lr<1e-3
    monkeypatch.setattr(implicit, '_is_quick_to_solve', lambda *args: False)
    assert implicit_learner(target, 8).lr==.05
    assert implicit_learner(target, 8, lr=.01).lr==.01

@pytest.mark.parametrize('sizes,quick', [((10,20_000),True), ((10,20_001),False), ((6001,6001),False), ((100_000,6000),True), ((6000,20_000),True), ((30_000,41_000),False)])
def test_what_is_quick_to_solve(sizes, quick):
    from collab_ext.implicit import _is_quick_to_solve
    assert _is_quick_to_solve(sizes)==quick
