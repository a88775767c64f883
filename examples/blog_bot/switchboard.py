"The switchboard: keeps the queue, has answers drafted, and hands them to the front"
import logging,threading
from contextlib import asynccontextmanager
from typing import Annotated,Any
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from pydantic import BaseModel,ConfigDict,Field
from .drafting import Drafter,NoDraft,Rejected
from .service import Away,Wrong,serve
from .store import Full,Stale,Store

log = logging.getLogger('blog_bot')

class Body(BaseModel):
    model_config = ConfigDict(extra='forbid')

class Put(Body):
    "An ask or a reply"
    key: Annotated[str, Field(pattern=r'^(ask|reply|post):[\w\-.:]{1,100}$')]
    kind: Annotated[str, Field(pattern='^(ask|reply|post)$')]
    text: Annotated[str, Field(max_length=100_000)]
    who: Annotated[str, Field(max_length=100)] | None = None
    asked: float | None = None
    target: Annotated[str, Field(max_length=100)] | None = None

class PutAll(Body):
    asks: Annotated[list[Put], Field(max_length=1000)]

class Seconds(Body):
    seconds: Annotated[float, Field(gt=0, le=1e6)]

class Posted(Body):
    key: str
    post_id: Annotated[str, Field(max_length=100)]

class Held(Body):
    "An ask that somebody has claimed"
    key: str
    lease: str

class Unsure(Held):
    error: str
    seconds: Annotated[float, Field(gt=0, le=1e6)]

class Failed(Held):
    error: str
    wait: float | None = None

class Note(Body):
    name: str
    default: Any = None

class SetNote(Body):
    name: str
    value: Any

def drafts(store, drafter, config, stop):
    "Draft one answer after the other"
    while not stop.is_set():
        try:
            if not store.has_work(): stop.wait(.1)
            elif not drafter.is_ready(): stop.wait(1)
            elif ask := store.claim(config.switchboard.draft_lease_seconds): draft_one(store, drafter, ask, config)
        except (Full,OSError,Stale) as e:
            log.warning('%s', e)
            stop.wait(1)

def draft_one(store, drafter, ask, config):
    "Draft the answer to an ask, or say what becomes of it"
    held = ask['key'],ask['lease']
    try: drafter.draft(ask)
    except Rejected as e:
        store.reject(*held, str(e))
        log.info('%s gets no answer: %s', ask['key'], e)
    except Away as e: store.give_back(*held, str(e), e.wait or config.switchboard.backoff_seconds)
    except (NoDraft,Wrong) as e:
        store.failed(*held, str(e))
        log.warning('%s: %s', ask['key'], e)

def own_posts(store, config, stop):
    "Ask the bot for posts of its own, one in each stretch of time"
    every = 86_400/config.blog.posts_per_day
    while not stop.is_set():
        try: store.put(f'post:{int(store.clock()//every)}', 'post', '')
        except Full as e: log.warning('%s', e)
        stop.wait(min(60., every/10))

def create_app(config, drafters=2):
    "The service over the queue, and threads that draft"
    s = config.switchboard
    store = Store(config.files.folder/'queue.db', s.retries, s.backoff_seconds)
    store.release_drafts() # nobody else drafts, since a switchboard holds a lock while it lives
    drafter = Drafter(config, store)
    stop = threading.Event()

    @asynccontextmanager
    async def lifespan(app):
        works = [(drafts,(store, drafter, config, stop))]*drafters
        if config.blog.posts_per_day: works.append((own_posts,(store, config, stop)))
        threads = [threading.Thread(target=f, args=args, daemon=True) for f,args in works]
        for o in threads: o.start()
        yield
        stop.set()
        for o in threads: o.join(2)

    app = FastAPI(title='blog_bot switchboard', docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)
    app.state.store = store
    _add_errors(app)
    _add_queue(app, store)

    @app.get('/health')
    async def health(): return dict(status='ok', asks=store.counts())
    return app

def _add_errors(app):
    @app.exception_handler(Full)
    async def full(request, e): return JSONResponse(dict(detail=str(e)), 507, {'retry-after':'10'})
    @app.exception_handler(Stale)
    async def stale(request, e): return JSONResponse(dict(detail=str(e)), 409)

def _add_queue(app, store):
    @app.post('/put_all')
    async def put_all(o:PutAll): return dict(new=store.put_all(o.model_dump()['asks']))

    @app.post('/claim_posting')
    async def claim_posting(o:Seconds): return dict(ask=store.claim_posting(o.seconds))

    @app.post('/posted')
    async def posted(o:Posted): return dict(done=store.posted(**o.model_dump()))

    for name,body in dict(failed=Failed, give_back=Failed, unsure=Unsure, not_there=Held, die=Failed).items(): _add_change(app, store, name, body)

    @app.post('/note')
    async def note(o:Note): return dict(value=store.note(**o.model_dump()))

    @app.post('/set_note')
    async def set_note(o:SetNote): return dict(done=store.set_note(**o.model_dump()))

def _add_change(app, store, name, body):
    async def change(o): return dict(done=getattr(store, name)(**o.model_dump(exclude_none=True)))
    change.__annotations__['o'] = body
    app.add_api_route(f'/{name}', change, methods=['POST'])

def run(config): serve(create_app, config, config.switchboard.port)
