"""Write images to a memory, or forget some, without the other images themselves.

A new image gets a latent in a direction that the stored latents do not use. Then the data layer
alone changes, by recursive least squares: the smallest change with which the stored latents decode
to the same images as before, and the new latent to its image. To forget an image, its latent is
made to decode to the mean of the others and is removed.

A memory of as many images as its last hidden layer has units is full. A further image gets the
latent that inference finds for it, which decodes to the nearest image that the memory can show.
Least squares then lowers the sum of all errors, so the old images' mean squared change times their
number is at most the squared error of the new images before it.

Source: Yoo and Wood (2022), BayesPCN. They carry the covariance of the activity along from write to
write; here it is computed anew from the stored latents, so that no error adds up over many writes.
They forget by diffusion to the prior, which weakens all images alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pcgen.config import InferenceTable
from pcgen.device import generator
from pcgen.errors import RecipeError
from pcgen.inference.infer import infer
from pcgen.inference.solvers import prepare
from pcgen.memory.least_squares import regress
from pcgen.model.layers import Dense
from pcgen.model.network import Network

# Relative norms below this are rounding: the stored latents use every direction.
_FREE = 1e-3
# Gradient evaluations at most for the latent of an image beyond the room.
_STEPS = 50


@dataclass(frozen=True, slots=True)
class EditedMemory:
    """A memory after writing or forgetting.

    Attributes:
        network: a changed copy.
        latents_NL: of the images that the memory holds now.
        mse: error per pixel of the written images, decoded from their latents; None without any.
        old_change: mean squared change per pixel of the other images, decoded from their latents.
        errors_N: mean squared error per pixel of all images; None where it was not known before.
        room: how many of the written images the memory had room for.
    """

    network: Network
    latents_NL: Tensor
    mse: float | None
    old_change: float
    errors_N: Tensor | None = None
    room: int = 0


def write(
    network: Network,
    latents_NL: Tensor,
    data_BD: Tensor,
    seed: int,
    errors_N: Tensor | None = None,
) -> EditedMemory:
    """Return the memory with images added.

    Args:
        errors_N: of the images that are stored already.

    Raises:
        RecipeError: a data layer that is not dense and linear.
    """
    _require_linear_data(network)
    count = len(latents_NL)
    room = min(len(data_BD), max(0, network.sizes[1] - count))
    changed = network.to(latents_NL.device, latents_NL.dtype)
    old_ND = network.decode(latents_NL)
    all_ML = torch.cat([latents_NL, free_latents(latents_NL, room, seed)])
    target_MD = torch.cat([old_ND, data_BD])
    if room:
        _move(changed, all_ML, target_MD[: len(all_ML)] - changed.decode(all_ML))
    if room < len(data_BD):
        all_ML = torch.cat([all_ML, _inferred(changed, data_BD[room:])])
        _move(changed, all_ML, target_MD - changed.decode(all_ML))
    squared_M = (changed.decode(all_ML) - target_MD).square().mean(1)
    if errors_N is not None:
        # At most: an old image's error and its change may add up.
        old_N = (errors_N.sqrt() + squared_M[:count].sqrt()).square()
        errors_N = torch.cat([old_N, squared_M[count:]])
    mean = (float(squared_M[count:].mean()), float(squared_M[:count].mean()))
    return EditedMemory(changed, all_ML, *mean, errors_N, room)


def _inferred(network: Network, data_BD: Tensor) -> Tensor:
    """Return the latents (B, L) of least energy for whole images."""
    method = prepare(network, InferenceTable(solver="errors"))
    return infer(method, data_BD, steps=_STEPS, tolerance=1e-4).states[-1]


def erase(
    network: Network, latents_NL: Tensor, items: list[int], errors_N: Tensor | None = None
) -> EditedMemory:
    """Return the memory without the images of these numbers (`item`, from 0).

    Raises:
        RecipeError: a data layer that is not dense and linear, or fewer than two other images.
    """
    _require_linear_data(network)
    kept_N = torch.ones(len(latents_NL), dtype=torch.bool, device=latents_NL.device)
    kept_N[items] = False
    if int(kept_N.sum()) < 2:
        raise RecipeError("a memory keeps at least two images", "Delete the file instead")
    changed = network.to(latents_NL.device, latents_NL.dtype)
    before_ND = network.decode(latents_NL)
    target_ND = before_ND.clone()
    target_ND[~kept_N] = before_ND[kept_N].mean(0)
    _move(changed, latents_NL, target_ND - before_ND)
    kept_NL = latents_NL[kept_N]
    change_N = (changed.decode(kept_NL) - before_ND[kept_N]).square().mean(1)
    if errors_N is not None:
        errors_N = (errors_N[kept_N].sqrt() + change_N.sqrt()).square()
    return EditedMemory(changed, kept_NL, None, float(change_N.mean()), errors_N)


def free_latents(latents_NL: Tensor, count: int, seed: int) -> Tensor:
    """Return new latents (B, L) in directions that the stored latents do not use.

    They lie at the mean distance of the stored latents from their mean. When no direction is left,
    a random one is taken.
    """
    mean_L = latents_NL.mean(0)
    centred_NL = (latents_NL - mean_L).double()
    source = generator(seed, "write", len(latents_NL))
    draw_BL = torch.randn(count, latents_NL.shape[1], generator=source, dtype=torch.float64)
    draw_BL = draw_BL.to(centred_NL.device)
    # An orthonormal basis of the directions in use; each new latent adds one.
    basis_LK = _span(centred_NL)
    for i in range(count):
        left_L = draw_BL[i] - basis_LK @ (basis_LK.T @ draw_BL[i])
        if left_L.norm() > _FREE * draw_BL[i].norm():
            draw_BL[i] = left_L - basis_LK @ (basis_LK.T @ left_L)
            unit_L = draw_BL[i] / draw_BL[i].norm()
            basis_LK = torch.cat([basis_LK, unit_L[:, None]], 1)
    directions_BL = draw_BL / draw_BL.norm(dim=1, keepdim=True)
    size = centred_NL.norm(dim=1).mean()
    return mean_L + (directions_BL * size).to(latents_NL)


def _span(centred_NL: Tensor) -> Tensor:
    """Return an orthonormal basis (L, K) of the space that the rows span."""
    _, sizes, rows_KL = torch.linalg.svd(centred_NL, full_matrices=False)
    return rows_KL[sizes > _FREE * sizes[0]].T


def _move(network: Network, latents_NL: Tensor, change_ND: Tensor) -> None:
    """Change the data layer in place, so that the decoded latents change by this much."""
    layer = network.layers[0]
    assert isinstance(layer, Dense)
    regress(layer, change_ND, network.states_from(latents_NL)[1])


def _require_linear_data(network: Network) -> None:
    table = network.table
    linear = table.output == "linear" and table.likelihood == "gaussian" and not table.labels
    if not linear or not isinstance(network.layers[0], Dense) or len(network.inputs[0]) > 1:
        raise RecipeError(
            "only a memory with a dense, linear data layer can be edited",
            "Train it again on all images: pcgen train RECIPE --set learning.memory=true",
        )
