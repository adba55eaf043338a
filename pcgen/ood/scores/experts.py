"""Class-wise energies: each class has linear predictive coding networks of its own.

A class with many images has several networks, one for each group of images that look alike; the
class's energy is the least of theirs. Usual energies differ between classes, so an energy is
measured in standard deviations from its class's mean.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from pcgen.ood.scores.linear import LinearNetworks, Window, fit_networks
from pcgen.ood.scores.moments import Normal

# Images for each network of a class, and networks of a class, at most.
_IMAGES = 500
_PER_CLASS = 5
# Without labels, images that look alike form a class: images for each, and classes at most.
_CLUSTER_IMAGES = 1000
_CLUSTERS = 30
# The covariance of all classes counts as this number of images in a class's covariance.
_OF_ALL = 50.0
_BATCH = 2000
# The least value of a part of an energy, because its log is taken.
_LEAST = 1e-9


@dataclass(frozen=True, slots=True)
class ClassEnergies:
    """An image's least energy over the classes, and how unusual that is for the class.

    Attributes:
        class_B: number of the class whose energy is least.
        nats_B: its energy.
        energy_B: the same in deviations from the class's mean.
        latent_B: the log of the latent's part, likewise.
        layers_B: squared Mahalanobis length of all parts' logs within the class.
    """

    class_B: Tensor
    nats_B: Tensor
    energy_B: Tensor
    latent_B: Tensor
    layers_B: Tensor


@dataclass(frozen=True, slots=True)
class Usual:
    """Means and spreads of the energies in each of K classes.

    Attributes:
        energy_K2: mean and deviation of the least energy.
        latent_K2: of the log of its latent's part.
        parts_KF: mean logs of its F parts, from the latent's first octave to the data.
        root_KFF: of their precision, as `Normal.root_FF`.
    """

    energy_K2: Tensor
    latent_K2: Tensor
    parts_KF: Tensor
    root_KFF: Tensor


@dataclass(frozen=True, slots=True)
class Experts:
    """The linear networks of all classes.

    Attributes:
        window: the principal components through which they see the data.
        networks: of all classes, E of them.
        class_E: number of the class that each belongs to.
        usual: means and spreads of the energies in each class.
        known_K: the classes' labels; -1 if the classes are clusters without labels.
    """

    window: Window
    networks: LinearNetworks
    class_E: Tensor
    usual: Usual
    known_K: Tensor

    def __call__(self, data_BD: Tensor) -> ClassEnergies:
        """Return the class-wise energies of images."""
        least_BK, parts_BKF = self.energies(data_BD)
        class_B = least_BK.argmin(1)
        nats_B = _of(least_BK[:, :, None], class_B)[:, 0]
        parts_BF = _of(parts_BKF, class_B)
        usual = self.usual
        apart_BF = parts_BF.log() - usual.parts_KF[class_B]
        return ClassEnergies(
            class_B,
            nats_B,
            _deviations(nats_B, usual.energy_K2[class_B]),
            _deviations(self.latent(parts_BF).log(), usual.latent_K2[class_B]),
            (apart_BF[:, None] @ usual.root_KFF[class_B]).square().sum((1, 2)),
        )

    def energies(self, data_BD: Tensor) -> tuple[Tensor, Tensor]:
        """Return each class's least energy (B, K), nats, and its parts (B, K, F).

        The parts are the latent's octaves, the squared length of what the best network leaves
        unexplained within the window, and, unless the window shows all, outside of it.
        """
        seen_BP, outside_B = self.window.see(data_BD)
        octaves_BEO, rest_BE = self.networks.parts(seen_BP)
        energy_BE = self.networks.energy(octaves_BEO, rest_BE, outside_B)
        parts_BEF = torch.cat([octaves_BEO, rest_BE[:, :, None]], 2)
        least, parts = [], []
        for k in range(len(self.known_K)):
            own = (self.class_E == k).nonzero().squeeze(1)
            least_B, best_B = energy_BE[:, own].min(1)
            own_BF = _of(parts_BEF, own[best_B])
            if not self.window.is_whole:
                own_BF = torch.cat([own_BF, outside_B[:, None]], 1)
            least.append(least_B)
            parts.append(own_BF.clamp_min(_LEAST))
        return torch.stack(least, 1), torch.stack(parts, 1)

    def latent(self, parts_BF: Tensor) -> Tensor:
        """Return the latent's part (B,) of the energy, all octaves together."""
        return parts_BF[:, : -1 if self.window.is_whole else -2].sum(1)

    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors by name, the large bases in half precision."""
        named = {
            name: getattr(part, name)
            for part in (self.window, self.networks, self.usual)
            for name in _names(type(part))
        }
        named |= {"class_E": self.class_E, "known_K": self.known_K}
        return {n: tensor.half() if n in _HALF else tensor for n, tensor in named.items()}

    @classmethod
    def load(cls, tensors: dict[str, Tensor], like: Tensor) -> Experts:
        """Return the networks whose `tensors()` these are, like `like` in device and precision."""
        found = {
            name: tensor.to(like) if tensor.is_floating_point() else tensor.to(like.device)
            for name, tensor in tensors.items()
        }
        return cls(
            Window(**{name: found[name] for name in _names(Window)}),
            LinearNetworks(**{name: found[name] for name in _names(LinearNetworks)}),
            found["class_E"],
            Usual(**{name: found[name] for name in _names(Usual)}),
            found["known_K"],
        )


_HALF = ("basis_DP", "factors_EPQ")


def _names(kind: type) -> list[str]:
    return [field.name for field in fields(kind)]


def _of(values_BKF: Tensor, class_B: Tensor) -> Tensor:
    """Return each row's values (B, F) of its class, or of its network."""
    return values_BKF[torch.arange(len(class_B), device=class_B.device), class_B]


