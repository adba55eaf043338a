"""`pcgen.bench_ood`: the table of scores of unusual data."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcgen import shipped
from pcgen.commands.arguments import require_known
from pcgen.commands.progress import Event, OnProgress, silent, stages
from pcgen.commands.recipes import resolve_recipe
from pcgen.commands.session import Session, session
from pcgen.errors import DataError

if TYPE_CHECKING:
    from pcgen.benchmarks.ood.families import Recipes
    from pcgen.data.images import Images


def bench_ood(
    data: Sequence[str] = ("mnist", "fashion-mnist"),
    *,
    seeds: int = 3,
    methods: Sequence[str] | None = None,
    limit: int = 10_000,
    left_out: bool = True,
    out: str | Path | None = None,
    device: str = "auto",
    data_dir: str | Path | None = None,
    on_progress: OnProgress = silent,
) -> list[dict[str, Any]]:
    """Return the table of unusual data: every score, every set, 95 % intervals.

    For each data set and seed a network is trained from the recipe NAME-ood (NAME if there is
    none), and its baselines from NAME-classifier and by `pcgen.benchmarks.ood.families`. No unusual
    image takes part in any choice.

    Args:
        data: known data sets, a table each.
        seeds: number of networks that are trained for each row.
        methods: families of methods, all if not given.
        limit: images of a set at most.
        left_out: whether to train all again without one class, another for each seed.
        out: a folder for `index.html`, `ood.json` and the scores, from which a later call goes on.

    Raises:
        RecipeError: a data set without recipes, or an unknown family.
        DataError: a known data set is missing; a missing unusual set is left out with a note.
        RunError: a folder that cannot be written.

    Example:
        >>> import pcgen
        >>> rows = pcgen.bench_ood(["digits"], seeds=1, methods=["trivial"], limit=50)
        >>> rows[0]["metric"]
        'auroc'
    """
    recipes = {name: _recipes(name) for name in data}

    from pcgen.benchmarks.ood.benchmark import benchmark
    from pcgen.benchmarks.ood.families import FAMILIES

    require_known("methods", methods or (), FAMILIES)
    folder = None if out is None else Path(out)
    outcomes = []
    files = [] if folder is None else [folder / "index.html"]
    with session(device, data_dir=data_dir, writes=files, on_progress=on_progress) as place:
        for name, own in recipes.items():
            images = place.open_recipe_data(own.network.data)
            test = place.open_recipe_data(own.network.data, split="test")
            opened = partial(_unusual, place, test, on_progress)
            outcome = benchmark(
                *(name, images, test, opened, own),
                seeds=seeds,
                device=place.device,
                tell=stages(on_progress, name),
                limit=limit,
                with_left_out=left_out,
                families=tuple(methods or FAMILIES),
                keep=None if folder is None else folder / "scores",
            )
            outcomes.append(outcome)
    rows = [row for outcome in outcomes for row in outcome.rows]
    if folder is not None:
        from pcgen.pages import ood_page

        ood_page.write(outcomes, rows, folder)
    return rows


def _unusual(place: Session, test: Images, on_progress: OnProgress, name: str) -> Images | None:
    """Return the test split of another data set in the shape of ours; None if it is not here."""
    from pcgen.data.sources import open_data

    try:
        return open_data(f"{name}:test", data_dir=place.data_dir, like=test.shape)
    except DataError as error:
        on_progress(Event("data", note=f"Left out: {error.message}"))
        return None


def _recipes(name: str) -> Recipes:
    """Return the recipes of a known data set's network and classifier."""
    from pcgen.benchmarks.ood.families import Recipes

    network = f"{name}-ood" if f"{name}-ood" in shipped.names() else name
    return Recipes(
        resolve_recipe(shipped.recipe_path(network)),
        resolve_recipe(shipped.recipe_path(f"{name}-classifier")),
    )
