"""Effective samples a second of CPU time: kinetic chains beside the published sampler."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec
import torch
from torch import Tensor

from pcgen.benchmarks.sampling.rows import row
from pcgen.benchmarks.table import Tell
from pcgen.config import InferenceTable, Recipe
from pcgen.data.images import Images
from pcgen.errors import DivergenceError
from pcgen.model.network import Network
from pcgen.sampling.ancestral import draw_states
from pcgen.sampling.chains import Chains, Posterior
from pcgen.sampling.diagnostics import effective_sample_size, r_hat
from pcgen.sampling.noise import SampleNoise

# Chains that run together, from independent starts. The effective sample size of a sampler that
# hardly moves is about their number, which flatters it: so there are few chains and many steps.
_CHAINS = 4
_STEPS = 10_000
# Shares of the largest stable step that are tried for the published sampler.
_SHARES = (0.5, 0.9)

_Begin = Callable[[Posterior], Chains]


def chain_rows(
    dataset: str, recipe: Recipe, network: Network, test: Images, tell: Tell, steps: int = _STEPS
) -> list[dict[str, Any]]:
    """Return effective samples a second of CPU time, of the quantity that mixes worst, and R-hat.

    They are measured on free chains and on chains that are given an image. The published sampler
    moves states with M = 1 and a momentum of 0.9, at the better of two shares of the largest stable
    step (the published rate diverges at these precisions). Where its R-hat is far from 1, its
    effective samples are only its independent starts, so the ratios are lower bounds.
    """
    image_D = test.rows([0]).pixels_BD[0]
    rows = []
    for i, (target, data_D) in enumerate({"free": None, "given an image": image_D}.items()):
        metric = f"ess per second, {target}"
        begin = _settled(network, recipe.inference, data_D, steps // 2)
        speeds = {}
        for sampler, choices in _samplers(network, recipe.inference, begin).items():
            tell(f"chains, {target}: {sampler}", i + 1, 2)
            measured = [_speed(begin(Posterior(network, table)), steps) for table in choices]
            speeds[sampler], worst = max(measured)
            rows.append(row(sampler, metric, [speeds[sampler]], dataset))
            if speeds[sampler]:
                rows.append(row(sampler, f"r-hat, {target}", [worst], dataset))
        first, second, *_, published = speeds
        for ours in (first, second) if speeds[published] else ():
            ratio = speeds[ours] / speeds[published]
            rows.append(row(f"{ours} over {published}", metric, [ratio], dataset))
    return rows


def _samplers(
    network: Network, table: InferenceTable, begin: _Begin
) -> dict[str, list[InferenceTable]]:
    """Return the samplers by name, each with the settings to try."""

    def changed(solver: str, **settings: Any) -> InferenceTable:
        sampling = msgspec.structs.replace(table.sampling, **settings)
        return msgspec.structs.replace(table, solver=solver, sampling=sampling)

    plain = {"coordinates": "states", "precondition": False, "metropolis": False, "friction": 0.1}
    momentum = Posterior(network, changed("momentum", **plain, step=1e-6))
    largest = momentum.largest_step(begin(momentum))
    return {
        "kinetic": [changed("kinetic", jump=0)],
        "kinetic, jumps": [table],
        "kinetic, states": [changed("kinetic", coordinates="states", step=None)],
        "momentum, published": [
            changed("momentum", **plain, step=share * largest) for share in _SHARES
        ],
    }


def _settled(network: Network, table: InferenceTable, image_D: Tensor | None, steps: int) -> _Begin:
    """Return a function that begins a sampler's chains where kinetic chains were after `steps`.

    Args:
        image_D: the data of the chains; None for free chains, whose data are hidden.
    """
    like = [network.layers[0].weight.new_empty(0, size) for size in network.sizes[1:]]
    states = draw_states(network, SampleNoise(0, "speed", range(_CHAINS), like))
    mask_BD = torch.zeros_like(states[0])
    if image_D is not None:
        states[0], mask_BD = image_D.to(mask_BD).expand_as(mask_BD), torch.ones_like(mask_BD)

    def begin(posterior: Posterior) -> Chains:
        noise = SampleNoise(0, f"speed/{posterior.sampler}", range(_CHAINS), like)
        return posterior.begin(states, lambda like: noise, mask_BD=mask_BD)

    chains = begin(Posterior(network, table))
    for _ in range(steps):
        chains.step(adapt=chains.metropolis)
    states = chains.states
    return begin


def _speed(chains: Chains, steps: int) -> tuple[float, float]:
    """Return effective samples a second and R-hat, after a burn-in of half as many steps.

    Both are 0 if the chains diverged.
    """
    for _ in range(steps // 2):
        chains.step(adapt=chains.metropolis)
    trace, began = [], time.process_time()
    for step in range(1, steps + 1):
        chains.step()
        if chains.jumps and step % chains.jumps == 0:
            chains.jump()
        top_BD = chains.states[chains.posterior.network.latent]
        trace.append(torch.cat([chains.energy_B[:, None], top_BD], 1))
    seconds = time.process_time() - began
    try:
        chains.require_finite()
    except DivergenceError:
        return 0.0, 0.0
    values = torch.stack(trace)
    return float(effective_sample_size(values).min()) / seconds, float(r_hat(values).max())
