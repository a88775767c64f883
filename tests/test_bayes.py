"Closed forms of ratings: what a source's prior may do, and whose rows it moves"
import pytest
from helpers import *

def solved(df, path, k=6, **kwargs):
    learn = collab_learner(loaders(df, valid_pct=0), k, path=path, model_dir='models', **kwargs)
    with learn.no_bar(),learn.no_logging(): return learn.solve(10)

@pytest.fixture(scope='module')
def populations():
    "Two populations that share the items; the second's users are named like the first's, and are others"
    old,new = cross_domain_split(simulate_ratings(200, 100, 8000).ratings)
    names = dict(zip(new.user.unique(), old.user.unique()))
    return old,new,new.assign(user=new.user.map(names)).dropna()

def without_ridge(prior):
    "As 0.0.1 saved it: the last feature twice, and no ridge, so that the moment has no inverse"
    sides = [dict(o, feature_moment=(np.array(o['feature_moment'])*0).tolist()) for o in prior['sides']]
    return dict(prior, sides=sides)

def test_users_of_the_same_name(populations, tmp_path):
    "Users who are named like others are taken for new, and the learner is the one that a translation to nobody gives"
    old,_,new = populations
    src = solved(old, tmp_path)
    with pytest.warns(UserWarning, match="labels of 'user' are in the source too, and look like other users"):
        learn = collab_learner(loaders(new), pretrained=src, path=tmp_path)
    told = collab_learner(loaders(new), pretrained=src, path=tmp_path, id_map=dict(user={}))
    assert same(weights(learn), weights(told))
    assert any('look like other users' in o for o in learn.report.notes)
    assert learn.transfer.start.rmse<learn.transfer.start.mean_rmse

def test_items_of_the_same_name(populations, tmp_path):
    old,_,_ = populations
    names = dict(zip(old['item'].unique(), np.roll(old['item'].unique(), 7)))
    new = old.assign(item=old['item'].map(names)).sample(frac=.5, random_state=0)
    src = solved(old, tmp_path)
    with pytest.warns(UserWarning, match="look like other items"): collab_learner(loaders(new), pretrained=src, path=tmp_path)

