"""Inputs of a detector, prepared like its calibration images or refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pcgen.data.images import Images
from pcgen.data.sources import open_inputs
from pcgen.errors import DataError
from pcgen.ood.detector import Detector

RESIZE = (
    "The calibration images have that size. To resize the inputs, without the guarantee: --resize"
)


def open_like(
    detector: Detector, words: Sequence[str], resize: bool, data_dir: Path | None
) -> list[Images]:
    """Return the inputs, prepared like the calibration images.

    Raises:
        DataError: an input cannot be opened, or differs from the calibration images.
    """
    model, native = detector.model, detector.header["calibration"]["native"]
    try:
        inputs = open_inputs(
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
    for images in inputs:
        require_columns(images, model.header["data"].get("columns"))
    return inputs


def require_columns(images: Images, known: Sequence[str] | None) -> None:
    """Raise DataError if a table has other columns than the model, or another order.

    Columns without names pass, because there is nothing to compare.
    """
    columns = images.columns
    if not images.is_table or columns is None or known is None or columns == [*known]:
        return
    unnamed = [f"column{i + 1}" for i in range(len(columns))]
    if unnamed in (columns, [*known]):
        return
    pairs = enumerate(zip(columns, known, strict=True))
    first = next(i for i, (own, models) in pairs if own != models)
    raise DataError(
        f"{images.source}: column {first + 1} is {columns[first]}, the model's is {known[first]}",
        f"The model takes, in this order: {', '.join(known)}",
    )
