"""Memories that keep equally many bytes: weights, latents, codes or thumbnails, as they are stored.

The patches' numbers are kept at the length of their code, all others in 8 bits, with a scale for
each column in 32. Nearest neighbour finds the kept image with the least squared distance over the
visible pixels.
"""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import msgspec
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

from pcgen.benchmarks.baselines import train_autoencoder
from pcgen.benchmarks.memory.benchmark import Cell, StoredSet, Values, errors_of, memorised
from pcgen.benchmarks.memory.lookups import Hopfield, principal_memory
from pcgen.benchmarks.table import Tell
from pcgen.config import Recipe
from pcgen.data.images import Shape
from pcgen.memory.corruptions import Corruption, Cues
from pcgen.memory.patch_memory import PatchMemory
from pcgen.memory.recall import (
    COMPLETION_VARIANCE,
    LEAST_NOISE,
    SPREAD,
    UNLIKELY,
    Memory,
    Prior,
    recall,
)

# The backprop autoencoder: images of a batch, updates, learning rate.
_BATCH, _UPDATES, _RATE = 100, 1000, 1e-3
# Stored images, at most, whose cues are recalled. The stored images are in random order.
_CUES = 500
# Components, at most, of the Gaussian prior that completes.
_COMPONENTS = 512
# Nearest kept images whose mean completes a cue.
_NEAREST = 10
# Sides of a JPEG thumbnail that are tried, as shares of the image's.
_SIDES = (1.0, 0.75, 0.5)
# Images with which the quality is sought.
_SOUGHT = 500


@dataclass(frozen=True, slots=True)
class Result:
    """The images (B, D) that a memory restores.

    Attributes:
        item_B: numbers of the stored images.
        misfit_B: the larger, the less the memory knows the cue.
        steps: mean gradient evaluations.
    """

    images_BD: Tensor
    item_B: Tensor
    misfit_B: Tensor
    steps: float = 1.0


Method = tuple[str, str, int, Callable[[Cues], Result]]
"""A memory's name, its note, its bytes, and its recall."""


def equal_byte_rows(
    recipe: Recipe,
    sets: Sequence[StoredSet],
    made: dict[str, Corruption],
    share: float,
    tell: Tell = lambda stage, done, total: None,
) -> Iterator[dict[str, object]]:
    """Yield the rows of all memories that keep a share of the images' 8-bit bytes.

    Args:
        sets: one for each seed.
    """
    cells: dict[tuple[str, str], Cell] = {}
    for one in sets:
        count = len(one.stored_ND)
        budget = int(share * one.stored_ND.numel())
        began = time.monotonic()
        for name, note, size, method in _methods(recipe, one, budget, tell):
            training = time.monotonic() - began
            for word, corruption in made.items():
                cell = cells.setdefault(
                    (name, word), Cell(count, None, word, name, note, data=one.stored.source)
                )
                cell.bytes = size
                cell.seeds.append(_measured(method, one, corruption) | {"training": training})
            began = time.monotonic()
    yield from (cell.row() for cell in cells.values())


def _measured(method: Callable[[Cues], Result], one: StoredSet, corruption: Corruption) -> Values:
    from sklearn.metrics import roc_auc_score

    cues, other = one.cues(corruption, _CUES)
    began = time.monotonic()
    found = method(cues)
    seconds = (time.monotonic() - began) / len(found.images_BD)
    right = found.item_B == torch.arange(len(found.item_B))
    values = errors_of(found.images_BD, one.stored_ND[: len(right)], cues) | {
        "item": right.double().mean().item(),
        "seconds": seconds,
        "steps": found.steps,
    }
    if len(one.other_BD):
        unseen = method(other)
        values["unseen"] = errors_of(unseen.images_BD, one.other_BD, other)["mse_hidden"]
        misfits = torch.cat([found.misfit_B, unseen.misfit_B]).numpy()
        is_unseen = [0] * len(found.misfit_B) + [1] * len(unseen.misfit_B)
        values["auroc"] = float(roc_auc_score(is_unseen, misfits))
    return values


