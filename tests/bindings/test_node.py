"""The package in bindings/node: its own tests pass, its types name what there is, and the README's program runs."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from qwen_ffi import OptionScope, OptionType, options

from ..documents import blocks, broken_links, run_commands

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "bindings" / "node" / "README.md"
TYPES = (ROOT / "bindings" / "node" / "index.d.ts").read_text(encoding="utf-8")


def members(interface: str) -> list[str]:
    body = re.search(rf"^export interface {interface} {{\n(.*?)^}}", TYPES, flags=re.DOTALL | re.MULTILINE)
    assert body is not None
    return re.findall(r"^  (\w+)\?:", body[1], flags=re.MULTILINE)


def test_the_types_name_every_option() -> None:
    rows = [row for row in options() if row.type != OptionType.CALLBACK]
    assert sorted(members("SamplingOptions")) == sorted(row.key for row in rows if row.scope == OptionScope.REQUEST)
    assert sorted(members("EngineOptions")) == sorted(row.key for row in rows if row.scope == OptionScope.ENGINE)


def test_the_types_name_every_export_and_every_method() -> None:
    source = (ROOT / "bindings" / "node" / "index.js").read_text(encoding="utf-8")
    exports = re.findall(r"^export (?:class|const) (\w+)", source, flags=re.MULTILINE)
    assert re.findall(r"^export (?:class|const) (\w+)", TYPES, flags=re.MULTILINE) == exports
    methods = re.findall(r"^  (?:static |async |get |\*|async \*)*(\w+|\[Symbol\.\w+\])\(.*{$", source, flags=re.MULTILINE)
    assert len(methods) > 10
    assert [name for name in methods if name != "constructor" and not re.search(rf"^  .*{re.escape(name)}[(:]", TYPES, re.M)] == []


def test_the_readme_has_no_broken_link() -> None:
    assert broken_links(README) == []


def test_the_package_is_built_and_passes_its_tests_as_its_readme_says(node_package: Path) -> None:
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    said = run_commands(README, node_package)
    assert int(re.findall(r"pass (\d+)$", said, flags=re.MULTILINE)[0]) >= 15


def test_an_addon_that_has_not_been_built_is_an_error_that_says_so(node_package: Path, tmp_path: Path) -> None:
    for name in ("index.js", "package.json"):
        shutil.copy(node_package / name, tmp_path)
    run = subprocess.run(["node", tmp_path / "index.js"], capture_output=True, text=True, timeout=60)
    assert run.returncode != 0
    assert f"Error: {tmp_path}/build/qwen.node has not been built: run `npm run build` there" in run.stderr


def test_the_readmes_program_runs(node_package: Path, root: Path, demo_model: Path, tmp_path: Path) -> None:
    """As somebody writes it who has the package in node_modules."""
    modules = tmp_path / "node_modules"
    modules.mkdir()
    shutil.copytree(node_package, modules / "libqwen", symlinks=True)
    for number, block in enumerate(blocks(root / "README.md", "js")):
        program = tmp_path / f"program{number}.mjs"
        program.write_text(block.text.replace("path/to/Qwen3-0.6B", str(demo_model)))
        run = subprocess.run(["node", program], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert (run.returncode, run.stderr) == (0, "")
        assert run.stdout.strip()
