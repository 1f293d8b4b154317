"""Open a model once, ask it many times: opening costs far more than a short answer.

python examples/python/02_session.py [MODEL]
"""

import sys

from qwen_ffi import QwenInferenceSession, demo_model_path

model = sys.argv[1] if len(sys.argv) > 1 else demo_model_path()
with QwenInferenceSession(model) as session:
    print(f"{session.info.architecture}, {session.info.parameters:,} parameters, on {session.stats().backend}")
    for question in ("What is 17 + 25?", "What is 90 - 45?"):
        answer = session.generate(question, temperature=0, max_tokens=500)
        print(f"\n{question}\n{answer.text}")
        print(f"[{answer.stats.generated_tokens} tokens, ended by {answer.finish_reason.value}]")
