"Ranking: this library beside `implicit`, LightFM, EASE and simple baselines, each tuned with the same number of trials on a validation part"
import argparse,json,os,platform,sys,tempfile,time,warnings
os.environ.setdefault('OMP_NUM_THREADS', '1')
from datetime import datetime
from importlib.metadata import PackageNotFoundError,version
from importlib.util import find_spec
import numpy as np,pandas as pd,torch
from pathlib import Path
from collab_ext import *
from collab_ext.tables import side
from collab_ext.rank import *
from collab_ext.baselines import *
from collab_ext.metrics import *
from collab_ext.recommend import *
from collab_ext.implicit import *
from collab_ext.linear import *
from collab_ext.bundle import Bundle
from fastai.torch_core import set_seed

here = Path(__file__).resolve().parent
cols = ['user','item','rating']

# ---- Reading -------------------------------------------------------------------------------------------------------

def data_dir(arg):
    "The folder of the data, or an explanation of where it should be"
    res = Path(arg or os.environ.get('COLLAB_EXT_DATA') or here.parent.parent/'shared/data')
    missing = [o for o in ('ml-100k','ml-1m','gowalla') if not (res/o).is_dir()]
    if not missing: return res
    sys.exit(f"No {', '.join(missing)} in {os.path.relpath(res)}: pass the folder of the data as --data, or in the environment variable COLLAB_EXT_DATA")

def movielens(data, name):
    if name=='ml-100k': return pd.read_csv(data/name/'u.data', sep='\t', names=[*cols,'time'])[cols]
    return pd.read_csv(data/'ml-1m/ratings_no_timestamp.csv.gz').set_axis(cols, axis=1)

def gowalla(data, part):
    rows = [[int(o) for o in l.split()] for l in open(data/'gowalla'/f'{part}.txt')]
    return pd.DataFrame([(u,i) for u,*items in rows for i in items], columns=cols[:2]).assign(rating=1.)

def stratified(df, seed=42, ratio=.75):
    "`python_stratified_split(filter_by='item')` of recommenders: the first `ratio` of each item's ratings, in random order"
    df = df.assign(rand=np.random.RandomState(seed).rand(len(df))).sort_values(['item','rand'])
    first = df.groupby('item').cumcount() < np.round(ratio*df.groupby('item')['item'].transform('size'))
    return df[first][cols],df[~first][cols]

def by_user(df, seed=0):
    train,valid = UserSplitter(valid_pct=.2, seed=seed)(df)
    return df.iloc[train],df.iloc[valid]

def loaders(train, test):
    "Both parts, under the vocabulary of the training part"
    cut = lambda _: (range(len(train)), range(len(train),len(train)+len(test)))
    return CollabDataLoaders.from_df(pd.concat([train,test]), splitter=cut, unknown='mean')

# ---- Methods: from loaders and parameters to something with scores --------------------------------------------------

class Vectors:
    "Scores of users' and items' vectors"
    def __init__(self, u, v, b=0.): self.u,self.v,self.b = *[torch.as_tensor(np.ascontiguousarray(o)) for o in (u,v)],torch.as_tensor(b)
    def scores(self, users): return self.u[users]@self.v.T+self.b

def matrix(dls): return UserItems(dls.train_ds.ids, dls.vocab.sizes).csr()

def als(dls, factors=64, alpha=10., reg=.1, iterations=15):
    from implicit.als import AlternatingLeastSquares
    m = AlternatingLeastSquares(factors, regularization=reg, alpha=alpha, iterations=iterations, random_state=0, num_threads=threads)
    m.fit(matrix(dls), show_progress=False)
    return Vectors(m.user_factors, m.item_factors)

def bpr(dls, factors=64, lr=.05, reg=.01, iterations=100):
    from implicit.bpr import BayesianPersonalizedRanking
    m = BayesianPersonalizedRanking(factors, learning_rate=lr, regularization=reg, iterations=iterations, random_state=0, num_threads=threads)
    m.fit(matrix(dls), show_progress=False)
    return Vectors(m.user_factors, m.item_factors)

def warp(dls, factors=64, lr=.05, alpha=1e-6, epochs=30):
    from lightfm import LightFM
    m = LightFM(factors, loss='warp', learning_rate=lr, user_alpha=alpha, item_alpha=alpha, random_state=0)
    m.fit(matrix(dls).tocoo(), epochs=epochs, num_threads=threads)
    return Vectors(m.user_embeddings, m.item_embeddings, m.item_biases)

