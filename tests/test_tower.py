"Towers: what is saved moves by label, what would be thrown away is refused, and what was learned is kept"
import json

import numpy as np,pandas as pd,pytest,torch
from fastai.basics import load_learner,set_seed

from collab_ext import CollabDataLoaders,Features,Fused,collab_learner,implicit_learner
from collab_ext.bundle import Bundle
from collab_ext.cold_start import work_scores
from collab_ext.content_prior import ContentPrior
from collab_ext.tables import packed_rows,tables
from collab_ext.tower import Tower,TensorBlocks,copy_tower,fit_lists,list_net

names = np.array('angst fluff crime space humor horror school war'.split())
rng = np.random.default_rng(0)
pairs = np.array([rng.choice(8, 2, replace=False) for _ in range(80)])
stories = pd.DataFrame(dict(story=[f's{i}' for i in range(80)], tags=['|'.join(o) for o in names[pairs]], words=rng.integers(1000, 90_000, 80),
    fandom=rng.choice(['A','B'], 80)))
liking = 2*rng.normal(size=(60,8))[:,pairs].sum(2) + rng.gumbel(size=(60,80))
read = np.argsort(-liking, 1)[:,:12]
reads = pd.DataFrame(dict(reader=np.repeat(np.arange(60), 12), story=stories.story.to_numpy()[read.ravel()]))
train = reads[~reads.story.isin([f's{i}' for i in range(8)])]
z = (liking-liking.mean())/liking.std()
rated = pd.DataFrame([(u,f's{i}',float(np.clip(np.round(3+z[u,i]), 1, 5))) for u in range(60) for i in rng.choice(72, 15, replace=False)+8],
    columns=['reader','story','rating'])

def quiet(learn, f):
    with learn.no_bar(),learn.no_logging(): f()
    return learn

def clicks(df=train, loss='softmax', **kwargs):
    dls = CollabDataLoaders.from_interactions(df, valid_pct=0., n_neg=5, bs=128, seed=0)
    return implicit_learner(dls, n_factors=6, loss=loss, lr=2e-2, **kwargs)

def ratings(**kwargs): return collab_learner(CollabDataLoaders.from_df(rated, valid_pct=.1, seed=0, bs=128), 6, **kwargs)

def features(**kwargs): return Features(**{**dict(tags='tags', categories='fandom', numbers='words', item='story'), **kwargs})

@pytest.fixture(scope='module')
def saved(tmp_path_factory):
    set_seed(0)
    learn = clicks(path=tmp_path_factory.mktemp('saved')).add_tower(stories, features(), hidden=8)
    quiet(learn, lambda: learn.fit(3)).save('tower')
    return learn

def loaded(saved, learn, **kwargs):
    learn.path = saved.path
    return learn.load('tower', **kwargs)

# --- saved towers

def test_a_saved_tower_moves_by_label(saved):
    df = train[train.story.isin(stories.story[30:])]
    learn = loaded(saved, clicks(df).add_tower(stories, features(), hidden=8))
    was,now = [o.content.prior.features.labels['tags'].vocab for o in (saved,learn)]
    assert was!=now and set(was)==set(now)
    works = [dict(tags=o, fandom='B', words=n) for o in names for n in (None,1_500,60_000)]
    assert np.allclose(learn.embed(works), saved.embed(works), atol=1e-4)

def test_labels_of_a_saved_tower_that_are_equally_frequent_are_not_mixed_up(saved):
    there = stories.assign(tags=stories.tags.str.replace('war','zeal'))
    learn = clicks().add_tower(there, features(), hidden=8)
    begins = learn.content.prior.tower.bags[1].weight.detach().clone()
    with pytest.warns(UserWarning, match="1 of the labels of 'tags'.*'zeal'"): loaded(saved, learn)
    code = learn.content.prior.features.labels['tags'].o2i
    assert torch.equal(learn.content.prior.tower.bags[1].weight[code['zeal']], begins[code['zeal']])
    for o in names[:-1]: assert np.allclose(learn.embed([dict(tags=o)]), saved.embed([dict(tags=o)]), atol=1e-5)

def test_a_tower_with_more_labels_loads(saved):
    more = stories.assign(tags=[o+'|zebra' if i%3==0 else o for i,o in enumerate(stories.tags)])
    with pytest.warns(UserWarning, match='zebra'): learn = loaded(saved, clicks().add_tower(more, features(), hidden=8))
    assert np.allclose(learn.embed([dict(tags='war')]), saved.embed([dict(tags='war')]), atol=1e-5)

