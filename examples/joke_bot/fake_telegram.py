"""A stand-in for the Telegram Bot API over HTTP, for tests of any bot in any language; it needs the standard library only

    with FakeTelegram() as tg:
        bot = telegram.Bot(tg.token, base_url=f'{tg.url}/bot')  # or aiogram's TelegramAPIServer.from_base(tg.url)
        tg.say('/joke', chat=7, person=7)
        tg.wait(lambda: tg.sent)
        tg.press(tg.sent[0], '👍', person=7)
        tg.fail('sendMessage', status=429, retry_after=1)

It refuses what Telegram refuses: other tokens (401), methods it does not know (404), empty messages, long ones, and long button data (400),
answers to presses that never were (400), two pollers (409). Updates are delivered again until a later `offset` confirms them."""
import json,threading,time
from dataclasses import dataclass,field
from email.parser import BytesParser
from http.server import BaseHTTPRequestHandler,ThreadingHTTPServer
from urllib.parse import parse_qsl

class ApiError(Exception):
    def __init__(self, status, description, **parameters):
        self.status = status
        self.body = dict(ok=False, error_code=status, description=description)
        if parameters: self.body['parameters'] = parameters

@dataclass
class Sent:
    "A message of the bot"
    message_id:int
    chat:int
    text:str
    buttons:list = field(default_factory=list) # (label, data) of the inline keyboard, row by row
    time:float = 0. # `time.monotonic()` of its arrival
    params:dict = field(default_factory=dict)

@dataclass
class Fault:
    method:str # '*' for all
    times:int
    status:int = 0 # 0: none, only slow
    retry_after:int = 0
    seconds:float = 0.
    body:bytes = None # An answer that is no JSON
    drop:bool = False # Close the connection without an answer
    after:bool = False # Do what was asked first, then fail

class FakeTelegram:
    "The other side of a bot: people who type and press, and a service that fails when told to"
    def __init__(self, token='123456789:FAKE-TOKEN-for-tests-only-AAAAAAAAA', username='fake_joke_bot', port=0):
        self.token,self.username = token,username
        self.changed = threading.Condition()
        self.updates,self.sent,self.answers,self.calls,self.faults = [],[],[],[],[]
        self.last_update,self.last_message,self.polls = 1000,0,0
        self.presses = set()
        fake = self
        class Handler(_Handler): api = fake
        self.server = _Server(('127.0.0.1', port), Handler)
        self.url = f'http://127.0.0.1:{self.server.server_address[1]}'
        self.thread = threading.Thread(target=self.server.serve_forever, kwargs=dict(poll_interval=.05), daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *args):
        self.server.shutdown()
        self.server.server_close()

    # People

    def raw(self, update):
        "Queue an update as it is, malformed or not"
        with self.changed:
            self.updates.append(update)
            self.changed.notify_all()
        return update

    def update(self, **kind):
        with self.changed:
            self.last_update += 1
            self.raw(dict(update_id=self.last_update, **kind))
            return self.last_update

    def say(self, text, chat=1, person=None, **extra):
        "A person types, or sends something else, such as `say(None, photo=[dict(file_id='a', …)])`; → the number of the update"
        person = chat if person is None else person
        with self.changed:
            self.last_message += 1
            message = dict(message_id=self.last_message, date=int(time.time()), chat=_chat(chat), **{'from':_user(person)}, **extra)
            if text is not None: message['text'] = text
            if text and text.startswith('/'): message['entities'] = [dict(type='bot_command', offset=0, length=len(text.split()[0]))]
            return self.update(message=message)

    def press(self, message, button, person=None):
        "A person presses the button with this label, or of this number"
        labels = [o for o,_ in message.buttons]
        i = labels.index(button) if isinstance(button, str) else button
        return self.press_data(message.buttons[i][1], message.chat, person, message.message_id)

    def press_data(self, data, chat=1, person=None, message_id=1):
        "A press with any data, such as a forged one"
        person = chat if person is None else person
        with self.changed:
            id = str(self.last_update+1)
            self.presses.add(id)
            message = dict(message_id=message_id, date=int(time.time()), chat=_chat(chat), text='…', **{'from':self.me})
            query = dict(id=id, chat_instance='1', data=data, message=message, **{'from':_user(person)})
            return self.update(callback_query=query)

    # Faults

    def fail(self, method, times=1, **fault):
        "The next `times` calls of a method fail: see `Fault`"
        with self.changed: self.faults.append(Fault(method, times, **fault))

    def slow(self, method, seconds, times=1): self.fail(method, times, seconds=seconds)

    def wait(self, done, timeout=10):
        "Wait until `done()` is true; whether it became so"
        end = time.monotonic()+timeout
        with self.changed:
            while not done():
                left = end-time.monotonic()
                if left<=0: return False
                self.changed.wait(min(left, .1))
            return True

    def sent_to(self, chat): return [o for o in self.sent if o.chat==chat]

    @property
    def me(self): return dict(id=int(self.token.split(':')[0]), is_bot=True, first_name='Fake', username=self.username)

    # Methods of the API

    def call(self, token, method, params):
        if token!=self.token: raise ApiError(401, 'Unauthorized')
        f = getattr(self, f'api_{method.lower()}', None)
        if not f: raise ApiError(404, 'Not Found: method not found')
        with self.changed:
            self.calls.append((method, params))
            fault = next((o for o in self.faults if o.times and o.method.lower() in (method.lower(),'*')), None)
            if fault: fault.times -= 1
        if fault and fault.seconds: time.sleep(fault.seconds)
        if fault and not fault.after: self._fail(fault)
        res = f(params)
        if fault and fault.after: self._fail(fault)
        return res

    def _fail(self, fault):
        if fault.drop: raise ConnectionAbortedError
        if fault.body is not None: raise _NoJson(fault.status or 200, fault.body)
        if fault.status==429: raise ApiError(429, f'Too Many Requests: retry after {fault.retry_after}', retry_after=fault.retry_after)
        if fault.status: raise ApiError(fault.status, 'Internal Server Error' if fault.status>=500 else 'Bad Request: told to fail')

    def api_getme(self, params): return self.me

    def api_deletewebhook(self, params): return True

    def api_setmycommands(self, params): return True

    def api_sendchataction(self, params): return True

    def api_getupdates(self, params):
        offset = int(params.get('offset') or 0)
        limit = min(max(int(params.get('limit') or 100), 1), 100)
        end = time.monotonic()+float(params.get('timeout') or 0)
        with self.changed:
            self.polls += 1
            mine = self.polls
            if offset: self.updates = [o for o in self.updates if not _confirmed(o, offset)]
            self.changed.notify_all()
            while not self.updates and time.monotonic()<end:
                self.changed.wait(max(0, min(end-time.monotonic(), .1)))
                if self.polls!=mine: raise ApiError(409, 'Conflict: terminated by other getUpdates request')
            return self.updates[:limit]

    def api_sendmessage(self, params):
        chat,text = _number(params.get('chat_id')),params.get('text') or ''
        if chat is None: raise ApiError(400, 'Bad Request: chat not found')
        if not text.strip(): raise ApiError(400, 'Bad Request: message text is empty')
        if len(text.encode('utf-16-le'))//2>4096: raise ApiError(400, 'Bad Request: message is too long')
        rows = (_loaded(params.get('reply_markup')) or {}).get('inline_keyboard', [])
        buttons = [(o['text'], o.get('callback_data', '')) for row in rows for o in row]
        if any(not 1<=len(data.encode())<=64 for _,data in buttons): raise ApiError(400, 'Bad Request: BUTTON_DATA_INVALID')
        with self.changed:
            self.last_message += 1
            sent = Sent(self.last_message, chat, text, buttons, time.monotonic(), params)
            self.sent.append(sent)
            self.changed.notify_all()
        return dict(message_id=sent.message_id, date=int(time.time()), chat=_chat(chat), text=text, **{'from':self.me})

    def api_answercallbackquery(self, params):
        id = str(params.get('callback_query_id'))
        with self.changed:
            if id not in self.presses: raise ApiError(400, 'Bad Request: query is too old and response timeout expired or query ID is invalid')
            self.answers.append((int(id), params.get('text')))
            self.changed.notify_all()
        return True

