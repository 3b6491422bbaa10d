"""How many prompt tokens may join a step in which replies are running.

A step takes as long as its decoding rows alone, and some more for every prompt token; a row more
costs about as much as a prompt token does. Both are measured as the service runs, so that the same
rule holds for any model, machine and number of rows: a step with a chunk takes at most SLOWER times
what a step will take without one, once the replies that now wait are running too. So a long prompt
holds nobody up, and a crowd that arrives at once is not let in by drops, which would leave its
first replies running in steps that are half empty. While nobody runs, a prompt is computed in full
chunks, whatever was measured, and several share a step of up to CROWD of them: they begin together,
and end sooner than if the first began at once and slowed the others down.
"""

from __future__ import annotations

SLOWER = 1.8  # 2 is promised; measured times scatter
LEAST = 4  # tokens: a prompt gets on, however slow they are
CROWD = 4  # full chunks, of as many prompts at least
PATIENCE = 4.0  # seconds of such a step, which who comes during it waits for
_NEWEST = 0.3  # what the latest step weighs in an average


class Pace:
    """most: tokens of a full chunk."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._alone: float | None = None  # seconds of a step that only decodes `_rows`
        self._rows = 0
        self._token: float | None = None  # seconds more for a prompt token

    def chunk(self, decoding: int, coming: int = 0) -> int:
        """Prompt tokens for the next step beside that many decoding rows.

        coming: rows whose prompt is not finished, and those that wait for one and will get it.
        """
        if decoding == 0:
            if self._token is None:
                return self.most
            patient = int(PATIENCE / max(self._token, 1e-9))
            return max(self.most, min(self.most * min(coming, CROWD), patient))
        if self._token is None or (alone := self._of(decoding)) is None:
            return min(LEAST, self.most)
        fit = (SLOWER - 1) * alone / max(self._token, 1e-9) + SLOWER * coming
        return max(min(int(fit), self.most), min(LEAST, self.most))

    def took(self, decoding: int, prompt: int, seconds: float) -> None:
        """Note a step of that many decoding rows and prompt tokens."""
        alone = self._of(decoding)
        if decoding == 0:
            # Not beside running rows, where the weights are read anyway: an upper bound.
            if prompt and (self._token is None or seconds / prompt < self._token):
                self._token = seconds / prompt
        elif prompt == 0:
            self._alone, self._rows = _average(alone, seconds), decoding
        elif alone is not None:
            self._token = _average(self._token, max(seconds - alone, 0.0) / prompt)
        elif self._token is not None and seconds > prompt * self._token:
            # until one is measured
            self._alone, self._rows = seconds - prompt * self._token, decoding

    def _of(self, decoding: int) -> float | None:
        """Seconds of a step that only decodes that many rows; None if nothing is known of any."""
        if self._alone is None:
            return None
        return max(self._alone + (decoding - self._rows) * (self._token or 0.0), 0.0)


def _average(old: float | None, new: float) -> float:
    return new if old is None else old + _NEWEST * (new - old)
