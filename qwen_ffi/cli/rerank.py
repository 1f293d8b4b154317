"""qwen-ffi rerank MODEL QUERY DOCUMENT...: how well documents answer a query, best first."""

from __future__ import annotations

import argparse
import json

from .._options import OptionScope
from ..retrieval import Reranker
from .flags import MODEL, add_flags, flag_values, texts_or_lines
from .progress import Progress

EPILOG = """\
Each line of the output is a score from 0 to 1 and a document, best first; --json prints a list of objects with score, index \
(from 0) and document. For a model such as Qwen3-Reranker: the scores of others mean little. The lines of a file:
  qwen-ffi rerank MODEL QUERY - < documents.txt"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.usage, parser.epilog = "%(prog)s [options] MODEL QUERY DOCUMENT...", EPILOG
    parser.add_argument("model", help=MODEL)
    parser.add_argument("query", help="what is asked")
    parser.add_argument(
        "documents",
        metavar="DOCUMENT",
        nargs="+",
        help="the documents; - alone reads them from standard input, a line each",
    )
    parser.add_argument("--instruction", metavar="TEXT", help="what the query is for, in one sentence")
    parser.add_argument("--json", action="store_true", help="print a JSON list of objects")
    add_flags(parser, OptionScope.ENGINE)


def run(arguments: argparse.Namespace) -> int:
    documents = texts_or_lines(arguments.documents)
    with (
        Progress("judging") as progress,
        Reranker(arguments.model, **flag_values(arguments, OptionScope.ENGINE)) as model,
    ):
        scores = model.score(arguments.query, documents, instruction=arguments.instruction, progress=progress).tolist()
    ranked = sorted(range(len(scores)), key=lambda index: -scores[index])
    texts = [document if isinstance(document, str) else document.decode() for document in documents]
    if arguments.json:
        found = [{"score": scores[index], "index": index, "document": texts[index]} for index in ranked]
        print(json.dumps(found, ensure_ascii=False))
    else:
        for index in ranked:
            print(f"{scores[index]:.4f}  {texts[index]}")
    return 0
