"Write README.md from the index notebook: its prose, its visible code cells and what they print"
import re, sys
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
    if c.cell_type=='markdown': return re.sub(r'\]\((?![a-z]+:|#|/)([^)\s]+)\)', _link, c.source.strip())
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

@call_parse
def main(
    check:bool=False, # Write nothing; fail if README.md is not what would be written
):
    "Write README.md from the index notebook"
    cfg = get_config()
    readme,md = cfg.config_path/'README.md',nb2md(cfg.nbs_path/cfg.readme_nb)
    if not check: return readme.write_text(md, encoding='utf-8')
    if not readme.exists() or readme.read_text(encoding='utf-8')!=md:
        sys.exit(f'README.md is not in step with {cfg.nbs_path.name}/{cfg.readme_nb}: run `python tools/readme.py`')
