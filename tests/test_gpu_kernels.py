"""What nvcc made of the kernels, by tests/gpu/kernel_report.py: each waits for what came before, and none keeps registers in memory."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from qwen_ffi import build_info

GPU = Path(__file__).resolve().parent / "gpu"

pytestmark = pytest.mark.skipif("cuda" not in build_info()["backends"], reason="this build of libqwen has no CUDA")

# Kernels that may use a thread's own memory, and why that is no loss.
MAY_SPILL = {"rope_angles_kernel": "sine and cosine in float64 reduce large angles with a table that they index at run time"}
# A product's first weights: read before what computes the activations is complete, as no launch writes them.
READS_AHEAD = r"few_rows<\d, \d, (true|false), false>"

BAD = """
__global__ void __launch_bounds__(64) waits(float* x) {
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
  asm volatile("griddepcontrol.wait;" ::: "memory");
  x[threadIdx.x] += 1;
}
__global__ void __launch_bounds__(64) never_waits(float* x) { x[threadIdx.x] += 1; }
__global__ void __launch_bounds__(64) waits_late(float* x) {
  const float before = x[threadIdx.x];
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
  asm volatile("griddepcontrol.wait;" ::: "memory");
  x[threadIdx.x] = before + 1;
}
__global__ void __launch_bounds__(1024, 2) spills(float* x) {
  float own[64];
  for (int i = 0; i < 64; ++i) own[i] = x[i * 1024 + threadIdx.x];
  for (int n = 0; n < 9; ++n)
    for (int i = 0; i < 64; ++i) own[i] = own[i] * own[(i + 7) % 64] + own[(i * 5 + n) % 64];
  for (int i = 0; i < 64; ++i) x[i * 1024 + threadIdx.x] = own[i];
}
"""


@pytest.fixture(scope="module")
def report() -> Iterator[ModuleType]:
    sys.path.insert(0, str(GPU))
    import kernel_report

    yield kernel_report
    sys.path.remove(str(GPU))
    del sys.modules["kernel_report"]


@pytest.fixture(scope="module")
def kernels(report: ModuleType, package: Path) -> list[Any]:
    library = package / "lib" / "libqwen.so.0"
    found = [kernel for number in report.architectures(library) for kernel in report.kernels(library, number)]
    assert len(found) > 60
    return found


def test_no_kernel_spills_registers(kernels: list[Any]) -> None:
    """On the architecture that they are written for; others have as many registers and a compiler of their own, and may miss a few."""
    for kernel in kernels:
        spills = kernel.spills or kernel.stack or kernel.local
        few = kernel.architecture != 90 and kernel.spills <= 4
        assert (kernel.name in MAY_SPILL) == bool(spills) or few, kernel.name


def test_every_kernel_waits_before_it_touches_memory(kernels: list[Any]) -> None:
    """From compute capability 9.0 on, where it may begin while the one before it still runs."""
    can_wait = [kernel for kernel in kernels if kernel.architecture >= 90]
    assert can_wait or max(kernel.architecture for kernel in kernels) < 90
    for kernel in can_wait:
        waits, ahead = kernel.before_waiting()
        assert waits, f"{kernel.name} does not begin with begin_kernel()"
        if re.fullmatch(READS_AHEAD, kernel.name):
            aligned = ", true, false>" in kernel.name
            assert ahead and all(read.startswith("LDG." + ("E.NA." if aligned else "E.U16")) for read in ahead)
        else:
            assert ahead == [], kernel.name


def test_only_weights_are_read_as_what_never_changes(kernels: list[Any]) -> None:
    """The compiler may do so by itself where it believes that a kernel does not write, and move such loads ahead of the wait."""
    reading = {kernel.name.partition("<")[0] for kernel in kernels if any(".CONSTANT" in text for _, text in kernel.code)}
    assert reading == {"few_rows", "rope_angles_kernel"}  # the latter of sine's and cosine's own tables


def test_blocks_of_a_multiprocessor(kernels: list[Any]) -> None:
    """What the kernels that matter were written for."""
    blocks = {kernel.name: kernel.blocks for kernel in kernels}
    for name, least in {
        "few_rows<0, 1, true, false>": 2,
        "few_rows<2, 1, true, false>": 2,
        "few_rows<0, 4, true, false>": 2,
        "many_rows<false, 4, 4, false>": 1,
        "many_rows<false, 2, 2, false>": 2,
        "attend_tiles<4, 16, true>": 2,
        "attend_tiles<4, 16, false>": 2,
    }.items():
        assert blocks[name] >= least, name


def test_what_it_finds_of_kernels_that_are_bad(report: ModuleType, tmp_path: Path) -> None:
    nvcc = shutil.which("nvcc")
    assert nvcc is not None, "a build with CUDA has nvcc on its path"
    (tmp_path / "bad.cu").write_text(BAD)
    command = [nvcc, "-gencode=arch=compute_90,code=sm_90", "-c", tmp_path / "bad.cu", "-o", tmp_path / "bad.o"]
    subprocess.run(command, check=True)
    assert report.architectures(tmp_path / "bad.o") == [90]
    bad = {kernel.name: kernel for kernel in report.kernels(tmp_path / "bad.o", 90)}
    assert bad["waits"].before_waiting() == (True, [])
    assert (bad["waits"].spills, bad["waits"].threads, bad["waits"].blocks) == (0, 64, 32)
    assert bad["never_waits"].before_waiting() == (False, [])
    waits, ahead = bad["waits_late"].before_waiting()
    assert waits
    assert [text.split(".")[0] for text in ahead] == ["LDG"]
    assert bad["spills"].spills > 0
    assert bad["spills"].registers == 32
    assert bad["spills"].blocks == 2
    assert re.search(r"^spills \| 32 \| [1-9]\d* \| ", report.table(list(bad.values())), flags=re.MULTILINE)
