"""Count the steps that `majorise` and the best-tuned `descent` need on a trained MNIST model.

    pcgen train mnist --out runs/tanh --set model.activation=tanh --set model.output=linear \
        --set model.start=zero --set model.precision.hidden=1.0 --set model.precision.latent=0.0 \
        --set inference.solver=majorise --set inference.steps=20 --set learning.epochs=2 \
        --set learning.rate=2e-3
    python docs/studies/solvers.py runs/tanh

Prints, for hidden precision 1 and 10, the first step at which the mean energy of 500 test images is
within 1e-3 of the least energy that any solver found.
"""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import msgspec
import torch
from torch import Tensor

from pcgen.commands.session import open_model
from pcgen.config import InferenceTable
from pcgen.data.sources import open_data
from pcgen.inference.solvers import prepare
from pcgen.model.network import Network

IMAGES, STEPS, LONG, NEAR = 500, 300, 3000, 1e-3
RATES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3)
MOMENTA = (0.0, 0.5, 0.8, 0.9)


def energies(network: Network, data_BD: Tensor, table: InferenceTable, steps: int) -> Tensor:
    """Return the mean energy (steps,) after each step."""
    inference = prepare(network, table).begin(data_BD)
    means = []
    for _ in range(steps):
        inference.step()
        means.append(inference.energy_B.mean())
    return torch.stack(means)


def first_near(path: Tensor, least: Tensor) -> int | None:
    """Return the first step from which the energy stays near the least, or None."""
    far = ~(path <= least * (1 + NEAR))
    last_far = int(far.nonzero().max()) if far.any() else -1
    return None if last_far == len(path) - 1 else last_far + 2


def main() -> None:
    model = open_model(Path(sys.argv[1]))
    data_BD = open_data("mnist:test").rows(range(IMAGES)).pixels_BD.double()
    for hidden in (1.0, 10.0):
        precision = msgspec.structs.replace(model.recipe.model.precision, hidden=hidden)
        table = msgspec.structs.replace(model.recipe.model, precision=precision)
        network = Network.of(table, model.network.layers, model.network.log_precisions)
        network.log_precisions[1:-1] = [
            torch.tensor(hidden).log() for _ in network.log_precisions[1:-1]
        ]
        network.load(model.network.tensors() | _precisions(network))
        network = network.to("cpu", torch.float64)
        paths = {
            name: energies(network, data_BD, InferenceTable(solver=name), STEPS)  # type: ignore[arg-type]
            for name in ("majorise", "newton", "errors")
        }
        for rate, momentum in itertools.product(RATES, MOMENTA):
            tuned = InferenceTable(solver="descent", rate=rate, momentum=momentum)
            paths[f"descent {rate:g}, momentum {momentum:g}"] = energies(
                network, data_BD, tuned, STEPS
            )
        long = energies(network, data_BD, InferenceTable(solver="newton"), LONG)
        least = min(path[path.isfinite()].min() for path in [*paths.values(), long])
        arrivals = {name: first_near(path, least) for name, path in paths.items()}
        descents = {n: s for n, s in arrivals.items() if n.startswith("descent") and s is not None}
        best = min(descents, key=lambda name: descents[name]) if descents else None
        diverged = sum(
            not (path[-1] <= path[0]) for name, path in paths.items() if name.startswith("descent")
        )
        print(f"hidden precision {hidden:g}: least energy {least:.6f}")
        for name in ("majorise", "newton", "errors"):
            print(f"  {name}: {arrivals[name]} steps")
        print(f"  descent, best of {len(RATES) * len(MOMENTA)}: {best}: {descents.get(best or '')}")
        print(f"  descent diverges or rises at {diverged} of {len(RATES) * len(MOMENTA)} settings")


def _precisions(network: Network) -> dict[str, Tensor]:
    return {f"log_precisions.{i}": p for i, p in enumerate(network.log_precisions)}


if __name__ == "__main__":
    with torch.no_grad():
        main()
