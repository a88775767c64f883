"Interactions: negatives, losses, iALS and linear models, against definitions"
from helpers import * # all of the package, and what the tests share
import numpy as np,pandas as pd,pytest,torch,warnings
from fastai.data.transforms import ColSplitter,IndexSplitter
from fastai.learner import load_learner
from fastai.torch_core import set_seed,tensor
from hypothesis import given,settings,strategies as st
from collab_ext.implicit import *
from collab_ext.linear import *
from collab_ext.metrics import *
from collab_ext.recommend import *
from helpers import same,weights

pairs = st.lists(st.tuples(st.integers(0,6), st.integers(0,5)), min_size=1, max_size=40)

def inter(rows, **kw):
    df = pd.DataFrame(rows, columns=['u','i'])
    return CollabDataLoaders.from_interactions(df, **{**dict(valid_pct=0, device='cpu', bs=8), **kw})

@pytest.fixture(scope='module')
def clicks(): return simulate_clicks(60, 50, 10)

@pytest.fixture(scope='module')
def dls(clicks): return CollabDataLoaders.from_interactions(clicks, seed=1, unknown='mean', device='cpu')

def fit(learn, n=3, lr=.03):
    with learn.no_bar(),learn.no_logging(): learn.fit(n, lr)
    return learn

def ials(dls, k=4, n=3, **kw):
    learn = implicit_learner(dls, k, loss=IALSLoss(**kw))
    with learn.no_bar(),learn.no_logging(): learn.solve(n)
    return learn

# ---- Loading ----

@given(pairs, st.integers(1,4), st.sampled_from([0.,.5,1.]))
def test_a_negative_is_never_seen(rows, n_neg, neg_pow):
    dls = inter(rows, n_neg=n_neg, neg_pow=neg_pow)
    have = {tuple(o) for o in dls.train_ds.ids.tolist()}
    full = {u for u in range(1,8) if sum(a==u for a,_ in have)==len(dls.vocab['i'])-1}
    for x,y in dls.train:
        n = int((y>0).sum())
        assert len(x)==n*(1+n_neg)
        for (u,i),t in zip(x[n:].tolist(), y[n:].tolist()):
            assert (u,i) not in have and t<=0
            assert (i==0)==(u in full)

@given(pairs)
def test_duplicates_add_up(rows):
    ds = inter(rows).train_ds
    got = {(ds.vocab['u'][u],ds.vocab['i'][i]):y for (u,i),y in zip(ds.ids.tolist(), ds.targ.tolist())}
    want = pd.Series(rows).value_counts().to_dict()
    assert got==want

def test_negatives_follow_their_probability():
    set_seed(0)
    dls = inter([(0,0)]+[(u,1) for u in range(1,7)]+[(u,2) for u in range(1,3)], neg_pow=1.)
    drawn = dls.train.negatives(torch.full((20_000,), 1)) # user 0 has item 0
    share = torch.bincount(drawn, minlength=4)/20_000
    assert share[1]==0 and share[2].item()==pytest.approx(.75, abs=.02)
    x,y = next(iter(dls.train))
    neg = y<=0
    assert torch.allclose(-y[neg], dls.train.prob[x[neg,1]].float())

def test_the_validation_set_spares_both(clicks):
    dls = CollabDataLoaders.from_interactions(clicks, seed=1, unknown='mean', device='cpu')
    both = UserItems(torch.cat([dls.train_ds.ids,dls.valid_ds.ids]), dls.vocab.sizes)
    for x,y in dls.valid: assert not both.has(*x[y<=0].T).any()

