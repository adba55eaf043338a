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
    fitted = network.to(mean_L.device, mean_L.dtype)
    if not all(isinstance(layer, Dense) for _, layer in fitted.outputs[fitted.depth]):
        raise RecipeError("model.layers: a prior is fitted to a latent of units, not to a map")
    for target, layer in fitted.outputs[fitted.depth]:
        bias = fitted.layers[target].bias
        assert bias is not None
        bias.add_(layer.drive_move(mean_L[None])[0])
    skips = [
        Skip(skip.source, skip.target, _over(skip.layer, factor_LL))
        if skip.source == fitted.depth
        else skip
        for skip in fitted.skips
    ]
    precision = msgspec.structs.replace(fitted.table.precision, latent=1.0)
    standard = Network.of(
        msgspec.structs.replace(fitted.table, precision=precision),
        [*fitted.layers[:-1], _over(fitted.layers[-1], factor_LL)],
        [*fitted.log_precisions[:-1], torch.zeros_like(fitted.log_precisions[-1])],
        skips,
    )
    standard.typical_latents = _standard(fitted.typical_latents - mean_L, factor_LL)
    if fitted.start is not None:
        fitted.start[-1] -= mean_L
        standard.start = _standard(fitted.start, factor_LL)
    return standard


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


def _over(layer: Layer, factor_LL: Tensor) -> Dense:
    """Return the layer as a map from u, with the same bias."""
    bias = None if layer.bias is None else layer.bias.clone()
    return Dense(layer.weight @ factor_LL, bias, layer.above, layer.below)


def _standard(latents_BL: Tensor, factor_LL: Tensor) -> Tensor:
    """Return C^-1 z for centred latents."""
    return torch.linalg.solve_triangular(factor_LL, latents_BL.T, upper=False).T.contiguous()
