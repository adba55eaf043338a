"""The detector as a value: scores of new inputs in, p-values and verdicts out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pcgen.classification.network import ClassifierModel
from pcgen.errors import CalibrationError
from pcgen.ood import conformal as calibration
from pcgen.ood.conformal import Array, Guarantee
from pcgen.ood.scoring import Columns, Scorer
from pcgen.storage.checkpoint import Model

COMBINED = "pc-fisher"
LAYER = "energy_layer_"


@dataclass(frozen=True, slots=True)
class Detector:
    """A network, its scorers, and the columns of the calibration inputs.

    Part A of the calibration inputs shapes the combined score, part B gives that its p-values. A
    score that needs no part A takes its p-values from both.

    Attributes:
        model: the predictive coding network.
        scorers: of the network, then of a classifier beside it.
        names: score columns, the combined one first.
        components: those that the combined one is made of.
        columns: the scorers' columns of the calibration inputs (N,), part A first.
        part_a: how many of them are part A.
        heat_scale: 99 % of the calibration pixels have a smaller prediction error.
        header: what the file says beside the tensors.
        classifier: whose scores stand beside the network's, where there is one.
    """

    model: Model
    scorers: tuple[Scorer, ...]
    names: tuple[str, ...]
    components: tuple[str, ...]
    columns: Columns
    part_a: int
    heat_scale: float
    header: dict[str, Any] = field(default_factory=dict)
    classifier: ClassifierModel | None = None

    @property
    def device(self) -> torch.device:
        """Return where the network is."""
        return self.model.network.layers[0].weight.device

    @property
    def layers(self) -> list[str]:
        """Return the columns of the layers' energies, the data layer's first."""
        found = [name for name in self.columns if name.startswith(LAYER)]
        return sorted(found, key=lambda name: int(name.removeprefix(LAYER)))

    def scores(self, columns: Columns) -> Columns:
        """Return the columns with the combined score (B,) among them."""
        if COMBINED not in self.names or not columns:
            return columns
        parts_BJ = np.column_stack([columns[name] for name in self.components])
        known_NJ = np.column_stack([self.columns[name][: self.part_a] for name in self.components])
        return {COMBINED: calibration.fisher(parts_BJ, known_NJ)} | columns

    def reference(self, name: str) -> Array:
        """Return the calibration scores that give a score its p-values.

        Raises:
            CalibrationError: a score that the detector does not have.
        """
        self.require([name])
        if name != COMBINED:
            return self.columns[name]
        part_b = {key: column[self.part_a :] for key, column in self.columns.items()}
        return self.scores(part_b)[COMBINED]

    def require(self, names: Sequence[str]) -> None:
        """Let names pass that the detector has.

        Raises:
            CalibrationError: one that it does not have.
        """
        unknown = [name for name in names if name not in self.names]
        if unknown:
            raise CalibrationError(
                f"{self.model.path}: has no score {', '.join(unknown)}",
                f"It has: {', '.join(self.names)}",
            )

    def threshold(self, name: str, fpr: float, guarantee: Guarantee) -> float:
        """Return the score above which an input is flagged.

        Raises:
            CalibrationError: too few calibration inputs for the guarantee.
        """
        return calibration.threshold(self.reference(name), fpr, guarantee)

    def surprised_layer(self, columns: Columns) -> list[int]:
        """Return, for each input, the layer whose energy is the most unusual one.

        That of the least p-value; where several are least, the furthest beyond calibration.
        """
        layers = self.layers
        if not columns or not layers:
            return []
        unusual_BL = np.column_stack(
            [
                calibration.fisher(columns[name][:, None], self.columns[name][:, None])
                for name in layers
            ]
        )
        found: list[int] = unusual_BL.argmax(1).tolist()
        return found

    def heat(self, error_BD: Tensor) -> Tensor:
        """Return prediction errors on the scale v / (v + v_cal99), the same for all images."""
        return error_BD / (error_BD + self.heat_scale)
