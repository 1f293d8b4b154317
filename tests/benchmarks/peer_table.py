"""Statistics and tables of bench_peers.py, from its records: what each round found, and whether it was disturbed."""

from __future__ import annotations

import statistics
from typing import Any

from bench_common import spread

OURS = "libqwen"


def less_is_better(row: str) -> bool:
    return row.startswith("process")


def ratios(row: str, records: list[dict[str, Any]], peer: str) -> list[float]:
    """Of each round with both: above 1 where ours is faster, or smaller."""
    found = []
    for record in records:
        values = record["figures"].get(row, {})
        if OURS in values and peer in values:
            ratio = values[OURS] / values[peer]
            found.append(1 / ratio if less_is_better(row) else ratio)
    return found


def neighbour_ratios(row: str, records: list[dict[str, Any]], engine: str) -> list[float]:
    """With a neighbour / without, of each round; of what is better when less, the inverse: below 1 is always a loss."""
    values: dict[bool, list[float]] = {False: [], True: []}
    for record in records:
        figure = record["figures"].get(row, {})
        if engine in figure:
            values[record["neighbour"]].append(figure[engine])
    pairs = zip(values[True], values[False], strict=False)
    return [alone / beside if less_is_better(row) else beside / alone for beside, alone in pairs]


def number(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}" if value < 1000 else f"{value:.0f}"


def cell(values: list[float]) -> str:
    if not values:
        return ""
    found = spread(values)
    return f"{number(found['median'])} ({number(found['min'])} to {number(found['max'])})"


def of_each_row(records: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    rows = dict.fromkeys(row for record in records for row in record["figures"])
    return {row: [record for record in records if row in record["figures"]] for row in rows}


def marked(row: str, records: list[dict[str, Any]]) -> str:
    disturbed = sum(record["disturbed"] for record in records)
    return row + (f" ({disturbed} of {len(records)} rounds disturbed)" if disturbed else "")


def table(records: list[dict[str, Any]], peers: list[str]) -> list[list[str]]:
    """A row for each figure: of every engine, then ours to every peer. A cell without a figure is empty."""
    alone = [record for record in records if not record["neighbour"]]
    lines = [["", OURS, *peers, *(f"ours / {peer}" for peer in peers)]]
    for row, mine in of_each_row(alone).items():
        values = [[r["figures"][row][engine] for r in mine if engine in r["figures"][row]] for engine in (OURS, *peers)]
        line = [marked(row, mine), *map(cell, values)]
        for peer in peers:
            found = ratios(row, mine, peer)
            line.append(number(statistics.median(found)) if found else "")
        lines.append(line)
    return lines


def neighbour_table(records: list[dict[str, Any]], engines: list[str]) -> list[list[str]]:
    lines = [["with a busy neighbour", *engines]]
    for row, mine in of_each_row(records).items():
        lines.append([marked(row, mine), *(cell(neighbour_ratios(row, mine, engine)) for engine in engines)])
    return lines


def text_of(lines: list[list[str]], markdown: bool) -> str:
    if markdown:
        head, *rest = ["| " + " | ".join(line) + " |" for line in lines]
        return "\n".join([head, "|" + "---|" * len(lines[0]), *rest])
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(f"{value:<{width}}" for value, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
