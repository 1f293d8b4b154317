"""qwen-ffi doctor: on a sound machine nothing is a problem; every broken folder is one, with its name and what to do."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import qwen_ffi
from qwen_ffi._safetensors import read_safetensors, write_safetensors
from qwen_ffi.cli import machine, main
from qwen_ffi.cli.machine import machine_checks, size

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"

Doctor = Callable[..., tuple[int, dict[str, dict[str, str]]]]


@pytest.fixture
def doctor(capsys: pytest.CaptureFixture[str]) -> Doctor:
    """doctor(model, *flags): the exit code, and the checks by their names."""

    def doctor(*arguments: str | Path) -> tuple[int, dict[str, dict[str, str]]]:
        code = main(["doctor", "--json", *map(str, arguments)])
        report = json.loads(capsys.readouterr().out)
        assert set(report) == {"checks", "ok"}
        assert report["ok"] == (code == 0)
        return code, {check["name"]: check for check in report["checks"]}

    return doctor


def test_a_sound_machine(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("QWEN_CPU_ISA", "QWEN_THREADS"):
        monkeypatch.delenv(name, raising=False)
    code, checks = doctor()
    assert code == 0
    assert list(checks) == (
        "package library instruction_sets cpu amx cores memory gpu huge_pages limits hub".split()
    )
    assert qwen_ffi.version() in checks["package"]["message"]
    assert qwen_ffi.build_info()["library"] in checks["library"]["message"]
    assert f"used: {qwen_ffi.build_info()['cpu_isa'][-1]}" in checks["instruction_sets"]["message"]
    assert ("no CUDA" in checks["gpu"]["message"]) == ("cuda" not in qwen_ffi.build_info()["backends"])


def test_a_sound_model(doctor: Doctor, demo_model: Path) -> None:
    code, checks = doctor(demo_model)
    assert code == 0
    assert {check["status"] for check in checks.values() if check["name"] not in ("gpu", "instruction_sets")} == {"ok"}
    assert "Qwen3ForCausalLM" in checks["model"]["message"]
    assert "one token" in checks["smoke_test"]["message"]
    assert "smoke_test" not in doctor(demo_model, "--quick")[1]


def test_lines_for_people(demo_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", str(demo_model), "--quick"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("ok       package ")
    assert lines[-1].startswith("no problems, ")


def test_the_chosen_threads_fit_the_engine(doctor: Doctor, demo_model: Path) -> None:
    with qwen_ffi.QwenInferenceSession(demo_model) as session:
        assert f"; {session.stats().threads} thread" in doctor()[1]["cores"]["message"]


def test_environment_variables_that_slow_down(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWEN_THREADS", "999")
    monkeypatch.setenv("QWEN_CPU_ISA", "portable")
    checks = doctor()[1]
    assert checks["cores"]["status"] == "warning"
    assert "QWEN_THREADS" in checks["cores"]["advice"]
    assert (checks["instruction_sets"]["status"] == "warning") == (len(qwen_ffi.build_info()["cpu_isa"]) > 1)
    monkeypatch.setenv("QWEN_CPU_ISA", "vax")
    assert doctor()[0] == 1


def test_a_library_that_does_not_load(child: dict[str, Any], demo_model: Path, tmp_path: Path) -> None:
    env = {**child["env"], "QWEN_LIBRARY": str(tmp_path / "none.so")}
    command = [sys.executable, "-m", "qwen_ffi", "doctor", str(demo_model), "--json"]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=child["cwd"], env=env)
    assert run.returncode == 1
    checks = json.loads(run.stdout)["checks"]
    assert [check["name"] for check in checks if check["status"] == "problem"] == ["library"]
    assert "none.so" in checks[0]["message"]


def shards(folder: Path) -> None:
    tensors = read_safetensors(folder / WEIGHTS)
    names = sorted(tensors)
    for number, part in enumerate((names[::2], names[1::2]), 1):
        write_safetensors(folder / f"model-{number}.safetensors", {name: tensors[name] for name in part})
    places = {name: f"model-{1 + place % 2}.safetensors" for place, name in enumerate(names)}
    (folder / INDEX).write_text(json.dumps({"weight_map": places}))
    (folder / WEIGHTS).unlink()


def without_a_shard(folder: Path) -> None:
    shards(folder)
    (folder / "model-2.safetensors").unlink()


def cut(folder: Path, name: str, length: int) -> None:
    (folder / name).write_bytes((folder / name).read_bytes()[:length])


def change(folder: Path, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))


# What is broken -> the check that says so, a part of its message, and a part of its advice.
BROKEN: dict[str, tuple[Callable[[Path], object], str, str, str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), "files", "config.json", "download"),
    "no weights": (lambda f: (f / WEIGHTS).unlink(), "files", WEIGHTS, "download"),
    "GGUF": (lambda f: (f / WEIGHTS).rename(f / "model.gguf"), "files", WEIGHTS, "GGUF"),
    "pointer": (lambda f: (f / WEIGHTS).write_text(POINTER), "files", "git-lfs", "lfs pull"),
    "missing shard": (without_a_shard, "files", "model-2.safetensors", "download"),
    "cut weights": (lambda f: cut(f, WEIGHTS, 100_000), "weights", "is cut off: 100.0 kB of", "download"),
    "cut header": (lambda f: cut(f, WEIGHTS, 100), "weights", "ends within its header", "download"),
    "empty weights": (lambda f: cut(f, WEIGHTS, 0), "weights", "has only 0 bytes", "download"),
    "long weights": (lambda f: (f / WEIGHTS).open("ab").write(b"12"), "weights", "has 2 bytes too many", "download"),
    "broken config": (lambda f: (f / "config.json").write_text("{"), "config", "config.json", ""),
    "unknown": (lambda f: change(f, architectures=["Llama"], model_type="llama"), "model", "Llama", ""),
    "broken tokenizer": (lambda f: cut(f, "tokenizer.json", 5000), "tokenizer", "tokenizer.json", ""),
    "broken generation_config": (
        lambda f: (f / "generation_config.json").write_text("[]"),
        "generation_config",
        "generation_config.json",
        "",
    ),
    "broken template": (
        lambda f: (f / "chat_template.jinja").write_text("{% for %}"),
        "chat_template",
        "chat_template.jinja",
        "",
    ),
    "a template that fails": (
        lambda f: (f / "chat_template.jinja").write_text("{{ raise_exception('no') }}"),
        "chat_template",
        "no",
        "",
    ),
    "a template that drops the message": (
        lambda f: (f / "chat_template.jinja").write_text("nothing"),
        "chat_template",
        "leaves the message out",
        "",
    ),
}


@pytest.mark.parametrize("what", BROKEN)
def test_broken_folders(doctor: Doctor, demo_model: Path, tmp_path: Path, what: str) -> None:
    damage, name, message, advice = BROKEN[what]
    folder = shutil.copytree(demo_model, tmp_path / "model")
    damage(folder)
    code, checks = doctor(folder)
    assert code == 1
    assert checks[name]["status"] == "problem", checks
    assert message in checks[name]["message"]
    assert advice in checks[name]["advice"]


def test_shards_that_are_all_there(doctor: Doctor, demo_model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(demo_model, tmp_path / "model")
    shards(folder)
    code, checks = doctor(folder)
    assert code == 0
    assert "2 files" in checks["weights"]["message"]


def test_what_is_merely_odd_is_a_warning(doctor: Doctor, demo_model: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(demo_model, tmp_path / "model")
    (folder / "generation_config.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    code, checks = doctor(folder)
    assert code == 0
    assert [checks[name]["status"] for name in ("generation_config", "chat_template")] == ["warning", "warning"]
    (folder / "tokenizer.json").unlink()
    code, checks = doctor(folder)
    assert (code, checks["files"]["status"], checks["tokenizer"]["status"]) == (0, "warning", "warning")


def test_a_model_larger_than_memory(doctor: Doctor, demo_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qwen_ffi.cli.checkpoint.available_memory", lambda: 1_000_000)
    checks = doctor(demo_model, "--quick")[1]
    assert checks["model_memory"]["status"] == "warning"
    assert "1.0 MB are free" in checks["model_memory"]["message"]


def test_models_that_are_not_there(doctor: Doctor, demo_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    assert "does not exist" in doctor(tmp_path / "none")[1]["folder"]["message"]
    assert "is a file" in doctor(demo_model / "config.json")[1]["folder"]["message"]
    code, checks = doctor("Qwen/Qwen3-0.6B")
    assert code == 1
    assert checks["folder"]["advice"] == "qwen-ffi info Qwen/Qwen3-0.6B downloads it"


def test_a_check_that_cannot_be_made_stops_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable(key: str) -> int:
        raise PermissionError(13, "Permission denied", "/proc/meminfo")

    monkeypatch.setattr(machine, "_meminfo", unreadable)
    checks = {check.name: check for check in machine_checks()}
    assert "could not be checked: PermissionError" in checks["memory"].message
    assert "limits" in checks


def test_memory_of_a_control_group(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("5000000\n")
    (tmp_path / "memory.current").write_text("2000000\n")
    monkeypatch.setattr(machine, "_control_groups", lambda controller: iter([tmp_path]))
    assert machine.available_memory() == 3_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.available_memory() > 3_000_000


def test_quota_of_a_control_group(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, doctor: Doctor) -> None:
    monkeypatch.delenv("QWEN_THREADS", raising=False)
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    monkeypatch.setattr(machine, "_control_groups", lambda controller: iter([tmp_path]))
    message = doctor()[1]["cores"]["message"]
    assert f"{len(os.sched_getaffinity(0))} of " in message
    assert "quota 0.5; 1 thread" in message


def test_sizes_for_people() -> None:
    assert [size(n) for n in (0, 999, 1000, 3_494_656, 2e9, 5e12, 7e16)] == (
        "0 bytes|999 bytes|1.0 kB|3.5 MB|2.0 GB|5.0 TB|70000.0 TB".split("|")
    )
