"Scores from comparisons: accuracy on held-out ones, coverage, speed beside choix and evalica, sizes, resuming, and one adversary in a hundred"
import argparse,json,os,platform,resource,subprocess,sys,tempfile,time,warnings
os.environ.setdefault('OMP_NUM_THREADS', '1')
from datetime import datetime
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
import numpy as np, pandas as pd

here = Path(__file__).resolve().parent
names = dict(contributor_name='public_username', a_name='video_a', b_name='video_b', comparison_name='score', criterion_name='criteria')
main_criterion = 'largely_recommended'
thousand = dict(small=(100_000,1_000), medium=(1_000_000,10_000), large=(5_000_000,100_000)) # wins, items
sizes = [(50,200,5_000), (500,2_000,100_000), (2_000,20_000,1_000_000), (10_000,100_000,5_000_000)] # contributors, items, comparisons

# ---- Tools ----------------------------------------------------------------------------------------------------------

def data_dir():
    "The folder of tournesol-tiny, or None"
    res = Path(os.environ.get('COLLAB_EXT_DATA') or here.parent.parent/'shared/data')/'tournesol-tiny'
    return res if res.is_dir() else None

def comparisons(): return pd.read_csv(data_dir()/'comparisons.csv')

class Timer:
    "Seconds on the clock, and of this process alone"
    def __enter__(self):
        self.start = time.perf_counter(),time.process_time()
        return self
    def __exit__(self, *args): self.seconds,self.cpu = time.perf_counter()-self.start[0],time.process_time()-self.start[1]
    def result(self, **more): return dict(seconds=self.seconds, cpu=self.cpu, **more)

