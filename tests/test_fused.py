"The fused step: one rule on all paths, inside fastai's loop"
from helpers import * # all of the package, and what the tests share
import os,signal,subprocess,sys,warnings
import pytest,torch
from importlib.util import find_spec
from pathlib import Path
from torch import nn
from torch import tensor
from fastai.callback.core import Callback,CancelEpochException,CancelFitException
from fastai.callback.fp16 import MixedPrecision
from fastai.callback.hook import ActivationStats
from fastai.callback.schedule import ParamScheduler,SchedLin
from fastai.callback.tracker import EarlyStoppingCallback,SaveModelCallback
from fastai.callback.training import GradientAccumulation,GradientClip
from fastai.losses import L1LossFlat,MSELossFlat
from fastai.metrics import rmse
from fastai.optimizer import Adam,OptimWrapper,RMSProp,SGD
from fastai.torch_core import Tensor,set_seed
from fastcore.all import L,first,noop,partial
from collab_ext.fused import *
from collab_ext.fused import _is_mse,_row_tables
from helpers import fit,frame,learner,loaders,rows,same,weights

needs_numba = pytest.mark.skipif(not find_spec('numba'), reason='numba is not installed')
needs_triton = pytest.mark.skipif(not find_spec('triton'), reason='Triton is not installed')
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason='there is no GPU')
paths = ['torch', pytest.param('numba', marks=needs_numba)]
y_ranges = [None,(0,6)]
held = dict(rate=lambda p: torch.rand(len(p)).round(), pull=lambda p: torch.rand(len(p)), anchor=torch.randn_like)
per_row = [{}, held, dict(rate=held['rate'])]

def case(own, weighted, n=60, k=5, frozen=(), device='cpu'):
    "A batch and tables, alike for each call"
    set_seed(3)
    m = DotBias(k, 7, 9).to(device)
    hypers = [(0. if t in frozen else .1*(1+s),.02*s) for s,t in enumerate(table_names)]
    tabs = [RowTable(p.detach().clone()*20, *h, **{a:f(p) for a,f in own.items()}) for h,p in zip(hypers, tables(m).values())]
    x,y = torch.stack([torch.randint(7,(n,)),torch.randint(9,(n,))], 1).to(device),(torch.rand(n)*4+1).to(device)
    return x,y,torch.rand(n).to(device) if weighted else None,tabs

def outcome(step, chunk, y_range, *args, **kw):
    x,y,w,tabs = case(*args, **kw)
    return by_chunks(step, chunk, x, y, w, tabs, .3, y_range),*[t.w for t in tabs]

def assert_alike(a, b):
    for x,y in zip(a, b): torch.testing.assert_close(x.cpu(), y.cpu(), rtol=1e-4, atol=1e-5)

# ---- One rule ------------------------------------------------------------------------------------------------------

@needs_numba
@pytest.mark.parametrize('y_range', y_ranges)
@pytest.mark.parametrize('own', per_row)
@pytest.mark.parametrize('weighted', [False,True])
@pytest.mark.parametrize('frozen', [(),('u_weight','i_weight'),('i_bias',)])
def test_numba_is_torch_rating_by_rating(y_range, own, weighted, frozen):
    args = own,weighted
    assert_alike(outcome(step_of('numba'), 60, y_range, *args, frozen=frozen), outcome(torch_step, 1, y_range, *args, frozen=frozen))

@needs_numba
@pytest.mark.parametrize('k', [1,3,16,17,64])
def test_numba_of_any_width(k):
    got = outcome(step_of('numba'), 60, None, {}, False, k=k)
    assert_alike(got, outcome(torch_step, 1, None, {}, False, k=k))

@needs_numba
@pytest.mark.parametrize('bad', [(-1,0),(7,0),(0,-2),(0,9)])
def test_ids_beyond_the_tables_are_an_error(bad):
    x,y,w,tabs = case({}, False)
    x[30] = tensor(bad)
    with pytest.raises(IndexError, match='are beyond'): step_of('numba')(x, y, w, tabs)

