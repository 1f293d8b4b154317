"""The engine's promises, asked through the C interface itself: requests share steps without changing each other, the queue
wakes an event loop, destroy and fork end well."""

from __future__ import annotations

import os
import random
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from qwen_ffi._loader import check, library

DENSE = Path(__file__).resolve().parent.parent / "parity" / "data" / "qwen3_embedding"
SLIDING = DENSE.parent / "qwen2_sliding"
VOCABULARY = 456  # base tokens of the tiny tokenizer: all of them may stand in a prompt


def call(name: str, *arguments: Any) -> None:
    loaded = library()
    error = loaded.ffi.new("qwen_error **")
    check(getattr(loaded.lib, name)(*arguments, error), error)


def options(**values: Any) -> Any:
    loaded = library()
    box = loaded.ffi.new("qwen_options **")
    call("qwen_options_new", box)
    for key, value in values.items():
        kind = {int: "i64", float: "f64", str: "str"}[type(value)]
        raw = (value.encode(), len(value)) if kind == "str" else (value,)
        call(f"qwen_options_set_{kind}", box[0], key.encode(), *raw)
    return loaded.ffi.gc(box[0], loaded.lib.qwen_options_free)


@contextmanager
def engine(folder: Path = DENSE, **values: Any) -> Iterator[Any]:
    loaded = library()
    box = loaded.ffi.new("qwen_engine **")
    call("qwen_create", os.fsencode(folder), options(**values), box)
    try:
        yield box[0]
    finally:
        loaded.lib.qwen_destroy(box[0])


def new_queue() -> Any:
    loaded = library()
    box = loaded.ffi.new("qwen_queue **")
    call("qwen_queue_new", box)
    return loaded.ffi.gc(box[0], loaded.lib.qwen_queue_free)


def submit(target: Any, ids: list[int], queue: Any, tag: int, **values: Any) -> Any:
    loaded = library()
    prompt = loaded.ffi.new("qwen_prompt **")
    call("qwen_prompt_new", prompt)
    call("qwen_prompt_add_tokens", prompt[0], ids, len(ids))
    request = loaded.ffi.new("qwen_request **")
    try:
        call("qwen_submit", target, prompt[0], options(**values), queue, tag, request)
    finally:
        loaded.lib.qwen_prompt_free(prompt[0])
    return loaded.ffi.gc(request[0], loaded.lib.qwen_request_free)


def events(queue: Any, timeout_ms: int = 20_000) -> list[dict[str, Any]]:
    loaded = library()
    count = loaded.ffi.new("size_t *")
    call("qwen_queue_next", queue, timeout_ms, count)
    batch = []
    for index in range(count[0]):
        event = loaded.ffi.new("qwen_event *", {"struct_size": loaded.ffi.sizeof("qwen_event")})
        call("qwen_queue_event", queue, index, event)
        ids = [event.token_ids[i] for i in range(event.token_count)]
        logprobs = [event.logprobs[i] for i in range(event.token_count)] if event.logprobs else []
        batch.append({"type": event.type, "tag": event.tag, "ids": ids, "logprobs": logprobs, "status": event.status})
    return batch


def drain(queue: Any, requests: int) -> dict[int, dict[str, Any]]:
    """Every request's tokens and logprobs, by tag, until all are done."""
    lib = library().lib
    answers: dict[int, dict[str, Any]] = {}
    done = 0
    while done < requests:
        for event in events(queue):
            answer = answers.setdefault(event["tag"], {"ids": [], "logprobs": [], "status": None})
            answer["ids"] += event["ids"]
            answer["logprobs"] += event["logprobs"]
            if event["type"] == lib.QWEN_EVENT_DONE:
                answer["status"] = event["status"]
                done += 1
    return answers


def stats(target: Any) -> Any:
    loaded = library()
    filled = loaded.ffi.new("qwen_engine_stats *", {"struct_size": loaded.ffi.sizeof("qwen_engine_stats")})
    call("qwen_engine_stats_get", target, filled)
    return filled


