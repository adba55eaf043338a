"""Baseline scores: theory, agreement with pytorch-ood, and that images are judged alone."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch import nn
from torch.nn import functional

from pcgen.benchmarks.ood.baselines import (
    AutoencoderScorer,
    PPCAScorer,
    TrivialScorer,
    statistics,
)
from pcgen.classification.network import Classifier
from pcgen.classification.training import ClassifierLearner, initial_classifier
from pcgen.config import ClassifierTable, InferenceTable, from_dict
from pcgen.data import vision
from pcgen.data.images import Images
from pcgen.data.sources import open_data
from pcgen.errors import DataError
from pcgen.learning.train import Training
from pcgen.ood.scores.classifier import ClassifierScorer, label_energy, msp


def trained(**table: Any) -> Classifier:
    recipe = from_dict(
        {
            "classifier": {"channels": [4, 8], "hidden": [24], **table},
            "inference": {"steps": 8},
            "learning": {"epochs": 6, "batch_size": 50, "rate": 5e-3, "warmup": 0},
        }
    )
    images = open_data("digits")
    training = Training(ClassifierLearner(initial_classifier(recipe, images, None), recipe))
    for _ in training.run(images, None):
        pass
    return training.network


@pytest.fixture(scope="module")
def convnet() -> Classifier:
    return trained()


@pytest.fixture(scope="module")
def pcn() -> Classifier:
    return trained(kind="mlp", rule="pc")


@pytest.fixture(scope="module")
def known() -> Images:
    return open_data("digits")


@pytest.fixture(scope="module")
def data_BD() -> torch.Tensor:
    digits = open_data("digits:test").rows(range(60)).pixels_BD
    noise = torch.rand(40, 64, generator=torch.Generator().manual_seed(0))
    return torch.cat([digits, noise])


@pytest.fixture(scope="module")
def detectors() -> ModuleType:
    vision.torchvision()  # mended first, where it must be: pytorch-ood imports it
    return pytest.importorskip("pytorch_ood.detector")


class Module(nn.Module):
    """A classifier as pytorch-ood takes it."""

    def __init__(self, network: Classifier, features: bool = False) -> None:
        super().__init__()
        self.answer = network.features if features else network.logits

    def forward(self, data_BD: torch.Tensor) -> torch.Tensor:
        return self.answer(data_BD)


def test_scores_of_the_logits_are_pytorch_oods(
    convnet: Classifier, known: Images, data_BD: torch.Tensor, detectors: ModuleType
) -> None:
    found = ClassifierScorer.fit(convnet, known)(data_BD)
    found["msp"] = -torch.exp(-found["msp"])
    model = Module(convnet)
    theirs = {
        "msp": detectors.MaxSoftmax(model),
        "max-logit": detectors.MaxLogit(model),
        "energy-lse": detectors.EnergyBased(model),
        "entropy": detectors.Entropy(model),
        "odin": detectors.ODIN(model),
    }
    for name, detector in theirs.items():
        expected = detector.predict(data_BD).detach().double().numpy()
        assert found[name].numpy() == pytest.approx(expected, rel=1e-4, abs=1e-5), name


def test_scores_of_the_features_are_pytorch_oods(
    convnet: Classifier, known: Images, data_BD: torch.Tensor, detectors: ModuleType
) -> None:
    with torch.no_grad():
        features_NF = convnet.features(known.rows(range(len(known))).pixels_BD)
        features_BF = convnet.features(data_BD)
    scorer = ClassifierScorer.fit(convnet, known)
    found = scorer(data_BD)
    count = len(known)
    # Theirs is in float32 and does not divide the covariance by the number of images.
    z, y = features_NF.double(), known.labels
    gaussian = detectors.Mahalanobis(None).fit_features(z.float(), y)
    gaussian.mu, gaussian.precision = gaussian.mu.double(), gaussian.precision.double()
    expected = 2 * count * gaussian.predict_features(features_BF.double())
    assert found["mahalanobis"].numpy() == pytest.approx(expected.numpy(), rel=1e-2)
    relative = detectors.RMD(None).fit_features(z.float(), y)
    expected = count * relative.predict_features(features_BF)
    wanted = pytest.approx(expected.numpy(), rel=2e-2, abs=0.5)
    assert found["relative-mahalanobis"].numpy() == wanted
    k = max(1, round(1e-3 * count))
    neighbours = detectors.KNN(None, k=k).fit_features(features_NF, y)
    expected = neighbours.predict_features(features_BF)
    assert found["knn"].numpy() == pytest.approx(expected.numpy(), abs=2e-3)


def test_an_image_is_judged_alone(
    convnet: Classifier, known: Images, data_BD: torch.Tensor
) -> None:
    scorers = [
        ClassifierScorer.fit(convnet, known),
        PPCAScorer.fit(known, 8),
        TrivialScorer.fit(known),
        AutoencoderScorer(nn.Linear(64, 64)),
    ]
    for scorer in scorers:
        whole = scorer(data_BD)
        parts = [scorer(part) for part in torch.split(data_BD.flip(0), 7)]
        assert tuple(whole) == scorer.names
        for name, column in whole.items():
            alone = torch.cat([part[name] for part in parts]).flip(0)
            assert column.dtype == torch.float64
            assert alone.numpy() == pytest.approx(column.numpy(), rel=1e-4, abs=1e-4), name


def test_a_loaded_scorer_gives_the_same_scores(
    convnet: Classifier, known: Images, data_BD: torch.Tensor
) -> None:
    fitted = ClassifierScorer.fit(convnet, known)
    loaded = ClassifierScorer.load(convnet, fitted.tensors(), fitted.inference)
    scores = loaded(data_BD)
    for name, column in fitted(data_BD).items():
        assert torch.equal(column, scores[name])


def test_noise_is_more_unusual_than_digits_by_every_score_of_the_features(
    convnet: Classifier, known: Images, data_BD: torch.Tensor
) -> None:
    found = ClassifierScorer.fit(convnet, known)(data_BD)
    for name in ("msp", "entropy", "mahalanobis", "knn"):
        assert found[name][60:].median() > found[name][:60].median()


def test_msp_does_not_round_to_ties() -> None:
    logits = torch.tensor([[60.0, 0.0, 0.0], [61.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
    found = msp(logits)
    assert found[0] > found[1] > 0
    assert found[2].item() == pytest.approx(np.log(3))


def test_a_discriminative_networks_energy_is_msp_before_inference_and_less_after(
    pcn: Classifier, known: Images, data_BD: torch.Tensor
) -> None:
    network = pcn.network()
    logits_BK = pcn.logits(data_BD)
    label_BK = functional.one_hot(logits_BK.argmax(1), 10).float()
    states = network.states_from(data_BD, label_BK)
    before = network.energy(states)
    expected = -logits_BK.double().log_softmax(1).max(1).values
    assert before.numpy() == pytest.approx(expected.numpy(), rel=1e-4, abs=1e-5)
    assert msp(logits_BK.double()).numpy() == pytest.approx(expected.numpy(), rel=1e-9, abs=1e-12)
    after = label_energy(pcn, data_BD, InferenceTable())
    assert bool((after <= before + 1e-5).all())
    assert bool((after < 0.99 * before)[before > 0.1].all())
    assert "label-energy" in ClassifierScorer.fit(pcn, known).names


def test_ppca_is_scikit_learns_likelihood(known: Images, data_BD: torch.Tensor) -> None:
    pixels = known.rows(range(len(known))).pixels_BD.double().numpy()
    reference = PCA(12, svd_solver="full").fit(pixels)
    expected = -reference.score_samples(data_BD.double().numpy())
    found = PPCAScorer.fit(known, 12)(data_BD)["ppca"].numpy()
    # scikit-learn divides the covariance by N - 1.
    assert found == pytest.approx(expected, rel=5e-3)


def test_ppca_is_the_free_energy_of_a_linear_network(known: Images, data_BD: torch.Tensor) -> None:
    from pcgen.inference.infer import infer
    from pcgen.inference.solvers import prepare
    from pcgen.model.layers import Dense
    from pcgen.model.network import Network

    scorer = PPCAScorer.fit(known, 12)
    covariance = torch.cov(known.rows(range(len(known))).pixels_BD.double().T, correction=0)
    values, vectors = torch.linalg.eigh(covariance)
    weight = vectors[:, -12:] * (values[-12:] - scorer.noise).sqrt()
    table = from_dict({"model": {"layers": [12], "precision": {"latent": 1.0}}}).model
    precisions = [-torch.tensor(scorer.noise, dtype=torch.float64).log(), torch.zeros(()).double()]
    network = Network.of(table, [Dense(weight, scorer.mean_D)], precisions)
    network.typical_latents = network.typical_latents.double()
    inference = InferenceTable(solver="newton")
    found = infer(prepare(network, inference), data_BD.double(), steps=50, tolerance=1e-12)
    # The energy leaves out constants: log det and 2 pi.
    likelihood = scorer(data_BD)["ppca"] - scorer.constant
    assert found.energy_B.numpy() == pytest.approx(likelihood.numpy(), rel=1e-4)


def test_statistics_of_known_images() -> None:
    flat, board = torch.full((1, 16), 0.75), torch.arange(16).reshape(4, 4)
    board = ((board + board // 4) % 2).float().reshape(1, 16)
    found = statistics(torch.cat([flat, board]), (1, 4, 4))
    assert found["trivial-bright"].tolist() == [1.0, 0.5]
    assert found["trivial-variation"].tolist() == [0.0, 1.0]
    assert found["trivial-zlib"][0] <= found["trivial-zlib"][1]


def test_images_without_labels_fit_no_classifier(convnet: Classifier) -> None:
    from dataclasses import replace

    bare = replace(open_data("digits", limit=20), labels=None)
    with pytest.raises(DataError, match="no labels"):
        ClassifierScorer.fit(convnet, bare)
    assert ClassifierTable().rule == "backprop"
