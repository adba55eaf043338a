"""Effective samples a second of free chains: kinetic beside the published sampler."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import torch

from pcgen.config import InferenceTable, Recipe
from pcgen.evaluation.benchmark import Tell
from pcgen.evaluation.sampling_benchmark import measured
from pcgen.inference.ancestral import draw_states
from pcgen.inference.chains import Chains, Posterior
from pcgen.inference.diagnostics import effective_sample_size
from pcgen.inference.noise import SampleNoise
from pcgen.model.network import Network

# Chains that are timed together.
_AT_ONCE = 50


def chain_rows(
    dataset: str, recipe: Recipe, network: Network, steps: int, tell: Tell
) -> list[dict[str, Any]]:
    """Return effective samples a second of free chains: kinetic beside the published sampler.

    The published one moves states with M = 1, at the better of half and nine tenths of the largest
    stable step (its published rate diverges at these precisions).
    """
    sampling = recipe.inference.sampling
    kinetic = recipe.inference
    states = msgspec.structs.replace(
        kinetic, sampling=msgspec.structs.replace(sampling, coordinates="states", step=None)
    )
    rows = [
        measured(
            f"kinetic, {table.sampling.coordinates}",
            "ess per second",
            _speed(network, table, steps),
            dataset,
        )
        for table in (kinetic, states)
    ]
    plain = msgspec.structs.replace(
        sampling,
        coordinates="states",
        precondition=False,
        metropolis=False,
        friction=0.1,
        step=1e-6,
    )
    momentum = msgspec.structs.replace(kinetic, solver="momentum", sampling=plain)
    largest = Posterior(network, momentum).largest_step(_free(network, momentum))
    speeds = []
    for share in (0.5, 0.9):
        tuned = msgspec.structs.replace(plain, step=share * largest)
        table = msgspec.structs.replace(momentum, sampling=tuned)
        speeds.append(_speed(network, table, steps))
    rows.append(measured("momentum, published", "ess per second", max(speeds), dataset))
    return rows


def _free(network: Network, table: InferenceTable) -> Chains:
    """Return free chains at draws from the distribution."""
    numbers = range(_AT_ONCE)
    like = [network.layers[0].weight.new_empty(0, size) for size in network.sizes[1:]]
    noise = SampleNoise(0, "speed", numbers, like)
    states = draw_states(network, noise)
    return Posterior(network, table).begin(
        states, lambda like: noise, mask_BD=torch.zeros_like(states[0])
    )


def _speed(network: Network, table: InferenceTable, steps: int) -> float:
    """Return effective samples a second of free chains, of the quantity that mixes worst."""
    chains = _free(network, table)
    for _ in range(steps // 2):
        chains.step(adapt=chains.metropolis)
    trace, began = [], time.monotonic()
    for _ in range(steps):
        chains.step()
        top_BD = chains.states[network.latent]
        trace.append(torch.cat([chains.energy_B[:, None], top_BD], 1))
    seconds = time.monotonic() - began
    chains.require_finite()
    return float(effective_sample_size(torch.stack(trace)).min()) / seconds
