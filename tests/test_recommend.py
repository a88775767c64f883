"What is recommended, against scoring every pair; and bad questions"
from helpers import * # all of the package, and what the tests share
import numpy as np,pandas as pd,pytest,torch,warnings
from hypothesis import given,strategies as st
from collab_ext.metrics import *
from collab_ext.recommend import *
from helpers import frame,learner,loaders,same,weights

@pytest.fixture(scope='module')
def df(): return simulate_ratings(30, 25, 300).ratings

@pytest.fixture(scope='module')
def solved(df, tmp_path_factory):
    l = collab_learner(loaders(df, valid_pct=.2), 3, path=tmp_path_factory.mktemp('solved'))
    with l.no_bar(),l.no_logging(): l.solve(5)
    return l

def seen_of(l): return l.dls.train_ds.decode(l.dls.train_ds.ids)

def brute(l, user, k, exclude=True):
    "The best items, by predicting every pair"
    items = l.vocab['item'][1:]
    pairs = pd.DataFrame(dict(user=user, item=items))
    with l.no_bar(): pairs['score'] = l.get_preds(dl=l.test_dl(pairs))[0].numpy()
    if exclude:
        seen = seen_of(l)
        pairs = pairs[~pairs['item'].isin(seen['item'][seen.user==user])]
    return pairs.nlargest(k, 'score')

@pytest.mark.parametrize('exclude', [False,True])
@pytest.mark.parametrize('kind', ['dot','nn','solved'])
def test_as_by_scoring_every_pair(df, solved, kind, exclude, tmp_path):
    l = solved if kind=='solved' else learner(loaders(df), tmp_path, use_nn=kind=='nn')
    for user in l.vocab['user'][1:6]:
        want,got = brute(l, user, 7, exclude),l.recommend(user, 7, exclude_seen=exclude)
        np.testing.assert_allclose(got.score, want.score, atol=1e-4)
        assert got['rank'].tolist()==list(range(1, len(got)+1))
        assert not exclude or not set(got['item'])&set(seen_of(l)['item'][lambda o: seen_of(l).user==user])

@given(st.integers(1,40), st.integers(1,50))
def test_batch_size_does_not_matter(solved, bs, k):
    a,b = solved.recommend(k=k),solved.recommend(k=k, bs=bs)
    pd.testing.assert_frame_equal(a, b)

def test_one_is_as_all(solved):
    every = solved.recommend(k=4)
    for u in solved.vocab['user'][1:8]: np.testing.assert_allclose(solved.recommend(u, k=4).score, every[every.user==u].score, rtol=1e-4)
    assert list(every.user.unique())==solved.vocab['user'][1:]

def test_labels_keep_their_type(solved):
    r = solved.recommend([3,5], k=2)
    assert pd.api.types.is_integer_dtype(r.user) and isinstance(r['item'].iloc[0], str)

def test_candidates_and_block(solved):
    items = solved.vocab['item'][1:8]
    r = solved.recommend(k=20, candidates=items, exclude=items[:2])
    assert set(r['item']) <= set(items[2:])
    assert same(solved.recommend(3, candidates=items), solved.recommend(3, candidates=pd.Series(items)))

def test_items_frame_by_column_index_or_series(solved):
    items = solved.vocab['item'][1:]
    f = pd.DataFrame(dict(item=items, title=[f't{o}' for o in items], year=1999))
    for o in (f, f.set_index('item'), f.set_index('item').title):
        r = solved.recommend(3, 3, items=o)
        assert (r.title=='t'+r['item']).all()
    assert solved.recommend(3, 3, items=f[:1]).title.isna().any()

def test_nothing_changes(solved):
    was,vocab,prior = weights(solved),{k:list(v) for k,v in solved.vocab.items()},solved.prior
    solved.recommend(k=3)
    solved.recommend(ratings=frame(['x','y'], solved.vocab['item'][1:4]), k=3)
    solved.similar_items('i0')
    solved.evaluate()
    assert same(was, weights(solved)) and vocab=={k:list(v) for k,v in solved.vocab.items()}

