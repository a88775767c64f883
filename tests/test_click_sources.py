"Several sources of clicks become one"
from helpers import * # all of the package, and what the tests share
import numpy as np,pandas as pd,pytest,scipy.sparse as sp,torch
from hypothesis import given,settings,strategies as st
from collab_ext.click_sources import *
from collab_ext.implicit import *
from collab_ext.transfer import Matches
from collab_ext.vocab import NA

def loaders(df, **kw): return CollabDataLoaders.from_interactions(df, **{**dict(valid_pct=0, unknown='mean', device='cpu'), **kw})

def solved(dls, n=None, **kw):
    learn = implicit_learner(dls, loss_func='ials', **kw)
    with learn.no_bar(),learn.no_logging(): return learn.solve(n)

def quality(learn): return learn.evaluate(baselines=False).ndcg['model']

def shuffled(df, seed=0):
    items = df['item'].unique()
    return df.assign(item=df['item'].map(dict(zip(items, np.random.default_rng(seed).permutation(items)))))

@pytest.fixture(scope='module')
def clicks(): return simulate_clicks()

@pytest.fixture(scope='module')
def target(clicks): return loaders(clicks[clicks.user>=140], valid_pct=.5, seed=42)

@pytest.fixture(scope='module')
def few(clicks): return loaders(clicks[clicks.user>=195])

@pytest.fixture(scope='module')
def sources(clicks):
    "Two groups of people, in models of different widths"
    return [solved(loaders(clicks[clicks.user.between(*o)]), n_factors=k).as_pair() for o,k in (((0,69),8),((70,139),6))]

@pytest.fixture(scope='module')
def noise(clicks): return solved(loaders(shuffled(clicks[clicks.user<140])), n_factors=8).as_pair()

# ---- Known answers ----

def orthogonal(k, seed=0): return torch.linalg.qr(torch.randn(k,k, generator=torch.Generator().manual_seed(seed)))[0]

def random_source(n_users=30, n_items=60, k=4, seed=0):
    "A source that has a row and some clicks for everybody and everything"
    gen = torch.Generator().manual_seed(seed)
    sizes = n_users+1,n_items+1
    wgts = {f'{o}_weight.weight':torch.randn(n, k, generator=gen) for o,n in zip('ui', sizes)}
    counts = {o:[0,*torch.randint(1, 50, (n-1,), generator=gen).tolist()] for o,n in zip(('user','item'), sizes)}
    vocab = Vocab({o:[NA,*range(n-1)] for o,n in zip(('user','item'), sizes)})
    pair = Pair(wgts, None, vocab, dict(counts=counts), None)
    return pair,ClickSource(pair, Matches(vocab, vocab))

def without(known, s, which):
    "A source that lacks some rows of a side"
    sides = list(known.sides)
    sides[s] = sides[s]._replace(rows=sides[s].rows.clone(), clicks=sides[s].clicks.clone(), n_others=sides[s].n_others.clone())
    for o in (sides[s].rows,sides[s].clicks,sides[s].n_others): o[which] = 0
    return known.with_sides(sides)

def same_rows(a, b, atol=1e-4): return all(torch.allclose(x.rows, y.rows, atol=atol) for x,y in zip(a.sides, b.sides))

@settings(max_examples=15, deadline=None)
@given(st.integers(1,8), st.floats(.1,5), st.integers(0,1000))
def test_the_same_model_in_other_axes_changes_no_row(k, weight, seed):
    _,known = random_source(k=k, seed=seed)
    other = known.turned(orthogonal(k, seed))
    both = merged_sources([known,turned_to(known, other)], [1.,weight])
    assert same_rows(both, known, 1e-3)
    for a,b in zip(both.sides, known.sides):
        assert torch.allclose(a.moment, b.moment, atol=1e-3*b.moment.abs().max().item())
        assert torch.allclose(a.clicks, (1+weight)*b.clicks) and torch.allclose(a.n_others, (1+weight)*b.n_others)

