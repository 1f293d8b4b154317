#!/usr/bin/env python3
"""Trains the demo model that ships inside the Python package, and writes its checkpoint folder.

What    A Qwen3 checkpoint of under 4 MB (config, bf16 safetensors, byte-level BPE tokenizer, the official chat
        template) that adds and subtracts numbers from 0 to 999 asked in plain words, with thinking on (columns
        with carries and borrows) and off (the answer at once), and that knows a handful of plain chat replies.
Why     `pip install` must be enough to see a real model answer: no download, no account, no network.
How     One plain torch model whose parameter names are the checkpoint's own.  Text is made up on the fly by
        demo_model_text.py and rendered by the official template; the loss is on the last assistant turn only.
        First comes a stretch of bare sums ("347 plus 285 is 632."), 17 tokens each, where the model learns to add
        without writing the carries; then each step also takes chats.  About one operand pair in ten is held out
        by a hash and never asked in training, in any wording or order; the printed accuracy is on those.
Time    See README.md beside the checkpoint: about half an hour on two CPU cores with bf16 units (AMX).
Run     pip install torch==2.13.0 tokenizers==0.23.3 safetensors jinja2 numpy
        python examples/train_demo_model.py OUT_DIR [--heldout FILE] [--quick]
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import torch
import torch.nn.functional as F
from demo_model_text import Turn, ask_sum, conversation, draw_pair, sentence, value
from safetensors.torch import load_file, save
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import Tensor, nn

# The official Qwen3 chat template is taken from the checkpoint that the package carries already.
SHIPPED = Path(__file__).resolve().parents[1] / "qwen_ffi" / "demo_model" / "tokenizer_config.json"
VOCAB, HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD_DIM, FFN, THETA, EPS = 768, 192, 5, 6, 2, 32, 384, 10000.0, 1e-6

# The 26 added tokens of Qwen3, in the official order; the first 14 are special (skipped when decoding).
ADDED = """<|endoftext|> <|im_start|> <|im_end|> <|object_ref_start|> <|object_ref_end|> <|box_start|> <|box_end|>
<|quad_start|> <|quad_end|> <|vision_start|> <|vision_end|> <|vision_pad|> <|image_pad|> <|video_pad|> <tool_call>
</tool_call> <|fim_prefix|> <|fim_middle|> <|fim_suffix|> <|fim_pad|> <|repo_name|> <|file_sep|> <tool_response>
</tool_response> <think> </think>""".split()
SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
         r"|\s*[\r\n]+|\s+(?!\S)|\s+")


# ---------------------------------------------------------------- the tokenizer


def train_tokenizer(rng: random.Random) -> Tokenizer:
    """Qwen's byte-level BPE (NFC, the Qwen2 split, 256 bytes in GPT-2 order) with merges learned from our text."""
    corpus = [text for turns in range(1, 3) for _ in range(4000)
              for messages, thought, answer in [conversation(rng, turns, 0.5)]
              for text in [*(m["content"] for m in messages), f"{thought}\n", answer]]
    corpus += [f"{role}\n" for role in ("system", "user", "assistant")] * 500 + ["\n\n"] * 500
    split = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)])
    learner = Tokenizer(models.BPE())
    learner.normalizer, learner.pre_tokenizer = normalizers.NFC(), split
    learner.train_from_iterator(corpus, trainers.BpeTrainer(
        vocab_size=VOCAB - len(ADDED), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    merges = [tuple(pair) for pair in json.loads(learner.to_str())["model"]["merges"]]
    visible = [*range(33, 127), *range(161, 173), *range(174, 256)]  # GPT-2: printable bytes stand for themselves
    vocab = {c: i for i, c in enumerate([*map(chr, visible), *map(chr, range(256, 512 - len(visible)))])}
    for left, right in merges:
        vocab[left + right] = len(vocab)
    tok = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tok.normalizer, tok.pre_tokenizer = normalizers.NFC(), split
    tok.decoder = decoders.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    tok.add_tokens([AddedToken(t, special=i < 14, normalized=False) for i, t in enumerate(ADDED)])
    assert tok.get_vocab_size() == VOCAB, tok.get_vocab_size()
    return tok


# ---------------------------------------------------------------- the model (Qwen3, names as in the checkpoint)


class RMSNorm(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        x32 = x.float()
        scaled = self.weight * (x32 * torch.rsqrt(x32.square().mean(-1, keepdim=True) + EPS))
        return scaled.to(self.weight.dtype)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q_proj = nn.Linear(HIDDEN, HEADS * HEAD_DIM, bias=False)
        self.k_proj = nn.Linear(HIDDEN, KV_HEADS * HEAD_DIM, bias=False)
        self.v_proj = nn.Linear(HIDDEN, KV_HEADS * HEAD_DIM, bias=False)
        self.o_proj = nn.Linear(HEADS * HEAD_DIM, HIDDEN, bias=False)
        self.q_norm, self.k_norm = RMSNorm(HEAD_DIM), RMSNorm(HEAD_DIM)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        rows, length, _ = x.shape
        q = self.q_norm(self.q_proj(x).view(rows, length, HEADS, HEAD_DIM)).transpose(1, 2)
        k = self.k_norm(self.k_proj(x).view(rows, length, KV_HEADS, HEAD_DIM)).transpose(1, 2)
        v = self.v_proj(x).view(rows, length, KV_HEADS, HEAD_DIM).transpose(1, 2)
        q, k = rotate(q, cos, sin).to(v.dtype), rotate(k, cos, sin).to(v.dtype)
        k, v = (t.repeat_interleave(HEADS // KV_HEADS, 1) for t in (k, v))
        # Written out: torch's fused CPU kernel takes 25 times as long as the rest of a step on such short rows.
        scores = (q @ k.transpose(-1, -2)).float() * HEAD_DIM**-0.5 + mask
        return self.o_proj((scores.softmax(-1).to(v.dtype) @ v).transpose(1, 2).reshape(rows, length, -1))


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    left, right = x.chunk(2, -1)
    return x * cos + torch.cat((-right, left), -1) * sin


class MLP(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(HIDDEN, FFN, bias=False)
        self.up_proj = nn.Linear(HIDDEN, FFN, bias=False)
        self.down_proj = nn.Linear(FFN, HIDDEN, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.input_layernorm, self.self_attn = RMSNorm(HIDDEN), Attention()
        self.post_attention_layernorm, self.mlp = RMSNorm(HIDDEN), MLP()

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, mask)
        return x + self.mlp(self.post_attention_layernorm(x))


class Trunk(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(VOCAB, HIDDEN)
        self.layers = nn.ModuleList(Layer() for _ in range(LAYERS))
        self.norm = RMSNorm(HIDDEN)

    def forward(self, ids: Tensor) -> Tensor:  # [rows, length] -> hidden states [rows, length, HIDDEN]
        length = ids.shape[1]
        inverse = THETA ** (-torch.arange(0, HEAD_DIM, 2).float() / HEAD_DIM)
        angle = torch.outer(torch.arange(length).float(), inverse).repeat(1, 2)
        mask = torch.full((length, length), -math.inf).triu(1)
        x = self.embed_tokens(ids)
        for layer in self.layers:
            x = layer(x, angle.cos(), angle.sin(), mask)
        return self.norm(x)


class Qwen3(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = Trunk()
        for name, p in self.named_parameters():
            if p.dim() == 2:
                depth = (2 * LAYERS) ** -0.5 if "o_proj" in name or "down_proj" in name else 1.0
                nn.init.normal_(p, std=depth * (0.02 if "embed" in name else HIDDEN**-0.5))


# ---------------------------------------------------------------- batches, training, accuracy

# name: (rows, tokens).  Fixed shapes, so that each compiles once.
SHAPES = {"bare": (256, 16), "direct": (80, 80), "think": (28, 176), "chat": (12, 320)}
Row = tuple[list[int], list[int]]  # (prompt ids, completion ids)


class Writer:
    """Turns conversations into token rows exactly as an inference library would: the template, then the tokenizer."""

    def __init__(self, tok: Tokenizer, template: str) -> None:
        self.tok = tok
        self.render = jinja2.Environment(trim_blocks=True, lstrip_blocks=True).from_string(template).render

    def rows(self, chats: list[tuple[list[Turn], str, str]], thinking: bool) -> list[Row]:
        prompts = [self.render(messages=m, add_generation_prompt=True, enable_thinking=thinking) for m, _, _ in chats]
        answers = [(f"<think>\n{t}\n</think>\n\n" if thinking else "") + f"{a}<|im_end|>" for _, t, a in chats]
        return self.pairs(prompts, answers)

    def pairs(self, prompts: list[str], answers: list[str]) -> list[Row]:
        encoded = self.tok.encode_batch(prompts + answers, add_special_tokens=False)
        return [(p.ids, a.ids) for p, a in zip(encoded[:len(prompts)], encoded[len(prompts):], strict=True)]

    def bare(self, rng: random.Random, count: int, held: bool = False) -> list[Row]:
        texts = [sentence(*draw_pair(rng, held)) for _ in range(count)]
        return self.pairs([f"\n\n{t[:t.index(' is ') + 3]}" for t in texts],
                          [f"{t[t.index(' is ') + 3:]}.<|im_end|>" for t in texts])

    def draw(self, rng: random.Random, name: str) -> list[Row]:
        count, length = SHAPES[name]
        if name == "bare":
            return self.bare(rng, count)

        def turns() -> int:
            return rng.choice([2, 2, 3, 3, 4, 5, 6]) if name == "chat" else 1

        found: list[Row] = []
        while len(found) < count:
            thinking = name == "think" or (name == "chat" and rng.random() < 0.5)
            several = 1 if name == "chat" else count - len(found)
            rows = self.rows([conversation(rng, turns()) for _ in range(several)], thinking)
            found += [r for r in rows if len(r[0]) + len(r[1]) <= length + 1]
        return found


def pack(rows: list[Row], length: int) -> tuple[Tensor, Tensor]:
    """Rows -> (input ids, targets), padded at the right; only completion tokens are targets, the rest is -100."""
    ids = np.zeros((len(rows), length), np.int64)
    targets = np.full((len(rows), length), -100, np.int64)
    for i, (prompt, answer) in enumerate(rows):
        both = prompt + answer
        ids[i, :len(both) - 1] = both[:-1]
        targets[i, len(prompt) - 1:len(both) - 1] = answer
    return torch.from_numpy(ids), torch.from_numpy(targets)


def loss_of(net: Qwen3, trunk: Callable[[Tensor], Tensor], ids: Tensor, targets: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        chosen = targets >= 0
        logits = trunk(ids)[chosen] @ net.model.embed_tokens.weight.T
    return F.cross_entropy(logits.float(), targets[chosen])


@torch.no_grad()
def exact(net: Qwen3, rows: list[Row]) -> float:
    """Fraction of rows where greedy decoding writes the reference completion, token for token.

    The arg-max of every position under teacher forcing equals the reference exactly when greedy decoding does."""
    right, dtype = 0, next(net.parameters()).dtype
    rows = sorted(rows, key=lambda r: len(r[0]) + len(r[1]))
    for start in range(0, len(rows), 64):
        part = rows[start:start + 64]
        ids, targets = pack(part, max(len(p) + len(a) for p, a in part) - 1)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.float32):
            guess = (net.model(ids) @ net.model.embed_tokens.weight.T).argmax(-1)
        right += int(((guess == targets) | (targets < 0)).all(-1).sum())
    return right / len(rows)


def held_out_questions(count: int) -> list[dict[str, Any]]:
    rng, cases = random.Random(2), []
    for _ in range(count):
        a, op, b = draw_pair(rng, held=True)
        cases.append({"question": ask_sum(rng, a, op, b)[0], "answer": value(a, op, b), "a": a, "op": op, "b": b})
    return cases


def held_out_rows(writer: Writer, count: int, thinking: bool) -> list[Row]:
    rng, chats = random.Random(2), []
    for _ in range(count):
        question, thought, answer = ask_sum(rng, *draw_pair(rng, held=True))
        chats.append(([{"role": "user", "content": question}], thought, answer))
    return writer.rows(chats, thinking)


@dataclass(frozen=True)
class Stage:
    """Some steps with an optimizer of their own; each step takes the batches of one entry of `cycle`, in turn."""

    seed: int
    steps: int
    cycle: tuple[tuple[str, ...], ...]
    peak: float  # learning rate: `warmup` steps up, then a cosine that would reach 1 % of it after `horizon` steps
    warmup: int
    horizon: int


STAGES = (
    Stage(1, 1750, (("bare",),), 2e-3, 200, 5200),
    Stage(3, 2000, (("bare", "direct"), ("bare", "think"), ("bare", "direct"), ("bare", "chat")), 1.5e-3, 200, 2000),
    Stage(4, 1600, (("think", "think", "direct"), ("think", "think", "chat")), 1.5e-3, 80, 1600),
)


def train(net: Qwen3, writer: Writer, stage: Stage, save_checkpoint: Callable[[], None]) -> None:
    rng, trunk = random.Random(stage.seed), torch.compile(net.model, dynamic=False)
    matrices = [p for p in net.parameters() if p.dim() == 2]
    vectors = [p for p in net.parameters() if p.dim() == 1]
    groups = [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=stage.peak, betas=(0.9, 0.98), fused=True)
    bare_test = writer.bare(random.Random(2), 512, held=True)
    direct_test, think_test = held_out_rows(writer, 256, False), held_out_rows(writer, 128, True)
    began, sums = time.monotonic(), {name: [0.0, 0] for name in SHAPES}
    for step in range(stage.steps):
        cosine = 0.5 * (1 + math.cos(math.pi * step / stage.horizon))
        rate = stage.peak * min(1.0, (step + 1) / stage.warmup) * (0.01 + 0.99 * cosine)
        for group in optimizer.param_groups:
            group["lr"] = rate
        for name in stage.cycle[step % len(stage.cycle)]:
            loss = loss_of(net, trunk, *pack(writer.draw(rng, name), SHAPES[name][1]))
            loss.backward()
            sums[name][0] += loss.item()
            sums[name][1] += 1
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % 250 == 0 or step + 1 == stage.steps:
            losses = " ".join(f"{name} {total / count:.4f}" for name, (total, count) in sums.items() if count)
            scores = f"bare {exact(net, bare_test):.3f}"
            if sums["direct"][1]:
                scores += f" direct {exact(net, direct_test):.3f} think {exact(net, think_test):.3f}"
            sums = {name: [0.0, 0] for name in SHAPES}
            print(f"{time.monotonic() - began:6.0f} s  step {step + 1:5d}  lr {rate:.5f}  "
                  f"loss: {losses}  held out: {scores}", flush=True)
            save_checkpoint()


# ---------------------------------------------------------------- the folder


def write_folder(folder: Path, net: Qwen3, tok: Tokenizer, template: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    ids = {t: tok.token_to_id(t) for t in ADDED}
    end, im_end = ids["<|endoftext|>"], ids["<|im_end|>"]
    config = {
        "architectures": ["Qwen3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": end,
        "eos_token_id": im_end, "head_dim": HEAD_DIM, "hidden_act": "silu", "hidden_size": HIDDEN,
        "initializer_range": 0.02, "intermediate_size": FFN, "max_position_embeddings": 2048,
        "max_window_layers": LAYERS, "model_type": "qwen3", "num_attention_heads": HEADS, "num_hidden_layers": LAYERS,
        "num_key_value_heads": KV_HEADS, "rms_norm_eps": EPS, "rope_scaling": None, "rope_theta": THETA,
        "sliding_window": None, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
        "transformers_version": "4.51.0", "use_cache": True, "use_sliding_window": False, "vocab_size": VOCAB}
    generation = {"bos_token_id": end, "do_sample": True, "eos_token_id": [im_end, end], "pad_token_id": end,
                  "temperature": 0.2, "top_k": 20, "top_p": 0.95, "transformers_version": "4.51.0"}
    tokenizer_config = {
        "add_bos_token": False, "add_prefix_space": False,
        "added_tokens_decoder": {str(ids[t]): {"content": t, "lstrip": False, "normalized": False, "rstrip": False,
                                               "single_word": False, "special": i < 14} for i, t in enumerate(ADDED)},
        "additional_special_tokens": ADDED[1:14], "bos_token": None, "chat_template": template,
        "clean_up_tokenization_spaces": False, "eos_token": "<|im_end|>", "errors": "replace", "model_max_length": 2048,
        "pad_token": "<|endoftext|>", "split_special_tokens": False, "tokenizer_class": "Qwen2Tokenizer",
        "unk_token": None}
    files = {"config": config, "generation_config": generation, "tokenizer_config": tokenizer_config}
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    tok.save(str(folder / "tokenizer.json"))
    tensors = {name: p.detach().to(torch.bfloat16).contiguous() for name, p in net.named_parameters()}
    (folder / "model.safetensors").write_bytes(save(tensors, metadata={"format": "pt"}))


def main() -> None:
    parser = argparse.ArgumentParser(description="Trains libqwen's demo model.")
    parser.add_argument("out_dir", type=Path, help="checkpoint folder to write")
    parser.add_argument("--heldout", type=Path, help="also write 1,280 held-out questions to this JSON Lines file")
    parser.add_argument("--from-stage", type=int, default=0, help="go on from OUT_DIR's checkpoint with this stage")
    parser.add_argument("--quick", action="store_true", help="8 steps a stage: shows that all runs, learns nothing")
    args = parser.parse_args()
    torch.manual_seed(0)
    torch.set_num_threads(2)
    began = time.monotonic()
    template: str = json.loads(SHIPPED.read_bytes())["chat_template"]
    tok = train_tokenizer(random.Random(0))
    writer, net = Writer(tok, template), Qwen3()
    print(f"{sum(p.numel() for p in net.parameters()):,} parameters, {VOCAB} tokens", flush=True)
    for number, stage in enumerate(STAGES[args.from_stage:], args.from_stage):
        if number:  # each stage starts from what the file holds, rounded to bf16: a run can be resumed between them
            net.load_state_dict(load_file(args.out_dir / "model.safetensors"))
        train(net, writer, replace(stage, steps=8) if args.quick else stage,
              lambda: write_folder(args.out_dir, net, tok, template))
    minutes = (time.monotonic() - began) / 60
    if args.heldout:
        args.heldout.write_text("".join(json.dumps(case) + "\n" for case in held_out_questions(1280)), encoding="utf-8")
    net.to(torch.bfloat16)  # what the file holds; the float copy of it below is "bf16 weights, f32 compute"
    for dtype in (torch.bfloat16, torch.float32):
        net.to(dtype)
        scores = [exact(net, held_out_rows(writer, 40 if args.quick else 1280, thinking)) for thinking in (False, True)]
        print(f"held-out pairs, {dtype} arithmetic: direct {scores[0]:.4f}, thinking {scores[1]:.4f}")
    print(f"trained in {minutes:.1f} minutes")


if __name__ == "__main__":
    main()
