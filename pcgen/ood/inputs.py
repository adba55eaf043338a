"""Inputs, prepared as the calibration images were, or refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pcgen.data.images import Images
from pcgen.data.sources import open_inputs
from pcgen.errors import DataError
from pcgen.ood.detector import Detector

RESIZE = "As in calibration. To bring them to it, outside the guarantee: --resize"


def open_like(
    detector: Detector, words: Sequence[str], resize: bool, data_dir: Path | None
) -> list[Images]:
    """Return the inputs, prepared as the calibration images were.

    Raises:
        DataError: inputs that cannot be opened, or are prepared otherwise.
    """
    model, native = detector.model, detector.header["calibration"]["native"]
    try:
        found = open_inputs(
            words,
            data_dir=data_dir,
            like=model.shape,
            like_scale=model.scale,
            native_size=None if resize or native is None or model.scale else tuple(native[1:]),
        )
    except DataError as error:
        if ", must be " in error.message and not error.hint:
            error.hint = RESIZE
        raise
    for images in found:
        require_columns(images, model.header["data"].get("columns"))
    return found


def require_columns(images: Images, known: Sequence[str] | None) -> None:
    """Let tables pass that have the model's columns in its order, or columns without names.

    Raises:
        DataError: other columns.
    """
    found = images.columns
    if not images.is_table or found is None or known is None or found == [*known]:
        return
    unnamed = [f"column{i + 1}" for i in range(len(found))]
    if unnamed in (found, [*known]):
        return
    first = next(i for i, pair in enumerate(zip(found, known, strict=True)) if pair[0] != pair[1])
    raise DataError(
        f"{images.source}: column {first + 1} is {found[first]}, the model's is {known[first]}",
        f"The model takes, in this order: {', '.join(known)}",
    )
