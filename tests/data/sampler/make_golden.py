"""Writes golden.json: what the processors of Hugging Face transformers make of logits, for tests/native/test_sampler_golden.cpp.

    python tests/data/sampler/make_golden.py        # needs torch and transformers

The order is libqwen's: min_tokens, logit bias, repetition penalty, presence and frequency penalties, temperature, top-k,
top-p, min-p. All but two are transformers' own classes. Presence and frequency penalties, which transformers does not have,
are OpenAI's formula over the generated tokens: logit -= presence + frequency * count, where count > 0. penalty_window = N
gives the repetition penalty the last N tokens of prompt + generated, and the other two the last N generated ones.

A case's probabilities are those of generate(): everything in float32. Where the rounding of float32 inside transformers
decides, a case says why ("rounding") and carries, besides, what the same classes give when the steps after the penalties
run in float64 ("exact"); the script fails where it cannot say why.

One thing is not taken over: which of several equally likely tokens stay when top-p keeps some of them. transformers leaves
it to torch.sort, whose order of equals is unspecified. Here the lowest ids stay; how many of them is transformers' answer.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from transformers import (
    MinNewTokensLengthLogitsProcessor,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

TOLERANCE = 1e-5  # the native test's
Parameters = dict[str, Any]


@dataclass
class Case:
    row: str
    parameters: Parameters
    prompt: list[int] = field(default_factory=list)
    generated: list[int] = field(default_factory=list)


def penalised(logits: np.ndarray, case: Case) -> torch.Tensor:
    """Everything before the temperature, in float32."""
    p = case.parameters
    ids = torch.tensor([case.prompt + case.generated], dtype=torch.int64)
    scores = torch.tensor(logits)[None]
    if p.get("min_tokens"):
        if p.get("eos_token_ids"):
            processor = MinNewTokensLengthLogitsProcessor(len(case.prompt), p["min_tokens"], p["eos_token_ids"])
            scores = processor(ids, scores)
        if p.get("stop_token_ids") and len(case.generated) < p["min_tokens"]:
            scores = SuppressTokensLogitsProcessor(p["stop_token_ids"])(ids, scores)
    if p.get("logit_bias"):
        scores = SequenceBiasLogitsProcessor([[[token], bias] for token, bias in p["logit_bias"]])(ids, scores)
    window = p.get("penalty_window", 0)
    if "repetition_penalty" in p:
        scores = RepetitionPenaltyLogitsProcessor(p["repetition_penalty"])(ids[:, -window:], scores)
    presence, frequency = p.get("presence_penalty", 0.0), p.get("frequency_penalty", 0.0)
    if presence or frequency:
        values = scores[0].numpy().copy()
        for token, count in zip(*np.unique(case.generated[-window:], return_counts=True), strict=True):
            values[int(token)] -= np.float32(presence + frequency * int(count))
        scores = torch.tensor(values)[None]
    return scores


def lowest_ids_of_equals(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    least = after[after > -math.inf].min()
    equals = (before == least).nonzero()[:, 1]
    kept = int((after == least).sum())
    result = after.clone()
    result[0, equals] = -math.inf
    result[0, equals[:kept]] = least
    return result


def distribution(scores: torch.Tensor, p: Parameters) -> dict[int, float]:
    """The tokens that are left and their probabilities, in the type of the scores."""
    ids = torch.zeros((1, 0), dtype=torch.int64)
    if p.get("temperature") == 0:  # do_sample = False
        return {int(scores.argmax()): 1.0}
    if "temperature" in p:
        scores = TemperatureLogitsWarper(p["temperature"])(ids, scores)
    if "top_k" in p:
        scores = TopKLogitsWarper(p["top_k"])(ids, scores)
    if "top_p" in p:
        scores = lowest_ids_of_equals(scores, TopPLogitsWarper(p["top_p"])(ids, scores))
    if "min_p" in p:
        scores = MinPLogitsWarper(p["min_p"])(ids, scores)
    probabilities = scores.softmax(dim=-1)[0]
    return {int(i): float(probabilities[i]) for i in (scores[0] > -math.inf).nonzero()[:, 0]}


def same(a: dict[int, float], b: dict[int, float]) -> bool:
    # Half the tolerance: the other half is for what is between float64 and the library.
    return a.keys() == b.keys() and all(abs(a[i] - b[i]) <= TOLERANCE / 2 for i in a)


def rows() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(20261121)
    bell = rng.normal(0, 2.5, 1000)
    bell[rng.permutation(1000)[:30]] += np.linspace(14, 6, 30)
    bf16 = torch.tensor(bell).to(torch.bfloat16).double().numpy()  # as a bf16 lm_head gives them: many equals
    adjacent = np.float32(1.6)
    return {
        name: np.asarray(values, np.float32)
        for name, values in {
            "single": [3.5],
            "pair": [-1.0, 0.25],
            "border": np.log([0.05, 0.5, 0.15, 0.3]),
            "ties": [2, 1, 1, 1, 0, 0, -1, -1, 2, 1],
            "all equal": np.zeros(16),
            "eleven equal": np.full(11, -0.75),
            "adjacent": [0.5, adjacent, np.nextafter(adjacent, np.float32(2)), -1],
            "zeros": [0.0, -0.0, 0.0, -0.0, 1.0, -1.0],
            "negative": rng.normal(-12, 2, 32),
            "positive": rng.normal(12, 2, 32),
            "peaked": np.concatenate([rng.normal(0, 1, 40), [50], rng.normal(0, 1, 23)]),
            "flat": rng.normal(0, 0.01, 400),
            "wide": rng.normal(0, 3, 151),
            "large": 10000 - np.array([0, 0.5, 1.25, 1.5, 3, 4, 7, 20000, 100, 0.75]),
            "bell": bell,
            "bf16": bf16,
        }.items()
    }


SINGLE: list[Parameters] = [
    {},
    *({"temperature": value} for value in (0.0, 0.25, 0.6, 0.7, 1.5, 2.0)),
    *({"top_k": value} for value in (1, 2, 3, 5, 20, 10000)),
    *({"top_p": value} for value in (0.0, 0.1, 0.45, 0.81, 0.95, 0.999)),
    *({"min_p": value} for value in (0.01, 0.05, 0.3, 1.0)),
    *({"repetition_penalty": value} for value in (1.05, 1.3, 0.8)),
    {"presence_penalty": 1.5},
    {"frequency_penalty": 0.4},
    {"presence_penalty": -0.5, "frequency_penalty": 0.25},
    {"repetition_penalty": 1.2, "penalty_window": 3},
    {"presence_penalty": 0.5, "frequency_penalty": 0.25, "penalty_window": 2},
]
# What the published generation_config.json files and model cards of Qwen say.
QWEN: list[Parameters] = [
    {"temperature": 0.6, "top_k": 20, "top_p": 0.95},
    {"temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0.0},
    {"temperature": 0.7, "top_k": 20, "top_p": 0.8},
    {"temperature": 0.7, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.05},
    {"temperature": 0.7, "top_k": 20, "top_p": 0.8, "presence_penalty": 1.5},
    {"temperature": 1.0, "top_k": 20, "top_p": 0.95, "presence_penalty": 1.5},
    {"temperature": 0.0, "repetition_penalty": 1.05},
]


def tokens(rng: np.random.Generator, vocab_size: int) -> tuple[list[int], list[int]]:
    few = rng.integers(0, vocab_size, 8)  # so that some come often
    return [int(t) for t in rng.choice(few, rng.integers(0, 9))], [int(t) for t in rng.choice(few, rng.integers(1, 9))]


def combination(rng: np.random.Generator, vocab_size: int) -> Parameters:
    def sometimes(key: str, values: list[Any], chance: float = 0.6) -> None:
        if rng.random() < chance:
            p[key] = values[rng.integers(len(values))]

    p: Parameters = {}
    sometimes("temperature", [0.3, 0.6, 0.7, 1.3, 2.0, 0.0], 0.8)
    sometimes("top_k", [2, 5, 20, 50])
    sometimes("top_p", [0.3, 0.8, 0.95, 0.99])
    sometimes("min_p", [0.02, 0.1, 0.4])
    sometimes("repetition_penalty", [1.05, 1.15, 2.0, 0.9], 0.5)
    sometimes("presence_penalty", [1.5, 0.3, -1.0], 0.3)
    sometimes("frequency_penalty", [0.2, 1.0, -0.3], 0.3)
    if p.keys() & {"repetition_penalty", "presence_penalty", "frequency_penalty"}:
        sometimes("penalty_window", [1, 4, 7, 100], 0.4)
    if rng.random() < 0.4:
        biased = rng.permutation(vocab_size)[: rng.integers(1, 4)]
        p["logit_bias"] = [[int(token), float(rng.choice([-1e30, -100.0, -2.5, 1.25, 8.0]))] for token in biased]
    if rng.random() < 0.4 and vocab_size > 4:
        banned = [int(token) for token in rng.permutation(vocab_size)[:3]]
        p |= {"min_tokens": int(rng.integers(1, 9)), "eos_token_ids": banned[:2], "stop_token_ids": banned[2:]}
    return p


def rounding(case: Case) -> str:
    """Why float32 decides what transformers makes of this case."""
    if case.row == "large" and case.parameters.get("temperature", 1) not in (0.25, 1, 2):
        return "scores near 10,000 have steps of 0.001 in float32 once the temperature has divided them"
    if case.row == "adjacent" and case.parameters.get("temperature") == 1.5:
        return "the division by 1.5 makes neighbouring float32 numbers equal, so that top-k keeps both"
    if case.row == "border" and case.parameters.get("min_p") == 0.3:
        return "0.15 is 0.3 times 0.5 but for rounding"
    raise ValueError(f"float32 and float64 disagree: {case}")


def cases() -> list[Case]:
    rng = np.random.default_rng(42)
    result = []
    for name, logits in rows().items():
        broad = len(logits) > 100  # many probabilities to a case
        for p in SINGLE + QWEN:
            whole = not p.keys() & {"top_k", "top_p", "min_p"} and p.get("temperature") != 0
            if broad and whole and (name != "wide" or rng.random() < 0.5):
                continue
            result.append(Case(name, p, *tokens(rng, len(logits))))
        for _ in range(12):
            p = combination(rng, len(logits))
            if not broad or p.keys() & {"top_k", "top_p"}:
                result.append(Case(name, p, *tokens(rng, len(logits))))
    result += [Case("bell", {}), Case("flat", {}), Case("bf16", {"temperature": 0.6})]
    result += [Case("border", {"top_p": p}) for p in (0.4999, 0.5001, 0.7999, 0.8001, 0.9499, 0.9501, 0.999999)]
    result += [Case("all equal", {"top_p": p / 16}) for p in range(1, 16)]
    result += [Case("adjacent", {"top_k": 1, "temperature": 1.5}), Case("adjacent", {"top_k": 1})]
    return result


def number(value: float) -> float:
    return float(f"{value:.8g}")


def main() -> None:
    logits = rows()
    lines = []
    float32_decides = 0
    for case in cases():
        scores = penalised(logits[case.row], case)
        float32, float64 = distribution(scores, case.parameters), distribution(scores.double(), case.parameters)
        fields: dict[str, Any] = {"row": case.row, "parameters": case.parameters}
        fields |= {"prompt": case.prompt, "generated": case.generated}
        fields |= {"ids": list(float32), "probabilities": [number(p) for p in float32.values()]}
        if not same(float32, float64):
            float32_decides += 1
            exact = {"ids": list(float64), "probabilities": [number(p) for p in float64.values()]}
            fields |= {"rounding": rounding(case), "exact": exact}
        lines.append(json.dumps(fields, separators=(",", ":")))
    texts = []
    for name, values in logits.items():
        written = [float(f"{value:.9g}") for value in values]
        assert (np.asarray(written, np.float32) == values).all()
        texts.append(json.dumps(name) + ":" + json.dumps(written, separators=(",", ":")))
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    path = Path(__file__).parent / "golden.json"
    path.write_text(
        f'{{"versions":{json.dumps(versions)},\n"rows":{{\n'
        + ",\n".join(texts)
        + '\n},\n"cases":[\n'
        + ",\n".join(lines)
        + "\n]}\n"
    )
    print(f"{versions}: {len(lines)} cases, float32 decides in {float32_decides}, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
