"""The tensors of one checkpoint, handed out by name, checked for shape and finite values."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from ..containers import open_tensors
from ..errors import DictionaryError
from ..per_feature import HELD, OnDisk, PerFeature
from ..tensors import FileTensor
from ..weights import Matrix


class Tensors:
    """Of what `open_tensors` opens; only headers are read then."""

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

    def sides(self, name: str) -> tuple[int, int]:
        """The shape of a matrix, whichever way it lies."""
        shape = self.shape(name)
        if len(shape) != 2:
            raise DictionaryError(
                f"tensor {name!r} of {self.path} has shape {list(shape)}; wanted a matrix."
            )
        return shape[0], shape[1]

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

    def width(self, name: str, features: int, *, axis: int) -> int:
        """How long a feature's row of a matrix is; axis: as for `matrix`."""
        shape = self.shape(name)
        if len(shape) != 2 or features not in shape:
            raise DictionaryError(
                f"tensor {name!r} of {self.path} has shape {list(shape)}; its biases say "
                f"{features} features."
            )
        return shape[1 - (axis if shape[0] == shape[1] else shape.index(features))]

    def stack(self, name: str, features: int, layers: int, width: int) -> Matrix:
        """A [features, layers, width] tensor as a matrix of rows layers * width long."""
        shape = self.shape(name)
        if shape != (features, layers, width):
            raise DictionaryError(
                f"tensor {name!r} of {self.path} has shape {list(shape)}; wanted "
                f"{[features, layers, width]}: features, layers written, numbers."
            )
        return Matrix(self._stored[name].flattened(), 0)

    def check(self, name: str, *shape: int) -> None:
        """Refuse a tensor of any other shape."""
        if self.shape(name) != shape:
            raise DictionaryError(
                f"tensor {name!r} of {self.path} has shape {list(self.shape(name))}; wanted "
                f"{list(shape)}."
            )

    def load(self, name: str, *shape: int) -> Tensor:
        """All of a tensor, float32, of exactly this shape."""
        self.check(name, *shape)
        return self._finite(name, self._stored[name].load())

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
