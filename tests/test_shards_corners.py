"Shards of what people have: what is wrong is said with the name of the file, the line and what to do, and nothing is half done"
import errno,gzip,json,os,resource,signal,subprocess,sys

import pytest
pytest.importorskip('duckdb')
pytestmark = pytest.mark.filterwarnings('ignore:.*unknown')
import pyarrow as pa,pyarrow.parquet as pq
import collab_ext.shard_writer as writer
from helpers import *
from collab_ext.shards import *
from collab_ext.shard_writer import *
from collab_ext.shard_loaders import *
from collab_ext.row_exchange import *
from collab_ext.batch_recommend import *
from collab_ext.cli import main
from test_distributed import in_processes
from test_shards import content,many,prepared,ratings,rows_of_frame

# --- manifests

def paths_in(o, at=()):
    "Where each value of an object of JSON is"
    pairs = o.items() if isinstance(o, dict) else enumerate(o) if isinstance(o, list) else ()
    for k,v in pairs:
        yield (*at,k)
        yield from paths_in(v, (*at,k))

def edited(m, at, value=...):
    "A copy with another value, or none, at a path"
    m = json.loads(json.dumps(m))
    holder = m
    for k in at[:-1]: holder = holder[k]
    if value is ...: del holder[at[-1]]
    else: holder[at[-1]] = value
    return m

@pytest.mark.parametrize('value', [..., None, -1, 10**9, 1.5, float('nan'), '', 'x', [], [1], {}, True, '../x'], ids=repr)
def test_every_edit_of_a_manifest_is_read_or_refused(tmp_path, value):
    "Each key dropped or replaced: shards that are read as before, or an error that names the file"
    prepared(ratings(), tmp_path)
    file = tmp_path/'out'/'manifest.json'
    whole = json.loads(file.read_text())
    for at in paths_in(whole):
        if 'settings' in at[:-1]: continue # what was asked: any plain data
        file.write_text(json.dumps(edited(whole, at, value)))
        try: check_shards(Shards(tmp_path/'out'))
        except (ValueError,FileNotFoundError) as e: assert str(tmp_path/'out') in str(e) and (type(e)==ValueError or 'is missing' in str(e)), (at,e)

def test_keys_that_a_manifest_lacks_are_named(tmp_path):
    prepared(ratings(), tmp_path)
    file = tmp_path/'out'/'manifest.json'
    whole = json.loads(file.read_text())
    deep = [('labels',0,'rows'), ('train','mean'), ('valid','parts')]
    for at in [(o,) for o in whole if o not in ('format','version')]+deep:
        file.write_text(json.dumps(edited(whole, at)))
        with pytest.raises(ValueError, match='`'+r'\.'.join(map(str, at))+'` is missing.*copy it'): Shards(tmp_path/'out')
    file.write_text('['*100_000)
    with pytest.raises(ValueError, match='manifest.json is damaged'): Shards(tmp_path/'out')

@pytest.mark.parametrize('file', ['a part','items.parquet'])
def test_a_folder_in_place_of_a_shard(tmp_path, file):
    shards = prepared(ratings(), tmp_path)
    path = shards.path/(shards.train.parts[0].file if file=='a part' else file)
    path.unlink()
    path.mkdir()
    with pytest.raises(IsADirectoryError, match=f'The shard {path} is a folder.*delete it, and copy'): check_shards(shards)

def test_rows_that_no_label_has(tmp_path):
    "A file of a stranger has the right checksum and wrong rows: it is refused, since compiled loops don't look at bounds"
    shards = prepared(ratings(), tmp_path)
    part = shards.train.parts[0]
    path = shards.path/part.file
    table = pq.read_table(path, partitioning=None)
    for bad in (-1,10**6):
        users = pa.array([bad]+table['user'].to_pylist()[1:], pa.int32())
        pq.write_table(table.set_column(table.column_names.index('user'), 'user', users), path)
        with pytest.raises(ValueError, match=f'{part.file} has rows that its vocabularies'): read_part(shards, part._replace(crc=file_crc(path)))

