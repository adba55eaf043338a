"""`pcgen bench sampling`: images drawn in several ways, judged by a classifier's features."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pcgen.benchmarks.sampling.generation import (
    frechet_distance,
    inception_score,
    nearest_distance,
    precision_recall,
)
from pcgen.benchmarks.sampling.generators import Generator, generators
from pcgen.benchmarks.sampling.rows import row
from pcgen.benchmarks.table import Tell
from pcgen.classification.network import Classifier
from pcgen.config import Recipe
from pcgen.data.images import Images, Rows, split
from pcgen.model.network import Network

# Samples that are compared with the training images, and the quantile of the test images' distances
# to them below which a sample is near.
_COMPARED = 1000
_NEAR = 0.01


def image_rows(
    dataset: str,
    recipe: Recipe,
    network: Network,
    images: Images,
    test: Images,
    classifier: Classifier,
    samples: int,
    tell: Tell,
) -> list[dict[str, Any]]:
    """Return the table of an image set: every choice on the validation split, test data once.

    Args:
        network: trained by the recipe.
        classifier: whose features compare samples with the test images.
    """
    kept, held_out = split(images, recipe.data.validation, recipe.seed)
    ways = generators(recipe, network, kept, held_out, tell)
    train_BD = kept.rows(range(len(kept))).pixels_BD
    real = test.rows(range(min(samples, len(test))))
    judge = _Judge(classifier, real, train_BD, dataset)
    rows = judge.floor()
    for i, way in enumerate(ways):
        tell("judging samples", i + 1, len(ways))
        rows += judge.rows(way, way.draw(samples, recipe.seed))
    return rows


class _Judge:
    """Compares samples with test images, by a classifier's features, and with training images."""

    def __init__(self, classifier: Classifier, real: Rows, train_BD: Tensor, dataset: str) -> None:
        self.classifier, self.train_BD, self.dataset = classifier, train_BD, dataset
        self.real, self.labels_B = real.pixels_BD, real.labels_B
        self.features_BF, self.logits_BK = self._of(real.pixels_BD)
        self.distance_B = nearest_distance(self.real[:_COMPARED], train_BD)

    def floor(self) -> list[dict[str, Any]]:
        """Return the rows of real images, which no generator is expected to better."""
        training_BF, _ = self._of(self.train_BD[: len(self.real)])
        distance = frechet_distance(training_BF, self.features_BF)
        score = inception_score(self.logits_BK)
        return [
            row("training images", "frechet", [distance], self.dataset),
            row("test images", "inception score", [score], self.dataset),
        ]

    def rows(self, generator: Generator, drawn_BD: Tensor) -> list[dict[str, Any]]:
        """Return all rows of one generator, from the images (B, D) that it drew."""
        features_BF, logits_BK = self._of(drawn_BD)
        precision, recall = precision_recall(features_BF, self.features_BF)
        distance_B = nearest_distance(drawn_BD[:_COMPARED], self.train_BD)
        near = self.distance_B.quantile(_NEAR)
        values = {
            "frechet": frechet_distance(features_BF, self.features_BF),
            "inception score": inception_score(logits_BK),
            "precision": precision,
            "recall": recall,
            "nearest training image": float(distance_B.median() / self.distance_B.median()),
            "as near as the nearest 1 % of test images": float((distance_B < near).float().mean()),
        }
        if self.labels_B is not None:
            values["class frequencies off by"] = self._off(logits_BK)
        return [
            row(generator.name, metric, [value], self.dataset, generator.seconds)
            | {"parameters": generator.parameters}
            for metric, value in values.items()
        ]

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
