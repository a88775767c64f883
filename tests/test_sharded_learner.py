"A learner of shards answers as a learner of the same ratings in memory does"
import pytest
pytest.importorskip('duckdb')
from helpers import *
from collab_ext.shards import *
from collab_ext.shard_writer import *
from collab_ext.shard_loaders import *

def prepared(folder, n_users=60, n_items=30, n=900, **kwargs):
    simulate_ratings(n_users, n_items, n).ratings.to_parquet(folder/'ratings.parquet')
    return prepare_shards(folder/'ratings.parquet', folder/'shards', **merge(dict(blocks=3, bucket_rows=100), kwargs))

def in_memory(dls, path):
    "The same ratings, read at once"
    sets = [o.dataset.read() for o in dls.loaders]
    return CollabDataLoaders(*[CollabDL(o.replace(vocab=Vocab(dict(o.vocab))), bs=64) for o in sets], path=path)

@pytest.fixture(scope='module')
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp('pair')
    set_seed(0)
    dls = CollabDataLoaders.from_shards(prepared(folder), path=folder)
    learn = collab_learner(dls, 4, y_range=(1,5))
    with learn.no_bar(),learn.no_logging(): learn.solve(4)
    learn.save('solved')
    other = collab_learner(in_memory(dls, folder), 4, y_range=(1,5)).load('solved')
    return learn,other

def new_users(learn):
    items = learn.vocab.labels[1][1:4]
    return pd.DataFrame({learn.vocab.names[0]:['new']*3, learn.vocab.names[1]:items, 'rating':[5.,4,1]})

def same(a, b): pd.testing.assert_frame_equal(a, b, rtol=1e-4, atol=1e-4)

def some(learn, s, *rows): return [learn.vocab.labels[s][o] for o in rows]

answers = dict(everybody=lambda o: o.recommend(k=3), some=lambda o: o.recommend(some(o, 0, 2, 3, 4), k=3), one=lambda o: o.recommend(*some(o, 0, 7), k=3),
    newcomers=lambda o: o.recommend(ratings=new_users(o), k=3), reasons=lambda o: o.explain(*some(o, 0, 3), *some(o, 1, 2)),
    quality=lambda o: o.evaluate(k=5), other=lambda o: o.evaluate(k=5, test=o.dls.valid_ds.decode(o.dls.valid_ds.ids)[:20], baselines=False),
    likeness=lambda o: o.similar_items(*some(o, 1, 2), k=3))

@pytest.mark.parametrize('asked', answers)
def test_answers_are_those_of_memory(pair, asked): same(*[answers[asked](o) for o in pair])

def test_nothing_seen_is_shown(pair):
    learn,_ = pair
    shown = learn.recommend(learn.vocab.labels[0][1:20], k=30)
    every = learn.dls.train_ds.read()
    pairs = set(map(tuple, every.decode(every.ids).itertuples(index=False, name=None)))
    assert len(shown) and not any(o in pairs for o in zip(shown.iloc[:,0], shown.iloc[:,2]))

def test_users_of_some_blocks(pair):
    ds = pair[0].dls.train_ds
    every = ds.read()
    for rows in ([1], [1,59], [20,21,22], list(range(1,60)), [0], []):
        theirs = ds.of_users(torch.tensor(rows, dtype=torch.int64))
        expected = every.ids[torch.isin(every.ids[:,0], torch.tensor(rows, dtype=torch.int32))]
        assert sorted(theirs.ids.tolist())==sorted(expected.tolist()) and len(theirs.targ)==len(expected)

def test_only_the_blocks_of_these_users_are_read(pair, monkeypatch):
    import collab_ext.shard_loaders as loaders_of_shards
    learn,_ = pair
    read,real = [],loaders_of_shards.read_part
    monkeypatch.setattr(loaders_of_shards, 'read_part', lambda shards, part: read.append(part) or real(shards, part))
    learn.recommend(learn.vocab.labels[0][1])
    assert {o.user_block for o in read}=={0}

def test_plots_of_the_held_out(pair):
    a,b = [o.top_losses(k=500).sort_values(list(o.vocab.names)).reset_index(drop=True) for o in pair]
    same(a, b)

def test_bundles_are_alike(pair, tmp_path):
    for n,o in enumerate(pair): o.export_bundle(tmp_path/str(n))
    users = pair[0].vocab.labels[0][1:6]
    a,b = [Bundle(tmp_path/str(n)) for n in (0,1)]
    same(a.recommend(users, k=4), b.recommend(users, k=4))
    ask = dict(ratings={o:r for o,r in zip(*[new_users(pair[0])[c] for c in ('item','rating')])}, k=4)
    assert a.recommend(**ask).equals(b.recommend(**ask))

def test_more_ratings_than_are_read_at_once(tmp_path):
    learn = collab_learner(CollabDataLoaders.from_shards(prepared(tmp_path), path=tmp_path, in_memory=100), 4, y_range=(1,5))
    with learn.no_bar(),learn.no_logging(): learn.solve(2)
    for f in (learn.recommend, learn.evaluate, lambda: learn.export_bundle(tmp_path/'bundle')):
        with pytest.raises(ValueError, match='`in_memory=100` is the most'): f()
    assert len(learn.recommend(learn.vocab.labels[0][1:3], k=2))==4
    learn.export_bundle(tmp_path/'bundle', with_seen=False)
    with pytest.raises(ValueError, match='`in_memory` is how many'): CollabDataLoaders.from_shards(tmp_path/'shards', in_memory=-1)

def folded(folder):
    dls = CollabDataLoaders.from_shards(prepared(folder), path=folder)
    learn = collab_learner(dls, 4, y_range=(1,5))
    with learn.no_bar(),learn.no_logging(): learn.solve(4)
    learn.save('solved')
    return learn,collab_learner(in_memory(dls, folder), 4, y_range=(1,5)).load('solved')

def test_fold_in_and_what_follows(tmp_path):
    pair = folded(tmp_path)
    same(*[o.fold_in(new_users(o)) for o in pair])
    for ask in (lambda o: o.recommend('new', k=3), lambda o: o.explain('new', o.vocab.labels[1][5]), lambda o: o.recommend(o.vocab.labels[0][1:4])): same(*map(ask, pair))
    again = new_users(pair[0]).assign(rating=[1.,2,3])
    same(*[o.fold_in(again, update=True) for o in pair])
    same(*[o.recommend('new', k=30) for o in pair])
    learn = pair[0]
    with learn.no_bar(),learn.no_logging(): learn.solve(1) # in memory now, since no shard has the new user
    learn.save('more')
    assert collab_learner(learn.dls, 4, y_range=(1,5)).load('more').vocab.labels[0][-1]=='new'
