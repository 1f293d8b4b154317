"""What was loaded."""

from __future__ import annotations

import json
from typing import Any

from ._loader import library


def version() -> str:
    """The library's version, e.g. "0.1.0"."""
    loaded = library()
    return str(loaded.ffi.string(loaded.lib.qwen_version()).decode())


def abi_version() -> int:
    """The version of the interface that the loaded library offers."""
    return int(library().lib.qwen_abi_version())


def build_info() -> dict[str, Any]:
    """Version, compiler, backends compiled in and the instruction set levels of this machine, as the library reports
    them; with the path it was loaded from under "library"."""
    loaded = library()
    info = json.loads(loaded.ffi.string(loaded.lib.qwen_build_info()).decode())
    return {**info, "library": loaded.path}
