"""What a published dictionary is, in words and numbers, without reading its matrices."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

from .edits import Op
from .formats import Coder
from .formats.common import read_config, text
from .hub import origin
from .packed_layout import MANIFEST

_FURTHEST = 6  # folders up from the files to the README of a repository in the hub's cache
_LOCAL = 2  # elsewhere: what lies further up is another project's


def about(coder: Coder, *, licence: str | None = None) -> dict[str, Any]:
    """Plain JSON values. licence: if its files do not state one; else theirs is told.

    source: the name with its commit of what came from the hub, else None.
    revision: None if the weights are not here. steering.ops: what can be done with a feature;
    steering.why_not: why not more ("" if all can).
    """
    info = coder.info
    several = bool(info.layers)
    ops = [] if info.refused else [op.value for op in Op if info.reads_exactly or not op.reads]
    return {
        "id": info.id,
        "path": str(coder.path),
        "source": origin(coder.path),
        "format": info.format,
        "architecture": info.architecture,
        "model": info.model,
        "site": None if several else {"layer": info.site.layer, "hook": info.site.hook},
        "layers": list(info.layers) if several else [info.site.layer],
        "writes": info.site.hook,
        "reads": info.reads or info.site.hook,
        "d_in": info.d_in,
        "d_out": info.width,
        "d_sae": info.d_sae,
        "k": info.k,
        "normalisation": str(info.norm),
        "licence": stated_licence(coder.path) or licence,
        "revision": info.revision or None,
        "steering": {"ops": ops, "why_not": info.refused or info.why_not},
    }


def stated_licence(path: Path) -> str | None:
    """The `license` in the front matter of the nearest README.md, as the hub has it; else None.

    Of a packed copy without one, what its source stated.
    """
    folder = path.absolute() if path.is_dir() else path.absolute().parent
    furthest = _FURTHEST if origin(folder) else _LOCAL
    for above in itertools.islice((folder, *folder.parents), furthest):
        readme = above / "README.md"
        if readme.is_file():
            return _front_matter(readme)
        if (above / MANIFEST).is_file():
            return text(read_config(above / MANIFEST).get("licence"))
        if above.parent.name == "snapshots":  # the repository's root in the hub's cache
            break
    return None


def _front_matter(readme: Path) -> str | None:
    """Its `license`, or the name or link that stands for "other"."""
    found = re.match(r"---\n(.*?)\n---", readme.read_text("utf-8", "replace"), re.DOTALL)
    said = (
        {}
        if found is None
        else dict(re.findall(r"(?m)^(license\w*):[ \t]*(\S.*?)[ \t]*$", found[1]))
    )
    licence = said.get("license", "").strip("\"'")
    if licence in ("", "other"):
        licence = said.get("license_name", said.get("license_link", licence)).strip("\"'")
    return licence or None
