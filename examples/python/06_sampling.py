"""Factual and creative settings. What is left out comes from the checkpoint's generation_config.json.

python examples/python/06_sampling.py [MODEL]
"""

import sys

from qwen_ffi import QwenInferenceSession, SamplingConfig, demo_model_path

FACTUAL = SamplingConfig(temperature=0, max_tokens=200, reasoning_mode=False)  # always the likeliest token
CREATIVE = SamplingConfig(temperature=2, top_p=1, top_k=0, max_tokens=24, seed=7, n=3)  # three draws, repeatable

model = sys.argv[1] if len(sys.argv) > 1 else demo_model_path()
with QwenInferenceSession(model) as session:
    print("factual: ", session.generate("What is 17 + 25?", FACTUAL))
    drawn = session.generate("Tell me something.", CREATIVE, reasoning_mode=False)
    for choice in drawn.choices:
        print("creative:", repr(choice.text))
    again = session.generate("Tell me something.", CREATIVE, reasoning_mode=False)
    print("the same seed, the same text:", [str(choice) for choice in again.choices] == [str(c) for c in drawn.choices])
