"Bundles: the same answers, and no trust in files"
from helpers import * # all of the package, and what the tests share
import hashlib,json,os,subprocess,sys
from concurrent.futures import ThreadPoolExecutor
import numpy as np,pandas as pd,pytest,torch
from pathlib import Path
import collab_ext
from helpers import frame,learner,loaders

pytest.importorskip('safetensors')
pytest.importorskip('pyarrow')
from collab_ext.bundle import Bundle,write_bundle
from collab_ext.export import *

@pytest.fixture
def learn(tmp_path): return learner(loaders(simulate_ratings(20, 30, 200).ratings), tmp_path)

@pytest.mark.parametrize('y_range', [None,(1,5)])
@pytest.mark.parametrize('exclude', [False,True])
def test_as_the_learner(tmp_path, y_range, exclude):
    l = learner(loaders(simulate_ratings(20, 30, 200).ratings), tmp_path, y_range=y_range)
    b = Bundle(l.export_bundle(tmp_path/'b'))
    for u in l.vocab['user'][1:6]:
        want,got = l.recommend(u, 8, exclude_seen=exclude),b.recommend(u, 8, exclude_seen=exclude)
        np.testing.assert_allclose(got.score, want.score, atol=1e-4)
        assert got['item'].tolist()==want['item'].tolist()
    unknown_user = l.recommend('zoe', 4, unknown='mean')
    np.testing.assert_allclose(b.recommend('zoe', 4).score, unknown_user.score, atol=1e-4)
    assert b.similar_items('i0', 3)['item'].tolist()==l.similar_items('i0', 3)['item'].tolist()

def test_columns_that_are_called_like_answers_give_way(learn, tmp_path):
    labels = learn.vocab['item'][1:]
    items = pd.DataFrame(dict(item=labels, rank='r', score='s', title='t'))
    b = Bundle(learn.export_bundle(tmp_path/'b', items))
    u = learn.vocab['user'][1]
    want,got = learn.recommend(u, 3, items=items),b.recommend(u, 3)
    assert list(got)==['rank','item','score','title']==list(want)[1:]
    np.testing.assert_allclose(got.score, want.score, atol=1e-4)
    assert list(b.similar_items(labels[0], 2))==['rank','item','similarity','score','title']

# ---- Files of version 0.0.1 ----

def old_bundle(folder):
    "What `export_bundle` of version 0.0.1 wrote for six ratings, file by file"
    from safetensors.numpy import save_file
    folder.mkdir()
    floats = dict(u_weight=[[1,0],[0,1],[.5,.5]], i_weight=[[2,0],[0,2],[1.5,0],[.5,1.5]],
        u_bias=[.5,0,-.5], i_bias=[.125,.25,0,-.25], u_any=[0,0,.25])
    tabs = {k:np.array(v, dtype=np.float32) for k,v in floats.items()}
    tabs.update(seen=np.array([0,1,2,1,3,3]), seen_start=np.array([0,3,5,6]))
    save_file(tabs, folder/'tables.safetensors')
    users = pd.DataFrame(dict(user=['ann','bob','cat']))
    items = pd.DataFrame(dict(film=['Alien','Amelie','Heat','Titanic'], year=[1979,2001,1995,1997]))
    users.to_parquet(folder/'users.parquet', index=False)
    items.to_parquet(folder/'items.parquet', index=False)
    sums = {o.name:hashlib.sha256(o.read_bytes()).hexdigest() for o in sorted(folder.iterdir())}
    info = dict(user='user', item='film', mean=0.8873031139373779, y_range=[1.,5.], version=1, sha256=sums)
    (folder/'bundle.json').write_text(json.dumps(info, indent=1))
    return folder

old_answers = [ # user, exclude_seen, films, scores
    ('ann', True, ['Titanic'], [4.348670482635498]),
    ('bob', True, ['Alien','Heat'], [3.933882713317871,3.8333332538604736]),
    ('zoe', True, ['Amelie','Alien','Heat'], [4.200645446777344,4.11768913269043,4.028736114501953]),
    ('ann', False, ['Alien','Heat'], [4.884142875671387,4.78886079788208])]

