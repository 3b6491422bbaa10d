"""What the folders around a dictionary are called, wherever they lie."""

from __future__ import annotations

from pathlib import Path

from ..hub import origin


def named(path: Path) -> tuple[str, ...]:
    """The names of a path's folders and its own. Of the hub's cache, which keeps a repository under
    its commit: the repository's two and those inside it.
    """
    known = origin(path)
    if known is None:
        return path.absolute().parts
    repo, _, inside = known.partition("@")
    return (*repo.split("/"), *inside.split("/")[1:])
