"Ranking metrics against other libraries', and by definition"
from helpers import * # all of the package, and what the tests share
import fastai.collab,numpy as np,pandas as pd,pytest,torch
from fastai.torch_core import tensor
from hypothesis import given,strategies as st
from sklearn.metrics import ndcg_score,roc_auc_score
from collab_ext import metrics
from collab_ext.rank import *
from collab_ext.baselines import *
from collab_ext.baselines import _thinned
from collab_ext.metrics import *
from helpers import fit,frame,learner,loaders
from test_rank import Fixed,case,user_items

def run(seed, k=10, **kw):
    scores,rel,seen = case(seed, **kw)
    return measure(Fixed(scores), user_items(rel), user_items(seen), k=k, auc_too=True),scores,rel,seen

@given(st.integers(0,10_000), st.sampled_from([1,5,10,60]))
def test_sklearn(seed, k):
    res,scores,rel,seen = run(seed, k)
    for u,row in res.per_user.iterrows():
        c = ~seen[u]
        c[0] = False
        assert row.ndcg==pytest.approx(ndcg_score(rel[u][None,c], scores[u][None,c], k=k), abs=1e-6)
        if 0<rel[u,c].sum()<c.sum(): assert row.auc==pytest.approx(roc_auc_score(rel[u,c], scores[u,c]), abs=1e-6)

def test_ranx():
    ranx = pytest.importorskip('ranx')
    names = dict(recall='recall', precision='precision', ndcg='ndcg', map='map', mrr='mrr', hit='hit_rate')
    for seed in range(10):
        for k in (1,5,10):
            res,scores,rel,seen = run(seed, k, n_users=20, n_items=60)
            users = res.per_user.index
            qrels = ranx.Qrels({str(u):{str(i):1 for i in np.flatnonzero(rel[u])} for u in users})
            shown = ranx.Run({str(u):{str(i):float(scores[u,i]) for i in np.flatnonzero(~seen[u]) if i} for u in users})
            want = ranx.evaluate(qrels, shown, [f'{o}@{k}' for o in names.values()], make_comparable=True)
            for mine,theirs in names.items():
                got = res.mean[mine]
                assert got==pytest.approx(want[f'{theirs}@{k}'] if isinstance(want, dict) else want, abs=1e-6), mine

@given(st.integers(0,10_000), st.sampled_from([1,3,10]))
def test_by_definition(seed, k):
    res,scores,rel,seen = run(seed, k)
    for u,row in res.per_user.iterrows():
        order = [i for i in np.argsort(-scores[u]) if i and not seen[u,i]][:k]
        h = [bool(rel[u,i]) for i in order]
        n = rel[u].sum()
        assert row.recall==pytest.approx(sum(h)/n)
        assert row.precision==pytest.approx(sum(h)/k)
        assert row['map']==pytest.approx(sum(sum(h[:j+1])/(j+1) for j,o in enumerate(h) if o)/n)
        assert row.mrr==pytest.approx(max([1/(j+1) for j,o in enumerate(h) if o], default=0))
        assert row.hit==float(any(h))

def test_auc_with_ties():
    rng = np.random.default_rng(0)
    s,rel = rng.integers(5, size=(20,30)).astype(np.float32),rng.random((20,30))<.3
    got = auc(torch.from_numpy(s), torch.from_numpy(rel))
    for u in range(20): assert got[u].item()==pytest.approx(roc_auc_score(rel[u], s[u]), abs=1e-6)

def test_novelty_and_coverage():
    _,rel,seen = case(0)
    s = np.zeros(seen.shape, dtype=np.float32)
    s[:,3],s[:,7] = 2,1
    res = measure(Fixed(s), user_items(rel), user_items(seen), k=1)
    shown = res.shown[:,0]
    n,users = seen[:,shown].sum(0),(seen.sum(1)>0).sum()
    assert res.mean.novelty==pytest.approx(-np.log2(np.maximum(n,1)/users).mean(), abs=1e-5)
    assert res.mean.coverage==pytest.approx(len(set(shown.tolist()))/39)

