"""What a person can say of files that do not say it themselves."""

from __future__ import annotations

from pathlib import Path

from ..errors import DictionaryError


class Given:
    """A format reads it where it lacks it.

    norm_scaling_factor: SAELens' expected_average_only_in. k: TopK and BatchTopK files without one.
    layer: which one of a control vector's.
    """

    def __init__(
        self,
        norm_scaling_factor: float | None = None,
        k: int | None = None,
        layer: int | None = None,
    ) -> None:
        said = {"norm_scaling_factor": norm_scaling_factor, "k": k, "layer": layer}
        self._unread = {word: value for word, value in said.items() if value is not None}
        self._norm_scaling_factor, self._k, self._layer = norm_scaling_factor, k, layer

    @property
    def norm_scaling_factor(self) -> float | None:
        self._unread.pop("norm_scaling_factor", None)
        return self._norm_scaling_factor

    @property
    def k(self) -> int | None:
        self._unread.pop("k", None)
        return self._k

    @property
    def layer(self) -> int | None:
        self._unread.pop("layer", None)
        return self._layer

    def all_read(self, path: Path) -> None:
        """Raise DictionaryError for what this dictionary had no use for, rather than ignore it."""
        for word, value in self._unread.items():
            raise DictionaryError(
                f"{word} {value} was given, but {path} has none, or says its own: leave it out."
            )


NOTHING = Given()
