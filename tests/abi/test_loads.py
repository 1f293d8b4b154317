"""One library among others in a process: loaded beside C++ of another kind, twice, and again after dlclose."""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ANSWER = "17 plus 25 is 42."


@pytest.fixture(scope="module")
def loads(package: Path, demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., list[str]]:
    """loads(mode, *arguments, library=…): the lines that loads.c prints, which is not linked with the library."""
    program = tmp_path_factory.mktemp("loads") / "loads"
    flags = ["-std=gnu99", "-Wall", "-Wextra", "-Werror", f"-I{package}/include"]
    subprocess.run(["cc", *flags, HERE / "loads.c", "-pthread", "-ldl", "-o", program], check=True)

    def loads(mode: str, *arguments: str | Path, library: Path | None = None, preload: Path | None = None) -> list[str]:
        command = [program, mode, library or package / "lib" / "libqwen.so.0", demo_model, *arguments]
        environment = {**os.environ, "LD_PRELOAD": str(preload)} if preload else None
        run = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment)
        assert (run.returncode, run.stderr) == (0, "")
        return run.stdout.splitlines()

    return loads


@pytest.fixture(scope="module")
def neighbour(tmp_path_factory: pytest.TempPathFactory) -> Path:
    library = tmp_path_factory.mktemp("neighbour") / "libneighbour.so"
    flags = ["-std=c++17", "-O1", "-shared", "-fPIC", "-pthread", "-Wall", "-Wextra", "-Werror"]
    subprocess.run(["c++", *flags, HERE / "neighbour.cpp", "-o", library], check=True)
    return library


@pytest.mark.parametrize("order", ["first", "second", "preloaded"])
def test_it_runs_beside_cpp_of_another_kind(loads: Callable[..., list[str]], neighbour: Path, order: str) -> None:
    """It brings its C++ runtime along and keeps it: nothing of it goes through the other's operator new."""
    preload = neighbour if order == "preloaded" else None
    assert loads("beside", order, neighbour, preload=preload) == [ANSWER, "0"]


def test_two_copies_run_in_one_process(loads: Callable[..., list[str]]) -> None:
    assert loads("twice") == [ANSWER, ANSWER]


def test_it_stays_loaded_after_dlclose(loads: Callable[..., list[str]]) -> None:
    assert loads("again") == [ANSWER, "0"]


def test_it_could_be_unloaded_after_qwen_destroy(
    loads: Callable[..., list[str]], package: Path, tmp_path: Path
) -> None:
    """A copy without -z nodelete is unmapped by each dlclose, and nothing that is left behind runs into the gap."""
    library = tmp_path / "libqwen.so.0"
    library.write_bytes(without_nodelete((package / "lib" / "libqwen.so.0").read_bytes()))
    assert loads("again", library=library) == [ANSWER, "20"]


DT_FLAGS_1, DF_1_NODELETE, PT_DYNAMIC = 0x6FFFFFFB, 0x8, 2


def without_nodelete(elf: bytes) -> bytes:
    """The same library with that bit of its dynamic section taken out (ELF64, little-endian)."""
    header_offset, header_size, headers = *struct.unpack_from("<Q", elf, 32), *struct.unpack_from("<HH", elf, 54)
    for header in range(header_offset, header_offset + headers * header_size, header_size):
        kind, _, offset, _, _, size = struct.unpack_from("<IIQQQQ", elf, header)
        if kind != PT_DYNAMIC:
            continue
        for entry in range(offset, offset + size, 16):
            tag, value = struct.unpack_from("<QQ", elf, entry)
            if tag == DT_FLAGS_1 and value & DF_1_NODELETE:
                return elf[: entry + 8] + struct.pack("<Q", value & ~DF_1_NODELETE) + elf[entry + 16 :]
    raise AssertionError("the library does not have the flag")