def test_a_new_user_is_as_if_folded_in(df, solved, tmp_path):
    his = pd.DataFrame(dict(user=999, item=['i0','i1','i2','i3'], rating=[5.,4,2,1]))
    got = solved.recommend(ratings=his, k=5)
    solved.save('s')
    other = collab_learner(solved.dls, 3, path=solved.path).load('s')
    other.dls = loaders(df, valid_pct=.2)
    other.fold_in(his)
    want = other.recommend(999, k=9, exclude_seen=False)
    want = want[~want['item'].isin(his['item'])][:5]
    np.testing.assert_allclose(got.score, want.score, atol=2e-2)
    assert not set(got['item'])&set(his['item'])

def test_new_users_do_not_matter_to_each_other(solved):
    a = frame(['x'], solved.vocab['item'][1:5])
    both = pd.concat([a, frame(['y'], solved.vocab['item'][3:9])])
    one,two = solved.recommend(ratings=a, k=4),solved.recommend(ratings=both, k=4)
    np.testing.assert_allclose(one.score, two[two.user=='x'].score, atol=1e-4)

def test_nobody_is_like_themselves(solved):
    alike = solved.similar_items(['i0','i1'], k=99)
    assert not (alike.of==alike['item']).any() and (alike.of=='i0').sum()==len(solved.vocab['item'])-2
    v = torch.nn.functional.normalize(solved.model.weight(['i0',alike['item'][0]]), dim=1)
    assert alike.similarity[0]==pytest.approx((v[0]@v[1]).item(), abs=1e-5)

# ---- A list of what is in stock ----

def test_a_stock_list_has_unknown_ids(solved):
    items = solved.vocab['item'][1:6]
    with pytest.warns(UserWarning, match="2 of 7 `candidates` are unknown item .'new', 7.") as w: got = solved.recommend(3, candidates=[*items,'new',7], exclude_seen=False)
    assert len(w)==1 and same(got, solved.recommend(3, candidates=items, exclude_seen=False))
    with pytest.warns(UserWarning, match='`candidates` are unknown'): solved.evaluate(candidates=[*solved.vocab['item'][1:],'new'])
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert same(solved.recommend(3, exclude=['sold out',*items]), solved.recommend(3, exclude=items))
        assert same(solved.recommend(3, exclude='sold out'), solved.recommend(3))
    with pytest.raises(KeyError, match="1 of 1 `candidates` are unknown item .'new'.: none of them"): solved.recommend(3, candidates='new')

def test_titles_as_a_dict(solved):
    titles = {o:f't{o}' for o in solved.vocab['item'][1:]}
    r = solved.recommend(3, 3, items=titles)
    assert (r.title=='t'+r['item']).all()
    assert same(r, solved.recommend(3, 3, items=pd.Series(titles, name='title')))
    assert same(solved.recommend(3, 3, items={}).title.isna().tolist(), [True]*3)
    assert list(solved.similar_items('i0', 2, items=titles).title)==['t'+o for o in solved.similar_items('i0', 2)['item']]
    solved.explain(3, 'i1', items=titles)

def test_items_without_their_labels(solved):
    f = pd.DataFrame(dict(film=solved.vocab['item'][1:], title='t'))
    for call in (lambda: solved.recommend(3, items=f), lambda: solved.similar_items('i0', items=f), lambda: solved.explain(3, 'i1', items=f)):
        with pytest.raises(ValueError, match=r"`items` has no column 'item', and no labels as its index; its columns are \['film', 'title'\]"): call()
    with pytest.raises(ValueError, match='several columns'): solved.recommend(3, items=pd.DataFrame([['i0',1,2]], columns=['item','a','a']))
    with pytest.raises(ValueError, match='`items` is a frame'): solved.recommend(3, items=['a','b'])
    for labels in ([1,2], [1.5,None], [pd.Timestamp(0),pd.Timestamp(1)]):
        other = pd.DataFrame(dict(title=['a','b']), index=pd.Index(labels, name='id'))
        if isinstance(labels[0], pd.Timestamp):
            with pytest.raises(ValueError, match='`items`: The label'): solved.recommend(3, items=other)
        else: assert solved.recommend(3, 3, items=other).title.isna().all()

