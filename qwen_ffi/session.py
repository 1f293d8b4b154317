"""The front door: open a checkpoint once, generate from any number of threads."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any

from ._engine import Engine
from ._request import Message, Prompt, Request
from .results import EngineStats, GenerationResult, ModelInfo, StreamEvent
from .sampling import SamplingConfig, resolve
from .tokenizer import Tokenizer

PromptLike = str | bytes | Sequence[Message]


class GenerationStream(Iterator[StreamEvent]):
    """The events of one answer, as they come. One thread at a time.

    close(), leaving a `with` block, or dropping the stream cancels the request. Errors of the request are raised by the
    iteration. After the last event, `result` is the whole answer.
    """

    def __init__(self, request: Request) -> None:
        self._request = request
        self._result: GenerationResult | None = None
        self._ended = False

    def __iter__(self) -> GenerationStream:
        return self

    def __next__(self) -> StreamEvent:
        if self._ended:
            raise StopIteration
        try:
            event = self._request.next_event()
            if event is not None:
                return self._request.stream_event(event)
            self._result = self._request.result()
        except BaseException:  # Ctrl-C among them
            self.close()
            raise
        self.close()
        raise StopIteration

    @property
    def result(self) -> GenerationResult:
        """The whole answer. Raises RuntimeError before the stream has come to its end."""
        if self._result is None:
            raise RuntimeError("the result is there when the stream has been read to its end")
        return self._result

    def cancel(self) -> None:
        """Cancels from any thread: the iteration then raises QwenCancelledError, within one step."""
        self._request.cancel()

    def close(self) -> None:
        """Cancels what is still running and frees it; the iteration is over. Any number of times."""
        self._ended = True
        self._request.close()

    def __enter__(self) -> GenerationStream:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class QwenInferenceSession:
    """A model that is ready to generate. Any number of threads may share one: their requests are computed together.

    A `str` prompt is one user message if the checkpoint has a chat template, otherwise plain text to be continued;
    `raw=True` makes it plain text always. A list is a conversation: {"role": ..., "content": ...} each, or (role, content).
    Every method raises a QwenError with the library's message; after close(), QwenClosedError.
    """

    def __init__(
        self,
        model_path: str | os.PathLike[str],
        *,
        device: str = "auto",
        dtype: str | None = None,
        threads: int | None = None,
        **engine_options: Any,
    ) -> None:
        """Opens the folder of a checkpoint as published (config.json, *.safetensors, tokenizer.json).

        engine_options: any engine option of `qwen_ffi.options()`; `progress` is a function called with 0...1 while
        loading, it cancels by returning False. Weights are mapped, not read: do not truncate the files meanwhile.
        """
        values = {"device": device, "dtype": dtype, "threads": threads, **engine_options}
        self._engine = Engine.open(model_path, values)
        self._info = self._engine.model_info()
        self._tokenizer: Tokenizer | None = None
        self._system_prompt: str | None = None

    @property
    def info(self) -> ModelInfo:
        """What the checkpoint is."""
        return self._info

    @property
    def tokenizer(self) -> Tokenizer:
        """The checkpoint's tokenizer; usable until the session is closed."""
        if self._tokenizer is None:
            self._tokenizer = Tokenizer._of_engine(self._engine.handle)
        return self._tokenizer

    def set_system_prompt(self, text: str | None) -> None:
        """A system message put before every prompt that does not bring its own; None: none. Any thread."""
        self._system_prompt = text

    def generate(
        self, prompt: PromptLike, config: SamplingConfig | None = None, *, raw: bool = False, **overrides: Any
    ) -> GenerationResult:
        """The whole answer. overrides: single fields of SamplingConfig, e.g. max_tokens=100."""
        return self._submit(self._prompt(prompt, raw), config, overrides).wait()

    def stream(
        self, prompt: PromptLike, config: SamplingConfig | None = None, *, raw: bool = False, **overrides: Any
    ) -> GenerationStream:
        """The answer piece by piece: `for event in session.stream(...): print(event, end="")`. The request is submitted
        at once, so errors in the arguments are raised here."""
        return GenerationStream(self._submit(self._prompt(prompt, raw), config, overrides))

    def chat(
        self, messages: Sequence[Message], config: SamplingConfig | None = None, **overrides: Any
    ) -> GenerationResult:
        """The assistant's answer to a conversation. Raises QwenValueError if the checkpoint has no chat template."""
        return self._submit(Prompt.from_messages(self._with_system(messages)), config, overrides).wait()

    def generate_ids(
        self, token_ids: Sequence[int], config: SamplingConfig | None = None, **overrides: Any
    ) -> list[int]:
        """Token ids in, generated token ids out (the end token included); the template plays no part."""
        return list(self.complete_ids(token_ids, config, **overrides).token_ids)

    def complete_ids(
        self, token_ids: Sequence[int], config: SamplingConfig | None = None, **overrides: Any
    ) -> GenerationResult:
        """generate_ids() with everything there is to know about the answer: text, logprobs, stats."""
        return self._submit(Prompt.from_ids(token_ids), config, overrides).wait()

    def stream_ids(
        self, token_ids: Sequence[int], config: SamplingConfig | None = None, **overrides: Any
    ) -> GenerationStream:
        """stream() for a prompt of token ids."""
        return GenerationStream(self._submit(Prompt.from_ids(token_ids), config, overrides))

    def generate_batch(
        self,
        prompts: Sequence[PromptLike],
        config: SamplingConfig | None = None,
        *,
        raw: bool = False,
        **overrides: Any,
    ) -> list[GenerationResult]:
        """Answers in the order of the prompts, computed together. The first failure cancels the others and is raised."""
        requests: list[Request] = []
        try:
            for prompt in prompts:
                requests.append(self._submit(self._prompt(prompt, raw), config, overrides))
            return [request.wait() for request in requests]
        finally:
            for request in requests:
                request.close()

    def stats(self) -> EngineStats:
        """What the session is doing and has done."""
        return self._engine.stats()

    def counters(self) -> dict[str, int]:
        """How often each kernel has run, by name: what run-time dispatch really chose."""
        return self._engine.counters()

    def close(self) -> None:
        """Ends every request in flight (they raise QwenClosedError) and frees the model. Any number of times."""
        self._engine.handle.close()

    def __enter__(self) -> QwenInferenceSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _submit(self, prompt: Prompt, config: SamplingConfig | None, overrides: Mapping[str, Any]) -> Request:
        return Request(self._engine.handle, prompt, resolve(config, overrides))

    def _prompt(self, prompt: PromptLike, raw: bool) -> Prompt:
        if not isinstance(prompt, Sequence):
            raise TypeError(f"a prompt is a str or a list of messages, not {type(prompt).__name__}")
        if isinstance(prompt, str | bytes):
            if raw or not self._info.has_chat_template:
                return Prompt.from_text(prompt)
            return Prompt.from_messages(self._with_system([("user", prompt)]))
        return Prompt.from_messages(self._with_system(prompt))

    def _with_system(self, messages: Sequence[Message]) -> Sequence[Message]:
        system = self._system_prompt
        if system is None or not messages:
            return messages
        first = messages[0]
        role = first.get("role") if isinstance(first, Mapping) else first[0]
        return messages if role == "system" else [("system", system), *messages]


def generate_text(
    model: str | os.PathLike[str] | QwenInferenceSession,
    prompt: PromptLike,
    config: SamplingConfig | None = None,
    **overrides: Any,
) -> str:
    """The answer's text, in one line. A path is opened and closed again; pass a session to keep it open."""
    if isinstance(model, QwenInferenceSession):
        return model.generate(prompt, config, **overrides).text
    with QwenInferenceSession(model) as session:
        return session.generate(prompt, config, **overrides).text
