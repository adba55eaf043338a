"""The end of `pcgen demo`: strange images are made of known ones, scored and shown."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pcgen.commands.api import OnProgress
from pcgen.commands.ood import ood_calibrate, ood_score, open_detector

if TYPE_CHECKING:
    import torch

# Images of a kind, and those of them in the picture.
_OF_A_KIND, _PER_ROW = 40, 12
_KINDS = ("negative", "rot90", "shuffle", "noise", "constant", "blur")


def score_strange(
    folder: Path, model: Path, data: str, *, on_progress: OnProgress = lambda event: None
) -> dict[str, str]:
    """Calibrate a model, and score test images and strange ones made of them.

    Args:
        folder: is left with `detector.safetensors`, the images in `strange/KIND/`, `scores.csv` and
            `strange.png`.
        data: a data set with a test split, which the model was trained on.

    Returns:
        How many of each kind were flagged, in words.
    """
    from pcgen.pages.pictures import Row as Shown
    from pcgen.pages.pictures import grid

    detector = folder / "detector.safetensors"
    ood_calibrate(model, data, detector, on_progress=on_progress)
    loaded = open_detector(detector)
    kinds = _strange(f"{data}:test", folder / "strange")
    out = folder / "scores.csv"
    result = ood_score(detector, str(folder / "strange"), out, on_progress=on_progress)
    flagged: dict[str, list[bool]] = {kind: [] for kind in kinds}
    for row in result.rows():
        flagged[row["id"].partition("/")[0]].append(bool(row["is_ood"]))
    words = {kind: f"{sum(found)} of {len(found)}" for kind, found in flagged.items()}
    rows = []
    for kind, pixels_BD in kinds.items():
        heat_BD = loaded.heat(loaded.scorers[0].heatmap(pixels_BD))  # type: ignore[attr-defined]
        maps = (part[:_PER_ROW].reshape(-1, *loaded.model.shape) for part in (pixels_BD, heat_BD))
        rows += [
            Shown(f"{kind}: {words[kind]}", next(maps)),
            Shown("where", next(maps), heat=True),
        ]
    grid(folder / "strange.png", rows, title="Flagged as unlike the digits", columns=_PER_ROW)
    return words


def _strange(data: str, folder: Path) -> dict[str, torch.Tensor]:
    """Write test images and strange ones as pictures, and return them (B, D) by kind."""
    import numpy as np
    from PIL import Image

    from pcgen.data.shifts import shifted
    from pcgen.data.sources import open_data

    known = open_data(data, limit=_OF_A_KIND)
    tables = {"digits": known} | {kind: shifted(known, kind) for kind in _KINDS}
    found = {}
    for kind, images in tables.items():
        found[kind] = images.rows(range(len(images))).pixels_BD
        (folder / kind).mkdir(parents=True, exist_ok=True)
        whole = (255 * found[kind]).round().numpy().astype(np.uint8)
        for i, pixels in enumerate(whole.reshape(-1, *images.shape[1:])):
            Image.fromarray(pixels).save(folder / kind / f"{i:02}.png")
    return found
