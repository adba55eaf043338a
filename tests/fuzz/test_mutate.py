"""Damaged files of every kind; see `mutate`. PCGEN_FUZZ_SECONDS makes it longer."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_damaged_files_are_refused_or_read_as_what_they_were() -> None:
    seconds = os.environ.get("PCGEN_FUZZ_SECONDS", "60")
    words = [sys.executable, "-m", "tests.fuzz.mutate", "--seconds", seconds]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr
