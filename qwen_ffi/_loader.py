"""Finds libqwen.so, reads the declarations out of the header shipped beside it, and checks that the two fit.

Nothing happens at import time: the first call of `library()` costs some tens of milliseconds, once per process. The
library is looked for in this order: the environment variable QWEN_LIBRARY (a path), the package's own `lib/`, the system.
"""

from __future__ import annotations

import os
import re
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import QwenLibraryError, error_for_status

LIBRARY_NAMES = ("libqwen.so.0", "libqwen.so")


@dataclass(frozen=True, slots=True)
class Library:
    """The loaded library: `lib` calls its functions, `ffi` makes and reads C data, `path` is the file."""

    ffi: Any
    lib: Any
    path: str


_lock = threading.Lock()
_library: Library | None = None


def library() -> Library:
    """The loaded library; loads it on the first call. Any thread. Raises QwenLibraryError with what to do."""
    global _library
    if _library is None:
        with _lock:
            if _library is None:
                _library = _load()
    return _library


def check(status: int, error_box: Any) -> None:
    """Raises what `*error_box` (a `qwen_error **`) says when status is not QWEN_OK; frees the error object."""
    if status == 0:
        return
    loaded = library()
    error = error_box[0]
    if error == loaded.ffi.NULL:
        message = loaded.ffi.string(loaded.lib.qwen_status_name(status)).decode()
    else:
        message = loaded.ffi.string(loaded.lib.qwen_error_message(error)).decode("utf-8", "replace")
        loaded.lib.qwen_error_free(error)
        error_box[0] = loaded.ffi.NULL
    raise error_for_status(status, message)


def package_file(*parts: str) -> Path | None:
    """A file of this package as a real path, wherever the installation keeps it; None when it is not there."""
    from importlib.resources import files

    try:
        found = files("qwen_ffi").joinpath(*parts)
        # In an editable install the file lies in the source or the build tree: the finder hands out its path.
        if isinstance(found, os.PathLike) and found.is_file():
            return Path(found)
    except (FileNotFoundError, KeyError, NotADirectoryError):
        pass
    return None


def demo_model_path() -> Path:
    """The folder of the small demonstration model that is installed with the package."""
    config = package_file("demo_model", "config.json")
    if config is None:
        raise QwenLibraryError("this installation of qwen_ffi holds no demo model; reinstall it with pip install")
    return config.parent


def declarations(header: str) -> str:
    """The part of qwen.h that cffi's parser reads: between the markers, without comments and QWEN_API."""
    begin, end = header.find("/* qwen:begin"), header.find("/* qwen:end")
    if begin < 0 or end < begin:
        raise QwenLibraryError("the header lacks its qwen:begin and qwen:end markers; reinstall qwen_ffi")
    # Comments are taken out here because it makes the parse three times as fast.
    return re.sub(r"/\*.*?\*/", "", header[begin:end], flags=re.DOTALL).replace("QWEN_API ", "")


def _header_path() -> Path:
    packaged = package_file("include", "qwen.h")
    if packaged is not None:
        return packaged
    source_tree = Path(__file__).resolve().parent.parent / "include" / "qwen.h"
    if source_tree.is_file():
        return source_tree
    raise QwenLibraryError("qwen.h is missing from this installation of qwen_ffi; reinstall it")


def _candidates() -> list[str]:
    """Paths and names to try, the first that exists is the one."""
    chosen = os.environ.get("QWEN_LIBRARY")
    if chosen:
        if not os.path.isfile(chosen):
            raise QwenLibraryError(
                f"QWEN_LIBRARY names {chosen}, which is not a file; point it at libqwen.so or unset it"
            )
        return [chosen]
    for name in LIBRARY_NAMES:
        packaged = package_file("lib", name)
        if packaged is not None:
            return [str(packaged)]
    return list(LIBRARY_NAMES)


# The library has threads: it must never be unmapped, not even while the interpreter clears its modules at exit.
_FLAGS = os.RTLD_NOW | getattr(os, "RTLD_NODELETE", 0)


def _open(ffi: Any) -> tuple[Any, str]:
    reasons = []
    candidates = _candidates()
    for candidate in candidates:
        try:
            return ffi.dlopen(candidate, _FLAGS), candidate
        except OSError as error:
            reasons.append(str(error))
    if candidates == list(LIBRARY_NAMES):
        from ctypes.util import find_library

        found = find_library("qwen")
        if found:
            return ffi.dlopen(found, _FLAGS), found
    source_tree = Path(__file__).resolve().parent.parent
    if (source_tree / "meson.build").is_file():
        raise QwenLibraryError(
            f"this qwen_ffi is the source folder {source_tree}, which has no library and hides the installed package: "
            "start Python in another folder (after `pip install .` there), or set QWEN_LIBRARY to the path of a libqwen.so"
        )
    raise QwenLibraryError(
        "libqwen.so could not be loaded: " + "; ".join(reasons) + ". Install the package with pip, "
        "or set QWEN_LIBRARY to the path of a libqwen.so"
    )


def _load() -> Library:
    import cffi

    ffi = cffi.FFI()
    ffi.cdef(declarations(_header_path().read_text(encoding="utf-8")))
    lib, path = _open(ffi)
    try:
        found = int(lib.qwen_abi_version())
    except AttributeError:
        raise QwenLibraryError(f"{path} is not libqwen: it has no function qwen_abi_version") from None
    needed = int(lib.QWEN_ABI_VERSION)
    if found < needed:
        raise QwenLibraryError(
            f"{path} has ABI version {found}, but this qwen_ffi needs ABI version {needed} or later; "
            "install a libqwen.so and a qwen_ffi of the same release"
        )
    return Library(ffi, lib, path)
