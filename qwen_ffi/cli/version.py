"""qwen-ffi version: which library was loaded, and what it can do here."""

from __future__ import annotations

import argparse
import json

from ..version import abi_version, build_info


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "--json prints version, abi, compiler, backends, cpu_isa (worst to best), library (its path)."
    parser.add_argument("--json", action="store_true", help="print a JSON object")


def run(arguments: argparse.Namespace) -> int:
    info = {**build_info(), "abi": abi_version()}
    if arguments.json:
        print(json.dumps(info))
    else:
        for key, value in info.items():
            print(f"{key:<12} {value if isinstance(value, str) else json.dumps(value)}")
    return 0
