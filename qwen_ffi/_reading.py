"""The library's structs -> values of this package. Everything is copied: the structs' memory is borrowed."""

from __future__ import annotations

from typing import Any

from ._loader import check
from .results import Channel, Choice, FinishReason, GenerationResult, RequestStats, StreamEvent, ToolCall, TopLogprobs

FINISH_REASONS = tuple(FinishReason)  # in the order of QWEN_FINISH_...
CHANNELS = tuple(Channel)  # in the order of QWEN_CHANNEL_...

# QWEN_EVENT_... by value: reading them off the library for every event costs more than the comparison.
EVENT_FINISHED, EVENT_DONE, EVENT_TOOL_CALL = 2, 3, 4


def read_event(ffi: Any, event: Any) -> StreamEvent:
    """A `qwen_event *` that is not the DONE event."""
    count = event.token_count
    return StreamEvent(
        read_text(ffi, event.text, event.text_length),
        CHANNELS[event.channel],
        tuple(ffi.unpack(event.token_ids, count)) if count else (),
        _floats(ffi, event.logprobs, count),
        FINISH_REASONS[event.finish_reason] if event.type == EVENT_FINISHED else None,
        event.choice,
        _tool_call(ffi, event, "tool_") if event.type == EVENT_TOOL_CALL else None,
        _top_logprobs(ffi, event, count),
    )


def read_result(ffi: Any, lib: Any, result: Any) -> GenerationResult:
    """A `qwen_result *`, which stays the caller's to free."""
    error = ffi.new("qwen_error **")
    stats = ffi.new("qwen_stats *", {"struct_size": ffi.sizeof("qwen_stats")})
    check(lib.qwen_result_stats_get(result, stats, error), error)
    prompt_logprobs, prompt_tokens = ffi.new("float **"), ffi.new("size_t *")
    check(lib.qwen_result_prompt_logprobs_get(result, prompt_logprobs, prompt_tokens, error), error)
    return GenerationResult(
        choices=tuple(_choice(ffi, lib, result, index) for index in range(lib.qwen_result_choice_count(result))),
        stats=RequestStats(
            prompt_tokens=stats.prompt_tokens,
            cached_tokens=stats.cached_tokens,
            generated_tokens=stats.generated_tokens,
            queued_seconds=stats.queued_seconds,
            prompt_seconds=stats.prompt_seconds,
            generate_seconds=stats.generate_seconds,
            first_token_seconds=stats.first_token_seconds,
            seed=stats.seed,
            inter_token_p50_seconds=stats.inter_token_p50_seconds,
            inter_token_p99_seconds=stats.inter_token_p99_seconds,
            inter_token_max_seconds=stats.inter_token_max_seconds,
        ),
        prompt_logprobs=_floats(ffi, prompt_logprobs[0], prompt_tokens[0]),
    )


def read_text(ffi: Any, text: Any, length: int) -> str:
    return bytes(ffi.buffer(text, length)).decode("utf-8") if length else ""


def _choice(ffi: Any, lib: Any, result: Any, index: int) -> Choice:
    error = ffi.new("qwen_error **")
    choice = ffi.new("qwen_choice *", {"struct_size": ffi.sizeof("qwen_choice")})
    check(lib.qwen_result_choice_get(result, index, choice, error), error)
    calls = []
    for place in range(choice.tool_call_count):
        call = ffi.new("qwen_tool_call *", {"struct_size": ffi.sizeof("qwen_tool_call")})
        check(lib.qwen_result_tool_call_get(result, index, place, call, error), error)
        calls.append(_tool_call(ffi, call, ""))
    count = choice.token_count
    return Choice(
        text=read_text(ffi, choice.text, choice.text_length),
        reasoning=read_text(ffi, choice.reasoning, choice.reasoning_length),
        token_ids=tuple(ffi.unpack(choice.token_ids, count)) if count else (),
        logprobs=_floats(ffi, choice.logprobs, count),
        top_logprobs=_top_logprobs(ffi, choice, count),
        tool_calls=tuple(calls),
        finish_reason=FINISH_REASONS[choice.finish_reason],
        stop_text=read_text(ffi, choice.stop_text, choice.stop_text_length) if choice.stop_text else None,
    )


def _tool_call(ffi: Any, struct: Any, prefix: str) -> ToolCall:
    name, arguments = prefix + "name", prefix + "arguments"
    return ToolCall(
        name=read_text(ffi, getattr(struct, name), getattr(struct, name + "_length")),
        arguments=read_text(ffi, getattr(struct, arguments), getattr(struct, arguments + "_length")),
    )


def _floats(ffi: Any, values: Any, count: int) -> tuple[float, ...] | None:
    return tuple(ffi.unpack(values, count)) if values else None


def _top_logprobs(ffi: Any, struct: Any, count: int) -> TopLogprobs | None:
    """top_token_ids and top_logprobs, [token_count, top_count]."""
    if not struct.top_logprobs:
        return None
    width = struct.top_count
    ids = ffi.unpack(struct.top_token_ids, count * width)
    logprobs = ffi.unpack(struct.top_logprobs, count * width)
    pairs = tuple(zip(ids, logprobs, strict=True))
    return tuple(pairs[place * width : (place + 1) * width] for place in range(count))
