"""Tools: the model asks for a call, the program makes it and gives the result back, the model answers.

The demo model cannot call tools: it has never seen one. With it this shows the prompt that describes the tool, and says
that no call came. Give a model that has learnt to call them, Qwen3 or Qwen2.5-Instruct.

python examples/python/11_tool_calls.py [MODEL]
"""

import sys

from qwen_ffi import Message, QwenInferenceSession, demo_model_path

NUMBERS = {"type": "object", "properties": {"a": {"type": "integer"}, "b": {"type": "integer"}}, "required": ["a", "b"]}
TOOLS = [{"type": "function", "function": {"name": "add", "description": "Adds two numbers.", "parameters": NUMBERS}}]
FUNCTIONS = {"add": lambda a, b: a + b}

model = sys.argv[1] if len(sys.argv) > 1 else demo_model_path()
messages: list[Message] = [{"role": "user", "content": "What is 17 + 25?"}]
with QwenInferenceSession(model) as session:
    print(session.render(messages, tools=TOOLS))
    answer = session.chat(messages, tools=TOOLS, temperature=0, max_tokens=500)
    calls = [{"function": {"name": call.name, "arguments": call.arguments}} for call in answer.tool_calls]
    messages.append({"role": "assistant", "content": answer.text, "tool_calls": calls})
    for call in answer.tool_calls:
        value = FUNCTIONS[call.name](**call.parsed_arguments)
        print(f"the model calls {call.name}({call.arguments}), which is {value}")
        messages.append({"role": "tool", "content": str(value)})
    if calls:
        print(session.chat(messages, tools=TOOLS, temperature=0, max_tokens=500))
    else:
        print("this model has called no tool")
