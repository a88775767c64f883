"Corners of bundles and of the service: histories that say nothing, missing packages, odd options, filters, damage at start"
import re,shutil,sys,warnings
from pathlib import Path
import numpy as np,pandas as pd,pytest
for o in ('fastapi','uvicorn','httpx','pyarrow','safetensors'): pytest.importorskip(o)
from importlib.util import find_spec
from collab_ext.bundle import Bundle,write_bundle
from collab_ext.content_prior import ContentPrior
from collab_ext.features import Features
from collab_ext.serve import *
from collab_ext.serve_command import *
from test_serve import client_of,labels,make

@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp('corners')
    make(root/'bundles'/'1')
    return root

@pytest.fixture(scope='module')
def shop(folder): return Bundle(folder/'bundles'/'1')

@pytest.fixture(scope='module')
def client(folder): return client_of(create_app(Shelf(bundle_finder(folder)), poll=0))

def floats(*rows): return np.array(rows, dtype=np.float32)

def star_shop(folder):
    "A bundle of ratings from 1 to 5"
    tables = dict(u_weight=floats([1],[0]), u_bias=floats(0,.5), i_weight=floats([1],[2],[-1]), i_bias=floats(.3,0,.1), u_any=floats(0,.2),
        fold_cov=np.eye(2, dtype=np.float32), fold_coefs=floats([.5,.5]))
    info = dict(mean=0., y_range=[1,5], fold=dict(kind='ratings', noise=1., like=5.))
    return Bundle(write_bundle(folder, tables, pd.DataFrame(dict(user=['a','b'])), pd.DataFrame(dict(item=['x','y','z'])), info))

def linear_shop(folder):
    tables = dict(link_start=np.array([0,1,2]), link_item=np.array([1,0]), link_value=floats(1,2), own_start=np.array([0,1]), own_item=np.array([0]),
        own_value=floats(1), any_score=floats(.1,.2))
    info = dict(kind='linear', mean=0., y_range=None, fold=dict(kind='linear', value_weight=0., centre=1., like=1., counts=True))
    return Bundle(write_bundle(folder, tables, pd.DataFrame(dict(user=['a'])), pd.DataFrame(dict(item=['x','y'])), info))

# ---- Histories that say nothing

@pytest.mark.parametrize('ratings', [[], {}, ['zzz'], dict(zzz=2.), ['zzz','yyy']])
def test_a_history_without_a_known_item_is_that_of_an_unknown_user(shop, tmp_path, ratings):
    for b in (shop,star_shop(tmp_path/'stars'),linear_shop(tmp_path/'linear')):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter('always')
            got = b.recommend(ratings=ratings)
        assert len(said)==bool(ratings) and all("such as 'zzz'" in str(o.message) for o in said)
        pd.testing.assert_frame_equal(got, b.recommend('nobody'))
    assert b.unknown_items(['x','zzz','zzz'])==['zzz']

def test_the_service_names_what_it_ignored(client, shop):
    nobody = client.post('/recommend', json=dict(user=999)).json()
    assert 'ignored' not in nobody
    for history,ignored in (([],[]), (['zzz'],['zzz']), (['zzz',dict(item=5, rating=2.)],['zzz',5]), ([f'z{o}' for o in range(99)],[f'z{o}' for o in range(30)])):
        got = client.post('/recommend', json=dict(history=history)).json()
        assert got==dict(nobody, ignored=ignored)
    got = client.post('/recommend', json=dict(history=['zzz','i1'])).json()
    assert got['known'] and got['ignored']==['zzz'] and labels(got)==shop.recommend(ratings=['i1'])['item'].tolist()

# ---- Bundles whose texts nobody here can read

stories = ['a red dragon','a blue dragon','a red boat','a blue boat']*3

def encode(texts): return np.array([[('red' in o)+0.,('boat' in o)+0.] for o in texts], dtype=np.float32)

