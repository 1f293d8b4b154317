"""Calls of the library that may take long and cannot be polled: run on a helper thread, so that Ctrl-C stays alive."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


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
            late = list(self.result)
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
