"""One class for a chat: text in, text out, or objects in OpenAI's form."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from ._inputs import Computation, InputLike, Inputs, checked_dimensions, wait
from ._prompt import Message, Tool
from .hub import resolve_model
from .results import Choice, FinishReason, GenerationResult, ToolCall
from .sampling import SamplingConfig
from .session import PromptLike, QwenInferenceSession
from .tokenizer import Tokenizer


class Qwen:
    """A checkpoint to talk to. Any number of threads may share one."""

    def __init__(
        self,
        model_path: str | os.PathLike[str],
        tokenizer_path: str | os.PathLike[str] | None = None,
        **engine_options: Any,
    ) -> None:
        """model_path: the folder of a checkpoint, or a model of the hub. tokenizer_path: a tokenizer.json, a folder that holds
        one, with its chat template, or a model of the hub; None: the checkpoint's own. engine_options as in
        QwenInferenceSession, whose errors are raised."""
        if tokenizer_path is not None:
            engine_options["tokenizer"] = resolve_model(tokenizer_path, weights=False)
        self.session = QwenInferenceSession(model_path, **engine_options)
        folder = Path(model_path)
        self._name = folder.resolve().name if folder.exists() else str(model_path)  # a path, or a name of the hub

    def generate(self, prompt: PromptLike, config: SamplingConfig | None = None, **sampling: Any) -> str:
        """The answer's text; as in QwenInferenceSession.generate, a str is one user message."""
        return self.session.generate(prompt, config, **sampling).text

    def chat_completion(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] | None = None,
        config: SamplingConfig | None = None,
        **sampling: Any,
    ) -> dict[str, Any]:
        """The assistant's answer to a conversation as OpenAI's `chat.completion` object, in plain dicts and lists.

        sampling: fields of SamplingConfig; logprobs=True and top_logprobs=k fill "logprobs". Members without content are
        None. Blocks until the answer is there; raises what QwenInferenceSession.chat raises.
        """
        result = self.session.chat(messages, config, tools=tools, **sampling)
        return chat_completion(result, self._name, self.session.tokenizer)

    def embeddings(
        self,
        texts: str | Sequence[InputLike],
        dimensions: int | None = None,
        instruction: str | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """Vectors as OpenAI's `embeddings.create` returns them, in plain dicts and lists; the `input` there is texts here. For
        a model such as Qwen3-Embedding; what they are, and arrays instead of lists: Embedder.

        instruction: makes the texts queries. options: priority, timeout_ms. Blocks; raises what Embedder.embed raises.
        """
        inputs = Inputs([texts] if isinstance(texts, str) else texts, "texts", False)
        if instruction is not None:
            inputs.set_instruction(instruction)
        wanted = checked_dimensions(dimensions)
        computation = Computation(self.session._engine, inputs, options, None)
        tensors = wait(computation, lambda: computation.embed(wanted))
        tokens = tensors.prompt_tokens()
        return {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, "embedding": vector}
                for index, vector in enumerate(tensors.array(0, "embeddings").tolist())
            ],
            "model": self._name,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }

    def close(self) -> None:
        """Ends every request in flight and frees the model. Any number of times."""
        self.session.close()

    def __enter__(self) -> Qwen:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def chat_completion(result: GenerationResult, model: str, tokenizer: Tokenizer) -> dict[str, Any]:
    """A result in the form of https://platform.openai.com/docs/api-reference/chat/object; "reasoning_content" is where
    the servers of reasoning models put the thought."""
    stats = result.stats
    return {
        "id": f"chatcmpl-{os.urandom(16).hex()}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [_choice(index, choice, tokenizer) for index, choice in enumerate(result.choices)],
        "usage": {
            "prompt_tokens": stats.prompt_tokens,
            "completion_tokens": stats.generated_tokens,
            "total_tokens": stats.prompt_tokens + stats.generated_tokens,
            "prompt_tokens_details": {"cached_tokens": stats.cached_tokens},
        },
    }


def _choice(index: int, choice: Choice, tokenizer: Tokenizer) -> dict[str, Any]:
    calls = [_tool_call(call) for call in choice.tool_calls]
    asks = calls and choice.finish_reason is FinishReason.STOP
    return {
        "index": index,
        "message": {
            "role": "assistant",
            "content": None if calls and not choice.text else choice.text,
            "reasoning_content": choice.reasoning or None,
            "tool_calls": calls or None,
        },
        "finish_reason": "tool_calls" if asks else choice.finish_reason.value,
        "logprobs": _logprobs(choice, tokenizer),
    }


def _tool_call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": f"call_{os.urandom(12).hex()}", "type": "function", "function": function}


def _logprobs(choice: Choice, tokenizer: Tokenizer) -> dict[str, Any] | None:
    if choice.logprobs is None:
        return None
    top = choice.top_logprobs or ((),) * len(choice.token_ids)
    return {
        "content": [
            {**_token(token, logprob, tokenizer), "top_logprobs": [_token(*pair, tokenizer) for pair in likeliest]}
            for token, logprob, likeliest in zip(choice.token_ids, choice.logprobs, top, strict=True)
        ]
    }


def _token(token_id: int, logprob: float, tokenizer: Tokenizer) -> Mapping[str, Any]:
    text = tokenizer.decode([token_id])
    # A token that is part of a character has no text of its own, and its bytes cannot be told from its text.
    return {"token": text, "logprob": logprob, "bytes": None if "\ufffd" in text else list(text.encode())}
