"The fifteen promises of the design, each held against the library"
from helpers import * # all of the package, and what the tests share
import copy,inspect,math,pickletools,subprocess,sys,warnings

import collab_ext,fastai.collab
import pandas as pd,pytest,torch
from torch import nn
from fastai.callback.all import EarlyStoppingCallback,SaveModelCallback
from fastai.data.transforms import IndexSplitter
from fastai.learner import Learner,load_learner
from fastai.optimizer import Adam,SGD
from fastcore.all import L,partial
from pathlib import Path
from helpers import code,fit,frame,labels_of,learner,loaders,name_rows,rows,same,weights,wrong_rows

def named(users, items, path, **kwargs):
    "A fitted learner, so that it has an optimizer's state, whose rows carry the code of their label"
    return name_rows(fit(learner(frame(users, items), path, **kwargs)))

def plain_state(learn, k='sqr_avg'):
    "Table name → label → optimizer state"
    return {t:dict(zip(labels_of(learn, t), learn.opt.state[p][k])) for t,p in tables(learn.model).items()}

def mark_state(learn):
    "Write the code of the label into the optimizer's state"
    for t,p in tables(learn.model).items():
        s = learn.opt.state[p]
        for k in ('grad_avg','sqr_avg'): s[k] = torch.tensor([code(o) for o in labels_of(learn, t)])[:,None].expand_as(p).clone()
    return learn

@pytest.fixture
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        yield

# 1
@pytest.mark.parametrize('with_opt', [False,True])
def test_promise_01_reads_own_files(learn, source, tmp_path, use_nn, with_opt, quiet):
    new = partial(learner, loaders(source), tmp_path, use_nn=use_nn)
    learn = fit(new())
    learn.save('m', with_opt=with_opt)
    other = new().load('m')
    assert same(weights(other), weights(learn))
    if not with_opt: assert not any('sqr_avg' in s for s in other.opt.state.values())
    else:
        for t in tables(learn.model):
            pairs = zip(plain_state(learn)[t].values(), plain_state(other)[t].values())
            assert all(torch.equal(a,b) for a,b in pairs)
    fit(other.load('m'))

def test_promise_01_untrained(tmp_path, quiet):
    learn = name_rows(learner(frame('ab','xy'), tmp_path))
    learn.save('m')
    assert not wrong_rows(learner(frame('ab','xy'), tmp_path).load('m'))

def test_promise_01_optimizers(tmp_path, quiet):
    for opt in (SGD, partial(SGD, mom=.9), partial(Adam, sqr_mom=.999), Adam):
        learn = fit(learner(frame('ab','xy'), tmp_path, opt_func=opt))
        learn.save('m')
        fit(learner(frame('ab','xy'), tmp_path, opt_func=opt).load('m'))

def test_promise_01_export(learn, source, tmp_path, use_nn):
    learn = fit(learner(loaders(source), tmp_path, use_nn=use_nn))
    row = source.iloc[0][['user','item']].to_dict()
    want = learn.predict(row)[1]
    learn.export('l.pkl')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        back = load_learner(tmp_path/'l.pkl')
    assert back.vocab==learn.vocab and torch.allclose(back.predict(row)[1], want)
    assert list(back.predict(row)[0].index)==['user','item','rating']

def test_promise_01_exported_learner_is_a_source(learn, target, tmp_path):
    learn.export('l.pkl')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        back = load_learner(tmp_path/'l.pkl')
    assert learner(loaders(target), tmp_path, pretrained=back).report.coverage>.5

def test_promise_01_callbacks(source, tmp_path):
    learn = learner(loaders(source), tmp_path)
    fit(learn, 4, cbs=[SaveModelCallback(fname='best'), EarlyStoppingCallback(patience=2)])
    assert sorted(o.name for o in (tmp_path/'models').glob('best*'))==['best.pth','best_vocab.pkl']
    assert same(weights(learner(loaders(source), tmp_path).load('best')), weights(learn))

def test_promise_01_callbacks_each_epoch(source, tmp_path):
    learn = learner(loaders(source), tmp_path)
    fit(learn, 3, cbs=SaveModelCallback(fname='e', every_epoch=True, with_opt=True))
    assert {o.name for o in (tmp_path/'models').glob('e*.pth')}=={'e_0.pth','e_1.pth','e_2.pth'}
    assert same(weights(learn.load('e_2')), weights(learner(loaders(source), tmp_path).load('e_2')))

def test_promise_01_early_stopping(source, tmp_path):
    learn = learner(loaders(source), tmp_path)
    fit(learn, 20, lr=0., cbs=EarlyStoppingCallback(patience=2))
    assert len(learn.recorder.values)<6

@pytest.fixture
def ml_sample():
    rows = [(u, i, (u*i)%10/2+.5, 10**9+u+i) for u in (73,561,157,358,130,1) for i in (1097,2761,3793,919,1,2,47,50,110,150)]
    return pd.DataFrame(rows, columns=['userId','movieId','rating','timestamp'])

@pytest.mark.parametrize('cls', [fastai.collab.CollabDataLoaders, CollabDataLoaders])
def test_promise_01_snippet(ml_sample, cls, tmp_path):
    dls = cls.from_df(ml_sample, bs=16, seed=1)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        learn = collab_learner(dls, y_range=(0,5), path=tmp_path)
        fit(learn)
        learn.save('tmp')
        assert (tmp_path/'models/tmp.pth').exists() and (tmp_path/'models/tmp_vocab.pkl').exists()
        assert list(learn.vocab)==['userId','movieId']
        learn.load('tmp')
        fit(learn)
        for o in (True, 'tmp', learn): assert collab_learner(dls, path=tmp_path, pretrained=o).report.coverage==1
        row,pred,_ = learn.predict(dict(userId=73, movieId=1097))
        assert 0<pred<5 and row['rating']==pytest.approx(pred.item())

@pytest.mark.parametrize('strings', [False,True])
def test_promise_01_fastai_dataloaders(ml_sample, tmp_path, use_nn, strings):
    "fastai's own loaders in, a second learner with ours out"
    if strings: ml_sample = ml_sample.astype(dict(userId=str, movieId=str))
    dls = fastai.collab.CollabDataLoaders.from_df(ml_sample, bs=16, seed=1)
    learn = fit(learner(dls, tmp_path, use_nn=use_nn, y_range=(0,5)))
    name_rows(learn).save('m')
    other = learner(ml_sample, tmp_path, use_nn=use_nn, y_range=(0,5)).load('m')
    assert not wrong_rows(other, but=set().union(*other.vocab.values())-set().union(*learn.vocab.values()))
    preds,targs = learn.get_preds()
    assert preds.numel()==targs.numel()>0

# 2
@pytest.mark.parametrize('names', [('user','item'),('userId','title'),('token','label'),('label','token'),(0,1),('ü',' ')])
def test_promise_02_any_names(tmp_path, names):
    df = frame('ab','xyz').rename(columns=dict(user=names[0], item=names[1]))
    learn = name_rows(learner(df, tmp_path))
    assert list(learn.vocab)==list(names) and tables(learn.model)['i_weight'].shape[0]==4
    learn.save('m')
    other = learner(frame('cb','zyw'), tmp_path, pretrained='m')
    assert wrong_rows(other, but=('c','w'))==[]
    m = match_embeds(weights(learn), learn.vocab, dict(A=['b'], B=['z']))
    assert list(m.wgts['u_weight.weight'][0])==[pytest.approx(code('b'))]*3 and m.users_missing==m.items_missing==0

def test_promise_02_by_name(tmp_path):
    learn = named('ab','xyz',tmp_path)
    new = dict(item=['z','x'], user=['b'], other=[1])
    wgts = match_embeds(weights(learn), learn.vocab, new, user='user', item='item').wgts
    assert [len(v) for v in tables(wgts).values()]==[1,2,1,2]
    with pytest.raises(ValueError, match='users come first'): match_embeds(weights(learn), learn.vocab, dict(item=['z'], user=['b']))
    with pytest.raises(KeyError, match="'x'.*'item', 'user', 'other'"): match_embeds(weights(learn), learn.vocab, new, user='x')

