"Shards of what people have: bad files, damaged folders, limits, and restarts"
import os,shutil,signal,subprocess,sys

import pytest
pytest.importorskip('duckdb')
import collab_ext.shard_writer as writer
from helpers import *
from collab_ext.shards import *
from collab_ext.shard_writer import *
from collab_ext.shard_loaders import *
from collab_ext.batch_recommend import *
from test_distributed import in_processes

def ratings(n=300, seed=0, **columns):
    rng = np.random.default_rng(seed)
    df = pd.DataFrame(dict(user=[f'u{i}' for i in rng.integers(30, size=n)], item=rng.integers(20, size=n), rating=rng.integers(1, 6, n)*1.))
    return df.assign(time=np.arange(n), **columns).drop_duplicates(['user','item'])

def prepared(df, folder, n_files=1, **kwargs):
    "Shards of a frame in some files"
    src = folder/'src'
    src.mkdir(exist_ok=True)
    for i,rows in enumerate(np.array_split(np.arange(len(df)), n_files)): df.iloc[rows].to_parquet(src/f'{i}.parquet')
    return prepare_shards(src, folder/'out', **merge(dict(blocks=2), kwargs))

def content(shards):
    "Labels and ratings of both sets"
    labels = [[NA]+read_labels(shards, s).to_pylist() for s in (0,1)]
    def of(split):
        data = [read_part(shards, o) for o in split.parts]
        return sorted((labels[0][u],labels[1][i],float(y)) for o in data for (u,i),y in zip(o.ids.tolist(), o.targ))
    return of(shards.train),of(shards.valid)

def rows_of_frame(df): return sorted((u,i,float(y)) for u,i,y in df[['user','item','rating']].itertuples(index=False))

# --- what comes out is what went in

@pytest.mark.parametrize('n_files,kwargs', [(1,{}), (3,dict(blocks=1)), (3,dict(bucket_rows=20)), (1,dict(split='users')), (1,dict(valid_pct=0))])
@pytest.mark.filterwarnings('ignore:.*unknown users')
def test_every_rating_once(tmp_path, n_files, kwargs):
    df = ratings()
    shards = prepared(df, tmp_path, n_files, **kwargs)
    train,valid = content(shards)
    known = {o for s in (0,1) for o in read_labels(shards, s).to_pylist()}
    expected = sorted((u if u in known else NA, i if i in known else NA, y) for u,i,y in rows_of_frame(df))
    assert sorted(train+valid, key=str)==sorted(expected, key=str)
    counts = df.merge(pd.DataFrame(train, columns=['user','item','rating']), on=['user','item']).user.value_counts()
    assert dict(zip(read_labels(shards, 0).to_pylist(), read_counts(shards, 0)[1:].tolist()))==counts.to_dict()

@pytest.mark.parametrize('n', [1,10,60,10**6])
def test_samples_are_ratings(tmp_path, n):
    dls = CollabDataLoaders.from_shards(prepared(ratings(), tmp_path, bucket_rows=20))
    ids,y = dls.train_ds.sample(n)
    assert len(ids)==len(y) and 0<len(ids)<=n
    every = [o for part in dls.train_ds.split.parts for o in zip(*(t.tolist() for t in shuffled_part(dls.train_ds.shards, part)[:2]))]
    assert all(o in every for o in zip(ids.tolist(), y.tolist()))

def test_content_of_items_in_shards(tmp_path):
    df = ratings()
    learn = collab_learner(CollabDataLoaders.from_shards(prepared(df, tmp_path), bs=64), 4)
    with learn.no_bar(),learn.no_logging(): learn.solve()
    items = pd.DataFrame(dict(item=np.arange(25), kind=list('abcde')*5))
    learn.fit_content(items, n_search=20)
    assert learn.embed(items[20:]).shape==(5,5)

def test_closed_forms_of_shards_refuse_to_replace_a_tower(tmp_path):
    learn = collab_learner(CollabDataLoaders.from_shards(prepared(ratings(), tmp_path), bs=64), 4)
    learn.add_tower(pd.DataFrame(dict(item=np.arange(20), kind=list('abcd')*5)), hidden=8)
    with pytest.raises(ValueError, match='a tower makes the items'): learn.solve()

def test_the_order_of_files_is_no_matter(tmp_path):
    df = ratings()
    a = prepared(df, tmp_path, 3)
    other = tmp_path/'other'
    other.mkdir()
    b = prepared(df.sample(frac=1, random_state=1), other, 2)
    assert content(a)==content(b) and a.preparation==b.preparation