def text_shop(folder, name):
    "A bundle whose texts were read by an encoder called `name`"
    encoder = type('Named', (), dict(name=name, __call__=lambda self, texts: encode(texts)))()
    items = pd.DataFrame(dict(item=range(12), tags=['a|b','b','a;c','b;d']*3, about=stories))
    rows = np.concatenate([encode(stories), np.ones((12,1), np.float32)], 1)
    prior = ContentPrior(Features(text='about', tags='tags', item='item', sep=';', encoder=encoder), n_search=5).fit_rows(items, rows, np.full(12, 20))
    text,own = prior.to_arrays()
    tables = dict(u_weight=floats([1,0]), u_bias=floats(0), i_weight=rows[:,:2].copy(), i_bias=rows[:,2].copy(), u_any=floats(0,0,0),
        content_json=np.frombuffer(text.encode(), np.uint8), **{f'content.{a}':v for a,v in own.items()})
    info = dict(mean=0., y_range=None, content=dict(rated=12))
    return write_bundle(folder, tables, pd.DataFrame(dict(user=['ann'])), items, info)

@pytest.mark.parametrize('name,error,said', [('token_vectors',ImportError,r'pip install collab_ext\[text\]'), ('mine',ValueError,'pass it as `encoder`')])
def test_a_bundle_opens_without_what_reads_its_texts(tmp_path, monkeypatch, caplog, name, error, said):
    folder = text_shop(tmp_path/'bundles'/'1', name)
    monkeypatch.setattr('collab_ext.features._loaded', {})
    monkeypatch.setattr('collab_ext.features.find_spec', lambda o: None if o=='wordllama' else find_spec(o))
    b = Bundle(folder)
    assert len(b.recommend('ann'))==10 and b.similar_items(0, k=2)['item'].tolist()==[4,8] and b.sep==';'
    with pytest.raises(error, match=said): b.embed([dict(about='red')])
    client = client_of(create_app(Shelf(bundle_finder(tmp_path)), poll=0))
    assert client.post('/recommend', json=dict(user='ann')).status_code==client.post('/similar', json=dict(items=[0])).status_code==200
    assert 'bundle 1: this bundle can\'t read works here' in caplog.text
    for path in ('/embed','/similar'):
        got = client.post(path, json=dict(works=[dict(about='red')]))
        assert got.status_code==503 and re.search(said, got.json()['detail'][0]['message']) and str(tmp_path) not in got.text
    assert np.allclose(Bundle(folder, encoder=encode).embed([dict(about='red')])[0,2], 1, atol=.1)

def test_damaged_content_is_refused_also_without_what_reads_its_texts(tmp_path):
    b = Bundle(text_shop(tmp_path/'a', 'mine'))
    info = {k:v for k,v in b.info.items() if k not in ('version','sha256','check')}
    for name in ('content.mean','content.alpha','content_json'):
        write_bundle(tmp_path/'b', dict(b.tables, **{name:b.tables[name][:-1].copy()}), b.users, b.items, info)
        with pytest.raises(ValueError, match='is damaged'): Bundle(tmp_path/'b')

def test_a_bundle_opens_without_the_packages_of_content(tmp_path, monkeypatch):
    folder = text_shop(tmp_path/'a', 'mine')
    monkeypatch.setitem(sys.modules, 'collab_ext.content_prior', None)
    b = Bundle(folder)
    assert len(b.recommend('ann'))==10
    with pytest.raises(ImportError, match=r'pip install collab_ext\[content,text\]'): b.embed([{}])

def test_the_slim_wheel_has_the_packages_of_texts():
    root = Path(__file__).parent.parent
    needed = re.search('^text_requirements = (.*)', (root/'settings.ini').read_text(), re.M)[1].split()
    extra = re.search(r'^text = \[(.*)\]', (root/'bundle'/'pyproject.toml').read_text(), re.M)[1]
    assert set(needed)<=set(re.findall('"(.*?)"', extra)) and 'bundle[serve,text]' in (root/'Dockerfile').read_text()

# ---- Options of the command

@pytest.mark.parametrize('option,allowed', [(dict(port=99999),'0 to 65,535'), (dict(port=-1),'0 to 65,535'), (dict(max_body=0),'1 to 1,000,000,000'),
    (dict(timeout=-1.),'0.001 to 86,400'), (dict(timeout=0.),'0.001'), (dict(timeout=float('nan')),'86,400'), (dict(poll=-1.),'0 to 86,400'),
    (dict(concurrency=0),'1 to 1,000,000')])
def test_numbers_out_of_range_are_refused(folder, option, allowed):
    (name,value), = option.items()
    with pytest.raises(ValueError, match=f'`--{name.replace("_", "-")}` is {value}: pass a number from .*{allowed.split()[-1]}') as e: serve_command(str(folder), **option)
    assert allowed in str(e.value)

