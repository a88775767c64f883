"The commands prepare, train, export and recommend: nothing leaks, versions are whole, runs can be repeated"
import os,shutil,subprocess,sys,threading
import pandas as pd,pytest
from hypothesis import given,settings,strategies as st
pytest.importorskip('pyarrow')
from fastai.basics import Metric
from collab_ext import *
from collab_ext.versions import *
from collab_ext.prepare_command import *
from collab_ext.train_command import *
from collab_ext.export_command import *
from collab_ext.recommend_command import *
from collab_ext.cli import main

# ---- Versions

def test_the_newest_is_the_largest_number(tmp_path):
    for o in ('2','10','9','latest','.x.new'): (tmp_path/'runs'/o).mkdir(parents=True)
    assert open_version(tmp_path, 'runs').name=='10' and list(versions_of(tmp_path, 'runs'))==[2,9,10]
    with pytest.raises(FileNotFoundError, match='there are 2, 9, 10'): open_version(tmp_path, 'runs', 1)

def test_writers_at_the_same_time_get_numbers_of_their_own(tmp_path):
    def write(i):
        with new_version(tmp_path, 'runs') as new: (new/'who').write_text(str(i))
    threads = [threading.Thread(target=write, args=(i,)) for i in range(12)]
    for o in threads: o.start()
    for o in threads: o.join()
    found = versions_of(tmp_path, 'runs')
    assert list(found)==list(range(1, 13)) and {(o/'who').read_text() for o in found.values()}==set(map(str, range(12)))
    assert sorted(o.name for o in (tmp_path/'runs').iterdir())==sorted(map(str, range(1, 13)))

cells = st.one_of(st.integers(-5, 5), st.text(max_size=3), st.none())
@settings(max_examples=20)
@given(st.lists(st.tuples(cells, cells), min_size=1, max_size=6))
def test_fingerprints_tell_frames_apart(rows):
    df = pd.DataFrame(rows, columns=['a','b'])
    assert fingerprint(df)==fingerprint(df.copy())
    changed = df.astype(object).copy()
    changed.iloc[0,0] = 'something else'
    assert fingerprint(df)!=fingerprint(changed) and fingerprint(df)!=fingerprint(df.rename(columns=dict(a='c')))

# ---- Reading and splitting

def test_labels_stay_what_they_are_in_every_format(tmp_path):
    df = pd.DataFrame(dict(user=['007','7','ann'], item=['1','01','x'], rating=[1.5,2,5], day=['2024-01-01']*3))
    df.to_json(tmp_path/'a.jsonl', orient='records', lines=True)
    df.to_parquet(tmp_path/'a.parquet')
    for o in ('a.jsonl','a.parquet'): assert read_rows(tmp_path/o, quiet=True).to_dict('list')==df.to_dict('list')

def test_a_late_text_makes_a_column_text(tmp_path, monkeypatch):
    monkeypatch.setattr('collab_ext.prepare_command.rows_at_once', 3)
    (tmp_path/'a.csv').write_text('user,item,rating\n'+''.join(f'{i},i,1\n' for i in range(7))+'x7,i,2\n')
    assert read_rows(tmp_path/'a.csv', quiet=True).user.tolist()==[*map(str, range(7)),'x7']

@pytest.mark.parametrize('name,text,said', [('a.csv','','can\'t be read'), ('a.csv','a,b\n','no rows'), ('a.jsonl','{"a":1}\n[\n','can\'t be read'), ('a.xlsx','','ends in none of')])
def test_files_that_are_none(tmp_path, name, text, said):
    (tmp_path/name).write_text(text)
    with pytest.raises(ValueError, match=said): read_rows(tmp_path/name, quiet=True)

@settings(max_examples=40)
@given(st.lists(st.tuples(st.sampled_from('abcdefgh'), st.sampled_from('uvwxyz'), st.integers(0, 3), st.integers(0, 3), st.sampled_from('pqrs')), min_size=12, max_size=40),
    st.sampled_from(['random','time','last','group']), st.booleans(), st.booleans(), st.integers(0, 3))
def test_nothing_is_on_both_sides(rows, split, clicks, by_list, seed):
    df = pd.DataFrame(rows, columns=['user','item','rating','day','list'])
    if df.user.nunique()<3 or df.list.nunique()<3: return
    cols = Columns('user','item','rating','day')
    whole = click_rows(df, cols) if clicks else rating_rows(df, cols)
    if not len(whole): return
    group = 'list' if by_list and split=='group' else None
    try: parts = split_parts(whole, cols, split, group, .3, seed)
    except ValueError as e:
        assert 'hold' in str(e)
        return
    pairs = [set(zip(o.user, o.item)) for o in parts.values()]
    assert not pairs[0]&(pairs[1]|pairs[2]) and not pairs[1]&pairs[2]
    assert sum(map(len, parts.values()))==len(whole)
    held = pd.concat([parts['valid'],parts['given']])
    if split=='group': assert not set(parts['train'][group or 'user'])&set(held[group or 'user'])
    if split=='time' and len(held): assert parts['train'].day.max()<=held.day.min()
    assert not set(parts['given'].user)&set(parts['train'].user)
    if clicks: assert whole.rating.sum()==df.rating.sum()

