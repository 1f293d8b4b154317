#!/usr/bin/env python3
"""Compares the tests that pytest skipped (its JUnit file) with the committed list.

    pytest --junitxml=FILE; python tests/skipped.py FILE tests/skipped.txt

A line of the list is a test that must be skipped, with its reason; or "? " and a reason for which any test may be skipped.
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree
from pathlib import Path


def main(junit: Path, listed: Path) -> int:
    lines = listed.read_text(encoding="utf-8").splitlines()
    tolerated = {line[2:] for line in lines if line.startswith("? ")}
    skipped = set()
    for case in xml.etree.ElementTree.parse(junit).iter("testcase"):
        reason = case.find("skipped")
        if reason is not None and reason.get("message") not in tolerated:
            skipped.add(f"{case.get('classname')}::{case.get('name')}: {reason.get('message')}")
    expected = {line for line in lines if line and not line.startswith(("#", "? "))}
    for line in sorted(skipped - expected):
        print(f"skipped, but not in {listed}: {line}")
    for line in sorted(expected - skipped):
        print(f"in {listed}, but not skipped: {line}")
    return int(skipped != expected)


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
