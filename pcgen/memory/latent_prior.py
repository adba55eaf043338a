"""A Gaussian prior on the latent, fitted with its full covariance and folded into the weights.

    z ~ N(m, C C'),  z = m + C u   =>   u ~ N(0, 1),   W z + b = (W C) u + (W m + b)

The network over u has the same energies and the standard normal prior, so inference needs no other
code.
"""

from __future__ import annotations

import msgspec
import torch
from torch import Tensor

from pcgen.errors import RecipeError
from pcgen.model.layers import Dense, Layer
from pcgen.model.network import Network, Skip

# Added to the variances, as a share of their mean: some directions are not used by the latents.
_RIDGE = 1e-4


def fit_latent_prior(network: Network, latents_BL: Tensor) -> Network:
    """Return the same network over standard normal latents, the prior fitted to these latents.

    Args:
        latents_BL: equilibria of training images, more of them than latent units.

    Raises:
        RecipeError: a latent that labels predict, that has a mixture as prior, or that is a map.
    """
    if network.mixture is not None:
        raise RecipeError("model.causes: the latent already has a fitted prior")
    if network.table.labels:
        raise RecipeError("model.labels: the prior of the latent is predicted by its class")
    mean_L, factor_LL = _gaussian(latents_BL)
    if not all(isinstance(layer, Dense) for _, layer in network.outputs[network.depth]):
        raise RecipeError("model.layers: a prior is fitted to a latent of units, not to a map")
    fitted = network.to(mean_L.device, mean_L.dtype)
    standard = fold(fitted, mean_L, factor_LL)
    standard.typical_latents = _standard(fitted.typical_latents - mean_L, factor_LL)
    if fitted.start is not None:
        fitted.start[-1] -= mean_L
        standard.start = _standard(fitted.start, factor_LL)
    return standard


def fold(network: Network, mean_L: Tensor, factor_LC: Tensor) -> Network:
    """Return the network over u, z = m + C u, with the prior N(0, 1) on u; other weights shared.

    Args:
        network: whose latent drives dense layers only.
        factor_LC: C, which may have fewer columns than rows.
    """
    moved = {target: layer.drive_move(mean_L[None])[0] for target, layer in network.outputs[-1]}
    layers = list(network.layers)
    for target, move_D in moved.items():
        layer = layers[target]
        assert isinstance(layer, Dense)
        assert layer.bias is not None
        layers[target] = Dense(layer.weight, layer.bias + move_D, layer.above, layer.below)
    layers[-1] = _over(layers[-1], factor_LC)
    skips = [
        Skip(skip.source, skip.target, _over(skip.layer, factor_LC))
        if skip.source == network.depth
        else skip
        for skip in network.skips
    ]
    precision = msgspec.structs.replace(network.table.precision, latent=1.0)
    log_precisions = [*network.log_precisions[:-1], torch.zeros_like(network.log_precisions[-1])]
    return Network.of(
        msgspec.structs.replace(network.table, precision=precision), layers, log_precisions, skips
    )


def standard_latents(latents_BL: Tensor) -> Tensor:
    """Return the latents (B, L) in the coordinates u of the network that `fit_latent_prior` makes.

    Args:
        latents_BL: the same latents that the prior was fitted to.
    """
    mean_L, factor_LL = _gaussian(latents_BL)
    return _standard(latents_BL - mean_L, factor_LL)


def _gaussian(latents_BL: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean (L,) and the lower triangular root C (L, L) of the covariance."""
    latents = latents_BL.double()
    centred = latents - latents.mean(0)
    covariance = centred.T @ centred / len(latents)
    covariance.diagonal().add_(_RIDGE * covariance.diagonal().mean() + 1e-12)
    return latents.mean(0).to(latents_BL), torch.linalg.cholesky(covariance).to(latents_BL)


def _over(layer: Layer, factor_LC: Tensor) -> Dense:
    """Return the layer as a map from u, with the same bias."""
    above = (1, 1, factor_LC.shape[1])
    return Dense(layer.weight @ factor_LC, layer.bias, above, layer.below)


def _standard(latents_BL: Tensor, factor_LL: Tensor) -> Tensor:
    """Return C^-1 z for centred latents."""
    return torch.linalg.solve_triangular(factor_LL, latents_BL.T, upper=False).T.contiguous()
