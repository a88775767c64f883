"Folds of time and of users, and what a splitter may return"
from functools import partial

import numpy as np,pandas as pd,pytest
from fastai.data.transforms import IndexSplitter
from hypothesis import given,strategies as st
from helpers import frame,loaders
from collab_ext import *
from test_data import rated

def parts(df, splitters): return [tuple(np.asarray(o, dtype=int) for o in f(df)) for f in splitters]

@given(rated(min_size=6), st.integers(1,3))
def test_folds_of_time_train_on_the_past(df, n):
    if df.when.nunique()<4: return
    cuts = sorted(df.when.unique())[-n:]
    got = parts(df, TimeFoldSplitters('when', cuts=cuts))
    assert len(got)==n
    for (train,valid),lo,hi in zip(got, cuts, [*cuts[1:],np.inf]):
        t = df.when.to_numpy()
        assert train.tolist()==np.flatnonzero(t<lo).tolist() and valid.tolist()==np.flatnonzero((t>=lo)&(t<hi)).tolist()

@given(st.integers(1,4), st.sampled_from([.05,.1,.2]), st.integers(20,60), st.integers(0,99))
def test_folds_of_time_by_share(n, pct, rows, seed):
    time = np.random.default_rng(seed).permutation(rows)
    df = pd.DataFrame(dict(u=0, i=range(rows), r=1., t=time))
    got = parts(df, TimeFoldSplitters('t', n=n, valid_pct=pct))
    for train,valid in got:
        assert time[train].max()<time[valid].min() and abs(len(valid)-pct*rows)<=1
        assert len(train)==time[valid].min() # all that came before
    held = np.concatenate([v for _,v in got])
    assert len(set(held))==len(held)==round(n*pct*rows) and set(time[held])==set(range(rows-len(held), rows))

def test_folds_of_dates():
    df = frame('ab','xy').assign(time=pd.to_datetime(['2020-03-01','2020-01-01','2020-04-01','2020-02-01']))
    (train,valid), = parts(df, TimeFoldSplitters('time', cuts=['2020-03-01']))
    assert (train.tolist(),valid.tolist())==([1,3],[0,2])
    with pytest.raises(ValueError, match="`cuts` holds 7, and column 'time' holds .* can't be compared"):
        TimeFoldSplitters('time', cuts=[7])[0](df)

@pytest.mark.parametrize('kw,said', [(dict(n=0),'`n` is the number'),
    (dict(valid_pct=2),'`valid_pct` is the share'), (dict(n=5, valid_pct=.2),'leave none to train'),
    (dict(valid_pct=0),'hold none out'), (dict(cuts=[]),'`cuts` is empty'), (dict(cuts=[1], n=1),'leave out `n`')])
def test_folds_of_time_that_cannot_be(kw, said):
    with pytest.raises(ValueError, match=said): TimeFoldSplitters('time', **kw)

def test_empty_folds_of_time():
    df = frame('ab','xy')
    with pytest.raises(ValueError, match='no ratings before 0'): TimeFoldSplitters('time', cuts=[0])[0](df)
    with pytest.raises(ValueError, match='no ratings from 9 on'): TimeFoldSplitters('time', cuts=[9])[0](df)
    with pytest.raises(KeyError, match="no column 'x'"): TimeFoldSplitters('x')[0](df)

@given(rated(min_size=8), st.integers(2,3), st.floats(0,1), st.sampled_from([None,'when']))
def test_folds_of_users(df, n, pct, time):
    n_of = df.who.value_counts()
    if len(n_of)<n: return
    got = parts(df, UserFoldSplitters(n, pct, time_name=time))
    assert all(sorted([*a,*b])==list(range(len(df))) for a,b in got)
    held = [set(df.who.iloc[v]) for _,v in got]
    assert sum(map(len, held))==len(set().union(*held))==(n_of>1).sum() # each user once, unless there is but one rating
    for train,valid in got:
        for u in set(df.who.iloc[valid]):
            g,v = [df.iloc[o][df.who.iloc[o]==u] for o in (train,valid)]
            assert len(g)==np.clip(np.round(pct*n_of[u]), 1, n_of[u]-1)
            assert time is None or g.when.max()<=v.when.min()

