"""Learning by sampling: exact maximum likelihood where that is known, and runs that resume."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

import pcgen
from pcgen.commands.progress import Event
from pcgen.config import Recipe, from_dict
from pcgen.data.images import Images
from pcgen.data.sources import open_data
from pcgen.errors import DivergenceError, RecipeError
from pcgen.learning.initial import initial_network, sample
from pcgen.learning.mixture_em import fit_classes, step_mixture
from pcgen.learning.predictive_coding import PredictiveCoding
from pcgen.learning.train import Training
from pcgen.model.prior import Mixture
from pcgen.storage import checkpoint


def recipe(**tables: object) -> Recipe:
    whole: dict[str, object] = {
        "data": {"source": "digits", "limit": 120, "validation": 0},
        "model": {
            "layers": [3, 12],
            "likelihood": "bernoulli",
            "causes": 4,
            "precision": {"hidden": 50.0, "latent": 1.0},
        },
        "inference": {
            "solver": "kinetic",
            "test_steps": 20,
            "sampling": {
                "coordinates": "errors",
                "metropolis": True,
                "persistent": True,
                "burn_in": 2,
                "samples": 2,
                "relax": 1,
            },
        },
        "learning": {"epochs": 4, "batch_size": 40, "causes_warmup": 1, "rate": 0.01},
    }
    for name, table in tables.items():
        whole[name] = {**whole.get(name, {}), **table}  # type: ignore[dict-item]
    return from_dict(whole)


def gaussian_table(tmp_path: Path) -> Images:
    """Return rows of a known Gaussian in three columns, as a table."""
    source = torch.Generator().manual_seed(0)
    latent = torch.randn(200, 1, generator=source)
    rows = latent @ torch.tensor([[1.5, -0.8, 0.4]]) + 0.5 * torch.randn(200, 3, generator=source)
    path = tmp_path / "rows.csv"
    lines = ["a,b,c", *(",".join(f"{v:.5f}" for v in row) for row in rows.tolist())]
    path.write_text("\n".join(lines) + "\n")
    return open_data(str(path))


@pytest.mark.parametrize("coordinates", ["states", "errors"])
def test_a_linear_network_learns_the_covariance_of_its_data(
    coordinates: str, tmp_path: Path
) -> None:
    """Probabilistic PCA: what sampling learns is what the closed form says."""
    images = gaussian_table(tmp_path)
    data = images.rows(range(len(images))).pixels_BD
    covariance = torch.cov(data.T, correction=0).double()
    values, vectors = torch.linalg.eigh(covariance)
    rest = float(values[:2].mean())
    model = recipe(
        data={"source": "table"},
        model={
            "layers": [1],
            "likelihood": "gaussian",
            "activation": "linear",
            "causes": 1,
            "precision": {"data": 1 / rest, "latent": 1.0},
        },
        inference={
            "solver": "kinetic",
            "sampling": {
                "coordinates": coordinates,
                "burn_in": 3,
                "samples": 4,
                "warm": 0,
                "metropolis": True,
                "persistent": True,
            },
        },
        learning={"epochs": 180, "batch_size": 200, "rate": 0.05, "warmup": 0},
    )
    network = initial_network(model, data, images.shape)
    for _ in Training(PredictiveCoding(network, model, data)).run(images, None):
        pass
    weight = network.layers[0].matrix()[:, 0].double()
    expected = vectors[:, -1] * (values[-1] - rest).sqrt()
    expected = expected * torch.sign(expected @ weight)
    torch.testing.assert_close(weight, expected, rtol=0.06, atol=0.03)


def test_a_sampled_run_resumes_bit_for_bit(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    pcgen.train(recipe(), whole, device="cpu")

    class StopError(Exception):
        pass

    def stop(event: Event) -> None:
        if event.done == 240:
            raise StopError

    with pytest.raises(StopError):
        pcgen.train(recipe(), parts, device="cpu", on_progress=stop)
    pcgen.train(None, parts, device="cpu", resume=True)
    first, second = (checkpoint.load(path / "model.safetensors").tensors for path in (whole, parts))
    assert "prior.means" in first
    assert first["prior.means"].abs().sum() > 0
    assert first["prior.0.means"].abs().sum() > 0
    for name, tensor in first.items():
        assert torch.equal(tensor, second[name]), name


def test_sampling_lowers_the_error_and_remembers_the_chains() -> None:
    images = open_data("digits", limit=120)
    model = recipe(learning={"epochs": 20, "warmup": 0})
    rows = sample(images, 0)
    network = initial_network(model, rows, images.shape, images.class_count)
    training = Training(PredictiveCoding(network, model, rows))
    errors = [p.mse for p in training.run(images, None) if p.ends_epoch]
    assert errors[-1] < 0.85 * errors[0]
    assert isinstance(training.learner, PredictiveCoding)
    assert training.learner.posterior is not None
    ends = training.learner.posterior.ends_NK
    assert ends.shape == (120, 4)
    assert (ends[:, -1] > 0).all()
    assert network.mixture is not None
    assert network.mixture.log_weights_YK.shape == (10, 4)
    torch.testing.assert_close(network.mixture.log_weights_YK.exp().sum(1), torch.ones(10))


def test_expectation_maximisation_finds_the_causes_and_their_classes() -> None:
    source = torch.Generator().manual_seed(0)
    centres = torch.tensor([[-4.0, 0.0], [4.0, 1.0], [0.0, 5.0]])
    cause = torch.arange(900) % 3
    latents = centres[cause] + 0.5 * torch.randn(900, 2, generator=source)
    prior = Mixture.standard(3, 2, 3, latents)
    before = float(prior.energy(latents).mean())
    for _ in range(10):
        step_mixture(prior, latents, cause, source)
    assert float(prior.energy(latents).mean()) < before
    distance = torch.cdist(prior.means_KL, centres)
    assert (distance.min(1).values < 0.2).all()
    assert sorted(distance.argmin(1).tolist()) == [0, 1, 2]
    deviation = torch.linalg.inv(prior.roots_KLL @ prior.roots_KLL.mT).diagonal(dim1=1, dim2=2)
    assert ((deviation.sqrt() - 0.5).abs() < 0.25).all()
    own = prior.log_weights_YK.exp().max(1)
    assert (own.values > 0.99).all()


def test_a_class_has_a_mixture_of_its_latents_alone() -> None:
    source = torch.Generator().manual_seed(0)
    classes = torch.arange(800) % 2
    # Both classes lie around one centre, so that the common components tell them apart badly.
    latents = torch.randn(800, 2, generator=source)
    latents[:, 0] = latents[:, 0].abs() * (2 * classes - 1)
    prior = Mixture.standard(4, 2, 3, latents)
    for _ in range(5):
        step_mixture(prior, latents, classes, source)
    assert prior.of_class(0).means_KL is prior.means_KL
    fit_classes(prior, latents, classes, source)
    for label in (0, 1):
        own = prior.of_class(label)
        normal, uniform = torch.randn(400, 2, generator=source), torch.rand(400, generator=source)
        drawn = own.draw(normal, uniform, None)
        assert float((drawn[:, 0] * (2 * label - 1) > 0).float().mean()) > 0.85
        assert own is prior.of_classes[label]
    # The third class has no rows: its samples come from the common components.
    torch.testing.assert_close(prior.of_class(2).means_KL, prior.means_KL)


def learned_prior(images: Images) -> Mixture:
    model, rows = recipe(), sample(images, 0)
    network = initial_network(model, rows, images.shape, images.class_count)
    network = network.to("cpu", torch.float64)
    for _ in Training(PredictiveCoding(network, model, rows.double())).run(images, None):
        pass
    assert network.mixture is not None
    return network.mixture


@pytest.mark.parametrize("labels", ["shuffled", "absent"])
def test_labels_change_neither_the_causes_nor_their_overall_weights(labels: str) -> None:
    images = open_data("digits", limit=120)
    assert images.labels is not None
    shuffled = images.labels[torch.randperm(120, generator=torch.Generator().manual_seed(0))]
    other = learned_prior(replace(images, labels=shuffled if labels == "shuffled" else None))
    prior = learned_prior(images)
    assert prior.means_KL.any()
    torch.testing.assert_close(other.means_KL, prior.means_KL)
    torch.testing.assert_close(other.roots_KLL, prior.roots_KLL)
    torch.testing.assert_close(other.log_weights(), prior.log_weights())


def test_a_class_has_the_weights_of_the_causes_that_explain_its_latents() -> None:
    source = torch.Generator().manual_seed(0)
    centres = torch.tensor([[-3.0, 0.0], [0.0, 3.0], [0.0, 0.0], [3.0, 3.0]])
    place = torch.arange(800) % 4
    latents = centres[place] + 0.4 * torch.randn(800, 2, generator=source)
    prior = Mixture.standard(4, 2, 2, latents)
    for _ in range(5):
        step_mixture(prior, latents, place // 2, source)
    nearest = torch.cdist(prior.means_KL, centres).argmin(1)
    for label in range(2):
        own = nearest // 2 == label
        assert float(prior.log_weights_YK[label, own].exp().sum()) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ({"inference": {"solver": "majorise"}}, "learned from chains"),
        ({"inference": {"sampling": {"persistent": False}}}, "chains that go on"),
        ({"learning": {"incremental": True}}, "incremental"),
        ({"model": {"causes": 1, "precision": {"latent": 0.0}}}, "needs a prior"),
        ({"model": {"labels": True}}, "does not work with model.labels"),
    ],
)
def test_settings_that_do_not_go_together_are_said(tables: dict[str, object], said: str) -> None:
    images = open_data("digits", limit=50)
    model, rows = recipe(**tables), sample(images, 0)
    with pytest.raises(RecipeError, match=said):
        Training(PredictiveCoding(initial_network(model, rows, images.shape, 10), model, rows))


def test_a_step_that_diverges_stops_training_and_names_a_stable_one() -> None:
    images = open_data("digits", limit=50)
    sampling = {"coordinates": "states", "precondition": False, "step": 1.5, "burn_in": 200}
    model = recipe(model={"causes": 1}, inference={"solver": "kinetic", "sampling": sampling})
    rows = sample(images, 0)
    training = Training(PredictiveCoding(initial_network(model, rows, images.shape), model, rows))
    with pytest.raises(DivergenceError, match="largest stable one"):
        for _ in training.run(images, None):
            pass
