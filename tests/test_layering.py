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


def wrong_arrows(path: Path, included: list[str]) -> list[str]:
    room = path.relative_to(ROOT / "libqwen").parts[0]
    wrong = []
    for name in included:
        if name in ("qwen.h", "qwen.hpp"):
            if room != "api":
                wrong.append(f"{name}: only api/ sees the public header")
        elif (ROOT / "libqwen" / name).is_file():
            target = name.split("/")[0]
            if target not in MAY_INCLUDE[room]:
                wrong.append(f"{name}: {room}/ may not include {target}/")
        elif not (path.parent / name).is_file():
            wrong.append(f"{name}: neither in libqwen/ nor beside the file")
        elif ".." in name:
            wrong.append(f"{name}: say it from libqwen/, as in \"base/error.h\"")
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


def test_the_tour_names_only_what_exists() -> None:
    """`Scheduler::schedule`, `Engine::submit()` and `qwen_generate` in libqwen/README.md are looked up in the source."""
    tour = re.sub(r"```.*?```", "", (ROOT / "libqwen" / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    source = "\n".join(path.read_text(encoding="utf-8") for path in [*SOURCES, ROOT / "include" / "qwen.h"])
    words = set(re.findall(r"\w+", source))
    unknown = []
    for quoted in re.findall(r"`([^`\n]+)`", tour):
        if "/" in quoted or re.search(r"\.\w+$", quoted):
            if not any((ROOT / folder / quoted).exists() for folder in ("", "libqwen", "include")):
                unknown.append(quoted)
        elif "::" in quoted or "(" in quoted or quoted.startswith("qwen_"):
            name = quoted.split("(")[0]
            if not set(re.findall(r"\w+", name)) <= words:
                unknown.append(quoted)
    assert unknown == []
