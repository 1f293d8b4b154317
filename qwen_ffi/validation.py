"""Compares what the library computes with stored reference outputs (Hugging Face transformers, float32).

A case is a checkpoint folder with `expected.safetensors` (a prompt, its logits and hidden states, the greedy continuation,
usually a longer text) and meta.json with what bfloat16 arithmetic cost the reference itself. Limits:

    float32   logits, hidden states: max abs diff 1e-3. Free greedy generation: every id equal. Embeddings: 1e-5.
    bfloat16  on prompt + greedy continuation: mean abs diff 2 x, KL(reference, engine) mean 3 x and max 5 x the reference's
              own, argmax agreement at least its own less 2/32. Embeddings: cosine 0.999.
              What rounds activations (amx, a GPU) may tip a near tie between two experts of a mixture, which changes one
              position a lot: there, and only there, the largest KL is the second largest.

The multi-token-prediction head has the limits of the logits (at bfloat16 of their mean difference).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._safetensors import read_safetensors
from .errors import QwenError, QwenFileFormatError, QwenNotFoundError, QwenUnsupportedError
from .sampling import SamplingConfig
from .session import QwenInferenceSession
from .transformer import Transformer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

GREEDY = SamplingConfig(
    temperature=0.0, ignore_eos=True, repetition_penalty=1.0, presence_penalty=0.0, frequency_penalty=0.0
)
F32_LIMIT = 1e-3
EMBEDDING_LIMIT = 1e-5
EMBEDDING_COSINE = 0.999


@dataclass(frozen=True, slots=True)
class Setting:
    """How to open the model. None: the library's default."""

    dtype: str
    isa: str | None = None
    threads: int | None = None
    device: str = "cpu"

    def options(self) -> dict[str, Any]:
        return {"device": self.device, "dtype": self.dtype, "cpu_isa": self.isa, "threads": self.threads}


@dataclass(frozen=True, slots=True)
class Check:
    """One number and its limit; a lower limit when `at_least`."""

    name: str
    measured: float
    limit: float
    at_least: bool = False

    @property
    def ok(self) -> bool:
        # Negated comparisons would let NaN pass.
        return self.measured >= self.limit if self.at_least else self.measured <= self.limit


@dataclass(frozen=True, slots=True)
class Report:
    """One expected file under one setting."""

    case: str
    file: str
    setting: Setting
    backend: str = ""
    threads: int = 0
    checks: tuple[Check, ...] = ()
    greedy: str = "-"  # "32/32": ids of the free greedy continuation that are equal
    not_supported: str = ""  # the library's reason
    failure: str = ""  # an error on the way
    counters: Mapping[str, int] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        return not self.failure and all(check.ok for check in self.checks)

    @property
    def worst(self) -> Check | None:
        """The check that is nearest to its limit, or furthest beyond it."""
        return max(self.checks, key=_strain, default=None)


def find_cases(folders: Sequence[Path]) -> list[Path]:
    """Each folder itself if it is a checkpoint with expected outputs, else those directly inside it; a GGUF file with
    expected outputs beside it is a checkpoint too."""
    cases: list[Path] = []
    for folder in folders:
        if folder.suffix == ".gguf" and folder.is_file():
            if not any(folder.parent.glob("expected*.safetensors")):
                raise QwenNotFoundError(f"there is no expected*.safetensors beside {folder}")
            cases.append(folder)
            continue
        if not folder.is_dir():
            raise QwenNotFoundError(f"{folder} is not a folder")
        inner = [folder] if _is_case(folder) else sorted(entry for entry in folder.iterdir() if _is_case(entry))
        if not inner:
            raise QwenNotFoundError(f"{folder} holds no checkpoint with an expected*.safetensors")
        cases.extend(inner)
    return cases


def validate(case: Path, setting: Setting) -> Iterator[Report]:
    """One report per expected*.safetensors of the case."""
    for expected in sorted(_folder(case).glob("expected*.safetensors")):
        yield _report(case, expected, setting)


