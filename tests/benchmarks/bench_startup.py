"""From the start of a C program to its first token, what each stage took, and the most memory it held.

    python tests/benchmarks/bench_startup.py [--library FOLDER …] [--runs 9] [--cold] [--prompt TEXT | N] [--answer N] [KEY=VALUE …]

Runs first_token.c with the installed library, or with libqwen.so.0 of several folders in turns. With --cold the system forgets the
weights before each run (posix_fadvise; pages that another process maps stay). KEY=VALUE: options of the engine.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
STAGES = ("main", "open", "engine", "token", "answer", "freed")  # ends of stages, ms since before the process was made


def installed_library() -> Path:
    import qwen_ffi

    return Path(qwen_ffi.__file__).parent / "lib"


def build(library: Path, folder: Path) -> Path:
    """first_token linked with libqwen.so.0 of `library`."""
    compiler = shutil.which("cc")
    if compiler is None:
        sys.exit("bench_startup.py needs a C compiler (cc)")
    found = next(iter(sorted(library.glob("libqwen.so.0"))), None)
    if found is None:
        sys.exit(f"{library}: has no libqwen.so.0; give the folder that holds it")
    program = folder / "first_token"
    source = HERE / "first_token.c"
    command = [
        compiler,
        "-O2",
        f"-I{HERE.parents[1] / 'include'}",
        source,
        found,
        f"-Wl,-rpath,{library}",
        "-o",
        program,
    ]
    subprocess.run(command, check=True)
    return program


def forget(model: Path) -> None:
    for file in model.iterdir() if model.is_dir() else [model]:
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(descriptor)


def run(program: Path, model: Path, prompt: str, answer: int, options: list[str]) -> dict[str, float]:
    """One run: the stages, milliseconds of processor time, page faults, and the peak of resident memory in MB."""
    read, write = os.pipe()
    begin = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    arguments = [str(program), str(model), prompt, str(begin), str(answer), *options]
    child = os.posix_spawn(program, arguments, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, write, 1)])
    _, status, usage = os.wait4(child, 0)
    end = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    os.close(write)
    with os.fdopen(read) as output:
        text = output.read()
    if status != 0:
        sys.exit(f"{program.name} failed")
    figures: dict[str, float] = {key: value for key, value in json.loads(text).items() if key != "tokens"}
    figures |= {"exit": (end - begin) * 1e-6, "user": usage.ru_utime * 1e3, "system": usage.ru_stime * 1e3}
    return figures | {"faults": usage.ru_minflt, "read_faults": usage.ru_majflt, "peak_mb": usage.ru_maxrss * 1024e-6}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path.home() / ".cache" / "qwen-ffi-benchmarks" / "Qwen3-0.6B")
    parser.add_argument("--library", type=Path, nargs="+", help="folders with libqwen.so.0, measured in turns")
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--cold", action="store_true", help="the weights are not in memory when a run begins")
    parser.add_argument(
        "--prompt", default="The quick brown fox jumps over the lazy dogs once more", help="or a number of tokens"
    )
    parser.add_argument("--answer", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("options", nargs="*", metavar="KEY=VALUE")
    given = parser.parse_args()
    if not given.model.exists():
        sys.exit(f"{given.model}: no such model; random_checkpoint.py makes it")
    libraries = [folder.resolve() for folder in given.library or [installed_library()]]
    results: dict[str, list[dict[str, float]]] = {str(folder): [] for folder in libraries}
    with tempfile.TemporaryDirectory() as temporary:
        programs = []
        for i, library in enumerate(libraries):
            (Path(temporary) / str(i)).mkdir()
            programs.append(build(library, Path(temporary) / str(i)))
        for turn in range(given.runs + 1):
            for library, program in zip(libraries, programs, strict=True):
                if given.cold:
                    forget(given.model)
                figures = run(program, given.model, given.prompt, given.answer, given.options)
                if turn > 0 or given.cold:  # the first one warms up
                    results[str(library)].append(figures)
    if given.json:
        print(json.dumps(results))
        return
    for name, runs in results.items():
        median = {key: statistics.median(one[key] for one in runs) for key in runs[0]}
        tokens = [one["token"] for one in runs]
        print(f"{name}: {median['prompt_tokens']:.0f} tokens, {len(runs)} runs, medians")
        print("  ends of stages, ms: " + ", ".join(f"{stage} {median[stage]:.1f}" for stage in (*STAGES, "exit")))
        print(
            f"  first token {median['token']:.1f} ms ({min(tokens):.1f} to {max(tokens):.1f}), peak {median['peak_mb']:.0f} MB,",
            end="",
        )
        print(f" {median['user']:.0f} ms user, {median['system']:.0f} ms system, {median['faults']:.0f} page faults")


if __name__ == "__main__":
    main()
