"""GGUF files of the hybrids (Qwen3-Next, Qwen3.5): what llama.cpp's converter changes in them is understood, not undone.

It adds 1 to the norms, keeps -exp(A_log) and, for Qwen3.5, orders value heads otherwise, so that sums over them have another
order: the same numbers as the published checkpoint's to rounding. Among GGUF files of one model they are the same bits.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from qwen_ffi import QwenInferenceSession, SamplingConfig, Transformer
from qwen_ffi._safetensors import read_safetensors, write_safetensors
from qwen_ffi.cli import main
from qwen_ffi.errors import QwenFileFormatError, QwenUnsupportedError

from .adapters import ATTENTION, LINEAR_ATTENTION, MLP, make_adapter
from .conftest import TESTS, load
from .test_gguf import check_damage, random_blocks, with_value, without

WRITER = load(TESTS / "benchmarks" / "gguf_checkpoint.py")
make_gguf = WRITER.make_gguf
SHARED = Path(os.environ.get("QWEN_SHARED", TESTS.parents[1] / "shared"))
IDS = [int(token) for token in np.random.default_rng(5).integers(0, 512, 150)]  # three chunks of the recurrence
GREEDY = SamplingConfig(temperature=0, max_tokens=32, ignore_eos=True)
# Of logits of some units, in float32: what is left of -exp(A_log) and of another order of sums. Measured: 4.1e-5 at most.
ROUNDING = 2e-4
CASES = ["qwen3_next", "qwen3_5", "qwen3_5_moe", "three"]


THREE: dict[str, Any] = {
    "architectures": ["Qwen3_5ForConditionalGeneration"],
    "model_type": "qwen3_5",
    "tie_word_embeddings": True,
    "text_config": {
        "model_type": "qwen3_5_text",
        "hidden_size": 256,
        "intermediate_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "vocab_size": 512,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "attn_output_gate": True,
        "layer_types": ["linear_attention", "linear_attention", "linear_attention", "full_attention"],
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "partial_rotary_factor": 0.5},
        "linear_conv_kernel_dim": 4,
        "linear_key_head_dim": 32,
        "linear_value_head_dim": 128,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 6,
    },
}


@pytest.fixture(scope="session")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen3.5 with three value heads to a key head, none like another, and rows of whole blocks of 256."""
    maker = load(TESTS / "benchmarks" / "random_checkpoint.py")
    folder = Path(maker.make_checkpoint(tmp_path_factory.mktemp("models") / "three", THREE))
    random = np.random.default_rng(3)
    tensors = {name: np.array(tensor) for name, tensor in read_safetensors(folder / "model.safetensors").items()}
    for name, tensor in tensors.items():
        if tensor.ndim == 1:
            tensors[name] = random.normal(0, 0.5, tensor.shape).astype(np.float32)
    write_safetensors(folder / "model.safetensors", tensors)
    return folder


@pytest.fixture
def folder(request: pytest.FixtureRequest) -> Path:
    if request.param == "three":
        return Path(request.getfixturevalue("three"))
    for parent in (SHARED / "reference", TESTS / "parity" / "data"):
        if (parent / request.param).is_dir():
            return Path(parent / request.param)
    pytest.skip("the shared reference checkpoints are not here")


def logits(path: Path, **options: Any) -> Any:
    with Transformer.from_pretrained(path, dtype="f32", **options) as model:
        return model.forward([IDS])[0].copy()


def greedy(path: Path) -> Any:
    with QwenInferenceSession(path, dtype="f32") as session:
        return session.complete_ids(IDS[:40], GREEDY).token_ids


@pytest.mark.parametrize("folder", CASES, indirect=True)
def test_the_numbers_are_those_of_the_published_checkpoint(folder: Path, tmp_path: Path) -> None:
    file = make_gguf(folder, tmp_path / "model.gguf", "F32")
    np.testing.assert_allclose(logits(file), logits(folder), rtol=0, atol=ROUNDING)
    assert greedy(file) == greedy(folder)
    with Transformer.from_pretrained(file) as ours, Transformer.from_pretrained(folder) as published:
        assert ours.info.num_hidden_layers == published.info.num_hidden_layers == 4
        assert ours.info.parameters == published.info.parameters


