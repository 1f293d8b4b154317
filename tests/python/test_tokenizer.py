"""The tokenizer gives the ids and the text that Hugging Face `tokenizers` gives for the same tokenizer.json.

Runs on the two published Qwen tokenizers where the shared folder is found (QWEN_SHARED, or `shared` beside the
repository), otherwise on the small one that ships with the repository; and always on two tokenizers made here, one for
each published regex, in which every two bytes merge, at random ranks: there a border of a word that is one character off
changes ids, which a trained vocabulary shows only where it has a token across it. QWEN_LONG=1 sweeps every code point in every
context and compares ten times as many random strings; the everyday run takes every code point alone and a sample
of the rest.

Strings are compared many at a time: joined by an added token, which cuts text before anything else happens, so that
each part is normalised, split and merged as if it stood alone.
"""

from __future__ import annotations

import json
import os
import random
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import pytest

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
import tokenizers  # noqa: E402

import qwen_ffi  # noqa: E402

LONG = os.environ.get("QWEN_LONG", "0") not in ("", "0")
REPOSITORY = Path(__file__).resolve().parents[2]
SEPARATOR = "<|im_start|>"
CODE_POINTS = [c for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]


def folders() -> list[Path]:
    shared = Path(os.environ.get("QWEN_SHARED", REPOSITORY.parent / "shared"))
    found = [shared / name for name in ("qwen-tokenizer", "qwen35-tokenizer")]
    found = [folder for folder in found if (folder / "tokenizer.json").is_file()]
    small = [REPOSITORY / "qwen_ffi" / "demo_model", REPOSITORY / "tests" / "data" / "tiny_tokenizer"]
    return found or [folder for folder in small if (folder / "tokenizer.json").is_file()][:1]


WORDS_OF_LETTERS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
WORDS_OF_LETTERS_AND_MARKS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
MADE = {"every-pair-merges": WORDS_OF_LETTERS, "every-pair-merges-marks": WORDS_OF_LETTERS_AND_MARKS}


def make_tokenizer(folder: Path, regex: str) -> None:
    """A tokenizer.json of 256 bytes and all their pairs, merged in random order."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    written = {byte: chr(byte) for byte in printable} | {byte: chr(0x100 + i) for i, byte in enumerate(others)}
    letters = [written[byte] for byte in range(256)]
    merges = [[a, b] for a in letters for b in letters]
    random.Random(1).shuffle(merges)
    content = json.loads((REPOSITORY / "tests/data/tiny_tokenizer/tokenizer.json").read_text(encoding="utf-8"))
    content["model"]["vocab"] = {token: i for i, token in enumerate(letters + [a + b for a, b in merges])}
    content["model"]["merges"] = merges
    content["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] = regex
    for i, token in enumerate(content["added_tokens"]):
        token["id"] = len(content["model"]["vocab"]) + i
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")


@dataclass
class Pair:
    """Our tokenizer and Hugging Face's, opened from one folder."""

    folder: Path
    ours: qwen_ffi.Tokenizer
    theirs: tokenizers.Tokenizer

    def expected(self, text: str) -> list[int]:
        return self.theirs.encode(text, add_special_tokens=False).ids

    def compare(self, texts: Iterable[str], batch: int = 256) -> int:
        """Asserts equal ids for each text; returns how many there were."""
        count = 0
        iterator = iter(texts)
        while part := list(islice(iterator, batch)):
            joined = SEPARATOR.join(part)
            if self.ours.encode(joined) != self.expected(joined):
                for text in part:
                    assert self.ours.encode(text) == self.expected(text), f"{text!r} in {self.folder.name}"
                raise AssertionError(f"these differ only when joined: {part!r}")
            count += len(part)
        return count


@pytest.fixture(scope="module", params=[*folders(), *MADE], ids=lambda value: getattr(value, "name", value))
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    if request.param in MADE:
        folder = tmp_path_factory.mktemp(request.param)
        make_tokenizer(folder, MADE[request.param])
    else:
        folder = request.param
    theirs = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    return Pair(folder, qwen_ffi.Tokenizer(folder), theirs)


def test_published_vectors(pair: Pair) -> None:
    """Where a tokenizer.json has none, Hugging Face's own answers in the other tests are all there is."""
    vectors = pair.folder / "test-vectors.jsonl"
    if not vectors.is_file():
        return
    for line in vectors.read_text(encoding="utf-8").splitlines():
        vector = json.loads(line)
        assert pair.ours.encode(vector["text"]) == vector["ids"]
        assert pair.ours.decode(vector["ids"], skip_special=False) == pair.theirs.decode(vector["ids"], False)
        assert vector["decoded"] in (pair.ours.decode(vector["ids"], skip_special=skip) for skip in (False, True))


