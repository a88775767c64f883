"Closed forms of ratings: what a source's prior may do, and whose rows it moves"
import pytest
from helpers import *

def solved(df, path, k=6, **kwargs):
    learn = collab_learner(loaders(df, valid_pct=0), k, path=path, model_dir='models', **kwargs)
    with learn.no_bar(),learn.no_logging(): return learn.solve(10)

@pytest.fixture(scope='module')
def populations():
    "Two populations that share the items; the second's users are named like the first's, and are others"
    old,new = cross_domain_split(simulate_ratings(200, 100, 8000).ratings)
    names = dict(zip(new.user.unique(), old.user.unique()))
    return old,new,new.assign(user=new.user.map(names)).dropna()

def without_ridge(prior):
    "As 0.0.1 saved it: the last feature twice, and no ridge, so that the moment has no inverse"
    sides = [dict(o, feature_moment=(np.array(o['feature_moment'])*0).tolist()) for o in prior['sides']]
    return dict(prior, sides=sides)

def test_users_of_the_same_name(populations, tmp_path):
    "Users who are named like others are taken for new, and the learner is the one that a translation to nobody gives"
    old,_,new = populations
    src = solved(old, tmp_path)
    with pytest.warns(UserWarning, match="labels of 'user' are in the source too, and look like other users"):
        learn = collab_learner(loaders(new), pretrained=src, path=tmp_path)
    told = collab_learner(loaders(new), pretrained=src, path=tmp_path, id_map=dict(user={}))
    assert same(weights(learn), weights(told))
    assert any('look like other users' in o for o in learn.report.notes)
    assert learn.transfer.start.rmse<learn.transfer.start.mean_rmse

def test_items_of_the_same_name(populations, tmp_path):
    old,_,_ = populations
    names = dict(zip(old['item'].unique(), np.roll(old['item'].unique(), 7)))
    new = old.assign(item=old['item'].map(names)).sample(frac=.5, random_state=0)
    src = solved(old, tmp_path)
    with pytest.warns(UserWarning, match="look like other items"): collab_learner(loaders(new), pretrained=src, path=tmp_path)

@pytest.mark.parametrize('seed', range(4))
def test_the_same_users_are_believed(populations, tmp_path, seed):
    "New ratings of the source's own users and items"
    old,_,_ = populations
    out = old.sample(frac=.3, random_state=seed)
    src = solved(old.drop(out.index), tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        learn = collab_learner(loaders(out), pretrained=src, path=tmp_path)
    assert not any('look like' in o for o in learn.report.notes)

def test_a_start_below_the_mean_is_said(populations, tmp_path):
    "A source of other people and other things, of which too few tell"
    old,new,_ = populations
    src = solved(old, tmp_path).as_pair()
    wgts = {k:v*30 if k.endswith('bias.weight') else v for k,v in src.wgts.items()}
    with pytest.warns(UserWarning, match='the source does harm'):
        collab_learner(loaders(new), pretrained=src._replace(wgts=wgts, info={}), path=tmp_path)

@pytest.mark.parametrize('y_range', [None,(0,6)])
def test_rounding_does_not_grow(populations, tmp_path, y_range):
    "A millionth in the source's tables moves no error after ten rounds"
    old,new,_ = populations
    pair = solved(old, tmp_path, 20, y_range=y_range).as_pair()
    dls = loaders(new)
    def error(wgts):
        mf = collab_learner(dls, 20, pretrained=pair._replace(wgts=wgts), path=tmp_path, y_range=y_range).solver.mf.copy()
        for _ in range(10): mf.sweep()
        ds = dls.valid_ds
        return (mf.predict(ds.ids)-ds.targ).pow(2).mean().sqrt().item()
    moved = {k:v*(1+1e-6*torch.randn(v.shape)) for k,v in pair.wgts.items()}
    assert abs(error(pair.wgts)-error(moved))<1e-4

def test_a_saved_moment_is_a_precision(populations, tmp_path):
    "What is saved of the features has the ridge that their coefficients were estimated with"
    old,_,_ = populations
    for side_prior in solved(old, tmp_path, 20).model.prior['sides']:
        vals = np.linalg.eigvalsh(np.array(side_prior['feature_moment']))
        assert vals.min() > 1e-6*vals.max()

def test_a_moment_of_version_0_0_1(populations, tmp_path):
    "Without its ridge it has no inverse; reading it gives it a floor"
    old,new,_ = populations
    pair = solved(old, tmp_path, 20).as_pair()
    info = dict(pair.info, prior=without_ridge(pair.info['prior']))
    learn = collab_learner(loaders(new), 20, pretrained=pair._replace(info=info), path=tmp_path)
    with learn.no_bar(),learn.no_logging(): learn.fine_tune(2)
    assert all(v.isfinite().all() for v in learn.model.state_dict().values())

@pytest.mark.parametrize('y_range', [None,(0,6)])
@pytest.mark.parametrize('n', [1,2,3])
def test_few_ratings(populations, tmp_path, y_range, n):
    "A source, or a target, of one to three ratings"
    old,new,_ = populations
    tiny = old.iloc[:n]
    src = solved(tiny, tmp_path, 3, y_range=y_range)
    target = collab_learner(loaders(pd.concat([new, tiny])), 3, pretrained=src, path=tmp_path, y_range=y_range)
    with target.no_bar(),target.no_logging(): target.fine_tune(1)
    few = collab_learner(loaders(tiny, valid_pct=0), 3, pretrained=solved(old, tmp_path, 3), path=tmp_path, y_range=y_range)
    with few.no_bar(),few.no_logging(): few.fine_tune(1)
    for o in (src,target,few): assert all(v.isfinite().all() for v in o.model.state_dict().values())
