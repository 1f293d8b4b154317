"""What asyncio costs: the same answers by generate_batch and by streams on one event loop.

    python tests/benchmarks/bench_async.py [FOLDER] [--streams 1000] [--tokens 32] [--runs 3]

FOLDER is a checkpoint; without one, the demo model, whose tokens cost so little that the host's part shows. In every way
each request is submitted on its own; with streams, every token is an event that Python sees. The library computes on
threads of its own meanwhile, so the figures to compare are those of this process's main thread: processor time per event.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Callable

from qwen_ffi import QwenInferenceSession, SamplingConfig, demo_model_path

PROMPT = "What is 17 + 25?"


def batch(session: QwenInferenceSession, streams: int, config: SamplingConfig) -> int:
    return sum(len(result.token_ids) for result in session.generate_batch([PROMPT] * streams, config))


def on_one_loop(session: QwenInferenceSession, streams: int, config: SamplingConfig) -> int:
    async def one() -> int:
        tokens = 0
        async for event in session.astream(PROMPT, config):
            tokens += len(event.token_ids)
        return tokens

    async def work() -> int:
        return sum(await asyncio.gather(*(one() for _ in range(streams))))

    return asyncio.run(work())


def whole_on_one_loop(session: QwenInferenceSession, streams: int, config: SamplingConfig) -> int:
    async def work() -> int:
        return sum(len(result.token_ids) for result in await session.agenerate_batch([PROMPT] * streams, config))

    return asyncio.run(work())


WAYS: dict[str, Callable[[QwenInferenceSession, int, SamplingConfig], int]] = {
    "generate_batch": batch,
    "agenerate_batch": whole_on_one_loop,
    "astream, one loop": on_one_loop,
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", nargs="?", default=str(demo_model_path()))
    parser.add_argument("--streams", type=int, default=1000)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--runs", type=int, default=3)
    arguments = parser.parse_args()
    config = SamplingConfig(temperature=0, max_tokens=arguments.tokens, ignore_eos=True)
    with QwenInferenceSession(arguments.folder, max_running=256) as session:
        print(f"{arguments.streams} streams of {arguments.tokens} tokens on {session.stats().backend}")
        print(f"{'':<20}{'tokens/s, median (min to max)':>36}{'main thread, us per token':>28}")
        for name, way in WAYS.items():
            rates, costs = [], []
            for _ in range(arguments.runs):
                wall, thread = time.perf_counter(), time.thread_time()
                tokens = way(session, arguments.streams, config)
                rates.append(tokens / (time.perf_counter() - wall))
                costs.append((time.thread_time() - thread) / tokens * 1e6)
            rate = f"{statistics.median(rates):,.0f} ({min(rates):,.0f} to {max(rates):,.0f})"
            print(f"{name:<20}{rate:>36}{statistics.median(costs):>28.1f}")


if __name__ == "__main__":
    main()
