"Question–answer jokes: read from a file, cleaned, split, and compared with those that are known"
import csv,json,random,re,unicodedata
from collections import Counter,defaultdict
from dataclasses import dataclass
from pathlib import Path
import numpy as np

max_question = 300 # characters; also of what people ask the bot
max_answer = 500

@dataclass(frozen=True)
class Joke:
    question:str
    answer:str
    def __str__(self): return f'{self.question}\n\n{self.answer}'

_overrides = set('\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\ufeff')

def clean(
    text:str, # Anything that a person typed or a file holds
)->str: # On one line, without control characters, half characters and changes of direction
    "Text that is safe to store, to show and to give to a model"
    text = text.encode('utf-8', 'replace').decode() # lone surrogates become `?`
    text = ''.join(' ' if unicodedata.category(o)=='Cc' else o for o in text if o not in _overrides)
    return ' '.join(text.split())

_words = re.compile(r'[\u3040-\u30ff\u3400-\u9fff]|[^\W_]+')

def words(
    text:str,
)->list: # In lower case; characters of Chinese and Japanese count as words
    "The words of a text, as they are compared"
    return _words.findall(unicodedata.normalize('NFKC', text).casefold())

def normalised(joke)->str: return ' '.join(words(joke.question)+['?']+words(joke.answer))

# Files

def _rows_of_csv(file):
    with open(file, newline='', encoding='utf-8-sig') as f: yield from csv.DictReader(f)

def _rows_of_lines(file):
    with open(file, encoding='utf-8-sig') as f:
        for i,line in enumerate(f, 1):
            if not line.strip(): continue
            try: yield json.loads(line)
            except ValueError as e: raise ValueError(f"Line {i} of {file} is no JSON: {e}") from None

_readers = {'.csv':_rows_of_csv, '.jsonl':_rows_of_lines, '.ndjson':_rows_of_lines}

def _field(row, name, file):
    found = [o for o in row if isinstance(o, str) and o.strip().lower()==name]
    if not found: raise ValueError(f"{file} has no field `{name}`, but {', '.join(map(str, row))}: name the two fields `question` and `answer`")
    return row[found[0]]

def read_jokes(
    file, # CSV with a header, or JSON lines; fields `question` and `answer`
)->tuple: # Jokes in the order of the file; a `Counter` of why others were left out
    "Read a file of jokes, each once"
    file = Path(file)
    if file.suffix.lower() not in _readers: raise ValueError(f"{file} is none of {', '.join(_readers)}")
    if not file.is_file(): raise FileNotFoundError(f"There is no file {file}")
    jokes,left_out = {},Counter()
    try:
        for row in _readers[file.suffix.lower()](file):
            if not isinstance(row, dict): raise ValueError(f"{file} has a line that is no object: {row!r:.60}")
            joke = Joke(*(clean(str(_field(row, o, file) or '')) for o in ('question','answer')))
            why = _trouble(joke, jokes)
            if why: left_out[why] += 1
            else: jokes[normalised(joke)] = joke
    except UnicodeDecodeError as e: raise ValueError(f"{file} is not UTF-8 ({e.reason} at byte {e.start}): save it as UTF-8") from None
    except csv.Error as e: raise ValueError(f"{file} is no CSV: {e}") from None
    if not jokes: raise ValueError(f"{file} has no jokes that can be used{': ' if left_out else ''}{describe(left_out)}")
    return list(jokes.values()),left_out

def _trouble(joke, seen):
    if not joke.question or not joke.answer: return 'without question or answer'
    if len(joke.question)>max_question or len(joke.answer)>max_answer: return 'too long'
    if normalised(joke) in seen: return 'repeated'

def describe(counts): return ', '.join(f'{n} {o}' for o,n in counts.items())

def write_jokes(file, jokes):
    "Write jokes as JSON lines"
    lines = [json.dumps(dict(question=o.question, answer=o.answer), ensure_ascii=False) for o in jokes]
    Path(file).write_text('\n'.join(lines)+'\n', encoding='utf-8')

def split_jokes(
    jokes:list,
    valid_pct=.1, # Share of the questions that is held out
    seed=42,
)->tuple: # For training; held out
    "Hold out some questions with all their answers, so that no question is on both sides"
    by_question = defaultdict(list)
    for o in jokes: by_question[' '.join(words(o.question))].append(o)
    if len(by_question)<2: raise ValueError(f"{len(by_question)} question is too few to hold one out: give at least 2")
    questions = sorted(by_question)
    random.Random(seed).shuffle(questions)
    n_valid = min(max(1, round(len(questions)*valid_pct)), len(questions)-1)
    groups = [by_question[o] for o in questions]
    return sum(groups[n_valid:], []),sum(groups[:n_valid], [])

# Copies

class KnownJokes:
    "Finds the jokes that a text repeats, word for word or nearly: `near` is the share of words (Jaccard) from which on it is a repeat"
    def __init__(self, jokes, near=.75):
        self.near,self.exact = near,{normalised(o) for o in jokes}
        sets = [set(words(str(o))) for o in jokes]
        postings = defaultdict(list)
        for i,s in enumerate(sets):
            for o in s: postings[o].append(i)
        self.jokes = list(jokes)
        self.sizes = np.array([len(o) for o in sets])
        self.postings = {o:np.array(v) for o,v in postings.items()}

    def repeats(self, joke):
        "'exact', 'near' or None"
        if normalised(joke) in self.exact: return 'exact'
        return 'near' if self.nearest(str(joke))[1]>=self.near else None

    def nearest(self, text):
        "The joke that shares most words with a text, and the share; None and 0 if none shares any"
        return self._best(set(words(text)), self.sizes)

    def _best(self, own, sizes):
        found = [self.postings[o] for o in own if o in self.postings]
        if not found: return None,0.
        shared = np.bincount(np.concatenate(found), minlength=len(sizes))
        share = shared/(sizes+len(own)-shared)
        best = int(share.argmax())
        return self.jokes[best],float(share[best])
