"""A detector of the embedded digits, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

import pcgen
from pcgen.detector.detector import Detector


@pytest.fixture(scope="session")
def detector_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("detector") / "digits.safetensors"
    pcgen.ood_calibrate("digits-ood", "digits", path, device="cpu")
    return path


@pytest.fixture
def detector(detector_file: Path) -> Detector:
    from pcgen.ood import open_detector

    return open_detector(detector_file)
