"""A stand-in of Tumblr's API on this machine, for tests and for a first try without an account

It knows one blog, checks the signature of each request, and keeps everything in memory. On demand it behaves badly: it drops connections
before or after it has done what was asked, does it a little later, answers 429 or 500, or never. It counts what must not happen: a second
answer to an ask, or to a reply."""
import hmac,json,random,re,threading,time
from collections import Counter,defaultdict,namedtuple
from http.server import BaseHTTPRequestHandler,ThreadingHTTPServer
from urllib.parse import parse_qs,urlsplit
from oauthlib.oauth1 import Client
from .tumblr import text_blocks

demo_tokens = dict(consumer_key='demoKey0'*6+'01', consumer_secret='demoKeySecret'*3+'demoSecre02', oauth_token='demoToken'*5+'demo3',
    oauth_secret='demoTokenSecret'*3+'demo4') # Of nobody, in the form of real ones

# How often (0 to 1) a request is: dropped before or after it is done; dropped and done `lag` seconds later; answered 429 or 500; done and answered 502
Faults = namedtuple('Faults', 'drop late_drop lag_drop busy broken late_broken lag', defaults=[0.]*6+[.2])

Answer = namedtuple('Answer', 'status body headers', defaults=[{}])

def is_signed(
    tokens:dict, # The four of the blog's owner
    method:str, url:str, # What is asked
    header:str, # `Authorization`, as it came
)->bool:
    "Is a request signed by the owner? It is signed once more, with its own nonce and time"
    own = dict(re.findall(r'(oauth_nonce|oauth_timestamp)="([^"]*)"', header))
    if len(own)<2: return False
    signer = Client(*(tokens[o] for o in ('consumer_key','consumer_secret','oauth_token','oauth_secret')),
        nonce=own['oauth_nonce'], timestamp=own['oauth_timestamp'])
    return hmac.compare_digest(signer.sign(url, method)[1]['Authorization'], header)

def envelope(answer):
    "An answer in the form of Tumblr's"
    inner = dict(response=answer.body) if answer.status<400 else dict(errors=[answer.body])
    return json.dumps(dict(meta=dict(status=answer.status), **inner)).encode()

def page_of(items, query, size=20):
    "A page by `offset` or `before`"
    if 'before' in query: items = [o for o in items if o['timestamp']<int(query['before'])]
    if int(query.get('before_id', 0)): items = [o for o in items if int(o['id_string'])<int(query['before_id'])]
    offset = int(query.get('offset', 0))
    return items[offset:offset+min(size, int(query.get('limit', size)))]

