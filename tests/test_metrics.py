"Ranking metrics against other people's, and by definition"
import numpy as np,pandas as pd,pytest,torch
from fastai.torch_core import tensor
from hypothesis import given,strategies as st
from sklearn.metrics import ndcg_score,roc_auc_score
from collab_ext import *
from collab_ext.metrics import *
from helpers import frame,learner,loaders

def case(seed, n_users=6, n_items=40, rel_pct=.2, seen_pct=.2):
    "Scores without ties, what is relevant, and what was seen (users × items; the first of each is `#na#`)"
    rng = np.random.default_rng(seed)
    scores = rng.permutation(n_users*n_items).reshape(n_users,n_items).astype(np.float32)
    rel,seen = rng.random(scores.shape)<rel_pct,rng.random(scores.shape)<seen_pct
    for o in (rel,seen): o[0],o[:,0] = False,False
    return scores,rel&~seen,seen

class Fixed:
    def __init__(self, s): self.s = torch.as_tensor(s)
    def scores(self, users): return self.s[users].clone()

def user_items(m): return UserItems(torch.from_numpy(np.argwhere(m)), m.shape)

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

@given(st.integers(0,10_000), st.integers(1,30), st.integers(1,2000))
def test_top_k(seed, k, n):
    s = torch.randn(3, n, generator=torch.Generator().manual_seed(seed))
    vals,cols = top_k(s, min(k,n), block=4)
    assert torch.equal(vals, s.topk(min(k,n)).values)
    assert torch.equal(s.gather(1, cols), vals)

def test_top_k_with_masked_and_equal_scores():
    s = torch.full((2,1000), -torch.inf)
    s[0,7],s[1] = 1,0
    vals,cols = top_k(s, 3, block=8)
    assert cols[0,0]==7 and vals[0,1]==-torch.inf
    assert len(cols[1].unique())==3

@pytest.mark.parametrize('at', [0,998,999,1000,1002])
def test_top_k_finds_the_best_wherever_it_is(at):
    s = torch.zeros(1, 1003)
    s[0,at] = 1
    assert top_k(s, 2, block=8)[1][0,0]==at

def test_novelty_and_coverage():
    _,rel,seen = case(0)
    s = np.zeros(seen.shape, dtype=np.float32)
    s[:,3],s[:,7] = 2,1
    res = measure(Fixed(s), user_items(rel), user_items(seen), k=1)
    shown = res.items[:,0]
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

def test_nan_is_an_error():
    scores,rel,seen = case(0)
    scores[2,5] = np.nan
    with pytest.raises(ValueError, match='gives NaN for 1 of'): measure(Fixed(scores), user_items(rel))

def test_a_user_who_has_seen_everything():
    scores,rel,seen = case(0)
    seen[1] = True
    shown,vals = rank_items(Fixed(scores), tensor([1]), torch.arange(1,40), 40, 5, user_items(seen))
    assert (shown==-1).all() and (vals==-torch.inf).all()

def test_k_beyond_the_catalogue():
    scores,rel,_ = case(0)
    assert rank_items(Fixed(scores), tensor(1,2), torch.arange(1,40), 40, 500)[0].shape==(2,39)

@pytest.mark.parametrize('bs', [1,2,100])
def test_batches_do_not_matter(bs):
    scores,rel,seen = case(3)
    a,b = [measure(Fixed(scores), user_items(rel), user_items(seen), bs=o, auc_too=True) for o in (bs,None)]
    pd.testing.assert_frame_equal(a.per_user, b.per_user)

@pytest.mark.parametrize('use_nn', [False,True])
def test_scorers_agree_with_the_model(use_nn, tmp_path):
    l = learner(frame(range(4), 'abcde'), tmp_path, use_nn=use_nn)
    l.model.eval()
    items,users = torch.arange(1,6),torch.arange(5)
    s = scorer(l.model, items)
    with torch.no_grad(): want = l.model(torch.cartesian_prod(users, items)).view(5,5)
    with torch.no_grad(): torch.testing.assert_close(s.finish(users, s(users)), want)

def test_metrics_of_an_epoch(tmp_path):
    l = learner(loaders(simulate_ratings(40, 60, 800).ratings), tmp_path, metrics=RankMetrics(5, ('recall','ndcg','novelty')))
    with l.no_bar(),l.no_logging(): l.fit(2)
    assert l.recorder.metric_names[3:6]==['recall@5','ndcg@5','novelty@5']
    sizes = sizes_of(l.vocab)
    want = measure(l.model, UserItems(l.dls.valid_ds.ids, sizes), UserItems(l.dls.train_ds.ids, sizes), 5).mean
    assert l.recorder.values[-1][2]==pytest.approx(want.recall)
    with pytest.raises(ValueError, match="no metric 'recal'"): RankMetrics(5, 'recal')

def test_a_baseline_is_what_it_says():
    df = pd.DataFrame(dict(u=[1,1,2,2,3], i=list('abbcb'), r=[1,5,5,3,5]))
    ds = loaders(df, valid_pct=0).train_ds
    sizes,rows = sizes_of(ds.vocab),torch.arange(1,4)
    assert Popular(ds, sizes).scores(rows)[0].tolist()==[0,1,3,1]
    assert BiasOnly(ds, sizes).scores(rows)[0].argmax()==2
    c = CoOccurrence(ds, sizes).scores(tensor([3]))[0] # has b, which a shares with one of b's three users
    assert c[1]==pytest.approx(1/3**.5, abs=1e-6) and c[1]==pytest.approx(c[3].item())
    assert torch.equal(Random(ds, sizes).scores(rows), Random(ds, sizes).scores(rows))

def test_bias_is_left_out_of_clicks():
    ds = loaders(frame(range(4),'abc').assign(rating=1), valid_pct=0).train_ds
    sizes = sizes_of(ds.vocab)
    rel = UserItems(tensor([[1,1]]), sizes)
    assert list(measure_baselines(ds, rel))==['random','popular','cooccurrence']

@given(st.integers(2,6), st.integers(6,40), st.booleans())
def test_folds_partition(n, rows, whole):
    df = pd.DataFrame(dict(u=np.arange(rows)%7, i=np.arange(rows), r=1.))
    if whole and df.u.nunique()<n: return
    parts = [f(df) for f in folds(n, by='u' if whole else None)]
    assert sorted(sum((list(b) for _,b in parts), []))==list(range(rows))
    for a,b in parts:
        assert not set(a)&set(b) and len(a)+len(b)==rows
        if whole: assert not set(df.u[a])&set(df.u[b])

def test_folds_that_cannot_be():
    df = frame('ab', 'cd')
    with pytest.raises(ValueError, match='at least 2'): folds(1)
    with pytest.raises(ValueError, match="2 can't be divided into 3"): folds(3, by='user')[0](df)
    with pytest.raises(KeyError, match="no column 'who'"): folds(2, by='who')[0](df)
