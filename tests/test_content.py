"Rows from content: exact where the answer is known, honest about what is not, the same after saving, and unable to spoil known items"
import copy,json,shutil,subprocess,sys

import numpy as np,pandas as pd,pytest,torch

from collab_ext import CollabDataLoaders,Features,collab_learner,implicit_learner,linear_learner
from collab_ext.bundle import Bundle
from collab_ext.catalogue import Catalogue
from collab_ext.cold_start import excess_of_ratings,list_quality,measure_cold,split_items,work_scores
from collab_ext.content_prior import ContentPrior,Landmarks,kernel,kernel_times,moved_row,own_noise,parts_of,similarities,start_params,tag_weights
from collab_ext.content_prior import _solve_landmarks
from collab_ext.features import RecordError,import_transformers,sentence_vectors
from collab_ext.tower import copy_tower,list_net

names = np.array(list('abcdefgh'))

def items_of(n, seed=0, prefix='i'):
    rng = np.random.default_rng(seed)
    pairs = np.array([rng.choice(8, 2, replace=False) for _ in range(n)])
    return pd.DataFrame(dict(item=[f'{prefix}{j}' for j in range(n)], tags=['|'.join(o) for o in names[pairs]], size=rng.random(n))),pairs

def clicks_of(items, pairs, n_users=120, k=15, seed=0):
    rng = np.random.default_rng(seed)
    liking = 2*rng.normal(size=(n_users,8))[:,pairs].sum(2) + rng.gumbel(size=(n_users,len(items)))
    read = np.argsort(-liking, 1)[:,:k]
    return pd.DataFrame(dict(user=np.repeat(np.arange(n_users), k), item=items.item.to_numpy()[read.ravel()]))

@pytest.fixture(scope='module')
def solved():
    items,pairs = items_of(120)
    train,test = split_items(clicks_of(items, pairs), 'item', pct=.1, seed=0)
    learn = implicit_learner(CollabDataLoaders.from_interactions(train, valid_pct=0.), n_factors=8, loss='ials')
    with learn.no_bar(),learn.no_logging(): learn.solve(5)
    return learn.fit_content(items, n_search=100),items,train,test

def exact(features, items, rows, counts, new, params, mean):
    "What a Gaussian process says, written down plainly"
    blocks = [features.transform(o) for o in (items,new)]
    weights = tag_weights(blocks[0])
    a,b = [parts_of(o, weights) for o in blocks]
    K = kernel(similarities(a, a), params).astype(float)
    k = kernel(similarities(b, a), params).astype(float)
    inverse = np.linalg.inv(K+np.diag(np.exp(params[-1])*own_noise(counts)))
    spread = kernel(similarities(b, b), params).diagonal() - np.einsum('ij,jk,ik->i', k, inverse, k) + np.exp(params[-1])
    return mean+k@inverse@(rows-mean),spread

def some_rows(n=60, seed=1):
    items,pairs = items_of(n)
    rng = np.random.default_rng(seed)
    return items,rng.normal(size=(8,4))[pairs].sum(1)+.1*rng.normal(size=(n,4)),rng.integers(1, 50, n)

def test_the_exact_answer():
    items,rows,counts = some_rows()
    new = pd.concat([items_of(5, 7)[0], pd.DataFrame(dict(tags=[None,'never'], size=[None,1e9]))])
    prior = ContentPrior(Features(numbers='size', tags='tags'), n_search=50).fit_rows(items, rows, counts)
    mean,spread = exact(prior.features, items, rows, counts, new, prior.params, prior.mean)
    got = prior.expect(new, spread=True)
    assert np.allclose(got.rows, mean, atol=1e-3) and np.allclose(got.spread, spread, atol=1e-2)
    assert np.allclose(prior.embed(new), mean, atol=1e-3)

