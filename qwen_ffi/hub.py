"""Names of the Hugging Face hub, `Qwen/Qwen3-0.6B` or `Qwen/Qwen3-0.6B@revision`, wherever the folder of a model or of an adapter
may be given.

What lies in the hub's cache is found without asking anybody and needs no further package. Everything else is downloaded
by `huggingface_hub` (`pip install 'qwen-ffi[hub]'`), only the files that the library reads. Its environment variables
hold here too: HF_HOME, HF_HUB_CACHE, HF_HUB_OFFLINE, HF_ENDPOINT, HF_TOKEN.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from ._blocking import run_interruptibly
from .errors import QwenIOError, QwenNotFoundError

# huggingface_hub's own rule for names; here the owner is required, so that a folder's plain name is never one.
_NAME = re.compile(r"(\b[\w\-.]{1,96}\b/\b[\w\-.]{1,96}\b)(?:@(\w[\w\-./]*))?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")

_NOT = ("*/*",)  # folders hold other formats (onnx/, original/), nothing that is read here


@dataclass(frozen=True, slots=True)
class HubName:
    """A repository of the hub, and which state of it."""

    repo: str
    revision: str = "main"

    @classmethod
    def parse(cls, name: str) -> HubName | None:
        """None when it cannot be the name of a repository: "./x/y", "/x/y", "x", "a/b/c", "models/x.gguf"."""
        match = _NAME.fullmatch(name)
        if match is None or "--" in match[1] or ".." in name or match[1].endswith((".git", ".gguf")):
            return None
        return cls(match[1], match[2] or "main")


@dataclass(frozen=True, slots=True)
class _Kind:
    """What of a repository is wanted."""

    what: str
    folder: str
    patterns: tuple[str, ...]
    expected: Callable[[Path], list[str]]  # what each has, for caches that keep no list


def resolve_model(name: str | os.PathLike[str], *, weights: bool = True) -> Path:
    """The folder of a model: a path as it is, a name of the hub as its folder in the cache, downloaded if need be.

    A path that exists wins, and a Path object always is a path. weights=False is content with everything but the weights.
    Ctrl-C ends a download. Raises QwenNotFoundError when there is no such model or it cannot be had here, and QwenIOError
    when the download breaks off; a folder that is not complete is never returned.
    """
    return _resolve(name, _MODEL if weights else _TOKENIZER)


def resolve_adapter(name: str | os.PathLike[str]) -> Path:
    """The folder of a LoRA adapter, as resolve_model() finds a model's."""
    return _resolve(name, _ADAPTER)


def _resolve(name: str | os.PathLike[str], kind: _Kind) -> Path:
    if not isinstance(name, str):
        return Path(os.fsdecode(os.fspath(name)))
    if not name:
        raise QwenNotFoundError(f"the path of the {kind.what} is empty")
    wanted = HubName.parse(name)
    if wanted is None or os.path.lexists(name):
        return Path(name)
    snapshot, missing = _look_up(wanted, kind)
    if snapshot is not None and not missing:
        return snapshot
    whose = f"the hub's {kind.what} {wanted.repo}"
    lack = f"of {whose} only a part is" if snapshot else f"{whose} is not"
    not_here = f"there is no folder {name}, and {lack} in the cache {cache_folder()}"
    if is_offline():
        raise QwenNotFoundError(
            f"{not_here}. HF_HUB_OFFLINE forbids to download it: unset that, or give the path of {kind.folder}"
        )
    try:
        import huggingface_hub
    except ImportError:
        raise QwenNotFoundError(
            f"{not_here}. To download it, pip install 'qwen-ffi[hub]'; or give the path of {kind.folder}"
        ) from None
    return _download(huggingface_hub, name, wanted, kind, not_here)


def cached_model(name: str) -> Path | None:
    """The folder of a hub's model that is in the cache with all its files; None: it is not, or `name` is not the name of
    one. Never asks the network."""
    wanted = HubName.parse(name)
    if wanted is None:
        return None
    snapshot, missing = _look_up(wanted, _MODEL)
    return snapshot if not missing else None


