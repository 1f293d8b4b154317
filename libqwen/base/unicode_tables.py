"""Writes unicode_tables.inc: the Unicode properties libqwen's tokenizer needs, as Hugging Face `tokenizers` sees them.

    python unicode_tables.py > unicode_tables.inc && clang-format -i unicode_tables.inc

The tables are measured, not believed. `tokenizers` 0.23.3 takes categories from its regex engine (Unicode 16) but
normalises with a crate that knows Unicode 9, so no single Unicode database would give the same ids for every text.
Each code point is therefore put through the package itself:
  class          which of \\p{L}, \\p{M}, \\p{N}, \\s matches it (no code point matches two of them, which is asserted);
  decomposition  NFD of the code point alone, Hangul left out (arithmetic, nfc.cpp);
  composition    the pairs (first, second) that NFC joins, taken from the decompositions and checked;
  ccc            the canonical combining class: the value is Python's, but 0 where the package does not reorder the
                 code point, and checked by its order against one mark of every other class.
"""

import unicodedata

from tokenizers import Regex, __version__
from tokenizers.normalizers import NFC, NFD
from tokenizers.pre_tokenizers import Split

CODE_POINTS = [c for c in range(0x110000) if not 0xD800 <= c <= 0xDFFF]
HANGUL = range(0xAC00, 0xAC00 + 11172)
BLOCK = 128  # code points per second-stage block; unicode.h shifts by 7

# Bits of the property byte; unicode.h names them.
CLASS_OF = {"L": 1, "M": 2, "N": 3, "space": 4}
NEWLINE = 5
QUICK_CHECK, REORDERS, DECOMPOSES, COMPOSES = 0x08, 0x10, 0x20, 0x40

nfc = NFC().normalize_str
nfd = NFD().normalize_str


def matching(regex: str) -> set[int]:
    """The code points that a one-character regex matches: those a Split that removes matches takes away."""
    split = Split(Regex(regex), behavior="removed")
    out: set[int] = set()
    for begin in range(0, len(CODE_POINTS), 4096):
        chunk = CODE_POINTS[begin : begin + 4096]
        kept: set[int] = set()
        for _, (first, last) in split.pre_tokenize_str("".join(map(chr, chunk))):
            kept.update(chunk[first:last])
        out.update(set(chunk) - kept)
    return out


def classes() -> bytearray:
    table = bytearray(0x110000)
    for name, regex in (("L", r"\p{L}"), ("M", r"\p{M}"), ("N", r"\p{N}"), ("space", r"\s")):
        for c in matching(regex):
            assert table[c] == 0, f"U+{c:04X} is in two classes"
            table[c] = CLASS_OF[name]
    for c in b"\r\n":
        assert table[c] == CLASS_OF["space"]
        table[c] = NEWLINE
    return table


def combining_classes(decompositions: dict[int, str]) -> bytearray:
    def before(mark: int, other: int) -> bool:
        """Whether the package puts `mark` in front of `other` when it comes after it."""
        return nfd(f"a{chr(other)}{chr(mark)}") == f"a{chr(mark)}{chr(other)}"

    low, high = 0x0334, 0x0345  # classes 1 and 240, the lowest and the highest that combine
    table = bytearray(0x110000)
    members: dict[int, int] = {}  # class -> one mark of it
    for c in CODE_POINTS:
        if c in decompositions or not (c in (low, high) or before(c, high) or before(low, c)):
            continue
        table[c] = unicodedata.combining(chr(c))
        assert table[c], f"U+{c:04X} is reordered but Python knows no combining class for it"
        members.setdefault(table[c], c)
    for c in CODE_POINTS:
        for other_class, other in members.items() if table[c] else ():
            assert c == other or before(c, other) == (table[c] < other_class), f"U+{c:04X} against U+{other:04X}"
    return table


def composition_pairs(decompositions: dict[int, str]) -> dict[tuple[int, int], int]:
    pairs: dict[tuple[int, int], int] = {}
    for c, parts in decompositions.items():
        if nfc(chr(c)) != chr(c):
            continue  # a singleton or a composition exclusion
        first, second = nfc(parts[:-1]), parts[-1]
        assert len(first) == 1 and nfc(first + second) == chr(c), f"U+{c:04X}"
        pairs[ord(first), ord(second)] = c
    return pairs


def two_stage(table: bytearray, name: str) -> None:
    blocks: dict[bytes, int] = {}
    index = [blocks.setdefault(bytes(table[b : b + BLOCK]), len(blocks)) for b in range(0, len(table), BLOCK)]
    print(f"const uint16_t k{name}Index[{len(index)}] = {{{', '.join(map(str, index))}}};")
    data = b"".join(blocks)
    print(f"const uint8_t k{name}Blocks[{len(data)}] = {{{', '.join(map(str, data))}}};")


def main() -> None:
    decompositions = {c: nfd(chr(c)) for c in CODE_POINTS if c not in HANGUL and nfd(chr(c)) != chr(c)}
    pairs = composition_pairs(decompositions)
    ccc = combining_classes(decompositions)
    # Hangul vowels and trailing consonants compose by arithmetic; the range is the syllable formula's.
    composes = {second for _, second in pairs} | set(range(0x1161, 0x1176)) | set(range(0x11A8, 0x11C3))

    properties = classes()
    for c in CODE_POINTS:
        if c in composes:
            properties[c] |= COMPOSES
        if c in composes or nfc(chr(c)) != chr(c):
            properties[c] |= QUICK_CHECK
        if ccc[c] or (c in decompositions and any(ccc[ord(p)] for p in decompositions[c][0])):
            properties[c] |= REORDERS
        if c in decompositions:
            properties[c] |= DECOMPOSES

    print(f"// Written by unicode_tables.py from tokenizers {__version__}; do not edit.")
    two_stage(properties, "Property")
    two_stage(ccc, "Ccc")
    text: list[int] = []
    rows = []
    for c, parts in sorted(decompositions.items()):
        rows.append(f"{{{c:#x}, {len(text)}, {len(parts)}}}")
        text += map(ord, parts)
    print(f"const Decomposition kDecompositions[{len(rows)}] = {{{', '.join(rows)}}};")
    print(f"const char32_t kDecompositionText[{len(text)}] = {{{', '.join(map(hex, text))}}};")
    rows = [f"{{{first:#x}, {second:#x}, {c:#x}}}" for (first, second), c in sorted(pairs.items())]
    print(f"const Composition kCompositions[{len(rows)}] = {{{', '.join(rows)}}};")


if __name__ == "__main__":
    main()
