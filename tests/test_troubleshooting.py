"""qwen_ffi/troubleshooting.md: every message in it is made again, and its examples run."""

from __future__ import annotations

import gc
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from qwen_ffi import QwenError, QwenInferenceSession
from qwen_ffi._safetensors import read_safetensors, write_safetensors

from .documents import CHECKPOINT, blocks, broken_links, run_python
from .python.conftest import child  # noqa: F401  (a fixture)

PAGE = Path(__file__).resolve().parents[1] / "qwen_ffi" / "troubleshooting.md"
SHOWN = "/models/Qwen3-0.6B"  # where the page's checkpoint lies
HUB = "Qwen/Qwen3-0.6B"
WEIGHTS = "model.safetensors"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0ff69d22e\nsize 12345\n"

Damage = Callable[[Path], object]


def change(folder: Path, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))


def cut(folder: Path, length: int) -> None:
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:length])


def without_a_shard(folder: Path) -> None:
    tensors = read_safetensors(folder / WEIGHTS)
    names = sorted(tensors)
    first = "model-00001-of-00002.safetensors"
    write_safetensors(folder / first, {name: tensors[name] for name in names[::2]})
    places = {name: first if place % 2 == 0 else "model-00002-of-00002.safetensors" for place, name in enumerate(names)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    (folder / WEIGHTS).unlink()


def opened(damage: Damage, **options: Any) -> Callable[[Path], object]:
    """What opening a damaged copy of the demo model says."""

    def use(folder: Path) -> object:
        damage(folder)
        return QwenInferenceSession(folder, **options)

    return use


def asked(prompt: str, engine: dict[str, Any] | None = None, **values: Any) -> Callable[[Path], object]:
    """What a request to the demo model says."""

    def use(folder: Path) -> object:
        with QwenInferenceSession(folder, **(engine or {})) as session:
            return session.generate(prompt, **values)

    return use


def hub(monkeypatch: pytest.MonkeyPatch, folder: Path, **environment: str) -> object:
    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HF_HUB_CACHE": str(folder / "cache"), **environment}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(folder)
    return QwenInferenceSession(HUB)


def chat_without_template(folder: Path) -> object:
    (folder / "tokenizer_config.json").unlink()
    with QwenInferenceSession(folder) as session:
        return session.chat([("user", "Hello")])


def busy(folder: Path) -> object:
    with QwenInferenceSession(folder, max_waiting=1, max_running=1) as session:
        return [session.stream("What is 1 + 1?", ignore_eos=True) for _ in range(20)]


def closed(folder: Path) -> object:
    session = QwenInferenceSession(folder)
    session.close()
    return session.generate("Hello")


# Heading -> what makes its messages, in the order of the page. A heading with a message and without a row here fails.
MESSAGES: dict[str, list[Callable[[Path], object]]] = {
    "No such folder": [opened(shutil.rmtree)],
    "Git LFS pointers": [
        opened(lambda f: (f / WEIGHTS).write_text(POINTER)),
        opened(lambda f: (f / "tokenizer.json").write_text(POINTER)),
    ],
    "Cut or damaged weights": [
        opened(lambda f: cut(f, 100_000)),
        opened(lambda f: cut(f, 100)),
        opened(without_a_shard),
    ],
    "Unsupported checkpoints": [
        opened(lambda f: change(f, architectures=["OtherForCausalLM"], model_type="other")),
        opened(lambda f: change(f, quantization_config={"quant_method": "bitsandbytes"})),
        opened(lambda f: (f / WEIGHTS).rename(f / "model.gguf")),
    ],
    "Not enough memory": [opened(lambda f: None, kv_cache_bytes=2**50)],
    "The context is too long": [
        asked("x " * 3000),
        asked("x ", max_tokens=5000),
        asked("x " * 500, engine={"kv_cache_bytes": 1_270_000}),
    ],
    "The answer repeats itself or rambles": [chat_without_template],
    "The queue is full": [busy],
    "Ctrl-C": [closed],
}
# Those that need more than a folder: the tests below make them, under these headings.
ELSEWHERE = {
    "A name of the hub is not found",
    "No GPU",
    "Unknown options",
    "The library is not found",
    "A session in a forked process",
}


def shown(heading: str) -> list[str]:
    return [block.text for block in blocks(PAGE, "text") if block.heading == heading]


def says(message: str, actual: str, folder: Path | None = None) -> bool:
    """Whether the page has the actual message: … is anything, and a number is any number."""
    if folder is not None:
        actual = actual.replace(str(folder), SHOWN)
    pattern = "".join(
        {"…": ".*"}.get(part) or (r"\d+" if part.isdigit() else re.escape(part))
        for part in re.split(r"(…|\d+)", message)
    )
    return re.fullmatch(pattern, actual, flags=re.DOTALL) is not None


def test_every_message_has_something_that_makes_it() -> None:
    headings = {block.heading for block in blocks(PAGE, "text")}
    assert headings == set(MESSAGES) | ELSEWHERE
    assert {heading: len(shown(heading)) for heading in MESSAGES} == {
        heading: len(causes) for heading, causes in MESSAGES.items()
    }


@pytest.mark.parametrize(
    ("heading", "number"), [(heading, number) for heading, causes in MESSAGES.items() for number in range(len(causes))]
)
def test_the_library_says_so(heading: str, number: int, demo_model: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(demo_model, tmp_path / "model"))
    with pytest.raises(QwenError) as failure:
        MESSAGES[heading][number](folder)
    assert says(shown(heading)[number], str(failure.value), folder), str(failure.value)
    del failure
    gc.collect()  # the streams of `busy`


def test_names_of_the_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    unreachable, not_installed, offline = shown("A name of the hub is not found")
    endpoint = "http://127.0.0.1:9"
    with pytest.raises(QwenError) as failure:
        hub(monkeypatch, tmp_path, HF_ENDPOINT=endpoint)
    assert says(unreachable, str(failure.value).replace(endpoint, "https://huggingface.co")), str(failure.value)
    with pytest.raises(QwenError) as failure:
        hub(monkeypatch, tmp_path, HF_HUB_OFFLINE="1")
    assert says(offline, str(failure.value)), str(failure.value)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(QwenError) as failure:
        hub(monkeypatch, tmp_path)
    assert says(not_installed, str(failure.value)), str(failure.value)


def test_no_gpu(demo_model: Path) -> None:
    """Which of them depends on the build and the machine."""
    with pytest.raises(QwenError) as failure:
        QwenInferenceSession(demo_model, device="cuda:999")
    assert any(says(message, str(failure.value)) for message in shown("No GPU")), str(failure.value)


def test_options(monkeypatch: pytest.MonkeyPatch, demo_model: Path) -> None:
    unknown, misplaced, environment = shown("Unknown options")
    for message, cause in (
        (unknown, asked("x", max_new_tokens=3)),
        (misplaced, asked("x", threads=3)),
    ):
        with pytest.raises(QwenError) as failure:
            cause(demo_model)
        assert says(message, str(failure.value)), str(failure.value)
    monkeypatch.setenv("QWEN_THREADS", "5000")
    with pytest.raises(QwenError) as failure:
        QwenInferenceSession(demo_model)
    assert says(environment, str(failure.value)), str(failure.value)


def last_line(code: str, child: dict[str, Any], **environment: str) -> str:  # noqa: F811
    """The last message of a program, without the name of its error."""
    env = {**child["env"], **environment}
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=child["cwd"], env=env, capture_output=True, text=True, timeout=60
    )
    return (run.stderr or run.stdout).strip().splitlines()[-1].partition("Error: ")[2]