@pytest.mark.parametrize('edit,said', [(dict(names=['u','i']), '`names`'), (dict(starts=[[1,1000],[1]]), '`starts` has blocks'), (dict(starts=[[0],[1]]), '`starts`')])
def test_seal_writes_nothing_that_can_not_be_read(tmp_path, edit, said):
    shards = prepared(ratings(), tmp_path, blocks=1)
    (shards.path/'manifest.json').unlink()
    with pytest.raises(ValueError, match=said): seal(shards.path, **merge(dict(names=shards.names, starts=shards.starts), edit))
    assert not (shards.path/'manifest.json').exists()
    seal(shards.path, shards.names, shards.starts)
    assert Shards(shards.path).train.rows==shards.train.rows

@pytest.mark.parametrize('change,said', [(lambda t: t.set_column(0, 'user', pa.array([None]*len(t), pa.int32())), 'missing'),
    (lambda t: t.set_column(0, 'user', pa.array([1.]*len(t))), 'of type double')])
def test_seal_of_rows_that_are_none(tmp_path, change, said):
    shards = prepared(ratings(), tmp_path, blocks=1)
    path = shards.path/shards.train.parts[0].file
    table = pq.read_table(path, partitioning=None)
    assert table.column_names[0]=='user'
    pq.write_table(change(table), path)
    with pytest.raises(ValueError, match=said): seal(shards.path, shards.names, shards.starts)

# --- what is wrong with a file

long = 'user,item,rating\n'+''.join(f'{i%3000},{i%70},{i%5}\n' for i in range(25_000)) # DuckDB looks at 20,480 lines
few = 'user,item,rating\n'+''.join(f'{i%40},{i%19},{i%5}\n' for i in range(300))
names = long.replace('\n', '\nu').removesuffix('u') # ids that are text

def files_in(folder, files):
    "Files of text or bytes"
    folder.mkdir(exist_ok=True)
    for k,v in files.items():
        (folder/k).parent.mkdir(parents=True, exist_ok=True)
        (folder/k).write_bytes(v.encode() if isinstance(v, str) else v)
    return folder

def parquet(n=300, **columns):
    "Bytes of a Parquet file of ratings"
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(merge(dict(user=list(range(n)), item=[i%7 for i in range(n)], rating=[i%5*1. for i in range(n)]), columns)), sink)
    return sink.getvalue().to_pybytes()

def damaged(data, n=100): return data[:200]+bytes(n)+data[200+n:]

zipped = gzip.compress(long.encode())

