"The joke bot: one answer to each request, one vote for each person and joke, nothing lost by kills, faults and full disks, and no token in a log"
import asyncio,logging,os,random,resource,signal,subprocess,sys,threading,time
from collections import Counter
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
import numpy as np,pytest
pytest.importorskip('telegram')
examples = Path(__file__).resolve().parent.parent/'examples'
sys.path.insert(0, str(examples))
from joke_bot.bot import *
from joke_bot.bot import button_data,buttons,parse_button
from joke_bot.chooser import *
from joke_bot.fake_telegram import *
from joke_bot.jokes import *
from joke_bot.quiet import *
from joke_bot.store import *
from joke_bot.terminal import talk
from joke_bot.worker import *
from joke_bot.telegram_front import TelegramFront

pytest_plugins = ['joke_bot.pytest_fake_telegram']
full = bool(os.environ.get('FULL'))
own_jokes = read_jokes(examples/'joke_bot'/'jokes.csv')[0]

# The stand-in

def test_the_stand_in_refuses_what_telegram_refuses(fake_telegram):
    httpx,tg = pytest.importorskip('httpx'),fake_telegram
    def call(method, token=None, **kwargs): return httpx.post(f'{tg.url}/bot{token or tg.token}/{method}', **kwargs)
    bad_button = {'inline_keyboard':[[dict(text='a', callback_data='x'*65)]]}
    refused = {401:call('getMe', 'x'), 404:call('dance'), 400:call('sendMessage', json=dict(chat_id=1, text=' '))}
    for status,o in refused.items(): assert o.status_code==status and not o.json()['ok']
    for o in (dict(text='😀'*2049), dict(text='a', reply_markup=bad_button)): assert call('sendMessage', json=dict(chat_id=1, **o)).status_code==400
    assert call('answerCallbackQuery', json=dict(callback_query_id='5')).status_code==400
    as_file = {k:(None, v) for k,v in dict(chat_id='1', text='é').items()}
    for o in (dict(json=dict(chat_id=1, text='é')), dict(data=dict(chat_id=1, text='é')), dict(files=as_file)): assert call('sendMessage', **o).json()['ok']
    assert [o.text for o in tg.sent]==['é']*3
    tg.fail('sendMessage', status=429, retry_after=7)
    assert call('SENDMESSAGE', json=dict(chat_id=1, text='a')).json()['parameters']==dict(retry_after=7)
    tg.say('a')
    tg.say('b')
    def updates(**params): return [o['update_id']-1000 for o in call('getUpdates', json=params).json()['result']]
    assert updates()==updates()==[1,2] and updates(offset=1002)==[2] and updates(limit=1)==[2] and updates(offset=1003)==[]

# Helpers

class Echo:
    "A generator that takes a while, and answers each question with it; how many batches and texts it was given"
    def __init__(self, seconds=.01, fail=0): self.seconds,self.fail,self.batches,self.n = seconds,fail,[],0
    def sample(self, asked):
        time.sleep(self.seconds)
        self.batches.append(len(asked))
        if self.fail:
            self.fail -= 1
            raise RuntimeError("out of memory")
        self.n += len(asked)
        return [Joke(o or f'Question {self.n}.{i}?', f'Answer {self.n}.{i}') for i,o in enumerate(asked)]

class Mute:
    "A generator that only repeats what it read"
    batches = 0
    def sample(self, asked):
        self.batches += 1
        return [None]*len(asked)

def make_bot(path, generators=(), per_minute=10_000, owner=9, chooser=None, **kwargs):
    store = Store(path/'bot.db')
    worker = Worker(dict(generators), store, **kwargs).start()
    return JokeBot(store, dict(human=own_jokes), worker, chooser or Chooser(path), owner, per_minute)

@contextmanager
def running(bot, tg, **kwargs):
    "The Telegram front in a thread of its own"
    ready,front = threading.Event(),[]
    async def main():
        front.append(TelegramFront(bot, tg.token, tg.url, **{**dict(poll_seconds=1, patience=.02), **kwargs}))
        loop.append(asyncio.get_running_loop())
        ready.set()
        await front[0].run()
    loop = []
    thread = threading.Thread(target=lambda: asyncio.run(main()))
    thread.start()
    ready.wait(5)
    try: yield front[0]
    finally:
        if thread.is_alive(): loop[0].call_soon_threadsafe(front[0].stop)
        thread.join(20)
        bot.worker.stop()
    assert not thread.is_alive()

@pytest.fixture
def bot(tmp_path): return make_bot(tmp_path)

def ask(bot, text, person=1, chat=None, **kwargs): return asyncio.run(bot.text(person, chat or person, text, **kwargs))

# Jokes

def test_files_of_jokes(tmp_path):
    csv,lines = tmp_path/'a.csv',tmp_path/'b.jsonl'
    csv.write_text('Id,Question,ANSWER\n1,"Why,\nso?",Because\n2,why so,because!\n3,,x\n4,'+'y'*400+',z\n5,为什么,因为🐍\n', encoding='utf-8-sig')
    jokes,left_out = read_jokes(csv)
    assert jokes==[Joke('Why, so?','Because'),Joke('为什么','因为🐍')]
    assert left_out==Counter({'repeated':1, 'without question or answer':1, 'too long':1})
    write_jokes(lines, jokes)
    assert read_jokes(lines)==(jokes,Counter())

