"Odd arguments in the public calls of learners and transfers: each is used, or refused by a message of ours that changes nothing"
from helpers import *
import random,traceback,warnings

import pytest,torch
from pathlib import Path

n_calls = 40 if full else 3 # of each function
ours = (ValueError,TypeError,KeyError,FileNotFoundError)
here = Path(collab_learner.__code__.co_filename).parent

@pytest.fixture(scope='module')
def world(tmp_path_factory):
    "A source, a target, and learners and files of both"
    path = tmp_path_factory.mktemp('fuzz')
    source,target = domains(30, 20, 280)
    dls = [loaders(o, bs=128) for o in (source,target)]
    src = collab_learner(dls[0], 4, path=path)
    quietly(src, src.solve, 1)
    for name in ('m','start'): src.save(name)
    return SimpleNamespace(path=path, source=source, target=target, dls=dls, src=src, pair=src.as_pair(), frame=frame('ab','xy'))

def quietly(learn, f, *args, **kwargs):
    with warnings.catch_warnings(), learn.no_bar(), learn.no_logging():
        warnings.simplefilter('ignore')
        return f(*args, **kwargs)

def odd_values(w):
    "What users pass by mistake, and what nobody passes"
    return [None, True, False, 0, 1, -1, 3, 2.5, float('nan'), float('inf'), np.int64(2), np.float32(.5), '', 'm', 'mean', 'avg', 'user', 'no such',
        b'x', [], [1], [1,2], ['a','b','c'], (1,5), (5,1), (0,6), ('a','b'), {}, dict(a=1), dict(user=str), dict(item=3), dict(user={}, item=None),
        dict(item=pd.DataFrame([['i1','i2']])), dict(item=pd.DataFrame([[1,2,3]])), dict(user=dict(x=[1])), set(), pd.DataFrame(), w.frame, w.source,
        pd.Series([1,2]), np.zeros((2,3)), np.array('x'), torch.zeros(3), torch.zeros(0), (np.zeros((2,3)),['i1','i2']), object(), int, str,
        lambda *args: None, lambda *args: torch.zeros(1), Path('m'), w.path, w.path/'models'/'m.pth', w.src, w.pair, w.dls[0], w.src.model,
        w.src.model.state_dict(), w.src.vocab, dict(w.src.vocab), w.dls[0].train_ds, MSELossFlat(), MSELossFlat, [Fused()], UnknownDropout,
        dict(u_weight='u_weight.weight'), dict(u_weight='no'), dict(nope='u_weight.weight'), w.pair._replace(info=dict(counts=3)),
        w.pair._replace(info=dict(scale='x')), w.pair._replace(vocab=None), w.pair._replace(wgts={}), w.pair._replace(info=dict(y_range=3))]

def new_learner(w): return collab_learner(w.dls[1], 4, path=w.path)

def bound(name): return lambda w,learn,**kw: getattr(learn, name)(**kw)

def plainly(f): return lambda w,learn,**kw: f(**kw)

calls = {} # Name → (what is called with (world, learner, **arguments), its usual arguments, names of the arguments that are replaced)
def case(name, call, usual, args): calls[name] = call,usual,args

case('collab_learner', plainly(collab_learner), lambda w: dict(dls=w.dls[1], n_factors=4, path=w.path),
    'dls n_factors use_nn emb_szs layers config y_range loss_func pretrained project id_map fill solve unknown_pct')
case('from_source', plainly(collab_learner), lambda w: dict(dls=w.dls[1], path=w.path, pretrained=w.src),
    'n_factors use_nn emb_szs y_range pretrained project id_map fill solve')
