"""The public function that says how good the shipped samplers are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pcgen.api import Event, OnProgress, open_model
from pcgen.errors import RecipeError

PARTS = ("samples", "chains", "likelihood")
_SAMPLERS = {"iris": "iris", "mnist": "mnist-sampler"}


def bench_sampling(
    data: Sequence[str] = ("iris", "mnist"),
    *,
    samples: int = 10_000,
    parts: Sequence[str] = PARTS,
    data_dir: Path | None = None,
    on_progress: OnProgress = lambda event: None,
) -> list[dict[str, Any]]:
    """Return the sampling table: the shipped models beside baselines trained in the same run.

    Args:
        data: `iris`, `mnist`.
        samples: of each way to draw images.
        parts: `samples` compares them with the data; `chains` times the samplers; `likelihood`
            trains on binarised images a PCN and a VAE, whose log-likelihoods it takes.

    Raises:
        RecipeError: data without a shipped model that samples, or no such part.
        DataError: data that is not here.
    """
    for kind, asked, known in (("sampler", data, _SAMPLERS), ("part", parts, PARTS)):
        unknown = [name for name in asked if name not in known]
        if unknown:
            raise RecipeError(f"{unknown[0]}: no such {kind}", f"There are: {', '.join(known)}")

    import torch

    rows: list[dict[str, Any]] = []
    with torch.no_grad():
        for name in data:

            def tell(stage: str, done: int, total: int, name: str = name) -> None:
                on_progress(Event(f"{name}: {stage}", done, total))

            rows += _sampling_rows(name, samples, parts, data_dir, tell)
    return rows


def _sampling_rows(
    name: str,
    samples: int,
    parts: Sequence[str],
    data_dir: Path | None,
    tell: Callable[[str, int, int], None],
) -> list[dict[str, Any]]:
    from pcgen.api import open_classifier
    from pcgen.data.sources import open_data
    from pcgen.evaluation.sampling_benchmark import image_rows
    from pcgen.evaluation.sampling_emd import table_rows
    from pcgen.evaluation.sampling_likelihood import likelihood_rows
    from pcgen.evaluation.sampling_speed import chain_rows

    model = open_model(_SAMPLERS[name])
    recipe, network = model.recipe, model.network
    images = open_data(recipe.data.source, data_dir=data_dir, columns=recipe.data.columns)
    if images.is_table:
        return table_rows(name, recipe, network, images, tell) if "samples" in parts else []
    rows = []
    test = open_data(f"{recipe.data.source}:test", data_dir=data_dir)
    if "samples" in parts:
        classifier = open_classifier(f"{name}-classifier").network
        rows += image_rows(name, recipe, network, images, test, classifier, samples, tell)
    if "chains" in parts:
        rows += chain_rows(name, recipe, network, test, tell)
    if "likelihood" in parts:
        rows += likelihood_rows(name, recipe, images, test, tell)
    return rows
