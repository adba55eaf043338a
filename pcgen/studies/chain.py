"""Chains: classifiers of one width, trained by predictive coding, for studies of its mechanism.

H hidden layers of N units lie between the image and the K classes. All seeds of a setting are one
stack of tensors, and so are the hidden layers: a step of inference is then a few batched products,
whatever the depth is. Layer 0 is here the one after the image, as in the literature on classifiers:

    mu_0 = W x,   mu_l = r x_{l-1} + s W_l f(x_{l-1}),   o = W f(x_{H-1})      (biases left out)
    E = sum_l pi/2 |x_l - mu_l|^2 + 1/2 |y - o|^2  or  - log softmax(o)[y]

    plain      r = 0, s = 1
    residual   r = 1, s = 1 / sqrt(H)
    unscaled   r = 1, s = 1

Shapes: S seeds, H hidden layers, B images, D pixels, N units, K classes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pcgen.model.activations import Activation

KINDS = ("plain", "residual", "unscaled")


@dataclass(frozen=True, slots=True)
class Batch:
    """Images (S, B, D) and one-hot labels (S, B, K), and the source of a random start."""

    data_SBD: Tensor
    labels_SBK: Tensor
    source: torch.Generator


@dataclass(frozen=True, slots=True)
class Point:
    """The states (H, S, B, N) of a batch, and all errors there: hidden ones and (S, B, K)."""

    states: Tensor
    responses: Tensor
    slopes: Tensor
    hidden: Tensor
    output: Tensor
    logits: Tensor


class Chain:
    """A chain for each seed.

    Attributes:
        weights: (S, D, N), (H - 1, S, N, N), (S, N, K), then the biases of each, alike.
    """

    def __init__(
        self,
        sizes: tuple[int, int, int],
        hidden: int,
        seeds: int,
        *,
        kind: str,
        activation: Activation,
        entropy: bool,
    ) -> None:
        pixels, units, classes = sizes
        self.activation, self.entropy = activation, entropy
        self.skip = 0.0 if kind == "plain" else 1.0
        self.scale = 1 / math.sqrt(hidden) if kind == "residual" else 1.0
        # Rectifying units pass half of the variance on.
        gain = math.sqrt(2) if activation.name in ("relu", "gelu") and kind == "plain" else 1.0
        shapes = [(pixels, units), (hidden - 1, units, units), (units, classes)]
        drawn = []
        for seed in range(seeds):
            source = torch.Generator().manual_seed(seed)
            drawn.append([torch.randn(s, generator=source) / math.sqrt(s[-2]) for s in shapes])
        # The hidden layers come first, then the seeds.
        self.weights = [
            torch.stack(each, int(i == 1)) for i, each in enumerate(zip(*drawn, strict=True))
        ]
        self.weights[1] *= gain
        # As in muPC, the first logits are small.
        self.weights[2] /= math.sqrt(units)
        self.weights += [
            torch.zeros(seeds, 1, units),
            torch.zeros(hidden - 1, seeds, 1, units),
            torch.zeros(seeds, 1, classes),
        ]

    @property
    def hidden(self) -> int:
        return len(self.weights[1]) + 1

    def forward(self, data_SBD: Tensor, errors: Tensor | None = None) -> Tensor:
        """Return the states (H, S, B, N) without errors, or with these."""
        states = [self.first(data_SBD)]
        for i in range(self.hidden):
            if i > 0:
                drive = self.activation.value(states[-1]) @ self.weights[1][i - 1]
                drive = torch.add(self.weights[4][i - 1], drive, alpha=self.scale)
                states.append(drive + states[-1] if self.skip else drive)
            if errors is not None:
                states[-1] = states[-1] + errors[i]
        return torch.stack(states)

    def first(self, data_SBD: Tensor) -> Tensor:
        """Return the prediction mu_0 (S, B, N) of the images, which no state changes."""
        return data_SBD @ self.weights[0] + self.weights[3]

    def logits(self, states: Tensor) -> Tensor:
        """Return the logits (S, B, K)."""
        return self.activation.value(states[-1]) @ self.weights[2] + self.weights[5]

    def at(self, states: Tensor, batch: Batch, first_SBN: Tensor) -> Point:
        """Return the errors at states, given mu_0."""
        responses = self.activation.value(states)
        slopes = self.activation.slope(states, responses)
        hidden = states.clone()
        hidden[0] -= first_SBN
        hidden[1:].sub_(responses[:-1] @ self.weights[1], alpha=self.scale).sub_(self.weights[4])
        if self.skip:
            hidden[1:] -= states[:-1]
        logits = responses[-1] @ self.weights[2] + self.weights[5]
        likely = torch.softmax(logits, -1) if self.entropy else logits
        return Point(states, responses, slopes, hidden, batch.labels_SBK - likely, logits)

    def adjoint(self, at: Point, hidden: Tensor, output: Tensor) -> Tensor:
        """Return what the next layers' signals send back to each hidden layer (H, S, B, N)."""
        arrived = torch.empty_like(hidden)
        torch.matmul(hidden[1:], self.weights[1].mT, out=arrived[:-1])
        arrived[:-1] *= self.scale
        torch.matmul(output, self.weights[2].mT, out=arrived[-1])
        arrived *= at.slopes
        if self.skip:
            arrived[:-1] += hidden[1:]
        return arrived

    def sweep(self, at: Point, output: Tensor) -> Tensor:
        """Return backprop's signals (H, S, B, N): each layer's is what arrives from the next."""
        return self._back((output @ self.weights[2].mT) * at.slopes[-1], at.slopes, self.weights[1])

    def jacobians(self, at: Point) -> Tensor:
        """Return the derivatives (H, S, B, K, N) of the logits in the states of each layer."""
        slopes = at.slopes[..., None, :]
        last = self.weights[2].mT[:, None] * slopes[-1]
        return self._back(last, slopes, self.weights[1][:, :, None])

    def _back(self, last: Tensor, slopes: Tensor, weights: Tensor) -> Tensor:
        """Return what the last hidden layer's signals become on their way back, for all layers."""
        signals = [last]
        for i in range(self.hidden - 2, -1, -1):
            back = (signals[-1] @ weights[i].mT).mul_(slopes[i]).mul_(self.scale)
            signals.append(back + signals[-1] if self.skip else back)
        return torch.stack(signals[::-1])

    def gradients(self, at: Point, batch: Batch, hidden: Tensor, output: Tensor) -> list[Tensor]:
        """Return the batch-mean gradients of the weights, each local, for signals pi eps."""
        count = -1 / output.shape[1]
        pairs = (
            (batch.data_SBD.mT @ hidden[0], hidden[0]),
            ((at.responses[:-1].mT @ hidden[1:]) * self.scale, hidden[1:]),
            (at.responses[-1].mT @ output, output),
        )
        return [g * count for g, _ in pairs] + [q.sum(-2, keepdim=True) * count for _, q in pairs]

    def energies(self, at: Point, batch: Batch, precision: float) -> Tensor:
        """Return the energy (H + 1, S, B) of every layer and image, the classes' last."""
        hidden = 0.5 * precision * at.hidden.square().sum(-1)
        if self.entropy:
            output = -(batch.labels_SBK * at.logits.log_softmax(-1)).sum(-1)
        else:
            output = 0.5 * at.output.square().sum(-1)
        return torch.cat([hidden, output[None]])
