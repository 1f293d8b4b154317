"""Qwen(path): text in, text out, and OpenAI's chat.completion objects."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from qwen_ffi import Qwen, QwenClosedError, QwenInferenceSession, QwenNotFoundError, QwenValueError

TOOLS: list[dict[str, Any]] = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
MESSAGES: list[dict[str, Any]] = [{"role": "user", "content": "Rome?"}]


@pytest.fixture(scope="module")
def qwen(calling_model: Path) -> Iterator[Qwen]:
    with Qwen(calling_model) as opened:
        yield opened


def test_generate_is_the_sessions_text(qwen: Qwen, calling_model: Path) -> None:
    with QwenInferenceSession(calling_model) as session:
        assert qwen.generate("Rome?", max_tokens=7) == session.generate("Rome?", max_tokens=7).text


def test_a_completion_has_the_members_that_clients_read(qwen: Qwen, calling_model: Path) -> None:
    answer = qwen.chat_completion(MESSAGES, stop="<tool_call>")
    assert answer["object"] == "chat.completion"
    assert answer["id"].startswith("chatcmpl-")
    assert abs(answer["created"] - time.time()) < 60
    assert answer["model"] == calling_model.name
    usage = answer["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    assert usage["prompt_tokens"] > 0 < usage["completion_tokens"]
    assert usage["prompt_tokens_details"]["cached_tokens"] >= 0
    assert answer["choices"] == [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "I will look.",
                "reasoning_content": "Let me see.",
                "tool_calls": None,
            },
            "finish_reason": "stop",
            "logprobs": None,
        }
    ]
    assert json.loads(json.dumps(answer)) == answer
    assert qwen.chat_completion(MESSAGES, max_tokens=2)["choices"][0]["finish_reason"] == "length"


def test_tool_calls_can_be_answered(qwen: Qwen) -> None:
    choice = qwen.chat_completion(MESSAGES, tools=TOOLS)["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    message = choice["message"]
    (call,) = message["tool_calls"]
    assert call["type"] == "function"
    assert call["id"].startswith("call_")
    assert call["function"]["name"] == "weather"
    assert json.loads(call["function"]["arguments"]) == {"city": "Rome", "days": 2}
    # What came out goes in again, as in every example of tool use.
    further = [*MESSAGES, message, {"role": "tool", "content": "sunny", "tool_call_id": call["id"]}]
    assert qwen.chat_completion(further, tools=TOOLS)["choices"][0]["finish_reason"] == "tool_calls"


def test_logprobs_are_per_token(qwen: Qwen) -> None:
    choice = qwen.chat_completion(MESSAGES, logprobs=True, top_logprobs=2, max_tokens=4)["choices"][0]
    content = choice["logprobs"]["content"]
    assert len(content) == 4
    assert content[0]["token"] == "<think>"
    assert "<think>Let me see.".startswith("".join(entry["token"] for entry in content)[:18])
    for entry in content:
        assert bytes(entry["bytes"]).decode() == entry["token"]
        assert math.exp(entry["logprob"]) > 0.99
        assert len(entry["top_logprobs"]) == 2
        assert {**entry["top_logprobs"][0], "top_logprobs": entry["top_logprobs"]} == entry
    assert (
        qwen.chat_completion(MESSAGES, logprobs=True, max_tokens=1)["choices"][0]["logprobs"]["content"][0][
            "top_logprobs"
        ]
        == []
    )


def test_n_choices(qwen: Qwen) -> None:
    answer = qwen.chat_completion(MESSAGES, n=3, max_tokens=5)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    assert answer["usage"]["completion_tokens"] == 15


def test_a_tokenizer_of_its_own(calling_model: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    bare.mkdir()
    for name in ("config.json", "model.safetensors", "generation_config.json"):
        shutil.copy(calling_model / name, bare)
    with Qwen(bare, calling_model) as qwen:
        assert qwen.chat_completion(MESSAGES, TOOLS)["choices"][0]["message"]["content"] == "I will look."
    with Qwen(bare, tokenizer_path=calling_model / "tokenizer.json", threads=1) as qwen:
        assert qwen.session.stats().threads == 1
        assert qwen.session.tokenizer.encode("Hello")
    with pytest.raises(QwenNotFoundError, match="nowhere"):
        Qwen(bare, tmp_path / "nowhere")


def test_what_is_wrong_is_named(qwen: Qwen, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        Qwen(tmp_path / "nowhere")
    with pytest.raises(QwenValueError, match="message 0: unknown role"):
        qwen.chat_completion([("nobody", "x")])
    with pytest.raises(TypeError, match="list of messages"):
        qwen.chat_completion("Hello")  # type: ignore[arg-type]
    with pytest.raises(QwenValueError, match="max_completion_tokens"):
        qwen.chat_completion(MESSAGES, max_completion_tokens=5)


def test_closed(calling_model: Path) -> None:
    qwen = Qwen(calling_model)
    qwen.close()
    qwen.close()
    with pytest.raises(QwenClosedError):
        qwen.generate("x")
    with pytest.raises(QwenClosedError):
        qwen.chat_completion(MESSAGES)
