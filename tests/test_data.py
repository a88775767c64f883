from helpers import * # all of the package, and what the tests share
import math

import fastai.collab,numpy as np,pandas as pd,pytest,torch
from collections import Counter
from functools import partial
from fastai.data.transforms import ColSplitter,IndexSplitter
from hypothesis import given,strategies as st
from helpers import fit,frame,learner,loaders

ids = st.one_of(st.integers(0,9), st.sampled_from('abcde'))
times = st.integers(0,5) # with ties

@st.composite
def rated(draw, ids=st.integers(0,5), min_size=1):
    "A small frame of ratings, with repeated pairs, tied times and an index of its own"
    n = draw(st.integers(min_size,30))
    col = lambda o: draw(st.lists(o, min_size=n, max_size=n))
    df = pd.DataFrame(dict(who=col(ids), what=col(st.sampled_from('vwxyz')), stars=col(st.integers(1,5)), when=col(times)))
    return df.set_index(pd.Index(draw(st.permutations(range(10,10+n)))))

def partition(df, splitter):
    train,valid = splitter(df)
    assert sorted([*train,*valid])==list(range(len(df)))
    return df.iloc[list(train)],df.iloc[list(valid)]

# Splitters
pcts = st.floats(0, 1)

@given(rated(), pcts)
def test_time_splitter(df, pct):
    train,valid = partition(df, TimeSplitter('when', pct))
    assert len(valid)==round(pct*len(df))
    assert not len(train) or not len(valid) or train.when.max()<=valid.when.min()

@given(rated(), pcts, st.integers(0,9))
def test_user_splitter(df, pct, seed):
    train,valid = partition(df, UserSplitter(valid_pct=pct, seed=seed))
    for u,n in df.who.value_counts().items(): assert (valid.who==u).sum()==np.round(pct*n)

@given(rated(), pcts, st.integers(0,9))
def test_user_splitter_whole(df, pct, seed):
    train,valid = partition(df, UserSplitter('who', pct, whole=True, seed=seed))
    assert not set(train.who) & set(valid.who)
    assert valid.who.nunique()==round(pct*df.who.nunique())

@given(rated(), st.integers(1,3))
def test_last_splitter(df, n):
    train,valid = partition(df, LeaveLastSplitter('when', n=n))
    for u,g in df.groupby('who'):
        t,v = [o[o.who==u] for o in (train,valid)]
        assert len(v)==(n if len(g)>n else 0)
        assert not len(v) or t.when.max()<=v.when.min()

@given(rated(), st.integers(1,3))
def test_last_splitter_by_rows(df, n):
    _,valid = partition(df, LeaveLastSplitter(n=n))
    want = [o for u,g in df.groupby('who', sort=False) if len(g)>n for o in g.index[-n:]]
    assert sorted(valid.index)==sorted(want)

def test_splitters_repeat():
    df = frame('abcd','wxyz')
    for s in (UserSplitter, lambda **kw: UserSplitter(whole=True, **kw)):
        assert s(seed=3)(df)==s(seed=3)(df)
        assert len({tuple(s(seed=i)(df)[1]) for i in range(10)})>1

def test_dates_split():
    df = frame('ab','xy').assign(time=pd.to_datetime(['2020-03-01','2020-01-01','2020-04-01','2020-02-01']))
    assert TimeSplitter('time', .25)(df)==([0,1,3],[2])
    assert LeaveLastSplitter('time')(df)==([1,3],[0,2])

@pytest.mark.parametrize('splitter', [TimeSplitter('x'), LeaveLastSplitter('x'), UserSplitter('x'), LeaveLastSplitter(user_name='x')])
def test_no_such_column(splitter):
    with pytest.raises(KeyError, match="'x'.*'user', 'item', 'rating', 'time'"): splitter(frame('ab','xy'))

def test_empty_times():
    df = frame('ab','xy').assign(time=[1,2,np.nan,4])
    for s in (TimeSplitter('time'), LeaveLastSplitter('time')):
        with pytest.raises(ValueError, match="'time' is empty in row 2"): s(df)

held_out = [(IndexSplitter([1,3]),[1,3]), (ColSplitter('held'),[0,3]), (TimeSplitter('time',.25),[3]), (LeaveLastSplitter(),[1,3]),
    (lambda df: (range(2),range(2,4)),[2,3]), (lambda df: (np.array([0,1,2]),np.array([3])),[3]), (lambda df: ([0,1,2,3],[]),[])]

@pytest.mark.parametrize('splitter,valid', held_out)
def test_given_splits(splitter, valid):
    df = frame('ab','xy').assign(held=[True,False,False,True])
    dls = loaders(df, splitter=splitter)
    assert dls.valid_ds.targ.tolist()==df.rating.iloc[valid].tolist() and dls.train_ds.targ.tolist()==df.rating.drop(valid).tolist()