@pytest.mark.filterwarnings('ignore:.*unknown users')
def test_splits(tmp_path):
    df = ratings()
    shards = prepared(df, tmp_path, split='time', time_name='time', valid_pct=.3)
    train,valid = content(shards)
    last = df[df.time>=df.time.quantile(.72)]
    assert abs(len(valid)-.3*len(df))<20
    assert len(set(rows_of_frame(last)) & set(train)) < 10
    (tmp_path/'users').mkdir()
    shards = prepared(df, tmp_path/'users', split='users', valid_pct=.3)
    assert {o[0] for o in content(shards)[1]}=={NA} # users that are held out are unknown

@pytest.mark.parametrize('policy', ['last','mean','keep','error'])
def test_duplicates(tmp_path, policy):
    df = ratings()
    twice = pd.concat([df, df.head(40).assign(rating=1., time=1000)])
    kwargs = dict(duplicates=policy, time_name='time', valid_pct=0)
    if policy=='error':
        with pytest.raises(ValueError, match='rated item .* 2 times'): prepared(twice, tmp_path, 2, **kwargs)
        return
    train,_ = content(prepared(twice, tmp_path, 2, **kwargs))
    expected = twice if policy=='keep' else resolve_duplicates(twice, 'user', 'item', 'rating', policy)
    assert train==rows_of_frame(expected)

def test_weights(tmp_path):
    df = ratings(w=.5)
    shards = prepared(df, tmp_path, weight_name='w', valid_pct=.1)
    assert shards.weighted and (read_part(shards, shards.train.parts[0]).weight==.5).all()
    learn = collab_learner(CollabDataLoaders.from_shards(shards, bs=64), 4)
    assert len(learn.dls.one_batch())==3
    fit(learn)

@pytest.mark.parametrize('bad', ['nan','-1','inf',''])
def test_bad_weights(tmp_path, bad):
    (tmp_path/'a.csv').write_text(many_weights+f'3,3,4,{bad}\n')
    with pytest.raises(ValueError, match="'w' holds 1 weights, such as in .*a.csv"): prepare_shards(tmp_path/'a.csv', tmp_path/'out', blocks=2, weight_name='w')

many_weights = 'user,item,rating,w\n'+''.join(f'{i},{i%7},{i%5},1.5\n' for i in range(200))

def test_the_command_takes_what_messages_recommend(tmp_path):
    (tmp_path/'a.csv').write_text(many_weights)
    shards_command(str(tmp_path/'a.csv'), str(tmp_path/'out'), weight='w', as_text=True, blocks=2, y_range='0,5', bucket_rows=50)
    shards = Shards(tmp_path/'out')
    assert shards.weighted and shards.settings['as_text'] and shards.settings['y_range']==[0,5]
    with pytest.raises(ValueError, match='such as 1,5'): shards_command(str(tmp_path/'a.csv'), str(tmp_path/'out'), y_range='wide')

def test_learners_in_memory_and_blocks_that_are_none(tmp_path):
    df = ratings()
    learn = collab_learner(CollabDataLoaders.from_df(df, valid_pct=.2), 4)
    for f in (lambda: recommend_shards(learn, tmp_path/'lists'), lambda: evaluate_shards(learn)):
        with pytest.raises(ValueError, match='ratings are in memory'): f()
    learn = collab_learner(CollabDataLoaders.from_shards(prepared(df, tmp_path), bs=64), 4)
    for bad in ([9], 0):
        with pytest.raises(ValueError, match='`blocks` lists'): recommend_shards(learn, tmp_path/'lists', blocks=bad)
    few = collab_learner(CollabDataLoaders.from_shards(tmp_path/'out', bs=64, in_memory=10), 4)
    with pytest.raises(ValueError, match='recommend_shards'): few.recommend()

# --- bad input

def csv(folder, **files):
    for k,v in files.items(): (folder/f'{k}.csv').write_text(v)
    return folder

many = 'user,item,rating\n'+''.join(f'{i},{i%7},{i%5}\n' for i in range(200))

@pytest.mark.parametrize('files,error,said', [
    (dict(a=many, b=many.replace('user,', 'person,')), KeyError, "b.csv has no column 'user'"),
    (dict(a=many, b=many+'x1,3,4\n'), ValueError, "Column 'user' is BIGINT in .*a.csv and VARCHAR in .*b.csv"),
    (dict(a=many+f'{2**70},3,4\n'), ValueError, "is of type HUGEINT: ids are text, or whole numbers of 64 bits; pass `as_text=True`"),
    (dict(a=many+'0.5,3,4\n'), ValueError, "is of type DOUBLE"),
    (dict(a=many+',3,4\n'), ValueError, "Column 'user' has no id in 1 ratings, such as in .*a.csv"),
    (dict(a=many, b=many+'3,3,\n'), ValueError, "no finite number of float32 in 1 ratings, such as in .*b.csv"),
    (dict(a=many+'3,3,inf\n'), ValueError, "no finite number"),
    (dict(a=many.replace('199,3,4', '#na#,3,4')), ValueError, "label '#na#'"),
    (dict(a=many+'3,3,good\n'), ValueError, "ratings are numbers"),
    (dict(a='user,item\n1,2\n'), ValueError, 'need three columns'),
    (dict(a=many.split('\n')[0]+'\n1,2,3\n'), ValueError, 'fewer than `blocks=2`'),
    (dict(), FileNotFoundError, 'no CSV or Parquet file'),
])
def test_bad_files(tmp_path, files, error, said):
    src = tmp_path/'src'
    src.mkdir()
    with pytest.raises(error, match=said): prepare_shards(csv(src, **files), tmp_path/'out', blocks=2, valid_pct=0)
    assert not (tmp_path/'out'/'manifest.json').exists()

