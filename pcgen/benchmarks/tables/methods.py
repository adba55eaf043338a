"""Methods that score the rows of a table: ours, and plain ones beside it.

A method takes known rows (N, D), new rows (B, D) and a seed, and returns its scores (B,) by name,
higher for more unusual rows. The plain ones get standardised columns.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import IsolationForest
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import LocalOutlierFactor, NearestNeighbors

from pcgen.ood import conformal
from pcgen.ood.estimator import PCNOutlierDetector

Array = NDArray[np.float64]

OURS = "pcgen"
FPR = 0.05
_NAMES = {"energy": OURS, "free-energy": "pcgen, mixture alone", "memory": "pcgen, memory alone"}
_COMPONENTS = (1, 2, 4, 8, 16)


@dataclass(frozen=True, slots=True)
class Scores:
    """One method's result.

    Attributes:
        scores_B: higher for more unusual rows.
        flagged_B: whether a row is flagged at 5 %, of a method that says so.
    """

    scores_B: Array
    flagged_B: NDArray[np.bool_] | None = None


Method = Callable[[Array, Array, int], dict[str, Scores]]


def _pcgen(known_ND: Array, new_BD: Array, seed: int) -> dict[str, Scores]:
    detector = PCNOutlierDetector(random_state=seed, fpr=FPR).fit(known_ND)
    allowed = conformal.allowed(len(known_ND), FPR, "marginal")
    found = {}
    for score, energies_FB in detector.energies(new_BD).items():
        margin_B = conformal.cross_margin(energies_FB, detector.calibration_[score], allowed)
        found[_NAMES[score]] = Scores(-margin_B, margin_B < 0)
    return found


def _knn(known_ND: Array, new_BD: Array, seed: int) -> dict[str, Scores]:
    neighbours = NearestNeighbors(n_neighbors=min(5, len(known_ND))).fit(known_ND)
    distances_BK = neighbours.kneighbors(new_BD)[0]
    return {"kNN(1)": Scores(distances_BK[:, 0]), "kNN(5)": Scores(distances_BK[:, -1])}


def _lof(known_ND: Array, new_BD: Array, seed: int) -> dict[str, Scores]:
    count = min(20, len(known_ND) - 1)
    factor = LocalOutlierFactor(n_neighbors=count, novelty=True).fit(known_ND)
    return {"LOF": Scores(-factor.score_samples(new_BD))}


def _isolation_forest(known_ND: Array, new_BD: Array, seed: int) -> dict[str, Scores]:
    forest = IsolationForest(random_state=seed).fit(known_ND)
    return {"IsolationForest": Scores(-forest.score_samples(new_BD))}


def _linear(known_ND: Array, new_BD: Array, seed: int) -> dict[str, Scores]:
    """Return the residual of PCA with half the columns, and the Mahalanobis length."""
    mean_D = known_ND.mean(0)
    values_D, vectors_DD = np.linalg.eigh(np.cov(known_ND.T).reshape(len(mean_D), -1))
    codes_BD = (new_BD - mean_D) @ vectors_DD
    half = len(mean_D) - len(mean_D) // 2  # in rising order, so the first are left over
    lengths_BD = codes_BD**2 / np.maximum(values_D, 1e-6)
    return {
        "PCA residual": Scores((codes_BD[:, :half] ** 2).sum(1)),
        "Mahalanobis": Scores(lengths_BD.sum(1)),
    }


def _gaussian_mixture(known_ND: Array, new_BD: Array, seed: int) -> dict[str, Scores]:
    fits = [
        GaussianMixture(count, reg_covar=0.01, random_state=seed).fit(known_ND)
        for count in _COMPONENTS
        if count == 1 or 4 * count <= len(known_ND)
    ]
    best = min(fits, key=lambda fit: fit.bic(known_ND))
    return {"Gaussian mixture": Scores(-best.score_samples(new_BD))}


def _ecod(known_ND: Array, new_BD: Array, seed: int) -> dict[str, Scores]:
    from pyod.models.ecod import ECOD

    return {"ECOD": Scores(ECOD().fit(known_ND).decision_function(new_BD))}


METHODS: dict[str, Method] = {
    "pcgen": _pcgen,
    "knn": _knn,
    "lof": _lof,
    "isolation-forest": _isolation_forest,
    "linear": _linear,
    "gaussian-mixture": _gaussian_mixture,
    "ecod": _ecod,
}


def missing(family: str) -> str:
    """Return why a family cannot be measured here; empty if it can."""
    if family == "ecod" and find_spec("pyod") is None:
        return "ECOD is left out: pyod is not installed (pip install pyod)"
    return ""


def standardised(known_ND: Array, new_BD: Array) -> tuple[Array, Array]:
    """Return both in deviations of the known rows from their mean."""
    deviation_D = known_ND.std(0)
    deviation_D[deviation_D == 0] = 1
    mean_D: Any = known_ND.mean(0)
    return (known_ND - mean_D) / deviation_D, (new_BD - mean_D) / deviation_D
