"""Tensor-level use: token ids in, logits and hidden states out, weights from a folder or from numpy arrays."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, overload

from ._blocking import run_interruptibly
from ._engine import Engine
from ._handle import Handle
from ._loader import check, library
from ._options import int32_array
from .errors import QwenFileFormatError, QwenNotFoundError, QwenValueError
from .results import EngineStats, ModelInfo

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[Any]
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
    """What a forward pass computed: a sequence of logits, one read-only float32 array [tokens, vocab_size] per token list.

    The arrays are views of the library's memory, which lives as long as any of them.
    """

    def __init__(self, logits: Sequence[FloatArray], hidden_states: Sequence[Sequence[FloatArray]]) -> None:
        self.logits = tuple(logits)
        # [sequence][layer] -> [tokens, hidden_size]; layer 0 is the embeddings, the last one is after the final norm.
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
    """A model without sampling: forward passes over token ids. Any number of threads may share one."""

    def __init__(self, args: ModelArgs, *, dtype: str = "f32", device: str = "cpu", **engine_options: Any) -> None:
        """A model without weights yet: load_state_dict() brings them."""
        self.args: ModelArgs | None = args
        self._values = {"device": device, "dtype": dtype, **engine_options}
        self._engine: Engine | None = None
        self._info: ModelInfo | None = None

    @classmethod
    def from_pretrained(
        cls, path: str | os.PathLike[str], *, dtype: str = "f32", device: str = "cpu", **engine_options: Any
    ) -> Transformer:
        """Opens the folder of a checkpoint; engine_options as in QwenInferenceSession."""
        transformer = cls.__new__(cls)
        transformer.args = None
        transformer._values = {"device": device, "dtype": dtype, **engine_options}
        transformer._adopt(Engine.open(path, transformer._values))
        return transformer

    def load_state_dict(self, tensors: Mapping[str, Array]) -> Transformer:
        """Builds the model on arrays under the names of the published files. Returns self.

        float32, float16, or bfloat16 (given as ml_dtypes.bfloat16 or as the bit patterns in uint16). Contiguous arrays
        are borrowed, not copied: do not change them; they are kept alive until the library has let go of them.
        """
        if self.args is None:
            raise QwenValueError("this Transformer was opened from a folder and has its weights")
        weights = _Weights(self.args.to_json(), tensors)
        try:
            self._adopt(Engine(weights.make_engine, self._values))
        finally:
            weights.close()
        return self

    def _adopt(self, engine: Engine) -> None:
        previous = getattr(self, "_engine", None)
        self._engine, self._info = engine, engine.model_info()
        if previous is not None:
            previous.handle.close()

    @property
    def info(self) -> ModelInfo:
        """What the checkpoint is."""
        self._opened()
        assert self._info is not None
        return self._info

    def forward(self, token_lists: Sequence[Sequence[int]], hidden_states: bool = False) -> ForwardOutput:
        """One forward pass over several token lists, each a sequence of its own from position 0.

        Blocks until it is done; Ctrl-C comes through at once, the pass then ends unseen. Raises QwenValueError for an
        empty list or an id outside the vocabulary.
        """
        engine = self._opened()
        loaded = library()
        ffi, lib = loaded.ffi, loaded.lib
        rows = [row.tolist() if hasattr(row, "tolist") else row for row in token_lists]
        if any(isinstance(row, int) for row in rows):
            raise TypeError("forward takes a list of token lists: [[1, 2, 3]]")
        parts = [int32_array("token_lists", row) for row in rows]
        counts = ffi.new("size_t[]", [len(part) for part in parts])
        ids = ffi.new("int32_t[]", [token for part in parts for token in part])
        outputs = lib.QWEN_OUTPUT_LOGITS | (lib.QWEN_OUTPUT_HIDDEN_STATES if hidden_states else 0)

        def work() -> Any:
            box, error = ffi.new("qwen_tensors **"), ffi.new("qwen_error **")
            with engine.handle.use() as pointer:
                check(lib.qwen_forward(pointer, ids, counts, ffi.NULL, len(parts), outputs, ffi.NULL, box, error), error)
            return box[0]

        tensors = Handle(run_interruptibly(work, lib.qwen_tensors_free, lambda: None), lib.qwen_tensors_free, "tensors")
        names = [f"hidden.{layer}" for layer in range(self.info.num_hidden_layers + 1)] if hidden_states else []
        return ForwardOutput(
            [_array(tensors, sequence, "logits") for sequence in range(len(parts))],
            [[_array(tensors, sequence, name) for name in names] for sequence in range(len(parts) if names else 0)],
        )

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


class _View:
    """What numpy needs to make an array of the library's memory; the array keeps it, and so the memory, alive."""

    def __init__(self, owner: Handle, address: int, shape: tuple[int, ...]) -> None:
        self._owner = owner
        self.__array_interface__ = {"version": 3, "typestr": "<f4", "shape": shape, "data": (address, True)}