@pytest.mark.filterwarnings('ignore:.*unknown users')
def test_type_that_changes_within_a_file(tmp_path):
    long = 'user,item,rating\n'+''.join(f'{i},{i%7},{i%5}\n' for i in range(30_000))+'abc,1,1\n'
    with pytest.raises(ValueError, match='changes its type within the files.*as_text=True'): prepare_shards(csv(tmp_path, a=long), tmp_path/'out')
    assert prepare_shards(csv(tmp_path, a=long), tmp_path/'text', as_text=True).labels[0].type=='text'

def test_long_ids_as_text(tmp_path):
    shards = prepare_shards(csv(tmp_path, a=many+f'{2**70},3,4\n'), tmp_path/'out', blocks=1, valid_pct=0, as_text=True)
    assert str(2**70) in read_labels(shards, 0).to_pylist()

@pytest.mark.parametrize('kwargs,said', [(dict(memory='much'), "`memory` is a size"), (dict(valid_pct=1), '`valid_pct`'), (dict(split='last'), '`split`'),
    (dict(split='time'), 'needs `time_name`'), (dict(duplicates='first'), '`duplicates`'), (dict(blocks=0), '`blocks`'), (dict(threads=0), '`threads`')])
def test_bad_settings(tmp_path, kwargs, said):
    with pytest.raises(ValueError, match=said): prepared(ratings(), tmp_path, **kwargs)

# --- limits and restarts

@pytest.mark.filterwarnings('ignore:.*unknown users')
def test_memory_too_small(tmp_path):
    n = 200_000
    df = pd.DataFrame(dict(user=[f'user-number-{i}' for i in range(n)], item=np.arange(n)%50, rating=3.))
    with pytest.raises(ValueError, match="`memory='4MB'` or the disk is too small"): prepared(df, tmp_path, memory='4MB')
    assert prepare_shards(tmp_path/'src', tmp_path/'out', blocks=2).train.rows>100_000

@pytest.mark.parametrize('step,at', [('count_labels',2),('write_labels',1),('encode',1),('cut',3),('seal',1)])
def test_restart(tmp_path, monkeypatch, step, at):
    "A full disk at any step: what is finished stays finished, and the next call gives what an undisturbed one gives"
    import duckdb
    whole = tmp_path/'whole'
    whole.mkdir()
    expected = prepared(ratings(), whole, 2)
    real,calls = getattr(writer, step),[]
    def full(*args, **kwargs):
        calls.append(step)
        if len(calls)==at: raise duckdb.IOException('No space left on device')
        return real(*args, **kwargs)
    monkeypatch.setattr(writer, step, full)
    with pytest.raises(OSError, match='is full, free some of it; call again'): prepared(ratings(), tmp_path, 2)
    assert not (tmp_path/'out'/'manifest.json').exists()
    monkeypatch.setattr(writer, step, real)
    again = prepare_shards(tmp_path/'src', tmp_path/'out', blocks=2)
    assert content(again)==content(expected) and again.preparation==expected.preparation
    assert not list((tmp_path/'out').rglob('.prepare'))

def test_no_torch(tmp_path):
    code = 'import sys; from collab_ext.shard_writer import prepare_shards; from collab_ext.shards import Shards; sys.exit("torch" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', code]).returncode==0

# --- damage

def test_damage_is_found(tmp_path):
    shards = prepared(ratings(), tmp_path)
    files = [o.file for o in [*shards.labels, *shards.train.parts, *shards.valid.parts]]
    rng = np.random.default_rng(0)
    for file in files:
        path = tmp_path/'out'/file
        data = path.read_bytes()
        at = int(rng.integers(len(data)))
        for bad in (data[:at]+bytes([data[at]^1])+data[at+1:], data[:-1], b''):
            path.write_bytes(bad)
            with pytest.raises(ValueError, match=Path(file).name+' is damaged'): check_shards(shards)
        path.write_bytes(data)
    check_shards(shards)

