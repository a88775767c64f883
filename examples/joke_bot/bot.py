"The bot itself, whatever people reach it by: what it answers, what it tells, and what it does with votes"
import asyncio,logging,random,re,time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from .jokes import KnownJokes,clean,describe,max_question
from .stats import report
from .worker import NoJoke

log = logging.getLogger(__name__)

thanks = 'Thank you for your feedback'
help_text = '''I tell jokes.
/joke – a joke
any other text – a question, and I try to answer it with a joke
👍 👎 – tell me what you think; you may change your mind'''
owner_help = '''
/stats – which jokes people like (for my owner)
/retrain – learn from the votes (for my owner)'''
hello = f'Hello! {help_text}'

@dataclass
class Reply:
    text:str
    joke:int = None # With buttons for this joke

class Limiter:
    "At most `n` requests of a person in `seconds`; says how long to wait"
    def __init__(self, n=20, seconds=60, clock=time.monotonic, max_people=10_000):
        self.n,self.seconds,self.clock,self.max_people = n,seconds,clock,max_people
        self.times = {}

    def wait(
        self,
        person:int,
    )->float: # Seconds to wait; 0: go ahead, and this request counts
        now = self.clock()
        times = self.times.setdefault(person, deque())
        while times and times[0]<=now-self.seconds: times.popleft()
        if len(times)>=self.n: return times[0]+self.seconds-now
        times.append(now)
        if len(self.times)>self.max_people: self._forget(now)
        return 0.

    def _forget(self, now): self.times = {p:o for p,o in self.times.items() if o and o[-1]>now-self.seconds}