@pytest.mark.parametrize('names', [('rank','score'), (0,1), ('of','similarity'), ('user','contribution')])
def test_any_names_of_columns(df, names, tmp_path):
    l = collab_learner(loaders(df[['user','item','rating']].set_axis([*names,'rating'], axis=1)), 3, path=tmp_path)
    with l.no_bar(),l.no_logging(): l.solve(2)
    r = l.recommend(3, k=4)
    assert set(r[names[0]])=={3} and r[names[1]].isin(l.vocab.labels[1]).all() and len(r.columns)==4
    for f in (l.similar_items('i0'), l.explain(3, 'i1')): assert f[names[1]].isin(l.vocab.labels[1]).all()
    assert l.similar_users(3)[names[0]].isin(l.vocab.labels[0]).all()
    assert len(l.recommend(ratings=pd.DataFrame({names[0]:['x'], names[1]:['i0'], 'rating':[5.]}), k=2))==2

# ---- Bad questions ----

def test_unknown_items_are_named(solved):
    with pytest.raises(KeyError, match="unknown item .'nope'"): solved.similar_items(['i0','nope'])
    with pytest.raises(KeyError, match="unknown user .'zoe'"): solved.similar_users('zoe')
    with pytest.raises(KeyError, match="unknown item .'nope'"): solved.explain(3, 'nope')

def test_unknown_users(solved):
    with pytest.raises(KeyError, match="unknown user .'zoe'"): solved.recommend(['zoe',3], unknown='raise')
    with pytest.warns(UserWarning, match="1 unknown user .'zoe'"): r = solved.recommend(['zoe',3], k=3)
    assert r.user.tolist()==['zoe']*3+[3]*3
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        pop = solved.recommend(['zoe',3], k=3, unknown='popular')
    counts = seen_of(solved)['item'].value_counts()
    assert counts[pop['item'][0]]==counts.max()
    assert pop['item'][3:].tolist()==solved.recommend(3, k=3)['item'].tolist()
    with pytest.raises(ValueError, match="`unknown` is"): solved.recommend(3, unknown='sometimes')

def test_na_is_no_label(solved):
    with pytest.raises(KeyError): solved.similar_items('#na#')
    with pytest.raises(KeyError): solved.recommend('#na#', unknown='raise')

@pytest.mark.parametrize('k', [0,-1,2.5,'3',None])
def test_bad_k(solved, k):
    for f in (lambda: solved.recommend(3, k=k), lambda: solved.evaluate(k=k), lambda: solved.similar_items('i0', k=k)):
        with pytest.raises(ValueError, match='at least 1'): f()

def test_k_beyond_the_catalogue(solved):
    n = len(solved.vocab['item'])-1
    assert len(solved.recommend(3, k=10*n, exclude_seen=False))==n
    assert len(solved.similar_items('i0', k=10*n))==n-1
    assert np.isfinite(solved.similar_items('i0', k=10*n).similarity).all()

def test_empty(solved):
    with pytest.raises(ValueError, match='no item to choose from'): solved.recommend(3, candidates=[])
    with pytest.raises(ValueError, match='no item to choose from'): solved.recommend(3, candidates=['i0'], exclude=['i0'])
    with pytest.raises(ValueError, match='`users` is empty'): solved.recommend([])
    with pytest.raises(ValueError, match='either `users` or `ratings`'): solved.recommend(3, ratings=frame('x', ['i0']))

