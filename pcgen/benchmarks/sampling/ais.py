"""Bounds of the log-likelihood from both sides, by annealing between a Gaussian and the posterior.

With u the hidden errors and the latent, and q the Gaussians around the modes (`sampling.modes`):

    p_b(u | j) ~ (w_j q_j(u))^(1 - b) (p(data, u) r_j(z))^b,   b from 0 to 1
    log w = sum_t (b_t - b_{t-1}) (log p(data, u) r_j(z) - log w_j q_j(u))  at u_{t-1}

A chain draws its mode j and begins at q_j. The shares r_j(z) of the modes sum to 1, so that no mode
is counted twice. Between two temperatures it moves by one step of Hamiltonian dynamics with a
Metropolis test and a friction, in coordinates in which q_j is standard normal. The mean of w over
chains is p(data) without bias, so

    lower = log mean_K w,  E[lower] <= log p(data).

If u is known to be a draw from the posterior, because the data were simulated with it, then the
same chain run backwards from there gives a weight w_1. With K - 1 forward weights,

    upper = log mean(w_1, w_2, .., w_K),  E[upper] >= log p(data).

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

from pcgen.inference.coordinates import determined_states, error_slopes
from pcgen.inference.solvers import Method
from pcgen.model.network import Network
from pcgen.model.prior import choose
from pcgen.sampling.ancestral import draw_data, draw_states
from pcgen.sampling.langevin import Layers
from pcgen.sampling.modes import Modes, find_modes, hidden_errors, prior_starts
from pcgen.sampling.noise import SampleNoise

_BATCH = 500  # chains
# The pilot run finds the steps with this many rows. It begins at this step, and follows the wished
# acceptance with this gain.
_PILOT = 16
_STEP = 0.3
_ACCEPTANCE = 0.9
_GAIN = 0.3
# Friction per unit of time, in the coordinates in which the Gaussian is standard normal.
_FRICTION = 0.5


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
        starts_BSL = prior_starts(method.network, part_BD, None, seed)
        modes = find_modes(method, part_BD, None, starts_BSL)
        assert modes is not None
        modes = modes.of_latents() if held else modes
        if not first:
            pilot = min(_PILOT, len(part_BD))
            annealing.tune(modes.of(torch.arange(pilot)), part_BD[:pilot])
        weights_BK, share = annealing.forward(modes, part_BD, chains, first)
        lowers.append(torch.logsumexp(weights_BK, 1) - math.log(chains))
        accepted += share * len(part_BD)
        if isinstance(data, Simulated):
            exact = [layer[first : first + at_once] for layer in data.errors]
            back_B = annealing.backward(modes, part_BD, exact, first)
            both_BK = torch.cat([back_B[:, None], weights_BK[:, 1:]], 1)
            uppers.append(torch.logsumexp(both_BK, 1) - math.log(chains))
        on_rows(first + len(part_BD))
    upper_B = torch.cat(uppers) if uppers else None
    return Bounds(torch.cat(lowers), upper_B, accepted / len(rows_BD))


class _Annealing:
    """The temperatures, and the steps between them."""

    def __init__(self, network: Network, temperatures: int, seed: int) -> None:
        self.network, self.seed = network, seed
        self.ladder = torch.linspace(0, 1, temperatures + 1).tolist()
        self.steps: list[float] = []

    def tune(self, modes: Modes, data_BD: Tensor) -> None:
        """Find the step of every temperature, with chains of which nothing else is used."""
        chains = self._begin("pilot", range(len(data_BD)), modes, data_BD)
        step = _STEP
        for share in self.ladder[1:-1]:
            self.steps.append(step)
            chains.move(share, step)
            chains.refresh(step)
            step *= math.exp(_GAIN * (float(chains.probable_B.mean()) - _ACCEPTANCE))

    def forward(
        self, modes: Modes, data_BD: Tensor, count: int, first: int
    ) -> tuple[Tensor, float]:
        """Return the log weights (B, K) of chains that begin at the Gaussians, and acceptance."""
        rows_B = torch.arange(len(data_BD), device=data_BD.device).repeat_interleave(count)
        numbers = range(first * count, first * count + len(rows_B))
        chains = self._begin("forward", numbers, modes.of(rows_B), data_BD[rows_B])
        ladder, accepted = self.ladder, 0.0
        for i, step in enumerate(self.steps):
            chains.weigh(ladder[i + 1] - ladder[i])
            chains.move(ladder[i + 1], step)
            accepted += float(chains.probable_B.mean())
            chains.refresh(step)
        chains.weigh(ladder[-1] - ladder[-2])
        return chains.log_w_B.view(-1, count), accepted / max(1, len(self.steps))

    def backward(self, modes: Modes, data_BD: Tensor, exact: Layers, first: int) -> Tensor:
        """Return the log weight (B,) of one chain a row that begins at a draw of the posterior.

        It takes the forward chain's steps in the reverse order, and each is its own reverse.
        """
        numbers = range(first, first + len(data_BD))
        chains = self._begin("backward", numbers, modes, data_BD, exact)
        ladder = self.ladder
        for i in range(len(self.steps), 0, -1):
            chains.weigh(ladder[i + 1] - ladder[i])
            chains.move(ladder[i], self.steps[i - 1])
            chains.refresh(self.steps[max(0, i - 2)])
        chains.weigh(ladder[1] - ladder[0])
        return chains.log_w_B

    def _begin(
        self,
        purpose: str,
        numbers: range,
        modes: Modes,
        data_BD: Tensor,
        exact: Layers | None = None,
    ) -> _Chains:
        like = [data_BD.new_empty(0, centre.shape[2]) for centre in modes.centres]
        noise = SampleNoise(self.seed, f"annealing/{purpose}", numbers, like)
        return _Chains(self.network, data_BD, modes, noise, exact)


class _Chains:
    """Chains at one temperature, in coordinates xi in which their Gaussians are standard normal.

    Attributes:
        log_w_B: the log weights so far.
        probable_B: the probability with which the last step was accepted.
    """

    def __init__(
        self,
        network: Network,
        data_BD: Tensor,
        modes: Modes,
        noise: SampleNoise,
        exact: Layers | None,
    ) -> None:
        """Begin at draws from the Gaussians, or at exact draws (B, D_l) from the posterior."""
        self.network, self.data_BD, self.modes, self.noise = network, data_BD, modes, noise
        xi = noise.draw()
        at_start = modes.log_weights_BJ if exact is None else modes.log_shares(exact[-1])[0]
        self.chosen_B = choose(at_start, noise.uniform_B)
        self.around = modes.around(self.chosen_B)
        if exact is not None:
            xi = self.around.whitened(exact[-len(xi) :])
        self.widths = [layer.shape[1] for layer in xi]
        self.xi_BX = torch.cat(xi, 1)
        self.energy_B, self.slope_BX = self._evaluate(self.xi_BX)
        rows_B = torch.arange(len(xi[0]), device=xi[0].device)
        own_B = modes.log_weights_BJ[rows_B, self.chosen_B] - self.around.log_volume()
        normal = 0.5 * sum(self.widths) * math.log(2 * math.pi)
        self.log_w_B = _constant(network, hidden=len(xi) > 1) + normal - own_B
        self.probable_B = torch.ones_like(own_B)
        self.velocity_BX = torch.cat(noise.draw(), 1)

    def weigh(self, share: float) -> None:
        """Add a temperature step of this size to the log weights."""
        self.log_w_B = self.log_w_B + share * (self._square(self.xi_BX) - self.energy_B)

    def move(self, share: float, step: float) -> None:
        """Take a leapfrog step at this temperature; a refused one turns the velocity round."""
        slope_BX = share * self.slope_BX + (1 - share) * self.xi_BX
        velocity_BX = self.velocity_BX - 0.5 * step * slope_BX
        xi_BX = self.xi_BX + step * velocity_BX
        energy_B, new_BX = self._evaluate(xi_BX)
        velocity_BX = velocity_BX - 0.5 * step * (share * new_BX + (1 - share) * xi_BX)
        worse_B = share * (energy_B - self.energy_B)
        worse_B = worse_B + (1 - share) * (self._square(xi_BX) - self._square(self.xi_BX))
        worse_B = worse_B + self._square(velocity_BX) - self._square(self.velocity_BX)
        # An energy that is not finite is refused.
        self.probable_B = (-worse_B).clamp(max=0).exp().nan_to_num(0.0)
        taken_B = self.noise.uniform_B < self.probable_B
        taken = taken_B[:, None]
        self.velocity_BX = torch.where(taken, velocity_BX, -self.velocity_BX)
        self.xi_BX = torch.where(taken, xi_BX, self.xi_BX)
        self.slope_BX = torch.where(taken, new_BX, self.slope_BX)
        self.energy_B = torch.where(taken_B, energy_B, self.energy_B)

    def refresh(self, step: float) -> None:
        """Renew the velocity in part, as friction and noise do in the time of a step."""
        decay = math.exp(-_FRICTION * step)
        noise_BX = torch.cat(self.noise.draw(), 1)
        self.velocity_BX = decay * self.velocity_BX + math.sqrt(1 - decay**2) * noise_BX

    def _evaluate(self, xi_BX: Tensor) -> tuple[Tensor, Tensor]:
        """Return E(u) - log r_j(z) (B,) without constants, and its slope in xi (B, X)."""
        network = self.network
        errors = self.around.point(list(torch.split(xi_BX, self.widths, 1)))
        held = network.sizes[1 : network.depth] if len(errors) == 1 else []
        still = [xi_BX.new_zeros(1, size) for size in held]
        states, terms = determined_states(
            network, self.data_BD, errors[-1], [*still, *errors[:-1]], None
        )
        energy_B, pull_BL = network.prior_terms(states[-1])
        slopes = error_slopes(network, terms, pull_BL, network.depth)[-len(errors) :]
        log_shares_BJ, share_slopes_BJL = self.modes.log_shares(states[-1])
        rows_B = torch.arange(len(xi_BX), device=xi_BX.device)
        slopes[-1] = slopes[-1] - share_slopes_BJL[rows_B, self.chosen_B]
        energy_B = energy_B - log_shares_BJ[rows_B, self.chosen_B]
        for term in terms:
            energy_B = energy_B + term.energy_B
        return energy_B, torch.cat(self.around.slopes(slopes), 1)

    @staticmethod
    def _square(xi_BX: Tensor) -> Tensor:
        return 0.5 * xi_BX.square().sum(1)


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
        if i == network.depth and network.mixture is not None:
            # The mixture's energy has the determinants of its components.
            log_precision = torch.zeros_like(log_precision)
        total += 0.5 * float((log_precision - math.log(2 * math.pi)).expand(network.sizes[i]).sum())
    return total
