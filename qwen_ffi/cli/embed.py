"""qwen-ffi embed MODEL TEXT...: one vector per text."""

from __future__ import annotations

import argparse
import json

from .._options import OptionScope
from ..retrieval import Embedder
from .flags import MODEL, add_flags, flag_values, texts_or_lines
from .progress import Progress

EPILOG = """\
Each line of the output is the vector of a text, of length 1; --json prints a list of lists. For a model such as \
Qwen3-Embedding: the vectors of others mean little. The lines of a file, as queries:
  qwen-ffi embed MODEL - --query < queries.txt"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage, parser.epilog = "%(prog)s [options] MODEL TEXT...", EPILOG
    parser.add_argument("model", help=MODEL)
    parser.add_argument(
        "texts", metavar="TEXT", nargs="+", help="the texts; - alone reads them from standard input, a line each"
    )
    parser.add_argument("--dimensions", type=int, metavar="N", help="only the first N values, scaled to length 1 again")
    parser.add_argument("--query", action="store_true", help="the texts are queries, not documents")
    parser.add_argument(
        "--instruction", metavar="TEXT", help="what the queries are for, in one sentence; implies --query"
    )
    parser.add_argument("--json", action="store_true", help="print a JSON list of lists")
    add_flags(parser, OptionScope.ENGINE)


def run(arguments: argparse.Namespace) -> int:
    texts = texts_or_lines(arguments.texts)
    with (
        Progress("embedding") as progress,
        Embedder(arguments.model, **flag_values(arguments, OptionScope.ENGINE)) as model,
    ):
        if arguments.query or arguments.instruction is not None:
            vectors = model.embed_queries(
                texts, instruction=arguments.instruction, dimensions=arguments.dimensions, progress=progress
            )
        else:
            vectors = model.embed(texts, dimensions=arguments.dimensions, progress=progress)
    rows = [[float(f"{value:.9g}") for value in row] for row in vectors.tolist()]
    if arguments.json:
        print(json.dumps(rows))
    else:
        for row in rows:
            print(*row)
    return 0
