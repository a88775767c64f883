"What five kinds of users met when the library was tried again: each test fails without its mend"
from helpers import * # all of the package, and what the tests share
import decimal

import numpy as np,pandas as pd,pytest,torch
from fastai.callback.schedule import *
from fastai.learner import load_learner
from helpers import all_of,frame,loaders,weights
from collab_ext.baselines import baselines
from collab_ext.compare import paired
from collab_ext.demo import demo_ratings

def quiet(learn, n=2):
    with learn.no_bar(),learn.no_logging(): return learn.solve(n)

@pytest.fixture(scope='module')
def ratings(): return simulate_ratings(50, 30, 700).ratings

@pytest.fixture(scope='module')
def clicks():
    once = simulate_clicks(40, 40, 8)
    return pd.concat([once, once.head(60)], ignore_index=True) # some are clicked twice

@pytest.fixture(scope='module')
def solved(ratings, tmp_path_factory): # no test changes it
    return quiet(collab_learner(all_of(ratings), 3, y_range=(1,5), path=tmp_path_factory.mktemp('solved')))

def click_loaders(clicks, **kw): return CollabDataLoaders.from_interactions(clicks, valid_pct=0, **kw)

# ---- A student

def test_a_failed_export_takes_no_data_away(ratings, tmp_path):
    "fastai puts an empty set in the place of the ratings while it writes"
    solved = collab_learner(all_of(ratings), 3, path=tmp_path)
    n = len(solved.dls.train_ds)
    solved.export('here.pkl')
    before = (tmp_path/'here.pkl').read_bytes()
    solved.cannot = type('Local', (), {'__reduce__': lambda self: 1/0})()
    with pytest.raises(ZeroDivisionError): solved.export('here.pkl')
    assert len(solved.dls.train_ds)==n and (tmp_path/'here.pkl').read_bytes()==before
    assert [o.name for o in tmp_path.iterdir() if o.is_file()]==['here.pkl']
    del solved.cannot
    solved.export('new/folder/m.pkl')
    assert len(solved.dls.train_ds)==n and (tmp_path/'new/folder/m.pkl').is_file()
    with pytest.raises(ValueError, match='is a folder'): solved.export(tmp_path)
    with pytest.raises(TypeError, match='did you mean `fname`'): solved.export(fnam='m.pkl')

def test_nothing_to_train_on(solved):
    solved.export('m.pkl')
    with pytest.warns(UserWarning, match='insecure'): loaded = load_learner(solved.path/'m.pkl')
    before = weights(loaded)
    for call in (loaded.fit, loaded.fit_one_cycle, loaded.solve, loaded.fine_tune):
        with pytest.raises(ValueError, match='nothing to train on: this learner has no ratings'): call(1)
    assert all(torch.equal(v, before[k]) for k,v in weights(loaded).items())
    dropped = collab_learner(loaders(frame('ab','xyz'), bs=64, drop_last=True), 2)
    with pytest.raises(ValueError, match='`drop_last` drops it'): dropped.fit(1)

def test_names_and_kinds_of_arguments(ratings, solved):
    dls = all_of(ratings)
    with pytest.raises(TypeError, match='`fit_one_cycle` has no argument \'learning_rate\': did you mean `lr_max`'): solved.fit_one_cycle(1, learning_rate=.1)
    with pytest.raises(ValueError, match="`n_epoch` is a number of epochs, at least 0, not '3'"): solved.fit('3')
    with pytest.raises(ValueError, match='`layers` is a list of sizes'): collab_learner(dls, use_nn=True, layers=50)
    with pytest.raises(ValueError, match='`layers` is sizes of hidden layers, at least 1, not 0'): collab_learner(dls, use_nn=True, layers=[0])
    with pytest.raises(ValueError, match="`loss_func` is a function"): collab_learner(dls, loss_func='mse')
    with pytest.raises(ValueError, match="`opt_func` is a function"): collab_learner(dls, opt_func='adam')
    with pytest.raises(ValueError, match="`cbs` takes callbacks.*'early'"): collab_learner(dls, cbs='early')
    with pytest.raises(ValueError, match='more than there are users or items'): collab_learner(dls, 10**7)
    with pytest.raises(TypeError, match='did you mean `n`'): solved.plot_items(k=3)

