"The service: the bundle's answers, refusals that say why, no 5xx, reloads that drop nothing, a page for people"
import asyncio,json,logging,os,shutil,signal,socket,subprocess,sys,threading,time,warnings
import numpy as np,pandas as pd,pytest
for o in ('fastapi','uvicorn','httpx','pyarrow','safetensors'): pytest.importorskip(o)
import httpx
from hypothesis import given,settings,strategies as st
from collab_ext.bundle import Bundle,write_bundle
from collab_ext.features import Features
from collab_ext.content_prior import ContentPrior
from collab_ext.serve import *
from collab_ext.serve_command import *

def make(folder, version=0, n_users=20, n_items=60, k=4):
    "A bundle with rows that depend on content, a fold-in, and one item that nobody has rated"
    rng = np.random.default_rng(0)
    def draw(*shape): return rng.normal(size=shape).astype(np.float32)
    items = pd.DataFrame(dict(item=[f'i{o}' for o in range(n_items+1)], title=[f'Title {o} <b>Ünïcode</b>' for o in range(n_items+1)],
        genre=['abc'[o%3] for o in range(n_items+1)], year=[1980.+o if o%7 else np.nan for o in range(n_items+1)]))
    rows = draw(n_items, k+1)*.3+np.eye(k+1, dtype=np.float32)[np.arange(n_items)%3]
    known = items[:n_items]
    prior = ContentPrior(Features(categories=['genre'], numbers=['year'], item='item')).fit_rows(known, rows, np.full(n_items, 20))
    text,own = prior.to_arrays()
    rows = np.concatenate([rows, prior.embed(items[n_items:])])
    tables = dict(u_weight=draw(n_users, k), u_bias=draw(n_users), i_weight=rows[:,:-1], i_bias=rows[:,-1], u_any=draw(k+1), i_any=draw(k+1),
        seen=np.arange(n_users), seen_start=np.arange(n_users+1), content_json=np.frombuffer(text.encode(), np.uint8), **{f'content.{a}':v for a,v in own.items()})
    tables = {a:np.ascontiguousarray(v, dtype=np.float32 if np.asarray(v).dtype.kind=='f' and not a.startswith('content') else None) for a,v in tables.items()}
    fold = dict(kind='clicks', alpha0=.1, reg=.01, nu=1., count_weight=0., like=1., counts=True)
    info = dict(mean=float(version), y_range=None, fold=fold, content=dict(rated=n_items))
    return write_bundle(folder, tables, pd.DataFrame(dict(user=range(n_users))), items, info)

@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp('serve')
    make(root/'bundles'/'1')
    return root

@pytest.fixture(scope='module')
def shop(folder): return Bundle(folder/'bundles'/'1')

def client_of(app): return httpx.Client(transport=Threaded(app), base_url='http://test')

class Threaded(httpx.BaseTransport):
    "Calls an ASGI application; what it raises is raised"
    def __init__(self, app): self.app = app
    def handle_request(self, request):
        async def call():
            async with httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url='http://test') as client:
                res = await client.send(httpx.Request(request.method, request.url, headers=request.headers, content=request.read()))
                return res.status_code,res.headers,res.content
        status,headers,content = asyncio.run(call())
        return httpx.Response(status, headers=headers, content=content)

@pytest.fixture(scope='module')
def client(folder): return client_of(create_app(Shelf(bundle_finder(folder)), poll=0, max_body=20_000))

# ---- Answers

def labels(answer): return [o['item'] for o in answer['items']]

@pytest.mark.parametrize('asked', [dict(user=3), dict(user=999), dict(user=3, exclude_seen=False, k=100), dict(history=['i1','i7','nowhere']),
    dict(history=[dict(item='i1', rating=2.),'i2'], exclude=['i5']), dict(history=[]), dict(user=3, candidates=['i4','i60','i9'])])
