"""One engine of bench_peers.py, in a process and an environment of its own: the model is loaded once, then asked line by line.

    PYTHON peer_worker.py [--option KEY=VALUE …] ENGINE MODEL THREADS          requests on stdin, answers on stdout
    PYTHON peer_worker.py [--option KEY=VALUE …] ENGINE MODEL THREADS TEXT     the first token after a text

ENGINE: libqwen, llama.cpp, transformers or openvino; an option is one that the engine is made with, by its own name.
The first answer is what the engine says of itself. A request is {"prompts": [[id, …], …], "count": N}: all prompts, of one
length, are computed together and N tokens are generated for each, greedily, past any end token. Its answer is {"first": seconds
from the request to the first tokens, "rest": seconds of the N - 1 steps after that, "tokens": the first tokens}. Answers are
JSON, one a line. Needs nothing of this project but for libqwen, so any Python that has the engine will do.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any, TextIO

Prompts = list[list[int]]
Answer = dict[str, Any]
Options = dict[str, int | str]


def timed(begin: float, first: float, end: float, tokens: list[int]) -> Answer:
    return {"first": first - begin, "rest": end - first, "tokens": tokens}


class LibQwen:
    def __init__(self, model: str, threads: int, options: Options) -> None:
        from qwen_ffi import QwenInferenceSession

        self.steps: list[tuple[float, Any]] = []
        self.session = QwenInferenceSession(
            model,
            trace=lambda step: self.steps.append((time.perf_counter(), step)),
            **{"dtype": "bf16", "threads": threads, "prefix_cache": 0, **options},
        )

    def settings(self) -> str:
        from qwen_ffi import build_info

        stats = self.session.stats()
        return f"{build_info()['version']}, {stats.backend}, bf16, cache bf16, {stats.threads} threads"

    def generate(self, prompts: Prompts, count: int, attempts: int = 20) -> Answer:
        self.steps.clear()
        begin = time.perf_counter()
        # A prompt may be computed while those submitted before it go on: what is timed are the steps of all of them. Some tokens
        # more, for those that go ahead, and because a step is traced after its tokens have been handed out.
        most = count + 2 + len(prompts) // 8
        streams = [self.session.stream_ids(ids, temperature=0, max_tokens=most, ignore_eos=True) for ids in prompts]
        tokens = [next(event.token_ids[0] for event in stream if event.token_ids) for stream in streams]
        for stream in streams:
            for _ in stream:
                pass
        full = [
            number
            for number, (_, step) in enumerate(self.steps)
            if step.generate_rows == len(prompts) and step.prompt_rows == 0
        ][: count - 1]
        if len(full) < count - 1:  # whoever submits was kept from it for several steps, which of a tiny model are short
            assert attempts > 1, "the streams did not run together"
            return self.generate(prompts, count, attempts - 1)
        last_prompt = max(number for number, (_, step) in enumerate(self.steps) if step.prompt_rows > 0)
        first = self.steps[last_prompt][0]
        return timed(begin, first, self.steps[full[-1]][0] if full else first, tokens)

    def first_token(self, text: str) -> Answer:
        raise NotImplementedError("first_token.c does that")


class LlamaCpp:
    ROWS = 2048  # of a batch, n_batch; computed 512 at a time, n_ubatch: both as they come

    def __init__(self, model: str, threads: int, options: Options) -> None:
        import llama_cpp

        self.lib, self.threads, self.options = llama_cpp, threads, options  # these are of llama_context_params
        self.contexts: dict[tuple[int, int], Any] = {}  # streams, tokens of each -> context
        self.lib.llama_backend_init()
        parameters = self.lib.llama_model_default_params()
        self.model = self.lib.llama_model_load_from_file(model.encode(), parameters)
        if not self.model:
            raise RuntimeError(f"llama.cpp cannot load {model}")
        self.vocabulary = self.lib.llama_vocab_n_tokens(self.lib.llama_model_get_vocab(self.model))
        self.batch = self.lib.llama_batch_init(self.ROWS, 0, 1)

    def parameters(self) -> Any:
        parameters = self.lib.llama_context_default_params()
        parameters.n_batch = self.ROWS
        parameters.n_threads = parameters.n_threads_batch = self.threads
        for key, value in self.options.items():
            if not hasattr(parameters, key):
                raise ValueError(f"llama_context_params has no '{key}'")
            setattr(parameters, key, value)
        return parameters

    def settings(self) -> str:
        parameters = self.parameters()
        flash = self.lib.llama_flash_attn_type_name(parameters.flash_attn_type).decode()
        cache = {0: "f32", 1: "f16", 30: "bf16"}.get(parameters.type_k, parameters.type_k)
        system = self.lib.llama_print_system_info().decode()
        return (
            f"llama-cpp-python {self.lib.__version__}, bf16, cache {cache}, flash attention {flash}, "
            f"{parameters.n_threads} threads, {'OpenMP' if 'OPENMP' in system else 'no OpenMP'}"
        )

    def context(self, streams: int, room: int) -> Any:
        room = -(-room // 256) * 256
        if (streams, room) not in self.contexts:
            parameters = self.parameters()
            parameters.n_ctx, parameters.n_seq_max = streams * room, streams
            context = self.lib.llama_init_from_model(self.model, parameters)
            if not context:
                raise RuntimeError(f"llama.cpp makes no context of {streams} times {room} tokens")
            self.contexts[streams, room] = context
        return self.contexts[streams, room]

    def decode(self, context: Any, rows: list[tuple[int, int, int, bool]]) -> list[int]:
        """rows: token, position, stream, whether its successor is wanted. Returns these successors."""
        import numpy as np

        batch = self.batch
        batch.n_tokens = len(rows)
        for i, (token, position, stream, wanted) in enumerate(rows):
            batch.token[i], batch.pos[i], batch.logits[i] = token, position, wanted
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = stream
        if status := self.lib.llama_decode(context, batch):
            raise RuntimeError(f"llama_decode returned {status}")
        places = [i for i, row in enumerate(rows) if row[3]]
        logits = [self.lib.llama_get_logits_ith(context, i) for i in places]
        return [int(np.ctypeslib.as_array(each, (self.vocabulary,)).argmax()) for each in logits]

    def generate(self, prompts: Prompts, count: int) -> Answer:
        length = len(prompts[0])
        context = self.context(len(prompts), length + count)
        self.lib.llama_memory_clear(self.lib.llama_get_memory(context), True)
        begin = time.perf_counter()
        rows = [(t, at, s, at == length - 1) for s, ids in enumerate(prompts) for at, t in enumerate(ids)]
        tokens: list[int] = []
        for start in range(0, len(rows), self.ROWS):
            tokens += self.decode(context, rows[start : start + self.ROWS])
        first, found = time.perf_counter(), tokens
        for step in range(count - 1):
            tokens = self.decode(context, [(t, length + step, s, True) for s, t in enumerate(tokens)])
        return timed(begin, first, time.perf_counter(), found)

    def first_token(self, text: str) -> Answer:
        raise NotImplementedError("process_llama.c does that")


class Transformers:
    def __init__(self, model: str, threads: int, options: Options) -> None:
        import torch
        import transformers

        transformers.utils.logging.disable_progress_bar()
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self.torch, self.folder = torch, model
        self.model = transformers.AutoModelForCausalLM.from_pretrained(model, **{"dtype": "bfloat16", **options})

    def settings(self) -> str:
        import transformers

        return (
            f"{transformers.__version__} with torch {self.torch.__version__}, {self.model.dtype}, cache of the same, "
            f"attention {self.model.config._attn_implementation}, not compiled, {self.torch.get_num_threads()} threads"
        )

    def generate(self, prompts: Prompts, count: int) -> Answer:
        begin = time.perf_counter()
        out = self.model(input_ids=self.torch.tensor(prompts), use_cache=True, logits_to_keep=1)
        tokens = out.logits[:, -1].argmax(-1, keepdim=True)
        first, found = time.perf_counter(), tokens.flatten().tolist()
        for _ in range(count - 1):
            cache = out.past_key_values
            out = self.model(input_ids=tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)
            tokens = out.logits[:, -1].argmax(-1, keepdim=True)
        return timed(begin, first, time.perf_counter(), found)

    def first_token(self, text: str) -> Answer:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(self.folder)
        ids = tokenizer(text).input_ids
        token = self.generate([ids], 1)["tokens"][0]
        tokenizer.decode([token])
        return {"prompt_tokens": len(ids), "tokens": [token]}


class OpenVino:
    def __init__(self, model: str, threads: int, options: Options) -> None:
        import openvino_genai

        self.genai = openvino_genai
        self.pipeline = openvino_genai.LLMPipeline(model, "CPU", **{"INFERENCE_NUM_THREADS": threads, **options})
        self.threads, self.options = threads, options

    def settings(self) -> str:
        import openvino

        core = openvino.Core()  # whose defaults are those of the pipeline's models
        names = ["INFERENCE_PRECISION_HINT", "KEY_CACHE_PRECISION", "VALUE_CACHE_PRECISION"]
        defaults = {name: core.get_property("CPU", name) for name in names}
        said = {name: getattr(value, "get_type_name", lambda v=value: v)() for name, value in defaults.items()}
        return f"GenAI {self.genai.__version__}, LLMPipeline, weights f16, {self.threads} threads, " + ", ".join(
            f"{name} {value}" for name, value in {**said, **self.options}.items()
        )

    def run(self, inputs: Any, count: int) -> tuple[Any, float, float, float]:
        config = self.genai.GenerationConfig()
        config.max_new_tokens, config.ignore_eos, config.do_sample = count, True, False
        begin = time.perf_counter()
        result = self.pipeline.generate(inputs, config)
        end = time.perf_counter()
        times = result.perf_metrics.raw_metrics.m_new_token_times  # of the steps, in ms
        rest = (times[-1] - times[0]) / 1e3
        assert len(times) == count, f"{len(times)} times of {count} steps"
        assert 0 <= rest < end - begin, "times of steps that were not in ms"
        return result, begin, end - rest, end

    def generate(self, prompts: Prompts, count: int) -> Answer:
        import numpy as np
        import openvino

        ids = np.array(prompts, np.int64)
        inputs = self.genai.TokenizedInputs(openvino.Tensor(ids), openvino.Tensor(np.ones_like(ids)))
        result, begin, first, end = self.run(inputs, count)
        assert all(len(tokens) == count for tokens in result.tokens)
        return timed(begin, first, end, [tokens[0] for tokens in result.tokens])

    def first_token(self, text: str) -> Answer:
        tokenizer = self.pipeline.get_tokenizer()
        inputs = tokenizer.encode(text)
        token = self.run(inputs, 1)[0].tokens[0][0]
        tokenizer.decode([token])
        return {"prompt_tokens": inputs.input_ids.shape[1], "tokens": [token]}


ENGINES: dict[str, Any] = {
    "libqwen": LibQwen,
    "llama.cpp": LlamaCpp,
    "transformers": Transformers,
    "openvino": OpenVino,
}


def serve(engine: Any, answers: TextIO) -> None:
    def say(answer: Answer) -> None:
        print(json.dumps(answer), file=answers, flush=True)

    engine.generate([[1] * 64], 2)  # brings the weights into memory
    say({"settings": engine.settings()})
    for line in sys.stdin:
        request = json.loads(line)
        say(engine.generate(request["prompts"], request["count"]))


def option(text: str) -> tuple[str, int | str]:
    key, _, value = text.partition("=")
    return key, int(value) if value.lstrip("-").isdigit() else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--option", type=option, action="append", default=[])
    parser.add_argument("engine", choices=ENGINES)
    parser.add_argument("model", type=Path)
    parser.add_argument("threads", type=int)
    parser.add_argument("text", nargs="?")
    arguments = parser.parse_args()
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what the engine prints is for people
    if not arguments.model.exists():
        sys.exit(f"{arguments.model} does not exist")
    engine = ENGINES[arguments.engine](str(arguments.model), arguments.threads, dict(arguments.option))
    if arguments.text is None:
        serve(engine, answers)
    else:
        print(json.dumps(engine.first_token(arguments.text)), file=answers, flush=True)


if __name__ == "__main__":
    main()
