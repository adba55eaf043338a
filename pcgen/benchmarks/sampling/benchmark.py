"""`pcgen bench sampling`: images drawn in several ways, judged by a classifier's features."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from pcgen.benchmarks.reconstruction import Tell
from pcgen.benchmarks.sampling.generation import (
    frechet_distance,
    inception_score,
    nearest,
    precision_recall,
)
from pcgen.benchmarks.sampling.makers import Generator, makers
from pcgen.benchmarks.sampling.rows import measured
from pcgen.config import Recipe
from pcgen.data.images import Images, Rows, split
from pcgen.model.network import Network

# Samples that are looked at for copies, and the share of test images that lie as near.
_LOOKED_AT = 1000
_NEAR = 0.01


class Features(Protocol):
    """A classifier as it is asked here."""

    def features(self, data_BD: Tensor) -> Tensor: ...

    def logits_of(self, features_BF: Tensor) -> Tensor: ...


def image_rows(
    dataset: str,
    recipe: Recipe,
    network: Network,
    images: Images,
    test: Images,
    classifier: Features,
    samples: int,
    tell: Tell,
) -> list[dict[str, Any]]:
    """Return the table of an image set: every choice on the validation split, test data once.

    Args:
        network: trained by the recipe.
        classifier: whose features compare samples with the test images.
    """
    kept, held_out = split(images, recipe.data.validation, recipe.seed)
    ways = makers(recipe, network, kept, held_out, tell)
    train_BD = kept.rows(range(len(kept))).pixels_BD
    real = test.rows(range(min(samples, len(test))))
    judge = _Judge(classifier, real, train_BD, dataset)
    rows = judge.floor()
    for i, maker in enumerate(ways):
        tell("judging samples", i + 1, len(ways))
        rows += judge.rows(maker, maker.draw(samples, recipe.seed))
    return rows


class _Judge:
    """What test images and a classifier's features say of samples."""

    def __init__(self, classifier: Features, real: Rows, train_BD: Tensor, dataset: str) -> None:
        self.classifier, self.train_BD, self.dataset = classifier, train_BD, dataset
        self.real, self.labels_B = real.pixels_BD, real.labels_B
        self.features_BF, self.logits_BK = self._of(real.pixels_BD)
        self.distance_B = nearest(self.real[:_LOOKED_AT], train_BD)[0]

    def floor(self) -> list[dict[str, Any]]:
        """Return what images that are no samples would get."""
        training_BF, _ = self._of(self.train_BD[: len(self.real)])
        distance = frechet_distance(training_BF, self.features_BF)
        score, _ = inception_score(self.logits_BK)
        return [
            measured("training images", "frechet", distance, self.dataset),
            measured("test images", "inception score", score, self.dataset),
        ]

    def rows(self, maker: Generator, drawn_BD: Tensor) -> list[dict[str, Any]]:
        """Return all rows of one generator."""
        features_BF, logits_BK = self._of(drawn_BD)
        precision, recall = precision_recall(features_BF, self.features_BF)
        distance_B = nearest(drawn_BD[:_LOOKED_AT], self.train_BD)[0]
        near = self.distance_B.quantile(_NEAR)
        values = {
            "frechet": frechet_distance(features_BF, self.features_BF),
            "inception score": inception_score(logits_BK)[0],
            "precision": precision,
            "recall": recall,
            "nearest training image": float(distance_B.median() / self.distance_B.median()),
            "as near as the nearest 1 % of test images": float((distance_B < near).float().mean()),
        }
        if self.labels_B is not None:
            values["class frequencies off by"] = self._off(logits_BK)
        found = [measured(maker.name, k, v, self.dataset, maker.seconds) for k, v in values.items()]
        return [row | {"parameters": maker.parameters} for row in found]

    def _of(self, data_BD: Tensor) -> tuple[Tensor, Tensor]:
        """Return features (B, F) and logits (B, K)."""
        parts = [self.classifier.features(part.clamp(0, 1)) for part in torch.split(data_BD, 1000)]
        features_BF = torch.cat(parts)
        return features_BF, self.classifier.logits_of(features_BF)

    def _off(self, logits_BK: Tensor) -> float:
        """Return half the sum of the differences between the classes' shares and the labels'."""
        assert self.labels_B is not None
        classes = logits_BK.shape[1]
        shares = [
            torch.bincount(labels, minlength=classes) / len(labels)
            for labels in (logits_BK.argmax(1), self.labels_B)
        ]
        return 0.5 * float((shares[0] - shares[1]).abs().sum())