case('CollabLearner', plainly(CollabLearner), lambda w: dict(dls=w.dls[1], model=DotBias.from_classes(4, w.dls[1].classes)), 'dls')
case('transfer_from', bound('transfer_from'), lambda w: dict(source=w.src), 'source id_map fill project solve')
case('fine_tune', bound('fine_tune'), lambda w: dict(epochs=1), 'epochs freeze_epochs compare_source')
case('solve', bound('solve'), lambda w: dict(n_epoch=1), 'n_epoch')
case('save', lambda w,learn,**kw: collab_learner(w.dls[1], 4, path=w.path/'saved').save(**kw), lambda w: dict(file='fuzzed'), 'file')
case('load', bound('load'), lambda w: dict(file='m'), 'file strict_vocab')
case('load_vocab', bound('load_vocab'), lambda w: dict(wgts_fname='m', vocab_fname='m_vocab'), 'wgts_fname vocab_fname fill id_map keys low')
case('test_dl', bound('test_dl'), lambda w: dict(df=w.target), 'df unknown bs')
case('predict', bound('predict'), lambda w: dict(row=w.target[:1]), 'row unknown')
case('grow', bound('grow'), lambda w: dict(ratings=w.source, unknown='mean'), 'ratings fill solve')
case('fold_in', bound('fold_in'), lambda w: dict(ratings=w.source), 'ratings')
def embeds_of(w): return dict(old_wgts=w.src.model.state_dict(), old_vocab=w.src.vocab, new_vocab=learn_vocab(w))
case('match_embeds', plainly(match_embeds), embeds_of, 'old_wgts old_vocab new_vocab user item id_map fill keys')
case('load_pretrained_keys', lambda w,learn,**kw: load_pretrained_keys(**{'model':learn.model, **kw}), lambda w: dict(wgts=moved(w)), 'model wgts keys')
for f in (match_rows,coverage): case(f.__name__, plainly(f), lambda w: dict(old_vocab=[1,2,3], new_vocab=[2,4]), 'old_vocab new_vocab id_map')
case('tables', plainly(tables), lambda w: dict(model=w.src.model), 'model keys')

def learn_vocab(w): return w.dls[1].vocab
def moved(w): return match_embeds(w.src.model.state_dict(), w.src.vocab, learn_vocab(w)).wgts

def state(learn):
    "All that a failed call must leave alone"
    opt = learn.opt and learn.opt.state_dict()
    return dict(weights=weights(learn), opt=opt, dls=id(learn.dls), model=id(learn.model), transfer=id(learn.transfer), solver=id(learn._solved),
        prior=id(learn.model.prior), cbs=sorted(o.name for o in learn.cbs), lr=learn.lr, files={o.name:o.read_bytes() for o in (learn.path/'models').iterdir()})

def is_ours(e):
    "Was the error raised by a line of this library that says so, with a text?"
    last = traceback.extract_tb(e.__traceback__)[-1]
    if here not in Path(last.filename).parents or not str(e): return False
    source = Path(last.filename).read_text().splitlines()
    return any('raise ' in o for o in source[last.lineno-1:last.end_lineno])

def shown(v): return f'{type(v).__name__} {v!r:.60}'.replace('\n',' ')

def is_odd(f): return getattr(f, '__name__', '')=='<lambda>'

@pytest.mark.parametrize('name', calls)
def test_odd_arguments(world, name):
    call,usual,args = calls[name]
    rnd,values,bad = random.Random(name),odd_values(world),[]
    args = args.split()
    quick = [(a,v) for a in args for v in values if not (a in ('fill','id_map') and callable(v) and not is_odd(v))] # others raise errors of their own
    tried = [[rnd.choice(quick)] for _ in range(n_calls*len(args))] + [rnd.sample(quick, 2) for _ in range(n_calls)]
    learn = None
    for chosen in tried:
        kw = {**usual(world), **dict(chosen)}
        if learn is None: learn = new_learner(world)
        before = state(learn)
        try: quietly(learn, call, world, learn, **kw)
        except ours as e:
            if not is_ours(e): bad.append((chosen, e))
            elif not same(state(learn), before): bad.append((chosen, 'changed the learner', e))
        except Exception as e: bad.append((chosen, e))
        else: learn = None
        if bad: learn = None
    print(f'\n{len(tried)} calls of {name}') # what `-s` shows
    said = [f"{ {k:shown(v) for k,v in o[0]} }: {[f'{type(e).__name__}: {e}'[:160] if isinstance(e, Exception) else e for e in o[1:]]}" for o in bad]
    said = [f"{said[i]} at {[f'{Path(f.filename).name}:{f.lineno}' for f in traceback.extract_tb(o[-1].__traceback__)[-3:]]}" for i,o in enumerate(bad)]
    assert not bad, f'{len(bad)} of {len(tried)}:\n' + '\n'.join(said[:15])