# ---- The pipeline

@pytest.fixture(scope='module')
def trial(tmp_path_factory):
    "Prepared data, a run and a bundle of ratings"
    root = tmp_path_factory.mktemp('trial')
    for o in (['prepare'],['train','--quiet','--seed','3'],['export']): assert main([o[0],'--dev','--root',str(root),*o[1:]])==0
    return root/'dev'

def test_the_bundle_gives_the_run_s_answers(trial):
    learn,shop = Run(open_version(trial, 'runs')).learner(),Bundle(open_version(trial, 'bundles'))
    for u in learn.vocab['user'][1:4]: assert learn.recommend(u, 5)['item'].tolist()==shop.recommend(u, 5)['item'].tolist()
    assert shop.items.title.notna().all() and read_note(open_version(trial, 'bundles')/'export.json')['run']==1

def test_a_run_is_repeated_bit_by_bit(trial):
    assert main(['train','--dev','--root',str(trial.parent),'--quiet','--repeat','1'])==0
    a,b = [Run(o) for o in versions_of(trial, 'runs').values()][:2]
    assert a.note['seed']==b.note['seed']==3 and a.note['value']==b.note['value']
    x,y = [o.learner().model.state_dict() for o in (a,b)]
    assert all((x[k]==y[k]).all() for k in x)
    assert not list(a.folder.glob('best*')) and (a.folder/'history.csv').exists()
    shutil.rmtree(b.folder)

def test_other_data_are_no_repetition(trial, tmp_path, capsys):
    root = shutil.copytree(trial, tmp_path/'dev')
    note = read_note(root/'prepared/1/prepared.json')
    write_note(root/'prepared/1/prepared.json', dict(note, fingerprint='0'*32))
    assert main(['train','--dev','--root',str(tmp_path),'--quiet','--repeat','1'])==2
    assert 'fingerprints differ' in capsys.readouterr().err

class Shortness(Metric):
    "Gets worse as rows grow, so the first epoch is the best"
    name = 'shortness'
    def reset(self): self.learn = None
    def accumulate(self, learn): self.learn = learn
    @property
    def value(self): return -self.learn.model.u_weight.weight.norm().item()

def test_the_best_epoch_is_kept(trial, monkeypatch):
    monkeypatch.setattr('collab_ext.train_command.metric_of', lambda data,name: ('shortness',[Shortness()]))
    options = dict(model='dot', loss=None, n_factors=8, epochs=3, lr=.01, bs=512, n_neg=4, y_range=None, pretrained=None, metric=None)
    run = train_run(trial, Prepared(open_version(trial, 'prepared')), options, quiet=True)
    seen = run.history.shortness
    assert seen.idxmax()==0 and seen[0]-seen[2]>.1 and abs(run.note['value']-seen[0])<1e-4
    shutil.rmtree(run.folder)

def test_a_killed_run_leaves_no_version(trial, monkeypatch):
    def stop(*args, **kwargs): raise KeyboardInterrupt
    monkeypatch.setattr('collab_ext.train_command.best_value', stop)
    before = list(versions_of(trial, 'runs'))
    with pytest.raises(KeyboardInterrupt): main(['train','--dev','--root',str(trial.parent),'--quiet'])
    assert list(versions_of(trial, 'runs'))==before and not list((trial/'runs').glob('.*'))

@pytest.mark.parametrize('args,said', [(['--loss','bpr'],'prepare them with'), (['--model','ease','--loss','mse'],'one way to train'), (['--model','tree'],'model'),
    (['--metric','accuracy'],'no metric'), (['--data','9'],'no version 9'), (['--y-range','5'],'1,5')])
def test_options_that_contradict(trial, capsys, args, said):
    assert main(['train','--dev','--root',str(trial.parent),'--quiet',*args])==2
    assert said in capsys.readouterr().err and not list((trial/'runs').glob('.*'))

def test_pretrained(trial, tmp_path):
    data = Prepared(open_version(trial, 'prepared'))
    options = dict(model='dot', loss=None, n_factors=8, epochs=1, lr=None, bs=None, n_neg=4, y_range=None, pretrained=str(trial/'runs/1'), metric=None)
    run = train_run(trial, data, options, quiet=True)
    assert run.note['n_factors']==8 and run.learner().recommend(data.train.user[0], 3) is not None
    shutil.rmtree(run.folder)

