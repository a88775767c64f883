"`collab-ext compare`: what it reads, what it writes, what it leaves alone"
import os, subprocess, sys
from pathlib import Path
import numpy as np, pandas as pd, pytest
from collab_ext import cli, compare_command as module
from collab_ext.cli import main
from collab_ext.compare_command import *
from collab_ext.comparison_learner import comparison_learner, read_scores
from collab_ext.simulate_comparisons import as_wins, simulate_comparisons

sqlalchemy = pytest.importorskip('sqlalchemy')
pytestmark = pytest.mark.filterwarnings('ignore:.*not connected')
names = 'individual','items','global'

@pytest.fixture(scope='module')
def sim(): return simulate_comparisons(n_contributors=8, n_items=20, n_comparisons=300, criteria=['plot','sound'], seed=0)

@pytest.fixture
def csv(sim, tmp_path):
    sim.comparisons.to_csv(tmp_path/'mine.csv', index=False)
    return tmp_path/'mine.csv'

def run(*args): return main(['compare', '--quiet', *map(str, args)])
def read(folder): return {k:pd.read_csv(Path(folder)/f'{k}.csv') for k in names}
def same(a, b, tol=1e-5):
    for k in a:
        keys = [o for o in ('contributor','criterion','item') if o in a[k]]
        x,y = [o[k].sort_values(keys).reset_index(drop=True) for o in (a,b)]
        pd.testing.assert_frame_equal(x, y[list(x)], check_dtype=False, rtol=0, atol=tol)

# --- files

def test_files_in_files_out(csv, tmp_path, sim, capsys):
    assert run('--comparisons', csv, '--comparison_max', 10, '--out', tmp_path/'out')==0
    assert '300 comparisons of 20 items by 8 contributors' in capsys.readouterr().out
    found = read(tmp_path/'out')
    assert len(found['global'])==40 and set(found['individual'])=={'contributor','criterion','item','score','left','right','comparisons'}
    sim.comparisons.to_parquet(tmp_path/'mine.parquet')
    assert run('--comparisons', tmp_path/'mine.parquet', '--comparison_max', 10, '--out', tmp_path/'out', '--format', 'parquet', '--only', 'plot')==0
    some = {k:pd.read_parquet(tmp_path/'out'/f'{k}.parquet') for k in names}
    same(some, {k:v[v.criterion=='plot'] for k,v in found.items()})

def test_columns_of_other_names_and_one_criterion(sim, tmp_path):
    df = sim.comparisons.query("criterion=='plot'").drop(columns='criterion')
    df.rename(columns=dict(contributor='who', item_a='left', item_b='right', comparison='much'))[['much','right','left','who']].to_csv(tmp_path/'o.csv', index=False)
    df.to_csv(tmp_path/'u.csv', index=False)
    other = '--contributor','who','--item_a','left','--item_b','right','--answer','much'
    assert run('--comparisons', tmp_path/'o.csv', *other, '--comparison_max', 10, '--out', tmp_path/'o')==0
    assert run('--comparisons', tmp_path/'u.csv', '--comparison_max', 10, '--out', tmp_path/'u')==0
    same(read(tmp_path/'o'), read(tmp_path/'u'))

def test_wins(sim, tmp_path):
    as_wins(sim.comparisons).to_csv(tmp_path/'wins.csv', index=False)
    args = '--winner','winner','--loser','loser','--tie','tie','--contributor','contributor','--criterion','criterion'
    assert run('--comparisons', tmp_path/'wins.csv', *args, '--out', tmp_path/'out')==0
    assert len(read(tmp_path/'out')['global'])==40

def test_trust(csv, tmp_path, sim):
    who = sim.contributors.contributor
    pd.DataFrame(dict(contributor=who, trust=np.where(who==who[0], 1., 0.))).to_csv(tmp_path/'trust.csv', index=False)
    assert run('--comparisons', csv, '--comparison_max', 10, '--out', tmp_path/'out', '--trust', tmp_path/'trust.csv')==0
    found = read(tmp_path/'out')['global']
    assert found.contributors.max()==1

