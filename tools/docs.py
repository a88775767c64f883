"Build the documentation in `_docs` without Quarto: nbdev processes the notebooks, smalldocs renders them, then the pages are checked"
import html, json, os, re, shutil, sys
from collections import Counter
from html.parser import HTMLParser
from urllib.parse import unquote, urljoin

import nbdev.serve
from fastcore.script import call_parse
from latex2mathml.converter import convert
from nbdev.config import get_config, nbpath2html
from nbdev.doclinks import nbglob
from nbdev.quarto import refresh_quarto_yml
from smalldocs.config import load
from smalldocs.site import Site

from reference import Docs, mend

# Quarto's own business, which smalldocs says that it leaves out
_ignore = 'commonmark|format-links|keep-md|output-file|output-dir|html-math-method|search-words'
# Pages

_math = re.compile(r'<span class="math (inline|display)">\\[(\[](.*?)\\[)\]]</span>', re.S)

def mathml(page):
    "HTML with its TeX as MathML, which browsers show without any script"
    def f(m):
        kind,tex = m.groups()
        return f'<span class="math {kind}">{convert(html.unescape(tex), display="block" if kind=="display" else "inline")}</span>'
    return _math.sub(f, page)

class NbdevSite(Site):
    "A site whose pages have the file names that nbdev gives them, and need nothing from another site: `00_vocab.ipynb` becomes `vocab.html`"
    def read(self, src):
        page = super().read(src)
        page.out = page.out.with_name(page.front.get('output-file', page.out.name))
        home = re.escape(get_config().doc_url)
        page.body = re.sub(rf'\]\({home}/(?=\w)', '](', page.body)
        if src.suffix=='.qmd': page.body = re.sub(r'\A\s*# .*\n', '', page.body) # an included file's title, below the page's own
        return page

    def find_page(self, target):
        by_out = (p for p in self.pages.values() if p.out==target)
        return super().find_page(target) or next(by_out, None)

    def render_page(self, page):
        "Render the page, and its formulas"
        super().render_page(page)
        page.html = mathml(page.html)
        page.env['math'] = False # no KaTeX

    def copy_assets(self, nav):
        "Themes come with the fonts of another site; the system's are used instead"
        super().copy_assets(nav)
        for f in (self.out/'site_libs').rglob('*.css'):
            css = f.read_text(encoding='utf-8')
            f.write_text(re.sub(r'@import\s+url\([^)]*\);?', '', css), encoding='utf-8')

    def write_search(self):
        "Write the index of the search, and in it what users call the subject of a page (`search-words` in its title cell)"
        super().write_search()
        f = self.out/'search.json'
        entries = json.loads(f.read_text(encoding='utf-8'))
        for page in self.pages.values():
            words,where = page.front.get('search-words', ''),str(page.out)
            about = dict(href=where, title=page.title, text=page.front.get('description', ''))
            entries += [dict(about, objectID=f'{where}?{o}', section=o) for o in words.split(', ') if o]
        f.write_text(json.dumps(entries, ensure_ascii=False), encoding='utf-8')

    def llms_link(self, href, page):
        "A link in a markdown copy leads to the other page's copy, which is named as Quarto names it"
        return super().llms_link(href, page).replace('.llms.md', '.html.md')

    def write_copy(self, page):
        "Write the page as markdown beside it, with its pictures"
        text,files = self.llms_copy(page)
        text = re.sub(r'<style scoped>.*?</style>\n', '', text, flags=re.S) # pandas writes it with each frame
        (self.out/f'{page.out}.md').write_text(text, encoding='utf-8')
        for name,data in files.items():
            dest = self.out/page.out.parent/name
            dest.parent.mkdir(parents=True, exist_ok=True)
            dest.write_bytes(data)

def render(proc, out):
    "Render the processed notebooks in the folder `proc` into the folder `out`, each also as markdown (`vocab.html.md`), as Quarto does"
    for f in proc.rglob('*.ipynb'): mend(f)
    site = NbdevSite(load(proc))
    site.out = out
    site.build()
    for page in site.pages.values(): site.write_copy(page)
    return site

# Checks

