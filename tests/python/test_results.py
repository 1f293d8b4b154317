"""What comes back: n answers, stop texts, the likeliest tokens, tool calls; whole, in pieces, and the same by both."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qwen_ffi import (
    Channel,
    FinishReason,
    GenerationResult,
    QwenFileFormatError,
    QwenInferenceSession,
    SamplingConfig,
    StreamEvent,
    ToolCall,
)

TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Tells the weather.",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}},
        },
    }
]


@pytest.fixture(scope="module")
def caller(calling_model: Path) -> Iterator[QwenInferenceSession]:
    with QwenInferenceSession(calling_model) as session:
        yield session


def gathered(events: list[StreamEvent], choice: int = 0) -> dict[str, Any]:
    """What the events of one choice add up to."""
    mine = [event for event in events if event.choice == choice]
    return {
        "text": "".join(event.text for event in mine if event.channel is Channel.ANSWER),
        "reasoning": "".join(event.text for event in mine if event.channel is Channel.REASONING),
        "token_ids": tuple(token for event in mine for token in event.token_ids),
        "logprobs": tuple(value for event in mine for value in event.logprobs or ()) or None,
        "top_logprobs": tuple(top for event in mine for top in event.top_logprobs or ()) or None,
        "tool_calls": tuple(event.tool_call for event in mine if event.tool_call),
        "finish_reason": mine[-1].finish_reason,
    }


def summed(result: GenerationResult, choice: int = 0) -> dict[str, Any]:
    found = result.choices[choice]
    return {name: getattr(found, name) for name in gathered([StreamEvent("")])}


# ------------------------------------------------------------------------------------------------------- tools


def test_a_tool_call_is_no_text(caller: QwenInferenceSession) -> None:
    result = caller.generate("Rome?", tools=TOOLS)
    assert (result.reasoning, result.text) == ("Let me see.", "I will look.")
    assert result.finish_reason is FinishReason.STOP
    (call,) = result.tool_calls
    assert call.name == "weather"
    assert call.parsed_arguments == {"city": "Rome", "days": 2}
    assert str(result.choices[0]) == str(result) == result.text


def test_a_stream_has_the_call_where_the_model_made_it(caller: QwenInferenceSession) -> None:
    result = caller.generate("Rome?", tools=TOOLS, top_logprobs=2)
    with caller.stream("Rome?", tools=TOOLS, top_logprobs=2) as stream:
        events = list(stream)
    assert gathered(events) == summed(result)
    assert stream.result.choices == result.choices
    (event,) = [event for event in events if event.tool_call]
    assert event.text == ""


def test_without_tools_a_call_is_text(caller: QwenInferenceSession) -> None:
    result = caller.generate("Rome?")
    assert result.tool_calls == ()
    assert result.text.startswith("I will look.<tool_call>")


def test_arguments_that_are_no_object() -> None:
    for text in ("{", "[1]", ""):
        with pytest.raises(QwenFileFormatError, match="'weather'"):
            _ = ToolCall("weather", text).parsed_arguments


def test_tools_reach_the_template(caller: QwenInferenceSession) -> None:
    assert '"Tells the weather."' in caller.render("Rome?", tools=TOOLS)
    assert caller.render("Rome?", tools=[]) == caller.render("Rome?")


# ------------------------------------------------------------------------------------------------------- stop texts


def test_a_stop_text_ends_the_answer_and_is_named(caller: QwenInferenceSession) -> None:
    free = caller.generate("Rome?", tools=TOOLS)
    assert free.stop_text is None
    for stop in ("look", ["nothing", "look"]):
        result = caller.generate("Rome?", tools=TOOLS, stop=stop)
        assert (result.text, result.stop_text) == ("I will ", "look")
        assert result.finish_reason is FinishReason.STOP
        assert result.tool_calls == ()


# ------------------------------------------------------------------------------------------------------- thinking


def test_a_thought_beyond_its_budget_is_ended(caller: QwenInferenceSession) -> None:
    free = caller.generate("Rome?", tools=TOOLS)
    cut = caller.generate("Rome?", tools=TOOLS, reasoning_budget=2, reasoning_end_text=" Enough.", max_tokens=40)
    assert free.reasoning == "Let me see."
    assert cut.reasoning.startswith("Let me Enough.")


# ------------------------------------------------------------------------------------------------------- n


def test_n_answers_differ_and_repeat_with_the_seed(session: QwenInferenceSession) -> None:
    config = SamplingConfig(max_tokens=10, seed=7, ignore_eos=True, n=3)
    first, second = session.generate("Hello", config), session.generate("Hello", config)
    assert first.choices == second.choices
    assert len({choice.token_ids for choice in first.choices}) == 3
    assert first.token_ids == first.choices[0].token_ids
    assert first.stats.generated_tokens == 30
    assert first.stats.prompt_tokens == len(session.tokenizer.encode("Hello"))


def test_a_stream_of_n_answers_tells_them_apart(session: QwenInferenceSession) -> None:
    config = SamplingConfig(max_tokens=10, seed=7, ignore_eos=True, n=3, logprobs=True)
    with session.stream("Hello", config) as stream:
        events = list(stream)
    assert {event.choice for event in events} == {0, 1, 2}
    for choice in range(3):
        assert gathered(events, choice) == summed(stream.result, choice)


# ------------------------------------------------------------------------------------------------------- logprobs


def test_the_likeliest_tokens_are_in_order_and_hold_the_chosen_one(session: QwenInferenceSession) -> None:
    result = session.generate("Hello", temperature=0, max_tokens=5, ignore_eos=True, top_logprobs=4)
    assert result.logprobs is not None
    assert result.top_logprobs is not None
    assert len(result.top_logprobs) == len(result.logprobs) == 5
    for token, logprob, top in zip(result.token_ids, result.logprobs, result.top_logprobs, strict=True):
        assert len(top) == 4
        assert top[0] == (token, pytest.approx(logprob))
        values = [value for _, value in top]
        assert values == sorted(values, reverse=True)
        assert sum(map(math.exp, values)) < 1.0001


def test_logprobs_are_there_when_asked_for(session: QwenInferenceSession) -> None:
    result = session.generate("Hello", max_tokens=3)
    assert result.logprobs is None
    assert result.top_logprobs is None
    result = session.generate("Hello", max_tokens=3, logprobs=True)
    assert result.logprobs is not None
    assert result.top_logprobs is None


def test_the_prompts_own_logprobs_are_those_of_a_forward_pass(tiny_model: Path) -> None:
    ids = [5, 6, 7, 8, 9]
    with QwenInferenceSession(tiny_model, dtype="f32") as session:
        found = session.complete_ids(ids, max_tokens=1, prompt_logprobs=True).prompt_logprobs
        assert session.complete_ids(ids, max_tokens=1).prompt_logprobs is None
        logits = session.run(None, {"input_ids": [ids]})[0][0].astype("float64")
    assert found is not None
    assert len(found) == len(ids)
    assert found[0] == 0
    for place in range(1, len(ids)):
        row = logits[place - 1]
        expected = row[ids[place]] - row.max() - math.log(sum(math.exp(value) for value in row - row.max()))
        assert found[place] == pytest.approx(expected, abs=1e-4)


def test_times_between_tokens_are_in_order(session: QwenInferenceSession) -> None:
    stats = session.generate("Hello", max_tokens=20, ignore_eos=True).stats
    assert 0 < stats.inter_token_p50_seconds <= stats.inter_token_p99_seconds <= stats.inter_token_max_seconds
    assert session.generate("Hello", max_tokens=1).stats.inter_token_max_seconds == 0


def test_what_was_computed_before_is_counted_as_cached(tiny_model: Path) -> None:
    with QwenInferenceSession(tiny_model) as session:
        for expected in (0, None):
            stats = session.generate("x" * 500, max_tokens=2).stats
            assert stats.cached_tokens == expected or stats.cached_tokens > 0
        assert session.stats().cached_tokens == stats.cached_tokens > 0
