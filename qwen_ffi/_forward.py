"""Forward passes of the library, and numpy arrays over the memory it hands back."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from ._blocking import run_interruptibly
from ._engine import Engine
from ._handle import Handle
from ._loader import check, library
from ._options import OptionScope, OptionSet, int32_array
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

    def prompt_tokens(self) -> int:
        """What was given to the model, all sequences together."""
        loaded = library()
        error, stats = loaded.ffi.new("qwen_error **"), loaded.ffi.new("qwen_stats *")
        stats.struct_size = loaded.ffi.sizeof("qwen_stats")
        with self._handle.use() as pointer:
            check(loaded.lib.qwen_tensors_stats_get(pointer, stats, error), error)
            return int(stats.prompt_tokens)


class _View:
    """What numpy needs to make an array of the library's memory; the array keeps it, and so the memory, alive."""

    def __init__(self, owner: Handle, address: int, shape: tuple[int, ...]) -> None:
        self._owner = owner
        self.__array_interface__ = {"version": 3, "typestr": "<f4", "shape": shape, "data": (address, False)}


def token_arrays(token_lists: Sequence[Sequence[int]]) -> list[array[int]]:
    """Token lists as arrays of C ints: a long sequence is remembered and sent again without looking at each number."""
    arrays = []
    for number, row in enumerate(token_lists):
        plain = row.tolist() if hasattr(row, "tolist") else row
        if isinstance(plain, int):
            raise TypeError("token lists come in a list: [[1, 2, 3]]")
        tokens = array("i")
        tokens.frombytes(library().ffi.buffer(int32_array(f"token list {number}", plain)))
        arrays.append(tokens)
    return arrays


def forward(
    engine: Engine,
    token_lists: Sequence[array[int]],
    first_rows: Sequence[int],
    logits: bool = False,
    hidden_states: bool = False,
    mtp_logits: bool = False,
    adapter: str | None = None,
) -> Tensors:
    """One pass over several token lists, each a sequence of its own from position 0; rows from first_rows[i] on are kept.

    Blocks until it is done; Ctrl-C comes through at once, the pass then ends unseen.
    """
    loaded = library()
    ffi, lib = loaded.ffi, loaded.lib
    counts, firsts = ffi.new("size_t[]", [len(row) for row in token_lists]), ffi.new("size_t[]", list(first_rows))
    laid_out = array("i")  # end to end
    for row in token_lists:
        laid_out += row
    ids = ffi.from_buffer("int32_t[]", laid_out)
    outputs = (
        lib.QWEN_OUTPUT_LOGITS * logits
        | lib.QWEN_OUTPUT_HIDDEN_STATES * hidden_states
        | lib.QWEN_OUTPUT_MTP_LOGITS * mtp_logits
    )

    options = OptionSet({"adapter": adapter}, OptionScope.REQUEST)

    def work() -> Any:
        box, error = ffi.new("qwen_tensors **"), ffi.new("qwen_error **")
        with engine.handle.use() as pointer:
            status = lib.qwen_forward(
                pointer, ids, counts, firsts, len(token_lists), outputs, options.pointer, box, error
            )
            check(status, error)
        return box[0]

    pointer = run_interruptibly(work, lib.qwen_tensors_free, lambda: None)
    return Tensors(Handle(pointer, lib.qwen_tensors_free, "tensors"))
