"""Hosts for these tests: plugins that guest_main.c loads with dlopen, and the library with them; and models that chat."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
TESTS = HERE.parent

Run = Callable[..., subprocess.CompletedProcess[str]]

TEMPLATE = (
    "{%- if tools %}{{ tools | tojson }}{%- endif %}"
    "{%- for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{%- endfor %}"
    "{%- if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="session")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A tiny reference by its name, with a tokenizer of 512 tokens and a chat template."""

    def made(name: str) -> Path:
        folder = tmp_path_factory.mktemp("models") / name
        shutil.copytree(TESTS / "parity" / "data" / name, folder)
        shutil.copy(TESTS / "data" / "tiny_tokenizer" / "tokenizer.json", folder)
        (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}), encoding="utf-8")
        return folder

    return made


@pytest.fixture(scope="session")
def dense_model(chat_model: Callable[[str], Path]) -> Path:
    return chat_model("qwen2_sliding")


@pytest.fixture(scope="session")
def shim(compile_c: Callable[..., Path]) -> Path:
    """The library that refuses memory, for LD_PRELOAD."""
    return compile_c(HERE / "shim.c", "-shared", "-fPIC", "-Wl,--as-needed")


@pytest.fixture(scope="session")
def host(compile_c: Callable[..., Path]) -> Run:
    """host(name, *arguments): runs tests/guest/name.c; times: how often it and the library are loaded and unloaded."""
    loader = compile_c(HERE / "guest_main.c", "-Wl,--as-needed")
    plugins: dict[str, Path] = {}

    def run(
        name: str, *arguments: object, times: int = 1, env: Mapping[str, str] | None = None, timeout: float = 120
    ) -> subprocess.CompletedProcess[str]:
        if name not in plugins:
            flags = ["-std=gnu11", "-g", "-shared", "-fPIC", "-pthread"]
            plugins[name] = compile_c(HERE / f"{name}.c", *flags)
        command = [str(loader), str(times), str(plugins[name]), *map(str, arguments)]
        return subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, env={**os.environ, **(env or {})}
        )

    return run