def test_the_bundle_s_answers(client, shop, asked):
    kwargs = {k:v for k,v in asked.items() if k!='history'}
    if 'history' in asked: kwargs['ratings'] = {o['item']:o['rating'] for o in asked['history'] if isinstance(o, dict)} | {o:1. for o in asked['history'] if isinstance(o, str)}
    want = shop.recommend(**kwargs)
    got = client.post('/recommend', json=asked).raise_for_status().json()
    assert labels(got)==want['item'].tolist() and [o['score'] for o in got['items']]==want.score.tolist()
    assert [o['rank'] for o in got['items']]==list(range(1, len(want)+1)) and got['known']==(asked.get('user')!=999 and asked.get('history')!=[])
    for o in got['items']: assert o['about']['title'].startswith('Title') and set(o['about'])=={'title','genre','year'}

def test_many_are_the_same_as_one_at_a_time(client):
    queries = [dict(user=1, k=3), dict(history=['i2'], k=2), dict(user=5)]
    assert client.post('/recommend/many', json=dict(queries=queries)).json()['answers']==[client.post('/recommend', json=o).json() for o in queries]

def test_similar_and_embed(client, shop):
    want = shop.similar_items('i3', k=5)
    got = client.post('/similar', json=dict(items=['i3'], k=5)).json()
    assert labels(got)==want['item'].tolist() and [o['similarity'] for o in got['items']]==want.similarity.tolist()
    works = [dict(genre='b', year=1999), dict(genre='none such', more=1), {}]
    vectors = client.post('/embed', json=dict(works=works)).json()['vectors']
    assert vectors==shop.embed(works).tolist()
    near = client.post('/similar', json=dict(works=works[:1], k=10)).json()
    assert [o['about']['genre'] for o in near['items']].count('b')>=7

def test_items_nobody_has_rated_are_recommended(client): assert 'i60' in labels(client.post('/recommend', json=dict(user=1, k=100)).json())

def test_search(client):
    assert labels(client.get('/items', params=dict(q='title 1', limit=3)).json())==['i1','i10','i11']
    assert labels(client.get('/items', params=dict(q='ÜNÏ', limit=1)).json())==['i0'] and labels(client.get('/items', params=dict(q='\n')).json())==[]

# ---- Refusals

@pytest.mark.parametrize('path,body,status,index,field', [
    ('/recommend', dict(user=1, k=0), 422, None, 'k'), ('/recommend', dict(user=1, history=[]), 422, None, None), ('/recommend', dict(), 422, None, None),
    ('/recommend', dict(user=1, kk=3), 422, None, 'kk'), ('/recommend', dict(user=True), 422, None, 'user'), ('/recommend', dict(user=10**30), 422, None, 'user'),
    ('/recommend', dict(history=['i1',dict(item='i2', rating='5')]), 422, 1, 'rating'), ('/recommend', dict(history=[1.5]), 422, 0, 'history'),
    ('/recommend/many', dict(queries=[dict(user=1),dict(user=2, k='3')]), 422, 1, 'k'), ('/recommend', dict(user='3'), 422, None, None),
    ('/similar', dict(items=['i1','nowhere']), 404, None, None), ('/similar', dict(items=[]), 422, None, None), ('/embed', dict(works=[{},dict(year='soon')]), 422, 1, 'year')])
def test_what_is_wrong_is_named(client, path, body, status, index, field):
    answer = client.post(path, json=body)
    flaw = answer.json()['detail'][0]
    assert answer.status_code==status and (flaw['index'],flaw['field'])==(index,field) and flaw['message']

@pytest.mark.parametrize('content', [b'', b'{', b'[]', b'null', b'\xff', b'{"user": NaN}', b'"a"', b'{"user": "\\ud800"}', b'['*5000, b'{"user": '+b'1'*5000+b'}'])
def test_no_json(client, content): assert client.post('/recommend', content=content).status_code==422

def test_bodies_are_counted(client):
    assert client.post('/recommend', content=b' '*20_001).status_code==413
    def unannounced():
        for _ in range(30): yield b' '*1000
    assert client.post('/recommend', content=unannounced()).status_code==413
    assert client.post('/nowhere', content=b' '*20_001).status_code==413

