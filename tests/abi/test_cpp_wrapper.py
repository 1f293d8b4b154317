"""qwen.hpp is nothing but qwen.h in the manner of C++, in every dialect from C++17 on and for every compiler at hand."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ..python.adapters import ATTENTION, MLP, make_adapter

HERE = Path(__file__).resolve().parent
DIALECTS = ["c++17", "c++20", "c++23"]
COMPILERS = {"g++": DIALECTS} if shutil.which("g++") else {}
if shutil.which("clang++"):
    version = subprocess.run(["clang++", "-dumpversion"], check=True, capture_output=True, text=True).stdout
    # Before 16 clang fails at the <ranges> of libstdc++, whatever the program.
    COMPILERS["clang++"] = DIALECTS if int(version.split(".")[0]) >= 16 else DIALECTS[:1]
WARNINGS = ["-Wpedantic", "-Wshadow", "-Wconversion", "-Wsign-conversion"]

# What qwen.hpp leaves to qwen.h: tables and switches of the process and of an engine, measuring the machine, weights that live in memory,
# and the code of an error, which a call returns as well.
LEFT_TO_C = {
    "qwen_measure_machine",
    "qwen_error_code",
    "qwen_build_info",
    "qwen_log_set",
    "qwen_option_info_get",
    "qwen_engine_counter_get",
    "qwen_engine_adapter_info_get",
    "qwen_weights_new",
    "qwen_weights_add",
    "qwen_weights_free",
    "qwen_model_from_weights",
}


@pytest.mark.parametrize(
    ("compiler", "dialect"), [(compiler, dialect) for compiler, known in COMPILERS.items() for dialect in known]
)
def test_a_host_in_cpp(
    compile_c: Callable[..., Path],
    demo_model: Path,
    endless_model: Path,
    compiler: str,
    dialect: str,
    tmp_path: Path,
) -> None:
    adapter = make_adapter(tmp_path / "adapter", demo_model, (*ATTENTION, *MLP), strength=0.1)
    program = compile_c(HERE / "cpp_wrapper.cpp", f"-std={dialect}", *WARNINGS, "-pthread", compiler=compiler)
    run = subprocess.run([program, demo_model, endless_model, adapter], capture_output=True, text=True, timeout=120)
    assert (run.returncode, run.stderr) == (0, "")


def wrapper(root: Path) -> str:
    return (root / "include" / "qwen.hpp").read_text(encoding="utf-8")


def test_it_includes_qwen_h_and_the_standard_library(root: Path) -> None:
    included = re.findall(r"^#\s*include\s+(\S+)", wrapper(root), flags=re.MULTILINE)
    assert [name for name in included if not re.fullmatch(r"<[a-z_]+>", name)] == ['"qwen.h"']


def test_it_defines_no_macro_but_its_guard(root: Path) -> None:
    assert re.findall(r"^#\s*define\s+(\S+)", wrapper(root), flags=re.MULTILINE) == ["QWEN_HPP"]


def test_every_function_of_qwen_h_has_a_twin_or_is_left_to_c(root: Path) -> None:
    text = re.sub(r"/\*.*?\*/", "", wrapper(root), flags=re.DOTALL)
    used = set(re.findall(r"\bqwen_\w+", text))
    declared = set((HERE / "symbols.txt").read_text(encoding="utf-8").split())
    assert declared - used == LEFT_TO_C
