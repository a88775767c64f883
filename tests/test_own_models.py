"Models that people bring along: with tables of many names, and with none"
from helpers import *
import copy,pickle,warnings

import pytest,torch
from torch import nn
from fastai.callback.all import SaveModelCallback
from fastai.layers import Embedding,sigmoid_range
from fastai.learner import load_learner

class DotProductBias(Module):
    "As in the fastai book, chapter 8"
    def __init__(self, n_users, n_movies, n_factors, y_range=(0,5.5)):
        self.user_factors = Embedding(n_users, n_factors)
        self.user_bias = Embedding(n_users, 1)
        self.movie_factors = Embedding(n_movies, n_factors)
        self.movie_bias = Embedding(n_movies, 1)
        self.y_range = y_range
    def forward(self, x):
        users = self.user_factors(x[:,0])
        movies = self.movie_factors(x[:,1])
        res = (users*movies).sum(dim=1, keepdim=True)
        res += self.user_bias(x[:,0]) + self.movie_bias(x[:,1])
        return sigmoid_range(res, *self.y_range)

def create_params(*size): return nn.Parameter(torch.zeros(*size).normal_(0, .01))

class FromParameters(Module):
    "The same of plain parameters, with biases of one dimension, as the book writes it next"
    def __init__(self, n_users, n_movies, n_factors, y_range=(0,5.5)):
        self.user_factors = create_params(n_users, n_factors)
        self.user_bias = create_params(n_users)
        self.movie_factors = create_params(n_movies, n_factors)
        self.movie_bias = create_params(n_movies)
        self.y_range = y_range
    def forward(self, x):
        users = self.user_factors[x[:,0]]
        movies = self.movie_factors[x[:,1]]
        res = (users*movies).sum(dim=1)
        res += self.user_bias[x[:,0]] + self.movie_bias[x[:,1]]
        return sigmoid_range(res, *self.y_range)

class Towers(Module):
    "Vectors alone, under the names of other libraries"
    def __init__(self, n_users, n_items, n_factors):
        self.user_embedding,self.item_embedding = nn.Embedding(n_users, n_factors),nn.Embedding(n_items, n_factors)
    def forward(self, x): return (self.user_embedding(x[:,0])*self.item_embedding(x[:,1])).sum(1)

class Mine(Module):
    "Under names that nobody has heard of"
    def __init__(self, n_users, n_items, n_factors):
        self.who = nn.Embedding(n_users, n_factors)
        self.what = nn.Embedding(n_items, n_factors)
    def forward(self, x): return (self.who(x[:,0])*self.what(x[:,1])).sum(1)

class NoTables(Module):
    "A net that has no row for a user or an item"
    def __init__(self, *args): self.layers = nn.Sequential(nn.Linear(2,8), nn.ReLU(), nn.Linear(8,1))
    def forward(self, x): return self.layers(x.float()/100)

readable = [DotProductBias,FromParameters,Towers]
opaque = [Mine,NoTables]

def own(cls, df, path): # with the loss in the place where fastai's `Learner` has it
    dls = df if isinstance(df, DataLoaders) else loaders(df)
    return CollabLearner(dls, cls(*dls.vocab.sizes, 4), MSELossFlat(), path=path)

@pytest.mark.parametrize('cls', readable+opaque)
def test_trains_saves_and_loads(source, tmp_path, cls):
    "`SaveModelCallback` loads the best epoch after training; another learner reads the file, with the optimizer's state"
    learn = fit(own(cls, source, tmp_path), 2, cbs=SaveModelCallback())
    learn.save('m')
    other = own(cls, source, tmp_path).load('m')
    assert same(weights(other), weights(learn)) and other.vocab==learn.vocab
    assert same(other.opt.state_dict()['state'], learn.opt.state_dict()['state'])
    fit(other)
    learn.recommend(source.user.iloc[0], k=3)

