"""`pcgen.bench_reconstruction`: the table of reconstruction errors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pcgen import shipped
from pcgen.commands.progress import OnProgress, silent, stages
from pcgen.commands.recipes import resolve_recipe
from pcgen.commands.session import session


def bench_reconstruction(
    data: Sequence[str] = ("mnist", "fashion-mnist"),
    *,
    seeds: int = 3,
    settings: Sequence[str] = (),
    out: str | Path | None = None,
    device: str = "auto",
    data_dir: str | Path | None = None,
    on_progress: OnProgress = silent,
) -> list[dict[str, Any]]:
    """Return the reconstruction table: each data set's shipped recipe beside its baselines.

    Args:
        data: names of data sets that have a recipe of the same name.
        seeds: number of networks that are trained for each data set.
        settings: `section.key=value`, which change every recipe.
        out: a folder for `index.html`, the charts with the tables, and `reconstruction.json`, both
            renewed after every data set.

    Raises:
        RecipeError: a data set without a shipped recipe, or a setting that it does not have.
        DataError: data that cannot be found.
        RunError: a folder that cannot be written.

    Example:
        >>> import pcgen
        >>> short = ["learning.epochs=1", "inference.test_steps=20"]
        >>> rows = pcgen.bench_reconstruction(["digits"], seeds=1, settings=short)
        >>> rows[0]["method"], rows[0]["metric"]
        ('pcn', 'mse')
    """
    recipes = {name: resolve_recipe(shipped.recipe_path(name), settings=settings) for name in data}

    from pcgen.benchmarks.reconstruction import reconstruction_rows
    from pcgen.pages import bench_page

    rows = []
    files = [] if out is None else [Path(out) / "index.html"]
    with session(device, data_dir=data_dir, writes=files, on_progress=on_progress) as place:
        for name, recipe in recipes.items():
            tell = stages(on_progress, name)
            images = place.open_recipe_data(recipe.data)
            test = place.open_recipe_data(recipe.data, split="test")
            rows += reconstruction_rows(name, recipe, images, test, seeds, place.device, tell)
            if out is not None:
                bench_page.write("reconstruction", rows, Path(out))
    return rows
