"""The marginal log-likelihood of data, by annealed importance sampling over errors.

    p_b(states) ~ p(states) p(data | states)^b,   b from 0 to 1
    log w = -sum_t (b_t - b_{t-1}) E_data(states_{t-1}),   log p(data) ~ log mean_K w

Each chain begins at a draw from the prior and moves, at every b, by a kinetic step with a
Metropolis test, which leaves p_b as it is. The estimate is a lower bound on average (by Jensen),
and the tighter the more temperatures there are.

Source: Neal (2001); on decoders: Wu, Burda, Salakhutdinov and Grosse (2017), whose steps adapt to
the acceptance so far, as here.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import msgspec
import torch
from torch import Tensor

from pcgen.config import InferenceTable
from pcgen.model.energy import LayerEnergy, Terms
from pcgen.model.network import Network
from pcgen.sampling.ancestral import draw_states
from pcgen.sampling.chains import Posterior
from pcgen.sampling.noise import SampleNoise

_BATCH = 500  # chains


def log_likelihood(
    network: Network,
    table: InferenceTable,
    data_BD: Tensor,
    *,
    chains: int,
    temperatures: int,
    seed: int = 0,
    on_rows: Callable[[int], None] = lambda done: None,
) -> Tensor:
    """Return log p(data) (B,) in nats per row.

    Args:
        table: gives the friction and the mass of the steps, in its sampling table.
        data_BD: binary rows if the output is Bernoulli.
        chains: for each row.
        temperatures: number of steps from the prior to the posterior.
        on_rows: called with the number of finished rows.
    """
    weights = []
    at_once = max(1, _BATCH // chains)
    for first in range(0, len(data_BD), at_once):
        part_BD = data_BD[first : first + at_once].repeat_interleave(chains, 0)
        numbers = range(first * chains, first * chains + len(part_BD))
        weights.append(_log_weights(network, table, part_BD, numbers, temperatures, seed))
        on_rows(min(first + at_once, len(data_BD)))
    log_w_BK = torch.cat(weights).view(-1, chains)
    return torch.logsumexp(log_w_BK, 1) - math.log(chains) + _constant(network)


def _log_weights(
    network: Network,
    table: InferenceTable,
    data_BD: Tensor,
    numbers: range,
    temperatures: int,
    seed: int,
) -> Tensor:
    sampling = msgspec.structs.replace(
        table.sampling, coordinates="errors", metropolis=True, temperature=1.0, precondition=True
    )
    exact = msgspec.structs.replace(table, solver="kinetic", sampling=sampling)
    like = [data_BD.new_empty(0, size) for size in network.sizes[1 : network.latent + 1]]
    noise = SampleNoise(seed, "ais", numbers, like)
    states = draw_states(network, noise)
    states[0] = data_BD
    log_w_B = torch.zeros_like(data_BD[:, 0])
    step_B = torch.full_like(log_w_B, sampling.step or 0.3)
    # The first steps are small: there the data begin to matter most.
    ladder = torch.linspace(0, 1, temperatures + 1).pow(4).tolist()
    for before, after in itertools.pairwise(ladder):
        tempered = _Tempered(network, after)
        posterior = Posterior(tempered, exact)
        chains = posterior.begin(states, lambda like: noise, step_B=step_B)
        log_w_B -= (1 - before / after) * chains.surface.terms[0].energy_B
        chains.step(adapt=True)
        states, step_B = chains.states, chains.sampler.step_B
    return log_w_B


class _Share:
    """The energy of a layer times a share."""

    def __init__(self, energy: LayerEnergy, share: float) -> None:
        self.energy = energy
        self.share = share

    def terms(self, value_BD: Tensor, drive_BD: Tensor, mask_BD: Tensor | None) -> Terms:
        terms = self.energy.terms(value_BD, drive_BD, mask_BD)
        return Terms(
            self.share * terms.energy_B,
            terms.prediction_BD,
            self.share * terms.pull_BD,
            self.share * terms.signal_BD,
            terms.slope_BD,
        )

    def curvature(
        self, terms: Terms, move_BD: Tensor | None, drive_move_BD: Tensor, mask_BD: Tensor | None
    ) -> Tensor:
        return self.share * self.energy.curvature(terms, move_BD, drive_move_BD, mask_BD)

    def predict(self, drive_BD: Tensor) -> Tensor:
        return self.energy.predict(drive_BD)

    def bound(self) -> Tensor:
        return self.share * self.energy.bound()

    def mean_curvature(self, drive_BD: Tensor) -> tuple[Tensor, Tensor]:
        cross_D, own_D = self.energy.mean_curvature(drive_BD)
        return self.share * cross_D, self.share * own_D

    def draw(self, prediction_BD: Tensor, normal_BD: Tensor) -> Tensor:
        return self.energy.draw(prediction_BD, normal_BD)


class _Tempered(Network):
    """A network whose data layer counts with a share of its energy."""

    def __init__(self, whole: Network, share: float) -> None:
        super().__init__(whole.table, whole.layers, whole.log_precisions, whole.skips)
        self.typical_latents = whole.typical_latents
        self.mixture = whole.mixture
        self.share = share

    def energies(self) -> list[LayerEnergy]:
        data, *hidden = super().energies()
        return [_Share(data, self.share), *hidden]


def _constant(network: Network) -> Tensor:
    """Return the constant by which log p(data | states) exceeds minus the energy of the data."""
    if network.table.likelihood != "gaussian":
        return torch.zeros(())
    log_precision_D = network.log_precisions[0].expand(network.sizes[0])
    return 0.5 * (log_precision_D - math.log(2 * math.pi)).sum()
