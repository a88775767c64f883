"Bundles: the same answers, and no trust in files"
import subprocess,sys
import numpy as np,pandas as pd,pytest,torch
from pathlib import Path
import collab_ext
from collab_ext import *
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
    stranger = l.recommend('zoe', 4, unknown='mean')
    np.testing.assert_allclose(b.recommend('zoe', 4).score, stranger.score, atol=1e-4)
    assert b.similar_items('i0', 3)['item'].tolist()==l.similar_items('i0', 3)['item'].tolist()

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

@pytest.mark.parametrize('file', ['tables.safetensors','items.parquet','users.parquet'])
def test_damage_is_seen(learn, tmp_path, file):
    f = learn.export_bundle(tmp_path/'b')/file
    f.write_bytes(f.read_bytes()[:-3]+b'xyz')
    with pytest.raises(ValueError, match=file): Bundle(tmp_path/'b')
    f.unlink()
    with pytest.raises(ValueError, match=file): Bundle(tmp_path/'b')

def test_all_or_nothing(learn, tmp_path):
    learn.export_bundle(tmp_path/'b')
    was = (tmp_path/'b/bundle.json').read_text()
    with pytest.raises(TypeError): write_bundle(tmp_path/'b', {}, pd.DataFrame(), pd.DataFrame(), dict(x=object()))
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
    with pytest.raises(ValueError, match='at least 1'): b.recommend(1, k=0)
    everything = b.items.iloc[:,0]
    assert not len(b.recommend(learn.vocab['user'][1], block=everything))
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
    assert b.build_index().index_recall()>.95
    assert b.build_index(expansion=4096).index_recall()>.98
    got = b.recommend(3)
    both = exact.merge(got, on='x')
    assert len(both)>=9
    np.testing.assert_allclose(both.score_x, both.score_y, atol=1e-5)

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
    assert first not in b.recommend(b.users.iloc[0,0], 3, block=first).iloc[:,1].tolist()
    with pytest.raises(ValueError, match='takes one user, not a list'): b.recommend([1,2])
    with pytest.raises(ValueError, match='at least 1, not 0'): b.similar_items(b.items.iloc[0,0], k=0)
