"""The demo model keeps its word: sums it never saw in training, asked in plain words, with and without thinking."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest

from qwen_ffi import QwenInferenceSession

ROOT = Path(__file__).resolve().parents[2]
HELD_OUT = ROOT / "tests" / "data" / "demo_heldout.jsonl"


@pytest.fixture(scope="module")
def cases() -> list[dict[str, object]]:
    return [json.loads(line) for line in HELD_OUT.read_text(encoding="utf-8").splitlines()]


def test_the_held_out_pairs_are_those_that_training_never_draws(cases: list[dict[str, object]]) -> None:
    sys.path.insert(0, str(ROOT / "examples"))
    try:
        import demo_model_text as text
    finally:
        sys.path.remove(str(ROOT / "examples"))
    assert len({(case["a"], case["op"], case["b"]) for case in cases}) >= 1000
    for case in cases:
        assert text.held_out(case["a"], case["op"], case["b"])
        assert text.value(case["a"], case["op"], case["b"]) == case["answer"]


@pytest.mark.parametrize("dtype", ["bf16", "f32"])
@pytest.mark.parametrize("thinking", [False, True], ids=["direct", "thinking"])
def test_held_out_accuracy(demo_model: Path, cases: list[dict[str, object]], thinking: bool, dtype: str) -> None:
    questions = [[("user", str(case["question"]))] for case in cases]
    with QwenInferenceSession(demo_model, dtype=dtype) as session:
        answers = session.generate_batch(questions, temperature=0, max_tokens=256, reasoning_mode=thinking)
    right = 0
    for case, answer in zip(cases, answers, strict=True):
        numbers = re.findall(r"-?\d+", answer.text)
        right += answer.finish_reason == "stop" and bool(numbers) and int(numbers[-1]) == case["answer"]
    assert all(bool(answer.reasoning) == thinking for answer in answers)
    assert right / len(cases) >= 0.98, f"{right} of {len(cases)}"