def test_whoever_has_seen_everything_is_shown_nothing(solved):
    mine = seen_of(solved)['item'][seen_of(solved).user==3].unique()
    with pytest.warns(UserWarning, match='1 user .3. has seen everything'): r = solved.recommend([3,5], candidates=mine, k=50)
    assert 3 not in set(r.user)
    with pytest.warns(UserWarning, match='has seen everything'): assert not len(solved.recommend(3, candidates=mine))

def test_nan(df, tmp_path):
    l = learner(loaders(df), tmp_path)
    with torch.no_grad(): l.model.u_weight.weight[2] = np.nan
    with pytest.raises(ValueError, match='DotBias gives NaN for 1 of'): l.recommend()
    assert len(l.recommend(l.vocab['user'][1], k=3))==3
    with pytest.raises(ValueError, match='NaN'): l.evaluate()

def test_new_ratings_that_make_no_sense(solved):
    good = frame(['x'], ['i0','i1'])
    for o in ('rating','user','item'):
        with pytest.raises(KeyError, match=f"`ratings` has no column '{o}'.*needs .'user', 'item', 'rating'") as e: solved.recommend(ratings=good.rename(columns={o:'x'}))
        assert '_name' not in str(e.value)
    with pytest.raises(ValueError, match='`ratings` is empty'): solved.recommend(ratings=good[:0])
    with pytest.raises(ValueError, match='holds nan'): solved.recommend(ratings=good.assign(rating=[1,np.nan]))
    with pytest.raises(ValueError, match='a frame with the columns'): solved.recommend(ratings=dict(x=1))
    with pytest.warns(UserWarning, match="unknown item .'nope'"): r = solved.recommend(ratings=frame(['x'], ['i0','nope']), k=3)
    assert len(r)==3

def test_of_several_ratings_of_an_item_the_last_counts(solved):
    twice = pd.DataFrame(dict(user='x', item=['i0','i1','i0'], rating=[1.,3,5]))
    assert same(solved.recommend(ratings=twice), solved.recommend(ratings=twice[1:]))

# ---- Why, and how good ----

@pytest.mark.parametrize('y_range', [None,(1,5)])
def test_the_parts_make_the_score(df, y_range, tmp_path):
    l = collab_learner(loaders(df, valid_pct=0), 3, y_range=y_range, path=tmp_path)
    with l.no_bar(),l.no_logging(): l.solve(8)
    for u in l.vocab['user'][1:4]:
        why = l.explain(u, 'i1')
        assert why.contribution.sum()+why.attrs['rest']==pytest.approx(why.attrs['score'], abs=1e-4)
        pred = l.recommend(u, candidates=['i1'], exclude_seen=False).score[0]
        assert pred==pytest.approx(to_rating(why.attrs['score'], y_range), abs=1e-4)
        assert set(why['item'])==set(df['item'][df.user==u])
        assert len(l.explain(u, 'i1', k=2))==2

def to_rating(z, y_range): return z if y_range is None else y_range[0]+(y_range[1]-y_range[0])/(1+np.exp(-z))

def test_a_part_is_what_its_rating_is_worth(df, tmp_path):
    "Raise one rating by one: the score moves by the derivative that `explain` implies"
    l = collab_learner(loaders(df, valid_pct=0), 3, path=tmp_path)
    with l.no_bar(),l.no_logging(): l.solve(8)
    u = l.vocab['user'][1]
    his = df[df.user==u][['user','item','rating']]
    more = his.assign(rating=his.rating+(his['item']==his['item'].iloc[0]))
    a,b = [l.recommend(ratings=o.assign(user='x'), candidates=['i1'], exclude_seen=False).score[0] for o in (his,more)]
    why = l.explain(u, 'i1').set_index('item').contribution[his['item'].iloc[0]]
    model = l.model
    j = l.vocab['item'].index(his['item'].iloc[0])
    asked = his.rating.iloc[0]-model.mean.item()-model.i_bias.weight[j].item()
    assert b-a==pytest.approx(why/asked, abs=1e-3)

