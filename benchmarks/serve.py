"""The service under load: requests per second, latency, requests per CPU second, memory, reloads; and works embedded by a bundle

    python benchmarks/serve.py [--quick] [--dry]

The service is `collab-ext serve` in a process of its own, asked over keep-alive connections of this process, each of which sends its next
request when the last is answered. CPU seconds are those of the service, from /proc. Catalogues: ml-1m with 64 factors (solved here; drawn
at random if `$COLLAB_EXT_DATA` has no ml-1m), and 40,000 items drawn at random."""
import argparse,asyncio,json,os,platform,shutil,subprocess,sys,tempfile,time
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
import numpy as np,pandas as pd

data = Path(os.environ.get('COLLAB_EXT_DATA', '../shared/data'))

# ---- Catalogues

def drawn(folder, n_users, n_items, n_factors=64):
    "A bundle with random rows"
    from collab_ext.bundle import write_bundle
    rng = np.random.default_rng(0)
    def draw(*shape): return rng.normal(size=shape).astype(np.float32)/4
    tables = dict(u_weight=draw(n_users, n_factors), u_bias=draw(n_users), i_weight=draw(n_items, n_factors), i_bias=draw(n_items), u_any=draw(n_factors+1),
        fold_cov=np.eye(n_factors+1, dtype=np.float32), fold_coefs=draw(n_factors+3, n_factors+1))
    users = pd.DataFrame(dict(user=range(n_users)))
    items = pd.DataFrame(dict(item=range(n_items), title=[f'Title number {o}' for o in range(n_items)], year=1980+np.arange(n_items)%40))
    fold = dict(kind='ratings', noise=.7, like=5., counts=False)
    return write_bundle(folder, tables, users, items, dict(mean=3.5, y_range=None, fold=fold))

def movielens(folder):
    "A bundle of ml-1m, solved with 64 factors, with titles and genres as content"
    from collab_ext import CollabDataLoaders,collab_learner
    part = data/'ml-1m'
    df = pd.read_csv(part/'ratings_no_timestamp.csv.gz').set_axis(['user','item','rating'], axis=1)
    items = pd.read_csv(part/'movies.dat', sep='::', engine='python', names=['item','title','genres'], encoding='latin-1')
    learn = collab_learner(CollabDataLoaders.from_df(df, valid_pct=.05, seed=0, unknown='mean'), 64)
    with learn.no_bar(), learn.no_logging(): learn.solve(5)
    return learn.export_bundle(folder, items, content=True)

# ---- The service

def cpu_and_memory(pid):
    "CPU seconds and MB of a process"
    stat = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
    ticks = int(stat[11])+int(stat[12])
    return ticks/os.sysconf('SC_CLK_TCK'),int(stat[21])*os.sysconf('SC_PAGE_SIZE')/2**20

def start(folder, port, *args):
    cmd = [sys.executable,'-c','import sys;from collab_ext.cli import main;sys.exit(main())','serve','--folder',str(folder),'--port',str(port),'--quiet',*args]
    return subprocess.Popen(cmd)

def request(method, path, body=None):
    "The bytes of a request"
    body = b'' if body is None else json.dumps(body).encode()
    head = f'{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n'
    return head.encode()+body

async def ask(reader, writer, message):
    "Status of the answer, and its body"
    writer.write(message)
    head = await reader.readuntil(b'\r\n\r\n')
    at = head.lower().index(b'content-length: ')+16
    body = await reader.readexactly(int(head[at:head.index(b'\r', at)]))
    return int(head[9:12]),body

async def connection(port, messages, times, failed):
    reader,writer = await asyncio.open_connection('127.0.0.1', port)
    for message in messages:
        start = time.perf_counter()
        status,_ = await ask(reader, writer, message)
        times.append(time.perf_counter()-start)
        if status!=200: failed.append(status)
    writer.close()

async def load(port, messages, n_connections):
    "Seconds of each request, and the statuses of failed ones"
    times,failed = [],[]
    await asyncio.gather(*[connection(port, messages[i::n_connections], times, failed) for i in range(n_connections)])
    return np.array(times),failed