def memory(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1e6 # GB

def solved(df, comparison_max=None, step=None, **kwargs):
    "A learner of all comparisons in a frame, after `solve`"
    from collab_ext.comparisons import ComparisonDataLoaders
    from collab_ext.comparison_learner import comparison_learner
    columns = names if 'public_username' in df else {}
    warnings.simplefilter('ignore', UserWarning) # of separate components
    dls = ComparisonDataLoaders.from_df(df, comparison_max, valid_pct=0, step=step, **columns)
    return quietly(comparison_learner(dls, **kwargs))

def quietly(learn, **kwargs):
    "Solve without a progress bar"
    with learn.no_bar(),learn.no_logging(): return learn.solve(**kwargs)

def spearman(x, y): return float(pd.Series(np.asarray(x)).corr(pd.Series(np.asarray(y)), method='spearman'))

def run(*args, threads=1):
    "The result of one measurement, in a process of its own"
    env = dict(os.environ, OMP_NUM_THREADS=str(threads), PYTHONPATH=os.pathsep.join([str(here.parent), os.environ.get('PYTHONPATH','')]))
    res = subprocess.run([sys.executable, __file__, '--child', *map(str, args)], capture_output=True, text=True, env=env)
    if res.returncode: return print(f"{' '.join(map(str, args))} failed: {res.stderr[-800:]}")
    res = json.loads(res.stdout.strip().splitlines()[-1])
    print(*args, res, flush=True)
    return res

def solidago(what, df, threshold=1., timeout=600):
    "Scores by solidago, and seconds; None where it is not installed or takes too long"
    python = os.environ.get('SOLIDAGO_PYTHON')
    if not python: return
    with tempfile.TemporaryDirectory() as d:
        source,target = Path(d)/'in.csv',Path(d)/'out.csv'
        df.to_csv(source, index=False)
        try: res = subprocess.run([python, here/'compare_solidago.py', what, source, target, str(threshold)], capture_output=True, text=True, timeout=timeout)
        except subprocess.TimeoutExpired: return print('solidago took too long')
        if res.returncode: return print('solidago failed:', res.stderr[-800:])
        return dict(json.loads(res.stdout.strip().splitlines()[-1]), scores=pd.read_csv(target))

def as_solidago(who, a, b, answer, most):
    return pd.DataFrame(dict(user_id=who, entity_a=a, entity_b=b, comparison=answer, comparison_max=most))

def table(head, rows):
    lines = [head, ['---']*len(head), *rows]
    return '\n'.join(f"| {' | '.join(str(o) for o in line)} |" for line in lines)

def timing(res): return f"{res['seconds']:.2f} ({res['cpu']:.2f})" if res else 'not run'

# ---- Held-out comparisons of tournesol-tiny -------------------------------------------------------------------------

def tiny_split():
    "A fifth of all pairs of a contributor held out; tested are those of the main criterion whose items the contributor compared otherwise"
    c = comparisons()
    key = c.public_username+'|'+c.video_a+'|'+c.video_b
    pairs = key.unique()
    held = key.isin(set(np.random.default_rng(0).choice(pairs, int(.2*len(pairs)), replace=False)))
    train = c[~held]
    own = train[train.criteria==main_criterion]
    seen = set(zip(own.public_username, own.video_a))|set(zip(own.public_username, own.video_b))
    test = c[held & (c.criteria==main_criterion)]
    known = [(u,a) in seen and (u,b) in seen for u,a,b in zip(test.public_username, test.video_a, test.video_b)]
    return train,test[known]

def heldout_errors(answers, score):
    "Negative log likelihood relative to the root law, and squared error, of expected answers between −1 and 1"
    import torch
    from collab_ext.root_laws import UniformLaw
    law,r = UniformLaw(),torch.tensor(score.to_numpy()/10)
    m = torch.tensor(np.clip(answers, -.999, .999))
    return dict(nll=law.nll(law.inverse_mean(m), r).mean().item(), mse=((m-r)**2).mean().item(), n=len(r))

ways = dict(ours={}, separate=dict(levels=('entry',), variance=49, tau=1, averages=False, scales=False))

def heldout(way):
    train,test = tiny_split()
    step = 0 if way=='separate' else None
    with Timer() as t: learn = solved(train, 10, step=step, **ways[way])
    scale = learn.dls.train_ds.scale
    if way=='ours': answers = learn.expected_answers(test)/scale
    else: answers = learn.model.law.mean(learn.model(learn.dls.train_ds.encode(test).ids).detach()).numpy() # the most probable scores
    return t.result(**heldout_errors(answers, test.score))

def heldout_solidago():
    "The same by solidago, contributors by themselves"
    from collab_ext.root_laws import UniformLaw
    import torch
    train,test = tiny_split()
    train = train[train.criteria==main_criterion]
    users,items = pd.Index(train.public_username.unique()),pd.Index(pd.unique(pd.concat([train.video_a,train.video_b])))
    rows = [users.get_indexer(train.public_username),items.get_indexer(train.video_a),items.get_indexer(train.video_b)]
    res = solidago('own', as_solidago(*rows, train.score, 10))
    if not res: return
    known = res.pop('scores').set_index(['user','entity']).score
    sides = [known.reindex(pd.MultiIndex.from_arrays([users.get_indexer(test.public_username),items.get_indexer(test[o])])).to_numpy() for o in ('video_a','video_b')]
    answers = UniformLaw().mean(torch.tensor(sides[1]-sides[0])).numpy()
    return dict(res, **heldout_errors(answers, test.score))

def tiny_time(rounds=3):
    "Everything of all criteria, from the frame to scores with intervals"
    c = comparisons()
    times = []
    for _ in range(rounds):
        with Timer() as t: own = solved(c, 10).scores()
        times.append((t.seconds,t.cpu))
    return dict(seconds=min(o[0] for o in times), cpu=min(o[1] for o in times), scores=len(own))

def heldout_section(args):
    found = dict(ours=run('heldout','ours'), separate=run('heldout','separate'), solidago=run('heldout_solidago') if os.environ.get('SOLIDAGO_PYTHON') else None)
    titles = dict(ours='here', separate="here, with solidago's defaults", solidago='solidago 0.4.1, one criterion')
    rows = [[titles[k], f"{o['nll']:.4f}", f"{o['mse']:.4f}", timing(o)] for k,o in found.items() if o]
    n = found['ours']['n']
    text = table(['', 'relative negative log likelihood', 'squared error', 'seconds (of the process)'], rows)
    t = run('tiny_time')
    return (f"## Held-out comparisons of tournesol-tiny\n\nA fifth of all (contributor, pair) held out, {n:,} of them on `{main_criterion}` tested. Variances, scales and consistency are "
        f"learned from the training part.\n\n{text}\n\nAll comparisons on all criteria, from the frame to {t['scores']:,} scores with intervals: {timing(t)} s.")

# ---- Published scores -----------------------------------------------------------------------------------------------

def published():
    "Spearman's correlation with the published scores of each contributor, of answers that were divided and of those that were not"
    c = comparisons()
    c = c[c.criteria==main_criterion].drop(columns='criteria')
    known = pd.read_csv(data_dir()/'individual_criteria_scores.csv')
    known = known[known.criteria==main_criterion].set_index(['public_username','video']).score
    from collab_ext.comparisons import ComparisonDataLoaders
    from collab_ext.comparison_learner import comparison_learner
    columns = {k:v for k,v in names.items() if k!='criterion_name'}
    res = {}
    for way,factor in dict(divided=1., undivided=10.).items():
        dls = ComparisonDataLoaders.from_df(c, 10, valid_pct=0, step=0, **columns)
        dls.train_ds.targ *= factor # the division that the published scores lack
        learn = comparison_learner(dls, law='uniform', levels=('contributor',), variance=50., tau=1., scales=False, averages=False)
        learn.model.prior = dict(variance=dict(contributor=50.), tau=1., scale_variance=.1, slope=0., scales=False) # nothing to learn
        ours = quietly(learn).scores().set_index(['contributor','item']).score
        both = pd.concat([ours, known], axis=1, keys=['ours','known'], join='inner')
        res[way] = {u:round(spearman(g.ours, g.known), 5) for u,g in both.groupby(level=0)}
    return res

def published_section(args):
    res = run('published')
    rows = [[way, *o.values()] for way,o in res.items()]
    head = ['answers', *(f'contributor {i+1}' for i in range(len(res['divided'])))]
    return ("## Published scores of tournesol-tiny\n\nSpearman's correlation with the published individual scores, prior variance 50. These were computed from answers between −10 and 10 by a law of "
        f"answers between −1 and 1: with that division left out, they are found again.\n\n{table(head, rows)}")

# ---- Coverage -------------------------------------------------------------------------------------------------------

def one_contributor(n, sd, seed, n_items=100):
    "Comparisons by one contributor, and the true scores"
    import torch
    from collab_ext.root_laws import UniformLaw
    rng = np.random.default_rng(seed)
    truth = sd*rng.normal(size=n_items)
    a = rng.integers(n_items, size=n)
    b = (a + rng.integers(1, n_items, size=n))%n_items
    r = UniformLaw().sample(torch.tensor(truth[b]-truth[a]), torch.Generator().manual_seed(seed)).numpy()
    return pd.DataFrame(dict(contributor='ann', item_a=a, item_b=b, comparison=r)),truth

def held(scores, truth):
    "Share of centred truths within intervals; `scores` has item, score, left and right"
    error = (truth-truth.mean())-(scores.score-scores.score.mean())
    return ((error>=-scores.left)&(error<=scores.right)).mean()

def coverage(n, sd, n_seeds):
    warnings.simplefilter('ignore')
    found = []
    for seed in range(n_seeds):
        df,truth = one_contributor(n, sd, seed)
        own = solved(df, step=0).scores(.9)
        found.append(held(own, truth[own.item.to_numpy(int)]))
    return dict(held=float(np.mean(found)), se=float(np.std(found)/n_seeds**.5))

def coverage_solidago(n, sd, n_seeds, threshold):
    draws = [one_contributor(n, sd, s) for s in range(n_seeds)]
    df = pd.concat([as_solidago(s, d.item_a, d.item_b, d.comparison, 1.) for s,(d,_) in enumerate(draws)], ignore_index=True)
    res = solidago('own', df, threshold)
    return res and float(np.mean([held(g, draws[s][1][g.entity.to_numpy(int)]) for s,g in res['scores'].groupby('user')]))

def coverage_section(args):
    rows = []
    for sd in (1,3):
        for n in (150,300,600,1000,2000):
            res = run('coverage', n, sd, args.seeds)
            peers = [coverage_solidago(n, sd, min(args.seeds, 2), o) for o in (1.,.25)]
            rows.append([n, f'{n/100:g}', f'{2*n/100:g}', sd, f"{res['held']:.3f} ± {res['se']:.3f}", *(f'{o:.3f}' if o is not None else 'not run' for o in peers)])
            print(rows[-1], flush=True)
    head = ['comparisons', 'per item', 'each item is in', 'spread of truths', 'held by ours', 'solidago (2 seeds), threshold 1', 'threshold .25']
    return (f"## Coverage\n\nShare of centred true scores in the intervals of `scores(level=.9)`: one contributor, 100 items, random pairs, answers by the uniform law, {args.seeds} seeds "
        f"(mean ± standard error).\n\n{table(head, rows)}")

platforms = [(5,500), (15,1_500), (60,6_000), (60,30_000)] # contributors, comparisons

def platform_coverage(n_contributors, n, n_seeds):
    "Shares of true scores in intervals: of contributors, and of the same quantile of all contributors' true scores"
    from collab_ext.aggregate import aggregate_scores
    from collab_ext.simulate_comparisons import simulate_comparisons
    found = []
    for seed in range(n_seeds):
        sim = simulate_comparisons(n_contributors, 200 if n>20_000 else 40, n, seed=seed, scale_sd=0)
        learn = solved(sim.comparisons, 10, step=0)
        own = learn.scores(.9).merge(sim.individual.rename(columns=dict(score='true')), on=['contributor','item'])
        shared = learn.global_scores(level=.9).merge(aggregate_scores(sim.individual).rename(columns=dict(score='true'))[['item','true']], on='item')
        shares = []
        for df,by in ((own,own.contributor), (shared,np.zeros(len(shared)))):
            off = (df.true-df.true.groupby(by).transform('mean')) - (df.score-df.score.groupby(by).transform('mean'))
            shares.append(float(((off<=df.right)&(off>=-df.left)).mean()))
        found.append(shares)
    return [float(o) for o in np.mean(found, 0)]

def platforms_section(args):
    rows = []
    for n_contributors,n in platforms:
        res = run('platform_coverage', n_contributors, n, 4)
        if res: rows.append([n_contributors, f'{n:,}', *(f'{o:.3f}' for o in res)])
    head = ['contributors', 'comparisons', "held of contributors' scores", 'held of global scores']
    return ("## Coverage on platforms\n\nShare of true scores in the intervals of `scores(level=.9)` and of `global_scores(level=.9)`; the true global score is the same quantile of what the "
        f"contributors truly think, also of items that they did not compare. Simulated platforms with their defaults but equal scales, 4 seeds; centred.\n\n{table(head, rows)}")

# ---- Wins and losses ------------------------------------------------------------------------------------------------

def wins(name, seed=0):
    "Winners and losers, and true scores"
    n,n_items = thousand[name]
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=n_items)
    a = rng.integers(n_items, size=n)
    b = (a + rng.integers(1, n_items, size=n))%n_items
    a_wins = rng.random(n)<1/(1+np.exp(truth[b]-truth[a]))
    return np.where(a_wins, a, b),np.where(a_wins, b, a),truth

