"""asyncio: thousands of answers on one thread, cancelled where asyncio cancels, and no end without a word."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import pytest

from qwen_ffi import (
    AsyncGenerationStream,
    QwenCancelledError,
    QwenClosedError,
    QwenForkedError,
    QwenInferenceSession,
    QwenNotFoundError,
    QwenValueError,
    SamplingConfig,
)

T = TypeVar("T")
SHORT = SamplingConfig(max_tokens=12, seed=3, ignore_eos=True)
LONG = SamplingConfig(max_tokens=30000, ignore_eos=True, seed=1)
TEXT = "Hello"


def run(work: Coroutine[Any, Any, T]) -> T:
    """asyncio.run that cannot hang."""
    return asyncio.run(asyncio.wait_for(work, 60))


async def until_idle(session: QwenInferenceSession, seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while (stats := session.stats()).running or stats.waiting:
        assert time.monotonic() < end, f"still busy: {stats}"
        await asyncio.sleep(0.005)


def open_files() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture(scope="module")
def slow_text_session(slow_model: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The slow model with a tokenizer: a text prompt whose answer takes minutes."""
    folder = tmp_path_factory.mktemp("models") / "slow_text"
    folder.mkdir()
    for file in (*slow_model.iterdir(), tiny_model / "tokenizer.json"):
        (folder / file.name).symlink_to(file)
    with QwenInferenceSession(folder) as session:
        yield session


# ------------------------------------------------------------------------------------------------------- the same answers


def test_the_twins_answer_as_the_originals(chat_model: Path) -> None:
    messages = [{"role": "user", "content": "Hello"}]
    with QwenInferenceSession(chat_model) as session:
        one, other = session.generate(TEXT, SHORT), session.chat(messages, SHORT, reasoning_mode=False)
        batch = session.generate_batch([TEXT, messages, "x"], SHORT)

        async def work() -> None:
            assert (await session.agenerate(TEXT, SHORT)).choices == one.choices
            assert (await session.achat(messages, SHORT, reasoning_mode=False)).choices == other.choices
            found = await session.agenerate_batch([TEXT, messages, "x"], SHORT)
            assert [result.choices for result in found] == [result.choices for result in batch]

        run(work())


def test_a_stream_is_the_answer_in_pieces(session: QwenInferenceSession) -> None:
    whole = session.generate(TEXT, SHORT, logprobs=True)

    async def work() -> None:
        async with session.astream(TEXT, SHORT, logprobs=True) as stream:
            with pytest.raises(RuntimeError, match="end"):
                _ = stream.result
            events = [event async for event in stream]
        assert "".join(map(str, events)) == whole.text
        assert tuple(token for event in events for token in event.token_ids) == whole.token_ids
        assert tuple(value for event in events for value in event.logprobs or ()) == whole.logprobs
        assert events[-1].finish_reason is whole.finish_reason
        assert stream.result.choices == whole.choices
        assert [event async for event in stream] == []

    run(work())


def test_a_slow_reader_misses_nothing(session: QwenInferenceSession) -> None:
    async def work() -> None:
        stream = session.astream(TEXT, max_tokens=40, ignore_eos=True)
        await until_idle(session)
        await asyncio.sleep(0.05)
        assert sum([len(event.token_ids) async for event in stream]) == 40

    run(work())


def test_a_thousand_streams_on_one_thread(demo_model: Path) -> None:
    threads: set[int] = set()

    async def one(session: QwenInferenceSession, number: int) -> tuple[int, ...]:
        config = SamplingConfig(max_tokens=8, seed=number % 10, ignore_eos=True)
        tokens: list[int] = []
        async for event in session.astream("What is 17 + 25?", config):
            tokens += event.token_ids
        threads.add(threading.get_ident())
        return tuple(tokens)

    async def work() -> list[tuple[int, ...]]:
        return await asyncio.gather(*(one(session, number) for number in range(1000)))

    with QwenInferenceSession(demo_model, max_running=256) as session:
        before = len(os.listdir("/proc/self/task"))
        answers = run(work())
        assert len(os.listdir("/proc/self/task")) <= before  # those that opened the session may have ended
    assert threads == {threading.get_ident()}
    assert all(len(answer) == 8 for answer in answers)
    for number, answer in enumerate(answers):
        assert answer == answers[number % 10]


def test_one_loop_has_one_descriptor(session: QwenInferenceSession) -> None:
    async def work() -> None:
        before = open_files()
        await session.agenerate(TEXT, SHORT)
        streams = [session.astream(TEXT, SHORT) for _ in range(20)]
        assert open_files() == before + 1
        for stream in streams:
            await stream.aclose()

    run(work())


