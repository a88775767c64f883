"A source before the first epoch: taken as it is where it helps, and left out where the target's own ratings say that it harms"
from helpers import * # all of the package, and what the tests share
import torch,pytest
from collab_ext.bayes_solver import Trial,clearly_better,rating_rmse
from collab_ext.rows import RatingMatrix
from collab_ext.spectrum import fit_biases
from helpers import domains,loaders,weights

@pytest.fixture(scope='module')
def worlds(): return domains(120, 100, 4000)

@pytest.fixture(scope='module')
def src(worlds, tmp_path_factory):
    learn = collab_learner(loaders(worlds[0], valid_pct=0), 4, path=tmp_path_factory.mktemp('src'))
    with learn.no_bar(),learn.no_logging(): return learn.solve(8).as_pair()

def permuted(wgts, g):
    order = torch.randperm(len(wgts['i_bias.weight']), generator=g)
    return {k:v[order] if k.startswith('i_') else v for k,v in wgts.items()}
def noise(wgts, g): return {k:v.std()*torch.randn(v.shape, generator=g) if v.ndim==2 else v for k,v in wgts.items()}
def opposite(wgts, g): return {k:-v if k in ('i_weight.weight','i_bias.weight') else v for k,v in wgts.items()}
harmful = dict(permuted=permuted, noise=noise, opposite=opposite)

def error(learn, test): return rating_rmse(learn.model, learn.dls.train_ds.encode(test, 'mean'))

def biases_error(train, test):
    "RMSE of the mean and shrunk biases"
    learn = collab_learner(loaders(train, valid_pct=0), 1)
    rm = RatingMatrix.from_ratings(learn.dls.train_ds)
    u,i = fit_biases(rm).rows
    ds = learn.dls.train_ds.encode(test, 'mean')
    pred = rm.y.mean()+u[ds.ids[:,0].long()]+i[ds.ids[:,1].long()]
    return (pred-ds.targ).pow(2).mean().sqrt().item()

@pytest.mark.parametrize('name,share', [('permuted',1.), ('permuted',.4), ('noise',1.), ('opposite',1.)])
def test_no_source_makes_the_start_worse_than_biases(src, worlds, tmp_path, name, share):
    target = worlds[1].sample(frac=share, random_state=0)
    test = target.sample(frac=.2, random_state=1)
    train = target.drop(test.index)
    bad = src._replace(wgts=harmful[name](src.wgts, torch.Generator().manual_seed(0)))
    dls = loaders(train, valid_pct=0)
    trusted = collab_learner(dls, pretrained=bad, path=tmp_path, compare_source=False)
    learn = collab_learner(dls, pretrained=bad, path=tmp_path)
    assert error(trusted,test)>biases_error(train, test)+.02 # it does harm, and
    assert error(learn,test)<biases_error(train, test)+.03 # is not begun with
    assert learn.transfer.began.sweeps and 'was not the best start' in repr(learn.report)

def test_a_source_that_helps_is_taken_as_it_is(src, worlds, tmp_path):
    dls = loaders(worlds[1], valid_pct=0)
    a,b = [collab_learner(dls, pretrained=src, path=tmp_path, compare_source=o) for o in (None,False)]
    for k,v in weights(a).items(): assert torch.equal(v, weights(b)[k])
    assert a.transfer.began[:2]==('source',0) and 'was not the best start' not in repr(a.report)
    assert b.transfer.began is None

def test_a_source_of_another_scale_helps_as_much(src, worlds, tmp_path):
    wide = collab_learner(loaders(worlds[1].assign(rating=20*worlds[1].rating), valid_pct=0), pretrained=src, path=tmp_path)
    assert wide.transfer.began[:2]==('source',0)

def test_a_dropped_source_is_not_in_the_report(src, worlds, tmp_path):
    bad = src._replace(wgts=permuted(src.wgts, torch.Generator().manual_seed(0)))
    learn = collab_learner(loaders(worlds[1], valid_pct=0), pretrained=bad, path=tmp_path)
    assert learn.transfer.dropped and not any(o.any() for o in learn.transfer.moved.values())
    assert (learn.report.to_frame().matched==0).all()
    with learn.no_bar(),learn.no_logging(): learn.fine_tune(2)
    assert learn.transfer.choice.way=='scratch' and learn.transfer.source is None

def test_what_looks_at_nothing_is_refused(src, worlds, tmp_path):
    for kw in (dict(fill='mean'), dict(solve=False)):
        with pytest.raises(TypeError, match='`compare_source` is for rows that are solved for'):
            collab_learner(loaders(worlds[1]), pretrained=src, path=tmp_path, compare_source=True, **kw)
    with pytest.raises(TypeError, match='`compare_source` is for `pretrained`'): collab_learner(loaders(worlds[1]), compare_source=True)
    with pytest.raises(ValueError, match='compare_source'): collab_learner(loaders(worlds[1]), pretrained=src, path=tmp_path, compare_source=3)

def test_a_trial_goes_on_where_it_stopped():
    "Sweeps are made once, whoever asks"
    class Counter:
        def __init__(self): self.n = 0
        def copy(self): return Counter()
        def sweep(self): self.n += 1
        def predict(self, ids): return torch.full((len(ids),), float(self.n))
    made = []
    def way(rm):
        made.append(rm)
        return Counter()
    parts = [('a',torch.zeros(2,2),torch.zeros(2)), ('b',torch.zeros(1,2),torch.ones(1))]
    trial = Trial(dict(one=way), 'all', parts)
    assert trial.after('one', 3).tolist()==[9,9,4] and trial.after('one', 1).tolist()==[1,1,0] and trial.after('one', 4).tolist()==[16,16,9]
    assert made==['a','b']

def test_clearly_better():
    a = torch.tensor([1.,1,1,1])
    assert clearly_better(a, a+.1) and not clearly_better(a, a) and not clearly_better(a+.1, a)
    assert not clearly_better(a, a+torch.tensor([1.,-1,.5,-.4]))
