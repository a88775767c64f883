"Corners of bundles and of the service: histories that say nothing, missing packages, odd options, filters, damage at start"
import warnings
import numpy as np,pandas as pd,pytest
for o in ('fastapi','uvicorn','httpx','pyarrow','safetensors'): pytest.importorskip(o)
from collab_ext.bundle import Bundle,write_bundle
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
