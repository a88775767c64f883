"""Telegram: updates come by long polling, are kept on disk before they are confirmed, and leave the disk when they are answered

So a kill at any moment loses nothing: Telegram delivers again what was not confirmed, and the store has the rest. What was being answered
when the bot was killed is answered at the next start; if the message was out and only its receipt was missing, a person sees it twice."""
import asyncio,logging,os,sqlite3
os.environ.setdefault('PTB_TIMEDELTA', 'true') # `retry_after` as PTB is going to give it
import httpx
from telegram import Bot,InlineKeyboardButton,InlineKeyboardMarkup,Update
from telegram.error import BadRequest,ChatMigrated,Conflict,Forbidden,InvalidToken,RetryAfter,TelegramError,TimedOut
from telegram.request import HTTPXRequest
from .bot import button_data,buttons

log = logging.getLogger(__name__)

max_units = 4096 # UTF-16 code units in a message

class TelegramFront:
    "Between the Bot API and a `JokeBot`"
    def __init__(
        self,
        bot, # A `JokeBot`
        token:str,
        base_url='https://api.telegram.org', # Or that of a stand-in
        poll_seconds=30, # How long the service may keep a poll open
        at_once=100, # Updates being answered at the same time
        patience=1., # Seconds before the first new try after a failure; doubles up to a minute
    ):
        self.bot,self.poll_seconds,self.patience = bot,poll_seconds,patience
        request = HTTPXRequest(connection_pool_size=at_once+8, read_timeout=30, connect_timeout=10, pool_timeout=60)
        self.api = Bot(token, base_url=f'{base_url}/bot', base_file_url=f'{base_url}/file/bot', request=request)
        self.room = asyncio.Semaphore(at_once)
        self.stopping = asyncio.Event()
        self.tasks = set()

    async def run(self):
        "Poll and answer until `stop`"
        await self._log_in()
        try:
            for turn,update in self.bot.store.waiting(): await self._begin(turn, update)
            await self._poll()
        finally:
            await asyncio.gather(*self.tasks, return_exceptions=True)
            await self.api.shutdown()

    def stop(self): self.stopping.set()

    async def _pause(self, seconds):
        "Sleep, unless the bot stops"
        try: await asyncio.wait_for(self.stopping.wait(), seconds)
        except asyncio.TimeoutError: pass

    async def _log_in(self):
        pause = self.patience
        while True:
            try: return await self.api.initialize()
            except InvalidToken: raise ValueError("Telegram refused the token: ask @BotFather for a new one, and check that all of it was copied") from None
            except TelegramError as e:
                log.warning("Telegram does not answer (%s); next try in %.0f s", e, pause)
                await self._pause(pause)
                pause = min(2*pause, 60)
                if self.stopping.is_set(): return

    # Receiving

    async def _poll(self):
        offset,pause = None,self.patience
        while not self.stopping.is_set():
            try:
                updates = await self._updates(offset)
                new = self.bot.store.receive(updates) # on disk before the next poll confirms them
                pause = self.patience
            except (TelegramError,sqlite3.Error,ValueError) as e:
                wait = _seconds(e) if isinstance(e, RetryAfter) else pause
                log.warning("%s; next poll in %.1f s", _why(e), wait)
                await self._pause(wait)
                pause = min(2*pause, 60)
                continue
            # After a week without updates Telegram counts anew, so a number is kept only until it has confirmed what came with it
            offset = max((o['update_id'] for o in updates), default=-1)+1 or None
            for turn,update in new: await self._begin(turn, update)

    async def _updates(self, offset):
        "Updates as they came, without those that have no number"
        stop = asyncio.ensure_future(self.stopping.wait())
        params = dict(timeout=self.poll_seconds, allowed_updates=['message','callback_query'], **(dict(offset=offset) if offset else {}))
        # Raw, since one update that PTB can't parse would stop all others. Telegram ignores the case of names; PTB would warn of its own
        poll = asyncio.ensure_future(self.api.do_api_request('getupdates', params, read_timeout=self.poll_seconds+10))
        await asyncio.wait([stop,poll], return_when=asyncio.FIRST_COMPLETED)
        stop.cancel()
        if not poll.done():
            poll.cancel()
            return []
        found = poll.result()
        if not isinstance(found, list): raise ValueError("The service sent no list of updates")
        good = [o for o in found if isinstance(o, dict) and type(o.get('update_id')) is int and abs(o['update_id'])<2**63]
        if len(good)<len(found): log.warning("%d updates without a number were ignored", len(found)-len(good))
        if found and not good: await self._pause(self.patience) # or the same would come at once, for ever
        return good

    # Answering

    async def _begin(self, turn, update):
        "Answer an update beside others, as far as there is room"
        await self.room.acquire()
        task = asyncio.ensure_future(self._deal_with(turn, update))
        self.tasks.add(task)
        task.add_done_callback(self._end)

    def _end(self, task):
        self.tasks.discard(task)
        self.room.release()

    async def _deal_with(self, turn, raw):
        "Answer an update, however often that takes, and take it off the disk"
        pause = self.patience
        while not self.stopping.is_set():
            try:
                await self._handle(turn, raw)
                return self.bot.store.done(turn)
            except RetryAfter as e: wait = _seconds(e)
            except (Forbidden,BadRequest,ChatMigrated,InvalidToken,Conflict) as e: return self._give_up(turn, e)
            except (TelegramError,sqlite3.OperationalError,OSError) as e: # the log of slates raises `OSError` for a full disk
                wait,pause = pause,min(2*pause, 60)
                log.warning("Update %s: %s; next try in %.1f s", raw['update_id'], _why(e), wait)
            except Exception as e:
                log.exception("Update %s can't be answered", raw['update_id'])
                return self._give_up(turn, e)
            await self._pause(wait)

    def _give_up(self, turn, e):
        log.warning("Not answered: %s", _why(e))
        try: self.bot.store.done(turn)
        except sqlite3.Error as e: log.warning("%s", _why(e)) # it is tried again after the next start

    async def _handle(self, turn, raw):
        try: update = Update.de_json(raw, self.api)
        except Exception as e: # whatever a malformed update makes PTB raise
            return log.warning("Update %s is malformed (%s) and was ignored", raw['update_id'], type(e).__name__)
        if update.callback_query: await self._press(turn, update.callback_query)
        elif update.message and update.message.from_user: await self._message(update)

    async def _press(self, turn, query):
        chat = query.message.chat.id if query.message else query.from_user.id
        text = self.bot.press(query.from_user.id, chat, query.data, turn)
        try: await query.answer(text)
        except BadRequest as e: log.info("A vote was counted, but its sender could not be told: %s", e) # the press is too old

    async def _message(self, update):
        message = update.message
        chat,person = message.chat.id,message.from_user.id
        if message.text is None:
            if chat==person: await self._send(chat, "I can only read text. Ask me something, or say /joke.")
            return
        if self._for_other_bot(message.text): return
        reply = await self.bot.text(person, chat, message.text, request=f'telegram {update.update_id}')
        await self._send(chat, reply.text, reply.joke)

    def _for_other_bot(self, text):
        name = text.split(maxsplit=1)[0].partition('@')[2] if text.startswith('/') else ''
        return name and name.lower()!=self.api.username.lower()

    async def _send(self, chat, text, joke=None):
        "Send plain text: no parse mode, so markup in it is shown as it is"
        row = [InlineKeyboardButton(label, callback_data=button_data(joke, value)) for label,value in buttons]
        try: await self.api.send_message(chat, _short(text), reply_markup=InlineKeyboardMarkup([row]) if joke else None)
        except TimedOut as e:
            if not isinstance(e.__cause__, httpx.ReadTimeout): raise
            log.warning("No receipt for a message to a chat: it is not sent again, since it may have arrived")

def _seconds(e):
    wait = e.retry_after
    return wait.total_seconds() if hasattr(wait, 'total_seconds') else float(wait)

def _why(e): return f'{type(e).__name__}: {e}'

def _short(text):
    units = text.encode('utf-16-le', 'replace')
    return text if len(units)//2<=max_units else units[:2*(max_units-2)].decode('utf-16-le', 'ignore')+'…'