@pytest.mark.parametrize('name,data,words', [('a.csv', b'setup,punchline\n1,2\n', 'no field `question`'), ('a.csv', b'question,answer\n', 'no jokes'),
    ('a.csv', b'question,answer\n\xff,b\n', 'UTF-8'), ('a.jsonl', b'{"question":1}\n', 'no field `answer`'), ('a.jsonl', b'{\n', 'Line 1'),
    ('a.jsonl', b'[1]\n', 'no object'), ('a.txt', b'', 'none of'), ('a.csv', b'question,answer\n'+b'"'+b'x'*200_000, 'no CSV')])
def test_bad_files(tmp_path, name, data, words):
    (tmp_path/name).write_bytes(data)
    with pytest.raises(ValueError, match=words): read_jokes(tmp_path/name)

def test_split():
    jokes = own_jokes+[Joke(own_jokes[0].question, 'Another answer')]
    train,valid = split_jokes(jokes)
    assert len(train)+len(valid)==len(jokes) and valid
    assert not {o.question for o in train}&{o.question for o in valid}
    assert split_jokes(jokes)==(train,valid)
    with pytest.raises(ValueError, match='too few'): split_jokes(jokes[:1])

def test_repeats():
    known = KnownJokes(own_jokes)
    assert known.repeats(Joke('why did the SNAIL refuse... the taxi', 'because it was already at home!!'))=='exact'
    assert known.repeats(Joke('Why did a snail refuse the taxi?', 'Because it was already home.'))=='near'
    assert known.repeats(Joke('Why did the snail refuse the parade?', 'Because it could not see the point.')) is None
    assert known.repeats(Joke('🐍', '🐍')) is None and KnownJokes([]).repeats(own_jokes[0]) is None

# The worker

def test_worker_batches_and_keeps_a_buffer(tmp_path):
    store,echo = Store(tmp_path/'bot.db'),Echo(.05)
    worker = Worker(dict(echo=echo), store, size=8, batch=16).start()
    futures = [worker.ask('echo', f'Is {i} odd?') for i in range(40)]
    assert [o.result(10).joke.question for o in futures]==[f'Is {i} odd?' for i in range(40)]
    assert len(echo.batches)<12 and max(echo.batches)<=16
    for _ in range(100):
        if len(worker.ready['echo'])==8: break
        time.sleep(.02)
    n = len(echo.batches)
    time.sleep(.1)
    assert len(worker.ready['echo'])==8 and len(echo.batches)==n # a full buffer makes no work
    taken = worker.take('echo', 3)
    worker.give_back(taken)
    worker.stop()
    assert len(Worker(dict(echo=echo), store, size=8).ready['echo'])==8 # nobody saw them: the next start has them
    with pytest.raises(NoJoke): worker.ask('echo').result(1)

def test_worker_outlives_failures_and_rests(tmp_path):
    echo,mute = Echo(fail=2),Mute()
    worker = Worker(dict(echo=echo, mute=mute), Store(tmp_path/'bot.db'), size=4, tries=3).start()
    with pytest.raises(NoJoke): worker.ask('mute', 'Why?').result(10)
    for _ in range(200):
        if worker.ready['echo']: break
        time.sleep(.02)
    assert len(worker.ready['echo'])==4
    n = mute.batches
    time.sleep(.2)
    assert mute.batches-n<=3 # it does not run for ever
    worker.stop()

# Talking

def test_texts(bot):
    assert ask(bot, '/start').text.startswith('Hello') and '/joke' in ask(bot, '/help').text
    assert '/stats' in ask(bot, '/help', 9).text and '/stats' not in ask(bot, '/help').text
    assert ask(bot, '/joke').joke and ask(bot, '/joke@fake_joke_bot').joke
    assert 'owner' in ask(bot, '/stats').text and 'Nobody' in ask(bot, '/stats', 9).text
    assert "don't know /dance" in ask(bot, '/dance').text
    assert ask(bot, 'Why did the snail refuse it?').joke

def test_a_chat_sees_all_jokes_before_one_comes_again(bot):
    seen = [ask(bot, '/joke').joke for _ in own_jokes]
    assert len(set(seen))==len(own_jokes)
    assert ask(bot, '/joke').joke in seen[:bot.n_candidates]

def test_terminal(bot):
    said,lines = [],iter(['+','/joke','+','-','  ','/stats','/quit','never'])
    talk(bot, lambda _: next(lines), said.append)
    assert 'no joke to vote on' in said[1] and '[+] 👍' in said[2] and said[3]==said[4]==thanks
    assert [(o['person'],o['value']) for o in bot.store.votes()]==[(0,-1)] and next(lines)=='never'
    def leave(_): raise KeyboardInterrupt
    said.clear()
    lines = iter(['/joke','+','Zyx?','+','/joke','-','/quit'])
    talk(bot, lambda _: next(lines), said.append)
    told = said[1].split('\n')[0]
    assert 'no joke about that' in said[3] and said[4] == f'{thanks} on “{told}”' and said[2]==said[6]==thanks
    talk(bot, leave, said.append)