def by_ours(winner, loser):
    from collab_ext.comparisons import wins_frame
    with Timer() as t: own = solved(wins_frame(pd.DataFrame(dict(winner=winner, loser=loser)))).item_scores()
    return t,own.set_index('item').score

def by_evalica(winner, loser):
    import evalica
    first = [evalica.Winner.X]*len(winner)
    with Timer() as t: scores = evalica.bradley_terry(winner, loser, first).scores
    return t,scores

def by_choix(winner, loser):
    import choix
    pairs = list(zip(winner.tolist(), loser.tolist()))
    n = max(winner.max(), loser.max())+1
    with Timer() as t: scores = choix.ilsr_pairwise(n, pairs)
    return t,pd.Series(scores)

def wins_of(who, name, target):
    "Seconds, and scores in the file `target`; a small fit first, for what is loaded on first use"
    winner,loser,truth = wins(name)
    fit = dict(ours=by_ours, evalica=by_evalica, choix=by_choix)[who]
    few = np.arange(50)
    fit(np.r_[few,few[::-1]], np.r_[few[1:],0,few[::-1][1:],49])
    before = memory()
    t,scores = fit(winner, loser)
    scores.sort_index().to_csv(target)
    return t.result(memory=memory(), before=before, truth=spearman(scores.sort_index(), truth[scores.sort_index().index.to_numpy(int)]))