@pytest.mark.parametrize('n,block', [(1,100), (7,3), (90,20)])
@pytest.mark.parametrize('fields', [dict(tags='tags'), dict(tags='tags', numbers='size'), dict(categories='kind', tags='tags', numbers='size')])
def test_the_kernel_in_blocks(n, block, fields):
    "Fields in which many items are alike, and fields in which none are; also items without tags, and with several unknown ones"
    some = pd.concat([items_of(n, 7)[0], pd.DataFrame(dict(tags=[None,'never|not yet|a'], size=[None,1e9]))])
    items,some = [o.assign(kind=['x' if i%3 else 'y' for i in range(len(o))]) for o in (items_of(40)[0],some)]
    features = Features(**fields).fit(items)
    blocks = features.transform(items)
    weights = tag_weights(blocks)
    landmarks,part = parts_of(blocks, weights),parts_of(features.transform(some), weights)
    params = start_params(part)+np.random.default_rng(n).normal(size=3*len(part)+2)*.3
    W = np.random.default_rng(0).normal(size=(40,3)).astype(np.float32)
    got = kernel_times(part, Landmarks(landmarks), params, W, block)
    assert np.allclose(got, kernel(similarities(part, landmarks), params)@W, atol=2e-4)
    for k,A in part.items():
        if k!='numbers': assert np.allclose(np.asarray(A.multiply(A).sum(1)).ravel(), [1]*n+[float(k=='kind'), 1], atol=1e-6)

def test_landmarks_are_near_the_exact_answer():
    items,rows,counts = some_rows(150)
    new = items_of(30, 7)[0]
    def expected(m): return ContentPrior(Features(numbers='size', tags='tags'), max_landmarks=m, n_search=80).fit_rows(items, rows, counts).expect(new)
    full,part = expected(150),expected(100)
    assert np.abs(full.rows-part.rows).mean()<.15*np.abs(full.rows).mean()

def test_content_without_meaning_says_nothing():
    items,_,counts = some_rows(100)
    rows = np.random.default_rng(5).normal(size=(100,3))
    prior = ContentPrior(Features(numbers='size', tags='tags'), n_search=100).fit_rows(items, rows, counts)
    assert prior.explained.alone['all']<.1
    assert np.abs(prior.embed(items_of(20, 9)[0])-prior.mean).mean()<.6*np.abs(rows).mean()

def test_files(tmp_path):
    items,rows,counts = some_rows()
    prior = ContentPrior(Features(numbers='size', tags='tags'), n_search=50).fit_rows(items, rows, counts)
    text,arrays = prior.to_arrays()
    np.savez(tmp_path/'prior.npz', **arrays)
    new = items_of(5, 7)[0].to_dict('records')
    (tmp_path/'prior.json').write_text(json.dumps(dict(text=text, new=new)))
    code = f"""if 1:
        import sys,json,numpy as np
        from collab_ext.content_prior import ContentPrior
        d = json.load(open(r'{tmp_path/'prior.json'}'))
        prior = ContentPrior.from_arrays(d['text'], np.load(r'{tmp_path/'prior.npz'}', allow_pickle=False))
        assert not {{'torch','fastai'}} & {{*sys.modules}}
        np.save(r'{tmp_path/'rows.npy'}', prior.embed(d['new']))"""
    subprocess.run([sys.executable,'-c',code], check=True)
    assert np.array_equal(np.load(tmp_path/'rows.npy'), prior.embed(new))
    for text,arrays in (('{}',{}), ('[]',{}), (text,{}), ('x',{})):
        with pytest.raises(ValueError): ContentPrior.from_arrays(text, arrays)

def test_errors_of_records_count_from_the_first():
    items,rows,counts = some_rows()
    prior = ContentPrior(Features(numbers='size', tags='tags'), n_search=50).fit_rows(items, rows, counts)
    with pytest.raises(ValueError, match="record 7, field 'size'") as e: prior.embed([{}]*7+[dict(size='x')], bs=3)
    assert e.value.index==7
    assert prior.embed([]).shape==(0,4)

def test_ratings_move_a_row_to_the_least_squares_answer():
    rng = np.random.default_rng(0)
    X,true = np.c_[rng.normal(size=(500,3)), np.ones(500)],rng.normal(size=4)
    y = X@true
    far = [np.abs(moved_row(np.zeros(4), np.eye(4), X[:n], y[:n], .1)-true).max() for n in (0,3,30,500)]
    assert far[-1]<1e-3 and far[2]<far[0]
    assert np.allclose(moved_row(true, 1e-9*np.eye(4), X, -y, .1), true, atol=.1) # a sure prior does not move

def test_known_items_stay(solved):
    learn,items,train,test = solved
    before = learn.recommend(users=[0,5], k=5)
    learn.fit_content(items, n_search=100)
    pd.testing.assert_frame_equal(learn.recommend(users=[0,5], k=5), before)
    w = learn.model.i_weight.weight.detach().numpy()
    known = learn.content.known
    at = learn.vocab.rows(items.item[known].tolist(), 1).numpy()
    assert np.array_equal(learn.content.rows[known][:,:-1], w[at])

