"""What the benchmarks share: checkpoints of random weights, prompts, and what else the machine was doing.

Imports nothing but the standard library until a checkpoint must be made, so that a program that only starts others and waits
stays small.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
CONFIG = HERE / "data" / "Qwen3-0.6B.config.json"
CACHE = Path.home() / ".cache" / "qwen-ffi-benchmarks"
TICKS = os.sysconf("SC_CLK_TCK")  # of /proc, per second


# ------------------------------------------------------------------------------------------------- checkpoints and prompts


def maker(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def checkpoint(cache: Path, config_file: Path) -> Path:
    """The random checkpoint of a config.json, made if it is not there yet."""
    folder = cache / config_file.name.removesuffix(".config.json")
    if not (folder / "config.json").is_file():  # written last
        print(f"making {folder} …", file=sys.stderr)
        maker("random_checkpoint").checkpoint(cache, config_file)
    return folder


def gguf(folder: Path) -> Path:
    """The same weights as a GGUF file beside them, made if it is not there yet."""
    file = folder / "model-BF16.gguf"
    if not file.is_file():
        print(f"making {file} …", file=sys.stderr)
        maker("gguf_checkpoint").make_gguf(folder, file)
    return file


def tokens(count: int, vocabulary: int, draw: random.Random) -> list[int]:
    """A prompt of random ids; without the upper half, where the tokens with a meaning of their own are."""
    return [draw.randrange(vocabulary // 2) for _ in range(count)]


# ------------------------------------------------------------------------------------------------- the machine


def read_bandwidth(threads: int, mebibytes: int = 512) -> float | None:
    """GB/s that `threads` threads read together; None without a C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "read_bandwidth"
        source = HERE / "read_bandwidth.c"
        subprocess.run([compiler, "-O3", "-march=native", source, "-lpthread", "-o", program], check=True)
        run = [program, str(threads), str(mebibytes // threads)]
        return float(subprocess.run(run, check=True, capture_output=True, text=True).stdout)


def busy_seconds(stat: str) -> float:
    """Processor seconds by the text of /proc/stat in which the cores, together, did something, or were taken away by a host."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, stat.split("\n", 1)[0].split()[1:9])
    return (user + nice + system + irq + softirq + steal) / TICKS


def used_seconds(stat: str) -> float:
    """Processor seconds by the text of /proc/PID/stat, of the process and of the children it has waited for."""
    fields = stat.rpartition(")")[2].split()  # a name may hold anything; the state comes first behind it
    return sum(map(int, fields[11:15])) / TICKS


def own_seconds(processes: Iterable[int]) -> float:
    """What these have used. Of one that has ended, its parent's figure holds it."""
    found = 0.0
    for process in processes:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            found += used_seconds(Path(f"/proc/{process}/stat").read_text())
    return found


class Others:
    """Measures what other processes than `own` use from its making on, in cores: 0.05 is 5 % of one core."""

    def __init__(self, own: Iterable[int]) -> None:
        self.own = list(own)
        self.begin = self.now()

    def now(self) -> tuple[float, float]:
        return time.monotonic(), busy_seconds(Path("/proc/stat").read_text()) - own_seconds(self.own)

    def cores(self) -> float:
        (begin, before), (end, after) = self.begin, self.now()
        return max(0.0, (after - before) / (end - begin))


def wait_until_idle(own: Iterable[int], limit: float, patience: float, interval: float = 1) -> float:
    """Waits until other processes use at most `limit` cores over `interval` seconds, and no longer than `patience` seconds.
    Returns what they used last, in cores: where it is above `limit`, patience has run out."""
    own, end = list(own), time.monotonic() + patience
    while True:
        others = Others(own)
        time.sleep(interval)
        used = others.cores()
        if used <= limit or time.monotonic() >= end:
            return used


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}
