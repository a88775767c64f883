"The code of README.md runs by itself"
import re
from pathlib import Path

import pytest

readme = Path(__file__).parents[1]/'README.md'
blocks = re.findall(r'^```python\n(.*?)^```$', readme.read_text(encoding='utf-8'), flags=re.S|re.M)

def test_first_block_is_complete(): assert blocks[0].startswith('from collab_ext import *')

@pytest.mark.parametrize('code', blocks)
def test_block_runs_alone(code, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    assert (tmp_path/'models'/'movies_vocab.pkl').exists()
    assert 'matched' in capsys.readouterr().out

def test_python_is_that_of_the_metadata():
    least = re.search(r'^min_python = (.+)$', (readme.parent/'settings.ini').read_text(encoding='utf-8'), flags=re.M)[1]
    assert re.findall(r'Python (3\.\d+)', readme.read_text(encoding='utf-8'))==[least]
