"""Arrays go in and out without a copy: numpy's, and by DLPack everybody's."""

from __future__ import annotations

import ctypes
import gc
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwen_ffi import ModelArgs, QwenError, QwenValueError, Transformer
from qwen_ffi._safetensors import read_safetensors

TOKENS = [[5, 6, 7, 8]]
NORM = "model.norm.weight"


@pytest.fixture
def bits(tiny_model: Path) -> dict[str, Any]:
    """The tiny model's weights: bfloat16 bit patterns as uint16."""
    return {name: np.array(tensor) for name, tensor in read_safetensors(tiny_model / "model.safetensors").items()}


@pytest.fixture
def logits(tiny_model: Path) -> Any:
    with Transformer.from_pretrained(tiny_model) as model:
        return model.forward(TOKENS)[0].copy()


def loaded(folder: Path, tensors: dict[str, Any]) -> Transformer:
    return Transformer(ModelArgs.from_config_file(folder)).load_state_dict(tensors)


# ------------------------------------------------------------------------------------------------------- a foreign tensor


class DLTensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", ctypes.c_int32 * 2),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


class Managed(ctypes.Structure):
    _fields_ = (("tensor", DLTensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p))


class ManagedVersioned(ctypes.Structure):
    _fields_ = (
        ("version", ctypes.c_uint32 * 2),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", DLTensor),
    )


DESTRUCTOR = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)
alive: dict[int, Any] = {}  # by the capsule's address: what it lends


@DESTRUCTOR
def destroyed(capsule: int) -> None:
    alive.pop(capsule)


