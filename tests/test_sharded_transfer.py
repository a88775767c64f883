"What was learned elsewhere, moved to ratings in shards"
import pytest
pytest.importorskip('duckdb')
from helpers import *
from collab_ext.shards import *
from collab_ext.shard_writer import *
from collab_ext.shard_loaders import *
from collab_ext.sharded_closed_form import *
from collab_ext.sharded_transfer import *
import collab_ext.bayes as bayes
from test_distributed import in_processes
from test_sharded_learner import in_memory

def quietly(learn, how, *args, **kwargs):
    with learn.no_bar(),learn.no_logging(): getattr(learn, how)(*args, **kwargs)
    return learn

def world(folder, y_range=(1,5), sharded=False, known_users=0, lost_items=20, seed=0, new=1500):
    "A saved source, and shards of other ratings of mostly the same items"
    df = simulate_ratings(600, 80, 15_000, seed=seed).ratings
    users,items = df.user.unique(),df.item.unique()
    is_new = df.user.isin(users[:200])
    old = df[~is_new & ~df.item.isin(items[:lost_items])]
    if known_users: old = pd.concat([old, df[df.user.isin(users[:known_users]) & ~df.item.isin(items[:lost_items])].iloc[::2]])
    if sharded:
        old.to_parquet(folder/'old.parquet')
        dls = CollabDataLoaders.from_shards(prepare_shards(folder/'old.parquet', folder/'old', blocks=2, valid_pct=0))
    else: dls = CollabDataLoaders.from_df(old, valid_pct=0)
    source = quietly(collab_learner(dls, 6, y_range=y_range, path=folder), 'solve', 6)
    source.save('source')
    df[is_new].sample(new, random_state=seed).to_parquet(folder/'new.parquet')
    shards = prepare_shards(folder/'new.parquet', folder/'shards', blocks=3, bucket_rows=200)
    return CollabDataLoaders.from_shards(shards, path=folder)

def error(learn): return rating_rmse(learn.model, learn.dls.valid_ds)

@pytest.mark.parametrize('y_range', [None,(1,5)])
@pytest.mark.parametrize('known_users,lost_items', [(0,0),(0,20),(150,0),(200,60)])
def test_begins_as_in_memory(tmp_path, y_range, known_users, lost_items):
    "With a source that knows nothing of sets, both have the same prior; so they begin with the same rows"
    dls = world(tmp_path, y_range, sharded=True, known_users=known_users, lost_items=lost_items)
    learn,other = [collab_learner(o, 6, y_range=y_range, pretrained='source', compare_source=False) for o in (dls, in_memory(dls, tmp_path))]
    for (_,a),b in zip(tables(learn.model).items(), tables(other.model).values()):
        seen = slice(1, None)
        assert (a[seen]-b[seen]).abs().mean() < .03*b[seen].std()
    assert abs(error(learn)-error(other)) < .01*error(other)
    assert learn.report.to_frame().equals(other.report.to_frame())

def test_tuned_as_in_memory(tmp_path):
    dls = world(tmp_path, known_users=40)
    learn,other = [collab_learner(o, 6, y_range=(1,5), pretrained='source') for o in (dls, in_memory(dls, tmp_path))]
    begun = error(learn)
    assert abs(begun-error(other)) < .03*begun
    for o in (learn,other): quietly(o, 'fine_tune', 2)
    assert error(learn) < 1.02*error(other) and error(learn) < 1.02*begun
    scratch = quietly(collab_learner(dls, 6, y_range=(1,5)), 'solve')
    assert error(learn) < error(scratch)-.02

@pytest.mark.filterwarnings('ignore:.*look like other items')
def test_a_harmful_source_is_dropped(tmp_path):
    dls = world(tmp_path, new=4500)
    pair = read_pair(tmp_path/'models'/'source')
    order = torch.randperm(len(pair.vocab.labels[1])-1, generator=torch.Generator().manual_seed(0))+1
    for k in ('i_weight.weight','i_bias.weight'): pair.wgts[k][1:] = pair.wgts[k][order]
    wgts,prior = pair.wgts,pair.info['prior']
    wrong = pair._replace(wgts=wgts, info=dict(pair.info, prior=prior))
    learn = quietly(collab_learner(dls, 6, y_range=(1,5), pretrained=wrong), 'fine_tune', 2)
    scratch = quietly(collab_learner(dls, 6, y_range=(1,5)), 'solve')
    assert error(learn) < 1.02*error(scratch)
    assert 'look like other items' in str(learn.report) or learn.transfer.dropped

def test_a_part_of_the_users_judges(tmp_path, monkeypatch):
    dls = world(tmp_path)
    ds = dls.train_ds
    every,y = some_users(ds.shards, ds.counts['user'])
    assert sorted(every.tolist())==sorted(ds.read().ids.tolist())
    few,_ = some_users(ds.shards, ds.counts['user'], most=200)
    theirs = few[:,0].unique()
    assert len(few)<350 and torch.equal(torch.bincount(few[:,0], minlength=ds.vocab.sizes[0])[theirs], ds.counts['user'][theirs])
    import collab_ext.sharded_transfer as module
    real = module.some_users
    monkeypatch.setattr(module, 'some_users', lambda shards, count: real(shards, count, 400))
    learn = collab_learner(dls, 6, y_range=(1,5), pretrained='source')
    assert error(learn) < dls.valid_ds.summary().std*.9 and (learn.model.u_weight.weight[1:].abs().sum(1)>0).all()

