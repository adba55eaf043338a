"""Memorising: every image has a latent of its own, which is carried from epoch to epoch and kept.

The first latents are the images' whitened principal components in a random rotation. Any two images
then have latents equally far apart, and a mixture of images has the same mixture of latents.

Least squares stores as many images exactly as the last hidden layer has units. With more images,
every layer's regression leaves an error; one linear layer has the least, that of principal
components.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pcgen.config import Recipe
from pcgen.data.images import Images, Rows, require_readable
from pcgen.device import free_memory, generator
from pcgen.distributed import Group
from pcgen.errors import DataError, OutOfMemoryError, RecipeError
from pcgen.learning.posterior import Drawn
from pcgen.learning.predictive_coding import Equilibrium, PredictiveCoding
from pcgen.learning.train import Batch
from pcgen.memory.least_squares import fit, fit_precisions, regress, require_dense
from pcgen.memory.rounding import in_float16
from pcgen.model.layers import Dense
from pcgen.model.network import Network
from pcgen.storage.checkpoint import LATENTS, MEMORY_ERRORS

# Root mean square of the first drives: there tanh is nearly linear, and no image's code is lost.
_FIRST_DRIVE = 0.3
# Least squares keeps so many numbers per pixel and per unit of each image at once, with a tenth to
# spare: 5,000 images of 12,288 pixels took 3.8 GB at widths of 2048.
_DATA_COPIES = 11
_STATE_COPIES = 10


def learner_of(
    network: Network, recipe: Recipe, sample_BD: Tensor, count: int, group: Group | None = None
) -> PredictiveCoding:
    """Return the learner that a recipe asks for, of so many images.

    Raises:
        RecipeError: a memory that several processes share; least squares or float16 without a
            memory.
    """
    learning = recipe.learning
    if not learning.memory:
        if learning.optimiser == "least-squares":
            raise RecipeError(
                "learning.optimiser: least-squares is for a memory",
                "Use --set learning.memory=true",
            )
        if learning.stored_type != "float32":
            raise RecipeError(
                f"learning.stored_type: only a memory is stored in {learning.stored_type}",
                "Use --set learning.memory=true",
            )
        return PredictiveCoding(network, recipe, sample_BD)
    if group is not None:
        raise RecipeError("learning.memory: one process memorises", "Start it without torchrun")
    return Memorising(network, recipe, sample_BD, count)


class Memorising(PredictiveCoding):
    """Predictive coding that keeps the latent of every image.

    Attributes:
        latents_NL: of every image, in the data's order.
        errors_N: mean squared error per pixel of every image, when its latent was last inferred.
        by_least_squares: whether each layer's weights are a regression instead of a gradient step.
    """

    def __init__(self, network: Network, recipe: Recipe, sample_BD: Tensor, count: int) -> None:
        """Begin with a new network, for so many images.

        Raises:
            RecipeError: settings under which nothing can be memorised.
            DataError: fewer than two images.
        """
        super().__init__(network, recipe, sample_BD)
        _require_latents_to_keep(network, recipe)
        if count < 2:
            raise DataError("a memory needs at least two images")
        self.by_least_squares = recipe.learning.optimiser == "least-squares"
        if self.by_least_squares:
            require_dense(network)
            if recipe.learning.batch_size < count:
                raise RecipeError(
                    f"learning.batch_size: least-squares learns from all {count} images at once",
                    f"Use --set learning.batch_size={count}",
                )
        self.latents_NL = network.layers[0].weight.new_zeros(count, network.sizes[-1])
        self.errors_N = self.latents_NL.new_zeros(count)

    def begin(self, images: Images, validation: Images | None) -> None:
        if validation is not None:
            raise RecipeError(
                f"data.validation: {len(validation)} images would not be memorised",
                "Use --set data.validation=0",
            )
        self._require_memory(len(images))
        if self.updates == 0:
            self.latents_NL.copy_(first_latents(images, self.network, self.recipe.seed))

    def learn(self, batch: Batch) -> tuple[float, float]:
        if self.by_least_squares and self.updates == 0:
            # Random weights would draw the latents away from their images' codes.
            self._fit_data(batch.rows)
        return super().learn(batch)

    def first_latents(self, rows: Rows) -> Tensor:
        return self.latents_NL[rows.index_B.to(self.latents_NL.device)]

    def update(
        self, states: Equilibrium | Drawn, batch: Batch, contributions: list[Tensor]
    ) -> list[Tensor]:
        if not self.by_least_squares:
            contributions = super().update(states, batch, contributions)
        else:
            fit(self.network, states.states, states.terms)
            self.updates += 1
        # So few images leave so little error that steps of a fixed rate would never get there.
        if self.precisions.are_learned(batch.epoch):
            floor = self.recipe.model.precision.floor
            fit_precisions(self.network, states.states, states.terms, floor)
        rows_B = batch.whole_B.to(self.latents_NL.device)
        self.latents_NL[rows_B] = states.states[-1]
        error_BD = states.states[0] - states.terms[0].prediction_BD
        self.errors_N[rows_B] = error_BD.square().mean(1)
        return contributions

    def out_of_memory(self, count: int, largest: int) -> OutOfMemoryError:
        if self.by_least_squares and largest:
            return _fits_only(count, largest)
        return super().out_of_memory(count, largest)

    def tensors(self) -> dict[str, Tensor]:
        return super().tensors() | self._stored()

    def model_tensors(self) -> dict[str, Tensor]:
        tensors = super().model_tensors() | self._stored()
        is_half = self.recipe.learning.stored_type == "float16"
        return in_float16(self.network, tensors) if is_half else tensors

    def load(self, tensors: dict[str, Tensor]) -> None:
        super().load(tensors)
        for name, tensor in self._stored().items():
            # A run of an older version has no errors.
            tensor.copy_(tensors.get(name, tensor))

    def _stored(self) -> dict[str, Tensor]:
        return {LATENTS: self.latents_NL, MEMORY_ERRORS: self.errors_N}

    def _fit_data(self, rows: Rows) -> None:
        """Fit the data layer to the layer above it as the latents predict it."""
        layer, latents_BL = self.network.layers[0], self.first_latents(rows)
        assert isinstance(layer, Dense)
        states = self.network.states_from(latents_BL, rows.pixels_BD.to(latents_BL))
        energy = self.network.energies()[0]
        terms = energy.terms(states[0], self.network.drive(0, states), None)
        regress(layer, terms.signal_BD / energy.bound(), states[1])

    def _require_memory(self, count: int) -> None:
        """Raise OutOfMemoryError if least squares cannot hold so many images at once.

        The error says how many fit.
        """
        free = free_memory(self.latents_NL.device)
        data, *above = self.network.sizes
        each = 4 * (_DATA_COPIES * data + _STATE_COPIES * sum(above))
        if self.by_least_squares and free is not None and each * count > free:
            raise _fits_only(count, free // each)


def _fits_only(count: int, largest: int) -> OutOfMemoryError:
    message = f"{count} images do not fit into the memory"
    if largest < 2:
        return OutOfMemoryError(message, "Use --set data.size=[32,32]")
    return OutOfMemoryError(f"{message}, {largest} do", f"Use --set data.limit={largest}")


def _require_latents_to_keep(network: Network, recipe: Recipe) -> None:
    """Raise RecipeError unless the network has one dense latent for each image."""
    if recipe.inference.draws:
        raise RecipeError(
            f"inference.solver: a memory keeps one latent an image, {recipe.inference.solver} "
            "draws many",
            "Use --set inference.solver=errors",
        )
    if recipe.inference.keep_latents:
        raise RecipeError("inference.keep_latents: a memory keeps the latents in any case")
    if network.table.labels:
        raise RecipeError("learning.memory: a latent of an image, not of its label")
    if not isinstance(network.layers[-1], Dense):
        raise RecipeError(
            "learning.memory: a prior is learnt for a latent of units, not a map",
            "Put units on top: --set model.layers=[512,...]",
        )


def first_latents(images: Images, network: Network, seed: int) -> Tensor:
    """Return a first latent for every image (N, D_latent).

    Raises:
        DataError: an image that cannot be read.
    """
    from sklearn.decomposition import PCA

    rows = images.rows(range(len(images)))
    require_readable(rows, images)
    units = network.sizes[-1]
    count = min(units, len(images) - 1, rows.pixels_BD.shape[1])
    analysis = PCA(count, whiten=True, random_state=0)
    whitened_NK = torch.from_numpy(analysis.fit_transform(rows.pixels_BD.numpy()))
    turn = torch.randn(units, units, generator=generator(seed, "codes"), dtype=torch.float64)
    codes_NL = whitened_NK.double() @ torch.linalg.qr(turn).Q[:count]
    # Weights of variance 1 / units make drives as large as the latents.
    size = codes_NL.square().mean().sqrt()
    return (codes_NL * (_FIRST_DRIVE / max(float(size), math.ulp(1.0)))).to(torch.float32)
