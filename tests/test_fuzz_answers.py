"Odd arguments of whatever answers: refused by a message of ours that names them, with nothing changed; FULL=1 asks much more"
from helpers import * # all of the package, and what the tests share
import matplotlib,numpy as np,pandas as pd,pytest,random,traceback,warnings
from collab_ext import args
from collab_ext.compare import *
from collab_ext.metrics import *
from collab_ext.recommend import *
from helpers import loaders,same,weights

matplotlib.use('agg')
FULL = bool(os.environ.get('FULL'))
n_calls = 20_000 if FULL else 300
home = str(Path(args.__file__).parent)

odd = [None, True, False, 0, 1, -1, 2.5, np.nan, np.inf, 10**12, np.int64(3), np.float32(2), '', 'i0', 'nope', '#na#', b'x', [], {}, (), set(), [None],
    [np.nan], ['i0',3], [['i0']], [True], {'i0':'t'}, range(3), np.arange(3), np.zeros((2,2)), pd.Series(['i0','i1']), pd.Series(dtype=object),
    pd.DataFrame(), pd.DataFrame(dict(user=[3], item=['i0'])), pd.DataFrame(dict(user=[3], item=['i0'], rating=[np.nan])),
    pd.DataFrame(dict(user=['x'], item=['i0'], rating=['good'])), pd.DataFrame(dict(user=[None], item=['i0'], rating=[3.])),
    pd.DataFrame(dict(film=['i0'], title=['t'])), pd.DataFrame([[1,2,3]], columns=['user','user','rating']), lambda o: o, object(), torch.zeros(2),
    torch.tensor([1,2]), Path('x'), 1j, 'popular', 'recall', [3,5], [5,5], ['i0','i1'], 'user', 'mean', pd.Timestamp(0), 'x'*500]

def good_ratings(): return pd.DataFrame(dict(user='zoe', item=['i0','i1','i2'], rating=[5.,1,3]))

def questions(l):
    "Name → (function, arguments that are fine)"
    test = l.dls.valid_ds.decode(l.dls.valid_ds.ids, rating=l.dls.valid_ds.targ)
    seen,rel = [UserItems(o.ids, l.vocab.sizes) for o in (l.dls.train_ds,l.dls.valid_ds)]
    u = l.vocab['user'][1]
    rec = dict(users=u, k=3, exclude_seen=True, candidates=None, exclude=None, items=None, unknown='mean', bs=None, progress=None)
    res = dict(recommend=(l.recommend, rec), new=(l.recommend, dict(rec, users=None, ratings=good_ratings())))
    res.update(similar_items=(l.similar_items, dict(labels='i0', k=3, items=None)), similar_users=(l.similar_users, dict(labels=u, k=3)))
    res.update(explain=(l.explain, dict(user=u, item='i0', k=None, items=None)), predict=(l.predict, dict(row=(u,'i0'), unknown='mean')))
    common = dict(test=test, k=5, min_rating=None, exclude_seen=True, baselines=False)
    res['evaluate'] = l.evaluate,dict(common, candidates=None, auc=False, per_user=False, bs=None, ratings=None, features=None)
    res['compare'] = compare,dict(common, learners=[l,l], metric='ndcg', baselines=(), reference=None, interval='t', level=.9)
    res['measure'] = measure,dict(model=l.model, rel=rel, seen=seen, k=5, items=None, n_rel=None, auc_too=False, features=None)
    res.update(metrics=(RankMetrics, dict(k=5, names='recall')), reliability=(reliability, dict(pred=[1.,2], y=[1.,2], bins=2)))
    res['paired'] = paired,dict(a=[1.,2,4], b=[1.,3,3], interval='t', method='t', level=.9, n_resamples=20)
    res.update(vectors=(l.vectors, dict(kind='item')), top_losses=(l.top_losses, dict(k=3, largest=True, items=None)))
    res.update(plot_recall=(l.plot_recall, dict(test=test, ks=(1,3), baselines=False)), plot_items=(l.plot_items, dict(n=5, items=None)))
    res['plot_scores'] = l.plot_scores,dict(k=3)
    return res

skipped = {('measure','model'), ('measure','rel'), ('measure','seen'), ('measure','items'), ('measure','n_rel'), ('measure','features')} # tensors and models, not what users type

def complaint(e, names):
    "What is wrong with an error, if anything"
    if not isinstance(e, (ValueError,TypeError,KeyError)): return f'is a {type(e).__name__}'
    where = traceback.extract_tb(e.__traceback__)[-1]
    if not where.filename.startswith(home): return f'was raised in {where.filename}:{where.lineno}'
    if not any(o in str(e) for o in names): return 'does not name the argument'

def ask(l, name, f, kwargs, odd_names):
    before,state,vocab = weights(l),dict(l.__dict__),l.vocab
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            f(**kwargs)
    except Exception as e:
        said = {o:[o] for o in odd_names}
        wrong = complaint(e, [*odd_names,'user','item',*sum(said.values(), [])])
        if wrong: return f'{name}({", ".join(f"{o}={kwargs[o]!r:.60}" for o in odd_names)}): {type(e).__name__}: {e!s:.200} – {wrong}'
    finally: plt.close('all')
    changed = [k for k in {*state,*l.__dict__} if state.get(k) is not l.__dict__.get(k)]
    if not same(before, weights(l)) or l.vocab is not vocab: return f'{name}({odd_names}) changed the learner'
    if name!='predict' and changed: return f'{name}({odd_names}) changed {changed}' # fastai's `get_preds` leaves its last batch

@pytest.mark.parametrize('kind', ['solved','nn'])
def test_odd_arguments(kind, tmp_path):
    l = collab_learner(loaders(simulate_ratings(30, 25, 300).ratings), 3, path=tmp_path, **(dict(use_nn=True) if kind=='nn' else {}))
    with l.no_bar(),l.no_logging(): l.fit(1) if kind=='nn' else l.solve(2)
    rng = random.Random(0)
    asked = questions(l)
    if kind=='nn': asked = {k:o for k,o in asked.items() if k not in ('explain','new')}
    cases = [(q,(a,),(o,)) for q,(_,kw) in asked.items() for a in kw for o in odd if (q,a) not in skipped]
    two = []
    for _ in range(n_calls):
        q = rng.choice(list(asked))
        names = [o for o in asked[q][1] if (q,o) not in skipped]
        names = tuple(rng.sample(names, min(len(names), rng.choice([2,2,3]))))
        two.append((q, names, tuple(rng.choice(odd) for _ in names)))
    cases = cases+two if FULL else rng.sample(cases, n_calls)+two[:n_calls//5]
    wrong = []
    for q,names,values in cases:
        f,kw = asked[q]
        if rng.random()<.01: names,values = (*names,'nonsense'),(*values,3)
        if 'nonsense' in names and q not in ('measure','compare','plot_recall'): names,values = names[:-1],values[:-1]
        wrong.append(ask(l, q, f, {**kw, **dict(zip(names, values))}, names))
    wrong = [o for o in wrong if o]
    print(f'\n{len(cases)} calls of what answers, {kind}') # what `-s` shows
    assert not wrong, f'{len(wrong)} of {len(cases)}:\n' + '\n'.join(sorted(wrong)[:200])
