"""The durable queue: one SQLite file, in which each ask has a state

    new → claimed → drafted → posting → posted
           ↓  ↓                ↓
    rejected  dead             dead

Whoever claims an ask gets a lease. A lease that runs out gives the ask to the next one who claims: a `claimed` ask is drafted anew, a
`posting` one must first be looked for on the blog, for it may be there. Every change is one transaction that is on disk before it is answered."""
import json,secrets,sqlite3,threading,time
from contextlib import contextmanager
from pathlib import Path

states = 'new','claimed','drafted','posting','posted','rejected','dead'

_schema = """
CREATE TABLE IF NOT EXISTS asks (
    key TEXT PRIMARY KEY,       -- such as 'ask:1234': the same ask has the same key for ever
    kind TEXT NOT NULL,         -- ask, reply, or post (one of the bot's own)
    who TEXT, text TEXT NOT NULL, target TEXT, asked REAL NOT NULL,
    state TEXT NOT NULL, due REAL NOT NULL, lease TEXT, lease_until REAL,
    tries INTEGER NOT NULL DEFAULT 0, error TEXT,
    draft TEXT,                 -- JSON: text, how it is posted, slate
    posting_since REAL,         -- when posting began; what is looked for on the blog is not older
    post_id TEXT, changed REAL NOT NULL);
CREATE INDEX IF NOT EXISTS asks_by_state ON asks(state, due);
CREATE INDEX IF NOT EXISTS asks_by_post ON asks(post_id);
CREATE TABLE IF NOT EXISTS notes (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS cache (key TEXT PRIMARY KEY, value TEXT NOT NULL, used REAL NOT NULL);
"""

_to_draft = "(state='new' AND due<=:now) OR (state='claimed' AND lease_until<:now)"
_back = dict(claimed='new', posting='drafted') # Where an ask goes when a step had no effect

class Full(OSError):
    "The disk has no room: nothing was changed"

class Stale(ValueError):
    "A lease that has run out: somebody else has the ask now"

def wait_before(
    tries:int, # So many were made
    first:float, # Seconds before the second
    most=3600., # Seconds, at most
)->float: # Seconds
    "Exponential back-off"
    return min(most, first*2**min(tries-1, 30))