def test_users_without_positives_are_left_out():
    scores,rel,seen = case(0)
    rel[1] = False
    res = measure(Fixed(scores), user_items(rel), user_items(seen))
    assert 1 not in res.per_user.index and len(res.per_user)==(rel.sum(1)>0).sum()
    with pytest.raises(ValueError, match='No user has anything held out'): measure(Fixed(scores), user_items(rel&False))

def test_relevant_items_outside_the_catalogue_count():
    scores,rel,_ = case(0)
    n = torch.from_numpy(rel.sum(1))
    res = [measure(Fixed(scores), user_items(rel), n_rel=o, k=5) for o in (n, n+1)]
    u = res[0].per_user.index[0]
    assert res[1].per_user.recall[u]==pytest.approx(res[0].per_user.recall[u]*n[u]/(n[u]+1))

@pytest.mark.parametrize('bs', [1,2,100])
def test_batches_do_not_matter(bs):
    scores,rel,seen = case(3)
    a,b = [measure(Fixed(scores), user_items(rel), user_items(seen), bs=o, auc_too=True) for o in (bs,None)]
    pd.testing.assert_frame_equal(a.per_user, b.per_user)

def test_metrics_of_an_epoch(tmp_path):
    l = learner(loaders(simulate_ratings(40, 60, 800).ratings), tmp_path, metrics=RankMetrics(5, ('recall','ndcg','novelty')))
    fit(l, 2)
    assert l.recorder.metric_names[3:6]==['recall@5','ndcg@5','novelty@5']
    seen,rel = [UserItems(o.ids, l.vocab.sizes) for o in (l.dls.train_ds,l.dls.valid_ds)]
    want = measure(l.model, rel, seen, 5).mean
    assert list(l.recorder.values[-1][2:])==pytest.approx([want.recall,want.ndcg,want.novelty])
    with pytest.raises(ValueError, match="not 'recal': did you mean `recall`"): RankMetrics(5, 'recal')
    with pytest.raises(ValueError, match='`k` is the length of the lists, at least 1'): RankMetrics(0)

