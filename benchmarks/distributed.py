"""More data than memory, more work than one process: how fast, how much memory, how many bytes

    python benchmarks/distributed.py sizes 5 20 60     # prepare and train so many million simulated ratings
    python benchmarks/distributed.py processes 8       # 1 → 2 processes, on so many million
    python benchmarks/distributed.py ml1m              # closed form on MovieLens 1M, 10 iterations at rank 50
    python benchmarks/distributed.py peers             # the same beside Spark ALS, and gradients beside DistributedDataParallel
    python benchmarks/distributed.py rows 1e4 1e5 1e6  # gradients of so many users' tables: the rows that were touched, or all
    python benchmarks/distributed.py batch 1e4 1e5 1e6 # lists for so many users
    python benchmarks/distributed.py items 2e6         # closed form of so many items, their sums all at once and in groups

`COLLAB_EXT_LIMIT=4` limits what is measured to so many GiB of address space; a step that wants more fails.
`SPARK_PYTHON` names an interpreter that has pyspark and numpy (Java has to be there); without, Spark is left out.

Each step runs in a process of its own, with one thread, so that its peak memory is its own. Tables go to stdout, in Markdown."""
import json,os,resource,shutil,socket,statistics,subprocess,sys,tempfile,time
from collections import defaultdict
from pathlib import Path

os.environ.setdefault('OMP_NUM_THREADS', '1')
work = Path(os.environ.get('COLLAB_EXT_WORK', tempfile.gettempdir()))/'collab_ext_distributed'
data = Path(os.environ.get('COLLAB_EXT_DATA', '../shared/data'))
memory,n_factors = '1GB',32

def resident(what='VmRSS'):
    "MB of memory that this process has, or had at most (VmHWM)"
    return next(int(l.split()[1]) for l in Path('/proc/self/status').read_text().splitlines() if l.startswith(what))/1024

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
    n = len(learn.dls.train_ds)
    with learn.no_bar(),learn.no_logging():
        learn.dls.valid.set_schedule([])
        cpu,wall = time.process_time(),time.time()
        learn.fit(epochs, .005)
        cpu,wall,fit = time.process_time()-cpu,time.time()-wall,peak()
        learn.dls.valid.set_schedule()
        valid = learn.validate()[1]
    res = dict(rate=n*epochs/cpu/1e6, wall=wall, fit=fit, peak=peak(), tables=tables, rmse=valid)
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
    folder = work/'0'
    folder.mkdir(parents=True, exist_ok=True)
    source = next((data/'ml-1m').glob('ratings*'))
    if not (folder/'ratings.parquet').is_file(): pd.read_csv(source).to_parquet(folder/'ratings.parquet')
    prepare_shards(folder/'ratings.parquet', folder/'shards', valid_pct=.1)
    learn = learner(0, n_factors=n_factors)
    wall = time.time()
    with learn.no_bar(),learn.no_logging(): learn.solve(n)
    return dict(wall=time.time()-wall, rmse=float(learn.final_record[2]))

# --- peers, on MovieLens 1M (`ml1m` prepares it)

def ml1m_parts():
    "Training and validation ratings of the shards, as frames of row numbers"
    import numpy as np, pandas as pd
    from collab_ext import Shards
    from collab_ext.shards import read_part
    shards,res = Shards(work/'0'/'shards'),[]
    for split in (shards.train,shards.valid):
        ids,y = [np.concatenate(o) for o in zip(*[(o.ids,o.targ) for o in (read_part(shards, p) for p in split.parts)])]
        res.append(pd.DataFrame(dict(user=ids[:,0], item=ids[:,1], rating=y)))
    return res

def spark_data():
    for name,df in zip(('train','valid'), ml1m_parts()): df.to_parquet(work/'0'/f'{name}.parquet')
    return {}

def spark_als(*args):
    "What `spark_als.py` prints; None without an interpreter for it"
    python = os.environ.get('SPARK_PYTHON')
    if not python: return
    command = [python, Path(__file__).parent/'spark_als.py', work/'0', *map(str, args)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout.strip().splitlines()[-1])

