"""Reconstruction: infer the states of images and decode them from the latent."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from pcgen.config import InferenceTable
from pcgen.data.images import Images
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
        outputs_BD: what the latent decodes to, for the same images.
    """

    metrics: Metrics
    rows: list[dict[str, Any]]
    inputs_BD: Tensor
    outputs_BD: Tensor


@dataclass(slots=True)
class _Keeper:
    """Keeps a row for every input and the first few pictures, while the batches pass by."""

    images: Images
    pictures: int
    on_batch: Callable[[int], None]
    rows: list[dict[str, Any]] = field(default_factory=list)
    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)

    def watch(self, batches: Iterator[Reconstruction]) -> Iterator[Reconstruction]:
        for batch in batches:
            self._keep(batch)
            self.on_batch(len(self.rows))
            yield batch

    def _keep(self, batch: Reconstruction) -> None:
        found = batch.equilibrium
        columns = {
            "energy": found.energy_B,
            "mse": batch.squared_error(batch.decoded_BD),
            "mse_last_hidden": batch.squared_error(batch.last_hidden_BD),
            "converged": found.converged_B,
            "steps": found.steps_B,
        }
        values = zip(*(column.tolist() for column in columns.values()), strict=True)
        for i, (status, reason) in enumerate(
            zip(batch.rows.status, batch.rows.reason, strict=True)
        ):
            row = {"id": self.images.id(batch.first + i), "status": status}
            if status == "ok":
                row |= dict(zip(columns, next(values), strict=True))
            else:
                row["reason"] = reason
            self.rows.append(row)
        if sum(map(len, self.inputs)) < self.pictures:
            self.inputs.append(found.states[0].cpu())
            self.outputs.append(batch.decoded_BD.cpu())


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
        on_batch: told how many images are done.
        group: processes that share the images, if there are several; each returns the whole.
    """
    mine = images if group is None else images.subset(group.share(len(images)))
    keeper = _Keeper(mine, pictures, on_batch)
    metrics = summarise(keeper.watch(reconstructions(network, mine, table)), group)
    parts = [(keeper.rows, keeper.inputs, keeper.outputs)]
    if group is not None:
        parts = group.gather(parts[0])
    return Reconstructed(
        metrics,
        [row for rows, _, _ in parts for row in rows],
        torch.cat([batch for _, inputs, _ in parts for batch in inputs])[:pictures],
        torch.cat([batch for _, _, outputs in parts for batch in outputs])[:pictures],
    )
