"""qwen-ffi demo: the packaged model answers, thinking first and without."""

from __future__ import annotations

import argparse
from typing import Any

from .._loader import demo_model_path
from .._options import OptionScope
from ..results import Channel
from ..session import QwenInferenceSession
from .flags import add_flags, answer_line, flag_values, show

QUESTIONS = ("What is 17 + 25?", "What is 348 + 275?")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--question", action="append", help="ask this instead; may be given several times")
    add_flags(parser, OptionScope.REQUEST, skip=frozenset({"reasoning_mode", "adapter"}))
    add_flags(parser, OptionScope.ENGINE)


def run(arguments: argparse.Namespace) -> int:
    path = demo_model_path()
    with QwenInferenceSession(path, **flag_values(arguments, OptionScope.ENGINE)) as session:
        info = session.info
        print(f"{info.architecture}, {info.parameters / 1e6:.1f} million parameters, on {session.stats().backend}\n")
        values = {"temperature": 0.0, "max_tokens": 256, **flag_values(arguments, OptionScope.REQUEST)}
        for question in arguments.question or QUESTIONS:
            for thinking in (True, False):
                _ask(session, question, thinking, values)
    return 0


def _ask(session: QwenInferenceSession, question: str, thinking: bool, values: dict[str, Any]) -> None:
    print(f"> {question}   (thinking {'on' if thinking else 'off'})", flush=True)
    with session.stream(question, reasoning_mode=thinking, **values) as stream:
        channel: Channel | None = None
        for event in stream:
            if not event.text:
                continue
            if event.channel != channel:
                if channel is not None:
                    print()
                channel = event.channel
                print("  thinks: " if channel == Channel.REASONING else "  answers: ", end="")
            show(event)
        print(f"\n  [{answer_line(stream.result)}]\n", flush=True)
