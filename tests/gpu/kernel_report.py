#!/usr/bin/env python3
"""What nvcc made of the kernels, without a GPU: registers, spills, blocks per multiprocessor, and what their loops consist of.

    tests/gpu/kernel_report.py LIBRARY [--architecture 90] [--loops REGEX]

LIBRARY is a libqwen.so.0 or any file with machine code of nvcc's. A line for each kernel: registers of a thread, bytes of stack
and of spilled registers, shared memory of a block (static, and what it is launched with), threads of a block, and how many blocks a
multiprocessor of compute capability 9.0 has room for. --loops: of kernels with that in their name, each innermost loop.
Needs cuobjdump and nvdisasm (CUDA toolkit, or the packages nvidia-cuda-cuobjdump and nvidia-cuda-nvdisasm) and c++filt.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

# Of a multiprocessor of compute capability 9.0 (CUDA C++ Programming Guide, "Technical Specifications per Compute Capability").
REGISTERS, WARPS, BLOCKS, SHARED = 64 << 10, 64, 32, 228 << 10
OF_EACH_BLOCK = 1 << 10  # shared memory that the system takes of each, which cuobjdump counts as the kernel's
PER_WARP = 256  # registers are given to a warp by as many

# Shared memory that kernels are launched with, as the files beside them say, of their template's arguments; none is 0.
DYNAMIC: dict[str, Callable[..., int]] = {
    "few_rows": lambda kind, tiles, aligned, grouped: 8 * 8 * tiles * 20 * 4,
    "many_rows": lambda gated, outputs, rows, grouped: 96 << 10,
    "fma_rows": lambda weight, gated, rows, grouped: 8 * rows * 32 * 4,
    "attend_tiles": lambda spans, values, split: 4 * (spans * 2 + (0 if split else values)) * 32 * 16,
    "attend_rows": lambda dims, split: 4 * 32 * 4,
    "norm_long_rows": lambda: 8 * 4,
    "list_members": lambda: 2 * 8 * 4,
    "choose_experts": lambda: 512 * 2 * 4,  # experts
}


@dataclass
class Kernel:
    symbol: str
    name: str  # without namespaces and parameters: few_rows<0, 1, true, false>
    architecture: int
    registers: int = 0
    stack: int = 0
    local: int = 0
    static: int = 0
    threads: int = 0
    code: list[tuple[int, str]] = field(default_factory=list)  # address, instruction

    @property
    def dynamic(self) -> int:
        found = re.fullmatch(r"(\w+)(?:<(.*)>)?", self.name)
        assert found is not None, self.name
        if found[1] not in DYNAMIC:
            return 0
        values = {"true": 1, "false": 0}
        arguments = [values.get(a, int(a) if a.isdigit() else 0) for a in (found[2] or "").split(", ") if a]
        return DYNAMIC[found[1]](*arguments)

    @property
    def blocks(self) -> int:
        warps = -(-self.threads // 32)
        of_warp = -(-self.registers * 32 // PER_WARP) * PER_WARP
        # A multiprocessor has four files of registers, and a warp all of its own in one of them.
        by_registers = REGISTERS // 4 // of_warp * 4 // warps
        shared = self.static + self.dynamic + (0 if self.static >= OF_EACH_BLOCK else OF_EACH_BLOCK)
        return min(by_registers, SHARED // shared, WARPS // warps, BLOCKS)

    @property
    def spills(self) -> int:
        """Instructions that read or write a thread's own memory."""
        return sum(1 for _, text in self.code if re.match(r"(@\S+ )?(LDL|STL)\b", text))

    def before_waiting(self) -> tuple[bool, list[str]]:
        """Whether it lets dependents begin and then waits for what came before; and what of memory or an end comes ahead of that."""
        texts = [re.sub(r"^@\S+ ", "", text) for _, text in self.code]
        waits = [i for i, text in enumerate(texts) if text.startswith("ACQBULK")]
        lets = [i for i, text in enumerate(texts) if text.startswith("PREEXIT")]
        if not waits or not lets or lets[0] > waits[0]:
            return False, []
        reads = r"(LDG|STG|LD|ST|LDGSTS|ATOM\w*|RED\w*|UBLK\w*|EXIT|RET|CALL|BAR|LDS|STS)\b"
        return True, [text for text in texts[: waits[0]] if re.match(reads, text)]

    def loops(self) -> Iterator[list[str]]:
        """The instructions of each loop that has no other one in it."""
        spans = []
        for at, text in self.code:
            back = re.match(r"(?:@\S+ )?BRA(?:\.\S+)?(?: \S+,)? `?\(?(?:\.L_x_\d+|0x([0-9a-f]+))", text)
            if back and back[1] and int(back[1], 16) < at:
                spans.append((int(back[1], 16), at))
        for begin, end in spans:
            if not any((b, e) != (begin, end) and begin <= b and e <= end for b, e in spans):
                yield [text for at, text in self.code if begin <= at <= end]


def tool(name: str) -> str:
    """On the path, beside nvcc, or of a package of this Python. Raises FileNotFoundError that says what to install."""
    spec = importlib.util.find_spec("nvidia")
    packages = [folder for root in (spec.submodule_search_locations or [] if spec else []) for folder in Path(root).glob("*/bin")]
    beside = [Path(found).resolve().parent for found in [shutil.which("nvcc")] if found]
    toolkit = Path(os.environ.get("CUDA_HOME", "/usr/local/cuda")) / "bin"
    for folder in (None, *beside, toolkit, *packages):
        if found := shutil.which(name, path=folder and str(folder)):
            return found
    raise FileNotFoundError(f"there is no {name}: it is in the CUDA toolkit and in the package nvidia-cuda-{name}")


