"""qwen-ffi bench: its arguments, its limits against numbers worked out by hand, its formats read back, its picture."""

from __future__ import annotations

import csv
import io
import json
import math
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from qwen_ffi import ModelInfo, QwenValueError, read_safetensors
from qwen_ffi._engine import model_info
from qwen_ffi.cli import bench, main
from qwen_ffi.cli.bench_limits import (
    Machine,
    Neighbours,
    Work,
    decode_work,
    doubts,
    limit,
    measure_machine,
    prefill_work,
    scaled,
)

DATA = Path(__file__).resolve().parents[1] / "parity" / "data"
SMALL = ["--prompt", "24", "--depth", "8", "--generate", "4", "--streams", "1,3", "--repetitions", "2", "--threads", "2"]
NAMES = ["prefill 24", "decode behind 8", "streams 1", "streams 3"]
MACHINE = Machine(
    threads=2, level="amx", dtype="bf16", read_bytes_per_second=30e9, flops_per_second=6e12, buffer_bytes=1 << 30
)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Instead of measuring, MACHINE; the options of every call."""
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(bench, "measure_machine", lambda options: (calls.append(dict(options)), MACHINE)[1])
    monkeypatch.setattr(bench.Neighbours, "cores", lambda self: 0.0)
    return calls


# ---------------------------------------------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("flag", "value"),
    [("--prompt", "0"), ("--prompt", "12,"), ("--depth", "x"), ("--streams", "1,-2"), ("--streams", "1 2"), ("--depth", "1.5")]
    + [("--generate", "0"), ("--repetitions", "0"), ("--prompt", "99999999999"), ("--prompt", "²")],
)
def test_what_is_no_size_is_a_wrong_argument(flag: str, value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["bench", "model", f"{flag}={value}"])
    assert stopped.value.code == 2
    assert f"argument {flag}: '" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["/no/such/model"], "/no/such/model"),
        (["TINY", "--prompt", "none", "--depth", "none", "--streams", "none"], "there is nothing to measure"),
        (["TINY", "--output", "/no/such/folder/x.txt"], "/no/such/folder/x.txt: there is no folder /no/such/folder"),
        (["TINY", "--roofline", "/no/such/folder/x.svg"], "there is no folder"),
        (["TINY", "--prompt", "100000"], "prefill 100000 is 100,001 tokens, and the context "),
        (["TINY", "--context-length", "20"], "is too short for every row"),
        (["TINY", "--prompt=none", "--depth=none", "--streams=8", "--kv-cache-bytes=40000"], "--kv-cache-bytes"),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    measured: list[Any], tiny_model: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    assert main(["bench", *(str(tiny_model) if word == "TINY" else word for word in arguments)]) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.startswith("qwen-ffi: ")
    assert shown.err.count("\n") == 1
    assert said in shown.err


def test_the_machine_is_measured_as_the_engine_will_be(measured: list[Any], tiny_model: Path) -> None:
    assert main(["bench", str(tiny_model), *SMALL, "--cpu-isa", "portable", "--dtype", "f32"]) == 0
    assert measured == [{"threads": 2, "cpu_isa": "portable", "dtype": "f32"}] * 2  # before and after


# ---------------------------------------------------------------------------------------------------- limits


DENSE = ModelInfo(
    architecture="Qwen3ForCausalLM",
    path="",
    vocab_size=100,
    hidden_size=10,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    context_length=1000,
    parameters=5000,
    weight_bytes=10000,
    has_tokenizer=False,
    has_chat_template=False,
    active_parameters=5000,
    active_weight_bytes=10000,
    active_expert_bytes=0,
    num_experts=0,
    num_experts_per_tok=0,
    cache_token_bytes=128,  # 2 layers of 2 heads of 8 elements of 2 bytes, of keys and of values
    window_token_bytes=0,
    window_tokens=0,
    state_bytes=0,
)


def test_decoding_reads_the_weights_once_per_step_and_the_cache_of_every_stream() -> None:
    # 10000 + 100 * 128 bytes; 2 * 5000 operations and, with 4 heads of 8, in 2 layers, 2 of q k and 2 of p v: 256 for each of 100 tokens
    assert decode_work(DENSE, "bf16", 1, 100) == Work(22800, 35600)
    assert decode_work(DENSE, "bf16", 4, 100) == Work(2500 + 12800, 35600)


def test_a_prompt_needs_the_head_once_and_attends_to_what_is_before() -> None:
    # 3 tokens: 3 * 2 * (5000 - 1000) + 2 * 1000 for the head, and 256 for each of 1 + 2 + 3 pairs; 10000 bytes
    assert prefill_work(DENSE, "bf16", 3) == Work(10000 / 3, (24000 + 2000 + 6 * 256) / 3)


def test_a_cache_of_f32_is_twice_the_bytes_and_the_same_operations() -> None:
    wide = replace(DENSE, cache_token_bytes=256)
    assert decode_work(wide, "f32", 1, 100) == Work(10000 + 25600, 35600)


def test_a_window_ends_what_is_read() -> None:
    sliding = replace(DENSE, cache_token_bytes=64, window_token_bytes=64, window_tokens=2)
    assert decode_work(sliding, "bf16", 1, 100).bytes == 10000 + 6400 + 128
    pairs = (1 + 2 + 3 + 4) * 128 + (1 + 2 + 2 + 2) * 128  # each of the two layers
    assert prefill_work(sliding, "bf16", 4).flops == (4 * 8000 + 2000 + pairs) / 4


def test_a_state_is_read_by_every_stream() -> None:
    hybrid = replace(DENSE, state_bytes=400)
    assert decode_work(hybrid, "bf16", 2, 0) == Work(5000 + 400, 10000 + 600)


def test_of_a_mixture_the_experts_that_are_chosen_are_read() -> None:
    # 4 experts of 1500 bytes each, of which a token chooses 1; 4000 bytes are shared.
    moe = replace(DENSE, active_weight_bytes=5500, active_expert_bytes=1500, num_experts=4, num_experts_per_tok=1)
    assert decode_work(moe, "bf16", 1, 0).bytes == 5500
    assert decode_work(moe, "bf16", 2, 0).bytes == pytest.approx((4000 + 6000 * (1 - 0.75**2)) / 2)
    assert prefill_work(moe, "bf16", 500).bytes == pytest.approx(10000 / 500)


def test_the_lower_roof_binds() -> None:
    machine = replace(MACHINE, read_bytes_per_second=100.0, flops_per_second=1000.0)
    slow, busy = limit(Work(bytes=10, flops=50), machine), limit(Work(bytes=1, flops=50), machine)
    assert (slow.tokens_per_second, slow.bound) == (10, "memory")
    assert (busy.tokens_per_second, busy.bound) == (20, "arithmetic")


def counted(folder: Path, chosen: float) -> tuple[float, float]:
    """Parameters and bytes that a token is multiplied with, from names and shapes in the file alone."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    tied = config.get("text_config", config).get("tie_word_embeddings", config.get("tie_word_embeddings", False))
    parameters, held = 0.0, 0.0
    for name, array in read_safetensors(folder / "model.safetensors").items():
        beside = name.startswith("mtp.") or "visual." in name or (tied and name == "lm_head.weight")
        table = "ngram_embedding.shard" in name or "ngram_heads" in name or "layer_multipliers" in name
        if beside or table or (name.endswith("embed_tokens.weight") and not tied):
            continue
        share = chosen if ".experts." in name else 1.0
        parameters, held = parameters + share * array.size, held + share * array.nbytes
    return parameters, held