def test_the_library(child: dict[str, Any], root: Path, tmp_path: Path) -> None:  # noqa: F811
    not_there, no_file, older = shown("The library is not found")
    version = "import qwen_ffi; qwen_ffi.version()"
    nowhere = {"cwd": root, "env": {key: value for key, value in os.environ.items() if key != "QWEN_LIBRARY"}}
    hidden = "import ctypes.util; ctypes.util.find_library = lambda name: None; "  # should this system have a libqwen
    assert says(not_there, last_line(f"{hidden}{version}", nowhere))
    assert says(no_file, last_line(version, child, QWEN_LIBRARY="/nowhere/libqwen.so"))
    (tmp_path / "old.c").write_text("unsigned qwen_abi_version(void) { return 0; }")
    library = tmp_path / "libqwen.so"
    subprocess.run(["cc", "-shared", "-fPIC", tmp_path / "old.c", "-o", library], check=True)
    actual = last_line(version, child, QWEN_LIBRARY=str(library)).replace(str(library), "/usr/lib/libqwen.so")
    assert says(older, actual), actual


FORK = f"""
import os, qwen_ffi
path = {CHECKPOINT!r}
session = qwen_ffi.QwenInferenceSession(path)
if os.fork() == 0:
    print(qwen_ffi.QwenInferenceSession(path).generate("What is 1 + 2?", temperature=0))
    session.generate("Hello")
os.wait()
print(session.generate("What is 2 + 2?", temperature=0))
"""