def test_content_beats_chance_and_popularity(solved):
    learn,items,train,test = solved
    quality = measure_cold(learn, test, k=5).ndcg
    assert quality['rows from content']>1.5*quality['random'] and quality['rows from content']>1.3*quality['popularity of the like']

def test_popularity_cannot_leak(solved):
    learn,items,train,test = solved
    kinds = Features.of(items.assign(kudos=range(len(items))), item='item').kinds
    assert set(kinds)=={'tags','size'}

def test_clicks_move_a_new_item(solved):
    learn,items,train,test = solved
    label = test.item.value_counts().index[0]
    blank = items[items.item==label].assign(tags=None)
    goal = learn.embed(items[items.item==label])[0,:-1]
    def close(o): return o[0,:-1]@goal/np.linalg.norm(o[0,:-1])/np.linalg.norm(goal)
    moved = learn.embed(blank, ratings=test[test.item==label])
    assert close(moved)>close(learn.embed(blank))
    with pytest.raises(KeyError, match='not among the works'): learn.embed(blank, ratings=train.head(2))

def test_ratings_of_new_items_are_predicted():
    items,pairs = items_of(100)
    rng = np.random.default_rng(0)
    df = pd.DataFrame([(u,i) for u in range(60) for i in rng.choice(100, 40, replace=False)], columns=['user','item'])
    y = 3+.6*rng.normal(size=(60,8))[:,pairs].sum(2)
    df['rating'] = np.clip(y[df.user,df.item]+.2*rng.normal(size=len(df)), 1, 5)
    df['item'] = items.item.to_numpy()[df.item]
    train,test = split_items(df, 'item', pct=.1, seed=1)
    learn = collab_learner(CollabDataLoaders.from_df(train, valid_pct=0.), n_factors=8)
    with learn.no_bar(),learn.no_logging(): learn.solve()
    learn.fit_content(items, n_search=90)
    new = items[items.item.isin(test.item)]
    shown = learn.recommend_works(new, k=len(new)).merge(test, on=['user','item'])
    error = np.sqrt(((shown.score.astype(float)-shown.rating)**2).mean())
    assert error<.75*test.rating.std()
    label = new.item.iloc[0]
    half = test[test.item==label]
    rows = learn.embed(new[new.item==label], ratings=half)
    assert np.isfinite(rows).all()

@pytest.mark.parametrize('n_landmarks', [12,30])
def test_rows_without_an_item_are_those_of_a_fit_without_it(n_landmarks):
    rng = np.random.default_rng(0)
    points,Y,noise = rng.normal(size=(30,3)),rng.normal(size=(30,2)),rng.uniform(.5, 3, 30)
    def bumps(a, b): return np.exp(-.5*((a[:,None]-b[None])**2).sum(2))
    near = points[:n_landmarks]
    every = n_landmarks==30
    _,_,errors = _solve_landmarks(None if every else bumps(points, near), bumps(near, near), noise, Y)
    for i in range(30):
        rest = np.arange(30)!=i
        if every: alpha,_,_ = _solve_landmarks(None, bumps(points[rest], points[rest]), noise[rest], Y[rest])
        else: alpha,_,_ = _solve_landmarks(bumps(points[rest], near), bumps(near, near), noise[rest], Y[rest])
        expected = bumps(points[i:i+1], points[rest] if every else near)@alpha
        assert np.allclose(Y[i]-expected, errors[i], atol=1e-8)

def rated_by_choice(n_users=300, n_items=400, seed=0):
    "Ratings by people who choose what they like, so that the best items are rated most; items have a tag of no meaning"
    rng = np.random.default_rng(seed)
    worth = rng.normal(size=n_items)
    chosen = np.argsort(-(.7*worth+rng.gumbel(size=(n_users,n_items))), 1)[:,:30]
    y = 3+.5*worth[chosen]+.3*rng.normal(size=chosen.shape)
    labels = np.array([f'i{j}' for j in range(n_items)])
    df = pd.DataFrame(dict(user=np.repeat(np.arange(n_users), 30), item=labels[chosen.ravel()], rating=y.ravel().clip(.5, 5.5)))
    return df,pd.DataFrame(dict(item=labels, tag=rng.choice(list('abc'), n_items)))

