"""What bench_peers.py says of figures, of a machine that is not idle, and of engines that are missing or fail."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture
def peers(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """bench_peers.py, which finds its neighbours as a program does."""
    monkeypatch.syspath_prepend(root / "tests" / "benchmarks")
    import bench_peers

    yield bench_peers
    for name in ("bench_peers", "peer_engines", "peer_table", "bench_common"):
        del sys.modules[name]


@pytest.fixture
def common(peers: ModuleType) -> ModuleType:
    return sys.modules["bench_common"]


@pytest.fixture
def engines(peers: ModuleType) -> ModuleType:
    return sys.modules["peer_engines"]


def record(neighbour: bool = False, disturbed: bool = False, **figures: dict[str, float]) -> dict[str, Any]:
    return {"neighbour": neighbour, "disturbed": disturbed, "other_cores_during": 0.0, "figures": figures}


# ------------------------------------------------------------------------------------------------- what is asked for


def test_rows_of_one_prompt_are_one_call(peers: ModuleType) -> None:
    rows = peers.rows_of("prefill512,prefill2048,decode2048,streams4,process")
    calls = {call: [row.name for row in found] for call, found in peers.calls_of(rows).items()}
    assert calls == {
        (1, 512, 1): ["prefill512"],
        (1, 2048, peers.DECODED): ["prefill2048", "decode2048"],
        (4, peers.STREAM_PROMPT, peers.STREAM_ANSWER): ["streams4"],
    }


def test_a_row_counts_the_tokens_of_its_own_time(peers: ModuleType) -> None:
    answer = {"first": 2.0, "rest": 0.5}
    values = [peers.Row.parse(name).value(answer) for name in ("prefill512", "decode2048", "streams4")]
    assert values == [512 / 2, (peers.DECODED - 1) / 0.5, 4 * (peers.STREAM_ANSWER - 1) / 0.5]


def test_a_python_is_for_one_peer_or_for_all_the_others(peers: ModuleType) -> None:
    assert peers.pythons_of(["openvino=/ov/python", "/other/python"]) == {
        "llama.cpp": "/other/python",
        "transformers": "/other/python",
        "openvino": "/ov/python",
    }
    assert set(peers.pythons_of([]).values()) == {sys.executable}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--rows", "prefill0"], "'prefill0' is no row: prefillN, decodeN, streamsN, process"),
        (["--rows", "process,"], "'' is no row"),
        (["--peers", "vllm"], "'vllm' is no peer: llama.cpp, transformers, openvino"),
        (["--peer-python", "vllm=/usr/bin/python3"], "--peer-python: 'vllm' is no peer"),
        (
            ["--option", "llama.cpp:flash_attn_type"],
            "'llama.cpp:flash_attn_type' is not ENGINE:KEY=VALUE, of libqwen, ",
        ),
        (["--option", "vllm:a=b"], "'vllm:a=b' is not ENGINE:KEY=VALUE"),
        (["--rounds", "0"], "--rounds must be at least 1"),
        (["--threads", "0"], "--threads must be at least 1"),
    ],
)
def test_a_wrong_argument_is_named(
    peers: ModuleType, capsys: pytest.CaptureFixture[str], given: list[str], message: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        peers.arguments_of(given)
    assert message in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------- figures


def test_a_ratio_is_the_median_of_those_of_each_round(peers: ModuleType) -> None:
    ours, theirs = [10.0, 20.0, 60.0], [5.0, 20.0, 20.0]  # 2, 1 and 3: of the medians it would be 1
    records = [record(decode16={"libqwen": a, "openvino": b}) for a, b in zip(ours, theirs, strict=True)]
    records[0]["disturbed"] = True
    assert peers.table(records, ["openvino"]) == [
        ["", "libqwen", "openvino", "ours / openvino"],
        ["decode16 (1 of 3 rounds disturbed)", "20.0 (10.0 to 60.0)", "20.0 (5.00 to 20.0)", "2.00"],
    ]


def test_of_seconds_and_memory_a_ratio_above_one_is_ours_too(peers: ModuleType) -> None:
    records = [record(**{"process, s": {"libqwen": 0.5, "openvino": 2.0}})]
    assert peers.table(records, ["openvino"])[1][-1] == "4.00"


def test_a_cell_without_a_figure_is_empty(peers: ModuleType) -> None:
    records = [record(decode16={"libqwen": 10.0, "openvino": 5.0}), record(decode16={"libqwen": 12.0})]
    line = peers.table(records, ["llama.cpp", "openvino"])[1]
    assert line == ["decode16", "11.0 (10.0 to 12.0)", "", "5.00 (5.00 to 5.00)", "", "2.00"]
    assert peers.text_of([["", "a"], ["b", ""]], markdown=True) == "|  | a |\n|---|---|\n| b |  |"


def test_a_busy_neighbour_is_compared_round_by_round_and_a_loss_is_below_one(peers: ModuleType) -> None:
    records = [
        record(decode16={"libqwen": 10.0}, **{"process, s": {"libqwen": 0.5}}),
        record(decode16={"libqwen": 5.0}, neighbour=True, disturbed=True, **{"process, s": {"libqwen": 2.0}}),
    ]
    assert peers.neighbour_table(records, ["libqwen"]) == [
        ["with a busy neighbour", "libqwen"],
        ["decode16 (1 of 2 rounds disturbed)", "0.50 (0.50 to 0.50)"],
        ["process, s (1 of 2 rounds disturbed)", "0.25 (0.25 to 0.25)"],
    ]
    assert peers.table(records, [])[1] == ["decode16", "10.0 (10.0 to 10.0)"]  # without it only


# ------------------------------------------------------------------------------------------------- an idle machine


def test_what_others_use_is_all_that_was_busy_but_our_own(common: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = os.sysconf("SC_CLK_TCK")
    # user nice system idle iowait irq softirq steal guest: of these idle and iowait are not busy, guest is within user.
    stat = " ".join(str(n * ticks) for n in (10, 1, 2, 500, 300, 3, 4, 5, 6))
    assert common.busy_seconds(f"cpu  {stat} 0\ncpu0 9 9 9") == 25
    # The name holds spaces and parentheses; then the state, ten more fields, and utime stime cutime cstime.
    times = " ".join(str(n * ticks) for n in (1, 2, 3, 4))
    assert common.used_seconds(f"7 (a) (b c) S {' '.join('9' * 10)} {times} 20 0") == 10
    moments = iter([(0.0, 100.0), (2.0, 100.5)])
    monkeypatch.setattr(common.Others, "now", lambda self: next(moments))
    assert common.Others([]).cores() == 0.25


def test_what_a_process_used_counts_while_it_lives_and_after_that_with_its_parent(common: ModuleType) -> None:
    before = common.own_seconds([os.getpid()])
    code = "while __import__('time').process_time() < 0.3: pass\nprint('done', flush=True)\ninput()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert common.own_seconds([child.pid]) >= 0.25
    assert common.own_seconds([child.pid]) == 0
    assert common.own_seconds([os.getpid()]) - before >= 0.25


def test_it_waits_for_an_idle_machine_until_patience_runs_out(
    common: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    used = iter([0.9, 0.2, 0.04, 0.7])
    monkeypatch.setattr(common.Others, "cores", lambda self: next(used))
    assert common.wait_until_idle([os.getpid()], limit=0.05, patience=60, interval=0) == 0.04
    assert common.wait_until_idle([os.getpid()], limit=0.05, patience=0, interval=0) == 0.7


def state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def wait_for_state(pid: int, wanted: str) -> None:
    end = time.monotonic() + 20
    while state(pid) not in wanted:
        assert time.monotonic() < end, f"state {state(pid)}, not one of {wanted}"
        time.sleep(0.01)


def test_who_has_no_turn_stands_still_the_neighbour_too(engines: ModuleType) -> None:
    core = max(os.sched_getaffinity(0))
    child = engines.busy_neighbour(core)
    try:
        assert os.sched_getaffinity(child.pid) == {core}
        wait_for_state(child.pid, "T")
        with child.running():
            wait_for_state(child.pid, "R")
        wait_for_state(child.pid, "T")
    finally:
        child.end()
    assert child.process.returncode is not None


# ------------------------------------------------------------------------------------------------- engines


def test_a_missing_module_or_python_is_named(engines: ModuleType) -> None:
    with pytest.raises(engines.PeerError, match="has no module no_such_engine"):
        engines.package_folder(sys.executable, "no_such_engine")
    with pytest.raises(engines.PeerError, match="/no/such/python does not run"):
        engines.package_folder("/no/such/python", "json")


def test_without_libqwen_there_is_nothing_to_compare(
    peers: ModuleType, engines: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(SystemExit, match="/no/such/python does not run"):
        peers.found_engines(peers.arguments_of(["--peers", ""]), tmp_path, None)


def test_a_process_that_fails_says_why(engines: ModuleType) -> None:
    with pytest.raises(engines.PeerError, match="(?s)ended with 3: .*out of luck"):
        engines.whole_process([sys.executable, "-c", "import sys; print('out of luck', file=sys.stderr); sys.exit(3)"])


def test_the_readme_says_how_every_peer_is_installed(root: Path, engines: ModuleType) -> None:
    readme = (root / "tests" / "benchmarks" / "README.md").read_text(encoding="utf-8")
    for name, peer in engines.PEERS.items():
        assert peer.install in readme, name


def test_a_run_with_one_peer_missing_and_one_that_fails(root: Path, tmp_path: Path) -> None:
    """All of it on a tiny shape: ours has every figure, and what is missing is said with the line that installs it."""
    broken = tmp_path / "modules"
    broken.mkdir()
    (broken / "transformers.py").write_text("")
    (broken / "torch.py").write_text("raise ImportError('made to fail')")
    figures = tmp_path / "figures.json"
    given = f"--cache {tmp_path}/cache --config {root}/tests/benchmarks/data/tiny.config.json --json {figures} --markdown --neighbour"
    given += " --rows prefill40,decode40,streams3,process --rounds 1 --threads 1 --patience 0"
    given += " --peers llama.cpp,transformers --peer-python llama.cpp=/no/such/python"
    done = subprocess.run(
        [sys.executable, root / "tests" / "benchmarks" / "bench_peers.py", *given.split()],
        env={**os.environ, "PYTHONPATH": str(broken)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "without llama.cpp: /no/such/python does not run" in done.stderr
    assert "llama-cpp-python==0.3.36" in done.stderr
    assert re.search(r"without transformers .*did not answer(?s:.*)made to fail", done.stderr)
    rows = ["prefill40", "decode40", "streams3", "process, s", "process, peak MB"]
    lines = [line.split(" | ") for line in done.stdout.splitlines() if line.startswith("| ")]
    assert [re.sub(r"^\| | \(.*", "", line[0]) for line in lines] == ["", *rows, "with a busy neighbour", *rows]
    assert [line for line in lines[1:6] if not re.fullmatch(r"[\d.]+ \([\d.]+ to [\d.]+\)", line[1])] == [], done.stderr
    assert {"".join(line[2:]).strip(" |") for line in lines[1:6]} == {""}
    told = json.loads(figures.read_text())
    assert set(told["failures"]) == {"transformers"}
    assert [record["neighbour"] for record in told["records"]] == [False, True] * 3
    assert "1 threads" in told["engines"]["libqwen"]["settings"]


def test_a_prompt_of_another_length_is_no_comparison(peers: ModuleType, engines: ModuleType) -> None:
    def engine(name: str, length: int) -> Any:
        said = json.dumps({"prompt_tokens": length, "tokens": [1]})
        return engines.Engine(name, [], [sys.executable, "-c", f"print('{said}')"])

    run = peers.Run([engine("libqwen", 11), engine("openvino", 12)], 100, None, 2, 0)
    with pytest.raises(SystemExit, match="different prompts of one text.*'libqwen': 11, 'openvino': 12"):
        run.processes(1)
