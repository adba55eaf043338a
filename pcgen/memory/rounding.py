"""A memory in half the bytes: weights and latents rounded to float16 for its file.

Rounding changes what the latents decode to. The change counts as an error of the stored images, so
that recall allows for it as noise.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor

from pcgen.errors import PcgenWarning, RecipeError
from pcgen.model.network import Network
from pcgen.storage.checkpoint import LATENTS, MEMORY_ERRORS

# The mean squared error per pixel below which an image is restored exactly.
_EXACT = 1e-3
# Images that are decoded at once.
_BATCH = 1000


@torch.no_grad()
def in_float16(network: Network, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a memory's tensors for its file, all matrices in float16.

    To each image's error is added the mean squared change of its decoded pixels. That is the new
    error where rounding and error are uncorrelated. A PcgenWarning says how many images are no
    longer restored exactly (mean squared error below 1e-3).

    Args:
        network: the memory's, with the values of `tensors`.
        tensors: of a checkpoint, with the latents `memory.latents`.

    Raises:
        RecipeError: a number is too large for float16.
    """
    rounded = {n: tensor.half() if tensor.ndim > 1 else tensor for n, tensor in tensors.items()}
    for name, tensor in rounded.items():
        if tensor.isinf().any() and tensors[name].isfinite().all():
            raise RecipeError(
                f"learning.stored_type: {name} has numbers too large for float16 (above 65,504)",
                "Use --set learning.stored_type=float32",
            )
    copy = network.to(tensors[LATENTS].device)
    copy.load(rounded)
    changes = []
    for first in range(0, len(tensors[LATENTS]), _BATCH):
        before_BL, after_BL = (t[LATENTS][first : first + _BATCH] for t in (tensors, rounded))
        change_BD = copy.decode(after_BL.float()) - network.decode(before_BL)
        changes.append(change_BD.square().mean(1))
    change_N = torch.cat(changes)
    error_N = tensors.get(MEMORY_ERRORS, torch.zeros_like(change_N))
    spoiled = int(((error_N < _EXACT) & (error_N + change_N >= _EXACT)).sum())
    if spoiled:
        warnings.warn(
            f"float16 spoils {spoiled} of {len(change_N)} images: mean squared change "
            f"{change_N.mean():.2g} per pixel. Use --set learning.stored_type=float32",
            PcgenWarning,
            stacklevel=2,
        )
    if MEMORY_ERRORS in tensors:
        rounded[MEMORY_ERRORS] = error_N + change_N
    return rounded