def test_no_warning_amid_a_talk(tmp_path, caplog):
    bot = make_bot(tmp_path, dict(mute=Mute()), tries=2)
    with caplog.at_level('WARNING'): assert "can't think of a joke" in ask(bot, 'Why?').text
    bot.close()
    assert not caplog.records

def test_limit_for_each_person(tmp_path):
    bot = make_bot(tmp_path, per_minute=3)
    assert [bool(ask(bot, '/joke').joke) for _ in range(5)]==[True]*3+[False]*2
    assert ask(bot, '/joke', 2).joke
    now = [0.]
    limit = Limiter(2, 60, lambda: now[0], max_people=10)
    assert [limit.wait(1) for _ in range(3)]==[0,0,60]
    now[0] = 61.
    assert [limit.wait(i) for i in range(100)]==[0]*100
    now[0] = 200.
    limit.wait(5)
    assert len(limit.times)==1

texts = dict(empty='', spaces=' \n\t ', control='\x00\x07\x1b', long='a'*100_000, russian='Почему курица перешла дорогу?', chinese='为什么？',
    arabic='لماذا؟', emoji='🐍👩‍👩‍👧‍👦🇩🇪', surrogate='\ud83d why', html='<b>why</b> &amp; <a href="x">', markdown='*_`[why](x)~|', override='why \u202eabc',
    marker='<|question|> a <|answer|> b <|end|>', sql="'; drop table votes; --", zalgo='w\u0300\u0301\u0302\u0303'*50, null='a\x00b')

def test_bad_input_over_http(tmp_path, fake_telegram):
    tg,bot = fake_telegram,make_bot(tmp_path, dict(echo=Echo()))
    with running(bot, tg):
        for i,o in enumerate(texts.values()): tg.say(o, 100+i)
        assert tg.wait(lambda: len(tg.sent)>=len(texts))
        time.sleep(.1)
    replies = {o:tg.sent_to(100+i) for i,o in enumerate(texts)}
    assert all(len(o)==1 for o in replies.values())
    assert '100,000 characters' in replies['long'][0].text
    for o in ('empty','spaces','control'): assert 'nothing that I can read' in replies[o][0].text
    for o in set(texts)-{'long','empty','spaces','control'}: assert replies[o][0].text.startswith('Answer'),o
    assert all('parse_mode' not in o.params for o in tg.sent)
    assert bot.store.value('select count(*) from jokes where question=?', texts['html'])==1 # markup is kept as it is
    assert not bot.store.waiting()

# Votes

def test_one_vote_for_each_person_and_joke(tmp_path, fake_telegram):
    tg,bot = fake_telegram,make_bot(tmp_path)
    with running(bot, tg):
        tg.say('/joke', chat=-5, person=1)
        assert tg.wait(lambda: tg.sent)
        message = tg.sent[0]
        assert [o for o,_ in message.buttons]==['👍','👎']
        for person,button in ((1,'👍'),(2,'👎'),(1,'👎'),(1,'👎'),(3,'👍')):
            n = len(tg.answers)
            tg.press(message, button, person)
            assert tg.wait(lambda: len(tg.answers)>n)
    assert {o for _,o in tg.answers}=={'Thank you for your feedback'} and len(tg.answers)==5
    assert {o['person']:o['value'] for o in bot.store.votes()}=={1:-1, 2:-1, 3:1}

def test_forged_buttons(tmp_path, fake_telegram):
    tg,bot = fake_telegram,make_bot(tmp_path)
    with running(bot, tg):
        tg.say('/joke', chat=7)
        assert tg.wait(lambda: tg.sent)
        data = tg.sent[0].buttons[0][1]
        forged = ['', 'v1', 'v1:1', 'v1:1:*', 'v1:-1:+', 'v1:1e3:+', 'v1:٣:+', 'v1:1:+\n', 'v2:1:+', 'x'*64, 'v1:'+'9'*40+':+', '{"a":1}', "v1:1;drop table votes:+"]
        unknown = ['v1:99999:+', 'v1:'+'9'*18+':-']
        for o in forged+unknown: tg.press_data(o, 7)
        tg.press_data(data, chat=8, person=8) # a joke that this chat never saw
        n = len(forged)+len(unknown)+1
        assert tg.wait(lambda: len(tg.answers)==n)
    said = Counter(o for _,o in tg.answers)
    assert said["This button is not one of mine."]==len(forged) and sum(said.values())==n
    assert not bot.store.votes()

def test_a_late_copy_of_a_vote_changes_nothing(bot):
    joke = ask(bot, '/joke').joke
    for turn,value in ((5,1),(7,-1),(6,1)): bot.press(1, 1, button_data(joke, value), turn)
    assert [o['value'] for o in bot.store.votes()]==[-1]
    assert all(parse_button(button_data(joke, o))==(joke,o) for _,o in buttons)

