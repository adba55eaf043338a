"""The scores of a predictive coding network: fitted to known images, then given to new ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pcgen.config import InferenceTable
from pcgen.data.images import Images, Shape, order
from pcgen.errors import DataError
from pcgen.inference.infer import Equilibrium, infer
from pcgen.inference.solvers import Method, prepare
from pcgen.model.energy import Terms
from pcgen.model.network import Network
from pcgen.ood.scores.cause_scores import CauseScores, LinearTwin, Memory, View, scales_of
from pcgen.ood.scores.experts import Experts, fit_experts
from pcgen.ood.scores.moments import LocalDensity, Normal, neighbour_distance
from pcgen.storage.checkpoint import with_prefix

# Known images that the networks of the classes are fitted to, and values in them, at most
# (256 MiB).
_FITTED = 60_000
_FITTED_VALUES = 2**26
# Known images whose equilibrium is computed, those of them that the layers' energies are fitted
# to, and latents (and values in them) kept for `latent-knn` and for densities, at most.
_INFERRED = 20_000
_LAYERS = 10_000
_KEPT = 4096
# Fewer known images have a memory; from this number on, the density of their latents is a score:
# that of both networks below the second number, else of the linear twin alone.
_DENSE, _FEW = 400, 5000
_KEPT_VALUES = 2**19
_DENSE_VALUES = 5 * 2**16
_BATCH = 500
# A hidden layer must hold this share of the energy to count in `energy-layers`. Where its precision
# is so high that it holds less, rounding changes its energy by a tenth.
_SHARE = 1e-4

PC_SCORES = (
    *("free-energy", "energy-layers", "cause-layers", "cause-direction", "twin-layers"),
    *("class-energy", "class-latent", "class-layers", "delta-energy", "typicality", "latent-knn"),
    *("twin-memory", "latent-density", "twin-density"),
)
"""The scores of a predictive coding network, in the order of their columns."""

_OF_CAUSES = ("cause-layers", "cause-direction", "twin-layers")

COMPONENTS = (*_OF_CAUSES, "class-layers", "twin-density")
"""The scores that `pc-fisher` combines; older detectors lack the last one. Chosen on distorted
validation images, see docs/results/ood-scores.md."""

COMPONENTS_OF_FEW = ("cause-layers", "twin-layers", "latent-density", "twin-density")
ALARMS_OF_FEW = ("cause-layers",)
COMPONENTS_OF_VERY_FEW = ("delta-energy", "class-layers", "twin-memory")
"""The same where few or very few images are known, and those of few that are alarms. Chosen on
left-out classes of training images, see docs/results/ood-scores.md."""


@dataclass(eq=False)
class PCScorer:
    """All scores of one network. The scores of an image depend on that image alone.

    Attributes:
        network: the predictive coding network, without labels clamped.
        table: the settings of inference.
        experts: the linear networks of the classes.
        counted_F: the layers whose energies count in `energy-layers`.
        layers: the Gaussian of the logs of those energies.
        median: of the free energy, nats, ().
        latents: the Gaussian of the latents within a class, which defines their distances.
        known_NL: latents of known images, whitened by that Gaussian.
        shape: of the images, channels, height and width.
        within: what is usual of this network and of its linear twin in each cause. A detector of
            version 0.1.0 has none.
        memory: of the linear twin's latents, for very few known images; else None.
        density: around the known latents; None for very few or many known images.
        twin_density: around the linear twin's latents; None for very few known images.
    """

    network: Network
    table: InferenceTable
    experts: Experts
    counted_F: Tensor
    layers: Normal
    median: Tensor
    latents: Normal
    known_NL: Tensor
    shape: Shape
    within: tuple[CauseScores, CauseScores] | None = None
    memory: Memory | None = None
    density: LocalDensity | None = None
    twin_density: LocalDensity | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Return the score columns."""
        absent = {*(_OF_CAUSES if self.within is None else ())}
        absent |= {"twin-memory"} if self.memory is None else set()
        absent |= {"latent-density"} if self.density is None else set()
        absent |= {"twin-density"} if self.twin_density is None else set()
        return tuple(name for name in PC_SCORES if name not in absent)

    @property
    def components(self) -> tuple[str, ...]:
        """Return the scores that `pc-fisher` combines."""
        if self.twin_density is None:
            return COMPONENTS[:-1] if self.memory is None else COMPONENTS_OF_VERY_FEW
        return COMPONENTS if self.density is None else COMPONENTS_OF_FEW

    @property
    def alarms(self) -> tuple[str, ...]:
        """Return those of them that count only where they are rare among known images."""
        return ALARMS_OF_FEW if self.components == COMPONENTS_OF_FEW else ()

    @cached_property
    def method(self) -> Method:
        """Return the solver, prepared for the network's weights."""
        return prepare(self.network, self.table.for_use())

    def __call__(self, data_BD: Tensor) -> dict[str, Tensor]:
        """Return all scores (B,), higher for more unusual images, and some facts beside them.

        The facts are `converged` (0 or 1), `class_argmin` (the label of the class with the least
        energy, where labels are known), and in nats `free_energy_nats`, `delta_energy_nats`,
        `class_energy_nats` and `energy_layer_0` from the data upwards, the prior's last.
        """
        network = self.network
        end = equilibrium(self.method, self.table, data_BD)
        delta_B = end.start_energy_B - end.energy_B
        classes = self.experts(data_BD)
        latent_BL = self.latents.whitened(end.states[network.latent])
        terms = network.terms(end.states)
        logs_BF = _log_energies(terms, end.states)
        columns = {
            "free-energy": end.energy_B,
            "energy-layers": self.layers.length(logs_BF[:, self.counted_F]),
            "class-energy": classes.energy_B,
            "class-latent": classes.latent_B,
            "class-layers": classes.layers_B,
            "delta-energy": delta_B,
            "typicality": (end.energy_B - self.median).abs(),
            "latent-knn": neighbour_distance(latent_BL, self.known_NL),
            **self._within_causes(terms, end.states, data_BD),
            "free_energy_nats": end.energy_B,
            "delta_energy_nats": delta_B,
            "class_energy_nats": classes.nats_B,
            "converged": end.converged_B.to(end.energy_B.dtype),
        }
        if (self.experts.known_K >= 0).all():
            columns["class_argmin"] = self.experts.known_K[classes.class_B]
        energies = [layer.energy_B for layer in terms]
        energies.append(network.prior_energy(end.states[-1]))
        return columns | {f"energy_layer_{i}": energy for i, energy in enumerate(energies)}

    def _within_causes(
        self, terms: Sequence[Terms], states: list[Tensor], data_BD: Tensor
    ) -> dict[str, Tensor]:
        """Return the scores of the causes, of the memory and of the densities that there are."""
        if self.within is None:
            return {}
        own, other = self.within
        view = _view(self.network, terms, states, self.shape)
        twin_view = _twin(self.experts, len(own.mean_L)).view(data_BD, self.shape)
        layers_B, direction_B = own(view)
        columns = {
            "cause-layers": layers_B,
            "cause-direction": direction_B,
            "twin-layers": other(twin_view)[0],
        }
        if self.memory is not None:
            columns["twin-memory"] = self.memory.energy(twin_view)
        if self.density is not None:
            columns["latent-density"] = self.density.factor(view.latent_BL)
        if self.twin_density is not None:
            columns["twin-density"] = self.twin_density.factor(twin_view.latent_BL)
        return columns

    def heatmap(self, data_BD: Tensor) -> Tensor:
        """Return the size (B, D) of each pixel's prediction error at equilibrium."""
        end = equilibrium(self.method, self.table, data_BD)
        return (end.states[0] - self.network.terms(end.states)[0].prediction_BD).abs()

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that define the scores beside the network, by name."""
        tensors = {f"experts.{name}": tensor for name, tensor in self.experts.tensors().items()}
        for name, normal in (("layers", self.layers), ("latents", self.latents)):
            tensors |= {f"{name}.mean": normal.mean_F, f"{name}.root": normal.root_FF}
        if self.within is not None:
            for prefix, scores in zip(_WITHIN, self.within, strict=True):
                tensors |= {prefix + name: tensor for name, tensor in scores.tensors().items()}
        if self.memory is not None:
            tensors |= {_MEMORY + name: own for name, own in self.memory.tensors().items()}
        for prefix, density in zip(_DENSITIES, (self.density, self.twin_density), strict=True):
            if density is not None:
                tensors |= {prefix + name: own for name, own in density.tensors().items()}
        rest = {"looked_at": self.counted_F, "median": self.median, "bank": self.known_NL.half()}
        return tensors | rest


# How the names of the tensors of `PCScorer.within`, its memory and its densities begin.
_WITHIN, _MEMORY, _DENSITIES = ("causes.", "twin."), "memory.", ("density.", "twin-density.")


def fit(
    network: Network,
    images: Images,
    table: InferenceTable,
    *,
    labels: Tensor | None = None,
    device: torch.device | str = "cpu",
) -> PCScorer:
    """Return the scores of a network, fitted to known images.

    Args:
        network: on `device`.
        images: known images; of more than 60,000, this number is drawn, always the same ones.
        table: the settings of inference.
        labels: the images' classes (N,), if not their own; without labels, images that look alike
            form a class.

    Raises:
        DataError: fewer than two images can be read.
    """
    data_ND, own_N = _known(network, images, labels, device)
    experts = fit_experts(data_ND, own_N)
    method = prepare(network, table.for_use())
    logs, energies, views = [], [], []
    for data_BD in torch.split(data_ND[:_INFERRED], _BATCH):
        end = equilibrium(method, table, data_BD)
        terms = network.terms(end.states)
        logs.append(_log_energies(terms, end.states))
        energies.append(end.energy_B)
        views.append(_view(network, terms, end.states, images.shape))
    view = View.joined(views)
    logs_NF = torch.cat(logs)[:_LAYERS]
    latents_NL = view.latent_BL[:_LAYERS]
    twin = _twin(experts, view.latent_BL.shape[1])
    twin_view = View.joined(
        [twin.view(data_BD, images.shape) for data_BD in torch.split(data_ND[:_INFERRED], _BATCH)]
    )
    around = min(_LAYERS, _DENSE_VALUES // latents_NL.shape[1])
    twin_NL = twin_view.latent_BL[:around]
    class_N = None if own_N is None else own_N[: len(latents_NL)].to(latents_NL.device)
    within = _within_classes(latents_NL, class_N)
    kept = max(2, min(_KEPT, _KEPT_VALUES // latents_NL.shape[1]))
    counted_F = _counted(logs_NF)
    few, dense = len(data_ND) < _FEW, len(data_ND) >= _DENSE
    return PCScorer(
        network,
        table,
        experts,
        counted_F,
        Normal.of(logs_NF[:, counted_F]),
        torch.cat(energies)[:_LAYERS].median(),
        within,
        # Rounded as in the file, so that a loaded detector gives the same scores.
        within.whitened(latents_NL[:kept]).half().to(latents_NL.dtype),
        images.shape,
        (CauseScores.fit(view, directed=True), CauseScores.fit(twin_view, directed=False)),
        None if dense else Memory.fit(twin_view),
        LocalDensity.of(latents_NL[:around]) if dense and few else None,
        LocalDensity.of(twin_NL, scales_of(twin_NL)) if dense else None,
    )


def _known(
    network: Network, images: Images, labels: Tensor | None, device: torch.device | str
) -> tuple[Tensor, Tensor | None]:
    """Return the known images (N, D) that scores are fitted to, and their labels (N,)."""
    limit = max(2, min(_FITTED, _FITTED_VALUES // network.sizes[0]))
    chosen = order(len(images), 0, -2)[:limit]
    rows = images.rows(chosen)
    data_ND = rows.pixels_BD[rows.ok].to(network.layers[0].weight.to(device))
    if len(data_ND) < 2:
        raise DataError(f"{images.source}: scores are fitted to two images or more")
    labels = images.labels if labels is None else labels
    return data_ND, None if labels is None else labels[chosen][rows.ok]


def load(
    network: Network,
    table: InferenceTable,
    tensors: dict[str, Tensor],
    shape: Shape,
) -> PCScorer:
    """Return the scores whose `PCScorer.tensors()` these are.

    Args:
        shape: of the images, channels, height and width.

    Raises:
        KeyError: a tensor is missing.
    """
    like = network.layers[0].weight

    def floating(prefix: str) -> dict[str, Tensor]:
        return {name: tensor.to(like) for name, tensor in with_prefix(tensors, prefix).items()}

    within = None
    if "causes.means" in tensors:
        own, other = map(floating, _WITHIN)
        within = CauseScores.load(own, directed=True), CauseScores.load(other, directed=False)
    layers, latents = (
        Normal(tensors[f"{name}.mean"].to(like), tensors[f"{name}.root"].to(like))
        for name in ("layers", "latents")
    )
    return PCScorer(
        network,
        table,
        Experts.load(with_prefix(tensors, "experts."), like),
        tensors["looked_at"].to(like.device),
        layers,
        tensors["median"].to(like),
        latents,
        tensors["bank"].to(like),
        shape,
        within,
        Memory.load(remembered) if (remembered := with_prefix(tensors, _MEMORY)) else None,
        *(LocalDensity.load(own) if (own := floating(prefix)) else None for prefix in _DENSITIES),
    )


def equilibrium(method: Method, table: InferenceTable, data_BD: Tensor) -> Equilibrium:
    """Return the states of least energy with the images clamped and all layers above them free.

    Rounding moves the step at which an image stops, and that shows in layers of high precision.
    So with a solver for such layers every image takes all steps.
    """
    return infer(
        method,
        data_BD,
        steps=table.test_steps,
        tolerance=table.tolerance,
        all_steps=not stops_alone(table),
    )


def stops_alone(table: InferenceTable) -> bool:
    """Return whether images stop one by one: the energies of their layers are settled by then.

    With `newton` as the solver of training they do not, so that old detectors keep their scores.
    """
    return table.for_use().solver == "majorise" or table.test_solver == "newton"


def _twin(experts: Experts, units: int) -> LinearTwin:
    """Return the linear network of the principal components that the classes' networks see."""
    return LinearTwin(experts.window.mean_D, experts.window.basis_DP[:, :units])


