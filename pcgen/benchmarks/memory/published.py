"""The published memory in our engine: its training and its recall.

    training   500 epochs of AdamW; the states of a batch of 50 take a fixed number of plain steps
               down the energy of unit precisions, without a prior on the latent
    recall     starts with all states 0 and the data layer at the cue; every state, the data too,
               moves down the same energy; visible pixels of a mask are put back after each step;
               the result is the data layer

Free data are a running mean of the predictions of the layer above, so that a step needs only W'W:

    x(t) = (1 - r)^t x(0) + (1 - (1 - r)^t) b + W e(t),   e(t + 1) = (1 - r) e(t) + r h(t)

Source: Pinchetti et al. (2025), table 3 and the released code, whose settings were chosen for each
cell by the recall error itself. Their rates are for an energy averaged over the batch. We differ in
the initial weights; and in training our states start at the predictions of a latent of 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import torch
from torch import Tensor

from pcgen.benchmarks.training import seeded
from pcgen.config import InferenceTable, LearningTable, PrecisionTable, Recipe
from pcgen.data.images import Images
from pcgen.learning.initial import initial_network, sample
from pcgen.learning.predictive_coding import PredictiveCoding
from pcgen.learning.train import Training
from pcgen.memory.corruptions import Cues
from pcgen.model.layers import Dense
from pcgen.model.network import Network

WIDTHS = (512, 1024, 2048)
_BATCH = 50
_EPOCHS = 500
_WEIGHT_DECAY = 1e-4


@dataclass(frozen=True, slots=True)
class Settings:
    """The published settings of one cell.

    Attributes:
        rate: of the states, per step, for the energy of one image.
        weight_rate: of AdamW.
        training_steps: of the states, per batch.
        recall_steps: of the states, per cue.
    """

    rate: float
    weight_rate: float
    training_steps: int
    recall_steps: int


def _cells(*rows: tuple[float, float, int, int]) -> dict[int, Settings]:
    """Return the settings by width, from the rates for the mean energy of a batch."""
    return {
        width: Settings(rate / _BATCH, weight_rate, training, recall)
        for width, (rate, weight_rate, training, recall) in zip(WIDTHS, rows, strict=True)
    }


SETTINGS = {
    ("noise:0.2", 50): _cells(
        (0.4, 5e-4, 100, 2000), (0.35, 4e-4, 100, 2000), (0.3, 2.5e-4, 100, 2000)
    ),
    ("noise:0.2", 100): _cells(
        (0.2, 3e-4, 50, 1000), (0.2, 4e-4, 50, 2000), (0.25, 3.5e-4, 100, 2000)
    ),
    ("noise:0.2", 250): _cells(
        (0.3, 4e-4, 100, 2000), (0.3, 3e-4, 100, 2000), (0.3, 3e-4, 50, 2000)
    ),
    ("mask:bottom", 50): _cells(
        (0.5, 5e-4, 50, 50_000), (0.5, 5e-4, 50, 50_000), (0.5, 5e-4, 20, 50_000)
    ),
    ("mask:bottom", 100): _cells(
        (0.5, 5e-4, 20, 50_000), (0.5, 5e-4, 20, 50_000), (0.5, 2e-4, 50, 50_000)
    ),
    ("mask:bottom", 250): _cells(
        (0.5, 2e-4, 20, 100_000), (1.0, 1e-4, 50, 100_000), (1.0, 1e-4, 50, 100_000)
    ),
}
"""By corruption and number of images, then by width."""


def published_training(
    recipe: Recipe, images: Images, width: int, seed: int, settings: Settings
) -> Training:
    """Return the training, as it was published, of a new network of one width."""
    latents, *hidden = recipe.model.layers
    published = msgspec.structs.replace(
        seeded(recipe, seed),
        model=msgspec.structs.replace(
            recipe.model, layers=[latents, *[width] * len(hidden)], precision=PrecisionTable()
        ),
        inference=InferenceTable(
            solver="descent", steps=settings.training_steps, rate=settings.rate, momentum=0.0
        ),
        learning=LearningTable(
            epochs=_EPOCHS,
            batch_size=_BATCH,
            rate=settings.weight_rate,
            weight_decay=_WEIGHT_DECAY,
            warmup=0,
            schedule="constant",
        ),
    )
    sample_BD = sample(images, seed)
    network = initial_network(published, sample_BD, images.shape)
    return Training(PredictiveCoding(network, published, sample_BD))


def published_recall(network: Network, cues: Cues, steps: int, rate: float) -> Tensor:
    """Return the data layer (B, D) after so many steps.

    Args:
        network: dense, its data layer linear.
        cues: with the same mask for all images.
    """
    layer, upper = network.layers[0], _above_data(network)
    assert isinstance(layer, Dense)
    assert layer.bias is not None
    assert (cues.visible_BD == cues.visible_BD[0]).all()
    # With noise every pixel moves; with a mask only the hidden ones do.
    free_D = ~cues.visible_BD[0] if cues.noise == 0 else torch.ones_like(cues.visible_BD[0])
    error_BD = cues.pixels_BD - layer.bias
    given_BU = error_BD[:, ~free_D] @ layer.weight[~free_D]
    own_BU = error_BD[:, free_D] @ layer.weight[free_D]
    gram_UU, free_UU = layer.weight.T @ layer.weight, layer.weight[free_D].T @ layer.weight[free_D]
    states = [given_BU.new_zeros(len(given_BU), size) for size in network.sizes[1:]]
    still_BL = torch.zeros_like(states[-1])
    mean_BU, left = torch.zeros_like(given_BU), 1.0
    for _ in range(steps):
        arrived_BU = given_BU + left * own_BU + mean_BU @ free_UU - states[0] @ gram_UU
        terms = upper.terms(states)
        pulls = [terms[0].pull_BD - arrived_BU, *(term.pull_BD for term in terms[1:]), still_BL]
        signals = [term.signal_BD for term in terms]
        mean_BU, left = (1 - rate) * mean_BU + rate * states[0], (1 - rate) * left
        states = [
            x - rate * upper.slope(i, pull, signals)
            for i, (x, pull) in enumerate(zip(states, pulls, strict=True))
        ]
    recalled_BD = cues.pixels_BD.clone()
    recalled_BD[:, free_D] = (
        layer.bias[free_D] + left * error_BD[:, free_D] + mean_BU @ layer.weight[free_D].T
    )
    return recalled_BD.clamp(0, 1)


def stable_rate(network: Network) -> float:
    """Return a rate at which the descent cannot diverge: 1 / (1 + largest norm of a layer)^2.

    The errors are a bidiagonal map of all states, with the identity on its diagonal and the weights
    beside it. The squared norm of this map bounds the energy's curvature.
    """
    norms = [torch.linalg.eigvalsh(_small_gram(layer.matrix()))[-1] for layer in network.layers]
    return 1 / (1 + float(max(norms)) ** 0.5) ** 2


def _small_gram(weight_DU: Tensor) -> Tensor:
    tall = len(weight_DU) >= weight_DU.shape[1]
    return weight_DU.T @ weight_DU if tall else weight_DU @ weight_DU.T


def _above_data(network: Network) -> Network:
    """Return the network without its data layer, at unit precisions."""
    table = network.table
    upper = msgspec.structs.replace(
        table, layers=table.layers[:-1], output=table.activation, precision=PrecisionTable()
    )
    unit = torch.zeros_like(network.log_precisions[-1])
    precisions = [*[unit] * (network.depth - 1), torch.full_like(unit, -torch.inf)]
    return Network.of(upper, network.layers[1:], precisions)
