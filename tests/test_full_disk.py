"Learners that are saved and exported on a full disk: what is said, and what stays"
import errno

import pytest
from helpers import *

def limited(n):
    "No file of this process can be larger than `n` bytes, as on a full disk"
    resource.setrlimit(resource.RLIMIT_FSIZE, (n,resource.RLIM_INFINITY))

def names(folder): return sorted(o.name for o in folder.iterdir() if not o.name.endswith('.lock'))

@pytest.mark.parametrize('n', [1,3000,20_000])
def test_saving(tmp_path, n):
    "The folder, what is needed and what to do; the earlier pair is whole, and nothing half written is left"
    learn = fit(learner(domains(500, 300, 4000)[0], tmp_path, n_factors=8))
    learn.save('m')
    before = weights(learn)
    fit(learn)
    def full():
        limited(n)
        with pytest.raises(OSError, match=rf'disk of {tmp_path/"models"}: .*m\.pth takes at least 0\.. MB.*free some and call again') as e: learn.save('m')
        assert e.value.errno==errno.EFBIG
    assert in_child(full)==0
    assert names(tmp_path/'models')==['m.pth','m_vocab.pkl']
    assert same(weights(learn.load('m')), before)

def test_exporting(tmp_path, monkeypatch):
    "torch writes to a path and loses the system's error: a disk without a free block tells"
    learn = learner(domains()[0], tmp_path)
    learn.export('m.pkl')
    earlier = (tmp_path/'m.pkl').read_bytes()
    usage = shutil.disk_usage(tmp_path)
    def full(free, error, said):
        monkeypatch.setattr(shutil, 'disk_usage', lambda path: usage._replace(free=free))
        limited(2000)
        with pytest.raises(error, match=said): learn.export('m.pkl')
        assert len(learn.dls.train_ds)
    for free,error,said in ((0,OSError,r'm\.pkl takes at least 0\.0 MB, and 0\.0 MB are free'), (10**9,RuntimeError,'.')):
        assert in_child(partial(full, free, error, said))==0
        assert names(tmp_path)==['m.pkl'] and (tmp_path/'m.pkl').read_bytes()==earlier

def test_other_errors_pass(tmp_path):
    for e in (RuntimeError('CUDA error'), PermissionError(13, 'no'), FileNotFoundError(2, 'no')):
        with pytest.raises(type(e)) as seen, disk_explained(tmp_path/'m', 10): raise e
        assert seen.value is e

@pytest.mark.parametrize('n', [100,3000,15_000])
def test_writing_a_bundle(tmp_path, n):
    "The folder, what is needed and what to do; the earlier bundle is whole, and nothing of the new one is left"
    learn = fit(learner(domains(500, 300, 4000)[0], tmp_path, n_factors=8))
    learn.export_bundle(tmp_path/'bundle')
    def files(): return {o.name:o.read_bytes() for o in (tmp_path/'bundle').iterdir()}
    before = files()
    fit(learn)
    def full():
        limited(n)
        for folder in (tmp_path/'bundle', tmp_path/'new'):
            with pytest.raises(OSError, match=rf'disk of {folder} is full, and a bundle takes \d\.\d MB: free some and call again') as e: learn.export_bundle(folder)
            assert e.value.errno==errno.EFBIG
    assert in_child(full)==0
    assert files()==before and not names(tmp_path/'new') and Bundle(tmp_path/'bundle')

def test_a_bundle_whose_last_file_does_not_fit(tmp_path, monkeypatch):
    "What was written of it goes again, and other errors pass as they are"
    import collab_ext.bundle as bundle
    learn,write = fit(learner(domains()[0], tmp_path)),bundle._write_new
    for code,said in ((errno.ENOSPC,'disk of .* is full'), (errno.EIO,'of the system')):
        def fails(folder, name, data):
            if name=='bundle.json': raise OSError(code, 'of the system')
            write(folder, name, data)
        monkeypatch.setattr(bundle, '_write_new', fails)
        with pytest.raises(OSError, match=said) as e: learn.export_bundle(tmp_path/str(code))
        assert e.value.errno==code and (code!=errno.ENOSPC or not [o for o in names(tmp_path/str(code)) if not o.endswith('lock')])