def test_one_connection_at_a_time_is_answered(folder, monkeypatch):
    "uvicorn refuses the connection that reaches its limit, and not only those beyond"
    uvicorn = pytest.importorskip('uvicorn')
    asked = []
    monkeypatch.setattr(uvicorn.Server, 'run', lambda self: asked.append(self.config.limit_concurrency))
    serve_command(str(folder), concurrency=1)
    assert asked==[2]

# ---- What is wrong, by index and field

@pytest.mark.parametrize('path,body,index,field', [('/recommend', dict(history=['i1'], kk=1), None, 'kk'),
    ('/recommend/many', dict(queries=[dict(user=1)]*3+[dict(user=1, kk=1)]), 3, 'kk'), ('/recommend', dict(history=['i1',dict(item='i2', rating=1., x=2)]), 1, 'x'),
    ('/recommend', {'user':1, 'x'*500:1}, None, 'x'*100), ('/recommend/many', dict(queries=[dict(user=1),dict(user='3')]), 1, None), ('/embed', dict(works=[{},None]), 1, 'works'), ('/embed', dict(works=[None]), 0, 'works')])
def test_a_field_that_there_is_not_is_named(client, path, body, index, field):
    got = client.post(path, json=body)
    flaw, = got.json()['detail']
    assert got.status_code==422 and (flaw['index'],flaw['field'])==(index,field)

# ---- Similar items by tags

def test_similar_items_by_tags_as_in_catalogues(tmp_path):
    b = Bundle(text_shop(tmp_path/'bundles'/'1', 'mine'))
    client = client_of(create_app(Shelf(bundle_finder(tmp_path)), poll=0))
    tags = b.items.set_index('item').tags.str.split(';')
    cases = [(dict(required=dict(tags=['B','d'])), lambda o: {'b','d'}<=set(o)), (dict(excluded=dict(tags='b')), lambda o: 'b' not in o),
        (dict(required=dict(tags='a|b'), excluded=dict(about='a red dragon')), lambda o: False), (dict(required={}, excluded=None), lambda o: True)]
    for kwargs,fits in cases:
        got = b.similar_items(0, k=20, **kwargs)['item'].tolist()
        assert set(got)=={o for o in b.items['item'][1:] if fits(tags[o])}
        asked = {k:v for k,v in kwargs.items() if v is not None}
        assert labels(client.post('/similar', json=dict(items=[0], k=20, **asked)).raise_for_status().json())==got

@pytest.mark.parametrize('what', ['required','excluded'])
def test_tags_of_no_column_are_refused(shop, client, what):
    with pytest.raises(KeyError, match=f"`{what}` names the column 'tags'; the catalogue has item, title"): shop.similar_items('i1', **{what:dict(tags='a')})
    with pytest.raises(ValueError, match=f'`{what}` is a dict'): shop.similar_items('i1', **{what:'a'})
    for bad in (dict(tags='a'),'a',dict(genre=None),dict(genre=[1.5])):
        got = client.post('/similar', json={'items':['i1'], what:bad})
        assert got.status_code==422 and got.json()['detail'][0]['field']==what
    assert client.post('/similar', json={'items':['i1'], what:dict(genre=['a',3], year=1981)}).status_code==200

# ---- Ratings that can't be any

@pytest.mark.parametrize('rating,said', [(99.,'from 1 to 5'), (.5,'from 1 to 5'), (-5.,'from 1 to 5'), (float('inf'),'is a number')])
def test_ratings_outside_the_range_are_refused(tmp_path, rating, said):
    b = star_shop(tmp_path/'b')
    with pytest.raises(ValueError, match=f'`ratings` holds {rating} for \'y\': .*{said}'): b.recommend(ratings=dict(x=3., y=rating))
    assert len(b.recommend(ratings=dict(x=1, y=np.float32(5))))==1