def ease(dls, ridge=500.): return linear_learner(dls, ridge=ridge, ridge_pop=0., user_pow=0., item_pow=0., value_weight=0.).model
def ours_linear(dls, **kwargs): return linear_learner(dls, **kwargs).model
def ours_graph(dls, **kwargs): return linear_learner(dls, 'graph', **kwargs).model

def graph_factors(dls, n_factors):
    w = linear_factors(linear_learner(dls, 'graph'), n_factors).wgts
    return Vectors(w['u_weight.weight'], w['i_weight.weight'])

def quiet(learn, f, *args, **kwargs):
    with learn.no_bar(),learn.no_logging(): getattr(learn, f)(*args, **kwargs)
    return learn

def ours_ials(dls, n_factors=64, epochs=10, **kwargs):
    return quiet(implicit_learner(dls, n_factors, loss=IALSLoss(**kwargs)), 'solve', epochs).model

def ours_ccl(dls, n_factors=64, n_neg=1000, margin=.8, weight=300., epochs=20):
    "Trained factors; made without a validation set, for which negatives would be drawn in every epoch"
    ds = dls.train_ds
    user,item = dls.vocab.names
    clicks = CollabDataLoaders.from_interactions(ds.decode(ds.ids), user, item, n_neg=n_neg, valid_pct=0, vocab=dls.vocab)
    learn = implicit_learner(clicks, n_factors, loss_func=CCLLoss(margin, weight), cbs=Fused(threads=threads))
    return quiet(learn, 'fit_one_cycle', epochs).model

# ---- Tuning --------------------------------------------------------------------------------------------------------

def logu(lo, hi): return lambda rng: float(np.exp(rng.uniform(np.log(lo), np.log(hi))))
def one(*xs): return lambda rng: xs[rng.integers(len(xs))]

peers = {'implicit ALS':(als, dict(factors=one(64,128,256), alpha=logu(1,60), reg=logu(.01,100))),
    'implicit BPR':(bpr, dict(factors=one(64,128), lr=logu(.02,.2), reg=logu(.001,.05), iterations=one(50,100,200))),
    'LightFM WARP':(warp, dict(factors=one(64,128), lr=logu(.02,.1), alpha=logu(1e-7,1e-4), epochs=one(15,30)))}
closed = {'EASE':(ease, dict(ridge=logu(100,2000)))}
mine = {'here: iALS':(ours_ials, dict(n_factors=one(32,64), alpha0=logu(.005,.5), reg=logu(.0005,.05)))}
mine_linear = {'here: linear':(ours_linear, dict(ridge=logu(100,800),
    ridge_pop=one(.6,1.,2.,3.), user_pow=one(.2,.3,.5), item_pow=one(0.,.1,.2), value_weight=one(0.,.05,.1)))}
mine_graph = {'here: graph':(ours_graph, dict(rank=one(512,1024), low_pass=one(.1,.2,.4), sharpen=one(0.,.5), user_pow=one(.2,.3,.4), item_pow=one(.3,.4,.5)))}
fixed = {'GF-CF':(ours_graph, dict(rank=256, low_pass=.3, sharpen=0., user_pow=.5, item_pow=.5)), # as published
    'here: 256 factors of the graph':(graph_factors, dict(n_factors=256)),
    'here: cosine contrastive loss, 64 factors':(ours_ccl, {})}
small = {'implicit BPR':(bpr, {**peers['implicit BPR'][1], 'iterations':one(50,100)}), 'LightFM WARP':(warp, {**peers['LightFM WARP'][1], 'epochs':one(10,20)}),
    'here: iALS':(ours_ials, {**mine['here: iALS'][1], 'n_factors':one(128,256), 'alpha0':logu(.001,.05)})} # where there is more to train on
spaces = dict(gowalla={**mine_graph, **fixed, **peers, **mine, **small}, default={**peers, **closed, **mine, **mine_linear})

def score(dls, model, k, n=None):
    "Metrics of `model` on the validation part of `dls`; of `n` users, if there are more"
    sizes = dls.vocab.sizes
    seen,rel = UserItems(dls.train_ds.ids, sizes),UserItems(dls.valid_ds.ids, sizes)
    lost = torch.bincount(dls.valid_ds.ids[dls.valid_ds.ids[:,1]==0,0].long(), minlength=sizes[0])*(torch.arange(sizes[0])>0)
    n_rel = rel.count+lost
    if n and (n_rel>0).sum()>n: n_rel = n_rel*torch.zeros(len(n_rel)).index_fill_(0, (n_rel>0).nonzero()[:,0][torch.randperm((n_rel>0).sum().item(),
        generator=torch.Generator().manual_seed(0))[:n]], 1).long()
    return measure(model, rel, seen, k, n_rel=n_rel).mean

