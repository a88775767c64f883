"Sources: of every kind a pair, with its scale, and an error that says what to pass"
from helpers import * # all of the package, and what the tests share
import fastai.collab,numpy as np,pandas as pd,pytest,torch
from fastai.data.core import DataLoaders
from fastai.learner import Learner,load_learner
from fastai.losses import MSELossFlat
from torch import tensor
from types import SimpleNamespace
from collab_ext import sources
from collab_ext.sources import learner_pair,source_kinds
from helpers import domains,fit,loaders

@pytest.fixture(scope='module')
def worlds(): return domains(120, 100, 4000)

def stock(df, path, y_range=None, n=6, **kwargs):
    "A learner of plain fastai"
    dls = fastai.collab.CollabDataLoaders.from_df(df, bs=64, seed=1)
    return fit(fastai.collab.collab_learner(dls, n_factors=4, y_range=y_range, path=path, **kwargs), n, 1e-2)

@pytest.mark.parametrize('y_range', [None,(0,5.5)])
def test_a_fastai_learner_brings_its_scale(worlds, tmp_path, y_range):
    learn = stock(worlds[0], tmp_path, y_range, n=1)
    p = learner_pair(learn)
    y = learn.dls.train_ds.ys.to_numpy(dtype=np.float32)
    assert p.info['y_range']==(y_range and [0.,5.5]) and p.info['scale']==[pytest.approx(y.mean()), pytest.approx(y.std())]
    for k,v in p.vocab.items():
        counts = p.info['counts'][k]
        assert v==list(learn.dls.classes[k]) and counts[0]==0 and sum(counts)==len(y)

def test_the_mean_apart_changes_no_prediction(worlds, tmp_path):
    learn = stock(worlds[0], tmp_path, (0,5.5))
    before = {k:v.clone() for k,v in learn.model.state_dict().items()}
    p = learner_pair(learn)
    new = collab_learner(loaders(worlds[0], vocab=p.vocab, valid_pct=0), 4, y_range=(0,5.5), path=tmp_path, pretrained=p, fill='mean')
    x = tensor([[0,0],[1,2],[5,0],[0,7],[11,12]])
    with torch.no_grad(): assert torch.allclose(new.model(x), learn.model(x), atol=1e-5)
    for k,v in learn.model.state_dict().items(): assert torch.equal(v, before[k])
    assert abs(p.wgts['mean'].item())>.1 # else nothing was tested

@pytest.mark.parametrize('y_range', [None,(0,5.5)])
@pytest.mark.parametrize('new_range', [None,(0,11)])
def test_a_fastai_learner_on_another_scale(worlds, tmp_path, y_range, new_range):
    "The error in units of the scale is about the same, whatever the scale"
    src = stock(worlds[0], tmp_path, y_range)
    def err(times, y_range):
        dls = loaders(worlds[1].assign(rating=worlds[1].rating*times))
        learn = collab_learner(dls, pretrained=src, y_range=y_range, path=tmp_path, fill='mean')
        preds,targs = learn.get_preds()
        return (preds-targs).pow(2).mean().sqrt().item()/times
    assert err(2, new_range) < err(1, y_range)+.05

def test_a_fastai_net(worlds, tmp_path):
    p = learner_pair(stock(worlds[0], tmp_path, n=1, use_nn=True))
    assert 'mean' not in p.wgts and p.info['y_range'] is None and p.info['scale']

def test_a_plain_learner_on_our_loaders(worlds, tmp_path):
    dls = loaders(worlds[0])
    p = learner_pair(Learner(dls, fastai.collab.EmbeddingDotBias.from_classes(4, dls.classes), loss_func=MSELossFlat(), path=tmp_path))
    assert p.vocab==dls.vocab and p.info['y_range'] is None
    assert p.info['counts']=={k:v.tolist() for k,v in dls.train_ds.counts.items()}

def test_a_learner_without_its_data(worlds, tmp_path):
    "An exported learner has labels and no ratings"
    stock(worlds[0], tmp_path, (0,5.5), n=1).export(tmp_path/'x.pkl')
    p = learner_pair(load_learner(tmp_path/'x.pkl'))
    assert p.info==dict(y_range=[0.,5.5]) and 'mean' not in p.wgts and len(p.vocab['user'])>1

def test_a_learner_without_labels():
    dl = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(torch.zeros(4,1), torch.zeros(4,1)))
    learn = Learner(DataLoaders(dl, dl), torch.nn.Linear(1,1), loss_func=MSELossFlat())
    with pytest.raises(ValueError, match='no `classes`'): read_source(learn)

def test_a_learner_of_ours_brings_what_it_knows(worlds, tmp_path):
    learn = collab_learner(loaders(worlds[0], valid_pct=0), 4, path=tmp_path)
    with learn.no_bar(),learn.no_logging(): learn.solve(2)
    p = read_source(learn)
    assert {'counts','scale','y_range','prior'} <= set(p.info) and set(p.info['prior'])=={'mean','noise','sides'}

def test_anything_with_as_pair(tmp_path):
    pair = vector_source(dict(item=(np.eye(2), ['x','y'])), dict(user=['a'], item=['x']))
    assert read_source(SimpleNamespace(as_pair=lambda: pair)).vocab==dict(user=[], item=['x','y'])
    df = pd.DataFrame(np.eye(2), index=['x','y'], columns=['as_pair','b']) # no method, but a column
    assert read_source(df, new_vocab=dict(user=['a'], item=['x'])).vocab==dict(user=[], item=['x','y'])

