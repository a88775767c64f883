"Choosing among candidates: the replay of jester5k, intervals of off-policy estimates, and the best of ten by a selector of simulated readers"
import argparse,os,sys,time
os.environ.setdefault('OMP_NUM_THREADS', '1')
from pathlib import Path
import numpy as np, pandas as pd

here = Path(__file__).resolve().parent
sys.path.insert(0, str(here.parent))

# ---- Tools ----------------------------------------------------------------------------------------------------------

def data_dir(name):
    "A folder of data, or None"
    res = Path(os.environ.get('COLLAB_EXT_DATA') or here.parent.parent/'shared/data')/name
    return res if res.is_dir() else None

def table(head, rows):
    lines = [head, ['---']*len(head), *rows]
    return '\n'.join(f"| {' | '.join(str(o) for o in line)} |" for line in lines)

# ---- Replay of jester5k ---------------------------------------------------------------------------------------------

ways = dict(random=dict(how='epsilon', epsilon=1.), best_average=dict(how='best'), epsilon=dict(how='epsilon', epsilon=.1),
    posterior_mean=dict(how='best'), ucb=dict(how='ucb', width=.5), thompson=dict(how='thompson'))
impersonal = 'random','best_average','epsilon' # these choose by the mean rating of each joke

def jester_ratings():
    "Ratings of 100 jokes by 5,000 people: of 4,000 to learn from, and of the others"
    df = pd.read_csv(data_dir('jester5k')/'ratings.csv').set_axis(['user','item','rating'], axis=1)
    users = df.user.unique()
    old = set(users[np.random.default_rng(0).permutation(len(users))[:4000]])
    is_old = df.user.isin(old)
    return df[is_old],df[~is_old]

def trained(old, n_factors=16):
    "The library's model of those who came before, in closed form"
    from collab_ext import CollabDataLoaders,collab_learner
    learn = collab_learner(CollabDataLoaders.from_df(old, valid_pct=0, seed=0), n_factors=n_factors)
    with learn.no_bar(),learn.no_logging(): learn.solve()
    return learn

class Means:
    "The mean rating of each joke, whoever asks"
    def __init__(self, df): self.means = df.groupby('item').rating.mean()
    def score_candidates(self, items, user=None): return self.means.loc[list(items)].to_numpy(),None
    def rate(self, user, item, rating): pass

def one_person(model, user, ratings, items, n, way, rng):
    "Ratings of what a person is shown, and of the best there was, round by round"
    from collab_ext.choose import choose
    got,most = [],[]
    for t in range(0, len(items), n):
        asked = items[t:t+n]
        picked = asked[choose(*model.score_candidates(asked, user), rng=rng, **ways[way]).index]
        got.append(ratings[picked])
        most.append(max(ratings[o] for o in asked))
        model.rate(user, picked, got[-1])
    return got,most

def replay(learn, old, new, n, way, n_rounds=12, seed=1):
    "Mean rating in rounds 6 to 12 of each way, of the best there was, and the number of people with enough ratings"
    from collab_ext.user_posterior import UserPosterior
    model = Means(old) if way in impersonal else UserPosterior(learn)
    rng,found = np.random.default_rng(seed),[]
    order = np.random.default_rng(seed)
    for user,o in new.groupby('user', sort=False):
        if len(o)<n*n_rounds: continue
        items = order.permutation(o.item.to_numpy())[:n*n_rounds].tolist()
        found.append(one_person(model, user, dict(zip(o.item, o.rating)), items, n, way, rng))
    got,most = np.array(found).transpose(1, 0, 2)
    late = got[:,5:].mean(1)
    return dict(mean=late.mean(), oracle=most[:,5:].mean(), people=len(late), each=late)

def jester(sizes=(2,5,8), report=print):
    "Table of the replay"
    if data_dir('jester5k') is None: return report('jester5k is not there: set COLLAB_EXT_DATA')
    old,new = jester_ratings()
    start = time.perf_counter()
    learn = trained(old)
    report(f"trained on {len(old):,} ratings of {old.user.nunique():,} people in {time.perf_counter()-start:.1f} s")
    rows = []
    for n in sizes:
        res = {o:replay(learn, old, new, n, o) for o in ways}
        base,eps = res['best_average'],res['epsilon']
        for o,v in res.items():
            gain = v['each']-base['each']
            half = 1.96*gain.std()/len(gain)**.5
            ratios = [f"{v['mean']/other['mean']:.3f}" for other in (base,eps)]
            rows.append([n, o, f"{v['mean']:.2f}", *ratios, f"{gain.mean():+.2f} ± {half:.2f}", v['people']])
        rows.append([n, 'oracle', f"{base['oracle']:.2f}", f"{base['oracle']/base['mean']:.3f}", f"{base['oracle']/eps['mean']:.3f}", '', base['people']])
    report(table(['candidates','way','mean rating, rounds 6–12','÷ best average','÷ ε-greedy .1','difference to best average (95 %)','people'], rows))
    return rows

# ---- Off-policy estimates -------------------------------------------------------------------------------------------

