"""Command line flags read from the library's table of options."""

from __future__ import annotations

import argparse
from typing import Any

from .._options import OptionInfo, OptionScope, OptionType, options
from ..results import GenerationResult, StreamEvent


def add_flags(parser: argparse.ArgumentParser, scope: OptionScope, skip: frozenset[str] = frozenset()) -> None:
    """One flag per option of this scope; their values are checked by the library."""
    group = parser.add_argument_group("engine options" if scope == OptionScope.ENGINE else "sampling parameters")
    for row in options():
        if row.scope != scope or row.type not in _PARSERS or row.key in skip:
            continue
        group.add_argument(
            "--" + row.key.replace("_", "-"),
            dest=row.key,
            type=_PARSERS[row.type],
            metavar="|".join(row.choices) or row.unit.upper() or "VALUE",
            help=_help(row),
        )


def flag_values(arguments: argparse.Namespace, scope: OptionScope) -> dict[str, Any]:
    """The options of this scope that were given."""
    keys = [row.key for row in options() if row.scope == scope]
    return {key: value for key in keys if (value := getattr(arguments, key, None)) is not None}


def answer_line(result: GenerationResult) -> str:
    """Counts and speed of an answer, for people."""
    stats = result.stats
    return (
        f"{stats.prompt_tokens} prompt tokens in {stats.prompt_seconds * 1e3:.0f} ms, {stats.generated_tokens} generated at "
        f"{stats.tokens_per_second:.1f} tokens/s, finished by {result.finish_reason.value}, seed {stats.seed}"
    )


def show(event: StreamEvent) -> None:
    """Prints a piece of text at once."""
    print(event, end="", flush=True)


def _help(row: OptionInfo) -> str:
    bounds = "" if row.minimum is None else f" [{row.minimum:g} to {row.maximum:g}]"
    default = f" (default {row.default})" if row.default else ""
    return (row.help + bounds + default).replace("%", "%%")


def _bias(text: str) -> dict[int, float]:
    pairs = (pair.split(":") for pair in text.split(",") if pair)
    return {int(token): float(bias) for token, bias in pairs}


def _ids(text: str) -> list[int]:
    return [int(item) for item in text.split(",") if item]


def _texts(text: str) -> list[str]:
    return [text]


_PARSERS: dict[int, Any] = {
    OptionType.I64: int,
    OptionType.F64: float,
    OptionType.STR: str,
    OptionType.I32_ARRAY: _ids,
    OptionType.STR_ARRAY: _texts,
    OptionType.BIAS: _bias,
}
