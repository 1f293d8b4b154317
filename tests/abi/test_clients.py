"""Programs of another day: compiled with an older header than the library's, and with a newer one."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from . import make_offsets as abi

HERE = Path(__file__).resolve().parent


def run(program: Path, *arguments: Path) -> None:
    done = subprocess.run([program, *arguments], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("header", ["qwen-first.h", "qwen-abi1.h"])
def test_a_client_of_an_older_header_runs(
    compile_c: Callable[..., Path], demo_model: Path, tmp_path: Path, header: str
) -> None:
    shutil.copy(HERE / header, tmp_path / "qwen.h")
    run(compile_c(HERE / "client.c", "-std=c99", f"-I{tmp_path}"), demo_model)


# A library older than the header that a program was compiled with: this library, and a header that has grown.


@pytest.fixture(scope="module")
def future(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with qwen.h of another day, where every struct has one more field and there is one more function."""
    folder = tmp_path_factory.mktemp("future")
    text = (root / "include" / "qwen.h").read_text(encoding="utf-8")
    text, structs = re.subn(r"\n\} (qwen_\w+);", r"\n  int64_t of_the_future;\n} \1;", text)
    assert structs == len(abi.structs())
    new = "QWEN_API int32_t qwen_of_the_future(void) __attribute__((weak));\n"
    (folder / "qwen.h").write_text(text.replace("/* qwen:end", new + "/* qwen:end"), encoding="utf-8")
    shutil.copy(root / "include" / "qwen.hpp", folder)
    return folder


def test_a_client_of_a_newer_header_runs(compile_c: Callable[..., Path], demo_model: Path, future: Path) -> None:
    run(compile_c(HERE / "client.c", "-std=c99", "-DGROWN", f"-I{future}"), demo_model)


def test_a_cpp_client_of_a_newer_header_runs(compile_c: Callable[..., Path], demo_model: Path, future: Path) -> None:
    run(compile_c(HERE / "client.cpp", "-std=c++17", "-pthread", f"-I{future}", compiler="c++"), demo_model)


def test_a_client_that_needs_a_newer_function_is_told_so(package: Path, future: Path, tmp_path: Path) -> None:
    """Linked with the library of another day, loaded with this one: the loader says what is missing."""
    header, source = tmp_path / "qwen.h", tmp_path / "client.c"
    header.write_text((future / "qwen.h").read_text(encoding="utf-8").replace("__attribute__((weak))", ""))
    abi.stub(header, tmp_path)
    source.write_text("#include <qwen.h>\nint main(void) { return qwen_of_the_future(); }\n")
    link = [f"-I{tmp_path}", f"-L{tmp_path}", "-lqwen", "-Wl,-z,now", f"-Wl,-rpath,{package}/lib"]
    subprocess.run(["cc", source, *link, "-o", tmp_path / "client"], check=True)
    done = subprocess.run([tmp_path / "client"], capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    assert "undefined symbol: qwen_of_the_future, version QWEN_0" in done.stderr
