"""Makes a checkpoint of any Qwen3 or Qwen3.5 shape with random weights, bf16 or GPTQ: for speed as good as a trained one.

    python tests/benchmarks/random_checkpoint.py [CONFIG] [--cache FOLDER]

CONFIG is one of data/*.config.json (default Qwen3-0.6B). Prints the folder; one that is there already stays as it is.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from qwen_ffi._safetensors import write_safetensors


def shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Tensor names and shapes by a config.json: dense Qwen3, Qwen3-MoE, and the text side of Qwen3.5."""
    text = config.get("text_config", config)
    outer = "model.language_model." if text is not config else "model."
    hidden = text["hidden_size"]
    found: dict[str, tuple[int, ...]] = {outer + "embed_tokens.weight": (text["vocab_size"], hidden)}
    kinds = text.get("layer_types") or ["full_attention"] * text["num_hidden_layers"]
    for layer, kind in enumerate(kinds):
        prefix = f"{outer}layers.{layer}."
        found |= {prefix + "input_layernorm.weight": (hidden,), prefix + "post_attention_layernorm.weight": (hidden,)}
        found |= linear_attention(prefix, text) if kind == "linear_attention" else attention(prefix, text)
        found |= experts(prefix, text) if "num_experts" in text else mlp(prefix, hidden, text["intermediate_size"])
    found[outer + "norm.weight"] = (hidden,)
    if not config["tie_word_embeddings"]:
        found["lm_head.weight"] = (text["vocab_size"], hidden)
    return found


def attention(prefix: str, text: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, head = text["hidden_size"], text["head_dim"]
    q, kv = text["num_attention_heads"] * head, text["num_key_value_heads"] * head
    return {
        prefix + "self_attn.q_proj.weight": (2 * q if text.get("attn_output_gate") else q, hidden),
        prefix + "self_attn.k_proj.weight": (kv, hidden),
        prefix + "self_attn.v_proj.weight": (kv, hidden),
        prefix + "self_attn.o_proj.weight": (hidden, q),
        prefix + "self_attn.q_norm.weight": (head,),
        prefix + "self_attn.k_norm.weight": (head,),
    }


def linear_attention(prefix: str, text: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, heads, head = text["hidden_size"], text["linear_num_value_heads"], text["linear_value_head_dim"]
    channels = 2 * text["linear_num_key_heads"] * text["linear_key_head_dim"] + heads * head
    return {
        prefix + "linear_attn.in_proj_qkv.weight": (channels, hidden),
        prefix + "linear_attn.in_proj_z.weight": (heads * head, hidden),
        prefix + "linear_attn.in_proj_b.weight": (heads, hidden),
        prefix + "linear_attn.in_proj_a.weight": (heads, hidden),
        prefix + "linear_attn.conv1d.weight": (channels, 1, text["linear_conv_kernel_dim"]),
        prefix + "linear_attn.A_log": (heads,),
        prefix + "linear_attn.dt_bias": (heads,),
        prefix + "linear_attn.norm.weight": (head,),
        prefix + "linear_attn.out_proj.weight": (hidden, heads * head),
    }


def mlp(prefix: str, hidden: int, inner: int, name: str = "mlp.") -> dict[str, tuple[int, ...]]:
    return {
        f"{prefix}{name}gate_proj.weight": (inner, hidden),
        f"{prefix}{name}up_proj.weight": (inner, hidden),
        f"{prefix}{name}down_proj.weight": (hidden, inner),
    }


def experts(prefix: str, text: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    hidden, inner = text["hidden_size"], text["moe_intermediate_size"]
    found: dict[str, tuple[int, ...]] = {prefix + "mlp.gate.weight": (text["num_experts"], hidden)}
    for expert in range(text["num_experts"]):
        found |= mlp(prefix, hidden, inner, f"mlp.experts.{expert}.")
    return found


def gptq(name: str, out: int, inputs: int, config: dict[str, Any], random: np.random.Generator) -> dict[str, Any]:
    """The parts of a symmetric GPTQ matrix: random integers, zeros in the middle, the bf16 weights' magnitudes."""
    bits, group = config["bits"], config["group_size"]
    per_word, groups = 32 // bits, inputs // group
    middle = 2 ** (bits - 1) - 1
    word = sum(middle << (bits * i) for i in range(per_word))
    return {
        name + ".qweight": random.integers(0, 2**32, (inputs // per_word, out), np.uint32).view(np.int32),
        name + ".qzeros": np.full((groups, out // per_word), word, np.int32),
        name + ".scales": np.full((groups, out), 0.03 / middle, np.float16),
        name + ".g_idx": np.arange(inputs, dtype=np.int32) // group,
    }


def make_checkpoint(folder: Path, config: dict[str, Any], tokenizer: Path | None = None, seed: int = 0) -> Path:
    """Writes config.json and model.safetensors, and the tokenizer's files from another folder. Returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.Generator(np.random.Philox(seed))
    tensors: dict[str, Any] = {}
    quantization = config.get("quantization_config")
    for name, shape in shapes(config).items():
        if quantization is not None and name.endswith("_proj.weight"):
            tensors |= gptq(name.removesuffix(".weight"), *shape, quantization, random)
        elif len(shape) == 1:
            tensors[name] = np.full(shape, 0x3F80, np.uint16)  # 1.0; a norm that holds its weight minus one is then 2
        else:  # random sign and mantissa, magnitudes from 2^-6 to 2^-5: far quicker than drawing from a normal
            bits = random.integers(0, 2**16, size=shape, dtype=np.uint16)
            tensors[name] = (bits & 0x807F) | np.uint16(0x3C80)
    write_safetensors(folder / "model.safetensors", tensors)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if tokenizer is not None and (tokenizer / name).is_file():
            (folder / name).write_bytes((tokenizer / name).read_bytes())
    return folder


def checkpoint(cache: Path, config_file: Path) -> Path:
    """That of a config.json, made if it is not there yet; with the published tokenizer where the shared folder is found."""
    folder = cache / config_file.name.removesuffix(".config.json")
    if not (folder / "config.json").is_file():  # written last
        root = Path(__file__).resolve().parents[2]
        shared = Path(os.environ.get("QWEN_SHARED", root.parent / "shared")) / "qwen-tokenizer"
        tokenizer = next((entry for entry in (shared, root / "qwen_ffi" / "demo_model") if entry.is_dir()), None)
        make_checkpoint(folder, json.loads(config_file.read_text(encoding="utf-8")), tokenizer)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    data = Path(__file__).resolve().parent / "data"
    parser.add_argument("config", nargs="?", type=Path, default=data / "Qwen3-0.6B.config.json")
    parser.add_argument("--cache", type=Path, default=Path.home() / ".cache" / "qwen-ffi-benchmarks")
    arguments = parser.parse_args()
    print(checkpoint(arguments.cache, arguments.config))


if __name__ == "__main__":
    main()