@pytest.mark.parametrize('user,exclude_seen,films,scores', old_answers)
def test_bundles_of_version_0_0_1_give_their_answers(tmp_path, user, exclude_seen, films, scores):
    b = Bundle(old_bundle(tmp_path/'old'))
    got = b.recommend(user, k=3 if exclude_seen else 2, exclude_seen=exclude_seen)
    assert list(got)==['rank','film','score','year'] and got.film.tolist()==films
    np.testing.assert_allclose(got.score, scores, rtol=1e-6)
    near = b.similar_items('Alien', k=2)
    assert near.film.tolist()==['Heat','Titanic'] and near.year.tolist()==[1995,1997]

def part(folder, name):
    "The file of a bundle that holds its tables, users or items"
    res, = [o for o in Path(folder).iterdir() if o.name.startswith(name)]
    return res

def test_the_contents_are_those_of_version_0_0_1(tmp_path):
    "Other names and a checksum more; the files are the same, byte by byte"
    old = old_bundle(tmp_path/'old')
    b = Bundle(old)
    info = {k:v for k,v in b.info.items() if k not in ('version','sha256')}
    new = write_bundle(tmp_path/'new', b.tables, b.users, b.items, info)
    said = Bundle(new).info
    assert {k:said[k] for k in info}==info and set(said)-set(info)=={'version','sha256','check'} and said['version']==2
    for o in ('tables','users','items'): assert part(old, o).read_bytes()==part(new, o).read_bytes()

def test_an_export_has_the_tables_of_version_0_0_1(learn, tmp_path):
    old,new = Bundle(old_bundle(tmp_path/'old')),Bundle(learn.export_bundle(tmp_path/'b'))
    assert {k:(v.dtype,v.ndim) for k,v in new.tables.items() if not k.startswith('fold_')}=={k:(v.dtype,v.ndim) for k,v in old.tables.items()}

def test_an_export_over_a_bundle_of_version_0_0_1(learn, tmp_path):
    "Its files are kept for whoever has just read its description, and go at the next write"
    folder = old_bundle(tmp_path/'b')
    learn.export_bundle(folder)
    assert len(Bundle(folder).users)==20 and (folder/'tables.safetensors').exists()
    learn.export_bundle(folder)
    assert sorted(o.name.split('-')[0] for o in folder.iterdir())==['.bundle.lock','bundle.json','items','tables','users']

# ---- The files of a folder ----

def test_served_without_torch(learn, tmp_path):
    learn.export_bundle(tmp_path/'b')
    src = Path(collab_ext.__file__).parent/'bundle.py'
    code = ("import importlib.util,sys\n"
        f"s = importlib.util.spec_from_file_location('bundle', {str(src)!r})\n"
        "m = importlib.util.module_from_spec(s); s.loader.exec_module(m)\n"
        f"print(len(m.Bundle({str(tmp_path/'b')!r}).recommend({learn.vocab['user'][1]!r}, k=3)))\n"
        "assert not {'torch','fastai','collab_ext'} & set(sys.modules)")
    res = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert res.stdout.strip()=='3', res.stderr

def test_without_seen_nothing_is_left_out(learn, tmp_path):
    b = Bundle(learn.export_bundle(tmp_path/'b', with_seen=False))
    u = learn.vocab['user'][1]
    assert 'seen' not in b.tables and b.recommend(u, 5)['item'].tolist()==learn.recommend(u, 5, exclude_seen=False)['item'].tolist()

@pytest.mark.parametrize('file', ['tables','items','users'])
def test_damage_is_seen(learn, tmp_path, file):
    f = part(learn.export_bundle(tmp_path/'b'), file)
    f.write_bytes(f.read_bytes()[:-3]+b'xyz')
    with pytest.raises(ValueError, match=file): Bundle(tmp_path/'b')
    f.unlink()
    with pytest.raises(ValueError, match=file): Bundle(tmp_path/'b')

