"""How many prompt tokens may join a step in which replies are running.

A step takes as long as its decoding rows alone, and some more for every prompt token. Both are
measured as the service runs, so that the same rule holds for any model, machine and number of rows:
a step with a chunk takes at most SLOWER times one without. Alone, prompts are computed in full
chunks, whatever was measured.
"""

from __future__ import annotations

SLOWER = 1.8  # 2 is promised; measured times scatter
LEAST = 16  # tokens: a prompt gets on, however slow they are
_NEWEST = 0.3  # what the latest step weighs in an average


class Pace:
    """most: tokens of a full chunk."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._alone: float | None = None  # seconds of a step that only decodes
        self._token: float | None = None  # seconds more for a prompt token

    def chunk(self, decoding: int) -> int:
        """Prompt tokens for the next step beside that many decoding rows."""
        if decoding == 0:
            return self.most
        if self._alone is None or self._token is None:
            return min(LEAST, self.most)
        fit = (SLOWER - 1) * self._alone / max(self._token, 1e-9)
        return max(min(int(fit), self.most), min(LEAST, self.most))

    def took(self, decoding: int, prompt: int, seconds: float) -> None:
        """Note a step of that many decoding rows and prompt tokens."""
        if decoding == 0:
            # Not beside running rows, where the weights are read anyway: an upper bound.
            if prompt and (self._token is None or seconds / prompt < self._token):
                self._token = seconds / prompt
        elif prompt == 0:
            self._alone = _average(self._alone, seconds)
        elif self._alone is not None:
            self._token = _average(self._token, max(seconds - self._alone, 0.0) / prompt)
        elif self._token is not None and seconds > prompt * self._token:
            self._alone = seconds - prompt * self._token  # until one is measured


def _average(old: float | None, new: float) -> float:
    return new if old is None else old + _NEWEST * (new - old)
