"""The speed table: its rules on made-up timings, and our own worker on a tiny network."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

import pcgen
from pcgen.benchmarks.peers.process import PeerError
from pcgen.benchmarks.speed import driver, pcgen_worker, tuning
from pcgen.benchmarks.speed.cells import BATCH, EQUILIBRIUM, ERROR, Cell, Place, rows_of
from pcgen.benchmarks.speed.driver import Workers
from pcgen.benchmarks.speed.workloads import WORKLOADS, Workload, setup
from pcgen.errors import RecipeError
from pcgen.inference.solvers import prepare
from pcgen.pages import speed_page

TINY = Workload("tiny", [2, 3], (1, 1, 12), 6, 4, 0.05)
ONE = Place(1)


def timed(method: str, seconds: list[float]) -> Cell:
    return Cell(method, TINY.descent(), seconds=seconds)


def test_a_row_has_the_median_its_quartiles_and_the_ratio_to_the_fastest_library() -> None:
    cells = [
        timed("pcgen, newton", [0.1, 0.09, 0.11, 0.1]),
        timed("pcx", [0.4, 0.5, 0.6]),
        timed("fabricpc", [0.2]),
        timed("backprop autoencoder", [0.01]),
        Cell("pcgen, errors", None, "not within 400 steps"),
    ]
    ours, pcx, fabricpc, baseline, missing = rows_of(cells, "W1", Place(2), BATCH)
    assert ours["value"] == pytest.approx(100)
    assert ours["ci_low"] < 100 < ours["ci_high"]
    assert ours["ratio"] == pytest.approx(0.5)
    assert (ours["dataset"], ours["threads"], ours["samples"]) == ("W1", 2, 4)
    assert (pcx["ratio"], fabricpc["ratio"]) == (pytest.approx(2.5), 1)
    assert baseline["ratio"] == pytest.approx(0.05)
    assert (missing["value"], missing["ratio"]) == (None, None)


def test_without_another_library_there_is_no_ratio() -> None:
    (row,) = rows_of([timed("pcgen, newton", [2.0])], "W1", ONE, EQUILIBRIUM)
    assert (row["value"], row["ratio"]) == (2, None)


class Fake(Workers):
    """Workers whose energies are made up; a library without one fails."""

    def __init__(self, energies: dict[str, float | None]) -> None:
        super().__init__({}, ONE, Path())
        self.energies = energies

    def ask(self, library: str, message: Any) -> dict[str, Any]:
        if library not in self.energies:
            raise PeerError(f"{library}: no answer to 'time' within 600 seconds\na trace")
        if message["do"] == "energy":
            return {"energy": self.energies[library]}
        return {"seconds": [1.0], "processors": 1.0, "finite": True}


@pytest.mark.parametrize(
    ("energies", "note"),
    [
        ({"pcx": 8.0001}, ""),
        ({"pcx": None}, "another energy: None, ours 8.0"),
        ({"pcx": 8.1}, "another energy: 8.1, ours 8.0"),
        ({}, "pcx: no answer to 'time' within 600 seconds"),
    ],
)
def test_a_library_that_fails_or_has_other_energies_is_let_go_and_the_note_says_why(
    energies: dict[str, float | None], note: str
) -> None:
    cells = [timed("pcgen, descent", []), timed("pcx", [])]
    driver.race(Fake({"pcgen": 8.0, **energies}), cells, "infer", 6, lambda *_: None)
    ours, theirs = cells
    assert ours.seconds == [1.0, 1.0]
    assert theirs.note == note
    assert bool(theirs.seconds) == (not note)


def test_other_libraries_do_not_run_on_a_gpu(tmp_path: Path) -> None:
    with (
        Workers({}, Place(1, "cuda:0"), tmp_path) as workers,
        pytest.raises(PeerError, match="on the CPU only"),
    ):
        workers.ask("pcx", {"do": "time"})


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pcgen_worker.Library:
    """Return the worker of the tiny network, in this process."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    library = pcgen_worker.Library()
    before = torch.is_grad_enabled()
    with torch.no_grad():
        library.setup({**setup(TINY, tmp_path), "device": "cpu"})
    torch.set_grad_enabled(before)
    return library


def test_the_steps_to_equilibrium_are_the_first_after_which_every_image_is_there(
    library: pcgen_worker.Library,
) -> None:
    setting = TINY.descent() | {"rate": 0.2}
    with torch.no_grad():
        steps = library.steps({"setting": setting, "most": 300})["steps"]
        assert library.steps({"setting": setting, "most": steps - 1})["steps"] is None
        method = prepare(library.network, library.table)
        for count, arrived in ((steps - 1, False), (steps, True)):
            energy_B = method.begin(library.data_BD, steps=count).energy_B
            assert bool((energy_B <= library.arrays["target_B"]).all()) == arrived


def test_training_stops_at_the_first_look_that_shows_the_target(
    library: pcgen_worker.Library,
) -> None:
    request = {"setting": {"solver": "majorise", "steps": 3}, "most": 8}
    with torch.no_grad():
        end = library.updates({**request, "target": 0.0})
        assert end["updates"] is None
        assert library.updates({**request, "target": end["mse"]})["updates"] == 8
        assert library.updates({**request, "target": 1e3})["updates"] == 2


@pytest.mark.slow
def test_the_table_is_measured_without_the_peers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(driver.WORKLOADS, "tiny", TINY)
    monkeypatch.setattr(tuning, "RATES", (5, 1))
    monkeypatch.setattr(tuning, "MOMENTA", (0.8,))
    monkeypatch.setattr(tuning, "MOST_UPDATES", 4)
    monkeypatch.setattr(tuning, "LEARNERS", (("newton", 1), ("backprop", 1)))
    with torch.no_grad():
        rows = list(driver.speed_rows(["tiny"], 2, [ONE], tmp_path, lambda *_: None))
    table = {(row["method"], row["metric"]): row for row in rows}
    for solver in ("majorise", "newton", "errors", "descent"):
        assert table[f"pcgen, {solver}", EQUILIBRIUM]["value"] > 0
    assert "after 4 updates" in table["pcgen, descent", ERROR]["note"]
    assert table["pcgen, descent", BATCH]["value"] > 0
    for metric in (EQUILIBRIUM, BATCH):
        assert "make peers" in table["pcx", metric]["note"]
        assert table["pcx", metric]["value"] is None
    assert "GFLOP/s" in table["floor of the products", BATCH]["note"]
    assert all(row["processor"] and row["cores"] for row in rows)
    page = speed_page.write(rows, tmp_path / "out").read_text()
    assert f"tiny, one thread: {EQUILIBRIUM}" in page
    assert rows[0]["processor"] in page
    assert json.loads((tmp_path / "out" / "speed.json").read_text()) == rows


def test_a_convolution_is_described_to_the_peers(tmp_path: Path) -> None:
    workload = replace(WORKLOADS["W4"], batch=2, races=False)
    message = setup(workload, tmp_path)
    assert message["kind"] == "deconv"
    last = {"stride": 2, "padding": 1, "output_padding": 0, "in": [8, 4, 4], "out": [8, 8, 8]}
    assert message["geometry"][-1] == last
    # As a worker reads it: from JSON, in which tuples are lists.
    read = Workload(**json.loads(json.dumps(message))["workload"])
    assert read.network().sizes == workload.network().sizes == [3072, 1280, 512, 128]
    assert asdict(read)["batch"] == 2


def test_an_unknown_workload_is_refused() -> None:
    with pytest.raises(RecipeError, match="no workload W9"):
        pcgen.bench_speed(["W1", "W9"])
