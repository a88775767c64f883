"A sweep of the closed form beside an iteration of cmfrec's ALS, accuracy beside myFM, cores, and memory for many users"
import argparse,json,os,platform,resource,subprocess,sys,time,warnings
from datetime import datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
import numpy as np, pandas as pd
import speed

here = Path(__file__).resolve().parent
large = dict(million=(1_000_000,20_000,5_000), users=(2_000_000,200_000,20_000), twenty=(20_000_000,138_000,27_000)) # ratings, users, items

# ---- One measurement, in a process of its own -----------------------------------------------------------------------

def ratings(name):
    "Training and test ratings"
    if name in large: return (df := speed.simulated(*large[name])), df.iloc[:1000]
    return speed.split(name)

def matrix(train, test):
    "Ratings by row, with numbers for users and items"
    import torch
    from collab_ext.rows import RatingMatrix
    codes = [pd.factorize(pd.concat([train[o],test[o]]))[0]+1 for o in ('user','item')]
    ids = torch.tensor(np.stack(codes, 1))
    n = len(train)
    sizes = [int(o.max())+1 for o in codes]
    return RatingMatrix(ids[:n], torch.tensor(train.rating.to_numpy(np.float32)), sizes),ids[n:]

def ours(name, k, threads, sweeps=6):
    "Seconds of each sweep with exactly `k` factors"
    import torch
    from collab_ext.bayes import BayesMF,guess_of_width
    torch.set_num_threads(threads)
    rm,_ = matrix(*ratings(name))
    mf = BayesMF.from_scratch(rm, k, rm.y.mean().item(), guess=guess_of_width(rm, k))
    res = []
    for _ in range(sweeps):
        t = time.perf_counter()
        mf.sweep()
        res.append(time.perf_counter()-t)
    return dict(seconds=res[1:], factors=mf.sides[0].mean.shape[1]-1)

def cmfrec(name, k, threads, rounds=2, more=3):
    "Seconds of an iteration: a fit with `more` further ones against a fit with one"
    from cmfrec import CMF
    train,_ = ratings(name)
    df = train.rename(columns=dict(user='UserId', item='ItemId', rating='Rating'))
    def seconds(n):
        t = time.perf_counter()
        CMF(k=k, lambda_=10., method='als', use_cg=False, niter=n, nthreads=threads, verbose=False, finalize_chol=False).fit(df)
        return time.perf_counter()-t
    return dict(seconds=[(seconds(1+more)-seconds(1))/more for _ in range(rounds)])

def solve(name, k, threads):
    "Seconds and RMSE of `learn.solve()`"
    import torch
    torch.set_num_threads(threads)
    from collab_ext import collab_learner
    train,test = ratings(name)
    learn = collab_learner(speed.loaders(train, test, 2048), k)
    t = time.perf_counter()
    with learn.no_bar(),learn.no_logging(): learn.solve()
    t = time.perf_counter()-t
    with learn.no_bar(): return dict(seconds=[t], rmse=speed.rmse(learn.get_preds()[0].numpy(), test))

def myfm(name, k, threads, n_iter=300):
    "Gibbs sampling with SVD++ features: seconds and RMSE"
    import scipy.sparse as sp
    from myfm import MyFMRegressor
    train,test = ratings(name)
    codes = [pd.factorize(pd.concat([train[o],test[o]]))[0] for o in ('user','item')]
    n,(n_users,n_items) = len(train),[int(o.max())+1 for o in codes]
    def one_hot(x, m): return sp.csr_matrix((np.ones(len(x)),(np.arange(len(x)),x)), shape=(len(x),m))
    seen = sp.csr_matrix((np.ones(n),(codes[0][:n],codes[1][:n])), shape=(n_users,n_items))
    seen = sp.diags(1/np.sqrt(np.maximum(np.asarray(seen.sum(1))[:,0], 1)))@seen
    from myfm import RelationBlock
    users = sp.hstack([sp.identity(n_users), seen]).tocsr()
    def blocks(s): return [RelationBlock(codes[0][s], users)]
    X = one_hot(codes[1], n_items)
    t = time.perf_counter()
    m = MyFMRegressor(rank=k, random_seed=0)
    m.fit(X[:n], train.rating.to_numpy(), X_rel=blocks(slice(0,n)), n_iter=n_iter, n_kept_samples=n_iter-20,
        group_shapes=[n_items,n_users,n_items])
    t = time.perf_counter()-t
    return dict(seconds=[t], rmse=speed.rmse(m.predict(X[n:], X_rel=blocks(slice(n,None))), test))

def memory(k=50, n_users=2_000_000, n_items=20_000, n=40_000_000, sweeps=5):
    "Peak memory of sweeps beyond Python's own, beside that of tables and ratings"
    import torch
    from collab_ext.bayes import BayesMF,FirstGuess
    from collab_ext.rows import RatingMatrix
    rng = np.random.default_rng(0)
    ids = torch.from_numpy(np.stack([rng.integers(1, n_users, n), rng.integers(1, n_items, n)], 1))
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss*1024-ids.nbytes
    rm = RatingMatrix(ids, torch.from_numpy(rng.random(n, dtype=np.float32)*4+1), (n_users,n_items))
    guess = FirstGuess([torch.zeros(m) for m in rm.sizes], [.2,.2], 1., k, [torch.randn(m,k) for m in rm.sizes])
    del ids
    mf = BayesMF.from_scratch(rm, k, 3., guess=guess)
    del guess
    for _ in range(sweeps): mf.sweep() # features and implicit factors come with the fourth
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss*1024-start
    return dict(peak=peak, data=4*(k+1)*(n_users+n_items)+12*n)

