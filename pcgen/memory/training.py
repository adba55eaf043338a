"""Memorising: every image has a latent of its own, carried from epoch to epoch and kept.

The first latents are the images' whitened principal components, turned at random: any two images
are as far apart as any other two, and a mixture of images has a mixture of latents.

By least squares no more images than the last hidden layer has units are exact at once. With more,
the data layer's weights are the regression of the images on the layer above, and this is to span
what the images have most of: the weights above take steps down their own slopes, of errors that
inference leaves at a high precision.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from pcgen.config import Recipe
from pcgen.data.images import Images, Rows, require_ok
from pcgen.device import free_memory, generator
from pcgen.distributed import Group
from pcgen.errors import DataError, OutOfMemoryError, RecipeError
from pcgen.learning.posterior import Drawn
from pcgen.learning.train import Progress, Training, _Found, rate_at
from pcgen.memory.least_squares import fit, fit_precisions, regress, require_dense
from pcgen.model.layers import Dense
from pcgen.model.network import Network
from pcgen.storage.checkpoint import LATENTS

# Root mean square of the first drives: there tanh is nearly linear, and no image's code is lost.
_FIRST_DRIVE = 0.3
# Numbers that least squares keeps of each image at once, per pixel and per unit, a tenth to spare:
# 5,000 images of 12,288 pixels took 3.8 GB at widths of 2048.
_DATA_COPIES = 11
_STATE_COPIES = 10


def network_training(
    network: Network, recipe: Recipe, sample_BD: Tensor, count: int, group: Group | None = None
) -> Training:
    """Return the training of a network that a recipe asks for, of so many images.

    Raises:
        RecipeError: a memory that several processes share, or least squares without a memory.
    """
    table = recipe.learning
    if not table.memory:
        if table.optimiser == "least-squares":
            raise RecipeError(
                "learning.optimiser: least-squares is for a memory",
                "Use --set learning.memory=true",
            )
        return Training(network, recipe, sample_BD, group)
    return MemoryTraining(network, recipe, sample_BD, count, group)


class MemoryTraining(Training):
    """A run that memorises.

    Attributes:
        latents_NL: of every image, in the data's order.
    """

    def __init__(
        self,
        network: Network,
        recipe: Recipe,
        sample_BD: Tensor,
        count: int,
        group: Group | None = None,
    ) -> None:
        """Begin a run of so many images.

        Raises:
            RecipeError: settings under which nothing can be memorised.
            DataError: fewer than two images.
        """
        super().__init__(network, recipe, sample_BD, group)
        if group is not None:
            raise RecipeError("learning.memory: one process memorises", "Start it without torchrun")
        if self.posterior is not None:
            raise RecipeError(
                f"inference.solver: a memory keeps one latent an image, {recipe.inference.solver} "
                "draws many",
                "Use --set inference.solver=errors",
            )
        if network.table.labels:
            raise RecipeError("learning.memory: a latent of an image, not of its label")
        if not isinstance(network.layers[-1], Dense):
            raise RecipeError(
                "learning.memory: a prior is learnt for a latent of units, not a map",
                "Put units on top: --set model.layers=[512,...]",
            )
        if count < 2:
            raise DataError("a memory needs at least two images")
        self.by_least_squares = recipe.learning.optimiser == "least-squares"
        # Then no weights of the data layer are exact, and what stands above it must be learnt too.
        self.is_overfull = self.by_least_squares and count > network.sizes[1]
        if self.by_least_squares:
            require_dense(network)
            _require_one_batch(recipe, count)
        self.latents_NL = network.layers[0].weight.new_zeros(count, network.sizes[-1])

    def run(self, images: Images, validation: Images | None) -> Iterator[Progress]:
        """Yield the progress after every batch, from wherever the counters stand.

        Raises:
            RecipeError: held-out images, which would not be memorised.
            PcgenError: what `Training.run` raises.
        """
        if validation is not None:
            raise RecipeError(
                f"data.validation: {len(validation)} images would not be memorised",
                "Use --set data.validation=0",
            )
        self._require_memory(len(images))
        if self.counters["updates"] == 0:
            self.latents_NL.copy_(first_latents(images, self.network, self.recipe.seed))
        yield from super().run(images, None)

    def learn(self, rows: Rows, total_updates: int, whole_B: Tensor | None = None) -> None:
        if self.by_least_squares and self.counters["updates"] == 0:
            # Random weights would draw the latents away from their images' codes.
            self._fit_data(rows)
        super().learn(rows, total_updates, whole_B)
        if self.is_overfull:
            self._fit_data(rows)

    def tensors(self) -> dict[str, Tensor]:
        return super().tensors() | {LATENTS: self.latents_NL}

    def model_tensors(self) -> dict[str, Tensor]:
        return super().model_tensors() | {LATENTS: self.latents_NL}

    def load(self, tensors: dict[str, Tensor], counters: dict[str, int]) -> None:
        super().load(tensors, counters)
        self.latents_NL.copy_(tensors[LATENTS])

    def _latents(self, rows: Rows) -> Tensor:
        return self.latents_NL[rows.index_B.to(self.latents_NL.device)]

    def _fit_data(self, rows: Rows) -> None:
        """Fit the data layer to what the latents predict of the layer above it."""
        layer, latents = self.network.layers[0], self._latents(rows)
        assert isinstance(layer, Dense)
        states = self.network.states_from(latents, rows.pixels_BD.to(latents))
        terms = self.network.energies()[0].terms(states[0], self.network.drive(0, states), None)
        regress(layer, terms.signal_BD / self.network.energies()[0].bound(), states[1])

    def _update(self, found: _Found | Drawn, count: int, total_updates: int) -> list[Tensor] | None:
        if self.is_overfull:
            self._step_hidden(found, total_updates)
        elif self.by_least_squares:
            self.counters["updates"] += 1
            fit(self.network, found.states, found.terms)
        else:
            super()._update(found, count, total_updates)
        precision = self.recipe.model.precision
        # So few images leave so little error that steps of a fixed rate would never get there.
        if precision.learned and self.counters["epoch"] >= precision.warmup:
            fit_precisions(self.network, found.states, found.terms, precision.floor)
        return None

    def _step_hidden(self, found: _Found | Drawn, total_updates: int) -> None:
        """Step the weights above the data layer's down their own slopes."""
        rate = rate_at(self.recipe.learning, self.counters["updates"], total_updates)
        self.counters["updates"] += 1
        for i, layer in enumerate(self.network.layers[1:], start=1):
            slopes = layer.gradients(found.terms[i].signal_BD, found.states[i + 1])
            for tensor, slope in zip((layer.weight, layer.bias), slopes, strict=True):
                assert tensor is not None
                tensor.grad = slope
        self.optimiser.param_groups[0]["lr"] = rate
        self.optimiser.step()

    def _require_memory(self, count: int) -> None:
        """Let so many images pass that least squares can hold at once.

        Raises:
            OutOfMemoryError: more; it says how many fit.
        """
        free = free_memory(self.latents_NL.device)
        data, *above = self.network.sizes
        each = 4 * (_DATA_COPIES * data + _STATE_COPIES * sum(above))
        if self.by_least_squares and free is not None and each * count > free:
            raise self._fits_only(count, free // each)

    def _fits_only(self, count: int, fits: int) -> OutOfMemoryError:
        said = f"{count} images do not fit into the memory"
        if fits < 2:
            return OutOfMemoryError(said, "Use --set data.size=[32,32]")
        return OutOfMemoryError(f"{said}, {fits} do", f"Use --set data.limit={fits}")

    def _take_in(self, found: _Found | Drawn, whole_B: Tensor) -> tuple[float, float]:
        self.latents_NL[whole_B.to(self.latents_NL.device)] = found.states[-1]
        return super()._take_in(found, whole_B)

    def _too_large(self, rows: Rows, count: int) -> OutOfMemoryError:
        error = super()._too_large(rows, count)
        if self.by_least_squares and "batch_size=" in error.hint:
            return self._fits_only(count, int(error.hint.rpartition("=")[2]))
        return error


def _require_one_batch(recipe: Recipe, count: int) -> None:
    if recipe.learning.batch_size < count:
        raise RecipeError(
            f"learning.batch_size: least-squares learns from all {count} images at once",
            f"Use --set learning.batch_size={count}",
        )


def first_latents(images: Images, network: Network, seed: int) -> Tensor:
    """Return a first latent for every image (N, D_latent).

    Raises:
        DataError: an image that cannot be read.
    """
    from sklearn.decomposition import PCA

    rows = images.rows(range(len(images)))
    require_ok(rows, images)
    units = network.sizes[-1]
    count = min(units, len(images) - 1, rows.pixels_BD.shape[1])
    analysis = PCA(count, whiten=True, random_state=0)
    whitened_NK = torch.from_numpy(analysis.fit_transform(rows.pixels_BD.numpy()))
    turn = torch.randn(units, units, generator=generator(seed, "codes"), dtype=torch.float64)
    codes_NL = whitened_NK.double() @ torch.linalg.qr(turn).Q[:count]
    # Weights of variance 1 / units make drives as large as the latents.
    size = codes_NL.square().mean().sqrt()
    return (codes_NL * (_FIRST_DRIVE / max(float(size), math.ulp(1.0)))).to(torch.float32)
