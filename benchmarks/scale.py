"How the cost of fused training grows with ratings, users and factors: time and memory for each rating"
import argparse,json,os,statistics,subprocess,sys,tempfile,time
os.environ.setdefault('OMP_NUM_THREADS', '1')
from pathlib import Path
import numpy as np
from speed import machine,rss,simulated,warm

here = Path(__file__).resolve().parent
base = dict(ratings=10_000_000, users=10_000, items=10_000, factors=32)
grid = dict(ratings=[100_000,1_000_000,10_000_000,50_000_000], users=[1_000,10_000,100_000,1_000_000,2_000_000], factors=[16,32,64,128,256])
small = dict(ratings=[10_000,100_000], users=[1_000,10_000], factors=[16,32])

def loaders(ids, y, n_users, n_items):
    "Without a frame, whose size is its owner's business"
    import torch
    from collab_ext import CollabDataLoaders
    from collab_ext.data import CollabDL,Ratings
    vocab = dict(user=['#na#',*range(1,n_users)], item=['#na#',*range(1,n_items)])
    counts = {k:torch.bincount(ids[:,j], minlength=len(v)) for j,(k,v) in enumerate(vocab.items())}
    train = Ratings(vocab, ids, y, counts=counts)
    valid = Ratings(vocab, ids[:1000], y[:1000])
    return CollabDataLoaders(CollabDL(train, bs=64, shuffle=True), CollabDL(valid, bs=1000), device='cpu')

def read(folder):
    "Ratings as tensors, without what simulating them leaves behind in memory"
    import torch
    return [torch.from_numpy(np.load(Path(folder)/f'{o}.npy')) for o in ('ids','y')]

def quiet_fit(learn, *args, **kwargs):
    with learn.no_bar(),learn.no_logging(): learn.fit(1, *args, **kwargs)

def one(folder, ratings, users, items, factors, epochs=3):
    "Nanoseconds a rating and epoch, of which in the compiled loop, and the peak of memory beyond that of a learner of ten ratings"
    import torch
    from collab_ext import Fused,collab_learner,fused
    warm()
    quiet_fit(collab_learner(loaders(torch.ones(10,2).int(), torch.arange(10.), 2, 2), 2, cbs=Fused()))
    start = rss()
    dls,spent,step = loaders(*read(folder), users, items),[],fused.step_of('numba')
    Path('/proc/self/clear_refs').write_text('5') # from here on the peak counts
    def spy(*args):
        t = time.perf_counter()
        res = step(*args)
        spent.append(time.perf_counter()-t)
        return res
    fused.step_of = lambda path: spy
    learn,times = collab_learner(dls, factors, cbs=Fused()),[]
    for _ in range(epochs):
        t,n = time.perf_counter(),len(spent)
        quiet_fit(learn)
        times.append((time.perf_counter()-t,sum(spent[n:])))
    total,inner = [statistics.median(o)/ratings*1e9 for o in zip(*times)]
    high = int(next(o for o in Path('/proc/self/status').read_text().splitlines() if o.startswith('VmHWM')).split()[1])*1024
    must = 12*ratings+4*(users+items)*(factors+1)
    return dict(ns=total, inner=inner, bytes=(high-start)/ratings, must=must/ratings, ratio=(high-start)/must)

def net(folder, ratings, users, items, factors, steps=40):
    "Milliseconds of a step of `EmbeddingNN` on 1024 ratings, with all rows and with those of the batch"
    from collab_ext import SparseRows,collab_learner
    from fastai.callback.core import Callback,CancelFitException
    class Clock(Callback):
        def before_fit(self): self.at = []
        def after_batch(self):
            self.at.append(time.perf_counter())
            if len(self.at)>steps: raise CancelFitException
    (ids,y),res = read(folder),{}
    for name,cbs in dict(dense=[], sparse=[SparseRows()]).items():
        dls,clock = loaders(ids, y, users, items),Clock()
        dls.train.bs = 1024
        learn = collab_learner(dls, use_nn=True, emb_szs=[factors,factors], layers=[64], y_range=(1,5), cbs=cbs)
        quiet_fit(learn, 1e-3, cbs=clock)
        res[name] = statistics.median(np.diff(clock.at))*1e3
    return res

