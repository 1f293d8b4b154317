"""device = "cuda" over a driver that these tests build: what a process sees of it, whatever the driver says. No GPU computes here."""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from qwen_ffi import build_info

from .test_troubleshooting import says, shown

FAKE = Path(__file__).resolve().parent / "cuda" / "fake_driver.c"
SECTION = struct.Struct("<IIQQQQIIQQ")  # of an ELF file, little-endian, 64 bits
LEFT = re.compile(r"context gone: 0 allocations, 0 streams, 0 events, 0 graphs left; \d+ launches, 0 misuses")

Run = Callable[..., str]

pytestmark = pytest.mark.skipif("cuda" not in build_info()["backends"], reason="this build of libqwen has no CUDA")

PROGRAM = """
import ctypes, gc, os, sys
from qwen_ffi import QwenError, QwenInferenceSession, QwenInternalError, QwenMemoryError, QwenUnsupportedError
from qwen_ffi._loader import library

model = sys.argv[1]
fake = ctypes.CDLL("libcuda.so.1") if "FAKE_LOG" in os.environ else None
tried = ctypes.create_string_buffer(64)  # the driver keeps the name

def opened(**options):
    return QwenInferenceSession(model, device="cuda", kv_cache_bytes=1 << 20, **options)

def answer(session, tokens=3):
    return session.generate("1 + 1 =", max_tokens=tokens, temperature=0.0)

def fail(name, before, status):
    tried.value = name.encode()
    fake.fake_fail(tried, before, status)

def message(kind, call, *arguments, **options):
    try:
        call(*arguments, **options)
    except kind as error:
        return str(error)
    raise AssertionError("nothing failed")

def automatic(**options):
    # what auto chooses, and what the log says of it behind the level
    ffi, lib, lines = library().ffi, library().lib, []
    def take(level, text, length, user):
        lines.append(f"{level} {bytes(ffi.buffer(text, length)).decode()}")
    sink = ffi.callback("void(int32_t, const char *, size_t, void *)", take)
    lib.qwen_log_set(sink, ffi.NULL, lib.QWEN_LOG_DEBUG, ffi.NULL)
    with QwenInferenceSession(model, device="auto", **{"kv_cache_bytes": 1 << 20, **options}) as session:
        answer(session)
        backend = session.stats().backend
    lib.qwen_log_set(ffi.NULL, ffi.NULL, 1, ffi.NULL)
    (said,) = [line for line in lines if "device 'auto'" in line]
    return f"{backend.split('.')[0]} {said}"
"""


