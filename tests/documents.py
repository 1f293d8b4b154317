"""Code blocks and links of a Markdown file, for the tests that run them.

The Python blocks of a file are run from top to bottom in one namespace: each goes on where the one before it ended.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHECKPOINT = (
    "path/to/Qwen3-0.6B"  # stands in documents where a reader puts a folder; the tests put the demo model there
)
ADAPTER = "path/to/friendly"  # and here an adapter for it
ADAPTERS = Path(__file__).resolve().parents[1] / "examples" / "python" / "adapters"


@dataclass(frozen=True)
class Block:
    language: str
    text: str
    line: int  # of its first line in the file, from 1
    heading: str  # the heading that it stands under


def blocks(path: Path, language: str) -> list[Block]:
    """The blocks of a language; at least one."""
    found: list[Block] = []
    heading, fence, lines = "", None, list[str]()
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if fence is not None:
            if line.strip() == "```":
                found.append(Block(fence, "\n".join(lines), number - len(lines), heading))
                fence, lines = None, []
            else:
                lines.append(line)
        elif line.startswith("```"):
            fence = line[3:].strip()
        elif line.startswith("#"):
            heading = line.lstrip("#").strip()
    wanted = [block for block in found if block.language == language]
    assert wanted, f"{path} shows no {language}"
    return wanted


def run_python(path: Path, checkpoint: Path, namespace: dict[str, Any]) -> None:
    """Runs the Python blocks of a file; a failure names the line there."""
    for block in blocks(path, "python"):
        text = block.text.replace(CHECKPOINT, str(checkpoint)).replace(ADAPTER, str(ADAPTERS / "friendly"))
        source = "\n" * (block.line - 1) + text
        exec(compile(source, str(path), "exec"), namespace)


def run_commands(path: Path, folder: Path) -> str:
    """Runs the sh blocks of a file in a folder, one after the other, with the Python of these tests; returns what they print."""
    search = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    script = "\n".join(["set -e", *(block.text for block in blocks(path, "sh"))])
    run = subprocess.run(
        ["bash", "-c", script], cwd=folder, env={**os.environ, "PATH": search}, capture_output=True, text=True, timeout=300
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def broken_links(path: Path) -> list[str]:
    """Links to files that are not there, and to headings that do not exist."""
    text = path.read_text(encoding="utf-8")
    broken = []
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith("http"):
            continue
        file, _, anchor = target.partition("#")
        linked = path.parent / file if file else path
        if not linked.exists() or (anchor and anchor not in anchors(linked)):
            broken.append(target)
    return broken


def anchors(path: Path) -> set[str]:
    """The names of a file's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
