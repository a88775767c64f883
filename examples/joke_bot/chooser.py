"""Which joke to tell: by a selector that learned from votes, or at random

Every choice is logged with all candidates and their chances. A share of the requests is always left to chance: these are what sources are compared by
and what the selector can't have influenced."""
import logging,random,threading,zlib
from dataclasses import dataclass
from pathlib import Path
import numpy as np
from collab_ext.slates import SlateLog
from collab_ext.versions import new_version,open_version,read_note,versions_of,write_note
from .jokes import Joke,words

log = logging.getLogger(__name__)

@dataclass
class Pick:
    index:int
    policy:str # 'random' or 'selector'
    slate:int = None # Its number in the log of slates

class HashedWords:
    "Counts of words and of pairs of words, hashed: features where there is no language model"
    def __init__(self, width=512): self.width,self.fingerprint = width,f'hashed words {width}'
    def __call__(self, texts): return [self._row(words(o)) for o in texts]
    def _row(self, found):
        res = np.zeros(self.width, np.float32)
        for o in found+list(map(' '.join, zip(found, found[1:]))): res[zlib.crc32(o.encode())%self.width] += 1
        return res/max(np.linalg.norm(res), 1)

class Chooser:
    "Chooses, logs, and learns"
    def __init__(
        self,
        home, # Folder of the bot
        states=None, # Text → features: collab_ext's `TextStates`, or any function
        explore=.2, # Share of the requests that is left to chance
        how='thompson', # One of collab_ext's `policies`
        min_votes=30, # Before the first training
    ):
        self.home,self.states = Path(home),states or HashedWords()
        self.explore,self.how,self.min_votes = explore,how,min_votes
        self.home.mkdir(parents=True, exist_ok=True)
        self.log = SlateLog(self.home/'slates.db')
        self.training = threading.Lock()
        self.selector,self.note = self._newest()

    def _newest(self):
        "The selector that was trained last, if it was trained on the features of now"
        if not versions_of(self.home, 'selectors'): return None,{}
        folder = open_version(self.home, 'selectors')
        note = read_note(folder/'note.json')
        if note['features']==self.states.fingerprint: return load_selector(folder, self.states),{**note, 'version':folder.name}
        log.warning("The selector %s was trained on the features of another model: /retrain makes a new one", folder)
        return None,{}

    # Choosing

    def explores(self)->bool: return self.selector is None or random.random()<self.explore

    def pick(
        self,
        candidates:list, # `StoredJoke`s
        person:int,
        explore:bool, # Leave it to chance?
    )->Pick:
        "Choose, and log what could have been chosen"
        texts = [str(o) for o in candidates]
        info = dict(jokes=[o.id for o in candidates], sources=[o.source for o in candidates], version=self.note.get('version'))
        selector = None if explore else self.selector # once: it may be replaced meanwhile
        if selector:
            try: return self._by_score(selector, texts, person, info)
            except (ValueError,TypeError,RuntimeError): log.exception("The selector failed; chance decides")
        i = random.randrange(len(texts))
        slate = self.log.add(texts, [1/len(texts)]*len(texts), i, policy='random', user=person, info=info)
        return Pick(i, 'random', slate)

    def _by_score(self, selector, texts, person, info):
        from collab_ext.choose import select_from
        res = select_from(selector, texts, user=person, how=self.how, log=self.log, info=info)
        return Pick(res.index, 'selector', res.slate)

    def note_outcomes(self, store):
        "Write the votes since the last time into the log of slates; the store has them in any case"
        since = self.log.connection().execute('select max(time) from outcomes').fetchone()[0] or 0
        for o in store.votes(since):
            if o['slate']: self.log.outcome(o['slate'], o['value'], user=o['person'], time=o['time'])

    # Learning

    def retrain(
        self,
        store,
    )->str: # What to tell the owner
        "Train a selector on all votes and put it in place of the one that chooses; requests go on meanwhile"
        if not self.training.acquire(blocking=False): return "I am learning already."
        try:
            votes = store.votes()
            trouble = too_few(votes, self.min_votes)
            if trouble: return trouble
            self.note_outcomes(store)
            selector,note = train_selector(votes, self.states, self.home)
            self.selector,self.note = selector,note
            return f"I learned from {note['n_votes']} votes. {describe_auc(note['auc'])}"
        finally: self.training.release()

    def describe(self):
        if not self.selector: return "Jokes are chosen at random; /retrain learns from the votes."
        return f"{1-self.explore:.0%} of the jokes are chosen by selector {self.note['version']}, which learned from {self.note['n_votes']} votes."

def describe_auc(auc):
    "How well a selector orders votes on jokes that it did not learn from"
    if auc['value'] is None: return "Too few jokes were held out to say how well."
    return f"Of two held-out votes, a 👍 and a 👎, it puts the 👍 first in {auc['value']:.0%} of the cases ({auc['low']:.0%} to {auc['high']:.0%}; chance is 50%)."

def too_few(votes, least):
    "What to tell the owner if there is not enough to learn from, or None"
    n,n_down = len(votes),sum(o['value']<0 for o in votes)
    if n<least: return f"There are {n} votes; I learn from {least} on."
    if min(n_down, n-n_down)<5: return f"Of {n} votes {n_down} are 👎: I need at least 5 of each kind to learn from."

# The selector

def train_selector(
    votes:list, # What `Store.votes` gives
    states, # Text → features
    home, # The selector becomes `home/selectors/<number>`
)->tuple: # The selector; a note about it
    "Train a selector on votes, and save it as files that run no code"
    import pandas as pd
    from collab_ext.selector import selector_learner
    df = pd.DataFrame([dict(text=str(Joke(o['question'], o['answer'])), user=o['person'], source=o['source'], feedback=o['value']) for o in votes])
    columns = dict(user='user', source='source')
    auc = selector_learner(df, states, **columns).solve().evaluate().loc['auc'] # a fifth of the jokes is held out
    with new_version(home, 'selectors') as version:
        learn = selector_learner(df, states, valid=0, path=version.folder, **columns).solve()
        learn.save('selector')
        auc = {k:None if v!=v else float(v) for k,v in auc.items()}
        note = dict(features=states.fingerprint, n_votes=len(df), auc=auc)
        write_note(version/'note.json', note)
    return learn,{**note, 'version':version.folder.name}

def load_selector(folder, states):
    "A selector that `train_selector` saved"
    from collab_ext.selector import load_selector
    return load_selector(folder/'models'/'selector', states)
