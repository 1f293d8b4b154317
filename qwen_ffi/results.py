"""What a generation hands back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import Enum
from typing import Any

from .errors import QwenFileFormatError

# [token] -> the likeliest tokens at its place as (token id, log-probability), likeliest first.
TopLogprobs = tuple[tuple[tuple[int, float], ...], ...]


class Channel(str, Enum):
    """Where a piece of text belongs: the answer, or the thinking before it."""

    ANSWER = "answer"
    REASONING = "reasoning"


class FinishReason(str, Enum):
    """Why an answer ended."""

    NONE = "none"
    STOP = "stop"  # the model ended it, or a stop token or text came
    LENGTH = "length"  # max_tokens or the context was reached
    CANCELLED = "cancelled"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class ToolCall:
    """The model asks for a tool. The text that said so is in no `text`."""

    name: str
    arguments: str  # the text of a JSON object

    @property
    def parsed_arguments(self) -> dict[str, Any]:
        """The arguments as a dict. Raises QwenFileFormatError (a ValueError) if their text is no JSON object."""
        try:
            parsed = json.loads(self.arguments)
        except ValueError as error:
            raise QwenFileFormatError(f"the arguments of tool call '{self.name}' are not JSON: {error}") from None
        if not isinstance(parsed, dict):
            raise QwenFileFormatError(f"the arguments of tool call '{self.name}' are not a JSON object")
        return parsed


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """New tokens of one choice and the text they completed; str(event) is the text.

    `text` holds whole characters only, so it is empty for a token that ends inside one. Each choice's last event has a
    finish_reason and neither text nor tokens. An event with a `tool_call` has no text.
    """

    text: str
    channel: Channel = Channel.ANSWER
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] | None = None  # natural logarithms, before temperature; None unless asked for
    finish_reason: FinishReason | None = None
    choice: int = 0  # which of the n answers, from 0
    tool_call: ToolCall | None = None
    top_logprobs: TopLogprobs | None = None  # one per token; None unless asked for

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class RequestStats:
    """Counts and times of one request, in tokens and seconds."""

    prompt_tokens: int
    cached_tokens: int  # of the prompt, taken from the prefix cache
    generated_tokens: int
    queued_seconds: float  # submit to first computation
    prompt_seconds: float  # first computation to first token
    generate_seconds: float  # first token to last token
    first_token_seconds: float  # submit to first token
    seed: int  # the seed that was used: given, or drawn
    # Between one token of a choice and its next one: median, 99th percentile and longest; 0 when there are no two.
    inter_token_p50_seconds: float = 0.0
    inter_token_p99_seconds: float = 0.0
    inter_token_max_seconds: float = 0.0

    @property
    def tokens_per_second(self) -> float:
        """Of the tokens after the first; 0 when there are none."""
        return (self.generated_tokens - 1) / self.generate_seconds if self.generate_seconds > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Choice:
    """One answer; str(choice) is its text."""

    text: str
    reasoning: str  # what the model thought first, "" if nothing
    token_ids: tuple[int, ...]  # every generated token, the end token included
    logprobs: tuple[float, ...] | None  # one per token; natural logarithms, before temperature; None unless asked for
    top_logprobs: TopLogprobs | None  # one per token; None unless asked for
    tool_calls: tuple[ToolCall, ...]
    finish_reason: FinishReason
    stop_text: str | None  # which of the `stop` texts ended the answer; None: none did

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """What a request generated: `choices`, one for each of its n answers (n is 1 unless asked for), and `stats` of all.

    The properties are those of the first choice, and str(result) is its text.
    """

    choices: tuple[Choice, ...]
    stats: RequestStats
    # One per token of the prompt, behind those before it; the first one is 0. None unless asked for.
    prompt_logprobs: tuple[float, ...] | None = None

    @property
    def text(self) -> str:
        """The answer."""
        return self.choices[0].text

    @property
    def reasoning(self) -> str:
        """What the model thought first, "" if nothing."""
        return self.choices[0].reasoning

    @property
    def token_ids(self) -> tuple[int, ...]:
        """Every generated token, the end token included."""
        return self.choices[0].token_ids

    @property
    def logprobs(self) -> tuple[float, ...] | None:
        """One natural logarithm per token, before temperature; None unless asked for."""
        return self.choices[0].logprobs

    @property
    def top_logprobs(self) -> TopLogprobs | None:
        """Per token the likeliest ones as (token id, log-probability); None unless asked for."""
        return self.choices[0].top_logprobs

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The tools the model asks for, in its order."""
        return self.choices[0].tool_calls

    @property
    def finish_reason(self) -> FinishReason:
        """Why the answer ended."""
        return self.choices[0].finish_reason

    @property
    def stop_text(self) -> str | None:
        """Which of the `stop` texts ended the answer; None: none did."""
        return self.choices[0].stop_text

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What a checkpoint is."""

    architecture: str
    path: str  # "" for weights from memory
    vocab_size: int  # width of a logits row
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    context_length: int  # longest prompt + answer, tokens
    parameters: int
    weight_bytes: int  # of the tensors in use, as stored
    has_tokenizer: bool
    has_chat_template: bool
    # What computing a token takes, with the dtype that the model was opened for:
    active_parameters: int  # that it is multiplied with: all but tables of embeddings and experts it does not choose
    active_weight_bytes: int  # theirs, as stored: what a step for one token reads
    active_expert_bytes: int  # of these, the chosen experts', all layers
    num_experts: int  # in a layer that is a mixture of experts; 0: none is
    num_experts_per_tok: int  # that a token chooses there
    cache_token_bytes: int  # keys and values of a token, in the layers that see all tokens before their own
    window_token_bytes: int  # likewise, in the layers that see at most window_tokens of them
    window_tokens: int  # the last ones, or those that an indexer picks; 0: there are no such layers
    state_bytes: int  # of a sequence, in layers of linear attention


@dataclass(frozen=True, slots=True)
class AdapterInfo:
    """A LoRA adapter that is loaded."""

    name: str  # what requests call it
    path: str
    rank: int  # the largest of its matrices
    parameters: int


@dataclass(frozen=True, slots=True)
class EngineStats:
    """What a session is doing now, and has done since it was opened."""

    backend: str  # "cpu.avx512"
    threads: int
    running: int  # choices being computed: a request has one, or n
    waiting: int  # choices queued
    finished: int  # choices ended, for whatever reason
    steps: int  # forward passes
    prompt_tokens: int  # computed
    cached_tokens: int  # of all prompts, taken from the prefix cache instead of computed
    generated_tokens: int
    cache_blocks_total: int
    cache_blocks_used: int
    cache_block_tokens: int
    cache_bytes: int


@dataclass(frozen=True, slots=True)
class StepTrace:
    """One step of a session: a forward pass over rows of many requests."""

    number: int  # 1, 2, ...
    sequences: int  # choices of requests that had rows in it
    prompt_rows: int  # tokens of prompts, and of answers that are computed again after a preemption
    generate_rows: int  # one for each choice that generates
    running: int  # choices, after the step
    waiting: int
    preempted: int  # choices that had to give their cache blocks back before the step
    cache_blocks_used: int
    schedule_seconds: float  # deciding what to compute
    forward_seconds: float  # computing it
    sample_seconds: float  # choosing tokens, making text and events
