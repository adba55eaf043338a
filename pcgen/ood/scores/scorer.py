"""The scores of one network: fitted to known images, then asked about new ones."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from pcgen.config import InferenceTable
from pcgen.data.images import Images, order
from pcgen.errors import DataError
from pcgen.inference.infer import Equilibrium, infer
from pcgen.inference.solvers import Method, prepare
from pcgen.model.network import Network
from pcgen.ood.scores.experts import Experts, fit_experts
from pcgen.ood.scores.moments import Normal, neighbour_distance

NAMES = (
    "free-energy",
    "energy-layers",
    "class-energy",
    "class-latent",
    "class-layers",
    "delta-energy",
    "typicality",
    "latent-knn",
)
COMPONENTS = ("energy-layers", "class-energy", "class-latent", "class-layers")
"""What `pc-fisher` combines. Chosen on distorted validation images, see docs/ood-scores.md."""

# Known images that the networks of the classes are fitted to, at most, and values of them: 256 MiB.
_FITTED = 60_000
_FITTED_VALUES = 2**26
# Known images whose equilibrium is taken, and latents kept for `latent-knn`, at most.
_INFERRED = 10_000
_BANK = 4096
_BANK_VALUES = 2**19
_BATCH = 500
# The solver whose images may stop one by one: the energies of its layers have settled by then.
_STOPS_ALONE = "majorise"
# Least share of the energy that a hidden layer must hold to be looked at by itself. Where the
# precision is so high that it holds a hundred-thousandth, rounding changes that by a tenth.
_SHARE = 1e-4


class PCScorer:
    """Gives images the scores of a network. Each image's depend on itself alone.

    Attributes:
        network: the predictive coding network, without labels clamped.
        table: how its states reach their equilibrium.
        experts: the linear networks of the classes.
        looked_at_F: the layers whose energies are told apart.
        layers: what is usual of the logs of their energies.
        median: of the free energy, nats, ().
        latents: what is usual of a class's latents, which makes a distance of them.
        bank_NL: known latents, in that measure.
    """

    names = NAMES
    components = COMPONENTS

    def __init__(
        self,
        network: Network,
        table: InferenceTable,
        experts: Experts,
        looked_at_F: Tensor,
        layers: Normal,
        median: Tensor,
        latents: Normal,
        bank_NL: Tensor,
    ) -> None:
        self.network = network
        self.table = table
        self.experts = experts
        self.looked_at_F = looked_at_F
        self.layers = layers
        self.median = median
        self.latents = latents
        self.bank_NL = bank_NL

    @cached_property
    def method(self) -> Method:
        """Return the solver at the network's weights."""
        return prepare(self.network, self.table)

    def __call__(self, data_BD: Tensor) -> dict[str, Tensor]:
        """Return all scores (B,), higher for what is more unusual, and what is said beside them.

        Beside them: `converged` (0 or 1), `class_argmin` (the label of the class with the least
        energy, where labels are known), and in nats `free_energy_nats`, `delta_energy_nats`,
        `class_energy_nats` and `energy_layer_0` from the data upwards, the prior's last.
        """
        network = self.network
        found = equilibrium(self.method, self.table, data_BD)
        energies = layer_energies(network, found.states)
        first = network.states_from(network.start_latent(data_BD), data_BD)
        delta_B = network.energy(first) - found.energy_B
        classes = self.experts(data_BD)
        latent_BL = self.latents.whitened(found.states[network.latent])
        columns = {
            "free-energy": found.energy_B,
            "energy-layers": self.layers.length(_logs(network, found.states)[:, self.looked_at_F]),
            "class-energy": classes.energy_B,
            "class-latent": classes.latent_B,
            "class-layers": classes.layers_B,
            "delta-energy": delta_B,
            "typicality": (found.energy_B - self.median).abs(),
            "latent-knn": neighbour_distance(latent_BL, self.bank_NL),
            "free_energy_nats": found.energy_B,
            "delta_energy_nats": delta_B,
            "class_energy_nats": classes.nats_B,
            "converged": found.converged_B.to(found.energy_B.dtype),
        }
        if (self.experts.known_K >= 0).all():
            columns["class_argmin"] = self.experts.known_K[classes.class_B]
        return columns | {f"energy_layer_{i}": energy for i, energy in enumerate(energies)}

    def heatmap(self, data_BD: Tensor) -> Tensor:
        """Return the size (B, D) of each unit's prediction error at equilibrium."""
        found = equilibrium(self.method, self.table, data_BD)
        return (found.states[0] - self.network.terms(found.states)[0].prediction_BD).abs()

    def tensors(self) -> dict[str, Tensor]:
        """Return all that a file must hold beside the network, by name."""
        named = {f"experts.{name}": tensor for name, tensor in self.experts.tensors().items()}
        for name, normal in (("layers", self.layers), ("latents", self.latents)):
            named |= {f"{name}.mean": normal.mean_F, f"{name}.root": normal.root_FF}
        whole = {"looked_at": self.looked_at_F, "median": self.median, "bank": self.bank_NL.half()}
        return named | whole


