"Transfer: what is solved is the solution, what does not help is dropped, what does not fit is refused"
from helpers import * # all of the package, and what the tests share
import math,sys,types

import pandas as pd,pytest,torch
from fastai.optimizer import SGD
from torch import tensor
from helpers import domains,fit,frame,learner,loaders,rows,weights

def solved(df, path, k=4, n=8, **kw):
    learn = collab_learner(loaders(df, valid_pct=0, **kw), k, path=path)
    with learn.no_bar(),learn.no_logging(): return learn.solve(n)

def tune(learn, n=3):
    with learn.no_bar(),learn.no_logging(): learn.fine_tune(n)
    return learn

def start(source, target, path, **kw): return collab_learner(loaders(target), pretrained=source, path=path, **kw)

@pytest.fixture(scope='module')
def worlds(): return domains(120, 100, 4000)

@pytest.fixture(scope='module')
def src(worlds, tmp_path_factory): return solved(worlds[0], tmp_path_factory.mktemp('src'))

# ---- Fold-in

def row_alone(y_range, x, base, r, prior, m0):
    "A user's row by an optimizer, with nothing else to train"
    P,w = torch.linalg.inv(tensor(prior['sides'][0]['row_cov']).double()),m0.double().clone().requires_grad_()
    opt = torch.optim.LBFGS([w], max_iter=500, tolerance_grad=1e-10, tolerance_change=1e-14, line_search_fn='strong_wolfe')
    def loss():
        opt.zero_grad()
        z = x.double()@w + base.double()
        pred = z if y_range is None else y_range[0]+(y_range[1]-y_range[0])*torch.sigmoid(z)
        l = ((pred-r.double())**2).sum()/prior['noise'] + (w-m0.double())@P@(w-m0.double())
        l.backward()
        return l
    for _ in range(5): opt.step(loss)
    return w.detach().float()

@pytest.mark.parametrize('y_range', [None,(0.5,5.5)])
def test_fold_in_is_training_that_row_alone(worlds, tmp_path, y_range):
    from collab_ext.bayes import row_features
    learn = collab_learner(loaders(worlds[0], valid_pct=0), 4, path=tmp_path, y_range=y_range)
    with learn.no_bar(),learn.no_logging(): learn.solve(8)
    items = learn.vocab['item'][1:8]
    r = torch.tensor([5.,4,3,2,1,5,4])
    mean,vecs,bias = learn.model.mean.item(),learn.model.weight(items),learn.model.bias(items)
    learn.fold_in(pd.DataFrame(dict(user='new', item=items, rating=r.numpy())))
    p = solver_for(learn).known_prior()
    full = torch.cat([learn.model.i_weight.weight, learn.model.i_bias.weight], 1).detach()
    n = len(learn.vocab['user'])
    ids = torch.stack([torch.full((7,), n-1), tensor([learn.vocab['item'].index(o) for o in items])], 1)
    rm = RatingMatrix(ids, r, [n,len(full)])
    m0 = (row_features(rm, 0, full)[:,:len(p['sides'][0]['coefs'])]@tensor(p['sides'][0]['coefs']))[-1]
    alone = row_alone(y_range, torch.cat([vecs, torch.ones(7,1)], 1), mean+bias, r, p, m0)
    got = torch.cat([learn.model.weight(['new'], is_item=False), learn.model.bias(['new'], is_item=False)[:,None]], 1)[0]
    assert (got-alone).abs().max()<2e-3, (got,alone)

def test_fold_in_touches_nobody_else(src, worlds, tmp_path):
    learn = collab_learner(src.dls, pretrained=src, path=tmp_path)
    before = {k:v.detach().clone() for k,v in tables(learn.model).items()}
    known = learn.vocab['item'][1:4]
    info = learn.fold_in(pd.DataFrame(dict(user=['zoe']*3+['yan','xan'], item=[*known,known[0],'unheard of'], rating=[1.,5,2,3,3])))
    for k,v in tables(learn.model).items(): assert torch.equal(v[:len(before[k])], before[k])
    assert set(info.label)=={'zoe','yan','xan','unheard of'}
    assert (info.variance>0).all() and info.set_index('label').variance['zoe']<info.set_index('label').variance['yan']
    assert learn.predict(('zoe','unheard of'))[1].isfinite()

# ---- Before the first epoch

def test_users_and_items_that_the_source_lacks_are_solved_for(src, worlds, tmp_path):
    learn = start(src, worlds[1], tmp_path)
    frame = learn.report.to_frame()
    lacking = [o for o in learn.vocab['item'] if o not in src.vocab['item']]
    assert frame.solved['u_weight']==len(learn.vocab['user'])-1
    assert 0<frame.solved['i_weight']<=len(lacking) and (frame.filled+frame.solved==len(lacking))['i_weight']
    both = [o for o in learn.vocab['item'] if o in src.vocab['item'] and o!=NA]
    assert torch.equal(learn.model.weight(both), src.model.weight(both))
    assert len({tuple(o.tolist()) for o in learn.model.weight(lacking)})>len(lacking)//2

