"The bot in a terminal: no account, no network"
import asyncio,sqlite3
from .bot import button_data

person = chat = 0

def talk(
    bot, # A `JokeBot`
    read=input, # Gives the next line; raises EOFError at the end
    write=print,
):
    "Read lines and answer them; `+` and `-` vote on the last joke"
    write("Say /joke, ask a question, vote on the last joke with + or -, and leave with /quit. /help says more.")
    last = None
    while True:
        try: line = read('> ')
        except (EOFError,KeyboardInterrupt): return
        line = line.strip()
        if line in ('/quit','/exit'): return
        try: last = _answer(bot, line, last, write)
        except (sqlite3.Error,OSError) as e: write(f"That could not be kept, so it did not happen: {e}")

def _answer(bot, line, last, write):
    "Answer a line; the joke that votes are for from now on"
    if line in ('+','-','👍','👎'): write(_vote(bot, last, line))
    else:
        reply = asyncio.run(bot.text(person, chat, line))
        last = reply.joke or last
        write(f'{reply.text}\n' + ('   [+] 👍   [-] 👎\n' if reply.joke else ''))
    return last

def _vote(bot, joke, line):
    if joke is None: return "There is no joke to vote on yet: say /joke."
    return bot.press(person, chat, button_data(joke, 1 if line in '+👍' else -1))