def child(what, *args):
    "Measure once, and print it"
    warnings.simplefilter('ignore')
    args = [int(o) if o.isdigit() else o for o in args]
    print(json.dumps(globals()[what](*args)))

def run(*args, threads=1):
    env = dict(os.environ, OMP_NUM_THREADS=str(threads), PYTHONPATH=os.pathsep.join([str(here.parent), os.environ.get('PYTHONPATH','')]))
    res = subprocess.run([sys.executable, __file__, '--child', *map(str, args)], capture_output=True, text=True, env=env)
    if res.returncode: return print(f"{' '.join(map(str, args))} failed: {res.stderr[-500:]}")
    return json.loads(res.stdout.strip().splitlines()[-1])

# ---- Report ---------------------------------------------------------------------------------------------------------

def med(x): return f'{np.median(x):.3g} ({min(x):.3g}–{max(x):.3g})'

def sweeps_table(sets, factors, threads, repeats):
    "Sweeps of both in turns"
    rows = []
    for name in sets:
        for k in factors:
            for t in threads:
                found = dict(ours=[], cmfrec=[])
                for _ in range(repeats):
                    for who,times in found.items():
                        res = (who=='ours' or find_spec('cmfrec')) and run(who, name, k, t, threads=t)
                        if res: times += res['seconds']
                cells = [med(o) if o else '' for o in found.values()]
                ratio = f"{np.median(found['ours'])/np.median(found['cmfrec']):.2f}" if all(found.values()) else ''
                rows.append(f'| {name} | {k} | {t} | ' + ' | '.join(cells) + f' | {ratio} |')
                print(rows[-1], flush=True)
    return '\n'.join(rows)

about = """# Closed forms

Written by `python benchmarks/closed_forms.py{args}`. {machine}.

Each measurement is a process of its own, the two in turns; median (lowest–highest), while other work shares the cores.

## A sweep, beside an iteration of cmfrec's ALS (Cholesky) with as many factors

A sweep here holds more: covariances, priors, features of the set of ratings, implicit factors, noise.

| ratings | factors | threads | seconds here | cmfrec | here / cmfrec |
| --- | --- | --- | --- | --- | --- |
{sweeps}

{solved}{memory}"""

about_solve = """## `learn.solve()`, beside myFM

| ratings | way | factors | seconds | RMSE |
| --- | --- | --- | --- | --- |
{lines}
"""

def main(argv=None):
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('--child', nargs='+')
    p.add_argument('--sets', nargs='*', default=['u1','ml1m','million'])
    p.add_argument('--factors', nargs='*', type=int, default=[10,20,50])
    p.add_argument('--threads', nargs='*', type=int, default=[1,2])
    p.add_argument('--repeats', type=int, default=2)
    p.add_argument('--solve', nargs='*', default=['u1','ml1m'])
    p.add_argument('--myfm', nargs='*', default=['u1'], help='myFM takes minutes on ml1m')
    p.add_argument('--memory', action='store_true', help='Two million users')
    p.add_argument('--out', default='closed_forms.md', help='File for the report')
    p.add_argument('--dry', action='store_true', help='Write nothing')
    args = p.parse_args(argv)
    if args.child: return child(*args.child)
    sweeps = sweeps_table(args.sets, args.factors, args.threads, args.repeats)
    solved = []
    for name in args.solve:
        for who,k in [('solve',10),('solve',20),('solve',50)]+[('myfm',10)]*(name in args.myfm and find_spec('myfm') is not None):
            res = run(who, name, k, 1)
            if res: solved.append(f"| {name} | {dict(solve='`solve()`', myfm='myFM, SVD++ features, 300 samples')[who]} | {k} | {res['seconds'][0]:.3g} | {res['rmse']:.4f} |")
            print(solved[-1], flush=True)
    text = ''
    if args.memory and (res := run('memory')):
        text = f"\n## Memory\n\nFive sweeps of 2,000,000 users with 50 factors and 40,000,000 ratings: {res['peak']/1e9:.2f} GB, {res['peak']/res['data']:.2f} times tables and ratings ({res['data']/1e9:.2f} GB).\n"
    peers = ', '.join(f'{o} {version(o)}' for o in ('cmfrec','myfm') if find_spec(o))
    machine = f"{os.cpu_count()} cores; Python {platform.python_version()}, torch {version('torch')}, numba {version('numba')}, {peers}; {datetime.now():%Y-%m-%d}"
    solved = about_solve.format(lines='\n'.join(solved)) if solved else ''
    said = ' '.join(['', *(sys.argv[1:] if argv is None else argv)]).rstrip()
    report = about.format(machine=machine, sweeps=sweeps, solved=solved, memory=text, args=said)
    if args.dry: print(report)
    else: (here/args.out).write_text(report)

if __name__=='__main__': main()