def errors_of_ratings(learn, works, rows, test):
    users = pd.unique(test.user)
    scores = work_scores(learn, learn.vocab.rows(list(users), 0), rows)
    return scores[pd.Index(users).get_indexer(test.user), pd.Index(works.item).get_indexer(test.item)] - test.rating.to_numpy()

def fitted_to_some(df, items, y_range, seed):
    train,test = split_items(df, 'item', pct=.3, seed=seed)
    learn = collab_learner(CollabDataLoaders.from_df(train, valid_pct=0.), n_factors=4, y_range=y_range)
    with learn.no_bar(),learn.no_logging(): learn.solve()
    return learn.fit_content(items, Features(tags='tag'), n_search=100),items[items.item.isin(test.item)].reset_index(drop=True),test

@pytest.mark.parametrize('y_range', [None,(0,6)])
def test_people_rate_what_they_like(y_range):
    df,items = rated_by_choice()
    raised,not_raised = [],[]
    for seed in range(4):
        learn,works,test = fitted_to_some(df, items, y_range, seed)
        prior = learn.content.prior
        raised.append(errors_of_ratings(learn, works, learn.embed(works), test).mean())
        not_raised.append(errors_of_ratings(learn, works, prior.expect(works).rows, test).mean())
    assert abs(np.mean(raised))<.07 and np.mean(not_raised)<np.mean(raised)-.1
    rows = learn.vocab.rows(list(items.item[learn.content.known]), 1)
    with_excess = prior.left_out+np.r_[np.zeros(4), prior.raised]
    assert abs(excess_of_ratings(learn, rows, with_excess.astype('f4')))<1e-3
    again = ContentPrior.from_arrays(*prior.to_arrays())
    assert np.array_equal(again.embed(works), learn.embed(works))

def test_clicks_have_no_mean(solved): assert solved[0].content.prior.raised==0

@pytest.mark.parametrize('n', [1,7,100,10**6])
def test_samples_of_ratings(n):
    df,_ = rated_by_choice(20, 40)
    ds = CollabDataLoaders.from_df(df, valid_pct=0.).train_ds
    ids,y = ds.sample(n)
    assert len(ids)==len(y) and 0<len(ids)<=n and ids.dtype==torch.int64
    if n>=len(df): assert torch.equal(ids, ds.ids.long()) and torch.equal(y, ds.targ)

def test_finding(solved):
    learn,items,train,test = solved
    found = learn.find_items('i0', k=30)
    assert 'i0' not in found.item.tolist() and found.similarity.is_monotonic_decreasing and (found.ratings==0).any()
    only = learn.find_items('i0', k=200, required={'tags':['A']}, excluded={'tags':'b'}, exclude='i1')
    assert only.tags.str.contains('a').all() and not only.tags.str.contains('b').any() and 'i1' not in only.item.tolist()
    assert learn.find_items('i0', k=5, candidates=['i3','i4','nothing']).item.isin(['i3','i4']).all()
    assert learn.find_items([dict(tags=['a','b']),'i0'], k=3, combine='best').shape[0]==3
    for bad,error in ((dict(liked=[]),ValueError), (dict(liked='no'),KeyError), (dict(liked='i0',combine='x'),ValueError),
        (dict(liked='i0',required='a'),ValueError), (dict(liked='i0',excluded={'x':'a'}),KeyError), (dict(liked=dict(size='x')),ValueError),
        (dict(liked='i0',k=0),ValueError), (dict(liked='i0',other=1),TypeError)):
        with pytest.raises(error): learn.find_items(**bad)

def test_the_index_finds_what_search_finds(solved):
    pytest.importorskip('usearch')
    learn,items,train,test = solved
    c = learn.content
    other = Catalogue(c.prior, c.items, c.item, c.known, c.rows[c.known], c.counts).build_index()
    strict = dict(required={'tags':['a','b']})
    for kw in ({},strict): pd.testing.assert_frame_equal(other.find('i0', k=5, **kw), c.find('i0', k=5, **kw))

def test_catalogues_grow(solved):
    learn,items,train,test = solved
    c = learn.content
    grown = Catalogue(c.prior, c.items, c.item, c.known, c.rows[c.known], c.counts)
    n = len(grown)
    new = items_of(5, 3, 'new')[0]
    grown.add(new).add(new)
    assert len(grown)==n+5 and np.array_equal(grown.rows[:n], c.rows)
    assert np.allclose(grown.rows[-5:], c.prior.embed(new))
    with pytest.raises(ValueError, match='more than once'): Catalogue(c.prior, pd.concat([items,items]), 'item', [], c.rows[:0], [])

