"Which trained heads are in use: one small file, replaced as a whole"
import json,os,secrets
from pathlib import Path

heads = 'selector','sentiment'

def placed_file(folder): return Path(folder)/'placed.json'

def read_placed(
    folder, # Of the bot
)->dict: # Head → number of its run
    "The heads in use"
    try: res = json.loads(placed_file(folder).read_text(encoding='utf-8'))
    except FileNotFoundError: return {}
    except ValueError as e: raise ValueError(f"{placed_file(folder)} is damaged ({e}): remove it, and put a selector in place again") from None
    return {k:int(v) for k,v in res.items() if k in heads}

def write_placed(folder, placed):
    "Replace the file, whole or not at all"
    file = placed_file(folder)
    tmp = file.with_name(f'.{file.name}.{secrets.token_hex(4)}')
    try:
        with open(tmp, 'w', encoding='utf-8') as f:
            json.dump(placed, f)
            f.flush()
            os.fsync(f.fileno())
        os.replace(tmp, file)
    finally: tmp.unlink(missing_ok=True)