def run(ratings, users, items, **kw):
    "One measurement, in a process of its own"
    with tempfile.TemporaryDirectory() as d:
        df = simulated(ratings, users, items)
        np.save(Path(d)/'ids.npy', np.stack([df.user, df['item']], 1))
        np.save(Path(d)/'y.npy', df.rating.to_numpy())
        del df
        kw = dict(kw, folder=d, ratings=ratings, users=users, items=items)
        res = subprocess.run([sys.executable, '-W', 'ignore', __file__, '--child', json.dumps(kw)], capture_output=True, text=True)
    if res.returncode: raise RuntimeError(f'{kw} failed: {res.stderr[-2000:]}')
    return json.loads(res.stdout.strip().splitlines()[-1])

def plot(found):
    "Time a rating, and bytes a rating, as each number grows"
    import matplotlib
    matplotlib.use('Agg')
    import matplotlib.pyplot as plt
    fig,axs = plt.subplots(2, 3, figsize=(9,5), sharey='row', constrained_layout=True)
    for col,(name,rs) in zip(axs.T, [(k,found[k]) for k in grid if k in found]):
        for ax,keys,unit in zip(col, (('ns','inner'),('bytes','must')), ('ns a rating','bytes a rating')):
            for k in keys: ax.plot([o[name] for o in rs], [o[k] for o in rs], 'o-', label=dict(ns='epoch', inner='compiled loop', bytes='peak', must='data + tables')[k])
            ax.set(xscale='log', yscale='log', xlabel=name)
            ax.grid(alpha=.3)
            ax.minorticks_off()
            ticks = (20,50,100,150)
            ax.set_yticks(ticks, labels=ticks)
            if name=='factors': ax.set_xticks([o[name] for o in rs], labels=[o[name] for o in rs])
        if name=='ratings': [ax.set_ylabel(o) for ax,o in zip(col, ('ns a rating and epoch','bytes a rating'))]
        if name=='ratings': [ax.legend(fontsize=8) for ax in col]
    fig.savefig(here.parent/'nbs/images/scale.png', dpi=70)

about = """# Scale

Written by `python benchmarks/scale.py`. {machine}.

Fused training in a Learner, one thread, median of three epochs; {base},
unless the table says otherwise. `loop` is the part of the time that the compiled loop takes; the rest is shuffling, cutting batches, hiding ids and
fastai. Memory is the peak beyond what a learner of ten ratings takes, and `must` what ratings
(12 bytes each) and tables need; the rest is batches, the allocator's reserve, and labels (some 36 bytes for each user and item, which is what shows at a million users).

![Time and memory for each rating](../nbs/images/scale.png)
"""

def report(found):
    res = [about.format(machine=machine(), base=', '.join(f'{v:,} {k}' for k,v in base.items()))]
    for name,rs in found.items():
        if name=='net': continue
        res += [f'| {name} | ns a rating | loop | bytes a rating | must | ratio |\n| --- | --- | --- | --- | --- | --- |']
        res += [f"| {o[name]:,} | {o['ns']:.0f} | {o['inner']:.0f} | {o['bytes']:.0f} | {o['must']:.0f} | {o['ratio']:.2f} |" for o in rs]+['']
    if 'net' in found:
        res += ['A step of `EmbeddingNN` with Adam on 1024 ratings, in milliseconds; a million ratings, 10,000 items:\n',
            '| users | ordinary | with `SparseRows` |\n| --- | --- | --- |']
        res += [f"| {o['users']:,} | {o['dense']:.1f} | {o['sparse']:.1f} |" for o in found['net']]+['']
    return '\n'.join(res)

def parse():
    "Command line"
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('--sections', nargs='+', default=[*grid,'net'], choices=[*grid,'net'])
    p.add_argument('--quick', action='store_true', help='a smoke run on small sizes; nothing is stored')
    p.add_argument('--child', type=json.loads, help='one run')
    return p.parse_args()

def main():
    "Measure, print, store"
    args,store = parse(),here/'scale.json'
    if args.child: return print(json.dumps((net if args.child.pop('net',0) else one)(**args.child)))
    found = json.loads(store.read_text()) if store.exists() and not args.quick else {}
    for name in args.sections:
        found[name] = []
        col = 'users' if name=='net' else name
        for v in (small if args.quick else grid)[col]:
            kw = {**base, **(dict(ratings=100_000, items=1_000) if args.quick else {}), **(dict(net=1, ratings=1_000_000) if name=='net' else {}), col:v}
            found[name].append({col:v, **run(**kw)})
            print(name, found[name][-1], flush=True)
    found = {k:found[k] for k in [*grid,'net'] if k in found}
    print(report(found))
    if args.quick: return
    store.write_text(json.dumps(found, indent=1))
    (here/'scale.md').write_text(report(found))
    plot(found)

if __name__=='__main__': main()