def test_evaluate_counts(df, tmp_path):
    l = learner(loaders(df, valid_pct=0), tmp_path)
    test = pd.DataFrame(dict(user=[0,0,0,1,'zoe'], item=['i1','i1','nope','i2','i1'], rating=[5.,5,5,1,5]))
    res = l.evaluate(test, k=30, exclude_seen=False)
    left_out = dict(unknown_users_ratings=1, unknown_items_ratings=1, seen_ratings=0)
    assert res.attrs==dict(k=30, users=2, users_without=len(l.vocab['user'])-3, **left_out)
    per = l.evaluate(test, k=30, exclude_seen=False, per_user=True)
    assert per.recall.to_dict()=={0:.5, 1:1.}
    assert l.evaluate(test, k=30, min_rating=4, exclude_seen=False).attrs['users']==1
    assert list(l.evaluate(test, baselines='popular').index)==['model','popular']
    assert list(l.evaluate(test, baselines=False, auc=True).index)==['model']
    with pytest.raises(ValueError, match='No user has anything'): l.evaluate(test, min_rating=6)
    with pytest.raises(ValueError, match='needs ratings'): l.evaluate(test[['user','item']], min_rating=3)

def test_without_ratings_what_was_seen_is_hidden(solved, tmp_path):
    "An exported learner has no ratings, and still knows who saw what"
    from fastai.learner import load_learner
    solved.export('e.pkl')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        l = load_learner(solved.path/'e.pkl')
    assert l.recommend(3, k=5)['item'].tolist()==solved.recommend(3, k=5)['item'].tolist()

# ---- Who was folded in has seen things ----

def test_folded_in_ratings_are_seen(df, tmp_path):
    l = learner(loaders(df), tmp_path)
    with l.no_bar(),l.no_logging(): l.solve(3)
    mine = df[df.user==df.user.iloc[0]].assign(user='t')
    l.fold_in(mine)
    assert not set(l.recommend('t', k=500)['item'])&set(mine['item'])

def test_held_out_pairs_that_were_seen_are_noted(df, tmp_path):
    l = learner(loaders(df, valid_pct=0), tmp_path)
    with pytest.warns(UserWarning, match='are in the training set too'): res = l.evaluate(df[:20], baselines=False)
    assert res.attrs['seen_ratings']==len(df[:20].drop_duplicates(['user','item']))

def test_nothing_held_out_to_plot(df, tmp_path):
    l = learner(loaders(df, valid_pct=0), tmp_path)
    for f in (l.plot_scores,l.plot_user_errors):
        with pytest.raises(ValueError, match='nothing held out to plot'): f()

# ---- One item, one user, any loaders ----

def test_a_catalogue_of_one(tmp_path):
    l = learner(pd.DataFrame(dict(user=[1,2,3], item='only', rating=[3.,4,5])), tmp_path)
    res = l.similar_items('only', k=3)
    assert not len(res) and list(res.columns)==['of','rank','item','similarity']
    assert len(l.similar_items(['only','only'], items={'only':'t'}))==0
    assert len(l.similar_users(1, k=9))==2

def test_huge_ratings_are_explained(tmp_path):
    df = simulate_ratings(30, 25, 300).ratings
    df['rating'] *= 1e12
    l = collab_learner(loaders(df, valid_pct=0), 3, path=tmp_path)
    with l.no_bar(),l.no_logging(): l.solve(3)
    why = l.explain(3, 'i1')
    assert np.isfinite(why.contribution).all() and np.isfinite([why.attrs['score'],why.attrs['rest']]).all()
    assert why.contribution.sum()+why.attrs['rest']==pytest.approx(why.attrs['score'], rel=1e-3)