def test_by_gradients(tmp_path):
    dls = world(tmp_path)
    learn = collab_learner(dls, 6, y_range=(1,5), pretrained='source', cbs=Fused())
    begun = error(learn)
    assert error(quietly(learn, 'fit', 2, .002)) < 1.05*begun

def test_several_sources(tmp_path):
    dls = world(tmp_path)
    other = simulate_ratings(600, 80, 15_000, seed=0).ratings
    other = other[other.user.isin(other.user.unique()[400:])]
    quietly(collab_learner(CollabDataLoaders.from_df(other, valid_pct=0), 6, y_range=(1,5), path=tmp_path), 'solve', 6).save('second')
    learn = quietly(collab_learner(dls, 6, y_range=(1,5), pretrained=['source','second']), 'fine_tune', 2)
    scratch = quietly(collab_learner(dls, 6, y_range=(1,5)), 'solve')
    assert error(learn) < error(scratch)

def test_a_saved_solution_goes_on(tmp_path):
    dls = world(tmp_path, new=4500)
    learn = quietly(collab_learner(dls, 6, y_range=(1,5)), 'solve', 8)
    learn.save('solved')
    goes_on = quietly(collab_learner(dls, 6, y_range=(1,5)).load('solved'), 'solve', 1)
    anew = quietly(collab_learner(dls, 6, y_range=(1,5)), 'solve', 1)
    assert abs(error(goes_on)-error(learn)) < .2*abs(error(anew)-error(learn))

def _tuned(folder, out, cbs=()):
    def f(rank):
        dls = CollabDataLoaders.from_shards(folder/'shards', path=folder)
        learn = quietly(collab_learner(dls, 6, y_range=(1,5), pretrained='source', cbs=Ring()), 'fine_tune', 2, cbs=list(cbs))
        return {k:v for k,v in learn.model.state_dict().items()},str(learn.report)
    return f

def test_two_processes_as_one(tmp_path):
    world(tmp_path, known_users=40)
    one, = in_processes(1, _tuned(tmp_path, 'one'), tmp_path)
    two = in_processes(2, _tuned(tmp_path, 'two'), tmp_path)
    assert not isinstance(one, str), one
    for o in two:
        assert not isinstance(o, str), o
        assert o[1]==one[1]
        for k,v in one[0].items(): assert torch.allclose(v, o[0][k], rtol=1e-3, atol=1e-3), k

def test_an_interrupted_transfer_goes_on(tmp_path):
    dls = world(tmp_path, known_users=40)
    def new(): return collab_learner(dls, 6, y_range=(1,5), pretrained='source')
    class Stop(Callback):
        def __init__(self, at=1): self.at = at
        def after_epoch(self):
            if self.epoch==self.at: raise KeyboardInterrupt
    whole = quietly(new(), 'solve', 3)
    learn = new()
    before = {k:v.clone() for k,v in learn.model.state_dict().items()}
    with pytest.raises(KeyboardInterrupt): quietly(learn, 'solve', 3, cbs=[Stop(),Ring(tmp_path/'checkpoints')])
    assert all(torch.equal(v, before[k]) for k,v in learn.model.state_dict().items())
    late = new()
    kept = late.solver.mf.items.mean.clone()
    with pytest.raises(KeyboardInterrupt): quietly(late, 'solve', 3, cbs=[Stop(2),Ring(tmp_path/'checkpoints')])
    assert torch.equal(late.solver.mf.items.mean, kept) # a checkpoint is not read into what the learner holds
    again = quietly(new(), 'solve', 3, cbs=Ring(tmp_path/'checkpoints'))
    for k,v in whole.model.state_dict().items(): assert torch.allclose(v, again.model.state_dict()[k], atol=1e-4), k
    with pytest.raises(ValueError, match='checkpoint'): quietly(collab_learner(dls, 6, y_range=(1,5)), 'solve', 3, cbs=Ring(tmp_path/'checkpoints'))

def _sweep_side(mf, s, ridge):
    "`BayesMF` learns a prior as shards do: from rows, without implicit factors, with coefficients of new features that begin at zero"
    t,seen,feats = mf.sides[s],mf.rm.count[s]>0,bayes._features(mf, s)
    if t.coefs is None: refit(t, feats, seen, ridge=ridge)
    if len(t.coefs)<feats.width: t.coefs = torch.cat([t.coefs, torch.zeros(feats.width-1, t.coefs.shape[1])])
    t.prior_mean = None
    mf.update(s)
    solve_coefs(t, feats, seen, ridge)
    fit_spread(t, seen, expected=partial(bayes._expected, t, feats, None))

@pytest.mark.parametrize('y_range', [None,(1,5)])
def test_sets_as_in_memory(tmp_path, monkeypatch, y_range):
    dls = world(tmp_path, new=4500)
    as_loadings = bayes._as_loadings
    monkeypatch.setattr(bayes, '_sweep_side', _sweep_side)
    monkeypatch.setattr(bayes, '_as_loadings', lambda rm, s, rows, shrink=0.: as_loadings(rm, s, rows))
    shards,counts = dls.train_ds.shards,list(dls.train_ds.counts.values())
    mf = sharded_start(shards, counts, 6, Link(y_range))
    plain = in_memory_start(mf)
    plain.sets = True
    for _ in range(9):
        mf.sweep()
        plain.sweep()
    assert mf.users.coefs[2:].abs().max()>.01 # the set of ratings says something
    for a,b in zip((mf.users,mf.items), plain.sides):
        assert (a.mean[1:]-b.mean[1:]).abs().max() < 2e-3
        assert torch.allclose(a.coefs, b.coefs, atol=5e-3)
