"""Effective samples a second of CPU time: kinetic chains beside the published sampler."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec
import torch
from torch import Tensor

from pcgen.benchmarks.sampling.rows import row
from pcgen.benchmarks.table import Tell
from pcgen.config import InferenceTable, Recipe
from pcgen.data.images import Images
from pcgen.errors import DivergenceError
from pcgen.inference.solvers import prepare
from pcgen.model.network import Network
from pcgen.sampling.ancestral import draw_states
from pcgen.sampling.chains import Chains, Posterior
from pcgen.sampling.diagnostics import effective_sample_size, r_hat
from pcgen.sampling.modes import Modes
from pcgen.sampling.noise import SampleNoise
from pcgen.sampling.settled import modes_for_jumps

# Chains that run together, from independent starts. The effective sample size of a sampler that
# hardly moves is about their number, which flatters it: so there are few chains and many steps.
_CHAINS = 4
_STEPS = 10_000
# Shares of the largest stable step that are tried for the published sampler.
_SHARES = (0.5, 0.9)

_JUMPS = "kinetic, jumps between modes"
_PUBLISHED = "momentum, published"

_Begin = Callable[[Posterior], Chains]


def chain_rows(
    dataset: str, recipe: Recipe, network: Network, test: Images, tell: Tell, steps: int = _STEPS
) -> list[dict[str, Any]]:
    """Return effective samples a second of CPU time, of the quantity that mixes worst, and R-hat.

    They are measured on free chains and on chains that are given an image, or its lower half. Each
    chain starts from a draw of its own from the prior, so that chains which cannot pass between
    modes have an R-hat far above 1. The published sampler moves states with M = 1 and a momentum of
    0.9, at the better of two shares of the largest stable step (the published rate diverges at
    these precisions). Where its R-hat is far from 1, its effective samples are only its independent
    starts, so the ratios are lower bounds. Seconds do not include the search for modes.
    """
    image_D = test.rows([0]).pixels_BD[0]
    whole_D, half_D = torch.ones_like(image_D), torch.ones_like(image_D)
    half_D[: len(half_D) // 2] = 0
    targets = {
        "free": torch.zeros_like(image_D),
        "given an image": whole_D,
        "given half an image": half_D,
    }
    rows = []
    for i, (target, mask_D) in enumerate(targets.items()):
        begin = _settled(network, recipe.inference, image_D, mask_D, steps // 2)
        speeds: dict[str, float] = {}
        for sampler, choices in _samplers(network, recipe.inference, begin).items():
            tell(f"chains, {target}: {sampler}", i + 1, len(targets))
            jumps = sampler == _JUMPS
            modes = _modes(network, recipe.inference, image_D, mask_D) if jumps else None
            if jumps and modes is None:
                continue
            measured = [_speed(begin(Posterior(network, table)), steps, modes) for table in choices]
            best = max(measured, key=lambda speed: speed.rate)
            speeds[sampler] = best.rate
            rows.append(row(sampler, f"ess per second, {target}", [best.rate], dataset))
            if best.rate:
                rows.append(row(sampler, f"r-hat, {target}", [best.r_hat], dataset))
            if jumps:
                rows.append(row(sampler, f"accepted jumps, {target}", [best.accepted], dataset))
        for ours in ("kinetic", _JUMPS):
            if ours in speeds and speeds[_PUBLISHED]:
                ratio = speeds[ours] / speeds[_PUBLISHED]
                name = f"{ours} over {_PUBLISHED}"
                rows.append(row(name, f"ess per second, {target}", [ratio], dataset))
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
        "kinetic": [changed("kinetic")],
        _JUMPS: [changed("kinetic")],
        "kinetic, states": [changed("kinetic", coordinates="states", step=None)],
        _PUBLISHED: [changed("momentum", **plain, step=share * largest) for share in _SHARES],
    }


def _modes(
    network: Network, table: InferenceTable, image_D: Tensor, mask_D: Tensor
) -> Modes | None:
    """Return the modes of each chain, given the visible part of an image; None if there is none."""
    if not mask_D.any():
        return None
    data_BD, mask_BD = (image_D * mask_D)[None], mask_D[None]
    return modes_for_jumps(prepare(network, table.for_use()), data_BD, mask_BD, 0, _CHAINS)


def _settled(
    network: Network, table: InferenceTable, image_D: Tensor, mask_D: Tensor, steps: int
) -> _Begin:
    """Return a function that begins a sampler's chains where kinetic chains were after `steps`.

    Args:
        mask_D: 1 where the chains are given the image.
    """
    like = [network.layers[0].weight.new_empty(0, size) for size in network.sizes[1:]]
    states = draw_states(network, SampleNoise(0, "speed", range(_CHAINS), like))
    mask_BD = mask_D.to(states[0]).expand_as(states[0])
    states[0] = torch.where(mask_BD > 0, image_D.to(mask_BD), states[0])

    def begin(posterior: Posterior) -> Chains:
        noise = SampleNoise(0, f"speed/{posterior.sampler}", range(_CHAINS), like)
        return posterior.begin(states, lambda like: noise, mask_BD=mask_BD)

    chains = begin(Posterior(network, table))
    for _ in range(steps):
        chains.step(adapt=chains.metropolis)
    states = chains.states
    return begin


@dataclass(frozen=True, slots=True)
class _Speed:
    """How fast chains mix. Rate and R-hat are 0 if the chains diverged.

    Attributes:
        rate: effective samples a second.
        accepted: the share of accepted jumps.
    """

    rate: float
    r_hat: float
    accepted: float


def _speed(chains: Chains, steps: int, modes: Modes | None) -> _Speed:
    """Return how fast chains mix, after a burn-in of half as many steps.

    Args:
        modes: between which the chains jump after each step.
    """
    for _ in range(steps // 2):
        chains.step(adapt=chains.metropolis)
    trace, jumped, began = [], [], time.process_time()
    for _ in range(steps):
        chains.step()
        if modes is not None:
            jumped.append(chains.jump(modes))
        top_BD = chains.states[chains.posterior.network.latent]
        trace.append(torch.cat([chains.energy_B[:, None], top_BD], 1))
    seconds = time.process_time() - began
    accepted = float(torch.stack(jumped).double().mean()) if jumped else 0.0
    try:
        chains.require_finite()
    except DivergenceError:
        return _Speed(0.0, 0.0, accepted)
    values = torch.stack(trace)
    rate = float(effective_sample_size(values).min()) / seconds
    return _Speed(rate, float(r_hat(values).max()), accepted)
