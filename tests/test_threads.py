"Several threads ask one learner; FULL=1 asks for a thousand pairs and more"
from helpers import * # all of the package, and what the tests share
import pytest,threading
from concurrent.futures import ThreadPoolExecutor
from collab_ext.recommend import *
from helpers import learner,loaders,same,weights

FULL = bool(os.environ.get('FULL'))
n_asked = 1000 if FULL else 40
n_pairs = 1000 if FULL else 40

@pytest.fixture(scope='module')
def df(): return simulate_ratings(30, 25, 300).ratings

@pytest.fixture(params=['solved','nn'])
def asked(request, df, tmp_path):
    l = learner(loaders(df, valid_pct=.2), tmp_path, use_nn=request.param=='nn')
    with l.no_bar(),l.no_logging(): l.fit(1) if request.param=='nn' else l.solve(3)
    return l

def in_threads(f, args, n_threads=8):
    "`f` of each of `args`, all threads at once"
    start = threading.Barrier(n_threads)
    def run(part):
        start.wait()
        return [f(*o) for o in part]
    parts = [args[i::n_threads] for i in range(n_threads)]
    with ThreadPoolExecutor(n_threads) as ex: done = list(ex.map(run, parts))
    res = [None]*len(args)
    for i,o in enumerate(done): res[i::n_threads] = o
    return res

def pairs_of(l):
    all_pairs = list(itertools.product(l.vocab['user'][1:], l.vocab['item'][1:]))
    return (all_pairs*2)[:n_asked]

def test_predict(asked):
    pairs = [(o,) for o in pairs_of(asked)]
    want = [asked.predict(*o)[1].item() for o in pairs]
    got = [o[1].item() for o in in_threads(asked.predict, pairs)]
    assert got==pytest.approx(want, abs=1e-6)

def test_recommend(asked):
    users = [(o[0],) for o in pairs_of(asked)][::3]
    want = [asked.recommend(*o, k=4) for o in users]
    assert same(in_threads(partial(asked.recommend, k=4), users), want)

def test_everything_at_once(asked):
    "Different questions beside each other, each with the answer that it has alone"
    u,i = asked.vocab['user'][1:],asked.vocab['item'][1:]
    calls = [lambda: asked.recommend(u[0], 3), lambda: asked.recommend(k=3), lambda: asked.similar_items(i[0], 3), lambda: asked.similar_users(u[1], 3),
        lambda: asked.evaluate(k=5), lambda: asked.vectors('item'), lambda: asked.predict((u[2],i[2]))[1].item(),
        lambda: asked.get_preds(dl=asked.test_dl(pd.DataFrame(dict(user=u[:5], item=i[:5]))))[0].tolist()]
    if solver_for(asked) is not None:
        new = pd.DataFrame(dict(user='zoe', item=i[:4], rating=[5.,1,4,2]))
        calls += [lambda: asked.explain(u[0], i[0]), lambda: asked.recommend(ratings=new, k=3)]
    calls = calls*max(3, n_asked//40)
    want = [f() for f in calls]
    before = weights(asked)
    got = in_threads(lambda f: f(), [(f,) for f in calls])
    for a,b in zip(got, want): assert same(a, b)
    assert same(before, weights(asked))

def test_new_users_change_nothing(asked):
    if solver_for(asked) is None: return
    new = [pd.DataFrame(dict(user=f'n{j}', item=asked.vocab['item'][1+j:5+j], rating=[5.,1,4,2])) for j in range(20)]
    before,vocab,state = weights(asked),asked.vocab,dict(asked.__dict__)
    want = [asked.recommend(ratings=o, k=3) for o in new]
    got = in_threads(lambda o: asked.recommend(ratings=o, k=3), [(o,) for o in new])
    assert same(got, want) and same(before, weights(asked)) and asked.vocab is vocab
    assert {k for k in state if state[k] is not asked.__dict__.get(k)}==set() and set(state)==set(asked.__dict__)

@pytest.mark.parametrize('kind', ['ratings','ials'])
def test_pairs_of_threads_fold_in(kind, df, tmp_path):
    "Two people arrive at once: both are there, each with the rows that they get alone, and nobody else has moved"
    def arrive(who): learn.fold_in(new.assign(user=who))
    for n in range(n_pairs//2):
        if not n%50: # a learner that has not grown much, so that a pair costs as little as the first one
            learn = solved(kind, df, tmp_path)
            new = pd.DataFrame(dict(item=learn.vocab['item'][1:5], rating=[5.,1,4,2]))
            if kind=='ials': new = new[['item']]
            arrive('alone')
            alone = row_of(learn, 'alone')
            before,people = weights(learn)['u_weight.weight'],learn.vocab['user']
        both = [f'a{n}',f'b{n}']
        in_threads(arrive, [(o,) for o in both], 2)
        assert set(both)<=set(learn.vocab['user']), n
        for o in both: torch.testing.assert_close(row_of(learn, o), alone)
        assert same(weights(learn)['u_weight.weight'][:len(people)], before), n
    print(f'\n{n_pairs//2} pairs of threads, {kind}') # what `-s` shows

def solved(kind, df, path):
    if kind=='ratings': learn = learner(loaders(df, valid_pct=.2), path)
    else: learn = implicit_learner(CollabDataLoaders.from_interactions(df[['user','item']], device='cpu'), 3, loss_func='ials', path=path)
    with learn.no_bar(),learn.no_logging(): learn.solve(2)
    return learn

def row_of(learn, user): return weights(learn)['u_weight.weight'][learn.vocab['user'].index(user)]
