"""One question, one answer. Opens the model and closes it again: for one question only.

python examples/python/01_one_liner.py [MODEL]     a checkpoint's folder or a name of the hub; default: the demo model
"""

import sys

from qwen_ffi import demo_model_path, generate_text

model = sys.argv[1] if len(sys.argv) > 1 else demo_model_path()
print(generate_text(model, "What is 17 + 25?", temperature=0))
