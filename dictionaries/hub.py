"""A name -> files: a local path as it is, anything else from the Hugging Face hub.

Downloads go through `huggingface_hub`: into its shared cache, with its progress bars, its token
(HF_TOKEN) and its mirror setting (HF_ENDPOINT). What is in the cache is used when the hub cannot
be reached, and a large file goes on where an interrupted start stopped.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal, NamedTuple

from .errors import DictionaryError
from .hub_help import WEIGHTS, explained, listing, refuse_many, some
from .hub_pins import COMMIT, moving_on, pin, pinned
from .hub_progress import Tally, Told
from .hub_resume import fetch_large

log = logging.getLogger("steerdeck.hub")

Kind = Literal["model", "dictionary"]

_NAME = re.compile(
    r"(?P<repo>[\w.-]+/[\w.-]+)"
    r"(@(?P<revision>refs/(?:pr|convert)/[\w.-]+|[\w./-]+?))?"  # what the hub calls so has slashes
    r"(/(?P<sub>[^@]+?))?/?"
)
_MODEL_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
_FILE = re.compile(r"[^/]+\.(pt|pth|safetensors|gguf)")  # a dictionary that is one file of a folder
NEVER = [
    "*examples.safetensors",
    "original/*",
    "*consolidated*",
    "*.onnx*",
    "*.gguf",
    "*checkpoints/ae_*",
]


class Place(NamedTuple):
    """What a hub's name means. sub: a folder or file of the repository, "" for all of it.
    patterns: of the files that belong to it; never: of those that do not, whatever matches. kept:
    the name says no revision, and `revision` is the commit of the first download (`hub_pins`); None
    before that.
    """

    repo: str
    revision: str | None
    sub: str
    patterns: list[str]
    kept: bool = False

    @property
    def never(self) -> list[str]:
        """`NEVER`, but for what is named itself."""
        return [pattern for pattern in NEVER if not fnmatch(self.sub, pattern)]


def find_files(
    name: str,
    *,
    revision: str | None = None,
    kind: Kind,
    progress: bool = True,
    told: Told | None = None,
) -> Path:
    """The folder (or dictionary file) that `name` means, downloaded if need be.

    name: an existing path, or "org/repo", "org/repo/sub/folder", "org/repo/file.pt", each with
    "@revision" after the repo. revision: a commit, tag, branch or refs/pr/N; pin a commit and the
    files never change (and the hub need not be asked again). Where none is said, the repository is
    kept at the commit of its first download. Of a dictionary's repository only its folder, or its
    file and the configs beside it, is fetched, and the README; the weights of a folder stand for
    it. progress: draw bars on stderr. told: called with the bytes that are there of large files and
    all that are wanted, as they come.

    Raises DictionaryError: no such repo or folder, gated, unreachable and not cached.
    """
    local = os.path.expanduser(name)
    if local and os.path.exists(local):
        return Path(local)
    place = placed(name, kind, revision)
    repo, sub = place.repo, place.sub
    snapshot = cached(place)
    if snapshot is None or not (snapshot / sub).exists():
        snapshot = _download(place, kind, progress, Tally(told))
    path = snapshot / sub
    if not path.exists():
        inside = listing(repo, place.revision) or []
        folders = sorted({file.rpartition("/")[0] for file in inside} - {""})
        raise DictionaryError(
            f"the repository {repo} has no {sub!r}; it has {some(folders or inside)}."
            + _of_pin(place)
        )
    if place.kept and place.revision is None:
        pin(repo, snapshot.name)
    kept = f", {moving_on(repo)}" if place.kept else ""
    log.info("%s is %s at commit %s%s", name, repo, snapshot.name, kept)
    return path


def placed(name: str, kind: Kind, revision: str | None = None) -> Place:
    """What a name that is no path asks of the hub; see `find_files`. Raises DictionaryError."""
    found = _NAME.fullmatch(name)
    if not found or name.startswith((".", "~", "/")):
        raise DictionaryError(
            f"{name!r} is neither an existing path nor a name on the hub such as "
            "'org/repo' or 'org/repo/sub/folder'."
        )
    sub = (found["sub"] or "").strip("/")
    if kind == "dictionary" and (weights := WEIGHTS.search(sub)):
        sub = sub[: weights.start()] or sub  # the folder: its configs are needed, too
    repo, said = found["repo"], revision or found["revision"]
    return Place(repo, said or pinned(repo), sub, _patterns(kind, sub), kept=said is None)


def _of_pin(place: Place) -> str:
    """Of a commit that the name did not say, for who misses something there."""
    if not place.kept or place.revision is None:
        return ""
    return f" It is at commit {place.revision}, {moving_on(place.repo)}."


def origin(path: Path) -> str | None:
    """Where a path in the hub's cache came from, as a pinned name: "org/repo@commit/sub/folder".

    None for a path that is not in the cache.
    """
    parts = path.absolute().parts
    at = _cached_at(parts)
    if at is None:
        return None
    repo = parts[at].removeprefix("models--").replace("--", "/", 1)
    return "/".join([f"{repo}@{parts[at + 2]}", *parts[at + 3 :]])


def other_commits(path: Path) -> list[Path]:
    """What a path in the hub's cache would be at the other commits that are there."""
    parts = path.absolute().parts
    at = _cached_at(parts)
    if at is None:
        return []
    snapshots, commit, inside = Path(*parts[: at + 2]), parts[at + 2], parts[at + 3 :]
    return [other.joinpath(*inside) for other in snapshots.glob("*") if other.name != commit]


