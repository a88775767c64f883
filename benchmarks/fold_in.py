"""New users of click models: folded in beside retrained

    python benchmarks/fold_in.py                         # three MovieLens sets, two draws of users
    python benchmarks/fold_in.py --sets ml-100k --seeds 1

A fifth of the users is new. A learner is trained without them, and folds in four fifths of their clicks; another one is trained with these. Both are asked
for the last fifth."""
import argparse,itertools,warnings
import numpy as np,pandas as pd,torch
from collab_ext import BPRLoss,CCLLoss,CollabDataLoaders,Fused,SoftmaxLoss,WARPLoss,implicit_learner
from transfer import data_dir,here,liked,machine,ratings

losses = dict(softmax=SoftmaxLoss, bpr=BPRLoss, ccl=CCLLoss, warp=WARPLoss)

def parts(df, seed):
    "Clicks of known users, and the histories and the held-out clicks of new ones"
    rng = np.random.default_rng(seed)
    users = df.user.unique()
    is_new = df.user.isin(set(rng.permutation(users)[:len(users)//5]))
    known,new = df[~is_new],df[is_new]
    new = new[new.item.isin(set(known.item))]
    held = rng.random(len(new))<.2
    return known,new[~held],new[held]

def trained(df, loss, start, n_factors=64, n_epoch=10):
    torch.manual_seed(0)
    dls = CollabDataLoaders.from_interactions(df, valid_pct=0., seed=0)
    learn = implicit_learner(dls, n_factors, loss_func=losses[loss](), cbs=[] if loss=='warp' else [Fused()], start=start) # WARP has no compiled step
    with learn.no_bar(),learn.no_logging(): learn.fit_one_cycle(n_epoch)
    return learn

def measured(learn, test, **kwargs):
    with learn.no_bar(): res = learn.evaluate(test, k=20, baselines=False, **kwargs)
    return res.loc['model',['recall','ndcg']].astype(float).tolist()

def row(name, df, loss, seed, start):
    known,history,test = parts(df, seed)
    folded = measured(trained(known, loss, start), test, ratings=history)
    retrained = measured(trained(pd.concat([known,history]), loss, start), test)
    shares = [a/b for a,b in zip(folded, retrained)]
    return [name, start, loss, seed, *(f'{o:.4f}' for o in (*folded,*retrained)), *(f'{o:.3f}' for o in shares)]

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data')
    p.add_argument('--sets', nargs='+', default=['ml-100k','ml-latest-small','ml-1m'])
    p.add_argument('--losses', nargs='+', default=list(losses), choices=list(losses))
    p.add_argument('--starts', nargs='+', default=['linear'], choices=['linear','random'])
    p.add_argument('--seeds', type=int, default=2)
    p.add_argument('--dry', action='store_true', help='Write nothing')
    args = p.parse_args()
    warnings.simplefilter('ignore')
    torch.set_num_threads(1)
    rows = []
    for name in args.sets:
        df = liked(ratings(data_dir(args.data), name)).set_axis(['user','item'], axis=1)
        for seed in range(1, args.seeds+1):
            for start,loss in itertools.product(args.starts, args.losses):
                rows.append(row(name, df, loss, seed, start))
                print(*rows[-1], flush=True)
    head = ['clicks (ratings ≥ 4)', 'start', 'loss', 'draw', 'folded in: recall@20', 'NDCG@20', 'retrained: recall@20', 'NDCG@20', 'share of recall', 'share of NDCG']
    lines = ['| '+' | '.join(map(str, o))+' |' for o in (head, ['---']*len(head), *rows)]
    text = f"# New users of click models\n\n`python benchmarks/fold_in.py`. {machine()}.\n\n64 factors, ten epochs, defaults otherwise.\n\n" + '\n'.join(lines) + '\n'
    if not args.dry: (here/'fold_in.md').write_text(text)

if __name__=='__main__': main()