@pytest.mark.parametrize('files,said', [
    ({'a.csv':long, 'b.csv':long+'3,3,good\n'+long[17:]}, r"b\.csv, line 25002: column 'rating' .*\"good\".* leave the line out"),
    ({'a.csv':long, 'b.csv':long+'x3,3,1\n'}, r"b\.csv, line 25002: column 'user' .*\"x3\".*as_text=True"),
    ({'a.csv':long, 'b.csv':long+f'3,{2**63},1\n'}, rf"b\.csv, line 25002: column 'item' .*\"{2**63}\".*as_text=True"),
    ({'a.csv':long, 'b.csv':long+'3.5,3,1\n'}, r"'user' of .*b\.csv holds '3\.5' among whole numbers.*as_text=True"),
    ({'a.csv':long, 'b.csv':long+'3,007,1\n'}, r"'item' of .*b\.csv holds '007' among whole numbers.*as_text=True"),
    ({'a.csv':long, 'b.csv':long+'1e3,3,1\n'}, r"b\.csv holds '1e3' among"),
    ({'a.csv':long, 'b.csv':long+'3,3,1,5\n'}, r"b\.csv, line 25002 \('3,3,1,5'\) .*Columns: 3 Found: 4"),
    ({'a.csv':few, 'b.csv':few+'3,3,1,5\n'}, r"b\.csv, line 302 \('3,3,1,5'\) .*Columns: 3 Found: 4"), # DuckDB would skip what is above
    ({'a.csv':few+'3,3,1,5\n'}, r"a\.csv, line 302 .*Columns: 3 Found: 4"),
    ({'a.csv':few[17:].replace('\n', 'x\n')+'1,1,4x,x\n'*100}, r"a\.csv, line 301 .*Columns: 3 Found: 4"),
    ({'a.csv':'\n'+few}, r"a\.csv begins with an empty line"),
    ({'a.csv':'# ratings of May\n'+few}, r"a\.csv, line 2 \('user,item,rating'\) .*Columns: 1 Found: "),
    ({'a.csv':long, 'b.csv':long+'"3,3,1\n'}, r"b\.csv, line 25002 .*unterminated quote"),
    ({'a.csv':names, 'b.csv':names.encode()+'Jürgen,3,1\n'.encode('latin1')}, r"b\.csv, line 25002 .*not in UTF-8.*iconv -f latin1"),
    ({'a.csv':names.encode('utf16')}, r"a\.csv is in UTF-16"),
    ({'a.csv.gz':zipped, 'b.csv.gz':zipped[:-500]}, r"b\.csv\.gz.* can't be read"),
    ({'a.csv.gz':zipped, 'b.csv.gz':long}, r"b\.csv\.gz can't be read as csv .*GZIP"),
    ({'a.csv':bytes(range(256))*100}, r"a\.csv can't be read as csv"),
    ({'a.csv':many.replace('\n39,', '\n"39,')}, r"a\.csv, line 41 .*unterminated quote"),
    ({'a.csv':names.replace('u39,39,4', 'u39,,39,4', 1)}, r"a\.csv, line 41 \('u39,,39,4'\) .*Found: 4"),
    ({'a.csv':many.replace('\n39,4,4', '\n39,4,good')}, r"'rating' of .*a\.csv is of type VARCHAR.*; see line 41, '39,4,good'"),
    ({'a.csv':many, 'b.csv':many.replace('\n39,', '\nx39,')}, r"'user' is BIGINT in .*a\.csv and VARCHAR in .*b\.csv.*; see line 41, 'x39,4,4'"),
    ({'a.csv':many.replace('\n39,', f'\n{2**70},')}, rf"HUGEINT: .*as_text=True.*; see line 41, '{2**70},4,4'"),
    ({'a.parquet':parquet(), 'b.parquet':parquet(user=[f'u{i%9}' for i in range(300)]).replace(b'u8', b'\xff\xff')}, r"b\.parquet"),
    ({'a.csv':many, 'b.csv':''}, r"b\.csv is empty"),
    ({'a.csv':many[:17]}, r"no ratings in .*a\.csv, but a header alone, \['user'"),
    ({'a.csv':many[17:]}, r"no header, but begin with \['0'"),
    ({'a.csv':many.replace('item', 'rating')}, r"'rating' is there twice"),
    ({'a.csv':many.replace('item', 'User')}, r"'User' is there twice"),
    ({'a.parquet':parquet(), 'b.parquet':damaged(parquet())}, r"b\.parquet can't be read as parquet .*copy it again"),
    ({'a.parquet':parquet(), 'b.parquet':parquet()[:-50]}, r"b\.parquet can't be read as parquet"),
    ({'a.parquet':parquet(), 'b.parquet':many}, r"b\.parquet can't be read as parquet"),
    ({'a.parquet':parquet(user=[[1]]*300)}, r"'user' of .*a\.parquet is of type BIGINT\[\]"),
    ({'a.parquet':parquet(), 'b.csv':many}, r"several kinds.*: a\.parquet, b\.csv"),
])
def test_what_is_wrong_is_named(tmp_path, files, said):
    "The file, and the line and the value where there is one"
    src = files_in(tmp_path/'src', files)
    with pytest.raises(ValueError, match=said): prepare_shards(src, tmp_path/'out', blocks=2)
    assert not (tmp_path/'out'/'manifest.json').exists()

@pytest.mark.parametrize('value', ['3.5','.5','1e3','1_000','+5','007','-07','0x1F','0b11'])
def test_ids_that_would_become_others(tmp_path, value):
    "DuckDB makes whole numbers of them, where the first lines have whole numbers"
    src = files_in(tmp_path/'src', {'a.csv':long+f'{value},3,1\n'})
    with pytest.raises(ValueError, match=rf"'user' of .*a\.csv holds '{re.escape(value)}' among"): prepare_shards(src, tmp_path/'out')
    assert value in read_labels(prepare_shards(src, tmp_path/'out', as_text=True, valid_pct=0), 0).to_pylist()

@pytest.mark.parametrize('kwargs', [dict(split='time'), dict(duplicates='last')])
@pytest.mark.parametrize('gap', ['','nan'])
def test_times_that_are_missing(tmp_path, kwargs, gap):
    "Such a rating would be neither trained on nor held out"
    text = many.replace('\n', ',1.5\n').replace('rating,1.5', 'rating,time')
    src = files_in(tmp_path/'src', {'a.csv':text, 'b.csv':text+f'3,3,4,{gap}\n'})
    with pytest.raises(ValueError, match=r"'time' has no time in 1 ratings, such as in .*b\.csv"): prepare_shards(src, tmp_path/'out', time_name='time', **kwargs)
    shards = prepare_shards(src, tmp_path/'out', time_name='time') # nothing is decided by it
    assert shards.train.rows+shards.valid.rows==401

