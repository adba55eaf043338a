"""How much the visible pixels of an image that was never stored should count.

The Gaussian prior is fitted to few images in many directions. If the visible pixels count with the
cue's precision, the hidden ones follow every chance correlation of the stored images. A larger
variance of the visible pixels draws the latent to the mean, as the ridge of a regression does. It
is chosen by the stored images alone: each is predicted by the Gaussian of all others. With the
latents z_n (mean 0), their visible data y_n (mean 0), and the visible data's second moment C,

    z(n) = sum_m z_m y_m' (N C + N s^2)^-1 y_n,   h_n = 1/N + y_n' (N C + N s^2)^-1 y_n
    error of image n = f(z_n + (z(n) - z_n) / (1 - h_n)) - f(z_n)     at some hidden pixels

Source: Allen (1974), the error of leaving one out in closed form.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pcgen.device import generator
from pcgen.model.layers import Dense
from pcgen.model.network import Network

# Variances of a visible pixel that are compared; pixels are between 0 and 1.
_VARIANCES = tuple(1e-3 * 4**i for i in range(8))
# The comparison is made on so many stored images and hidden pixels.
_IMAGES, _PIXELS = 500, 500
# Where 1 - h is smaller, an image is predicted by itself alone, and rounding decides.
_LEAST_LEFT = 1e-3


def completion_variance(
    network: Network, stored_NL: Tensor, seen_NP: Tensor, hidden_D: Tensor, unit: float
) -> float:
    """Return the variance of a visible pixel under which hidden pixels are predicted best.

    Args:
        network: with a dense, linear data layer.
        seen_NP: the visible data of the stored latents, in fewer units.
        hidden_D: which pixels are hidden.
        unit: the variance of a pixel that is 1 in these units.
    """
    source = generator(0, "completion")
    chosen_M = torch.randperm(len(stored_NL), generator=source)[:_IMAGES].to(stored_NL.device)
    pixels = hidden_D.nonzero()[:, 0].cpu()
    pixels = pixels[torch.randperm(len(pixels), generator=source)[:_PIXELS]]
    probe = _at_pixels(network, pixels.to(stored_NL.device))
    z_NL, y_NP = stored_NL - stored_NL.mean(0), (seen_NP - seen_NP.mean(0)).to(stored_NL)
    moment_PP, cross_PL = y_NP.T @ y_NP, y_NP.T @ z_NL
    y_MP, z_ML = y_NP[chosen_M], z_NL[chosen_M]
    truth_MD = probe.decode(stored_NL[chosen_M])
    errors = []
    for variance in _VARIANCES:
        ridged_PP = moment_PP.clone()
        ridged_PP.diagonal().add_(len(stored_NL) * variance / unit)
        solved_PM = torch.cholesky_solve(y_MP.T, torch.linalg.cholesky(ridged_PP))
        left_M = 1 - 1 / len(stored_NL) - (y_MP.T * solved_PM).sum(0)
        if left_M.min() < _LEAST_LEFT:
            errors.append(math.inf)
            continue
        move_ML = (solved_PM.T @ cross_PL - z_ML) / left_M[:, None]
        error_MD = probe.decode(stored_NL[chosen_M] + move_ML) - truth_MD
        errors.append(float(error_MD.square().mean()))
    return _VARIANCES[errors.index(min(errors))]


def _at_pixels(network: Network, pixels: Tensor) -> Network:
    """Return the network with these data units alone."""
    data = network.layers[0]
    assert isinstance(data, Dense)
    assert data.bias is not None
    few = Dense(data.weight[pixels], data.bias[pixels], data.above)
    unit = torch.zeros_like(network.log_precisions[-1])
    return Network(network.table, [few, *network.layers[1:]], [unit, *network.log_precisions[1:]])