def test_all_or_nothing(learn, tmp_path):
    learn.export_bundle(tmp_path/'b')
    was = (tmp_path/'b/bundle.json').read_text()
    b = Bundle(tmp_path/'b')
    with pytest.raises(TypeError): write_bundle(tmp_path/'b', b.tables, b.users, b.items, dict(b.info, x=object()))
    assert (tmp_path/'b/bundle.json').read_text()==was
    assert [o.name for o in tmp_path.iterdir() if o.name.startswith('.b')]==[]
    other = tmp_path/'other'
    other.mkdir()
    (other/'notes.txt').write_text('mine')
    with pytest.raises(FileExistsError, match='is no bundle'): learn.export_bundle(other)
    assert (other/'notes.txt').exists()

def test_errors(learn, tmp_path):
    with pytest.raises(FileNotFoundError, match='no bundle'): Bundle(tmp_path/'nowhere')
    with pytest.raises(ValueError, match='has none'): learner(frame('ab','cd'), tmp_path, use_nn=True).export_bundle(tmp_path/'b')
    mixed = learner(frame([1,'a'], 'cd'), tmp_path)
    with pytest.raises(ValueError, match='of several types'): mixed.export_bundle(tmp_path/'b')
    b = Bundle(learn.export_bundle(tmp_path/'b'))
    for k in (0,True,2.,'3'):
        with pytest.raises(ValueError, match='at least 1'): b.recommend(1, k=k)
    everything = b.items.iloc[:,0]
    assert not len(b.recommend(learn.vocab['user'][1], exclude=everything))
    assert len(b.recommend(learn.vocab['user'][1], k=999, exclude_seen=False))==len(everything)

def test_the_index_finds_nearly_all(tmp_path):
    pytest.importorskip('usearch')
    rng = np.random.default_rng(0)
    tabs = dict(u_weight=rng.normal(size=(50,16)), i_weight=rng.normal(size=(2000,16))*rng.gamma(2,size=(2000,1)),
        u_bias=rng.normal(size=50), i_bias=rng.normal(size=2000))
    tabs = {**{k:v.astype(np.float32) for k,v in tabs.items()}, 'u_any':np.zeros(17,np.float32)}
    labels = [pd.DataFrame(dict(x=range(n))) for n in (50,2000)]
    b = Bundle(write_bundle(tmp_path/'b', tabs, *labels, dict(mean=0., y_range=None)))
    exact = b.recommend(3)
    assert b.build_index().index_recall()>.8 # threads build a somewhat different graph each time
    assert b.build_index(expansion=4096).index_recall()>.9
    got = b.recommend(3)
    both = exact.merge(got, on='x')
    assert len(both)>=9
    np.testing.assert_allclose(both.score_x, both.score_y, atol=1e-5)

class ReadOnly(Bundle):
    "A bundle that refuses to be written once it is open"
    def __setattr__(self, k, v):
        if self.__dict__.get('is_open'): raise AttributeError(f"an answer wrote {k!r}")
        super().__setattr__(k, v)

def test_answers_write_nothing(learn, tmp_path):
    pytest.importorskip('usearch')
    b = ReadOnly(learn.export_bundle(tmp_path/'b')).build_index()
    b.is_open = True
    b.recommend(b.users.iloc[0,0])
    b.similar_items(b.items.iloc[0,0])
    assert b.index_recall()>.9

def test_threads_share_a_bundle(learn, tmp_path):
    pytest.importorskip('usearch')
    users = learn.vocab['user'][1:]
    exact = Bundle(learn.export_bundle(tmp_path/'b'))
    want = {u:exact.recommend(u, 3) for u in users}
    b = Bundle(tmp_path/'b').build_index()
    with ThreadPoolExecutor(4) as pool:
        recall = pool.submit(b.index_recall, 3)
        got = list(pool.map(lambda u: b.recommend(u, 3), users*5))
    assert recall.result()==1
    for u,df in zip(users*5, got): assert df['item'].tolist()==want[u]['item'].tolist()

