"What users of five kinds met in corners: silent wrong answers, raw errors, numbers that depend on chance"
from helpers import * # all of the package, and what the tests share
import sys

import scipy.sparse as sp

import numpy as np,pandas as pd,pytest,torch
from fastai.metrics import mae,rmse
from helpers import all_of,fit,frame,learner,loaders,weights
from collab_ext.compare import paired
from collab_ext.metrics import measure_baselines
from collab_ext.validate import open_study

def quiet(learn, n=3):
    with learn.no_bar(),learn.no_logging(): return learn.solve(n)

@pytest.fixture(scope='module')
def ratings(): return simulate_ratings(60, 40, 1200).ratings

@pytest.fixture
def solved(ratings, tmp_path): return quiet(collab_learner(loaders(ratings), 4, path=tmp_path))

def numbered(df): return df.assign(user=pd.factorize(df.user)[0]+1, item=pd.factorize(df.item)[0]+1)

@pytest.fixture
def by_number(ratings, tmp_path): return quiet(collab_learner(all_of(numbered(ratings)), 4, path=tmp_path))

# ---- Rows and labels

def test_a_vocabulary_without_na_beside_tables_with_its_row(tmp_path):
    "fastai's tables begin with the row of unknown ids; without its label, each label would take its neighbour's row"
    learn = fit(learner(frame('ab','xyz'), tmp_path))
    bare = {k:v[1:] for k,v in learn.vocab.items()}
    with pytest.raises(ValueError, match="4 rows, but the vocabulary 'item' has 3 labels, and these do not begin with '#na#'"):
        match_embeds({k:v for k,v in weights(learn).items() if 'i_' in k}, bare, learn.vocab)
    with pytest.raises(ValueError, match="put '#na#' in front"): collab_learner(learn.dls, 3, pretrained=Pair(weights(learn), None, bare, {}, None), path=tmp_path)
    with pytest.raises(ValueError, match="put '#na#' in front"): save_pair(tmp_path/'w', weights(learn), bare)
    assert not (tmp_path/'w.pth').exists()
    padded = match_embeds(weights(learn), {k:[*v,'xxfake'] for k,v in bare.items()}, {k:v for k,v in bare.items()}) # a row for padding, behind
    assert torch.equal(padded['u_weight.weight'], weights(learn)['u_weight.weight'][:2])
    whole = match_embeds(weights(learn), dict(learn.vocab), learn.vocab)
    assert all(torch.equal(whole[k], v) for k,v in weights(learn).items())

def test_tables_that_are_no_tensors():
    state = {'u_weight.weight':np.zeros((3,2)), 'i_weight.weight':torch.zeros(3,2)}
    with pytest.raises(ValueError, match='`u_weight` is a.* ndarray, not a tensor: convert it'): match_embeds(state, [['#na#','a','b']]*2, [['#na#','a']]*2)
    state['u_weight.weight'] = [[0.,0.]]*3
    with pytest.raises(ValueError, match='`u_weight` is a list, not a tensor'): match_embeds(state, [['#na#','a','b']]*2, [['#na#','a']]*2)

# ---- Ranges

def test_a_net_keeps_its_range(tmp_path):
    df = frame('abc','xyz')
    src = fit(learner(df, tmp_path, use_nn=True))
    src.save('net')
    assert read_pair(tmp_path/'models/net').info['y_range']==[1.,5.]
    other = learner(df, tmp_path, use_nn=True, y_range=(0,10))
    before = weights(other)
    with pytest.raises(ValueError, match=r'y_range=\(1.0, 5.0\).*y_range=\(0.0, 10.0\)'): other.load('net')
    assert all(torch.equal(v, before[k]) for k,v in weights(other).items())
    learner(df, tmp_path, use_nn=True).load('net')
    with pytest.warns(UserWarning, match=r'trained with `y_range=\(1.0, 5.0\)`, and this learner has `y_range=\(0.0, 10.0\)`'):
        learner(df, tmp_path, use_nn=True, y_range=(0,10), pretrained='net')

def test_load_vocab_of_another_range_warns(tmp_path):
    df = frame('abc','xyz')
    fit(learner(df, tmp_path)).save('m')
    with pytest.warns(UserWarning, match=r'y_range=\(1.0, 5.0\)'): learner(df, tmp_path, y_range=(0,10)).load_vocab('m','m_vocab')
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        learner(df, tmp_path).load_vocab('m','m_vocab')