def test_nothing_to_train_on():
    with pytest.raises(ValueError, match='none of the 4 ratings to train on'): loaders(frame('ab','xy'), splitter=IndexSplitter(range(4)))

@given(st.integers(2,6), st.integers(6,40), st.booleans())
def test_folds_partition(n, rows, whole):
    df = pd.DataFrame(dict(u=np.arange(rows)%7, i=np.arange(rows), r=1.))
    if whole and df.u.nunique()<n: return
    parts = [f(df) for f in KFoldSplitters(n, by='u' if whole else None)]
    assert sorted(sum((list(b) for _,b in parts), []))==list(range(rows))
    for a,b in parts:
        assert not set(a)&set(b) and len(a)+len(b)==rows
        if whole: assert not set(df.u[a])&set(df.u[b])

def test_folds_that_cannot_be():
    df = frame('ab', 'cd')
    with pytest.raises(ValueError, match='at least 2'): KFoldSplitters(1)
    with pytest.raises(ValueError, match="2 can't be divided into 3"): KFoldSplitters(3, by='user')[0](df)
    with pytest.raises(KeyError, match="no column 'who'"): KFoldSplitters(2, by='who')[0](df)

@pytest.mark.parametrize('splitter', [TimeSplitter, UserSplitter, lambda *a,**kw: CollabDataLoaders.from_df(frame('ab','xy'), **kw)])
@pytest.mark.parametrize('pct', [-.1,20,'.2',None])
def test_shares_are_between_0_and_1(splitter, pct):
    with pytest.raises(ValueError, match='`valid_pct` is the share of .* between 0 and 1, not'): splitter('time', valid_pct=pct)

@pytest.mark.parametrize('n', [0,1.5,True])
def test_bad_numbers_of_last_ratings(n):
    with pytest.raises(ValueError, match='`n` is how many ratings'): LeaveLastSplitter(n=n)

# Loaders
@given(rated(), st.integers(1,40), st.booleans(), st.booleans())
def test_each_rating_once(df, bs, shuffle, drop_last):
    dls = loaders(df, bs=bs, shuffle=shuffle, drop_last=drop_last, splitter=lambda d: (range(len(d)),[]))
    dl = dls.train
    want = sorted(zip(df.who, df.what, df.stars))
    for _ in range(2):
        bs_ = list(dl)
        assert len(bs_)==len(dl) and all(len(x)==len(y)<=bs for x,y in bs_)
        got = [(*r, y.item()) for x,ys in bs_ for r,y in zip(dls.train_ds.decode(x).values.tolist(), ys)]
        if drop_last: assert len(got)==len(df)//bs*bs and Counter(got)<=Counter(want)
        else: assert sorted(got)==want
        if not shuffle: assert got==list(zip(df.who, df.what, df.stars))[:len(got)]

@given(st.integers(0,300), st.sampled_from([8,24,64]), st.sampled_from([1,4,8]), st.integers(1,100))
def test_parts_of_an_epoch(n, pool, block, bs):
    "Every number once, in batches of one size, from pools whose members come from all over"
    parts = list(shuffled(n, torch.Generator().manual_seed(n), pool, block))
    assert all(len(o)<=max(pool,n if n<=pool else 0) for o in parts)
    cut = list(rebatch(parts, bs))
    assert [len(o) for o in cut[:-1]]==[bs]*(len(cut)-1) and all(0<len(o)<=bs for o in cut)
    assert sorted(torch.cat([torch.zeros(0).int(), *cut]).tolist())==list(range(n))

def test_an_epoch_of_several_pools():
    n = 2**18+7
    ds = Ratings(dict(user=['#na#'], item=['#na#']), torch.arange(2*n).view(-1,2).int(), torch.arange(n).float())
    for shuffle in (False,True):
        ys = [y for _,y in CollabDL(ds, bs=10_000, shuffle=shuffle)]
        assert {len(o) for o in ys[:-1]}=={10_000} and torch.equal(torch.cat(ys).sort().values, ds.targ)
        assert torch.equal(torch.cat(ys), ds.targ)!=shuffle

def test_batch_is_what_a_model_takes():
    x,y = loaders(frame('abc','xyz')).one_batch()
    assert x.dtype==torch.int64 and x.shape[1:]==(2,) and y.dtype==torch.float32 and y.ndim==1

def test_shuffle_changes_and_repeats():
    dl = loaders(frame('abcdef','uvwxyz'), bs=99).train
    orders = [tuple(map(tuple, next(iter(dl))[0].tolist())) for _ in range(3)]
    assert len(set(orders))==3
    runs = []
    for _ in range(2):
        dl.rng.seed(7)
        runs.append(next(iter(dl))[0])
    assert torch.equal(*runs)

