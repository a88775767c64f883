"Small JSON files that are replaced as a whole, and the one that says which trained heads are in use"
import json,os,secrets
from pathlib import Path

def read_json(file, default):
    "What a file holds; `default` if it is not there"
    try: return json.loads(Path(file).read_text(encoding='utf-8'))
    except FileNotFoundError: return default
    except ValueError as e: raise ValueError(f"{file} is damaged ({e}): remove it, and give the command again") from None

def write_json(file, data):
    "Replace a file, whole or not at all"
    file = Path(file)
    tmp = file.with_name(f'.{file.name}.{secrets.token_hex(4)}')
    try:
        with open(tmp, 'w', encoding='utf-8') as f:
            json.dump(data, f)
            f.flush()
            os.fsync(f.fileno())
        os.replace(tmp, file)
    finally: tmp.unlink(missing_ok=True)

heads = 'selector','sentiment'

def placed_file(folder): return Path(folder)/'placed.json'

def read_placed(
    folder, # Of the bot
)->dict: # Head → number of its run
    "The heads in use"
    return {k:int(v) for k,v in read_json(placed_file(folder), {}).items() if k in heads}

def write_placed(folder, placed): write_json(placed_file(folder), placed)
