"""The same message as other people would send it, so that a small corpus is not learnt by heart.

A model that has met a message in a few short wordings knows those; asked with other words, in
another form, or with a clause of ordinary life around it, it answers something else. So a message
is put into another form, words are exchanged, something is said around it, and it is typed as
people type.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable

from .forms import in_another_form, small
from .synonyms import about_words, exchanged

_AS_IT_IS = 0.2  # of messages
_SHORT = 3  # words at most: a greeting, a word of thanks; nothing is built around it

_BEFORE = (
    "Hey, ",
    "Hi, ",
    "Hello, ",
    "Hi there, ",
    "Hi Foghorn, ",
    "Foghorn, ",
    "So, ",
    "Okay, ",
    "Well, ",
    "Um, ",
    "Right, ",
    "By the way, ",
    "One question: ",
    "Quick question, ",
    "Just wondering, ",
    "Maybe you know: ",
    "This may sound silly, but ",
    "Sorry to bother you, but ",
    "I have been meaning to ask, ",
    "Something else: ",
)
_SENTENCES = (
    "I was thinking about this on the way home.",
    "I have been wondering about it all day.",
    "I have no idea about this.",
    "My sister and I were just talking about it.",
    "A friend told me to ask you.",
    "I am sitting in the kitchen with a cup of tea.",
    "I just got home.",
    "I have five minutes before the bus comes.",
    "It is late and I am still up.",
    "You seem to know a few things.",
    "I could not find it anywhere.",
    "Nobody here knows.",
    "I keep coming back to this.",
    "I would like to hear what you think.",
    "My neighbour said you might know.",
    "It just came to my mind.",
    "We were talking about it over lunch.",
    "I am new here.",
)
_AFTER = (
    "Thanks!",
    "Thank you.",
    "Thanks in advance.",
    "Any idea?",
    "Please.",
    "I would like to know.",
    "What do you think?",
    "Just tell me in short.",
    "I am curious.",
    "Help!",
)
_SPELLED = (
    ("I am ", "I'm "),
    ("I'm ", "I am "),
    ("do not ", "don't "),
    ("don't ", "do not "),
    ("cannot ", "can't "),
    ("can't ", "cannot "),
    ("What's ", "What is "),
    ("I have ", "I've "),
    ("it is ", "it's "),
    ("Is there ", "Is there maybe "),
)
_TYPED = (
    ("you", "u"),
    ("please", "pls"),
    ("because", "cause"),
    ("and", "&"),
    ("really", "rly"),
    ("are", "r"),
    ("tomorrow", "tmrw"),
    ("thanks", "thx"),
)
_SMALL_WORDS = re.compile(r"\b(?:the|a|an|do|does|is|are|to|my|some|any|please|just) ", re.I)


def reword(text: str, rng: random.Random) -> str:
    """Another wording of a message; often (a third and more) the message itself."""
    if rng.random() < _AS_IT_IS or not text.strip():
        return text
    said = text
    if len(text.split()) > _SHORT:
        steps: tuple[tuple[float, Callable[[str, random.Random], str]], ...] = (
            (0.4, in_another_form),
            (0.5, exchanged),
            (0.3, _spelled),
            (0.35, _with_more_around_it),
            (0.05, _without_small_words),
        )
        for chance, change in steps:
            if rng.random() < chance:
                said = change(said, rng)
    if rng.random() < 0.5:
        said = _typed(said, rng)
    return said if any(map(str.isalnum, said)) else text


def _spelled(text: str, rng: random.Random) -> str:
    for old, new in rng.sample(_SPELLED, len(_SPELLED)):
        if old in text:
            return text.replace(old, new, 1)
    return text


def _with_more_around_it(text: str, rng: random.Random) -> str:
    whole = text if text[-1] in ".?!" else text + "."
    roll = rng.random()
    if roll < 0.45:
        return rng.choice(_BEFORE) + small(text)
    if roll < 0.65:
        return f"{rng.choice(_SENTENCES)} {whole}"
    if roll < 0.75:
        return f"{whole} {rng.choice(_SENTENCES)}"
    return f"{whole} {rng.choice(_AFTER)}"


def _without_small_words(text: str, rng: random.Random) -> str:
    return _SMALL_WORDS.sub(lambda m: "" if rng.random() < 0.6 else m[0], text) or text


def _typed(text: str, rng: random.Random) -> str:
    """In a hurry: small letters, no full stop, no apostrophe, now and then a slip."""
    if rng.random() < 0.5:
        text = small(text) if rng.random() < 0.5 else text.lower()
    if rng.random() < 0.55:
        text = text.rstrip(".?! ")
    elif rng.random() < 0.15:
        text = text.rstrip(".?! ") + rng.choice(("!", "??", "...", " :)"))
    if rng.random() < 0.25:
        text = text.replace("'", "")
    if rng.random() < 0.1 and not about_words(text):
        old, new = rng.choice(_TYPED)
        text = re.sub(rf"\b{old}\b", new, text, count=1)
    if rng.random() < 0.08 and not about_words(text):
        text = _slipped(text, rng)
    return text


def _slipped(text: str, rng: random.Random) -> str:
    """One letter of a longer word left out, doubled, or swapped with the next."""
    places = [m.start() + rng.randrange(1, len(m[0]) - 1) for m in re.finditer(r"[a-z]{5,}", text)]
    if not places:
        return text
    at = rng.choice(places)
    a, b = text[at], text[at + 1]
    return text[:at] + rng.choice((b, a + a + b, b + a)) + text[at + 2 :]