def test_a_split_that_leaves_nothing(tmp_path):
    text = many.replace('\n', ',5\n').replace('rating,5', 'rating,time')
    src = files_in(tmp_path/'src', {'a.csv':text})
    with pytest.raises(ValueError, match="leaves none of the 200 ratings .* begin at 5, the earliest time in 'time'.*split='random'"): prepare_shards(src, tmp_path/'out', time_name='time', split='time')

def test_errors_that_name_no_file(tmp_path):
    "Of one file they are about it; of several, about the first that can't be read alone; those of the disk are about no file"
    import duckdb
    files_in(tmp_path, {'a.parquet':parquet(), 'b.parquet':damaged(parquet()), 'c.parquet':parquet()})
    files = sorted(tmp_path.glob('*.parquet'))
    db = connect('200MB', 1, tmp_path/'spill')
    for some,said in ((files[:1],'a.parquet'), (files,'b.parquet')):
        with pytest.raises(ValueError, match=f"{said} can't be read as parquet \\(Payload too big"), naming_file(db, some): raise duckdb.Error('Payload too big')
    for e in (duckdb.IOException('No space left on device'), duckdb.OutOfMemoryException('a.parquet'), duckdb.IOException(f'{tmp_path}/work: {files[0]}')):
        with pytest.raises(type(e)), naming_file(db, files, work=tmp_path/'work'): raise e

@pytest.mark.parametrize('kwargs', [dict(weight_name='w'), dict(time_name='w', split='time')])
def test_wrong_weights_and_times_are_named(tmp_path, kwargs):
    more = long.replace('\n', ',1\n').replace('rating,1', 'rating,w')
    src = files_in(tmp_path/'src', {'a.csv':more+'3,3,4,heavy\n'})
    with pytest.raises(ValueError, match=r"a\.csv, line 25002: column 'w' .*\"heavy\""): prepare_shards(src, tmp_path/'out', **kwargs)

def test_a_column_that_is_not_read_may_hold_anything(tmp_path):
    src = files_in(tmp_path/'src', {'a.csv':long.replace('\n', ',1\n').replace('rating,1', 'rating,note')+'3,3,4,well\n'})
    shards = prepare_shards(src, tmp_path/'out')
    assert shards.train.rows+shards.valid.rows==25_001

def test_what_was_wrong_is_corrected(tmp_path):
    "By another file or another setting: the same folder will do, as long as nothing in it is finished"
    src,out = files_in(tmp_path/'src', {'a.csv':long+'3,3,good\nx,3,4\n'}),tmp_path/'out'
    with pytest.raises(ValueError, match='"good"'): prepare_shards(src, out)
    files_in(src, {'a.csv':long+'x,3,4\n'})
    with pytest.raises(ValueError, match='"x".*as_text=True'): prepare_shards(src, out)
    shards = prepare_shards(src, out, as_text=True)
    assert shards.train.rows+shards.valid.rows==25_001

def test_folders_with_names_of_columns(tmp_path):
    src = files_in(tmp_path/'user=5', {'rating=4/a.csv':'user,item\n1,2\n'})
    with pytest.raises(ValueError, match="'user' is in .*a.csv and in the names of its folders"): prepare_shards(src, tmp_path/'out', blocks=1)
    src = files_in(tmp_path/'src', {'user=5/a.csv':'item,rating\n1,2\n', 'user=7/a.csv':'item,rating\n8,3\n'})
    shards = prepare_shards(src, tmp_path/'out', user_name='user', blocks=1, valid_pct=0)
    assert every(shards)==expected((5,1,2),(7,8,3))

def expected(*rows): return sorted((u,i,float(y)) for u,i,y in rows)

def every(shards): return sorted(sum(content(shards), []), key=str)

