"Ratings that are few: RMSE and seconds of `solve()` with its defaults, beside biases, Surprise, cmfrec and myFM"
import argparse,os,platform,time,warnings
os.environ.setdefault('OMP_NUM_THREADS', '1')
from datetime import datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
import numpy as np, pandas as pd
import speed

here = Path(__file__).resolve().parent
cols = ['user','item','rating']

# ---- Sets ----------------------------------------------------------------------------------------------------------

def latest(): return pd.read_csv(speed.data_dir()/'ml-latest-small-2016/ratings.csv').iloc[:,:3].set_axis(cols, axis=1)

def few_each(df, low, high, seed=0):
    "Between `low` and `high` ratings of each user, at random"
    df = df.sample(frac=1, random_state=seed)
    keep = pd.Series(np.random.default_rng(seed).integers(low, high+1, df.user.nunique()), index=df.user.unique())
    return df[df.groupby('user').cumcount()<df.user.map(keep)]

def simulated(n_users, n_items, n, spread, noise, k=3, low=1, high=10, seed=0):
    "Ratings from `low` to `high`: biases and a dot product of spread `spread`, and noise"
    rng = np.random.default_rng(seed)
    U,V = [rng.normal(size=(m,k)) for m in (n_users,n_items)]
    a,b = [rng.normal(size=m) for m in (n_users,n_items)]
    u,i = np.divmod(rng.permutation(n_users*n_items)[:n], n_items)
    y = (low+high)/2 + spread*((U[u]*V[i]).sum(1)/k**.5 + .7*a[u] + .7*b[i]) + noise*rng.normal(size=n)
    return pd.DataFrame(dict(user=u, item=i, rating=np.clip(np.round(y), low, high)))

def sets(quick):
    small,large = speed.ml100k(),speed.ml1m()
    in_item = large.groupby('item').user.transform('size')
    res = {'ml-100k, 1–3 a user':few_each(small, 1, 3), 'ml-100k, 3–8 a user':few_each(small, 3, 8), 'ml-100k, a tenth':small.sample(frac=.1, random_state=0),
        'simulated 40 × 60, 1–10':simulated(40, 60, 1200, 1., 1.), 'simulated 200 × 100, 1–10':simulated(200, 100, 4000, 1., 1.),
        'noise 300 × 200, 1–10':simulated(300, 200, 6000, 0., 2.), 'simulated 3000 × 2000, 1–10, 5,150':simulated(3000, 2000, 5150, 1., 1.5)}
    if quick: return res
    res.update({'ml-1m, 1–3 a user':few_each(large, 1, 3), 'ml-1m, 2–5 a user':few_each(large, 2, 5, 1), 'ml-1m, a hundredth':large.sample(frac=.01, random_state=0),
        'ml-1m, items with fewer than 60':large[in_item<60], 'latest-small, 1–3 an item':few_each(latest().rename(columns=dict(user='item', item='user')), 1, 3).rename(columns=dict(user='item', item='user'))})
    return res

# ---- Ways ----------------------------------------------------------------------------------------------------------

def ours(train, test, scale, y_range=None):
    import torch
    from collab_ext import CollabDataLoaders,collab_learner
    torch.set_num_threads(1)
    df = pd.concat([train,test], ignore_index=True)
    dls = CollabDataLoaders.from_df(df, splitter=lambda _: (np.arange(len(train)),np.arange(len(train),len(df))), unknown='mean', bs=2048)
    learn = collab_learner(dls, y_range=y_range)
    t = time.perf_counter()
    with learn.no_bar(),learn.no_logging(): learn.solve()
    t = time.perf_counter()-t
    with learn.no_bar(): return learn.get_preds()[0].numpy(),t

def ranged(train, test, scale): return ours(train, test, scale, scale)

def fitted_biases(train, users, items, ridges, rounds=10):
    "Mean, users' and items' biases by alternating ridge regressions"
    u,i = pd.Categorical(train.user, users).codes,pd.Categorical(train['item'], items).codes
    y,mean = train.rating.to_numpy(float),train.rating.mean()
    a,b = np.zeros(len(users)),np.zeros(len(items))
    for _ in range(rounds):
        b = np.bincount(i, y-mean-a[u], len(items))/(np.bincount(i, minlength=len(items))+ridges[1])
        a = np.bincount(u, y-mean-b[i], len(users))/(np.bincount(u, minlength=len(users))+ridges[0])
    return lambda df: mean+a[pd.Categorical(df.user, users).codes]+b[pd.Categorical(df['item'], items).codes]

def biases(train, test, scale):
    "Both ridges chosen on a tenth of the training ratings"
    users,items = [pd.concat([train[o],test[o]]).unique() for o in ('user','item')]
    t = time.perf_counter()
    part = train.sample(frac=.1, random_state=0)
    grid = [(a,b) for a in (1,2,4,8,16,32) for b in (1,2,4,8,16,32)]
    def error(r): return ((fitted_biases(train.drop(part.index), users, items, r)(part)-part.rating)**2).mean()
    best = fitted_biases(train, users, items, min(grid, key=error))
    return best(test),time.perf_counter()-t

