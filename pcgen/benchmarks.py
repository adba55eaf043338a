"""The public functions of benchmarks that stand beside `pcgen.api`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pcgen.api import Event, OnProgress, resolve_recipe
from pcgen.errors import DataError, RecipeError

if TYPE_CHECKING:
    from pcgen.data.images import Images
    from pcgen.evaluation.ood.families import Recipes


def _silent(event: Event) -> None:
    pass


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
    on_progress: OnProgress = _silent,
) -> list[dict[str, Any]]:
    """Return the table of unusual data: every score, every set, 95 % intervals.

    For each data set and seed everything is trained anew: the recipe NAME-ood (NAME where there is
    none) and, as its baselines, NAME-classifier and the others of `pcgen.evaluation.ood.families`.
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

    from pcgen.data.sources import open_data
    from pcgen.device import choose_device
    from pcgen.evaluation.ood.benchmark import benchmark
    from pcgen.evaluation.ood.families import FAMILIES

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
        from pcgen.report import ood_page

        ood_page.write(outcomes, rows, out)
    return rows


def _recipes(name: str) -> Recipes:
    """Return the recipes of a known data set's network and classifier."""
    from pcgen import shipped
    from pcgen.evaluation.ood.families import Recipes

    known = shipped.names()
    network = f"{name}-ood" if f"{name}-ood" in known else name
    return Recipes(
        resolve_recipe(shipped.recipe_path(network)),
        resolve_recipe(shipped.recipe_path(f"{name}-classifier")),
    )
