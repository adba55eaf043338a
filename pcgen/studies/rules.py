"""Rules: how the layers of a chain get the errors that their weights learn from.

Each is a few lines: from a batch to the states and the signals q (of the hidden layers and of the
output) in `Chain.gradients`. `RULES` names the source of each and where it differs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pcgen.studies.chain import Batch, Chain, Point

if TYPE_CHECKING:
    from pcgen.studies.training import Setting

Credit = tuple[Point, Tensor, Tensor]
Weigh = Callable[[int, Tensor, Tensor], tuple[Tensor, Tensor]]
# Gauss-Newton steps to the equilibrium.
_STEPS = 3


def start_states(chain: Chain, batch: Batch, start: str) -> Tensor:
    """Return where inference starts: the feedforward states, zeros, or 0.1 N(0, 1)."""
    states = chain.forward(batch.data_SBD)
    if start == "zero":
        return torch.zeros_like(states)
    if start == "normal":
        return 0.1 * torch.randn(states.shape, generator=batch.source).to(states)
    return states


def descend(chain: Chain, batch: Batch, setting: Setting, weigh: Weigh) -> Point:
    """Return the states after gradient descent with momentum on weighed errors."""
    states = start_states(chain, batch, setting.start)
    first_SBN = chain.first(batch.data_SBD)
    velocity = torch.zeros_like(states)
    for step in range(setting.inference_steps):
        at = chain.at(states, batch, first_SBN)
        hidden, output = weigh(step, at.hidden, at.output)
        slope = hidden - chain.adjoint(at, hidden, output)
        velocity = velocity.mul_(setting.momentum).sub_(slope, alpha=setting.state_rate)
        states = states + velocity
    return chain.at(states, batch, first_SBN)


def _forward(chain: Chain, batch: Batch, hidden: Tensor | None = None) -> Point:
    """Return the feedforward states, or those with these errors."""
    return chain.at(chain.forward(batch.data_SBD, hidden), batch, chain.first(batch.data_SBD))


def backprop(chain: Chain, batch: Batch, setting: Setting) -> Credit:
    """Return backprop's signals at the feedforward states."""
    at = _forward(chain, batch)
    return at, chain.sweep(at, at.output), at.output


def predictive_coding(chain: Chain, batch: Batch, setting: Setting) -> Credit:
    """Return the weighed errors where descent ends."""
    precision = setting.precision
    at = descend(chain, batch, setting, lambda _, hidden, output: (precision * hidden, output))
    return at, precision * at.hidden, at.output


def dual(chain: Chain, batch: Batch, setting: Setting) -> Credit:
    """Return errors plus dual variables, which add each step's hidden errors up."""
    duals = torch.zeros(())

    def weigh(step: int, hidden: Tensor, output: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal duals
        # The errors at the start are zero, so that the first step adds nothing.
        duals = duals + hidden
        return hidden + duals, output

    at = descend(chain, batch, setting, weigh)
    return at, at.hidden + duals, at.output


def errors(chain: Chain, batch: Batch, setting: Setting) -> Credit:
    """Return the weighed errors after descent on the errors themselves."""
    hidden = torch.zeros_like(chain.forward(batch.data_SBD))
    for _ in range(setting.inference_steps):
        at = _forward(chain, batch, hidden)
        slope = setting.precision * hidden - chain.sweep(at, at.output)
        hidden = hidden - setting.state_rate * slope
    at = _forward(chain, batch, hidden)
    return at, setting.precision * at.hidden, at.output


def equilibrium(chain: Chain, batch: Batch, setting: Setting) -> Credit:
    """Return the weighed errors at the equilibrium, by Gauss-Newton steps.

    Linear in the errors, the logits are o + sum_l G_l (eps_l - eps_l^0). The errors of least energy
    are then eps_l = G_l' a / pi, and K equations for each image give a:

        (1 + C M) a = q_o + C sum_l G_l eps_l^0,   M = sum_l G_l G_l' / pi

    C is the curvature of the output's energy in the logits: 1, or diag(p) - p p'. An image whose
    energy would rise stays, and its next step has a quarter of the length.
    """
    precision = setting.precision
    at = _forward(chain, batch)
    length_SB1 = torch.ones_like(at.output[..., :1])
    for _ in range(_STEPS):
        move = _least_errors(chain, at, precision) - at.hidden
        trial = _forward(chain, batch, torch.addcmul(at.hidden, length_SB1, move))
        energies = [chain.energies(each, batch, precision).sum(0) for each in (trial, at)]
        refused_SB1 = ~(energies[0] <= energies[1])[..., None]
        length_SB1 = torch.where(refused_SB1, length_SB1 / 4, 1.0)
        if refused_SB1.any():
            trial = _forward(chain, batch, torch.where(refused_SB1, at.hidden, trial.hidden))
        at = trial
    return at, precision * at.hidden, at.output


def _least_errors(chain: Chain, at: Point, precision: float) -> Tensor:
    """Return the hidden errors of least energy where the logits are linear in them."""
    jacobians = chain.jacobians(at)
    flat = jacobians.permute(1, 2, 3, 0, 4).flatten(3)
    matrix = flat @ flat.mT / precision
    moved = flat @ at.hidden.permute(1, 2, 0, 3).flatten(2)[..., None]
    if chain.entropy:
        likely = torch.softmax(at.logits, -1)
        curvature = torch.diag_embed(likely) - likely[..., None] * likely[..., None, :]
        matrix, moved = curvature @ matrix, curvature @ moved
    matrix.diagonal(dim1=-2, dim2=-1).add_(1.0)
    signal = torch.linalg.solve(matrix, at.output[..., None] + moved)
    return (jacobians * signal).sum(-2) / precision


def frozen(chain: Chain, batch: Batch, setting: Setting) -> Credit:
    """Return errors that settle where each equals what arrives from the next layer."""
    at = _forward(chain, batch)
    hidden = torch.zeros_like(at.states)
    for _ in range(setting.inference_steps):
        difference = hidden - chain.adjoint(at, hidden, at.output)
        hidden = hidden - setting.state_rate * difference
    return at, hidden, at.output


@dataclass(frozen=True, slots=True)
class Rule:
    """A rule, the rate of its states and the source."""

    run: Callable[[Chain, Batch, Setting], Credit]
    rate: float
    source: str


RULES = {
    "backprop": Rule(backprop, 0.0, "Rumelhart et al. (1986)"),
    "pc": Rule(predictive_coding, 0.25, "Whittington and Bogacz (2017); 2 L steps of descent"),
    "equilibrium": Rule(equilibrium, 0.0, "Innocenti et al. (2024), its exact equilibrium"),
    "errors": Rule(errors, 0.1, "Goemaere et al. (2025), ePC"),
    "dual": Rule(dual, 0.25, "PC-ALM (2026), alpha = rho = 1; weights learn before the dual step"),
    "frozen": Rule(
        frozen,
        1.0,
        "Millidge et al. (2022), predictions of the forward pass; the loss of Meta-PCN (2026)",
    ),
}
"""The rules by name. At rate 1, `frozen` is backprop after H steps, by local messages."""