# 3
def test_promise_03_all_tables_move(tmp_path, use_nn):
    learn = named('abc','wxy',tmp_path, use_nn=use_nn)
    new = learner(frame('cad','yz'), tmp_path, use_nn=use_nn, pretrained=learn, fill='zeros')
    assert set(tables(new.model))==set(tables(learn.model)) and len(tables(new.model))==(2 if use_nn else 4)
    assert not wrong_rows(new, but=('d','z'))
    for t in tables(new.model):
        for o in 'dz':
            if o in rows(new,t): assert (rows(new,t)[o]==0).all()

def moved(learn, wgts, vocab, **kwargs):
    "Move rows of `wgts` into a learner's model"
    transfer,new = plan_transfer(learn.model, learn.vocab, Pair(wgts, None, vocab, {}, None), **kwargs)
    load_pretrained_keys(learn.model, new)
    return transfer

@pytest.mark.parametrize('have', [('u_weight','u_bias'),('i_weight','i_bias'),('i_weight',),('u_bias','i_weight')])
def test_promise_03_what_lacks_stays(tmp_path, have):
    learn,new = named('ab','xy',tmp_path),learner(frame('ba','yx'), tmp_path)
    wgts = {layouts['dot'][t]:tables(learn.model)[t].detach() for t in have}
    before = {k:v.detach().clone() for k,v in tables(new.model).items()}
    rep = moved(new, wgts, learn.vocab).report
    assert list(rep.to_frame().index)==[t for t in table_names if t in have]
    for t,v in tables(new.model).items(): assert torch.equal(v, before[t])==(t not in have)
    assert not [o for o in wrong_rows(new) if o[0] in have]

@pytest.mark.parametrize('way', ['pretrained','load','load_vocab'])
def test_promise_03_no_match_is_an_error(tmp_path, way):
    named('ab','xy',tmp_path).save('m')
    new = learner(frame('cd','zw'), tmp_path)
    before = weights(new)
    make = partial(learner, frame('cd','zw'), tmp_path, pretrained='m')
    ways = dict(pretrained=make, load=lambda: new.load('m'), load_vocab=lambda: new.load_vocab('m','m_vocab'))
    with pytest.raises(ValueError, match='nothing to transfer.*c.*here'): ways[way]()
    assert same(weights(new), before) and new.report is None

def test_promise_03_no_common_table(tmp_path):
    learn = learner(frame('ab','xy'), tmp_path)
    net = learner(frame('ab','xy'), tmp_path, use_nn=True).model
    with pytest.raises(ValueError, match='nothing to copy'): load_pretrained_keys(net, {'u_bias.weight':torch.zeros(3,1)})
    with pytest.raises(ValueError, match='No user or item table'): load_pretrained_keys(learn.model, {'lin.weight':torch.zeros(3,1)})

def test_promise_03_missing_and_unexpected(tmp_path):
    learn = learner(frame('ab','xy'), tmp_path)
    wgts = dict({k:v for k,v in weights(learn).items() if k!='u_bias.weight'}, extra=torch.zeros(1))
    missing,unexpected = load_pretrained_keys(learn.model, wgts)
    assert missing==['u_bias.weight'] and unexpected==['extra']

def test_promise_03_dot_and_nn_mix(tmp_path):
    "The vectors of one kind of model start another kind"
    for src,dst in ((False,True),(True,False)):
        learn = named('ab','xy',tmp_path, use_nn=src, **(dict(emb_szs=[3,3]) if src else {}))
        new = learner(frame('ba','yx'), tmp_path, use_nn=dst, pretrained=learn)
        assert not [o for o in wrong_rows(new) if o[0].endswith('weight')] and list(new.report.to_frame().index)==['u_weight','i_weight']

# 4
def test_promise_04_types_are_said(tmp_path):
    learn = named(['1','2','3'],'xy',tmp_path)
    df = frame([3,2,1],'yx')
    with pytest.warns(UserWarning, match="3 user differ.*only by type.*1 and '1'.*id_map={'user': str}"):
        new = learner(df, tmp_path, pretrained=learn)
    assert "id_map={'user': str}" in repr(new.report)
    new = learner(df, tmp_path, pretrained=learn, id_map=dict(user=str))
    for t in ('u_weight','u_bias'): assert all(torch.allclose(rows(new,t)[i], torch.tensor(code(str(i)))) for i in (1,2,3))

def test_promise_04_nothing_but_types(tmp_path):
    learn = named(['1','2'],['7'],tmp_path)
    with pytest.raises(ValueError, match="user: 1 here is '1' there.*id_map"): learner(frame([1,2],[7]), tmp_path, pretrained=learn)

def test_promise_04_id_map(tmp_path):
    learn = named('ab','xy',tmp_path)
    names = dict(p='y', q='x')
    for m in (names, pd.Series(names), names.get):
        new = learner(frame('ab','pqr'), tmp_path, pretrained=learn, id_map=dict(item=m), fill='zeros')
        want = dict(p=code('y'), q=code('x'), r=0.)
        assert all(torch.allclose(rows(new,t)[k], torch.tensor(v)) for t in ('i_weight','i_bias') for k,v in want.items())
    with pytest.raises(KeyError, match="'film'.*'user', 'item'"):
        learner(frame('ab','pqr'), tmp_path, pretrained=learn, id_map=dict(film=names))

# 5
def test_promise_05_na_is_not_missing(tmp_path):
    learn = named('ab','xy',tmp_path)
    for n in (0,1): # a source with `#na#`, and one without
        old = {k:v[n:] for k,v in learn.vocab.items()}
        wgts = {k:v[n:] if v.ndim else v for k,v in weights(learn).items()}
        assert match_embeds(wgts, old, learn.vocab)[1:]==(0,0)
        assert match_embeds(wgts, old, dict(user=[NA,'a','c'], item=[NA,'q','r','x']))[1:]==(1,2)
    assert learner(frame('ab','xy'), tmp_path, pretrained=learn).report.to_frame().filled.sum()==0

def test_promise_05_mean_leaves_out_na():
    wgts = {'u_weight.weight':torch.tensor([[100.],[1.],[3.]]), 'i_weight.weight':torch.tensor([[100.],[5.]])}
    new,miss,_ = match_embeds(wgts, dict(u=[NA,1,2], i=[NA,'x']), dict(u=[NA,2,9], i=[NA,'x']))
    assert new['u_weight.weight'].flatten().tolist()==[100,3,2] and miss==1
    new = match_embeds({k:v[1:] for k,v in wgts.items()}, dict(u=[1,2], i=['x']), dict(u=[2,9], i=['x'])).wgts
    assert new['u_weight.weight'].flatten().tolist()==[3,2]

def test_promise_05_says_which_rows(tmp_path):
    new = learner(frame('bcd','xz'), tmp_path, pretrained=named('ab','xy',tmp_path))
    rep = new.report.to_frame()
    assert rep['filled with'].tolist()==['mean of 2 rows']*4 and rep.filled.tolist()==[2,1,2,1]

@pytest.mark.parametrize('fill,want',
    [('mean',lambda k: k.mean(0)), ('zeros',lambda k: k[0]*0), (lambda known,n: known.amax(0).expand(n,-1), lambda k: k.amax(0))])
def test_promise_05_fills(tmp_path, fill, want):
    learn = named('abcd','xyz',tmp_path)
    new = learner(frame('aefg','xq'), tmp_path, pretrained=learn, fill=fill)
    for t,p in tables(learn.model).items():
        for o in 'efgq':
            if o in rows(new,t): assert torch.allclose(rows(new,t)[o], want(p.data[1:]))

