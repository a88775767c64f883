"Feedback as data: ranks that no order, tie or clock can upset; hidden states that no text and no file on disk can upset"
import pickle,pytest
from helpers import *
from collab_ext.candidates import *
from collab_ext.text_states import *

def plain_quantiles(df, window, past, share):
    "What `rolling_quantile` computes, pair by pair"
    window = pd.Timedelta(window)
    res = []
    for _,o in df.iterrows():
        near = df[(df.group==o.group)&(df.time>=o.time-window*past)&(df.time<=o.time+(window-window*past))]
        res.append(((near.value<o.value).sum()+share*(near.value==o.value).sum())/len(near))
    return np.array(res)

def posts(n, seed, most=4):
    rng = np.random.default_rng(seed)
    time = pd.Timestamp('2024-01-01')+pd.to_timedelta(rng.integers(0, 60, n), 'D')
    return pd.DataFrame(dict(value=rng.integers(0, most, n), time=time, group=rng.choice(['a','b'], n)))

@pytest.mark.parametrize('ties', ['low','mid','high'])
@pytest.mark.parametrize('n,past', [(1,.5),(2,0.),(17,.5),(30,.9),(30,1.)])
def test_quantiles_are_those_of_the_definition(n, past, ties):
    df = posts(n, n)
    found = rolling_quantile(df, 'value', 'time', 'group', window='10D', past=past, fresh='0h', ties=ties)
    assert np.allclose(found, plain_quantiles(df, '10D', past, dict(low=0,mid=.5,high=1)[ties]))

def test_order_of_rows_and_scale_of_counts_do_not_matter():
    df = posts(300, 0, 50)
    q = rolling_quantile(df, 'value', 'time', 'group')
    assert rolling_quantile(df.sample(frac=1, random_state=1), 'value', 'time', 'group').sort_index().equals(q)
    assert np.allclose(rolling_quantile(df.assign(value=df.value**3+7), 'value', 'time', 'group'), q, equal_nan=True)
    assert rolling_quantile(df.assign(time=df.time.dt.tz_localize('Asia/Tokyo')), 'value', 'time', 'group').equals(q)

def test_fresh_posts_have_no_quantile_and_judge_nobody():
    df = pd.DataFrame(dict(value=[1,2,3,100], time=pd.to_datetime(['2024-01-01','2024-01-02','2024-01-03','2024-01-03 23:00'], format='mixed')))
    q = rolling_quantile(df, 'value', 'time', past=.5, fresh='2h', now='2024-01-04')
    assert q.isna().tolist()==[False]*3+[True]
    assert q[:3].tolist()==rolling_quantile(df[:3], 'value', 'time', past=.5, fresh='0h').tolist()
    assert (settled_weight(df.time, now='2024-01-04').diff()[1:]<0).all()

def test_a_missing_count_is_left_out():
    df = posts(50, 3).assign(value=lambda o: o.value.astype(float))
    df.loc[7,'value'] = np.nan
    q = rolling_quantile(df, 'value', 'time', fresh='0h')
    assert np.isnan(q[7]) and q.drop(7).equals(rolling_quantile(df.drop(7), 'value', 'time', fresh='0h'))

@pytest.mark.parametrize('bad,message', [(dict(value=np.inf), 'finite'), (dict(value='many'), 'finite'), (dict(time=pd.NaT), 'no time'), (dict(time='soon'), 'no time')])
def test_bad_cells_are_named(bad, message):
    df = posts(5, 0).astype(object)
    df.loc[2,list(bad)[0]] = list(bad.values())[0]
    with pytest.raises(ValueError, match=message): rolling_quantile(df, 'value', 'time')

def test_empty_and_single():
    assert len(rolling_quantile(posts(0, 0), 'value', 'time'))==0
    assert rolling_quantile(posts(1, 0), 'value', 'time', fresh='0h').tolist()==[.5]

def test_the_last_vote_counts():
    df = pd.DataFrame(dict(text=['a','a','b'], user=['u','u','u'], time=[3,1,2], feedback=[1,-1,1]))
    kept = latest_votes(candidates(df, user='user', time='time', feedback='feedback'))
    assert kept.feedback.tolist()==[1,1] and kept.text.tolist()==['a','b']

@pytest.fixture(scope='module')
def lm(): return tiny_model(['to be or not to be', 'that is the question'])

odd_texts = ['', ' ', '\n'*500, '🐟'*900, '\x00\x07\x1b[2J', '\ud83d', 'שלום', '<b>*_[x](y)`</b>', 'a'*100_000, 'мова '*5000]

def test_states_of_odd_texts_are_finite_and_do_not_depend_on_company(lm):
    states = TextStates(*lm, max_tokens=32, batch_tokens=100)
    together = states(odd_texts)
    assert all(np.isfinite(o).all() and 1<=len(o)<=32 for o in together)
    for text,x in zip(odd_texts, together): assert np.allclose(states([text])[0], x, atol=2e-2)