def test_a_dev_run(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(dev_size, 'n_comparisons', 300)
    assert run('--dev', '--epochs', 2, '--out', tmp_path/'out')==0
    assert 'pearson' in capsys.readouterr().out
    assert {o.name for o in (tmp_path/'out').iterdir()}=={f'{o}.csv' for o in names}|{f'{o}.png' for o in ('history','individual','top','scores','components')}

# --- resuming

def test_resumed_is_whole(sim, tmp_path):
    "From the state of 99 % of the comparisons to all of them, or all of them at once, with the same variances"
    order = sim.comparisons.sort_values('time', kind='stable')
    order.iloc[:-3].to_csv(tmp_path/'old.csv', index=False)
    order.to_csv(tmp_path/'all.csv', index=False)
    common = '--comparison_max', 10, '--state', tmp_path/'state', '--out', tmp_path/'out'
    assert run('--comparisons', tmp_path/'old.csv', *common)==0
    prior = read_scores(tmp_path/'state').model.prior
    assert run('--comparisons', tmp_path/'all.csv', *common)==0
    whole = comparison_learner(comparisons_of(pd.read_csv(tmp_path/'all.csv'), {}, comparison_max=10))
    whole.model.prior = prior
    with whole.no_bar(), whole.no_logging(): whole.solve()
    same(read(tmp_path/'out'), score_frames(whole))
    before = read(tmp_path/'out')
    assert run('--comparisons', tmp_path/'all.csv', *common)==0
    same(read(tmp_path/'out'), before)

def test_new_comparisons_alone_are_refused(csv, tmp_path, sim, capsys):
    common = '--comparison_max', 10, '--state', tmp_path/'state', '--out', tmp_path/'out'
    assert run('--comparisons', csv, *common)==0
    before = read(tmp_path/'out'),(tmp_path/'state.pth').read_bytes()
    sim.comparisons.tail(3).to_csv(tmp_path/'new.csv', index=False)
    assert run('--comparisons', tmp_path/'new.csv', *common)==2
    assert 'pass all comparisons, old and new' in capsys.readouterr().err
    same(read(tmp_path/'out'), before[0], 0)
    assert (tmp_path/'state.pth').read_bytes()==before[1]

def test_a_state_of_another_scale_is_refused(csv, tmp_path, capsys):
    assert run('--comparisons', csv, '--comparison_max', 10, '--state', tmp_path/'state', '--out', tmp_path/'out')==0
    assert run('--comparisons', csv, '--comparison_max', 20, '--state', tmp_path/'state', '--out', tmp_path/'out')==2
    said = capsys.readouterr().err
    assert '`--comparison-max 10`' in said and '`--comparison-max 20`' in said and 'another `--state`' in said and 'dls' not in said

def test_a_missing_criterion_is_refused(csv, tmp_path, sim, capsys):
    common = '--comparison_max', 10, '--state', tmp_path/'state', '--out', tmp_path/'out'
    assert run('--comparisons', csv, *common)==0
    before = read(tmp_path/'out'),(tmp_path/'state.pth').read_bytes()
    both = sim.comparisons.groupby('criterion').item_a.unique()
    some = sim.comparisons.query("criterion=='plot'")
    assert set(some.contributor)==set(sim.comparisons.contributor) and len(both)==2
    some.to_csv(tmp_path/'some.csv', index=False)
    some.drop(columns='criterion').to_csv(tmp_path/'none.csv', index=False)
    for o in ('some','none'):
        assert run('--comparisons', tmp_path/f'{o}.csv', *common)==2
        said = capsys.readouterr().err
        assert 'that these comparisons lack, such as' in said and ('criterion' in said or 'criteria' in said)
        assert 'pass all comparisons, old and new, or another `--state`' in said
    same(read(tmp_path/'out'), before[0], 0)
    assert (tmp_path/'state.pth').read_bytes()==before[1]

def test_growing_data_keep_the_scale_of_the_state(sim, tmp_path, capsys, monkeypatch):
    "The step of few answers looks different from that of many; the state's is kept, also from a relative path"
    monkeypatch.chdir(tmp_path)
    df = sim.comparisons.assign(comparison=(sim.comparisons.comparison/2.5).round()*2.5)
    odd = df.assign(comparison=df.comparison.where(np.arange(len(df))!=len(df)-1, 1.3))
    df.iloc[:-5].to_csv('old.csv', index=False)
    odd.to_csv('all.csv', index=False)
    common = '--state','state','--out','out'
    assert run('--comparisons', 'old.csv', '--comparison_max', 10, *common)==0
    old = read_scores('state')
    assert old.scale==11.25 and comparisons_of(odd, {}, comparison_max=10).train_ds.scale<11
    assert run('--comparisons', 'all.csv', *common)==0
    assert (read_scores('state').scale,read_scores('state').comparison_max)==(11.25,10)
    assert run('--comparisons', 'all.csv', '--step', 2.5, '--comparison-max', 10, *common)==0
    assert run('--comparisons', 'all.csv', '--step', 1, *common)==2
    said = capsys.readouterr().err
    assert '`--step 2.5`' in said and '`--step 1`' in said
    assert run('--comparisons', 'all.csv', '--comparison-max', 10, '--step', 1, '--state', 'other', '--out', 'out')==0
    assert read_scores('other').scale==10.5

def test_wins_and_grades_do_not_share_a_state(csv, sim, tmp_path, capsys):
    as_wins(sim.comparisons).to_csv(tmp_path/'wins.csv', index=False)
    args = '--winner','winner','--loser','loser','--tie','tie','--contributor','contributor','--criterion','criterion','--state',tmp_path/'state'
    assert run('--comparisons', tmp_path/'wins.csv', *args, '--out', tmp_path/'out')==0
    df = sim.comparisons
    df.assign(comparison=df.comparison/10).to_csv(tmp_path/'grades.csv', index=False)
    assert run('--comparisons', tmp_path/'grades.csv', '--state', tmp_path/'state', '--out', tmp_path/'out')==2
    said = capsys.readouterr().err
    assert 'is of wins and ties' in said and 'law=' not in said

# --- criteria

def test_only_the_one_criterion(sim, tmp_path):
    sim.comparisons.query("criterion=='plot'").to_csv(tmp_path/'one.csv', index=False)
    assert run('--comparisons', tmp_path/'one.csv', '--comparison_max', 10, '--only', 'plot', '--out', tmp_path/'out')==0
    assert len(read(tmp_path/'out')['global'])==20

@pytest.mark.parametrize('has_column', [False,True])
def test_frames_with_and_without_the_one_criterion(has_column):
    class One:
        dls = type('Loaders', (), dict(criteria=['plot']))
        def frame(self, *args, **kwargs): return pd.DataFrame(dict(**dict(criterion=['plot','plot']) if has_column else {}, item=['a','b'], score=[1.,2.]))
        scores = item_scores = global_scores = frame
    assert {k:len(o) for k,o in score_frames(One(), only='plot').items()}==dict.fromkeys(names, 2)

def test_criteria_that_are_numbers(sim, tmp_path, capsys):
    df = sim.comparisons
    df.assign(criterion=df.criterion.map(dict(plot=1, sound=2))).to_csv(tmp_path/'numbers.csv', index=False)
    common = '--comparisons', tmp_path/'numbers.csv', '--comparison_max', 10, '--epochs', 2, '--out', tmp_path/'out'
    assert run(*common, '--only', '2')==0
    assert set(read(tmp_path/'out')['global'].criterion)=={2}
    assert run(*common, '--only', '3')==2
    assert 'there are [1, 2]' in capsys.readouterr().err
    assert criterion_of('1', ['1',1])=='1' and criterion_of(1, ['1',1])==1

# --- wins

def test_weights_of_wins(sim, tmp_path):
    "A weight of 2 counts like the same row twice, whatever its column is called"
    wins = as_wins(sim.comparisons)
    w = np.where(np.arange(len(wins))%3, 1., 2.)
    args = '--winner','winner','--loser','loser','--tie','tie','--contributor','contributor','--criterion','criterion'
    pd.concat([wins,wins[w==2]]).to_csv(tmp_path/'twice.csv', index=False)
    assert run('--comparisons', tmp_path/'twice.csv', *args, '--out', tmp_path/'twice')==0
    for name in ('sure','comparison'):
        wins.assign(**{name:w}).to_csv(tmp_path/'wins.csv', index=False)
        assert run('--comparisons', tmp_path/'wins.csv', *args, '--weight', name, '--out', tmp_path/'out')==0
        found,twice = read(tmp_path/'out'),read(tmp_path/'twice')
        assert np.isclose(found['individual'].comparisons.sum(), twice['individual'].comparisons.sum())
        assert np.corrcoef(found['global'].score, twice['global'].score)[0,1]>.999

def test_wins_without_options_are_explained(sim, tmp_path, capsys):
    as_wins(sim.comparisons).rename(columns=dict(winner='Winner')).to_csv(tmp_path/'wins.csv', index=False)
    for more in ([], ['--contributor','contributor']):
        assert run('--comparisons', tmp_path/'wins.csv', *more, '--out', tmp_path/'out')==2
        said = capsys.readouterr().err
        assert 'pass `--winner Winner --loser loser`' in said and 'wins_frame' not in said
    given = '--winner','Winner','--loser','loser'
    for more,text in ((['--answer','tie'],'`--answer`'), (['--comparison-max','10'],'`--comparison-max 10`')):
        assert run('--comparisons', tmp_path/'wins.csv', *given, *more, '--out', tmp_path/'out')==2
        assert text in capsys.readouterr().err
    sim.comparisons[['item_a','item_b','comparison']].to_csv(tmp_path/'three.csv', index=False)
    assert run('--comparisons', tmp_path/'three.csv', '--comparison-max', 10, '--out', tmp_path/'out')==2
    said = capsys.readouterr().err
    assert 'pass `--winner` and `--loser`' in said and 'wins_frame' not in said

# --- where to write

@pytest.fixture
def unsolved(monkeypatch):
    def fail(*args, **kwargs): raise AssertionError('solving has begun')
    monkeypatch.setattr(module, 'comparison_learner', fail)

@pytest.mark.parametrize('option', ['--out','--state'])
def test_what_cannot_be_written_is_found_before_solving(csv, tmp_path, capsys, monkeypatch, unsolved, option):
    (tmp_path/'a.csv').write_text('x')
    place = tmp_path/'a.csv'
    common = '--comparisons', csv, '--comparison_max', 10, '--out', tmp_path/'out'
    assert run(*common, option, place if option=='--out' else place/'state')==2
    said = capsys.readouterr().err
    assert 'is no folder' in said and f'another `{option}`' in said and (tmp_path/'a.csv').read_text()=='x'
    (tmp_path/'out').mkdir()
    real = module.TemporaryFile
    def denied(dir):
        if dir==tmp_path: raise PermissionError(13, 'Permission denied')
        return real(dir=dir)
    monkeypatch.setattr(module, 'TemporaryFile', denied)
    assert run(*common, option, tmp_path/'new'/'place')==2
    said = capsys.readouterr().err
    assert f'{tmp_path} can\'t be written to (Permission denied)' in said and f'another `{option}`' in said
    assert {o.name for o in tmp_path.iterdir()}=={'a.csv','mine.csv','out'} and not list((tmp_path/'out').iterdir())

@pytest.mark.parametrize('made', [False,True])
def test_a_read_only_database_is_found_before_solving(url, tmp_path, capsys, unsolved, made):
    if made: write_tables(small_frames(), database_engine(url))
    before = (tmp_path/'site.db').read_bytes()
    assert run('--database', f'sqlite:///file:{tmp_path}/site.db?mode=ro&uri=true', '--table', 'comparisons', '--comparison_max', 10)==2
    said = capsys.readouterr().err
    assert 'readonly' in said and 'that you may write' in said and 'drop' not in said
    assert (tmp_path/'site.db').read_bytes()==before

def test_trying_a_database_leaves_no_trace(url):
    engine = database_engine(url)
    check_tables(engine, ['scores_items'])
    assert sqlalchemy.inspect(engine).get_table_names()==['comparisons']
    write_tables(small_frames(), engine)
    check_tables(engine, [f'scores_{o}' for o in names])
    same(tables(url), small_frames(), 0)
    with pytest.raises(ValueError, match='--out-table'): write_tables({k:o.assign(more=1) for k,o in small_frames(1.).items()}, engine)
    same(tables(url), small_frames(), 0)

def test_a_database_that_is_not_there_is_not_made(tmp_path, capsys):
    assert run('--database', f'sqlite:///{tmp_path}/none.db', '--table', 'comparisons')==2
    said = capsys.readouterr().err
    assert f'There is no database {tmp_path}/none.db' in said and not list(tmp_path.iterdir())

# --- what it says

def test_duplicates_and_the_report(sim, tmp_path, capsys):
    df = pd.concat([sim.comparisons,sim.comparisons.head(5)])
    df.to_csv(tmp_path/'twice.csv', index=False)
    common = '--comparisons', tmp_path/'twice.csv', '--comparison_max', 10, '--epochs', 1, '--out', tmp_path/'out'
    n = len(sim.comparisons.drop_duplicates(['contributor','criterion','item_a','item_b']))
    for how,found in (('keep',305),('last',n),('mean',n)):
        assert main(['compare', *map(str, common), '--duplicates', how])==0
        said = capsys.readouterr().out
        assert f'{found} comparisons' in said and '  repeated pairs: 5\n' in said and ': 0' not in said
        assert said.index('Worth a second look:')<said.index('Written')
    assert run(*common)==0
    assert 'second look' not in capsys.readouterr().out
    assert run(*common, '--duplicates', 'error')==2
    assert 'more than once' in capsys.readouterr().err

def test_wins_are_always_at_an_end_of_the_scale():
    counts = {'components':3, 'criteria':2, 'answers at an end of the scale':5, 'items that never won':0}
    others = 'repeated pairs','pairs in both orders','contributors with one comparison','items that never lost'
    report = pd.Series({**dict.fromkeys(others, 0), **counts})
    assert second_look(report).to_dict()=={'components':3, 'answers at an end of the scale':5}
    assert second_look(report, wins=True).to_dict()=={'components':3}
    assert 'components' not in second_look(report.replace(3, 2))

def test_in_a_pipe_there_is_text_alone(tmp_path):
    "No bar, no table of losses, no line of code in a warning; the bar's own warning is not ours"
    df = pd.DataFrame(dict(contributor='me', item_a=['a','b','x'], item_b=['b','c','y'], comparison=[5.,-3.,2.]))
    df.to_csv(tmp_path/'apart.csv', index=False)
    code = "import sys; from collab_ext.cli import main; sys.exit(main())"
    args = 'compare','--comparisons','apart.csv','--comparison-max','10','--epochs','2'
    res = subprocess.run([sys.executable, '-c', code, *args], capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert res.returncode==0, res.stderr
    assert res.stderr.startswith('Warning: 2 items without any chain') and res.stderr.count('\n')==1
    assert '  components: 2' in res.stdout and 'epoch' not in res.stdout and '\r' not in res.stdout

def test_at_a_terminal_there_is_a_bar(csv, tmp_path, monkeypatch):
    monkeypatch.setattr(sys.stdout, 'isatty', lambda: True, raising=False)
    assert shows_bar() and not shows_bar(quiet=True)

def test_warnings_outside_of_the_command_stay(tmp_path, monkeypatch):
    import warnings
    monkeypatch.setitem(dev_size, 'n_comparisons', 200)
    before = warnings.showwarning,list(warnings.filters)
    assert run('--dev', '--epochs', 1, '--out', tmp_path/'out')==0
    assert (warnings.showwarning,list(warnings.filters))==before

# --- databases

@pytest.fixture
def url(sim, tmp_path):
    url = f'sqlite:///{tmp_path}/site.db'
    with sqlalchemy.create_engine(url).begin() as con: sim.comparisons.astype(dict(criterion=str)).to_sql('comparisons', con, index=False)
    return url

def tables(url, prefix='scores'): return {k:read_table(database_engine(url), f'{prefix}_{k}') for k in names}

def small_frames(shift=0.): return {k:pd.DataFrame(dict(item=['a','b'], score=[1.,2.+shift])) for k in names}

def test_tables_are_as_files(url, csv, tmp_path):
    assert run('--database', url, '--table', 'comparisons', '--comparison_max', 10)==0
    assert run('--comparisons', csv, '--comparison_max', 10, '--out', tmp_path/'out')==0
    same(read(tmp_path/'out'), tables(url))
    assert run('--database', url, '--table', 'comparisons', '--comparison_max', 10, '--only', 'plot')==0
    assert len(tables(url)['global'])==20

def test_a_missing_criterion_is_refused_from_tables(url, tmp_path, sim, capsys):
    common = '--database', url, '--comparison_max', 10, '--state', tmp_path/'state'
    assert run(*common, '--table', 'comparisons')==0
    before = tables(url),(tmp_path/'state.pth').read_bytes()
    with sqlalchemy.create_engine(url).begin() as con:
        sim.comparisons.astype(dict(criterion=str)).query("criterion=='plot'").to_sql('some', con, index=False)
    assert run(*common, '--table', 'some')==2
    assert "1 criterion that these comparisons lack, such as 'sound'" in capsys.readouterr().err
    same(tables(url), before[0], 0)
    assert (tmp_path/'state.pth').read_bytes()==before[1]

@pytest.mark.parametrize('failing', range(3))
def test_a_failing_write_leaves_the_old_tables(tmp_path, failing):
    url = f'sqlite:///{tmp_path}/a.db'
    write_tables(small_frames(), database_engine(url))
    frames = small_frames(1.)
    bad = frames[names[failing]].assign(score=[object(),object()]) # what no database takes
    with pytest.raises(Exception): write_tables({**frames, names[failing]:bad}, database_engine(url))
    same(tables(url), small_frames(), 0)

@pytest.mark.parametrize('when', range(1, 7))
def test_a_killed_write_leaves_the_old_tables(tmp_path, when):
    "Killed at the n-th call of `to_sql`: three make the tables, three fill them"
    url = f'sqlite:///{tmp_path}/a.db'
    write_tables(small_frames(), database_engine(url))
    child = os.fork()
    if not child:
        calls,real = [],pd.DataFrame.to_sql
        def to_sql(self, *args, **kwargs):
            real(self, *args, **kwargs)
            calls.append(1)
            if len(calls)==when: os._exit(9)
        pd.DataFrame.to_sql = to_sql
        try: write_tables(small_frames(1.), database_engine(url))
        finally: os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])==9
    same(tables(url), small_frames(), 0)
    write_tables(small_frames(1.), database_engine(url))
    same(tables(url), small_frames(1.), 0)

