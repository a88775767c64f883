"Laws of a comparison: against high precision and numerical integration, at every size and type of difference"
import math,warnings
import numpy as np,pytest,torch
from decimal import Decimal,getcontext
from hypothesis import given,settings,strategies as st
from collab_ext.root_laws import *

laws = [UniformLaw(), WinsLaw(), WinsLaw(.3), WinsLaw(8), GradedLaw(2), GradedLaw(3), GradedLaw(21), GradedLaw(1001)]
names = 'cumulant mean variance third'.split()
ids = [repr(o) for o in laws]
finite = st.floats(-1e8, 1e8)
small = st.floats(-40, 40)

def double(*x): return torch.tensor(x, dtype=torch.float64)

def support(law, n=20_001):
    "Answers and the root law's masses; midpoints for a continuous one"
    if isinstance(law, WinsLaw): return np.array([-1,0,1.]),np.array([1,law.tie,1])/(2+law.tie)
    if isinstance(law, GradedLaw): return np.linspace(-1,1,law.levels),np.full(law.levels, 1/law.levels)
    return (np.arange(n)+.5)/n*2-1,np.full(n, 1/n)

def by_sums(law, d):
    "Cumulant, mean, variance and third moment, summed over all answers"
    r,p = support(law)
    logs = law.slope*d*r
    top = logs.max()
    w = p*np.exp(logs-top)
    total = w.sum()
    mean = (w*r).sum()/total
    return [top+math.log(total), mean, *((w*(r-mean)**k).sum()/total for k in (2,3))]

@pytest.mark.parametrize('law', laws, ids=ids)
@settings(max_examples=20)
@given(d=small)
def test_by_sums(law, d):
    res = [getattr(law, o)(double(d)).item() for o in names]
    assert res==pytest.approx(by_sums(law, d), abs=1e-6 if isinstance(law, UniformLaw) else 1e-11)

def exact(d):
    "log(sinh(d)/d) and its derivatives with 60 digits"
    getcontext().prec = 60
    d = Decimal(d)
    sinh = (d.exp()-(-d).exp())/2
    coth = (d.exp()+(-d).exp())/2/sinh
    return [(sinh/d).ln(), coth-1/d, 1/d**2-1/sinh**2, 2*coth/sinh**2-2/d**3]

@given(d=st.floats(1e-6, 600))
def test_uniform_has_all_digits(d):
    "Relative errors, through the seam between series and exponentials"
    for x,o,eps in zip(exact(d), names, (1e-14,1e-14,1e-14,1e-12)):
        assert getattr(UniformLaw(), o)(double(d)).item()==pytest.approx(float(x), rel=eps), o

@pytest.mark.parametrize('law', laws, ids=ids)
@pytest.mark.parametrize('dtype', [torch.float64,torch.float32,torch.bfloat16])
def test_every_size(law, dtype):
    "No NaN, no infinity, no warning; moments within their bounds; odd and even; gradients that are finite"
    sizes = torch.cat([torch.zeros(1), torch.logspace(-40, 8, 400), torch.linspace(.3, 1.2, 50)]).to(dtype).sort().values
    d = torch.cat([-sizes.flip(0), sizes]).requires_grad_()
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        res = {o:getattr(law, o)(d) for o in names}
        g, = torch.autograd.grad(law.nll(d, .3*torch.ones_like(d)).sum(), d)
        drawn = law.sample(d.detach(), torch.Generator().manual_seed(0))
    for o,x in [*res.items(), ('gradient',g), ('drawn',drawn)]: assert x.dtype==dtype and x.shape==d.shape and torch.isfinite(x).all(), o
    loose = 10*torch.finfo(dtype).eps
    assert (res['cumulant']>=0).all() and (res['mean'].abs()<=1+loose).all() and (res['variance']>=0).all() and (res['variance']<=1+loose).all()
    for o,x in res.items(): assert torch.equal(x.flip(0), x*(-1 if o in ('mean','third') else 1)), o
    assert (drawn.abs()<=1).all()
    if dtype==torch.float64: assert (res['mean'].diff()>=-1e-12).all()

@pytest.mark.parametrize('law', laws, ids=ids)
@settings(max_examples=20)
@given(d=finite, r=st.floats(-1,1))
def test_antisymmetry(law, d, r):
    "Exchanging the items and negating the answer changes nothing"
    a,b = double(d),double(r)
    assert torch.equal(law.nll(a, b), law.nll(-a, -b)) and torch.equal(law.grad(a, b), -law.grad(-a, -b))
    assert torch.equal(law.curvature(a), law.curvature(-a))

@pytest.mark.parametrize('law', laws, ids=ids)
@settings(max_examples=20)
@given(m=st.floats(-1, 1, exclude_min=True, exclude_max=True))
def test_inverse_mean(law, m):
    m = double(m)
    d = law.inverse_mean(m)
    assert torch.isfinite(d) and (torch.sign(d)==torch.sign(m) or abs(m)<1e-300)
    assert law.mean(d).item()==pytest.approx(m.item(), rel=1e-12, abs=1e-100)

@pytest.mark.parametrize('law', laws, ids=ids)
def test_inverse_mean_refuses_the_ends(law):
    for bad in (1., -1., 1.5, float('nan'), float('inf')):
        with pytest.raises(ValueError, match='between −1 and 1'): law.inverse_mean(double(.1, bad))
    assert law.inverse_mean(torch.zeros(0)).shape==(0,) and law.inverse_mean(torch.tensor([[.5]])).dtype==torch.float32

@pytest.mark.parametrize('law', laws, ids=ids)
def test_samples(law):
    "Mean and variance within five standard errors; answers on their marks; a seed fixes them"
    d = double(-300., -4, -.7, 0, 1e-9, 2, 30)
    n = 40_000
    r = law.sample(d.expand(n,-1), torch.Generator().manual_seed(3))
    se = (law.variance(d)/n).sqrt()
    assert ((r.mean(0)-law.mean(d)).abs()<=5*se+1e-12).all()
    fourth = ((r-law.mean(d))**4).mean(0)
    assert ((r.var(0)-law.variance(d)).abs()<=5*(fourth/n).sqrt()+1e-5).all()
    marks = support(law)[0]
    if not isinstance(law, UniformLaw): assert np.abs(r.numpy()[:200,:,None]-marks).min(-1).max()<1e-12
    assert torch.equal(r, law.sample(d.expand(n,-1), torch.Generator().manual_seed(3)))

def test_uniform_samples_have_the_whole_law():
    "By the distribution function, at differences of every size"
    law = UniformLaw()
    for d in (-1e6,-20,-1,0,1e-12,3,500):
        r = law.sample(torch.full((20_000,), float(d), dtype=torch.float64), torch.Generator().manual_seed(5))
        a = abs(d)
        x = r*(-1 if d<0 else 1)
        share = 1+torch.expm1((x-1)*a)/-math.expm1(-2*a) if a>1e-6 else (1+x)/2 # P(answer ≤ x)
        share = share.sort().values
        assert (share-torch.linspace(0,1,20_000)).abs().max()<1.7/20_000**.5

def test_arguments():
    for bad in (-.1, float('nan'), float('inf')):
        with pytest.raises(ValueError, match='tie'): WinsLaw(bad)
    for bad in (1, 2.5, '3'):
        with pytest.raises(ValueError, match='levels'): GradedLaw(bad)
