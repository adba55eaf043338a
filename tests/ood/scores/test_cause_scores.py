"""Scores within a cause: unusual on both sides, and only beside images of the same cause."""

from __future__ import annotations

import torch
from torch import Tensor

from pcgen.ood.scores.cause_scores import CauseScores, View

SHAPE = (1, 8, 8)


def view(count: int, seed: int, *, error: float = 1.0, cell: float = 1.0) -> View:
    """Return images of two causes; those of the second have errors ten times as large.

    Args:
        error: a factor of all errors.
        cell: a factor of those in the image's first rows and columns.
    """
    draw = torch.Generator().manual_seed(seed)
    second = torch.arange(count) % 2
    latent = torch.randn(count, 6, generator=draw)
    latent[:, 0] += 12.0 * second
    size = error * (1 + 9 * second[:, None])
    data = size * torch.randn(count, 64, generator=draw)
    data.view(-1, 8, 8)[:, :2, :2] *= cell
    hidden = size * torch.randn(count, 10, generator=draw)
    return View.of([data, hidden], latent, SHAPE)


def of_first_cause(scores: Tensor) -> Tensor:
    return scores[::2]


def fitted(*, directed: bool = False) -> CauseScores:
    return CauseScores.fit(view(1000, 0), directed=directed)


def test_errors_that_are_too_small_are_as_unusual_as_those_that_are_too_large() -> None:
    scores = fitted()
    usual = scores(view(200, 1))[0].quantile(0.95)
    for factor in (0.5, 2.0):
        assert (scores(view(200, 1, error=factor))[0] > usual).float().mean() > 0.95


def test_an_error_that_is_usual_in_another_cause_is_unusual_in_its_own() -> None:
    scores = fitted()
    usual = of_first_cause(scores(view(200, 1))[0])
    as_in_the_second = of_first_cause(scores(view(200, 1, error=10.0))[0])
    assert (as_in_the_second > usual.quantile(0.8)).float().mean() > 0.9


def test_one_cell_of_the_image_is_enough() -> None:
    scores = fitted()
    known, unusual = view(200, 1), view(200, 1, cell=20.0)
    assert (scores(unusual)[0] > scores(known)[0].quantile(0.95)).float().mean() > 0.95


def test_the_length_of_a_latent_does_not_change_the_energy_of_its_direction() -> None:
    known = view(1000, 0)
    scores = CauseScores.fit(known, directed=True)
    mean = known.latent_BL.mean(0)
    short = View(known.squares_BF, known.cells_BC, mean + 0.2 * (known.latent_BL - mean))
    torch.testing.assert_close(scores(short)[1], scores(known)[1], rtol=1e-3, atol=1e-3)


def test_a_table_has_no_cells() -> None:
    error = torch.randn(20, 64, generator=torch.Generator().manual_seed(0))
    assert View.of([error], error[:, :3], (1, 1, 64)).cells_BC.shape == (20, 0)


def test_two_rows_that_are_equal_are_enough() -> None:
    one = View.of([torch.ones(2, 64)], torch.ones(2, 3), SHAPE)
    scores = CauseScores.fit(one, directed=True)
    assert scores(View.joined([one, one]))[0].isfinite().all()


def test_stored_scores_are_the_same_to_the_bit() -> None:
    scores = fitted(directed=True)
    stored = {name: tensor.float() for name, tensor in scores.tensors().items()}
    again = CauseScores.load(stored, directed=True)
    new = view(50, 2)
    assert all(map(torch.equal, again(new), scores(new)))
