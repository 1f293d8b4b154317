"""The tables of options in qwen_ffi/README.md, written from the library's own. Run it when an option has changed:

python tests/option_tables.py
"""

from __future__ import annotations

import re
from pathlib import Path

from qwen_ffi import OptionInfo, OptionScope, OptionType, options

README = Path(__file__).resolve().parents[1] / "qwen_ffi" / "README.md"

PYTHON = {
    OptionType.I64: "int",
    OptionType.F64: "float",
    OptionType.STR: "str",
    OptionType.I32_ARRAY: "list of int",
    OptionType.STR_ARRAY: "str, list of str",
    OptionType.BIAS: "dict of token id: float",
    OptionType.CALLBACK: "function",
}


def table(scope: OptionScope) -> str:
    """The options of a scope as a table of Markdown."""
    rows = ["| | type | allowed | default | |", "|---|---|---|---|---|"]
    for option in options():
        if option.scope == scope:
            cells = (f"`{option.key}`", _type(option), _allowed(option), _default(option), option.help)
            rows.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(rows)


def filled(text: str) -> str:
    """The text with a table between each `<!-- options: SCOPE -->` and `<!-- end -->`."""
    return re.sub(
        r"(<!-- options: (\w+) -->\n).*?(<!-- end -->)",
        lambda match: f"{match[1]}{table(OptionScope[match[2]])}\n{match[3]}",
        text,
        flags=re.DOTALL,
    )


def _is_switch(option: OptionInfo) -> bool:
    return option.type == OptionType.I64 and option.minimum in (0, -1) and option.maximum == 1


def _type(option: OptionInfo) -> str:
    return "bool" if _is_switch(option) else PYTHON[OptionType(option.type)]


def _allowed(option: OptionInfo) -> str:
    if option.choices:
        return ", ".join(f"`{choice}`" for choice in option.choices)
    if option.minimum is None or option.maximum is None or _is_switch(option):
        return ""
    return f"{_number(option.minimum)} to {_number(option.maximum)}{' ' + option.unit if option.unit else ''}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) and abs(value) < 1e16 else f"{value:g}"


def _default(option: OptionInfo) -> str:
    if not option.default:
        return ""
    if _is_switch(option):
        return {"0": "`False`", "1": "`True`", "-1": "`None`"}[option.default]
    return f"`{option.default!r}`" if "\n" in option.default else f"`{option.default}`"


if __name__ == "__main__":
    README.write_text(filled(README.read_text(encoding="utf-8")), encoding="utf-8")
