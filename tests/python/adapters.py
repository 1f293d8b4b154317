"""LoRA adapters with random numbers, in the form in which PEFT saves them, and checkpoints that they are merged into."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qwen_ffi import read_safetensors
from qwen_ffi._safetensors import write_safetensors

Array = NDArray[Any]

ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
MLP = ("gate_proj", "up_proj", "down_proj")
LINEAR_ATTENTION = ("in_proj_qkv", "in_proj_z", "in_proj_a", "in_proj_b", "in_proj_qkvz", "in_proj_ba", "out_proj")

# What PEFT 0.21 writes, with its defaults.
CONFIG: dict[str, Any] = {
    "alora_invocation_tokens": None,
    "alpha_pattern": {},
    "arrow_config": None,
    "auto_mapping": None,
    "base_model_name_or_path": "Qwen/Qwen3-0.6B",
    "bias": "none",
    "corda_config": None,
    "ensure_weight_tying": False,
    "eva_config": None,
    "exclude_modules": None,
    "fan_in_fan_out": False,
    "inference_mode": True,
    "init_lora_weights": True,
    "layer_replication": None,
    "layers_pattern": None,
    "layers_to_transform": None,
    "loftq_config": {},
    "lora_alpha": 8,
    "lora_bias": False,
    "lora_dropout": 0.0,
    "megatron_config": None,
    "megatron_core": "megatron.core",
    "modules_to_save": None,
    "peft_type": "LORA",
    "qalora_group_size": 16,
    "r": 4,
    "rank_pattern": {},
    "revision": None,
    "target_modules": [],
    "target_parameters": None,
    "task_type": "CAUSAL_LM",
    "trainable_token_indices": None,
    "use_dora": False,
    "use_qalora": False,
    "use_rslora": False,
}


def widened(array: Array) -> Array:
    """The bits of bfloat16 as float32; anything else as it is."""
    return (array.astype(np.uint32) << 16).view(np.float32) if array.dtype == np.uint16 else array


def narrowed(array: Array) -> Array:
    """float32 as the bits of bfloat16, cut off."""
    return (array.view(np.uint32) >> 16).astype(np.uint16)


def modules_of(checkpoint: Path, targets: Sequence[str]) -> dict[str, tuple[int, int]]:
    """The matrices of the text model whose names end so, without experts: name -> (out, in)."""
    found = {}
    for name, tensor in read_safetensors(checkpoint / "model.safetensors").items():
        module, _, part = name.rpartition(".")
        if any(word in name for word in ("experts.", "visual.", "mtp.")) or not module.endswith(tuple(targets)):
            continue
        if part == "weight":
            found[module] = (tensor.shape[0], tensor.shape[1])
        elif part == "qweight":  # GPTQ, 4 bits: [in / 8, out]
            found[module] = (tensor.shape[1], 8 * tensor.shape[0])
    return found


def make_adapter(
    folder: Path,
    checkpoint: Path,
    targets: Sequence[str],
    seed: int = 0,
    *,
    rank: Callable[[str], int] = lambda module: 4,
    kept_as: Callable[[Array], Array] = lambda array: array,
    rename: Callable[[str], str] = lambda module: module,
    only: Callable[[str], bool] = lambda module: True,
    strength: float = 0.01,
    **config: Any,
) -> Path:
    """Writes an adapter for these modules of a checkpoint; `config` are keys of adapter_config.json."""
    random = np.random.default_rng(seed)
    tensors = {}
    for module, (out, width) in modules_of(checkpoint, targets).items():
        if not only(module):
            continue
        r = rank(module)
        name = f"base_model.model.{rename(module)}"
        tensors[f"{name}.lora_A.weight"] = kept_as(random.normal(0, 0.3, (r, width)).astype(np.float32))
        tensors[f"{name}.lora_B.weight"] = kept_as(random.normal(0, strength, (out, r)).astype(np.float32))
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({**CONFIG, "target_modules": list(targets), **config}))
    write_safetensors(folder / "adapter_model.safetensors", tensors)
    return folder


def merge(folder: Path, checkpoint: Path, adapter: Path, scale: Callable[[str], float]) -> Path:
    """The checkpoint with W + scale B A in place of W, computed in float64 and written as float32."""
    shutil.copytree(checkpoint, folder)
    tensors = {name: np.array(tensor) for name, tensor in read_safetensors(checkpoint / "model.safetensors").items()}
    change = read_safetensors(adapter / "adapter_model.safetensors")
    for name in change:
        if ".lora_A." in name:
            a, b = (np.float64(widened(change[key])) for key in (name, name.replace(".lora_A.", ".lora_B.")))
            module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            weight = np.float64(widened(tensors[f"{module}.weight"]))
            tensors[f"{module}.weight"] = np.float32(weight + scale(module) * (b @ a))
    write_safetensors(folder / "model.safetensors", tensors)
    return folder
