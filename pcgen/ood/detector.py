"""A detector: a network, its scores and its calibration, in memory and as one file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pcgen.classification.network import ClassifierModel, classifier_of
from pcgen.errors import CalibrationError, CheckpointError
from pcgen.ood import conformal, scores
from pcgen.ood.conformal import Array, Guarantee
from pcgen.ood.scores import ClassifierScorer, TableScorer, registered
from pcgen.ood.scoring import Columns, StoredScorer
from pcgen.registry import SCORES
from pcgen.storage import checkpoint
from pcgen.storage.checkpoint import (
    OF_MODEL,
    TENSORS,
    Checkpoint,
    Model,
    digest,
    model_in,
    model_of,
    with_prefix,
)

COMBINED = "pc-fisher"
LAYER = "energy_layer_"

# How the names of the tensors in a detector's file begin.
_SCORES, _COLUMNS = "scores.", "calibration."
_TABLE, _REGISTERED = "table.", "registered."
_CLASSIFIER, _CLASSIFIER_SCORES = "classifier.", "baselines."


@dataclass(frozen=True, slots=True)
class Detector:
    """A network, its scorers, and the scores of the calibration inputs.

    Part A of the calibration inputs shapes the combined score, and part B gives its p-values. All
    other scores take their p-values from both parts, unless part A chose the model's epoch.

    Attributes:
        model: the predictive coding network.
        scorers: the network's own first, then the table's, the classifier's and the users'.
        names: the score columns. The first decides unless another is asked for: the combined
            one, or a table's energy.
        components: the scores that the combined one is made of.
        alarms: those of them that count only where they are rare among known inputs.
        columns: the scorers' columns of the calibration inputs (N,), part A first.
        part_a: the number of inputs in part A.
        heat_scale: 99 % of the calibration pixels have a smaller prediction error.
        header: the header of the detector's file.
        classifier: the classifier whose scores stand beside the network's, if there is one.
    """

    model: Model
    scorers: tuple[StoredScorer, ...]
    names: tuple[str, ...]
    components: tuple[str, ...]
    alarms: tuple[str, ...]
    columns: Columns
    part_a: int
    heat_scale: float
    header: dict[str, Any] = field(default_factory=dict)
    classifier: ClassifierModel | None = None

    @property
    def device(self) -> torch.device:
        """Return the device that the network is on."""
        return self.model.network.layers[0].weight.device

    @property
    def layers(self) -> list[str]:
        """Return the columns of the layers' energies, the data layer's first."""
        names = [name for name in self.columns if name.startswith(LAYER)]
        return sorted(names, key=lambda name: int(name.removeprefix(LAYER)))

    def scores(self, columns: Columns) -> Columns:
        """Return the columns, with the combined score (B,) as the first if its parts are there."""
        if COMBINED not in self.names or not {*self.components} <= {*columns}:
            return columns
        parts_BJ = np.column_stack([columns[name] for name in self.components])
        known_NJ = np.column_stack([self.columns[name][: self.part_a] for name in self.components])
        is_alarm_J = [name in self.alarms for name in self.components]
        return {COMBINED: conformal.fisher(parts_BJ, known_NJ, is_alarm_J)} | columns

    def count(self, name: str) -> int:
        """Return the number of calibration inputs that give a score its p-values."""
        return len(next(iter(self.columns.values()))) - self._first_of(name)

    def _first_of(self, name: str) -> int:
        """Return the number of the first calibration input that gives a score its p-values."""
        is_apart = self.header.get("calibration", {}).get("part_a_is_apart", False)
        return self.part_a if name == COMBINED or is_apart else 0

    def scorers_of(self, name: str) -> list[StoredScorer]:
        """Return the scorers that a score is made of."""
        needed = {*self.components} if name == COMBINED else {name}
        return [scorer for scorer in self.scorers if needed & {*scorer.names}]

    def reference(self, name: str) -> Array:
        """Return the calibration scores that give a score its p-values.

        Raises:
            CalibrationError: the detector does not have this score.
        """
        self.require([name])
        first = self._first_of(name)
        known = {key: column[first:] for key, column in self.columns.items()}
        return self.scores(known)[COMBINED] if name == COMBINED else known[name]

    def require(self, names: Sequence[str]) -> None:
        """Raise CalibrationError unless the detector has all scores of these names."""
        unknown = [name for name in names if name not in self.names]
        if unknown:
            raise CalibrationError(
                f"{self.model.path}: has no score {', '.join(unknown)}",
                f"It has: {', '.join(self.names)}",
            )

    def threshold(self, name: str, fpr: float, guarantee: Guarantee) -> float:
        """Return the score above which an input is flagged.

        Raises:
            CalibrationError: there are too few calibration inputs for the guarantee.
        """
        return conformal.threshold(self.reference(name), fpr, guarantee)

    def surprised_layer(self, columns: Columns) -> list[int]:
        """Return, for each input, the layer whose energy is the most unusual one.

        It is the layer with the smallest p-value; among equal ones, the layer whose energy lies
        furthest beyond the calibration inputs'.
        """
        if not columns or not self.layers:
            return []
        unusual_BL = np.column_stack(
            [
                conformal.fisher(columns[name][:, None], self.columns[name][:, None])
                for name in self.layers
            ]
        )
        numbers: list[int] = unusual_BL.argmax(1).tolist()
        return numbers

    def heat(self, error_BD: Tensor) -> Tensor:
        """Return prediction errors on the scale v / (v + v_cal99), the same for all images."""
        return error_BD / (error_BD + self.heat_scale)


def save(path: Path, detector: Detector) -> dict[str, Any]:
    """Write a detector as one safetensors file and return its header.

    Raises:
        CheckpointError: the file cannot be written.
    """
    network = _on_cpu(detector.model.network.tensors())
    columns = {name: _short(column) for name, column in detector.columns.items()}
    tensors = _prefixed(OF_MODEL, network)
    tensors |= _prefixed(_COLUMNS, columns)
    header = detector.header | {
        "model": _without_tensors(detector.model.header) | {"sha256": digest(network)},
        "heat_scale": detector.heat_scale,
    }
    if detector.classifier is not None:
        tensors |= _prefixed(_CLASSIFIER, _on_cpu(detector.classifier.network.tensors()))
        header["classifier"] = _without_tensors(detector.classifier.header)
    for scorer in detector.scorers:
        prefix = _SCORES
        if isinstance(scorer, ClassifierScorer):
            prefix = _CLASSIFIER_SCORES
        elif isinstance(scorer, TableScorer):
            prefix = _TABLE
        elif isinstance(scorer, registered.RegisteredScorer):
            prefix, header["registered"] = _REGISTERED, list(scorer.names)
        tensors |= _prefixed(prefix, _on_cpu(scorer.tensors()))
    checkpoint.save(path, tensors, header)
    return header


def load(path: Path, device: torch.device | str = "cpu") -> Detector:
    """Return the detector of a file, on a device.

    Raises:
        CheckpointError: there is no such file, it is damaged, or it is not a detector.
        CalibrationError: the calibration belongs to another model than the file holds.
        UnknownNameError: the file has a user's score that is not registered.
    """
    file = checkpoint.load(path)
    if file.header.get("kind") != "detector":
        raise CheckpointError(
            f"{path}: a {file.header.get('kind', 'file')}, not a detector",
            f"Make one of it: pcgen ood-calibrate {path} DATA --out detector.safetensors",
        )
    try:
        return _detector_of(file, device)
    except (LookupError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: incomplete: {error}", f"Show it: pcgen info {path}"
        ) from None


def _detector_of(file: Checkpoint, device: torch.device | str) -> Detector:
    path, header = file.path, file.header
    known = header["calibration"]
    network = model_in(file)
    columns = {
        name: column.double() for name, column in with_prefix(file.tensors, _COLUMNS).items()
    }
    if digest(columns) != known["sha256"]:
        raise CalibrationError(f"{path}: its calibration scores are not those it was made with")
    missing = {*header["scores"], *header["components"]} - {COMBINED, *columns}
    missing |= {"source", "origin", "fingerprint", "native", "preprocessing"} - set(known)
    if missing:
        raise LookupError(f"no {', '.join(sorted(missing))}")
    model = model_of(network, device)
    tensors = with_prefix(file.tensors, _SCORES)
    scorers: list[StoredScorer] = [
        scores.load(model.network, model.recipe.inference, tensors, model.shape)
    ]
    if tensors := with_prefix(file.tensors, _TABLE):
        scorers.append(TableScorer.load(tensors))
    classifier = None
    if "classifier" in header:
        tensors = with_prefix(file.tensors, _CLASSIFIER)
        classifier = classifier_of(Checkpoint(path, header["classifier"], tensors), device)
        tensors = with_prefix(file.tensors, _CLASSIFIER_SCORES)
        table = classifier.recipe.inference
        scorers.append(ClassifierScorer.load(classifier.network, tensors, table))
    if names := header.get("registered"):
        for name in names:
            SCORES.require(name, str(path))
        tensors = with_prefix(file.tensors, _REGISTERED)
        scorers.append(registered.load(model.network, model.recipe.inference, names, tensors))
    return Detector(
        model,
        tuple(scorers),
        tuple(header["scores"]),
        tuple(header["components"]),
        tuple(header.get("alarms", ())),
        {name: np.asarray(column.numpy()) for name, column in columns.items()},
        int(known["part_a"]),
        float(header["heat_scale"]),
        header,
        classifier,
    )


def _short(column_N: Array) -> Tensor:
    """Return the shortest type that holds every value of a column exactly.

    The scores of a network in float32 have no more digits than float32.
    """
    whole = torch.from_numpy(column_N)
    types = (torch.uint8, torch.float32)
    return next((s for t in types if torch.equal((s := whole.to(t)).double(), whole)), whole)


def _on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu() for name, tensor in tensors.items()}


def _prefixed(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def _without_tensors(header: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in header.items() if key not in ("tensors", TENSORS)}
