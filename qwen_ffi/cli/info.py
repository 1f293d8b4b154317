"""qwen-ffi info MODEL: the shape and size of a checkpoint."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, fields

from .._engine import model_info
from ..results import ModelInfo
from .flags import MODEL


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = f"--json prints {', '.join(field.name for field in fields(ModelInfo))}. The weights are not read."
    parser.add_argument("model", help=MODEL)
    parser.add_argument("--json", action="store_true", help="print a JSON object")


def run(arguments: argparse.Namespace) -> int:
    info = asdict(model_info(arguments.model))
    if arguments.json:
        print(json.dumps(info, ensure_ascii=False))
    else:
        for key, value in info.items():
            print(f"{key:<22} {value:,}" if type(value) is int else f"{key:<22} {value}")
    return 0
