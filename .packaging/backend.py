"""meson-python, with the wheel tagged for what it holds.

libqwen.so is loaded with cffi and knows nothing of Python's own ABI, so one wheel serves every Python 3: its tag is
py3-none-<platform>. meson-python takes any native file inside a package for an extension module of the interpreter that
built it (cp311-cp311-<platform>).
"""

import subprocess
import sys
from pathlib import Path

import mesonpy
from mesonpy import (  # noqa: F401  (the rest of the backend's hooks, as they are)
    build_editable,
    build_sdist,
    get_requires_for_build_editable,
    get_requires_for_build_sdist,
    get_requires_for_build_wheel,
)


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    name = mesonpy.build_wheel(wheel_directory, config_settings, metadata_directory)
    retag = [sys.executable, "-m", "wheel", "tags", "--remove", "--python-tag=py3", "--abi-tag=none"]
    tagged = subprocess.run([*retag, Path(wheel_directory, name)], check=True, stdout=subprocess.PIPE, text=True)
    return tagged.stdout.strip()
