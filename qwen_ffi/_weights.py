"""Weights in the host's memory, lent to the library without a copy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from ._loader import check, library
from .errors import QwenValueError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

# Arrays lent to the library, by the number it hands back when it is done with them.
_lent: dict[int, list[Any]] = {}
_released_callback: Any = None


def _lend(arrays: list[Any]) -> Any:
    """Keeps arrays alive until released(user) is called with the returned `void *user`."""
    key = id(arrays)
    _lent[key] = arrays
    return library().ffi.cast("void *", key)


def _released() -> Any:
    """The C function pointer for `released`; one for the whole process, so that it can never die too early."""
    global _released_callback
    if _released_callback is None:
        ffi = library().ffi

        def released(user: Any) -> None:
            _lent.pop(int(ffi.cast("uintptr_t", user)), None)

        _released_callback = ffi.callback("void(void *)", released)
    return _released_callback


class Weights:
    """A `qwen_weights` over arrays."""

    def __init__(self, config: str, tensors: Mapping[str, Any]) -> None:
        loaded = library()
        self._ffi, self._lib = loaded.ffi, loaded.lib
        error, box = self._ffi.new("qwen_error **"), self._ffi.new("qwen_weights **")
        text = config.encode()
        named = list(_lendable(tensors))
        arrays = [array for _, _, array in named]
        user = _lend(arrays)
        status = self._lib.qwen_weights_new(text, len(text), _released(), user, box, error)
        if status != 0:
            _lent.pop(id(arrays), None)
        check(status, error)
        self.pointer = self._ffi.gc(box[0], self._lib.qwen_weights_free)
        dtypes = {"f32": self._lib.QWEN_DTYPE_F32, "f16": self._lib.QWEN_DTYPE_F16, "bf16": self._lib.QWEN_DTYPE_BF16}
        for name, dtype, array in named:
            shape = self._ffi.new("int64_t[]", list(array.shape))
            data = self._ffi.cast("void *", array.ctypes.data)
            check(
                self._lib.qwen_weights_add(
                    self.pointer, name.encode(), dtypes[dtype], shape, array.ndim, data, array.nbytes, error
                ),
                error,
            )

    def make_engine(self, options: Any, box: Any, error: Any) -> int:
        lib = self._lib
        model = self._ffi.new("qwen_model **")
        status = int(lib.qwen_model_from_weights(self.pointer, self._ffi.NULL, options, model, error))
        if status == lib.QWEN_OK:
            status = int(lib.qwen_engine_new(model[0], options, box, error))
            lib.qwen_model_free(model[0])  # the engine keeps a reference of its own
        return status

    def close(self) -> None:
        """Lets go of the object; a model made of it keeps the arrays."""
        self._ffi.release(self.pointer)


_DTYPES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16", "uint16": "bf16"}


def _lendable(tensors: Mapping[str, Any]) -> Iterator[tuple[str, str, Array]]:
    """(name, f32 | f16 | bf16, contiguous array) of every tensor."""
    import numpy as np

    from ._dlpack import import_dlpack  # here, because it imports ctypes

    if not isinstance(tensors, Mapping):
        raise TypeError(f"a state dict is a dict of arrays by name, not {type(tensors).__name__}")
    for name, value in tensors.items():
        if not isinstance(name, str):
            raise TypeError(f"a tensor's name must be a str, not {type(name).__name__}")
        if "\0" in name:
            raise QwenValueError(f"a tensor's name must not contain NUL: {name!r}")
        if hasattr(value, "__dlpack__") and not hasattr(value, "__array_interface__"):
            kind, array = import_dlpack(name, value)
        else:
            array = np.asarray(value)
            kind = array.dtype.name
        if kind not in _DTYPES:
            raise QwenValueError(
                f"tensor '{name}' is {kind}; allowed are float32, float16, bfloat16, and uint16 for the bits of bfloat16"
            )
        if array.dtype.byteorder == ">":
            raise QwenValueError(f"tensor '{name}' is big-endian; give it as array.astype('{kind}')")
        # ascontiguousarray copies only what is not contiguous; it makes [1] of a scalar's [].
        yield name, _DTYPES[kind], np.ascontiguousarray(array).reshape(array.shape)
