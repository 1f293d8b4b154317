"""What a long prompt does to those who are reading: time between tokens of 8 streams while 4,000 tokens are computed.

    python tests/benchmarks/bench_latency.py [--streams 8] [--prompt 4000] [--runs 3]

Every running stream gets a token in every step, so the time between two tokens is a step's. The yardstick is the same prompt
computed alone, in steps of the same budget: the target is a 99th percentile of at most 1.2 times its slowest step (the last
full one, whose rows see the most context). Qwen3-0.6B's shape, random bf16 weights. Let nothing else run beside it.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import threading
import time
from pathlib import Path

from bench_common import CACHE, CONFIG, checkpoint, tokens

from qwen_ffi import QwenInferenceSession, StepTrace


def percentile(values: list[float], fraction: float) -> float:
    return sorted(values)[min(len(values) - 1, int(fraction * len(values)))]


def alone(session: QwenInferenceSession, prompt: list[int], steps: list[StepTrace], budget: int) -> list[float]:
    """Seconds of each full step of a prompt that has the session to itself."""
    steps.clear()
    session.complete_ids(prompt, max_tokens=1)
    full = [step for step in steps if step.prompt_rows == budget]
    return [step.schedule_seconds + step.forward_seconds + step.sample_seconds for step in full]


def beside(session: QwenInferenceSession, prompt: list[int], streams: list[list[int]]) -> list[float]:
    """Seconds between the tokens of streams, as their readers see them, while the prompt is computed."""
    arrivals: list[list[float]] = [[] for _ in streams]
    running, done = threading.Barrier(len(streams) + 1), threading.Event()

    def read(ids: list[int], seen: list[float]) -> None:
        with session.stream_ids(ids, temperature=0, ignore_eos=True) as stream:
            for _ in stream:
                seen.append(time.perf_counter())
                if len(seen) == 3:
                    running.wait()
                if done.is_set():
                    return

    readers = [threading.Thread(target=read, args=pair) for pair in zip(streams, arrivals, strict=True)]
    for reader in readers:
        reader.start()
    running.wait()
    start = time.perf_counter()
    session.complete_ids(prompt, max_tokens=1)
    end = time.perf_counter()
    done.set()
    for reader in readers:
        reader.join()
    inside = [[at for at in times if start <= at <= end] for times in arrivals]
    return [later - earlier for times in inside for earlier, later in zip(times, times[1:], strict=False)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--streams", type=int, default=8)
    parser.add_argument("--prompt", type=int, default=4000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--budget", type=int, default=512, help="the session's max_batch_tokens")
    arguments = parser.parse_args()
    folder = checkpoint(arguments.cache, arguments.config)
    draw = random.Random(time.time_ns())  # never the same prompt twice: nothing comes from the prefix cache
    steps: list[StepTrace] = []
    single: list[float] = []
    between: list[float] = []
    with QwenInferenceSession(
        folder, dtype="bf16", threads=arguments.threads, max_batch_tokens=arguments.budget, trace=steps.append
    ) as session:
        vocabulary = session.info.vocab_size
        session.complete_ids(tokens(64, vocabulary, draw), max_tokens=2)  # brings the weights into memory
        for _ in range(arguments.runs):
            single += alone(session, tokens(arguments.prompt, vocabulary, draw), steps, arguments.budget)
            streams = [tokens(64, vocabulary, draw) for _ in range(arguments.streams)]
            between += beside(session, tokens(arguments.prompt, vocabulary, draw), streams)
    slowest, p99 = max(single), percentile(between, 0.99)
    print(f"{folder.name}, bf16, {arguments.threads} threads, {arguments.runs} runs, load {os.getloadavg()[0]:.2f}")
    print(f"a step of {arguments.budget} rows alone: median {statistics.median(single):.3f} s, slowest {slowest:.3f} s")
    print(
        f"between tokens of {arguments.streams} streams beside {arguments.prompt} tokens of prompt: "
        f"median {statistics.median(between):.3f} s, p99 {p99:.3f} s ({len(between)} intervals)"
    )
    print(f"p99 / slowest step alone: {p99 / slowest:.2f} (target: at most 1.2)")


if __name__ == "__main__":
    main()
