#!/usr/bin/env python3
"""Writes down the ABI of include/qwen.h: run it after appending to the header, and read the diff it makes.

    python tests/abi/make_offsets.py

  tests/abi/symbols.txt         every exported function
  tests/abi/offsets.txt         every field's offset and size on 64-bit machines (LP64)
  libqwen/api/qwen.map          the linker's version script
  libqwen/api/abi_asserts.cpp   the same offsets as static_asserts, so that a wrong compiler setting cannot build
  tests/abi/libqwen.abi         types and signatures as abidiff reads them, taken from the debug information of stub()

A diff that does more than add lines is a broken ABI. Needs cffi, cc and abidw (Debian: abigail-tools).
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path

import cffi

ROOT = Path(__file__).resolve().parents[2]
HEADER = ROOT / "include" / "qwen.h"


def declarations(header: Path = HEADER) -> str:
    """The marked block as cffi's parser takes it: unmodified but for QWEN_API."""
    text = header.read_text(encoding="utf-8")
    block = text[text.index("/* qwen:begin") : text.index("/* qwen:end")]
    return block.replace("QWEN_API ", "")


def functions(header: Path = HEADER) -> list[str]:
    """The exported names. In the header every one of them, and nothing else, is marked QWEN_API."""
    text = re.sub(r"/\*.*?\*/", "", header.read_text(encoding="utf-8"), flags=re.DOTALL)
    text = text[text.index('extern "C"') :]
    return sorted(re.findall(r"^QWEN_API [^;(]*?(\w+)\(", text, flags=re.MULTILINE))


def structs(header: Path = HEADER) -> dict[str, list[tuple[str, int, int]]]:
    """Struct name -> (field, offset, size) in order; the last row is ("sizeof", size, alignment)."""
    ffi = cffi.FFI()
    ffi.cdef(declarations(header))
    found: dict[str, list[tuple[str, int, int]]] = {}
    for name in ffi.list_types()[0]:
        layout = ffi.typeof(name)
        if layout.kind == "struct" and layout.fields is not None:
            rows = [(field, info.offset, ffi.sizeof(info.type)) for field, info in layout.fields]
            found[name] = [*rows, ("sizeof", ffi.sizeof(name), ffi.alignof(name))]
    return found


def symbols_txt() -> str:
    return "".join(f"{name}\n" for name in functions())


def offsets_txt() -> str:
    lines = ["# struct field offset size; a struct's last line is: sizeof, size, alignment (LP64)"]
    for struct, rows in structs().items():
        lines += [f"{struct} {field} {offset} {size}" for field, offset, size in rows]
    return "\n".join(lines) + "\n"


def version_script(header: Path = HEADER) -> str:
    names = "".join(f"    {name};\n" for name in functions(header))
    return (
        "# Written by tests/abi/make_offsets.py: exactly the functions of qwen.h. One node until 1.0, then one chained\n"
        "# node per release that is never edited again.\n"
        f"QWEN_0 {{\n  global:\n{names}  local:\n    *;\n}};\n"
    )


def asserts_cpp() -> str:
    lines = [
        "// Written by tests/abi/make_offsets.py: the layout that programs in the field were compiled with. Lines are",
        "// added here, never changed.",
        '#include "qwen.h"',
        "",
        'static_assert(sizeof(void*) == 8 && sizeof(size_t) == 8, "libqwen is built for 64-bit machines");',
    ]
    for struct, rows in structs().items():
        lines.append("")
        for field, offset, size in rows[:-1]:
            lines.append(f"static_assert(offsetof({struct}, {field}) == {offset});")
            lines.append(f"static_assert(sizeof({struct}::{field}) == {size});")
        _, size, alignment = rows[-1]
        lines.append(f"static_assert(sizeof({struct}) == {size});")
        lines.append(f"static_assert(alignof({struct}) == {alignment});")
    return "\n".join(lines) + "\n"


def stub(header: Path, folder: Path, *flags: str, compiler: str = "cc") -> Path:
    """folder/libqwen.so with every function of the header and nothing in it: what compilers make of the declarations.

    The library itself cannot differ from it: each of its functions is defined, as extern "C", below the same declaration
    (else it would be hidden), and abi_asserts.cpp holds the layouts. It is C++ and large, though, and its debug information
    changes with every compiler.
    """
    text = re.sub(r"/\*.*?\*/", "", header.read_text(encoding="utf-8"), flags=re.DOTALL)
    bodies = [f"{found} {{ for (;;); }}" for found in re.findall(r"^QWEN_API ([^;{]*\))[^;)]*;", text, flags=re.MULTILINE)]
    (folder / "stub.c").write_text("\n".join([f'#include "{header}"', *bodies, ""]), encoding="utf-8")
    (folder / "stub.map").write_text(version_script(header), encoding="utf-8")
    link = ["-shared", "-fPIC", "-nostdlib", "-Wl,--version-script=stub.map", "-Wl,-soname,libqwen.so.0"]
    command = [compiler, "-std=gnu99", "-g", *flags, "-w", *link, "stub.c", "-o", "libqwen.so"]
    subprocess.run(command, check=True, cwd=folder)
    return folder / "libqwen.so"


def libqwen_abi(header: Path = HEADER) -> str:
    """abidw's description of the ABI: of what the header declares, without places in files and folders."""
    less = ["--no-architecture", "--no-corpus-path", "--no-comp-dir-path", "--no-show-locs", "--no-elf-needed"]
    with tempfile.TemporaryDirectory() as folder:
        command = ["abidw", *less, "--type-id-style", "hash", str(stub(header, Path(folder)))]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout


GENERATED = {
    "tests/abi/symbols.txt": symbols_txt,
    "tests/abi/offsets.txt": offsets_txt,
    "libqwen/api/qwen.map": version_script,
    "libqwen/api/abi_asserts.cpp": asserts_cpp,
}

if __name__ == "__main__":
    for path, content in (GENERATED | {"tests/abi/libqwen.abi": libqwen_abi}).items():
        (ROOT / path).write_text(content(), encoding="utf-8")
        print(path)