class JokeBot:
    "Answers texts and presses"
    def __init__(
        self,
        store, # A `Store`
        humans:dict, # Name of a source → its jokes
        worker, # A `Worker`
        chooser, # A `Chooser`: which of several jokes to tell
        owner=None, # The person who may ask for `/stats` and `/retrain`
        per_minute=20, # Requests of one person
        n_candidates=6, # Jokes to choose from, over all sources
    ):
        self.store,self.worker,self.chooser,self.owner,self.n_candidates = store,worker,chooser,owner,n_candidates
        self.limiter = Limiter(per_minute)
        self.choosing = ThreadPoolExecutor(1, 'chooser')
        for name,jokes in humans.items(): store.add_jokes(name, jokes)
        self.humans = list(humans)
        self.known = KnownJokes(sum(humans.values(), []))
        self.sources = [*humans,*worker.generators]
        if not self.sources: raise ValueError("There is nothing to tell: give a file of jokes, or train a model")

    # Texts

    async def text(
        self,
        person:int,
        chat:int,
        text:str, # What the person wrote
        request=None, # A name for this request: the same joke again if the bot was killed before it could tell it
    )->Reply:
        "Answer a text"
        before = request and self.store.shown_for(request)
        if before: return Reply(str(before), before.id)
        command,rest = split_command(text)
        if command in ('start','help'): return Reply((hello if command=='start' else help_text) + (owner_help if person==self.owner else ''))
        if command in ('stats','retrain'): return await self._for_owner(person, command)
        if command not in (None,'joke'): return Reply(f"I don't know /{command[:32]}. {help_text}")
        question = None if command else clean(text)
        trouble = None if command else trouble_with(question, len(text))
        if trouble: return Reply(trouble)
        wait = self.limiter.wait(person)
        if wait: return Reply(f"That was a lot of jokes: please ask again in {wait:.0f} seconds.")
        try: return await (self._answer(person, chat, question, request) if question else self._joke(person, chat, request))
        except NoJoke as e:
            log.info("No joke: %s", e) # the person is told
            return Reply("I can't think of a joke right now. Please try again.")

    async def _for_owner(self, person, command):
        if person!=self.owner: return Reply("Only my owner can do that.")
        return Reply(await asyncio.to_thread(self.stats if command=='stats' else self.retrain))

    async def _joke(self, person, chat, request):
        "Tell a joke: of one source, drawn before anything else, where chance decides; else the best of all sources"
        explore = self.chooser.explores()
        candidates = [] if explore else self._candidates(self.sources, chat)
        if not candidates:
            explore = True
            candidates = await self._of_random_source(chat)
        chosen = None
        try:
            pick = await asyncio.get_running_loop().run_in_executor(self.choosing, self.chooser.pick, candidates, person, explore)
            self.store.show(candidates[pick.index].id, chat, person, pick.policy, pick.slate, request)
            chosen = candidates[pick.index]
        finally: self.worker.give_back([o for o in candidates if o is not chosen])
        return Reply(str(chosen), chosen.id)

    def _candidates(self, sources, chat):
        "Jokes that are ready, as many of each source"
        n = max(1, self.n_candidates//len(sources))
        human = [o for name in sources if name in self.humans for o in self.store.unseen(name, chat, n)]
        return human+[o for name in sources if name in self.worker.generators for o in self.worker.take(name, n)]

    async def _of_random_source(self, chat):
        sources = random.sample(self.sources, len(self.sources))
        for i,source in enumerate(sources):
            found = self._candidates([source], chat)
            if found: return found
            try: return [await asyncio.wrap_future(self.worker.ask(source))]
            except NoJoke:
                if i==len(sources)-1: raise

    async def _answer(self, person, chat, question, request):
        "Answer a question by a model; without one, by the human joke that is nearest"
        if not self.worker.generators: return self._nearest(person, chat, question, request)
        source = random.choice(list(self.worker.generators))
        joke = await asyncio.wrap_future(self.worker.ask(source, question))
        self.store.show(joke.id, chat, person, 'asked', None, request)
        return Reply(joke.joke.answer, joke.id)

    def _nearest(self, person, chat, question, request):
        joke,share = self.known.nearest(question)
        if share<.15: return Reply("I have no model to answer questions with yet, and I know no joke about that. Try /joke.")
        source = self.store.value('select source from jokes where question=? and answer=? and asked=0', joke.question, joke.answer)
        id = self.store.add_jokes(source, [joke])[0]
        self.store.show(id, chat, person, 'asked', None, request)
        return Reply(f"I have no model to answer questions with yet, but that reminds me:\n\n{joke}", id)

    # Presses

    def press(
        self,
        person:int,
        chat:int,
        data:str, # What the button carries
        turn=None, # Place in the inbox
    )->str: # What to tell the person; the vote is on disk by then
        "Take a vote"
        vote = parse_button(data)
        if not vote: return "This button is not one of mine."
        joke,value = vote
        if not self.store.was_shown(joke, chat): return "I don't know this joke, so your vote was not counted."
        self.store.vote(person, joke, value, chat, turn)
        return thanks

    # For the owner

    def stats(self):
        "The comparison of sources, as text"
        self.chooser.note_outcomes(self.store)
        made = [f'{name}: {describe(o)}' for name,o in self.worker.counts.items() if o]
        return '\n'.join([report(self.store, self.sources), *made, self.chooser.describe()])

    def retrain(self): return self.chooser.retrain(self.store)

    async def retrain_every(self, hours):
        "Learn again and again, while requests go on"
        while True:
            await asyncio.sleep(hours*3600)
            try: log.info("%s", await asyncio.to_thread(self.retrain))
            except Exception: log.exception("Learning failed; the selector stays as it was")

    def close(self):
        "Stop the threads and close the files"
        self.worker.stop()
        self.choosing.shutdown()
        self.store.close()

def split_command(
    text:str,
)->tuple: # Command without `/` and `@bot`, or None; the rest
    found = re.match(r'/([A-Za-z0-9_]+)(@\w+)?(\s|$)', text)
    return (found[1].lower(), text[found.end():]) if found else (None,text)

def trouble_with(
    question:str, # Cleaned
    n_typed:int, # Characters as typed
)->str: # What to tell the person, or None
    "Why a question can't be answered"
    if not question: return "There is nothing that I can read in your message. Ask me something, or say /joke."
    if len(question)>max_question: return f"Your question has {n_typed:,} characters; I can read up to {max_question}. Please ask a shorter one."

# Buttons: data is at most 64 bytes, and comes back from people's devices, so it is believed only as far as the store knows it

buttons = ('👍',1),('👎',-1)

def button_data(joke, value): return f"v1:{joke}:{'+' if value>0 else '-'}"

def parse_button(data):
    found = re.fullmatch(r'v1:([1-9][0-9]{0,17}):([+-])', data or '', re.ASCII)
    return (int(found[1]), 1 if found[2]=='+' else -1) if found else None
