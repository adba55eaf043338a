"""Solvers: the variables that move, and the rule that gives their direction.

Where the hidden precision is about 1, all solvers find the same minima, and the tests compare them.
At 1000 they do not (docs/results/inference.md). A new one is a function and a call of
`register_solver`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pcgen.config import InferenceTable
from pcgen.inference.certificate import Certificate
from pcgen.inference.directions import Conjugate, Descent
from pcgen.inference.errors import ErrorInference, OwnCurvature
from pcgen.inference.exact import ExactInference, require_whole_curvature
from pcgen.inference.preconditioners import BlockDiagonal, BlockTridiagonal, ErrorDiagonal
from pcgen.inference.reduction import ReducedInference, reduce
from pcgen.inference.states import Inference, StateInference
from pcgen.model.network import Network
from pcgen.registry import SAMPLERS, SOLVERS


@dataclass(frozen=True)
class Method:
    """A solver prepared for a network's present weights. It can begin any number of batches.

    Attributes:
        network: the network whose energy is lowered.
        kind: the class of the variables that move: states, or errors that determine the states.
        direction: makes the rule for one batch.
    """

    network: Network
    kind: Callable[..., Inference]
    direction: Callable[[], Any]

    def begin(
        self,
        data_BD: Tensor,
        mask_BD: Tensor | None = None,
        latent_BD: Tensor | None = None,
        clamp_latent: bool = False,
        steps: int = 0,
        labels_BK: Tensor | None = None,
        guided: bool = True,
    ) -> Inference:
        """Return the inference of a batch. Hidden layers start at what the latent predicts.

        Args:
            data_BD: the data layer. Values where the mask is 0 are not used.
            mask_BD: 1 visible, 0 hidden.
            latent_BD: where the latent starts; where the model's own start says, if not given.
            clamp_latent: keep the latent where it starts.
            steps: steps to take at once.
            labels_BK: one-hot classes to clamp, for a network with a label layer.
            guided: add the energy of the upward chain, if there is one. Without it, that chain only
                gives the latent its start.
        """
        labelled = self.network.table.labels
        assert not (clamp_latent and labelled)
        assert labels_BK is None or labelled
        if mask_BD is not None:
            data_BD = torch.where(mask_BD > 0, data_BD, 0.0)
        guide = self.network.guide(data_BD, mask_BD) if guided else None
        if latent_BD is None and guide is not None:
            latent_BD = guide.latent_BL
        elif latent_BD is None:
            latent_BD = self.network.start_latent(data_BD, mask_BD)
        states = self.network.states_from(latent_BD, data_BD, labels_BK)
        clamp_latent = clamp_latent or labels_BK is not None
        inference = self.at(states, mask_BD, clamp_latent)
        if guide is not None:
            assert isinstance(inference, StateInference)
            inference.follow(guide)
        for _ in range(steps):
            inference.step()
        return inference

    def at(self, states: list[Tensor], mask_BD: Tensor | None, clamp_latent: bool) -> Inference:
        """Return the inference of a batch that starts at these states (B, D_l), data first."""
        direction, certificate = self.direction(), self.certificate
        return self.kind(self.network, states, direction, mask_BD, clamp_latent, certificate)

    @functools.cached_property
    def certificate(self) -> Certificate:
        """Return the bounds of the energy that states can still lose."""
        return Certificate(self.network)


def _descent(network: Network, table: InferenceTable) -> Method:
    return Method(network, StateInference, lambda: Descent(table.rate, table.momentum))


def _majorise(network: Network, table: InferenceTable) -> Method:
    precondition = BlockDiagonal(network)
    return Method(network, StateInference, lambda: Conjugate(lambda g, _: precondition(g)))


def _newton(network: Network, table: InferenceTable) -> Method:
    precondition = BlockTridiagonal(network)
    return Method(network, StateInference, lambda: Conjugate(precondition))


def _exact_newton(network: Network, table: InferenceTable) -> Method:
    require_whole_curvature(network)
    precondition = BlockTridiagonal(network)
    return Method(network, ExactInference, lambda: Conjugate(precondition))


def _errors(network: Network, table: InferenceTable) -> Method:
    precondition = ErrorDiagonal(network)
    return Method(network, ErrorInference, lambda: OwnCurvature(precondition))


def _sampled(network: Network, table: InferenceTable) -> Method:
    """Return the solver that finds the states of least energy in a network trained by a sampler."""
    return (_errors if table.sampling.coordinates == "errors" else _majorise)(network, table)


SOLVERS.define(
    {
        "descent": _descent,
        "majorise": _majorise,
        "newton": _newton,
        "exact-newton": _exact_newton,
        "errors": _errors,
        **dict.fromkeys(SAMPLERS, _sampled),
    }
)


def register_solver(name: str, make: Callable[[Network, InferenceTable], Method]) -> None:
    """Make a solver known by its name, for `inference.solver`.

    Args:
        make: (network, inference table) -> `Method` at the network's present weights. It is called
            once per weight update.

    Example:
        >>> import pcgen
        >>> from pcgen.inference.directions import Descent
        >>> from pcgen.inference.solvers import Method
        >>> from pcgen.inference.states import StateInference
        >>> def slow(network, table):
        ...     return Method(network, StateInference, lambda: Descent(0.01, momentum=0.0))
        >>> pcgen.register_solver("slow-descent", slow)
    """
    SOLVERS.register(name, make)


def prepare(network: Network, table: InferenceTable, *, reduced: bool = True) -> Method:
    """Return the recipe's solver, prepared for the network's present weights.

    Args:
        reduced: replace the data by fewer units with the same energy, where that is possible and
            faster. The weights must then not change while a batch is inferred.
    """
    if table.solver == "descent":
        return _descent(network, table)
    make = SOLVERS.get(table.solver)
    reduction = reduce(network) if reduced and network.upward is None else None
    if reduction is None:
        return make(network, table)
    inner = make(reduction.network, table)
    unreduced = functools.cache(lambda: make(network, table))

    def kind(
        _network: Network,
        states: list[Tensor],
        _direction: None,
        mask_BD: Tensor | None,
        clamp_latent: bool,
        _certificate: Certificate,
    ) -> Inference:
        if mask_BD is not None:
            return unreduced().at(states, mask_BD, clamp_latent)
        return ReducedInference(
            reduction, lambda reduced: inner.at(reduced, None, clamp_latent), states
        )

    return Method(network, kind, lambda: None)
