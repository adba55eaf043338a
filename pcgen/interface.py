"""The Python interface for builders: inference step by step, and networks in files.

These functions check what comes in and call the engine, so they give the same numbers as
`pcgen.train` and `pcgen.reconstruct`. The notation is that of `pcgen/model/network.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from pcgen import shipped
from pcgen.config import ARRAY, InferenceTable, Recipe, from_dict, to_dict, with_settings
from pcgen.errors import DataError, RecipeError
from pcgen.inference import infer as engine
from pcgen.inference.infer import Equilibrium
from pcgen.inference.solvers import prepare
from pcgen.inference.states import Inference
from pcgen.model.layers import Dense, TransposedConvolution
from pcgen.model.network import Network
from pcgen.storage import checkpoint

Array: TypeAlias = Tensor | np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Step:
    """The state of a batch's inference after a number of steps.

    Attributes:
        number: steps so far; 0 is the start.
        states: x_l (B, D_l) of every layer, data first.
        predictions: mu_l (B, D_l) of every layer below the top.
        errors: eps_l = x_l - mu_l (B, D_l) of the same layers; 0 where data are hidden.
        energies: (B,) of every layer in nats per image, data first. The last is the prior's.
        energy_B: their sum, with the term of learned precisions.

    Example:
        >>> import pcgen, torch
        >>> network = pcgen.Network([4, 16, 64])
        >>> *_, last = pcgen.steps(network, torch.rand(10, 64), 5)
        >>> last.number, last.errors[0].shape, len(last.energies)
        (5, torch.Size([10, 64]), 3)
    """

    number: int
    states: list[Tensor]
    predictions: list[Tensor]
    errors: list[Tensor]
    energies: list[Tensor]
    energy_B: Tensor

    @classmethod
    def of(cls, number: int, inference: Inference) -> Step:
        """Return the present point of an inference of the engine."""
        network, states, terms = inference.network, [*inference.states], inference.terms
        predictions = [term.prediction_BD for term in terms]
        errors = [x - mu for x, mu in zip(states, predictions, strict=False)]
        if inference.mask_BD is not None:
            errors[0] = errors[0] * inference.mask_BD
        energies = [term.energy_B for term in terms]
        energies.append(network.prior_energy(states[-1]))
        energy_B = inference.energy_B + network.log_det(inference.mask_BD)
        return cls(number, states, predictions, errors, energies, energy_B)


def infer(
    network: Network,
    data: Array,
    *,
    steps: int = 200,
    tolerance: float = 1e-4,
    solver: str = "majorise",
    mask: Array | None = None,
    latent: Array | None = None,
) -> Equilibrium:
    """Return the states of least energy with the data clamped, for every row of `data`.

        x_l moves against dE/dx_l = Pi_l eps_l - (d mu_{l-1} / d x_l)' Pi_{l-1} eps_{l-1}

    Args:
        data: (B, D) or (B, C, H, W), a tensor or an array. Pixels are in [0, 1].
        steps: the most gradient evaluations.
        tolerance: an image stops when its energy is certainly within this share of a stationary
            point's; 0 takes all steps.
        solver: the rule that moves the states (docs/solvers.md).
        mask: as `data`, 1 visible and 0 hidden; or of one image, for all of them.
        latent: (B, D_L), where the latent starts; the network's own start if not given.

    Raises:
        DataError: data that do not fit the network.
        RecipeError: an unknown solver.

    Source: Rao and Ballard (1999). Solvers other than `descent` search each image's step length,
    so that no image's energy rises.

    Example:
        >>> import pcgen, torch
        >>> network = pcgen.Network([4, 16, 64])
        >>> equilibrium = pcgen.infer(network, torch.rand(10, 64))
        >>> equilibrium.states[-1].shape, bool(equilibrium.converged_B.all())
        (torch.Size([10, 4]), True)
    """
    data_BD, mask_BD, latent_BD = _batch(network, data, mask, latent)
    method = prepare(network, InferenceTable(solver=solver))
    return engine.infer(
        method, data_BD, steps=steps, tolerance=tolerance, mask_BD=mask_BD, latent_BD=latent_BD
    )


def steps(
    network: Network,
    data: Array,
    steps: int = 20,
    *,
    solver: str = "majorise",
    rate: float = 0.05,
    momentum: float = 0.5,
    mask: Array | None = None,
    latent: Array | None = None,
) -> Iterator[Step]:
    """Return an iterator over the start of inference and each of its steps, as `Step`.

    The weights may change between two steps only if the next inference starts anew.

    Args:
        data: (B, D) or (B, C, H, W), a tensor or an array. Pixels are in [0, 1].
        steps: gradient evaluations; the iterator yields one more, the start.
        solver: the rule that moves the states (docs/solvers.md).
        rate: the step size of `descent`. The other solvers need none.
        momentum: of `descent`.
        mask: as `data`, 1 visible and 0 hidden; or of one image, for all of them.
        latent: (B, D_L), where the latent starts; the network's own start if not given.

    Raises:
        DataError: data that do not fit the network.
        RecipeError: an unknown solver.

    Example:
        >>> import pcgen, torch
        >>> network = pcgen.Network([4, 16, 64])
        >>> steps = pcgen.steps(network, torch.rand(10, 64))
        >>> energies = [float(step.energy_B.mean()) for step in steps]
        >>> energies == sorted(energies, reverse=True)
        True
    """
    table = InferenceTable(solver=solver, rate=rate, momentum=momentum)
    method = prepare(network, table, reduced=False)
    inference = method.begin(*_batch(network, data, mask, latent))
    return _steps(inference, steps)


def _steps(inference: Inference, count: int) -> Iterator[Step]:
    yield Step.of(0, inference)
    for number in range(1, count + 1):
        inference.step()
        yield Step.of(number, inference)


def save(network: Network, path: str | Path, settings: Sequence[str] = ()) -> None:
    """Write a network to a checkpoint, which `pcgen.load` and all commands read.

    Args:
        path: the file; its folder must exist.
        settings: `inference.key=value` words: how the commands infer with it.

    Raises:
        RecipeError: other settings, or a network with a map of your own, whose code a file does
            not hold.
        CheckpointError: a file that cannot be written.

    Example:
        >>> import pcgen, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     pcgen.save(pcgen.Network([4, 16, 64]), f"{folder}/small.safetensors")
        ...     pcgen.load(f"{folder}/small.safetensors").sizes
        [64, 16, 4]
    """
    foreign = [word for word in settings if not word.strip().startswith("inference.")]
    if foreign:
        raise RecipeError(f"{foreign[0]}: of a network only inference.* can be set")
    maps = [*network.layers, *(skip.layer for skip in network.skips)]
    own = [m for m in maps if type(m) not in (Dense, TransposedConvolution)]
    if own:
        raise RecipeError(
            f"{type(own[0]).__name__}: a map of your own cannot be saved",
            "Save network.tensors(), build the network again and call network.load()",
        )
    tables = with_settings(to_dict(Recipe(model=network.table)), settings)
    recipe = from_dict(tables, str(path))
    # No data are those that it was trained on, as far as a command can tell.
    data = {"source": ARRAY, "count": 0, "shape": [*network.layers[0].below], "fingerprint": ""}
    header = checkpoint.model_header(network, recipe, data, {})
    checkpoint.save(Path(path), network.tensors(), header)


def load(model: str | Path, device: str = "cpu") -> Network:
    """Return the network of a checkpoint, a run's folder or a shipped model.

    Args:
        model: a file, a folder that `pcgen train` wrote, or a name that `pcgen recipes` lists.

    Raises:
        CheckpointError: there is none, or it is damaged or a classifier.

    Example:
        >>> import pcgen
        >>> pcgen.load("digits").sizes
        [64, 64, 64, 16]
    """
    return checkpoint.load_model(shipped.find_model(model), device).network


def _batch(
    network: Network, data: Array, mask: Array | None, latent: Array | None
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return data, mask and latents as rows of numbers of the network's type.

    Raises:
        DataError: a shape that does not fit, or numbers that are not finite.
    """
    units, latents = network.sizes[0], network.sizes[network.latent]
    data_BD = _rows("data", data, units, network)
    mask_BD = latent_BD = None
    if mask is not None:
        is_shared = math.prod(mask.shape) == units
        mask_BD = _rows("mask", mask.reshape(1, units) if is_shared else mask, units, network)
        mask_BD = mask_BD.expand(len(data_BD), -1) if is_shared else mask_BD
    if latent is not None:
        latent_BD = _rows("latent", latent, latents, network)
    for name, rows in (("mask", mask_BD), ("latent", latent_BD)):
        if rows is not None and len(rows) != len(data_BD):
            raise DataError(f"{name}: {len(rows)} rows, and the data have {len(data_BD)}")
    return data_BD, mask_BD, latent_BD


def _rows(name: str, value: Array, units: int, network: Network) -> Tensor:
    weight = network.layers[0].weight
    tensor = torch.as_tensor(value, dtype=weight.dtype, device=weight.device).detach()
    if tensor.ndim < 2 or math.prod(tensor.shape[1:]) != units:
        raise DataError(
            f"{name}: the shape is {tuple(tensor.shape)}, and the network needs (B, {units})",
            "One image is a batch of one: image[None]",
        )
    rows = tensor.reshape(len(tensor), units)
    if not rows.isfinite().all():
        raise DataError(f"{name}: has numbers that are not finite")
    return rows
