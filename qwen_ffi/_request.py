"""One generation in flight. Waits for it in short turns, so that the interpreter can take signals in between."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from ._blocking import POLL_MILLISECONDS
from ._handle import Handle
from ._loader import check, library
from ._options import OptionScope, OptionSet
from ._prompt import Prompt
from ._reading import EVENT_DONE, read_result
from .errors import QwenClosedError, error_for_status
from .results import GenerationResult


class Request:
    """Owns a `qwen_request`. One thread at a time, except cancel()."""

    def __init__(
        self, engine: Handle, prompt: Prompt, values: Mapping[str, Any], queue: Any = None, tag: int = 0
    ) -> None:
        """Submits. Raises what `qwen_submit` refuses: unknown options, an empty or too long prompt, a full queue.

        queue: a `qwen_queue *` that the events go to, each with `tag`; without one they wait for next_event().
        """
        loaded = library()
        self.ffi, self._lib = loaded.ffi, loaded.lib
        self._engine = engine  # a session that nobody else holds any more lives until its last answer is out
        self._error = self.ffi.new("qwen_error **")
        self._event = self.ffi.new("qwen_event *")
        options = OptionSet(values, OptionScope.REQUEST)
        box = self.ffi.new("qwen_request **")
        target = self.ffi.NULL if queue is None else queue
        try:
            with engine.use() as pointer:
                status = self._lib.qwen_submit(pointer, prompt.pointer, options.pointer, target, tag, box, self._error)
                check(status, self._error)
            self.handle = Handle(box[0], self._lib.qwen_request_free, "request")
        except BaseException:  # Ctrl-C may come while a long prompt is encoded: the request must not run on unseen
            self._lib.qwen_request_free(box[0])
            raise

    def next_event(self) -> Any:
        """The next `qwen_event *`, borrowed until the next call; None when the request is done. Raises the request's
        own failure."""
        lib = self._lib
        with self.handle.use() as pointer:
            while True:
                self._event.struct_size = self.ffi.sizeof("qwen_event")
                status = lib.qwen_request_next(pointer, POLL_MILLISECONDS, self._event, self._error)
                if status == lib.QWEN_ERR_TIMEOUT:
                    lib.qwen_error_free(self._error[0])
                    self._error[0] = self.ffi.NULL
                    continue
                check(status, self._error)
                break
        if self._event.type != EVENT_DONE:
            return self._event
        failure = failure_of(self.ffi, self._event)
        if failure is not None:
            raise failure
        return None

    def cancel(self) -> None:
        """Any thread, any time; takes effect within one step."""
        with suppress(QwenClosedError), self.handle.use() as pointer:
            self._lib.qwen_request_cancel(pointer)

    def stop(self) -> None:
        """The same, but the request ends well, with what it has."""
        with suppress(QwenClosedError), self.handle.use() as pointer:
            self._lib.qwen_request_stop(pointer)

    def result(self) -> GenerationResult:
        """What has been generated so far; all of it once the DONE event is out."""
        box = self.ffi.new("qwen_result **")
        with self.handle.use() as pointer:
            check(self._lib.qwen_request_result(pointer, box, self._error), self._error)
        try:
            return read_result(self.ffi, self._lib, box[0])
        finally:
            self._lib.qwen_result_free(box[0])

    def wait(self) -> GenerationResult:
        """The finished answer. Whatever ends the waiting early (Ctrl-C) cancels the request and frees it."""
        try:
            while self.next_event() is not None:
                pass
            return self.result()
        finally:
            self.close()

    def close(self) -> None:
        """Frees the request, which cancels it if it is still running."""
        self.cancel()
        self.handle.close()


def wait_for_all(requests: Iterable[Request]) -> list[GenerationResult]:
    """The answers of requests that are submitted by iterating; the first failure cancels the others and is raised."""
    submitted: list[Request] = []
    try:
        for request in requests:
            submitted.append(request)
        return [request.wait() for request in submitted]
    finally:
        for request in submitted:
            request.close()


def failure_of(ffi: Any, done: Any) -> Exception | None:
    """What the DONE event says of the request's end; None: it ended well."""
    if done.status == 0:
        return None
    return error_for_status(done.status, ffi.string(done.message).decode("utf-8", "replace"))
