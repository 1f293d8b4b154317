"""qwen-ffi doctor [MODEL]: looks at the machine and a checkpoint, and says what to do about what it finds."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict

from .checkpoint import model_checks
from .flags import MODEL
from .machine import Check, Status, machine_checks
from .terminal import dim, has_colours

EPILOG = """\
The exit code is 0 when nothing is a problem, and 1 otherwise. With --json: {"checks": [{"name", "status" (ok, warning, \
problem), "message", "advice"}, ...], "ok": true or false}."""

_COLOURS = {Status.OK: "32", Status.WARNING: "33", Status.PROBLEM: "31"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = EPILOG
    parser.add_argument("model", nargs="?", help=MODEL + "; nothing is downloaded")
    parser.add_argument("--quick", action="store_true", help="do not load the model and generate a token")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    checks = []
    for check in _checks(arguments):
        checks.append(check)
        if not arguments.json:
            _print(check)
    problems = [check for check in checks if check.status == Status.PROBLEM]
    if arguments.json:
        print(json.dumps({"checks": [asdict(check) for check in checks], "ok": not problems}, ensure_ascii=False))
    else:
        warnings = sum(check.status == Status.WARNING for check in checks)
        print(f"\n{_counted(len(problems), 'problem')}, {_counted(warnings, 'warning')}")
    return 1 if problems else 0


def _checks(arguments: argparse.Namespace) -> Iterator[Check]:
    yield from machine_checks()
    if arguments.model is not None:
        yield from model_checks(arguments.model, arguments.quick)


def _print(check: Check) -> None:
    status = f"{check.status.value:<8}"
    if has_colours():
        status = f"\x1b[{_COLOURS[check.status]}m{status}\x1b[0m"
    print(f"{status} {check.name.replace('_', ' '):<18} {check.message}", flush=True)
    if check.advice:
        print(f"{'':<27} {dim('-> ' + check.advice)}", flush=True)


def _counted(count: int, what: str) -> str:
    return f"{count or 'no'} {what}{'' if count == 1 else 's'}"
