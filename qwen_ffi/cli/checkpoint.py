"""What `qwen-ffi doctor MODEL` looks at: the files of a checkpoint one by one, then the model as the library opens it."""

from __future__ import annotations

import json
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .._engine import mapped_model, model_info
from .._loader import check as raise_for_status
from .._loader import library
from .._prompt import Prompt
from ..errors import QwenError, QwenFileFormatError, QwenLibraryError
from ..hub import HubName, cached_model
from ..results import ModelInfo
from ..session import QwenInferenceSession
from ..tokenizer import Tokenizer
from .machine import Check, Status, available_memory, guarded, size
from .progress import Progress

_POINTER = b"version https://git-lfs"  # https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md
_POINTER_SIZE = 1024  # a pointer is smaller than this
_INDEX = "model.safetensors.index.json"
_SAMPLE = "Hello, world! 你好"


def model_checks(name: str, quick: bool) -> Iterator[Check]:
    """All of them. quick: without the smoke test, which loads the weights."""
    folder = Path(name) if os.path.lexists(name) else cached_model(name)
    if folder is not None and (file := _gguf(folder)):
        yield guarded("file", lambda: _gguf_file(file))
        yield from _opened_checks(file, quick)
        return
    if folder is None or not folder.is_dir():
        yield _no_folder(name)
        return
    yield Check("folder", Status.OK, str(folder))
    yield guarded("files", lambda: _files(folder))
    yield guarded("weights", lambda: _weights(folder))
    yield guarded("config", lambda: _config(folder))
    yield guarded("generation_config", lambda: _generation_config(folder))
    yield from _opened_checks(folder, quick)


def _opened_checks(folder: Path, quick: bool) -> Iterator[Check]:
    """What the library says about a folder or a GGUF file."""
    try:
        library()
    except QwenLibraryError:  # the machine's checks have said so
        return
    yield guarded("tokenizer", lambda: _tokenizer(folder))
    try:
        info = model_info(folder)
    except QwenError as error:
        yield Check("model", Status.PROBLEM, str(error))
        return
    message = f"{info.architecture}, {info.parameters:,} parameters, context of {info.context_length:,} tokens"
    yield Check("model", Status.OK, message)
    yield guarded("chat_template", lambda: _chat_template(folder, info))
    yield guarded("model_memory", lambda: _memory(info))
    if not quick:
        yield guarded("smoke_test", lambda: _smoke_test(folder))


def _gguf(path: Path) -> Path | None:
    """The GGUF file that the path is, or that is all there is in the folder."""
    if path.is_file():
        with path.open("rb") as file:
            return path if path.suffix == ".gguf" or file.read(4) == b"GGUF" else None
    if not path.is_dir() or any((path / name).is_file() for name in ("config.json", "model.safetensors", _INDEX)):
        return None
    files = sorted(path.glob("*.gguf"))
    parts = all(file.name.endswith(f"-of-{len(files):05}.gguf") for file in files)  # of one model
    return files[0] if len(files) == 1 or (files and parts) else None


def _gguf_file(file: Path) -> Check:
    if _is_pointer(file):
        advice = f"git -C {file.parent} lfs pull, or download the file again"
        return Check("file", Status.PROBLEM, f"{file} is a placeholder of git-lfs instead of the file itself", advice)
    return Check("file", Status.OK, f"{file}, GGUF, {size(file.stat().st_size)}")


def _no_folder(name: str) -> Check:
    if os.path.lexists(name):
        advice = "give the folder that holds config.json, or a GGUF file"
        return Check("folder", Status.PROBLEM, f"{name} is a file", advice)
    if HubName.parse(name) is None:
        return Check("folder", Status.PROBLEM, f"{name} does not exist", "give the path of a checkpoint folder")
    message = f"there is no folder {name}, and as a model of the hub it is not completely in the cache"
    return Check("folder", Status.PROBLEM, message, f"qwen-ffi info {name} downloads it")


