"""Compare a network with predictions both ways with networks and plain methods for one purpose.

    python docs/studies/both_ways.py labels mnist-both-ways
    python docs/studies/both_ways.py pixels mnist-both-ways
    python docs/studies/both_ways.py samples mnist-both-ways mnist-sampler
    python docs/studies/both_ways.py unusual mnist-both-ways

`labels` prints the share of test images with the right label, with none and with 80 % of their
pixels hidden. The baselines are trained here on the same images: a backprop classifier with the
layers of the upward chain, with all pixels and with randomly hidden ones, and the nearest training
images. `pixels` prints the mean squared error of the hidden pixels. `samples` prints Frechet
distances on the features of `mnist-classifier`, and how many samples of a class it takes for that
class. `unusual` prints the AUROC of energies.
"""

from __future__ import annotations

import copy
import itertools
import math
import sys
from collections.abc import Callable

import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn import functional

from pcgen.benchmarks.sampling.generation import frechet_distance
from pcgen.classification.both_ways import BothWays
from pcgen.commands.masks import visible
from pcgen.commands.session import open_classifier, open_model, session
from pcgen.config import Recipe
from pcgen.data.images import Images, parts
from pcgen.data.sources import open_data
from pcgen.device import generator
from pcgen.inference.infer import infer
from pcgen.inference.solvers import prepare
from pcgen.learning.latent_regression import principal_components
from pcgen.model.network import Network
from pcgen.sampling.draw import ancestral
from pcgen.storage.checkpoint import Model

MASKS = ("", "80%")
BATCH = 500
EPOCHS = 8
COMPONENTS = 64
NEIGHBOURS = 5
# Test images that are compared with all training images.
COMPARED = 2000
OTHERS = ("fashion-mnist:test", "kannada-mnist:test", "omniglot:test")
Labeller = Callable[[Tensor], Tensor]
"""Returns the likeliest class (B,) of data (B, D) whose hidden pixels are NaN."""


def without_upward(network: Network) -> Network:
    """Return the downward chain alone, its weights shared."""
    alone = copy.copy(network)
    alone.upward = None
    return alone


def train_classifier(
    data_ND: Tensor, labels_N: Tensor, mean_D: Tensor, hidden: list[int], *, hide: float
) -> torch.nn.Sequential:
    """Return a classifier trained by backprop, with a share of up to `hide` of pixels hidden."""
    sizes = [data_ND.shape[1], *hidden]
    torch.manual_seed(0)
    layers: list[torch.nn.Module] = []
    for below, above in itertools.pairwise(sizes):
        layers += [torch.nn.Linear(below, above), torch.nn.GELU()]
    network = torch.nn.Sequential(*layers, torch.nn.Linear(sizes[-1], int(labels_N.max()) + 1))
    optimiser = torch.optim.AdamW(network.parameters(), lr=2e-3, weight_decay=0.01)
    source = generator(0, "both-ways")
    total, update = EPOCHS * math.ceil(len(data_ND) / 250), 0
    for _ in range(EPOCHS):
        for index_B in torch.randperm(len(data_ND), generator=source).split(250):
            chosen_B1, share_B1 = torch.rand(2, len(index_B), 1, generator=source)
            hidden_B1 = torch.where(chosen_B1 < 0.5, hide * share_B1, 0.0)
            pixels = torch.rand(len(index_B), data_ND.shape[1], generator=source)
            data_BD = data_ND[index_B].masked_fill(pixels < hidden_B1, torch.nan)
            for group in optimiser.param_groups:
                group["lr"] = 2e-3 * (0.5 + 0.5 * math.cos(math.pi * update / total))
            loss = functional.cross_entropy(network(inputs(data_BD, mean_D)), labels_N[index_B])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            update += 1
    return network


def inputs(data_BD: Tensor, mean_D: Tensor) -> Tensor:
    """Return what the classifiers see: as `Upward.input`, with hidden pixels at the mean."""
    share_B1 = (~data_BD.isnan()).float().mean(1, keepdim=True)
    return (data_BD - mean_D).nan_to_num(0.0) * share_B1.rsqrt()


def completed_by_components(data_BD: Tensor, mean_D: Tensor, basis_DK: Tensor) -> Tensor:
    """Return data with hidden pixels at their mean given the visible ones, by probabilistic PCA.

    Args:
        basis_DK: components times the deviations of their scores.
    """
    noise = 0.02
    completed = data_BD.clone()
    eye = torch.eye(basis_DK.shape[1])
    for row in completed:
        seen_D = ~row.isnan()
        seen_SK = basis_DK[seen_D]
        right_K = seen_SK.T @ (row - mean_D)[seen_D]
        score_K = torch.linalg.solve(seen_SK.T @ seen_SK + noise * eye, right_K)
        row[~seen_D] = (mean_D + basis_DK @ score_K)[~seen_D]
    return completed


