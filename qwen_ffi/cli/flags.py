"""What the commands share: flags read from the library's table of options, opening a model, and results as lines or JSON."""

from __future__ import annotations

import argparse
import os
import sys
from dataclasses import asdict
from functools import partial
from typing import Any

from .._options import OptionInfo, OptionScope, OptionSet, OptionType, options
from ..errors import QwenValueError
from ..results import GenerationResult, StreamEvent
from ..session import QwenInferenceSession
from .progress import Progress

MODEL = (
    "the folder of a checkpoint, a GGUF file, or a model of the Hugging Face hub: Qwen/Qwen3-0.6B, Qwen/Qwen3-0.6B@revision"
)
RESULT_KEYS = (
    "text, reasoning, token_ids, logprobs (null unless --logprobs 1), finish_reason (stop, length), and stats with "
    "prompt_tokens, cached_tokens, generated_tokens, queued_seconds, prompt_seconds, generate_seconds, "
    "first_token_seconds, seed, tokens_per_second"
)


def add_flags(parser: argparse.ArgumentParser, scope: OptionScope, skip: frozenset[str] = frozenset()) -> None:
    """One flag per option of this scope. The library says at once what is wrong with a value: a wrong argument."""
    group = parser.add_argument_group("engine options" if scope == OptionScope.ENGINE else "sampling parameters")
    for row in options():
        if row.scope != scope or row.type not in _PARSERS or row.key in skip:
            continue
        group.add_argument(
            "--" + row.key.replace("_", "-"),
            dest=row.key,
            type=partial(_flag_value, row),
            action="extend" if row.type in (OptionType.I32_ARRAY, OptionType.STR_ARRAY) else "store",
            metavar=_metavar(row),
            help=_help(row),
        )


def add_adapter_flag(parser: argparse.ArgumentParser) -> None:
    """In place of the option: open_session() loads the folder, and the option gets its name."""
    parser.add_argument("--adapter", metavar="FOLDER", help="a LoRA adapter that answers, as PEFT saves it, or its name of the hub")


def flag_values(arguments: argparse.Namespace, scope: OptionScope) -> dict[str, Any]:
    """The options of this scope that were given."""
    keys = [row.key for row in options() if row.scope == scope]
    return {key: value for key in keys if (value := getattr(arguments, key, None)) is not None}


def texts_or_lines(given: list[str]) -> list[str] | list[bytes]:
    """The texts of the command line, or, where they are "-" alone, the lines of standard input."""
    if given != ["-"]:
        return given
    lines = sys.stdin.buffer.read().split(b"\n")
    return lines[:-1] if lines[-1] == b"" else lines


def open_session(arguments: argparse.Namespace) -> QwenInferenceSession:
    """The session on arguments.model with the engine options given; with a progress bar where that takes long."""
    with Progress(f"opening {os.path.basename(os.path.normpath(arguments.model))}") as progress:
        session = QwenInferenceSession(
            arguments.model, progress=progress, **flag_values(arguments, OptionScope.ENGINE)
        )
    if getattr(arguments, "adapter", None):
        arguments.adapter = session.load_adapter(arguments.adapter)
    return session


def sampling_rows() -> dict[str, OptionInfo]:
    """The sampling parameters that can be written as text, by their keys."""
    return {row.key: row for row in options() if row.scope == OptionScope.REQUEST and row.type in _PARSERS}


def sampling_row(key: str) -> OptionInfo:
    """One of them. Raises QwenValueError, which lists all."""
    rows = sampling_rows()
    if key not in rows:
        raise QwenValueError(f"unknown parameter '{key}'; the parameters are {', '.join(rows)}")
    return rows[key]


def option_value(row: OptionInfo, text: str) -> Any:
    """The value of an option written as text. Raises QwenValueError."""
    try:
        value = _PARSERS[row.type](text)
    except ValueError:
        raise QwenValueError(f"{row.key} cannot be '{text}': {row.help}") from None
    OptionSet({row.key: value}, OptionScope(row.scope))  # the library knows what is allowed
    return value


def _flag_value(row: OptionInfo, text: str) -> Any:
    try:
        return option_value(row, text)
    except QwenValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def result_object(result: GenerationResult) -> dict[str, Any]:
    """A finished answer as JSON has it: the keys of the first choice, and all choices."""
    values = {**asdict(result.choices[0]), **asdict(result)}
    values["stats"]["tokens_per_second"] = result.stats.tokens_per_second
    return values


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


def _metavar(row: OptionInfo) -> str:
    if row.choices:
        return "|".join(row.choices)
    if row.type == OptionType.I64 and row.minimum is not None and row.maximum == 1:
        return "|".join(str(value) for value in range(int(row.minimum), 2))
    return row.unit.upper() or _METAVARS.get(row.type, "VALUE")


def _number(value: float | None) -> str:
    return f"{value:,.0f}" if value is not None and value % 1 == 0 and abs(value) < 2**60 else f"{value:g}"


def _help(row: OptionInfo) -> str:
    bounds = "" if row.minimum is None else f" [{_number(row.minimum)} to {_number(row.maximum)}]"
    default = f" (default {row.default})" if row.default else ""
    return (row.help + bounds + default).replace("%", "%%")


def _bias(text: str) -> dict[int, float]:
    pairs = (pair.split(":") for pair in text.split(",") if pair)
    return {int(token): float(bias) for token, bias in pairs}


def _ids(text: str) -> list[int]:
    return [int(item) for item in text.split(",") if item]


def _texts(text: str) -> list[str]:
    return [text]


_METAVARS: dict[int, str] = {
    OptionType.I64: "INTEGER",
    OptionType.F64: "NUMBER",
    OptionType.STR: "TEXT",
    OptionType.I32_ARRAY: "ID,ID,...",
    OptionType.STR_ARRAY: "TEXT",
    OptionType.BIAS: "ID:BIAS,...",
}
_PARSERS: dict[int, Any] = {
    OptionType.I64: int,
    OptionType.F64: float,
    OptionType.STR: str,
    OptionType.I32_ARRAY: _ids,
    OptionType.STR_ARRAY: _texts,
    OptionType.BIAS: _bias,
}