def test_own_rows_of_a_saved_tower_move_by_item(saved):
    df = train.iloc[::-1].assign(story=train.story.where(train.story!='s20', 'new'))
    learn = loaded(saved, clicks(df).add_tower(stories, features(), hidden=8))
    own = {o:saved.model.rows.own[i] for i,o in enumerate(saved.vocab.labels[1])}
    for i,o in enumerate(learn.vocab.labels[1]): assert torch.equal(learn.model.rows.own[i], own.get(o, torch.zeros(7)))

def test_fields_in_another_order_load_by_name(saved):
    learn = clicks().add_tower(stories, Features(tags=['tags','fandom'], numbers='words', item='story'), hidden=8)
    with pytest.raises(ValueError, match='same `features`'): loaded(saved, learn)
    a = clicks().add_tower(stories, Features(tags=['tags','fandom'], item='story'), hidden=8)
    b = clicks().add_tower(stories, Features(tags=['fandom','tags'], item='story'), hidden=8)
    a.path = b.path = saved.path
    a.save('ab')
    b.load('ab')
    work = [dict(tags='war', fandom='A')]
    assert np.allclose(a.embed(work), b.embed(work), atol=1e-5)

def test_the_same_learner_goes_on_with_its_optimizer(saved):
    learn = loaded(saved, clicks().add_tower(stories, features(), hidden=8))
    assert len(learn.opt.state)>0
    pd.testing.assert_frame_equal(*[o.recommend(users=[0,1], k=3) for o in (saved,learn)])
    assert np.allclose(learn.content.rows, saved.content.rows, atol=1e-6)

def test_a_loaded_tower_is_written_down_for_a_model_that_is_evaluated(saved):
    learn = clicks().add_tower(stories, features(), hidden=8)
    learn.model.eval()
    loaded(saved, learn)
    assert torch.allclose(learn.model.i_weight.weight, saved.model.i_weight.weight, atol=1e-6)

def test_files_that_no_tower_can_be_read_from_are_refused(saved, tmp_path):
    def new(**kwargs): return clicks(path=saved.path).add_tower(stories, features(), **{**dict(hidden=8), **kwargs})
    with pytest.raises(ValueError, match='hidden'): loaded(saved, new(hidden=16))
    with pytest.raises(ValueError, match='interactions'): loaded(saved, new(interactions=False))
    plain = clicks(path=saved.path)
    plain.save('plain')
    with pytest.raises(ValueError, match='add_tower'): new().load('plain')
    old = new()
    state = {k:v for k,v in old.model.state_dict().items() if not k.endswith('_extra_state')}
    torch.save(state, saved.path/'models'/'old.pth')
    with pytest.raises(ValueError, match='without the labels of its fields'): old.load('old')
    said = json.loads(old.content.prior.features.to_json())
    flat = {**said, 'scales':{'words':dict(centre=0, width=0, log=False)}}
    for text in ('{', '[]', '{"labels":{}}', '['*100_000, json.dumps(flat), json.dumps({**said, 'scales':{}}), json.dumps({**said, 'labels':7})):
        torch.save({**state, 'i_weight.rows.tower._extra_state':torch.tensor(list(text.encode()), dtype=torch.uint8)}, saved.path/'models'/'bad.pth')
        with pytest.raises(ValueError, match='damaged'): old.load('bad')

def test_a_file_names_no_encoder_to_be_run(saved, monkeypatch):
    from collab_ext import features as module
    monkeypatch.setitem(module.encoders, 'mine', lambda: pytest.fail('a file has made an encoder'))
    learn = clicks(path=saved.path).add_tower(stories, features(), hidden=8)
    state = learn.model.state_dict()
    said = {**json.loads(learn.content.prior.features.to_json()), 'encoder':'mine', 'dims':{'tags':3}}
    key = 'i_weight.rows.tower._extra_state'
    torch.save({**state, key:torch.tensor(list(json.dumps(said).encode()), dtype=torch.uint8)}, saved.path/'models'/'named.pth')
    with pytest.raises(ValueError, match='encoder'): learn.load('named')

def test_an_error_leaves_tower_and_table_as_they_were(saved):
    learn = clicks().add_tower(stories, features(), hidden=16)
    before = [o.detach().clone() for o in learn.model.parameters()]
    with pytest.raises(ValueError): loaded(saved, learn)
    assert all(torch.equal(a, b) for a,b in zip(before, learn.model.parameters()))

def test_copied_towers_are_written_down(saved):
    other = stories.assign(story='o'+stories.story)
    learn = clicks(train.assign(story='o'+train.story)).add_tower(other, features(), hidden=8)
    copy_tower(learn, saved)
    assert np.allclose(learn.content.rows[:8], saved.content.rows[:8], atol=1e-5)
    with pytest.raises(ValueError, match='no tower'): copy_tower(clicks(), saved)

