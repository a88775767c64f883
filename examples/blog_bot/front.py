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

def _ask(post):
    "An ask as the switchboard takes it"
    blocks,who = ask_of(post)
    text = shortened(text_of(blocks), most_chars)
    return dict(key=f"ask:{post['id_string']}", kind='ask', text=text, who=_name(who), asked=post['timestamp'], target=post['id_string'])

def _reply(o):
    "A reply as the switchboard takes it"
    text = shortened(plain_text(o.get('reply_text') or ''), most_chars)
    return dict(key=f"reply:{plain_id(o['id'])}", kind='reply', text=text, who=_name(o.get('from_tumblelog_name')), asked=o['timestamp'],
        target=str(o.get('target_post_id')))

def _name(who): return who[:100] if who else None

def chunks(asks, chars):
    "Lists of asks that have about so many characters together"
    res,size = [],0
    for o in asks:
        res.append(o)
        size += len(o['text'])
        if size>=chars or len(res)==100:
            yield res
            res,size = [],0
    if res: yield res

class Front:
    "Between a blog and the switchboard"
    def __init__(self, config,
        blog=None, # A `Tumblr`; that of the settings by default
        switchboard=None, # A `Peer`
        clock=time.time, # Seconds since 1970
    ):
        self.config,self.clock = config,clock
        self.blog = blog or Tumblr(config)
        self.switchboard = switchboard or Peer('switchboard', config.switchboard.port)
        self.quiet_until,self.outages = 0.,0
        self.trouble = Counter()
        self.known = set() # Keys that the switchboard has, so that it is not told again
        t = config.tumblr
        self.may_send = 3*t.timeout_seconds                  # Seconds after a claim in which a post may be sent
        self.lease = 2*self.may_send+t.settle_seconds        # Then it has landed or never will

    # From the blog

    def poll(self):
        "Tell the switchboard what is new"
        for page in self.blog.asks():
            self.outages = 0
            self.take_in(map(_ask, page))
        since = self.switchboard.call('/note', dict(name='replies_since', default=self.clock()-86_400))['value']
        replies = [_reply(o) for o in self.blog.replies(since-60)]
        self.take_in(replies)
        newest = max((o['asked'] for o in replies), default=since)
        if newest>since: self.switchboard.call('/set_note', dict(name='replies_since', value=newest))

    def take_in(self, asks):
        "Tell the switchboard of asks that it may not know"
        fresh = [o for o in asks if o['key'] not in self.known]
        for some in chunks(fresh, most_chars):
            new = self.switchboard.call('/put_all', dict(asks=some))['new']
            if new: log.info('%s of %s asks are new', new, len(some))
            self.known.update(o['key'] for o in some)

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
        "Poll and post until told to stop; looking takes at most a fifth of the time while there is something to post"
        next_poll = 0.
        while True:
            start = self.clock()
            if start>=next_poll:
                self._tried(self.poll)
                next_poll = self.clock()+max(self.config.blog.poll_seconds, 4*(self.clock()-start))
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
