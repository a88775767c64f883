"The bot in a terminal: no account, no network"
import asyncio,sqlite3
from .bot import button_data

person = chat = 0

def talk(
    bot, # A `JokeBot`
    read=input, # Gives the next line; raises EOFError at the end
    write=print,
):
    "Read lines and answer them; `+` and `-` vote on the last joke, and name it where something else was said since"
    write("Say /joke, ask a question, vote on the last joke with + or -, and leave with /quit. /help says more.")
    last,aside = None,False
    while True:
        try: line = read('> ')
        except (EOFError,KeyboardInterrupt): return
        line = line.strip()
        if line in ('/quit','/exit'): return
        try: last,aside = _answer(bot, line, last, aside, write)
        except (sqlite3.Error,OSError) as e: write(f"That could not be kept, so it did not happen: {e}")

def _answer(bot, line, last, aside, write):
    "Answer a line; the joke that votes are for from now on, and whether something else was said since"
    if line in ('+','-','👍','👎'):
        write(_vote(bot, last, line, aside))
        return last,aside
    reply = asyncio.run(bot.text(person, chat, line))
    write(f'{reply.text}\n' + ('   [+] 👍   [-] 👎\n' if reply.joke else ''))
    return reply.joke or last,not reply.joke

def _vote(bot, joke, line, aside):
    if joke is None: return "There is no joke to vote on yet: say /joke."
    said = bot.press(person, chat, button_data(joke, 1 if line in '+👍' else -1))
    return f"{said} on “{bot.store.joke(joke).joke.question}”" if aside else said

