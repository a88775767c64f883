"What writes: words that follow each other in given texts, or a causal language model, frozen"
import json,random,re,zlib
from collections import defaultdict
from pathlib import Path
import numpy as np
from .texts import plain_text

here = Path(__file__).parent

def example_texts(): return [o for o in (here/'starter.txt').read_text(encoding='utf-8').split('\n') if o]

class Words:
    "Each word follows two that it follows somewhere in given texts (a Markov chain): no model to load, for tests and first tries"
    name = 'words'
    def __init__(self, texts):
        self.following,self.starts = defaultdict(list),[]
        for text in texts:
            words = ['','',*text.split(),'']
            for a,b,c in zip(words, words[1:], words[2:]): self.following[a,b].append(c)
        if not self.following: raise ValueError("there are no texts to learn words from: run `collect`, or leave starter.txt where it was")

    def _one(self, about, max_tokens, rng):
        a,b,res = '','',[]
        while len(res)<max_tokens:
            options = self.following.get((a,b)) or ['']
            liked = [o for o in options if o.lower().strip('.,!?') in about]
            a,b = b,rng.choice(liked or options)
            if not b: break
            res.append(b)
        return ' '.join(res)

    def generate(self, prompts, n, max_tokens, temperature, seed):
        "`n` texts for each prompt; words of the prompt are preferred"
        rng = random.Random(seed)
        return [[self._one(set(re.findall(r'\w{4,}', o.lower())), max_tokens, rng) for _ in range(n)] for o in prompts]

class LanguageModel:
    "A causal language model of transformers, loaded from safe files"
    def __init__(self, name, folder):
        import torch
        from collab_ext.text_states import load_lm,smollm2,tiny_model
        self.name,self.torch = name,torch
        if name=='smollm2': self.model,self.tokenizer = smollm2(Path(folder)/'smollm2')
        elif name=='tiny': self.model,self.tokenizer = tiny_model(example_texts())
        else: self.model,self.tokenizer = load_lm(name)
        self.model.to('cuda' if torch.cuda.is_available() else 'cpu')
        self.tokenizer.padding_side = 'left'
        if self.tokenizer.pad_token is None: self.tokenizer.pad_token = self.tokenizer.eos_token

    def _wrapped(self, prompt):
        "The prompt as the model was trained to read it"
        said = prompt or 'Write a short blog post.'
        if not self.tokenizer.chat_template: return f'Question: {said}\nAnswer:'
        return self.tokenizer.apply_chat_template([dict(role='user', content=said)], tokenize=False, add_generation_prompt=True)

    def generate(self, prompts, n, max_tokens, temperature, seed):
        "`n` texts for each prompt"
        self.torch.manual_seed(seed)
        most = getattr(self.model.config, 'max_position_embeddings', 2048)-max_tokens
        batch = self.tokenizer([self._wrapped(o) for o in prompts], return_tensors='pt', padding=True, truncation=True, max_length=min(1024, most))
        batch = {k:v.to(self.model.device) for k,v in batch.items() if k in ('input_ids','attention_mask')}
        with self.torch.inference_mode():
            res = self.model.generate(**batch, do_sample=True, temperature=temperature, top_p=.95, max_new_tokens=max_tokens,
                num_return_sequences=n, pad_token_id=self.tokenizer.pad_token_id)
        texts = self.tokenizer.batch_decode(res[:, batch['input_ids'].shape[1]:], skip_special_tokens=True)
        return [texts[i:i+n] for i in range(0, len(texts), n)]

def make_generator(
    name:str, # 'words', 'smollm2', 'tiny' (random weights, for tests), or the name or folder of a model
    folder, # Where collected posts are
):
    "What the configuration asks for"
    if name!='words':
        try: return LanguageModel(name, folder)
        except (ValueError,OSError,ImportError) as e:
            raise ValueError(f"generator = {name!r} in [model] can't be opened: {str(e).strip().splitlines()[0]}") from e
    return Words(example_texts() + [plain_text(o['text']) for o in read_posts(folder)])

def read_posts(folder):
    "Collected posts, if there are any; a line that was cut off by a kill is left out"
    file = Path(folder)/'posts.jsonl'
    if not file.is_file(): return []
    res = {}
    for line in file.read_text(encoding='utf-8').split('\n'):
        try: post = json.loads(line)
        except ValueError: continue
        res[post['id']] = post
    return list(res.values())

# Vectors

def hashed_words(
    texts, # n
    size=256, # Numbers for each
)->np.ndarray: # n × size, of length 1
    "Counts of words and of pairs of words, by a hash: vectors without a model"
    res = np.zeros((len(texts),size), np.float32)
    for row,text in zip(res, texts):
        words = re.findall(r'\w+', text.lower())
        for o in [*words, *map(' '.join, zip(words, words[1:]))]: row[zlib.crc32(o.encode('utf-8', 'replace'))%size] += 1
    return res/np.maximum(np.linalg.norm(res, axis=1, keepdims=True), 1e-6)

def kind_of_states(model):
    "Which vectors the settings ask for"
    if model.states!='auto': return model.states
    return 'hash' if model.generator=='words' else 'generator'

def states_for(
    model, # [model] of the settings
    generator, # The generator, if its hidden states are wanted
    cache=None, # A folder for them
):
    "A function from texts to vectors"
    if kind_of_states(model)=='hash': return hashed_words
    if not hasattr(generator, 'tokenizer'): raise ValueError('states = "generator" in [model] wants a language model as generator: '
        'use "hash" or "auto" with "words"')
    from collab_ext.text_states import TextStates
    return TextStates(generator.model, generator.tokenizer, cache=cache)

def states_of_settings(config):
    "The vectors that the settings ask for, in a process of their own"
    generator = make_generator(config.model.generator, config.files.folder) if kind_of_states(config.model)!='hash' else None
    return states_for(config.model, generator, config.files.folder/'states')

def states_name(model): return 'hash' if kind_of_states(model)=='hash' else f'generator {model.generator}'