@pytest.mark.parametrize('seed', range(4))
def test_the_same_users_are_believed(populations, tmp_path, seed):
    "New ratings of the source's own users and items"
    old,_,_ = populations
    out = old.sample(frac=.3, random_state=seed)
    src = solved(old.drop(out.index), tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        learn = collab_learner(loaders(out), pretrained=src, path=tmp_path)
    assert not any('look like' in o for o in learn.report.notes)

def test_a_start_below_the_mean_is_said(populations, tmp_path):
    "A source of other people and other things, of which too few tell"
    old,new,_ = populations
    src = solved(old, tmp_path).as_pair()
    wgts = {k:v*30 if k.endswith('bias.weight') else v for k,v in src.wgts.items()}
    harmful = dict(pretrained=src._replace(wgts=wgts, info={}), path=tmp_path)
    with pytest.warns(UserWarning, match='the source does harm'): collab_learner(loaders(new), compare_source=False, **harmful)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        learn = collab_learner(loaders(new), **harmful)
    assert learn.transfer.start.rmse<learn.transfer.start.mean_rmse and 'was not the best start' in repr(learn.report)

@pytest.mark.parametrize('y_range', [None,(0,6)])
def test_rounding_does_not_grow(populations, tmp_path, y_range):
    "A millionth in the source's tables moves no error after ten rounds"
    old,new,_ = populations
    pair = solved(old, tmp_path, 20, y_range=y_range).as_pair()
    dls = loaders(new)
    def error(wgts):
        mf = collab_learner(dls, 20, pretrained=pair._replace(wgts=wgts), path=tmp_path, y_range=y_range).solver.mf.copy()
        for _ in range(10): mf.sweep()
        ds = dls.valid_ds
        return (mf.predict(ds.ids)-ds.targ).pow(2).mean().sqrt().item()
    moved = {k:v*(1+1e-6*torch.randn(v.shape)) for k,v in pair.wgts.items()}
    assert abs(error(pair.wgts)-error(moved))<1e-4

def test_a_saved_moment_is_a_precision(populations, tmp_path):
    "What is saved of the features has the ridge that their coefficients were estimated with"
    old,_,_ = populations
    for side_prior in solved(old, tmp_path, 20).model.prior['sides']:
        vals = np.linalg.eigvalsh(np.array(side_prior['feature_moment']))
        assert vals.min() > 1e-6*vals.max()

def test_a_moment_of_version_0_0_1(populations, tmp_path):
    "Without its ridge it has no inverse; reading it gives it a floor"
    old,new,_ = populations
    pair = solved(old, tmp_path, 20).as_pair()
    info = dict(pair.info, prior=without_ridge(pair.info['prior']))
    learn = collab_learner(loaders(new), 20, pretrained=pair._replace(info=info), path=tmp_path)
    with learn.no_bar(),learn.no_logging(): learn.fine_tune(2)
    assert all(v.isfinite().all() for v in learn.model.state_dict().values())

@pytest.mark.parametrize('y_range', [None,(0,6)])
@pytest.mark.parametrize('n', [1,2,3])
def test_few_ratings(populations, tmp_path, y_range, n):
    "A source, or a target, of one to three ratings"
    old,new,_ = populations
    tiny = old.iloc[:n]
    src = solved(tiny, tmp_path, 3, y_range=y_range)
    target = collab_learner(loaders(pd.concat([new, tiny])), 3, pretrained=src, path=tmp_path, y_range=y_range)
    with target.no_bar(),target.no_logging(): target.fine_tune(1)
    few = collab_learner(loaders(tiny, valid_pct=0), 3, pretrained=solved(old, tmp_path, 3), path=tmp_path, y_range=y_range)
    with few.no_bar(),few.no_logging(): few.fine_tune(1)
    for o in (src,target,few): assert all(v.isfinite().all() for v in o.model.state_dict().values())

# ---- How much structure, and with which loops

def rating_matrix(seed=0, n=400, users=40, items=30):
    rng = np.random.default_rng(seed)
    pairs = rng.permutation(users*items)[:n]
    ids = torch.tensor(np.stack([pairs//items+1, pairs%items+1], 1))
    return RatingMatrix(ids, torch.tensor(rng.integers(1, 6, n), dtype=torch.float32), (users+1,items+1))

@pytest.mark.parametrize('y_range', [None,(.5,5.5)])
@pytest.mark.parametrize('k', [1,7,8,20])
def test_compiled_and_plain_rows_are_the_same(k, y_range):
    "Both paths, several sweeps of one side each, from the same start"
    rm = rating_matrix()
    link = Link(y_range)
    mf = BayesMF.from_scratch(rm, k, link.inverse(3.).item(), link)
    mf.sweep()
    for s in (0,1):
        a,b = mf.copy(),mf.copy()
        a.update(s, path='numba')
        b.update(s, path='torch')
        torch.testing.assert_close(a.sides[s].mean, b.sides[s].mean, atol=2e-4, rtol=1e-3)
        torch.testing.assert_close(a.sides[s].cov, b.sides[s].cov, atol=2e-4, rtol=1e-3)
        assert a.noise==pytest.approx(b.noise, rel=1e-4)

@pytest.mark.parametrize('s', [0,1])
def test_rows_are_the_posterior_of_each_row(s):
    "Each row against its own little system, in double precision"
    rm,noise = rating_matrix(3),.7
    n,m = rm.sizes[s],rm.sizes[1-s]
    k = 5
    set_seed(0)
    x = torch.cat([torch.randn(m,k-1), torch.ones(m,1)], 1)
    B = torch.randn(3,k,k)*.2
    group = torch.arange(m)%3
    other = Regressors(x, torch.randn(m), group, B@B.transpose(1,2))
    precision = torch.stack([torch.eye(k), 3*torch.eye(k)])
    prior = RowPrior(precision, torch.randn(n,k), torch.arange(n)%2)
    weight = torch.rand(len(rm.y))+.5
    got = gaussian_rows(rm, s, other, prior, noise, rm.y, weight, sampled=torch.ones(n).bool())
    total = torch.zeros(k,k).double()
    for r in range(n):
        A,h = precision[r%2].double(),precision[r%2].double()@prior.mean[r].double()
        for j in (rm.ids[s]==r).nonzero()[:,0]:
            i,w = rm.ids[1-s][j],weight[j].double()
            C = other.cov[group[i]].double()
            xx = x[i].double().outer(x[i].double())
            xx[:-1,:-1] += C[:-1,:-1]
            c = torch.cat([C[:-1,-1], torch.zeros(1).double()])
            A = A+w*xx/noise
            h = h+w*(x[i].double()*(rm.y[j]-other.offset[i])-c)/noise
        torch.testing.assert_close(got.mean[r].double(), torch.linalg.solve(A, h), atol=1e-4, rtol=1e-3)
        total += torch.linalg.inv(A)
    torch.testing.assert_close(got.cov[0].double(), total/n, atol=1e-4, rtol=1e-3)

def test_any_number_of_threads_gives_the_same_bits():
    "Sums over parts are taken in their order, whoever made them, and tensor operations of a sweep run in one thread"
    rm = rating_matrix(1, 20_000, 500, 400)
    before = torch.get_num_threads()
    def trained(threads):
        torch.set_num_threads(threads)
        try:
            mf = BayesMF.from_scratch(rm, 6, 3., guess=guess)
            for _ in range(5): mf.sweep()
            assert torch.get_num_threads()==threads
            return [t.mean for t in mf.sides],mf.noise
        finally: torch.set_num_threads(before)
    guess = first_guess(rm, 6)
    (one,noise),(three,again) = trained(1),trained(3)
    assert all(torch.equal(a, b) for a,b in zip(one, three)) and noise==again

def test_the_order_of_ratings_does_not_matter():
    rm = rating_matrix(1, 3000, 100, 90)
    mixed = torch.randperm(len(rm.y), generator=torch.Generator().manual_seed(1))
    other = RatingMatrix(rm.ids.T[mixed], rm.y[mixed], rm.sizes)
    mfs = [start_from_scratch(o, 6, 3.) for o in (rm,other)]
    for mf in mfs:
        for _ in range(4): mf.sweep()
    assert all(torch.equal(a.mean, b.mean) for a,b in zip(*[mf.sides for mf in mfs]))

@pytest.mark.parametrize('seed', range(6))
def test_the_evidence_bound_rises(seed):
    "Noise, few ratings, or tastes: every sweep raises it"
    users,items,n = [(300,200,6000),(60,40,900),(500,500,3000)][seed%3]
    rm = rating_matrix(seed, n, users, items)
    if seed>2:
        gen = torch.Generator().manual_seed(seed)
        tastes = [torch.randn(m, 3, generator=gen) for m in rm.sizes]
        rm.y = rm.y + (tastes[0][rm.ids[0]]*tastes[1][rm.ids[1]]).sum(1)
    mf = BayesMF.from_scratch(rm, 5, rm.y.mean().item(), guess=guess_of_width(rm, 5), sets=False)
    bounds = []
    for _ in range(15):
        mf.sweep()
        bounds.append(evidence_bound(mf))
    assert all(b>a for a,b in zip(bounds, bounds[1:]))

@pytest.mark.parametrize('y_range', [None,(1,10)])
def test_sparse_ratings_are_no_worse_than_biases(y_range):
    "One or two ratings a user, of noise and weak biases"
    rng = np.random.default_rng(0)
    n = 3000
    df = pd.DataFrame(dict(user=rng.integers(0, 2000, n), item=rng.integers(0, 1500, n))).drop_duplicates(['user','item'])
    df['rating'] = np.clip(np.round(5.5+2*rng.normal(size=len(df))), 1, 10)
    test = df.sample(frac=.2, random_state=0)
    learn = collab_learner(CollabDataLoaders.from_df(df.drop(test.index), valid_pct=0, unknown='mean', device='cpu'), y_range=y_range)
    with learn.no_bar(),learn.no_logging(): learn.solve()
    pred = learn.get_preds(dl=learn.dls.test_dl(test))[0].numpy()
    error = np.sqrt(((pred-test.rating)**2).mean())
    assert error < 1.01*np.sqrt(((df.drop(test.index).rating.mean()-test.rating)**2).mean())

@pytest.mark.parametrize('seed', range(3))
def test_biases_of_few_ratings_are_as_good_as_with_their_true_variances(seed):
    "As many ratings as rows: within 1 % of the error of the ridge solution that knows the variances"
    rng = np.random.default_rng(seed)
    sizes,n,variances = (400,600),1000,(.4,.25)
    pairs = pd.DataFrame({o:rng.integers(0, m, 4*n) for o,m in zip(('user','item'), sizes)}).drop_duplicates().to_numpy()
    truth = [v**.5*rng.normal(size=m) for v,m in zip(variances, sizes)]
    y = 3+truth[0][pairs[:,0]]+truth[1][pairs[:,1]]+rng.normal(size=len(pairs))
    rm = RatingMatrix(tensor(pairs[:n]), tensor(y[:n]), sizes)
    mf = BayesMF.from_scratch(rm, 0, rm.y.mean().item(), sets=False)
    for _ in range(6): mf.sweep()
    X = np.zeros((n, sum(sizes)))
    X[np.arange(n),pairs[:n,0]] = X[np.arange(n),sizes[0]+pairs[:n,1]] = 1
    ridge = np.repeat([1/v for v in variances], sizes)
    rows = np.linalg.solve(X.T@X+np.diag(ridge), X.T@(y[:n]-y[:n].mean()))
    known = y[:n].mean()+rows[pairs[n:,0]]+rows[sizes[0]+pairs[n:,1]]
    def rmse(pred): return np.sqrt(((pred-y[n:])**2).mean())
    assert rmse(mf.predict(tensor(pairs[n:])).numpy()) < 1.01*rmse(known)

@pytest.mark.parametrize('ratings', [[3.]*6, [1.,5,1,5,1,5], [1e6]*5+[2e6], [0.]*6])
def test_ratings_that_tell_nothing(ratings):
    "One user, ratings all alike, in the millions: finite, and no worse than the mean"
    for users in ([1]*6, range(6)):
        df = pd.DataFrame(dict(user=list(users), item=range(6), rating=ratings))
        learn = collab_learner(CollabDataLoaders.from_df(df, valid_pct=0, unknown='mean', device='cpu'), 20)
        with learn.no_bar(),learn.no_logging(): learn.solve()
        pred = learn.get_preds(ds_idx=0)[0].numpy()
        assert np.isfinite(pred).all()
        assert ((pred-learn.dls.train_ds.targ.numpy())**2).mean() <= df.rating.var(ddof=0)*1.01+1e-6

def test_what_was_found_to_tell_nothing_stays_out(tmp_path):
    "Where sets of ratings tell nothing, the saved prior does not read them, and a loaded learner goes on without"
    rng = np.random.default_rng(1)
    df = pd.DataFrame(dict(user=rng.integers(0, 2000, 3000), item=rng.integers(0, 1500, 3000))).drop_duplicates()
    df['rating'] = 3+rng.normal(size=len(df)).round(2)
    learn = collab_learner(loaders(df, valid_pct=0), path=tmp_path)
    with learn.no_bar(),learn.no_logging(): learn.solve()
    assert not learn.solver.mf.sets
    assert [len(o['coefs']) for o in learn.model.prior['sides']]==[1,1]
    learn.save('mine')
    other = collab_learner(loaders(df, valid_pct=0), path=tmp_path).load('mine')
    with other.no_bar(),other.no_logging(): other.solve(1)
    assert not other.solver.mf.sets and other.solver.mf.sides[0].implicit is None

@pytest.mark.parametrize('y_range', [None,(0,6)])
def test_tables_that_are_made_again_say_the_same(y_range):
    "Large tables of features and of implicit means are not kept"
    from collab_ext.bayes import BayesMF
    from collab_ext.model import Link
    from collab_ext.rows import RatingMatrix
    set_seed(0)
    ids = torch.stack([torch.randint(1,300,(4000,)), torch.randint(1,40,(4000,))], 1)
    rm = RatingMatrix(ids, torch.randint(1,6,(4000,)).float(), (300,40))
    def trained(most):
        mf = BayesMF.from_scratch(rm, 5, 0. if y_range else 3., Link(y_range))
        mf.most_kept = most
        for _ in range(6): mf.sweep()
        return mf
    kept,made = trained(10**6),trained(0)
    assert kept.sides[0].told is not None and kept.sides[0].feats.table is not None
    assert made.sides[0].told is None and made.sides[0].feats.table is None
    assert made.sides[1].feats.table is not None # made of the larger side
    for a,b in zip(kept.sides, made.sides):
        torch.testing.assert_close(a.mean, b.mean, rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(a.prior_cov, b.prior_cov, rtol=1e-3, atol=1e-5)

def test_priors_without_factors_do_not_believe_their_echo():
    "On a few thousand ratings, biases that learn from the sets of ratings stay where the priors of six sweeps brought them"
    dls = CollabDataLoaders.from_df(simulate_ratings(900, 600, 4000, noise=1.).ratings, valid_pct=.2, seed=0, unknown='mean')
    ds,valid = dls.train_ds,dls.valid_ds
    mf = BayesMF.from_scratch(RatingMatrix.from_ratings(ds), 0, ds.targ.mean().item())
    def error(): return (mf.predict(valid.ids)-valid.targ).square().mean().sqrt().item()
    for _ in range(6): mf.sweep()
    priors = [t.prior_cov for t in mf.sides]
    mf.sweep()
    seven = error()
    for _ in range(13): mf.sweep()
    assert abs(error()-seven)<1e-4 and all(t.prior_cov is o for t,o in zip(mf.sides, priors))

def test_no_rating_explains_itself():
    "Ratings of new users ask for more by their own parts in their users' sets, and those of known users do not"
    rm = RatingMatrix.from_ratings(CollabDataLoaders.from_df(simulate_ratings(200, 100, 8000).ratings, valid_pct=0).train_ds)
    source = BayesMF.from_scratch(rm, 3, 3.)
    for _ in range(6): source.sweep()
    tabs = {t:of_packed(mean_rows(source, side(t)), t) for t in table_names}
    users,items = [torch.arange(n) for n in rm.sizes]
    mf = TransferMF(rm, tabs, [torch.where(users<100, users, -1),items], source.prior(), rm.count).start()
    asked = mf.linearised()[1]-(rm.y-mf.mean)
    known = rm.ids[0]<100
    assert asked[known].abs().max()<1e-6 and (asked[~known]!=0).all()
    assert mf.copy().in_sets is mf.in_sets
