"""Python values -> the library's options. The library's table decides which keys exist, of what type, within which bounds."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from numbers import Real
from operator import index
from typing import Any

from ._loader import check, library
from .errors import QwenValueError


class OptionType(IntEnum):
    """What a value of an option is; the numbers are those of QWEN_OPTION_..."""

    I64 = 1
    F64 = 2
    STR = 3
    I32_ARRAY = 4
    STR_ARRAY = 5
    BIAS = 6
    CALLBACK = 7


class OptionScope(IntEnum):
    """Whether an option belongs to a session (`engine`) or to one request."""

    ENGINE = 1
    REQUEST = 2


@dataclass(frozen=True, slots=True)
class OptionInfo:
    """One row of the library's table of options."""

    key: str
    type: OptionType | int  # an int: a type that is newer than this package
    scope: OptionScope | int
    minimum: float | None  # inclusive, None: no bounds
    maximum: float | None
    default: str  # as text, "" for none
    choices: tuple[str, ...]  # empty: any text
    unit: str
    help: str


@lru_cache(maxsize=1)
def options() -> tuple[OptionInfo, ...]:
    """Every engine option and sampling parameter of this library, in the order of its table."""
    loaded = library()
    ffi, lib = loaded.ffi, loaded.lib
    rows: list[OptionInfo] = []
    row = ffi.new("qwen_option_info *")
    error = ffi.new("qwen_error **")
    while True:
        row.struct_size = ffi.sizeof("qwen_option_info")
        status = lib.qwen_option_info_get(len(rows), row, error)
        if status == lib.QWEN_ERR_NOT_FOUND:
            lib.qwen_error_free(error[0])
            return tuple(rows)
        check(status, error)
        text = {
            name: ffi.string(getattr(row, name)).decode() for name in ("key", "default_text", "choices", "unit", "help")
        }
        rows.append(
            OptionInfo(
                key=text["key"],
                type=OptionType(row.type) if row.type in set(OptionType) else int(row.type),
                scope=OptionScope(row.scope) if row.scope in set(OptionScope) else int(row.scope),
                minimum=row.minimum if row.has_bounds else None,
                maximum=row.maximum if row.has_bounds else None,
                default=text["default_text"],
                choices=tuple(text["choices"].split("|")) if text["choices"] else (),
                unit=text["unit"],
                help=text["help"],
            )
        )


@lru_cache(maxsize=1)
def _table() -> dict[str, OptionInfo]:
    return {row.key: row for row in options()}


def utf8(text: str | bytes) -> bytes:
    """UTF-8 as the library takes it. bytes go in as they are, lone surrogates are left for the library to refuse."""
    if not isinstance(text, str | bytes):
        raise TypeError(f"a text must be a str, not {type(text).__name__}")
    return text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")


