"""Solvers: what moves, in which direction, and with which curvature in mind.

Every solver finds the same minima, so they are interchangeable and are tested against one another.
A new one is one row in `SOLVERS`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pcgen.config import InferenceTable
from pcgen.inference.auto import AutoInference, Begin
from pcgen.inference.directions import Conjugate, Descent, Steepest
from pcgen.inference.errors import ErrorInference
from pcgen.inference.fast_descent import Loops, fits
from pcgen.inference.preconditioners import (
    BlockDiagonal,
    BlockTridiagonal,
    ErrorDiagonal,
    too_large,
)
from pcgen.inference.redblack import RedBlackInference
from pcgen.inference.reduction import ReducedInference, reduce
from pcgen.inference.states import Inference, StateInference
from pcgen.model.network import Network
from pcgen.registry import SAMPLERS, SOLVERS


@dataclass(frozen=True, slots=True)
class Method:
    """A solver at a network's present weights, to begin any number of batches with.

    Attributes:
        network: whose energy is lowered.
        kind: what moves: the states, or the errors that the states follow from.
        direction: makes the rule of one batch.
        loops: the same rule for many steps at once, where there is one.
    """

    network: Network
    kind: Callable[..., Inference]
    direction: Callable[[], Any]
    loops: Loops | None = None

    def begin(
        self,
        data_BD: Tensor,
        mask_BD: Tensor | None = None,
        latent_BD: Tensor | None = None,
        clamp_latent: bool = False,
        steps: int = 0,
        labels_BK: Tensor | None = None,
    ) -> Inference:
        """Return a batch's states, which start from the data and what the latent predicts.

        Args:
            data_BD: the data layer; values under a 0 of the mask are never looked at.
            mask_BD: 1 visible, 0 hidden.
            latent_BD: where the latent starts, if not where the model's own start says.
            clamp_latent: keep the latent where it starts.
            steps: moves to take at once, without a look at the energy where that is faster.
            labels_BK: one-hot classes, which stay; of a network with a label layer.
        """
        labelled = self.network.table.labels
        assert not (clamp_latent and labelled)
        assert labels_BK is None or labelled
        if mask_BD is not None:
            data_BD = torch.where(mask_BD > 0, data_BD, 0.0)
        if latent_BD is None:
            latent_BD = self.network.start_latent(data_BD, mask_BD)
        states = self.network.states_from(latent_BD, data_BD, labels_BK)
        clamp_latent = clamp_latent or labels_BK is not None
        if steps and self.loops is not None and mask_BD is None:
            states, steps = self.loops.run(states, steps, clamp_latent), 0
        inference = self.at(states, mask_BD, clamp_latent)
        for _ in range(steps):
            inference.step()
        return inference

    def at(self, states: list[Tensor], mask_BD: Tensor | None, clamp_latent: bool) -> Inference:
        """Return a batch that starts from these states, of which the uppermost may be clamped."""
        return self.kind(self.network, states, self.direction(), mask_BD, clamp_latent)


def _descent(network: Network, table: InferenceTable) -> Method:
    loops = Loops(network, table.rate, table.momentum) if fits(network) else None
    return Method(network, StateInference, lambda: Descent(table.rate, table.momentum), loops)


def _majorise(network: Network, table: InferenceTable) -> Method:
    precondition = BlockDiagonal(network)
    return Method(network, StateInference, lambda: Conjugate(precondition))


def _newton(network: Network, table: InferenceTable) -> Method:
    precondition = BlockTridiagonal(network)
    return Method(network, StateInference, lambda: Conjugate(precondition))


def _errors(network: Network, table: InferenceTable) -> Method:
    precondition = ErrorDiagonal(network)
    return Method(network, ErrorInference, lambda: Conjugate(precondition))


def _redblack(network: Network, table: InferenceTable) -> Method:
    precondition = BlockDiagonal(network)
    return Method(network, RedBlackInference, lambda: Steepest(precondition))


def _auto(network: Network, table: InferenceTable) -> Method:
    first = _majorise if too_large(network) else _newton
    begun: dict[int, Method] = {}

    def begin(number: int, make: Callable[..., Method]) -> Begin:
        def begin_at(states: list[Tensor], mask_BD: Tensor | None, clamp_latent: bool) -> Inference:
            # A solver that no image needs is never prepared.
            if number not in begun:
                begun[number] = make(network, table)
            return begun[number].at(states, mask_BD, clamp_latent)

        return begin_at

    solvers = [begin(i, make) for i, make in enumerate((first, _errors))]
    return Method(network, AutoInference, lambda: solvers)


def _sampled(network: Network, table: InferenceTable) -> Method:
    """Return what finds the states of least energy where a sampler trained the network."""
    return (_errors if table.sampling.coordinates == "errors" else _majorise)(network, table)


SOLVERS.define(
    {
        "descent": _descent,
        "majorise": _majorise,
        "newton": _newton,
        "errors": _errors,
        "redblack": _redblack,
        "auto": _auto,
        **dict.fromkeys(SAMPLERS, _sampled),
    }
)


def register_solver(name: str, make: Callable[[Network, InferenceTable], Method]) -> None:
    """Make a solver known by its name, for `inference.solver`.

    Args:
        make: (network, inference table) -> `Method` at the network's present weights. It is called
            once per weight update.

    Example:
        >>> from pcgen.inference.directions import Descent
        >>> from pcgen.inference.states import StateInference
        >>> def slow(network, table):
        ...     return Method(network, StateInference, lambda: Descent(0.01, momentum=0.0))
        >>> register_solver("slow-descent", slow)
    """
    SOLVERS.register(name, make)


def prepare(
    network: Network, table: InferenceTable, earlier: Method | None = None, *, reduced: bool = True
) -> Method:
    """Return the recipe's solver at the network's present weights.

    Args:
        earlier: the same network's method at earlier weights, whose buffers may be used again.
        reduced: stand in fewer units for the data where the energy allows it; the weights must
            then not change while a batch is inferred.
    """
    if table.solver == "descent":
        return earlier or _descent(network, table)
    make = SOLVERS.get(table.solver)
    reduction = reduce(network) if reduced else None
    if reduction is None:
        return make(network, table)
    found = reduction
    inner = make(found.network, table)
    whole = functools.cache(lambda: make(network, table))

    def kind(
        _network: Network,
        states: list[Tensor],
        _direction: None,
        mask_BD: Tensor | None,
        clamp_latent: bool,
    ) -> Inference:
        if mask_BD is not None:
            return whole().at(states, mask_BD, clamp_latent)
        return ReducedInference(
            found, lambda reduced: inner.at(reduced, None, clamp_latent), states
        )

    return Method(network, kind, lambda: None)
