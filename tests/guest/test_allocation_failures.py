"""Whatever the library asks the system for may be refused: each such place is tried, one after the other.

A few hundred places of each model are tried here; with QWEN_LONG=1 in the environment, every one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from ..benchmarks.gguf_checkpoint import make_gguf
from ..python.adapters import ATTENTION, MLP, make_adapter
from ..python.scripted import make_scripted_model
from .conftest import TEMPLATE, Run

LONG = os.environ.get("QWEN_LONG", "0") not in ("", "0")

ANSWER = (
    "<think>Let me see.</think>I will look."
    '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome", "days": 2}}\n</tool_call>'
)

# Every how many places one is tried.
MODELS = {"qwen2_sliding": 53, "qwen2_moe": 83, "qwen3_next": 83, "qwen3_5": 113, "qwen4_exp": 113, "qwen3_gptq_int4_g32": 113}


def refuse_all(host: Run, shim: Path, model: Path, adapter: object, stride: int) -> None:
    stride, limit = (1, 3600) if LONG else (stride, 120)
    run = host("allocation_failures", model, adapter, 1, stride, 0, env={"LD_PRELOAD": str(shim)}, timeout=limit)
    assert (run.returncode, run.stderr) == (0, ""), run.stdout
    found = re.fullmatch(r"(\d+) points, (\d+) runs, (\d+) failed, (\d+) were unharmed\n", run.stdout)
    assert found, run.stdout
    points, runs, failed, _ = map(int, found.groups())
    assert points > 3000
    assert runs >= 2 * (points // stride) * 0.9
    assert failed > runs * 0.8


@pytest.mark.parametrize("name", MODELS)
def test_every_refusal_is_an_error_and_nothing_else(
    name: str, host: Run, shim: Path, chat_model: Callable[[str], Path], tmp_path: Path
) -> None:
    model = chat_model(name)
    adapter = make_adapter(tmp_path / "adapter", model, (*ATTENTION, *MLP), strength=0.1) if "qwen2_" in name else "-"
    refuse_all(host, shim, model, adapter, MODELS[name])


def test_a_callback_that_is_refused_is_not_destroyed(host: Run, shim: Path, dense_model: Path) -> None:
    """The first calls, in which a host sets its options, at every place."""
    run = host("allocation_failures", dense_model, "-", 1, 1, 80, env={"LD_PRELOAD": str(shim)})
    assert (run.returncode, run.stderr) == (0, ""), run.stdout


def test_the_same_of_a_gguf_file(host: Run, shim: Path, chat_model: Callable[[str], Path], tmp_path: Path) -> None:
    model = make_scripted_model(tmp_path / "calling", ANSWER, TEMPLATE)  # that calls a tool
    refuse_all(host, shim, make_gguf(model, tmp_path / "calling.gguf"), "-", 113)
