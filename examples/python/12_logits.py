"""Decode by hand: forward passes give logits, start_pos continues where the last call ended.

python examples/python/12_logits.py [MODEL]
"""

import sys

from qwen_ffi import Tokenizer, Transformer, demo_model_path

PROMPT = "<|im_start|>user\nWhat is 17 + 25?<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"

model_path = sys.argv[1] if len(sys.argv) > 1 else demo_model_path()
tokenizer = Tokenizer(model_path)
prompt, end = tokenizer.encode(PROMPT), tokenizer.token_id("<|im_end|>")
with Transformer.from_pretrained(model_path) as model:
    answer: list[int] = []
    logits = model.forward([prompt])[0]  # [tokens, vocab_size]; the last row tells of the first new token
    while (token := int(logits[-1].argmax())) != end and len(answer) < 50:
        answer.append(token)
        logits = model.forward([[token]], start_pos=len(prompt) + len(answer) - 1)[0]
    print("by hand:   ", tokenizer.decode(answer))
    generated = model.generate([prompt], max_gen_len=50, temperature=0)[0]
    print("generate():", tokenizer.decode(generated))
    print("the same tokens:", generated == answer)