def test_split_items():
    df = pd.DataFrame(dict(user=range(40), item=list(range(10))*4))
    a,b = split_items(df, 'item', pct=.3, seed=1)
    assert len(a)+len(b)==40 and b.item.nunique()==3 and not set(a.item)&set(b.item)

def test_list_quality():
    scores,relevant = np.array([[3.,2,1],[1,2,3]]),np.array([[1,0,0],[1,0,0]])
    got = list_quality(scores, relevant, k=2)
    assert got['recall']==.5 and abs(got['ndcg']-.5)<1e-6

def test_a_learner_without_content():
    items,pairs = items_of(30)
    learn = implicit_learner(CollabDataLoaders.from_interactions(clicks_of(items, pairs, 20, 5), valid_pct=0.), n_factors=4, loss='ials')
    for f in (lambda: learn.embed(items), lambda: learn.find_items('i0'), lambda: learn.recommend_works(items)):
        with pytest.raises(ValueError, match='fit_content'): f()

@pytest.mark.parametrize('loss', ['bpr','softmax','warp'])
def test_towers_train_by_any_loss_and_are_saved(loss, tmp_path):
    items,pairs = items_of(60)
    dls = CollabDataLoaders.from_interactions(clicks_of(items, pairs, 40, 8), valid_pct=0., n_neg=2, bs=64)
    def new(): return implicit_learner(dls, n_factors=4, loss=loss, path=tmp_path).add_tower(items, hidden=8)
    learn = new()
    tower = learn.model.i_weight.rows.tower
    before = [o.detach().clone() for o in tower.parameters()]
    with learn.no_bar(),learn.no_logging(): learn.fit(1)
    assert all(not torch.equal(a, b) for a,b in zip(before, tower.parameters()))
    assert learn.model.i_weight.rows.own.abs().max()>0
    learn.save('tower')
    again = new()
    again.load('tower')
    shown = [o.recommend(users=[0,1], k=3) for o in (learn,again)]
    pd.testing.assert_frame_equal(*shown)
    assert np.allclose(again.model.i_weight.rows.every().detach(), learn.model.i_weight.rows.every().detach(), atol=1e-6)

def test_towers_move_by_tags():
    items,pairs = items_of(40)
    clicks = clicks_of(items, pairs, 30, 6)
    a = implicit_learner(CollabDataLoaders.from_interactions(clicks, valid_pct=0.), n_factors=4).add_tower(items, hidden=8)
    there = items.assign(item='x'+items.item, tags=items.tags.str.replace('a','z'))
    b = implicit_learner(CollabDataLoaders.from_interactions(clicks.assign(item='x'+clicks.item), valid_pct=0.), n_factors=4).add_tower(there, hidden=8)
    share = copy_tower(b, a)['tags']
    assert abs(share-7/8)<1e-6
    la,lb = [o.content.prior.features.labels['tags'].o2i for o in (a,b)]
    wa,wb = [o.content.prior.tower.bags[0].weight for o in (a,b)]
    for o in 'bcdefgh': assert torch.equal(wa[la[o]], wb[lb[o]])

def test_own_rows_weigh_by_evidence():
    items,pairs = items_of(40)
    dls = CollabDataLoaders.from_interactions(clicks_of(items, pairs, 30, 6), valid_pct=0.)
    learn = implicit_learner(dls, n_factors=4).add_tower(items, hidden=8, evidence=5.)
    rows = learn.model.i_weight.rows
    counts = torch.as_tensor(learn.dls.train_ds.counts['item']).float()
    assert torch.allclose(rows.gate[:,0], counts/(counts+5))

def test_list_net_has_its_least_value_at_the_grades():
    grades = torch.tensor([[4.,2,1,0]])
    best = list_net(grades/grades.std(), grades)
    for _ in range(20): assert list_net(grades/grades.std()+torch.randn(1, 4), grades)>=best-1e-6

# --- what users bring

