"""Writes a random checkpoint as GGUF, weight for weight, so that llama.cpp computes the very same model. Needs `gguf`.

No tokenizer goes in: benchmarks count tokens, they do not read them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from qwen_ffi._safetensors import read_safetensors


def make_gguf(checkpoint: Path, file: Path) -> Path:
    """A dense Qwen3 with bf16 matrices and float32 norms, as llama.cpp's own converter writes it. Returns the file."""
    import gguf

    config: dict[str, Any] = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    layers = config["num_hidden_layers"]
    partial = file.with_suffix(".partial")
    writer = gguf.GGUFWriter(str(partial), "qwen3")
    writer.add_block_count(layers)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN3, layers)
    for name, tensor in read_safetensors(checkpoint / "model.safetensors").items():
        target = names.get_name(name, try_suffixes=(".weight",))
        if tensor.ndim == 1:
            writer.add_tensor(target, (tensor.astype(np.uint32) << 16).view(np.float32))
        else:
            raw = tensor.view(np.uint8)  # the last dimension is in bytes: that is how gguf tells bf16
            writer.add_tensor(target, raw, raw_dtype=gguf.GGMLQuantizationType.BF16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.rename(file)
    return file
