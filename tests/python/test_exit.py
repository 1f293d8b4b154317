"""A program may end at any moment: engines are stopped first, and nothing of the library is touched when all is gone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BEGIN = """
import asyncio, sys, threading, time
import qwen_ffi
from qwen_ffi import QwenInferenceSession, Transformer
session = QwenInferenceSession(sys.argv[1])
LONG = {"max_tokens": 2000, "ignore_eos": True}
"""
PROGRAMS = {
    "a stream": """
stream = session.stream("Hi", **LONG)
next(stream)
""",
    "a batch in a daemon thread": """
threading.Thread(target=session.generate_batch, args=(["Hi"] * 8,), kwargs=LONG, daemon=True).start()
while not session.stats().running: time.sleep(0.001)
""",
    "a forward pass in a daemon thread": """
model = Transformer.from_pretrained(sys.argv[1])
threading.Thread(target=model.forward, args=([list(range(700)) * 2] * 64,), daemon=True).start()
while not model.stats().running: time.sleep(0.001)
""",
    "an event loop": """
async def work():
    global stream
    stream = session.astream("Hi", **LONG)
    await stream.__anext__()
loop = asyncio.new_event_loop()
loop.run_until_complete(work())
""",
    "a handle of somebody else first": """
import weakref
class Other: pass
other = Other()
weakref.finalize(other, print, "end")
""",
}


@pytest.mark.parametrize("what", PROGRAMS)
def test_a_program_ends_well_with_this_in_flight(what: str, child: dict[str, Any], demo_model: Path) -> None:
    program = BEGIN + PROGRAMS[what] + ("" if "else" in what else "print('end', flush=True)\n")
    for _ in range(3):
        run = subprocess.run(
            [sys.executable, "-c", program, str(demo_model)], capture_output=True, text=True, timeout=60, **child
        )
        assert (run.returncode, run.stdout) == (0, "end\n"), run.stderr


def test_engines_are_stopped_before_the_interpreter_goes(child: dict[str, Any], demo_model: Path) -> None:
    program = (
        """
import atexit, os
def threads(): print(len(os.listdir("/proc/self/task")))
atexit.register(threads)  # runs after what is registered later
"""
        + BEGIN
    )
    run = subprocess.run(
        [sys.executable, "-c", program, str(demo_model)], capture_output=True, text=True, timeout=60, **child
    )
    assert (run.returncode, run.stdout) == (0, "1\n"), run.stderr
