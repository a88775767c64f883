"How positive a text is, by a list of words: what the bot's mood listens to until a sentiment head is trained"
import math,re

good = set("""adore amazing beautiful best better bright calm charming cheer cheerful clever comfort cute delight delightful dear enjoy excellent excited fun
    funny glad good gorgeous grateful great happy heart hope hug joy kind laugh like love lovely lucky nice peace perfect pleased proud safe smile sweet thank thanks
    warm welcome win wonderful wow yay""".split())
bad = set("""afraid alone angry annoying awful bad boring broken cruel cry dead death depressed die disgusting dumb fail fear hate horrible hurt idiot ill kill
    lonely lose lost mad mean miserable nasty pain poor sad scared shame sick sorry stupid suffer terrible tired trash ugly unhappy upset weird worse worst
    worried wrong""".split())
weight = .75 # Logit of a word: in a neutral mood one good word may be said (.68, and .70 is the most), and two may not (.82)
turns = {'not','no','never','hardly','without','cannot'}

def word_sentiment(
    text:str, # English; other languages have none of the words, and are neither good nor bad
)->float: # Probability of being positive; .5 where nothing tells
    "Counted words, turned round by a negation just before them, on the scale of `Mood`"
    score,turned = 0,0
    for o in re.findall(r"[^\W\d_]+(?:['’]t)?", text.lower()):
        value = (o in good)-(o in bad)
        score += -value if turned else value
        turned = 2 if o in turns or o.endswith(("n't",'n’t')) else max(0, turned-1)
    return 1/(1+math.exp(-max(-5, min(5, weight*score))))
