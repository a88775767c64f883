"Write README.md from the index notebook: its prose, its visible code cells and what they print; and the pictures that it shows"
import base64, re, sys
from fastcore.nbio import read_nb, nb_frontmatter, cell_frontmatter, join_out
from fastcore.script import call_parse
from fastcore.xtras import strip_ansi
from nbdev.config import get_config, nbpath2docurl

_hidden = {'hide','export','exporti','default_exp'}

def _link(m):
    "Target of the link `m`, which is relative to the notebooks, as seen from the root or on the site"
    nb,frag = re.fullmatch(r'([^#]*)(.*)', m[1]).groups()
    if not nb.endswith('.ipynb'): return f'](nbs/{m[1]})'
    return f"]({nbpath2docurl(get_config().nbs_path/nb).removesuffix('.md')}{frag})"

def _out2md(o):
    "Markdown of the output `o` of a cell; empty for a picture"
    data = o.get('data', {})
    if 'text/markdown' in data: return join_out(data['text/markdown'])
    if any(k.startswith('image/') for k in data): return ''
    txt = strip_ansi(join_out(o.get('text') or data.get('text/plain', ''))).rstrip()
    return f'```\n{txt}\n```' if txt else ''

def _cell2md(c):
    "Markdown of a cell; empty if the site hides it"
    dirs = c.directives
    if c.cell_type=='raw' or cell_frontmatter(c.source): return ''
    c.remove_directives()
    if c.cell_type=='markdown':
        text = re.sub(r'\n- search-words:.*', '', c.source.strip()) # these are for the site's search
        return re.sub(r'\]\((?![a-z]+:|#|/)([^)\s]+)\)', _link, text)
    if _hidden & dirs.keys() or dirs.get('include')=='false': return ''
    code = [f'```python\n{c.source.strip()}\n```'] if c.source.strip() and dirs.get('echo')!='false' else []
    outs = map(_out2md, c.outputs) if dirs.get('output')!='false' else []
    return '\n\n'.join(filter(None, [*code, *outs]))

def nb2md(path):
    "The notebook at `path` as one markdown document"
    nb = read_nb(path)
    fm = cell_frontmatter(nb.cells[0].source) and nb_frontmatter(nb)
    title = f"# {fm['title']}\n\n> {fm['description']}" if fm else ''
    return '\n\n'.join(filter(None, [title, *map(_cell2md, nb.cells)])) + '\n'

# Picture of the index page → the notebook that draws it, and a cell of it
_pictures = {'images/new_town.png': ('20_new_town.ipynb', 'plot_errors(errors);')}

def picture(nb, source):
    "The stored picture below the cell of the notebook `nb` that ends with `source`"
    cell = next(c for c in read_nb(nb).cells if c.source.endswith(source))
    png = next(o.data['image/png'] for o in cell.outputs if 'image/png' in o.get('data', {}))
    return base64.b64decode(join_out(png))

@call_parse
def main(
    check:bool=False, # Write nothing; fail if a file is not what would be written
):
    "Write README.md from the index notebook, and its pictures from the tutorials"
    cfg = get_config()
    files = {cfg.nbs_path/k: picture(cfg.nbs_path/nb, source) for k,(nb,source) in _pictures.items()}
    files[cfg.config_path/'README.md'] = nb2md(cfg.nbs_path/cfg.readme_nb).encode('utf-8')
    for f,new in files.items():
        if not check: f.write_bytes(new)
        elif not f.exists() or f.read_bytes()!=new: sys.exit(f'{f.name} is not in step with the notebooks: run `python tools/readme.py`')
