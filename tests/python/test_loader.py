"""The package is cheap to import, finds its library, and says clearly when the two do not fit."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Protocol

import pytest

import qwen_ffi
from qwen_ffi._loader import declarations

COMPILER = shutil.which("cc") or shutil.which("gcc")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler here")


class Interpreter(Protocol):
    def __call__(self, code: str, **environment: str) -> subprocess.CompletedProcess[str]: ...


@pytest.fixture
def python(child: dict[str, Any]) -> Interpreter:
    """Runs code in a fresh interpreter."""

    def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
        arguments = {**child, "env": {**child["env"], **environment}}
        return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, **arguments)

    return python


def compiled(folder: Path, source: str) -> str:
    (folder / "fake.c").write_text(source)
    library = folder / "libqwen.so.0"
    subprocess.run([str(COMPILER), "-shared", "-fPIC", str(folder / "fake.c"), "-o", str(library)], check=True)
    return str(library)


def test_importing_loads_neither_numpy_nor_cffi_nor_the_library(python: Interpreter) -> None:
    code = "import sys, qwen_ffi; print(sorted({'numpy', 'cffi', '_cffi_backend', 'ctypes'} & set(sys.modules)))"
    assert python(code).stdout == "[]\n"


def test_importing_takes_less_than_100_milliseconds(python: Interpreter) -> None:
    # The processor's time: what else the machine is doing is not the package's fault.
    code = "import time; t = time.process_time(); import qwen_ffi; print(time.process_time() - t)"
    python(code)  # compiles the byte code
    assert min(float(python(code).stdout) for _ in range(5)) < 0.1


@needs_compiler
def test_an_older_library_is_refused_with_both_versions_and_its_path(python: Interpreter, tmp_path: Path) -> None:
    library = compiled(tmp_path, "unsigned qwen_abi_version(void) { return 0; }")
    result = python("import qwen_ffi; qwen_ffi.version()", QWEN_LIBRARY=library)
    last = result.stderr.strip().splitlines()[-1]
    assert last.startswith("qwen_ffi.errors.QwenLibraryError: ")
    assert library in last
    assert "ABI version 0" in last
    assert "needs ABI version 1" in last


@needs_compiler
def test_another_library_under_our_name_is_refused(python: Interpreter, tmp_path: Path) -> None:
    library = compiled(tmp_path, "int something_else(void) { return 0; }")
    result = python("import qwen_ffi; qwen_ffi.version()", QWEN_LIBRARY=library)
    assert f"{library} is not libqwen" in result.stderr


def test_a_missing_library_names_the_path_and_the_variable(python: Interpreter, tmp_path: Path) -> None:
    missing = str(tmp_path / "libqwen.so")
    result = python("import qwen_ffi; qwen_ffi.version()", QWEN_LIBRARY=missing)
    assert f"QWEN_LIBRARY names {missing}" in result.stderr


def test_a_file_that_is_no_library_is_a_library_error(python: Interpreter, tmp_path: Path) -> None:
    (tmp_path / "libqwen.so").write_text("no ELF")
    result = python("import qwen_ffi; qwen_ffi.version()", QWEN_LIBRARY=str(tmp_path / "libqwen.so"))
    assert "QwenLibraryError" in result.stderr


def test_a_header_without_markers_is_refused() -> None:
    with pytest.raises(qwen_ffi.QwenLibraryError, match="qwen:begin"):
        declarations("int qwen_abi_version(void);")


def test_what_was_loaded_is_told() -> None:
    info = qwen_ffi.build_info()
    assert info["version"] == qwen_ffi.version()
    assert Path(info["library"]).name.startswith("libqwen.so")
    assert qwen_ffi.abi_version() >= 1


def test_the_source_folder_says_that_it_hides_the_package(root: Path) -> None:
    if (root / "qwen_ffi" / "lib").exists():
        return  # an editable installation: the source folder is the package
    code = "import qwen_ffi; qwen_ffi.version()"
    run = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60)
    assert "which has no library and hides the installed package: start Python in another folder" in run.stderr