class OptionSet:
    """A `qwen_options`, with what its pointers refer to kept alive. Used by one call, then dropped."""

    def __init__(self, values: Mapping[str, Any], scope: OptionScope) -> None:
        """Sets every value that is not None. Raises QwenValueError with the library's message, TypeError for a Python
        type that fits no option."""
        loaded = library()
        self._ffi, self._lib = loaded.ffi, loaded.lib
        self._error = self._ffi.new("qwen_error **")
        box = self._ffi.new("qwen_options **")
        check(self._lib.qwen_options_new(box, self._error), self._error)
        self.pointer = self._ffi.gc(box[0], self._lib.qwen_options_free)
        self._kept: list[Any] = []
        for key, value in values.items():
            if value is not None:
                row = _table().get(key)
                # The library would refuse it too, when the object is used, but by the names of its C functions.
                if row is not None and row.scope != scope:
                    place = "a session, when it is opened" if row.scope == OptionScope.ENGINE else "a request"
                    raise QwenValueError(f"option '{key}' belongs to {place}")
                self._set(key, value, row.type if row is not None else 0)

    def set_callback(self, key: str, signature: str, function: Callable[..., object]) -> Any:
        """The function must not raise. It is kept alive with this object; where the library calls it for longer than that,
        keep what is returned."""
        callback = self._ffi.callback(signature, function)
        self._kept.append(callback)
        pointer = self._ffi.cast("qwen_callback_fn", callback)
        null = self._ffi.NULL
        check(
            self._lib.qwen_options_set_callback(self.pointer, key.encode(), pointer, null, null, self._error),
            self._error,
        )
        return callback

    def _set(self, key: str, value: Any, wanted: int) -> None:
        ffi, lib, error = self._ffi, self._lib, self._error
        name = utf8(key)
        if b"\0" in name:
            raise QwenValueError(f"unknown option {key!r}")
        # The table's type rules where the Python type can stand for several; otherwise the value is sent as what it
        # is, and the library says what it wanted.
        if isinstance(value, os.PathLike):
            value = os.fsencode(value)
        if hasattr(value, "tolist"):  # numpy's scalars and arrays
            value = value.tolist()
        if wanted == OptionType.STR_ARRAY and isinstance(value, str | bytes):
            value = [value]  # as everybody writes stop="\n"
        if wanted == OptionType.STR_ARRAY and isinstance(value, Sequence):
            for item in value:
                if not isinstance(item, str | bytes):
                    raise TypeError(f"option '{key}' takes a list of str, not of {type(item).__name__}")
        if hasattr(value, "__index__"):
            number = index(value)
            if not -(2**63) <= number < 2**63:
                raise QwenValueError(f"option '{key}' is {number}, which is beyond 64 bits")
            if wanted == OptionType.F64:
                status = lib.qwen_options_set_f64(self.pointer, name, float(number), error)
            else:
                status = lib.qwen_options_set_i64(self.pointer, name, number, error)
        elif isinstance(value, Real):
            status = lib.qwen_options_set_f64(self.pointer, name, float(value), error)
        elif isinstance(value, str | bytes):
            text = utf8(value)
            status = lib.qwen_options_set_str(self.pointer, name, text, len(text), error)
        elif isinstance(value, Mapping):
            if wanted != OptionType.BIAS:
                value = {}  # refused for what it is, whatever is in it
            ids = _int32_array(ffi, key, list(value.keys()))
            for bias in value.values():
                if not hasattr(bias, "__float__"):
                    raise TypeError(f"{key}: a bias must be a number, not {type(bias).__name__}")
            biases = ffi.new("float[]", [float(bias) for bias in value.values()])
            status = lib.qwen_options_set_bias(self.pointer, name, ids, biases, len(value), error)
        elif isinstance(value, Sequence) and (
            all(isinstance(item, str | bytes) for item in value) if value else wanted == OptionType.STR_ARRAY
        ):
            texts = [utf8(item) for item in value]
            buffers = [ffi.new("char[]", text) for text in texts]
            pointers = ffi.new("char *[]", buffers)
            lengths = ffi.new("size_t[]", [len(text) for text in texts])
            status = lib.qwen_options_set_str_array(self.pointer, name, pointers, lengths, len(texts), error)
        elif isinstance(value, Sequence):
            items = (
                value if wanted == OptionType.I32_ARRAY else ()
            )  # any other option refuses a list, whatever is in it
            status = lib.qwen_options_set_i32_array(
                self.pointer, name, _int32_array(ffi, key, items), len(items), error
            )
        else:
            raise TypeError(f"option '{key}' cannot be a {type(value).__name__}")
        check(status, error)


def _int32_array(ffi: Any, what: str, values: Sequence[Any]) -> Any:
    try:
        return ffi.new("int32_t[]", list(map(index, values)))
    except TypeError:
        wrong = next(value for value in values if not hasattr(value, "__index__"))
        raise TypeError(f"{what}: token ids must be integers, not {type(wrong).__name__}") from None
    except OverflowError:
        wrong = next(value for value in values if not -(2**31) <= value < 2**31)
        raise QwenValueError(f"{what}: {wrong} is not a token id") from None


def int32_array(what: str, values: Any) -> Any:
    """A C array of token ids from any sequence of integers (lists, ranges, one-dimensional numpy arrays)."""
    if isinstance(values, str | bytes) or not hasattr(values, "__len__"):
        raise TypeError(f"{what}: token ids must be a sequence of integers, not {type(values).__name__}")
    plain = values.tolist() if hasattr(values, "tolist") else list(values)
    return _int32_array(library().ffi, what, plain)
