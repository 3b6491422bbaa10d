"""Our own layout, written by `steerdeck dictionaries pack`: a feature is two contiguous reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..dictionary import Dictionary
from ..edits import Norm
from ..errors import DictionaryError
from ..info import HOOKS, Site
from ..packed_layout import JOURNAL, MANIFEST, PER_FEATURE, ROWS, SIDES, TYPES, VERSION, unfinished
from ..per_feature import Constant
from ..records import Records
from ..weights import DecoderNorm, Weights
from .common import (
    NOTHING,
    Config,
    Given,
    assemble,
    name_of,
    number,
    read_config,
    section,
    text,
    whole_number,
)
from .tensor_file import Tensors

FORMAT = "packed"


def recognise(folder: Path) -> bool:
    return unfinished(folder) or ((folder / MANIFEST).is_file() and (folder / ROWS).is_file())


def open(folder: Path, id: str | None = None, given: Given = NOTHING) -> Dictionary:
    if unfinished(folder):
        raise DictionaryError(
            f"{folder} is not packed to its end ({JOURNAL} is still there): run the same "
            "`steerdeck dictionaries pack` again, it goes on from where it stopped."
        )
    path = folder / MANIFEST
    config = read_config(path)
    if config.get("packed") != VERSION:
        raise DictionaryError(
            f"{path} is of version {config.get('packed')!r} of the packed layout; this one reads "
            f"{VERSION}. Pack the dictionary again."
        )
    tensors = Tensors(folder / ROWS)
    d_in, d_sae = whole_number(config, "d_in", path), whole_number(config, "d_sae", path)
    records = {
        side: _records(section(section(config, "records"), side), tensors, side, d_in, d_sae, path)
        for side in SIDES
        if side == "decoder" or side in section(config, "records")
    }
    return assemble(
        folder,
        [path, tensors.path],
        _weights(records, section(config, "folding"), tensors, d_in, d_sae, path),
        id=name_of(id or text(config.get("id")), folder.absolute().name),
        format=FORMAT,
        architecture=text(config.get("architecture")) or "standard",
        site=stated_site(section(config, "site"), path),
        model=text(config.get("model")),
        norm=_enum(Norm, config.get("norm"), path),
        k=None if config.get("k") is None else whole_number(config, "k", path),
        why_not=text(config.get("why_not")) or "",
        of_module=config.get("of_module") is True,
        less_value_bias=config.get("less_value_bias") is True,
        packed_from=text(section(config, "source").get("revision")) or "",
    )


def _records(
    config: Config, tensors: Tensors, side: str, d_in: int, d_sae: int, path: Path
) -> Records:
    dtype, numbers = TYPES.get(str(config.get("dtype"))), config.get("numbers")
    if dtype is None:
        raise DictionaryError(
            f"{path}: the {side}'s type is {config.get('dtype')!r}, not one of {', '.join(TYPES)}."
        )
    if not isinstance(numbers, list) or not {*map(str, numbers)} <= {*PER_FEATURE[side]}:
        raise DictionaryError(
            f"{path}: the {side}'s numbers are {numbers!r}; known are "
            f"{', '.join(PER_FEATURE[side])}."
        )
    return Records(tensors.bytes(side, d_sae), d_in, dtype, [*map(str, numbers)], tensors.path)


def _weights(
    records: dict[str, Records],
    folding: Config,
    tensors: Tensors,
    d_in: int,
    d_sae: int,
    path: Path,
) -> Weights:
    constants = section(folding, "constants")
    found: dict[str, Any] = {}
    for side, side_records in records.items():
        for word in PER_FEATURE[side]:
            if word in side_records.names:
                found[word] = side_records.numbers(word)
            elif word in constants:
                found[word] = Constant(d_sae, number(constants, word, path))
    if "encoder" in records and "gate" not in found:
        raise DictionaryError(f"{path} has no 'gate' (the encoder's bias). Pack it again.")
    return Weights(
        enc=records.get("encoder"),
        dec=records["decoder"],
        b_dec=tensors.vector("b_dec", d_in),
        gate=found.pop("gate", Constant(d_sae, 0.0)),
        centred=folding.get("centred") is True,
        mean_free=folding.get("mean_free") is True,
        enc_scale=number(folding, "enc_scale", path),
        decoder_norm=_enum(DecoderNorm, folding.get("decoder_norm"), path),
        **found,
    )


def stated_site(config: Config, path: Path) -> Site:
    """The `layer` and `hook` of a config of ours."""
    layer, hook = config.get("layer"), config.get("hook")
    if not isinstance(layer, int) or isinstance(layer, bool) or layer < 0 or hook not in HOOKS:
        raise DictionaryError(
            f"{path}: the site is layer {layer!r}, hook {hook!r}; hooks are {', '.join(HOOKS)}."
        )
    return Site(layer, str(hook))


def _enum(kind: Any, value: object, path: Path) -> Any:
    try:
        return kind(value)
    except ValueError:
        raise DictionaryError(
            f"{path}: {value!r} is not one of {', '.join(one.value for one in kind)}."
        ) from None
