"""Items that nobody has rated: how well are they ranked and rated by what they are, beside LightFM, cmfrec and content neighbours?

    python benchmarks/cold_start.py ml1m --seed 0 --peers     # ranking of 10 % of the movies of ml-1m, wholly held out
    python benchmarks/cold_start.py lightfm --seed 0          # the peers of `ml1m` alone
    python benchmarks/cold_start.py ratings --seed 0 --peers  # RMSE of ratings of such movies
    python benchmarks/cold_start.py jester --seed 0 --peers   # RMSE of 20 of 100 jokes, known by their text alone
    python benchmarks/cold_start.py people --seed 0           # ml-1m, 10 % of the users wholly held out, known by sex, age and occupation
    python benchmarks/cold_start.py ao3 --seed 0              # 40 works each to be ranked by how many tags they share, of tags that are not shown
    python benchmarks/cold_start.py transfer --seed 0         # ml-1m → latest-small, without the movies they share

Each section prints its table. Data are read from ../shared/data, or from the folder COLLAB_EXT_DATA."""
import argparse,os,time,warnings
os.environ.setdefault('OMP_NUM_THREADS', '1')
os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')
import numpy as np,pandas as pd,torch
from scipy import sparse
import speed
from transfer import here,machine
from collab_ext import CollabDataLoaders,Features,collab_learner,implicit_learner,measure_cold,split_items,token_vectors
from collab_ext.cold_start import list_quality,work_scores
from collab_ext.features import words
from collab_ext.tables import packed_rows,tables

torch.set_num_threads(1)

# ---- Data ----------------------------------------------------------------------------------------------------------

def with_year(movies):
    "Titles without the year, and the year"
    year = movies.title.str.extract(r'\((\d{4})\)\s*$')[0].astype(float)
    title = movies.title.str.replace(r'\s*\(\d{4}\)\s*$', '', regex=True)
    return movies.assign(title=title, year=year, words=title.map(words))

def ml1m_movies():
    movies = pd.read_csv(speed.data_dir()/'ml-1m/movies.dat', sep='::', engine='python', encoding='latin-1', names=['item','title','genres'])
    return with_year(movies)

def ml1m_ratings():
    df = pd.read_csv(speed.data_dir()/'ml-1m/ratings_no_timestamp.csv.gz')
    return df.set_axis(['user','item','rating'], axis=1)

def movie_features(): return Features(numbers='year', tags=['genres','words'], text='title', encoder=token_vectors(), item='item')

def quiet(learn): return learn.no_bar(),learn.no_logging()

def solved(learn, n=None):
    with learn.no_bar(),learn.no_logging(): return learn.solve(n)

def show(what, table, seconds=None):
    print(f"\n{what}" + (f", {seconds:.0f} CPU seconds" if seconds else ''))
    print(table.round(4).to_string(), flush=True)

# ---- Clicks --------------------------------------------------------------------------------------------------------

def relevance(test, users, works):
    "Which works each user has (users × works)"
    u,i = pd.Index(users).get_indexer(test.user),pd.Index(works).get_indexer(test.item)
    ok = (u>=0)&(i>=0)
    return sparse.csr_matrix((np.ones(ok.sum()), (u[ok],i[ok])), shape=(len(users),len(works)))

