"""Spark writes shards, and makes lists from them

    python spark_shards.py write SOURCE OUT --user userId --item movieId --rating rating --blocks 4
    python spark_shards.py lists SHARDS MODEL OUT --factors 32

SOURCE is what Spark reads: Parquet, or CSV with a header. What `write` leaves is the folder that `prepare_shards` writes, but for which ratings are held out:
https://collab-ext.github.io/collab_ext/shards.html describes it. It needs pyspark, numpy and pyarrow, and of collab_ext the module `shards` alone; the driver
has to see OUT, to seal it. `lists` needs collab_ext with all that it needs, where the workers are."""
import argparse,shutil
from pathlib import Path
from pyspark.sql import SparkSession,Window,functions as F

def session(): return SparkSession.builder.config('spark.ui.showConsoleProgress', 'false').getOrCreate()

def read(spark, source, user, item, rating):
    "The ratings, checked"
    df = spark.read.parquet(source) if Path(source).is_dir() or source.endswith('.parquet') else spark.read.csv(source, header=True, inferSchema=True)
    df = df.select(F.col(user).alias('user_label'), F.col(item).alias('item_label'), F.col(rating).cast('float').alias('rating'))
    bad = df.filter('user_label is null or item_label is null or rating is null or isnan(rating)').count()
    if bad: raise ValueError(f'{bad} ratings of {source} have no user, no item or no rating: drop them')
    return df

def share(df, name, seed):
    "A number from 0 to 1 for each pair of user and item"
    return F.pmod(F.xxhash64('user_label', 'item_label', F.lit(f'{name} {seed}')), F.lit(10**6))/10**6

def numbered(train, side, blocks):
    "Label, count, block and row of users or items: the most frequent ones are dealt to blocks in turn, so that these weigh alike"
    counts = train.groupBy(f'{side}_label').agg(F.count('*').alias('count'))
    ranked = counts.withColumn('rank', F.row_number().over(Window.orderBy(F.desc('count'), f'{side}_label'))-1)
    turn,at = F.floor(F.col('rank')/blocks)%2,F.col('rank')%blocks
    dealt = ranked.withColumn(f'{side}_block', F.when(turn==0, at).otherwise(blocks-1-at).cast('int'))
    return dealt.withColumn(side, F.row_number().over(Window.orderBy(f'{side}_block', 'rank')).cast('int')).cache()

def write_labels(rows, side, out):
    "One file, with the labels in the order of rows"
    tmp = out/f'{side}s.tmp'
    rows.orderBy(side).select(F.col(f'{side}_label').alias('label'), F.col('count').cast('long')).coalesce(1).write.mode('overwrite').parquet(str(tmp))
    next(tmp.glob('*.parquet')).rename(out/f'{side}s.parquet')
    shutil.rmtree(tmp)

def starts_of(rows, side):
    "First row of each block"
    return [o[0] for o in rows.groupBy(f'{side}_block').agg(F.min(side)).orderBy(f'{side}_block').select(f'min({side})').collect()]

def write_ratings(df, folder, keys):
    "A folder for each block and bucket, with one file"
    df.repartition(*keys).select('user', 'item', 'rating', *keys).write.mode('overwrite').partitionBy(*keys).parquet(str(folder))

def write(source, out, user='user', item='item', rating='rating', blocks=4, valid_pct=.2, bucket_rows=1_000_000, seed=0):
    "Shards of the ratings in SOURCE"
    from collab_ext.shards import seal
    out = Path(out)
    if (out/'manifest.json').exists(): raise ValueError(f'{out} holds shards: delete it, or choose another folder')
    out.mkdir(parents=True, exist_ok=True)
    ratings = read(session(), source, user, item, rating)
    ratings = ratings.withColumn('held_out', share(ratings, 'valid', seed)<valid_pct).cache()
    train = ratings.filter('not held_out')
    rows = {o:numbered(train, o, blocks) for o in ('user','item')}
    encoded = ratings
    for o in rows: encoded = encoded.join(rows[o].select(f'{o}_label', o, f'{o}_block'), f'{o}_label', 'left').fillna(0, [o,f'{o}_block'])
    buckets = max(1, -(-train.count()//(blocks**2*bucket_rows)))
    encoded = encoded.withColumn('bucket', F.floor(share(encoded, 'bucket', seed)*buckets).cast('int'))
    write_ratings(encoded.filter('not held_out'), out/'train', ['user_block','item_block','bucket'])
    write_ratings(encoded.filter('held_out'), out/'valid', ['user_block','bucket'])
    for o in rows: write_labels(rows[o], o, out)
    seal(out, [user,item,rating], [starts_of(rows[o], o) for o in rows], settings=dict(written_by='spark', source=str(source), valid_pct=valid_pct, seed=seed))

def job(shards, model, out, factors, block):
    "Lists for the users of a block, in a worker"
    from collab_ext import collab_learner,CollabDataLoaders,recommend_shards
    learn = collab_learner(CollabDataLoaders.from_shards(shards, path=Path(model).parents[1]), factors)
    learn.load(Path(model).name)
    return [str(o) for o in recommend_shards(learn, out, blocks=[block])]

def lists(shards, model, out, factors=50):
    "Lists for all users, a block for each task; MODEL is what `learn.save` wrote, without its ending"
    from collab_ext.shards import Shards
    n = Shards(shards).n_blocks[0]
    tasks = session().sparkContext.parallelize(range(n), n)
    return tasks.flatMap(lambda block: job(shards, model, out, factors, block)).collect()

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = p.add_subparsers(required=True)
    w = sub.add_parser('write')
    for o in ('source','out'): w.add_argument(o)
    for o in ('user','item','rating'): w.add_argument(f'--{o}', default=o)
    for o,default in dict(blocks=4, valid_pct=.2, bucket_rows=1_000_000, seed=0).items(): w.add_argument(f'--{o}', type=type(default), default=default)
    w.set_defaults(run=write)
    l = sub.add_parser('lists')
    for o in ('shards','model','out'): l.add_argument(o)
    l.add_argument('--factors', type=int, default=50)
    l.set_defaults(run=lists)
    args = vars(p.parse_args())
    args.pop('run')(**args)

if __name__=='__main__': main()
