"""Projects of others: what the README shows for CMake, Meson and plain cc builds C and C++ programs that run.

Each is tried with the package's files, copied to another place, and, where QWEN_PREFIX names one, with a tree that
`meson install` made (.ci/run makes one with DESTDIR, and moves it).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest

TREES = ["wheel", *(["prefix"] if "QWEN_PREFIX" in os.environ else [])]
CMAKE = ["cmake"] if shutil.which("cmake") else []  # what a machine lacks makes no test


@pytest.fixture(scope="module", params=TREES)
def library_folder(request: pytest.FixtureRequest, package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with libqwen.so, pkgconfig/ and cmake/ of a tree that is not where it was installed."""
    if request.param == "prefix":
        (found,) = Path(os.environ["QWEN_PREFIX"]).rglob("qwen.pc")
        return found.parent.parent
    moved = tmp_path_factory.mktemp("moved to") / "here"
    for name in ("lib", "include"):
        shutil.copytree(package / name, moved / name)
    return moved / "lib"


def readme_block(root: Path, language: str, word: str) -> str:
    readme = (root / "README.md").read_text(encoding="utf-8")
    (block,) = [block for block in re.findall(rf"```{language}\n(.*?)```", readme, flags=re.DOTALL) if word in block]
    return str(block)


def shell(commands: str, folder: Path, *, succeeds: bool = True, **variables: str) -> str:
    path = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, **variables}
    run = subprocess.run(
        ["bash", "-c", f"set -e\n{commands}"], cwd=folder, env=environment, capture_output=True, text=True, timeout=120
    )
    assert (run.returncode == 0) == succeeds, run.stdout + run.stderr
    return run.stdout + run.stderr


@pytest.fixture
def project(root: Path, tmp_path: Path) -> Path:
    """A folder with the sources of two programs, one in C and one in C++."""
    for name in ("generate.c", "chat.cpp"):
        shutil.copy(root / "examples" / name, tmp_path)
    return tmp_path


@pytest.fixture
def answers(demo_model: Path, library_folder: Path) -> Callable[[Path], None]:
    """answers(folder): runs the two programs in it."""
    # The package's qwen.pc says where the library is for good; of a tree in the system's prefix, the system knows.
    knows = "rpath" in (library_folder / "pkgconfig" / "qwen.pc").read_text(encoding="utf-8")
    variables = {} if knows else {"LD_LIBRARY_PATH": str(library_folder)}

    def answers(folder: Path) -> None:
        assert "5." in shell(f"./generate '{demo_model}' 'What is 2 + 3?'", folder, **variables)
        assert "5." in shell(f"./chat '{demo_model}' <<< 'What is 2 + 3?'", folder, **variables)

    return answers


# The README's commands, which begin with what says where pip has put the package.
def commands(root: Path, word: str, library_folder: Path) -> str:
    lines = [line for line in readme_block(root, "sh", "qwen_DIR").splitlines() if line.startswith(word)]
    assert lines
    return "\n".join(lines).replace("$QWEN/lib", f'"{library_folder}"')


@pytest.mark.parametrize("tool", [*CMAKE, "meson"])
def test_a_project_finds_the_library(
    root: Path, project: Path, library_folder: Path, answers: Callable[[Path], None], tool: str
) -> None:
    name = {"cmake": "CMakeLists.txt", "meson": "meson.build"}[tool]
    (project / name).write_text(readme_block(root, tool, "project("), encoding="utf-8")
    shell(commands(root, tool, library_folder), project)
    answers(project / "build")


def test_cc_and_pkg_config_find_the_library(
    project: Path, library_folder: Path, answers: Callable[[Path], None]
) -> None:
    found = f"$(pkg-config --with-path='{library_folder}/pkgconfig' --cflags --libs qwen)"
    shell(f"eval cc $CFLAGS generate.c {found} -o generate; eval c++ $CFLAGS -std=c++17 chat.cpp {found} -o chat", project)
    answers(project)


VERSIONS = {
    "": True,
    "0.0.9": True,
    "{version}": True,
    "{version} EXACT": True,
    "0.0.9 EXACT": False,
    "{next}": False,
    "1.0": False,
    "0.0.1...0.9": True,
    "0.0.1...<{version}": False,
    "{next}...0.9999": False,
}


@pytest.mark.parametrize("wanted", VERSIONS if CMAKE else [])
def test_cmake_takes_an_earlier_version_and_no_later_one(library_folder: Path, tmp_path: Path, wanted: str) -> None:
    version = re.findall(r"^Version: (.*)$", (library_folder / "pkgconfig/qwen.pc").read_text(), flags=re.MULTILINE)[0]
    major, minor, _ = (int(number) for number in version.split("."))
    (tmp_path / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.19)\nproject(versions NONE)\n"
        f"find_package(qwen {wanted.format(version=version, next=f'{major}.{minor + 1}')} REQUIRED)\n"
    )
    said = shell(f"cmake . -Dqwen_DIR='{library_folder}/cmake/qwen'", tmp_path, succeeds=VERSIONS[wanted])
    assert VERSIONS[wanted] or f"qwen-config.cmake, version: {version}" in said


REFUSALS = {
    "rm lib/libqwen.so.0": "lib/libqwen.so.0 is missing",
    "rm include/qwen.h": "include/qwen.h is missing",
    "echo 'set(CMAKE_SIZEOF_VOID_P 4)' >> CMakeLists.txt": "(64-bit)",
}


@pytest.mark.parametrize("mishap", REFUSALS if CMAKE else [])
def test_cmake_says_what_is_wrong(package: Path, tmp_path: Path, mishap: str) -> None:
    for name in ("lib", "include"):
        shutil.copytree(package / name, tmp_path / name)
    lists = tmp_path / "CMakeLists.txt"
    lists.write_text("cmake_minimum_required(VERSION 3.16)\nproject(mishap NONE)\n")
    shell(f"{mishap}; echo 'find_package(qwen 0.0.1 REQUIRED)' >> CMakeLists.txt", tmp_path)
    said = shell("cmake . -Dqwen_DIR=$PWD/lib/cmake/qwen", tmp_path, succeeds=False)
    assert REFUSALS[mishap] in " ".join(said.split())