def test_a_fork(child: dict[str, Any], demo_model: Path) -> None:  # noqa: F811
    code = FORK.replace(CHECKPOINT, str(demo_model))
    run = subprocess.run([sys.executable, "-c", code], **child, capture_output=True, text=True, timeout=60)
    (message,) = shown("A session in a forked process")
    assert says(message, run.stderr.strip().splitlines()[-1].partition("Error: ")[2]), run.stderr
    assert "1 plus 2 is 3" in run.stdout
    assert "2 plus 2 is 4" in run.stdout


@pytest.mark.parametrize(("load", "code"), [("mmap", -signal.SIGBUS), ("read", 0)])
def test_a_file_that_is_truncated_while_it_is_mapped(
    load: str,
    code: int,
    child: dict[str, Any],  # noqa: F811
    demo_model: Path,
    tmp_path: Path,
) -> None:
    folder = Path(shutil.copytree(demo_model, tmp_path / "model"))
    program = (
        f"import os, resource, qwen_ffi; resource.setrlimit(resource.RLIMIT_CORE, (0, 0)); "
        f"session = qwen_ffi.QwenInferenceSession({str(folder)!r}, load={load!r}); "
        f"os.truncate({str(folder / WEIGHTS)!r}, 4096); session.generate('Hello', max_tokens=1)"
    )
    run = subprocess.run([sys.executable, "-c", program], **child, capture_output=True, timeout=60)
    assert run.returncode == code


def test_the_python_runs(demo_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_python(PAGE, demo_model, {})
    output = capsys.readouterr().out
    assert (
        "True\n'' 17 plus 25 is 42.\n17 plus 25 is 42.\n" in output
    )  # a template with a switch; no thought; its text alone
    assert "'' length\n" in output
    assert "cpu.portable 17 plus 25 is 42." in output


def test_a_budget_of_nothing_where_the_template_has_no_switch(demo_model: Path, tmp_path: Path) -> None:
    """The two kinds of templates that always think: those that leave it to the model, and those that open the thought."""
    said = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
    for number, template in enumerate((said, said + "<think>\n")):
        folder = Path(shutil.copytree(demo_model, tmp_path / str(number)))
        (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
        with QwenInferenceSession(folder) as session:
            assert session.render("Hello", reasoning_mode=False) == session.render("Hello", reasoning_mode=True)
            question = "What is 17 + 25?"
            greedy: dict[str, Any] = {"temperature": 0, "max_tokens": 500}
            assert session.generate(question, reasoning_mode=False, **greedy).reasoning
            answer = session.generate(question, reasoning_budget=0, reasoning_end_text="", **greedy)
            assert (answer.reasoning, answer.text) == ("", "17 plus 25 is 42.")


def test_links_lead_somewhere() -> None:
    assert broken_links(PAGE) == []