@pytest.mark.parametrize('args', [['--loss','softmax','--lr','.05'], ['--model','ease']])
def test_clicks_with_users_held_out(tmp_path, args):
    root = ['--dev','--root',str(tmp_path)]
    assert main(['prepare','--clicks','--split','group',*root])==0
    assert main(['train',*root,'--quiet',*args])==0 and main(['export',*root])==0
    run = Run(open_version(tmp_path/'dev', 'runs'))
    assert run.note['metric']=='ndcg@10' and .05<run.note['value']<=1
    learn,shop = run.learner(),Bundle(open_version(tmp_path/'dev', 'bundles'))
    liked = learn.vocab['item'][1:6]
    want = learn.recommend(ratings=pd.DataFrame(dict(user='new', item=liked)), k=5)
    assert shop.recommend(ratings=liked, k=5)['item'].tolist()==want['item'].tolist()

def test_tensorboard(trial):
    pytest.importorskip('tensorboard')
    assert main(['train','--dev','--root',str(trial.parent),'--quiet','--tensorboard'])==0
    run = open_version(trial, 'runs')
    assert list((run/'tensorboard').glob('events*'))
    shutil.rmtree(run)

def test_lists_for_all(trial, tmp_path):
    out = tmp_path/'lists.parquet'
    assert main(['recommend','--dev','--root',str(trial.parent),'--all','--k','3','--out',str(out)])==0
    lists = pd.read_parquet(out)
    assert lists.user.nunique()==200 and (lists.groupby('user').size()==3).all()
    assert os.listdir(tmp_path)==['lists.parquet']

def test_what_serves_imports_no_torch(trial):
    code = "import sys; from collab_ext.cli import main; main(sys.argv[1:]); import collab_ext.serve,collab_ext.serve_command; assert not {'torch','fastai'}&set(sys.modules)"
    subprocess.run([sys.executable,'-c',code,'recommend','--dev','--root',str(trial.parent),'--history','i1,i2'], check=True, capture_output=True)

@pytest.mark.parametrize('command', ['prepare','train','export','recommend','serve'])
def test_help_says_what_every_option_does(command, capsys):
    with pytest.raises(SystemExit) as e: main([command,'--help'])
    text = capsys.readouterr().out
    assert e.value.code==0 and '--root' in text and '--dev' in text

# ---- What is said of items

def told(folder, n_items=40):
    "Files of ratings and of items, of which some have no ratings"
    df = simulate_ratings(80, n_items, 1500, seed=1).ratings
    items = pd.DataFrame(dict(item=[f'i{j}' for j in range(n_items+6)], kinds=['a|b','b|c','c|a']*15+['a'], year=range(1980, 1980+n_items+6), seen=1))
    df['item'] = ['i'+str(o).lstrip('i') for o in df.item]
    df.to_csv(folder/'ratings.csv', index=False)
    items.to_csv(folder/'items.csv', index=False)
    return ['--ratings',str(folder/'ratings.csv'),'--items',str(folder/'items.csv'),'--root',str(folder),'--quiet']

def test_features_are_fitted_when_data_are_prepared(tmp_path, capsys):
    args = told(tmp_path)
    main(['prepare',*args])
    assert 'Of items is read' in capsys.readouterr().out
    guessed = Prepared(open_version(tmp_path, 'prepared')).features()
    assert guessed.kinds['kinds']=='tags' and guessed.kinds['year']=='numbers' and guessed.labels['kinds'].vocab
    main(['prepare',*args,'--tags','kinds'])
    data = Prepared(open_version(tmp_path, 'prepared'))
    assert data.features().kinds=={'kinds':'tags'}
    main(['train','--root',str(tmp_path),'--epochs','1','--quiet'])
    main(['export','--root',str(tmp_path)])
    bundle = Bundle(open_version(tmp_path, 'bundles'))
    assert bundle.content.features.kinds=={'kinds':'tags'} and len(bundle.items)==46
    (data.folder/'features.json').unlink() # as earlier versions wrote it
    assert Prepared(data.folder).features().kinds==guessed.kinds

@pytest.mark.parametrize('more,message', [(['--tags','kind'], 'kind'), (['--numbers','year,year'], 'more than once')])
def test_features_that_are_none(tmp_path, capsys, more, message):
    assert main(['prepare',*told(tmp_path),*more])!=0
    assert message in capsys.readouterr().err
    assert not versions_of(tmp_path, 'prepared')

def test_linear_models_say_what_they_leave_out(tmp_path, capsys):
    main(['prepare',*told(tmp_path)])
    main(['train','--root',str(tmp_path),'--model','ease','--quiet'])
    main(['export','--root',str(tmp_path)])
    assert '6 items without ratings are left out' in capsys.readouterr().out
