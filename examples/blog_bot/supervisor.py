"""Three processes, started by one command and started again when one of them dies

They are forked from a server that has imported what they need (`forkserver`), so a restart takes a moment. Each holds a lock while it
lives, so that no second front ever posts beside the first, and ends when the supervisor is gone."""
import logging,multiprocessing as mp,os,secrets,signal,socket,threading,time
from contextlib import ExitStack
from multiprocessing.connection import wait
from filelock import FileLock,Timeout
from .config import ConfigError,secrets_of
from .logs import start_log
from .service import token_name,unusable

log = logging.getLogger('blog_bot')
names = 'model','switchboard','front'

def run_process(name, config, token, level):
    "What a child does"
    os.environ[token_name] = token
    signal.signal(signal.SIGINT, signal.SIG_IGN) # Ctrl-C is the supervisor's
    start_log(name, config.files.folder/'logs', level, [*secrets_of(config), token])
    threading.Thread(target=end_with, args=(mp.parent_process().sentinel,), daemon=True).start()
    with only_one(config.files.folder, name):
        if name=='model': from .model_service import run
        elif name=='switchboard': from .switchboard import run
        else: from .front import run
        run(config)

def end_with(sentinel):
    "End at once when the parent has ended"
    wait([sentinel])
    os._exit(1)

def only_one(folder, name, seconds=5):
    "A lock that a process holds while it lives"
    lock = FileLock(folder/f'{name}.lock')
    try: return lock.acquire(timeout=seconds)
    except Timeout: raise SystemExit(f"another {name} runs on {folder}: end it first") from None

def check_ports(config):
    "Raise a `ConfigError` if a port is taken"
    for section in ('switchboard','model'):
        port = getattr(config, section).port
        with socket.socket() as s:
            s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try: s.bind(('127.0.0.1',port))
            except OSError: raise ConfigError(f"- port = {port} in [{section}] is used by another program: choose another one") from None

def free_ports(n):
    "Ports that nobody uses now"
    with ExitStack() as stack:
        found = [stack.enter_context(socket.socket()) for _ in range(n)]
        for o in found: o.bind(('127.0.0.1',0))
        return [o.getsockname()[1] for o in found]

def check_folder(folder):
    "Raise a `ConfigError` if nothing can be written there"
    probe = folder/f'.{secrets.token_hex(4)}'
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b'x'*4096)
    except OSError as e: raise ConfigError(f"- folder in [files]: {folder} can't be written to ({e.strerror}): free room or rights, or name another") from None
    finally: probe.unlink(missing_ok=True)

class Unusable(ValueError):
    "A process can't work with what it was given, and has said why"

class Supervisor:
    "Starts the three, and starts again what dies"
    def __init__(self, config,
        patient=True, # Wait for better times if one can't start? It may be that only the network is away
    ):
        self.config,self.token,self.patient = config,secrets.token_urlsafe(24),patient
        self.context = mp.get_context('forkserver' if 'forkserver' in mp.get_all_start_methods() else 'spawn')
        if hasattr(self.context, 'set_forkserver_preload'): self.context.set_forkserver_preload(['blog_bot.preload'])
        self.processes = {}                 # Name → process
        self.started,self.due = {},{}       # When each was started, and when each dead one will be
        self.quick = dict.fromkeys(names, 0) # How often in a row it lived for less than two seconds
        self.restarts = dict.fromkeys(names, 0)
        self.ended = threading.Event()

    def start(self, name):
        "Start one of the three"
        args = name,self.config,self.token,self.config.files.log_level
        self.processes[name] = self.context.Process(target=run_process, args=args, name=name, daemon=True)
        self.due.pop(name, None)
        self.started[name] = time.monotonic()
        self.processes[name].start()

    def run(self):
        "Watch over them until `stop`"
        check_folder(self.config.files.folder)
        with only_one(self.config.files.folder, 'supervisor', 0):
            check_ports(self.config)
            for o in names: self.start(o)
            try:
                while not self.ended.is_set(): self._watch()
            finally: self._end()

    def _watch(self):
        "Start what is due; those that die at once, or can't start, wait longer each time"
        for name in [k for k,t in self.due.items() if t<=time.monotonic()]: self.start(name)
        alive = [o.sentinel for k,o in self.processes.items() if k not in self.due]
        wait(alive, timeout=.05 if self.due else .2)
        for name,o in self.processes.items():
            if o.is_alive() or name in self.due or self.ended.is_set(): continue
            self._ended(name, o.exitcode)

    def _ended(self, name, status):
        "Say when it is started again"
        if status==unusable and not self.patient: raise Unusable(f"The {name} process can't start: what is wrong is said above")
        lived = time.monotonic()-self.started[name]
        self.quick[name] = self.quick[name]+1 if lived<2 or status==unusable else 0
        self.restarts[name] += 1
        wait = min(60. if status==unusable else 5., .05*2**min(self.quick[name], 11))
        self.due[name] = time.monotonic()+wait
        log.warning('%s has ended (%s): it is started again%s', name, status, f' in {wait:.0f} s' if wait>=1 else '')

    def stop(self): self.ended.set()

    def _end(self):
        for o in self.processes.values(): o.terminate()
        for o in self.processes.values(): o.join(5)
        for o in self.processes.values(): o.kill() if o.is_alive() else None