@pytest.mark.parametrize('files,rows', [
    ({'a.csv':'user,item,rating\n', 'b.csv':'user,item,rating\n1,2,3\n'}, [(1,2,3)]), # a part without rows says nothing of types
    ({'a.csv':'user,item,rating\n1,2,3\n', 'b.csv':'item,x,rating,user\n2,9,4.5,7\n'}, [(1,2,3),(7,2,4.5)]), # in another order
    ({'a.csv':'user,x,item,rating\n1,9,2,3\n', 'b.csv':'user,item,rating\n7,2,4\n'}, [(1,2,3),(7,2,4)]), # with a column less
    ({'a.csv':b'\xef\xbb\xbfuser,item,rating\n1,2,3\n', 'b.CSV':'user,item,rating\r\n7,2,4\r\n'}, [(1,2,3),(7,2,4)]), # mark of UTF-8, capital ending
    ({'a.csv':'user , item , rating\n1 , 2 , 3\n0 , 2 , 4\n'}, [(0,2,4),(1,2,3)]),
    ({'a.parquet':parquet(1, rating=[1]), 'b.parquet':parquet(1, rating=[1.5])}, [(0,0,1),(0,0,1.5)]), # whole numbers first
    ({'a.parquet':parquet(1, user=pa.array([1], pa.int32())), 'b.parquet':parquet(1, user=[2**40])}, [(1,0,0),(2**40,0,0)]),
    ({'user=5/a.csv':'user,item,rating\n1,2,3\n'}, [(1,2,3)]), # a folder above may have any name
    ({'rating=4/a.csv':'user,item\n1,2\n', 'rating=3/a.csv':'user,item\n1,7\n'}, [(1,2,4),(1,7,3)]), # as Spark writes it
    ({'.x/a.csv':'no,thing\n', '_tmp/b.csv':'', '._c.csv':b'\0', 'd.csv':'user,item,rating\n1,2,3\n'}, [(1,2,3)]),
    ({"it's [1]*;--.csv":'user,item,rating\n1,2,3\n'}, [(1,2,3)]),
], ids=str)
def test_files_that_are_read_right(tmp_path, files, rows):
    shards = prepare_shards(files_in(tmp_path/'src', files), tmp_path/'out', blocks=1, valid_pct=0, item_name='item')
    assert every(shards)==sorted(expected(*rows), key=str)

def test_quotes_that_come_late(tmp_path):
    "DuckDB takes a column without quotes in its first lines to have none at all"
    late = [('Smith, J',3,4.), ('say "hi"',3,4.), ("O'Neil",3,4.), ('a\nb',3,4.)]
    text = ''.join('"{}",{},{}\n'.format(u.replace('"', '""'), i, y) for u,i,y in late)
    shards = prepare_shards(files_in(tmp_path/'src', {'a.csv':names+text}), tmp_path/'out', valid_pct=0)
    assert [o for o in every(shards) if not o[0].startswith('u')]==sorted(late)

@pytest.mark.parametrize('name', ['a[1]', 'd*e', "q'x; drop table users", 'item=7', 'user_block=1', 'p%41', '{}', 'ü'])
def test_names_of_folders(tmp_path, name):
    "Of what is read, and of what is written"
    df = ratings()
    (tmp_path/name).mkdir()
    assert content(prepared(df, tmp_path/name, valid_pct=0))[0]==rows_of_frame(df)

def test_shards_in_the_folder_of_ratings(tmp_path):
    "They are no source, so a second call finds them finished"
    src = files_in(tmp_path/'src', {'a.parquet':parquet()})
    first = prepare_shards(src, src/'shards', blocks=2)
    assert prepare_shards(src, src/'shards', blocks=2).preparation==first.preparation
    with pytest.raises(ValueError, match='lies in .*src, where shards are written'): prepare_shards(src, src, blocks=2)

def test_paths_that_can_not_be_used(tmp_path):
    src = files_in(tmp_path/'src', {'a.csv':many})
    file = src/'a.csv'
    for out,said in ((file,'is a file'), (file/'x','is a file'), (tmp_path/'a?b','question mark')):
        with pytest.raises(ValueError, match=said): prepare_shards(src, out, blocks=2)
    with pytest.raises(ValueError, match='a.csv is listed twice'): prepare_shards([file,file], tmp_path/'out', blocks=2)
    (src/'b.csv').symlink_to(tmp_path/'nowhere.csv')
    with pytest.raises(FileNotFoundError, match='b.csv'): prepare_shards(src, tmp_path/'out', blocks=2)
    (src/'b.csv').unlink()
    open(bytes(src)+b'/b\xff.csv', 'w').write(many)
    with pytest.raises(ValueError, match='not in UTF-8: rename it'): prepare_shards(src, tmp_path/'out', blocks=2)

