"""Drawing new data: ancestrally from the latent downwards, or by chains that sample the states."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

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
from pcgen.sampling.laplace import STARTS
from pcgen.sampling.modes import Modes
from pcgen.sampling.noise import SampleNoise
from pcgen.sampling.settled import modes_for_jumps

BATCH = 1000
# The diagnostics look at the energy and at this many random signed sums of the predicted data:
# enough to notice chains that differ, few enough to keep.
TRACED_SUMS = 16
# Chains start from draws at this temperature: spread twice as far as their distribution, so that
# R-hat is large until they have come together. Starts at temperature 1 would look mixed at once.
START_TEMPERATURE = 4.0
# Steps between two reports of running chains.
REPORT_EVERY = 25
# The diagnostics are computed again when the trace is this much longer than at the last look, so
# that all looks together cost a few times the last one, however long the chains run.
LOOK_GROWTH = 1.5


@dataclass(frozen=True, slots=True)
class Chained:
    """How many chains draw, and when.

    Attributes:
        chains: the number of chains; where data are given, of each row.
        burn_in: steps before the first draw.
        thin: steps between two draws of a chain.
    """

    chains: int
    burn_in: int = 500
    thin: int = 50


@dataclass(frozen=True, slots=True)
class Given:
    """Data of which a part is known: `mask_BD` is 1 where the data are visible."""

    data_BD: Tensor
    mask_BD: Tensor


@dataclass(slots=True)
class Samples:
    """Drawn data, and how well the chains mixed (None where there were no chains).

    Attributes:
        data_BD: drawn or predicted data, in the model's own units.
        ess: the effective sample size of the quantity that mixes worst, over all chains.
        r_hat: the largest R-hat of all quantities.
        acceptance: the share of accepted steps, where there is a Metropolis test.
        step: the chains' mean step, in units of the preconditioner.
        jump_acceptance: the share of accepted jumps between modes, where there are jumps.
    """

    data_BD: Tensor
    ess: float | None = None
    r_hat: float | None = None
    acceptance: float | None = None
    step: float | None = None
    jump_acceptance: float | None = None

    @property
    def warning(self) -> str:
        """Return a sentence if the chains have not mixed, else an empty text."""
        if self.r_hat is not None and not self.r_hat <= BELIEVABLE:
            return (
                f"The chains have not mixed: R-hat is {self.r_hat:.2f}, above {BELIEVABLE}. "
                "Run them longer (--burn-in, --thin); without --given, --mode ancestral is exact"
            )
        return ""


OnStep = Callable[[int, int, float | None, float | None], None]
"""Called with the steps done, all steps, the acceptance and the effective sample size, as far as
they are known."""


def require_prior(network: Network) -> None:
    """Raise CheckpointError unless the network's latent has a prior to draw from."""
    if float(network.log_precisions[network.latent]) == float("-inf"):
        raise CheckpointError(
            "the model's latent has no prior: it has learnt to reconstruct, not a distribution",
            "Train one: pcgen train mnist-sampler --out DIR; or --set model.precision.latent=1",
        )


