"""Detectors of the embedded digits, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

import pcgen
from pcgen.commands.session import open_detector
from pcgen.ood.detector import Detector


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
    """Return a detector for each way to infer: one by one (`majorise`), and in step (`errors`)."""
    path = tmp_path_factory.mktemp("detector") / "errors.safetensors"
    pcgen.ood_calibrate("digits", "digits", path, device="cpu")
    return {"majorise": open_detector(detector_file), "errors": open_detector(path)}