@given(rated(ids))
def test_encode_decode(df):
    "Users of mixed types, too"
    dls = loaders(df, splitter=lambda d: (range(len(d)),[]))
    ds = dls.train_ds.encode(df)
    got = ds.decode(ds.ids, stars=ds.targ)
    assert [list(map(repr,got[c])) for c in ('who','what')]==[list(map(repr,as_labels(df[c]))) for c in ('who','what')]
    assert got.stars.tolist()==df.stars.tolist()

@given(rated(ids), st.lists(st.one_of(st.integers(0,3), st.sampled_from([1.,2.5,True,False,'a','b','z'])), min_size=1))
def test_few_labels_are_found_where_many_are(df, labels):
    labels = list({(type(o),o):o for o in labels}.values())
    vocab = Vocab.from_frame(df, 'who', 'what')
    padded = Vocab(dict(who=vocab['who']+[f'pad{i}' for i in range(500)], what=vocab['what']))
    assert padded.rows(labels, 0).tolist()==match_rows(padded['who'], labels).tolist()

def test_predictions_come_in_the_order_of_the_ratings(tmp_path):
    learn = learner(loaders(frame('abcdef','uvwxyz'), bs=4), tmp_path)
    with learn.no_bar():
        for dl in (learn.dls.train, learn.dls.train.new(drop_last=True), learn.dls.valid):
            assert torch.equal(learn.get_preds(dl=dl)[1], dl.dataset.targ)

def test_a_loader_that_moves_leaves_others_where_they_are():
    dls = loaders(frame('abc','xyz').assign(w=1.), weight_name='w')
    ds = dls.train_ds
    other = dls.train.new(device='meta')
    assert {o.device.type for o in (other.dataset.ids,other.dataset.targ,other.dataset.weight)}=={'meta'}
    assert dls.train_ds is ds and ds.ids.device.type=='cpu' and other.dataset.counts is ds.counts
    assert dls.to('cpu').train_ds is ds
    dls.to('meta')
    assert {o.ids.device.type for o in (dls.train_ds,dls.valid_ds)}=={'meta'} and ds.targ.device.type=='cpu'

def test_datasets_of_frames_and_of_other_ratings():
    df = frame('ab','xy').assign(w=[0,1,2,.5])
    ds = Ratings.from_frame(df, Vocab.from_frame(frame('abc','wxyz'), 'user', 'item'), 'rating', 'w')
    assert ds.weight.tolist()==[0,1,2,.5] and ds.targ.tolist()==df.rating.tolist()
    assert {k:v.tolist() for k,v in ds.counts.items()}==dict(user=[0,2,2,0], item=[0,0,2,2,0])
    other = ds.encode(frame('b','wz'))
    assert other.weight is None and other.counts is ds.counts and other.ids.tolist()==[[2,1],[2,4]]
    with pytest.raises(KeyError): Ratings.from_frame(df, ds.vocab, 'rating', 'v')
    with pytest.raises(ValueError): Ratings.from_frame(df.assign(w=df.w-1), ds.vocab, 'rating', 'w')
    with pytest.raises(ValueError, match='are no `counts`'): Ratings(ds.vocab).encode(frame('e','x'), 'popular')

def test_folded_ratings_are_remembered():
    dls = loaders(frame('ab','xy'), splitter=lambda d: (range(len(d)),[]))
    def add(dls, user):
        df = frame([user],'x')
        return with_folded(dls, Ratings.from_frame(df, dls.vocab.extend(df), 'rating'))
    more = add(add(dls,'c'), 'd')
    assert more.vocab['user']==[NA,*'abcd'] and more.train_ds.seen_ids[-2:].tolist()==[[3,1],[4,1]]
    assert {k:v.tolist() for k,v in more.train_ds.counts.items()}==dict(user=[0,2,2,1,1], item=[0,2,2])
    assert len(more.train_ds)==4 and dls.train_ds.folded is None and len(dls.vocab['user'])==3
    df = frame('cab','x')
    renumbered = Ratings.from_frame(df, Vocab([[NA,*'cab'],[NA,*'xy']], 'user', 'item'), 'rating')
    with pytest.raises(ValueError, match="'user' does not begin with the 3 labels"): with_folded(dls, renumbered)

@pytest.mark.parametrize('names', [('who','what','ids'), (0,1,2)])
def test_columns_of_any_name_are_shown(names):
    df = frame('ab','xy').iloc[:,:3].set_axis(names, axis=1)
    assert loaders(df, splitter=lambda d: (range(4),[]), shuffle=False).train.show_batch(show=False).equals(df.astype({names[2]:'float32'}))

