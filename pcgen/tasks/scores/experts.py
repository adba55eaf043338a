"""Class-wise energies: each class has linear predictive coding networks of its own.

A class with many images is several networks, one for each way of looking like it; its energy is the
least of theirs. Classes differ in how much energy is usual, so an energy counts in deviations from
its class's mean.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from pcgen.tasks.scores.linear import LinearNetworks, Window, fit_networks
from pcgen.tasks.scores.moments import Normal

# Images that make a network of their own worth while, and networks a class at most.
_IMAGES = 500
_PER_CLASS = 5
# Without labels, images that look alike are a class.
_CLUSTER_IMAGES = 1000
_CLUSTERS = 30
# A class's covariance counts its own images beside so many of all classes'.
_OF_ALL = 50.0
_BATCH = 2000


@dataclass(frozen=True, slots=True)
class ClassEnergies:
    """An image's least energy over the classes, and how unusual that is for the class.

    Attributes:
        class_B: number of the class whose energy is least.
        nats_B: its energy.
        energy_B: the same in deviations from the class's mean.
        latent_B: the log of the latent's part, likewise.
        layers_B: squared Mahalanobis length of both parts' logs within the class.
    """

    class_B: Tensor
    nats_B: Tensor
    energy_B: Tensor
    latent_B: Tensor
    layers_B: Tensor


@dataclass(frozen=True, slots=True)
class Usual:
    """What is usual in each of K classes.

    Attributes:
        energy_K2: mean and deviation of the least energy.
        mean_K2: mean logs of the energy's parts: the latent's, the data's.
        deviation_K2: their deviations.
        root_K22: of their precision, as `Normal.root_FF`.
    """

    energy_K2: Tensor
    mean_K2: Tensor
    deviation_K2: Tensor
    root_K22: Tensor


@dataclass(frozen=True, slots=True)
class Experts:
    """The linear networks of all classes.

    Attributes:
        window: what they see of the data.
        networks: of all classes, E of them.
        class_E: number of the class that each belongs to.
        usual: what is usual in each class.
        known_K: the classes' labels; -1 where they are mere clusters.
    """

    window: Window
    networks: LinearNetworks
    class_E: Tensor
    usual: Usual
    known_K: Tensor

    def __call__(self, data_BD: Tensor) -> ClassEnergies:
        """Return the class-wise energies of images."""
        least_BK, parts_BK2 = self.energies(data_BD)
        class_B = least_BK.argmin(1)
        nats_B = least_BK.gather(1, class_B[:, None])[:, 0]
        apart_B2 = _of(parts_BK2, class_B) - self.usual.mean_K2[class_B]
        mean_B, deviation_B = self.usual.energy_K2[class_B].unbind(1)
        return ClassEnergies(
            class_B,
            nats_B,
            (nats_B - mean_B) / deviation_B,
            apart_B2[:, 0] / self.usual.deviation_K2[class_B, 0],
            (apart_B2[:, None] @ self.usual.root_K22[class_B]).square().sum((1, 2)),
        )

    def energies(self, data_BD: Tensor) -> tuple[Tensor, Tensor]:
        """Return each class's least energy (B, K), nats, and the logs of its parts (B, K, 2)."""
        latent_BE, rest_BE = self.networks.parts(*self.window.see(data_BD))
        energy_BE = self.networks.energy(latent_BE, rest_BE)
        least, parts = [], []
        for k in range(len(self.known_K)):
            own = (self.class_E == k).nonzero().squeeze(1)
            least_B, best_B = energy_BE[:, own].min(1)
            chosen_B1 = own[best_B][:, None]
            pair = [latent_BE.gather(1, chosen_B1), rest_BE.gather(1, chosen_B1)]
            least.append(least_B)
            parts.append(torch.cat(pair, 1).clamp_min(1e-9).log())
        return torch.stack(least, 1), torch.stack(parts, 1)

    def tensors(self) -> dict[str, Tensor]:
        """Return all of it by name, the large bases in half precision."""
        named = {
            name: getattr(part, name)
            for part in (self.window, self.networks, self.usual)
            for name in _names(type(part))
        }
        named |= {"class_E": self.class_E, "known_K": self.known_K}
        return {n: tensor.half() if n in _HALF else tensor for n, tensor in named.items()}

    @classmethod
    def load(cls, tensors: dict[str, Tensor], like: Tensor) -> Experts:
        """Return what `tensors()` was, on the device and in the precision of `like`."""
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
    """Return each row's values (B, F) of its class."""
    return values_BKF[torch.arange(len(class_B), device=class_B.device), class_B]


def fit_experts(data_ND: Tensor, labels_N: Tensor | None, seed: int = 0) -> Experts:
    """Return the linear networks of known images.

    Args:
        data_ND: at least two images.
        labels_N: their classes; without, images that look alike are a class.
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
    nothing = data_ND.new_zeros(len(known_K), 2)
    unknown = Usual(nothing, nothing, nothing, nothing[:, :, None].repeat(1, 1, 2))
    experts = Experts(window, networks, class_E.to(data_ND.device), unknown, known_K)
    usual = _usual(experts, data_ND, class_N)
    return Experts(window, networks, experts.class_E, usual, known_K)


def _of_class(
    seen_NP: Tensor,
    outside_N: Tensor,
    all_PP: Tensor,
    window: Window,
    seed: int,
    single: bool,
) -> LinearNetworks:
    """Return the networks of one class.

    Args:
        all_PP: the covariance within all classes.
        single: whether the class is one network.
    """
    weight = _OF_ALL / (_OF_ALL + len(seen_NP))
    class_PP = (1 - weight) * _scatter(seen_NP) / len(seen_NP) + weight * all_PP
    count = 1 if single else min(_PER_CLASS, max(1, len(seen_NP) // _IMAGES))
    member_N = _alike(seen_NP, count, seed)
    networks = fit_networks(seen_NP, outside_N, member_N, class_PP, window)
    if count > 1:
        member_N = networks.energy(*networks.parts(seen_NP, outside_N)).argmin(1)
        networks = fit_networks(seen_NP, outside_N, member_N, class_PP, window)
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
    """Return what is usual in each class, from its own images."""
    own, parts = [], []
    for data_BD, class_B in zip(
        torch.split(data_ND, _BATCH), torch.split(class_N, _BATCH), strict=True
    ):
        least_BK, parts_BK2 = experts.energies(data_BD)
        own.append(_of(least_BK[:, :, None], class_B)[:, 0])
        parts.append(_of(parts_BK2, class_B))
    energy_N, parts_N2 = torch.cat(own), torch.cat(parts)
    energies, normals = [], []
    for k in range(len(experts.known_K)):
        energies.append(Normal.of(energy_N[class_N == k, None]))
        normals.append(Normal.of(parts_N2[class_N == k]))
    return Usual(
        torch.stack([torch.cat([normal.mean_F, normal.deviation_F]) for normal in energies]),
        torch.stack([normal.mean_F for normal in normals]),
        torch.stack([normal.deviation_F for normal in normals]),
        torch.stack([normal.root_FF for normal in normals]),
    )
