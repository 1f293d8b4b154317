"""What `qwen-ffi bench` runs: the cells of its matrix, on one model.

Prompts are random token ids of the model's whole vocabulary, the same ones in every run; answers are greedy, and no end token
ends them; nothing is taken from the prefix cache. The cells take turns, so that a machine that changes meanwhile does not do
so between two of them. Times are those of whole steps of the engine, which its trace reports.
"""

from __future__ import annotations

import random
import statistics
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

from ..errors import QwenError, QwenValueError
from ..results import ModelInfo, StepTrace
from ..session import QwenInferenceSession
from .bench_limits import Work, decode_work, prefill_work

STREAM_PROMPT, STREAM_ANSWER = 32, 24  # tokens of each of several streams
_PROMPT_WAIT = 60.0  # seconds that the engine waits for the other streams' prompts, at most


@dataclass(frozen=True, slots=True)
class Cell:
    """kind "prefill": a prompt of `size` tokens. "decode": `answer` tokens behind a prompt of `size` tokens. "streams": `size`
    streams together. Not asked for by anybody, it is left out where the context is too short for it."""

    kind: str
    size: int
    answer: int = 0
    asked: bool = True

    @property
    def name(self) -> str:
        return {"prefill": "prefill", "decode": "decode behind", "streams": "streams"}[self.kind] + f" {self.size}"

    @property
    def context(self) -> int:
        """The longest sequence in it."""
        if self.kind == "streams":
            return STREAM_PROMPT + STREAM_ANSWER
        return self.size + max(self.answer, 1)

    @property
    def streams(self) -> int:
        return self.size if self.kind == "streams" else 1

    def work(self, info: ModelInfo, dtype: str) -> Work:
        """What a token of it takes; generated ones on average."""
        if self.kind == "prefill":
            return prefill_work(info, dtype, self.size)
        prompt, answer = (STREAM_PROMPT, STREAM_ANSWER) if self.kind == "streams" else (self.size, self.answer)
        return decode_work(info, dtype, self.streams, prompt + (answer + 1) / 2)


@dataclass(frozen=True, slots=True)
class Figure:
    """Tokens per second of a cell, all streams together."""

    cell: Cell
    rates: tuple[float, ...]  # one per repetition

    @property
    def median(self) -> float:
        return statistics.median(self.rates)


class Bench:
    """One model, opened for measuring."""

    def __init__(self, model: Path, cells: Sequence[Cell], options: Mapping[str, Any], progress: Callable[[float], Any]) -> None:
        """Raises QwenValueError for a cell that is longer than the model's context."""
        self._steps: list[tuple[float, StepTrace]] = []
        self._submitted = threading.Event()
        self._submitted.set()
        running = max((cell.streams for cell in cells), default=1)
        self._session = QwenInferenceSession(
            model, prefix_cache=0, max_running=running, trace=self._on_step, progress=progress, **options
        )
        context = min(self.info.context_length, options.get("context_length") or self.info.context_length)
        self.left_out = [cell for cell in cells if cell.context > context and not cell.asked]
        self._cells = [cell for cell in cells if cell not in self.left_out]
        try:
            for cell in self._cells:
                if cell.context > context:
                    raise QwenValueError(f"{cell.name} is {cell.context:,} tokens, and the context {context:,}")
            if not self._cells:
                raise QwenValueError(f"the context, {context:,} tokens, is too short for every row; give --prompt, say")
        except QwenError:
            self.close()
            raise

    @property
    def info(self) -> ModelInfo:
        return self._session.info

    @property
    def backend(self) -> str:
        return self._session.stats().backend

    def run(self, repetitions: int, progress: Callable[[float, str], Any]) -> list[Figure]:
        """Warms up with a short form of every cell, then takes each so many times, in turns."""
        rates: dict[Cell, list[float]] = {cell: [] for cell in self._cells}
        turns = [(cell, turn) for turn in range(repetitions + 1) for cell in self._cells]
        for done, (cell, turn) in enumerate(turns):
            progress(done / len(turns), cell.name)
            rate = self._take(cell, warm=turn == 0)
            if turn > 0:
                rates[cell].append(rate)
        return [Figure(cell, tuple(rates[cell])) for cell in self._cells]

    def close(self) -> None:
        self._session.close()

    def _take(self, cell: Cell, warm: bool) -> float:
        if cell.kind == "prefill":
            stats = self._session.complete_ids(self._ids(cell.size, 0), temperature=0, max_tokens=1, ignore_eos=True).stats
            return cell.size / stats.prompt_seconds
        prompt, answer = (STREAM_PROMPT, STREAM_ANSWER) if cell.kind == "streams" else (cell.size, cell.answer)
        if warm:
            prompt, answer = min(prompt, STREAM_PROMPT), 2
        return self._generate(cell, prompt, answer + 1)  # the first token comes with the prompt

    def _generate(self, cell: Cell, prompt: int, answer: int) -> float:
        """Tokens per second of the steps in which every stream generates and no prompt is computed."""
        self._steps.clear()
        self._submitted.clear()
        try:
            running = [
                self._session.stream_ids(self._ids(prompt, stream), temperature=0, max_tokens=answer, ignore_eos=True)
                for stream in range(cell.streams)
            ]
        finally:
            self._submitted.set()
        for stream in running:
            for _ in stream:
                pass
        seconds, steps = 0.0, 0
        for (before, _), (at, step) in zip(self._steps, self._steps[1:], strict=False):
            if step.preempted:
                raise QwenValueError(f"{cell.name}: the cache is too small for them; give more --kv-cache-bytes")
            if step.generate_rows == cell.streams and step.prompt_rows == 0:
                seconds, steps = seconds + at - before, steps + 1
        if steps == 0:
            raise QwenValueError(f"{cell.name}: they never ran all together; give more --max-batch-tokens")
        return cell.streams * steps / seconds

    def _ids(self, count: int, seed: int) -> list[int]:
        draw = random.Random(seed)
        return [draw.randrange(self.info.vocab_size) for _ in range(count)]

    def _on_step(self, step: StepTrace) -> None:
        """On the engine's thread, which waits for it: so all streams begin together, however fast the model is."""
        self._steps.append((perf_counter(), step))
        self._submitted.wait(_PROMPT_WAIT)
