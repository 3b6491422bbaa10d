"""The five containers of tensors, opened by their headers alone.

Nothing a file says is believed before it is checked against the file's size, and no file gets to
run code: pickles go through torch's `weights_only` reader, those of `.dcp` through one that calls
nothing of torch's.
"""

from __future__ import annotations

import json
import math
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import torch_files
from .dcp import open_distributed
from .errors import DictionaryError
from .gguf import read_gguf
from .streams import Stream, data_start
from .tensors import File, FileTensor, Stored

_SAFETENSORS_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_NUMPY_TYPES = {
    "<f8": torch.float64,
    "<f4": torch.float32,
    "<f2": torch.float16,
    "<i8": torch.int64,
    "<i4": torch.int32,
}
_LONGEST_HEADER = 100 * 2**20  # safetensors' own limit


def open_tensors(path: Path) -> dict[str, Stored]:
    """The tensors of a .safetensors, .npz, .pt/.pth or .gguf file or .dcp folder by name.

    Only headers are read.

    Raises DictionaryError for a file that is missing, cut short, lies about itself, is compressed,
    or is a pickle that wants more than tensors.
    """
    readers: dict[str, Callable[[Path], dict[str, Stored]]] = {
        ".safetensors": _safetensors,
        ".npz": _npz,
        ".pt": _torch,
        ".pth": _torch,
        ".dcp": open_distributed,
        ".gguf": lambda path: read_gguf(path).tensors,
    }
    if path.suffix not in readers:
        raise DictionaryError(f"{path} is not one of {', '.join(readers)}: no tensors can be read.")
    return readers[path.suffix](path)


def _safetensors(path: Path) -> dict[str, Stored]:
    """8 bytes of header length (little endian), a JSON header, then the tensors' bytes."""
    file = File(path)
    length = struct.unpack("<Q", file.read(0, 8))[0] if file.size >= 8 else file.size
    if length > min(file.size - 8, _LONGEST_HEADER):
        raise DictionaryError(
            f"{path} is no whole safetensors file: its header should be {length} bytes long, but "
            f"the file has {file.size} bytes. Download it again."
        )
    try:
        header = json.loads(file.read(8, length))
        header.pop("__metadata__", None)
        entries = {str(name): _entry(path, name, entry) for name, entry in header.items()}
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError) as error:
        if isinstance(error, DictionaryError):
            raise
        raise DictionaryError(
            f"the header of {path} is not safetensors JSON ({error}). Download it again."
        ) from error
    stored: dict[str, Stored] = {}
    for name, (dtype, shape, start, stop) in entries.items():
        if not 0 <= start <= stop <= file.size - 8 - length:
            raise DictionaryError(
                f"{path} was cut short: tensor {name!r} lies at bytes {start} to {stop} of "
                f"{file.size - 8 - length}. Download it again."
            )
        if stop - start != math.prod(shape) * dtype.itemsize:
            raise DictionaryError(
                f"{path} contradicts itself: tensor {name!r} of shape {list(shape)} and {dtype} "
                f"needs {math.prod(shape) * dtype.itemsize} bytes, its place has {stop - start}."
            )
        stored[name] = FileTensor(name, shape, dtype, file, 8 + length + start)
    return stored


def _entry(path: Path, name: str, entry: Any) -> tuple[torch.dtype, tuple[int, ...], int, int]:
    dtype, shape, (start, stop) = entry["dtype"], tuple(entry["shape"]), entry["data_offsets"]
    if dtype not in _SAFETENSORS_TYPES:
        raise DictionaryError(
            f"tensor {name!r} of {path} has type {dtype!r}; known are "
            f"{', '.join(_SAFETENSORS_TYPES)}."
        )
    if not all(type(n) is int and n >= 0 for n in (*shape, start, stop)):
        raise TypeError(f"tensor {name!r} has sizes that are not whole numbers")
    return _SAFETENSORS_TYPES[dtype], shape, start, stop


def _npz(path: Path) -> dict[str, Stored]:
    """A zip of .npy members; those stored uncompressed (np.savez) are read in place."""
    file = File(path)
    try:
        with zipfile.ZipFile(Stream(file)) as archive:
            members = [m for m in archive.infolist() if m.filename.endswith(".npy")]
            return {m.filename[:-4]: _npy(file, archive, m) for m in members}
    except DictionaryError:
        raise
    except Exception as error:  # of a damaged file zipfile and numpy raise nearly anything
        raise DictionaryError(
            f"{path} is no whole .npz file ({error}). Download it again."
        ) from error


def _npy(file: File, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> Stored:
    from numpy.lib import format as npy

    name = member.filename[:-4]
    if member.compress_type != zipfile.ZIP_STORED:
        raise DictionaryError(
            f"{file.path} is compressed, so single rows cannot be read from it. Convert it once: "
            "numpy.savez('params.npz', **numpy.load('compressed.npz'))."
        )
    with archive.open(member) as stream:
        version = npy.read_magic(stream)
        read_header = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = read_header(stream)
        header = stream.tell()
    if dtype.str not in _NUMPY_TYPES:
        raise DictionaryError(
            f"array {name!r} of {file.path} has type {dtype.str!r}; known are "
            f"{', '.join(_NUMPY_TYPES)}."
        )
    offset = data_start(file, member.header_offset) + header
    torch_type = _NUMPY_TYPES[dtype.str]
    needed = math.prod(shape) * torch_type.itemsize
    if needed != member.file_size - header or offset + needed > file.size:
        raise DictionaryError(
            f"{file.path} contradicts itself: array {name!r} of shape {list(shape)} needs {needed} "
            f"bytes, its member has {member.file_size - header}. Download it again."
        )
    return FileTensor(name, shape, torch_type, file, offset, fortran and len(shape) == 2)


def torch_words(path: Path) -> dict[str, Any]:
    """What a state dict saved by torch.save holds beside its tensors."""
    return {n: v for n, v in _torch_content(path).items() if not isinstance(v, Tensor)}


def _torch(path: Path) -> dict[str, Stored]:
    """A state dict saved by torch.save; entries that are no tensors are left out."""
    content = _torch_content(path)
    tensors = {n: tensor.detach() for n, tensor in content.items() if isinstance(tensor, Tensor)}
    try:
        return torch_files.stored(path, tensors)
    except DictionaryError:
        raise
    except Exception as error:  # zipfile's, and torch's of tensors without plain memory
        raise _no_torch_file(path, error) from error


def _torch_content(path: Path) -> dict[str, Any]:
    try:
        torch_files.fetch_all_but_numbers(path)
        content = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
    except DictionaryError:
        raise
    except pickle.UnpicklingError as error:
        raise DictionaryError(
            f"{path} was refused: it is a pickle that wants to run code or build objects, and only "
            "plain tensors are read. Ask for a safetensors version of it."
        ) from error
    except (
        Exception
    ) as error:  # the unpickler's own, such as IndexError, and those of zip and torch
        raise _no_torch_file(path, error) from error
    if not isinstance(content, dict):
        raise DictionaryError(f"{path} holds a {type(content).__name__}, not a dict of tensors.")
    if content.keys() == {"sae"} and isinstance(content["sae"], dict):
        content = content["sae"]  # llamascopium's wrapping
    return {str(name): value for name, value in content.items()}


def _no_torch_file(path: Path, error: Exception) -> DictionaryError:
    reason = str(error).partition("\n")[0].rstrip(".") or type(error).__name__
    return DictionaryError(
        f"{path} is no whole file of torch.save in its zip format (torch 1.6 or later): "
        f"{reason}. Download it again, or save it again with a newer torch."
    )
