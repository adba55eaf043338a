"""Predictions upwards: from the data to the latent and the label, beside the predictions downwards.

With u_0 the data and u_l the hidden units of the upward chain,

    E_up = sum_l 1/2 pi_u |u_l - f(V_l u_{l-1})|^2 + 1/2 s sum_i rho_i (z_i - m_i)^2 - log p(y | u)

where m and the logits of p(y | u) are linear in the last u, and s is the visible share of the data:
half of the data tell half as much. The data, the latent z and the label y are shared with the
downward chain, whose prior holds z and y together, p(z, y). The energy of the whole network is the
sum of both chains'.

Source: bidirectional predictive coding, Oliviers, Tang and Bogacz (2026). We differ in three
points: each chain has hidden units of its own; the label is a class variable whose prior is a
mixture of Gaussians, so it can be summed out; and hidden pixels have no input into either chain.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from pcgen.config import ModelTable, PrecisionTable, units
from pcgen.model.activations import activation
from pcgen.model.energy import Categorical, Gaussian, LayerEnergy, Terms
from pcgen.model.network import Network, build
from pcgen.model.prior import Mixture

# Keeps the variance of the responses through layers of rectifiers (He et al., 2015).
_GAIN = math.sqrt(2)
# The least share of a component: no prediction of the label rules one out for good.
_LEAST_SHARE = 1e-12


@dataclass(frozen=True, slots=True)
class LatentAndLabel:
    """E = 1/2 sum rho (z - m)^2 - log p(y | a): a Gaussian latent and a one-hot label side by side.

    The first units are those of the latent, with a precision each; the others are the classes.
    """

    precision_L: Tensor

    def terms(self, value_BD: Tensor, drive_BD: Tensor, mask_BD: Tensor | None) -> Terms:
        assert mask_BD is None
        parts = zip(self._energies, self._split(value_BD), self._split(drive_BD), strict=True)
        latent, label = (energy.terms(value, drive, None) for energy, value, drive in parts)
        return Terms(
            latent.energy_B + label.energy_B,
            torch.cat([latent.prediction_BD, label.prediction_BD], 1),
            torch.cat([latent.pull_BD, label.pull_BD], 1),
            torch.cat([latent.signal_BD, label.signal_BD], 1),
            None,
        )

    def curvature(
        self, terms: Terms, move_BD: Tensor | None, drive_move_BD: Tensor, mask_BD: Tensor | None
    ) -> Tensor:
        latent_BL, label_BK = self._split(drive_move_BD)
        of_latent_B = (latent_BL.square() * self.precision_L).sum(1)
        _, prediction_BK = self._split(terms.prediction_BD)
        weighted_BK = prediction_BK * label_BK
        of_label_B = (weighted_BK * label_BK).sum(1) - weighted_BK.sum(1).square()
        return of_latent_B + of_label_B

    def predict(self, drive_BD: Tensor) -> Tensor:
        latent_BL, label_BK = self._split(drive_BD)
        return torch.cat([latent_BL, label_BK.softmax(1)], 1)

    def bound(self) -> Tensor:
        return self.precision_L.max()

    def mean_curvature(self, drive_BD: Tensor) -> tuple[Tensor, Tensor]:
        parts = zip(self._energies, self._split(drive_BD), strict=True)
        crosses, owns = zip(*(energy.mean_curvature(drive) for energy, drive in parts), strict=True)
        return torch.cat(crosses), torch.cat(owns)

    def draw(self, prediction_BD: Tensor, normal_BD: Tensor) -> Tensor:
        predictions, normals = self._split(prediction_BD), self._split(normal_BD)
        parts = zip(self._energies, predictions, normals, strict=True)
        return torch.cat([energy.draw(mean, normal) for energy, mean, normal in parts], 1)

    @property
    def _energies(self) -> tuple[LayerEnergy, LayerEnergy]:
        return Gaussian(activation("linear"), self.precision_L), Categorical()

    def _split(self, tensor_BD: Tensor) -> tuple[Tensor, Tensor]:
        count = len(self.precision_L)
        return tensor_BD[:, :count], tensor_BD[:, count:]


@dataclass(frozen=True, slots=True)
class Guide:
    """What the upward chain predicts for each image of a batch.

    Attributes:
        latent_BL: m, the latent's prediction.
        precision_BL: s rho, of its errors.
        log_labels_BK: log p(y | u).
        log_causes_BJ: by how much the label's prediction changes the log weight of each component
            of the mixture prior, log sum_y p(y | u) p(y) w_yj - log w_j; None without such a prior.
    """

    latent_BL: Tensor
    precision_BL: Tensor
    log_labels_BK: Tensor
    log_causes_BJ: Tensor | None

    def of(self, index: Tensor) -> Guide:
        """Return the predictions for the images with these numbers."""
        causes = self.log_causes_BJ
        return Guide(
            self.latent_BL.index_select(0, index),
            self.precision_BL.index_select(0, index),
            self.log_labels_BK.index_select(0, index),
            None if causes is None else causes.index_select(0, index),
        )


class Upward(Network):
    """The upward chain: a network turned round, from the data to the latent and the label.

    As in every network, layer 0 is what is predicted at the end: here the latent and the label.
    The uppermost layer, from which the predictions begin, is the data.

    Attributes:
        expected_D: what stands for a hidden pixel: the mean of the training data.
    """

    expected_D: Tensor

    @classmethod
    def begin(
        cls, table: ModelTable, data: int, classes: int, generator: torch.Generator
    ) -> Upward:
        """Return a chain with random weights for the network of a model table."""
        own, top = _turned(table, data), _latents(table) + classes
        built = build(own, top, generator)
        for layer in built.layers[1:]:
            layer.weight.mul_(_GAIN)
        chain = cls.of(own, built.layers, [torch.zeros(_latents(table)), *built.log_precisions[1:]])
        chain.expected_D = torch.zeros(data)
        return chain

    @property
    def latents(self) -> int:
        """Return the number of latent units."""
        return len(self.log_precisions[0])

    @property
    def classes(self) -> int:
        """Return the number of classes, K."""
        return self.sizes[0] - self.latents

    def energies(self) -> list[LayerEnergy]:
        return [LatentAndLabel(self.log_precisions[0].exp()), *self.hidden_energies()]

    def input(self, data_BD: Tensor, mask_BD: Tensor | None = None) -> Tensor:
        """Return the states (B, D) from which the chain begins: the data minus their mean.

        Hidden pixels count as their mean. The others are multiplied by the root of the inverse of
        their share, so that the drive above them keeps its variance.
        """
        centred_BD = data_BD - self.expected_D
        if mask_BD is None:
            return centred_BD
        return torch.where(mask_BD > 0, centred_BD, 0.0) * visible_share(mask_BD).rsqrt()

    def predictions(self, data_BD: Tensor, mask_BD: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the latent (B, L) and the log probabilities of the classes (B, K).

        Hidden units are at their predictions.
        """
        drive_BD = self.drive(0, self.states_from(self.input(data_BD, mask_BD)))
        return drive_BD[:, : self.latents], drive_BD[:, self.latents :].log_softmax(1)

    def meeting(
        self, mixture: Mixture | None, data_BD: Tensor, mask_BD: Tensor | None = None
    ) -> Guide:
        """Return what the chain predicts from the data, where it meets this prior of the latent."""
        latent_BL, log_labels_BK = self.predictions(data_BD, mask_BD)
        log_causes_BJ = None
        if mixture is not None:
            rows_KJ = mixture.log_weights_YK + mixture.log_classes_Y[:, None]
            joint_BJ = log_labels_BK.exp() @ rows_KJ.exp()
            log_causes_BJ = joint_BJ.clamp_min(_LEAST_SHARE).log() - mixture.log_weights()
        precision_BL = self.log_precisions[0].exp().expand_as(latent_BL)
        if mask_BD is not None:
            precision_BL = precision_BL * visible_share(mask_BD)
        return Guide(latent_BL, precision_BL, log_labels_BK, log_causes_BJ)

    def tensors(self) -> dict[str, Tensor]:
        named: dict[str, Tensor] = {}
        for i, layer in enumerate(self.layers):
            assert layer.bias is not None
            named |= {f"upward.{i}.weight": layer.weight, f"upward.{i}.bias": layer.bias}
        return named | {
            "upward.log_precision": self.log_precisions[0],
            "upward.expected": self.expected_D,
        }

    def to(self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> Self:
        copy = self.of(
            self.table,
            [layer.to(device, dtype) for layer in self.layers],
            [p.to(device, dtype, copy=True) for p in self.log_precisions],
        )
        copy.expected_D = self.expected_D.to(device, dtype, copy=True)
        return copy


def visible_share(mask_BD: Tensor) -> Tensor:
    """Return the share of each image's data that is visible (B, 1), at least that of one unit."""
    return mask_BD.mean(1, keepdim=True).clamp_min(1 / mask_BD.shape[1])


def upward_size(table: ModelTable, data: int, classes: int) -> int:
    """Return how many numbers the tensors of an upward chain hold, without building it."""
    latents = _latents(table)
    sizes = [data, *table.upward, latents + classes]
    return sum((a + 1) * b for a, b in itertools.pairwise(sizes)) + latents + data


def _latents(table: ModelTable) -> int:
    return units(table.layers[0])


def _turned(table: ModelTable, data: int) -> ModelTable:
    """Return the model table of the upward chain, whose latent is the data."""
    precision = PrecisionTable(hidden=table.precision.upward)
    return ModelTable(
        layers=[data, *table.upward], activation=table.activation, precision=precision
    )
