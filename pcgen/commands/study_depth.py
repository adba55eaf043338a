"""`pcgen.study_depth`: how many steps of inference deep networks need."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pcgen.commands.arguments import require_known
from pcgen.commands.outputs import keeping
from pcgen.commands.progress import Event, OnProgress, silent
from pcgen.commands.session import session


def study_depth(
    depths: Sequence[int] = (4, 8, 16, 32, 64, 128, 256),
    widths: Sequence[int] = (32, 128),
    *,
    solvers: Sequence[str] | None = None,
    steps: int = 1000,
    images: int = 16,
    out: str | Path | None = None,
    on_progress: OnProgress = silent,
) -> list[dict[str, Any]]:
    """Return the steps to a relative excess energy of 1e-2 and 1e-3, and their growth with depth.

    The rows are described in `pcgen.studies.depth`. It runs on the CPU in float64.

    Args:
        depths: layers above the data.
        widths: units of each layer.
        solvers: of newton, errors, majorise, nesterov and descent; all of them if not given.
        steps: the most that any solver takes.
        images: so many inferences; the median and the worst are shown.
        out: a folder for `index.html`, the charts with the table, and `depth.json`.

    Raises:
        RecipeError: an unknown solver.
        RunError: a folder that cannot be written.

    Example:
        >>> import pcgen
        >>> rows = pcgen.study_depth([4], [8], solvers=["newton"], steps=20, images=2)
        >>> rows[0]["solver"]
        'newton'
    """
    import torch

    from pcgen.pages import depth_page
    from pcgen.studies.depth import SOLVERS, rows

    chosen = SOLVERS if solvers is None else tuple(solvers)
    require_known("solver", chosen, SOLVERS)
    table: list[dict[str, Any]] = []
    total = 8 * len(widths) * len(chosen) * (len(depths) + 1)
    writes = [] if out is None else [Path(out) / "index.html"]
    kept_in = None if out is None else Path(out) / "depth.json"
    with keeping(table, kept_in), session("cpu", writes=writes), torch.no_grad():
        for row in rows(depths, widths, chosen, steps, images):
            table.append(row)
            on_progress(Event("steps", len(table), total))
            if out is not None:  # After every row: a long run that is stopped keeps its rows.
                depth_page.write(table, Path(out))
    return table
