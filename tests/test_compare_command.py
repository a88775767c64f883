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
    assert 'comparison_max' in capsys.readouterr().err

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
    (['--dev','--winner','x'], 'both')])
def test_errors_are_one_line(args, text, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(dev_size, 'n_comparisons', 200)
    assert run(*args, '--out', tmp_path/'out')==2
    said = capsys.readouterr().err
    assert text in said and said.startswith('collab-ext compare: ') and 'Traceback' not in said
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