@given(rated())
def test_vocab_of_frame(df):
    dls = loaders(df, splitter=lambda d: (range(len(d)),[]))
    assert dls.vocab==dict(who=[NA]+sorted(set(df.who.tolist())), what=[NA]+sorted(set(df.what)))
    for k,v in dls.vocab.items(): assert dls.train_ds.counts[k].tolist()==[0]+[(df[k]==o).sum() for o in v[1:]]

@given(rated(), rated())
def test_vocab_grows_at_its_end(a, b):
    old = loaders(a, splitter=lambda d: (range(len(d)),[])).vocab
    new = loaders(b, vocab=old, splitter=lambda d: (range(len(d)),[])).vocab
    for k in old:
        assert new[k][:len(old[k])]==old[k]
        assert set(new[k])==set(old[k]) | set(as_labels(b[k])) and len(new[k])==len(set(new[k]))

@pytest.mark.parametrize('dtype', ['int8','int64','Int64','float64','string','str','category','object'])
def test_id_columns_of_any_type(dtype):
    df = frame([1,2,3],[7,8]).astype(dict(user=dtype))
    dls = loaders(df, splitter=lambda d: (range(len(d)),[]))
    kind = dict(string=str, str=str, float64=float).get(dtype, int)
    assert dls.vocab['user']==[NA]+[kind(float(o)) if kind!=str else str(o) for o in (1,2,3)]
    assert dls.train_ds.ids[:,0].tolist()==[1,1,2,2,3,3]

def test_columns_by_name():
    df = frame('ab','xy')[['time','rating','item','user']]
    dls = loaders(df, user_name='user', item_name='item', rating_name='rating')
    assert list(dls.vocab)==['user','item']
    assert list(loaders(df, user_name='item', item_name='user', rating_name='rating').vocab)==['item','user']

def test_show_batch():
    dls = loaders(frame('ab','xy'), splitter=lambda d: (range(len(d)),[]), shuffle=False)
    df = dls.train.show_batch(show=False)
    assert list(df.columns)==['user','item','rating'] and df.values.tolist()==frame('ab','xy')[['user','item','rating']].values.tolist()
    assert dls.train.show_batch(max_n=1, show=False).values.tolist()==[['a','x',1.]]

# Checks
def bad(col, row, v):
    df = frame('ab','xy').set_index(pd.Index([10,20,30,40])).astype(object)
    df.loc[row,col] = v
    return df if col!='rating' else df.astype(dict(rating='float64' if isinstance(v, float) else object))

bad_frames = [(bad('user',20,None), ["'user'",'row 20']), (bad('item',40,np.nan), ["'item'",'row 40']),
    (bad('user',10,pd.NA), ["'user'",'row 10']), (bad('rating',30,np.nan), ["'rating'",'row 30','nan']),
    (bad('rating',30,np.inf), ["'rating'",'row 30','inf']), (bad('rating',30,-np.inf), ["'rating'",'row 30','-inf']),
    (bad('rating',30,'good'), ["'rating'",'row 30','good']), (bad('rating',20,9.), ['9','row 20','y_range','(1, 9)']),
    (bad('rating',20,-1.), ['-1','row 20','(-1, 5)']), (bad('item',20,NA), ["'item'",'row 20','#na#']), (bad('user',20,(1,2)), ['tuple']),
    (frame('ab','xy')[:0], ['no ratings']), (frame('ab','xy')[['user','item']], ['three columns',"'user', 'item'"]),
    (pd.DataFrame(), ['three columns'])]

@pytest.mark.parametrize('df,words', bad_frames)
@pytest.mark.parametrize('f', [check_ratings, CollabDataLoaders.from_df])
def test_checks_name_row_and_column(df, words, f):
    with pytest.raises(ValueError) as e: f(df, y_range=(1,5))
    for o in words: assert o in str(e.value)

def test_many_bad_rows_are_counted():
    df = frame('abcd','xy')
    df['rating'] = np.nan
    with pytest.raises(ValueError, match=r'rows 0, 1, 2 \(and 5 more\)'): check_ratings(df)

@pytest.mark.parametrize('names', [dict(user_name='x'), dict(item_name='x'), dict(rating_name='x')])
def test_unknown_column(names):
    with pytest.raises(KeyError, match="'x'"): check_ratings(frame('ab','xy'), **names)

def test_same_column_twice():
    with pytest.raises(ValueError, match='columns of their own'): check_ratings(frame('ab','xy'), user_name='item')

@pytest.mark.parametrize('y_range', [(5,1),(3,3)])
def test_y_range_order(y_range):
    with pytest.raises(ValueError, match='lowest, highest'): check_ratings(frame('ab','xy'), y_range=y_range)

