"""The option `trace`: a look at every step of a session, from inside the engine's thread, that can do no harm."""

from __future__ import annotations

import gc
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from typing import Any

import pytest

from qwen_ffi import QwenInferenceSession, StepTrace

PROMPT = [1, 2, 3, 4, 5]


def test_every_step_is_seen_with_its_rows(tiny_model: Path) -> None:
    steps: list[StepTrace] = []
    threads: set[int] = set()

    def trace(step: StepTrace) -> None:
        steps.append(step)
        threads.add(threading.get_ident())

    with QwenInferenceSession(tiny_model, trace=trace, threads=1) as session:
        answer = session.generate_ids(PROMPT, max_tokens=8, temperature=0, ignore_eos=True)
        session.drain()
        done = session.stats()
    assert len(answer) == 8
    assert [step.number for step in steps] == list(range(1, 9))
    assert [(step.prompt_rows, step.generate_rows) for step in steps] == [(5, 0)] + [(0, 1)] * 7
    assert [step.running for step in steps] == [1] * 7 + [0]
    assert {(step.sequences, step.waiting, step.preempted) for step in steps} == {(1, 0, 0)}
    assert steps[0].cache_blocks_used > 0
    assert steps[-1].cache_blocks_used == 0
    assert done.steps == 8
    assert all(step.forward_seconds > 0 for step in steps)
    assert threading.get_ident() not in threads
    assert len(threads) == 1


def test_an_exception_in_it_is_reported_once_and_kills_nothing(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reports: list[Any] = []
    calls: list[int] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda report: reports.append(report.exc_value))

    def trace(step: StepTrace) -> None:
        calls.append(step.number)
        raise ValueError("a mistake of the host")

    with QwenInferenceSession(tiny_model) as quiet:
        expected = quiet.generate_ids(PROMPT, max_tokens=8, temperature=0)
    with QwenInferenceSession(tiny_model, trace=trace) as session:
        assert session.generate_ids(PROMPT, max_tokens=8, temperature=0) == expected
        assert session.generate_ids(PROMPT, max_tokens=8, temperature=0) == expected
        session.drain()
    assert len(calls) == 2 * len(expected)
    assert [str(error) for error in reports] == ["a mistake of the host"]


def test_it_lives_as_long_as_the_engine_and_no_longer(tiny_model: Path) -> None:
    class Trace:
        count = 0

        def __call__(self, step: StepTrace) -> None:
            Trace.count += 1

    trace = Trace()
    watched = weakref.ref(trace)
    session = QwenInferenceSession(tiny_model, trace=trace)
    del trace
    gc.collect()
    session.generate_ids(PROMPT, max_tokens=4, ignore_eos=True)
    session.drain()
    assert Trace.count == 4
    assert watched() is not None
    session.close()
    del session
    gc.collect()
    assert watched() is None


def test_what_is_no_function_is_refused(tiny_model: Path) -> None:
    with pytest.raises(TypeError, match="trace must be a function of a StepTrace, not str"):
        QwenInferenceSession(tiny_model, trace="yes")


def test_a_process_that_ends_while_it_is_called_ends_well(slow_model: Path, child: dict[str, Any]) -> None:
    program = f"""
from qwen_ffi import QwenInferenceSession
seen = []
session = QwenInferenceSession({str(slow_model)!r}, trace=seen.append)
stream = session.stream_ids([1, 2, 3], ignore_eos=True, max_tokens=5000)
while len(seen) < 3:
    next(stream)
print("ending")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, **child)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ending\n", "")
