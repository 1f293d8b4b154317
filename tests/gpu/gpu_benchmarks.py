"""The part of tests/gpu/run that times: rows of bench_peers.py on a GPU, from opening to the first token, and what they are of it."""

from __future__ import annotations

import json
import math
import os
import statistics
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import bench_peers
import peer_engines
from bench_common import CONFIG
from bench_startup import build as build_first_token
from gpu_run import FAILED, INCOMPLETE, ROOT, Clock, IncompleteError, Part, Setup
from peer_engines import TEXT, Engine, PeerError, Worker
from peer_table import OURS, number, ratios, table

ROWS = "prefill512,prefill2048,decode16,decode2048,streams1,streams4,streams16,streams64"
LARGE = CONFIG.with_name("Qwen3-8B.config.json")
WORKER = Path(__file__).resolve().parent / "gpu_worker.py"
PEER = "transformers"
# libqwen with other options, to be seen beside what it does without.
DEPENDENT = "cuda_dependent_launch=1"
WAITING = "cuda_step_ahead=0"
LOOSE = "strict=0"  # with cuBLASLt where the machine has it
VARIANTS = (DEPENDENT, WAITING, LOOSE)
CACHE_BYTES = 2 << 30  # of ours: more than the rows need, so that the engines have room beside each other
FIRST_TOKEN = "open to first token, s"
NO_LIBRARY = "no cuBLASLt"  # in what gpu_worker.py says of itself


