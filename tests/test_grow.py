"`grow` and `fold_in`: clicks, linear models, known users who did more, and threads"
import threading

import fastai.collab,numpy as np,pandas as pd,pytest,torch
from helpers import * # all of the package, and what the tests share

def quiet(learn, n=2):
    with learn.no_bar(),learn.no_logging(): learn.solve(n) if learn.solver or isinstance(learn.loss_func, IALSLoss) else learn.fit(n, .03)
    return learn

@pytest.fixture(scope='module')
def clicks(): return simulate_clicks(60, 50, 10)

@pytest.fixture
def dls(clicks): return CollabDataLoaders.from_interactions(clicks, seed=1, unknown='mean', device='cpu', bs=64, n_neg=3, neg_pow=.5)

def clicker(dls, loss, **kwargs): return quiet(implicit_learner(dls, 4, loss_func=loss, **kwargs))

def rated(source, tmp_path, **kwargs):
    learn = learner(loaders(source), tmp_path, **kwargs)
    with learn.no_bar(),learn.no_logging(): learn.solve(5)
    return learn

def ranked(learn, **kwargs): return learn.recommend(k=5, exclude_seen=False, **kwargs)['item'].tolist()

click_losses = ['bpr','softmax','ccl','warp','ials']
two = pd.DataFrame(dict(user=[999]*4, item=['i1','i2','i3','brand new']))

# --- grow

@pytest.mark.parametrize('loss', click_losses)
@pytest.mark.parametrize('new', [two, two.assign(count=2), two.assign(ts=range(4), note='x')], ids=['pairs','counts','more'])
def test_clicks_grow_as_clicks(dls, clicks, loss, new):
    learn = clicker(dls, loss)
    was = {t:w.detach().clone() for t,w in tables(learn.model).items()}
    learn.grow(new)
    train = learn.dls.train
    assert isinstance(train, NegativeDL) and (train.n_neg,train.neg_pow,train.bs)==(3,.5,64)
    assert len(learn.dls.train_ds)==4 and not len(learn.dls.valid_ds) and learn.dls.train_ds.rating_name=='count'
    assert learn.dls.train_ds.targ.unique().tolist()==[2. if 'count' in new else 1.]
    assert learn.vocab['user'][-1]==999 and learn.vocab['item'][-1]=='brand new'
    for t,w in tables(learn.model).items(): assert torch.equal(w[:len(was[t])], was[t]) and len(w)==len(was[t])+1
    quiet(learn)
    assert len(learn.recommend(999, k=3))==3

def test_growing_clicks_takes_what_loading_clicks_takes(dls, clicks):
    learn = clicker(dls, 'bpr').grow(clicks.assign(ts=range(len(clicks))), splitter=TimeSplitter('ts', .1), n_neg=2, bs=32, unknown='mean')
    assert (learn.dls.train.n_neg,learn.dls.train.bs,len(learn.dls.valid_ds))==(2,32,60)
    with pytest.raises(TypeError, match="`grow` has no argument 'n_negs': did you mean `n_neg`"): learn.grow(two, n_negs=2)
    with pytest.raises(TypeError, match="`grow` has no argument 'y_range'"): learn.grow(two, y_range=(0,1))
    with pytest.raises(TypeError, match="`grow` has no argument 'vocab'"): learn.grow(two, vocab=learn.vocab)

def test_grow_trains_on_all_unless_told(source, target, tmp_path):
    learn = rated(source, tmp_path)
    assert len(learn.grow(target).dls.train_ds)==len(target)
    assert len(learn.grow(target, valid_pct=.2, unknown='mean').dls.valid_ds)==int(.2*len(target))

@pytest.mark.parametrize('kind', ['ease','graph'])
def test_linear_models_grow_anew(dls, clicks, kind):
    kw = dict(rank=8) if kind=='graph' else dict(ridge=30.)
    both = pd.concat([clicks,two])
    learn = linear_learner(dls, kind, **kw).grow(both)
    alone = linear_learner(CollabDataLoaders.from_interactions(both, valid_pct=0, device='cpu'), kind, **kw)
    assert ranked(learn, users=999)==ranked(alone, users=999) and learn.solver is not None
    with pytest.raises(ValueError, match='no rows to fill'): learn.grow(both, fill='zeros')

def test_a_net_grows_by_filling(source, target, tmp_path):
    learn = fit(learner(loaders(source), tmp_path, use_nn=True)).grow(target)
    assert len(learn.dls.train_ds)==len(target)
    with pytest.raises(ValueError, match='`solve=True` wants a closed form, and EmbeddingNN is no dot product'):
        learn.grow(target, solve=True)

# --- fold_in: clicks

@pytest.mark.parametrize('loss', click_losses)
def test_clicks_fold_in_as_they_are_recommended(dls, clicks, loss):
    learn = clicker(dls, loss)
    me = clicks[clicks.user==7].assign(user='me')
    want = ranked(learn, ratings=me)
    was = {t:w.detach().clone() for t,w in tables(learn.model).items()}
    info = learn.fold_in(me)
    assert (info.label.tolist(),info.ratings.tolist())==(['me'],[10]) and 'variance' not in info
    assert ranked(learn, users='me')==want
    for t,w in tables(learn.model).items(): assert torch.equal(w[:len(was[t])], was[t])
    assert not set(learn.recommend('me', k=30)['item'])&set(me['item'])

