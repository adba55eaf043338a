"""The predictive coding network: layers, precisions and the energy of its states.

Notation, the same in every file:

    x_l      states of layer l; x_0 is the data, x_L the latent       shapes (B, D_l)
    a_l      drive of layer l = W_{l+1} x_{l+1} + b_{l+1}             (B, D_l), l < L
    mu_l     prediction f_l(a_l)                                      (B, D_l)
    eps_l    error x_l - mu_l
    pi_l     precision of eps_l, () or (D_l,)
    E        energy, nats per image                                   (B,)
    B images, D units of a layer, U units of the layer above
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor

from pcgen.config import ModelTable
from pcgen.errors import RecipeError
from pcgen.model.activations import ACTIVATIONS
from pcgen.model.energy import Bernoulli, Categorical, Gaussian, LayerEnergy, Terms
from pcgen.model.layers import Dense

# Enough for the mean slopes of a layer; few enough to cost nothing beside a batch.
TYPICAL = 64


class Network:
    """A decoder-only predictive coding network.

    Attributes:
        table: the recipe's model table.
        layers: layers[l] drives layer l from layer l + 1.
        log_precisions: of each layer's errors, () or (D_l,), the data layer's first. The last is
            the latent's prior, -inf where there is none.
        sizes: units per layer, data first.
        typical_latents: (R, D_L), at which the preconditioners take the curvature.
        start: (D_0 + 1, D_L) or None: the linear start of the latent; its last row is the bias.
    """

    def __init__(
        self, table: ModelTable, layers: Sequence[Dense], log_precisions: Sequence[Tensor]
    ) -> None:
        self.table = table
        self.layers = list(layers)
        self.log_precisions = list(log_precisions)
        self.sizes = [layer.weight.shape[0] for layer in self.layers] + [table.layers[0]]
        weight = self.layers[0].weight
        self.typical_latents = weight.new_zeros(TYPICAL, self.sizes[-1])
        self.start: Tensor | None = None
        if table.start == "linear":
            self.start = weight.new_zeros(self.sizes[0] + 1, self.sizes[-1])

    @property
    def depth(self) -> int:
        """Return L, the number of weight layers."""
        return len(self.layers)

    @property
    def largest_layer(self) -> int:
        """Return the number of weights of the largest layer."""
        return max(layer.weight.numel() for layer in self.layers)

    def hidden_energies(self) -> list[Gaussian]:
        """Return the energies of layers 1 to L - 1, at the present precisions."""
        activation = ACTIVATIONS[self.table.activation]
        return [Gaussian(activation, p.exp()) for p in self.log_precisions[1:-1]]

    def energies(self) -> list[LayerEnergy]:
        """Return the energy of each layer below the latent, at the present precisions."""
        table = self.table
        data: LayerEnergy
        if table.likelihood == "bernoulli":
            data = Bernoulli()
        elif table.likelihood == "categorical":
            data = Categorical()
        else:
            precision = self.log_precisions[0].exp()
            data = Gaussian(ACTIVATIONS[table.output], precision)
        return [data, *self.hidden_energies()]

    def latent_precision(self) -> Tensor:
        """Return the precision () of the latent's prior."""
        return self.log_precisions[-1].exp()

    def start_latent(self, data_BD: Tensor, mask_BD: Tensor | None = None) -> Tensor:
        """Return where inference starts the latent (B, D_L).

        Hidden data is taken to be what the prior mean predicts.
        """
        if self.start is None:
            return data_BD.new_zeros(len(data_BD), self.sizes[-1])
        if mask_BD is not None:
            expected = self.decode(data_BD.new_zeros(1, self.sizes[-1]))
            data_BD = torch.where(mask_BD > 0, data_BD, expected)
        return torch.addmm(self.start[-1], data_BD, self.start[:-1])

    def decode(self, latent_BD: Tensor) -> Tensor:
        """Return the data (B, D_0) that a latent predicts, layer by layer, without errors."""
        return self.states_from(latent_BD)[0]

    def states_from(self, latent_BD: Tensor) -> list[Tensor]:
        """Return the states of all layers, data first, when each equals its prediction."""
        states = [latent_BD]
        for layer, energy in zip(reversed(self.layers), reversed(self.energies()), strict=True):
            states.insert(0, energy.predict(layer.drive(states[0])))
        return states

    def terms(self, states: Sequence[Tensor], mask_BD: Tensor | None = None) -> list[Terms]:
        """Return every layer's energy and slopes at the states, data first; not the prior's."""
        return [
            energy.terms(states[i], layer.drive(states[i + 1]), mask_BD if i == 0 else None)
            for i, (energy, layer) in enumerate(zip(self.energies(), self.layers, strict=True))
        ]

    def energy(self, states: Sequence[Tensor], mask_BD: Tensor | None = None) -> Tensor:
        """Return the total energy (B,) of the states in nats per image, the prior included."""
        energy = self.prior_energy(states[-1]) + self.log_det(mask_BD)
        for terms in self.terms(states, mask_BD):
            energy = energy + terms.energy_B
        return energy

    def prior_energy(self, latent_BD: Tensor) -> Tensor:
        """Return the energy (B,) of the latent's prior."""
        return 0.5 * self.latent_precision() * latent_BD.square().sum(1)

    def log_det(self, mask_BD: Tensor | None = None) -> Tensor:
        """Return -1/2 log det of the learned precisions, () or (B,); 0 where they are fixed.

        It does not depend on the states, so inference need not know it.
        """
        if not self.table.precision.learned:
            return torch.zeros((), device=self.layers[0].weight.device)
        first = 0 if self.table.likelihood == "gaussian" else 1
        total = torch.zeros((), device=self.layers[0].weight.device)
        for i, log_precision in enumerate(self.log_precisions[first:-1], start=first):
            per_unit = log_precision.expand(self.sizes[i])
            seen = per_unit if mask_BD is None or i > 0 else mask_BD * per_unit
            total = total - 0.5 * seen.sum(-1)
        return total

    def weights(self) -> list[Tensor]:
        """Return all weights and biases, data layer first."""
        return [tensor for layer in self.layers for tensor in (layer.weight, layer.bias)]

    def tensors(self) -> dict[str, Tensor]:
        """Return all that a checkpoint must hold, by name."""
        named = {}
        for i, layer in enumerate(self.layers):
            named[f"layers.{i}.weight"] = layer.weight
            named[f"layers.{i}.bias"] = layer.bias
        for i, log_precision in enumerate(self.log_precisions):
            named[f"log_precisions.{i}"] = log_precision
        named["typical_latents"] = self.typical_latents
        if self.start is not None:
            named["start"] = self.start
        return named

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Copy the values of `tensors()` of an equal network into this one."""
        for name, tensor in self.tensors().items():
            tensor.copy_(tensors[name])

    def to(self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> Network:
        """Return a copy on a device."""
        layers = [
            Dense(
                layer.weight.to(device, dtype, copy=True), layer.bias.to(device, dtype, copy=True)
            )
            for layer in self.layers
        ]
        copy = Network(
            self.table, layers, [p.to(device, dtype, copy=True) for p in self.log_precisions]
        )
        copy.load(self.tensors())
        return copy


def build(table: ModelTable, data_size: int, generator: torch.Generator) -> Network:
    """Return a new network with random weights.

    Raises:
        RecipeError: a list of hidden precisions of another length than the hidden layers.
    """
    sizes = [data_size, *reversed(table.layers)]
    layers = [Dense.initial(below, above, generator) for below, above in itertools.pairwise(sizes)]
    return Network(table, layers, _log_precisions(table, sizes))


def _log_precisions(table: ModelTable, sizes: list[int]) -> list[Tensor]:
    precision, hidden_count = table.precision, len(sizes) - 2
    hidden = precision.hidden
    values = hidden if isinstance(hidden, list) else [hidden] * hidden_count
    if len(values) != hidden_count:
        raise RecipeError(
            f"model.precision.hidden: {len(values)} values for {hidden_count} hidden layers"
        )
    if table.likelihood != "gaussian" and precision.data != 1.0:
        raise RecipeError(f"model.precision.data: a {table.likelihood} data layer has no precision")
    per_layer = [torch.tensor(float(v)).log() for v in (precision.data, *values, precision.latent)]
    if not precision.diagonal:
        return per_layer
    diagonal = [p.repeat(size) for p, size in zip(per_layer[:-1], sizes, strict=False)]
    return [*diagonal, per_layer[-1]]