def test_readers_see_old_scores_until_the_commit(tmp_path, monkeypatch):
    url,seen = f'sqlite:///{tmp_path}/a.db',[]
    write_tables(small_frames(), database_engine(url))
    real = pd.DataFrame.to_sql
    def to_sql(self, *args, **kwargs):
        real(self, *args, **kwargs)
        seen.append({k:pd.read_sql_table(f'scores_{k}', url) for k in names})
    monkeypatch.setattr(pd.DataFrame, 'to_sql', to_sql)
    write_tables(small_frames(1.), database_engine(url))
    assert len(seen)==6
    for o in seen: same(o, small_frames(), 0)

@pytest.mark.parametrize('dialect', ['postgresql','mysql'])
def test_types_that_other_databases_know(dialect, sim):
    "The tables that would be made there: text without a length, whole numbers of 64 bits, double precision"
    from importlib import import_module
    from pandas.io.sql import SQLDatabase,SQLTable
    learn = solved_learner(comparisons_of(sim.comparisons, {}, comparison_max=10), quiet=True, epochs=2)
    mixed = pd.concat([learn.scores().assign(contributor=7), learn.scores().assign(contributor='ann')], ignore_index=True)
    engine = sqlalchemy.create_engine('sqlite://')
    made = {}
    with engine.connect() as con:
        for k,df in dict(score_frames(learn), mixed=with_typed_labels(mixed)).items():
            table = SQLTable(k, SQLDatabase(con), frame=df, index=False).table
            text = str(sqlalchemy.schema.CreateTable(table).compile(dialect=import_module(f'sqlalchemy.dialects.{dialect}').dialect()))
            made[k] = dict(line.strip(' ,\t').split(' ', 1) for line in text.splitlines() if line.startswith('\t'))
    assert made['individual']==dict(contributor='BIGINT', criterion='TEXT', item='TEXT', **dict.fromkeys(['score','left','right'], 'FLOAT(53)'), comparisons='FLOAT(53)') \
        or {k.strip('`"'):v for k,v in made['individual'].items()}==dict(contributor='BIGINT', criterion='TEXT', item='TEXT',
            **dict.fromkeys(['score','left','right','comparisons'], 'FLOAT(53)'))
    assert made['mixed']['contributor']=='TEXT'