def test_fill_converts_another_range(ratings, tmp_path):
    "The same ratings under a wider sigmoid: the source predicts what it predicted"
    src = quiet(collab_learner(all_of(ratings), 4, y_range=(0.5,5.5), path=tmp_path), 8)
    moved = collab_learner(all_of(ratings), 4, y_range=(0,20), pretrained=src, fill='mean', path=tmp_path)
    a,b = [l.get_preds()[0] for l in (src,moved)]
    assert (a-b).pow(2).mean().sqrt()<.15

# ---- Ids of another type

def test_ids_of_another_type_to_exclude(by_number):
    with pytest.raises(ValueError, match="`exclude` holds 1 of 1 item that are unknown; '7' is of another type than the label 7: pass them as int"):
        by_number.recommend(1, exclude='7')
    with pytest.warns(UserWarning, match="`exclude` holds 1 of 2"): assert 3 not in by_number.recommend(1, k=40, exclude=[3,'7']).item.tolist()
    by_number.recommend(1, exclude=[99_999]) # unknown, and of the right type
    with pytest.raises(KeyError, match="'7' is of another type"): by_number.recommend(1, candidates=['7'])

@pytest.mark.parametrize('convert', [str, float])
@pytest.mark.parametrize('how', ['fold_in','grow'])
def test_ids_of_another_type_in_new_ratings(by_number, ratings, convert, how):
    more = numbered(ratings).iloc[:20]
    before,sizes = weights(by_number),by_number.vocab.sizes
    with pytest.raises(ValueError, match="Column 'item' holds .* is of another type than the label 1: pass them as int"):
        getattr(by_number, how)(more.assign(user='zoe', item=more.item.map(convert)))
    with pytest.raises(ValueError, match="Column 'user' holds .* is of another type than the label 1: pass them as int"):
        getattr(by_number, how)(more.assign(user=more.user.map(convert)))
    assert by_number.vocab.sizes==sizes and all(torch.equal(v, before[k]) for k,v in weights(by_number).items())

def test_ids_of_another_type_to_evaluate(by_number, ratings):
    test = numbered(ratings).iloc[:200]
    with pytest.raises(ValueError, match='`test` holds .* user that are unknown.* is of another type'):
        by_number.evaluate(test.assign(user=test.user.astype(str)), exclude_seen=False)
    with pytest.raises(ValueError, match='`test` holds .* item that are unknown.* is of another type'):
        by_number.evaluate(test.assign(item=test.item.astype(float)), exclude_seen=False)

# ---- Columns

def test_the_index_of_a_csv_is_no_user(tmp_path, ratings):
    ratings.head(50).to_csv(tmp_path/'r.csv') # with its index
    with pytest.raises(ValueError, match="'Unnamed: 0' has no name of its own, .*`index_col=0`"): CollabDataLoaders.from_csv(tmp_path/'r.csv')
    dls = CollabDataLoaders.from_csv(tmp_path/'r.csv', user_name='user', item_name='item', rating_name='rating', unknown='mean')
    assert dls.vocab.names==('user','item')

def test_a_rating_column_of_text_is_not_skipped(ratings):
    df = ratings.assign(rating=ratings.rating.astype(str))[['user','item','time','rating']]
    with pytest.raises(ValueError, match=r"Column 'rating' holds '.*', and ratings are numbers: convert it, for example with `pd.to_numeric"): loaders(df)
    assert loaders(df.assign(time=1.), rating_name='time').train_ds.rating_name=='time'

def test_a_width_that_a_net_does_not_look_at_is_told(ratings):
    dls = loaders(ratings)
    with pytest.warns(UserWarning, match=r'`n_factors=5` is the size of the hidden layer.*`emb_szs=\[5,5\]`'): net = collab_learner(dls, 5, use_nn=True).model
    assert net.layers[0][0].out_features==5
    with pytest.warns(UserWarning, match='nothing looks at `n_factors=5`'): collab_learner(dls, 5, use_nn=True, layers=[3])
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        collab_learner(dls, use_nn=True)
        collab_learner(dls, 5, use_nn=True, emb_szs=[5,5])

