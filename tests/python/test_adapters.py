"""LoRA adapters: the numbers of merged weights, several beside each other without touching each other, and clear errors."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwen_ffi import (
    AdapterInfo,
    QwenClosedError,
    QwenFileFormatError,
    QwenInferenceSession,
    QwenNotFoundError,
    QwenUnsupportedError,
    QwenValueError,
    SamplingConfig,
    Transformer,
    build_info,
    read_safetensors,
)
from qwen_ffi._safetensors import write_safetensors

from .adapters import ATTENTION, LINEAR_ATTENTION, MLP, dequantised, make_adapter, merge, narrowed
from .test_gguf import as_safetensors, make_gguf

DATA = Path(__file__).resolve().parents[1] / "parity" / "data"
SHARED = Path(os.environ.get("QWEN_SHARED", DATA.parents[3] / "shared")) / "reference"
EVERYTHING = (*ATTENTION, *MLP, *LINEAR_ATTENTION)
TEXT = [int(token) for token in np.random.default_rng(1).integers(0, 512, 100)]
GREEDY = SamplingConfig(temperature=0, max_tokens=12, ignore_eos=True)


def logits(model: Path, adapter: Path | None = None, **options: Any) -> Any:
    with Transformer.from_pretrained(model, **options) as transformer:
        name = None if adapter is None else transformer.load_adapter(adapter)
        return transformer.forward([TEXT], adapter=name)[0].copy()


# ------------------------------------------------------------------------------------------------ the right numbers


@pytest.mark.parametrize("isa", build_info()["cpu_isa"])
@pytest.mark.parametrize(
    ("case", "targets"),
    [
        ("qwen3_yarn", (*ATTENTION, *MLP)),
        ("qwen3_yarn", ("down_proj",)),
        ("qwen2_sliding", (*ATTENTION, *MLP)),
        ("qwen2_moe", ATTENTION),
        ("qwen2_moe", ("v_proj", "shared_expert.up_proj", "shared_expert_gate")),
        ("qwen3_5", EVERYTHING),
        ("qwen3_next", (*ATTENTION, *LINEAR_ATTENTION)),
    ],
)
def test_an_adapter_gives_the_numbers_of_merged_weights(
    case: str, targets: tuple[str, ...], isa: str, tmp_path: Path
) -> None:
    adapter = make_adapter(tmp_path / "adapter", DATA / case, targets)
    merged = merge(tmp_path / "merged", DATA / case, adapter, lambda module: 8 / 4)
    plain = logits(DATA / case, cpu_isa=isa)
    expected = logits(merged, cpu_isa=isa)
    assert np.abs(expected - plain).max() > 0.05, "the adapter must change something"
    # The hybrids, random as they are, blow rounding up: merged weights differ by up to 2.5e-4 from one level to another.
    atol = 5e-4 if case in ("qwen3_5", "qwen3_next") else 1e-4
    np.testing.assert_allclose(logits(DATA / case, adapter, cpu_isa=isa), expected, atol=atol, rtol=0)


@pytest.mark.parametrize(
    ("config", "rank", "scale"),
    [
        ({"use_rslora": True}, lambda module: 4, lambda module: 8 / 2),
        ({"lora_alpha": 2.5}, lambda module: 4, lambda module: 2.5 / 4),
        ({"r": 1, "lora_alpha": 1}, lambda module: 1, lambda module: 1.0),
        (
            {"rank_pattern": {"v_proj": 7}, "alpha_pattern": {r"layers\.1\.self_attn\.q_proj": 3}},
            lambda module: 7 if "v_proj" in module else 4,
            lambda module: 8 / 7 if "v_proj" in module else 3 / 4 if "layers.1.self_attn.q" in module else 2.0,
        ),
        (
            {"rank_pattern": {"^model.layers.0.self_attn.k_proj": 2, "^k_proj": 5}},
            lambda module: 2 if "layers.0.self_attn.k" in module else 4,
            lambda module: 4.0 if "layers.0.self_attn.k" in module else 2.0,
        ),
        ({"target_modules": ".*self_attn.*proj"}, lambda module: 4, lambda module: 2.0),
        ({"target_modules": ["q_proj", "k_proj", "v_proj", "o_proj", "W_pack"]}, lambda module: 4, lambda module: 2.0),
        ({"init_lora_weights": "gaussian"}, lambda module: 4, lambda module: 2.0),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_ranks_and_scales_are_those_of_the_configuration(
    config: dict[str, Any], rank: Callable[[str], int], scale: Callable[[str], float], tmp_path: Path
) -> None:
    case = DATA / "qwen3_yarn"
    adapter = make_adapter(tmp_path / "adapter", case, ATTENTION, rank=rank, **config)
    merged = merge(tmp_path / "merged", case, adapter, scale)
    np.testing.assert_allclose(logits(case, adapter), logits(merged), atol=1e-4, rtol=0)


def test_layers_to_transform_are_the_layers_with_tensors(tmp_path: Path) -> None:
    case = DATA / "qwen3_yarn"
    wanted = {"only": lambda module: "layers.1." in module, "layers_to_transform": [1]}
    adapter = make_adapter(tmp_path / "adapter", case, ATTENTION, **wanted)
    merged = merge(tmp_path / "merged", case, adapter, lambda module: 2.0)
    np.testing.assert_allclose(logits(case, adapter), logits(merged), atol=1e-4, rtol=0)


@pytest.mark.parametrize("kept_as", [narrowed, np.float16], ids=["bf16", "f16"])
def test_sixteen_bit_adapters_are_taken_as_they_are(kept_as: Callable[[Any], Any], tmp_path: Path) -> None:
    case = DATA / "qwen3_yarn"
    adapter = make_adapter(tmp_path / "adapter", case, ATTENTION, kept_as=kept_as)
    merged = merge(tmp_path / "merged", case, adapter, lambda module: 2.0)
    np.testing.assert_allclose(logits(case, adapter), logits(merged), atol=1e-4, rtol=0)


@pytest.mark.parametrize("prefix", ["", "model.", "model.language_model.", "thinker.model."])
def test_wherever_the_trained_model_kept_its_text_model(prefix: str, tmp_path: Path) -> None:
    """transformers has moved it more than once; the checkpoint's names stayed."""
    case = DATA / "qwen3_5"
    usual = make_adapter(tmp_path / "usual", case, EVERYTHING)
    moved = make_adapter(
        tmp_path / "moved", case, EVERYTHING, rename=lambda module: module.replace("model.language_model.", prefix)
    )
    np.testing.assert_array_equal(logits(case, moved), logits(case, usual))


