"""What a generation hands back."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Channel(str, Enum):
    """Where a piece of text belongs: the answer, or the thinking before it."""

    ANSWER = "answer"
    REASONING = "reasoning"


class FinishReason(str, Enum):
    """Why an answer ended."""

    NONE = "none"
    STOP = "stop"  # the model ended it, or a stop token came
    LENGTH = "length"  # max_tokens or the context was reached
    CANCELLED = "cancelled"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """New tokens and the text they completed; str(event) is the text.

    `text` holds whole characters only, so it is empty for a token that ends inside one. The last event of a stream has
    a finish_reason and neither text nor tokens.
    """

    text: str
    channel: Channel = Channel.ANSWER
    token_ids: tuple[int, ...] = ()
    logprobs: tuple[float, ...] | None = None  # natural logarithms, before temperature; None unless asked for
    finish_reason: FinishReason | None = None

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

    @property
    def tokens_per_second(self) -> float:
        """Of the tokens after the first; 0 when there are none."""
        return (self.generated_tokens - 1) / self.generate_seconds if self.generate_seconds > 0 else 0.0


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """A finished answer; str(result) is its text."""

    text: str
    reasoning: str  # what the model thought first, "" if nothing
    token_ids: tuple[int, ...]  # every generated token, the end token included
    logprobs: tuple[float, ...] | None
    finish_reason: FinishReason
    stats: RequestStats

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


@dataclass(frozen=True, slots=True)
class EngineStats:
    """What a session is doing now, and has done since it was opened."""

    backend: str  # "cpu.avx512"
    threads: int
    running: int  # requests being computed
    waiting: int
    finished: int
    steps: int  # forward passes
    prompt_tokens: int
    generated_tokens: int
    cache_blocks_total: int
    cache_blocks_used: int
    cache_block_tokens: int
    cache_bytes: int
