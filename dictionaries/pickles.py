"""What two kinds of pickle of torch's say, read without running anything that they name.

A pickle calls what it names. Here every name is looked up in a short list, and what stands there
are classes of this file that keep their arguments, and torch's dtypes: nothing is imported and
nothing of torch's is called. A pickle with any other name is refused.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Mapping
from types import FunctionType
from typing import Any, NamedTuple

import torch

_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}


class Record:
    """An object of a class that is not built: `state` is what its __setstate__ got."""

    state: Any = None

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __getitem__(self, name: str) -> Any:
        """A field of a dataclass; None where it is not."""
        return self.state.get(name) if isinstance(self.state, dict) else None


class TensorRecord(Record):
    """TensorStorageMetadata: the fields `size` and `chunks`."""


class IndexRecord(Record):
    """MetadataIndex: the fields `fqn` and `offset`."""


def whole(*values: Any) -> tuple[int, ...]:
    """The same, if they are whole numbers from 0 on; ValueError if not."""
    if not all(type(value) is int and value >= 0 for value in values):
        raise ValueError("it has sizes that are not whole numbers")
    return values


def _size(values: Any = ()) -> tuple[int, ...]:
    return whole(*values)


_METADATA: dict[tuple[str, str], Any] = {
    **{
        ("torch.distributed.checkpoint.metadata", name): Record
        for name in (
            "Metadata",
            "TensorProperties",
            "ChunkStorageMetadata",
            "BytesStorageMetadata",
            "StorageMeta",
            "_MEM_FORMAT_ENCODING",
        )
    },
    ("torch.distributed.checkpoint.metadata", "TensorStorageMetadata"): TensorRecord,
    ("torch.distributed.checkpoint.metadata", "MetadataIndex"): IndexRecord,
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"): Record,
    ("torch.serialization", "_get_layout"): Record,
    ("torch", "Size"): _size,
    ("collections", "OrderedDict"): dict,
    **{("torch", str(dtype).partition(".")[2]): dtype for dtype in _STORAGES.values()},
    **{
        (module, name): Record  # of the folder it was saved to
        for module in ("pathlib", "pathlib._local")
        for name in ("PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath")
    },
}


class SavedTensor(NamedTuple):
    """A tensor as `torch.save` describes it: `offset` and `stride` count elements of a storage."""

    key: str  # the storage's name
    dtype: torch.dtype
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


def _rebuilt(storage: Any, offset: int, shape: Any, stride: Any, *_: Any) -> SavedTensor:
    key, dtype = storage
    return SavedTensor(key, dtype, whole(offset)[0], whole(*shape), whole(*stride))


_TENSOR: dict[tuple[str, str], Any] = {
    ("torch._utils", "_rebuild_tensor_v2"): _rebuilt,
    ("collections", "OrderedDict"): dict,
    ("torch", "Size"): _size,
    **{("torch", name): dtype for name, dtype in _STORAGES.items()},
}


def _read(
    content: bytes, allowed: Mapping[tuple[str, str], Any], stored: Callable[..., Any]
) -> Any:
    class Reader(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            if (module, name) not in allowed:
                raise pickle.UnpicklingError(f"it names {module}.{name}")
            found = allowed[module, name]
            # A pickle can set attributes of a function that it is given: so it is given its own.
            return (lambda *given: found(*given)) if isinstance(found, FunctionType) else found

        def persistent_load(self, pid: Any) -> Any:
            return stored(*pid)

    return Reader(io.BytesIO(content)).load()


def read_metadata(content: bytes) -> Record:
    """The `.metadata` of a distributed checkpoint: fields `state_dict_metadata`, `storage_data`.

    Raises UnpicklingError for a name that has no business there, and whatever a damaged pickle
    makes the unpickler raise.
    """
    found = _read(content, _METADATA, _no_storage)
    if not isinstance(found, Record):
        raise pickle.UnpicklingError("it is no metadata")
    return found


def _no_storage(*_: Any) -> Any:
    raise pickle.UnpicklingError("it refers to storages")


def read_tensor(content: bytes) -> SavedTensor:
    """The `data.pkl` of one tensor that was saved alone. Raises as `read_metadata` does."""
    found = _read(content, _TENSOR, lambda kind, dtype, key, *_: (key, dtype))
    if not (isinstance(found, SavedTensor) and isinstance(found.key, str)):
        raise pickle.UnpicklingError("it is no tensor")
    return found