# ------------------------------------------------------------------------------------------------------- cancelling


def test_leaving_the_loop_early_cancels(slow_text_session: QwenInferenceSession) -> None:
    async def work() -> None:
        async for _ in slow_text_session.astream(TEXT, LONG):
            break
        await until_idle(slow_text_session)

    run(work())


def test_leaving_a_with_block_cancels(slow_text_session: QwenInferenceSession) -> None:
    async def work() -> None:
        with pytest.raises(ZeroDivisionError):
            async with slow_text_session.astream(TEXT, LONG) as stream:
                await anext(stream)
                raise ZeroDivisionError
        await until_idle(slow_text_session)
        with pytest.raises(StopAsyncIteration):
            await anext(stream)

    run(work())


def test_closing_a_generator_around_a_stream_cancels(slow_text_session: QwenInferenceSession) -> None:
    async def words() -> AsyncIterator[str]:
        async for event in slow_text_session.astream(TEXT, LONG):
            yield event.text

    async def work() -> None:
        async with contextlib.aclosing(words()) as generator:  # type: ignore[type-var]
            await anext(generator)
        await until_idle(slow_text_session)

    run(work())


@pytest.mark.parametrize("call", ["agenerate", "agenerate_batch", "astream"])
def test_cancelling_the_task_cancels_the_work(slow_text_session: QwenInferenceSession, call: str) -> None:
    session = slow_text_session

    async def waiting() -> None:
        if call == "agenerate":
            await session.agenerate(TEXT, LONG)
        elif call == "agenerate_batch":
            await session.agenerate_batch([TEXT] * 3, LONG)
        else:
            async for _ in session.astream(TEXT, LONG):
                pass

    async def work() -> None:
        task = asyncio.create_task(waiting())
        while not session.stats().running:
            await asyncio.sleep(0.005)
        await asyncio.sleep(0.02)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until_idle(session)
        with pytest.raises(asyncio.TimeoutError):
            await asyncio.wait_for(waiting(), 0.05)
        await until_idle(session)

    run(work())


def test_cancelling_from_another_thread_raises_in_the_stream(slow_text_session: QwenInferenceSession) -> None:
    async def work() -> None:
        stream = slow_text_session.astream(TEXT, LONG)
        await anext(stream)
        threading.Timer(0.05, stream.cancel).start()
        with pytest.raises(QwenCancelledError):
            async for _ in stream:
                pass
        await until_idle(slow_text_session)

    run(work())


def test_the_first_failure_of_a_batch_cancels_the_others(slow_text_session: QwenInferenceSession) -> None:
    async def work() -> None:
        with pytest.raises(QwenValueError, match=r"message 0.*'nobody'"):
            await slow_text_session.agenerate_batch([TEXT, TEXT, [("nobody", "x")]], LONG)
        await until_idle(slow_text_session)

    run(work())


# ------------------------------------------------------------------------------------------------------- closing


def test_closing_the_session_ends_its_streams(slow_model: Path) -> None:
    async def work() -> None:
        session = await QwenInferenceSession.aopen(slow_model)
        from qwen_ffi._prompt import Prompt

        mailboxes = [session._asubmit(Prompt.from_ids([5, 6]), LONG, {}, True) for _ in range(3)]
        streams = [AsyncGenerationStream(mailbox) for mailbox in mailboxes]
        for stream in streams:
            await anext(stream)
        await session.aclose()
        for stream in streams:
            with pytest.raises(QwenClosedError):
                async for _ in stream:
                    pass
        with pytest.raises(QwenClosedError):
            await session.agenerate("x")

    run(work())


def test_draining_does_not_block_the_loop(tiny_model: Path) -> None:
    async def work() -> None:
        async with await QwenInferenceSession.aopen(tiny_model) as session:
            stream = session.astream(TEXT, max_tokens=200, ignore_eos=True)
            assert await session.adrain() is True
            assert sum([len(event.token_ids) async for event in stream]) == 200
            with pytest.raises(QwenClosedError, match="drain"):
                await session.agenerate(TEXT)

    run(work())


def test_a_loop_that_ends_takes_its_streams_with_it(slow_text_session: QwenInferenceSession) -> None:
    before = open_files()
    left: list[AsyncGenerationStream] = []

    async def start() -> None:
        left.append(slow_text_session.astream(TEXT, LONG))
        await anext(left[-1])

    for _ in range(5):
        run(start())
        loop = asyncio.new_event_loop()
        loop.run_until_complete(start())
        loop.close()
    del loop
    run(until_idle(slow_text_session))
    assert open_files() == before

    async def read(stream: AsyncGenerationStream) -> None:
        async for _ in stream:
            pass

    for stream in left:
        with pytest.raises(QwenClosedError, match="event loop"):
            run(read(stream))


