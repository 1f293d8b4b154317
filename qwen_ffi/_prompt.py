"""What a request is given: text, token ids, or a conversation with its tools and template variables."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ._handle import Handle
from ._loader import check, library
from ._options import OptionScope, OptionSet, int32_array, utf8
from ._reading import read_text
from .errors import QwenUnsupportedError, QwenValueError

Message = Mapping[str, Any] | tuple[str, str | bytes]
Tool = Mapping[str, Any]


class Prompt:
    """A `qwen_prompt`: either text, or token ids, or messages."""

    def __init__(self) -> None:
        loaded = library()
        self._ffi, self._lib = loaded.ffi, loaded.lib
        self._error = loaded.ffi.new("qwen_error **")
        box = loaded.ffi.new("qwen_prompt **")
        check(self._lib.qwen_prompt_new(box, self._error), self._error)
        self.pointer = loaded.ffi.gc(box[0], self._lib.qwen_prompt_free)

    @classmethod
    def from_text(cls, text: str | bytes) -> Prompt:
        prompt = cls()
        prompt._give(prompt._lib.qwen_prompt_add_text, utf8(text))
        return prompt

    @classmethod
    def from_ids(cls, token_ids: Sequence[int]) -> Prompt:
        prompt, ids = cls(), int32_array("prompt", token_ids)
        check(prompt._lib.qwen_prompt_add_tokens(prompt.pointer, ids, len(ids), prompt._error), prompt._error)
        return prompt

    @classmethod
    def from_messages(
        cls,
        messages: Sequence[Message],
        tools: Sequence[Tool] | None = None,
        template_variables: Mapping[str, Any] | None = None,
        system: str | None = None,
    ) -> Prompt:
        """Messages as dicts in the form of OpenAI's chat interface, every key of them, or as (role, content). system: a
        system message for conversations that do not begin with their own."""
        if not messages:
            raise QwenValueError("a conversation needs at least one message; this list is empty")
        prompt = cls()
        if system is not None and _role(messages[0]) != "system":
            prompt._add_message(0, ("system", system))
        for index, message in enumerate(messages):
            try:
                prompt._add_message(index, message)
            except (QwenValueError, QwenUnsupportedError) as error:
                text = str(error).removeprefix("the message: ")
                raise type(error)(text if text.startswith("message ") else f"message {index}: {text}") from None
        if tools is not None:
            prompt._give(prompt._lib.qwen_prompt_set_tools, _tools_json(tools))
        if template_variables is not None:
            if not isinstance(template_variables, Mapping):
                raise TypeError(f"template_variables must be a dict, not {type(template_variables).__name__}")
            prompt._give(prompt._lib.qwen_prompt_set_variables, to_json(template_variables, "template_variables"))
        return prompt

    def render(self, engine: Handle, values: Mapping[str, Any]) -> str:
        """The text the model would be given. values: request options, of which reasoning_mode matters."""
        return read_text(self._ffi, *self._ask(engine, values, self._lib.qwen_prompt_render, "char[]"))

    def encode(self, engine: Handle, values: Mapping[str, Any]) -> list[int]:
        """The token ids the model would be given."""
        return list(self._ffi.unpack(*self._ask(engine, values, self._lib.qwen_prompt_encode, "int32_t[]")))

    def _add_message(self, index: int, message: Message) -> None:
        if isinstance(message, Mapping):
            self._give(self._lib.qwen_prompt_add_message_json, to_json(message, f"message {index}"))
            return
        if not isinstance(message, tuple) or len(message) != 2:
            raise TypeError(
                f"message {index} must be {{'role': ..., 'content': ...}} or (role, content), not {type(message).__name__}"
            )
        role, content = message
        if not isinstance(role, str) or not isinstance(content, str | bytes):
            raise TypeError(f"message {index}: role and content must be str")
        name, raw = utf8(role), utf8(content)
        if b"\0" in name:
            raise QwenValueError(f"role must not contain NUL: {role!r}")
        check(self._lib.qwen_prompt_add_message(self.pointer, name, raw, len(raw), self._error), self._error)

    def _give(self, function: Callable[..., int], raw: bytes) -> None:
        check(function(self.pointer, raw, len(raw), self._error), self._error)

    def _ask(
        self, engine: Handle, values: Mapping[str, Any], function: Callable[..., int], kind: str
    ) -> tuple[Any, int]:
        """What qwen_prompt_render or qwen_prompt_encode writes, and its length."""
        options, needed, capacity = OptionSet(values, OptionScope.REQUEST), self._ffi.new("size_t *"), 4096
        with engine.use() as pointer:
            model = self._lib.qwen_engine_model(pointer)
            while True:
                room = self._ffi.new(kind, capacity)
                check(function(self.pointer, model, options.pointer, room, capacity, needed, self._error), self._error)
                if needed[0] <= capacity:
                    return room, needed[0]
                capacity = needed[0]


def _role(message: Message) -> object:
    if isinstance(message, Mapping):
        return message.get("role")
    return message[0] if isinstance(message, tuple) and message else None


def to_json(value: Any, what: str) -> bytes:
    """The JSON text of a value. Raises QwenValueError that names the key JSON has no form for."""
    try:
        return _dumps(value)
    except (TypeError, ValueError, RecursionError) as error:
        culprit = what
        for key, member in value.items() if isinstance(value, Mapping) else ():
            try:
                _dumps(member)
            except (TypeError, ValueError, RecursionError):
                culprit = f"{what}, key {key!r}"
                break
        raise QwenValueError(f"{culprit} cannot be written as JSON: {error}") from None


def _dumps(value: Any) -> bytes:
    return utf8(json.dumps(value, ensure_ascii=False, allow_nan=False, default=_plain))


def _plain(value: Any) -> Any:
    """Mappings that are no dict, sequences that are no list, numpy's numbers and arrays."""
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview):
        return list(value)
    if hasattr(value, "tolist"):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no form there")


def _tools_json(tools: Sequence[Tool]) -> bytes:
    if isinstance(tools, str | bytes | Mapping) or not isinstance(tools, Sequence):
        raise TypeError(f"tools must be a list of dicts, not {type(tools).__name__}")
    for index, tool in enumerate(tools):
        if not isinstance(tool, Mapping):
            raise TypeError(f"tool {index} must be a dict, not {type(tool).__name__}")
    return b"[" + b",".join(to_json(tool, f"tool {index}") for index, tool in enumerate(tools)) + b"]"