def test_pairs_in_both_parts_are_told(ratings):
    twice = pd.concat([ratings,ratings])
    with pytest.warns(UserWarning, match='in the validation set are in the training set, too.*`duplicates='): dls = loaders(twice)
    def keys(ds): return set(map(tuple, ds.ids.tolist()))
    n = sum(tuple(o) in keys(dls.train_ds) for o in dls.valid_ds.ids.tolist())
    with pytest.warns(UserWarning, match=f'{n} of the {len(dls.valid_ds)} pairs'): loaders(twice)
    for df,kw in ((ratings, {}), (twice, dict(duplicates='last'))):
        with warnings.catch_warnings():
            warnings.simplefilter('error', UserWarning)
            dls = loaders(df, **kw)
        assert not keys(dls.train_ds)&keys(dls.valid_ds)

def test_splitters_look_at_the_named_users(ratings):
    "Whatever the order of the columns, `user_name` names the users of a splitter that is not told"
    df = ratings[['time','item','user','rating']]
    names = dict(user_name='user', item_name='item', rating_name='rating')
    for splitter in (UserSplitter(whole=True, seed=0), LeaveLastSplitter('time'), UserFoldSplitters(3, seed=0)[0]):
        a,b = loaders(df, splitter=splitter, **names),loaders(ratings, splitter=splitter)
        assert same(a.valid_ds.ids, b.valid_ds.ids)

# ---- Errors of fastai, torch and users' own functions

def test_metrics_by_their_names(ratings):
    dls = loaders(ratings)
    with pytest.raises(ValueError, match="not 'rmse': .*`metrics=rmse`"): collab_learner(dls, metrics='rmse')
    with pytest.raises(ValueError, match="`cbs` holds a metric, 'recall@10': pass it as `metrics`"): collab_learner(dls, cbs=[RankMetrics()])
    with pytest.raises(ValueError, match="`cbs` holds a metric"): collab_learner(dls).fit(1, cbs=RankMetrics(5))
    assert len(collab_learner(dls, metrics=[rmse,mae,*RankMetrics()]).metrics)==4

def test_frames_are_predicted_and_validated(solved, ratings):
    some = ratings.head(100)
    with solved.no_bar():
        assert torch.equal(solved.get_preds(dl=some)[0], solved.get_preds(dl=solved.test_dl(some))[0])
        assert solved.validate(dl=some)==solved.validate(dl=solved.test_dl(some))
        with pytest.raises(KeyError, match="no column 'rating'.*nothing to compare predictions with"): solved.validate(dl=some[['user','item']])

def test_functions_that_fail_are_named(solved, ratings, tmp_path):
    dls = loaders(ratings.assign(item='new'+ratings.item.astype(str)).replace('newi1','i1'))
    def bad(o): return {'newi2':'i2'}[o]
    with pytest.raises(ValueError, match="`id_map` fails on the label 'i1' .KeyError"): collab_learner(dls, pretrained=solved, id_map=dict(item=bad), path=tmp_path)
    with pytest.raises(ValueError, match=r"`fill` fails \(ZeroDivisionError.*known rows of shape \(\d+, 4\)"):
        collab_learner(loaders(ratings.assign(user=ratings.user+1000)), pretrained=solved, fill=lambda known,n: 1/0, path=tmp_path)

def test_measure_takes_no_learner(solved, ratings):
    with pytest.raises(ValueError, match=r'not a DataFrame: .*`learn.evaluate\(test\)`'): measure(solved, ratings)

def test_storage_that_is_no_search(tmp_path):
    (tmp_path/'a.db').write_text('user,item,rating\n1,2,3\n')
    (tmp_path/'a.log').write_text('user,item,rating\n1,2,3\n')
    for name in ('a.db','a.log'):
        with pytest.raises(ValueError, match='is there already and holds no search'): open_study(dict(x=(0,1)), 'valid_loss', False, tmp_path/name)
    with pytest.raises(ValueError, match='is a folder'): open_study(dict(x=(0,1)), 'valid_loss', False, tmp_path)
    for name in ('b.db','b.log'):
        for _ in range(2): open_study(dict(x=(0,1)), 'valid_loss', False, tmp_path/name) # made, and found again

def test_the_rate_of_a_closed_form_is_refused(solved):
    with pytest.raises(TypeError, match='`base_lr` is for training by gradient'): solved.fine_tune(3, 5e-3)