def make_requests(count: int, seed: int) -> list[tuple[list[int], dict[str, Any]]]:
    chance = random.Random(seed)
    made = []
    for index in range(count):
        prompt = [chance.randrange(VOCABULARY) for _ in range(chance.choice([1, 7, 33, 100, 150]))]
        parameters = {"max_tokens": chance.choice([1, 5, 24]), "temperature": chance.choice([0.0, 0.8]), "seed": index}
        made.append((prompt, {**parameters, "logprobs": 1, "ignore_eos": 1}))
    return made


def run_all(target: Any, requests: list[tuple[list[int], dict[str, Any]]], together: bool) -> list[dict[str, Any]]:
    queue = new_queue()
    answers: dict[int, dict[str, Any]] = {}
    alive = []
    for tag, (prompt, parameters) in enumerate(requests):
        alive.append(submit(target, prompt, queue, tag, **parameters))
        if not together:
            answers |= drain(queue, 1)
    if together:
        answers = drain(queue, len(requests))
    assert all(answer["status"] == library().lib.QWEN_OK for answer in answers.values())
    return [answers[tag] for tag in range(len(requests))]


@pytest.mark.parametrize("folder", [DENSE, SLIDING], ids=lambda folder: folder.name)
@pytest.mark.parametrize("dtype", ["f32", "bf16"])
def test_tokens_and_logprobs_do_not_depend_on_load_chunks_threads_or_a_full_cache(folder: Path, dtype: str) -> None:
    requests = make_requests(12, seed=3)
    with engine(folder, dtype=dtype, threads=1) as alone:
        expected = run_all(alone, requests, together=False)
    layouts = [
        {"threads": 2, "max_batch_tokens": 512},
        {"threads": 3, "max_batch_tokens": 17},
        {"threads": 1, "max_batch_tokens": 1},
        {"threads": 2, "max_batch_tokens": 64, "max_running": 3},
    ]
    for layout in layouts:
        with engine(folder, dtype=dtype, **layout) as busy:
            assert run_all(busy, requests, together=True) == expected, layout
    with engine(folder, dtype=dtype) as probe:
        block_bytes = stats(probe).cache_bytes * (2 if folder == SLIDING else 1) // stats(probe).cache_blocks_total
    with engine(folder, dtype=dtype, kv_cache_bytes=8 * block_bytes) as tight:  # requests preempt each other
        assert run_all(tight, requests, together=True) == expected
        assert stats(tight).cache_blocks_used == 0


def test_the_environment_forces_an_instruction_set(monkeypatch: pytest.MonkeyPatch) -> None:
    ffi = library().ffi
    monkeypatch.setenv("QWEN_CPU_ISA", "portable")
    with engine() as target:
        assert ffi.string(stats(target).backend) == b"cpu.portable"
    monkeypatch.setenv("QWEN_CPU_ISA", "mmx")
    with pytest.raises(ValueError, match=r"QWEN_CPU_ISA.*'mmx'.*portable\|avx2\|avx512"), engine():
        pass


def test_requests_share_steps() -> None:
    with engine(threads=1) as target:
        queue = new_queue()
        alive = [submit(target, [1, 2, 3], queue, tag, max_tokens=50, ignore_eos=1) for tag in range(8)]
        drain(queue, len(alive))
        assert stats(target).steps < 8 * 50 / 2  # alone they would take 8 x 50
        assert stats(target).generated_tokens == 8 * 50
        assert stats(target).finished == 8


def test_one_file_descriptor_wakes_for_all_requests() -> None:
    with engine(threads=1) as target:
        queue = new_queue()
        descriptor = library().lib.qwen_queue_fd(queue)
        assert not select.select([descriptor], [], [], 0)[0]
        alive = [submit(target, [tag + 1], queue, tag, max_tokens=3, ignore_eos=1) for tag in range(20)]
        done = set()
        while len(done) < len(alive):
            assert select.select([descriptor], [], [], 20)[0]
            done |= {event["tag"] for event in events(queue, 0) if event["type"] == library().lib.QWEN_EVENT_DONE}
        assert not select.select([descriptor], [], [], 0)[0]


