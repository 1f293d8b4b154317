"""Forward passes of the library, and numpy arrays over the memory it hands back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ._blocking import run_interruptibly
from ._engine import Engine
from ._handle import Handle
from ._loader import check, library
from ._options import int32_array
from .errors import QwenValueError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float32]


class Tensors:
    """Owns a `qwen_tensors`; it lives as long as any of its arrays."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    def array(self, sequence: int, name: str) -> FloatArray:
        """A float32 array [rows, width] over the library's memory. Nobody else uses that memory, so the array may be
        written to, and exported through DLPack, which numpy refuses for read-only ones."""
        import numpy as np

        loaded = library()
        ffi, lib = loaded.ffi, loaded.lib
        error, tensor = ffi.new("qwen_error **"), ffi.new("qwen_tensor *")
        tensor.struct_size = ffi.sizeof("qwen_tensor")
        with self._handle.use() as pointer:
            check(lib.qwen_tensors_get(pointer, sequence, name.encode(), tensor, error), error)
        if tensor.dtype != lib.QWEN_DTYPE_F32:
            raise QwenValueError(f"{name} has a data type that this qwen_ffi does not know; update qwen_ffi")
        shape = tuple(tensor.shape[0 : tensor.dimensions])
        return np.asarray(_View(self._handle, int(ffi.cast("uintptr_t", tensor.data)), shape))


class _View:
    """What numpy needs to make an array of the library's memory; the array keeps it, and so the memory, alive."""

    def __init__(self, owner: Handle, address: int, shape: tuple[int, ...]) -> None:
        self._owner = owner
        self.__array_interface__ = {"version": 3, "typestr": "<f4", "shape": shape, "data": (address, False)}


def forward(
    engine: Engine, token_lists: Sequence[Sequence[int]], first_rows: Sequence[int], logits: bool, hidden_states: bool
) -> Tensors:
    """One pass over several token lists, each a sequence of its own from position 0; rows from first_rows[i] on are kept.

    Blocks until it is done; Ctrl-C comes through at once, the pass then ends unseen.
    """
    loaded = library()
    ffi, lib = loaded.ffi, loaded.lib
    parts = [int32_array("token_lists", row) for row in token_lists]
    counts, firsts = ffi.new("size_t[]", [len(part) for part in parts]), ffi.new("size_t[]", list(first_rows))
    ids = ffi.new("int32_t[]", sum(len(part) for part in parts))
    place = 0
    for part in parts:
        ffi.memmove(ids + place, part, ffi.sizeof(part))
        place += len(part)
    outputs = lib.QWEN_OUTPUT_LOGITS * logits | lib.QWEN_OUTPUT_HIDDEN_STATES * hidden_states

    def work() -> Any:
        box, error = ffi.new("qwen_tensors **"), ffi.new("qwen_error **")
        with engine.handle.use() as pointer:
            check(lib.qwen_forward(pointer, ids, counts, firsts, len(parts), outputs, ffi.NULL, box, error), error)
        return box[0]

    pointer = run_interruptibly(work, lib.qwen_tensors_free, lambda: None)
    return Tensors(Handle(pointer, lib.qwen_tensors_free, "tensors"))
