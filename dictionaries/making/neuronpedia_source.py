"""Which dictionary an export of Neuronpedia's is of, as its `source.jsonl` says, and whether it is
this one: the labels and maxima of another fit in without any error, and are all wrong.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..dictionary import Dictionary, Info
from ..errors import DictionaryError
from ..hub import origin

Source = dict[str, Any]

_UNFOLDED = ("topk", "abstopk", "temporal")

# What a source's id says of the place, by hook points ("transcoder": told by what is read).
_PLACES = {
    "res": ("resid_pre", "resid_mid", "resid_post"),
    "att": ("attn_out", "hook_z"),
    "mlp": ("mlp_out",),
    "transcoder": ("mlp_out",),
}
# What published paths say of a dictionary, where they say it at all.
_WORDS = (
    r"gemma-scope-[\w.-]+",
    r"width_\w+?(?=[/_]l0|[/]|$)",
    r"average_l0_\d+",
)
_UNITS = {"k": (1000, 1024), "m": (1000**2, 1024**2)}


def folded(info: Info) -> bool:
    """Whether Neuronpedia scales the decoder rows of this one to length 1 as it loads it."""
    return info.architecture not in _UNFOLDED


def read_source(folder: Path) -> Source:
    """The first line of `source.jsonl`; empty without one."""
    path = folder / "source.jsonl"
    try:
        found = json.loads(path.read_text("utf-8").partition("\n")[0]) if path.is_file() else {}
    except (OSError, ValueError, RecursionError) as error:
        raise DictionaryError(f"{path} cannot be read as JSON: {error}.") from error
    return found if isinstance(found, dict) else {}


def check_source(source: Source, dictionary: Dictionary) -> None:
    """Raise DictionaryError if the export says that it is another dictionary's."""
    wrong = next(contradictions(source, dictionary), None)
    if wrong:
        raise DictionaryError(
            f"the export is of {source.get('modelId')}/{source.get('id')} ({_published(source)}), "
            f"but {dictionary.info.id!r} {wrong}: it belongs to another dictionary."
        )


def _published(source: Source) -> str:
    """ "org/repo/folder" on the hub, as far as it is told."""
    parts = (source.get("hfRepoId"), source.get("hfFolderId"))
    return "/".join(part.strip("/") for part in parts if isinstance(part, str) and part)


def contradictions(source: Source, dictionary: Dictionary) -> Iterator[str]:
    """What of the dictionary is not as a source says, whose id has its layer, its place and its
    width: "12-gemmascope-res-16k".
    """
    id, info = str(source.get("id")), dictionary.info
    layer = re.match(r"(\d{1,6})-", id)
    if layer and int(layer[1]) != info.site.layer:
        yield f"sits at {info.site}"
    place = next((word for word in re.split(r"[-_]", id) if word in _PLACES), None)
    if place and info.site.hook not in _PLACES[place]:
        yield f"sits at {info.site}"
    if place and bool(info.reads) != (place == "transcoder"):
        yield "is a transcoder" if info.reads else "is none"
    width = re.search(r"-(\d{1,6})([km])$", id)
    if width and not _wide(int(width[1]), width[2], info.d_sae):
        yield f"has {info.d_sae:,} features"
    yield from _elsewhere(source, dictionary.path)


def _wide(said: int, unit: str, d_sae: int) -> bool:
    """Whether so many may be called "16k": some count by 1000, some by 1024, and some round up."""
    small, large = _UNITS[unit]
    return (said - 0.5) * small <= d_sae < (said + 1) * large


def _elsewhere(source: Source, path: Path) -> Iterator[str]:
    published, here = _published(source), origin(path)
    if isinstance(source.get("hfRepoId"), str) and here:
        theirs, ours = published.lower() + "/", re.sub(r"@[^/]*", "", here).lower() + "/"
        if not (theirs.startswith(ours) or ours.startswith(theirs)):
            yield f"came from {here}"
    for word in _WORDS:
        said, found = re.findall(word, published), re.findall(word, str(path))
        if said and found and said[-1] != found[-1]:
            yield f"lies in {path}"
