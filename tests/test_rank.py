"Who has what, scores of whole catalogues, and the first k of them"
from helpers import * # all of the package, and what the tests share
import numpy as np,pytest,torch
from fastai.torch_core import tensor
from hypothesis import given,strategies as st
from collab_ext.rank import *
from collab_ext.tables import *
from helpers import frame,learner

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

# ---- Who has what

@given(st.lists(st.tuples(st.integers(0,4), st.integers(0,6))))
def test_user_items_are_a_set_of_pairs(pairs):
    ui = UserItems(tensor(pairs).reshape(-1,2), (5,7))
    want = {(u,i) for u,i in pairs if u and i}
    assert len(ui)==len(want) and set(map(tuple, ui.pairs.tolist()))==want
    users,items = torch.cartesian_prod(torch.arange(5), torch.arange(7)).T
    assert ui.has(users, items).tolist()==[o in want for o in zip(users.tolist(), items.tolist())]
    asked = tensor([3,1,1,0])
    place,found = ui.of(asked)
    assert list(zip(place.tolist(), found.tolist()))==[(j,i) for j,u in enumerate(asked.tolist()) for i in range(7) if (u,i) in want]
    assert {(u,i) for u,i in zip(*ui.csr().nonzero())}==want and ui.count.tolist()==[sum(u==v for u,_ in want) for v in range(5)]

def test_no_user_has_anything():
    ui = UserItems(torch.zeros(0,2).int(), (3,4))
    assert len(ui)==0 and not ui.has(tensor([1]), tensor([1])).any() and not len(ui.of(tensor(1,2))[0]) and ui.csr().nnz==0

@pytest.mark.parametrize('pair,name', [((3,1),'user'),((1,4),'item')])
def test_rows_that_are_not_there(pair, name):
    with pytest.raises(ValueError, match=f'no {name} in row'): UserItems(tensor([pair]), (3,4))

# ---- Scorers

@pytest.mark.parametrize('use_nn', [False,True])
def test_scorers_agree_with_the_model(use_nn, tmp_path):
    l = learner(frame(range(4), 'abcde'), tmp_path, use_nn=use_nn)
    l.model.eval()
    items,users = torch.arange(1,6),torch.arange(5)
    s = scorer(l.model, items)
    with torch.no_grad(): want = l.model(torch.cartesian_prod(users, items)).view(5,5)
    with torch.no_grad(): torch.testing.assert_close(s.finish(users, s(users)), want)

def test_the_scorer_of_a_model():
    class Own(DotBias):
        def scores(self, users): return torch.zeros(len(users), 6)
    class Changed(DotBias):
        def forward(self, x): return super().forward(x)*2
    items,args = torch.arange(1,6),(3, 4, 6)
    kinds = [type(scorer(o(*args), items)) for o in (DotBias,Own,Changed)]
    assert kinds==[DotScorer,OwnScorer,PairScorer]
    model = Changed(*args).requires_grad_(False)
    assert torch.allclose(scorer(model, items)(tensor([2]))[0], model(torch.cartesian_prod(tensor([2]), items)))

def test_nothing_stays_nothing_when_scores_are_finished():
    score = scorer(DotBias(3, 4, 6, y_range=(1,5)), torch.arange(1,6))
    assert score.finish(tensor([1]), tensor([[-torch.inf,0.]]))[0,0]==-torch.inf

# ---- The first k

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

# ---- Lists

def test_nan_is_an_error():
    scores,rel,seen = case(0)
    scores[2,5] = np.nan
    with pytest.raises(ValueError, match='gives NaN for 1 of'): rank_items(Fixed(scores), torch.arange(1,6), torch.arange(1,40), 40)

def test_a_user_who_has_seen_everything():
    scores,rel,seen = case(0)
    seen[1] = True
    shown,vals = rank_items(Fixed(scores), tensor([1]), torch.arange(1,40), 40, 5, user_items(seen))
    assert (shown==-1).all() and (vals==-torch.inf).all()

def test_k_beyond_the_catalogue():
    scores,rel,_ = case(0)
    assert rank_items(Fixed(scores), tensor(1,2), torch.arange(1,40), 40, 500)[0].shape==(2,39)

@pytest.mark.parametrize('kw,match', [(dict(k=0),'`k` is the length'),(dict(k=2.5),'`k` is the length'),(dict(bs=0),'`bs` is how many')])
def test_lengths_that_cannot_be(kw, match):
    with pytest.raises(ValueError, match=match): rank_items(Fixed(case(0)[0]), tensor(1,2), torch.arange(1,40), 40, **kw)

@given(st.integers(0,10_000), st.integers(1,8))
def test_lists_by_definition(seed, k):
    scores,_,seen = case(seed)
    items = np.random.default_rng(seed).permutation(np.arange(1,40))[:20]
    users = tensor(4,1,5)
    shown,vals = rank_items(Fixed(scores), users, tensor(items), 40, k, user_items(seen))
    for u,row,v in zip(users.tolist(), shown, vals):
        best = sorted((i for i in items if not seen[u,i]), key=lambda i: -scores[u,i])[:k]
        assert row.tolist()==best+[-1]*(k-len(best))
        assert v.tolist()==[scores[u,i] for i in best]+[-np.inf]*(k-len(best))