class Store:
    "The queue, small notes (cursors, mood), and a cache, in one file"
    def __init__(self,
        file, # Path
        retries=8, # A step is tried so often
        backoff=5., # Seconds before its second try
        clock=time.time, # Seconds since 1970
    ):
        self.retries,self.backoff,self.clock = retries,backoff,clock
        self.lock = threading.RLock()
        Path(file).parent.mkdir(parents=True, exist_ok=True)
        try: self.db = self._opened(file)
        except sqlite3.DatabaseError as e: raise ValueError(f"{file} can't be opened ({e}): put a copy of it back, or move it away to begin anew") from None

    def _opened(self, file):
        db = sqlite3.connect(file, timeout=30, isolation_level=None, check_same_thread=False)
        db.row_factory = sqlite3.Row
        db.execute('PRAGMA journal_mode=WAL')
        db.execute('PRAGMA synchronous=FULL')
        db.executescript(_schema)
        return db

    def close(self): self.db.close()

    def run(self, sql, args=()):
        "Rows of one statement, which is a transaction"
        with self.lock:
            try: return [dict(o) for o in self.db.execute(sql, args).fetchall()]
            except sqlite3.OperationalError as e:
                if 'full' not in str(e) and 'disk I/O' not in str(e): raise
                raise Full("the disk is full: make room, and all goes on by itself; nothing is lost") from None

    @contextmanager
    def transaction(self):
        "All of what is inside, or nothing"
        with self.lock:
            self.run('BEGIN IMMEDIATE')
            try:
                yield
                self.run('COMMIT')
            except BaseException:
                if self.db.in_transaction: self.db.execute('ROLLBACK')
                raise

    # Asks

    def put(self, key, kind, text, who=None, target=None, asked=None):
        "Take in an ask; is it a new one?"
        now = self.clock()
        rows = self.run("""INSERT INTO asks(key,kind,text,who,target,asked,state,due,changed) VALUES(?,?,?,?,?,?,'new',?,?)
            ON CONFLICT(key) DO NOTHING RETURNING key""", (key, kind, text, who, target, now if asked is None else asked, now, now))
        return bool(rows)

    def put_all(self, asks):
        "Take in several, all or none; how many are new"
        with self.transaction(): return sum(self.put(**o) for o in asks)

    def get(self, key):
        "An ask; None if there is no such one"
        rows = self.run('SELECT * FROM asks WHERE key=?', (key,))
        return self._read(rows[0]) if rows else None

    def _read(self, row): return dict(row, draft=json.loads(row['draft']) if row['draft'] else None)

    def claim(self, seconds):
        "The next ask to draft, for so many seconds; None if there is none"
        return self._claimed(f"""UPDATE asks SET state='claimed', lease=:lease, lease_until=:until, tries=tries+1, changed=:now WHERE key=
            (SELECT key FROM asks WHERE {_to_draft} ORDER BY due,asked LIMIT 1) RETURNING *""", seconds)

    def has_work(self):
        "Is there an ask to draft?"
        return bool(self.run(f"SELECT 1 FROM asks WHERE {_to_draft} LIMIT 1", dict(now=self.clock())))

    def release_drafts(self):
        "Asks that were being drafted by a process that has ended are new again, at once; their tries stay counted"
        self.run("UPDATE asks SET state='new', lease=NULL, due=:now, changed=:now WHERE state='claimed'", dict(now=self.clock()))

    def claim_posting(self, seconds):
        "The next answer to post, for so many seconds; one with `again` may be on the blog already, and is looked for first"
        return self._claimed("""UPDATE asks SET state='posting', lease=:lease, lease_until=:until, tries=tries+1, changed=:now,
            posting_since=COALESCE(posting_since,:now) WHERE key=
            (SELECT key FROM asks WHERE (state='drafted' AND due<=:now) OR (state='posting' AND lease_until<:now) ORDER BY due,asked LIMIT 1)
            RETURNING *, posting_since<:now AS again""", seconds)

    def _claimed(self, sql, seconds):
        "Run a claim; what has ended its processes again and again is set aside"
        now = self.clock()
        while rows := self.run(sql, dict(lease=secrets.token_hex(8), until=now+seconds, now=now)):
            row = self._read(rows[0])
            if row['tries']<=self.retries: return row
            self.die(row['key'], row['lease'], row['error'] or f"{row['state']} {self.retries} times without an end")

    def drafted(self, key, lease, draft, notes={}):
        "An answer is ready to be posted; what changed with it is noted in the same transaction"
        with self.transaction():
            self._change(key, lease, ['claimed'], "state='drafted', lease=NULL, draft=:draft, tries=0, error=NULL, due=:now", draft=json.dumps(draft))
            for k,v in notes.items(): self.set_note(k, v)

    def reject(self, key, lease, why):
        "This ask gets no answer"
        self._change(key, lease, ['claimed'], "state='rejected', lease=NULL, error=:why", why=why)

    def posted(self, key, post_id):
        "It is on the blog, whoever put it there"
        rows = self.run("""UPDATE asks SET state='posted', post_id=:post, lease=NULL, error=NULL, changed=:now
            WHERE key=:key AND state IN ('posting','dead') RETURNING key""", dict(post=str(post_id), now=self.clock(), key=key))
        if not rows and (self.get(key) or {}).get('state')!='posted': raise Stale(f"{key} is not being posted")

    def failed(self, key, lease, error, wait=None):
        "A step surely had no effect: try it again later, or set the ask aside"
        row = self._held(key, lease)
        if row['tries']>=self.retries: return self.die(key, lease, error)
        due = self.clock() + max(wait or 0, wait_before(row['tries'], self.backoff))
        self._change(key, lease, [row['state']], "state=:back, lease=NULL, error=:error, due=:due, posting_since=NULL",
            back=_back[row['state']], error=error, due=due)

    def unsure(self, key, lease, error, seconds):
        "A post may have had its effect: after so many seconds somebody has to look"
        row = self._held(key, lease)
        if row['tries']>=self.retries: return self.die(key, lease, error)
        self._change(key, lease, ['posting'], "lease=NULL, error=:error, lease_until=:until", error=error, until=self.clock()+seconds)

    def give_back(self, key, lease, error, wait):
        "A service is away, which is no fault of the ask: after `wait` seconds it is as it was before it was claimed"
        row = self._held(key, lease)
        until = self.clock()+wait
        if row['state']=='posting' and row['posting_since']<row['changed']: # it may be on the blog
            return self._change(key, lease, ['posting'], "lease=NULL, error=:error, lease_until=:until, tries=tries-1", error=error, until=until)
        self._change(key, lease, [row['state']], "state=:back, lease=NULL, error=:error, due=:until, tries=tries-1, posting_since=NULL",
            back=_back[row['state']], error=error, until=until)

    def not_there(self, key, lease):
        "It was looked for and is not on the blog: posting begins anew"
        self._change(key, lease, ['posting'], "posting_since=:now")

    def die(self, key, lease, error):
        "Set an ask aside for the owner"
        self._change(key, lease, ['claimed','posting'], "state='dead', lease=NULL, error=:error", error=error)

    def _held(self, key, lease):
        row = self.get(key)
        if row is None or row['lease']!=lease: raise Stale(f"the lease of {key} has run out")
        return row

    def _change(self, key, lease, states, change, **values):
        "Change an ask in one of `states` that somebody holds"
        among = ','.join(f"'{o}'" for o in states)
        rows = self.run(f"UPDATE asks SET {change}, changed=:now WHERE key=:key AND lease=:lease AND state IN ({among}) RETURNING key",
            dict(values, now=self.clock(), key=key, lease=lease))
        if not rows: raise Stale(f"the lease of {key} has run out")

    def revive(self, key=None):
        "Try dead asks again, one or all; how many there were. What may be on the blog is looked for first"
        back = "CASE WHEN draft IS NULL THEN 'new' WHEN posting_since IS NULL THEN 'drafted' ELSE 'posting' END"
        return len(self.run(f"""UPDATE asks SET state={back}, tries=0, due=:now, lease_until=0
            WHERE state='dead' AND (:key IS NULL OR key=:key) RETURNING key""", dict(key=key, now=self.clock())))

    def counts(self):
        "How many asks are in each state"
        rows = {o['state']:o['n'] for o in self.run('SELECT state, COUNT(*) AS n FROM asks GROUP BY state')}
        return {o:rows.get(o, 0) for o in states}

    def listed(self, state, limit=50):
        "Asks in a state, the newest first"
        return [self._read(o) for o in self.run('SELECT * FROM asks WHERE state=? ORDER BY changed DESC LIMIT ?', (state, limit))]

    def by_post(self):
        "Post → ask, for what is posted"
        return {o['post_id']:o['key'] for o in self.run("SELECT post_id,key FROM asks WHERE post_id IS NOT NULL")}

    # Notes

    def note(self, name, default=None):
        "A small value by name"
        rows = self.run('SELECT value FROM notes WHERE name=?', (name,))
        return json.loads(rows[0]['value']) if rows else default

    def set_note(self, name, value):
        "Remember a small value"
        self.run('INSERT INTO notes VALUES(?,?) ON CONFLICT(name) DO UPDATE SET value=excluded.value', (name, json.dumps(value)))

    # Cache

    def cached(self, key):
        "What was kept for a key; None if nothing is"
        rows = self.run('UPDATE cache SET used=? WHERE key=? RETURNING value', (self.clock(), key))
        return json.loads(rows[0]['value']) if rows else None

    def keep(self, key, value, size):
        "Keep a value, and at most `size` of them: the longest unused go"
        if not size: return
        self.run('INSERT OR REPLACE INTO cache VALUES(?,?,?)', (key, json.dumps(value), self.clock()))
        self.run('DELETE FROM cache WHERE key IN (SELECT key FROM cache ORDER BY used DESC LIMIT -1 OFFSET ?)', (size,))
