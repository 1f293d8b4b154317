"""LoRA adapters beside each other: one model, and each request says who answers.

python examples/python/14_adapters.py [MODEL ADAPTER...]

Without arguments: the demo model, and two adapters for it that PEFT has trained (examples/train_demo_adapters.py).
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from qwen_ffi import QwenInferenceSession, SamplingConfig, demo_model_path

model = sys.argv[1] if len(sys.argv) > 1 else demo_model_path()
folders = [Path(folder) for folder in sys.argv[2:]] or sorted((Path(__file__).parent / "adapters").iterdir())
with QwenInferenceSession(model) as session, ThreadPoolExecutor() as pool:
    names = [session.load_adapter(folder) for folder in folders]
    for adapter in session.adapters():
        print(f"{adapter.name}: rank {adapter.rank}, {adapter.parameters:,} parameters")

    sampling = SamplingConfig(temperature=0, reasoning_mode=False, max_tokens=100)

    def ask(name: str) -> str:
        return session.generate("What is 17 + 25?", sampling, adapter=name).text  # "": the model as it is

    for name, answer in zip(["", *names], pool.map(ask, ["", *names]), strict=True):  # computed together
        print(f"{name or 'without':<8} {answer}")

    stream = session.stream("What is 348 + 275?", sampling, adapter=names[0])
    session.unload_adapter(names[0])  # this answer goes on with it; new requests cannot name it any more
    print("to its end:", "".join(map(str, stream)))
    print("left:", [adapter.name for adapter in session.adapters()])