@pytest.mark.parametrize('rating', [-5.,0.,-0.])
def test_clicks_are_above_zero(shop, client, tmp_path, rating):
    for b,item in ((shop,'i1'),(linear_shop(tmp_path/'b'),'x')):
        with pytest.raises(ValueError, match=f"`ratings` holds {rating} for '{item}': a click or a count is above 0"): b.recommend(ratings={item:rating})
    history = ['i2',dict(item='i1', rating=rating)]
    for path,body,index in (('/recommend',dict(history=history),1), ('/recommend/many',dict(queries=[dict(user=1)]*3+[dict(history=history)]),3)):
        got = client.post(path, json=body)
        flaw, = got.json()['detail']
        assert got.status_code==422 and (flaw['index'],flaw['field'])==(index,'rating') and f"{rating:g} for 'i1'" in flaw['message']

def test_a_like_counts_as_the_bundle_says_even_outside_its_range(tmp_path):
    b = star_shop(tmp_path/'b')
    info = {k:v for k,v in b.info.items() if k not in ('version','sha256','check')}
    b = Bundle(write_bundle(tmp_path/'c', b.tables, b.users, b.items, dict(info, fold=dict(info['fold'], like=5.5))))
    assert len(b.recommend(ratings=['x']))==2

# ---- The token

@pytest.mark.parametrize('header,status', [('bearer secret-word',200), ('BEARER  secret-word',200), ('Bearer secret-word',200), ('Basic secret-word',401),
    ('bearer Secret-word',401), ('bearersecret-word',401), ('bearer',401), ('bearer ',401), (' secret-word',401)])
def test_the_scheme_is_in_any_case(folder, header, status):
    client = client_of(create_app(Shelf(bundle_finder(folder)), token='secret-word', poll=0))
    assert client.post('/recommend', json=dict(user=1), headers=dict(authorization=header)).status_code==status

# ---- Damage at the start

def damage(folder, how):
    if how=='nothing': shutil.rmtree(folder), folder.mkdir()
    elif how=='cut': next(folder.glob('tables-*')).write_bytes(b'x')
    else: (folder/'bundle.json').write_text(how)

@pytest.mark.parametrize('how', ['nothing','cut','{}','{"version": 99}'])
def test_a_start_falls_back_to_the_newest_that_opens(tmp_path, caplog, how):
    for o in (8,9,10,11): make(tmp_path/'bundles'/str(o), o)
    damage(tmp_path/'bundles'/'10', '{')
    damage(tmp_path/'bundles'/'11', how)
    shelf = Shelf(bundle_finder(tmp_path), older=older_bundles(tmp_path))
    client = client_of(create_app(shelf, poll=0))
    health = client.get('/health').json()
    assert (health['bundle'],health['failed'])==('9','11') and client.post('/recommend', json=dict(user=1)).json()['bundle']=='9'
    said = [o.getMessage() for o in caplog.records if o.levelname=='ERROR']
    assert said[0].startswith('bundle 10 can not be opened (') and said[1].startswith('bundle 11 can not be opened (') and said[1].endswith('serving 9 in its place')
    assert not shelf.changed()
    make(tmp_path/'bundles'/'12', 12)
    assert shelf.changed()
    shelf.reload()
    health = client.get('/health').json()
    assert (health['bundle'],health['failed'])==('12',None)
    damage(tmp_path/'bundles'/'12', '{}')
    with pytest.raises(ValueError): shelf.reload()
    health = client.get('/health').json()
    assert (health['bundle'],health['failed'])==('12','12') and not shelf.changed()

def test_what_was_named_or_is_alone_is_served_or_refused(tmp_path, monkeypatch):
    for o in (1,2): make(tmp_path/'bundles'/str(o), o)
    damage(tmp_path/'bundles'/'2', 'cut')
    assert older_bundles(tmp_path/'bundles'/'2')()==[] and [o.name for o in older_bundles(tmp_path/'bundles')()]==['1']
    with pytest.raises(ValueError, match='export it again'): serve_command(str(tmp_path/'bundles'/'2'))
    damage(tmp_path/'bundles'/'1', 'cut')
    with pytest.raises(ValueError, match='bundles/2 is missing or not what'): serve_command(str(tmp_path))

def test_the_command_falls_back_and_logs(tmp_path, monkeypatch, caplog):
    uvicorn = pytest.importorskip('uvicorn')
    monkeypatch.setattr(uvicorn.Server, 'run', lambda self: None)
    for o in (1,2): make(tmp_path/'bundles'/str(o), o)
    damage(tmp_path/'bundles'/'2', 'cut')
    serve_command(str(tmp_path))
    assert 'bundle 2 can not be opened' in caplog.text and 'serving 1 in its place' in caplog.text
