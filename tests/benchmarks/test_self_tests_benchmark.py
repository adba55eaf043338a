"""The benchmark of self-tests: its pictures, its correlations, its warnings and its refusals."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import pcgen
from pcgen.benchmarks.ood import self_tests
from pcgen.benchmarks.ood.self_tests import ALL, LEFT_OUT, MEAN, OURS, Outcome, rows_of, splits
from pcgen.commands import bench_self_test as command
from pcgen.data.sources import open_data
from pcgen.errors import DataError
from pcgen.registry import DATA_SETS


@pytest.fixture
def blobs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register a data set of 400 pictures of two classes, unlike digits."""

    def pictures(split: str) -> tuple[np.ndarray, np.ndarray]:
        source = np.random.default_rng(0)
        labels = np.arange(400) % 2
        values = source.normal(0.3 + 0.4 * labels[:, None, None], 0.1, size=(400, 8, 8))
        return values.clip(0, 1).astype(np.float32), labels

    monkeypatch.setattr(DATA_SETS, "_values", dict(DATA_SETS._values))
    pcgen.register_data_set("blobs", pictures)


def outcome(source: str, half: str, copies: float, real: float) -> Outcome:
    """Return a detector whose self-test and sets all have these AUROCs."""
    changes = [{"auroc": copies, "found": copies}, {"auroc": copies - 0.1, "found": 0.0}]
    test = {"auroc": copies - 0.05, "changes": changes}
    sets = {LEFT_OUT: real, "another": 1.0}
    return Outcome(f"{source}, {half}", source, test, sets, {OURS: sets, "LOF of pixels": sets})


def value(rows: list[dict[str, Any]], method: str, metric: str) -> dict[str, Any]:
    (row,) = [r for r in rows if (r["dataset"], r["method"], r["metric"]) == (ALL, method, metric)]
    return row


def test_no_picture_is_in_two_parts_and_each_class_is_known_once() -> None:
    images = open_data("digits")
    even, odd = splits("digits", images, 300)
    for split in (even, odd):
        parts = (split.known, split.new, split.left_out)
        assert [len(part) for part in parts][:2] == [300, min(500, len(split.new))]
        rows = np.concatenate(parts).reshape(-1, 64)
        # Few digits of the set look exactly alike.
        assert len(np.unique(rows, axis=0)) >= len(rows) - 3
    assert images.labels is not None
    pictures = self_tests.pictures(images).reshape(-1, 64)
    known = {tuple(row) for row in even.known.reshape(-1, 64)}
    labels = {int(y) for row, y in zip(pictures, images.labels, strict=True) if tuple(row) in known}
    assert labels == {0, 2, 4, 6, 8}


def test_self_tests_that_tell_the_truth_correlate_and_warn() -> None:
    pairs = [("a", 0.99, 0.98), ("b", 0.9, 0.9), ("c", 0.8, 0.78), ("d", 0.6, 0.6)]
    rows = rows_of([outcome(name, half, *both) for name, *both in pairs for half in ("1", "2")])
    row = value(rows, MEAN, "Spearman, auroc of left-out classes")
    assert row["value"] == pytest.approx(1)
    assert row["ci_low"] <= row["value"] <= row["ci_high"] + 1e-12
    warned = value(rows, MEAN, "warned where auroc of left-out classes < 0.7")
    assert (warned["value"], warned["note"]) == (1.0, "2 of 2; of the 6 others 0")
    # All other data sets are found alike: nothing can be correlated, and no detector is poor.
    assert value(rows, MEAN, "Pearson, auroc of other data sets")["value"] is None
    assert value(rows, MEAN, "warned where auroc of other data sets < 0.7")["value"] is None


@pytest.mark.usefixtures("blobs")
def test_detectors_of_each_half_are_measured_beside_plain_methods(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = partial(command.train, settings=["learning.epochs=1", "model.layers=[4,16]"])
    monkeypatch.setattr(command, "train", short)
    rows = pcgen.bench_self_test(["digits", "blobs"], limit=150, out=tmp_path)
    detectors = {row["dataset"] for row in rows} - {ALL}
    assert len(detectors) == 4
    of_digits = [row for row in rows if row["dataset"] == "digits, even classes"]
    found = {(row["method"], row["metric"]): row["value"] for row in of_digits}
    assert found[OURS, "auroc of other data sets"] > 0.9
    assert found["LOF of pixels", "auroc of other data sets"] > 0.9
    assert "Correlations are" in (tmp_path / "index.html").read_text()
    assert json.loads((tmp_path / "self-test.json").read_text()) == rows


def test_one_data_set_and_data_without_labels_are_refused() -> None:
    with pytest.raises(DataError, match="pictures of another data set"):
        pcgen.bench_self_test(["digits"])
    with pytest.raises(DataError, match="no labels of several classes"):
        list(splits("noise", open_data(np.random.default_rng(0).random((50, 8, 8))), 100))
