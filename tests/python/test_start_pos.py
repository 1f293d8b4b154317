"""A sequence computed in pieces (start_pos, as in llama) has the logits of the whole one, bit for bit."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwen_ffi import QwenInferenceSession, QwenValueError, Transformer

WHOLE = [[5, 6, 7, 8, 9, 10], list(range(20, 60)), [3, 1, 4, 1, 5, 9]]


@pytest.fixture
def model(tiny_model: Path) -> Iterator[Transformer]:
    with Transformer.from_pretrained(tiny_model) as opened:
        yield opened


def cut(lists: list[list[int]], begin: int, end: int | None = None) -> list[list[int]]:
    return [row[begin:end] for row in lists]


def test_pieces_are_the_whole(model: Transformer) -> None:
    whole = model.forward(WHOLE, hidden_states=True)
    for borders in ([0, 2], [0, 1, 2, 3, 4, 5]):
        for begin, end in zip(borders, [*borders[1:], None], strict=True):
            piece = model.forward(cut(WHOLE, begin, end), start_pos=begin, hidden_states=True)
            for row, (ours, theirs) in enumerate(zip(piece, whole, strict=True)):
                np.testing.assert_array_equal(ours, theirs[begin:end])
                for ours, theirs in zip(piece.hidden_states[row], whole.hidden_states[row], strict=True):
                    np.testing.assert_array_equal(ours, theirs[begin:end])


def test_a_position_before_the_end_takes_back_what_was_behind_it(model: Transformer) -> None:
    expected = model.forward([[5, 6, 50, 51]])[0][2:]
    model.forward([[5, 6, 7, 8]])
    np.testing.assert_array_equal(model.forward([[50, 51]], start_pos=2)[0], expected)
    assert model.forward([[1]], 4)[0].shape == (1, 512)


def test_each_row_has_its_own_position(model: Transformer) -> None:
    whole = model.forward(WHOLE)
    model.forward([row[:start] for row, start in zip(WHOLE, [1, 30, 5], strict=True)])
    starts = np.array([1, 30, 5])
    piece = model.forward([row[start:] for row, start in zip(WHOLE, starts, strict=True)], start_pos=starts)  # type: ignore[arg-type]
    for ours, theirs, start in zip(piece, whole, starts, strict=True):
        np.testing.assert_array_equal(ours, theirs[start:])


def test_a_row_may_start_anew_beside_others(model: Transformer) -> None:
    expected = model.forward([[9, 9, 9]])[0]
    model.forward([[5, 6], [7, 8]])
    piece = model.forward([[1], [9, 9, 9]], start_pos=[2, 0])
    np.testing.assert_array_equal(piece[1], expected)


@pytest.mark.parametrize(
    ("lists", "start", "named"),
    [
        ([[1], [2]], 3, "start_pos is 3 for token list 0.*2 tokens"),
        ([[1], [2]], [2, 5], "start_pos is 5 for token list 1.*4 tokens"),
        ([[1]], 2, "2 token lists; this one has 1"),
        ([[1], [2]], [1], "1 positions for 2"),
        ([[1], [2]], -1, "-1"),
        ([[1], []], 2, "list 1 is empty"),
        ([[1], [512]], 2, "512"),
    ],
)
def test_wrong_positions_are_named_and_change_nothing(
    model: Transformer, lists: list[list[int]], start: Any, named: str
) -> None:
    model.forward([[5, 6], [1, 2, 3, 4]])
    with pytest.raises(QwenValueError, match=named):
        model.forward(lists, start_pos=start)
    assert model.forward([[1], [2]], start_pos=2)[1].shape == (1, 512)


def test_positions_of_the_wrong_type(model: Transformer) -> None:
    for start in ("1", 1.5, [0.5], None):
        with pytest.raises(TypeError, match="start_pos"):
            model.forward([[1]], start_pos=start)  # type: ignore[arg-type]


def test_reset_forgets(model: Transformer) -> None:
    model.forward([[5, 6]])
    model.reset()
    with pytest.raises(QwenValueError, match="0 token lists"):
        model.forward([[7]], start_pos=2)


def test_what_came_before_is_not_computed_again(demo_model: Path) -> None:
    with Transformer.from_pretrained(demo_model) as model:
        model.forward([list(range(200))])
        before = model.stats()
        for position in range(200, 210):
            model.forward([[5]], start_pos=position)
        after = model.stats()
        assert after.prompt_tokens - before.prompt_tokens < 10 * 20  # parts of the cache's blocks
        assert after.cached_tokens - before.cached_tokens > 10 * 180


# ------------------------------------------------------------------------------------------------------- generate


def test_generate_is_what_a_session_generates(model: Transformer, tiny_model: Path) -> None:
    greedy: dict[str, Any] = {"temperature": 0.0, "ignore_eos": True}
    answers = model.generate(WHOLE, 7, **greedy)
    with QwenInferenceSession(tiny_model, dtype="f32", device="cpu") as session:
        assert answers == [session.generate_ids(row, max_tokens=7, **greedy) for row in WHOLE]
    seeded = [model.generate(WHOLE, max_gen_len=5, temperature=0.8, top_p=0.9, seed=3) for _ in range(2)]
    assert seeded[0] == seeded[1]


def test_generate_leaves_the_end_token_out(model: Transformer) -> None:
    free = model.generate([WHOLE[0]], 10, temperature=0, ignore_eos=True)[0]
    assert len(free) == 10
    end = free[3]
    before = free[: free.index(end)]
    assert model.generate([WHOLE[0]], 10, temperature=0, ignore_eos=True, stop_token_ids=[end]) == [before]


def test_generate_by_hand_is_generate(model: Transformer) -> None:
    prompt, expected = (
        WHOLE[1],
        model.generate([WHOLE[1]], 6, temperature=0, ignore_eos=True, repetition_penalty=1.0)[0],
    )
    found, fed = [], list(prompt)
    position = 0
    for _ in expected:
        logits = model.forward([fed], start_pos=position)[0]
        position += len(fed)
        fed = [int(logits[-1].argmax())]
        found += fed
    assert found == expected


def test_generate_refuses(model: Transformer) -> None:
    with pytest.raises(TypeError, match=r"\[\[1, 2, 3\]\]"):
        model.generate([1, 2], 5)  # type: ignore[list-item]
    with pytest.raises(QwenValueError, match="max_tokens"):
        model.generate([[1]], 0)
    with pytest.raises(QwenValueError, match="n must be 1"):
        model.generate([[1]], 5, n=2)
    with pytest.raises(QwenValueError):
        model.generate([[1], []], 5)