def diverged():
    "The errors by which peers say so; numbers that are not finite are a `ValueError` in LightFM, and here"
    from implicit.recommender_base import ModelFitError
    return ModelFitError,ValueError

def tune(name, f, space, dls, k, trials, n=5000):
    "The best of `trials` random settings on the validation part"
    rng,res,t = np.random.default_rng(0),[],time.time()
    for _ in range(trials):
        kw = {o:g(rng) for o,g in space.items()}
        set_seed(0)
        try: found = float(score(dls, f(dls, **kw), k, n).ndcg)
        except diverged() as e:
            print(f'  {name}: {e!r}')
            found = 0.
        res.append((found, kw))
        print(f"  {name}: {res[-1][0]:.4f} {kw} ({time.time()-t:.0f} s)", flush=True)
    return max(res, key=lambda o: o[0])

def stored(section): return here/f'ranking_{section}.json'

def tuned(section, dls, methods, k, trials):
    "Parameters of each method, from the file of an earlier run where it has them"
    file = stored(section)
    best = json.loads(file.read_text()) if file.exists() else {}
    for name,(f,space) in methods.items():
        if name in best or trials==0: continue
        chosen = any(map(callable, space.values()))
        best[name] = dict(zip(('valid','params','trials'), (*tune(name, f, space, dls, k, trials), trials))) if chosen else dict(params=space, trials=0)
        file.write_text(json.dumps(best, indent=1))
    return best

def compare(dls, methods, best, k):
    "Train with all training data and measure on the test part"
    rows = {}
    for name,(f,_) in methods.items():
        if name not in best: continue
        set_seed(0)
        t = time.time()
        model = f(dls, **best[name]['params'])
        rows[name] = dict(score(dls, model, k), seconds=time.time()-t)
        print(f"  {name}: ndcg {rows[name]['ndcg']:.4f} recall {rows[name]['recall']:.4f}", flush=True)
    for name in ('random','popular','itemknn'): rows[name] = score(dls, baselines[name](dls.train_ds), k)
    return pd.DataFrame(rows).T.sort_values('ndcg', ascending=False)

# ---- Sections ------------------------------------------------------------------------------------------------------

def one_call(dls, test, k, *args):
    "A linear model with its defaults, which were chosen in a longer search on validation parts"
    t = time.time()
    res = linear_learner(dls, *args).evaluate(test, k=k, baselines=False)
    return res.set_axis([f"here: one call, `linear_learner(dls{''.join(f', {o!r}' for o in args)})`"]).assign(seconds=time.time()-t)

def recommenders(data, trials, only):
    "The protocol of the recommenders benchmark: one library call with its defaults, then peers"
    res = {}
    for name in ('ml-100k','ml-1m'):
        train,test = stratified(movielens(data, name))
        dls,valid = loaders(train, test),loaders(*stratified(train.sort_index(), seed=1))
        best = tuned(f'recommenders_{name}', valid, pick(spaces['default'], only), 10, trials)
        call = one_call(dls, test, 10)
        res[f'{name}, protocol of recommenders (k = 10)'] = pd.concat([compare(dls, spaces['default'], best, 10), call]).sort_values('ndcg', ascending=False)
    return res

def ml1m(data, trials, only):
    "Ratings of at least 4 as interactions, 80/20 by user"
    df = movielens(data, 'ml-1m')
    train,test = by_user(df[df.rating>=4].assign(rating=1.))
    best = tuned('ml1m', loaders(*by_user(train, 1)), pick(spaces['default'], only), 20, trials)
    return {'ml-1m, ratings ≥ 4, 80/20 by user (k = 20)': compare(loaders(train, test), spaces['default'], best, 20)}

def gowalla_section(data, trials, only):
    "The given split; tuned on its validation part, then trained on both"
    train,valid,test = [gowalla(data, o) for o in ('train','valid','test')]
    best = tuned('gowalla', loaders(train, valid), pick(spaces['gowalla'], only), 20, trials)
    if trials and only: return {}
    dls = loaders(pd.concat([train,valid]), test)
    call = one_call(dls, test, 20, 'graph')
    print(call.round(4).to_string(), flush=True)
    return {'gowalla, given split (k = 20)': pd.concat([compare(dls, spaces['gowalla'], best, 20), call]).sort_values('ndcg', ascending=False)}

