"""Checkpoints: tensors plus one JSON header in a safetensors file. No pickle anywhere.

Two hashes in the header cover the whole file: `tensors_sha256` the tensors, and `sha256` the header
itself, with that hash in it and each tensor's name, shape and type. `read_header` needs neither
torch nor numpy, so that `pcgen info` answers at once.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, Self, TypeVar

from pcgen import __version__
from pcgen.config import Recipe, from_dict, to_dict, units
from pcgen.errors import (
    CalibrationError,
    CheckpointError,
    DivergenceError,
    PcgenError,
    PcgenWarning,
    RunError,
)
from pcgen.registry import UnknownNameError
from pcgen.storage.files import write_whole

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from pcgen.model.layers import Shape
    from pcgen.model.network import Network

LATENTS = "memory.latents"
"""The name of a memory's stored latents (N, D_latent) in a checkpoint."""
MEMORY_ERRORS = "memory.errors"
"""The name of the stored images' own mean squared errors (N,); older files have none."""

# Bytes. A parsed header takes up to 25 times as much memory.
_HEADER_LIMIT = 16 * 2**20
_KEY = "pcgen"
OF_MODEL = "model."
"""How the names of a model's tensors begin in a detector's file."""
TENSORS = "tensors_sha256"
"""The header's key for the hash of the tensors."""


class Trainable(Protocol):
    """A network that a checkpoint can hold: a predictive coding network or a classifier."""

    @property
    def sizes(self) -> list[int]:
        """Return the units of each layer."""

    def weights(self) -> list[Tensor]:
        """Return all weights and biases."""

    def tensors(self) -> dict[str, Tensor]:
        """Return all that a checkpoint must hold, by name."""

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Copy the values of `tensors()` of an equal network."""

    def to(self, device: torch.device | str) -> Self:
        """Return a copy on a device."""


Kind = TypeVar("Kind", bound=Trainable)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A file's header and its tensors."""

    path: Path
    header: dict[str, Any]
    tensors: dict[str, Tensor]


def read_header(path: Path) -> dict[str, Any]:
    """Return the JSON header of a checkpoint, with its tensors' shapes and types as `tensors`.

    Raises:
        CheckpointError: the file is missing, no safetensors file, not one of pcgen, of another
            length than its header states, or its header is not the one that was saved.
    """
    if path.exists() and not path.is_file():
        raise CheckpointError(f"{path}: not a file")
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            length = int.from_bytes(file.read(8), "little")
            if size < 8 or length > min(_HEADER_LIMIT, size - 8):
                raise CheckpointError(
                    f"{path}: not a checkpoint, or cut short",
                    "Models and detectors are .safetensors files, of pcgen train and ood-calibrate",
                )
            table = json.loads(file.read(length))
        header = json.loads(table.pop("__metadata__")[_KEY])
        end = max((entry["data_offsets"][1] for entry in table.values()), default=0)
        header["tensors"] = _shapes_and_types(table)
        is_whole = size == 8 + length + end
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror}") from None
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError):
        raise CheckpointError(f"{path}: not a pcgen checkpoint") from None
    if not is_whole:
        raise CheckpointError(f"{path}: {size} bytes, its header says {8 + length + end}: damaged")
    if TENSORS in header and header.get("sha256") != _header_digest(header):
        raise CheckpointError(f"{path}: damaged: its header is not the one that was saved")
    return header


def save(path: Path, tensors: dict[str, Tensor], header: dict[str, Any]) -> None:
    """Write a checkpoint completely or not at all: to a temporary file, synced, then renamed.

    Raises:
        CheckpointError: the disk is full or the folder cannot be written; the old file stays.
        DivergenceError: a tensor is not finite.
    """
    from safetensors.torch import save as serialise

    ready = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    _require_finite(path, ready)
    content = serialise(ready)
    start = 8 + int.from_bytes(content[:8], "little")
    table = json.loads(content[8:start])
    full = header | {TENSORS: digest(ready)}
    full["sha256"] = _header_digest(full | {"tensors": _shapes_and_types(table)})
    text = json.dumps({"__metadata__": {_KEY: json.dumps(full)}} | table)
    text += " " * (-len(text) % 8)  # the tensors begin at a multiple of 8 bytes
    try:
        write_whole(path, len(text).to_bytes(8, "little") + text.encode() + content[start:])
    except RunError as error:
        raise CheckpointError(error.message) from None


def amend(saved: Checkpoint, entries: dict[str, Any]) -> None:
    """Write a checkpoint again, with these entries added to its header.

    Raises:
        CheckpointError: as `save`.
    """
    computed = ("tensors", TENSORS, "sha256")
    header = {key: value for key, value in saved.header.items() if key not in computed}
    save(saved.path, saved.tensors, header | entries)


def _shapes_and_types(table: dict[str, Any]) -> dict[str, Any]:
    return {name: {key: entry[key] for key in ("shape", "dtype")} for name, entry in table.items()}