def test_token(folder, caplog):
    app = create_app(Shelf(bundle_finder(folder)), token='secret-word', poll=0)
    client = client_of(app)
    for header in ({}, dict(authorization='Bearer secret-wor'), dict(authorization='secret-word'), dict(authorization='Bearer é')):
        got = client.post('/recommend', json=dict(user=1), headers={k:v.encode() for k,v in header.items()})
        assert got.status_code==401 and got.headers['www-authenticate']=='Bearer'
    assert client.get('/metrics').status_code==401 and client.get('/health').status_code==200
    assert client.post('/recommend', json=dict(user=1), headers=dict(authorization='Bearer secret-word')).status_code==200

def test_logs_name_nothing_that_was_asked(folder, caplog, monkeypatch):
    client = client_of(create_app(Shelf(bundle_finder(folder)), poll=0))
    def broken(*args): raise RuntimeError('about secret-item')
    with caplog.at_level(logging.INFO), warnings.catch_warnings(record=True) as warned:
        client.post('/recommend', json=dict(history=['secret-item','i1',5]))
        client.get('/items', params=dict(q='secret-item'))
        client.get('/secret-item')
        monkeypatch.setitem(answers, '/similar', answers['/similar']._replace(make=broken))
        assert client.post('/similar', json=dict(items=['secret-item'])).status_code==500
        assert 'secret' not in client.get('/metrics').text
    assert 'RuntimeError at test_serve.py' in caplog.text and 'POST /recommend 200' in caplog.text
    ours = [o.getMessage() for o in caplog.records if o.name!='httpx']
    assert 'secret' not in str(ours)+str([o.message for o in warned])

def test_slow_bodies_and_answers(folder, monkeypatch):
    app = create_app(Shelf(bundle_finder(folder)), poll=0, timeout=.1)
    sent = []
    async def call(receive):
        async def send(message): sent.append(message)
        await app(dict(type='http', method='POST', path='/recommend', headers=[]), receive, send)
    async def never(): await asyncio.sleep(10)
    asyncio.run(call(never))
    assert sent[0]['status']==408
    async def slow(shelf, answer, body): await asyncio.sleep(10)
    monkeypatch.setattr('collab_ext.serve.respond', slow)
    async def whole(): return dict(type='http.request', body=b'{}')
    sent.clear()
    asyncio.run(call(whole))
    assert sent[0]['status']==503

# ---- Any request

@pytest.fixture(scope='module')
def description(client): return client.get('/openapi.json').json()

def test_the_description_names_all_endpoints(description):
    assert set(description['paths'])=={'/recommend','/recommend/many','/similar','/embed','/items','/health','/metrics'}
    for path in answers: assert set(description['paths'][path]['post']['responses'])>={'200','401','404','413','422'}

def test_requests_made_of_the_description(client, description):
    "No request that schemathesis makes of the description is answered with 5xx, or otherwise than described"
    schemathesis = pytest.importorskip('schemathesis')
    from schemathesis.checks import not_a_server_error
    from schemathesis.specs.openapi.checks import content_type_conformance,response_schema_conformance,status_code_conformance
    app = create_app(client._transport.app.shelf, poll=0, max_body=20_000)
    schema = schemathesis.openapi.from_asgi('/openapi.json', app)
    for operation in schema.get_all_operations():
        @settings(max_examples=6, deadline=None)
        @given(case=operation.ok().as_strategy())
        def check(case): case.call_and_validate(checks=[not_a_server_error,content_type_conformance,response_schema_conformance,status_code_conformance])
        check()

words = st.sampled_from(['user','history','k','exclude','candidates','item','items','works','rating','queries','exclude_seen','year','genre'])
leaves = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.sampled_from(['i1','i2']))
anything = st.recursive(leaves, lambda o: st.one_of(st.lists(o, max_size=4), st.dictionaries(words, o, max_size=4)), max_leaves=12)

