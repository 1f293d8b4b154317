"""One engine: opening it, and what sessions and transformers have in common."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any

from ._blocking import POLL_MILLISECONDS, run_interruptibly
from ._handle import Handle
from ._loader import check, library
from ._options import OptionScope, OptionSet, utf8
from .errors import QwenValueError
from .hub import HubName, resolve_adapter, resolve_model
from .results import AdapterInfo, EngineStats, ModelInfo, StepTrace

# Work that fills a `qwen_engine **`: (options, out, error) -> status.
EngineMaker = Callable[[Any, Any, Any], int]


def path_bytes(path: str | os.PathLike[str], what: str = "path") -> bytes:
    raw = os.fsencode(path)
    if b"\0" in raw:
        raise QwenValueError(f"{what} must not contain NUL: {path!r}")
    return raw


class Engine:
    """Owns a `qwen_engine`; safe to share between threads."""

    def __init__(self, make: EngineMaker, values: Mapping[str, Any]) -> None:
        """Calls make() on a helper thread: Ctrl-C cancels the loading and comes through at once. The value "progress" is
        a function called with 0...1; it cancels by returning False or raising. The value "trace" is a function called with
        a StepTrace after each step, on the engine's own thread."""
        lib = library().lib
        interrupted: list[bool] = []
        failures: list[BaseException] = []
        report: Callable[[float], object] | None = values.get("progress")
        trace: Callable[[StepTrace], object] | None = values.get("trace")
        if trace is not None and not callable(trace):
            raise TypeError(f"trace must be a function of a StepTrace, not {type(trace).__name__}")
        given = {key: value for key, value in values.items() if key not in ("progress", "trace")}
        options = OptionSet(given, OptionScope.ENGINE)

        def progress(fraction: float, user: Any) -> int:
            try:
                if report is not None and report(fraction) is False:
                    return 1
            except BaseException as error:
                failures.append(error)
            return 1 if interrupted or failures else 0

        options.set_callback("progress", "int32_t(double, void *)", progress)
        on_step = options.set_callback("trace", "void(const qwen_step *, void *)", _tracer(trace)) if trace else None

        def destroy(engine: Any, _kept: Any = on_step) -> None:
            """Until this returns the engine's thread may call on_step, and so it lives as long as this function."""
            lib.qwen_destroy(engine)

        def work() -> Any:
            ffi = library().ffi
            box, error = ffi.new("qwen_engine **"), ffi.new("qwen_error **")
            status = make(options.pointer, box, error)
            if failures:
                lib.qwen_error_free(error[0])
                raise failures[0]
            check(status, error)
            return box[0]

        pointer = run_interruptibly(work, destroy, lambda: interrupted.append(True))
        self.handle = Handle(pointer, destroy, "session", close_at_exit=True)

    @classmethod
    def open(cls, path: str | os.PathLike[str], values: Mapping[str, Any]) -> Engine:
        """An engine on a checkpoint folder, or a model of the hub. Raises the errors of `qwen_create`."""
        raw = path_bytes(resolve_model(path), "model_path")
        lib = library().lib
        return cls(lambda options, box, error: int(lib.qwen_create(raw, options, box, error)), values)

    def model_info(self) -> ModelInfo:
        loaded = library()
        ffi, lib = loaded.ffi, loaded.lib
        error = ffi.new("qwen_error **")
        info = ffi.new("qwen_model_info *")
        info.struct_size = ffi.sizeof("qwen_model_info")
        with self.handle.use() as engine:
            check(lib.qwen_model_info_get(lib.qwen_engine_model(engine), info, error), error)
            return ModelInfo(
                **{field.name: _plain(ffi, field.type, getattr(info, field.name)) for field in fields(ModelInfo)}
            )

    def stats(self) -> EngineStats:
        loaded = library()
        ffi, lib = loaded.ffi, loaded.lib
        error = ffi.new("qwen_error **")
        stats = ffi.new("qwen_engine_stats *")
        stats.struct_size = ffi.sizeof("qwen_engine_stats")
        with self.handle.use() as engine:
            check(lib.qwen_engine_stats_get(engine, stats, error), error)
            return EngineStats(
                **{field.name: _plain(ffi, field.type, getattr(stats, field.name)) for field in fields(EngineStats)}
            )

    def drain(self, timeout: float | None) -> bool:
        """Refuses new requests and waits, `timeout` seconds at most, for those in flight. False: some are left."""
        loaded = library()
        lib, error = loaded.lib, loaded.ffi.new("qwen_error **")
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            left = POLL_MILLISECONDS if end is None else min(POLL_MILLISECONDS, (end - time.monotonic()) * 1e3)
            with self.handle.use() as engine:  # for one turn only: close() must not have to wait for the requests
                status = lib.qwen_engine_drain(engine, max(int(left), 0), error)
            if status != lib.QWEN_ERR_TIMEOUT:
                check(status, error)
                return True
            lib.qwen_error_free(error[0])
            error[0] = loaded.ffi.NULL
            if end is not None and time.monotonic() >= end:
                return False

    def load_adapter(self, path: str | os.PathLike[str], name: str | None) -> str:
        """Reads a folder of PEFT's, or an adapter of the hub. name None: the folder's or the repository's own. Returns the
        name. Ctrl-C comes through at once."""
        folder = resolve_adapter(path)
        raw = path_bytes(folder)
        of_hub = HubName.parse(path) if isinstance(path, str) and str(folder) != path else None
        own = of_hub.repo if of_hub is not None else os.path.abspath(folder)
        wanted = os.path.basename(own) if name is None else name

        def work() -> str:
            loaded = library()
            error = loaded.ffi.new("qwen_error **")
            with self.handle.use() as engine:
                check(loaded.lib.qwen_engine_load_adapter(engine, raw, _name(wanted), error), error)
            return wanted

        return run_interruptibly(work, self.unload_adapter, lambda: None)

    def unload_adapter(self, name: str) -> None:
        loaded = library()
        error = loaded.ffi.new("qwen_error **")
        with self.handle.use() as engine:
            check(loaded.lib.qwen_engine_unload_adapter(engine, _name(name), error), error)

    def adapters(self) -> list[AdapterInfo]:
        """By name."""
        loaded = library()
        ffi, lib = loaded.ffi, loaded.lib
        error = ffi.new("qwen_error **")
        info = ffi.new("qwen_adapter_info *")
        found: list[AdapterInfo] = []
        after = ffi.NULL
        with self.handle.use() as engine:
            while True:
                info.struct_size = ffi.sizeof("qwen_adapter_info")
                status = lib.qwen_engine_adapter_info_get(engine, after, info, error)
                if status == lib.QWEN_ERR_NOT_FOUND:
                    lib.qwen_error_free(error[0])
                    return found
                check(status, error)
                after = info.name  # lives as long as the engine
                found.append(
                    AdapterInfo(
                        **{row.name: _plain(ffi, row.type, getattr(info, row.name)) for row in fields(AdapterInfo)}
                    )
                )

    def counters(self) -> dict[str, int]:
        """How often each kernel has run, by name, e.g. "linear.bf16.avx512"."""
        loaded = library()
        ffi, lib = loaded.ffi, loaded.lib
        error = ffi.new("qwen_error **")
        counter = ffi.new("qwen_counter *")
        found: dict[str, int] = {}
        index = 0
        with self.handle.use() as engine:
            while True:
                counter.struct_size = ffi.sizeof("qwen_counter")
                status = lib.qwen_engine_counter_get(engine, index, counter, error)
                if status == lib.QWEN_ERR_NOT_FOUND:
                    lib.qwen_error_free(error[0])
                    return found
                check(status, error)
                found[ffi.string(counter.name).decode()] = counter.value
                index += 1


