"The model service: writes, scores and embeds; its queue is bounded, and what waits together is answered together"
import asyncio,logging,time
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated
import numpy as np
from fastapi import FastAPI
from fastapi.responses import JSONResponse
from pydantic import BaseModel,ConfigDict,Field
from .generators import make_generator,states_for,states_name
from .placed import heads,read_placed
from .sentiment import word_sentiment
from .service import serve

log = logging.getLogger('blog_bot')

class Busy(Exception):
    "The queue is full"

class Batcher:
    "Gathers requests and answers several at once, one batch after the other"
    def __init__(self, answer, size, limit, threads):
        self.answer,self.size,self.threads = answer,size,threads
        self.waiting = asyncio.Queue(limit)

    async def ask(self, request):
        "The answer to a request"
        res = asyncio.get_running_loop().create_future()
        try: self.waiting.put_nowait((request,res))
        except asyncio.QueueFull: raise Busy from None
        return await res

    async def run(self):
        "Answer for ever"
        while True:
            batch = [await self.waiting.get()]
            while len(batch)<self.size and not self.waiting.empty(): batch.append(self.waiting.get_nowait())
            batch = [(o,res) for o,res in batch if not res.cancelled()] # who asked may have been killed
            if not batch: continue
            answers = await asyncio.get_running_loop().run_in_executor(self.threads, self._answers, [o for o,_ in batch])
            for (_,res),o in zip(batch, answers):
                if res.cancelled(): continue
                if isinstance(o, Exception): res.set_exception(o)
                else: res.set_result(o)

    def _answers(self, requests):
        "Answers or errors; a request that fails fails alone"
        try: return self.answer(requests)
        except Exception as e:
            if len(requests)==1: return [e]
            return [self._answers([o])[0] for o in requests]

class Heads:
    "The selector and the sentiment head in use, taken anew when others are put in place"
    def __init__(self,
        folder, # Of the bot
        states, # Function without arguments: what makes vectors, and its name
    ):
        self.folder,self.states = Path(folder),states
        self.now = {}    # Head → number of its run, learner
        self.failed = {} # What could not be taken up, so that it is tried once

    def refresh(self):
        "Take up what is in place; what can't be opened leaves the old one in use"
        placed = read_placed(self.folder)
        if placed==self.failed: return
        for head in heads:
            number = placed.get(head)
            if number==self.number(head): continue
            try: self.now[head] = (number, self._open(number)) if number is not None else None
            except Exception as e:
                self.failed = placed
                log.error('%s %s is not taken up (%s): %s stays', head, number, e, self.number(head))
            else: log.info('%s: %s is in use', head, number if number is not None else 'none')

    def _open(self, number):
        from .learning import open_run
        return open_run(self.folder, number, *self.states())

    def number(self, head):
        found = self.now.get(head)
        return found[0] if found else None

    def score(self, head, texts):
        "Mean and standard deviation for each text; None without a head"
        found = self.now.get(head)
        return found[1].score_candidates(texts) if found and texts else None

class Models:
    "What the service knows: a generator, heads, vectors"
    def __init__(self, config):
        self.config = config.model
        self.generator = make_generator(config.model.generator, config.files.folder)
        self._states = None
        self.heads = Heads(config.files.folder, self.states)
        self.heads.refresh()

    def states(self):
        "The function that makes vectors of texts, and its name"
        if self._states is None: self._states = states_for(self.config, self.generator, self.heads.folder/'states'),states_name(self.config)
        return self._states

    def generate(self, requests):
        "Candidates for each prompt"
        n = max(o.n for o in requests)
        c = self.config
        seed = requests[0].seed if len(requests)==1 and requests[0].seed is not None else int(time.time_ns()%2**31)
        res = self.generator.generate([o.prompt for o in requests], n, c.max_tokens, c.temperature, seed)
        return [dict(texts=texts[:o.n], generator=self.generator.name) for o,texts in zip(requests, res)]

    def score(self, requests):
        "Scores and sentiments of each request's texts"
        texts = [t for o in requests for t in o.texts]
        mean,sd = self.heads.score('selector', texts) or (np.zeros(len(texts)), np.zeros(len(texts)))
        liked = self.heads.score('sentiment', texts)
        sentiment = [word_sentiment(o) for o in texts] if liked is None else (1/(1+np.exp(-np.clip(liked[0], -30, 30)))).tolist()
        by = dict(selector=self.heads.number('selector'), sentiment_by='words' if liked is None else self.heads.number('sentiment'))
        ends = np.cumsum([len(o.texts) for o in requests])
        parts = [slice(end-len(o.texts), end) for o,end in zip(requests, ends)]
        return [dict(mean=[float(x) for x in mean[p]], sd=[float(x) for x in sd[p]], sentiment=sentiment[p], **by) for p in parts]

    def embed(self, requests):
        "A vector for each text: the mean over its tokens, if they have states of their own"
        texts = [t for o in requests for t in o.texts]
        vectors = [np.atleast_2d(o).mean(0).tolist() for o in self.states()[0](texts)]
        ends = np.cumsum([len(o.texts) for o in requests])
        return [dict(vectors=vectors[end-len(o.texts):end]) for o,end in zip(requests, ends)]

Text = Annotated[str, Field(max_length=100_000)]

class Generate(BaseModel):
    "A prompt, and how many answers are wanted"
    model_config = ConfigDict(extra='forbid')
    prompt: Text
    n: Annotated[int, Field(ge=1, le=50)] = 5
    seed: Annotated[int, Field(ge=0, lt=2**31)] | None = None

class Texts(BaseModel):
    "Texts to score or embed"
    model_config = ConfigDict(extra='forbid')
    texts: Annotated[list[Text], Field(max_length=200)]

def create_app(config):
    "The service, with its models loaded"
    models = Models(config)
    c = config.model
    threads = ThreadPoolExecutor(1) # models answer one batch at a time
    batchers = {k:Batcher(getattr(models, k), c.batch, c.queue, threads) for k in ('generate','score','embed')}

    async def watch():
        while True:
            await asyncio.sleep(.5)
            try: await asyncio.to_thread(models.heads.refresh)
            except (ValueError,OSError) as e: log.error('%s', e)

    @asynccontextmanager
    async def lifespan(app):
        tasks = [asyncio.create_task(o) for o in (watch(), *(b.run() for b in batchers.values()))]
        yield
        for o in tasks: o.cancel()

    app = FastAPI(title='blog_bot models', docs_url=None, redoc_url=None, openapi_url=None, lifespan=lifespan)

    @app.exception_handler(Busy)
    async def busy(request, e): return JSONResponse(dict(detail="too many requests wait: come back later"), 503, {'retry-after':'1'})

    @app.post('/generate')
    async def generate(asked:Generate): return await batchers['generate'].ask(asked)

    @app.post('/score')
    async def score(asked:Texts): return await batchers['score'].ask(asked)

    @app.post('/embed')
    async def embed(asked:Texts): return await batchers['embed'].ask(asked)

    @app.get('/health')
    async def health():
        waiting = {k:b.waiting.qsize() for k,b in batchers.items()}
        return dict(status='ok', generator=models.generator.name, selector=models.heads.number('selector'),
            sentiment_by=models.heads.number('sentiment') or 'words', waiting=waiting)
    return app

def run(config): serve(create_app, config, config.model.port)