def test_good_ratings_pass():
    df = frame('ab','xy')
    assert check_ratings(df, y_range=(1,5)) is df

@given(rated())
def test_duplicates_policies(df):
    by = ['who','what']
    check = lambda policy: check_ratings(df, duplicates=policy)
    assert check('keep') is df
    assert check('last').equals(df.drop_duplicates(by, keep='last'))
    want = df.groupby(by).stars.mean()
    got = check('mean').set_index(by).stars
    assert sorted(got.index)==sorted(want.index) and np.allclose(got.sort_index(), want.sort_index())
    if len(want)==len(df): assert check('error').equals(df)
    else:
        with pytest.raises(ValueError, match='more than once'): check('error')

def test_duplicate_is_named():
    df = pd.concat([frame('ab','xy'), frame('b','x')], ignore_index=True)
    with pytest.raises(ValueError, match="'b'.*'x'.*rows 2, 4"): check_ratings(df, duplicates='error')

@pytest.mark.parametrize('kw', [dict(duplicates='no'), dict(unknown='no')])
def test_unknown_option(kw):
    with pytest.raises(ValueError, match=f"{list(kw)[0]}.*'no'"): CollabDataLoaders.from_df(frame('ab','xy'), **kw)

def test_validation_of_unknown_users_only():
    df,split = frame('abcd','xy'),UserSplitter(whole=True, valid_pct=.5, seed=1)
    with pytest.warns(UserWarning, match='2 unknown user'),pytest.raises(ValueError, match='None of the users'):
        loaders(df, splitter=split, unknown='warn')
    assert (loaders(df, splitter=split, unknown='mean').valid_ds.ids[:,0]==0).all()

# Files
@pytest.mark.parametrize('kind', ['csv','parquet'])
def test_read_files(tmp_path, kind):
    if kind=='parquet': pytest.importorskip('pyarrow')
    df,file = frame([3,1,2],'xy').assign(title='ü, "x"'),tmp_path/f'r.{kind}'
    getattr(df, f'to_{kind}')(file, index=False)
    for f in (file, str(file)):
        dls = getattr(CollabDataLoaders, f'from_{kind}')(f, user_name='user', bs=2, seed=1, unknown='mean', device='cpu')
        want = loaders(df, bs=2)
        assert dls.vocab==want.vocab
        assert torch.equal(dls.train_ds.ids, want.train_ds.ids) and torch.equal(dls.valid_ds.targ, want.valid_ds.targ)

# Simulated ratings
@pytest.mark.parametrize('seed', range(3))
def test_simulated(seed):
    df,truth = simulate_ratings(30, 40, 500, seed=seed, noise=.01)
    assert len(df)==500 and not df.duplicated(['user','item']).any() and df.rating.between(1,5).all()
    found = truth[df.user, df['item'].str[1:].astype(int)]
    assert np.abs(found-df.rating).max()<.1
    assert df.equals(simulate_ratings(30, 40, 500, seed=seed, noise=.01).ratings)

@pytest.mark.parametrize('seed', range(3))
def test_cross_domain_split(seed):
    df = simulate_ratings(30, 40, 500).ratings
    src,tgt = cross_domain_split(df, seed=seed)
    assert not set(src.user) & set(tgt.user)
    assert set(src.user)|set(tgt.user)==set(df.user)
    assert len(set(src['item'])-set(tgt['item']))>0<len(set(tgt['item'])-set(src['item'])) and set(src['item']) & set(tgt['item'])

def test_simulated_can_be_learned():
    df = simulate_ratings(40, 30, 600, noise=.1).ratings
    learn = fit(learner(loaders(df), '.', y_range=(1,5)), 8, .05)
    mse = learn.recorder.values[-1][1]
    assert mse<.8*df.rating.var() and math.isfinite(mse)

# What is asked of `from_df`
def test_drop_last_is_for_training():
    dls = loaders(simulate_ratings(30, 20, 200).ratings, bs=150, drop_last=True, valid_pct=.2, seed=1, unknown='mean')
    assert len(dls.train)==1 and sum(len(o[0]) for o in dls.valid)==40

misspelt = [(dict(valid_pc=.1),'valid_pct'), (dict(shufle=False),'shuffle'), (dict(weigth_name='w'),'weight_name'),
    (dict(username='user'),'user_name'), (dict(split=1),'splitter'), (dict(droplast=True),'drop_last'), (dict(worker=2),'num_workers')]

@pytest.mark.parametrize('kw,meant', misspelt)
@pytest.mark.parametrize('kind', ['from_df','from_csv','from_parquet'])
def test_misspelt_arguments(kind, kw, meant):
    "Before a file is opened"
    data = frame('ab','xy') if kind=='from_df' else 'not_there'
    with pytest.raises(TypeError, match=f"`{kind}` has no argument '{list(kw)[0]}': did you mean `{meant}`"):
        getattr(CollabDataLoaders, kind)(data, **kw)