def test_a_learner_with_a_tower_is_pickled(saved, tmp_path):
    learn = clicks(path=tmp_path).add_tower(stories, features(), hidden=8)
    quiet(learn, lambda: learn.fit(1)).export()
    again = load_learner(tmp_path/'export.pkl')
    pd.testing.assert_frame_equal(learn.find_items('s0', k=3), again.find_items('s0', k=3))
    assert again.content.model is again.model

# --- a tower beside closed forms and `Fused`

@pytest.mark.parametrize('make', [lambda: clicks(loss='ials'), ratings])
def test_a_closed_form_refuses_to_replace_a_tower(make):
    learn = make().add_tower(stories, hidden=8)
    before = learn.model.i_weight.weight.clone()
    with pytest.raises(ValueError, match='fit_one_cycle.*fit_content'): quiet(learn, learn.solve)
    assert torch.equal(before, learn.model.i_weight.weight)

@pytest.mark.parametrize('make', [clicks, ratings])
def test_fused_says_that_it_leaves_a_tower_to_the_ordinary_way(make):
    learn = make().add_tower(stories, hidden=8)
    before = learn.model.rows.tower.bags[0].weight.detach().clone()
    with pytest.warns(UserWarning, match='the ordinary way: the model is a ContentDot'): quiet(learn, lambda: learn.fit(1, cbs=Fused()))
    assert not torch.equal(before, learn.model.rows.tower.bags[0].weight)
    assert np.allclose(learn.model.rows.every().detach(), packed_rows(tables(learn.model), 1), atol=1e-5)

@pytest.mark.parametrize('make', [lambda: clicks(loss='ials'), ratings])
def test_a_tower_goes_on_from_solved_rows(make):
    learn = make()
    quiet(learn, lambda: learn.solve(3))
    before = packed_rows(tables(learn.model), 1)
    shown = learn.recommend(users=[0,1], k=5)
    learn.add_tower(stories, hidden=8)
    after = packed_rows(tables(learn.model), 1)
    rated = torch.as_tensor(learn.dls.train_ds.counts['story'])>0
    assert torch.allclose(before[rated], after[rated], atol=1e-4)
    pd.testing.assert_frame_equal(shown, learn.recommend(users=[0,1], k=5), rtol=1e-3)
    assert learn.solver is None

def test_rows_of_chance_are_left_to_the_tower(): assert clicks().add_tower(stories, hidden=8).model.rows.own.abs().max()==0

def test_new_users_are_taken_in_and_new_items_are_refused():
    learn = clicks(loss='ials').add_tower(stories, hidden=8)
    quiet(learn, lambda: learn.fit(1))
    before = learn.model.i_weight.weight.clone()
    learn.fold_in(train[train.reader==0].assign(reader='new'))
    assert 'new' in learn.vocab.labels[0] and torch.allclose(before, learn.model.i_weight.weight)
    learn.fit(1)
    with pytest.raises(ValueError, match='add_tower'): learn.fold_in(reads[reads.story=='s0'])

# --- content of a learner with a tower

@pytest.fixture(scope='module')
def trained():
    set_seed(0)
    learn = clicks().add_tower(stories, hidden=8)
    return quiet(learn, lambda: learn.fit(8))

def encode(texts): return np.array([[len(o), o.count('a'), 1.] for o in texts], dtype=np.float32).reshape(len(texts), 3)

@pytest.mark.parametrize('interactions', [True,False])
@pytest.mark.parametrize('with_text', [True,False])
def test_a_bundle_embeds_as_the_tower_does(tmp_path, interactions, with_text):
    described = stories.assign(about=[f'a tale of {o}' for o in stories.tags])
    read = features(text='about', encoder=encode) if with_text else features()
    learn = clicks().add_tower(described, read, hidden=8, interactions=interactions)
    quiet(learn, lambda: learn.fit(2))
    bundle = Bundle(learn.export_bundle(tmp_path/'b', described), encoder=encode if with_text else None)
    works = [dict(tags='war'), dict(tags='fluff|crime|never', words=5_000, fandom='Q', about='a'), {}, dict(words=None, tags=[])]
    assert np.allclose(bundle.embed(works), learn.embed(works), atol=1e-5)
    assert np.allclose(bundle.embed(described[:7]), learn.embed(described[:7]), atol=1e-5) and len(bundle.embed([]))==0
    new = ~described.story.isin(train.story)
    rows = np.c_[bundle.tables['i_weight'],bundle.tables['i_bias']][bundle.i2i.get_indexer(described.story[new])]
    assert np.allclose(rows, learn.embed(described[new]), atol=1e-5)

