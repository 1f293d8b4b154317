"""Option strict = 0 over a driver and a cuBLASLt that these tests build (tests/cuda): when the library is opened, what is said of it, and
that it is asked in the GPU's context and nothing of it stays. That it multiplies rightly, tests/cuda/test_cublas_lt.cpp sees."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from qwen_ffi import build_info

from .test_gpu_driver import Run, build_driver, driver, endings, log, run  # noqa: F401

FAKE = Path(__file__).resolve().parent / "cuda" / "fake_cublas_lt.c"
NAMES = ("libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so")
OWN = "libqwen's own kernels multiply"

pytestmark = pytest.mark.skipif("cuda" not in build_info()["backends"], reason="this build of libqwen has no CUDA")

PROGRAM = """
ffi, lib, lines = library().ffi, library().lib, []
@ffi.callback("void(int32_t, const char *, size_t, void *)")
def take(level, text, length, user):
    lines.append(f"{level} {bytes(ffi.buffer(text, length)).decode()}")
lib.qwen_log_set(take, ffi.NULL, 3, ffi.NULL)
LONG = "one two three " * 40

def ask(session, text=LONG):
    return session.generate(text, max_tokens=3, temperature=0.0)

def told():
    return [line for line in lines if "cublas" in line.lower()]

def is_open():
    return "libcublasLt" in open("/proc/self/maps").read()
"""


@pytest.fixture(scope="session")
def build_library(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A folder in which the first of these names is the stand-in, and the others are no library, whatever the machine has."""

    def build(name: str = NAMES[0], *flags: str) -> Path:
        folder = tmp_path_factory.mktemp("library")
        for other in NAMES:
            (folder / other).write_text("")
        if name:
            command = ["cc", "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-fvisibility=hidden"]
            subprocess.run([*command, *flags, str(FAKE), "-o", str(folder / name)], check=True)
        return folder

    return build


@pytest.fixture(scope="session")
def cublas_lt(build_library: Callable[..., Path]) -> Path:
    return build_library()


Loose = Callable[..., str]


@pytest.fixture
def loose(run: Run, driver: Path, cublas_lt: Path, lt_log: Path) -> Loose:  # noqa: F811
    """What a process prints that has this driver and this library beside it."""

    def loose(program: str, library: Path = cublas_lt, **variables: object) -> str:
        return run(PROGRAM + program, LD_LIBRARY_PATH=f"{driver}:{library}", FAKE_LT_LOG=lt_log, **variables)

    return loose


@pytest.fixture
def lt_log(tmp_path: Path) -> Path:
    return tmp_path / "lt.log"


def heard(file: Path) -> list[str]:
    lines = file.read_text().splitlines()
    assert [line for line in lines if line.startswith("misuse")] == []
    return lines


def test_a_strict_engine_never_opens_it(loose: Loose, lt_log: Path) -> None:
    said = loose(
        "for options in ({}, {'strict': True}, {'strict': False, 'dtype': 'f32'}):\n"
        "    with opened(**options) as session:\n"
        "        ask(session)\n"
        "        assert 'linear.cublas_lt' not in session.counters(), options\n"
        "with QwenInferenceSession(model, device='cpu', strict=False) as session:\n"
        "    loose = ask(session).token_ids\n"
        "with QwenInferenceSession(model, device='cpu') as session:\n"
        "    assert ask(session).token_ids == loose\n"
        "print(is_open(), told())\n"
    )
    assert said == "False []\n"
    assert not lt_log.exists()


def test_it_multiplies_prompts_in_the_gpus_context_and_leaves_nothing(
    loose: Loose,
    lt_log: Path,
    log: Path,  # noqa: F811
) -> None:
    said = loose(
        "with opened(strict=False) as session:\n"
        "    ask(session, 'One')\n"
        "    before = session.counters()['linear.cublas_lt']\n"
        "    ask(session), ask(session)\n"
        "    print(before, session.counters()['linear.cublas_lt'], *told(), sep='\\n')\n"
        "with opened(strict=False) as session:\n"
        "    ask(session)\n"
        "assert len(told()) == 1\n"
    )
    before, products, *told = said.splitlines()
    assert before == "0"
    assert told == ["3 cuBLASLt 13.1.0 (libcublasLt.so.13) multiplies matrices by 64 rows and more"]
    lines = heard(lt_log)
    left = [line for line in lines if line.startswith("left: ")]
    assert len(left) == 2
    assert all(line.startswith("left: 0 layouts, 0 operations, 0 preferences; ") for line in left)
    assert sum(line.startswith("product of ") for line in lines[: lines.index(left[0])]) == int(products) > 10
    assert endings(log)


