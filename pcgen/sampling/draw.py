"""Draw new data: ancestrally, from the latent down, or by chains that wander in the energy."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from pcgen.config import InferenceTable
from pcgen.device import generator
from pcgen.errors import CheckpointError, RecipeError
from pcgen.inference.solvers import prepare
from pcgen.model.network import Network
from pcgen.sampling.ancestral import draw_data, draw_states
from pcgen.sampling.chains import Chains, Posterior
from pcgen.sampling.diagnostics import BELIEVABLE, effective_sample_size, r_hat
from pcgen.sampling.noise import SampleNoise

BATCH = 1000
# Quantities whose traces are kept: the energy, and so many signed sums of the prediction.
_SUMS = 16
# Chains begin this much hotter than their distribution, so that R-hat can see them mix.
_HOT = 4.0
# Steps between two looks at the diagnostics while chains run.
_LOOK = 25


@dataclass(frozen=True, slots=True)
class Chained:
    """How chains draw.

    Attributes:
        chains: so many, for each given row where data are given.
        burn_in: steps before the first draw.
        thin: steps between two draws of a chain.
    """

    chains: int
    burn_in: int = 500
    thin: int = 50


@dataclass(frozen=True, slots=True)
class Given:
    """Data of which a part is known: `mask_BD` is 1 where visible."""

    data_BD: Tensor
    mask_BD: Tensor


@dataclass(slots=True)
class Samples:
    """What was drawn.

    Attributes:
        data_BD: drawn, or predicted, in the model's own units.
        ess: of the quantity that mixes worst, over all chains; None where there were no chains.
        r_hat: the largest.
        acceptance: share of steps that were taken, where there is a Metropolis test.
        step: mean step of the chains, in the units of the preconditioner.
    """

    data_BD: Tensor
    ess: float | None = None
    r_hat: float | None = None
    acceptance: float | None = None
    step: float | None = None

    @property
    def warning(self) -> str:
        """Return in words why the chains should not be believed; empty if they may."""
        if self.r_hat is not None and not self.r_hat <= BELIEVABLE:
            return (
                f"The chains have not mixed: R-hat is {self.r_hat:.2f}, above {BELIEVABLE}. "
                "Run them longer (--burn-in, --thin), or draw with --mode ancestral"
            )
        return ""


OnStep = Callable[[int, int, float | None, float | None], None]
"""Told of steps done, steps in all, acceptance and effective sample size, where known."""


def require_prior(network: Network) -> None:
    """Let a network pass whose latent has a prior.

    Raises:
        CheckpointError: it has none, so that there is no distribution to draw from.
    """
    if float(network.log_precisions[network.latent]) == float("-inf"):
        raise CheckpointError(
            "the model's latent has no prior: it has learnt to reconstruct, not a distribution",
            "Train one: pcgen train mnist-sampler --out DIR; or --set model.precision.latent=1",
        )


def with_label(network: Network, label: int) -> Network:
    """Return the network whose latent's prior is that of a class; a label layer stays as it is."""
    if network.mixture is None:
        return network
    chosen = network.to(network.layers[0].weight.device, network.layers[0].weight.dtype)
    assert chosen.mixture is not None
    rows = chosen.mixture.log_weights_YK
    chosen.mixture = replace(
        chosen.mixture,
        log_weights_YK=rows[label : label + 1],
        log_classes_Y=torch.zeros_like(chosen.mixture.log_classes_Y[:1]),
        _made=None,
        _last=None,
    )
    return chosen


def ancestral(
    network: Network,
    count: int,
    seed: int,
    *,
    label: int | None = None,
    draw: bool = False,
    on_step: OnStep | None = None,
) -> Samples:
    """Return so many independent samples, from the latent's prior downwards.

    Args:
        label: of the class to draw from, of a network that knows classes.
        draw: add the output's own noise; otherwise the data are what is predicted.
    """
    network = network if label is None else with_label(network, label)
    parts = []
    for first in range(0, count, BATCH):
        numbers = range(first, min(first + BATCH, count))
        states = draw_states(
            network,
            _streams(network, seed, "ancestral", numbers),
            None,
            _labels(network, numbers, label, seed),
        )
        parts.append(_output(network, states[0], seed, "ancestral", numbers, draw))
        if on_step is not None:
            on_step(numbers.stop, count, None, None)
    return Samples(torch.cat(parts))