def test_ratings_that_move_nothing(solved):
    learn,items,_,test = solved
    new = items[items.item.isin(test.item)]
    with pytest.raises(ValueError, match='more than once'): learn.embed(pd.concat([new,new]), ratings=test)
    rated = collab_learner(CollabDataLoaders.from_df(rated_by_choice(40, 30)[0], valid_pct=0.), n_factors=2)
    with rated.no_bar(),rated.no_logging(): rated.solve()
    things = rated_by_choice(40, 30)[1]
    rated.fit_content(things, Features(tags='tag'))
    for bad in (np.nan,np.inf,'good'):
        asked = pd.DataFrame(dict(user=[0], item=['i0'], rating=[bad]))
        with pytest.raises(ValueError, match="Column 'rating' holds"): rated.embed(things[:1], ratings=asked)

def test_learners_without_rows_of_items():
    df,items = rated_by_choice(40, 30)
    learn = collab_learner(CollabDataLoaders.from_df(df, valid_pct=0.), n_factors=2, use_nn=True)
    with pytest.raises(ValueError, match='vectors and biases, and.*EmbeddingNN.*use_nn'): learn.fit_content(items)
    with pytest.raises(ValueError, match='vectors and biases'): linear_learner(CollabDataLoaders.from_interactions(df[['user','item']], valid_pct=0.)).fit_content(items)

def test_frames_that_do_not_fit(solved):
    learn,items,_,_ = solved
    with pytest.raises(ValueError, match="No item in `items` has ratings.*'i99'"): learn.fit_content(items.assign(item=range(len(items))))
    with pytest.raises(ValueError, match="`features` are"): learn.fit_content(items, 'tags')
    some = items[~items.item.isin(learn.vocab.labels[1][1:6])]
    with pytest.warns(UserWarning, match='5 items with ratings are not in `items`'): other = copy.copy(learn).fit_content(some, n_search=50)
    assert len(other.content)==len(some)

def test_measures_of_nothing(solved):
    learn,items,_,test = solved
    for bad in (test.assign(user='nobody'), test.assign(item='nothing'), test[:0]):
        with pytest.raises(ValueError, match='No row of `test`'): measure_cold(learn, bad)
    with pytest.raises(ValueError, match='`liked` is None'): learn.find_items(None)

def test_records_are_named_by_their_place(solved):
    learn,items,_,_ = solved
    with pytest.raises(RecordError, match='record 2, field .size.'): learn.find_items(['i0', dict(tags='a'), dict(size='large')])
    n = len(learn.content)
    fresh = copy.deepcopy(learn.content)
    assert len(fresh.add([dict(item='new', tags='a|b')]))==n+1
    with pytest.raises(ValueError, match='no item in row 0'): fresh.add([dict(tags='a')])

def test_known_works_keep_their_rows(solved):
    learn,items,_,_ = solved
    shown = learn.recommend_works(items, users=[0], k=len(items))
    u = learn.vocab.rows([0], 0)
    known = items[learn.content.known]
    own = learn.content.rows[learn.content.known]
    expected = dict(zip(known.item, work_scores(learn, u, own)[0]))
    got = shown.set_index('item').score
    assert np.allclose([got[o] for o in expected], [*expected.values()], atol=1e-5)

def test_stars_may_be_needed():
    df,items = rated_by_choice(60, 60)
    train,test = split_items(df, 'item', pct=.3, seed=0)
    learn = collab_learner(CollabDataLoaders.from_df(train, valid_pct=0.), n_factors=2)
    with learn.no_bar(),learn.no_logging(): learn.solve()
    learn.fit_content(items, Features(tags='tag'))
    a,b = measure_cold(learn, test, min_rating=3.5),measure_cold(learn, test[test.rating>=3.5])
    pd.testing.assert_frame_equal(a, b)

