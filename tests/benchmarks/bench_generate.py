"""What the benchmarks of this folder share; `qwen-ffi bench` is the one of a single engine."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from random_checkpoint import checkpoint

__all__ = ["HERE", "checkpoint", "read_bandwidth"]
HERE = Path(__file__).resolve().parent


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