@pytest.mark.parametrize('kw,meant', [(dict(unkown='mean'),'unknown'), (dict(shufle=True),'shuffle'), (dict(devise='cpu'),'device')])
def test_misspelt_arguments_of_test_dl(kw, meant):
    dls = loaders(frame('ab','xy'))
    with pytest.raises(TypeError, match=f"`test_dl` has no argument '{list(kw)[0]}': did you mean `{meant}`"):
        dls.test_dl(frame('ab','xy'), **kw)

def test_misspelt_arguments_of_a_loader_and_a_dataset():
    ds = loaders(frame('ab','xy')).train_ds
    with pytest.raises(TypeError, match="`CollabDL` has no argument 'shufle': did you mean `shuffle`"): CollabDL(ds, shufle=True)
    with pytest.raises(TypeError, match="`Ratings.replace` has no argument 'count': did you mean `counts`"): ds.replace(count={})

@pytest.mark.parametrize('name', ['after_item','shuffle_fn','dataset','do_setup','weights'])
def test_arguments_without_use_are_refused(name):
    for f in (partial(loaders, frame('ab','xy')), partial(loaders(frame('ab','xy')).test_dl, frame('ab','xy'))):
        with pytest.raises(TypeError, match=f"no argument '{name}'"): f(**{name:None})

@pytest.mark.parametrize('kw', [dict(unknown='populr'), dict(duplicates='las')])
def test_misspelt_choices(kw):
    with pytest.raises(ValueError, match='did you mean'): loaders(frame('ab','xy'), **kw)

def test_loader_arguments_arrive():
    dls = loaders(frame('abcd','wxyz'), bs=3, val_bs=2, num_workers=4, pin_memory=True, drop_last=True, after_batch=lambda o: -o)
    assert len(dls.train)==13//3 and [len(x) for x,_ in dls.valid]==[2,1] and all((y<0).all() for dl in dls for _,y in dl)
    assert dls.test_dl(frame('ab','wx'), bs=3).bs==3 and loaders(frame('ab','xy'), batch_size=2).train.bs==2

@pytest.mark.parametrize('bs', [0,-1,None,'64'])
def test_bad_batch_sizes(bs):
    with pytest.raises(ValueError, match='`bs` is how many ratings'): loaders(frame('ab','xy'), bs=bs, val_bs=4)

def test_weights_of_text_are_named():
    with pytest.raises(ValueError, match="Column 'w' holds 'a' in rows? .*: weights are numbers"):
        loaders(frame('ab','xy').assign(w='a'), weight_name='w')

def test_splitters_find_the_users_that_from_df_was_told_of():
    df = simulate_ratings(30, 20, 200).ratings[['item','user','rating','time']]
    names = dict(user_name='user', item_name='item', rating_name='rating')
    dls = CollabDataLoaders.from_df(df, **names, splitter=LeaveLastSplitter('time'), unknown='mean')
    assert len(dls.valid_ds)==(df.user.value_counts()>1).sum()

def test_results_are_shown(tmp_path, capsys):
    learn = learner(loaders(simulate_ratings(30, 20, 200).ratings), tmp_path)
    with learn.no_bar(): learn.show_results()
    assert capsys.readouterr().out

# What comes instead of a frame
@pytest.mark.parametrize('kind', ['csv','tsv','parquet','arrow','dict'])
@pytest.mark.parametrize('make', ['from_df','from_interactions'])
def test_nearly_frames(tmp_path, kind, make):
    df = frame([3,1,2],'xy')
    file = tmp_path/f'r.{kind}'
    if kind=='arrow': data = pytest.importorskip('pyarrow').Table.from_pandas(df)
    elif kind=='dict': data = df.to_dict('list')
    else:
        if kind=='parquet': pytest.importorskip('pyarrow')
        dict(csv=df.to_csv, tsv=partial(df.to_csv, sep='\t'), parquet=df.to_parquet)[kind](file, index=False)
        data = file
    kw = dict(seed=1, unknown='mean', device='cpu')
    for o in (data, str(data)) if file.exists() else (data,):
        got,want = [getattr(CollabDataLoaders, make)(x, **kw) for x in (o,df)]
        assert got.vocab==want.vocab and torch.equal(got.train_ds.ids, want.train_ds.ids)
        assert torch.equal(got.valid_ds.targ, want.valid_ds.targ)

@pytest.mark.parametrize('make', [CollabDataLoaders.from_df, CollabDataLoaders.from_interactions, check_ratings])
@pytest.mark.parametrize('data', [[[1,2,3]], None, 5, np.zeros((2,3)), pd.Series([1,2]), dict(a=[1,2], b=[1]), dict(a=1)],
    ids=lambda o: type(o).__name__)