def nearest(data_ND: Tensor, labels_N: Tensor) -> Labeller:
    """Return the commonest label of the training images nearest in the visible pixels."""

    def label(data_BD: Tensor) -> Tensor:
        return labels_N[neighbours(data_ND, data_BD)].mode(1).values

    return label


def neighbours(data_ND: Tensor, data_BD: Tensor) -> Tensor:
    """Return the numbers (B, K) of the training images nearest in the visible pixels."""
    seen_BD = (~data_BD.isnan()).float()
    known_BD = data_BD.nan_to_num(0.0)
    distance_BN = seen_BD @ data_ND.square().T - 2 * known_BD @ data_ND.T
    return distance_BN.topk(NEIGHBOURS, 1, largest=False).indices


def downward_latent(network: Network, recipe: Recipe, data_BD: Tensor) -> Tensor:
    """Return the latents (B, L) of least energy of the downward chain alone."""
    method = prepare(without_upward(network), recipe.inference.for_use())
    mask_BD = (~data_BD.isnan()).float()
    known_BD = data_BD.nan_to_num(0.0)
    return infer(method, known_BD, steps=100, tolerance=1e-4, mask_BD=mask_BD).states[-1]


def decoded(network: Network, recipe: Recipe, data_BD: Tensor) -> Tensor:
    """Return the data (B, D) that the downward chain's latent predicts."""
    return network.decode(downward_latent(network, recipe, data_BD))


def labels(loaded: Model) -> None:
    """Print the share of right labels of every method, by the hidden share."""
    recipe, network = loaded.recipe, loaded.network
    assert network.upward is not None
    assert network.mixture is not None
    kept, held_out, _ = parts(open_data("mnist"), recipe.data.validation, 0.0, recipe.seed)
    data_ND, labels_N = kept.rows(range(len(kept))).pixels_BD, kept.labels
    assert labels_N is not None
    mean_D = data_ND.mean(0)
    components_DK, variances_K = principal_components(data_ND[:20_000] - mean_D, COMPONENTS)
    basis_DK = components_DK * variances_K.sqrt()
    hidden = recipe.model.upward
    plain = train_classifier(data_ND, labels_N, mean_D, hidden, hide=0.0)
    hiding = train_classifier(data_ND, labels_N, mean_D, hidden, hide=recipe.learning.hide)
    reader = BothWays(network, recipe.inference)

    def by_upward(data_BD: Tensor) -> Tensor:
        mask_BD = (~data_BD.isnan()).float()
        assert network.upward is not None
        return network.upward.predictions(data_BD.nan_to_num(0.0), mask_BD)[1].argmax(1)

    def by_downward(data_BD: Tensor) -> Tensor:
        assert network.mixture is not None
        return network.mixture.log_classes(downward_latent(network, recipe, data_BD)).argmax(1)

    def by_components(data_BD: Tensor) -> Tensor:
        whole_BD = completed_by_components(data_BD, mean_D, basis_DK)
        return plain(inputs(whole_BD, mean_D)).argmax(1)

    ways: dict[str, tuple[Labeller, int]] = {
        "both ways": (lambda data_BD: reader.logits(data_BD).argmax(1), 10_000),
        f"both ways, the first {COMPARED:,}": (
            lambda data_BD: reader.logits(data_BD).argmax(1),
            COMPARED,
        ),
        "its upward predictions alone": (by_upward, 10_000),
        "its downward chain alone": (by_downward, COMPARED),
        "backprop, randomly hidden pixels": (
            lambda data_BD: hiding(inputs(data_BD, mean_D)).argmax(1),
            10_000,
        ),
        "backprop, all pixels; hidden ones at the mean": (
            lambda data_BD: plain(inputs(data_BD, mean_D)).argmax(1),
            10_000,
        ),
        "the same; completed by principal components": (by_components, COMPARED),
        f"{NEIGHBOURS} nearest training images": (nearest(data_ND, labels_N), COMPARED),
    }
    for split, images in (("held-out", held_out), ("test", test())):
        for name, (label, count) in ways.items():
            shares = [accuracy(label, images.head(count), mask, recipe) for mask in MASKS]
            shown = ", ".join(f"{m or 'none'} {s:.2%}" for m, s in zip(MASKS, shares, strict=True))
            print(f"{split} ({min(count, len(images)):,}): {name}: {shown}", flush=True)


