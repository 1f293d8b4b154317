"""session.run() in ONNX Runtime's manner: rectangular arrays, padding that changes nothing, errors that name what is right."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwen_ffi import NodeArg, QwenInferenceSession, QwenValueError, Transformer

ROWS = [[5, 6, 7, 8, 9], [1, 2], [3, 4, 5]]
NAMES = ["logits", "hidden.0", "hidden.3"]


@pytest.fixture(scope="module")
def opened(tiny_model: Path) -> Iterator[QwenInferenceSession]:
    with QwenInferenceSession(tiny_model, dtype="f32") as session:
        yield session


@pytest.fixture(scope="module")
def expected(tiny_model: Path) -> dict[str, list[Any]]:
    with Transformer.from_pretrained(tiny_model) as model:
        output = model.forward(ROWS, hidden_states=True)
    hidden = {f"hidden.{layer}": [states[layer] for states in output.hidden_states] for layer in range(4)}
    return {"logits": list(output), **hidden}


def padded(left: bool, dtype: Any = np.int64) -> dict[str, Any]:
    ids, mask = np.full((3, 5), 511, dtype), np.zeros((3, 5), dtype)
    for number, row in enumerate(ROWS):
        span = slice(5 - len(row), 5) if left else slice(0, len(row))
        ids[number, span], mask[number, span] = row, 1
    return {"input_ids": ids, "attention_mask": mask}


def test_inputs_and_outputs_describe_themselves(opened: QwenInferenceSession) -> None:
    assert opened.get_inputs() == [
        NodeArg("input_ids", ["batch", "sequence"], "tensor(int64)"),
        NodeArg("attention_mask", ["batch", "sequence"], "tensor(int64)"),
    ]
    outputs = opened.get_outputs()
    assert [node.name for node in outputs] == ["logits", "hidden.0", "hidden.1", "hidden.2", "hidden.3"]
    assert outputs[0] == NodeArg("logits", ["batch", "sequence", 512], "tensor(float)")
    assert outputs[1].shape == ["batch", "sequence", 64]
    found = opened.run([node.name for node in outputs], {"input_ids": np.array([[5, 6]])})
    for node, array in zip(outputs, found, strict=True):
        assert array.dtype == np.float32
        assert array.shape == (1, 2, node.shape[2])


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("dtype", [np.int64, np.int32])
def test_padding_changes_no_bit(
    opened: QwenInferenceSession, expected: dict[str, list[Any]], left: bool, dtype: Any
) -> None:
    feed = padded(left, dtype)
    for name, array in zip(NAMES, opened.run(NAMES, feed), strict=True):
        for number, row in enumerate(ROWS):
            chosen = feed["attention_mask"][number].astype(bool)
            np.testing.assert_array_equal(array[number][chosen], expected[name][number])
            assert not array[number][~chosen].any()
            assert chosen.sum() == len(row)


def test_none_means_the_logits(opened: QwenInferenceSession, expected: dict[str, list[Any]]) -> None:
    (logits,) = opened.run(None, {"input_ids": [ROWS[0]]})
    np.testing.assert_array_equal(logits[0], expected["logits"][0])
    assert not logits.flags.owndata
    shared = np.from_dlpack(logits)
    assert shared.ctypes.data == logits.ctypes.data


def test_masks_may_be_boolean_or_missing(opened: QwenInferenceSession, expected: dict[str, list[Any]]) -> None:
    feed = padded(False)
    feed["attention_mask"] = feed["attention_mask"].astype(bool)
    np.testing.assert_array_equal(opened.run(["logits"], feed)[0][1, :2], expected["logits"][1])
    both = np.array([ROWS[0], ROWS[0]])
    found = opened.run(["hidden.3"], {"input_ids": both, "attention_mask": None})[0]
    np.testing.assert_array_equal(found[0], found[1])
    np.testing.assert_array_equal(found[1], expected["hidden.3"][0])


def ids(*rows: list[int]) -> dict[str, Any]:
    return {"input_ids": np.array(rows)}


WRONG: dict[str, tuple[Any, Any, type[Exception], str]] = {
    "unknown output": (["probabilities"], ids([1]), QwenValueError, "'probabilities'.*'logits'.*'hidden.3'"),
    "layer too high": (["hidden.4"], ids([1]), QwenValueError, "'hidden.4'.*'hidden.3'"),
    "outputs as one text": ("logits", ids([1]), TypeError, "list of str or None, not str"),
    "no outputs": ([], ids([1]), QwenValueError, "empty"),
    "unknown input": (None, {**ids([1]), "position_ids": [[0]]}, QwenValueError, "'position_ids'.*'input_ids'"),
    "missing input": (None, {}, QwenValueError, "'input_ids' is missing"),
    "feed as an array": (None, np.array([[1]]), TypeError, "dict of arrays.*not ndarray"),
    "rank 1": (
        None,
        {"input_ids": np.array([1, 2])},
        QwenValueError,
        r"input_ids has shape \[2\].*\[batch, sequence\]",
    ),
    "rank 3": (None, {"input_ids": np.zeros((1, 1, 1), int)}, QwenValueError, r"shape \[1, 1, 1\]"),
    "floats": (
        None,
        {"input_ids": np.array([[1.0]])},
        QwenValueError,
        "input_ids is float64; it must be int64 or int32",
    ),
    "booleans": (None, {"input_ids": np.array([[True]])}, QwenValueError, "input_ids is bool"),
    "nothing": (None, {"input_ids": None}, QwenValueError, "input_ids is object"),
    "texts": (None, {"input_ids": [["a"]]}, QwenValueError, "input_ids is str"),
    "ragged": (None, {"input_ids": [[1, 2], [3]]}, QwenValueError, "input_ids must be a rectangular array"),
    "empty batch": (None, {"input_ids": np.zeros((0, 3), int)}, QwenValueError, r"\[0, 3\].*at least one"),
    "empty sequence": (None, {"input_ids": np.zeros((2, 0), int)}, QwenValueError, r"\[2, 0\].*at least one"),
    "beyond the vocabulary": (None, ids([512]), QwenValueError, "512"),
    "negative": (None, ids([-1]), QwenValueError, "-1"),
    "beyond 32 bits": (None, ids([2**40]), QwenValueError, "not a token id"),
    "mask of another shape": (None, {**ids([1, 2]), "attention_mask": [[1]]}, QwenValueError, r"\[1, 1\].*\[1, 2\]"),
    "mask of floats": (
        None,
        {**ids([1]), "attention_mask": [[1.0]]},
        QwenValueError,
        "float64; it must be int64 or int32 or bool",
    ),
    "mask of others": (None, {**ids([1, 2]), "attention_mask": [[1, 2]]}, QwenValueError, "0 and 1"),
    "mask of zeros": (None, {**ids([1], [2]), "attention_mask": [[1], [0]]}, QwenValueError, "every token of row 1"),
    "mask with a hole": (None, {**ids([1, 2, 3]), "attention_mask": [[1, 0, 1]]}, QwenValueError, "hole in row 0"),
    "mask on both sides": (None, {**ids([1, 2, 3]), "attention_mask": [[0, 1, 0]]}, QwenValueError, "both sides"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named(opened: QwenInferenceSession, case: str) -> None:
    names, feed, error, named = WRONG[case]
    with pytest.raises(error, match=named):
        opened.run(names, feed)
