"""Detectors of the embedded digits, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

import pcgen
from pcgen import shipped
from pcgen.commands.session import open_detector
from pcgen.config import with_settings
from pcgen.ood.detector import Detector
from pcgen.storage import checkpoint


@pytest.fixture(scope="session")
def detector_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("detector") / "digits.safetensors"
    pcgen.ood_calibrate("digits-ood", "digits", path, device="cpu")
    return path


@pytest.fixture
def detector(detector_file: Path) -> Detector:
    return open_detector(detector_file)


@pytest.fixture(scope="session")
def detectors(detector_file: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Detector]:
    """Return a detector for each way to infer: one by one (`majorise`), and in step (`errors`).

    `newton` also infers one by one, where it is named for use alone.
    """
    folder = tmp_path_factory.mktemp("detector")
    file = checkpoint.load_held(shipped.find_model("digits-ood"))
    recipe = with_settings(file.header["recipe"], ["inference.test_solver=majorise"])
    checkpoint.save(folder / "model", file.tensors, file.header | {"recipe": recipe})
    models = {"errors": "digits", "majorise": folder / "model"}
    detectors = {"newton": open_detector(detector_file)}
    for solver, model in models.items():
        pcgen.ood_calibrate(model, "digits", folder / solver, device="cpu")
        detectors[solver] = open_detector(folder / solver)
    return detectors