def test_a_method_that_is_none(solved):
    with pytest.raises(AttributeError, match="'CollabLearner' object has no attribute 'similar_item'") as e: solved.similar_item('i1')
    assert e.value.name=='similar_item' and e.value.obj is solved
    assert not hasattr(solved, '_none') and solved.u_weight is solved.model.u_weight # what the model has is found as before

def test_what_things_are_called(solved):
    said = repr(solved)
    assert 'DotBias' in said and '700 + 700 ratings' in said and 'Vocab(50 user, 30 item)' in said
    assert repr(Vocab(dict(user=['a','b'], item=['#na#','x'])))=='Vocab(2 user, 1 item)' # `#na#` is no user
    assert repr(solved.dls.train_ds)=='Ratings(700 × rating, Vocab(50 user, 30 item))'

def test_predict_says_how(solved):
    with pytest.raises(ValueError, match=r'as in `learn.predict\(\(user, item\)\)`'): solved.predict(1, 'i1')

# ---- A shop

@pytest.mark.parametrize('make', [lambda d: quiet(implicit_learner(d, 3, loss='ials')), linear_learner])
def test_guests_need_no_counts(clicks, make):
    learn = make(click_loaders(clicks))
    assert learn.dls.train_ds.targ.unique().numel()>1
    guest = pd.DataFrame(dict(user='guest', item=['i1','i2']))
    shown = learn.recommend(ratings=guest, k=3)
    pd.testing.assert_frame_equal(shown, learn.recommend(ratings=guest.assign(count=1.), k=3))
    assert len(shown)==3

def test_grow_and_solve_say_what_they_forget(clicks):
    more = clicks.tail(10)
    ials = quiet(implicit_learner(click_loaders(clicks), 3, loss='ials')).grow(more)
    n = 40-more.user.nunique()
    with pytest.warns(UserWarning, match=f'learned of {n} users and .* is forgotten, since this begins from the 10 rows'): quiet(ials)
    with pytest.warns(UserWarning, match=f'learned of {n} users and .* is forgotten'): linear_learner(click_loaders(clicks)).grow(more)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        quiet(quiet(implicit_learner(click_loaders(clicks), 3, loss='ials')).grow(clicks))

def test_titles_of_other_labels(solved, ratings):
    with pytest.warns(UserWarning, match="`items` says nothing of what is shown: 'item' is such as 'i.*' there, and such as 1 in `items`"):
        solved.recommend(ratings.user[0], k=2, items={1:'one'})

def test_counts_are_called_counts(clicks):
    with pytest.raises(TypeError, match='did you mean `count_name`'): CollabDataLoaders.from_interactions(clicks, rating_name='n')
    with pytest.raises(ValueError, match='holds times, and counts are numbers: name the column of counts with `count_name`'):
        CollabDataLoaders.from_interactions(clicks.assign(when=pd.Timestamp('2025-01-01')), count_name='when')

def test_pairs_in_both_parts_are_told_for_clicks_too(clicks):
    twice = pd.concat([clicks, clicks], ignore_index=True)
    def halves(df): return range(len(clicks)),range(len(clicks),len(df))
    with pytest.warns(UserWarning, match=r"for clicks, `df.drop_duplicates\(\['user', 'item'\]\)`"): CollabDataLoaders.from_interactions(twice, splitter=halves)

# ---- A researcher

def test_popular_for_unknown_does_not_hide_leaks(ratings):
    twice = pd.concat([ratings, ratings], ignore_index=True)
    with pytest.warns(UserWarning, match='are in the training set, too'): CollabDataLoaders.from_df(twice, unknown='popular', seed=0)
    new_users = ratings.assign(user=ratings.user+1000)
    known = ratings[ratings.user==ratings.user.value_counts().index[0]]
    both = pd.concat([known, new_users.head(20)], ignore_index=True)
    with warnings.catch_warnings(): # the popular user stands in for the new ones, and has rated what they have
        warnings.simplefilter('error', UserWarning)
        CollabDataLoaders.from_df(both, unknown='popular', splitter=lambda df: (range(len(known)),range(len(known),len(both))))