def test_a_stream_belongs_to_its_loop(slow_text_session: QwenInferenceSession) -> None:
    loop = asyncio.new_event_loop()

    async def start() -> AsyncGenerationStream:
        return slow_text_session.astream(TEXT, LONG)

    async def read(stream: AsyncGenerationStream) -> None:
        await anext(stream)

    stream = loop.run_until_complete(start())
    with pytest.raises(RuntimeError, match="another event loop"):
        run(read(stream))
    loop.run_until_complete(read(stream))
    loop.run_until_complete(stream.aclose())
    loop.close()


def test_two_tasks_at_one_stream_are_told(slow_text_session: QwenInferenceSession) -> None:
    async def work() -> None:
        stream = slow_text_session.astream("x" * 300, LONG)
        first = asyncio.create_task(stream.__anext__())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="another task"):
            await anext(stream)
        await first
        await stream.aclose()

    run(work())


def test_two_loops_in_two_threads(session: QwenInferenceSession) -> None:
    expected = session.generate(TEXT, SHORT).choices
    found: list[Any] = []

    async def work() -> None:
        for _ in range(5):
            answers = await asyncio.gather(*(session.agenerate(TEXT, SHORT) for _ in range(10)))
            found.extend(answer.choices for answer in answers)

    threads = [threading.Thread(target=run, args=(work(),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [expected] * 100


def test_many_loops_leave_no_descriptors(session: QwenInferenceSession) -> None:
    run(session.agenerate(TEXT, SHORT))
    before = open_files()
    for _ in range(20):
        run(session.agenerate(TEXT, SHORT))
    assert open_files() == before


def test_without_a_loop(session: QwenInferenceSession) -> None:
    with pytest.raises(RuntimeError, match="event loop"):
        session.astream(TEXT, SHORT)


def test_a_forked_child_is_told(slow_text_session: QwenInferenceSession) -> None:
    """In the child asyncio itself says that no loop runs, so it starts one of its own."""

    async def work() -> None:
        stream = slow_text_session.astream(TEXT, LONG)
        await anext(stream)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                asyncio.run(slow_text_session.agenerate(TEXT, SHORT))
            except QwenForkedError:
                code = 0
            finally:
                os._exit(code)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        await anext(stream)
        await stream.aclose()

    run(work())


# ------------------------------------------------------------------------------------------------------- opening


def test_opening(tiny_model: Path) -> None:
    seen: list[float] = []

    async def work() -> None:
        async with await QwenInferenceSession.aopen(tiny_model, dtype="f32", progress=seen.append) as session:
            answer = await session.agenerate(TEXT, SHORT)
            assert len(answer.token_ids) == 12
        with pytest.raises(QwenClosedError):
            session.stats()
        with pytest.raises(QwenNotFoundError):
            await QwenInferenceSession.aopen(tiny_model / "none")
        with pytest.raises(QwenValueError, match="flavour"):
            await QwenInferenceSession.aopen(tiny_model, flavour=1)

    run(work())
    assert seen[-1] == 1


def test_the_loop_runs_on_while_a_model_is_opened_and_cancelling_leaves_at_once(tiny_model: Path) -> None:
    reached = threading.Event()
    go_on = threading.Event()

    def progress(fraction: float) -> None:
        reached.set()
        go_on.wait(20)

    async def work() -> None:
        task = asyncio.create_task(QwenInferenceSession.aopen(tiny_model, progress=progress))
        while not reached.is_set():
            await asyncio.sleep(0.005)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        go_on.set()

    run(work())
    end = time.monotonic() + 10
    while any(thread.name == "qwen-call" for thread in threading.enumerate()):
        assert time.monotonic() < end
        time.sleep(0.01)


def test_an_interpreter_may_end_with_streams_in_flight(slow_model: Path, child: dict[str, Any]) -> None:
    program = """
import asyncio, sys
from qwen_ffi import QwenInferenceSession, AsyncGenerationStream
from qwen_ffi._prompt import Prompt
session = QwenInferenceSession(sys.argv[1])
async def work():
    global stream
    stream = AsyncGenerationStream(session._asubmit(Prompt.from_ids([5]), None, {"ignore_eos": True}, True))
    await stream.__anext__()
asyncio.run(work())
print("end")
"""
    run = subprocess.run(
        [sys.executable, "-W", "default", "-c", program, str(slow_model)],
        capture_output=True,
        text=True,
        timeout=30,
        **child,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "end\n", "")
