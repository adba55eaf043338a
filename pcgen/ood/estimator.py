"""A detector for scikit-learn: a network is trained, calibrated and used, all in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from pcgen.config import InferenceTable, Recipe, from_dict
from pcgen.data.images import Images, split
from pcgen.data.request import DataRequest
from pcgen.data.tables import table_of
from pcgen.errors import CalibrationError
from pcgen.learning.initial import initial_network, sample
from pcgen.learning.predictive_coding import PredictiveCoding
from pcgen.learning.train import Training
from pcgen.model.network import Network
from pcgen.ood import conformal, scores
from pcgen.ood.calibrate import CalibrationRows, calibrate
from pcgen.ood.conformal import Array, Guarantee
from pcgen.ood.detector import COMBINED, Detector
from pcgen.ood.scoring import scored
from pcgen.storage.checkpoint import LoadedModel, Model, model_header
from pcgen.storage.runs import describe_data

# The score of a row that the network cannot read: above every score of `conformal.finite`.
_UNUSABLE = 2e30
# Two rows to fit, and one for each part of the calibration.
_FEWEST = 4


class PCNOutlierDetector(OutlierMixin, BaseEstimator):  # type: ignore[misc]
    """Flags rows that are unlike the rows it was fitted to, with a bound on false alarms.

    A predictive coding network is trained on some of the rows, and the others calibrate its
    scores. Columns are standardised. The signs are scikit-learn's, the opposite of those elsewhere
    in pcgen: `score_samples` and `decision_function` are *lower* for more unusual rows, and
    `predict` is -1 for flagged rows and 1 for the others.

    Parameters:
        layers: units from the latent to the last hidden layer.
        epochs: passes over the rows in training.
        score_name: one of the network's scores, such as `pc-fisher` or `free-energy`.
        fpr: share of known rows that may be flagged.
        guarantee: `fpr` holds on average over calibrations (`marginal`), or with 95 % confidence
            for this one (`pac`, which needs more rows).
        calibration: share of the rows that calibrate.
        random_state: an int makes `fit` repeatable.

    Attributes:
        offset_: `decision_function` is `score_samples` minus this number.
        statement_: the guarantee in words. It is empty if there are too few rows for a guarantee;
            then rows that score above every calibration row are flagged.
        detector_: the detector, as `pcgen.ood_score` uses it.

    Example:
        >>> import numpy as np, pcgen
        >>> known = np.random.default_rng(0).normal(size=(400, 3))
        >>> detector = pcgen.PCNOutlierDetector(random_state=0).fit(known)
        >>> detector.predict([[0.0, 0.0, 0.0], [9.0, -9.0, 9.0]]).tolist()
        [1, -1]
    """

    def __init__(
        self,
        layers: Sequence[int] = (4, 32),
        *,
        epochs: int = 30,
        score_name: str = "pc-fisher",
        fpr: float = 0.05,
        guarantee: Guarantee = "marginal",
        calibration: float = 0.4,
        random_state: Any = None,
    ) -> None:
        self.layers = layers
        self.epochs = epochs
        self.score_name = score_name
        self.fpr = fpr
        self.guarantee = guarantee
        self.calibration = calibration
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> Self:
        """Train on some of the rows (N, D) and calibrate on the others; `y` is ignored.

        Raises:
            ValueError: a parameter that is no such value, or rows that cannot be used.
        """
        self._require_parameters()
        values_ND = validate_data(self, X, dtype=np.float64, ensure_min_samples=_FEWEST)
        self._require_rows(values_ND)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        images = self._table(values_ND)
        fit, held_out = split(images, self.calibration, seed, "calibration")
        rows = CalibrationRows(fit, held_out, "rows held out from fit")
        with _one_thread():
            model = _trained(self._recipe(seed), fit)
            detector = calibrate(model, rows, [_RoundedScorer(model, fit)])
        self.detector_ = detector
        self.offset_, self.statement_ = -np.inf, ""
        reference = detector.reference(self.score_name)
        try:
            above = conformal.threshold(reference, self.fpr, self.guarantee)
            self.statement_ = conformal.statement(len(reference), self.fpr, self.guarantee)
        except CalibrationError:
            above = float(conformal.finite(reference).max())
        self.offset_ = -above
        return self

    def score_samples(self, X: Any) -> Array:
        """Return how usual each row is (N,): minus the score."""
        return -self._scores(X)

    def decision_function(self, X: Any) -> Array:
        """Return `score_samples` minus `offset_` (N,): below 0 for flagged rows."""
        return self.score_samples(X) - self.offset_

    def predict(self, X: Any) -> NDArray[np.int64]:
        """Return -1 for flagged rows and 1 for the others (N,)."""
        return np.where(self.decision_function(X) >= 0, 1, -1)

    def p_values(self, X: Any) -> Array:
        """Return each row's conformal p-value (N,): small for unusual rows."""
        return conformal.p_values(self._scores(X), self.detector_.reference(self.score_name))

    def _scores(self, X: Any) -> Array:
        check_is_fitted(self)
        values_ND = validate_data(self, X, dtype=np.float64, reset=False)
        detector: Detector = self.detector_
        images = self._table(values_ND, detector.model.scale)
        scores_N = np.full(len(images), _UNUSABLE)
        for batch in scored(detector.scorers, images):
            if batch.columns:
                rows = batch.first + np.array(batch.readable)
                own = detector.scores(batch.columns)[self.score_name]
                scores_N[rows] = conformal.finite(own)
        return scores_N

    def _require_parameters(self) -> None:
        """Raise ValueError that names the first parameter of a wrong value."""
        names = (COMBINED, *scores.PCScorer.names)
        layers: Any = self.layers
        layers = [*layers] if np.iterable(layers) else []
        checks = {
            "layers": (layers and all(map(_is_count, layers)), "numbers of units, 1 or more each"),
            "epochs": (_is_count(self.epochs), "a whole number, 1 or more"),
            "score_name": (self.score_name in names, f"one of {', '.join(names)}"),
            "fpr": (_is_share(self.fpr), "a number between 0 and 1"),
            "guarantee": (self.guarantee in get_args(Guarantee), "marginal or pac"),
            "calibration": (_is_share(self.calibration), "a number between 0 and 1"),
        }
        for name, (is_valid, expected) in checks.items():
            if not is_valid:
                raise ValueError(f"{name}={getattr(self, name)!r}: expected {expected}")

    def _require_rows(self, values_ND: Array) -> None:
        """Raise ValueError if rows are too large for float32, or too few for both uses."""
        too_large = np.flatnonzero((np.abs(values_ND) > np.finfo(np.float32).max).any(1))
        if len(too_large):
            raise ValueError(f"X: row {too_large[0]} has a value beyond 3.4e38, float32's largest")
        held_out = round(self.calibration * len(values_ND))
        if min(held_out, len(values_ND) - held_out) < 2:
            raise ValueError(
                f"calibration={self.calibration!r}: {held_out} of {len(values_ND)} rows would "
                "calibrate; two or more must calibrate, and two or more must train"
            )

    def _table(self, values_ND: Array, scale: Any = None) -> Images:
        width = values_ND.shape[1]
        like = None if scale is None else (1, 1, width)
        unnamed = [f"column{i + 1}" for i in range(width)]
        names = [*getattr(self, "feature_names_in_", unnamed)]
        request = DataRequest("rows", like=like, like_scale=scale)
        return table_of(values_ND, names, "rows", request)

    def _recipe(self, seed: int) -> Recipe:
        return from_dict(
            {
                "name": type(self).__name__,
                "seed": seed,
                "model": {
                    "layers": [int(units) for units in self.layers],
                    "start": "linear",
                    "precision": {
                        "hidden": 10.0,
                        "latent": 1.0,
                        "learned": True,
                        "diagonal": True,
                        "floor": 0.01,
                    },
                },
                "inference": {"steps": 8, "test_steps": 60, "tolerance": 1e-6},
                "learning": {"epochs": int(self.epochs), "batch_size": 50, "rate": 3e-3},
            },
            type(self).__name__,
        )