@pytest.mark.parametrize('y_range', y_ranges)
def test_small_steps_are_those_of_autograd(y_range):
    x,y,w,tabs = case({}, True)
    m = DotBias(5, 7, 9, y_range=y_range)
    ps = list(tables(m).values())
    for p,t in zip(ps, tabs):
        p.data.copy_(t.w)
        t.set_hypers(1e-4, .1)
    n = [torch.zeros(len(p)).index_add_(0, x[:,s%2], w)[:,None] for s,p in enumerate(ps)]
    (.5*(w*(m(x)-y)**2).sum() + .05*sum((c*p**2).sum() for c,p in zip(n,ps))).backward()
    torch_step(x, y, w, tabs, m.mean, y_range)
    for p,t in zip(ps, tabs): torch.testing.assert_close(t.w-p.data, -1e-4*p.grad, rtol=2e-2, atol=1e-6)

@pytest.mark.parametrize('lr', [1e-3,1.,1e3,1e6])
@pytest.mark.parametrize('y_range', y_ranges)
def test_no_rate_explodes(lr, y_range):
    x,y,w,tabs = case({}, False, n=2000)
    for t in tabs: t.set_hypers(lr, t.wd)
    first = torch_step(x, y, w, tabs, 0., y_range)
    for _ in range(30): last = torch_step(x, y, w, tabs, 0., y_range)
    assert all(torch.isfinite(t.w).all() for t in tabs)
    assert ((last-y)**2).mean()<((first-y)**2).mean()

@pytest.mark.parametrize('path', paths)
def test_no_weight_no_step(path):
    x,y,_,tabs = case(held, False)
    before = [t.w.clone() for t in tabs]
    step_of(path)(x, y, torch.zeros(60), tabs)
    for t,b in zip(tabs, before): torch.testing.assert_close(t.w, b)

@pytest.mark.parametrize('path', paths)
def test_rows_outside_the_batch_stay(path):
    x,y,w,tabs = case(held, False)
    x[:] = tensor([2,3])
    before = [t.w.clone() for t in tabs]
    step_of(path)(x, y, w, tabs)
    for s,(t,b) in enumerate(zip(tabs, before)):
        rest = torch.arange(len(b))!=[2,3][s%2]
        assert torch.equal(t.w[rest], b[rest])

def test_settings_are_read_not_made():
    tabs = case(dict(rate=held['rate']), False)[3]
    assert tabs[0].settings.pull.eq(0).all() and tabs[0].settings.anchor.eq(0).all()
    plain = RowTable(torch.randn(3,2))
    before = dict(vars(plain))
    assert plain.per_row().rate.eq(1).all() and plain.per_row() is not plain.per_row()
    assert vars(plain)==before and plain.settings is None

@needs_numba
@pytest.mark.parametrize('which', range(4))
def test_settings_of_one_table(which):
    "The compiled loop looks for settings in all tables or in none"
    res = []
    for path,chunk in (('numba',60),('torch',1)):
        x,y,w,tabs = case({}, True)
        set_seed(7)
        tabs[which] = RowTable(tabs[which].w, .1, .02, **{k:f(tabs[which].w) for k,f in held.items()})
        pred = by_chunks(step_of(path), chunk, x, y, w, tabs, .3, (0,6))
        res.append([pred, *[t.w for t in tabs]])
    assert_alike(*res)

def test_row_tables(source, tmp_path):
    "What callbacks ask for adds up, and all tables have settings or none has"
    learn = learner(loaders(source), tmp_path)
    tabs = tables(learn.model)
    assert all(t.settings is None for t in _row_tables(learn.model, learn.cbs))
    masks = dict(i_weight=torch.arange(len(tabs['i_weight']))<3)
    cbs = [FreezeRows(masks, scale=.5), FreezeRows(masks, scale=.5), L2SP(masks, pull=.7)]
    learn.add_cbs(cbs)
    for cb in cbs: cb('before_fit')
    u,i,*_ = _row_tables(learn.model, learn.cbs)
    assert u.settings.rate.eq(1).all() and i.settings.rate.tolist()==[.25]*3+[1.]*(len(tabs['i_weight'])-3)
    assert i.settings.pull[:3].tolist()==pytest.approx([.7]*3) and i.settings.pull[3:].eq(0).all()
    assert torch.equal(i.settings.anchor[:3], tabs['i_weight'].data[:3])