def read_scores(file): return pd.read_csv(file, index_col=0).iloc[:,0]

def wins_section(args):
    rows = []
    for name in args.wins:
        peers = ['ours'] + [o for o in ('evalica','choix') if find_spec(o) and (name=='small' or name=='medium' and o=='evalica')]
        with tempfile.TemporaryDirectory() as d:
            found = {o:[] for o in peers}
            for _ in range(dict(small=args.repeats, medium=min(args.repeats, 2), large=1)[name]):
                for who in peers:
                    res = run('wins_of', who, name, Path(d)/who, threads=2 if name=='large' else 1)
                    if res: found[who].append(res)
            scores = {o:read_scores(Path(d)/o) for o,v in found.items() if v}
        for who,times in found.items():
            if not times: continue
            best = dict(seconds=min(o['seconds'] for o in times), cpu=min(o['cpu'] for o in times))
            agreement = '' if who=='ours' else f"{spearman(scores['ours'], scores[who].reindex(scores['ours'].index)):.6f}"
            n,n_items = thousand[name]
            rows.append([f'{n:,}', f'{n_items:,}', who, timing(best), f"{times[0]['memory']:.2f}", f"{times[0]['truth']:.4f}", agreement])
    head = ['wins', 'items', '', 'seconds (of the process)', 'GB at most', 'Spearman with the truth', 'with ours']
    return ("## Wins and losses\n\nFrom arrays of winners and losers: `wins_frame`, `ComparisonDataLoaders.from_df`, `comparison_learner`, `solve`, `item_scores`; beside `evalica.bradley_terry` and "
        "`choix.ilsr_pairwise`, whose lists of pairs and results are made before the clock starts. Each fit is a process of its own, in turns, the least of several; one thread (two for the "
        f"largest, for which matrices of items × items do not fit in memory). Ours learns a prior variance, too.\n\n{table(head, rows)}")

