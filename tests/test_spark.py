"Shards that Spark writes, and lists that it makes; without Spark, nothing is tested here"
import os,subprocess,sys
from importlib.util import find_spec

import pytest
pytest.importorskip('duckdb')
from helpers import *
from collab_ext.shards import *
from collab_ext.shard_writer import *
from collab_ext.shard_loaders import *
from collab_ext.batch_recommend import *

python = os.environ.get('SPARK_PYTHON')
script = Path(__file__).parents[1]/'examples'/'spark_shards.py'

def spark(python, *args):
    subprocess.run([python, script, *map(str, args)], check=True, capture_output=True, env=dict(os.environ, PYTHONPATH=os.pathsep.join(sys.path)
        if python==sys.executable else str(script.parents[1])))

def rmse_of(shards, path):
    set_seed(1)
    learn = collab_learner(CollabDataLoaders.from_shards(shards, path=path), 8, y_range=(1,5), metrics=rmse)
    with learn.no_bar(),learn.no_logging(): learn.solve(5)
    return learn.final_record[2]

def content(shards):
    "All ratings, with labels"
    vocab,res = [read_labels(shards, s).to_pylist() for s in (0,1)],[]
    for part in [*shards.train.parts,*shards.valid.parts]:
        data = read_part(shards, part)
        res += [(vocab[0][u-1],vocab[1][i-1],y) for (u,i),y in zip(data.ids.tolist(), data.targ.tolist()) if u and i]
    return sorted(res)

@pytest.mark.skipif(not python, reason='SPARK_PYTHON names no interpreter with pyspark')
def test_shards_by_spark(tmp_path):
    "They pass the check, hold each rating once, and train to the error of those that DuckDB writes"
    df = simulate_ratings(300, 100, 12_000, seed=0).ratings[['user','item','rating']]
    df.to_parquet(tmp_path/'ratings.parquet')
    spark(python, 'write', tmp_path/'ratings.parquet', tmp_path/'spark', '--blocks', 3, '--bucket_rows', 500)
    shards = Shards(tmp_path/'spark')
    check_shards(shards)
    assert shards.n_blocks==(3,3) and len({o.bucket for o in shards.train.parts})>1
    assert content(shards)==sorted((u,i,float(np.float32(y))) for u,i,y in df.itertuples(index=False))
    counts = [read_counts(shards, 0)[shards.block(0, b)].sum() for b in range(3)]
    assert max(counts)<1.05*min(counts)
    ours = prepare_shards(tmp_path/'ratings.parquet', tmp_path/'ours', valid_pct=.2, blocks=3)
    assert abs(rmse_of(shards, tmp_path)-rmse_of(ours, tmp_path))<.02

@pytest.mark.skipif(not find_spec('pyspark'), reason='pyspark is not installed beside collab_ext')
def test_lists_by_spark(tmp_path):
    "They are the bytes of one process"
    simulate_ratings(100, 50, 2000, seed=0).ratings.to_parquet(tmp_path/'ratings.parquet')
    prepare_shards(tmp_path/'ratings.parquet', tmp_path/'shards', blocks=3)
    learn = collab_learner(CollabDataLoaders.from_shards(tmp_path/'shards', path=tmp_path), 4)
    with learn.no_bar(),learn.no_logging(): learn.solve(2)
    learn.save('model')
    paths = recommend_shards(learn, tmp_path/'one')
    spark(sys.executable, 'lists', tmp_path/'shards', tmp_path/'models'/'model', tmp_path/'many', '--factors', 4)
    assert len(paths)==3
    for o in paths: assert (tmp_path/'many'/o.name).read_bytes()==o.read_bytes()