def test_a_user_without_ratings_is_an_unknown_user(src, worlds, tmp_path):
    vocab = {k:[NA,*sorted(set(worlds[1][k]))] for k in ('user','item')}
    vocab['user'].append(10**6)
    learn = collab_learner(loaders(worlds[1], valid_pct=0, vocab=vocab), pretrained=src, path=tmp_path)
    tune(learn)
    assert all(torch.isfinite(p).all() for p in learn.model.parameters())
    assert 1<learn.predict((10**6,vocab['item'][1]))[1]<5

def test_transfer_from_is_pretrained(src, worlds, tmp_path):
    a = start(src, worlds[1], tmp_path)
    b = collab_learner(loaders(worlds[1]), 4, path=tmp_path).transfer_from(src)
    for k,v in weights(a).items(): assert torch.equal(v, weights(b)[k]), k
    assert repr(a.report)==repr(b.report)

@pytest.mark.parametrize('scale', [lambda r: r/2, lambda r: 2*r, lambda r: 5*(r-3), lambda r: 20*r])
def test_another_scale_of_ratings(src, worlds, tmp_path, scale):
    "The error in units of the scale is the same, whatever the scale"
    plain,other = [start(src, worlds[1].assign(rating=f(worlds[1].rating)), tmp_path) for f in (lambda r: r, scale)]
    unit = (scale(5)-scale(1))/4
    assert abs(rating_rmse(other.model, other.dls.valid_ds)/unit - rating_rmse(plain.model, plain.dls.valid_ds))<.05

# ---- Not worse than from scratch

def broken_source(src, path):
    res = collab_learner(src.dls, pretrained=src, path=path)
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for t in ('i_weight','i_bias'):
            shuffled = torch.randperm(len(src.vocab['item']), generator=g)
            tables(res.model)[t].copy_(tables(src.model)[t][shuffled]*3)
    res.model.know(src.model.prior)
    return res

@pytest.mark.parametrize('valid', [0.,.2])
def test_a_source_that_misleads_is_dropped(src, worlds, tmp_path, valid):
    test = worlds[1].sample(frac=.2, random_state=1)
    train = worlds[1].drop(test.index)
    dls = loaders(train, valid_pct=valid)
    misled = tune(collab_learner(dls, pretrained=broken_source(src, tmp_path), path=tmp_path))
    assert misled.transfer.choice.way!='source' and 'kept: ' in repr(misled.report) and 'kept: the source' not in repr(misled.report)
    alone = collab_learner(dls, 4, path=tmp_path)
    with alone.no_bar(),alone.no_logging(): alone.solve()
    error = lambda l: rating_rmse(l.model, l.dls.train_ds.encode(test, 'mean'))
    assert error(misled)<error(alone)+.03

def test_a_good_source_is_kept_and_pays(src, worlds, tmp_path):
    test = worlds[1].sample(frac=.5, random_state=1)
    dls = loaders(worlds[1].drop(test.index), valid_pct=0)
    tuned,alone = tune(collab_learner(dls, pretrained=src, path=tmp_path)),collab_learner(dls, 4, path=tmp_path)
    with alone.no_bar(),alone.no_logging(): alone.solve()
    error = lambda l: rating_rmse(l.model, l.dls.train_ds.encode(test, 'mean'))
    assert tuned.transfer.choice.way=='source' and 'kept: the source' in repr(tuned.report)
    assert error(tuned)<error(alone)-.02

# ---- Pull

def test_pull_is_stronger_for_rows_with_more_ratings(worlds, tmp_path):
    "Without a gradient, a row that was moved away comes back, the faster the more ratings the source had"
    learn = learner(frame('abc','xyz'), tmp_path, pretrained=learner(frame('abc','xyz'), tmp_path), wd=0., opt_func=SGD)
    moved = {'i_weight':tensor([False,True,True,True])}
    cb = L2SP(moved, dict(i_weight=tensor([0,1,20,1000])), pull=1.)
    learn.create_opt()
    cb.learn = learn
    cb.before_fit()
    learn.opt.set_hyper('lr', .1)
    with torch.no_grad(): learn.model.i_weight.weight += 1
    was = learn.model.i_weight.weight.detach().clone()
    cb.after_step()
    back = (was-learn.model.i_weight.weight.detach()).mean(1)
    assert back[0]==0 and 0<back[1]<back[2]<back[3]
    assert torch.allclose(back[1:], .1*tensor([1/21,20/40,1000/1020]), atol=1e-6)

# ---- Growing