@pytest.mark.parametrize('clicks', [True,False])
def test_fold_in_begins_with_content(clicks):
    "Rows of new items are those of `embed` with their ratings, and the catalogue has them"
    items,pairs = items_of(80)
    if clicks: df = clicks_of(items, pairs, 60, 12)
    else: df,items = rated_by_choice(60, 80)
    cold = items.item[:8]
    train,new = df[~df.item.isin(cold)],df[df.item.isin(cold)]
    make = CollabDataLoaders.from_interactions if clicks else CollabDataLoaders.from_df
    learn = implicit_learner(make(train, valid_pct=0.), n_factors=4, loss='ials') if clicks else collab_learner(make(train, valid_pct=0.), n_factors=4)
    with learn.no_bar(),learn.no_logging(): learn.solve(4)
    some = new[new.user.isin(train.user)&new.item.isin(new.item.unique()[:3])]
    expected = learn.fit_content(items, n_search=60).embed(items[items.item.isin(some.item)], ratings=some)
    table = learn.fold_in(some)
    works = items.item[items.item.isin(some.item)]
    at = learn.vocab.rows(list(works), 1)
    got = np.c_[learn.model.i_weight.weight.detach().numpy()[at],learn.model.i_bias.weight.detach().numpy()[at]]
    assert np.allclose(got, expected, atol=1e-4)
    biases = table[table.of=='item'].set_index('label').bias
    assert np.allclose([biases[o] for o in works], expected[:,-1], atol=1e-4)
    place = learn.content.labels.get_indexer(works)
    assert learn.content.known[place].all() and np.allclose(learn.content.rows[place], expected, atol=1e-4)
    assert (learn.content.counts[place]==some.item.value_counts().reindex(works).to_numpy()).all()
    assert not learn.content.known[learn.content.labels.get_indexer(cold[~cold.isin(some.item)])].any()

def test_fold_in_of_items_that_nothing_is_said_of():
    df,items = rated_by_choice(60, 80)
    learn = collab_learner(CollabDataLoaders.from_df(df, valid_pct=0.), n_factors=4)
    with learn.no_bar(),learn.no_logging(): learn.solve(4)
    plain = copy.deepcopy(learn)
    learn.fit_content(items, n_search=60)
    new = df[:5].assign(item='unheard of')
    pd.testing.assert_frame_equal(learn.fold_in(new), plain.fold_in(new))
    assert len(learn.fold_in(df[:3].assign(user='somebody new')))==1

def test_bundles_keep_the_content_of_their_learner(solved, tmp_path):
    learn,items,_,test = solved
    new = [dict(tags='a|b', size=.5)]
    by_default = Bundle(learn.export_bundle(tmp_path/'a', items))
    assert np.allclose(by_default.embed(new), learn.embed(new), atol=1e-5) and set(test.item)<=set(by_default.items.item)
    assert Bundle(learn.export_bundle(tmp_path/'b', items, content=False)).content is None
    assert Bundle(learn.export_bundle(tmp_path/'c')).content is None
    with pytest.raises(ValueError, match='more than once'): learn.export_bundle(tmp_path/'d', pd.concat([items,items[:1]]))

# --- people of whom something is known

def people_and(clicks, n_users=200, n_items=80, seed=0):
    "Ratings or clicks by people whose town decides what they like"
    rng = np.random.default_rng(seed)
    town,kind = rng.integers(4, size=n_users),rng.integers(4, size=n_items)
    liking = 2.*(town[:,None]==kind)+.3*rng.normal(size=(n_users,n_items))
    chosen = np.argsort(-(liking*clicks+rng.gumbel(size=liking.shape)), 1)[:,:20]
    users = pd.DataFrame(dict(user=range(n_users), town=np.array(list('wxyz'))[town]))
    df = pd.DataFrame(dict(user=np.repeat(np.arange(n_users), 20), item=chosen.ravel()))
    return (df if clicks else df.assign(rating=2.5+np.take_along_axis(liking, chosen, 1).ravel())),users,kind

@pytest.mark.parametrize('kw', [dict(clicks=True), dict(clicks=False), dict(clicks=False, y_range=(0,7))])
def test_people_are_shown_what_people_like_them_like(kw):
    df,users,kind = people_and(kw['clicks'])
    old = df[df.user<180]
    if kw['clicks']: learn = implicit_learner(CollabDataLoaders.from_interactions(old, valid_pct=0.), n_factors=6, loss='ials')
    else: learn = collab_learner(CollabDataLoaders.from_df(old, valid_pct=0.), n_factors=6, y_range=kw.get('y_range'))
    with learn.no_bar(),learn.no_logging(): learn.solve(8)
    learn.fit_user_content(users[:180], n_search=150)
    new = users[180:]
    shown = learn.recommend_to(new, k=5)
    right = kind[shown.item.to_numpy().astype(int)]==np.array(['wxyz'.index(o) for o in new.town])[shown.person]
    assert right.mean()>.8 and (shown.groupby('person').size()==5).all()
    assert (shown.groupby('person').score.diff().dropna()<=1e-6).all()
    records = learn.recommend_to([dict(town=o) for o in new.town], k=5)
    pd.testing.assert_frame_equal(records, shown)
    only = learn.recommend_to(new[:1], k=50, candidates=[0,1,2], exclude=[1])
    assert set(only.item)=={0,2}
    if not kw['clicks']:
        rows = learn.vocab.rows(list(users.user[:180]), 0)
        at_once = learn.user_content.left_out+np.r_[np.zeros(6), learn.user_content.raised]
        assert abs(excess_of_ratings(learn, rows, at_once.astype('f4'), 0))<1e-2