def test_one_model_is_no_comparison(solved, ratings):
    test = ratings.head(200)
    with pytest.raises(ValueError, match='nothing to compare it with'): compare(solved, test, exclude_seen=False)
    assert list(compare(solved, test, exclude_seen=False, baselines=True).index)==['model 1',*baselines]
    assert all(type(o) is float for o in paired([1,2,3.], [1,2,4.]).values())

def test_searches_refuse_before_they_train(ratings, solved):
    def never(dls, **kw): raise AssertionError('trained')
    with pytest.raises(ValueError, match='trains a new learner for each split'): cross_validate(ratings, solved, 2)
    with pytest.raises(TypeError, match='did you mean `splitters`'): cross_validate(ratings, never, cv=3)
    with pytest.raises(TypeError, match='`tune` has no argument \'direction\': did you mean `maximize`'): tune(ratings, never, dict(a=(1,2)), direction='max')
    for metric in ('ndcg','ndcg@5'):
        with pytest.raises(ValueError, match='of rankings: pass `k`'): tune(ratings, never, dict(a=(1,2)), metric=metric)

def test_weights_are_the_reason(ratings):
    learn = collab_learner(loaders(ratings.assign(w=1.), weight_name='w', unknown='mean'), 3)
    with pytest.raises(ValueError, match=r'its ratings have weights \(`weight_name`\)'): learn.solve()

def test_simulated_sizes():
    for n in (-1,"3",3.5):
        with pytest.raises(ValueError, match='`n_users` is how many there are'): simulate_ratings(n)
    with pytest.raises(TypeError, match='did you mean `n_users`'): simulate_ratings(n_user=5)
    with pytest.raises(ValueError, match='`n_clicks` is how many'): simulate_clicks(n_clicks=0)
    with pytest.raises(TypeError, match='`cross_domain_split` has no argument'): cross_domain_split(frame('ab','xy'), share=.5)

# ---- An owner of weights

def test_weights_and_labels_in_memory(solved, ratings, tmp_path):
    dls = all_of(ratings)
    make = partial(collab_learner, dls, y_range=(1,5), fill='mean', path=tmp_path)
    learn = make(pretrained=(solved.model.state_dict(), dls.classes))
    assert all(torch.equal(v, weights(solved)[k]) for k,v in weights(learn).items())
    with pytest.raises(ValueError, match=r'without the labels of their rows: pass \(weights, vocabulary\)'): make(pretrained=solved.model.state_dict())
    with pytest.raises(ValueError, match=r'DotBias has no labels of its rows: pass \(weights, vocabulary\)'): make(pretrained=solved.model)

def test_two_names(solved, ratings):
    tmp_path = solved.path
    solved.save('a')
    make = partial(collab_learner, all_of(ratings), y_range=(1,5), fill='mean', path=tmp_path)
    for names in (('a','a_vocab'), ('a.pth','a_vocab.pkl'), (tmp_path/'models/a','a_vocab')):
        learn = make(pretrained=names)
        assert all(torch.equal(v, weights(solved)[k]) for k,v in weights(learn).items())
    with pytest.raises(FileNotFoundError, match='b_vocab'): make(pretrained=('a','b_vocab'))
    solved.export('m.pkl')
    with pytest.raises(FileNotFoundError, match='m.pkl is no weights file: if it is an exported learner'): make(pretrained=tmp_path/'m.pkl')