def votes_of(bot, n, liked, n_people=20, seed=0):
    "Simulated people ask for jokes and vote; `liked` has the chance of a 👍 by source"
    rng = random.Random(seed)
    for i in range(n):
        person = 1+i%n_people
        joke = ask(bot, '/joke', person).joke
        bot.press(person, person, button_data(joke, 1 if rng.random()<liked[bot.store.joke(joke).source] else -1))

def test_stats_compare_sources(tmp_path):
    bot = make_bot(tmp_path, dict(echo=Echo(0)))
    ask(bot, '/joke')
    assert ask(bot, '/stats', 9).text.startswith('Nobody has voted yet')
    votes_of(bot, 12, dict(human=.9, echo=.2))
    asked = [ask(bot, f'Why {i}?', 30).joke for i in range(30)]
    for o in asked: bot.press(30, 30, button_data(o, 1))
    n = Counter(o['source'] for o in bot.store.votes() if o['policy']=='random')
    text = ask(bot, '/stats', 9).text
    assert 'answers to questions: 100% 👍 of 30 votes' in text
    for o in ('human','echo'): assert f'{o}, chosen at random: ' in text and f'of {n[o]} votes; {20-n[o]} more such votes needed' in text
    votes_of(bot, 120, dict(human=.95, echo=.1))
    text = ask(bot, '/stats', 9).text
    assert '162 votes by 21 people' in text and 'needed' not in text.split('points')[0] and 'liked less' in text and 'human: ' in text and 'good' in text
    log = bot.chooser.log.frame()
    assert len(log)>=133 and log.n_outcomes.sum()==132 # answers to questions were no choice; every choice is there, with its outcome
    assert {round(sum(o),6) for o in log.propensities}=={1.}
    bot.close()

def test_stats_of_one_source_and_of_two_with_few_votes(tmp_path):
    bot = make_bot(tmp_path)
    votes_of(bot, 30, dict(human=.5))
    text = ask(bot, '/stats', 9).text
    assert '30 votes by 20 people' in text and 'compare' not in text and 'human' not in text
    bot.sources.append('other')
    text = ask(bot, '/stats', 9).text
    assert 'other, chosen at random: no votes; 20 more such votes needed to compare it' in text and 'compared when another source has 20' in text
    bot.close()

# Learning

class Selector:
    "Stands in for collab_ext's: likes texts with a word"
    def __init__(self, word='baker'): self.word = word
    def score_candidates(self, texts, user=None): return np.array([2.*(self.word in o) for o in texts]),np.full(len(texts), .01)

def test_the_selector_chooses(tmp_path):
    bot = make_bot(tmp_path, dict(echo=Echo(0)), chooser=Chooser(tmp_path, explore=0.))
    bot.worker.stop()
    bot.chooser.selector = Selector('to work')
    for _ in own_jokes: assert ask(bot, '/joke').joke
    slates = bot.chooser.log.frame()
    assert all(len(s)>1 and s[i]==max(s) for s,i in zip(slates.scores, slates.chosen)) # the best of several, by Thompson sampling with little doubt
    assert set(bot.store.db.execute('select policy from shown'))=={('selector',)}
    bot.chooser.selector = Selector(None) # fails
    assert ask(bot, '/joke').joke
    assert {o for o, in bot.store.db.execute('select policy from shown')}=={'selector','random'}
    bot.close()

def test_retraining_swaps_while_requests_go_on(tmp_path, monkeypatch):
    bot = make_bot(tmp_path)
    assert 'I learn from 30 on' in ask(bot, '/retrain', 9).text
    votes_of(bot, 60, dict(human=.5))
    begun,go_on = threading.Event(),threading.Event()
    def train(votes, *args):
        begun.set()
        go_on.wait(10)
        return Selector(),dict(n_votes=len(votes), auc=dict(value=None), version='1')
    monkeypatch.setattr('joke_bot.chooser.train_selector', train)
    texts = []
    thread = threading.Thread(target=lambda: texts.append(ask(bot, '/retrain', 9).text))
    thread.start()
    assert begun.wait(5)
    assert ask(bot, '/joke').joke and bot.chooser.selector is None
    assert ask(bot, '/retrain', 9).text=='I am learning already.'
    go_on.set()
    thread.join()
    assert 'learned from 60 votes' in texts[0] and bot.chooser.selector
    assert '80% of the jokes are chosen by selector 1' in ask(bot, '/stats', 9).text
    bot.close()

def test_a_selector_learns_from_votes(tmp_path):
    "People like jokes about work; a trained selector finds them, also after a restart"
    bot = make_bot(tmp_path, chooser=Chooser(tmp_path, how='best'))
    for i in range(160):
        joke = ask(bot, '/joke', 1+i%12)
        bot.press(1+i%12, 1+i%12, button_data(joke.joke, 1 if 'to work' in joke.text else -1))
    assert 'learned from 160 votes' in ask(bot, '/retrain', 9).text
    def share(bot): return np.mean(['to work' in ask(bot, '/joke', 1000+i).text for i in range(20)])
    chance = np.mean(['to work' in str(o) for o in own_jokes])
    bot.chooser.explore = 0.
    assert share(bot)>1.6*chance
    bot.close()
    again = make_bot(tmp_path, chooser=Chooser(tmp_path, explore=0., how='best'))
    assert again.chooser.note['version']=='1' and share(again)>1.6*chance
    again.close()
    other = HashedWords(64)
    assert Chooser(tmp_path, other).selector is None # other features: it would score nonsense

