"""A detector's file: one safetensors with network, scorers and calibration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pcgen.classification.network import classifier_of
from pcgen.errors import CalibrationError, CheckpointError
from pcgen.ood import scores
from pcgen.ood.baselines import ClassifierScorer
from pcgen.ood.detector import Detector
from pcgen.ood.scoring import Scorer
from pcgen.storage import checkpoint
from pcgen.storage.checkpoint import Checkpoint, digest, model_of

_MODEL, _SCORES, _COLUMNS = "model.", "scores.", "calibration."
_CLASSIFIER, _BASELINES = "classifier.", "baselines."


def save(path: Path, detector: Detector) -> dict[str, Any]:
    """Write a detector and return its header.

    Raises:
        CheckpointError: it could not be written.
    """
    network = _on_cpu(detector.model.network.tensors())
    tensors = _named(_MODEL, network)
    tensors |= _named(_SCORES, _on_cpu(detector.scorers[0].tensors()))
    tensors |= _named(_COLUMNS, {n: torch.from_numpy(c) for n, c in detector.columns.items()})
    header = detector.header | {
        "model": _without_tensors(detector.model.header) | {"sha256": digest(network)},
        "heat_scale": detector.heat_scale,
    }
    if detector.classifier is not None:
        tensors |= _named(_CLASSIFIER, _on_cpu(detector.classifier.network.tensors()))
        tensors |= _named(_BASELINES, _on_cpu(detector.scorers[1].tensors()))
        header["classifier"] = _without_tensors(detector.classifier.header)
    checkpoint.save(path, tensors, header)
    return header


def load(path: Path, device: torch.device | str = "cpu") -> Detector:
    """Return the detector of a file, on a device.

    Raises:
        CheckpointError: no such file, a damaged one, or one that is no detector.
        CalibrationError: a calibration made with another model than the file holds.
    """
    found = checkpoint.load(path)
    header = found.header
    if header.get("kind") != "detector":
        raise CheckpointError(
            f"{path}: a {header.get('kind', 'file')}, not a detector",
            f"Make one of it: pcgen ood-calibrate {path} DATA --out detector.safetensors",
        )
    network = _part(found.tensors, _MODEL)
    try:
        known = header["calibration"]
        if digest(network) != header["model"]["sha256"]:
            raise CalibrationError(
                f"{path}: was calibrated with another model than it holds",
                "Calibrate again: pcgen ood-calibrate MODEL DATA --out DETECTOR",
            )
        columns = _part(found.tensors, _COLUMNS)
        if digest(columns) != known["sha256"]:
            raise CalibrationError(f"{path}: its calibration scores are not those it was made with")
        model = model_of(Checkpoint(path, header["model"], network), device)
        scorer = scores.load(model.network, model.recipe.inference, _part(found.tensors, _SCORES))
        scorers: tuple[Scorer, ...] = (scorer,)
        classifier = None
        if "classifier" in header:
            tensors = _part(found.tensors, _CLASSIFIER)
            classifier = classifier_of(Checkpoint(path, header["classifier"], tensors), device)
            baselines = _part(found.tensors, _BASELINES)
            table = classifier.recipe.inference
            scorers += (ClassifierScorer.load(classifier.network, baselines, table),)
        return Detector(
            model,
            scorers,
            tuple(header["scores"]),
            tuple(header["components"]),
            {name: np.asarray(column.numpy()) for name, column in columns.items()},
            int(known["part_a"]),
            float(header["heat_scale"]),
            header,
            classifier,
        )
    except (LookupError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path}: incomplete: {error}", f"Show it: pcgen info {path}"
        ) from None


def _on_cpu(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu() for name, tensor in tensors.items()}


def _named(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def _without_tensors(header: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in header.items() if key != "tensors"}


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }
