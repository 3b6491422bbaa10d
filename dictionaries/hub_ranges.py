"""A part of a file on the hub, by HTTP's Range.

The hub sends those who ask for large files on to other hosts, by addresses that are signed for a
while: so each part is asked for at the hub, and the token goes no further.

`huggingface_hub`'s own file system reads parts, too, but takes the whole of a file, gigabytes into
memory, from a server or proxy that does not know ranges.
"""

from __future__ import annotations

import logging
import time

from .errors import DictionaryError

log = logging.getLogger("steerdeck.hub")

_TRIES = 3


class NotInParts(DictionaryError):
    """Why all of a dictionary has to be downloaded; the message goes on after "because"."""


def read_range(url: str, start: int, stop: int, size: int) -> bytes:
    """Bytes [start, stop) of a file of `size` bytes.

    Raises NotInParts where the server knows no ranges or answers with another, and the errors of
    huggingface_hub and of its network library, the latter after three tries.
    """
    from huggingface_hub import errors

    for left in range(_TRIES - 1, 0, -1):
        try:
            return _asked(url, start, stop, size)
        except (NotInParts, errors.HfHubHTTPError):
            raise
        except Exception as error:  # of whichever network library it has today
            log.debug("%s, bytes %d to %d: %s; %d tries left", url, start, stop, error, left)
            time.sleep(1)
    return _asked(url, start, stop, size)


def _asked(url: str, start: int, stop: int, size: int) -> bytes:
    from huggingface_hub import constants
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status, http_stream_backoff

    part = {"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
    with http_stream_backoff(
        "GET",
        url,
        headers={**build_hf_headers(), **part},
        timeout=constants.HF_HUB_DOWNLOAD_TIMEOUT,
        retry_on_exceptions=(),
        retry_on_status_codes=(408, 429),
    ) as response:
        hf_raise_for_status(response)
        if response.status_code != 206 and (start, stop) != (0, size):
            raise NotInParts("the hub, or a proxy before it, does not serve parts of files")
        part_of = response.headers.get("Content-Range")
        if part_of not in (None, *(f"bytes {start}-{stop - 1}/{of}" for of in (size, "*"))):
            raise NotInParts(
                f"the hub, or a proxy before it, answers with {part_of} where bytes "
                f"{start}-{stop - 1}/{size} were asked for"
            )
        coming = int(response.headers.get("Content-Length", stop - start))
        content: bytes = response.read() if coming == stop - start else b""
    if len(content) != stop - start:
        raise OSError(f"{max(coming, len(content))} bytes came where {stop - start} were asked for")
    return content