@pytest.mark.parametrize('damage', [lambda d: d.pop('out.0.weight'), lambda d: d.pop('bags.0.weight'), lambda d: d.update({'out.3.bias':d['out.3.bias'][:2]}),
    lambda d: d.update({'bags.0.weight':d['bags.0.weight'][:2]}), lambda d: d.update({'dense.weight':d['dense.weight'][:,:1]}), lambda d: d.update({'out.1.weight':d['out.1.weight'].ravel()})])
def test_arrays_that_are_no_tower(trained, damage):
    text,arrays = trained.content.prior.to_arrays()
    assert ContentPrior.from_arrays(text, dict(arrays)).embed([{}]).shape==(1,7)
    arrays = dict(arrays)
    damage(arrays)
    with pytest.raises(ValueError): ContentPrior.from_arrays(text, arrays)
    with pytest.raises(ValueError): ContentPrior.from_arrays(text.replace('"interactions": true', '"other": 1'), trained.content.prior.to_arrays()[1])

def test_a_prior_from_content_may_take_the_place_of_a_tower(tmp_path):
    learn = clicks().add_tower(stories, hidden=8)
    quiet(learn, lambda: learn.fit(3)).fit_content(stories, n_search=50)
    bundle = Bundle(learn.export_bundle(tmp_path/'b', items=stories))
    works = [dict(tags='war'), dict(tags='fluff|crime', words=5_000)]
    assert np.allclose(bundle.embed(works), learn.embed(works), atol=1e-4)
    with pytest.raises(ValueError, match='fit_content'): learn.refresh_content()

def test_clicks_move_what_a_tower_says_of_a_work_towards_its_row(trained):
    blank = pd.DataFrame(dict(story=['s20'], tags=[None], words=[None], fandom=[None]))
    own = packed_rows(tables(trained.model), 1)[trained.vocab.rows(['s20'], 1)].numpy()
    before,after = trained.embed(blank),trained.embed(blank, reads[reads.story=='s20'])
    def cosine(a): return float((a[0,:-1]*own[0,:-1]).sum()/np.linalg.norm(a[0,:-1])/np.linalg.norm(own[0,:-1]))
    assert cosine(after)>cosine(before)+.1

def test_ratings_move_what_a_tower_says_of_a_work_towards_them():
    set_seed(0)
    learn = ratings(lr=2e-2).add_tower(stories, hidden=8)
    work = pd.DataFrame(dict(story=['new'], tags=['war'], words=[None], fandom=[None]))
    loved = pd.DataFrame(dict(reader=range(30), story='new', rating=5.))
    quiet(learn, lambda: learn.fit(8))
    def score(rows): return float(work_scores(learn, learn.vocab.rows(list(range(30)), 0), rows).mean())
    before,few,many = [score(learn.embed(work, *o)) for o in ((), (loved[:3],), (loved,))]
    assert before+.02<few<many<5.5

def test_before_own_rows_are_trained_ratings_move_nothing():
    learn = ratings().add_tower(stories, hidden=8)
    assert np.allclose(learn.embed(stories[:1], rated[:1].assign(story='s0')), learn.embed(stories[:1]), atol=1e-3)

def test_what_a_tower_expects(trained):
    prior = trained.content.prior
    expected = prior.expect(stories, spread=True, raised=True)
    assert np.allclose(expected.rows, trained.embed(stories)) and (expected.spread==1).all()
    assert prior.expect(stories).spread is None
    assert prior.cov.shape==(7,7) and np.linalg.eigvalsh(prior.cov).min()>0
    with pytest.raises(ValueError, match='fit_content'): prior.explained

def test_a_catalogue_follows_training_and_is_not_made_anew_for_each_question(monkeypatch):
    learn = clicks().add_tower(stories, hidden=8)
    for n in range(2):
        quiet(learn, lambda: learn.fit(2))
        rows,known = learn.content.rows,learn.content.known
        assert np.allclose(rows[known], packed_rows(tables(learn.model), 1)[learn.vocab.rows(stories.story[known].tolist(), 1)], atol=1e-6)
        assert np.allclose(rows[~known], learn.embed(stories[~known]), atol=1e-6)
        assert np.allclose(rows[known], learn.model.rows.every()[learn.vocab.rows(stories.story[known].tolist(), 1)].detach(), atol=1e-5)
    monkeypatch.setattr(type(learn.content), 'refresh', lambda self: pytest.fail('rows were made anew'))
    learn.find_items('s0', k=3)
    learn.find_items('s20', k=3)

