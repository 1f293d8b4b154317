"""Hosts for these tests: plugins that guest_main.c loads with dlopen, and the library with them; and models that chat."""

from __future__ import annotations

import json
import os
import shutil
import struct
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
def unusual_host(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment for a host as guest_main.c makes it, with a locale that writes 0,5 for 0.5.

    Not every machine has German; glibc takes a locale from LOCPATH as locale/localeinfo.h of its source lays it out: a magic
    number, how many items there are and where each begins, and the items of LC_NUMERIC: decimal point, thousands separator,
    grouping, the first two as wide characters, the character set.
    """
    items = [b",\0\0\0", b".\0\0\0", b"\3\3\0\0", struct.pack("=I", ord(",")), struct.pack("=I", ord(".")), b"UTF-8\0"]
    begin = 8 + 4 * len(items)
    offsets = [begin + sum(map(len, items[:i])) for i in range(len(items))]
    folder = tmp_path_factory.mktemp("locales")
    (folder / "comma").mkdir()
    header = struct.pack(f"={2 + len(items)}I", 0x20031115 ^ 1, len(items), *offsets)
    (folder / "comma" / "LC_NUMERIC").write_bytes(header + b"".join(items))
    return {"LOCPATH": str(folder), "UNUSUAL_HOST": "1"}


@pytest.fixture(scope="session")
def shim(compile_c: Callable[..., Path]) -> Path:
    """The library that refuses memory, for LD_PRELOAD."""
    return compile_c(HERE / "shim.c", "-shared", "-fPIC", "-Wl,--as-needed")


@pytest.fixture(scope="session")
def host(compile_c: Callable[..., Path]) -> Run:
    """host(name, *arguments): runs tests/guest/name.c; times: how often it and the library are loaded and unloaded;
    before: called in the new process."""
    loader = compile_c(HERE / "guest_main.c", "-Wl,--as-needed")
    plugins: dict[str, Path] = {}

    def run(
        name: str,
        *arguments: object,
        times: int = 1,
        env: Mapping[str, str] | None = None,
        timeout: float = 120,
        before: Callable[[], None] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        if name not in plugins:
            flags = ["-std=gnu11", "-g", "-shared", "-fPIC", "-pthread"]
            plugins[name] = compile_c(HERE / f"{name}.c", *flags)
        command = [str(loader), str(times), str(plugins[name]), *map(str, arguments)]
        environment = {**os.environ, **(env or {})}
        return subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, env=environment, preexec_fn=before
        )

    return run
