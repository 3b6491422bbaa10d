"""The packed layout: what stands in its two files, for those who write and those who read it.

`packed.json` says what the dictionary is and how its rows fold; `packed.safetensors` holds b_dec
and two matrices of records (see `records.py`): the decoder's, and the encoder's if it is read.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch

from .dictionary import Info
from .errors import DictionaryError
from .per_feature import Constant, PerFeature
from .weights import Rows, Weights

MANIFEST, ROWS = "packed.json", "packed.safetensors"
JOURNAL = "packing.json"  # there while packing is not finished
VERSION = 1

SIDES = ("encoder", "decoder")  # in the order of the file
PER_FEATURE = {"encoder": ("gate", "offset", "gain", "threshold"), "decoder": ("dec_scale",)}
TYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float8_e4m3fn": torch.float8_e4m3fn,
    "float8_e5m2": torch.float8_e5m2,
}
_FOLDING = ("centred", "mean_free", "enc_scale", "decoder_norm")  # plain values of Weights
_INFO = (
    "id",
    "architecture",
    "site",
    "norm",
    "k",
    "model",
    "reads_exactly",
    "why_not",
    "of_module",
    "less_value_bias",
)


@dataclass(frozen=True, slots=True)
class Side:
    """The records of one matrix, as they are to be written."""

    name: str
    rows: Rows
    dtype: torch.dtype  # of the stored row
    numbers: Mapping[str, PerFeature]  # behind each row, in this order

    @property
    def record(self) -> int:
        """Bytes of one."""
        return self.rows.width * self.dtype.itemsize + 4 * len(self.numbers)


def sides(weights: Weights) -> list[Side]:
    """What is written, in the order of the file. Float64 rows become what is read of them."""
    found = []
    for name, rows in zip(SIDES, (weights.enc, weights.dec), strict=True):
        if rows is None:
            continue
        dtype = rows.dtype if rows.dtype in TYPES.values() else torch.float32
        numbers = {
            word: value
            for word in PER_FEATURE[name]
            if (value := getattr(weights, word)) is not None and not isinstance(value, Constant)
        }
        found.append(Side(name, rows, dtype, numbers))
    return found


def manifest(info: Info, weights: Weights) -> dict[str, Any]:
    """What `packed.json` says. Raises DictionaryError for a dictionary that it cannot say."""
    _complete(info)
    named = {dtype: name for name, dtype in TYPES.items()}
    return {
        "packed": VERSION,
        "source": {"format": info.format, "revision": info.packed_from or info.revision},
        **{name: getattr(info, name) for name in _INFO},
        "site": asdict(info.site),
        "d_in": info.d_in,
        "d_sae": info.d_sae,
        "folding": {
            **{name: getattr(weights, name) for name in _FOLDING},
            "decoder_norm": weights.decoder_norm.value,
            "constants": {
                word: value.value
                for words in PER_FEATURE.values()
                for word in words
                if isinstance(value := getattr(weights, word), Constant)
            },
        },
        "records": {
            side.name: {"dtype": named[side.dtype], "numbers": list(side.numbers)}
            for side in sides(weights)
        },
    }


def _complete(info: Info) -> None:
    """Refuse what the layout has no word for, rather than leave it out."""
    known = {*_INFO, "format", "revision", "packed_from", "d_in", "d_sae"}
    for field in fields(info):
        if field.name not in known and getattr(info, field.name) != field.default:
            raise DictionaryError(
                f"dictionary {info.id!r} cannot be packed: its {field.name} is "
                f"{getattr(info, field.name)!r}, which the packed layout does not hold. Use it as "
                "it is."
            )


def beginning(weights: Weights) -> tuple[bytes, int]:
    """(the file up to its first record: safetensors' header and b_dec, bytes of the whole file)."""
    b_dec = weights.b_dec.float().contiguous().numpy().tobytes()
    entries: dict[str, Any] = {}
    end = 0
    for name, dtype, shape, size in [
        ("b_dec", "F32", [len(weights.b_dec)], len(b_dec)),
        *(
            (side.name, "U8", [side.rows.features, side.record], side.rows.features * side.record)
            for side in sides(weights)
        ),
    ]:
        entries[name] = {"dtype": dtype, "shape": shape, "data_offsets": [end, end + size]}
        end += size
    encoded = json.dumps(entries).encode()
    encoded += b" " * (-len(encoded) % 64)
    length = struct.pack("<Q", len(encoded))
    return length + encoded + b_dec, len(length) + len(encoded) + end


def unfinished(folder: Path) -> bool:
    return (folder / JOURNAL).is_file()
