"Several sources of ratings become one"
from helpers import * # all of the package, and what the tests share
import numpy as np,pytest,torch
from hypothesis import given,settings,strategies as st
from collab_ext.several_sources import *

def loaders(df, **kw): return CollabDataLoaders.from_df(df, **{**dict(valid_pct=0, unknown='mean', device='cpu'), **kw})

def solved(df, k=4, **kw):
    learn = collab_learner(loaders(df), k, **kw)
    with learn.no_bar(),learn.no_logging(): learn.solve(10)
    return learn

@pytest.fixture(scope='module')
def ratings(): return simulate_ratings(300, 60, 9000, seed=3).ratings

@pytest.fixture(scope='module')
def parts(ratings):
    "Two sources that know half of the items each, and some together; and a target"
    n_items = ratings['item'].nunique()
    labels = sorted(ratings['item'].unique())
    first,second = set(labels[:2*n_items//3]),set(labels[n_items//3:])
    users = sorted(ratings.user.unique())
    a = ratings[ratings.user.isin(users[:120])&ratings['item'].isin(first)]
    b = ratings[ratings.user.isin(users[120:240])&ratings['item'].isin(second)]
    return a,b,ratings[ratings.user.isin(users[240:])].sample(frac=.5, random_state=0)

@pytest.fixture(scope='module')
def sources(parts): return [solved(parts[0], 4),solved(parts[1], 6)]

def error(learn, df):
    with learn.no_bar(): pred,y = learn.get_preds(dl=learn.test_dl(df, unknown='mean'))
    return (pred-y).pow(2).mean().sqrt().item()

def test_two_sources_are_no_worse_than_one(parts, sources, ratings):
    target = parts[2]
    rest = ratings[ratings.user.isin(target.user.unique())].drop(target.index)
    one = [error(collab_learner(loaders(target), pretrained=o), rest) for o in sources]
    both = collab_learner(loaders(target), pretrained=sources)
    assert error(both, rest)<min(one)+.005
    assert both.transfer.hint.startswith('Several sources: source 1 knows')
    with both.no_bar(),both.no_logging(): both.fine_tune(2)
    assert error(both, rest)<min(one)+.02

def test_a_shuffled_source_is_dropped(parts, sources):
    items = parts[1]['item'].unique()
    noise = parts[1].assign(item=parts[1]['item'].map(dict(zip(items, np.random.default_rng(1).permutation(items)))))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        learn = collab_learner(loaders(parts[2]), pretrained=[solved(noise),sources[0]])
    assert 'source 1' in learn.transfer.hint and learn.transfer.hint.split('source 2')[0].rstrip('; ').endswith('dropped')

@settings(max_examples=15, deadline=None)
@given(st.integers(1,6), st.integers(1,6), st.integers(0,1000))
def test_a_rotation_is_found(k, m, seed):
    gen = torch.Generator().manual_seed(seed)
    b = torch.randn(40, m, generator=gen)
    turn = torch.linalg.qr(torch.randn(max(k,m), max(k,m), generator=gen))[0][:m,:k]
    found = rotation(b@turn, b, torch.ones(40))
    assert found.shape==(m,k)
    if m<=k: assert torch.allclose(b@found, b@turn, atol=1e-3)

def test_bad_input(parts, sources, tmp_path):
    dls = loaders(parts[2])
    clicks = implicit_learner(CollabDataLoaders.from_interactions(parts[0][['user','item']], valid_pct=0), 4, loss_func='ials')
    with clicks.no_bar(),clicks.no_logging(): clicks.solve(2)
    with pytest.warns(UserWarning, match='Source 2 of 2 was trained on clicks'): collab_learner(dls, pretrained=[sources[0],clicks])
    with pytest.raises(ValueError, match="Source 2 of 3 can't be read"): collab_learner(dls, pretrained=[sources[0],'nothing',sources[1]], path=tmp_path)
    with pytest.raises(ValueError, match='an empty list'): collab_learner(dls, pretrained=[])
    with pytest.raises(ValueError, match='leave out `fill`'): collab_learner(dls, pretrained=sources, fill='mean')
    elsewhere = solved(parts[0].assign(item='x'+parts[0]['item'].astype(str)))
    with pytest.raises(ValueError, match='No label of the new data'): collab_learner(dls, pretrained=[sources[0],elsewhere])
    learn = collab_learner(dls, 6)
    was = weights(learn)
    with pytest.raises(ValueError): learn.transfer_from([sources[0],'nothing'])
    assert same(weights(learn), was) and learn.transfer is None

def test_sources_that_share_no_item(parts):
    items = sorted(parts[2]['item'].unique())
    apart = [solved(parts[2][parts[2]['item'].isin(o)]) for o in (items[:25],items[25:])]
    learn = collab_learner(loaders(parts[2]), pretrained=apart)
    assert learn.transfer.hint.count('dropped')==1
