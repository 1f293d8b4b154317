"""qwen-ffi chat: on a real pseudo-terminal as a person meets it, and through pipes as scripts do."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from qwen_ffi.cli.conversation import Conversation
from qwen_ffi.errors import QwenFileFormatError, QwenValueError

# Makes its standard input the terminal that Ctrl-C comes from, then becomes the command.
ON_TERMINAL = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], sys.argv[1:])"
DIM, PLAIN = "\x1b[2m", "\x1b[0m"
CTRL_C, CTRL_D, UP = "\x03", "\x04", "\x1b[A"


class Terminal:
    """A command on a pseudo-terminal: expect() what it shows, type() what a person would."""

    def __init__(self, arguments: list[str], child: dict[str, Any], **environment: str) -> None:
        self._own, theirs = pty.openpty()
        env = {**child["env"], "TERM": "xterm", **environment}
        command = [sys.executable, "-c", ON_TERMINAL, sys.executable, "-m", "qwen_ffi", "chat", *arguments]
        self._process = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True, cwd=child["cwd"], env=env
        )
        os.close(theirs)
        self._seen = ""

    def expect(self, text: str, seconds: float = 20) -> str:
        """Everything that came up to this text."""
        end = time.monotonic() + seconds
        while text not in self._seen:
            assert time.monotonic() < end and self._more(0.1), f"{text!r} did not come, but {self._seen!r}"
        shown, _, self._seen = self._seen.partition(text)
        return shown

    def type(self, text: str) -> None:
        os.write(self._own, text.encode())

    def press(self, key: str) -> None:
        """A key, once the prompt has settled: between its last column and readline's first wait Ctrl-C is not noticed."""
        time.sleep(0.3)
        self.type(key)

    def interrupt(self, text: str) -> None:
        """Ctrl-C at the prompt, and the text it brings up. On a busy machine CPython may miss it all the same (it looks for
        signals, then waits for keys); a person presses once more."""
        for _ in range(3):
            self.press(CTRL_C)
            with suppress(AssertionError):
                self.expect(text, 5)
                return
        raise AssertionError(f"{text!r} did not come")

    def ask(self, text: str) -> str:
        """Types a line at the prompt; what is shown up to the next prompt."""
        self.type(text + "\r")
        self.expect("\n")
        return self.expect("> ")

    def end(self, seconds: float = 20) -> int:
        """The exit code."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self._more(0.1):
            pass
        return self._process.wait(max(end - time.monotonic(), 0.1))

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._own)

    def _more(self, seconds: float) -> bool:
        if select.select([self._own], [], [], seconds)[0]:
            try:
                data = os.read(self._own, 65536)
            except OSError:  # the other end is closed
                return False
            self._seen += re.sub(r"\x1b\[\?2004[hl]\r?", "", data.decode()).replace("\r\n", "\n")
            return bool(data)
        return True


Chat = Callable[..., Terminal]


@pytest.fixture
def chat(child: dict[str, Any], tmp_path: Path) -> Iterator[Chat]:
    """chat(model, *flags): the command on a terminal, at its first prompt."""
    opened: list[Terminal] = []

    def start(*arguments: str | Path, **environment: str) -> Terminal:
        environment = {"XDG_STATE_HOME": str(tmp_path / "state"), **environment}
        opened.append(Terminal([str(argument) for argument in arguments], child, **environment))
        opened[-1].expect("> ")
        return opened[-1]

    yield start
    for terminal in opened:
        terminal.close()


@pytest.fixture
def slow_chat_model(slow_model: Path, chat_model: Path, tmp_path: Path) -> Path:
    """The slow model with a tokenizer and a chat template."""
    folder = tmp_path / "slow chat"
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        (folder / name).symlink_to(slow_model / name)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).symlink_to(chat_model / name)
    return folder


def test_thoughts_are_dimmed_answers_plain_and_counted(chat: Chat, demo_model: Path) -> None:
    terminal = chat(demo_model, "--temperature", "0")
    shown = terminal.ask("What is 2 + 3?")
    assert re.fullmatch(
        r"\x1b\[2m.*So 2 \+ 3 = 5\.\x1b\[0m\n\n2 plus 3 is 5\.\n\x1b\[2m\[\d+ tokens, [\d.]+ tokens/s\]\x1b\[0m\n",
        shown,
        re.DOTALL,
    )
    terminal.type(CTRL_D)
    assert terminal.end() == 0


def test_no_color_means_no_escapes(chat: Chat, demo_model: Path) -> None:
    shown = chat(demo_model, "--temperature", "0", NO_COLOR="1").ask("What is 2 + 3?")
    assert "\x1b" not in shown
    assert shown.startswith("(thinking) ")
    assert "\n\n2 plus 3 is 5.\n[" in shown


def test_thinking_is_switched(chat: Chat, demo_model: Path) -> None:
    terminal = chat(demo_model, "--temperature", "0")
    assert "thinking: auto" in terminal.ask("/think")
    assert "thinking: off" in terminal.ask("/think off")
    assert terminal.ask("What is 2 + 3?").startswith("2 plus 3 is 5.\n")
    terminal.ask("/reset")
    assert "thinking: on" in terminal.ask("/think on")
    assert terminal.ask("What is 2 + 3?").startswith(DIM)
    assert "on, off or auto" in terminal.ask("/think hard")


def test_ctrl_c_stops_the_answer_and_not_the_program(chat: Chat, slow_chat_model: Path, tmp_path: Path) -> None:
    terminal = chat(slow_chat_model, "--ignore-eos", "1", "--seed", "1")
    terminal.type("Hello\r")
    terminal.expect("Hello\n")
    time.sleep(1)
    sent = time.monotonic()
    terminal.type(CTRL_C)
    terminal.expect("[stopped after ")
    assert time.monotonic() - sent < 1
    terminal.expect("> ")
    assert "0 requests running" in terminal.ask("/stats")
    terminal.ask(f"/save {tmp_path / 'saved.json'}")
    saved = json.loads((tmp_path / "saved.json").read_text())
    assert [message["role"] for message in saved["messages"]] == ["user", "assistant"]
    assert saved["messages"][1]["content"] != ""
    assert saved["stopped"] == [1]
    terminal.ask("/set max_tokens 3")  # it answers again
    assert "[3 tokens, " in terminal.ask("And now?")


def test_ctrl_c_at_the_prompt_clears_the_line_and_twice_leaves(chat: Chat, demo_model: Path) -> None:
    terminal = chat(demo_model, "--temperature", "0", "--reasoning-mode", "0")
    terminal.type("What is 9 + 9?")
    terminal.expect("9 + 9?")
    terminal.interrupt("once more")
    terminal.expect("> ")
    assert "2 plus 3 is 5." in terminal.ask("What is 2 + 3?")
    terminal.interrupt("> ")
    terminal.press(CTRL_C)
    assert terminal.end() == 0


def test_several_lines_are_one_message(chat: Chat, demo_model: Path, tmp_path: Path) -> None:
    terminal = chat(demo_model, "--max-tokens", "2")
    terminal.type("one\\\r")
    terminal.expect("| ")
    terminal.ask("two")
    terminal.type("\x1b[200~three\nfour\x1b[201~\r")  # a terminal marks what is pasted
    terminal.expect("tokens/s")
    terminal.expect("> ")
    terminal.ask(f"/save {tmp_path / 'saved.json'}")
    messages = json.loads((tmp_path / "saved.json").read_text())["messages"]
    assert [message["content"] for message in messages if message["role"] == "user"] == ["one\ntwo", "three\nfour"]


def test_saving_and_going_on(chat: Chat, demo_model: Path, tmp_path: Path) -> None:
    file = tmp_path / "saved.json"
    terminal = chat(demo_model, "--temperature", "0", "--system", "Be brief.", "--reasoning-mode", "0")
    terminal.ask("What is 2 + 3?")
    assert "3 messages written" in terminal.ask(f"/save {file}")
    assert "3 messages written" in terminal.ask(f"/save {file}")  # its own file
    terminal.type("/exit\r")
    assert terminal.end() == 0
    assert [message["role"] for message in json.loads(file.read_text())["messages"]] == ["system", "user", "assistant"]
    again = chat(demo_model, "--load", file)
    assert "3 messages" in again.ask("/stats")
    assert "Be brief." in again.ask("/system")
    assert "none" in again.ask("/system off")
    (tmp_path / "other").write_text("mine")
    assert "exists already" in again.ask(f"/save {tmp_path / 'other'}")
    assert (tmp_path / "other").read_text() == "mine"


def test_a_conversation_that_is_too_long_ends_nothing(chat: Chat, demo_model: Path) -> None:
    terminal = chat(demo_model, "--temperature", "0", "--reasoning-mode", "0")
    terminal.ask("What is 2 + 3?")
    terminal.type("x " * 1500)  # a terminal takes 4,095 bytes per line where nobody edits
    shown = terminal.ask("")
    assert "limited to 2048 tokens" in shown
    assert "/reset" in shown
    terminal.ask("/reset")
    assert "2 plus 3 is 5." in terminal.ask("What is 2 + 3?")


def test_commands_explain_themselves(chat: Chat, demo_model: Path) -> None:
    terminal = chat(demo_model)
    shown = terminal.ask("/help")
    for name in ("/help", "/system", "/reset", "/think", "/save", "/set", "/stats", "/exit"):
        assert name + " " in shown
    assert "did you mean /save?" in terminal.ask("/sav x")
    assert "temperature: 0.5" in terminal.ask("/set temperature 0.5")
    assert "temperature 0.5" in terminal.ask("/set")
    assert "allowed are 0 to 100" in terminal.ask("/set temperature -2")
    assert "cannot be 'warm'" in terminal.ask("/set temperature warm")
    assert "the parameters are max_tokens" in terminal.ask("/set heat 5")
    assert "temperature: default" in terminal.ask("/set temperature default")


def test_history_lasts(chat: Chat, demo_model: Path, tmp_path: Path) -> None:
    first = chat(demo_model, "--max-tokens", "2")
    first.ask("What is 2 + 3?")
    first.type(CTRL_D)
    assert first.end() == 0
    file = tmp_path / "state" / "qwen-ffi" / "chat_history"
    assert file.read_text() == "What is 2 + 3?\n"
    assert file.stat().st_mode & 0o077 == 0
    second = chat(demo_model, "--max-tokens", "2")
    second.type(UP)
    second.expect("What is 2 + 3?")
    (tmp_path / "file").write_text("")
    nowhere = chat(demo_model, "--max-tokens", "2", XDG_STATE_HOME=str(tmp_path / "file"))
    nowhere.ask("Hello")
    nowhere.type(CTRL_D)
    assert nowhere.end() == 0


def test_tab_completes(chat: Chat, demo_model: Path) -> None:
    terminal = chat(demo_model)
    terminal.type("/set temp\t0.25\r")
    terminal.expect("temperature: 0.25")


def piped(child: dict[str, Any], model: Path, text: str | bytes, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "qwen_ffi", "chat", str(model), "--temperature", "0", *flags]
    data = text.encode() if isinstance(text, str) else text
    child = {**child, "env": {**child["env"], "LC_ALL": "C.UTF-8"}}  # where Python is strict with what it reads
    run = subprocess.run(command, input=data, capture_output=True, timeout=60, **child)
    return subprocess.CompletedProcess(command, run.returncode, run.stdout.decode(), run.stderr.decode())


def test_a_script_gets_answers_and_nothing_else(child: dict[str, Any], demo_model: Path) -> None:
    run = piped(child, demo_model, "What is 2 + 3?\n\n/reset\nWhat is 17 + 25?")
    assert (run.returncode, run.stdout, run.stderr) == (0, "2 plus 3 is 5.\n17 plus 25 is 42.\n", "")


def test_a_script_learns_of_failures_and_gets_the_rest(child: dict[str, Any], demo_model: Path) -> None:
    text = b"/nonsense\n\xff\xfe\n" + b"x " * 3000 + b"\nWhat is 2 + 3?\n"
    run = piped(child, demo_model, text)
    assert run.returncode == 1
    assert run.stdout == "2 plus 3 is 5.\n"
    assert [line.split(":")[0] for line in run.stderr.splitlines()] == ["qwen-ffi"] * 3


def test_a_script_gets_json(child: dict[str, Any], demo_model: Path) -> None:
    run = piped(child, demo_model, "What is 2 + 3?\n", "--json")
    answer = json.loads(run.stdout)
    assert answer["text"] == "2 plus 3 is 5."
    assert answer["reasoning"] != ""
    assert answer["stats"]["tokens_per_second"] > 0


def test_of_several_answers_the_first_one_goes_on(child: dict[str, Any], demo_model: Path) -> None:
    assert piped(child, demo_model, "What is 2 + 3?\n", "--n", "2").stdout == "2 plus 3 is 5.\n"
    answer = json.loads(piped(child, demo_model, "What is 2 + 3?\n", "--n", "2", "--json").stdout)
    assert [choice["text"] for choice in answer["choices"]] == ["2 plus 3 is 5."] * 2


def test_a_model_without_a_template_is_refused(child: dict[str, Any], tiny_model: Path) -> None:
    run = piped(child, tiny_model, "Hello\n")
    assert run.returncode == 1
    assert "qwen-ffi generate" in run.stderr


def test_conversations_as_files(tmp_path: Path) -> None:
    file = tmp_path / "conversation.json"
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
    file.write_text(json.dumps(messages))
    assert Conversation.load(file).messages == messages
    parts = [{"role": "user", "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}], "name": "x"}]
    file.write_text(json.dumps({"messages": parts}))
    assert Conversation.load(file).messages == messages[:1]
    for wrong in ("{", "5", '{"a": 1}', '[{"role": "user"}]', '[{"role": "user", "content": [{"type": "image_url"}]}]'):
        file.write_text(wrong)
        with pytest.raises(QwenFileFormatError, match=r"conversation\.json"):
            Conversation.load(file)
    with pytest.raises(QwenValueError, match="exists already"):
        Conversation(messages).save(file)


def test_a_system_message_moves_the_marks() -> None:
    conversation = Conversation()
    conversation.add("user", "Hi")
    conversation.add("assistant", "Hel", stopped=True)
    conversation.system = "Be brief."
    assert (conversation.system, conversation.stopped) == ("Be brief.", [2])
    conversation.system = None
    assert (conversation.system, conversation.stopped) == (None, [1])
    conversation.reset()
    assert conversation == Conversation()
