"""`pcgen.bench_classification`: the table of classifiers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pcgen import shipped
from pcgen.commands.arguments import require_known
from pcgen.commands.outputs import keeping
from pcgen.commands.progress import Event, OnProgress, silent, stages
from pcgen.commands.recipes import resolve_recipe
from pcgen.commands.session import session


def bench_classification(
    data: Sequence[str] = ("mnist", "fashion-mnist"),
    *,
    variants: Sequence[str] = (),
    seeds: int = 3,
    seed: int = 0,
    settings: Sequence[str] = (),
    out: str | Path | None = None,
    device: str = "auto",
    data_dir: str | Path | None = None,
    on_progress: OnProgress = silent,
) -> list[dict[str, Any]]:
    """Return the table of test accuracies: variants of predictive coding beside backprop.

    Args:
        data: names of data sets that have a recipe NAME-pc-classifier.
        variants: of PC-CE, PC-SE, PN, NN, CN, iPC, BP-CE and BP-SE; all if not given.
        seeds: number of networks that are trained for each row.
        seed: of the first of them; the others have the next ones.
        settings: `key.path=value` words, over the recipes'; a variant's own settings go before.
        out: a folder for `index.html`, the tables with charts, and `classification.json`, both
            renewed after every trained network.
        on_progress: also gets a note of each trained network's accuracy.

    Raises:
        RecipeError: a data set without such a recipe, or an unknown variant.
        DataError: data that cannot be found.
        RunError: a folder that cannot be written.

    Example:
        >>> import pcgen
        >>> rows = pcgen.bench_classification(
        ...     ["digits"], variants=["PC-SE", "BP-SE"], seeds=1, settings=["learning.epochs=1"]
        ... )
        >>> [row["method"] for row in rows]
        ['BP-SE', 'PC-SE']
    """
    recipes = {
        name: resolve_recipe(shipped.recipe_path(f"{name}-pc-classifier"), settings=settings)
        for name in data
    }
    import torch

    from pcgen.benchmarks.classification import VARIANTS, classification_rows, variant
    from pcgen.pages import bench_page

    require_known("variant", variants, VARIANTS)
    chosen = [*variants] or [*VARIANTS]
    # Before anything is trained: settings that no variant can have.
    for name, recipe in recipes.items():
        for each in chosen:
            variant(recipe, name, each)
    rows: dict[tuple[str, str], dict[str, Any]] = {}
    files = [] if out is None else [Path(out) / "index.html"]
    kept_in = None if out is None else Path(out) / "classification.json"
    with (
        keeping(rows, kept_in),
        session(device, data_dir=data_dir, writes=files, on_progress=on_progress) as place,
        torch.no_grad(),
    ):
        for name, recipe in recipes.items():
            images = place.open_recipe_data(recipe.data)
            test = place.open_recipe_data(recipe.data, split="test")
            for row in classification_rows(
                *(name, recipe, images, test, chosen, range(seed, seed + seeds)),
                place.device,
                stages(on_progress),
            ):
                rows[name, row["method"]] = row
                if out is not None:
                    bench_page.write("classification", [*rows.values()], Path(out))
                last = f"seed {seed + row['seeds'] - 1}: accuracy {row['values'][-1]:.4f}"
                on_progress(Event("accuracy", note=f"{name}, {row['method']}, {last}"))
    return [*rows.values()]
