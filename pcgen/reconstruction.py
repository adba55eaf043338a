"""Reconstruction: infer the states of images and decode them from the latent."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pcgen.config import InferenceTable
from pcgen.data.images import Images
from pcgen.data.keeper import Keeper
from pcgen.distributed import Group
from pcgen.learning.validate import Metrics, Reconstruction, reconstructions, summarise
from pcgen.model.network import Network


@dataclass(slots=True)
class Reconstructed:
    """The outcome for a table of images.

    Attributes:
        metrics: means over the readable images.
        rows: one for every input, in order, with its status.
        inputs_BD: the first readable images, for a picture.
        outputs_BD: the same images, decoded from the latent.
    """

    metrics: Metrics
    rows: list[dict[str, Any]]
    inputs_BD: Tensor
    outputs_BD: Tensor


def reconstruct(
    network: Network,
    images: Images,
    table: InferenceTable,
    *,
    pictures: int = 24,
    on_batch: Callable[[int], None] = lambda done: None,
    group: Group | None = None,
) -> Reconstructed:
    """Return the reconstruction errors of all images, and the first pictures.

    Args:
        on_batch: called with the number of images that are done.
        group: processes that share the images, if there are several; each returns all results.
    """
    share = images if group is None else images.subset(group.share(len(images)))
    keeper = Keeper(share, pictures)

    def kept() -> Iterator[Reconstruction]:
        for batch in reconstructions(network, share, table):
            _keep(keeper, batch)
            on_batch(len(keeper.rows))
            yield batch

    metrics = summarise(kept(), group)
    results = [(keeper.rows, keeper.first("inputs"), keeper.first("outputs"))]
    if group is not None:
        results = group.gather(results[0])
    return Reconstructed(
        metrics,
        [row for rows, _, _ in results for row in rows],
        torch.cat([inputs_BD for _, inputs_BD, _ in results])[:pictures],
        torch.cat([outputs_BD for _, _, outputs_BD in results])[:pictures],
    )


def _keep(keeper: Keeper, batch: Reconstruction) -> None:
    equilibrium = batch.equilibrium
    columns: dict[str, Tensor | list[Any]] = {
        "energy": equilibrium.energy_B,
        "mse": batch.squared_error(batch.decoded_BD),
        "mse_last_hidden": batch.squared_error(batch.last_hidden_BD),
        "excess_bound": [
            bound if math.isfinite(bound) else None for bound in equilibrium.excess_bound_B.tolist()
        ],
        "converged": equilibrium.converged_B,
        "steps": equilibrium.steps_B,
    }
    pictures = {"inputs": equilibrium.states[0], "outputs": batch.decoded_BD}
    keeper.keep(batch.rows, columns, pictures)