def test_recall_needs_an_index(learn, tmp_path):
    b = Bundle(learn.export_bundle(tmp_path/'b'))
    with pytest.raises(ValueError, match='call `build_index` first'): b.index_recall()
    with pytest.raises(ValueError, match='`n_users` is how many users to try, at least 1, not 0'): b.index_recall(n_users=0)

# ---- What is asked for badly ----

def test_nothing_damaged_is_exported(learn, tmp_path):
    with torch.no_grad(): learn.model.i_bias.weight[3] = float('nan')
    with pytest.raises(ValueError, match='i_bias holds values that are not finite'): learn.export_bundle(tmp_path/'b')
    assert not (tmp_path/'b').exists()

def test_a_broken_description_names_the_file(learn, tmp_path):
    (learn.export_bundle(tmp_path/'b')/'bundle.json').write_text('{')
    with pytest.raises(ValueError, match='bundle.json is damaged'): Bundle(tmp_path/'b')

def test_bad_questions(learn, tmp_path):
    b = Bundle(learn.export_bundle(tmp_path/'b'))
    first = b.recommend(b.users.iloc[0,0], 1).iloc[0,1]
    assert first not in b.recommend(b.users.iloc[0,0], 3, exclude=first).iloc[:,1].tolist()
    with pytest.raises(ValueError, match='takes one user, not a list'): b.vector([1,2])
    with pytest.raises(ValueError, match='at least 1, not 0'): b.similar_items(b.items.iloc[0,0], k=0)
    with pytest.raises(ValueError, match='not a DataFrame: pass the column'): b.recommend(b.users)
    with pytest.raises(ValueError, match='not a DataFrame: pass the column'): b.recommend(1, exclude=b.recommend(1))
    everything = b.recommend(1, k=99, exclude=None)
    assert len(b.recommend(1, k=99, exclude=['not in the bundle']))==len(everything)
    assert len(b.recommend(1, k=99, exclude=(o for o in everything['item'][:2])))==len(everything)-2

def test_what_does_not_belong_together_is_not_written(learn, tmp_path):
    b = Bundle(learn.export_bundle(tmp_path/'b'))
    def write(tables=b.tables, users=b.users, info=b.info): return write_bundle(tmp_path/'c', tables, users, b.items, info)
    with pytest.raises(ValueError, match='20 user vectors and 19 labels'): write(users=b.users[1:])
    with pytest.raises(ValueError, match="`tables` lacks 'u_any'"): write({k:v for k,v in b.tables.items() if k!='u_any'})
    with pytest.raises(ValueError, match="`info` lacks 'mean'"): write(info={})
    assert not (tmp_path/'c').exists()
    twice = b.users.replace(b.users.iloc[1,0], b.users.iloc[0,0])
    with pytest.raises(ValueError, match='more than once'): Bundle(write(users=twice))

@pytest.mark.parametrize('name', ['seen','seen_start'])
def test_half_of_what_users_have_seen_is_refused(learn, tmp_path, name):
    b = Bundle(learn.export_bundle(tmp_path/'b'))
    half = {k:v for k,v in b.tables.items() if k!=name}
    with pytest.raises(ValueError, match='need each other'): write_bundle(tmp_path/'c', half, b.users, b.items, b.info)
    assert not (tmp_path/'c').exists()

@pytest.mark.parametrize('text', ['[]', '{}', '1'])
def test_a_description_without_a_version_is_damaged(learn, tmp_path, text):
    (learn.export_bundle(tmp_path/'b')/'bundle.json').write_text(text)
    with pytest.raises(ValueError, match='bundle.json is damaged'): Bundle(tmp_path/'b')

def test_a_later_version_asks_for_an_update(learn, tmp_path):
    file = learn.export_bundle(tmp_path/'b')/'bundle.json'
    file.write_text(json.dumps(dict(json.loads(file.read_text()), version=3)))
    with pytest.raises(ValueError, match='update the library'): Bundle(tmp_path/'b')

# ---- Many users, and some items ----

