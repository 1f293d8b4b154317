"""tests/gpu/run on a machine without a GPU: what it says there, and what it makes of figures, failures and time where there is one."""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = [ROOT / "tests" / "gpu", ROOT / "tests" / "benchmarks"]
NVCC = shutil.which("nvcc")
FAKE_GPU_TESTS = """#!/bin/sh
case "$1" in
--list-test-cases) printf '[doctest] listing\\n===\\nb, first\\nthe same bits\\na tile'"'"'s sum\\n===\\n[doctest] 3\\n';;
--measure) echo '{"name": "none", "bandwidth_gb_per_s": 100.0}';;
*) echo "$1" >> LOG
   case "$1" in *BROKEN*) echo 'out of luck'; exit 9;; esac
   echo '[doctest] test cases: 1 | 1 passed | 0 failed | 2 skipped';;
esac
"""


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """gpu_run.py, which finds its neighbours as tests/gpu/run does."""
    for folder in reversed(FOLDERS):
        monkeypatch.syspath_prepend(folder)
    import gpu_benchmarks  # noqa: F401
    import gpu_checks  # noqa: F401
    import gpu_run

    yield gpu_run
    for name, module in list(sys.modules.items()):
        if Path(getattr(module, "__file__", None) or "/").parent in FOLDERS:
            del sys.modules[name]


@pytest.fixture
def checks(gpu: ModuleType) -> ModuleType:
    return sys.modules["gpu_checks"]


@pytest.fixture
def timing(gpu: ModuleType) -> ModuleType:
    return sys.modules["gpu_benchmarks"]


def executable(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o755)
    return path


# ------------------------------------------------------------------------------------------------- without a GPU