@pytest.mark.parametrize('cls', readable)
def test_rows_have_labels(source, target, tmp_path, cls):
    learn = name_rows(fit(own(cls, source, tmp_path)))
    learn.save('m')
    learn.similar_items(source['item'].iloc[0], k=3)
    n_tables = len(tables(learn.model))
    assert n_tables==(2 if cls is Towers else 4)
    by_label = own(cls, target, tmp_path).load('m')
    by_file = own(cls, target, tmp_path).load_vocab('m', 'm_vocab')
    moved = own(cls, target, tmp_path).transfer_from(learn)
    for o in (by_label,by_file,moved):
        known = [set(a)&set(b) for a,b in zip(o.vocab.labels, learn.vocab.labels)]
        strange = set().union(*o.vocab.labels)-set().union(*known)
        assert not wrong_rows(o, but=strange) and len(o.report.to_frame())==n_tables
        with o.no_bar(),o.no_logging(): o.fine_tune(1)

@pytest.mark.parametrize('cls', readable)
def test_grows(source, target, tmp_path, cls):
    learn = fit(own(cls, source, tmp_path))
    name_rows(learn)
    n = learn.vocab.sizes
    assert not wrong_rows(learn.grow(target), but=set().union(*learn.vocab.labels)-set(source.user)-set(source['item'])-{'#na#'})
    assert learn.vocab.sizes>n and all(len(w)==learn.vocab.sizes[side(t)] for t,w in tables(learn.model).items())
    fit(learn)
    learn.save('grown')
    assert same(weights(own(cls, learn.dls, tmp_path).load('grown')), weights(learn))

@pytest.mark.parametrize('cls', readable)
def test_into_a_dot_product(source, target, tmp_path, cls):
    learn = name_rows(fit(own(cls, source, tmp_path)))
    new = collab_learner(loaders(target), y_range=getattr(learn.model,'y_range',None), pretrained=learn, fill='mean')
    assert new.report.coverage>.5 and tables(new.model)['i_weight'].shape[1]==4

def test_a_bias_takes_no_mean_twice(source, tmp_path):
    "A model that has no place for the global mean predicts what the source predicted"
    dls = loaders(source)
    learn = fit(collab_learner(dls, 4, y_range=(0,5.5), path=tmp_path))
    for cls in (DotProductBias,FromParameters):
        new = own(cls, dls, tmp_path).transfer_from(learn)
        assert torch.allclose(new.get_preds()[0], learn.get_preds()[0], atol=1e-5)

@pytest.mark.parametrize('cls', opaque)
def test_what_needs_labels_says_how(source, target, tmp_path, cls):
    "The message names what works everywhere, and no argument that the call does not take"
    learn = fit(own(cls, source, tmp_path))
    learn.save('m')
    new = own(cls, target, tmp_path)
    before = weights(new)
    calls = [lambda: learn.similar_items(source['item'].iloc[0]), lambda: new.transfer_from('m'), lambda: new.load('m'),
        lambda: new.load_vocab('m','m_vocab'), lambda: learn.grow(target), lambda: collab_learner(loaders(target), pretrained=learn)]
    for f in calls:
        with pytest.raises(ValueError, match=r"No user or item table is known among the keys .*layouts\['mine'\] = ") as e: f()
        assert 'keys=' not in str(e.value) and list(before)[0] in str(e.value)
    assert same(weights(new), before)

def test_a_layout_of_ones_own(source, target, tmp_path, monkeypatch):
    monkeypatch.setitem(layouts, 'mine', dict(u_weight='who.weight', i_weight='what.weight'))
    learn = name_rows(fit(own(Mine, source, tmp_path)))
    learn.save('m')
    new = own(Mine, target, tmp_path).transfer_from('m')
    assert new.report.coverage>.5
    learn.similar_items(source['item'].iloc[0], k=3)
    learn.grow(target)

def test_another_models_weights(source, tmp_path):
    "Without tables weights have no labels, but their names still tell one model from another"
    fit(own(NoTables, source, tmp_path)).save('m')
    new = own(Mine, source, tmp_path)
    before = weights(new)
    with pytest.raises(ValueError, match='of another model'): new.load('m')
    assert same(weights(new), before)

@pytest.mark.parametrize('cls', [DotProductBias,NoTables])
def test_exported(source, tmp_path, cls):
    learn = fit(own(cls, source, tmp_path))
    learn.export('l.pkl')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        back = load_learner(tmp_path/'l.pkl')
    assert same(weights(back), weights(learn)) and back.vocab==learn.vocab

