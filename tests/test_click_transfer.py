"Strengths chosen on held-out clicks, and what other people's clicks add"
from helpers import * # all of the package, and what the tests share
import itertools,numpy as np,pandas as pd,pytest,scipy.sparse as sp,torch
from hypothesis import given,settings,strategies as st
from collab_ext.click_trials import *
from collab_ext.rows import *
from collab_ext.ials import *
from collab_ext.click_sources import *
from collab_ext.linear import *
from collab_ext.implicit import *

def loaders(df, **kw): return CollabDataLoaders.from_interactions(df, **{**dict(valid_pct=0, unknown='mean', device='cpu'), **kw})

@pytest.fixture(scope='module')
def clicks(): return simulate_clicks()

@pytest.fixture(scope='module')
def sources(clicks): return [linear_learner(loaders(clicks[clicks.user.between(*o)])) for o in ((0,59),(60,139))]

@pytest.fixture(scope='module')
def target(clicks): return loaders(clicks[clicks.user>=140], valid_pct=.5, seed=42)

def shuffled(df):
    items = df['item'].unique()
    return df.assign(item=df['item'].map(dict(zip(items, np.random.default_rng(0).permutation(items)))))

def quality(learn): return learn.evaluate(baselines=False).ndcg['model']

# ---- Closed forms ----

@settings(max_examples=20, deadline=None)
@given(st.integers(1,12), st.integers(1,12), st.floats(.1, 50), st.integers(0, 1000))
def test_both_ways_to_solve_agree(n_users, n_items, ridge, seed):
    A = sp.random(n_users, n_items, .5, format='csr', random_state=seed).astype(np.float32)
    ridges = np.linspace(ridge, 2*ridge, n_items)
    G = torch.from_numpy(A.toarray()).double()
    P = torch.linalg.inv(G.T@G+torch.diag(torch.from_numpy(ridges)))
    want = (P/-P.diagonal()).fill_diagonal_(0)
    assert torch.allclose(ease_matrix(A, ridges).double(), want, atol=1e-4)

@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=6))
def test_the_best_strength_lies_beside_the_best_trial(found):
    strengths = 10.**np.arange(len(found))
    j = int(np.argmax(found))
    assert strengths[max(j-1, 0)]<=best_strength(strengths, found)<=strengths[min(j+1, len(found)-1)]

def test_parts_hold_out_each_click_at_most_once():
    X = sp.random(50, 40, .3, format='csr', random_state=0)
    held = [o for _,o in click_parts(X)]
    assert (sum((o>0).astype(int) for o in held)).max()==1

def test_scores_of_a_trial_are_those_of_the_model(clicks):
    ds = loaders(clicks).train_ds
    model = EASE(ds.ids, ds.targ, ds.vocab.sizes, ridge=50., popularity=0.)
    from collab_ext.linear import _trial_scores_by_items,_trial_scores_by_users,_weighted_rows,_weights
    X = model.history
    w = _weights(X, .3, .1, None, 0.)
    A,x = _weighted_rows(X, w, None),X[1:20]
    want = model.of_history(x).numpy()
    free = x.toarray()==0 # a trial looks at no item that the user has
    for trial_scores in (_trial_scores_by_items,_trial_scores_by_users):
        got = next(iter(trial_scores(x, A, w[2], [50.], 3.)))
        assert np.allclose(got[free], want[free], atol=1e-4)

# ---- Strengths ----

def test_people_of_the_source_judge_the_ridge_too(clicks):
    "Users with few clicks alone would want another ridge than people with many"
    from collab_ext.linear import _with_judges
    ridges = (10.,30.,100.,300.,1000.)
    short,long = [{(ridge,w,0.):np.array([q]) for w in (1.,0.) for ridge,q in zip(ridges, o)} for o in ((.01,.02,.03,.04,.05),(.2,.3,.3,.2,.1))]
    both = LinearTrial(short, long).both
    assert [max(ridges, key=lambda o: both[o,w,0.]) for w in (1.,0.)]==[100.,1000.] # without a source, nobody of it is asked
    X = loaders(clicks).train_ds
    X = ItemModel(X.ids, X.targ, X.vocab.sizes).history
    few,many = list(click_parts(X[140:]))[0][1],X[1:140]
    source = ItemStatistics(many, many.getnnz(1), many.getnnz(0))
    left,rest,held = _with_judges(few, source, n=50)
    assert rest.shape[0]==50 and left.rows.nnz+held.nnz==many.nnz and (left.row_counts.sum()==many.nnz)
    assert _with_judges(few, source._replace(rows=-many))[1].shape[0]==0 # rows of vectors are no people
    ridge,weight,_,trial = choose_ease(few, None, 3., .3, .1, source, least=100)
    ridges,quality = zip(*[(o[0],trial.own[o].mean()*trial.theirs[o].mean()) for o in trial.own if o[1]==weight])
    assert weight and np.isclose(ridge, best_strength(ridges, quality))
    assert choose_ease(few, None, 3., .3, .1, source._replace(rows=many*0), 0., least=100)[0]==choose_ease(few, None, 3., .3, .1, least=100)[0]

def a_few(X, share, seed):
    "A share of the clicks of `X`"
    X = X.tocoo()
    some = np.random.default_rng(seed).random(X.nnz)<share
    return sp.csr_matrix((X.data[some], (X.row[some],X.col[some])), shape=X.shape)

def test_people_of_the_source_judge_its_weight_too(clicks):
    "Users with a click or two would let it count a tenth, at which people with many lose"
    ds = loaders(clicks).train_ds
    X = ItemModel(ds.ids, ds.targ, ds.vocab.sizes).history
    source = ItemStatistics(X[1:101], X[1:101].getnnz(1), X[1:101].getnnz(0))
    nobody = source._replace(row_people=np.full(100, 1+1e-4)) # nearly the same rows, but of no people
    few = [a_few(X[101:], .15, seed) for seed in range(6)]
    weights = [[choose_ease(o, None, 3., .3, .1, s, least=100)[1] for o in few] for s in (source,nobody)]
    assert min(weights[0])==1 and 0<min(weights[1])<1

def test_popularity_comes_first_beside_a_source(clicks):
    "Weights and ridges are compared at what popularity may add, and not at what is usual without a source"
    ds = loaders(clicks).train_ds
    X = ItemModel(ds.ids, ds.targ, ds.vocab.sizes).history
    source,few = ItemStatistics(X[1:101], X[1:101].getnnz(1), X[1:101].getnnz(0)),a_few(X[101:], .15, 0)
    def compared_at(*args, ridge=None, **kw): return {t for *_,t in choose_ease(few, ridge, 3., .3, .1, *args, least=100, **kw)[3].own}
    def first(ridge): return try_ease(few, 3., .3, .1, source, (1.,), ridges=[ridge], popularities=popularity_grid).least_popularity()
    assert compared_at(source)=={first(100.)} and compared_at(source, ridge=3000.)=={first(3000.)}
    assert first(100.)!=first(3000.)!=usual_popularity
    assert compared_at()==compared_at(source, 0.)=={usual_popularity} and compared_at(source, popularity=.2)=={.2}

