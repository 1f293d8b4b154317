"""Writes a safetensors checkpoint as GGUF, weight for weight, with the `gguf` package and as llama.cpp's converter does.

For benchmarks (llama.cpp then computes the very same model) and for the tests of GGUF files.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from qwen_ffi._safetensors import read_safetensors

ARCHITECTURES = {
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "qwen2_moe": "qwen2moe",
    "qwen3_moe": "qwen3moe",
    "qwen3_next": "qwen3next",
    "qwen3_5": "qwen35",
    "qwen3_5_moe": "qwen35moe",
}
NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "mlp.gate": "ffn_gate_inp",
    "mlp.experts.gate_proj": "ffn_gate_exps",
    "mlp.experts.up_proj": "ffn_up_exps",
    "mlp.experts.down_proj": "ffn_down_exps",
    "mlp.shared_expert.gate_proj": "ffn_gate_shexp",
    "mlp.shared_expert.up_proj": "ffn_up_shexp",
    "mlp.shared_expert.down_proj": "ffn_down_shexp",
    "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
}
# Of the hybrids, beside those.
HYBRID_NAMES = {
    **NAMES,
    "post_attention_layernorm": "post_attention_norm",
    "linear_attn.in_proj_qkv": "attn_qkv",
    "linear_attn.in_proj_z": "attn_gate",
    "linear_attn.in_proj_b": "ssm_beta",
    "linear_attn.in_proj_a": "ssm_alpha",
    "linear_attn.in_proj_ba": "ssm_ba",
    "linear_attn.conv1d": "ssm_conv1d",
    "linear_attn.dt": "ssm_dt",
    "linear_attn.norm": "ssm_norm",
    "linear_attn.out_proj": "ssm_out",
    "nextn.fc": "nextn.eh_proj",
    "nextn.pre_fc_norm_embedding": "nextn.enorm",
    "nextn.pre_fc_norm_hidden": "nextn.hnorm",
    "nextn.norm": "nextn.shared_head_norm",
}

Writer = Any  # gguf.GGUFWriter, which has no types
# (name in the file, its float32 values) -> the type and the bytes to write, rows last.
Pack = Callable[[str, Any], tuple[Any, Any]]
Tensors = Iterator[tuple[str, Any]]


def gguf_name(name: str, names: dict[str, str] = NAMES) -> str:
    """The name of a published tensor in a GGUF file; a stack of experts goes by "….mlp.experts.up_proj.weight"."""
    stem, _, kind = name.rpartition(".")
    if stem.startswith("model.layers."):
        _, _, layer, rest = stem.split(".", 3)
        return f"blk.{layer}.ssm_a" if kind == "A_log" else f"blk.{layer}.{names[rest]}.{kind}"
    return f"{NAMES[stem]}.{kind}"


def packed_as(dtype: str) -> Pack:
    """Every matrix as F32, F16, BF16 or a type that gguf.quants can quantise; as F32 where its rows do not fit the blocks."""
    import gguf

    wanted = gguf.GGMLQuantizationType[dtype]

    def pack(name: str, values: Any) -> tuple[Any, Any]:
        block, _ = gguf.GGML_QUANT_SIZES[wanted]
        fits = values.shape[-1] % block == 0
        kind = wanted if fits else gguf.GGMLQuantizationType.F32
        return kind, gguf.quants.quantize(values, kind)

    return pack


def float32(tensor: Any) -> Any:
    """bf16 comes as its bit patterns."""
    return (tensor.astype(np.uint32) << 16).view(np.float32) if tensor.dtype == np.uint16 else tensor.astype(np.float32)


def tiled(values: Any, text: dict[str, Any], axis: int, width: int) -> Any:
    """Value heads of `width` rows or columns each in the order of ggml's broadcasts: the first of every key head, then the
    second of every key head, …; published are all of the first key head, then all of the second, …"""
    keys, heads = text["linear_num_key_heads"], text["linear_num_value_heads"]
    before, after = values.shape[:axis], values.shape[axis + 1 :]
    grouped = values.reshape(*before, keys, heads // keys, width, *after)
    return np.ascontiguousarray(grouped.swapaxes(axis, axis + 1)).reshape(values.shape)


def reordered(name: str, values: Any, text: dict[str, Any]) -> Any:
    """A tensor of Qwen3.5's linear attention with its value heads tiled (conversion/qwen.py of llama.cpp)."""
    width = text["linear_value_head_dim"]
    keys = 2 * text["linear_num_key_heads"] * text["linear_key_head_dim"]
    part = name.split(".linear_attn.")[-1]
    if part.startswith(("in_proj_qkv.", "conv1d.")):
        return np.concatenate([values[:keys], tiled(values[keys:], text, 0, width)])
    if part.startswith("in_proj_z."):
        return tiled(values, text, 0, width)
    if part.startswith("out_proj."):
        return tiled(values, text, 1, width)
    if part.startswith(("in_proj_b.", "in_proj_a.", "A_log", "dt_bias")):
        return tiled(values, text, 0, 1)
    return values