def in_memory(bs=2048, **kwargs):
    "A learner of ml-1m with ratings in memory"
    import numpy as np, pandas as pd
    from collab_ext import collab_learner,CollabDataLoaders
    from fastai.basics import set_seed
    from fastai.metrics import rmse
    train,valid = ml1m_parts()
    df = pd.concat([train,valid], ignore_index=True)
    set_seed(0)
    dls = CollabDataLoaders.from_df(df, splitter=lambda _: (np.arange(len(train)),np.arange(len(train), len(df))), unknown='mean', bs=bs, device='cpu')
    return collab_learner(dls, 50, metrics=rmse, **kwargs)

def clipped_rmse(model):
    "Error of predictions within the scale"
    import torch
    _,valid = ml1m_parts()
    x,y = [torch.from_numpy(valid[o].to_numpy()) for o in (['user','item'],'rating')]
    with torch.no_grad(): pred = model.eval()(x.long()).view(-1).clamp(1, 5)
    return ((pred-y)**2).mean().sqrt().item()

def timed(f, *args, **kwargs):
    cpu,wall = time.process_time(),time.time()
    f(*args, **kwargs)
    return dict(cpu=time.process_time()-cpu, wall=time.time()-wall, peak=peak())

def closed_in_memory(n=10):
    learn = in_memory()
    with learn.no_bar(),learn.no_logging():
        in_memory().solve(1) # compiles
        return dict(timed(learn.solve, n), rmse=clipped_rmse(learn.model), sent=0)

def closed_shards(n=10):
    from collab_ext.sharded_closed_form import ShardedSolver
    def solver(learn): return ShardedSolver(learn.model, learn.dls, learn.loss_func)
    solver(learner(0, n_factors=50)).train_epoch() # compiles
    learn = learner(0, n_factors=50)
    new = solver(learn)
    def sweeps():
        for _ in range(n): new.train_epoch()
        new.write(learn.model)
    res = timed(sweeps)
    return dict(res, rmse=clipped_rmse(learn.model), sent=new.mf.bytes_sent)

def adam(n_epoch=5, net=0):
    "Ordinary training, of a dot product or of a net, in one process or several"
    from collab_ext import SparseRows
    from collab_ext.row_exchange import RowExchange
    kind = dict(use_nn=True, emb_szs=[50,50]) if net else {}
    learn = in_memory(y_range=(.5,5.5), cbs=[SparseRows(),RowExchange()], **kind)
    with learn.no_bar(),learn.no_logging(): res = timed(learn.fit_one_cycle, int(n_epoch), 5e-3, wd=.1)
    return dict(res, rmse=clipped_rmse(learn.model), sent=learn.row_exchange.bytes_sent)

