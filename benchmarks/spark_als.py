"""ALS by Spark, a peer of `distributed.py`: started by it, with an interpreter that has pyspark

    python benchmarks/spark_als.py FOLDER CORES [REG]   # FOLDER has train.parquet and valid.parquet: user, item, rating

Without REG, some are tried on a tenth of the training ratings. Prints JSON; times are those of `fit`, from cached ratings, for the second of two equal fits."""
import json,os,sys,time
from pathlib import Path
from pyspark.sql import SparkSession,functions as F
from pyspark.ml.recommendation import ALS

def tree(pid):
    "A process and all that it has started"
    res = [pid]
    for o in Path('/proc').glob('[0-9]*/stat'):
        try: stat = o.read_text()
        except OSError: continue
        if int(stat.rpartition(')')[2].split()[1])==pid: res += tree(int(o.parent.name))
    return res

def cpu_of_tree():
    "CPU seconds of this process and of the JVM"
    res = 0
    for pid in tree(os.getpid()):
        try: fields = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
        except OSError: continue
        res += sum(map(int, fields[11:15])) # utime, stime, and those of children that have ended
    return res/os.sysconf('SC_CLK_TCK')

def peak_of_tree():
    "Peak memory of the JVM in MB"
    status = [Path(f'/proc/{o}/status') for o in tree(os.getpid())[1:]]
    lines = [l for o in status if o.exists() for l in o.read_text().splitlines() if l.startswith('VmHWM')]
    return max(int(l.split()[1]) for l in lines)/1024

def fitted(train, reg): return ALS(rank=50, maxIter=10, regParam=reg, userCol='user', itemCol='item', ratingCol='rating', seed=0).fit(train)

def rmse(model, train, valid, lo=1., hi=5.):
    "Of predictions within the scale; the mean where a user or item has no training rating"
    mean = train.agg(F.avg('rating')).first()[0]
    pred = model.transform(valid).withColumn('p', F.when(F.isnan('prediction'), mean).otherwise(F.col('prediction')))
    clipped = F.greatest(F.lit(lo), F.least(F.lit(hi), F.col('p')))
    return pred.agg(F.sqrt(F.avg((clipped-F.col('rating'))**2))).first()[0]

def main(folder, cores, reg=None):
    spark = (SparkSession.builder.master(f'local[{cores}]').config('spark.driver.memory', '4g').config('spark.ui.enabled', 'false').config('spark.ui.showConsoleProgress', 'false')
        .config('spark.sql.shuffle.partitions', cores).config('spark.default.parallelism', cores).getOrCreate())
    spark.sparkContext.setLogLevel('ERROR')
    train,valid = [spark.read.parquet(f'{folder}/{o}.parquet').repartition(int(cores)).cache() for o in ('train','valid')]
    if reg is None:
        fit,held = [o.cache() for o in train.randomSplit([.9,.1], seed=0)]
        found = {o:rmse(fitted(fit, o), fit, held) for o in (.02,.035,.05,.07,.1)}
        print(json.dumps(dict(found=found, reg=min(found, key=found.get))))
        return
    n = train.count()+valid.count()
    times = []
    for _ in range(2):
        cpu,wall = cpu_of_tree(),time.time()
        model = fitted(train, float(reg))
        times.append((cpu_of_tree()-cpu, time.time()-wall))
    print(json.dumps(dict(rows=n, first_cpu=times[0][0], first_wall=times[0][1], cpu=times[1][0], wall=times[1][1], rmse=rmse(model, train, valid),
        peak=peak_of_tree(), version=spark.version)))

if __name__=='__main__': main(*sys.argv[1:])