def test_no_frames(make, data):
    with pytest.raises(ValueError, match='is a frame, a path of a CSV.*make a frame with|is a dict whose columns make no frame'): make(data)

def test_files_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match='There is no file .*r.csv'): CollabDataLoaders.from_df(tmp_path/'r.csv')
    with pytest.raises(ValueError, match='ends in none of .csv'): CollabDataLoaders.from_df(tmp_path/'r.xlsx')
    for name in ('empty.csv','bad.parquet'):
        (tmp_path/name).write_bytes(b'')
        if name=='bad.parquet': pytest.importorskip('pyarrow')
        with pytest.raises(ValueError, match=f"{name} can't be read as"): CollabDataLoaders.from_df(tmp_path/name)

# Columns
@pytest.mark.parametrize('cols,want', [('user item time rating','user item rating'), ('user item rating time','user item rating'),
    ('uid iid when Stars','uid iid Stars'), ('score user item','user item score'), ('user score item','user item score'),
    ('user item stars rating','user item stars'), ('a b c d','a b c')])
def test_the_column_called_rating(cols, want, recwarn):
    df = pd.DataFrame(1, index=range(3), columns=cols.split())
    assert column_names(df)==want.split() and not recwarn.list
    assert column_names(df, rating_name=cols.split()[2], user_name=cols.split()[0], item_name=cols.split()[1])==cols.split()[:3]

def test_a_guess_is_told():
    df = frame('ab','xy')
    with pytest.warns(UserWarning, match="third column, 'time', whose name is that of a time: pass `rating_name`"):
        column_names(df[['user','item','time']])
    with pytest.warns(UserWarning, match="from the column 'rating', and not from 'score'"):
        column_names(df.assign(score=1)[['user','item','time','rating','score']])
    text = df.assign(rating='good', time=range(4))[['user','item','time','rating']]
    with pytest.raises(ValueError, match="Column 'rating' holds 'good', and ratings are numbers"): column_names(text)
    with pytest.warns(UserWarning, match='time'): assert column_names(text.rename(columns=dict(rating='mood')))[2]=='time'
    with pytest.raises(ValueError, match="'when' holds times, and ratings are numbers: name the column of ratings with `rating_name`"):
        check_ratings(df.assign(when=pd.Timestamp('2020'))[['user','item','when']])

@pytest.mark.parametrize('make', [CollabDataLoaders.from_df, CollabDataLoaders.from_interactions])
def test_columns_of_one_name(make):
    df = frame('ab','xy')
    for o in (df[['user','item','rating','rating']], df.iloc[:,[0,0,1,2]], df[['user','item','rating','time','time']]):
        with pytest.raises(ValueError, match='There are several columns'): make(o)
    with pytest.raises(ValueError, match='several levels'): make(pd.concat(dict(a=df), axis=1))

def test_numbered_columns(tmp_path):
    df = frame('abc','xyz').iloc[:,:3].set_axis([0,1,2], axis=1)
    learn = learner(loaders(df), tmp_path)
    with learn.no_bar():
        row,pred,_ = learn.predict(df.iloc[0])
        assert row[0]=='a' and row[2]==pytest.approx(pred.item())
    twice = loaders(pd.concat([df,df.assign(**{'x':1}).rename(columns={'x':'x'})[[0,1,2]]]), duplicates='mean', valid_pct=0)
    assert len(twice.train_ds)==9
    new = pd.DataFrame({0:['d','d'], 1:['x','y'], 2:[5,1]})
    assert learn.fold_in(new).label.tolist()==['d'] and 'd' in learn.grow(pd.concat([df,new])).vocab[0]

def test_with_column_leaves_the_frame_alone():
    df = frame('ab','xy')
    was = df.copy()
    assert with_column(df, 'rating', 9.).rating.tolist()==[9.]*4 and df.equals(was)

# Labels
@pytest.mark.parametrize('labels', [[1,True,'a'], [1,1.,'a'], [0,False,2], [1,True,1.]])
def test_equal_labels_of_several_types(labels):
    df = pd.DataFrame(dict(u=pd.Series(labels, dtype=object), i=[1,2,3], r=[1.,2,3]))
    for make in (loaders, CollabDataLoaders.from_interactions):
        with pytest.raises(ValueError, match=r"Column 'u' holds .* which are equal and would become one: .*astype\(str\)"): make(df)

@pytest.mark.parametrize('labels,told', [(['86',86,1],True), (['86',87,1],False), (['86',86.5,'x'],False),
    ([86,87,88],False), (['a','b','c'],False)])
