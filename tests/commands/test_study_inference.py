"""The study of what solvers reach on the shipped models."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import pcgen


def test_majorise_is_called_converged_at_unit_precision_and_not_at_100(tmp_path: Path) -> None:
    rows = pcgen.study_inference(["digits", "digits-ood"], limit=4, out=tmp_path)
    assert json.loads((tmp_path / "inference.json").read_text()) == rows
    assert "Hidden precision 100" in (tmp_path / "index.html").read_text()
    found = {(row["model"], row["solver"]): row for row in rows}
    assert found["digits-ood", "majorise"]["converged"] == 1.0
    assert found["digits-ood", "majorise"]["excess_worst"] < 1e-5
    assert found["digits", "majorise"]["converged"] == 0.0
    assert found["digits", "majorise"]["above_least"] > 1e-3
    assert found["digits", "errors"]["above_least"] < found["digits", "majorise"]["above_least"]
    # The recipe's rate is too high for gradient descent at precision 100.
    assert found["digits", "descent"]["energy"] is None


def test_an_unknown_model_is_answered_with_the_known_ones() -> None:
    with pytest.raises(pcgen.RecipeError, match="digitz: no such model here"):
        pcgen.study_inference(["digitz"])
