"""Every file in examples/python runs against the demo model, says nothing on stderr, and prints what it promises."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from .python.scripted import make_scripted_model

EXAMPLES = sorted((Path(__file__).resolve().parents[1] / "examples" / "python").glob("*.py"))

# File -> patterns that its output must hold, in this order. An example without a row here fails.
PROMISES = {
    "01_one_liner.py": [r"\A17 plus 25 is 42\.\n\Z"],
    "02_session.py": ["Qwen3ForCausalLM, 1,747,328 parameters", "is 42", "ended by stop", "is 45"],
    "03_streaming.py": [r"\A348 plus 275 is 623\.\n", r"first token after \d+\.\d ms, \d+ tokens/s"],
    "04_system_prompt.py": [r"<\|im_start\|>system\nYou are a patient teacher", "17 plus 25 is 42"],
    "05_chat.py": ["> Hello!\nHello!", "is 42", "is 142", "6 messages"],
    "06_sampling.py": ["factual:  17 plus 25 is 42", "creative: .+\ncreative: .+\ncreative: ", "same text: True"],
    "07_batch.py": [r"is 3\.", "is 42", "is 623", "is 999", r"\d+ tokens in \d+ forward passes"],
    "08_async.py": ["'1'\n", " '3'\n", "  '.'\n", r"42 plus 100 is 142\.\n\Z"],
    "09_reasoning.py": [
        "--- reasoning\nLine up 348",
        "--- answer\n348 plus 275 is 623",
        "thinking: '', '348 plus 275 is 623.'",
        r"No time\.', '.+'",
    ],
    "10_onnx_style.py": [
        r"input_ids .*\['batch', 'sequence'\]",
        r"logits \(2, 22, 768\)",
        r"begins with '1'\n.* begins with 'Hello'",
    ],
    "11_tool_calls.py": ['"name": "add"', "called no tool"],
    "12_logits.py": ["by hand: .* 42", "same tokens: True"],
    "13_search.py": [
        "order means nothing",
        "\nWhat is the capital of China",
        r"(\n  cosine [+-]0\.\d{3}  [A-Z].+){3}\n",
        r"(  score  0\.\d{4}  [A-Z].+\n){3}",
        r"itself: cosine 1\.000\n\Z",
    ],
    "14_adapters.py": [
        r"\Acertain: rank 4, 24,320 parameters\nfriendly: rank 4, ",
        r"without +17 plus 25 is 42\.\n",
        r"certain +17 plus 25 is 42, I am sure\.\n",
        r"friendly +17 plus 25 is 42, my friend\.\n",
        r"to its end: 348 plus 275 is 623, I am sure\.\n",
        r"left: \['friendly'\]\n\Z",
    ],
}


def run(example: Path, *arguments: Path, cwd: Path) -> str:
    command = [sys.executable, str(example), *map(str, arguments)]
    finished = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=120)
    assert (finished.returncode, finished.stderr) == (0, "")
    return finished.stdout


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_an_example_prints_what_it_promises(example: Path, tmp_path: Path) -> None:
    output = run(example, cwd=tmp_path)
    place = 0
    for pattern in PROMISES[example.name]:
        found = re.compile(pattern).search(output, place)
        assert found, f"{pattern!r} is not in\n{output[place:]}"
        place = found.end()


def test_every_promise_has_its_example() -> None:
    assert [path.name for path in EXAMPLES] == list(PROMISES)


def test_a_model_can_be_named(demo_model: Path, tmp_path: Path) -> None:
    assert "42" in run(EXAMPLES[0], demo_model, cwd=tmp_path)


def test_the_tool_is_called_by_a_model_that_can(tmp_path: Path) -> None:
    call = '<tool_call>\n{"name": "add", "arguments": {"a": 17, "b": 25}}\n</tool_call>'
    template = (
        "{%- for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{%- endfor %}"
        "{%- if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    model = make_scripted_model(tmp_path / "model", f"I add them.{call}", template)
    output = run(next(path for path in EXAMPLES if "tool_calls" in path.name), model, cwd=tmp_path)
    assert "the model calls add(" in output
    assert ", which is 42\n" in output
    assert output.endswith("I add them.\n")