def test_numbers_that_are_there_as_text(labels, told, recwarn):
    df = pd.DataFrame(dict(u=pd.Series(labels, dtype=object), i=[1,2,3], r=[1.,2,3]))
    loaders(df, valid_pct=0)
    assert any("holds '86' and 86, which are two labels" in str(o.message) for o in recwarn)==told

def test_unknown_labels_of_another_type():
    ds = loaders(frame([1,2,3],'xy'), valid_pct=0).train_ds
    asked = pd.DataFrame(dict(user=['3'], item=['x']))
    with pytest.raises(KeyError, match="'3' is of another type than the label 3"): ds.encode(asked, 'raise')
    with pytest.warns(UserWarning, match='another type'): ds.encode(asked)

def test_ids_that_are_lists():
    df = frame('ab','xy').assign(user=[[1],[2],[3],[4]])
    with pytest.raises(ValueError, match="Column 'user' holds no ids"): check_ratings(df)

def test_predict_names_missing_columns(tmp_path):
    learn = learner(loaders(frame('ab','xy')), tmp_path)
    with pytest.raises(KeyError, match="no column 'user', 'item'; the frame has"): learn.predict(pd.DataFrame(dict(a=[1], b=[2])))
    with pytest.raises(KeyError, match="no column 'item'; the frame has .*'user', 'b'"): learn.predict(dict(user='a', b='x'))

def test_nothing_to_predict(tmp_path):
    learn = learner(loaders(frame('ab','xy'), valid_pct=0), tmp_path)
    with pytest.raises(ValueError, match=r'nothing to predict.*`valid_pct=0`'): learn.get_preds()
    with pytest.raises(ValueError, match='nothing to predict'): learn.get_preds(dl=learn.test_dl(frame('ab','xy')[:0]))

# Numbers
@pytest.mark.parametrize('value', [1e39,-1e39])
def test_ratings_beyond_float32(value):
    df = frame('ab','xy').assign(rating=[1,2,value,4.], w=[1,2,abs(value),4])
    with pytest.raises(ValueError, match="'rating' holds .*1e[+]39 in row 2, which float32 takes for infinite"): check_ratings(df)
    with pytest.raises(ValueError, match="'w' holds .*float32"): loaders(df.assign(rating=1.), weight_name='w', valid_pct=0)
    with pytest.raises(ValueError, match='float32'): loaders(frame('ab','xy')).test_dl(df)

@pytest.mark.parametrize('y_range', [5,'ab',(1,2,3),(0,np.inf),(np.nan,5),(None,5),('a','b'),(5,1)])
@pytest.mark.parametrize('f', [check_ratings, CollabDataLoaders.from_df])
def test_bad_scales(f, y_range):
    with pytest.raises(ValueError, match='`y_range` is .lowest, highest.'): f(frame('ab','xy'), y_range=y_range)

@pytest.mark.parametrize('pct', [np.nan,np.inf])
def test_shares_are_numbers(pct):
    with pytest.raises(ValueError, match='`valid_pct` is the share of'): loaders(frame('ab','xy'), valid_pct=pct)

def test_small_integers_do_not_overflow(tmp_path):
    dls = loaders(frame(range(20),range(20)), bs=np.int8(100))
    assert type(dls.train.bs) is int and check_count('n', np.int8(2), 'x').bit_length()==2
    learn = learner(dls, tmp_path)
    small,plain = [learn.recommend(3, k=k, exclude_seen=False)['item'].tolist() for k in (np.int8(2),2)]
    assert small==plain

@pytest.mark.parametrize('kw,said', [(dict(device='gpu?'),'`device` is the name'), (dict(vocab=5),'`vocab` is a vocabulary'),
    (dict(vocab=dict(user=['a'], item=['x'])),"'user' in `vocab` do not begin with '#na#'"),
    (dict(seed='x'),'`seed` is None'), (dict(seed=2**64),'`seed`')])
def test_odd_arguments(kw, said):
    with pytest.raises(ValueError, match=said): CollabDataLoaders.from_df(frame('ab','xy'), **kw)

# fastai's loaders
def test_fastais_own_loaders_as_ratings():
    df = simulate_ratings(30, 20, 200).ratings
    stock = fastai.collab.CollabDataLoaders.from_df(df, seed=1, device='cpu')
    train,valid = train_data(stock),valid_data(stock)
    got = pd.concat([o.decode(o.ids, rating=o.targ) for o in (train,valid)])
    got = got[~got.isin(['#na#']).any(axis=1)]
    want = df.set_index(['user','item']).rating
    for r in got.itertuples(): assert r.rating==pytest.approx(want[r.user,r.item], rel=1e-6)
    assert len(valid)==40 and train.rating_name==valid.rating_name=='rating' and train.counts['user'].sum()==160