def test_metrics_of_an_epoch_are_measured_once(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(metrics, 'rank_items', lambda *args, **kwargs: calls.append(1) or rank_items(*args, **kwargs))
    l = learner(loaders(simulate_ratings(40, 60, 800).ratings), tmp_path, metrics=RankMetrics(5, ('recall','ndcg','novelty')))
    fit(l, 2)
    assert len(calls)==2

def test_metrics_of_other_held_out_ratings(tmp_path):
    df = simulate_ratings(40, 60, 800).ratings
    l = learner(loaders(df), tmp_path, metrics=RankMetrics(5, 'recall'))
    fit(l)
    other = l.dls.test_dl(df[:100], unknown='mean')
    seen,rel = [UserItems(o.ids, l.vocab.sizes) for o in (l.dls.train_ds,other.dataset)]
    with l.no_bar(): assert l.validate(dl=other)[1]==pytest.approx(measure(l.model, rel, seen, 5).mean.recall)

def test_train_metrics_are_of_the_validation_set(tmp_path):
    l = learner(loaders(simulate_ratings(40, 60, 800).ratings), tmp_path, metrics=RankMetrics(5, 'recall'))
    l.recorder.train_metrics = True
    fit(l)
    names,vals = l.recorder.metric_names[1:-1],l.recorder.values[0]
    assert dict(zip(names,vals))['train_recall@5']==dict(zip(names,vals))['valid_recall@5']

def test_fastai_loaders_work(tmp_path):
    dls = fastai.collab.CollabDataLoaders.from_df(simulate_ratings(40, 60, 800).ratings, bs=64, device='cpu')
    l = collab_learner(dls, 3, y_range=(1,5), path=tmp_path, metrics=RankMetrics([5,10]))
    fit(l)
    want = l.evaluate(k=[5,10], baselines=False).loc['model']
    names = l.recorder.metric_names[3:-1]
    assert list(names)==['recall@5','ndcg@5','recall@10','ndcg@10']
    assert list(l.recorder.values[-1][2:])==pytest.approx(want[list(names)].tolist())

def test_a_metric_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(rank_metrics, 'first', lambda hits,n: hits[:,0].float())
    monkeypatch.setitem(list_metrics, 'shown', lambda shown,items,seen=None: float((shown>=0).sum()))
    res,*_ = run(0)
    assert res.mean['first']==res.per_user['first'].mean() and res.mean['shown']==(res.shown>=0).sum()
    l = learner(loaders(simulate_ratings(40, 60, 800).ratings), tmp_path, metrics=RankMetrics(5, ('first','shown')))
    fit(l)
    assert len(l.recorder.values[-1])==4 and {'first','shown'}<=set(l.evaluate().columns)

def test_a_baseline_is_one_line(monkeypatch):
    class Alphabetical:
        def __init__(self, ds): self.n = ds.vocab.sizes[1]
        def scores(self, users): return -torch.arange(self.n).float().repeat(len(users), 1)
    monkeypatch.setitem(baselines, 'alphabetical', Alphabetical)
    dls = loaders(simulate_ratings(40, 60, 800).ratings)
    res = measure_baselines(dls.train_ds, UserItems(dls.valid_ds.ids, dls.vocab.sizes), names='alphabetical', k=3)
    assert torch.equal(res['alphabetical'].shown[0], tensor(1,2,3))

@given(st.integers(0,10_000), st.integers(1,10))
def test_a_shorter_list_is_the_beginning_of_a_longer_one(seed, k):
    scores,rel,seen = case(seed)
    rel,seen = user_items(rel),user_items(seen)
    long,short = [measure(Fixed(scores), rel, seen, o) for o in (10,k)]
    users = tensor(long.per_user.index)
    cut = user_metrics(find_hits(rel, users, long.shown)[:,:k], rel.count[users])
    assert np.allclose(cut, short.per_user[cut.columns])

@given(st.integers(0,10_000), st.sets(st.integers(1,60), min_size=1, max_size=3))
def test_several_lengths_are_one_each(seed, ks):
    scores,rel,seen = case(seed)
    rel,seen = user_items(rel),user_items(seen)
    several = measure(Fixed(scores), rel, seen, list(ks), features=torch.eye(40))
    for k in ks:
        one = measure(Fixed(scores), rel, seen, k, features=torch.eye(40))
        for got,want in zip((several.mean,several.per_user), (one.mean,one.per_user)):
            np.testing.assert_allclose(got.filter(regex=f'@{k}$'), want)
            assert list(got.filter(regex=f'@{k}$').keys())==[f'{o}@{k}' for o in want.keys()]

@pytest.mark.parametrize('k', [[], [5,5], [0], [5,'3'], (2.5,), True, None])
def test_lengths_that_cannot_be(k):
    scores,rel,_ = case(0)
    for f in (lambda: measure(Fixed(scores), user_items(rel), k=k), lambda: RankMetrics(k)):
        with pytest.raises(ValueError, match='`k` is the length of the lists, at least 1'): f()

# ---- Beyond what is relevant

@given(st.integers(0,10_000), st.integers(1,6))
def test_diversity_by_definition(seed, k):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(12,4))*(rng.random((12,1))<.8)
    shown = np.stack([rng.permutation(np.arange(1,12))[:k] for _ in range(5)])
    shown[rng.random(shown.shape)<.2] = -1
    got = diversity_of(torch.from_numpy(shown), torch.from_numpy(features), bs=2)
    for row,o in zip(shown, got):
        v = [features[i] for i in row if i>=0 and features[i].any()]
        pairs = [1-a@b/np.linalg.norm(a)/np.linalg.norm(b) for i,a in enumerate(v) for b in v[:i]]
        assert np.isnan(o) if not pairs else o.item()==pytest.approx(np.mean(pairs), abs=1e-5)

def test_serendipity_as_in_rectools():
    "The example of RecTools' documentation"
    seen = UserItems(tensor([[1,1],[1,2],[2,1],[2,2],[3,1]]), (5,5))
    shown = tensor([[1,2],[2,3],[3,-1],[2,3]])
    rel = UserItems(tensor([[1,1],[1,2],[2,2],[2,3],[3,2],[4,2]]), (5,5))
    hits,items = find_hits(rel, tensor(1,2,3,4), shown),torch.arange(1,5)
    assert serendipity_of(shown[:,:1], hits[:,:1], items, seen).tolist()==[0,.25,0,.25]
    assert serendipity_of(shown, hits, items, seen).tolist()==[0,.5,0,.125]

