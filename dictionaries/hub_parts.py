"""What a dictionary on the hub is, without its weights: of those, only what opening reads comes.

The snapshot is laid out in a temporary folder as the hub's cache would have it, with stand-ins for
its files (`absent.py`). The cache itself is read and never written.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from . import hub_resume
from .about import about
from .absent import Absent, Read, known
from .errors import DictionaryError
from .formats import Coder
from .hub import Place, cached, find_files, placed
from .hub_help import PATIENCE, explained, refuse_many
from .hub_ranges import NotInParts, read_range

log = logging.getLogger("steerdeck.hub")

_MOST = 16 * 2**20  # bytes; whoever reads more at once is after the matrices
_CONFIGS = (".json", ".yaml", ".md")


def look(
    name: str,
    open: Callable[[Path], Coder],
    *,
    licence: str | None = None,
    progress: bool = True,
    instead: Callable[[str], object] = log.warning,
) -> dict[str, Any]:
    """`about` the dictionary that a path or a name means (see `hub.find_files`).

    If its weights are on the hub, only what `open` reads of them is fetched: then `path` is the
    name with its commit, and `revision` None. What is small, or cannot be had in parts, is
    downloaded; instead: told why, where that is large. progress: draw bars on stderr.

    Raises DictionaryError as `find_files` and `open` do.
    """
    try:
        if (there := _elsewhere(name)) is not None:
            return _in_parts(there, open, licence, progress)
    except NotInParts as why:
        instead(f"{name} is downloaded, because {why}.")
    except OSError as error:
        instead(f"{name} is downloaded, because no temporary files can be made ({error}).")
    return about(open(find_files(name, kind="dictionary", progress=progress)), licence=licence)


class _Elsewhere(NamedTuple):
    """A dictionary whose weights would have to be downloaded."""

    place: Place
    commit: str
    files: Mapping[str, int]  # path in the repository -> bytes; of what belongs to it


def _elsewhere(name: str) -> _Elsewhere | None:
    """None where all is here, or nothing large to be fetched; also where the hub does not say:
    `find_files` then finds it in the cache, or tells what is wrong.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils import filter_repo_objects

    if os.path.exists(os.path.expanduser(name)):
        return None
    place = placed(name, "dictionary")
    if cached(place):
        return None
    try:
        api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
        found = api.model_info(
            place.repo, revision=place.revision, files_metadata=True, timeout=PATIENCE
        )
    except Exception as error:  # its own errors and its network library's share no base
        log.debug("%s was not listed: %s", place.repo, error)
        return None
    if not found.sha:
        return None
    sizes = {file.rfilename: file.size or 0 for file in found.siblings or []}
    refuse_many(place.repo, place.sub, list(sizes))
    wanted = filter_repo_objects(sizes, allow_patterns=place.patterns, ignore_patterns=place.never)
    there = _Elsewhere(place, found.sha, {file: sizes[file] for file in wanted})
    large = [file for file, size in there.files.items() if size >= hub_resume.LARGE]
    inside = any(f"{file}/".startswith(f"{place.sub}/" if place.sub else "") for file in large)
    return there if inside and not all(_cached_file(there, file) for file in large) else None


def _cached_file(there: _Elsewhere, file: str) -> str | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(there.place.repo, file, revision=there.commit)
    return found if isinstance(found, str) else None


def _in_parts(
    there: _Elsewhere, open: Callable[[Path], Coder], licence: str | None, progress: bool
) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="steerdeck-") as folder, _bar(there, progress) as came:
        mirror = _Mirror(there, Path(folder).absolute(), came)
        try:
            with known(mirror.files):
                mirror.fetch_configs()
                found = about(open(mirror.snapshot / there.place.sub), licence=licence)
        except DictionaryError as error:
            if mirror.failure is None:
                raise DictionaryError(mirror.spoken(str(error))) from error
        if mirror.failure is not None:  # whatever the reader made of it
            raise mirror.failure
    steering = found["steering"]
    return {
        **found,
        "path": mirror.spoken(found["path"]),
        "steering": {**steering, "why_not": mirror.spoken(steering["why_not"])},
    }


class _Mirror:
    """A snapshot of stand-ins. failure: the first thing that went wrong with fetching."""

    def __init__(self, there: _Elsewhere, folder: Path, came: Callable[[int], object]) -> None:
        from huggingface_hub.file_download import repo_folder_name

        self._there = there
        self._came = came
        self.failure: DictionaryError | None = None
        repo = repo_folder_name(repo_id=there.place.repo, repo_type="model")
        self.snapshot = folder / repo / "snapshots" / there.commit
        self.files: list[Absent] = []
        for name, size in there.files.items():
            if ".." in PurePosixPath(name).parts:
                raise DictionaryError(f"{there.place.repo} lists a file called {name!r}.")
            self._lay(name, size)

    def _lay(self, name: str, size: int) -> None:
        path = self.snapshot / name.lstrip("/")
        if (here := _cached_file(self._there, name)) is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.symlink_to(Path(here).absolute())
        else:
            self.files.append(Absent(path, size, self._reader(name, size)))

    def _reader(self, name: str, size: int) -> Read:
        from huggingface_hub import hf_hub_url

        repo, commit = self._there.place.repo, self._there.commit
        url = hf_hub_url(repo, name, revision=commit, endpoint=os.environ.get("HF_ENDPOINT"))

        def read(start: int, stop: int) -> bytes:
            try:
                if stop - start > _MOST:
                    raise NotInParts(f"opening it reads {1e-6 * (stop - start):.0f} MB of {name}")
                content = read_range(url, start, stop, size)
            except NotInParts as why:
                self.failure = self.failure or why
                raise
            except Exception as error:
                told = explained(error, repo, commit, "Start again")
                self.failure = self.failure or told
                raise told from error
            self._came(len(content))
            return content

        return read

    def fetch_configs(self) -> None:
        """Have those whole that formats and `about` read: in its folder and the ones above."""
        sub = PurePosixPath(self._there.place.sub)
        for file in self.files:
            folder = PurePosixPath(file.path.relative_to(self.snapshot).parent.as_posix())
            if file.path.suffix in _CONFIGS and folder in (sub, *sub.parents):
                file.fetch(0, _MOST)

    def spoken(self, said: str) -> str:
        """With the name that people know in place of the temporary folder."""
        return said.replace(str(self.snapshot), f"{self._there.place.repo}@{self._there.commit}")


@contextmanager
def _bar(there: _Elsewhere, shown: bool) -> Iterator[Callable[[int], object]]:
    """Takes the bytes that came; drawn on a terminal once it has taken a second."""
    from huggingface_hub.utils import tqdm

    of = f"reading {there.place.repo} in parts"
    options: dict[str, Any] = {"unit": "B", "unit_scale": True, "delay": 1.0, "leave": False}
    with tqdm(desc=of, disable=None if shown else True, **options) as bar:
        yield bar.update
