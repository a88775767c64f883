"Matching and filling a large table: `match_rows` and `match_table` against a plain loop"
import argparse,os,platform,resource,statistics,subprocess,sys,time
os.environ.setdefault('OMP_NUM_THREADS', '1')
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
import torch
from collab_ext.transfer import match_table
from collab_ext.vocab import match_rows

here = Path(__file__).resolve().parent

def inputs(kind, n, k):
    "A table, its labels, and as many new labels of which every other one is shared, in another order"
    g = torch.Generator().manual_seed(0)
    make = (lambda x: [f'user-{o}' for o in x.tolist()]) if kind=='str' else torch.Tensor.tolist
    old,new = torch.randperm(n, generator=g),torch.randperm(n, generator=g)+n//2
    return torch.randn(n, k, generator=g),make(old),make(new)

def ours(table, old, new): return match_table(table, match_rows(old, new))

def loop(table, old, new):
    "As the original did it"
    o2i,mean,res = {o:i for i,o in enumerate(old)},table.mean(0),torch.empty(len(new), table.shape[1])
    for i,w in enumerate(new):
        idx = o2i.get(w, -1)
        res[i] = table[idx] if idx>=0 else mean
    return res

def seconds(f, *args):
    "Duration of a call, and its result"
    t = time.perf_counter()
    res = f(*args)
    return time.perf_counter()-t,res

def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss*1024 # Linux counts KiB
def now(): return int(Path('/proc/self/statm').read_text().split()[1])*resource.getpagesize()

def memory(kind, n, k):
    "What a call needs beyond its inputs, as a multiple of the table; run in a process of its own"
    args = inputs(kind, n, k)
    ours(args[0][:10], args[1][:10], args[2][:10])
    start = now()
    ours(*args)
    return (peak()-start)/(n*k*4)

def in_process(kind, n, k):
    "`memory` of a fresh process"
    cmd = [sys.executable, __file__, '--memory', kind, '--rows', str(n), '--factors', str(k)]
    return float(subprocess.run(cmd, capture_output=True, text=True, check=True).stdout)

def measure(kind, n, k, repeats):
    "Seconds of both ways, in turn"
    args,fast,slow = inputs(kind, n, k),[],[]
    for _ in range(repeats):
        (a,x),(b,y) = seconds(ours, *args),seconds(loop, *args)
        if not torch.equal(x, y): raise ValueError(f'The two ways differ by {(x-y).abs().max():.2e}')
        fast.append(a)
        slow.append(b)
        print(f'{kind}: ours {a:.3f} s, loop {b:.2f} s, ratio {b/a:.1f}', flush=True)
    return fast,slow

def steps(kind, n, k):
    "Seconds of each half of ours"
    table,old,new = inputs(kind, n, k)
    a,idx = seconds(match_rows, old, new)
    return a,seconds(match_table, table, idx)[0]

def row(kind, fast, slow, mem, halves):
    "A line of the table"
    med = lambda x: f'{statistics.median(x):.3g} s ({min(x):.3g}–{max(x):.3g})'
    ratios = [b/a for a,b in zip(fast,slow)]
    return [kind, med(fast), ' + '.join(f'{o:.2f} s' for o in halves), med(slow),
        f'{statistics.median(ratios):.1f} ({min(ratios):.1f}–{max(ratios):.1f})', f'{mem:.2f}']

about = """# Matching and filling a large table

Written by `python benchmarks/matching.py`. {machine}.

A {n:,} × {k} float32 table ({mib:.0f} MiB), {n:,} new labels of which every other one is in the source, in random order: `match_rows` and
`match_table` against the loop `for i,w in enumerate(new_vocab)`, in turn in one process, {repeats} repeats, median (lowest–highest), one thread. Both give
the same table to the last bit. Memory is the peak of a fresh process (`ru_maxrss`) beyond what it held with the inputs in place, as a multiple of
the table; the new table itself is 1.

| labels | ours | of which matching + filling | loop | times faster | peak memory, tables |
| --- | --- | --- | --- | --- | --- |
{rows}
"""

def machine():
    "What this ran on, and when"
    mem = os.sysconf('SC_PAGE_SIZE')*os.sysconf('SC_PHYS_PAGES')/2**30
    return (f"{len(os.sched_getaffinity(0))} cores, {mem:.0f} GiB; Python {platform.python_version()}, torch {torch.__version__}, "
        f"fastai {version('fastai')}; {datetime.now():%Y-%m-%d}")

def parse():
    "Command line"
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('--rows', type=int, default=1_000_000, help='rows of the table')
    p.add_argument('--factors', type=int, default=64, help='columns of the table')
    p.add_argument('--repeats', type=int, default=5)
    p.add_argument('--memory', help='only print the memory for these labels, int or str')
    p.add_argument('--dry', action='store_true', help='print, but do not store')
    return p.parse_args()

def main():
    "Measure, print, store"
    args = parse()
    torch.set_num_threads(1)
    n,k = args.rows,args.factors
    if args.memory: return print(memory(args.memory, n, k))
    mem = {o:in_process(o, n, k) for o in ('int','str')} # first: a child inherits the peak of its parent
    rows = [row(o, *measure(o, n, k, args.repeats), mem[o], steps(o, n, k)) for o in mem]
    res = about.format(machine=machine(), n=n, k=k, mib=n*k*4/2**20, repeats=args.repeats, rows='\n'.join(f"| {' | '.join(o)} |" for o in rows))
    print(res)
    if not args.dry: (here/'matching.md').write_text(res)

if __name__=='__main__': main()
