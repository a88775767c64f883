"Time to an error, ratings a second and memory: fused, plain and closed-form training against stock fastai, Surprise, LIBMF and cornac"
import argparse,json,os,platform,resource,statistics,subprocess,sys,tempfile,time,warnings
os.environ.setdefault('OMP_NUM_THREADS', '1')
from contextlib import redirect_stdout
from datetime import datetime
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
import numpy as np, pandas as pd

here = Path(__file__).resolve().parent
cols = ['user','item','rating']
needs = dict(surprise='surprise', libmf='libmf', cornac='cornac', fused='numba')
imports = dict(stock='fastai.collab', surprise='surprise', libmf='libmf', cornac='cornac', plain='collab_ext', fused='collab_ext', solve='collab_ext')
names = dict(stock='stock fastai', surprise='Surprise SVD', libmf='LIBMF', libmf_2='LIBMF, 2 threads', cornac='cornac MF', plain='ours, plain',
    fused='ours, fused', fused_2='ours, fused, 2 threads', solve='ours, closed form')

# Settings of each peer; how they were chosen is in the report
settings = dict(
    u1=dict(stock=dict(bs=64, n=5, lr=5e-3), surprise=dict(n_epochs=40, lr_all=.02, reg_all=.1), libmf=dict(k=50, nr_iters=30, eta=.05, lam=.1),
        cornac=dict(max_iter=12, learning_rate=.02, lambda_reg=.06), plain=dict(bs=256, n=5, lr=5e-3), fused=dict(n=8), solve=dict(k=10, n=12)),
    ml1m=dict(stock=dict(bs=1024, n=5, lr=5e-3), surprise=dict(n_epochs=25, lr_all=.01, reg_all=.05), libmf=dict(k=50, nr_iters=20, eta=.1, lam=.08),
        cornac=dict(max_iter=20, learning_rate=.02, lambda_reg=.05), plain=dict(bs=2048, n=5, lr=5e-3), fused=dict(n=8), solve=dict(k=10, n=12)),
    big=dict(libmf=dict(k=32, nr_iters=8, eta=.1, lam=.05), fused=dict(k=32, n=5)))
for o in ('libmf','fused'): settings['big'][f'{o}_2'] = dict(settings['big'][o], threads=2)
for o in ('libmf','libmf_2'): settings['big'][f'{o}_first'] = dict(settings['big'][o], nr_iters=1)
for o in ('fused','fused_2'): settings['big'][f'{o}_first'] = dict(settings['big'][o], n=2) # one epoch would be prepared in another way
titles = dict(u1='ml-100k, official split u1, 50 factors', ml1m='ml-1m, random 90/10, seed 0, 50 factors', big='20 million simulated ratings, 138,000 × 27,000, 32 factors')

# ---- Ratings -------------------------------------------------------------------------------------------------------

def data_dir():
    "The folder of the data, or an explanation of where it should be"
    res = Path(os.environ.get('COLLAB_EXT_DATA') or here.parent.parent/'shared/data')
    if (res/'ml-100k').is_dir(): return res
    sys.exit(f"No ml-100k in {os.path.relpath(res)}: pass the folder of the MovieLens sets in the environment variable COLLAB_EXT_DATA")

def ml1m(): return pd.read_csv(data_dir()/'ml-1m/ratings_no_timestamp.csv.gz').set_axis(cols, axis=1)
def ml100k(part='u.data'): return pd.read_csv(data_dir()/'ml-100k'/part, sep='\t', names=[*cols,'time'])[cols]

def simulated(n, n_users, n_items, k=8, seed=0, part=2**20):
    "Ratings of few popular and many other users and items: a dot product with biases, and noise of 0.7"
    rng = np.random.default_rng(seed)
    def draw(m, power):
        w = np.cumsum((1+np.arange(m))**-power)
        return rng.permutation(m)[np.searchsorted(w, rng.random(n)*w[-1])].astype(np.int32)
    u,i = draw(n_users,.5),draw(n_items,.8)
    (U,V),(a,b) = [[rng.standard_normal((m,o), dtype=np.float32) for m in (n_users,n_items)] for o in (k,1)]
    y = np.empty(n, np.float32)
    for s in range(0, n, part):
        j,l = u[s:s+part],i[s:s+part]
        y[s:s+part] = 3.5+(U[j]*V[l]).sum(1)/2/k**.5+.4*a[j,0]+.5*b[l,0]+.7*rng.standard_normal(len(j), dtype=np.float32)
    return pd.DataFrame(dict(user=u, item=i, rating=y.clip(1,5)), copy=False)

