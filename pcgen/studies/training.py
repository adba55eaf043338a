"""The trainer of the studies: all seeds of a setting at once, and what they show at the end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from pcgen.data.sources import open_data
from pcgen.errors import DataError
from pcgen.intervals import interval
from pcgen.model.activations import activation
from pcgen.studies.chain import Batch, Chain
from pcgen.studies.rules import RULES

OPTIMISERS = ("adamw", "sgd")
STARTS = ("forward", "zero", "normal")
MOONS = "two-moons"
_TESTED = 1000


@dataclass(frozen=True, slots=True)
class Setting:
    """One training, for all seeds.

    Attributes:
        depth: layers of weights; there are depth - 1 hidden layers.
        kind: plain, residual or unscaled, as in `pcgen.studies.chain`.
        likelihood: gaussian (squared error) or categorical (cross entropy).
        rule: of `pcgen.studies.rules`.
        start: of the states: forward, zero or normal.
        steps: of inference; 0 is twice the depth.
        rate: of the states, divided by hidden precisions above 1; 0 is the rule's.
        momentum: of the states.
        precision: of the hidden errors.
        optimiser: adamw, or sgd with momentum 0.9.
        weight_rate: of the weights; 0 is 1e-3 for adamw and 3e-2 for sgd.
    """

    depth: int = 3
    width: int = 128
    kind: str = "plain"
    activation: str = "relu"
    likelihood: str = "gaussian"
    rule: str = "pc"
    start: str = "forward"
    steps: int = 8
    rate: float = 0.05
    momentum: float = 0.0
    precision: float = 1.0
    optimiser: str = "adamw"
    weight_rate: float = 0.0
    epochs: int = 1
    batch: int = 128

    @property
    def inference_steps(self) -> int:
        return self.steps or 2 * self.depth

    @property
    def state_rate(self) -> float:
        return (self.rate or RULES[self.rule].rate) / max(1.0, self.precision)


@dataclass(frozen=True, slots=True)
class Data:
    """Images (n, D) and labels (n,) to train on, to choose settings by, and to test on."""

    train: tuple[Tensor, Tensor]
    validation: tuple[Tensor, Tensor]
    test: tuple[Tensor, Tensor]
    classes: int


def load(name: str, images: int, data_dir: str | Path | None = None) -> Data:
    """Return the first images of a data set; as many as a fifth of them are held out.

    Values have mean 0 and variance 1 over all of the training images' pixels.

    Raises:
        DataError: a data set that cannot be found, without labels, or with too few images.
    """
    held = max(images // 5, 2)
    if name == MOONS:
        from sklearn.datasets import make_moons

        pixels, labels = make_moons(images + held + _TESTED, noise=0.1, random_state=0)
        data, kinds = torch.tensor(pixels, dtype=torch.float32), torch.tensor(labels)
        test = data[images + held :], kinds[images + held :]
    else:
        data, kinds = _rows(f"{name}:train", images + held, data_dir)
        test = _rows(f"{name}:test", None, data_dir)
        images = len(data) - held
    if images < 2:
        raise DataError(f"{name}: {len(data)} training images are too few for a study")
    mean, deviation = data[:images].mean(), data[:images].std()
    parts = [(data[:images], kinds[:images]), (data[images:], kinds[images:]), test]
    train, validation, test = [((x - mean) / deviation, labels) for x, labels in parts]
    return Data(train, validation, test, int(max(kinds.max(), test[1].max())) + 1)


def _rows(name: str, count: int | None, data_dir: str | Path | None) -> tuple[Tensor, Tensor]:
    images = open_data(name, data_dir=data_dir, limit=count, by_class=True)
    rows = images.rows(range(len(images)))
    if rows.labels_B is None:
        raise DataError(f"{name}: has no labels, which a study learns", "Use --data fashion-mnist")
    return rows.pixels_BD.float(), rows.labels_B


def train(setting: Setting, data: Data, seeds: int) -> dict[str, Tensor]:
    """Return what the seeds (S,) reach, by name.

    `validation` and `accuracy` are shares of held-out and of test images. The others are those of
    the last batch: `hidden_share` of the energy, `cosine` of the weights' gradient with backprop's,
    `energy_l` the norm over the batch of a layer's energies, `ratio` that of the last hidden
    layer's to the output's, and `ratio_first` that of the first hidden layer's to the next one's.
    """
    images, labels = data.train
    rule = RULES[setting.rule].run
    chain = Chain(
        (images.shape[1], setting.width, data.classes),
        setting.depth - 1,
        seeds,
        kind=setting.kind,
        activation=activation(setting.activation),
        entropy=setting.likelihood == "categorical",
    )
    optimiser = _optimiser(setting, chain.weights)
    source = torch.Generator().manual_seed(seeds)
    labels_K = functional.one_hot(labels, data.classes).to(images)
    size = min(setting.batch, len(images))
    for _ in range(setting.epochs):
        orders = torch.stack([torch.randperm(len(images), generator=source) for _ in range(seeds)])
        for index_SB in torch.split(orders[:, : len(images) // size * size], size, 1):
            batch = Batch(images[index_SB], labels_K[index_SB], source)
            at, hidden, output = rule(chain, batch, setting)
            gradients = chain.gradients(at, batch, hidden, output)
            for weight, gradient in zip(chain.weights, gradients, strict=True):
                weight.grad = gradient
            optimiser.step()
    # The weights' last step has changed the chain: all measures are of what it is now.
    at, hidden, output = rule(chain, batch, setting)
    energies = chain.energies(at, batch, setting.precision)
    norms = energies.norm(dim=-1)
    sums = energies.sum(-1)
    own = chain.gradients(at, batch, hidden, output)
    forward, *signals = RULES["backprop"].run(chain, batch, setting)
    return {
        "validation": accuracy(chain, *data.validation),
        "accuracy": accuracy(chain, *data.test),
        "hidden_share": sums[:-1].sum(0) / sums.sum(0),
        "cosine": cosine(own, chain.gradients(forward, batch, *signals)),
        "ratio": norms[-2] / norms[-1],
        "ratio_first": norms[0] / norms[1],
        **{f"energy_{i}": norm for i, norm in enumerate(norms) if setting.depth <= 4},
    }


def _optimiser(setting: Setting, weights: list[Tensor]) -> torch.optim.Optimizer:
    if setting.optimiser == "sgd":
        return torch.optim.SGD(weights, setting.weight_rate or 3e-2, momentum=0.9)
    return torch.optim.AdamW(weights, setting.weight_rate or 1e-3, weight_decay=1e-4)


def accuracy(chain: Chain, images: Tensor, labels: Tensor) -> Tensor:
    """Return the share (S,) of images whose label has the largest logit; NaN if there are none."""
    right = [
        chain.logits(chain.forward(part[None])).argmax(-1) == own
        for part, own in zip(torch.split(images, 2000), torch.split(labels, 2000), strict=True)
    ]
    return torch.cat(right, 1).float().mean(1)


def cosine(left: list[Tensor], right: list[Tensor]) -> Tensor:
    """Return the cosine (S,) of two lists of gradients of `Chain.weights`."""
    a, b = (
        # The hidden layers' have the seeds in their second dimension.
        torch.cat([(g.transpose(0, 1) if g.ndim == 4 else g).flatten(1) for g in part], 1)
        for part in (left, right)
    )
    return functional.cosine_similarity(a.double(), b.double(), dim=1)


def summary(values_S: Tensor) -> tuple[float | None, float | None, float | None]:
    """Return the mean and its 95 % interval by Student's t; None where it is no number."""
    if not torch.isfinite(values_S).all():
        return None, None, None
    values = values_S.tolist()
    return sum(values) / len(values), *interval(values)
