"""Run folders: a training run on disk that survives an interruption.

recipe.toml         the recipe with all settings
environment.json    versions, threads, device
metrics.jsonl       a line for each epoch
last.safetensors    everything a resumed run needs
model.safetensors   the network of the epoch that is best on the validation split
"""

from __future__ import annotations

import json
import math
import platform
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from pcgen import __version__
from pcgen.config import Recipe, from_dict, from_toml, to_toml
from pcgen.data.images import Images
from pcgen.distributed import Group
from pcgen.errors import CheckpointError, DataError, DivergenceError, RunError
from pcgen.learning.train import Progress, Training
from pcgen.model import products
from pcgen.storage import checkpoint
from pcgen.storage.files import write_whole, writing
from pcgen.storage.locks import locked

# Seconds between two saves within an epoch: a killed run loses at most so much work.
_SAVE_EVERY = 60.0


class Interrupted(KeyboardInterrupt):
    """Training stopped on request, after saving.

    Attributes:
        run: the folder to resume.
    """

    def __init__(self, run: RunFolder) -> None:
        super().__init__(
            f"Interrupted. Saved: {run.last}", f"Continue: pcgen train --resume --out {run.path}"
        )
        self.run = run


class RunFolder:
    """The paths of a run's files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe = path / "recipe.toml"
        self.metrics = path / "metrics.jsonl"
        self.last = path / "last.safetensors"
        self.model = path / "model.safetensors"
        self.environment = path / "environment.json"
        self.samples = path / "samples.png"
        written = [self.recipe, self.environment, self.metrics, self.last, self.model]
        self.files = [*written, self.samples]

    def locked(self) -> AbstractContextManager[None]:
        """Return a block in which no other process writes to the folder; see `locks.locked`."""
        return locked(self.path, self.path / "run.lock")

    @classmethod
    def create(cls, path: Path, recipe: Recipe, device: torch.device) -> RunFolder:
        """Write a run's recipe and environment into a folder, and return the run.

        Raises:
            RunError: the folder holds a run already, or cannot be written.
        """
        run = cls(path)
        if run.last.exists() or run.model.exists():
            raise RunError(
                f"{path}: holds a run already",
                f"Continue it: pcgen train --resume --out {path}; or name another folder",
            )
        write_whole(run.metrics, b"")
        write_whole(run.recipe, to_toml(recipe).encode())
        environment = json.dumps(describe_environment(device), indent=2)
        write_whole(run.environment, environment.encode())
        return run

    @property
    def products(self) -> str | None:
        """Return the operation that the last save's matrix products used; None without a save.

        Raises:
            CheckpointError: the save is damaged.
        """
        if not self.last.exists():
            return None
        return checkpoint.read_header(self.last).get("products", products.TORCH)

    def clear(self) -> None:
        """Remove the run's own files, and nothing else."""
        for file in self.files:
            file.unlink(missing_ok=True)

    @classmethod
    def existing(cls, path: Path) -> tuple[RunFolder, Recipe]:
        """Return the run of a folder, and its recipe.

        Raises:
            RunError: the folder holds no run.
        """
        run = cls(path)
        if not run.recipe.is_file():
            raise RunError(
                f"{path}: no run to resume here", "Start one: pcgen train RECIPE --out DIR"
            )
        return run, from_toml(run.recipe.read_text(encoding="utf-8"), str(run.recipe))