def test_a_cancelled_request_ends_and_the_others_go_on() -> None:
    lib = library().lib
    with engine(threads=1) as target:
        queue = new_queue()
        doomed = submit(target, [1, 2], queue, 1, ignore_eos=1, max_tokens=800)
        other = submit(target, [1, 2], queue, 2, ignore_eos=1, max_tokens=60)
        lib.qwen_request_cancel(doomed)
        lib.qwen_request_cancel(doomed)
        answers = drain(queue, 2)
        assert answers[1]["status"] == lib.QWEN_ERR_CANCELLED
        assert len(answers[1]["ids"]) < 800
        assert answers[2]["status"] == lib.QWEN_OK
        assert len(answers[2]["ids"]) == 60
        del other


def test_destroy_ends_requests_in_flight() -> None:
    lib = library().lib
    queue = new_queue()
    with engine(threads=1) as target:
        alive = [submit(target, [1], queue, tag, ignore_eos=1, max_tokens=800) for tag in range(4)]
    answers = drain(queue, 4)
    assert {answer["status"] for answer in answers.values()} == {lib.QWEN_ERR_CLOSED}
    del alive


def test_a_full_waiting_list_is_an_error_that_says_so() -> None:
    with engine(threads=1, max_running=1, max_waiting=1) as target:
        queue = new_queue()
        alive = []
        with pytest.raises(RuntimeError, match="max_waiting is 1"):
            for tag in range(50):
                alive.append(submit(target, [1], queue, tag, ignore_eos=1, max_tokens=800))