def test_promise_05_fresh_keeps_own(tmp_path):
    learn,new = named('ab','xy',tmp_path),learner(frame('bc','yz'), tmp_path)
    before = {t:rows(new,t) for t in tables(new.model)}
    before = {t:{k:v.clone() for k,v in d.items()} for t,d in before.items()}
    moved(new, weights(learn), learn.vocab, fill='fresh')
    assert not wrong_rows(new, but='cz')
    assert all(torch.equal(rows(new,t)[o], before[t][o]) for t in before for o in 'cz' if o in before[t])

def test_promise_05_normal_has_the_source_spread():
    wgts = {'u_weight.weight':torch.cat([torch.full((1,2),99.), torch.randn(500,2)*2+3]), 'i_weight.weight':torch.zeros(2,2)}
    old_vocab = dict(u=[NA,*range(500)], i=[NA,'x'])
    new_vocab = dict(u=[NA,*range(499,3000)], i=[NA,'x'])
    new = match_embeds(wgts, old_vocab, new_vocab, fill='normal').wgts['u_weight.weight'][2:]
    assert abs(new.mean()-3)<.2 and abs(new.std()-2)<.2

def test_promise_05_unknown_fill(tmp_path):
    with pytest.raises(ValueError, match="one of.*'mean'.*'avg'"):
        learner(frame('ac','x'), tmp_path, pretrained=named('ab','xy',tmp_path), fill='avg')

@pytest.mark.parametrize('users,items', [('a','x'),('ab','xy'),('abc','x')])
def test_promise_05_smallest_sources(tmp_path, users, items):
    "The default fill copes with a source of a few rows, or of rows that are all alike"
    learn = named(users, items, tmp_path)
    for w in (None,0.,1.):
        if w is not None:
            for p in tables(learn.model).values(): p.data.fill_(w)
        new = learner(frame(users+'q', items+'r'), tmp_path, pretrained=learn, fill=None)
        assert all(torch.isfinite(p).all() for p in new.model.parameters())

# 6
def broken(wgts):
    "Weights that do not fit, one table each"
    for k in ('u_weight.weight','i_weight.weight','u_bias.weight','i_bias.weight'):
        yield {**wgts, k:wgts[k][:-1]}, 'rows'
        yield {**wgts, k:torch.cat([wgts[k]]*2)}, 'rows'
        yield {**wgts, k:wgts[k]*math.nan}, 'NaN'
    for k in ('u_weight.weight','i_weight.weight'): yield {**wgts, k:torch.zeros(len(wgts[k]),7)}, '7 factors'
    for k in ('u_bias.weight','i_bias.weight'): yield {**wgts, k:torch.zeros(len(wgts[k]),2)}, '.'

def test_promise_06_all_or_nothing(tmp_path):
    learn,new = named('ab','xy',tmp_path),learner(frame('bac','zyx'), tmp_path)
    before = weights(new)
    for wgts,msg in broken(weights(learn)):
        with pytest.raises(ValueError, match=msg): moved(new, wgts, learn.vocab)
        assert same(weights(new), before)

def test_promise_06_load_pretrained_keys(tmp_path):
    learn = learner(frame('ab','xy'), tmp_path)
    before = weights(learn)
    for wgts,msg in broken({k:v+1 for k,v in before.items()}):
        if msg=='NaN': continue
        with pytest.raises(ValueError, match=msg): load_pretrained_keys(learn.model, wgts)
        assert same(weights(learn), before)

@pytest.mark.parametrize('users', ['ab','bac'])
def test_promise_06_load(tmp_path, users):
    "Same vocabulary and another one"
    learn,new = named('ab','xy',tmp_path),learner(frame(users,'xy'), tmp_path)
    before = weights(new)
    (tmp_path/'models').mkdir(exist_ok=True)
    for wgts,msg in broken(weights(learn)):
        torch.save(wgts, tmp_path/'models'/'m.pth') # `save_pair` would refuse them
        save_pickle(tmp_path/'models'/'m_vocab.pkl', {k:list(v) for k,v in learn.vocab.items()})
        with pytest.raises(ValueError): new.load('m')
        assert same(weights(new), before) and new.report is None

@pytest.mark.parametrize('n', [2,4])
def test_promise_06_width_says_both(tmp_path, n):
    learn = named('ab','xy',tmp_path)
    learn.save('m')
    for users in ('ab','abc'):
        with pytest.raises(ValueError, match=r'3.*n_factors=3') as e: learner(frame(users,'xy'), tmp_path, n_factors=n).load('m')
        assert str(n) in str(e.value)
    with pytest.raises(ValueError, match=r'3 factors.*n_factors=3'): learner(frame('ab','xy'), tmp_path, n_factors=n, pretrained='m')

@pytest.mark.parametrize('users', ['ab','abc'])
def test_promise_06_width_of_a_net(tmp_path, users):
    "Which has no `n_factors`"
    named('ab','xy',tmp_path, use_nn=True, emb_szs=[3,3]).save('m')
    with pytest.raises(ValueError, match='emb_szs'): learner(frame(users,'xy'), tmp_path, use_nn=True, emb_szs=[5,5]).load('m')

def test_promise_06_factors_follow_source(tmp_path, use_nn):
    learn = named('ab','xy',tmp_path, n_factors=7, use_nn=use_nn)
    dls = loaders(frame('ab','xyz'))
    new = collab_learner(dls, path=tmp_path, pretrained=learn, use_nn=use_nn)
    assert [v.shape[1] for v in tables(new.model).values()]==[v.shape[1] for v in tables(learn.model).values()]
    assert collab_learner(dls, path=tmp_path).model.u_weight.weight.shape[1]==50

def test_promise_06_optimizer_survives_failed_load(tmp_path):
    learn = mark_state(named('ab','xy',tmp_path))
    save_pair(tmp_path/'models'/'m', {k:v[:,:1] if v.ndim>1 else v for k,v in weights(learn).items()}, learn.vocab)
    with pytest.raises(ValueError): learn.load('m')
    assert all(torch.allclose(v, torch.tensor(code(o))) for d in plain_state(learn).values() for o,v in d.items())

# 7
def test_promise_07_report(tmp_path):
    new = learner(frame('abx','12345'), tmp_path, pretrained=named('abc','1278',tmp_path))
    df = new.report.to_frame()
    assert list(df.index)==list(table_names)
    assert df.matched.tolist()==[2,2,2,2] and df.filled.tolist()==[1,3,1,3] and df.unused.tolist()==[1,2,1,2] and df.solved.tolist()==[0]*4
    assert df.labels.tolist()==pytest.approx([2/3,2/5]*2) and df.ratings.tolist()==pytest.approx([2/3,2/5]*2)
    assert 'u_weight' in repr(new.report) and '66.7%' in repr(new.report)

def test_promise_07_report_of_load(tmp_path):
    named('abc','12',tmp_path).save('m')
    new = learner(frame('abd','12'), tmp_path)
    assert new.report is None
    assert new.load('m').report.to_frame().matched.tolist()==[2,2,2,2]
    assert learner(frame('abd','12'), tmp_path).load_vocab('m','m_vocab').report.to_frame().filled.tolist()==[1,0,1,0]

def test_promise_07_low_coverage_warns(tmp_path):
    learn = named('ab','xy',tmp_path)
    with pytest.warns(UserWarning, match='only 10.0%'): learner(frame('acdefghijk','123456789'), tmp_path, pretrained=learn)

def test_promise_07_good_coverage_is_silent(tmp_path, quiet): learner(frame('ab','xyz'), tmp_path, pretrained=named('ab','xy',tmp_path))

def test_promise_07_most_rated_first(tmp_path):
    df = pd.concat([frame('ab','x')] + [frame('ab',o) for o in 'qqqrrs'], ignore_index=True)
    assert learner(df, tmp_path, pretrained=named('ab','xy',tmp_path)).transfer.matches.unmatched(1)==['q','r','s']

