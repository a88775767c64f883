"A blog bot. `demo` needs no account; `check` looks at the settings, `run` starts the bot"
import argparse,signal,sys,tempfile,time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from .config import ConfigError,check_config,read_config,secrets_of
from .logs import start_log
from .store import Store
from .supervisor import Supervisor,free_ports
from .tumblr import Refused,Tumblr,Unsure,text_of

def parser():
    p = argparse.ArgumentParser('python -m blog_bot', description=__doc__)
    commands = p.add_subparsers(dest='command', required=True, metavar='command')
    def add(name, help, config=True):
        res = commands.add_parser(name, help=help)
        if config: res.add_argument('--config', default='config.toml', help='the settings (default: config.toml)')
        return res
    demo = add('demo', 'try it with a blog on this machine: type an ask, read the answer', config=False)
    demo.add_argument('--ask', action='append', default=[], help='ask this instead of reading from the keyboard (may be repeated)')
    demo.add_argument('--generator', default='words', help='who writes: words, smollm2, or the name or folder of a language model')
    add('check', 'check the settings, and whether Tumblr accepts the tokens')
    add('run', 'start the bot')
    add('status', 'how many asks are in which state, and what is set aside')
    trace = add('trace', 'what an answer was chosen from')
    trace.add_argument('key', nargs='?', help='such as ask:1234 (default: the last ten)')
    retry = add('retry', 'try again what was set aside')
    retry.add_argument('key', nargs='?', help='such as ask:1234 (default: all)')
    add('collect', 'fetch the posts of the blog with their notes; may be interrupted, and goes on where it was')
    add('prepare', 'make what a selector learns from: notes as quantiles among the posts of the two weeks around each, most of them before it')
    train = add('train', 'train the selector, or with --labels the sentiment head')
    train.add_argument('--labels', help='CSV with the columns text and label (1 or -1): trains the sentiment head')
    train.add_argument('--hidden', type=int, default=0, help='width of a net between vectors and scores (default: 0 for none, which is trained in closed form)')
    train.add_argument('--epochs', type=int, default=8, help='of a net (default: 8)')
    place = add('place', 'put a trained head in place; a running bot takes it up')
    place.add_argument('number', nargs='?', type=int, help='of the run (default: the newest)')
    place.add_argument('--remove', choices=['selector','sentiment'], help='do without this head from now on')
    return p

def store_of(config):
    file = config.files.folder/'queue.db'
    if not file.exists(): raise FileNotFoundError(f"There is no queue in {config.files.folder}: start the bot first, by `python -m blog_bot run`")
    return Store(file, config.switchboard.retries, config.switchboard.backoff_seconds)

def until_stopped(supervisor):
    "Run until Ctrl-C or SIGTERM"
    for o in (signal.SIGINT,signal.SIGTERM): signal.signal(o, lambda *_: supervisor.stop())
    supervisor.run()

def run(config, args): until_stopped(Supervisor(config))

def check(config, args):
    blog = Tumblr(config).info()['blog']
    print(f"All is well: the blog {blog['name']} has {blog.get('posts', '?')} posts.")

def status(config, args):
    store = store_of(config)
    for state,n in store.counts().items(): print(f'{state:9} {n}')
    for o in store.listed('dead'): print(f"set aside: {o['key']}: {o['error']}")
    for o in store.listed('rejected', 10): print(f"no answer: {o['key']}: {o['error']}")

def trace(config, args):
    from collab_ext.slates import SlateLog
    file = config.files.folder/'slates.db'
    if not file.exists(): raise FileNotFoundError(f"There is no log of choices in {config.files.folder}: start the bot first, by `python -m blog_bot run`")
    df = SlateLog(file).frame()
    df = df[[args.key is None or o['key']==args.key for o in df['info']]].tail(10)
    if not len(df): raise ValueError(f"Nothing was chosen for {args.key} yet: `trace` alone shows the last ten" if args.key else "Nothing was chosen yet")
    for _,o in df.iterrows():
        print(f"{o['info']['key']} {o['context']!r} (mood {o.mood:.2f}, {o.policy}, {o['info']})")
        for i,text in enumerate(o.candidates):
            print(f"  {'→' if i==o.chosen else ' '} score {o.scores[i]:.2f} sentiment {o.sentiments[i]:.2f} chance {o.propensities[i]:.2f}  {text}")

