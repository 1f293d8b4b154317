"""qwen-ffi validate DIR...: the parity table. Exit code 1 when a limit is missed."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

from ..validation import Check, Report, Setting, find_cases, validate
from ..version import build_info
from .progress import Progress

HEADERS = ("model", "dtype", "backend", "threads", "worst of its checks", "measured", "limit", "greedy", "ok")
WIDTHS = (28, 5, 12, 7, 19, 9, 9, 7, 3)


EPILOG = """\
The exit code is 1 when a limit is missed. --json prints one object per comparison: case, file, setting (dtype, isa, threads, \
device), backend, threads, checks (name, measured, limit, at_least), greedy, not_supported, failure, counters, ok."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument(
        "folders",
        nargs="+",
        type=Path,
        metavar="DIR",
        help="a checkpoint with expected*.safetensors, or a folder of such; a GGUF file with them beside it",
    )
    parser.add_argument("--dtype", action="append", help="may be given several times (default: f32 and bf16)")
    parser.add_argument("--isa", action="append", help="instruction set level, or 'all' (default: the machine's best)")
    parser.add_argument(
        "--threads", action="append", type=int, help="may be given several times (default: the library's)"
    )
    parser.add_argument("--device", default="cpu", help="where it is computed: cpu, cuda or cuda:N (default: cpu)")
    parser.add_argument("--strict", action="store_true", help="what is not supported counts as a miss")
    parser.add_argument("--json", action="store_true", help="print one JSON object per line instead of the table")


def run(arguments: argparse.Namespace) -> int:
    cases = find_cases(arguments.folders)
    compared = missed = unsupported = 0
    with Progress("validating") as progress:
        for report in _shown(_once(_reports(cases, _settings(arguments), progress)), arguments.json):
            compared += not report.not_supported
            unsupported += bool(report.not_supported)
            missed += not report.ok
    if not arguments.json:
        print(f"\n{compared - missed} of {compared} within the limits, {unsupported} not supported")
    return 1 if missed or (arguments.strict and unsupported) else 0


def _reports(cases: list[Path], settings: list[Setting], progress: Progress) -> Iterator[Report]:
    pairs = list(product(cases, settings))
    for done, (case, setting) in enumerate(pairs):
        progress(done / len(pairs), f"validating {case.name}")
        for report in validate(case, setting):
            progress.clear()  # a row of the table comes now
            yield report


def _once(reports: Iterable[Report]) -> Iterator[Report]:
    """Says only once per file, not per setting, that and why it is not supported."""
    said = set()
    for report in reports:
        key = (report.case, report.file, report.not_supported)
        if report.not_supported and key in said:
            continue
        said.add(key)
        yield report


def _settings(arguments: argparse.Namespace) -> list[Setting]:
    levels: list[str | None] = arguments.isa or [None]
    if "all" in levels:
        levels = list(build_info()["cpu_isa"])
    combinations = product(arguments.dtype or ["f32", "bf16"], levels, arguments.threads or [None])
    return [Setting(dtype, isa, threads, arguments.device) for dtype, isa, threads in combinations]


def _shown(reports: Iterable[Report], as_json: bool) -> Iterator[Report]:
    if not as_json:
        print(_row(HEADERS))
        print(_row(tuple("-" * width for width in WIDTHS)))
    for report in reports:
        if as_json:
            print(json.dumps({**asdict(report), "ok": report.ok}), flush=True)
        else:
            _print(report)
        yield report


def _print(report: Report) -> None:
    name = report.case if report.file == "expected" else f"{report.case} {report.file.removeprefix('expected_')}"
    level = report.backend or (report.setting.isa or "")
    begin = (name, report.setting.dtype, level, str(report.threads or report.setting.threads or ""))
    if report.not_supported:
        begin = (name, "-", "-", "-")
    if report.not_supported or report.failure:
        reason = f"not supported: {report.not_supported}" if report.not_supported else report.failure
        print(_row(begin) + "  " + reason, flush=True)
        return
    worst = report.worst
    measured = (worst.name, f"{worst.measured:.3g}", _limit(worst)) if worst else ("", "", "")
    print(_row((*begin, *measured, report.greedy, "yes" if report.ok else "NO")), flush=True)
    if not report.ok:
        for check in report.checks:
            if not check.ok:
                print(f"    {check.name}: {check.measured:.6g}, limit {_limit(check)}", flush=True)


def _limit(check: Check) -> str:
    return ">= " * check.at_least + (f"{check.limit:.3g}" if math.isfinite(check.limit) else str(check.limit))


def _row(cells: tuple[Any, ...]) -> str:
    return "  ".join(str(cell).ljust(width) for cell, width in zip(cells, WIDTHS, strict=False)).rstrip()
