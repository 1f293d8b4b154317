"""Tensors of other frameworks without a copy: https://dmlc.github.io/dlpack/latest/c_api.html, as a consumer.

numpy's own from_dlpack knows no bfloat16, which is what most checkpoints are in, so the capsule is read here.
"""

from __future__ import annotations

import ctypes
from typing import TYPE_CHECKING, Any

from .errors import QwenValueError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

# DLDeviceType: ordinary memory, and memory that is pinned for a GPU, which the CPU reads as well.
_CPU, _CUDA_HOST = 1, 3
_DEVICES = {2: "cuda", 4: "opencl", 7: "vulkan", 8: "metal", 10: "rocm", 13: "cuda managed memory", 14: "oneapi"}
# DLDataTypeCode and bits -> the type's name and how numpy is to see it; bfloat16 as its bit patterns.
_TYPES = {
    (2, 32): ("float32", "<f4"),
    (2, 16): ("float16", "<f2"),
    (4, 16): ("bfloat16", "<u2"),
    (1, 16): ("uint16", "<u2"),
}
_CODES = {0: "int", 1: "uint", 2: "float", 4: "bfloat", 5: "complex", 6: "bool"}


class _DLTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("type_code", ctypes.c_uint8),
        ("type_bits", ctypes.c_uint8),
        ("type_lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),  # in elements; NULL: row-major
        ("byte_offset", ctypes.c_uint64),
    )


class _DLManagedTensorVersioned(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("manager_ctx", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", _DLTensor),
    )


class _View:
    """What numpy needs for an array of the tensor's memory. An unconsumed capsule keeps its tensor alive and frees it
    when it goes itself, so holding it is all there is to do."""

    def __init__(self, capsule: object, interface: dict[str, Any]) -> None:
        self._capsule = capsule
        self.__array_interface__ = interface


def import_dlpack(name: str, value: Any) -> tuple[str, Array]:
    """(type name, array over the same memory) of an object with __dlpack__; bfloat16 comes as uint16 bit patterns.
    Raises QwenValueError that names the tensor, when it does not lie in the CPU's memory for one."""
    import numpy as np

    try:
        device = int(value.__dlpack_device__()[0]) if hasattr(value, "__dlpack_device__") else _CPU
    except (BufferError, RuntimeError, ValueError) as error:  # PyTorch's "meta" tensors have no place at all
        raise QwenValueError(f"tensor '{name}' cannot be lent: {error}") from error
    if device not in (_CPU, _CUDA_HOST):
        place = _DEVICES.get(device, f"a device of DLPack type {device}")
        raise QwenValueError(f"tensor '{name}' lies on {place}; copy it to the CPU first, as in tensor.cpu()")
    tensor, capsule = _open(name, value)
    shape = tuple(tensor.shape[: tensor.ndim]) if tensor.ndim else ()
    known = _TYPES.get((tensor.type_code, tensor.type_bits)) if tensor.type_lanes == 1 else None
    if known is None:
        kind = _CODES.get(tensor.type_code, f"DLPack type {tensor.type_code} of ")
        return f"{kind}{tensor.type_bits}", np.zeros(0)
    kind, typestr = known
    strides = None
    if tensor.strides:
        strides = tuple(step * (tensor.type_bits // 8) for step in tensor.strides[: tensor.ndim])
    if 0 in shape:  # its address may be NULL
        return kind, np.zeros(shape, typestr)
    address = (tensor.data or 0) + tensor.byte_offset
    interface = {"version": 3, "typestr": typestr, "shape": shape, "strides": strides, "data": (address, True)}
    return kind, np.asarray(_View(capsule, interface))


def _open(name: str, value: Any) -> tuple[_DLTensor, object]:
    try:
        try:
            capsule = value.__dlpack__(max_version=(1, 0))  # read-only tensors are exported in this version only
        except TypeError:
            capsule = value.__dlpack__()
    except (BufferError, RuntimeError, ValueError) as error:
        raise QwenValueError(f"tensor '{name}' cannot be lent: {error}") from error
    get, is_valid = ctypes.pythonapi.PyCapsule_GetPointer, ctypes.pythonapi.PyCapsule_IsValid
    get.restype, get.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    is_valid.argtypes = (ctypes.py_object, ctypes.c_char_p)
    if is_valid(capsule, b"dltensor_versioned"):
        managed = _DLManagedTensorVersioned.from_address(get(capsule, b"dltensor_versioned"))
        if managed.major != 1:
            raise QwenValueError(f"tensor '{name}' comes as DLPack {managed.major}.{managed.minor}; this reads 1.x")
        return managed.tensor, capsule
    if is_valid(capsule, b"dltensor"):
        return _DLTensor.from_address(get(capsule, b"dltensor")), capsule
    raise QwenValueError(f"tensor '{name}': its __dlpack__ did not return a DLPack capsule")
