"""More data than memory, more work than one process: how fast, how much memory, how many bytes

    python benchmarks/distributed.py sizes 5 20 60     # prepare and train so many million simulated ratings
    python benchmarks/distributed.py processes 8       # 1 → 2 processes, on so many million
    python benchmarks/distributed.py ml1m              # closed form on MovieLens 1M, 10 iterations at rank 50

Each step runs in a process of its own, with one thread, so that its peak memory is its own. Tables go to stdout, in Markdown."""
import json,os,resource,shutil,socket,subprocess,sys,tempfile,time
from pathlib import Path

os.environ.setdefault('OMP_NUM_THREADS', '1')
work = Path(os.environ.get('COLLAB_EXT_WORK', tempfile.gettempdir()))/'collab_ext_distributed'
data = Path(os.environ.get('COLLAB_EXT_DATA', '../shared/data'))
memory,n_factors = '1GB',32

def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024 # MB

def shape(millions): return int(millions*10_000),int(2_000+millions*200) # users, items: 100 ratings of each user

# --- steps, each in its own process

def simulate(millions, seed=0):
    "Parquet files of labels and ratings, with a truth of rank 8"
    import numpy as np, pyarrow as pa, pyarrow.parquet as pq, pyarrow.compute as pc
    out,n = work/f'{millions:g}'/'ratings',int(millions*1e6)
    if out.is_dir(): return dict(rows=n)
    n_users,n_items = shape(millions)
    rng = np.random.default_rng(seed)
    def normal(*size, width): return rng.standard_normal(size, dtype='f4')*np.float32(width)
    U,V = [normal(o, 8, width=.35) for o in (n_users,n_items)]
    bu,bi = [normal(o, width=.3) for o in (n_users,n_items)]
    def names(prefix, rows): return pc.binary_join_element_wise(prefix, pa.array(rows).cast('string'), '')
    tmp = out.with_suffix('.tmp')
    tmp.mkdir(parents=True)
    for start in range(0, n, 1_000_000):
        m = min(1_000_000, n-start)
        u = rng.integers(0, n_users, m)
        i = (n_items*rng.random(m)**1.8).astype('i8')
        y = 3.5 + np.einsum('nf,nf->n', U[u], V[i]) + bu[u] + bi[i] + normal(m, width=.7)
        columns = dict(user=names('user', u), item=names('item', i), rating=pa.array(y, pa.float32()), time=pa.array(np.arange(start, start+m)))
        pq.write_table(pa.table(columns), tmp/f'part-{start//1_000_000:04}.parquet')
    tmp.rename(out)
    return dict(rows=n)

def prepare(millions, blocks=4):
    from collab_ext.shard_writer import prepare_shards
    folder = work/f'{millions:g}'
    shutil.rmtree(folder/'shards', ignore_errors=True)
    before,cpu,wall = peak(),time.process_time(),time.time()
    shards = prepare_shards(folder/'ratings', folder/'shards', valid_pct=.02, memory=memory, blocks=blocks)
    rows,cpu = shards.train.rows+shards.valid.rows,time.process_time()-cpu
    disk = sum(o.stat().st_size for o in (folder/'shards').rglob('*.parquet'))
    return dict(rows=rows, cpu=cpu, wall=time.time()-wall, peak=peak(), imports=before, bytes_per_rating=disk/rows)

def learner(millions, bs=2**17, cbs=(), n_factors=n_factors):
    from collab_ext import collab_learner,CollabDataLoaders
    from fastai.basics import set_seed
    from fastai.metrics import rmse
    set_seed(0)
    dls = CollabDataLoaders.from_shards(work/f'{millions:g}'/'shards', bs=bs, seed=0, path=work)
    return collab_learner(dls, n_factors, metrics=rmse, cbs=list(cbs))

def warmed():
    "Compile loops before anything is measured"
    import torch
    from collab_ext.fused import RowTable
    from collab_ext.fused_numba import step
    tabs = [RowTable(torch.zeros(3, k)) for k in (n_factors,n_factors,1,1)]
    step(torch.zeros(4, 2).long(), torch.zeros(4), None, tabs, 3.)

def train(millions, epochs=1):
    "One fused epoch, and the rate of the same with ratings in memory"
    from collab_ext import Fused
    warmed()
    learn = learner(millions, cbs=[Fused()])
    tables = sum(p.nbytes for p in learn.model.parameters())/2**20
    before,n = peak(),len(learn.dls.train_ds)
    with learn.no_bar(),learn.no_logging():
        learn.dls.valid.set_schedule([])
        cpu,wall = time.process_time(),time.time()
        learn.fit(epochs, .005)
        cpu,wall = time.process_time()-cpu,time.time()-wall
        learn.dls.valid.set_schedule()
        valid = learn.validate()[1]
    res = dict(rate=n*epochs/cpu/1e6, wall=wall, peak=peak(), before=before, tables=tables, rmse=valid)
    return dict(res, in_memory=in_memory_rate(learn))

