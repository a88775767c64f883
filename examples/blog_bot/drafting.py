"From an ask to the answer that is posted: candidates, their scores, the mood, words that are screened, and the choice, all of it logged"
import hashlib,threading
import numpy as np
from collab_ext.choose import Retained,choose
from collab_ext.mood import Mood
from collab_ext.slates import SlateLog
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
        self.models = Peer('model service', config.model.port, config.model.timeout_seconds)
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
        with self.lock: self._choose(ask, said, texts, generator)

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

    def _choose(self, ask, said, texts, generator):
        "Choose, log, and hand over"
        retained = self._retained()
        if ask['kind']=='post': texts = retained.join(texts)
        scored = self.models.call('/score', dict(texts=texts+[said]))
        mean,sd,own = (np.array(scored[o][:len(texts)]) for o in ('mean','sd','sentiment'))
        mood = self._mood(said, scored['sentiment'][-1], own)
        suits = mood.allows(own) if self.config.choose.use_mood else None
        c = self.config.choose
        policy = dict(how=c.how, temp=c.temperature, epsilon=c.epsilon)
        choice = choose(mean, sd, **policy, min_score=c.min_score, allowed=suits, **self._apart(texts), rng=self.rng)
        info = dict(key=ask['key'], generator=generator, selector=scored['selector'], sentiment_by=scored['sentiment_by'], gave_way=choice.relaxed)
        slate = self.log.add(texts, choice.propensities, choice.index, scores=mean, sds=sd, sentiments=own, user=ask['who'], context=said,
            mood=mood.value, policy=policy, info=info)
        if choice.index is None: raise NoDraft(f"no candidate scores {c.min_score} or more (`min_score` in [choose]): the best has {mean.max():.2f}")
        notes = dict(mood=mood.state())
        if ask['kind']=='post': notes['retained'] = retained.update(texts, mean, choice.index).candidates
        text = texts[choice.index]
        self.store.drafted(ask['key'], ask['lease'], dict(text=text, state=self._state(ask['text'], text), slate=slate), notes)

    def _mood(self, said, sentiment, candidates):
        "The mood, as it was noted last, and with what it heard now"
        mood,state = Mood(),self.store.note('mood')
        if state: mood.set_state(state)
        now = self.store.clock()
        return mood.hear(sentiment, candidates, time=now) if said else mood.at(now)

    def _retained(self):
        "Posts of the bot's own that were good, and not picked"
        c = self.config.choose
        return Retained(c.keep_above, c.keep, self.store.note('retained', []))

    def _apart(self, texts):
        "What keeps a choice far from what was posted of late"
        if not self.config.choose.diversity: return {}
        shown = [o['draft']['text'] for o in self.store.listed('posted', 20)]
        vectors = np.array(self.models.call('/embed', dict(texts=texts+shown))['vectors'])
        return dict(vecs=vectors[:len(texts)], shown=vectors[len(texts):], diversity=self.config.choose.diversity)

    def _state(self, said, text):
        "Published, or a draft for the owner to look at"
        doubtful = self.doubt.found(said) or self.doubt.found(text)
        return 'draft' if doubtful else self.config.blog.save_as