class Links(HTMLParser):
    "The ids of an HTML page, what it links to, what it loads, and what is wrong with it"
    def __init__(self, page):
        super().__init__()
        self.ids,self.refs,self.loads,self.bad = set(),set(),set(),[]
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        d = dict(attrs)
        self.ids |= {d[k] for k in ('id','name') if d.get(k)}
        self.refs |= {d[k] for k in ('href','src') if d.get(k)}
        loaded = d.get('src') or (d.get('href') if tag=='link' else None)
        if loaded and re.match('https?:|//', loaded): self.bad.append(f'loads {loaded}')
        if tag=='img' and not d.get('alt'): self.bad.append('has a picture without alternative text (`#| fig-alt:`)')

def faults(text):
    "What must not be on the page `text`"
    res = Links(text).bad
    if r'\(' in re.sub(r'<(pre|code)\b.*?</\1>', '', text, flags=re.S): res.append('has a formula that is not rendered')
    raw = re.search(r'\]\([^)\s]+\.ipynb[^)]*\)', re.sub(r'<pre\b.*?</pre>', '', text, flags=re.S))
    if raw: res.append(f'has a link that is not rendered, ending in {raw[0]}: name the symbol alone, or link other words')
    if '__main__' in text: res.append('names `__main__`')
    if '<table class="fastprogress"' in text: res.append('has a progress bar, with times (`with learn.no_bar(), learn.no_logging():`)')
    return res

def md_links(text):
    "Targets of the links of markdown `text`, code left out"
    return re.findall(r'\]\(([^)\s]+)\)', re.sub(r'^```.*?^```$|^    .*?$|`[^`]*`', '', text, flags=re.S|re.M))

def dead_links(site, url):
    "Links from the pages in the folder `site`, whose address is `url`, to places in `site` that do not exist"
    pages = {f.relative_to(site).as_posix(): Links(f.read_text(encoding='utf-8')) for f in site.rglob('*.html')}
    refs = {name:page.refs for name,page in pages.items()}
    for f in [*site.rglob('*.md'),*site.glob('llms.txt')]: refs[f.relative_to(site).as_posix()] = md_links(f.read_text(encoding='utf-8'))
    res = []
    for name in refs:
        for ref in sorted(refs[name]):
            path,_,frag = urljoin(f'{url}/{name}', ref).partition('#')
            if not f'{path}/'.startswith(f'{url}/'): continue
            to = unquote(path.partition('?')[0].removeprefix(url).strip('/')) or 'index.html'
            ok = (site/to).exists() and (not frag or to not in pages or unquote(frag) in pages[to].ids)
            if not ok: res.append(f'{name}: {ref}')
    return res

@call_parse
def main():
    "Build the site; fail on a page that is missing, a link of ours that leads nowhere, or a page that needs another site"
    cfg = get_config()
    os.chdir(cfg.config_path)
    refresh_quarto_yml()
    shutil.rmtree(cfg.doc_path, ignore_errors=True)
    nbdev.serve.FilterDefaults = Docs
    site = render(nbdev.serve.proc_nbs(force=True, n_workers=2), cfg.doc_path)
    for w in site.warnings:
        if not re.search(_ignore, w): print(f'warning: {w}')
    want = [nbpath2html(f.relative_to(cfg.nbs_path)) for f in nbglob(as_path=True)]
    bad = [f'{f}: missing' for f in want if not (cfg.doc_path/f).exists()] + dead_links(cfg.doc_path, cfg.doc_url)
    bad += [f'{f}: {n} notebooks would be this page; rename one' for f,n in Counter(want).items() if n>1]
    bad += [f'{f.name}: {o}' for f in sorted(cfg.doc_path.rglob('*.html')) for o in faults(f.read_text(encoding='utf-8'))]
    bad += [f'{f}: loads from elsewhere' for f in cfg.doc_path.rglob('*.css') if re.search(r'url\(["\']?(https?:)?//', f.read_text(encoding='utf-8'))]
    if bad: sys.exit('\n'.join(['The site has faults:', *bad]))
    print(f'{len(want)} pages in {cfg.doc_path.name}, no dead links, nothing from elsewhere')