def lightfm_table(train, test, items, seed, n_factors=32, epochs=(30,)):
    "LightFM WARP with features of items: as documented, and with identities left out for the items of the test; after each of `epochs`"
    from lightfm import LightFM
    labels = pd.Index(items.item)
    users = pd.Index(train.user.unique())
    content = content_bags(items)
    identity = sparse.identity(len(items), dtype='f4', format='csr')
    is_cold = labels.isin(test.item)
    identity_known = sparse.diags((~is_cold).astype('f4')).tocsr()
    X = relevance(train, users, labels).tocoo()
    works = labels[is_cold]
    relevant = relevance(test[test.user.isin(users)], users, works)
    some = np.flatnonzero(np.diff(relevant.indptr)>0)
    def normed(F): return (sparse.diags(1/np.maximum(np.asarray(F.sum(1)).ravel(), 1e-9))@F).tocsr().astype('f4')
    hybrid = sparse.hstack([identity,content])
    known = sparse.hstack([identity_known,content])
    lines = {}
    for features,ways in ((hybrid, {'as documented':hybrid, 'identity left out for cold items':known}), (content, {'features alone':content})):
        model,done = LightFM(no_components=n_factors, loss='warp', random_state=seed, learning_rate=.05),0
        for n in epochs:
            model.fit_partial(X.astype('f4'), item_features=normed(features), epochs=n-done, num_threads=1)
            done = n
            _,user_vecs = model.get_user_representations()
            for name,asked in ways.items():
                bias,vecs = model.get_item_representations(normed(asked))
                scores = user_vecs[some]@vecs[is_cold].T + bias[is_cold]
                lines[f'LightFM {n_factors}, {name}',n] = list_quality(scores, relevant[some])
    return pd.DataFrame.from_dict(lines, orient='index')

