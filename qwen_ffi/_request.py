"""One generation in flight. Waits for it in short turns, so that the interpreter can take signals in between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ._handle import Handle
from ._loader import check, library
from ._options import OptionScope, OptionSet, int32_array, utf8
from .errors import QwenClosedError, QwenValueError, error_for_status
from .results import Channel, FinishReason, GenerationResult, RequestStats, StreamEvent

# A blocked foreign call cannot be interrupted by Ctrl-C; this is the longest one.
POLL_MILLISECONDS = 50

FINISH_REASONS = tuple(FinishReason)  # in the order of QWEN_FINISH_...
CHANNELS = tuple(Channel)  # in the order of QWEN_CHANNEL_...

Message = Mapping[str, str] | tuple[str, str | bytes]


class Prompt:
    """A `qwen_prompt`: either text, or token ids, or messages."""

    def __init__(self) -> None:
        loaded = library()
        self._lib = loaded.lib
        self._error = loaded.ffi.new("qwen_error **")
        box = loaded.ffi.new("qwen_prompt **")
        check(self._lib.qwen_prompt_new(box, self._error), self._error)
        self.pointer = loaded.ffi.gc(box[0], self._lib.qwen_prompt_free)

    @classmethod
    def from_text(cls, text: str | bytes) -> Prompt:
        prompt, raw = cls(), utf8(text)
        check(prompt._lib.qwen_prompt_add_text(prompt.pointer, raw, len(raw), prompt._error), prompt._error)
        return prompt

    @classmethod
    def from_ids(cls, token_ids: Sequence[int]) -> Prompt:
        prompt, ids = cls(), int32_array("prompt", token_ids)
        check(prompt._lib.qwen_prompt_add_tokens(prompt.pointer, ids, len(ids), prompt._error), prompt._error)
        return prompt

    @classmethod
    def from_messages(cls, messages: Sequence[Message]) -> Prompt:
        prompt = cls()
        for message in messages:
            role, content = _role_and_content(message)
            name, raw = utf8(role), utf8(content)
            if b"\0" in name:
                raise QwenValueError(f"role must not contain NUL: {role!r}")
            check(
                prompt._lib.qwen_prompt_add_message(prompt.pointer, name, raw, len(raw), prompt._error), prompt._error
            )
        return prompt


def _role_and_content(message: Message) -> tuple[str, str | bytes]:
    role: object
    content: object
    if isinstance(message, Mapping):
        unknown = sorted(set(message) - {"role", "content"})
        if unknown:
            raise QwenValueError(f"a message has the keys 'role' and 'content', not {', '.join(map(repr, unknown))}")
        try:
            role, content = message["role"], message["content"]
        except KeyError as error:
            raise QwenValueError(f"a message needs the key {error}") from None
    elif isinstance(message, tuple) and len(message) == 2:
        role, content = message
    else:
        raise TypeError(
            f"a message is {{'role': ..., 'content': ...}} or (role, content), not {type(message).__name__}"
        )
    if not isinstance(role, str) or not isinstance(content, str | bytes):
        raise TypeError("role and content of a message must be str")
    return role, content


class Request:
    """Owns a `qwen_request`. One thread at a time, except cancel()."""

    def __init__(self, engine: Handle, prompt: Prompt, values: Mapping[str, Any]) -> None:
        """Submits. Raises what `qwen_submit` refuses: unknown options, an empty or too long prompt, a full queue."""
        loaded = library()
        self._ffi, self._lib = loaded.ffi, loaded.lib
        self._engine = engine  # a session that nobody else holds any more lives until its last answer is out
        self._error = self._ffi.new("qwen_error **")
        self._event = self._ffi.new("qwen_event *")
        options = OptionSet(values, OptionScope.REQUEST)
        box = self._ffi.new("qwen_request **")
        try:
            with engine.use() as pointer:
                status = self._lib.qwen_submit(
                    pointer, prompt.pointer, options.pointer, self._ffi.NULL, 0, box, self._error
                )
                check(status, self._error)
            self.handle = Handle(box[0], self._lib.qwen_request_free, "request")
        except BaseException:  # Ctrl-C may come while a long prompt is encoded: the request must not run on unseen
            self._lib.qwen_request_free(box[0])
            raise

    def next_event(self) -> Any:
        """The next `qwen_event *`, borrowed until the next call; None when the request is done. Raises the request's
        own failure."""
        lib = self._lib
        with self.handle.use() as pointer:
            while True:
                self._event.struct_size = self._ffi.sizeof("qwen_event")
                status = lib.qwen_request_next(pointer, POLL_MILLISECONDS, self._event, self._error)
                if status == lib.QWEN_ERR_TIMEOUT:
                    lib.qwen_error_free(self._error[0])
                    self._error[0] = self._ffi.NULL
                    continue
                check(status, self._error)
                break
        if self._event.type != lib.QWEN_EVENT_DONE:
            return self._event
        if self._event.status != lib.QWEN_OK:
            raise error_for_status(self._event.status, self._ffi.string(self._event.message).decode("utf-8", "replace"))
        return None

    def cancel(self) -> None:
        """Any thread, any time; takes effect within one step."""
        try:
            with self.handle.use() as pointer:
                self._lib.qwen_request_cancel(pointer)
        except QwenClosedError:
            pass

    def result(self) -> GenerationResult:
        """What has been generated so far; all of it once next_event() has returned None."""
        ffi, lib, error = self._ffi, self._lib, self._error
        box = ffi.new("qwen_result **")
        with self.handle.use() as pointer:
            check(lib.qwen_request_result(pointer, box, error), error)
        result = box[0]
        try:
            choice = ffi.new("qwen_choice *")
            choice.struct_size = ffi.sizeof("qwen_choice")
            check(lib.qwen_result_choice_get(result, 0, choice, error), error)
            stats = ffi.new("qwen_stats *")
            stats.struct_size = ffi.sizeof("qwen_stats")
            check(lib.qwen_result_stats_get(result, stats, error), error)
            return GenerationResult(
                text=_text(ffi, choice.text, choice.text_length),
                reasoning=_text(ffi, choice.reasoning, choice.reasoning_length),
                token_ids=_tuple(ffi, choice.token_ids, choice.token_count) or (),
                logprobs=_tuple(ffi, choice.logprobs, choice.token_count),
                finish_reason=FINISH_REASONS[choice.finish_reason],
                stats=RequestStats(
                    prompt_tokens=stats.prompt_tokens,
                    cached_tokens=stats.cached_tokens,
                    generated_tokens=stats.generated_tokens,
                    queued_seconds=stats.queued_seconds,
                    prompt_seconds=stats.prompt_seconds,
                    generate_seconds=stats.generate_seconds,
                    first_token_seconds=stats.first_token_seconds,
                    seed=stats.seed,
                ),
            )
        finally:
            lib.qwen_result_free(result)

    def stream_event(self, event: Any) -> StreamEvent:
        """The event as a value of its own."""
        ffi = self._ffi
        return StreamEvent(
            text=_text(ffi, event.text, event.text_length),
            channel=CHANNELS[event.channel],
            token_ids=_tuple(ffi, event.token_ids, event.token_count) or (),
            logprobs=_tuple(ffi, event.logprobs, event.token_count),
            finish_reason=FINISH_REASONS[event.finish_reason] if event.type == self._lib.QWEN_EVENT_FINISHED else None,
        )

    def wait(self) -> GenerationResult:
        """The finished answer. Whatever ends the waiting early (Ctrl-C) cancels the request and frees it."""
        try:
            while self.next_event() is not None:
                pass
            return self.result()
        finally:
            self.close()

    def close(self) -> None:
        """Frees the request, which cancels it if it is still running."""
        self.cancel()
        self.handle.close()


def _text(ffi: Any, text: Any, length: int) -> str:
    return bytes(ffi.buffer(text, length)).decode("utf-8") if length else ""


def _tuple(ffi: Any, values: Any, count: int) -> tuple[Any, ...] | None:
    return None if values == ffi.NULL else tuple(ffi.unpack(values, count))