def test_promise_07_old_report_goes(tmp_path):
    "A report speaks of the weights that are there now"
    old = named('abc','12',tmp_path)
    old.save('other')
    new = learner(frame('abd','12'), tmp_path, pretrained=old)
    new.save('same')
    new.load('other')
    assert new.report.to_frame().matched.tolist()==[2,2,2,2]

# 8
def test_promise_08_never_permuted(tmp_path, use_nn, quiet):
    "Vocabularies of the same size"
    for users,items in (('bca','xyz'),('abc','zxy'),('bcd','yzw')):
        named('abc','xyz',tmp_path, use_nn=use_nn).save('m')
        new = learner(frame(users,items), tmp_path, use_nn=use_nn)
        new.dls.train_ds.vocab = Vocab(dict(user=[NA,*users], item=[NA,*items])) # in the order given
        assert not wrong_rows(new.load('m'), but='dw')

def test_promise_08_other_order_of_columns(tmp_path):
    named('ab','ba',tmp_path).save('m')
    new = learner(frame('ab','ba')[['item','user','rating']], tmp_path)
    with pytest.raises(ValueError, match='users'): new.load('m')

def test_promise_08_equal_loads_plainly(tmp_path, quiet):
    learn = named('ab','xy',tmp_path)
    learn.save('m')
    new = learner(frame('ab','xy'), tmp_path).load('m', strict_vocab=True)
    assert new.report is None and same(weights(new), weights(learn))

@pytest.mark.parametrize('df', [frame('ba','xy'), frame('abc','xy'), frame('ac','xy'), frame('a','xy')])
def test_promise_08_strict(tmp_path, df):
    named('ab','xy',tmp_path).save('m')
    new = learner(df, tmp_path)
    if new.vocab['user']==[NA,'a','b']: new.dls.train_ds.vocab = Vocab(dict(new.vocab, user=[NA,'b','a']))
    before = weights(new)
    with pytest.raises(ValueError, match='another vocabulary'): new.load('m', strict_vocab=True)
    assert same(weights(new), before)

def test_promise_08_equal_but_types(tmp_path):
    named(['1','2'],'xy',tmp_path).save('m')
    new = learner(frame([1,2],'xy'), tmp_path)
    with pytest.raises(ValueError, match='another vocabulary'): new.load('m', strict_vocab=True)
    with pytest.warns(UserWarning, match='only by type'): new.load('m')

def test_promise_08_rest_of_the_model(tmp_path):
    "What has no rows moves too: the layers of a neural net"
    learn = named('abc','xyz',tmp_path, use_nn=True)
    learn.save('m')
    new = learner(frame('bcd','xyw'), tmp_path, use_nn=True).load('m')
    for k,v in weights(learn).items():
        if 'embeds' not in k: assert torch.equal(new.model.state_dict()[k], v)

def test_promise_08_predictions_move(tmp_path, use_nn):
    learn = fit(learner(frame('abcd','wxyz'), tmp_path, use_nn=use_nn), 3)
    learn.save('m')
    new = learner(frame('dcbe','zyv'), tmp_path, use_nn=use_nn).load('m')
    pairs = frame('bcd','yz')[['user','item']]
    a,b = [o.get_preds(dl=o.test_dl(pairs))[0] for o in (learn,new)]
    assert torch.allclose(a, b, atol=1e-5)

@pytest.mark.parametrize('users', ['abcd','dabce'])
def test_promise_08_what_was_before_is_forgotten(tmp_path, users):
    "Training in closed form goes on from what was loaded; only a load that moves rows replaces the report"
    learn = fit(learner(frame('abcd','wxyz'), tmp_path), 3)
    learn.save('m')
    used = learner(frame(users,'wxyz'), tmp_path, pretrained=fit(learner(frame('ab','wx'), tmp_path)), fill=None)
    fresh = learner(frame(users,'wxyz'), tmp_path)
    assert used.report is not None
    for o in (used,fresh):
        o.load('m')
        with o.no_bar(),o.no_logging(): o.solve(1)
    assert used.report is not None and (fresh.report is None)==(users=='abcd')
    known = [c for c in users if c!='e']
    a,b = [torch.stack([rows(o,'u_weight')[c] for c in known]) for o in (used,fresh)]
    assert torch.allclose(a, b, atol=1e-4)

# 9: see test_files.py
def test_promise_09_pair_or_nothing(tmp_path, monkeypatch):
    learn = named('ab','xy',tmp_path)
    monkeypatch.setattr('collab_ext.files.pickle.dump', lambda *args: 1/0)
    with pytest.raises(ZeroDivisionError): learn.save('m')
    assert {o.suffix for o in (tmp_path/'models').iterdir()}<={'.lock'}

def test_promise_09_partners(tmp_path):
    a,b = named('ab','xy',tmp_path),named('ba','xy',tmp_path)
    name_rows(a).save('a')
    a.model.u_bias.weight.data += 1
    a.save('b')
    (tmp_path/'models'/'b.pth').rename(tmp_path/'models'/'a.pth')
    with pytest.raises(ValueError, match='do not belong together'): b.load('a')

def test_promise_09_rank(tmp_path, monkeypatch):
    monkeypatch.setenv('RANK', '2')
    named('ab','xy',tmp_path).save('m')
    assert not (tmp_path/'models').exists()

# 10: see test_vocab.py and test_files.py
def test_promise_10_plain_data(tmp_path):
    "What is written needs no library to be read"
    learn = named('ab',[1,2],tmp_path)
    learn.save('m')
    ops = [o.name for o,*_ in pickletools.genops((tmp_path/'models'/'m_vocab.pkl').read_bytes())]
    assert not {'GLOBAL','STACK_GLOBAL','REDUCE','NEWOBJ','BUILD'} & set(ops)
    assert same(dict(read_weights(tmp_path/'models'/'m.pth')[0]), weights(learn))

# 11
@pytest.mark.parametrize('kind', [str, Path])
@pytest.mark.parametrize('name', ['m','m.v1','m.pth','sub/m','a b','ü'])
def test_promise_11_str_or_path(tmp_path, kind, name, quiet):
    learn = named('ab','xy',tmp_path)
    file = kind(name)
    res = learn.save(file)
    assert res==pair_paths(tmp_path/'models'/name)[0] and res.is_file()
    assert same(weights(learner(frame('ab','xy'), tmp_path).load(file)), weights(learn))
    for o in (file, kind(tmp_path/'models'/name)): assert learner(frame('ab','xy'), tmp_path, pretrained=o).report.coverage==1

def test_promise_11_absolute(tmp_path):
    learn = named('ab','xy',tmp_path)
    learn.save(tmp_path/'elsewhere'/'m')
    assert sorted(o.name for o in (tmp_path/'elsewhere').glob('m*'))==['m.pth','m_vocab.pkl'] and not (tmp_path/'models').exists()
    learn.load(str(tmp_path/'elsewhere'/'m'))

@pytest.mark.parametrize('file', [3, None, b'm'])
def test_promise_11_not_a_name(tmp_path, file):
    learn = named('ab','xy',tmp_path)
    for f in (learn.save, learn.load):
        with pytest.raises(ValueError, match='name or a path'): f(file)

def test_promise_11_two_candidates(tmp_path):
    learn = named('ab','xy',tmp_path)
    learn.save('a')
    assert learner(frame('ab','xy'), tmp_path, pretrained=True).report.coverage==1
    learn.save('b')
    for o in (True, tmp_path/'models'):
        with pytest.raises(ValueError, match=r"2 saved pairs.*models/a.*models/b"): learner(frame('ab','xy'), tmp_path, pretrained=o)

def test_promise_11_here_and_there(tmp_path, monkeypatch):
    learn = named('ab','xy',tmp_path)
    learn.save('m')
    (tmp_path/'cwd').mkdir()
    monkeypatch.chdir(tmp_path/'cwd')
    learn.save(tmp_path/'cwd'/'m')
    with pytest.raises(ValueError, match='could be any of.*m.*m'): learner(frame('ab','xy'), tmp_path, pretrained='m')
    with pytest.raises(ValueError, match='could be any of'): learn.load_vocab('m.pth', 'm_vocab.pkl')

