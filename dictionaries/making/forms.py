"""A question or a request put into another form that asks for the same."""

from __future__ import annotations

import random
import re

_HOW = re.compile(
    r"(?:how (?:do|can|should|could|would) I|what is the best way to|how to) (.+)", re.I
)
_TOLD = ("Do you know {}?", "Can you tell me {}?", "I wonder {}.", "Tell me {}.")


def _forms(told: str, *own: str) -> tuple[str, ...]:
    """Of a question that stands in a sentence as `told`, the sentences; then its own."""
    return (*(form.format(told) for form in _TOLD), *own)


_HOWS = _forms(
    "how to {}",
    "How do I {}?",
    "How can I {}?",
    "How should I {}?",
    "how to {}",
    "What's the best way to {}?",
    "Is there a good way to {}?",
    "I want to {}. How?",
    "I need to {} and I don't know how.",
    "I'm trying to {}. Any tips?",
    "I can't work out how to {}.",
    "Help me {}",
    "Any idea how to {}?",
    "What would you do to {}?",
)
_WHY = re.compile(r"why do (.+)", re.I)
_WHYS = _forms(
    "why {}",
    "Why do {}?",
    "I always wondered why {}.",
    "What is the reason that {}?",
    "Explain why {}.",
    "How come {}?",
    "My son asked me why {}.",
)
_WHAT = re.compile(r"what(?:'s| is) (.+)", re.I)
_WHATS = _forms("what {} is", "What is {}?", "What's {}?", "whats {}")
_WHAT_DO = re.compile(r"what do (.+)", re.I)
_WHAT_DOS = _forms("what {}", "What do {}?")
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


def in_another_form(text: str, rng: random.Random) -> str:
    """One sentence in a form drawn from those that its beginning allows; others as they are."""
    for pattern, forms in _FORMS:
        if (found := pattern.fullmatch(text.rstrip(".?! "))) and not re.search(r"[.?!] ", text):
            return rng.choice(forms).format(small(found[1]))
    return text


def small(text: str) -> str:
    """First letter lowered, unless it stands for a name, an acronym or "I"."""
    return text if re.match(r"I\b|[A-Z][A-Z']", text) else text[:1].lower() + text[1:]
