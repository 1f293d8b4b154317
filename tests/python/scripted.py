"""A model that says what it is told: a checkpoint whose most likely next token follows a script, whatever came before.

It stands in for a trained model where the text matters and the numbers do not: tool calls, thoughts, stop texts. The
hidden state is the last token's embedding, one-hot, because attention and MLP add nothing; the head maps each token to the
next one of the script. So a token can occur once only: the script's pieces, all different, are tokens of their own.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from qwen_ffi import Tokenizer
from qwen_ffi._safetensors import write_safetensors

TINY_TOKENIZER = Path(__file__).resolve().parents[1] / "data" / "tiny_tokenizer"
END = "<|im_end|>"

CONFIG: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 768,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 32,
    "vocab_size": 768,
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "hidden_act": "silu",
    "attention_bias": False,
}


def pieces_of(script: str) -> list[str]:
    """The script in pieces of a few characters, no two alike; the tags of thoughts stand alone."""
    found: list[str] = []
    for part in re.split("(</?think>)", script):
        if part in ("<think>", "</think>"):
            found.append(part)
            continue
        while part:
            length = next((n for n in range(3, len(part) - 2) if part[:n] not in found), len(part))
            found.append(part[:length])
            part = part[length:]
    assert len(set(found)) == len(found), f"the script ends as it went before: {found[-1]!r}"
    return found


def write_tokenizer(folder: Path, pieces: list[str]) -> None:
    """The tiny tokenizer with the pieces as added tokens."""
    content = json.loads((TINY_TOKENIZER / "tokenizer.json").read_text(encoding="utf-8"))
    added = content["added_tokens"]
    known = {token["content"] for token in added} | set(content["model"]["vocab"])
    free = max(token["id"] for token in added) + 1
    for piece in pieces:
        if piece not in known:
            added.append({**added[0], "id": free, "content": piece, "special": False})
            free += 1
    assert free <= CONFIG["vocab_size"], "the script is too long"
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")


def make_scripted_model(folder: Path, script: str, template: str, after: str = "<|im_start|>assistant\n") -> Path:
    """Writes a checkpoint that answers a prompt ending with `after` with the script and then ends."""
    folder.mkdir(parents=True)
    pieces = [*pieces_of(script), END]
    write_tokenizer(folder, pieces)
    tokenizer = Tokenizer(folder)
    last = tokenizer.encode(after)[-1]
    said = [tokenizer.encode(piece)[0] for piece in pieces]
    assert last not in said, f"the script holds {after!r}'s last token"
    size = CONFIG["vocab_size"]
    head = np.zeros((size, size), np.float32)
    head[said, [last, *said[:-1]]] = 1.0
    layer = "model.layers.0."
    zeros = {
        "self_attn.q_proj": (64, 768),
        "self_attn.k_proj": (32, 768),
        "self_attn.v_proj": (32, 768),
        "self_attn.o_proj": (768, 64),
        "mlp.gate_proj": (64, 768),
        "mlp.up_proj": (64, 768),
        "mlp.down_proj": (768, 64),
    }
    ones = {"input_layernorm": 768, "post_attention_layernorm": 768, "self_attn.q_norm": 32, "self_attn.k_norm": 32}
    tensors = {
        "model.embed_tokens.weight": np.eye(size, dtype=np.float32),
        "model.norm.weight": np.ones(size, np.float32),
        "lm_head.weight": head,
        **{f"{layer}{name}.weight": np.zeros(shape, np.float32) for name, shape in zeros.items()},
        **{f"{layer}{name}.weight": np.ones(width, np.float32) for name, width in ones.items()},
    }
    write_safetensors(folder / "model.safetensors", tensors)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "generation_config.json").write_text(json.dumps({"do_sample": False, "eos_token_id": said[-1]}))
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    return folder
