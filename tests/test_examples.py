"""The examples, and what the README shows of them, are run against the model in the package."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from qwen_ffi import Embedder, Reranker

C99 = ["-std=c99", "-pedantic", "-Wconversion"]
CPP17 = ["-std=c++17", "-pedantic", "-Wshadow", "-Wconversion", "-pthread"]


@pytest.fixture(scope="session")
def example(root: Path, compile_c: Callable[..., Path]) -> Callable[[str], Path]:
    """example("generate.c"): the program, compiled without a warning in the oldest dialect that will do."""
    programs: dict[str, Path] = {}

    def example(name: str) -> Path:
        source = root / "examples" / name
        if name not in programs:
            flags, compiler = (C99, "cc") if source.suffix == ".c" else (CPP17, "c++")
            programs[name] = compile_c(source, *flags, compiler=compiler)
        return programs[name]

    return example


@pytest.fixture(scope="session")
def generate(example: Callable[[str], Path]) -> Path:
    return example("generate.c")


PROGRAMS = ["generate.c", "stream.c", "poll.c", "chat.cpp", "embed_in_server.cpp", "search.cpp"]


def test_every_example_program_is_tested_here(root: Path) -> None:
    assert sorted(path.name for path in (root / "examples").glob("*.c*")) == sorted(PROGRAMS)


@pytest.mark.parametrize("name", PROGRAMS)
def test_an_example_reports_a_missing_folder(example: Callable[[str], Path], tmp_path: Path, name: str) -> None:
    missing = tmp_path / "no-such-model"
    arguments = {"chat.cpp": [], "embed_in_server.cpp": ["0"], "search.cpp": [str(missing), "x"]}.get(name, ["Hello"])
    run = subprocess.run([example(name), missing, *arguments], input="", capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stdout) == (1, "")
    assert run.stderr.startswith("QWEN_ERR_NOT_FOUND: ")
    assert str(missing) in run.stderr


def test_generate_c_streams_an_answer(generate: Path, demo_model: Path) -> None:
    run = subprocess.run([generate, demo_model, "What is 2 + 3?"], capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stderr) == (0, "")
    answer, closing = run.stdout.rsplit("\n[", 1)
    assert answer.strip()
    assert re.fullmatch(r"\d+ tokens, \d+\.\d tokens/s\]\n", closing)


def test_stream_c_takes_the_answer_event_by_event(example: Callable[[str], Path], demo_model: Path) -> None:
    program = example("stream.c")
    run = subprocess.run([program, demo_model, "What is 2 + 3?"], capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stderr) == (0, "")
    assert re.search(r"5\.\n\[\d+ tokens, done\]\n$", run.stdout)


def test_stream_c_is_ended_by_ctrl_c_and_keeps_what_there_is(
    example: Callable[[str], Path], endless_model: Path
) -> None:
    command = [example("stream.c"), endless_model, "What is 2 + 3?"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        first = process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        rest, complaints = process.communicate(timeout=60)
    assert (process.returncode, complaints) == (0, b"")
    assert first
    assert re.search(rb"\n\[\d+ tokens, interrupted\]\n$", rest)


def test_poll_c_answers_every_question(example: Callable[[str], Path], demo_model: Path) -> None:
    sums = [(number, 3 * number) for number in range(1, 9)]
    questions = [f"What is {a} + {b}?" for a, b in sums]
    run = subprocess.run([example("poll.c"), demo_model, *questions], capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stderr) == (0, "")
    lines = run.stdout.splitlines()
    answers = dict(zip(lines[::2], lines[1::2], strict=True))
    assert answers == {f"What is {a} + {b}?": f"  {a} plus {b} is {a + b}." for a, b in sums}


def test_chat_cpp_remembers_until_reset(example: Callable[[str], Path], demo_model: Path) -> None:
    lines = "What is 2 + 3?\n\nHello\n/reset\nWhat is 2 + 3?\n"
    run = subprocess.run([example("chat.cpp"), demo_model], input=lines, capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stderr) == (0, "")
    first, empty, greeting, reset, again, end = run.stdout.removeprefix("> ").split("> ")
    for answer in (first, again):
        assert re.fullmatch(r"\(.*\)\n2 plus 3 is 5\.\n", answer, flags=re.DOTALL)
    assert (empty, reset, end) == ("", "", "\n")
    assert greeting


def test_search_cpp_ranks_lines(example: Callable[[str], Path], demo_model: Path) -> None:
    """The demo model cannot search: that the numbers are the library's, and in order, is all there is to see."""
    texts = ["Rice is cooked in water.", "Hello!", "17 plus 25 is 42.", "", "The capital is Beijing."]
    command = [example("search.cpp"), demo_model, demo_model, "What is 17 + 25?"]
    run = subprocess.run(command, input="\n".join(texts), capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stderr) == (0, "")
    lines = [re.fullmatch(r"(cosine|score) +([+-]?\d\.\d+)  (.+)", line) for line in run.stdout.splitlines()]
    found = [(line[1], float(line[2]), line[3]) for line in lines if line]
    assert [kind for kind, _, _ in found] == ["cosine"] * 3 + ["score"] * 3
    for part in (found[:3], found[3:]):
        assert [number for _, number, _ in part] == sorted((number for _, number, _ in part), reverse=True)
    assert {text for _, _, text in found[:3]} == {text for _, _, text in found[3:]} <= set(texts)
    with Embedder(demo_model) as embedder, Reranker(demo_model) as reranker:
        query, documents = embedder.embed_queries([command[-1]]), [text for _, _, text in found[:3]]
        cosines = (embedder.embed(documents) @ query[0]).tolist()
        scores = sorted(reranker.score(command[-1], documents).tolist(), reverse=True)
    assert [number for _, number, _ in found[:3]] == pytest.approx(cosines, abs=6e-4)
    assert [number for _, number, _ in found[3:]] == pytest.approx(scores, abs=6e-5)