def ungrouped(values: Any, text: dict[str, Any]) -> tuple[Any, Any]:
    """Qwen3-Next's in_proj_qkvz, in which what belongs to a key head stands together, as q, k, v and as z."""
    keys, key, hidden = text["linear_num_key_heads"], text["linear_key_head_dim"], values.shape[1]
    value = text["linear_num_value_heads"] // keys * text["linear_value_head_dim"]
    parts = np.split(values.reshape(keys, -1, hidden), np.cumsum([key, key, value]), axis=1)
    q, k, v, z = (part.reshape(-1, hidden) for part in parts)
    return np.concatenate([q, k, v]), z


def hybrid_tensors(published: dict[str, Any], text: dict[str, Any], grouped: bool) -> Tensors:
    """Published names and float32 arrays as llama.cpp's converter changes them; the MTP head as one more layer."""
    for full, tensor in published.items():
        name = full.replace("model.language_model.", "model.")
        values = float32(tensor)
        if name.startswith("model.visual."):
            continue
        if name.startswith("mtp."):
            layer = f"model.layers.{text['num_hidden_layers']}."
            rest = name.removeprefix("mtp.")
            name = layer + (rest.removeprefix("layers.0.") if rest.startswith("layers.0.") else f"nextn.{rest}")
        zero_centred = name.removesuffix(".weight").endswith("norm") or ".pre_fc_norm_" in name
        if zero_centred and not name.endswith("linear_attn.norm.weight"):
            values = values + np.float32(1)
        if not grouped:
            values = reordered(name, values, text)
        if name.endswith(".A_log"):
            values = -np.exp(values)
        if name.endswith("in_proj_qkvz.weight"):
            base = name.removesuffix("qkvz.weight")
            qkv, z = ungrouped(values, text)
            yield f"{base}qkv.weight", qkv
            yield f"{base}z.weight", z
        elif name.endswith(".experts.gate_up_proj"):
            base = name.removesuffix("gate_up_proj")
            gate, up = np.split(values, 2, axis=1)
            yield f"{base}gate_proj.weight", gate
            yield f"{base}up_proj.weight", up
        elif name.endswith(".experts.down_proj"):
            yield f"{name}.weight", values
        else:
            yield name.replace("dt_bias", "dt.bias"), values.squeeze(1) if "conv1d" in name else values


def tensors_of(published: dict[str, Any], config: dict[str, Any]) -> Tensors:
    """Names as in GGUF and float32 arrays, experts stacked; one after the other, as all together may be more than there is memory."""
    text = config.get("text_config", config)
    bare = "" if any("embed_tokens" in name and name.startswith("model.") for name in published) else "model."
    names, tensors = NAMES, iter(published.items())  # bare: as Qwen3-Embedding's files are
    if "linear_num_key_heads" in text:
        tensors, names = hybrid_tensors(published, text, config["model_type"] == "qwen3_next"), HYBRID_NAMES
    stacks: dict[str, dict[int, Any]] = {}
    for name, tensor in tensors:
        name = bare + name
        before, _, rest = name.partition(".mlp.experts.")
        expert, _, part = rest.partition(".")
        if expert.isdigit():
            stacks.setdefault(f"{before}.mlp.experts.{part}", {})[int(expert)] = tensor
        else:
            yield gguf_name(name, names), float32(tensor)
    for name, experts in stacks.items():
        yield gguf_name(name, names), np.stack([float32(experts[number]) for number in sorted(experts)])


def add_hybrid(writer: Writer, config: dict[str, Any], rope: dict[str, Any], mtp_layers: int) -> None:
    writer.add_ssm_conv_kernel(config["linear_conv_kernel_dim"])
    writer.add_ssm_state_size(config["linear_key_head_dim"])
    writer.add_ssm_group_count(config["linear_num_key_heads"])
    writer.add_ssm_time_step_rank(config["linear_num_value_heads"])
    writer.add_ssm_inner_size(config["linear_value_head_dim"] * config["linear_num_value_heads"])
    writer.add_full_attention_interval(config.get("full_attention_interval", 4))
    writer.add_rope_dimension_count(int(config["head_dim"] * rope.get("partial_rotary_factor", 0.25)))
    if sections := rope.get("mrope_section"):
        writer.add_rope_dimension_sections([*sections, 0])
    if mtp_layers:
        writer.add_nextn_predict_layers(mtp_layers)


