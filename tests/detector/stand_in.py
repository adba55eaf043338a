"""A simple scorer: the free energy, its layers, and the distance to the mean latent."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pcgen.config import InferenceTable
from pcgen.data.images import Images
from pcgen.inference.infer import infer
from pcgen.inference.solvers import prepare
from pcgen.model.network import Network


class PCScorer:
    names = ("free-energy", "latent-knn")

    def __init__(self, network: Network, table: InferenceTable, mean_D: Tensor) -> None:
        self.network, self.table, self.mean_D = network, table, mean_D

    def _states(self, data_BD: Tensor) -> Any:
        return infer(prepare(self.network, self.table), data_BD, steps=30, tolerance=1e-4)

    def __call__(self, data_BD: Tensor) -> dict[str, Tensor]:
        found = self._states(data_BD)
        energies = [terms.energy_B for terms in self.network.terms(found.states)]
        return {
            "free-energy": found.energy_B,
            "latent-knn": (found.states[-1] - self.mean_D).norm(dim=1),
            "free_energy_nats": found.energy_B,
            "converged": found.converged_B.double(),
        } | {f"energy_layer_{i}": energy for i, energy in enumerate(energies)}

    def tensors(self) -> dict[str, Tensor]:
        return {"mean": self.mean_D}

    def heatmap(self, data_BD: Tensor) -> Tensor:
        states = self._states(data_BD).states
        return (data_BD - self.network.terms(states)[0].prediction_BD).abs()


def fit(
    network: Network,
    images: Images,
    table: InferenceTable,
    *,
    labels: Tensor | None = None,
    device: str = "cpu",
) -> PCScorer:
    data_BD = images.rows(range(len(images))).pixels_BD
    scorer = PCScorer(network, table, torch.zeros(network.sizes[-1]))
    scorer.mean_D = scorer._states(data_BD).states[-1].mean(0)
    return scorer


def load(network: Network, table: InferenceTable, tensors: dict[str, Tensor]) -> PCScorer:
    return PCScorer(network, table, tensors["mean"])
