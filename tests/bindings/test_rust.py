"""The crates of bindings/rust: the declarations are qwen.h's, and cargo's own tests, lints and documentation pass."""

from __future__ import annotations

import re
import runpy
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from ..documents import blocks, broken_links, run_commands

ROOT = Path(__file__).resolve().parents[2]
Cargo = Callable[..., str]
README = ROOT / "bindings" / "rust" / "README.md"
MAKER = runpy.run_path(str(ROOT / "bindings" / "rust" / "make_declarations.py"))


def test_the_declarations_are_those_of_qwen_h() -> None:
    assert MAKER["TARGET"].read_text(encoding="utf-8") == MAKER["declarations"](), "run python bindings/rust/make_declarations.py"


def test_every_function_is_declared_once() -> None:
    symbols = (ROOT / "tests" / "abi" / "symbols.txt").read_text(encoding="utf-8").split()
    assert sorted(re.findall(r"pub fn (\w+)\(", MAKER["declarations"]())) == symbols


def test_the_readme_has_no_broken_link() -> None:
    assert broken_links(README) == []


def test_the_crates_and_the_examples_in_their_documentation_pass_as_the_readme_says(cargo: Cargo) -> None:
    said = run_commands(README, Path(cargo("locate-project", "--workspace", "--message-format=plain")).parent)
    passed = [int(count) for count in re.findall(r"test result: ok\. (\d+) passed; 0 failed; 0 ignored", said)]
    assert sum(passed) >= 13


def test_the_crates_are_documented_without_a_warning(cargo: Cargo) -> None:
    cargo("doc", "--no-deps")


@pytest.mark.parametrize(
    "command", [["clippy", "--all-targets", "--", "-D", "warnings"], ["fmt", "--check"]], ids=["clippy", "fmt"]
)
def test_the_crates_please_rusts_own_tools(command: list[str], cargo: Cargo) -> None:
    if shutil.which(f"cargo-{command[0]}") is None:
        pytest.skip(f"cargo {command[0]} is not installed")
    cargo(*command)


def test_a_library_that_is_not_there_is_an_error_of_the_build_that_says_so(cargo: Cargo, tmp_path: Path) -> None:
    nowhere = {"PKG_CONFIG_PATH": "", "PKG_CONFIG_LIBDIR": str(tmp_path), "CARGO_TARGET_DIR": str(tmp_path / "target")}
    said = cargo("build", "--package", "qwen-sys", fails=True, **nowhere)
    assert 'pkg-config knows no "qwen". Is libqwen installed? PKG_CONFIG_PATH must name the folder of its qwen.pc.' in said


def test_the_readmes_program_runs(cargo: Cargo, root: Path, demo_model: Path, tmp_path: Path) -> None:
    """In a package of its own, with the lines of Cargo.toml that the README shows."""
    (manifest,) = blocks(root / "README.md", "toml")
    (program,) = blocks(root / "README.md", "rust")
    (tmp_path / "bindings").symlink_to(root / "bindings")
    (tmp_path / "Cargo.toml").write_text(f'[package]\nname = "app"\nedition = "2021"\n\n{manifest.text}\n')
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "main.rs").write_text(program.text.replace("path/to/Qwen3-0.6B", str(demo_model)))
    assert cargo("run", "--quiet", folder=tmp_path).strip()