def test_many_users_in_one_frame(learn, tmp_path):
    b = Bundle(learn.export_bundle(tmp_path/'b'))
    users = [*learn.vocab['user'][1:], 'zoe', learn.vocab['user'][1]] # an unknown one, and one twice
    got = b.recommend(users, 4)
    assert list(got)==['user','rank','item','score'] and got.user.tolist()==[u for u in users for _ in range(4)]
    for n,u in enumerate(users):
        one = b.recommend(u, 4)
        mine = got[4*n:4*n+4].reset_index(drop=True)
        assert mine['item'].tolist()==one['item'].tolist() and mine['rank'].tolist()==[1,2,3,4]
        np.testing.assert_allclose(mine.score, one.score, atol=1e-5)
    assert list(b.recommend([], 4))==list(got) and not len(b.recommend([], 4))
    everything = b.recommend(users, 4, exclude=b.items['item'])
    assert list(everything)==list(got) and not len(everything)

def test_batches_by_an_index(learn, tmp_path):
    pytest.importorskip('usearch')
    users = learn.vocab['user'][1:]
    b = Bundle(learn.export_bundle(tmp_path/'b'))
    exact = b.recommend(users, 3)
    assert b.build_index().recommend(users, 3)['item'].tolist()==exact['item'].tolist()

@pytest.mark.parametrize('many', [False,True])
def test_candidates(learn, tmp_path, many):
    b = Bundle(learn.export_bundle(tmp_path/'b'))
    user = learn.vocab['user'][1]
    some = b.items['item'][::3].tolist()
    asked = [user] if many else user
    everything = b.recommend(user, 99)
    want = everything[everything['item'].isin(some)]['item'].tolist()
    assert b.recommend(asked, 99, candidates=some+['not in the bundle'])['item'].tolist()==want
    assert b.recommend(asked, 99, candidates=some, exclude=want[0])['item'].tolist()==want[1:]
    assert not len(b.recommend(asked, candidates=['not in the bundle'])) and not len(b.recommend(asked, candidates=[]))
    assert b.recommend(asked, candidates=want[0])['item'].tolist()==want[:1]

def test_a_catalogue_of_one_item_has_no_similar_one(tmp_path):
    tabs = dict(u_weight=np.ones((2,3),np.float32), i_weight=np.ones((1,3),np.float32), u_bias=np.zeros(2,np.float32),
        i_bias=np.zeros(1,np.float32), u_any=np.zeros(4,np.float32))
    b = Bundle(write_bundle(tmp_path/'b', tabs, pd.DataFrame(dict(u=[1,2])), pd.DataFrame(dict(i=['x'])), dict(mean=0., y_range=None)))
    assert list(b.similar_items('x'))==['rank','i','similarity'] and not len(b.similar_items('x'))

# ---- Linear models ----

@pytest.mark.parametrize('kind', ['ease','graph'])
@pytest.mark.parametrize('exclude', [False,True])
def test_linear_models_as_the_learner(tmp_path, kind, exclude):
    dls = CollabDataLoaders.from_interactions(simulate_clicks(60, 40, 12), seed=1, unknown='mean', device='cpu')
    l = linear_learner(dls, kind, path=tmp_path)
    b = Bundle(l.export_bundle(tmp_path/'b'))
    users = l.vocab['user'][1:]
    got = b.recommend(users, 5, exclude_seen=exclude)
    for u in users:
        want = l.recommend(u, 5, exclude_seen=exclude)
        mine = got[got.user==u]
        np.testing.assert_allclose(mine.score, want.score, atol=1e-4)
        assert mine['item'].tolist()==want['item'].tolist()
    unknown_user = l.recommend('zoe', 4, unknown='mean')
    np.testing.assert_allclose(b.recommend('zoe', 4).score, unknown_user.score, atol=1e-4)
    if kind=='ease':
        near = l.similar_items(l.vocab['item'][1], 5)
        assert b.similar_items(l.vocab['item'][1], 5)['item'].tolist()==near['item'].tolist()
    with pytest.raises(ValueError, match='has none'): b.build_index()
    with pytest.raises(ValueError, match='no vectors'): b.vector(users[0])