def test_a_file_that_may_not_be_read(tmp_path, monkeypatch):
    src = files_in(tmp_path/'src', {'a.csv':many})
    monkeypatch.setattr(os, 'access', lambda path, mode: False) # whoever runs tests as root may read all
    with pytest.raises(PermissionError, match='a.csv may not be read'): prepare_shards(src, tmp_path/'out', blocks=2)

@pytest.mark.parametrize('memory', ['-3','-3GB','none','0GB','1','1e3MB',3,None])
def test_memory_that_is_no_size(tmp_path, memory):
    with pytest.raises(ValueError, match="`memory` is a size such as '1GB', not"): prepared(ratings(), tmp_path, memory=memory)

@pytest.mark.parametrize('y_range', [('1','5'), (5,1), (1,), 'wide', (float('nan'),5), (0,float('inf'))])
def test_y_range_that_is_none(tmp_path, y_range):
    with pytest.raises(ValueError, match='`y_range` is the lowest'): prepared(ratings(), tmp_path, y_range=y_range)

# --- one at a time, kills, full disks

holder = """import sys,time
from collab_ext.shards import only_preparer
with only_preparer(sys.argv[1]):
    print('held', flush=True)
    time.sleep(600)"""

def test_two_preparations_of_one_folder(tmp_path):
    "The second is told which process is at work; the lock of a killed one is no lock"
    src,out = files_in(tmp_path/'src', {'a.csv':many}),tmp_path/'out'
    other = subprocess.Popen([sys.executable, '-c', holder, out], stdout=subprocess.PIPE)
    try:
        other.stdout.readline()
        with pytest.raises(TimeoutError, match=f'Process {other.pid} on .* is preparing shards in .*out: wait'): prepare_shards(src, out, blocks=2)
    finally:
        other.kill()
        other.wait()
    assert prepare_shards(src, out, blocks=2).train.rows and not (out/'.prepare').exists()

def killed_at(module, name, nth=1):
    "This process is killed at the n-th call of a function"
    calls = []
    def f(*args, **kwargs):
        calls.append(name)
        if len(calls)==nth: os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)
    real = getattr(module, name)
    setattr(module, name, f)

def test_leftovers_of_finished_shards(tmp_path):
    "Killed after the manifest was written: the work is deleted by whoever opens the shards, but not while somebody holds the lock"
    out = tmp_path/'out'
    def killed():
        killed_at(writer, 'Shards')
        prepared(ratings(), tmp_path)
    assert in_child(killed)==-signal.SIGKILL
    assert (out/'manifest.json').is_file() and (out/'.prepare'/'work.db').is_file()
    with only_preparer(out): Shards(out)
    assert (out/'.prepare'/'work.db').is_file()
    check_shards(Shards(out))
    assert not (out/'.prepare').exists()

def test_work_without_a_manifest_stays(tmp_path):
    "What is finished stays finished: nobody who looks for shards deletes it"
    def killed():
        killed_at(writer, 'seal')
        prepared(ratings(), tmp_path)
    assert in_child(killed)==-signal.SIGKILL
    with pytest.raises(FileNotFoundError, match='goes on where it stopped'): Shards(tmp_path/'out')
    assert (tmp_path/'out'/'.prepare'/'labels.json').is_file()

@pytest.mark.parametrize('name,nth', [('count_labels',1),('count_labels',2),('write_labels',2),('encode',1),('cut',1),('cut',3),('describe_part',2),('seal',1),('write_whole',3),('write_whole',5)])
def test_kills(tmp_path, name, nth):
    "Killed in any step, the next call gives what an undisturbed one gives"
    (tmp_path/'whole').mkdir()
    whole = prepared(ratings(), tmp_path/'whole', 2)
    def killed():
        killed_at(writer, name, nth)
        prepared(ratings(), tmp_path, 2)
    assert in_child(killed)==-signal.SIGKILL
    again = prepare_shards(tmp_path/'src', tmp_path/'out', blocks=2)
    check_shards(again)
    assert content(again)==content(whole) and again.preparation==whole.preparation

def test_a_database_that_is_cut_off(tmp_path):
    "By a full disk or a kill: it is counted anew"
    df = ratings()
    (tmp_path/'out'/'.prepare').mkdir(parents=True)
    (tmp_path/'out'/'.prepare'/'work.db').write_bytes(bytes(5000))
    assert content(prepared(df, tmp_path, valid_pct=0))[0]==rows_of_frame(df)