# Faults of the service

def test_faults(tmp_path, fake_telegram):
    tg,bot = fake_telegram,make_bot(tmp_path)
    tg.fail('getMe', 2, status=500)
    tg.fail('getUpdates', status=502)
    tg.fail('getUpdates', body=b'<html>')
    tg.fail('getUpdates', body=b'{"ok":true,"result":{}}')
    tg.fail('getUpdates', drop=True)
    tg.fail('sendMessage', status=429, retry_after=1)
    tg.fail('sendMessage', 2, status=500)
    tg.fail('sendMessage', drop=True)
    tg.fail('answerCallbackQuery', 2, status=500)
    tg.slow('sendMessage', .5)
    with running(bot, tg):
        for i in range(8): tg.say('/joke', i+1)
        assert tg.wait(lambda: len(tg.sent)>=8, 20)
        tg.press(tg.sent[0], 0)
        assert tg.wait(lambda: tg.answers)
        time.sleep(.1)
    assert sorted(o.chat for o in tg.sent)==list(range(1,9)) and len(bot.store.votes())==1
    assert not any(o.times for o in tg.faults) and not bot.store.waiting()

def test_pictures(tmp_path, fake_telegram):
    "In private the person is told that only text can be read; a group is left alone"
    tg,bot = fake_telegram,make_bot(tmp_path)
    picture = [dict(file_id='a', file_unique_id='a', width=9, height=9)]
    with running(bot, tg):
        tg.say(None, -5, 7, photo=picture)
        tg.say(None, 7, photo=picture, caption='/joke')
        assert tg.wait(lambda: tg.sent)
        tg.say('/joke', 8)
        assert tg.wait(lambda: tg.sent_to(8))
    assert ['only read text' in o.text for o in tg.sent]==[True,False] and not tg.sent_to(-5)

def test_malformed_updates_do_not_stop_the_others(tmp_path, fake_telegram):
    tg,bot = fake_telegram,make_bot(tmp_path)
    bad = [5, None, 'x', {}, dict(update_id='a'), dict(update_id=10**30), dict(update_id=1), dict(update_id=2, message=5), dict(update_id=3, message={}),
        dict(update_id=4, callback_query=dict(id='1')), dict(update_id=5, poll={}), dict(update_id=6, message=dict(message_id=1, date=0, chat=dict(id=3, type='private')))]
    for o in bad: tg.raw(o)
    with running(bot, tg):
        tg.say('/joke', 7)
        assert tg.wait(lambda: tg.sent_to(7))
    assert len(tg.sent)==1 and not bot.store.waiting()

def test_a_chat_that_blocked_the_bot(tmp_path, fake_telegram):
    tg,bot = fake_telegram,make_bot(tmp_path)
    tg.fail('sendMessage', status=400)
    with running(bot, tg):
        tg.say('/joke', 7)
        assert tg.wait(lambda: any(o=='sendMessage' for o,_ in tg.calls))
        tg.say('/joke', 8)
        assert tg.wait(lambda: tg.sent_to(8))
    assert not tg.sent_to(7) and not bot.store.waiting()

def test_a_message_without_a_receipt_is_not_sent_twice(tmp_path, fake_telegram):
    tg,bot = fake_telegram,make_bot(tmp_path)
    with running(bot, tg) as front:
        front.api._request[1]._client.timeout = .2
        tg.slow('sendMessage', .6)
        tg.say('/joke', 7)
        assert tg.wait(lambda: tg.sent_to(7) and not bot.store.waiting())
    assert len(tg.sent_to(7))==1

def test_full_disk(tmp_path, fake_telegram, caplog):
    tg,bot = fake_telegram,make_bot(tmp_path)
    with running(bot, tg):
        tg.say('/joke', 7)
        assert tg.wait(lambda: tg.sent)
        with bot.store.lock: bot.store.db.execute(f"pragma max_page_count={bot.store.value('pragma page_count')}")
        for i in range(40): tg.press(tg.sent[0], i%2, person=i+1)
        for i in range(20): tg.say('/joke', 100+i)
        assert tg.wait(lambda: 'disk is full' in caplog.text)
        time.sleep(.2)
        assert 'disk is full' in caplog.text
        told = {o for o,text in tg.answers if text==thanks}
        assert len(told)<=len(bot.store.votes())<40 # nobody was thanked for a vote that is not on the disk
        with bot.store.lock: bot.store.db.execute('pragma max_page_count=1073741823')
        assert tg.wait(lambda: len(tg.answers)>=40 and len(tg.sent)>=21, 20)
    assert len(bot.store.votes())==40 and Counter(o.chat for o in tg.sent)==Counter([7,*range(100,120)])

