"Logs that never show a token"
import logging,os,re,stat,sys,traceback
from pathlib import Path

token_form = re.compile(r'[0-9]{5,20}:[A-Za-z0-9_-]{30,64}')
hidden = '<token>'

def redact(text): return token_form.sub(hidden, text)

class RedactingFormatter(logging.Formatter):
    "Takes everything that looks like a token out of the finished line, tracebacks included"
    def format(self, record): return redact(super().format(record))

def _print_redacted(kind, error, tb): sys.stderr.write(redact(''.join(traceback.format_exception(kind, error, tb))))

def set_up_logging(level='INFO', file=None):
    "One handler for everything; requests are not logged, since their addresses hold the token"
    handler = logging.FileHandler(file, encoding='utf-8') if file else logging.StreamHandler()
    handler.setFormatter(RedactingFormatter('%(asctime)s %(levelname)s %(name)s: %(message)s'))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for o in ('httpx','httpcore','telegram'): logging.getLogger(o).setLevel(max(logging.WARNING, logging.getLogger().level))
    sys.excepthook = _print_redacted

def read_token(
    file=None, # A file that holds the token; else the environment's TELEGRAM_TOKEN
)->str:
    "The token; an error never shows what was found"
    if file:
        where = f"the file {file}"
        if not Path(file).is_file(): raise FileNotFoundError(f"There is no file {file}: write the token of @BotFather into it")
        if os.name=='posix' and Path(file).stat().st_mode & (stat.S_IRGRP|stat.S_IROTH):
            logging.getLogger(__name__).warning("Others can read %s: chmod 600 %s", file, file)
        token = Path(file).read_text(encoding='utf-8', errors='replace').strip()
    else:
        where = "the variable TELEGRAM_TOKEN"
        token = os.environ.get('TELEGRAM_TOKEN', '').strip()
    if not token: raise ValueError(f"There is no token in {where}. Ask @BotFather for one, or try the bot in the terminal with --chat")
    if not token_form.fullmatch(token):
        raise ValueError(f"The token in {where} does not have the form `digits:letters` that @BotFather gives: it has {len(token)} characters")
    return token
