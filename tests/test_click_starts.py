"Losses with negatives: where vectors begin, what a source adds, how fast they move, and who is new"
from helpers import * # all of the package, and what the tests share
import numpy as np,pandas as pd,pytest,scipy.sparse as sp,torch
from hypothesis import given,settings,strategies as st
from collab_ext.ials import *
from collab_ext.click_sources import *
from collab_ext.implicit import *
from collab_ext.implicit import _as_start
from collab_ext.transfer import *
from collab_ext.vocab import NA

trained_losses = ['bpr','softmax','ccl','warp']

def loaders(df, **kw): return CollabDataLoaders.from_interactions(df, **{**dict(valid_pct=0, unknown='mean', device='cpu'), **kw})

@pytest.fixture(scope='module')
def clicks(): return simulate_clicks()

@pytest.fixture(scope='module')
def target(clicks): return loaders(clicks[clicks.user>=140], valid_pct=.5, seed=42)

def quality(learn): return learn.evaluate(baselines=False).ndcg['model']

def trained(learn, *args):
    with learn.no_bar(),learn.no_logging(): learn.fit_one_cycle(*args)
    return learn

def source_of(df, loss, **kw):
    set_seed(0)
    return trained(implicit_learner(loaders(df), 8, loss_func=loss, **kw), 20 if kw else 5) # chance takes longer

def mislabelled(df, seed=0):
    items = df['item'].unique()
    return df.assign(item=df['item'].map(dict(zip(items, np.random.default_rng(seed).permutation(items)))))

# ---- Sources ----

@pytest.mark.parametrize('loss', trained_losses)
@pytest.mark.parametrize('start', ['linear','random'])
def test_a_source_of_trained_vectors_helps_and_training_keeps_it(clicks, target, loss, start):
    src = source_of(clicks[clicks.user<140], loss, start=start)
    set_seed(0)
    alone,moved = trained(implicit_learner(target, 8, loss_func=loss), 5),implicit_learner(target, loss_func=loss, pretrained=src)
    at_once = quality(moved)
    assert 'a user of the source is worth' in repr(moved.report) and not moved.transfer.dropped
    assert moved.report.to_frame().solved['u_weight']==60
    assert min(at_once, quality(trained(moved, 5)))>1.2*quality(alone)

@pytest.mark.parametrize('loss', trained_losses)
def test_a_source_under_wrong_labels_is_dropped(clicks, target, loss):
    learn = implicit_learner(target, loss_func=loss, pretrained=source_of(mislabelled(clicks[clicks.user<140]), loss))
    alone = implicit_learner(target, 8, loss_func=loss)
    assert learn.transfer.dropped and 'did harm or no good that is sure' in repr(learn.report)
    assert same(weights(learn), weights(alone)) and learn.lr==alone.lr

@pytest.mark.parametrize('seed', range(3))
def test_noise_is_dropped(clicks, target, seed):
    src = source_of(clicks[clicks.user<140], 'softmax')
    set_seed(seed)
    with torch.no_grad():
        for w in (src.model.u_weight.weight,src.model.i_weight.weight): w.normal_()
    assert implicit_learner(target, loss_func='softmax', pretrained=src).transfer.dropped

@pytest.mark.parametrize('kw', [dict(fill='mean'), dict(solve=False)])
def test_a_start_alone_is_there_for_the_asking(clicks, target, kw):
    src = source_of(clicks[clicks.user<140], 'bpr')
    learn = implicit_learner(target, loss_func='bpr', pretrained=src, **kw)
    items = [o for o in target.vocab['item'][1:] if o in src.vocab['item']]
    assert torch.equal(learn.model.weight(items), src.model.weight(items)) and learn.lr==.05 and learn.transfer.hint is None

def test_a_source_that_knows_all_is_gone_on_from(clicks, target):
    src = trained(implicit_learner(target, 8, loss_func='bpr'), 2)
    learn = implicit_learner(target, loss_func='bpr', pretrained=src)
    assert torch.equal(learn.model.u_weight.weight, src.model.u_weight.weight) and learn.lr==src.lr

def test_a_rate_that_is_given_is_kept(clicks, target):
    good,bad = [source_of(o(clicks[clicks.user<140]), 'bpr') for o in (noop,mislabelled)]
    for src in (good,bad): assert implicit_learner(target, loss_func='bpr', pretrained=src, lr=.02).lr==.02

@pytest.mark.parametrize('first,weight', [(195,.1), (199,.01)])
def test_few_clicks_take_a_source_whose_popular_items_are_popular(clicks, first, weight):
    "And so few that they can't tell take a tenth of it"
    few = loaders(clicks[clicks.user>=first])
    learn = implicit_learner(few, loss_func='softmax', pretrained=source_of(clicks[clicks.user<140], 'softmax'))
    assert learn.report.notes[0].endswith(f'judged by what is popular: a user of the source is taken to be worth {weight} of the users here')