@pytest.mark.parametrize("case", ["qwen2_moe", "qwen2_sliding", "qwen3_5", "qwen3_next", "qwen3_yarn", "qwen4_exp"])
def test_the_library_knows_what_a_token_is_multiplied_with(case: str) -> None:
    info = model_info(DATA / case)
    chosen = info.num_experts_per_tok / info.num_experts if info.num_experts else 0.0
    assert (info.active_parameters, info.active_weight_bytes) == counted(DATA / case, chosen)
    assert (info.num_experts > 0) == (info.active_expert_bytes > 0)


@pytest.mark.parametrize(
    ("case", "full", "sliding", "window", "linear"),
    [("qwen3_yarn", 3, 0, 0, 0), ("qwen2_sliding", 1, 2, 8, 0), ("qwen3_next", 1, 0, 0, 3), ("qwen3_5", 1, 0, 0, 3)],
)
def test_the_library_knows_what_it_keeps_of_a_token(case: str, full: int, sliding: int, window: int, linear: int) -> None:
    info = model_info(DATA / case)
    layer = 2 * info.num_key_value_heads * info.head_dim * 2  # keys and values in bfloat16
    assert (info.cache_token_bytes, info.window_token_bytes, info.window_tokens) == (full * layer, sliding * layer, window)
    config = json.loads((DATA / case / "config.json").read_text(encoding="utf-8"))
    shape = {key: value for key, value in config.get("text_config", config).items() if key.startswith("linear_")}
    state = inputs = 0
    if linear:
        keys = shape["linear_num_key_heads"] * shape["linear_key_head_dim"]
        values = shape["linear_num_value_heads"] * shape["linear_value_head_dim"]
        state = values * shape["linear_key_head_dim"]
        inputs = (shape["linear_conv_kernel_dim"] - 1) * (2 * keys + values)
    assert info.state_bytes == linear * (state + inputs) * 4