def in_memory_rate(learn, most=8_000_000):
    "Million ratings a CPU second in an ordinary learner, with ratings in memory"
    import numpy as np, torch
    from collab_ext import collab_learner,CollabDataLoaders,Fused,Ratings
    from collab_ext.data import CollabDL
    from collab_ext.shards import read_part
    ds = learn.dls.train_ds
    parts = [read_part(ds.shards, o) for o in ds.split.parts[:most*len(ds.split.parts)//max(most, len(ds))]]
    ids,y = [torch.from_numpy(np.concatenate(o)) for o in zip(*[(o.ids,o.targ) for o in parts])]
    train = Ratings(ds.vocab, ids, y, ds.rating_name, ds.counts)
    dls = CollabDataLoaders(CollabDL(train, shuffle=True), CollabDL(train.new(ids[:0], y[:0])), path=work)
    other = collab_learner(dls, n_factors, cbs=Fused())
    with other.no_bar(),other.no_logging():
        cpu = time.process_time()
        other.fit(1, .005)
    return len(y)/(time.process_time()-cpu)/1e6

def solve(millions, n=1, n_factors=20):
    from collab_ext.sharded_closed_form import ShardedSolver
    learn = learner(millions, n_factors=n_factors)
    solver = ShardedSolver(learn.model, learn.dls, learn.loss_func)
    solver.mf = solver.start()
    before,cpu = peak(),time.process_time()
    for _ in range(n): solver.train_epoch()
    return dict(cpu=(time.process_time()-cpu)/n, peak=peak(), before=before, noise=solver.mf.noise)

def ring(millions, epochs=4):
    "One process of several: CPU and wall time of training, and what it sent"
    from collab_ext import Fused,Ring
    warmed()
    learn = learner(millions, bs=2**16, cbs=[Fused(),Ring()])
    with learn.no_bar(),learn.no_logging():
        learn.fit(1, 0.) # all is read and compiled once
        learn.ring.bytes_sent = 0
        cpu,wall = time.process_time(),time.time()
        learn.fit(epochs, .005)
    rows = [sum(p.nbytes for k,p in learn.model.named_parameters() if k.startswith(side)) for side in 'ui']
    return dict(cpu=time.process_time()-cpu, wall=time.time()-wall, sent=learn.ring.bytes_sent, rmse=float(learn.final_record[2]), users=rows[0], items=rows[1])

def closed(millions, sweeps=6, n_factors=20):
    from collab_ext.sharded_closed_form import ShardedSolver
    learn = learner(millions, n_factors=n_factors)
    solver = ShardedSolver(learn.model, learn.dls, learn.loss_func)
    solver.mf = solver.start()
    solver.train_epoch()
    cpu,wall = time.process_time(),time.time()
    for _ in range(sweeps): solver.train_epoch()
    cpu,wall = time.process_time()-cpu,time.time()-wall
    sent = solver.mf.bytes_sent
    solver.write(learn.model)
    with learn.no_bar(): valid = learn.validate()[1]
    return dict(cpu=cpu, wall=wall, sent=sent, rmse=valid, noise=solver.mf.noise)

def ml1m(n=10, n_factors=50):
    import pandas as pd
    from collab_ext import prepare_shards
    df = pd.read_csv(next((data/'ml-1m').glob('ratings*')))
    folder = work/'0'
    folder.mkdir(parents=True, exist_ok=True)
    df.to_parquet(folder/'ratings.parquet')
    prepare_shards(folder/'ratings.parquet', folder/'shards', valid_pct=.1)
    learn = learner(0, n_factors=n_factors)
    wall = time.time()
    with learn.no_bar(),learn.no_logging(): learn.solve(n)
    return dict(wall=time.time()-wall, rmse=float(learn.final_record[2]))

steps = dict(simulate=simulate, prepare=prepare, train=train, solve=solve, ring=ring, closed=closed, ml1m=ml1m)

# --- runs of steps

def run(step, *args, n=1):
    "Run a step in `n` new processes; what each found"
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    def env(rank): return dict(os.environ, RANK=str(rank), WORLD_SIZE=str(n), MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    command = [sys.executable, '-W', 'ignore', __file__, 'step', step, *map(str, args)]
    started = [subprocess.Popen(command, env=env(r), stdout=subprocess.PIPE, text=True) for r in range(n)]
    out = [o.communicate()[0] for o in started]
    if any(o.returncode for o in started): raise RuntimeError(f'{step} failed')
    return [json.loads(o.strip().splitlines()[-1]) for o in out]

def row(*cells): print('| '+' | '.join(map(str, cells))+' |', flush=True)

def sizes(*millions):
    row('million ratings', 'prepare: M rows / CPU s', 'peak MB', 'bytes / rating', 'fused: M ratings / CPU s', 'in memory', 'peak MB', 'of which tables',
        'beyond start', 'sweep at 20: CPU s', 'peak MB', 'RMSE')
    row(*['--:']*12)
    for m in map(float, millions):
        run('simulate', m)
        p,t,s = [run(o, m)[0] for o in ('prepare','train','solve')]
        row(f'{m:g}', f"{p['rows']/p['cpu']/1e6:.2f}", f"{p['peak']:.0f}", f"{p['bytes_per_rating']:.1f}", f"{t['rate']:.2f}", f"{t['in_memory']:.2f}",
            f"{t['peak']:.0f}", f"{t['tables']:.0f}", f"{t['peak']-t['before']:.0f}", f"{s['cpu']:.1f}", f"{s['peak']:.0f}", f"{t['rmse']:.4f}")

def processes(millions=8):
    m = float(millions)
    run('simulate', m)
    run('prepare', m)
    row('training', 'processes', 'CPU s of a process', 'wall s', 'MB sent by a process', 'least MB', 'RMSE')
    row(*['---']*2, *['--:']*5)
    for step in ('ring','closed'):
        for n in (1,2):
            found = run(step, m, n=n)
            cpu,wall,sent = [max(o[k] for o in found) for k in ('cpu','wall','sent')]
            least = f"{(4*found[0]['items']+found[0]['users']/n)/1e6*(n>1):.0f}" if step=='ring' else '–'
            row(step, n, f'{cpu:.2f}', f'{wall:.2f}', f'{sent/1e6:.0f}', least, f"{found[0]['rmse']:.6f}")

if __name__=='__main__':
    what,*args = sys.argv[1:]
    if what=='step': print(json.dumps(steps[args[0]](*map(float, args[1:]))))
    elif what=='ml1m': print(run('ml1m')[0])
    else: dict(sizes=sizes, processes=processes)[what](*args)