def with_label(network: Network, label: int) -> Network:
    """Return the network with a mixture prior of this class only; other networks are unchanged."""
    if network.mixture is None:
        return network
    chosen = network.to(network.layers[0].weight.device, network.layers[0].weight.dtype)
    assert chosen.mixture is not None
    chosen.mixture = chosen.mixture.of_class(label)
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
    """Return `count` independent samples, drawn from the latent's prior downwards.

    Args:
        label: the class to draw from, for a network that knows classes.
        draw: draw the data around their prediction; otherwise the data are the prediction.
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
    """Return samples of chains. With given data, `count` samples of each row, in the rows' order.

    Chains with given data also jump between the modes that inference finds (`Chains.jump`). Free
    chains do not: their modes are those of the prior, from which `ancestral` draws exactly.

    Raises:
        DivergenceError: the step is too long; the message names the largest stable one.
    """
    network = network if label is None else with_label(network, label)
    rows = 1 if given is None else len(given.data_BD)
    draws = -(-count // how.chains)
    total = how.burn_in + draws * how.thin
    chains, modes = _begin(network, table, seed, how.chains, label, given)
    trace = _Trace(chains, rows, _projection(network))
    drawn: list[Tensor] = []
    for step in range(1, total + 1):
        chains.step(adapt=chains.metropolis and step <= how.burn_in)
        if modes is not None and step % table.sampling.jump == 0:
            trace.jumps.append(chains.jump(modes))
        if step == how.burn_in:
            trace.jumps.clear()
            chains.accepted_B.zero_()
        if step > how.burn_in:
            trace.append()
            if (step - how.burn_in) % how.thin == 0:
                prediction_BD = chains.surface.terms[0].prediction_BD
                first = len(drawn) * len(prediction_BD)
                numbers = range(first, first + len(prediction_BD))
                drawn.append(_output(network, prediction_BD, seed, "chain", numbers, draw))
        if step % REPORT_EVERY == 0 or step == total:
            chains.require_finite()
            if on_step is not None:
                trace.look()
                on_step(step, total, trace.acceptance, trace.ess)
    trace.look(at_the_end=True)
    data_BD = _in_order(drawn, rows, how.chains, count, given)
    step_size = float(chains.sampler.step_B.mean())
    return Samples(
        data_BD, trace.ess, trace.r_hat, trace.acceptance, step_size, trace.jump_acceptance
    )


def _in_order(
    drawn: list[Tensor], rows: int, chains: int, count: int, given: Given | None
) -> Tensor:
    """Return `count` samples of each row, row by row, with the visible data as they were given."""
    # (draws, rows, chains, D) becomes (rows, draws * chains, D).
    data = torch.stack(drawn).view(len(drawn), rows, chains, -1).transpose(0, 1)
    data_BD = data.reshape(rows, len(drawn) * chains, -1)[:, :count].flatten(0, 1)
    if given is None:
        return data_BD
    known, mask = (t.repeat_interleave(count, 0) for t in (given.data_BD, given.mask_BD))
    return torch.where(mask > 0, known, data_BD)


def _begin(
    network: Network,
    table: InferenceTable,
    seed: int,
    count: int,
    label: int | None,
    given: Given | None,
) -> tuple[Chains, Modes | None]:
    """Return chains that start at hot draws from the prior; with given data, near least energy.

    With given data, also return the modes of each chain between which it can jump.
    """
    posterior = Posterior(network, table)
    rows = 1 if given is None else len(given.data_BD)
    numbers = range(rows * count)
    noise = _streams(network, seed, "chain", numbers)
    labels_BK = _labels(network, numbers, label, seed)
    states = draw_states(network, noise, None, labels_BK, temperature=START_TEMPERATURE)
    mask_BD, modes = torch.zeros_like(states[0]), None
    if given is not None:
        mask_BD = given.mask_BD.repeat_interleave(count, 0)
        data_BD = given.data_BD.repeat_interleave(count, 0)
        method = prepare(network, table.for_use())
        warm = method.begin(
            data_BD, mask_BD, states[network.latent], steps=table.sampling.warm, labels_BK=labels_BK
        )
        states = warm.states
        if table.sampling.jump and not network.table.labels:
            # Also from where chains start, so that none starts in a mode that is not among them.
            starts_BCL = states[network.latent].view(rows, count, -1)[:, :STARTS]
            modes = modes_for_jumps(method, given.data_BD, given.mask_BD, seed, count, starts_BCL)
    chains = posterior.begin(
        states, lambda like: noise, mask_BD=mask_BD, clamp_top=labels_BK is not None
    )
    return chains, modes


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
    """Return one-hot labels (B, K) for a network with a label layer; drawn evenly if not given."""
    if not network.table.labels:
        return None
    weight, classes = network.layers[0].weight, network.sizes[-1]
    if label is None:
        noise = SampleNoise(seed, "labels", numbers, [weight.new_empty(0, 1)])
        noise.draw()
        chosen_B = (noise.uniform_B * classes).long().clamp_max(classes - 1)
    else:
        chosen_B = torch.full((len(numbers),), label, device=weight.device)
    return functional.one_hot(chosen_B, classes).to(weight)


def _projection(network: Network) -> Tensor:
    """Return the matrix (D_0, Q) that makes the traced quantities of a prediction.

    They are random signed sums of the data's units, or the units themselves where they are few.
    """
    units, weight = network.sizes[0], network.layers[0].weight
    if units <= TRACED_SUMS:
        return torch.eye(units).to(weight)
    signs = torch.randint(0, 2, (units, TRACED_SUMS), generator=generator(0, "signs")) * 2 - 1
    return signs.to(weight)


@dataclass(slots=True)
class _Trace:
    """The quantities of chains after burn-in, step by step, and what they say of the mixing.

    Attributes:
        rows: of given data; their chains have different distributions, so each is diagnosed alone.
        projection_DQ: from `_projection`.
        ess: the smallest effective sample size, as of the last look; None before it.
        r_hat: the largest R-hat, likewise.
        acceptance: the share of accepted steps, likewise; None without a Metropolis test.
        jumps: whether each chain accepted, for each jump after burn-in.
    """

    chains: Chains
    rows: int
    projection_DQ: Tensor
    ess: float | None = None
    r_hat: float | None = None
    acceptance: float | None = None
    jumps: list[Tensor] = field(default_factory=list)
    _steps: list[Tensor] = field(default_factory=list)
    _looked_at: int = 0

    def append(self) -> None:
        """Add the chains' present energy and projected prediction."""
        prediction_BD = self.chains.surface.terms[0].prediction_BD
        energy_B1 = self.chains.energy_B[:, None]
        self._steps.append(torch.cat([energy_B1, prediction_BD @ self.projection_DQ], 1))

    @property
    def jump_acceptance(self) -> float | None:
        """Return the share of accepted jumps; None if there were none."""
        return float(torch.stack(self.jumps).double().mean()) if self.jumps else None

    def look(self, *, at_the_end: bool = False) -> None:
        """Compute the diagnostics if the trace has grown enough since the last look."""
        steps = len(self._steps)
        # Four steps are two for each half of a chain, the fewest that have a variance.
        if steps < 4 or steps == self._looked_at:
            return
        if self.chains.metropolis:
            self.acceptance = float(self.chains.accepted_B.mean()) / steps
        if steps < LOOK_GROWTH * self._looked_at and not at_the_end:
            return
        self._looked_at = steps
        whole = torch.stack(self._steps)
        per_row = whole.view(steps, self.rows, -1, whole.shape[-1]).unbind(1)
        sizes = torch.stack([effective_sample_size(trace) for trace in per_row])
        self.ess = float(sizes.nan_to_num(0.0).min())
        self.r_hat = float(torch.stack([r_hat(trace) for trace in per_row]).max())


def require_label(network: Network, label: int, classes: Sequence[str] | None) -> None:
    """Raise RecipeError unless the network knows a class of this number."""
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