def test_a_catalogue_takes_in_works_and_follows_training_with_them():
    learn = clicks().add_tower(stories, hidden=8)
    more = stories[:5].assign(story=[f'more {i}' for i in range(5)])
    learn.content.add(more)
    quiet(learn, lambda: learn.fit(2))
    assert len(learn.content.rows)==85 and np.allclose(learn.content.rows[-5:], learn.embed(more), atol=1e-6)
    assert 'more 0' in learn.find_items('s20', k=84).story.tolist()

# --- what is refused

@pytest.mark.parametrize('kwargs,what', [(dict(hidden=0), 'hidden'), (dict(hidden=2.5), 'hidden'), (dict(evidence=-1), 'evidence'), (dict(evidence=0), 'evidence'),
    (dict(evidence=float('nan')), 'evidence'), (dict(evidence='many'), 'evidence'), (dict(hide=2), 'hide')])
def test_a_tower_of_odd_sizes_is_refused(kwargs, what):
    with pytest.raises(ValueError, match=what): clicks().add_tower(stories, **kwargs)

def test_items_that_are_there_twice_are_named():
    with pytest.raises(ValueError, match="'s3' more than once"): clicks().add_tower(pd.concat([stories,stories[3:4]]))
    with pytest.raises(ValueError, match='none of the labels'): clicks().add_tower(stories.assign(story='x'+stories.story))

def graded():
    blocks = features().fit(stories).transform(stories)
    set_seed(0)
    lists = torch.stack([torch.randperm(80)[:10] for _ in range(80)])
    return Tower(blocks, 7, hidden=8),TensorBlocks(blocks),torch.arange(80),lists,torch.rand(80, 10)

def test_lists_that_would_ruin_a_tower_are_refused():
    tower,data,asked,lists,grades = graded()
    before = [o.detach().clone() for o in tower.parameters()]
    bad = grades.clone()
    bad[7,2] = float('nan')
    for args,what in (((asked,lists,bad), 'number 7'), ((asked[:5],lists,grades), '5 asked'), ((asked,lists+500,grades), 'from 0 to 79'),
        ((asked,lists[:,:1],grades[:,:1]), 'one work'), ((asked[:0],lists[:0],grades[:0]), 'no lists')):
        with pytest.raises(ValueError, match=what): fit_lists(tower, data, *args, epochs=1, progress=False)
    for temp in (0, -1, float('nan')):
        with pytest.raises(ValueError, match='temp'): fit_lists(tower, data, asked, lists, grades, epochs=1, temp=temp, progress=False)
        with pytest.raises(ValueError, match='temp'): list_net(grades, grades, temp)
    assert all(torch.equal(a, b) for a,b in zip(before, tower.parameters()))
    losses = fit_lists(tower, data, asked, lists, torch.ones(80, 10), epochs=2, progress=False)
    assert np.isfinite(losses).all() and len(losses)==2

def test_lists_show_a_bar(capsys):
    fit_lists(*graded(), epochs=2)
    assert '100' in capsys.readouterr().out

@pytest.mark.parametrize('loss', ['bpr','softmax'])
def test_a_learner_with_a_tower_does_not_grow_items(loss):
    learn = clicks(loss=loss).add_tower(stories, hidden=8)
    shown = learn.recommend(users=[0], k=3)
    with pytest.raises(ValueError, match='add_tower'): learn.grow(reads)
    with pytest.raises(ValueError, match='add_tower'): learn.grow(reads, fill='mean')
    assert len(learn.vocab.labels[1])==73
    pd.testing.assert_frame_equal(shown, learn.recommend(users=[0], k=3))
    learn.grow(pd.concat([train, train[train.reader==0].assign(reader='new')]))
    quiet(learn, lambda: learn.fit(1))
    assert len(learn.recommend(users=['new'], k=3))==3

@pytest.mark.filterwarnings('error')
def test_nothing_is_said_of_an_optimizer_that_nobody_asked_for(saved):
    learn = loaded(saved, clicks(train[train.story.isin(stories.story[30:])]).add_tower(stories, features(), hidden=8), with_opt=False)
    pth = saved.path/'models'/'tower.pth'
    other = clicks().add_tower(stories, features(), hidden=8).load_vocab(pth, saved.path/'models'/'tower_vocab.pkl')
    assert np.allclose(other.embed(stories), saved.embed(stories), atol=1e-5) and np.allclose(learn.embed(stories), saved.embed(stories), atol=1e-4)
