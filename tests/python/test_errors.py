"""Each status is an exception class of its own, and the built-in error that programmers expect."""

from __future__ import annotations

import copy
import pickle

import pytest

from qwen_ffi import errors
from qwen_ffi._loader import library

EXPECTED = {
    "INVALID_ARGUMENT": (errors.QwenValueError, ValueError),
    "NOT_FOUND": (errors.QwenNotFoundError, FileNotFoundError),
    "IO": (errors.QwenIOError, OSError),
    "INVALID_FILE": (errors.QwenFileFormatError, ValueError),
    "UNSUPPORTED": (errors.QwenUnsupportedError, NotImplementedError),
    "OUT_OF_MEMORY": (errors.QwenMemoryError, MemoryError),
    "CANCELLED": (errors.QwenCancelledError, RuntimeError),
    "CLOSED": (errors.QwenClosedError, RuntimeError),
    "TIMEOUT": (errors.QwenTimeoutError, TimeoutError),
    "CALLBACK": (errors.QwenCallbackError, RuntimeError),
    "FORKED": (errors.QwenForkedError, RuntimeError),
    "BUSY": (errors.QwenBusyError, RuntimeError),
    "INTERNAL": (errors.QwenInternalError, RuntimeError),
}


@pytest.mark.parametrize("name", EXPECTED)
def test_status_message_and_bases(name: str) -> None:
    cls, builtin = EXPECTED[name]
    status = getattr(library().lib, f"QWEN_ERR_{name}")
    error = errors.error_for_status(status, "config.json: what is wrong")
    assert type(error) is cls
    assert isinstance(error, builtin)
    assert isinstance(error, errors.QwenError)
    assert (error.status, str(error)) == (status, "config.json: what is wrong")


def test_every_status_of_the_header_has_a_class() -> None:
    lib = library().lib
    statuses = {getattr(lib, name) for name in dir(lib) if name.startswith("QWEN_ERR_")}
    assert statuses == {getattr(lib, f"QWEN_ERR_{name}") for name in EXPECTED}


def test_a_status_of_a_later_library_is_a_plain_error() -> None:
    error = errors.error_for_status(99, "new")
    assert type(error) is errors.QwenError
    assert (error.status, str(error)) == (99, "new")


@pytest.mark.parametrize("name", EXPECTED)
def test_errors_travel_between_processes(name: str) -> None:
    error = errors.error_for_status(getattr(library().lib, f"QWEN_ERR_{name}"), "message")
    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert (type(other), str(other), other.status) == (type(error), "message", error.status)
