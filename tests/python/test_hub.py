"""Names of the hub are folders: from the cache without asking anybody, else downloaded, and never half of one.

The hub is a server on localhost that speaks the protocol as huggingface_hub uses it; each call runs in a process of its own,
because huggingface_hub reads its environment once.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

import qwen_ffi
from qwen_ffi import QwenNotFoundError
from qwen_ffi.cli import main
from qwen_ffi.hub import HubName, cached_model, resolve_adapter, resolve_model

from .adapters import ATTENTION, MLP, make_adapter

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPO = "Qwen/Tiny"


class Hub(ThreadingHTTPServer):
    """Serves the files of a folder as Qwen/Tiny. Set the fields to make trouble, read `requests` to see what came."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.files = {path.name: path for path in folder.iterdir()}
        self.requests: list[tuple[str, str, str]] = []  # method, path, Range
        self.cuts: dict[str, list[int]] = {}  # the connection breaks after so many bytes, one number per request
        self.gated = False
        self.drip: set[str] = set()  # files that come at 1 MB/s

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def ranges(self, file: str) -> list[str]:
        """The Range headers with which a file was asked for, "" for the whole."""
        return [asked for method, path, asked in self.requests if method == "GET" and path.endswith("/" + file)]


@contextmanager
def hub_of(folder: Path) -> Iterator[Hub]:
    with Hub(folder) as hub:
        thread = threading.Thread(target=hub.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield hub
        finally:
            hub.shutdown()
            thread.join()


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *arguments: Any) -> None: ...

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        path = self.path.split("?")[0]
        self.server.requests.append((self.command, path, self.headers.get("Range", "")))
        if not path.startswith((f"/api/models/{REPO}/", f"/{REPO}/")):
            return self._refuse(401, {})  # what the hub says to strangers about models that do not exist
        if match := re.fullmatch(f"/api/models/{REPO}/revision/(.*)", path):
            if match[1] not in ("main", "v1", COMMIT):
                return self._refuse(404, {"X-Error-Code": "RevisionNotFound"})
            return self._json({"id": REPO, "sha": COMMIT, "siblings": [{"rfilename": name} for name in self.server.files]})
        if path == f"/api/models/{REPO}/tree/{COMMIT}":
            sizes = {name: file.stat().st_size for name, file in self.server.files.items()}
            return self._json(
                [{"type": "file", "path": name, "size": size, "oid": _tag(name)} for name, size in sizes.items()]
            )
        match = re.fullmatch(f"/{REPO}/resolve/{COMMIT}/(.*)", path)
        if match is None or match[1] not in self.server.files:
            return self._refuse(404, {"X-Error-Code": "EntryNotFound"})
        if self.server.gated:
            return self._refuse(401, {"X-Error-Code": "GatedRepo"})
        self._file(match[1], body)

    def _file(self, name: str, body: bool) -> None:
        data = self.server.files[name].read_bytes()
        begin = 0
        if asked := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")):
            begin = int(asked[1])
        self.send_response(206 if begin else 200)
        if begin:
            self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - begin))
        self.send_header("X-Linked-Size", str(len(data)))
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{_tag(name)}"')
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        if not body:
            return
        if cuts := self.server.cuts.get(name):
            self.wfile.write(data[begin : begin + cuts.pop(0)])
            self.wfile.flush()
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        try:
            step = 100_000 if name in self.server.drip else len(data)
            for place in range(begin, len(data), step):
                self.wfile.write(data[place : place + step])
                if name in self.server.drip:
                    time.sleep(0.1)
        except OSError:
            self.close_connection = True  # whoever asked has left

    def _json(self, value: Any) -> None:
        text = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _refuse(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", "0")
        self.end_headers()


def _tag(name: str) -> str:
    return hashlib.sha1(name.encode()).hexdigest()


CHILD = """
import sys
from qwen_ffi.hub import resolve_model
try:
    print(resolve_model(sys.argv[1], weights=len(sys.argv) < 3))
except KeyboardInterrupt:
    print("interrupted")
except RuntimeError as error:
    print(f"{type(error).__name__}: {error}")
"""

Resolve = Callable[..., str]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, for this process and its children."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "hub"


@pytest.fixture
def hub(cache: Path, demo_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    folder = shutil.copytree(demo_model, tmp_path / "served")
    (folder / "pytorch_model.bin").write_bytes(b"not wanted")
    with hub_of(folder) as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        yield server


@pytest.fixture
def resolve(cache: Path, child: dict[str, Any]) -> Resolve:
    """resolve(name): what resolve_model() returns, or its error, in a new process."""

    def resolve(*arguments: str, **environment: str) -> str:
        paths = {key: value for key, value in os.environ.items() if key.startswith("HF_")}
        env = {**child["env"], **paths, **environment}
        command = [sys.executable, "-c", CHILD, *arguments]
        run = subprocess.run(command, cwd=child["cwd"], env=env, capture_output=True, text=True, timeout=60)
        assert run.returncode == 0, run.stderr
        return run.stdout.strip()

    return resolve


def test_what_can_be_a_name_of_the_hub() -> None:
    assert HubName.parse("Qwen/Qwen3-0.6B") == HubName("Qwen/Qwen3-0.6B", "main")
    assert HubName.parse("Qwen/Qwen3-0.6B@refs/pr/1") == HubName("Qwen/Qwen3-0.6B", "refs/pr/1")
    for path in "x ./x/y ../x/y /x/y x/y/z x/ /x x/..y x/y--z x/.y -x/y x/y.git x/y@ x/y@../../z x/y@/z é/x a\0b/c".split(" "):
        assert HubName.parse(path) is None, path


def test_a_path_that_exists_wins_and_a_path_object_is_a_path(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "Qwen" / "Tiny").mkdir(parents=True)
    assert resolve_model("Qwen/Tiny") == Path("Qwen/Tiny")
    assert resolve_model(Path("Qwen/Other")) == Path("Qwen/Other")
    assert resolve_model("./Qwen/Other") == Path("Qwen/Other")
    with pytest.raises(QwenNotFoundError):
        resolve_model("")


def test_downloading_then_opening_without_a_network(hub: Hub, resolve: Resolve) -> None:
    folder = resolve("Qwen/Tiny")
    assert sorted(path.name for path in Path(folder).iterdir()) == sorted(
        name for name in hub.files if name not in ("pytorch_model.bin", "README.md")
    )
    hub.requests.clear()
    assert resolve("Qwen/Tiny", HF_HUB_OFFLINE="1") == folder
    assert resolve("Qwen/Tiny") == folder
    assert resolve(f"Qwen/Tiny@{COMMIT}", HF_HUB_OFFLINE="1") == folder
    assert hub.requests == []
    assert str(cached_model("Qwen/Tiny")) == folder


def test_every_door_takes_a_name(hub: Hub, resolve: Resolve, monkeypatch: pytest.MonkeyPatch) -> None:
    resolve("Qwen/Tiny")
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # what is in the cache needs no package
    question, values = "What is 2 + 3?", {"temperature": 0, "reasoning_mode": False}
    assert qwen_ffi.generate_text("Qwen/Tiny", question, **values) == "2 plus 3 is 5."
    with qwen_ffi.Transformer.from_pretrained("Qwen/Tiny") as model:
        assert model.forward([[1, 2]])[0].shape == (2, 768)
    assert qwen_ffi.Tokenizer("Qwen/Tiny").encode("Hello")
    assert main(["info", "Qwen/Tiny"]) == 0


def test_a_revision(hub: Hub, resolve: Resolve) -> None:
    assert resolve("Qwen/Tiny@v1").endswith(COMMIT)
    assert "has no revision v9" in resolve("Qwen/Tiny@v9")


def test_only_what_a_tokenizer_needs(hub: Hub, resolve: Resolve) -> None:
    folder = Path(resolve("Qwen/Tiny", "no weights"))
    assert (folder / "tokenizer.json").is_file()
    assert not (folder / "model.safetensors").exists()
    assert cached_model("Qwen/Tiny") is None
    assert "only a part is in the cache" in resolve("Qwen/Tiny", HF_HUB_OFFLINE="1")
    resolve("Qwen/Tiny")
    assert (folder / "model.safetensors").is_file()
    assert len(hub.ranges("tokenizer.json")) == 1


def test_a_download_goes_on_where_the_connection_broke(hub: Hub, resolve: Resolve, slow_model: Path) -> None:
    weights = hub.files["model.safetensors"] = slow_model / "model.safetensors"
    hub.cuts["model.safetensors"] = [12_000_000]
    folder = Path(resolve("Qwen/Tiny"))
    assert hub.ranges("model.safetensors") == ["", "bytes=10485760-"]  # it writes 10 MiB at a time
    assert (folder / "model.safetensors").read_bytes() == weights.read_bytes()


def test_a_download_that_stays_broken_is_an_error_and_never_opened(hub: Hub, resolve: Resolve) -> None:
    hub.cuts["model.safetensors"] = [1000] * 100
    said = resolve("Qwen/Tiny")
    assert said.startswith("QwenIOError: downloading Qwen/Tiny from http://127.0.0.1:")
    assert "broke off" in said
    assert cached_model("Qwen/Tiny") is None
    assert "only a part is in the cache" in resolve("Qwen/Tiny", HF_HUB_OFFLINE="1")
    hub.cuts.clear()
    hub.requests.clear()
    assert Path(resolve("Qwen/Tiny"), "model.safetensors").is_file()
    assert hub.ranges("tokenizer.json") == []  # what was complete is not asked for again


def test_models_that_cannot_be_had(hub: Hub, resolve: Resolve) -> None:
    said = resolve("Qwen/Other")
    assert said.startswith("QwenNotFoundError: there is no folder Qwen/Other, and http://127.0.0.1:")
    assert "HF_TOKEN" in said
    hub.gated = True
    assert "Qwen/Tiny is gated: ask for access at http" in resolve("Qwen/Tiny")
    assert "does not answer" in resolve("Qwen/Tiny", HF_ENDPOINT="http://127.0.0.1:9")
    said = resolve("Qwen/Tiny", HF_HUB_OFFLINE="1")
    assert said.startswith("QwenNotFoundError: there is no folder Qwen/Tiny, and the hub's model Qwen/Tiny is not in the")
    assert "HF_HUB_OFFLINE" in said


ADAPTER_CHILD = """
import sys
from qwen_ffi import Transformer
with Transformer.from_pretrained(sys.argv[1]) as model:
    try:
        print(model.load_adapter(sys.argv[2]), model.adapters()[0].path)
    except RuntimeError as error:
        print(f"{type(error).__name__}: {error}")
"""


def test_adapters_have_names_too(
    cache: Path, demo_model: Path, child: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served = make_adapter(tmp_path / "served", demo_model, (*ATTENTION, *MLP), strength=0.1)
    (served / "README.md").write_text("not wanted")
    (served / "optimizer.safetensors").write_bytes(b"nor this")

    def load(name: str, **environment: str) -> str:
        command = [sys.executable, "-c", ADAPTER_CHILD, str(demo_model), name]
        env = {**child["env"], **{key: os.environ[key] for key in os.environ if key.startswith("HF_")}, **environment}
        run = subprocess.run(command, cwd=child["cwd"], env=env, capture_output=True, text=True, timeout=60)
        assert run.returncode == 0, run.stderr
        return run.stdout.strip()

    with hub_of(served) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.endpoint)
        said = load("Qwen/Tiny", HF_HUB_OFFLINE="1")
        assert said.startswith("QwenNotFoundError: there is no folder Qwen/Tiny, and the hub's adapter Qwen/Tiny is not in the")
        assert f"{hub.endpoint} has no adapter Qwen/Other" in load("Qwen/Other")
        hub.cuts["adapter_model.safetensors"] = [1000] * 100
        assert load("Qwen/Tiny").startswith("QwenIOError: downloading Qwen/Tiny from")
        assert "adapter Qwen/Tiny only a part is in the cache" in load("Qwen/Tiny", HF_HUB_OFFLINE="1")
        hub.cuts.clear()
        name, folder = load("Qwen/Tiny@v1").split()
        assert (name, Path(folder).name) == ("Tiny", COMMIT)
        assert sorted(path.name for path in Path(folder).iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
        assert load("Qwen/Tiny").split() == [name, folder]

    monkeypatch.setitem(sys.modules, "huggingface_hub", None)  # what is in the cache needs neither package nor network
    with qwen_ffi.QwenInferenceSession(demo_model) as session:
        assert session.load_adapter("Qwen/Tiny") == "Tiny"
        assert asyncio.run(session.aload_adapter("Qwen/Tiny", name="other")) == "other"
        assert session.load_adapter(str(served)) == "served"
        config = qwen_ffi.SamplingConfig(temperature=0, max_tokens=20, ignore_eos=True)
        answers = [session.generate("Hello", config, adapter=own).token_ids for own in ("Tiny", "other", "served", "")]
    assert answers[0] == answers[1] == answers[2] != answers[3]
    assert main(["generate", str(demo_model), "Hello", "--adapter", "Qwen/Tiny", "--max-tokens", "3"]) == 0
    monkeypatch.chdir(tmp_path)
    shutil.copytree(served, tmp_path / "Qwen" / "Tiny")
    assert resolve_adapter("Qwen/Tiny") == Path("Qwen/Tiny")


def test_without_huggingface_hub(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    for call in (qwen_ffi.QwenInferenceSession, qwen_ffi.Transformer.from_pretrained, qwen_ffi.Tokenizer):
        with pytest.raises(FileNotFoundError, match=r"no folder Qwen/Tiny, .* pip install 'qwen-ffi\[hub\]'"):
            call("Qwen/Tiny")


def test_caches_of_other_programs(cache: Path, demo_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a list of files, as older versions of huggingface_hub leave it: a checkpoint is complete with its shards."""
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    storage = cache / "models--Qwen--Tiny"
    shutil.copytree(demo_model, storage / "snapshots" / COMMIT)
    (storage / "refs").mkdir()
    (storage / "refs" / "main").write_text(COMMIT)
    folder = storage / "snapshots" / COMMIT
    assert resolve_model("Qwen/Tiny") == folder
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "first.safetensors", "b": "second.safetensors"}}))
    (folder / "model.safetensors").rename(folder / "first.safetensors")
    (folder / "second.safetensors").symlink_to(storage / "blobs" / "none")  # as long as it is being downloaded
    with pytest.raises(QwenNotFoundError, match="only a part"):
        resolve_model("Qwen/Tiny")
    index.unlink()
    with pytest.raises(QwenNotFoundError, match="only a part"):
        resolve_model("Qwen/Tiny")
    (folder / "first.safetensors").rename(folder / "model.safetensors")
    assert resolve_model("Qwen/Tiny") == folder
    (folder / "tokenizer.json").unlink()
    with pytest.raises(QwenNotFoundError, match="only a part"):
        resolve_model("Qwen/Tiny")


def test_interrupting_a_download(hub: Hub, child: dict[str, Any], cache: Path, slow_model: Path) -> None:
    hub.files["model.safetensors"] = slow_model / "model.safetensors"
    hub.drip.add("model.safetensors")
    env = {**child["env"], "HF_HOME": os.environ["HF_HOME"], "HF_ENDPOINT": hub.endpoint}
    command = [sys.executable, "-c", CHILD, "Qwen/Tiny"]
    with subprocess.Popen(command, cwd=child["cwd"], env=env, stdout=subprocess.PIPE, text=True) as process:
        try:
            end = time.monotonic() + 30
            while not hub.ranges("model.safetensors") and time.monotonic() < end:
                time.sleep(0.02)
            time.sleep(0.3)
            sent = time.monotonic()
            process.send_signal(signal.SIGINT)
            assert process.stdout is not None
            assert process.stdout.readline() == "interrupted\n"
            assert time.monotonic() - sent < 1
            assert process.wait(10) == 0
            assert time.monotonic() - sent < 5
        finally:
            process.kill()
    assert list(cache.rglob("*.incomplete")) == []


def test_nothing_is_drawn_where_nobody_looks(hub: Hub, child: dict[str, Any], cache: Path) -> None:
    env = {**child["env"], "HF_HOME": os.environ["HF_HOME"], "HF_ENDPOINT": hub.endpoint}
    command = [sys.executable, "-m", "qwen_ffi", "info", "Qwen/Tiny", "--json"]
    run = subprocess.run(command, cwd=child["cwd"], env=env, capture_output=True, text=True, timeout=60)
    assert run.stderr == ""
    assert json.loads(run.stdout)["path"].endswith(COMMIT)