def _methods(recipe: Recipe, one: StoredSet, budget: int, tell: Tell) -> Iterator[Method]:
    images_ND, shape = one.stored_ND, one.stored.shape
    count, pixels = images_ND.shape
    patches = PatchMemory.fit(images_ND, shape, budget)
    content = patches.to_bytes()
    decoded_ND = PatchMemory.from_bytes(content).decode()
    note = f"{patches.kernel_PK.shape[1]} units a patch"
    error_N = (decoded_ND - images_ND).square().mean(1)
    yield "pcn of patches, auto prior", note, len(content), completes(decoded_ND, error_N)
    # A unit or component has 8 bits for each pixel and image, and two scales; the mean has 16 bits.
    units = max(1, min(count - 1, (budget - 2 * pixels) // (pixels + count + 8)))
    size = 2 * pixels + units * (pixels + count + 8)
    own = msgspec.structs.replace(recipe.model, layers=[units])
    learning = msgspec.structs.replace(recipe.learning, epochs=1)
    learner, _ = memorised(
        msgspec.structs.replace(recipe, model=own, learning=learning),
        one.stored,
        None,
        one.seed,
        tell,
    )
    network, latents_NL = learner.network, eight_bits(learner.latents_NL)
    network.layers[0].weight.copy_(eight_bits(network.layers[0].weight))
    memory = Memory.of(network, latents_NL, learner.errors_N)
    priors: tuple[Prior, ...] = ("auto", "groups", "gaussian")
    for prior in priors:
        yield f"pcn {units}, {prior} prior", "ours", size, _recalls(memory, recipe, prior)
    principal = principal_memory(images_ND, units)
    loadings_DK = principal.loadings_DK
    codes_NK = (images_ND - principal.mean_D) @ loadings_DK / loadings_DK.square().sum(0)
    principal = type(principal)(principal.mean_D.half().float(), eight_bits(loadings_DK))
    decoded_ND = principal.mean_D + eight_bits(codes_NK) @ principal.loadings_DK.T
    yield f"pca {units}, nearest code", "components and codes", size, nearest(decoded_ND)
    yield (
        f"pca {units}, exact posterior",
        "components and codes",
        size,
        _posterior(principal.__call__, decoded_ND),
    )
    name, note, size, decoded_ND = _jpeg(images_ND, shape, budget)
    yield f"nearest neighbour, {name}", note, size, nearest(decoded_ND)
    error_N = (decoded_ND - images_ND).square().mean(1)
    yield f"Gaussian over {name}", note, size, completes(decoded_ND, error_N)
    count = min(_NEAREST, len(images_ND))
    yield f"mean of the {count} nearest, {name}", note, size, nearest(decoded_ND, count)
    yield from _thumbnails(images_ND, shape, budget)
    yield _autoencoder(recipe, one, budget)


def eight_bits(matrix: Tensor) -> Tensor:
    """Return a matrix as 8 bits and a scale for each column keep it."""
    scale = matrix.abs().amax(0).clamp_min(1e-30) / 127
    return (matrix / scale).round() * scale


def _recalls(memory: Memory, recipe: Recipe, prior: Prior) -> Callable[[Cues], Result]:
    def method(cues: Cues) -> Result:
        found = recall(memory, cues, recipe.inference, prior=prior)
        steps = found.steps_B.double().mean().item()
        return Result(found.images_BD, found.item_B, found.energy_B, steps)

    return method


def nearest(decoded_ND: Tensor, count: int = 1) -> Callable[[Cues], Result]:
    """Return the recall of the mean of the kept images that are nearest over the visible pixels."""
    hopfield = Hopfield(decoded_ND, "l2")

    def method(cues: Cues) -> Result:
        items_BK = hopfield.items(cues, count)
        images_BD = torch.stack([decoded_ND[items_K].mean(0) for items_K in items_BK])
        item_B = items_BK[:, 0]
        return Result(images_BD, item_B, _misfit(decoded_ND[item_B], cues))

    return method


def completes(decoded_ND: Tensor, error_N: Tensor) -> Callable[[Cues], Result]:
    """Return the recall of the nearest kept image; unknown cues are completed.

    That is the image of least energy under the look-up prior, where the data layer is linear. The
    Gaussian prior of completion is fitted to the kept images, and takes no bytes of its own.
    """
    look_up = nearest(decoded_ND)
    gaussian = principal_memory(decoded_ND, _COMPONENTS)

    def method(cues: Cues) -> Result:
        found = look_up(cues)
        variance_B = max(cues.noise, LEAST_NOISE) ** 2 + SPREAD * error_N[found.item_B]
        half_B = 0.5 * cues.visible_BD.sum(1)
        chance_B = torch.special.gammaincc(half_B, 0.5 * found.misfit_B / variance_B)
        unknown_B = chance_B < UNLIKELY
        if unknown_B.any() and not cues.visible_BD.all():
            some = replace(
                cues, pixels_BD=cues.pixels_BD[unknown_B], visible_BD=cues.visible_BD[unknown_B]
            )
            found.images_BD[unknown_B] = gaussian(some, COMPLETION_VARIANCE**0.5)
        return found

    return method


def _posterior(expected: Callable[[Cues], Tensor], decoded_ND: Tensor) -> Callable[[Cues], Result]:
    def method(cues: Cues) -> Result:
        images_BD = expected(cues)
        item_B = torch.cdist(images_BD, decoded_ND).argmin(1)
        return Result(images_BD, item_B, _misfit(images_BD, cues))

    return method


def _misfit(images_BD: Tensor, cues: Cues) -> Tensor:
    return ((images_BD - cues.pixels_BD).square() * cues.visible_BD).sum(1)


def _jpeg(images_ND: Tensor, shape: Shape, budget: int) -> tuple[str, str, int, Tensor]:
    """Return name, note, bytes and decoded images of JPEG files, at the best side and quality.

    The files' common beginning, which holds their tables, is counted once.
    """
    best: tuple[float, str, int, Tensor] | None = None
    some_ND = images_ND[:_SOUGHT]
    for share in _SIDES:
        side = (round(share * shape[1]), round(share * shape[2]))
        low, high = 1, 95
        while low < high:  # the highest quality that fits some images
            middle = (low + high + 1) // 2
            size = _jpeg_files(some_ND, shape, side, middle)[0]
            fits = size * len(images_ND) <= budget * len(some_ND)
            low, high = (middle, high) if fits else (low, middle - 1)
        quality = low if len(some_ND) == len(images_ND) else low + 1
        while (files := _jpeg_files(images_ND, shape, side, quality))[0] > budget and quality > 1:
            quality -= 1
        size, decoded_ND = files
        error = (decoded_ND - images_ND).square().mean().item()
        if best is None or (size <= budget and error < best[0]):
            best = (error, f"JPEG {side[0]}x{side[1]} quality {quality}", size, decoded_ND)
    assert best is not None
    return best[1], "thumbnails", best[2], best[3]


def _jpeg_files(
    images_ND: Tensor, shape: Shape, side: tuple[int, int], quality: int
) -> tuple[int, Tensor]:
    """Return the bytes of all files and the decoded images (N, D)."""
    files, decoded = [], []
    mode = "L" if shape[0] == 1 else "RGB"
    for image_CHW in _resized(images_ND, shape, side).reshape(-1, shape[0], *side):
        grey = (255 * image_CHW).round().clamp(0, 255).byte().permute(1, 2, 0).squeeze(2).numpy()
        file = io.BytesIO()
        Image.fromarray(grey, mode).save(file, "JPEG", quality=quality)
        files.append(file.getvalue())
        pixels = torch.frombuffer(
            bytearray(Image.open(file).convert(mode).tobytes()), dtype=torch.uint8
        )
        decoded.append(pixels.view(*side, shape[0]).permute(2, 0, 1).reshape(-1).float() / 255)
    pairs = zip(min(files), max(files), strict=False)
    shared = next((i for i, (a, b) in enumerate(pairs) if a != b), 0)
    whole = _resized(torch.stack(decoded), (shape[0], *side), shape[1:])
    return shared + sum(len(file) - shared for file in files), whole


def _resized(images_ND: Tensor, shape: Shape, side: Sequence[int]) -> Tensor:
    if tuple(shape[1:]) == tuple(side):
        return images_ND
    images = images_ND.reshape(-1, *shape)
    return interpolate(images, tuple(side), mode="bilinear", antialias=True).clamp(0, 1).flatten(1)


def _thumbnails(images_ND: Tensor, shape: Shape, budget: int) -> Iterator[Method]:
    """Yield the Hopfield networks over thumbnails in 8 bits."""
    each = budget / len(images_ND) / shape[0]
    scale = min(1.0, (each / (shape[1] * shape[2])) ** 0.5)
    side = (max(1, int(scale * shape[1])), max(1, int(scale * shape[2])))
    small_NP = (255 * _resized(images_ND, shape, side)).round() / 255
    decoded_ND = _resized(small_NP, (shape[0], *side), shape[1:])
    note = f"thumbnails {side[0]}x{side[1]}"
    yield "universal Hopfield, L2, max", note, small_NP.numel(), nearest(decoded_ND)
    l1 = Hopfield(decoded_ND, "l1")
    yield "universal Hopfield, L1, max", note, small_NP.numel(), _posterior(l1, decoded_ND)
    soft = Hopfield(decoded_ND, "dot", 1.0)
    yield "modern Hopfield, dot, softmax", note, small_NP.numel(), _posterior(soft, decoded_ND)


def _autoencoder(recipe: Recipe, one: StoredSet, budget: int) -> Method:
    """Return the nearest of the codes that a backprop autoencoder decodes."""
    count, pixels = one.stored_ND.shape
    # Units m for which m^2 + m (pixels + images + 16) + 4 pixels are the bytes.
    each, left = pixels + count + 16, max(0, budget - 4 * pixels)
    units = max(1, int((each**2 + 4 * left) ** 0.5 - each) // 2)
    learning = msgspec.structs.replace(
        recipe.learning, batch_size=_BATCH, optimiser="adamw", memory=False, warmup=0
    )
    own = msgspec.structs.replace(
        recipe,
        model=msgspec.structs.replace(recipe.model, layers=[units, units]),
        learning=learning,
    )
    epochs = max(1, round(_UPDATES / math.ceil(count / _BATCH)))
    with torch.enable_grad():
        model, _ = train_autoencoder(
            own, one.stored, one.stored, epochs, torch.device("cpu"), _RATE
        )
    encoder, decoder = model[0], model[1]  # type: ignore[index]
    codes_NK = eight_bits(encoder(one.stored_ND))
    size = codes_NK.numel() + 4 * units
    for tensor in decoder.state_dict().values():
        size += tensor.numel() * (1 if tensor.ndim == 2 else 4)
        if tensor.ndim == 2:
            tensor.copy_(eight_bits(tensor))
            size += 4 * tensor.shape[1]
    note = f"{epochs} epochs"
    return f"backprop autoencoder {units}, nearest code", note, size, nearest(decoder(codes_NK))
