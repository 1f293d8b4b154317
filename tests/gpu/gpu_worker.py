"""peer_worker.py for a GPU: the same requests and answers, of libqwen as there, of transformers as it is fastest without other packages.

    PYTHON gpu_worker.py [--option KEY=VALUE …] ENGINE MODEL THREADS [TEXT]

transformers' `generate` with a static cache compiles the decode step (torch.compile, mode "reduce-overhead": one CUDA graph) by itself.
A cache is as long as its prompt and ROOM more whatever is asked, and the first request of each shape is computed once before it
is timed: so that nothing is compiled or captured in what is. --option device=cpu computes on the CPU, not compiled: so that a machine without a GPU can test this.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))

import peer_worker  # noqa: E402
from peer_worker import Answer, Options, Prompts  # noqa: E402

ROOM = 64  # tokens of an answer, at most
WARM = 8  # tokens after which a graph has been captured and replayed


class LibQwen(peer_worker.LibQwen):
    """As there. Asked for dependent launches on a GPU, it had them, or there are no figures."""

    def __init__(self, model: str, threads: int, options: Options) -> None:
        super().__init__(model, threads, options)
        self.dependent = int(options.get("cuda_dependent_launch", 0)) == 1 and self.session.stats().backend.startswith("cuda.")

    def generate(self, prompts: Prompts, count: int, attempts: int = 20) -> Answer:
        answer = super().generate(prompts, count, attempts)
        if self.dependent and self.session.counters()["step.dependent_launches"] == 0:
            raise RuntimeError("this GPU's driver has no dependent launches")
        return answer

    def settings(self) -> str:
        has = "linear.cublas_lt" in self.session.counters()
        return f"{super().settings()}, {'cuBLASLt' if has else 'no cuBLASLt'}"


class Transformers:
    def __init__(self, model: str, threads: int, options: Options) -> None:
        import torch
        import transformers

        load, self.tokenizer = transformers.AutoModelForCausalLM, transformers.AutoTokenizer
        self.begin = time.perf_counter()
        transformers.utils.logging.disable_progress_bar()
        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self.torch, self.folder = torch, model
        self.device = torch.device(str(options.get("device", "cuda")))
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise RuntimeError("torch has no CUDA here")
        rest = {key: value for key, value in options.items() if key != "device"}
        loaded = load.from_pretrained(model, **{"dtype": "bfloat16", **rest})
        self.model = loaded.to(self.device).eval()
        self.model.generation_config.eos_token_id = None
        self.warm: set[tuple[int, int]] = set()  # prompts, tokens of each

    def settings(self) -> str:
        import transformers

        compiled = "decode compiled into a CUDA graph" if self.device.type == "cuda" else "not compiled"
        return (
            f"{transformers.__version__} with torch {self.torch.__version__} on {self.device}, {self.model.dtype}, "
            f"static cache, attention {self.model.config._attn_implementation}, {compiled}"
        )

    def now(self) -> float:
        if self.device.type == "cuda":
            self.torch.cuda.synchronize()
        return time.perf_counter()

    def generate(self, prompts: Prompts, count: int) -> Answer:
        shape = (len(prompts), len(prompts[0]))
        if count > 1 and shape not in self.warm:
            self.warm.add(shape)
            self.timed(prompts, WARM)
        return self.timed(prompts, count)

    def timed(self, prompts: Prompts, count: int) -> Answer:
        assert count <= ROOM
        length = len(prompts[0])
        times: list[float] = []
        chosen: list[list[int]] = []

        def each_step(ids: Any, scores: Any, **_: Any) -> Any:
            times.append(self.now())
            if len(times) == 1:
                chosen.append(ids[:, length].tolist())
            return self.torch.full((len(prompts),), len(times) >= count, dtype=self.torch.bool, device=ids.device)

        ids = self.torch.tensor(prompts, device=self.device)
        begin = self.now()
        self.model.generate(
            ids,
            attention_mask=self.torch.ones_like(ids),
            max_new_tokens=ROOM,
            do_sample=False,
            pad_token_id=0,
            cache_implementation="static",
            stopping_criteria=[each_step],
        )
        assert len(times) == count, f"{len(times)} steps instead of {count}"
        return peer_worker.timed(begin, times[0], times[-1], chosen[0])

    def first_token(self, text: str) -> Answer:
        """Its time counts from the imports on, but for what a model imports itself."""
        ids = self.tokenizer.from_pretrained(self.folder)(text).input_ids
        token = self.generate([ids], 1)["tokens"][0]
        return {"prompt_tokens": len(ids), "tokens": [token], "main": 0.0, "token": 1e3 * (self.now() - self.begin)}


if __name__ == "__main__":
    peer_worker.ENGINES = {"libqwen": LibQwen, "transformers": Transformers}
    peer_worker.main()
