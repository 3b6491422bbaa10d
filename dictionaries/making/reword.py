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

from .synonyms import about_words, exchanged

_AS_IT_IS = 0.2  # of messages
_SHORT = 3  # words at most: a greeting, a word of thanks; nothing is built around it

_HOW = re.compile(
    r"(?:how (?:do|can|should|could|would) I|what is the best way to|how to) (.+)", re.I
)
_HOWS = (
    "How do I {}?",
    "How can I {}?",
    "How should I {}?",
    "how to {}",
    "What's the best way to {}?",
    "Is there a good way to {}?",
    "Do you know how to {}?",
    "Can you tell me how to {}?",
    "I want to {}. How?",
    "I need to {} and I don't know how.",
    "I'm trying to {}. Any tips?",
    "I can't work out how to {}.",
    "Help me {}",
    "Any idea how to {}?",
    "Tell me how to {}.",
    "What would you do to {}?",
)
_WHY = re.compile(r"why do (.+)", re.I)
_WHYS = (
    "Why do {}?",
    "Do you know why {}?",
    "Can you tell me why {}?",
    "I wonder why {}.",
    "I always wondered why {}.",
    "Tell me why {}.",
    "What is the reason that {}?",
    "Explain why {}.",
    "How come {}?",
    "My son asked me why {}.",
)
_WHAT = re.compile(r"what(?:'s| is) (.+)", re.I)
_WHATS = (
    "What is {}?",
    "What's {}?",
    "Do you know what {} is?",
    "Can you tell me what {} is?",
    "I wonder what {} is.",
    "Tell me what {} is.",
    "whats {}",
)
_WHAT_DO = re.compile(r"what do (.+)", re.I)
_WHAT_DOS = (
    "What do {}?",
    "Do you know what {}?",
    "Can you tell me what {}?",
    "I wonder what {}.",
    "Tell me what {}.",
)
_ASKED = re.compile(r"((?:why|which|who|where|when|how|is|are|does|did|was) .+)", re.I)
_ASKEDS = ("{}?", "Tell me, {}?", "What do you think, {}?", "Maybe you can tell me: {}?", "{}")
_PLEASE = re.compile(
    r"(?:please |can you |could you |would you |will you )?"
    r"((?:write|tell|give|make|suggest|describe|explain|help|show|sing|name|recommend|invent) .+)",
    re.I,
)
_PLEASES = (
    "{}.",
    "{} please",
    "Please {}.",
    "Can you {}?",
    "Could you {}?",
    "Could you please {}?",
    "Would you {}?",
    "I would like you to {}.",
    "I'd love it if you could {}.",
    "Go on, {}.",
)
_FORMS = (
    (_HOW, _HOWS),
    (_WHY, _WHYS),
    (_WHAT, _WHATS),
    (_WHAT_DO, _WHAT_DOS),
    (_PLEASE, _PLEASES),
    (_ASKED, _ASKEDS),
)

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
            (0.4, _in_another_form),
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


def _in_another_form(text: str, rng: random.Random) -> str:
    for pattern, forms in _FORMS:
        if (found := pattern.fullmatch(text.rstrip(".?! "))) and not re.search(r"[.?!] ", text):
            return rng.choice(forms).format(small(found[1]))
    return text


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


def small(text: str) -> str:
    """First letter lowered, unless it stands for a name, an acronym or "I"."""
    return text if re.match(r"I\b|[A-Z][A-Z']", text) else text[:1].lower() + text[1:]
