"""The public functions that re-measure a table beside baselines and published values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcgen.commands.api import (
    Event,
    OnProgress,
    open_classifier,
    open_model,
    resolve_recipe,
    silent,
)
from pcgen.errors import DataError, RecipeError

if TYPE_CHECKING:
    from pcgen.benchmarks.ood.families import Recipes
    from pcgen.data.images import Images


SAMPLING_PARTS = ("samples", "chains", "likelihood")
_SAMPLERS = {"iris": "iris", "mnist": "mnist-sampler"}


def bench_reconstruction(
    data: Sequence[str] = ("mnist", "fashion-mnist"),
    *,
    seeds: int = 3,
    device: str = "auto",
    data_dir: Path | None = None,
    on_progress: OnProgress = silent,
) -> list[dict[str, Any]]:
    """Return the reconstruction table: each data set's shipped recipe beside its baselines.

    Raises:
        RecipeError: a data set without a shipped recipe.
        DataError: data that is not here.
    """
    from pcgen import shipped

    recipes = {name: resolve_recipe(shipped.recipe_path(name)) for name in data}

    from pcgen.benchmarks.reconstruction import reconstruction_rows
    from pcgen.data.sources import open_data
    from pcgen.device import choose_device

    chosen = choose_device(device)
    rows = []
    for name, recipe in recipes.items():

        def tell(stage: str, done: int, total: int, name: str = name) -> None:
            on_progress(Event(f"{name}: {stage}", done, total))

        images = open_data(recipe.data.source, data_dir=data_dir)
        test = open_data(f"{recipe.data.source}:test", data_dir=data_dir)
        rows += reconstruction_rows(name, recipe, images, test, seeds, chosen, tell)
    return rows


def bench_sampling(
    data: Sequence[str] = ("iris", "mnist"),
    *,
    samples: int = 10_000,
    parts: Sequence[str] = SAMPLING_PARTS,
    data_dir: Path | None = None,
    on_progress: OnProgress = silent,
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
    for kind, asked, known in (("sampler", data, _SAMPLERS), ("part", parts, SAMPLING_PARTS)):
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


def bench_memory(
    counts: Sequence[int] = (50, 100, 250),
    widths: Sequence[int] = (512, 1024, 2048),
    corruptions: Sequence[str] = ("noise:0.2", "mask:bottom", "mask:75%", "occlude:8"),
    *,
    seeds: int = 3,
    published_steps: int = 0,
    out: Path | None = None,
    data_dir: Path | None = None,
    on_progress: OnProgress = silent,
) -> list[dict[str, Any]]:
    """Return the memory table of Tiny ImageNet: what memories restore, beside look-ups, on the CPU.

    Args:
        counts: images that are stored, drawn anew for each seed.
        widths: of the hidden layers.
        corruptions: that make the cues.
        published_steps: at most, of the published recall procedure, on our networks and on those
            trained as published; 0 leaves it out.
        out: a folder for `index.html`, the table with capacity curves, and `memory.json`, both
            renewed after every row.

    Raises:
        DataError: Tiny ImageNet is not here, or has fewer images than are to be stored.
        RunError: a folder that cannot be written.
    """
    import torch

    from pcgen.benchmarks.memory.benchmark import memory_rows
    from pcgen.data.sources import open_data
    from pcgen.pages import memory_page

    recipe = resolve_recipe("tiny-imagenet-memory")
    images = open_data(recipe.data.source, data_dir=data_dir)
    if max(counts) > len(images):
        raise DataError(f"{images.source}: {len(images)} images, {max(counts)} are to be stored")
    rows = []
    with torch.no_grad():
        for row in memory_rows(
            recipe,
            images,
            counts,
            widths,
            corruptions,
            seeds=seeds,
            published_steps=published_steps,
            tell=lambda stage, done, total: on_progress(Event(stage, done, total)),
        ):
            rows.append(row)
            if out is not None:
                memory_page.write(rows, out)
    return rows


def bench_ood(
    data: Sequence[str] = ("mnist", "fashion-mnist"),
    *,
    seeds: int = 3,
    methods: Sequence[str] | None = None,
    limit: int = 10_000,
    left_out: bool = True,
    out: Path | None = None,
    device: str = "auto",
    data_dir: Path | None = None,
    on_progress: OnProgress = silent,
) -> list[dict[str, Any]]:
    """Return the table of unusual data: every score, every set, 95 % intervals.

    For each data set and seed everything is trained anew: the recipe NAME-ood (NAME where there is
    none) and, as its baselines, NAME-classifier and the others of `pcgen.benchmarks.ood.families`.
    No unusual image takes part in any choice.

    Args:
        data: what is known, a table each.
        methods: families of methods, all if not given.
        limit: images of a set at most.
        left_out: whether to train all again without one class, another for each seed.
        out: a folder for `index.html`, `ood.json` and the scores, from which a later call goes on.

    Raises:
        RecipeError: a data set without recipes, or an unknown family.
        DataError: data that is not here; other sets that are not here are left out, and said.
        RunError: a folder that cannot be written.
    """
    recipes = {name: _recipes(name) for name in data}

    from pcgen.benchmarks.ood.benchmark import benchmark
    from pcgen.benchmarks.ood.families import FAMILIES
    from pcgen.data.sources import open_data
    from pcgen.device import choose_device

    unknown = [name for name in methods or () if name not in FAMILIES]
    if unknown:
        raise RecipeError(f"no methods {', '.join(unknown)}", f"There are: {', '.join(FAMILIES)}")
    chosen = choose_device(device)
    outcomes = []
    for name, own in recipes.items():
        source = own.network.data.source
        images = open_data(source, data_dir=data_dir, limit=own.network.data.limit)
        test = open_data(f"{source}:test", data_dir=data_dir)

        def opened(other: str, test: Images = test) -> Images | None:
            try:
                return open_data(f"{other}:test", data_dir=data_dir, like=test.shape)
            except DataError as error:
                on_progress(Event("data", note=f"Left out: {error.message}"))
                return None

        def tell(stage: str, done: int, total: int, name: str = name) -> None:
            on_progress(Event(f"{name}: {stage}", done, total))

        outcomes.append(
            benchmark(
                name,
                images,
                test,
                opened,
                own,
                seeds=seeds,
                device=chosen,
                tell=tell,
                limit=limit,
                with_left_out=left_out,
                families=tuple(methods or FAMILIES),
                keep=None if out is None else out / "scores",
            )
        )
    rows = [row for outcome in outcomes for row in outcome.rows]
    if out is not None:
        from pcgen.pages import ood_page

        ood_page.write(outcomes, rows, out)
    return rows


def bench_speed(
    workloads: Sequence[str] = ("W1", "W2", "W3", "W4"),
    *,
    samples: int = 20,
    threads: Sequence[int] = (1, 2),
    device: str = "cpu",
    peers: Path | None = None,
    out: Path | None = None,
    on_progress: OnProgress = silent,
) -> list[dict[str, Any]]:
    """Return the speed table: training batches and equilibria beside other libraries.

    Args:
        workloads: of W1 to W4, see docs/speed.md, or W2-4096, for a GPU.
        samples: timings a cell.
        threads: processors each competitor may use; a part of the table for each number.
        device: `cpu`, or a GPU, where only pcgen's own competitors run.
        peers: the folder whose `.peers` `make peers` built; the working folder if not given.
        out: a folder for `index.html`, the table with charts, and `speed.json`.

    Raises:
        RecipeError: an unknown workload.
        DeviceError: a device that is not here.
        RunError: a folder that cannot be written.
    """
    from pcgen.benchmarks.speed.cells import Place
    from pcgen.benchmarks.speed.driver import speed_rows
    from pcgen.benchmarks.speed.workloads import WORKLOADS
    from pcgen.device import choose_device

    unknown = [name for name in workloads if name not in WORKLOADS]
    if unknown:
        raise RecipeError(f"no workload {', '.join(unknown)}", f"There are: {', '.join(WORKLOADS)}")

    chosen = choose_device(device)
    places = [Place(count) for count in threads]
    if chosen.type != "cpu":
        places = [Place(1, str(chosen))]

    def tell(stage: str, done: int, total: int) -> None:
        on_progress(Event(stage, done, total))

    import torch

    from pcgen.pages import speed_page

    rows: list[dict[str, Any]] = []
    with torch.no_grad():
        for row in speed_rows(workloads, samples, places, peers or Path(), tell):
            rows.append(row)
            if out is not None:  # at once: a run of an hour that is stopped leaves what it has
                speed_page.write(rows, out)
    return rows


def _sampling_rows(
    name: str,
    samples: int,
    parts: Sequence[str],
    data_dir: Path | None,
    tell: Callable[[str, int, int], None],
) -> list[dict[str, Any]]:
    from pcgen.benchmarks.sampling.benchmark import image_rows
    from pcgen.benchmarks.sampling.emd import table_rows
    from pcgen.benchmarks.sampling.likelihood import likelihood_rows
    from pcgen.benchmarks.sampling.speed import chain_rows
    from pcgen.data.sources import open_data

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


def _recipes(name: str) -> Recipes:
    """Return the recipes of a known data set's network and classifier."""
    from pcgen import shipped
    from pcgen.benchmarks.ood.families import Recipes

    known = shipped.names()
    network = f"{name}-ood" if f"{name}-ood" in known else name
    return Recipes(
        resolve_recipe(shipped.recipe_path(network)),
        resolve_recipe(shipped.recipe_path(f"{name}-classifier")),
    )
