"""What to say when the hub does not give what a name asks for, and what to do about it."""

from __future__ import annotations

import logging
import os
import re

from .errors import DictionaryError

log = logging.getLogger("steerdeck.hub")

# The weights of a folder that is one dictionary.
WEIGHTS = re.compile(
    r"(^|/)(sae_weights\.(?:safetensors|pt|dcp(?:/\.metadata|/\w+\.distcp)?)|sae\.safetensors"
    r"|params\.npz|params\.safetensors|ae\.pt|latest_ckpt\.safetensors"
    r"|checkpoints/final\.safetensors|packed\.safetensors|directions\.safetensors"
    r"|params_layer_\d+\.safetensors|W_(?:enc|dec)_\d+\.safetensors)$"
)
PATIENCE = 10.0  # seconds that the hub may take to say whether it is there
_FILES = re.compile(r"[^/]+\.(pt|pth)|layer_\d+\.safetensors")


def listing(repo: str, revision: str | None) -> list[str] | None:
    """Every file of a repository by path; empty if the hub will not say. None: it does not answer.

    Whoever asks first is spared the hub's own code, which waits for most of a minute or for ever.
    """
    from huggingface_hub import HfApi, errors

    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    try:
        about = api.model_info(repo, revision=revision, timeout=PATIENCE)
    except Exception as error:  # a courtesy: what is wrong comes out when downloading
        log.debug("%s was not listed: %s", repo, error)
        return [] if isinstance(error, errors.HfHubHTTPError) else None
    return [file.rfilename for file in about.siblings or []]


def refuse_many(repo: str, sub: str, files: list[str]) -> None:
    """A hundred dictionaries are hundreds of gigabytes: one must be named. files: of the repo."""
    prefix = f"{sub}/" if sub else ""
    found = _dictionaries([path for path in files if path.startswith(prefix)])
    if len(found) > 1:
        raise DictionaryError(
            f"{repo}/{prefix} holds {len(found)} dictionaries; name one of them: "
            f"{some([f'{repo}/{place}'.rstrip('/') for place in found])}."
        )


def _dictionaries(files: list[str]) -> list[str]:
    """The folders that are one each, and the files that are (Qwen-Scope) and lie in none; where
    there are neither, control vectors.
    """
    folders = {path[: m.start()] for path in files if (m := WEIGHTS.search(path))}
    inside = tuple(f"{folder}/" if folder else "" for folder in folders)
    single = {f for f in files if _FILES.fullmatch(f.rpartition("/")[2])}
    found = folders | {file for file in single if not file.startswith(inside)}
    return sorted(found or {file for file in files if file.endswith(".gguf")})


def some(names: list[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return (", ".join(names[:5]) or "nothing") + more


_KEPT = "What has come is kept: start again, and the download goes on where it stopped"


def explained(
    error: Exception, repo: str, revision: str | None, remedy: str = _KEPT
) -> DictionaryError:
    """What to do about an error of huggingface_hub. remedy: for those that may pass."""
    from huggingface_hub import constants, errors

    where = f"{os.environ.get('HF_ENDPOINT', constants.ENDPOINT)}/{repo}"
    if isinstance(error, errors.GatedRepoError):
        why = _gated(where)
    elif isinstance(error, errors.RepositoryNotFoundError):
        why = f"was not found at {where}: check the spelling, or set HF_TOKEN if it is private"
    elif isinstance(error, errors.RevisionNotFoundError):
        why = f"has no revision {revision!r}: name a branch, a tag or a whole commit hash"
    elif isinstance(error, errors.LocalEntryNotFoundError):
        why = (
            f"is not in the cache ({constants.HF_HUB_CACHE}), or not all of it, and {where} cannot "
            "be reached: connect and start again (a download goes on where it stopped), or give "
            "the path of a folder that holds the files"
        )
    else:
        reason = str(error).partition("\n")[0].rstrip(".") or type(error).__name__
        why = f"could not be downloaded from {where}: {reason}. {remedy}"
    return DictionaryError(f"{repo} {why}.")


def _gated(where: str) -> str:
    from huggingface_hub import get_token

    if get_token() is None:
        return (
            f"is gated: accept its licence at {where}, then set HF_TOKEN to a token of that "
            "account (huggingface.co/settings/tokens)"
        )
    return (
        f"is gated, and the account of the token in use was not let in: accept the licence at "
        f"{where} with that account (some are granted by hand, after a while), or set HF_TOKEN to "
        "a token of an account that has"
    )
