import warnings

import pytest,torch
from hypothesis import settings
from hypothesis.configuration import set_hypothesis_home_dir

with warnings.catch_warnings(): # of torch and fastai themselves
    warnings.simplefilter('ignore')
    from fastai.torch_core import set_seed
    from helpers import domains,fit,learner,loaders

settings.register_profile('quick', database=None, deadline=None, derandomize=True, max_examples=60)
settings.load_profile('quick')
set_hypothesis_home_dir('/dev/null')

quiet = ('ignore:.*fork.*:DeprecationWarning', 'ignore:The given NumPy array is not writable', 'ignore:Detected pickle protocol')

def pytest_configure(config):
    for o in quiet: config.addinivalue_line('filterwarnings', o)

torch.set_num_threads(1) # children that tests fork would wait for ever for threads that only their parent has

@pytest.fixture(autouse=True)
def seed(): set_seed(42)

@pytest.fixture(scope='session')
def source(): return domains()[0]

@pytest.fixture(scope='session')
def target(): return domains()[1]

@pytest.fixture(params=[False,True], ids=['dot','nn'])
def use_nn(request): return request.param

@pytest.fixture
def learn(source, tmp_path): return fit(learner(loaders(source), tmp_path, y_range=(1,5)))