def test_a_failing_write_leaves_the_old_files(tmp_path, monkeypatch):
    write_files(small_frames(), tmp_path)
    real,calls = module.write_frame,[]
    def failing(*args):
        calls.append(1)
        real(*args)
        if len(calls)==3: raise OSError('disk full')
    monkeypatch.setattr(module, 'write_frame', failing)
    with pytest.raises(OSError): write_files(small_frames(1.), tmp_path)
    same(read(tmp_path), small_frames(), 0)
    assert len(list(tmp_path.iterdir()))==3

# --- what is wrong

@pytest.mark.parametrize('args,text', [
    ([], 'none of them'), (['--dev','--comparisons','x.csv'], 'comparisons and dev'), (['--comparisons','x.csv'], 'x.csv'),
    (['--database','sqlite://'], '`--table`'), (['--database','sqlite://','--table','x'], 'no table'), (['--database','x','--table','x'], 'is a URL'),
    (['--dev','--format','xml'], "'parquet'"), (['--dev','--only','taste'], 'no criterion'), (['--dev','--trust_table','x'], '--database'),
    (['--dev','--winner','x'], 'both'), (['--dev','--table','x'], 'its URL too'), (['--dev','--epochs','0'], 'epochs'), (['--dev','--level','2'], 'level')])
