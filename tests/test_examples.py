"""The examples, and what the README shows of them, are run against the model in the package."""

from __future__ import annotations

import re
import subprocess
import sys
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


def readme_blocks(root: Path, language: str) -> list[str]:
    blocks = re.findall(rf"```{language}\n(.*?)```", (root / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    assert blocks, f"README.md shows no {language}"
    return blocks


def test_the_readme_shows_the_c_example_that_is_tested(root: Path) -> None:
    source = (root / "examples" / "generate.c").read_text(encoding="utf-8")
    for block in readme_blocks(root, "c"):
        assert block in source


def test_the_readmes_python_runs(root: Path, demo_model: Path, tmp_path: Path) -> None:
    for block in readme_blocks(root, "python"):
        script = block.replace("path/to/Qwen3-0.6B", str(demo_model))
        run = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert (run.returncode, run.stderr) == (0, "")
        assert run.stdout.strip()