def test_bad_interactions():
    df = pd.DataFrame(dict(u=[1,2], i=['a','b'], n=[1,-2]))
    with pytest.raises(ValueError, match='holds -2: counts are not below zero'): CollabDataLoaders.from_interactions(df, count_name='n')
    with pytest.raises(KeyError, match="no column 'm'"): CollabDataLoaders.from_interactions(df, count_name='m')
    with pytest.raises(ValueError, match='two columns'): CollabDataLoaders.from_interactions(df[['u']])
    with pytest.raises(ValueError, match='holds nan'): CollabDataLoaders.from_interactions(df.assign(n=[1,np.nan]), count_name='n')
    with pytest.raises(ValueError, match='no id in row 1'): CollabDataLoaders.from_interactions(df.assign(u=[1,None])[['u','i']])
    zero = CollabDataLoaders.from_interactions(df.assign(n=[1,0]), count_name='n', valid_pct=0)
    assert len(zero.train_ds)==1

def test_the_frame_is_left_alone():
    df = pd.DataFrame(dict(u=[1,1,2], i=['a','a','b']))
    was = df.copy()
    CollabDataLoaders.from_interactions(df, valid_pct=0)
    pd.testing.assert_frame_equal(df, was)

# ---- Losses ----

@pytest.mark.parametrize('loss', ['bpr','softmax','ccl','warp'])
def test_training_lowers_the_loss_and_beats_popularity(dls, loss):
    set_seed(0)
    learn = implicit_learner(dls, 8, loss=loss, start='random')
    before = learn.validate()[0]
    fit(learn, 15, .05)
    assert learn.validate()[0]<before
    res = learn.evaluate()
    assert res.ndcg['model']>res.ndcg['random']

@pytest.mark.parametrize('loss', ['bpr','softmax','ccl','warp','ials'])
def test_the_rest_of_the_learner_works(dls, loss, tmp_path):
    learn = implicit_learner(dls, 4, loss=loss, path=tmp_path)
    fit(learn) if loss!='ials' else ials(dls)
    learn.save('x')
    again = implicit_learner(dls, 4, loss=loss, path=tmp_path).load('x')
    assert same(weights(again), weights(learn))
    was = weights(learn)
    new = learn.recommend(ratings=pd.DataFrame(dict(user=[999]*2, item=dls.vocab['item'][1:3])), k=3)
    assert len(new)==3 and same(was, weights(learn))
    moved = implicit_learner(dls, loss=loss, pretrained='x', path=tmp_path)
    assert torch.equal(moved.model.i_weight.weight, learn.model.i_weight.weight)

@pytest.mark.parametrize('loss', ['bpr','softmax','ccl','warp'])
def test_losses_need_negatives(dls, clicks, loss):
    plain = CollabDataLoaders.from_df(clicks.assign(rating=1), seed=1, unknown='mean', device='cpu')
    with pytest.raises(ValueError, match='needs negatives'): implicit_learner(plain, loss=loss)
    with pytest.raises(ValueError, match='needs negatives'): losses[loss]()(torch.ones(4), torch.ones(4))
    with pytest.raises(ValueError, match="did you mean `bpr`"): implicit_learner(dls, loss='bprr')

def test_any_model_takes_them(dls): assert len(fit(collab_learner(dls, use_nn=True, loss_func=BPRLoss()), 1).recommend(k=2))==120

def test_bpr_by_hand():
    pred,targ = tensor([2.,1,0,3]),tensor([1.,1,-.5,-.5])
    want = np.mean([np.log1p(np.exp(0-2)), np.log1p(np.exp(3-1))])
    assert BPRLoss()(pred, targ).item()==pytest.approx(want, abs=1e-5)

def test_votes():
    want = np.mean([np.log1p(np.exp(-2)),np.log1p(np.exp(-1))])
    assert VoteLoss()(tensor([2.,-1]), tensor([1.,-1])).item()==pytest.approx(want, abs=1e-5)
    with pytest.raises(ValueError, match='Votes are'): VoteLoss()(tensor([2.]), tensor([0.]))

def test_unit_rows(dls):
    learn = fit(implicit_learner(dls, 4, loss='ccl'))
    for t,w in tables(learn.model).items(): torch.testing.assert_close(w.norm(dim=1), torch.full((len(w),), float(t.endswith('weight'))))

# ---- iALS ----

