"""qwen-ffi generate MODEL PROMPT: streams the answer, or prints it as JSON."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from typing import Any

from .._options import OptionScope
from ..errors import QwenValueError
from ..results import Channel
from .flags import (
    MODEL,
    RESULT_KEYS,
    add_adapter_flag,
    add_flags,
    answer_line,
    flag_values,
    open_session,
    result_object,
    show,
)

EPILOG = f"""\
--json prints an object with {RESULT_KEYS}.
--json --stream prints one object per line: as the answer comes {{"event": "text", "text", "channel" (answer or reasoning), \
"token_ids", "logprobs", ...}}, then "finished" with the finish_reason, and at last "result" with all that --json prints. \
The answer alone, as it comes:
  qwen-ffi generate MODEL PROMPT --json --stream | jq -j 'select(.channel == "answer").text'"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage, parser.epilog = "%(prog)s [options] MODEL PROMPT", EPILOG
    parser.add_argument("model", help=MODEL)
    parser.add_argument("prompt", help="the prompt; - reads it from standard input")
    parser.add_argument("--system", metavar="TEXT", help="a system message")
    parser.add_argument("--raw", action="store_true", help="continue the text, without the chat template")
    parser.add_argument("--json", action="store_true", help="print one JSON object at the end instead of the text")
    parser.add_argument("--stream", action="store_true", help="with --json: one JSON object per event, as they come")
    parser.add_argument("--stats", action="store_true", help="print counts and speed to standard error")
    add_adapter_flag(parser)
    add_flags(parser, OptionScope.REQUEST, skip=frozenset({"adapter"}))
    add_flags(parser, OptionScope.ENGINE)


def run(arguments: argparse.Namespace) -> int:
    if arguments.raw and arguments.system is not None:
        raise QwenValueError("--system is for the chat template, and --raw goes around it")
    prompt: str | bytes = sys.stdin.buffer.read() if arguments.prompt == "-" else arguments.prompt
    with open_session(arguments) as session:
        session.set_system_prompt(arguments.system)
        values = flag_values(arguments, OptionScope.REQUEST)
        several = values.get("n", 1) > 1  # they come side by side: shown one after the other when all are there
        with session.stream(prompt, raw=arguments.raw, **values) as stream:
            channel = Channel.ANSWER
            for event in stream:
                if arguments.json:
                    if arguments.stream:
                        kind = "finished" if event.finish_reason else "tool_call" if event.tool_call else "text"
                        _print({"event": kind, **asdict(event)})
                    continue
                if several:
                    continue
                if event.text and event.channel != channel:
                    channel = event.channel
                    print("<thinking>" if channel == Channel.REASONING else "\n</thinking>\n", flush=True)
                show(event)
            result = stream.result
    if arguments.json:
        _print({**({"event": "result"} if arguments.stream else {}), **result_object(result)})
    elif several:
        for number, choice in enumerate(result.choices, 1):
            print(f"[{number}] {choice}")
    else:
        print()
    if arguments.stats:
        print(answer_line(result), file=sys.stderr)
    return 0


def _print(value: dict[str, Any]) -> None:
    print(json.dumps(value, ensure_ascii=False), flush=True)