def cache_folder() -> Path:
    """Where huggingface_hub keeps what it has downloaded, by its environment variables."""
    home = os.environ.get("HF_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    chosen = os.environ.get("HF_HUB_CACHE") or os.environ.get("HUGGINGFACE_HUB_CACHE") or os.path.join(home, "hub")
    return Path(os.path.expandvars(os.path.expanduser(chosen)))


def is_offline() -> bool:
    """Whether HF_HUB_OFFLINE (or TRANSFORMERS_OFFLINE) forbids to use the network."""
    value = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return value.upper() in {"1", "ON", "YES", "TRUE"}


def _look_up(name: HubName, kind: _Kind) -> tuple[Path | None, list[str]]:
    """The snapshot in the cache, None if there is none, and the files it lacks."""
    storage = cache_folder() / ("models--" + name.repo.replace("/", "--"))
    commit = name.revision
    if not _COMMIT.fullmatch(commit):
        try:
            commit = (storage / "refs" / name.revision).read_text(encoding="utf-8").strip()
        except (OSError, ValueError):
            return None, []
    snapshot = storage / "snapshots" / commit
    if not _COMMIT.fullmatch(commit) or not snapshot.is_dir():
        return None, []
    # The reference is written, and files appear, while others are still under way: only the list of all files tells.
    wanted = _listed(storage / "trees" / f"{commit}.json", kind) or kind.expected(snapshot)
    return snapshot, [file for file in wanted if not (snapshot / file).is_file()]


def _listed(tree: Path, kind: _Kind) -> list[str]:
    """What of the repository the library reads, by the list that huggingface_hub keeps; [] when it has kept none."""
    try:
        listing = json.loads(tree.read_text(encoding="utf-8"))
        names = list(listing["files"]) if listing["format_version"] == 1 else []
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [
        name
        for name in names
        if any(fnmatch(name, wanted) for wanted in kind.patterns) and not any(fnmatch(name, skip) for skip in _NOT)
    ]


def _expected_of_model(snapshot: Path) -> list[str]:
    common = ["config.json", "tokenizer.json"]
    if (snapshot / "model.safetensors").is_file():
        return common
    try:
        index = json.loads((snapshot / "model.safetensors.index.json").read_text(encoding="utf-8"))
        return [*common, *sorted({str(file) for file in index["weight_map"].values()})]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return [*common, "model.safetensors"]


_FILES = ("*.json", "*.jinja", "merges.txt")
_OF_ADAPTERS = ("adapter_config.json", "adapter_model.safetensors")
_MODEL = _Kind("model", "a checkpoint folder", (*_FILES, "*.safetensors"), _expected_of_model)
_TOKENIZER = _Kind("model", "a checkpoint folder", _FILES, lambda snapshot: ["config.json", "tokenizer.json"])
_ADAPTER = _Kind("adapter", "an adapter's folder", _OF_ADAPTERS, lambda snapshot: list(_OF_ADAPTERS))


class _Stopped(Exception):
    """Ends the threads of a download that nobody waits for any more."""


def _download(hub: Any, name: str, wanted: HubName, kind: _Kind, not_here: str) -> Path:
    """snapshot_download on a helper thread, its errors in this package's words."""
    from huggingface_hub import errors

    endpoint = (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")
    stopped: list[bool] = []

    def stop() -> None:
        stopped.append(True)
        hub.close_session()  # wakes those who read from the network
        with suppress(Exception):  # hf_xet downloads in threads of its own, and this is the only door to them
            from huggingface_hub.utils._xet import abort_xet_session

            abort_xet_session()

    def work() -> str:
        return str(
            hub.snapshot_download(
                wanted.repo,
                revision=wanted.revision,
                cache_dir=cache_folder(),
                endpoint=endpoint,
                library_name="qwen-ffi",
                allow_patterns=list(kind.patterns),
                ignore_patterns=list(_NOT),
                tqdm_class=_stoppable_bar(lambda: bool(stopped)),
            )
        )

    login = "log in with `hf auth login` or set HF_TOKEN"
    try:
        found = Path(run_interruptibly(work, lambda late: None, stop))
    except errors.GatedRepoError:
        raise QwenNotFoundError(
            f"the {kind.what} {wanted.repo} is gated: ask for access at {endpoint}/{wanted.repo}, then {login}"
        ) from None
    except errors.RevisionNotFoundError:
        raise QwenNotFoundError(f"the {kind.what} {wanted.repo} has no revision {wanted.revision} at {endpoint}") from None
    except errors.LocalEntryNotFoundError as error:  # what snapshot_download says when it could not even ask
        reason = error.__cause__ or error
        raise QwenNotFoundError(f"{not_here}. {endpoint} does not answer ({_one_line(reason)})") from error
    except errors.HfHubHTTPError as error:
        if error.response.status_code not in (401, 403, 404):
            raise QwenIOError(f"downloading {wanted.repo} from {endpoint} failed: {_one_line(error)}") from error
        raise QwenNotFoundError(
            f"there is no folder {name}, and {endpoint} has no {kind.what} {wanted.repo}; if it is private, {login}"
        ) from None
    except Exception as error:  # its HTTP library's own errors have no common base
        raise QwenIOError(
            f"downloading {wanted.repo} from {endpoint} broke off: {_one_line(error)}. "
            "The files that were complete are kept: the same call goes on with the others"
        ) from error
    _, missing = _look_up(wanted, kind)
    if missing and missing != ["tokenizer.json"]:  # which a repository may lack, and without its list who knows
        raise QwenIOError(f"{found} is not complete: {', '.join(missing[:3])} could not be downloaded from {endpoint}")
    return found


def _stoppable_bar(stopped: Callable[[], bool]) -> type:
    """huggingface_hub's progress bar (on terminals only), which ends the download once stopped() is true."""
    from huggingface_hub.utils import tqdm

    def __init__(self: Any, *arguments: Any, **values: Any) -> None:
        tqdm.__init__(self, *arguments, **{"disable": None, **values})  # None: shown on terminals only

    def update(self: Any, count: float | None = 1) -> Any:
        if stopped():
            raise _Stopped
        return tqdm.update(self, count)

    return type("StoppableBar", (tqdm,), {"__init__": __init__, "update": update})


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text[:300]}" if text else type(error).__name__
