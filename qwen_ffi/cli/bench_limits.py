"""What bounds `qwen-ffi bench`: the machine as the library measures it, and what a token needs of it.

The limits, as in the roofline model (https://doi.org/10.1145/1498765.1498785): a step cannot take less time than reading the
bytes that it must read takes at the measured bandwidth, nor less than its operations take at the measured peak. The larger of
the two binds. With the fields of ModelInfo (`qwen-ffi info`), for n sequences side by side:

    weights(n)  = shared + experts (1 - (1 - k / E)^n)                   bytes, each read once per step
                  shared: active_weight_bytes - active_expert_bytes;  k, E: num_experts_per_tok, num_experts
                  experts: active_expert_bytes E / k; the rest is the part of them that n tokens are expected to choose, if all are
                  chosen alike
    cache(c)    = c cache_token_bytes + min(c, window_tokens) window_token_bytes     bytes, behind c tokens
    attended(c) = 2 num_attention_heads / num_key_value_heads * elements of cache(c)      operations
    linear      = 6 elements of state_bytes: reading, correcting and asking the state                operations

    a step of decoding, n tokens:      weights(n) + n (cache(c) + state_bytes)                 bytes
                                       n (2 active_parameters + attended(c) + linear)           operations
    a prompt of N tokens:              weights(N)                                                  bytes
                                       N (2 (active_parameters - head) + linear) + 2 head
                                       + attended(1) + ... + attended(N)                          operations
                                       head: vocab_size hidden_size, for the last token only

Operations are floating-point ones, a multiplication with its addition two. An element of the cache has 2 bytes, with dtype f32
4; one of a state 4. A prompt's keys and values, and all activations, are taken to stay in the processor's caches. So are they
limits, not predictions: what is read twice, or waited for, comes on top.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from .._blocking import run_interruptibly
from .._loader import check, library
from .._options import OptionScope, OptionSet
from ..results import ModelInfo

_MOVED = 0.15  # more than this between two measurements, and something else was going on
_BUSY = 0.05  # likewise: of the time that the threads had, what others took


@dataclass(frozen=True, slots=True)
class Machine:
    """What the library measured: see qwen_machine in qwen.h."""

    threads: int
    level: str
    dtype: str
    read_bytes_per_second: float
    flops_per_second: float
    buffer_bytes: int


@dataclass(frozen=True, slots=True)
class Work:
    """What one token takes, its share of a step."""

    bytes: float
    flops: float

    @property
    def intensity(self) -> float:
        """Floating-point operations per byte."""
        return self.flops / self.bytes


@dataclass(frozen=True, slots=True)
class Limit:
    """Tokens per second that the machine allows, and which of its two roofs it is: "memory" or "arithmetic"."""

    tokens_per_second: float
    bound: str


def measure_machine(options: Mapping[str, Any]) -> Machine:
    """Takes about 0.6 seconds. options: engine options; device, threads, cpu_isa and dtype matter."""

    def work() -> Machine:
        loaded = library()
        ffi, lib = loaded.ffi, loaded.lib
        error, machine = ffi.new("qwen_error **"), ffi.new("qwen_machine *")
        machine.struct_size = ffi.sizeof("qwen_machine")
        check(lib.qwen_measure_machine(OptionSet(options, OptionScope.ENGINE).pointer, machine, error), error)
        return Machine(
            threads=int(machine.threads),
            level=ffi.string(machine.level).decode(),
            dtype=ffi.string(machine.dtype).decode(),
            read_bytes_per_second=float(machine.read_bytes_per_second),
            flops_per_second=float(machine.flops_per_second),
            buffer_bytes=int(machine.buffer_bytes),
        )

    return run_interruptibly(work, lambda machine: None, lambda: None)


def faster(one: Machine, other: Machine) -> Machine:
    """The higher of each figure: what else ran can only have lowered them."""
    return Machine(
        one.threads,
        one.level,
        one.dtype,
        max(one.read_bytes_per_second, other.read_bytes_per_second),
        max(one.flops_per_second, other.flops_per_second),
        max(one.buffer_bytes, other.buffer_bytes),
    )


def decode_work(info: ModelInfo, dtype: str, streams: int, context: float) -> Work:
    """Of a token that is generated behind `context` tokens beside streams - 1 others."""
    read = _weights(info, streams) / streams + _cache(info, context) + info.state_bytes
    flops = 2 * info.active_parameters + _attended(info, dtype, _cache(info, context)) + _linear(info)
    return Work(read, flops)


def prefill_work(info: ModelInfo, dtype: str, tokens: int) -> Work:
    """Of one of the tokens of a prompt."""
    head = info.vocab_size * info.hidden_size
    seen = tokens * (tokens + 1) / 2
    inside = min(tokens, info.window_tokens)
    seen_in_window = inside * (inside + 1) / 2 + (tokens - inside) * info.window_tokens
    cached = seen * info.cache_token_bytes + seen_in_window * info.window_token_bytes
    flops = tokens * (2 * (info.active_parameters - head) + _linear(info)) + 2 * head + _attended(info, dtype, cached)
    return Work(_weights(info, tokens) / tokens, flops / tokens)


def limit(work: Work, machine: Machine) -> Limit:
    memory, arithmetic = machine.read_bytes_per_second / work.bytes, machine.flops_per_second / work.flops
    return Limit(memory, "memory") if memory <= arithmetic else Limit(arithmetic, "arithmetic")


def _weights(info: ModelInfo, tokens: int) -> float:
    """Bytes of the weights that a step with so many tokens reads."""
    shared = info.active_weight_bytes - info.active_expert_bytes
    if info.num_experts == 0:
        return shared
    chosen = info.num_experts_per_tok / info.num_experts
    return shared + info.active_expert_bytes / chosen * (1 - (1 - chosen) ** tokens)


def _cache(info: ModelInfo, context: float) -> float:
    return context * info.cache_token_bytes + min(context, info.window_tokens) * info.window_token_bytes


def _attended(info: ModelInfo, dtype: str, cached: float) -> float:
    """Operations with so many bytes of keys and values: each element meets every query head that shares it."""
    elements = cached / (4 if dtype == "f32" else 2)
    return 2 * elements * info.num_attention_heads / info.num_key_value_heads


def _linear(info: ModelInfo) -> float:
    return 6 * info.state_bytes / 4


class Neighbours:
    """How much of the processor others used, from now on."""

    def __init__(self, stat: Path = Path("/proc/stat")) -> None:
        self._stat = stat
        self._begin = monotonic()
        self._others = self._now()

    def cores(self) -> float | None:
        """On average: 1.0 is one core all the time. None: the system does not say."""
        now, elapsed = self._now(), monotonic() - self._begin
        if now is None or self._others is None or elapsed <= 0:
            return None
        return max(now - self._others, 0.0) / elapsed

    def _now(self) -> float | None:
        """Seconds of processor time of everybody else since the machine was started."""
        try:
            fields = self._stat.read_text(encoding="utf-8").split("\n")[0].split()
            user, nice, system, _idle, _iowait, *interrupts = (int(field) for field in fields[1:9])
        except (OSError, ValueError):
            return None
        used = os.times()
        own = used.user + used.system + used.children_user + used.children_system
        return (user + nice + system + sum(interrupts)) / os.sysconf("SC_CLK_TCK") - own


def doubts(before: Machine, after: Machine, neighbours: float | None) -> list[str]:
    """Why figures taken between the two measurements are not to be trusted; none: they are."""
    found = []
    for name, field, unit in (("reading", "read_bytes_per_second", "B/s"), ("arithmetic", "flops_per_second", "FLOP/s")):
        one, other = getattr(before, field), getattr(after, field)
        if abs(one - other) > _MOVED * max(one, other):
            found.append(f"{name} was {scaled(one, unit)} before and {scaled(other, unit)} after")
    if neighbours is None:
        found.append("/proc/stat cannot be read: whether other processes used the processor is not known")
    elif neighbours > _BUSY * before.threads:
        found.append(f"other processes used {neighbours:.2f} of {before.threads} cores meanwhile")
    return found


def scaled(value: float, unit: str) -> str:
    """34.1 GB/s of 34.1e9: three digits."""
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= factor:
            return f"{value / factor:.{max(0, 3 - len(str(int(value / factor))))}f} {prefix}{unit}"
    return f"{value:.0f} {unit}"
