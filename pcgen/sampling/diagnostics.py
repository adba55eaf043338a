"""Diagnostics of chains: R-hat and the effective sample size.

R-hat compares the spread between chains with the spread within them; it is 1 when the chains have
mixed. The effective sample size is the number of independent samples with the same information.
Traces are (S, C, Q): S steps of C chains, Q quantities.

Source: Vehtari, Gelman, Simpson, Carpenter and Buerkner (2021). R-hat is the larger of the bulk and
the folded rank-normalised split R-hat. The effective sample size is that of the bulk, with the
initial monotone sequence of Geyer (1992).
"""

from __future__ import annotations

import torch
from torch import Tensor

BELIEVABLE = 1.05
"""Chains with a larger R-hat have not mixed."""


def r_hat(trace_SCQ: Tensor) -> Tensor:
    """Return R-hat (Q,) of each quantity; infinite if chains stand still in different places."""
    halves = _split(trace_SCQ.double())
    folded = (halves - halves.flatten(0, 1).median(0).values).abs()
    return torch.maximum(_r_hat(_ranks(halves)), _r_hat(_ranks(folded)))


def effective_sample_size(trace_SCQ: Tensor) -> Tensor:
    """Return the bulk effective sample size (Q,) of all chains together.

    ESS = S C / (1 + 2 sum_t rho_t),   rho_t = 1 - (W - mean autocovariance_t) / var+
    """
    halves = _ranks(_split(trace_SCQ.double()))
    steps, chains, _ = halves.shape
    within, spread = _variances(halves)
    autocovariance = _autocovariance(halves).mean(1)
    rho = 1 - (within - autocovariance * steps / (steps - 1)) / spread
    # In a reversible chain the sums of neighbours are positive and fall; the rest is noise.
    pairs = rho[: 2 * (steps // 2)].view(steps // 2, 2, -1).sum(1)
    positive = (pairs > 0).cumprod(0).to(pairs)
    monotone = pairs.cummin(0).values * positive
    total = (2 * monotone.sum(0) - 1).clamp_min(1 / torch.tensor(steps * chains).log10())
    return torch.where(spread > 0, steps * chains / total, torch.nan)


def _split(trace_SCQ: Tensor) -> Tensor:
    """Return the two halves of each chain as two chains."""
    half = len(trace_SCQ) // 2
    return torch.cat([trace_SCQ[:half], trace_SCQ[len(trace_SCQ) - half :]], 1)


def _ranks(trace_SCQ: Tensor) -> Tensor:
    """Return the normal scores of the ranks over all chains. Equal values get their mean rank."""
    flat = trace_SCQ.flatten(0, 1)
    ranks = torch.empty_like(flat)
    for i, column in enumerate(flat.T):
        _, place, count = column.unique(return_inverse=True, return_counts=True)
        last = count.cumsum(0).to(flat)
        ranks[:, i] = (last - (count.to(flat) - 1) / 2)[place]
    scores = torch.special.ndtri((ranks - 0.375) / (len(flat) + 0.25))
    return scores.view_as(trace_SCQ)


def _variances(trace_SCQ: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean variance within chains and the estimate of the total variance, each (Q,)."""
    steps = len(trace_SCQ)
    within = trace_SCQ.var(0).mean(0)
    between = trace_SCQ.mean(0).var(0)
    return within, within * (steps - 1) / steps + between


def _r_hat(trace_SCQ: Tensor) -> Tensor:
    within, spread = _variances(trace_SCQ)
    # If all values are equal, the chains have mixed.
    return torch.where(spread > 0, (spread / within).sqrt(), 1.0)


def _autocovariance(trace_SCQ: Tensor) -> Tensor:
    """Return the autocovariance (S, C, Q) of each chain, by Fourier transform."""
    steps = len(trace_SCQ)
    centred = trace_SCQ - trace_SCQ.mean(0)
    waves = torch.fft.rfft(centred, 2 * steps, dim=0)
    return torch.fft.irfft(waves.abs().square(), 2 * steps, dim=0)[:steps] / steps
