"""A Gaussian prior on the latent, fitted with its full covariance and folded into the weights.

    z ~ N(m, C C'),  z = m + C u   =>   u ~ N(0, 1),   W z + b = (W C) u + (W m + b)

The network over u has the same energies, and its prior is the simplest there is: inference,
sampling and scoring need not know that one was fitted.
"""

from __future__ import annotations

import msgspec
import torch
from torch import Tensor

from pcgen.errors import RecipeError
from pcgen.model.layers import Dense, Layer
from pcgen.model.network import Network, Skip

# Added to the variances, as a share of their mean: directions that the latents do not use.
_RIDGE = 1e-4


def whiten(network: Network, latents_BL: Tensor) -> Network:
    """Return the same network over latents whose prior is fitted to these, with precision 1.

    Args:
        latents_BL: equilibria of training images, more of them than latent units.

    Raises:
        RecipeError: a latent that labels predict, or that is a map.
    """
    if network.mixture is not None:
        raise RecipeError("model.causes: the latent's prior is fitted already")
    if network.table.labels:
        raise RecipeError("model.labels: the latent's prior is what its class predicts")
    mean_L, factor_LL = _gaussian(latents_BL)
    found = network.to(mean_L.device, mean_L.dtype)
    maps = [found.layers[-1], *(skip.layer for skip in found.skips if _from_latent(found, skip))]
    if not all(isinstance(layer, Dense) for layer in maps):
        raise RecipeError("model.layers: a prior is fitted to a latent of units, not to a map")
    for skip in found.skips:
        if _from_latent(found, skip):
            bias = found.layers[skip.target].bias
            assert bias is not None
            bias.add_(skip.layer.drive_move(mean_L[None])[0])
    top = _over(found.layers[-1], factor_LL)
    assert top.bias is not None
    top.bias.add_(found.layers[-1].drive_move(mean_L[None])[0])
    skips = [
        Skip(skip.source, skip.target, _over(skip.layer, factor_LL))
        if _from_latent(found, skip)
        else skip
        for skip in found.skips
    ]
    precision = msgspec.structs.replace(found.table.precision, latent=1.0)
    whitened = Network(
        msgspec.structs.replace(found.table, precision=precision),
        [*found.layers[:-1], top],
        [*found.log_precisions[:-1], torch.zeros_like(found.log_precisions[-1])],
        skips,
    )
    whitened.typical_latents = _standard(found.typical_latents - mean_L, factor_LL)
    if found.start is not None:
        found.start[-1] -= mean_L
        whitened.start = _standard(found.start, factor_LL)
    return whitened


def _gaussian(latents_BL: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean (L,) and the lower triangular root C (L, L) of the covariance."""
    latents = latents_BL.double()
    centred = latents - latents.mean(0)
    covariance = centred.T @ centred / len(latents)
    covariance.diagonal().add_(_RIDGE * covariance.diagonal().mean() + 1e-12)
    return latents.mean(0).to(latents_BL), torch.linalg.cholesky(covariance).to(latents_BL)


def _from_latent(network: Network, skip: Skip) -> bool:
    return skip.source == network.depth


def _over(layer: Layer, factor_LL: Tensor) -> Dense:
    """Return the layer as a map from u, its bias as it was."""
    bias = None if layer.bias is None else layer.bias.clone()
    return Dense(layer.weight @ factor_LL, bias, layer.above, layer.below)


def _standard(latents_BL: Tensor, factor_LL: Tensor) -> Tensor:
    """Return C^-1 z for centred latents."""
    return torch.linalg.solve_triangular(factor_LL, latents_BL.T, upper=False).T.contiguous()


def standard_latents(latents_BL: Tensor) -> Tensor:
    """Return the latents (B, L) as the network that `whiten` makes of them knows them."""
    mean_L, factor_LL = _gaussian(latents_BL)
    return _standard(latents_BL - mean_L, factor_LL)
