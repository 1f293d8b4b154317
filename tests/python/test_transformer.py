"""Tensors in, tensors out: numpy arrays are lent, not copied, and live exactly as long as somebody needs them."""

from __future__ import annotations

import gc
import json
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwen_ffi import ModelArgs, QwenError, QwenFileFormatError, QwenUnsupportedError, QwenValueError, Transformer
from qwen_ffi._safetensors import read_safetensors, write_safetensors

BATCH = [[5, 6, 7, 8], [1], list(range(100))]


def weights(folder: Path) -> dict[str, Any]:
    return {name: np.array(tensor) for name, tensor in read_safetensors(folder / "model.safetensors").items()}


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_arrays_give_what_the_folder_gives(tiny_model: Path, dtype: str) -> None:
    with Transformer.from_pretrained(tiny_model, dtype=dtype) as model:
        expected = model.forward(BATCH, hidden_states=True)
    args = ModelArgs.from_config_file(tiny_model)
    with Transformer(args, dtype=dtype).load_state_dict(weights(tiny_model)) as model:
        found = model.forward(BATCH, hidden_states=True)
    for theirs, ours in zip(expected, found, strict=True):
        np.testing.assert_array_equal(theirs, ours)
    assert len(found.hidden_states) == 3
    assert len(found.hidden_states[0]) == args.num_hidden_layers + 1


def test_shapes_types_and_views(tiny_model: Path) -> None:
    with Transformer.from_pretrained(tiny_model) as model:
        output = model.forward(BATCH, hidden_states=True)
    assert [logits.shape for logits in output] == [(4, 512), (1, 512), (100, 512)]
    assert output[0].dtype == np.float32
    assert output.hidden_states[2][0].shape == (100, 64)
    assert not output[0].flags.owndata


def test_views_outlive_the_model(tiny_model: Path) -> None:
    with Transformer.from_pretrained(tiny_model) as model:
        output = model.forward(BATCH)
    row = output[2][-1]
    copy = row.copy()
    del output, model
    gc.collect()
    np.testing.assert_array_equal(row, copy)


def test_lent_arrays_live_until_the_model_is_gone(tiny_model: Path) -> None:
    tensors = weights(tiny_model)
    watched = weakref.ref(tensors["model.norm.weight"])
    model = Transformer(ModelArgs.from_config_file(tiny_model)).load_state_dict(tensors)
    del tensors
    gc.collect()
    assert watched() is not None
    model.forward(BATCH)
    model.close()
    gc.collect()
    assert watched() is None


def test_lent_arrays_are_let_go_when_building_fails(tiny_model: Path) -> None:
    tensors = weights(tiny_model)
    tensors["model.norm.weight"] = np.zeros(3, np.float32)
    watched = weakref.ref(tensors["model.norm.weight"])
    with pytest.raises(QwenError, match=r"model\.norm\.weight"):
        Transformer(ModelArgs.from_config_file(tiny_model)).load_state_dict(tensors)
    del tensors
    gc.collect()
    assert watched() is None


def test_float32_and_float16_and_strided_arrays(tiny_model: Path) -> None:
    tensors = weights(tiny_model)
    wide = {name: (bits.astype(np.uint32) << 16).view(np.float32) for name, bits in tensors.items()}
    strided = {name: np.asfortranarray(array) for name, array in wide.items()}
    args = ModelArgs.from_config_file(tiny_model)
    expected = Transformer(args).load_state_dict(tensors).forward(BATCH)[0]
    for state in (wide, strided):
        np.testing.assert_array_equal(Transformer(args).load_state_dict(state).forward(BATCH)[0], expected)
    halves = {name: array.astype(np.float16) for name, array in wide.items()}
    assert np.abs(Transformer(args).load_state_dict(halves).forward(BATCH)[0] - expected).max() < 0.1


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda t: t.pop("model.norm.weight"), r"model\.norm\.weight"),
        (lambda t: t.update({"model.norm.weight": np.zeros((64,), np.int32)}), "int32"),
        (lambda t: t.update({"model.norm.weight": np.zeros((65,), np.float32)}), r"model\.norm\.weight"),
        (lambda t: t.update({"a\0b": np.zeros((1,), np.float32)}), "NUL"),
    ],
)
def test_wrong_state_dicts_are_refused_by_name(tiny_model: Path, change: Any, named: str) -> None:
    tensors = weights(tiny_model)
    change(tensors)
    with pytest.raises(QwenError, match=named):
        Transformer(ModelArgs.from_config_file(tiny_model)).load_state_dict(tensors)


