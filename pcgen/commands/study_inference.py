"""`pcgen.study_inference`: what solvers reach on the shipped models, and what they say of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pcgen.commands.outputs import keeping
from pcgen.commands.progress import Event, OnProgress, silent
from pcgen.commands.session import open_model, session
from pcgen.errors import RecipeError


def study_inference(
    models: Sequence[str] = (),
    *,
    limit: int = 100,
    data_dir: str | Path | None = None,
    out: str | Path | None = None,
    on_progress: OnProgress = silent,
) -> list[dict[str, Any]]:
    """Return a row for each shipped model and solver: excess energies and converged shares.

    Args:
        models: names of shipped models; all of them without any.
        limit: images of each model's test set.
        out: a folder for `index.html`, a table of each model, and `inference.json`, both renewed
            after every model.

    Raises:
        RecipeError: a name that is not one of the models with a test set.
        DataError: data that cannot be found.
        RunError: a folder that cannot be written.

    Example:
        >>> import pcgen
        >>> rows = pcgen.study_inference(["digits"], limit=2)
        >>> [row["solver"] for row in rows]
        ['errors', 'newton', 'majorise', 'descent']
    """
    import torch

    from pcgen.pages import inference_page
    from pcgen.studies.inference import MODELS, SOLVERS, inference_rows

    known = [name for name, _ in MODELS]
    for name in models:
        if name not in known:
            raise RecipeError(f"{name}: no such model here", f"There are: {', '.join(known)}")
    rows: list[dict[str, Any]] = []
    writes = [] if out is None else [Path(out) / "index.html"]
    kept_in = None if out is None else Path(out) / "inference.json"
    with (
        keeping(rows, kept_in),
        session("cpu", data_dir=data_dir, writes=writes, on_progress=on_progress) as place,
        torch.no_grad(),
    ):
        for name, source in MODELS:
            if models and name not in models:
                continue

            def tell(solver: str, done: int, name: str = name) -> None:
                on_progress(Event(f"{name}: {solver}", done, len(SOLVERS)))

            model = place.ready(open_model(name, place.device), limit)
            images = place.open_data(source, model, limit=limit)
            table = model.recipe.inference.for_use()
            rows += list(inference_rows(name, model.network, table, images, tell))
            if out is not None:
                inference_page.write(rows, Path(out))
    return rows
