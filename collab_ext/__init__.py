"""A fastai extension library for transfer-learned collaborative filtering

Modules:

- `collab_ext.adapt`: Train what a source lacked, take in new users and new items, and go on training
- `collab_ext.aggregate`: Combine the scores that contributors gave each item, so that no contributor can move a score by more than a stated bound
- `collab_ext.args`: Refuse an argument that nothing would look at, and say which one was meant
- `collab_ext.baselines`: Four models that hardly learn anything, to be put beside every result
- `collab_ext.baselines_numba`: The loops of `ItemKNN`, by numba, for one core or several
- `collab_ext.batch_recommend`: Lists for all users as Parquet files, one for each few thousand of them: in constant memory, in any number of processes, resumed where it stopped
- `collab_ext.bayes`: Users' and items' rows in closed form, with priors that are learned from the ratings
- `collab_ext.bayes_solver`: What a learner sees of Bayesian matrix factorisation: how to start, what to choose, what to write
- `collab_ext.bayes_transfer`: A source's rows and prior as the prior of a target, and new rows in a finished model
- `collab_ext.bundle`: Serve recommendations from one folder of safe files, with no torch and nothing to train
- `collab_ext.candidates`: A checked frame of texts with votes or counts, and targets that a growing audience does not move
- `collab_ext.catalogue`: Works like those that somebody liked, among all there are, known ones and new ones, by vectors and by tags
- `collab_ext.choose`: Of ten candidates that somebody or something wrote, show one: the best, or sometimes another to learn more, with the chance of each on record
- `collab_ext.cli`: `collab-ext <command>`: what the library does without Python
- `collab_ext.click_sources`: Keep what models of other clicks know of rows beside the clicks at hand, as strongly as held-out clicks want it
- `collab_ext.click_trials`: Hold out a part of the clicks, judge lists by it, and read the best strength off a few trials
- `collab_ext.cold_start`: `fit_content` gives a trained learner rows for works that nobody has rated: recommend them, find works like them, and see whether it helps
- `collab_ext.compare`: Is one model better than another, or did it have lucky users? Differences user by user, with intervals and tests
- `collab_ext.compare_command`: `collab-ext compare`: a file or a database table of comparisons in, scores of items with their uncertainties out
- `collab_ext.comparison_factors`: Some people like what some films have: low-rank structure in what contributors think beside the rest
- `collab_ext.comparison_learner`: From a frame of comparisons to scores with uncertainties: for each contributor, and for all of them
- `collab_ext.comparison_plots`: Look at scores from comparisons: how training went, how people differ from the common score, how sure it is, and which items hang together
- `collab_ext.comparison_solver`: What is learned besides the scores: how much items and people differ, how consistent they are, and who judges mildly
- `collab_ext.comparisons`: Turn a frame of pairwise comparisons into checked, split `DataLoaders`, and see whether its items can be compared at all
- `collab_ext.content_prior`: What an item's row should be, judged by what the item is: a mean and a covariance for works that nobody has rated
- `collab_ext.data`: Turn a frame of ratings into checked, split, fast `DataLoaders`
- `collab_ext.demo`: The main job from a command line: pretrain on one population, adapt to another, compare with training from scratch
- `collab_ext.export`: Write what a trained learner knows as a folder that serves recommendations
- `collab_ext.export_command`: `collab-ext export`: a trained run in, a bundle that can be served out
- `collab_ext.features`: Turn what is known of items (numbers, categories, tags, text) into arrays that a model reads, for works never seen too
- `collab_ext.files`: Save weights and vocabulary as one, and open them without trusting them
- `collab_ext.fused`: `cbs=Fused()`: forward, gradient and update of each rating in one compiled loop, inside a fastai `Learner`
- `collab_ext.fused_negatives`: BPR, softmax and cosine contrastive loss in the compiled loop, which draws negatives itself
- `collab_ext.fused_numba`: The rule of `fused` as one compiled loop over ratings, by numba
- `collab_ext.fused_pools`: Ratings of the same users side by side, so that their rows stay in a processor's cache
- `collab_ext.fused_threads`: Threads that share no rows train at once, and a seed still gives the same bits
- `collab_ext.fused_triton`: The rule of `fused` for a whole batch at once, by Triton kernels
- `collab_ext.ials`: Weighted least squares over all pairs of users and items, for clicks
- `collab_ext.implicit`: Learn from what users did, without ratings: losses with negatives, iALS, linear models, votes
- `collab_ext.learner`: A fastai `Learner` that knows what its rows mean, from scratch or from a pretrained source
- `collab_ext.linear`: Scores as weighted sums over what a user has, in closed form: EASE and a graph filter
- `collab_ext.metrics`: Are the items that a user would have chosen near the top? Measured over the whole catalogue, beside four baselines
- `collab_ext.model`: A dot product with biases that starts at the mean rating, and the link between its argument and a rating
- `collab_ext.mood`: A bot that is cheered up or put down by what people say to it, for hours, and chooses its words accordingly
- `collab_ext.next_pair`: Which two items to show a contributor next, so that their answer says the most
- `collab_ext.off_policy`: What another way of choosing would have earned, computed from a log; whether scores mean what they say; and which of several sources people like more, with intervals that stay true however often one looks
- `collab_ext.plots`: Look at a learner: recall at every length of the list, a map of the items, scores and errors
- `collab_ext.prepare_command`: `collab-ext prepare`: a file of ratings or clicks in, checked and split data out
- `collab_ext.rank`: The best items for each user, out of the whole catalogue, without what the user has already
- `collab_ext.recommend`: What to show a user, why, and whether it is any good: `recommend`, `similar_items`, `explain`, `evaluate`
- `collab_ext.recommend_command`: `collab-ext recommend`: lists for users, for all of them, or for somebody new, from a bundle
- `collab_ext.ring`: `cbs=[Fused(), Ring()]`: users stay where they are, blocks of items go round, and every number of processes gives the same bits
- `collab_ext.root_laws`: What a comparison of two items says about the difference of their scores: any value between two ends, wins and ties, or grades
- `collab_ext.row_exchange`: `cbs=[SparseRows(), RowExchange()]`: each process takes its share of every step, and sends the rows that its ratings touched instead of whole tables
- `collab_ext.rows`: One side's rows given the other's: sums over their ratings, normal equations, solutions
- `collab_ext.rows_numba`: The loops of `rows`, by numba, for one core or several
- `collab_ext.saving`: Save a learner with its vocabulary, and load it into learners with other ones
- `collab_ext.scores`: One sparse model for the scores of items: for everybody, for each criterion, for each contributor, and how sure they are
- `collab_ext.selector`: From a few hundred votes on texts to a score of texts that nobody has seen, with an honest error, for everybody and for one person
- `collab_ext.serve`: A bundle behind HTTP: `/recommend`, `/similar`, `/embed`, health, metrics, and a page to try it
- `collab_ext.serve_command`: `collab-ext serve`: the newest bundle behind an address, until it is told to stop
- `collab_ext.several_sources`: Bring the rows of several pretrained models into one space, weigh them by their evidence, and leave out what does harm
- `collab_ext.shard_loaders`: `CollabDataLoaders.from_shards`: the ordinary learner trains on more ratings than fit into memory
- `collab_ext.shard_writer`: From CSV or Parquet files of any size to shards: memory is set by a limit, and what is finished stays finished
- `collab_ext.sharded_closed_form`: `learn.solve()` on shards: users block by block, items from sums over all processes
- `collab_ext.sharded_sides`: Rows of users or of items, and a prior for them that is learned from sums over rows, wherever these are
- `collab_ext.sharded_transfer`: `collab_learner(dls, pretrained=…)` where the new ratings do not fit into memory
- `collab_ext.shards`: A folder of encoded ratings that is read piece by piece: what is in it, and how to know that nothing is missing or damaged
- `collab_ext.simulate`: Draw ratings and clicks whose truth is known, and cut ratings into a source and a target
- `collab_ext.simulate_comparisons`: Draw comparisons whose true scores are known, with adversaries or without, and measure how well scores agree with the truth
- `collab_ext.simulate_readers`: Texts that are made of words, and readers who like some words better than others: votes whose truth is known
- `collab_ext.slates`: What could have been said, with which chance, and what came of it: a log that survives being killed
- `collab_ext.solver`: What a learner asks of a closed form, and the callback that trains with one
- `collab_ext.sources`: Take the weights to transfer from wherever they are: a saved pair, a learner, vectors of another model, the hub
- `collab_ext.spectrum`: Biases, the directions in which ratings differ beyond them, and which of these stand out from chance
- `collab_ext.splits`: Hold out the latest ratings, a share of each user's, whole users, or each of them once
- `collab_ext.tables`: Find the user and item tables of any model, under one set of names
- `collab_ext.text_states`: The hidden states of a frozen language model, for each token, kept on disk: features for models of what people like
- `collab_ext.tower`: A net that makes items' rows from their content, trained by gradient together with the rows themselves
- `collab_ext.train_command`: `collab-ext train`: prepared data in, the best of a model's epochs out, with all it takes to train it again
- `collab_ext.transfer`: Move what one model has learned into the vocabulary of another, and see what was moved
- `collab_ext.user_posterior`: Scores of items for somebody with a few ratings, with how sure they are: what a choice between items needs
- `collab_ext.validate`: How good is a model on data that it was not chosen by? Cross-validation, and a search over settings that can be interrupted
- `collab_ext.versions`: Folders `prepared/1`, `runs/2`, `bundles/10`: whole or not there, the newest by its number, and with what it takes to make them again
- `collab_ext.vocab`: Match the labels of one model to the labels of another"""