def test_folding_in_again_is_quiet(solved, ratings):
    items = solved.vocab['item'][1:4]
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        for n in (1,2): solved.fold_in(pd.DataFrame(dict(user='zoe', item=items[:n+1], rating=[3.]*(n+1))))

# ---- Evaluation

def test_why_nothing_is_held_out(solved, ratings, tmp_path):
    none = quiet(collab_learner(loaders(ratings, valid_pct=0), 4, path=tmp_path))
    with pytest.raises(ValueError, match='there are no held-out ratings: .*`valid_pct` above 0'): none.evaluate()
    with pytest.raises(ValueError, match='none of the .* is `min_rating=9` or more, and the highest is'): solved.evaluate(min_rating=9)
    with pytest.raises(ValueError, match='all 10 held-out ratings are of unknown user'): solved.evaluate(ratings.head(10).assign(user='nobody', item=range(10)))
    with pytest.raises(ValueError, match='no held-out ratings'): solved.evaluate(ratings.head(0))

def test_novelty_of_guests_counts_all_users(solved, ratings):
    "One guest: novelty over the guests alone would be 0 bits for what they have, and the highest for all else"
    mine = ratings[ratings.user==ratings.user.iloc[0]].assign(user='zoe').drop_duplicates('item')
    given,test = mine.iloc[::2],mine.iloc[1::2]
    res = solved.evaluate(test, k=5, ratings=given, baselines=['popular'])
    shown = solved.recommend(ratings=given, k=5).item.tolist()
    train = solved.dls.train_ds
    pairs = pd.DataFrame(train.ids.numpy(), columns=['u','i']).drop_duplicates()
    known_by = pairs.i.value_counts()[[train.vocab['item'].index(o) for o in shown]]
    assert abs(np.log2(pairs.u.nunique()/known_by).mean()-res.novelty['model'])<1e-4

def test_itemknn_looks_at_what_guests_have(solved, ratings):
    "Guests who are copies of known users have the lists of these"
    train = solved.dls.train_ds
    df = train.decode(train.ids, rating=train.targ).drop_duplicates(['user','item'])
    users = sorted(df.user.unique())[:5]
    given = df[df.user.isin(users)]
    test = solved.dls.valid_ds.decode(solved.dls.valid_ds.ids)
    test = test[test.user.isin(users)&(test.item!=NA)].drop_duplicates()
    known,guests = [solved.evaluate(test, k=5, **kw).loc['itemknn'] for kw in (dict(), dict(ratings=given))]
    for o in ('recall','ndcg','mrr'): assert abs(known[o]-guests[o])<1e-6, o

def test_itemknn_looks_at_what_was_folded_in(solved, ratings):
    "Who was folded in with the ratings of a known user has the lists of that user"
    train,valid = solved.dls.train_ds,solved.dls.valid_ds
    u = valid.ids[valid.ids.min(1).values>0,0].mode().values.item()
    mine,test = [ds.decode(ds.ids[(ds.ids[:,0]==u)&(ds.ids[:,1]>0)]).drop_duplicates() for ds in (train,valid)]
    known = solved.evaluate(test, k=5, baselines=['itemknn']).loc['itemknn']
    solved.fold_in(mine.assign(user=777_777, rating=3.+np.arange(len(mine))%2))
    folded = solved.evaluate(test.assign(user=777_777), k=5, baselines=['itemknn']).loc['itemknn']
    alone = measure_baselines(train, UserItems(tensor([[u,1]]), train.vocab.sizes), names=['itemknn'], k=5)['itemknn'].shown
    assert alone[0].tolist()!=list(range(1,6)) # in the order of the rows, as where all scores are 0
    for o in ('recall','ndcg','mrr','coverage'): assert abs(known[o]-folded[o])<1e-6, o
    assert abs(known.novelty-folded.novelty)<.1 # one user more

def test_reliability_does_not_depend_on_the_order_of_ties():
    y = tensor([1.,2,3,4,5,1,2,3,4,5])
    pred = tensor([3.]*5+[4.]*5)
    a = reliability(pred, y, bins=4)
    for seed in range(5):
        order = torch.randperm(10, generator=torch.Generator().manual_seed(seed))
        b = reliability(pred[order], y[order], bins=4)
        pd.testing.assert_frame_equal(a, b)
        assert a.attrs==b.attrs
    assert a.rating.tolist()==[3.]*4

