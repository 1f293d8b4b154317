"""A session generates, streams, is shared by threads, and lets go of everything when it is closed."""

from __future__ import annotations

import gc
import os
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from qwen_ffi import (
    FinishReason,
    GenerationStream,
    QwenCancelledError,
    QwenClosedError,
    QwenForkedError,
    QwenInferenceSession,
    QwenTimeoutError,
    QwenUnsupportedError,
    QwenValueError,
    SamplingConfig,
    Tokenizer,
    generate_text,
)

IDS = [5, 6, 7, 8]
LONG = SamplingConfig(max_tokens=30000, ignore_eos=True, seed=1)


def wait_until_idle(session: QwenInferenceSession, seconds: float = 5.0) -> None:
    end = time.monotonic() + seconds
    while (stats := session.stats()).running or stats.waiting:
        assert time.monotonic() < end, f"still busy: {stats}"
        time.sleep(0.005)


def long_stream(session: QwenInferenceSession) -> GenerationStream:
    """A stream whose answer takes minutes."""
    return session.stream_ids(IDS, LONG)


# ------------------------------------------------------------------------------------------------------- generating


def test_a_seed_repeats_an_answer(session: QwenInferenceSession) -> None:
    config = SamplingConfig(max_tokens=20, seed=7, ignore_eos=True)
    first, second = (session.generate("Hello", config) for _ in range(2))
    assert first.token_ids == second.token_ids
    assert len(first.token_ids) == 20
    assert first.stats.seed == 7
    assert first.finish_reason is FinishReason.LENGTH
    assert str(first) == first.text
    third = session.generate("Hello", seed=first.stats.seed + 1, max_tokens=20, ignore_eos=True)
    assert third.token_ids != first.token_ids


def test_a_drawn_seed_is_reported_and_repeats_the_answer(session: QwenInferenceSession) -> None:
    first = session.generate("Hello", max_tokens=10)
    again = session.generate("Hello", max_tokens=10, seed=first.stats.seed)
    assert again.token_ids == first.token_ids


def test_a_stream_is_the_answer_in_pieces(session: QwenInferenceSession) -> None:
    whole = session.generate("Hello", max_tokens=20, seed=3, logprobs=True)
    with session.stream("Hello", max_tokens=20, seed=3, logprobs=True) as stream:
        events = list(stream)
    assert "".join(str(event) for event in events) == whole.text
    assert tuple(token for event in events for token in event.token_ids) == whole.token_ids
    assert tuple(value for event in events for value in event.logprobs or ()) == whole.logprobs
    assert events[-1].finish_reason is whole.finish_reason
    assert stream.result.token_ids == whole.token_ids
    assert list(stream) == []


def test_counts_and_times_are_plausible(session: QwenInferenceSession) -> None:
    stats = session.generate("Hello", max_tokens=10, ignore_eos=True).stats
    assert stats.generated_tokens == 10
    assert stats.prompt_tokens == len(session.tokenizer.encode("Hello"))
    assert 0 < stats.first_token_seconds < 60
    assert stats.tokens_per_second > 0


def test_a_batch_is_its_prompts_one_by_one(session: QwenInferenceSession) -> None:
    prompts = ["Hello", "What is 1 + 1?", "x" * 50]
    config = SamplingConfig(max_tokens=15, seed=5, ignore_eos=True)
    alone = [session.generate(prompt, config).token_ids for prompt in prompts]
    assert [result.token_ids for result in session.generate_batch(prompts, config)] == alone


def test_one_line(tiny_model: Path, session: QwenInferenceSession) -> None:
    config = SamplingConfig(max_tokens=5, seed=1)
    assert generate_text(tiny_model, "Hello", config) == generate_text(session, "Hello", config)


def test_stop_token_ends_the_answer(session: QwenInferenceSession) -> None:
    free = session.generate_ids(IDS, temperature=0, max_tokens=10, ignore_eos=True)
    stopped = session.generate_ids(IDS, temperature=0, max_tokens=10, ignore_eos=True, stop_token_ids=[free[3]])
    assert stopped == free[: free.index(free[3]) + 1]


def test_logit_bias_rules_a_token_in(session: QwenInferenceSession) -> None:
    assert session.generate_ids(IDS, max_tokens=4, logit_bias={77: 1e6}, ignore_eos=True) == [77] * 4


def test_chat_needs_a_template(session: QwenInferenceSession) -> None:
    with pytest.raises((QwenValueError, QwenUnsupportedError), match="template"):
        session.chat([{"role": "user", "content": "Hello"}])


def test_numpy_token_ids_are_taken(session: QwenInferenceSession) -> None:
    import numpy as np

    config = SamplingConfig(temperature=0, max_tokens=3, ignore_eos=True)
    assert session.generate_ids(np.array(IDS), config) == session.generate_ids(IDS, config)


# ------------------------------------------------------------------------------------------------------- tokenizer


def test_tokenizer_alone_and_of_a_session_agree(tiny_model: Path, session: QwenInferenceSession) -> None:
    tokenizer = Tokenizer(tiny_model)
    text = "Grüße, 世界! <|im_end|>"
    ids = tokenizer.encode(text)
    assert ids == session.tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode(ids, skip_special=True) == "Grüße, 世界! "
    end = tokenizer.token_id("<|im_end|>")
    assert ids[-1] == end
    assert end not in tokenizer.encode(text, special=False)
    assert tokenizer.token_id("no such token") is None
    assert max(ids) < tokenizer.vocab_size
    assert tokenizer.decode(tokenizer.encode("word " * 1000)) == "word " * 1000
    tokenizer.close()
    with pytest.raises(QwenClosedError):
        tokenizer.encode("x")


# ------------------------------------------------------------------------------------------------------- closing