def test_a_linear_bundle_is_bounded(tmp_path):
    dls = CollabDataLoaders.from_interactions(simulate_clicks(60, 40, 12), seed=1, unknown='mean', device='cpu')
    l = linear_learner(dls, path=tmp_path)
    full,some = [Bundle(l.export_bundle(tmp_path/f'b{n}', n_links=n)) for n in (500,10)]
    n = len(full.items)
    assert len(some.tables['link_item'])==10*n and len(full.tables['link_item'])==n*n
    assert {k:v.nbytes for k,v in some.tables.items()}['link_value']==40*n
    users = l.vocab['user'][1:]
    a,b = full.recommend(users, 5),some.recommend(users, 5)
    assert len(a.merge(b, on=['user','item']))>.6*len(a)

# ---- Written in one step, by one at a time ----

def test_files_are_as_readable_as_their_neighbours(learn, tmp_path):
    old = os.umask(0o027)
    try: folder = learn.export_bundle(tmp_path/'b')
    finally: os.umask(old)
    assert {o.stat().st_mode&0o777 for o in folder.iterdir() if o.name!='.bundle.lock'}=={0o640} and folder.stat().st_mode&0o777==0o750

def test_an_old_reader_finishes_after_a_new_export(learn, tmp_path):
    "Whoever has read the old description still finds its files, and after two exports begins again"
    from collab_ext import bundle
    folder = learn.export_bundle(tmp_path/'b')
    info = bundle._read_info(folder)
    other = learner(loaders(simulate_ratings(20, 31, 200).ratings), tmp_path)
    other.export_bundle(folder)
    assert set(bundle._read_parts(folder, info, True))=={'tables','users','items'}
    other.export_bundle(folder, with_seen=False)
    with pytest.raises(FileNotFoundError): bundle._read_parts(folder, info, True)
    assert len(Bundle(folder).items)==other.vocab.sizes[1]-1

@pytest.mark.parametrize('name', ['../x.parquet','/etc/passwd','sub/items.parquet','items.parquet\0','notes.txt'])
def test_a_description_names_no_file_elsewhere(learn, tmp_path, name):
    from collab_ext import bundle
    folder = learn.export_bundle(tmp_path/'b')
    info = json.loads((folder/'bundle.json').read_text())
    info['sha256'] = {name if k.startswith('items') else k:v for k,v in info['sha256'].items()}
    (folder/'bundle.json').write_text(json.dumps(dict(info, check=bundle._check_of(info))))
    with pytest.raises(ValueError, match='which is no file of a bundle'): Bundle(folder)

def test_the_description_has_a_sum(learn, tmp_path):
    file = learn.export_bundle(tmp_path/'b')/'bundle.json'
    file.write_text(json.dumps(dict(json.loads(file.read_text()), mean=9.)))
    with pytest.raises(ValueError, match='does not fit its own checksum'): Bundle(tmp_path/'b')

def test_no_link_is_followed(learn, tmp_path):
    folder = learn.export_bundle(tmp_path/'b')
    mine = tmp_path/'mine'
    mine.write_text('mine')
    for o in list(folder.iterdir()):
        if o.name=='.bundle.lock': continue
        o.unlink()
        o.symlink_to(mine)
    learn.export_bundle(folder)
    assert mine.read_text()=='mine' and len(Bundle(folder).users)==20
    (tmp_path/'link').symlink_to(folder)
    with pytest.raises(ValueError, match='is a link'): learn.export_bundle(tmp_path/'link')

def test_an_export_waits_for_another_and_says_so(learn, tmp_path):
    from filelock import FileLock
    folder = learn.export_bundle(tmp_path/'b')
    was = (folder/'bundle.json').read_bytes()
    with FileLock(folder/'.bundle.lock'), pytest.raises(TimeoutError, match='for 0.05 s: wait until it is done'): learn.export_bundle(folder, wait=.05)
    assert (folder/'bundle.json').read_bytes()==was

