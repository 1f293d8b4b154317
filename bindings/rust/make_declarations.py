#!/usr/bin/env python3
"""Writes qwen-sys/src/declarations.rs from the marked block of include/qwen.h: run it after appending to the header.

    python bindings/rust/make_declarations.py

Every constant, struct, function type and function, in the order of the header, and the layout of every struct as an
assertion that the compiler checks (tests/abi/offsets.txt). What they mean stands in the header.
"""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TARGET = ROOT / "bindings" / "rust" / "qwen-sys" / "src" / "declarations.rs"

TYPES = {
    "char": "c_char",
    "void": "c_void",
    "float": "f32",
    "double": "f64",
    "size_t": "usize",
    **{f"{sign}int{bits}_t": f"{'u' if sign else 'i'}{bits}" for sign in ("", "u") for bits in (32, 64)},
}
KEYWORDS = {"type", "fn"}  # of those that the header uses as names


def rust_type(text: str) -> str:
    """`const char *const *` -> `*const *const c_char`: a pointer is const when what stands left of it is."""
    first, *pointers = text.split("*")
    names = first.split()
    target = "const" if "const" in names else "mut"
    (name,) = [word for word in names if word not in ("const", "struct")]
    out = TYPES.get(name, name)
    for pointer in pointers:
        out = f"*{target} {out}"
        target = "const" if "const" in pointer else "mut"
    return out


def declared(text: str) -> tuple[str, str]:
    """`const char *key` -> (`key`, `*const c_char`); `int64_t shape[8]` -> (`shape`, `[i64; 8]`)."""
    match = re.fullmatch(r"(.*?)(\w+)(?:\[(\d+)\])?", text.strip(), flags=re.DOTALL)
    assert match is not None
    name = f"r#{match[2]}" if match[2] in KEYWORDS else match[2]
    plain = rust_type(match[1])
    return name, f"[{plain}; {match[3]}]" if match[3] else plain


def signature(arguments: str, returned: str) -> str:
    pairs = [] if arguments.strip() in ("", "void") else [declared(one) for one in arguments.split(",")]
    result = rust_type(returned)
    return f"({', '.join(f'{name}: {kind}' for name, kind in pairs)})" + ("" if result == "c_void" else f" -> {result}")


def fields(body: str) -> list[tuple[str, str]]:
    """`int32_t vocab_size, hidden_size;` does not occur: one field per declaration."""
    return [declared(line) for line in body.split(";") if line.strip()]


def statements(block: str) -> list[str]:
    """What ends with a semicolon outside braces."""
    found, depth, begin = [], 0, 0
    for position, letter in enumerate(block):
        depth += {"{": 1, "}": -1}.get(letter, 0)
        if letter == ";" and depth == 0:
            found.append(" ".join(block[begin:position].split()))
            begin = position + 1
    return found


def translate(statement: str, complete: set[str]) -> str:
    if match := re.fullmatch(r"enum \{(.*)\}", statement):
        pairs = [one.split("=") for one in match[1].split(",") if one.strip()]
        return "".join(f"pub const {name.strip()}: {constant_type(name)} = {value.strip()};\n" for name, value in pairs)
    if match := re.fullmatch(r"typedef struct (\w+) \{(.*)\} \1", statement):
        lines = "".join(f"    pub {name}: {kind},\n" for name, kind in fields(match[2]))
        return f"#[repr(C)]\n#[derive(Clone, Copy, Debug)]\npub struct {match[1]} {{\n{lines}}}\n"
    if match := re.fullmatch(r"typedef struct (\w+) \1", statement):
        if match[1] in complete:
            return ""
        return f"#[repr(C)]\npub struct {match[1]} {{\n    _data: [u8; 0],\n    _marker: Marker,\n}}\n"
    if match := re.fullmatch(r"typedef (.*?)\(\*(\w+)\)\((.*)\)", statement):
        return f'pub type {match[2]} = Option<unsafe extern "C" fn{signature(match[3], match[1])}>;\n'
    if match := re.fullmatch(r"(.*?)(\w+)\((.*)\)", statement):
        return f'extern "C" {{\n    pub fn {match[2]}{signature(match[3], match[1])};\n}}\n'
    raise ValueError(f"what is this? {statement}")


def constant_type(name: str) -> str:
    """As the functions and fields that take them: flags and the version are unsigned, everything else is int32_t."""
    unsigned = ("QWEN_ABI_VERSION", "QWEN_ENCODE_", "QWEN_DECODE_", "QWEN_INPUTS_", "QWEN_OUTPUT_")
    return "u32" if name.strip().startswith(unsigned) else "i32"


def layout() -> str:
    lines = []
    for line in (ROOT / "tests" / "abi" / "offsets.txt").read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue
        struct, field, first, second = line.split()
        if field == "sizeof":
            lines.append(f"    assert!(size_of::<{struct}>() == {first} && align_of::<{struct}>() == {second});")
        else:
            name = f"r#{field}" if field in KEYWORDS else field
            lines.append(f"    assert!(offset_of!({struct}, {name}) == {first});")
    return "const _: () = {\n" + "\n".join(lines) + "\n};\n"


def declarations() -> str:
    text = (ROOT / "include" / "qwen.h").read_text(encoding="utf-8")
    block = text[text.index("/* qwen:begin") : text.index("/* qwen:end")]
    plain = re.sub(r"/\*.*?\*/", "", block, flags=re.DOTALL).replace("QWEN_API ", "")
    found = statements(plain)
    complete = {match[1] for one in found if (match := re.match(r"typedef struct (\w+) \{", one))}
    parts = ["// Written by bindings/rust/make_declarations.py from include/qwen.h.\n"]
    parts += ["use std::ffi::{c_char, c_void};\nuse std::mem::{align_of, offset_of, size_of};\n\nuse crate::Marker;\n"]
    parts += [part for one in found if (part := translate(one, complete))]
    return "\n".join([*parts, layout()]).replace(';\n}\n\nextern "C" {\n', ";\n")  # one block for neighbours


if __name__ == "__main__":
    TARGET.write_text(declarations(), encoding="utf-8")
    print(TARGET)