def test_a_quantised_model_takes_adapters(tmp_path: Path) -> None:
    """As trained by QLoRA: x W' of the dequantised weights, and the adapter's own product beside it."""
    case = DATA / "qwen3_gptq_int4_g32"
    plain = logits(case)
    nothing = make_adapter(tmp_path / "nothing", case, ATTENTION, strength=0)
    np.testing.assert_array_equal(logits(case, nothing), plain)
    whole, half = (
        logits(
            case, make_adapter(tmp_path / str(alpha), case, ("q_proj", "down_proj"), lora_alpha=alpha, strength=1e-5)
        )
        for alpha in (8, 4)
    )
    assert np.abs(whole - plain).max() > 1e-4
    np.testing.assert_allclose(whole - plain, 2 * (half - plain), atol=2e-5)  # so little that it is nearly linear


def quantised_base(kind: str, folder: Path) -> tuple[Path, Path]:
    """A quantised model, and the same in float32."""
    if kind in ("gptq", "fp8"):
        case = DATA / "qwen3_gptq_int4_g32" if kind == "gptq" else SHARED / "qwen3_fp8"
        if not case.is_dir():
            pytest.skip("the shared reference checkpoints are not here")
        return case, dequantised(folder / "dense", case)
    case = DATA / "qwen3_yarn"
    file = Path(make_gguf(case, folder / "model.gguf", kind))
    return file, as_safetensors(file, json.loads((case / "config.json").read_text()), folder / "dense")


