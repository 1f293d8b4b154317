"""The events of one answer, for asyncio."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from types import TracebackType
from typing import TYPE_CHECKING

from .results import GenerationResult, StreamEvent

if TYPE_CHECKING:
    from ._loop_queue import Mailbox


class AsyncGenerationStream(AsyncIterator[StreamEvent]):
    """The events of one answer (of all n answers together), as they come: `async for event in stream`.

    It belongs to the event loop it was made in, and one task at a time reads it. Leaving an `async with` block,
    aclose(), dropping the stream, and cancelling the task that waits for it (asyncio.timeout among them) cancel the
    request in the engine. Events that come faster than they are read wait in memory. Errors of the request are raised by
    the iteration. After the last event, `result` is the whole answer.
    """

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox
        self._result: GenerationResult | None = None
        self._ended = False

    def __aiter__(self) -> AsyncGenerationStream:
        return self

    async def __anext__(self) -> StreamEvent:
        mailbox = self._mailbox
        if self._ended:
            raise StopAsyncIteration
        mailbox.check_loop()
        if not mailbox.events:
            await mailbox.arrival()
        if mailbox.events:
            return mailbox.events.popleft()
        try:
            if mailbox.failure is not None:
                raise mailbox.failure
            self._result = mailbox.request.result()
        finally:
            self.close()
        raise StopAsyncIteration

    @property
    def result(self) -> GenerationResult:
        """The whole answer. Raises RuntimeError before the stream has come to its end."""
        if self._result is None:
            raise RuntimeError("the result is there when the stream has been read to its end")
        return self._result

    def cancel(self) -> None:
        """Cancels from any thread: the iteration then raises QwenCancelledError, within one step."""
        self._mailbox.request.cancel()

    def stop(self) -> None:
        """Ends the answer from any thread, within one step: the iteration comes to its end, and `result` is what there is."""
        self._mailbox.request.stop()

    def close(self) -> None:
        """aclose() without having to await it."""
        self._ended = True
        self._mailbox.events.clear()
        self._mailbox.request.close()

    async def aclose(self) -> None:
        """Cancels what is still running and frees it; the iteration is over. Any number of times."""
        self.close()

    async def __aenter__(self) -> AsyncGenerationStream:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


async def whole_answer(mailbox: Mailbox) -> GenerationResult:
    """What a request generates. Cancelling the task cancels the request."""
    try:
        mailbox.check_loop()
        await mailbox.arrival()
        if mailbox.failure is not None:
            raise mailbox.failure
        return mailbox.request.result()
    finally:
        mailbox.request.close()


async def whole_answers(mailboxes: Iterable[Mailbox]) -> list[GenerationResult]:
    """The answers of requests that are submitted by iterating; the first failure cancels the others and is raised."""
    submitted: list[Mailbox] = []
    try:
        for mailbox in mailboxes:
            submitted.append(mailbox)
        return [await whole_answer(mailbox) for mailbox in submitted]
    finally:
        for mailbox in submitted:
            mailbox.request.close()
