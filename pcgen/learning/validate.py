"""Measures of held-out images: their energy, and the errors of their reconstructions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pcgen.config import InferenceTable
from pcgen.data.images import Images, Rows
from pcgen.distributed import Group
from pcgen.inference.infer import Equilibrium, infer
from pcgen.inference.solvers import prepare
from pcgen.model.network import Network

BATCH = 500


@dataclass(slots=True)
class Reconstruction:
    """A batch of images with their equilibrium and reconstructions.

    Attributes:
        first: the row number of the batch's first image.
        rows: the images as read, with each one's status.
        equilibrium: the states, for the readable rows only.
        decoded_BD: decoded from the latent, within [0, 1] where the data are pixels.
        last_hidden_BD: the data layer's prediction from the layer above it.
    """

    first: int
    rows: Rows
    equilibrium: Equilibrium
    decoded_BD: Tensor
    last_hidden_BD: Tensor

    def squared_error(self, decoded_BD: Tensor) -> Tensor:
        """Return the mean squared error per unit (B,) of the readable rows."""
        return (decoded_BD - self.equilibrium.states[0]).square().mean(1)


@dataclass(slots=True)
class Metrics:
    """Means over images; `mse` is per pixel, decoded from the latent."""

    count: int
    energy: float
    mse: float
    mse_last_hidden: float
    converged: float
    steps: float


@dataclass(slots=True)
class Accuracy:
    """Means over images: the cross entropy in nats, and the share whose label is the likeliest."""

    count: int
    energy: float
    accuracy: float
    error: float


def reconstructions(
    network: Network, images: Images, table: InferenceTable, batch_size: int = BATCH
) -> Iterator[Reconstruction]:
    """Yield every batch of images with its equilibrium and reconstructions."""
    device = network.layers[0].weight.device
    method = prepare(network, table.for_use())
    for first in range(0, len(images), batch_size):
        rows = images.rows(range(first, min(first + batch_size, len(images))))
        data_BD = rows.pixels_BD[rows.ok].to(device)
        equilibrium = infer(method, data_BD, steps=table.test_steps, tolerance=table.tolerance)
        states = equilibrium.states
        last_hidden_BD = network.energies()[0].predict(network.drive(0, states))
        decoded_BD = network.decode(states[network.latent])
        if not images.is_table:
            decoded_BD, last_hidden_BD = decoded_BD.clamp(0, 1), last_hidden_BD.clamp(0, 1)
        yield Reconstruction(first, rows, equilibrium, decoded_BD, last_hidden_BD)


def measure(
    network: Network, images: Images, table: InferenceTable, group: Group | None = None
) -> Metrics:
    """Return the means over all readable images; the processes of a group share the work."""
    mine = images if group is None else images.subset(group.share(len(images)))
    return summarise(reconstructions(network, mine, table), group)


def summarise(batches: Iterator[Reconstruction], group: Group | None = None) -> Metrics:
    """Return the means over the batches' readable images; NaN if there are none."""
    columns: list[Tensor] = []
    for batch in batches:
        found = batch.equilibrium
        columns.append(
            torch.stack(
                [
                    found.energy_B,
                    batch.squared_error(batch.decoded_BD),
                    batch.squared_error(batch.last_hidden_BD),
                    found.converged_B.to(found.energy_B.dtype),
                    found.steps_B.to(found.energy_B.dtype),
                ]
            ).double()
        )
    table = torch.cat(columns, 1) if columns else torch.zeros(5, 0, dtype=torch.float64)
    count, means = table.shape[1], table.mean(1)
    if group is not None:
        counts, sums = group.sum([torch.tensor([float(count)]).double(), table.sum(1).cpu()])
        count, means = int(counts), sums / counts
    energy, mse, mse_last_hidden, converged, steps = means.tolist()
    return Metrics(count, energy, mse, mse_last_hidden, converged, steps)