def test_people_of_the_source_judge_graph_filters_too(clicks, monkeypatch):
    import collab_ext.linear as linear
    def says(short, long):
        "A trial in which users say one thing and the source's people another, of weights of 1, .3, .1 and 0"
        def trial(X, rank, sharpen, user_pow, settings, source, weights, popularities):
            options = list(itertools.product(settings, weights, popularities))
            rest = lambda o: (o[0][0]==.05)+(o[0][1]==.25)+(o[2]==.1) # what is the best of all else
            noise = .3*(np.arange(9)%3-1) # users differ in what a source is worth
            return LinearTrial(*[{o:q[o[1]]+.1*rest(o)+noise*o[1] for o in options} for q in (short,long)])
        monkeypatch.setattr(linear, 'try_graph', trial)
        return choose_graph(X, 16, .5, .3, None, None, source, least=100)[0]
    ds = loaders(clicks).train_ds
    X = ItemModel(ds.ids, ds.targ, ds.vocab.sizes).history
    source = ItemStatistics(X[1:101], X[1:101].getnnz(1), X[1:101].getnnz(0))
    few,many,same = {1.:.30,.3:.31,.1:.33,0.:.1},{1.:.4,.3:.3,.1:.2,0.:.1},dict.fromkeys((1.,.3,.1,0.), .4)
    assert says(few, same)==(.05,.25,.1,.1) and says(few, many)==(.05,.25,1.,.1)
    assert says({**few, 0.:.5}, many)[2]==0 and says({**few, 0.:.2}, many)[2]==1 # whether it is needed at all, users alone say

def test_popularity_is_the_same_for_people_who_judge_graph_filters(clicks, monkeypatch):
    import collab_ext.linear as linear
    ds = loaders(clicks).train_ds
    X = ItemModel(ds.ids, ds.targ, ds.vocab.sizes).history
    source,few = ItemStatistics(X[1:101], X[1:101].getnnz(1), X[1:101].getnnz(0)),a_few(X[101:], .15, 0)
    asked = []
    monkeypatch.setattr(linear, '_usual_best', lambda scores: asked.append(len(scores)) or 1.)
    [own],[theirs] = [o.values() for o in try_graph(few, 16, .5, .3, [(.2,.4)], source, (1.,), (.3,))]
    assert sum(asked)==len(own) and len(theirs)==100

