"What the switchboard and the model service have in common: who may ask, how much, and how they answer"
import hmac,json,logging,os,sys
import httpx,uvicorn
from collab_ext.serve import TooLarge,read_body

log = logging.getLogger('blog_bot')
token_name = 'BLOG_BOT_TOKEN' # The environment variable with the word by which the three processes know each other

class Away(Exception):
    "Another process is not there, or too busy: `wait` are the seconds it asks for"
    def __init__(self, message, wait=None):
        super().__init__(message)
        self.wait = wait

class Wrong(Exception):
    "Another process refuses a request, and would again"
    def __init__(self, message, status):
        super().__init__(message)
        self.status = status

class Peer:
    "Another of the three processes"
    def __init__(self, name, port, timeout=10.):
        self.name = name
        headers = {'authorization':f'Bearer {os.environ.get(token_name, "")}'}
        self.http = httpx.Client(base_url=f'http://127.0.0.1:{port}', timeout=timeout, headers=headers)

    def call(self, path, body=None):
        "The answer to a request, as plain data"
        try: answer = self.http.post(path, json=body or {})
        except httpx.HTTPError as e: raise Away(f"the {self.name} gives no answer to {path}: {type(e).__name__}") from None
        if answer.status_code in (429,500,502,503,504,507): raise Away(f"the {self.name} can't do {path} now: {_detail(answer)}", _wait(answer))
        if answer.status_code>=400: raise Wrong(f"the {self.name} refuses {path}: {_detail(answer)}", answer.status_code)
        return answer.json()

    def is_up(self):
        "Is it there?"
        try: return self.http.get('/health').status_code==200
        except httpx.HTTPError: return False

def _detail(answer):
    try: return str(answer.json()['detail'])[:300]
    except (ValueError,KeyError,TypeError): return f'status {answer.status_code}'

def _wait(answer):
    try: return float(answer.headers['retry-after'])
    except (KeyError,ValueError): return None

class Guard:
    "Lets in who brings the token, up to a size, and says what went wrong without saying what was asked"
    def __init__(self, app, max_body=4_000_000):
        self.app,self.max_body = app,max_body
        self.token = b'Bearer '+os.environ.get(token_name, '').encode()

    async def __call__(self, scope, receive, send):
        if scope['type']!='http': return await self.app(scope, receive, send)
        headers = dict(scope['headers'])
        if scope['path']!='/health' and not hmac.compare_digest(headers.get(b'authorization', b''), self.token):
            return await _send(send, 401, "only the bot's own processes may ask")
        try: body = await read_body(receive, self.max_body)
        except TooLarge: return await _send(send, 413, f"the body has more than {self.max_body} bytes")
        pending = [dict(type='http.request', body=body, more_body=False)]
        async def replay(): return pending.pop() if pending else await receive()
        await self.app(scope, replay, send)

async def _send(send, status, detail):
    body = json.dumps(dict(detail=detail)).encode()
    headers = [(b'content-type',b'application/json'), (b'content-length',str(len(body)).encode()), (b'connection',b'close')]
    await send(dict(type='http.response.start', status=status, headers=headers))
    await send(dict(type='http.response.body', body=body))

unusable = 78 # Exit status of a process that can't work with what it was given (EX_CONFIG of sysexits.h)

def serve(create_app, config, port):
    "Answer on this machine until told to stop; what can't be opened is said in one line"
    try: app = create_app(config)
    except (ValueError,OSError,ImportError) as e:
        log.error("it can't start: %s", e)
        log.debug('', exc_info=True)
        sys.exit(unusable)
    uvicorn.run(Guard(app), host='127.0.0.1', port=port, log_config=None, access_log=False, timeout_graceful_shutdown=2)
