"""The parts of tests/gpu/run that check: correctness, references, sanitizers."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

from gpu_run import FAILED, INCOMPLETE, ROOT, TOO_LONG, IncompleteError, Part, Setup

COMMITTED = ROOT / "tests" / "parity" / "data"
MOST_SECONDS = 300  # of a case; under a sanitizer one may take longer without being wrong
SANITIZED = 86  # compute-sanitizer's exit status when it has found something
# A case of each kernel that the sanitizers look at: they take long.
SANITIZED_CASES = (
    "a tile's product is the sum over its 16 columns, added to what was there",
    "cuda linear equals the naive twin in every arithmetic and odd shape",
    "cuda rms_norm equals the naive twin, a row has its bits in any batch, in place and as an operand",
    "cuda embed copies the entries of a table",
    "cuda rows of n-grams are those that the rule names, however the tokens arrive",
    "cuda attention equals the naive twin in every shape and window, split or not",
    "cuda route chooses the likeliest experts, of equal ones the first, and sorts the rows by expert",
    "cuda gated delta rule equals the rule position by position",
    "cuda indexer: of groups scored alike the first are picked, of many too, and NaN scores as nothing",
    "element-wise operations on a GPU are those of the CPU",
    "an operand on a GPU has the bits of plain rows, whoever writes it",
)


def cases_of(listing: str) -> list[str]:
    """The names in what `gpu-tests --list-test-cases` prints."""
    return [line for line in listing.splitlines() if line and not line.startswith(("[doctest]", "==="))]


def in_order(cases: list[str]) -> list[str]:
    """What the rest takes for granted comes first: tiles, then bits."""
    return sorted(cases, key=lambda case: 0 if case.startswith("a tile's") else 1 if "bits" in case else 2)


def chosen(case: str) -> str:
    """doctest's option for one case: a comma would end its name, so any character may stand there."""
    return "--test-case=" + case.replace(",", "?")


def passed(code: int, out: str) -> bool:
    """Whether one case ran, and all in it was as it should be: no case at all is a success to doctest."""
    ran = re.search(r"test cases:\s+(\d+) \|\s+(\d+) passed", out)
    return code == 0 and ran is not None and ran[1] == ran[2] == "1"


def test_environment(setup: Setup) -> dict[str, str]:
    """Of gpu-tests, which look for reference/ in a folder."""
    shared = setup.scratch / "shared"
    if not shared.is_dir():
        shared.mkdir()
        (shared / "reference").symlink_to(setup.arguments.reference.resolve())
    return {**os.environ, "QWEN_SHARED": str(shared)}


def one_by_one(setup: Setup, part: Part, cases: list[str], before: list[str], label: str) -> None:
    """Each case in a process of its own: after an error of the device nothing works in that process any more."""
    found: dict[str, Any] = part.details.setdefault("cases", {})
    failures: list[str] = part.details.setdefault("failures", [])
    for number, case in enumerate(cases):
        setup.clock.check(f"{number} of {len(cases)} cases{label} were run")
        done = setup.clock.run([*before, setup.gpu_tests(), chosen(case)], MOST_SECONDS, env=test_environment(setup))
        if before and done.code == TOO_LONG:
            part.miss(INCOMPLETE, f"{case}{label} takes longer than {MOST_SECONDS} s")
            continue
        fine = passed(done.code, done.out)
        found[case + label] = {"passed": fine, "exit": done.code, "said": "" if fine else done.last_words}
        part.details["counts"] = f"{sum(each['passed'] for each in found.values())} of {len(found)}"
        if not fine:
            failures.append(f"{case}{label} (exit status {done.code})")
            part.miss(FAILED, f"{case}{label}: {done.last_words}")


def correctness(setup: Setup, part: Part) -> None:
    listed = setup.clock.run([setup.gpu_tests(), "--list-test-cases"])
    cases = cases_of(listed.out) if listed.code == 0 else []
    if not cases:
        raise IncompleteError(f"{setup.gpu_tests()} lists no cases: {listed.last_words}")
    if not setup.arguments.reference.is_dir():
        part.miss(INCOMPLETE, f"no reference checkpoints in {setup.arguments.reference}: only those of the repository")
    one_by_one(setup, part, in_order(cases), [], "")


def reference_cases(folder: Path) -> list[Path]:
    """All in a folder, and those of the repository that it has not."""
    found: dict[str, Path] = {}
    for parent in (COMMITTED, folder):
        if parent.is_dir():
            found |= {case.name: case for case in sorted(parent.iterdir()) if any(case.glob("expected*.safetensors"))}
    return [found[name] for name in sorted(found)]


def judge(case: str, code: int, out: str, part: Part) -> None:
    """One case by what `qwen-ffi validate --json` printed of it."""
    lines = [line for line in out.splitlines() if line.startswith("{")]
    reports = [json.loads(line) for line in lines]
    failures: list[str] = part.details.setdefault("failures", [])
    kept: list[dict[str, Any]] = part.details.setdefault("reports", [])

    def fail(what: str) -> None:
        failures.append(f"{case}: {what}")
        part.miss(FAILED, f"{case}: {what}")

    for report in reports:
        kept.append(report)
        name = f"{report['setting']['dtype']} {report['file']}"
        if report["not_supported"]:
            part.details.setdefault("not_supported", {})[f"{case} {report['file']}"] = report["not_supported"]
        elif not report["ok"]:
            missed = [c for c in report["checks"] if not within(c)]
            numbers = ", ".join(f"{c['name']} {c['measured']:.3g}, limit {c['limit']:.3g}" for c in missed)
            fail(f"{name}: {report['failure'] or numbers}")
        elif not report["backend"].startswith("cuda."):
            fail(f"{name}: computed by {report['backend'] or 'nobody'}, not on the GPU")
    if not reports or code not in (0, 1):
        fail(f"validate ended with {code}: {out.strip()[-600:]}")
    compared = Counter(bool(report["ok"]) for report in kept if not report["not_supported"])
    without = len(part.details.get("not_supported", {}))
    part.details["counts"] = f"{compared[True]} of {sum(compared.values())} within limits, {without} not supported"


def within(check: dict[str, Any]) -> bool:
    """As Check.ok of qwen_ffi.validation: NaN is never within."""
    if check["at_least"]:
        return bool(check["measured"] >= check["limit"])
    return bool(check["measured"] <= check["limit"])


def references(setup: Setup, part: Part) -> None:
    python = setup.python()
    cases = reference_cases(setup.arguments.reference)
    if not setup.arguments.reference.is_dir():
        part.miss(INCOMPLETE, f"no reference checkpoints in {setup.arguments.reference}: only those of the repository")
    for number, case in enumerate(cases):
        setup.clock.check(f"{number} of {len(cases)} checkpoints were compared")
        command = [python, "-m", "qwen_ffi", "validate", "--device", setup.arguments.device, "--json", str(case)]
        done = setup.clock.run(command, env=setup.environment())
        judge(case.name, done.code, done.out, part)
    if all(report["not_supported"] for report in part.details["reports"]):
        part.miss(FAILED, "nothing was computed: " + next(iter(part.details["not_supported"].values())))


def sanitizers(setup: Setup, part: Part) -> None:
    toolkit = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "bin"
    program = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path=str(toolkit))
    if program is None:
        raise IncompleteError("there is no compute-sanitizer (CUDA toolkit)")
    for tool in ("memcheck", "racecheck"):
        before = [program, "--tool", tool, "--error-exitcode", str(SANITIZED)]
        one_by_one(setup, part, list(SANITIZED_CASES), before, f" [{tool}]")