def test_a_forked_child_gets_an_error_and_the_parent_goes_on(child: dict[str, Any]) -> None:
    program = f"""
import os, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
import test_engine as t
from qwen_ffi import errors
from qwen_ffi._loader import library
with t.engine(threads=2) as target:
    queue = t.new_queue()
    child = os.fork()
    if child == 0:
        try:
            t.submit(target, [1], queue, 0, max_tokens=1)
        except errors.QwenForkedError as error:
            library().lib.qwen_destroy(target)
            os._exit(7 if "child" in str(error) else 8)
        os._exit(9)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    alive = t.submit(target, [1], queue, 0, max_tokens=2, ignore_eos=1)
    assert len(t.drain(queue, 1)[0]["ids"]) == 2
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60, **child)


def generate(target: Any, answer_of: Any, **values: Any) -> tuple[list[tuple[int, int]], dict[str, Any]]:
    """qwen_generate with a callback that answers `answer_of(events so far)`: the events and the outcome."""
    loaded = library()
    seen: list[tuple[int, int]] = []

    @loaded.ffi.callback("int32_t(const qwen_event *, void *)")
    def on_event(event: Any, user: Any) -> int:
        seen.append((event.type, event.finish_reason))
        return int(answer_of(len(seen)))

    prompt = loaded.ffi.new("qwen_prompt **")
    call("qwen_prompt_new", prompt)
    prompt = loaded.ffi.gc(prompt[0], loaded.lib.qwen_prompt_free)
    call("qwen_prompt_add_tokens", prompt, [1, 2, 3], 3)
    result = loaded.ffi.new("qwen_result **")
    call("qwen_generate", target, prompt, options(**values), on_event, loaded.ffi.NULL, result)
    kept = loaded.ffi.gc(result[0], loaded.lib.qwen_result_free)
    choice = loaded.ffi.new("qwen_choice *", {"struct_size": loaded.ffi.sizeof("qwen_choice")})
    call("qwen_result_choice_get", kept, 0, choice)
    return seen, {"tokens": choice.token_count, "finish_reason": choice.finish_reason}


def test_the_callback_decides_whether_generation_goes_on() -> None:
    lib = library().lib
    with engine(threads=1) as target:
        values = {"max_tokens": 400, "ignore_eos": 1}
        seen, outcome = generate(target, lambda count: 0, **values)
        assert outcome == {"tokens": 400, "finish_reason": lib.QWEN_FINISH_LENGTH}
        assert [kind for kind, _ in seen[-2:]] == [lib.QWEN_EVENT_FINISHED, lib.QWEN_EVENT_DONE]
        assert {kind for kind, _ in seen[:-2]} == {lib.QWEN_EVENT_TEXT}
        _, outcome = generate(target, lambda count: int(count == 3), **values)
        assert outcome["finish_reason"] == lib.QWEN_FINISH_STOP
        assert 3 <= outcome["tokens"] < 400
        with pytest.raises(RuntimeError, match="cancelled"):
            generate(target, lambda count: 2 * (count == 3), **values)
        with pytest.raises(RuntimeError, match="callback returned -7"):
            generate(target, lambda count: -7 * (count == 3), **values)
        assert stats(target).cache_blocks_used == 0


def test_the_log_goes_to_the_sink_and_nowhere_else(capfd: pytest.CaptureFixture[str]) -> None:
    loaded = library()
    lines: list[str] = []

    @loaded.ffi.callback("void(int32_t, const char *, size_t, void *)")
    def sink(level: int, message: Any, length: int, user: Any) -> None:
        lines.append(loaded.ffi.buffer(message, length)[:].decode())

    call("qwen_log_set", sink, loaded.ffi.NULL, loaded.lib.QWEN_LOG_INFO)
    try:
        with engine():
            assert any(DENSE.name in line and "opened" in line for line in lines)
    finally:
        call("qwen_log_set", loaded.ffi.NULL, loaded.ffi.NULL, 0)
    count = len(lines)
    with engine():
        assert len(lines) == count
    assert capfd.readouterr() == ("", "")


def run_with_bad_neighbours(target: Any, requests: list[tuple[list[int], dict[str, Any]]]) -> list[dict[str, Any]]:
    """The answers of good requests, while others are refused, fail in their callbacks, time out and are cancelled twice."""
    loaded = library()
    lib, queue = loaded.lib, new_queue()
    alive = [submit(target, prompt, queue, tag, **values) for tag, (prompt, values) in enumerate(requests)]
    for ids, values, message in [
        ([], {}, "the prompt is empty"),
        ([1] * 1000, {"max_tokens": 1 << 20}, "together they are limited to"),
        ([1], {"timeout_ms": 0}, "'timeout_ms' is 0"),
        ([1, 100_000], {}, "token 1 of the prompt is 100000"),
    ]:
        with pytest.raises(ValueError, match=message):
            submit(target, ids, queue, 99, **values)
    with pytest.raises(RuntimeError, match="callback returned -7"):
        generate(target, lambda count: -7 * (count == 3), max_tokens=400, ignore_eos=1)
    late = submit(target, [1], queue, 100, timeout_ms=1, max_tokens=900, ignore_eos=1)
    doomed = submit(target, [2], queue, 101, max_tokens=900, ignore_eos=1)
    lib.qwen_request_cancel(doomed)
    lib.qwen_request_cancel(doomed)
    dropped = submit(target, [3], queue, 102, max_tokens=900, ignore_eos=1)
    loaded.ffi.release(dropped)  # freed while it runs
    answers = drain(queue, len(requests) + 2)
    assert answers[100]["status"] == lib.QWEN_ERR_TIMEOUT
    assert answers[101]["status"] == lib.QWEN_ERR_CANCELLED
    assert 102 not in answers or answers[102]["status"] is None
    del alive, late
    return [answers[tag] for tag in range(len(requests))]


def test_what_goes_wrong_with_one_request_is_not_felt_by_the_others() -> None:
    requests = [(prompt, {**values, "max_tokens": 100}) for prompt, values in make_requests(10, seed=5)]
    with engine(threads=1) as alone:
        expected = run_all(alone, requests, together=False)
    with engine(threads=2) as busy:
        assert run_with_bad_neighbours(busy, requests) == [{**answer, "status": 0} for answer in expected]
        call("qwen_engine_drain", busy, -1)
        assert stats(busy).cache_blocks_used == 0


def test_a_python_callback_that_raises_ends_its_own_request(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = library()
    seen: list[str] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda report: seen.append(str(report.exc_value)))

    @loaded.ffi.callback("int32_t(const qwen_event *, void *)", error=-1)
    def on_event(event: Any, user: Any) -> int:
        raise KeyError("a mistake of the host")

    requests = make_requests(4, seed=6)
    with engine(threads=1) as target:
        expected = run_all(target, requests, together=False)
        queue = new_queue()
        alive = [submit(target, prompt, queue, tag, **values) for tag, (prompt, values) in enumerate(requests)]
        prompt = loaded.ffi.new("qwen_prompt **")
        call("qwen_prompt_new", prompt)
        prompt = loaded.ffi.gc(prompt[0], loaded.lib.qwen_prompt_free)
        call("qwen_prompt_add_tokens", prompt, [1, 2, 3], 3)
        null = loaded.ffi.NULL
        with pytest.raises(RuntimeError, match="callback returned -1"):
            call("qwen_generate", target, prompt, options(ignore_eos=1), on_event, null, null)
        answers = drain(queue, len(alive))
    assert [answers[tag] for tag in range(len(requests))] == expected
    assert seen == ["'a mistake of the host'"]


@contextmanager
def opened_model(folder: Path) -> Iterator[Any]:
    loaded = library()
    box = loaded.ffi.new("qwen_model **")
    call("qwen_model_open", os.fsencode(folder), loaded.ffi.NULL, box)
    try:
        yield box[0]
    finally:
        loaded.lib.qwen_model_free(box[0])


def mappings_of(file: Path) -> list[str]:
    lines = Path("/proc/self/maps").read_text().splitlines()
    return [line for line in lines if line.endswith(str(file))]


def own_memory() -> int:
    """Bytes of memory that are this process's alone."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def test_engines_on_one_model_share_its_weights(slow_model: Path) -> None:
    loaded = library()
    weights = slow_model / "model.safetensors"
    before = len(mappings_of(weights))  # of sessions that other tests have open
    requests = [([1, 2, 3, 4], {"max_tokens": 6, "temperature": 0.7, "seed": 3, "logprobs": 1, "ignore_eos": 1})]
    with opened_model(slow_model) as model:
        engines = []
        for _ in range(4):
            box = loaded.ffi.new("qwen_engine **")
            call("qwen_engine_new", model, options(threads=1, kv_cache_bytes=1 << 20), box)
            engines.append(box[0])
        expected = run_all(engines[0], requests, together=False)
        memory = own_memory()
        assert run_all(engines[1], requests, together=False) == expected
        assert own_memory() - memory < weights.stat().st_size / 4  # its cache and its workspace
        assert len(mappings_of(weights)) == before + 1
        queue = new_queue()
        running = submit(engines[2], [1, 2, 3, 4], queue, 0, **requests[0][1])
        loaded.lib.qwen_destroy(engines[0])
        loaded.lib.qwen_destroy(engines[1])
        assert drain(queue, 1) == {0: expected[0]}
        del running
    # The model's own handle is gone; what is left of its engines keeps it.
    assert run_all(engines[3], requests, together=False) == expected
    loaded.lib.qwen_destroy(engines[2])
    loaded.lib.qwen_destroy(engines[3])
    assert len(mappings_of(weights)) == before


def test_several_models_in_one_process_do_not_notice_each_other() -> None:
    requests = make_requests(6, seed=8)
    expected = {}
    for folder in (DENSE, SLIDING):
        with engine(folder, threads=1) as alone:
            expected[folder] = run_all(alone, requests, together=False)
    assert expected[DENSE] != expected[SLIDING]
    with engine(DENSE, threads=2) as one, engine(SLIDING, threads=2) as other:
        queues = [new_queue(), new_queue()]
        alive = [
            submit(target, prompt, queue, tag, **values)
            for tag, (prompt, values) in enumerate(requests)
            for target, queue in zip((one, other), queues, strict=True)
        ]
        for folder, queue in zip((DENSE, SLIDING), queues, strict=True):
            answers = drain(queue, len(requests))
            assert [answers[tag] for tag in range(len(requests))] == expected[folder]
        del alive
