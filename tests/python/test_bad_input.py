"""Bad input is a named error with a reason, never a crash: files, prompts, tokens, and NULL to every C function."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qwen_ffi import (
    ModelArgs,
    QwenError,
    QwenFileFormatError,
    QwenInferenceSession,
    QwenNotFoundError,
    QwenUnsupportedError,
    QwenValueError,
    Tokenizer,
    Transformer,
)

WEIGHTS = "model.safetensors"


def header_of(path: Path) -> tuple[dict[str, Any], bytes]:
    data = path.read_bytes()
    length = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def change_header(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    header, body = header_of(folder / WEIGHTS)
    change(header)
    text = json.dumps(header).encode()
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(text)) + text + body)


def change_config(folder: Path, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))


def cut(folder: Path, name: str, size: int) -> None:
    (folder / name).write_bytes((folder / name).read_bytes()[:size])


NORM = "model.norm.weight"
DAMAGE: dict[str, tuple[type[QwenError], str, Callable[[Path], object]]] = {
    "no config": (QwenNotFoundError, "config.json", lambda f: (f / "config.json").unlink()),
    "no weights": (QwenNotFoundError, "safetensors", lambda f: (f / WEIGHTS).unlink()),
    "broken config": (QwenFileFormatError, "config.json", lambda f: (f / "config.json").write_text('{"hidden_size": ')),
    "config is a list": (QwenFileFormatError, "config.json", lambda f: (f / "config.json").write_text("[]")),
    "negative size": (QwenFileFormatError, "hidden_size", lambda f: change_config(f, hidden_size=-64)),
    "huge size": (QwenFileFormatError, "hidden_size|embed_tokens", lambda f: change_config(f, hidden_size=2**40)),
    "unknown architecture": (
        QwenUnsupportedError,
        "LlamaForCausalLM",
        lambda f: change_config(f, architectures=["LlamaForCausalLM"], model_type="llama"),
    ),
    "more layers than weights": (QwenFileFormatError, r"layers\.3", lambda f: change_config(f, num_hidden_layers=4)),
    "empty weights": (QwenFileFormatError, WEIGHTS, lambda f: cut(f, WEIGHTS, 0)),
    "truncated header": (QwenFileFormatError, WEIGHTS, lambda f: cut(f, WEIGHTS, 100)),
    "truncated data": (QwenFileFormatError, WEIGHTS, lambda f: cut(f, WEIGHTS, 100_000)),
    "header length lies": (
        QwenFileFormatError,
        WEIGHTS,
        lambda f: (f / WEIGHTS).write_bytes(b"\xff" * 8 + (f / WEIGHTS).read_bytes()[8:]),
    ),
    "wrong shape": (QwenFileFormatError, NORM, lambda f: change_header(f, lambda h: h[NORM].update(shape=[32, 2]))),
    "shape overflows": (
        QwenFileFormatError,
        NORM,
        lambda f: change_header(f, lambda h: h[NORM].update(shape=[2**62, 2**62])),
    ),
    "offset beyond the file": (
        QwenFileFormatError,
        NORM,
        lambda f: change_header(f, lambda h: h[NORM].update(data_offsets=[2**40, 2**40 + 128])),
    ),
    "offsets in reverse": (
        QwenFileFormatError,
        NORM,
        lambda f: change_header(f, lambda h: h[NORM].update(data_offsets=h[NORM]["data_offsets"][::-1])),
    ),
    "unknown dtype": (QwenError, NORM, lambda f: change_header(f, lambda h: h[NORM].update(dtype="F3"))),
    "missing tensor": (
        QwenFileFormatError,
        NORM,
        lambda f: change_header(f, lambda h: h.update({"other": h.pop(NORM)})),
    ),
    "broken tokenizer": (QwenFileFormatError, "tokenizer.json", lambda f: cut(f, "tokenizer.json", 5000)),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_checkpoints(tiny_model: Path, tmp_path: Path, damage: str) -> None:
    error, named, change = DAMAGE[damage]
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    change(folder)
    with pytest.raises(error, match=named) as caught:
        QwenInferenceSession(folder)
    assert str(folder) in str(caught.value)


def test_a_missing_folder_is_file_not_found(tmp_path: Path) -> None:
    for call in (QwenInferenceSession, Transformer.from_pretrained, Tokenizer, ModelArgs.from_config_file):
        with pytest.raises(FileNotFoundError, match="no-such-model"):
            call(tmp_path / "no-such-model")


def test_a_path_of_another_type(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        QwenInferenceSession(5)  # type: ignore[arg-type]
    with pytest.raises(QwenValueError):
        QwenInferenceSession("a\0b")


# ------------------------------------------------------------------------------------------------------- prompts


def test_an_empty_prompt(session: QwenInferenceSession) -> None:
    for call in (lambda: session.generate(""), lambda: session.generate_ids([]), lambda: session.generate([])):
        with pytest.raises(QwenValueError):
            call()


def test_a_prompt_beyond_the_context(session: QwenInferenceSession) -> None:
    length = session.info.context_length
    with pytest.raises(QwenValueError, match=str(length)):
        session.generate_ids([5] * (length + 1))
    with pytest.raises(QwenValueError, match=str(length)):
        session.generate_ids([5], max_tokens=length)


@pytest.mark.parametrize("text", [b"ab\xff", b"\xc0\x80", b"\xed\xa0\x80", b"abc\xe2\x82"])
def test_invalid_utf8_is_refused_with_the_offset(session: QwenInferenceSession, text: bytes) -> None:
    with pytest.raises(QwenValueError, match=r"UTF-8.*\d"):
        session.tokenizer.encode(text)
    with pytest.raises(QwenValueError, match="UTF-8"):
        session.generate(text)


def test_a_lone_surrogate_is_refused(session: QwenInferenceSession) -> None:
    with pytest.raises(QwenValueError, match="UTF-8"):
        session.generate("a\ud800b")


def test_a_text_of_another_type(session: QwenInferenceSession) -> None:
    for wrong in (None, 5, ["a"]):
        with pytest.raises(TypeError, match=f"a text must be a str, not {type(wrong).__name__}"):
            session.tokenizer.encode(wrong)  # type: ignore[arg-type]


def test_nul_is_text(session: QwenInferenceSession) -> None:
    assert session.tokenizer.decode(session.tokenizer.encode("a\0b")) == "a\0b"


@pytest.mark.parametrize("ids", [[-1], [512], [2**31 - 1], [2**31], [-(2**40)]])
def test_token_ids_outside_the_vocabulary(session: QwenInferenceSession, tiny_model: Path, ids: list[int]) -> None:
    with pytest.raises(QwenValueError):
        session.generate_ids(ids)
    with Transformer.from_pretrained(tiny_model) as model, pytest.raises(QwenValueError):
        model.forward([ids])
    if ids != [512]:  # padding of the model's vocabulary, and beyond the tokenizer's
        with pytest.raises(QwenValueError):
            session.tokenizer.decode(ids)


@pytest.mark.parametrize(
    "prompt",
    [
        5,
        None,
        [5],
        [{"role": "user"}],
        [{"role": "user", "content": 5}],
        [("user",)],
        [{"role": "u", "content": "x", "y": 1}],
    ],
)
def test_prompts_of_the_wrong_type(session: QwenInferenceSession, prompt: Any) -> None:
    with pytest.raises((TypeError, QwenValueError)):
        session.generate(prompt)


@pytest.mark.parametrize("ids", [5, "abc", [1.5], ["a"], [None], None])
def test_token_ids_of_the_wrong_type(session: QwenInferenceSession, ids: Any) -> None:
    with pytest.raises(TypeError):
        session.generate_ids(ids)


def test_forward_of_nothing(tiny_model: Path) -> None:
    with Transformer.from_pretrained(tiny_model) as model:
        for lists, reason in (([], "sequences is 0"), ([[]], "is empty"), ([[1], []], "is empty")):
            with pytest.raises(QwenValueError, match=reason):
                model.forward(lists)
        with pytest.raises(TypeError, match=r"\[\[1, 2, 3\]\]"):
            model.forward([1, 2, 3])  # type: ignore[list-item]


# ------------------------------------------------------------------------------------------------------- the C functions

# In a process of its own: should one of them crash, the output tells which.
NULL_CALLS = """
from qwen_ffi._loader import library
loaded = library()
ffi, lib = loaded.ffi, loaded.lib
def nothing(kind):
    return ffi.NULL if kind.kind in ("pointer", "function") else 0