def wait_for(port, limit=120):
    for _ in range(limit*5):
        try: return asyncio.run(load(port, [request('GET', '/health')], 1))
        except OSError: time.sleep(.2)
    raise TimeoutError('the service did not start')

# ---- What is asked

def endpoints(bundle, rng, n):
    "Name → requests"
    items,users = bundle.i2i.to_numpy(),bundle.u2i.to_numpy()
    def some(k): return rng.choice(items, k, replace=False).tolist()
    words = rng.choice(['love','dead','man','star','title+number+77'], n)
    def post(path, bodies): return [request('POST', path, o) for o in bodies]
    def ten_users(): return [dict(user=int(u)) for u in rng.choice(users, 10)]
    res = {'/recommend, history of 20':post('/recommend', [dict(history=some(20)) for _ in range(n)])}
    res['/recommend, user'] = post('/recommend', [dict(user=int(o)) for o in rng.choice(users, n)])
    res['/recommend/many, 10 users'] = post('/recommend/many', [dict(queries=ten_users()) for _ in range(n//10)])
    res['/similar'] = post('/similar', [dict(items=some(1)) for _ in range(n)])
    res['/items'] = [request('GET', f'/items?q={o}') for o in words]
    res['/health'] = [request('GET', '/health')]*n
    if bundle.content is None: return res
    works = bundle.items.sample(200, random_state=0)[['title','genres']].to_dict('records')
    return {**res, '/embed, 10 works':[request('POST', '/embed', dict(works=rng.choice(works, 10).tolist())) for _ in range(n//10)]}

def measured(pid, port, messages, n_connections):
    "One line of the table"
    cpu,_ = cpu_and_memory(pid)
    start = time.perf_counter()
    times,failed = asyncio.run(load(port, messages, n_connections))
    wall = time.perf_counter()-start
    used = cpu_and_memory(pid)[0]-cpu
    p50,p99 = np.quantile(times, [.5,.99])*1000
    rates = dict(per_second=len(times)/wall, per_cpu_second=len(times)/max(used, .01))
    return dict(connections=n_connections, requests=len(times), failed=len(failed), **rates, p50_ms=p50, p99_ms=p99)

def reloads(pid, port, folder, messages, n=5):
    "Failed requests while `n` newer bundles arrive"
    async def both():
        task = asyncio.create_task(load(port, messages, 8))
        for i in range(n):
            await asyncio.sleep(1)
            await asyncio.to_thread(next_version, folder)
        return await task
    times,failed = asyncio.run(both())
    return dict(requests=len(times), failed=len(failed), p99_ms=np.quantile(times, .99)*1000)

def next_version(folder):
    "A copy of the newest bundle as a newer one"
    numbers = [int(o.name) for o in folder.iterdir() if o.name.isdecimal()]
    shutil.copytree(folder/str(max(numbers)), folder/'.next')
    os.rename(folder/'.next', folder/str(max(numbers)+1))

def run(name, folder, port, n, many, rounds):
    "The lines of the report about one catalogue"
    from collab_ext.bundle import Bundle
    bundle = Bundle(folder/'1')
    server = start(folder, port, '--poll', '.5')
    try:
        wait_for(port)
        asked = endpoints(bundle, np.random.default_rng(0), n)
        rows = []
        for endpoint,messages in asked.items():
            asyncio.run(load(port, messages[:50], 1))
            for c in (1,8,64):
                best = min((measured(server.pid, port, messages, c) for _ in range(rounds)), key=lambda o: o['p99_ms'])
                rows.append(dict(endpoint=endpoint, **best))
                print(rows[-1], flush=True)
        messages = asked['/recommend, history of 20']
        during = reloads(server.pid, port, folder, messages*max(1, 20_000//len(messages)//(4 if many<100_000 else 1)))
        asyncio.run(load(port, messages, 8))
        seen = [cpu_and_memory(server.pid)[1]]
        for _ in range(10):
            asyncio.run(load(port, (messages*(many//10//len(messages)+1))[:many//10], 8))
            seen.append(cpu_and_memory(server.pid)[1])
    finally:
        server.terminate()
        ended = server.wait(60)
    return [f'## {name}', '', *lines(rows), '', f"While five newer bundles were taken in, {during['requests']:,} requests to `/recommend` over 8 connections: "
        f"{during['failed']} failed, p99 {during['p99_ms']:.0f} ms.", '', f"Memory (MB) after each {many//10:,} of {many:,} requests: {', '.join(f'{o:.0f}' for o in seen)}. "
        f"The service ended with exit code {ended}.", '']

def lines(rows):
    "A table in markdown"
    head = ['endpoint','connections','requests','failed','per second','per CPU second','p50 (ms)','p99 (ms)']
    cells = [[o['endpoint'], o['connections'], o['requests'], o['failed'], *(f'{o[k]:.0f}' for k in ('per_second','per_cpu_second')), *(f'{o[k]:.1f}' for k in ('p50_ms','p99_ms'))] for o in rows]
    return ['| '+' | '.join(map(str, o))+' |' for o in (head, ['---']*len(head), *cells)]

def embedded(folder, sizes):
    "The lines of the report about works embedded by a bundle, each number of works in a process of its own"
    rows = []
    for n in sizes:
        res = json.loads(subprocess.run([sys.executable, __file__, '--embed', str(folder), str(n)], capture_output=True, text=True, check=True).stdout.splitlines()[-1])
        rows.append(f"| {n:,} | {n/res['wall']:,.0f} | {n/res['cpu']:,.0f} | {res['megabytes']:.0f} |")
        print(rows[-1], flush=True)
    head = ['| works | per second | per CPU second | MB beyond those works and their rows |', '| --- | --- | --- | --- |']
    return ['## Works embedded by a bundle', '', 'Records with titles and genres, checked and embedded by `Bundle.embed` (3,700 landmarks, 64 factors), best of three; memory at its peak.', '', *head, *rows, '']

def embed(folder, n):
    "Embed `n` works three times; print the best time, and the memory that it took"
    import resource
    from collab_ext.bundle import Bundle
    b = Bundle(folder)
    works = b.items[['title','genres']].sample(n, replace=True, random_state=0).to_dict('records')
    b.embed(works[:2000])
    res = []
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(3):
        wall,cpu = time.perf_counter(),time.process_time()
        rows = b.embed(works)
        res.append((time.perf_counter()-wall,time.process_time()-cpu))
    more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss-before)/1024-2*rows.nbytes/2**20
    wall,cpu = min(res)
    print(json.dumps(dict(wall=wall, cpu=cpu, megabytes=more)))

def machine():
    versions = ', '.join(f'{o} {version(o)}' for o in ('numpy','scipy','fastapi','uvicorn','pydantic'))
    return f'{os.cpu_count()} cores; Python {platform.python_version()}, {versions}; {datetime.now():%Y-%m-%d}'

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--quick', action='store_true', help='fewer requests')
    p.add_argument('--only', nargs='+', default=['ml-1m','40000','embed'], choices=['ml-1m','40000','embed'])
    p.add_argument('--dry', action='store_true', help='write nothing')
    p.add_argument('--embed', nargs=2, help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.embed: return embed(Path(args.embed[0]), int(args.embed[1]))
    n,many,rounds = (200,2000,1) if args.quick else (2000,100_000,2)
    text = ['# The service under load', '', f'`python benchmarks/serve.py`. {machine()}.', '', 'The load generator runs on the same cores. CPU seconds are those of the service. '
        'The better of two runs of each endpoint. A history is 20 liked items, folded in for each request; 64 factors.', '']
    with tempfile.TemporaryDirectory() as tmp:
        one,two = Path(tmp)/'ml-1m',Path(tmp)/'large'
        if {'ml-1m','embed'}&set(args.only): movielens(one/'1') if (data/'ml-1m').exists() else drawn(one/'1', 6040, 3706)
        if 'embed' in args.only: text += embedded(one/'1', [2000,20_000] if args.quick else [20_000,100_000])
        if 'ml-1m' in args.only: text += run('ml-1m, 3,706 items', one, 8211, n, many, rounds)
        if '40000' in args.only:
            drawn(two/'1', 10_000, 40_000)
            text += run('40,000 items drawn at random', two, 8212, n//2, many if args.quick else many//5, rounds)
    print('\n'.join(text))
    if not args.dry: (Path(__file__).parent/'serve.md').write_text('\n'.join(text))

if __name__=='__main__': main()
