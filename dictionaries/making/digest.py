"""What tells whether two runs were given the same: one word for much text."""

from __future__ import annotations

import hashlib


def digest(*values: object) -> str:
    """Of values whose repr says all of them, in an order that is always the same: no sets."""
    return hashlib.blake2b(repr(values).encode(), digest_size=8).hexdigest()