@pytest.mark.parametrize("kind", ["gptq", "fp8", "Q8_0", "Q4_0", "MXFP4"])
def test_an_adapter_over_quantised_weights_gives_the_numbers_of_merged_dequantised_ones(
    kind: str, tmp_path: Path
) -> None:
    quantised, dense = quantised_base(kind, tmp_path)
    adapter = make_adapter(tmp_path / "law", dense, (*ATTENTION, *MLP))
    got = logits(quantised, adapter, dtype="f32")
    np.testing.assert_array_equal(got, logits(dense, adapter, dtype="f32"))  # the same float32 values, the same sums
    merged = merge(tmp_path / "merged", dense, adapter, lambda module: 2.0)
    np.testing.assert_allclose(got, logits(merged, dtype="f32"), atol=1e-4, rtol=0)
    assert np.abs(got - logits(quantised, dtype="f32")).max() > 0.05


# What people and their tools write; PEFT matches the module's whole name (re.fullmatch).
REGEXES = [
    r".*\.(q_proj|v_proj)",
    r"model\.layers\.[1-9]\.self_attn\..*_proj",
    r"^(?!.*visual).*(?:up|down)_proj$",
    r"^model(?=\.).*\.mlp\.(?P<part>gate|up)_proj",
]


@pytest.mark.parametrize("pattern", REGEXES)
@pytest.mark.parametrize("key", ["target_modules", "exclude_modules"])
def test_regular_expressions_name_the_matrices_that_have_tensors(key: str, pattern: str, tmp_path: Path) -> None:
    case = DATA / "qwen3_yarn"
    named = key == "target_modules"
    config = {"target_modules": pattern if named else [*ATTENTION, *MLP], key: pattern}
    chosen = {"only": lambda module: (re.fullmatch(pattern, module) is not None) == named}
    adapter = make_adapter(tmp_path / "law", case, (*ATTENTION, *MLP), **chosen, **config)
    modules = {name.split(".lora_")[0] for name in read_safetensors(adapter / "adapter_model.safetensors")}
    assert 0 < len(modules) < 7 * 3
    merged = merge(tmp_path / "merged", case, adapter, lambda module: 2.0)
    np.testing.assert_allclose(logits(case, adapter), logits(merged), atol=1e-4, rtol=0)


