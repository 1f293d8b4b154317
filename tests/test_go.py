"""The Go module: vet, gofmt, its own tests and examples under the race detector, and what the READMEs show of it."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from .documents import CHECKPOINT, blocks, broken_links

Go = Callable[..., str]


@pytest.fixture(scope="session")
def module(root: Path) -> Path:
    return root / "bindings" / "go"


@pytest.fixture(scope="session")
def host(root: Path) -> Path:
    return root / "tests" / "hosts" / "go"


def test_gofmt_has_nothing_to_say(go: Go, module: Path, host: Path) -> None:
    assert go("-l", module, host, program="gofmt") == ""


def test_vet_has_nothing_to_say(go: Go, host: Path) -> None:
    assert go("vet", "./...") == ""
    assert go("vet", "./...", cwd=host) == ""


def test_the_modules_own_tests_and_examples(go: Go) -> None:
    """One of them writes the options from the library's table again, and compares."""
    printed = go("test", "-v", "./...")
    ended = [line.split() for line in printed.splitlines() if line.startswith("--- ")]
    assert {verdict for _, verdict, *_ in ended} == {"PASS:"}
    names = [name for _, _, name, *_ in ended]
    assert "TestTheGeneratedOptionsAreTheLibrarys" in names
    assert sum(name.startswith("Example") for name in names) >= 5


def test_an_older_header_is_refused_by_the_compiler(go: Go, package: Path, tmp_path: Path) -> None:
    header = (package / "include" / "qwen.h").read_text(encoding="utf-8")
    (tmp_path / "qwen.h").write_text(re.sub(r"(QWEN_ABI_VERSION =) \d+", r"\1 0", header), encoding="utf-8")
    printed = go("-c", f"CGO_CPPFLAGS=-I{tmp_path} go build . 2>&1 && exit 1 || exit 0", program="bash")
    assert "this Go package needs a qwen.h of ABI 1 or later" in printed


def test_a_program_with_the_library_inside(go: Go, demo_model: Path, tmp_path: Path) -> None:
    program = tmp_path / "qwen-chat"
    go("build", "-tags", "qwen_static", "-o", program, "./cmd/qwen-chat")
    dynamic = subprocess.run(["readelf", "-d", program], check=True, capture_output=True, text=True).stdout
    assert "libc.so.6" in dynamic
    assert "libqwen" not in dynamic
    command = [program, "-temperature", "0", "-reasoning_mode=false", demo_model]
    run = subprocess.run(command, input="What is 17 + 25?\n", capture_output=True, text=True, timeout=60, env={})
    assert (run.returncode, run.stderr, run.stdout) == (0, "", "> 17 plus 25 is 42.\n> \n")


@pytest.mark.parametrize("name", ["README.md", "bindings/go/README.md"])
def test_the_program_that_is_shown_runs(go: Go, root: Path, demo_model: Path, tmp_path: Path, name: str) -> None:
    """With the commands beside it, in a clone."""
    for folder in ("bindings", "qwen_ffi"):
        (tmp_path / folder).symlink_to(root / folder)
    (source,) = [block.text for block in blocks(root / name, "go") if "package main" in block.text]
    (commands,) = [block.text for block in blocks(root / name, "sh") if "go mod init" in block.text]
    (tmp_path / "hello").mkdir()
    (tmp_path / "hello" / "main.go").write_text(source.replace(CHECKPOINT, str(demo_model)), encoding="utf-8")
    printed = go("-euc", commands, cwd=tmp_path, program="bash")
    assert "17 plus 25 is 42." in printed


def test_links_lead_somewhere(module: Path) -> None:
    assert broken_links(module / "README.md") == []
