"""The front door: open a checkpoint once, generate from any number of threads and event loops."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from . import _tensor_io
from ._blocking import run_awaitably
from ._engine import Engine
from ._prompt import Message, Prompt, Tool
from ._request import Request, wait_for_all
from ._tensor_io import NodeArg
from .async_stream import AsyncGenerationStream, whole_answer, whole_answers
from .errors import QwenUnsupportedError, QwenValueError
from .results import AdapterInfo, EngineStats, GenerationResult, ModelInfo
from .sampling import SamplingConfig, resolve
from .stream import GenerationStream
from .tokenizer import Tokenizer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from ._loop_queue import Mailbox

PromptLike = str | bytes | Sequence[Message]


class QwenInferenceSession:
    """A model that is ready to generate. Any number of threads may share one: their requests are computed together.

    A `str` prompt is one user message if the checkpoint has a chat template, otherwise plain text to be continued;
    `raw=True` makes it plain text always. A list is a conversation: dicts in the form of OpenAI's chat interface (every key
    reaches the template) or (role, content). `tools` are dicts in OpenAI's form too, {"type": "function", "function":
    {"name", "description", "parameters"}}; `template_variables` are further variables of the chat template.

    The methods that begin with `a` are for asyncio: they do not block the event loop, but for encoding the prompt
    (about 20 MB of text a second), and cancelling the task that awaits them cancels the work.
    Every method raises a QwenError with the library's message; after close(), QwenClosedError.
    """

    def __init__(
        self,
        model_path: str | os.PathLike[str],
        *,
        device: str | None = None,
        dtype: str | None = None,
        threads: int | None = None,
        **engine_options: Any,
    ) -> None:
        """Opens the folder of a checkpoint as published (config.json, *.safetensors, tokenizer.json), or a GGUF file.

        device: None is what QWEN_DEVICE says, or "auto": the first GPU that can run the model, else the CPU.
        engine_options: any engine option of `qwen_ffi.options()`; `progress` is a function called with 0...1 while
        loading, it cancels by returning False; `trace` is a function called with a StepTrace after every step, on the
        engine's own thread, which waits for it: it must not use the session. Weights are mapped, not read: do not truncate the files meanwhile.
        """
        values = {"device": device, "dtype": dtype, "threads": threads, **engine_options}
        self._engine = Engine.open(model_path, values)
        self._info = self._engine.model_info()
        self._tokenizer: Tokenizer | None = None
        self._system_prompt: str | None = None

    @classmethod
    async def aopen(
        cls,
        model_path: str | os.PathLike[str],
        *,
        progress: Callable[[float], object] | None = None,
        **options: Any,
    ) -> QwenInferenceSession:
        """Opens a session on a helper thread, where `progress` is called too. Cancelling the task stops the loading."""
        cancelled: list[bool] = []

        def report(fraction: float) -> object:
            return False if cancelled else (progress(fraction) if progress is not None else None)

        return await run_awaitably(
            lambda: cls(model_path, progress=report, **options),
            discard=lambda session: session.close(),
            on_cancel=lambda: cancelled.append(True),
        )

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
        """A system message put before every prompt that does not bring its own; None: none. Any thread.

        Raises QwenUnsupportedError for a checkpoint without a chat template: its prompts are plain text."""
        if text is not None and not isinstance(text, str):
            raise TypeError(f"a system prompt must be a str or None, not {type(text).__name__}")
        if text is not None and not self._info.has_chat_template:
            raise QwenUnsupportedError(f"a system prompt needs a chat template, and {self._info.path} has none")
        self._system_prompt = text

    # ----------------------------------------------------------------------------------------- adapters

    def load_adapter(self, path: str | os.PathLike[str], name: str | None = None) -> str:
        """Loads a LoRA adapter, a folder as PEFT saves it or a name of the hub, beside those that are loaded already. Returns
        its name, by which requests ask for it: `session.generate(prompt, adapter="law")`. name None: the folder's own, or the
        repository's without its owner. Any thread, at any time.

        The files are read, and may be replaced afterwards. Raises QwenUnsupportedError for what this version does not know
        (DoRA, biases, embeddings, experts ...), QwenFileFormatError for tensors that do not fit this model, and
        QwenValueError for a name that is in use.
        """
        return self._engine.load_adapter(path, name)

    async def aload_adapter(self, path: str | os.PathLike[str], name: str | None = None) -> str:
        """load_adapter() for asyncio."""
        return await run_awaitably(
            lambda: self._engine.load_adapter(path, name), discard=self._engine.unload_adapter, on_cancel=lambda: None
        )

    def unload_adapter(self, name: str) -> None:
        """From now on no request can ask for it; those that have keep it until they end. Any thread. Raises QwenValueError
        if there is none of this name."""
        self._engine.unload_adapter(name)

    def adapters(self) -> list[AdapterInfo]:
        """What is loaded, by name."""
        return self._engine.adapters()

    # ----------------------------------------------------------------------------------------- for threads

    def generate(
        self,
        prompt: PromptLike,
        config: SamplingConfig | None = None,
        *,
        raw: bool = False,
        tools: Sequence[Tool] | None = None,
        template_variables: Mapping[str, Any] | None = None,
        **overrides: Any,
    ) -> GenerationResult:
        """The whole answer. overrides: single fields of SamplingConfig, e.g. max_tokens=100."""
        return self._submit(self._prompt(prompt, raw, tools, template_variables), config, overrides).wait()

    def stream(
        self,
        prompt: PromptLike,
        config: SamplingConfig | None = None,
        *,
        raw: bool = False,
        tools: Sequence[Tool] | None = None,
        template_variables: Mapping[str, Any] | None = None,
        **overrides: Any,
    ) -> GenerationStream:
        """The answer piece by piece: `for event in session.stream(...): print(event, end="")`. The request is submitted
        at once, so errors in the arguments are raised here."""
        return GenerationStream(self._submit(self._prompt(prompt, raw, tools, template_variables), config, overrides))

    def chat(
        self,
        messages: Sequence[Message],
        config: SamplingConfig | None = None,
        *,
        tools: Sequence[Tool] | None = None,
        template_variables: Mapping[str, Any] | None = None,
        **overrides: Any,
    ) -> GenerationResult:
        """The assistant's answer to a conversation. Raises an error if the checkpoint has no chat template."""
        return self._submit(self._conversation(messages, tools, template_variables), config, overrides).wait()

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
        tools: Sequence[Tool] | None = None,
        template_variables: Mapping[str, Any] | None = None,
        **overrides: Any,
    ) -> list[GenerationResult]:
        """Answers in the order of the prompts, computed together. The first failure cancels the others and is raised."""
        return wait_for_all(
            self._submit(self._prompt(prompt, raw, tools, template_variables), config, overrides)
            for prompt in _list_of_prompts(prompts)
        )

    # ----------------------------------------------------------------------------------------- for asyncio

    async def agenerate(
        self,
        prompt: PromptLike,
        config: SamplingConfig | None = None,
        *,
        raw: bool = False,
        tools: Sequence[Tool] | None = None,
        template_variables: Mapping[str, Any] | None = None,
        **overrides: Any,
    ) -> GenerationResult:
        """generate() for asyncio."""
        return await whole_answer(
            self._asubmit(self._prompt(prompt, raw, tools, template_variables), config, overrides, False)
        )

    def astream(
        self,
        prompt: PromptLike,
        config: SamplingConfig | None = None,
        *,
        raw: bool = False,
        tools: Sequence[Tool] | None = None,
        template_variables: Mapping[str, Any] | None = None,
        **overrides: Any,
    ) -> AsyncGenerationStream:
        """stream() for asyncio: `async for event in session.astream(...)`. Needs a running event loop. The request is
        submitted at once, so errors in the arguments are raised here. `async with session.astream(...) as stream` cancels
        what is left when the block is left, at that very moment."""
        return AsyncGenerationStream(
            self._asubmit(self._prompt(prompt, raw, tools, template_variables), config, overrides, True)
        )

    async def achat(
        self,
        messages: Sequence[Message],
        config: SamplingConfig | None = None,
        *,
        tools: Sequence[Tool] | None = None,
        template_variables: Mapping[str, Any] | None = None,
        **overrides: Any,
    ) -> GenerationResult:
        """chat() for asyncio."""
        return await whole_answer(
            self._asubmit(self._conversation(messages, tools, template_variables), config, overrides, False)
        )

    async def agenerate_batch(
        self,
        prompts: Sequence[PromptLike],
        config: SamplingConfig | None = None,
        *,
        raw: bool = False,
        tools: Sequence[Tool] | None = None,
        template_variables: Mapping[str, Any] | None = None,
        **overrides: Any,
    ) -> list[GenerationResult]:
        """generate_batch() for asyncio."""
        return await whole_answers(
            self._asubmit(self._prompt(prompt, raw, tools, template_variables), config, overrides, False)
            for prompt in _list_of_prompts(prompts)
        )

    # ----------------------------------------------------------------------------------------- looking at prompts

    def render(
        self,
        prompt: PromptLike,
        *,
        raw: bool = False,
        tools: Sequence[Tool] | None = None,
        template_variables: Mapping[str, Any] | None = None,
        reasoning_mode: bool | None = None,
    ) -> str:
        """The text that generate() would give the model: the conversation as the chat template writes it."""
        given = self._prompt(prompt, raw, tools, template_variables)
        return given.render(self._engine.handle, {"reasoning_mode": reasoning_mode})

    def encode_prompt(
        self,
        prompt: PromptLike,
        *,
        raw: bool = False,
        tools: Sequence[Tool] | None = None,
        template_variables: Mapping[str, Any] | None = None,
        reasoning_mode: bool | None = None,
    ) -> list[int]:
        """The token ids that generate() would give the model."""
        given = self._prompt(prompt, raw, tools, template_variables)
        return given.encode(self._engine.handle, {"reasoning_mode": reasoning_mode})

    # ----------------------------------------------------------------------------------------- tensors, as in ONNX Runtime

    def get_inputs(self) -> list[NodeArg]:
        """What run() takes."""
        return _tensor_io.inputs()

    def get_outputs(self) -> list[NodeArg]:
        """What run() can compute: "logits" and "hidden.0" (the embeddings) ... "hidden.L" (after the final norm)."""
        return _tensor_io.outputs(self._info)

    def run(
        self, output_names: Sequence[str] | None, feed: Mapping[str, Any], *, adapter: str | None = None
    ) -> list[NDArray[np.float32]]:
        """One forward pass, in the manner of ONNX Runtime's InferenceSession.

        feed: "input_ids" [batch, sequence], int64 or int32, and if you like "attention_mask" of the same shape, 0 / 1 or
        booleans, 0 for padding on the left or the right. Returns one float32 array per name: "logits"
        [batch, sequence, vocab_size], "hidden.N" [batch, sequence, hidden_size]. Every row is computed without its padding,
        from position 0, so padding changes no bit of the rest; the rows of padding are zeros.
        output_names None means ["logits"], not every output there is, as the hidden states of all layers are large.
        Raises QwenValueError for an unknown or missing name, a wrong shape or type, and a mask with holes.
        """
        return _tensor_io.run(self._engine, self._info, output_names, feed, adapter)

    # ----------------------------------------------------------------------------------------- state and end

    def stats(self) -> EngineStats:
        """What the session is doing and has done."""
        return self._engine.stats()

    def counters(self) -> dict[str, int]:
        """How often each kernel has run, by name: what run-time dispatch really chose."""
        return self._engine.counters()

    def drain(self, timeout: float | None = None) -> bool:
        """For a graceful end: from now on new requests raise QwenClosedError, and those in flight are waited for, `timeout`
        seconds at most; None: as long as it takes. False: some are still running. Any thread; close() comes after."""
        return self._engine.drain(timeout)

    def close(self) -> None:
        """Ends every request in flight (they raise QwenClosedError) and frees the model. Any number of times."""
        self._engine.handle.close()

    async def adrain(self, timeout: float | None = None) -> bool:
        """drain() for asyncio. Cancelling the task leaves at once; new requests stay refused."""
        return await run_awaitably(lambda: self.drain(timeout), discard=lambda done: None, on_cancel=lambda: None)

    async def aclose(self) -> None:
        """close() for asyncio: does not block the event loop while the engine stops."""
        await run_awaitably(self.close, discard=lambda nothing: None, on_cancel=lambda: None)

    def __enter__(self) -> QwenInferenceSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self) -> QwenInferenceSession:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def _submit(self, prompt: Prompt, config: SamplingConfig | None, overrides: Mapping[str, Any]) -> Request:
        return Request(self._engine.handle, prompt, resolve(config, overrides))

    def _asubmit(
        self, prompt: Prompt, config: SamplingConfig | None, overrides: Mapping[str, Any], wants_events: bool
    ) -> Mailbox:
        from ._loop_queue import LoopQueue  # here, because it imports asyncio, which takes longer than all the rest

        return LoopQueue.running().submit(self._engine.handle, prompt, resolve(config, overrides), wants_events)

    def _prompt(
        self,
        prompt: PromptLike,
        raw: bool,
        tools: Sequence[Tool] | None,
        template_variables: Mapping[str, Any] | None,
    ) -> Prompt:
        if not isinstance(prompt, Sequence):
            raise TypeError(f"a prompt is a str or a list of messages, not {type(prompt).__name__}")
        if not isinstance(prompt, str | bytes):
            if raw:
                raise QwenValueError("raw=True is for text; a list of messages goes through the chat template")
            return self._conversation(prompt, tools, template_variables)
        if not raw and self._info.has_chat_template:
            return self._conversation([("user", prompt)], tools, template_variables)
        if tools or template_variables:
            raise QwenValueError(
                "tools and template_variables are for the chat template, and "
                + ("raw text goes around it" if raw else "this checkpoint has none")
            )
        return Prompt.from_text(prompt)

    def _conversation(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] | None,
        template_variables: Mapping[str, Any] | None,
    ) -> Prompt:
        if isinstance(messages, str | bytes | Mapping) or not isinstance(messages, Sequence):
            raise TypeError(f"a conversation is a list of messages, not {type(messages).__name__}")
        return Prompt.from_messages(messages, tools, template_variables, self._system_prompt)


def _list_of_prompts(prompts: Sequence[PromptLike]) -> Sequence[PromptLike]:
    if isinstance(prompts, str | bytes) or not isinstance(prompts, Sequence):
        raise TypeError(f"a batch is a list of prompts, not {type(prompts).__name__}")
    return prompts


def generate_text(
    model: str | os.PathLike[str] | QwenInferenceSession,
    prompt: PromptLike,
    config: SamplingConfig | None = None,
    **overrides: Any,
) -> str:
    """The answer's text, in one line. model: the folder of a checkpoint, a GGUF file, or an open session to use it several times."""
    if isinstance(model, QwenInferenceSession):
        return model.generate(prompt, config, **overrides).text
    with QwenInferenceSession(model) as session:
        return session.generate(prompt, config, **overrides).text