class Tensor:
    """What PyTorch's tensors look like from outside, over a numpy array."""

    def __init__(self, array: Any, code: int = 4, bits: int = 16, versioned: bool = False, device: int = 1) -> None:
        self.array, self.code, self.bits, self.versioned, self.device = array, code, bits, versioned, device
        self.strided = True
        self.offset = 0
        self.major = 1

    def __dlpack_device__(self) -> tuple[int, int]:
        return (self.device, 0)

    def __dlpack__(self, **keywords: Any) -> object:
        if not self.versioned and keywords:
            raise TypeError("__dlpack__() got an unexpected keyword argument")
        array = self.array
        managed: Any = ManagedVersioned() if self.versioned else Managed()
        tensor = managed.tensor
        tensor.data, tensor.byte_offset = array.ctypes.data - self.offset, self.offset
        tensor.device[:] = (self.device, 0)
        tensor.ndim, tensor.code, tensor.bits, tensor.lanes = array.ndim, self.code, self.bits, 1
        shape = (ctypes.c_int64 * max(array.ndim, 1))(*array.shape)
        strides = (ctypes.c_int64 * max(array.ndim, 1))(*(step // array.itemsize for step in array.strides))
        tensor.shape = shape
        if self.strided:
            tensor.strides = strides
        if self.versioned:
            managed.version[:] = (self.major, 0)
        new = ctypes.pythonapi.PyCapsule_New
        new.restype, new.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.c_char_p, DESTRUCTOR)
        name = b"dltensor_versioned" if self.versioned else b"dltensor"
        capsule: object = new(ctypes.addressof(managed), name, destroyed)
        alive[id(capsule)] = (managed, shape, strides, name, array)
        return capsule


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    yield
    gc.collect()
    assert alive == {}


@pytest.mark.parametrize("versioned", [False, True])
def test_bfloat16_tensors_come_in_by_dlpack(
    tiny_model: Path, bits: dict[str, Any], logits: Any, versioned: bool
) -> None:
    tensors = {name: Tensor(array, versioned=versioned) for name, array in bits.items()}
    watched = weakref.ref(tensors[NORM].array)
    with loaded(tiny_model, tensors) as model:
        assert len(alive) == len(tensors)
        del tensors
        bits.clear()
        gc.collect()
        assert watched() is not None, "the memory is lent, not copied"
        np.testing.assert_array_equal(model.forward(TOKENS)[0], logits)
    gc.collect()
    assert watched() is None


def test_every_layout_of_a_dlpack_tensor(tiny_model: Path, bits: dict[str, Any], logits: Any) -> None:
    wide = {name: (array.astype(np.uint32) << 16).view(np.float32) for name, array in bits.items()}
    row_major, by_offset, transposed = ({n: Tensor(a, 2, 32) for n, a in wide.items()} for _ in range(3))
    for tensor in row_major.values():
        tensor.strided = False
    for tensor in by_offset.values():
        tensor.offset = 64
    for tensor in transposed.values():
        tensor.array = np.asfortranarray(tensor.array)
    for tensors in (row_major, by_offset, transposed):
        with loaded(tiny_model, tensors) as model:
            np.testing.assert_array_equal(model.forward(TOKENS)[0], logits)


def test_anything_with_an_array_interface_comes_in(tiny_model: Path, bits: dict[str, Any], logits: Any) -> None:
    class Holder:
        def __init__(self, array: Any) -> None:
            self._array, self.__array_interface__ = array, array.__array_interface__

    with loaded(tiny_model, {name: Holder(array) for name, array in bits.items()}) as model:
        np.testing.assert_array_equal(model.forward(TOKENS)[0], logits)


def test_contiguous_arrays_are_not_copied(bits: dict[str, Any]) -> None:
    from qwen_ffi._weights import _lendable

    bits[NORM].flags.writeable = False
    for tensors in (bits, {name: Tensor(array) for name, array in bits.items()}):
        for name, dtype, array in _lendable(tensors):
            assert (dtype, array.ctypes.data) == ("bf16", bits[name].ctypes.data)


class Refusing:
    def __init__(self, error: Exception) -> None:
        self.error = error

    def __dlpack__(self, **keywords: Any) -> object:
        raise self.error


class NoCapsule:
    def __dlpack__(self) -> object:
        return "no capsule"


def future_version(array: Any) -> Tensor:
    tensor = Tensor(array, versioned=True)
    tensor.major = 2
    return tensor


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda a: Tensor(a, device=2), r"lies on cuda.*\.cpu\(\)"),
        (lambda a: Tensor(a, device=99), "DLPack type 99"),
        (lambda a: Tensor(a, code=0), "int16; allowed are float32"),
        (lambda a: Tensor(a, code=2, bits=64), "float64"),
        (lambda a: Tensor(a, code=9, bits=8), "DLPack type 9"),
        (lambda a: Refusing(BufferError("requires grad")), "requires grad"),
        (lambda a: NoCapsule(), "capsule"),
        (future_version, r"2\.0"),
        (lambda a: a.astype(">f4"), "big-endian"),
        (lambda a: [1.0, 2.0], "float64"),
        (lambda a: "abc", "allowed are"),
        (lambda a: None, "allowed are"),
        (lambda a: Tensor(np.zeros((0,), np.uint16)), NORM),
    ],
)
def test_tensors_that_cannot_be_taken_are_named(tiny_model: Path, bits: dict[str, Any], make: Any, named: str) -> None:
    with pytest.raises(QwenError, match=named) as caught:
        loaded(tiny_model, {**bits, NORM: make(bits[NORM])})
    assert NORM in str(caught.value)
    assert isinstance(caught.value, ValueError)


def test_a_state_dict_that_is_none() -> None:
    from qwen_ffi._weights import _lendable

    with pytest.raises(TypeError, match="list"):
        list(_lendable([]))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="int"):
        list(_lendable({5: np.zeros(1)}))  # type: ignore[dict-item]


# ------------------------------------------------------------------------------------------------------- out


def test_arrays_go_out_by_dlpack_without_a_copy(tiny_model: Path) -> None:
    with Transformer.from_pretrained(tiny_model) as model:
        output = model.forward(TOKENS, hidden_states=True)
    for array in (output[0], output.hidden_states[0][-1]):
        shared = np.from_dlpack(array)
        assert shared.ctypes.data == array.ctypes.data
        np.testing.assert_array_equal(shared, array)
    kept = np.from_dlpack(output[0])
    copy = kept.copy()
    del output, array, shared, model
    gc.collect()
    np.testing.assert_array_equal(kept, copy)


def test_arrays_are_the_callers_to_change(tiny_model: Path) -> None:
    with Transformer.from_pretrained(tiny_model) as model:
        first, second = model.forward(TOKENS)[0], model.forward(TOKENS)[0]
        first -= first.max(-1, keepdims=True)
        np.testing.assert_array_equal(model.forward(TOKENS)[0], second)
        with pytest.raises(QwenValueError):
            model.forward([[]])