def _files(folder: Path) -> Check:
    pointers = [path.name for path in sorted(folder.iterdir()) if _is_pointer(path)]
    if pointers:
        message = f"placeholders of git-lfs instead of the files themselves: {_some(pointers)}"
        return Check("files", Status.PROBLEM, message, f"git -C {folder} lfs pull, or download the model again")
    missing = [name for name in ("config.json", "tokenizer.json") if not (folder / name).is_file()]
    if not (folder / "model.safetensors").is_file():
        missing += _missing_shards(folder)
    if missing:
        advice = "download them from where the model came from"
        if any(folder.glob("*.gguf")):
            advice = "give the path of the GGUF file itself, or take the checkpoint's safetensors"
        elif any(folder.glob("*.bin")):
            advice = ".bin is not read: take the checkpoint's safetensors"
        # Without a tokenizer the model still takes token ids.
        status = Status.WARNING if missing == ["tokenizer.json"] else Status.PROBLEM
        return Check("files", status, f"missing: {_some(missing)}", advice)
    return Check("files", Status.OK, "config, tokenizer and weights are there")


def _missing_shards(folder: Path) -> list[str]:
    index = folder / _INDEX
    if not index.is_file():
        return ["model.safetensors"]
    shards = sorted(set(_json(index)["weight_map"].values()))
    return [shard for shard in shards if not (folder / shard).is_file()]


def _weights(folder: Path) -> Check:
    files = sorted(path for path in folder.glob("*.safetensors") if path.is_file() and not _is_pointer(path))
    broken = [f"{path.name} {reason}" for path in files if (reason := _fault(path))]
    if broken:
        return Check("weights", Status.PROBLEM, _some(broken), "download these files again")
    if not files:
        return Check("weights", Status.PROBLEM, "there are none", "the library reads safetensors")
    total = sum(path.stat().st_size for path in files)
    return Check("weights", Status.OK, f"{len(files)} file{'s' * (len(files) > 1)}, {size(total)}, none cut off")


def _fault(path: Path) -> str:
    """What is wrong with a safetensors file as a container, "" if nothing: length, header, data to the last tensor."""
    there = path.stat().st_size
    with path.open("rb") as file:
        start = file.read(8)
        if len(start) < 8:
            return f"has only {there} bytes"
        length = struct.unpack("<Q", start)[0]
        if 8 + length > there:
            return "ends within its header"
        try:
            header = json.loads(file.read(length))
            tensors = [value for key, value in header.items() if key != "__metadata__"]
            end = 8 + length + max((int(tensor["data_offsets"][1]) for tensor in tensors), default=0)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError):
            return "has a broken header"
    if there < end:
        return f"is cut off: {size(there)} of {size(end)} are there"
    return f"has {there - end} bytes too many" if there > end else ""


def _config(folder: Path) -> Check:
    config = _json(folder / "config.json")
    names = config.get("architectures") or ["no architecture"]
    dtype = config.get("torch_dtype") or config.get("dtype") or "of no stated type"
    return Check("config", Status.OK, f"{', '.join(map(str, names))}, {config.get('model_type')}, weights {dtype}")


def _generation_config(folder: Path) -> Check:
    path = folder / "generation_config.json"
    if not path.is_file():
        message = "there is no generation_config.json: the library's own sampling parameters hold"
        return Check("generation_config", Status.WARNING, message, "give temperature, top_p and top_k yourself")
    config = _json(path)
    keys = ("do_sample", "temperature", "top_k", "top_p", "min_p", "repetition_penalty")
    given = [f"{key} {json.dumps(config[key])}" for key in keys if key in config]
    return Check("generation_config", Status.OK, ", ".join(given) or "no sampling parameters")


def _tokenizer(folder: Path) -> Check:
    if folder.is_dir() and not (folder / "tokenizer.json").is_file():
        return Check("tokenizer", Status.WARNING, "there is no tokenizer.json: the model takes token ids only")
    tokenizer = Tokenizer(folder)
    again = tokenizer.decode(tokenizer.encode(_SAMPLE))
    if again != _SAMPLE:
        return Check("tokenizer", Status.WARNING, f"{_SAMPLE!r} becomes {again!r} when encoded and decoded")
    return Check("tokenizer", Status.OK, f"{tokenizer.vocab_size:,} tokens")