# ---- Arguments -----------------------------------------------------------------------------------------------------

def test_unknown_path():
    with pytest.raises(ValueError, match="not 'cuda'"): Fused(path='cuda')
    with pytest.raises(ValueError, match="did you mean `torch`"): Fused(path='torhc')
    with pytest.raises(ValueError, match="`path` is one of"): Fused(path=['numba'])

@pytest.mark.parametrize('rate', [0,-1.,float('nan'),float('inf'),'20',True])
def test_bad_rates(rate):
    with pytest.raises(ValueError, match="`rate` is what the learner's rate is multiplied by"): Fused(rate=rate)

@needs_numba
def test_a_path_for_another_device(source, tmp_path):
    learn = make(source, tmp_path, how='numba')
    learn.model.to('meta')
    with pytest.raises(ValueError, match='is for a CPU, and the model is on meta'): learn.fused.before_train()

# ---- In the loop ---------------------------------------------------------------------------------------------------

def make(source, path, cbs=(), how=None, **kw): return learner(loaders(source), path, metrics=rmse, cbs=[Fused(path=how),*L(cbs)], **kw)

def cycle(learn, n=3, lr=.1, **kw):
    with learn.no_bar(),learn.no_logging(): learn.fit_one_cycle(n, lr, **kw)
    return learn

def unchanged(a, b): return {t for t in table_names if torch.equal(a[t], b[t])}
def clones(learn): return {t:p.detach().clone() for t,p in tables(learn.model).items()}

@pytest.mark.parametrize('how', paths)
@pytest.mark.parametrize('y_range', [None,(1,5)])
def test_it_learns(tmp_path, how, y_range):
    df = simulate_ratings(100, 80, 4000).ratings
    learn = make(df, tmp_path, how=how, y_range=y_range)
    before = learn.validate()[1]
    cycle(learn, 10)
    assert learn.recorder.values[-1][2]<before
    assert learn.recorder.values[-1][0]<learn.recorder.values[0][0]

@pytest.mark.parametrize('how', paths)
def test_same_seed_same_bits(source, tmp_path, how):
    def run():
        set_seed(1, reproducible=True)
        return weights(cycle(make(source, tmp_path, how=how)))
    assert same(run(), run())

def test_schedules_reach_the_rule(source, tmp_path):
    seen = []
    learn = learner(loaders(source), tmp_path, cbs=[Fused(bs=64),ParamScheduler(dict(wd=SchedLin(.1,.0)))])
    class Spy(Callback):
        order = 96
        def after_batch(self):
            if self.training: seen.append((self.learn.fused.tabs[0].lr,self.learn.fused.tabs[0].wd))
    cycle(learn, 2, cbs=Spy())
    lrs,wds = zip(*seen)
    assert lrs[0]<max(lrs)>lrs[-1] and wds[0]==pytest.approx(.1) and wds[-1]<.1
    assert list(lrs)==[pytest.approx(20*o) for o in learn.recorder.lrs]

def test_groups_and_freeze(source, tmp_path):
    learn = make(source, tmp_path)
    before = clones(learn)
    cycle(learn, 1, lr=[0.,.1])
    assert unchanged(before, clones(learn))=={'u_weight','i_weight'}
    learn.freeze()
    before = clones(learn)
    cycle(learn, 1)
    assert unchanged(before, clones(learn))=={'u_weight','i_weight'}
    learn.unfreeze()
    cycle(learn, 1)
    assert not unchanged(before, clones(learn))

def test_defaults_are_only_defaults(source, tmp_path):
    assert (make(source, tmp_path).lr,make(source, tmp_path).wd)==(.005,.04)
    assert (learner(loaders(source), tmp_path).lr,learner(loaders(source), tmp_path).wd)==(.005,.1)
    assert (make(source, tmp_path, lr=.3, wd=0.).lr,make(source, tmp_path, lr=.3, wd=0.).wd)==(.3,0.)

def hooked(m): m.register_forward_hook(lambda m, x, y: y*1)
class Late(Callback):
    order = 96
    def before_batch(self): self.learn.yb = (self.yb[0]*0+9.,)