def test_the_hosts_thread_keeps_its_context_under_it(loose: Loose, lt_log: Path) -> None:
    loose(
        "fake.cuCtxSetCurrent(ctypes.c_void_p(4096))\n"
        "session = opened(strict=False)\n"
        "ask(session)\n"
        "session.close()\n"
        "handle = ctypes.c_void_p()\n"
        "assert fake.cuCtxGetCurrent(ctypes.byref(handle)) == 0 and handle.value == 4096\n"
    )
    assert heard(lt_log)[-1].startswith("left: 0 layouts")


@pytest.mark.parametrize("name", NAMES[1:])
def test_another_name_will_do(loose: Loose, build_library: Callable[..., Path], name: str) -> None:
    said = loose("with opened(strict=False):\n    print(*told())", library=build_library(name), FAKE_LT_VERSION=120803)
    assert said == f"3 cuBLASLt 12.8.3 ({name}) multiplies matrices by 64 rows and more\n"


@pytest.mark.parametrize(
    ("name", "flags", "variables", "message"),
    [
        ("", (), {}, "3 option 'strict' is 0, but there is no cuBLASLt (libcublasLt.so.13 or .12)"),
        (NAMES[0], ("-DWITHOUT_VERSION",), {}, "2 libcublasLt.so.13 has no function cublasLtGetVersion"),
        (NAMES[0], (), {"FAKE_LT_VERSION": 12103}, "2 libcublasLt.so.13 is of version 12103, older than CUDA 12's"),
    ],
)
def test_without_one_our_own_kernels_multiply(
    loose: Loose,
    build_library: Callable[..., Path],
    log: Path,  # noqa: F811
    name: str,
    flags: tuple[str, ...],
    variables: dict[str, object],
    message: str,
) -> None:
    said = loose(
        "for _ in range(2):\n"
        "    with opened(strict=False) as session:\n"
        "        ask(session)\n"
        "        assert 'linear.cublas_lt' not in session.counters()\n"
        "print(*told(), sep='\\n')\n",
        library=build_library(name, *flags),
        **variables,
    )
    assert said == f"{message}; {OWN}\n"  # once, however many engines there are
    assert endings(log)


@pytest.mark.parametrize(
    ("fails", "message"),
    [
        ("Create:1", f"2 cuBLASLt cannot begin on GPU 0 (CUBLAS_STATUS_NOT_INITIALIZED); {OWN}"),
        ("Matmul:15", f"2 cuBLASLt's product of N: CUBLAS_STATUS_NOT_SUPPORTED; {OWN} such"),
        ("found:15", None),  # for who listens at debug level
    ],
)
def test_what_it_refuses_is_no_error(
    loose: Loose,
    lt_log: Path,
    log: Path,  # noqa: F811
    fails: str,
    message: str | None,
) -> None:
    said = loose(
        "with opened(strict=False) as session:\n"
        "    ask(session)\n"
        "    assert session.counters()['linear.cublas_lt'] == 0\n"
        "print(*told()[1:], sep='\\n')\n",
        FAKE_LT_FAIL=fails,
    )
    lines = {re.sub(r"product of .*?:", "product of N:", line) for line in said.splitlines() if line}
    assert lines == ({message} if message else set())
    if lt_log.exists():
        assert not any(line.startswith("product") for line in heard(lt_log))
    assert endings(log)


def test_what_fails_within_is_an_error_and_a_lost_gpu_is_named_first(loose: Loose) -> None:
    program = "session = opened(strict=False)\n{}print(message(QwenInternalError, ask, session))"
    said = loose(program.format(""), FAKE_LT_FAIL="Matmul:13")
    wanted = r"cuBLASLt's product of \d+ rows with a matrix of \d+ x \d+: CUBLAS_STATUS_EXECUTION_FAILED; option 'strict' = 1 does without it\n"
    assert re.fullmatch(wanted, said), said
    said = loose(program.format("fail('cuStreamQuery', 0, 700)\n"), FAKE_LT_FAIL="Matmul:13")
    assert said.startswith("CUDA: the work on the GPU: an illegal memory access was encountered ")


def test_its_memory_may_not_be_there(loose: Loose, log: Path) -> None:  # noqa: F811
    said = loose(
        "for before in range(20):\n"
        "    with opened(strict=False) as session:\n"
        "        fail('cuMemAlloc_v2', before, 2)\n"
        "        try:\n"
        "            ask(session)\n"
        "        except QwenMemoryError:\n"  # of the step's own memory
        "            continue\n"
        "        assert fake.fake_failed()\n"
        "        print(session.counters()['linear.cublas_lt'], *told()[1:])\n"
        "        break\n"
    )
    assert re.fullmatch(rf"0 2 cannot allocate \d+ bytes for cuBLASLt on GPU 0; \d+ bytes are free; {OWN}\n", said), (
        said
    )
    assert endings(log)
