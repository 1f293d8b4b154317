"""The examples are compiled as the README says and run against the model in the package."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def generate(root: Path, compile_c: Callable[..., Path]) -> Path:
    return compile_c(root / "examples" / "generate.c")


def test_generate_c_streams_an_answer(generate: Path, demo_model: Path) -> None:
    run = subprocess.run([generate, demo_model, "What is 2 + 3?"], capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stderr) == (0, "")
    answer, closing = run.stdout.rsplit("\n[", 1)
    assert answer.strip()
    assert re.fullmatch(r"\d+ tokens, \d+\.\d tokens/s\]\n", closing)


def test_generate_c_reports_a_missing_folder(generate: Path, tmp_path: Path) -> None:
    missing = tmp_path / "no-such-model"
    run = subprocess.run([generate, missing, "Hello"], capture_output=True, text=True, timeout=60)
    assert run.returncode == 1
    assert run.stderr.startswith("QWEN_ERR_NOT_FOUND: ")
    assert str(missing) in run.stderr
    assert run.stdout == ""


def test_the_readme_shows_the_example_that_is_tested(root: Path) -> None:
    blocks = re.findall(r"```c\n(.*?)```", (root / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    source = (root / "examples" / "generate.c").read_text(encoding="utf-8")
    assert blocks, "README.md shows no C program"
    for block in blocks:
        assert block in source
