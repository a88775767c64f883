"""The front: brings asks and replies from the blog to the switchboard, and answers from the switchboard to the blog

It keeps nothing. An ask stays on the blog until it is answered, and an answer stays with the switchboard until the front says where it is;
so the front may be killed between any two lines. Before it posts what may have been posted, it looks for it."""
import hashlib,logging,re,time
from collections import Counter
from .service import Away,Peer,Wrong
from .texts import plain_text,shortened
from .tumblr import Refused,Tumblr,Unsure,ask_of,text_of

log = logging.getLogger('blog_bot')
most_chars = 100_000 # The most of an ask that is kept

def plain_id(id):
    "An id as a part of a key"
    return str(id) if re.fullmatch(r'[\w\-.]{1,90}', str(id)) else hashlib.sha256(str(id).encode()).hexdigest()

class Front:
    "Between a blog and the switchboard"
    def __init__(self, config,
        blog=None, # A `Tumblr`; that of the settings by default
        switchboard=None, # A `Peer`
        clock=time.time, # Seconds since 1970
    ):
        self.config,self.clock = config,clock
        self.blog = blog or Tumblr(config)
        self.switchboard = switchboard or Peer(config.switchboard.port)
        self.quiet_until,self.outages = 0.,0
        self.trouble = Counter()
        self.known = set() # Keys that the switchboard has, so that it is not told again
        t = config.tumblr
        self.may_send = 3*t.timeout_seconds                  # Seconds after a claim in which a post may be sent
        self.lease = 2*self.may_send+t.settle_seconds        # Then it has landed or never will

    # From the blog

    def poll(self):
        "Tell the switchboard what is new"
        asks = self.blog.asks()
        self.outages = 0
        self.known &= {f"ask:{o['id_string']}" for o in asks}
        for post in asks:
            blocks,who = ask_of(post)
            self._put(f"ask:{post['id_string']}", 'ask', text_of(blocks), who, post['timestamp'], post['id_string'])
        since = self.switchboard.call('/note', dict(name='replies_since', default=self.clock()-86_400))['value']
        newest = since
        for o in self.blog.replies(since-60):
            self._put(f"reply:{plain_id(o['id'])}", 'reply', plain_text(o.get('reply_text') or ''), o.get('from_tumblelog_name'), o['timestamp'], str(o.get('target_post_id')))
            newest = max(newest, o['timestamp'])
        if newest>since: self.switchboard.call('/set_note', dict(name='replies_since', value=newest))

    def _put(self, key, kind, text, who, asked, target):
        if key in self.known: return
        body = dict(key=key, kind=kind, text=shortened(text, most_chars), who=(who or '')[:100] or None, asked=asked, target=target)
        if self.switchboard.call('/put', body)['new']: log.info('%s is taken in', key)
        self.known.add(key)

    # To the blog

    def post_next(self):
        "Post one answer; is there more to do?"
        if self.clock()<self.quiet_until: return False
        claimed = self.clock()
        ask = self.switchboard.call('/claim_posting', dict(seconds=self.lease))['ask']
        if ask is None: return False
        held = dict(key=ask['key'], lease=ask['lease'])
        try: id = self._on_the_blog(ask, claimed)
        except Refused as e: self._refused(ask, held, e)
        except Unsure as e:
            self._rest()
            self.switchboard.call('/unsure', dict(held, error=str(e), seconds=self.config.tumblr.settle_seconds))
        else:
            self.outages = 0
            self.switchboard.call('/posted', dict(key=ask['key'], post_id=id))
            log.info('%s is answered by post %s', ask['key'], id)
        return True

    def _on_the_blog(self, ask, claimed):
        "The id of the answer's post, made now or before"
        if ask['again']:
            try: found = self.blog.find(ask['key'], ask['posting_since'])
            except (Refused,Unsure) as e: raise Refused(f"can't look for it: {e}", 0, getattr(e, 'wait', None)) from None
            if found: return found
            self.switchboard.call('/not_there', dict(key=ask['key'], lease=ask['lease']))
        if self.clock()-claimed>self.may_send: raise Refused("it took too long to look for it", 0)
        text,state = ask['draft']['text'],ask['draft']['state']
        if ask['kind']=='ask': return self.blog.answer(ask['target'], ask['key'], text, state)
        return self.blog.publish(ask['key'], text, state, ask['text'], ask['who'])

    def _refused(self, ask, held, e):
        "The blog did nothing: who is to blame decides what follows"
        if e.status in (0,401,429) or 'limit' in str(e):
            self._rest(e.wait, first=30 if e.status==401 else None)
            log.warning('%s waits: %s', ask['key'], e)
            self.switchboard.call('/give_back', dict(held, error=str(e), wait=e.wait or self.config.switchboard.backoff_seconds))
        elif e.status==404: self.switchboard.call('/die', dict(held, error="it is not on the blog any more: it was deleted, or answered by hand"))
        else: self.switchboard.call('/failed', dict(held, error=str(e), wait=e.wait))

    def _rest(self, wait=None, first=None):
        "Leave the blog alone for a while, longer each time"
        self.outages += 1
        first = first or self.config.switchboard.backoff_seconds
        self.quiet_until = self.clock() + (wait if wait is not None else min(600., first*2**min(self.outages-1, 20)))

    # For ever

    def run(self):
        "Poll and post until told to stop"
        next_poll = 0.
        while True:
            if self.clock()>=next_poll:
                self._tried(self.poll)
                next_poll = self.clock()+self.config.blog.poll_seconds
            while self._tried(self.post_next) and self.clock()<next_poll: pass
            time.sleep(min(1., self.config.blog.poll_seconds))

    def _tried(self, step):
        "Take a step; trouble is logged when it comes a second time, and not each time"
        try: res = step()
        except (Refused,Unsure,Away,Wrong) as e:
            self.trouble[step.__name__,str(e)] += 1
            if self.trouble[step.__name__,str(e)]==2: log.warning('%s', e)
            return False
        for o in [o for o in self.trouble if o[0]==step.__name__]: del self.trouble[o]
        return res

def run(config): Front(config).run()
