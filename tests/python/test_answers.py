"""What an answer is made of: thoughts, tool calls, choices, stop texts, log-probabilities; and what it must not depend on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from qwen_ffi import Channel, FinishReason, QwenInferenceSession, QwenUnsupportedError, QwenValueError, SamplingConfig

from .conftest import CHAT_TEMPLATE
from .scripted import make_scripted_model

# So that draws differ: the demo model's generation_config.json is a careful one.
WILD = SamplingConfig(temperature=2.0, top_k=0, top_p=1.0, max_tokens=30)

Says = Callable[..., QwenInferenceSession]

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "add",
            "description": "Adds.",
            "parameters": {"type": "object", "properties": {"x": {"type": "integer"}, "why": {"type": "string"}}},
        },
    }
]
JSON_CALL = '<tool_call>\n{"name": "add", "arguments": {"x": 17, "why": "sum"}}\n</tool_call>'
XML_CALL = (
    "<tool_call>\n<function=add>\n<parameter=x>\n17\n</parameter>\n<parameter=why>\nsum\n</parameter>\n"
    "</function>\n</tool_call>"
)


@pytest.fixture
def says(tmp_path: Path) -> Iterator[Says]:
    """Opens a model that says what it is told."""
    opened: list[QwenInferenceSession] = []
    number = count()

    def open_model(script: str) -> QwenInferenceSession:
        opened.append(
            QwenInferenceSession(make_scripted_model(tmp_path / str(next(number)), script, CHAT_TEMPLATE), dtype="f32")
        )
        return opened[-1]

    yield open_model
    for session in opened:
        session.close()


@pytest.mark.parametrize("call", [JSON_CALL, XML_CALL], ids=["json", "xml"])
def test_a_tool_call_is_a_structured_result_and_its_text_is_nowhere(says: Says, call: str) -> None:
    session = says(f"<think>\nI need a sum.\n</think>\n\nOne moment.\n{call}")
    result = session.generate("17?", tools=TOOLS)
    assert (result.reasoning, result.text) == ("I need a sum.", "One moment.")
    assert [(found.name, json.loads(found.arguments)) for found in result.tool_calls] == [
        ("add", {"x": 17, "why": "sum"})
    ]
    assert result.finish_reason == FinishReason.STOP

    events = list(session.stream("17?", tools=TOOLS))
    assert "".join(event.text for event in events if event.channel == Channel.ANSWER) == "One moment."
    assert [event.tool_call for event in events if event.tool_call] == list(result.tool_calls)
    assert [token for event in events for token in event.token_ids] == list(result.token_ids)


def test_without_tools_a_tool_call_is_text(says: Says) -> None:
    result = says(JSON_CALL).generate("17?")
    assert (result.text, result.tool_calls) == (JSON_CALL, ())


def test_a_broken_tool_call_is_given_back_as_text(says: Says) -> None:
    broken = '<tool_call>\n{"name": "add", "arguments": {"x": \n</tool_call>'
    result = says(broken).generate("17?", tools=TOOLS)
    assert (result.text, result.tool_calls) == (broken, ())


def test_the_conversation_goes_on_with_the_tools_answer(says: Says) -> None:
    session = says(JSON_CALL)
    call = session.generate("17?", tools=TOOLS).tool_calls[0]
    messages = [
        {"role": "user", "content": "17?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"id": "1", "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            ],
        },
        {"role": "tool", "tool_call_id": "1", "content": "42"},
    ]
    # The template joins every message's content, and None, as clients of OpenAI send it, is no text.
    assert session.render(messages, tools=TOOLS).endswith("<|im_start|>tool\n42<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.parametrize(
    ("stop", "text", "matched"),
    [
        (["said"], "What I ", "said"),
        (["id enough"], "What I sa", "id enough"),
        (["never", "enough"], "What I said ", "enough"),
        (["nowhere"], "What I said enough of.", None),
        (["hat I said enough of"], "W", "hat I said enough of"),
    ],
)
def test_a_stop_text_ends_the_answer_wherever_tokens_end(
    says: Says, stop: list[str], text: str, matched: str | None
) -> None:
    session = says("<think>\nI said enough.\n</think>\n\nWhat I said enough of.")
    result = session.generate("Hm?", stop=stop)
    assert (result.reasoning, result.text) == ("I said enough.", text)  # the thought does not count
    assert (result.choices[0].stop_text, result.finish_reason) == (matched, FinishReason.STOP)
    streamed = "".join(str(e) for e in session.stream("Hm?", stop=stop) if e.channel == Channel.ANSWER)
    assert streamed == text


def test_stop_texts_do_not_count_before_min_tokens(says: Says) -> None:
    session = says("aaa bbb ccc aaa! ddd eee.")
    assert session.generate("Hm?", stop=["aaa"]).text == ""
    assert session.generate("Hm?", stop=["aaa"], min_tokens=2).text == "aaa bbb ccc "


def test_a_thought_ends_when_its_budget_is_used_up(demo_session: QwenInferenceSession) -> None:
    question = "What is 348 + 275?"
    free = demo_session.generate(question, reasoning_mode=True, temperature=0)
    short = demo_session.generate(question, reasoning_mode=True, temperature=0, reasoning_budget=20)
    assert short.reasoning.endswith("I have to give the solution based on the thinking directly now.")
    assert short.reasoning.split("\n\n")[0] == free.reasoning[: len(short.reasoning.split("\n\n")[0])]
    assert short.text
    own = demo_session.generate(
        question, reasoning_mode=True, temperature=0, reasoning_budget=0, reasoning_end_text="No time."
    )
    assert own.reasoning == "No time."
    generous = demo_session.generate(question, reasoning_mode=True, temperature=0, reasoning_budget=1000)
    assert generous.token_ids == free.token_ids


def test_no_second_thought_begins_when_the_budget_is_used_up(says: Says) -> None:
    session = says("<think>\nLong thought of things.\n</think>\n\nAnswer text.")
    assert session.generate("Hm?").reasoning == "Long thought of things."
    # This model says <think> after every prompt's last line break, so behind the forced end too.
    short = session.generate("Hm?", reasoning_budget=4, reasoning_end_text=" END", max_tokens=60)
    assert short.reasoning == "Long though END"
    assert "<think>" not in short.text


def test_a_broken_template_leaves_raw_prompts_alone(says: Says, tmp_path: Path) -> None:
    folder = make_scripted_model(tmp_path / "broken", "Fine.", "{% import 'x' as y %}")
    with QwenInferenceSession(folder) as session:
        assert session.info.has_chat_template
        assert session.generate("<|im_start|>assistant\n", raw=True).text == "Fine."
        with pytest.raises(QwenUnsupportedError, match="import"):
            session.generate("Hello")


def test_a_system_prompt_needs_a_template(session: QwenInferenceSession) -> None:
    with pytest.raises(QwenUnsupportedError, match="needs a chat template"):
        session.set_system_prompt("Be brief.")
    session.set_system_prompt(None)


def test_choices_differ_and_the_seed_repeats_them(demo_session: QwenInferenceSession) -> None:
    def draw(seed: int) -> list[tuple[int, ...]]:
        result = demo_session.generate("Tell me something.", WILD, seed=seed, n=4, logprobs=True)
        assert result.stats.generated_tokens == sum(len(choice.token_ids) for choice in result.choices)
        assert [len(choice.logprobs or ()) for choice in result.choices] == [len(c.token_ids) for c in result.choices]
        return [choice.token_ids for choice in result.choices]

    first = draw(7)
    assert len(set(first)) == 4
    assert draw(7) == first
    assert draw(8) != first
    alone = demo_session.generate("Tell me something.", WILD, seed=7)
    assert alone.token_ids == first[0]


def test_the_choices_of_a_stream_are_told_apart(demo_session: QwenInferenceSession) -> None:
    texts = ["", "", ""]
    ended = []
    with demo_session.stream("Tell me something.", WILD, seed=7, n=3) as stream:
        for event in stream:
            texts[event.choice] += event.text if event.channel == Channel.ANSWER else ""
            if event.finish_reason:
                ended.append(event.choice)
        assert [choice.text for choice in stream.result.choices] == texts
    assert sorted(ended) == [0, 1, 2]


def test_top_logprobs_come_for_every_token(demo_session: QwenInferenceSession) -> None:
    result = demo_session.generate("What is 2 + 3?", temperature=0, top_logprobs=3)
    assert result.logprobs is not None
    assert result.top_logprobs is not None
    assert len(result.top_logprobs) == len(result.token_ids)
    for token, logprob, top in zip(result.token_ids, result.logprobs, result.top_logprobs, strict=True):
        assert len(top) == 3
        assert top[0] == (token, logprob)  # greedy: the likeliest one was taken
        assert [value for _, value in top] == sorted((value for _, value in top), reverse=True)
    events = list(demo_session.stream("What is 2 + 3?", temperature=0, top_logprobs=3))
    assert tuple(top for event in events for top in event.top_logprobs or ()) == result.top_logprobs


def test_the_prefix_cache_changes_no_bit(demo_model: Path) -> None:
    """Greedy and drawn answers with their log-probabilities: cold, from the cache, and without a cache; long prompts."""
    story = "What is 17 + 25? " * 30
    prompts = [story[:length] for length in (40, 200, 201, 333, 500, 333, 500, 202)] + [story + "And 3 + 4?"]

    def answers(session: QwenInferenceSession, batch: bool) -> list[tuple[tuple[int, ...], tuple[float, ...] | None]]:
        options = {"max_tokens": 40, "temperature": 0.7, "seed": 5, "logprobs": True}
        if batch:
            results = session.generate_batch(prompts, **options)
        else:
            results = [session.generate(prompt, **options) for prompt in prompts]
        return [(result.token_ids, result.logprobs) for result in results]

    with QwenInferenceSession(demo_model, prefix_cache=0) as session:
        expected = answers(session, False)
        assert session.stats().cached_tokens == 0
    for room in (None, 2**21):  # much, and so little that blocks are taken back and forth
        with QwenInferenceSession(demo_model, kv_cache_bytes=room, max_batch_tokens=50) as session:
            for batch in (False, True, False, True):
                assert answers(session, batch) == expected
            assert session.stats().cached_tokens > 0
            assert session.stats().cache_blocks_used == 0


def test_a_growing_conversation_costs_its_new_tokens_only(demo_session: QwenInferenceSession) -> None:
    ids = demo_session.encode_prompt("What is 17 + 25?")
    for _ in range(3):
        result = demo_session.complete_ids(ids, temperature=0, max_tokens=50)
        ids = [*ids, *result.token_ids, *demo_session.encode_prompt("And 3 + 4?")]
        known = result.stats.prompt_tokens + result.stats.generated_tokens - 1  # the last token was never computed
        assert demo_session.complete_ids(ids, max_tokens=1).stats.cached_tokens == known


def test_async_answers_have_tool_calls_and_choices_too(says: Says) -> None:
    session = says(JSON_CALL)

    async def ask() -> None:
        result = await session.agenerate("17?", tools=TOOLS, n=2)
        assert [len(choice.tool_calls) for choice in result.choices] == [1, 1]

    asyncio.run(ask())


def test_a_stopped_stream_keeps_what_it_has(slow_session: QwenInferenceSession) -> None:
    with slow_session.stream_ids([5, 6], max_tokens=30000, ignore_eos=True) as stream:
        seen = [token for _, event in zip(range(5), stream, strict=False) for token in event.token_ids]
        stream.stop()
        seen += [token for event in stream for token in event.token_ids]
        assert list(stream.result.token_ids) == seen
        assert 5 <= len(seen) < 100
        assert stream.result.finish_reason == FinishReason.STOP


BAD = [
    ({"n": 0}, "option 'n' is 0; allowed are 1 to 128"),
    ({"n": 129}, "option 'n'"),
    ({"top_logprobs": 21}, "option 'top_logprobs' is 21; allowed are 0 to 20"),
    ({"stop": [""]}, "option 'stop' holds an empty text"),
    ({"stop": ["ok", ""]}, "option 'stop' holds an empty text"),
    ({"stop_token_ids": [10**6]}, "option 'stop_token_ids' holds token 1000000"),
    ({"logit_bias": {10**6: 1.0}}, "option 'logit_bias' holds token 1000000"),
    ({"reasoning_budget": -1}, "option 'reasoning_budget' is -1"),
    ({"seed": -1}, "option 'seed' is -1"),
    ({"seed": 2**60}, "option 'seed'"),
    ({"tools": [{"description": "nameless"}]}, 'tool 0 must be {"type": "function"'),
    ({"template_variables": ["a"]}, "template_variables"),
]


@pytest.mark.parametrize(("options", "message"), BAD, ids=lambda value: str(value)[:40])
def test_bad_parameters_are_refused_by_name(
    demo_session: QwenInferenceSession, options: dict[str, object], message: str
) -> None:
    with pytest.raises((QwenValueError, TypeError)) as failure:
        demo_session.generate("Hello", **options)  # type: ignore[arg-type]
    assert message in str(failure.value)


def test_a_budget_needs_a_thought(demo_session: QwenInferenceSession, session: QwenInferenceSession) -> None:
    with pytest.raises(QwenValueError, match="needs a prompt of messages, or split_reasoning"):
        demo_session.generate("Hello", raw=True, reasoning_budget=5)


def test_a_prompt_that_the_host_has_rendered_is_split_on_demand(demo_session: QwenInferenceSession) -> None:
    question = "What is 348 + 275?"
    as_chat = demo_session.generate(question, temperature=0, reasoning_mode=True)
    rendered = demo_session.render(question, reasoning_mode=True)
    assert "<think>" in demo_session.generate(rendered, raw=True, temperature=0).text
    split = demo_session.generate(rendered, raw=True, temperature=0, split_reasoning=True)
    assert (split.reasoning, split.text) == (as_chat.reasoning, as_chat.text)
    ids = demo_session.complete_ids(
        demo_session.encode_prompt(question, reasoning_mode=True), temperature=0, split_reasoning=True
    )
    assert ids.reasoning == as_chat.reasoning
    unsplit = demo_session.generate(question, temperature=0, reasoning_mode=True, split_reasoning=False)
    assert unsplit.token_ids == as_chat.token_ids
    assert unsplit.reasoning == ""


BAD_MESSAGES = [
    ([{"role": "emperor", "content": "x"}], "message 0: unknown role 'emperor'"),
    ([{"role": "user"}], 'message 0: needs a "content"'),
    ([{"role": "user", "content": "a"}, {"content": "x"}], 'message 1: needs a "role"'),
    ([{"role": "user", "content": 5}], "content must be a text or a list of parts"),
    ([{"role": "user", "content": [{"type": "text"}]}], 'a text part needs its "text"'),
    ([{"role": "assistant", "tool_calls": [{"function": {}}]}], "a tool call needs its function's name"),
    ([{"role": "assistant", "tool_calls": [{"name": "f", "arguments": "[1]"}]}], "must be an object"),
    ([{"role": "assistant", "tool_calls": [{"name": "f", "arguments": "{"}]}], "the arguments of tool call 'f'"),
]


@pytest.mark.parametrize(("messages", "message"), BAD_MESSAGES, ids=lambda value: str(value)[:40])
def test_bad_messages_are_refused_by_number(
    demo_session: QwenInferenceSession, messages: list[dict[str, object]], message: str
) -> None:
    with pytest.raises(QwenValueError) as failure:
        demo_session.chat(messages)
    assert message in str(failure.value)


def test_images_are_refused_until_there_are_eyes(demo_session: QwenInferenceSession) -> None:
    with pytest.raises(QwenUnsupportedError, match="part of type 'image_url'"):
        demo_session.chat([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}])


def test_text_parts_and_null_members_are_what_openai_clients_send(demo_session: QwenInferenceSession) -> None:
    parts = [{"type": "text", "text": "What is "}, {"type": "text", "text": "2 + 3?"}]
    assert demo_session.render([{"role": "user", "content": parts, "name": None}]) == demo_session.render(
        "What is 2 + 3?"
    )
