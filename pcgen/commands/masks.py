"""The part of images that `--mask` hides."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pcgen.errors import RecipeError

if TYPE_CHECKING:
    from torch import Tensor

    from pcgen.data.images import Shape

HALVES = ("top", "bottom", "left", "right")
_SHARE = re.compile(r"(\d+(?:\.\d+)?)%")


def visible(mask: str, shape: Shape, pixels_BD: Tensor, numbers: list[int], seed: int) -> Tensor:
    """Return which pixels (B, D) of images are visible, bool.

    Args:
        mask: a word of `HALVES`, or a share as 80%, whose pixels are drawn for each image.
        numbers: of the images; with the seed they decide which pixels are drawn.

    Raises:
        RecipeError: another word, a share that hides nothing or everything, or rows of a table.
    """
    from pcgen.memory.corruptions import corruption_of

    share = _SHARE.fullmatch(mask)
    least = 100 / (shape[1] * shape[2])
    if mask not in HALVES and not (share and least <= float(share[1]) <= 100 - least):
        raise RecipeError(
            f"--mask {mask}: one of {', '.join(HALVES)}, or a share of the pixels, such as 80%"
        )
    if shape[1] == 1:
        raise RecipeError(f"--mask {mask}: hides pixels of images, not columns of a table")
    return corruption_of([f"mask:{mask}"], shape).cues(pixels_BD, numbers, shape, seed).visible_BD
