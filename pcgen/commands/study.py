"""`pcgen.study`: how training depends on the start of states, rates, widths, precision, depth."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pcgen.commands.arguments import require_choice, require_known
from pcgen.commands.outputs import keeping
from pcgen.commands.progress import Event, OnProgress, silent
from pcgen.commands.session import session
from pcgen.errors import RecipeError


def study(
    name: str,
    *,
    data: Sequence[str] = (),
    images: int | None = None,
    seeds: int = 3,
    rates: Sequence[float] = (),
    optimisers: Sequence[str] = (),
    full: bool = False,
    data_dir: str | Path | None = None,
    out: str | Path | None = None,
    on_progress: OnProgress = silent,
) -> dict[str, Any]:
    """Return a study of training: `table`, a row for each setting, and `seen`, a paragraph.

    A row has the setting, the mean of every measure over the seeds, and the ends of its 95 %
    interval; `pcgen.studies.training.train` describes the measures. Where a study chooses a
    setting on held-out images, the table has all of them and the paragraph is of the chosen ones.

    Args:
        name: init, energy, stability, precision or remedies.
        data: data sets with labels, or two-moons; the study's own if not given.
        images: to train on; as many as a fifth of them are held out.
        rates: of the states, in place of the study's.
        optimisers: adamw or sgd, in place of the study's.
        full: the grid, epochs and images of the literature, which take hours to days.
        out: a folder for `index.html`, the charts with the table, and `NAME.json`, which is renewed
            after every row.

    Raises:
        RecipeError: an unknown study or optimiser, a rate or a number that is not above 0.
        DataError: data that cannot be found, or without labels.
        RunError: a folder that cannot be written.

    Example:
        >>> import pcgen
        >>> result = pcgen.study("precision", data=["two-moons"], images=200, seeds=2)
        >>> result["table"][0]["rule"]
        'pc'
    """
    import torch

    from pcgen.device import keep_memory
    from pcgen.pages import study_page
    from pcgen.pages.page import write_rows
    from pcgen.studies.grids import STUDIES, kept, rows
    from pcgen.studies.training import OPTIMISERS

    require_choice("study", name, list(STUDIES))
    require_known("optimiser", optimisers, OPTIMISERS)
    if any(not 0 < rate < float("inf") for rate in rates):
        raise RecipeError(f"rates {', '.join(map(str, rates))}: not all above 0")
    if seeds < 1 or (images is not None and images < 2):
        raise RecipeError(f"seeds {seeds}, images {images}: at least 1 seed and 2 images")
    chosen = STUDIES[name]
    settings = chosen.settings(full, rates, optimisers)
    count = images or (chosen.full_images if full else chosen.images)
    sources = tuple(data) or chosen.data
    table: list[dict[str, Any]] = []
    kept_in = None if out is None else Path(out) / f"{name}.json"
    writes = [] if kept_in is None else [kept_in.with_name("index.html"), kept_in]
    with (
        keeping(table, kept_in),
        session("cpu", data_dir=data_dir, writes=writes),
        torch.no_grad(),
    ):
        keep_memory()
        for row in rows(chosen, settings, sources, images=count, seeds=seeds, data_dir=data_dir):
            table.append(row)
            if out is not None:  # After every row: a long run that is stopped keeps its rows.
                write_rows(table, Path(out), name)
            on_progress(Event("settings", len(table), len(settings) * len(sources)))
        if out is not None:
            study_page.write(name, chosen, table, Path(out))
    return {"study": name, "seen": chosen.see(kept(chosen, table)), "table": table}