def test_a_narrow_source_is_widened_and_a_wide_one_projected(clicks, target):
    src = source_of(clicks[clicks.user<140], 'softmax')
    with pytest.raises(ValueError, match='8 factors'): implicit_learner(target, 4, loss_func='softmax', pretrained=src)
    narrow = implicit_learner(target, 4, loss_func='softmax', pretrained=src, project=True)
    assert narrow.model.u_weight.embedding_dim==4 and not narrow.transfer.dropped

# ---- Vectors ----

@settings(max_examples=20, deadline=None)
@given(st.integers(2,8), st.integers(2,8), st.integers(1,6), st.integers(0,1000))
def test_balanced_factors_have_the_same_products(n, m, k, seed):
    gen = torch.Generator().manual_seed(seed)
    users,items = [torch.randn(o, k, generator=gen) for o in (n,m)]
    u,i = balanced_factors(users, items, k)
    assert torch.allclose(u@i.T, users@items.T, atol=1e-4)
    size = u.norm(dim=0)
    assert torch.allclose(size, i.norm(dim=0), atol=1e-4) and (size.diff()<1e-4).all()
    u,i = balanced_factors(users, items, 1)
    best = torch.linalg.svdvals(users@items.T)[1:].norm()
    assert torch.allclose((u@i.T-users@items.T).norm(), best, atol=1e-4)

@settings(max_examples=20, deadline=None)
@given(st.floats(.01, 100), st.floats(-5, 5), st.integers(0,1000))
def test_sources_are_the_same_on_any_scale(scale, shift, seed):
    "Nor does it matter what all users think of all items"
    gen = torch.Generator().manual_seed(seed)
    users,items = [torch.randn(9, 3, generator=gen) for _ in range(2)]
    vocab = Vocab({o:[f'{o[0]}{j}' for j in range(9)] for o in ('user','item')})
    info = dict(counts=dict(user=[3]*9, item=[3]*9))
    def scores(u, i, b):
        pair = Pair({'u_weight.weight':u, 'i_weight.weight':i, 'u_bias.weight':torch.zeros(9,1), 'i_bias.weight':b}, None, vocab, info, None)
        wgts = as_clicks(pair, 4).wgts
        return wgts['u_weight.weight']@wgts['i_weight.weight'].T
    bias = torch.randn(9, 1, generator=gen)
    got = scores(users, items, bias)
    assert torch.allclose(got, scores(scale*users, items, scale*bias+shift), atol=1e-3)
    assert got.topk(3).values.mean().item()==pytest.approx(.5, abs=1e-3)

def test_users_without_clicks_begin_as_the_average_one():
    users,items = torch.randn(4,3),torch.randn(5,3)
    users[2] = 0
    was = users.clone()
    got,_ = _as_start(users, items, 3, scale=4.)
    assert torch.equal(got[2], 2*was[0]) and torch.equal(got[1], 2*was[1])

# ---- Rates and fold-in ----

@pytest.mark.parametrize('loss,share', [('bpr',1), ('warp',1), ('softmax',.1), ('ccl',.1)])
def test_each_loss_has_its_pace_from_a_good_start(target, loss, share):
    assert implicit_learner(target, 8, loss_func=loss).lr==pytest.approx(share*3e-4)
    assert implicit_learner(target, 8, loss_func=loss, start='random').lr==.05

@pytest.mark.parametrize('loss', ['bpr','softmax','ccl'])
def test_fused_epochs_leave_a_good_start_what_it_is(clicks, loss):
    dls = loaders(clicks, valid_pct=.2, seed=1)
    set_seed(0)
    learn = implicit_learner(dls, 24, loss_func=loss, cbs=Fused())
    at_once = quality(learn)
    assert quality(trained(learn, 10))>.95*at_once

@pytest.mark.parametrize('loss', trained_losses)
def test_who_is_new_has_the_lists_of_one_who_was_there(clicks, loss):
    is_new = clicks.user%5==0
    rng = np.random.default_rng(0)
    known,new = clicks[~is_new],clicks[is_new]
    new = new[new['item'].isin(known['item'])]
    held = rng.random(len(new))<.3
    def learner(df):
        set_seed(0)
        return trained(implicit_learner(loaders(df), 24, loss_func=loss), 3)
    def recall(learn, **kw): return learn.evaluate(new[held], k=20, baselines=False, **kw).recall['model']
    retrained = recall(learner(pd.concat([known,new[~held]])))
    assert recall(learner(known), ratings=new[~held])>.95*retrained

@pytest.mark.parametrize('loss', trained_losses)
def test_strengths_of_folding_in_follow_from_the_start(clicks, target, loss):
    given = losses[loss]()
    said = repr(given)
    good,chance = [implicit_learner(target, 8, loss_func=given, start=o).loss_func for o in ('linear','random')]
    moved = implicit_learner(target, loss_func=given, pretrained=source_of(clicks[clicks.user<140], loss)).loss_func
    assert good.fold_loss is given.fold_good and chance.fold_loss is given.fold_loss is given.fold_chance
    assert moved.fold_loss.nu==0 and moved.fold_loss.reg>.1
    assert repr(good)==repr(chance)==repr(moved)==said # and what was passed stays what it is

