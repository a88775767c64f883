"""The part of Tumblr's API that the bot uses (https://www.tumblr.com/docs/en/api/v2), with OAuth 1 and time-outs

The clients on PyPI (pytumblr 0.1.2, pytumblr2 0.2.4) were last released in 2023, wait for ever for a service that does not answer, and
return errors as data; so this is a thin client on httpx, and oauthlib signs its requests. Posts are in the Neue Post Format, where text is
plain: markup that somebody writes is shown, not obeyed."""
import hashlib,httpx
from oauthlib.oauth1 import Client as Signer
from .texts import plain_text

class Refused(Exception):
    "The service answered that it did nothing; `wait` are the seconds it asks for"
    def __init__(self, message, status, wait=None):
        super().__init__(message)
        self.status,self.wait = status,wait

class Unsure(Exception):
    "No answer, or a broken one: the request may have had its effect"

_remedies = {401:"Tumblr does not accept the tokens in [tumblr]: make new ones and start the bot again",
    403:"Tumblr does not let these tokens do that: is `name` in [blog] the blog they were made for?",
    404:"Tumblr has no such blog or post", 429:"Tumblr had too many requests: the bot waits"}

block_chars = 4096 # The most that a text block may hold

def text_blocks(text):
    "A text as blocks of NPF, a paragraph each"
    parts = [o for line in text.split('\n') if line.strip() for o in (line[i:i+block_chars] for i in range(0, len(line), block_chars))]
    return [dict(type='text', text=o) for o in parts]

def text_of(blocks):
    "The plain text of blocks of NPF"
    return '\n'.join(plain_text(o.get('text') or '') for o in blocks if isinstance(o, dict) and o.get('type')=='text').strip()

def ask_of(post):
    "Which blocks of a post are the ask, and who asked (None if nobody says)"
    layout = next((o for o in post.get('layout') or [] if o.get('type')=='ask'), None)
    if layout is None: return [],post.get('asking_name')
    who = ((layout.get('attribution') or {}).get('blog') or {}).get('name') or post.get('asking_name')
    return [post['content'][i] for i in layout['blocks'] if i<len(post['content'])],who

def tag_of(key):
    "The tag by which an answer is found again: made of the ask's key, and nothing else's"
    return 're ' + hashlib.sha256(key.encode()).hexdigest()[:16]

class Tumblr:
    "One blog"
    def __init__(self,
        config, # As `read_config` gives it
    ):
        t = config.tumblr
        self.blog,self.settle = config.blog.name,t.settle_seconds
        self.timeout = t.timeout_seconds
        self.signer = Signer(*(o.reveal() for o in (t.consumer_key, t.consumer_secret, t.oauth_token, t.oauth_secret)))
        self.http = httpx.Client(base_url=t.api, timeout=self.timeout, headers={'user-agent':'collab_ext blog_bot'})

    def close(self): self.http.close()

    def call(self, method, path, params=None, body=None):
        "The `response` of a call; `Refused` if it surely had no effect, `Unsure` otherwise"
        request = self.http.build_request(method, f'/v2/blog/{self.blog}/{path}', params=params, json=body)
        _,signed,_ = self.signer.sign(str(request.url), method)
        request.headers['authorization'] = signed['Authorization']
        try: answer = self.http.send(request)
        except (httpx.ConnectError,httpx.ConnectTimeout): raise Refused("Tumblr can't be reached", 0) from None
        except httpx.HTTPError as e: raise Unsure(f"Tumblr gives no answer: {type(e).__name__}") from None
        return self._read(answer)

    def _read(self, answer):
        status = answer.status_code
        if status>=500: raise Unsure(f"Tumblr had an error of its own ({status})")
        if status>=400: raise Refused(_remedies.get(status, f"Tumblr refused it ({status}{_reason(answer)})"), status, _wait(answer))
        try: return answer.json()['response']
        except (ValueError,KeyError,TypeError): raise Unsure("the answer is not what Tumblr's API promises") from None

    def info(self):
        "What Tumblr says of the blog: fails if the tokens are wrong"
        return self.call('GET', 'info')

    def asks(self):
        "Pages of the asks that wait for an answer"
        seen = set()
        while page := self.call('GET', 'posts/submission', dict(npf='true', offset=len(seen)))['posts']:
            if seen.issuperset(o['id_string'] for o in page): return
            seen.update(o['id_string'] for o in page)
            yield page

    def replies(self, since):
        "Replies after a time, the oldest first"
        res,before = {},None
        while True:
            params = {'types[0]':'reply', 'rollups':'false', **({'before':before} if before else {})}
            page = self.call('GET', 'notifications', params)['notifications']
            recent = [o for o in page if o['timestamp']>=since]
            fresh = [o for o in recent if o['id'] not in res]
            if not recent: return sorted(list(res.values())[::-1], key=lambda o: o['timestamp'])
            res.update((o['id'], o) for o in fresh)
            before = min(o['timestamp'] for o in page) + (1 if fresh else 0) # those of one second may go on on the next page

    def posts(self, **paging):
        "A page of posts with their notes, the newest first; by `before` (a time) or `offset`"
        return self.call('GET', 'posts', dict(npf='true', notes_info='true', limit=20, **paging))['posts']

    def find(self, key, since):
        "The id of the post that answers an ask, published or a draft, not older than `since`; None if there is none"
        tag,offset = tag_of(key),0
        while page := self.posts(offset=offset):
            found = next((o for o in page if tag in o['tags']), None)
            if found: return found['id_string']
            if page[-1]['timestamp']<since-3600: break
            offset += len(page)
        return self._find_draft(tag)

    def _find_draft(self, tag):
        before,page = 0,True
        while page:
            page = self.call('GET', 'posts/draft', dict(npf='true', before_id=before))['posts']
            found = next((o for o in page if tag in o['tags']), None)
            if found: return found['id_string']
            before = page[-1]['id_string'] if page else 0

    def answer(self, ask_id, key, text, state):
        "Answer an ask; the id of the post"
        post = self.call('GET', f'posts/{ask_id}', dict(npf='true'))
        if post.get('state') in ('published','draft'): return post['id_string'] # somebody has answered it
        asked,_ = ask_of(post)
        body = dict(content=asked+text_blocks(text), layout=_ask_layout(post, len(asked)), state=state, tags=tag_of(key))
        return self._id(self.call('PUT', f'posts/{ask_id}', body=body))

    def publish(self, key, text, state, quoted=None, who=None):
        "Make a post, under the words of a reply if it answers one; its id"
        quote = [dict(type='text', subtype='indented', text=f"{who or 'somebody'}: {quoted}"[:block_chars])] if quoted else []
        return self._id(self.call('POST', 'posts', body=dict(content=quote+text_blocks(text), state=state, tags=tag_of(key))))

    def _id(self, response):
        if not isinstance(response, dict) or 'id' not in response: raise Unsure("the answer names no post")
        return str(response['id'])

def _ask_layout(post, n):
    "The layout of an ask, as it was, now that its blocks come first"
    return [dict(o, blocks=list(range(n))) for o in post.get('layout') or [] if o.get('type')=='ask']

def _reason(answer):
    try: return ': ' + str(answer.json()['errors'][0]['title'])[:200]
    except (ValueError,KeyError,TypeError,IndexError): return ''

def _wait(answer):
    "Seconds that the service asks for"
    try: return min(3600., max(0., float(answer.headers['retry-after'])))
    except (KeyError,ValueError): return None
