"""The energy of a table's rows: a mixture and a memory as priors of a linear network, in nats.

* `free-energy`: of a linear predictive coding network whose latent prior is a mixture of K causes,
  with the states at their equilibrium: E(x) = -log sum_k w_k N(x; m_k, S_k).
* `memory`: one narrow cause for each known row.
* `energy`: their sum.

A value that is NaN is a unit without an observation. The energy sums it out exactly.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pcgen.ood.scores.causes import Causes, fit_causes
from pcgen.ood.scores.stored import Stored, choose_stored, fit_stored

SCORES = ("energy", "free-energy", "memory")

# The numbers of causes above 1, and the shrinkage beside D, among which held-out energy chooses.
_CAUSES = (2, 4, 8, 16, 32)
_LARGE_SHRINK = 10
# The least variance along any direction of a cause.
_FLOOR = 0.01
# Fits of a mixture to the rows that the last one found usual.
_TRIMS = 3
# Rows that a cause has on average, at least.
_ROWS_PER_CAUSE = 4
# N D^2 K of a fit, at most, for K above 1.
_WORK = 250_000_000
# Rows that are held out to choose the causes, at least; more folds only calibrate.
_JUDGED = 500
# Values of matrices at once.
_BLOCK = 2**22


@dataclass(frozen=True, slots=True)
class Settings:
    """What is chosen from the data.

    Attributes:
        causes: K.
        shrink: the rows that the pooled covariance counts as in each cause.
        neighbours: the neighbour whose distance is the width of a memory.
        factor: of these widths.
    """

    causes: int = 1
    shrink: float = 1.0
    neighbours: int = 3
    factor: float = 1.0


@dataclass(frozen=True, slots=True)
class TableModel:
    """The energies of rows (B, D) of standardised numbers.

    Attributes:
        causes: the mixture.
        stored: the memory; None if the known rows may be contaminated.
    """

    causes: Causes
    stored: Stored | None

    def energies(self, rows_BD: Tensor) -> dict[str, Tensor]:
        """Return the energies (B,) in nats by the names of the scores."""
        free_B = free_energy(self.causes, rows_BD)
        if self.stored is None:
            return {"energy": free_B, "free-energy": free_B}
        memory_B = self.stored.energy(rows_BD)
        return {"energy": free_B + memory_B, "free-energy": free_B, "memory": memory_B}


@dataclass(frozen=True, slots=True)
class Mixture:
    """A mixture, and the rows that it was fitted to, with a draw for every missing value."""

    causes: Causes
    complete_ND: Tensor


def fit_mixture(rows_ND: Tensor, settings: Settings, generator: torch.Generator) -> Mixture:
    """Return the mixture of rows, in which values may be missing (NaN).

    Missing values are drawn from one Gaussian, then from the mixture: two steps of stochastic EM.
    """
    seen_ND = rows_ND.isfinite()
    if bool(seen_ND.all()):
        return Mixture(_fit(rows_ND, settings, generator), rows_ND)
    complete_ND = torch.where(seen_ND, rows_ND, 0.0)
    for step in (replace(settings, causes=1), replace(settings, causes=1), settings):
        causes = _fit(complete_ND, step, generator)
        complete_ND = draw_missing(causes, rows_ND, generator)
    return Mixture(_fit(complete_ND, settings, generator), complete_ND)


def _fit(rows_ND: Tensor, settings: Settings, generator: torch.Generator) -> Causes:
    # float32 takes half the time; the moments are summed in float64.
    causes = fit_causes(
        rows_ND.float(),
        settings.causes,
        shrink=settings.shrink,
        floor=_FLOOR,
        generator=generator,
    )
    return Causes(
        causes.log_weights_K.double(), causes.means_KL.double(), causes.roots_KLL.double()
    )


def free_energy(causes: Causes, rows_BD: Tensor) -> Tensor:
    """Return -log sum_k w_k N(x; m_k, S_k) (B,), over the observed values of each row."""
    seen_BD = rows_BD.isfinite()
    whole_B = seen_BD.all(1)
    energy_B = 0.5 * math.log(2 * math.pi) * seen_BD.sum(1).to(rows_BD)
    energy_B[whole_B] += causes.energy(rows_BD[whole_B])
    if not bool(whole_B.all()):
        energy_B[~whole_B] -= _marginal(causes, rows_BD[~whole_B]).logsumexp(1)
    return energy_B


def _covariances(causes: Causes) -> Tensor:
    """Return S_k (K, D, D)."""
    return torch.linalg.inv(causes.roots_KLL @ causes.roots_KLL.mT)


def _marginal(causes: Causes, rows_BD: Tensor) -> Tensor:
    """Return log w_k N(x; m_k, S_k) (B, K) over the observed values, without the 2 pi.

    The covariance of a row has the lines of its missing values replaced by those of the identity.
    """
    covariance_KDD = _covariances(causes)
    step = max(1, _BLOCK // covariance_KDD.numel())
    joint = []
    for part_BD in torch.split(rows_BD, step):
        seen_BD = part_BD.isfinite()
        error_BKD = torch.where(seen_BD[:, None], part_BD[:, None] - causes.means_KL, 0.0)
        root_BKDD = torch.linalg.cholesky(_observed(covariance_KDD, seen_BD[:, None]))
        white_BKD = torch.linalg.solve_triangular(root_BKDD, error_BKD[..., None], upper=False)
        log_det_BK = root_BKDD.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        joint.append(causes.log_weights_K - log_det_BK - 0.5 * white_BKD.square().sum((-2, -1)))
    return torch.cat(joint)


def _observed(covariance: Tensor, seen: Tensor) -> Tensor:
    """Return covariances (..., D, D) with the identity in the lines of missing values."""
    both = seen[..., :, None] & seen[..., None, :]
    return torch.where(both, covariance, torch.eye(seen.shape[-1]).to(covariance))


def draw_missing(causes: Causes, rows_ND: Tensor, generator: torch.Generator) -> Tensor:
    """Return rows with each missing value drawn from its distribution given the row's others.

    A draw z of the cause is shifted by the regression of the observed errors: Matheron's rule.
    """
    hole_N = ~rows_ND.isfinite().all(1)
    complete_ND = rows_ND.clone()
    covariance_KDD = _covariances(causes)
    root_KDD = torch.linalg.cholesky(covariance_KDD)
    done = []
    for part_BD in torch.split(rows_ND[hole_N], max(1, _BLOCK // covariance_KDD[0].numel())):
        share_BK = _marginal(causes, part_BD).softmax(1)
        cause_B = torch.multinomial(share_BK, 1, generator=generator)[:, 0]
        noise_BD = torch.randn(part_BD.shape, generator=generator, dtype=part_BD.dtype)
        draw_BD = causes.means_KL[cause_B] + (root_KDD[cause_B] @ noise_BD[..., None])[..., 0]
        seen_BD, covariance_BDD = part_BD.isfinite(), covariance_KDD[cause_B]
        error_BD = torch.where(seen_BD, part_BD - draw_BD, 0.0)
        shift_BD = covariance_BDD @ torch.linalg.solve(
            _observed(covariance_BDD, seen_BD), error_BD[..., None]
        )
        done.append(torch.where(seen_BD, part_BD, draw_BD + shift_BD[..., 0]))
    if done:
        complete_ND[hole_N] = torch.cat(done)
    return complete_ND


@dataclass(frozen=True, slots=True)
class Folded:
    """A model for each fold, fitted to the rows of all others.

    Attributes:
        settings: those of all models.
        models: one a fold.
        energies: of the rows of each fold by the model that has not seen them.
    """

    settings: Settings
    models: list[TableModel]
    energies: list[dict[str, Tensor]]


def fit_folds(rows_ND: Tensor, folds: int, generator: torch.Generator) -> Folded:
    """Return a model for each fold, with the settings of the least held-out energy.

    The mixture's are chosen on the first folds, the memory's by leaving one row out.
    """
    fold_N = torch.randperm(len(rows_ND), generator=generator) % folds
    settings, mixtures = choose_causes(rows_ND, fold_N, generator)
    neighbours, factor = choose_stored(mixtures[0].complete_ND, generator)
    settings = replace(settings, neighbours=neighbours, factor=factor)
    for fold in range(len(mixtures), folds):
        mixtures.append(fit_mixture(rows_ND[fold_N != fold], settings, generator))
    models = [
        TableModel(own.causes, fit_stored(own.complete_ND, neighbours, factor)) for own in mixtures
    ]
    energies = [model.energies(rows_ND[fold_N == f]) for f, model in enumerate(models)]
    return Folded(settings, models, energies)


def fit_whole(rows_ND: Tensor, generator: torch.Generator) -> TableModel:
    """Return a model of all rows, with the settings of the least held-out energy."""
    fold_N = torch.randperm(len(rows_ND), generator=generator) % min(5, len(rows_ND))
    settings, _ = choose_causes(rows_ND, fold_N, generator)
    mixture = fit_mixture(rows_ND, settings, generator)
    memory = choose_stored(mixture.complete_ND, generator)
    return TableModel(mixture.causes, fit_stored(mixture.complete_ND, *memory))


def fit_trimmed(
    rows_ND: Tensor, share: float, generator: torch.Generator
) -> tuple[Settings, TableModel]:
    """Return a model without memory, and its settings, of rows of which a share may be unusual.

    In turn the mixture is fitted, and the share of the rows of the highest energy is left out.
    """
    fold_N = torch.randperm(len(rows_ND), generator=generator) % min(5, len(rows_ND))
    settings, _ = choose_causes(rows_ND, fold_N, generator, share)
    kept = max(2, len(rows_ND) - math.ceil(share * len(rows_ND)))
    usual = torch.arange(len(rows_ND))
    for _ in range(_TRIMS):
        causes = fit_mixture(rows_ND[usual], settings, generator).causes
        usual = free_energy(causes, rows_ND).argsort()[:kept]
    return settings, TableModel(fit_mixture(rows_ND[usual], settings, generator).causes, None)


def choose_causes(
    rows_ND: Tensor, fold_N: Tensor, generator: torch.Generator, left_out: float = 0.0
) -> tuple[Settings, list[Mixture]]:
    """Return the mixture's settings of the least held-out energy, and the mixtures that judged.

    The number of causes is doubled until the energy has risen twice. The larger shrinkage is tried
    with the best number alone.

    Args:
        fold_N: the fold of each row, from 0; the first ones are held out in turn.
        left_out: the share of the held-out rows, those of the highest energy, that do not count.
    """
    folds, count, width = int(fold_N.max()) + 1, *rows_ND.shape
    judged = range(min(folds, max(2, math.ceil(_JUDGED * folds / count))))

    def judge(causes: int, shrink: float) -> tuple[float, Settings, list[Mixture]]:
        settings = Settings(causes, shrink)
        fits = [fit_mixture(rows_ND[fold_N != fold], settings, generator) for fold in judged]
        held_out = [
            free_energy(fit.causes, rows_ND[fold_N == fold])
            for fit, fold in zip(fits, judged, strict=True)
        ]
        return _lowest_mean(torch.cat(held_out), left_out), settings, fits

    most = min(count / _ROWS_PER_CAUSE, _WORK / (count * width**2))
    best = judge(1, width)
    worse = 0
    for causes in _CAUSES:
        if causes > most or worse == 2:
            break
        trial = judge(causes, width)
        worse = 0 if trial[0] < best[0] else worse + 1
        best = min(best, trial, key=_energy_of)
    return min(best, judge(best[1].causes, _LARGE_SHRINK * width), key=_energy_of)[1:]


def _energy_of(trial: tuple[float, Settings, list[Mixture]]) -> float:
    return trial[0]


def _lowest_mean(energy_N: Tensor, left_out: float) -> float:
    """Return the mean without the highest values."""
    kept = max(1, len(energy_N) - math.ceil(left_out * len(energy_N)))
    return float(energy_N.sort().values[:kept].mean())
