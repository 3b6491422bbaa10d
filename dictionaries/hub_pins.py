"""The commit that a repository is kept at whose name says none: that of its first download here.

A branch moves, and a server that is started again should be what it was. The commit stands in the
hub's own cache, as a ref beside `refs/main`, which every program that downloads moves; so it goes
when the cache is emptied.
"""

from __future__ import annotations

import logging
import os
import re
from contextlib import suppress
from pathlib import Path

from .hub_help import PATIENCE

log = logging.getLogger("steerdeck.hub")

COMMIT = re.compile(r"[0-9a-f]{40}")


def pinned(repo: str) -> str | None:
    """The commit that `repo` ("org/repo") is kept at; None before its first download."""
    try:
        said = _ref(repo).read_text("ascii")
    except (OSError, ValueError):
        return None
    return said if COMMIT.fullmatch(said) else None


def pin(repo: str, commit: str) -> None:
    """Keep it at that commit from now on. A cache that cannot be written keeps none."""
    ref = _ref(repo)
    new = ref.with_name(f"{ref.name}.{os.getpid()}.tmp")
    try:
        ref.parent.mkdir(parents=True, exist_ok=True)
        new.write_text(commit, "ascii")
        os.replace(new, ref)
    except OSError as error:
        with suppress(OSError):
            new.unlink()
        log.warning("%s is not kept at commit %s: %s", repo, commit, error)


def unpin(repo: str) -> str | None:
    """Have the next download take what the hub has then; tells where it was kept."""
    was = pinned(repo)
    with suppress(FileNotFoundError):
        _ref(repo).unlink()
    return was


def newest(repo: str) -> str | None:
    """The commit of its main branch on the hub; None where the hub does not say."""
    from huggingface_hub import HfApi

    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    try:
        commit: str | None = api.model_info(repo, timeout=PATIENCE).sha
        return commit
    except Exception as error:  # its own errors and its network library's share no base
        log.debug("%s was not looked up: %s", repo, error)
        return None


def moving_on(repo: str) -> str:
    """Behind its commit, in messages."""
    return f"kept since its download; `steerdeck dictionaries update {repo}` moves on"


def _ref(repo: str) -> Path:
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder: str = repo_folder_name(repo_id=repo, repo_type="model")
    return Path(constants.HF_HUB_CACHE).expanduser() / folder / "refs" / "steerdeck"