def test_full_disk_of_the_log(tmp_path, fake_telegram, caplog):
    tg,bot = fake_telegram,make_bot(tmp_path)
    def limit(n): bot.choosing.submit(lambda: bot.chooser.log.connection().execute(f'pragma max_page_count={n}')).result()
    limit(1)
    with running(bot, tg):
        for i in range(15): tg.say('/joke', 100+i)
        assert tg.wait(lambda: 'free space' in caplog.text)
        limit(1073741823)
        assert tg.wait(lambda: len(tg.sent)>=15, 20)
        time.sleep(.1)
    assert Counter(o.chat for o in tg.sent)==Counter(range(100,115)) and len(bot.chooser.log)==15

def test_numbers_of_updates_may_begin_anew(tmp_path, fake_telegram):
    "After a week without updates Telegram counts from anywhere"
    tg,bot = fake_telegram,make_bot(tmp_path)
    with running(bot, tg):
        tg.say('/joke', 7)
        assert tg.wait(lambda: tg.sent_to(7))
        assert tg.wait(lambda: any(o=='getupdates' and not p.get('offset') for o,p in tg.calls[2:] if o=='getupdates'))
        tg.last_update = 10
        tg.say('/joke', 8)
        assert tg.wait(lambda: tg.sent_to(8))

# Tokens

token = '123456789:'+'Secret-token_'*3

@pytest.mark.parametrize('value', ['', '  ', 'hello', token[:-12], token+' x', token+'é', 'a'+token, '123456789:'+'x'*200, 'bot'+token])
def test_tokens_of_the_wrong_form(value, monkeypatch, tmp_path):
    monkeypatch.setenv('TELEGRAM_TOKEN', value)
    (tmp_path/'token').write_text(value)
    for file in (None, tmp_path/'token'):
        with pytest.raises(ValueError, match='token') as e: read_token(file)
        assert 'Secret' not in str(e.value) and (not value.strip() or value not in str(e.value))
    with pytest.raises(FileNotFoundError, match='BotFather'): read_token(tmp_path/'none')

def test_tokens_are_hidden(tmp_path, monkeypatch):
    (tmp_path/'token').write_text(token+'\n')
    assert read_token(tmp_path/'token')==token
    record = logging.LogRecord('a', logging.ERROR, '', 1, 'at https://x/bot%s/getMe', (token,), None)
    assert RedactingFormatter().format(record)=='at https://x/bot<token>/getMe'
    try: raise ValueError(token)
    except ValueError: record.exc_info = sys.exc_info()
    assert 'Secret' not in RedactingFormatter().format(record)

def start(tg, home, *args, **env):
    "The program in a process of its own"
    command = [sys.executable, '-m', 'joke_bot', '--home', str(home), '--base-url', tg.url, '--poll-seconds', '1', '--per-minute', '10000', *args]
    env = {**os.environ, 'PYTHONPATH':os.pathsep.join([str(examples), str(examples.parent)]), 'TELEGRAM_TOKEN':tg.token, **env}
    started.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
    return started[-1]

def answered(tg, p, n):
    "Wait until the program has sent `n` messages; if it ended instead, show what it said"
    tg.wait(lambda: len(tg.sent)>=n or p.poll() is not None, 60)
    assert p.poll() is None, p.stdout.read()
    return len(tg.sent)>=n

started = []

@pytest.fixture(autouse=True)
def no_process_stays():
    yield
    while started:
        p = started.pop()
        if p.poll() is None: p.kill()
        p.communicate()

def test_the_program_hides_its_token(tmp_path, fake_telegram):
    tg = fake_telegram
    tg.fail('sendMessage', drop=True)
    tg.fail('sendMessage', body=b'{')
    p = start(tg, tmp_path, '--no-models', '--log-level', 'DEBUG')
    tg.say('/joke', 7)
    assert answered(tg, p, 1)
    p.send_signal(signal.SIGTERM)
    out,_ = p.communicate(timeout=30)
    assert p.returncode==0 and 'Ready: human' in out and 'next try' in out
    assert tg.token not in out and tg.token.split(':')[1] not in out

def test_a_token_that_is_refused(tmp_path, fake_telegram):
    bot = make_bot(tmp_path)
    with pytest.raises(ValueError, match='refused the token') as e: asyncio.run(TelegramFront(bot, token, fake_telegram.url).run())
    assert 'Secret' not in str(e.value)

# Kills and crowds

