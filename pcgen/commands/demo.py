"""`pcgen.demo`: predictive coding and its tasks on embedded digits, shown on one page."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcgen.commands.ood_calibrate import ood_calibrate
from pcgen.commands.ood_score import ood_score
from pcgen.commands.progress import Event, OnProgress, silent
from pcgen.commands.recall import RecallResult, recall
from pcgen.commands.recipes import resolve_recipe
from pcgen.commands.reconstruct import ReconstructResult, reconstruct
from pcgen.commands.session import open_detector, open_model
from pcgen.commands.train import TrainResult, train
from pcgen.errors import RunError

if TYPE_CHECKING:
    from torch import Tensor

    from pcgen.config import Recipe
    from pcgen.interface import Step

# Images of each kind, and those of them in the picture.
_OF_A_KIND, _PER_ROW = 40, 10
# The folder, the recipe and the settings of each network; the digits' own lies in the folder above.
_RUNS: dict[str, tuple[str, list[str]]] = {
    "": ("digits", []),
    "sampler": (
        "mnist-sampler",
        [
            *('name="digits-sampler"', 'description="Digits: learns by sampling."'),
            *('data.source="digits"', "data.validation=0.1", "model.layers=[32, 128]"),
            *("model.causes=100", "learning.epochs=28"),
            *("learning.batch_size=100", "learning.rate=2e-3", "learning.causes_warmup=5"),
        ],
    ),
    "memory": (
        "tiny-imagenet-memory",
        [
            *('name="digits-memory"', 'description="An associative memory of 100 digits."'),
            *('data.source="digits"', "data.limit=100", "model.layers=[128, 128]"),
        ],
    ),
    "scoring": ("digits-ood", []),
}
_KINDS = ("negative", "rot90", "shuffle", "noise", "constant", "blur")


@dataclass(frozen=True, slots=True)
class DemoResult:
    """The results of the demo.

    Attributes:
        recalled: stored digits, restored from their upper halves.
        flagged: how many inputs of each kind were flagged as unusual, in words.
        page: the page that shows everything.
    """

    trained: TrainResult
    reconstructed: ReconstructResult
    recalled: RecallResult
    flagged: dict[str, str]
    page: Path
    seconds: float

    def document(self) -> dict[str, Any]:
        """Return the document of `--json`."""
        own = self.reconstructed.document()
        keys = ("model", "seed", "device", "inference", "count", "mse", "energy", "picture")
        return {
            **{key: own[key] for key in keys},
            "recalled": self.recalled.metrics["exact"],
            "flagged": self.flagged,
            "page": str(self.page),
            "seconds": self.seconds,
        }


def demo(
    out: str | Path = "demo", *, settings: Sequence[str] = (), on_progress: OnProgress = silent
) -> DemoResult:
    """Train on embedded digits; settle, reconstruct, sample, recall and score; show it all.

    Files of an earlier demo in the folder are replaced.

    Args:
        out: the folder for the run, the pictures and the page.
        settings: `section.key=value`, which change the recipe of every network.

    Raises:
        RunError: a folder that cannot be written.

    Example:
        >>> import pcgen
        >>> result = pcgen.demo("demo", settings=["learning.epochs=2"])
        >>> result.page.name
        'index.html'
    """
    from pcgen.pages import demo_page
    from pcgen.storage.runs import RunFolder

    began, folder = time.monotonic(), Path(out)
    recipes = {
        folder / name: resolve_recipe(recipe, settings=[*words, *settings])
        for name, (recipe, words) in _RUNS.items()
    }
    for run, recipe in recipes.items():
        if (run / "recipe.toml").exists() and RunFolder.existing(run)[1] != recipe:
            raise RunError(f"{run}: holds a run that is not the demo's", "Name another folder")
    trained = [_train(run, recipe, on_progress) for run, recipe in recipes.items()]
    own, *_, scoring = trained
    steps, shape = _settle(own.checkpoint)
    result = reconstruct(own.checkpoint, "digits:test", out=folder, on_progress=on_progress)
    restored = recall(folder / "memory", "digits", corrupt=["mask:bottom"], limit=100, out=folder)
    flagged = _score_unusual(folder, scoring.checkpoint, on_progress)
    seconds = time.monotonic() - began
    story = demo_page.Story(folder, steps, shape, result.metrics["mse"], restored.metrics, seconds)
    return DemoResult(own, result, restored, flagged, demo_page.write(story), seconds)


def _train(run: Path, recipe: Recipe, on_progress: OnProgress) -> TrainResult:
    from pcgen.storage.runs import RunFolder

    on_progress(Event("training", note=f"{recipe.name}: {recipe.description}"))
    RunFolder(run).clear()
    return train(recipe, run, on_progress=on_progress)


def _settle(model: Path) -> tuple[list[Step], tuple[int, int, int]]:
    """Return the steps of the first test digit's inference from a latent of 0, and its shape."""
    import torch

    from pcgen.data.sources import open_data
    from pcgen.interface import steps
    from pcgen.pages.demo_page import SHOWN

    loaded = open_model(model)
    digit = open_data("digits:test", limit=1).rows(range(1)).pixels_BD
    latent = torch.zeros(1, loaded.network.sizes[loaded.network.latent])
    solver = loaded.recipe.inference.for_use().solver
    return [*steps(loaded.network, digit, SHOWN[-1], solver=solver, latent=latent)], loaded.shape


