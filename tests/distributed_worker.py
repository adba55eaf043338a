"""What each process of `test_distributed.py` runs: one job, named on the command line."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from pcgen.config import from_dict
from pcgen.data.images import Images, Store
from pcgen.data.sources import open_data
from pcgen.distributed import joined
from pcgen.learning.initial import initial_network, sample
from pcgen.learning.predictive_coding import PredictiveCoding
from pcgen.learning.train import Training
from pcgen.learning.validate import measure


class Double:
    """A store whose pixels are float64."""

    def __init__(self, store: Store) -> None:
        self.store, self.shape = store, store.shape

    def __len__(self) -> int:
        return len(self.store)

    def id(self, row: int) -> str:
        return self.store.id(row)

    def digest(self) -> bytes:
        return self.store.digest()

    def read(self, index_B: Tensor) -> tuple[Tensor, list[str], list[str]]:
        pixels_BD, status, reason = self.store.read(index_B)
        return pixels_BD.double(), status, reason


def train(job: dict[str, Any]) -> dict[str, Tensor]:
    """Return all of a run's tensors after its epochs, in float64, and what it measured."""
    found = from_dict(job["recipe"])
    images = open_data("digits", limit=job["limit"])
    images: Images = replace(images, store=Double(images.store))
    sample_BD = sample(images, found.seed)
    with joined(os.environ, "cpu", "") as group, torch.no_grad():
        network = initial_network(found, sample_BD, images.shape, images.class_count)
        network = network.to("cpu", torch.float64)
        training = Training(PredictiveCoding(network, found, sample_BD), group)
        *_, progress = training.run(images, images.head(job["held_out"]))
    assert progress.validation is not None
    measured = measure(network, images.head(job["held_out"]), found.inference)
    reported = [progress.energy, progress.mse, progress.images]
    shared = [progress.validation.count, progress.validation.energy, progress.validation.mse]
    return training.tensors() | {
        "reported": torch.tensor(reported, dtype=torch.float64),
        "validated": torch.tensor(shared, dtype=torch.float64),
        "alone": torch.tensor([measured.count, measured.energy, measured.mse]).double(),
    }


def main() -> None:
    torch.set_num_threads(1)
    jobs = json.loads(sys.argv[1])
    torch.save([train(job) for job in jobs], sys.argv[2] + os.environ.get("RANK", ""))


if __name__ == "__main__":
    main()