def surprise(train, test, scale):
    "Its defaults, and ten times the decay; the better one on a tenth of the training ratings"
    from surprise import SVD,Dataset,Reader
    def fit(df, reg):
        m = SVD(random_state=0, reg_all=reg).fit(Dataset.load_from_df(df[cols], Reader(rating_scale=scale)).build_full_trainset())
        return lambda df: np.array([m.predict(u, i).est for u,i in zip(df.user, df['item'])])
    t = time.perf_counter()
    part = train.sample(frac=.1, random_state=0)
    def error(reg): return ((fit(train.drop(part.index), reg)(part)-part.rating)**2).mean()
    best = fit(train, min((.02,.2), key=error))
    return best(test),time.perf_counter()-t

def cmfrec(train, test, scale):
    "ALS with scaled regularisation, chosen on a tenth of the training ratings"
    from cmfrec import CMF
    names = dict(user='UserId', item='ItemId', rating='Rating')
    def fit(df, k, lam):
        m = CMF(k=k, lambda_=lam, scale_lam=True, niter=15, nthreads=1, verbose=False).fit(df.rename(columns=names))
        def rate(df): return np.where(np.isnan(p := m.predict(df.user.to_numpy(), df['item'].to_numpy())), m.glob_mean_, p)
        return rate
    t = time.perf_counter()
    part = train.sample(frac=.1, random_state=0)
    def error(o): return ((fit(train.drop(part.index), *o)(part)-part.rating)**2).mean()
    best = fit(train, *min([(k,lam) for k in (3,10,40) for lam in (.1,.3,1.)], key=error))
    return best(test),time.perf_counter()-t

def myfm(train, test, scale):
    "Gibbs sampling with one-hot users and items, rank 10, 200 samples"
    from myfm import MyFMRegressor
    from sklearn.preprocessing import OneHotEncoder
    enc = OneHotEncoder(handle_unknown='ignore').fit(train[['user','item']])
    t = time.perf_counter()
    m = MyFMRegressor(rank=10, random_seed=0).fit(enc.transform(train[['user','item']]), train.rating.to_numpy(), n_iter=200, n_kept_samples=150)
    p = m.predict(enc.transform(test[['user','item']]))
    return p,time.perf_counter()-t

ways = dict(ours=ours, ranged=ranged, biases=biases, surprise=surprise, cmfrec=cmfrec, myfm=myfm)
names = dict(ours='`solve()`', ranged='`solve()` with `y_range`', biases='biases', surprise='Surprise SVD', cmfrec='cmfrec', myfm='myFM')

# ---- Report --------------------------------------------------------------------------------------------------------

def measure(df, seeds, which):
    "RMSE and seconds of each way, over random 80/20 splits"
    scale = float(df.rating.min()),float(df.rating.max())
    found = {o:[] for o in which}
    for seed in seeds:
        test = df.sample(frac=.2, random_state=seed)
        train = df.drop(test.index)
        for o in which:
            pred,t = ways[o](train, test, scale)
            found[o].append((float(np.sqrt(np.mean((np.clip(pred, *scale)-test.rating)**2))), t))
    return found

about = """# Ratings that are few

Written by `python benchmarks/sparse.py`. {machine}.

RMSE on a random fifth of the ratings, predictions clipped to the scale, mean over {seeds} splits (seconds: median, one thread, while other work
shares the cores). Sets are cut from MovieLens data, or simulated. `solve()` has no options: 50 factors at most, of which it uses as many as
the ratings carry. Biases, Surprise's decay, and cmfrec's factors and regularisation are chosen on a tenth of the training ratings;
myFM has 10 factors and 200 samples. `with y_range`: a sigmoid between the lowest and the highest rating.
"""

def main(argv=None):
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('--seeds', type=int, default=3)
    p.add_argument('--quick', action='store_true')
    p.add_argument('--only', nargs='*', help='Ways, such as ours biases')
    args = p.parse_args(argv)
    warnings.simplefilter('ignore')
    which = [o for o in ways if (not args.only or o in args.only) and (o in ('ours','ranged','biases') or find_spec(o))]
    for o in set(ways)-set(which): print(f'{o} is left out')
    rows,seconds = [],[]
    for name,df in sets(args.quick).items():
        found = measure(df, range(args.seeds), which)
        cells = [f'{np.mean([a for a,_ in v]):.4f}' for v in found.values()]
        rows.append(f"| {name} | {len(df):,} | {df.user.nunique():,} × {df['item'].nunique():,} | " + ' | '.join(cells) + ' |')
        seconds.append(f"| {name} | " + ' | '.join(f'{np.median([t for _,t in v]):.2g}' for v in found.values()) + ' |')
        print(rows[-1], seconds[-1], flush=True)
    heads = ' | '.join(names[o] for o in which)
    machine = (f"{os.cpu_count()} cores; Python {platform.python_version()}, torch {version('torch')}, " +
        ', '.join(f'{o} {version(o)}' for o in ('scikit-surprise','cmfrec','myfm') if find_spec(o.split('-')[-1])) + f"; {datetime.now():%Y-%m-%d}")
    text = about.format(machine=machine, seeds=args.seeds) + f"""
## RMSE

| set | ratings | users × items | {heads} |
{'| --- '*(len(which)+3)}|
""" + '\n'.join(rows) + f"""

## Seconds, the choice of settings included

| set | {heads} |
{'| --- '*(len(which)+1)}|
""" + '\n'.join(seconds) + '\n'
    if not args.quick and not args.only: (here/'sparse.md').write_text(text)
    else: print(text)

if __name__=='__main__': main()
