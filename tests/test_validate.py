"Folds against their definition; searches that are interrupted, continued and asked something else"
from helpers import * # all of the package, and what the tests share
import fastai.collab,numpy as np,pandas as pd,pytest,signal,torch
from fastai.metrics import rmse
from collab_ext.validate import *
from helpers import loaders,same

@pytest.fixture(scope='module')
def df(): return simulate_ratings(30, 25, 300).ratings

def solved(dls, n_factors=2, n_epoch=2, y_range=None):
    l = collab_learner(dls, n_factors, metrics=rmse, y_range=y_range)
    with l.no_bar(),l.no_logging(): return l.solve(n_epoch)

def trained(dls, lr=.01):
    l = collab_learner(dls, 2, y_range=(1,5))
    with l.no_bar(),l.no_logging(): l.fit(1, lr)
    return l

# ---- Cross-validation

def test_each_fold_is_what_one_would_do_by_hand(df):
    res = cross_validate(df, solved, 3, k=[3,5], eval_kwargs=dict(min_rating=3), seed=7)
    assert list(res.index)==[0,1,2,'mean','std'] and res.index.name=='fold'
    for i,s in enumerate(KFoldSplitters(3, seed=7)):
        l = solved(CollabDataLoaders.from_df(df, splitter=s, unknown='mean'))
        with l.no_bar(): want = l.validate()
        assert res.loc[i,['valid_loss','rmse']].tolist()==pytest.approx(list(want))
        ranked = l.evaluate(k=[3,5], min_rating=3, baselines=False).loc['model']
        assert res.loc[i,ranked.index].tolist()==pytest.approx(ranked.tolist(), nan_ok=True)
    folds = res.loc[[0,1,2]]
    pd.testing.assert_series_equal(res.loc['mean'], folds.mean(), check_names=False)
    pd.testing.assert_series_equal(res.loc['std'], folds.std(), check_names=False)

def test_folds_do_not_depend_on_what_came_before(df):
    torch.manual_seed(5)
    state = torch.get_rng_state()
    folds = KFoldSplitters(3)
    whole = cross_validate(df, trained, folds, bs=32)
    assert torch.equal(state, torch.get_rng_state())
    torch.rand(7)
    assert same(cross_validate(df, trained, folds, bs=32), whole)
    assert same(cross_validate(df, trained, folds[:1], bs=32).loc[0].tolist(), whole.loc[0].tolist())
    dls = loaders(df)
    one = cross_validate(dls, trained)
    next(iter(dls.train))
    assert same(cross_validate(dls, trained), one)

def test_data_of_any_kind(df):
    dls = loaders(df)
    assert list(cross_validate(dls, solved).index)==[0,'mean','std']
    def make(splitter): return loaders(df, splitter=splitter)
    assert same(cross_validate(make, solved, 2), cross_validate(df, solved, 2))
    assert len(cross_validate(df, solved, TimeSplitter('time')))==3
    fastai_dls = fastai.collab.CollabDataLoaders.from_df(df, bs=64, seed=1)
    assert len(cross_validate(fastai_dls, trained, k=3))==3
    clicks = CollabDataLoaders.from_interactions(df[['user','item']], n_neg=3, seed=1)
    def clicked(dls):
        assert dls.train.n_neg==3
        l = implicit_learner(dls, 3, 'bpr')
        with l.no_bar(),l.no_logging(): l.fit(1)
        return l
    assert len(cross_validate(clicks, clicked, k=3))==3

@pytest.mark.parametrize('kw,err,match', [
    (dict(data=[1]), ValueError, '`data` is a frame'), (dict(splitters=1), ValueError, 'number of folds'), (dict(splitters=[]), ValueError, '`splitters` is'),
    (dict(splitters=[3]), ValueError, '`splitters` is'), (dict(make_learner=3), ValueError, '`make_learner` is a function'),
    (dict(make_learner=lambda dls: 3), ValueError, '`make_learner` returns a trained'), (dict(seed=-1), ValueError, '`seed` is'),
    (dict(k=0), ValueError, '`k` is the length'), (dict(eval_kwargs=dict(min_ratin=3)), TypeError, 'did you mean `min_rating`'),
    (dict(eval_kwargs=3), ValueError, '`eval_kwargs` is a dict'), (dict(val_b=3), TypeError, 'did you mean `val_bs`')])
def test_bad_questions(df, kw, err, match):
    with pytest.raises(err, match=match): cross_validate(**{**dict(data=df, make_learner=solved, splitters=2), **kw})

def test_nothing_held_out(df):
    with pytest.raises(ValueError, match='Fold 0 holds nothing out'): cross_validate(loaders(df, valid_pct=0), solved)
    with pytest.raises(TypeError, match='is for a frame of ratings'): cross_validate(loaders(df), solved, bs=3)

# ---- Tuning

optuna = pytest.importorskip('optuna')
space = dict(n_factors=(1,6), n_epoch=[1,2,3])
def search(df, **kwargs): return tune(loaders(df), solved, space, progress=False, **kwargs)

def test_the_best_is_what_cross_validation_says(df):
    res = search(df, n_trials=5)
    assert len(res.trials)==5 and res.value==res.trials.value.min()==res.trials.valid_loss.min()
    assert res.value==pytest.approx(cross_validate(loaders(df), partial(solved, **res.best)).valid_loss['mean'])
    assert set(res.trials.n_factors)<=set(range(1,7)) and set(res.trials.n_epoch)<={1,2,3}
    assert same(res.trials, search(df, n_trials=5).trials)
    more = search(df, n_trials=3, metric='ndcg@5', k=5)
    assert more.value==more.trials['ndcg@5'].max()