# ---- Sizes ----------------------------------------------------------------------------------------------------------

def simulated(n_contributors, n_items, n):
    from collab_ext.simulate_comparisons import simulate_comparisons,score_error
    with Timer() as draw: sim = simulate_comparisons(n_contributors, n_items, n)
    before = memory()
    with Timer() as t:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            learn = solved(sim.comparisons.drop(columns='time'), 10)
        own = learn.item_scores()
    return t.result(draw=draw.seconds, memory=memory(), before=before, pearson=float(score_error(own, sim.truth).pearson.iloc[0]))

def simulated_solidago(n_contributors, n_items, n):
    from collab_ext.simulate_comparisons import simulate_comparisons,score_error
    sim = simulate_comparisons(n_contributors, n_items, n)
    c = sim.comparisons
    a,b = [c[o].str[1:].astype(int) for o in ('item_a','item_b')]
    res = solidago('global', as_solidago(c.contributor, a, b, c.comparison, 10), timeout=3600)
    if not res: return
    scores = res.pop('scores').assign(item=lambda o: 'i'+o.entity.astype(int).astype(str))
    return dict(res, pearson=float(score_error(scores[['item','score']], sim.truth).pearson.iloc[0]))

def simulated_section(args):
    rows = []
    for size in sizes[:args.sizes]:
        res = run('simulated', *size, threads=2)
        if not res: continue
        peer = run('simulated_solidago', *size) if size[2]<=100_000 and os.environ.get('SOLIDAGO_PYTHON') else None
        rows.append([*(f'{o:,}' for o in size), f"{res['pearson']:.4f}", timing(res), f"{res['memory']:.2f}", f"{res['draw']:.2f}",
            f"{peer['pearson']:.4f}" if peer else 'not run', timing(peer)])
    head = ['contributors', 'items', 'comparisons', 'Pearson', 'seconds (of the process)', 'GB at most', 'seconds to draw them', "solidago's Pearson", 'seconds']
    return ("## Simulated platforms\n\n`simulate_comparisons` with its defaults; correlation of `item_scores` with the true scores of items; two threads.\n\n"+table(head, rows))

# ---- Factors --------------------------------------------------------------------------------------------------------

factor_sizes = [(60,80,4_000,2), (60,80,12_000,2), (60,80,12_000,0), (200,200,40_000,3)] # contributors, items, comparisons, true factors