def test_grow_again_and_again(src, worlds, tmp_path):
    learn = collab_learner(src.dls, pretrained=src, path=tmp_path)
    for n in range(3):
        before,vocab = {t:rows(learn, t) for t in tables(learn.model)},{k:list(v) for k,v in learn.vocab.items()}
        before = {t:{o:r.clone() for o,r in d.items()} for t,d in before.items()}
        more = pd.DataFrame(dict(user=[10_000+n]*4, item=[*learn.vocab['item'][1:4],f'late {n}'], rating=[5.,4,3,1]))
        learn.grow(pd.concat([worlds[0],more]), valid_pct=0)
        for t,d in before.items():
            for o,r in d.items(): assert torch.equal(rows(learn, t)[o], r), (n,t,o)
        for k,v in vocab.items(): assert learn.vocab[k][:len(v)]==v and len(learn.vocab[k])==len(v)+1
        assert torch.isfinite(learn.predict((10_000+n, f'late {n}'))[1])
        fit(learn, lr=1e-3)

# ---- Sources that do not fit

bad = dict( # name → what makes the vectors, what the error says
    nan=(lambda: dict(item=(torch.full((2,4), math.nan), ['i1','i2'])), 'NaN'),
    twice=(lambda: dict(item=(torch.ones(2,4), ['i1','i1'])), 'more than one row for'),
    column=(lambda: dict(film=(torch.ones(2,4), ['i1','i2'])), "'film'"),
    width=(lambda: dict(item=(torch.ones(2,7), ['i1','i2'])), '7 factors'),
    short=(lambda: dict(item=(torch.ones(3,4), ['i1','i2'])), '3, 4'),
    none=(lambda: dict(item=(torch.ones(2,4), ['q1','q2'])), 'nothing to transfer'),
    types=(lambda: dict(user=(torch.ones(2,4), ['4','8'])), 'id_map'))

@pytest.mark.parametrize('name', bad)
def test_bad_vectors(worlds, tmp_path, name):
    make,said = bad[name]
    learn = collab_learner(loaders(worlds[1]), 4, path=tmp_path)
    before = weights(learn)
    with pytest.raises((ValueError,KeyError), match=said): learn.transfer_from(make())
    for k,v in weights(learn).items(): assert torch.equal(v, before[k])
    assert learn.report is None

def test_swapped_columns(src, worlds, tmp_path):
    turned = CollabDataLoaders.from_df(worlds[1], user_name='item', item_name='user', unknown='mean')
    with pytest.raises(ValueError, match='users come first'): collab_learner(turned, pretrained=src, path=tmp_path)

@pytest.mark.parametrize('k', [2,4,9])
def test_projected_vectors_keep_the_product(src, k):
    wgts = dict(src.model.state_dict())
    new = project_wgts(wgts, k)
    u,i = [wgts[f'{o}_weight.weight'].double() for o in 'ui']
    best = torch.linalg.svdvals(u@i.T)[k:].pow(2).sum().sqrt() if k<4 else 0.
    got = torch.linalg.matrix_norm(u@i.T - new['u_weight.weight'].double()@new['i_weight.weight'].double().T)
    assert new['i_weight.weight'].shape[1]==k and abs(got-best)<1e-3*(1+best)

# ---- The hub

@pytest.fixture
def hub(tmp_path, monkeypatch):
    "A hub in a folder"
    errors = pytest.importorskip('huggingface_hub.errors')
    import huggingface_hub,shutil
    store = tmp_path/'hub'
    class Api:
        def __init__(self, token=None): pass
        def create_repo(self, repo_id, exist_ok=False, **kw): (store/repo_id).mkdir(parents=True, exist_ok=exist_ok)
        def create_commit(self, repo_id, operations, commit_message, repo_type=None):
            for o in operations: shutil.copy(o.path_or_fileobj, store/repo_id/o.path_in_repo)
            return f'https://hub.example/{repo_id}'
    def snapshot_download(repo_id, revision=None, allow_patterns=None, **kw):
        if not (store/repo_id).is_dir(): raise errors.LocalEntryNotFoundError(f'there is no {repo_id}')
        return str(store/repo_id)
    monkeypatch.setattr(huggingface_hub, 'HfApi', Api)
    monkeypatch.setattr(huggingface_hub, 'snapshot_download', snapshot_download)
    return store

def test_there_and_back_by_the_hub(src, worlds, hub, tmp_path):
    src.path = tmp_path
    src.save('films')
    src.save('other')
    assert 'me/films' in push_to_hub(tmp_path/'models/films', 'me/films')
    assert sorted(o.name for o in (hub/'me/films').iterdir())==['films.pth','films_vocab.pkl']
    a,b = [start(o, worlds[1], tmp_path) for o in ('hf://me/films','films')]
    for k,v in weights(a).items(): assert torch.equal(v, weights(b)[k])
    with pytest.raises(FileNotFoundError, match='me/filmz'): start('hf://me/filmz', worlds[1], tmp_path)
    with pytest.raises(FileNotFoundError): push_to_hub(tmp_path/'models/filmz', 'me/filmz')
    assert not (hub/'me/filmz').exists()