@pytest.mark.parametrize(("more", "status"), [([], 77), (["--allow-incomplete"], 0)])
def test_without_a_gpu_every_part_says_so(tmp_path: Path, more: list[str], status: int) -> None:
    done = subprocess.run(
        [ROOT / "tests" / "gpu" / "run", "--json", tmp_path / "gpu.json", *more],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (status, "")
    assert done.stdout.startswith("no GPU: the" if "no NVIDIA driver" in done.stdout else "no GPU: ")
    told = json.loads((tmp_path / "gpu.json").read_text())
    assert told["gpu"] == "no GPU"
    assert list(told["parts"]) == ["correctness", "references", "sanitizers", "benchmarks"]
    for name, part in told["parts"].items():
        assert part["status"] == "not complete"
        assert part["why"].startswith("no GPU: ")
        assert re.search(rf"^{name} +not complete +0  no GPU: ", done.stdout, flags=re.MULTILINE)


if NVCC is not None:

    def test_gpu_tests_say_in_one_line_that_there_is_no_gpu(tmp_path: Path) -> None:
        """QWEN_GPU_TESTS: the whole program; else it is made without its cases here, which nvcc compiles for a minute."""
        program = os.environ.get("QWEN_GPU_TESTS") or str(tmp_path / "gpu-tests")
        if "QWEN_GPU_TESTS" not in os.environ:
            assert NVCC is not None
            names = (
                "backend/cuda/device",
                "backend/cuda/device_cuda",
                "backend/cuda/driver",
                "backend/cuda/kernel_registry",
                "base/error",
                "base/log",
            )
            sources = [ROOT / "tests/gpu/main.cpp", *(ROOT / "libqwen" / f"{name}.cpp" for name in names)]
            flags = [
                "-std=c++20",
                "--cudart=none",
                "-gencode=arch=compute_90,code=sm_90",
                "-I",
                ROOT / "libqwen",
                "-o",
                program,
            ]
            subprocess.run([NVCC, *flags, *sources, "-ldl"], check=True)
        for arguments in ([], ["--measure"], ["--test-case=cuda linear*"]):
            done = subprocess.run(
                [program, *arguments],
                env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
                capture_output=True,
                text=True,
                timeout=60,
            )
            assert (done.returncode, done.stderr) == (77, "")
            assert re.fullmatch(r"no GPU: option 'device' asks for a GPU, but .+\n", done.stdout)


def test_a_driver_that_is_not_there_is_named(gpu: ModuleType) -> None:
    with pytest.raises(gpu.IncompleteError, match=r"no GPU: there is no NVIDIA driver \(libno-such-driver.so\)"):
        gpu.find_gpu("libno-such-driver.so")


DRIVER = """
#include <string.h>
int cuInit(unsigned flags) { return flags + RESULT; }
int cuDeviceGetCount(int *count) { return *count = COUNT, 0; }
int cuDeviceGet(int *device, int ordinal) { return *device = 40 + ordinal, ordinal; }
int cuDeviceGetName(char *name, int length, int device) { return strncpy(name, "Some GPU", length), device != 40; }
int cuDeviceGetAttribute(int *value, int attribute, int device) { return *value = attribute == 75 ? 9 : 0, device != 40; }
int cuDriverGetVersion(int *version) { return *version = 13010, 0; }
"""


@pytest.mark.parametrize(
    ("result", "count", "message"),
    [
        (0, 1, ""),
        (0, 0, "no GPU: the NVIDIA driver reports none"),
        (100, 1, r"no GPU: the NVIDIA driver does not begin \(error 100 of cuInit\)"),
    ],
)
def test_a_driver_is_asked_for_its_first_gpu(
    gpu: ModuleType, tmp_path: Path, result: int, count: int, message: str
) -> None:
    (tmp_path / "driver.c").write_text(DRIVER)
    flags = [f"-DRESULT={result}", f"-DCOUNT={count}", "-shared", "-fPIC", "-o", tmp_path / "libdriver.so"]
    subprocess.run(["cc", *flags, tmp_path / "driver.c"], check=True)
    if not message:
        found = gpu.find_gpu(f"{tmp_path}/libdriver.so")
        assert found == {"name": "Some GPU", "compute_capability": "9.0", "driver_cuda": "13.1"}
        return
    with pytest.raises(gpu.IncompleteError, match=message):
        gpu.find_gpu(f"{tmp_path}/libdriver.so")


# ------------------------------------------------------------------------------------------------- what is asked for


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--only", "speed"], "invalid choice: 'speed'"),
        (["--library", "/no/such/libqwen.so"], "--library: /no/such/libqwen.so is not a file"),
        (["--gpu-tests", "/no/such/gpu-tests"], "--gpu-tests: /no/such/gpu-tests is not a file"),
        (["--rounds", "0"], "--rounds must be at least 1"),
        (["--rows", "decode"], "'decode' is no row: prefillN"),
        (["--rows", "process"], "the row 'process' is none of a GPU"),
        (["--limit-seconds", "0"], "--limit-seconds must be above 0"),
    ],
)
def test_a_wrong_argument_is_named(
    gpu: ModuleType, capsys: pytest.CaptureFixture[str], given: list[str], message: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        gpu.arguments_of(given)
    assert message in capsys.readouterr().err


def cuda_cases() -> set[str]:
    """The names of all cases of tests/cuda."""
    texts = [file.read_text(encoding="utf-8") for file in (ROOT / "tests" / "cuda").glob("test_*.cpp")]
    literals = [re.findall(r'TEST_CASE\(\s*((?:"[^"]*"\s*)+)\)', text) for text in texts]
    return {"".join(re.findall(r'"([^"]*)"', each)) for found in literals for each in found}


def test_cases_that_are_named_exist(checks: ModuleType) -> None:
    assert set(checks.SANITIZED_CASES) <= cuda_cases()
    main = (ROOT / "tests" / "gpu" / "main.cpp").read_text(encoding="utf-8")
    left_out = "".join(re.findall(r'"([^"]*)"', main.split("kExecutorOnly =")[1].split(";")[0]))
    assert left_out
    assert set(left_out.split(",")) <= {case.replace(",", "?") for case in cuda_cases()}


def test_bits_come_first_and_what_they_rest_on_before_them(checks: ModuleType) -> None:
    listing = "[doctest] listing\n===\nroutes\nthe same bits, always\na tile's sum\n===\n[doctest] unskipped: 3\n"
    cases = checks.in_order(checks.cases_of(listing))
    assert cases == ["a tile's sum", "the same bits, always", "routes"]
    assert checks.chosen(cases[1]) == "--test-case=the same bits? always"


def test_no_case_at_all_is_no_success(checks: ModuleType) -> None:
    line = "[doctest] test cases: {} | {} passed | {} failed | 20 skipped"
    assert checks.passed(0, line.format("  1", "  1", 0))
    assert not checks.passed(0, line.format(0, 0, 0))
    assert not checks.passed(1, line.format(1, 1, 0))
    assert not checks.passed(0, line.format(1, 0, 1))
    assert not checks.passed(0, "")


# ------------------------------------------------------------------------------------------------- what is made of it


def report(dtype: str = "f32", **more: Any) -> str:
    check = {"name": "logits", "measured": 1e-4, "limit": 1e-3, "at_least": False}
    whole = {"case": "c", "file": "expected", "setting": {"dtype": dtype}, "backend": "cuda.sm_90", "checks": [check]}
    return json.dumps({**whole, "not_supported": "", "failure": "", "ok": True, **more})


@pytest.mark.parametrize(
    ("code", "line", "why"),
    [
        (0, report(), ""),
        (0, report(not_supported="text only", backend=""), ""),
        (0, report(backend="cpu.avx2"), "c: f32 expected: computed by cpu.avx2, not on the GPU"),
        (1, report(ok=False, failure="QwenError: lost"), "c: f32 expected: QwenError: lost"),
        (-11, "Segmentation fault", "c: validate ended with -11: a warning\nSegmentation fault"),
        (-6, report(), "c: validate ended with -6: "),
        (0, "", "c: validate ended with 0: "),
        (
            1,
            report(
                "bf16", ok=False, checks=[{"name": "KL", "measured": float("nan"), "limit": 0.5, "at_least": False}]
            ),
            "c: bf16 expected: KL nan, limit 0.5",
        ),
        (
            1,
            report("bf16", ok=False, checks=[{"name": "same", "measured": 3, "limit": 4, "at_least": True}]),
            "c: bf16 expected: same 3, limit 4",
        ),
    ],
)
def test_a_checkpoint_is_judged_by_its_numbers_and_by_who_computed_it(
    gpu: ModuleType, checks: ModuleType, code: int, line: str, why: str
) -> None:
    part = gpu.Part()
    checks.judge("c", code, f"a warning\n{line}\n", part)
    assert part.status == ("failed" if why else "passed")
    assert part.why.startswith(why)
    assert part.details["failures"] == ([part.why] if why else [])


def test_where_nothing_is_supported_nothing_has_passed(
    gpu: ModuleType, checks: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A library without CUDA calls every checkpoint not supported."""
    (tmp_path / "case").mkdir()
    (tmp_path / "case" / "expected.safetensors").touch()
    monkeypatch.setattr(checks, "COMMITTED", tmp_path / "none")
    said = gpu.Done(0, report(not_supported="this build of libqwen has no CUDA", backend=""))
    clock = SimpleNamespace(check=lambda done: None, run=lambda command, env: said)
    arguments = SimpleNamespace(reference=tmp_path, device="cuda")
    setup = SimpleNamespace(python=lambda: "python", environment=dict, clock=clock, arguments=arguments)
    part = gpu.Part()
    checks.references(setup, part)
    assert (part.status, part.why) == ("failed", "nothing was computed: this build of libqwen has no CUDA")
    assert part.details["counts"] == "0 of 0 within limits, 1 not supported"


@pytest.mark.parametrize(
    ("before", "status", "why"),
    [
        (["/usr/bin/env"], "not complete", "a case takes longer than 0.2 s"),
        ([], "failed", "a case: ended after 0 s"),
    ],
)
def test_a_case_that_does_not_end_is_wrong_but_for_a_sanitizer_slow(
    gpu: ModuleType,
    checks: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    before: list[str],
    status: str,
    why: str,
) -> None:
    monkeypatch.setattr(checks, "MOST_SECONDS", 0.2)
    arguments = SimpleNamespace(gpu_tests=executable(tmp_path / "endless", "#!/bin/sh\nsleep 60\n"), reference=tmp_path)
    part = gpu.Part()
    checks.one_by_one(gpu.Setup(arguments, gpu.Clock(60), {}, tmp_path), part, ["a case"], before, "")
    assert (part.status, part.why) == (status, why)


def test_the_worst_of_a_part_decides(gpu: ModuleType) -> None:
    part = gpu.Part()
    part.miss("not complete", "no time")
    part.miss("failed", "first")
    part.miss("failed", "second")
    part.miss("not complete", "no tool")
    assert (part.status, part.why) == ("failed", "first")


@pytest.mark.parametrize(
    ("statuses", "no_gpu", "allow", "expected"),
    [
        (["passed", "passed"], False, False, 0),
        (["passed", "not complete"], False, False, 3),
        (["passed", "not complete"], False, True, 0),
        (["not complete", "not complete"], True, False, 77),
        (["not complete", "not complete"], True, True, 0),
        (["not complete", "failed"], False, True, 1),
    ],
)
def test_the_exit_status_is_that_of_the_worst_part(
    gpu: ModuleType, statuses: list[str], no_gpu: bool, allow: bool, expected: int
) -> None:
    parts = {str(i): gpu.Part(status) for i, status in enumerate(statuses)}
    assert gpu.exit_status(parts, no_gpu, allow) == expected


def test_a_part_that_breaks_has_failed_and_one_that_cannot_go_on_is_not_complete(gpu: ModuleType) -> None:
    def breaks(setup: Any, part: Any) -> None:
        raise KeyError("a defect")

    def stops(setup: Any, part: Any) -> None:
        raise gpu.IncompleteError("no tool\nand more of it")

    parts = {"breaks": gpu.Part(), "stops": gpu.Part(details={"counts": "1 of 2"})}
    gpu.run_part(parts["breaks"], breaks, None)
    gpu.run_part(parts["stops"], stops, None)
    assert gpu.summary(parts)[1:] == [
        ["breaks", "failed", "", "0", "KeyError: 'a defect'"],
        ["stops", "not complete", "1 of 2", "0", "no tool"],
    ]


def test_a_program_ends_with_its_time_and_its_children_with_it(gpu: ModuleType, tmp_path: Path) -> None:
    child = tmp_path / "child"
    endless = ["sh", "-c", f"sleep 60 & echo $! > {child}; echo begun; wait"]
    done = gpu.Clock(60).run(endless, most=0.5)
    assert (done.code, done.out) == (124, "begun\n\nended after 0 s")
    state = Path(f"/proc/{child.read_text().strip()}/stat")
    end = time.monotonic() + 20
    while state.exists() and state.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < end
        time.sleep(0.01)
    clock = gpu.Clock(0.5)
    with pytest.raises(gpu.IncompleteError, match="the time was up within sh -c"):
        clock.run(endless)
    with pytest.raises(gpu.IncompleteError, match="the time was up; sh was not started"):
        clock.run(endless)
    with pytest.raises(gpu.IncompleteError, match="cannot run /no/such/program: No such file"):
        gpu.Clock(60).run(["/no/such/program"])


def checkpoint(folder: Path, shapes: dict[str, list[int]]) -> Path:
    """model.safetensors of bf16 tensors, without their bytes."""
    header: dict[str, Any] = {"__metadata__": {}}
    at = 0
    for name, shape in shapes.items():
        size = 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text)
    return folder


def test_weights_are_those_that_a_step_reads(timing: ModuleType, tmp_path: Path) -> None:
    tied = {"model.embed_tokens.weight": [100, 8], "model.layers.0.q.weight": [6, 8], "model.norm.weight": [8]}
    assert timing.weights(checkpoint(tmp_path, tied)) == {"read": 2 * (800 + 48 + 8), "multiplied": 48}
    untied = {**tied, "lm_head.weight": [100, 8]}
    assert timing.weights(checkpoint(tmp_path, untied)) == {"read": 2 * (800 + 48 + 8), "multiplied": 48}


def test_a_figure_is_put_beside_what_the_machine_can_do(timing: ModuleType) -> None:
    of = {"read": 10**9, "multiplied": 5 * 10**8}
    assert timing.reached("decode16", 1000, of, 4000) == "1000 GB/s of weights, 25 %"
    assert timing.reached("streams4", 4000, of, 4000) == "1000 GB/s of weights, 25 %"
    assert timing.reached("prefill512", 200_000, of, 4000) == "200 TFLOP/s"


def test_the_table_has_ours_theirs_and_empty_cells(timing: ModuleType) -> None:
    def record(**figures: dict[str, float]) -> dict[str, Any]:
        return {"figures": figures, "neighbour": False, "disturbed": False}

    opened = {"open to first token, s": {"libqwen": 0.5, "transformers": 2.0}}
    shape = {
        "weights": {"read": 10**9, "multiplied": 5 * 10**8},
        "records": [
            record(decode16={"libqwen": 1000.0, "strict=0": 1000.0, "transformers": 500.0}),
            record(prefill512={"libqwen": 960.0, "strict=0": 1000.0}),
            record(streams64={"libqwen": 64.0}),
        ],
        "first_token": [record(**opened)],
        "engines": {"strict=0": "0.1.0, cuda.sm_90, cuBLASLt"},
    }
    details = {"gpu": {"bandwidth_gb_per_s": 4000.0}, "shapes": {"Tiny": shape}}
    thousand = "1000 (1000 to 1000)"
    ((title, lines),) = timing.benchmark_tables(details)
    assert title == "Tiny, bf16, tokens/s (median, min to max); a copy moves 4000 GB/s"
    assert lines == [
        ["", "libqwen", "strict=0", "transformers", "cost of strict", "ours / transformers", "libqwen reached"],
        ["decode16", thousand, thousand, "500.0 (500.0 to 500.0)", "0.0 %", "2.00", "1000 GB/s of weights, 25 %"],
        ["prefill512", "960.0 (960.0 to 960.0)", thousand, "", "4.0 %", "", "0.96 TFLOP/s"],
        ["streams64", "64.0 (64.0 to 64.0)", "", "", "", "", "1 GB/s of weights, 0 %"],
        ["open to first token, s", "0.50 (0.50 to 0.50)", "", "2.00 (2.00 to 2.00)", "", "4.00", ""],
    ]
    shape["engines"]["strict=0"] = "0.1.0, cuda.sm_90, no cuBLASLt"
    assert timing.benchmark_tables(details)[0][0] == f"{title}; no cuBLASLt was found, so strict=0 is the same kernels"
    assert timing.benchmark_tables({}) == []


def test_dependent_launches_have_a_column_where_they_were_timed(timing: ModuleType) -> None:
    figures = {"decode16": {"libqwen": 1000.0, timing.DEPENDENT: 1250.0, "transformers": 500.0}}
    opened = {"open to first token, s": {"libqwen": 0.5, "transformers": 2.0}}
    shape = {
        "weights": {"read": 10**9, "multiplied": 5 * 10**8},
        "records": [{"figures": figures, "neighbour": False, "disturbed": False}],
        "first_token": [{"figures": opened, "neighbour": False, "disturbed": False}],
        "engines": {},
    }
    ((_, lines),) = timing.benchmark_tables({"gpu": {"bandwidth_gb_per_s": 4000.0}, "shapes": {"Tiny": shape}})
    head = ["", "libqwen", "cuda_dependent_launch=1", "transformers"]
    assert lines[0] == [*head, "ours / cuda_dependent_launch=1", "ours / transformers", "libqwen reached"]
    assert lines[1][4:6] == ["0.80", "2.00"]
    assert lines[2][2] == lines[2][4] == ""
    assert lines[2][5] == "4.00"


# ------------------------------------------------------------------------------------------------- all of it


def test_a_whole_run_with_a_cpu_in_the_gpus_place(
    gpu: ModuleType,
    checks: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    package: Path,
    tmp_path: Path,
) -> None:
    """Everything but the GPU: what computed on something else is found out, and does not stop the rest."""
    committed = tmp_path / "committed"
    committed.mkdir()
    (committed / "qwen3_yarn").symlink_to(ROOT / "tests" / "parity" / "data" / "qwen3_yarn")
    monkeypatch.setattr(checks, "COMMITTED", committed)
    monkeypatch.setattr(gpu, "find_gpu", lambda: {"name": "none", "compute_capability": "9.0"})
    monkeypatch.setattr(checks, "SANITIZED_CASES", ("fine", "BROKEN, it is"))
    log = tmp_path / "log"
    fake = executable(tmp_path / "gpu-tests", FAKE_GPU_TESTS.replace("LOG", str(log)))
    executable(tmp_path / "compute-sanitizer", '#!/bin/sh\nshift 4\nexec "$@"\n')
    # What the run puts into the environment goes with this test.
    for name in ("PYTHONPATH", "QWEN_LIBRARY", "HF_HUB_OFFLINE"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    given = f"--gpu-tests {fake} --library {package}/lib/libqwen.so.0 --json {tmp_path}/found.json --device cpu"
    given += (
        f" --reference {tmp_path}/none --cache {tmp_path}/cache --config {ROOT}/tests/benchmarks/data/tiny.config.json"
    )
    given += " --rows prefill40,decode40,streams3 --rounds 1 --torch-python /no/such/python"
    assert gpu.main(given.split()) == 1
    told = json.loads((tmp_path / "found.json").read_text())
    parts = told["parts"]
    assert {name: part["status"] for name, part in parts.items()} == {
        "correctness": "not complete",  # no reference checkpoints
        "references": "failed",
        "sanitizers": "failed",
        "benchmarks": "not complete",  # no transformers
    }
    assert parts["correctness"]["details"]["counts"] == "3 of 3"
    assert log.read_text().splitlines()[:3] == [
        "--test-case=a tile's sum",
        "--test-case=the same bits",
        "--test-case=b? first",
    ]
    assert re.search("qwen3_yarn: f32 expected: computed by cpu.*, not on the GPU", parts["references"]["why"])
    assert parts["sanitizers"]["details"]["counts"] == "2 of 4"
    assert parts["sanitizers"]["details"]["failures"] == [
        "BROKEN, it is [memcheck] (exit status 9)",
        "BROKEN, it is [racecheck] (exit status 9)",
    ]
    assert "cannot run /no/such/python" in parts["benchmarks"]["why"]
    shape = parts["benchmarks"]["details"]["shapes"]["tiny"]
    assert shape["failures"] == {}
    assert "cpu." in shape["engines"]["libqwen"]
    assert shape["engines"]["strict=0"].endswith(", no cuBLASLt")
    out = capsys.readouterr().out
    cell = r"[\d.]+ \([\d.]+ to [\d.]+\)"
    for row, what in {"prefill40": "TFLOP/s", "decode40": "GB/s of weights", "streams3": "GB/s of weights"}.items():
        line = rf"^\| {row}[^|]* \| {cell} \| {cell} \| {cell} \| {cell} \|  \| [\d.]+ \| [\d.]+ \| -?[\d.]+ % \|  \| .*{what}"
        assert re.search(line, out, flags=re.MULTILINE), out
    assert "; no cuBLASLt was found, so strict=0 is the same kernels\n" in out
    assert re.search(rf"^\| open to first token, s \| {cell} \|", out, flags=re.MULTILINE), out
    assert "failed: BROKEN, it is [racecheck] (exit status 9)" in out
