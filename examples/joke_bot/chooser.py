"Which joke to tell: at random, or by a selector that learned from votes"
import logging,random
from dataclasses import dataclass

log = logging.getLogger(__name__)

@dataclass
class Pick:
    index:int
    policy:str # 'random' or 'selector'
    slate:int = None # Its number in the log of slates

class RandomChooser:
    "Chance: the comparison of sources is fair, and nothing is learned"
    def wants_slate(self): return False
    def pick(self, candidates, person, chat): return Pick(random.randrange(len(candidates)), 'random')
    def note_vote(self, store, joke, chat, person, value): pass
    def retrain(self, store): return "I choose at random; start me with a selector to learn from votes."
    def describe(self): return "Jokes are chosen at random."
