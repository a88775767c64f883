"""A fastai extension library for transfer-learned collaborative filtering

Modules:

- `collab_ext.adapt`: What a `CollabLearner` does with a source, with new users and new items: closed forms, `fine_tune`, `grow`, `fold_in`
- `collab_ext.args`: Refuse an argument that nothing would look at, and say which one was meant
- `collab_ext.bayes`: Users' and items' rows in closed form: from scratch, from a prior, or for somebody who arrived a minute ago
- `collab_ext.bundle`: Serve recommendations from one folder of safe files, with no torch and nothing to train
- `collab_ext.data`: Turn a frame of ratings into checked, split, fast `DataLoaders`
- `collab_ext.demo`: The main job from a command line: pretrain on one population, adapt to another, compare with training from scratch
- `collab_ext.export`: From a learner to a folder that serves
- `collab_ext.files`: Save weights and vocabulary as one, and open them without trusting them
- `collab_ext.fused`: `cbs=Fused()`: forward, gradient and update of each rating in one compiled loop, inside a fastai `Learner`
- `collab_ext.fused_numba`: The rule of `fused` as one compiled loop over ratings, by numba
- `collab_ext.fused_triton`: The rule of `fused` for a whole batch at once, by Triton kernels
- `collab_ext.implicit`: Learn from what people did, without a word about how they liked it: losses with negatives, iALS, votes
- `collab_ext.learner`: A fastai `Learner` that knows what its rows mean: it saves its vocabulary with its weights, and loads into other ones
- `collab_ext.linear`: Which items stand in for which, in closed form: EASE, a graph filter, and factors made of them
- `collab_ext.metrics`: Is what a person would have chosen near the top of what they are shown? Measured over the whole catalogue, beside four baselines
- `collab_ext.recommend`: What to show this person, why, and whether it is any good: `recommend`, `similar_items`, `explain`, `evaluate`
- `collab_ext.tables`: Find the user and item tables of any model, under one set of names
- `collab_ext.transfer`: Move what one model has learned into the vocabulary of another, and see what was moved
- `collab_ext.vocab`: Match the labels of one model to the labels of another"""

__version__ = "0.0.1"
from .vocab import *
from .args import *
from .data import *
from .tables import *
from .files import *
from .bayes import *
from .transfer import *
from .learner import *
from .adapt import *
from .fused import *
from .metrics import *
from .recommend import *
from .implicit import *
from .linear import *
from .bundle import *
from .export import *

from importlib import import_module
_parts = 'vocab args data tables files bayes transfer learner adapt fused metrics recommend implicit linear bundle export'.split()
__all__ = [o for m in _parts for o in import_module(f'.{m}', __name__).__all__]
