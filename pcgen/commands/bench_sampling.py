"""`pcgen.bench_sampling`: the table of sampled data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pcgen.commands.progress import OnProgress, silent, stages
from pcgen.commands.recipes import resolve_recipe
from pcgen.commands.session import Session, open_classifier, open_model, session
from pcgen.errors import RecipeError

SAMPLING_PARTS = ("samples", "chains", "likelihood")
_SAMPLERS = {"iris": "iris", "mnist": "mnist-sampler"}
# The shipped classifiers whose features compare samples with test images.
_CLASSIFIERS = {
    "digits": "digits-classifier",
    "mnist": "mnist-classifier",
    "fashion-mnist": "fashion-mnist-pc-classifier",
}


def bench_sampling(
    data: Sequence[str] = ("iris", "mnist"),
    *,
    model: str | Path | None = None,
    samples: int = 10_000,
    parts: Sequence[str] = SAMPLING_PARTS,
    sets: int = 200,
    settings: Sequence[str] = (),
    out: str | Path | None = None,
    data_dir: str | Path | None = None,
    on_progress: OnProgress = silent,
) -> list[dict[str, Any]]:
    """Return the sampling table: the shipped models beside baselines trained in the same run.

    Args:
        data: `iris`, `mnist`; with `model` one of iris, digits, mnist and fashion-mnist.
        model: a checkpoint or a run's folder of that data, instead of the shipped model.
        samples: number of images that each method draws, and at most of those whose likelihood is
            bounded.
        parts: `samples` compares samples with the data; `chains` times the samplers; `likelihood`
            trains a PCN and a VAE on binarised images and compares their log-likelihoods.
        sets: number of sets of samples, each as large as a table, whose distances are averaged.
        settings: `section.key=value`, which change the recipe of the networks that are trained.
        out: a folder for `index.html`, the charts with the tables, and `sampling.json`, both
            renewed after every data set.

    Raises:
        RecipeError: data without a shipped model that samples, no such part, or a model of other
            data.
        DataError: data that cannot be found.
        RunError: a folder that cannot be written.

    Example:
        >>> import pcgen
        >>> rows = pcgen.bench_sampling(["iris"], sets=2, settings=["learning.epochs=1"])
        >>> rows[0]["metric"]
        'emd'
    """
    samplers = dict.fromkeys(("iris", *_CLASSIFIERS), str(model)) if model else _SAMPLERS
    for kind, names, known in (("sampler", data, samplers), ("part", parts, SAMPLING_PARTS)):
        unknown = [name for name in names if name not in known]
        if unknown:
            raise RecipeError(f"{unknown[0]}: no such {kind}", f"There are: {', '.join(known)}")
    if model and len(data) > 1:
        raise RecipeError("--model has learned one data set", "Name it: --data fashion-mnist")

    import torch

    from pcgen.pages import bench_page

    rows: list[dict[str, Any]] = []
    files = [] if out is None else [Path(out) / "index.html"]
    with (
        session("cpu", data_dir=data_dir, writes=files, on_progress=on_progress) as place,
        torch.no_grad(),
    ):
        for name in data:
            rows += _rows(place, name, samplers[name], samples, parts, sets, settings)
            if out is not None:
                bench_page.write("sampling", rows, Path(out))
    return rows


def _rows(
    place: Session,
    name: str,
    sampler: str,
    samples: int,
    parts: Sequence[str],
    sets: int,
    settings: Sequence[str],
) -> list[dict[str, Any]]:
    """Return the rows of one data set."""
    from pcgen.benchmarks.sampling.benchmark import image_rows
    from pcgen.benchmarks.sampling.emd import table_rows
    from pcgen.benchmarks.sampling.likelihood import likelihood_rows
    from pcgen.benchmarks.sampling.speed import chain_rows
    from pcgen.sampling.draw import require_prior

    model, tell = open_model(sampler), stages(place.on_progress, name)
    if model.recipe.data.source != name:
        raise RecipeError(f"{sampler}: has learned {model.recipe.data.source}, not {name}")
    require_prior(model.network)
    recipe, network = resolve_recipe(model.recipe, settings=settings), model.network
    images = place.open_recipe_data(recipe.data)
    if images.is_table:
        if "samples" not in parts:
            return []
        return table_rows(name, recipe, network, images, tell, sets)
    rows = []
    test = place.open_recipe_data(recipe.data, split="test")
    if "samples" in parts:
        classifier = open_classifier(_CLASSIFIERS[name]).network
        rows += image_rows(name, recipe, network, images, test, classifier, samples, tell)
    if "chains" in parts:
        rows += chain_rows(name, recipe, network, test, tell)
    if "likelihood" in parts:
        rows += likelihood_rows(name, recipe, images, test, tell, samples)
    return rows