def test_what_both_halves_of_a_catalogue_know_is_the_whole():
    _,whole = random_source()
    turn = orthogonal(4)
    halves = [without(whole, 1, slice(41,None)),without(whole, 1, slice(1,21)).turned(turn)] # twenty items are in both
    for a,b in (halves,halves[::-1]):
        both = merged_sources([a,turned_to(a, b)], [1.,1.])
        want = whole if a is halves[0] else whole.turned(turn)
        assert same_rows(both, want) and (both.sides[1].clicks[1:]>0).all()

def test_users_of_two_catalogues_say_how_axes_belong_together():
    _,whole = random_source()
    films,books = without(whole, 1, slice(31,None)),without(whole, 1, slice(1,31)).turned(orthogonal(4))
    assert same_rows(merged_sources([films,turned_to(films, books)], [1.,1.]), whole)
    strangers = without(books, 0, slice(0,None))
    assert turned_to(films, strangers) is None
    some = without(books, 0, slice(4,None))
    assert turned_to(films, some) is None and turned_to(films, without(books, 0, slice(5,None))) is not None # four users for four factors

@settings(max_examples=15, deadline=None)
@given(st.floats(0,10), st.integers(0,1000))
def test_merged_rows_lie_between(weight, seed):
    (_,a),(_,b) = random_source(seed=seed),random_source(seed=seed+1)
    both = merged_sources([a,b], [1.,weight])
    for x,y,z in zip(a.sides, b.sides, both.sides):
        low,high = torch.minimum(x.rows, y.rows),torch.maximum(x.rows, y.rows)
        assert (z.rows>=low-1e-5).all() and (z.rows<=high+1e-5).all()
        share = weight*y.clicks/(x.clicks+weight*y.clicks).clamp(min=1e-9)
        assert torch.allclose(z.rows[1:], (x.rows+share[:,None]*(y.rows-x.rows))[1:], atol=1e-4)

@settings(max_examples=15, deadline=None)
@given(st.integers(1,6), st.integers(0,3), st.integers(0,1000))
def test_factors_may_be_mixed_and_stretched(k, wider, seed):
    "Scores are all that counts: the same scores of other factors are the same source, up to signs"
    pair,_ = random_source(k=k, seed=seed)
    gen = torch.Generator().manual_seed(seed)
    A = orthogonal(k, seed)*(.3+torch.rand(k, generator=gen))
    wgts = {'u_weight.weight':pair.wgts['u_weight.weight']@A, 'i_weight.weight':pair.wgts['i_weight.weight']@torch.linalg.inv(A).T}
    one,other = [as_clicks(o, k+wider) for o in (pair,pair._replace(wgts=wgts))]
    assert one.wgts['i_weight.weight'].shape[1]==k+wider
    scores = [o.wgts['u_weight.weight']@o.wgts['i_weight.weight'].T for o in (one,other)]
    assert torch.allclose(*scores, atol=1e-3)
    lengths = [(tensor(n)[:,None]*w**2).sum(0) for n,w in zip(one.info['counts'].values(), one.wgts.values())]
    assert torch.allclose(*lengths, rtol=1e-2, atol=1e-2) # over the clicks, both sides are equally long

def test_a_source_without_structure_is_no_failure():
    pair,_ = random_source()
    flat = as_clicks(pair._replace(wgts={k:torch.ones_like(v) for k,v in pair.wgts.items()}), 4)
    n_users,n_items = pair.vocab.sizes
    everything = dict(user=[0]+[n_items-1]*(n_users-1), item=[0]+[n_users-1]*(n_items-1))
    all_clicked = [as_clicks(random_source(seed=j)[0]._replace(info=dict(counts=everything)), 4) for j in range(8)]
    assert all(torch.isfinite(o).all() for src in (flat,*all_clicked) for o in src.wgts.values())

def test_a_source_is_as_sure_in_other_axes():
    _,known = random_source()
    turned = known.turned(orthogonal(4))
    for a,b in zip(known.sides, turned.sides): assert torch.allclose(a.rows@a.moment@a.rows.T, b.rows@b.moment@b.rows.T, rtol=1e-3, atol=1e-2)

