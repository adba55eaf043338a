"""A detector of unusual rows for scikit-learn: fitted, calibrated and used in memory."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, OutlierMixin
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor

from pcgen.errors import PcgenWarning
from pcgen.ood import conformal
from pcgen.ood.columns import categories_of, fit_columns, numbers_of
from pcgen.ood.conformal import Array, Guarantee
from pcgen.ood.scores.table import SCORES, fit_folds, fit_trimmed

_FOLDS = 5
_FEWEST = 4
# More rows cost time and hardly change the mixture.
_MOST = 5000
_DEPRECATED = ("layers", "epochs", "calibration")


class PCNOutlierDetector(OutlierMixin, BaseEstimator):  # type: ignore[misc]
    """Flags rows that are unlike the rows it was fitted to, and limits false alarms.

    The score is an energy in nats: of a linear predictive coding network whose latent prior is a
    mixture, plus that of a memory of the known rows. All settings are chosen by held-out energy.
    The rows are divided into five folds. Each fold calibrates a model of the other four, so every
    row is used twice. The signs are scikit-learn's, the opposite of those elsewhere in pcgen:
    `score_samples` and `decision_function` are *lower* for more unusual rows, and `predict` is -1
    for flagged rows and 1 for the others.

    A table may have categories (columns with words, pandas' dtype `category`) and missing values
    (NaN, None), which the energy sums out.

    Parameters:
        score_name: `energy`, or one of its two parts: `free-energy` (the network with its mixture)
            and `memory`.
        fpr: share of known rows that may be flagged.
        guarantee: `fpr` is meant on average (`marginal`), or with 95 % confidence (`pac`, which
            needs more rows). `statement_` says what is proven.
        contamination: share of the fitted rows that may be unusual themselves, from 0 to 0.5. They
            are left out of the fit, and this share of the fitted rows is flagged. There is no
            memory and no calibration then. None if all rows are known to be usual.
        categories: names or numbers of columns that hold numbers but are categories.
        random_state: an int makes `fit` repeatable.
        layers: deprecated like `epochs` and `calibration`, and without effect.

    Attributes:
        offset_: `decision_function` is `score_samples` minus this number.
        statement_: the promise in words. It is empty if there are too few rows for it; then rows
            that score above every calibration row are flagged.
        settings_: what was chosen from the rows.
        calibration_: for each score, the energies of each fold's rows by the model of the others.

    Example:
        >>> import numpy as np, pcgen
        >>> known = np.random.default_rng(0).normal(size=(400, 3))
        >>> detector = pcgen.PCNOutlierDetector(random_state=0).fit(known)
        >>> detector.predict([[0.0, 0.0, 0.0], [9.0, -9.0, 9.0]]).tolist()
        [1, -1]
    """

    def __init__(
        self,
        layers: Any = None,
        *,
        epochs: Any = None,
        score_name: str = "energy",
        fpr: float = 0.05,
        guarantee: Guarantee = "marginal",
        contamination: float | None = None,
        categories: Sequence[Any] = (),
        calibration: Any = None,
        random_state: Any = None,
    ) -> None:
        self.layers = layers
        self.epochs = epochs
        self.score_name = score_name
        self.fpr = fpr
        self.guarantee = guarantee
        self.contamination = contamination
        self.categories = categories
        self.calibration = calibration
        self.random_state = random_state

    def __sklearn_tags__(self) -> Any:
        """Return scikit-learn's tags: missing values and categories are welcome."""
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.categorical = True
        tags.input_tags.string = True
        return tags

    def fit(self, X: Any, y: Any = None) -> Self:
        """Fit and calibrate on all rows (N, D); `y` is ignored. Of over 5,000, so many are drawn.

        Raises:
            ValueError: a parameter that is no such value, or rows that cannot be used.
        """
        self._require_parameters()
        table_ND = self._validated(X, reset=True)
        names = self._names(table_ND.shape[1])
        categories = categories_of(X, self.categories, names)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        generator = torch.Generator().manual_seed(seed)
        table_ND = table_ND[torch.randperm(len(table_ND), generator=generator)[:_MOST].numpy()]
        self.columns_ = fit_columns(table_ND, names, categories)
        rows_ND = self._rows(table_ND)
        with _one_thread():
            if self.contamination is None:
                folded = fit_folds(rows_ND, min(_FOLDS, len(rows_ND)), generator)
                self.settings_, self.models_ = folded.settings, folded.models
                known = folded.energies
            else:
                self.settings_, model = fit_trimmed(rows_ND, self.contamination, generator)
                self.models_, known = [model], [model.energies(rows_ND)]
        self.calibration_ = {
            name: [_rounded(energies[name]) for energies in known] for name in known[0]
        }
        self._set_threshold()
        return self

    def score_samples(self, X: Any) -> Array:
        """Return how usual each row is (N,), in nats: minus the energy, once calibrated.

        It is the energy itself where the folds' models agree.
        """
        return self.decision_function(X) + self.offset_

    def decision_function(self, X: Any) -> Array:
        """Return `score_samples` minus `offset_` (N,): below 0 for flagged rows."""
        scores_FN = self.energies(X)[self.score_name]
        return conformal.cross_margin(scores_FN, self.calibration_[self.score_name], self._allowed)

    def predict(self, X: Any) -> NDArray[np.int64]:
        """Return -1 for flagged rows and 1 for the others (N,)."""
        return np.where(self.decision_function(X) >= 0, 1, -1)

    def p_values(self, X: Any) -> Array:
        """Return each row's cross-conformal p-value (N,): small for unusual rows.

        With `contamination` it is the share of the fitted rows that are as unusual.
        """
        name = self.score_name
        return conformal.cross_p_values(self.energies(X)[name], self.calibration_[name])

    def energies(self, X: Any) -> dict[str, Array]:
        """Return the energies (F, N) in nats of each row by each fold's model, for every score."""
        check_is_fitted(self)
        rows_ND = self._rows(self._validated(X, reset=False))
        with _one_thread():
            found = [model.energies(rows_ND) for model in self.models_]
        return {name: np.stack([_rounded(own[name]) for own in found]) for name in found[0]}

    def _set_threshold(self) -> None:
        known_N = np.sort(np.concatenate(self.calibration_[self.score_name]))
        count, folds = len(known_N), len(self.models_)
        self.statement_, self._allowed = "", 0
        if self.contamination is not None:
            self._allowed = min(round(self.contamination * count), count - 1)
        elif count >= conformal.smallest(self.fpr, self.guarantee):
            self._allowed = conformal.allowed(count, self.fpr, self.guarantee)
            self.statement_ = conformal.cross_statement(count, folds, self.fpr, self.guarantee)
        self.offset_ = -float(known_N[-1 - self._allowed])

    def _validated(self, X: Any, *, reset: bool) -> NDArray[Any]:
        """Return the cells of a table.

        Raises:
            ValueError: no table, too few rows, or a number that is infinite.
        """
        fewest = _FEWEST if reset else 1
        table_ND: NDArray[Any] = validate_data(
            self,
            X,
            reset=reset,
            dtype=None,
            ensure_all_finite="allow-nan",
            ensure_min_samples=fewest,
        )
        return table_ND

    def _names(self, width: int) -> list[str]:
        return [*getattr(self, "feature_names_in_", [f"column{i + 1}" for i in range(width)])]

    def _rows(self, table_ND: NDArray[Any]) -> Tensor:
        values_ND = numbers_of(self.columns_, table_ND, self._names(table_ND.shape[1]))
        return torch.from_numpy(values_ND)

    def _require_parameters(self) -> None:
        """Raise ValueError that names the first parameter of a wrong value."""
        scores = SCORES if self.contamination is None else SCORES[:2]
        share = self.contamination
        is_usable = share is None or (_is_share(share) and share <= 0.5)
        checks = {
            "score_name": (self.score_name in scores, f"one of {', '.join(scores)}"),
            "fpr": (_is_share(self.fpr), "a number between 0 and 1"),
            "guarantee": (self.guarantee in get_args(Guarantee), "marginal or pac"),
            "contamination": (is_usable, "None, or a number above 0 and at most 0.5"),
        }
        for name, (is_valid, expected) in checks.items():
            if not is_valid:
                raise ValueError(f"{name}={getattr(self, name)!r}: expected {expected}")
        unused = [name for name in _DEPRECATED if getattr(self, name) is not None]
        if unused:
            warnings.warn(
                f"PCNOutlierDetector: {', '.join(unused)} has no effect any more: the settings "
                "follow from the rows, and all rows calibrate. Leave it out",
                PcgenWarning,
                stacklevel=3,
            )


def _is_share(value: Any) -> bool:
    return isinstance(value, float | np.floating) and bool(0 < value < 1)


def _rounded(energy_N: Tensor) -> Array:
    """Return energies rounded to float32, so that they do not depend on the rest of a batch."""
    with np.errstate(over="ignore"):
        return conformal.finite(energy_N.numpy().astype(np.float32))


@contextmanager
def _one_thread() -> Iterator[None]:
    """Use one thread of torch: on batches this small, more threads only wait for one another."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