def test_without_the_hubs_package(worlds, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'huggingface_hub', types.ModuleType('huggingface_hub'))
    monkeypatch.setattr('collab_ext.sources.find_spec', lambda _: None)
    with pytest.raises(ImportError, match=r'pip install collab_ext\[hub\]'): start('hf://me/films', worlds[1], tmp_path)

# ---- The report

def test_report(src, worlds, tmp_path):
    learn = start(src, worlds[1], tmp_path)
    f = learn.report.to_frame()
    assert (f.matched+f.filled+f.solved==[len(list(learn.vocab.values())[side(t)])-1 for t in f.index]).all()
    assert f.ratings['i_weight']>0 and f.labels['i_weight']==f.matched['i_weight']/(len(learn.vocab['item'])-1)
    said = repr(learn.report)
    assert 'Validation RMSE before training' in said and 'Largest unmatched item' in said
    assert len(learn.report.plot().patches)==len(f)*(f[["matched","solved","filled"]].any().sum())

def test_export_without_a_validation_set(src, tmp_path):
    src.path = tmp_path
    src.export('all.pkl')
    assert (tmp_path/'all.pkl').stat().st_size>0

def test_ratings_that_are_all_alike(src, worlds, tmp_path):
    same = start(src, worlds[1].assign(rating=4.), tmp_path)
    assert all(torch.isfinite(p).all() for p in tune(same).model.parameters())

# ---- What newcomers tried

def test_vectors_say_for_themselves_whose_they_are(worlds, tmp_path):
    dls = loaders(worlds[1])
    items = dls.vocab['item'][1:]
    vecs = torch.randn(len(items), 4)
    for o in (pd.DataFrame(vecs.numpy(), index=items), (vecs.numpy(), items), dict(item=(vecs, items))):
        learn = collab_learner(dls, 4, pretrained=o, path=tmp_path)
        assert torch.allclose(learn.model.weight(items), vecs)
    others = vecs.numpy(),[f'q{o}' for o in items]
    with pytest.raises(ValueError, match='in none of the columns'): collab_learner(dls, 4, pretrained=others, path=tmp_path)

@pytest.mark.parametrize('what', [123, (None,None), [], '', ({},['a']), ('a','b','c')])
def test_no_source_at_all(worlds, tmp_path, what):
    with pytest.raises((ValueError,FileNotFoundError), match='Cannot transfer from|columns|empty list'): start(what, worlds[1], tmp_path)

def test_a_language_model_is_a_source(tmp_path):
    import pickle
    df = frame(['the','cat','sat'],['pos','neg'])
    torch.save({'0.encoder.weight':torch.arange(8.).reshape(4,2), '1.decoder.bias':torch.zeros(4)}, tmp_path/'lm.pth')
    (tmp_path/'lm_vocab.pkl').write_bytes(pickle.dumps(['xxunk','sat','cat','dog']))
    learn = collab_learner(loaders(df, valid_pct=0), pretrained=(tmp_path/'lm.pth',tmp_path/'lm_vocab.pkl'), path=tmp_path)
    assert torch.equal(learn.model.weight(['cat','sat'], is_item=False), tensor([[4.,5],[2,3]]))

@pytest.mark.parametrize('y_range', [None,(0,10)])
def test_load_under_another_sigmoid(worlds, tmp_path, y_range):
    fit(collab_learner(loaders(worlds[0]), 4, y_range=(1,5), path=tmp_path)).save('m')
    other = collab_learner(loaders(worlds[0]), 4, y_range=y_range, path=tmp_path)
    before = weights(other)
    with pytest.raises(ValueError, match=r'y_range=\(1.0, 5.0\)'): other.load('m')
    for k,v in weights(other).items(): assert torch.equal(v, before[k])

@pytest.mark.parametrize('way', ['fold_in','grow'])
def test_new_ratings_outside_the_range(worlds, tmp_path, way):
    learn = collab_learner(loaders(worlds[0]), 4, y_range=(1,5), path=tmp_path)
    df = pd.DataFrame(dict(user=['new'], item=[learn.vocab['item'][1]], rating=[9.]))
    with pytest.raises(ValueError, match='outside `y_range'): getattr(learn, way)(df)

def test_solve_says_that_it_begins_anew(worlds, tmp_path):
    learn = fit(collab_learner(loaders(worlds[0]), 4, path=tmp_path))
    with pytest.warns(UserWarning, match='begins from scratch'), learn.no_bar(), learn.no_logging(): learn.solve(1)
