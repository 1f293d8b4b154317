"""Print an answer while it is made. An event is a piece of text; leaving the loop early ends the generation.

python examples/python/03_streaming.py [MODEL]
"""

import sys

from qwen_ffi import QwenInferenceSession, demo_model_path

model = sys.argv[1] if len(sys.argv) > 1 else demo_model_path()
with QwenInferenceSession(model) as session:
    with session.stream("What is 348 + 275?", temperature=0, reasoning_mode=False) as stream:
        for event in stream:
            print(event, end="", flush=True)
    stats = stream.result.stats  # the whole answer, once the stream has come to its end
    print(f"\n[first token after {stats.first_token_seconds * 1e3:.1f} ms, {stats.tokens_per_second:.0f} tokens/s]")