def test_the_first_kind_that_knows_a_source_reads_it(monkeypatch):
    pair = vector_source(dict(item=(np.eye(2), ['x','y'])), dict(user=['a'], item=['x']))
    mine = (lambda o: o=='mine', lambda o,folder,new_vocab: pair._replace(info=dict(folder=folder)))
    monkeypatch.setattr(sources, 'source_kinds', [mine,*source_kinds])
    res = read_source('mine', 'there')
    assert res.info['folder'].name=='there' and type(res.vocab) is Vocab
    with pytest.raises(FileNotFoundError): read_source('other', 'there')

def test_vectors_of_a_device_or_a_graph():
    t = torch.eye(2, requires_grad=True)
    res = vector_source(dict(item=(t, ['x','y'])), dict(user=['a'], item=['x'])).wgts['i_weight.weight']
    assert torch.equal(res, torch.eye(2)) and not res.requires_grad
    with torch.no_grad(): t.zero_()
    assert torch.equal(res, torch.eye(2)) # a copy

@pytest.mark.parametrize('vecs,said', [(dict(item=torch.eye(2)), "The vectors for 'item' are a Tensor"), ({}, 'There are no vectors'),
    (dict(item=(np.eye(2), ['x'])), 'one row for each'), (dict(film=(np.eye(2), ['x','y'])), "There are vectors for 'film'"),
    (dict(item=(np.ones(2), ['x','y'])), 'one row for each')])
def test_vectors_that_do_not_fit(vecs, said):
    with pytest.raises((ValueError,KeyError), match=said): read_source(vecs, new_vocab=dict(user=['a'], item=['x']))

@pytest.mark.parametrize('vecs', [dict(item=(np.eye(2), ['x','y'])), (np.eye(2), ['x','y'])])
def test_vectors_without_the_new_labels(vecs):
    with pytest.raises(ValueError, match='`new_vocab`'): read_source(vecs)

def test_a_pair_without_labels(tmp_path):
    w = {'u_weight.weight':torch.zeros(2,3)}
    with pytest.raises(ValueError, match='`Pair` has no vocabulary'): read_source(Pair(w, None, None, {}, None))
    torch.save(w, tmp_path/'w.pth')
    with pytest.raises(FileNotFoundError, match='no vocabulary beside it'): read_source('w', tmp_path)

# Widths
@pytest.mark.parametrize('n_u,n_i,k_u,k_i,k', [(5,4,3,3,3),(5,4,3,3,7),(5,4,7,7,3),(2,3,7,7,5),(5,4,3,6,4),(2,3,8,9,6)])
def test_every_table_gets_the_width_that_was_asked_for(n_u, n_i, k_u, k_i, k):
    wgts = {'u_weight.weight':torch.randn(n_u,k_u), 'i_weight.weight':torch.randn(n_i,k_i), 'u_bias.weight':torch.randn(n_u,1)}
    before = {o:v.clone() for o,v in wgts.items()}
    res = project_wgts(wgts, k)
    assert [tuple(v.shape) for v in res.values()]==[(n_u,k),(n_i,k),(n_u,1)]
    for o,v in wgts.items(): assert torch.equal(v, before[o])
    if k_u<=k: assert torch.equal(res['u_weight.weight'][:,:k_u], wgts['u_weight.weight'])
    if k_u==k_i and k>=min(n_u,n_i,k_u):
        new,old = [o['u_weight.weight']@o['i_weight.weight'].T for o in (res,wgts)]
        assert torch.allclose(new, old, atol=1e-4)

@pytest.mark.parametrize('k', [0,-1,2.5,True,None])
def test_no_width(k):
    with pytest.raises(ValueError, match='`n_factors` is the width'): project_wgts({'u_weight.weight':torch.zeros(2,3)}, k)

# The hub
class Hub:
    "A hub that remembers what it was asked"
    asked = []
    def __init__(self, token=None): self.token = token
    def create_repo(self, repo_id, **kwargs): Hub.asked.append(('repo', self.token, kwargs))
    def create_commit(self, repo_id, operations, commit_message, repo_type=None):
        Hub.asked.append(('commit', self.token, [o.path_in_repo for o in operations]))
        return 'address'

@pytest.mark.parametrize('name', ['m[1]','m*','m?','m'])
def test_a_push_sends_the_two_files_and_no_neighbours(tmp_path, monkeypatch, name):
    hub = pytest.importorskip('huggingface_hub')
    monkeypatch.setattr(hub, 'HfApi', Hub)
    Hub.asked.clear()
    wgts = {'u_weight.weight':torch.zeros(2,2), 'i_weight.weight':torch.zeros(2,2)}
    for o in (name,'m1','mm'): save_pair(tmp_path/o, wgts, dict(user=[1,2], item=[1,2]))
    assert push_to_hub(tmp_path/name, 'me/movies', token='secret', private=True)=='address'
    assert Hub.asked==[('repo','secret',dict(exist_ok=True, private=True)), ('commit','secret',[f'{name}.pth',f'{name}_vocab.pkl'])]