def pixels(loaded: Model) -> None:
    """Print the mean squared error of hidden pixels of every method, by the hidden share."""
    recipe, network = loaded.recipe, loaded.network
    kept, _, _ = parts(open_data("mnist"), recipe.data.validation, 0.0, recipe.seed)
    data_ND = kept.rows(range(len(kept))).pixels_BD
    mean_D = data_ND.mean(0)
    components_DK, variances_K = principal_components(data_ND[:20_000] - mean_D, COMPONENTS)
    basis_DK = components_DK * variances_K.sqrt()

    def by_nearest(data_BD: Tensor) -> Tensor:
        return data_ND[neighbours(data_ND, data_BD)].mean(1)

    ways: dict[str, Labeller] = {
        "both ways": BothWays(network, recipe.inference).completed,
        "its downward chain alone": lambda data_BD: decoded(network, recipe, data_BD),
        "principal components": lambda data_BD: completed_by_components(data_BD, mean_D, basis_DK),
        f"mean of {NEIGHBOURS} nearest training images": by_nearest,
        "mean image": lambda data_BD: mean_D.expand_as(data_BD),
    }
    whole_ND = test().rows(range(COMPARED)).pixels_BD
    for name, fill in ways.items():
        shown = []
        for mask in MASKS[1:]:
            numbers = list(range(COMPARED))
            seen_ND = visible(mask, loaded.shape, whole_ND, numbers, recipe.seed)
            hidden_ND = torch.where(seen_ND, whole_ND, torch.nan)
            filled_ND = torch.cat([fill(part) for part in hidden_ND.split(BATCH)]).clamp(0, 1)
            error = (filled_ND - whole_ND)[~seen_ND].square().mean()
            shown.append(f"{mask} {error:.4f}")
        print(f"{name}: {', '.join(shown)}", flush=True)


def test() -> Images:
    return open_data("mnist:test")


def accuracy(label: Labeller, images: Images, mask: str, recipe: Recipe) -> float:
    """Return the share of right labels of images under a mask."""
    right = 0
    for first in range(0, len(images), BATCH):
        numbers = list(range(first, min(first + BATCH, len(images))))
        rows = images.rows(numbers)
        data_BD = rows.pixels_BD
        if mask:
            seen_BD = visible(mask, images.shape, data_BD, numbers, recipe.seed)
            data_BD = torch.where(seen_BD, data_BD, torch.nan)
        right += int((label(data_BD) == rows.labels_B).sum())
    return right / len(images)


def samples(models: list[Model]) -> None:
    """Print the Frechet distance of 10,000 samples of each model, and of samples of each class."""
    judge = open_classifier("mnist-classifier").network
    real_BD = test().rows(range(10_000)).pixels_BD
    train_BD = open_data("mnist").rows(range(10_000)).pixels_BD

    def features(data_BD: Tensor) -> Tensor:
        return torch.cat([judge.features(part.clamp(0, 1)) for part in data_BD.split(1000)])

    real_BF = features(real_BD)
    print(f"training images: {frechet_distance(features(train_BD), real_BF):.2f}")
    for loaded in models:
        drawn_BF = features(ancestral(loaded.network, 10_000, 0).data_BD)
        shares = [
            float(
                (judge.logits(ancestral(loaded.network, 500, 0, label=k).data_BD).argmax(1) == k)
                .float()
                .mean()
            )
            for k in range(10)
        ]
        print(
            f"{loaded.header['recipe']['name']}: {frechet_distance(drawn_BF, real_BF):.2f}; of the "
            f"class asked for: {sum(shares) / 10:.1%} (least {min(shares):.1%})",
            flush=True,
        )


def unusual(loaded: Model) -> None:
    """Print the AUROC of energies: 2,000 digits against 2,000 images of other sets."""
    table, network = loaded.recipe.inference, loaded.network

    def energies(data_BD: Tensor) -> dict[str, Tensor]:
        found = {}
        for name, chosen in (("both ways", network), ("downward", without_upward(network))):
            method = prepare(chosen, table.for_use())
            ends = [infer(method, part, steps=30) for part in data_BD.split(BATCH)]
            found[name] = torch.cat([end.energy_B for end in ends])
        assert network.upward is not None
        log_labels_BK = network.upward.predictions(data_BD)[1]
        return found | {"the label's probability": -log_labels_BK.amax(1)}

    known = energies(test().rows(range(2000)).pixels_BD)
    for other in OTHERS:
        new = energies(open_data(other, like=loaded.shape).rows(range(2000)).pixels_BD)
        areas = []
        for name, known_B in known.items():
            truth = [0] * 2000 + [1] * 2000
            areas.append(f"{name} {roc_auc_score(truth, torch.cat([known_B, new[name]])):.3f}")
        print(f"{other}: {', '.join(areas)}", flush=True)


def main() -> None:
    task, *names = sys.argv[1:]
    with session("cpu") as place, torch.set_grad_enabled(task == "labels"):
        models = [place.ready(open_model(name), BATCH) for name in names]
        if task == "samples":
            samples(models)
        elif task == "pixels":
            pixels(models[0])
        elif task == "unusual":
            unusual(models[0])
        else:
            labels(models[0])


if __name__ == "__main__":
    main()
