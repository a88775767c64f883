"Posts of the blog with their notes, page by page: a run that is interrupted goes on where it was"
import json,os,time
from pathlib import Path
from .placed import read_json,write_json
from .tumblr import Refused,Tumblr,Unsure,ask_of,text_of

def row_of(
    post, # As Tumblr gives it
)->dict: # Plain data
    "What is kept of a post: its own words, and what they answer"
    asked,who = ask_of(post)
    quoted = [o for o in post['content'] if o.get('subtype')=='indented']
    own = [o for o in post['content'] if o not in asked and o not in quoted]
    kind = 'ask' if asked else 'reply' if quoted else 'post'
    return dict(id=post['id_string'], time=post['timestamp'], notes=post.get('note_count', 0), source=kind, who=who,
        context=text_of(asked or quoted), text=text_of(own))

def patiently(call, tell, pause, tries=8):
    "Call again after a while if the service is busy or broken"
    for i in range(tries):
        try: return call()
        except (Refused,Unsure) as e:
            if isinstance(e, Refused) and e.status not in (0,429) or i==tries-1: raise
            wait = getattr(e, 'wait', None) or min(300, 2**i)
            tell(f"{e}: again in {wait:g} s")
            pause(wait)

def collect(
    config, # As `read_config` gives it
    tell=print, # Takes lines for the reader
    pause=time.sleep,
    settled=30*86_400, # Seconds after which notes hardly grow: older posts are not fetched again
    clock=time.time,
)->str: # What was done
    "Fetch what is new, and what may have more notes than the last time"
    folder,blog = Path(config.files.folder),Tumblr(config)
    folder.mkdir(parents=True, exist_ok=True)
    at = read_json(folder/'collect.json', {})
    sweep = dict(started=clock(), before=None, until=at.get('until', 0)) if at.get('before') is None else at
    fetched = set() # a page begins with posts of the one before
    while True:
        paging = dict(before=sweep['before']) if sweep['before'] else {}
        page = patiently(lambda: blog.posts(**paging), tell, pause)
        add_rows(folder/'posts.jsonl', map(row_of, page))
        fetched.update(o['id_string'] for o in page)
        if not page or page[-1]['timestamp']<sweep['until']: break
        oldest = min(o['timestamp'] for o in page)
        sweep['before'] = oldest if oldest+1==sweep['before'] else oldest+1 # those of one second may go on on the next page
        write_json(folder/'collect.json', sweep)
    write_json(folder/'collect.json', dict(before=None, until=sweep['started']-settled, collected=sweep['started']))
    return f"{len(fetched)} posts were fetched into {folder/'posts.jsonl'}; next: python -m blog_bot prepare"

def add_rows(file, rows):
    "Append rows; a line that a kill cut short does not spoil the next"
    text = ''.join(json.dumps(o, ensure_ascii=False)+'\n' for o in rows)
    with open(file, 'ab+') as f:
        size = f.seek(0, os.SEEK_END)
        if size:
            f.seek(size-1)
            if f.read(1)!=b'\n': text = '\n'+text
        f.write(text.encode('utf-8', 'replace'))
        f.flush()
        os.fsync(f.fileno())