@pytest.mark.parametrize('cbs,model', [([GradientClip()],noop), ([Late()],noop), ([],hooked)])
def test_falling_back_trains_as_without(source, tmp_path, cbs, model):
    "The rate that suits fused steps is not Adam's"
    res = []
    for fused in ([],[Fused()]):
        set_seed(1)
        learn = learner(loaders(source, seed=1), tmp_path, cbs=fused+cbs, wd=.1)
        model(learn.model)
        if fused:
            with pytest.warns(UserWarning, match='trains the ordinary way'): cycle(learn, 2)
        else: cycle(learn, 2)
        res.append(clones(learn))
    assert same(*res)

@pytest.mark.parametrize('kw', [dict(bs=0),dict(bs='64'),dict(bs=True),dict(chunk=-1),dict(chunk=None)])
def test_bad_sizes(kw):
    with pytest.raises(ValueError, match=f"`{first(kw)}` is a number of ratings"): Fused(**kw)

def test_the_bar_counts_fused_batches(source, tmp_path):
    learn = make(source, tmp_path)
    totals = []
    class Bar(Callback):
        order = 96
        def after_train(self): totals.append((len(self.learn.dl), self.learn.progress.pbar.total))
    learn.fit(1, cbs=Bar())
    assert all(a==b for a,b in totals) and totals

def test_held_and_pulled(source, tmp_path):
    learn = make(source, tmp_path)
    rows = {t:torch.arange(len(p))<10 for t,p in tables(learn.model).items()}
    before = clones(learn)
    cycle(learn, 2, cbs=FreezeRows(rows))
    after = clones(learn)
    for t in table_names:
        assert torch.equal(before[t][:10], after[t][:10])
        assert not torch.equal(before[t][10:], after[t][10:])
    def distance(pull):
        learn.model.load_state_dict(dict(learn.model.state_dict(), **{f'{t[0]}_{t[2:]}.weight':v for t,v in after.items()}))
        cycle(learn, 5, cbs=L2SP(rows, pull=pull))
        return (clones(learn)['u_weight'][:10]-after['u_weight'][:10]).norm()
    assert distance(100.)<.2*distance(0.)

def test_the_unknown_user_is_trained(source, tmp_path):
    learn = make(source, tmp_path, unknown_pct=.2)
    before = clones(learn)
    cycle(learn)
    for t in table_names: assert not torch.equal(before[t][0], clones(learn)[t][0])
    learn = make(source, tmp_path, unknown_pct=0.)
    before = clones(learn)
    cycle(learn)
    for t in table_names: assert torch.equal(before[t][0], clones(learn)[t][0])

def test_trackers(source, tmp_path):
    learn = make(source, tmp_path)
    cycle(learn, 4, cbs=[SaveModelCallback('valid_loss', fname='best'), EarlyStoppingCallback('valid_loss', min_delta=10., patience=1)])
    assert len(learn.recorder.values)==2
    assert (tmp_path/'models/best.pth').is_file()

def test_lr_find(source, tmp_path):
    learn = make(source, tmp_path)
    before = weights(learn)
    with learn.no_bar(): res = learn.lr_find(num_it=30, show_plot=False, stop_div=False)
    assert same(before, weights(learn))
    assert len(learn.recorder.lrs)==30 and 1e-7<res.valley<10

def test_train_metrics(source, tmp_path):
    learn = make(source, tmp_path)
    learn.recorder.train_metrics = True
    cycle(learn, 1)
    assert learn.recorder.values[-1][1]==pytest.approx(learn.recorder.values[-1][0]**.5, rel=.1)

