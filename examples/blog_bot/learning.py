"From posts with notes to a selector in place: `prepare`, `train`, `place`"
import numpy as np,pandas as pd
from collab_ext.candidates import rolling_quantile
from collab_ext.selector import load_selector,selector_learner
from collab_ext.slates import SlateLog
from collab_ext.versions import new_version,open_version,read_note,write_note
from .generators import read_posts,states_name,states_of_settings
from .placed import read_json,read_placed,write_placed
from .store import Store

fewest = 40 # Posts that a selector can be trained on

def prepare(
    config, # As `read_config` gives it
)->str: # What was done
    "Make targets of note counts: where a post stands among those of its kind in the two weeks around it, most of them before"
    folder = config.files.folder
    posts = [o for o in read_posts(folder) if o['text']]
    if len(posts)<fewest: raise ValueError(f"{len(posts)} posts with text were collected, and a selector wants {fewest} or more: "
        "run `python -m blog_bot collect`, and later again if the blog is young")
    df = pd.DataFrame(posts).sort_values('time', kind='stable').reset_index(drop=True)
    now = read_json(folder/'collect.json', {}).get('collected') or df.time.max()
    df['quantile'] = rolling_quantile(df, 'notes', 'time', by='source', now=now)
    known = df.dropna(subset='quantile')
    with new_version(folder, 'prepared') as new:
        known.to_json(new/'posts.jsonl', orient='records', lines=True, force_ascii=False)
        write_note(new/'note.json', dict(posts=len(posts), too_fresh=len(df)-len(known)))
    n = log_outcomes(folder, known)
    return (f"{len(known)} posts are in {new.folder} ({len(df)-len(known)} are too fresh to judge); {n} choices of the bot got their outcome; "
        "next: python -m blog_bot train")

def log_outcomes(folder, known):
    "Tell the log of choices what came of them"
    if not (folder/'queue.db').exists(): return 0
    store,log,n = Store(folder/'queue.db'),SlateLog(folder/'slates.db'),0
    answered = store.by_post()
    for id,q in zip(known.id, known['quantile']):
        if str(id) not in answered: continue
        log.outcome(store.get(answered[str(id)])['draft']['slate'], float(q))
        n += 1
    store.close()
    return n

# Training

def read_labels(file):
    "Texts with labels 1 and -1"
    try: df = pd.read_csv(file)
    except (OSError,ValueError) as e: raise ValueError(f"{file} can't be read: {e}; write a CSV with the columns text and label") from None
    missing = {'text','label'}-set(df.columns)
    if missing: raise ValueError(f"{file} has no column {', '.join(sorted(missing))}: write a CSV with the columns text and label")
    bad = df.label[~df.label.isin([-1,1])]
    if len(bad): raise ValueError(f"{file} has the label {bad.iloc[0]}: labels are 1 (positive) and -1 (negative)")
    return df.dropna(subset='text')

def read_prepared(folder):
    "The newest prepared posts, the oldest post first"
    prepared = open_version(folder, 'prepared', remedy='python -m blog_bot prepare')
    return pd.read_json(prepared/'posts.jsonl', lines=True)

def train(
    config, # As `read_config` gives it
    labels=None, # CSV of texts and labels, for a sentiment head; prepared posts and a selector by default
    hidden=0, # Width of a net between vectors and scores; 0 for none, which is trained in closed form
    epochs=8, # Of a net
)->str: # What was done
    "Train a head and keep it as the next run"
    folder = config.files.folder
    head = 'sentiment' if labels else 'selector'
    df = (read_labels(labels) if labels else read_prepared(folder)).rename(columns=dict(label='feedback', quantile='feedback'))
    if len(df)<fewest: raise ValueError(f"there are {len(df)} texts to learn from, and {fewest} or more are wanted")
    valid = .2 if labels else np.arange(len(df))>=.8*len(df) # the latest posts
    loss = 'votes' if labels else 'quantile'
    learn = selector_learner(df[['text','feedback']], states_of_settings(config), loss=loss, valid=valid, hidden=hidden, path=folder)
    if hidden: fit_quietly(learn, epochs)
    else: learn.solve()
    measured = learn.evaluate().iloc[0]
    with new_version(folder, 'runs') as new:
        learn.save(new.folder.absolute()/'head')
        write_note(new/'note.json', dict(head=head, states=states_name(config.model), texts=len(df), measured=measured.to_dict()))
    return (f"The {head} is {new.folder}. Of two {'texts' if labels else 'of the latest posts'} it finds the better one in {measured.value:.0%} of cases "
        f"({measured.low:.0%} to {measured.high:.0%}; chance is 50%); next: python -m blog_bot place")

def fit_quietly(learn, epochs):
    with learn.no_bar(),learn.no_logging(): learn.fit_one_cycle(epochs)

def open_run(folder, number, states, name):
    "A trained head"
    run = open_version(folder, 'runs', number, remedy='python -m blog_bot train')
    note = read_note(run/'note.json')
    if note['states']!=name: raise ValueError(f"run {number} reads vectors of {note['states']!r}, and the settings make those of {name!r}: train again")
    return load_selector(run/'head', states)

def place(
    config, # As `read_config` gives it
    number=None, # Of the run; the newest by default
    remove=None, # A head to do without
)->str: # What was done
    "Put a head in place: it is opened and tried first, then taken up by a running bot"
    folder = config.files.folder
    placed = read_placed(folder)
    if remove:
        placed.pop(remove, None)
        write_placed(folder, placed)
        return f"There is no {remove} in place from now on"
    run = open_version(folder, 'runs', number, remedy='python -m blog_bot train')
    learn = open_run(folder, int(run.name), states_of_settings(config), states_name(config.model))
    mean,_ = learn.score_candidates(['a text','another one',''])
    if not np.isfinite(mean).all(): raise ValueError(f"run {run.name} gives scores that are no numbers: train again")
    head = read_note(run/'note.json')['head']
    write_placed(folder, {**placed, head:int(run.name)})
    return f"The {head} of run {run.name} is in place"
