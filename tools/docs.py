"Build the documentation in `_docs` without Quarto: nbdev processes the notebooks, smalldocs renders them, then our own links are checked"
import os, re, shutil, sys
from html.parser import HTMLParser
from urllib.parse import unquote, urljoin

from fastcore.nbio import read_nb, write_nb
from fastcore.script import call_parse
from nbdev.config import get_config, nbpath2html
from nbdev.doclinks import nbglob
from nbdev.quarto import refresh_quarto_yml
from nbdev.serve import proc_nbs
from smalldocs.config import load
from smalldocs.site import Site

# Quarto's own business, which smalldocs says that it leaves out
_ignore = 'commonmark|format-links|keep-md|output-file|output-dir'

class NbdevSite(Site):
    "A site whose pages have the file names that nbdev gives them: `00_vocab.ipynb` becomes `vocab.html`"
    def read(self, src):
        page = super().read(src)
        page.out = page.out.with_name(page.front.get('output-file', page.out.name))
        home = re.escape(get_config().doc_url)
        page.body = re.sub(rf'\]\({home}/(?=\w)', '](', page.body)
        return page

    def find_page(self, target):
        by_out = (p for p in self.pages.values() if p.out==target)
        return super().find_page(target) or next(by_out, None)

class Links(HTMLParser):
    "The ids of an HTML page, and what it links to or shows"
    def __init__(self, html):
        super().__init__()
        self.ids,self.refs = set(),set()
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        d = dict(attrs)
        self.ids |= {d[k] for k in ('id','name') if d.get(k)}
        self.refs |= {d[k] for k in ('href','src') if d.get(k)}

def dead_links(site, url):
    "Links from the pages in the folder `site`, whose address is `url`, to places in `site` that do not exist"
    pages = {f.relative_to(site).as_posix(): Links(f.read_text(encoding='utf-8')) for f in site.rglob('*.html')}
    refs = {name:page.refs for name,page in pages.items()}
    llms = site/'llms.txt'
    if llms.exists(): refs[llms.name] = re.findall(r'\]\((\S+)\)', llms.read_text(encoding='utf-8'))
    res = []
    for name in refs:
        for ref in sorted(refs[name]):
            path,_,frag = urljoin(f'{url}/{name}', ref).partition('#')
            if not f'{path}/'.startswith(f'{url}/'): continue
            to = unquote(path.partition('?')[0].removeprefix(url).strip('/')) or 'index.html'
            ok = (site/to).exists() and (not frag or to not in pages or unquote(frag) in pages[to].ids)
            if not ok: res.append(f'{name}: {ref}')
    return res

def render(proc, out):
    "Render the processed notebooks in the folder `proc` into the folder `out`, each also as markdown (`vocab.html.md`), as Quarto does"
    for f in proc.rglob('*.ipynb'):
        nb = read_nb(f)
        for c in nb.cells:
            if c.cell_type=='markdown': c.remove_directives()
        write_nb(nb, f)
    site = NbdevSite(load(proc))
    site.out = out
    site.build()
    for page in site.pages.values(): (out/f'{page.out}.md').write_text(site.llms_copy(page)[0], encoding='utf-8')
    return site

@call_parse
def main():
    "Build the site; fail on a page that is missing or a link of ours that leads nowhere"
    cfg = get_config()
    os.chdir(cfg.config_path)
    refresh_quarto_yml()
    shutil.rmtree(cfg.doc_path, ignore_errors=True)
    site = render(proc_nbs(force=True, n_workers=2), cfg.doc_path)
    for w in site.warnings:
        if not re.search(_ignore, w): print(f'warning: {w}')
    want = [nbpath2html(f.relative_to(cfg.nbs_path)) for f in nbglob(as_path=True)]
    bad = [f'{f}: missing' for f in want if not (cfg.doc_path/f).exists()] + dead_links(cfg.doc_path, cfg.doc_url)
    if bad: sys.exit('\n'.join(['The site has dead links or lacks pages:', *bad]))
    print(f'{len(want)} pages in {cfg.doc_path.name}, no dead links')