@pytest.mark.parametrize('place', ['sub','..','../models2'])
def test_promise_11_no_search(tmp_path, place):
    path = tmp_path/'p'
    learn = named('ab','xy',path)
    learn.save(path/'models'/place/'m')
    for o in (True, 'm'):
        with pytest.raises(FileNotFoundError): learner(frame('ab','xy'), path, pretrained=o)
    with pytest.raises(FileNotFoundError): learner(frame('ab','xy'), path).load('m')
    with pytest.raises(FileNotFoundError): learn.load_vocab('m.pth', 'm_vocab.pkl')

def test_promise_11_nothing_there(tmp_path):
    learn = named('ab','xy',tmp_path)
    with pytest.raises(FileNotFoundError, match='m.pth'): learn.load('m')
    with pytest.raises(FileNotFoundError, match='no saved pair'): learner(frame('ab','xy'), tmp_path, pretrained=True)
    with pytest.raises(FileNotFoundError, match='m.pth'): learner(frame('ab','xy'), tmp_path, pretrained='m')

def test_promise_11_other_folder(tmp_path):
    learn = named('ab','xy',tmp_path, model_dir='mine')
    learn.save('m')
    assert (tmp_path/'mine'/'m_vocab.pkl').is_file()
    assert learner(frame('ab','xy'), tmp_path, model_dir='mine', pretrained=True).report.coverage==1

# 12
def unchanged(f, *args, **kwargs):
    "Call `f` and check that its arguments are what they were"
    before = copy.deepcopy((args,kwargs))
    res = f(*args, **kwargs)
    assert same((args,kwargs), before), f
    return res

def test_promise_12_labels():
    old,new = [NA,'a',1,None],[NA,'b','a',2]
    for f in (match_rows, coverage): unchanged(f, old, new)
    idx = match_rows(old, new)
    unchanged(type_mismatches, old, new, idx)
    unchanged(match_rows, pd.Series(['a','b']), pd.Series(['b']), pd.Series(dict(b='a')))
    unchanged(map_labels, new, dict(b='a'))
    unchanged(coverage, old, new, torch.ones(4), dict(b='a'))
    unchanged(fingerprint, old, new)
    vocab = dict(item=[1], user=[2], other=[3])
    unchanged(as_vocab, vocab, 'user', 'item')
    unchanged(vocab_entry, dict(u=[1],i=[2]), 'x', dict(a=[1]), dict(b=2))

@pytest.mark.parametrize('policy', ['keep','last','mean'])
@pytest.mark.parametrize('split',
    [None, TimeSplitter('time'), UserSplitter(seed=1), UserSplitter(whole=True, seed=1), LeaveLastSplitter('time')])
def test_promise_12_frames(policy, split):
    df = pd.concat([frame('abcd','wxyz')]*2).set_index(pd.Index(range(100,132)))
    res = unchanged(check_ratings, df, duplicates=policy)
    before = df.copy()
    vocab = dict(user=[NA,'z'], item=[NA,'q'])
    dls = CollabDataLoaders.from_df(df, duplicates=policy, splitter=split, vocab=vocab, unknown='mean', seed=1, bs=8, device='cpu')
    assert same(df, before) and vocab==dict(user=[NA,'z'], item=[NA,'q'])
    new = frame('ae','wq')
    unchanged(dls.train_ds.encode, new, 'mean')
    unchanged(partial(dls.test_dl, unknown='popular'), new)
    unchanged(cross_domain_split, df)
    assert len(res)<=len(df)

def test_promise_12_weights(tmp_path):
    learn,new = named('ab','xy',tmp_path),learner(frame('bc','yz'), tmp_path)
    wgts,ov,nv = weights(learn),learn.vocab,new.vocab
    for fill in fills: unchanged(match_embeds, wgts, ov, nv, fill=fill)
    keys = dict(u_weight='u_weight.weight', i_weight='i_weight.weight')
    res = unchanged(match_embeds, wgts, ov, nv, id_map=dict(user=dict(c='a')), keys=keys)
    assert not {v.data_ptr() for k,v in res.wgts.items() if 'weight.' in k} & {v.data_ptr() for k,v in wgts.items() if 'weight.' in k}
    res = match_embeds(wgts, ov, nv).wgts
    unchanged(lambda w: load_pretrained_keys(new.model, w), res)
    unchanged(lambda v, w, o: plan_transfer(new.model, v, Pair(w, None, o, {}, None)), nv, wgts, ov)
    unchanged(find_tables, wgts)
    unchanged(tables, wgts)
    unchanged(check_rows, tables(wgts), ov)
    unchanged(weights_fingerprint, wgts)
    unchanged(save_pair, tmp_path/'m', wgts, ov, dict(state=[dict(a=torch.ones(1))], hypers=[]), dict(n=[1]))
    unchanged(match_table, torch.arange(6.).reshape(3,2), torch.tensor([2,-1]), 'mean')
    same_vocab = match_embeds(wgts, ov, ov).wgts
    same_vocab['u_weight.weight'].zero_()
    assert not wrong_rows(learn) and (wgts['u_weight.weight']!=0).all()

def test_promise_12_state_metadata(tmp_path):
    "`save_pair` stamps a copy"
    state = learner(frame('ab','xy'), tmp_path).model.state_dict()
    meta = copy.deepcopy(state._metadata)
    save_pair(tmp_path/'m', state, dict(user=[NA,'a','b'], item=[NA,'x','y']))
    assert state._metadata==meta

def test_promise_12_config(tmp_path):
    learn = named('ab','xy',tmp_path)
    nets = [dict(use_nn=True, config=dict(ps=[.1]), layers=[5], emb_szs=o) for o in ([2,3], dict(user=2, item=3), [(3,2),(3,4)])]
    for kw in (*nets, dict(cbs=[]), dict(config={})): unchanged(partial(learner, frame('ab','xy'), tmp_path), **kw)
    unchanged(partial(learner, frame('ab','xy'), tmp_path, pretrained=learn), id_map=dict(user=dict(a='a'), item=None))

def test_promise_12_sources(tmp_path):
    "A learner, or a pair, that others start from"
    learn = mark_state(named('ab','xy',tmp_path))
    learn.save('m')
    pair,w,v = read_pair(tmp_path/'models'/'m'),weights(learn),copy.deepcopy(learn.vocab)
    files = {o.name:o.read_bytes() for o in (tmp_path/'models').iterdir()}
    for src in (learn, pair, 'm'):
        for users in ('ab','bc'):
            new = fit(learner(frame(users,'yx'), tmp_path, pretrained=src))
            new.grow(frame('abq','xz'), unknown='mean')
            fit(new)
    assert same(weights(learn), w) and learn.vocab==v and same({**pair.wgts}, w) and pair.vocab==v
    assert files=={o.name:o.read_bytes() for o in (tmp_path/'models').iterdir()}

def test_promise_12_source_of_solved_rows(source, target, tmp_path):
    "Rows that are solved for, and trained, are the target's own"
    learn = fit(learner(loaders(source), tmp_path), 3)
    learn.save('m')
    pair,w,v = read_pair(tmp_path/'models'/'m'),weights(learn),copy.deepcopy(learn.vocab)
    info = copy.deepcopy(pair.info)
    for src in (learn, pair): fit(learner(loaders(target), tmp_path, pretrained=src, fill=None))
    assert same(weights(learn), w) and learn.vocab==v and same({**pair.wgts}, w) and pair.vocab==v and same(pair.info, info)