def with_taste(n_contributors, n_items, n, rank, seed):
    "Comparisons whose true scores are a common score, factors and chance: variances 1, 1 and .09, or 1 of chance without factors"
    import torch
    from collab_ext.root_laws import UniformLaw
    rng = np.random.default_rng(seed)
    common = rng.normal(size=n_items)
    taste = rng.normal(size=(n_contributors,rank))@rng.normal(size=(rank,n_items))/max(rank, 1)**.5
    truth = common + taste + (.3 if rank else 1)*rng.normal(size=(n_contributors,n_items))
    who,a = rng.integers(n_contributors, size=n),rng.integers(n_items, size=n)
    b = (a + rng.integers(1, n_items, size=n))%n_items
    answers = UniformLaw().sample(torch.tensor(truth[who,b]-truth[who,a]), torch.Generator().manual_seed(seed)).numpy()
    return pd.DataFrame(dict(contributor=who, item_a=a, item_b=b, comparison=answers))

def taste(n_contributors, n_items, n, rank, most, n_seeds=2):
    "Squared error of a held-out fifth, and how many factors were found"
    found = []
    for seed in range(n_seeds):
        df = with_taste(n_contributors, n_items, n, rank, seed)
        n_train = int(.8*n)
        with Timer() as t: learn = solved(df.iloc[:n_train], step=0, factors=most)
        test = df.iloc[n_train:]
        found.append([((learn.expected_answers(test)-test.comparison)**2).mean(), learn.model.item_factors.shape[1], t.cpu])
    mse,_,cpu = np.mean(found, 0)
    return dict(mse=float(mse), ranks=[int(o[1]) for o in found], cpu=float(cpu))

def factors_section(args):
    rows = []
    for size in factor_sizes:
        without,within = [run('taste', *size, most) for most in (0,8)]
        if without and within: rows.append([*(f'{o:,}' for o in size), f"{without['mse']:.4f}", f"{within['mse']:.4f}", ', '.join(map(str, within['ranks'])),
            f"{without['cpu']:.1f}", f"{within['cpu']:.1f}"])
    head = ['contributors', 'items', 'comparisons', 'true factors', 'squared error without', 'with `factors=8`', 'factors found (two seeds)', 'seconds of the process without', 'with']
    return ("## Factors of contributors and items\n\nTrue scores are a common one, factors (variance 1 altogether) and chance (.09), or chance alone (1). A fifth of the comparisons is held out.\n\n"+table(head, rows))

# ---- Resuming -------------------------------------------------------------------------------------------------------

def resume(n_contributors, n_items, n):
    "Grow by 1 % and solve, against a solution from nothing with the same variances, and one that learns them"
    from collab_ext.simulate_comparisons import simulate_comparisons
    c = simulate_comparisons(n_contributors, n_items, n).comparisons.drop(columns='time')
    warnings.simplefilter('ignore')
    n_old = int(.99*n)
    learn = solved(c.iloc[:n_old], 10, step=0)
    prior = learn.model.prior
    learn.model.prior = prior
    quietly(learn) # settled, with these variances
    with Timer() as resumed: quietly(learn.grow(c.iloc[n_old:]))
    with Timer() as scratch: fresh = solved(c, 10, step=0)
    fresh.model.prior = prior
    for o in fresh.model.parameters(): o.data.zero_()
    fresh.model.contributor_scale.fill_(1.)
    with Timer() as same: quietly(fresh)
    x,y = [o.item_scores().set_index('item').score for o in (learn,fresh)]
    return dict(resumed=resumed.result(), scratch=scratch.result(), same=same.result(), difference=float((x-y.reindex(x.index)).abs().max()))

def resume_section(args):
    rows = []
    for size in [(50,200,5_000), (500,2_000,100_000)]:
        res = run('resume', *size)
        if res: rows.append([*(f'{o:,}' for o in size), *(timing(res[o]) for o in ('resumed','same','scratch')), f"{res['resumed']['cpu']/res['scratch']['cpu']:.3f}", f"{res['difference']:.1e}"])
    head = ['contributors', 'items', 'comparisons', '`grow` by 1 % and `solve`', 'from zero, same variances', 'from the frame, variances learned', 'first / last', 'largest difference of first and second']
    return f"## Resuming\n\nSeconds on the clock (of the process).\n\n{table(head, rows)}"

# ---- One adversary in a hundred -------------------------------------------------------------------------------------