@settings(max_examples=80)
@given(st.sampled_from(list(answers)), anything)
def test_any_json_is_answered_or_refused(folder, path, body):
    shelf = _shelf(folder)
    status,text = asyncio.run(respond(shelf, answers[path], json.dumps(body).encode()))
    assert status in (200,404,422)
    json.loads(text, parse_constant=lambda o: pytest.fail(f'{o} is no JSON'))

_shelves = {}
def _shelf(folder): return _shelves.setdefault(folder, Shelf(bundle_finder(folder)))

# ---- A process

def free_port():
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]

@pytest.fixture(scope='module')
def server(tmp_path_factory):
    "A service of a folder of versions, as a process; its address and folder"
    tmp_path = tmp_path_factory.mktemp('server')
    make(tmp_path/'bundles'/'1', 1)
    port = free_port()
    code = 'import sys;from collab_ext.cli import main;sys.exit(main())'
    log = tmp_path/'log' # a file, for a pipe that nobody reads fills up and stops the service
    with log.open('w') as f: process = subprocess.Popen([sys.executable,'-c',code,'serve','--root',str(tmp_path),'--port',str(port),'--poll','.1'], stderr=f)
    url = f'http://127.0.0.1:{port}'
    for _ in range(600):
        try:
            httpx.get(url+'/health')
            break
        except httpx.ConnectError: time.sleep(.1)
        assert process.poll() is None, log.read_text()
    yield url,tmp_path,process
    if process.poll() is None: process.kill()
    process.wait()

# ---- The page, in a browser

class Browser:
    "Chromium, over the pipe of its DevTools protocol"
    def __init__(self, program, profile):
        (theirs_in,self.out),(self.inp,theirs_out) = os.pipe(),os.pipe()
        def place():
            a,b = os.dup(theirs_in),os.dup(theirs_out)
            os.dup2(a, 3), os.dup2(b, 4)
        args = ['--headless=new','--no-sandbox','--disable-gpu','--disable-dev-shm-usage','--remote-debugging-pipe',f'--user-data-dir={profile}']
        self.process = subprocess.Popen([program,*args], preexec_fn=place, close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(theirs_in), os.close(theirs_out)
        self.n,self.rest,self.session = 0,b'',None
        target = self.call('Target.createTarget', url='about:blank')['targetId']
        self.session = self.call('Target.attachToTarget', targetId=target, flatten=True)['sessionId']
        self.call('Page.enable')

    def call(self, method, **params):
        self.n += 1
        message = dict(id=self.n, method=method, params=params, **(dict(sessionId=self.session) if self.session else {}))
        os.write(self.out, json.dumps(message).encode()+b'\0')
        while True:
            while b'\0' not in self.rest:
                part = os.read(self.inp, 65536)
                if not part: raise ConnectionError('the browser has gone')
                self.rest += part
            line,_,self.rest = self.rest.partition(b'\0')
            answer = json.loads(line)
            if answer.get('id')==self.n:
                assert 'error' not in answer, answer
                return answer['result']

    def js(self, code): return self.call('Runtime.evaluate', expression=code, returnByValue=True, awaitPromise=True)['result'].get('value')
    def until(self, code, seconds=20):
        for _ in range(seconds*20):
            if self.js(code): return
            time.sleep(.05)
        raise AssertionError(f'never true: {code}; {self.js("document.body.innerText")}')
    def press(self, key, code):
        for kind in ('keyDown','keyUp'): self.call('Input.dispatchKeyEvent', type=kind, key=key, code=key, windowsVirtualKeyCode=code, **(dict(text='\r') if key=='Enter' and kind=='keyDown' else {}))
    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self.out), os.close(self.inp)

@pytest.fixture
def browser(tmp_path):
    program = shutil.which('chromium')
    if program is None: pytest.skip('there is no chromium')
    res = Browser(program, tmp_path/'profile')
    yield res
    res.close()