def renamed(df, shift=1000): return df.assign(user=df.user+shift)

def halves_of(dls):
    "Clicks of the training set and of the validation set"
    def clicks(ds): return ds.decode(ds.ids)[['user','item']].query("item!='#na#'")
    return clicks(dls.train_ds),clicks(dls.valid_ds)

@pytest.mark.parametrize('loss', trained_losses)
@pytest.mark.parametrize('n_epoch', [0,10])
def test_beside_a_source_who_is_new_has_the_lists_of_one_who_was_there(clicks, loss, n_epoch):
    is_home = clicks.user<100
    dls = loaders(clicks[~is_home], valid_pct=.7, seed=42)
    src = implicit_learner(loaders(clicks[is_home]), 16, loss_func='ials')
    with src.no_bar(),src.no_logging(): src.solve()
    learn = implicit_learner(dls, loss_func=loss, pretrained=src)
    assert not learn.transfer.dropped
    if n_epoch: trained(learn, n_epoch)
    history,held = [renamed(o) for o in halves_of(dls)]
    assert learn.evaluate(held, ratings=history, baselines=False).ndcg['model']>.95*quality(learn)

@pytest.mark.parametrize('loss', ['bpr','ccl'])
def test_beside_a_source_a_bundle_and_fold_in_say_what_the_learner_says(clicks, target, loss, tmp_path):
    learn = trained(implicit_learner(target, loss_func=loss, pretrained=source_of(clicks[clicks.user<140], loss)), 2)
    bundle = Bundle(learn.export_bundle(tmp_path/'b'))
    history = renamed(halves_of(target)[0])
    users = history.user.unique()[:10]
    asked = [learn.recommend(ratings=history[history.user==u], k=8)['item'].tolist() for u in users]
    assert asked==[bundle.recommend(ratings=history['item'][history.user==u].tolist(), k=8)['item'].tolist() for u in users]
    was = weights(learn)
    learn.fold_in(history)
    assert asked==[learn.recommend(u, k=8)['item'].tolist() for u in users]
    now = weights(learn)
    assert all(torch.equal(now[k][:len(o)], o) for k,o in was.items() if o.ndim) # nobody else moves, nor does `#na#`

@pytest.mark.parametrize('loss', ['bpr','ccl'])
def test_a_file_says_by_what_new_users_are_folded_in(clicks, target, loss, tmp_path):
    moved = implicit_learner(target, loss_func=loss, pretrained=source_of(clicks[clicks.user<140], loss), path=tmp_path)
    moved.save('moved')
    history = renamed(halves_of(target)[0])
    def lists(learn): return [learn.recommend(ratings=history[history.user==u], k=8)['item'].tolist() for u in history.user.unique()[:10]]
    other = implicit_learner(target, 8, loss_func=loss, start='random', path=tmp_path)
    assert other.loss_func.fold_loss is other.loss_func.fold_chance
    assert lists(other.load('moved'))==lists(moved) and other.loss_func.folds==moved.loss_func.folds
    again = implicit_learner(target, loss_func=loss, pretrained=tmp_path/'models/moved') # which knows all rows
    assert lists(again)==lists(moved)

def test_new_users_have_nothing_of_what_makes_up_the_length(clicks, target):
    learn = implicit_learner(target, loss_func='ccl', pretrained=source_of(clicks[clicks.user<140], 'ccl'))
    learn.fold_in(renamed(halves_of(target)[0]))
    users = learn.model.u_weight.weight.detach()[-40:]
    assert users[:,-1].abs().max()<1e-3<users[:,:-1].abs().max()

def test_judges_whose_clicks_are_all_held_out_are_the_average_user():
    "A source that knows what most people like predicts their click; rows of zeros would put all items alike"
    n = 40
    users,items = np.arange(1,n+1),16+np.arange(n)%5 # everybody's only click, one of the last five items
    def some(o): return sp.csr_matrix((np.ones(o.sum()), (users[o],items[o])), shape=(n+1,21))
    rest,held = some(users<=n//2),some(users>n//2)
    vocab = Vocab({o:[NA,*[f'{o[0]}{j}' for j in range(1,m)]] for o,m in (('user',n+1),('item',21))})
    wgts = {'u_weight.weight':torch.ones(n+1,1), 'i_weight.weight':(torch.arange(21)[:,None]>15).float()}
    pair = Pair(wgts, None, vocab, dict(counts=dict(user=[0]+[1]*n, item=[0]*16+[8]*5)), None)
    known = ClickSource(pair, Matches(vocab, vocab, dict(user={})))
    assert try_source([(rest,held)], known, IALSLoss(), .1).mean()>.5