def test_a_model_without_weights_says_so(tiny_model: Path) -> None:
    with pytest.raises(QwenValueError, match="load_state_dict"):
        Transformer(ModelArgs.from_config_file(tiny_model)).forward(BATCH)


def test_args_keep_every_key_of_the_file(tiny_model: Path) -> None:
    args = ModelArgs.from_config_file(tiny_model / "config.json")
    config = json.loads((tiny_model / "config.json").read_text())
    again = json.loads(args.to_json())
    assert {key: again.get(key) for key in config} == config
    assert args.hidden_size == 64


@pytest.mark.parametrize("text", ["{", "[]", '{"hidden_size": 1}'])
def test_broken_configs(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(QwenFileFormatError, match=r"config\.json"):
        ModelArgs.from_config_file(tmp_path)


def test_the_safetensors_reader_reads_what_the_library_of_that_name_writes(tmp_path: Path) -> None:
    safetensors = pytest.importorskip("safetensors.numpy")
    tensors = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.array([1, 2], np.int64),
        "c": np.zeros((0, 4), np.uint8),
    }
    safetensors.save_file(tensors, tmp_path / "theirs")
    write_safetensors(tmp_path / "ours", tensors)
    for found in (read_safetensors(tmp_path / "theirs"), safetensors.load_file(tmp_path / "ours")):
        for name, tensor in tensors.items():
            np.testing.assert_array_equal(found[name], tensor)


@pytest.mark.parametrize(
    "data", [b"", b"123", b"\xff" * 100, b"\x02" + b"\0" * 7 + b"[]", b"\x08" + b"\0" * 7 + b'{"a": 1}']
)
def test_the_safetensors_reader_refuses_broken_files(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "file").write_bytes(data)
    with pytest.raises(QwenFileFormatError, match="file"):
        read_safetensors(tmp_path / "file")


HYBRID = Path(__file__).parents[1] / "parity" / "data" / "qwen3_5"


def test_the_multi_token_prediction_head(tiny_model: Path) -> None:
    lists = [list(range(150)), [7, 8], [9, 10, 11]]
    with Transformer.from_pretrained(HYBRID, mtp=1) as model:
        logits = model.forward(lists)
        found = model.mtp_logits(lists)
        assert [rows.shape for rows in found] == [(149, 512), (1, 512), (2, 512)]
        for rows, again in zip(found, model.mtp_logits(lists), strict=True):
            np.testing.assert_array_equal(rows, again)
        with pytest.raises(QwenValueError, match="at least two tokens"):
            model.mtp_logits([[1, 2], [3]])
    with Transformer.from_pretrained(HYBRID, mtp=1, max_batch_tokens=7, threads=1) as model:
        for rows, again in zip(found, model.mtp_logits(lists), strict=True):
            np.testing.assert_array_equal(rows, again)
    with Transformer.from_pretrained(HYBRID) as model:
        for rows, again in zip(logits, model.forward(lists), strict=True):
            np.testing.assert_array_equal(rows, again)
        with pytest.raises(QwenUnsupportedError, match="'mtp' = 1"):
            model.mtp_logits(lists)
    with pytest.raises(QwenUnsupportedError, match="has no multi-token-prediction head"):
        Transformer.from_pretrained(tiny_model, mtp=1)