def test_every_code_point_alone(pair: Pair) -> None:
    assert pair.compare(map(chr, CODE_POINTS), batch=2048) == len(CODE_POINTS)


# What stands around a code point decides which alternative of the pre-tokenizer's regex takes it, whether case folding
# makes it part of a contraction, and what it composes or changes places with.
CONTEXTS = [
    "a{}", "{}a", "a{}a", "é{}", "字{}", " {} ", "  {}", "{}  ", "\t{}", "'{}", "'{}e", "'r{}", "'v{}", "'l{}", "1{}",
    "{}1", "{}\n", "\n{}", "\r\n{}\r\n", "{}\u0301", "a\u0301{}", "{}\u0323\u0301", "a\u0345{}", "\u0327{}\u0327", "{0}{0}", ".{}.",
    " {}a", ".{}a", "\u1100{}", "\u1100\u1161{}", "क{}", "\u0e01{}\u0e01", "{}\u094d", "<|{}|>",
]  # fmt: skip


@pytest.mark.parametrize("context", CONTEXTS, ids=ascii)
def test_code_points_in_context(pair: Pair, context: str) -> None:
    if LONG:
        chosen = CODE_POINTS
    else:
        # Every assigned code point outside the two large blocks of regular letters, and some of all the rest.
        generator = random.Random(context)
        chosen = sorted(generator.sample(CODE_POINTS, 2000) + generator.sample(range(0x80, 0x3400), 2000))
        chosen = list(range(0x80)) + chosen
    assert pair.compare((context.format(chr(c)) for c in chosen), batch=1024) == len(chosen)


def alphabets(pair: Pair) -> dict[str, list[str]]:
    def span(*ranges: tuple[int, int]) -> list[str]:
        return [chr(c) for first, last in ranges for c in range(first, last + 1)]

    added = [token.content for token in pair.theirs.get_added_tokens_decoder().values()]
    marks = [chr(c) for c in CODE_POINTS if unicodedata.combining(chr(c))]
    composed = [chr(c) for c in CODE_POINTS if unicodedata.decomposition(chr(c)) and not 0xF900 <= c < 0xFB00]
    words = [
        "the",
        "of",
        "and",
        "in",
        "a",
        "I",
        "I've",
        "you're",
        "don't",
        "we'll",
        "SHE'S",
        "he'd",
        "I'M",
        "can'T",
        "'tis",
    ]
    code = [
        "def",
        "return",
        "if (",
        "{}",
        "();",
        "[]",
        "//",
        "/*",
        "*/",
        "==",
        "!=",
        "->",
        "::",
        "0x1F",
        "3.14",
        "a_b",
        "aB",
    ]
    return {
        "ascii": span((0x20, 0x7E)),
        "letters": span((0x61, 0x7A)),
        "space": list("     \t\n\r\x0b\x0c\x85\xa0\u1680\u2003\u2028\u2029\u202f\u3000\r\n"),
        "control": span((0, 0x1F), (0x7F, 0x9F), (0x200B, 0x200F), (0x202A, 0x202E), (0xFFF9, 0xFFFF)),
        "contraction": list("''''''’stremlvdSTREMLVDſK ") + ["'s", "'LL", "'ſ", "'rE"],
        "words": [f" {word}" for word in words] + words,
        "code": code + ["\n\t", "\n        ", " = ", "();\n", "\r\n"],
        "digits": span((0x30, 0x39), (0x660, 0x669), (0xB2, 0xB3), (0x2150, 0x2189), (0x1D7CE, 0x1D7FF)),
        "latin": span((0xC0, 0x24F), (0x1E00, 0x1EFF)),
        "greek and cyrillic": span((0x370, 0x3FF), (0x400, 0x52F), (0x1F00, 0x1FFF)),
        "hebrew and arabic": span((0x590, 0x6FF), (0x750, 0x77F), (0x8A0, 0x8FF), (0xFB50, 0xFDFF)),
        "indic": span((0x900, 0xDFF)),
        "south-east asian": span((0xE00, 0xEFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x1A20, 0x1AAF)),
        "tibetan": span((0xF00, 0xFDA)),
        "cjk": span((0x4E00, 0x51FF), (0x3040, 0x30FF), (0xFF00, 0xFFEF), (0xF900, 0xFAFF)),
        "common cjk": list("的一是不了人我在有他这为之大来以个中上们到说国和地也子时道出而要于就下得可你年生。,、？！"),
        "hangul": span((0x1100, 0x11FF), (0xA960, 0xA97C), (0xAC00, 0xAD00), (0xD7B0, 0xD7FB), (0x3130, 0x318F)),
        "emoji": span((0x1F300, 0x1F6FF), (0x1F900, 0x1F9FF), (0x1F1E6, 0x1F1FF), (0x1F3FB, 0x1F3FF))
        + ["\u200d", "\ufe0f", "\u20e3", "👨‍👩‍👧"],
        "marks": marks,
        "composed": composed,
        "mathematical": span((0x2100, 0x214F), (0x2190, 0x22FF), (0x1D400, 0x1D4FF)),
        "newest": span(
            (0x10D40, 0x10D8F), (0x11380, 0x113E2), (0x16100, 0x16139), (0x16D40, 0x16D79), (0x1C80, 0x1C8F)
        ),
        "anything": [chr(c) for c in CODE_POINTS],
        "added": added + ["<", "<|", "|>", "<|im", "<|im_start|", "</", "<tool_call", "<|im_end|><|im_end|>"],
    }


