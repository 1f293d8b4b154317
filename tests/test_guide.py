"""qwen_ffi/README.md: what it shows runs, its tables are the library's, and no public name is missing."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sysconfig
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

import qwen_ffi
from qwen_ffi.cli import COMMANDS

from .documents import ADAPTER, ADAPTERS, CHECKPOINT, blocks, broken_links, run_python
from .option_tables import filled

ROOT = Path(__file__).resolve().parents[1]
README = ROOT / "qwen_ffi" / "README.md"
TEXT = README.read_text(encoding="utf-8")
REFERENCE = TEXT[TEXT.index("\n# Reference\n") :]

CLASSES = [value for name in qwen_ffi.__all__ if inspect.isclass(value := getattr(qwen_ffi, name))]
ERRORS = [value for value in CLASSES if issubclass(value, qwen_ffi.QwenError)]
# Their members are those of the library's table and of config.json.
ELSEWHERE = [qwen_ffi.SamplingConfig, qwen_ffi.ModelArgs, qwen_ffi.OptionType, qwen_ffi.OptionScope]


def test_the_tables_of_options_are_the_librarys() -> None:
    assert filled(TEXT) == TEXT, "run python tests/option_tables.py"


def test_the_python_runs(demo_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_python(README, demo_model, {})
    shown = capsys.readouterr()
    assert "17 plus 25 is 42." in shown.out
    assert shown.err == ""


COMMAND_LINES = [
    line for block in blocks(README, "sh") for line in block.text.splitlines() if re.search(r"(^|\| )qwen-ffi ", line)
]


@pytest.mark.parametrize("line", COMMAND_LINES)
def test_the_command_lines_run(line: str, demo_model: Path, tmp_path: Path) -> None:
    line = line.replace(CHECKPOINT, str(demo_model)).replace("tests/parity", str(ROOT / "tests" / "parity"))
    line = line.replace(ADAPTER, str(ADAPTERS / "friendly"))
    env = {**os.environ, "PATH": sysconfig.get_path("scripts") + os.pathsep + os.environ["PATH"]}
    given = "What is 2 + 3?\n"  # for chat; the others do not read it
    run = subprocess.run(
        line, shell=True, cwd=tmp_path, env=env, input=given, capture_output=True, text=True, timeout=120
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.strip()


def test_every_command_is_shown() -> None:
    for command in COMMANDS:
        assert any(f"qwen-ffi {command}" in line for line in COMMAND_LINES)
        assert f"\n| `{command}` | " in TEXT


@pytest.mark.parametrize("name", qwen_ffi.__all__)
def test_every_public_name_is_there(name: str) -> None:
    assert re.search(rf"`[^`\n]*\b{name}\b[^`\n]*`", TEXT)


def members(cls: type) -> list[str]:
    own = [name for name in vars(cls) if not name.startswith("_")]
    return own + ([field.name for field in fields(cls)] if is_dataclass(cls) else [])


@pytest.mark.parametrize(
    "cls", [cls for cls in CLASSES if cls not in [*ELSEWHERE, *ERRORS]], ids=lambda cls: cls.__name__
)
def test_every_member_is_in_the_reference(cls: type) -> None:
    section = next(
        (part for part in REFERENCE.split("\n## ") if cls.__name__ in re.findall(r"\w+", part.split("\n")[0])), None
    )
    place = section or "\n".join(line for line in REFERENCE.splitlines() if f"`{cls.__name__}`" in line)
    named = set(re.findall(r"\w+", " ".join(re.findall(r"`([^`\n]*)`", place))))
    assert sorted(set(members(cls)) - named) == []


def test_every_error_is_in_its_table_with_its_base() -> None:
    rows = dict(re.findall(r"^\| `(Qwen\w+)` \|(?: `(\w+)`)? \|", TEXT, flags=re.MULTILINE))
    bases = {
        error.__name__: [base.__name__ for base in error.__bases__ if base is not qwen_ffi.QwenError]
        for error in ERRORS
        if error is not qwen_ffi.QwenError
    }
    assert rows == {name: other[0] if other else "" for name, other in bases.items()}


def test_links_lead_somewhere() -> None:
    assert broken_links(README) == []
