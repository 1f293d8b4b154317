"""The rooms of libqwen/ in the order of the design: a file includes only what lies in its own room or below."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ["base", "checkpoint", "text", "media", "backend", "model", "engine", "registry", "api"]
MAY_INCLUDE = {room: set(ROOMS[: position + 1]) for position, room in enumerate(ROOMS)}
MAY_INCLUDE["registry"] = {"base", "checkpoint", "registry"}

SOURCES = sorted(
    path for path in (ROOT / "libqwen").rglob("*") if path.suffix in {".h", ".hpp", ".cpp", ".inc", ".cu", ".cuh"}
)


def includes(path: Path) -> list[str]:
    return re.findall(r'^\s*#\s*include\s+"([^"]+)"', path.read_text(encoding="utf-8"), flags=re.MULTILINE)


def is_source(path: Path) -> bool:
    return path.is_file() or path.with_name(path.name + ".in").is_file()  # meson writes version.h from version.h.in


def wrong_arrows(path: Path, included: list[str]) -> list[str]:
    room = path.relative_to(ROOT / "libqwen").parts[0]
    wrong = []
    for name in included:
        if name in ("qwen.h", "qwen.hpp"):
            if room != "api":
                wrong.append(f"{name}: only api/ sees the public header")
        elif is_source(ROOT / "libqwen" / name):
            target = name.split("/")[0]
            if target not in MAY_INCLUDE[room]:
                wrong.append(f"{name}: {room}/ may not include {target}/")
        elif not is_source(path.parent / name):
            wrong.append(f"{name}: neither in libqwen/ nor beside the file")
        elif ".." in name:
            wrong.append(f"{name}: say it from libqwen/, as in 'base/error.h'")
    return wrong


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT / "libqwen")))
def test_includes_point_down(path: Path) -> None:
    assert wrong_arrows(path, includes(path)) == []


def test_every_room_is_in_the_picture() -> None:
    rooms = {path.relative_to(ROOT / "libqwen").parts[0] for path in SOURCES}
    assert rooms <= set(ROOMS)


@pytest.mark.parametrize(
    ("file", "included"),
    [
        ("base/json.cpp", "checkpoint/tensor.h"),
        ("engine/engine.cpp", "qwen.h"),
        ("registry/registry.cpp", "text/tokenizer.h"),
        ("text/bpe.cpp", "../base/error.h"),
    ],
)
def test_a_wrong_arrow_is_seen(file: str, included: str) -> None:
    assert wrong_arrows(ROOT / "libqwen" / file, [included])


def exists(name: str, files: dict[Path, str]) -> bool:
    """Whether a name as the tour writes it (`fail()`, `Engine::step()`, `ModelConfig`) is in the source."""
    owner, _, member = name.removesuffix("()").rpartition("::")
    call = r"\s*\(" if name.endswith("()") else r"\b"
    if not owner:
        return any(re.search(rf"\b{member}{call}", text) for text in files.values())
    return any(
        re.search(rf"\b{owner}::{member}{call}", text)  # defined outside the class, or inside it:
        or (re.search(rf"\b(class|struct|enum class) {owner}\b", text) and re.search(rf"\b{member}{call}", text))
        for text in files.values()
    )


def test_the_tour_names_only_what_exists() -> None:
    tour = re.sub(r"```.*?```", "", (ROOT / "libqwen" / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    headers = (ROOT / "include").glob("qwen.h*")
    files = {path: path.read_text(encoding="utf-8") for path in [*SOURCES, *headers]}
    unknown = []
    for quoted in re.findall(r"`([^`]+)`", tour):
        if "/" in quoted or re.search(r"\.\w+$", quoted):
            found = (ROOT / quoted).exists() or any(f"/{quoted}" in path.as_posix() for path in files)
        else:
            found = re.fullmatch(r"[\w:]+(\(\))?", quoted) is None or exists(quoted, files)
        if not found:
            unknown.append(quoted)
    assert unknown == [], "libqwen/README.md names what is not in the source"


def test_an_unknown_name_is_seen() -> None:
    files = {Path("a.h"): "class Engine { void step(); };  void fail(int);"}
    assert exists("Engine::step()", files)
    assert exists("fail()", files)
    assert exists("Engine", files)
    assert not exists("Engine::leap()", files)
    assert not exists("Motor::step()", files)
    assert not exists("Engine()", files)
