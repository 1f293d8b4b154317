"""libqwen beside other engines, on the very same weights and token ids, in turns, in one run.

    python tests/benchmarks/bench_peers.py [--peers llama.cpp,transformers,openvino] [--peer-python NAME=PYTHON …]
        [--rows prefill512,prefill2048,decode16,decode2048,streams1,streams4,streams16,process] [--rounds 3] [--threads 2]
        [--config FILE] [--option ENGINE:KEY=VALUE …] [--neighbour] [--json FILE] [--markdown]

Every engine is a process of its own that has loaded the model once (peer_worker.py), with a Python of its own if need be. In a
round each engine has its turn, A B C, while the others are stopped (SIGSTOP); figures are the median of the rounds (min to max),
ratios the median of each round's ratio, above 1 where libqwen is faster or smaller. bf16 weights, greedy, end tokens ignored,
prompts of random ids, in every round others. Each row begins with a turn that does not count.

    prefillN    N tokens / seconds to the first token                                                              tokens/s
    decodeN     32 tokens after the first / their seconds, behind a prompt of N                                     tokens/s
    streamsN    N prompts of 32 together, 24 tokens each: those of the 23 steps in which all generate, in total     tokens/s
    process     a whole process: start, load, 11 tokens of text, one token, exit (files in the page cache), and its peak memory

What is missing is said, with the line that installs it, and its cells stay empty. Before each round other processes may use at
most 5 % of --threads cores, or it waits up to a minute; a round in which they used more is disturbed, and marked. --neighbour measures
everything a second time in each round with a busy process pinned to one core. Engines run as they come; --option changes that,
by their own names, but not in the C programs of the row process: libqwen:cpu_isa=avx512, llama.cpp:flash_attn_type=0 (a field of
llama_context_params), openvino:KV_CACHE_PRECISION=f16, transformers:attn_implementation=eager.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import re
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench_common import CACHE, CONFIG, Others, checkpoint, read_bandwidth, tokens, wait_until_idle
from peer_engines import PEERS, Child, Engine, PeerError, Worker, busy_neighbour, in_a_child, whole_process
from peer_table import OURS, neighbour_table, table, text_of

ROWS = "prefill512,prefill2048,decode16,decode2048,streams1,streams4,streams16,process"
DECODED, STREAM_PROMPT, STREAM_ANSWER = 33, 32, 24  # tokens
MOST_OF_OTHERS = 0.05  # of the cores that an engine computes on

Call = tuple[int, int, int]  # prompts, tokens of each, tokens to generate
Figures = dict[str, dict[str, float]]  # row -> engine -> value


@dataclass(frozen=True)
class Row:
    name: str
    kind: str
    number: int

    @staticmethod
    def parse(name: str) -> Row:
        found = re.fullmatch(r"(prefill|decode|streams)([1-9]\d*)|(process)", name)
        if found is None:
            raise argparse.ArgumentTypeError(f"'{name}' is no row: prefillN, decodeN, streamsN, process")
        return Row(name, found[3] or found[1], int(found[2] or 0))

    def value(self, answer: dict[str, Any]) -> float:
        if self.kind == "prefill":
            return self.number / float(answer["first"])
        if self.kind == "decode":
            return (DECODED - 1) / float(answer["rest"])
        return self.number * (STREAM_ANSWER - 1) / float(answer["rest"])


def rows_of(text: str) -> list[Row]:
    return [Row.parse(name) for name in text.split(",")]


def peers_of(text: str) -> list[str]:
    names = [name for name in text.split(",") if name]
    for name in names:
        if name not in PEERS:
            raise argparse.ArgumentTypeError(f"'{name}' is no peer: {', '.join(PEERS)}")
    return names


def pythons_of(given: list[str]) -> dict[str, str]:
    """NAME=PYTHON, or PYTHON for all of them -> the Python of every peer; this one where nothing is said."""
    pythons = dict.fromkeys(PEERS, sys.executable)
    for entry in sorted(given, key=lambda entry: "=" in entry):
        name, equals, python = entry.rpartition("=")
        if equals and name not in PEERS:
            raise argparse.ArgumentTypeError(f"'{name}' is no peer: {', '.join(PEERS)}")
        pythons |= {name: python} if equals else dict.fromkeys(PEERS, python)
    return pythons


def option_of(text: str) -> tuple[str, str]:
    """ENGINE:KEY=VALUE -> (ENGINE, KEY=VALUE)."""
    engine, _, option = text.partition(":")
    if engine not in (OURS, *PEERS) or not re.fullmatch(r"[^=]+=.+", option):
        raise argparse.ArgumentTypeError(f"'{text}' is not ENGINE:KEY=VALUE, of {OURS}, {', '.join(PEERS)}")
    return engine, option


def calls_of(rows: list[Row]) -> dict[Call, list[Row]]:
    """What an engine is asked, and the rows its answer is for: prefill and decode behind a prompt of one length are one."""
    calls: dict[Call, list[Row]] = {}
    decoded = {row.number for row in rows if row.kind == "decode"}
    for row in rows:
        if row.kind == "streams":
            calls.setdefault((row.number, STREAM_PROMPT, STREAM_ANSWER), []).append(row)
        elif row.kind != "process":
            calls.setdefault((1, row.number, DECODED if row.number in decoded else 1), []).append(row)
    return calls


class Run:
    """The engines and what was measured."""

    def __init__(
        self, engines: list[Engine], vocabulary: int, neighbour: Child | None, threads: int, patience: float
    ) -> None:
        self.engines, self.vocabulary, self.neighbour, self.patience = engines, vocabulary, neighbour, patience
        self.limit = MOST_OF_OTHERS * threads  # cores
        self.failures: dict[str, str] = {}
        self.records: list[dict[str, Any]] = []
        self.first_tokens: list[dict[str, Any]] = []

    def own(self) -> list[int]:
        workers = [engine.worker.pid for engine in self.engines if engine.worker]
        return [os.getpid(), *workers, *([self.neighbour.pid] if self.neighbour else [])]

    def without(self, engine: Engine, error: PeerError) -> None:
        print(f"without {engine.name} from here on: {error}", file=sys.stderr)
        self.failures[engine.name] = str(error)
        self.engines.remove(engine)
        if engine.worker:
            engine.worker.end()

    def turns(self, ask: Callable[[Engine], dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """Each engine's answer; one that fails is left out from now on."""
        answers = {}
        for engine in list(self.engines):
            try:
                answers[engine.name] = ask(engine)
            except PeerError as error:
                self.without(engine, error)
        self.first_tokens.append({name: answer["tokens"] for name, answer in answers.items()})
        return answers

    def round(self, ask: Callable[[Engine], dict[str, Any]], figures: Callable[[dict[str, Any]], Figures]) -> None:
        for neighbour in [None, self.neighbour] if self.neighbour else [None]:
            before = wait_until_idle(self.own(), self.limit, self.patience)
            others = Others(self.own())
            with neighbour.running() if neighbour else contextlib.nullcontext():
                found = figures(self.turns(ask))
            during = others.cores()
            self.records.append(
                {
                    "figures": found,
                    "neighbour": neighbour is not None,
                    "other_cores_before": before,
                    "other_cores_during": during,
                    "disturbed": max(before, during) > self.limit,
                }
            )

    def call(self, call: Call, rows: list[Row], rounds: int) -> None:
        streams, length, count = call
        draw = random.Random(time.time_ns())

        def asker(count: int) -> Callable[[Engine], dict[str, Any]]:
            prompts = [tokens(length, self.vocabulary, draw) for _ in range(streams)]

            def ask(engine: Engine) -> dict[str, Any]:
                assert engine.worker is not None
                answer: dict[str, Any] = engine.worker.ask(prompts, count)
                return answer

            return ask

        def figures(answers: dict[str, Any]) -> Figures:
            return {row.name: {name: row.value(answer) for name, answer in answers.items()} for row in rows}

        self.turns(asker(min(count, 3)))
        for _ in range(rounds):
            self.round(asker(count), figures)

    def processes(self, rounds: int) -> None:
        def ask(engine: Engine) -> dict[str, Any]:
            return whole_process(engine.process)

        def figures(answers: dict[str, Any]) -> Figures:
            keys = {"process, s": "seconds", "process, peak MB": "peak_mb"}
            return {row: {name: answer[key] for name, answer in answers.items()} for row, key in keys.items()}

        lengths = {name: answer["prompt_tokens"] for name, answer in self.turns(ask).items()}
        if len(set(lengths.values())) > 1:
            raise SystemExit(f"the engines make different prompts of one text, in tokens: {lengths}")
        for _ in range(rounds):
            self.round(ask, figures)


