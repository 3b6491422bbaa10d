"""A file of vectors -> a file of their activations and reconstructions, in bounded memory."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .dictionary import Dictionary
from .errors import DictionaryError
from .formats import Coder

ROOM = 128 * 2**20  # bytes of activations at once
FEW = 64  # vectors in that room: of wider dictionaries features are gone through block by block
JOINT_ROOM = 4 * 2**30  # the same, where all vectors are needed at once


class Put(Protocol):
    def __call__(self, name: str, row: int, values: Tensor, column: int = 0) -> None:
        """Write values from a row on, and from a column on within each row."""


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
        by_blocks = step < FEW and isinstance(coder, Dictionary) and coder.info.reads_exactly
        if by_blocks:
            step = max(FEW, ROOM // (4 * (coder.info.d_in + coder.info.width)))
        code = _by_blocks if by_blocks else _at_once
        fired = 0
        with _written(target, {"acts": acts, "recon": recon}, coder) as put:
            for start in range(0, n, step):
                part = _finite(x[start : start + step].float(), start, source)
                fired += code(coder, part, start, put)
                advance(min(start + step, n), n)
    return Encoded(acts, recon, fired / (n * math.prod(rest)))


def _at_once(coder: Coder, x: Tensor, row: int, put: Put) -> int:
    """How many features fired, all of them in hand together."""
    f, back = coder.coded(x)
    put("acts", row, f)
    put("recon", row, back)
    return int(f.count_nonzero())


def _by_blocks(coder: Coder, x: Tensor, row: int, put: Put) -> int:
    """The same for more vectors, so that fewer passes over a huge file do."""
    assert isinstance(coder, Dictionary)
    back, fired = torch.zeros(len(x), coder.info.width), 0
    for start, f in coder.encoded(x):
        put("acts", row, f, start)
        if count := int(f.count_nonzero()):
            back += f @ coder.weights.directions(start, start + f.shape[-1])
            fired += count
    put("recon", row, coder.whole_again(back, x))
    return fired


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
def _written(target: Path, shapes: dict[str, tuple[int, ...]], coder: Coder) -> Iterator[Put]:
    """A float32 safetensors file, filled by rows or stretches of them."""
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

            def put(name: str, row: int, values: Tensor, column: int = 0) -> None:
                width = math.prod(shapes[name][1:])
                values = values.to(torch.float32).reshape(len(values), -1).contiguous()
                whole = values.shape[1] == width
                for i, part in enumerate([values] if whole else values):
                    file.seek(8 + len(text) + places[name] + 4 * ((row + i) * width + column))
                    file.write(part.numpy().data.cast("B"))

            yield put
        os.replace(partial, target)
    except OSError as error:
        raise DictionaryError(f"{target} cannot be written: {error.strerror}.") from error
    finally:
        with suppress(OSError):  # its folder may be none; what went wrong is told above
            partial.unlink(missing_ok=True)