class Standin:
    "A blog in memory, behind HTTP"
    def __init__(self, name='demo-blog', tokens=None, faults=Faults(), seed=0, port=0, clock=time.time):
        self.name,self.tokens,self.faults,self.clock = name,tokens or demo_tokens,faults,clock
        self.lock,self.rng = threading.RLock(),random.Random(seed)
        self.posts,self.waiting,self.replies = {},{},[]
        self.answers = defaultdict(list) # Ask or tag → posts that answer it; each should have one
        self.seen = Counter()            # Method and status → number
        self.hung = threading.Event()    # Set: requests are never answered
        self.last_id = 700_000_000_000
        self.server = _Server(('127.0.0.1',port), _handler(self))
        self.url = f'http://127.0.0.1:{self.server.server_port}'

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, kwargs=dict(poll_interval=.05), daemon=True).start()
        return self

    def __exit__(self, *args):
        self.hung.clear()
        self.server.shutdown()
        self.server.server_close()

    # What readers do

    def _new_id(self):
        self.last_id += 1
        return str(self.last_id)

    def ask(self, text, who='reader'):
        "Somebody asks, in blocks as long as Tumblr's are at most; the id"
        blocks = text_blocks(text) or [dict(type='text', text=text)]
        with self.lock:
            id = self._new_id()
            layout = dict(type='ask', blocks=list(range(len(blocks))), **(dict(attribution=dict(type='blog', blog=dict(name=who))) if who else {}))
            self.waiting[id] = dict(id_string=id, timestamp=int(self.clock()), state='submission', type='blocks', content=blocks, layout=[layout], tags=[])
        return id

    def reply(self, text, who='reader', post='1'):
        "Somebody replies to a post; the id"
        with self.lock:
            id = self._new_id()
            self.replies.append(dict(id=id, type='reply', timestamp=int(self.clock()), target_post_id=post, from_tumblelog_name=who, reply_text=text))
        return id

    def add_post(self, text, notes=0, timestamp=None, tags=()):
        "A post that was there before"
        with self.lock: return self._land(self._new_id(), dict(content=[dict(type='text', text=text)], tags=','.join(tags)), notes, timestamp)

    def twice(self):
        "Asks and replies that have several answers"
        return {k:v for k,v in self.answers.items() if len(v)>1}

    # What the API does

    def _land(self, id, body, notes=0, timestamp=None):
        tags = [o.strip() for o in body.get('tags', '').split(',') if o.strip()]
        self.posts[id] = dict(id_string=id, id=int(id), timestamp=int(timestamp or self.clock()), state=body.get('state', 'published'), type='blocks',
            content=body['content'], layout=body.get('layout', []), tags=tags, note_count=notes, post_url=f'{self.url}/{id}')
        return id

    def _publish(self, id, body):
        "An ask becomes a post with another id; an ask that has been answered gets a second answer"
        with self.lock:
            if id not in self.waiting and id not in self.answers: return Answer(404, dict(title='Not Found'))
            waiting = self.waiting.pop(id, None)
            post = self._land(self._new_id(), body)
            self.posts[post]['genesis_post_id'] = id
            self.answers[id].append(post)
            return Answer(200, dict(id=post))

    def _create(self, body):
        with self.lock:
            post = self._land(self._new_id(), body)
            self.answers[self.posts[post]['tags'][0] if self.posts[post]['tags'] else post].append(post)
            return Answer(201, dict(id=post))

    def _read(self, path, query):
        with self.lock:
            newest = sorted(self.posts.values(), key=lambda o: (o['timestamp'],o['id']), reverse=True)
            if path=='info': return Answer(200, dict(blog=dict(name=self.name, posts=len(newest))))
            if path=='posts/submission': return Answer(200, dict(posts=page_of(list(self.waiting.values()), query)))
            if path=='posts/draft': return Answer(200, dict(posts=page_of([o for o in newest if o['state']=='draft'], query)))
            if path=='notifications': return Answer(200, dict(notifications=page_of(self.replies[::-1], query)))
            if path=='posts': return Answer(200, dict(posts=page_of([o for o in newest if o['state']=='published'], query), total_posts=len(newest)))
            if (found := re.fullmatch(r'posts/(\d+)', path)) and found[1] in {**self.waiting, **self.posts}:
                return Answer(200, {**self.waiting, **self.posts}[found[1]])
        return Answer(404, dict(title='Not Found'))

    def respond(self, method, path, query, body):
        "Do what is asked"
        start = f'/v2/blog/{self.name}/'
        if not path.startswith(start): return Answer(404, dict(title='Not Found'))
        path = path.removeprefix(start)
        if method=='GET': return self._read(path, query)
        if not body.get('content') or any(len(o.get('text', ''))>4096 for o in body['content']): return Answer(400, dict(title="'content' is invalid"))
        if method=='POST' and path=='posts': return self._create(body)
        if method=='PUT' and (found := re.fullmatch(r'posts/(\d+)', path)): return self._publish(found[1], body)
        return Answer(404, dict(title='Not Found'))

    def fault(self):
        "What goes wrong with the next request; None if nothing does"
        with self.lock: draw = self.rng.random()
        for name,rate in zip(Faults._fields[:-1], self.faults):
            if draw<rate: return name
            draw -= rate

    def outcome(self,
        respond, # Does what was asked
        later, # Takes what is to be done after `faults.lag` seconds
    ):
        "What comes back of a request; None if nothing does"
        fault = self.fault()
        if fault=='drop': return None
        if fault=='lag_drop': return later(respond)
        if fault=='busy': return Answer(429, dict(title='Limit Exceeded'), {'retry-after':'0.2'})
        if fault=='broken': return Answer(500, dict(title='Server Error'))
        answer = respond()
        if fault=='late_drop': return None
        return Answer(502, dict(title='Bad Gateway')) if fault=='late_broken' else answer

class _Server(ThreadingHTTPServer):
    daemon_threads = True
    def handle_error(self, request, client_address): pass # a caller that is killed closes its connection in the middle

def _handler(blog):
    class Handler(BaseHTTPRequestHandler):
        "Reads a request, lets something go wrong, answers"
        protocol_version,timeout = 'HTTP/1.1',30
        def log_message(self, *args): pass

        def do(self):
            body = self.rfile.read(int(self.headers.get('content-length') or 0))
            while blog.hung.is_set(): time.sleep(.02)
            header = self.headers.get('authorization', '')
            if not is_signed(blog.tokens, self.command, f'{blog.url}{self.path}', header): return self.send(Answer(401, dict(title='Unauthorized')))
            url = urlsplit(self.path)
            query = {k:v[0] for k,v in parse_qs(url.query).items()}
            respond = lambda: blog.respond(self.command, url.path, query, json.loads(body or b'{}'))
            answer = blog.outcome(respond, lambda f: threading.Timer(blog.faults.lag, f).start())
            if answer: self.send(answer)
            else: self.drop()

        def drop(self):
            blog.seen[self.command,'dropped'] += 1
            self.close_connection = True

        def send(self, answer):
            blog.seen[self.command,answer.status] += 1
            data = envelope(answer)
            try:
                self.send_response(answer.status)
                for k,v in {'content-type':'application/json', 'content-length':str(len(data)), **answer.headers}.items(): self.send_header(k, v)
                self.end_headers()
                self.wfile.write(data)
            except OSError: self.close_connection = True # the caller was killed

        do_GET = do_POST = do_PUT = do
    return Handler

