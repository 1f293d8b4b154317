"""The wheel that is given to others: under the tag that auditwheel grants it, in an environment that has no compiler."""

from __future__ import annotations

import importlib.metadata
import importlib.resources
import os
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from_wheel = pytest.mark.skipif(
    not isinstance(importlib.resources.files("qwen_ffi"), Path), reason="an editable install: not a wheel"
)


@pytest.fixture(scope="module")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that pip installed as the wheel they came in (to build it again would take minutes), and then what the
    README's command does with a wheel."""
    folder = tmp_path_factory.mktemp("wheel")
    distribution = importlib.metadata.distribution("qwen-ffi")
    added = {"INSTALLER", "REQUESTED", "RECORD", "direct_url.json"}  # by pip; RECORD is written anew
    files = [file for file in distribution.files or [] if ".." not in file.parts and file.suffix != ".pyc"]
    record = next(file for file in files if file.name == "RECORD")
    files = [file for file in files if file.name not in added]
    machine = f"linux_{platform.machine()}"
    built = folder / "dist" / "local" / f"qwen_ffi-{distribution.version}-py3-none-{machine}.whl"
    built.parent.mkdir(parents=True)
    with zipfile.ZipFile(built, "w") as archive:
        for file in files:
            archive.write(str(file.locate()), str(file))
        rows = [f"{file},{file.hash.mode}={file.hash.value},{file.size}\n" for file in files if file.hash]
        archive.writestr(str(record), "".join([*rows, f"{record},,\n"]))

    (line,) = re.findall(r"^pip wheel .*$", (root / "README.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    build, repair = line.split(" && ")
    assert build == "pip wheel . --no-deps -w dist/local"
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
    subprocess.run(["bash", "-c", repair], check=True, cwd=folder, env={**os.environ, "PATH": path})
    (repaired,) = (folder / "dist").glob("*.whl")
    return repaired


@from_wheel
def test_it_asks_for_no_newer_glibc_than_it_must(wheel: Path) -> None:
    tag = re.search(r"-py3-none-manylinux_2_(\d+)_" + platform.machine() + r"\.whl$", wheel.name)
    assert tag is not None, wheel.name
    here = int(platform.libc_ver()[1].split(".")[1])
    # From 2.34 on, glibc holds the functions for threads under new versions. Headers later than 2.36 bring newer ones still.
    assert int(tag[1]) <= (34 if here <= 36 else here)


@from_wheel
def test_it_runs_where_there_is_no_compiler(wheel: Path, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path], check=True)
    (site,) = tmp_path.glob("lib/python3*/site-packages")
    pip = [sys.executable, "-m", "pip", "--python", tmp_path / "bin" / "python", "install", "-q"]
    subprocess.run([*pip, "--no-index", "--no-deps", wheel], check=True)
    for name in ("cffi", "pycparser", "numpy"):  # pip would fetch these, but a test needs no network
        for file in importlib.metadata.files(name) or []:
            top = site / file.parts[0]
            if file.parts[0] != ".." and not top.exists():
                top.symlink_to(importlib.metadata.distribution(name).locate_file(file.parts[0]))

    path = str(tmp_path / "bin")
    assert not any(shutil.which(compiler, path=path) for compiler in ("cc", "gcc", "c++", "clang", "ld"))
    script = (
        "from qwen_ffi import QwenInferenceSession, demo_model_path\n"
        "with QwenInferenceSession(demo_model_path()) as session:\n"
        "    print(session.generate('What is 17 + 25?', temperature=0.0, reasoning_mode=False))\n"
    )
    for command, said in ((["python", "-c", script], "17 plus 25 is 42."), (["qwen-ffi", "demo"], "623.")):
        run = subprocess.run(
            [f"{path}/{command[0]}", *command[1:]],
            cwd=tmp_path,
            env={"PATH": path},
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert (run.returncode, run.stderr) == (0, "")
        assert said in run.stdout
