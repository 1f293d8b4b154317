"""What `qwen-ffi doctor` looks at on any machine: the installation, the processor, memory, and limits."""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
import re
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from .._loader import library
from ..errors import QwenError, QwenLibraryError
from ..hub import cache_folder, is_offline
from ..version import abi_version, build_info, version

# Below this many, a checkpoint of many shards, or a program with many connections, runs out of them.
_FEW_FILES = 256


class Status(str, Enum):
    """How a check came out."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at; `advice` says what to do, "" when there is nothing to do."""

    name: str
    status: Status
    message: str
    advice: str = ""


Checker = Callable[[], Check]


def guarded(name: str, check: Checker) -> Check:
    """The check, or that it could not be made."""
    try:
        return check()
    except QwenError as error:
        return Check(name, Status.PROBLEM, str(error))
    except (OSError, ValueError, KeyError, TypeError) as error:
        return Check(name, Status.PROBLEM, f"could not be checked: {type(error).__name__}: {error}")


def machine_checks() -> Iterator[Check]:
    """All of them, in the order in which they are read."""
    try:
        library()
    except QwenLibraryError as error:  # the message says what to do
        yield Check("library", Status.PROBLEM, str(error))
    else:
        yield guarded("package", _package)
        yield guarded("library", _library)
        yield guarded("instruction_sets", _instruction_sets)
    yield guarded("cpu", _cpu)
    yield guarded("amx", _amx)
    yield guarded("cores", _cores)
    yield guarded("memory", _memory)
    yield guarded("gpu", _gpu)
    yield guarded("huge_pages", _huge_pages)
    yield guarded("limits", _limits)
    yield guarded("hub", _hub)