def content_bags(items):
    "Labels of each movie for LightFM: genres, the four years it is of, words of the title (movies × labels)"
    years = (items.year//4*4).fillna(0).astype(int).astype(str)
    bags = [[*g.split('|'), 'y'+y, *(f'w{o}' for o in w)] for g,y,w in zip(items.genres, years, items.words)]
    vocab = {o:j for j,o in enumerate(sorted({o for b in bags for o in b}))}
    rows,cols = zip(*[(r,vocab[o]) for r,b in enumerate(bags) for o in b])
    return sparse.csr_matrix((np.ones(len(rows), dtype='f4'), (rows,cols)), shape=(len(items),len(vocab)))

def lightfm_everywhere(train, test, warm_test, items, seed, n_factors=32, epochs=30):
    "LightFM's hybrid, as documented: items of the training set, and all items, as `warm_and_all`"
    from lightfm import LightFM
    labels,users = pd.Index(items.item),pd.Index(train.user.unique())
    F = sparse.hstack([sparse.identity(len(items), dtype='f4', format='csr'),content_bags(items)]).tocsr()
    F = (sparse.diags(1/np.asarray(F.sum(1)).ravel())@F).tocsr().astype('f4')
    model = LightFM(no_components=n_factors, loss='warp', random_state=seed, learning_rate=.05)
    model.fit(relevance(train, users, labels).tocoo().astype('f4'), item_features=F, epochs=epochs, num_threads=1)
    asked = pd.Index(pd.unique(pd.concat([test.user,warm_test.user])))
    asked = asked[asked.isin(users)]
    _,U = model.get_user_representations()
    bias,V = model.get_item_representations(F)
    return where_ranked(U[users.get_indexer(asked)]@V.T+bias, asked, labels, test, warm_test, train)

def where_ranked(scores, users, labels, test, warm_test, train):
    "Items of the training set among themselves, and all items, without what a user has in training"
    scores[relevance(train, users, labels).nonzero()] = -np.inf
    warm = labels.isin(train.item)
    res = {}
    for what,held,kept in (('warm items',warm_test,warm), ('all items',pd.concat([test,warm_test]),np.ones(len(labels), dtype=bool))):
        relevant = relevance(held, users, labels[kept])
        some = np.diff(relevant.indptr)>0
        res[what] = list_quality(scores[some][:,kept], relevant[some])
    return pd.DataFrame.from_dict(res, orient='index')

def warm_and_all(learn, test, warm_test, train):
    "Items of the training set, and all items, ranked without what a user has in training"
    name = learn.content.item
    items = learn.content.items
    users = pd.Index(pd.unique(pd.concat([test.user,warm_test.user])))
    users = users[learn.vocab.rows(list(users), 0).numpy()>0]
    scores = work_scores(learn, learn.vocab.rows(list(users), 0), learn.content.rows)
    return where_ranked(scores, users, pd.Index(items[name]), test, warm_test, train)

def liked_movies(seed):
    "Training set, interactions of movies that were held out, held-out interactions of the others, and the movies"
    df = ml1m_ratings()
    df = df[df.rating>=4]
    items = ml1m_movies()
    items = items[items.item.isin(df.item)].reset_index(drop=True)
    train,test = split_items(df, 'item', seed=seed)
    some = np.random.default_rng(seed).random(len(train))<.1
    return train[~some],test,train[some],items

def lightfm(seed, peers=True):
    train,test,warm_test,items = liked_movies(seed)
    t = time.process_time()
    table = lightfm_table(train, test, items, seed).droplevel(1)
    show(f'ml-1m, {test.item.nunique()} movies held out, seed {seed}: LightFM, cold items among themselves, k=20', table, time.process_time()-t)
    show("LightFM as documented, other items", lightfm_everywhere(train, test, warm_test, items, seed))

def ml1m(seed, peers, n_factors=64):
    train,test,warm_test,items = liked_movies(seed)
    t = time.process_time()
    dls = CollabDataLoaders.from_interactions(train[['user','item']], valid_pct=0.)
    learn = solved(implicit_learner(dls, n_factors=n_factors, loss='ials'), 8)
    t1 = time.process_time()
    learn.fit_content(items, movie_features())
    t2 = time.process_time()
    show(f'ml-1m, {test.item.nunique()} movies held out, seed {seed}: cold items among themselves, k=20', measure_cold(learn, test))
    print(f'iALS {n_factors}: {t1-t:.0f} CPU seconds; content: {t2-t1:.0f}')
    print(learn.content.prior.explained.round(3).to_string())
    show('the same learner (warm items keep their rows, so these are what they are without content)', warm_and_all(learn, test, warm_test, train))
    if peers: lightfm(seed)

def tuned(seed, peers=True, epochs=(10,20,30), factors=(32,64)):
    "Everybody's settings chosen on a tenth of the training movies, then measured on the test's, for seeds 0 to `seed`"
    rows = []
    for o in range(seed+1):
        train,test,_,items = liked_movies(o)
        fit,valid = split_items(train, 'item', seed=100+o)
        known = items[items.item.isin(train.item)].reset_index(drop=True)
        tried,final = lightfm_table(fit, valid, known, o, epochs=epochs).ndcg,lightfm_table(train, test, items, o, epochs=epochs)
        for way,(_,e) in tried.groupby(level=0).idxmax().items(): rows.append(dict(seed=o, method=way, setting=f'{e} epochs', **final.loc[(way,e)]))
        k = max(factors, key=lambda k: own_row(fit, valid, known, k).ndcg)
        rows.append(dict(seed=o, method='rows from content', setting=f'iALS, {k} factors', **own_row(train, test, items, k)))
        print(pd.DataFrame(rows[-4:]).round(4).to_string(), flush=True)
        store_tuned(pd.DataFrame(rows))

def own_row(train, test, items, n_factors):
    "NDCG@20 and recall@20 of cold items by iALS and a prior from content"
    dls = CollabDataLoaders.from_interactions(train[['user','item']], valid_pct=0.)
    learn = solved(implicit_learner(dls, n_factors=n_factors, loss='ials'), 8)
    return measure_cold(learn.fit_content(items, movie_features()), test).loc['rows from content']

def store_tuned(df):
    "Means over the seeds, and how many times each peer's NDCG ours is, seed by seed"
    ours = df[df.method=='rows from content'].set_index('seed').ndcg
    rows = []
    for method,g in df.groupby('method', sort=False):
        times = ours/g.set_index('seed').ndcg
        rows.append([method, '; '.join(sorted(set(g.setting))), f'{g.ndcg.mean():.4f} ± {g.ndcg.std():.4f}', f'{g.recall.mean():.4f}', f'{times.mean():.2f} ({times.min():.2f}–{times.max():.2f})'])
    head = ['method', 'settings chosen', 'NDCG@20', 'recall@20', 'rows from content, times this']
    lines = ['| '+' | '.join(o)+' |' for o in (head, ['---']*len(head), *rows)]
    said = machine().replace('two processes of one thread each', 'one thread')
    about = (f"# Cold items, everybody tuned\n\n`python benchmarks/cold_start.py tuned --seed {df.seed.max()}`. {said}.\n\nml-1m, ratings of 4 and 5 are positive; {df.seed.nunique()} seeds, of which each holds "
        "out a tenth of the movies for the test, and of the others a tenth to choose settings by. Cold movies are ranked among themselves.\n\n")
    (here/'cold_start_tuned.md').write_text(about+'\n'.join(lines)+'\n')
    print('\n'.join(lines))

# ---- Ratings -------------------------------------------------------------------------------------------------------

def rmse(pred, y): return float(np.sqrt(np.mean((np.asarray(pred)-np.asarray(y))**2)))

def rating_table(train, test, items, features, scale, peers, **kwargs):
    "RMSE of ratings of items that were held out"
    test = test[test.user.isin(train.user)]
    items = items[items.item.isin(pd.concat([train.item,test.item]))].reset_index(drop=True)
    mean = train.rating.mean()
    user_mean = train.groupby('user').rating.agg(lambda o: (o.sum()+5*mean)/(len(o)+5))
    lines = {'mean':rmse(mean, test.rating), "user's mean":rmse(test.user.map(user_mean), test.rating)}
    dls = CollabDataLoaders.from_df(train, valid_pct=0.)
    learn = solved(collab_learner(dls, **kwargs)).fit_content(items, features)
    works = items[items.item.isin(test.item)].reset_index(drop=True)
    users = pd.unique(test.user)
    scores = work_scores(learn, learn.vocab.rows(list(users), 0), learn.embed(works))
    pred = scores[pd.Index(users).get_indexer(test.user), pd.Index(works.item).get_indexer(test.item)]
    lines['content prior'] = rmse(pred.clip(*scale), test.rating)
    if peers: lines.update(cmfrec_lines(train, test, items, features, scale))
    return pd.DataFrame(dict(rmse=lines)),learn

def cmfrec_lines(train, test, items, features, scale):
    from cmfrec import CMF
    X = features.transform(items).matrix().toarray()
    X = X[:,X.std(0)>0]
    X = (X-X.mean(0))/X.std(0)
    side = pd.DataFrame(X).assign(ItemId=items.item.to_numpy())
    data = train.set_axis(['UserId','ItemId','Rating'], axis=1)
    works = items.item[items.item.isin(test.item)].to_numpy()
    new = side.set_index('ItemId').loc[works].to_numpy()
    place = {o:j for j,o in enumerate(works)}
    res = {}
    for w_item in (.1,1.,10.):
        model = CMF(k=20, lambda_=10., w_item=w_item, nthreads=1, random_state=0)
        model.fit(X=data, I=side[side.ItemId.isin(train.item)])
        rows = new[[place[o] for o in test.item]]
        pred = np.concatenate([model.predict_new(u, I=r) for u,r in zip(np.array_split(test.user.to_numpy(), 50), np.array_split(rows, 50)) if len(u)])
        res[f'cmfrec, side information with weight {w_item:g}'] = rmse(np.clip(pred, *scale), test.rating)
    return res

def ratings(seed, peers):
    df = ml1m_ratings()
    train,test = split_items(df, 'item', seed=seed)
    t = time.process_time()
    table,_ = rating_table(train, test, ml1m_movies(), movie_features(), (1,5), peers, n_factors=20)
    show(f'ml-1m, ratings of {test.item.nunique()} movies held out, seed {seed}', table, time.process_time()-t)

def jester(seed, peers):
    folder = speed.data_dir()/'jester5k'
    df = pd.read_csv(folder/'ratings.csv').set_axis(['user','item','rating'], axis=1)
    jokes = pd.read_csv(folder/'jokes.csv').set_axis(['item','text'], axis=1)
    jokes = jokes.assign(words=jokes.text.map(words), length=jokes.text.str.len())
    features = Features(numbers='length', tags='words', text='text', encoder=token_vectors(), item='item')
    train,test = split_items(df, 'item', pct=.2, seed=seed)
    t = time.process_time()
    table,learn = rating_table(train, test, jokes, features, (-10,10), peers, n_factors=20)
    show(f'jester5k, ratings of 20 jokes held out, seed {seed}', table, time.process_time()-t)
    print(learn.content.prior.explained.round(3).to_string())

def people(seed, peers, k=20):
    "Users of ml-1m who are wholly held out: what they rate, and which movies they like, by what is known of them"
    users = pd.read_csv(speed.data_dir()/'ml-1m/users.dat', sep='::', engine='python', names=['user','sex','age','occupation','zip'])
    users = users.astype(dict(age=str, occupation=str))[['user','sex','age','occupation']]
    df = ml1m_ratings()
    train,test = split_items(df, 'user', seed=seed)
    test = test[test.item.isin(train.item)]
    new = users[users.user.isin(test.user)].reset_index(drop=True)
    features = Features(categories=['sex','age','occupation'], item='user')
    learn = solved(collab_learner(CollabDataLoaders.from_df(train, valid_pct=0.), n_factors=20)).fit_user_content(users[users.user.isin(train.user)], features)
    rows = learn.embed_users(new)
    at = learn.vocab.rows(test.item.tolist(), 1)
    V = packed_rows(tables(learn.model), 1)[at].numpy()
    who = pd.Index(new.user).get_indexer(test.user)
    pred = float(learn.model.mean) + (rows[who,:-1]*V[:,:-1]).sum(1) + rows[who,-1] + V[:,-1]
    item_mean = test.item.map(train.groupby('item').rating.agg(lambda o: (o.sum()+5*train.rating.mean())/(len(o)+5)))
    table = {'mean':rmse(np.full(len(test), train.rating.mean()), test.rating), "item's mean":rmse(item_mean, test.rating),
        'somebody unknown (no description)':rmse((pred-((rows[who]-rows.mean(0))*np.c_[V[:,:-1],np.ones(len(V))]).sum(1)).clip(1, 5), test.rating),
        'rows from descriptions':rmse(pred.clip(1, 5), test.rating)}
    show(f'ml-1m, ratings of {len(new)} users held out, seed {seed}', pd.DataFrame(dict(rmse=table)))
    liked,held = train[train.rating>=4],test[test.rating>=4]
    clicks = solved(implicit_learner(CollabDataLoaders.from_interactions(liked[['user','item']], valid_pct=0.), n_factors=64, loss='ials'), 8)
    shown = clicks.fit_user_content(users[users.user.isin(train.user)], features).recommend_to(new, k)
    works = pd.Index(clicks.vocab.labels[1][1:])
    relevant = relevance(held, pd.Index(new.user), works)
    ours = np.full(relevant.shape, -1.)
    ours[shown.person,works.get_indexer(shown.item)] = k-shown['rank']
    popular = np.tile(liked.item.value_counts().reindex(works).to_numpy(float), (len(new),1))
    some = np.diff(relevant.indptr)>0
    lines = {'popularity':list_quality(popular[some], relevant[some], k), 'rows from descriptions':list_quality(ours[some], relevant[some], k)}
    show(f'ml-1m, ratings of 4 and 5 of {some.sum()} such users, k={k}', pd.DataFrame.from_dict(lines, orient='index'))
    print(learn.user_content.explained.round(3).to_string())

# ---- Fan fiction ---------------------------------------------------------------------------------------------------

def shared_lists(works, field, n=20, seed=0):
    "For each work, the `n` that share most labels of `field`, and `n` others at random: rows and grades"
    tags = Features(tags=field, min_count=1).fit(works).transform(works).matrix()
    tags.data[:] = 1
    rng = np.random.default_rng(seed)
    rows,grades = [],[]
    for start in range(0, len(works), 1000):
        shared = (tags[start:start+1000]@tags.T).toarray()
        shared[np.arange(len(shared)),start+np.arange(len(shared))] = -1
        most = np.argpartition(-shared, n, 1)[:,:n]
        both = np.concatenate([most, rng.integers(len(works), size=most.shape)], 1)
        rows.append(both)
        grades.append(np.maximum(np.take_along_axis(shared, both, 1), 0))
    return np.concatenate(rows),np.concatenate(grades)

def graded_ndcg(scores, grades):
    "Mean NDCG of short lists with linear gains, as scikit-learn has it"
    discount = 1/np.log2(np.arange(scores.shape[1])+2)
    order = np.argsort(-scores, 1, kind='stable')
    gained = (np.take_along_axis(grades, order, 1)*discount).sum(1)
    best = (-np.sort(-grades, 1)*discount).sum(1)
    return float((gained/np.maximum(best, 1e-9))[best>0].mean())

def ao3_features():
    tags = ['fandoms','relationships','characters','category','warning']
    return Features(numbers=['words'], categories=['rating','authorIdx','language'], tags=tags, item='workId')

def unit(V): return V/np.maximum(np.linalg.norm(V, axis=1, keepdims=True), 1e-9)

class Lists:
    "Works that were asked for, and for each a list of works with grades"
    def __init__(self, asked, rows, grades): self.asked,self.rows,self.grades = asked,rows,grades
    def ndcg(self, scores): return graded_ndcg(scores, self.grades)
    def cosines(self, V):
        V = unit(V)
        return np.einsum('nk,nmk->nm', V[self.asked], V[self.rows])
    def products(self, parts):
        "Products of each pair's features, field by field: (lists, n, fields)"
        a,b = np.repeat(self.asked, self.rows.shape[1]),self.rows.ravel()
        def dots(A): return np.asarray(A[a].multiply(A[b]).sum(1)).ravel() if sparse.issparse(A) else np.exp(-((A[a]-A[b])**2).sum(1))
        return np.stack([dots(A) for A in parts.values()], 1).reshape(*self.rows.shape, -1)

def ao3_lists(works, cold, seed):
    "Lists of the works held out, among all; and lists of the others, among themselves"
    rows,grades = shared_lists(works, 'freeforms', seed=seed)
    asked,known = np.flatnonzero(cold),np.flatnonzero(~cold)
    own_rows,own_grades = shared_lists(works[~cold].reset_index(drop=True), 'freeforms', seed=seed)
    return Lists(asked, rows[asked], grades[asked]),Lists(known, known[own_rows], own_grades)

def linear_scores(train, test, parts):
    "A linear model of the products of each field, fitted to the grades"
    X,y = train.products(parts).reshape(-1, len(parts)),train.grades.ravel()
    X = np.c_[X, np.ones(len(X))]
    w = np.linalg.lstsq(X, y, rcond=None)[0]
    return test.products(parts)@w[:-1]

def tower_scores(train, test, blocks, seed, epochs, **kwargs):
    from collab_ext.tower import TensorBlocks,Tower,fit_lists
    torch.manual_seed(seed)
    data,tower = TensorBlocks(blocks),Tower(blocks, 65, hidden=64, **kwargs)
    tensors = [torch.from_numpy(o) for o in (train.asked,train.rows,train.grades)]
    fit_lists(tower, data, *tensors, epochs=epochs, lr=3e-3)
    with torch.no_grad(): vecs = torch.cat([tower(data, o) for o in torch.arange(len(data)).split(4096)])[:,:-1]
    return test.cosines(vecs.numpy())

def ao3(seed, peers, n_factors=64, epochs=6):
    from collab_ext.content_prior import parts_of,tag_weights
    works = pd.read_csv(speed.data_dir()/'ao3-ds9/works.csv')
    works['category'] = works.category.str.replace(', ', '|')
    cold = np.random.default_rng(seed).random(len(works))<.1
    test,train = ao3_lists(works, cold, seed)
    features = ao3_features().fit(works[~cold])
    blocks = features.transform(works)
    parts = parts_of(blocks, tag_weights(blocks))
    counted = {k:(v>0).astype(np.float32) if sparse.issparse(v) else v for k,v in parts.items()}
    lines = {'random':test.ndcg(np.random.default_rng(seed).random(test.grades.shape))}
    lines['shared labels'] = test.ndcg(test.products({k:v for k,v in counted.items() if k!='numbers'}).sum(2))
    lines['nearest in content'] = test.ndcg(test.products(parts).sum(2))
    lines['linear model of shared labels'] = test.ndcg(linear_scores(train, test, {**counted, **{f'unit {k}':v for k,v in parts.items()}}))
    for name,kw in (('tower, ListNet',dict(interactions=False)), ('tower with interactions, ListNet',dict(interactions=True))):
        t = time.process_time()
        lines[name] = test.ndcg(tower_scores(train, test, blocks, seed, epochs, **kw))
        print(f'{name}: {time.process_time()-t:.0f} CPU seconds', flush=True)
    pairs = works[['workId','freeforms']].dropna().assign(tag=lambda o: o.freeforms.str.casefold().str.split('|')).explode('tag')
    reads = pairs[~pairs.workId.isin(works.workId[cold])]
    reads = reads[reads.groupby('tag').workId.transform('size')>1]
    dls = CollabDataLoaders.from_interactions(reads[['tag','workId']], valid_pct=0.)
    learn = solved(implicit_learner(dls, n_factors=n_factors, loss='ials'), 8)
    learn.fit_content(works, features, max_landmarks=2000)
    lines['content prior (tags as readers)'] = test.ndcg(test.cosines(learn.embed(works)[:,:-1]))
    what = f'ao3-ds9: {len(test.asked)} works held out, 40 others each, graded by shared freeform tags that are not shown; seed {seed}'
    show(what, pd.DataFrame(dict(ndcg=lines)))
    print(learn.content.prior.explained.round(3).to_string())
    neighbours(learn, works, cold)

def neighbours(learn, works, cold, n=200, k=10):
    "Unseen works, embedded by an exported bundle: how many hidden tags do their nearest neighbours share with them?"
    import tempfile
    from collab_ext.bundle import Bundle
    fields = [*learn.content.prior.features.fields,'workId']
    asked = works[cold&works.freeforms.notna()][:n]
    others = works[~cold].reset_index(drop=True)
    with tempfile.TemporaryDirectory() as d: bundle = Bundle(learn.export_bundle(f'{d}/b', others[fields]))
    records = asked[fields].astype(object).where(asked[fields].notna(), None).to_dict('records')
    vecs = unit(bundle.embed(records)[:,:-1])
    tags = [set(str(o).casefold().split('|')) for o in others.freeforms]
    own = [set(o.casefold().split('|')) for o in asked.freeforms]
    near = np.argsort(-(vecs@unit(learn.embed(others)[:,:-1]).T), axis=1)[:,:k]
    chance = np.random.default_rng(0).integers(len(others), size=near.shape)
    shared = {what:np.mean([len(tags[j]&a) for a,row in zip(own, rows) for j in row]) for what,rows in (('the nearest',near),('at random',chance))}
    show(f'{len(asked)} unseen works: hidden tags shared with {k} others', pd.DataFrame(dict(tags=shared)))
    one = asked.iloc[0]
    print(f"For example {one.relationships or one.characters}, {one.freeforms}:")
    print(others.iloc[near[0][:5]][['relationships','characters','freeforms']].to_string(index=False, max_colwidth=60))

# ---- Transfer ------------------------------------------------------------------------------------------------------

def pair_of_works(learn, works, rows):
    "A source with rows for other works; its users get names that no one else has"
    pair = learn.as_pair()
    wgts = dict(pair.wgts)
    no_one = torch.zeros(1, rows.shape[1])
    all_rows = torch.cat([no_one, torch.from_numpy(rows)])
    wgts['i_weight.weight'],wgts['i_bias.weight'] = all_rows[:,:-1],all_rows[:,-1:]
    user,item = learn.vocab.names
    vocab = {user:['#na#',*(f'ml1m {o}' for o in learn.vocab.labels[0][1:])], item:['#na#',*works]}
    info = {k:v for k,v in pair.info.items() if k!='counts'}
    return pair._replace(wgts=wgts, vocab=vocab, info=info)

def transfer(seed, peers):
    same = pd.read_csv(next((speed.data_dir()/'pairs').glob('same_person__*')))
    shared = pd.read_csv(speed.data_dir()/'pairs/ml-1m__ml-latest-small-2016.csv')
    big = ml1m_ratings()
    big = big[~big.user.isin(same.ml1m_userId)]
    small = pd.read_csv(speed.data_dir()/'ml-latest-small-2016/ratings.csv').iloc[:,:3].set_axis(['user','item','rating'], axis=1)
    small = small[~small.item.isin(shared.iloc[:,1])]
    movies = with_year(pd.read_csv(speed.data_dir()/'ml-latest-small-2016/movies.csv').set_axis(['item','title','genres'], axis=1))
    movies = movies[movies.item.isin(small.item)].reset_index(drop=True)
    dls = CollabDataLoaders.from_df(big, valid_pct=0.)
    learn = solved(collab_learner(dls, n_factors=20)).fit_content(ml1m_movies(), Features(numbers='year', tags='genres', item='item'))
    source = pair_of_works(learn, movies.item.tolist(), learn.content.prior.expect(movies).rows)
    print(f'{len(small):,} ratings of {small.item.nunique():,} movies that ml-1m lacks')
    lines = {}
    test = small.sample(frac=.2, random_state=seed)
    rest = small.drop(test.index)
    for share in (.01,.05,.2):
        train = rest.sample(n=round(share*len(small)), random_state=seed)
        df = pd.concat([train,test], ignore_index=True)
        splitter = lambda _: (np.arange(len(train)),np.arange(len(train),len(df)))
        target = CollabDataLoaders.from_df(df, splitter=splitter, unknown='mean')
        y = test.rating.to_numpy()
        def error(o):
            with o.no_bar(): return rmse(o.get_preds()[0].numpy().clip(.5, 5), y)
        scratch = error(solved(collab_learner(target, n_factors=20)))
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            prior = collab_learner(target, pretrained=source)
            begun = error(prior)
            with prior.no_bar(),prior.no_logging(): prior.fine_tune(3)
        mean = rmse(train.rating.mean(), y)
        lines[f'{share:.0%}'] = {'from scratch':scratch, 'rows from content':begun, 'rows from content, fine-tuned':error(prior), 'mean':mean}
    show(f'ml-1m → latest-small without shared movies, RMSE, seed {seed}', pd.DataFrame(lines).T)

if __name__=='__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sections = dict(ml1m=ml1m, lightfm=lightfm, tuned=tuned, ratings=ratings, jester=jester, people=people, ao3=ao3, transfer=transfer)
    parser.add_argument('section', choices=sections)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--peers', action='store_true', help='also LightFM and cmfrec (minutes)')
    args = parser.parse_args()
    warnings.filterwarnings('ignore')
    sections[args.section](args.seed, args.peers)
