"""Calls of the library that may take long and cannot be polled: run on a helper thread, so that Ctrl-C and event loops
stay alive."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")

# Calls that can be polled wait in turns: a blocked foreign call cannot be interrupted by Ctrl-C, and this is the longest.
POLL_MILLISECONDS = 50


class _Call(Generic[T]):
    """One call: what it returned or raised, and whether anybody still wants it."""

    def __init__(self, work: Callable[[], T], discard: Callable[[T], None]) -> None:
        self.done = threading.Event()
        self.result: list[T] = []
        self.error: BaseException | None = None
        self.abandoned = False
        self._lock = threading.Lock()
        self._work, self._discard = work, discard

    def run(self) -> None:
        try:
            result = self._work()
        except BaseException as error:
            self.error = error
        else:
            with self._lock:
                wanted = not self.abandoned
                if wanted:
                    self.result.append(result)
            if not wanted:
                self._discard(result)
        finally:
            self.done.set()

    def abandon(self) -> None:
        with self._lock:
            self.abandoned = True
            late, self.result = self.result, []
        for result in late:
            self._discard(result)


def run_interruptibly(work: Callable[[], T], discard: Callable[[T], None], on_interrupt: Callable[[], None]) -> T:
    """Returns work()'s result, or raises what it raised. Ctrl-C (any exception in the waiting thread) calls
    on_interrupt() and leaves at once; a result that comes later goes to discard()."""
    if threading.current_thread() is not threading.main_thread():
        return work()  # only the main thread receives signals
    call = _Call(work, discard)
    threading.Thread(target=call.run, name="qwen-call", daemon=True).start()
    try:
        call.done.wait()
    except BaseException:
        on_interrupt()
        call.abandon()
        raise
    if call.error is not None:
        raise call.error
    return call.result[0]


async def run_awaitably(work: Callable[[], T], discard: Callable[[T], None], on_cancel: Callable[[], None]) -> T:
    """The same for a coroutine: cancelling its task calls on_cancel() and leaves at once."""
    import asyncio  # here, because importing it takes longer than all of this package

    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()
    call = _Call(work, discard)

    def wake() -> None:
        if not ended.done():
            ended.set_result(None)

    def run() -> None:
        call.run()
        try:
            loop.call_soon_threadsafe(wake)
        except RuntimeError:  # the loop has been closed meanwhile
            call.abandon()

    threading.Thread(target=run, name="qwen-call", daemon=True).start()
    try:
        await ended
    except BaseException:
        on_cancel()
        call.abandon()
        raise
    if call.error is not None:
        raise call.error
    return call.result[0]
