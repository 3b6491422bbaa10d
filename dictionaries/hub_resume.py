"""Large files of a repository, into the hub's cache, going on where an interrupted start stopped.

`huggingface_hub` resumes a broken connection, but a new process begins a file anew: of a shard of
5 GB nothing is kept. Here what has come of a file stays in the cache's blobs folder, under the
file's own hash, until it is whole; then it is what the hub's own code would have put there, and
`snapshot_download` finds it.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from .hub_progress import Tally

LARGE = 16 * 2**20  # bytes; a smaller file is soon had again
_AT_ONCE = 4


def fetch_large(
    repo: str,
    options: Mapping[str, Any],
    progress: bool,
    tally: Tally,
    check: Callable[[list[str]], object] = lambda files: None,
) -> None:
    """Fetch what `snapshot_download(repo, **options)` would fetch of large files.

    check: told the names of all files first, to raise where they are too many. Files above
    MAX_HTTP_DOWNLOAD_SIZE are left to the hub's own code: only hf_xet can fetch them. Nothing
    happens where the hub cannot be reached. Raises the errors of huggingface_hub.
    """
    from huggingface_hub import constants, errors, snapshot_download

    try:
        silent = Tally().bar(shown=False)
        listed: Any = snapshot_download(repo, dry_run=True, tqdm_class=silent, **options)
    except errors.DryRunError:
        return
    check([file.filename for file in listed])
    sizes = range(LARGE, constants.MAX_HTTP_DOWNLOAD_SIZE + 1)
    large = [file for file in listed if file.will_download and file.file_size in sizes]
    tally.total = sum(file.file_size for file in large)
    bar = tally.bar(progress)

    def fetch(file: Any) -> None:
        _fetch(repo, file.filename, file.commit_hash, options.get("endpoint"), bar)

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        try:
            list(pool.map(fetch, large))
        except BaseException:  # Ctrl-C too: the pool waits for the files that are on their way
            tally.stopped.set()
            raise


def _fetch(
    repo: str, name: str, commit: str, endpoint: str | None, bar: Callable[..., Any]
) -> None:
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.file_download import http_get, repo_folder_name
    from huggingface_hub.utils import WeakFileLock, build_hf_headers

    url = hf_hub_url(repo, name, revision=commit, endpoint=endpoint)
    about = get_hf_file_metadata(url, endpoint=endpoint)
    assert about.etag is not None
    folder = repo_folder_name(repo_id=repo, repo_type="model")
    blob = Path(constants.HF_HUB_CACHE).expanduser() / folder / "blobs" / about.etag
    blob.parent.mkdir(parents=True, exist_ok=True)
    partial = blob.with_name(f"{blob.name}.partial")
    with WeakFileLock(blob.with_name(f"{blob.name}.partial.lock")):
        if blob.exists():
            return
        with partial.open("ab") as file:
            http_get(
                url,
                file,
                resume_size=file.tell(),
                headers=build_hf_headers(),
                expected_size=about.size,
                displayed_filename=name,
                tqdm_class=bar,
            )
        if not _is(partial, about.etag):
            partial.unlink()
            raise OSError(f"{name} came in parts that do not fit together and was thrown away")
        os.replace(partial, blob)


def _is(path: Path, etag: str) -> bool:
    """Whether the content is what its name says; large files are named by their SHA-256."""
    if len(etag) != 64:
        return True
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == etag
