"Shards of what people have: what is wrong is said with the name of the file, the line and what to do, and nothing is half done"
import json

import pytest
pytest.importorskip('duckdb')
import pyarrow as pa,pyarrow.parquet as pq
from helpers import *
from collab_ext.shards import *
from test_shards import prepared,ratings

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
