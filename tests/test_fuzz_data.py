"""Odd arguments for `from_df`, `from_interactions`, splitters, `grow` and `fold_in`

Whatever is raised is of ours: a `ValueError`, `TypeError`, `KeyError` or `FileNotFoundError` raised in this package, whose message names
what was wrong. A failed call changes nothing. `FULL=1 pytest tests/test_fuzz_data.py` tries many more."""
import os,random,traceback

import numpy as np,pandas as pd,pytest,torch
from helpers import * # all of the package, and what the tests share

n_calls = 4000 if os.environ.get('FULL') else 60

odd = [None, True, False, 0, -1, 1, 2, 7, .5, -.5, 1.5, np.nan, np.inf, 1e39, 10**20, '',
    'user', 'item', 'rating', 'time', 'w', 'no such', 'mean', 'cpu', b'x', [], [1], ['a','b'], (), (1,5), (5,1), (0,np.inf), (1,2,3),
    {}, dict(a=1), set(), object(), len, np.int8(2), np.float32(.5), np.array([1,2]), torch.tensor(1.), pd.Timestamp('2020'), pd.NA,
    pd.NaT, Path('no such')]

def base(rng):
    "A good frame of ratings"
    n = rng.randint(3, 40)
    df = pd.DataFrame(dict(user=[rng.randint(0, 9) for _ in range(n)], item=[rng.choice('abcdefg') for _ in range(n)]))
    return df.assign(rating=[float(rng.randint(1, 5)) for _ in range(n)], time=range(n), w=[rng.random() for _ in range(n)])

def strange(rng):
    "A frame with one thing wrong with it, or none"
    df = base(rng)
    col = rng.choice(list(df))
    row = rng.randrange(len(df))
    def holding(value):
        res = df.astype({col:object})
        res.at[row,col] = value
        return res
    return rng.choice([lambda: df, lambda: df[:0], lambda: df.iloc[:,:2], lambda: df.iloc[:,:1], lambda: df.iloc[:,[0,0,1,2]],
        lambda: df.astype(str), lambda: df.set_axis(range(5), axis=1), lambda: df.drop(columns=col),
        lambda: df.rename(columns={col:rng.choice(['count','#na#','',0,('a',1),None])}),
        lambda: holding(rng.choice([o for o in odd if not isinstance(o, (np.ndarray,torch.Tensor))])), lambda: df.astype({col:'category'}),
        lambda: df.assign(**{col:pd.Timestamp('2020')}), lambda: df.assign(**{col:[[1]]*len(df)}), lambda: df.assign(**{col:1+2j}),
        lambda: df.assign(**{col:1e300}), lambda: df.assign(**{col:True}), lambda: df.set_index(['user','item'], drop=False),
        lambda: pd.concat(dict(a=df), axis=1), lambda: df.to_dict('list'),
        lambda: df.values.tolist(), lambda: rng.choice(odd), lambda: df.T, lambda: df.sample(frac=1, random_state=0)])()

splits = [([],[]), ([0],[99]), ([0],[-1]), ([.5],[0]), ([0],[0]), None, 3, ([[0]],[1]), (['a'],[1]), ([True],[False])]
splitters = [lambda rng: TimeSplitter('time', rng.random()), lambda rng: LeaveLastSplitter('time'), lambda rng: UserSplitter(whole=rng.random()<.5),
    lambda rng: KFoldSplitters(2)[0], lambda rng: UserFoldSplitters(2)[1], lambda rng: TimeFoldSplitters('time', n=2)[0],
    lambda rng: rng.choice(odd), lambda rng: lambda df: (range(len(df)),[]), lambda rng: lambda df: rng.choice(splits)]

def maybe(rng, **choices):
    "Some of the arguments, each a good value or an odd one"
    picked = rng.sample(sorted(choices), rng.randint(0, min(3, len(choices))))
    return {k:(rng.choice(odd) if rng.random()<.5 else choices[k](rng)) for k in picked}

loading = dict(valid_pct=lambda r: r.random(), user_name=lambda r: 'user', item_name=lambda r: 'item', seed=lambda r: 3,
    unknown=lambda r: 'mean', bs=lambda r: 8, val_bs=lambda r: 4, splitter=lambda r: r.choice(splitters)(r), weight_name=lambda r: 'w',
    vocab=lambda r: dict(user=['#na#',1], item=['#na#','a']))
ratings = dict(loading, rating_name=lambda r: 'rating', y_range=lambda r: (0,6), duplicates=lambda r: r.choice(['last','mean']))
clicks = dict(loading, count_name=lambda r: 'rating', n_neg=lambda r: 2, neg_pow=lambda r: .5)
growing = {k:v for k,v in clicks.items() if k not in ('user_name','item_name','count_name','vocab')}

def ours(e):
    "Was this raised by a line of this package (or by Python, for an argument that a function does not have), with a message?"
    if isinstance(e, TypeError) and 'argument' in str(e): return True
    where = Path(traceback.extract_tb(e.__traceback__)[-1].filename)
    return isinstance(e, (ValueError,TypeError,KeyError,FileNotFoundError)) and where.parent.name=='collab_ext' and len(str(e))>15

def attempt(f, say):
    "Call `f`; None, or what it raised after a look at it"
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try: f()
        except Exception as e:
            if not ours(e): raise AssertionError(f"{say()} raised {type(e).__name__}: {e}") from e
            return e