def ddp(n_epoch=5, net=0):
    "The same batches, optimizer and schedule in a plain loop around `DistributedDataParallel`"
    import torch, torch.distributed as dist
    from fastai.collab import EmbeddingDotBias,EmbeddingNN
    from torch.nn.parallel import DistributedDataParallel
    rank,n = [int(os.environ[o]) for o in ('RANK','WORLD_SIZE')]
    dist.init_process_group('gloo')
    n_epoch,bs = int(n_epoch),2048
    (x,y),(vx,vy) = [(torch.from_numpy(df[['user','item']].to_numpy('i8')),torch.from_numpy(df.rating.to_numpy('f4'))) for df in ml1m_parts()]
    torch.manual_seed(0)
    sizes = [int(o)+1 for o in x.max(0).values]
    if net: model = EmbeddingNN([(o,50) for o in sizes], [50], y_range=(.5,5.5), bn_cont=False)
    else: model = EmbeddingDotBias(50, *sizes, y_range=(.5,5.5))
    wrapped = DistributedDataParallel(model)
    opt = torch.optim.AdamW(model.parameters(), lr=5e-3, betas=(.9,.99), eps=1e-5, weight_decay=.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(opt, 5e-3, total_steps=n_epoch*-(-len(y)//bs), final_div_factor=4e3)
    def epoch():
        for rows in torch.randperm(len(y)).split(bs):
            rows = rows[rank::n]
            loss = torch.nn.functional.mse_loss(wrapped(x[rows]).view(-1), y[rows])
            opt.zero_grad()
            loss.backward()
            opt.step()
            schedule.step()
        model.eval()
        with torch.no_grad(): total = sum(((model(a).view(-1)-b)**2).sum() for a,b in zip(vx[rank::n].split(bs), vy[rank::n].split(bs)))
        model.train()
        dist.all_reduce(total)
    def epochs():
        for _ in range(n_epoch): epoch()
    res = timed(epochs)
    sent = schedule.last_epoch*sum(p.nbytes for p in model.parameters())*2*(n-1)//n # as torch adds up in a ring
    dist.destroy_process_group()
    return dict(res, rmse=clipped_rmse(model), sent=sent)

def ring_ml1m(n_epoch=8):
    from collab_ext import Fused,Ring
    warmed()
    learn = learner(0, n_factors=50, bs=2**16, cbs=[Fused(),Ring()])
    with learn.no_bar(),learn.no_logging(): res = timed(learn.fit_one_cycle, n_epoch)
    return dict(res, rmse=clipped_rmse(learn.model), sent=learn.ring.bytes_sent)

# --- millions of items

def simulate_items(n_items, each=10):
    "Shards of so many items, with ten ratings each, of a tenth as many users"
    import numpy as np, pyarrow as pa, pyarrow.parquet as pq
    from collab_ext import prepare_shards
    folder,n_items = work/f'items-{n_items:g}',int(n_items)
    if folder.is_dir(): return {}
    tmp = folder.with_suffix('.tmp')
    shutil.rmtree(tmp, ignore_errors=True)
    (tmp/'ratings').mkdir(parents=True)
    rng = np.random.default_rng(0)
    U,V = [rng.standard_normal((o, 8), dtype='f4')*np.float32(.35) for o in (n_items//10, n_items)]
    for i in range(0, n_items*each, 1_000_000):
        m = min(1_000_000, n_items*each-i)
        user,item = rng.integers(0, len(U), m),rng.integers(0, n_items, m)
        rating = 3.5 + np.einsum('nf,nf->n', U[user], V[item]) + .7*rng.standard_normal(m, dtype='f4')
        pq.write_table(pa.table(dict(user=user, item=item, rating=rating)), tmp/'ratings'/f'{i//1_000_000:03}.parquet')
    prepare_shards(tmp/'ratings', tmp/'shards', valid_pct=.02, memory=memory, blocks=8)
    tmp.rename(folder)
    return {}

def many_items(n_items, most, sweeps=2, n_factors=20):
    "CPU seconds and peak memory of a sweep, with at most so many MB of sums"
    import torch
    from collab_ext.bayes import FirstGuess
    from collab_ext.model import Link
    from collab_ext.shards import Shards,read_counts
    from collab_ext.sharded_closed_form import sharded_start
    shards = Shards(work/f'items-{n_items:g}'/'shards')
    counts = [torch.from_numpy(read_counts(shards, s)) for s in (0,1)]
    gen = torch.Generator().manual_seed(0)
    guess = FirstGuess([None,torch.zeros(shards.sizes[1])], [.1,.1], .6, n_factors, [None,torch.randn(shards.sizes[1], n_factors, generator=gen)])
    mf = sharded_start(shards, counts, n_factors, Link(), guess)
    mf.most_sums = int(most*2**18)
    tables = sum(o.nbytes for side in (mf.users,mf.items) for o in (side.mean,side.count,side.group,side.seen,side.sampled))/2**20
    before = resident()
    mf.sweep() # compiles
    Path('/proc/self/clear_refs').write_text('5') # peaks begin anew
    sent,cpu,wall = mf.bytes_sent,time.process_time(),time.time()
    for _ in range(int(sweeps)): mf.sweep()
    cpu,wall = time.process_time()-cpu,time.time()-wall
    return dict(cpu=cpu/sweeps, wall=wall/sweeps, peak=resident('VmHWM'), before=before, tables=tables, groups=len(mf.item_groups), noise=mf.noise,
        sent=(mf.bytes_sent-sent)/sweeps)

# --- gradients of large tables

wide = dict(emb_szs=[n_factors]*2, layers=[512,256])

def exchange(n_users, way, net=0, steps=15, bs=8192):
    "CPU seconds of a step, and bytes: both tables of the shards of `simulate_users`, a share of the batch for each process"
    from fastai.basics import Callback,CancelFitException
    from collab_ext import collab_learner,CollabDataLoaders,SparseRows
    from collab_ext.row_exchange import RowExchange
    n,steps = int(os.environ['WORLD_SIZE']),int(steps)
    dls = CollabDataLoaders.from_shards(work/f'users-{n_users:g}'/'shards', bs=bs//n, seed=0, path=work)
    if way: return exchange_by_ddp(dls, n, steps, net)
    class Few(Callback):
        "Ends after some steps, of which the first few are not counted"
        def after_batch(self):
            if self.train_iter==5: self.cpu,self.wall,self.sent = time.process_time(),time.time(),self.learn.row_exchange.bytes_sent
            if self.train_iter<5+steps: return
            sent = self.learn.row_exchange.bytes_sent-self.sent
            self.found = dict(cpu=(time.process_time()-self.cpu)/steps, wall=(time.time()-self.wall)/steps, sent=sent/steps, peak=peak())
            raise CancelFitException()
    learn = collab_learner(dls, n_factors, cbs=[SparseRows(),RowExchange(),Few()], **(dict(wide, use_nn=True) if net else {}))
    with learn.no_bar(),learn.no_logging(): learn.fit(1, 5e-3)
    return learn.few.found

def exchange_by_ddp(dls, n, steps, net):
    import torch, torch.distributed as dist
    from fastai.collab import EmbeddingDotBias,EmbeddingNN
    from torch.nn.parallel import DistributedDataParallel
    dist.init_process_group('gloo')
    sizes = dls.train_ds.vocab.sizes
    if net: model = EmbeddingNN([(o,n_factors) for o in sizes], wide['layers'], bn_cont=False)
    else: model = EmbeddingDotBias(n_factors, *sizes)
    wrapped = DistributedDataParallel(model)
    opt = torch.optim.AdamW(model.parameters(), lr=5e-3, betas=(.9,.99), eps=1e-5)
    batches = [b for _,b in zip(range(5+steps), dls.train)]
    def some(batches):
        for x,y in batches:
            loss = torch.nn.functional.mse_loss(wrapped(x).view(-1), y)
            opt.zero_grad()
            loss.backward()
            opt.step()
    some(batches[:5])
    res = timed(some, batches[5:])
    dist.destroy_process_group()
    return dict(cpu=res['cpu']/steps, wall=res['wall']/steps, sent=sum(p.nbytes for p in model.parameters())*2*(n-1)//n, peak=peak())

# --- lists for everybody

def simulate_users(n_users, each=20, n_items=5000):
    "Shards of so many users, in blocks of about 62,500"
    import numpy as np, pyarrow as pa, pyarrow.parquet as pq
    from collab_ext import prepare_shards
    folder,n_users = work/f'users-{n_users:g}',int(n_users)
    if folder.is_dir(): return {}
    tmp = folder.with_suffix('.tmp')
    shutil.rmtree(tmp, ignore_errors=True)
    (tmp/'ratings').mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i,part in enumerate(np.array_split(np.arange(n_users), max(1, n_users//50_000))):
        user = np.repeat(part, each)
        item = (n_items*rng.random(len(user))**1.8).astype('i8')
        rating = rng.integers(1, 6, len(user)).astype('f4')
        pq.write_table(pa.table(dict(user=user, item=item, rating=rating)), tmp/'ratings'/f'{i:03}.parquet')
    prepare_shards(tmp/'ratings', tmp/'shards', valid_pct=0., memory=memory, blocks=max(2, n_users//62_500))
    tmp.rename(folder)
    return {}

def lists(n_users):
    "CPU seconds and memory of lists for all users"
    from collab_ext import collab_learner,CollabDataLoaders,recommend_shards
    from fastai.basics import set_seed
    set_seed(0)
    folder = work/f'users-{n_users:g}'
    learn = collab_learner(CollabDataLoaders.from_shards(folder/'shards', path=work), n_factors)
    shutil.rmtree(folder/'lists', ignore_errors=True)
    before = resident()
    Path('/proc/self/clear_refs').write_text('5') # peaks begin anew
    res = timed(recommend_shards, learn, folder/'lists')
    kept = [*learn.model.parameters(), *learn.dls.train_ds.counts.values(), *learn.vocab.columns]
    return dict(res, before=before, start=res['peak'], peak=resident('VmHWM'), tables=sum(p.nbytes for p in kept)/2**20)

def lists_in_memory(n_users):
    "The same by `recommend`, with ratings and lists in memory"
    import pandas as pd
    from collab_ext import collab_learner,CollabDataLoaders
    df = pd.read_parquet(work/f'users-{n_users:g}'/'ratings')
    learn = collab_learner(CollabDataLoaders.from_df(df, valid_pct=0., device='cpu'), n_factors)
    return timed(lambda: learn.recommend().to_parquet(work/f'users-{n_users:g}'/'lists.parquet'))

steps = dict(simulate=simulate, prepare=prepare, train=train, solve=solve, ring=ring, closed=closed, ml1m=ml1m, spark_data=spark_data, ddp=ddp, adam=adam,
    exchange=exchange, closed_in_memory=closed_in_memory, closed_shards=closed_shards, ring_ml1m=ring_ml1m, simulate_users=simulate_users, lists=lists,
    lists_in_memory=lists_in_memory, simulate_items=simulate_items, many_items=many_items)

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
        'beyond tables', 'with validation', 'sweep at 20: CPU s', 'peak MB', 'RMSE')
    row(*['--:']*13)
    for m in map(float, millions):
        run('simulate', m)
        p,t,s = [run(o, m)[0] for o in ('prepare','train','solve')]
        row(f'{m:g}', f"{p['rows']/p['cpu']/1e6:.2f}", f"{p['peak']:.0f}", f"{p['bytes_per_rating']:.1f}", f"{t['rate']:.2f}", f"{t['in_memory']:.2f}",
            f"{t['fit']:.0f}", f"{t['tables']:.0f}", f"{t['fit']-t['tables']:.0f}", f"{t['peak']-t['tables']:.0f}", f"{s['cpu']:.1f}", f"{s['peak']:.0f}", f"{t['rmse']:.4f}")

def together(step, *args):
    "Two runs of a step at once that know nothing of each other: what two busy cores cost"
    from concurrent.futures import ThreadPoolExecutor
    with ThreadPoolExecutor(2) as pool: return [o[0] for o in pool.map(lambda _: run(step, *args), range(2))]

def processes(millions=8, times=5):
    m = float(millions)
    run('simulate', m)
    run('prepare', m)
    row('training', 'processes', 'CPU s of a process', 'wall s', 'MB sent by a process', 'least MB', 'RMSE')
    row(*['---']*2, *['--:']*5)
    ratios = defaultdict(list)
    for step in ['ring','closed']*int(times):
        alone = None
        for n in (1,2,'1, beside another'):
            found = run(step, m, n=n) if isinstance(n, int) else together(step, m)
            cpu,wall,sent = [max(o[k] for o in found) for k in ('cpu','wall','sent')]
            least = f"{(4*found[0]['items']+found[0]['users']/2)/1e6*(n==2):.0f}" if step=='ring' else '–'
            if n==1: alone = cpu,wall
            else: ratios[step,n].append((cpu/alone[0], wall/alone[1]))
            row(step, n, f'{cpu:.2f}', f'{wall:.2f}', f'{sent/1e6:.0f}', least, f"{found[0]['rmse']:.6f}")
    for (step,n),of in ratios.items():
        for what,vals in zip(('CPU','wall time'), zip(*of)): print(f"{step}, {n}: {what} {statistics.median(vals):.2f} of one process's ({min(vals):.2f} to {max(vals):.2f})")

def peers(reg=None):
    run('ml1m')
    run('spark_data')
    row('training', 'processes', 'CPU s of a process', 'wall s', 'MB sent by a process', 'peak MB of a process', 'RMSE')
    row(*['---']*2, *['--:']*5)
    def one(name, n, found):
        cpu,wall,sent,mb = [max(o.get(k, 0) for o in found) for k in ('cpu','wall','sent','peak')]
        row(name, n, f'{cpu:.2f}', f'{wall:.2f}', f'{sent/1e6:.1f}', f'{mb:.0f}', f"{found[0]['rmse']:.4f}")
    for cores in (1,2) if 'SPARK_PYTHON' in os.environ else ():
        if reg is None: reg = spark_als(2)['reg']
        one(f'Spark ALS, regParam {reg}', f'1 ({cores} threads)', [spark_als(cores, reg)])
    if 'SPARK_PYTHON' not in os.environ: print('Spark ALS: not installed (name its Python in the environment variable SPARK_PYTHON)')
    one('closed form, in memory', 1, run('closed_in_memory'))
    for n in (1,2): one('closed form, shards', n, run('closed_shards', n=n))
    for n in (1,2): one('ring', n, run('ring_ml1m', n=n))
    for net,model in enumerate(('dot product','net')):
        for n in (1,2): one(f'{model}, `RowExchange`', n, run('adam', 5, net, n=n))
        one(f'{model}, DDP', 2, run('ddp', 5, net, n=2))

def rows(*users):
    row('users', 'model', 'training', 'processes', 'CPU ms of a step', 'wall ms', 'MB sent', 'peak MB')
    row(*['--:','---','---',*['--:']*5])
    for u in map(float, users):
        run('simulate_users', u)
        for net,model in enumerate(('dot product','wide net')):
            for way,n in ((0,1),(0,2),(1,2)):
                found = run('exchange', u, way, net, n=n)
                cpu,wall,sent,mb = [max(o[k] for o in found) for k in ('cpu','wall','sent','peak')]
                row(f'{u:,.0f}', model, ('`RowExchange`','DDP')[way], n, f'{cpu*1e3:.1f}', f'{wall*1e3:.1f}', f'{sent/1e6:.2f}', f'{mb:.0f}')

def batch(*users):
    row('users', 'CPU s', 'of `recommend`', 'users / CPU s', 'peak MB', 'of which tables', 'beyond tables', 'before', '`recommend`: peak MB')
    row(*['--:']*9)
    for n in map(float, users):
        run('simulate_users', n)
        found,other = [run(o, n)[0] for o in ('lists','lists_in_memory')]
        row(f'{n:,.0f}', f"{found['cpu']:.2f}", f"{other['cpu']:.2f}", f"{n/found['cpu']:,.0f}", f"{found['peak']:.0f}", f"{found['tables']:.0f}",
            f"{found['peak']-found['tables']:.0f}", f"{found['before']-found['tables']:.0f}", f"{other['peak']:.0f}")

def items(*items):
    row('items', 'sums, at most MB', 'groups', 'processes', 'CPU s of a sweep', 'wall s', 'MB sent by a process', 'peak MB', 'of which from the start', 'noise')
    row(*['--:']*10)
    for m in map(float, items):
        run('simulate_items', m)
        for most,n in ((1e5,1), (512,1), (256,1), (1e5,2), (512,2)):
            found = run('many_items', m, most, n=n)
            cpu,wall,sent,mb = [max(o[k] for o in found) for k in ('cpu','wall','sent','peak')]
            f = found[0]
            row(f'{m:,.0f}', 'all' if most==1e5 else f'{most:.0f}', f['groups'], n, f'{cpu:.1f}', f'{wall:.1f}', f'{sent/1e6:.0f}', f'{mb:.0f}',
                f"{f['before']:.0f}", f"{f['noise']:.6f}")

if __name__=='__main__':
    what,*args = sys.argv[1:]
    if what=='step':
        limit = os.environ.get('COLLAB_EXT_LIMIT')
        if limit and args[0]!='simulate': resource.setrlimit(resource.RLIMIT_AS, (int(float(limit)*2**30),)*2)
        print(json.dumps(steps[args[0]](*map(float, args[1:]))))
    elif what=='ml1m': print(run('ml1m')[0])
    else: dict(sizes=sizes, processes=processes, peers=peers, rows=rows, batch=batch, items=items)[what](*args)