def test_a_third_source_may_be_the_bridge():
    "The first knows no item of the second, and both have some in common with the third"
    _,whole = random_source()
    parts = [slice(25,None),slice(1,37),[*range(1,15),*range(47,61)]] # what each lacks
    a,b,c = [without(without(whole.turned(orthogonal(4, j)), 1, o), 0, slice(0,None)) for j,o in enumerate(parts)]
    assert turned_to(a, b) is None
    X = sp.csr_matrix((31,61))
    apart = choose_click_sources(X, [a,b], IALSLoss())
    assert apart.weights==[None,1.] or apart.weights==[1.,None]
    found = choose_click_sources(X, [a,b,c], IALSLoss())
    assert found.weights==[1.,1.,1.] and (found.known.sides[1].clicks[1:]>0).all()
    gram = [o.sides[1].rows@o.sides[1].rows.T for o in (found.known,whole)]
    assert torch.allclose(*gram, atol=1e-3)

# ---- Choosing ----

@pytest.mark.parametrize('loss', ['ials','bpr'])
def test_two_sources_are_no_worse_than_one(target, sources, loss):
    def made(src): return implicit_learner(target, 8, loss_func=loss, pretrained=src)
    one = [quality(made([o])) for o in sources]
    both = made(sources)
    assert quality(both)>.97*max(one) and quality(both)>quality(implicit_learner(target, 8, loss_func=loss))
    assert all(both.transfer.weights.values()) and both.model.u_weight.embedding_dim==8

@pytest.mark.parametrize('loss', ['ials','softmax'])
def test_a_source_under_wrong_labels_is_dropped_and_the_good_one_stays(target, sources, noise, loss):
    made = [implicit_learner(target, loss_func=loss, pretrained=o) for o in ([sources[0],noise],[noise,sources[0]],[sources[0]])]
    assert [list(o.transfer.weights.values())[j] for o,j in zip(made, (1,0))]==[0.,0.]
    assert all(max(o.transfer.weights.values())>0 and not o.transfer.dropped for o in made)
    assert 'source 2 did harm or no good that is sure, and was dropped (NDCG alone' in made[0].report.notes[0] and 'a user of source 1 is worth' in made[0].report.notes[0]
    assert same(weights(made[0]), weights(made[2])) and same(weights(made[1]), weights(made[2])) # nothing is left of it

def test_a_source_that_says_no_more_than_wrong_labels_is_dropped():
    "Weak enough, any source does no harm"
    from collab_ext.click_sources import _weight_beside
    (_,base),(_,other) = random_source(),random_source(seed=1)
    def weight(right, wrong):
        "Where lists have a quality with the source, and another one under wrong labels"
        mine = merged_sources([base,turned_to(base, other)], [1.,1.]).sides[1].rows
        def judged(known, *at): return np.linspace(0, 1, 50)*(right if torch.equal(known.sides[1].rows, mine) else wrong)
        return _weight_beside(SimpleNamespace(judged=judged, quality=lambda *args: [judged(*args)]), base, other, (.03,.1), [1.])
    assert weight(1., 1.)==0 and weight(.9, 1.)==0 and weight(1., .5)==1.

@pytest.mark.parametrize('loss', ['ials','bpr'])
def test_sources_that_all_do_harm_leave_nothing(clicks, target, noise, loss):
    more = solved(loaders(shuffled(clicks[clicks.user<100], 1)), n_factors=8).as_pair()
    learn,alone = implicit_learner(target, loss_func=loss, pretrained=[noise,more]),implicit_learner(target, 8, loss_func=loss)
    assert learn.transfer.dropped and learn.transfer.weights=={'source 1':0.,'source 2':0.}
    assert same(weights(learn), weights(alone)) and repr(learn.loss_func)==repr(alone.loss_func)
    assert not getattr(learn.model, 'sources', {}) and learn.report.to_frame().matched.sum()==0

