"""Makes a Qwen3 checkpoint of any shape with random weights, bf16 or GPTQ: for speed it is as good as a trained one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from qwen_ffi._safetensors import write_safetensors


def shapes(config: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """Tensor names and shapes of a dense Qwen3 by its config.json."""
    hidden, inner, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    q, kv = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    found: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (config["vocab_size"], hidden)}
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}."
        found |= {
            prefix + "input_layernorm.weight": (hidden,),
            prefix + "self_attn.q_proj.weight": (q, hidden),
            prefix + "self_attn.k_proj.weight": (kv, hidden),
            prefix + "self_attn.v_proj.weight": (kv, hidden),
            prefix + "self_attn.o_proj.weight": (hidden, q),
            prefix + "self_attn.q_norm.weight": (head,),
            prefix + "self_attn.k_norm.weight": (head,),
            prefix + "post_attention_layernorm.weight": (hidden,),
            prefix + "mlp.gate_proj.weight": (inner, hidden),
            prefix + "mlp.up_proj.weight": (inner, hidden),
            prefix + "mlp.down_proj.weight": (hidden, inner),
        }
    found["model.norm.weight"] = (hidden,)
    if not config["tie_word_embeddings"]:
        found["lm_head.weight"] = (config["vocab_size"], hidden)
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
            tensors[name] = np.full(shape, 0x3F80, np.uint16)  # 1.0
        else:  # random sign and mantissa, magnitudes from 2^-6 to 2^-5: far quicker than drawing from a normal
            bits = random.integers(0, 2**16, size=shape, dtype=np.uint16)
            tensors[name] = (bits & 0x807F) | np.uint16(0x3C80)
    write_safetensors(folder / "model.safetensors", tensors)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if tokenizer is not None and (tokenizer / name).is_file():
            (folder / name).write_bytes((tokenizer / name).read_bytes())
    return folder
