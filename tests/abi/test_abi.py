"""The ABI's promises: the library exports the header and nothing else, layouts stand still, old programs keep running."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cffi
import pytest

from . import make_offsets as abi

HERE = Path(__file__).resolve().parent
FIRST = HERE / "qwen-first.h"  # the first of all: replaced by nobody
BASELINE = HERE / "qwen-abi1.h"  # the header of today, until QWEN_ABI_VERSION 1 is released: from then on replaced by nobody


@pytest.fixture(scope="session")
def library(package: Path) -> Path:
    return package / "lib" / "libqwen.so.0"


# ---------------------------------------------------------------------------------------------------- exported symbols


def test_exported_symbols_are_the_headers_functions(library: Path) -> None:
    listing = subprocess.run(
        ["nm", "-D", "--defined-only", "--with-symbol-versions", library], check=True, capture_output=True, text=True
    ).stdout
    exported = sorted(line.split(maxsplit=2)[1:] for line in listing.splitlines())
    exported = [row for row in exported if row != ["A", "QWEN_0"]]  # the version node itself
    assert exported == [["T", f"{name}@@QWEN_0"] for name in (HERE / "symbols.txt").read_text().split()]


@pytest.mark.parametrize("path", list(abi.GENERATED))
def test_what_was_written_down_is_the_header(root: Path, path: str) -> None:
    assert (root / path).read_text(encoding="utf-8") == abi.GENERATED[path](), "run tests/abi/make_offsets.py"


# ---------------------------------------------------------------------------------------------------- dialects, parsers


COMPILERS = {"gcc": "g++"} | ({"clang": "clang++"} if shutil.which("clang") and shutil.which("clang++") else {})


@pytest.mark.parametrize("dialect", ["c99", "c11", "c17", "c++17", "c++20"])
@pytest.mark.parametrize("suite", COMPILERS)
def test_the_header_compiles(root: Path, tmp_path: Path, suite: str, dialect: str) -> None:
    compiler = COMPILERS[suite] if dialect.startswith("c++") else suite
    source = tmp_path / ("use.c" if compiler == suite else "use.cpp")
    source.write_text('#include "qwen.h"\n#include "qwen.h"\nint main(void) { return QWEN_OK; }\n')
    warnings = ["-Wall", "-Wextra", "-pedantic", "-Werror"]
    subprocess.run(
        [compiler, f"-std={dialect}", *warnings, "-fsyntax-only", f"-I{root}/include", source], check=True
    )


def test_the_header_includes_only_two_standard_headers(root: Path) -> None:
    text = (root / "include" / "qwen.h").read_text(encoding="utf-8")
    assert re.findall(r"#\s*include\s+(\S+)", text) == ["<stddef.h>", "<stdint.h>"]


def test_cffi_sees_every_function_of_the_marked_block(library: Path) -> None:
    ffi = cffi.FFI()
    ffi.cdef(abi.declarations())
    loaded = ffi.dlopen(str(library))
    for name in abi.functions():
        assert getattr(loaded, name) != ffi.NULL
    assert loaded.qwen_abi_version() == loaded.QWEN_ABI_VERSION


# ---------------------------------------------------------------------------------------------------- nothing moves


def constants(header: Path) -> dict[str, int]:
    ffi = cffi.FFI()
    ffi.cdef(abi.declarations(header))
    loaded = ffi.dlopen(None)
    names = re.findall(r"\b(QWEN_[A-Z0-9_]+) = ", abi.declarations(header))
    return {name: getattr(loaded, name) for name in names}


def signatures(header: Path) -> dict[str, str]:
    block = re.sub(r"/\*.*?\*/", "", abi.declarations(header), flags=re.DOTALL)
    flat = " ".join(block.split())
    names = abi.functions(header)
    found = {name: re.search(rf"[^;{{}}]*\b{name}\([^;]*;", flat) for name in names}
    callbacks = {text: text for text in re.findall(r"typedef [^;{}]*\(\*qwen_\w+\)[^;]*;", flat)}
    return {name: match.group().strip() for name, match in found.items() if match} | callbacks


@pytest.mark.parametrize("header", [FIRST, BASELINE], ids=lambda path: path.stem)
def test_fields_are_only_appended(header: Path) -> None:
    now = abi.structs()
    for struct, rows in abi.structs(header).items():
        fields = rows[:-1]
        assert now[struct][: len(fields)] == fields, f"{struct}: a field moved"
        assert now[struct][-1][1] >= rows[-1][1]


def test_every_struct_begins_with_its_size() -> None:
    for struct, rows in abi.structs().items():
        assert rows[0] == ("struct_size", 0, 4), struct


@pytest.mark.parametrize("header", [FIRST, BASELINE], ids=lambda path: path.stem)
def test_functions_and_constants_keep_their_meaning(header: Path) -> None:
    was, now = signatures(header), signatures(abi.HEADER)
    assert len(was) > len(abi.functions(header)), "the callback types are compared as well"
    assert {name: now.get(name) for name in was} == was
    was_constants, now_constants = constants(header), constants(abi.HEADER)
    grown = {"QWEN_ABI_VERSION"}
    assert {name: now_constants.get(name) for name in was_constants if name not in grown} == {
        name: value for name, value in was_constants.items() if name not in grown
    }
    assert now_constants["QWEN_ABI_VERSION"] >= was_constants["QWEN_ABI_VERSION"]


# ---------------------------------------------------------------------------------------------------- a quiet guest


def test_loading_is_silent_and_starts_no_thread(library: Path) -> None:
    host = (
        "import os, sys\n"
        "threads = lambda: len(os.listdir('/proc/self/task'))\n"
        "import ctypes\n"
        "before = threads()\n"
        "ctypes.CDLL(sys.argv[1], mode=os.RTLD_NOW | os.RTLD_LOCAL)\n"
        "sys.exit(0 if threads() == before else 1)\n"
    )
    run = subprocess.run([sys.executable, "-c", host, library], capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")


def test_null_and_nonsense_are_errors_and_nothing_else(compile_c: Callable[..., Path], demo_model: Path) -> None:
    program = compile_c(HERE / "null_calls.c", "-std=c99", "-g")
    run = subprocess.run([program, demo_model], capture_output=True, text=True, timeout=120)
    assert (run.returncode, run.stderr) == (0, ""), run.stdout
    assert re.fullmatch(r"\d+ calls\n", run.stdout)


def test_every_function_gets_null_and_nonsense() -> None:
    called = set(re.findall(r"\bqwen_\w+(?=\()", (HERE / "null_calls.c").read_text(encoding="utf-8")))
    assert set(abi.functions()) <= called