def _deviations(values_B: Tensor, usual_B2: Tensor) -> Tensor:
    return (values_B - usual_B2[:, 0]) / usual_B2[:, 1]


def fit_experts(data_ND: Tensor, labels_N: Tensor | None, seed: int = 0) -> Experts:
    """Return the linear networks of known images.

    Args:
        data_ND: at least two images.
        labels_N: their classes; without labels, images that look alike form a class.
        seed: of the groups.
    """
    window = Window.of(data_ND)
    seen_NP, outside_N = window.see(data_ND)
    if labels_N is None:
        count = min(_CLUSTERS, max(1, len(data_ND) // _CLUSTER_IMAGES))
        known_K, class_N = torch.unique(_alike(seen_NP, count, seed), return_inverse=True)
        known_K = torch.full_like(known_K, -1)
    else:
        known_K, class_N = torch.unique(labels_N.to(data_ND.device), return_inverse=True)
    rows = [(class_N == k).nonzero().squeeze(1) for k in range(len(known_K))]
    all_PP = sum(_scatter(seen_NP[own]) for own in rows) / len(seen_NP)
    assert isinstance(all_PP, Tensor)
    found = [
        _of_class(seen_NP[own], outside_N[own], all_PP, window, seed, labels_N is None)
        for own in rows
    ]
    networks = LinearNetworks(
        *(torch.cat([getattr(part, name) for part in found]) for name in _names(LinearNetworks))
    )
    class_E = torch.cat([torch.full((len(p.noise_E),), k) for k, p in enumerate(found)])
    nothing = Usual(*[data_ND.new_zeros(0)] * 4)
    experts = Experts(window, networks, class_E.to(data_ND.device), nothing, known_K)
    return replace(experts, usual=_usual(experts, data_ND, class_N))


def _of_class(
    seen_NP: Tensor, outside_N: Tensor, all_PP: Tensor, window: Window, seed: int, single: bool
) -> LinearNetworks:
    """Return the networks of one class.

    Args:
        all_PP: the covariance within all classes.
        single: whether the class is one network.
    """
    count = 1 if single else min(_PER_CLASS, max(1, len(seen_NP) // _IMAGES))
    weight = _OF_ALL / (_OF_ALL + len(seen_NP))

    def fitted(member_N: Tensor) -> LinearNetworks:
        within = sum(_scatter(seen_NP[member_N == member]) for member in torch.unique(member_N))
        class_PP = (1 - weight) * within / len(seen_NP) + weight * all_PP
        return fit_networks(seen_NP, outside_N, member_N, class_PP, window)

    networks = fitted(_alike(seen_NP, count, seed))
    if count > 1:
        networks = fitted(networks.energy(*networks.parts(seen_NP), outside_N).argmin(1))
    return networks


def _scatter(seen_NP: Tensor) -> Tensor:
    centred = (seen_NP - seen_NP.mean(0)).double()
    return centred.T @ centred


def _alike(seen_NP: Tensor, count: int, seed: int) -> Tensor:
    """Return the group (N,) of each image: those that look alike, by k-means."""
    if count == 1:
        return torch.zeros(len(seen_NP), dtype=torch.long, device=seen_NP.device)
    from sklearn.cluster import KMeans

    first = seen_NP[:, :50].cpu().numpy()
    found = KMeans(count, n_init=1, random_state=seed, max_iter=20).fit_predict(first)
    return torch.from_numpy(found).long().to(seen_NP.device)


def _usual(experts: Experts, data_ND: Tensor, class_N: Tensor) -> Usual:
    """Return means and spreads of the energies in each class, from its own images."""
    own, parts = [], []
    for data_BD, class_B in zip(
        torch.split(data_ND, _BATCH), torch.split(class_N, _BATCH), strict=True
    ):
        least_BK, parts_BKF = experts.energies(data_BD)
        own.append(_of(least_BK[:, :, None], class_B))
        parts.append(_of(parts_BKF, class_B))
    energy_N1, parts_NF = torch.cat(own), torch.cat(parts)
    latent_N1 = experts.latent(parts_NF).log()[:, None]
    rows = [class_N == k for k in range(len(experts.known_K))]
    normals = [Normal.of(parts_NF[row].log()) for row in rows]
    return Usual(
        torch.stack([_mean_and_deviation(energy_N1[row]) for row in rows]),
        torch.stack([_mean_and_deviation(latent_N1[row]) for row in rows]),
        torch.stack([normal.mean_F for normal in normals]),
        torch.stack([normal.root_FF for normal in normals]),
    )


def _mean_and_deviation(values_N1: Tensor) -> Tensor:
    """Return both (2,) of a column."""
    normal = Normal.of(values_N1)
    return torch.cat([normal.mean_F, 1 / normal.root_FF[0]])
