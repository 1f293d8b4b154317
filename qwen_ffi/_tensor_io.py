"""A session in ONNX Runtime's manner: named inputs and outputs, rectangular arrays with padding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ._engine import Engine
from ._forward import forward, token_arrays
from .errors import QwenValueError
from .results import ModelInfo

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[Any]
    FloatArray = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class NodeArg:
    """One input or output: `type` as ONNX Runtime writes it, `shape` with a name where the size is the caller's."""

    name: str
    shape: list[int | str]
    type: str


def inputs() -> list[NodeArg]:
    return [NodeArg(name, ["batch", "sequence"], "tensor(int64)") for name in ("input_ids", "attention_mask")]


def outputs(info: ModelInfo) -> list[NodeArg]:
    logits = NodeArg("logits", ["batch", "sequence", info.vocab_size], "tensor(float)")
    hidden = [
        NodeArg(f"hidden.{layer}", ["batch", "sequence", info.hidden_size], "tensor(float)")
        for layer in range(info.num_hidden_layers + 1)
    ]
    return [logits, *hidden]


def run(
    engine: Engine,
    info: ModelInfo,
    output_names: Sequence[str] | None,
    feed: Mapping[str, Any],
    adapter: str | None = None,
) -> list[FloatArray]:
    """See QwenInferenceSession.run."""
    names = _wanted(info, output_names)
    ids, begins, ends = _fed(feed)
    spans = [slice(begin, end) for begin, end in zip(begins, ends, strict=True)]
    token_lists = token_arrays([row[span] for row, span in zip(ids, spans, strict=True)])
    hidden = any(name != "logits" for name in names)
    tensors = forward(engine, token_lists, [0] * len(ids), "logits" in names, hidden, adapter=adapter)
    return [
        _padded([tensors.array(sequence, name) for sequence in range(len(ids))], spans, ids.shape[1]) for name in names
    ]


def _wanted(info: ModelInfo, output_names: Sequence[str] | None) -> list[str]:
    if output_names is None:
        return ["logits"]
    if isinstance(output_names, str | bytes) or not isinstance(output_names, Sequence):
        raise TypeError(f"output_names must be a list of str or None, not {type(output_names).__name__}")
    known = {node.name for node in outputs(info)}
    for name in output_names:
        if name not in known:
            raise QwenValueError(
                f"there is no output {name!r}; the outputs are 'logits' and 'hidden.0' ... "
                f"'hidden.{info.num_hidden_layers}'"
            )
    if not output_names:
        raise QwenValueError("output_names is empty; name an output, or give None for ['logits']")
    return list(output_names)


def _fed(feed: Mapping[str, Any]) -> tuple[Array, list[int], list[int]]:
    """input_ids [batch, sequence], and where each row's tokens begin and end."""
    import numpy as np

    if not isinstance(feed, Mapping):
        raise TypeError(f"feed must be a dict of arrays by input name, not {type(feed).__name__}")
    names = [node.name for node in inputs()]
    for name in feed:
        if name not in names:
            raise QwenValueError(f"there is no input {name!r}; the inputs are 'input_ids' and 'attention_mask'")
    if "input_ids" not in feed:
        raise QwenValueError("the input 'input_ids' is missing; it is an int64 or int32 array [batch, sequence]")
    ids = _integers("input_ids", feed["input_ids"])
    if ids.size == 0:
        raise QwenValueError(f"input_ids has shape {list(ids.shape)}; it must hold at least one token")
    if feed.get("attention_mask") is None:
        return ids, [0] * len(ids), [ids.shape[1]] * len(ids)
    mask = _integers("attention_mask", feed["attention_mask"])
    if mask.shape != ids.shape:
        raise QwenValueError(f"attention_mask has shape {list(mask.shape)}; input_ids has {list(ids.shape)}")
    if np.any((mask != 0) & (mask != 1)):
        raise QwenValueError("attention_mask may hold 0 and 1 only")
    begins = mask.argmax(1).tolist()
    ends = [begin + length for begin, length in zip(begins, mask.sum(1).tolist(), strict=True)]
    for row, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        if begin == end:
            raise QwenValueError(f"attention_mask masks every token of row {row}")
        if not mask[row, begin:end].all():
            raise QwenValueError(
                f"attention_mask has a hole in row {row}; padding may be on the left or the right only"
            )
        if begin > 0 and end < ids.shape[1]:
            raise QwenValueError(f"attention_mask pads row {row} on both sides; padding may be on one side only")
    return ids, begins, ends


def _integers(name: str, value: Any) -> Array:
    import numpy as np

    try:
        array = np.asarray(value)
    except ValueError:
        raise QwenValueError(f"{name} must be a rectangular array [batch, sequence]") from None
    allowed = ("int64", "int32") + (("bool",) if name == "attention_mask" else ())
    if array.dtype.name not in allowed:
        raise QwenValueError(f"{name} is {array.dtype.name}; it must be {' or '.join(allowed)}")
    if array.ndim != 2:
        raise QwenValueError(f"{name} has shape {list(array.shape)}; it must be [batch, sequence]")
    return array


def _padded(rows: list[FloatArray], spans: list[slice], length: int) -> FloatArray:
    """Rows of different length in one array [batch, length, width], at their places, zeros around them."""
    import numpy as np

    if len(rows) == 1 and len(rows[0]) == length:
        return rows[0][np.newaxis]  # no copy
    padded = np.zeros((len(rows), length, rows[0].shape[1]), np.float32)
    for target, row, span in zip(padded, rows, spans, strict=True):
        target[span] = row
    return padded
