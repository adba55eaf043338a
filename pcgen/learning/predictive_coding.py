"""Predictive coding: infer the states of a batch, then step the weights by local gradients."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from pcgen.config import Recipe
from pcgen.data.images import Images, Rows
from pcgen.device import generator
from pcgen.distributed import Group
from pcgen.errors import RecipeError, is_out_of_memory
from pcgen.inference.solvers import Method, prepare
from pcgen.inference.states import Inference
from pcgen.learning.gradients import precision_gradients, weight_gradients
from pcgen.learning.latent_regression import StartRegression, of_least_energy
from pcgen.learning.mixture_em import fit_classes, step_mixture
from pcgen.learning.optimiser import PrecisionSteps, WeightSteps
from pcgen.learning.posterior import Drawn, PosteriorLearning
from pcgen.learning.train import Batch, Learner
from pcgen.learning.upward import UpwardLearning
from pcgen.learning.validate import measure
from pcgen.model.energy import Terms
from pcgen.model.network import Network


@dataclass(frozen=True, slots=True)
class Equilibrium:
    """The end of a batch's inference, at the weights that it was inferred with."""

    states: list[Tensor]
    terms: list[Terms]
    energy_B: Tensor

    @classmethod
    def of(cls, inference: Inference) -> Equilibrium:
        return cls(inference.states, inference.terms, inference.energy_B)


