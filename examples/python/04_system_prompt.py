"""Tell the model once how to behave; see what it is given.

The demo model has learnt to add and does not heed a system prompt; an instruct model does.

python examples/python/04_system_prompt.py [MODEL]
"""

import sys

from qwen_ffi import QwenInferenceSession, demo_model_path

model = sys.argv[1] if len(sys.argv) > 1 else demo_model_path()
with QwenInferenceSession(model) as session:
    session.set_system_prompt("You are a patient teacher of arithmetic. Answer in one sentence.")
    print(session.render("What is 17 + 25?", reasoning_mode=False))
    print(session.generate("What is 17 + 25?", temperature=0, reasoning_mode=False, max_tokens=200))
