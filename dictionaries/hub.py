"""A name -> files: a local folder as it is, anything else from the Hugging Face hub.

Downloads go through `huggingface_hub`: into its shared cache, with its progress bars, its token
(HF_TOKEN) and its mirror setting (HF_ENDPOINT). What is in the cache is used when the hub cannot
be reached.
"""

from __future__ import annotations

import logging
import os
import re
from pathlib import Path
from typing import Any, Literal

from .errors import DictionaryError

log = logging.getLogger("steerdeck.hub")

Kind = Literal["model", "dictionary"]

_NAME = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+?))?(/(?P<sub>[^@]+?))?/?")
_MODEL_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
_NEVER = ["*examples.safetensors", "original/*", "*consolidated*", "*.onnx*", "*.gguf"]
_WEIGHTS = re.compile(
    r"(^|/)(sae_weights\.safetensors|sae\.safetensors|params\.npz|params\.safetensors|ae\.pt"
    r"|checkpoints/final\.safetensors)$"
)


def find_files(
    name: str, *, revision: str | None = None, kind: Kind, progress: bool = True
) -> Path:
    """The folder that `name` means, downloaded if need be.

    name: an existing path, or "org/repo", "org/repo/sub/folder", either with "@revision" after the
    repo. revision: a commit, tag or branch; pin a commit and the files never change (and the hub
    need not be asked again). Of a dictionary's repository only its folder is fetched.

    Raises DictionaryError: no such repo or folder, gated, unreachable and not cached.
    """
    local = os.path.expanduser(name)
    if local and os.path.exists(local):
        return Path(local)
    found = _NAME.fullmatch(name)
    if not found or name.startswith((".", "~", "/")):
        raise DictionaryError(
            f"{name!r} is neither an existing path nor a name on the hub such as "
            "'org/repo' or 'org/repo/sub/folder'."
        )
    repo, sub = found["repo"], (found["sub"] or "").strip("/")
    revision = revision or found["revision"]
    patterns = _patterns(kind, sub)
    snapshot = _cached(repo, revision, patterns)
    if snapshot is None or not (snapshot / sub).exists():
        if kind == "dictionary":
            _refuse_many(repo, sub, revision)
        snapshot = _download(repo, revision, patterns, progress)
    folder = snapshot / sub
    if not folder.exists():
        inside = [path.rpartition("/")[0] for path in _listing(repo, revision)]
        raise DictionaryError(
            f"the repository {repo} has no {sub!r}; it has {_some(sorted(set(inside) - {''}))}."
        )
    log.info("%s is %s at commit %s", name, repo, snapshot.name)
    return folder


def _patterns(kind: Kind, sub: str) -> list[str]:
    """sparsify keeps the model's name in the repository's own config.json."""
    prefix = f"{sub}/" if sub else ""
    if kind == "model":
        return [prefix + pattern for pattern in _MODEL_FILES]
    return [f"{prefix}*", "config.json"]


def _cached(repo: str, revision: str | None, patterns: list[str]) -> Path | None:
    """A pinned commit never changes: if it is in the cache, the hub is not asked."""
    from huggingface_hub import errors, snapshot_download

    if not re.fullmatch(r"[0-9a-f]{40}", revision or ""):
        return None
    options = {"revision": revision, "allow_patterns": patterns, "ignore_patterns": _NEVER}
    try:
        return Path(snapshot_download(repo, local_files_only=True, **options))
    except errors.LocalEntryNotFoundError:
        return None


def _download(repo: str, revision: str | None, patterns: list[str], progress: bool) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                repo,
                revision=revision,
                allow_patterns=patterns,
                ignore_patterns=_NEVER,
                endpoint=os.environ.get("HF_ENDPOINT"),
                tqdm_class=None if progress else _silent(),
            )
        )
    except Exception as error:  # its own errors and its network library's share no base
        raise _explained(error, repo, revision) from error


def _listing(repo: str, revision: str | None) -> list[str]:
    """Every file of a repository by path; empty if the hub cannot say."""
    from huggingface_hub import HfApi

    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    try:
        about = api.model_info(repo, revision=revision)
    except Exception as error:  # a courtesy: what is wrong comes out when downloading
        log.debug("%s was not listed: %s", repo, error)
        return []
    return [file.rfilename for file in about.siblings or []]


def _refuse_many(repo: str, sub: str, revision: str | None) -> None:
    """A hundred dictionaries are hundreds of gigabytes: one must be named."""
    prefix = f"{sub}/" if sub else ""
    inside = [path for path in _listing(repo, revision) if path.startswith(prefix)]
    found = sorted({path[: m.start()] for path in inside if (m := _WEIGHTS.search(path))})
    if len(found) > 1:
        raise DictionaryError(
            f"{repo}/{prefix} holds {len(found)} dictionaries; name one of them: "
            f"{_some([f'{repo}/{folder}'.rstrip('/') for folder in found])}."
        )


def _some(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return (", ".join(names[:5]) or "no folders") + more


def _silent() -> Any:
    from tqdm.auto import tqdm

    class Silent(tqdm):  # type: ignore[type-arg]
        def __init__(self, *args: Any, **options: Any) -> None:
            options.pop("name", None)  # huggingface_hub's own
            super().__init__(*args, **{**options, "disable": True})

    return Silent


def _explained(error: Exception, repo: str, revision: str | None) -> DictionaryError:
    """What to do about an error of huggingface_hub."""
    from huggingface_hub import constants, errors

    where = f"{os.environ.get('HF_ENDPOINT', constants.ENDPOINT)}/{repo}"
    if isinstance(error, errors.GatedRepoError):
        why = f"is gated: accept its licence at {where}, then set HF_TOKEN to a token of yours"
    elif isinstance(error, errors.RepositoryNotFoundError):
        why = f"was not found at {where}: check the spelling, or set HF_TOKEN if it is private"
    elif isinstance(error, errors.RevisionNotFoundError):
        why = f"has no revision {revision!r}: name a branch, a tag or a whole commit hash"
    elif isinstance(error, errors.LocalEntryNotFoundError):
        why = (
            f"is not in the cache ({constants.HF_HUB_CACHE}) and {where} cannot be reached: "
            "connect once, or give the path of a folder that holds the files"
        )
    else:
        reason = str(error).partition("\n")[0].rstrip(".")
        why = f"could not be downloaded from {where}: {reason}"
    return DictionaryError(f"{repo} {why}.")
