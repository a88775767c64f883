"Which source entertains: the comparison that `/stats` prints"
from collections import defaultdict

def report(store)->str:
    "Votes of each source, with intervals"
    votes = store.votes()
    if not votes: return "Nobody has voted yet."
    groups = defaultdict(list)
    for o in votes: groups[o['source']].append(o)
    lines = [f"{len(votes)} votes of {len({o['person'] for o in votes})} people on {len({o['joke'] for o in votes})} jokes"]
    for name,o in sorted(groups.items()): lines.append(f"{name}: {sum(v['value']>0 for v in o)} 👍 {sum(v['value']<0 for v in o)} 👎")
    return '\n'.join(lines)
