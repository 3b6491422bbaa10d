"""What every format needs: configs, hook names, ids, revisions."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeGuard

from ..dictionary import Dictionary
from ..edits import Norm
from ..errors import DictionaryError
from ..info import HOOKS, Info, Site
from ..weights import Weights
from ..whole import Whole
from .given import NOTHING as NOTHING
from .given import Given as Given
from .revision import revision

Config = Mapping[str, Any]


def read_config(path: Path) -> dict[str, Any]:
    """A JSON object from a file."""
    try:
        config = json.loads(path.read_bytes())
    except OSError as error:
        raise DictionaryError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise DictionaryError(f"{path} is not JSON: {error}.") from error
    if not isinstance(config, dict):
        raise DictionaryError(f"{path} holds a JSON {type(config).__name__}, not an object.")
    return config


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML mapping from a file. Aliases are refused: a few of them can stand for gigabytes."""
    import yaml

    try:
        content = path.read_text("utf-8")
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(content)):
            raise yaml.YAMLError("it has aliases (*name): write them out")
        config = yaml.safe_load(content)
    except OSError as error:
        raise DictionaryError(f"{path} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise DictionaryError(
            f"{path} is not YAML that is read: {' '.join(str(error).split())}."
        ) from error
    if not isinstance(config, dict):
        raise DictionaryError(f"{path} holds a YAML {type(config).__name__}, not a mapping.")
    return config


def whole_number(config: Config, key: str, path: Path) -> int:
    """A positive count from a config."""
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise DictionaryError(f"{path}: {key!r} should be a whole number from 1 up, not {value!r}.")
    return value


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether float32 holds what a config says: JSON has NaN, and whole numbers of any length."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= 3e38


def number(config: Config, key: str, path: Path) -> float:
    """A number from a config."""
    value = config.get(key)
    if not is_number(value):
        raise DictionaryError(f"{path}: {key!r} should be a number, not {value!r}.")
    return float(value)


def section(config: Config, key: str) -> Config:
    """A nested object of a config; empty if it is missing or something else."""
    value = config.get(key)
    return value if isinstance(value, dict) else {}


def text(value: object) -> str | None:
    """A config's word, if it is one."""
    return value if isinstance(value, str) and value else None


def declared(config: Config, key: str, actual: int, path: Path) -> None:
    """Refuse weights of another size than their config says."""
    if isinstance(config.get(key), int) and config[key] != actual:
        raise DictionaryError(
            f"{path} declares {key} {config[key]}, but the tensors have {actual}: config and "
            "weights do not belong together."
        )


_MODULE = re.compile(r"(?:\w+\.)*(?:layers|h)\.(\d+)(?:\.(mlp|self_attn|attn|attention))?")
_OUTPUTS = {
    None: "resid_post",
    "mlp": "mlp_out",
    "self_attn": "attn_out",
    "attn": "attn_out",
    "attention": "attn_out",
}


def of_module(name: object) -> bool:
    """Whether a hook's name is that of a module, whose own output it then is."""
    return isinstance(name, str) and _MODULE.fullmatch(name) is not None


def lens_site(name: object, path: Path) -> tuple[Site, str]:
    """The site of a TransformerLens hook name ("blocks.8.hook_resid_post") or of a module's output
    as transformers names it ("model.layers.8"), and why it is not one that can be steered ("" if it
    is); its hook is then the publisher's own word.
    """
    module = _MODULE.fullmatch(name) if isinstance(name, str) else None
    if module:
        return Site(int(module[1]), _OUTPUTS[module[2]]), ""
    found = re.fullmatch(r"(?:blocks\.(\d+)\.)?([\w.]+)", name) if isinstance(name, str) else None
    why = (
        f"{path}: the hook {name!r} is not a place that can be steered; those are "
        f"blocks.<layer>.hook_ and {', '.join(HOOKS[:-1])}, or blocks.<layer>.attn.hook_z."
    )
    if not found:
        raise DictionaryError(why)
    word = re.fullmatch(r"(?:attn\.)?hook_(\w+)", found[2])
    hook = "hook_z" if word and word[1] == "z" else word[1] if word else ""
    if found[1] and hook in HOOKS:
        return Site(int(found[1]), hook), ""
    return Site(int(found[1] or 0), found[2]), why


def reading(place: object) -> str:
    """Why the activations of a transcoder that reads this place cannot be read."""
    return (
        f"it is a transcoder: it reads {place} and writes another place, where its activations "
        "cannot be read. Use the op 'add'."
    )


def number_after(mark: str, *names: str) -> int | None:
    """The number that follows a mark in a file's or folder's name ("-l19" for "l"); the last
    name that has one decides.
    """
    for name in reversed(names):
        found = re.search(rf"(?:^|[-_.]){mark}(\d+)(?![0-9A-Za-z])", name)
        if found:
            return int(found[1])
    return None


def name_of(wanted: str | None, *parts: str) -> str:
    """The dictionary's id: what the caller says, else one made of folder names."""
    if wanted is None:
        return re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join(parts)).strip("-.") or "dictionary"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", wanted):
        raise DictionaryError(
            f"{wanted!r} cannot name a dictionary: letters, digits, '.', '_' and '-' only."
        )
    return wanted


def assemble(
    path: Path,
    files: Sequence[Path],
    weights: Weights,
    *,
    id: str,
    format: str,
    architecture: str,
    site: Site,
    model: str | None,
    norm: Norm = Norm.NONE,
    k: int | None = None,
    d_in: int | None = None,
    reads: str = "",
    why_not: str = "",
    refused: str = "",
    of_module: bool = False,
    less_value_bias: bool = False,
    packed_from: str = "",
    layers: tuple[int, ...] = (),
    part: str = "",
    whole: Whole | None = None,
) -> Dictionary:
    """A Dictionary of checked parts. why_not … layers: see Info; with a why_not, single rows read
    nothing. d_in: of what is read, where that is another width than what is written. part: which
    of the files' dictionaries it is, where they hold several.
    """
    if k is not None and not 1 <= k <= weights.d_sae:
        raise DictionaryError(f"{path}: k is {k}, but there are {weights.d_sae} features.")
    info = Info(
        id=id,
        format=format,
        architecture=architecture,
        site=site,
        d_in=weights.d_in if d_in is None else d_in,
        d_sae=weights.d_sae,
        norm=norm,
        k=k,
        model=model,
        revision=revision(files, part),
        reads_exactly=not why_not,
        why_not=why_not,
        d_out=None if d_in is None else weights.d_in,
        reads=reads,
        refused=refused,
        of_module=of_module,
        less_value_bias=less_value_bias,
        packed_from=packed_from,
        layers=layers,
    )
    return Dictionary(info, path, replace(weights, enc=None) if why_not else weights, whole)
