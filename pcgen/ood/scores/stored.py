"""A memory prior over rows of numbers: one narrow Gaussian for each stored row.

    E(x) = -log (1/N) sum_n N(x; x_n, s_n^2 I),    s_n = h r_n

r_n is the distance of the stored row x_n to its k-th neighbour among the others, so that a row in a
crowd is narrow and a lone one wide. It is a mixture whose every cause is a memory.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

# The neighbours k, and the limits of h sqrt(D), among which the leave-one-out energy chooses.
_NEIGHBOURS = (3, 10)
_FACTORS = (0.1, 3.0)
_TRIES = 8
# Rows whose leave-one-out energy is averaged, at most.
_JUDGED = 1000
# r_n is at least so large, as a share of sqrt(D) and of the median.
_LEAST, _LEAST_OF_MEDIAN = 0.05, 0.2
# A stored row counts as if its log density were no further below the highest.
_NEGLIGIBLE = -60.0
# Distances at once.
_BLOCK = 2**22


@dataclass(frozen=True, slots=True)
class Stored:
    """Rows in memory, each a narrow cause.

    Attributes:
        rows_ND: x_n.
        deviations_N: s_n.
    """

    rows_ND: Tensor
    deviations_N: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors by name."""
        return {"rows": self.rows_ND, "deviations": self.deviations_N}

    @classmethod
    def load(cls, tensors: dict[str, Tensor]) -> Stored:
        """Return the memory whose `tensors()` are among these."""
        return cls(tensors["rows"], tensors["deviations"])

    def energy(self, rows_BD: Tensor) -> Tensor:
        """Return the energy (B,) of rows in nats; a value that is NaN is summed out."""
        step = max(1, _BLOCK // len(self.rows_ND))
        return torch.cat([self._energy(part_BD) for part_BD in torch.split(rows_BD, step)])

    def _energy(self, rows_BD: Tensor) -> Tensor:
        squares_BN = squared_distances(rows_BD, self.rows_ND)
        count_B = rows_BD.isfinite().sum(1).to(rows_BD)
        return _energy(squares_BN, self.deviations_N, count_B) + math.log(len(self.rows_ND))


def _energy(squares_BN: Tensor, deviations_N: Tensor, count_B: Tensor) -> Tensor:
    """Return -log sum_n N(x; x_n, s_n^2 I) (B,)."""
    log_BN = squares_BN * (-0.5 / deviations_N.square())
    log_BN -= count_B[:, None] * deviations_N.log()
    highest_B1 = log_BN.amax(1, keepdim=True).clamp_min(-torch.finfo(log_BN.dtype).max)
    # Without the limit most exponentials underflow, which takes ten times as long.
    sum_B = log_BN.sub_(highest_B1).clamp_min_(_NEGLIGIBLE).exp_().sum(1)
    return 0.5 * math.log(2 * math.pi) * count_B - highest_B1[:, 0] - sum_B.log()


def squared_distances(rows_BD: Tensor, others_ND: Tensor) -> Tensor:
    """Return squared distances (B, N) over the columns in which a row is not NaN."""
    seen_BD = rows_BD.isfinite()
    rows_BD = torch.where(seen_BD, rows_BD, 0.0)
    own_B1 = rows_BD.square().sum(1, keepdim=True)
    if bool(seen_BD.all()):
        theirs_BN = others_ND.square().sum(1)
    else:
        theirs_BN = seen_BD.to(rows_BD) @ others_ND.square().T
    return (own_B1 + theirs_BN - 2 * rows_BD @ others_ND.T).clamp_min(0)


def fit_stored(rows_ND: Tensor, neighbours: int, factor: float) -> Stored:
    """Return the memory of rows without missing values.

    Args:
        rows_ND: two or more.
        neighbours: k; at most N - 1.
        factor: h sqrt(D).
    """
    units = rows_ND.shape[1]
    k = min(neighbours, len(rows_ND) - 1)
    step = max(1, _BLOCK // len(rows_ND))
    # The row itself is the first.
    squares = [
        squared_distances(part, rows_ND).topk(k + 1, largest=False).values[:, -1]
        for part in torch.split(rows_ND, step)
    ]
    reach_N = torch.cat(squares).sqrt()
    least = max(_LEAST * math.sqrt(units), _LEAST_OF_MEDIAN * float(reach_N.median()))
    return Stored(rows_ND, reach_N.clamp_min(least) * (factor / math.sqrt(units)))


def choose_stored(rows_ND: Tensor, generator: torch.Generator) -> tuple[int, float]:
    """Return k and h sqrt(D) of the least leave-one-out energy."""
    judged = torch.randperm(len(rows_ND), generator=generator)[:_JUDGED]
    squares_BN = squared_distances(rows_ND[judged], rows_ND)
    squares_BN[torch.arange(len(judged)), judged] = torch.inf
    count_B = torch.full((len(judged),), rows_ND.shape[1]).to(rows_ND)
    chosen = []
    for neighbours in _NEIGHBOURS:
        reach_N = fit_stored(rows_ND, neighbours, 1.0).deviations_N

        def energy(log_factor: float, reach_N: Tensor = reach_N) -> float:
            return float(_energy(squares_BN, reach_N * math.exp(log_factor), count_B).mean())

        best = minimize_scalar(
            energy,
            bounds=[math.log(factor) for factor in _FACTORS],
            method="bounded",
            options={"maxiter": _TRIES, "xatol": 0.02},
        )
        chosen.append((float(best.fun), neighbours, math.exp(best.x)))
    _, neighbours, factor = min(chosen)
    return neighbours, factor
