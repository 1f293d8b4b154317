"""Searching: texts to embeddings, and how well documents answer a query."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from ._blocking import run_awaitably
from ._engine import Engine
from ._inputs import Computation, InputLike, Inputs, Progress, checked_dimensions, encoded, wait, wait_awaitably
from ._options import utf8
from .results import AdapterInfo, EngineStats, ModelInfo
from .tokenizer import Tokenizer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float32]

Self = TypeVar("Self", bound="_Opened")


class _Opened:
    """A model and its engine: what both classes are."""

    def __init__(
        self,
        model_path: str | os.PathLike[str],
        *,
        device: str | None = None,
        dtype: str | None = None,
        threads: int | None = None,
        **engine_options: Any,
    ) -> None:
        """Opens the folder of a checkpoint, or a model of the hub. engine_options as in QwenInferenceSession."""
        self._engine = Engine.open(model_path, {"device": device, "dtype": dtype, "threads": threads, **engine_options})
        self._info = self._engine.model_info()

    @classmethod
    async def aopen(
        cls: type[Self],
        model_path: str | os.PathLike[str],
        *,
        progress: Callable[[float], object] | None = None,
        **options: Any,
    ) -> Self:
        """Opens one on a helper thread, where `progress` is called too. Cancelling the task stops the loading."""
        cancelled: list[bool] = []

        def report(fraction: float) -> object:
            return False if cancelled else (progress(fraction) if progress is not None else None)

        return await run_awaitably(
            lambda: cls(model_path, progress=report, **options),
            discard=lambda opened: opened.close(),
            on_cancel=lambda: cancelled.append(True),
        )

    @property
    def info(self) -> ModelInfo:
        """What the checkpoint is."""
        return self._info

    @property
    def tokenizer(self) -> Tokenizer:
        """The checkpoint's tokenizer; usable until this is closed."""
        return Tokenizer._of_engine(self._engine.handle)

    def load_adapter(self, path: str | os.PathLike[str], name: str | None = None) -> str:
        """As QwenInferenceSession.load_adapter(): returns what `adapter` calls it."""
        return self._engine.load_adapter(path, name)

    def unload_adapter(self, name: str) -> None:
        """As QwenInferenceSession.unload_adapter()."""
        self._engine.unload_adapter(name)

    def adapters(self) -> list[AdapterInfo]:
        """What is loaded, by name."""
        return self._engine.adapters()

    def stats(self) -> EngineStats:
        """What the engine is doing and has done."""
        return self._engine.stats()

    def close(self) -> None:
        """Ends the calls in flight (they raise QwenClosedError) and frees the model. Any number of times."""
        self._engine.handle.close()

    async def aclose(self) -> None:
        """close() for asyncio: does not block the event loop while the engine stops."""
        await run_awaitably(self.close, discard=lambda nothing: None, on_cancel=lambda: None)

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def __aenter__(self: Self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()


def _options(priority: int | None, timeout_ms: int | None, adapter: str | None) -> Mapping[str, Any]:
    return {"priority": priority, "timeout_ms": timeout_ms, "adapter": adapter}


class Embedder(_Opened):
    """A model that turns texts into vectors, such as Qwen3-Embedding: texts that mean alike point alike.

    `embed()` is for documents, and for whatever is compared with its like; `embed_queries()` is for what is searched with. The
    rows have length 1, so that `queries @ documents.T` are cosines. Another model than one that was trained for this gives
    vectors too, but they mean little.

    A text is what it says: "<|im_end|>" in it is ordinary text. special=True makes special tokens of such words, as Hugging
    Face's tokenizer does; it matters only for texts that hold them. `dimensions` keeps the first 32 or more values and scales
    them to length 1 again: Qwen3-Embedding was trained so that these say most (Matryoshka). Instead of a text, an input may be
    a list of token ids, which go in as they are.

    Any number of inputs; they go through the engine a few at a time, together with those of other threads, and the vector of
    one does not depend on the others, to the bit. `priority` under 0 lets everybody else's requests pass; `timeout_ms` is for
    the whole call; `adapter` is the name of the LoRA adapter that computes it (load_adapter()); `progress` is called with 0...1
    after every input, and cancels by returning False (QwenCancelledError) or raising. The twins that begin with `a` are for asyncio: cancelling the task cancels the work. Each call of them is a helper
    thread, where `progress` is called too: give one call a long list rather than making many calls.

    Raises QwenValueError for an empty list, and naming the input by its place for an empty text or one with more tokens than
    the context; TypeError for a single str.
    """

    def embed(
        self,
        texts: Sequence[InputLike],
        *,
        dimensions: int | None = None,
        special: bool = False,
        priority: int | None = None,
        timeout_ms: int | None = None,
        adapter: str | None = None,
        progress: Progress | None = None,
    ) -> FloatArray:
        """One vector per text: float32 [texts, dimensions or hidden_size]. Blocks; any number of threads."""
        computation = Computation(
            self._engine, Inputs(texts, "texts", special), _options(priority, timeout_ms, adapter), progress
        )
        wanted = checked_dimensions(dimensions)
        return wait(computation, lambda: computation.embed(wanted)).array(0, "embeddings")

    def embed_queries(
        self,
        queries: Sequence[str | bytes],
        *,
        instruction: str | bytes | None = None,
        dimensions: int | None = None,
        special: bool = False,
        priority: int | None = None,
        timeout_ms: int | None = None,
        adapter: str | None = None,
        progress: Progress | None = None,
    ) -> FloatArray:
        """The same for queries. instruction: what is searched for, in one sentence, best in English; None: "Given a web search
        query, retrieve relevant passages that answer the query"."""
        inputs = Inputs(queries, "queries", special)
        inputs.set_instruction(instruction)
        computation = Computation(self._engine, inputs, _options(priority, timeout_ms, adapter), progress)
        wanted = checked_dimensions(dimensions)
        return wait(computation, lambda: computation.embed(wanted)).array(0, "embeddings")

    async def aembed(
        self,
        texts: Sequence[InputLike],
        *,
        dimensions: int | None = None,
        special: bool = False,
        priority: int | None = None,
        timeout_ms: int | None = None,
        adapter: str | None = None,
        progress: Progress | None = None,
    ) -> FloatArray:
        """embed() for asyncio."""
        computation = Computation(
            self._engine, Inputs(texts, "texts", special), _options(priority, timeout_ms, adapter), progress
        )
        wanted = checked_dimensions(dimensions)
        tensors = await wait_awaitably(computation, lambda: computation.embed(wanted))
        return tensors.array(0, "embeddings")

    async def aembed_queries(
        self,
        queries: Sequence[str | bytes],
        *,
        instruction: str | bytes | None = None,
        dimensions: int | None = None,
        special: bool = False,
        priority: int | None = None,
        timeout_ms: int | None = None,
        adapter: str | None = None,
        progress: Progress | None = None,
    ) -> FloatArray:
        """embed_queries() for asyncio."""
        inputs = Inputs(queries, "queries", special)
        inputs.set_instruction(instruction)
        computation = Computation(self._engine, inputs, _options(priority, timeout_ms, adapter), progress)
        wanted = checked_dimensions(dimensions)
        tensors = await wait_awaitably(computation, lambda: computation.embed(wanted))
        return tensors.array(0, "embeddings")

    def encode(self, text: str | bytes, *, special: bool = False) -> list[int]:
        """The token ids that embed() gives the model: the text's, and <|endoftext|>."""
        return encoded(self._engine, Inputs([text], "texts", special), None)

    def encode_query(
        self, query: str | bytes, *, instruction: str | bytes | None = None, special: bool = False
    ) -> list[int]:
        """The token ids that embed_queries() gives the model."""
        inputs = Inputs([query], "queries", special)
        inputs.set_instruction(instruction)
        return encoded(self._engine, inputs, None)


class Reranker(_Opened):
    """A model that judges how well documents answer a query, such as Qwen3-Reranker: slower than comparing embeddings, and
    better; so it is for the best few of those. Another model than one that was trained for this gives numbers too, but they
    mean little.

    Query, instruction and documents are what they say: "<|im_end|>" in a document is ordinary text, so that what somebody wrote
    into it cannot end the document and speak to the model in your place. special=True makes special tokens of such words, as
    the model card's code does; it matters only for texts that hold them. A document can still flatter itself in plain words.

    Threads, asyncio, `priority`, `timeout_ms`, `adapter`, `progress` and errors are as in Embedder; a checkpoint without lm_head is
    refused with QwenUnsupportedError. What the prompts have in common is computed once and then taken from the prefix cache.
    """

    def score(
        self,
        query: str | bytes,
        documents: Sequence[str | bytes],
        *,
        instruction: str | bytes | None = None,
        special: bool = False,
        priority: int | None = None,
        timeout_ms: int | None = None,
        adapter: str | None = None,
        progress: Progress | None = None,
    ) -> FloatArray:
        """One score per document: float32 [documents], the probability of "yes" and not "no" to whether it answers the query.
        instruction: what is searched for, as in Embedder.embed_queries(). Blocks; any number of threads."""
        inputs = _documents(documents, instruction, special)
        computation = Computation(self._engine, inputs, _options(priority, timeout_ms, adapter), progress)
        asked = utf8(query)
        return wait(computation, lambda: computation.rerank(asked)).array(0, "scores")

    async def ascore(
        self,
        query: str | bytes,
        documents: Sequence[str | bytes],
        *,
        instruction: str | bytes | None = None,
        special: bool = False,
        priority: int | None = None,
        timeout_ms: int | None = None,
        adapter: str | None = None,
        progress: Progress | None = None,
    ) -> FloatArray:
        """score() for asyncio."""
        inputs = _documents(documents, instruction, special)
        computation = Computation(self._engine, inputs, _options(priority, timeout_ms, adapter), progress)
        asked = utf8(query)
        return (await wait_awaitably(computation, lambda: computation.rerank(asked))).array(0, "scores")

    def encode(
        self,
        query: str | bytes,
        document: str | bytes,
        *,
        instruction: str | bytes | None = None,
        special: bool = False,
    ) -> list[int]:
        """The token ids that score() gives the model of one document."""
        return encoded(self._engine, _documents([document], instruction, special), utf8(query))


def _documents(documents: Sequence[str | bytes], instruction: str | bytes | None, special: bool) -> Inputs:
    inputs = Inputs(documents, "documents", special)
    inputs.set_instruction(instruction)
    return inputs