def close(a, b): return all(torch.allclose(v, weights(b)[k], atol=1e-3) for k,v in weights(a).items()) # threads add up in any order

def test_the_order_of_sources_does_not_matter(target, sources):
    one,other = [solved(target, pretrained=o) for o in (sources,sources[::-1])]
    assert list(one.transfer.weights.values())==list(other.transfer.weights.values())[::-1]
    assert close(one, other)

def test_sources_of_different_catalogues(clicks, target):
    "Each knows two thirds of the items; together they know all, and rows of shared users are moved, too"
    items = sorted(clicks['item'].unique())
    n = len(items)//3
    def part(users, items): return solved(loaders(clicks[clicks.user.between(*users)&clicks['item'].isin(items)]), n_factors=8).as_pair()
    pairs = part((0,139), items[:2*n]),part((100,150), items[n:])
    learn = implicit_learner(target, loss_func='ials', pretrained=list(pairs))
    frame = learn.report.to_frame()
    labels = target.vocab.labels[1][1:]
    mine = set(clicks[clicks.user.between(0,139)&clicks['item'].isin(items[:2*n])]['item'])|set(clicks[clicks.user.between(100,150)&clicks['item'].isin(items[n:])]['item'])
    assert all(learn.transfer.weights.values()) and frame.matched['i_weight']==sum(o in mine for o in labels)
    assert frame.matched['u_weight']==11 and frame.solved['u_weight']==49
    assert quality(learn)>quality(solved(target, n_factors=8))

