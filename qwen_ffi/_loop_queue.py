"""One `qwen_queue` per asyncio event loop: its file descriptor wakes the loop, one callback hands out a whole batch."""

from __future__ import annotations

import asyncio
import itertools
import sys
import weakref
from collections import deque
from collections.abc import Mapping
from typing import Any

from ._handle import Handle
from ._loader import check, library
from ._prompt import Prompt
from ._reading import EVENT_DONE, read_event
from ._request import Request, failure_of
from .errors import QwenCancelledError, QwenClosedError, QwenIOError
from .results import StreamEvent

# The loop owns its queue: the reader callback is the only lasting reference. When the loop is closed it forgets its
# readers, so the queue goes, and with it every request in flight.
_queues: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, weakref.ref[LoopQueue]] = weakref.WeakKeyDictionary()


class Mailbox:
    """The events of one request that have arrived and not been read. Used on its loop's thread only, except cancel()."""

    __slots__ = ("__weakref__", "_loop", "_waiter", "done", "events", "failure", "request", "wants_events")

    def __init__(self, loop: asyncio.AbstractEventLoop, request: Request, wants_events: bool) -> None:
        self.request = request
        self.wants_events = wants_events  # False: only the end matters
        self.events: deque[StreamEvent] = deque()
        self.done = False
        self.failure: Exception | None = None
        self._loop = loop
        self._waiter: asyncio.Future[None] | None = None

    def take(self, ffi: Any, event: Any) -> None:
        """Copies an event that the library lends."""
        if event.type == EVENT_DONE:
            self.done, self.failure = True, failure_of(ffi, event)
        elif self.wants_events:
            self.events.append(read_event(ffi, event))
        else:
            return
        self.wake()

    def wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def end(self, failure: Exception) -> None:
        """The request is over, for a reason that is not its own; what has arrived can still be read."""
        if not self.done:
            self.done, self.failure = True, failure
        self.request.close()

    def check_loop(self) -> None:
        """Raises unless the loop that runs is the one the request was made in."""
        if asyncio.get_running_loop() is not self._loop:
            if self._loop.is_closed():
                raise QwenClosedError("the event loop of this answer was closed")
            raise RuntimeError("this answer belongs to another event loop; await it where it was asked for")

    async def arrival(self) -> None:
        """Waits until an event is there or the request is done. Whatever ends the waiting early cancels the request."""
        if self._waiter is not None:
            raise RuntimeError("another task is waiting for this answer already")
        try:
            while not (self.events or self.done):
                self._waiter = self._loop.create_future()
                await self._waiter
        except BaseException:
            self.end(QwenCancelledError("this answer was cancelled together with the task that waited for it"))
            raise
        finally:
            self._waiter = None


class LoopQueue:
    """A `qwen_queue` whose events are handed out on one loop's thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        loaded = library()
        self._ffi, self._lib = loaded.ffi, loaded.lib
        self._error, self._count = self._ffi.new("qwen_error **"), self._ffi.new("size_t *")
        self._event = self._ffi.new("qwen_event *")
        box = self._ffi.new("qwen_queue **")
        check(self._lib.qwen_queue_new(box, self._error), self._error)
        self._handle = Handle(box[0], self._lib.qwen_queue_free, "event queue")
        self._tags = itertools.count(1)
        self._mailboxes: weakref.WeakValueDictionary[int, Mailbox] = weakref.WeakValueDictionary()
        self._descriptor = int(self._lib.qwen_queue_fd(box[0]))
        if self._descriptor < 0:
            raise QwenIOError("no file descriptor could be had for the event loop; are too many files open?")
        loop.add_reader(self._descriptor, self._drain)

    @classmethod
    def running(cls) -> LoopQueue:
        """The queue of the loop that runs in this thread. Raises RuntimeError where none does."""
        loop = asyncio.get_running_loop()
        reference = _queues.get(loop)
        queue = reference() if reference is not None else None
        if queue is None:
            queue = cls(loop)
            _queues[loop] = weakref.ref(queue)
        return queue

    def submit(self, engine: Handle, prompt: Prompt, values: Mapping[str, Any], wants_events: bool) -> Mailbox:
        tag = next(self._tags)
        with self._handle.use() as pointer:
            request = Request(engine, prompt, values, pointer, tag)
        mailbox = Mailbox(asyncio.get_running_loop(), request, wants_events)
        self._mailboxes[tag] = mailbox  # no event can have been missed: they are drained on this thread
        return mailbox

    def _drain(self) -> None:
        ffi, lib, event, mailboxes = self._ffi, self._lib, self._event, self._mailboxes
        size = ffi.sizeof("qwen_event")
        try:
            with self._handle.use() as queue:
                status = lib.qwen_queue_next(queue, 0, self._count, self._error)
                if status == lib.QWEN_ERR_TIMEOUT:  # the events were of requests that have been closed meanwhile
                    lib.qwen_error_free(self._error[0])
                    self._error[0] = ffi.NULL
                    return
                check(status, self._error)
                for index in range(self._count[0]):
                    event.struct_size = size
                    if lib.qwen_queue_event(queue, index, event, self._error) != 0:
                        check(lib.qwen_error_code(self._error[0]), self._error)
                    mailbox = mailboxes.get(event.tag)
                    if mailbox is not None:
                        mailbox.take(ffi, event)
        except Exception as error:  # a forked child, say: the descriptor would wake the loop for ever
            asyncio.get_running_loop().remove_reader(self._descriptor)
            for mailbox in list(mailboxes.values()):
                mailbox.end(error)
                mailbox.wake()

    def __del__(self) -> None:
        if sys.is_finalizing():
            return  # the engines have been closed before, and there is nobody left to be told
        for mailbox in list(getattr(self, "_mailboxes", {}).values()):
            mailbox.end(QwenClosedError("the event loop of this answer was closed"))
