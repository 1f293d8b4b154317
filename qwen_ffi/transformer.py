"""Tensor-level use: token ids in, logits and hidden states out, weights from a folder or from arrays."""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from operator import index
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, overload

from ._engine import Engine
from ._forward import forward, token_arrays
from ._prompt import Prompt
from ._request import Request, wait_for_all
from ._weights import Weights
from .errors import QwenFileFormatError, QwenNotFoundError, QwenValueError
from .results import AdapterInfo, EngineStats, FinishReason, GenerationResult, ModelInfo
from .sampling import resolve

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float32]


@dataclass(slots=True, kw_only=True)
class ModelArgs:
    """The content of a config.json, by the names it has there. The library checks it when the model is built."""

    model_type: str
    architectures: list[str]
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int | None = None
    max_position_embeddings: int = 4096
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    rope_scaling: dict[str, Any] | None = None
    hidden_act: str = "silu"
    tie_word_embeddings: bool = False
    sliding_window: int | None = None
    use_sliding_window: bool = False
    max_window_layers: int | None = None
    other: dict[str, Any] = field(default_factory=dict)  # every further key of the file

    @classmethod
    def from_config_file(cls, path: str | os.PathLike[str]) -> ModelArgs:
        """path: a config.json, or a folder that holds one. Raises QwenNotFoundError and QwenFileFormatError."""
        file = Path(path)
        if file.is_dir():
            file = file / "config.json"
        try:
            config = json.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise QwenNotFoundError(f"{file} does not exist") from None
        except ValueError as error:
            raise QwenFileFormatError(f"{file}: {error}") from None
        if not isinstance(config, dict):
            raise QwenFileFormatError(f"{file}: a configuration is a JSON object")
        names = {item.name for item in fields(cls)} - {"other"}
        known = {key: value for key, value in config.items() if key in names}
        try:
            return cls(**known, other={key: value for key, value in config.items() if key not in names})
        except TypeError as error:
            raise QwenFileFormatError(f"{file}: {error}") from None

    def to_json(self) -> str:
        """The text of a config.json. Keys that are None are left out, as if the file did not have them."""
        config = asdict(self)
        other = config.pop("other")
        return json.dumps({**{key: value for key, value in config.items() if value is not None}, **other})


class ForwardOutput(Sequence["FloatArray"]):
    """What a forward pass computed: a sequence of logits, one float32 array [new tokens, vocab_size] per token list.

    The arrays are views of the library's memory, which lives as long as any of them and is nobody else's: they may be
    written to, and torch.from_dlpack(output[0]) or numpy.from_dlpack(output[0]) share it without a copy.
    """

    def __init__(self, logits: Sequence[FloatArray], hidden_states: Sequence[Sequence[FloatArray]]) -> None:
        self.logits = tuple(logits)
        # [sequence][layer] -> [new tokens, hidden_size]; layer 0 is the embeddings, the last one is after the final norm.
        # Qwen4-Exp: hc_count residual streams side by side, but for the last one.
        # Empty unless asked for.
        self.hidden_states = tuple(tuple(layers) for layers in hidden_states)

    @overload
    def __getitem__(self, index: int) -> FloatArray: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[FloatArray]: ...
    def __getitem__(self, index: int | slice) -> FloatArray | Sequence[FloatArray]:
        return self.logits[index]

    def __len__(self) -> int:
        return len(self.logits)


