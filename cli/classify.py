"""`pcgen classify`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .options import ROWS, limit_option, out_option, rows_options
from .output import write_result, write_rows
from .progress import Story

# Rows of the table for people; the file has them all.
_SHOWN = 10
_COLUMNS = ("id", "status", "class", "energy")


@click.command("classify")
@click.argument("model")
@click.argument("data")
@out_option(f"{ROWS} [default: a new labels.csv]")
@click.option(
    "--mask",
    default="",
    metavar="PART",
    help="Hide a part of each image: top, bottom, left, right, or a share such as 80%. The model "
    "must have predictions both ways.",
)
@click.option(
    "--picture",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="With --mask: a .png of the first images, their visible part and what is filled in.",
)
@limit_option
@rows_options
def command(out: Path | None, as_json: bool, as_jsonl: bool, quiet: bool, **options: Any) -> None:
    """Label DATA with MODEL, with the energy of each label.

    \b
    pcgen classify mnist-classifier mnist:test --out labels.csv
    pcgen classify runs/mine photos/ --jsonl
    pcgen classify mnist-both-ways mnist:test --mask 80% --picture filled-in.png

    MODEL is a classifier or a network with predictions both ways: a checkpoint, a run's folder or a
    shipped model's name. Where the data have labels of their own, the share that is right is shown.
    """
    import pcgen
    from pcgen.commands.outputs import default_output

    out = out or (None if as_jsonl else default_output("classify"))
    with Story(quiet) as story:
        result = pcgen.classify(out=out, on_progress=story, **options)
    if not as_json and not as_jsonl:
        write_rows(list(result.rows())[:_SHOWN], _COLUMNS, title="First inputs")
    write_result("classify", "Classified", result, story, as_json=as_json, as_jsonl=as_jsonl)
