"""Text to token ids and back."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from ._engine import path_bytes
from ._handle import Handle
from ._loader import check, library
from ._options import int32_array, utf8
from .errors import QwenUnsupportedError
from .hub import resolve_model


class Tokenizer:
    """A checkpoint's tokenizer; weights are not needed. Any number of threads may use one at the same time."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        """path: a tokenizer.json, a folder that holds one, a GGUF file, or a model of the hub."""
        loaded = library()
        error, box = loaded.ffi.new("qwen_error **"), loaded.ffi.new("qwen_tokenizer **")
        check(loaded.lib.qwen_tokenizer_open(path_bytes(resolve_model(path, weights=False)), box, error), error)
        self._handle = Handle(box[0], loaded.lib.qwen_tokenizer_free, "tokenizer")
        self._borrowed = False

    @classmethod
    def _of_engine(cls, engine: Handle) -> Tokenizer:
        tokenizer = cls.__new__(cls)
        tokenizer._handle, tokenizer._borrowed = engine, True
        return tokenizer

    @contextmanager
    def _use(self) -> Iterator[Any]:
        with self._handle.use() as pointer:
            if self._borrowed:
                loaded = library()
                pointer = loaded.lib.qwen_model_tokenizer(loaded.lib.qwen_engine_model(pointer))
                if pointer == loaded.ffi.NULL:
                    raise QwenUnsupportedError("this checkpoint has no tokenizer")
            yield pointer

    def encode(self, text: str | bytes, *, special: bool = True) -> list[int]:
        """Token ids of a text. special=False: "<|im_end|>" in it is ordinary text, as wanted for untrusted input.
        Invalid UTF-8 (bytes are taken as they are) is a QwenValueError with the offset."""
        loaded = library()
        ffi, lib = loaded.ffi, loaded.lib
        raw = utf8(text)
        flags = 0 if special else lib.QWEN_ENCODE_PLAIN
        error, count = ffi.new("qwen_error **"), ffi.new("size_t *")
        capacity = len(raw) + 16
        with self._use() as tokenizer:
            while True:
                ids = ffi.new("int32_t[]", capacity)
                check(lib.qwen_tokenizer_encode(tokenizer, raw, len(raw), flags, ids, capacity, count, error), error)
                if count[0] <= capacity:
                    return list(ffi.unpack(ids, count[0]))
                capacity = count[0]

    def decode(self, token_ids: Sequence[int], *, skip_special: bool = False) -> str:
        """The text of token ids. skip_special leaves tokens such as <|im_end|> out. Bytes that form no UTF-8 become
        U+FFFD."""
        loaded = library()
        ffi, lib = loaded.ffi, loaded.lib
        ids = int32_array("token_ids", token_ids)
        flags = lib.QWEN_DECODE_SKIP_SPECIAL if skip_special else 0
        error, length = ffi.new("qwen_error **"), ffi.new("size_t *")
        capacity = 8 * len(ids) + 16
        with self._use() as tokenizer:
            while True:
                text = ffi.new("char[]", capacity)
                check(lib.qwen_tokenizer_decode(tokenizer, ids, len(ids), flags, text, capacity, length, error), error)
                if length[0] <= capacity:
                    return bytes(ffi.buffer(text, length[0])).decode("utf-8")
                capacity = length[0]

    @property
    def vocab_size(self) -> int:
        """Highest token id + 1. A model's vocab_size may be larger (padding)."""
        with self._use() as tokenizer:
            return int(library().lib.qwen_tokenizer_size(tokenizer))

    def token_id(self, text: str) -> int | None:
        """The id of a special or added token by its exact text; None: there is none."""
        raw = utf8(text)
        with self._use() as tokenizer:
            found = int(library().lib.qwen_tokenizer_token_id(tokenizer, raw, len(raw)))
        return found if found >= 0 else None

    def close(self) -> None:
        """Frees the tokenizer. A session's tokenizer is freed with the session instead."""
        if not self._borrowed:
            self._handle.close()