def test_a_source_is_dropped_where_it_clearly_harms():
    from collab_ext.linear import _kept_weight
    rng = np.random.default_rng(0)
    noise = rng.normal(size=400)
    alone = .2+.1*(noise-noise.mean())/noise.std()
    def with_loss(errors, of=1): return alone-errors*.1/20+.1*(-1)**(np.arange(400)//of) # differences of .1, and so a standard error of .005
    kept = [_kept_weight([with_loss(o),with_loss(o+1),alone], [with_loss(o),with_loss(o+1),alone], lambda j: True) for o in (-1,1,1.9,2.1)]
    assert kept==[0,0,0,2]
    full,tenth,sure = with_loss(-1),with_loss(-1.5, 2),with_loss(-3, 2)
    assert _kept_weight([full*.3,sure*.2,alone], [full,sure,alone], lambda j: True)==1 # users who are sure rule a weight out
    assert _kept_weight([full,tenth,alone], [full,tenth,alone], lambda j: True)==1
    assert _kept_weight([full*.3,tenth*.2,alone], [full,tenth,alone], lambda j: True)==0 # as people of the source would have it
    assert _kept_weight([full,tenth,alone], [full,tenth,alone], lambda j: False)==2

@pytest.mark.parametrize('kind,names', [('ease',['ridge','popularity']), ('graph',['low_pass','item_pow','popularity'])])
def test_a_model_says_what_it_chose(target, kind, names):
    learn = linear_learner(target, kind)
    assert f"chosen on held-out clicks: {', '.join(names)}" in repr(learn.model)
    again = linear_learner(target, kind)
    assert learn.model.settings==again.model.settings
    fixed = linear_learner(target, kind, **{o:learn.model.settings[o] for o in names})
    assert fixed.model.trial is None and 'chosen' not in repr(fixed.model)

def test_ials_chooses_by_name_alone(target):
    chosen = implicit_learner(target, 4, loss_func='ials').loss_func
    assert chosen.reg!=IALSLoss().reg or chosen.alpha0!=IALSLoss().alpha0
    given = implicit_learner(target, 4, loss_func=IALSLoss(reg=.5)).loss_func
    assert given.reg==.5 and 'reg=0.5' in repr(given)

def test_a_few_clicks_are_enough():
    few = loaders(pd.DataFrame(dict(user=[1,1,2,3], item=list('abac'))))
    assert linear_learner(few).model.settings['ridge']==100
    assert len(implicit_learner(few, 3, loss_func='bpr').recommend(k=1))==3
    assert implicit_learner(few, 3, loss_func='ials').loss_func.reg==IALSLoss().reg

@pytest.mark.parametrize('loss', ['softmax','ccl'])
def test_a_linear_start_has_the_lists_of_the_linear_model(target, loss):
    set_seed(0)
    started,chance = [implicit_learner(target, 24, loss_func=loss, start=o) for o in ('linear','random')]
    assert quality(started)>.7*quality(linear_learner(target)) and quality(started)>quality(chance)
    if loss=='ccl': assert torch.allclose(started.model.i_weight.weight.norm(dim=1), torch.tensor(1.), atol=1e-4)

# ---- Transfer ----

@pytest.mark.parametrize('kind', ['ease','graph'])
def test_a_source_helps_and_two_help_more(target, sources, kind):
    alone = quality(linear_learner(target, kind))
    one = [quality(linear_learner(target, kind, pretrained=o)) for o in sources]
    both = linear_learner(target, kind, pretrained=sources)
    assert min(one)>alone and quality(both)>=max(one)
    assert 'source 2 is worth' in both.report.notes[0]

@pytest.mark.parametrize('kind', ['ease','graph'])
@pytest.mark.parametrize('strengths', [{}, dict(ridge=50.)])
def test_sources_are_compared_by_the_same_judges(kind, strengths):
    "With one source there are fewer rows than items, with both more: a trial that looks at other items would ask other users"
    gen = np.random.default_rng(0)
    items = np.arange(1000)
    def likes(u):
        p = (gen.random(1000)<.7)/(50+items)*np.where(items%5==u%5, 9, 1)
        return p/p.sum()
    def people(n, each):
        item = np.concatenate([gen.choice(items, each, replace=False, p=likes(u)) for u in range(n)])
        return pd.DataFrame(dict(user=np.repeat(np.arange(n), each), item=[f'i{o}' for o in item]))
    target,*two = [loaders(people(*o)) for o in ((300,8),(350,20),(350,20))]
    n_rows,n_items = target.vocab.sizes
    assert n_rows+350<n_items<n_rows+700 and n_items>700
    if kind=='graph': strengths = dict(low_pass=.2, item_pow=.4) if strengths else {}
    learn = linear_learner(target, kind, pretrained=[linear_learner(o, kind) for o in two], **strengths)
    assert learn.model.sources['source 1'] and learn.model.sources['source 2'] # also where the strengths are given

@pytest.mark.parametrize('kind', ['ease','graph'])
@pytest.mark.parametrize('seed', range(3))
def test_sources_under_wrong_labels_are_dropped(clicks, target, kind, seed):
    known = clicks['item'].unique()
    wrong = dict(zip(known, np.random.default_rng(seed).permutation(known)))
    home = clicks[clicks.user<100]
    learn = linear_learner(target, kind, pretrained=linear_learner(loaders(home.assign(item=home['item'].map(wrong))), kind))
    assert learn.model.source_weight==0 and learn.transfer.dropped
    assert learn.model.settings==linear_learner(target, kind).model.settings # nothing is left of it
    assert linear_learner(target, kind, pretrained=linear_learner(loaders(home), kind)).model.source_weight>0

def test_a_shuffled_source_is_dropped(clicks, target, sources):
    noise = linear_learner(loaders(shuffled(clicks[clicks.user<100])))
    learn,alone = linear_learner(target, pretrained=noise),linear_learner(target)
    assert learn.model.source_weight==0 and torch.equal(learn.model.B, alone.model.B)
    assert learn.transfer.dropped and 'did harm or no good that is sure' in repr(learn.report)
    with_noise = linear_learner(target, pretrained=[sources[1],noise])
    assert 'source 2' in repr(with_noise.report) and quality(with_noise)>.95*quality(linear_learner(target, pretrained=sources[1]))

@pytest.mark.parametrize('kind', ['ease','graph'])
def test_a_report_of_several_sources_knows_what_any_of_them_does(clicks, target, kind):
    items = sorted(clicks['item'].unique())
    halves = [clicks[(clicks.user<100)&clicks['item'].isin(o)] for o in (items[:180],items[120:])]
    both = linear_learner(target, kind, pretrained=[linear_learner(loaders(o), kind) for o in halves])
    known = set.union(*[set(o['item']) for o,w in zip(halves, both.transfer.weights.values()) if w])
    here = set(target.vocab.labels[1][1:])
    assert both.report.to_frame().matched.sum()==len(known&here)>0

by_popularity = 'Too few clicks to hold any out, so judged by what is popular:'

@pytest.mark.parametrize('kind', ['ease','graph'])
def test_a_report_says_how_a_source_was_judged(clicks, target, sources, kind):
    def said(dls=target, pretrained=sources[0], **kw): return linear_learner(dls, kind, pretrained=pretrained, **kw).report.notes[0]
    few = loaders(clicks[clicks.user>=195])
    assert len(few.train_ds)<300
    assert said()=='On held-out clicks, a user of the source is worth 1 of the users here'
    assert said(few)==by_popularity+' a user of the source is taken to be worth 1 of the users here'
    assert said(few, sources)==f'{by_popularity} '+'; '.join(f'a user of source {j} is taken to be worth 1 of the users here' for j in (1,2))
    assert said(source_weight=2.)=='As asked, a user of the source is worth 2 of the users here'
    assert said(source_weight=0)=='As asked, the source was left out'
    assert said(pretrained=sources, source_weight=[.5,0])=='As asked, a user of source 1 is worth 0.5 of the users here; source 2 was left out'

def test_a_report_of_ials_says_how_its_source_was_judged(clicks, factors):
    few = implicit_learner(loaders(clicks[clicks.user>=195]), loss_func='ials', pretrained=factors)
    assert few.report.notes[0]==by_popularity+' a user of the source is taken to be worth 0.1 of the users here'

def popular_clicks(users, per_user, popularity):
    "Clicks of some users, on items as popular as that"
    rng = np.random.default_rng(len(users))
    likely = popularity/popularity.sum()
    return pd.concat([pd.DataFrame(dict(user=u, item=rng.choice(len(likely), per_user, replace=False, p=likely))) for u in users])

@pytest.mark.parametrize('make,full', [(linear_learner,1.), (partial(linear_learner, kind='graph'),1.), (partial(implicit_learner, loss_func='ials', n_factors=8),.1),
    (partial(implicit_learner, loss_func='bpr', n_factors=8),.1)])
def test_few_clicks_judge_a_source_by_what_is_popular(make, full):
    popularity = 1/np.arange(1., 151)
    few = loaders(popular_clicks(range(1000,1012), 15, popularity))
    assert len(few.train_ds)<300
    def source(popularity): return make(loaders(popular_clicks(range(100), 20, popularity)))
    right,wrong,even = source(popularity),source(np.random.default_rng(5).permutation(popularity)),source(np.ones(150))
    def weights_of(*srcs): return list(make(few, pretrained=srcs[0] if len(srcs)==1 else list(srcs)).transfer.weights.values())
    assert weights_of(right)==[full] and weights_of(even)==pytest.approx([full/10])
    dropped = make(few, pretrained=wrong)
    assert dropped.transfer.dropped and dropped.report.notes[0]==f'{by_popularity} the source has other popular items than these clicks, and was dropped'
    assert same(weights(dropped), weights(make(few)))
    assert weights_of(wrong, right)==[0,full]
    assert make(few, pretrained=[wrong,wrong]).transfer.dropped

def test_a_source_of_other_people_under_the_same_labels(clicks):
    "People of two shops may be numbered alike, and what a source says of items is right for all that"
    there,here = clicks[clicks.user<100],clicks[clicks.user>=140]
    target = loaders(here.assign(user=here.user-140), valid_pct=.5, seed=42)
    src = implicit_learner(loaders(there), 8, loss_func='ials')
    with src.no_bar(),src.no_logging(): src.solve()
    plain = quality(implicit_learner(target, 8, loss_func='ials'))
    for pretrained in (src,[src]):
        learn = implicit_learner(target, loss_func='ials', pretrained=pretrained)
        assert 'have labels of ours and are other people, who are taken for new' in learn.report.notes[0]
        assert not learn.transfer.dropped and quality(learn)>1.2*plain
    same_people = implicit_learner(loaders(here, valid_pct=.5, seed=42), loss_func='ials', pretrained=src)
    assert 'other people' not in repr(same_people.report)

@pytest.mark.parametrize('loss', ['ials','bpr'])
def test_a_source_that_knows_everything_is_judged_too(clicks, target, loss):
    def source(df):
        res = implicit_learner(loaders(df), 8, loss_func=loss)
        with res.no_bar(),res.no_logging(): res.solve() if loss=='ials' else res.fit_one_cycle(3)
        return res
    right,wrong = source(clicks),source(shuffled(clicks))
    went_on = implicit_learner(target, loss_func=loss, pretrained=right)
    assert not went_on.transfer.dropped
    rows = match_rows(right.vocab.labels[1], target.vocab.labels[1][1:])
    assert torch.equal(tables(went_on.model)['i_weight'][1:], tables(right.model)['i_weight'][rows]) # moved as it is
    dropped = implicit_learner(target, loss_func=loss, pretrained=wrong)
    assert dropped.transfer.dropped and same(weights(dropped), weights(implicit_learner(target, 8, loss_func=loss)))
    as_it_is = implicit_learner(target, loss_func=loss, pretrained=wrong, solve=False)
    assert as_it_is.report.notes==[] or 'dropped' not in as_it_is.report.notes[0]

def test_few_clicks_of_a_catalogue_of_nothing_else():
    "Nearly each item here has one click, and that the source's popular items are among them says that it is right"
    popularity = np.arange(1., 1501)**-.7
    few = loaders(popular_clicks(range(1000,1012), 5, popularity))
    assert few.vocab.sizes[1]-1==few.train_ds.ids[:,1].unique().numel()>40
    sources = [linear_learner(loaders(popular_clicks(range(100), 40, o))) for o in (popularity,np.random.default_rng(6).permutation(popularity))]
    right,wrong = [linear_learner(few, pretrained=o).model.source_weight for o in sources]
    assert right==1 and wrong<1

@pytest.mark.parametrize('kind', ['ease','graph'])
def test_somebody_of_whom_no_item_is_known_gets_the_list_of_the_average_user(clicks, kind):
    learn = linear_learner(loaders(clicks), kind, popularity=0.)
    with pytest.warns(UserWarning, match='nothing about known items'): shown = learn.recommend(ratings=pd.DataFrame(dict(user=['new'], item=['nowhere'])), k=5)
    average = learn.recommend('nobody', k=5, unknown='mean')
    assert shown['item'].tolist()==average['item'].tolist() and (shown.score>0).all()

def test_a_source_that_is_dropped_when_solved_again_takes_no_part(clicks, sources):
    "A model says what takes part in it, not what took part"
    learn = linear_learner(loaders(clicks[clicks.user>=195]), pretrained=linear_learner(loaders(shuffled(clicks[clicks.user<100]))))
    assert learn.model.sources=={'the source':.1}
    learn.grow(clicks[clicks.user>=140])
    assert learn.model.source_weight==0 and learn.model.sources=={} and 'the source' not in repr(learn.model)
    kept = linear_learner(loaders(clicks[clicks.user>=195]), pretrained=sources[0]).grow(clicks[clicks.user>=140])
    assert kept.model.sources=={'the source':kept.model.source_weight} and kept.model.source_weight==1

@pytest.mark.parametrize('damage', [lambda w: w['indices'].add_(1000), lambda w: w['indices'].neg_(), lambda w: w['data'].fill_(math.nan), lambda w: w['indptr'].add_(1),
    lambda w: w['indptr'][5:6].fill_(9999), lambda w: w['indptr'].fill_(0)])
@pytest.mark.parametrize('kind', ['ease','graph'])
def test_a_damaged_linear_source(target, sources, damage, kind):
    pair = sources[0].as_pair()
    wgts = {k:v.clone() for k,v in pair.wgts.items()}
    damage(wgts)
    for pretrained,said in ((pair._replace(wgts=wgts),'says its users have is damaged'), ([pair,pair._replace(wgts=wgts)],'Source 2 of 2: What this linear model')):
        with pytest.raises(ValueError, match=said): linear_learner(target, kind, pretrained=pretrained)
    with pytest.raises(ValueError, match='is damaged'): without_people(pair._replace(wgts=wgts))

def test_a_linear_model_is_made_with_its_source(target, sources):
    learn = linear_learner(target, pretrained=sources[0])
    with pytest.raises(ValueError, match='there is nothing to fine-tune'): learn.fine_tune(1)
    with pytest.raises(ValueError, match='of `linear_learner` for a linear model'): learn.transfer_from(sources[1])

def test_vectors_that_are_no_numbers(target, factors):
    pair = factors.as_pair()
    bad = pair._replace(wgts={k:v.clone().index_fill_(0, tensor([3]), math.nan) if k.startswith('i_') else v for k,v in pair.wgts.items()})
    with pytest.raises(ValueError, match='no finite numbers'): linear_learner(target, pretrained=bad)

def test_too_many_clicks_for_a_graph_filter(target, sources, monkeypatch):
    import collab_ext.implicit as implicit
    monkeypatch.setattr(implicit, 'most_clicks', 400)
    assert linear_learner(target, 'graph', pretrained=sources[0]).report.notes[0].startswith('Too many clicks to hold any out, so judged by what is popular')
    assert linear_learner(target, pretrained=sources[0]).report.notes[0].startswith('On held-out clicks')

@pytest.mark.parametrize('kind', ['ease','graph'])
def test_weights_of_sources_are_used_as_asked(target, sources, kind):
    def weights(w): return linear_learner(target, kind, pretrained=sources, source_weight=w).model.sources
    assert weights([.5,2])=={'source 1':.5,'source 2':2.} and weights(.3)=={'source 1':.3,'source 2':.3} and weights(0)=={}
    lists = [linear_learner(target, kind, pretrained=sources, source_weight=o).recommend(k=5) for o in ([1,0],[0,1],[1,0])]
    assert lists[0].equals(lists[2]) and not lists[0].equals(lists[1])

@pytest.mark.parametrize('kind', ['ease','graph'])
def test_bad_weights_of_sources(target, sources, kind):
    for bad in (-1.,float('nan'),float('inf'),'x',[1.,-1.]):
        for several in (sources[0],sources)[isinstance(bad, list):]:
            with pytest.raises(ValueError, match='`source_weight` is a finite number, not below zero, and not'):
                linear_learner(target, kind, pretrained=several, source_weight=bad)
    with pytest.raises(ValueError, match='`source_weight` has 3 entries for 2 sources'): linear_learner(target, kind, pretrained=sources, source_weight=[1,1,1])
    with pytest.raises(ValueError, match='pass `pretrained`'): linear_learner(target, kind, source_weight=1.)

def test_saved_vectors_are_a_source_too(clicks, target, tmp_path):
    src = implicit_learner(loaders(clicks[clicks.user<140]), 16, loss_func='ials', path=tmp_path)
    with src.no_bar(),src.no_logging(): src.solve()
    src.save('src')
    assert quality(linear_learner(target, pretrained='src', path=tmp_path))>quality(linear_learner(target))

@pytest.mark.parametrize('kind', ['ease','graph'])
def test_what_was_transferred_is_saved(target, sources, kind, tmp_path):
    learn = linear_learner(target, kind, pretrained=sources[0], path=tmp_path)
    learn.save('m')
    again = linear_learner(target, kind, path=tmp_path).load('m')
    assert again.recommend(k=5).equals(learn.recommend(k=5))
    assert again.model.sources==learn.model.sources=={'the source':learn.model.source_weight} and 'the source (weight' in repr(again.model)

def test_a_loaded_model_says_what_its_sources_were(target, sources, tmp_path):
    learn = linear_learner(target, pretrained=sources, path=tmp_path)
    said = learn.report.notes[0]
    learn.save('m')
    assert learn.load('m').report.notes[0]==said # its own file changes nothing
    other = linear_learner(target, pretrained=sources[0], path=tmp_path).load('m')
    assert list(other.model.sources)==['source 1','source 2'] and other.report is None # the report was of another model
    with pytest.warns(UserWarning, match='source 1 and source 2 took part'), other.no_bar(),other.no_logging(): other.solve()
    assert not other.model.sources and torch.equal(other.model.B, linear_learner(target, **{o:learn.model.settings[o] for o in ('ridge','popularity')}).model.B)

def test_damaged_sources_are_refused(target, sources, tmp_path):
    from collab_ext.files import save_pair
    learn = linear_learner(target, pretrained=sources[0], path=tmp_path)
    pair = learn.as_pair()
    pair.info['linear']['sources'] = {'the source':float('nan')}
    save_pair(tmp_path/'models/bad.pth', pair.wgts, pair.vocab, None, pair.info)
    with pytest.raises(ValueError, match='its sources are no weights'): learn.load('bad')
    assert learn.model.sources=={'the source':learn.model.source_weight}

def test_solving_again_keeps_the_source(target, sources):
    learn = linear_learner(target, pretrained=sources[0])
    was = learn.model.B.clone()
    with learn.no_bar(),learn.no_logging(): learn.solve()
    assert torch.allclose(learn.model.B, was, atol=1e-5)

# ---- iALS ----

def solved(dls, n=None, **kw):
    learn = implicit_learner(dls, **{'loss_func':'ials', **kw})
    with learn.no_bar(),learn.no_logging(): return learn.solve(n)

@pytest.fixture(scope='module')
def factors(clicks): return solved(loaders(clicks[clicks.user<140]), n_factors=8)

def test_sweeps_do_not_wash_a_source_of_ials_out(target, factors):
    alone = quality(solved(target, n_factors=8))
    moved = implicit_learner(target, loss_func='ials', pretrained=factors)
    at_once = quality(moved)
    with moved.no_bar(),moved.no_logging(): after = [quality(moved.solve(n)) for n in (1,30)]
    assert min(at_once, *after)>1.3*alone
    assert 'a user of the source is worth' in repr(moved.report) and moved.report.to_frame().solved['u_weight']==60
    with moved.no_bar(),moved.no_logging(): assert quality(moved.fine_tune(3))>1.3*alone
    assert quality(solved(target, 30, pretrained=factors, fill='mean'))<1.1*alone # a start alone is washed out

def test_a_shuffled_source_of_ials_is_dropped(clicks, target):
    noise = solved(loaders(shuffled(clicks[clicks.user<140])), n_factors=8)
    learn,alone = solved(target, pretrained=noise),solved(target, n_factors=8)
    assert learn.transfer.dropped and 'did harm or no good that is sure' in repr(learn.report)
    assert same(weights(learn), weights(alone)) and repr(learn.loss_func)==repr(alone.loss_func)

@pytest.mark.parametrize('again', ['load','load with other users','grow'])
def test_a_forgotten_source_of_ials_is_said(clicks, target, factors, again, tmp_path):
    learn = implicit_learner(target, loss_func='ials', pretrained=factors, path=tmp_path)
    learn.save('m')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        with learn.no_bar(),learn.no_logging(): learn.load('m').solve(1) # its own file changes nothing
    if again=='grow': learn.grow(clicks[clicks.user>=130])
    else:
        dls = target if again=='load' else loaders(clicks[clicks.user>=150])
        learn = implicit_learner(dls, 8, loss_func='ials', path=tmp_path).load('m')
    with pytest.warns(UserWarning, match='the source took part.*make the learner with `pretrained` again'), learn.no_bar(),learn.no_logging(): learn.solve(1)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        with learn.no_bar(),learn.no_logging(): learn.solve(1) # said once

def test_a_file_of_ials_has_the_weights_of_its_loss(target, tmp_path):
    me = target.train_ds.decode(target.train_ds.ids, count=target.train_ds.targ)[:5].assign(user='me')
    learn = solved(target, n_factors=8, path=tmp_path)
    saved,lists = repr(learn.loss_func),learn.recommend(ratings=me, k=9)
    learn.save('m')
    other = implicit_learner(target, 8, loss_func=IALSLoss(alpha0=1., reg=.5), path=tmp_path)
    with pytest.warns(UserWarning, match=r"This learner had IALSLoss\(alpha0=1, reg=0.5.*trained with"): other.load('m')
    assert repr(other.loss_func)==saved and other.recommend(ratings=me, k=9).equals(lists)
    named = implicit_learner(loaders(pd.DataFrame(dict(user=[1,1,2], item=['i1','i2','i1']))), 8, loss_func='ials', path=tmp_path)
    assert repr(named.loss_func)!=saved
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        assert repr(named.load('m').loss_func)==saved
    soft = implicit_learner(target, 8, path=tmp_path)
    assert isinstance(soft.load('m').loss_func, SoftmaxLoss)

@pytest.mark.parametrize('bad', [dict(reg=float('nan')), dict(alpha0=-.1), dict(reg='x'), dict(more=1.), dict(nu=True)])
def test_damaged_weights_of_ials_are_refused(target, bad, tmp_path):
    from collab_ext.files import save_pair
    learn = solved(target, n_factors=4, path=tmp_path)
    was,pair = repr(learn.loss_func),learn.as_pair()
    pair.info['ials']['settings'].update(bad)
    save_pair(tmp_path/'models/bad.pth', pair.wgts, pair.vocab, None, pair.info)
    with pytest.raises(ValueError, match='is damaged'): learn.load('bad')
    assert repr(learn.loss_func)==was

def test_a_given_loss_stays_and_widths_are_projected(target, factors):
    given = IALSLoss(reg=.05)
    learn = implicit_learner(target, loss_func=given, pretrained=factors)
    assert learn.loss_func.reg==.05 and learn.transfer.hint
    narrow = solved(target, pretrained=factors, n_factors=4, project=True)
    assert narrow.model.u_weight.embedding_dim==4 and quality(narrow)>quality(solved(target, n_factors=4))

def test_a_source_that_counts_for_all_keeps_its_rows(clicks, factors):
    "Users and items that the source knows have its rows, if it outweighs their clicks; those it lacks are solved for"
    from collab_ext.transfer import Matches
    dls = loaders(clicks[clicks.user.between(100, 179)])
    pair = factors.as_pair()
    known = ClickSource(pair, Matches(pair.vocab, dls.vocab))
    learn = implicit_learner(dls, 8, loss_func=IALSLoss())
    solver = IALSSolver(learn.model, dls, learn.loss_func, known.priors(1e6, learn.loss_func))
    for _ in range(3): solver.train_epoch()
    for rows,o in zip(solver.rows, known.sides):
        there = o.clicks>0
        assert torch.allclose(rows[there], o.rows[there], atol=1e-3)
    assert (known.sides[0].clicks>0).sum()==40 and solver.rows[0][1:].norm(dim=1).min()>0

@settings(max_examples=15, deadline=None)
@given(st.integers(1,20), st.integers(1,6), st.integers(1,30), st.sampled_from([0.,.2]), st.integers(0,1000))
def test_what_is_known_beforehand_is_a_square_more(k, n, m, alpha0, seed):
    gen = torch.Generator().manual_seed(seed)
    V = torch.randn(m, k, generator=gen)
    clicked = torch.rand(n, m, generator=gen)<.4
    clicked[0] = False
    start,cols = F.pad(clicked.sum(1).cumsum(0), (1,0)),clicked.nonzero()[:,1]
    loss = IALSLoss(alpha0=alpha0, reg=.1)
    root = torch.randn(k, k, generator=gen)
    P,rows = root@root.T+.1*torch.eye(k),torch.randn(n, k, generator=gen)
    weight = torch.rand(n, generator=gen)*(torch.rand(n, generator=gen)<.7)
    asked = torch.full((len(cols),), 1-alpha0)
    problem = start,cols,asked,asked+alpha0,V,alpha0*V.T@V,loss.ridge(start.diff(), m),RidgePrior(rows, weight, P)
    got = [ials_rows(V, start, cols, asked, loss, problem[-1])]+[ridge_rows(*problem, path=o) for o in ('numba','torch')]
    for j in range(n):
        w = alpha0+(1-alpha0)*clicked[j]
        A = ((V*w[:,None]).T@V + loss.ridge(clicked[j].sum(), m)*torch.eye(k) + weight[j]*P).double()
        b = (V.T@clicked[j].float() + weight[j]*P@rows[j]).double()
        want = torch.linalg.solve(A, b).float() if weight[j]>0 or clicked[j].any() else torch.zeros(k)
        for o in got: assert torch.allclose(o[j], want, atol=2e-3)

# ---- Popularity ----

def few_each(clicks, n=3):
    "Users with three clicks each, and the rest of what they picked"
    some = clicks[clicks.user>=100].groupby('user').sample(n, random_state=0)
    return some,clicks[clicks.user>=100].drop(some.index)

def all_scores(learn, has):
    if isinstance(learn.model, ItemModel): return learn.model.of_history(has)
    tabs = {k:v.detach() for k,v in tables(learn.model).items()}
    return tabs['u_weight']@tabs['i_weight'].T+tabs['i_bias'].view(1,-1)

@pytest.mark.parametrize('kind', ['ease','graph','ials'])
def test_short_histories_are_no_worse_than_popularity(kind):
    "Users with three clicks each, where some items are far more popular than others"
    rng = np.random.default_rng(0)
    likes = rng.random((150,80)) < 1/(1+.15*np.arange(80))
    X = pd.DataFrame(np.argwhere(likes), columns=['user','item'])
    some = X.groupby('user').sample(3, random_state=0)
    dls = loaders(some)
    has = ItemModel(dls.train_ds.ids, dls.train_ds.targ, dls.vocab.sizes).history
    held = np.zeros(has.shape, np.float32)
    held[1:,1:] = likes[:,dls.vocab.labels[1][1:]]
    held = sp.csr_matrix(held)-has
    held.eliminate_zeros()
    def ndcg(scores): return list_quality(scores[1:], has[1:], held[1:])
    def learner(**kw):
        if kind!='ials': return linear_learner(dls, kind, **kw)
        learn = implicit_learner(dls, 32, loss_func='ials')
        for k,v in kw.items(): setattr(learn.loss_func, k, v)
        with learn.no_bar(),learn.no_logging(): return learn.solve()
    with_it,without = [ndcg(all_scores(learner(**kw), has)) for kw in ({},dict(popularity=0.))]
    popular = ndcg(np.tile(item_popularity(has), (has.shape[0],1)))
    assert with_it>.93*popular and with_it>1.03*without

@pytest.mark.parametrize('kind', ['ease','graph'])
def test_all_scores_begin_with_popularity(clicks, kind, tmp_path):
    dls = loaders(clicks)
    learn = linear_learner(dls, kind, popularity=.5, path=tmp_path)
    model,nobody = learn.model,sp.csr_matrix((1,dls.vocab.sizes[1]), dtype=np.float32)
    assert torch.allclose(model.of_history(nobody)[0], model.base) and model.base.max()>0
    u,i = 3,5
    own = torch.from_numpy(model.history[u].indices).long()
    parts,score = model.contributions(u, i, own)
    assert torch.isclose(score, model.scores(torch.tensor([u]))[0,i], atol=1e-5) and torch.isclose(parts.sum()+model.base[i], score, atol=1e-5)
    Y,Z,x = torch.randn(dls.vocab.sizes[1], 2),torch.randn(4, 2),model.history[:4]
    assert torch.allclose(model.times(x, Y), model.of_history(x)@Y, atol=1e-4)
    assert torch.allclose(model.times_transposed(x, Z), model.of_history(x).T@Z, atol=1e-4)
    from collab_ext.bundle import Bundle
    learn.export_bundle(tmp_path/'b')
    users = dls.vocab.labels[0][1:4]
    for o in users: assert Bundle(tmp_path/'b').recommend(o, k=5)['item'].tolist()==learn.recommend(o, k=5)['item'].tolist()

def test_items_of_ials_begin_with_their_share_of_clicks(clicks, tmp_path):
    dls = loaders(clicks)
    learn = solved(dls, n_factors=8, path=tmp_path, loss_func=IALSLoss(popularity=.2))
    plain = solved(dls, n_factors=8, loss_func=IALSLoss())
    n = dls.train_ds.counts['item']
    bias = learn.model.i_bias.weight.detach()[:,0]
    assert torch.allclose(bias[1:], .2*n[1:]/n.max(), atol=1e-6) and not plain.model.i_bias.weight.any()
    assert torch.equal(learn.model.i_weight.weight, plain.model.i_weight.weight) # vectors know nothing of it
    learn.save('m')
    again = implicit_learner(dls, 8, loss_func='ials', path=tmp_path).load('m')
    assert again.loss_func.popularity==.2 and again.recommend(k=5).equals(learn.recommend(k=5))
    best = dls.vocab.labels[1][int(n.argmax())]
    twice = pd.DataFrame(dict(user=[dls.vocab.labels[0][5]]*2, item=['new',best]))
    grown = learn.grow(twice[:1])
    b = dict(zip(grown.dls.vocab.labels[1], grown.model.i_bias.weight[:,0].tolist()))
    assert abs(b['new']-.2/n.max())<1e-6 and abs(b[best]-.2)<1e-6

def test_only_clicks_here_make_an_item_of_ials_popular(clicks, factors):
    from collab_ext.transfer import Matches
    dls = loaders(clicks[clicks.user.between(100, 179)])
    pair = factors.as_pair()
    known = ClickSource(pair, Matches(pair.vocab, dls.vocab))
    loss = IALSLoss(popularity=.5)
    learn = implicit_learner(dls, 8, loss_func=loss)
    solver = IALSSolver(learn.model, dls, loss, known.priors(1., loss))
    solver.train_epoch()
    solver.write(learn.model)
    n = dls.train_ds.counts['item']
    assert torch.allclose(learn.model.i_bias.weight[1:,0], (.5*n/n.max())[1:], atol=1e-6)

def test_ials_of_earlier_versions_has_no_popularity(target, tmp_path):
    from collab_ext.files import save_pair
    learn = solved(target, n_factors=4, path=tmp_path, loss_func=IALSLoss())
    pair = learn.as_pair()
    del pair.info['ials']['settings']['popularity']
    save_pair(tmp_path/'models/old.pth', pair.wgts, pair.vocab, None, pair.info)
    again = implicit_learner(target, 4, loss_func='ials', path=tmp_path).load('old')
    assert again.loss_func.popularity==0 and again.recommend(k=5).equals(learn.recommend(k=5))

def test_people_of_the_source_judge_popularity_too(clicks):
    "Long histories want less of it than users with a few clicks each"
    def says(w, qualities): return {(10.,w,t):np.array(o) for t,o in zip((0.,.3), qualities)}
    trials = [LinearTrial(says(w, ([.1,.1,.1],[.2,.2,.2])), says(w, ([.9],[.3]))) for w in (1.,0.)]
    assert [o.least_popularity() for o in trials]==[0.,.3] # without a source, nobody of it is asked
    ds = loaders(clicks).train_ds
    X = ItemModel(ds.ids, ds.targ, ds.vocab.sizes).history
    few = a_few(X[140:], .3, 0)
    source = ItemStatistics(X[1:140], X[1:140].getnnz(1), X[1:140].getnnz(0))
    nobody = source._replace(row_people=np.full(139, 2.)) # rows that stand for two are no people
    asked,alone = [choose_graph(few, 16, .5, .3, None, None, o, 1.)[0][3] for o in (source,nobody)]
    assert asked<alone

def test_files_of_earlier_versions_have_no_popularity(target, tmp_path):
    from collab_ext.files import save_pair
    for kind in ('ease','graph'):
        learn = linear_learner(target, kind, popularity=0., path=tmp_path)
        pair = learn.as_pair()
        del pair.info['linear']['settings']['popularity']
        from collab_ext.saving import linear_state
        state = {k:v.clone() for k,v in linear_state(learn.model).items()}
        if kind=='graph': state.update(V=state['V'][:,:-1].clone(), W=state['W'][:-1].clone())
        save_pair(tmp_path/'models/old.pth', state, pair.vocab, None, pair.info)
        again = linear_learner(target, kind, path=tmp_path).load('old')
        assert not again.model.base.any() and again.recommend(k=5).equals(learn.recommend(k=5))
        with again.no_bar(),again.no_logging(): again.solve()
        assert again.model.settings['popularity']>=0

@pytest.mark.parametrize('kind,names', [('ease',['user_pow','item_pow','value_weight','ridge_pop','popularity']), ('graph',['user_pow','item_pow','sharpen','low_pass','popularity'])])
@pytest.mark.parametrize('bad', [float('nan'),float('inf'),-1.,'x'])
def test_bad_strengths(target, kind, names, bad):
    for o in names:
        with pytest.raises(ValueError, match=f'`{o}` is a finite number, not below zero'): linear_learner(target, kind, **{o:bad})

def test_a_given_ridge_is_the_one_that_weights_are_compared_at(target, sources, monkeypatch):
    import collab_ext.linear as linear
    seen,plain = [],linear.try_ease
    def spied(*args, **kwargs):
        seen.append(list(kwargs['ridges']))
        return plain(*args, **kwargs)
    monkeypatch.setattr(linear, 'try_ease', spied)
    linear_learner(target, pretrained=sources[0], ridge=77.)
    assert seen and all(o==[77.] for o in seen)

# ---- Sources without people ----

def named(clicks):
    "Users with names that are found nowhere else"
    return clicks.assign(user=clicks.user.map('customer-{:05d}@shop'.format))

def test_a_source_without_people_has_no_label_of_a_user(clicks, tmp_path):
    learn = linear_learner(loaders(named(clicks)), path=tmp_path)
    learn.save('all')
    small = without_people(learn)
    save_pair(tmp_path/'models/shared', small.wgts, small.vocab, info=small.info)
    def text(name): return b''.join(o.read_bytes() for o in sorted((tmp_path/'models').glob(f'{name}*')))
    assert b'customer-00007@shop' in text('all') and b'customer' not in text('shared') and b'i1' in text('shared')
    assert list(small.vocab.labels[0])==['#na#'] and small.info['counts']['user']==[0]
    X = learn.model.history
    rows = sp.csr_matrix((small.wgts['data'],small.wgts['indices'],small.wgts['indptr']), shape=(len(small.wgts['indptr'])-1,X.shape[1])).toarray()
    n = small.info['people']['number']
    people = X[1:].toarray()/np.linalg.norm(X[1:].toarray(), axis=1)[:,None]
    turned = rows/np.maximum(np.linalg.norm(rows, axis=1), 1e-9)[:,None]
    assert len(rows)-X.shape[1]<=n//5 and (turned@people.T).max()<.95 # nobody's history is there

@pytest.mark.parametrize('kind', ['ease','graph'])
def test_a_source_without_people_says_nearly_the_same(clicks, target, sources, kind):
    src = linear_learner(loaders(clicks[clicks.user<140]))
    small = without_people(src.as_pair())
    alone,full,shared = [quality(linear_learner(target, kind, pretrained=o)) for o in (None,src,small)]
    assert full>alone and shared>alone+.6*(full-alone)
    both = linear_learner(target, kind, pretrained=[small,sources[0]])
    assert both.model.sources['source 1'] and quality(both)>alone

def test_sums_of_a_source_without_people(clicks):
    "All directions together are the weighted sum of what people have, and a few keep its diagonal"
    from collab_ext.linear import _history_rows
    pair = linear_learner(loaders(clicks)).as_pair()
    n_items = pair.vocab.sizes[1]
    X = _history_rows(pair.wgts, n_items)[1:]
    X = X@sp.diags((X.getnnz(0)>=5).astype(np.float32))
    n = np.maximum((X!=0).sum(1).A1, 1)
    A = sp.diags((n/n[n>0].mean())**-.3)@X
    G = (A.T@A).toarray()
    for rank in (3,20):
        small = without_people(pair, rank)
        R = _history_rows(small.wgts, n_items).toarray()
        assert np.allclose((R.T@R).diagonal(), G.diagonal(), rtol=1e-3, atol=1e-3)
        off = np.abs((R.T@R)-G).mean()
        if rank==20: assert off<last
        last = off

def test_a_source_without_people_is_bounded():
    rng = np.random.default_rng(0)
    df = pd.DataFrame(dict(user=np.repeat(np.arange(400), 20), item=rng.integers(300, size=8000))).drop_duplicates()
    pair = linear_learner(loaders(df)).as_pair()
    with pytest.warns(UserWarning, match='9 of 512 directions of 301 items fit into `most=3010` numbers'): small = without_people(pair, most=3010)
    assert len(small.wgts['data'])<=3010 and without_people(small) is small

def test_bad_sources_without_people(clicks, target, tmp_path):
    learn = linear_learner(loaders(clicks), path=tmp_path)
    small = without_people(learn.as_pair())
    for bad in (dict(number=0), dict(usual=float('nan')), dict(judged=[[1.]]), dict(judged='x')):
        info = dict(small.info, people={**small.info['people'], **bad})
        with pytest.raises(ValueError, match='is damaged'): linear_learner(target, pretrained=small._replace(info=info))
    with pytest.raises(ValueError, match='`least`'): without_people(learn.as_pair(), least=10_000)
    tiny = without_people(linear_learner(loaders(clicks[clicks.user<8])).as_pair(), least=1)
    assert linear_learner(target, pretrained=tiny).transfer.weights # nobody could be asked, and all ridges are as good
    with pytest.raises(ValueError, match='no linear model'): without_people(linear_factors(learn, 4))
    with pytest.raises(ValueError, match='linear model and has no vectors'): implicit_learner(target, loss_func='ials', pretrained=small)
    save_pair(tmp_path/'models/shared', small.wgts, small.vocab, info=small.info)
    was = learn.recommend(k=3)
    with pytest.raises(ValueError): learn.load('shared')
    assert learn.recommend(k=3).equals(was)

def test_a_transfer_tells_the_weight_of_each_source(target, sources, factors):
    learn = linear_learner(target, pretrained=sources, source_weight=[.5,0])
    assert learn.transfer.weights=={'source 1':.5,'source 2':0.} and repr(learn.transfer).endswith('source 1: weight 0.5, source 2: weight 0)')
    ials = implicit_learner(target, loss_func='ials', pretrained=factors)
    assert ials.transfer.weights=={'the source':ials.model.sources['the source']} and 'u_weight: ' in repr(ials.transfer)

# ---- Bad input ----

def test_bad_sources(target, sources, clicks):
    with pytest.raises(ValueError, match='No label of the new data is in the source'):
        linear_learner(target, pretrained=linear_learner(loaders(clicks.assign(item='x'+clicks['item']))))
    elsewhere = linear_learner(loaders(clicks.assign(item='x'+clicks['item'])))
    with pytest.raises(ValueError, match='Source 2 of 2: No label'): linear_learner(target, pretrained=[sources[0],elsewhere])
    for loss in ('ials','softmax'):
        with pytest.raises(ValueError, match='Source 1 of 2: This source is a linear model'): implicit_learner(target, loss_func=loss, pretrained=sources)
        with pytest.raises(ValueError, match='is a linear model and has no vectors'): implicit_learner(target, loss_func=loss, pretrained=sources[0])
    with pytest.raises(ValueError, match="Source 2 of 3 can't be read"): linear_learner(target, pretrained=[sources[0],'nothing',sources[1]])
    with pytest.raises(ValueError, match='an empty list'): linear_learner(target, pretrained=[])
    with pytest.raises(TypeError, match='`id_map` is for `pretrained`'): linear_learner(target, id_map={})
    with pytest.raises(ValueError, match='`id_map` has 1 entries for 2'): linear_learner(target, pretrained=sources, id_map=[{}])
    with pytest.raises(ValueError, match='37 GiB'): EASE(torch.zeros(0,2), torch.zeros(0), (10,100_000))
    with pytest.raises(ValueError, match='`start`'): implicit_learner(target, start='chance')

def test_ratings_where_clicks_are_wanted(target):
    "Vectors of ratings are compared like all others: they do no harm, and the report says what they count"
    df = simulate_ratings(300, 300, 6000, seed=3).ratings
    src = collab_learner(CollabDataLoaders.from_df(df.assign(item='i'+df['item'].astype(str).str.extract(r'(\d+)')[0]), valid_pct=0, device='cpu'), 4)
    with src.no_bar(),src.no_logging(): src.solve(3)
    everyone_new = dict(user={})
    linear = linear_learner(target, pretrained=src, id_map=everyone_new)
    ials = implicit_learner(target, loss_func='ials', pretrained=src, id_map=everyone_new)
    assert ials.transfer.dropped and 'On held-out clicks' in repr(linear.report)
    assert quality(linear)>.95*quality(linear_learner(target))

@pytest.mark.parametrize('loss,few,said', [('ials',False,'is judged by held-out clicks'), ('ials',True,'is judged by its popular items'), ('bpr',False,'is judged by held-out clicks')])
def test_a_source_of_ratings_is_said_to_be_one(clicks, target, loss, few, said):
    df = clicks[clicks.user<100].assign(rating=lambda d: 1.+d.index%5)
    src = collab_learner(CollabDataLoaders.from_df(df, valid_pct=0, device='cpu'), 4, y_range=(1,5))
    dls = loaders(clicks[clicks.user>=195]) if few else target
    with pytest.warns(UserWarning) as seen: implicit_learner(dls, loss_func=loss, pretrained=src)
    [message] = [str(o.message) for o in seen if 'y_range' in str(o.message)]
    assert message.startswith('The source is of ratings, with `y_range=(1.0, 5.0)`') and said in message

def test_a_linear_source_where_vectors_are_wanted(clicks, target, sources, tmp_path):
    dls = CollabDataLoaders.from_df(clicks.assign(rating=lambda d: 1.+d.index%5), valid_pct=0, device='cpu')
    sources[0].path = tmp_path
    saved = sources[0].save('m')
    learn = collab_learner(dls, 4)
    for source in (sources[0],saved.with_suffix('')):
        for move in (lambda: collab_learner(dls, 4, pretrained=source), lambda: learn.transfer_from(source), lambda: learn.transfer_from(source, project=True)):
            with pytest.raises(ValueError, match=r'a linear model, which has no vectors: pass `linear_factors\(…\)` of it'): move()
    assert learn.transfer_from(linear_factors(sources[0], 4)).report is not None

def test_a_poor_start_is_trained_at_the_full_rate(target, monkeypatch):
    "Where the linear model is too large to solve, few directions of clicks are a start that ten epochs of small steps would leave as it is"
    import collab_ext.implicit as implicit
    assert implicit_learner(target, 8).lr<1e-3
    monkeypatch.setattr(implicit, '_is_quick_to_solve', lambda *args: False)
    assert implicit_learner(target, 8).lr==.05
    assert implicit_learner(target, 8, lr=.01).lr==.01

@pytest.mark.parametrize('sizes,quick', [((10,20_000),True), ((10,20_001),False), ((6001,6001),False), ((100_000,6000),True), ((6000,20_000),True), ((30_000,41_000),False)])
def test_what_is_quick_to_solve(sizes, quick):
    from collab_ext.implicit import _is_quick_to_solve
    assert _is_quick_to_solve(sizes)==quick
