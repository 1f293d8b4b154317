"""Run Qwen models in your process.

    from qwen_ffi import QwenInferenceSession

    with QwenInferenceSession("path/to/Qwen3-0.6B") as session:
        print(session.generate("What is a monad?", max_tokens=200))

    async with await QwenInferenceSession.aopen("path/to/Qwen3-0.6B") as session:
        async for event in session.astream("What is a monad?"):
            print(event, end="")

A thin, typed layer over libqwen.so: no inference logic lives here. Importing it loads neither the library nor numpy.
"""

from __future__ import annotations

from ._loader import demo_model_path
from ._options import OptionInfo, OptionScope, OptionType, options
from ._prompt import Message, Tool
from ._safetensors import read_safetensors
from ._tensor_io import NodeArg
from .async_stream import AsyncGenerationStream
from .errors import (
    QwenBusyError,
    QwenCallbackError,
    QwenCancelledError,
    QwenClosedError,
    QwenError,
    QwenFileFormatError,
    QwenForkedError,
    QwenInternalError,
    QwenIOError,
    QwenLibraryError,
    QwenMemoryError,
    QwenNotFoundError,
    QwenTimeoutError,
    QwenUnsupportedError,
    QwenValueError,
)
from .qwen import Qwen
from .results import (
    AdapterInfo,
    Channel,
    Choice,
    EngineStats,
    FinishReason,
    GenerationResult,
    ModelInfo,
    RequestStats,
    StepTrace,
    StreamEvent,
    ToolCall,
)
from .retrieval import Embedder, Reranker
from .sampling import SamplingConfig
from .session import QwenInferenceSession, generate_text
from .stream import GenerationStream
from .tokenizer import Tokenizer
from .transformer import ForwardOutput, ModelArgs, Transformer
from .version import abi_version, build_info, version

__all__ = [
    "AdapterInfo",
    "AsyncGenerationStream",
    "Channel",
    "Choice",
    "Embedder",
    "EngineStats",
    "FinishReason",
    "ForwardOutput",
    "GenerationResult",
    "GenerationStream",
    "Message",
    "ModelArgs",
    "ModelInfo",
    "NodeArg",
    "OptionInfo",
    "OptionScope",
    "OptionType",
    "Qwen",
    "QwenBusyError",
    "QwenCallbackError",
    "QwenCancelledError",
    "QwenClosedError",
    "QwenError",
    "QwenFileFormatError",
    "QwenForkedError",
    "QwenIOError",
    "QwenInferenceSession",
    "QwenInternalError",
    "QwenLibraryError",
    "QwenMemoryError",
    "QwenNotFoundError",
    "QwenTimeoutError",
    "QwenUnsupportedError",
    "QwenValueError",
    "RequestStats",
    "Reranker",
    "SamplingConfig",
    "StepTrace",
    "StreamEvent",
    "Tokenizer",
    "Tool",
    "ToolCall",
    "Transformer",
    "abi_version",
    "build_info",
    "demo_model_path",
    "generate_text",
    "options",
    "read_safetensors",
    "version",
]