# ------------------------------------------------------------------------------------------------ beside each other


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two adapters of different ranks and targets for each of two models."""
    folder = tmp_path_factory.mktemp("adapters")
    return {
        f"{case}.{name}": make_adapter(
            folder / case / name, DATA / case, targets, seed, rank=lambda _, r=r: r, r=r, strength=0.05
        )
        for case in ("qwen3_yarn", "qwen3_5")
        for seed, (name, targets, r) in enumerate([("law", EVERYTHING, 8), ("code", ("q_proj", "down_proj"), 3)])
    }


@pytest.fixture
def session(trained: dict[str, Path]) -> Iterator[QwenInferenceSession]:
    with QwenInferenceSession(DATA / "qwen3_yarn") as opened:
        for name in ("law", "code"):
            opened.load_adapter(trained[f"qwen3_yarn.{name}"])
        yield opened


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("case", ["qwen3_yarn", "qwen3_5"])
def test_requests_of_several_adapters_get_the_bits_that_they_get_alone(
    case: str, dtype: str, trained: dict[str, Path]
) -> None:
    prompts = [TEXT[start : start + length] for start, length in ((0, 70), (0, 75), (5, 3), (40, 40), (0, 1))]
    config = SamplingConfig(temperature=0, max_tokens=20, ignore_eos=True, logprobs=True)
    wanted = [(prompt, name) for prompt in prompts for name in (None, "law", "code")]

    def bits(session: QwenInferenceSession, prompt: list[int], name: str | None) -> tuple[Any, ...]:
        answer = session.complete_ids(prompt, config, adapter=name)
        return answer.token_ids, answer.logprobs

    def opened(**options: Any) -> QwenInferenceSession:
        session = QwenInferenceSession(DATA / case, dtype=dtype, **options)
        session.load_adapter(trained[f"{case}.law"], name="law")
        session.load_adapter(trained[f"{case}.code"], name="code")
        return session

    with opened(threads=1, prefix_cache=False) as session:
        alone = [bits(session, *one) for one in wanted]
    assert len({tokens for tokens, _ in alone[:3]}) == 3, "the adapters must say different things"
    with QwenInferenceSession(DATA / case, dtype=dtype) as without:
        assert [bits(without, prompt, None) for prompt in prompts] == alone[::3]
    with opened(threads=2, max_batch_tokens=37) as session, ThreadPoolExecutor(len(wanted)) as pool:
        for _ in range(3):  # the later rounds find their prompts in the cache
            assert list(pool.map(lambda one: bits(session, *one), wanted)) == alone
        assert session.stats().cached_tokens > 0


def test_blocks_of_the_cache_belong_to_an_adapter(session: QwenInferenceSession, trained: dict[str, Path]) -> None:
    def cached(**values: Any) -> int:
        return session.complete_ids(TEXT, GREEDY, **values).stats.cached_tokens

    assert cached() == 0
    assert cached(adapter="law") == 0
    assert cached(adapter="code") == 0
    assert cached() == cached(adapter="law") == cached(adapter="code") == 96
    session.unload_adapter("law")
    session.load_adapter(trained["qwen3_yarn.code"], name="law")  # another one under the old name
    assert cached(adapter="law") == 0


def test_every_way_to_generate_takes_an_adapter(chat_model: Path, tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "law", DATA / "qwen2_sliding", (*ATTENTION, *MLP), strength=0.05)
    values: dict[str, Any] = {"temperature": 0, "max_tokens": 8, "ignore_eos": True}
    with QwenInferenceSession(chat_model) as session:
        law = session.load_adapter(folder)
        expected = session.generate("Hello", adapter=law, **values).token_ids
        assert session.generate("Hello", **values).token_ids != expected
        assert session.generate("Hello", SamplingConfig(adapter=law, **values)).token_ids == expected
        assert session.generate("Hello", SamplingConfig(adapter=law), adapter="", **values).token_ids != expected
        assert session.chat([("user", "Hello")], adapter=law, **values).token_ids == expected
        with session.stream("Hello", adapter=law, **values) as stream:
            assert tuple(token for event in stream for token in event.token_ids) == expected
        assert session.generate_batch(["Hello"], adapter=law, **values)[0].token_ids == expected

        async def both() -> list[Any]:
            return await asyncio.gather(
                session.agenerate("Hello", adapter=law, **values), session.agenerate("Hello", **values)
            )

        answers = asyncio.run(both())
        assert answers[0].token_ids == expected != answers[1].token_ids
        feed = {"input_ids": np.array([TEXT[:9]])}
        with_law, without = (session.run(None, feed, adapter=name)[0] for name in (law, None))
        assert not np.array_equal(with_law, without)


def test_forward_passes_continue_with_their_adapter(trained: dict[str, Path]) -> None:
    with Transformer.from_pretrained(DATA / "qwen3_yarn") as model:
        law = model.load_adapter(trained["qwen3_yarn.law"])
        whole = model.forward([TEXT], adapter=law)[0].copy()
        model.forward([TEXT[:50]], adapter=law)
        np.testing.assert_array_equal(model.forward([TEXT[50:]], 50, adapter=law)[0], whole[50:])
        assert model.generate([TEXT], 5, 0, adapter=law) != model.generate([TEXT], 5, 0)
        assert [info.name for info in model.adapters()] == ["law"]
        model.unload_adapter(law)
        assert model.adapters() == []


# ------------------------------------------------------------------------------------------------ coming and going


def test_what_is_loaded_is_listed(session: QwenInferenceSession, trained: dict[str, Path]) -> None:
    assert [info.name for info in session.adapters()] == ["code", "law"]
    law = session.adapters()[1]
    assert law == AdapterInfo("law", str(trained["qwen3_yarn.law"]), 8, law.parameters)
    tensors = read_safetensors(trained["qwen3_yarn.law"] / "adapter_model.safetensors")
    assert law.parameters == sum(tensor.size for tensor in tensors.values())
    session.unload_adapter("code")
    assert [info.name for info in session.adapters()] == ["law"]
    with pytest.raises(QwenValueError, match="option 'adapter' is 'code'; loaded are 'law'"):
        session.complete_ids([1], adapter="code")


def test_the_files_may_go_once_they_are_loaded(trained: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "law"
    shutil.copytree(trained["qwen3_yarn.law"], folder)
    with QwenInferenceSession(DATA / "qwen3_yarn") as session:
        session.load_adapter(folder)
        before = session.complete_ids(TEXT, GREEDY, adapter="law").token_ids
        (folder / "adapter_model.safetensors").write_bytes(b"")
        shutil.rmtree(folder)
        assert session.complete_ids(TEXT, GREEDY, adapter="law").token_ids == before


def test_unloading_does_not_disturb_who_uses_it(trained: dict[str, Path]) -> None:
    config = SamplingConfig(temperature=0, max_tokens=150, ignore_eos=True)
    with QwenInferenceSession(DATA / "qwen3_yarn") as session:
        session.load_adapter(trained["qwen3_yarn.law"], name="law")
        expected = session.complete_ids(TEXT[:20], config, adapter="law").token_ids
        for _ in range(5):
            streams = [session.stream_ids(TEXT[:20], config, adapter="law") for _ in range(4)]
            next(streams[0])
            session.unload_adapter("law")
            with pytest.raises(QwenValueError, match="no adapter is loaded"):
                session.complete_ids(TEXT[:20], config, adapter="law")
            for stream in streams:
                for _ in stream:
                    pass
                assert stream.result.token_ids == expected
            session.load_adapter(trained["qwen3_yarn.law"], name="law")


def test_adapters_come_and_go_while_others_generate(trained: dict[str, Path]) -> None:
    with QwenInferenceSession(DATA / "qwen3_yarn") as session, ThreadPoolExecutor(6) as pool:
        session.load_adapter(trained["qwen3_yarn.law"], name="law")
        expected = session.complete_ids(TEXT[:20], GREEDY, adapter="law").token_ids

        def come_and_go(number: int) -> None:
            for _ in range(10):
                name = session.load_adapter(trained["qwen3_yarn.code"], name=f"code{number}")
                assert name in [info.name for info in session.adapters()]
                session.complete_ids(TEXT[:20], GREEDY, adapter=name)
                session.unload_adapter(name)

        def generate(_: int) -> None:
            for _ in range(20):
                assert session.complete_ids(TEXT[:20], GREEDY, adapter="law").token_ids == expected

        for done in [pool.submit(work, i) for i in range(3) for work in (come_and_go, generate)]:
            done.result()
        assert [info.name for info in session.adapters()] == ["law"]


def test_loading_in_an_event_loop(trained: dict[str, Path]) -> None:
    async def load() -> list[str]:
        async with await QwenInferenceSession.aopen(DATA / "qwen3_yarn") as session:
            return [await session.aload_adapter(trained["qwen3_yarn.law"]), *(i.name for i in session.adapters())]

    assert asyncio.run(load()) == ["law", "law"]


# ------------------------------------------------------------------------------------------------ what is refused


@pytest.fixture(scope="module")
def base() -> Iterator[Transformer]:
    with Transformer.from_pretrained(DATA / "qwen3_yarn") as model:
        yield model


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    return make_adapter(tmp_path / "law", DATA / "qwen3_yarn", ATTENTION)


def test_names(base: Transformer, adapter: Path) -> None:
    with pytest.raises(QwenValueError, match="there is no adapter 'law'; no adapter is loaded"):
        base.unload_adapter("law")
    with pytest.raises(QwenValueError, match="option 'adapter' is 'law'; no adapter is loaded"):
        base.forward([[1]], adapter="law")
    with pytest.raises(QwenValueError, match="name is empty"):
        base.load_adapter(adapter, name="")
    with pytest.raises(QwenValueError, match="NUL"):
        base.load_adapter(adapter, name="a\0b")
    with pytest.raises(TypeError, match="must be a str"):
        base.load_adapter(adapter, name=1)  # type: ignore[arg-type]
    assert base.load_adapter(adapter) == "law"
    with pytest.raises(QwenValueError, match="an adapter 'law' is loaded already, from .*law; unload it first"):
        base.load_adapter(adapter)
    base.unload_adapter("law")
    with QwenInferenceSession(DATA / "qwen3_yarn") as session:
        pass
    with pytest.raises(QwenClosedError):
        session.load_adapter(adapter)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"peft_type": "IA3"}, "key 'peft_type' is 'IA3'; it must be 'LORA'"),
        ({"peft_type": None}, "key 'peft_type' is 'missing'; it must be 'LORA'"),
        ({"use_dora": True}, "key 'use_dora' is true; it must be null, false or empty"),
        ({"bias": "lora_only"}, "key 'bias' is 'lora_only'; it must be 'none'"),
        ({"modules_to_save": ["lm_head"]}, "key 'modules_to_save' is an array"),
        ({"fan_in_fan_out": True}, "key 'fan_in_fan_out' is true"),
        ({"layer_replication": [[0, 2]]}, "key 'layer_replication' is an array"),
        ({"trainable_token_indices": [5]}, "key 'trainable_token_indices' is an array"),
        ({"target_parameters": ["mlp.experts.gate_up_proj"]}, "key 'target_parameters' is an array"),
        ({"alora_invocation_tokens": [1, 2]}, "key 'alora_invocation_tokens' is an array"),
        ({"init_lora_weights": "pissa"}, "key 'init_lora_weights' is 'pissa'; .* path_initial_model_for_weight_conv"),
        ({"rank_pattern": {"layers.(0|1).q_proj": 2}}, "key 'rank_pattern.layers.\\(0\\|1\\).q_proj' is a regular"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_kinds_of_adapters_that_are_not_supported(
    config: dict[str, Any], message: str, base: Transformer, tmp_path: Path
) -> None:
    folder = make_adapter(tmp_path / "law", DATA / "qwen3_yarn", ATTENTION, **config)
    with pytest.raises(QwenUnsupportedError, match=f"law/adapter_config.json: {message}"):
        base.load_adapter(folder)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"r": 0}, "key 'r' is 0; it must be an integer from 1"),
        ({"r": None}, "key 'r' is missing; it must be an integer from 1"),
        ({"lora_alpha": "8"}, "key 'lora_alpha' is '8'; it must be a number"),
        ({"lora_alpha": None}, "key 'lora_alpha' is missing; it must be a number"),
        ({"use_rslora": 1}, "key 'use_rslora' is 1; it must be true or false"),
        ({"alpha_pattern": {"q_proj": "8"}}, "key 'alpha_pattern.q_proj' is '8'; it must be a number"),
        ({"alpha_pattern": [8]}, "key 'alpha_pattern': a JSON object is expected"),
        ({"target_modules": {"q_proj": 1}}, "key 'target_modules' is an object; it must be a list of module names"),
        ({"target_modules": [1]}, "key 'target_modules' is a list with 1; it must be a list of module names"),
        ({"layers_to_transform": ["1"]}, "key 'layers_to_transform' is '1'; it must be a layer's number"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_configurations_that_are_broken(
    config: dict[str, Any], message: str, base: Transformer, tmp_path: Path
) -> None:
    folder = make_adapter(tmp_path / "law", DATA / "qwen3_yarn", ATTENTION, **config)
    with pytest.raises(QwenFileFormatError, match=f"law/adapter_config.json: {message}"):
        base.load_adapter(folder)


Q = "base_model.model.model.layers.1.self_attn.q_proj"


def changed(adapter: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """The adapter with other tensors."""
    file = adapter / "adapter_model.safetensors"
    tensors = {name: np.array(tensor) for name, tensor in read_safetensors(file).items()}
    change(tensors)
    write_safetensors(file, tensors)
    return adapter


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            lambda t: t.update({f"{Q}.lora_A.weight": t[f"{Q}.lora_A.weight"][:3].copy()}),
            QwenFileFormatError,
            f"tensor '{Q}.lora_A.weight' has shape \\[3, 64\\]; rank 4 in adapter_config.json .* imply \\[4, 64\\]",
        ),
        (
            lambda t: t.update({f"{Q}.lora_B.weight": t[f"{Q}.lora_B.weight"][:7].copy()}),
            QwenFileFormatError,
            f"tensor '{Q}.lora_B.weight' has shape \\[7, 4\\]; .* the model's \\[64, 64\\] imply \\[64, 4\\]",
        ),
        (
            lambda t: t.update({f"{Q}.lora_A.weight": t[f"{Q}.lora_A.weight"].astype(np.float64)}),
            QwenUnsupportedError,
            f"tensor '{Q}.lora_A.weight' is F64; supported are F32, F16 and BF16",
        ),
        (lambda t: t.pop(f"{Q}.lora_B.weight"), QwenFileFormatError, f"'{Q}.lora_A.weight' has no lora_B.weight"),
        (lambda t: t.pop(f"{Q}.lora_A.weight"), QwenFileFormatError, f"'{Q}.lora_B.weight' has no lora_A.weight"),
        (
            lambda t: [t.pop(f"{Q}.lora_{x}.weight") for x in "AB"],
            QwenFileFormatError,
            f"tensor '{Q}.lora_A.weight' is missing; target_modules",
        ),
        (
            lambda t: t.update({f"{Q}.lora_magnitude_vector": np.ones(64, np.float32)}),
            QwenUnsupportedError,
            "tensor '.*lora_magnitude_vector' is neither a lora_A.weight nor",
        ),
        (
            lambda t: t.update({"base_model.model.lm_head.weight": np.ones((2, 2), np.float32)}),
            QwenUnsupportedError,
            "tensor 'base_model.model.lm_head.weight' is neither",
        ),
        (
            lambda t: t.update(
                {f"base_model.model.lm_head.lora_{x}.weight": np.ones((4, 4), np.float32) for x in "AB"}
            ),
            QwenUnsupportedError,
            "tensor 'base_model.model.lm_head.lora_A.weight' is for no matrix of this model .* self_attn.q_proj",
        ),
        (
            lambda t: t.update({Q.replace("1", "3") + f".lora_{x}.weight": np.ones((4, 4), np.float32) for x in "AB"}),
            QwenUnsupportedError,
            "layers.3.self_attn.q_proj.lora_A.weight' is for no matrix of this model",
        ),
        (
            lambda t: t.update(
                {
                    f"{Q}.lora_{x}.weight".replace(".model.layers", ".visual.layers"): t[f"{Q}.lora_{x}.weight"]
                    for x in "AB"
                }
            ),
            QwenUnsupportedError,
            "visual.layers.1.self_attn.q_proj.lora_A.weight' is for no matrix",
        ),
        (
            lambda t: t.update(
                {f"{Q}.lora_{x}.weight".replace(".model.layers", ".layers"): t[f"{Q}.lora_{x}.weight"] for x in "AB"}
            ),
            QwenFileFormatError,
            "is there a second time under another prefix",
        ),
        (lambda t: t.update({"x.lora_A.weight": t[f"{Q}.lora_A.weight"]}), QwenFileFormatError, "does not begin with"),
        (lambda t: t.clear(), QwenFileFormatError, "holds no tensors"),
    ],
)
def test_tensors_that_do_not_fit(
    change: Callable[[dict[str, Any]], object], error: type[Exception], message: str, base: Transformer, adapter: Path
) -> None:
    with pytest.raises(error, match=message) as raised:
        base.load_adapter(changed(adapter, change))
    assert "law/adapter_model.safetensors" in str(raised.value)
    assert base.adapters() == []


def test_experts_are_refused_by_name(tmp_path: Path) -> None:
    folder = make_adapter(
        tmp_path / "law",
        DATA / "qwen2_moe",
        ("q_proj",),
        rename=lambda module: module.replace("self_attn.q_proj", "mlp.experts.3.up_proj"),
    )
    with (
        Transformer.from_pretrained(DATA / "qwen2_moe") as model,
        pytest.raises(QwenUnsupportedError, match=r"mlp\.experts\.3\.up_proj\.lora_A\.weight' is for no matrix"),
    ):
        model.load_adapter(folder)


def test_folders_that_hold_no_adapter(base: Transformer, adapter: Path, tmp_path: Path) -> None:
    with pytest.raises(QwenNotFoundError, match="nowhere: no such folder; an adapter is a folder as PEFT saves it"):
        base.load_adapter(tmp_path / "nowhere")
    with pytest.raises(QwenNotFoundError, match="there is no adapter_config.json in this folder"):
        base.load_adapter(DATA / "qwen3_yarn")
    file = adapter / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(QwenFileFormatError, match=r"adapter_model\.safetensors: tensor '.*' lies|data_offsets|ends"):
        base.load_adapter(adapter)
    file.rename(adapter / "adapter_model.bin")
    with pytest.raises(QwenNotFoundError, match="adapter_model.bin is not supported; save .* safe_serialization=True"):
        base.load_adapter(adapter)