__version__ = "0.0.1"
import sys
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType

# Where `from collab_ext import name` finds it. Nothing of it is imported before it is asked for: `collab_ext.bundle` serves without torch.
_places = """
vocab: Vocab match_rows coverage
data: CollabDataLoaders Ratings check_ratings
splits: TimeSplitter UserSplitter LeaveLastSplitter KFoldSplitters TimeFoldSplitters UserFoldSplitters
simulate: simulate_ratings simulate_clicks cross_domain_split
tables: layouts tables
model: DotBias Link EmbeddingDotBias
files: Pair save_pair read_pair read_vocab read_weights
sources: read_source pull_from_hub push_to_hub
transfer: match_embeds load_pretrained_keys
linear: EASE GraphFilter
learner: CollabLearner collab_learner collab_splitter UnknownDropout WeightedMSE EmbeddingNN
adapt: FreezeRows L2SP
fused: Fused SparseRows
metrics: RankMetrics measure reliability
compare: compare
validate: cross_validate tune
implicit: BPRLoss CCLLoss IALSLoss SoftmaxLoss VoteLoss WARPLoss implicit_learner linear_factors linear_learner
comparisons: ComparisonDataLoaders check_comparisons comparison_graph comparison_report wins_frame
aggregate: aggregate_scores
simulate_comparisons: simulate_comparisons
comparison_learner: ComparisonLearner comparison_learner
bundle: Bundle
features: Blocks Features RecordError TokenVectors token_vectors
content_prior: ContentPrior
shards: Shards check_shards
shard_writer: prepare_shards
shard_loaders:
ring: Ring
row_exchange: RowExchange
sharded_sides:
sharded_closed_form:
sharded_transfer:
batch_recommend: evaluate_shards recommend_shards
catalogue: Catalogue
cold_start: measure_cold split_items
tower: Tower copy_tower
candidates: latest_votes quantile_votes rolling_quantile
text_states: TextStates load_lm smollm2
selector: SelectorLearner load_selector selector_learner
mood: Mood
slates: SlateLog
simulate_readers:
choose: Retained choose select_from
user_posterior: UserPosterior
off_policy: compare_sources off_policy votes_needed
export: # these have methods of the learners
comparison_plots:
next_pair:
plots:
recommend:
saving:
"""
_parts = [o.partition('#')[0].partition(':') for o in _places.split('\n') if o]
_names = {module:names.split() for module,_,names in _parts}