def test_batches(source, tmp_path):
    dls = loaders(source)
    for bs,n in ((None,1024),(100,100)):
        learn = collab_learner(dls, 3, path=tmp_path, cbs=Fused(bs=bs))
        cycle(learn, 1)
        assert len(learn.recorder.losses)==-(-len(dls.train_ds)//n)
    assert dls.train.bs==64

def test_weights(source, tmp_path):
    "Ratings without weight teach nothing"
    df = source.assign(weight=(source.user%2).astype(float))
    learn = make(df, tmp_path)
    dls = loaders(df, weight_name='weight')
    learn = collab_learner(dls, 3, path=tmp_path, cbs=Fused(), unknown_pct=0.)
    before = clones(learn)
    cycle(learn)
    even = tensor([o!='#na#' and o%2==0 for o in learn.vocab['user']])
    assert torch.equal(clones(learn)['u_weight'][even], before['u_weight'][even])
    assert not torch.equal(clones(learn)['u_weight'][~even], before['u_weight'][~even])
    plain = fit(collab_learner(dls, 3, path=tmp_path), 2, 1e-3)
    assert plain.recorder.losses[-1]>0

# ---- Falling back --------------------------------------------------------------------------------------------------

def said(learn, n=2, **kw):
    with warnings.catch_warnings(record=True) as w:
        warnings.simplefilter('always')
        for _ in range(2): fit(learn, n, 1e-3, **kw)
    return [str(o.message) for o in w if 'ordinary' in str(o.message)]

@pytest.mark.parametrize('cb',
    [GradientClip, GradientAccumulation, partial(MixedPrecision, amp_mode='bf16'), ActivationStats, partial(Callback, after_step=noop)])
def test_fallback_says_so_once(source, tmp_path, cb):
    if isinstance(cb, partial) and cb.func is MixedPrecision and not torch.cuda.is_available(): pytest.skip('there is no GPU')
    learn = make(source, tmp_path)
    before = clones(learn)
    assert len(said(learn, cbs=cb()))==1
    assert not learn.fused.active and not unchanged(before, clones(learn))
    cycle(learn, 1)
    assert learn.fused.active

def test_other_losses_and_models(source, tmp_path):
    assert 'loss' in said(make(source, tmp_path, loss_func=L1LossFlat()))[0]
    assert 'EmbeddingNN' in said(make(source, tmp_path, use_nn=True))[0]

def test_hooks_and_replaced_forwards(source, tmp_path):
    "Whatever would look at predictions or gradients keeps the ordinary path"
    def reason(change):
        learn = learner(loaders(source), tmp_path)
        assert fused_blocker(learn) is None
        change(learn.model)
        return fused_blocker(learn)
    assert reason(lambda m: m.u_weight.register_forward_pre_hook(noop))=='the model has hooks'
    assert reason(lambda m: m.register_full_backward_hook(noop))=='the model has hooks'
    assert reason(lambda m: m.i_bias.weight.register_hook(noop))=='the model has hooks'
    assert 'DotBias' in reason(lambda m: setattr(m, 'forward', noop))
    assert reason(lambda m: m.half())=='the tables are not float32'

def test_what_is_squared_error():
    for o in (nn.MSELoss(), MSELossFlat(), nn.functional.mse_loss, WeightedMSE()): assert _is_mse(o)
    other = nn.MSELoss(reduction='sum'),MSELossFlat(reduction='sum'),partial(nn.functional.mse_loss, reduction='sum'),L1LossFlat()
    for o in other: assert not _is_mse(o)

# ---- Afterwards ----------------------------------------------------------------------------------------------------

def test_saved_loaded_grown(source, target, tmp_path):
    learn = cycle(make(source, tmp_path))
    learn.save('fused')
    again = make(source, tmp_path).load('fused')
    assert same(weights(learn), weights(again))
    cycle(again)
    before = rows(again, 'u_weight')
    again.grow(target, valid_pct=0, fill='mean')
    for label,row in before.items(): assert torch.equal(row, rows(again, 'u_weight')[label])
    cycle(again, 1)
    moved = learner(loaders(target), tmp_path, pretrained='fused', cbs=Fused())
    with moved.no_bar(),moved.no_logging(): moved.fine_tune(1, .05)

def test_the_optimizers_state_survives(source, tmp_path):
    "Ordinary training, then fused, then ordinary again: averages are kept by row"
    learn = fit(learner(loaders(source), tmp_path), 1)
    state = {k:v.clone() for k,v in learn.opt.state_dict()['state'][0].items() if isinstance(v, Tensor)}
    cycle(learn, 1, cbs=Fused())
    learn.save('both')
    again = learner(loaders(source), tmp_path).load('both')
    for k,v in state.items(): assert torch.equal(v, again.opt.state_dict()['state'][0][k])
    fit(again, 1, 1e-3)

class CtrlC(Callback):
    "The user loses patience at the third batch"
    order = 96
    def __init__(self, event='after_batch'): setattr(self, event, self.stop)
    def stop(self):
        if self.iter==2: signal.raise_signal(signal.SIGINT)

@pytest.mark.parametrize('how', paths)
def test_fused_after_ctrl_c(source, tmp_path, how):
    learn = learner(loaders(source), tmp_path, metrics=rmse, cbs=Fused(path=how, bs=50))
    with pytest.raises(KeyboardInterrupt): cycle(learn, 2, cbs=CtrlC())
    assert learn.dls.train.bs==64 and not any(isinstance(o, CtrlC) for o in learn.cbs)
    assert all(torch.isfinite(p).all() for p in learn.model.parameters())
    assert all(p.requires_grad and p.grad is None for p in learn.model.parameters())
    before = learn.validate()[1]
    assert cycle(learn, 20).recorder.values[-1][2]<before

def test_nothing_of_an_epoch_is_kept(source, tmp_path):
    learn = cycle(make(source, tmp_path), 1)
    assert learn.fused.tabs is None and learn.fused.params is None and learn.fused.step is None

def test_closed_form_beside_it(source, tmp_path):
    learn = make(source, tmp_path)
    with learn.no_bar(),learn.no_logging(): learn.solve(2)
    assert learn.solver is not None

# ---- Rows of other models ------------------------------------------------------------------------------------------

@pytest.mark.parametrize('opt_func', [SGD, Adam, partial(RMSProp, mom=.9)])
def test_sparse_rows_are_dense_where_all_rows_are_there(opt_func, tmp_path):
    df = frame(range(6), list('abcde'))
    def run(cbs):
        set_seed(5)
        dls = loaders(df, splitter=lambda _: (range(30),range(30)), bs=30, shuffle=False)
        return weights(fit(learner(dls, tmp_path, use_nn=True, opt_func=opt_func, wd=.1, unknown_pct=0., cbs=cbs), 5, .01))
    a,b = run([]),run(SparseRows())
    for k in a: torch.testing.assert_close(a[k][1:] if 'embeds' in k else a[k], b[k][1:] if 'embeds' in k else b[k], rtol=1e-3, atol=1e-5)

def test_sparse_rows_touch_nothing_else(source, tmp_path):
    "Whatever the optimizer, gradients and steps have the rows of the batch"
    learn = learner(loaders(source, bs=4), tmp_path, use_nn=True, opt_func=Adam, wd=.1, cbs=SparseRows(), unknown_pct=0.)
    fit(learn, 1)
    before,state = weights(learn),learn.opt.state_dict()['state'][0]['sqr_avg'].clone()
    class Once(Callback):
        order = 96
        def before_fit(self): self.seen = None
        def after_batch(self):
            self.seen = self.x
            raise CancelFitException
    once = Once()
    fit(learn, 1, cbs=once)
    for j,k in enumerate(('embeds.0.weight','embeds.1.weight')):
        rest = torch.ones(len(before[k])).bool()
        rest[once.seen[:,j]] = False
        assert torch.equal(weights(learn)[k][rest], before[k][rest])
        assert not torch.equal(weights(learn)[k][~rest], before[k][~rest])
        if not j: assert torch.equal(learn.opt.state_dict()['state'][0]['sqr_avg'][rest], state[rest])

def test_sparse_rows_stay_out_of_the_way(source, tmp_path):
    learn = learner(loaders(source), tmp_path, use_nn=True, cbs=SparseRows())
    with pytest.warns(UserWarning, match='stays out of the way: gradient_clip'): fit(learn, 1, cbs=GradientClip())

def test_sparse_rows_saved_and_loaded(source, tmp_path):
    learn = fit(learner(loaders(source), tmp_path, use_nn=True, cbs=SparseRows()))
    learn.save('sparse')
    again = learner(loaders(source), tmp_path, use_nn=True, cbs=SparseRows()).load('sparse')
    assert same(learn.opt.state_dict()['state'][0], again.opt.state_dict()['state'][0])
    fit(again)
    assert not any(m.sparse for m in again.model.modules() if isinstance(m, nn.Embedding))

def layers(learn): return [m for m in learn.model.modules() if isinstance(m, nn.Embedding)]

@pytest.mark.parametrize('event', ['after_pred','after_loss','after_batch'])
def test_sparse_rows_after_ctrl_c(source, tmp_path, event):
    "Layers are what they were, whoever made them so"
    learn = learner(loaders(source), tmp_path, use_nn=True, cbs=SparseRows())
    layers(learn)[1].sparse = True
    with pytest.raises(KeyboardInterrupt): fit(learn, cbs=CtrlC(event))
    assert [m.sparse for m in layers(learn)]==[False,True]
    assert 'all_batches' not in vars(learn)
    fit(learn)
    assert [m.sparse for m in layers(learn)]==[False,True]

def test_sparse_rows_of_one_fit(source, tmp_path):
    "An error before the first batch leaves nothing to the next `fit`"
    learn = learner(loaders(source), tmp_path, use_nn=True)
    class Early(Callback):
        order = 96
        def before_epoch(self): raise self.ex('early')
    for ex in (RuntimeError,CancelEpochException):
        early = Early()
        early.ex = ex
        try: fit(learn, cbs=[SparseRows(),early])
        except RuntimeError: assert ex is RuntimeError
        fit(learn)
        assert 'all_batches' not in vars(learn) and not any(m.sparse for m in layers(learn))

def test_sparse_rows_and_validation(source, tmp_path):
    "Nothing is said or changed where nothing is trained"
    learn = learner(loaders(source), tmp_path, use_nn=True, cbs=SparseRows())
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        learn.validate()
        learn.get_preds()
    assert 'all_batches' not in vars(learn) and not any(m.sparse for m in layers(learn))

def test_sparse_rows_with_a_torch_optimizer(source, tmp_path):
    learn = learner(loaders(source), tmp_path, use_nn=True, opt_func=partial(OptimWrapper, opt=torch.optim.SGD), cbs=SparseRows())
    with pytest.warns(UserWarning, match="the optimizer is not one of fastai's"): fit(learn)

# ---- Elsewhere -----------------------------------------------------------------------------------------------------

@needs_numba
def test_compiles_where_nothing_can_be_written(tmp_path):
    "A package folder and a home that are read-only"
    cmd = "import numba.core.caching as c; c.CacheImpl._locator_classes = []; import collab_ext.fused_numba as f; print(f._loop)"
    res = subprocess.run([sys.executable, '-c', cmd], capture_output=True, text=True)
    assert 'CPUDispatcher' in res.stdout, res.stderr

interpreted = """
import torch, sys
sys.path.insert(0, 'tests')
from test_fused import *
for own in per_row:
    for weighted in (False,True):
        for y_range in y_ranges:
            for frozen in ((),('u_weight','i_weight')):
                a,b = [outcome(step_of(o), 20, y_range, own, weighted, frozen=frozen) for o in ('torch','triton')]
                assert_alike(a, b)
print('alike')
"""

@needs_triton
def test_triton_is_torch():
    "In Triton's interpreter, which needs no GPU"
    kw = dict(env=dict(os.environ, TRITON_INTERPRET='1'), cwd=Path(__file__).parent.parent)
    res = subprocess.run([sys.executable, '-W', 'ignore', '-c', interpreted], capture_output=True, text=True, **kw)
    assert 'alike' in res.stdout, res.stderr

@needs_gpu
@needs_triton
@pytest.mark.parametrize('own', per_row)
def test_triton_on_a_gpu(own):
    got = outcome(step_of('triton'), 20, (0,6), own, True, device='cuda')
    assert_alike(got, outcome(torch_step, 20, (0,6), own, True))

@needs_gpu
def test_learner_on_a_gpu(source, tmp_path):
    def run():
        set_seed(1, reproducible=True)
        return weights(cycle(learner(loaders(source, device='cuda'), tmp_path, cbs=Fused())))
    assert same(run(), run())
