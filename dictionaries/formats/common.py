"""What every format needs: configs, checked tensors, hook names, ids, revisions."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..containers import open_tensors
from ..dictionary import HOOKS, Dictionary, Info, Site
from ..edits import Norm
from ..errors import DictionaryError
from ..per_feature import HELD, OnDisk, PerFeature
from ..tensors import FileTensor
from ..weights import Matrix, Weights

Config = Mapping[str, Any]

_HASHED_WHOLE = 64 * 2**20  # bytes; of a longer file only samples are read
_SAMPLE = 2**20


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


def whole_number(config: Config, key: str, path: Path) -> int:
    """A positive count from a config."""
    value = config.get(key)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise DictionaryError(f"{path}: {key!r} should be a whole number from 1 up, not {value!r}.")
    return value


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


class Tensors:
    """The tensors of one file, handed out by name and checked for shape and finite values."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._stored = open_tensors(path)

    def __contains__(self, name: str) -> bool:
        return name in self._stored

    @property
    def names(self) -> list[str]:
        return sorted(self._stored)

    def shape(self, name: str) -> tuple[int, ...]:
        if name not in self._stored:
            raise DictionaryError(
                f"{self.path} lacks the tensor {name!r}; it has "
                f"{', '.join(self.names[:12]) or 'none'}."
            )
        return self._stored[name].shape

    def vector(self, name: str, length: int | None = None) -> Tensor:
        """[length] float32; any length if None. For what has d_in numbers; see `per_feature`."""
        self._check_vector(name, length)
        return self._finite(name, self._stored[name].load())

    def per_feature(self, name: str, length: int | None = None) -> PerFeature:
        """A vector of d_sae numbers, checked at once if it is short and read on demand if not."""
        self._check_vector(name, length)
        if self.shape(name)[0] > HELD:
            return OnDisk(self._stored[name], self.path)
        return self.vector(name)

    def _check_vector(self, name: str, length: int | None) -> None:
        shape = self.shape(name)
        if len(shape) != 1 or shape[0] < 1 or (length is not None and shape[0] != length):
            wanted = "a vector" if length is None else f"{length} numbers"
            raise DictionaryError(
                f"tensor {name!r} of {self.path} has shape {list(shape)}; wanted {wanted}."
            )

    def scalar(self, name: str) -> float:
        """A single number, whatever its shape."""
        if any(size != 1 for size in self.shape(name)):
            raise DictionaryError(
                f"tensor {name!r} of {self.path} has shape {list(self.shape(name))}; wanted a "
                "single number."
            )
        return float(self._finite(name, self._stored[name].load()))

    def matrix(self, name: str, features: int, width: int, *, axis: int) -> Matrix:
        """A matrix seen feature by feature. Its shape says which axis counts the features.

        axis: the one that does so in this format, believed only where the shape is square.
        """
        shape = self.shape(name)
        if shape == (features, width) and features != width:
            axis = 0
        elif shape == (width, features) and features != width:
            axis = 1
        elif shape != (features, width):
            raise DictionaryError(
                f"tensor {name!r} of {self.path} has shape {list(shape)}; its biases say "
                f"{features} features of {width} numbers."
            )
        if not self._stored[name].dtype.is_floating_point:
            raise DictionaryError(
                f"tensor {name!r} of {self.path} holds {self._stored[name].dtype}; wanted floats."
            )
        return Matrix(self._stored[name], axis)

    def bytes(self, name: str, features: int) -> FileTensor:
        """Records of raw bytes, one a feature: uint8 [features, bytes of a record]."""
        shape = self.shape(name)
        found = self._stored[name]
        if len(shape) != 2 or shape[0] != features or not isinstance(found, FileTensor):
            raise DictionaryError(
                f"tensor {name!r} of {self.path} has shape {list(shape)}; wanted {features} "
                "records of bytes."
            )
        return found

    def _finite(self, name: str, values: Tensor) -> Tensor:
        if not torch.isfinite(values).all():
            raise DictionaryError(
                f"tensor {name!r} of {self.path} holds NaN or infinity: the file is damaged. "
                "Download it again."
            )
        return values


_LENS_NAME = re.compile(r"blocks\.(\d+)\.(?:attn\.)?hook_(\w+)")


def lens_site(name: object, path: Path) -> Site:
    """The site of a TransformerLens hook name: "blocks.8.hook_resid_post"."""
    found = _LENS_NAME.fullmatch(name) if isinstance(name, str) else None
    hook = (found[2] if found[2] != "z" else "hook_z") if found else ""
    if not found or hook not in HOOKS:
        raise DictionaryError(
            f"{path}: the hook {name!r} is not a place that can be steered; those are "
            f"blocks.<layer>.hook_ and {', '.join(HOOKS[:-1])}, or blocks.<layer>.attn.hook_z."
        )
    return Site(int(found[1]), hook)


def name_of(wanted: str | None, *parts: str) -> str:
    """The dictionary's id: what the caller says, else one made of folder names."""
    if wanted is None:
        return re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join(parts)).strip("-.") or "dictionary"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", wanted):
        raise DictionaryError(
            f"{wanted!r} cannot name a dictionary: letters, digits, '.', '_' and '-' only."
        )
    return wanted


def revision(files: Sequence[Path]) -> str:
    """16 hex digits that change when the files do.

    blake2b over each file's name and size and its content: all of it up to 64 MiB, and of a longer
    file 64 samples of 1 MiB spread evenly from the first byte to the last.
    """
    digest = hashlib.blake2b(digest_size=8)
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.name}\0{size}\0".encode())
        with path.open("rb") as file:
            if size <= _HASHED_WHOLE:
                while piece := file.read(_SAMPLE):
                    digest.update(piece)
                continue
            samples = _HASHED_WHOLE // _SAMPLE
            for i in range(samples):
                file.seek((size - _SAMPLE) * i // (samples - 1))
                digest.update(file.read(_SAMPLE))
    return digest.hexdigest()


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
    why_not: str = "",
) -> Dictionary:
    """A Dictionary of checked parts. why_not: see Info; its encoder is then left out."""
    if k is not None and not 1 <= k <= weights.d_sae:
        raise DictionaryError(f"{path}: k is {k}, but there are {weights.d_sae} features.")
    info = Info(
        id=id,
        format=format,
        architecture=architecture,
        site=site,
        d_in=weights.d_in,
        d_sae=weights.d_sae,
        norm=norm,
        k=k,
        model=model,
        revision=revision(files),
        reads_exactly=weights.enc is not None,
        why_not=why_not,
    )
    return Dictionary(info, path, weights)