def test_what_cannot_be_told_is_left_out():
    scores,rel,seen = case(0)
    rel,nothing = user_items(rel),user_items(seen&False)
    assert not {'diversity','serendipity','novelty'}&set(measure(Fixed(scores), rel).mean.index)
    assert not {'serendipity','novelty'}&set(measure(Fixed(scores), rel, nothing).mean.index)
    assert novelty_of(tensor([[-1,-1]]), torch.arange(1,40), user_items(seen)) is None
    with pytest.raises(ValueError, match='`features` has 3 rows, and there are 40'): measure(Fixed(scores), rel, features=torch.eye(3))

def test_novelty_of_one_user_is_a_number(tmp_path):
    df = frame([7], [f'i{o}' for o in range(12)])
    l = learner(loaders(df, splitter=lambda _: (range(9),range(9,12))), tmp_path)
    with pytest.warns(UserWarning, match='1 user .7. has seen everything'): l.recommend(7)
    more = pd.DataFrame(dict(user=7, item=['x','y'], rating=5))
    res = l.evaluate(more, baselines='popular') # nothing is left to show
    assert res.notna().all(axis=None) and (res.recall==0).all()

# ---- Baselines without scores

@given(st.integers(0,10_000), st.integers(1,45))
def test_the_unseen_in_order(seed, k):
    rng = np.random.default_rng(seed)
    seen = rng.random((6,40))<rng.random((6,1))
    order = rng.permutation(np.arange(1,40))[:rng.integers(1,40)]
    users = tensor(3,1,5)
    got = nth_unseen(user_items(seen), users, tensor(order), torch.arange(k).expand(3,-1))
    for u,row in zip(users.tolist(), got.tolist()):
        left = [i for i in order if not seen[u,i]][:k]
        assert row==left+[-1]*(k-len(left))

def test_the_unseen_beyond_the_beginning():
    "A user who has the first 500 of 1,000 items, beside one who has none"
    seen = UserItems(torch.stack([torch.ones(500).long(), torch.arange(1,501)], 1), (3,1001))
    got = nth_unseen(seen, tensor(1,2), torch.arange(1,1001), tensor([[0,1],[0,1]]))
    assert got.tolist()==[[501,502],[1,2]]

@pytest.mark.parametrize('name', ['popular','bias'])
@given(st.integers(0,10_000))
def test_a_shortlist_is_what_the_scores_say(name, seed):
    df = simulate_ratings(12, 30, 120, seed=seed%100).ratings
    ds = loaders(df, valid_pct=0).train_ds
    model = baselines[name](ds)
    has,users,items = UserItems(ds.ids, ds.vocab.sizes),torch.arange(1, ds.vocab.sizes[0]),torch.arange(1, ds.vocab.sizes[1])[::2]
    rows,vals = rank_items(model, users, items, ds.vocab.sizes[1], 7, has)
    want_rows,want = rank_items(model, users, items, ds.vocab.sizes[1], 7, has, each=lambda *_: None)
    assert torch.equal(vals, want) and torch.equal(rows<0, want_rows<0)
    place,col = (rows>=0).nonzero(as_tuple=True)
    assert not has.has(users[place], rows[place,col]).any() and torch.isin(rows[place,col], items).all()

def test_chance_is_fair():
    n = tensor(4,40,400).repeat_interleave(4000)
    drawn = draw_distinct(n, 4, torch.Generator().manual_seed(0))
    for o in (4,40,400):
        d = drawn[n==o]
        assert (d.sort(dim=1).values.diff(dim=1)>0).all() and d.min()>=0 and d.max()<o
        assert d.float().mean().item()==pytest.approx((o-1)/2, rel=.02)
        assert d[:,0].float().mean().item()==pytest.approx((o-1)/2, rel=.05)
    assert draw_distinct(tensor([0,2]), 3, torch.Generator()).sort(dim=1).values.tolist()==[[0,1,2],[0,1,2]]