def retry(config, args):
    store = store_of(config)
    n = store.revive(args.key)
    if args.key and not n: raise ValueError(_not_dead(store, args.key))
    print(f"{n} {'is' if n==1 else 'are'} tried again")

def _not_dead(store, key):
    ask = store.get(key)
    return f"There is no {key}: `status` lists what is set aside" if ask is None else f"{key} is not set aside, but {ask['state']}"

def collect(config, args):
    from .collecting import collect
    print(collect(config, print))

def prepare(config, args):
    from .learning import prepare
    print(prepare(config))

def train(config, args):
    from .learning import train
    print(train(config, args.labels, args.hidden, args.epochs))

def place(config, args):
    from .learning import place
    print(place(config, args.number, args.remove))

def demo(args):
    "A blog in memory, and the bot beside it"
    from .standin import Standin,demo_tokens
    with Standin() as blog,tempfile.TemporaryDirectory() as folder,ThreadPoolExecutor(1) as threads:
        tumblr = dict(api=blog.url, timeout_seconds=2., settle_seconds=1., **demo_tokens)
        own,other = free_ports(2) # a bot may run beside it
        config = check_config(dict(blog=dict(name=blog.name, poll_seconds=.2), tumblr=tumblr, switchboard=dict(port=own, backoff_seconds=.5),
            model=dict(port=other, generator=args.generator), files=dict(folder=folder, log_level='WARNING')))
        config.files.folder = Path(folder)
        start_log('demo', Path(folder)/'logs', 'WARNING', secrets_of(config))
        supervisor,store = Supervisor(config, patient=False),Store(Path(folder)/'queue.db')
        running = threads.submit(supervisor.run)
        print("The bot starts, which takes some seconds.", flush=True)
        if not args.ask: print("Type an ask and press Enter; an empty line ends.", flush=True)
        try:
            for o in args.ask or typed(): print(f'you asked: {o}\n{_outcome(blog, store, running, blog.ask(o, "you"))}\n', flush=True)
        except KeyboardInterrupt: pass
        finally:
            supervisor.stop()
            store.close()

def typed():
    "Lines from the keyboard, until an empty one or the end of the input"
    while True:
        try: line = input()
        except EOFError: return
        if not line: return
        yield line

def _outcome(blog, store, running, id):
    "What came of an ask: the bot's post, or why there is none"
    while not blog.answers[id]:
        ask = store.get(f'ask:{id}')
        if ask and ask['state'] in ('rejected','dead'): return f"the bot does not answer: {ask['error']}"
        if running.done(): running.result() # raises what ended the bot
        time.sleep(.05)
    post = blog.posts[blog.answers[id][0]]
    asked = sum(len(o['blocks']) for o in post['layout'])
    return f'the bot posts: {text_of(post["content"][asked:])}'

needs = dict(check=('tokens','generator'), run=('tokens','generator'), collect=('tokens',), train=('generator',), place=('generator',))

def main():
    args = parser().parse_args()
    try:
        if args.command=='demo': return demo(args)
        config = read_config(args.config, needs.get(args.command, ()))
        start_log(args.command, config.files.folder/'logs', config.files.log_level, secrets_of(config))
        globals()[args.command](config, args)
    except ConfigError as e: sys.exit(f"The settings can't be used:\n{e}")
    except (Refused,Unsure,ValueError,OSError,ImportError) as e: sys.exit(str(e))

if __name__=='__main__': main()
