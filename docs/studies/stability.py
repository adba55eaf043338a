"""Train one MNIST epoch at each of 18 settings and print whether the energy fell.

    python docs/studies/stability.py [WIDTH ...]

Widths 128, 512 and 2048 (decoder 64-WIDTH-WIDTH-784, tanh, unit precisions), AdamW and SGD, weight
rates 1e-4, 1e-3 and 1e-2, constant after a warm-up of 50 updates; `majorise` with 5 steps, batches
of 500. Compares the training energy of the first and of the last tenth of the epoch's batches.
"""

from __future__ import annotations

import itertools
import sys
import time

import torch

from pcgen.config import from_dict
from pcgen.data.sources import open_data
from pcgen.errors import DivergenceError
from pcgen.learning.initial import initial_network, sample
from pcgen.learning.predictive_coding import PredictiveCoding
from pcgen.learning.train import Training


def main() -> None:
    widths = [int(word) for word in sys.argv[1:]] or [128, 512, 2048]
    images = open_data("mnist")
    for width, optimiser, rate in itertools.product(widths, ("adamw", "sgd"), (1e-2, 1e-3, 1e-4)):
        recipe = from_dict(
            {
                "model": {"layers": [64, width, width]},
                "inference": {"solver": "majorise", "steps": 5},
                "learning": {
                    "epochs": 1,
                    "batch_size": 500,
                    "optimiser": optimiser,
                    "rate": rate,
                    "schedule": "constant",
                },
            }
        )
        sample_BD = sample(images, recipe.seed)
        network = initial_network(recipe, sample_BD, images.shape)
        training = Training(PredictiveCoding(network, recipe, sample_BD))
        began, sums = time.monotonic(), [0.0]
        failed = ""
        try:
            sums += [p.energy * p.images for p in training.run(images, None)]
        except DivergenceError as error:
            failed = error.message
        batches = [(b - a) / 500 for a, b in itertools.pairwise(sums)]
        tenth = max(1, len(batches) // 10)
        first, last = sum(batches[:tenth]) / tenth, sum(batches[-tenth:]) / tenth
        verdict = failed or ("falls" if last < first else "RISES")
        print(
            f"{width:5d} {optimiser:5s} {rate:g}: energy {first:.3f} -> {last:.3f}"
            f" (highest {max(batches):.3f}), {verdict}, {time.monotonic() - began:.0f} s",
            flush=True,
        )


if __name__ == "__main__":
    with torch.no_grad():
        main()