def _folder(case: Path) -> Path:
    return case if case.is_dir() else case.parent  # of a GGUF file


def _is_case(folder: Path) -> bool:
    described = (folder / "config.json").is_file() or any(folder.glob("*.gguf"))
    return described and any(folder.glob("expected*.safetensors"))


def _report(case: Path, expected: Path, setting: Setting) -> Report:
    measure = _MEASURES.get(expected.stem)
    if measure is None:
        return Report(case.name, expected.stem, setting, not_supported="this version computes text only")
    try:
        with Transformer.from_pretrained(case, **setting.options(), mtp=int(measure is _mtp)) as model:
            checks, greedy = measure(case, read_safetensors(expected), model, setting)
            stats = model.stats()
            return Report(
                case.name,
                expected.stem,
                setting,
                stats.backend,
                stats.threads,
                checks,
                greedy,
                counters=model.counters(),
            )
    except QwenUnsupportedError as error:
        return Report(case.name, expected.stem, setting, not_supported=str(error))
    except (QwenError, KeyError, ValueError) as error:
        return Report(case.name, expected.stem, setting, failure=f"{type(error).__name__}: {error}")


def _text(
    case: Path, expected: Mapping[str, Array], model: Transformer, setting: Setting
) -> tuple[tuple[Check, ...], str]:
    prompt, greedy = expected["input_ids"].tolist(), expected["greedy_ids"].tolist()
    with QwenInferenceSession(case, **setting.options()) as session:
        ids = session.generate_ids(prompt, GREEDY, max_tokens=len(greedy))
    equal = sum(ours == theirs for ours, theirs in zip(ids, greedy, strict=False))
    free = f"{equal}/{len(greedy)}"
    if setting.dtype != "f32":
        return _text_16_bit(case, expected, model), free
    layers = model.info.num_hidden_layers
    answered = prompt + greedy[:-1]
    longest = expected["long_input_ids"].tolist() if "long_input_ids" in expected else answered
    output = model.forward([prompt, answered, longest], hidden_states=True)
    checks = [
        Check("logits", _max_diff(output[0], expected["logits"]), F32_LIMIT),
        Check("greedy_logits", _max_diff(output[1][len(prompt) - 1 :], expected["greedy_logits"]), F32_LIMIT),
        Check("greedy_ids", equal, len(greedy), at_least=True),
    ]
    if "long_logits_last8" in expected:
        checks.append(Check("long_logits_last8", _max_diff(output[2][-8:], expected["long_logits_last8"]), F32_LIMIT))
    for layer in range(layers + 1):
        name = f"hidden.{layer}"
        if name in expected:
            checks.append(Check(name, _max_diff(output.hidden_states[0][layer], expected[name]), F32_LIMIT))
    # The same text token by token: how a prompt is cut must not change a bit.
    with Transformer.from_pretrained(case, **setting.options(), max_batch_tokens=1) as stepwise:
        by_token = stepwise.forward([longest])
    checks.append(Check("token by token", _max_diff(by_token[0], output[2]), 0.0))
    return tuple(checks), free


def _text_16_bit(case: Path, expected: Mapping[str, Array], model: Transformer) -> tuple[Check, ...]:
    """Teacher forced over prompt + greedy_ids: row t of the reference predicts token t + 1."""
    import numpy as np

    stats = _stats(case)
    prompt, greedy = expected["input_ids"].tolist(), expected["greedy_ids"].tolist()
    reference = np.concatenate([expected["logits"], expected["greedy_logits"][1:]]).astype(np.float64)
    ours = model.forward([prompt + greedy[:-1]])[0].astype(np.float64)
    p, q = _log_softmax(reference), _log_softmax(ours)
    divergence = (np.exp(p) * (p - q)).sum(-1)
    rounded = ("moe.f32.amx", "moe.bf16.sm_")
    left_out = 1 if any(calls and name.startswith(rounded) for name, calls in model.counters().items()) else 0
    agreement = float((ours[len(prompt) - 1 :].argmax(-1) == np.asarray(greedy)).mean())
    return (
        Check("mean diff", float(np.abs(ours - reference).mean()), 2 * stats["bf16_meandiff"]),
        Check("KL mean", float(divergence.mean()), 3 * stats["bf16_kl_mean"]),
        Check("KL max", float(np.sort(divergence)[-1 - left_out]), 5 * stats["bf16_kl_max"]),
        Check("argmax agreement", agreement, stats["bf16_greedy_agreement_teacher_forced"] - 2 / 32, at_least=True),
    )