def _import_all():
    "Import every module of `_names`, and what it names"
    if _Whole in sys.meta_path: sys.meta_path.remove(_Whole)
    for module,names in _names.items():
        found = import_module(f'{__name__}.{module}')
        globals().update({o:getattr(found, o) for o in names})

class _Package(ModuleType):
    "A package whose functions stay what they are when a module of the same name is imported, such as `compare`"
    def __setattr__(self, name, value):
        if isinstance(value, ModuleType) and callable(self.__dict__.get(name)): return
        super().__setattr__(name, value)

sys.modules[__name__].__class__ = _Package

class _Loaded:
    "A loader of a module that was imported meanwhile"
    def __init__(self, spec): self.spec = spec
    def create_module(self, spec): return sys.modules[spec.name]
    def exec_module(self, module): module.__spec__ = self.spec

_alone = {f'{__name__}.{o}' for o in 'bundle catalogue cli content_prior features mood recommend_command serve serve_command shard_writer shards simulate_readers slates versions'.split()} # these are imported without torch

class _Whole:
    "Imports all modules before the first one but those in `_alone`, so that a learner has its methods, whichever module it was imported or unpickled from"
    @staticmethod
    def find_spec(name, path=None, target=None):
        if not name.startswith(f'{__name__}.') or name in _alone: return None
        _import_all()
        there = sys.modules.get(name)
        if there is None: return None # one that is imported on request alone
        there.__spec__ = ModuleSpec(name, _Loaded(there.__spec__)) # or Python would run it again
        return there.__spec__