def split(name, quick=False):
    "Training and test ratings"
    if name=='u1': return ml100k('u1.base'),ml100k('u1.test')
    n = 500_000 if quick else 20_000_000
    df = ml1m() if name=='ml1m' else simulated(n, n//145, n//740)
    test = df.sample(frac=.1 if name=='ml1m' else .01, random_state=0)
    return df.drop(test.index),test

# ---- Peers: each takes training and test ratings and gives seconds and predictions ----------------------------------

def timed(f, *args, **kw):
    t = time.perf_counter()
    res = f(*args, **kw)
    return time.perf_counter()-t,res

def stock(train, test, bs, n, lr, k=50):
    "fastai's own loader, model and defaults, as its tutorial has it"
    from fastai.collab import CollabDataLoaders,collab_learner
    dls = CollabDataLoaders.from_df(train, valid_pct=.01, seed=0, bs=bs)
    learn = collab_learner(dls, n_factors=k, y_range=(.5,5.5))
    with learn.no_bar(),learn.no_logging(): t,_ = timed(learn.fit_one_cycle, n, lr, wd=.1)
    return t,n,lambda df: learn.get_preds(dl=learn.dls.test_dl(df, bs=2**14))[0].numpy().reshape(-1)

def loaders(train, test, bs=64):
    "Ours, with the test ratings as validation set"
    from collab_ext import CollabDataLoaders
    df = pd.concat([train,test], ignore_index=True)
    return CollabDataLoaders.from_df(df, splitter=lambda _: (np.arange(len(train)),np.arange(len(train),len(df))), unknown='mean', bs=bs)

def ours(train, test, n, lr=None, wd=None, k=50, bs=64, cbs=None, y_range=None, solve=False, seed=0):
    "A learner with validation in each epoch; the first training, of one epoch, is not timed"
    from fastai.basics import set_seed
    from collab_ext import collab_learner
    dls = loaders(train, test, bs)
    set_seed(seed)
    learn = collab_learner(dls, k, cbs=cbs and cbs(), y_range=y_range)
    with learn.no_bar(),learn.no_logging(): t,_ = timed(learn.solve, n) if solve else timed(learn.fit_one_cycle, n, lr, wd=wd)
    return t,n,lambda df: learn.get_preds()[0].numpy()

def warm():
    "Compile the fused step, or read it from disk"
    import torch
    from collab_ext.fused import RowTable,step_of
    tabs = [RowTable(torch.zeros(2,o), 0.) for o in (4,4,1,1)]
    return timed(step_of('numba'), torch.zeros(1,2).long(), torch.zeros(1), None, tabs)[0]

def fused(train, test, threads=1, **kw):
    import torch
    from collab_ext import Fused
    torch.set_num_threads(threads)
    warm()
    return ours(train, test, cbs=lambda: Fused(threads=threads), **kw)

def plain(train, test, **kw): return ours(train, test, y_range=(.5,5.5), wd=.1, **kw)
def solve(train, test, **kw): return ours(train, test, solve=True, **kw)

def surprise(train, test, n_epochs, k=50, seed=0, **kw):
    from surprise import SVD,Dataset,Reader
    data = Dataset.load_from_df(train, Reader(rating_scale=(1,5))).build_full_trainset()
    m = SVD(random_state=seed, n_factors=k, n_epochs=n_epochs, **kw)
    t,_ = timed(m.fit, data)
    return t,n_epochs,lambda df: [m.predict(u,i).est for u,i in zip(df.user, df.item)]

def libmf(train, test, lam, nr_iters, threads=1, **kw):
    with redirect_stdout(None): from libmf import mf
    mean,x = train.rating.mean(),np.ascontiguousarray(train.to_numpy(np.float32))
    x[:,2] -= mean
    m = mf.MF(nr_threads=threads, quiet=True, lambda_p1=0., lambda_q1=0., lambda_p2=lam, lambda_q2=lam, nr_iters=nr_iters, **kw)
    t,_ = timed(m.fit, x)
    return t,nr_iters,lambda df: m.predict(np.asfortranarray(df[['user','item']].to_numpy(np.float32)))+mean # it reads pairs by column

def cornac(train, test, k=50, seed=0, **kw):
    import cornac as c
    ds = c.data.Dataset.from_uir(zip(train.user, train['item'], train.rating))
    m = c.models.MF(k=k, seed=seed, use_bias=True, **kw)
    t,_ = timed(m.fit, ds)
    def rate(u, i):
        u,i = ds.uid_map.get(u),ds.iid_map.get(i)
        res = m.global_mean+(0 if u is None else m.u_biases[u])+(0 if i is None else m.i_biases[i])
        return res if u is None or i is None else res+m.u_factors[u]@m.i_factors[i]
    return t,kw['max_iter'],lambda df: [rate(u,i) for u,i in zip(df.user, df.item)]

def base(peer): return peer.split('_')[0]

def rmse(pred, test):
    "Error of predictions, clipped to the scale"
    return float(np.sqrt(np.mean((np.clip(np.asarray(pred, np.float64), 1, 5)-test.rating.to_numpy())**2)))

# ---- One run, in a process of its own -------------------------------------------------------------------------------

def rss(): return int(Path('/proc/self/statm').read_text().split()[1])*resource.getpagesize()
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss*1024

def child(section, peer, quick):
    "Train once and print what was measured"
    warnings.simplefilter('ignore')
    train,test = [pd.read_pickle(o) for o in child_files(section)]
    with redirect_stdout(None): import_module(imports[base(peer)])
    start = rss()
    t,n,rate = globals()[base(peer)](train, test, **settings[section][peer])
    high = peak()
    print(json.dumps(dict(seconds=t, epochs=n, rate=len(train)*n/t, rmse=rmse(rate(test), test), bytes=(high-start)/len(train))))

def child_files(section): return [Path(os.environ['SPEED_TMP'])/f'{section}_{o}.pkl' for o in ('train','test')]

def run(section, peer, quick):
    cmd = [sys.executable, __file__, '--child', section, peer] + ['--quick']*quick
    res = subprocess.run(cmd, capture_output=True, text=True)
    if res.returncode: raise RuntimeError(f'{peer} failed: {res.stderr[-2000:]}')
    return json.loads(res.stdout.strip().splitlines()[-1])

def available(section, peers):
    "The peers that are installed; says which are not"
    res = [o for o in settings[section] if not peers or o.removesuffix('_first') in peers]
    for o in res:
        if needs.get(o) and not find_spec(needs[o]): print(f'{names[o]} is skipped: {needs[o]} is not installed', flush=True)
    return [o for o in res if find_spec(needs.get(base(o), 'numpy'))]

def race(section, repeats, quick, peers):
    "All peers in turn, several times"
    for f,df in zip(child_files(section), split(section, quick)): df.to_pickle(f)
    found = {o:[] for o in available(section, peers)}
    for r in range(repeats):
        for o in found:
            if o=='stock' and section!='u1' and r: continue # minutes
            found[o].append(run(section, o, quick))
            print(section, o, found[o][-1], flush=True)
    return found

# ---- Published protocols --------------------------------------------------------------------------------------------

def five_folds(df, seed):
    "As Surprise's `KFold`"
    idx = np.random.RandomState(seed).permutation(len(df))
    for part in np.array_split(idx, 5): yield df.drop(df.index[part]),df.iloc[part]

def recommenders(df, seed):
    "The `recommenders` benchmark: three quarters of each item's ratings; its own seed is 42"
    rng = np.random.RandomState(seed)
    df = df.assign(r=rng.rand(len(df))).sort_values(['item','r'])
    n,rank = df.groupby('item').r.transform('size'),df.groupby('item').cumcount()
    yield df[rank<(.75*n).round()][cols],df[rank>=(.75*n).round()][cols]

def ninety_ten(df, seed):
    test = df.sample(frac=.1, random_state=seed)
    yield df.drop(test.index),test

def official(df, seed): yield ml100k('u1.base'),ml100k('u1.test')

protocols = {'Surprise, 5 folds':five_folds, '`recommenders` split':recommenders, '90/10':ninety_ten, 'u1':official}
bars = {('Surprise, 5 folds','ml-100k'):.919, ('Surprise, 5 folds','ml-1m'):.862, ('`recommenders` split','ml-100k'):.9428, ('`recommenders` split','ml-1m'):.8588,
    ('90/10','ml-1m'):.840, ('u1','ml-100k'):.925}
ways = dict(fused={'ml-100k':dict(n=8), 'ml-1m':dict(n=8)}, solve={'ml-100k':dict(n=20), 'ml-1m':dict(n=20)})

def protocol(rule, data, way, seeds, quick):
    "Mean over folds for each seed"
    warnings.simplefilter('ignore')
    df,res = ml100k() if data=='ml-100k' else ml1m(),[]
    k = 40 if 'recommenders' in rule else 20 if way=='solve' else 50
    for s in seeds:
        seed = 42 if 'recommenders' in rule else s if rule!='90/10' else 0
        errs = []
        for train,test in protocols[rule](df, seed):
            _,_,rate = globals()[way](train, test, k=k, seed=s, **ways[way][data])
            errs.append(rmse(rate(test), test))
            if quick: break
        res.append(float(np.mean(errs)))
        print(rule, data, way, s, res[-1], flush=True)
    return res

def accuracy(data, seeds, quick, only):
    return {f'{rule}|{data}|{way}':protocol(rule, data, way, seeds, quick) for rule,d in bars if d==data for way in ways if not only or way in only}

# ---- Report ---------------------------------------------------------------------------------------------------------

about = """# Speed

Written by `python benchmarks/speed.py`, section by section. {machine}.

Each run is a process of its own with one thread, or two where it says so; peers take turns, five times (three times for the 20 million, once for stock fastai on ml-1m); median (lowest–highest). Seconds are
those of training alone, from ratings in memory; those of a Learner hold its loop and a validation of the test ratings after each epoch. Predictions
are clipped to 1–5. Settings of LIBMF, cornac and ours were chosen on a tenth of the
training ratings; Surprise's and those of ours, plain, also by a look at the test error, in their favour; the test errors of two decays on ml-1m (.035 and .04) were seen before .04 became the default. Memory is the peak beyond the frames of ratings, in bytes for
each training rating. LIBMF is its PyPI package{libmf}. LightFM has no squared error on ratings, and is left out.

A column without preparations has the epochs beyond those of a shorter run in the same turn (one epoch of LIBMF's, two of ours): reading, sorting, and arranging are
done once, before the first.

Compiling the fused step takes {first:.1f} s, once for a machine; reading it from disk takes {later:.2f} s, once for a process. Neither is in the seconds.
"""

def med(xs, f='.3g'): return f'{statistics.median(xs):{f}} ({min(xs):{f}}–{max(xs):{f}})'

def table(found):
    first = any(o.endswith('_first') for o in found)
    cols = ['', 'epochs', 'seconds', 'RMSE', 'million ratings a second', *['…, preparations left out']*first, 'bytes a rating']
    rows = ['| '+' | '.join(cols)+' |', '| --- '*len(cols)+'|']
    for o,rs in found.items():
        if o.endswith('_first'): continue
        get = lambda k: [r[k] for r in rs]
        row = [names[o], rs[0]['epochs'], med(get('seconds')), med(get('rmse'), '.4f'), med([r/1e6 for r in get('rate')])]
        if first: row.append(med([r/1e6 for r in epoch_rates(found, o)]))
        rows.append('| '+' | '.join(map(str, [*row, f"{statistics.median(get('bytes')):.0f}"]))+' |')
    return '\n'.join(rows)

def epoch_rates(found, o):
    "Ratings a second of the epochs beyond those of a shorter run: without what is done once"
    pairs = list(zip(found[o], found[f'{o}_first']))
    return [r['rate']*r['seconds']/r['epochs']*(r['epochs']-f['epochs'])/(r['seconds']-f['seconds']) for r,f in pairs]

def acc_table(found):
    rows = ['| protocol | data | bar | ours, fused | ours, closed form |', '| --- | --- | --- | --- | --- |']
    for (rule,data),bar in bars.items():
        vals = [found.get(f'{rule}|{data}|{w}') for w in ways]
        if any(vals): rows.append(f'| {rule} | {data} | {bar} | ' + ' | '.join('' if not v else f'{np.mean(v):.4f} ± {np.std(v):.4f}' for v in vals) + ' |')
    return '\n'.join(rows)

def compile_times():
    "Seconds of the first call ever and of the first call in a process"
    res = []
    with tempfile.TemporaryDirectory() as d:
        for _ in range(2):
            cmd = [sys.executable, '-c', 'import speed; print(speed.warm())']
            res.append(float(subprocess.run(cmd, capture_output=True, text=True, check=True, cwd=here, env=dict(os.environ, NUMBA_CACHE_DIR=d)).stdout))
    return res

def machine():
    "What this ran on, and when"
    mem = os.sysconf('SC_PAGE_SIZE')*os.sysconf('SC_PHYS_PAGES')/2**30
    packs = ', '.join(f'{o} {version(o)}' for o in ('torch','fastai','numba','scikit-surprise','libmf','cornac') if find_spec(o.replace('scikit-','')))
    return f"{len(os.sched_getaffinity(0))} cores, {mem:.0f} GiB; Python {platform.python_version()}, {packs}; {datetime.now():%Y-%m-%d}"

def report(found, libmf):
    first,later = found.get('compile', (np.nan,np.nan))
    parts = [about.format(machine=machine(), first=first, later=later, libmf=libmf)]
    parts += [f'## {titles[o]}\n\n{table(found[o])}\n' for o in titles if o in found]
    acc = {k:v for o in ('acc-ml-100k','acc-ml-1m') for k,v in found.get(o,{}).items()}
    if acc: parts.append("## Published protocols\n\nRMSE, mean ± standard deviation over three seeds (of the folds, for Surprise's; of the model, for the others, whose split is fixed). "
        "The fused model has 50 factors and 8 epochs, the closed form 20 factors and 20 sweeps; 40 factors in the `recommenders` split. Rate, decay and epochs were chosen on a tenth of the training ratings of u1 and of 90/10, of which some are test ratings in the other splits.\n\n"+acc_table(acc)+'\n')
    return '\n'.join(parts)

def parse():
    "Command line"
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('--sections', nargs='+', default=['compile',*titles,'acc-ml-100k','acc-ml-1m'])
    p.add_argument('--peers', nargs='+', help='only these')
    p.add_argument('--repeats', type=int, default=5)
    p.add_argument('--quick', action='store_true', help='a smoke run: one repeat, one fold, a small simulation; nothing is stored')
    p.add_argument('--libmf', default='', help='how LIBMF was built, for the report')
    p.add_argument('--child', nargs=2, help='section and peer of one run')
    return p.parse_args()

def main():
    "Measure, print, store"
    args,store = parse(),here/'speed.json'
    if args.child: return child(*args.child, args.quick)
    found,repeats,seeds = ({},1,[0]) if args.quick else ({},args.repeats,[0,1,2])
    with tempfile.TemporaryDirectory() as d:
        os.environ['SPEED_TMP'] = d
        for o in args.sections:
            if o=='compile': res = compile_times()
            elif o in titles: res = race(o, repeats, args.quick, args.peers)
            else: res = accuracy(o[4:], seeds, args.quick, args.peers)
            old = json.loads(store.read_text()) if store.exists() and not args.quick else found
            found = {**old, o:{**old.get(o,{}), **res} if isinstance(res, dict) else res}
            if not args.quick: store.write_text(json.dumps(found, indent=1))
    text = report(found, args.libmf)
    print(text)
    if args.quick: return
    (here/'speed.md').write_text(text)

if __name__=='__main__': main()