def test_files_that_change_meanwhile(tmp_path, monkeypatch):
    "A file that grows after labels were counted would bring labels that have no row"
    src = files_in(tmp_path/'src', {'a.csv':many})
    real = writer.encode
    def encode(*args):
        with open(src/'a.csv', 'a') as f: f.write('12345,1,1\n')
        return real(*args)
    monkeypatch.setattr(writer, 'encode', encode)
    with pytest.raises(ValueError, match='were changed while they were read: delete .*prepare'): prepare_shards(src, tmp_path/'out', blocks=2)
    assert not (tmp_path/'out'/'manifest.json').exists()

def small_files(n):
    "No file of this process can be larger than `n` bytes: writing ends as on a full disk"
    resource.setrlimit(resource.RLIMIT_FSIZE, (n,resource.RLIM_INFINITY))

def test_full_disk_while_a_note_is_written(tmp_path):
    note = tmp_path/'note.json'
    write_whole(note, 'earlier')
    def full():
        small_files(10)
        with pytest.raises(OSError, match='disk of .* is full, and note.json needs 1000 bytes: free some') as e: write_whole(note, 'x'*1000)
        assert e.value.errno==errno.EFBIG
    assert in_child(full)==0
    assert [o.read_text() for o in tmp_path.iterdir()]==['earlier']

@pytest.mark.parametrize('kb', [8,30,100])
def test_full_disk_while_shards_are_written(tmp_path, kb):
    src = files_in(tmp_path/'src', {'a.csv':long, 'b.csv':long})
    def full():
        small_files(kb*1000)
        with pytest.raises(OSError, match='free some of it'): prepare_shards(src, tmp_path/'out', blocks=2)
    assert in_child(full)==0
    assert not (tmp_path/'out'/'manifest.json').exists()
    shards = prepare_shards(src, tmp_path/'out', blocks=2)
    check_shards(shards)
    assert shards.train.rows+shards.valid.rows==50_000

# --- lists for all

def shard_learner(folder, **kwargs):
    shards = prepared(ratings(400), folder, **kwargs)
    return fit(collab_learner(CollabDataLoaders.from_shards(shards, bs=64, seed=1, path=folder), 4, y_range=(1,5)))

def parts_in(folder): return {o.name:o.read_bytes() for o in folder.glob('*.parquet')}

@pytest.mark.parametrize('spoil', [lambda data: b'PA', lambda data: b'', lambda data: data[:-1], lambda data: parquet()])
def test_a_part_that_is_not_whole_is_written_anew(tmp_path, spoil):
    "Of a crash, or of a copy that was cut off; those that are whole are not touched"
    learn = shard_learner(tmp_path)
    paths = recommend_shards(learn, tmp_path/'lists', k=5, chunk=5)
    before,stays = parts_in(tmp_path/'lists'),paths[0].stat().st_mtime_ns
    paths[1].write_bytes(spoil(paths[1].read_bytes()))
    recommend_shards(learn, tmp_path/'lists', k=5, chunk=5)
    assert parts_in(tmp_path/'lists')==before and paths[0].stat().st_mtime_ns==stays

def test_full_disk_while_lists_are_written(tmp_path):
    "The folder and what to do; nothing half written is left, and what was finished stays"
    learn = shard_learner(tmp_path)
    whole = recommend_shards(learn, tmp_path/'whole', k=5, chunk=5)
    first = recommend_shards(learn, tmp_path/'lists', k=5, chunk=5, blocks=[0])
    def full():
        small_files(300)
        with pytest.raises(OSError, match=rf'disk of {tmp_path/"lists"} is full, and part-.* needs \d+ bytes: free some of it and call again') as e:
            recommend_shards(learn, tmp_path/'lists', k=5, chunk=5)
        assert e.value.errno==errno.EFBIG
    assert in_child(full)==0
    assert sorted(o.name for o in (tmp_path/'lists').iterdir())==sorted(['parts.json', *[o.name for o in first]])
    recommend_shards(learn, tmp_path/'lists', k=5, chunk=5)
    assert parts_in(tmp_path/'lists')=={o.name:o.read_bytes() for o in whole}

