"""Tokens per second of many streams together, and of prompts; with --peer llama.cpp on the very same weights in the same run.

    python tests/benchmarks/bench_throughput.py [--streams 1 2 4 8 16] [--rounds 2] [--peer llama.cpp --peer-bench FILE]

The shape is Qwen3-0.6B's with random bf16 weights (bench_generate.py makes the checkpoint). FILE is llama.cpp's
llama-batched-bench; its model is written with the `gguf` package, once. Ours and the peer's take turns (A B A B), so that
a machine that changes in between shows. A decode figure counts the tokens of the steps in which every stream generates and no
prompt is computed, which is what llama-batched-bench reports too. Let nothing else run beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from bench_generate import HERE, checkpoint, read_bandwidth
from gguf_checkpoint import make_gguf

from qwen_ffi import QwenInferenceSession, StepTrace

Figures = dict[str, float]  # "decode 4" or "prefill 512" -> tokens per second


def tokens(count: int, vocabulary: int, draw: random.Random) -> list[int]:
    return [draw.randrange(vocabulary // 2) for _ in range(count)]


def ours(folder: Path, arguments: argparse.Namespace) -> Figures:
    steps: list[tuple[float, StepTrace]] = []
    draw = random.Random(time.time_ns())  # never the same prompt twice: nothing comes from the prefix cache
    figures: Figures = {}
    with QwenInferenceSession(
        folder,
        dtype="bf16",
        threads=arguments.threads,
        trace=lambda step: steps.append((time.perf_counter(), step)),
    ) as session:
        vocabulary = session.info.vocab_size
        session.complete_ids(tokens(64, vocabulary, draw), max_tokens=2)  # brings the weights into memory
        stats = session.complete_ids(tokens(arguments.prefill, vocabulary, draw), max_tokens=1).stats
        figures[f"prefill {arguments.prefill}"] = arguments.prefill / stats.prompt_seconds
        for streams in arguments.streams:
            steps.clear()
            running = [
                session.stream_ids(
                    tokens(arguments.prompt, vocabulary, draw),
                    temperature=0,
                    max_tokens=arguments.answer + 2 * streams,  # those that begin last go on as long with the others
                    ignore_eos=True,
                )
                for _ in range(streams)
            ]
            for stream in running:
                for _ in stream:
                    pass
            full = [at for at, step in steps if step.generate_rows == streams and step.prompt_rows == 0]
            figures[f"decode {streams}"] = streams * (len(full) - 1) / (full[-1] - full[0])
    return figures


def llama_cpp(gguf: Path, arguments: argparse.Namespace) -> Figures:
    def run(prompt: int, answer: int, streams: list[int]) -> list[dict[str, float]]:
        context = max(streams) * (prompt + answer)
        command = [str(arguments.peer_bench), "-m", str(gguf), "-c", str(context), "-b", "2048", "-ub", "512"]
        command += ["-npp", str(prompt), "-ntg", str(answer), "-npl", ",".join(map(str, streams))]
        command += ["-t", str(arguments.threads), "-tb", str(arguments.threads), "--output-format", "jsonl"]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode != 0:
            sys.exit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
        return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]

    figures = {f"prefill {arguments.prefill}": run(arguments.prefill, 1, [1])[0]["speed_pp"]}
    for row in run(arguments.prompt, arguments.answer, arguments.streams):
        figures[f"decode {int(row['pl'])}"] = row["speed_tg"]
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=HERE / "data" / "Qwen3-0.6B.config.json")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "qwen-ffi-benchmarks")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--prompt", type=int, default=64, help="tokens of each stream's prompt")
    parser.add_argument("--answer", type=int, default=64, help="tokens each stream generates, at least")
    parser.add_argument("--prefill", type=int, default=512, help="tokens of the prompt whose speed is measured")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--peer", choices=["llama.cpp"])
    parser.add_argument("--peer-bench", type=Path, help="llama-batched-bench")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.peer and arguments.peer_bench is None:
        parser.error("--peer needs --peer-bench FILE, llama.cpp's llama-batched-bench")

    folder = checkpoint(arguments.cache, arguments.config)
    ways: dict[str, Callable[[], Figures]] = {"libqwen": lambda: ours(folder, arguments)}
    if arguments.peer:
        gguf = folder / "model.bf16.gguf"
        if not gguf.is_file():
            make_gguf(folder, gguf)
        ways["llama.cpp"] = lambda: llama_cpp(gguf, arguments)
    before = read_bandwidth(arguments.threads)
    rounds: dict[str, list[Figures]] = {name: [] for name in ways}
    for _ in range(arguments.rounds):
        for name, way in ways.items():
            rounds[name].append(way())
    bandwidth = {"before": before, "after": read_bandwidth(arguments.threads)}
    if arguments.json:
        print(json.dumps({"rounds": rounds, "read_bandwidth_gb_per_s": bandwidth, "load": os.getloadavg()}))
        return
    print(f"{folder.name}, bf16, {arguments.threads} threads, tokens/s, median of {arguments.rounds} (min to max)")
    print(f"{'':<14}" + "".join(f"{name:>28}" for name in ways))
    for key in rounds["libqwen"][0]:
        line = f"{key:<14}"
        for name in ways:
            values = [figures[key] for figures in rounds[name]]
            line += f"{f'{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})':>28}"
        print(line)
    print(f"read bandwidth {bandwidth['before']} GB/s before, {bandwidth['after']} GB/s after")


if __name__ == "__main__":
    main()