def test_no_vote_is_lost_by_kills(tmp_path, fake_telegram):
    "People press all the time while the process is killed and started again"
    tg,n_kills,rng = fake_telegram,50 if full else 0,random.Random(0)
    p = start(tg, tmp_path, '--no-models')
    for chat in range(1,6): tg.say('/joke', chat)
    assert answered(tg, p, 5)
    messages,last,asked,pressing = list(tg.sent),{},Counter(),True
    def crowd():
        while pressing:
            message,person,button = rng.choice(messages),rng.randrange(1, 200),rng.randrange(2)
            last[person,message.buttons[button][1].split(':')[1]] = 1-2*button
            tg.press(message, button, person)
            if rng.random()<.2:
                asked[1000+person] += 1
                tg.say('/joke', 1000+person)
            while len(tg.updates)>300 and pressing: time.sleep(.05) # a slow machine
            time.sleep(.005 if full else .02)
    thread = threading.Thread(target=crowd)
    thread.start()
    assert tg.wait(lambda: len(tg.answers)>20, 30)
    tg.fail('sendMessage', 1000, seconds=1., drop=True)
    first = tg.last_update
    for chat in range(2001,2004):
        asked[chat] += 1
        tg.say('/joke', chat)
    assert tg.wait(lambda: all(o['update_id']>first+50 for o in list(tg.updates))) # confirmed, but not answered
    p.kill()
    p.wait()
    tg.faults.clear()
    n = len(tg.answers)
    p = start(tg, tmp_path, '--no-models')
    for _ in range(n_kills):
        n = len(tg.answers)
        assert tg.wait(lambda: len(tg.answers)>n, 30)
        time.sleep(rng.random()*.3)
        p.kill()
        p.wait()
        p = start(tg, tmp_path, '--no-models')
    assert tg.wait(lambda: len(tg.answers)>n+20, 30)
    pressing = False
    thread.join()
    assert tg.wait(lambda: not tg.updates, 600 if full else 60)
    store = Store(tmp_path/'bot.db')
    for _ in range(600):
        if not store.waiting(): break
        time.sleep(.1)
    p.terminate()
    p.communicate(timeout=30)
    votes = {(o['person'],str(o['joke'])):o['value'] for o in store.votes()}
    got = Counter(o.chat for o in tg.sent if o.chat>1000)
    twice = sum((got-asked).values())
    print(f"{n_kills+1} kills, {len(tg.presses)} presses, {len(votes)} votes kept; {sum(asked.values())} jokes asked for, {twice} told twice")
    assert votes==last
    assert not asked-got and twice<=(n_kills+1)*20

def crowd(tg, n_requests, n_chats, questions=True):
    "Overlapping requests of many chats"
    for i in range(n_requests): tg.say(f'Why is {i} a number?' if questions and i%3==0 else '/joke', 1+i%n_chats)

def test_overlapping_requests(tmp_path, fake_telegram):
    tg,bot = fake_telegram,make_bot(tmp_path, dict(echo=Echo()))
    with running(bot, tg):
        crowd(tg, 60, 20)
        assert tg.wait(lambda: len(tg.sent)>=60, 30)
        time.sleep(.1)
    assert Counter(o.chat for o in tg.sent)==Counter(1+i%20 for i in range(60))
    answers = [o for o in bot.store.rows('select question from jokes where asked=1')]
    assert sorted(answers)==sorted((f'Why is {i} a number?',) for i in range(0,60,3))

# Language models

def templates(n=120, seed=0):
    "Jokes with a form that a tiny model learns in seconds"
    who,what,where = 'baker pilot judge nurse singer farmer'.split(),'ladder map pillow torch violin kite'.split(),'park lake moon office party'.split()
    found = [Joke(f'Why did the {a} bring a {b} to the {c}?', f'Because the {c} had no {b}.') for a in who for b in what for c in where]
    random.Random(seed).shuffle(found)
    return found[:n]

@pytest.fixture(scope='module')
def home(tmp_path_factory):
    "A folder with a tiny model"
    if not find_spec('transformers'): pytest.skip("could not import 'transformers'")
    from joke_bot.train import train_lm
    res = tmp_path_factory.mktemp('home')
    train_lm(templates(), res, epochs=4, bs=12, quiet=True)
    return res

@pytest.fixture(scope='module')
def generator(home):
    from joke_bot.lm import Generator
    return Generator(home/'models'/'tiny'/'1', near=1.1, max_tokens=24)

def test_a_tiny_model_learns_jokes(home, generator):
    from collab_ext.versions import read_note
    note = read_note(generator.folder/'note.json')
    assert note['perplexity']<3<50<note['perplexity_before']
    assert {o.suffix for o in generator.folder.iterdir()}=={'.json','.jsonl','.safetensors'} # nothing that runs code
    jokes = generator.sample([None]*48)
    good = [o for o in jokes if o]
    assert len(good)>=5
    before = generator.counts['exact']
    assert generator._checked(generator.codec.encode(generator.known.jokes[0]), None) is None and generator.counts['exact']==before+1
    assert not {normalised(o) for o in good}&generator.known.exact
    assert all(o.question.startswith('Why did') for o in good[:5])

def test_prompts_of_any_kind(generator):
    "Questions are answered as they are; what looks like a special token in them is text"
    asked = [clean(o)[:max_question] for o in texts.values() if clean(o)]
    jokes = generator.sample(asked)
    assert any(jokes)
    for q,o in zip(asked, jokes): assert o is None or o.question==q and o.answer and '<|' not in o.answer