# ---------------------------------------------------------------------------------------------------- the machine


def test_measuring_says_what_was_measured() -> None:
    machine = measure_machine({"threads": 1, "cpu_isa": "portable", "dtype": "f32"})
    assert (machine.threads, machine.level, machine.dtype) == (1, "portable", "f32")
    assert 1e7 < machine.read_bytes_per_second < 1e13
    assert 1e7 < machine.flops_per_second < 1e15
    with pytest.raises(QwenValueError, match="max_tokens"):
        measure_machine({"max_tokens": 3})


def test_a_machine_that_changed_or_was_used_by_others_is_doubtful() -> None:
    slower = replace(MACHINE, read_bytes_per_second=20e9)
    hotter = replace(MACHINE, flops_per_second=6e12 * 0.86)
    assert doubts(MACHINE, hotter, 0.05) == []
    assert doubts(MACHINE, slower, 0.0) == ["reading was 30.0 GB/s before and 20.0 GB/s after"]
    assert doubts(slower, replace(MACHINE, flops_per_second=3e12), 0.0)[1] == "arithmetic was 6.00 TFLOP/s before and 3.00 TFLOP/s after"
    assert doubts(MACHINE, MACHINE, 0.5) == ["other processes used 0.50 of 2 cores meanwhile"]
    assert "/proc/stat" in doubts(MACHINE, MACHINE, None)[0]


def test_what_neighbours_use_is_what_is_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("qwen_ffi.cli.bench_limits.monotonic", lambda: clock[0])
    monkeypatch.setattr("qwen_ffi.cli.bench_limits.os.sysconf", lambda name: 100)
    used = [(1.0, 0.0, 0.0, 0.0, 0.0)]
    times = type("Times", (), {"user": property(lambda self: used[0][0]), "system": 0.0, "children_user": 0.0, "children_system": 0.0})
    monkeypatch.setattr("qwen_ffi.cli.bench_limits.os.times", times)
    stat = tmp_path / "stat"
    stat.write_text("cpu  1000 0 200 99999 55 0 10 0 0 0\ncpu0 1 2 3\n")
    neighbours = Neighbours(stat)
    stat.write_text("cpu  1400 50 250 99999 99 0 10 100 0 0\n")  # 6 s more, one of them stolen; idle and waiting do not count
    used[0], clock[0] = (5.0, 0.0, 0.0, 0.0, 0.0), 110.0  # 4 of them ours, in 10 s
    assert neighbours.cores() == pytest.approx(0.2)
    stat.write_text("nonsense")
    assert neighbours.cores() is None
    assert Neighbours(tmp_path / "none").cores() is None


@pytest.mark.parametrize(
    ("value", "text"), [(34.123e9, "34.1 GB/s"), (7.0512e12, "7.05 TB/s"), (999, "999 B/s"), (123456.0, "123 kB/s"), (5e6, "5.00 MB/s")]
)
def test_figures_have_three_digits(value: float, text: str) -> None:
    assert scaled(value, "B/s") == text


# ---------------------------------------------------------------------------------------------------- runs and formats


