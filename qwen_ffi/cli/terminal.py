"""The terminal of `qwen-ffi chat`: line editing with a history that lasts, dimmed text, and Ctrl-C for one answer only."""

from __future__ import annotations

import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType, ModuleType, TracebackType
from typing import Any

from ..stream import GenerationStream

_HISTORY_LINES = 1000
# A model's text must not move the cursor or retitle the window.
_CONTROL: dict[int, None] = dict.fromkeys(code for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t")

Completer = Callable[[str, str], Sequence[str]]  # (the line so far, the word to complete) -> candidates


def is_interactive() -> bool:
    """Whether a person sits at both ends."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def has_colours() -> bool:
    """Whether standard output shows dimmed text: a terminal, and nobody asked for none (https://no-color.org)."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def dim(text: str) -> str:
    return f"\x1b[2m{text}\x1b[0m" if has_colours() else text


def printable(text: str) -> str:
    """The text without control characters, for a terminal."""
    return text.translate(_CONTROL)


def history_path() -> Path:
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(state, "qwen-ffi", "chat_history")


class LineReader:
    """Messages from standard input: a line each, or several where lines end with a backslash."""

    def __init__(self, complete: Completer) -> None:
        self._interactive = is_interactive()
        self._readline = _readline() if self._interactive else None
        self._known = 0
        if isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(errors="surrogateescape")  # the library says what is no UTF-8, and the rest is read on
        if self._readline is not None:
            self._prepare(self._readline, complete)

    def read(self) -> str:
        """The next message. Raises EOFError at the end, and KeyboardInterrupt for Ctrl-C."""
        lines: list[str] = []
        while True:
            try:
                line = self._line("| " if lines else "> ")
            except EOFError:
                if not lines:
                    raise
                line = ""
            going_on = line.endswith("\\")
            lines.append(line[:-1] if going_on else line)
            if not going_on:
                break
        self._remember()
        return "\n".join(lines)

    def _line(self, prompt: str) -> str:
        if self._interactive:
            return input(prompt)
        line = sys.stdin.readline()
        if not line:
            raise EOFError
        return line.removesuffix("\n").removesuffix("\r")

    def _prepare(self, readline: Any, complete: Completer) -> None:
        readline.parse_and_bind("set enable-bracketed-paste on")  # pasted lines are one message
        readline.parse_and_bind("tab: complete")
        readline.set_completer_delims(" ")
        readline.set_auto_history(True)
        readline.set_history_length(_HISTORY_LINES)
        with suppress(OSError):
            readline.read_history_file(history_path())
        self._known = readline.get_current_history_length()
        found: list[str] = []

        def completer(word: str, state: int) -> str | None:
            if state == 0:
                found[:] = complete(readline.get_line_buffer()[: readline.get_begidx()], word)
            return found[state] if state < len(found) else None

        readline.set_completer(completer)

    def _remember(self) -> None:
        """Appends what was typed to the file at once: a terminal may be closed at any time. Never fails."""
        readline: Any = self._readline
        if readline is None:
            return
        path, now = history_path(), readline.get_current_history_length()
        with suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))  # for nobody else to read
            readline.append_history_file(max(now - self._known, 0), path)
        self._known = now


class StopOnInterrupt:
    """While it is entered, Ctrl-C cancels the stream it watches and interrupts nothing else. Not active: it does nothing."""

    def __init__(self, active: bool) -> None:
        self.pressed = False
        self._stream: GenerationStream | None = None
        self._previous: Any = None
        self._active = active and threading.current_thread() is threading.main_thread()

    def watch(self, stream: GenerationStream) -> None:
        self._stream = stream
        if self.pressed:
            stream.cancel()

    def _stop(self, number: int, frame: FrameType | None) -> None:
        self.pressed = True
        if self._stream is not None:
            self._stream.cancel()

    def __enter__(self) -> StopOnInterrupt:
        if self._active:
            self._previous = signal.signal(signal.SIGINT, self._stop)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._active:
            signal.signal(signal.SIGINT, self._previous)


def _readline() -> ModuleType | None:
    try:
        import readline
    except ImportError:  # Python may be built without it
        return None
    return readline