@settings(max_examples=20)
@given(pairs, st.floats(.01,1), st.floats(.001,1), st.sampled_from([0.,.5,1.]), st.sampled_from([0.,.5]), st.sampled_from([1,3,12]))
def test_rows_are_the_weighted_least_squares(rows, alpha0, reg, nu, cw, k):
    "With more factors than interactions, and with fewer"
    dls,loss = inter(rows),IALSLoss(alpha0, reg, nu, cw)
    learn = implicit_learner(dls, k, loss=loss)
    rm = RatingMatrix.from_ratings(dls.train_ds)
    V = learn.model.i_weight.weight.detach().double()
    V[0] = 0
    n_users,n_items = dls.vocab.sizes
    W,T = torch.full((n_users,n_items), alpha0).double(),torch.zeros(n_users, n_items).double()
    for (u,i),y in zip(dls.train_ds.ids.tolist(), dls.train_ds.targ.tolist()): W[u,i],T[u,i] = 1+cw*(y-1),1
    start = torch.cat([torch.zeros(1).long(), rm.count[0].cumsum(0)])
    got = ials_rows(V.float(), start, rm.ids[1], loss.weight(rm.y)-alpha0, loss)
    for u in range(1,n_users):
        n = (T[u]>0).sum()
        A = (V*W[u][:,None]).T@V + reg*(n+alpha0*n_items)**nu*torch.eye(k)
        torch.testing.assert_close(got[u].double(), torch.linalg.solve(A, V.T@(W[u]*T[u])), atol=1e-4, rtol=1e-3)

def test_wide_rows_of_differing_weights():
    "Fewer interactions than factors, none of a weight of its neighbour"
    set_seed(0)
    V,loss = torch.randn(9,24),IALSLoss(.2, .01, count_weight=1.)
    start,cols,counts = torch.tensor([0,0,3,8]),torch.tensor([1,2,3,2,4,5,6,8]),torch.arange(1.,9)
    got = ials_rows(V, start, cols, loss.weight(counts)-.2, loss)
    for u in (1,2):
        i = slice(*start[u:u+2].tolist())
        w = torch.full((9,), .2)
        w[cols[i]] = loss.weight(counts[i])
        A = (V*w[:,None]).T@V+.01*(len(cols[i])+.2*9)*torch.eye(24)
        torch.testing.assert_close(got[u], torch.linalg.solve(A, (w[cols[i]][:,None]*V[cols[i]]).sum(0)), atol=1e-4, rtol=1e-3)
    assert (got[0]==0).all()

def test_sweeps_keep_no_graph(dls):
    learn = implicit_learner(dls, 4, loss='ials')
    solver = IALSSolver(learn.model, dls, learn.loss_func)
    solver.train_epoch()
    assert not any(o.requires_grad for o in solver.rows)

def test_each_sweep_lowers_the_objective(dls):
    learn = implicit_learner(dls, 4, loss='ials')
    loss,solver,obj = learn.loss_func,None,[]
    solver = IALSSolver(learn.model, dls, loss)
    sizes = dls.vocab.sizes
    T = torch.zeros(sizes)
    T[tuple(dls.train_ds.ids.long().T)] = 1
    n = [T.sum(1),T.sum(0)]
    for i in range(4):
        solver.train_epoch()
        u,v = solver.rows
        pen = [loss.reg*(c+loss.alpha0*m)**loss.nu for c,m in zip(n, sizes[::-1])]
        e = torch.where(T>0, 1., loss.alpha0)*(u@v.T-T)**2
        obj.append((e.sum()+(pen[0][:,None]*u**2).sum()+(pen[1][:,None]*v**2).sum()).item())
    assert all(b<=a*(1+1e-5) for a,b in zip(obj, obj[1:]))

