"""qwen-ffi tokenize MODEL TEXT: one token per line, or JSON."""

from __future__ import annotations

import argparse
import json

from ..tokenizer import Tokenizer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="the folder of a checkpoint, or a tokenizer.json")
    parser.add_argument("text")
    parser.add_argument("--plain", action="store_true", help="special tokens in the text are ordinary text")
    parser.add_argument("--json", action="store_true", help="print a JSON list of the ids")


def run(arguments: argparse.Namespace) -> int:
    tokenizer = Tokenizer(arguments.model)
    ids = tokenizer.encode(arguments.text, special=not arguments.plain)
    if arguments.json:
        print(json.dumps(ids))
    else:
        for token in ids:
            print(f"{token:>7}  {tokenizer.decode([token])!r}")
    tokenizer.close()
    return 0
