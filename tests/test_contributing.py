"""CONTRIBUTING.md: the code that it shows runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from pcgen import registry

PAGE = Path(__file__).parent.parent / "CONTRIBUTING.md"


def test_the_code_of_contributing_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tables = [table for table in vars(registry).values() if isinstance(table, registry.Table)]
    for table in tables:
        monkeypatch.setattr(table, "_values", dict(table._values))
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    calls: dict[str, Any] = {}
    exec(compile("\n".join(blocks), str(PAGE), "exec"), calls)
    assert calls["result"].metrics["mse"] < 1
    for table in tables:
        assert len(table.names()) > len(table.built_in), table.what
    assert (tmp_path / "run" / "model.safetensors").is_file()