def test_promise_12_predict_and_grow(learn, source):
    row = dict(user=source.user.iloc[0], item=source['item'].iloc[0])
    for o in (row, pd.Series(row), pd.DataFrame([row]), list(row.values())): unchanged(learn.predict, o)
    df = pd.DataFrame([row]*3).assign(rating=1.)
    unchanged(partial(learn.test_dl, unknown='mean'), df)
    dls,vocab = learn.dls,copy.deepcopy(learn.vocab)
    new = source.assign(user=source.user+5)
    unchanged(partial(learn.grow, seed=1, unknown='mean'), new)
    assert dls.vocab==vocab and learn.vocab!=vocab

def test_promise_12_globals_stay(tmp_path):
    "The registry of layouts and fastai's names are as before"
    before = copy.deepcopy(layouts)
    named('ab','xy',tmp_path, use_nn=True).save('m')
    read_pair(tmp_path/'models'/'m')
    assert layouts==before and set(fills)=={'mean','zeros','fresh','normal'}

# 13
kinds = dict(int=[1,2,3,4,5], str=list('abcde'))

def unknown_last_user(kind, seen=4):
    "The last user is only in the validation set"
    users = kinds[kind]
    df = frame(users,'xyz')
    return df,IndexSplitter([*range(len(df)-3, len(df)), 0])

@pytest.mark.parametrize('kind', kinds)
def test_promise_13_validation_labels(kind):
    df,split = unknown_last_user(kind)
    make = partial(CollabDataLoaders.from_df, df, splitter=split, device='cpu')
    u = kinds[kind]
    with pytest.raises(KeyError, match='1 unknown user'): make(unknown='raise')
    with pytest.warns(UserWarning, match=f'1 unknown user .{u[-1]!r}. in 3 of 4 rows of the validation set'): dls = make(unknown='warn')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert [make(unknown=o).valid_ds.ids[:,0].tolist()[:3] for o in ('mean','popular')]==[[0]*3, [2]*3]
    assert dls.vocab['user']==[NA,*u[:-1]] and dls.valid_ds.ids[:,0].tolist()==[0,0,0,1]

@pytest.mark.parametrize('kind', kinds)
def test_promise_13_prediction(tmp_path, kind):
    users,new = kinds[kind][:3],kinds[kind][4]
    learn = named(users,'xy',tmp_path)
    row = dict(user=new, item='x')
    with pytest.raises(KeyError, match=repr(new)): learn.predict(row, unknown='raise')
    with pytest.warns(UserWarning, match=repr(new)): warned = learn.predict(row)[1]
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        mean = learn.predict(row, unknown='mean')[1]
        popular = learn.predict(row, unknown='popular')[1]
        known = learn.predict(dict(user=users[0], item='x'), unknown='raise')[1]
    m = learn.model
    want = lambda u: m(torch.tensor([[u,1]])).detach()[0]
    assert torch.allclose(warned, want(0)) and torch.allclose(mean, want(0))
    assert torch.allclose(popular, want(1)) and torch.allclose(known, want(1))
    with pytest.raises(ValueError, match="'raise', 'warn', 'mean', 'popular'"): learn.predict(row, unknown='x')

def test_promise_13_other_type_is_unknown(tmp_path):
    learn = named([1,2],'xy',tmp_path)
    hint = "'1' is of another type than the label 1"
    with pytest.raises(KeyError, match=f"1 unknown user.*{hint}"): learn.predict(dict(user='1', item='x'), unknown='raise')
    with pytest.warns(UserWarning, match=hint): learn.recommend('1')
    with pytest.raises(KeyError, match=hint): learn.similar_users('1')
    with pytest.warns(UserWarning, match='unknown user') as w: learn.recommend('no such')
    assert 'another type' not in str(w[0].message)

@pytest.mark.parametrize('pct,trained', [(0.,False),(.5,True)])
def test_promise_13_na_row_is_trained(tmp_path, use_nn, pct, trained):
    learn = learner(frame('abcdef','xyz'), tmp_path, use_nn=use_nn, unknown_pct=pct)
    before = {t:p.data[0].clone() for t,p in tables(learn.model).items()}
    fit(learn, 3, wd=0.)
    assert [not torch.equal(p.data[0], before[t]) for t,p in tables(learn.model).items()]==[trained]*len(before)

def test_promise_13_by_default(tmp_path):
    learn = learner(frame(range(50),'wxyz'), tmp_path)
    before = learn.model.u_weight.weight.data[0].clone()
    fit(learn, 10)
    assert not torch.equal(learn.model.u_weight.weight.data[0], before)

def test_promise_13_validation_sees_all_ids(tmp_path):
    learn = learner(frame('ab','xy'), tmp_path, unknown_pct=1.)
    assert len(set(learn.get_preds()[0].tolist()))==4

def test_promise_13_unknown_user(source, tmp_path):
    "An unknown user's predictions are about the items' mean ratings"
    learn = fit(learner(loaders(source), tmp_path, unknown_pct=.1), 10)
    items = source['item'].value_counts().index[:5]
    got = learn.get_preds(dl=learn.test_dl(pd.DataFrame(dict(user=-1, item=items)), unknown='mean'))[0]
    want = torch.tensor([source[source['item']==o].rating.mean() for o in items])
    assert (got-want).abs().mean()<.5

# 14
def test_promise_14_predict_forms(learn, source):
    row = dict(user=source.user.iloc[0], item=source['item'].iloc[0])
    frames = [pd.DataFrame([row]), source.iloc[:1]]
    forms = [row, pd.Series(row), *frames, source.iloc[0], tuple(row.values()), list(row.values()), dict(reversed(row.items()))]
    res = [learn.predict(o) for o in forms]
    for r,pred,raw in res:
        assert pred.ndim==0 and torch.allclose(pred, res[0][1]) and r['rating']==pytest.approx(pred.item()) and torch.equal(pred, raw)
        assert (r['user'],r['item'])==tuple(row.values())

@pytest.mark.parametrize('row', [3, 'ab', pd.DataFrame(dict(user=[1,2], item=['i1','i2'])), pd.DataFrame()])
def test_promise_14_predict_other(learn, row):
    with pytest.raises(ValueError, match="one row.*'user', 'item'"): learn.predict(row)

@pytest.mark.parametrize('row', [dict(user=1), dict(item='i1'), dict(x=1), (1,), [], {}])
def test_promise_14_predict_needs_both(learn, row):
    with pytest.raises((KeyError,ValueError), match="user|item"): learn.predict(row)

def test_promise_14_one_row_frame(learn, source):
    for n in (1,2):
        preds,_ = learn.get_preds(dl=learn.test_dl(source[:n]))
        assert preds.shape==(n,)
    preds,targs = learn.get_preds(dl=learn.test_dl(source[:1]), with_loss=False)
    assert targs.tolist()==pytest.approx(source.rating[:1].tolist())

def test_promise_14_order_of_predictions(learn, source):
    df = source.sample(50, random_state=1)
    got = learn.get_preds(dl=learn.test_dl(df, bs=7))[0]
    assert torch.allclose(got, torch.stack([learn.predict(r)[1] for _,r in df.iterrows()]), atol=1e-5)

given_szs = [([4,6],[4,6]), ((4,6),[4,6]), (dict(user=4),[4,None]), (dict(item=6),[None,6]), (dict(user=4,item=6),[4,6]),
    ([(3,4),(3,6)],[4,6]), (L(4,6),[4,6]), (None,[None,None])]

@pytest.mark.parametrize('szs,want', given_szs)
def test_promise_14_emb_szs(tmp_path, szs, want):
    learn = fit(learner(frame('ab','xy'), tmp_path, use_nn=True, emb_szs=szs))
    for w,v in zip(want, tables(learn.model).values()): assert w is None or v.shape==(3,w)
    learn.save('m')
    assert [v.shape for v in tables(learner(frame('ab','xyz'), tmp_path, use_nn=True, emb_szs=None, pretrained='m').model).values()]==[
        (3+i, v.shape[1]) for i,v in enumerate(tables(learn.model).values())]