def test_fastai_loaders_are_evaluated(df, tmp_path):
    import fastai.collab
    l = collab_learner(fastai.collab.CollabDataLoaders.from_df(df, bs=64, seed=1, device='cpu'), 3, y_range=(1,5), path=tmp_path)
    res = l.evaluate(k=5)
    valid = l.dls.valid_ds.items
    vocab = l.vocab
    test = pd.DataFrame({o:[vocab[o][i] for i in valid[o]] for o in vocab}).assign(rating=l.dls.valid_ds.ys.to_numpy())
    assert same(res, l.evaluate(test, k=5)) and list(res.index)==['model','random','popular','bias','itemknn']
    assert l.evaluate(k=5, per_user=True).recall.mean()==pytest.approx(res.recall['model'])

def test_users_beside_the_baselines(solved):
    table = solved.evaluate(baselines=['popular','bias'])
    each = solved.evaluate(baselines=['popular','bias'], per_user=True)
    assert list(each.columns.unique(0))==['model','popular','bias']
    for o in table.index: assert each[o].ndcg.mean()==pytest.approx(table.ndcg[o])
    assert each.index.name=='user' and same(each['model'], solved.evaluate(per_user=True))

def test_names_of_baselines(solved):
    with pytest.raises(ValueError, match='`baselines` is one of.*did you mean `popular`'): solved.evaluate(baselines='popularity')

def test_features_of_items(solved):
    items = solved.vocab['item'][1:]
    alike = pd.DataFrame(dict(item=items, genre=1.))
    assert solved.evaluate(features=alike, baselines=False).diversity['model']==pytest.approx(0, abs=1e-6)
    apart = pd.DataFrame(np.eye(len(items)), index=items)
    assert solved.evaluate(features=apart, baselines='random').diversity.tolist()==pytest.approx([1,1])
    with pytest.raises(ValueError, match="Column 'genre' of `features` holds no numbers"): solved.evaluate(features=alike.assign(genre='x'))
    with pytest.raises(ValueError, match='`features` knows none of the items'): solved.evaluate(features=alike.assign(item=range(len(alike))))
    with pytest.raises(ValueError, match="`features` has several rows for the item 'i0'"): solved.evaluate(features=pd.concat([alike,alike[:1]]))
    with pytest.raises(ValueError, match='`features` is a frame'): solved.evaluate(features=[1])

@pytest.mark.parametrize('kind', ['item','user'])
def test_vectors_by_label(solved, kind):
    f = solved.vectors(kind)
    assert list(f.index)==solved.vocab[kind][1:] and f.index.name==kind and list(f.columns)==[0,1,2,'bias']
    label = f.index[4]
    np.testing.assert_allclose(f.loc[label].to_numpy()[:3], solved.model.weight([label], is_item=kind=='item')[0].detach())
    assert f.bias[label]==pytest.approx(solved.model.bias([label], is_item=kind=='item').item())
    with pytest.raises(ValueError, match="`kind` is one of 'user', 'item'"): solved.vectors('users')

def test_vectors_of_other_models(df, tmp_path):
    net = learner(loaders(df), tmp_path, use_nn=True)
    assert list(net.vectors('user').columns)==[0,1,2]
    l = linear_learner(CollabDataLoaders.from_interactions(df[['user','item']], device='cpu', seed=1), 'ease')
    assert list(l.vectors('item').index)==l.vocab['item'][1:]

def test_predict_names_what_it_misses(solved):
    for row in (pd.DataFrame(dict(userId=[3], movieId=['i0'])), dict(userId=3, movieId='i0')):
        with pytest.raises(KeyError, match=r"no column 'user', 'item'; the frame has \['userId', 'movieId'\]"): solved.predict(row)

def test_the_largest_losses(solved):
    worst = solved.top_losses(5, items={'i0':'t'})
    valid = solved.dls.valid_ds
    with solved.no_bar(): pred = solved.get_preds()[0]
    loss = (pred-valid.targ)**2
    np.testing.assert_allclose(worst.loss, loss.sort(descending=True).values[:5], rtol=1e-4)
    from fastai.interpret import Interpretation
    with solved.no_bar(): interp = Interpretation.from_learner(solved)
    with pytest.raises(NotImplementedError, match='learn.top_losses'): interp.plot_top_losses(3)
