"A selector: the same whatever the order, honest errors, files that are believed only as far as they fit"
import json,math,os,pytest
from safetensors.torch import load_file,save_file
from helpers import *
from collab_ext.candidates import *
from collab_ext.off_policy import * # with `calibrate`
from collab_ext.selector import *

words = [f'w{i}' for i in range(30)]
word_vecs = dict(zip(words, np.random.default_rng(0).normal(size=(30,12))))
taste = np.random.default_rng(1).normal(size=12)

def states(texts): return [np.array([word_vecs[o] for o in t.split() if o in word_vecs] or np.zeros((1,12))) for t in texts]
def truth(text): return float(2*states([text])[0].mean(0)@taste)

def votes(n=300, seed=0, users=('ann',)):
    rng = np.random.default_rng(seed)
    texts = [' '.join(rng.choice(words, 5)) for _ in range(n)]
    return pd.DataFrame([dict(text=o, user=u, feedback=1 if rng.uniform()<1/(1+np.exp(-truth(o)*(1 if u=='ann' else -1))) else -1, week=i//10)
        for i,o in enumerate(texts) for u in users])

new = votes(100, 9).text.tolist()

def test_the_order_of_judgements_does_not_matter():
    df = votes()
    a,b = [selector_learner(o, states, valid=0).solve().score_candidates(new) for o in (df,df.sample(frac=1, random_state=0))]
    assert np.allclose(a, b, atol=1e-3)

def test_the_order_of_texts_does_not_matter():
    learn = selector_learner(votes(), states, valid=0).solve()
    mean,sd = learn.score_candidates(new)
    back,_ = learn.score_candidates(new[::-1])
    assert np.allclose(back[::-1], mean, atol=1e-5) and (sd>0).all()
    net = selector_learner(votes(60), states, hidden=8)
    assert np.allclose(net.score_candidates(['w1 w2 w3'])[0], net.score_candidates(['w3 w1 w2'])[0], atol=1e-5)

def test_errors_are_honest_and_shrink_with_votes():
    z,sds = [],[]
    for seed in range(8):
        mean,sd = selector_learner(votes(seed=seed), states, valid=0).solve().score_candidates(new)
        z.append((mean-[truth(o) for o in new])/sd)
        sds.append(sd.mean())
    assert .85<(np.abs(z)<2).mean()<1
    assert selector_learner(votes(3000), states, valid=0).solve().score_candidates(new)[1].mean()<.6*np.mean(sds)

def test_weights_count_as_repetitions():
    df = votes(60)
    twice = selector_learner(pd.concat([df,df]), states, valid=0).solve(precision=5.)
    heavy = selector_learner(df.assign(w=2.), states, valid=0, weight='w').solve(precision=5.)
    assert np.allclose(twice.score_candidates(new), heavy.score_candidates(new), atol=1e-4)

def test_a_person_differs_and_strangers_get_the_score_of_everybody():
    learn = selector_learner(votes(200, users=('ann','bob')), states, valid=0, user='user').solve()
    scores = {o:learn.score_candidates(new, o) for o in ('ann','bob','eve',None)}
    assert np.corrcoef(scores['ann'][0], scores['bob'][0])[0,1]<0
    assert np.allclose(scores['eve'][0], scores[None][0]) and (scores['eve'][1]>scores[None][1]).all()
    mixed,_ = learn.score_candidates(new[:2], ['ann',None])
    assert np.allclose(mixed, [scores['ann'][0][0],scores[None][0][1]], atol=1e-5)

@pytest.mark.parametrize('loss', ['votes','quantile','pairs'])
@pytest.mark.parametrize('hidden', [0,8])
def test_all_losses_learn_by_gradient(loss, hidden):
    set_seed(0)
    df = votes(300)
    df['feedback'] = df.feedback if loss=='votes' else df.text.map(truth).rank(pct=True)
    learn = fit(selector_learner(df, states, loss, hidden=hidden, context='week'), 4, 3e-2)
    assert learn.evaluate().value.iloc[0]>.6 and (learn.score_candidates(new)[1]>0).all()

def test_transfer_keeps_what_a_few_votes_do_not_contradict():
    source = selector_learner(votes(1000), states, valid=0).solve()
    few = selector_learner(votes(5, 3), states, valid=0, pretrained=source).solve()
    alone = selector_learner(votes(5, 3), states, valid=0).solve()
    right = np.array([truth(o) for o in new])
    assert order_accuracy(few.score_candidates(new)[0], right)['value']>order_accuracy(alone.score_candidates(new)[0], right)['value']
    with pytest.raises(ValueError, match='pass `hidden=0`'): selector_learner(votes(20), states, hidden=8, pretrained=source)

def test_order_accuracy_is_that_of_all_pairs():
    rng = np.random.default_rng(0)
    s,t,g = rng.integers(5, size=40),rng.integers(3, size=40),rng.integers(4, size=40)
    pairs = [(i,j) for i,j in itertools.combinations(range(40), 2) if g[i]==g[j] and t[i]!=t[j]]
    won = np.mean([.5 if s[i]==s[j] else (s[i]>s[j])==(t[i]>t[j]) for i,j in pairs])
    found = order_accuracy(s, t, g)
    assert np.isclose(found['value'], won) and found['pairs']==len(pairs) and found['low']<won<found['high']

@pytest.mark.parametrize('change,message', [(dict(feedback=[3]*20), 'a vote is 1 or -1'), (dict(feedback=[np.nan]*20), 'none has feedback'),
    (dict(text=[None]*20), 'has no text'), (dict(text=[5]*20), 'not text'), (dict(user=[None]*20), 'no user')])
def test_bad_judgements_are_named(change, message):
    with pytest.raises(ValueError, match=message): selector_learner(votes(20).assign(**change), states, valid=0, user='user')

def test_odd_texts_have_finite_scores():
    learn = selector_learner(votes(50), states, valid=0).solve()
    mean,sd = learn.score_candidates(['', '\x00', '🐟'*99, 'w1 '*30_000, '\ud800'])
    assert np.isfinite(mean).all() and np.isfinite(sd).all()
    assert len(learn.score_candidates([])[0])==0
    for bad in ('w1', [None]):
        with pytest.raises(ValueError): learn.score_candidates(bad)

def saved(tmp_path):
    learn = selector_learner(votes(50, users=('ann','bob')), states, valid=0, user='user', path=tmp_path).solve()
    return learn,learn.save('it')

def test_a_file_is_what_was_saved(tmp_path):
    learn,file = saved(tmp_path)
    again = load_selector(file, states)
    for u in (None,'ann','eve'): assert np.allclose(again.score_candidates(new, u), learn.score_candidates(new, u))
    assert np.allclose(learn.evaluate(votes(30, 4)), again.evaluate(votes(30, 4)))
    assert [o.name for o in file.parent.iterdir()]==['it.safetensors']

def test_damaged_files_are_refused(tmp_path):
    learn,file = saved(tmp_path)
    data = file.read_bytes()
    rng = np.random.default_rng(0)
    for i in range(60):
        bad = bytearray(data[:rng.integers(len(data))] if i%2 else data)
        if not i%2: bad[rng.integers(min(len(bad), 1500))] ^= 1<<rng.integers(8)
        file.write_bytes(bad)
        try: load_selector(file, states)
        except ValueError: pass

def test_files_that_claim_too_much_are_refused(tmp_path):
    learn,file = saved(tmp_path)
    state = load_file(file)
    from safetensors import safe_open
    with safe_open(file, 'pt') as f: info = json.loads(f.metadata()['collab_ext'])
    for change in (dict(width=2**30), dict(users=['#na#']), dict(users=[['a']]), dict(hidden=-1), dict(format='x'), dict(version=2),
        dict(columns=dict(evil=1)), dict(loss='x')):
        save_file(state, file, metadata=dict(collab_ext=json.dumps({**info, **change})))
        with pytest.raises(ValueError): load_selector(file, states)
    save_file({**state, 'head.weight':state['head.weight']*np.nan}, file, metadata=dict(collab_ext=json.dumps(info)))
    with pytest.raises(ValueError, match='not finite'): load_selector(file, states)
    save_file(state, file)
    with pytest.raises(ValueError, match='no saved selector'): load_selector(file, states)

def test_a_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    learn,file = saved(tmp_path)
    before = file.read_bytes()
    def full(*args): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(OSError, match='free space'): learn.solve(precision=99.).save('it')
    assert file.read_bytes()==before and len([*file.parent.iterdir()])==1

def test_zero_is_no_dislike():
    df = votes()
    with pytest.raises(ValueError, match='0 and 1, and a dislike is -1'): selector_learner(df.assign(feedback=(df.feedback>0)*1), states)

def test_what_never_varied_says_little():
    "A state that is constant in training, and another one in a new text, makes nothing sure and nothing infinitely unsure"
    def wide(texts): return [np.concatenate([o, np.full((len(o),1), float('zebra' in t))], 1) for o,t in zip(states(texts), texts)]
    learn = selector_learner(votes(), wide, valid=0).solve()
    sd = learn.score_candidates([new[0], f'{new[0]} zebra'])[1]
    assert sd[0]<sd[1]<5

def test_a_search_for_a_rate_changes_nothing():
    learn = selector_learner(votes(), states, hidden=8).solve()
    before = learn.score_candidates(new)[0]
    with learn.no_bar(),learn.no_logging(): learn.lr_find(show_plot=False)
    assert np.array_equal(learn.score_candidates(new)[0], before)

def test_the_best_epoch_is_kept(tmp_path):
    from fastai.callback.tracker import SaveModelCallback
    learn = selector_learner(votes(), states, hidden=8, path=tmp_path)
    with learn.no_bar(),learn.no_logging(): learn.fit_one_cycle(2, cbs=SaveModelCallback())
    assert np.isfinite(learn.score_candidates(new)[0]).all()

def test_what_a_selector_is_asked_for_otherwise(tmp_path):
    "What other learners have is there, or refused by name"
    learn,file = saved(tmp_path)
    assert learn.predict(new[0])==tuple(float(o[0]) for o in learn.score_candidates([new[0]]))
    assert list(learn.show_results(0, max_n=3).columns)==['text','target','score','sd'] and len(learn.show_results(0, max_n=3))==3
    with pytest.raises(ValueError, match='load_selector'): learn.export()
    loaded = load_selector(file, states)
    for o in (loaded.solve, loaded.lr_find, lambda: loaded.fit(1)):
        with pytest.raises(ValueError, match='no feedback to learn from'): o()
    with pytest.raises(ValueError, match='gives 2 numbers'): load_selector(file, lambda texts: [np.ones(2)]*len(texts)).score_candidates(new)
    for change,words in ((dict(hidden=-1), '`hidden`'), (dict(bs=0), '`bs`'), (dict(valid='v'), "not 'v'"), (dict(n_user_factors=-1), 'directions')):
        with pytest.raises(ValueError, match=words): selector_learner(votes(), states, **change)
    with pytest.raises(ValueError, match='`states` is'): selector_learner(votes(), 3)
    with pytest.raises(ValueError, match='no pair to learn from'): selector_learner(votes().assign(c=range(len(votes()))), states, 'pairs', context='c')
    for o in (-1, math.nan, 'x'):
        with pytest.raises(ValueError, match='`precision`'): learn.solve(precision=o)

def test_columns_are_found_by_their_usual_names():
    df = votes(200, users=('ann','bob'))
    learn = selector_learner(df, states, valid=0).solve()
    assert set(learn.users)=={'#na#','ann','bob'} and not np.allclose(learn.score_candidates(new, 'ann')[0], learn.score_candidates(new)[0])
    alone = selector_learner(df[['text','feedback']], states, valid=0).solve()
    assert alone.users==['#na#']
    pairs = selector_learner(df.rename(columns=dict(week='context')), states, 'pairs', valid=0)
    assert len(pairs.dls.judgements[0].pairs)

def test_a_source_is_found_by_its_name_beside_the_learner(tmp_path):
    learn,_ = saved(tmp_path)
    again = selector_learner(votes(20, users=('ann','bob')), states, valid=0, path=tmp_path, pretrained='it')
    assert again.report['head.weight']=='taken over'
    with pytest.raises(FileNotFoundError): selector_learner(votes(20), states, valid=0, path=tmp_path, pretrained='another')

def test_agreement_of_few_pairs_proves_little():
    few,many = [order_accuracy(np.arange(n), np.arange(n)>n//2) for n in (4,400)]
    assert few['value']==many['value']==1 and few['low']<.6 and .97<many['low']<1
    none = order_accuracy(-np.arange(4), np.arange(4))
    assert none['value']==0 and none['high']>.4
    with pytest.raises(ValueError, match='each candidate is in one'): order_accuracy([1,2], [1,2], ['a'])

def test_one_text_says_little_of_others():
    learn = selector_learner(votes(1), states, valid=0).solve()
    assert learn.score_candidates(new)[1].max()<1e3

def test_chances_are_even_where_nothing_is_known_and_temperatures_are_saved(tmp_path):
    learn = selector_learner(votes(300), states, path=tmp_path).solve(precision=1e-3)
    p = learn.probabilities(new)
    mean,sd = learn.score_candidates(new)
    assert (np.abs(p-.5)<np.abs(1/(1+np.exp(-mean))-.5)).all() and ((p>.5)==(mean>0)).all()
    held_out = votes(2000, 5)
    learn.temperature = .2
    def loss(): return -np.log(np.where(held_out.feedback>0, learn.probabilities(held_out.text), 1-learn.probabilities(held_out.text))).mean()
    before = loss()
    learn.calibrate(held_out)
    assert loss()<before and learn.temperature>.5
    assert load_selector(learn.save('warm'), states).temperature==learn.temperature
    learn.temperature = 1.
    assert learn.load('warm').temperature>.5

def test_temperatures_of_files_are_checked(tmp_path):
    learn,file = saved(tmp_path)
    from safetensors import safe_open
    with safe_open(file, 'pt') as f: info = json.loads(f.metadata()['collab_ext'])
    for bad in (0., -1., 'hot', None, float('inf')):
        save_file(load_file(file), file, metadata=dict(collab_ext=json.dumps({**info, 'temperature':bad})))
        with pytest.raises(ValueError): load_selector(file, states)
    del info['temperature']
    save_file(load_file(file), file, metadata=dict(collab_ext=json.dumps(info)))
    assert load_selector(file, states).temperature==1

def test_what_a_selector_cannot_do_is_said(tmp_path):
    learn,file = saved(tmp_path)
    with pytest.raises(ValueError, match='select'): learn.recommend('ann')
    with pytest.raises(ValueError, match='no judgements'): load_selector(file, states).show_results()