def adversary(attack, seed):
    from collab_ext.simulate_comparisons import simulate_comparisons
    warnings.simplefilter('ignore')
    sim = simulate_comparisons(100, 300, 20_000, n_adversaries=1, attack=attack, activity=.5, seed=seed)
    bad = sim.contributors.contributor[sim.contributors.adversary].iloc[0]
    c = sim.comparisons.drop(columns='time')
    learners = [solved(o, 10, step=0) for o in (c, c[c.contributor!=bad])]
    res = dict(comparisons=int((c.contributor==bad).sum()))
    for name in ('global_scores','item_scores'):
        x,y = [getattr(o, name)().set_index('item').score for o in learners]
        x,y = x.align(y, join='inner')
        move = ((x-x.mean())-(y-y.mean())).abs()
        res[name] = dict(spread=float(y.std()), largest=float(move.max()), typical=float(move.median()), spearman=spearman(x, y))
    return res

def adversary_section(args):
    rows = []
    for attack in ('negate','push'):
        for seed in range(2):
            res = run('adversary', attack, seed)
            if not res: continue
            cells = [f"{res[k][o]:.4f}" for k in ('global_scores','item_scores') for o in ('largest','typical','spearman','spread')]
            rows.append([attack, seed, res['comparisons'], *cells])
    head = ['attack', 'seed', 'comparisons of the adversary', *(f'{k}: {o}' for k in ('global', 'item') for o in ('largest move','median move','Spearman','spread'))]
    return ("## One adversary in a hundred\n\n100 contributors, 300 items, 20,000 comparisons, one contributor an adversary: scores with and without them, each fitted from the frame, so that scales, "
        f"variances and what contributors lean on move as well; centred.\n\n{table(head, rows)}")

# ---- Report ---------------------------------------------------------------------------------------------------------

sections = dict(heldout=heldout_section, published=published_section, coverage=coverage_section, platforms=platforms_section, wins=wins_section,
    simulated=simulated_section, factors=factors_section, resume=resume_section, adversary=adversary_section)

def child(what, *args):
    "Measure once, and print it"
    args = [float(o) if o.replace('.','',1).isdigit() and '.' in o else int(o) if o.isdigit() else o for o in args]
    print(json.dumps(globals()[what](*args)))

about = """# Scores from comparisons

Written by `python benchmarks/compare.py`. {machine}.

Seconds are those on the clock, while other work shares the cores, and in brackets those of the process alone. {without}

{text}
"""

def main(argv=None):
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('--child', nargs='+')
    p.add_argument('--only', nargs='*', default=list(sections), choices=list(sections))
    p.add_argument('--wins', nargs='*', default=list(thousand), choices=list(thousand))
    p.add_argument('--sizes', type=int, default=len(sizes), help='How many of the simulated sizes')
    p.add_argument('--seeds', type=int, default=16, help='Seeds for coverage')
    p.add_argument('--repeats', type=int, default=5)
    p.add_argument('--dry', action='store_true', help='Write nothing')
    args = p.parse_args(argv)
    if args.child: return child(*args.child)
    parts_dir = Path(tempfile.gettempdir())/'collab_ext_compare'
    parts_dir.mkdir(exist_ok=True)
    for name in args.only:
        if name in ('heldout','published') and data_dir() is None: print(f'{name}: no tournesol-tiny in COLLAB_EXT_DATA')
        else: (parts_dir/f'{name}.md').write_text(sections[name](args))
    parts = [(parts_dir/f'{o}.md').read_text() for o in sections if (parts_dir/f'{o}.md').exists()]
    peers = [f'{o} {version(o)}' for o in ('choix','evalica') if find_spec(o)]
    lacking = [o for o in ('choix','evalica') if not find_spec(o)]+['solidago (name its Python in the environment variable SOLIDAGO_PYTHON)']*('SOLIDAGO_PYTHON' not in os.environ)
    machine = f"{os.cpu_count()} cores; Python {platform.python_version()}, torch {version('torch')}, numpy {version('numpy')}, scipy {version('scipy')}, {', '.join(peers)}; {datetime.now():%Y-%m-%d}"
    report = about.format(machine=machine, without=f"Not installed here: {', '.join(lacking)}." if lacking else '', text='\n\n'.join(parts))
    if args.dry: print(report)
    else: (here/'compare.md').write_text(report)

if __name__=='__main__': main()
