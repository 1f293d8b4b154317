"""The style of the house, as far as a machine can see it: formatters, type checker, and files that stay one concept."""

from __future__ import annotations

import subprocess
import sysconfig
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ["libqwen", "include", "qwen_ffi", "bindings", "tests", "examples", ".packaging"]
SOURCES = sorted(
    path
    for folder in FOLDERS
    for path in (ROOT / folder).rglob("*")
    if path.suffix in {".py", ".c", ".h", ".cpp", ".hpp", ".cu", ".cuh", ".go", ".rs", ".js", ".mjs", ".ts"}
)
# qwen.h and C programs are set by hand: their columns and line breaks mean something.
CPP = [path for path in SOURCES if path.suffix in {".h", ".cpp", ".hpp"} and not path.name.startswith("qwen")]


def program(tool: str) -> Path:
    return Path(sysconfig.get_path("scripts")) / tool


def clang_format(path: Path) -> str:
    return subprocess.run([program("clang-format"), path], check=True, capture_output=True, text=True).stdout


def run(tool: str, *arguments: str | Path) -> None:
    result = subprocess.run([program(tool), *arguments], cwd=ROOT, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_ruff() -> None:
    run("ruff", "check", *[path for path in SOURCES if path.suffix == ".py"])


def test_mypy_strict() -> None:
    run("mypy", "--strict", "qwen_ffi")
    run("mypy", "--strict", "--scripts-are-modules", *sorted((ROOT / "examples" / "python").glob("*.py")))


def test_clang_format() -> None:
    wrong = [path for path in CPP if clang_format(path) != path.read_text(encoding="utf-8")]
    assert wrong == [], "run clang-format -i (version 14, as in the test extra) on these"


def test_a_file_is_one_concept() -> None:
    most = {"qwen.hpp": 850}  # one header for all of qwen.h: so that a program needs no other
    long = [
        path.name for path in SOURCES if len(path.read_text(encoding="utf-8").splitlines()) > most.get(path.name, 800)
    ]
    assert long == []