def _name(name: str) -> bytes:
    raw = utf8(name)
    if b"\0" in raw:
        raise QwenValueError(f"an adapter's name must not contain NUL: {name!r}")
    return raw


def _tracer(trace: Callable[[StepTrace], object]) -> Callable[[Any, Any], None]:
    """What the library calls after a step. What the function raises the first time is left to cffi, which stops it at the
    border and hands it to sys.unraisablehook; the same exception after every step would tell nobody more."""
    reported: list[bool] = []

    def on_step(step: Any, user: Any) -> None:
        try:
            trace(StepTrace(**{field.name: getattr(step, field.name) for field in fields(StepTrace)}))
        except BaseException:
            if not reported:
                reported.append(True)
                raise

    return on_step


def _plain(ffi: Any, annotation: Any, value: Any) -> Any:
    if annotation == "str":
        return ffi.string(value).decode("utf-8", "replace") if value != ffi.NULL else ""
    return bool(value) if annotation == "bool" else int(value)


def mapped_model(path: str | os.PathLike[str]) -> Any:
    """A `qwen_model *` for looking at: on the CPU, where opening maps the weights and reads none of their data."""
    loaded = library()
    error, box = loaded.ffi.new("qwen_error **"), loaded.ffi.new("qwen_model **")
    options = OptionSet({"device": "cpu"}, OptionScope.ENGINE)
    raw = path_bytes(resolve_model(path), "model_path")
    check(loaded.lib.qwen_model_open(raw, options.pointer, box, error), error)
    return loaded.ffi.gc(box[0], loaded.lib.qwen_model_free)


def model_info(path: str | os.PathLike[str]) -> ModelInfo:
    """What the checkpoint in a folder is. Opens the weights by mapping them, reads none of their data."""
    model = mapped_model(path)
    ffi, lib = library().ffi, library().lib
    info, error = ffi.new("qwen_model_info *"), ffi.new("qwen_error **")
    info.struct_size = ffi.sizeof("qwen_model_info")
    check(lib.qwen_model_info_get(model, info, error), error)
    return ModelInfo(**{field.name: _plain(ffi, field.type, getattr(info, field.name)) for field in fields(ModelInfo)})