def test_positional_loss_and_a_default(source, tmp_path):
    "`CollabLearner` takes its loss where `Learner` does, and squared error where there is none"
    dls = loaders(source)
    model = DotProductBias(*dls.vocab.sizes, 4)
    loss = MSELossFlat()
    assert CollabLearner(dls, model, loss).loss_func is loss
    assert isinstance(CollabLearner(dls, model).loss_func, type(loss))
    with pytest.raises(TypeError, match='did you mean `loss_func`'): CollabLearner(dls, model, los_func=loss)

# --- match_embeds, as a tuple and as a mapping

def test_matched_embeds(source, target, tmp_path):
    learn = fit(learner(loaders(source), tmp_path))
    new = learner(loaders(target), tmp_path)
    m = match_embeds(learn.model.state_dict(), learn.vocab, new.vocab)
    wgts,users_missing,items_missing = m
    assert isinstance(m, tuple) and len(m)==3 and m==(wgts,users_missing,items_missing) and m[1:]==(users_missing,items_missing)
    assert m['u_weight.weight'] is wgts['u_weight.weight'] is m.get('u_weight.weight') and m.get('x') is None
    assert list(m.keys())==list(wgts) and list(m.items())==list(wgts.items()) and len(list(m.values()))==len(wgts)
    assert 'u_bias.weight' in m and 'x' not in m and same(dict(m), wgts) and same({**m}, wgts)
    with pytest.raises(KeyError): m['x']
    assert same(tables(m), tables(wgts)) and same(pickle.loads(pickle.dumps(m)).wgts, wgts)
    assert load_pretrained_keys(new.model, m)==([],[])
    assert same(weights(new), wgts)
    new.model.load_state_dict(m) # PyTorch's own takes it, too
    again = match_embeds(m, new.vocab, learn.vocab) # and so does the way back
    assert list(again.keys())==list(wgts)

@pytest.mark.parametrize('bad', [None, 'm', [1,2], 3])
def test_weights_are_a_dict(learn, bad):
    for f in (lambda: match_embeds(bad, learn.vocab, learn.vocab), lambda: load_pretrained_keys(learn.model, bad)):
        with pytest.raises(ValueError, match='wgts` is a dict of tensors, such as `model.state_dict'): f()

# --- copies

def mutable(o, seen=None):
    "The ids of all lists, dicts, sets, tensors and modules that can be reached from `o`"
    seen = {} if seen is None else seen
    if id(o) in seen or isinstance(o, (type,str,bytes,int,float,type(None),torch.dtype,torch.device)) or callable(o) and not hasattr(o, '__dict__'): return seen
    kinds = (list,dict,set,torch.Tensor,np.ndarray,nn.Module,Ratings,Vocab,Learner)
    if isinstance(o, kinds) or hasattr(o, '__dict__'): seen[id(o)] = o
    parts = o.items() if isinstance(o, dict) else [(0,v) for v in o] if isinstance(o, (list,tuple,set)) else []
    for _,v in parts: mutable(v, seen)
    if hasattr(o, '__dict__') and not isinstance(o, type) and type(o).__name__!='module':
        for v in vars(o).values(): mutable(v, seen)
    return seen

def test_deepcopy_shares_no_tensor(learn, target, tmp_path):
    "What a copy learns, its original does not"
    for o in (learn, learner(loaders(target), tmp_path, pretrained=learn, fill=None)):
        before = weights(o)
        other = copy.deepcopy(o)
        shared = set(mutable(o)) & set(mutable(other))
        tensors = [v for k,v in mutable(o).items() if k in shared and isinstance(v, (torch.Tensor,np.ndarray,nn.Module,Learner))]
        assert not tensors, [type(v) for v in tensors]
        fit(other)
        assert same(weights(o), before) and not same(weights(other), before)

def test_tables_of_other_sizes_are_refused_at_once(tmp_path):
    "Users and items exchanged, or sizes of other data: said when the learner is made, not after training or when its file is read"
    dls = loaders(frame('ab','wxyz'))
    for sizes in ((5,3),(5,5),(3,4)):
        with pytest.raises(ValueError, match='they do not belong together'): CollabLearner(dls, DotBias(2, *sizes), path=tmp_path)

def test_a_pair_that_could_not_be_read_is_not_written(tmp_path):
    learn = learner(frame('ab','xy'), tmp_path)
    learn.save('good')
    learn.model.u_weight.weight.data[1] = math.nan
    with pytest.raises(ValueError, match='NaN'): learn.save('good')
    learn.load('good')
    assert learn.model.u_weight.weight.isfinite().all()