def _cached_at(parts: Sequence[str]) -> int | None:
    """Where a path in the hub's cache has its models--org--repo/snapshots/commit."""
    for at, (repo, word, commit) in enumerate(zip(parts, parts[1:], parts[2:], strict=False)):
        if repo.startswith("models--") and word == "snapshots" and COMMIT.match(commit):
            return at
    return None


def bare(name: str) -> str:
    """A hub's name without its revision: "org/repo/sub/folder". Paths are as they are."""
    found = _NAME.fullmatch(name)
    if found is None or name.startswith(".") or os.path.exists(os.path.expanduser(name)):
        return name
    return "/".join(part for part in (found["repo"], found["sub"]) if part)


def _patterns(kind: Kind, sub: str) -> list[str]:
    """sparsify and circuit-tracer keep the model's name in the config one folder up, or at the
    root; the licence stands in the repository's README.
    """
    prefix = f"{sub}/" if sub else ""
    if kind == "model":
        return [prefix + pattern for pattern in _MODEL_FILES]
    folder, _, file = sub.rpartition("/")
    root = ["config.json", "config.yaml", "README.md"]
    if WEIGHTS.fullmatch(sub):
        return [sub, "*.json", "*.yaml", *root]
    if not _FILE.fullmatch(file):
        return [f"{prefix}*", *([f"{folder}/config.json"] if folder else []), *root]
    # A folder may be called like a file (jbloom's v5_32k_layer_8.pt): both are asked for.
    above = f"{folder}/" if folder else ""
    stem = file.rpartition(".")[0]
    beside = [f"{above}config.json", f"{above}config.yaml", f"{above}{stem}_cfg.json"]
    if folder.endswith("/checkpoints"):  # of dictionary_learning
        beside.append(f"{folder.removesuffix('checkpoints')}config.json")
    return [sub, f"{sub}/*", f"{sub}.*cards.sqlite", f"{sub}.presets.json", *beside, *root]


def cached(place: Place) -> Path | None:
    """The snapshot that has all of it, if that is known without the hub.

    A pinned commit never changes: if all of it is in the cache, the hub is not asked. What belongs
    to it must be known: transformers caches single files, and lists nothing.
    """
    from huggingface_hub import constants, errors, get_cached_repo_tree, snapshot_download

    repo, revision, _, patterns, _ = place
    if not COMMIT.fullmatch(revision or ""):
        return None
    options = {"revision": revision, "allow_patterns": patterns, "ignore_patterns": place.never}
    try:
        get_cached_repo_tree(repo, revision=revision, cache_dir=constants.HF_HUB_CACHE)
        return Path(snapshot_download(repo, local_files_only=True, **options))
    except (errors.CachedRepoTreeNotFoundError, errors.LocalEntryNotFoundError):
        return None


def _download(place: Place, kind: Kind, progress: bool, tally: Tally) -> Path:
    from huggingface_hub import errors, snapshot_download

    repo, revision, sub, patterns, _ = place
    options = {
        "revision": revision,
        "allow_patterns": patterns,
        "ignore_patterns": place.never,
        "endpoint": os.environ.get("HF_ENDPOINT"),
    }
    bar = None if progress else Tally().bar(shown=False)

    def check(files: list[str]) -> None:
        if kind == "dictionary":
            refuse_many(repo, sub, files)

    try:
        files = listing(repo, revision)
        if files is None:
            return Path(snapshot_download(repo, local_files_only=True, **options))
        check(files)
        fetch_large(repo, options, progress, tally, check)
        return Path(snapshot_download(repo, tqdm_class=bar, **options))
    except DictionaryError:
        raise
    except Exception as error:  # its own errors and its network library's share no base
        kept = _of_pin(place) if isinstance(error, errors.RevisionNotFoundError) else ""
        raise DictionaryError(f"{explained(error, repo, revision)}{kept}") from error