# ------------------------------------------------------------------------------------------------- embed_in_server.cpp


@contextmanager
def served(program: Path, model: Path) -> Iterator[tuple[subprocess.Popen[str], tuple[str, int]]]:
    with subprocess.Popen([program, model, "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        listening = re.fullmatch(r"listening on (127\.0\.0\.1):(\d+)\n", process.stdout.readline())
        assert listening is not None
        try:
            yield process, (listening[1], int(listening[2]))
        finally:
            process.kill()  # nothing, where it has ended as it should


def ended(process: subprocess.Popen[str]) -> tuple[int, int]:
    """The requests and tokens that a server says it has served, after SIGTERM."""
    process.send_signal(signal.SIGTERM)
    output, complaints = process.communicate(timeout=60)
    assert (process.returncode, complaints) == (0, "")
    closing = re.fullmatch(r"served (\d+) requests, (\d+) tokens\n", output)
    assert closing is not None
    return int(closing[1]), int(closing[2])


def ask(connection: socket.socket, question: str) -> str:
    connection.sendall(question.encode() + b"\n")
    return read_answer(connection)


def read_answer(connection: socket.socket) -> str:
    received = b""
    while not received.endswith(b"\x04"):
        piece = connection.recv(4096)
        assert piece, f"the connection ended after {received!r}"
        received += piece
    return received[:-1].decode()


def test_the_server_answers_many_clients_at_once(example: Callable[[str], Path], demo_model: Path) -> None:
    with served(example("embed_in_server.cpp"), demo_model) as (process, address):

        def client(number: int) -> list[str]:
            with socket.create_connection(address, timeout=60) as connection:
                return [ask(connection, f"What is {number} + {more}?") for more in (10, 20)]

        with ThreadPoolExecutor(6) as clients:
            answers = list(clients.map(client, range(6)))
        assert answers == [[f"{n} plus {more} is {n + more}." for more in (10, 20)] for n in range(6)]

        with socket.create_connection(address, timeout=60) as connection:
            assert ask(connection, "much too long " * 10000).startswith("error: ")
            assert ask(connection, "What is 1 + 1?") == "1 plus 1 is 2."
        with socket.create_connection(address, timeout=60):  # one that says nothing does not hold up the end
            requests, _ = ended(process)
        assert requests == 13


def test_a_client_that_goes_away_has_its_request_cancelled(example: Callable[[str], Path], endless_model: Path) -> None:
    context = 65536
    with served(example("embed_in_server.cpp"), endless_model) as (process, address):
        for received in (0, 1):  # before the first byte and in the middle of the answer
            with socket.create_connection(address, timeout=60) as connection:
                connection.sendall(b"What is 2 + 3?\n")
                assert len(connection.recv(received)) == received
        requests, tokens = ended(process)
    assert requests <= 2  # the first may have been gone before it was read
    assert 0 < tokens < context


def test_the_server_finishes_the_answer_under_way(example: Callable[[str], Path], demo_model: Path) -> None:
    question = "What is 348 + 275?"
    with (
        served(example("embed_in_server.cpp"), demo_model) as (process, address),
        socket.create_connection(address, timeout=60) as connection,
    ):
        connection.sendall(question.encode() + b"\n")
        first = connection.recv(1).decode()
        requests, _ = ended(process)
        assert first + read_answer(connection) == "348 plus 275 is 623."
        assert connection.recv(1) == b""
    assert requests == 1


# -------------------------------------------------------------------------------------------------------- the README


def readme_blocks(root: Path, language: str) -> list[str]:
    blocks = re.findall(rf"```{language}\n(.*?)```", (root / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)
    assert blocks, f"README.md shows no {language}"
    return blocks


def test_the_readme_shows_the_c_example_that_is_tested(root: Path) -> None:
    source = (root / "examples" / "generate.c").read_text(encoding="utf-8")
    for block in readme_blocks(root, "c"):
        assert block in source


def test_the_readmes_commands_build_the_c_example(root: Path, tmp_path: Path) -> None:
    """As in a clone: the source folder lies there too, and must not be taken for the installed package."""
    (commands,) = [block for block in readme_blocks(root, "sh") if "pkg-config" in block and "cc " in block]
    for name in ("examples", "qwen_ffi"):
        (tmp_path / name).symlink_to(root / name)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    script = f"set -e\n{commands}"
    run = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert "42" in run.stdout


def test_the_readmes_cpp_compiles_and_runs(
    root: Path, compile_c: Callable[..., Path], demo_model: Path, tmp_path: Path
) -> None:
    for number, block in enumerate(readme_blocks(root, "cpp")):
        source = tmp_path / f"block{number}.cpp"
        source.write_text(block.replace("path/to/Qwen3-0.6B", str(demo_model)))
        run = subprocess.run([compile_c(source, *CPP17, compiler="c++")], capture_output=True, text=True, timeout=60)
        assert (run.returncode, run.stderr) == (0, "")
        assert run.stdout.strip()


def test_the_readmes_chat_can_be_had_again(root: Path, demo_model: Path, tmp_path: Path) -> None:
    """The lines after "> " are said to `qwen-ffi chat`: what the README shows of the answers comes again."""
    shown = next(block for block in readme_blocks(root, "text") if "qwen-ffi chat" in block)
    said = [line[2:] for line in shown.splitlines() if line.startswith("> ")]
    answers = [line for line in shown.splitlines() if re.match(r"\d+ (plus|minus) ", line)]
    assert len(said) == 5
    assert len(answers) == 2
    command = [sys.executable, "-m", "qwen_ffi", "chat", str(demo_model), "--temperature", "0"]
    run = subprocess.run(command, input="\n".join(said), cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0, run.stderr
    printed = run.stdout.splitlines()
    assert [line for line in answers if line not in printed] == []
    assert (tmp_path / "sums.json").is_file()


def test_the_readmes_python_runs(root: Path, demo_model: Path, tmp_path: Path) -> None:
    for block in readme_blocks(root, "python"):
        script = block.replace("path/to/Qwen3-0.6B", str(demo_model))
        run = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert (run.returncode, run.stderr) == (0, "")
        assert run.stdout.strip()