def available_memory() -> int:
    """Bytes that this process can still take: the machine's, or what its control group has left if that is less."""
    free = _meminfo("MemAvailable")
    for limit_file, used_file in (
        ("memory.max", "memory.current"),
        ("memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        for folder in _control_groups("memory"):
            with suppress(OSError, ValueError):  # "max": no limit
                limit = int((folder / limit_file).read_text())
                free = min(free, limit - int((folder / used_file).read_text()))
    return max(free, 0)


def resident_memory() -> tuple[int, int]:
    """Bytes of this process that are in memory: its own, and of mapped files. 0: the system does not say."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines() if ":" in line)
    own, files = (int(lines.get(key, "0 kB").split()[0]) * 1024 for key in ("RssAnon", "RssFile"))
    return own, files


def size(count: float) -> str:
    """Bytes for people."""
    if count < 1000:
        return f"{count:.0f} bytes"
    power = min(int(math.log10(count)) // 3, 4)
    return f"{count / 1000**power:.1f} {('', 'kB', 'MB', 'GB', 'TB')[power]}"


def _package() -> Check:
    try:
        package = importlib.metadata.version("qwen-ffi")
    except importlib.metadata.PackageNotFoundError:
        package = ""
    needed, found = int(library().lib.QWEN_ABI_VERSION), abi_version()
    message = f"qwen-ffi {package or 'from a source tree'}, libqwen {version()}, ABI {found} (this package needs {needed})"
    if package and package != version():
        advice = "install both from one release" + ("; QWEN_LIBRARY is set" if os.environ.get("QWEN_LIBRARY") else "")
        return Check("package", Status.WARNING, message, advice)
    return Check("package", Status.OK, message)


def _library() -> Check:
    chosen = " (QWEN_LIBRARY)" if os.environ.get("QWEN_LIBRARY") else ""
    backends = ", ".join(build_info()["backends"])
    return Check("library", Status.OK, f"{library().path}{chosen}, backends: {backends}")


def _instruction_sets() -> Check:
    levels = build_info()["cpu_isa"]
    forced = os.environ.get("QWEN_CPU_ISA", "")
    message = f"{', '.join(levels)}; used: {forced + ' (QWEN_CPU_ISA)' if forced else levels[-1]}"
    if forced and forced not in levels:
        return Check("instruction_sets", Status.PROBLEM, message, f"this machine lacks {forced}: unset QWEN_CPU_ISA")
    if forced and forced != levels[-1]:
        return Check("instruction_sets", Status.WARNING, message, f"unset QWEN_CPU_ISA: {levels[-1]} is faster")
    if levels == ["portable"]:
        advice = "a processor with AVX2 is many times faster; in a virtual machine, let it see the host's processor"
        return Check("instruction_sets", Status.WARNING, message, advice)
    return Check("instruction_sets", Status.OK, message)


def cpu_name() -> str:
    """Of the first processor, as it calls itself."""
    return next(iter(_cpuinfo("model name")), "") or platform.processor() or "unknown"


def _cpu() -> Check:
    return Check("cpu", Status.OK, f"{cpu_name()}, {platform.machine()}")


def _amx() -> Check:
    flags = next(iter(_cpuinfo("flags")), "").split()
    found = [flag for flag in flags if flag.startswith("amx_")]
    if not found:
        return Check("amx", Status.OK, "this processor has none")
    used = any("amx" in level for level in _build("cpu_isa"))
    return Check("amx", Status.OK, ", ".join(found) + ("" if used else "; not usable: Linux 5.16 or newer has to offer the tiles"))


def _cores() -> Check:
    allowed, quota = len(os.sched_getaffinity(0)), _cpu_quota()
    usable = min(allowed, math.ceil(quota)) if quota else allowed
    asked = os.environ.get("QWEN_THREADS", "0") or "0"
    threads = int(asked) if asked.isdigit() and int(asked) else usable
    message = (
        f"{allowed} of {os.cpu_count()} by affinity, {f'quota {quota:g}' if quota else 'no quota'}; "
        f"{threads} thread{'s' * (threads != 1)}{' (QWEN_THREADS)' if threads != usable else ''}"
    )
    if threads > usable:
        return Check("cores", Status.WARNING, message, f"QWEN_THREADS beyond {usable} makes threads wait for each other")
    return Check("cores", Status.OK, message)


def _memory() -> Check:
    free, total = available_memory(), _meminfo("MemTotal")
    return Check("memory", Status.OK, f"{size(free)} free of {size(total)}")


def _gpu() -> Check:
    cuda = any("cuda" in backend for backend in _build("backends"))
    build = "" if cuda else "; this build has no CUDA, it computes on the CPU"
    driver = ""
    with suppress(OSError):
        number = re.search(r"\d+\.\d+(\.\d+)?", Path("/proc/driver/nvidia/version").read_text(encoding="utf-8"))
        driver = f"NVIDIA driver {number[0] if number else 'of unknown version'}"
    if not driver and shutil.which("nvidia-smi") is None:
        return Check("gpu", Status.OK, "no NVIDIA driver" + build)
    cards = ""
    with suppress(OSError, subprocess.SubprocessError):
        cards = subprocess.run(
            ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"], capture_output=True, text=True, timeout=10
        ).stdout
    found = ", ".join([*filter(None, [driver]), *cards.split("\n")[:-1]]) or "nvidia-smi"
    return Check("gpu", Status.OK if cuda else Status.WARNING, found + build)


def _huge_pages() -> Check:
    with suppress(OSError):
        text = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text(encoding="utf-8")
        chosen = text[text.find("[") + 1 : text.find("]")]
        return Check("huge_pages", Status.OK, f"transparent huge pages: {chosen}")
    return Check("huge_pages", Status.OK, "this kernel has no transparent huge pages")


def _limits() -> Check:
    locked, files = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0], resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    shown = "unlimited" if locked == resource.RLIM_INFINITY else size(locked)
    message = f"locked memory (ulimit -l) {shown}, open files (ulimit -n) {files:,}"
    if 0 <= files < _FEW_FILES:
        return Check("limits", Status.WARNING, message, "ulimit -n 1024")
    return Check("limits", Status.OK, message)


def _hub() -> Check:
    cache = f"cache {cache_folder()}{', HF_HUB_OFFLINE is set' if is_offline() else ''}"
    try:
        package = importlib.metadata.version("huggingface_hub")
    except importlib.metadata.PackageNotFoundError:
        advice = "pip install 'qwen-ffi[hub]' to download models by their names"
        return Check("hub", Status.OK, f"huggingface_hub is not installed; {cache}", advice)
    return Check("hub", Status.OK, f"huggingface_hub {package}, {cache}")


def _build(key: str) -> list[str]:
    """What the library was built with; nothing when it cannot be loaded, which another check says."""
    try:
        return list(build_info()[key])
    except QwenLibraryError:
        return []


def _cpuinfo(key: str) -> list[str]:
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    return [line.partition(":")[2].strip() for line in lines if line.partition(":")[0].strip() == key]


def _meminfo(key: str) -> int:
    lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key + ":"))


def _control_groups(controller: str) -> Iterator[Path]:
    """The folders of this process's control groups, from its own up to the root, of version 2 and of version 1."""
    for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        root = Path("/sys/fs/cgroup", controller if controllers else "")
        own = root / path.lstrip("/")
        yield from [folder for folder in (own, *own.parents) if folder == root or root in folder.parents]


def _cpu_quota() -> float:
    """The tightest CPU quota in cores, 0: none."""
    quotas = []
    for folder in _control_groups("cpu"):
        with suppress(OSError, ValueError):
            quota, period = (folder / "cpu.max").read_text().split()
            quotas.append(float(quota) / float(period))
        with suppress(OSError, ValueError):
            quota, period = (folder / "cpu.cfs_quota_us").read_text(), (folder / "cpu.cfs_period_us").read_text()
            quotas.append(float(quota) / float(period))
    return min((quota for quota in quotas if quota > 0), default=0.0)