def test_part_of_another_preparation(tmp_path):
    a = prepared(ratings(), tmp_path)
    (tmp_path/'b').mkdir()
    b = prepared(ratings(seed=1), tmp_path/'b')
    part = next(o for o in a.train.parts if (b.path/o.file).is_file())
    shutil.copy(b.path/part.file, a.path/part.file)
    with pytest.raises(ValueError, match=f'is of another preparation \\({b.preparation}'): list(CollabDataLoaders.from_shards(a).train)

# --- vocabularies in Arrow

@pytest.mark.parametrize('labels', [['a','b','3','ü'], [5,-1,2**40,7]])
@pytest.mark.parametrize('copies', [1,40])
def test_arrow_vocab(labels, copies):
    import pyarrow as pa
    column = labels+[f'x{i}' if isinstance(labels[0], str) else 10**6+i for i in range(20*copies)]
    vocab = ArrowVocab(['user','item'], [pa.array(column)]*2)
    plain = Vocab(dict(user=[NA]+column, item=[NA]+column))
    asked = [*labels, labels[0], NA, 'nobody', '5', 5, 3, 5., True, None, 2**70]
    assert vocab.rows(asked, 0).tolist()==plain.rows(asked, 0).tolist()
    assert same_labels(vocab, plain) and vocab.sizes==plain.sizes and len(vocab.classes['user'])==len(column)+1
    assert list(vocab.take(tensor([1,3]), 1))==[column[0],column[2]]
    assert fingerprint(*vocab.labels)==fingerprint(*plain.labels)
    lazy = dict(vocab.items())['user']
    assert list(lazy)==plain['user'] and lazy[:3]==plain['user'][:3] and lazy[2]==plain['user'][2] and lazy[-1]==plain['user'][-1]
    with pytest.raises(IndexError): lazy[len(lazy)]

def test_sizes_list_no_labels(monkeypatch, tmp_path):
    "A learner is made without a list of all labels, which is several times as large as the column"
    dls = CollabDataLoaders.from_shards(prepared(ratings(400), tmp_path))
    monkeypatch.setattr(ArrowVocab, 'labels_of', lambda self, s: pytest.fail('labels were listed'))
    collab_learner(dls, 4)

# --- answers

def test_lists_do_not_depend_on_chunks(tmp_path):
    "Chunks of any size give the same lists; parts are the same bytes, whoever writes them"
    shards = prepared(ratings(400), tmp_path)
    learn = fit(collab_learner(CollabDataLoaders.from_shards(shards, bs=64, seed=1), 4))
    frames = []
    for chunk in (3,1000):
        paths = recommend_shards(learn, tmp_path/f'lists{chunk}', k=5, chunk=chunk)
        frames.append(pd.concat(map(pd.read_parquet, paths), ignore_index=True))
    pd.testing.assert_frame_equal(*frames)
    parts = [o for b in (1,0) for o in recommend_shards(learn, tmp_path/'by_block', k=5, chunk=3, blocks=[b])]
    assert {o.name:o.read_bytes() for o in parts}=={o.name:o.read_bytes() for o in (tmp_path/'lists3').glob('*.parquet')}
    seen = {(u,i) for u,i,_ in content(shards)[0]}
    assert not seen & set(zip(frames[0].user, frames[0].item))

def lists_of(shards):
    learn = fit(collab_learner(CollabDataLoaders.from_shards(shards, bs=64, seed=1), 4))
    return partial(recommend_shards, learn, k=5, chunk=5)

def parts_in(folder): return {o.name:o.read_bytes() for o in folder.glob('*.parquet')}

def test_lists_by_two_processes(tmp_path):
    "Each writes its users' parts, with the bytes of one process; a killed job goes on, and leaves no part half written"
    lists = lists_of(prepared(ratings(400), tmp_path))
    lists(tmp_path/'one')
    in_processes(2, lambda rank: lists(tmp_path/'two'), tmp_path)
    whole = parts_in(tmp_path/'one')
    assert len(whole)>4 and parts_in(tmp_path/'two')==whole
    assert in_child(lambda: killed_while_writing(lists, tmp_path/'killed', 3))==-signal.SIGKILL
    assert parts_in(tmp_path/'killed').items()<whole.items() and len(parts_in(tmp_path/'killed'))==2
    lists(tmp_path/'killed')
    assert parts_in(tmp_path/'killed')==whole

def killed_while_writing(lists, out, nth):
    "Killed when the n-th part is written under its other name"
    real,n = os.replace,iter(range(nth+1))
    def replace(a, b):
        if str(b).endswith('.parquet') and next(n)==nth-1: os.kill(os.getpid(), signal.SIGKILL)
        real(a, b)
    os.replace = replace
    lists(out)
