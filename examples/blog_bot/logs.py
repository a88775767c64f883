"Logs that hold no token and no text of an ask"
import logging,sys
from logging.handlers import RotatingFileHandler
from pathlib import Path

class Redacted(logging.Formatter):
    "Formats a record as usual, then takes out every secret, whoever wrote it there"
    def __init__(self, secrets, fmt):
        super().__init__(fmt)
        self.secrets = sorted(filter(None, secrets), key=len, reverse=True)

    def format(self, record):
        res = super().format(record)
        for o in self.secrets: res = res.replace(o, '***')
        return res

def start_log(
    name:str, # Of the process
    folder, # Where its file goes
    level:str, # Such as 'INFO'
    secrets, # Texts that must not appear
):
    "Log to stderr and to `folder/name.log`; a full disk stops neither"
    logging.raiseExceptions = False
    form = Redacted(secrets, f'%(asctime)s {name} %(levelname)s %(message)s')
    root = logging.getLogger()
    root.handlers = [logging.StreamHandler(sys.stderr), *_file_handlers(Path(folder)/f'{name}.log')]
    for o in root.handlers: o.setFormatter(form)
    root.setLevel(level)
    for o in ('httpx','httpcore'): logging.getLogger(o).setLevel(logging.NOTSET if level=='DEBUG' else logging.WARNING) # a line for each request
    sys.excepthook = lambda kind,e,tb: root.critical('it ends', exc_info=(kind,e,tb))
    return logging.getLogger('blog_bot')

def _file_handlers(file):
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        return [RotatingFileHandler(file, maxBytes=5_000_000, backupCount=3, delay=True)]
    except OSError: return []
