"""One SQLite file: jokes, who saw which, votes, and the updates that wait for an answer

Every method commits before it returns, so what it wrote outlives the process. Updates wait for the disk itself, too, so they outlive a power
cut; what follows from them (a choice, a vote) need not, since an update is only taken off after it, and the file keeps the order of writes."""
import json,random,sqlite3,threading,time
from contextlib import contextmanager
from pathlib import Path
from .jokes import Joke

_schema = '''
create table if not exists jokes(id integer primary key, source text not null, question text not null, answer text not null,
    asked integer not null, made real not null, unique(source, question, answer));
create index if not exists jokes_of_source on jokes(source, asked, id);
create table if not exists shown(id integer primary key, request text unique, chat integer not null, person integer not null,
    joke integer not null references jokes(id), policy text not null, slate integer, time real not null);
create index if not exists shown_in_chat on shown(chat, joke);
create index if not exists shown_joke on shown(joke);
create table if not exists votes(person integer not null, joke integer not null references jokes(id), value integer not null check(value in (-1,1)),
    chat integer not null, turn integer, time real not null, primary key(person, joke));
create table if not exists inbox(turn integer primary key autoincrement, update_id integer not null unique, body text, came real not null);
'''

class StoredJoke:
    "A joke with its number and source"
    def __init__(self, id, source, question, answer): self.id,self.source,self.joke = id,source,Joke(question, answer)
    def __str__(self): return str(self.joke)
    def __repr__(self): return f'StoredJoke({self.id}, {self.source!r}, {self.joke})'