def test_random_lists_hold_what_is_unseen():
    ds = loaders(simulate_ratings(12, 30, 180).ratings, valid_pct=0).train_ds
    has,users,items = UserItems(ds.ids, ds.vocab.sizes),torch.arange(1, ds.vocab.sizes[0]),torch.arange(1, ds.vocab.sizes[1])
    rows,_ = rank_items(Random(ds), users, items, len(items)+1, 12, has)
    for u,row in zip(users.tolist(), rows):
        shown = row[row>=0]
        assert len(shown)==min(12, len(items)-has.count[u]) and len(shown.unique())==len(shown)
        assert not has.has(torch.full_like(shown, u), shown).any()

def test_item_neighbours_by_definition():
    ds = loaders(simulate_ratings(40, 30, 400).ratings, valid_pct=0).train_ds
    has = UserItems(ds.ids, ds.vocab.sizes)
    X = has.csr().toarray()
    C = X.T@X/np.sqrt(np.outer(*[X.sum(0).clip(1)]*2))
    np.fill_diagonal(C, 0)
    kept = C*(C>=-np.sort(-C, 1)[:,4:5])
    users = torch.arange(1,41)
    got = ItemKNN(ds, has, neighbours=5).scores(users).numpy()
    ties = np.array([len(np.unique(o[o>0].round(6)))<(o>0).sum() for o in C])
    ok = (X[1:]*ties).sum(1)==0
    np.testing.assert_allclose(got[ok], (X[1:]@kept)[ok], atol=1e-5)
    everything = ItemKNN(ds, has, neighbours=30).scores(users).numpy()
    np.testing.assert_allclose(everything, X[1:]@C, atol=1e-5)

@pytest.fixture(params=['numba','scipy'])
def path(request):
    if request.param=='numba': pytest.importorskip('numba')
    return request.param

def clicked(seed, n_users=60, n_items=40, n=500):
    "Pairs of few and many items, and what `ItemKNN` asks of ratings"
    g = torch.Generator().manual_seed(seed)
    ids = (torch.rand(n, 2, generator=g).pow(2)*tensor([n_users,n_items])).long()+1
    ds = SimpleNamespace(ids=ids, vocab=SimpleNamespace(sizes=(n_users+1,n_items+1)))
    return ds,UserItems(ids, ds.vocab.sizes)

@pytest.mark.parametrize('seed', range(4))
def test_nearest_by_definition(path, seed):
    "Of equal neighbours the first are kept, so both ways find the same ones"
    _,has = clicked(seed)
    X = has.csr()
    scale = has.item_count.clamp(min=1).float().rsqrt().numpy()
    want = (X.T@X).toarray()*scale
    np.fill_diagonal(want, 0)
    order = np.argsort(-want, 1, kind='stable')[:,:7]
    vals,cols = nearest(X, scale, 7, path=path)
    assert (vals==np.take_along_axis(want, order, 1)).all() and (cols==order)[vals>0].all()

@pytest.mark.parametrize('seed', range(4))
@pytest.mark.parametrize('shown', ['all','some','one'])
def test_lists_of_neighbours(path, seed, shown):
    "The highest scores of what is unseen; of equal ones the first; as `rank_items` finds them in the scores"
    ds,has = clicked(seed)
    knn = ItemKNN(ds, has, neighbours=6, path=path)
    items = dict(all=torch.arange(1,41), some=tensor([30,2,17,5,9,8]), one=tensor([4]))[shown]
    users,k = torch.arange(1,61),min(5, len(items))
    for seen in (has, None, UserItems(ds.ids[:100], ds.vocab.sizes)):
        scores = knn.scores(users)
        if seen is not None: scores[torch.from_numpy(seen.csr().toarray()[1:]>0)] = -torch.inf
        in_order = items.sort().values
        vals,at = scores[:,in_order].sort(dim=1, descending=True, stable=True)
        want = torch.where(vals>-torch.inf, in_order[at], -1)[:,:k]
        rows,preds = rank_items(knn, users, items, 41, k, seen)
        assert torch.equal(rows, want) and torch.equal(preds, vals[:,:k])
        assert torch.equal(rank_items(Fixed(knn.scores(torch.arange(61))), users, items, 41, k, seen)[1], preds)