def _chat_template(folder: Path, info: ModelInfo) -> Check:
    if not info.has_chat_template:
        message = "there is none: prompts are continued as text, and chat does not work"
        return Check("chat_template", Status.WARNING, message, "take the Instruct or chat version to talk with it")
    text = _rendered(folder)
    if "Hello" not in text:
        return Check("chat_template", Status.PROBLEM, f"it leaves the message out: {text[:80]!r}")
    return Check("chat_template", Status.OK, f"a message becomes {len(text)} characters")


def _rendered(folder: Path) -> str:
    loaded = library()
    ffi, lib = loaded.ffi, loaded.lib
    error, length = ffi.new("qwen_error **"), ffi.new("size_t *")
    model = mapped_model(folder)
    prompt = Prompt.from_messages([("user", "Hello")])
    text = ffi.new("char[]", 1 << 16)
    status = lib.qwen_prompt_render(prompt.pointer, model, ffi.NULL, text, len(text), length, error)
    raise_for_status(status, error)
    return bytes(ffi.buffer(text, min(length[0], len(text)))).decode("utf-8", "replace")


def _memory(info: ModelInfo) -> Check:
    free = available_memory()
    message = f"the weights take {size(info.weight_bytes)}, {size(free)} are free"
    if info.weight_bytes > free:
        advice = (
            "take a smaller model or a machine with more memory: what does not fit is read from disk at every token"
        )
        return Check("model_memory", Status.WARNING, message, advice)
    return Check("model_memory", Status.OK, message)


def _smoke_test(folder: Path) -> Check:
    begin = time.monotonic()
    with (
        _choice_of_device() as choice,
        Progress(f"opening {folder.name}") as progress,
        QwenInferenceSession(folder, progress=progress) as session,
    ):
        opened = time.monotonic() - begin
        result = session.generate("Hello", max_tokens=1) if session.info.has_tokenizer else None
        if result is None:
            session.generate_ids([0], max_tokens=1)
        stats = session.stats()
    first = time.monotonic() - begin - opened
    message = (
        f"opened in {opened:.2f} s, one token {first * 1e3:.0f} ms later, on {stats.backend} with {stats.threads} threads "
        f"and {size(stats.cache_bytes)} of cache"
    )
    for status, text in choice:
        return Check(
            "smoke_test",
            status,
            f"{message}; {text}",
            "device='cpu' asks for no GPU" if status is Status.WARNING else "",
        )
    return Check("smoke_test", Status.OK, message)


@contextmanager
def _choice_of_device() -> Iterator[list[tuple[Status, str]]]:
    """What the library's log says meanwhile of the device that it has chosen, where a GPU was in question."""
    ffi, lib = library().ffi, library().lib
    lines: list[tuple[Status, str]] = []

    def sink(level: int, message: Any, length: int, user: Any) -> None:
        text = bytes(ffi.buffer(message, length)).decode("utf-8", "replace")
        if text.startswith("device 'auto'"):
            lines.append((Status.OK if level > lib.QWEN_LOG_WARNING else Status.WARNING, text))

    error = ffi.new("qwen_error **")
    callback = ffi.callback("void(int32_t, const char *, size_t, void *)", sink)
    raise_for_status(lib.qwen_log_set(callback, ffi.NULL, lib.QWEN_LOG_INFO, error), error)
    try:
        yield lines
    finally:
        lib.qwen_log_set(ffi.NULL, ffi.NULL, lib.QWEN_LOG_ERROR, ffi.NULL)


def _is_pointer(path: Path) -> bool:
    if not path.is_file() or path.stat().st_size >= _POINTER_SIZE:
        return False
    with path.open("rb") as file:
        return file.read(len(_POINTER)) == _POINTER


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise QwenFileFormatError(f"{path}: {error}") from None
    if not isinstance(value, dict):
        raise QwenFileFormatError(f"{path}: must be a JSON object")
    return value


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