def arguments_of(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", type=peers_of, default=list(PEERS), help="names with commas between them; '': none")
    parser.add_argument("--peer-python", action="append", default=[], metavar="[NAME=]PYTHON")
    parser.add_argument("--rows", type=rows_of, default=rows_of(ROWS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--config", type=Path, default=CONFIG, help="the shape; random weights are made once, in --cache"
    )
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--neighbour", action="store_true")
    parser.add_argument("--option", type=option_of, action="append", default=[], metavar="ENGINE:KEY=VALUE")
    parser.add_argument("--patience", type=float, default=60, help="seconds to wait for an idle machine, each round")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", action="store_true")
    arguments = parser.parse_args(given)
    for name in ("rounds", "threads"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} must be at least 1")
    try:
        arguments.pythons = pythons_of(arguments.peer_python)
    except argparse.ArgumentTypeError as error:
        parser.error(f"--peer-python: {error}")
    return arguments


def found_engines(arguments: argparse.Namespace, folder: Path, programs: Path | None) -> list[Engine]:
    def find(name: str, python: str) -> Engine:
        options = [option for engine, option in arguments.option if engine == name]
        return Engine.find(name, python, folder, arguments.threads, options, programs)

    try:
        engines = [find(OURS, sys.executable)]
    except PeerError as error:
        sys.exit(str(error))
    for name in arguments.peers:
        try:
            engines.append(find(name, arguments.pythons[name]))
        except PeerError as error:
            print(f"without {name}: {error}\n    {PEERS[name].install}", file=sys.stderr)
    return engines


def start(run: Run, stack: contextlib.ExitStack) -> dict[str, dict[str, Any]]:
    """Every engine's worker; returns what they say of themselves."""
    said = {}
    for engine in list(run.engines):
        try:
            worker = engine.worker = Worker(engine.name, engine.serve)
        except PeerError as error:
            run.without(engine, error)
        else:
            stack.callback(worker.end)
            said[engine.name] = {"settings": worker.settings, "idle_cores": worker.idle_cores}
    return said


def report(figures: dict[str, Any], peers: list[str], markdown: bool) -> None:
    records, bandwidth = figures["records"], figures["read_bandwidth_gb_per_s"]
    print(
        f"{figures['checkpoint']}, {figures['threads']} threads, median (min to max), tokens/s where nothing else is said"
    )
    print(text_of(table(records, peers), markdown))
    if any(record["neighbour"] for record in records):
        print("\nbeside a process that never waits, on one core; 1: as without it, median (min to max)")
        print(text_of(neighbour_table(records, [OURS, *peers]), markdown))
    print()
    for name, said in figures["engines"].items():
        idle, peak = 100 * said["idle_cores"], said.get("peak_mb", float("nan"))
        print(f"{name}: {said['settings']}; {idle:.0f} % of a core while idle, peak {peak:.0f} MB")
    prompts = [chosen for turn in figures["first_tokens"] for chosen in zip(*turn.values(), strict=True)]
    same = sum(len(set(chosen)) == 1 for chosen in prompts)
    print(f"first tokens: all engines chose the same one behind {same} of {len(prompts)} prompts")
    print(f"read bandwidth {bandwidth['before']} GB/s before, {bandwidth['after']} GB/s after")
    print(
        f"other processes used up to {100 * max(record['other_cores_during'] for record in records):.0f} % of a core during a round"
    )


def main() -> None:
    arguments = arguments_of()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that no stopped process is left behind
    folder = in_a_child(checkpoint, arguments.cache, arguments.config)
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    calls = calls_of(arguments.rows)
    whole = any(row.kind == "process" for row in arguments.rows)
    os.environ |= {"OMP_NUM_THREADS": str(arguments.threads), "HF_HUB_OFFLINE": "1"}
    with contextlib.ExitStack() as stack:
        programs = Path(stack.enter_context(tempfile.TemporaryDirectory())) if whole else None
        engines = found_engines(arguments, folder, programs)
        before = read_bandwidth(arguments.threads)
        neighbour = busy_neighbour(max(os.sched_getaffinity(0))) if arguments.neighbour else None
        if neighbour:
            stack.callback(neighbour.end)
        run = Run(
            engines, config.get("text_config", config)["vocab_size"], neighbour, arguments.threads, arguments.patience
        )
        said = start(run, stack) if calls else {}
        for call, rows in calls.items():
            run.call(call, rows, arguments.rounds)
        if whole:
            run.processes(arguments.rounds)
        for engine in engines:
            if engine.worker:
                said[engine.name]["peak_mb"] = engine.worker.peak_mb()
    figures = {
        "checkpoint": folder.name,
        "date": time.strftime("%Y-%m-%d"),
        "threads": arguments.threads,
        "engines": said,
        "failures": run.failures,
        "records": run.records,
        "first_tokens": run.first_tokens,
        "read_bandwidth_gb_per_s": {"before": before, "after": read_bandwidth(arguments.threads)},
    }
    report(figures, arguments.peers, arguments.markdown)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
