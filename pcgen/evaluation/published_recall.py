"""The published recall procedure, in our engine: plain gradient descent with free data.

    all states 0, the data layer at the cue; every state, the data too, moves down the energy of
    unit precisions without a prior on the latent, for a fixed number of steps; visible pixels of a
    mask are put back after each step; the answer is the data layer

Source: Pinchetti et al. (2025), the released code. Their rate is divided by the batch of 50.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pcgen.data.corruptions import Cues
from pcgen.model.network import Network

# Of their h_lr .3 to .5, over the batch of 50.
RATE = 0.4 / 50


def published_recall(network: Network, cues: Cues, steps: int, rate: float = RATE) -> Tensor:
    """Return the data layer (B, D) after so many steps."""
    unit = Network(
        network.table,
        network.layers,
        [*(torch.zeros_like(p) for p in network.log_precisions[:-1]), torch.tensor(-torch.inf)],
        network.skips,
    )
    states = [
        cues.pixels_BD.clone(),
        *(cues.pixels_BD.new_zeros(len(cues.pixels_BD), size) for size in network.sizes[1:]),
    ]
    # Noise leaves no pixel certain; a mask leaves those that it does not hide.
    certain_BD = cues.visible_BD if cues.noise == 0 else torch.zeros_like(cues.visible_BD)
    for _ in range(steps):
        terms = unit.terms(states)
        signals = [found.signal_BD for found in terms]
        moved = [states[0] - rate * terms[0].pull_BD]
        for i in range(1, unit.depth + 1):
            pull = terms[i].pull_BD if i < unit.depth else torch.zeros_like(states[i])
            moved.append(states[i] - rate * unit.slope(i, pull, signals))
        moved[0] = torch.where(certain_BD, cues.pixels_BD, moved[0])
        states = moved
    return states[0].clamp(0, 1)
