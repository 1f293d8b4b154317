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


def dequantised(folder: Path, checkpoint: Path) -> Path:
    """A GPTQ (4 bits, groups in the order of the inputs) or FP8 checkpoint with its matrices in float32, by the formulas of
    libqwen/checkpoint/quantized_tensor.h."""
    shutil.copytree(checkpoint, folder, ignore=lambda *_: ["model.safetensors"])
    config = json.loads((folder / "config.json").read_text())
    quantization = config.pop("quantization_config")
    (folder / "config.json").write_text(json.dumps(config))
    stored = dict(read_safetensors(checkpoint / "model.safetensors")) | fp8_tensors(checkpoint / "model.safetensors")
    tensors = {}
    for name, tensor in stored.items():
        module, _, part = name.rpartition(".")
        if part == "qweight":
            nibbles = np.arange(0, 32, 4)
            q = (tensor.view(np.uint32)[:, None, :] >> nibbles[:, None] & 15).reshape(-1, tensor.shape[1])
            zeros = stored[f"{module}.qzeros"].view(np.uint32)
            z = (zeros[:, :, None] >> nibbles & 15).reshape(len(zeros), -1) + 1
            group = np.arange(len(q)) // quantization["group_size"]
            scales = np.float32(widened(stored[f"{module}.scales"]))
            weight = (np.float32(q) - np.float32(z[group])) * scales[group]
            tensors[f"{module}.weight"] = np.ascontiguousarray(weight.T)
        elif f"{name}_scale_inv" in stored:
            rows, columns = quantization["weight_block_size"]
            scales = np.float32(widened(stored[f"{name}_scale_inv"]))
            whole = np.repeat(np.repeat(scales, rows, axis=0), columns, axis=1)
            tensors[name] = E4M3[tensor] * whole[: tensor.shape[0], : tensor.shape[1]]
        elif part not in ("qzeros", "scales", "g_idx", "weight_scale_inv"):
            tensors[name] = np.array(tensor)
    write_safetensors(folder / "model.safetensors", tensors)
    return folder


def fp8_tensors(file: Path) -> dict[str, Array]:
    """Those of type F8_E4M3, for which numpy has no type, as their bytes."""
    data = file.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    found = {}
    for name, entry in json.loads(data[8:start]).items():
        if entry.get("dtype") == "F8_E4M3":
            begin, end = entry["data_offsets"]
            found[name] = np.frombuffer(data[start + begin : start + end], np.uint8).reshape(entry["shape"])
    return found


def _e4m3() -> Array:
    """The values of the 256 bytes: a sign, four bits of exponent, three of mantissa; no infinities."""
    byte = np.arange(256)
    exponent, mantissa = byte >> 3 & 15, byte & 7
    magnitude = np.where(exponent == 0, mantissa * 2.0**-9, (8 + mantissa) * 2.0 ** (exponent - 10.0))
    return np.where(byte & 127 == 127, np.nan, np.where(byte < 128, magnitude, -magnitude)).astype(np.float32)


E4M3 = _e4m3()


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
