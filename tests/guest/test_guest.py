"""The library as a guest: what it leaves as it was in its host's process, and what the host may do meanwhile.

After each of these programs guest_main.c has compared what a library could change, when it was loaded, used and unloaded.
"""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from qwen_ffi import build_info

from .conftest import HERE, Run


def succeeds(run: subprocess.CompletedProcess[str]) -> str:
    assert (run.returncode, run.stderr) == (0, ""), run.stdout
    return run.stdout


@pytest.fixture(scope="session")
def files_shim(compile_c: Callable[..., Path]) -> dict[str, str]:
    return {"LD_PRELOAD": str(compile_c(HERE / "files_shim.c", "-shared", "-fPIC", "-Wl,--as-needed"))}


@pytest.mark.parametrize("name", ["qwen2_sliding", "qwen3_yarn", "qwen2_moe", "qwen3_next", "qwen4_exp"])
def test_the_hosts_locale_and_float_modes_change_nothing_and_stay(
    name: str, host: Run, chat_model: Callable[[str], Path], unusual_host: dict[str, str]
) -> None:
    model = chat_model(name)
    usual = succeeds(host("work", model, "with errors", times=2))
    assert len(set(usual.split())) == 1
    assert succeeds(host("work", model, "with errors", times=2, env=unusual_host)) == usual


IMPORT = """
import locale, os, signal, sys
import cffi, numpy  # what they do to a process is theirs
locale.setlocale(locale.LC_ALL, "C")
def look():
    return {
        "handlers": [signal.getsignal(number) for number in signal.valid_signals()],
        "mask": signal.pthread_sigmask(signal.SIG_BLOCK, []),
        "wake": signal.set_wakeup_fd(-1),
        "locale": locale.setlocale(locale.LC_ALL),
        "environment": dict(os.environ),
        "folder": os.getcwd(),
        "threads": len(os.listdir("/proc/self/task")),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "half a denormal": numpy.float32(1e-45) * numpy.float32(1) > 0,
    }
before = look()
import qwen_ffi
assert look() == before
with qwen_ffi.QwenInferenceSession(sys.argv[1]) as session:
    session.generate("One, two", max_tokens=4)
assert look() == before
"""


def test_importing_and_using_the_package_leaves_the_interpreter_as_it_was(demo_model: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", IMPORT, str(demo_model)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert succeeds(run) == ""


def test_options_of_the_environment_are_read_the_same_with_a_decimal_comma(
    host: Run, demo_model: Path, unusual_host: dict[str, str]
) -> None:
    more = {"QWEN_KV_CACHE_BYTES": "8388608", "QWEN_THREADS": "2", "QWEN_MAX_BATCH_TOKENS": "16"}
    assert succeeds(host("work", demo_model, env={**unusual_host, **more})) == succeeds(host("work", demo_model, env=more))


def test_nothing_is_opened_for_writing_and_no_gpu_is_touched(host: Run, dense_model: Path, files_shim: dict[str, str]) -> None:
    assert succeeds(host("work", dense_model, "with errors", env=files_shim)) == succeeds(host("work", dense_model))


def test_neither_proc_nor_sys_nor_home_is_needed(host: Run, dense_model: Path, files_shim: dict[str, str]) -> None:
    bare = {**files_shim, "NO_PROC": "1", "HOME": "", "PATH": "", "TMPDIR": "/nowhere"}
    assert succeeds(host("work", dense_model, env=bare)) == succeeds(host("work", dense_model))


def test_it_can_be_unloaded_and_loaded_again(host: Run, dense_model: Path) -> None:
    answers = succeeds(host("work", dense_model, times=15)).split()
    assert len(answers) == 15
    assert len(set(answers)) == 1


@pytest.mark.parametrize("stack", [256 << 10, 64 << 20], ids=["small", "large"])
def test_threads_are_named_take_no_signals_and_have_stacks_of_their_own_size(
    stack: int, host: Run, dense_model: Path
) -> None:
    hardest = resource.getrlimit(resource.RLIMIT_STACK)[1]
    limit = stack if hardest == resource.RLIM_INFINITY else min(stack, hardest)  # the default of a program's threads
    succeeds(host("threads", dense_model, before=lambda: resource.setrlimit(resource.RLIMIT_STACK, (limit, hardest))))


def test_a_thousand_engines_leave_nothing_behind(host: Run, dense_model: Path) -> None:
    succeeds(host("churn", dense_model, 1000))


def test_handles_do_not_survive_a_fork_and_all_else_does(host: Run, dense_model: Path) -> None:
    succeeds(host("forks", dense_model, times=2))


WAYS_TO_END = [
    "return",
    "exit",
    "_exit",
    "quick_exit",
    "exit in a callback",
    "exit on the library's thread",
    "pthread_exit of main",
    "destroy, then all threads end",
]


@pytest.mark.parametrize("how", WAYS_TO_END)
def test_a_process_may_end_while_requests_run(how: str, host: Run, endless_model: Path) -> None:
    for _ in range(4):
        assert succeeds(host("exits", endless_model, how, timeout=60)) == ""


def test_destroy_brings_back_those_who_wait_inside(host: Run, endless_model: Path) -> None:
    succeeds(host("destroys", endless_model, times=2))


def test_engines_side_by_side_do_not_notice_each_other(
    host: Run, dense_model: Path, chat_model: Callable[[str], Path]
) -> None:
    succeeds(host("two_engines", dense_model, chat_model("qwen2_moe")))


def test_few_descriptors_and_little_address_space_are_clear_errors(host: Run, dense_model: Path) -> None:
    succeeds(host("limits", dense_model))


def test_a_signal_stack_too_small_for_tiles_is_served_without_them(host: Run, dense_model: Path) -> None:
    levels = build_info()["cpu_isa"]
    backend, refusal = succeeds(host("small_signal_stack", dense_model)).splitlines()
    if levels[-1] == "amx":
        assert backend == "cpu.avx512"
        assert refusal.startswith("cpu_isa asks for amx, and the system refuses this process the tiles' state")
        assert "sigaltstack" in refusal
    else:
        assert backend == f"cpu.{levels[-1]}"
        assert refusal.startswith("cpu_isa asks for amx, which this machine lacks")


def test_a_host_without_standard_streams(host: Run, dense_model: Path, tmp_path: Path) -> None:
    found = re.fullmatch(r"(\d+) events\n", succeeds(host("closed_streams", dense_model, tmp_path / "stdout")))
    assert found
    assert int(found.group(1)) > 16
    assert os.stat(tmp_path / "stdout").st_size == 0
