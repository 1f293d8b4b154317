"""The command line: useful output, one-line errors, exit codes, and quiet when nobody reads on."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import qwen_ffi
from qwen_ffi.cli import main
from qwen_ffi.cli.progress import Progress

DATA = Path(__file__).resolve().parents[1] / "parity" / "data"


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "qwen_ffi", *map(str, arguments)]


def test_generate_prints_the_answer(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with qwen_ffi.QwenInferenceSession(tiny_model) as session:
        expected = session.generate("Hello", max_tokens=8, seed=1).text
    assert main(["generate", str(tiny_model), "Hello", "--max-tokens", "8", "--seed", "1"]) == 0
    assert capsys.readouterr().out == expected + "\n"


def test_generate_as_json(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["generate", str(tiny_model), "Hello", "--max-tokens=4", "--ignore-eos=1", "--json", "--dtype=f32"]) == 0
    )
    answer = json.loads(capsys.readouterr().out)
    assert len(answer["token_ids"]) == 4
    assert answer["finish_reason"] == "length"
    assert answer["stats"]["generated_tokens"] == 4


def test_generate_as_json_lines(demo_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What jq filters: text events of two channels that add up to the result, which comes last."""
    assert main(["generate", str(demo_model), "What is 2 + 3?", "--temperature", "0", "--json", "--stream"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [event["event"] for event in events[-2:]] == ["finished", "result"]
    assert events[-2]["finish_reason"] == "stop"
    result = events[-1]
    for channel, whole in (("reasoning", result["reasoning"]), ("answer", result["text"])):
        said = [event["text"] for event in events[:-2] if event["event"] == "text" and event["channel"] == channel]
        assert len(said) > 1
        assert "".join(said).strip() == whole.strip()
    assert [token for event in events[:-1] for token in event["token_ids"]] == result["token_ids"]


# Scripts depend on these: keys may be added, none may go.
KEYS = {
    "generate": {"text", "reasoning", "token_ids", "logprobs", "finish_reason", "stats"},
    "info": {"architecture", "path", "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"}
    | {"num_key_value_heads", "head_dim", "context_length", "parameters", "weight_bytes", "has_tokenizer"}
    | {"has_chat_template", "active_parameters", "active_weight_bytes", "active_expert_bytes", "num_experts"}
    | {"num_experts_per_tok", "cache_token_bytes", "window_token_bytes", "window_tokens", "state_bytes"},
    "version": {"version", "abi", "compiler", "backends", "cpu_isa", "library"},
    "doctor": {"checks", "ok"},
    "bench": {"library", "date", "machine", "models"},
}
STATS = {"prompt_tokens", "cached_tokens", "generated_tokens", "queued_seconds", "prompt_seconds", "generate_seconds"}


def test_the_keys_of_json_stay_and_are_in_the_help(demo_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = {"generate": [str(demo_model), "Hi", "--max-tokens", "2"], "info": [str(demo_model)]}
    arguments["bench"] = [str(demo_model), "--prompt=8", "--depth=none", "--streams=none"]
    for command, keys in KEYS.items():
        assert main([command, *arguments.get(command, []), "--json"]) == 0
        value = json.loads(capsys.readouterr().out)
        assert keys <= set(value)
        with pytest.raises(SystemExit):
            main([command, "--help"])
        shown = capsys.readouterr().out
        assert [key for key in keys if key not in shown] == []
        if command == "generate":
            assert STATS | {"first_token_seconds", "seed", "tokens_per_second"} <= set(value["stats"])


def test_help_shows_numbers_as_people_write_them(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["generate", "--help"])
    shown = capsys.readouterr().out
    assert "--temperature NUMBER" in shown
    assert "--ignore-eos 0|1" in shown
    assert "[0 to 16,777,216]" in " ".join(shown.split())
    assert "e+07" not in shown
    assert "\n  qwen-ffi generate MODEL PROMPT --json --stream | jq -j" in shown  # can be copied


@pytest.mark.parametrize("columns", [0, 1, 2, 12, 1000])
def test_terminals_of_any_width(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: int
) -> None:
    """Also of none: containers and pipelines give out terminals that do not know theirs."""
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((columns, columns)))
    for command in ("chat", "doctor", "generate"):
        with pytest.raises(SystemExit) as stopped:
            main([command, "--help"])
        assert stopped.value.code == 0
    assert "exit code" in " ".join(capsys.readouterr().out.split())


def test_the_help_says_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "Exit codes: 0 done, 1 failed, 2 wrong arguments, 130 Ctrl-C" in " ".join(capsys.readouterr().out.split())


def test_lists_of_several_flags_are_one_list(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with qwen_ffi.QwenInferenceSession(tiny_model) as session:
        ids = session.generate_ids([5], max_tokens=4, ignore_eos=True, temperature=0)
    flags = ["--stop-token-ids", "1,2", "--stop-token-ids", str(ids[1]), "--temperature=0", "--json", "--max-tokens=4"]
    text = qwen_ffi.Tokenizer(tiny_model).decode([5])
    assert main(["generate", str(tiny_model), text, "--raw", *flags]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["finish_reason"] == "stop"
    assert len(answer["token_ids"]) <= 2


def test_tokenize_reads_standard_input(child: dict[str, Any], tiny_model: Path) -> None:
    run = subprocess.run(command("tokenize", tiny_model, "-", "--json"), input=b"Hello", capture_output=True, **child)
    assert json.loads(run.stdout) == qwen_ffi.Tokenizer(tiny_model).encode("Hello")


class Screen(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def test_a_progress_bar_comes_late_and_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, screen = [0.0], Screen()
    monkeypatch.setattr("qwen_ffi.cli.progress.time.monotonic", lambda: clock[0])
    monkeypatch.setattr("sys.stderr", screen)
    with Progress("opening") as progress:
        progress(0.1)
        assert screen.getvalue() == ""  # nobody has waited yet
        clock[0] = 1.5
        progress(0.5)
        progress(0.51)  # too soon after the last one
        assert screen.getvalue() == "\r\x1b[Kopening " + "█" * 12 + "░" * 12 + "  50%"
    assert screen.getvalue().endswith("\r\x1b[K")


def test_no_progress_bar_where_nobody_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, file = [0.0], io.StringIO()
    monkeypatch.setattr("qwen_ffi.cli.progress.time.monotonic", lambda: clock[0])
    monkeypatch.setattr("sys.stderr", file)
    with Progress("opening") as progress:
        clock[0] = 5.0
        progress(0.5)
    assert file.getvalue() == ""


def test_every_option_of_the_library_is_a_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["generate", "--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for row in qwen_ffi.options():
        assert ("--" + row.key.replace("_", "-") in text) == (row.type != qwen_ffi.OptionType.CALLBACK)


def test_tokenize_info_version(tiny_model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["tokenize", str(tiny_model), "Hello", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == qwen_ffi.Tokenizer(tiny_model).encode("Hello")
    assert main(["info", str(tiny_model), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["hidden_size"] == 64
    assert main(["version", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["version"] == qwen_ffi.version()


def test_validate_prints_a_table_and_fails_on_a_miss(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", str(DATA / "qwen3_embedding"), "--threads", "1"]) == 0
    assert "4 of 4 within the limits" in capsys.readouterr().out
    (tmp_path / "case").mkdir()
    for file in (DATA / "qwen3_embedding").iterdir():
        (tmp_path / "case" / file.name).write_bytes(file.read_bytes())
    weights = bytearray((tmp_path / "case" / "model.safetensors").read_bytes())
    weights[-2000:] = bytes(2000)
    (tmp_path / "case" / "model.safetensors").write_bytes(weights)
    assert main(["validate", str(tmp_path), "--dtype", "f32", "--json"]) == 1
    reports = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert not any(report["ok"] for report in reports)


def test_validate_lists_what_is_not_supported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for file in (DATA / "qwen3_embedding").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "expected_embedding.safetensors").rename(tmp_path / "expected_image.safetensors")
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(
        json.dumps({**config, "architectures": ["OtherForCausalLM"], "model_type": "other"})
    )
    assert main(["validate", str(tmp_path)]) == 0
    assert capsys.readouterr().out.count("not supported: ") == 2  # once per file
    assert main(["validate", str(tmp_path), "--strict"]) == 1


def test_validate_computes_where_it_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    case = str(DATA / "qwen3_embedding")
    assert main(["validate", case, "--dtype", "f32", "--device", "cuda:77", "--strict"]) == 1  # there is none
    assert capsys.readouterr().out.count("not supported: option 'device' asks for ") == 2
    assert main(["validate", case, "--dtype", "f32", "--device", "cuda:x"]) == 1
    assert "option 'device' is 'cuda:x'; allowed are auto|cpu|cuda|cuda:N" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (["generate", "no-such-model", "x"], 1, "no-such-model"),
        (["validate", "no-such-folder"], 1, "no-such-folder"),
        (["tokenize", "no-such-model", "x"], 1, "no-such-model"),
        (["no-such-command"], 2, "no-such-command"),
        (["generate"], 2, "required"),
        (["generate", "m", "x", "--max-tokens", "many"], 2, "many"),
        (["generate", "m", "x", "--temperature=-1"], 2, "allowed are 0 to 100"),
        (["generate", "m", "x", "--logit-bias", "5:100%"], 2, "logit_bias cannot be '5:100%'"),
        (["generate", "m", "x", "--device", "gpu"], 2, "auto|cpu"),
        (["generate", "m", "x", "--raw", "--system", "s"], 1, "--raw"),
    ],
)
def test_errors_are_one_line_and_an_exit_code(
    child: dict[str, Any], arguments: list[str], code: int, named: str
) -> None:
    run = subprocess.run(command(*arguments), capture_output=True, text=True, timeout=60, **child)
    assert run.returncode == code
    assert named in run.stderr
    assert "Traceback" not in run.stderr
    if code == 1:
        assert len(run.stderr.splitlines()) == 1


def test_a_library_that_does_not_load_is_one_line(child: dict[str, Any], tmp_path: Path) -> None:
    child = {**child, "env": {**child["env"], "QWEN_LIBRARY": str(tmp_path / "none.so")}}
    run = subprocess.run(command("version"), capture_output=True, text=True, timeout=60, **child)
    assert (run.returncode, len(run.stderr.splitlines())) == (1, 1)


def test_a_reader_that_leaves_is_no_error(child: dict[str, Any], tiny_model: Path) -> None:
    with subprocess.Popen(
        command("generate", tiny_model, "Hello", "--max-tokens", "3000", "--ignore-eos", "1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        **child,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.read(1)
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(30) == 0


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("arguments", [["generate", "MODEL", "Hello", "--max-tokens=3"], ["chat", "MODEL"], ["doctor"]])
def test_closed_streams_are_no_error(
    child: dict[str, Any], chat_model: Path, arguments: list[str], closed: str
) -> None:
    words = [str(chat_model) if word == "MODEL" else word for word in arguments]
    shell = ["sh", "-c", f'"$@" {closed}', "sh", *command(*words)]
    run = subprocess.run(shell, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, **child)
    assert (run.returncode, run.stderr) == (0, "")


def test_demo_answers_the_question(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--question", "What is 2 + 3?"]) == 0
    text = capsys.readouterr().out
    assert text.count("thinks: ") == 1
    assert text.count("answers: 2 plus 3 is 5.") == 2
    assert text.count("tokens/s") == 2
