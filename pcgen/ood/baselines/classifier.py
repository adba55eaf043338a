"""Scores of a classifier: from its logits, from its gradient, from its last hidden layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from pcgen.classification.network import Classifier
from pcgen.config import InferenceTable
from pcgen.data.images import Images
from pcgen.errors import DataError
from pcgen.inference.infer import infer
from pcgen.inference.solvers import prepare
from pcgen.ood.baselines.rows import batches, chosen_rows

# Rows that the Gaussians are fitted to at most, and that neighbours are looked for among.
_FIT = 60_000
_BANK = 10_000
# The published fraction of the bank: the 50th neighbour of 50,000.
_NEIGHBOURS = 1e-3
# Of ODIN, as published where no unusual data are at hand to choose by.
TEMPERATURE = 1000.0
PERTURBATION = 0.0014
# Added to a covariance, as a share of its mean variance: units that never respond have none.
_RIDGE = 1e-6
# Images at once: the maps of more do not stay in the cache, and take twice as long.
_BATCH = 100

LOGIT_SCORES = ("msp", "max-logit", "energy-lse", "entropy")
FEATURE_SCORES = ("mahalanobis", "relative-mahalanobis", "knn")


def msp(logits_BK: Tensor) -> Tensor:
    """Return -log of the largest softmax probability (B,), in nats.

    In the order of 1 minus that probability, but without its ties where it rounds to 1.

    Source: Hendrycks and Gimpel (2017).
    """
    top = logits_BK.max(1, keepdim=True)
    others = (logits_BK - top.values).exp().scatter(1, top.indices, 0.0)
    return others.sum(1).log1p()


def max_logit(logits_BK: Tensor) -> Tensor:
    """Return minus the largest logit (B,). Source: Hendrycks et al. (2022)."""
    return -logits_BK.max(1).values


def energy_lse(logits_BK: Tensor) -> Tensor:
    """Return -log sum exp of the logits (B,). Source: Liu et al. (2020), at temperature 1."""
    return -logits_BK.logsumexp(1)


def entropy(logits_BK: Tensor) -> Tensor:
    """Return the entropy (B,) of the softmax, in nats."""
    logs_BK = logits_BK.log_softmax(1)
    return -(logs_BK.exp() * logs_BK).sum(1)


def odin(network: Classifier, data_BD: Tensor) -> Tensor:
    """Return minus the largest probability (B,) at `TEMPERATURE`, after a step of the image.

        x' = x - PERTURBATION sign(d/dx -log S_top(x; T))

    Source: Liang et al. (2018), with their temperature and smallest step, which are not tuned.
    """
    with torch.enable_grad():
        moved = data_BD.detach().clone().requires_grad_()
        logits_BK = network.logits(moved) / TEMPERATURE
        loss = functional.cross_entropy(logits_BK, logits_BK.argmax(1), reduction="sum")
        (slope_BD,) = torch.autograd.grad(loss, moved)
    stepped = data_BD - PERTURBATION * slope_BD.sign()
    # In float64: the probabilities lie within a few thousandths of one another.
    probabilities = (network.logits(stepped).double() / TEMPERATURE).softmax(1)
    return -probabilities.max(1).values


def label_energy(network: Classifier, data_BD: Tensor, table: InferenceTable) -> Tensor:
    """Return the energy (B,) at equilibrium between the image and its likeliest label, in nats.

    Where inference takes no step it is `msp`, exactly: the hidden errors are 0, and the label's
    energy is -log of its softmax.
    """
    label_BK = functional.one_hot(network.logits(data_BD).argmax(1), network.classes).to(data_BD)
    pcn = network.network()
    method = prepare(pcn, table)
    found = infer(
        method,
        label_BK,
        steps=table.test_steps,
        tolerance=table.tolerance,
        latent_BD=data_BD,
        clamp_latent=True,
    )
    return found.energy_B


@dataclass(frozen=True, slots=True)
class Gaussians:
    """The last hidden layer's responses to known images: a Gaussian a class, and one of all.

    Attributes:
        means_KF: of each class.
        whiten_FF: for their shared covariance, S^-1 = whiten' whiten.
        mean_F: of all.
        whiten_all_FF: for the covariance of all.
    """

    means_KF: Tensor
    whiten_FF: Tensor
    mean_F: Tensor
    whiten_all_FF: Tensor

    @classmethod
    def fit(cls, features_NF: Tensor, labels_N: Tensor, classes: int) -> Gaussians:
        """Return the Gaussians of features, in float64."""
        features_NF = features_NF.double()
        present = labels_N.bincount().nonzero().squeeze(1)
        means_KF = torch.stack([features_NF[labels_N == k].mean(0) for k in present])
        # A class without images has no mean, and nothing is near to it.
        rows = torch.full((classes,), -1, dtype=torch.int64)
        rows[present] = torch.arange(len(present))
        within_NF = features_NF - means_KF[rows[labels_N]]
        mean_F = features_NF.mean(0)
        return cls(means_KF, _whitening(within_NF), mean_F, _whitening(features_NF - mean_F))

    def distances(self, features_BF: Tensor) -> tuple[Tensor, Tensor]:
        """Return the squared distances (B,) to the nearest class and to the mean of all."""
        features_BF = features_BF.double()
        placed_BF, places_KF = features_BF @ self.whiten_FF.T, self.means_KF @ self.whiten_FF.T
        gaps_BK = torch.stack([(placed_BF - place).square().sum(1) for place in places_KF], 1)
        to_all_B = ((features_BF - self.mean_F) @ self.whiten_all_FF.T).square().sum(1)
        return gaps_BK.min(1).values, to_all_B


def _whitening(centred_NF: Tensor) -> Tensor:
    covariance_FF = centred_NF.T @ centred_NF / len(centred_NF)
    ridge = _RIDGE * covariance_FF.diagonal().mean().clamp_min(1e-12)
    covariance_FF.diagonal().add_(ridge)
    lower = torch.linalg.cholesky(covariance_FF)
    eye = torch.eye(len(lower), dtype=lower.dtype)
    return torch.linalg.solve_triangular(lower, eye, upper=False)


class ClassifierScorer:
    """All scores of one classifier.

    Attributes:
        names: of the columns; `label-energy` only where the classifier learned by the rule `pc`.
        gaussians: of the known images' responses, on the CPU.
        bank_NF: responses to known images, of unit length.
    """

    def __init__(
        self,
        network: Classifier,
        inference: InferenceTable,
        gaussians: Gaussians,
        bank_NF: Tensor,
    ) -> None:
        self.network = network
        self.inference = inference
        self.gaussians = gaussians
        self.bank_NF = bank_NF
        own = ("label-energy",) if network.table.rule == "pc" else ()
        self.names: tuple[str, ...] = (*LOGIT_SCORES, "odin", *FEATURE_SCORES, *own)

    @classmethod
    def fit(
        cls,
        network: Classifier,
        images: Images,
        inference: InferenceTable | None = None,
        *,
        bank: int = _BANK,
    ) -> ClassifierScorer:
        """Return the scorer of known, labelled images.

        Args:
            inference: of the rule `pc`.
            bank: images that neighbours are looked for among, at most.

        Raises:
            DataError: images without labels, or one that cannot be read.
        """
        if images.labels is None:
            raise DataError(f"{images.source}: has no labels, which mahalanobis needs")
        numbers = chosen_rows(images, _FIT)
        like = network.weights()[0]
        with torch.no_grad():
            features = [network.features(data.to(like)).cpu() for data in batches(images, numbers)]
        features_NF, labels_N = torch.cat(features), images.labels[numbers]
        gaussians = Gaussians.fit(features_NF, labels_N, network.classes)
        kept = chosen_rows(images.subset(numbers), bank)
        bank_NF = functional.normalize(features_NF[kept], dim=1)
        return cls(network, inference or InferenceTable(), gaussians, bank_NF)

    def __call__(self, data_BD: Tensor) -> dict[str, Tensor]:
        """Return a column (B,) for each of `names`, on the CPU in float64."""
        data_BD = data_BD.to(self.network.weights()[0])
        parts = [self._columns(part) for part in torch.split(data_BD, _BATCH)]
        return {name: torch.cat([part[name] for part in parts]) for name in self.names}

    def _columns(self, data_BD: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            features_BF = self.network.features(data_BD)
            logits_BK = self.network.logits_of(features_BF).double()
            to_class_B, to_all_B = self.gaussians.distances(features_BF.cpu())
            found = {
                "msp": msp(logits_BK),
                "max-logit": max_logit(logits_BK),
                "energy-lse": energy_lse(logits_BK),
                "entropy": entropy(logits_BK),
                "odin": odin(self.network, data_BD),
                "mahalanobis": to_class_B,
                "relative-mahalanobis": to_class_B - to_all_B,
                "knn": self._neighbour(features_BF.cpu()),
            }
            if "label-energy" in self.names:
                found["label-energy"] = label_energy(self.network, data_BD, self.inference)
        return {name: column.double().cpu() for name, column in found.items()}

    def _neighbour(self, features_BF: Tensor) -> Tensor:
        """Return the distance (B,) to the k-th nearest of the bank, all of unit length.

        Source: Sun et al. (2022).
        """
        k = max(1, round(_NEIGHBOURS * len(self.bank_NF)))
        alike_BN = functional.normalize(features_BF, dim=1) @ self.bank_NF.T
        nearest_B = alike_BN.topk(k, dim=1).values[:, -1]
        return (2 - 2 * nearest_B).clamp_min(0).sqrt()

    def tensors(self) -> dict[str, Tensor]:
        """Return all that a file must hold beside the classifier."""
        found = self.gaussians
        return {
            "means": found.means_KF,
            "whiten": found.whiten_FF,
            "mean": found.mean_F,
            "whiten_all": found.whiten_all_FF,
            "bank": self.bank_NF,
        }

    @classmethod
    def load(
        cls,
        network: Classifier,
        tensors: dict[str, Tensor],
        inference: InferenceTable | None = None,
    ) -> ClassifierScorer:
        """Return the scorer whose `tensors()` these are."""
        parts: Sequence[Tensor] = [
            tensors[name] for name in ("means", "whiten", "mean", "whiten_all")
        ]
        gaussians = Gaussians(*parts)
        return cls(network, inference or InferenceTable(), gaussians, tensors["bank"])
