"""The library's table decides what a parameter may be; its message reaches the caller."""

from __future__ import annotations

import json
import shutil
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from qwen_ffi import (
    OptionInfo,
    OptionScope,
    OptionType,
    QwenError,
    QwenInferenceSession,
    QwenNotFoundError,
    QwenValueError,
    SamplingConfig,
    options,
)


def test_the_table_has_what_the_package_names() -> None:
    table = {row.key: row for row in options()}
    assert table["temperature"].type == OptionType.F64
    assert table["temperature"].scope == OptionScope.REQUEST
    assert (table["top_p"].minimum, table["top_p"].maximum) == (0, 1)
    assert table["dtype"].scope == OptionScope.ENGINE
    assert "f32" in table["dtype"].choices
    assert all(row.help for row in table.values())


NUMBERS = [
    row for row in options() if row.scope == OptionScope.REQUEST and row.type in (OptionType.I64, OptionType.F64)
]


@pytest.mark.parametrize("row", NUMBERS, ids=lambda row: row.key)
def test_bounds_hold(session: QwenInferenceSession, row: OptionInfo) -> None:
    assert row.minimum is not None
    assert row.maximum is not None
    kind = int if row.type == OptionType.I64 else float
    for outside in (row.minimum - 1, 2 * row.maximum + 1):
        with pytest.raises(QwenValueError, match=row.key):
            session.generate("Hello", **{row.key: kind(outside)})


@pytest.mark.parametrize(
    ("key", "value", "error"),
    [
        ("temperature", float("nan"), QwenValueError),
        ("temperature", float("inf"), QwenValueError),
        ("temperature", "hot", QwenValueError),
        ("temperature", [1, 2], QwenValueError),
        ("temperature", [0.5], QwenValueError),
        ("temperature", {"a": 1}, QwenValueError),
        ("temperature", object(), TypeError),
        ("max_tokens", 1.5, QwenValueError),
        ("max_tokens", 2**70, QwenValueError),
        ("max_tokens", "many", QwenValueError),
        ("seed", -1, QwenValueError),
        ("stop_token_ids", [2**40], QwenValueError),
        ("stop_token_ids", [1.5], TypeError),
        ("stop_token_ids", ["a"], QwenValueError),
        ("logit_bias", {10**6: 1.0}, QwenValueError),
        ("logit_bias", {1: float("nan")}, QwenValueError),
        ("seed", 2**53 + 1, QwenValueError),
        ("seed", 1.0, QwenValueError),
        ("n", 0, QwenValueError),
        ("n", 10**6, QwenValueError),
        ("n", "two", QwenValueError),
        ("top_logprobs", 99, QwenValueError),
        ("top_logprobs", -1, QwenValueError),
        ("stop", [""], QwenValueError),
        ("stop", ["a", ""], QwenValueError),
        ("stop", "", QwenValueError),
        ("stop", [5], TypeError),
        ("stop", ["a", 5], TypeError),
        ("stop", 5, QwenValueError),
        ("stop", b"\xff", QwenValueError),
        ("reasoning_budget", -1, QwenValueError),
        ("reasoning_budget", "much", QwenValueError),
        ("reasoning_end_text", 5, QwenValueError),
        ("reasoning_mode", "on", QwenValueError),
        ("logit_bias", {-1: 1.0}, QwenValueError),
        ("logit_bias", {"a": 1.0}, TypeError),
        ("logit_bias", {1: "a"}, TypeError),
        ("logit_bias", [1, 2], QwenValueError),
        ("logit_bias", [(1, 2.0)], QwenValueError),
        ("no_such_option", 1, QwenValueError),
        ("no\0such", 1, QwenValueError),
        ("dtype", "f32", QwenValueError),  # an engine option
        ("progress", 1, QwenValueError),
    ],
)
def test_wrong_values_are_refused_by_name(session: QwenInferenceSession, key: str, value: Any, error: type) -> None:
    with pytest.raises(error, match=key.split("\0")[0]):
        session.generate("Hello", **{key: value})


def test_a_list_for_a_number_is_refused_as_a_list(session: QwenInferenceSession) -> None:
    with pytest.raises(QwenValueError, match="takes a number, not a list"):
        session.generate("Hello", temperature=[0.5])  # not: "token ids must be integers"


def test_every_sampling_parameter_of_the_library_is_a_field(session: QwenInferenceSession) -> None:
    keys = {row.key for row in options() if row.scope == OptionScope.REQUEST}
    assert {field.name for field in fields(SamplingConfig)} == keys


def test_overrides_win_over_the_config(session: QwenInferenceSession) -> None:
    config = SamplingConfig(max_tokens=5, ignore_eos=True)
    assert session.generate("Hello", config, max_tokens=2).stats.generated_tokens == 2
    with pytest.raises(TypeError, match="SamplingConfig"):
        session.generate("Hello", {"max_tokens": 5})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "values",
    [
        {"dtype": "int3"},
        {"device": "quantum"},
        {"threads": -1},
        {"threads": 10**6},
        {"cpu_isa": "z80"},
        {"nonsense": 1},
        {"temperature": 0.5},
    ],
    ids=lambda values: next(iter(values)),
)
def test_wrong_engine_options_are_refused_by_name(tiny_model: Any, values: dict[str, Any]) -> None:
    with pytest.raises(QwenValueError, match=next(iter(values))):
        QwenInferenceSession(tiny_model, **values)


def test_the_checkpoint_says_how_long_an_answer_is_by_default(demo_model: Path, tmp_path: Path) -> None:
    """max_new_tokens of generation_config.json, which the base models have, holds as in transformers; but it is no reason
    to refuse a prompt that leaves less room."""
    folder = tmp_path / "model"
    shutil.copytree(demo_model, folder)
    generation = json.loads((folder / "generation_config.json").read_text())
    (folder / "generation_config.json").write_text(json.dumps({**generation, "max_new_tokens": 3}))
    with QwenInferenceSession(folder) as session:
        assert len(session.generate("What is 1 + 1?").token_ids) == 3
        assert len(session.generate("What is 1 + 1?", max_tokens=5).token_ids) == 5
        room = session.info.context_length
        assert len(session.generate_ids([1] * (room - 2), ignore_eos=True)) == 2


def test_an_option_may_be_a_path(tiny_model: Path) -> None:
    with QwenInferenceSession(tiny_model, tokenizer=tiny_model / "tokenizer.json") as session:
        assert session.tokenizer.encode("Hello")
    with pytest.raises(QwenNotFoundError, match="nowhere"):
        QwenInferenceSession(tiny_model, tokenizer=tiny_model / "nowhere")


def test_loading_reports_progress_and_can_be_cancelled(tiny_model: Any) -> None:
    seen: list[float] = []
    QwenInferenceSession(tiny_model, progress=seen.append).close()
    assert seen == sorted(seen)
    assert seen
    assert 0 <= seen[0] <= seen[-1] <= 1
    with pytest.raises(QwenError, match=r"cancel|progress"):
        QwenInferenceSession(tiny_model, progress=lambda fraction: False)

    def broken(fraction: float) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        QwenInferenceSession(tiny_model, progress=broken)


def test_a_cache_too_small_for_a_hybrids_states_is_refused_with_the_figures() -> None:
    hybrid = Path(__file__).parents[1] / "parity" / "data" / "qwen3_5"
    with pytest.raises(QwenValueError, match=r"'kv_cache_bytes' is 1000; .* and two recurrent states take \d+"):
        QwenInferenceSession(hybrid, kv_cache_bytes=1000)
