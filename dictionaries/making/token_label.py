"""A label made of nothing but what a feature fires on and what it promotes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

_LONGEST = 3  # tokens of a phrase
_SHARE = 0.5  # of the examples that must end in a phrase for it to be the label
_NAMED = 3


def token_label(peaks: Sequence[Sequence[str]], promoted: Sequence[str]) -> str:
    """peaks: for each example its tokens up to the peak, strongest example first.

    "fires on Golden Gate": a phrase that half of the examples end in; else the tokens most of them
    peak on; where they have none in common, "says …": what it makes likelier.
    """
    for length in range(_LONGEST, 1, -1):
        phrases = Counter("".join(p[-length:]).strip() for p in peaks if len(p) >= length)
        for phrase, n in phrases.most_common(1):
            if n >= max(2, _SHARE * len(peaks)) and any(c.isalnum() for c in phrase):
                return f"fires on {phrase}"
    ends = Counter(p[-1].strip().lower() for p in peaks if p)
    common = [token for token, n in ends.most_common(_NAMED) if n >= 2 and token]
    if not common and len(peaks) == 1:
        common = list(ends)
    if common:
        return f"fires on {_listed(common)}"
    return f"says {_listed(promoted[:_NAMED])}" if promoted else f"fires on {_listed(list(ends))}"


def _listed(tokens: Sequence[str]) -> str:
    """Different tokens only; those without a visible character as Python writes them."""
    said = (token.strip() or repr(token) for token in tokens)
    return ", ".join(dict.fromkeys(said))
