"""Local least squares: each layer's weights at once, from its own errors and the activity above it.

The drive of a layer should change by the layer's error, divided by the bound of the energy's
curvature. The smallest change of the weights that does this for all images is a regression on the
activity above:

    change = (Pi eps * f'(a)) / bound,  [dW db]' = F' (F F' + ridge)^-1 change,  F = [x_above 1]

For a linear Gaussian layer this is the exact fit of least energy. It is the local gradient in the
metric of the activity above, and needs nothing but the layer's own errors and that activity.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from pcgen.errors import RecipeError
from pcgen.model.energy import Terms
from pcgen.model.layers import Dense
from pcgen.model.network import Network

# Added to the squares, as a share of their mean, where float64 cannot tell them from 0.
_RIDGE = 1e-10
# Regression is solved for this many units below at once, which bounds the memory in float64.
_CHUNK = 2048


def require_dense(network: Network) -> None:
    """Raise RecipeError for convolutions, skip connections or labels, which need other learning."""
    dense = all(isinstance(layer, Dense) for layer in network.layers)
    if not dense or network.skips or network.table.labels:
        raise RecipeError(
            "learning.optimiser: least-squares learns dense layers without skips or labels",
            "Use --set learning.optimiser=adamw",
        )


def fit(network: Network, states: Sequence[Tensor], terms: Sequence[Terms]) -> None:
    """Change every layer's weights by its own regression, in place.

    Args:
        states: of all images, at their equilibrium.
    """
    for i, energy in enumerate(network.energies()):
        signal_BD = terms[i].signal_BD / energy.bound()
        layer = network.layers[i]
        assert isinstance(layer, Dense)
        regress(layer, signal_BD, states[i + 1])


def regress(layer: Dense, change_BD: Tensor, above_BU: Tensor) -> None:
    """Change a layer's weights in place, so that its drives (B, D) change by `change_BD`."""
    assert layer.bias is not None
    coefficients_BU = _coefficients(above_BU)
    for first in range(0, len(layer.bias), _CHUNK):
        units = slice(first, first + _CHUNK)
        slope_UD = coefficients_BU.T @ change_BD[:, units].to(coefficients_BU)
        layer.weight[units] += slope_UD[:-1].T
        layer.bias[units] += slope_UD[-1]


def _coefficients(above_BU: Tensor) -> Tensor:
    """Return (F F' + ridge)^-1 F, (B, U + 1), by the smaller of the matrices F F' and F' F.

    With fewer images than features the fit is exact, and so the result stays in float64.
    """
    features = torch.cat([above_BU, above_BU.new_ones(len(above_BU), 1)], 1).double()
    few = len(features) < features.shape[1]
    gram = features @ features.T if few else features.T @ features
    gram.diagonal().add_(_RIDGE * gram.diagonal().mean() + torch.finfo(gram.dtype).tiny)
    factor = torch.linalg.cholesky(gram)
    if few:
        return torch.cholesky_solve(features, factor)
    return torch.cholesky_solve(features.T, factor).T.to(above_BU)


def fit_precisions(
    network: Network, states: Sequence[Tensor], terms: Sequence[Terms], floor: float
) -> None:
    """Set every layer's precision to the inverse mean square of its errors, in place.

    Args:
        floor: the smallest variance.
    """
    for i, log_precision in enumerate(network.log_precisions[:-1]):
        if i == 0 and network.table.likelihood != "gaussian":
            continue
        squared_D = (states[i] - terms[i].prediction_BD).square().mean(0)
        variance = squared_D if log_precision.ndim else squared_D.mean()
        log_precision.copy_(-variance.clamp_min(floor).log())
