"""Messages go through the checkpoint's chat template; text goes in as it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qwen_ffi import Channel, QwenInferenceSession, QwenValueError, SamplingConfig

CONFIG = SamplingConfig(max_tokens=12, seed=4, ignore_eos=True)
USER = "<|im_start|>user\nHello<|im_end|>\n"
ASSISTANT = "<|im_start|>assistant\n"


@pytest.fixture
def chat(chat_model: Path) -> Iterator[QwenInferenceSession]:
    with QwenInferenceSession(chat_model) as session:
        yield session


def expected(session: QwenInferenceSession, text: str) -> list[int]:
    return session.generate_ids(session.tokenizer.encode(text), CONFIG)


def test_a_text_is_a_user_message_where_there_is_a_template(chat: QwenInferenceSession) -> None:
    answer = list(chat.generate("Hello", CONFIG).token_ids)
    assert chat.info.has_chat_template
    assert answer == expected(chat, USER + ASSISTANT)
    assert answer == list(chat.chat([{"role": "user", "content": "Hello"}], CONFIG).token_ids)
    assert answer == list(chat.generate([("user", "Hello")], CONFIG).token_ids)


def test_raw_text_goes_around_the_template(chat: QwenInferenceSession) -> None:
    assert list(chat.generate("Hello", CONFIG, raw=True).token_ids) == expected(chat, "Hello")


def test_a_system_prompt_comes_first_unless_the_conversation_has_one(chat: QwenInferenceSession) -> None:
    system = "<|im_start|>system\nBe brief<|im_end|>\n"
    chat.set_system_prompt("Be brief")
    assert list(chat.generate("Hello", CONFIG).token_ids) == expected(chat, system + USER + ASSISTANT)
    own: list[Any] = [("system", "Own"), ("user", "Hello")]
    assert list(chat.chat(own, CONFIG).token_ids) == expected(
        chat, system.replace("Be brief", "Own") + USER + ASSISTANT
    )
    chat.set_system_prompt(None)
    assert list(chat.generate("Hello", CONFIG).token_ids) == expected(chat, USER + ASSISTANT)


def test_reasoning_can_be_switched_off(chat: QwenInferenceSession) -> None:
    answer = chat.generate("Hello", CONFIG, reasoning_mode=False)
    assert list(answer.token_ids) == expected(chat, USER + ASSISTANT + "<think>\n\n</think>\n\n")


def test_what_the_model_thinks_is_a_channel_of_its_own(chat: QwenInferenceSession) -> None:
    """Biases that fall, and a penalty for what has been said: the model has to say these tokens in this order."""
    tokenizer = chat.tokenizer
    said = [
        tokenizer.token_id("<think>"),
        *tokenizer.encode("a"),
        tokenizer.token_id("</think>"),
        *tokenizer.encode("b"),
    ]
    assert None not in said
    bias = {token: 95.0 - 15 * place for place, token in enumerate(said) if token is not None}
    config = SamplingConfig(temperature=0, max_tokens=4, logit_bias=bias, presence_penalty=100, ignore_eos=True)
    answer = chat.generate("Hello", config)
    assert list(answer.token_ids) == said
    assert (answer.reasoning, answer.text) == ("a", "b")
    events = [(event.channel, event.text) for event in chat.stream("Hello", config) if event.text]
    assert events == [(Channel.REASONING, "a"), (Channel.ANSWER, "b")]


def test_a_conversation_that_the_template_refuses(chat: QwenInferenceSession) -> None:
    with pytest.raises(QwenValueError, match="at least one message"):
        chat.chat([])
    with pytest.raises(QwenValueError, match="at least one message"):
        chat.render([])
    with pytest.raises(QwenValueError):
        chat.chat([("", "x")])
