"""What baselines cost: `learn.evaluate()` beside the model alone

    python benchmarks/evaluate.py                 # ml-100k and ml-1m, eleven turns
    python benchmarks/evaluate.py --sets ml-100k --turns 5

Each turn measures the model alone, the model beside all baselines, and beside each one; a row is the ratio of two times of one turn."""
import argparse,time
import numpy as np,torch
from collab_ext import CollabDataLoaders,collab_learner
from collab_ext.baselines import baselines
from transfer import data_dir,here,machine,ratings

def trained(df):
    dls = CollabDataLoaders.from_df(df, seed=1, bs=4096)
    learn = collab_learner(dls, 50)
    with learn.no_bar(),learn.no_logging(): learn.fit(1, 5e-3)
    return learn

def seconds(f):
    "Of computing, of all threads together"
    start = time.process_time()
    f()
    return time.process_time()-start

def ratios(learn, n_turns):
    "For each choice of baselines, its time in multiples of the model's alone: one number for each turn; and the seconds of the model"
    choices = dict(all=None, **{o:[o] for o in baselines})
    alone = lambda: learn.evaluate(baselines=False)
    for o in choices.values(): learn.evaluate(baselines=o) # numba compiles what it needs
    res,model = {o:[] for o in choices},[]
    for _ in range(n_turns):
        own = min(seconds(alone), seconds(alone))
        model.append(own)
        for name,o in choices.items(): res[name].append(seconds(lambda: learn.evaluate(baselines=o))/own)
    return res,model

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data')
    p.add_argument('--sets', nargs='+', default=['ml-100k','ml-1m'])
    p.add_argument('--turns', type=int, default=11)
    p.add_argument('--dry', action='store_true', help='Write nothing')
    args = p.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in args.sets:
        learn = trained(ratings(data_dir(args.data), name))
        found,model = ratios(learn, args.turns)
        for choice,o in found.items():
            rows.append([name, f'{np.median(model):.2f}', choice, f'{np.median(o):.2f}', f'{min(o):.2f}–{max(o):.2f}'])
            print(*rows[-1], flush=True)
    head = ['ratings', 'model alone, CPU s', 'beside it', 'times the model alone, median', 'lowest–highest']
    lines = ['| '+' | '.join(o)+' |' for o in (head, ['---']*len(head), *rows)]
    text = f"# What baselines cost\n\n`python benchmarks/evaluate.py`. {machine()}.\n\nOne thread, {args.turns} turns; a fifth of the ratings held out, lists of ten.\n\n" + '\n'.join(lines) + '\n'
    if not args.dry: (here/'evaluate.md').write_text(text)

if __name__=='__main__': main()