@pytest.mark.parametrize('loss', click_losses)
def test_new_items_stand_beside_known_ones(dls, clicks, loss):
    "An item with the users of another one is liked by nearly the same users"
    set_seed(0)
    learn = implicit_learner(dls, 8, loss_func=loss)
    with learn.no_bar(),learn.no_logging(): learn.solve(10) if loss=='ials' else learn.fit(20, .05)
    best = clicks['item'].value_counts().index[0]
    learn.fold_in(clicks[clicks['item']==best].assign(item='twin'))
    a,b = [learn.model.i_weight.weight.detach()[learn.vocab['item'].index(o)] for o in (best,'twin')]
    assert F.cosine_similarity(a, b, dim=0)>.6 and .3<b.norm()/a.norm()<3
    if loss=='ccl': assert b.norm().item()==pytest.approx(1, abs=1e-5)

@pytest.mark.parametrize('kind', ['ease','graph'])
def test_linear_models_keep_new_histories(dls, clicks, kind):
    learn = linear_learner(dls, kind, **(dict(rank=8) if kind=='graph' else {}))
    me = clicks[clicks.user==7].assign(user='me')
    old,new = ranked(learn, users=3),ranked(learn, ratings=me)
    assert learn.fold_in(me[:6]).ratings.tolist()==[6]
    assert ranked(learn, users=3)==old and ranked(learn, users='me')!=[]
    info = learn.fold_in(me[6:])
    assert info.ratings.tolist()==[10] and ranked(learn, users='me')==new and learn.solver is not None
    with pytest.raises(ValueError, match=r"no place for new items \('brand new'\)"): learn.fold_in(two)
    with pytest.raises(ValueError, match='keeps the history'): learn.fold_in(me, update=False)
    assert 999 not in learn.vocab['user']

# --- fold_in: known users

def test_a_known_user_is_solved_again_from_all_ratings(source, tmp_path):
    "The same as if all had come at once; a pair that comes twice has its later rating"
    learn,other = [rated(source, tmp_path) for _ in range(2)]
    items = learn.vocab['item'][1:9]
    all_at_once = pd.DataFrame(dict(user='me', item=items, rating=[1.,5,2,4,3,1,5,2]))
    other.fold_in(all_at_once)
    learn.fold_in(all_at_once[:5].assign(rating=lambda d: [3.,*d.rating[1:]]))
    info = learn.fold_in(pd.concat([all_at_once[5:],all_at_once[:1]]))
    assert (info.label.tolist(),info.ratings.tolist())==(['me'],[8])
    for a,b in zip(tables(learn.model).values(), tables(other.model).values()): torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)

def test_training_ratings_are_among_all_ratings(source, tmp_path):
    learn = rated(source, tmp_path)
    ds = learn.dls.train_ds
    u = learn.vocab['user'][3]
    n = int((ds.ids[:,0]==3).sum())
    unseen = [o for o in learn.vocab['item'][1:] if o not in set(ds.decode(ds.ids[ds.ids[:,0]==3])['item'])][:2]
    was = {t:w.detach().clone() for t,w in tables(learn.model).items()}
    info = learn.fold_in(pd.DataFrame(dict(user=u, item=unseen, rating=5.)))
    assert info.ratings.tolist()==[n+2] and info.label.tolist()==[u]
    others = torch.arange(len(was['u_weight']))!=3
    assert torch.equal(learn.model.u_weight.weight[others], was['u_weight'][others])
    assert torch.equal(learn.model.i_weight.weight, was['i_weight'])
    assert not torch.equal(learn.model.u_bias.weight[3], was['u_bias'][3])
    assert not set(learn.recommend(u, k=30)['item'])&set(unseen)

def test_clicks_of_known_users_add_up(dls, clicks):
    def solved():
        set_seed(0)
        return clicker(dls, IALSLoss(count_weight=.5))
    a,b = solved(),solved()
    me = clicks[clicks.user==7].assign(user='me')
    for o in (me,me,me): a.fold_in(o)
    b.fold_in(me.assign(count=3))
    torch.testing.assert_close(a.model.u_weight.weight[-1], b.model.u_weight.weight[-1])

def test_who_is_new_and_who_is_known(source, tmp_path):
    u = source.user.iloc[0]
    df = pd.DataFrame(dict(user=['new',u], item=source['item'].iloc[:2].tolist(), rating=[5.,1.]))
    learn = rated(source, tmp_path)
    was = learn.model.u_weight.weight.detach().clone()
    assert learn.fold_in(df).label.tolist()==['new'] and torch.equal(learn.model.u_weight.weight[:len(was)], was)
    learn = rated(source, tmp_path)
    assert learn.fold_in(df, update=True).label.tolist()==[u,'new']
    with pytest.raises(ValueError, match='`update` is True, False or None'): learn.fold_in(df, update='no')
    with pytest.raises(ValueError, match='are known already'): learn.fold_in(df, update=False)