class PredictiveCoding(Learner):
    """Learns from the states of least energy or, where the solver is a sampler, from drawn ones.

    Attributes:
        start: the regression behind the linear start of the latent, where the recipe has one.
        posterior: the chains that draw the states, where the solver is a sampler.
        upward: the steps of the upward chain, where the recipe has one.
        prepared: the solver at the weights for which it was prepared last.
        kept_NL: where each image's latent ended; empty where the recipe does not keep it.
    """

    network: Network

    def __init__(self, network: Network, recipe: Recipe, sample_BD: Tensor) -> None:
        """Begin with a new network.

        Args:
            network: on the device to train on.
            sample_BD: data whose mean and covariance stand for all, from `initial.sample`.

        Raises:
            RecipeError: settings that do not go together.
        """
        super().__init__(network, recipe)
        self.weights = WeightSteps(network.downward_weights(), recipe.learning)
        self.precisions = PrecisionSteps(network.log_precisions[:-1], recipe.model.precision)
        self.start: StartRegression | None = None
        if network.start is not None:
            self.start = StartRegression(network, sample_BD.to(network.start))
        self.kept_NL = network.layers[0].weight.new_zeros(0, network.sizes[network.latent])
        self.prepared: Method | None = None
        self.upward: UpwardLearning | None = None
        if network.upward is not None:
            self.upward = UpwardLearning(network.upward, recipe)
        self.posterior: PosteriorLearning | None = None
        if recipe.inference.draws:
            self.posterior = PosteriorLearning(network, recipe)
        elif recipe.model.causes > 1 and not self.is_taken_over:
            raise RecipeError(
                "model.causes: a mixture is learned from chains",
                "Use --set inference.solver=kinetic --set inference.sampling.persistent=true",
            )

    @property
    def is_taken_over(self) -> bool:
        """Return whether the downward chain is that of a trained model, and stays."""
        return bool(self.recipe.learning.downward)

    def begin(self, images: Images, validation: Images | None) -> None:
        if self.posterior is not None:
            self.posterior.hold(len(images))
        if self.recipe.inference.keep_latents and not len(self.kept_NL):
            self.kept_NL = self.kept_NL.new_zeros(len(images), self.kept_NL.shape[1])

    def learn(self, batch: Batch) -> tuple[float, float]:
        data_BD = batch.rows.pixels_BD.to(self.network.layers[0].weight)
        sums: list[Tensor] = []
        for states, is_last in self._inferred(data_BD, batch):
            sums = self.update(states, batch, self._contributions(states, batch) if is_last else [])
            if is_last and self.upward is not None:
                latent_BD = states.states[self.network.latent]
                whole = self.updates_of_run(batch)
                self.upward.learn(batch, data_BD, latent_BD, self.updates - 1, whole)
        numbers, latent_BD, *rest = sums
        self.network.typical_latents[: len(latent_BD)] = latent_BD
        if self.start is not None:
            self.start.take_in(rest.pop(0), len(batch), self.updates)
        if self.posterior is not None:
            self.posterior.take_in(batch.whole_B, rest.pop(0))
        if len(self.kept_NL):
            self.kept_NL[batch.whole_B.to(self.kept_NL.device)] = rest.pop(0)
        energy, squared = numbers.tolist()
        return energy + len(batch) * float(self.network.log_det()), squared

    def first_latents(self, rows: Rows) -> Tensor | None:
        """Return where the rows' latents start (B, D_latent); None for the network's own start."""
        table = self.recipe.inference
        if table.starts == [1.0] and not table.keep_latents:
            return None
        if self.is_taken_over and table.keep_latents:
            # No weights have changed since, and so no other start is better.
            return self.kept_NL[rows.index_B.to(self.kept_NL.device)]
        data_BD = rows.pixels_BD.to(self.network.layers[0].weight)
        whole_BD = self.network.start_latent(data_BD)
        starts = [share * whole_BD for share in table.starts]
        if table.keep_latents:
            starts.append(self.kept_NL[rows.index_B.to(self.kept_NL.device)])
        return of_least_energy(self.network, data_BD, starts)

    def update(
        self, states: Equilibrium | Drawn, batch: Batch, contributions: list[Tensor]
    ) -> list[Tensor]:
        """Step the weights and precisions; return the contributions summed over all processes."""
        if self.is_taken_over:
            self.updates += 1
            return batch.sum(contributions)
        learned = self.precisions.are_learned(batch.epoch)
        gradients = self._gradients(states, learned)
        share = len(batch.own) / len(batch)
        present = [gradient for gradient in gradients if gradient is not None]
        if share != 1:
            present = [gradient * share for gradient in present]
        sums = batch.sum([*present, *contributions])
        whole = iter(sums)
        gradients = [None if gradient is None else next(whole) for gradient in gradients]
        count = len(self.weights.weights)
        self.weights.step(gradients[:count], self.updates, self.updates_of_run(batch))
        if self.recipe.learning.max_norm:
            self.network.limit_norms(self.recipe.learning.max_norm)
        self.updates += 1
        if learned:
            self.precisions.step(gradients[count:])
        return list(whole)

    def end_epoch(self, images: Images, epoch: int) -> None:
        """Move the components of a mixture prior to the latents of the chains.

        After the last epoch, also fit the mixture of each class.
        """
        mixture, posterior = self.network.mixture, self.posterior
        if mixture is None or posterior is None or self.is_taken_over:
            return
        if epoch < self.recipe.learning.causes_warmup:
            return
        labels = images.labels if len(mixture.log_weights_YK) > 1 else None
        latents_NL, source = posterior.ends_NK[:, :-1], generator(self.recipe.seed, "causes")
        step_mixture(mixture, latents_NL, labels, source)
        if labels is not None and epoch == self.recipe.learning.epochs - 1:
            fit_classes(mixture, latents_NL, labels, source)

    def described(
        self, second: float, images: Images | None, group: Group | None
    ) -> dict[str, Any]:
        if images is None:
            return {"mse": second}
        metrics = measure(self.network, images, self.recipe.inference, group)
        return {"mse": second, "validation": metrics}

    def fits(self, data_BD: Tensor) -> bool:
        self.weights.release()
        try:
            if self.network.layers[0].weight.is_cuda:
                torch.cuda.empty_cache()
            data_BD = data_BD.to(self.network.layers[0].weight.device)
            table = self.recipe.inference
            inference = prepare(self.network, table).begin(data_BD, steps=table.steps)
            # As large as what the optimiser's first step allocates.
            weights = self.weights.weights
            held = [] if self.updates else [torch.empty_like(w) for w in weights * 2]
            held += weight_gradients(self.network, inference.states, inference.terms)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            return False
        return True

    def tensors(self) -> dict[str, Tensor]:
        named = dict(super().tensors())
        for part in (self.start, self.upward, self.posterior, self.weights, self.precisions):
            named |= {} if part is None else part.tensors()
        return named | ({"kept_latents": self.kept_NL} if len(self.kept_NL) else {})

    def load(self, tensors: dict[str, Tensor]) -> None:
        super().load(tensors)
        for part in (self.start, self.upward, self.posterior, self.weights, self.precisions):
            if part is not None:
                part.load(tensors)
        if self.recipe.inference.keep_latents:
            self.kept_NL = tensors["kept_latents"].to(self.kept_NL)

    def _inferred(
        self, data_BD: Tensor, batch: Batch
    ) -> Iterator[tuple[Equilibrium | Drawn, bool]]:
        """Yield the states to learn from, and whether they are the batch's last.

        Incremental predictive coding learns after every step of inference, else after the last.
        """
        rows, incremental = batch.rows, self.recipe.learning.incremental
        labels_BK = clamped_labels(self.network, rows.labels_B)
        if self.posterior is not None:
            yield self.posterior.draw(data_BD, rows, labels_BK, self.updates), True
            return
        steps = self.recipe.steps_in(batch.epoch + 1)
        inference = self._method(reduced=not incremental).begin(
            data_BD,
            latent_BD=self.first_latents(rows),
            steps=0 if incremental else steps,
            labels_BK=labels_BK,
            guided=False,
        )
        if not incremental:
            yield Equilibrium.of(inference), True
            return
        for step in range(1, steps + 1):
            inference.step()
            yield Equilibrium.of(inference), step == steps
            if step < steps:
                inference.refresh()

    def _method(self, *, reduced: bool) -> Method:
        """Return the solver, prepared for the present weights; those taken over never change."""
        if self.prepared is None or not self.is_taken_over:
            self.prepared = prepare(self.network, self.recipe.inference, reduced=reduced)
        return self.prepared

    def _gradients(self, states: Equilibrium | Drawn, learned: bool) -> list[Tensor | None]:
        """Return the mean gradients of the weights and, where they learn, of the precisions."""
        if isinstance(states, Drawn):
            return [*states.weights, *(states.precisions if learned else [])]
        gradients = [*weight_gradients(self.network, states.states, states.terms)]
        if not learned:
            return [*gradients]
        return [*gradients, *precision_gradients(self.network, states.states, states.terms)]

    def _contributions(self, states: Equilibrium | Drawn, batch: Batch) -> list[Tensor]:
        """Return this process's part of everything that is summed over a batch.

        The sums of energy and squared error, latents for `typical_latents`, then the parts of the
        start regression and of the chains, where there are any.
        """
        own = len(batch.own)
        data_BD, latent_BD = states.states[0], states.states[self.network.latent]
        squared_B = (data_BD - states.terms[0].prediction_BD).square().mean(1)
        numbers = [column_B[:own].double().sum() for column_B in (states.energy_B, squared_B)]
        kept = min(len(batch), len(self.network.typical_latents))
        parts = [torch.stack(numbers), batch.placed(latent_BD)[:kept]]
        if self.start is not None:
            parts.append(self.start.sums(data_BD[:own], latent_BD[:own]))
        if isinstance(states, Drawn):
            parts.append(batch.placed(states.ends_BK))
        if len(self.kept_NL):
            parts.append(batch.placed(latent_BD))
        return parts


def clamped_labels(network: Network, labels_B: Tensor | None) -> Tensor | None:
    """Return the classes, one-hot (B, K), to which a network clamps its label layer, if any."""
    if not network.table.labels:
        return None
    assert labels_B is not None
    one_hot_BK = functional.one_hot(labels_B, network.sizes[-1])
    return one_hot_BK.to(network.layers[0].weight)
