"""How an answer is drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingConfig:
    """Sampling parameters of one request. None means: the checkpoint's generation_config.json, else the library's default.

    Bounds and defaults are the library's: `qwen_ffi.options()` lists them. A parameter that this version of the library
    does not have is a QwenValueError once it is set.
    """

    max_tokens: int | None = None  # most tokens to generate
    min_tokens: int | None = None  # end tokens are not chosen before this many
    temperature: float | None = None  # divides the logits; 0: always the most likely token
    top_k: int | None = None  # keep the k most likely tokens; 0: all
    top_p: float | None = None  # keep the likeliest tokens that together reach this probability
    min_p: float | None = None  # keep tokens at least this fraction as likely as the likeliest
    repetition_penalty: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    penalty_window: int | None = None  # the penalties look at the last so many tokens; 0: at all
    logit_bias: Mapping[int, float] | None = None  # token id -> added to its logit
    stop: Sequence[str] | str | None = None  # texts that end the answer; they are not part of it
    stop_token_ids: Sequence[int] | None = None  # tokens that end the answer, besides the model's own
    ignore_eos: bool | None = None  # the model's end tokens do not end the answer
    seed: int | None = None  # makes sampling repeatable
    logprobs: bool | None = None  # report the log-probability of every chosen token
    top_logprobs: int | None = None  # report so many of the likeliest tokens at every place, 0 to 20
    prompt_logprobs: bool | None = None  # report the log-probability of every token of the prompt
    reasoning_mode: bool | None = None  # thinking before the answer: on, off, None as the chat template has it
    split_reasoning: bool | None = None  # thoughts apart from the answer; None: where the prompt is a conversation
    reasoning_budget: int | None = None  # most tokens of thinking; then the thought is ended with reasoning_end_text
    reasoning_end_text: str | None = None  # what ends a thought that has used up its budget
    n: int | None = None  # answers per prompt
    adapter: str | None = None  # the LoRA adapter that answers, by its name; "": the model as it is
    priority: int | None = None  # higher ones are begun first; equal ones in the order of arrival
    timeout_ms: int | None = None  # a request that has not ended by then raises QwenTimeoutError; milliseconds


def resolve(config: SamplingConfig | None, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Option keys and values of a request. Keys that are no field of SamplingConfig go to the library as they are, so
    that a newer library's parameters work, and unknown ones are refused by its own message."""
    if config is not None and not isinstance(config, SamplingConfig):
        raise TypeError(f"config must be a SamplingConfig, not {type(config).__name__}")
    names = [field.name for field in fields(SamplingConfig)]
    known = {key: value for key, value in overrides.items() if key in names}
    merged = replace(config or SamplingConfig(), **known)
    values = {name: getattr(merged, name) for name in names}
    values.update((key, value) for key, value in overrides.items() if key not in names)
    return {key: value for key, value in values.items() if value is not None}