settings = { # name: slates, how the log was made, what is judged
    'softmax, 100 slates':(100, dict(how='softmax'), 'best'),
    'softmax, 500 slates':(500, dict(how='softmax'), 'best'),
    'ε = .2, 500 slates':(500, dict(how='epsilon', epsilon=.2), dict(how='softmax', temp=1.)),
    'ε = .2, 500 slates, by chance':(500, dict(how='epsilon', epsilon=.2), dict(how='epsilon', epsilon=1.))}

def worth(policy, n=20_000):
    "What a policy earns, by the truth"
    from collab_ext.off_policy import policy_lists,simulate_slates
    many = simulate_slates(n, readers=n, how='epsilon', epsilon=1., seed=12345)
    return float(np.mean([t@p for t,p in zip(many.truth, policy_lists(policy, many))]))

def coverage(n, log, policy, n_runs, truth):
    "Share of intervals that hold the truth, their mean length and the error of each estimator"
    from collab_ext.off_policy import estimators,off_policy,policy_lists,simulate_slates
    found = {o:[] for o in estimators}
    for seed in range(n_runs):
        slates = simulate_slates(n, seed=seed, **log)
        lists = policy_lists(policy, slates)
        for o in estimators: found[o].append(off_policy(slates, lists, o)[['value','low','high']].to_numpy(float))
    res = {}
    for o,v in found.items():
        value,low,high = np.array(v).T
        res[o] = ((low<=truth)&(truth<=high)).mean(),(high-low).mean(),np.sqrt(((value-truth)**2).mean())
    return res

def off_policy_coverage(n_runs=200, report=print):
    "Table of the coverage of intervals"
    rows = []
    for name,(n,log,policy) in settings.items():
        truth = worth(policy)
        for o,(held,length,error) in coverage(n, log, policy, n_runs, truth).items():
            rows.append([name, o, f'{100*held:.1f}', f'{length:.3f}', f'{error:.3f}'])
    report(table(['log','estimator',f'of 100 intervals hold the truth ({n_runs} logs)','length','error (RMS)'], rows))
    return rows

def looks(n_runs=100, n_votes=1500, every=50, report=print):
    "Share of runs in which an interval ever misses the true difference, looking every 50 votes: of the confidence sequence, and of intervals for one look"
    from collab_ext.off_policy import compare_sources,simulate_votes
    missed = np.zeros((n_runs,2), bool)
    for seed in range(n_runs):
        votes = simulate_votes(dict(human=0., model=0.), n_votes, n_users=60, n_items=100, seed=seed)
        for k in range(every, len(votes)+1, every):
            res = compare_sources(votes[:k], 'human').loc['model']
            missed[seed,0] |= not res.low<=0<=res.high
            naive = 1.96*2/np.sqrt(k) # of two halves of k votes ±1, as if all were independent
            missed[seed,1] |= abs(res.difference)>naive
    report(table(['intervals',f'runs of {n_runs} in which one of {n_votes//every} looks misses the truth'],
        [['confidence sequence, by user and item', int(missed[:,0].sum())],['for one look, votes independent', int(missed[:,1].sum())]]))
    return missed.sum(0)

# ---- Best of ten ----------------------------------------------------------------------------------------------------

def gain_of_ten(seed, n_votes, n_slates=400):
    "Chance to be liked of one of ten sentences: any, the selector's choice, the best; after some votes on others"
    from collab_ext.selector import selector_learner
    from collab_ext.simulate_readers import Readers,votes_on,word_vectors
    readers,rng = Readers(seed=seed),np.random.default_rng(seed)
    slates = [readers.write(10, rng) for _ in range(n_slates)]
    liked = np.array([readers.liked(o) for o in slates])
    learn = selector_learner(votes_on(readers, readers.write(n_votes, rng), rng).drop(columns='user'), word_vectors, valid=0).solve()
    scores = learn.score_candidates(sum(slates, []))[0].reshape(liked.shape)
    picked = liked[np.arange(n_slates),scores.argmax(1)]
    return liked.mean(),picked.mean(),liked.max(1).mean()

def best_of_ten(sizes=(100,300,1000), n_runs=10, report=print):
    "Table of what a selector's choice of ten gains over any of them, as a share of what the best would gain"
    rows = []
    for n in sizes:
        by_chance,picked,most = np.array([gain_of_ten(o, n) for o in range(n_runs)]).T
        share = (picked-by_chance)/(most-by_chance)
        rows.append([n, f'{by_chance.mean():.3f}', f'{picked.mean():.3f}', f'{most.mean():.3f}', f'{share.mean():.2f}', f'{share.min():.2f}'])
    report(table(['votes','liked, any of ten','the selector\'s choice','the best of ten','share of the gain',f'lowest of {n_runs} runs'], rows))
    return rows

# ---- The command ----------------------------------------------------------------------------------------------------

parts = dict(jester=jester, off_policy=off_policy_coverage, looks=looks, best_of_ten=best_of_ten)

if __name__=='__main__':
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('--only', choices=list(parts), help='one part')
    only = parser.parse_args().only
    for o in [only] if only else parts:
        print(f'\n## {o}\n', flush=True)
        parts[o]()
