"""`pcgen.bench_self_test`: whether self-tests foretell what detectors find."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from pcgen.commands.ood_calibrate import ood_calibrate
from pcgen.commands.ood_score import ood_score
from pcgen.commands.outputs import require_safe
from pcgen.commands.progress import Event, OnProgress, silent
from pcgen.commands.train import train
from pcgen.errors import DataError

if TYPE_CHECKING:
    from pcgen.benchmarks.ood.self_tests import Outcome, Split
    from pcgen.data.images import Images

RECIPE = "pictures-ood"
_DATA = ("mnist", "fashion-mnist", "kannada-mnist", "usps", "digits", "cifar10")


def bench_self_test(
    data: Sequence[str] = _DATA,
    *,
    limit: int = 1000,
    out: str | Path | None = None,
    device: str = "auto",
    data_dir: str | Path | None = None,
    on_progress: OnProgress = silent,
) -> list[dict[str, Any]]:
    """Return what detectors find of real unusual pictures beside what their self-tests say.

    Each data set gives two detectors by the recipe pictures-ood, of half its classes each. Unusual
    are its other classes and the pictures of the other data sets.

    Args:
        data: data sets with labels; one that is missing is left out with a note.
        limit: known pictures of a detector, at most; a fourth of the rows is always kept apart.
        out: a folder for `index.html` and `self-test.json`.

    Raises:
        DataError: fewer than two data sets, a set without labels, or too few pictures.
        RunError: a folder that cannot be written.

    Example:
        >>> import pcgen
        >>> pcgen.bench_self_test(["digits"])
        Traceback (most recent call last):
        ...
        pcgen.errors.DataError: a detector needs the pictures of another data set as unusual ones
    """
    from pcgen.benchmarks.ood.self_tests import ALL, rows_of, sample, splits
    from pcgen.data.sources import open_data
    from pcgen.pages import bench_page

    if out is not None:
        require_safe([Path(out) / "index.html"], [])
    known: dict[str, Images] = {}
    for name in dict.fromkeys(data):
        try:
            known[name] = open_data(name, data_dir=data_dir)
        except DataError as error:
            on_progress(Event("data", note=f"Left out: {error.message}"))
    if len(known) < 2:
        raise DataError("a detector needs the pictures of another data set as unusual ones")
    outcomes: list[Outcome] = []
    measured = partial(_measured, device=device)
    for name, images in known.items():
        others = {
            other: sample(other, open_data(other, data_dir=data_dir, like=images.shape))
            for other in known
            if other != name
        }
        for split in splits(name, images, limit):
            on_progress(Event(split.name, len(outcomes), 2 * len(known)))
            outcomes.append(measured(split, others))
    rows = rows_of(outcomes)
    if out is not None:
        bench_page.write("self-test", rows, Path(out), mean=ALL)
    return rows


def _measured(split: Split, others: dict[str, Any], device: str) -> Outcome:
    """Train and calibrate a detector as a user does, and return what it finds."""
    import numpy as np

    from pcgen.benchmarks.ood.self_tests import outcome

    with TemporaryDirectory() as folder:
        run, file = Path(folder) / "run", Path(folder) / "detector.safetensors"
        train(RECIPE, run, data=split.known, device=device)
        test = ood_calibrate(run, split.known, file, device=device).header["self_test"]
        sets = [split.new, split.left_out, *others.values()]
        scored = ood_score(file, sets, fpr=test["fpr"], device=device)
        rows = [(row["score"], row["is_ood"]) for row in scored.rows()]
    scores_B, flagged_B = np.array(rows, np.float64).T
    return outcome(split, others, test, scores_B, flagged_B)
