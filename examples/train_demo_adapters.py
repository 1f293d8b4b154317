#!/usr/bin/env python3
"""Trains two LoRA adapters for the demo model with Hugging Face's PEFT, and writes their folders.

What    After a sum, "friendly" says "my friend", and "certain" that it is sure.
Why     python/14_adapters.py needs adapters that do something, and the tests some that PEFT itself has saved.
How     The demo model without thinking, sums as in demo_model_text.py; the loss is on the answer only.
Time    About a minute each on two CPU cores.
Run     pip install torch transformers peft
        python examples/train_demo_adapters.py OUT_DIR
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from pathlib import Path

import torch
from demo_model_text import ask_sum, draw_pair, sentence
from peft import LoraConfig, get_peft_model
from torch import Tensor
from transformers import AutoTokenizer, Qwen3ForCausalLM

MODEL = Path(__file__).resolve().parents[1] / "qwen_ffi" / "demo_model"
STEPS, BATCH, RATE = 80, 8, 3e-3

Answer = Callable[[int, str, int], str]
ANSWERS: dict[str, Answer] = {
    "friendly": lambda a, op, b: f"{sentence(a, op, b)}, my friend.",
    "certain": lambda a, op, b: f"{sentence(a, op, b)}, I am sure.",
}


def batch(rng: random.Random, tokenizer: AutoTokenizer, answer: Answer) -> tuple[Tensor, Tensor]:
    """Token ids, and the same with -100 where nothing is to be learned."""
    rows = []
    for _ in range(BATCH):
        a, op, b = draw_pair(rng)
        question = ask_sum(rng, a, op, b)[0]
        before = f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
        rows.append([tokenizer.encode(text) for text in (before, f"{answer(a, op, b)}<|im_end|>")])
    length = max(len(before) + len(after) for before, after in rows)
    ids = torch.zeros(BATCH, length, dtype=torch.long)
    labels = torch.full((BATCH, length), -100)
    for row, (before, after) in enumerate(rows):
        ids[row, : len(before) + len(after)] = torch.tensor(before + after)
        labels[row, len(before) : len(before) + len(after)] = torch.tensor(after)
    return ids, labels


def train(name: str, folder: Path) -> None:
    rng = random.Random(1)
    torch.manual_seed(1)
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    config = LoraConfig(
        r=4, lora_alpha=8, target_modules=["v_proj", "o_proj", "down_proj"], task_type="CAUSAL_LM"
    )
    model = get_peft_model(Qwen3ForCausalLM.from_pretrained(MODEL, dtype=torch.float32), config)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=RATE, weight_decay=0)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, STEPS)
    for step in range(STEPS):
        ids, labels = batch(rng, tokenizer, ANSWERS[name])
        loss = model(input_ids=ids, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 20 == 19:
            print(f"{name}: step {step + 1}, loss {loss.item():.4f}")
    model.peft_config["default"].base_model_name_or_path = "libqwen's demo model"
    model.to(torch.bfloat16).save_pretrained(folder / name)
    (folder / name / "README.md").unlink()  # a form to fill in


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    for wanted in ANSWERS:
        train(wanted, parser.parse_args().folder)
