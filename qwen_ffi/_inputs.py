"""Calls of `qwen_embed` and `qwen_rerank`: texts in, an array out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import index
from typing import Any

from ._blocking import run_awaitably, run_interruptibly
from ._engine import Engine
from ._forward import Tensors
from ._handle import Handle
from ._loader import check, library
from ._options import OptionScope, OptionSet, int32_array, utf8
from .errors import QwenClosedError, QwenValueError

# A text, or token ids that go in as they are.
InputLike = str | bytes | Sequence[int]
Progress = Callable[[float], object]


class Inputs:
    """Owns a `qwen_inputs`."""

    def __init__(self, inputs: Sequence[InputLike], what: str, special: bool) -> None:
        if isinstance(inputs, str | bytes) or not hasattr(inputs, "__iter__"):
            raise TypeError(f"{what} must be a list, not {type(inputs).__name__}")
        loaded = library()
        self._lib, self._error = loaded.lib, loaded.ffi.new("qwen_error **")
        box = loaded.ffi.new("qwen_inputs **")
        check(loaded.lib.qwen_inputs_new(loaded.lib.QWEN_INPUTS_SPECIAL * bool(special), box, self._error), self._error)
        self.pointer = loaded.ffi.gc(box[0], loaded.lib.qwen_inputs_free)
        for number, item in enumerate(inputs):
            if isinstance(item, str | bytes):
                text = utf8(item)
                status = loaded.lib.qwen_inputs_add_text(self.pointer, text, len(text), self._error)
            elif not hasattr(item, "__len__"):
                raise TypeError(f"input {number} must be a str or a list of token ids, not {type(item).__name__}")
            else:
                ids = int32_array(f"input {number}", item)
                status = loaded.lib.qwen_inputs_add_tokens(self.pointer, ids, len(ids), self._error)
            check(status, self._error)

    def set_instruction(self, text: str | bytes | None) -> None:
        """None: the library's own."""
        raw = library().ffi.NULL if text is None else utf8(text)
        length = 0 if text is None else len(raw)
        check(self._lib.qwen_inputs_set_instruction(self.pointer, raw, length, self._error), self._error)


def checked_dimensions(value: int | None) -> int:
    """None: 0, which is all there are."""
    number = 0 if value is None else index(value)
    if not -(2**63) <= number < 2**63:
        raise QwenValueError(f"dimensions is {number}, which is beyond 64 bits")
    return number


class Computation:
    """One call, on whatever thread; cancel() comes from another one."""

    def __init__(self, engine: Engine, inputs: Inputs, values: Mapping[str, Any], progress: Progress | None) -> None:
        if progress is not None and not callable(progress):
            raise TypeError(f"progress must be a function of a float, not {type(progress).__name__}")
        self._handle, self._inputs, self._progress = engine.handle, inputs, progress
        self._options = OptionSet(values, OptionScope.REQUEST)
        self._cancelled = False
        self._failures: list[BaseException] = []

    def cancel(self) -> None:
        """Takes effect within 50 ms."""
        self._cancelled = True

    def embed(self, dimensions: int) -> Any:
        """A `qwen_tensors *`."""
        lib = library().lib
        return self._run(lambda engine, *rest: lib.qwen_embed(engine, self._inputs.pointer, dimensions, *rest))

    def rerank(self, query: bytes) -> Any:
        """A `qwen_tensors *`."""
        lib = library().lib
        return self._run(lambda engine, *rest: lib.qwen_rerank(engine, query, len(query), self._inputs.pointer, *rest))

    def _run(self, call: Callable[..., int]) -> Any:
        ffi = library().ffi
        box, error = ffi.new("qwen_tensors **"), ffi.new("qwen_error **")
        on_progress = ffi.callback("int32_t(double, void *)", self._on_progress)
        with self._handle.use() as engine:
            status = call(engine, self._options.pointer, on_progress, ffi.NULL, box, error)
        if status != 0 and (self._failures or self._handle.closed):
            library().lib.qwen_error_free(error[0])
            raise self._failures[0] if self._failures else QwenClosedError("this session is closed")
        check(status, error)
        return box[0]

    def _on_progress(self, fraction: float, user: Any) -> int:
        try:
            if self._progress is not None and self._progress(fraction) is False:
                return 1
        except BaseException as error:
            self._failures.append(error)
        return 1 if self._failures or self._cancelled or self._handle.closed else 0


def wait(computation: Computation, work: Callable[[], Any]) -> Tensors:
    """What a call computes. Ctrl-C cancels it and comes through at once."""
    return _owned(run_interruptibly(work, library().lib.qwen_tensors_free, computation.cancel))


async def wait_awaitably(computation: Computation, work: Callable[[], Any]) -> Tensors:
    """The same for a coroutine, on a helper thread. Cancelling the task cancels the call."""
    return _owned(await run_awaitably(work, library().lib.qwen_tensors_free, computation.cancel))


def _owned(pointer: Any) -> Tensors:
    return Tensors(Handle(pointer, library().lib.qwen_tensors_free, "tensors"))


def encoded(engine: Engine, inputs: Inputs, query: bytes | None) -> list[int]:
    """The token ids that the model would be given of the first input: to embed, or to judge by the query."""
    loaded = library()
    ffi, lib = loaded.ffi, loaded.lib
    count, error = ffi.new("size_t *"), ffi.new("qwen_error **")
    asked = (ffi.NULL, 0) if query is None else (query, len(query))
    capacity = 512
    with engine.handle.use() as pointer:
        model = lib.qwen_engine_model(pointer)
        while True:
            ids = ffi.new("int32_t[]", capacity)
            check(lib.qwen_inputs_encode(inputs.pointer, 0, *asked, model, ids, capacity, count, error), error)
            if count[0] <= capacity:
                return list(ffi.unpack(ids, count[0]))
            capacity = count[0]