def test_people_of_whom_nothing_is_known(solved):
    learn,items,train,_ = solved
    learn = copy.copy(learn)
    with pytest.raises(ValueError, match='call `fit_user_content`'): learn.embed_users([dict()])
    with pytest.raises(ValueError, match='No user in `users` has ratings'): learn.fit_user_content(pd.DataFrame(dict(user=['a','b','c'], town=list('xyx'))))
    with pytest.raises(KeyError, match='user'): learn.fit_user_content(pd.DataFrame(dict(town=list('xyx'))))
    with pytest.raises(TypeError, match='n_serch'): learn.fit_user_content(pd.DataFrame(dict(user=[0], town=['x'])), n_serch=3)

# --- models of sentences

@pytest.fixture(scope='module')
def sentence_folder(tmp_path_factory):
    "A tiny model of sentences with random weights, as sentence-transformers saves it"
    transformers = import_transformers()
    pytest.importorskip('sentence_transformers')
    from sentence_transformers import SentenceTransformer,models as st
    from tokenizers import Tokenizer,models,pre_tokenizers,trainers
    folder = tmp_path_factory.mktemp('sentences')
    tok = Tokenizer(models.WordLevel(unk_token='[UNK]'))
    tok.pre_tokenizer = pre_tokenizers.Whitespace()
    tok.train_from_iterator(['red blue green black'], trainers.WordLevelTrainer(special_tokens=['[UNK]','[PAD]']))
    transformers.PreTrainedTokenizerFast(tokenizer_object=tok, unk_token='[UNK]', pad_token='[PAD]').save_pretrained(folder/'bert')
    config = transformers.BertConfig(vocab_size=6, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    transformers.BertModel(config).save_pretrained(folder/'bert')
    SentenceTransformer(modules=[st.Transformer(str(folder/'bert')), st.Pooling(16)], device='cpu').save(str(folder/'model'))
    return folder/'model'

def test_sentences(sentence_folder):
    encoder = sentence_vectors(sentence_folder, bs=2)
    vecs = encoder(['red', '', 'blue green', ' \n', 'red'])
    assert vecs.shape==(5,16) and np.allclose(np.linalg.norm(vecs, axis=1), [1,0,1,0,1], atol=1e-5) and np.allclose(vecs[0], vecs[4], atol=1e-6)
    assert encoder([]).shape==(0,16) and encoder(['','']).sum()==0

def test_bundles_name_their_model_of_sentences(sentence_folder, tmp_path):
    items,pairs = items_of(60)
    items['about'] = items.tags.str.replace('|', ' ').str.replace('a', 'red').str.replace('b', 'blue')
    learn = implicit_learner(CollabDataLoaders.from_interactions(clicks_of(items, pairs), valid_pct=0.), n_factors=4, loss='ials')
    with learn.no_bar(),learn.no_logging(): learn.solve(3)
    encoder = sentence_vectors(sentence_folder)
    learn.fit_content(items, Features(text='about', encoder=encoder, item='item'), n_search=50)
    folder = learn.export_bundle(tmp_path/'b', items, content=True)
    with pytest.raises(ValueError, match="the encoder \"sentence_vectors\\('model'\\)\", which is in no file: pass it as `encoder`"): Bundle(folder).embed([dict(about='red')])
    assert len(Bundle(folder).recommend(0, k=3))==3
    new = [dict(about='red blue'), dict(about='')]
    assert np.allclose(Bundle(folder, encoder=encoder).embed(new), learn.embed(new), atol=1e-5)

def test_models_of_sentences_run_no_code(sentence_folder, tmp_path):
    shutil.copytree(sentence_folder, tmp_path/'m')
    weights = next((tmp_path/'m').rglob('model.safetensors'))
    torch.save(dict(a=torch.zeros(1)), weights.with_name('pytorch_model.bin'))
    weights.unlink()
    with pytest.raises(Exception, match='safetensors'): sentence_vectors(tmp_path/'m')
