"""Models for the tests of the Python package: a tiny one, and one that takes minutes for a full answer."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import qwen_ffi
from qwen_ffi import QwenInferenceSession

TESTS = Path(__file__).resolve().parents[1]

# A folder with the smallest tokenizer of the repository; the parity cases have none.
TOKENIZERS = [TESTS / "data" / "tiny_tokenizer", TESTS.parent / "qwen_ffi" / "demo_model"]

SLOW: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "vocab_size": 1024,
    "max_position_embeddings": 40960,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "hidden_act": "silu",
    "attention_bias": False,
}


def load(path: Path) -> ModuleType:
    """A module that is no part of a package."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A three-layer Qwen2 with a tokenizer, of 512 tokens, without a chat template."""
    folder = tmp_path_factory.mktemp("models") / "tiny"
    shutil.copytree(TESTS / "parity" / "data" / "qwen2_sliding", folder)
    tokenizer = next(entry for entry in TOKENIZERS if (entry / "tokenizer.json").is_file())
    shutil.copy(tokenizer / "tokenizer.json", folder)
    return folder


@pytest.fixture(scope="session")
def child(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Arguments for subprocess: an interpreter that finds the package where this one did, and not in the source tree,
    which has no library."""
    path = [str(Path(qwen_ffi.__file__).parent.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {"cwd": tmp_path_factory.mktemp("cwd"), "env": {**os.environ, "PYTHONPATH": os.pathsep.join(path)}}


# What Qwen's own template does for plain messages, with its switch for thinking.
CHAT_TEMPLATE = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}"
    "{%- if enable_thinking is defined and enable_thinking is false %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}{%- endif %}"
)


@pytest.fixture(scope="session")
def chat_model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with a chat template."""
    folder = tmp_path_factory.mktemp("models") / "chat"
    shutil.copytree(tiny_model, folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": CHAT_TEMPLATE}))
    return folder


# A model says this to whatever it is asked; its tool call is found where the prompt has tools.
SCRIPT = (
    "<think>Let me see.</think>I will look."
    '<tool_call>\n{"name": "weather", "arguments": {"city": "Rome", "days": 2}}\n</tool_call>'
)
SCRIPT_TEMPLATE = (
    "{%- if tools %}{{ tools | tojson }}{%- endif %}{%- for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "<|im_end|>\n{%- endfor %}{%- if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="session")
def calling_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that thinks, answers, and calls the tool "weather"."""
    maker = load(TESTS / "python" / "scripted.py")
    return Path(maker.make_scripted_model(tmp_path_factory.mktemp("models") / "calling", SCRIPT, SCRIPT_TEMPLATE))


@pytest.fixture(scope="session")
def slow_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random model that needs minutes to fill its context."""
    maker = load(TESTS / "benchmarks" / "random_checkpoint.py")
    return Path(maker.make_checkpoint(tmp_path_factory.mktemp("models") / "slow", SLOW))


@pytest.fixture(scope="session")
def session(tiny_model: Path) -> Iterator[QwenInferenceSession]:
    with QwenInferenceSession(tiny_model) as opened:
        yield opened


@pytest.fixture(scope="session")
def slow_session(slow_model: Path) -> Iterator[QwenInferenceSession]:
    with QwenInferenceSession(slow_model) as opened:
        yield opened


@pytest.fixture(scope="session")
def demo_session(demo_model: Path) -> Iterator[QwenInferenceSession]:
    with QwenInferenceSession(demo_model) as opened:
        yield opened
