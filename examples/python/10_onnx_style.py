"""Arrays in, arrays out, with the calls of ONNX Runtime's InferenceSession.

python examples/python/10_onnx_style.py [MODEL]
"""

import sys

import numpy as np

from qwen_ffi import QwenInferenceSession, demo_model_path

model = sys.argv[1] if len(sys.argv) > 1 else demo_model_path()
with QwenInferenceSession(model) as session:
    for node in [*session.get_inputs(), *session.get_outputs()]:
        print(f"{node.name:<15} {node.type:<14} {node.shape}")

    prompts = [session.encode_prompt(text, reasoning_mode=False) for text in ("What is 17 + 25?", "Hello!")]
    longest = max(map(len, prompts))
    ids = np.array([[0] * (longest - len(prompt)) + prompt for prompt in prompts])  # padding on the left
    mask = np.array([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    logits, last_layer = session.run(
        ["logits", session.get_outputs()[-1].name], {"input_ids": ids, "attention_mask": mask}
    )
    print("logits", logits.shape, "last hidden states", last_layer.shape)
    for row in logits:
        print("the answer begins with", repr(session.tokenizer.decode([int(row[-1].argmax())])))
