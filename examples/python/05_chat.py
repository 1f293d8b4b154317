"""A conversation that grows. The session remembers nothing: the list of messages is the memory, and it is yours.

python examples/python/05_chat.py [MODEL]
"""

import sys

from qwen_ffi import QwenInferenceSession, demo_model_path

model = sys.argv[1] if len(sys.argv) > 1 else demo_model_path()
messages = []
with QwenInferenceSession(model) as session:
    for question in ("Hello!", "What is 17 + 25?", "What is 42 + 100?"):
        messages.append({"role": "user", "content": question})
        answer = session.chat(messages, temperature=0, max_tokens=500)
        messages.append({"role": "assistant", "content": answer.text})  # without the thought: the next turn needs none
        print(f"> {question}\n{answer.text}")
print(f"[{len(messages)} messages]")
