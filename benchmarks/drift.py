"Does a transfer stay put? The same source and target, with rows in another order and tables moved by a millionth, through ten rounds"
import argparse,itertools
from transfer import *

here = Path(__file__).resolve().parent
rounds = (0,1,3,10)

@cache
def trained(data, src, tgt, k, y_range, order):
    "A source trained on its ratings in another order"
    df = source_ratings(data, src, tgt).sample(frac=1, random_state=order)
    dls = CollabDataLoaders.from_df(df, valid_pct=0)
    return quiet(collab_learner(dls, k, y_range=y_range), 'solve', 15).as_pair()

def source(data, src, tgt, k, y_range, order, seed):
    "The same with each number of its tables moved by about a millionth of itself; seed 0 moves nothing"
    pair = trained(data, src, tgt, k, y_range, order)
    g = torch.Generator().manual_seed(seed)
    noise = {o:1+1e-6*torch.randn(v.shape, generator=g) for o,v in pair.wgts.items()}
    return pair._replace(wgts={o:v*noise[o] if seed else v for o,v in pair.wgts.items()})

def errors(pair, dls, id_map, k, y_range, test, scale):
    "RMSE after each of `rounds`"
    mf = collab_learner(dls, k, y_range=y_range, pretrained=pair, id_map=id_map, compare_source=False).solver.mf.copy()
    ds,res = dls.train_ds.encode(test, 'mean'),{}
    for n in range(max(rounds)+1):
        if n: mf.sweep()
        if n in rounds: res[n] = (mf.predict(ds.ids).clip(*scale)-ds.targ).pow(2).mean().sqrt().item()
    return res

def table(rows):
    "Mean and spread (highest - lowest) of the errors of each kind of run"
    groups = pd.DataFrame(rows).groupby(['factors','y_range'])[list(rounds)]
    spread = groups.max()-groups.min()
    return groups.mean().round(4).join(spread.map('{:.1e}'.format), rsuffix=' spread')

def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('--data')
    p.add_argument('--src', default='ml-100k')
    p.add_argument('--tgt', default='ml-latest-small')
    p.add_argument('--factors', type=int, nargs='+', default=[10,20,50])
    p.add_argument('--orders', type=int, default=3)
    p.add_argument('--seeds', type=int, default=4)
    p.add_argument('--out', help='a file for the table, such as drift.md')
    args = p.parse_args()
    data = data_dir(args.data)
    train,test = split(data, args.tgt, 0)
    dls,id_map = loaders(data, args.tgt, train),dict(userId={}, movieId=item_map(data, args.src, args.tgt))
    lo,hi = ranges[args.tgt]
    rows = []
    for k,y_range,order in itertools.product(args.factors, (None,(lo-.5,hi+.5)), range(args.orders)):
        for seed in range(args.seeds):
            pair = source(data, args.src, args.tgt, k, y_range, order, seed)
            rows.append({'factors':k, 'y_range':str(y_range), **errors(pair, dls, id_map, k, y_range, test, (lo,hi))})
            print(rows[-1], flush=True)
    print(table(rows).to_string())
    if args.out: (here/args.out).write_text(markdown(table(rows).reset_index()))

if __name__=='__main__': main()
