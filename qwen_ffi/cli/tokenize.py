"""qwen-ffi tokenize MODEL TEXT: one token per line, or JSON."""

from __future__ import annotations

import argparse
import json
import sys

from ..tokenizer import Tokenizer
from .flags import MODEL


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help=f"{MODEL}; or a tokenizer.json")
    parser.add_argument("text", help="the text; - reads it from standard input")
    parser.add_argument("--plain", action="store_true", help="special tokens in the text are ordinary text")
    parser.add_argument("--json", action="store_true", help="print a JSON list of the ids")


def run(arguments: argparse.Namespace) -> int:
    tokenizer = Tokenizer(arguments.model)
    text: str | bytes = sys.stdin.buffer.read() if arguments.text == "-" else arguments.text
    ids = tokenizer.encode(text, special=not arguments.plain)
    if arguments.json:
        print(json.dumps(ids))
    else:
        for token in ids:
            print(f"{token:>7}  {tokenizer.decode([token])!r}")
    tokenizer.close()
    return 0
