"""The command `qwen-ffi`. Errors are one line on stderr: exit code 1 for what failed, 2 for wrong arguments, 130 for Ctrl-C."""

from __future__ import annotations

import argparse
import importlib
import io
import os
import shutil
import sys
import textwrap
from collections.abc import Sequence

from ..errors import QwenError

# One module each, with HELP, add_arguments(parser, options: bool) and run(arguments) -> exit code. Only the one that is
# asked for is imported and, where it takes the library's options as flags, reads the library's table.
COMMANDS = {
    "demo": "ask the packaged demo model a question",
    "chat": "talk with a model in the terminal",
    "generate": "generate an answer with a model",
    "embed": "turn texts into vectors",
    "rerank": "judge how well documents answer a query",
    "doctor": "check this machine, and a model, and say what to do",
    "bench": "measure tokens per second, and what this machine allows",
    "info": "show what a checkpoint is",
    "tokenize": "show the token ids of a text",
    "validate": "compare the numbers of checkpoints with stored reference outputs",
    "version": "show the versions of the package and the library",
}
EPILOG = """\
A MODEL is the folder of a checkpoint, a GGUF file, or the name of a model of the Hugging Face hub. Results go to standard output, errors \
are one line on standard error, also with --json. Exit codes: 0 done, 1 failed, 2 wrong arguments, 130 Ctrl-C."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    _replace_closed_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # an answer that this terminal cannot show is no reason to stop
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")  # its warnings are no news for people, its errors become ours
    parser = argparse.ArgumentParser(prog="qwen-ffi", description="Run Qwen models on this machine.", epilog=EPILOG)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    try:
        for name, text in COMMANDS.items():
            command = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
            if name in arguments[:1]:
                module = importlib.import_module(f".{name}", __name__)
                command.formatter_class = argparse.RawDescriptionHelpFormatter
                module.add_arguments(command)
                command.epilog = _wrapped(command.epilog or "")
                command.set_defaults(run=module.run)
        parsed = parser.parse_args(arguments)
        code = int(parsed.run(parsed))
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        return 130
    except (QwenError, OSError) as error:
        print(f"qwen-ffi: {error}", file=sys.stderr)
        return 1


def _replace_closed_streams() -> None:
    """Started as `qwen-ffi … >&-`, there is no sys.stdout at all. Its number goes to /dev/null too, lest a model's file gets
    it, and what is written there."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDONLY if mode == "r" else os.O_WRONLY)
            if descriptor != number:
                os.dup2(descriptor, number)
                os.close(descriptor)
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def _wrapped(text: str) -> str:
    """Each line as a paragraph; one that begins with spaces is an example and stays as it is."""
    # As argparse does. A terminal may not know its width; Python 3.10 hands on the 0 that it then gives.
    width = max((shutil.get_terminal_size().columns or 80) - 2, 11)
    return "\n".join(line if line.startswith(" ") else textwrap.fill(line, width) for line in text.split("\n"))