class Transformer:
    """A model at the level of token ids: forward passes, and answers. Any number of threads may share one."""

    def __init__(self, args: ModelArgs, *, dtype: str = "f32", device: str = "cpu", **engine_options: Any) -> None:
        """A model without weights yet: load_state_dict() brings them."""
        if not isinstance(args, ModelArgs):
            raise TypeError(f"args must be a ModelArgs, not {type(args).__name__}; from_pretrained() takes a path")
        self.args: ModelArgs | None = args
        self._values = {"device": device, "dtype": dtype, **engine_options}
        self._sequences: list[array[int]] = []  # what forward() has seen, for start_pos > 0
        self._engine: Engine | None = None
        self._info: ModelInfo | None = None

    @classmethod
    def from_pretrained(
        cls, path: str | os.PathLike[str], *, dtype: str = "f32", device: str = "cpu", **engine_options: Any
    ) -> Transformer:
        """Opens the folder of a checkpoint or a GGUF file; engine_options as in QwenInferenceSession."""
        transformer = cls.__new__(cls)
        transformer.args = None
        transformer._values = {"device": device, "dtype": dtype, **engine_options}
        transformer._sequences = []
        transformer._adopt(Engine.open(path, transformer._values))
        return transformer

    def load_state_dict(self, tensors: Mapping[str, Any]) -> Transformer:
        """Builds the model on arrays under the names of the published files. Returns self.

        Arrays are numpy's and whatever has __array_interface__ or __dlpack__, PyTorch's tensors for example, in the CPU's
        memory: float32, float16, or bfloat16 (numpy: as ml_dtypes.bfloat16 or as the bit patterns in uint16). Contiguous
        ones are borrowed, not copied: do not change them; they are kept alive until the library has let go of them.
        Raises QwenValueError for another type or place, QwenFileFormatError for a missing tensor or a wrong shape.
        """
        if self.args is None:
            raise QwenValueError("this Transformer was opened from a folder and has its weights")
        weights = Weights(self.args.to_json(), tensors)
        try:
            self._adopt(Engine(weights.make_engine, self._values))
        finally:
            weights.close()
        return self

    def _adopt(self, engine: Engine) -> None:
        previous = getattr(self, "_engine", None)
        self._engine, self._info = engine, engine.model_info()
        self.reset()
        if previous is not None:
            previous.handle.close()

    @property
    def info(self) -> ModelInfo:
        """What the checkpoint is."""
        self._opened()
        assert self._info is not None
        return self._info

    def forward(
        self,
        token_lists: Sequence[Sequence[int]],
        start_pos: int | Sequence[int] = 0,
        hidden_states: bool = False,
        *,
        adapter: str | None = None,
    ) -> ForwardOutput:
        """One forward pass over several token lists. Returns the rows of these tokens: row i of an array belongs to token i
        of its list, and tells of the token after it.

        start_pos 0: each list is a sequence of its own. start_pos > 0, as in llama: the lists continue the sequences of the
        previous calls from that position on (one position for all, or one per list); what those held beyond it is
        forgotten. The result is the same, bit for bit, as of one call with the whole sequences.

        adapter: the name of the LoRA adapter that computes all of it; see load_adapter().

        Blocks until it is done; Ctrl-C comes through at once, the pass then ends unseen. Raises QwenValueError for an empty
        list, an id outside the vocabulary, a start_pos beyond what the previous calls have seen, and another number of lists
        than they had; what they have seen is remembered all the same. Any number of threads may call with start_pos 0; a
        start_pos > 0 continues the call that ended last, so one thread at a time should do that.
        """
        engine = self._opened()
        rows = token_arrays(token_lists)
        starts = _positions(start_pos, len(rows))
        if any(starts):
            rows = self._continued(rows, starts)
        tensors = forward(engine, rows, starts, logits=True, hidden_states=hidden_states, adapter=adapter)
        self._sequences = rows
        names = [f"hidden.{layer}" for layer in range(self.info.num_hidden_layers + 1)] if hidden_states else []
        return ForwardOutput(
            [tensors.array(sequence, "logits") for sequence in range(len(rows))],
            [[tensors.array(sequence, name) for name in names] for sequence in range(len(rows) if names else 0)],
        )

    def mtp_logits(self, token_lists: Sequence[Sequence[int]]) -> list[FloatArray]:
        """What the multi-token-prediction head says: for each list an array [tokens - 1, vocab_size], row i of token i + 2,
        given the tokens up to i + 1.

        The model must have been opened with mtp=1, which raises QwenUnsupportedError where the checkpoint has no such head.
        Blocks until it is done, as forward(). Raises QwenValueError for a list of fewer than two tokens.
        """
        rows = token_arrays(token_lists)
        tensors = forward(self._opened(), rows, [0] * len(rows), mtp_logits=True)
        return [tensors.array(sequence, "mtp_logits") for sequence in range(len(rows))]

    def reset(self) -> None:
        """Forgets the sequences of the previous calls of forward()."""
        self._sequences = []

    def generate(
        self,
        prompt_tokens: Sequence[Sequence[int]],
        max_gen_len: int,
        temperature: float | None = None,
        top_p: float | None = None,
        **sampling: Any,
    ) -> list[list[int]]:
        """The generated tokens of every prompt, computed together; without the prompt, and without the token that ended the
        answer. sampling: further fields of SamplingConfig; None: the checkpoint's generation_config.json. Plays no part in
        what forward() remembers. Any number of threads."""
        engine = self._opened()
        if any(isinstance(row, int) for row in prompt_tokens):
            raise TypeError("generate takes a list of token lists: [[1, 2, 3]]")
        if sampling.get("n", 1) != 1:
            raise QwenValueError("n must be 1 here: generate() returns one answer per prompt")
        values = resolve(None, {"max_tokens": max_gen_len, "temperature": temperature, "top_p": top_p, **sampling})
        answers = wait_for_all(Request(engine.handle, Prompt.from_ids(row), values) for row in prompt_tokens)
        return [_without_end(answer) for answer in answers]

    def _continued(self, rows: list[array[int]], starts: list[int]) -> list[array[int]]:
        """Each new list behind what the previous calls had before it."""
        past = self._sequences
        if len(rows) != len(past):
            raise QwenValueError(
                f"start_pos > 0 continues the previous call, which had {len(past)} token lists; this one has {len(rows)}"
            )
        for number, (row, start, before) in enumerate(zip(rows, starts, past, strict=True)):
            if start > len(before):
                raise QwenValueError(
                    f"start_pos is {start} for token list {number}, of which the previous calls had {len(before)} tokens"
                )
            if len(row) == 0:
                raise QwenValueError(f"token list {number} is empty; it must hold at least one new token")
        return [before[:start] + row for row, start, before in zip(rows, starts, past, strict=True)]

    def load_adapter(self, path: str | os.PathLike[str], name: str | None = None) -> str:
        """As QwenInferenceSession.load_adapter(). Belongs to the weights: load_state_dict() brings others without it."""
        return self._opened().load_adapter(path, name)

    def unload_adapter(self, name: str) -> None:
        """As QwenInferenceSession.unload_adapter()."""
        self._opened().unload_adapter(name)

    def adapters(self) -> list[AdapterInfo]:
        """What is loaded, by name."""
        return self._opened().adapters()

    def stats(self) -> EngineStats:
        """What the model's engine is doing and has done."""
        return self._opened().stats()

    def counters(self) -> dict[str, int]:
        """How often each kernel has run, by name."""
        return self._opened().counters()

    def close(self) -> None:
        """Frees the model; arrays from forward() stay valid. Any number of times."""
        if self._engine is not None:
            self._engine.handle.close()

    def __enter__(self) -> Transformer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _opened(self) -> Engine:
        if self._engine is None:
            raise QwenValueError("this Transformer has no weights yet; call load_state_dict() first")
        return self._engine


def _positions(start_pos: int | Sequence[int], lists: int) -> list[int]:
    """One position per token list."""
    if hasattr(start_pos, "tolist"):
        start_pos = start_pos.tolist()
    try:
        given = list(map(index, start_pos)) if isinstance(start_pos, Sequence) else [index(start_pos)] * lists
    except TypeError:
        raise TypeError(f"start_pos must be an int or a list of them, not {type(start_pos).__name__}") from None
    if len(given) != lists:
        raise QwenValueError(f"start_pos has {len(given)} positions for {lists} token lists")
    if min(given, default=0) < 0:
        raise QwenValueError(f"start_pos is {min(given)}; it must be 0 or more")
    return given


def _without_end(answer: GenerationResult) -> list[int]:
    """The tokens of an answer; if a token ended it, not that one."""
    ended_by_token = answer.finish_reason is FinishReason.STOP and answer.stop_text is None
    return list(answer.token_ids[:-1] if ended_by_token else answer.token_ids)