def unseen(data, trials, only):
    "People the models have never met: 80 % of their items in, the rest out; parameters as for `ml1m`"
    df = movielens(data, 'ml-1m')
    df = df[df.rating>=4].assign(rating=1.)
    known,new = [df.iloc[o] for o in UserSplitter(valid_pct=.1, whole=True, seed=0)(df)]
    given,test = by_user(new[new.user.map(new.user.value_counts())>=5])
    test = test[test['item'].isin(known['item'])]
    best,dls,rows = json.loads(stored('ml1m').read_text()),CollabDataLoaders.from_df(known, valid_pct=0),{}
    ials = best['here: iALS']['params']
    learners = {'here: linear':lambda: linear_learner(dls, **best['here: linear']['params']),
        'here: iALS':lambda: quiet(implicit_learner(dls, ials['n_factors'], loss=IALSLoss(ials['alpha0'], ials['reg'])), 'solve', 10),
        'EASE':lambda: linear_learner(dls, ridge_pop=0., user_pow=0., item_pow=0., **best['EASE']['params'])}
    hits = set(zip(test.user, test['item']))
    n = test.user.value_counts()
    def ndcg20(rec):
        rec = rec[rec.user.isin(n.index)]
        gain = np.array([(u,i) in hits for u,i in zip(rec.user, rec['item'])])/np.log2(rec['rank']+1)
        ideal = (1/np.log2(np.arange(20)+2)).cumsum()
        dcg = gain.groupby(rec.user).sum()
        return (dcg/n.reindex(dcg.index).map(lambda o: ideal[min(o,20)-1])).mean()
    for name,f in learners.items():
        set_seed(0)
        learn,t = f(),time.time()
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            res = learn.evaluate(test, k=20, ratings=given, baselines='popular')
        rows.update({name:dict(ndcg=res.ndcg['model'], seconds=time.time()-t), 'popular':dict(ndcg=res.ndcg['popular'])})
    rows['implicit ALS'] = dict(ndcg=ndcg20(als_unseen(dls, given, best['implicit ALS']['params'])))
    return {f'ml-1m, {test.user.nunique()} unseen users, 80 % of their items given (NDCG@20)': pd.DataFrame(rows).T.sort_values('ndcg', ascending=False)}

def als_unseen(dls, given, kw):
    "`implicit`'s own fold-in"
    import scipy.sparse as sp
    from implicit.als import AlternatingLeastSquares
    m = AlternatingLeastSquares(kw['factors'], regularization=kw['reg'], alpha=kw['alpha'], iterations=15, random_state=0, num_threads=threads)
    m.fit(matrix(dls), show_progress=False)
    labels = dls.vocab['item']
    at = given[given['item'].isin(labels)]
    codes,users = pd.factorize(at.user)
    X = sp.csr_matrix((np.ones(len(at),np.float32), (codes, match_rows(labels, at['item'].tolist()).numpy())), shape=(len(users),len(labels)))
    ids,_ = m.recommend(np.arange(len(users)), X, N=21, recalculate_user=True, filter_already_liked_items=True)
    return pd.DataFrame([(u, labels[i], j+1) for u,r in zip(users, ids) for j,i in enumerate([o for o in r if o>0][:20])], columns=['user','item','rank'])

def same_vectors(data):
    "gowalla's ratings as a matrix, a model of `implicit`, and a learner with its vectors"
    from implicit.als import AlternatingLeastSquares
    dls = loaders(pd.concat([gowalla(data, o) for o in ('train','valid')]), gowalla(data, 'test')[:1000])
    X = matrix(dls)
    m = AlternatingLeastSquares(64, alpha=10., iterations=3, random_state=0, num_threads=threads)
    m.fit(X, show_progress=False)
    m.num_threads = threads
    learn = collab_learner(dls, 64)
    with torch.no_grad():
        for t,w in tables(learn.model).items(): w.copy_(torch.as_tensor(np.array(getattr(m, ('user_factors','item_factors')[side(t)]))) if t.endswith('weight') else w*0)
        learn.model.mean.zero_()
    return X,m,learn