@pytest.mark.parametrize('file', ['search.db','search.log'])
def test_a_search_goes_on_from_its_file(df, tmp_path, file):
    whole = search(df, n_trials=5)
    for n in (2,2,5):
        res = search(df, n_trials=n, storage=tmp_path/file)
        assert len(res.trials)==n
    assert same(res.trials, whole.trials) and res.best==whole.best
    with pytest.raises(ValueError, match='asks something else'): tune(loaders(df), solved, dict(n_factors=[3]), storage=tmp_path/file, progress=False)
    with pytest.raises(ValueError, match='asks something else'): search(df, metric='rmse', storage=tmp_path/file)
    assert len(search(df, n_trials=1, metric='rmse', storage=tmp_path/file, name='other').trials)==1

@pytest.mark.parametrize('storage', [None,'search.db'])
def test_an_interrupt_loses_no_finished_trial(df, tmp_path, storage):
    calls = []
    def interrupted(dls, **settings):
        calls.append(settings)
        if len(calls)==4: raise KeyboardInterrupt
        return solved(dls, **settings)
    kw = dict(n_trials=6, progress=False, storage=storage and tmp_path/storage)
    with pytest.warns(UserWarning, match='Interrupted after 3 of 6 trials'): res = tune(loaders(df), interrupted, space, **kw)
    assert same(res.trials, search(df, n_trials=3).trials)
    if storage: assert same(tune(loaders(df), solved, space, **kw).trials, search(df, n_trials=6).trials)
    calls[:] = [0]*3
    with pytest.raises(KeyboardInterrupt): tune(loaders(df), interrupted, space, progress=False)

def test_a_search_that_is_killed_goes_on(df, tmp_path):
    file = tmp_path/'search.db'
    def run():
        def slow(dls, **settings):
            if len(optuna.load_study(study_name='tune', storage=f'sqlite:///{file}').get_trials())==4: os.kill(os.getpid(), signal.SIGKILL)
            return solved(dls, **settings)
        tune(loaders(df), slow, space, n_trials=6, storage=file, progress=False)
    assert in_child(run)==-signal.SIGKILL
    assert same(search(df, n_trials=6, storage=file).trials, search(df, n_trials=6).trials)

def test_a_trial_that_fails_is_no_trial(df, tmp_path):
    def fails(dls, n_factors, n_epoch): raise RuntimeError('out of order')
    with pytest.raises(RuntimeError, match='out of order'): tune(loaders(df), fails, space, storage=tmp_path/'s.db', progress=False)
    with pytest.raises(ValueError, match="`metric` is one of .*did you mean `rmse`"): search(df, metric='rmsee')
    with pytest.raises(ValueError, match='valid_loss is nan'): tune(loaders(df), lambda dls,**kw: spoiled(dls), space, progress=False)
    assert len(search(df, n_trials=1, storage=tmp_path/'s.db').trials)==1

def spoiled(dls):
    l = solved(dls)
    with torch.no_grad(): l.model.u_weight.weight.fill_(np.nan)
    return l

def test_spaces(df):
    seen = []
    def record(dls, **kw): return seen.append(kw) or solved(dls)
    wide = dict(a=(1e-4,1.), b=(1,1000), c=(-1.,1.), d=[None,'x',True], e=lambda trial: trial.suggest_int('e', 5, 9, step=2))
    tune(loaders(df), record, wide, n_trials=25, progress=False)
    a,b,c,d,e = [[o[k] for o in seen] for k in 'abcde']
    assert all(1e-4<=o<=1 for o in a) and np.mean(np.array(a)<.1)>.4 and all(isinstance(o, int) for o in b)
    assert min(c)<0<max(c) and {*d}=={None,'x',True} and {*e}<={5,7,9}
    for bad in ({}, 3, {1:(0,1)}, dict(a=(1,0)), dict(a=()), dict(a=[]), dict(a='x'), dict(a=(0,np.inf)), dict(a=(True,2)), dict(a=[[1]])):
        with pytest.raises(ValueError, match='`space'): tune(loaders(df), solved, bad)

def test_bad_searches(df, tmp_path):
    for kw,match in ((dict(n_trials=0),'`n_trials` is'), (dict(metric=3),'`metric` is'), (dict(storage=3),'`storage` is')):
        with pytest.raises(ValueError, match=match): search(df, **kw)
    with pytest.raises(FileNotFoundError, match='no folder'): search(df, storage=tmp_path/'nowhere'/'s.db')

def test_a_search_goes_on_with_its_own_question_only(tmp_path):
    "Other data, folds or measures in the same file are refused, not answered with what was found for others"
    pytest.importorskip('optuna')
    df = simulate_ratings(30, 20, 200).ratings
    def make(dls, n_factors):
        learn = collab_learner(dls, n_factors, metrics=rmse)
        with learn.no_bar(),learn.no_logging(): return learn.solve(2)
    kw = dict(space=dict(n_factors=[2]), n_trials=1, storage=tmp_path/'s.db', splitters=2, progress=False)
    tune(df, make, **kw)
    tune(df, make, **kw)
    for data,more in ((df.head(150),{}), (df,dict(splitters=3)), (df,dict(k=5)), (df,dict(k=5, eval_kwargs=dict(min_rating=4)))):
        with pytest.raises(ValueError, match='asks something else'): tune(data, make, **{**kw, **more})
