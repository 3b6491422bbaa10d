"""Words that most people would put for one another in an everyday message.

Each line is one meaning; any of its words may stand for any other. Left out is whatever changes the
mood, the fact that is asked about, or the grammar around it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable

_MEANINGS = """
jumper, sweater, pullover
trainers, sneakers, running shoes
sofa, couch, settee
mum, mom, mother
dad, father
grandma, granny, gran, grandmother
grandpa, grandad, granddad, grandfather
kids, children, little ones
kid, child
my son, my little boy, my boy
my daughter, my little girl, my girl
toddler, two-year-old, little one
baby, infant
friend, mate, buddy
boss, manager
colleague, coworker
colleagues, coworkers
neighbour, neighbor
neighbours, neighbors
teacher, tutor
garden, yard, back garden
rubbish, trash, garbage
bin, trash can
fridge, refrigerator
oven, stove
tap, faucet
cupboard, cabinet
rug, carpet
bathroom, washroom
toilet, loo
holiday, vacation
film, movie
films, movies
telly, TV, television
phone, mobile, cell phone
laptop, computer
bike, bicycle
car, vehicle
lorry, truck
motorway, highway
pavement, sidewalk
shop, store
shops, stores
supermarket, grocery store
money, cash
wallet, purse
exam, test
exams, tests
homework, school work
college, university, uni
colour, color
colours, colors
favourite, favorite
grey, gray
dinner, supper
lunch, midday meal
snack, bite to eat
biscuits, cookies
biscuit, cookie
sweets, candy
crisps, potato chips
courgette, zucchini
aubergine, eggplant
veg, vegetables, veggies
fizzy drink, soda
nap, snooze
stomach, tummy, belly
tummy ache, stomach ache, belly ache
headache, sore head
runny nose, dripping nose
doctor, GP
chemist, pharmacy
ill, sick, poorly, unwell
tired, exhausted, worn out, sleepy
very tired, knackered, shattered
hungry, starving
sad, unhappy
happy, glad, pleased
angry, mad, furious
annoyed, irritated, fed up
scared, afraid, frightened
nervous, anxious, worried
stressed, stressed out, under pressure
boring, dull
ashamed, embarrassed
shy, timid
funny, amusing
great, wonderful, fantastic, brilliant
nice, lovely
bad, awful, terrible
horrible, dreadful, awful
big, large, huge
small, little, tiny
fast, quickly
simple, easy
messy, untidy, a mess
dirty, filthy
tidy, tidy up
fix, mend, repair
get rid of, remove
buy, get
begin, start
start, begin
finish, complete
select, choose
broken, bust, not working
argued, fought, quarrelled
argument, fight, quarrel
shouted at, yelled at, had a go at
laughing at, making fun of, teasing
talk, chat
talking, chatting
speak, talk
show, teach
want to, would like to
need to, have to, have got to, must
very, really, awfully
maybe, perhaps
a lot, loads
lots of, loads of, plenty of, many
a bit, a little, kind of, a little bit
always, all the time, constantly
often, a lot
soon, before long
now, right now, at the moment
this evening, tonight
recently, lately
quickly, fast
tips, ideas, advice, suggestions
tip, idea, suggestion, trick
story, tale
poem, verse, little poem
joke, gag
riddle, puzzle
song, tune
a present, a gift
birthday party, party
rabbit, bunny
puppy, pup, young dog
kitten, kitty, young cat
bug, insect
bugs, insects
picture, photo
pictures, photos
spectacles, glasses
people, folks
guy, man
lady, woman
pal, friend
town, city
place, spot
trip, journey
plane, aeroplane, airplane
mistake, error
problem, trouble, issue
quiet, silent
loud, noisy
beautiful, lovely
ugly, hideous
clever, smart
stupid, silly, daft
weird, strange, odd
expensive, pricey
cheap, inexpensive
wet, soaked
cold outside, chilly outside
I hate, I can't stand, I really dislike
I love, I adore
I enjoy, I like
rainy, wet
sunny, bright
"""
# Messages about words themselves: another word would be another question.
_ABOUT_WORDS = re.compile(
    r"\b(words?|spell\w*|rhym\w*|letters?|opposite|mean(s|ing)?|say|says|repeat|translate|synonym"
    r"|plural|called?|names?|capital|sentence|french|spanish|german|italian)\b|[\"“”{}]",
    re.IGNORECASE,
)


def _table() -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for line in _MEANINGS.strip().splitlines():
        words = tuple(w.strip() for w in line.split(","))
        for word in words:
            others = tuple(w for w in words if w != word)
            found[word] = found.get(word, ()) + others
    return found


_OTHERS = _table()
# Any word, to be looked up; only what is more than one is written out, which is twice as quick.
_LONG = sorted((k for k in _OTHERS if not re.fullmatch(r"\w+", k)), key=len, reverse=True)
_KNOWN = re.compile(rf"\b(?:(?:{'|'.join(map(re.escape, _LONG))})\b|\w+)")


def _replaced(text: str, choose: Callable[[str, tuple[str, ...]], str]) -> str:
    """Every word that has others by what is chosen of itself and them."""
    return _KNOWN.sub(lambda m: choose(m[0], o) if (o := _OTHERS.get(m[0])) else m[0], text)


def in_first_words(text: str) -> str:
    """Every word by the first, in the alphabet, of those that may stand for it."""
    return _replaced(text, lambda word, others: min(word, *others))


def about_words(text: str) -> bool:
    return _ABOUT_WORDS.search(text) is not None


def exchanged(text: str, rng: random.Random, *, often: float = 0.5) -> str:
    """The message with some of its words exchanged for others that say the same."""
    if about_words(text):
        return text
    return _replaced(
        text, lambda word, others: rng.choice(others) if rng.random() < often else word
    )