def shown(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    assert main(["bench", *map(str, arguments)]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def test_models_of_every_kind_on_this_machine(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [tiny_model, *(DATA / case for case in ("qwen2_moe", "qwen3_next", "qwen3_gptq_int4_g32", "qwen4_exp"))]
    report = json.loads(shown(capsys, *folders, *SMALL, "--format", "json"))
    assert [model["name"] for model in report["models"]] == [folder.name for folder in folders]
    assert {"cpu", "kernel", "threads", "level", "dtype", "read_bytes_per_second", "flops_per_second"} <= set(report["machine"])
    assert report["machine"]["threads"] == 2
    for model in report["models"]:
        assert model["weight_bytes"] > 0
        assert 0 < model["open_seconds"] < 60
        assert model["own_bytes"] > 2**20 and model["mapped_bytes"] > 2**20
        assert [row["name"] for row in model["rows"]] == NAMES
        for row in model["rows"]:
            assert len(row["rates"]) == 2
            assert 0 < row["minimum"] <= row["tokens_per_second"] <= row["maximum"]
            best = [max(model["before"][key], model["after"][key]) for key in ("read_bytes_per_second", "flops_per_second")]
            roofs = [best[0] / row["bytes_per_token"], best[1] / row["flops_per_token"]]
            assert row["limit"] == pytest.approx(min(roofs))
            assert row["bound"] == ("memory" if roofs[0] <= roofs[1] else "arithmetic")
            assert row["percent_of_limit"] == pytest.approx(100 * row["tokens_per_second"] / min(roofs))


def test_text(measured: list[Any], tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys, tiny_model, *SMALL).splitlines()
    assert "2 threads, level amx, bf16" in lines[0]
    table = [line for line in lines if line.endswith(("memory", "arithmetic"))]
    assert [line[:20].strip() for line in table] == NAMES
    assert f"{tiny_model.name}: memory read at 30.0 GB/s before, arithmetic 6.00 TFLOP/s" in lines


def test_markdown(measured: list[Any], tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "bench.md"
    assert shown(capsys, tiny_model, *SMALL, "--format", "markdown", "--output", out) == ""
    table = [line[1:-1].split("|") for line in out.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    assert [len(row) for row in table] == [7] * (1 + len(NAMES))
    assert [row[1].strip() for row in table[1:]] == NAMES


def test_csv(measured: list[Any], tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = list(csv.DictReader(io.StringIO(shown(capsys, tiny_model, *SMALL, "--format", "csv"))))
    assert [row["name"] for row in rows] == NAMES
    for row in rows:
        assert None not in row and None not in row.values()
        reached = float(row["tokens_per_second"])
        assert float(row["percent_of_limit"]) == pytest.approx(100 * reached / float(row["limit"]))
        assert (row["model"], row["threads"], row["level"], row["trusted"]) == (tiny_model.name, "2", "amx", "1")


def test_doubts_are_said_in_every_format(
    monkeypatch: pytest.MonkeyPatch, measured: list[Any], tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(bench.Neighbours, "cores", lambda self: 1.5)
    said = "other processes used 1.50 of 2 cores meanwhile"
    for name in ("text", "markdown"):
        assert f"NOT TO BE TRUSTED: {said}" in shown(capsys, tiny_model, *SMALL, "--format", name)
    assert json.loads(shown(capsys, tiny_model, *SMALL, "--json"))["models"][0]["doubts"] == [said]
    out = tmp_path / "roofline.svg"
    rows = csv.DictReader(io.StringIO(shown(capsys, tiny_model, *SMALL, "--format", "csv", "--roofline", out)))
    assert {row["trusted"] for row in rows} == {"0"}
    assert f"Not to be trusted: {said}" in out.read_text(encoding="utf-8")


def test_the_picture_has_both_roofs_and_every_row(
    measured: list[Any], tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "roofline.svg"
    report = json.loads(shown(capsys, tiny_model, DATA / "qwen2_moe", *SMALL, "--format", "json", "--roofline", out))
    picture = ET.parse(out).getroot()  # well-formed
    tag = "{http://www.w3.org/2000/svg}"
    width, height = float(picture.attrib["width"]), float(picture.attrib["height"])
    texts = ["".join(text.itertext()) for text in picture.iter(f"{tag}text")]
    assert "memory 30.0 GB/s" in texts
    assert "arithmetic 6.00 TFLOP/s" in texts
    circles = list(picture.iter(f"{tag}circle"))
    rows = [(model["name"], row) for model in report["models"] for row in model["rows"]]
    assert len(circles) == len(rows) == 2 * len(NAMES)
    corners = [tuple(map(float, pair.split(","))) for pair in next(picture.iter(f"{tag}polyline")).attrib["points"].split()]
    for circle, (name, row) in zip(circles, rows, strict=True):
        assert f"{name} {row['name']}: {row['percent_of_limit']:.0f} %" in texts
        assert circle.attrib["class"] == row["kind"]
        x, y = float(circle.attrib["cx"]), float(circle.attrib["cy"])
        assert 0 < x < width
        assert corners[1][1] < y < height  # below the flat roof
    # As far right of the slope's foot as its intensity says: the axes are logarithmic.
    at = [math.log(row["flops_per_token"] / row["bytes_per_token"]) for _, row in rows]
    x = [float(circle.attrib["cx"]) for circle in circles]
    scale = (x[0] - x[1]) / (at[0] - at[1])
    assert [x[0] + scale * (value - at[0]) for value in at] == pytest.approx(x, abs=0.2)
