"From an ask to the answer that is posted: candidates, their scores, the mood, words that are screened, and the choice, all of it logged"
import hashlib,threading
import numpy as np
from collab_ext.mood import Mood
from collab_ext.slates import SlateLog
from .choosing import choose
from .service import Peer
from .texts import WordList,plain_text,shortened

class Rejected(Exception):
    "This ask gets no answer, and why"

class NoDraft(Exception):
    "This time there was no answer that could be posted"

def cache_key(*parts): return hashlib.sha256('\0'.join(map(str, parts)).encode('utf-8', 'replace')).hexdigest()

class Drafter:
    "Drafts answers; safe to use from several threads"
    def __init__(self, config, store):
        self.config,self.store = config,store
        self.models = Peer(config.model.port, config.model.timeout_seconds)
        self.reject,self.doubt = WordList(config.screen.reject),WordList(config.screen.draft)
        self.log = SlateLog(config.files.folder/'slates.db')
        self.lock = threading.Lock() # the mood hears one after the other
        self.rng = np.random.default_rng()

    def is_ready(self):
        "Is there somebody to write?"
        return self.models.is_up()

    def draft(self, ask):
        "Draft the answer to an ask, and give it to the queue"
        said = shortened(plain_text(ask['text']), self.config.model.prompt_chars)
        self._screen_ask(ask, said)
        texts,generator = self._candidates(ask, said)
        scored = self.models.call('/score', dict(texts=texts+[said]))
        with self.lock: self._choose(ask, said, texts, generator, scored)

    def _screen_ask(self, ask, said):
        if ask['kind']!='post' and not said: raise Rejected("it has no text")
        found = self.reject.found(ask['text'])
        if found: raise Rejected(f"it has the word {found!r}")

    def _candidates(self, ask, said):
        "Texts that may be posted, and who wrote them"
        n = self.config.model.candidates
        key = cache_key(self.config.model.generator, n, said, ask['key'] if ask['kind']=='post' else '', ask['tries']//3)
        res = self.store.cached(key)
        if res is None:
            res = self.models.call('/generate', dict(prompt=said, n=n))
            self.store.keep(key, res, self.config.switchboard.cache_size)
        texts = [plain_text(o) for o in res['texts']]
        fit = list(dict.fromkeys(o for o in texts if o and not self.reject.found(o)))
        if not fit: raise NoDraft(f"none of {n} candidates can be posted: they are empty, or have words of `reject` in [screen]")
        return fit,res['generator']

    def _choose(self, ask, said, texts, generator, scored):
        "Choose, log, and hand over"
        mood = self._mood()
        own = scored['sentiment'][:len(texts)]
        if said: mood.hear(scored['sentiment'][-1], own, time=self.store.clock())
        else: mood.at(self.store.clock())
        allowed = mood.allows(own) if self.config.choose.use_mood else np.ones(len(texts), bool)
        mean,sd = (np.array(scored[o][:len(texts)]) for o in ('mean','sd'))
        i,propensities = choose(self.config.choose, mean, sd, allowed, self.rng)
        if i is None: raise NoDraft(f"no candidate scores {self.config.choose.min_score} or more (`min_score` in [choose]): the best has {mean.max():.2f}")
        c = self.config.choose
        info = dict(key=ask['key'], generator=generator, selector=scored['selector'], sentiment_by=scored['sentiment_by'], allowed=allowed.tolist())
        slate = self.log.add(texts, propensities, i, scores=mean, sds=sd, sentiments=own, user=ask['who'], context=said, mood=mood.value,
            policy=dict(how=c.how, temperature=c.temperature, epsilon=c.epsilon, min_score=c.min_score), info=info)
        self.store.drafted(ask['key'], ask['lease'], dict(text=texts[i], state=self._state(ask['text'], texts[i]), slate=slate), dict(mood=mood.state()))

    def _mood(self):
        "The mood, as it was noted last"
        mood,state = Mood(),self.store.note('mood')
        return mood.set_state(state) if state else mood

    def _state(self, said, text):
        "Published, or a draft for the owner to look at"
        doubtful = self.doubt.found(said) or self.doubt.found(text)
        return 'draft' if doubtful else self.config.blog.save_as