def test_promise_14_emb_szs_wrong(tmp_path):
    with pytest.raises(ValueError, match='3 entries'): learner(frame('ab','xy'), tmp_path, use_nn=True, emb_szs=[1,2,3])
    with pytest.raises(KeyError, match="'x'.*'user', 'item'"): learner(frame('ab','xy'), tmp_path, use_nn=True, emb_szs=dict(x=3))

@pytest.mark.parametrize('y_range', [None,(1,5),(0,6)])
def test_promise_14_starts_at_the_mean(source, tmp_path, use_nn, y_range):
    learn = learner(loaders(source), tmp_path, use_nn=use_nn, y_range=y_range)
    preds = learn.get_preds(ds_idx=0)[0]
    assert abs(preds.mean()-source.rating.mean())<(.3 if use_nn else .1)

def test_promise_14_y_range_is_checked(tmp_path):
    with pytest.raises(ValueError, match=r'outside `y_range=\(1, 3\)`.*\(1, 5\)'): learner(frame('abc','xy'), tmp_path, y_range=(1,3))

def test_promise_14_looking_changes_nothing(tmp_path, monkeypatch):
    learn = named('ab','xy',tmp_path)
    p,ids = learn.model.i_weight.weight,[id(o) for o in learn.model.parameters()]
    monkeypatch.setattr(nn.Module, '_apply', lambda *args, **kw: pytest.fail('a layer was moved'))
    for arr in (['x','y'], L('x','y'), pd.Series(['x','y']), 'x'):
        assert torch.allclose(learn.model.weight(arr)[0], torch.tensor(code('x')))
        assert torch.allclose(learn.model.bias(arr)[0], torch.tensor(code('x')))
    assert torch.allclose(learn.model.weight(['b'], is_item=False), torch.tensor(code('b')))
    assert learn.model.i_weight.weight is p and ids==[id(o) for o in learn.model.parameters()]
    assert not learn.model.weight(['x']).requires_grad

def test_promise_14_looking_at_unknown_labels(tmp_path):
    learn = named([1,2],[7,8],tmp_path)
    assert torch.allclose(learn.model.weight(7)[0], torch.tensor(code(7)))
    with pytest.raises(KeyError): learn.model.weight([99])

@pytest.mark.skipif(not torch.cuda.is_available(), reason='no GPU')
def test_promise_14_weights_stay_on_device(tmp_path):
    learn = fit(learner(loaders(frame('ab','xy'), device='cuda'), tmp_path))
    assert learn.model.weight(['x']).device.type=='cpu' and learn.model.bias(['x']).device.type=='cpu'
    assert learn.model.u_weight.weight.is_cuda
    fit(learn)
    learn.save('m')
    fit(learn.load('m'))
    assert learn.model.u_weight.weight.is_cuda
    fit(learn.grow(frame('abc','xyz'), unknown='mean'))
    fit(learner(loaders(frame('bc','xz'), device='cuda'), tmp_path, pretrained=learn))
    learn.predict(dict(user='a', item='x'))

# 15
def test_promise_15_chain_of_transfers(tmp_path, use_nn):
    "What the first learner knew of `d` and `z` is still there in the fourth"
    kw = dict(use_nn=use_nn, fill='zeros')
    learn = named('abd','xyz',tmp_path, use_nn=use_nn)
    for n,(users,items) in enumerate([('bde','yzw'),('fd','zvw'),('dabf','zx')]):
        learn.save(f'm{n}')
        new = learner(frame(users,items), tmp_path, pretrained=f'm{n}', **kw)
        known = set().union(*learn.vocab.values())
        for t in tables(new.model):
            for o,r in rows(new,t).items(): assert torch.allclose(r, rows(learn,t)[o] if o in known else torch.tensor(0.)), (n,t,o)
        learn = new
    assert all(torch.allclose(rows(learn,t)[o], torch.tensor(code(o))) for t in tables(learn.model) for o in 'dz' if o in rows(learn,t))
    fit(learn)

def test_promise_15_fine_tune(source, target, tmp_path, use_nn):
    learn = fit(learner(loaders(source), tmp_path, use_nn=use_nn), 2)
    for df in (target, source, target):
        learn = learner(loaders(df), tmp_path, pretrained=learn, use_nn=use_nn)
        assert learn.report.coverage>.5
        with learn.no_bar(),learn.no_logging(): learn.fine_tune(1)
        assert all(torch.isfinite(p).all() for p in learn.model.parameters())

def test_promise_15_held_rows_hold_still(tmp_path):
    new = learner(frame('abc','xyz'), tmp_path, pretrained=named('ab','xy',tmp_path))
    before = {t:{k:v.clone() for k,v in rows(new,t).items()} for t in tables(new.model)}
    with new.no_bar(),new.no_logging(): new.fit(1, .05, cbs=FreezeRows(new.transfer.moved))
    for t,d in before.items():
        for o,v in d.items(): assert torch.equal(rows(new,t)[o], v)==(o in ('a','b','x','y',NA)), (t,o)

def test_promise_15_grow(tmp_path, use_nn):
    learn = mark_state(named('ab','xy',tmp_path, use_nn=use_nn))
    assert learn.grow(frame('bca','wxz'), fill='zeros', unknown='mean', seed=1) is learn
    assert learn.vocab['user'][:3]==[NA,'a','b'] and learn.vocab['item'][:3]==[NA,'x','y']
    assert not wrong_rows(learn, but='cwz')
    for t,p in tables(learn.model).items():
        assert len(p)==len(labels_of(learn,t))
        for o in 'cwz':
            if o in rows(learn,t): assert (rows(learn,t)[o]==0).all()
    fit(learn)
    learn.save('m')
    assert same(weights(learner(learn.dls, tmp_path, use_nn=use_nn).load('m')), weights(learn))
    fit(learn.grow(frame('de','uv'), unknown='mean', seed=1))
    assert len(learn.vocab['user'])>4

@pytest.mark.parametrize('way', ['load','grow'])
def test_promise_15_optimizer_by_label(tmp_path, use_nn, way):
    learn = mark_state(named('abd','xyz',tmp_path, use_nn=use_nn))
    learn.save('m')
    df = frame('dcba','zyxw')
    if way=='load': learn = learner(df, tmp_path, use_nn=use_nn).load('m')
    else: learn.grow(df, splitter=lambda d: (range(len(d)),range(len(d))))
    new = {'c','w'}
    for k in ('sqr_avg','grad_avg'):
        for t,d in plain_state(learn, k).items():
            for o,v in d.items():
                if o not in new: assert torch.allclose(v, torch.tensor(code(o))), (k,t,o)
                elif k=='grad_avg': assert (v==0).all()
                else: assert (v>=max(code(o) for o in labels_of(learn,t) if o not in new)-1e-6).all()
    fit(learn)

@pytest.mark.parametrize('way', ['load','grow'])
@pytest.mark.parametrize('sqr_mom', [.99,.999])
def test_promise_15_first_step(tmp_path, way, sqr_mom):
    "A new row's first step is no larger than the learning rate, as is everybody's"
    kw = dict(opt_func=partial(Adam, mom=.9, sqr_mom=sqr_mom), unknown_pct=0., wd=0.)
    learn = fit(learner(frame('ab','xy'), tmp_path, **kw), 50, .001)
    learn.save('m')
    df,whole = frame('abc','xyz'),dict(splitter=lambda d: (range(len(d)),range(len(d))))
    if way=='load': learn = learner(df, tmp_path, **kw).load('m')
    else: learn.grow(df, **whole)
    before = {t:{k:v.clone() for k,v in rows(learn,t).items()} for t in tables(learn.model)}
    fit(learn, 1, .01)
    for t,d in before.items():
        for o in 'cz':
            if o in d: assert (rows(learn,t)[o]-d[o]).abs().max()<=.01*1.01, (t,o)

