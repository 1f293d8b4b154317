"""The committed description of the ABI (libqwen.abi) is today's, and abidiff sees what would break programs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from . import make_offsets as abi

HERE = Path(__file__).resolve().parent
COMPILERS = [compiler for compiler in ("gcc", "clang") if shutil.which(compiler)]

if not shutil.which("abidiff"):
    COMPILERS = []  # what a machine lacks makes no test; .ci/run sees to it that continuous integration lacks nothing


def abidiff(library: Path, *options: str) -> subprocess.CompletedProcess[str]:
    """Compared with libqwen.abi; 0: the same, renamed fields and a const more or less included."""
    command = ["abidiff", "--no-architecture", "--harmless", *options, HERE / "libqwen.abi", library]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.mark.parametrize("flags", ["-O0 -gdwarf-4", "-O2 -gdwarf-5"])
@pytest.mark.parametrize("compiler", COMPILERS)
def test_the_header_has_the_committed_abi(tmp_path: Path, compiler: str, flags: str) -> None:
    found = abidiff(abi.stub(abi.HEADER, tmp_path, *flags.split(), compiler=compiler))
    assert found.returncode == 0, f"{found.stdout}{found.stderr}\nrun tests/abi/make_offsets.py, and read the diff it makes"


@pytest.mark.parametrize("compiler", COMPILERS[:1])
def test_the_library_has_the_committed_symbols(package: Path, compiler: str) -> None:
    """It comes without debug information: names, versions and the soname are compared."""
    found = abidiff(package / "lib" / "libqwen.so.0")
    assert found.returncode == 0, found.stdout + found.stderr


BREAKS = {
    "a parameter changes its type": ("int32_t qwen_tokenizer_size(const", "int32_t qwen_tokenizer_size(int32_t more, const"),
    "a result changes its type": ("const char *qwen_version(void)", "int32_t qwen_version(void)"),
    "a const is lost": ("qwen_model_retain(const qwen_model *model)", "qwen_model_retain(qwen_model *model)"),
    "a function is removed": ("QWEN_API const char *qwen_version(void);", ""),
    "a callback changes its type": ("(const qwen_event *event, void *user);", "(const qwen_event *event);"),
    "a field is inserted": ("double queued_seconds;", "double later;\n  double queued_seconds;"),
    "a field is removed": ("double queued_seconds;", ""),
    "a field changes its type": ("uint64_t seed;", "double seed;"),
    "a field is renamed": ("uint64_t seed;", "uint64_t start;"),
    "a field is appended and not written down": ("} qwen_stats;", "  int64_t later;\n} qwen_stats;"),
    "a function is added and not written down": ("/* qwen:end", "QWEN_API void qwen_later(void);\n/* qwen:end"),
}


@pytest.mark.parametrize("name", BREAKS if COMPILERS else [])
def test_a_break_is_seen(tmp_path: Path, name: str) -> None:
    was, becomes = BREAKS[name]
    text = abi.HEADER.read_text(encoding="utf-8")
    assert text.count(was) == 1
    header = tmp_path / "qwen.h"
    header.write_text(text.replace(was, becomes), encoding="utf-8")
    found = abidiff(abi.stub(header, tmp_path))
    assert found.returncode & 4, f"abidiff does not see that {name}: {found.stdout}"
