"""Scores that users have added with `pcgen.register_score`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from pcgen.config import InferenceTable
from pcgen.data.images import Images
from pcgen.errors import CalibrationError
from pcgen.inference.infer import Equilibrium
from pcgen.inference.solvers import Method, prepare
from pcgen.model.network import Network
from pcgen.ood.scores.scorer import equilibrium
from pcgen.ood.scoring import BATCH, chosen_rows
from pcgen.registry import SCORES

Score = Callable[[Network, Equilibrium, Mapping[str, Tensor]], Tensor]
"""Returns how unusual each image is (B,), from its equilibrium and the tensors that `Fit` gave."""
Fit = Callable[[Network, Equilibrium], dict[str, Tensor]]
"""Returns the tensors that the score needs, by name, from the equilibrium of known images."""

# Known images that a score is fitted to, and values in all their states, at most (256 MiB).
_FITTED = 10_000
_FITTED_VALUES = 2**26


@dataclass(eq=False)
class RegisteredScorer:
    """Users' scores of one network.

    Attributes:
        network: the predictive coding network.
        table: the settings of inference.
        fitted: the fitted tensors of each score, by the score's name.
    """

    network: Network
    table: InferenceTable
    fitted: dict[str, dict[str, Tensor]]

    @property
    def names(self) -> tuple[str, ...]:
        """Return the scores' names."""
        return tuple(self.fitted)

    @cached_property
    def method(self) -> Method:
        """Return the solver, prepared for the network's weights."""
        return prepare(self.network, self.table.for_use())

    def __call__(self, data_BD: Tensor) -> dict[str, Tensor]:
        """Return a column (B,) for each score.

        Raises:
            CalibrationError: a score returned a tensor of another shape.
        """
        end = equilibrium(self.method, self.table, data_BD)
        columns = {}
        for name, tensors in self.fitted.items():
            score, _ = SCORES.get(name)
            columns[name] = score(self.network, end, tensors)
            if columns[name].shape != (len(data_BD),):
                raise CalibrationError(
                    f"score {name}: returned shape {tuple(columns[name].shape)} for "
                    f"{len(data_BD)} images",
                    "It must return one number for each image",
                )
        return columns

    def tensors(self) -> dict[str, Tensor]:
        """Return the fitted tensors of all scores as NAME.TENSOR."""
        return {
            f"{name}.{key}": tensor
            for name, tensors in self.fitted.items()
            for key, tensor in tensors.items()
        }


def fit(
    network: Network, images: Images, table: InferenceTable, names: Sequence[str]
) -> RegisteredScorer:
    """Return registered scores, fitted to known images.

    Args:
        network: on the device where the fit takes place.
        images: known images; of more than 10,000, this number is drawn, always the same ones.

    Raises:
        UnknownNameError: no score is registered under a name.
    """
    functions = {name: SCORES.get(name)[1] for name in names}
    scorer = RegisteredScorer(network, table, {name: {} for name in names})
    if any(functions.values()):
        known = _equilibrium_of_known(scorer, images)
        scorer.fitted |= {
            name: function(network, known) for name, function in functions.items() if function
        }
    return scorer


def _equilibrium_of_known(scorer: RegisteredScorer, images: Images) -> Equilibrium:
    like = scorer.network.layers[0].weight
    numbers = chosen_rows(images, min(_FITTED, max(2, _FITTED_VALUES // sum(scorer.network.sizes))))
    ends = []
    for batch in torch.split(numbers, BATCH):
        rows = images.rows(batch)
        ends.append(equilibrium(scorer.method, scorer.table, rows.pixels_BD[rows.ok].to(like)))
    return Equilibrium(
        [torch.cat(layer) for layer in zip(*(end.states for end in ends), strict=True)],
        torch.cat([end.energy_B for end in ends]),
        torch.cat([end.excess_bound_B for end in ends]),
        torch.cat([end.converged_B for end in ends]),
        torch.cat([end.steps_B for end in ends]),
        torch.cat([end.start_energy_B for end in ends]),
    )


def load(
    network: Network, table: InferenceTable, names: Sequence[str], tensors: dict[str, Tensor]
) -> RegisteredScorer:
    """Return the scorer whose `names` and `tensors()` these are."""
    device = network.layers[0].weight.device
    return RegisteredScorer(
        network,
        table,
        {
            name: {
                key.removeprefix(f"{name}."): tensor.to(device)
                for key, tensor in tensors.items()
                if key.startswith(f"{name}.")
            }
            for name in names
        },
    )