def _embedding(
    case: Path, expected: Mapping[str, Array], model: Transformer, setting: Setting
) -> tuple[tuple[Check, ...], str]:
    """The hidden state of the last token after the final norm, scaled to length one."""
    import numpy as np

    checks = []
    texts = sorted(name.removesuffix(".input_ids") for name in expected if name.endswith(".input_ids"))
    output = model.forward([expected[f"{text}.input_ids"].tolist() for text in texts], hidden_states=True)
    for text, layers in zip(texts, output.hidden_states, strict=True):
        last = layers[-1][-1].astype(np.float64)
        with np.errstate(all="ignore"):  # a NaN fails its check
            embedding = last / np.linalg.norm(last)
        reference = expected[f"{text}.embedding"].reshape(-1)
        if setting.dtype == "f32":
            checks.append(Check(f"{text}.embedding", _max_diff(embedding, reference), EMBEDDING_LIMIT))
        else:
            cosine = float(embedding @ reference / np.linalg.norm(reference))
            checks.append(Check(f"{text}.cosine", cosine, EMBEDDING_COSINE, at_least=True))
    return tuple(checks), "-"


def _mtp(
    case: Path, expected: Mapping[str, Array], model: Transformer, setting: Setting
) -> tuple[tuple[Check, ...], str]:
    """The multi-token-prediction head. What bfloat16 costs it is not in meta.json: it may cost what it costs the decoder."""
    import numpy as np

    ours = model.mtp_logits([expected["input_ids"].tolist()])[0]
    if setting.dtype == "f32":
        return (Check("mtp logits", _max_diff(ours, expected["logits"]), F32_LIMIT),), "-"
    difference = float(np.abs(ours.astype(np.float64) - expected["logits"]).mean())
    return (Check("mtp mean diff", difference, 2 * _stats(case)["bf16_meandiff"]),), "-"


_MEASURES = {"expected": _text, "expected_embedding": _embedding, "expected_mtp": _mtp}


def _stats(case: Path) -> dict[str, float]:
    path = _folder(case) / "meta.json"
    try:
        stats = json.loads(path.read_text(encoding="utf-8"))["stats"]
        return {key: float(value) for key, value in stats.items() if isinstance(value, int | float)}
    except FileNotFoundError:
        raise QwenNotFoundError(f"{path} does not exist; the bfloat16 limits are in it") from None
    except (ValueError, KeyError, TypeError) as error:
        raise QwenFileFormatError(f"{path}: {error}") from None


def _max_diff(ours: Array, theirs: Array) -> float:
    import numpy as np

    if ours.shape != theirs.shape:
        raise QwenFileFormatError(f"the reference has shape {list(theirs.shape)}, the library {list(ours.shape)}")
    return float(np.abs(ours.astype(np.float64) - theirs.astype(np.float64)).max())


def _log_softmax(logits: Array) -> Array:
    import numpy as np

    shifted = logits - logits.max(-1, keepdims=True)
    result: Array = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    return result


def _strain(check: Check) -> float:
    """How much of what is allowed is used; over 1 is too much, NaN is worst of all."""
    if check.measured != check.measured:
        return float("inf")
    if check.at_least:
        return 0.0 if check.ok else float("inf")
    return check.measured / check.limit if check.limit else (0.0 if check.ok else float("inf"))
