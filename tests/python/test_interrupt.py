"""Ctrl-C comes through within 100 ms wherever Python waits for the library, and the session stays usable."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

# The child prints "ready", waits in the library, and reports when the KeyboardInterrupt arrived (monotonic clock, which
# is the same one in both processes) and whether the session still works.
CHILD = """
import asyncio, sys, time
from qwen_ffi import AsyncGenerationStream, QwenInferenceSession, Transformer
from qwen_ffi._prompt import Prompt
session = QwenInferenceSession(sys.argv[1])
wanted = sys.argv[2]
model = Transformer.from_pretrained(sys.argv[1], dtype="f32", threads=1) if wanted in ("forward", "answers") else None
def generate(): session.generate_ids([5, 6, 7], max_tokens=30000, ignore_eos=True)
def long_prompt(): session.generate_ids([5] * 30000, max_tokens=10)
def stream():
    for event in session.stream_ids([5], max_tokens=30000, ignore_eos=True): pass
def forward(): model.forward([[5] * 4000])
def answers(): model.generate([[5], [6]], 30000, ignore_eos=True)
def run(): session.run(None, {"input_ids": [[5] * 9000]})
def event_loop():
    async def work():
        stream = AsyncGenerationStream(session._asubmit(Prompt.from_ids([5]), None, {"ignore_eos": True}, True))
        async for event in stream: pass
    asyncio.run(work())
print("ready", flush=True)
try:
    locals()[wanted]()
    print("ended by itself", flush=True)
except KeyboardInterrupt:
    print(time.monotonic(), flush=True)
end = time.monotonic() + 60
while session.stats().running and time.monotonic() < end: time.sleep(0.01)
print(session.stats().running, len(session.generate_ids([5], max_tokens=3, ignore_eos=True)), flush=True)
"""


@pytest.mark.parametrize("call", ["generate", "long_prompt", "stream", "forward", "answers", "run", "event_loop"])
def test_interrupting(slow_model: Path, child: dict[str, Any], call: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CHILD, str(slow_model), call],
        stdout=subprocess.PIPE,
        text=True,
        **child,
    ) as process:
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "ready\n"
            time.sleep(0.4)
            sent = time.monotonic()
            process.send_signal(signal.SIGINT)
            arrived = process.stdout.readline()
            assert arrived != "ended by itself\n", "the call was too short for this test"
            assert float(arrived) - sent < 0.1
            assert process.stdout.readline() == "0 3\n"
            assert process.wait(20) == 0
        finally:
            process.kill()