def said(command: list[str], given: str | None = None) -> str:
    folder = Path(tool("nvdisasm")).parent  # which cuobjdump calls
    environment = {**os.environ, "PATH": f"{os.environ['PATH']}:{folder}"}
    return subprocess.run(command, check=True, capture_output=True, text=True, input=given, env=environment).stdout


def demangled(symbols: list[str]) -> list[str]:
    names = said(["c++filt"], "\n".join(symbols)).splitlines()
    plain = []
    for name in names:
        name = re.sub(r"\(anonymous namespace\)::|qwen::(?:cuda::)?|^void ", "", name)
        name = re.sub(r"\((?:Rows16|bool|int)\)", "", name)
        plain.append(name[: name.index("(")] if "(" in name else name)
    return plain


def architectures(library: Path) -> list[int]:
    """Compute capabilities that it has machine code for, times 10."""
    return sorted({int(number) for number in re.findall(r"\.sm_(\d+)\.", said([tool("cuobjdump"), "-lelf", str(library)]))})


def kernels(library: Path, architecture: int) -> list[Kernel]:
    """All of that architecture, by name, with their code."""
    found: dict[str, Kernel] = {}
    cuobjdump, current = tool("cuobjdump"), architecture  # a file of one architecture does not say which
    names: list[str] = []
    for line in said([cuobjdump, "-res-usage", str(library)]).splitlines():
        if arch := re.match(r"\s*arch = sm_(\d+)", line):
            current = int(arch[1])
        elif (function := re.match(r"\s*Function (\S+):", line)) and current == architecture:
            names.append(function[1])
        elif (usage := re.match(r"\s*REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", line)) and current == architecture:
            registers, stack, static, local = map(int, usage.groups())
            found[names[-1]] = Kernel(names[-1], "", architecture, registers, stack, local, static)
    for symbol, name in zip(found, demangled(list(found)), strict=True):
        found[symbol].name = name

    arch, section = f"sm_{architecture}", ""
    lines = iter(said([cuobjdump, "-elf", "-arch", arch, str(library)]).splitlines())
    for line in lines:
        if line.startswith(".nv.info."):
            section = line.removeprefix(".nv.info.").strip()
        elif line.startswith("."):
            section = ""
        elif section in found and "EIATTR_MAX_THREADS" in line:
            next(lines)
            sizes = re.findall(r"0x([0-9a-f]+)", next(lines))
            found[section].threads = int(sizes[0], 16)

    code: list[tuple[int, str]] = []
    for line in said([cuobjdump, "-sass", "-arch", arch, str(library)]).splitlines():
        if function := re.match(r"\s*Function : (\S+)", line):
            code = found[function[1]].code
        elif instruction := re.match(r"\s*/\*([0-9a-f]{4,})\*/\s+(.+?)\s*;", line):
            code.append((int(instruction[1], 16), instruction[2]))
    return sorted(found.values(), key=lambda kernel: kernel.name)


def mixture(instructions: list[str]) -> str:
    """What a loop consists of: the instructions that matter by themselves, the rest together."""
    named = r"(HMMA|FFMA|LDG(?:\.E)?(?:\.128|\.64)?|LDGSTS|LDS(?:\.128|\.64)?|STS(?:\.128|\.64)?|LDSM|LDL|STL|STG|BAR|SHFL|MUFU|BRA)"
    counts: Counter[str] = Counter()
    for text in instructions:
        text = re.sub(r"^@\S+ ", "", text)
        opcode = text.split(" ")[0]
        width = ".128" if ".128" in opcode else ".64" if ".64" in opcode else ""
        matched = re.match(named, opcode)
        kind = opcode.split(".")[0]
        if matched:
            counts[kind + (width if kind in ("LDG", "LDS", "STS", "STG", "LDGSTS") else "")] += 1
        elif re.match(r"U?(IMAD|IADD3?|LEA|SHF|LOP3|ISETP|SEL|VIADD|R2UR|IMNMX|SGXT|PRMT|MOV)$", kind):
            counts["integer"] += 1
        else:
            counts["other"] += 1
    return f"{len(instructions)} instructions: " + ", ".join(f"{count} {what}" for what, count in counts.most_common())


def table(found: list[Kernel]) -> str:
    lines = ["kernel | registers | stack | local | static | dynamic | threads | blocks per SM", "---|---|---|---|---|---|---|---"]
    for k in found:
        lines.append(f"{k.name} | {k.registers} | {k.stack} | {k.local} | {k.static} | {k.dynamic} | {k.threads} | {k.blocks}")
    return "\n".join(lines)


def main(given: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", type=Path)
    parser.add_argument("--architecture", type=int, default=90)
    parser.add_argument("--loops", help="of kernels with this in their name")
    arguments = parser.parse_args(given)
    found = kernels(arguments.library, arguments.architecture)
    if not arguments.loops:
        print(table(found))
    for kernel in found:
        if arguments.loops and re.search(arguments.loops, kernel.name):
            print(f"{kernel.name}: {len(kernel.code)} instructions, {kernel.spills} spills")
            for loop in kernel.loops():
                print("   ", mixture(loop))
    return 0


if __name__ == "__main__":
    sys.exit(main())
