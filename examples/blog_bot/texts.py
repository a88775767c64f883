"What people write, made fit for a prompt, and words that are not posted"
import html,re,unicodedata

_tags = re.compile(r'</?[A-Za-z][^<>]{0,1000}>')

def _without_comments(text):
    start,*rest = text.split('<!--')
    return start + ''.join(o.partition('-->')[2] for o in rest)

def plain_text(
    text:str, # May hold HTML, control characters, anything
)->str: # Without them
    "Text as a reader sees it: any language and emoji, no markup, nothing that can't be printed"
    text = html.unescape(_tags.sub(' ', _without_comments(text)))
    text = unicodedata.normalize('NFC', text)
    text = ''.join(o for o in text if o in '\n\t' or unicodedata.category(o) not in ('Cc','Cs'))
    return re.sub(r'[ \t]+', ' ', re.sub(r'\s*\n\s*', '\n', text)).strip()

def shortened(
    text:str, # Plain text
    limit:int, # Characters
)->str: # At most as long
    "The beginning of a text, cut between words where there are any"
    if len(text)<=limit: return text
    start = text[:limit]
    return (start.rsplit(None, 1)[0] if re.search(r'\S\s+\S', start) else start).strip()

class WordList:
    "Finds listed words and phrases, whatever their case, width or accents"
    def __init__(self, words):
        folded = sorted({self.folded(o) for o in words}, key=len, reverse=True)
        self.pattern = re.compile(r'(?<!\w)(' + '|'.join(map(re.escape, folded)) + r')(?!\w)') if folded else None

    @staticmethod
    def folded(text):
        parts = unicodedata.normalize('NFKD', text).casefold()
        return re.sub(r'\s+', ' ', ''.join(o for o in parts if not unicodedata.combining(o) and unicodedata.category(o)!='Cf'))

    def found(self, text):
        "The first listed word in `text`; None if there is none"
        match = self.pattern.search(self.folded(text)) if self.pattern else None
        return match[0] if match else None
