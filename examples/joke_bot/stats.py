"Which source entertains, how sure that is, and how many votes are still needed: what `/stats` prints"
import math,pandas as pd

least = 20 # votes of a source before it is compared: fewer may be all alike, and say nothing of how much votes vary

def report(
    store,
    sources=(), # Those that jokes are told of; sources of before count, too, as far as they have votes
)->str:
    "Votes by source, compared on jokes that chance chose, and by way of choosing"
    votes = pd.DataFrame(store.votes())
    if not len(votes): return "Nobody has voted yet."
    lines = [f"{_many(len(votes), 'vote')} by {_many(votes.person.nunique(), 'person', 'people')} on {_many(votes.joke.nunique(), 'joke')}"]
    for policy,o in votes.groupby('policy'): lines.append(f"{_policies[policy]}: {_liked(o)}")
    fair = votes[votes.policy=='random']
    sources = sorted({*sources, *fair.source})
    if len(sources)<2: return '\n'.join(lines)
    enough = fair[fair.groupby('source').person.transform('size')>=least]
    comparable = enough.source.nunique()>1
    if comparable: lines += ['', *compared(enough)]
    rest = [o for o in sources if not comparable or o not in set(enough.source)]
    return '\n'.join(lines+[_lacking(o, fair[fair.source==o]) for o in rest])

def _lacking(source, votes):
    "How many votes a source still needs to be compared"
    n = len(votes)
    so_far = f"{source}, chosen at random: {_liked(votes) if n else 'no votes'}"
    if n>=least: return f"{so_far}; it is compared when another source has {least} such votes, too"
    return f"{so_far}; {_many(least-n, 'more such vote')} needed to compare it"

_policies = dict(random='chosen at random', selector='chosen by the selector', asked='answers to questions')

def compared(
    votes, # Votes on jokes that chance chose
)->list: # Lines
    "Each source against human jokes, or against the one with most votes"
    from collab_ext.off_policy import compare_sources,votes_needed
    names = dict(source='source', value='value', user='person', item='joke')
    reference = 'human' if 'human' in set(votes.source) else None
    found = compare_sources(votes, reference, **names)
    reference = found.attrs['reference']
    needed = votes_needed(votes, reference=reference, **names).more
    res = [f"{reference}: {_liked(votes[votes.source==reference])}; the others are compared with it, on jokes that chance chose"]
    for source,r in found.drop(index=reference).iterrows():
        res.append(f"{source}: {_liked(votes[votes.source==source])}; {_verdict(r, needed[source])}")
    return [*res, "The intervals hold at all looks together: look as often as you like."]

def _verdict(r, more):
    "A difference of shares of 👍, with its interval, in words"
    low,high = max(r.low/2, -1),min(r.high/2, 1) # votes are ±1: a share of 👍 moves half as far
    res = f"{100*r.difference/2:+.0f} points ({100*low:+.0f} to {100*high:+.0f})"
    if low>0: return f"{res}: liked more"
    if high<0: return f"{res}: liked less"
    return f"{res}: can't be told apart yet" + (f"; about {more:,.0f} more votes would tell a difference of this size" if math.isfinite(more) and more else '')

def _liked(votes): return f"{(votes.value>0).mean():.0%} 👍 of {_many(len(votes), 'vote')}"

def _many(n, one, several=None): return f"{n:,} {one if n==1 else several or one+'s'}"
