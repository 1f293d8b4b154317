"""Times the tokenizer beside Hugging Face `tokenizers` on the same text, in the same process, on one thread.

    python tests/benchmarks/bench_tokenizer.py FOLDER [--megabytes 2] [--seed 1]

FOLDER holds a tokenizer.json. The text is made from a seed, in documents of about 8 kB, and hardly a word comes twice,
so that neither side's cache of words helps: this is the first pass over new text, the prompt's path to the first
token. Each kind of text is encoded once, by tokenizers opened for it alone (`tokenizers` by encode_batch_fast, which
leaves offsets out, so it is the faster of its two ways); the ids are compared before a figure is printed. Times are
processor time of this process, so that a busy machine does not blur them.
"""

from __future__ import annotations

import argparse
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RAYON_NUM_THREADS"] = "1"

import tokenizers

import qwen_ffi

T = TypeVar("T")

CONSONANTS = [
    "b",
    "c",
    "d",
    "f",
    "g",
    "h",
    "k",
    "l",
    "m",
    "n",
    "p",
    "r",
    "s",
    "t",
    "v",
    "w",
    "st",
    "tr",
    "ch",
    "sh",
    "pl",
    "gr",
    "th",
    "qu",
]
VOWELS = ["a", "e", "i", "o", "u", "ea", "ou", "ai", "ee", "io"]
ENDINGS = ["", "", "s", "ed", "ing", "er", "tion", "ly", "ment", "al", "ous", "n't", "'s"]


def english(generator: random.Random) -> str:
    syllables = generator.choices([c + v for c in CONSONANTS for v in VOWELS], k=generator.randint(1, 3))
    word = "".join(syllables) + generator.choice(ENDINGS)
    return (word.capitalize() if generator.random() < 0.1 else word) + generator.choice(
        [" "] * 12 + [", ", ". ", ".\n", "? "]
    )


def code(generator: random.Random) -> str:
    def name() -> str:
        return "_".join(english(generator).strip(" .,?'\n") for _ in range(generator.randint(1, 2)))

    indent = "    " * generator.randint(1, 4)
    return generator.choice(
        [
            f"{indent}{name()} = {name()}({name()}, {generator.randint(0, 4096)})\n",
            f"{indent}if ({name()} != {generator.random():.4f}) {{\n{indent}    return {name()}[{name()}];\n{indent}}}\n",
            f"def {name()}(self, {name()}: int) -> None:\n{indent}# {english(generator)}{english(generator)}\n\n",
        ]
    )


def script(first: int, last: int, word: tuple[int, int], glue: str, stops: str) -> Callable[[random.Random], str]:
    letters = [chr(c) for c in range(first, last + 1) if chr(c).isalpha()]

    def make(generator: random.Random) -> str:
        text = "".join(generator.choices(letters, k=generator.randint(*word)))
        return text + (generator.choice(stops) if generator.random() < 0.15 else glue)

    return make


TEXTS: dict[str, Callable[[random.Random], str]] = {
    "English-like": english,
    "code": code,
    "Latin, accents": script(0xC0, 0x17F, (3, 9), " ", ",.;"),
    "Cyrillic": script(0x430, 0x44F, (3, 9), " ", ",.;"),
    "Arabic": script(0x627, 0x64A, (3, 8), " ", "،.؟"),
    "Hindi": script(0x905, 0x939, (3, 8), " ", "।,"),
    "Chinese": script(0x4E00, 0x9FA5, (4, 14), "，", "。！？"),
    "Korean": script(0xAC00, 0xD7A3, (2, 5), " ", ".,"),
    "emoji": lambda generator: chr(generator.randint(0x1F300, 0x1F64F)) + generator.choice(["", " ", "\ufe0f"]),
}


def mixed(generator: random.Random) -> str:
    return generator.choice(list(TEXTS.values()))(generator)


def make_documents(piece: Callable[[random.Random], str], size: int, seed: int) -> list[str]:
    generator = random.Random(seed)
    documents: list[str] = []
    while size > 0:
        parts: list[str] = []
        length = 0
        while length < 8192:
            parts.append(piece(generator))
            length += len(parts[-1].encode())
        documents.append("".join(parts))
        size -= length
    return documents


def timed(function: Callable[[], T]) -> tuple[T, float]:
    begin = time.process_time()
    value = function()
    return value, time.process_time() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--megabytes", type=float, default=2)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    file = str(options.folder / "tokenizer.json")

    ours_load = min(timed(lambda: qwen_ffi.Tokenizer(options.folder))[1] for _ in range(5))
    theirs_load = min(timed(lambda: tokenizers.Tokenizer.from_file(file))[1] for _ in range(2))
    print(f"{'':20} {'ours':>10} {'tokenizers':>10} {'ratio':>6}")
    print(f"{'load, ms':20} {ours_load * 1e3:10.1f} {theirs_load * 1e3:10.1f} {theirs_load / ours_load:5.1f}x")
    for name, piece in {**TEXTS, "all, mixed": mixed}.items():
        documents = make_documents(piece, int(options.megabytes * 1e6), options.seed)
        megabytes = sum(len(text.encode()) for text in documents) / 1e6
        ours, theirs = qwen_ffi.Tokenizer(options.folder), tokenizers.Tokenizer.from_file(file)
        begin = time.process_time()
        ids = [ours.encode(text) for text in documents]
        middle = time.process_time()
        encodings = [theirs.encode_batch_fast([text], add_special_tokens=False)[0] for text in documents]
        end = time.process_time()
        if any(list(a) != b.ids for a, b in zip(ids, encodings, strict=True)):
            raise SystemExit(f"{name}: the ids differ; a speed would mean nothing")
        ours_rate, theirs_rate = megabytes / (middle - begin), megabytes / (end - middle)
        print(f"{name + ', MB/s':20} {ours_rate:10.1f} {theirs_rate:10.2f} {ours_rate / theirs_rate:5.1f}x")


if __name__ == "__main__":
    main()