def test_the_package_serves_without_torch(learn, tmp_path):
    "Nothing of the training half is imported before it is asked for, and then all of it"
    learn.export_bundle(tmp_path/'b')
    code = ("import sys\nfrom collab_ext.bundle import Bundle\nimport collab_ext\n"
        f"print(len(Bundle({str(tmp_path/'b')!r}).recommend({learn.vocab['user'][1]!r}, k=3)))\n"
        "assert not {'torch','fastai'} & set(sys.modules) and {'collab_learner','Bundle'} <= set(dir(collab_ext))\n"
        "from collab_ext import *\nassert CollabLearner.recommend and Bundle is collab_ext.Bundle and set(collab_ext.__all__) <= set(globals())\n"
        "try: collab_ext.nonsense\nexcept AttributeError as e: print(e)")
    res = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True)
    assert res.stdout.splitlines()==['3',"module 'collab_ext' has no attribute 'nonsense'"], res.stderr

@pytest.mark.parametrize('module', ['learner','vocab','recommend'] if full else ['vocab'])
def test_a_learner_has_its_methods_whichever_module_comes_first(module):
    code = (f"import collab_ext.{module} as m,sys\nfrom collab_ext.learner import CollabLearner\n"
        "assert CollabLearner.recommend and CollabLearner.save and CollabLearner.export_bundle and sys.modules[m.__name__] is m\n"
        "import collab_ext\nassert collab_ext.CollabLearner is CollabLearner")
    res = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True)
    assert not res.returncode, res.stderr

@pytest.mark.parametrize('values', [[['a'],['b']], [{'a':1},{'b':2}], [np.zeros(2),np.ones(2)], [1,'n/a'], [Path('a'),Path('b')]])
def test_what_a_bundle_cannot_hold_is_refused_before_it_is_written(learn, tmp_path, values):
    "A bundle that works is not replaced by one that can't be opened"
    path = learn.export_bundle(tmp_path/'b')
    before = Bundle(path).recommend(learn.vocab['user'][1])
    item = learn.vocab.names[1]
    items = pd.DataFrame({item:learn.vocab[item][1:3], 'tags':pd.Series(values, dtype=object)})
    with pytest.raises(ValueError, match="The column 'tags' holds"): learn.export_bundle(path, items=items)
    assert Bundle(path).recommend(learn.vocab['user'][1]).equals(before)

def test_a_mask_is_no_list_of_labels(learn, tmp_path):
    mask = np.array([True,False,True])
    with pytest.raises(ValueError, match='True and False'): Bundle(learn.export_bundle(tmp_path/'b')).recommend(learn.vocab['user'][1], exclude=mask)
    with pytest.raises(ValueError, match='True and False'): learn.recommend(learn.vocab['user'][1], exclude=mask)

# ---- Somebody new ----

def same_lists(l, b, ratings, user='zoe', **kwargs):
    "Does the bundle show somebody new what the learner does?"
    u,i = l.vocab.names
    name = train_data(l.dls).rating_name
    if isinstance(ratings, dict): df = pd.DataFrame({u:user, i:list(ratings), name:list(ratings.values())})
    else: df = pd.DataFrame({u:user, i:list(ratings), name:1.})
    want,got = l.recommend(ratings=df, k=8, **kwargs),b.recommend(ratings=ratings, k=8, **kwargs)
    np.testing.assert_allclose(got.score, want.score, atol=2e-4)
    same = [a==b or abs(s-t)<1e-4 for a,b,s,t in zip(got[i],want[i],got.score,want.score)]
    assert all(same)

def ratings_of(rng, l, n):
    items = rng.choice(l.vocab['item'][1:], n, replace=False).tolist()
    return {o:float(r) for o,r in zip(items, rng.integers(1, 6, n))}

@pytest.mark.parametrize('y_range', [None,(1,5)])
@pytest.mark.parametrize('way', ['solve','fit'])
def test_new_users_of_ratings(tmp_path, y_range, way):
    l = learner(loaders(simulate_ratings(60, 40, 1100).ratings), tmp_path, y_range=y_range)
    if way=='solve': l.solve(5)
    else: fit(l)
    b = Bundle(l.export_bundle(tmp_path/'b'))
    rng = np.random.default_rng(0)
    for n in (1,3,12,30): same_lists(l, b, ratings_of(rng, l, n))
    same_lists(l, b, ratings_of(rng, l, 3), exclude_seen=False)

