"""A progress bar on standard error: only for people, and only for what takes longer than they notice."""

from __future__ import annotations

import shutil
import sys
import time
from types import TracebackType

_PATIENCE = 1.0  # seconds before anything is drawn
_INTERVAL = 0.1  # between two drawings
_BAR = 24  # columns


class Progress:
    """`with Progress("opening") as progress: progress(0.5)`. Draws one line and takes it away at the end. Any thread."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._shown = sys.stderr.isatty()
        self._drawn = False
        self._next = time.monotonic() + _PATIENCE

    def __call__(self, fraction: float, label: str | None = None) -> None:
        """Says how far it is, 0...1, and what is being done."""
        if label is not None:
            self._label = label
        now = time.monotonic()
        if not self._shown or now < self._next:
            return
        self._next = now + _INTERVAL
        self._drawn = True
        sys.stderr.write("\r\x1b[K" + self._line(min(max(fraction, 0.0), 1.0)))
        sys.stderr.flush()

    def clear(self) -> None:
        """Takes the line away, for other output; the next call draws it again."""
        if self._drawn:
            self._drawn = False
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._shown = False
        self.clear()

    def _line(self, fraction: float) -> str:
        full, empty = ("█", "░") if (sys.stderr.encoding or "").lower().startswith("utf") else ("#", ".")
        filled = round(fraction * _BAR)
        bar = f"{full * filled}{empty * (_BAR - filled)} {fraction:4.0%}"
        room = shutil.get_terminal_size().columns - len(bar) - 2  # the last column would wrap
        return f"{self._label[:room]} {bar}" if room > 0 else f"{fraction:4.0%}"