def _is_count(value: Any) -> bool:
    return isinstance(value, int | np.integer) and bool(value >= 1)


def _is_share(value: Any) -> bool:
    return isinstance(value, float | np.floating) and bool(0 < value < 1)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Use one thread of torch: on batches this small, more threads only wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _trained(recipe: Recipe, fit: Images) -> Model:
    """Return a model trained on rows."""
    sample_BD = sample(fit, recipe.seed)
    network = initial_network(recipe, sample_BD, fit.shape)
    for _ in Training(PredictiveCoding(network, recipe, sample_BD)).run(fit, None):
        pass
    header = model_header(network, recipe, describe_data(fit, len(fit)), {})
    return LoadedModel(Path(recipe.name), network, recipe, header)


class _RoundedScorer:
    """The network's scores, computed in float64 and rounded to float32.

    So a calibration row that is scored again gets the same score, whatever the batch.
    """

    def __init__(self, model: Model, fit: Images) -> None:
        """Fit the model's scores to rows."""
        fitted = scores.fit(model.network, fit, model.recipe.inference)
        network = model.network.to("cpu", torch.float64)
        self.__setstate__((network, model.recipe.inference, fitted.tensors()))

    def __getstate__(self) -> tuple[Network, InferenceTable, dict[str, Tensor]]:
        """Return the picklable state, without the prepared solver."""
        return self.scorer.network, self.scorer.table, self.scorer.tensors()

    def __setstate__(self, state: tuple[Network, InferenceTable, dict[str, Tensor]]) -> None:
        self.scorer = scores.load(*state)
        self.names, self.components = self.scorer.names, self.scorer.components

    def __call__(self, data_BD: Tensor) -> dict[str, Tensor]:
        """Return the scores (B,) of a batch."""
        return {name: column.float() for name, column in self.scorer(data_BD.double()).items()}

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that define the scores beside the network, by name."""
        return self.scorer.tensors()
