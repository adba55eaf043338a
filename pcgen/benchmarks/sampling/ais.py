"""Bounds of the log-likelihood from both sides, by annealing between a Gaussian and the posterior.

With u the hidden errors and the latent, k the component of the latent's prior, and q_j the Gaussian
around mode j, a mode of component k_j (`sampling.modes`):

    p(data) = sum_j Z_j,   Z_j = integral of p(data, u, k_j) r_j(z) du
    p_b(u | j) ~ q_j(u)^(1 - b) (p(data, u, k_j) r_j(z))^b,   b from 0 to 1
    log w = sum_t (b_t - b_{t-1}) (log p(data, u, k_j) r_j(z) - log w_j q_j(u))  at u_{t-1}

The shares r_j of a component's modes sum to 1, so that no mode is counted twice. A chain stays in
its component, and never has to find one in which more of the posterior lies: every component has a
mode, so the sum has them all. K chains choose their modes j in
proportion to w_j: chain i by a uniform number in [i / K, (i + 1) / K). Between two temperatures a
chain moves by one step of Hamiltonian dynamics with a Metropolis test and a friction, in
coordinates in which q_j is standard normal. The mean of w over the chains is p(data) without bias,
whatever w_j and q_j are, so by Jensen's inequality

    lower = log mean_K w,  E[lower] <= log p(data).

If u is known to be a draw from the posterior, because the data were simulated with it, then k is
drawn given z, j in proportion to r_j, and a uniform number in the interval of j says for which
chain i it stands. The same chain run backwards from u gives its weight, in place of the forward
weight w_i. The weights then have the density of the forward ones times mean_K w / p(data), so

    upper = log mean_K w,  E[upper] = log p(data) + a Kullback-Leibler divergence >= log p(data).

The steps are found by a pilot run and are then fixed: a step that follows a chain's own acceptance
would bias its weight.

Source: Neal (2001); backwards: Grosse, Ghahramani and Adams (2015, bidirectional Monte Carlo); the
mean over both kinds of weights: Brekelmans et al. (2022), section 3.2; on decoders: Wu, Burda,
Salakhutdinov and Grosse (2017). They all begin at the prior; with the same number of temperatures
that is far looser.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pcgen.inference.solvers import Method
from pcgen.model.network import Network
from pcgen.model.prior import choose
from pcgen.sampling.ancestral import draw_data, draw_states
from pcgen.sampling.langevin import Layers
from pcgen.sampling.mode_chains import FIRST_STEP, ModeChains, adapted, square
from pcgen.sampling.modes import Modes, components, hidden_errors
from pcgen.sampling.noise import SampleNoise
from pcgen.sampling.settled import find_modes

_BATCH = 500  # chains
# The pilot run finds the steps with this many rows.
_PILOT = 16


@dataclass(frozen=True, slots=True)
class Simulated:
    """Rows drawn from a network, with the hidden errors and latents that they were drawn with.

    Attributes:
        data_BD: drawn around their prediction, as the likelihood says.
        errors: (B, D_l) of layer 1 upwards, then the latent: exact draws from the posterior.
    """

    data_BD: Tensor
    errors: Layers


@dataclass(frozen=True, slots=True)
class Bounds:
    """Bounds of log p(data), in nats per row, that hold on average.

    Attributes:
        upper_B: None unless the rows were simulated.
        acceptance: the share of accepted steps.
    """

    lower_B: Tensor
    upper_B: Tensor | None
    acceptance: float


def simulate(network: Network, count: int, seed: int) -> Simulated:
    """Return rows drawn from the network."""
    weight = network.layers[0].weight
    like = [weight.new_empty(0, size) for size in network.sizes]
    states = draw_states(network, SampleNoise(seed, "simulated", range(count), like[1:]))
    noise = SampleNoise(seed, "simulated data", range(count), like[:1])
    terms = network.terms(states)
    data_BD = draw_data(network, states[0], noise)
    return Simulated(data_BD, [*hidden_errors(states, terms), states[-1]])


def bounds(
    method: Method,
    data: Tensor | Simulated,
    *,
    chains: int,
    temperatures: int,
    held: bool = False,
    seed: int = 0,
    on_rows: Callable[[int], None] = lambda done: None,
) -> Bounds:
    """Return a lower bound of log p(data) for each row, and an upper one for simulated rows.

    Args:
        method: the solver that finds the modes, prepared for the network.
        data: (B, D), binary rows if the output is Bernoulli.
        chains: for each row.
        temperatures: steps from the Gaussian to the posterior, one gradient each.
        held: the network is a plain decoder: hidden layers are their predictions, without noise.
        on_rows: called with the number of finished rows.

    Raises:
        AssertionError: a network whose likelihood has no known curvature.
    """
    rows_BD = data.data_BD if isinstance(data, Simulated) else data
    annealing = _Annealing(method.network, temperatures, seed)
    at_once, lowers, uppers, accepted = max(1, _BATCH // chains), [], [], 0.0
    for first in range(0, len(rows_BD), at_once):
        part_BD = rows_BD[first : first + at_once]
        modes = find_modes(method, part_BD, None, seed, held=held)
        assert modes is not None
        if not first:
            pilot = min(_PILOT, len(part_BD))
            annealing.tune(modes.of(torch.arange(pilot)), part_BD[:pilot])
        weights_BK, share = annealing.forward(modes, part_BD, chains, first)
        lowers.append(torch.logsumexp(weights_BK, 1) - math.log(chains))
        accepted += share * len(part_BD)
        if isinstance(data, Simulated):
            exact = [layer[first : first + at_once] for layer in data.errors]
            back_B, stratum_B = annealing.backward(modes, part_BD, exact, chains, first)
            both_BK = weights_BK.scatter(1, stratum_B[:, None], back_B[:, None])
            uppers.append(torch.logsumexp(both_BK, 1) - math.log(chains))
        on_rows(first + len(part_BD))
    upper_B = torch.cat(uppers) if uppers else None
    return Bounds(torch.cat(lowers), upper_B, accepted / len(rows_BD))


class _Annealing:
    """The temperatures, and the steps between them."""

    def __init__(self, network: Network, temperatures: int, seed: int) -> None:
        self.network, self.seed = network, seed
        self.ladder = torch.linspace(0, 1, temperatures + 1).tolist()
        self.steps: list[Tensor] = []

    def tune(self, modes: Modes, data_BD: Tensor) -> None:
        """Find the step of every temperature, with chains of which nothing else is used."""
        chains = self._forward("pilot", modes, data_BD, 1, 0)
        step = torch.tensor(FIRST_STEP).to(data_BD)
        for share in self.ladder[1:-1]:
            self.steps.append(step)
            chains.move(share, step)
            chains.refresh(step)
            step = adapted(step, chains.probable_B.mean())

    def forward(
        self, modes: Modes, data_BD: Tensor, count: int, first: int
    ) -> tuple[Tensor, float]:
        """Return the log weights (B, K) of chains that begin at the Gaussians, and acceptance."""
        chains = self._forward("forward", modes, data_BD, count, first)
        ladder, accepted = self.ladder, 0.0
        for i, step in enumerate(self.steps):
            chains.weigh(ladder[i + 1] - ladder[i])
            chains.move(ladder[i + 1], step)
            accepted += float(chains.probable_B.mean())
            chains.refresh(step)
        chains.weigh(ladder[-1] - ladder[-2])
        return chains.log_w_B.view(-1, count), accepted / max(1, len(self.steps))

    def backward(
        self, modes: Modes, data_BD: Tensor, exact: Layers, count: int, first: int
    ) -> tuple[Tensor, Tensor]:
        """Return the log weight (B,) of one chain a row that begins at a draw of the posterior.

        It takes the forward chain's steps in the reverse order, and each is its own reverse. Also
        return the number (B,) of the forward chain that it stands for.
        """
        noise = self._noise("backward", range(first, first + len(data_BD)), modes)
        noise.draw()
        component_B = choose(components(self.network).log_joint(exact[-1]), noise.uniform_B)
        rows_B = torch.arange(len(data_BD), device=data_BD.device)
        own, number_BW = modes.within(rows_B, component_B)
        noise.draw()
        mode_B = choose(own.log_shares(exact[-1])[0], noise.uniform_B)
        xi = own.around(mode_B).whitened(exact[-len(own.centres) :])
        noise.draw()
        # Where the mode's share of [0, 1] lies, as in `_forward`.
        shares_BJ, chosen_B1 = modes.log_weights_BJ.softmax(1), number_BW.gather(1, mode_B[:, None])
        place_B1 = shares_BJ.cumsum(1).gather(1, chosen_B1)
        place_B1 = place_B1 - noise.uniform_B[:, None] * shares_BJ.gather(1, chosen_B1)
        stratum_B = (place_B1[:, 0] * count).long().clamp(0, count - 1)
        chains = _Chains(self.network, data_BD, own, mode_B, xi, noise)
        ladder = self.ladder
        for i in range(len(self.steps), 0, -1):
            chains.weigh(ladder[i + 1] - ladder[i])
            chains.move(ladder[i], self.steps[i - 1])
            chains.refresh(self.steps[max(0, i - 2)])
        chains.weigh(ladder[1] - ladder[0])
        return chains.log_w_B, stratum_B

    def _forward(
        self, purpose: str, modes: Modes, data_BD: Tensor, count: int, first: int
    ) -> _Chains:
        """Return `count` chains a row, which choose their modes and begin at the Gaussians."""
        rows_B = torch.arange(len(data_BD), device=data_BD.device).repeat_interleave(count)
        noise = self._noise(purpose, range(first * count, first * count + len(rows_B)), modes)
        xi = noise.draw()
        strata_B = torch.arange(len(rows_B), device=rows_B.device) % count
        chosen_B = choose(modes.log_weights_BJ[rows_B], (strata_B + noise.uniform_B) / count)
        own, number_BW = modes.within(rows_B, modes.components_BJ[rows_B, chosen_B])
        mode_B = (number_BW == chosen_B[:, None]).byte().argmax(1)
        return _Chains(self.network, data_BD[rows_B], own, mode_B, xi, noise)

    def _noise(self, purpose: str, numbers: range, modes: Modes) -> SampleNoise:
        like = [centre.new_empty(0, centre.shape[2]) for centre in modes.centres]
        return SampleNoise(self.seed, f"annealing/{purpose}", numbers, like)


class _Chains(ModeChains):
    """Chains whose temperature changes.

    Attributes:
        log_w_B: the log weights so far.
    """

    def __init__(
        self,
        network: Network,
        data_BD: Tensor,
        modes: Modes,
        mode_B: Tensor,
        xi: Layers,
        noise: SampleNoise,
    ) -> None:
        super().__init__(network, data_BD, None, modes, mode_B, xi, noise)
        own_B = modes.log_weights_BJ[self.rows_B, mode_B] - self.around.log_volume()
        normal = 0.5 * sum(self.widths) * math.log(2 * math.pi)
        self.log_w_B = _constant(network, hidden=len(xi) > 1) + normal - own_B

    def weigh(self, share: float) -> None:
        """Add a temperature step of this size to the log weights."""
        self.log_w_B = self.log_w_B + share * (square(self.xi_BX) - self.energy_B)


def _constant(network: Network, *, hidden: bool) -> float:
    """Return the constant by which log p(data, u) exceeds minus the energy.

    Args:
        hidden: whether u has the hidden errors.
    """
    layers = [0] * (network.table.likelihood == "gaussian") + [network.depth]
    layers += range(1, network.depth) if hidden else []
    total = 0.0
    for i in layers:
        log_precision = network.log_precisions[i]
        if i == network.depth:
            # The energy of a component has its determinant.
            log_precision = torch.zeros_like(log_precision)
        total += 0.5 * float((log_precision - math.log(2 * math.pi)).expand(network.sizes[i]).sum())
    return total
