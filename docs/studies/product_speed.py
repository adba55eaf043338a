"""Measure torch's own matrix products (MKL) against oneDNN's, alone and in whole computations.

    python docs/studies/product_speed.py [ROUNDS]

Needs MNIST. Prints the rate of each operation for several sizes, and the time of a training batch
of the recipe `mnist`, of scoring 500 images with `mnist-ood`, and of a training batch of W1. Both
operations run in turn on one thread; the time is that of the thread, so that other processes do not
count. Numbers are medians, and the ratio is the median of the ratios of neighbouring runs.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pcgen.benchmarks.speed.workloads import WORKLOADS
from pcgen.commands.recipes import resolve_recipe
from pcgen.commands.session import Session, open_detector
from pcgen.commands.train import set_up, training_of
from pcgen.data.images import Rows
from pcgen.data.sources import open_data
from pcgen.device import processor
from pcgen.learning.predictive_coding import PredictiveCoding
from pcgen.learning.train import Batch, Learner
from pcgen.model import products
from pcgen.ood.scoring import columns_of

NAMES = (products.TORCH, products.ONEDNN)
# Images, inner size, outer size.
SIZES = (
    (200, 256, 784),
    (200, 784, 256),
    (200, 256, 256),
    (250, 128, 784),
    (200, 128, 128),
    (200, 64, 256),
    (250, 64, 64),
    (200, 10, 256),
    (500, 512, 512),
    (4096, 1024, 1024),
)


def seconds(run: Callable[[], Any]) -> float:
    began = time.thread_time()
    run()
    return time.thread_time() - began


def repeated(run: Callable[[], Any], times: int) -> None:
    for _ in range(times):
        run()


def compare(what: str, run: Callable[[], Any], rounds: int, gigaflop: float = 0.0) -> None:
    """Print the median time, or rate, of `run` with each operation, and the ratio."""
    times: dict[str, list[float]] = {name: [] for name in NAMES}
    for turn in range(rounds + 1):
        for name in NAMES:
            products.use(name)
            took = seconds(run)
            if turn:  # the first turn prepares
                times[name].append(took)
    medians = [statistics.median(times[name]) for name in NAMES]
    shown = [f"{gigaflop / m:7.1f} GFLOP/s" if gigaflop else f"{1e3 * m:8.2f} ms" for m in medians]
    pairs = zip(*times.values(), strict=True)
    ratio = statistics.median(plain / fast for plain, fast in pairs)
    print(f"{what:45s} torch {shown[0]}  onednn {shown[1]}  {ratio:.2f} times as fast", flush=True)


def sizes(rounds: int) -> None:
    """Compare single products; those below the least size too."""
    least, products.LEAST = products.LEAST, 0
    for images, inner, outer in SIZES:
        source = torch.Generator().manual_seed(0)
        x = torch.randn(images, inner, generator=source)
        weight = torch.randn(outer, inner, generator=source)
        bias, start = torch.randn(outer, generator=source), torch.randn(images, outer)
        back = weight.T.contiguous()
        work = 2e-9 * images * inner * outer
        repeats = max(1, round(1e8 / (images * inner * outer)))
        kinds: dict[str, Callable[[], Any]] = {
            "x W' + b": partial(products.linear, x, weight, bias),
            "x W": partial(products.product, x, back),
            "z - x W": partial(products.minus_product, start, x, back),
            "x' z": partial(products.transposed_product, x, start),
        }
        for kind, product in kinds.items():
            what = f"{images} x {inner} x {outer}: {kind}"
            compare(what, partial(repeated, product, repeats), rounds, repeats * work)
    products.LEAST = least


def training(learner: Learner, pixels_BD: Tensor) -> Callable[[], Any]:
    count = len(pixels_BD)
    numbers = torch.arange(count)
    rows = Rows(pixels_BD, ["ok"] * count, [""] * count, numbers)
    return partial(learner.learn, Batch(rows, numbers))


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    torch.set_num_threads(1)
    print(processor(), "torch", torch.__version__)
    with torch.no_grad():
        sizes(rounds)
    place = Session(torch.device("cpu"))
    recipe = resolve_recipe("mnist")
    setup = set_up(place, recipe)
    learner = training_of(setup.network, recipe, setup.sample_BD, len(setup.images)).learner
    pixels_BD = setup.images.rows(range(recipe.learning.batch_size)).pixels_BD
    compare("a training batch of mnist", training(learner, pixels_BD), rounds)
    scorers = open_detector("mnist-ood").scorers
    test_BD = open_data("mnist:test").rows(range(500)).pixels_BD
    compare("mnist-ood, 500 images", partial(columns_of, scorers, test_BD), rounds)
    workload = WORKLOADS["W1"]
    pixels_BD = workload.data(workload.batch)
    learner = PredictiveCoding(workload.network(), workload.recipe(), pixels_BD)
    compare("a training batch of W1", training(learner, pixels_BD), rounds)


if __name__ == "__main__":
    main()
