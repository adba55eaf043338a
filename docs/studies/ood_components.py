"""Choose the scores that `pc-fisher` combines, without using any set of the benchmark.

    pcgen train mnist-ood --out runs/mnist-ood
    python docs/studies/ood_components.py runs/mnist-ood

The validation images, which chose the epoch and do not calibrate, are distorted in ways that the
benchmark does not use: parts of two digits put together, sheared, stretched, cut, thinned and so
on, and pictures that are no digits at all. None is turned or mirrored: the benchmark does that.
Prints the AUROC of each score and each combination for every distortion. They are ranked by the
mean of log(1 - AUROC) over all distortions; the second column is the mean over those of shape.
"""

from __future__ import annotations

import itertools
import math
import sys

import numpy as np
import torch
from scipy.stats import rankdata
from torch import Tensor
from torch.nn import functional

from pcgen.commands.session import open_model
from pcgen.data.images import parts as split_parts
from pcgen.data.sources import open_data
from pcgen.ood import conformal as calibration
from pcgen.ood import scores
from pcgen.storage.checkpoint import Model

PART_A, KNOWN, DISTORTED = 500, 900, 600
_FLOOR = 1e-4  # of 1 - AUROC, so that no single distortion decides the mean
Columns = dict[str, np.ndarray]


def _affine(image: Tensor, rows: list[list[Tensor | float]]) -> Tensor:
    """Return images (B, 28, 28) seen through a linear map of the plane."""
    count = len(image)
    matrix = torch.stack(
        [torch.stack([torch.as_tensor(v).float().expand(count) for v in row], 1) for row in rows],
        1,
    )
    grid = functional.affine_grid(matrix, [count, 1, 28, 28], align_corners=False)
    return functional.grid_sample(image[:, None], grid, align_corners=False)[:, 0]


def shapes(image: Tensor, draw: torch.Generator) -> dict[str, Tensor]:
    """Return digits (B, 28, 28) whose shape is wrong."""
    count = len(image)
    other = image[torch.randperm(count, generator=draw)]
    sign = (torch.rand(count, generator=draw) < 0.5).float() * 2 - 1
    shear = sign * (0.6 + 0.3 * torch.rand(count, generator=draw))
    bend = functional.interpolate(
        0.25 * torch.randn(count, 2, 7, 7, generator=draw), size=(28, 28), mode="bicubic"
    ).permute(0, 2, 3, 1)
    straight = functional.affine_grid(
        torch.eye(2, 3).expand(count, 2, 3), [count, 1, 28, 28], align_corners=False
    )
    distorted = {
        "halves, one above": torch.cat([image[:, :14], other[:, 14:]], 1),
        "halves, side by side": torch.cat([image[:, :, :14], other[:, :, 14:]], 2),
        "sheared": _affine(image, [[1.0, shear, 0.0], [0.0, 1.0, 0.0]]),
        "bent": functional.grid_sample(image[:, None], straight + bend, align_corners=False)[:, 0],
        "two on top": torch.maximum(image, other),
        "quadrants": image.roll(14, 2),
        "rolled": image.roll(14, 1),
        "small": _affine(image, [[1.6, 0.0, 0.0], [0.0, 1.6, 0.0]]),
        "large": _affine(image, [[0.7, 0.0, 0.0], [0.0, 0.7, 0.0]]),
        "narrow": _affine(image, [[1.5, 0.0, 0.0], [0.0, 0.85, 0.0]]),
        "thick": functional.max_pool2d(image[:, None], 3, 1, 1)[:, 0],
        "thin": -functional.max_pool2d(-image[:, None], 3, 1, 1)[:, 0],
        "moved": _affine(image, [[1.0, 0.0, 0.3 * sign], [0.0, 1.0, 0.0]]),
        "cut": image.clone(),
    }
    for row, (y, x) in enumerate(torch.randint(4, 18, (count, 2), generator=draw).tolist()):
        distorted["cut"][row, y : y + 8, x : x + 8] = 0
    return distorted