def throughput(data, trials, only, k=10):
    "Top 10 for all gowalla users, seen items left out, from the same vectors; the median of three runs each, taken in turns"
    X,m,learn = same_vectors(data)
    users,times = np.arange(1, X.shape[0]),{}
    def timed(name, f):
        t = time.perf_counter()
        res = f()
        times.setdefault(name, []).append(time.perf_counter()-t)
        return res
    for _ in range(3):
        theirs,_ = timed('implicit: recommend(all), arrays', lambda: m.recommend(users, X[1:], N=k+1, filter_already_liked_items=True))
        ours = timed('here: learn.recommend(k=10), a frame with labels', lambda: learn.recommend(k=k, progress=False))
    theirs = [[o for o in r if o>0][:k] for r in theirs]
    rows = match_rows(learn.vocab['item'], ours['item'].tolist()).view(-1,k).tolist()
    same = np.mean([a==b for a,b in zip(rows, theirs)])
    same_set = np.mean([set(a)==set(b) for a,b in zip(rows, theirs)])
    res = pd.DataFrame({n:dict(seconds=np.median(t), users_per_second=len(users)/np.median(t)) for n,t in times.items()}).T
    return {f'throughput, {len(users):,} gowalla users, {threads} thread(s); same list {same:.4%}, same set {same_set:.4%} of users': res}

def index(data, trials, only, n=2000):
    "A bundle of gowalla's items: ten for each of some users, one at a time, seen items left out, by exact search and by the index"
    rows = {}
    with tempfile.TemporaryDirectory() as d: bundle = Bundle(same_vectors(data)[2].export_bundle(Path(d)/'bundle'))
    users = bundle.users.iloc[:,0].sample(n, random_state=0).tolist()
    def asked(name, **extra):
        t = time.perf_counter()
        for u in users: bundle.recommend(u, 10)
        rows[name] = dict(ms=(time.perf_counter()-t)/n*1e3, **extra)
    asked('exact', recall=1.)
    for o in (128,768,2048):
        t = time.perf_counter()
        bundle.build_index(expansion=o)
        built = time.perf_counter()-t
        asked(f'index, expansion {o}', seconds=built, recall=bundle.index_recall(k=10, n_users=n))
    return {f"bundle of {len(bundle.items):,} items, 64 factors: milliseconds for a user, seconds to build, recall of the exact list": pd.DataFrame(rows).T}

sections = dict(recommenders=recommenders, ml1m=ml1m, gowalla=gowalla_section, unseen=unseen, throughput=throughput, index=index)

# ---- Reporting -----------------------------------------------------------------------------------------------------

def pick(methods, only): return {k:v for k,v in methods.items() if not only or any(o in k for o in only)}

def markdown(df):
    "`df` as a markdown table"
    body = [[k, *['' if pd.isna(v) else f'{v:,.0f}' if c=='users_per_second' else f'{v:.1f}' if c=='seconds' else f'{v:.4f}' for c,v in r.items()]] for k,r in df.iterrows()]
    return '\n'.join(f"| {' | '.join(o)} |" for o in [['', *df.columns], ['---']*(df.shape[1]+1), *body])

def machine():
    packages = {o:o for o in ('torch','fastai','numba','implicit','lightfm')}
    try: version('lightfm')
    except PackageNotFoundError: packages['lightfm'] = 'rectools-lightfm' # the same module, built for newer Pythons
    vs = ', '.join(f'{o} {version(p)}' for o,p in packages.items() if find_spec(o))
    return f"{len(os.sched_getaffinity(0))} cores (shared with other work), {threads} thread(s); Python {platform.python_version()}, {vs}; {datetime.now():%Y-%m-%d}"

about = """# Ranking, section `{s}`

`python benchmarks/ranking.py --only {s}`. {m}. Full ranking of all training items, training items of the user left out, averaged over users with
test items. Each method has the same number of random settings (`trials` in the stored file), chosen by NDCG on a validation part of the training data and stored in
`ranking_{s}*.json`; seconds are training and ranking together, with the cores shared. {doc}.
"""

def main():
    "Command line"
    global threads
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('--data', help='folder of the data; else COLLAB_EXT_DATA, else ../shared/data beside the repository')
    p.add_argument('--only', choices=list(sections), action='append', help='sections to run; all by default')
    p.add_argument('--method', action='append', help='tune only methods with this in their names')
    p.add_argument('--trials', type=int, default=4, help='settings to try for each method that has none stored')
    p.add_argument('--threads', type=int, default=1, help='threads of each method')
    args = p.parse_args()
    threads,data = args.threads,data_dir(args.data)
    torch.set_num_threads(threads)
    for s in args.only or sections:
        tables = sections[s](data, args.trials, args.method)
        for k,t in tables.items(): print(f'\n{k}\n{t.round(4).to_string()}', flush=True)
        text = about.format(s=s, m=machine(), doc=sections[s].__doc__.rstrip('.'))
        if tables: (here/f'ranking_{s}.md').write_text('\n'.join([text, *[f'## {k}\n\n{markdown(t)}\n' for k,t in tables.items()]]))

if __name__=='__main__': main()