def test_a_person_finds_chooses_and_removes(server, browser):
    url,root,_ = server
    browser.call('Page.navigate', url=url)
    browser.until("document.readyState=='complete' && document.getElementById('status').textContent=='Nothing is chosen yet.'")
    browser.js("document.getElementById('q').focus()")
    browser.call('Input.insertText', text='title 7')
    browser.until("document.querySelectorAll('#found button').length==1")
    browser.press('Tab', 9)
    assert browser.js("document.activeElement.textContent").startswith('Title 7 <b>Ünïcode</b>'), "text of an item is text"
    browser.press('Enter', 13)
    browser.until("document.querySelectorAll('#shown li').length==10")
    shop = Bundle(root/'bundles'/'1')
    want = shop.recommend(ratings=['i7']).title.tolist()
    assert browser.js("[...document.querySelectorAll('#shown li')].map(o => o.firstChild.textContent)")==want
    assert browser.js("document.querySelectorAll('b').length")==0
    assert json.loads(browser.js("decodeURIComponent(location.hash.slice(1))"))==['i7']
    names = [o['name']['value'] for o in browser.call('Accessibility.getFullAXTree')['nodes'] if o.get('role', {}).get('value') in ('button','searchbox')]
    assert names[0]=='Search' and any(o.startswith('Remove Title 7') for o in names)
    browser.js("document.querySelector('#liked button').click()")
    browser.until("document.getElementById('status').textContent=='Nothing is chosen yet.'")
    assert browser.js("document.activeElement.id")=='q'

def contrast(a, b):
    "Of two colours such as 'rgb(1, 2, 3)' (WCAG 2)"
    def luminance(o):
        parts = [int(c)/255 for c in o[o.index('(')+1:-1].split(',')[:3]]
        linear = [c/12.92 if c<=.03928 else ((c+.055)/1.055)**2.4 for c in parts]
        return sum(w*c for w,c in zip((.2126,.7152,.0722), linear))
    dark,light = sorted([luminance(a),luminance(b)])
    return (light+.05)/(dark+.05)

def test_both_themes_can_be_read(server, browser):
    url,*_ = server
    seen = []
    for theme in ('light','dark'):
        browser.call('Emulation.setEmulatedMedia', features=[dict(name='prefers-color-scheme', value=theme)])
        browser.call('Page.navigate', url=url)
        browser.until("document.readyState=='complete' && document.getElementById('status').textContent")
        colours = browser.js("['body','p','#status'].map(o => getComputedStyle(document.querySelector(o)).color).concat([getComputedStyle(document.body).backgroundColor])")
        seen.append(colours)
        assert min(contrast(o, colours[-1]) for o in colours[:-1])>=4.5
    assert seen[0]!=seen[1]

# ---- Reloads, and the end

def test_reloads_drop_nothing_and_the_end_is_clean(server):
    url,root,process = server
    seen,failed,stop = [],[],threading.Event()
    def ask():
        with httpx.Client() as client:
            while not stop.is_set():
                try:
                    answer = client.post(url+'/recommend', json=dict(history=['i1','i2'], k=2)).raise_for_status().json()
                    base = int(answer['bundle'])
                    seen.append(base)
                    if not base-3<answer['items'][0]['score']<base+3: failed.append(answer)
                except Exception as e: failed.append(e)
    threads = [threading.Thread(target=ask) for _ in range(3)]
    for o in threads: o.start()
    for version in (2,10,11):
        make(root/'.next', version)
        os.rename(root/'.next', root/'bundles'/str(version))
        for _ in range(300):
            if version in seen: break
            time.sleep(.05)
    (root/'bundles'/'12').mkdir()
    (root/'bundles'/'12'/'bundle.json').write_text('{}')
    time.sleep(.4)
    n = len(seen)
    time.sleep(.2)
    stop.set()
    for o in threads: o.join()
    assert not failed and len(seen)>n and sorted(set(seen))==[1,2,10,11] and seen[-1]==11
    assert 'collab_ext_reloads_total{result="ok"} 3' in httpx.get(url+'/metrics').text
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) in (0,-signal.SIGTERM)
    assert 'Traceback' not in (root/'log').read_text()