def test_errors_are_one_line(args, text, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(dev_size, 'n_comparisons', 200)
    assert run(*args, '--out', tmp_path/'out')==2
    said = capsys.readouterr().err
    *warned,last = said.splitlines()
    assert text in last and last.startswith('collab-ext compare: ') and all(o.startswith('Warning: ') for o in warned)
    assert not (tmp_path/'out').exists()

@pytest.mark.parametrize('change,text', [(dict(comparison=np.nan),'comparison'), (dict(comparison=11.),'beyond'), (dict(item_b='i0', item_a='i0'),'itself'),
    (dict(contributor=None),'contributor')])
def test_bad_rows_are_named(sim, tmp_path, capsys, change, text):
    df = sim.comparisons.astype(dict(contributor=object, criterion=str))
    for k,v in change.items(): df.loc[7,k] = v
    df.to_csv(tmp_path/'bad.csv', index=False)
    assert run('--comparisons', tmp_path/'bad.csv', '--comparison_max', 10, '--out', tmp_path/'out')==2
    said = capsys.readouterr().err
    assert text in said and '7' in said and not (tmp_path/'out').exists()

# --- the dispatcher

def test_help_needs_no_torch():
    code = "import sys; from collab_ext.cli import main; assert main(['--help'])==0; assert 'torch' not in sys.modules; assert main(['nothing'])==2"
    res = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=60)
    assert res.returncode==0 and 'compare' in res.stdout and "no command 'nothing'" in res.stderr, res.stderr

def test_commands_say_what_they_do():
    for name,o in cli.commands.items(): assert cli.load_command(name, cli.commands).__doc__==o.help

def test_our_own_errors_keep_their_traceback(monkeypatch):
    monkeypatch.setattr(module, 'score_frames', lambda *args: 1/0)
    with pytest.raises(ZeroDivisionError): run('--dev', '--epochs', 1)