def said(n, what): print(f'\n{n} calls of {what}') # what `-s` shows

def told(name, data, kw): return lambda: f"{name}({data if not hasattr(data, 'head') else data.head(3).to_dict('list')}, {kw})"

def test_no_ratings_make_no_folds():
    "Found by the larger campaign"
    for o in (KFoldSplitters(2)[0], UserFoldSplitters(2)[0]):
        with pytest.raises(ValueError, match="0 can't be divided into 2 folds"): split_rows(base(random.Random(0))[:0], ['user'], o)

@pytest.mark.parametrize('value', [10**20, -1e3, 400., np.nan])
def test_powers_that_no_number_holds(value):
    "Found by the larger campaign; by a large power, every chance was NaN"
    with pytest.raises(ValueError, match='`neg_pow` is the power'): CollabDataLoaders.from_interactions(base(random.Random(0)), device='cpu', neg_pow=value)

def test_lists_are_no_times():
    "Found by the larger campaign"
    df = base(random.Random(0))
    df['time'] = [[1]]*len(df)
    for o in (TimeSplitter('time'), LeaveLastSplitter('time'), TimeFoldSplitters('time')[0]):
        with pytest.raises(ValueError, match="holds .1. where a time belongs"): split_rows(df, ['user'], o)

@pytest.mark.parametrize('value', [pd.NA, 2.5, None, np.nan])
def test_what_is_neither_true_nor_false(value):
    "Found by the larger campaign"
    df = base(random.Random(0))
    with pytest.raises(ValueError, match='`n_neg` is how many'): CollabDataLoaders.from_interactions(df, device='cpu', n_neg=value)
    if value is not None:
        with pytest.raises(ValueError, match='`whole` is True or False'): UserSplitter(whole=value)

@pytest.mark.parametrize('name,args', [('from_df',ratings), ('from_interactions',clicks)])
def test_loaders(name, args):
    rng = random.Random(name)
    n_good = 0
    for _ in range(n_calls):
        data = strange(rng) if rng.random()<.6 else base(rng)
        kw = maybe(rng, **args)
        was = data.copy() if isinstance(data, pd.DataFrame) else None
        e = attempt(lambda: getattr(CollabDataLoaders, name)(data, device='cpu', **kw), told(name, data, kw))
        n_good += e is None
        if was is not None: pd.testing.assert_frame_equal(data, was)
    assert n_good>n_calls/10
    said(n_calls, name)

def test_splitters():
    rng = random.Random(0)
    makers = {TimeSplitter:['time_name','valid_pct'], UserSplitter:['user_name','valid_pct','whole','seed'],
        LeaveLastSplitter:['time_name','user_name','n'], KFoldSplitters:['n','seed','by'], TimeFoldSplitters:['time_name','n','valid_pct','cuts'],
        UserFoldSplitters:['n','given_pct','user_name','time_name','seed']}
    n_tried = 0
    while n_tried<2*n_calls:
        f,names = rng.choice(list(makers.items()))
        name = f.__name__
        kw = {k:rng.choice(odd) for k in rng.sample(names, rng.randint(0, 2))}
        if 'time_name' in names and name.startswith('Time'): kw.setdefault('time_name', 'time')
        data = strange(rng) if rng.random()<.3 else base(rng)
        if not isinstance(data, pd.DataFrame): continue
        def split():
            res = f(**kw)
            for o in res if isinstance(res, list) else [res]: split_rows(data, list(data)[:1], o)
        attempt(split, told(name, data, kw))
        n_tried += 1
    said(n_tried, 'splitters')

def learners(rng):
    df = base(rng)
    dls = CollabDataLoaders.from_df(df, device='cpu', valid_pct=0)
    log = CollabDataLoaders.from_interactions(df[['user','item']], device='cpu', valid_pct=0)
    return [collab_learner(dls, 2), collab_learner(dls, 2, y_range=(0,6)), collab_learner(dls, 2, use_nn=True, emb_szs=[2,2]),
        implicit_learner(log, 2, loss_func='warp'), implicit_learner(log, 2, loss_func='ials'), linear_learner(log)]

growing.update(fill=lambda r: 'zeros', solve=lambda r: False)

@pytest.mark.parametrize('name,args', [('grow',growing), ('fold_in',dict(update=lambda r: True))])
def test_learners(name, args):
    "What fails changes nothing: weights, data and labels"
    rng,n_tried = random.Random(name),0
    for _ in range(max(5, n_calls//10)):
        for learn in learners(rng):
            data = strange(rng) if rng.random()<.5 else base(rng).assign(user=lambda d: d.user+rng.choice([0,5,100]))
            kw = {k:v for k,v in maybe(rng, **args).items() if not (k=='fill' and v is pd.NA)}
            was,dls,vocab,transfer = weights(learn),learn.dls,learn.vocab,learn.transfer
            e = attempt(lambda: getattr(learn, name)(data, **kw), told(f'{type(learn.model).__name__} {name}', data, kw))
            n_tried += 1
            if e is not None: assert same(weights(learn), was) and learn.dls is dls and learn.vocab is vocab and learn.transfer is transfer
            elif not isinstance(learn.model, EASE): assert all(len(w)==n for w,n in zip(tables(learn.model).values(), learn.vocab.sizes))
    said(n_tried, name)