@pytest.mark.parametrize(
    ("folder", "dtype"),
    [*((case, dtype) for case in CASES for dtype in ("F16", "BF16", "Q8_0")), ("three", "Q4_K")],
    indirect=["folder"],
)
def test_weights_of_every_type_give_the_bits_of_their_float32(folder: Path, dtype: str, tmp_path: Path) -> None:
    """Q4_K's blocks of 256 lie across the value heads that the file has in another order."""
    pack = random_blocks(dtype) if dtype == "Q4_K" else WRITER.packed_as(dtype)

    blocks: dict[str, Any] = {}

    def packed(name: str, values: Any) -> Any:
        fits = values.shape[-1] % 256 == 0 or dtype != "Q4_K"
        blocks[name] = pack(name, values) if fits else (gguf.GGMLQuantizationType.F32, values)
        return blocks[name]

    def widened(name: str, values: Any) -> Any:
        kind, data = blocks[name]
        return gguf.GGMLQuantizationType.F32, gguf.quants.dequantize(data, kind).reshape(values.shape)

    file = make_gguf(folder, tmp_path / "model.gguf", pack=packed)
    assert {tensor.tensor_type.name for tensor in gguf.GGUFReader(file).tensors} == {"F32", dtype}
    twin = make_gguf(folder, tmp_path / "twin.gguf", pack=widened)
    np.testing.assert_array_equal(logits(file), logits(twin))


@pytest.mark.parametrize("folder", ["qwen3_next", "qwen3_5", "qwen3_5_moe"], indirect=True)
def test_the_head_that_predicts_further_is_a_layer_behind_the_last(folder: Path, tmp_path: Path) -> None:
    file = make_gguf(folder, tmp_path / "model.gguf", "F32")
    with (
        Transformer.from_pretrained(file, dtype="f32", mtp=1) as ours,
        Transformer.from_pretrained(folder, dtype="f32", mtp=1) as published,
    ):
        got, want = ours.mtp_logits([IDS])[0], published.mtp_logits([IDS])[0]
        np.testing.assert_allclose(got, want, rtol=0, atol=ROUNDING)
        assert ours.info.parameters == published.info.parameters