class _Moved:
    "Says what to do with learners that version 0.0.1 exported: pickles name modules, and these are gone"
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name not in (f'{__name__}.collab', f'{__name__}.solve'): return None
        raise RuntimeError(f"There is no module {name!r} any more. A learner that names it was exported by version 0.0.1, and is read by that alone: "
            "open it there, `learn.save('name')`, and `load` what that writes into a learner of these data, or pass it as `pretrained`") # `load_learner` swallows an ImportError

sys.meta_path[:0] = [_Moved,_Whole]

def __getattr__(name):
    if name in ('Bundle','bundle'):
        module = import_module(f'{__name__}.bundle')
        return module if name=='bundle' else module.Bundle
    if name in _names or any(name in o for o in _names.values()): _import_all()
    if name in globals(): return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

def __dir__(): return sorted({*globals(), *__all__})

# What `from collab_ext import *` gives: what users type. Everything else is imported from its module.
__all__ = ['BPRLoss', 'Bundle', 'CCLLoss', 'Catalogue', 'CollabDataLoaders', 'CollabLearner', 'ComparisonDataLoaders',
    'ComparisonLearner', 'ContentPrior', 'DotBias', 'EASE', 'EmbeddingDotBias', 'EmbeddingNN', 'Features', 'FreezeRows', 'Fused',
    'GraphFilter', 'IALSLoss', 'KFoldSplitters', 'L2SP', 'LeaveLastSplitter', 'RankMetrics', 'Ring',
    'SoftmaxLoss', 'SparseRows', 'TextStates', 'TimeFoldSplitters', 'TimeSplitter', 'UnknownDropout', 'UserFoldSplitters',
    'UserSplitter', 'Vocab', 'VoteLoss', 'WARPLoss', 'aggregate_scores', 'check_comparisons', 'check_ratings', 'collab_learner',
    'collab_splitter', 'compare', 'comparison_graph', 'comparison_learner', 'comparison_report', 'coverage',
    'cross_domain_split', 'cross_validate', 'implicit_learner', 'layouts', 'linear_factors', 'linear_learner',
    'load_pretrained_keys', 'load_selector', 'match_embeds', 'match_rows', 'measure', 'measure_cold', 'prepare_shards',
    'pull_from_hub', 'push_to_hub', 'read_pair', 'read_source', 'read_vocab', 'recommend_shards',
    'reliability', 'rolling_quantile', 'save_pair', 'selector_learner', 'simulate_clicks', 'simulate_comparisons',
    'simulate_ratings', 'split_items', 'tables', 'token_vectors', 'tune', 'wins_frame']
