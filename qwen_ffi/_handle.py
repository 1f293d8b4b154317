"""A library object in Python's hands: freed once, by close() or when its owner is collected, never in a forked child."""

from __future__ import annotations

import atexit
import os
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from .errors import QwenClosedError

# Engines have threads, which must have stopped before the process takes its libraries down.
_to_close_at_exit: weakref.WeakSet[Handle] = weakref.WeakSet()


def _free_in_own_process(free: Callable[[Any], None], pointer: Any, pid: int) -> None:
    if os.getpid() == pid:
        free(pointer)


class Handle:
    """Owns one pointer. `use()` lends it to any number of threads at once; close() waits for them, then frees it.

    There is no lock: Ctrl-C may strike between any two steps and fork() while another thread is anywhere. Each user is
    one element of a set, added and taken out in one indivisible step. A user first enters, then looks at `_closed`;
    close() first sets `_closed`, then looks for users: so one of them sees the other.
    """

    def __init__(self, pointer: Any, free: Callable[[Any], None], what: str, close_at_exit: bool = False) -> None:
        self._pointer = pointer
        self._what = what
        self._pid = os.getpid()
        self._users: set[object] = set()
        self._closed = False
        self._finalizer = weakref.finalize(self, _free_in_own_process, free, pointer, self._pid)
        self._finalizer.atexit = False  # at exit a daemon thread may still be inside the library with this pointer
        if close_at_exit:
            _to_close_at_exit.add(self)

    @contextmanager
    def use(self) -> Iterator[Any]:
        """Lends the pointer. Raises QwenClosedError after close(). In a forked child the library itself answers."""
        user = object()
        try:
            self._users.add(user)
            if self._closed:
                raise QwenClosedError(f"this {self._what} is closed")
            yield self._pointer
        finally:
            self._users.discard(user)

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"a {self._what} cannot be pickled or copied: make one in the process that uses it")

    @property
    def closed(self) -> bool:
        return self._closed

    def close(self, timeout: float | None = None) -> None:
        """Frees the object. Waits for the calls that are using it, at most `timeout` seconds, then leaves it to the
        process's end. Any thread, any number of times."""
        self._closed = True
        if os.getpid() != self._pid:
            return  # the users are threads that do not exist here
        deadline = None if timeout is None else time.monotonic() + timeout
        while self._users:
            if deadline is not None and time.monotonic() > deadline:
                return
            time.sleep(0.001)
        self._finalizer()


# With the first finalizer of a process, weakref.finalize registers an exit function after which it calls none any more.
# Exit functions run in reverse order: one that is to close handles has to be registered later than that.
weakref.finalize(Handle, lambda: None).detach()


@atexit.register
def _close_all() -> None:
    for handle in list(_to_close_at_exit):
        handle.close(timeout=1.0)