def test_promise_15_other_optimizer_is_dropped(tmp_path):
    fit(learner(frame('ab','xy'), tmp_path, use_nn=True)).save('m')
    state = read_pair(tmp_path/'models'/'m')
    learn = learner(frame('ab','xy'), tmp_path)
    save_pair(tmp_path/'models'/'m', weights(learn), learn.vocab, state.opt)
    with pytest.warns(UserWarning, match='dropped'): learn.load('m')
    assert not any('sqr_avg' in s for s in learn.opt.state.values())
    fit(learn)

def test_promise_15_grow_untrained(tmp_path): fit(learner(frame('ab','xy'), tmp_path).grow(frame('abc','xyz'), unknown='mean'))

def test_promise_15_failed_grow_changes_nothing(tmp_path):
    learn = mark_state(named('ab','xy',tmp_path))
    dls,before = learn.dls,weights(learn)
    df = frame('abc','xy')
    for df,kw in ((df.assign(rating=math.nan),{}), (df.drop(columns='item'),{}), (df,dict(fill='x'))):
        with pytest.raises((ValueError,KeyError)): learn.grow(df, **{**dict(unknown='mean', seed=1), **kw})
        assert learn.dls is dls and same(weights(learn), before)

def test_promise_15_grow_with_nothing_new(tmp_path):
    learn = named('ab','xy',tmp_path).grow(frame('ab','xy'), unknown='mean')
    assert not wrong_rows(learn) and learn.vocab==dict(user=[NA,'a','b'], item=[NA,'x','y'])

# The package
def test_promise_20_arguments_are_used_or_refused(tmp_path):
    "What nothing would look at is refused, by its name"
    for kw in (dict(project=True), dict(id_map={}), dict(fill='mean'), dict(solve=False)):
        with pytest.raises(TypeError, match=f'{first(kw)}.*`pretrained`'): learner(frame('ab','xy'), tmp_path, **kw)
    for kw in (dict(emb_szs=[2,3]), dict(layers=[5]), dict(config=dict(ps=[.1]))):
        name = first(kw['config']) if 'config' in kw else first(kw)
        with pytest.raises(TypeError, match=f'{name}.*`use_nn`'): learner(frame('ab','xy'), tmp_path, **kw)
    learner(frame('ab','xy'), tmp_path, y_range=None, config=dict(y_range=(0,6)))
    for n in (0,-1,2.5):
        with pytest.raises(ValueError, match='`n_factors` is'): learner(frame('ab','xy'), tmp_path, n_factors=n)

public = [(k,f) for k,f in vars(CollabLearner).items() if not k.startswith('_') and inspect.isfunction(f)]
takes_any = inspect.CO_VARKEYWORDS

@pytest.mark.parametrize('name,f', [(k,f) for k,f in public if not inspect.unwrap(f).__code__.co_flags & takes_any], ids=lambda o: o if isinstance(o, str) else '')
def test_promise_20_methods_suggest_names(name, f):
    "A method without `**kwargs` suggests the right name, too; `record`, `serve` and `as_pair` are called by us"
    names = list(inspect.signature(f).parameters)[1:]
    if not names or name in ('record','serve','as_pair'): return
    longest = max(names, key=len)
    typo = longest+longest[-1]
    with pytest.raises(TypeError, match=f"`{name}` has no argument '{typo}': did you mean `{longest}`"): f(None, **{typo:1})

@pytest.mark.parametrize('f,kw,meant', [(CollabLearner.solve,dict(epochs=3),'n_epoch'), (CollabLearner.recommend,dict(n=5),'k'), (CollabLearner.save,dict(files='m'),'file'),
    (CollabLearner.recommend,dict(block=[1]),'exclude'), (CollabLearner.similar_items,dict(item=1),'labels'), (match_embeds,dict(id_maps={}),'id_map'), (tables,dict(key={}),'keys')])
def test_promise_20_names_of_elsewhere(f, kw, meant):
    with pytest.raises(TypeError, match=f"`{f.__name__}` has no argument '{first(kw)}': did you mean `{meant}`"): f(None, **kw)

def test_promise_20_misspelt_arguments_of_learners(source):
    dls = loaders(source)
    with pytest.raises(TypeError, match="`collab_learner` has no argument 'n_factor': did you mean `n_factors`"): collab_learner(dls, n_factor=20)
    with pytest.raises(TypeError, match="`CollabLearner` has no argument 'metric': did you mean `metrics`"): CollabLearner(dls, None, metric=1)

@pytest.mark.parametrize('make', [collab_learner, lambda o: CollabLearner(o, None)])
def test_promise_20_ratings_are_no_loaders(source, make):
    with pytest.raises(ValueError, match=r'`dls` are loaders.*`dls = CollabDataLoaders.from_df\(ratings\)`'): make(source)
    for o in (None, 'ratings.csv', [source]):
        with pytest.raises(ValueError, match='`dls` are loaders of ratings, not a'): make(o)

def test_promise_20_values(source):
    dls = loaders(source)
    for kw in (dict(y_range=5), dict(config=3), dict(use_nn='yes'), dict(unknown_pct=2), dict(fill='avg')):
        with pytest.raises(ValueError, match=f"`{first(kw)}`|`pct`.*share"): collab_learner(dls, **kw)

def test_no_bar_for_nothing(source, tmp_path):
    "An empty validation set, or `Fused`, which cuts batches anew, makes no progress bar warn"
    dls = loaders(source, valid_pct=0)
    for cbs in (None, Fused()):
        with warnings.catch_warnings(record=True) as w:
            warnings.simplefilter('always')
            learn = collab_learner(dls, 3, path=tmp_path, cbs=cbs)
            learn.fit(2)
            learn.solve(2)
            with pytest.raises(ValueError, match='nothing to measure by'): learn.validate()
        assert not [o for o in w if 'empty' in str(o.message)]
        assert hasattr(learn, 'progress') and len(learn.recorder.values)>0

def test_names():
    "`from collab_ext import *` gives what is listed, and nothing else"
    ns = {}
    exec('from collab_ext import *', ns)
    assert set(ns)-{'__builtins__'}==set(collab_ext.__all__) and len(collab_ext.__all__)<=75
    ours = ('collab_learner','CollabLearner','CollabDataLoaders','match_embeds','load_pretrained_keys')
    for k in ours: assert ns[k].__module__.startswith('collab_ext')

@pytest.mark.parametrize('name', ['compare','simulate_comparisons','comparison_learner'] if full else ['compare'])
def test_functions_named_like_their_module(name):
    "They are functions, also where their module was imported before"
    lines = f"import collab_ext.{name}; from collab_ext import {name}; from collab_ext import *; assert callable({name})"
    subprocess.run([sys.executable, '-W', 'ignore', '-c', lines], check=True)

def test_modules_that_patch_are_imported():
    "The methods that a module patches are there with the first name that is asked for, in a process that imported nothing else of it"
    lines = 'import sys,collab_ext; collab_ext.collab_learner; print(*sys.modules)'
    imported = subprocess.run([sys.executable, '-W', 'ignore', '-c', lines], check=True, capture_output=True, text=True).stdout.split()
    patching = [o.stem for o in Path(collab_ext.__file__).parent.glob('*.py') if '@patch' in o.read_text()]
    assert len(patching)>20 and not {f'collab_ext.{o}' for o in patching}-set(imported)

def test_names_after_fastai():
    ns = {}
    exec('from fastai.collab import *\nfrom fastai.tabular.all import *\nfrom collab_ext import *', ns)
    assert ns['collab_learner'] is collab_learner and ns['match_embeds'] is match_embeds and ns['CollabDataLoaders'] is CollabDataLoaders

def test_fastai_is_left_alone():
    assert fastai.collab.CollabDataLoaders is not CollabDataLoaders and fastai.collab.collab_learner is not collab_learner
    assert issubclass(CollabDataLoaders, fastai.collab.CollabDataLoaders) and issubclass(CollabLearner, Learner)