def test_any_number_of_threads_ranks_alike(path):
    ds,has = clicked(0)
    before = torch.get_num_threads()
    def lists(n):
        torch.set_num_threads(n)
        return ItemKNN(ds, has, path=path).shortlist(torch.arange(1,61), torch.arange(1,41), 5, has)
    try: assert all(torch.equal(a, b) for a,b in zip(lists(1), lists(3)))
    finally: torch.set_num_threads(before)

@given(st.integers(0,10_000), st.integers(1,12))
def test_the_first_of_equals(seed, k):
    "`best_of` sorts by score, then by column"
    scores = torch.randint(0, 4, (5,12), generator=torch.Generator().manual_seed(seed)).float()
    vals,cols = scores.sort(dim=1, descending=True, stable=True)
    got = best_of(scores, k)
    assert torch.equal(got[0], vals[:,:k]) and torch.equal(got[1], cols[:,:k])

def test_long_histories_are_thinned():
    df = frame(range(20), [f'i{o}' for o in range(300)])
    ds = loaders(df, valid_pct=0).train_ds
    some = _thinned(UserItems(ds.ids, ds.vocab.sizes), 50, 0)
    assert some.sum(1).mean()==pytest.approx(50*20/21, rel=.1) and some[0].nnz==0

def test_other_names_of_baselines():
    with pytest.raises(ValueError, match='did you mean `popular`'): check_baseline('baselines', 'popularity')
    with pytest.raises(ValueError, match='did you mean `itemknn`'): check_baseline('baselines', 'ItemKNN')
    with pytest.raises(ValueError, match="not 3$"): check_baseline('baselines', 3)

def test_misspelt_arguments_are_refused():
    scores,rel,seen = case(0)
    rel = user_items(rel)
    with pytest.raises(TypeError, match='`measure` has no argument .progres.: did you mean `progress`'):
        measure(Fixed(scores), rel, progres=True)
    with pytest.raises(TypeError, match='no argument .each.'): measure(Fixed(scores), rel, each=print)
    ds = loaders(frame(range(4),'abc'), valid_pct=0).train_ds
    with pytest.raises(TypeError, match='`measure_baselines` has no argument .auc_to.: did you mean `auc_too`'):
        measure_baselines(ds, rel, auc_to=True)
    with pytest.raises(ValueError, match="not 'randm': did you mean `random`"): measure_baselines(ds, rel, names='randm')
    with pytest.raises(ValueError, match='no item to choose from'): measure(Fixed(scores), rel, items=tensor([]).long())

def test_reliability():
    pred,y = np.arange(10.),np.arange(10.)+1
    res = reliability(pred, y, bins=3)
    assert res.ratings.sum()==10 and len(res)==3 and res.attrs['error']==pytest.approx(1)
    assert len(reliability(pred[:2], y[:2]))==2
    with pytest.raises(ValueError, match='1 of 10 predictions or ratings are NaN'): reliability(pred, np.where(y==3, np.nan, y))
    with pytest.raises(ValueError, match='10 predictions and 9 ratings'): reliability(pred, y[:9])
    with pytest.raises(ValueError, match='`bins` is the number of bins, at least 1'): reliability(pred, y, bins=0)

def test_a_baseline_is_what_it_says():
    df = pd.DataFrame(dict(u=[1,1,2,2,3], i=list('abbcb'), r=[1,5,5,3,5]))
    ds = loaders(df, valid_pct=0).train_ds
    rows = torch.arange(1,4)
    assert Popular(ds).scores(rows)[0].tolist()==[0,1,3,1]
    assert BiasOnly(ds).scores(rows)[0].argmax()==2
    c = ItemKNN(ds).scores(tensor([3]))[0] # has b, which a shares with one of b's three users
    assert c[1]==pytest.approx(1/3**.5, abs=1e-6) and c[1]==pytest.approx(c[3].item())
    assert torch.equal(Random(ds).scores(rows), Random(ds).scores(rows))

def test_bias_is_left_out_of_clicks():
    ds = loaders(frame(range(4),'abc').assign(rating=1), valid_pct=0).train_ds
    rel = UserItems(tensor([[1,1]]), ds.vocab.sizes)
    assert list(measure_baselines(ds, rel))==['random','popular','itemknn']
