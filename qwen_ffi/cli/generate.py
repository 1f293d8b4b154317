"""qwen-ffi generate MODEL PROMPT: streams the answer, or prints it as JSON."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict

from .._options import OptionScope
from ..results import Channel
from ..session import QwenInferenceSession
from .flags import add_flags, answer_line, flag_values, show


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="the folder of a checkpoint")
    parser.add_argument("prompt", help="the prompt; - reads it from standard input")
    parser.add_argument("--system", help="a system message")
    parser.add_argument("--raw", action="store_true", help="continue the text, without the chat template")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end instead of the text")
    parser.add_argument("--stats", action="store_true", help="print counts and speed to standard error")
    add_flags(parser, OptionScope.REQUEST)
    add_flags(parser, OptionScope.ENGINE)


def run(arguments: argparse.Namespace) -> int:
    prompt: str | bytes = sys.stdin.buffer.read() if arguments.prompt == "-" else arguments.prompt
    with QwenInferenceSession(arguments.model, **flag_values(arguments, OptionScope.ENGINE)) as session:
        session.set_system_prompt(arguments.system)
        values = flag_values(arguments, OptionScope.REQUEST)
        with session.stream(prompt, raw=arguments.raw, **values) as stream:
            channel = Channel.ANSWER
            for event in stream:
                if arguments.json:
                    continue
                if event.text and event.channel != channel:
                    channel = event.channel
                    print("<thinking>" if channel == Channel.REASONING else "\n</thinking>\n", flush=True)
                show(event)
            result = stream.result
    print(json.dumps({**asdict(result.choices[0]), **asdict(result)}, ensure_ascii=False) if arguments.json else "")
    if arguments.stats:
        print(answer_line(result), file=sys.stderr)
    return 0