class Store:
    "The bot's memory; any thread may use it"
    def __init__(self, file):
        self.file = Path(file)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.lock = threading.RLock()
        self.db = sqlite3.connect(self.file, timeout=30, isolation_level=None, check_same_thread=False)
        for o in ('journal_mode=wal', 'foreign_keys=on'): self.db.execute(f'pragma {o}')
        with self.lock: self.db.executescript(_schema)

    def close(self):
        with self.lock: self.db.close()

    @contextmanager
    def writing(self, sync=False):
        "One transaction, all of it or nothing; `sync` waits for the disk"
        with self.lock:
            self.db.execute(f"pragma synchronous={'full' if sync else 'normal'}")
            self.db.execute('begin immediate')
            try:
                yield self.db
                self.db.execute('commit')
            except BaseException:
                if self.db.in_transaction: self.db.execute('rollback')
                raise

    def rows(self, sql, *args):
        with self.lock: return self.db.execute(sql, args).fetchall()

    def value(self, sql, *args):
        found = self.rows(sql, *args)
        return found[0][0] if found else None

    # Jokes

    def add_jokes(
        self,
        source:str, # Such as 'human' or the name of a model
        jokes:list,
        asked=False, # Are the questions a person's own?
    )->list: # Their numbers: those of before for jokes that the source made before
        "Store jokes"
        insert = 'insert or ignore into jokes(source,question,answer,asked,made) values(?,?,?,?,?)'
        find = 'select id from jokes where source=? and question=? and answer=?'
        with self.writing() as db:
            keys = [(source, o.question, o.answer) for o in jokes]
            db.executemany(insert, [(*o, int(asked), time.time()) for o in keys])
            return [db.execute(find, o).fetchone()[0] for o in keys]

    def joke(self, id):
        "A joke by its number, or None"
        found = self.rows('select id,source,question,answer from jokes where id=?', id)
        return StoredJoke(*found[0]) if found else None

    def unseen(self, source, chat, n):
        "Up to `n` jokes of a source, drawn at random from those that a chat has not seen, else from those it saw longest ago"
        new = '''select id,source,question,answer from jokes where source=? and asked=0 {}
            and not exists (select 1 from shown where shown.joke=jokes.id and shown.chat=?) order by random() limit ?'''
        old = '''select j.id,j.source,j.question,j.answer from jokes j join shown s on s.joke=j.id
            where j.source=? and j.asked=0 and s.chat=? group by j.id order by max(s.id) limit ?'''
        found = self.rows(new.format(f'and id in ({self._some_ids(source, 8*n)})'), source, chat, n)
        if len(found)<n: found = self.rows(new.format(''), source, chat, n) or self.rows(old, source, chat, n)
        return [StoredJoke(*o) for o in found]

    def _some_ids(self, source, n):
        "A few numbers at random, since to shuffle thousands of jokes for each request takes a tenth of a second"
        low,high = (self.value(f'select {o}(id) from jokes where source=? and asked=0', source) for o in ('min','max')) # each by the index
        return ','.join(map(str, random.sample(range(low, high+1), min(n, high-low+1)))) if low else ''

    def unused(self, source, n):
        "Jokes of a source that nobody has seen: what a model had ready when the bot stopped"
        sql = '''select id,source,question,answer from jokes where source=? and asked=0
            and not exists (select 1 from shown where shown.joke=jokes.id) order by id desc limit ?'''
        return [StoredJoke(*o) for o in self.rows(sql, source, n)]

    # What was shown

    def show(
        self,
        joke:int,
        chat:int,
        person:int,
        policy:str, # 'random', 'selector' or 'asked'
        slate=None, # Number in the log of choices
        request=None, # The update that asked for it
    ):
        "Note a choice before it is sent, so that a restart sends the same joke"
        with self.writing() as db:
            db.execute('insert or ignore into shown(request,chat,person,joke,policy,slate,time) values(?,?,?,?,?,?,?)',
                (request, chat, person, joke, policy, slate, time.time()))

    def shown_for(self, request):
        "The joke that was chosen for a request before, or None"
        joke = self.value('select joke from shown where request=?', request)
        return self.joke(joke) if joke else None

    def was_shown(self, joke, chat): return bool(self.rows('select 1 from shown where joke=? and chat=? limit 1', joke, chat))

    # Votes

    def vote(
        self,
        person:int, # Not the chat: each member of a group has a vote
        joke:int,
        value:int, # 1 or -1
        chat:int,
        turn=None, # Place in the inbox: a late copy of an earlier vote changes nothing
    )->bool: # Was there a vote before?
        "Keep one vote for each person and joke, the last one"
        sql = '''insert into votes(person,joke,value,chat,turn,time) values(?,?,?,?,?,?) on conflict(person,joke) do update
            set value=excluded.value, chat=excluded.chat, turn=excluded.turn, time=excluded.time
            where excluded.turn is null or votes.turn is null or excluded.turn>=votes.turn'''
        with self.writing(sync=turn is None) as db:
            before = db.execute('select 1 from votes where person=? and joke=?', (person,joke)).fetchone()
            db.execute(sql, (person, joke, value, chat, turn, time.time()))
        return bool(before)

    def votes(self, since=0):
        "Votes since a time, as dicts with what was voted on and how it was chosen"
        sql = '''select v.person,v.joke,v.value,v.time,j.source,j.question,j.answer,
            (select s.policy from shown s where s.joke=v.joke and s.chat=v.chat order by s.id limit 1) as policy,
            (select s.slate from shown s where s.joke=v.joke and s.chat=v.chat order by s.id limit 1) as slate
            from votes v join jokes j on j.id=v.joke where v.time>=? order by v.time'''
        names = 'person joke value time source question answer policy slate'.split()
        return [dict(zip(names, o)) for o in self.rows(sql, since)]

    # Updates that wait

    def receive(self, updates):
        "Keep updates, each once; those that are new, with their turns"
        if not updates: return []
        new = []
        old = 'delete from inbox where turn in (select turn from inbox order by turn limit 200) and body is null and came<?'
        with self.writing(sync=True) as db:
            db.execute(old, (time.time()-2*86400,))
            for o in updates:
                body = json.dumps(o) # ASCII, whatever the text is
                if db.execute('insert or ignore into inbox(update_id,body,came) values(?,?,?)', (o['update_id'], body, time.time())).rowcount:
                    new.append((db.execute('select last_insert_rowid()').fetchone()[0], o))
        return new

    def waiting(self): return [(turn, json.loads(body)) for turn,body in self.rows('select turn,body from inbox where body is not null order by turn')]

    def done(self, turn):
        "An update is dealt with; its number stays for two days, so that a second delivery is noticed"
        with self.writing() as db: db.execute('update inbox set body=null where turn=?', (turn,))