# --- reasons

def test_reasons_are_the_real_ones(source, tmp_path, dls, clicks):
    me = source[:3].assign(user='me')
    stock = fastai.collab.CollabDataLoaders.from_df(source, device='cpu')
    votes = loaders(source.assign(rating=np.where(source.rating>3, 1, -1)))
    for learn,why in ((learner(loaders(source), tmp_path, use_nn=True), 'EmbeddingNN is no dot product'),
        (collab_learner(stock, 3), "fastai's own loaders"),
        (implicit_learner(votes, 3, loss_func='votes'), 'there is none for DotBias with VoteLoss')):
        with pytest.raises(ValueError, match=why) as e: learn.fold_in(me)
        assert 'use_nn' not in str(e.value) and 'loss_func' not in str(e.value)
    with pytest.raises(KeyError, match="no column 'rating'"): rated(source, tmp_path).fold_in(me[['user','item']])
    with pytest.raises(KeyError, match="no column 'item'"): clicker(dls, 'bpr').fold_in(me[['user']])
    with pytest.raises(ValueError, match='not a list'): clicker(dls, 'bpr').fold_in([1,2])

@pytest.mark.parametrize('bad', [two.assign(count=-1), two.assign(item=None), two.assign(count=np.inf), two[:0]])
@pytest.mark.parametrize('call', ['grow','fold_in'])
def test_a_refused_call_changes_nothing(dls, bad, call):
    learn = clicker(dls, 'bpr')
    was,kept,vocab = weights(learn),learn.dls,learn.vocab
    with pytest.raises(ValueError): getattr(learn, call)(bad)
    assert same(weights(learn), was) and learn.dls is kept and learn.vocab is vocab

# --- threads

def in_threads(*calls):
    errors = []
    def run(f):
        try: f()
        except Exception as e: errors.append(e)
    threads = [threading.Thread(target=run, args=(f,)) for f in calls]
    for o in threads: o.start()
    for o in threads: o.join()
    assert not errors, errors[0]

@pytest.mark.parametrize('kind', ['ratings','clicks','ease'])
def test_nobody_is_lost_between_threads(source, tmp_path, dls, kind):
    "Two threads fold in, while a third one recommends"
    learn = rated(source, tmp_path) if kind=='ratings' else linear_learner(dls) if kind=='ease' else clicker(dls, 'ials')
    items,known = learn.vocab['item'][1:5],learn.vocab['user'][2]
    want = ranked(learn, users=known)
    def arrive(who):
        for j in range(15): learn.fold_in(pd.DataFrame(dict(user=f'{who}{j}', item=items, rating=[5.,1,4,2])))
    def look():
        for _ in range(30): assert ranked(learn, users=known)==want
    in_threads(lambda: arrive('a'), lambda: arrive('b'), look)
    people = {f'{w}{j}' for w in 'ab' for j in range(15)}
    assert people<=set(learn.vocab['user']) and len(learn.dls.train_ds.folded)==4*30
    assert len(learn.recommend(sorted(people), k=3))==90
    alone = ranked(learn, ratings=pd.DataFrame(dict(user='x', item=items, rating=[5.,1,4,2])))
    assert all(ranked(learn, users=o)==alone for o in ('a0','b14'))

@pytest.mark.parametrize('y_range', [None,(1,5)])
def test_solving_after_growth_keeps_what_was_learned(tmp_path, y_range):
    "Later ratings add to what earlier ones have taught: who has none of them stays, who has a few moves a little"
    ratings = simulate_ratings(n_users=200, n_ratings=8000).ratings
    train,valid = KFoldSplitters(5, seed=0)[0](ratings)
    learn = collab_learner(loaders(ratings.iloc[train], valid_pct=0), 4, y_range=y_range, path=tmp_path)
    def error():
        pred = learn.get_preds(dl=learn.test_dl(ratings.iloc[valid], 'mean'))[0]
        return (pred-tensor(ratings.rating.iloc[valid].to_numpy())).pow(2).mean().sqrt().item()
    with learn.no_bar(),learn.no_logging():
        learn.solve()
        before,rows = error(),weights(learn)
        someone = ratings.user.iloc[0]
        learn.grow(pd.DataFrame(dict(user=[9001]*4+[someone]*2, item=['i1','i2','i3','i999','i4','i5'], rating=[5,4.5,2,4,3,3], time=1)))
        learn.solve()
    assert error()<before+.02
    silent = [learn.vocab['user'].index(u) for u in ratings.user.unique() if u!=someone]
    torch.testing.assert_close(learn.model.u_weight.weight.data[silent], rows['u_weight.weight'][silent], atol=1e-3, rtol=1e-3)
    assert learn.model.prior is not None and 'before' not in learn.model.prior
    learn.save('m')
    learn.load('m')
