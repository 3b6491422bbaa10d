"""What a person typed, as text that can be sent."""

from __future__ import annotations

import re

_HALF = re.compile("[\ud800-\udfff]")


def whole(text: str) -> str:
    """With U+FFFD for half a character (a lone surrogate), which a browser may send as JSON and no
    encoding has.
    """
    return _HALF.sub("\ufffd", text)
