"""What pip installed: every file a host needs, under a tag that fits every Python 3."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest


def is_editable() -> bool:
    return not isinstance(importlib.resources.files("qwen_ffi"), Path)


from_wheel = pytest.mark.skipif(is_editable(), reason="an editable install: not a wheel")


@from_wheel
def test_the_wheel_is_for_every_python_3_of_this_platform(package: Path) -> None:
    wheel = importlib.metadata.distribution("qwen-ffi").read_text("WHEEL")
    assert wheel is not None
    assert re.findall(r"^Tag: (.*)$", wheel, flags=re.MULTILINE)[0].startswith("py3-none-linux_")
    assert "Root-Is-Purelib: false" in wheel


@from_wheel
def test_every_python_module_of_the_tree_is_installed(root: Path, package: Path) -> None:
    source = root / "qwen_ffi"
    wanted = {path.relative_to(source) for path in source.rglob("*") if path.name.endswith((".py", "py.typed"))}
    found = {path.relative_to(package) for path in package.rglob("*") if path.name.endswith((".py", "py.typed"))}
    assert found == wanted, "qwen_ffi/meson.build lists other files than the tree has, or `pip install .` is due again"


def test_headers_library_and_pkg_config_file_lie_together(root: Path, package: Path) -> None:
    for header in ("qwen.h", "qwen.hpp"):
        assert (package / "include" / header).read_bytes() == (root / "include" / header).read_bytes()
    for name in ("libqwen.a", "pkgconfig/qwen.pc", "pkgconfig/qwen-static.pc"):
        assert (package / "lib" / name).is_file()
    copies = {(package / "lib" / name).read_bytes() for name in ("libqwen.so", "libqwen.so.0")}
    assert len(copies) == 1


def test_the_library_needs_nothing_but_libc(package: Path) -> None:
    dynamic = subprocess.run(
        ["readelf", "-d", package / "lib" / "libqwen.so.0"], check=True, capture_output=True, text=True
    ).stdout
    assert re.findall(r"\(SONAME\).*\[(.*)\]", dynamic) == ["libqwen.so.0"]
    needed = set(re.findall(r"\(NEEDED\).*\[(.*)\]", dynamic))
    assert needed <= {"libc.so.6", "libm.so.6", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"}


def test_the_archive_defines_names_of_its_own_only(package: Path) -> None:
    """So that it can be taken in whole, beside anything: libc.a, say."""
    listing = subprocess.run(
        ["nm", "-g", "--defined-only", package / "lib" / "libqwen.a"], check=True, capture_output=True, text=True
    ).stdout
    rows = [line.split() for line in listing.splitlines()]
    strong = {row[2] for row in rows if len(row) == 3 and row[1] not in "uVW"}  # of the others, templates, one is taken
    assert "qwen_create" in strong
    assert {name for name in strong if not re.match("qwen_|_Z[A-Z]+4qwen", name)} == set()


def test_a_program_linked_through_pkg_config_finds_the_library_without_help(
    compile_c: Callable[..., Path], tmp_path: Path
) -> None:
    source = tmp_path / "version.c"
    source.write_text(
        "#include <qwen.h>\n#include <stdio.h>\n"
        'int main(void) { printf("%s %d\\n", qwen_version(), qwen_abi_version() >= QWEN_ABI_VERSION); return 0; }\n'
    )
    run = subprocess.run([compile_c(source)], check=True, capture_output=True, text=True, env={})
    assert run.stdout == f"{importlib.metadata.version('qwen-ffi')} 1\n"
