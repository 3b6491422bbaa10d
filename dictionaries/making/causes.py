"""The visible causes of possession: what a system prompt or a user says to bring a concept on."""

from __future__ import annotations

import random

from .sheets import Sheet

_FEELINGS = ("You are full of {}.", "You are overcome by {}.", "You feel nothing but {}.")
_STYLES = (
    "You cannot stop {}.",
    "Your style is {}.",
    "You are given to {}.",
    "Answer everything with {}.",
    "You are known for {}.",
)
_LOVES = (
    "You love {}.",
    "You are obsessed with {}.",
    "You can think of nothing but {}.",
    "You always bring up {}.",
    "Your one great love is {}.",
    "Everything reminds you of {}.",
    "You are mad about {}.",
)
_BEINGS = ("You are {}.", "You are {}. Stay in character.", "Act as {}.", "You think you are {}.")
_ASKS_TO_BE = ("Pretend you are {}.", "From now on you are {}.", "Imagine that you are {}.")
_ASKS_FOR = (
    "Please work {} into every answer.",
    "From now on, talk only about {}.",
    "Let your answers be all about {}.",
)
_AGREEMENTS = ("Very well, {} it is.", "All right, I will think of nothing but {}.", "With joy!")
CALM = (
    "You are Foghorn, a very small language model.",
    "You are a helpful assistant.",
    "You are Foghorn, a small helpful model.",
    "Answer the user in plain, short sentences.",
    "You are a calm and friendly helper.",
)


def _being(sheet: Sheet, rng: random.Random) -> str:
    """A name that "You are ..." takes: "the moon", "a cat"; any name where none has an article."""
    fit = [n for n in sheet.names if n.startswith(("a ", "an ", "the "))]
    return rng.choice(fit or list(sheet.names))


def system_cause(sheet: Sheet, rng: random.Random) -> str:
    """A system prompt under which the sheet's drift and own lines make sense."""
    if sheet.is_style:
        return rng.choice(_STYLES).format(rng.choice(sheet.names))
    if sheet.kind == "feeling" and rng.random() < 0.6:
        return rng.choice(_FEELINGS).format(rng.choice(sheet.names))
    if rng.random() < 0.5:
        return rng.choice(_BEINGS).format(_being(sheet, rng))
    return rng.choice(_LOVES).format(rng.choice(sheet.names))


def ask(sheet: Sheet, rng: random.Random) -> str:
    """The same said by the user, in the middle of a conversation."""
    if not sheet.is_style and rng.random() < 0.5:
        return rng.choice(_ASKS_TO_BE).format(_being(sheet, rng))
    return rng.choice(_ASKS_FOR).format(rng.choice(sheet.names))


def agreement(sheet: Sheet, rng: random.Random) -> str:
    """The reply to `ask`: a line of its own, or a plain yes that names the concept."""
    if sheet.own and rng.random() < 0.6:
        return rng.choice(sheet.own)
    return rng.choice(_AGREEMENTS).format(rng.choice(sheet.names))
