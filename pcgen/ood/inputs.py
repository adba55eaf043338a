"""Inputs of a detector, prepared like its calibration images or refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pcgen.data.images import Images
from pcgen.data.sources import open_inputs
from pcgen.errors import DataError
from pcgen.ood.detector import Detector

if TYPE_CHECKING:
    from pcgen.data.sources import Data

RESIZE = (
    "The calibration images have that size. To resize the inputs, without the guarantee: --resize"
)


def open_like(
    detector: Detector, inputs: Data | Sequence[Data], resize: bool, data_dir: str | Path | None
) -> list[Images]:
    """Return the inputs, prepared like the calibration images.

    Raises:
        DataError: an input cannot be opened, or differs from the calibration images.
    """
    model, native = detector.model, detector.header["calibration"]["native"]
    try:
        return open_inputs(
            inputs,
            data_dir=data_dir,
            **model.data_rules,
            native_size=None if resize or native is None or model.scale else tuple(native[1:]),
        )
    except DataError as error:
        if ", must be " in error.message and not error.hint:
            error.hint = RESIZE
        raise
