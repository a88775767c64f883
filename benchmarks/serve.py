"""The service under load: requests per second, latency, requests per CPU second, memory, reloads

    python benchmarks/serve.py [--quick]

The service is `collab-ext serve` in a process of its own, asked over keep-alive connections of this process, each of which sends its next
request when the last is answered. CPU seconds are those of the service, from /proc. Catalogues: ml-1m with 64 factors (solved here; drawn
at random if `$COLLAB_EXT_DATA` has no ml-1m), and 40,000 items drawn at random."""
import argparse,asyncio,json,os,shutil,subprocess,sys,tempfile,time
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
    import collab_ext.export
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
    res = {'/recommend, history of 20':[request('POST', '/recommend', dict(history=some(20))) for _ in range(n)],
        '/recommend, user':[request('POST', '/recommend', dict(user=int(o))) for o in rng.choice(users, n)],
        '/recommend/many, 10 users':[request('POST', '/recommend/many', dict(queries=[dict(user=int(u)) for u in rng.choice(users, 10)])) for _ in range(n//10)],
        '/similar':[request('POST', '/similar', dict(items=some(1))) for _ in range(n)],
        '/items':[request('GET', f'/items?q={o}') for o in rng.choice(['love','dead','man','star','title+number+77'], n)],
        '/health':[request('GET', '/health')]*n}
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
    return dict(connections=n_connections, requests=len(times), failed=len(failed), per_second=len(times)/wall, per_cpu_second=len(times)/max(used, .01), p50_ms=p50, p99_ms=p99)

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
    from collab_ext.bundle import Bundle
    bundle = Bundle(folder/'1')
    rng = np.random.default_rng(0)
    server = start(folder, port, '--poll', '.5')
    rows = []
    try:
        wait_for(port)
        asked = endpoints(bundle, rng, n)
        for endpoint,messages in asked.items():
            asyncio.run(load(port, messages[:50], 1))
            for c in (1,8,64):
                best = min((measured(server.pid, port, messages, c) for _ in range(rounds)), key=lambda o: o['p99_ms'])
                rows.append(dict(catalogue=name, endpoint=endpoint, **best))
        table = pd.DataFrame(rows)
        print(table.round(1).to_string(index=False), flush=True)
        messages = asked['/recommend, history of 20']
        print('reloads', reloads(server.pid, port, folder, messages*max(1, 20_000//len(messages)//(4 if many<100_000 else 1))), flush=True)
        asyncio.run(load(port, messages, 8))
        before = cpu_and_memory(server.pid)[1]
        seen = [before]
        for _ in range(10):
            asyncio.run(load(port, (messages*(many//10//len(messages)+1))[:many//10], 8))
            seen.append(cpu_and_memory(server.pid)[1])
        print(f'memory (MB), each {many//10} requests: {[round(o) for o in seen]}', flush=True)
    finally:
        server.terminate()
        print('exit', server.wait(60), flush=True)

if __name__=='__main__':
    parser = argparse.ArgumentParser()
    parser.add_argument('--quick', action='store_true', help='fewer requests')
    parser.add_argument('--only', help='ml-1m or 40000')
    args = parser.parse_args()
    n,many,rounds = (200,2000,1) if args.quick else (2000,100_000,2)
    with tempfile.TemporaryDirectory() as tmp:
        if args.only!='40000':
            one = Path(tmp)/'ml-1m'
            if (data/'ml-1m').exists(): movielens(one/'1')
            else: drawn(one/'1', 6040, 3706)
            run('ml-1m', one, 8211, n, many, rounds)
        if args.only!='ml-1m':
            two = Path(tmp)/'large'
            drawn(two/'1', 10_000, 40_000)
            run('40,000 items', two, 8212, n//2, many if args.quick else many//5, rounds)