@pytest.mark.parametrize('content', [b'', b'\x93NUMPY', b'junk'*100, pickle.dumps([1,2]), b'\x80\x04.'])
def test_hostile_cache_files_are_computed_again(lm, tmp_path, content):
    states = TextStates(*lm, cache=tmp_path)
    before = states(['to be'])[0]
    file, = tmp_path.rglob('*.npy')
    file.write_bytes(content)
    assert np.array_equal(states(['to be'])[0], before)
    assert np.array_equal(np.load(file), before)

@pytest.mark.parametrize('x', [np.full((2,32), np.nan, dtype='f2'), np.zeros((2,8), dtype='f2'), np.zeros((2,32)), np.zeros((999,32), dtype='f2'),
    np.array([dict()]), np.zeros(5)])
def test_arrays_of_another_kind_are_computed_again(lm, tmp_path, x):
    states = TextStates(*lm, cache=tmp_path)
    before = states(['to be'])[0]
    file, = tmp_path.rglob('*.npy')
    np.save(file, x, allow_pickle=True)
    assert np.array_equal(states(['to be'])[0], before)

def test_another_model_has_other_files(lm, tmp_path):
    TextStates(*lm, cache=tmp_path)(['to be'])
    other = tiny_model(['to be or not to be', 'that is the question'], seed=1)
    TextStates(*other, cache=tmp_path)(['to be'])
    TextStates(*lm, layers=[1], cache=tmp_path)(['to be'])
    assert len([*tmp_path.rglob('*.npy')])==3

def test_the_cache_is_bounded(lm, tmp_path):
    states = TextStates(*lm, cache=tmp_path, max_bytes=20_000)
    states([f'to be {i}' for i in range(60)])
    assert sum(o.stat().st_size for o in tmp_path.rglob('*'))<=20_000+4096*3
    assert not [*tmp_path.rglob('*.tmp')]

def test_the_whole_model_stays_whole(lm):
    model,tokenizer = lm
    before = len(model.transformer.h)
    TextStates(model, tokenizer, layers=[1])(['to be'])
    assert len(model.transformer.h)==before and model.config.num_hidden_layers==before

def test_lengths_and_times_are_no_guesses():
    posts = pd.DataFrame(dict(time=pd.date_range('2024', periods=9), notes=range(9)))
    with pytest.raises(ValueError, match="`window` is a length of time such as '14D'"): rolling_quantile(posts, 'notes', 'time', window=14) # it was 14 nanoseconds
    with pytest.raises(ValueError, match='ISO 8601'): as_times(['13/02/2024','03/02/2024']) # it was February and March
    assert as_times(['2024-02-13','2024-02-13 10:00']).dt.day.tolist()==[13,13]

def test_votes_may_be_true_and_false():
    df = pd.DataFrame(dict(text=['a','b'], up=[True,False]))
    assert candidates(df, 'text', feedback='up').feedback.tolist()==[1,-1]

def test_thumbs_may_be_missing():
    df = pd.DataFrame(dict(text=['a']*3, up=pd.Series([True,False,None], dtype=object)))
    assert candidates(df, feedback='up').feedback.fillna(0).tolist()==[1,-1,0]
    mixed = pd.DataFrame(dict(text=['a']*3, up=pd.Series([True,2,None], dtype=object)))
    assert candidates(mixed, feedback='up').feedback.fillna(0).tolist()==[1,2,0]

def test_names_and_doubled_columns():
    df = pd.DataFrame([['a',1,'ann',2,'x']], columns=['text','feedback','user','weight','odd'])
    assert list(candidates(df).columns)==['text','user','feedback','weight']
    with pytest.raises(ValueError, match='several columns'): candidates(pd.concat([df,df[['user']]], axis=1))

def test_times_out_of_range_are_named():
    with pytest.raises(ValueError, match='divide milliseconds'): as_times([1_700_000_000_000])
    with pytest.raises(ValueError, match='`now`'): rolling_quantile(pd.DataFrame(dict(n=[1], t=[0])), 'n', 't', now='soon')

def test_scores_that_are_missing_are_left_out():
    assert votes_auc([np.nan,.2,.9], [1,-1,-1])!=votes_auc([1,.2,.9], [1,-1,-1])
    assert votes_auc([np.nan,.2,.9], [1,-1,1])==1

def test_posts_with_few_beside_them():
    df = pd.DataFrame(dict(n=range(10), t=pd.date_range('2024-01-01', periods=10)))
    q = rolling_quantile(df, 'n', 't', window='3D', past=1., fresh='0h', min_posts=4)
    assert q.isna().tolist()==[True]*3+[False]*7

def test_states_are_computed_where_they_cannot_be_kept(tmp_path, monkeypatch):
    states = TextStates(*tiny_model(['a b c']), cache=tmp_path)
    def full(*args, **kwargs): raise OSError(28, 'No space left on device')
    monkeypatch.setattr(np, 'save', full)
    with pytest.warns(UserWarning, match='free space'): res = states(['a b'])
    assert len(res)==1 and not list(tmp_path.rglob('*.npy')) and not list(tmp_path.rglob('*.tmp'))