@pytest.mark.parametrize("folder", ["qwen3_next", "qwen3_5", "qwen3_5_moe"], indirect=True)
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_the_reference_agrees_with_the_file(
    dtype: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """transformers' stored logits and tokens, at the limits of the parity tests."""
    make_gguf(folder, tmp_path / "model.gguf")
    for name in ("expected.safetensors", "expected_mtp.safetensors", "meta.json"):
        shutil.copy(folder / name, tmp_path)
    assert main(["validate", str(tmp_path), "--dtype", dtype, "--json"]) == 0
    reports = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [report["file"] for report in reports if report.get("ok")] == ["expected", "expected_mtp"]


# ------------------------------------------------------------------------------------ what else the converter can write


def replaced(writer: Any, old: list[str], new: str, values: Any) -> None:
    for name in old:
        del writer.tensors[0][name]
    writer.add_tensor(new, np.ascontiguousarray(values))


@pytest.mark.parametrize("folder", ["qwen3_next"], indirect=True)
def test_older_files_keep_the_projections_of_a_key_head_together(folder: Path, tmp_path: Path) -> None:
    published = read_safetensors(folder / "model.safetensors")

    def change(writer: Any) -> None:
        for layer in range(3):
            name = f"model.layers.{layer}.linear_attn.in_proj_qkvz.weight"
            old = [f"blk.{layer}.attn_qkv.weight", f"blk.{layer}.attn_gate.weight"]
            replaced(writer, old, f"blk.{layer}.ssm_in.weight", WRITER.float32(published[name]))

    old = make_gguf(folder, tmp_path / "old.gguf", "F32", change=change)
    new = make_gguf(folder, tmp_path / "new.gguf", "F32")
    np.testing.assert_array_equal(logits(old), logits(new))


def fused(writer: Any, layers: range, keep: bool = False) -> None:
    for layer in layers:
        parts = [f"blk.{layer}.ffn_{part}_exps.weight" for part in ("gate", "up")]
        both = np.concatenate([writer.tensors[0][part].tensor for part in parts], axis=1)
        replaced(writer, [] if keep else parts, f"blk.{layer}.ffn_gate_up_exps.weight", both)


@pytest.mark.parametrize("folder", ["qwen3_next"], indirect=True)
def test_gates_and_ups_of_experts_may_be_one_stack(folder: Path, tmp_path: Path) -> None:
    together = make_gguf(folder, tmp_path / "fused.gguf", "F32", change=lambda writer: fused(writer, range(5)))
    apart = make_gguf(folder, tmp_path / "apart.gguf", "F32")
    np.testing.assert_array_equal(logits(together), logits(apart))
    twice = make_gguf(folder, tmp_path / "twice.gguf", "F32", change=lambda writer: fused(writer, range(1), keep=True))
    with pytest.raises(QwenFileFormatError, match="tensors 'blk.0.ffn_gate.*' and .* hold the same matrix"):
        logits(twice)
    file = make_gguf(folder, tmp_path / "odd.gguf", "F32", change=odd)
    with pytest.raises(QwenFileFormatError, match=r"ffn_gate_up_exps.weight' has shape \[8, 47, 64\]; .* even number"):
        logits(file)


def odd(writer: Any) -> None:
    replaced(writer, ["blk.0.ffn_gate_exps.weight"], "blk.0.ffn_gate_up_exps.weight", np.ones((8, 47, 64), np.float32))


# ------------------------------------------------------------------------------------------------ adapters


def with_adapter(path: Path, adapter: Path) -> Any:
    with Transformer.from_pretrained(path, dtype="f32") as model:
        return model.forward([IDS], adapter=model.load_adapter(adapter))[0].copy()


@pytest.mark.parametrize("folder", CASES, indirect=True)
def test_adapters_fit_whatever_the_order_of_the_file(folder: Path, tmp_path: Path) -> None:
    """Of Qwen3-Next's linear attention those matrices that the file has as they were trained."""
    next_ = ("in_proj_ba", "linear_attn.out_proj")
    linear = next_ if folder.name == "qwen3_next" else LINEAR_ATTENTION
    adapter = make_adapter(tmp_path / "law", folder, (*ATTENTION, *MLP, *linear))
    file = make_gguf(folder, tmp_path / "model.gguf", "F32")
    got = with_adapter(file, adapter)
    np.testing.assert_allclose(got, with_adapter(folder, adapter), rtol=0, atol=ROUNDING)
    assert np.abs(got - logits(file)).max() > 0.01


@pytest.mark.parametrize("folder", ["qwen3_next"], indirect=True)
def test_adapters_of_projections_that_the_file_has_taken_apart_are_refused(folder: Path, tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "law", folder, LINEAR_ATTENTION)
    file = make_gguf(folder, tmp_path / "model.gguf", "F32")
    with pytest.raises(QwenUnsupportedError, match=r"in_proj_qkvz\.lora_A.* is for no matrix of this model"):
        with_adapter(file, adapter)


# ------------------------------------------------------------------------------------------------ what is refused


def no_tensor(name: str) -> Any:
    return lambda writer: writer.tensors[0].pop(name)


def tensor(name: str, *shape: int) -> Any:
    def change(writer: Any) -> None:
        writer.tensors[0].pop(name, None)
        writer.add_tensor(name, np.ones(shape, np.float32))

    return change


BROKEN = {
    "no key heads": (
        without("qwen35.ssm.group_count"),
        "key 'qwen35.ssm.group_count' is missing; it must be an integer",
    ),
    "no value heads": (without("qwen35.ssm.time_step_rank"), "key 'qwen35.ssm.time_step_rank' is missing"),
    "no key dimension": (without("qwen35.ssm.state_size"), "key 'qwen35.ssm.state_size' is missing"),
    "no kernel": (without("qwen35.ssm.conv_kernel"), "key 'qwen35.ssm.conv_kernel' is missing"),
    "kernel": (
        with_value("qwen35.ssm.conv_kernel", 17),
        "'qwen35.ssm.conv_kernel' is 17; it must be an integer from 1 to 16",
    ),
    "no inner size": (without("qwen35.ssm.inner_size"), "key 'qwen35.ssm.inner_size' is missing"),
    "inner size": (
        with_value("qwen35.ssm.inner_size", 63),
        "'qwen35.ssm.inner_size' is 63; it must be a multiple of qwen35.ssm.time_step_rank, which is 4",
    ),
    "another inner size": (
        with_value("qwen35.ssm.inner_size", 32),
        r"tensor 'blk.0.attn_qkv.weight' has shape \[128, 64\]; the metadata implies \[96, 64\]",
    ),
    "value heads": (
        with_value("qwen35.ssm.group_count", 3),
        "'qwen35.ssm.time_step_rank' is 4; it must be a multiple of qwen35.ssm.group_count, which is 3",
    ),
    "no rotation": (
        without("qwen35.rope.dimension_count"),
        "'qwen35.rope.dimension_count' is missing; it must be an even",
    ),
    "odd rotation": (
        with_value("qwen35.rope.dimension_count", 7),
        "dimension_count' is 7; it must be an even number from 2",
    ),
    "wide rotation": (
        with_value("qwen35.rope.dimension_count", 64),
        "dimension_count' is 64; it must be an integer from 2 to 32",
    ),
    "no attention": (
        with_value("qwen35.full_attention_interval", 5),
        "full_attention_interval' is 5; it must be an integer from 1 to 4",
    ),
    "three layers": (
        lambda writer: [
            with_value("qwen35.nextn_predict_layers", 2)(writer),
            without("qwen35.full_attention_interval")(writer),
        ],
        "full_attention_interval' is missing; it must be an integer from 1 to 3",
    ),
    "fewer layers": (
        lambda writer: [with_value("qwen35.block_count", 4)(writer), without("qwen35.nextn_predict_layers")(writer)],
        "key 'qwen35.block_count' is 4; it must be more: there is a tensor 'blk.4.attn_norm.weight'",
    ),
    "wide values": (
        with_value("qwen35.ssm.inner_size", 8192),
        "'qwen35.ssm.inner_size' is 8192; it must be an integer from 4 to 4096",
    ),
    "another interval": (with_value("qwen35.full_attention_interval", 2), "tensor 'blk.1.attn_q.weight' is missing"),
    "all layers predict": (
        with_value("qwen35.nextn_predict_layers", 5),
        "nextn_predict_layers' is 5; it must be an integer from 0 to 4",
    ),
    "head as a layer": (without("qwen35.nextn_predict_layers"), "tensor 'blk.4.nextn.eh_proj.weight' is unknown"),
    "no decay": (
        no_tensor("blk.0.ssm_a"),
        r"tensor 'blk.0.ssm_a' is missing; the metadata implies it with shape \[4\]",
    ),
    "no time step": (no_tensor("blk.2.ssm_dt.bias"), "tensor 'blk.2.ssm_dt.bias' is missing"),
    "no second norm": (
        no_tensor("blk.1.post_attention_norm.weight"),
        "tensor 'blk.1.post_attention_norm.weight' is missing",
    ),
    "no gate": (no_tensor("blk.1.attn_gate.weight"), "tensor 'blk.1.attn_gate.weight' is missing"),
    "short decay": (tensor("blk.0.ssm_a", 3), r"tensor 'blk.0.ssm_a' has shape \[3\]; the metadata implies \[4\]"),
    "convolution": (tensor("blk.0.ssm_conv1d.weight", 128, 3), "tensor 'blk.0.ssm_conv1d.weight' has shape"),
    "another family's": (tensor("blk.0.ssm_d", 4), "tensor 'blk.0.ssm_d' is unknown"),
    "another norm": (tensor("blk.0.ffn_norm.weight", 64), "tensor 'blk.0.ffn_norm.weight' is unknown"),
}


@pytest.mark.parametrize("folder", ["qwen3_5"], indirect=True)
@pytest.mark.parametrize("what", BROKEN)
def test_what_is_broken_is_refused_by_name(what: str, folder: Path, tmp_path: Path) -> None:
    change, message = BROKEN[what]
    file = make_gguf(folder, tmp_path / "model.gguf", change=change)
    with pytest.raises((QwenFileFormatError, QwenUnsupportedError), match=message) as caught:
        Transformer.from_pretrained(file)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("folder", ["qwen3_5"], indirect=True)
def test_heads_that_cannot_run_do_not_disturb_who_does_not_want_them(folder: Path, tmp_path: Path) -> None:
    def without_head(writer: Any) -> None:
        for name in [name for name in writer.tensors[0] if name.startswith("blk.4.")]:
            del writer.tensors[0][name]

    def second_head(writer: Any) -> None:
        with_value("qwen35.block_count", 6)(writer)
        with_value("qwen35.nextn_predict_layers", 2)(writer)
        tensor("blk.5.nextn.hnorm.weight", 64)(writer)
        no_tensor("blk.4.nextn.hnorm.weight")(writer)

    for change, error, message in (
        (without_head, QwenUnsupportedError, "has no multi-token-prediction head"),
        (no_tensor("blk.4.nextn.enorm.weight"), QwenFileFormatError, "tensor 'blk.4.nextn.enorm.weight' is missing"),
        (no_tensor("blk.4.attn_q.weight"), QwenFileFormatError, "tensor 'blk.4.attn_q.weight' is missing"),
        (second_head, QwenFileFormatError, "tensor 'blk.4.nextn.hnorm.weight' is missing"),
        (tensor("blk.4.nextn.embed_tokens.weight", 512, 64), QwenUnsupportedError, "embedding or an output of its own"),
    ):
        file = make_gguf(folder, tmp_path / "model.gguf", "F32", change=change)
        assert logits(file).shape == (len(IDS), 512)
        with pytest.raises(error, match=message) as caught:
            Transformer.from_pretrained(file, mtp=1)
        assert str(file) in str(caught.value)


@pytest.mark.parametrize("folder", ["qwen3_next"], indirect=True)
def test_no_damage_does_more_than_raise(folder: Path, tmp_path: Path) -> None:
    check_damage(make_gguf(folder, tmp_path / "sound.gguf"), tmp_path / "model.gguf", rounds=200)