def pictures(image: Tensor, draw: torch.Generator) -> dict[str, Tensor]:
    """Return digits with wrong pixel values, and pictures (B, 28, 28) that are no digits."""
    count = len(image)
    y, x = torch.meshgrid(torch.linspace(-1, 1, 28), torch.linspace(-1, 1, 28), indexing="ij")

    def uniform() -> Tensor:
        return torch.rand(count, 1, 1, generator=draw)

    angle = math.pi * uniform()
    across = x * angle.cos() + y * angle.sin()
    coarse = torch.randn(count, 1, 7, 7, generator=draw)
    smooth = functional.interpolate(coarse, size=(28, 28), mode="bicubic")[:, 0]
    speck = torch.rand(count, 28, 28, generator=draw)
    rough = 0.25 * torch.randn(count, 28, 28, generator=draw)
    centre_x, centre_y = uniform() - 0.5, uniform() - 0.5
    wave = (6 + 10 * uniform()) * across + 2 * math.pi * uniform()
    inside = (x.abs() < 0.7) & (y.abs() < 0.7)
    return {
        "brightened": image**0.35,
        "darkened": image**4,
        "specks": torch.where(speck < 0.05, 1.0, torch.where(speck > 0.95, 0.0, image)),
        "rough strokes": (image + rough * (image > 0.05)).clamp(0, 1),
        "clouds": torch.sigmoid(4 * smooth),
        "stripes": 0.5 + 0.5 * torch.sin(wave),
        "ramp": (0.5 + 0.35 * across).clamp(0, 1),
        "dot": torch.exp(-((x - centre_x) ** 2 + (y - centre_y) ** 2) / (2 * 0.12**2)),
        "line": torch.exp(-(((across - 0.3 * centre_x) / 0.07) ** 2)) * inside,
    }


def columns_of(scorer: scores.PCScorer, data_BD: Tensor) -> Columns:
    """Return the scores of images, by name."""
    parts = [scorer(batch) for batch in torch.split(data_BD, 500)]
    return {n: torch.cat([part[n] for part in parts]).double().numpy() for n in scorer.names}


def held_out(model: Model) -> tuple[scores.PCScorer, Tensor]:
    """Return the scorer fitted to a model's training images, and the validation images."""
    table = model.recipe.data
    images = open_data(table.source)
    kept, validation, _ = split_parts(
        images, table.validation, table.calibration, model.recipe.seed
    )
    scorer = scores.fit(model.network, kept, model.recipe.inference)
    order = torch.randperm(len(validation), generator=torch.Generator().manual_seed(0))
    return scorer, validation.rows(order[: PART_A + KNOWN + DISTORTED]).pixels_BD


def _parts(columns: Columns, part_a: Columns) -> Columns:
    """Return what each score adds to a combined one."""
    return {
        name: calibration.fisher(column[:, None], part_a[name][:, None])
        for name, column in columns.items()
    }


def _auroc(known: np.ndarray, unusual: np.ndarray) -> float:
    ranks = rankdata(np.concatenate([known, unusual]))[len(known) :]
    count = len(unusual)
    return float((ranks.sum() - count * (count + 1) / 2) / (count * len(known)))


def main() -> None:
    scorer, data_ND = held_out(open_model(sys.argv[1]))
    part_a = columns_of(scorer, data_ND[:PART_A])
    known = columns_of(scorer, data_ND[PART_A : PART_A + KNOWN])
    image = data_ND[PART_A + KNOWN :].view(-1, 28, 28)
    draw = torch.Generator().manual_seed(1)
    wrong = shapes(image, draw)
    near = set(wrong)
    wrong |= pictures(image, draw)
    unusual = {name: columns_of(scorer, data.flatten(1)) for name, data in wrong.items()}

    own = {name: _parts(columns, part_a) for name, columns in unusual.items()}
    own_known = _parts(known, part_a)
    candidates = [
        names for size in (1, 2, 3, 4, 5) for names in itertools.combinations(scorer.names, size)
    ]
    ranked = []
    for names in candidates:
        areas = {
            name: _auroc(
                np.sum([own_known[n] for n in names], 0), np.sum([parts[n] for n in names], 0)
            )
            for name, parts in own.items()
        }
        costs = {name: math.log(max(1 - area, _FLOOR)) for name, area in areas.items()}
        shape = sum(costs[name] for name in near) / len(near)
        ranked.append((sum(costs.values()) / len(costs), shape, names, areas))
    ranked.sort(key=lambda entry: entry[0])
    shown = [entry for entry in ranked if len(entry[2]) == 1]
    for mean, shape, names, areas in shown + ranked[:12]:
        print(f"{mean:6.2f} {shape:6.2f}  {' '.join(names)}")
        if len(names) == 1 or names == scorer.components:
            print("   ", ", ".join(f"{name} {area:.3f}" for name, area in areas.items()))


if __name__ == "__main__":
    main()