class _NoJson(Exception): pass

class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256
    def handle_error(self, *args): pass # a bot that was killed leaves broken connections

class _Handler(BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    disable_nagle_algorithm = True
    api = None
    def log_message(self, *args): pass

    def do_POST(self):
        raw = self.rfile.read(int(self.headers.get('content-length') or 0))
        path,_,query = self.path.partition('?')
        _,bot,method = (path.split('/')+['',''])[:3]
        params = {**dict(parse_qsl(query)), **_params(raw, self.headers.get('content-type', ''))}
        try: status,body = 200,dict(ok=True, result=self.api.call(bot.removeprefix('bot'), method, params))
        except ApiError as e: status,body = e.status,e.body
        except _NoJson as e: status,body = e.args
        except ConnectionAbortedError:
            self.close_connection = True
            return
        if not isinstance(body, bytes): body = json.dumps(body).encode()
        self.send_response(status)
        self.send_header('content-type', 'application/json')
        self.send_header('content-length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST

def _params(raw, kind):
    "Parameters, in any of the three forms that Telegram takes"
    if not raw: return {}
    if 'application/json' in kind: return json.loads(raw)
    if 'multipart/form-data' in kind:
        parts = BytesParser().parsebytes(f'content-type: {kind}\r\n\r\n'.encode()+raw).get_payload()
        return {o.get_param('name', header='content-disposition'):o.get_payload(decode=True).decode(errors='replace') for o in parts}
    return dict(parse_qsl(raw.decode(errors='replace'), keep_blank_values=True))

def _loaded(o): return json.loads(o) if isinstance(o, str) and o else o

def _number(o):
    try: return int(o)
    except (TypeError,ValueError): return None

def _confirmed(update, offset):
    "Was an update confirmed? One without a number never is, except by whoever can't be confirmed to"
    id = update.get('update_id') if isinstance(update, dict) else None
    return not isinstance(id, int) or id<offset

def _user(person): return dict(id=person, is_bot=False, first_name=f'Person {person}')

def _chat(chat): return dict(id=chat, type='private', first_name=f'Chat {chat}') if chat>0 else dict(id=chat, type='group', title='Group')
