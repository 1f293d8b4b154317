"""The engines of bench_peers.py: finding them, and running them as processes that stand still while it is not their turn."""

from __future__ import annotations

import contextlib
import json
import os
import re
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TextIO

from bench_common import HERE, gguf, own_seconds
from peer_table import OURS

TEXT = "The quick brown fox jumps over the lazy dog today."  # 11 tokens of Qwen's
PATIENCE = 900  # seconds for one answer


@dataclass(frozen=True)
class Peer:
    module: str  # its Python can import this
    install: str


PEERS = {
    "llama.cpp": Peer(
        "llama_cpp", "CC=clang-19 CXX=clang++-19 pip install --no-binary llama-cpp-python llama-cpp-python==0.3.36"
    ),
    "transformers": Peer("transformers", "pip install torch==2.13.0 'transformers==5.18.*'"),
    "openvino": Peer(
        "openvino_genai",
        "pip install torch==2.13.0 torchvision==0.28.0 optimum-intel==2.2.0 openvino-genai==2026.4.1 && pip uninstall -y torchvision",
    ),
}


class PeerError(Exception):
    """An engine is not there, or failed; the message says what to do."""


class Child:
    """A process that stands still (SIGSTOP) except within `with child.running():`."""

    def __init__(self, command: list[str], **options: Any) -> None:
        self.process = subprocess.Popen(command, **options)
        self.pid = self.process.pid

    def pause(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGSTOP)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
        try:
            yield
        finally:
            self.pause()

    def end(self) -> None:
        self.process.kill()
        self.process.wait()


def new_log() -> TextIO:
    return tempfile.TemporaryFile("w+", encoding="utf-8", errors="replace")


def last_words(log: TextIO) -> str:
    log.seek(0)
    return "\n    ".join(log.read().strip().splitlines()[-5:])


def busy_neighbour(core: int) -> Child:
    child = Child([sys.executable, "-c", "while True: pass"])
    child.pause()
    os.sched_setaffinity(child.pid, {core})
    return child


class Worker(Child):
    """An engine with its model, asked in JSON."""

    def __init__(self, name: str, command: list[str]) -> None:
        self.name = name
        self.log = new_log()
        super().__init__(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True)
        try:
            self.settings: str = self.answer()["settings"]
            time.sleep(0.5)
            before = own_seconds([self.pid])
            time.sleep(1)
            self.idle_cores = own_seconds([self.pid]) - before
        except PeerError:
            self.end()
            raise
        self.pause()

    def answer(self) -> Any:
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            line = self.process.stdout.readline() if selector.select(PATIENCE) else ""
        if not line:
            raise PeerError(f"{self.name} did not answer: {last_words(self.log)}")
        return json.loads(line)

    def ask(self, prompts: list[list[int]], count: int) -> Any:
        with self.running():
            assert self.process.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # if it has ended: answer() says what it said
                print(json.dumps({"prompts": prompts, "count": count}), file=self.process.stdin, flush=True)
            return self.answer()

    def peak_mb(self) -> float:
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(re.findall(r"VmHWM:\s*(\d+) kB", status)[0]) / 1e3


def whole_process(command: list[str]) -> dict[str, float]:
    """Seconds from its start to its end, and its peak memory in MB. A small parent: the peak counts what it was forked from."""
    begin = time.perf_counter()
    with new_log() as log, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) as child:
        assert child.stdout is not None
        said = child.stdout.read()
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - begin
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode != 0:
            raise PeerError(f"{' '.join(command)} ended with {child.returncode}: {last_words(log)}")
    return {"seconds": seconds, "peak_mb": usage.ru_maxrss * 1024 / 1e6, **json.loads(said)}


def package_folder(python: str, module: str) -> Path:
    """Of a module that a Python can import. Raises PeerError if it cannot."""
    code = f"import importlib.util as u; s = u.find_spec({module!r}); print(s.origin if s else '')"
    try:
        done = subprocess.run([python, "-c", code], capture_output=True, text=True, cwd="/")  # no checkout is a package
    except OSError as error:
        raise PeerError(f"{python} does not run: {error}") from None
    if not done.stdout.strip():
        raise PeerError(f"{python} has no module {module}")
    return Path(done.stdout.strip()).parent


def in_a_child(make: Callable[..., Path], *arguments: object) -> Path:
    """So that this process stays small."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(make, *arguments).result()


def openvino_folder(python: str, folder: Path) -> Path:
    """The same weights as float16 (which holds them exactly, as their magnitudes are from 2^-6 on), converted once."""
    made = folder / "openvino"
    if not made.is_dir():
        print(f"making {made} …", file=sys.stderr)
        partial = folder / "openvino.partial"
        code = "from optimum.commands.optimum_cli import main; main()"
        task = ["--task", "text-generation-with-past", "--weight-format", "fp16"]
        command = [python, "-c", code, "export", "openvino", "--model", str(folder), *task, str(partial)]
        done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
        if done.returncode != 0:
            raise PeerError(f"cannot convert {folder}: " + "\n".join(done.stderr.strip().splitlines()[-3:]))
        partial.rename(made)
    return made


def compiled(name: str, folder: Path, include: Path, library: Path, links: list[str]) -> str:
    program = folder / name
    paths = [f"-I{include}", f"-L{library}", f"-Wl,-rpath,{library}", f"-Wl,-rpath-link,{library}"]
    try:
        command = ["cc", "-O2", str(HERE / f"{name}.c"), *paths, *links, "-o", str(program)]
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise PeerError(f"cannot compile {name}.c: {getattr(error, 'stderr', error)}") from None
    return str(program)


@dataclass
class Engine:
    name: str
    serve: list[str]  # the command of its worker
    process: list[str]  # the command of the row "process"; empty: not asked for
    worker: Worker | None = None

    @staticmethod
    def find(name: str, python: str, folder: Path, threads: int, options: list[str], programs: Path | None) -> Engine:
        """options: each KEY=VALUE, for the worker. programs: where those of the row "process" are compiled, None if it is not
        wanted. Raises PeerError."""
        package = package_folder(python, PEERS[name].module if name in PEERS else "qwen_ffi")
        model = folder
        if name == "llama.cpp":
            model = in_a_child(gguf, folder)
        elif name == "openvino":
            model = openvino_folder(python, folder)
        given = [str(model), str(threads)]
        serve = [python, str(HERE / "peer_worker.py"), *(f"--option={option}" for option in options), name, *given]
        process: list[str] = []
        if programs is not None and name == OURS:
            program = compiled("first_token", programs, package / "include", package / "lib", ["-lqwen"])
            process = [program, str(model), TEXT, "0", "1", f"threads={threads}", "context_length=2048"]
        elif programs is not None and name == "llama.cpp":
            links = ["-lllama", "-lggml-base"]
            program = compiled("process_llama", programs, package.parent / "include", package / "lib", links)
            process = [program, *given, TEXT]
        elif programs is not None:
            process = [*serve, TEXT]
        return Engine(name, serve, process)
