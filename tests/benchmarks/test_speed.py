"""The speed table: its rules on made-up timings, and our own worker on a tiny network."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import pcgen
from pcgen.benchmarks.peers.process import PROTOCOL, Peer
from pcgen.benchmarks.speed import driver, pcgen_worker
from pcgen.benchmarks.speed.cells import BATCH, Cell, Place, quartiles, rows_of
from pcgen.benchmarks.speed.floor import bytes_moved, multiply_adds
from pcgen.benchmarks.speed.workloads import WORKLOADS, Workload, setup, write
from pcgen.errors import RecipeError
from pcgen.inference.solvers import prepare
from pcgen.pages import speed_page

TINY = Workload("tiny", [2, 3], (1, 1, 12), 6, 4, 0.05, rates=(0.02, 0.05))
ONE = Place(1)


def test_a_row_has_the_median_its_quartiles_and_the_ratio_to_the_faster_mode() -> None:
    scan = Cell("pcx, scan", BATCH, [0.4, 0.5, 0.6])
    unrolled = Cell("pcx, unrolled", BATCH, [0.2, 0.2, 0.2])
    ours = Cell("pcgen", BATCH, [0.1, 0.09, 0.11, 0.1])
    row = rows_of([ours, scan, unrolled], "W1", Place(2))[0]
    assert row["value"] == pytest.approx(100)
    assert row["ci_low"] < 100 < row["ci_high"]
    assert row["ratio"] == pytest.approx(0.5)
    assert (row["dataset"], row["threads"], row["samples"]) == ("W1", 2, 4)
    assert quartiles([2.0]) == (2.0, 2.0, 2.0)


def test_gaps_below_a_tenth_are_ties_and_the_unranked_have_no_ratio() -> None:
    assert Cell("pcgen", BATCH, [0.21]).row("W1", ONE, 0.2)["note"] == "a tie"
    assert Cell("pcgen", BATCH, [0.23]).row("W1", ONE, 0.2)["note"] == ""
    cell = Cell("fabricpc", BATCH, [0.2], ranked=False)
    assert cell.row("W1", ONE, 0.2)["ratio"] is None
    assert Cell("pcx, scan", BATCH).row("W1", ONE, None)["value"] is None
    assert str(Place(2)) == "2 threads"
    assert str(Place(1, "cuda:0")) == "cuda:0"


class Fake:
    """A worker with these energies."""

    def __init__(self, energies: list[float | None]) -> None:
        self.energies = energies

    def ask(self, message: dict[str, Any], timeout: float) -> dict[str, Any]:
        return {"energy": self.energies}


@pytest.mark.parametrize(
    ("energies", "note"),
    [
        ([10.0, 9.0, 8.0001], ""),
        ([10.0, 9.0, None], "its energies diverge"),
        ([10.1, 9.0, 8.0], "another energy at the start, by 0.01"),
        ([10.0, 9.0, 8.1], "other energies after 5 steps, by 0.01"),
    ],
)
def test_a_competitor_with_other_energies_is_not_ranked_and_the_note_says_why(
    energies: list[float | None], note: str
) -> None:
    cells = {name: Cell(name, BATCH) for name in ("pcgen", "pcx, scan")}
    peers: Any = {"pcgen": Fake([10.0, 9.0, 8.0]), "pcx, scan": Fake(energies)}
    driver._check(peers, cells)
    assert cells["pcx, scan"].note == note
    assert cells["pcx, scan"].ranked == (not note)


def test_a_descent_by_autograd_has_our_states() -> None:
    network, data_BD = TINY.network(), TINY.data(6)
    table = TINY.recipe().inference
    states = pcgen_worker.autograd_states(network, data_BD, 4, table)
    expected = prepare(network, table).begin(data_BD, steps=4)
    for a, b in zip(states, expected.states, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(
        pcgen_worker._energy(network, states), expected.energy_B.sum(), rtol=1e-5, atol=1e-6
    )


@pytest.mark.slow
def test_the_table_is_measured_without_the_peers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(driver.WORKLOADS, "tiny", TINY)
    with torch.no_grad():
        rows = list(driver.speed_rows(["tiny"], 2, [ONE], tmp_path, lambda *_: None))
    table = {(row["method"], row["metric"]): row for row in rows}
    for method in ("pcgen", "torch autograd", "backprop autoencoder"):
        assert table[method, BATCH]["value"] > 0
    # Both take the energies of the same steps: neither is ruled out.
    assert table["torch autograd", BATCH]["note"] == ""
    assert "make peers" in table["pcx, scan", BATCH]["note"]
    assert table["pcx, scan", BATCH]["value"] is None
    for solver in ("majorise", "newton", "errors", "descent"):
        assert table[f"pcgen, {solver}", "seconds to equilibrium"]["value"] > 0
    assert "updates" in table["pcgen, descent", "seconds to the validation MSE"]["note"]
    page = speed_page.write(rows, tmp_path / "out").read_text()
    assert "tiny, one thread" in page
    assert json.loads((tmp_path / "out" / "speed.json").read_text()) == rows


def test_a_convolution_is_described_to_the_peers(tmp_path: Path) -> None:
    workload = WORKLOADS["W4"]
    network, data_BD = workload.network(), workload.data(2)
    write(network, data_BD, tmp_path / "n.npz")
    message = setup(workload, network, tmp_path / "n.npz", "scan")
    assert message["kind"] == "deconv"
    last = {"stride": 2, "padding": 1, "output_padding": 0, "in": [8, 4, 4], "out": [8, 8, 8]}
    assert message["geometry"][-1] == last
    assert multiply_adds(network, 2, 3) is None
    command = (sys.executable, PROTOCOL, pcgen_worker.__name__)
    with Peer("pcgen", tmp_path, 1, command) as peer:
        assert peer.ask({**message, "mode": "pcgen"}, 900)["ok"]
        energies = peer.ask({"do": "energies", "steps": 2}, 900)["energy"]
        assert energies[0] > energies[2] > 0


def test_the_floor_counts_the_gram_form() -> None:
    network = replace(TINY).network()
    # A step: both products of 2x3, one of 3x3; once: x W, a triangle of W'W, the start's drive.
    step = 6 * (2 * 6 + 9)
    once = 6 * 36 + 12 * 9 / 2 + 6 * 6
    assert multiply_adds(network, 6, 4) == 4 * step + once + 2 * 6 * 42


def test_the_floor_of_the_memory_counts_every_operand_once() -> None:
    network = replace(TINY).network()
    # A step: 2x3 weights twice, the 3x3 Gram matrix, 5 units of 6 images four times.
    step = 2 * 6 + 9 + 4 * 6 * 5
    assert bytes_moved(network, 6, 4) == 4 * (4 * step + 6 * 42 + 2 * 6 * 12)


def test_an_unknown_workload_is_refused() -> None:
    with pytest.raises(RecipeError, match="no workload W9"):
        pcgen.bench_speed(["W1", "W9"])