@pytest.fixture(scope="session")
def build_driver(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    def build(*flags: str) -> Path:
        folder = tmp_path_factory.mktemp("driver")
        command = [
            "cc",
            "-std=gnu11",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-shared",
            "-fPIC",
            "-fvisibility=hidden",
            "-pthread",
        ]
        subprocess.run([*command, *flags, str(FAKE), "-o", str(folder / "libcuda.so.1")], check=True)
        return folder

    return build


@pytest.fixture(scope="session")
def driver(build_driver: Callable[..., Path]) -> Path:
    return build_driver()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log"


@pytest.fixture
def run(driver: Path, log: Path, demo_model: Path, tmp_path: Path) -> Run:
    """What a process prints that has this driver, the variables and the program."""

    def run(program: str, *, folder: Path = driver, **variables: object) -> str:
        environment = {
            **os.environ,
            "LD_LIBRARY_PATH": str(folder),
            "FAKE_LOG": str(log),
            "QWEN_GPU_CHECK": "0",  # no answer of this GPU is right
            **{name: str(value) for name, value in variables.items()},
        }
        if folder is not driver:
            del environment["FAKE_LOG"]
        child = subprocess.run(
            [sys.executable, "-c", PROGRAM + program, str(demo_model)],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert (child.returncode, child.stderr) == (0, ""), child.stdout
        return child.stdout

    return run


def refusal(run: Run, **variables: object) -> str:
    return run("print(message(QwenUnsupportedError, opened))", **variables).rstrip("\n")  # type: ignore[arg-type]


def endings(log: Path) -> list[str]:
    """What the context held each time that the last hold on it went: nothing. Nor was anything done that a driver may refuse."""
    lines = [line for line in log.read_text().splitlines() if not line.startswith(("launch ", "graph "))]
    assert lines
    assert [line for line in lines if not LEFT.fullmatch(line)] == []
    return lines


# ---------------------------------------------------------------------------------------------------- why there is no GPU


def test_without_a_driver(run: Run, tmp_path: Path) -> None:
    (tmp_path / "libcuda.so.1").write_text("")  # found before the machine's own, and no library
    assert refusal(run, folder=tmp_path) == (
        "option 'device' asks for a GPU, but there is no NVIDIA driver (libcuda.so.1)"
    )


def test_a_driver_that_is_too_old(run: Run) -> None:
    said = refusal(run, FAKE_VERSION=11080)
    wanted = (
        r"option 'device' asks for a GPU, but the NVIDIA driver knows CUDA 11\.8; this build needs \d\d\.0 or newer"
    )
    assert re.fullmatch(wanted, said), said


def test_every_driver_of_the_same_major_version_will_do(run: Run, log: Path) -> None:
    (needed,) = re.findall(r"needs (\d+)\.0", refusal(run, FAKE_VERSION=11080))
    run("opened().close()", FAKE_VERSION=int(needed) * 1000)
    assert len(endings(log)) == 1


def test_a_driver_without_a_function(run: Run, build_driver: Callable[..., Path]) -> None:
    folder = build_driver("-DcuLibraryLoadData=cuAnother")
    assert refusal(run, folder=folder).endswith(
        "but the NVIDIA driver (libcuda.so.1) has no function cuLibraryLoadData"
    )


def test_a_driver_without_a_gpu(run: Run) -> None:
    assert refusal(run, FAKE_GPUS=0) == "option 'device' asks for a GPU, but the NVIDIA driver reports no GPU"
    said = run("fail('cuInit', 0, 802)\nprint(message(QwenUnsupportedError, opened))")
    assert said.endswith("reports no GPU: another error (CUDA_ERROR_OTHER, 802)\n")


def test_a_gpu_that_is_not_there(run: Run) -> None:
    program = "print(message(QwenUnsupportedError, QwenInferenceSession, model, device='cuda:2'))"
    said = "option 'device' asks for GPU 2; this machine has 2, counted from 0\n"
    assert run(program, FAKE_GPUS=2) == said


@pytest.mark.parametrize("capability", [75, 210])
def test_a_gpu_without_kernels(run: Run, capability: int) -> None:
    said = refusal(run, FAKE_CAPABILITY=capability)
    begin = (
        rf"GPU 0 \(Fake GPU\) has compute capability {capability // 10}\.{capability % 10}; this build has kernels for "
    )
    assert re.fullmatch(begin + r"\d+\.\d(, \d+\.\d)*", said), said


def test_the_page_on_troubleshooting_has_these_messages(run: Run, tmp_path: Path) -> None:
    (tmp_path / "libcuda.so.1").write_text("")
    lost = "session = opened()\nfail('cuEventSynchronize', 0, 700)\nprint(message(QwenInternalError, answer, session))"
    kernels = refusal(run, FAKE_NAME="NVIDIA A10G", FAKE_CAPABILITY=75)
    said = [
        refusal(run, folder=tmp_path),
        refusal(run, FAKE_VERSION=11080),
        refusal(run, FAKE_GPUS=0),
        re.sub(r"(?<=kernels for ).*", "9.0", kernels),
        run(lost).rstrip("\n"),
        run("print(message(QwenInternalError, opened))", QWEN_GPU_CHECK=1, FAKE_NAME="NVIDIA H200").rstrip("\n"),
        run("print(message(QwenMemoryError, QwenInferenceSession, model, device='cuda'))", FAKE_MEMORY=64 << 20).rstrip(
            "\n"
        ),
        *(
            run(f"print(automatic({options})[6:])", FAKE_NAME="NVIDIA H200", **variables).rstrip("\n").lstrip("23 ")
            for variables, options in (
                ({}, ""),
                ({"FAKE_MEMORY": 1 << 20}, ""),
                ({"FAKE_MEMORY": 64 << 20}, "kv_cache_bytes=None"),
            )
        ),
    ]
    page = shown("No GPU")
    assert [line for line in said if not any(says(message, line) for message in page)] == []


# ------------------------------------------------------------------------------------------------------------------ auto


def test_auto_is_the_gpu(run: Run, log: Path) -> None:
    assert run("print(automatic())") == "cuda 3 device 'auto' is cuda:0, Fake GPU\n"
    assert endings(log)
    second = run("print(automatic())", FAKE_GPUS=3, FAKE_CAPABILITY_0=75)
    assert second == "cuda 3 device 'auto' is cuda:1, Fake GPU\n"


def test_auto_is_the_cpu_where_a_gpu_was_never_in_question(run: Run, tmp_path: Path) -> None:
    (tmp_path / "libcuda.so.1").write_text("")
    said = run("print(automatic())", folder=tmp_path)
    assert said == "cpu 4 device 'auto' is the CPU: there is no NVIDIA driver (libcuda.so.1)\n"
    assert (
        run("print(automatic())", FAKE_GPUS=0) == "cpu 3 device 'auto' is the CPU: the NVIDIA driver reports no GPU\n"
    )


@pytest.mark.parametrize(
    ("variables", "why"),
    [
        ({"FAKE_VERSION": 11080}, r"the NVIDIA driver knows CUDA 11\.8; this build needs \d\d\.0 or newer"),
        ({"FAKE_CAPABILITY": 75}, r"GPU 0 \(Fake GPU\) has compute capability 7\.5; this build has kernels for .+"),
        ({"FAKE_MEMORY": 1 << 20}, r"cannot allocate \d+ bytes for weights on GPU 0; \d+ bytes are free"),
        (
            {"FAKE_MEMORY": 64 << 20},
            r"a cache of 1048576 bytes has no room beside the weights and the activations of a step: \d+ bytes are left",
        ),
        (
            {"QWEN_GPU_CHECK": 1},
            r"GPU 0 \(Fake GPU\) does not compute what it is told: embed in bf16 gives 0 for -?0\.\d+; "
            r"option 'device' = 'cpu' does\. Please report it",
        ),
    ],
)
def test_auto_is_the_cpu_and_warns_where_a_gpu_cannot_be_used(
    run: Run, log: Path, variables: dict[str, object], why: str
) -> None:
    said = run("print(automatic())", **variables)
    assert re.fullmatch(rf"cpu 2 device 'auto' is the CPU: {why}\n", said), said
    if log.exists():
        assert endings(log)


def test_a_gpu_that_computes_nonsense_is_an_error_where_it_was_asked_for(run: Run, log: Path) -> None:
    said = run("print(message(QwenInternalError, opened))", QWEN_GPU_CHECK=1)
    assert said.startswith("GPU 0 (Fake GPU) does not compute what it is told: embed in bf16 ")
    assert endings(log)


def test_auto_goes_on_after_whatever_a_driver_refuses_while_loading(run: Run, log: Path) -> None:
    said = run(
        "for name, status, places in (('cuMemAlloc_v2', 2, 9), ('cuMemHostAlloc', 2, 2), ('cuMemcpyHtoDAsync_v2', 1, 9),\n"
        "                             ('cuEventSynchronize', 1, 3), ('cuStreamSynchronize', 1, 1), ('cuStreamCreate', 2, 2)):\n"
        "    for before in range(places):\n"
        "        fail(name, before, status)\n"
        "        print(automatic())\n"
        "        assert fake.fake_failed()\n"
        "        fake.fake_fail(None, 0, 0)\n"
        "        assert fake.fake_holds() == 0\n"
    )
    assert {line.split(":")[0] for line in said.splitlines()} == {"cpu 2 device 'auto' is the CPU"}
    assert endings(log)


def test_the_doctor_says_what_auto_did(run: Run) -> None:
    program = "import json, sys\nfrom qwen_ffi.cli import main\nmain(['doctor', model, '--json'])\n"
    for variables, status, text in (
        ({}, "ok", "device 'auto' is cuda:0, Fake GPU"),
        ({"FAKE_MEMORY": 1 << 20}, "warning", "device 'auto' is the CPU: cannot allocate "),
    ):
        told = json.loads(run(program, QWEN_DEVICE="auto", **variables))
        (check,) = [check for check in told["checks"] if check["name"] == "smoke_test"]
        assert check["status"] == status
        assert text in check["message"]


# ------------------------------------------------------------------------------------------------------- lives of engines


@pytest.mark.parametrize("dtype", ["bf16", "f32"])
def test_an_engine_lives_and_leaves_nothing(run: Run, log: Path, dtype: str) -> None:
    run(f"with opened(dtype={dtype!r}) as session:\n    answer(session), answer(session)")
    (ending,) = endings(log)
    names = re.findall(r"^launch (\w+)", log.read_text(), flags=re.MULTILINE)
    assert ending.endswith(f" {len(names)} launches, 0 misuses")
    assert any("_kernelEP" in name for name in names)  # whose first argument the driver has looked at
    assert len(names) > 50


def test_engines_live_beside_and_after_each_other(run: Run, log: Path) -> None:
    run(
        "with opened() as a, opened() as b:\n"
        "    streams = [session.stream('One', max_tokens=8) for session in (a, b)]\n"
        "    assert all(list(stream) for stream in streams)\n"
        "with opened() as c:\n"
        "    answer(c)\n"
    )
    assert len(endings(log)) == 2


def test_the_hosts_thread_keeps_its_context(run: Run, log: Path) -> None:
    """A host may compute on the same GPU, or on another one, with a context of its own."""
    run(
        "def current():\n"
        "    handle = ctypes.c_void_p()\n"
        "    assert fake.cuCtxGetCurrent(ctypes.byref(handle)) == 0\n"
        "    return handle.value\n"
        "for mine in (None, 4096):\n"
        "    fake.cuCtxSetCurrent(ctypes.c_void_p(mine))\n"
        "    session = opened()\n"
        "    assert current() == mine\n"
        "    answer(session)\n"
        "    session.close()\n"
        "    assert current() == mine\n"
    )
    assert endings(log)


def test_nothing_is_touched_where_no_gpu_is_asked_for(run: Run, log: Path) -> None:
    run(
        "with QwenInferenceSession(model, device='cpu') as session:\n"
        "    answer(session)\n"
        "from qwen_ffi._engine import model_info\n"
        "model_info(model)\n",
        QWEN_DEVICE="auto",
    )
    assert not log.exists()


def test_a_process_may_end_with_an_engine_open(run: Run, log: Path) -> None:
    assert run("keep = opened(); answer(keep); print('ends')") == "ends\n"


def test_a_step_is_captured_and_replayed_with_the_same_launches(run: Run, log: Path) -> None:
    launches = {}
    for graphs in (0, 1):
        log.unlink(missing_ok=True)
        run("with opened() as session:\n    answer(session, 12)", QWEN_CUDA_GRAPHS=graphs)
        endings(log)
        lines = log.read_text().splitlines()
        launches[graphs] = [line for line in lines if line.startswith("launch ")]
        captured = [line for line in lines if line.startswith("graph of ")]
        # One step is the prompt's, two are computed, the others are launched as one.
        assert (len(captured), lines.count("graph launched")) == ((1, 9) if graphs else (0, 0))
    assert launches[0] == launches[1]


REPLAYS = """
with opened() as session:
    expected = answer(session, 8).text
for name in ("cuStreamBeginCapture_v2", "cuStreamEndCapture", "cuGraphInstantiateWithFlags", "cuGraphLaunch"):
    for status in (2, 801):
        with opened() as session:
            fail(name, 0, status)
            assert answer(session, 8).text == expected
            assert fake.fake_failed()
            assert answer(session, 8).text == expected
            counters = session.counters()
            assert counters["step.replayed"] == 0, (name, counters)
            fake.fake_fail(None, 0, 0)
with opened() as session:
    assert answer(session, 8).text == expected
    assert session.counters()["step.replayed"] > 0
"""


def test_a_graph_that_the_driver_refuses_is_no_error(run: Run, log: Path) -> None:
    run(REPLAYS)
    assert endings(log)


@pytest.mark.parametrize("name", ["cuStreamEndCapture", "cuGraphLaunch"])
def test_a_context_that_is_lost_under_a_graph_is_one(run: Run, name: str) -> None:
    said = run(f"session = opened()\nfail({name!r}, 0, 700)\nprint(message(QwenInternalError, answer, session, 8))")
    assert said.endswith("; this process can use the GPU no more: start it anew\n")


# ------------------------------------------------------------------------------------------------------ what a driver refuses


def test_too_little_memory(run: Run, log: Path) -> None:
    said = run("print(message(QwenMemoryError, opened))", FAKE_MEMORY=1 << 20)
    found = re.fullmatch(r"cannot allocate (\d+) bytes for (.+) on GPU 0; (\d+) bytes are free\n", said)
    assert found, said
    assert int(found[1]) > int(found[3])
    assert endings(log)


def test_a_cache_is_as_large_as_what_is_free_and_useful(run: Run, log: Path) -> None:
    program = (
        "with QwenInferenceSession(model, device='cuda') as session:\n"
        "    answer(session)\n"
        "    print(session.stats().cache_bytes)\n"
    )
    small, larger, enough, more = (
        int(run(program, FAKE_MEMORY=mebibytes << 20)) for mebibytes in (256, 384, 1024, 4096)
    )
    assert small < (256 * 15 // 16 - 96) << 20
    assert larger - small == pytest.approx(120 << 20, rel=0.01)  # all but a sixteenth
    assert enough == more  # max_running times 4,096 tokens
    assert endings(log)


REFUSALS = """
name, status = {name!r}, {status}
for before in ({places}):
    fail(name, before, status)
    session = None
    try:
        session = opened()
        answer(session)
    except QwenError as error:
        said = str(error)
        assert fake.fake_failed(), said
        assert ("memory" in said or "allocate" in said or "pin " in said) if status == 2 else "CUDA: " in said, said
        outcome = "an error"
    else:
        outcome = "an answer" if fake.fake_failed() else "no such call"
    fake.fake_fail(None, 0, 0)
    if session is not None and status == 2:
        answer(session)  # as if nothing had been
    if session is not None:
        session.close()
    del session
    gc.collect()
    assert fake.fake_holds() == 0
    print(before, outcome)
"""
MEMORY = ["cuMemAlloc_v2", "cuMemHostAlloc", "cuDevicePrimaryCtxRetain", "cuLibraryLoadData", "cuLaunchKernel"]
OTHERS = """cuCtxSetCurrent cuMemcpyHtoDAsync_v2 cuMemcpyDtoHAsync_v2 cuMemsetD8Async cuStreamCreate cuStreamSynchronize cuEventCreate
    cuEventRecord cuEventSynchronize cuLibraryGetKernel cuLaunchKernel""".split()


def refused(run: Run, names: list[str], status: int, places: str) -> dict[str, int]:
    """How often each call's refusal was an error. Whatever it was, the engine ends and leaves nothing."""
    errors = dict.fromkeys(names, 0)
    for name in names:  # each in a process of its own: kernels are loaded once
        for line in run(REFUSALS.format(name=name, status=status, places=places)).splitlines():
            before, outcome = line.split(maxsplit=1)
            assert before != "0" or outcome == "an error", (name, line)
            errors[name] += outcome == "an error"
    return errors


def test_memory_that_runs_out_anywhere_is_an_error_and_the_engine_goes_on(run: Run, log: Path) -> None:
    errors = refused(run, MEMORY, 2, "0, 1, 2, 5, 11, 23, 24, 25, 26, 27, 28, 29, 30, 31, 47, 95, 191")
    assert errors["cuMemAlloc_v2"] > 10
    assert errors["cuLaunchKernel"] > 10
    assert endings(log)


def test_what_the_driver_refuses_once_is_an_error(run: Run, log: Path) -> None:
    refused(run, OTHERS, 1, "0, 3")
    assert endings(log)


def test_a_launch_asks_for_the_shared_memory_that_it_needs(run: Run, log: Path) -> None:
    """More than a kernel has unasked, 48 kB: many rows on a GPU that needs few blocks to be busy."""
    program = "session = opened()\nsession.generate('1 ' * 200, max_tokens=1)\n"
    run(program + "session.close()", FAKE_MULTIPROCESSORS=1)
    assert endings(log)
    launches = [line.split() for line in log.read_text().splitlines() if line.startswith("launch")]
    assert max(int(launch[-1]) for launch in launches) > 48 << 10
    refused = "fail('cuKernelSetAttribute', 0, 1)\nprint(message(QwenInternalError, opened().generate, '1 ' * 200))"
    assert re.match(r"CUDA: the launch at \S+\.(cu|h):\d+: ", run(refused, FAKE_MULTIPROCESSORS=1))


def test_a_lost_context_is_said_by_every_engine_and_the_next(run: Run) -> None:
    said = run(
        "a, b = opened(), opened()\n"
        "answer(b)\n"
        "fail('cuLaunchKernel', 20, 700)\n"
        "print(message(QwenInternalError, answer, a))\n"
        "print(message(QwenInternalError, answer, a))\n"
        "print(message(QwenInternalError, answer, b))\n"
        "print(message(QwenInternalError, opened))\n"
        "a.close(), b.close()\n"
        "assert fake.fake_holds() == 0\n"
        "fake.fake_fail(None, 0, 0)\n"  # what holds nothing any more is as new, in this driver at least
        "with opened() as c:\n"
        "    answer(c)\n"
    ).splitlines()
    assert len(said) == 4
    why = "an illegal memory access was encountered (CUDA_ERROR_ILLEGAL_ADDRESS, 700)"
    for line in said:
        assert line.startswith("CUDA: ")
        assert line.endswith(f": {why}; this process can use the GPU no more: start it anew")
    assert re.search(r"CUDA: the launch at \S+\.cu:\d+: ", said[0]), said[0]


# ------------------------------------------------------------------------------------------------- what the library's file holds


def sections(elf: bytes) -> list[tuple[str, bytes]]:
    table, size, count, names = struct.unpack_from("<Q", elf, 40)[0], *struct.unpack_from("<HHH", elf, 58)
    rows = [SECTION.unpack_from(elf, table + i * size) for i in range(count)]
    strings = rows[names][4]
    return [
        (elf[strings + row[0] : elf.index(b"\0", strings + row[0])].decode(), elf[row[4] : row[4] + row[5]])
        for row in rows
    ]


def device_code(fat: bytes) -> Iterator[tuple[int, bytes]]:
    """Architecture and ELF file of each part of the fat binaries that lie one behind the other."""
    at = 0
    while at < len(fat):
        magic, _, header, size = struct.unpack_from("<IHHQ", fat, at)
        assert magic == 0xBA55ED50
        part, at = at + header, at + header + size
        while part < at:
            kind, _, header, size = struct.unpack_from("<HHIQ", fat, part)
            (architecture,) = struct.unpack_from("<I", fat, part + 28)
            assert kind == 2, "machine code only: nothing for the driver to compile"
            yield architecture, fat[part + header : part + header + size]
            part += header + size
        at += -at % 8


@pytest.fixture(scope="session")
def library(package: Path) -> bytes:
    return (package / "lib" / "libqwen.so.0").read_bytes()


def test_every_kernel_that_is_registered_is_there_for_every_architecture(library: bytes) -> None:
    held = dict(sections(library))
    registered = set(re.findall(rb"_Z\w+(?=\0)", held[".rodata"]))
    assert len(registered) > 50
    kernels: dict[int, set[bytes]] = {}
    for architecture, elf in device_code(held[".nv_fatbin"]):
        names = {name.removeprefix(".text.").encode() for name, _ in sections(elf) if name.startswith(".text.")}
        assert not kernels.setdefault(architecture, set()) & names
        kernels[architecture] |= names
    assert kernels
    for architecture, names in kernels.items():
        assert names == registered, f"sm_{architecture}"


def test_thread_local_memory_is_a_few_bytes(package: Path) -> None:
    """A page of it, as the CUDA runtime has, and glibc finds no static room for it: libqwen/base/thread.cpp."""
    command = ["readelf", "-lW", str(package / "lib" / "libqwen.so.0")]
    listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    sizes = re.findall(r"^ +TLS +(?:0x\w+ +){4}(0x\w+) +R +(0x\w+)$", listing, flags=re.MULTILINE)
    assert len(sizes) == 1
    assert int(sizes[0][0], 16) <= 64
    assert int(sizes[0][1], 16) <= 16