def test_closing_a_stream_cancels_its_request(slow_session: QwenInferenceSession) -> None:
    stream = long_stream(slow_session)
    next(stream)
    stream.close()
    wait_until_idle(slow_session)
    with pytest.raises(StopIteration):
        next(stream)


def test_dropping_a_stream_cancels_its_request(slow_session: QwenInferenceSession) -> None:
    stream = long_stream(slow_session)
    next(stream)
    del stream
    gc.collect()
    wait_until_idle(slow_session)


def test_leaving_a_with_block_by_an_exception_cancels(slow_session: QwenInferenceSession) -> None:
    with pytest.raises(ZeroDivisionError), long_stream(slow_session) as stream:
        next(stream)
        raise ZeroDivisionError
    wait_until_idle(slow_session)


def test_cancelling_from_another_thread_raises_in_the_stream(slow_session: QwenInferenceSession) -> None:
    stream = long_stream(slow_session)
    next(stream)
    threading.Timer(0.05, stream.cancel).start()
    with pytest.raises(QwenCancelledError):
        for _ in stream:
            pass
    wait_until_idle(slow_session)


def test_closing_a_session_ends_what_is_in_flight(slow_model: Path) -> None:
    session = QwenInferenceSession(slow_model)
    stream = long_stream(session)
    next(stream)
    start = time.monotonic()
    threading.Timer(0.05, session.close).start()
    with pytest.raises(QwenClosedError):
        for _ in stream:
            pass
    assert time.monotonic() - start < 2
    for call in (session.stats, session.counters, lambda: session.generate_ids(IDS)):
        with pytest.raises(QwenClosedError):
            call()
    session.close()


def test_draining_refuses_what_is_new_and_waits_for_what_is_there(tiny_model: Path) -> None:
    with QwenInferenceSession(tiny_model) as session:
        stream = session.stream_ids(IDS, max_tokens=300, ignore_eos=True)
        assert session.drain() is True
        with pytest.raises(QwenClosedError, match="drain"):
            session.generate("Hello")
        assert sum(len(event.token_ids) for event in stream) == 300


def test_draining_gives_up_in_time_and_does_not_hold_up_close(slow_model: Path) -> None:
    session = QwenInferenceSession(slow_model)
    stream = long_stream(session)
    next(stream)
    start = time.monotonic()
    assert session.drain(0.05) is False
    assert session.drain(0) is False
    threading.Timer(0.1, session.close).start()
    with pytest.raises(QwenClosedError):
        session.drain()
    assert time.monotonic() - start < 3


def test_a_request_may_have_a_deadline(slow_session: QwenInferenceSession) -> None:
    with pytest.raises(QwenTimeoutError, match="timeout_ms"):
        slow_session.generate_ids(IDS, LONG, timeout_ms=50)
    wait_until_idle(slow_session)


def test_a_session_is_a_context_manager(tiny_model: Path) -> None:
    with QwenInferenceSession(tiny_model) as session:
        stream = session.stream("Hello", max_tokens=3)
        assert session.info.architecture == "Qwen2ForCausalLM"
    with pytest.raises(QwenClosedError):
        session.generate("Hello")
    stream.close()


def test_pickling_says_what_to_do(session: QwenInferenceSession) -> None:
    """multiprocessing tries it with whatever it is handed."""
    for value in (session, session.tokenizer):
        with pytest.raises(TypeError, match=r"cannot be pickled .* in the process that uses it"):
            pickle.dumps(value)


def test_a_stream_keeps_a_dropped_session_alive(tiny_model: Path) -> None:
    stream = QwenInferenceSession(tiny_model).stream("Hello", max_tokens=30, ignore_eos=True)
    gc.collect()
    assert sum(len(event.token_ids) for event in stream) == 30


def test_unread_streams_do_not_stop_others(session: QwenInferenceSession) -> None:
    waiting = [session.stream("Hello", max_tokens=50) for _ in range(5)]
    assert session.generate("Hello", max_tokens=3, ignore_eos=True).stats.generated_tokens == 3
    for stream in waiting:
        stream.close()


# ------------------------------------------------------------------------------------------------------- threads


def test_threads_sharing_a_session_get_what_each_gets_alone(session: QwenInferenceSession) -> None:
    jobs = [(f"Prompt number {n}", SamplingConfig(max_tokens=12, seed=n, ignore_eos=True)) for n in range(32)]
    alone = [session.generate(*job).token_ids for job in jobs]
    with ThreadPoolExecutor(8) as pool:
        together = [result.token_ids for result in pool.map(lambda job: session.generate(*job), jobs)]
    assert together == alone


def test_the_interpreter_runs_on_while_the_library_computes(slow_session: QwenInferenceSession) -> None:
    """A thread that counts gets nearly as far during a long forward pass as with the GIL to itself: measured in turns
    of Python code, of which a held GIL would allow none."""
    from qwen_ffi import Transformer

    turns = 0
    done = threading.Event()

    def compute() -> None:
        with Transformer.from_pretrained(slow_session.info.path, threads=1) as model:
            model.forward([list(range(200))] * 4)
        done.set()

    thread = threading.Thread(target=compute)
    thread.start()
    while not done.wait(0.001):
        turns += 1
    thread.join()
    assert turns >= 20


# ------------------------------------------------------------------------------------------------------- fork


def test_a_forked_child_is_told_and_leaves_in_peace(tiny_model: Path) -> None:
    session = QwenInferenceSession(tiny_model)
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            try:
                session.generate("Hello")
            except QwenForkedError as error:
                os.write(write, str(error).encode())
                session.close()
                del session
                gc.collect()
                code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    os.close(write)
    assert b"process" in os.read(read, 1000)
    os.close(read)
    assert session.generate("Hello", max_tokens=2, ignore_eos=True).stats.generated_tokens == 2
    session.close()