def _array(tensors: Handle, sequence: int, name: str) -> FloatArray:
    import numpy as np

    loaded = library()
    ffi, lib = loaded.ffi, loaded.lib
    error, tensor = ffi.new("qwen_error **"), ffi.new("qwen_tensor *")
    tensor.struct_size = ffi.sizeof("qwen_tensor")
    with tensors.use() as pointer:
        check(lib.qwen_tensors_get(pointer, sequence, name.encode(), tensor, error), error)
    if tensor.dtype != lib.QWEN_DTYPE_F32:
        raise QwenValueError(f"{name} has a data type that this qwen_ffi does not know; update qwen_ffi")
    shape = tuple(tensor.shape[0 : tensor.dimensions])
    return np.asarray(_View(tensors, int(ffi.cast("uintptr_t", tensor.data)), shape))


# Arrays lent to the library, by the number it hands back when it is done with them.
_lent: dict[int, list[Any]] = {}
_released_callback: Any = None


def _lend(arrays: list[Any]) -> Any:
    """Keeps arrays alive until released(user) is called with the returned `void *user`."""
    key = id(arrays)
    _lent[key] = arrays
    return library().ffi.cast("void *", key)


def _released() -> Any:
    """The C function pointer for `released`; one for the whole process, so that it can never die too early."""
    global _released_callback
    if _released_callback is None:
        ffi = library().ffi

        def released(user: Any) -> None:
            _lent.pop(int(ffi.cast("uintptr_t", user)), None)

        _released_callback = ffi.callback("void(void *)", released)
    return _released_callback


class _Weights:
    """A `qwen_weights` over numpy arrays."""

    def __init__(self, config: str, tensors: Mapping[str, Array]) -> None:
        loaded = library()
        self._ffi, self._lib = loaded.ffi, loaded.lib
        error, box = self._ffi.new("qwen_error **"), self._ffi.new("qwen_weights **")
        text = config.encode()
        named = list(_lendable(tensors))
        arrays = [array for _, _, array in named]
        user = _lend(arrays)
        status = self._lib.qwen_weights_new(text, len(text), _released(), user, box, error)
        if status != 0:
            _lent.pop(id(arrays), None)
        check(status, error)
        self.pointer = self._ffi.gc(box[0], self._lib.qwen_weights_free)
        dtypes = {"f32": self._lib.QWEN_DTYPE_F32, "f16": self._lib.QWEN_DTYPE_F16, "bf16": self._lib.QWEN_DTYPE_BF16}
        for name, dtype, array in named:
            shape = self._ffi.new("int64_t[]", list(array.shape))
            data = self._ffi.cast("void *", array.ctypes.data)
            check(
                self._lib.qwen_weights_add(
                    self.pointer, name.encode(), dtypes[dtype], shape, array.ndim, data, array.nbytes, error
                ),
                error,
            )

    def make_engine(self, options: Any, box: Any, error: Any) -> int:
        lib = self._lib
        model = self._ffi.new("qwen_model **")
        status = int(lib.qwen_model_from_weights(self.pointer, self._ffi.NULL, options, model, error))
        if status == lib.QWEN_OK:
            status = int(lib.qwen_engine_new(model[0], options, box, error))
            lib.qwen_model_free(model[0])  # the engine keeps a reference of its own
        return status

    def close(self) -> None:
        """Lets go of the object; a model made of it keeps the arrays."""
        self._ffi.release(self.pointer)


def _lendable(tensors: Mapping[str, Array]) -> Iterator[tuple[str, str, Array]]:
    import numpy as np

    for name, value in tensors.items():
        if "\0" in name:
            raise QwenValueError(f"a tensor's name must not contain NUL: {name!r}")
        array = np.ascontiguousarray(value).reshape(np.shape(value))  # ascontiguousarray makes [] of a scalar into [1]
        kind = array.dtype.name
        if kind not in ("float32", "float16", "uint16", "bfloat16"):
            raise QwenValueError(
                f"tensor '{name}' is {kind}; allowed are float32, float16, bfloat16, and uint16 for the bits of bfloat16"
            )
        yield name, {"float32": "f32", "float16": "f16"}.get(kind, "bf16"), array
