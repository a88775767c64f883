"""What the defaults for clicks are worth: models of vectors beside the best linear model

    python benchmarks/click_defaults.py                    # three MovieLens sets, and a tenth of the users of each
    python benchmarks/click_defaults.py --sets ml-100k/10  # one of them

A fifth of the clicks is for testing. Nothing is tuned: every model is made by one call, and those that train by gradient train for ten epochs."""
import argparse,warnings
import numpy as np,pandas as pd,torch
from collab_ext import BPRLoss,CCLLoss,CollabDataLoaders,Fused,SoftmaxLoss,implicit_learner,linear_learner
from transfer import data_dir,here,liked,machine,ratings

sets = 'ml-100k','ml-latest-small','ml-1m'
losses = dict(softmax=SoftmaxLoss, bpr=BPRLoss, ccl=CCLLoss)
asked = dict(ials=3, softmax=5, bpr=12, ccl=8) # per cent that a model may stay behind

def clicks_of(data, name, seed):
    "Training and test clicks of a set, or of a tenth of its users, other ones for each seed"
    name,_,share = name.partition('/')
    df = liked(ratings(data, name)).set_axis(['user','item'], axis=1)
    rng = np.random.default_rng(seed)
    users = df.user.unique()
    if share: df = df[df.user.isin(set(rng.permutation(users)[:len(users)//int(share)]))]
    held = rng.random(len(df))<.2
    return df[~held],df[held]

def models(train, ordinary):
    "Name and learner of each model, made and trained"
    dls = CollabDataLoaders.from_interactions(train, valid_pct=0., seed=0, unknown='mean')
    yield 'ease',linear_learner(dls)
    yield 'graph',linear_learner(dls, 'graph')
    torch.manual_seed(0)
    ials = implicit_learner(dls, 64, loss_func='ials')
    with ials.no_bar(),ials.no_logging(): yield 'ials',ials.solve()
    for way in ('',', ordinary steps') if ordinary else ('',):
        for loss,kind in losses.items():
            torch.manual_seed(0)
            learn = implicit_learner(dls, 64, loss_func=kind(), cbs=[] if way else [Fused()])
            with learn.no_bar(),learn.no_logging(): learn.fit_one_cycle(10)
            yield loss+way,learn

def quality(learn, test):
    with learn.no_bar(): return float(learn.evaluate(test, k=20, baselines=False).loc['model','ndcg'])

def row(data, name, seeds, ordinary):
    "NDCG@20 of each model of a set, means over the draws, and how far each is from the best linear model"
    found = []
    for seed in range(1, seeds+1):
        train,test = clicks_of(data, name, seed)
        found.append({k:quality(o, test) for k,o in models(train, ordinary)})
        print(name, seed, {k:round(v, 4) for k,v in found[-1].items()}, flush=True)
    mean = pd.DataFrame(found).mean()
    best = mean[['ease','graph']].max()
    rest = {k:f'{v:.4f} ({100*(v/best-1):+.1f} %)' for k,v in mean.items() if k not in ('ease','graph')}
    return dict(set=name, draws=seeds, ease=f'{mean.ease:.4f}', graph=f'{mean.graph:.4f}', **rest)

def draws_of(name): return 5 if '/' in name else 1 if name=='ml-1m' else 3

def store(path, rows, called):
    "Write what there is so far"
    head = list(rows[0])
    lines = ['| '+' | '.join(map(str, o))+' |' for o in (head, ['---']*len(head), *(list(o.values()) for o in rows))]
    bars = ', '.join(f'{k} {v} %' for k,v in asked.items())
    path.write_text(f"""# Defaults for clicks

`{called}`. {machine()}.

NDCG@20 of a fifth of the clicks (ratings of 4 and more), means of draws; /10: of a tenth of the users. 64 factors, ten epochs with `Fused`, else defaults.
In brackets, how far from the better one of the two linear models (`ease`, `graph`). What was asked is to stay within: {bars}.

"""+'\n'.join(lines)+'\n')

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data')
    p.add_argument('--sets', nargs='+', default=[*(f'{o}/10' for o in sets), *sets])
    p.add_argument('--seeds', type=int, help='Draws; by default 3, five for a tenth of the users, and one of ml-1m')
    p.add_argument('--ordinary', action='store_true', help='Train without `Fused`, too')
    p.add_argument('--dry', action='store_true', help='Write nothing')
    args = p.parse_args()
    warnings.simplefilter('ignore')
    torch.set_num_threads(1)
    rows = []
    for name in args.sets:
        rows.append(row(data_dir(args.data), name, args.seeds or draws_of(name), args.ordinary))
        print(rows[-1], flush=True)
        if not args.dry: store(here/'click_defaults.md', rows, 'python benchmarks/click_defaults.py')

if __name__=='__main__': main()
