"Fine-tune a language model on jokes: `python -m joke_bot.train my_jokes.csv --model smollm2`"
import argparse,sys
from contextlib import ExitStack
import torch
from fastai.basics import *
from fastai.callback.progress import *
from fastai.callback.schedule import *
from collab_ext.versions import new_version,read_note
from .jokes import describe,read_jokes,split_jokes
from .lm import JokeCodec,perplexity,save_lm,start_lm

class NextToken(Module):
    "A causal language model as fastai calls it: token ids → logits"
    def __init__(self, model): self.model = model
    def forward(self, ids): return self.model(input_ids=ids, use_cache=False).logits

class TokenPerplexity(Metric):
    "Perplexity over all tokens that were held out, whatever the batches"
    def reset(self): self.loss,self.n = 0.,0
    def accumulate(self, learn):
        n = (learn.y!=ignored).sum().item()
        self.loss += learn.loss.item()*n
        self.n += n
    @property
    def value(self): return perplexity(self.loss/self.n) if self.n else None
    @property
    def name(self): return 'perplexity'

ignored = -100

def collate(rows):
    "Sequences of ids → inputs and next tokens, `ignored` where a sequence has ended"
    width = max(map(len, rows))-1
    x = torch.stack([F.pad(o[:-1], (0,width+1-len(o))) for o in rows])
    y = torch.stack([F.pad(o[1:], (0,width+1-len(o)), value=ignored) for o in rows])
    return x,y

def joke_loaders(
    train:list, # Jokes
    valid:list,
    codec, # A `JokeCodec`
    bs=32,
    device=None,
):
    "Loaders of padded batches"
    def loader(jokes, shuffle): return DataLoader([tensor(codec.encode(o)) for o in jokes], bs=bs, shuffle=shuffle, create_batch=collate, num_workers=0)
    return DataLoaders(loader(train, True), loader(valid, False), device=device or default_device())

def joke_learner(dls, model, **kwargs):
    "A `Learner` that fine-tunes a causal language model and shows the perplexity of held-out jokes"
    loss = CrossEntropyLossFlat(ignore_index=ignored)
    return Learner(dls, NextToken(model), loss_func=loss, metrics=[TokenPerplexity()], **kwargs)

def train_lm(
    jokes:list,
    home, # Folder of the bot; the model becomes `home/models/<name>/<number>`
    base='tiny', # See `start_lm`
    name=None, # What the source is called; by default the last part of `base`
    epochs=3,
    lr=None, # By default 3e-3 for the tiny model, 1e-4 for the others
    bs=32,
    valid_pct=.1,
    seed=42,
    quiet=False,
)->Path: # The new folder
    "Fine-tune a language model and save it"
    set_seed(seed, reproducible=True)
    train,valid = split_jokes(jokes, valid_pct, seed)
    model,tokenizer = start_lm(base, train)
    learn = joke_learner(joke_loaders(train, valid, JokeCodec(tokenizer), bs), model)
    with ExitStack() as stack:
        for o in (learn.no_bar,learn.no_logging): quiet and stack.enter_context(o())
        before = learn.validate()[1]
        learn.fit_one_cycle(epochs, lr or (3e-3 if base=='tiny' else 1e-4))
        after = learn.validate()[1]
    name = name or Path(base).name
    with new_version(Path(home)/'models', name) as version:
        save_lm(version.folder, model.cpu(), tokenizer, train, base=base, epochs=epochs, n_train=len(train), n_valid=len(valid),
            perplexity_before=before, perplexity=after)
    return version.folder

def main(args=None):
    p = argparse.ArgumentParser('python -m joke_bot.train', description=__doc__)
    p.add_argument('jokes', help='CSV or JSON lines with `question` and `answer`')
    p.add_argument('--model', default='tiny', help='tiny, smollm2, a folder or a name on the Hub')
    p.add_argument('--name', help='what the source is called')
    p.add_argument('--home', default='joke_bot_home')
    p.add_argument('--epochs', type=int, default=3)
    p.add_argument('--lr', type=float)
    p.add_argument('--bs', type=int, default=32)
    a = p.parse_args(args)
    try:
        jokes,left_out = read_jokes(a.jokes)
        print(f"{len(jokes)} jokes" + (f"; left out: {describe(left_out)}" if left_out else ''))
        folder = train_lm(jokes, a.home, a.model, a.name, a.epochs, a.lr, a.bs, quiet=not sys.stdout.isatty())
    except (ValueError,OSError,ImportError) as e: sys.exit(f"{e}")
    note = read_note(folder/'note.json')
    print(f"Perplexity of {note['n_valid']} held-out jokes: {note['perplexity_before']:.1f} before, {note['perplexity']:.1f} now. Saved in {folder}")

if __name__=='__main__': main()
