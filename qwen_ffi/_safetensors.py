"""Reads and writes safetensors files: a name, type and shape table in JSON, then the bytes. Mapped, not copied."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .errors import QwenFileFormatError, QwenNotFoundError

if TYPE_CHECKING:
    from numpy.typing import NDArray

# bfloat16 has no numpy type: its bit patterns are handed out as uint16.
_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "<u2",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "i1",
    "U8": "u1",
    "U16": "<u2",
    "U32": "<u4",
    "U64": "<u8",
    "BOOL": "?",
}


def read_safetensors(path: str | os.PathLike[str]) -> dict[str, NDArray[Any]]:
    """The tensors of a file as read-only arrays over the mapped file. Raises QwenNotFoundError, QwenFileFormatError."""
    import numpy as np

    try:
        data = np.memmap(path, dtype=np.uint8, mode="r")
    except FileNotFoundError:
        raise QwenNotFoundError(f"{os.fspath(path)} does not exist") from None
    except ValueError as error:  # an empty file cannot be mapped
        raise QwenFileFormatError(f"{os.fspath(path)}: {error}") from None
    try:
        length = int.from_bytes(data[:8].tobytes(), "little")
        if length > data.size - 8:
            raise ValueError(f"the header has {length} bytes, the file {data.size}")
        body = np.asarray(data[8 + length :])
        tensors = {}
        for name, entry in json.loads(data[8 : 8 + length].tobytes()).items():
            if name == "__metadata__" or entry["dtype"] not in _DTYPES:
                continue
            begin, end = entry["data_offsets"]
            if not 0 <= begin <= end <= body.size:
                raise ValueError(f"tensor {name} lies outside the file")
            tensors[name] = body[begin:end].view(_DTYPES[entry["dtype"]]).reshape(entry["shape"])
        return tensors
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise QwenFileFormatError(f"{os.fspath(path)} is not a safetensors file: {error}") from None


def write_safetensors(path: str | os.PathLike[str], tensors: Mapping[str, NDArray[Any]]) -> None:
    """Writes arrays, in the order given; uint16 is taken for the bits of bfloat16."""
    import numpy as np

    names = {np.dtype(code): name for name, code in _DTYPES.items() if name != "U16"}
    header: dict[str, Any] = {}
    end = 0
    for name, array in tensors.items():
        begin, end = end, end + array.nbytes
        header[name] = {"dtype": names[array.dtype], "shape": list(array.shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for array in tensors.values():
            file.write(np.ascontiguousarray(array).data)
