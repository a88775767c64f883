"A joke bot: `python -m joke_bot --chat` in the terminal, `python -m joke_bot` on Telegram (token in TELEGRAM_TOKEN or --token-file)"
import argparse,asyncio,logging,os,signal,sqlite3,sys
from pathlib import Path
from .bot import JokeBot
from .chooser import Chooser,HashedWords
from .jokes import describe,read_jokes
from .quiet import read_token,redact,set_up_logging
from .store import Store
from .terminal import talk
from .worker import Worker

log = logging.getLogger(__name__)
own_jokes = Path(__file__).with_name('jokes.csv')

def between(low, high, kind=float):
    "A function that reads a number of an option, or says what it may be"
    def read(text):
        try: value = kind(text)
        except ValueError: value = None
        if value is None or not low<=value<=high: raise argparse.ArgumentTypeError(f"a number from {low:g} to {high:g}, not {text!r:.40}")
        return value
    return read

def parser():
    p = argparse.ArgumentParser('python -m joke_bot', description=__doc__)
    p.add_argument('--chat', action='store_true', help='talk in the terminal')
    p.add_argument('--home', default='joke_bot_home', help='folder of votes and models')
    p.add_argument('--jokes', nargs='*', default=[str(own_jokes)], help='files of human jokes; a source each')
    p.add_argument('--no-models', action='store_true', help='tell human jokes only')
    p.add_argument('--owner', type=int, default=_number(os.environ.get('JOKE_BOT_OWNER')), help='Telegram id of who may ask for /stats and /retrain')
    p.add_argument('--per-minute', type=between(1, 10_000, int), default=20, help='requests of one person')
    p.add_argument('--buffer', type=between(1, 10_000, int), default=16, help='jokes that each model keeps ready')
    p.add_argument('--batch', type=between(1, 1024, int), default=16, help='texts that a model writes at once')
    p.add_argument('--explore', type=between(0, 1), default=.2, help='share of the jokes that are chosen at random although there is a selector')
    p.add_argument('--how', default='thompson', choices=['best','softmax','epsilon','ucb','thompson'], help='how the selector chooses')
    p.add_argument('--retrain-every', type=between(.01, 10_000), metavar='HOURS', help='learn from the votes by schedule')
    p.add_argument('--temperature', type=between(.01, 100), default=.9)
    p.add_argument('--top-k', type=between(1, 1_000_000, int), default=50)
    p.add_argument('--top-p', type=between(.01, 1), default=.95)
    p.add_argument('--token-file', help='a file with the token of @BotFather')
    p.add_argument('--base-url', default='https://api.telegram.org', help='of a stand-in')
    p.add_argument('--poll-seconds', type=between(0, 600, int), default=30)
    p.add_argument('--log-level', default='INFO', choices=['DEBUG','INFO','WARNING','ERROR'])
    p.add_argument('--log-file')
    return p

def _number(o): return int(o) if o and o.lstrip('-').isdecimal() else None

def load_humans(files):
    "Name of each file → its jokes"
    res = {}
    for o in files:
        jokes,left_out = read_jokes(o)
        if left_out: log.warning("%s: left out %s", o, describe(left_out))
        name = 'human' if Path(o)==own_jokes or len(files)==1 else f'human {Path(o).stem}'
        if name in res: raise ValueError(f"Two files are called {Path(o).stem}: rename one")
        res[name] = jokes
    return res

def load_models(home, **how):
    "Name of each trained model → its newest version, loaded"
    root = Path(home)/'models'
    names = sorted(o.name for o in root.iterdir() if o.is_dir()) if root.is_dir() else []
    if not names: return {}
    from collab_ext.versions import open_version
    from .lm import Generator
    return {name:Generator(open_version(root, name), **how) for name in names}

def states_of(generators, home):
    "Features of a joke: the hidden states of the first model and the joke's form, or hashed words"
    if not generators: return HashedWords()
    from collab_ext.text_states import MeanVectors,TextStates,text_form
    first = next(iter(generators.values()))
    return MeanVectors(TextStates(first.model, first.tokenizer, cache=Path(home)/'states'), text_form)

def make_bot(a):
    "The bot that the arguments ask for; its thread starts last, since a program that ends while PyTorch works in a thread is aborted"
    humans = load_humans(a.jokes)
    store = Store(Path(a.home)/'bot.db')
    generators = {} if a.no_models else load_models(a.home, k=a.top_k, p=a.top_p, temperature=a.temperature)
    states = states_of(generators, a.home)
    worker = Worker(generators, store, a.buffer, a.batch, prepare=states)
    owner = 0 if a.chat else a.owner
    bot = JokeBot(store, humans, worker, Chooser(a.home, states, a.explore, a.how), owner, a.per_minute)
    worker.start()
    return bot

async def serve(bot, a, token):
    from .telegram_front import TelegramFront
    front = TelegramFront(bot, token, a.base_url, a.poll_seconds)
    for o in (signal.SIGINT,signal.SIGTERM): asyncio.get_running_loop().add_signal_handler(o, front.stop)
    log.info("Ready: %s", ', '.join(bot.sources))
    schedule = asyncio.ensure_future(bot.retrain_every(a.retrain_every)) if a.retrain_every else None
    try: await front.run()
    finally:
        if schedule: schedule.cancel()

def main(args=None):
    a = parser().parse_args(args)
    set_up_logging('WARNING' if a.chat and a.log_level=='INFO' else a.log_level, a.log_file)
    try:
        token = None if a.chat else read_token(a.token_file)
        bot = make_bot(a)
        try: talk(bot) if a.chat else asyncio.run(serve(bot, a, token))
        finally: bot.close()
    except (ValueError,OSError,ImportError,sqlite3.Error) as e: sys.exit(redact(f'{e}'))

if __name__=='__main__': main()