def _header_digest(header: dict[str, Any]) -> str:
    """Return the hash of a header, without the hash that it contains."""
    rest = {key: value for key, value in header.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _require_finite(path: Path, tensors: dict[str, Tensor]) -> None:
    """Raise DivergenceError for a tensor that is not finite; a logarithm may be -inf."""
    for name, tensor in tensors.items():
        if not tensor.is_floating_point() or tensor.isfinite().all():
            continue
        if "log_" in name and not (tensor.isnan() | (tensor == math.inf)).any():
            continue
        raise DivergenceError(
            f"{path}: not saved: {name} is not finite",
            "Lower the rates: --set learning.rate=..., --set inference.rate=...",
        )


def load(path: Path) -> Checkpoint:
    """Return a checkpoint, its tensors on the CPU.

    A file of pcgen 0.1, whose header has no hash, is loaded with a warning.

    Raises:
        CheckpointError: as `read_header`; or the tensors are not those that were saved.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    header = read_header(path)
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise CheckpointError(f"{path}: damaged: {error}") from None
    if digest(tensors) != header.get(TENSORS, header.get("sha256")):
        raise CheckpointError(f"{path}: damaged: its tensors are not those that were saved")
    if TENSORS not in header:
        text = f"{path}: was written by pcgen 0.1.0, so only its tensors have a checksum"
        warnings.warn(text, PcgenWarning, stacklevel=2)
    return Checkpoint(path, header, tensors)


def digest(tensors: dict[str, Tensor]) -> str:
    """Return a hash of the tensors' names, types, shapes and values."""
    hashed = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        hashed.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        hashed.update(tensor.view(-1).numpy().tobytes())
    return hashed.hexdigest()


@dataclass(frozen=True, slots=True)
class LoadedModel(Generic[Kind]):
    """A trained network with the recipe and header of its file."""

    path: Path
    network: Kind
    recipe: Recipe
    header: dict[str, Any]
    latents: Tensor | None = None
    """(N, D_latent) of the memorised images, where the model is a memory."""
    errors: Tensor | None = None
    """(N,) mean squared errors of the memorised images, decoded from their latents."""

    @property
    def shape(self) -> Shape:
        """Return channels, height and width of the data; (1, 1, D) for a table."""
        channels, height, width = self.header["data"]["shape"]
        return channels, height, width

    @property
    def scale(self) -> tuple[list[float], list[float]] | None:
        """Return the column means and deviations of a table's model."""
        return self.header["data"].get("scale")

    @property
    def data_rules(self) -> dict[str, Any]:
        """Return the arguments of `open_data` that prepare new data as the training data were."""
        return {
            "like": self.shape,
            "like_scale": self.scale,
            "columns": self.header["data"].get("columns"),
            "threshold": self.recipe.data.threshold,
            "value_range": self.recipe.data.range,
            "labels": self.recipe.data.labels,
        }

    @property
    def classes(self) -> list[str]:
        """Return the names of the classes that are told apart; numbers where they have none."""
        names = self.header["data"].get("classes") or []
        upward = getattr(self.network, "upward", None)
        count = int(self.header["sizes"][-1]) if upward is None else upward.classes
        return [*names, *map(str, range(len(names), count))]


Model = LoadedModel["Network"]
"""A trained predictive coding network."""


def load_model(path: Path, device: torch.device | str = "cpu") -> Model:
    """Return the predictive coding network of a checkpoint or a detector, ready for use.

    Raises:
        CheckpointError: as `load`; a classifier; or tensors that do not fit the recipe.
    """
    return model_of(load_held(path), device)


def read_model_header(path: Path) -> dict[str, Any]:
    """Return the header of a model, also of one that a detector's file holds.

    Raises:
        CheckpointError: as `read_header`.
    """
    header = read_header(path)
    held: dict[str, Any] = header.get("model", {}) if header.get("kind") == "detector" else header
    return held


def load_held(path: Path) -> Checkpoint:
    """Return the checkpoint of a model, also of one that a detector's file holds.

    Raises:
        CheckpointError: as `load`.
        CalibrationError: as `model_in`.
    """
    file = load(path)
    return model_in(file) if file.header.get("kind") == "detector" else file


def with_prefix(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin so, by the rest of their names."""
    return {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
    }


def model_in(detector: Checkpoint) -> Checkpoint:
    """Return the checkpoint of the network that a detector's file holds.

    Raises:
        CalibrationError: the detector was calibrated with another network.
    """
    header, tensors = detector.header.get("model", {}), with_prefix(detector.tensors, OF_MODEL)
    if digest(tensors) != header.get("sha256"):
        raise CalibrationError(
            f"{detector.path}: was calibrated with another model than it holds",
            "Calibrate again: pcgen ood-calibrate MODEL DATA --out DETECTOR",
        )
    return Checkpoint(detector.path, header, tensors)


def model_of(checkpoint: Checkpoint, device: torch.device | str = "cpu") -> Model:
    """Return the predictive coding network that a header and its tensors make.

    Raises:
        CheckpointError: a classifier, or tensors that do not fit the header's recipe.
    """
    from pcgen.device import generator
    from pcgen.model.network import build, tensor_size

    def built(recipe: Recipe, shape: Shape) -> Network:
        if recipe.classifier is not None:
            raise CheckpointError(
                f"{checkpoint.path}: is a classifier, not a predictive coding network",
                "A classifier serves pcgen classify, bench ood and ood-calibrate --classifier",
            )
        classes = int(checkpoint.header["sizes"][-1]) if recipe.model.labels else 0
        if "prior.log_classes" in checkpoint.tensors:
            classes = len(checkpoint.tensors["prior.log_classes"])
        if recipe.model.upward:
            outputs = len(checkpoint.tensors["upward.0.bias"])
            classes = outputs - units(recipe.model.layers[0])
        if len(recipe.model.layers) > len(checkpoint.tensors):
            raise CheckpointError(f"{checkpoint.path}: its recipe has more layers than it stores")
        # Files of version 0.1.0 have no mixture for each class.
        of_classes = "prior.0.means" in checkpoint.tensors
        require_numbers(checkpoint, tensor_size(recipe.model, shape, classes, of_classes))
        network = build(recipe.model, shape, generator(recipe.seed), classes)
        if network.mixture is not None and not of_classes:
            network.mixture.of_classes = []
        return network

    return rebuild(checkpoint, built, device)


def _require_kinds(data: dict[str, Any], columns: int) -> None:
    """Raise ValueError unless the names and the scale of a header's data are of their kinds."""
    for key in ("columns", "classes"):
        names = data.get(key)
        is_list = isinstance(names, list) and all(isinstance(name, str) for name in names)
        if names is not None and not is_list:
            raise ValueError(key)
    scale = data.get("scale")
    if scale is not None and [len([float(x) for x in row]) for row in scale] != [columns] * 2:
        raise ValueError("scale")


def require_numbers(checkpoint: Checkpoint, needed: int) -> None:
    """Raise CheckpointError unless a file has as many numbers as its recipe's network needs."""
    stored = sum(tensor.numel() for tensor in checkpoint.tensors.values())
    if needed > stored:
        raise CheckpointError(
            f"{checkpoint.path}: holds {stored:,} numbers, and its recipe needs {needed:,}",
            f"Show it: pcgen info {checkpoint.path}",
        )


def rebuild(
    checkpoint: Checkpoint,
    build: Callable[[Recipe, Shape], Kind],
    device: torch.device | str = "cpu",
) -> LoadedModel[Kind]:
    """Return the network of a checkpoint.

    Args:
        build: makes a new network from the recipe; it then receives the checkpoint's tensors.

    Raises:
        CheckpointError: tensors that do not fit the header's recipe.
    """
    path = checkpoint.path
    try:
        recipe = from_dict(checkpoint.header["recipe"], str(path))
        channels, height, width = (int(side) for side in checkpoint.header["data"]["shape"])
        if min(channels, height, width) < 1:
            raise ValueError
        _require_kinds(checkpoint.header["data"], channels * height * width)
        network = build(recipe, (channels, height, width))
    except CheckpointError:
        raise
    except UnknownNameError as error:
        raise CheckpointError(error.message, error.hint) from None
    except (PcgenError, LookupError, TypeError, ValueError, OverflowError) as error:
        reason = error.message if isinstance(error, PcgenError) else "its header is incomplete"
        raise CheckpointError(f"{path}: {reason}", f"Show it: pcgen info {path}") from None
    for name, tensor in network.tensors().items():
        found = checkpoint.tensors.get(name)
        if found is None or found.isnan().any():
            raise CheckpointError(f"{path}: {name} is missing or damaged")
        if found.shape != tensor.shape:
            raise CheckpointError(
                f"{path}: {name} is {tuple(found.shape)}, the recipe says {tuple(tensor.shape)}",
                f"Show it: pcgen info {path}",
            )
    network.load(checkpoint.tensors)
    latents, errors = (
        None if tensor is None else tensor.to(device).float()
        for tensor in map(checkpoint.tensors.get, (LATENTS, MEMORY_ERRORS))
    )
    return LoadedModel(path, network.to(device), recipe, checkpoint.header, latents, errors)


def model_header(
    network: Trainable, recipe: Recipe, data: dict[str, Any], metrics: dict[str, Any]
) -> dict[str, Any]:
    """Return the header of a model. It depends on the run alone, not on the time or the place."""
    return {
        "pcgen": __version__,
        "kind": "model" if recipe.classifier is None else "classifier",
        "recipe": to_dict(recipe),
        "data": data,
        "sizes": network.sizes,
        "parameters": sum(tensor.numel() for tensor in network.weights()),
        "metrics": metrics,
    }
