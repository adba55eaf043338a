"""`pcgen bench`."""

from __future__ import annotations

from pathlib import Path

import click

from .options import data_dir_option, device_option, json_option, quiet_option
from .output import write_json, write_rows
from .progress import Story

TABLES = ("reconstruction",)
PLANNED = ("sampling", "memory", "ood", "speed")
COLUMNS = (
    "dataset",
    "method",
    "metric",
    "value",
    "ci_low",
    "ci_high",
    "published",
    "seconds",
    "source",
)


def _table(ctx: click.Context, param: click.Parameter, name: str) -> str:
    if name in TABLES:
        return name
    there = f"There is: {', '.join(TABLES)}."
    if name in PLANNED:
        raise click.BadParameter(f"{name} comes later. {there}", ctx, param)
    raise click.BadParameter(f"no table {name!r}. {there}", ctx, param)


@click.command("bench")
@click.argument("table", callback=_table)
@click.option(
    "--data",
    default="mnist,fashion-mnist",
    show_default=True,
    metavar="D,...",
    help="Data sets, separated by commas.",
)
@click.option("--seeds", type=click.IntRange(1), default=3, show_default=True, metavar="N")
@device_option
@data_dir_option
@json_option
@quiet_option
def command(
    table: str,
    data: str,
    seeds: int,
    device: str,
    data_dir: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Re-measure TABLE (reconstruction) beside its baselines and published values.

    Models are chosen on the validation split; the test set is used once, at the end.
    """
    from pcgen import api

    names = tuple(name.strip() for name in data.split(",") if name.strip())
    if not names:
        raise click.BadParameter("no data set named", param_hint="--data")
    with Story(quiet) as story:
        rows = api.bench_reconstruction(
            names, seeds=seeds, device=device, data_dir=data_dir, on_progress=story
        )
    if as_json:
        write_json("bench", {"table": rows})
    else:
        write_rows(rows, COLUMNS, title=table)
