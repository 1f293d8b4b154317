"""The host in Python: reads cases from standard input, prints one line of JSON for each (README.md has both formats).

python host.py path/to/model < cases/demo.txt
"""

from __future__ import annotations

import json
import re
import struct
import sys
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from qwen_ffi import (
    Choice,
    Embedder,
    GenerationResult,
    GenerationStream,
    QwenError,
    QwenInferenceSession,
    Reranker,
    StreamEvent,
    ToolCall,
)

Line = dict[str, Any]


class Case:
    """A case: what it asks for, and how to ask for it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.prompt: Any = None
        self.tokens: list[int] | None = None
        self.messages: list[tuple[str, str]] = []
        self.options: dict[str, Any] = {}
        self.tools: list[Any] | None = None
        self.inputs: list[str | list[int]] = []
        self.instruction: str | None = None
        self.is_query = False

    def add(self, word: str, rest: str) -> None:
        key, _, value = rest.partition(" ")
        if word == "text":
            self.prompt = unescape(rest)
        elif word == "tokens":
            self.tokens = numbers(rest)
        elif word == "message":
            self.messages.append((key, unescape(value)))
        elif word == "tools":
            self.tools = json.loads(rest)
        elif word == "i64":
            self.options[key] = int(value)
        elif word == "f64":
            self.options[key] = float(value)
        elif word == "str":
            self.options[key] = unescape(value)
        elif word == "strs":
            self.options[key] = [unescape(text) for text in value.split("\t")]
        elif word == "ids":
            self.options[key] = numbers(value)
        elif word == "bias":
            pairs = value.split(" ")
            self.options[key] = {int(i): float(bias) for i, bias in zip(pairs[::2], pairs[1::2], strict=True)}
        elif word == "input":
            self.inputs.append(unescape(rest))
        elif word == "input_tokens":
            self.inputs.append(numbers(rest))
        elif word == "instruction":
            self.is_query, self.instruction = True, unescape(rest) or None
        else:
            sys.exit(f"host.py: unknown word: {word}")

    def generate(self, session: QwenInferenceSession) -> GenerationResult:
        if self.tokens is not None:
            return session.complete_ids(self.tokens, **self.options)
        if self.messages:
            return session.chat(self.messages, tools=self.tools, **self.options)
        return session.generate(self.prompt, raw=True, **self.options)

    def stream(self, session: QwenInferenceSession) -> GenerationStream:
        if self.tokens is not None:
            return session.stream_ids(self.tokens, **self.options)
        return session.stream(self.messages or self.prompt, raw=not self.messages, tools=self.tools, **self.options)

    def encode(self, session: QwenInferenceSession) -> list[int]:
        return session.encode_prompt(self.messages or self.prompt, raw=not self.messages)

    def embed(self, path: str, dimensions: int) -> Any:
        with Embedder(path) as embedder:
            if self.is_query:
                return embedder.embed_queries(self.inputs, instruction=self.instruction, dimensions=dimensions)
            return embedder.embed(self.inputs, dimensions=dimensions)

    def rerank(self, path: str, query: str) -> Any:
        with Reranker(path) as reranker:
            return reranker.score(query, self.inputs, instruction=self.instruction)


def unescape(text: str) -> str:
    return re.sub(r"\\(.)", lambda escape: {"n": "\n", "t": "\t", "0": "\0", "\\": "\\"}[escape[1]], text)


def numbers(text: str) -> list[int]:
    return [int(number) for number in text.split()]


def bits(values: Iterable[float] | None) -> list[str] | None:
    return None if values is None else [struct.pack(">f", value).hex() for value in values]


def tool_line(call: ToolCall) -> Line:
    return {"name": call.name, "arguments": call.arguments}


def event_line(event: StreamEvent) -> Line:
    if event.finish_reason is not None:
        return {"choice": event.choice, "finish": event.finish_reason.value}
    if event.tool_call is not None:
        return {"choice": event.choice, "tool": tool_line(event.tool_call)}
    return {
        "choice": event.choice,
        "channel": event.channel.value,
        "text": event.text,
        "ids": event.token_ids,
        "logprobs": bits(event.logprobs),
    }


def choice_line(choice: Choice) -> Line:
    top = choice.top_logprobs
    return {
        "text": choice.text,
        "reasoning": choice.reasoning,
        "ids": choice.token_ids,
        "finish": choice.finish_reason.value,
        "stop": choice.stop_text,
        "logprobs": bits(choice.logprobs),
        "top": top and [[[token, struct.pack(">f", value).hex()] for token, value in row] for row in top],
        "tools": [tool_line(call) for call in choice.tool_calls],
    }


def result_line(result: GenerationResult) -> Line:
    return {
        "choices": [choice_line(choice) for choice in result.choices],
        "prompt_logprobs": bits(result.prompt_logprobs),
        "prompt_tokens": result.stats.prompt_tokens,
    }


def stream_line(stream: GenerationStream) -> Line:
    events = [event_line(event) for event in stream]
    return {"events": events, **result_line(stream.result)}


def cancelled_line(stream: GenerationStream) -> Line:
    stream.cancel()
    return stream_line(stream)


def waited_line(stream: GenerationStream) -> Line:
    for _ in stream:
        pass
    return result_line(stream.result)


def error_line(error: QwenError) -> Line:
    return {"error": {"code": error.status, "message": str(error)}}


def attempt(answer: Callable[[], Line]) -> Line:
    try:
        return answer()
    except QwenError as error:
        return error_line(error)


def write(name: str, line: Line) -> None:
    print(json.dumps({"case": name, **line}, ensure_ascii=False, separators=(",", ":")))


def submit(case: Case, session: QwenInferenceSession) -> GenerationStream | QwenError:
    try:
        return case.stream(session)
    except QwenError as error:
        return error


def main(path: str) -> int:
    try:
        session = QwenInferenceSession(path)
    except QwenError as error:
        write("open", error_line(error))
        return 1
    case = Case("")
    submitted: list[tuple[str, GenerationStream | QwenError]] = []
    answers: dict[str, Callable[[str], Line]] = {
        "generate": lambda _: result_line(case.generate(session)),
        "stream": lambda _: stream_line(case.stream(session)),
        "cancel": lambda _: cancelled_line(case.stream(session)),
        "encode": lambda _: {"ids": case.encode(session)},
        "embed": lambda rest: {"embeddings": [bits(row) for row in case.embed(path, int(rest))]},
        "rerank": lambda rest: {"scores": bits(case.rerank(path, unescape(rest)))},
    }
    for line in sys.stdin:
        word, _, rest = line.rstrip("\n").partition(" ")
        if word == "case":
            case = Case(rest)
        elif word == "submit":
            submitted.append((case.name, submit(case, session)))
        elif word == "wait":
            for name, started in submitted:
                write(
                    name,
                    error_line(started) if isinstance(started, QwenError) else attempt(partial(waited_line, started)),
                )
            submitted = []
        elif word in answers:
            write(case.name, attempt(partial(answers[word], rest)))
        elif word and not word.startswith("#"):
            case.add(word, rest)
    session.close()
    return 0


if __name__ == "__main__":
    sys.stdin.reconfigure(encoding="utf-8", newline="\n")
    sys.stdout.reconfigure(encoding="utf-8", newline="\n")
    sys.exit(main(sys.argv[1]))
