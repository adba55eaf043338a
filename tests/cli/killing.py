"""A command in a process of its own that is killed while it writes.

Importing this module imports all that the commands need, so that a fork of a process that has it
starts at once.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from typing import Any

import pcgen.ood.job
import pcgen.pages.heatmaps  # noqa: F401  (the commands import these when they need them)
from pcgen.cli.main import cli


def run(command: str, folder: Path, call: str | None, number: int = 1) -> None:
    """Run a command in a folder; kill the process at the n-th call of a function of `os`."""
    os.chdir(folder)
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    if call is not None:
        usual, count = getattr(os, call), 0

        def fatal(*arguments: Any) -> Any:
            nonlocal count
            count += 1
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return usual(*arguments)

        setattr(os, call, fatal)
    cli.main(command.split())