def _score_unusual(folder: Path, model: Path, on_progress: OnProgress) -> dict[str, str]:
    """Calibrate a model of digits; return how many digits and changed digits it flags, in words.

    Writes `detector.safetensors`, the images in `unusual/KIND/`, `scores.csv` and `unusual.png`.
    """
    from pcgen.pages.pictures import Row, grid_png
    from pcgen.storage.files import write_whole

    detector = folder / "detector.safetensors"
    ood_calibrate(model, "digits", detector, on_progress=on_progress)
    loaded = open_detector(detector)
    kinds = _write_unusual("digits:test", folder / "unusual")
    result = ood_score(detector, folder / "unusual", folder / "scores.csv", on_progress=on_progress)
    verdicts: dict[str, list[bool]] = {kind: [] for kind in kinds}
    for row in result.rows():
        verdicts[row["id"].partition("/")[0]].append(bool(row["is_ood"]))
    flagged = {kind: f"{sum(each)} of {len(each)}" for kind, each in verdicts.items()}
    rows = []
    for kind, pixels_BD in kinds.items():
        heat_BD = loaded.heat(loaded.scorers[0].heatmap(pixels_BD))  # type: ignore[attr-defined]
        shown, heat = (x[:_PER_ROW].reshape(-1, *loaded.model.shape) for x in (pixels_BD, heat_BD))
        rows += [Row(f"{kind}: {flagged[kind]}", shown), Row("heat map", heat, heat=True)]
    png = grid_png(rows, title="Flagged as unlike the digits", columns=_PER_ROW)
    write_whole(folder / "unusual.png", png)
    return flagged


def _write_unusual(data: str, folder: Path) -> dict[str, Tensor]:
    """Write test images and changed ones as pictures, and return them (B, D) by kind."""
    import numpy as np
    from PIL import Image

    from pcgen.data.shifts import shifted
    from pcgen.data.sources import open_data
    from pcgen.storage.files import replacing

    known = open_data(data, limit=_OF_A_KIND)
    tables = {"digits": known} | {kind: shifted(known, kind) for kind in _KINDS}
    pixels = {}
    for kind, images in tables.items():
        pixels[kind] = images.rows(range(len(images))).pixels_BD
        whole = (255 * pixels[kind]).round().numpy().astype(np.uint8)
        for i, picture in enumerate(whole.reshape(-1, *images.shape[1:])):
            with replacing(folder / kind / f"{i:02}.png") as (file,):
                Image.fromarray(picture).save(file, "PNG")
    return pixels