def _view(network: Network, terms: Sequence[Terms], states: list[Tensor], shape: Shape) -> View:
    errors = [
        state_BD - layer.prediction_BD for state_BD, layer in zip(states, terms, strict=False)
    ]
    return View.of(errors, states[network.latent], shape)


def _log_energies(terms: Sequence[Terms], states: list[Tensor]) -> Tensor:
    """Return the logs (B, L + 1) of the layers' energies, the top one at precision 1.

    Energies are products of many small causes, so that a ratio is as unusual in any layer.
    """
    energies = [layer.energy_B for layer in terms]
    energies.append(0.5 * states[-1].square().sum(1))
    return torch.stack(energies, 1).clamp_min(1e-9).log()


def _counted(logs_NF: Tensor) -> Tensor:
    """Return the layers (F,) that hold enough energy; always the data's and the prior's."""
    typical_F = logs_NF.exp().median(0).values
    large_F = typical_F >= _SHARE * typical_F.sum()
    large_F[0] = large_F[-1] = True
    return large_F.nonzero().squeeze(1)


def _within_classes(latents_NL: Tensor, class_N: Tensor | None) -> Normal:
    """Return the Gaussian of latents within their classes, around the mean of all."""
    mean_L = latents_NL.double().mean(0)
    centred_NL = latents_NL.double() - mean_L
    if class_N is not None:
        for label in torch.unique(class_N):
            centred_NL[class_N == label] -= centred_NL[class_N == label].mean(0)
    covariance_LL = centred_NL.T @ centred_NL / len(centred_NL)
    return Normal.with_covariance(mean_L, covariance_LL, latents_NL.dtype)