def test_a_known_user_folds_in_as_they_are(dls):
    learn = ials(dls, n=30)
    u = dls.vocab['user'][3]
    his = dls.train_ds.decode(dls.train_ds.ids).query('user==@u').assign(user='twin')
    a,b = learn.recommend(u, k=5),learn.recommend(ratings=his, k=5)
    np.testing.assert_allclose(a.score, b.score, atol=.05)
    why = learn.explain(u, a['item'][0])
    assert abs(why.attrs['rest'])<.05

def test_solve_is_for_ials(dls):
    with pytest.raises(ValueError, match='BPRLoss'): implicit_learner(dls, loss='bpr').solve()

# ---- Linear models ----

@pytest.mark.parametrize('kind', ['ease','graph'])
def test_linear_models_are_linear_and_hold_together(dls, kind, tmp_path):
    kw = dict(rank=8) if kind=='graph' else {}
    learn = linear_learner(dls, kind, path=tmp_path, **kw)
    users = torch.arange(1,6)
    s = learn.model.scores(users)
    torch.testing.assert_close(learn.model(torch.cartesian_prod(users, torch.arange(s.shape[1]))).view(s.shape), s)
    u = dls.vocab['user'][2]
    his = dls.train_ds.decode(dls.train_ds.ids).query('user==@u').assign(user='twin')
    a,b = learn.recommend(u, k=5),learn.recommend(ratings=his, k=5)
    assert a['item'].tolist()==b['item'].tolist()
    np.testing.assert_allclose(a.score, b.score, rtol=1e-4)
    why = learn.explain(u, a['item'][0])
    assert why.contribution.sum()+why.attrs['rest']==pytest.approx(a.score[0], rel=1e-3)
    assert why.attrs['rest']==pytest.approx(learn.model.base[learn.vocab.rows([a['item'][0]], 1)[0]].item(), abs=1e-3)
    assert len(learn.similar_items(dls.vocab['item'][1], k=3))==3
    assert learn.predict((u,a['item'][0]))[1].item()==pytest.approx(a.score[0], rel=1e-4)
    with pytest.raises(ValueError, match='nothing to train'): learn.fit(1)
    learn.save('lin')
    learn.load('lin')
    torch.testing.assert_close(learn.model.scores(users), s)
    learn.export('lin.pkl')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        kept = load_learner(tmp_path/'lin.pkl').recommend(u, k=5, exclude_seen=False)
    assert kept['item'].tolist()==learn.recommend(u, k=5, exclude_seen=False)['item'].tolist()

@pytest.mark.parametrize('kind', ['ease','graph'])
def test_unknown_users_have_the_average_history(dls, kind):
    "To a linear model an unknown user has the mean of all users' scores"
    m = linear_learner(dls, kind, **(dict(rank=8) if kind=='graph' else {})).model
    s = m.scores(torch.arange(61))
    torch.testing.assert_close(s[0], s[1:].mean(0), rtol=1e-4, atol=1e-5)

def test_ease_does_not_explain_an_item_by_itself(dls): assert (linear_learner(dls).model.B.diagonal()==0).all()

def test_graph_filter_by_definition(dls):
    m = linear_learner(dls, 'graph', rank=5, low_pass=.3, sharpen=.7, user_pow=.5, item_pow=.2, popularity=0.).model
    X = m.history.toarray().astype(float)
    nu,ni = X.sum(1).clip(1),X.sum(0).clip(1)
    R = X/np.sqrt(nu)[:,None]/ni**.2
    R /= np.linalg.norm(R, 2)
    P = R.T@R
    V = np.linalg.svd(R)[2][:5].T
    s = X@P+.3*X/ni**.2@V@V.T*ni**.2
    np.testing.assert_allclose(m.scores(torch.arange(1,len(X))).numpy(), (s-.7*s@P)[1:], atol=1e-3)