def random_texts(pair: Pair, count: int, seed: int, without: str = "") -> Iterator[str]:
    generator = random.Random(seed)
    chosen = {name: alphabet for name, alphabet in alphabets(pair).items() if name != without}
    names = list(chosen)
    for _ in range(count):
        parts = [chosen[name] for name in generator.choices(names, k=generator.randint(1, 3))]
        length = min(200, int(generator.expovariate(1 / 12)) + 1)
        yield "".join(generator.choice(generator.choice(parts)) for _ in range(length))


def test_random_texts(pair: Pair) -> None:
    count = 200_000 if LONG else 15_000
    assert pair.compare(random_texts(pair, count, seed=20240607)) == count


def test_canonical_reordering_and_composition(pair: Pair) -> None:
    """Nothing but what normalisation works on: starters that compose, and marks in any order."""
    table = alphabets(pair)
    alphabet = table["marks"] + table["composed"] + list("aeiouAEIOUเกक가\u1100\u1161\u11a8")
    generator = random.Random(9)
    count = 200_000 if LONG else 10_000
    texts = ("".join(generator.choices(alphabet, k=generator.randint(1, 8))) for _ in range(count))
    assert pair.compare(texts) == count


@pytest.mark.parametrize(
    "text", ["a", " ", "\n", "ab", "字", "é", "e\u0301", "'", "!", "1", "\u0301", "👍🏽", "=-", "\x00"]
)
def test_long_runs(pair: Pair, text: str) -> None:
    for count in (63, 64, 65, 127, 1000, 10_001):
        for extra in ("", "x", " x", "\n"):
            run = text * count + extra
            assert pair.ours.encode(run) == pair.expected(run), f"{text!r} * {count} + {extra!r}"


def test_empty_and_nul(pair: Pair) -> None:
    assert pair.ours.encode("") == []
    assert pair.ours.decode([]) == ""
    text = "a\0b\0\0 \0c<|im_end|>\0"
    assert pair.ours.encode(text) == pair.expected(text)
    assert pair.ours.decode(pair.ours.encode(text), skip_special=False) == text


def test_decoding_gives_back_the_normalised_text(pair: Pair) -> None:
    nfc = tokenizers.normalizers.NFC()
    for text in random_texts(pair, 30_000 if LONG else 3000, seed=3, without="added"):
        assert pair.ours.decode(pair.ours.encode(text), skip_special=False) == nfc.normalize_str(text), repr(text)


def test_decoding_of_random_ids(pair: Pair) -> None:
    size = pair.theirs.get_vocab_size(with_added_tokens=True)
    added = sorted(pair.theirs.get_added_tokens_decoder())
    # Tokens that are or hold a part of a code point, so that sequences break in every way.
    halves = [i for i in range(size) if "\ufffd" in pair.theirs.decode([i], skip_special_tokens=False)]
    generator = random.Random(5)
    for _ in range(50_000 if LONG else 5000):
        pool = generator.choice([range(size), halves, halves + added, range(256)])
        ids = [generator.choice(pool) for _ in range(generator.randint(1, 24))]
        for skip in (False, True):
            assert pair.ours.decode(ids, skip_special=skip) == pair.theirs.decode(ids, skip_special_tokens=skip), ids