def test_sources_without_a_row_in_common(clicks, target):
    items = sorted(clicks['item'].unique())
    apart = [solved(loaders(clicks[(clicks.user<140)&clicks['item'].isin(o)].assign(user=lambda d: f'{j}-'+d.user.astype(str))), n_factors=8).as_pair()
        for j,o in enumerate((items[:len(items)//2],items[len(items)//2:]))]
    learn = implicit_learner(target, loss_func='ials', pretrained=apart)
    assert learn.report.notes[0].count('has too few rows in common with the others, and was left out')==1
    assert sorted(o>0 for o in learn.transfer.weights.values())==[False,True] and not learn.transfer.dropped

def test_too_few_clicks_to_judge_by(few, sources, noise):
    assert len(few.train_ds)<300
    learn = implicit_learner(few, loss_func='ials', pretrained=[*sources,noise])
    said = '; '.join(f'a user of source {j} is taken to be worth {w} of the users here' for j,w in ((1,.1),(2,.1),(3,.01))) # of noise, so few can't tell
    assert learn.report.notes[0]==f'Too few clicks to hold any out, so judged by what is popular: {said}'
    assert learn.transfer.weights==pytest.approx({'source 1':.1,'source 2':.1,'source 3':.01})

def test_id_maps(clicks, target, sources):
    "One for all sources, or one for each"
    there = clicks.user.between(70,139)
    renamed = solved(loaders(clicks[there].assign(item='x'+clicks['item'].astype(str))), n_factors=6).as_pair()
    maps = [None,dict(item=lambda o: f'x{o}')]
    learn,plain = [implicit_learner(target, loss_func='ials', **kw) for kw in (dict(pretrained=[sources[0],renamed], id_map=maps), dict(pretrained=sources))]
    assert learn.transfer.weights==plain.transfer.weights and close(learn, plain)
    strangers = implicit_learner(target, loss_func='ials', pretrained=sources, id_map=dict(user={}))
    assert strangers.report.to_frame().matched['u_weight']==0

@pytest.mark.parametrize('k', [4,12])
def test_the_width_that_is_asked_for(target, sources, k):
    learn = implicit_learner(target, k, loss_func='ials', pretrained=sources)
    assert learn.model.u_weight.embedding_dim==k and not learn.transfer.dropped

def test_a_given_loss_stays(target, sources):
    learn = implicit_learner(target, loss_func=IALSLoss(reg=.05), pretrained=sources)
    assert learn.loss_func.reg==.05 and not learn.transfer.dropped

# ---- Afterwards ----

def test_what_sources_say_stays_beside_the_clicks(target, sources):
    learn = implicit_learner(target, loss_func='ials', pretrained=sources)
    alone = quality(solved(target, n_factors=8))
    with learn.no_bar(),learn.no_logging(): after = [quality(learn.solve(n)) for n in (1,20)]
    assert min(after)>1.2*alone
    with learn.no_bar(),learn.no_logging(): assert quality(learn.fine_tune(3))>1.2*alone

def test_a_saved_model_knows_its_sources(target, sources, tmp_path):
    learn = implicit_learner(target, loss_func='ials', pretrained=sources, path=tmp_path)
    assert learn.model.sources=={k:w for k,w in learn.transfer.weights.items() if w} and list(learn.model.sources)==['source 1','source 2']
    learn.save('m')
    again = implicit_learner(target, 8, loss_func='ials', path=tmp_path).load('m')
    assert again.model.sources==learn.model.sources and again.recommend(k=5).equals(learn.recommend(k=5))
    with pytest.warns(UserWarning, match='source 1 and source 2 took part'), again.no_bar(),again.no_logging(): again.solve()
    assert not again.model.sources

# ---- Of other kinds ----

def rated(clicks, users, **kw):
    df = clicks[clicks.user.between(*users)].assign(rating=lambda d: 1.+d.index%5)
    learn = collab_learner(CollabDataLoaders.from_df(df, valid_pct=0, device='cpu'), 4, **kw)
    with learn.no_bar(),learn.no_logging(): return learn.solve(3)

def test_ratings_beside_clicks(clicks, target, few, sources):
    ratings = rated(clicks, (0,100), y_range=(.5,5.5))
    for dls,said in ((target,'is judged by held-out clicks'),(few,'is judged by its popular items')):
        with pytest.warns(UserWarning) as seen: learn = implicit_learner(dls, loss_func='ials', pretrained=[sources[0],ratings])
        [message] = [str(o.message) for o in seen if 'y_range' in str(o.message)]
        assert message.startswith('Source 2 of 2 is of ratings, with `y_range=(0.5, 5.5)`') and said in message
        assert learn.transfer.weights['source 1'] and learn.model.u_weight.embedding_dim==8

def test_a_linear_model_as_vectors(clicks, target, sources):
    linear = linear_learner(loaders(clicks[clicks.user.between(70,139)]))
    learn = implicit_learner(target, loss_func='ials', pretrained=[sources[0],linear_factors(linear, 8)])
    assert all(learn.transfer.weights.values())

def test_clicks_beside_ratings(clicks, sources):
    "Ratings are judged by ratings: clicks have no scale of them, and are left out"
    ratings = rated(clicks, (0,100))
    dls = CollabDataLoaders.from_df(clicks[clicks.user>=140].assign(rating=lambda d: 1.+d.index%5), valid_pct=0, device='cpu')
    with pytest.warns(UserWarning, match='Source 1 of 2 was trained on clicks, and these data are ratings: it is left out'):
        learn = collab_learner(dls, pretrained=[sources[0],ratings])
    alone = collab_learner(dls, 8, pretrained=[ratings])
    assert learn.transfer.weights['source 1']==0 and 'source 1 was trained on clicks, and was left out' in learn.report.notes[0]
    assert same(weights(learn), weights(alone))
    with pytest.raises(ValueError, match='No source of these 2 has learned from ratings'): collab_learner(dls, pretrained=sources)

# ---- Bad input ----

@pytest.mark.parametrize('loss', ['ials','softmax'])
def test_bad_sources(clicks, target, sources, loss, tmp_path):
    def made(pretrained, **kw): return implicit_learner(target, loss_func=loss, pretrained=pretrained, path=tmp_path, **kw)
    linear = linear_learner(loaders(clicks[clicks.user<60]))
    elsewhere = solved(loaders(clicks[clicks.user<60].assign(user=lambda d: 'x'+d.user.astype(str), item=lambda d: 'x'+d['item'].astype(str))), n_factors=4)
    items = dict(item=(np.ones((3,4)), clicks['item'].unique()[:3]))
    a,b = sources
    damaged = b._replace(info=dict(counts='many'))
    def refused(bad, said):
        with pytest.raises(ValueError, match=said): made(bad)
    refused([a,'nothing',b], "Source 2 of 3 can't be read")
    refused([a,b,linear], 'Source 3 of 3: This source is a linear model and has no vectors: pass `linear_factors')
    refused([a,elsewhere], 'Source 2 of 2: No label of the new data is in the source')
    refused([items,a], 'Source 1 of 2: This source has vectors of one side alone')
    refused([a,damaged], 'Source 2 of 2: `info')
    refused([a,b._replace(wgts={k:v*float('nan') for k,v in b.wgts.items()})], 'Source 2 of 2: This source has vectors that are no finite numbers')
    refused([], 'an empty list')
    with pytest.raises(ValueError, match='`id_map` has 1 entries for 2'): made(sources, id_map=[{}])
    for o in (dict(fill='mean'),dict(solve=False),dict(compare_source=True)):
        with pytest.raises(ValueError, match=f'leave out `{list(o)[0]}`'): made(sources, **o)
    with pytest.raises(ValueError, match='a dot product'): made(sources, use_nn=True)
    votes = CollabDataLoaders.from_df(clicks.assign(rating=lambda d: 1-2*(d.index%2)), valid_pct=0, device='cpu')
    with pytest.raises(ValueError, match='losses with negatives'): implicit_learner(votes, loss_func='votes', pretrained=sources)

def test_a_learner_keeps_its_rows_when_several_sources_are_refused(target, sources):
    learn = implicit_learner(target, 8, loss_func='ials')
    was = weights(learn)
    with pytest.raises(ValueError, match='make it anew with `pretrained` of `implicit_learner`'): learn.transfer_from(sources)
    with pytest.raises(ValueError, match='`solve=False` begins with the source'): learn.transfer_from(sources[0])
    assert same(weights(learn), was) and learn.transfer is None
    assert not same(weights(learn.transfer_from(sources[0], solve=False)), was)

# ---- What trials choose ----

class Told(SourceTrials):
    "Trials whose lists have the qualities that `says` gives: (labels are right?, ridge, strength) → NDCG without popularity, and with it"
    def __init__(self, known, says):
        self.alone,self.regs,self.strengths = IALSLoss(),(.01,.05),(1.,.1,.01)
        self.known,self.says = known,says
        self.settings,self.counts = self._settings,np.zeros(len(known.sides[1].clicks), dtype=int)
    def quality(self, known, reg, strength):
        judges = .1*np.sin(np.arange(200)*(1+strength)) # who differ in what they think of a strength
        return np.array([o+judges for o in self.says(known is self.known, reg, strength)])

def test_a_source_is_trusted_as_far_as_it_does_no_clear_harm():
    _,known = random_source()
    alike = Told(known, lambda right,reg,strength: [.3,.3+.1*(reg==.05)+.002*(strength<1)])
    assert alike.settings(known)==(.05,1.)
    harmful = Told(known, lambda right,reg,strength: [.3,.3-.1*(strength==1.)+.01*(reg==.01)])
    assert harmful.settings(known)==(.01,.1)

@pytest.mark.parametrize('without,beside,tells', [(.3,.3,False), (.5,.3,True), (.3,.5,True), (.1,.3,False)])
def test_labels_tell_with_popularity_or_without(without, beside, tells):
    _,known = random_source()
    assert Told(known, lambda right,*at: [without,beside] if right else [.3,.3]).tells(known)==tells

@pytest.mark.parametrize('better,agrees,tells', [(1.5,True,True), (1.5,False,False), (.5,True,False), (2.5,False,True)])
def test_lists_have_less_to_tell_where_popular_items_agree(better, agrees, tells):
    _,known = random_source()
    popular = known.with_sides([known.sides[0],known.sides[1]._replace(clicks=torch.arange(len(known.sides[1].clicks)).float()**2)])
    trials = Told(popular, None)
    def quality(source, *at): # of 200 judges, better by so many standard errors
        differ = (-1.)**np.arange(200)
        return np.tile(.3+.1*(differ+better/200**.5 if source is popular else 0*differ), (2,1))
    trials.quality = quality
    if agrees: trials.counts = popular.sides[1].clicks.numpy().astype(int)
    assert trials.tells(popular)==tells

def test_a_handful_of_clicks_in_a_large_catalogue():
    "The ridge draws vectors to 1e-9, whose products floats can't hold"
    rng = np.random.default_rng(0)
    df = pd.DataFrame(dict(user=rng.integers(600, size=20), item=rng.integers(9000, size=20)))
    dls = loaders(df, vocab=dict(user=[NA,*range(600)], item=[NA,*range(9000)]))
    learn = solved(dls, n_factors=64)
    assert all(torch.isfinite(o).all() for o in weights(learn).values())
    assert learn.recommend(3, k=5)['item'].isin(df['item']).all() # what is popular

# ---- Vectors of one side ----

def clicks_by_kind(n_users=300, n_items=60, n_kinds=5, share=.4, seed=0):
    "Clicks of users who each like one kind of items, those held out, and vectors that say an item's kind"
    rng = np.random.default_rng(seed)
    kind,taste = np.arange(n_items)%n_kinds,rng.integers(n_kinds, size=n_users)
    X = rng.random((n_users,n_items)) < np.where(taste[:,None]==kind, .4, .06)
    df = pd.DataFrame(np.argwhere(X), columns=['user','item'])
    shown = rng.random(len(df))<share
    return df[shown],df[~shown],(np.eye(n_kinds)[kind]+.1*rng.normal(size=(n_items,n_kinds))).astype(np.float32)

def trained(dls, loss, vecs=None, labels=range(60), side='item'):
    kw = {} if vecs is None else dict(pretrained={side:(vecs,list(labels))}, project=True)
    learn = implicit_learner(dls, 8, loss_func=loss, **kw)
    with learn.no_bar(),learn.no_logging(): return learn.solve() if loss=='ials' else learn.fit_one_cycle(3) or learn

@pytest.mark.parametrize('loss', ['ials','bpr'])
def test_vectors_of_items_alone_are_judged(loss):
    shown,held,vecs = clicks_by_kind()
    dls = loaders(shown)
    wrong = vecs[np.random.default_rng(0).permutation(60)]
    none,right,misled,people = [trained(dls, loss, *o) for o in ((), (vecs,), (wrong,), (np.random.default_rng(0).normal(size=(300,4)),range(300),'user'))]
    def ndcg(learn): return learn.evaluate(held, baselines=False).ndcg['model']
    assert ndcg(right)>ndcg(none)+.05 and 'On held-out clicks, each vector of the source is worth' in right.report.notes[0]
    for o in (misled,people): assert o.transfer.dropped and abs(ndcg(o)-ndcg(none))<.02

def test_vectors_are_left_out_where_nobody_can_judge_them():
    shown,_,vecs = clicks_by_kind(n_users=60)
    dls = loaders(shown)
    for loss in ('ials','bpr'):
        learn,alone = [implicit_learner(dls, 5, loss_func=loss, **kw) for kw in (dict(pretrained=dict(item=(vecs,list(range(60))))), {})]
        assert len(shown)<300 and learn.transfer.dropped and same(weights(learn), weights(alone))
        assert 'clicks to judge vectors by: the source was left out' in learn.report.notes[0]

def test_a_model_that_is_gone_on_from_remembers_its_vectors(tmp_path):
    "Solved without them, it would be another one, which is said"
    shown,_,vecs = clicks_by_kind()
    dls = loaders(shown)
    trained(dls, 'ials', vecs).save(tmp_path/'m')
    again = implicit_learner(dls, 8, loss_func='ials', pretrained=tmp_path/'m')
    assert again.model.sources=={'the source':1.}
    with pytest.warns(UserWarning, match='took part in this model'),again.no_bar(),again.no_logging(): again.solve(1)

def test_bad_vectors():
    shown,_,vecs = clicks_by_kind(n_users=60)
    dls,labels = loaders(shown),list(range(60))
    def refused(said, vecs, labels=labels):
        with pytest.raises(ValueError, match=said): implicit_learner(dls, 5, loss_func='ials', pretrained=dict(item=(vecs,labels)))
    hole = vecs.copy()
    hole[7,2] = np.nan
    refused("in 1 of 60 rows, such as that of 7: leave", hole)
    refused("more than one row for 3: keep one", vecs, [3 if o==5 else o for o in labels])
    refused('have no factors', vecs[:,:0])
    refused('are no array', [[1.,2.],*[[1.]]*59])
    with pytest.raises(ValueError, match='Cannot transfer from'): implicit_learner(dls, 5, loss_func='ials', pretrained=vecs)
    for o in (dict(item=pd.DataFrame(vecs, index=labels)),dict(item=(torch.from_numpy(vecs).bfloat16(),labels))):
        learn = implicit_learner(dls, 5, loss_func='ials', pretrained=o)
        assert 'user' not in ' '.join(learn.report.notes) # there are none whose labels could match

def test_what_vectors_of_one_side_say():
    "They differ as they did, whatever their width, scale and mean; nothing is known of the other side"
    _,_,vecs = clicks_by_kind()
    vecs = torch.from_numpy(vecs)
    there,here = Vocab(dict(user=[], item=list(range(60)))),Vocab(dict(user=[NA,'a','b'], item=[NA,*range(60),'new']))
    def known(vecs, k):
        pair = Pair({'i_weight.weight':vecs}, None, there, {}, None)
        return ClickSource(as_clicks(pair, k), Matches(there, here))
    o = known(vecs, 8)
    users,items = o.sides
    assert o.one_sided and not users.rows.any() and not users.clicks.any() and items.clicks.tolist()==[0]+[20]*60+[0]
    assert items.n_others[1]==3 and not items.rows[0].any() and not items.rows[-1].any()
    centred = vecs-vecs.mean(0)
    gram = centred@centred.T
    assert torch.allclose(items.rows[1:-1]@items.rows[1:-1].T, .5*gram/gram.diagonal().mean(), atol=1e-4)
    for scale,shift in ((7,3),(1e18,0),(1e-9,0)): assert torch.allclose(known(scale*vecs+shift, 8).sides[1].rows.abs(), items.rows.abs(), atol=1e-3)
    narrow = known(vecs, 2).sides[1].rows[1:-1]
    assert narrow.shape[1]==2 and np.isclose(narrow.square().sum(1).mean(), .5, atol=1e-4)
    for o in (torch.ones(60,3),1e3*torch.rand(1,3).expand(60,3)):
        with pytest.raises(ValueError, match='60 vectors and no two that differ'): known(o, 8)

# ---- Few clicks ----

def test_few_clicks_begin_with_popularity(clicks, sources):
    "Much of it alone, less beside a source, and what is asked for in any case"
    df = clicks[clicks.user>=195]
    dls = loaders(df)
    assert len(df)<300
    def popularity(**kw): return implicit_learner(dls, **{**dict(loss_func='ials'), **kw}).loss_func.popularity
    def unknown(pair): return pair._replace(vocab=Vocab({k:[NA,*[f'x{o}' for o in v[1:]]] if k=='user' else list(v) for k,v in pair.vocab.items()}))
    assert popularity()==1 and [popularity(pretrained=o) for o in (unknown(sources[0]),[unknown(o) for o in sources])]==[.1,.1]
    asked = IALSLoss(popularity=.7)
    assert popularity(loss_func=asked)==popularity(loss_func=asked, pretrained=unknown(sources[0]))==.7
