"""The numbers are those of the reference: every text case, in 16 and 32 bits and quantised, on every instruction set, at several thread counts.

Committed cases lie in data/; the others run where the shared folder is found (QWEN_SHARED, or `shared` beside the
repository). `qwen-ffi validate tests/parity/data --isa all` prints the same comparison as a table.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from qwen_ffi import QwenInferenceSession, Transformer, build_info
from qwen_ffi.validation import GREEDY, Setting, read_safetensors, validate

HERE = Path(__file__).resolve().parent
COMMITTED = HERE / "data"
SHARED = Path(os.environ.get("QWEN_SHARED", HERE.parents[2] / "shared")) / "reference"
CASES = [
    "qwen2_5_omni_thinker",
    "qwen2_5_vl",
    "qwen2_audio",
    "qwen2_awq",
    "qwen2_f32",
    "qwen2_gptq_int4",
    "qwen2_gptq_int8",
    "qwen2_moe",
    "qwen2_sliding",
    "qwen2_tied",
    "qwen2_untied",
    "qwen2_vl",
    "qwen2_yarn",
    "qwen3_5",
    "qwen3_5_moe",
    "qwen3_awq_g64",
    "qwen3_embedding",
    "qwen3_fp8",
    "qwen3_gptq_int4_g32",
    "qwen3_moe",
    "qwen3_moe_fp8",
    "qwen3_moe_nonorm",
    "qwen3_next",
    "qwen3_odd",
    "qwen3_omni_thinker",
    "qwen3_sharded",
    "qwen3_tied",
    "qwen3_vl",
    "qwen3_vl_moe",
    "qwen3_yarn",
]
# What stands beside the text of some cases and is not computed yet.
NOT_YET = {"expected_audio", "expected_image", "expected_video"}
# What this machine has; `.ci/run` and the reader see the levels in the tests' names.
LEVELS = build_info()["cpu_isa"]


def folder(case: str) -> Path:
    for parent in (SHARED, COMMITTED):
        if (parent / case).is_dir():
            return parent / case
    pytest.skip("the shared reference checkpoints are not here")


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("case", CASES)
def test_reference(case: str, dtype: str, isa: str, threads: int) -> None:
    reports = list(validate(folder(case), Setting(dtype, isa, threads)))
    assert reports
    for report in reports:
        if report.file in NOT_YET:
            assert report.not_supported == "this version computes text only"
            continue
        assert not report.not_supported, report
        assert report.ok, report
        assert (report.backend, report.threads) == (f"cpu.{isa}", threads)
        ran = [name for name, calls in report.counters.items() if name.startswith("linear.") and calls]
        assert ran
        assert all(name.endswith(f".{isa}") for name in ran), f"dispatch chose {ran}"


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("isa", LEVELS)
def test_bits_do_not_depend_on_threads_chunks_or_company(dtype: str, isa: str) -> None:
    """One sequence alone and in one piece; token by token, in odd chunks, on more threads, and beside others."""
    case = COMMITTED / "qwen2_sliding"
    text = read_safetensors(case / "expected.safetensors")["long_input_ids"].tolist()
    values = {"dtype": dtype, "cpu_isa": isa}
    with Transformer.from_pretrained(case, threads=1, **values) as model:
        expected = model.forward([text])[0]
        np.testing.assert_array_equal(model.forward([text[:7], text, text[3:90]])[1], expected)
        for length in (1, 31, 32, 33, 64, 100):
            np.testing.assert_array_equal(model.forward([text[:length]])[0], expected[:length])
    for threads, chunk in ((1, 1), (2, 7), (3, 64), (2, 512)):
        with Transformer.from_pretrained(case, threads=threads, max_batch_tokens=chunk, **values) as model:
            np.testing.assert_array_equal(model.forward([text])[0], expected)


@pytest.mark.parametrize("isa", LEVELS)
def test_generation_takes_the_same_way_as_forward(isa: str) -> None:
    """The long text token by token through generation: each greedy token is the argmax of one forward pass."""
    case = COMMITTED / "qwen3_yarn"
    expected = read_safetensors(case / "expected.safetensors")
    text = expected["long_input_ids"].tolist()
    with QwenInferenceSession(case, dtype="bf16", cpu_isa=isa) as session:
        answer = session.generate_ids(text, GREEDY, max_tokens=40)
    with Transformer.from_pretrained(case, dtype="bf16", cpu_isa=isa) as model:
        logits = model.forward([text + answer[:-1]])[0]
    assert logits[len(text) - 1 :].argmax(-1).tolist() == answer
