"""One question, one answer, whatever the language: see README.md."""

from __future__ import annotations

import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ..python.scripted import make_scripted_model

HERE = Path(__file__).resolve().parent
CASES = {path.stem: path for path in sorted((HERE / "cases").glob("*.txt"))}

# What the model of cases/calling.txt says to everything, and what it is given.
SCRIPT = '<think>Let me see.</think>I will look.<tool_call>\n{"name": "weather", "arguments": {"city": "Rome"}}\n</tool_call>'
TEMPLATE = (
    "{%- if tools %}{{ tools | tojson }}{%- endif %}{%- for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
    "<|im_end|>\n{%- endfor %}{%- if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

Answers = dict[str, dict[str, Any]]


@pytest.fixture(scope="session")
def models(demo_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """For each file of cases its model."""
    calling = make_scripted_model(tmp_path_factory.mktemp("hosts") / "calling", SCRIPT, TEMPLATE)
    own = {"demo": demo_model, "calling": Path(calling)}
    return {name: own.get(name, HERE.parent / "parity" / "data" / name) for name in CASES}


HOSTS = ["c", "cpp", "python", "go", "rust", "node"]
Command = list[str | Path]


@pytest.fixture(scope="session")
def command(
    compile_c: Callable[..., Path],
    package: Path,
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], Command]:
    """command("c"): what starts the host, which is built the first time."""

    def go() -> Command:
        program = tmp_path_factory.mktemp("go") / "host"
        request.getfixturevalue("go")("build", "-o", program, ".", cwd=HERE / "go")
        return [program]

    def rust() -> Command:
        cargo = request.getfixturevalue("cargo")
        messages = cargo("build", "--example", "host", "--message-format=json").splitlines()
        built = [json.loads(line).get("executable") for line in messages]
        return ["env", f"LD_LIBRARY_PATH={package / 'lib'}", next(filter(None, built))]

    makers: dict[str, Callable[[], Command]] = {
        "c": lambda: [compile_c(HERE / "host.c", "-std=c99", "-pedantic", "-Wconversion")],
        "cpp": lambda: [compile_c(HERE / "host.cpp", "-std=c++17", "-pedantic", "-Wconversion", compiler="c++")],
        "python": lambda: [sys.executable, HERE / "host.py"],
        "go": go,
        "rust": rust,
        "node": lambda: ["node", request.getfixturevalue("node_package") / "examples" / "host.js"],
    }
    return functools.cache(lambda host: makers[host]())


def run(command: Command, model: Path, cases: str, threads: int) -> tuple[int, bytes]:
    environment = {**os.environ, "QWEN_THREADS": str(threads)}
    ended = subprocess.run(
        [*command, model], input=cases.encode(), env=environment, cwd=model.parent, capture_output=True, timeout=120
    )
    assert ended.stderr == b""
    return ended.returncode, ended.stdout


@pytest.fixture(scope="session")
def expected(command: Callable[[str], Command], models: dict[str, Path]) -> dict[str, bytes]:
    """What the host in C prints, with one thread."""
    answers = {}
    for name, cases in CASES.items():
        status, answers[name] = run(command("c"), models[name], cases.read_text(encoding="utf-8"), threads=1)
        assert status == 0
    return answers


@pytest.mark.parametrize("host", HOSTS)
def test_every_host_gives_the_same_answers(
    host: str, command: Callable[[str], Command], models: dict[str, Path], expected: dict[str, bytes]
) -> None:
    """To the byte, and with another number of threads."""
    for name, cases in CASES.items():
        status, output = run(command(host), models[name], cases.read_text(encoding="utf-8"), threads=2)
        assert status == 0
        for line, wanted in zip(output.splitlines(), expected[name].splitlines(), strict=True):
            assert line.decode() == wanted.decode()


@pytest.mark.parametrize("host", HOSTS)
def test_every_host_says_that_there_is_no_model(host: str, command: Callable[[str], Command], tmp_path: Path) -> None:
    missing = tmp_path / "no-such-model"
    status, output = run(command(host), missing, "", threads=1)
    line = json.loads(output)
    assert (status, line["case"], line["error"]["code"]) == (1, "open", 2)
    assert line["error"]["message"].startswith(f"{missing}: no such folder")


@pytest.fixture(scope="session")
def answers(expected: dict[str, bytes]) -> Answers:
    """The lines of all files, by "file/case"."""
    return {
        f"{name}/{line['case']}": line
        for name, output in expected.items()
        for line in map(json.loads, output.splitlines())
    }


def test_each_case_has_its_line_in_the_one_form_there_is(expected: dict[str, bytes]) -> None:
    for name, path in CASES.items():
        cases = [line[5:] for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("case ")]
        lines = expected[name].decode().splitlines()
        assert [json.loads(line)["case"] for line in lines] == cases
        assert [json.dumps(json.loads(line), ensure_ascii=False, separators=(",", ":")) for line in lines] == lines


def test_what_is_called_an_error_is_one_and_nothing_else_is(answers: Answers) -> None:
    errors = {name: line["error"]["code"] for name, line in answers.items() if "error" in line}
    named = {name for name in answers if "/error_" in name}
    assert named | {"demo/cancelled", "demo/together_refused"} == set(errors)
    assert errors.pop("demo/cancelled") == 7
    assert {name for name, code in errors.items() if code != 1} == {name for name in named if "_without_a_t" in name}


def test_the_cases_show_what_they_are_about(answers: Answers) -> None:
    """A table of empty answers would be the same everywhere, too."""

    def choice(name: str, index: int = 0) -> dict[str, Any]:
        found: dict[str, Any] = answers[name]["choices"][index]
        return found

    assert choice("demo/chat")["text"] == "348 plus 275 is 623."
    assert choice("demo/chat")["reasoning"].startswith("Line up 348 + 275.")
    assert choice("demo/chat_without_thinking")["text"] == "17 plus 25 is 42."
    assert choice("demo/chat_with_history")["text"] == "20 plus 30 is 50."
    assert choice("demo/chat_with_a_budget")["reasoning"].endswith("Enough.")
    assert choice("demo/stop_text")["stop"] == "275"
    assert choice("demo/stop_text_with_a_newline")["stop"] == "\nOnes"
    assert choice("demo/stop_token")["finish"] == "stop"
    assert choice("demo/past_the_end")["finish"] == "length"
    assert len({tuple(choice("demo/three_answers", index)["ids"]) for index in range(3)}) > 1
    everything = choice("demo/everything_at_once")
    assert [len(row) for row in everything["top"]] == [3] * len(everything["ids"])
    prompted = answers["demo/logprobs_of_everything"]
    assert len(prompted["prompt_logprobs"]) == prompted["prompt_tokens"]
    odd = choice("demo/bytes_that_make_no_character")["text"]
    assert "\ufffd" in odd
    assert max(odd) > "\uffff"
    events = answers["demo/stream_a_thought"]["events"]
    assert "".join(event.get("text", "") for event in events if event.get("channel") == "answer") == "17 plus 25 is 42."
    assert choice("demo/together_greedy") == choice("demo/together_the_same_again")
    assert [len(row) for row in answers["demo/embed_queries"]["embeddings"]] == [32]
    assert answers["demo/embed_queries"] | {"case": ""} != answers["demo/embed_with_an_instruction"] | {"case": ""}
    assert [event["tool"] for event in answers["calling/tool_call_streamed"]["events"] if "tool" in event] == [
        {"name": "weather", "arguments": '{"city":"Rome"}'}
    ]
    assert choice("calling/without_tools")["text"].endswith("</tool_call>")