def test_pairs_are_of_the_same_users():
    a = pd.Series([1.,2,3,5], index=list('abcd'))
    b = pd.Series([1.,2,3,4], index=list('dcba'))
    assert paired(a, b)==paired(a.to_numpy(), np.array([4.,3,2,1]))
    with pytest.raises(ValueError, match="`a` and `b` are of different users: '.' is in only one"): paired(a, b.rename(dict(d='e')))
    with pytest.raises(ValueError, match="`b` has several numbers for the user 'd'"): paired(a, pd.Series([1.,2,3,4], index=list('ddba')))

def test_compare_where_whole_users_are_held_out(ratings, tmp_path):
    learn = quiet(collab_learner(loaders(ratings, splitter=UserSplitter(whole=True, seed=0)), 4, path=tmp_path))
    with pytest.raises(ValueError, match='All .* of the validation set are of unknown users or items, as where whole users are held out'): compare([learn,learn])

def test_errors_of_ratings_are_no_lists(solved):
    for o in ('rmse','valid_rmse'):
        with pytest.raises(ValueError, match=f"'{o}' is an error of ratings, and `compare` is of lists"): compare([solved,solved], metric=o)

def never(dls, **kw): raise AssertionError('trained')

@pytest.mark.parametrize('kw,said', [(dict(eval_kwargs=dict(min_rating=4)), "'min_rating', which is of rankings: pass `k`"),
    (dict(k=0), '`k` is the length of the lists'), (dict(k=5, eval_kwargs=dict(min_rating='4')), '`min_rating` is a number'),
    (dict(k=5, eval_kwargs=dict(exclude_seen='no')), '`exclude_seen` is True or False')])
def test_arguments_are_checked_before_anything_is_trained(ratings, kw, said):
    with pytest.raises(ValueError, match=said): cross_validate(ratings, never, **kw)
    with pytest.raises(ValueError, match=said): tune(ratings, never, dict(x=(0,1)), progress=False, **kw)

def test_names_of_metrics_are_checked_before_anything_is_trained(ratings):
    with pytest.raises(ValueError, match='did you mean `rmse`'): tune(ratings, never, dict(x=(0,1)), metric='valid_rmse', progress=False)
    with pytest.raises(ValueError, match='did you mean `ndcg@10`'): tune(ratings, never, dict(x=(0,1)), metric='ndcg', k=10, progress=False)

def test_loaders_are_split_already(ratings):
    for f in (partial(cross_validate), partial(tune, space=dict(x=(0,1)), progress=False)):
        with pytest.raises(TypeError, match='`splitters=3` is for a frame'): f(loaders(ratings), never, splitters=3)

# ---- Reports

def test_what_was_solved_anew_is_not_called_matched(ratings, tmp_path, monkeypatch):
    "A source that is dropped has no matched rows, whatever its labels"
    src = quiet(collab_learner(loaders(ratings), 4, path=tmp_path))
    monkeypatch.setattr('collab_ext.bayes_solver.best_start', lambda trial: ('scratch',2))
    learn = collab_learner(loaders(ratings), pretrained=src, path=tmp_path)
    n_users,n_items = [n-1 for n in learn.vocab.sizes]
    assert learn.transfer.began.way=='scratch'
    table = learn.report.to_frame()
    assert table.matched.tolist()==[0]*4 and table.solved.tolist()==[n_users,n_items]*2 and table.unused.tolist()==[n_users,n_items]*2
    assert not any(o.any() for o in learn.transfer.moved.values())

def test_closed_forms_count_sweeps(solved, ratings, tmp_path):
    learn = collab_learner(loaders(ratings), pretrained=solved, path=tmp_path)
    with learn.no_bar(),learn.no_logging(): learn.fine_tune(2)
    assert ' sweep' in repr(learn.report) and ' round' not in repr(learn.report)