def test_bad_settings(dls):
    for kw in (dict(alpha0=-1),dict(reg=-1),dict(alpha0=math.nan),dict(nu=math.inf),dict(reg='a'),dict(count_weight=-1)):
        with pytest.raises(ValueError, match=f'`IALSLoss.{first(kw)}` is a finite number, not below zero'): IALSLoss(**kw)
    with pytest.raises(ValueError, match='are both 0'): IALSLoss(alpha0=0, reg=0)
    with pytest.raises(ValueError, match='not below zero'): linear_learner(dls, ridge=-5)
    for kw in (dict(ridge=math.nan),dict(ridge=math.inf),dict(ridge='a'),dict(ridge_pop=math.nan)):
        with pytest.raises(ValueError, match=f'`{first(kw)}` is a finite number.*not {first(kw.values())!r}'): linear_learner(dls, **kw)
    with pytest.raises(ValueError, match='`ridge` and `ridge_pop` are both 0'): linear_learner(dls, ridge=0, ridge_pop=0)
    for o in (0,2.5,'a'):
        with pytest.raises(ValueError, match=f'at least 1, not {o!r}'): linear_learner(dls, 'graph', rank=o)

@pytest.mark.parametrize('error', [MemoryError('Unable to allocate'), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_no_memory_for_a_matrix_of_items(dls, error, monkeypatch):
    import collab_ext.linear as linear
    def fails(*args): raise error
    monkeypatch.setattr(linear, 'ease_matrix', fails)
    with pytest.raises(MemoryError, match=r"× \d+ items, 0.0 GiB.*`kind='graph'` needs less"): linear_learner(dls)
    monkeypatch.setattr(linear, 'ease_matrix', lambda *args: 1/0)
    with pytest.raises(ZeroDivisionError): linear_learner(dls)

@pytest.mark.parametrize('loss,said', [(BPRLoss(),'BPRLoss()'), (SoftmaxLoss(.5),'SoftmaxLoss(temp=0.5)'), (CCLLoss(),'CCLLoss(margin=0.4, weight=10.0)'),
    (WARPLoss(2),'WARPLoss(margin=2)'), (VoteLoss(),'VoteLoss()')])
def test_a_loss_tells_its_settings(loss, said): assert repr(loss)==said

def test_counts_of_new_users_are_checked_as_in_training(clicks):
    dls = CollabDataLoaders.from_interactions(clicks.assign(n=3), count_name='n', valid_pct=0, device='cpu')
    learn = implicit_learner(dls, 4, loss=IALSLoss(count_weight=.5))
    with learn.no_bar(),learn.no_logging(): learn.solve(2)
    me = clicks[clicks.user==7].assign(user='t', n=3)
    twice,six = [learn.recommend(ratings=o, k=5).score for o in (pd.concat([me,me]),me.assign(n=6))]
    np.testing.assert_allclose(twice, six, rtol=1e-5)
    with pytest.raises(ValueError, match='not below zero'): learn.recommend(ratings=me.assign(n=-1))

@pytest.mark.parametrize('loss', ['bpr','ccl','ials'])
def test_plots_of_clicks(dls, loss):
    learn = implicit_learner(dls, 4, loss=loss)
    assert learn.lr==pytest.approx(dict(ials=.005, bpr=3e-4, ccl=3e-5)[loss])
    learn.plot_scores()
    learn.plot_user_errors()

def test_a_loss_brings_its_callbacks(dls):
    cbs = [type(o).__name__ for o in collab_learner(dls, 4, loss_func=CCLLoss()).cbs]
    assert cbs.count('UnitRows')==1==[type(o).__name__ for o in implicit_learner(dls, 4, loss='ccl').cbs].count('UnitRows')

def test_linear_limits(dls):
    with pytest.raises(ValueError, match="one of 'ease', 'graph'"): linear_learner(dls, 'slim')
    with pytest.raises(ValueError, match='37 GiB'): EASE(torch.zeros(0,2), torch.zeros(0), (10,100_000))

def test_factors_of_a_linear_model(dls):
    ease = linear_learner(dls)
    taught = implicit_learner(dls, loss='ials', pretrained=linear_factors(ease, 200))
    got = taught.model.u_weight.weight@taught.model.i_weight.weight.T
    torch.testing.assert_close(got, ease.model.scores(torch.arange(61)), atol=1e-3, rtol=1e-2)
    with pytest.raises(ValueError, match='made by `linear_learner`'): linear_factors(taught)

# ---- Users of no training ----

@pytest.mark.parametrize('kind', ['ease','graph'])
def test_new_users_are_measured_as_if_known(dls, kind):
    "To a linear model, the same histories under other names are the same users"
    learn = linear_learner(dls, kind, **(dict(rank=8) if kind=='graph' else {}))
    train,valid = [o.decode(o.ids).query('item!="#na#"') for o in (dls.train_ds,dls.valid_ds)]
    def new(df): return df.assign(user='new '+df.user.astype(str))
    a,b = learn.evaluate(valid),learn.evaluate(new(valid), ratings=new(train))
    cols = ['recall','ndcg','map','mrr','hit']
    np.testing.assert_allclose(a.loc[['model','popular'],cols].astype(float), b.loc[['model','popular'],cols].astype(float), rtol=1e-4)
    assert a.attrs==b.attrs
    mine,theirs = learn.evaluate(valid, per_user=True),learn.evaluate(new(valid), ratings=new(train), per_user=True)
    np.testing.assert_allclose(mine.ndcg, theirs.ndcg.loc[['new '+str(o) for o in mine.index]], rtol=1e-4)
    with pytest.raises(ValueError, match='is `test`'): learn.evaluate(ratings=new(train))

# ---- Split, then counted ----

@pytest.fixture(scope='module')
def log():
    "Clicks with repeats, counts, times and weights"
    rng = np.random.default_rng(0)
    df = pd.DataFrame(dict(user=rng.integers(20, size=800), item=rng.integers(15, size=800), ts=rng.permutation(800)))
    return df.assign(n=rng.integers(1, 4, size=800), w=rng.random(800), held=df.ts>700).set_index(pd.Index(range(1000,1800)))

def counted(ds): return {tuple(o):y for o,y in zip(ds.decode(ds.ids).values.tolist(), ds.targ.tolist())}

def counts_of(df, count=None):
    by_pair = df.groupby(['user','item'])
    return {k:float(v) for k,v in (by_pair.size() if count is None else by_pair[count].sum()).items()}

splitters = dict(time=TimeSplitter('ts'), last=LeaveLastSplitter('ts', n=3), col=ColSplitter('held'),
    index=IndexSplitter(list(range(0,800,3))), user=UserSplitter('user', seed=0), fold=KFoldSplitters(4)[0],
    time_fold=TimeFoldSplitters('ts', cuts=[300,500])[0], user_fold=UserFoldSplitters(3)[1])

@pytest.mark.parametrize('name', splitters)
@pytest.mark.parametrize('count', [None,'n'])
def test_clicks_are_split_before_they_are_counted(log, name, count):
    "Each part has exactly the rows that it was given, counted by itself"
    train,valid = [log.iloc[list(o)] for o in splitters[name](log)]
    dls = CollabDataLoaders.from_interactions(log, count_name=count, splitter=splitters[name], device='cpu')
    assert (counted(dls.train_ds),counted(dls.valid_ds))==(counts_of(train, count),counts_of(valid, count))
    assert isinstance(dls.train, NegativeDL) and dls.train_ds.rating_name==(count or 'count')

def test_pairs_of_both_parts_are_told_by_evaluate(log):
    dls = CollabDataLoaders.from_interactions(log, splitter=TimeSplitter('ts'), device='cpu')
    again = set(counted(dls.train_ds))&set(counted(dls.valid_ds))
    learn = ials(dls)
    with pytest.warns(UserWarning, match=f'{len(again)} of {len(dls.valid_ds)} held-out pairs are in the training set too'):
        learn.evaluate(baselines=False)

def test_without_a_splitter_pairs_are_held_out(log):
    dls = CollabDataLoaders.from_interactions(log, seed=0, device='cpu')
    train,valid = counted(dls.train_ds),counted(dls.valid_ds)
    assert not set(train)&set(valid) and {**train,**valid}==counts_of(log)

def test_weights_of_clicks(log):
    dls = CollabDataLoaders.from_interactions(log, weight_name='w', valid_pct=0, device='cpu', shuffle=False, bs=2000)
    x,y,w = dls.one_batch()
    n = len(w)
    assert n==len(dls.train_ds) and len(x)==len(y)==n*5
    want = log.groupby(['user','item']).w.mean()
    got = dls.train_ds.decode(x[:n]).assign(w=w.numpy()).set_index(['user','item']).w
    np.testing.assert_allclose(got.sort_index(), want.sort_index(), rtol=1e-5)

@pytest.mark.parametrize('loss', ['bpr','softmax','ccl','warp'])
def test_weights_are_used(loss):
    "A weight of 0 is as if a positive were not there, and equal weights are as none"
    set_seed(0)
    pred,targ = torch.randn(4*6),torch.cat([torch.ones(6),torch.full((18,), -.02)])
    f,w = losses[loss](),tensor([1.,1,1,0,0,0])
    half = [o.view(4,6)[:,:3].reshape(-1) for o in (pred,targ)]
    torch.testing.assert_close(f(pred, targ, w), f(*half))
    torch.testing.assert_close(f(pred, targ, torch.full((6,), .3)), f(pred, targ))

def test_learners_from_weighted_clicks(log):
    dls = CollabDataLoaders.from_interactions(log, weight_name='w', valid_pct=0, device='cpu')
    assert len(fit(implicit_learner(dls, 4, loss_func='bpr'), 1).recommend(3, k=2, exclude_seen=False))==2
    with pytest.raises(ValueError, match='no use for `weight_name`'): implicit_learner(dls, loss_func='ials')
    with pytest.raises(ValueError, match='no use for the weights'): linear_learner(dls)
    with pytest.raises(ValueError, match='column of users, items or counts'):
        CollabDataLoaders.from_interactions(log, count_name='n', weight_name='n')
    with pytest.raises(KeyError, match="no column 'x'"): CollabDataLoaders.from_interactions(log, weight_name='x')
    with pytest.raises(ValueError, match='not below 0'): CollabDataLoaders.from_interactions(log.assign(w=-1), weight_name='w')

@pytest.mark.parametrize('names', [('user','count'), ('count','item'), (0,1)])
def test_columns_of_clicks_of_any_name(names):
    df = pd.DataFrame(dict(zip(names, [[1,1,2],['a','a','b']])))
    ds = CollabDataLoaders.from_interactions(df, valid_pct=0, device='cpu').train_ds
    assert ds.vocab.names==names and ds.targ.tolist()==[2.,1.] and ds.rating_name not in names

@pytest.mark.parametrize('kw', [dict(n_neg=-1), dict(n_neg=1.5), dict(n_neg=True), dict(neg_pow='x'), dict(neg_pow=np.nan),
    dict(neg_pow=None)])
def test_bad_negatives(clicks, kw):
    with pytest.raises(ValueError, match=f'`{list(kw)[0]}` is'): CollabDataLoaders.from_interactions(clicks, **kw)

# ---- WARP and the name of a loss ----

def test_warp_by_hand():
    "Ten items, drawn uniformly: of two negatives one violates, so five items are thought to"
    pred,targ = tensor([2.,2.,1.5,0,0,0]),tensor([1.,1.,-.1,-.1,-.1,-.1])
    want = sum(1/j for j in range(1,6))*.5/2 # two positives
    assert WARPLoss()(pred, targ).item()==pytest.approx(want, rel=1e-4)
    assert WARPLoss(margin=.25)(pred, targ).item()==0

@given(st.lists(st.floats(-3,3), min_size=12, max_size=12), st.lists(st.floats(.01,.2), min_size=9, max_size=9))
def test_warp_by_definition(scores, probs):
    pos,neg = torch.tensor(scores[:3]),torch.tensor(scores[3:]).view(3,3)
    q = torch.tensor(probs).view(3,3)
    total = 0
    for j in range(3):
        bad = [i for i in range(3) if neg[i,j]>pos[j]-1]
        if not bad: continue
        rank = sum(1/q[i,j].item() for i in bad)/3
        harmonic = torch.digamma(torch.tensor(rank+1)).item()+np.euler_gamma
        total += harmonic*np.mean([1-pos[j].item()+neg[i,j].item() for i in bad])
    got = WARPLoss()(torch.cat([pos,neg.view(-1)]), torch.cat([torch.ones(3),-q.view(-1)]))
    assert got.item()==pytest.approx(total/3, rel=1e-3, abs=1e-4)

@pytest.mark.parametrize('margin', [0,-1,np.inf,'1'])
def test_bad_margins(margin):
    with pytest.raises(ValueError, match='`margin` is a finite number'): WARPLoss(margin)

def test_a_loss_by_either_name(dls):
    by_name = implicit_learner(dls, 4, loss_func='bpr')
    assert type(by_name.loss_func) is BPRLoss and by_name.lr==3e-4
    assert type(implicit_learner(dls, 4, loss='warp').loss_func) is WARPLoss and type(implicit_learner(dls, 4, 'ccl').loss_func) is CCLLoss
    assert type(implicit_learner(dls, 4).loss_func) is SoftmaxLoss
    mine = WARPLoss(margin=.5)
    assert implicit_learner(dls, 4, loss_func=mine).loss_func.margin==.5 # a copy, which knows how its vectors began
    with pytest.raises(TypeError, match='pass one of them'): implicit_learner(dls, loss='bpr', loss_func='bpr')
    with pytest.raises(ValueError, match=r'pass `BPRLoss\(\)`'): implicit_learner(dls, loss_func=BPRLoss)
    with pytest.raises(ValueError, match="`loss_func` is one of .*did you mean `warp`"): implicit_learner(dls, loss_func='wrap')
    with pytest.raises(ValueError, match="`loss_func` is one of .*not 5"): implicit_learner(dls, loss_func=5)

def test_there_is_no_rate_to_find(dls):
    learn = linear_learner(dls)
    with learn.no_bar(),pytest.raises(ValueError, match='EASE has no learning rate to find: it was solved'): learn.lr_find()
    assert len(learn.recommend(3, k=2))==2

@pytest.mark.parametrize('loss', ['bpr','softmax'])
def test_new_users_are_as_long_as_known_ones(loss, tmp_path):
    "Beside items' biases the length of a user's row decides the order, and gradients have lengths of their own"
    clicks = simulate_clicks(120, 60, 12)
    new = clicks.user.isin(sorted(set(clicks.user))[::6])
    dls = CollabDataLoaders.from_interactions(clicks[~new], valid_pct=0., seed=1, bs=128)
    learn = implicit_learner(dls, 8, loss_func=loss, start='random', path=tmp_path)
    with learn.no_bar(),learn.no_logging(): learn.fit_one_cycle(4, .05)
    known = learn.model.u_weight.weight[1:].detach().norm(dim=1).median()
    solver = solver_for(learn)
    assert solver.row_scale(0)>1.3
    somebody = clicks[new].user.iloc[0]
    history = clicks[clicks.user==somebody]
    shown = Bundle(learn.export_bundle(tmp_path/'b')).recommend(ratings=history.item.tolist(), k=20)
    assert shown.item.tolist()==learn.recommend(k=20, ratings=history).item.tolist()
    learn.export('e.pkl')
    there = load_learner(tmp_path/'e.pkl')
    alike = set(there.recommend(k=10, ratings=history).item) & set(shown.item[:10]) # it has no ratings to measure lengths by, and takes the middle one
    assert len(alike)>=7
    learn.fold_in(clicks[new])
    folded = learn.model.u_weight.weight[-int(clicks[new].user.nunique()):].detach().norm(dim=1).median()
    assert .6<folded/known<1.6