def fit(
    network: Network,
    images: Images,
    table: InferenceTable,
    *,
    labels: Tensor | None = None,
    device: torch.device | str = "cpu",
) -> PCScorer:
    """Return the scores that known images make of a network.

    Args:
        network: on `device`.
        images: known ones; of more than 60,000, so many are drawn, always the same.
        table: how its states reach their equilibrium.
        labels: the images' classes (N,), if not their own; without any, those that look alike are
            a class.

    Raises:
        DataError: fewer than two images that can be read.
    """
    limit = max(2, min(_FITTED, _FITTED_VALUES // network.sizes[0]))
    chosen = order(len(images), 0, -2)[:limit]
    rows = images.rows(chosen)
    data_ND = rows.pixels_BD[rows.ok].to(network.layers[0].weight.to(device))
    if len(data_ND) < 2:
        raise DataError(f"{images.source}: scores are fitted to two images or more")
    labels = images.labels if labels is None else labels
    own_N = None if labels is None else labels[chosen][rows.ok]
    experts = fit_experts(data_ND, own_N)
    method = prepare(network, table)
    logs, energies, latents = [], [], []
    for data_BD in torch.split(data_ND[:_INFERRED], _BATCH):
        found = equilibrium(method, table, data_BD)
        logs.append(_logs(network, found.states))
        energies.append(found.energy_B)
        latents.append(found.states[network.latent])
    latents_NL = torch.cat(latents)
    class_N = None if own_N is None else own_N[: len(latents_NL)].to(latents_NL.device)
    usual = _within(latents_NL, class_N)
    kept = max(2, min(_BANK, _BANK_VALUES // latents_NL.shape[1]))
    logs_NF = torch.cat(logs)
    looked_at_F = _large(logs_NF)
    return PCScorer(
        network,
        table,
        experts,
        looked_at_F,
        Normal.of(logs_NF[:, looked_at_F]),
        torch.cat(energies).median(),
        usual,
        usual.whitened(latents_NL[:kept]).half().to(latents_NL.dtype),
    )


def load(network: Network, table: InferenceTable, tensors: dict[str, Tensor]) -> PCScorer:
    """Return what `PCScorer.tensors` was taken from.

    Raises:
        KeyError: tensors that are not those of scores.
    """
    like = network.layers[0].weight
    experts = {
        name.removeprefix("experts."): tensor
        for name, tensor in tensors.items()
        if name.startswith("experts.")
    }
    layers, latents = (
        Normal(tensors[f"{name}.mean"].to(like), tensors[f"{name}.root"].to(like))
        for name in ("layers", "latents")
    )
    return PCScorer(
        network,
        table,
        Experts.load(experts, like),
        tensors["looked_at"].to(like.device),
        layers,
        tensors["median"].to(like),
        latents,
        tensors["bank"].to(like),
    )


def equilibrium(method: Method, table: InferenceTable, data_BD: Tensor) -> Equilibrium:
    """Return the states of least energy with the images clamped and all above them free.

    What rounding does to the step at which an image stops shows in layers of high precision: with
    a solver for such layers all images take all steps.
    """
    return infer(
        method,
        data_BD,
        steps=table.test_steps,
        tolerance=table.tolerance,
        all_steps=table.solver != _STOPS_ALONE,
    )


def layer_energies(network: Network, states: list[Tensor]) -> list[Tensor]:
    """Return each layer's energy (B,), nats, the data's first and the prior's last."""
    energies = [terms.energy_B for terms in network.terms(states)]
    return [*energies, network.prior_energy(states[-1])]


def _logs(network: Network, states: list[Tensor]) -> Tensor:
    """Return the logs (B, L + 1) of the layers' energies, the uppermost at precision 1.

    Logs, because energies are products of many small causes: a share more is as unusual in any.
    """
    energies = [terms.energy_B for terms in network.terms(states)]
    energies.append(0.5 * states[-1].square().sum(1))
    return torch.stack(energies, 1).clamp_min(1e-9).log()


def _large(logs_NF: Tensor) -> Tensor:
    """Return the layers (F,) that hold enough energy; always the data's, first, and the prior's."""
    typical_F = logs_NF.exp().median(0).values
    large_F = typical_F >= _SHARE * typical_F.sum()
    large_F[0] = large_F[-1] = True
    return large_F.nonzero().squeeze(1)


def _within(latents_NL: Tensor, class_N: Tensor | None) -> Normal:
    """Return the Gaussian of latents within their classes, around the mean of all."""
    mean_L = latents_NL.double().mean(0)
    centred = latents_NL.double() - mean_L
    if class_N is not None:
        for label in torch.unique(class_N):
            centred[class_N == label] -= centred[class_N == label].mean(0)
    covariance = centred.T @ centred / len(centred)
    return Normal.with_covariance(mean_L, covariance, latents_NL.dtype)
