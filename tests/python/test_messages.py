"""Conversations: OpenAI's dicts with every key of theirs, tools, variables, and a look at what the model is given."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from qwen_ffi import QwenClosedError, QwenError, QwenInferenceSession, QwenUnsupportedError, QwenValueError

# Shows all it is given.
TEMPLATE = (
    "{% for m in messages %}[{{ m | tojson }}]{% endfor %}"
    "{% if tools %} tools={{ tools | tojson }}{% endif %}"
    "{% if flavour is defined %} flavour={{ flavour | tojson }}{% endif %}"
    "{% if enable_thinking is defined %} thinking={{ enable_thinking }}{% endif %}"
    "{% if add_generation_prompt %} assistant:{% endif %}"
)
TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}


@pytest.fixture(scope="module")
def shown(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[QwenInferenceSession]:
    folder = tmp_path_factory.mktemp("models") / "shown"
    shutil.copytree(tiny_model, folder)
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    with QwenInferenceSession(folder) as session:
        yield session


def messages_of(session: QwenInferenceSession, prompt: Any, **values: Any) -> list[Any]:
    text = session.render(prompt, **values)
    return [
        json.loads(part) for part in text.removesuffix(" assistant:").removeprefix("[").removesuffix("]").split("][")
    ]


def test_every_key_of_a_message_reaches_the_template(shown: QwenInferenceSession) -> None:
    conversation: list[Any] = [
        {"role": "system", "content": "Be brief.", "name": "rule"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {
            "role": "assistant",
            "content": None,
            "reasoning_content": "Hm.",
            "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}],
        },
        OrderedDict(role="tool", content="3", tool_call_id="1", score=np.float32(0.5)),
        ("user", "Grüße"),
    ]
    found = messages_of(shown, conversation)
    assert found[0] == conversation[0]
    assert found[1] == {"role": "user", "content": "ab"}
    assert found[2]["tool_calls"][0]["function"] == {"name": "f", "arguments": {"x": 1}}
    assert found[2]["reasoning_content"] == "Hm."
    assert found[2]["content"] == ""
    assert found[3] == {"role": "tool", "content": "3", "tool_call_id": "1", "score": 0.5}
    assert found[4] == {"role": "user", "content": "Grüße"}


def test_tools_and_variables_reach_the_template(shown: QwenInferenceSession) -> None:
    values: Any = {"tools": [TOOL], "template_variables": {"flavour": {"a": [1, None]}}}
    text = shown.render("Hello", **values)
    assert f"tools={json.dumps([TOOL])}" in text
    assert 'flavour={"a": [1, null]}' in text
    assert " assistant:" in text
    assert " assistant:" not in shown.render("Hello", template_variables={"add_generation_prompt": False})
    assert "thinking=False" in shown.render("Hello", reasoning_mode=False)
    assert "thinking=True" in shown.render("Hello", reasoning_mode=False, template_variables={"enable_thinking": True})
    assert "thinking" not in shown.render("Hello")


def test_what_is_shown_is_what_is_computed(shown: QwenInferenceSession) -> None:
    values: Any = {"tools": [TOOL], "template_variables": {"flavour": "sweet"}}
    config: Any = {"max_tokens": 8, "seed": 1, "ignore_eos": True}
    ids = shown.encode_prompt("Hello", **values)
    assert ids == shown.tokenizer.encode(shown.render("Hello", **values))
    expected = shown.generate_ids(ids, **config)
    message = [{"role": "user", "content": "Hello"}]
    for result in (
        shown.generate("Hello", **values, **config),
        shown.chat(message, **values, **config),
        shown.generate_batch(["Hello"], **values, **config)[0],
    ):
        assert list(result.token_ids) == expected
        assert result.stats.prompt_tokens == len(ids)


# ------------------------------------------------------- the published templates, as transformers renders them

COMMITTED = Path(__file__).resolve().parents[1] / "data" / "chat_templates"
SHARED = Path(os.environ.get("QWEN_SHARED", COMMITTED.parents[3] / "shared")) / "qwen-chat-templates"
TEMPLATES = SHARED if SHARED.is_dir() else COMMITTED  # the shared ones are more: 66 conversations, 14 templates


def as_templates_want(message: dict[str, Any]) -> dict[str, Any]:
    """What hosts send in OpenAI's form, as every template takes it: no null members, text in one piece, content beside
    tool calls too, arguments as objects. transformers leaves this to its callers; without it many of the published
    templates fail or quote twice."""
    wanted = {key: value for key, value in message.items() if value is not None}
    if isinstance(wanted.get("content"), list):
        wanted["content"] = "".join(part["text"] for part in wanted["content"])
    if "tool_calls" in wanted:
        wanted.setdefault("content", "")
    for call in wanted.get("tool_calls", []):
        if isinstance(call["function"]["arguments"], str):
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    return wanted


def is_refused(messages: list[dict[str, Any]]) -> bool:
    """Conversations that go to no template: none at all, unknown roles, images, sound and films."""
    parts = [part for m in messages if isinstance(m.get("content"), list) for part in m["content"]]
    roles = {m["role"] for m in messages}
    return not messages or not roles <= {"system", "user", "assistant", "tool"} or any("text" not in p for p in parts)


@pytest.mark.parametrize("template", sorted(file.stem for file in TEMPLATES.glob("*.jinja")))
def test_published_templates_render_as_in_transformers(tiny_model: Path, tmp_path: Path, template: str) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    shutil.copy(TEMPLATES / f"{template}.jinja", folder / "chat_template.jinja")
    exact = 0
    with QwenInferenceSession(folder) as session:
        for line in (TEMPLATES / "cases.jsonl").read_text(encoding="utf-8").splitlines():
            case = json.loads(line)
            messages, expected = case["messages"], case["rendered"][template]
            # transformers' default is to leave the answer unopened; a session always has one to open.
            given = {"tools": case["tools"], "template_variables": {"add_generation_prompt": False, **case["kwargs"]}}
            wanted = (
                [as_templates_want(message) for message in copy.deepcopy(messages)] if not is_refused(messages) else []
            )
            if not wanted or (wanted == messages and "error" in expected):
                with pytest.raises(QwenError):
                    session.render(messages, **given)
            elif wanted == messages:
                assert session.render(messages, **given) == expected["text"], case["id"]
                exact += 1
            else:
                assert session.render(messages, **given) == session.render(wanted, **given), case["id"]
    assert exact >= 10


def test_long_prompts_are_shown_whole(shown: QwenInferenceSession) -> None:
    text = "word " * 3000
    assert text in shown.render(text)
    assert shown.render(text, raw=True) == text
    assert shown.encode_prompt(text, raw=True) == shown.tokenizer.encode(text)


def test_the_system_prompt_is_shown_too(shown: QwenInferenceSession) -> None:
    shown.set_system_prompt("Be brief.")
    try:
        assert [message["role"] for message in messages_of(shown, [{"role": "user", "content": "x"}])] == [
            "system",
            "user",
        ]
        own = {"role": "system", "content": "Own"}
        assert messages_of(shown, [own, ("user", "x")])[0] == own
        with pytest.raises(TypeError, match="int"):
            shown.set_system_prompt(5)  # type: ignore[arg-type]
    finally:
        shown.set_system_prompt(None)


# ------------------------------------------------------------------------------------------------------- bad input

LOOP: list[Any] = []
LOOP.append(LOOP)
WRONG_MESSAGES: dict[str, tuple[Any, type[Exception], str]] = {
    "unknown role": (
        {"role": "nobody", "content": "x"},
        QwenValueError,
        "message 1: unknown role 'nobody'.*system, user",
    ),
    "unknown role in a tuple": (("nobody", "x"), QwenValueError, "message 1: unknown role 'nobody'"),
    "no role": ({"content": "x"}, QwenValueError, 'message 1: needs a "role"'),
    "role of another type": ({"role": 5, "content": "x"}, QwenValueError, 'message 1: needs a "role"'),
    "no content": ({"role": "user"}, QwenValueError, 'message 1: needs a "content"'),
    "content of another type": ({"role": "user", "content": 5}, QwenValueError, "message 1: content must be a text"),
    "bytes": ({"role": "user", "content": b"x"}, QwenValueError, "message 1, key 'content' cannot.*bytes"),
    "an object": (
        {"role": "user", "content": "x", "extra": object()},
        QwenValueError,
        "message 1, key 'extra'.*object",
    ),
    "a set": ({"role": "user", "content": "x", "extra": [{1, 2}]}, QwenValueError, "message 1, key 'extra'.*set"),
    "NaN": ({"role": "user", "content": "x", "extra": float("nan")}, QwenValueError, "message 1, key 'extra'"),
    "itself": ({"role": "user", "content": "x", "extra": LOOP}, QwenValueError, "message 1, key 'extra'"),
    "a key that is no text": ({"role": "user", "content": "x", (1, 2): 3}, QwenValueError, "message 1 cannot.*tuple"),
    "a lone surrogate": ({"role": "user", "content": "a\ud800"}, QwenValueError, "message 1: .*encoding"),
    "a lone surrogate in a tuple": (("user", "a\ud800"), QwenValueError, "message 1: .*UTF-8"),
    "an image": (
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]},
        QwenUnsupportedError,
        "message 1: .*image_url",
    ),
    "a text": ("hello", TypeError, "message 1 must be"),
    "a list": (["user", "x"], TypeError, "message 1 must be"),
    "a triple": (("user", "x", "y"), TypeError, "message 1 must be"),
    "a tuple of others": ((5, "x"), TypeError, "message 1: role and content"),
    "nothing": (None, TypeError, "message 1 must be"),
    "broken arguments": (
        {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]},
        QwenValueError,
        "message 1: .*'f'",
    ),
}


@pytest.mark.parametrize("case", WRONG_MESSAGES)
def test_wrong_messages_are_named(shown: QwenInferenceSession, case: str) -> None:
    message, error, named = WRONG_MESSAGES[case]
    for call in (shown.render, shown.generate, shown.chat):
        with pytest.raises(error, match=named):
            call([("user", "x"), message])


@pytest.mark.parametrize(
    ("tools", "error", "named"),
    [
        (TOOL, TypeError, "list of dicts, not dict"),
        ("[]", TypeError, "list of dicts, not str"),
        (5, TypeError, "list of dicts, not int"),
        ([TOOL, "f"], TypeError, "tool 1 must be a dict, not str"),
        (
            [TOOL, {"function": {"name": "f", "parameters": {"default": object()}}}],
            QwenValueError,
            "tool 1, key 'function'",
        ),
        ([TOOL, {"type": "function"}], QwenValueError, "tool 1 must be"),
        ([print], TypeError, "tool 0 must be a dict"),
    ],
)
def test_wrong_tools_are_named(shown: QwenInferenceSession, tools: Any, error: type[Exception], named: str) -> None:
    with pytest.raises(error, match=named):
        shown.generate("Hello", tools=tools)


def test_wrong_variables_are_named(shown: QwenInferenceSession) -> None:
    for variables in ([1], "x", 5):
        with pytest.raises(TypeError, match="template_variables must be a dict"):
            shown.render("Hello", template_variables=variables)  # type: ignore[arg-type]
    with pytest.raises(QwenValueError, match="template_variables, key 'a'"):
        shown.render("Hello", template_variables={"a": object()})


def test_tools_need_the_template(shown: QwenInferenceSession, session: QwenInferenceSession) -> None:
    with pytest.raises(QwenValueError, match="raw text goes around"):
        shown.generate("Hello", raw=True, tools=[TOOL])
    with pytest.raises(QwenValueError, match="checkpoint has none"):
        session.generate("Hello", template_variables={"a": 1})
    with pytest.raises(QwenValueError, match="raw=True is for text"):
        shown.generate([("user", "x")], raw=True)
    with pytest.raises(QwenError, match="template"):
        session.render([("user", "x")])


def test_conversations_of_the_wrong_type(shown: QwenInferenceSession) -> None:
    for messages in ("Hello", {"role": "user", "content": "x"}, 5, None):
        with pytest.raises(TypeError, match="list of messages"):
            shown.chat(messages)  # type: ignore[arg-type]
    for prompts in ("Hello", 5, None):
        with pytest.raises(TypeError, match="list of prompts"):
            shown.generate_batch(prompts)  # type: ignore[arg-type]


def test_a_closed_session_renders_nothing(tiny_model: Path) -> None:
    session = QwenInferenceSession(tiny_model)
    session.close()
    for call in (session.render, session.encode_prompt, lambda text: session.run(None, {"input_ids": [[1]]})):
        with pytest.raises(QwenClosedError):
            call("Hello")
