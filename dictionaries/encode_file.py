"""A file of vectors -> a file of their activations and reconstructions, in bounded memory."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .errors import DictionaryError
from .formats import Coder

ROOM = 128 * 2**20  # bytes of activations at once
JOINT_ROOM = 4 * 2**30  # the same, where all vectors are needed at once


class Encoded(NamedTuple):
    """What was written: shapes of `acts` and `recon`, and how many features fired a vector."""

    acts: tuple[int, ...]
    recon: tuple[int, ...]
    l0: float


def encode_file(
    coder: Coder,
    source: Path,
    target: Path,
    advance: Callable[[int, int], None] = lambda done, total: None,
) -> Encoded:
    """Read `x` [n, d_in] and write `acts` [n, d_sae] and `recon` [n, d_out], float32, as the format
    defines them. Dictionaries over several layers have an axis for those after n in all three.

    target appears whole or not at all. advance(vectors done, of how many).
    Raises DictionaryError for a wrong shape, for NaN, and for what a format does not define.
    """
    with _opened(source) as x:
        shape = _checked(coder, source, tuple(x.get_shape()))
        n, rest = shape[0], shape[1:-1]
        acts, recon = (n, *rest, coder.info.d_sae), (n, *rest, coder.info.width)
        step = max(1, ROOM // (4 * math.prod(acts[1:])))
        if coder.joint:
            step = n
            if 4 * math.prod(acts) > JOINT_ROOM:
                raise DictionaryError(
                    f"the activations of this {coder.info.architecture} depend on all vectors at "
                    f"once, and {n} of them would take {4 * math.prod(acts) / 2**30:.1f} GiB: give "
                    "fewer (one sequence, or one batch)."
                )
        fired = 0
        with _written(target, {"acts": acts, "recon": recon}, coder) as put:
            for start in range(0, n, step):
                f, back = coder.coded(_finite(x[start : start + step].float(), start, source))
                put("acts", start, f)
                put("recon", start, back)
                fired += int(f.count_nonzero())
                advance(min(start + step, n), n)
    return Encoded(acts, recon, fired / (n * math.prod(rest)))


@contextmanager
def _opened(source: Path) -> Iterator[Any]:
    """The tensor x of a file, read slice by slice."""
    try:
        with safe_open(source, "pt") as file:
            names = sorted(file.keys())
            if "x" not in names:
                raise DictionaryError(
                    f"{source} has no tensor 'x' (it has {', '.join(names[:12]) or 'none'}): save "
                    "the vectors to encode as 'x', such as "
                    "safetensors.torch.save_file({'x': x}, path)."
                )
            yield file.get_slice("x")
    except (OSError, SafetensorError) as error:
        reason = str(error).rstrip(".")
        raise DictionaryError(f"{source} cannot be read as safetensors: {reason}.") from error


def _checked(coder: Coder, source: Path, shape: tuple[int, ...]) -> tuple[int, ...]:
    info = coder.info
    layers = (len(info.layers),) if info.layers else ()
    wanted = (*layers, info.d_in)
    words = ", ".join(["n", *map(str, wanted)])
    if len(shape) == 3 and not layers and math.prod(shape[1:]) == info.d_in:
        raise DictionaryError(
            f"x of {source} has shape {list(shape)}; {info.id!r} takes the heads side by side: "
            f"x.flatten(1) of shape [{words}]."
        )
    if len(shape) != 1 + len(wanted) or shape[1:] != wanted or shape[0] < 1:
        meaning = "n vectors of the layers it reads" if layers else "n vectors"
        raise DictionaryError(
            f"x of {source} has shape {list(shape)}; {info.id!r} takes [{words}]: {meaning}, "
            f"{info.d_in} numbers each, as they are at {info.reads or info.site} of "
            f"{info.model or 'its model'}."
        )
    return shape


def _finite(x: Tensor, start: int, source: Path) -> Tensor:
    bad = ~x.flatten(1).isfinite().all(-1)
    if bad.any():
        raise DictionaryError(
            f"vector {start + int(bad.nonzero()[0])} of {source} holds NaN or infinity."
        )
    return x


@contextmanager
def _written(
    target: Path, shapes: dict[str, tuple[int, ...]], coder: Coder
) -> Iterator[Callable[[str, int, Tensor], None]]:
    """A float32 safetensors file, filled row by row: put(name, first row, rows)."""
    about = {"dictionary": coder.info.id, "revision": coder.info.revision}
    header: dict[str, Any] = {"__metadata__": {**about, "format": coder.info.format}}
    places, at = {}, 0
    for name, shape in shapes.items():
        end = at + 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, end]}
        places[name], at = at, end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    partial = target.with_name(f".{target.name}.partial")
    try:
        with partial.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + at)

            def put(name: str, row: int, values: Tensor) -> None:
                file.seek(8 + len(text) + places[name] + 4 * row * math.prod(shapes[name][1:]))
                file.write(values.to(torch.float32).contiguous().numpy().data.cast("B"))

            yield put
        os.replace(partial, target)
    except OSError as error:
        raise DictionaryError(f"{target} cannot be written: {error.strerror}.") from error
    finally:
        with suppress(OSError):  # its folder may be none; what went wrong is told above
            partial.unlink(missing_ok=True)
