"""GGUF files: the same numbers, tokens and chat template as the same model as safetensors, and the bits of the `gguf` package.

The files are written with that package (tests/benchmarks/gguf_checkpoint.py). What its quantisers cannot write
is made of random blocks.
"""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

import qwen_ffi
from qwen_ffi import QwenInferenceSession, Transformer
from qwen_ffi._safetensors import read_safetensors, write_safetensors
from qwen_ffi.cli import main
from qwen_ffi.errors import QwenError, QwenFileFormatError, QwenNotFoundError, QwenUnsupportedError

from .conftest import TESTS, load

WRITER = load(TESTS / "benchmarks" / "gguf_checkpoint.py")
make_gguf = WRITER.make_gguf
PARITY = TESTS / "parity" / "data"
IDS = [5, 460, 0, 13, 511, *range(20, 90)]

K_QUANTS = ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"]
RANDOM = [*K_QUANTS, "IQ4_NL", "IQ4_XS"]  # which the package cannot write
QUANTS = ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "MXFP4", *RANDOM]
# Where a block has its halves: random bytes there could be NaN, and would be of any magnitude.
HALVES = {"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "IQ4_NL": (0,), "IQ4_XS": (0,)}

WIDE: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 512,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
}


def random_blocks(dtype: str, seed: int = 0) -> Any:
    """A pack (gguf_checkpoint.py) that replaces every matrix by random blocks of the magnitude of weights."""
    kind = gguf.GGMLQuantizationType[dtype]
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    source = np.random.Generator(np.random.Philox(seed))

    def pack(name: str, values: Any) -> tuple[Any, Any]:
        blocks = source.integers(0, 256, (values.size // elements, size), np.uint8)
        for at in HALVES[dtype]:
            halves = source.uniform(-2e-4, 2e-4, len(blocks)).astype(np.float16)
            blocks[:, at : at + 2] = halves.view(np.uint8).reshape(-1, 2)
        return kind, blocks.reshape(*values.shape[:-1], -1)

    return pack


def published_names(config: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """GGUF's names -> the published ones; the reverse of gguf_checkpoint.py, for dense models."""
    names = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
    back = {short: long for long, short in WRITER.NAMES.items()}
    found = {}
    for name, array in values.items():
        if name.startswith("blk."):
            _, layer, short, kind = name.split(".")
            found[f"model.layers.{layer}.{back[short]}.{kind}"] = array
        else:
            short, kind = name.split(".")
            found[f"{names[short]}.{kind}"] = array
    return found


def as_safetensors(file: Path, config: dict[str, Any], folder: Path) -> Path:
    """The GGUF file's weights as the gguf package dequantises them, in float32, as a checkpoint folder."""
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    tensors = gguf.GGUFReader(file).tensors
    values = {t.name: gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float32) for t in tensors}
    write_safetensors(folder / "model.safetensors", published_names(config, values))
    return folder


def logits(path: Path, dtype: str = "f32", **options: Any) -> Any:
    with Transformer.from_pretrained(path, dtype=dtype, **options) as model:
        return model.forward([IDS])[0].copy()


@pytest.fixture(scope="session")
def wide_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Qwen3 whose rows hold whole blocks of 256."""
    maker = load(TESTS / "benchmarks" / "random_checkpoint.py")
    return Path(maker.make_checkpoint(tmp_path_factory.mktemp("models") / "wide", WIDE))


@pytest.fixture(scope="session")
def demo_gguf(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(make_gguf(demo_model, tmp_path_factory.mktemp("gguf") / "demo-BF16.gguf"))


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
@pytest.mark.parametrize("case", ["demo", "qwen2_moe", "qwen3_yarn", "qwen3_embedding"])
def test_bf16_weights_give_the_same_bits(case: str, dtype: str, demo_model: Path, tmp_path: Path) -> None:
    folder = demo_model if case == "demo" else PARITY / case
    file = make_gguf(folder, tmp_path / "model.gguf")
    np.testing.assert_array_equal(logits(file, dtype), logits(folder, dtype))


@pytest.mark.parametrize("dtype", ["F32", "F16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
@pytest.mark.parametrize("case", ["demo", "qwen3_yarn"])
def test_weights_of_every_type_that_gguf_writes_give_the_bits_of_its_float32(
    case: str, dtype: str, demo_model: Path, tmp_path: Path
) -> None:
    folder = demo_model if case == "demo" else PARITY / case
    file = make_gguf(folder, tmp_path / "model.gguf", dtype)
    config = json.loads((folder / "config.json").read_text())
    twin = as_safetensors(file, config, tmp_path / "twin")
    np.testing.assert_array_equal(logits(file), logits(twin))
    if dtype == "F32":
        np.testing.assert_array_equal(logits(file), logits(folder))


@pytest.mark.parametrize("isa", qwen_ffi.build_info()["cpu_isa"])
@pytest.mark.parametrize("dtype", QUANTS)
def test_quantised_matrices_have_the_bits_of_the_gguf_package(
    dtype: str, isa: str, wide_model: Path, tmp_path: Path
) -> None:
    """All of them, through logits; and every element of the embedding table, which is the tied head too, as it stands."""
    pack = random_blocks(dtype) if dtype in RANDOM else None
    file = make_gguf(wide_model, tmp_path / "model.gguf", dtype, pack=pack)
    twin = as_safetensors(file, WIDE, tmp_path / "twin")
    table = read_safetensors(twin / "model.safetensors")["model.embed_tokens.weight"]
    with Transformer.from_pretrained(file, cpu_isa=isa) as model:
        output = model.forward([range(WIDE["vocab_size"])], hidden_states=True)
        np.testing.assert_array_equal(output.hidden_states[0][0].view(np.uint32), table.view(np.uint32))
        assert model.counters()[f"linear.{dtype.lower()}.{isa}"] > 0
        assert model.info.weight_bytes < table.nbytes * 3  # as stored
        assert model.info.parameters == sum(a.size for a in read_safetensors(twin / "model.safetensors").values())
    np.testing.assert_array_equal(logits(file, cpu_isa=isa), logits(twin, cpu_isa=isa))


def test_types_may_differ_from_tensor_to_tensor(wide_model: Path, tmp_path: Path) -> None:
    """As in a Q4_K_M: the embeddings Q6_K, the rest mostly Q4_K, with fused projections of two types."""
    packs = {dtype: random_blocks(dtype) for dtype in ("Q4_K", "Q6_K")}

    def pack(name: str, values: Any) -> Any:
        return packs["Q6_K" if "token_embd" in name or "attn_v" in name or "ffn_down" in name else "Q4_K"](name, values)

    file = make_gguf(wide_model, tmp_path / "model.gguf", pack=pack)
    np.testing.assert_array_equal(logits(file), logits(as_safetensors(file, WIDE, tmp_path / "twin")))


def test_stacks_of_quantised_experts(tmp_path: Path) -> None:
    """A mixture in Q8_0 (where rows fit) beside the same values as safetensors."""
    folder = PARITY / "qwen2_moe"
    file = make_gguf(folder, tmp_path / "model.gguf", "Q8_0")
    kinds = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(file).tensors}
    assert kinds["blk.0.ffn_up_exps.weight"] == "Q8_0"
    twin = tmp_path / "twin"
    shutil.copytree(folder, twin)
    original = read_safetensors(folder / "model.safetensors")
    values = {t.name: gguf.quants.dequantize(t.data, t.tensor_type) for t in gguf.GGUFReader(file).tensors}
    tensors = {}
    for name, array in original.items():
        if ".experts." in name:
            before, rest = name.split(".experts.")
            expert, part = rest.split(".", 1)
            tensors[name] = values[WRITER.gguf_name(f"{before}.experts.{part}")][int(expert)]
        else:
            tensors[name] = values[WRITER.gguf_name(name)].reshape(array.shape)
    write_safetensors(twin / "model.safetensors", {name: np.ascontiguousarray(a) for name, a in tensors.items()})
    np.testing.assert_array_equal(logits(file), logits(twin))


CORPUS = [
    "Hello, world! 你好",
    "def f(x):\n    return x ** 2  # \t tabs\r\n\r\n",
    "naïve café e\u0301 Ω≈ç √∫ 한국어 العربية हिन्दी ไทย",
    "<|im_start|>user\nhi<|im_end|>\n<|endoftext|><think>no</think><tool_call>",
    "123456 3.14 \u00a0\u2003 spaces   end   ",
    "👩‍👩‍👧‍👦 emoji 🏳️‍🌈",
    "",
]


def tokenizer_folders(demo_model: Path) -> list[Path]:
    shared = [TESTS.parents[1] / "shared" / name for name in ("qwen-tokenizer", "qwen35-tokenizer")]
    return [demo_model, *(folder for folder in shared if (folder / "tokenizer.json").is_file())]


def test_the_tokenizer_is_that_of_the_folder(demo_model: Path, tmp_path: Path) -> None:
    for folder in tokenizer_folders(demo_model):
        tokens = qwen_ffi.Tokenizer(folder)
        file = tmp_path / "tokenizer.gguf"
        writer = gguf.GGUFWriter(str(file), "qwen3")
        WRITER.add_tokenizer(writer, folder, {"vocab_size": tokens.vocab_size + 7})
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        ours = qwen_ffi.Tokenizer(file)
        assert ours.vocab_size == tokens.vocab_size
        source = random.Random(7)
        made = [
            "".join(chr(source.choice((source.randrange(32, 127), source.randrange(160, 0x3000)))) for _ in range(40))
        ]
        for text in [*CORPUS, *made, *(path.read_text(encoding="utf-8") for path in sorted(TESTS.glob("*.py")))]:
            ids = tokens.encode(text)
            assert ours.encode(text) == ids
            assert ours.decode(ids) == tokens.decode(ids)
        for number in range(tokens.vocab_size):
            assert ours.decode([number], skip_special=False) == tokens.decode([number], skip_special=False)


def test_a_gguf_file_is_all_that_a_session_needs(demo_model: Path, demo_gguf: Path, tmp_path: Path) -> None:
    shutil.copy(demo_gguf, tmp_path)  # the only one in a folder: the folder will do
    question = [("user", "What is 2 plus 2?")]
    with QwenInferenceSession(demo_model) as folder:
        prompt, answer = folder.render(question), folder.chat(question, temperature=0, max_tokens=30)
    for path in (demo_gguf, str(demo_gguf), tmp_path):
        with QwenInferenceSession(path) as session:
            assert session.render(question) == prompt
            again = session.chat(question, temperature=0, max_tokens=30)
            assert (again.text, again.token_ids, again.finish_reason) == (
                answer.text,
                answer.token_ids,
                answer.finish_reason,
            )
            assert session.info.has_chat_template


def test_the_tokenizer_of_a_gguf_file_may_serve_another_model(
    demo_model: Path, demo_gguf: Path, tmp_path: Path
) -> None:
    for name in ("config.json", "model.safetensors"):
        shutil.copy(demo_model / name, tmp_path)
    question = [("user", "What is 2 plus 2?")]
    with QwenInferenceSession(demo_model) as folder:
        prompt = folder.render(question)
    for path in (demo_gguf, demo_gguf.parent):
        with QwenInferenceSession(tmp_path, tokenizer=path) as session:
            assert session.render(question) == prompt


def test_a_model_in_parts(demo_model: Path, tmp_path: Path) -> None:
    """As gguf-split leaves it, and as the official files of the larger models are."""
    make_gguf(demo_model, tmp_path / "whole.gguf", split_max_tensors=20)
    parts = sorted(tmp_path.glob("*.gguf"))
    assert len(parts) > 1
    want = logits(demo_model)
    for path in (parts[0], tmp_path):
        np.testing.assert_array_equal(logits(path), want)
    with pytest.raises(QwenNotFoundError, match="give the first part"):
        Transformer.from_pretrained(parts[1])
    parts[1].unlink()
    with pytest.raises(QwenNotFoundError, match="download the missing parts"):
        Transformer.from_pretrained(parts[0])


def test_a_folder_with_two_is_asked_which(demo_gguf: Path, tmp_path: Path) -> None:
    for name in ("a.gguf", "b.gguf"):
        (tmp_path / name).symlink_to(demo_gguf)
    with pytest.raises(QwenNotFoundError, match="holds 2 GGUF files, 'a.gguf' and 'b.gguf'; give the path"):
        QwenInferenceSession(tmp_path)


def test_the_command_line(demo_gguf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def ask(*arguments: object) -> str:
        assert main([str(argument) for argument in arguments]) == 0
        return capsys.readouterr().out

    assert json.loads(ask("info", demo_gguf, "--json"))["architecture"] == "Qwen3ForCausalLM"
    assert ask("generate", demo_gguf, "Hello", "--temperature", "0", "--max-tokens", "8").strip()
    checks = {check["name"]: check for check in json.loads(ask("doctor", demo_gguf, "--json"))["checks"]}
    assert "demo-BF16.gguf" in checks["file"]["message"]
    for name in ("tokenizer", "model", "chat_template", "model_memory", "smoke_test"):
        assert checks[name]["status"] == "ok", checks[name]


@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_validate_compares_a_gguf_file_with_the_reference(
    dtype: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_gguf(PARITY / "qwen3_yarn", tmp_path / "model.gguf")
    for name in ("expected.safetensors", "meta.json"):
        shutil.copy(PARITY / "qwen3_yarn" / name, tmp_path)
    for case in (tmp_path, tmp_path / "model.gguf"):
        assert main(["validate", str(case), "--dtype", dtype, "--json"]) == 0
        assert json.loads(capsys.readouterr().out.splitlines()[0])["ok"]


def without(key: str) -> Callable[[Any], None]:
    def change(writer: Any) -> None:
        del writer.kv_data[0][key]

    return change


def with_value(key: str, value: object, kind: str = "UINT32") -> Callable[[Any], None]:
    def change(writer: Any) -> None:
        writer.kv_data[0].pop(key, None)
        writer.add_key_value(key, value, gguf.GGUFValueType[kind])

    return change


REFUSED = {
    "another family": (
        with_value("general.architecture", "llama", "STRING"),
        QwenUnsupportedError,
        "qwen2, qwen3, qwen2moe",
    ),
    "split": (with_value("split.count", 3, "UINT16"), QwenFileFormatError, "one of 3 parts of a split model"),
    "no layers": (
        without("qwen3.block_count"),
        QwenFileFormatError,
        "key 'qwen3.block_count' is missing; it must be an",
    ),
    "many layers": (with_value("qwen3.block_count", 2**31), QwenFileFormatError, "'qwen3.block_count' is 2147483648"),
    "more layers": (
        with_value("qwen3.block_count", 6),
        QwenFileFormatError,
        "tensor 'blk.5.attn_norm.weight' is missing",
    ),
    "fewer layers": (
        with_value("qwen3.block_count", 4),
        QwenFileFormatError,
        "key 'qwen3.block_count' is 4; it must be more: there is a tensor 'blk.4.attn_norm.weight'",
    ),
    "zero width": (with_value("qwen3.embedding_length", 0), QwenFileFormatError, "'qwen3.embedding_length' is 0"),
    "another width": (
        with_value("qwen3.embedding_length", 96),
        QwenFileFormatError,
        r"tensor 'token_embd.weight' has shape \[768, 192\]; the metadata implies \[768, 96\]",
    ),
    "odd heads": (
        with_value("qwen3.attention.head_count_kv", 4),
        QwenFileFormatError,
        "a divisor of qwen3.attention.head_count, which is 6",
    ),
    "values of another length": (
        with_value("qwen3.attention.value_length", 64),
        QwenUnsupportedError,
        "value_length' is 64",
    ),
    "partial rotation": (with_value("qwen3.rope.dimension_count", 16), QwenUnsupportedError, "rotate whole heads"),
    "NaN": (
        with_value("qwen3.rope.freq_base", float("nan"), "FLOAT32"),
        QwenFileFormatError,
        "'qwen3.rope.freq_base' is nan",
    ),
    "rope type": (
        with_value("qwen3.rope.scaling.type", "linear", "STRING"),
        QwenUnsupportedError,
        "rope.scaling.type' is 'linear'",
    ),
    "not causal": (
        with_value("qwen3.attention.causal", False, "BOOL"),
        QwenUnsupportedError,
        "attention.causal' is false",
    ),
    "another tokenizer": (with_value("tokenizer.ggml.model", "llama", "STRING"), QwenUnsupportedError, "'gpt2'"),
    "another splitting": (with_value("tokenizer.ggml.pre", "llama-bpe", "STRING"), QwenUnsupportedError, "'qwen35'"),
    "no merges": (without("tokenizer.ggml.merges"), QwenFileFormatError, "'tokenizer.ggml.merges' is missing"),
    "eos": (with_value("tokenizer.ggml.eos_token_id", 768), QwenFileFormatError, "is 768; it must be below vocab_size"),
    "temperature": (
        with_value("general.sampling.temp", -1.0, "FLOAT32"),
        QwenFileFormatError,
        "general.sampling.temp' is -1",
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_run_is_refused_by_key(what: str, demo_model: Path, tmp_path: Path) -> None:
    change, error, message = REFUSED[what]
    file = make_gguf(demo_model, tmp_path / "model.gguf", change=change)
    with pytest.raises(error, match=message) as caught:
        QwenInferenceSession(file)
    assert str(file) in str(caught.value)


def test_sampling_parameters_and_stop_tokens_come_from_the_metadata(demo_model: Path, tmp_path: Path) -> None:
    def change(writer: Any) -> None:
        with_value("general.sampling.temp", 0.0, "FLOAT32")(writer)
        with_value("tokenizer.ggml.eos_token_id", 3)(writer)  # <|im_end|> ends an answer all the same

    file = make_gguf(demo_model, tmp_path / "model.gguf", change=change)
    question = [("user", "What is 2 plus 2?")]
    with QwenInferenceSession(demo_model) as folder, QwenInferenceSession(file) as session:
        want = folder.chat(question, temperature=0, max_tokens=40)
        got = session.chat(question, max_tokens=40)
    assert (got.text, got.finish_reason) == (want.text, want.finish_reason)


def check_damage(sound: Path, file: Path, rounds: int) -> None:
    """Cuts at every length of the header's beginning, and random bytes in it: an error of the library, or a model."""
    original = sound.read_bytes()
    header = gguf.GGUFReader(sound).tensors[0].data_offset
    source = random.Random(3)
    damaged = [original[:length] for length in (*range(0, 200), *range(200, header, 997), header, len(original) - 1)]
    for _ in range(rounds):
        data = bytearray(original)
        for _ in range(source.randrange(1, 4)):
            at = source.choice((source.randrange(header), source.randrange(600), header - 1 - source.randrange(4000)))
            data[at] = source.choice((0, 1, 0x7F, 0x80, 0xFF, source.randrange(256)))
        damaged.append(bytes(data))
    raised = 0
    for data in damaged:
        file.write_bytes(data)
        try:
            with Transformer.from_pretrained(file, threads=1) as model:
                model.forward([[1, 2, 3]])
        except QwenError as error:
            raised += 1
            assert not isinstance(error, qwen_ffi.errors.QwenInternalError), error
    assert raised > len(damaged) // 2


def test_no_damage_does_more_than_raise(demo_gguf: Path, tmp_path: Path) -> None:
    check_damage(demo_gguf, tmp_path / "model.gguf", rounds=400)