def test_numbers_of_labels_are_without_na(by_number, ratings, tmp_path):
    by_number.save('m')
    other = collab_learner(all_of(numbered(ratings).query('user<50')), 4, path=tmp_path)
    n,m = [f'{a-1} user, {b-1} item' for a,b in (by_number.vocab.sizes,other.vocab.sizes)]
    with pytest.raises(ValueError, match=fr'another vocabulary \({n}\) than this learner \({m}\)'): other.load('m', strict_vocab=True)
    with pytest.raises(ValueError, match=r'none of the 2 new labels'): match_rows([NA,1,2], [NA,'a','b'], id_map={'x':1})

# ---- Untrained, and too old

def test_what_has_learned_nothing_says_so_once(ratings, tmp_path):
    dls = loaders(ratings)
    for ask in (lambda l: l.recommend(l.vocab['user'][1]), lambda l: l.similar_items('i1'), lambda l: l.export_bundle(tmp_path/'b')):
        for kw in (dict(), dict(y_range=(1,5))):
            learn = collab_learner(dls, 4, path=tmp_path, **kw)
            with pytest.warns(UserWarning, match='was not trained: what it says is chance'): ask(learn)
            with warnings.catch_warnings():
                warnings.simplefilter('error', UserWarning)
                ask(learn)
    fitted = fit(collab_learner(dls, 4, path=tmp_path))
    fitted.save('m')
    trained = [fitted, quiet(collab_learner(dls, 4, path=tmp_path)), collab_learner(dls, 4, path=tmp_path).load('m'),
        collab_learner(dls, pretrained=fitted, path=tmp_path), linear_learner(dls)]
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        for learn in trained: learn.recommend(learn.vocab['user'][1])

def test_learners_that_version_0_0_1_exported(tmp_path):
    "They name modules that are gone; `load_learner` would say that a variable `res` has no value"
    import types
    from fastai.learner import load_learner
    mod = types.ModuleType('collab_ext.collab')
    class CollabLearner: pass
    CollabLearner.__module__,CollabLearner.__qualname__ = mod.__name__,'CollabLearner'
    mod.CollabLearner = CollabLearner
    sys.modules[mod.__name__] = mod
    try: torch.save(CollabLearner(), tmp_path/'old.pkl')
    finally: del sys.modules[mod.__name__]
    with pytest.raises(RuntimeError, match="exported by version 0.0.1, and is read by that alone: open it there"): load_learner(tmp_path/'old.pkl')

# ---- Bundles

def test_bundles_tell_ids_of_another_type(by_number, tmp_path):
    b = Bundle(by_number.export_bundle(tmp_path/'b'))
    for ask in (lambda: b.recommend('7'), lambda: b.recommend(['7','8']), lambda: b.vector('7'), lambda: b.recommend(7, exclude=['7']),
        lambda: b.recommend(7, candidates='7'), lambda: b.similar_items('7')):
        with pytest.raises(ValueError, match="labels that are unknown; '7' is of another type than the label 7: pass them as int"): ask()
    with pytest.warns(UserWarning, match='`exclude` holds 1 of 2'): b.recommend(7, exclude=[3,'7'])
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        b.recommend('someone else')
        b.recommend(7, exclude=[99_999,'a new film'])
        assert b.recommend(7.).equals(b.recommend(7)) # pandas takes 7.0 for 7

def test_many_labels_are_looked_up_at_once(tmp_path, monkeypatch):
    "As one by one, whatever is among them, and without a search for each"
    from collab_ext import bundle
    n,rng = 20_000,np.random.default_rng(0)
    arrays = dict(u_weight=rng.normal(size=(3,4)), i_weight=rng.normal(size=(n,4)), u_bias=np.zeros(3), i_bias=np.zeros(n), u_any=np.zeros(5))
    arrays = {k:v.astype(np.float32) for k,v in arrays.items()}
    for labels in (list(range(n)), [f'i{o}' for o in range(n)]):
        write_bundle(tmp_path/'b', arrays, pd.DataFrame(dict(user=range(3))), pd.DataFrame(dict(item=labels)), dict(mean=0., y_range=None))
        b = Bundle(tmp_path/'b')
        some = [labels[i] for i in rng.permutation(n)[:9000]]
        shown = b.recommend(1, k=n, exclude=some)
        unknown = [o+n if isinstance(o, int) else f'{o}x' for o in some]
        with monkeypatch.context() as m: # a search for each raised and caught an error for each
            calls,_row = [],bundle._row
            m.setattr(bundle, '_row', lambda *args: calls.append(args) or _row(*args))
            assert (bundle._hidden(b, some+unknown)==bundle._hidden(b, some)).all() and len(calls)<200, len(calls) # some of them are looked at, for a hint
        assert set(shown.item)==set(labels)-set(some)
        for odd in (['nobody'], [None], [2**70], [1.5], [np.int64(3)]): # labels of other types, among many
            assert (bundle._hidden(b, some+odd)==bundle._hidden(b, some)|bundle._hidden(b, odd)).all()