@pytest.mark.parametrize('loss', ['ials','softmax','ccl'])
def test_new_users_of_clicks(tmp_path, loss):
    df = simulate_clicks(60, 40, 15)
    l = implicit_learner(CollabDataLoaders.from_interactions(df, seed=0, bs=64), 8, loss, path=tmp_path)
    with l.no_bar(), l.no_logging():
        if loss=='ials': l.solve(3)
        else: l.fit(1)
    b = Bundle(l.export_bundle(tmp_path/'b'))
    rng = np.random.default_rng(0)
    for n in (1,3,7,20): same_lists(l, b, list(ratings_of(rng, l, n)))
    twice = ['i1','i1','i2'] if 'i1' in l.vocab['item'] else list(l.vocab['item'][1:3])*2
    same_lists(l, b, twice)

@pytest.mark.parametrize('kind', ['ease','graph'])
def test_new_users_of_linear_models(tmp_path, kind):
    l = linear_learner(loaders(simulate_ratings(60, 40, 1100).ratings), kind, path=tmp_path)
    b = Bundle(l.export_bundle(tmp_path/'b'))
    rng = np.random.default_rng(0)
    for n in (1,3,12): same_lists(l, b, ratings_of(rng, l, n))

def test_likes_are_high_ratings_and_unknown_items_say_nothing(learn, tmp_path):
    b = Bundle(learn.solve(3).export_bundle(tmp_path/'b'))
    i,j = learn.vocab['item'][1:3]
    like = b.info['fold']['like']
    assert like==np.quantile(learn.dls.train_ds.targ.numpy(), .9)
    pd.testing.assert_frame_equal(b.recommend(ratings=[i,j]), b.recommend(ratings={i:like,j:like}))
    pd.testing.assert_frame_equal(b.recommend(ratings=[i,'nowhere']), b.recommend(ratings=i))
    assert len(b.recommend(ratings=['nowhere']))==10

@pytest.mark.parametrize('ratings,said', [({'i1':'much'},"'much'"), ({'i1':float('nan')},'nan'), ({'i1':True},'True'), ({'i1':1e12},'1000000000000'),
    ([True,False],'True and False')])
def test_what_is_no_rating(learn, tmp_path, ratings, said):
    b = Bundle(learn.solve(3).export_bundle(tmp_path/'b'))
    with pytest.raises(ValueError, match=said): b.recommend(ratings=ratings)

@pytest.mark.parametrize('change,said', [(dict(kind='other'),'other'), (dict(noise=0.),'noise'), (dict(noise='x'),'noise'), (dict(like=None),'like')])
def test_damaged_folds_are_refused(learn, tmp_path, change, said):
    b = Bundle(learn.solve(3).export_bundle(tmp_path/'b'))
    info = {k:v for k,v in b.info.items() if k not in ('version','sha256','check')}
    with pytest.raises(ValueError, match=said): write_bundle(tmp_path/'c', b.tables, b.users, b.items, dict(info, fold=dict(info['fold'], **change)))

@pytest.mark.parametrize('name', ['fold_cov','fold_coefs'])
def test_damaged_fold_tables_are_refused(learn, tmp_path, name):
    b = Bundle(learn.solve(3).export_bundle(tmp_path/'b'))
    info = {k:v for k,v in b.info.items() if k not in ('version','sha256','check')}
    for bad in (b.tables[name][:-1], b.tables[name]*np.nan, b.tables[name].astype(int)):
        with pytest.raises(ValueError, match=name): write_bundle(tmp_path/'c', dict(b.tables, **{name:bad}), b.users, b.items, info)
    with pytest.raises(ValueError, match=name): write_bundle(tmp_path/'c', {k:v for k,v in b.tables.items() if k!=name}, b.users, b.items, info)
