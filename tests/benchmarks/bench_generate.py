"""Opening, prefill and decode of the Qwen3-0.6B shape, beside the memory bandwidth of this machine in the same run.

    python tests/benchmarks/bench_generate.py [--threads 2] [--runs 5] [--json]

The checkpoint has random weights in the exact published shape (1.2 GB); it is made once, in --cache. Decode must read
every weight once per token, so tokens/s x bytes of weights / measured bandwidth is how close it comes to the machine.
Let nothing else run beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from pathlib import Path
from typing import Any

from bench_common import CACHE, CONFIG, checkpoint, read_bandwidth, spread, tokens

from qwen_ffi import QwenInferenceSession, RequestStats, build_info


def memory() -> dict[str, float]:
    """Resident memory of this process in MB: anonymous (its own) and of files (shared, the mapped weights)."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines() if ":" in line)
    return {key: int(lines[key].split()[0]) / 1e3 for key in ("RssAnon", "RssFile")}


def request_stats(session: QwenInferenceSession, prompt: int, answer: int, seed: int) -> RequestStats:
    """Of one answer to a prompt of random tokens (never the same, so that no prefix can have been kept)."""
    ids = tokens(prompt, session.info.vocab_size, random.Random(seed))
    return session.complete_ids(ids, temperature=0, max_tokens=answer, ignore_eos=True).stats


def measure(folder: Path, threads: int, runs: int, depths: list[int], prefill: int, answer: int) -> dict[str, Any]:
    before = memory()
    begin = time.perf_counter()
    session = QwenInferenceSession(folder, dtype="bf16", threads=threads)
    opened = time.perf_counter() - begin
    figures: dict[str, Any] = {
        "backend": session.stats().backend,
        "threads": session.stats().threads,
        "experts": "num_experts" in (folder / "config.json").read_text(),
        "open_ms": opened * 1e3,
        "open_memory_mb": {key: value - before[key] for key, value in memory().items()},
        "weight_mb": session.info.weight_bytes / 1e6,
        "cache_mb": session.stats().cache_bytes / 1e6,
    }
    with session:
        request_stats(session, prefill, 2, seed=0)  # brings the weights into memory
        rates = [prefill / request_stats(session, prefill, 1, seed=1 + run).prompt_seconds for run in range(runs)]
        figures[f"prefill_{prefill}_tokens_per_s"] = spread(rates)
        for depth in depths:
            rates = [request_stats(session, depth, answer, seed=100 + run).tokens_per_second for run in range(runs)]
            figures[f"decode_at_{depth}_tokens_per_s"] = spread(rates)
        figures["memory_mb"] = memory()
        figures["counters"] = session.counters()
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", type=Path, default=CONFIG)
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--prefill", type=int, default=512, help="tokens of the prompt whose speed is measured")
    parser.add_argument("--answer", type=int, default=64, help="tokens to generate per run")
    parser.add_argument("--depths", type=int, nargs="+", default=[16, 512], help="prompt lengths before decoding")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()

    folder = checkpoint(arguments.cache, arguments.config)
    bandwidth = read_bandwidth(arguments.threads)
    figures = measure(folder, arguments.threads, arguments.runs, arguments.depths, arguments.prefill, arguments.answer)
    after = read_bandwidth(arguments.threads)
    figures["read_bandwidth_gb_per_s"] = {"before": bandwidth, "after": after}
    figures["build"] = build_info()
    if arguments.json:
        print(json.dumps(figures))
        return
    print(
        f"{folder.name} on {figures['backend']}, {figures['threads']} threads, median of {arguments.runs} (min to max)"
    )
    own = figures["open_memory_mb"]["RssAnon"]
    print(
        f"open      {figures['open_ms']:8.1f} ms, {own:.0f} MB of its own, cache of {figures['cache_mb']:.0f} MB reserved"
    )
    for key, value in figures.items():
        if not key.endswith("_tokens_per_s"):
            continue
        name = key.removesuffix("_tokens_per_s").replace("_", " ")
        line = f"{name:<16} {value['median']:9.1f} tokens/s ({value['min']:.1f} to {value['max']:.1f})"
        if key.startswith("decode") and bandwidth and after and not figures["experts"]:  # of experts few are read
            used = value["median"] * figures["weight_mb"] / 1e3
            line += f", {used:.1f} GB/s of weights = {100 * used / max(bandwidth, after):.0f} % of this machine's"
        print(line)
    print(f"read bandwidth   {bandwidth} GB/s before, {after} GB/s after; weights {figures['weight_mb']:.0f} MB")
    resident = figures["memory_mb"]
    print(f"resident at the end: {resident['RssAnon']:.0f} MB of its own, {resident['RssFile']:.0f} MB of mapped files")


if __name__ == "__main__":
    main()
