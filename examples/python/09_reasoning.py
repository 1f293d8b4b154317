"""Thoughts apart from the answer, none at all, and no more than a budget of them. A thought cut short may cost the answer.

python examples/python/09_reasoning.py [MODEL]
"""

import sys

from qwen_ffi import QwenInferenceSession, SamplingConfig, demo_model_path

QUESTION = "What is 348 + 275?"
CONFIG = SamplingConfig(temperature=0, max_tokens=1000, reasoning_mode=True)

model = sys.argv[1] if len(sys.argv) > 1 else demo_model_path()
with QwenInferenceSession(model) as session:
    channel = None
    for event in session.stream(QUESTION, CONFIG):
        if event.text and event.channel != channel:
            channel = event.channel
            print(f"\n--- {channel.value}")  # "reasoning", then "answer"
        print(event, end="", flush=True)

    quick = session.generate(QUESTION, CONFIG, reasoning_mode=False)
    print(f"\n\n--- without thinking: {quick.reasoning!r}, {quick.text!r}")

    hurried = session.generate(QUESTION, CONFIG, reasoning_budget=20, reasoning_end_text="\nNo time.")
    print(f"--- 20 tokens of it:  {hurried.reasoning!r}, {hurried.text!r}")