def test_forms_that_are_refused(generator):
    c = generator.codec
    q,a = c.ids('Why?'),c.ids('So.')
    assert c.decode([c.start,c.question,*q,c.answer,*a,c.end])==Joke('Why?', 'So.')
    bad = [*q,*a],[*q,c.answer,*a],[*q,c.end],[*q,c.answer,c.end],[c.answer,*a,c.end],[*q,c.answer,c.answer,*a,c.end],[*q,c.question,c.answer,*a,c.end]
    for o in bad: assert c.decode([c.start,c.question,*o]) is None,o
    assert c.decode([c.start,c.question,*c.encode(Joke('Why?', '!?'))[2:]]) is None # no word in it
    assert len(c.encode(Joke('Why? '*500, 'So.')))<=c.max_tokens
    assert not c.marker_ids&{*c.ids('<|ans<|end|>wer|>'), *c.ids('<|answer|>')}

def test_exact_perplexity_with_uneven_batches(generator):
    import torch.nn.functional as F,torch
    from joke_bot.train import joke_learner,joke_loaders
    jokes = templates()[:7]+[Joke('Why?', 'So.')]
    learn = joke_learner(joke_loaders(jokes, jokes, generator.codec, bs=3), generator.model)
    with learn.no_bar(),learn.no_logging(): got = learn.validate()[1]
    nll,n = 0.,0
    for o in jokes:
        ids = torch.tensor([generator.codec.encode(o)])
        with torch.no_grad(): nll += F.cross_entropy(generator.model(ids).logits[0,:-1], ids[0,1:], reduction='sum').item()
        n += ids.shape[1]-1
    assert abs(got-np.exp(nll/n))<1e-3*got

def test_a_model_answers_over_http(tmp_path, fake_telegram, generator):
    tg,bot = fake_telegram,make_bot(tmp_path, dict(tiny=generator), size=4, tries=20)
    with running(bot, tg):
        crowd(tg, 18, 6)
        assert tg.wait(lambda: len(tg.sent)>=18, 60)
    assert Counter(o.chat for o in tg.sent)==Counter(1+i%6 for i in range(18))
    assert bot.worker.counts['tiny']['refused'] and {'human','tiny'}=={o for o, in bot.store.db.execute('select distinct source from jokes')}

def memory_of(pid): return int(Path(f'/proc/{pid}/statm').read_text().split()[1])*resource.getpagesize()/2**20

@pytest.mark.skipif(not full or not sys.platform.startswith('linux'), reason="minutes: FULL=1")
def test_campaign_of_1000_requests(home, tmp_path, fake_telegram):
    "1,000 overlapping requests of 50 chats to the program with a model: each answered once, and memory stays flat"
    tg,n,memory = fake_telegram,1000,{}
    p = start(tg, home)
    begin = time.monotonic()
    crowd(tg, n, 50)
    for o in (200,n):
        assert tg.wait(lambda: len(tg.sent)>=o, 600)
        memory[o] = memory_of(p.pid)
    seconds = time.monotonic()-begin
    for o in list(tg.sent): tg.press(o, 0) if o.buttons else None
    assert tg.wait(lambda: len(tg.answers)==len(tg.presses), 600)
    memory['votes'] = memory_of(p.pid)
    time.sleep(1)
    p.terminate()
    out,_ = p.communicate(timeout=60)
    got,told = Counter(o.chat for o in tg.sent),sum(bool(o.buttons) for o in tg.sent)
    print(f"{len(tg.sent)} answers to {n} requests of {len(got)} chats in {seconds:.0f} s with the start, {told} of them jokes; "
        f"MB after 200 {memory[200]:.1f}, after {n} {memory[n]:.1f} ({memory[n]/memory[200]-1:+.1%}), after {len(tg.presses)} votes {memory['votes']:.1f}")
    assert got==Counter(1+i%50 for i in range(n)) and told>.95*n, out
    assert memory[n]<1.05*memory[200] and memory['votes']<1.05*memory[200]

@pytest.mark.parametrize('damaged', [False,True])
def test_nothing_runs_when_the_arguments_are_wrong(damaged, tmp_path, monkeypatch):
    "A thread that still works when the program ends aborts it, after the message"
    from joke_bot import __main__ as program
    loaded = []
    def load(home, **how): return loaded.append(home) or dict(echo=Echo())
    monkeypatch.setattr(program, 'load_models', load)
    monkeypatch.setattr(program, 'set_up_logging', lambda *args: None)
    monkeypatch.setattr(program, 'states_of', lambda *args: HashedWords())
    home = tmp_path/'home'
    if damaged:
        home.mkdir()
        (home/'slates.db').write_text('no database'*1000)
    args = [] if damaged else ['--jokes', str(tmp_path/'none.csv')]
    with pytest.raises(SystemExit) as e: program.main(['--chat', '--home', str(home), *args])
    assert ('slates.db' if damaged else 'none.csv') in e.value.code
    assert not any(o.name=='worker' and o.is_alive() for o in threading.enumerate())
    assert damaged or not loaded and not home.exists()

@pytest.mark.parametrize('option,value', [('--per-minute','0'), ('--batch','0'), ('--temperature','nan'), ('--temperature','0'), ('--explore','7'), ('--top-p','2'),
    ('--retrain-every','-1'), ('--how','greedy')])
def test_options_are_checked(option, value, capsys):
    from joke_bot.__main__ import parser
    with pytest.raises(SystemExit): parser().parse_args(['--chat', option, value])
    assert option in capsys.readouterr().err
