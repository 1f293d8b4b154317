"""Errors: one class per status of the library, each also the built-in error that Python programmers expect.

`str(error)` is the library's own message; it names the file, key or value and what would be right. `error.status` is the
number from `qwen.h` (`QWEN_ERR_...`), 0 for errors found before the library was asked.
"""

from __future__ import annotations


class QwenError(RuntimeError):
    """Base of every error of this package."""

    status: int = 0


class QwenLibraryError(QwenError, ImportError):
    """libqwen.so could not be found, loaded, or is of another version than this package."""


class QwenValueError(QwenError, ValueError):
    """An argument, option key or value is not acceptable."""

    status = 1


class QwenNotFoundError(QwenError, FileNotFoundError):
    """A file or folder does not exist."""

    status = 2


class QwenIOError(QwenError, OSError):
    """The operating system refused to read."""

    status = 3


class QwenFileFormatError(QwenError, ValueError):
    """A file exists but is broken or contradicts itself."""

    status = 4


class QwenUnsupportedError(QwenError, NotImplementedError):
    """Well-formed, but this version, build or machine cannot do it."""

    status = 5


class QwenMemoryError(QwenError, MemoryError):
    """Not enough memory; the session stays usable."""

    status = 6


class QwenCancelledError(QwenError):
    """The request was cancelled."""

    status = 7


class QwenClosedError(QwenError):
    """The session or handle was closed."""

    status = 8


class QwenTimeoutError(QwenError, TimeoutError):
    """Nothing happened within the time given."""

    status = 9


class QwenCallbackError(QwenError):
    """A callback of the program failed."""

    status = 10


class QwenForkedError(QwenError):
    """Used in a child of the process that made it; open the model again in the child."""

    status = 11


class QwenBusyError(QwenError):
    """The queue of waiting requests is full; try again later."""

    status = 12


class QwenInternalError(QwenError):
    """A defect of the library: please report it."""

    status = 13


_BY_STATUS: dict[int, type[QwenError]] = {
    cls.status: cls
    for cls in (
        QwenValueError,
        QwenNotFoundError,
        QwenIOError,
        QwenFileFormatError,
        QwenUnsupportedError,
        QwenMemoryError,
        QwenCancelledError,
        QwenClosedError,
        QwenTimeoutError,
        QwenCallbackError,
        QwenForkedError,
        QwenBusyError,
        QwenInternalError,
    )
}


def error_for_status(status: int, message: str) -> QwenError:
    """The exception for a status of `qwen.h`. A number that this package does not know yet is a plain QwenError."""
    cls = _BY_STATUS.get(status)
    error = (cls or QwenError)(message)
    if cls is None:
        error.status = status
    return error
