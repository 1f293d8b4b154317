"""The events of one answer, for a thread that waits for them."""

from __future__ import annotations

from collections.abc import Iterator
from types import TracebackType

from ._reading import read_event
from ._request import Request
from .results import GenerationResult, StreamEvent


class GenerationStream(Iterator[StreamEvent]):
    """The events of one answer (of all n answers together), as they come. One thread at a time.

    close(), leaving a `with` block, or dropping the stream cancels the request. Errors of the request are raised by the
    iteration. After the last event, `result` is the whole answer.
    """

    def __init__(self, request: Request) -> None:
        self._request = request
        self._result: GenerationResult | None = None
        self._ended = False

    def __iter__(self) -> GenerationStream:
        return self

    def __next__(self) -> StreamEvent:
        if self._ended:
            raise StopIteration
        try:
            event = self._request.next_event()
            if event is not None:
                return read_event(self._request.ffi, event)
            self._result = self._request.result()
        except BaseException:  # Ctrl-C among them
            self.close()
            raise
        self.close()
        raise StopIteration

    @property
    def result(self) -> GenerationResult:
        """The whole answer. Raises RuntimeError before the stream has come to its end."""
        if self._result is None:
            raise RuntimeError("the result is there when the stream has been read to its end")
        return self._result

    def cancel(self) -> None:
        """Cancels from any thread: the iteration then raises QwenCancelledError, within one step."""
        self._request.cancel()

    def stop(self) -> None:
        """Ends the answer from any thread, within one step: the iteration comes to its end, and `result` is what there is."""
        self._request.stop()

    def close(self) -> None:
        """Cancels what is still running and frees it; the iteration is over. Any number of times."""
        self._ended = True
        self._request.close()

    def __enter__(self) -> GenerationStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