def add_config(writer: Writer, config: dict[str, Any], mtp_layers: int) -> None:
    """config: config.json's text model. mtp_layers: of the file, behind those of the decoder."""
    import gguf

    heads = config["num_attention_heads"]
    rope = config.get("rope_parameters") or config
    writer.add_block_count(config["num_hidden_layers"] + mtp_layers)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config.get("num_key_value_heads", heads))
    if head_dim := config.get("head_dim"):
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(rope["rope_theta"])
    if "linear_num_key_heads" in config:
        add_hybrid(writer, config, rope, mtp_layers)
    if scaling := config.get("rope_scaling"):
        writer.add_rope_scaling_type(gguf.RopeScalingType(scaling.get("rope_type", scaling.get("type"))))
        writer.add_rope_scaling_factor(scaling["factor"])
        writer.add_rope_scaling_orig_ctx_len(scaling["original_max_position_embeddings"])
    if experts := config.get("num_experts"):
        writer.add_expert_count(experts)
        writer.add_expert_used_count(config["num_experts_per_tok"])
        writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
        if shared := config.get("shared_expert_intermediate_size"):
            writer.add_expert_shared_feed_forward_length(shared)
    writer.add_vocab_size(config["vocab_size"])


def add_tokenizer(writer: Writer, checkpoint: Path, config: dict[str, Any]) -> None:
    """tokenizer.json's tokens, merges and added tokens, and the chat template; padding up to the vocabulary's size."""
    import gguf

    file = json.loads((checkpoint / "tokenizer.json").read_text(encoding="utf-8"))
    tokens = {number: (token, gguf.TokenType.NORMAL) for token, number in file["model"]["vocab"].items()}
    for added in file["added_tokens"]:
        content = added["content"]
        special = added["special"] or (content.startswith("<|") and content.endswith("|>"))
        kind = gguf.TokenType.CONTROL if special else gguf.TokenType.USER_DEFINED
        tokens[added["id"]] = (content, kind)
    size = config["vocab_size"]
    listed = [tokens.get(number, (f"[PAD{number}]", gguf.TokenType.UNUSED)) for number in range(size)]
    writer.add_tokenizer_model("gpt2")
    marks_are_letters = "\\p{M}" in json.dumps(file["pre_tokenizer"], ensure_ascii=False)
    writer.add_tokenizer_pre("qwen35" if marks_are_letters else "qwen2")
    writer.add_token_list([token for token, _ in listed])
    writer.add_token_types([kind for _, kind in listed])
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in file["model"]["merges"]])
    eos = config.get("eos_token_id")
    if eos is not None:
        writer.add_eos_token_id(eos if isinstance(eos, int) else eos[0])
    if config.get("bos_token_id") is not None:
        writer.add_bos_token_id(config["bos_token_id"])
    writer.add_add_bos_token(False)
    settings = checkpoint / "tokenizer_config.json"
    if settings.is_file() and (template := json.loads(settings.read_text(encoding="utf-8")).get("chat_template")):
        writer.add_chat_template(template)


def make_gguf(
    checkpoint: Path,
    file: Path,
    dtype: str = "BF16",
    *,
    pack: Pack | None = None,
    change: Callable[[Writer], object] | None = None,
    split_max_tensors: int = 0,
) -> Path:
    """The checkpoint with matrices of one type, or packed by `pack`; everything else float32. Returns the file.

    change: has the last word about the metadata. split_max_tensors: of each part, which are then written beside `file` as
    "x-00001-of-00003.gguf".
    """
    import gguf

    config: dict[str, Any] = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    pack = pack or packed_as(dtype)
    partial = file if split_max_tensors else file.with_suffix(".partial")
    architecture = ARCHITECTURES[config["model_type"]]
    writer = gguf.GGUFWriter(str(partial), architecture, split_max_tensors=split_max_tensors)
    text = config.get("text_config", config)
    published = read_safetensors(checkpoint / "model.safetensors")
    add_config(writer, text, int(any(name.startswith("mtp.") for name in published)))
    if dtype == "BF16":
        writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    if (checkpoint / "tokenizer.json").is_file():
        add_tokenizer(writer, checkpoint, text)
    else:
        writer.add_tokenizer_model("no_vocab")
    for name, values in tensors_of(published, config):
        if name.endswith("ffn_gate_inp_shexp.weight"):
            values = values.reshape(-1)
        if values.ndim == 1 or ".ffn_gate_inp." in name or ".ssm_conv1d." in name:
            writer.add_tensor(name, values)
        else:
            kind, data = pack(name, values)
            writer.add_tensor(name, data, raw_dtype=kind)
    if change:
        change(writer)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    if not split_max_tensors:
        partial.rename(file)
    return file
