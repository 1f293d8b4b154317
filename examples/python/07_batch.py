"""Several prompts computed together: more tokens per second than one after the other, and the same answers.

python examples/python/07_batch.py [MODEL]
"""

import sys

from qwen_ffi import QwenInferenceSession, demo_model_path

model = sys.argv[1] if len(sys.argv) > 1 else demo_model_path()
questions = [f"What is {a} + {b}?" for a, b in ((1, 2), (17, 25), (348, 275), (500, 499))]
with QwenInferenceSession(model) as session:
    answers = session.generate_batch(questions, temperature=0, reasoning_mode=False, max_tokens=200)
    for question, answer in zip(questions, answers, strict=True):
        print(f"{question:<20} {answer}")
    stats = session.stats()
    print(f"[{stats.generated_tokens} tokens in {stats.steps} forward passes]")
