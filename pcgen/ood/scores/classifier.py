"""Scores of a classifier: from its logits, from its gradient, from its last hidden layer."""

from __future__ import annotations

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
from pcgen.ood.scores.moments import Normal
from pcgen.ood.scoring import chosen_rows, readable_batches

# Known images that the Gaussians are fitted to, and that are kept as neighbours, at most.
_FITTED = 60_000
_NEIGHBOURS_KEPT = 10_000
# Which neighbour counts, as a share of those kept: the published one is the 50th of 50,000.
_NEIGHBOUR = 1e-3
# Of ODIN, as published for the case that no unusual data are at hand to choose by.
TEMPERATURE = 1000.0
PERTURBATION = 0.0014
# Added to a covariance, as a share of its mean variance: some units may never respond.
_RIDGE = 1e-6
# Images at once: the feature maps of more leave the cache, and scoring takes twice as long.
_BATCH = 100

LOGIT_SCORES = ("msp", "max-logit", "energy-lse", "entropy")
FEATURE_SCORES = ("mahalanobis", "relative-mahalanobis", "knn")
CLASSIFIER_SCORES = (*LOGIT_SCORES, "odin", *FEATURE_SCORES, "label-energy")


def msp(logits_BK: Tensor) -> Tensor:
    """Return -log of the largest softmax probability (B,), in nats.

    It orders images as 1 minus that probability does, but without ties where that rounds to 0.

    Source: Hendrycks and Gimpel (2017).
    """
    top = logits_BK.max(1, keepdim=True)
    others = (logits_BK - top.values).exp().scatter(1, top.indices, 0.0)
    return others.sum(1).log1p()


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

    Before the first step of inference it equals `msp`: the hidden errors are 0, and the label's
    energy is -log of its softmax probability, where the label layer is categorical.
    """
    label_BK = functional.one_hot(network.logits(data_BD).argmax(1), network.classes).to(data_BD)
    equilibrium = infer(
        prepare(network.network(), table.for_use()),
        label_BK,
        steps=table.test_steps,
        tolerance=table.tolerance,
        latent_BD=network.inputs(data_BD),
        clamp_latent=True,
    )
    return equilibrium.energy_B


@dataclass(frozen=True, slots=True)
class Gaussians:
    """The last hidden layer's responses to known images: one Gaussian per class, and one of all.

    Attributes:
        means_KF: the mean of each class that has images.
        within: around a class's mean; the classes share its covariance.
        overall: of all images together.
    """

    means_KF: Tensor
    within: Normal
    overall: Normal

    @classmethod
    def fit(cls, features_NF: Tensor, labels_N: Tensor) -> Gaussians:
        """Return the Gaussians of features, in float64."""
        features_NF = features_NF.double()
        present, class_N = torch.unique(labels_N, return_inverse=True)
        means_KF = torch.stack([features_NF[class_N == k].mean(0) for k in range(len(present))])
        within_NF = features_NF - means_KF[class_N]
        mean_F = features_NF.mean(0)
        return cls(
            means_KF,
            _normal(torch.zeros_like(mean_F), within_NF),
            _normal(mean_F, features_NF - mean_F),
        )

    def distances(self, features_BF: Tensor) -> tuple[Tensor, Tensor]:
        """Return the squared distances (B,) to the nearest class and to the mean of all."""
        features_BF = features_BF.double()
        placed_BF, places_KF = (
            self.within.whitened(features_BF),
            self.within.whitened(self.means_KF),
        )
        gaps_BK = torch.stack([(placed_BF - place_F).square().sum(1) for place_F in places_KF], 1)
        return gaps_BK.min(1).values, self.overall.length(features_BF)


def _normal(mean_F: Tensor, centred_NF: Tensor) -> Normal:
    covariance_FF = centred_NF.T @ centred_NF / len(centred_NF)
    return Normal.with_covariance(mean_F, covariance_FF, centred_NF.dtype, _RIDGE)


@dataclass(frozen=True, slots=True)
class ClassifierScorer:
    """All scores of one classifier.

    Attributes:
        network: the classifier.
        inference: the settings of inference, for `label-energy`.
        gaussians: of the known images' responses, on the CPU.
        known_NF: responses to known images, of unit length, on the CPU.
    """

    network: Classifier
    inference: InferenceTable
    gaussians: Gaussians
    known_NF: Tensor

    @property
    def names(self) -> tuple[str, ...]:
        """Return the score columns; `label-energy` only where the rule `pc` trained the network."""
        return CLASSIFIER_SCORES if self.network.table.rule == "pc" else CLASSIFIER_SCORES[:-1]

    @classmethod
    def fit(
        cls, network: Classifier, images: Images, inference: InferenceTable | None = None
    ) -> ClassifierScorer:
        """Return the scorer of known, labelled images.

        Args:
            inference: the settings of inference, for a network that the rule `pc` trained.

        Raises:
            DataError: the images have no labels, or one cannot be read.
        """
        if images.labels is None:
            raise DataError(f"{images.source}: has no labels, which the score mahalanobis needs")
        numbers = chosen_rows(images, _FITTED)
        like = network.weights()[0]
        with torch.no_grad():
            features_NF = torch.cat(
                [network.features(d.to(like)).cpu() for d in readable_batches(images, numbers)]
            )
        kept = chosen_rows(images.subset(numbers), _NEIGHBOURS_KEPT)
        return cls(
            network,
            inference or InferenceTable(),
            Gaussians.fit(features_NF, images.labels[numbers]),
            functional.normalize(features_NF[kept], dim=1),
        )

    def __call__(self, data_BD: Tensor) -> dict[str, Tensor]:
        """Return a column (B,) for each of `names`, on the CPU in float64."""
        data_BD = data_BD.to(self.network.weights()[0])
        parts = [self._columns(part) for part in torch.split(data_BD, _BATCH)]
        return {name: torch.cat([part[name] for part in parts]) for name in self.names}

    @torch.no_grad()
    def _columns(self, data_BD: Tensor) -> dict[str, Tensor]:
        features_BF = self.network.features(data_BD)
        logits_BK = self.network.logits_of(features_BF).double()
        to_class_B, to_all_B = self.gaussians.distances(features_BF.cpu())
        columns = {
            "msp": msp(logits_BK),
            # Hendrycks et al. (2022)
            "max-logit": -logits_BK.max(1).values,
            # Liu et al. (2020), at temperature 1
            "energy-lse": -logits_BK.logsumexp(1),
            "entropy": entropy(logits_BK),
            "odin": odin(self.network, data_BD),
            "mahalanobis": to_class_B,
            "relative-mahalanobis": to_class_B - to_all_B,
            "knn": self._neighbour_distance(features_BF.cpu()),
        }
        if "label-energy" in self.names:
            columns["label-energy"] = label_energy(self.network, data_BD, self.inference)
        return {name: column.double().cpu() for name, column in columns.items()}

    def _neighbour_distance(self, features_BF: Tensor) -> Tensor:
        """Return the distance (B,) to the k-th nearest known response, all of unit length.

        Source: Sun et al. (2022).
        """
        k = max(1, round(_NEIGHBOUR * len(self.known_NF)))
        alike_BN = functional.normalize(features_BF, dim=1) @ self.known_NF.T
        nearest_B = alike_BN.topk(k, dim=1).values[:, -1]
        return (2 - 2 * nearest_B).clamp_min(0).sqrt()

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors that define the scorer beside the classifier, by name."""
        gaussians = self.gaussians
        return {
            "means": gaussians.means_KF,
            "whiten": gaussians.within.root_FF.T.contiguous(),
            "mean": gaussians.overall.mean_F,
            "whiten_all": gaussians.overall.root_FF.T.contiguous(),
            "bank": self.known_NF,
        }

    @classmethod
    def load(
        cls, network: Classifier, tensors: dict[str, Tensor], inference: InferenceTable
    ) -> ClassifierScorer:
        """Return the scorer whose `tensors()` these are."""
        mean_F = tensors["mean"]
        gaussians = Gaussians(
            tensors["means"],
            Normal(torch.zeros_like(mean_F), tensors["whiten"].T),
            Normal(mean_F, tensors["whiten_all"].T),
        )
        return cls(network, inference, gaussians, tensors["bank"])