def weights(folder: Path) -> dict[str, int]:
    """Of a dense checkpoint: `read`, the bytes of all weights of which a decode step reads all; `multiplied`, how many weights a
    prompt's position is multiplied with (the head is for its last one only)."""
    read = multiplied = 0
    with (folder / "model.safetensors").open("rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    tied = "lm_head.weight" not in header
    for name, tensor in header.items():
        table_of_ids = name.endswith("embed_tokens.weight")
        if name != "__metadata__" and (tied or not table_of_ids):
            begin, end = tensor["data_offsets"]
            read += end - begin
            if len(tensor["shape"]) == 2 and not table_of_ids and name != "lm_head.weight":
                multiplied += math.prod(tensor["shape"])
    return {"read": read, "multiplied": multiplied}


def reached(row: str, value: float, of: dict[str, int], gb_per_s: float) -> str:
    """What a figure of ours is: of a prompt arithmetic, of decoding weights read, and its share of the bandwidth of a copy."""
    kind = bench_peers.Row.parse(row)
    if kind.kind == "prefill":
        return f"{2 * of['multiplied'] * value * 1e-12:.3g} TFLOP/s"
    steps = value / (kind.number if kind.kind == "streams" else 1)
    read = steps * of["read"] * 1e-9
    return f"{read:.0f} GB/s of weights, {100 * read / gb_per_s:.0f} %"


def with_reached(
    lines: list[list[str]], records: list[dict[str, Any]], of: dict[str, int], gb_per_s: float
) -> list[list[str]]:
    """peer_table's lines with one column more."""
    found = [[*lines[0], f"{OURS} reached"]]
    for line in lines[1:]:
        row = line[0].split(" ")[0]
        values = [r["figures"][row][OURS] for r in records if OURS in r["figures"].get(row, {})]
        found.append([*line, reached(row, statistics.median(values), of, gb_per_s) if values else ""])
    return found


def with_cost(lines: list[list[str]], records: list[dict[str, Any]]) -> list[list[str]]:
    """peer_table's lines with what being strict costs in place of the ratio to who is not: the share of its speed that is lost."""
    found = [list(line) for line in lines]
    if f"ours / {LOOSE}" not in lines[0]:
        return found
    column = lines[0].index(f"ours / {LOOSE}")
    found[0][column] = "cost of strict"
    for line in found[1:]:
        each = ratios(line[0].split(" ")[0], records, LOOSE)
        line[column] = f"{100 * (1 - statistics.median(each)):.1f} %" if each else ""
    return found


def benchmark_tables(details: dict[str, Any]) -> list[tuple[str, list[list[str]]]]:
    """Each shape's title and table, of what the part found."""
    tables = []
    for name, shape in details.get("shapes", {}).items():
        records, opened = shape["records"], shape["first_token"]
        bandwidth = details["gpu"]["bandwidth_gb_per_s"]
        timed = {name for record in records for figures in record["figures"].values() for name in figures}
        others = [*(name for name in VARIANTS if name in timed), PEER]
        lines = with_reached(with_cost(table(records, others), records), records, shape["weights"], bandwidth)
        if opened:
            line, *rest = table(opened, others)[1:]
            assert not rest
            found = ratios(FIRST_TOKEN, opened, PEER)
            line[-1] = number(statistics.median(1 / ratio for ratio in found)) if found else ""
            lines.append([*line, ""])
        title = f"{name}, bf16, tokens/s (median, min to max); a copy moves {bandwidth:.0f} GB/s"
        if NO_LIBRARY in shape["engines"].get(LOOSE, ""):
            title += f"; {NO_LIBRARY} was found, so strict=0 is the same kernels"
        if len(lines) > 1:
            tables.append((title, lines))
    return tables


def torch_of(setup: Setup) -> str:
    """Why there is no comparison with transformers; '' where there is."""
    code = (
        "import torch, transformers; assert torch.cuda.is_available(), 'torch sees no CUDA'; print(torch.__version__)"
    )
    try:
        done = setup.clock.run([setup.arguments.torch_python, "-c", code])
    except IncompleteError as error:
        return str(error)
    return "" if done.code == 0 else done.out.strip().splitlines()[-1]


def make_checkpoint(setup: Setup, python: str, config: Path) -> Path:
    program = ROOT / "tests" / "benchmarks" / "random_checkpoint.py"
    command = [python, str(program), str(config), "--cache", str(setup.arguments.cache)]
    done = setup.clock.run(command, most=1200, env=setup.environment())
    if done.code != 0:
        raise IncompleteError(f"cannot make the checkpoint of {config.name}: {done.last_words}")
    return Path(done.out.strip().splitlines()[-1])


def engines_for(setup: Setup, python: str, folder: Path, program: Path | None, with_peer: bool) -> list[Engine]:
    """libqwen on the GPU, likewise with the options of VARIANTS, dependent launches where the GPU has them, and transformers if it is
    there. program: first_token, linked with the library."""
    threads = "4"  # of what the CPU has to do beside the GPU

    def serve(interpreter: str, engine: str, device: str, *more: str) -> list[str]:
        options = [f"--option={option}" for option in (f"device={device}", *more)]
        return [interpreter, str(WORKER), *options, engine, str(folder), threads]

    opens = [str(program), str(folder), TEXT, "0", "1", f"device={setup.arguments.device}"] if program else []
    ours = [python, OURS, setup.arguments.device, f"kv_cache_bytes={CACHE_BYTES}"]
    variants = [name for name in VARIANTS if name != DEPENDENT or float(setup.gpu["compute_capability"]) >= 9]
    engines = [Engine(OURS, serve(*ours), opens), *(Engine(name, serve(*ours, name), []) for name in variants)]
    if with_peer:
        command = serve(setup.arguments.torch_python, PEER, "cuda")
        engines.append(Engine(PEER, command, [*command, TEXT]))
    return engines


def start(engines: list[Engine], shape: dict[str, Any]) -> list[Engine]:
    """Those whose workers begin; why the others do not is kept."""
    ready = []
    for engine in engines:
        try:
            engine.worker = Worker(engine.name, engine.serve)
        except PeerError as error:
            shape["failures"][engine.name] = str(error)
        else:
            shape["engines"][engine.name] = engine.worker.settings
            ready.append(engine)
    return ready


def first_tokens(engines: list[Engine], rounds: int, shape: dict[str, Any], clock: Clock) -> None:
    """From the begin of a program of ours, or after the imports of Python's, until the first token; files in the page cache."""
    for number_of_round in range(rounds + 1):
        figures: dict[str, float] = {}
        for engine in engines:
            clock.check("not every round opened the model")
            if not engine.process or engine.name in shape["failures"]:
                continue
            done = clock.run(engine.process)
            said = [line for line in done.out.splitlines() if line.startswith("{")]
            if done.code != 0 or not said:
                shape["failures"][engine.name] = f"first token: ended with {done.code}: {done.last_words}"
                continue
            told = json.loads(said[-1])
            figures[engine.name] = (told["token"] - told["main"]) / 1e3
        if number_of_round > 0 and figures:  # the first round brings the files into memory
            shape["first_token"].append({"figures": {FIRST_TOKEN: figures}, "neighbour": False, "disturbed": False})


def measure_shape(setup: Setup, python: str, config: Path, with_peer: bool, shape: dict[str, Any]) -> None:
    arguments, clock = setup.arguments, setup.clock
    folder = make_checkpoint(setup, python, config)
    shape["weights"] = weights(folder)
    vocabulary = json.loads((folder / "config.json").read_text(encoding="utf-8"))["vocab_size"]
    program = None
    try:
        program = build_first_token(setup.library().parent, setup.scratch)
    except (OSError, subprocess.CalledProcessError, SystemExit) as error:
        shape["failures"]["first_token.c"] = str(error)
    engines = engines_for(setup, python, folder, program, with_peer)
    peer_engines.PATIENCE = max(1, clock.left())  # with one answer
    ready = start(engines, shape)
    run = bench_peers.Run(ready, vocabulary, None, os.cpu_count() or 1, patience=5)
    run.records, run.first_tokens = shape["records"], shape["first_tokens"]
    try:
        for call, rows in bench_peers.calls_of(arguments.rows or bench_peers.rows_of(ROWS)).items():
            clock.check(f"rows of {config.name} from {rows[0].name} on were not measured")
            if not run.engines:
                break
            peer_engines.PATIENCE = max(1, clock.left())
            run.call(call, rows, arguments.rounds)
    finally:
        shape["failures"] |= run.failures
        for engine in ready:
            if engine.worker:
                engine.worker.end()
    first_tokens(engines, arguments.rounds, shape, clock)


def benchmarks(setup: Setup, part: Part) -> None:
    measured = setup.clock.run([setup.gpu_tests(), "--measure"])
    if measured.code != 0:
        raise IncompleteError(f"gpu-tests --measure ended with {measured.code}: {measured.last_words}")
    part.details["gpu"] = json.loads(measured.out)
    python = setup.python()
    os.environ |= setup.environment()  # which the workers inherit
    why_alone = torch_of(setup)
    part.details["transformers"] = why_alone or "beside"
    shapes: dict[str, Any] = part.details.setdefault("shapes", {})
    for config in setup.arguments.config or [CONFIG, *([LARGE] if setup.arguments.large else [])]:
        name = config.name.removesuffix(".config.json")
        shape: dict[str, Any] = {"engines": {}, "failures": {}, "records": [], "first_tokens": [], "first_token": []}
        shapes[name] = shape
        measure_shape(setup, python, config, not why_alone, shape)
        if OURS in shape["failures"]:
            part.details.setdefault("failures", []).append(f"{name}: {shape['failures'][OURS]}")
            part.miss(FAILED, f"{name}: {shape['failures'][OURS]}")
        if LOOSE in shape["failures"]:
            part.miss(FAILED, f"{name}, {LOOSE}: {shape['failures'][LOOSE]}")
        for other in shape["failures"].keys() - {OURS, LOOSE}:
            part.miss(INCOMPLETE, f"{name}, {other}: {shape['failures'][other]}")
        rows = {row for record in shape["records"] for row, values in record["figures"].items() if OURS in values}
        part.details["counts"] = f"{name}: {len(rows)} rows"
    if why_alone:
        part.miss(INCOMPLETE, f"nothing to compare with: {why_alone}")
        print(f"without transformers: {why_alone}", file=sys.stderr)
