"""Class-wise energies: the least names the class, and counts in the class's own deviations."""

from __future__ import annotations

import torch
from torch import Tensor

from pcgen.ood.scores.experts import Experts, fit_experts


def blobs(count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Return images of 16 units in four classes, of different spread, and their labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 4
    centres = 4 * torch.eye(16)[:4]
    spread = torch.tensor([0.3, 0.5, 0.8, 1.0])[labels][:, None]
    return centres[labels] + spread * torch.randn(count, 16, generator=generator), labels


def test_the_class_of_least_energy_is_the_images_own() -> None:
    data, labels = blobs(800)
    experts = fit_experts(data, labels + 5)
    new, own = blobs(400, seed=1)
    found = experts.known_K[experts(new).class_B]
    assert (found == own + 5).double().mean() > 0.98


def test_known_images_energies_have_mean_0_and_deviation_1_in_every_class() -> None:
    data, labels = blobs(800)
    found = fit_experts(data, labels)(data)
    for label in range(4):
        own = found.energy_B[(labels == label) & (found.class_B == label)].double()
        assert abs(float(own.mean())) < 0.1
        assert abs(float(own.std()) - 1) < 0.1


def test_what_lies_between_classes_is_unusual_to_each() -> None:
    data, labels = blobs(800)
    experts = fit_experts(data, labels)
    between = (data[labels == 0][:100] + data[labels == 1][:100]) / 2
    usual = experts(data).energy_B.quantile(0.95)
    assert (experts(between).energy_B > usual).double().mean() > 0.9


def test_a_class_of_many_images_is_several_networks() -> None:
    generator = torch.Generator().manual_seed(0)
    sides = torch.where(torch.arange(2000) % 2 == 0, -3.0, 3.0)[:, None]
    data = torch.randn(2000, 8, generator=generator) + sides
    experts = fit_experts(data, torch.zeros(2000, dtype=torch.long))
    assert len(experts.class_E) > 1
    assert experts(torch.zeros(1, 8)).energy_B > experts(data).energy_B.quantile(0.99)


def test_without_labels_images_that_look_alike_are_a_class() -> None:
    data, _ = blobs(4000)
    experts = fit_experts(data, None)
    assert len(experts.known_K) == 4
    assert (experts.known_K == -1).all()


def test_a_single_image_of_a_class_is_enough() -> None:
    data, labels = blobs(81)
    labels[-1] = 9
    found = fit_experts(data, labels)(data)
    assert found.energy_B.isfinite().all()
    assert found.layers_B.isfinite().all()


def test_stored_experts_give_the_same_energies() -> None:
    data, labels = blobs(400)
    experts = fit_experts(data, labels)
    again = Experts.load(experts.tensors(), data)
    assert torch.equal(again(data).energy_B, experts(data).energy_B)
    assert torch.equal(again(data).layers_B, experts(data).layers_B)