for name in sorted(n for n in dir(lib) if n.startswith("qwen_")):
    function = ffi.typeof(getattr(lib, name))
    arguments = [nothing(kind) for kind in function.args]
    print(name, end=" ", flush=True)
    error = None
    if function.args and function.args[-1] is ffi.typeof("qwen_error **"):
        error = ffi.new("qwen_error **")
        arguments[-1] = error
    result = getattr(lib, name)(*arguments)
    if error is not None:
        message = ffi.string(lib.qwen_error_message(error[0])).decode()
        code = lib.qwen_error_code(error[0])
        assert code == result, (code, result)
        print(ffi.string(lib.qwen_status_name(result)).decode(), message, flush=True)
        lib.qwen_error_free(error[0])
        getattr(lib, name)(*arguments[:-1], ffi.NULL)
    else:
        print("-", flush=True)
"""


def test_null_to_every_c_function_is_a_named_error(child: dict[str, Any]) -> None:
    run = subprocess.run(
        [sys.executable, "-c", NULL_CALLS],
        capture_output=True,
        text=True,
        timeout=60,
        **child,
    )
    assert run.returncode == 0, run.stdout.splitlines()[-1:] + [run.stderr]
    answers = {line.split()[0]: line.split(maxsplit=2)[1:] for line in run.stdout.splitlines()}
    assert len(answers) > 50
    fine = {"qwen_log_set", "qwen_option_info_get"}  # NULL switches the log off; out is checked below
    for name, answer in answers.items():
        if answer == ["-"] or name in fine:
            continue
        assert answer[0] == "QWEN_ERR_INVALID_ARGUMENT", f"{name}: {answer}"
        assert "NULL" in answer[1], f"{name}: {answer}"
    assert answers["qwen_log_set"][0] == "QWEN_OK"
    assert answers["qwen_option_info_get"][0] == "QWEN_ERR_INVALID_ARGUMENT"