def test_similar_items_of_some(solved, ratings, tmp_path):
    linear = linear_learner(loaders(ratings), path=tmp_path)
    for learn in (solved,linear):
        b = Bundle(learn.export_bundle(tmp_path/'b'))
        order = learn.similar_items('i1', 50).item.tolist()
        assert b.similar_items('i1', 50).item.tolist()==order
        some = order[::3]
        for o in (learn,b):
            assert o.similar_items('i1', 50, candidates=['i1',*some]).item.tolist()==some
            assert o.similar_items('i1', 50, exclude=some).item.tolist()==[x for x in order if x not in some]

@pytest.mark.parametrize('kind', ['ease','graph'])
def test_linear_bundles_say_what_they_kept(ratings, tmp_path, kind):
    learn = linear_learner(loaders(ratings), kind, path=tmp_path)
    full,some = [Bundle(learn.export_bundle(tmp_path/f'b{n}', n_links=n)) for n in (None,5)]
    n = len(full.items)
    one_each = torch.eye(n+1)[1:].numpy()
    links = (learn.model.of_history(sp.csr_matrix(one_each))-learn.model.base)[:,1:].abs()
    share = (links.topk(5).values.sum()/links.sum()).item()
    assert abs(some.info['links_kept']-share)<1e-3 and f'with {share:.0%} of what all weigh' in repr(some)
    assert full.info['links_kept']==1 and len(full.tables['link_item'])==n*n and 'weigh' not in repr(full)

def test_small_catalogues_keep_all_links():
    from collab_ext.export import _item_links
    class Model: # 1,496 items, as in the report of a user: 500 links each changed a quarter of the lists
        n_items,base = 1497,0.
        def of_history(self, x): return torch.from_numpy(x.toarray())
    links,kept = _item_links(Model(), None)
    assert kept==1 and len(links['link_item'])==1496**2

def test_linear_models_want_loaders():
    with pytest.raises(ValueError, match='make them first'): linear_learner(frame(range(3), range(4)))

# ---- Nothing there

def test_an_exported_learner_has_nothing_to_measure_by(solved, ratings, tmp_path):
    solved.export('e.pkl')
    there = load_learner(tmp_path/'e.pkl')
    with pytest.raises(ValueError, match='nothing to measure by'): there.validate()
    with pytest.raises(ValueError, match='nothing to train on'): there.lr_find()
    with there.no_bar(),solved.no_bar(): assert there.validate(dl=ratings)==solved.validate(dl=ratings)

def test_reliability_of_a_learner(solved):
    with pytest.raises(ValueError, match=r'reliability\(\*learn.get_preds\(\)\)'): reliability(solved)
    with solved.no_bar(): assert reliability(*solved.get_preds()).ratings.sum()==len(solved.dls.valid_ds)

def test_a_cut_that_leaves_nothing():
    few = pd.DataFrame(dict(user=[1,2,3], item=[1,2,3], rating=3.))
    with pytest.raises(ValueError, match='No rating is left for the target: 3 users and 3 items are too few'):
        cross_domain_split(few, source_pct=1.)

def test_order_numbers_are_no_users():
    orders = pd.DataFrame(dict(order=range(40), customer=[o%7 for o in range(40)], product=[o%9 for o in range(40)]))
    with pytest.warns(UserWarning, match="'order', the first one, is taken for users.*pass `user_name`"):
        CollabDataLoaders.from_interactions(orders, valid_pct=.5, unknown='mean')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        CollabDataLoaders.from_interactions(orders, user_name='customer', item_name='product')

def test_bundles_say_how_ratings_are_passed(solved, tmp_path):
    b = Bundle(solved.export_bundle(tmp_path/'b'))
    with pytest.raises(ValueError, match=r'dict\(zip\('): b.recommend(ratings=pd.DataFrame(dict(item=['i1'], rating=[5.])))
