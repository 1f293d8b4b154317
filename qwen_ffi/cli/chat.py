"""qwen-ffi chat MODEL: a conversation in the terminal, or one message per line from a pipe."""

from __future__ import annotations

import argparse
import difflib
import glob
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from .._options import OptionScope
from ..errors import QwenCancelledError, QwenClosedError, QwenError, QwenUnsupportedError, QwenValueError
from ..results import Channel, FinishReason, GenerationResult, StreamEvent
from ..session import QwenInferenceSession
from .conversation import Conversation
from .flags import (
    MODEL,
    RESULT_KEYS,
    add_adapter_flag,
    add_flags,
    flag_values,
    open_session,
    option_value,
    result_object,
    sampling_row,
    sampling_rows,
)
from .terminal import LineReader, StopOnInterrupt, dim, has_colours, is_interactive, printable

EPILOG = f"""\
On a terminal: /help lists the commands, a line that ends with a backslash goes on in the next one, Ctrl-C stops an answer, \
Ctrl-D leaves.
From a pipe: every line is a message or a command, and the answers come without thoughts and counts. The exit code is 1 if \
one of them failed. With --json, each answer is one line, an object with {RESULT_KEYS}."""

THINKING = {"on": 1, "off": 0, "auto": -1}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage, parser.epilog = "%(prog)s [options] MODEL", EPILOG
    parser.add_argument("model", help=MODEL)
    parser.add_argument("--system", metavar="TEXT", help="a system message")
    parser.add_argument(
        "--load", metavar="FILE", type=Path, dest="conversation", help="go on with a conversation that /save wrote"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object per answer")
    add_adapter_flag(parser)
    add_flags(parser, OptionScope.REQUEST, skip=frozenset({"adapter"}))
    add_flags(parser, OptionScope.ENGINE, skip=frozenset({"load"}))  # here --load is a conversation; QWEN_LOAD remains


def run(arguments: argparse.Namespace) -> int:
    conversation = Conversation() if arguments.conversation is None else Conversation.load(arguments.conversation)
    if arguments.system is not None:
        conversation.system = arguments.system
    with open_session(arguments) as session:
        if not session.info.has_chat_template:
            raise QwenUnsupportedError(f"{arguments.model} has no chat template; try qwen-ffi generate")
        values = flag_values(arguments, OptionScope.REQUEST)
        return Chat(session, conversation, values, arguments.json).run()


class Chat:
    """Reads messages and commands, and answers, until the end of the input."""

    def __init__(
        self, session: QwenInferenceSession, conversation: Conversation, values: dict[str, Any], as_json: bool = False
    ) -> None:
        self._session = session
        self._conversation = conversation
        self._values = values
        self._as_json = as_json
        self._interactive = is_interactive() and not as_json
        self._failed = False
        self._left = False
        self._used = 0  # tokens of the conversation, as of the last answer
        self._commands: dict[str, tuple[Callable[[str], None], str, str]] = {
            "/help": (self._help, "", "this list"),
            "/system": (self._system, "[TEXT|off]", "show, set or remove the system message"),
            "/reset": (self._reset, "", "forget the conversation, keep the system message"),
            "/think": (self._think, "on|off|auto", "think before the answer, where the model can switch it"),
            "/save": (self._save, "FILE", "write the conversation as JSON; --load FILE goes on with it"),
            "/set": (self._set, "[KEY [VALUE|default]]", "show or set a sampling parameter, e.g. /set temperature 0.7"),
            "/stats": (self._stats, "", "counts of this conversation and of the engine"),
            "/exit": (self._exit, "", "leave, as Ctrl-D does"),
        }

    def run(self) -> int:
        """The exit code: 1 when something failed and nobody was there to see it."""
        reader = LineReader(self._complete)
        if self._interactive:
            info, stats = self._session.info, self._session.stats()
            self._note(f"{info.architecture}, {_count(info.parameters)} parameters, on {stats.backend}")
            self._note("/help lists the commands, Ctrl-C stops an answer, Ctrl-D leaves")
            if len(self._conversation.messages) > (self._conversation.system is not None):
                self._note(f"{self._conversation.path}: {len(self._conversation.messages)} messages")
        interrupted = False
        while not self._left:
            try:
                text = reader.read()
                interrupted = False
                self._take(text)
            except EOFError:
                if self._interactive:
                    print()
                break
            except KeyboardInterrupt:
                if not self._interactive:
                    raise
                print()
                if interrupted:
                    break
                self._note("Ctrl-C once more, or Ctrl-D, leaves")
                interrupted = True
        return 1 if self._failed and not self._interactive else 0

    def _take(self, text: str) -> None:
        """One message, or one command; "//x" is the message "/x"."""
        if not text.strip():
            return
        try:
            if text.startswith("/") and not text.startswith("//"):
                self._command(text)
            else:
                self._answer(text.removeprefix("/") if text.startswith("//") else text)
        except QwenClosedError:
            raise
        except (QwenError, OSError) as error:
            if isinstance(error, BrokenPipeError):
                raise
            self._complain(str(error))

    # ---- answers

    def _answer(self, text: str) -> None:
        self._conversation.add("user", text)
        printer = _Printer(self._interactive, silent=self._as_json)
        with StopOnInterrupt(active=self._interactive) as interrupt:
            try:
                with self._session.stream(self._conversation.messages, **self._values) as stream:
                    interrupt.watch(stream)
                    for event in stream:
                        printer.show(event)
                    result = stream.result
            except QwenCancelledError:
                self._conversation.add("assistant", printer.answer, stopped=True)
                printer.end()
                self._note(f"[stopped after {printer.tokens} tokens; what was said stays in the conversation]")
                return
            except BaseException as error:
                self._conversation.messages.pop()  # the question that got no answer
                printer.end()
                if isinstance(error, QwenValueError) and len(self._conversation.messages) > 1:
                    raise QwenValueError(f"{error}. /reset starts afresh, /save FILE keeps what was said") from None
                raise
            self._conversation.add("assistant", result.text)
            self._used = result.stats.prompt_tokens + result.stats.generated_tokens
            printer.end()
            if self._as_json:
                print(json.dumps(result_object(result), ensure_ascii=False), flush=True)
            self._note(f"[{self._counts(result)}]")

    def _counts(self, result: GenerationResult) -> str:
        stats = result.stats
        line = f"{stats.generated_tokens} tokens, {stats.tokens_per_second:.1f} tokens/s"
        if result.finish_reason == FinishReason.LENGTH:
            full = self._used >= self._session.info.context_length
            line += ", cut off: the context is full, /reset starts afresh" if full else ", cut off by max_tokens"
        return line

    # ---- commands

    def _command(self, text: str) -> None:
        name, _, rest = text.partition(" ")
        if name not in self._commands:
            near = difflib.get_close_matches(name, self._commands, 1)
            hint = f"did you mean {near[0]}? " if near else ""
            raise QwenValueError(f"unknown command {name}; {hint}/help lists them, and //... is a message that begins so")
        self._commands[name][0](rest.strip())

    def _help(self, rest: str) -> None:
        for name, (_, usage, text) in self._commands.items():
            print(f"{(name + ' ' + usage).strip():<29} {text}")
        print("A line that ends with a backslash goes on in the next one. Ctrl-C stops an answer, Ctrl-D leaves.")

    def _system(self, rest: str) -> None:
        if rest:
            self._conversation.system = None if rest == "off" else rest
        self._note(f"system message: {self._conversation.system or 'none'}")

    def _reset(self, rest: str) -> None:
        self._conversation.reset()
        self._used = 0
        self._note("the conversation is forgotten")

    def _think(self, rest: str) -> None:
        if rest and rest not in THINKING:
            raise QwenValueError(f"/think takes on, off or auto, not {rest}")
        if rest:
            self._values["reasoning_mode"] = THINKING[rest]
        now = self._values.get("reasoning_mode", -1)
        self._note("thinking: " + next(name for name, value in THINKING.items() if value == now))

    def _save(self, rest: str) -> None:
        if not rest:
            raise QwenValueError("/save takes the name of a file")
        path = Path(rest).expanduser()
        self._conversation.save(path)
        self._note(f"{len(self._conversation.messages)} messages written to {path}")

    def _set(self, rest: str) -> None:
        key, _, value = rest.partition(" ")
        key = key.replace("-", "_")
        if not key:
            given = [f"{name} {value}" for name, value in self._values.items()]
            self._note("\n".join(given) or "nothing is set: the model's own parameters hold")
            return
        row, value = sampling_row(key), value.strip()
        if value == "default":
            self._values.pop(key, None)
        elif value:
            self._values[key] = option_value(row, value)
        self._note(f"{key}: {self._values.get(key, 'default')}" + ("" if value else f"   ({row.help})"))

    def _stats(self, rest: str) -> None:
        info, stats = self._session.info, self._session.stats()
        blocks = stats.cache_blocks_used / stats.cache_blocks_total if stats.cache_blocks_total else 0.0
        print(f"model         {info.architecture}, {_count(info.parameters)} parameters, {_bytes(info.weight_bytes)}")
        print(f"engine        {stats.backend}, {stats.threads} threads, {stats.running} requests running")
        print(f"conversation  {len(self._conversation.messages)} messages, {self._used:,} of {info.context_length:,} tokens")
        print(f"computed      {stats.prompt_tokens:,} prompt tokens, {stats.generated_tokens:,} generated")
        print(f"cache         {_bytes(stats.cache_bytes)}, {blocks:.0%} in use", flush=True)

    def _exit(self, rest: str) -> None:
        self._left = True

    def _complete(self, before: str, word: str) -> Sequence[str]:
        """Candidates for Tab: commands, keys of /set, words of /think, files of /save."""
        if not before:
            return [name + " " for name in self._commands if name.startswith(word)] if word.startswith("/") else []
        if before == "/set ":
            return [key + " " for key in sampling_rows() if key.startswith(word)]
        if before == "/think ":
            return [name for name in THINKING if name.startswith(word)]
        if before == "/save ":
            return glob.glob(glob.escape(os.path.expanduser(word)) + "*")
        return []

    # ---- what is said besides answers

    def _note(self, text: str) -> None:
        if self._interactive:
            print(dim(text), flush=True)

    def _complain(self, text: str) -> None:
        self._failed = True
        print(f"qwen-ffi: {text}" if not self._interactive else text, file=sys.stderr, flush=True)


class _Printer:
    """Shows one answer as it comes: thoughts dimmed and on terminals only."""

    def __init__(self, interactive: bool, silent: bool) -> None:
        self.answer = ""
        self.tokens = 0
        self._interactive, self._silent = interactive, silent
        self._channel: Channel | None = None
        self._last = ""

    def show(self, event: StreamEvent) -> None:
        if event.choice > 0:
            return  # of n answers the first one goes on the conversation; --json has the others
        self.tokens += len(event.token_ids)
        if event.channel == Channel.ANSWER:
            self.answer += event.text
        if not event.text or self._silent or not (self._interactive or event.channel == Channel.ANSWER):
            return
        text = printable(event.text) if self._interactive else event.text
        if self._interactive and event.channel != self._channel:
            text = self._change(event.channel) + text
        self._channel = event.channel
        self._last = text or self._last
        print(text, end="", flush=True)

    def end(self) -> None:
        """Ends the line and the dimming, whatever happened."""
        if self._silent:
            return
        reset = "\x1b[0m" if self._channel == Channel.REASONING and has_colours() else ""
        newline = "\n" if self._last and not self._last.endswith("\n") else ""
        self._channel = None
        print(reset + newline, end="", flush=True)

    def _change(self, channel: Channel) -> str:
        colours = has_colours()
        if channel == Channel.REASONING:
            return "\x1b[2m" if colours else "(thinking) "
        return ("\x1b[0m" if colours else "") + "\n\n" if self._channel == Channel.REASONING else ""


def _count(number: int) -> str:
    return f"{number / 1e9:.1f} billion" if number >= 1e9 else f"{number / 1e6:.1f} million"


def _bytes(number: int) -> str:
    return f"{number / 1e9:.1f} GB" if number >= 1e9 else f"{number / 1e6:.1f} MB"
