"""Commands without --out write into the working folder: every test has one of its own."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "working-folder"
    folder.mkdir()
    monkeypatch.chdir(folder)