def test_an_encoder_that_was_saved_alone(tmp_path):
    "What fastai's `save_encoder` writes has no prefix"
    tokens = ['xxunk','xxpad','good','bad']
    wgts = {'encoder.weight':torch.randn(4,3), 'encoder_dp.emb.weight':torch.randn(4,3)}
    learn = collab_learner(all_of(pd.DataFrame(dict(token=['good','bad','good'], label=['x','x','y'], score=[1.,2,3]))), pretrained=(wgts, [tokens,[]]), path=tmp_path)
    assert torch.equal(learn.model.weight(['good','bad'], is_item=False), wgts['encoder.weight'][2:])

def test_files_that_are_something_else(tmp_path):
    models = tmp_path
    for text,why in (('hello','begins with b.hello'), ('','it is empty')):
        (models/'t.pth').write_text(text)
        with pytest.raises(ValueError, match=why): read_pair(models/'t')
    (models/'v.json').write_text('{"user": [1]}')
    with pytest.raises(ValueError, match='text, such as JSON.*`save_pickle`'): read_vocab(models/'v.json')
    save_pickle(models/'n.pkl', dict(user=np.array([1], dtype=object), item=[2]))
    with pytest.raises(ValueError, match='if you trust it, open it yourself, and save plain lists'): read_vocab(models/'n.pkl')

def test_what_is_no_state_dict_and_no_vocabulary(solved):
    state,vocab = solved.model.state_dict(),solved.vocab
    with pytest.raises(ValueError, match=r"under the key 'model'.*`wgts\['model'\]`"): match_embeds(dict(model=state, opt={}), vocab, vocab)
    with pytest.raises(ValueError, match='open it with `read_vocab`'): match_embeds(state, 'a_vocab.pkl', vocab)

def test_a_net_of_two_widths_as_a_source(ratings):
    net = collab_learner(all_of(ratings), use_nn=True, emb_szs=[5,6])
    with pytest.raises(ValueError, match='5 factors for users and 6 for items.*pass `n_factors` and `project=True`'): collab_learner(all_of(ratings), pretrained=net)

# ---- A newcomer

def test_a_guests_ratings(solved):
    guest = dict(user=['me','me'], item=['i1','i2'], rating=[5,1.])
    pd.testing.assert_frame_equal(solved.recommend(ratings=guest, k=2), solved.recommend(ratings=pd.DataFrame(guest), k=2))
    with pytest.raises(ValueError, match='`ratings`: The rating 50 .* outside `y_range'): solved.recommend(ratings=dict(guest, rating=[50,1]))
    with pytest.raises(ValueError, match='not a dict of single values'): solved.recommend(ratings={'i1':5,'i2':1})

def test_users_in_the_index(ratings):
    with pytest.warns(UserWarning, match="the index 'user' is not looked at.*`df.reset_index\\(\\)`"): loaders(ratings.set_index('user'), unknown='mean')
    with pytest.warns(UserWarning, match="'time', and the name of the second one is that of a time"): loaders(ratings[['user','time','rating']], unknown='mean')
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        loaders(ratings.rename_axis('row'), unknown='mean') # numbers of rows are no users

@pytest.mark.parametrize('reset', [False,True])
def test_a_table_of_users_by_items(ratings, reset):
    wide = ratings.pivot_table(index='user', columns='item', values='rating')
    with pytest.raises(ValueError, match='looks like a table of users × items.*melt'): CollabDataLoaders.from_df(wide.reset_index() if reset else wide)

def test_numbers_and_devices(ratings):
    with pytest.raises(ValueError, match=r"plain numbers; convert it with `df\['rating'\].astype\(float\)`"):
        CollabDataLoaders.from_df(ratings.assign(rating=[decimal.Decimal(3)]*len(ratings)))
    with pytest.raises(ValueError, match=r'not a Series: make a frame with `.reset_index\(\)`'):
        CollabDataLoaders.from_df(ratings.groupby(['user','item']).rating.mean())
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match='torch finds no such device'): CollabDataLoaders.from_df(ratings, device='cuda')

def test_a_demo_without_its_file(tmp_path):
    with pytest.raises(FileNotFoundError, match='There is no file .*nope.csv'): demo_ratings(tmp_path/'nope.csv')