def chained(
    network: Network,
    table: InferenceTable,
    count: int,
    seed: int,
    how: Chained,
    *,
    label: int | None = None,
    given: Given | None = None,
    draw: bool = False,
    on_step: OnStep | None = None,
) -> Samples:
    """Return samples of chains; of given data, so many of each row, in the rows' order.

    Raises:
        DivergenceError: a step too long; it names the largest stable one.
    """
    network = network if label is None else with_label(network, label)
    rows = 1 if given is None else len(given.data_BD)
    draws = -(-count // how.chains)
    chains = _begin(network, table, seed, how.chains, label, given)
    total = how.burn_in + draws * how.thin
    trace: list[Tensor] = []
    taken: list[Tensor] = []
    signs_DQ = _signs(network)
    for step in range(1, total + 1):
        chains.step(adapt=chains.metropolis and step <= how.burn_in)
        if chains.jumps and step % chains.jumps == 0:
            chains.jump()
        if step == how.burn_in:
            chains.accepted_B.zero_()
        if step > how.burn_in:
            prediction_BD = chains.surface.terms[0].prediction_BD
            trace.append(torch.cat([chains.energy_B[:, None], prediction_BD @ signs_DQ], 1))
            if (step - how.burn_in) % how.thin == 0:
                numbers = range(
                    len(taken) * len(prediction_BD), (len(taken) + 1) * len(prediction_BD)
                )
                drawn = _output(network, prediction_BD, seed, "chain", numbers, draw)
                taken.append(drawn)
        if step % _LOOK == 0 or step == total:
            chains.require_finite()
            if on_step is not None:
                found = _diagnosed(chains, trace, rows, step - how.burn_in)
                on_step(step, total, found[2], found[0])
    ess, worst, acceptance = _diagnosed(chains, trace, rows, total - how.burn_in)
    # (draws, rows, chains, D) to rows, then draws.
    data = torch.stack(taken).view(draws, rows, how.chains, -1).transpose(0, 1)
    data_BD = data.reshape(rows, draws * how.chains, -1)[:, :count].flatten(0, 1)
    if given is not None:
        known, mask = (t.repeat_interleave(count, 0) for t in (given.data_BD, given.mask_BD))
        data_BD = torch.where(mask > 0, known, data_BD)
    return Samples(data_BD, ess, worst, acceptance, float(chains.sampler.step_B.mean()))


def _begin(
    network: Network,
    table: InferenceTable,
    seed: int,
    count: int,
    label: int | None,
    given: Given | None,
) -> Chains:
    """Return chains at hot draws from the prior, or, of given data, near their least energy."""
    posterior = Posterior(network, table)
    rows = 1 if given is None else len(given.data_BD)
    numbers = range(rows * count)
    noise = _streams(network, seed, "chain", numbers)
    labels_BK = _labels(network, numbers, label, seed)
    states = draw_states(network, noise, None, labels_BK, temperature=_HOT)
    mask_BD = torch.zeros_like(states[0])
    if given is not None:
        mask_BD = given.mask_BD.repeat_interleave(count, 0)
        data_BD = given.data_BD.repeat_interleave(count, 0)
        method = prepare(network, table)
        warm = method.begin(
            data_BD, mask_BD, states[network.latent], steps=table.sampling.warm, labels_BK=labels_BK
        )
        states = warm.states
    return posterior.begin(
        states, lambda like: noise, mask_BD=mask_BD, clamp_top=labels_BK is not None
    )


def _streams(network: Network, seed: int, purpose: str, numbers: Sequence[int]) -> SampleNoise:
    weight = network.layers[0].weight
    like = [weight.new_empty(0, size) for size in network.sizes[1 : network.latent + 1]]
    return SampleNoise(seed, purpose, numbers, like)


def _output(
    network: Network, prediction_BD: Tensor, seed: int, purpose: str, numbers: range, draw: bool
) -> Tensor:
    if not draw:
        return prediction_BD
    noise = SampleNoise(seed, f"{purpose}/data", numbers, [prediction_BD])
    return draw_data(network, prediction_BD, noise)


def _labels(
    network: Network, numbers: Sequence[int], label: int | None, seed: int
) -> Tensor | None:
    """Return one-hot labels (B, K) of a network with a label layer; drawn evenly if not given."""
    if not network.table.labels:
        return None
    weight, classes = network.layers[0].weight, network.sizes[-1]
    if label is None:
        noise = SampleNoise(seed, "labels", numbers, [weight.new_empty(0, 1)], 1)
        noise.draw()
        chosen_B = (noise.uniform_B * classes).long().clamp_max(classes - 1)
    else:
        chosen_B = torch.full((len(numbers),), label, device=weight.device)
    return functional.one_hot(chosen_B, classes).to(weight)


def _signs(network: Network) -> Tensor:
    """Return what makes a few numbers (D_0, Q) of a prediction: its units, or signed sums."""
    units, weight = network.sizes[0], network.layers[0].weight
    if units <= _SUMS:
        return torch.eye(units).to(weight)
    signs = torch.randint(0, 2, (units, _SUMS), generator=generator(0, "signs")) * 2 - 1
    return signs.to(weight)


def _diagnosed(
    chains: Chains, trace: list[Tensor], rows: int, steps: int
) -> tuple[float | None, float | None, float | None]:
    """Return the effective sample size, R-hat and acceptance so far, where there are enough."""
    if steps < 4:
        return None, None, None
    acceptance = float(chains.accepted_B.mean()) / steps if chains.metropolis else None
    whole = torch.stack(trace)
    # Rows of given data have distributions of their own.
    apart = whole.view(len(whole), rows, -1, whole.shape[-1]).unbind(1)
    sizes = torch.stack([effective_sample_size(part) for part in apart])
    worst = torch.stack([r_hat(part) for part in apart])
    return float(sizes.nan_to_num(0.0).min()), float(worst.max()), acceptance


def require_label(network: Network, label: int, classes: Sequence[str] | None) -> None:
    """Let a class number pass that the network knows.

    Raises:
        RecipeError: it knows no classes, or not this one.
    """
    known = network.sizes[-1] if network.table.labels else 0
    if network.mixture is not None and len(network.mixture.log_weights_YK) > 1:
        known = len(network.mixture.log_weights_YK)
    if not known:
        raise RecipeError("--label: the model has learnt without labels and knows no classes")
    if not 0 <= label < known:
        names = f": {', '.join(classes)}" if classes else ""
        raise RecipeError(
            f"--label {label}: the model knows {known} classes, 0 to {known - 1}{names}"
        )