@pytest.mark.parametrize('known', [False,True], ids=['new','known'])
@pytest.mark.parametrize('loaded', [False,True], ids=['at_once','loaded'])
def test_lists_after_folding_in(tmp_path, known, loaded):
    "Users of the shards get lists as before, without what was folded in of them; new ones are in no list"
    learn = shard_learner(tmp_path)
    learn.solve(3)
    before = pd.concat(map(pd.read_parquet, recommend_shards(learn, tmp_path/'before', k=5)), ignore_index=True)
    user,item = before.user[0],before.item[0]
    new = pd.DataFrame(dict(user=-9, item=before.item[:3], rating=5.))
    more = pd.DataFrame(dict(user=user, item=[item], rating=1.))
    learn.fold_in(pd.concat([new,more]) if known else new, update=False)
    if loaded:
        learn.save('m') # the pair has the rows of those who were folded in, and not their ratings
        learn = collab_learner(CollabDataLoaders.from_shards(learn.dls.train_ds.shards, path=tmp_path), 4, y_range=(1,5)).load('m')
    after = pd.concat(map(pd.read_parquet, recommend_shards(learn, tmp_path/'after', k=5)), ignore_index=True)
    def others(df): return df[df.user!=user].reset_index(drop=True)
    pd.testing.assert_frame_equal(others(before), others(after))
    assert (item in after.item[after.user==user].values)==(not known or loaded)

def test_a_bundle_of_more_ratings_than_fit_into_memory(tmp_path):
    "The remedy is one of a bundle's"
    learn = shard_learner(tmp_path)
    dls = CollabDataLoaders.from_shards(learn.dls.train_ds.shards, in_memory=10)
    few = fit(collab_learner(dls, 4))
    with pytest.raises(ValueError, match='`in_memory=10`.*pass `with_seen=False`'): few.export_bundle(tmp_path/'bundle')
    few.export_bundle(tmp_path/'bundle', with_seen=False)

# --- learners

@pytest.mark.parametrize('ds_idx', [0,1])
def test_show_results(tmp_path, ds_idx):
    learn = fit(collab_learner(CollabDataLoaders.from_shards(prepared(ratings(), tmp_path), bs=64), 4))
    dl = learn.dls[ds_idx]
    b = dl.one_batch()
    df = dl.show_results(b, learn.model(b[0]), max_n=3, show=False)
    assert list(df)==['user','item','rating','rating_pred'] and len(df)==3
    assert df.rating.tolist()==b[1][:3].flatten().tolist()
    with learn.no_bar(): learn.show_results(ds_idx=ds_idx)

def test_processes_warn_of_no_shadows(tmp_path):
    "fastai warns when an attribute of a callback has a name that the model has, too"
    shards = prepared(ratings(), tmp_path)
    def warned(rank):
        learn = collab_learner(CollabDataLoaders.from_shards(shards, bs=64, seed=1), 4, use_nn=True, cbs=RowExchange())
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter('always')
            fit(learn)
        return [str(o.message) for o in seen if 'shadowing' in str(o.message)]
    assert in_processes(2, warned, tmp_path)==[[],[]]

def test_the_command_says_it_in_a_line(tmp_path, capsys):
    "Another process at work, a full disk: an exit code and a message, and no traceback"
    files_in(tmp_path, {'a.csv':many})
    args = ['shards', str(tmp_path/'a.csv'), str(tmp_path/'out'), '--blocks', '2']
    with only_preparer(tmp_path/'out'): assert main(args)==2
    said = capsys.readouterr().err
    assert said.startswith(f'collab-ext shards: Process {os.getpid()} on') and said.count('\n')==1
    def full():
        small_files(10_000)
        assert main(args)==2
        said = capsys.readouterr().err
        assert 'free some of it' in said and said.count('\n')==1
    assert in_child(full)==0
    assert main(args)==0

def test_prepare_with_ids_beyond_64_bits(tmp_path, capsys):
    "They are text, as are the others of their column"
    (tmp_path/'a.csv').write_text(many+f'{2**70},3,4\n{2**70},4,4\n')
    assert main(['prepare', '--ratings', str(tmp_path/'a.csv'), '--root', str(tmp_path), '--split', 'none', '--quiet'])==0
    users = pd.read_parquet(tmp_path/'prepared'/'1'/'train.parquet').user
    assert (users==str(2**70)).sum()==2 and '7' in set(users)
