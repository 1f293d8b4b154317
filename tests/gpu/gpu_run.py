"""All that can be checked and timed on a machine with an NVIDIA GPU, in one command:

    tests/gpu/run [--json FILE] [--only PART …] [--limit-seconds 3000] [--gpu-tests FILE --library FILE | --build FOLDER]
        [--reference DIR] [--python PYTHON] [--large] [--rows …] [--rounds 5] [--cache FOLDER] [--allow-incomplete]

Parts, in this order; one that fails does not stop the others:

    correctness   the cases of tests/cuda on the GPU, each a process of its own, those about bits first: they rest on an assumption
                  that only hardware can show (a tile's result does not depend on the row or column an element sits in)
    references    `qwen-ffi validate --device cuda` of every reference checkpoint, float32 and bfloat16
    sanitizers    compute-sanitizer memcheck and racecheck over a case of each kernel
    benchmarks    libqwen in the rows of bench_peers.py, and from opening to the first token, on random weights of exact shapes
                  (Qwen3-0.6B; with --large Qwen3-8B too), beside itself with other options: dependent launches where the GPU has them,
                  no step given ahead, and strict = 0, which shows what being strict costs where the loader finds a cuBLASLt; and beside
                  transformers with a static cache and CUDA graphs where torch has CUDA

A library and gpu-tests that were built elsewhere are given with --library and --gpu-tests; without them both are built in --build
(meson, ninja, nvcc). This program needs the standard library only; references and libqwen's benchmarks need a Python (--python)
with cffi and numpy, transformers' one with torch. Where something is missing, its part says what, and is not complete.

Ends with 0: all parts passed; 1: one failed; 3: none failed, but one is not complete; 77: no GPU. --allow-incomplete: 0 for 3 and 77.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PASSED, FAILED, INCOMPLETE = "passed", "failed", "not complete"
NO_GPU = "no GPU"
EXIT_FAILED, EXIT_INCOMPLETE, EXIT_NO_GPU = 1, 3, 77
TOO_LONG = 124  # exit status of a program that was ended, as timeout(1) says it
DIGEST = 1500  # characters of what a program said that are kept


class IncompleteError(Exception):
    """A part cannot go on; the message says why."""


@dataclass
class Part:
    status: str = PASSED
    why: str = ""  # it did not pass
    seconds: float = 0.0
    details: dict[str, Any] = field(default_factory=dict)

    def miss(self, status: str, why: str) -> None:
        """The worst that happened decides; what came first of it is said."""
        if self.status == PASSED or (status == FAILED and self.status == INCOMPLETE):
            self.status, self.why = status, why


@dataclass
class Done:
    code: int
    out: str  # and what it said of errors

    @property
    def last_words(self) -> str:
        return self.out.strip()[-DIGEST:]


class Clock:
    """What is left of the time for everything, and programs that are ended with it."""

    def __init__(self, seconds: float) -> None:
        self.end = time.monotonic() + seconds

    def left(self) -> float:
        return self.end - time.monotonic()

    def check(self, done: str) -> None:
        if self.left() <= 0:
            raise IncompleteError(f"the time was up; {done}")

    def run(self, command: list[str], most: float = 600, **options: Any) -> Done:
        """Raises IncompleteError when there is no such program, or the whole time is up; one that takes longer than its own
        `most` seconds has failed: code TOO_LONG. Its children are ended with it."""
        self.check(f"{Path(command[0]).name} was not started")
        limit = min(most, self.left())
        try:
            child = subprocess.Popen(
                command,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                start_new_session=True,
                cwd=ROOT,
                **options,
            )
        except OSError as error:
            raise IncompleteError(f"cannot run {command[0]}: {error.strerror}") from None
        with child:
            try:
                out, _ = child.communicate(timeout=limit)
            except subprocess.TimeoutExpired:
                os.killpg(child.pid, signal.SIGKILL)
                out, _ = child.communicate()
                if limit < most:
                    raise IncompleteError(f"the time was up within {' '.join(command)}") from None
                return Done(TOO_LONG, f"{out}\nended after {most:.0f} s")
        return Done(child.returncode, out)


# ------------------------------------------------------------------------------------------------- the machine


def find_gpu(library: str = "libcuda.so.1") -> dict[str, Any]:
    """The first GPU, as the driver has it. Raises IncompleteError that says why there is none."""
    try:
        driver = ctypes.CDLL(library)
    except OSError:
        raise IncompleteError(f"{NO_GPU}: there is no NVIDIA driver ({library})") from None
    if error := driver.cuInit(0):
        raise IncompleteError(f"{NO_GPU}: the NVIDIA driver does not begin (error {error} of cuInit)")
    number = ctypes.c_int()

    def ask(function: Any, *arguments: Any) -> int:
        if error := function(ctypes.byref(number), *arguments):
            raise IncompleteError(f"{NO_GPU}: the NVIDIA driver reports error {error}")
        return number.value

    if ask(driver.cuDeviceGetCount) == 0:
        raise IncompleteError(f"{NO_GPU}: the NVIDIA driver reports none")
    name = ctypes.create_string_buffer(100)
    device = ask(driver.cuDeviceGet, 0)
    driver.cuDeviceGetName(name, 100, device)
    major, minor = (ask(driver.cuDeviceGetAttribute, attribute, device) for attribute in (75, 76))
    version = ask(driver.cuDriverGetVersion)
    return {
        "name": name.value.decode(),
        "compute_capability": f"{major}.{minor}",
        "driver_cuda": f"{version // 1000}.{version % 1000 // 10}",
    }


def commit() -> str:
    """Of the checkout; '' outside of one."""
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    return ""


@dataclass
class Setup:
    """What the parts work with."""

    arguments: argparse.Namespace
    clock: Clock
    gpu: dict[str, Any]
    scratch: Path
    built: dict[str, Path] | None = None

    def _build(self) -> dict[str, Path]:
        """libqwen.so.0 and gpu-tests, compiled for this GPU."""
        if self.built is None:
            folder: Path = self.arguments.build
            version = self.gpu["compute_capability"].replace(".", "")
            options = ["-Dnative_tests=true", "-Dcuda=enabled", f"-Dgpu_architectures={version}"]
            setup = ["meson", "setup", str(folder), str(ROOT), *options]
            made = {"library": folder / "libqwen" / "libqwen.so.0", "gpu_tests": folder / "tests" / "gpu" / "gpu-tests"}
            ninja = ["ninja", "-C", str(folder), *(str(file.relative_to(folder)) for file in made.values())]
            for command in ([] if (folder / "build.ninja").is_file() else [setup], [ninja]):
                for each in command:
                    done = self.clock.run(each, most=3600)
                    if done.code != 0:
                        raise IncompleteError(f"{' '.join(each[:2])} ended with {done.code}: {done.last_words}")
            self.built = made
        return self.built

    def _file(self, name: str) -> Path:
        given: Path | None = getattr(self.arguments, name)
        return given or self._build()[name]

    def gpu_tests(self) -> str:
        return str(self._file("gpu_tests"))

    def library(self) -> Path:
        return self._file("library")

    def environment(self) -> dict[str, str]:
        """In which a Python finds qwen_ffi in this checkout, and it the library."""
        path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
        return {**os.environ, "PYTHONPATH": path, "QWEN_LIBRARY": str(self.library()), "HF_HUB_OFFLINE": "1"}

    def python(self) -> str:
        """One that can use qwen_ffi."""
        python: str = self.arguments.python
        done = self.clock.run([python, "-c", "import numpy, qwen_ffi; qwen_ffi.build_info()"], env=self.environment())
        if done.code != 0:
            raise IncompleteError(f"{python} cannot use qwen_ffi (it needs cffi and numpy): {done.last_words}")
        return python


# ------------------------------------------------------------------------------------------------- running, and saying it

PARTS = ("correctness", "references", "sanitizers", "benchmarks")


def run_part(part: Part, make: Callable[[Setup, Part], None], setup: Setup) -> None:
    begin = time.monotonic()
    try:
        make(setup, part)
    except IncompleteError as error:
        part.miss(INCOMPLETE, str(error))
    except Exception as error:  # a defect of this program is no reason to leave the others out
        part.miss(FAILED, f"{type(error).__name__}: {error}")
    part.seconds = time.monotonic() - begin


def exit_status(parts: dict[str, Part], no_gpu: bool, allow_incomplete: bool) -> int:
    if any(part.status == FAILED for part in parts.values()):
        return EXIT_FAILED
    if all(part.status == PASSED for part in parts.values()) or allow_incomplete:
        return 0
    return EXIT_NO_GPU if no_gpu else EXIT_INCOMPLETE


def summary(parts: dict[str, Part]) -> list[list[str]]:
    """The table of parts: name, status, how much, seconds, why; the first line only of what is long."""
    lines = [["part", "status", "", "s", ""]]
    for name, part in parts.items():
        why = part.why.strip().splitlines()[0] if part.why.strip() else ""
        counts = part.details.get("counts", "")
        lines.append([name, part.status, counts, f"{part.seconds:.0f}", why if len(why) <= 110 else why[:109] + "…"])
    return lines


def arguments_of(given: list[str] | None = None) -> argparse.Namespace:
    from bench_common import CACHE
    from bench_peers import rows_of

    parser = argparse.ArgumentParser(
        prog="tests/gpu/run", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write everything that was found to this file")
    parser.add_argument("--only", action="append", choices=PARTS, help="this part; may be given several times")
    parser.add_argument("--limit-seconds", type=float, default=3000, help="for everything (3000)")
    parser.add_argument("--gpu-tests", type=Path, help="built elsewhere")
    parser.add_argument("--library", type=Path, help="libqwen.so.0, built elsewhere")
    parser.add_argument("--build", type=Path, default=ROOT / "build" / "gpu", help="where both are built otherwise")
    shared = Path(os.environ.get("QWEN_SHARED", ROOT.parent / "shared"))
    parser.add_argument("--reference", type=Path, default=shared / "reference", help="the reference checkpoints")
    parser.add_argument("--python", default=sys.executable, help="one with cffi and numpy (this one)")
    parser.add_argument("--torch-python", help="one with torch and transformers (the same as --python)")
    parser.add_argument(
        "--device", default="cuda", help="of libqwen in references and benchmarks: cuda or cuda:N (cuda)"
    )
    parser.add_argument("--large", action="store_true", help="benchmarks of Qwen3-8B too: 16 GB on disk and on the GPU")
    parser.add_argument("--config", type=Path, action="append", help="benchmarks of this shape instead")
    parser.add_argument("--rows", type=rows_of, help="of the benchmarks, as bench_peers.py names them")
    parser.add_argument("--rounds", type=int, default=5, help="of the benchmarks (5)")
    parser.add_argument("--cache", type=Path, default=CACHE, help="where checkpoints of random weights are kept")
    parser.add_argument(
        "--allow-incomplete", action="store_true", help="end with 0 unless a part failed, no GPU included"
    )
    arguments = parser.parse_args(given)
    for name in ("gpu_tests", "library"):
        file: Path | None = getattr(arguments, name)
        if file is not None:
            if not file.is_file():
                parser.error(f"--{name.replace('_', '-')}: {file} is not a file")
            setattr(arguments, name, file.resolve())
    if any(row.kind == "process" for row in arguments.rows or []):
        parser.error("the row 'process' is none of a GPU: opening is timed anyway")
    if arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    if arguments.limit_seconds <= 0:
        parser.error("--limit-seconds must be above 0")
    arguments.build = arguments.build.resolve()
    arguments.torch_python = arguments.torch_python or arguments.python
    return arguments


def main(given: list[str] | None = None) -> int:
    from gpu_benchmarks import benchmark_tables, benchmarks
    from gpu_checks import correctness, references, sanitizers
    from peer_table import text_of

    arguments = arguments_of(given)
    clock = Clock(arguments.limit_seconds)
    makers = dict(zip(PARTS, (correctness, references, sanitizers, benchmarks), strict=True))
    parts = {name: Part() for name in PARTS if not arguments.only or name in arguments.only}
    report: dict[str, Any] = {"date": time.strftime("%Y-%m-%d %H:%M"), "commit": commit()}

    def save() -> None:
        if arguments.json:
            found = {**report, "parts": {name: asdict(part) for name, part in parts.items()}}
            arguments.json.write_text(json.dumps(found, indent=1), encoding="utf-8")

    try:
        gpu: dict[str, Any] | None = find_gpu()
        report["gpu"] = gpu
    except IncompleteError as error:
        gpu, report["gpu"], report["why"] = None, NO_GPU, str(error)
        for part in parts.values():
            part.miss(INCOMPLETE, str(error))
    with tempfile.TemporaryDirectory() as scratch:
        if gpu is not None:
            setup = Setup(arguments, clock, gpu, Path(scratch))
            for part in parts.values():
                part.miss(INCOMPLETE, "it was not begun")
            for name in parts:
                parts[name] = Part()
                print(f"{name} …", file=sys.stderr, flush=True)
                run_part(parts[name], makers[name], setup)
                save()  # of a run that is cut off, what it had found stays
    save()

    where = f"{gpu['name']}, sm {gpu['compute_capability']}" if gpu else report["why"]
    print(f"{where}; {report['date']}, commit {report['commit'] or 'unknown'}")
    print(text_of(summary(parts), markdown=False))
    for failure in (failure for part in parts.values() for failure in part.details.get("failures", [])):
        print("failed: " + " ".join(failure.split())[:300])
    if "benchmarks" in parts:
        for title, lines in benchmark_tables(parts["benchmarks"].details):
            print(f"\n{title}\n{text_of(lines, markdown=True)}")
    return exit_status(parts, gpu is None, arguments.allow_incomplete)


if __name__ == "__main__":
    sys.exit(main())
