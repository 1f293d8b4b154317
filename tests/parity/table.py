"""The table in README.md beside this file: every case of the reference set, compared on every level and 1, 2 and 3 threads.

    python tests/parity/table.py ../shared/reference
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from qwen_ffi import build_info
from qwen_ffi.validation import Check, Report, Setting, find_cases, validate

README = Path(__file__).with_name("README.md")


def reports(folder: Path) -> Iterator[Report]:
    """Of every case, under every setting."""
    for case in find_cases([folder]):
        for dtype in ("f32", "bf16"):
            for isa in build_info()["cpu_isa"]:
                for threads in (1, 2, 3):
                    yield from validate(case, Setting(dtype, isa, threads))


def worst(group: list[Report], dtype: str) -> tuple[str, str]:
    """Of all settings with this dtype, the check that comes nearest to its limit, and its share of it."""
    of_dtype = [report for report in group if report.setting.dtype == dtype]
    checks = [check for report in of_dtype for check in report.checks if check.limit and not check.at_least]
    if not checks:
        least = min((check for report in of_dtype for check in report.checks), key=lambda one: one.measured)
        return f"{least.name} {least.measured:.6f}", "-"
    check: Check = max(checks, key=lambda one: one.measured / one.limit)
    return f"{check.name} {check.measured:.2g}", f"{100 * check.measured / check.limit:.0f} %"


def row(group: list[Report]) -> str:
    """One line: a case's file."""
    first = group[0]
    kind = first.file.removeprefix("expected").removeprefix("_") or "text"
    if first.not_supported:
        return f"| {first.case} | {kind} | not yet | | | | |"
    within = sum(report.ok for report in group)
    greedy = " ".join(sorted({report.greedy for report in group}))
    f32, bf16 = worst(group, "f32"), worst(group, "bf16")
    return f"| {first.case} | {kind} | {within} of {len(group)} | {f32[0]} | {bf16[0]} | {bf16[1]} | {greedy} |"


def table(found: list[Report]) -> str:
    """All of them."""
    groups: dict[tuple[str, str], list[Report]] = {}
    for report in found:
        groups.setdefault((report.case, report.file), []).append(report)
    head = "| case | | within the limits | f32: nearest to its limit | bf16: the same | of that limit | greedy ids |"
    return "\n".join([head, "|---|---|---|---|---|---|---|", *(row(group) for group in groups.values())])


def main() -> None:
    found = list(reports(Path(sys.argv[1])))
    text = README.read_text(encoding="utf-8")
    filled = re.sub(r"(<!-- table -->\n).*?(<!-- end -->)", lambda m: f"{m[1]}{table(found)}\n{m[2]}", text, flags=re.S)
    README.write_text(filled, encoding="utf-8")
    compared = [report for report in found if not report.not_supported]
    print(f"{sum(report.ok for report in compared)} of {len(compared)} within the limits")


if __name__ == "__main__":
    main()