def describe_environment(device: torch.device) -> dict[str, Any]:
    """Return the versions and the device that a run's numbers depend on."""
    return {
        "pcgen": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "platform": platform.platform(),
        "threads": torch.get_num_threads(),
        "products": products.chosen(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
    }


def describe_data(images: Images, count: int) -> dict[str, Any]:
    """Return the facts about the training data by which new data are opened and checked."""
    return {
        "source": images.source,
        "count": count,
        "shape": list(images.shape),
        "fingerprint": images.fingerprint(),
        "columns": images.columns,
        "scale": None if images.scale is None else [list(map(float, s)) for s in images.scale],
        "classes": images.classes,
        "preprocessing": images.preprocessing,
    }


class Run:
    """A training run and its folder.

    `progress` yields as `Training.run` does, and saves. In a group, one process writes the files.
    """

    def __init__(
        self,
        folder: RunFolder,
        training: Training,
        recipe: Recipe,
        images: Images,
        group: Group | None = None,
    ) -> None:
        self.folder = folder
        self.recipe = recipe
        self.network = training.network
        self.group = group
        self.writes = group is None or group.writes
        self.training = training
        self.data = describe_data(images, len(images))
        self.best: dict[str, Any] | None = None

    def resume(self) -> None:
        """Continue from the last save.

        Raises:
            CheckpointError: the save is damaged.
            DataError: the data are not those that the run began with.
        """
        if not self.folder.last.exists():
            return
        saved = checkpoint.load(self.folder.last)
        if saved.header["data"]["fingerprint"] != self.data["fingerprint"]:
            raise DataError(
                f"{self.data['source']}: not the data that {self.folder.path} was trained on"
            )
        if from_dict(saved.header["recipe"]) != self.recipe:
            raise CheckpointError(f"{self.folder.last}: was made with another recipe")
        self.training.load(saved.tensors, saved.header["counters"])
        self.best = saved.header["best"]
        if not self.writes:
            return
        # Epochs after the last save are trained again and would have two lines.
        done = self.training.counters["epoch"]
        lines = [line for line in _lines(self.folder.metrics) if line["epoch"] <= done]
        text = "".join(json.dumps(line) + "\n" for line in lines)
        write_whole(self.folder.metrics, text.encode())

    def progress(self, images: Images, validation: Images | None) -> Iterator[Progress]:
        """Yield the progress of each batch; write metrics and checkpoints.

        Raises:
            Interrupted: after Ctrl-C, once the batch is done and saved. A second Ctrl-C does not
                wait for that.
        """
        group = self.group
        if group is not None:
            group.require_equal(
                {
                    "recipe": self.recipe,
                    "data": self.data["fingerprint"],
                    "progress": self.training.counters,
                }
            )
        saved = began = time.monotonic()
        with _deferred_interrupt(once=group is None) as interrupted:
            asked = interrupted if group is None else group.listen(interrupted)
            for progress in self.training.run(images, validation):
                if progress.ends_epoch:
                    self._end_epoch(progress, time.monotonic() - began)
                    began = time.monotonic()
                if progress.ends_epoch or time.monotonic() - saved > _SAVE_EVERY or asked():
                    self.save()
                    saved = time.monotonic()
                yield progress
                if asked():
                    if group is not None:
                        group.wait()
                    raise Interrupted(self.folder)

    def save(self) -> None:
        """Write last.safetensors."""
        if not self.writes:
            return
        header = {
            **checkpoint.model_header(self.network, self.recipe, self.data, self.best or {}),
            "kind": "run",
            "counters": self.training.counters,
            "best": self.best,
            "products": products.chosen(),
        }
        checkpoint.save(self.folder.last, self.training.tensors(), header)

    def _end_epoch(self, progress: Progress, seconds: float) -> None:
        validation = progress.validation or progress.labelled
        learned = {"mse_last_hidden": progress.mse, "accuracy": progress.accuracy}
        trained = {"energy": progress.energy} | {k: v for k, v in learned.items() if v is not None}
        line: dict[str, Any] = {
            "epoch": progress.epoch,
            **trained,
            "images": progress.images,
            "seconds": seconds,
            "validation": None if validation is None else asdict(validation),
        }
        found = {"epoch": progress.epoch, **(line["validation"] or trained)}
        for name, value in found.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise DivergenceError(
                    f"epoch {progress.epoch}: {name} is not finite after training",
                    "Lower it: --set learning.rate=..., --set learning.weight_decay=...",
                )
        if self.writes:
            metrics = self.folder.metrics
            with writing(metrics), metrics.open("a") as file:
                file.write(json.dumps(line) + "\n")
        criterion = self.training.learner.criterion
        # A sampler and an upward chain do not minimise the reconstruction error, so the last epoch
        # is kept.
        recipe = self.recipe
        last = validation is None or recipe.inference.draws or bool(recipe.model.upward)
        if last or self.best is None or found[criterion] < self.best[criterion]:
            self.best = found
            if not self.writes:
                return
            header = checkpoint.model_header(self.network, self.recipe, self.data, found)
            checkpoint.save(self.folder.model, self.training.learner.model_tensors(), header)


def _lines(path: Path) -> list[dict[str, Any]]:
    """Return the complete lines of a metrics file; a killed run may have cut the last one."""
    if not path.exists():
        return []
    lines = []
    for text in path.read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return a run's metrics, one entry for each epoch."""
    return _lines(RunFolder(path).metrics)


@contextmanager
def _deferred_interrupt(once: bool) -> Iterator[Callable[[], bool]]:
    """Delay the first Ctrl-C until the batch ends; yield a function that says whether it came.

    Args:
        once: do not delay a second Ctrl-C. A launcher repeats the first one, so there it is false.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    came = False
    usual = signal.getsignal(signal.SIGINT)

    def remember(number: int, frame: Any) -> None:
        nonlocal came
        came = True
        if once:
            signal.signal(signal.SIGINT, usual)

    signal.signal(signal.SIGINT, remember)
    try:
        yield lambda: came
    finally:
        if once or not came:
            signal.signal(signal.SIGINT, usual)