def test_folds_of_users_serve_from_df():
    df = simulate_ratings(30, 20, 200).ratings[['item','user','rating','time']]
    names = dict(user_name='user', item_name='item', rating_name='rating', unknown='mean')
    for f in UserFoldSplitters(3, time_name='time'):
        dls = CollabDataLoaders.from_df(df, splitter=f, **names)
        assert (dls.valid_ds.ids[:,0]>0).all() and len(dls.train_ds)+len(dls.valid_ds)==200

# What a splitter returns

wrong = [(lambda d: ([0,1],[-1]), 'validation rows of `splitter` hold -1'), (lambda d: ([0,4],[1]), 'hold 4, and this frame'),
    (lambda d: (d.rating>2,d.rating<=2), 'True and False: return `np.flatnonzero'), (lambda d: ([.5],[1]), r'training rows are \[0.5\]'),
    (lambda d: None, 'returns None'), (lambda d: [0,1], r'returns \[0, 1\]'),
    (lambda d: ([0],), 'returns'), (lambda d: (['a'],[1]), 'training rows are'),
    (5, 'not 5'), (KFoldSplitters(2), 'one of them at a time'), (IndexSplitter([7]), 'hold 7')]

@pytest.mark.parametrize('splitter,said', wrong)
@pytest.mark.parametrize('make', [loaders, CollabDataLoaders.from_interactions], ids=['ratings','clicks'])
def test_splitters_are_checked(splitter, said, make):
    with pytest.raises(ValueError, match=said): make(frame('ab','xy'), splitter=splitter)

def test_rows_in_both_parts_are_told():
    with pytest.warns(UserWarning, match='2 of the 3 validation rows of `splitter` are training rows, too'):
        loaders(frame('ab','xy'), splitter=lambda d: ([0,1,2],[1,2,3]))

def test_times_without_an_order():
    df = frame('ab','xy').assign(time=[1,'2020',3,4])
    for s in (TimeSplitter('time'), LeaveLastSplitter('time'), TimeFoldSplitters('time')[0]):
        with pytest.raises(ValueError, match="'time' has no order"): s(df)

def test_text_times_have_an_order():
    df = frame('ab','xy').assign(time=['2020-03','2020-01','2020-04','2020-02'])
    assert LeaveLastSplitter('time')(df)==([1,3],[0,2])

@pytest.mark.parametrize('f', [UserSplitter, KFoldSplitters, UserFoldSplitters, partial(CollabDataLoaders.from_df, frame('ab','xy'))])
@pytest.mark.parametrize('seed', ['1',1.5,-1,True])
def test_seeds_are_checked(f, seed):
    with pytest.raises(ValueError, match='`seed` is None or a whole number'): f(seed=seed)

@pytest.mark.parametrize('form', ['%d.%m.%Y','%m/%d/%Y','%b %Y'])
def test_text_that_sorts_by_day_is_refused(form):
    times = pd.Series(pd.date_range('2020-01-01', periods=12, freq='31D')).dt.strftime(form)
    df = frame('abc','wxyz').assign(time=times)
    for splitter in (TimeSplitter('time'), LeaveLastSplitter('time')):
        with pytest.raises(ValueError, match='order of the alphabet.*to_datetime'): splitter(df)

def test_folds_without_a_seed_hold_out_everything_once():
    df = frame('abcde','vwxyz')
    held = np.concatenate([f(df)[1] for f in KFoldSplitters(4, seed=None)])
    assert sorted(held)==list(range(len(df)))
    users = [set(df.user.iloc[f(df)[1]]) for f in UserFoldSplitters(5, seed=None)]
    assert sorted(o for u in users for o in u)==sorted(df.user.unique())
