"One thread that owns the models: it answers requests in batches, and keeps jokes ready while nobody asks"
import logging,threading,time
from collections import Counter,deque
from concurrent.futures import Future
from .store import StoredJoke

log = logging.getLogger(__name__)

class NoJoke(Exception): "A model wrote nothing that can be told"

class Job:
    def __init__(self, source, asked): self.source,self.asked,self.future,self.tries = source,asked,Future(),0

class Worker:
    "The queue in front of the generators, and a buffer of ready jokes for each"
    def __init__(
        self,
        generators:dict, # Name of a source → object with `sample(asked)`
        store, # Where jokes are kept
        size=16, # Jokes to keep ready for each source
        batch=16, # Texts in one batch
        tries=5, # Batches that a request may be in before it fails
        rest=60, # Seconds that a source rests after `tries` batches without a good joke
        prepare=None, # Called with the texts of new jokes, such as to compute their features
    ):
        self.generators,self.store = generators,store
        self.size,self.batch,self.tries,self.rest = size,batch,tries,rest
        self.prepare = prepare
        self.jobs,self.counts = deque(),{o:Counter() for o in generators}
        self.ready = {o:deque(store.unused(o, size)) for o in generators}
        self.fruitless,self.rests_until = Counter(),Counter()
        self.changed = threading.Condition()
        self.stopping = False
        self.thread = threading.Thread(target=self._run, name='worker', daemon=True)

    def start(self):
        if self.generators: self.thread.start()
        return self

    def stop(self):
        with self.changed:
            self.stopping = True
            self.changed.notify_all()
        if self.thread.is_alive(): self.thread.join(60)

    def ask(
        self,
        source:str,
        asked=None, # A person's question; None: any joke
    )->Future: # A `StoredJoke`, or raises `NoJoke`
        "Queue a request"
        job = Job(source, asked)
        with self.changed:
            if self.stopping: job.future.set_exception(NoJoke("The bot stops"))
            else: self.jobs.append(job)
            self.changed.notify_all()
        return job.future

    def take(self, source, n=1):
        "Up to `n` ready jokes of a source, which are then no longer there for others"
        with self.changed:
            ready = self.ready[source]
            res = [ready.popleft() for _ in range(min(n, len(ready)))]
            self.changed.notify_all()
            return res

    def give_back(self, jokes):
        "Jokes that were taken and not shown, to compete again, as far as there is room by now"
        with self.changed:
            for o in jokes:
                if o.source in self.ready: self.ready[o.source].append(o)
            for o in self.ready.values():
                while len(o)>self.size: o.pop()

    # In the thread

    def _run(self):
        while True:
            with self.changed:
                while not self.stopping and not self._due(): self.changed.wait(1)
                if self.stopping: return self._fail_all()
                source = self._due()
                jobs = self._next_jobs(source)
            try: self._work(source, jobs)
            except Exception as e: # the thread must outlive a failure: those who wait are told
                log.exception("The model %s failed", source)
                for o in jobs: o.future.set_exception(NoJoke(f"{source} failed: {e!r:.200}"))
                self._tire(source)

    def _fail_all(self):
        while self.jobs: self.jobs.popleft().future.set_exception(NoJoke("The bot stops"))

    def _due(self):
        "The source to work for: that of the oldest request, else one whose buffer is not full"
        if self.jobs: return self.jobs[0].source
        now = time.monotonic()
        low = [o for o in self.generators if len(self.ready[o])<self.size and self.rests_until[o]<=now]
        return min(low, key=lambda o: len(self.ready[o]), default=None)

    def _next_jobs(self, source):
        mine = [o for o in self.jobs if o.source==source][:self.batch]
        for o in mine: self.jobs.remove(o)
        return mine

    def _work(self, source, jobs):
        room = self.batch-len(jobs)
        n_more = max(0, min(room, self.size-len(self.ready[source])))
        jokes = self.generators[source].sample([o.asked for o in jobs]+[None]*n_more)
        self.counts[source].update(good=sum(o is not None for o in jokes), refused=sum(o is None for o in jokes))
        for job,joke in zip(jobs, jokes): self._answer(job, joke)
        if n_more: self._keep(source, [o for o in jokes[len(jobs):] if o])

    def _answer(self, job, joke):
        if joke: return job.future.set_result(self._stored(job.source, [joke], job.asked is not None)[0])
        job.tries += 1
        if job.tries>=self.tries: return job.future.set_exception(NoJoke(f"{job.source} wrote nothing new in {job.tries} tries"))
        with self.changed: self.jobs.append(job)

    def _keep(self, source, jokes):
        known = {o.id for o in self.ready[source]}
        new = [o for o in {o.id:o for o in self._stored(source, jokes)}.values() if o.id not in known]
        if not new: return self._tire(source)
        self.fruitless[source] = 0
        if self.prepare: self.prepare([str(o) for o in new])
        with self.changed: self.ready[source].extend(new)

    def _tire(self, source):
        "A model that only repeats what it read must not run for ever"
        self.fruitless[source] += 1
        if self.fruitless[source]<self.tries: return
        self.fruitless[source] = 0
        self.rests_until[source] = time.monotonic()+self.rest

    def _stored(self, source, jokes, asked=False):
        ids = self.store.add_jokes(source, jokes, asked)
        return [StoredJoke(i, source, o.question, o.answer) for i,o in zip(ids, jokes)]
